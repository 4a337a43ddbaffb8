//! `nitro-cli describe-enclaves`, `console` and `terminate-enclave`: enclaves that run already.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use eif::launch::supervisor::{Entry, Error, Question, Registry, Row, Standing};

use super::errors::{Code, Refused};
use super::{Stop, Ui, print};
use crate::cli::failure::Failure;
use crate::cli::lifecycle::{self, Terminated};

/// Returns a list of the running enclaves
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nitro-cli describe-enclaves")]
pub struct Describe {
    /// Adds EIF metadata of the current enclaves to the command output
    #[arg(long)]
    metadata: bool,
}

/// Which enclave is meant.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Enclave ID, as run-enclave prints it
    #[arg(long, value_name = "ID")]
    enclave_id: Option<String>,
    /// Enclave name
    #[arg(long, value_name = "NAME")]
    enclave_name: Option<String>,
}

/// Connect to the console of an enclave
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nitro-cli console --enclave-id i-0123456789abcdef0-enc0123456789abcdef")]
pub struct Console {
    #[command(flatten)]
    which: Which,
    /// The time in seconds after which the console disconnects
    #[arg(long, value_name = "SECONDS")]
    disconnect_timeout: Option<u64>,
}

/// Terminates an enclave
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
#[command(after_help = "Examples:\n  nitro-cli terminate-enclave --enclave-name hello\n  \
                        nitro-cli terminate-enclave --all")]
pub struct Terminate {
    /// Enclave ID, as run-enclave prints it
    #[arg(long, value_name = "ID")]
    enclave_id: Option<String>,
    /// Enclave name
    #[arg(long, value_name = "NAME")]
    enclave_name: Option<String>,
    /// Terminates all running enclaves of the current user
    #[arg(long)]
    all: bool,
}

fn because(code: Code) -> impl Fn(Error) -> Refused {
    move |error| Refused::because(code, &Failure::from(error))
}

fn registry() -> Result<Registry, Refused> {
    lifecycle::registry().map_err(because(Code::ReadFromDisk))
}

fn running(registry: &Registry) -> Result<Vec<Entry>, Refused> {
    let mut entries = registry.list().map_err(because(Code::ReadFromDisk))?;
    entries.retain(|entry| entry.standing == Standing::Running);
    Ok(entries)
}

pub fn describe(args: &Describe, ui: &Ui) -> Result<(), Stop> {
    let entries = running(&registry()?)?;
    print(&entries.iter().map(|entry| entry.row(args.metadata)).collect::<Vec<Row<'_>>>(), ui)
}

/// The one that is meant, if it runs.
fn find(registry: &Registry, id: Option<&str>, name: Option<&str>) -> Result<Entry, Refused> {
    let mut entries = running(registry)?.into_iter();
    match (id, name) {
        (Some(id), _) => {
            if !id.contains("-enc") {
                return Err(Refused::new(Code::SocketPath, format!("{id} is no ID of an enclave: i-…-enc…")));
            }
            let found = entries.find(|entry| entry.state.facts.id == id);
            found.ok_or_else(|| Refused::new(Code::ProcessConnection, format!("no enclave has the ID {id}")))
        }
        (None, name) => {
            let name = name.unwrap_or_default();
            let found = entries.find(|entry| entry.state.facts.name == name);
            found.ok_or_else(|| Refused::new(Code::Naming, format!("no enclave has the name {name}")))
        }
    }
}

pub fn console(args: &Console) -> Result<(), Stop> {
    let which = &args.which;
    let entry = find(&registry()?, which.enclave_id.as_deref(), which.enclave_name.as_deref())?;
    show(&entry, args.disconnect_timeout.map(Duration::from_secs))
}

/// The console of an enclave that was started just now.
pub fn attach(name: &str, limit: Option<Duration>) -> Result<(), Stop> {
    // One that has ended meanwhile still has its console.
    show(&registry()?.find(name).map_err(because(Code::ConsoleConnection))?, limit)
}

fn show(entry: &Entry, limit: Option<Duration>) -> Result<(), Stop> {
    if !entry.state.debug {
        let why = "it was not started with --debug-mode";
        return Err(Refused::new(Code::ConsoleConnection, why).into());
    }
    let cid = entry.state.facts.cid;
    say(format!("Connecting to the console for enclave {cid}...\n").as_bytes())?;
    match entry.ask(Question::Console) {
        Ok(console) => {
            say(b"Successfully connected to the console.\n")?;
            let reader = Limited { console, deadline: limit.map(|limit| Instant::now() + limit) };
            lifecycle::copy(reader).map_err(Stop::Stdout)
        }
        // It is on its way out: what it has said is on disk.
        Err(_) => {
            entry.await_gone().map_err(because(Code::ConsoleConnection))?;
            say(b"Successfully connected to the console.\n")?;
            say(&entry.console().map_err(because(Code::ConsoleRead))?)
        }
    }
}

fn say(bytes: &[u8]) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Stop::Stdout(Failure::stdout(&error)))
}

/// A console that ends at a time.
struct Limited {
    console: std::os::unix::net::UnixStream,
    deadline: Option<Instant>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(0);
        }
        self.console.set_read_timeout(left)?;
        match self.console.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }
}

pub fn terminate(args: &Terminate, ui: &Ui) -> Result<(), Stop> {
    let registry = registry()?;
    if !args.all {
        let entry = find(&registry, args.enclave_id.as_deref(), args.enclave_name.as_deref())?;
        return print(&end(&registry, &entry, ui)?, ui);
    }
    let entries = registry.list().map_err(because(Code::ReadFromDisk))?;
    let (ended, failed) = lifecycle::end_all(entries.iter(), |entry| match entry.standing {
        Standing::Running => end(&registry, entry, ui).map(Some),
        // nitro-cli has no word for it.
        Standing::Crashed => registry.forget(entry).map(|()| None).map_err(because(Code::ProcessCommand)),
        Standing::Ended => Ok(None),
    });
    print(&ended.into_iter().flatten().collect::<Vec<_>>(), ui)?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn end(registry: &Registry, entry: &Entry, ui: &Ui) -> Result<Terminated, Refused> {
    let ended = lifecycle::end(registry, entry).map_err(because(Code::ProcessCommand))?;
    ui.note(&format!("Successfully terminated enclave {}.", ended.enclave_id));
    Ok(ended)
}
