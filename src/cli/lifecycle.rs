//! `eif ps`, `console`, `logs`, `wait` and `stop`: enclaves that run already, by their names.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use eif::launch::supervisor::{Backend, Entry, Error, Question, Registry, Row, Standing};
use serde::Serialize;

use super::environment;
use super::failure::Failure;
use super::run;
use super::supervise;
use super::ui::Ui;

/// List the enclaves that run, and those whose supervisor died.
#[derive(clap::Args)]
#[command(
    long_about = "List the enclaves of this user that run, and those whose supervisor died (CRASHED: the enclave died \
                  with it; `eif stop` clears the row away). With --json: rows as nitro-cli's describe-enclaves prints them.",
    after_help = "Examples:\n  eif ps\n  eif ps --json | jq -r '.[].EnclaveCID'"
)]
pub struct Ps {
    /// Also those that have ended and are remembered
    #[arg(long)]
    all: bool,
}

/// Show the console of an enclave in debug mode, until the enclave ends.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  eif console hello\n\nCtrl-C leaves the enclave running.")]
pub struct Console {
    /// The enclave
    name: String,
}

/// Print what an enclave in debug mode has written to its console: the last mebibyte, also after the end.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  eif logs hello")]
pub struct Logs {
    /// The enclave
    name: String,
}

/// Wait for the end of an enclave, and exit with its application's status.
#[derive(clap::Args)]
#[command(
    long_about = "Wait for the end of an enclave, and exit with its application's status: 128+N for signal N, 137 for an \
                  enclave that was stopped. One that has ended already is remembered.",
    after_help = "Example:\n  eif wait hello"
)]
pub struct Wait {
    /// The enclave
    name: String,
}

/// End an enclave, and wait until nothing of it is left.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif stop hello\n  eif stop --all")]
pub struct Stop {
    /// The enclave
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// All enclaves of this user
    #[arg(long)]
    all: bool,
}

/// The registry of this user.
pub fn registry() -> Result<Registry, Error> {
    Registry::open(&environment::run_folder())
}

fn failed(error: &io::Error) -> Failure {
    Failure::refused("E-io", error.to_string())
}

fn json(value: &impl Serialize, ui: &Ui) -> Result<ExitCode, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| failed(&error.into()))?;
    ui.data(&text).map(|()| ExitCode::SUCCESS)
}

pub fn ps(args: &Ps, ui: &Ui) -> Result<ExitCode, Failure> {
    let mut entries = registry()?.list()?;
    entries.retain(|entry| args.all || entry.standing != Standing::Ended);
    if ui.json {
        return json(&entries.iter().map(|entry| entry.row(false)).collect::<Vec<Row<'_>>>(), ui);
    }
    let heads = ["NAME", "STATE", "CID", "CPUS", "MIB", "WHERE", "ID"].map(String::from);
    let rows = entries.iter().map(|entry| {
        let facts = &entry.state.facts;
        let place = run::Backend::from(entry.state.backend).name();
        let place = if entry.state.debug && entry.state.backend == Backend::Nitro { "nitro, debug" } else { place };
        let numbers = [u64::from(facts.cid), u64::from(facts.cpus), facts.memory_mib].map(|number| number.to_string());
        let [cid, cpus, memory] = numbers;
        [facts.name.clone(), entry.word().into(), cid, cpus, memory, place.into(), facts.id.clone()]
    });
    let table: Vec<_> = std::iter::once(heads).chain(rows).collect();
    let widths: Vec<usize> = (0..7).map(|i| table.iter().map(|row| row[i].len()).max().unwrap_or(0)).collect();
    let lines = table.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    ui.data(&lines.collect::<Vec<_>>().join("\n")).map(|()| ExitCode::SUCCESS)
}

/// Copies an answer to stdout, to its end. A reader who goes is no error.
pub fn copy(mut from: impl Read) -> Result<(), Failure> {
    let mut buffer = [0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(&buffer[..read]).and_then(|()| stdout.flush());
                written.map_err(|error| Failure::stdout(&error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(failed(&error)),
        }
    }
}

fn without_console(entry: &Entry) -> Failure {
    let name = &entry.state.facts.name;
    Failure::refused("E-enclave-console", format!("enclave {name:?} was not started in debug mode: it has no console"))
        .with_help("`eif run --debug` starts one that has; its PCRs are zeros")
}

fn not_running(entry: &Entry) -> Failure {
    let name = &entry.state.facts.name;
    Failure::refused("E-enclave-ended", format!("enclave {name:?} has ended"))
        .with_help(format!("`eif logs {name}` has its console, `eif wait {name}` its status"))
}

pub fn console(args: &Console) -> Result<ExitCode, Failure> {
    let entry = registry()?.find(&args.name)?;
    match entry.standing {
        _ if !entry.state.debug => return Err(without_console(&entry)),
        Standing::Ended => return Err(not_running(&entry)),
        Standing::Crashed => return Err(Error::Crashed(args.name.clone()).into()),
        Standing::Running => copy(entry.ask(Question::Console)?)?,
    }
    entry.await_gone()?;
    match entry.end()? {
        Some(_) => Ok(ExitCode::SUCCESS),
        None => Err(Error::Crashed(args.name.clone()).into()),
    }
}

pub fn logs(args: &Logs) -> Result<ExitCode, Failure> {
    let entry = registry()?.find(&args.name)?;
    if !entry.state.debug {
        return Err(without_console(&entry));
    }
    match entry.standing {
        Standing::Running => match entry.ask(Question::Logs) {
            Ok(answer) => copy(answer)?,
            // It has ended meanwhile.
            Err(_) => {
                entry.await_gone()?;
                copy(&entry.console()?[..])?;
            }
        },
        Standing::Ended | Standing::Crashed => copy(&entry.console()?[..])?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn wait(args: &Wait) -> Result<ExitCode, Failure> {
    let entry = registry()?.find(&args.name)?;
    entry.await_gone()?;
    match entry.end()? {
        Some(end) => supervise::code(&end),
        None => Err(Error::Crashed(args.name.clone()).into()),
    }
}

/// What nitro-cli prints of an enclave that it has ended.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Terminated {
    enclave_name: String,
    #[serde(rename = "EnclaveID")]
    pub enclave_id: String,
    terminated: bool,
}

pub fn stop(args: &Stop, ui: &Ui) -> Result<ExitCode, Failure> {
    let registry = registry()?;
    let Some(name) = &args.name else {
        let entries = registry.list()?;
        let running = entries.iter().filter(|entry| entry.standing != Standing::Ended);
        let (ended, failed) = end_all(running, |entry| end(&registry, entry));
        let printed = json(&ended, ui)?;
        return failed.map_or(Ok(printed), |error| Err(error.into()));
    };
    let entry = registry.find(name)?;
    if entry.standing == Standing::Ended {
        return Err(not_running(&entry));
    }
    json(&end(&registry, &entry)?, ui)
}

/// Ends all of them, whatever becomes of the others; with the first error.
pub fn end_all<'a, T, E>(
    entries: impl Iterator<Item = &'a Entry>,
    end: impl Fn(&'a Entry) -> Result<T, E>,
) -> (Vec<T>, Option<E>) {
    let (mut ended, mut failed) = (Vec::new(), None);
    for entry in entries {
        match end(entry) {
            Ok(one) => ended.push(one),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    (ended, failed)
}

/// Ends one, or clears away what a dead supervisor left.
pub fn end(registry: &Registry, entry: &Entry) -> Result<Terminated, Error> {
    match entry.standing {
        Standing::Running => entry.stop()?,
        Standing::Ended | Standing::Crashed => entry.await_gone()?,
    }
    let facts = match entry.now() {
        // One that had not started when it was asked for has its id now.
        Ok(Some(now)) if now.end.is_some() => now.facts,
        Ok(_) => {
            registry.forget(entry)?;
            entry.state.facts.clone()
        }
        Err(Error::Replaced(_)) => entry.state.facts.clone(),
        Err(error) => return Err(error),
    };
    Ok(Terminated { enclave_name: facts.name, enclave_id: facts.id, terminated: true })
}
