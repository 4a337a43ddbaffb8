//! `nitro-cli explain`: what an error code means.

use super::errors::explain;
use super::{Stop, Ui};

/// Displays detailed info about an error returned by a misbehaving Nitro CLI command
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nitro-cli explain --error-code E26")]
pub struct Args {
    /// The error code, E00 to E59
    #[arg(long, value_name = "CODE")]
    error_code: String,
}

/// An unknown code is no failure, as with nitro-cli.
pub fn run(args: &Args, ui: &Ui) -> Result<(), Stop> {
    let code = &args.error_code;
    ui.error(&explain(code).unwrap_or_else(|| format!("No such error code {}", eif::shown(code))));
    Ok(())
}
