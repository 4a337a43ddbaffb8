//! `eif run`: takes an `.eif` apart, boots it in QEMU, shows its console and ends as its application ended.

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
    after_help = "Example:\n  eif run hello.eif --backend qemu --debug --attach"
)]
pub struct Args {
    /// The .eif
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to run it [default: qemu, where there is no /dev/nitro_enclaves]
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Memory in MiB [default: what the ramdisks need, and 128]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 24))]
    memory: Option<u64>,
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// The enclave's CID
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(4..=u32::MAX as i64 - 1))]
    cid: u32,
    /// Stay until the enclave ends (always so in QEMU)
    #[arg(long)]
    attach: bool,
    /// Debug mode: the console can be read (always so in QEMU)
    #[arg(long)]
    debug: bool,
    /// Unix sockets PATH and PATH_PORT: the enclave connects to port PORT of its parent and gets the listener at
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
    choose(args.backend, Path::new(NITRO_DEVICE).exists(), ui)?;
    machine::run(args, ui)
}

/// QEMU is the only backend of this version, and nobody gets it who may expect the other one.
fn choose(asked: Option<Backend>, device: bool, ui: &Ui) -> Result<(), Failure> {
    let lacking = |message: String| {
        Err(Failure::refused("E-backend", message)
            .with_help("`--backend qemu` boots the file in an emulated machine")
            .with_help("`nitro-cli run-enclave` starts it as an enclave"))
    };
    match asked {
        Some(Backend::Qemu) => Ok(()),
        Some(Backend::Nitro) => lacking("this version launches in QEMU only".into()),
        None if device => lacking(format!("{NITRO_DEVICE} is there, but this version launches in QEMU only")),
        None => {
            ui.note(&format!(
                "backend   QEMU: there is no {NITRO_DEVICE}; nothing is attested and nothing kept secret"
            ));
            Ok(())
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
    use eif::launch::parts::Parts;
    use eif::launch::qemu::Machine;
    use eif::launch::{Ending, Outcome};

    use super::super::failure::Failure;
    use super::super::ui::Ui;
    use super::Args;

    pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let unreadable = |error| Failure::refused("E-io", format!("{}: {error}", args.file.display()));
        let file = File::open(&args.file).map_err(unreadable)?;
        let parts = Parts::of(&Eif::open(file)?)?;
        let memory_mib = args.memory.unwrap_or(parts.need.default_mib(RootFs::of(&parts.cmdline)));
        ui.note(&format!("machine   {} in QEMU, {memory_mib} MiB, {} CPU(s), CID {}", parts.arch, args.cpus, args.cid));
        let machine = Machine {
            arch: parts.arch,
            kernel: parts.kernel,
            initrd: parts.initrd,
            cmdline: parts.cmdline,
            memory_mib,
            cpus: args.cpus,
            cid: args.cid,
            heartbeat: !args.no_heartbeat,
            vsock_prefix: args.vsock,
        };
        let broken = Arc::new(OnceLock::new());
        let console = Arc::clone(&broken);
        let outcome = machine.start(Box::new(move |bytes: &[u8]| show(bytes, &console)))?.wait(None)?;
        match broken.get() {
            Some(error) => Err(Failure::stdout(error)),
            None => verdict(&outcome),
        }
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
    use super::Args;

    pub fn run(_args: Args, _ui: &mut Ui) -> Result<ExitCode, Failure> {
        Err(Failure::refused("E-backend", "launching needs Linux: QEMU's vsock device is a vhost-user backend"))
    }
}
