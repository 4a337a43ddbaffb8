//! The command line: arguments to a library call to output. One file a subcommand.

mod attest;
mod build;
mod cache;
mod diff;
mod doctor;
mod environment;
mod extract;
mod failure;
mod inspect;
mod kernel;
#[cfg(feature = "kms")]
mod kms;
#[cfg(target_os = "linux")]
mod lifecycle;
mod nitro_cli;
mod parent;
mod pcr;
mod policy;
mod pull;
mod push;
mod reference;
mod run;
mod sign;
mod source;
#[cfg(target_os = "linux")]
mod supervise;
mod ui;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::Failure;
use ui::Ui;

/// Turn container images into AWS Nitro Enclave images that anyone can rebuild bit for bit.
#[derive(Parser)]
#[command(
    name = "eif",
    version,
    max_term_width = 100,
    after_help = "Example:\n  eif build ghcr.io/acme/app:v1 -o app.eif\n  eif verify app.eif --image ghcr.io/acme/app:v1"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every subcommand takes.
#[derive(Args)]
struct Global {
    /// Print no warning, note or progress on stderr
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Say more on stderr (repeatable)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Colours on stderr
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Machine-readable: a refusal is also printed as a JSON object, on stderr's last line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Build(Box<build::Args>),
    Verify(Box<verify::Args>),
    #[command(visible_alias = "describe")]
    Inspect(inspect::Args),
    Extract(extract::Args),
    Diff(Box<diff::Args>),
    /// Print the PCRs of an .eif, or the one PCR that a file, certificate, role or instance gives
    Pcr(Box<pcr::Args>),
    Sign(sign::Args),
    /// Print the KMS policy that asks for given images, or find what makes one useless
    Policy(Box<policy::Args>),
    /// Read and verify attestation documents
    Attest(attest::Args),
    Push(push::Args),
    Pull(pull::Args),
    /// Start an enclave
    Run(run::Args),
    #[cfg(target_os = "linux")]
    Ps(lifecycle::Ps),
    #[cfg(target_os = "linux")]
    Console(lifecycle::Console),
    #[cfg(target_os = "linux")]
    Logs(lifecycle::Logs),
    #[cfg(target_os = "linux")]
    Wait(lifecycle::Wait),
    #[cfg(target_os = "linux")]
    Stop(lifecycle::Stop),
    /// Hold an enclave: `run` starts this
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Supervise(Box<supervise::Args>),
    /// Build, look at and list kernels
    Kernel(kernel::Args),
    Cache(cache::Args),
    Doctor(doctor::Args),
    /// Do what AWS's nitro-cli does, with its arguments, output and exit codes; as the program called by that name
    #[command(
        subcommand,
        after_help = "Example:\n  eif nitro-cli build-enclave --docker-uri app:v1 --output-file app.eif"
    )]
    NitroCli(nitro_cli::Command),
    Completions(reference::Completions),
    Man(reference::Man),
}

/// Runs the program and gives its exit code: 0 done, 1 refused or failed, 2 usage.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.first().is_some_and(|program| nitro_cli::is_its_name(program)) {
        return nitro_cli::main(&arguments);
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let matches = match Cli::command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return failure::usage(&error, json),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error, json),
    };
    let mut ui = Ui::new(&cli.global);
    match dispatch(cli.command, &mut ui) {
        Ok(code) => code,
        Err(failure) => failure.report(&ui),
    }
}

fn dispatch(command: Command, ui: &mut Ui) -> Result<ExitCode, Failure> {
    match command {
        Command::Build(args) => build::run(*args, ui),
        Command::Inspect(args) => inspect::run(args, ui),
        Command::Diff(args) => diff::run(*args, ui),
        Command::Extract(args) => extract::run(args, ui),
        Command::Kernel(args) => kernel::run(args, ui),
        Command::Pcr(args) => pcr::run(*args, ui),
        Command::Sign(args) => sign::run(args, ui),
        Command::Policy(args) => policy::run(*args, ui),
        Command::Attest(args) => attest::run(args, ui),
        Command::Push(args) => push::run(args, ui),
        Command::Pull(args) => pull::run(args, ui),
        Command::Run(args) => run::run(args, ui),
        #[cfg(target_os = "linux")]
        Command::Ps(args) => lifecycle::ps(&args, ui),
        #[cfg(target_os = "linux")]
        Command::Console(args) => lifecycle::console(&args),
        #[cfg(target_os = "linux")]
        Command::Logs(args) => lifecycle::logs(&args),
        #[cfg(target_os = "linux")]
        Command::Wait(args) => lifecycle::wait(&args),
        #[cfg(target_os = "linux")]
        Command::Stop(args) => lifecycle::stop(&args, ui),
        #[cfg(target_os = "linux")]
        Command::Supervise(args) => supervise::run(*args),
        Command::Cache(args) => cache::run(args, ui),
        Command::Verify(args) => verify::run(*args, ui),
        Command::Doctor(args) => doctor::run(args, ui),
        Command::NitroCli(command) => Ok(nitro_cli::run(command, ui)),
        Command::Completions(args) => reference::completions(&args, ui),
        Command::Man(args) => reference::man(&args, ui),
    }
}
