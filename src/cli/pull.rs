//! `eif pull`: an .eif from a registry, checked against all that is said of it there.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use eif::artifact::{self, Attached};

use super::build::{distinct, written};
use super::failure::Failure;
use super::push;
use super::source::SourceOptions;
use super::ui::Ui;

/// Pull an .eif from a registry; it must measure to what the manifest says
#[derive(clap::Args)]
#[command(after_help = "Examples:
  eif pull docker://ghcr.io/acme/app-eif:v1 -o app.eif
  eif pull docker://ghcr.io/acme/app-eif@sha256:… -o app.eif --lock eif.lock")]
pub struct Args {
    /// What is pulled: [docker://]NAME[:TAG|@DIGEST]
    #[arg(value_name = "REF")]
    reference: OsString,
    /// The file to write
    #[arg(long, short, value_name = "FILE", value_parser = written())]
    output: PathBuf,
    /// Write the lock that is attached
    #[arg(long, value_name = "FILE", value_parser = written())]
    lock: Option<PathBuf>,
    /// Write the in-toto statement that is attached
    #[arg(long, value_name = "FILE", value_parser = written())]
    provenance: Option<PathBuf>,
    #[command(flatten)]
    source: SourceOptions,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    distinct([Some(&*args.output), args.lock.as_deref(), args.provenance.as_deref()])?;
    let name = push::name(&args.reference)?;
    let access = args.source.access(&std::env::temp_dir(), args.source.limits().unpacked)?;
    let attached = Attached { lock: args.lock, provenance: args.provenance };
    let threads = args.source.threads();
    let artifact = artifact::pull(&name, &args.output, &attached, &access, threads, &ui.progress())?;
    push::tell("pulled", &artifact, ui)
}
