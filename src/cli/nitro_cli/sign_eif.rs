//! `nitro-cli sign-eif`: a signature for a file that is there already.

use std::ffi::OsString;
use std::path::PathBuf;

use super::errors::{Code, Refused};
use super::{Stop, Ui};
use crate::cli::sign;

/// Signs the EIF found at a given path
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nitro-cli sign-eif --eif-path app.eif --signing-certificate cert.pem \
                        --private-key key.pem")]
pub struct Args {
    /// Path to the EIF to sign
    #[arg(long, value_name = "FILE")]
    eif_path: PathBuf,
    /// The private key: a PEM file, or the ARN of a KMS key
    #[arg(long, value_name = "KEY.pem|ARN")]
    private_key: OsString,
    /// The certificate (PEM) of its public key
    #[arg(long, value_name = "CERT.pem")]
    signing_certificate: PathBuf,
}

pub fn run(args: &Args, ui: &Ui) -> Result<(), Stop> {
    let signer = sign::pair(&args.signing_certificate, &args.private_key);
    let signer = signer.map_err(|error| Refused::because(Code::EifBuilding, &error))?;
    let measured = sign::in_place(&args.eif_path, &signer);
    let measured = measured.map_err(|error| Refused::because(Code::EifParsing, &error))?;
    ui.note("Enclave Image successfully signed.");
    ui.data(&measured.to_json()).map_err(Stop::Stdout)
}
