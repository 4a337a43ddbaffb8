//! The parent's side of the enclave's vsock, for guests that QEMU runs: a vhost-user device of our own.
//!
//! An enclave talks to its parent at CID 3; no packaged vsock device routes that, and none refuses a connection to a
//! port where nobody listens (the guest would wait two seconds for a timeout). This one does both:
//!
//! - port 9000 is the heartbeat, port 9001 the last word of our init: [`Record`];
//! - any other port P of the parent is the unix socket `<prefix>_P`, if somebody listens there, else the guest gets a
//!   reset at once;
//! - a client of the unix socket `<prefix>` that writes `CONNECT P\n` is connected to port P of the guest and reads
//!   `OK <port of the parent>\n` first (firecracker's protocol).
//!
//! `packet` is the header, `connection` one stream, `switch` the table of them, `device` the virtqueues, `service` the
//! two ports. One thread serves QEMU's requests, one the queues; both sleep in the kernel and end with QEMU, or on drop.

mod connection;
mod device;
mod packet;
mod service;
mod switch;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;
use vhost::vhost_user::Listener;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

pub(super) use self::service::{Answer, Service};
pub use self::service::{HEARTBEAT, HEARTBEAT_PORT, Record, Report, STATUS_PORT};
pub use self::switch::{Config, MAX_CONNECTIONS, PARENT_CID, Role};

use self::device::Device;
use self::switch::Switch;

/// A unix socket's path may have this many bytes on Linux (`sun_path` less the final NUL).
const MAX_SOCKET_PATH: usize = 107;
/// `_4294967295` behind a prefix.
const MAX_PORT_SUFFIX: usize = 11;

/// A vsock device that waits for one QEMU at [`Vsock::socket`], and serves it until it goes.
///
/// Dropping it ends both threads; QEMU stays, with a device that no longer answers.
pub struct Vsock {
    socket: PathBuf,
    record: Arc<Record>,
    shared: Arc<Mutex<Shared>>,
    /// Closing it wakes the thread while it waits for QEMU.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// What drop and the thread tell each other.
#[derive(Default)]
struct Shared {
    stopped: bool,
    serving: Option<ShutdownHandle>,
}

impl Vsock {
    /// Binds the device's socket in a temporary folder, or in `place` if its path is short enough for a socket, and
    /// `config.prefix`, and starts the thread.
    ///
    /// # Errors
    /// A socket cannot be bound (its name is in the error), or the process has no descriptors or threads left.
    pub fn start(config: Config, place: Option<&Path>) -> io::Result<Self> {
        check_prefix(&config)?;
        let folder = private_folder(place)?;
        let socket = folder.path().join("vsock");
        let listener = UnixListener::bind(&socket).map_err(|error| named(&socket, error))?;
        let record = Arc::new(Record::default());
        let daemon = daemon(config, Arc::clone(&record))?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (wake, asleep) = UnixStream::pair()?;
        let theirs = Arc::clone(&shared);
        let body = move || serve(daemon, listener, folder, &asleep, &theirs);
        let thread = thread::Builder::new().name("vsock".into()).spawn(body)?;
        Ok(Self { socket, record, shared, wake: Some(wake), thread: Some(thread) })
    }

    /// Where QEMU has to connect to. It is gone as soon as one has.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the guest has told so far; it outlives the device.
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record)
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        drop(self.wake.take());
        let mut shared = lock(&self.shared);
        shared.stopped = true;
        if let Some(handle) = shared.serving.take() {
            handle.shutdown();
        }
        drop(shared);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to end.
            let _panicked = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|broken| broken.into_inner())
}

type Daemon = VhostUserDaemon<Arc<Mutex<Device>>>;

fn daemon(config: Config, record: Arc<Record>) -> io::Result<Daemon> {
    let cid = config.guest_cid;
    let prefix = config.prefix.clone().unwrap_or_default();
    let switch = Switch::new(config, record).map_err(|error| named(&prefix, error))?;
    let device = Device::new(switch, cid)?;
    let watched = device.watched();
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let daemon = VhostUserDaemon::new("vsock-vhost".into(), Arc::new(Mutex::new(device)), memory)
        .map_err(|error| io::Error::other(error.to_string()))?;
    for handler in daemon.get_epoll_handlers() {
        for (fd, event) in watched {
            handler.register_listener(fd, EventSet::IN, event)?;
        }
    }
    Ok(daemon)
}

/// The thread: waits for QEMU or for [`Vsock`]'s end, serves, and takes the queue's thread down with it.
fn serve(mut daemon: Daemon, listener: UnixListener, folder: TempDir, asleep: &UnixStream, shared: &Mutex<Shared>) {
    if !knocks(&listener, asleep) || daemon.start(&mut Listener::from(listener)).is_err() {
        return;
    }
    drop(folder);
    let mut state = lock(shared);
    state.serving = daemon.shutdown_handle();
    if state.stopped {
        daemon.request_shutdown();
    }
    drop(state);
    // Every way for QEMU to go is an error here: there is no farewell in the protocol.
    let _gone = daemon.wait();
}

/// Sleeps until QEMU connects (true), or `asleep` is closed.
fn knocks(listener: &UnixListener, asleep: &UnixStream) -> bool {
    loop {
        let mut fds = [PollFd::new(asleep, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) => return fds[0].revents().is_empty(),
        }
    }
}

/// A folder that only this user can enter, with a path short enough for a socket in it.
fn private_folder(place: Option<&Path>) -> io::Result<TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("eif-");
        builder
    };
    let short = |folder: &TempDir| folder.path().as_os_str().len() + "/vsock".len() <= MAX_SOCKET_PATH;
    let folder = match place {
        Some(place) => builder().tempdir_in(place)?,
        None => builder().tempdir()?,
    };
    if short(&folder) { Ok(folder) } else { builder().tempdir_in("/tmp") }
}

fn check_prefix(config: &Config) -> io::Result<()> {
    let Some(prefix) = &config.prefix else { return Ok(()) };
    let most = MAX_SOCKET_PATH - MAX_PORT_SUFFIX;
    if prefix.as_os_str().len() <= most {
        return Ok(());
    }
    let text = format!("{}: a unix socket's path may have {most} bytes here", prefix.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
