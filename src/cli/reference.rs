//! `eif completions` and `eif man`: what shells and manual readers know of the program, out of the program itself.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, ValueEnum};
use clap_complete::aot::{Bash, Fish, Generator, Zsh};

use super::Cli;
use super::failure::Failure;
use super::ui::Ui;

/// Print what makes a shell complete eif's arguments
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  eif completions bash > /etc/bash_completion.d/eif\n  eif completions fish | source"
)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Write the manual pages: eif.1, eif-build.1, …
#[derive(clap::Args)]
#[command(after_help = "Example:\n  eif man /usr/local/share/man/man1")]
pub struct Man {
    /// The folder, which must be there; pages in it are replaced
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub fn completions(args: &Completions, ui: &Ui) -> Result<ExitCode, Failure> {
    let script = match args.shell {
        Shell::Bash => script(Bash),
        Shell::Zsh => script(Zsh),
        Shell::Fish => script(Fish),
    };
    ui.data(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: impl Generator) -> String {
    let mut script = Vec::new();
    clap_complete::aot::generate(shell, &mut Cli::command(), "eif", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

pub fn man(args: &Man, ui: &Ui) -> Result<ExitCode, Failure> {
    let failed = |error: std::io::Error| Failure::refused("E-output", format!("{}: {error}", args.directory.display()));
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(failed)?;
    ui.detail(&format!("wrote     {}", args.directory.display()));
    Ok(ExitCode::SUCCESS)
}
