//! An enclave in Debian's stock QEMU: kernel, ramdisks and command line of an EIF, on a machine that has what an enclave
//! has (a console, a vsock to the parent) and nothing else.
//!
//! The console shows when the guest boots, the vsock reports how it ends. No file and no process is left behind, also
//! when this process is killed: kernel and ramdisks reach QEMU through this process's descriptors, the device's socket
//! is removed as soon as QEMU has connected, and QEMU runs under `setpriv --pdeathsig KILL`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::console::Console;
use super::outcome::{Ending, Outcome, Watcher};
use super::parts::Parts;
use super::vsock::{Config, Record, Role, Vsock};
use crate::{Arch, Refusal};

/// Appended to the EIF's command line. microvm has no reset line but the triple fault, and a panic has to end it. The
/// kernel counts timer interrupts against a loop of the processor's and panics when few come ("IO-APIC + timer doesn't
/// work"), which on a busy host says nothing about an emulated timer: under KVM it skips that check by itself.
const APPENDED_X86_64: &str = " reboot=t panic=-1 no_timer_check";
/// Appended on aarch64, where QEMU's machine has another UART than an enclave and the reset is the firmware's.
const APPENDED_AARCH64: &str = " console=ttyAMA0 panic=-1";
/// Time that a guest has between "it is over" on the console and QEMU's end.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of QEMU's own complaints that are kept.
const MAX_COMPLAINT: usize = 4096;

/// Why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU is not in PATH.
    #[error("`{program}` is not installed")]
    QemuMissing {
        /// Its name.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
    },
    /// `setpriv`, which ties QEMU's life to ours, is not in PATH.
    #[error("`setpriv` is not installed")]
    SetprivMissing,
    /// The EIF's command line has a `--`.
    #[error("the command line has `--`, behind which QEMU cannot tell the kernel of its devices")]
    CmdlineEnds,
    /// QEMU said no, or crashed.
    #[error("QEMU failed ({status}): {complaint}")]
    Qemu {
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr, on one line.
        complaint: String,
    },
    /// The machine is out of something, or the sockets' folder cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::QemuMissing { .. } => "E-qemu-missing",
            Self::SetprivMissing => "E-setpriv-missing",
            Self::CmdlineEnds => "E-qemu-cmdline",
            Self::Qemu { .. } => "E-qemu",
            Self::Io { .. } => "E-io",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::QemuMissing { package, .. } => vec![format!("install Debian's package {package}")],
            Self::SetprivMissing => vec!["install util-linux".into()],
            Self::CmdlineEnds => vec!["only an enclave of AWS's own can run this file".into()],
            Self::Qemu { .. } | Self::Io { .. } => Vec::new(),
        }
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// What to run.
#[derive(Debug)]
pub struct Machine {
    /// Architecture of the kernel; another one than the host's is emulated as well.
    pub arch: Arch,
    /// What it boots.
    pub boot: Boot,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// CID of the guest: 4 or more.
    pub cid: u32,
    /// Answer the heartbeat at port 9000. Without, the guest finds nobody there.
    pub heartbeat: bool,
    /// Unix sockets of the host that the guest reaches, and the one that reaches the guest: see [`super::vsock`].
    pub vsock_prefix: Option<PathBuf>,
    /// A folder for the device's socket, until QEMU has it; `None` is a temporary one.
    pub folder: Option<PathBuf>,
}

/// What a machine boots. The files are never written.
#[derive(Debug)]
pub enum Boot {
    /// Kernel, ramdisks and command line, on a machine like an enclave's.
    Parts(Parts),
    /// An `.eif`, read by QEMU's own machine `nitro-enclave`: see [`has_nitro_enclave`].
    Image {
        /// The file.
        file: File,
        /// Its command line.
        cmdline: Vec<u8>,
    },
}

impl Boot {
    fn cmdline(&self) -> &[u8] {
        match self {
            Self::Parts(parts) => &parts.cmdline,
            Self::Image { cmdline, .. } => cmdline,
        }
    }
}

/// A running guest. Dropping it ends QEMU.
pub struct Guest {
    stopper: Stopper,
    pid: u32,
    events: Receiver<Event>,
    console: Arc<Mutex<Console>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    vsock: Vsock,
    ended: Arc<AtomicBool>,
    /// QEMU opens its files through our descriptors, when it comes to it.
    _files: Boot,
}

/// What has become of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// It came.
    Came,
    /// The guest has ended without it.
    Ended,
    /// The time is over.
    Late,
}

enum Event {
    /// The console says that it is over.
    Halted,
    /// QEMU has ended, and the console's last byte has been read.
    Ended(io::Result<ExitStatus>),
}

impl Machine {
    /// Starts QEMU; `watcher` gets the console.
    ///
    /// # Errors
    /// [`Error::QemuMissing`], [`Error::SetprivMissing`], [`Error::Io`]. What QEMU itself dislikes comes from
    /// [`Guest::wait`].
    pub fn start(self, watcher: Watcher) -> Result<Guest, Error> {
        self.check_cmdline()?;
        let program = program(self.arch)?;
        let config = Config {
            guest_cid: self.cid.into(),
            heartbeat: self.heartbeat,
            prefix: self.vsock_prefix.clone(),
            role: Role::Enclave,
        };
        let vsock = Vsock::start(config, self.folder.as_deref()).map_err(io_error("starting the vsock device"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(self.arguments(&vsock));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if vsock.socket().is_absolute() {
            // It may run for months: no file system is kept from being unmounted.
            command.current_dir("/");
        }
        spawn(command, vsock, self.boot, watcher)
    }

    /// QEMU's arguments.
    fn arguments(&self, vsock: &Vsock) -> Vec<OsString> {
        let memory = format!("{}M", self.memory_mib);
        // A comma ends a value, two are one.
        let socket = vsock.socket().display().to_string().replace(',', ",,");
        let mut words = match &self.boot {
            Boot::Parts(parts) => {
                let device = "vhost-user-vsock-device,chardev=vsock".into();
                let backend = format!("memory-backend-memfd,id=mem,size={memory},share=on");
                let files = [("-kernel", descriptor(&parts.kernel)), ("-initrd", descriptor(&parts.initrd))];
                let fixed = [("-M", self.board().into()), ("-object", backend), ("-device", device)];
                fixed.into_iter().chain(files).collect()
            }
            Boot::Image { file, .. } => vec![("-M", "nitro-enclave,vsock=vsock".into()), ("-kernel", descriptor(file))],
        };
        words.extend([
            ("-cpu", self.processor().to_owned()),
            ("-global", "virtio-mmio.force-legacy=false".into()),
            ("-m", memory),
            ("-smp", self.cpus.to_string()),
            ("-chardev", format!("socket,id=vsock,path={socket}")),
            ("-accel", self.accelerator().to_owned()),
        ]);
        let fixed = "-no-user-config -nodefaults -display none -serial stdio -no-reboot";
        let words = words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let mut arguments: Vec<_> = words.chain(fixed.split(' ').map(String::from)).map(OsString::from).collect();
        arguments.extend(["-append".into(), self.appended()]);
        arguments
    }

    /// The machine type. `acpi=off` makes microvm tell the kernel of its devices on the command line, which is how an
    /// enclave's kernel finds them.
    fn board(&self) -> &'static str {
        match self.arch {
            Arch::X86_64 => "microvm,acpi=off,pcie=off,rtc=on,memory-backend=mem",
            Arch::Aarch64 => "virt,memory-backend=mem",
        }
    }

    /// All that QEMU can emulate. Pointer authentication with the algorithm of the architecture takes most of the time of
    /// an emulated boot, and no program can tell QEMU's own from it.
    fn processor(&self) -> &'static str {
        match self.arch {
            Arch::X86_64 => "max",
            Arch::Aarch64 => "max,pauth-impdef=on",
        }
    }

    /// All CPUs on one thread: before QEMU 8.1 (its commit deba78709ae8) one of them may go on executing what another has
    /// just overwritten, and Linux patches its own code: seen as an Oops "int3". The machine that is an enclave came later.
    fn accelerator(&self) -> &'static str {
        match self.boot {
            Boot::Parts(_) => "tcg,thread=single",
            Boot::Image { .. } => "tcg",
        }
    }

    /// The command line with what QEMU needs.
    fn appended(&self) -> OsString {
        let words = match self.arch {
            Arch::X86_64 => APPENDED_X86_64,
            Arch::Aarch64 => APPENDED_AARCH64,
        };
        let mut cmdline = match &self.boot {
            Boot::Parts(parts) => parts.cmdline.clone(),
            // QEMU takes it from the file.
            Boot::Image { .. } => Vec::new(),
        };
        cmdline.extend(words.bytes());
        OsString::from_vec(cmdline)
    }

    /// Behind `--` the kernel reads nothing, so neither our words nor the devices that QEMU appends.
    fn check_cmdline(&self) -> Result<(), Error> {
        let ends = self.boot.cmdline().split(u8::is_ascii_whitespace).any(|word| word == b"--");
        if ends { Err(Error::CmdlineEnds) } else { Ok(()) }
    }
}

/// A path by which a child of ours can open the file, though it may have no name any more.
fn descriptor(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// The emulator of an architecture, and Debian's package of it.
fn names(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

/// The emulator of an architecture. It and all that it is started with are in PATH.
///
/// # Errors
/// [`Error::QemuMissing`], [`Error::SetprivMissing`], [`Error::Io`].
pub fn program(arch: Arch) -> Result<&'static str, Error> {
    let (program, package) = names(arch);
    if !answers("setpriv")? {
        return Err(Error::SetprivMissing);
    }
    if !answers(program)? {
        return Err(Error::QemuMissing { program, package });
    }
    Ok(program)
}

/// Whether the QEMU in PATH has a machine that is an enclave: it reads an `.eif` by itself and has a security module. No
/// package of Debian's has it. A QEMU that is missing has none; [`Machine::start`] says that it is missing.
///
/// # Errors
/// [`Error::Io`].
pub fn has_nitro_enclave(arch: Arch) -> Result<bool, Error> {
    if arch != Arch::X86_64 {
        return Ok(false);
    }
    let help = Command::new(names(arch).0).args(["-M", "help"]).stdin(Stdio::null()).output();
    let output = match help {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        output => output.map_err(io_error("asking QEMU for its machines"))?,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().any(|line| line.split_whitespace().next() == Some("nitro-enclave")))
}

/// Whether the program is in PATH and starts.
fn answers(program: &str) -> Result<bool, Error> {
    let run = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    match run {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("looking for QEMU")(error)),
        Ok(output) => Ok(output.status.success()),
    }
}

struct Spawned {
    pid: u32,
    stopper: Stopper,
    stderr: JoinHandle<Vec<u8>>,
}

/// Starts the thread that owns QEMU. The kernel sends the death signal when the thread that started QEMU ends, so that
/// thread must live as long as QEMU does.
fn spawn(mut command: Command, vsock: Vsock, files: Boot, watcher: Watcher) -> Result<Guest, Error> {
    let console = Arc::new(Mutex::new(Console::default()));
    let (events, inbox) = mpsc::channel();
    let (started, start) = mpsc::channel();
    let shared = Arc::clone(&console);
    let ended = Arc::new(AtomicBool::new(false));
    let (theirs, record) = (Arc::clone(&ended), vsock.record());
    let body = move || {
        let spawned = unblocked(|| command.spawn()).and_then(|mut child| match watch(&mut child) {
            Ok(spawned) => Ok((child, spawned)),
            Err(error) => {
                let _ended = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        });
        match spawned {
            Err(error) => drop(started.send(Err(error))),
            Ok((child, spawned)) => {
                let stopper = spawned.stopper.clone();
                // The receiver waits for this one message.
                let _sent = started.send(Ok(spawned));
                Owner { child, stopper, console: shared, events }.run(watcher, &theirs, &record);
            }
        }
    };
    thread::Builder::new().name("qemu".into()).spawn(body).map_err(io_error("starting QEMU"))?;
    let spawned = start.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let Spawned { pid, stopper, stderr } = spawned.map_err(io_error("starting QEMU"))?;
    Ok(Guest { stopper, pid, events: inbox, console, stderr: Some(stderr), vsock, ended, _files: files })
}

/// Starts a process that signals reach: it inherits which ones this thread holds back.
fn unblocked<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let held = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = start();
    held.thread_set_mask()?;
    started
}

fn watch(child: &mut Child) -> io::Result<Spawned> {
    let pid = Pid::from_child(child);
    let stopper = Stopper::new(pidfd_open(pid, PidfdFlags::empty())?);
    let stderr = child.stderr.take();
    let stderr = thread::Builder::new().name("qemu-stderr".into()).spawn(move || complaint(stderr))?;
    Ok(Spawned { pid: child.id(), stopper, stderr })
}

/// The end of what QEMU says on stderr.
fn complaint(stderr: Option<impl Read>) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    let Some(mut stderr) = stderr else { return kept };
    while let Ok(read @ 1..) = stderr.read(&mut buffer) {
        kept.extend(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(MAX_COMPLAINT));
    }
    kept
}

/// The thread that started QEMU.
struct Owner {
    child: Child,
    stopper: Stopper,
    console: Arc<Mutex<Console>>,
    events: Sender<Event>,
}

impl Owner {
    /// Reads the console to its end, then waits for QEMU. Events that nobody waits for any more are dropped.
    fn run(mut self, mut watcher: Watcher, ended: &AtomicBool, record: &Record) {
        let mut stdout = self.child.stdout.take();
        let mut buffer = [0; 16 * 1024];
        let mut halted = false;
        while let Some(Ok(read @ 1..)) = stdout.as_mut().map(|pipe| pipe.read(&mut buffer)) {
            if watcher(&buffer[..read]).is_break() {
                self.stopper.stop();
            }
            let before = halted;
            halted = self.push(&buffer[..read]);
            if halted && !before {
                drop(self.events.send(Event::Halted));
            }
        }
        drop(self.events.send(Event::Ended(self.child.wait())));
        ended.store(true, Ordering::Release);
        record.nudge();
    }

    /// Whether the console says that it is over.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut console = lock(&self.console);
        console.push(bytes);
        console.halted()
    }
}

fn lock(console: &Mutex<Console>) -> MutexGuard<'_, Console> {
    console.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Guest {
    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the guest has told over vsock so far.
    pub fn record(&self) -> Arc<Record> {
        self.vsock.record()
    }

    /// A handle that ends QEMU from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// The last 64 KiB of the console, so far.
    pub fn console(&self) -> Vec<u8> {
        lock(&self.console).tail()
    }

    /// Waits for the heartbeat, at most `limit`.
    pub fn await_heartbeat(&self, limit: Option<Duration>) -> Heartbeat {
        let record = self.vsock.record();
        let ended = || self.ended.load(Ordering::Acquire);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let in_time = record.wait_until(deadline, || record.heartbeat() || ended());
        match record.heartbeat() {
            true => Heartbeat::Came,
            false if in_time => Heartbeat::Ended,
            false => Heartbeat::Late,
        }
    }

    /// Waits for the guest's end, at most `limit`; then QEMU is killed.
    ///
    /// # Errors
    /// [`Error::Qemu`] when QEMU ended for a reason of its own; [`Error::Io`] when it cannot be waited for.
    pub fn wait(mut self, limit: Option<Duration>) -> Result<Outcome, Error> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let (ended, timed_out) = self.await_end(deadline);
        let status = ended.map_err(io_error("waiting for QEMU"))?;
        let ending = match self.stopper.used() {
            false if status.success() => Ending::Guest,
            false => return Err(Error::Qemu { status, complaint: self.complaint() }),
            true if timed_out => Ending::Limit,
            // Nothing but a guest that had said its last word is stopped without a reason.
            true if lock(&self.console).halted() => Ending::Guest,
            true => Ending::Stopped,
        };
        Ok(Outcome::new(&self.vsock.record(), &lock(&self.console), ending))
    }

    /// QEMU's status, and whether its time was over. A guest that has said its last word gets [`GRACE`] to go.
    fn await_end(&self, mut deadline: Option<Instant>) -> (io::Result<ExitStatus>, bool) {
        let (mut halted, mut timed_out) = (false, false);
        loop {
            match self.next_event(deadline) {
                Ok(Event::Ended(status)) => return (status, timed_out),
                Ok(Event::Halted) => {
                    let grace = Instant::now() + GRACE;
                    halted = deadline.is_none_or(|deadline| grace < deadline);
                    deadline = if halted { Some(grace) } else { deadline };
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.stopper.stop();
                    (timed_out, deadline) = (!halted, None);
                }
                Err(RecvTimeoutError::Disconnected) => return (Err(io::ErrorKind::BrokenPipe.into()), timed_out),
            }
        }
    }

    fn next_event(&self, deadline: Option<Instant>) -> Result<Event, RecvTimeoutError> {
        match deadline {
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self.events.recv_timeout(at.saturating_duration_since(Instant::now())),
        }
    }

    /// The end of QEMU's stderr as one line.
    fn complaint(&mut self) -> String {
        let bytes = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stopper.stop();
        let mut fds = [PollFd::new(&self.stopper.pidfd, PollFlags::IN)];
        // Readable when the process is gone, which SIGKILL makes a matter of moments.
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
    }
}

/// Ends QEMU; harmless when it has ended.
#[derive(Debug, Clone)]
pub struct Stopper {
    pidfd: Arc<OwnedFd>,
    used: Arc<AtomicBool>,
}

impl Stopper {
    fn new(pidfd: OwnedFd) -> Self {
        Self { pidfd: Arc::new(pidfd), used: Arc::default() }
    }

    /// Kills QEMU now.
    pub fn stop(&self) {
        self.used.store(true, Ordering::Release);
        // Fails when QEMU has ended.
        let _ended = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }
}
