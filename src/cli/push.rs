//! `eif push`: an .eif and what speaks of it to a registry.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use eif::artifact::{self, Artifact, Attached};
use eif::eif::Measurements;
use eif::image::{Access, Name, Reference, Store};

use super::environment;
use super::failure::Failure;
use super::source::RegistryOptions;
use super::ui::Ui;

/// Push an .eif to a registry, as an OCI artifact with its PCRs
#[derive(clap::Args)]
#[command(after_help = "Examples:
  eif push app.eif docker://ghcr.io/acme/app-eif:v1
  eif push app.eif docker://ghcr.io/acme/app-eif:v1 --lock eif.lock --provenance app.intoto.json")]
pub struct Args {
    /// The enclave image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where it goes: [docker://]NAME[:TAG]
    #[arg(value_name = "REF")]
    reference: OsString,
    /// Attach this lock of `eif build`
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Attach this statement of `eif build --provenance`
    #[arg(long, value_name = "FILE")]
    provenance: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryOptions,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let name = name(&args.reference)?;
    let scratch = std::env::temp_dir();
    let (credentials, network) = (args.registry.credentials()?, args.registry.network(Vec::new()));
    let access = Access { credentials, network, ..Access::new(Store::temporary(&scratch)?, scratch) };
    let attached = Attached { lock: args.lock, provenance: args.provenance };
    let threads = environment::processors().get();
    let artifact = artifact::push(&args.file, &name, &attached, &access, threads, &ui.progress())?;
    let word = if artifact.new { "pushed" } else { "was there" };
    tell(word, &artifact, ui)
}

/// The name of an artifact; no other transport has any.
pub fn name(reference: &OsStr) -> Result<Name, Failure> {
    match Reference::parse(reference)? {
        Reference::Docker(name) => Ok(name),
        _ => Err(Failure::usage("an .eif is pushed to and pulled from registries alone: docker://NAME[:TAG|@DIGEST]")),
    }
}

/// What push and pull print.
#[derive(serde::Serialize)]
struct Told<'a> {
    reference: &'a str,
    digest: String,
    file: File,
    #[serde(rename = "Measurements")]
    measurements: &'a Measurements,
}

#[derive(serde::Serialize)]
struct File {
    sha256: String,
    size: u64,
}

/// Tells people and scripts what is there now.
pub fn tell(word: &str, artifact: &Artifact, ui: &Ui) -> Result<ExitCode, Failure> {
    artifact.warnings.iter().for_each(|warning| ui.warn(warning));
    ui.note(&format!("{word:9} {}", artifact.reference));
    let file = File { sha256: artifact.file.hex(), size: artifact.size };
    let (digest, measurements) = (artifact.digest.to_string(), &artifact.measurements);
    let told = Told { reference: &artifact.reference, digest, file, measurements };
    ui.data(&super::inspect::pretty(&told)?)?;
    Ok(ExitCode::SUCCESS)
}
