//! `eif cache`: what builds have kept of downloads, and how to be rid of it.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use eif::image::Store;
use eif::image::store::{Pruned, Stored};
use serde_json::json;

use super::build::mib;
use super::environment;
use super::failure::Failure;
use super::inspect::pretty;
use super::source::{DEFAULT_BOUND, size};
use super::ui::Ui;

/// List or remove the downloaded blobs that builds have kept
#[derive(clap::Args)]
#[command(after_help = "Example:\n  eif cache ls\n\nBuilt kernels lie beside the blobs and are not touched: \
                        see `eif kernel ls`.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the blobs, the longest unused first
    #[command(after_help = "Example:\n  eif cache ls --json")]
    Ls,
    /// Remove downloads that were given up, then the longest unused blobs
    ///
    /// What another process reads or writes stays.
    #[command(after_help = "Examples:\n  eif cache prune\n  eif cache prune --max-size 2G\n  eif cache prune --all")]
    Prune(Prune),
}

#[derive(clap::Args)]
struct Prune {
    /// What may stay (K, M, G are powers of 1024)
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_BOUND, value_parser = size)]
    max_size: u64,
    /// Let nothing stay
    #[arg(long, conflicts_with = "max_size")]
    all: bool,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let store = Store::open(&environment::cache()?.join("blobs"), None)?;
    let text = match args.command {
        Command::Ls => list(&store.list()?, ui.json)?,
        Command::Prune(prune) => {
            let bound = if prune.all { 0 } else { prune.max_size };
            removed(store.prune(bound, true)?, ui.json)?
        }
    };
    ui.data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(blobs: &[Stored], json: bool) -> Result<String, Failure> {
    let total: u64 = blobs.iter().map(|blob| blob.size).sum();
    if !json {
        let rows: String = blobs.iter().map(row).collect();
        return Ok(format!("{rows}{} blobs, {}\n", blobs.len(), mib(total)));
    }
    let blobs: Vec<_> = blobs
        .iter()
        .map(|blob| {
            let seconds = seconds(blob.used);
            json!({"digest": blob.digest.to_string(), "size": blob.size, "used": seconds, "finished": blob.finished})
        })
        .collect();
    pretty(&json!({"blobs": blobs, "size": total}))
}

fn row(blob: &Stored) -> String {
    let state = if blob.finished { "" } else { "  unfinished" };
    format!("{}  {:>12}{state}\n", blob.digest, mib(blob.size))
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn removed(pruned: Pruned, json: bool) -> Result<String, Failure> {
    if json {
        return pretty(&json!({"removed": {"blobs": pruned.blobs, "size": pruned.bytes}, "size": pruned.left}));
    }
    Ok(format!("removed {} blobs, {}; {} stay\n", pruned.blobs, mib(pruned.bytes), mib(pruned.left)))
}
