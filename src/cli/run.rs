//! `eif run`: boots an `.eif` on the Nitro device or in QEMU, shows its console and ends as its application ended.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::failure::Failure;
use super::ui::Ui;

/// The device by which an EC2 instance starts enclaves.
const NITRO_DEVICE: &str = "/dev/nitro_enclaves";

#[derive(clap::Args)]
#[command(
    long_about = "Boot an .eif, show its console on stdout, and exit with its application's status (128+N for signal N).",
    after_help = "Examples:\n  eif run hello.eif --backend qemu --debug --attach\n  \
                  eif run hello.eif --backend nitro --cpus 2 --memory 512\n\n\
                  The enclave lives as long as this command: Ctrl-C ends it."
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
    /// Stay until the enclave ends (this version always does)
    #[arg(long)]
    attach: bool,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// A Nitro Enclave
    Nitro,
    /// An emulated machine: nothing is attested and nothing is kept secret
    Qemu,
}

/// Runs the enclave to its end.
pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let backend = choose(args.backend, Path::new(NITRO_DEVICE).exists(), ui);
    let misplaced = match backend {
        Backend::Nitro if args.vsock.is_some() => Some("--vsock is for QEMU: the parent of an enclave has AF_VSOCK"),
        Backend::Qemu if !args.cpu_ids.is_empty() => Some("--cpu-ids are CPUs of a Nitro device's pool"),
        _ => None,
    };
    match misplaced {
        Some(why) => Err(Failure::usage(why)),
        None => machine::run(args, backend, ui),
    }
}

/// The device where there is one; nobody gets QEMU without being told.
fn choose(asked: Option<Backend>, device: bool, ui: &Ui) -> Backend {
    match asked {
        Some(backend) => backend,
        None if device => Backend::Nitro,
        None => {
            let why = format!("there is no {NITRO_DEVICE}; nothing is attested and nothing kept secret");
            ui.note(&format!("backend   QEMU: {why}"));
            Backend::Qemu
        }
    }
}

#[cfg(target_os = "linux")]
mod machine {
    use std::fs::File;
    use std::io::{self, Write};
    use std::ops::ControlFlow;
    use std::process::ExitCode;
    use std::sync::{Arc, OnceLock};

    use eif::eif::Eif;
    use eif::initramfs::RootFs;
    use eif::launch::enclave::{Cpus, Launch, boot_limit};
    use eif::launch::parts::{self, Parts};
    use eif::launch::qemu::Machine;
    use eif::launch::{Ending, Outcome, Watcher};

    use super::super::environment;
    use super::super::failure::Failure;
    use super::super::ui::Ui;
    use super::{Args, Backend};

    pub fn run(args: Args, backend: Backend, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let unreadable = |error| Failure::refused("E-io", format!("{}: {error}", args.file.display()));
        let file = File::open(&args.file).map_err(unreadable)?;
        let eif = Eif::open(file.try_clone().map_err(unreadable)?)?;
        let memory_mib = match args.memory {
            Some(mib) => mib,
            None => parts::need(&eif)?.default_mib(RootFs::of(&eif.cmdline()?)),
        };
        let broken = Arc::new(OnceLock::new());
        let console = Arc::clone(&broken);
        let watcher: Watcher = Box::new(move |bytes: &[u8]| show(bytes, &console));
        let outcome = match backend {
            Backend::Qemu => in_qemu(args, Parts::of(&eif)?, memory_mib, watcher, ui)?,
            Backend::Nitro => on_the_device(&args, (file, eif.size()), memory_mib, watcher, ui)?,
        };
        match broken.get() {
            Some(error) => Err(Failure::stdout(error)),
            None => verdict(&outcome),
        }
    }

    /// All in this process: the driver wants memory and CPUs from the one that made the enclave, whose end is the
    /// enclave's.
    fn on_the_device(
        args: &Args,
        (file, size): (File, u64),
        memory_mib: u64,
        watcher: Watcher,
        ui: &Ui,
    ) -> Result<Outcome, Failure> {
        let cpus = match &args.cpu_ids[..] {
            [] => Cpus::Count(args.cpus.unwrap_or(2)),
            ids => Cpus::Ids(ids.to_vec()),
        };
        let ports = environment::run_folder();
        let launch = Launch { file, size, memory_mib, cpus, cid: args.cid, debug: args.debug, ports };
        let enclave = launch.start(watcher)?;
        let facts = enclave.facts().clone();
        let ids: Vec<String> = facts.cpu_ids.iter().map(u32::to_string).collect();
        let mode = if args.debug { ", in debug mode: its PCRs are zeros" } else { "" };
        let what = format!("{} MiB, CPUs {}, CID {}", facts.memory_mib, ids.join(" "), facts.cid);
        ui.note(&format!("enclave   {what}{mode}"));
        enclave.await_heartbeat(boot_limit(size, facts.memory_mib))?;
        Ok(enclave.wait(None)?)
    }

    fn in_qemu(args: Args, parts: Parts, memory_mib: u64, watcher: Watcher, ui: &Ui) -> Result<Outcome, Failure> {
        let (cpus, cid) = (args.cpus.unwrap_or(1), args.cid.unwrap_or(16));
        ui.note(&format!("machine   {} in QEMU, {memory_mib} MiB, {cpus} CPU(s), CID {cid}", parts.arch));
        let machine = Machine {
            arch: parts.arch,
            kernel: parts.kernel,
            initrd: parts.initrd,
            cmdline: parts.cmdline,
            memory_mib,
            cpus,
            cid,
            heartbeat: !args.no_heartbeat,
            vsock_prefix: args.vsock,
        };
        Ok(machine.start(watcher)?.wait(None)?)
    }

    /// The console, as it comes. When nobody can read it any more, nobody needs the enclave.
    fn show(bytes: &[u8], broken: &OnceLock<io::Error>) -> ControlFlow<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                let _ = broken.set(error);
                ControlFlow::Break(())
            }
        }
    }

    fn verdict(outcome: &Outcome) -> Result<ExitCode, Failure> {
        if let Some(status) = outcome.status {
            return Ok(ExitCode::from(status.code()));
        }
        if outcome.ending == Ending::Stopped {
            return Ok(ExitCode::SUCCESS);
        }
        let failure = match &outcome.failure {
            Some(line) => Failure::refused("E-boot", format!("the application did not run to its end: {line}")),
            None => Failure::refused("E-boot", "the enclave ended without a word of its application"),
        };
        Err(if outcome.heartbeat {
            failure
        } else {
            failure.with_help("no heartbeat came: the boot did not get as far")
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod machine {
    use std::process::ExitCode;

    use super::super::failure::Failure;
    use super::super::ui::Ui;
    use super::{Args, Backend};

    pub fn run(_args: Args, _backend: Backend, _ui: &mut Ui) -> Result<ExitCode, Failure> {
        Err(Failure::refused("E-backend", "launching needs Linux: QEMU's vsock device is a vhost-user backend"))
    }
}
