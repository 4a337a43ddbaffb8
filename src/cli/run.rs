//! `eif run`: starts an enclave of an `.eif`, on the Nitro device or in QEMU; stays with it to its end, or leaves it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::failure::Failure;
use super::ui::Ui;

/// The device by which an EC2 instance starts enclaves.
pub const NITRO_DEVICE: &str = "/dev/nitro_enclaves";

#[derive(clap::Args)]
#[command(
    long_about = "Start an enclave.\n\nWith --attach: show its console on stdout, and exit with its application's status \
                  (128+N for signal N); the enclave lives as long as this command, Ctrl-C ends it. With --detach: print \
                  what it has got, as JSON, as soon as it has booted, and leave it running; `eif ps`, `console`, `logs`, \
                  `wait` and `stop` know it by its name.",
    after_help = "Examples:\n  eif run hello.eif --backend qemu --debug --attach\n  \
                  eif run hello.eif --backend nitro --cpus 2 --memory 512 --name hello"
)]
pub struct Args {
    /// The .eif
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to run it [default: nitro, where there is /dev/nitro_enclaves; else qemu]
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Memory in MiB [default: what the ramdisks need, and 128]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 24))]
    memory: Option<u64>,
    /// Number of CPUs: on the Nitro device whole cores of the pool [default: 1 in QEMU, 2 on the device]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// These CPUs of the pool, all of each core (Nitro device)
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "cpus")]
    cpu_ids: Vec<u32>,
    /// The enclave's CID [default: 16 in QEMU; on the device the hypervisor chooses]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=u32::MAX as i64 - 1))]
    cid: Option<u32>,
    /// Name to find it by [default: the file's, without .eif]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Stay until the enclave ends [default with --debug on a terminal]
    #[arg(long)]
    attach: bool,
    /// Leave it running when it has booted [default otherwise]
    #[arg(long, conflicts_with = "attach")]
    detach: bool,
    /// Debug mode: the console can be read, and the enclave's PCRs are zeros (always so in QEMU)
    #[arg(long)]
    debug: bool,
    /// In QEMU: unix sockets PATH and PATH_PORT: the enclave connects to port PORT of its parent and gets the listener at
    /// PATH_PORT; a client of PATH that writes `CONNECT PORT` gets that port of the enclave
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,
    /// Answer no heartbeat: what does the enclave do without a launcher?
    #[arg(long, hide = true)]
    no_heartbeat: bool,
    /// Seconds that the heartbeat may take, instead of nitro-cli's measure
    #[arg(long, hide = true)]
    boot_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// A Nitro Enclave
    Nitro,
    /// An emulated machine: nothing is attested and nothing is kept secret
    Qemu,
}

impl Backend {
    /// As `--backend` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nitro => "nitro",
            Self::Qemu => "qemu",
        }
    }
}

/// Runs the enclave to its end, or until it has booted.
pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let backend = choose(args.backend, ui);
    let misplaced = match backend {
        Backend::Nitro if args.vsock.is_some() => Some("--vsock is for QEMU: the parent of an enclave has AF_VSOCK"),
        Backend::Qemu if !args.cpu_ids.is_empty() => Some("--cpu-ids are CPUs of a Nitro device's pool"),
        _ => None,
    };
    match misplaced {
        Some(why) => Err(Failure::usage(why)),
        None => enclave::run(args, backend, ui),
    }
}

/// The device where there is one; nobody gets QEMU without being told.
pub fn choose(asked: Option<Backend>, ui: &Ui) -> Backend {
    match asked {
        Some(backend) => backend,
        None if Path::new(NITRO_DEVICE).exists() => Backend::Nitro,
        None => {
            let why = format!("there is no {NITRO_DEVICE}; nothing is attested and nothing kept secret");
            ui.note(&format!("backend   QEMU: {why}"));
            Backend::Qemu
        }
    }
}

#[cfg(target_os = "linux")]
mod enclave {
    use std::io::{self, IsTerminal};
    use std::path::absolute;
    use std::process::ExitCode;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::thread;

    use eif::launch::supervisor::{Backend as Ground, Name, Reply, State, replies};

    use super::super::failure::Failure;
    use super::super::lifecycle;
    use super::super::supervise::{self, Started};
    use super::super::ui::Ui;
    use super::{Args, Backend};

    impl From<Ground> for Backend {
        fn from(ground: Ground) -> Self {
            match ground {
                Ground::Nitro => Self::Nitro,
                Ground::Qemu => Self::Qemu,
            }
        }
    }

    pub fn run(args: Args, backend: Backend, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let attached = args.attach || (args.debug && !args.detach && io::stdout().is_terminal());
        let name = match &args.name {
            Some(name) => Name::new(name)?,
            None => Name::of_file(&args.file),
        };
        // The supervisor has this process's folder only until it has started.
        let vsock = args.vsock.map(absolute).transpose();
        let vsock = vsock.map_err(|error| Failure::refused("E-io", format!("--vsock: {error}")))?;
        let order = supervise::Args {
            file: args.file,
            name: name.as_str().to_owned(),
            numbered: false,
            backend,
            memory: args.memory,
            cpus: args.cpus,
            cpu_ids: args.cpu_ids,
            cid: args.cid,
            debug: args.debug,
            vsock,
            no_heartbeat: args.no_heartbeat,
            boot_limit: args.boot_limit,
            attached,
        };
        let started = supervise::start(&order)?;
        if attached { stay(started, ui) } else { leave(started, ui) }
    }

    /// Shows the console to the enclave's end.
    fn stay(started: Started, ui: &Ui) -> Result<ExitCode, Failure> {
        let Started { mut child, words, replies: from, console } = started;
        let words = Arc::new(Mutex::new(Some(words)));
        let theirs = Arc::clone(&words);
        let console = thread::spawn(move || {
            let shown = console.map_or(Ok(()), lifecycle::copy);
            if shown.is_err() {
                // When nobody can read the console any more, nobody needs the enclave: it ends with the pipe.
                drop(theirs.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
            shown
        });
        let (mut end, mut said) = (None, String::new());
        for reply in replies(from) {
            match reply {
                Ok(Reply::Started(state)) => ui.note(&supervise::line(&state)),
                Ok(Reply::Booted) => {}
                Ok(Reply::Ended(how)) => end = Some(supervise::code(&how)),
                Ok(Reply::Refused(told, _)) => end = Some(Err(supervise::refusal(&told))),
                Err(line) => said.push_str(&line),
            }
        }
        let shown = console.join().unwrap_or(Ok(()));
        // Gone already: its pipes have ended.
        let _status = child.wait();
        shown?;
        end.unwrap_or_else(|| Err(supervise::died(&said)))
    }

    fn leave(started: Started, ui: &Ui) -> Result<ExitCode, Failure> {
        let booted = supervise::await_boot(started, |state| ui.note(&supervise::line(state)), ui)?;
        print(&booted, ui)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(state: &State, ui: &Ui) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&state.facts);
        ui.data(&text.map_err(|error| Failure::refused("E-io", error.to_string()))?)
    }
}

#[cfg(not(target_os = "linux"))]
mod enclave {
    use std::process::ExitCode;

    use super::super::failure::Failure;
    use super::super::ui::Ui;
    use super::{Args, Backend};

    pub fn run(_args: Args, _backend: Backend, _ui: &mut Ui) -> Result<ExitCode, Failure> {
        Err(Failure::refused("E-backend", "launching needs Linux: QEMU's vsock device is a vhost-user backend"))
    }
}
