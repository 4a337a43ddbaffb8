//! `nitro-cli`: the command line of AWS's tool over this library, for scripts that were written for it. Arguments,
//! stdout, the fixed lines on stderr and exit codes are nitro-cli 1.5.0's; its log directory is not needed.
//!
//! The program is this when it is called by that name, and as `eif nitro-cli`.

mod build_enclave;
mod describe_eif;
#[cfg(target_os = "linux")]
mod enclaves;
mod errors;
mod explain;
mod pcr;
#[cfg(target_os = "linux")]
mod run_enclave;
mod sign_eif;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{ColorChoice, Parser, Subcommand};

use super::Global;
use super::failure::Failure;
use super::ui::Ui;
use errors::Refused;

/// CLI for enclave lifetime management.
#[derive(Parser)]
#[command(name = "Nitro CLI", bin_name = "nitro-cli", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    BuildEnclave(build_enclave::Args),
    #[cfg(target_os = "linux")]
    RunEnclave(run_enclave::Args),
    #[cfg(target_os = "linux")]
    DescribeEnclaves(enclaves::Describe),
    #[cfg(target_os = "linux")]
    Console(enclaves::Console),
    #[cfg(target_os = "linux")]
    TerminateEnclave(enclaves::Terminate),
    DescribeEif(describe_eif::Args),
    Pcr(pcr::Args),
    SignEif(sign_eif::Args),
    Explain(explain::Args),
}

/// Why a command ends early.
enum Stop {
    /// A failure with one of nitro-cli's codes.
    Refused(Refused),
    /// stdout takes nothing.
    Stdout(Failure),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Whether the program was called by AWS's name.
pub fn is_its_name(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new("nitro-cli"))
}

/// The whole program under that name. Mistakes on the command line are told as clap does, which nitro-cli leaves them to.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::from(2), ExitCode::from);
        }
    };
    let mut ui = Ui::new(&Global { quiet: false, verbose: 0, color: ColorChoice::Auto, json: false });
    run(cli.command, &mut ui)
}

/// Runs a command and tells how it ended.
pub fn run(command: Command, ui: &mut Ui) -> ExitCode {
    let (action, ended) = match command {
        Command::BuildEnclave(args) => ("Build Enclave", build_enclave::run(args, ui)),
        #[cfg(target_os = "linux")]
        Command::RunEnclave(args) => ("Run Enclave", run_enclave::run(args, ui)),
        #[cfg(target_os = "linux")]
        Command::DescribeEnclaves(args) => ("Describe Enclaves", enclaves::describe(&args, ui)),
        #[cfg(target_os = "linux")]
        Command::Console(args) => ("Enclave Console", enclaves::console(&args)),
        #[cfg(target_os = "linux")]
        Command::TerminateEnclave(args) => ("Terminate Enclave", enclaves::terminate(&args, ui)),
        Command::DescribeEif(args) => ("Describe EIF", describe_eif::run(&args, ui)),
        Command::Pcr(args) => ("File PCR", pcr::run(&args, ui)),
        Command::SignEif(args) => ("Sign EIF", sign_eif::run(&args, ui)),
        Command::Explain(args) => ("Explain Error", explain::run(&args, ui)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Refused(refused)) => refused.report(action, ui),
        Err(Stop::Stdout(failure)) => failure.report(ui),
    }
}

/// JSON on stdout, as everywhere.
fn print(value: &impl serde::Serialize, ui: &Ui) -> Result<(), Stop> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Refused::new(errors::Code::Serde, error.to_string()))?;
    ui.data(&text).map_err(Stop::Stdout)
}
