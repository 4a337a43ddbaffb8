//! `nitro-cli pcr`: the register that a file or a signing certificate gives.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use eif::eif::{Pcr, signature};

use super::errors::{Code, Refused};
use super::{Stop, Ui, print};

/// A certificate is never larger, in bytes.
const PEM_LIMIT: usize = 1 << 20;

/// Return the PCR hash value of the given input
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
#[command(after_help = "Examples:\n  nitro-cli pcr --input file\n  nitro-cli pcr --signing-certificate cert.pem")]
pub struct Args {
    /// The '.pem' signing certificate: returns PCR8
    #[arg(long, value_name = "CERT.pem")]
    signing_certificate: Option<PathBuf>,
    /// Any file: returns the PCR of its bytes
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub fn run(args: &Args, ui: &Ui) -> Result<(), Stop> {
    let (name, pcr) = match (&args.signing_certificate, &args.input) {
        (Some(path), _) => ("PCR8", of_certificate(path)?),
        (None, Some(path)) => ("PCR", of_file(path)?),
        (None, None) => {
            return Err(Refused::new(Code::MissingArgument, "")
                .about(["input` or `signing-certificate".to_owned()])
                .into());
        }
    };
    print(&BTreeMap::from([(name, pcr)]), ui)
}

fn of_file(path: &Path) -> Result<Pcr, Refused> {
    let mut file = File::open(path).map_err(|error| Refused::file(path, "Open", error))?;
    Pcr::of_reader(&mut file).map_err(|error| Refused::file(path, "Read", error))
}

fn of_certificate(path: &Path) -> Result<Pcr, Refused> {
    let pem = crate::cli::environment::small_file(path, PEM_LIMIT);
    let pem = pem.map_err(|error| Refused::because(Code::FileOperation, &error).about(opened(path)))?;
    let der = signature::der(&pem).map_err(|error| Refused::new(Code::Hasher, error.to_string()))?;
    Ok(Pcr::of_certificate(&der))
}

/// What is said of a file that cannot be opened.
fn opened(path: &Path) -> [String; 2] {
    [path.display().to_string(), "Open".to_owned()]
}
