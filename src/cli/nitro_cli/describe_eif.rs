//! `nitro-cli describe-eif`: what a file is.

use std::fs::File;
use std::path::{Path, PathBuf};

use eif::Refusal as _;
use eif::eif::Eif;
use eif::verify::{Description, describe};

use super::errors::{Code, Refused};
use super::{Stop, Ui, print};
use crate::cli::environment;

/// Returns information about the EIF found at a given path
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nitro-cli describe-eif --eif-path app.eif")]
pub struct Args {
    /// Path to the EIF to describe
    #[arg(long, value_name = "FILE")]
    eif_path: PathBuf,
}

pub fn run(args: &Args, ui: &Ui) -> Result<(), Stop> {
    print(&description(&args.eif_path)?, ui)
}

/// Reads the file to its end.
pub fn description(path: &Path) -> Result<Description, Refused> {
    let file =
        File::open(path).map_err(|error| Refused::new(Code::EifParsing, format!("{}: {error}", path.display())))?;
    let described = Eif::examine(file).and_then(|eif| describe(&eif, environment::processors().get()));
    described.map_err(|error| Refused::new(Code::EifParsing, format!("{}: {error} ({})", path.display(), error.code())))
}
