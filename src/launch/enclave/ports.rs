//! The parent's ports 9000 (heartbeat) and 9001 (the init's last word), shared by all launches of a user.
//!
//! A port has one listener in the whole instance, and each enclave has a launcher of its own. So the launchers share the
//! listener itself: who comes later is sent a copy of the descriptor by one who has it, and the port stays open until
//! the last one is gone, whoever dies in between. Whoever accepts a connection looks at the peer's CID, and hands it to
//! the launcher of that enclave if it is not its own.
//!
//! The launchers meet in a private folder. Each has a socket there: `start-<pid>-<n>` until its enclave has a CID, then
//! `cid-<cid>`. A message to it is one byte `L`, answered with the listeners that it has, or `C` with the port and a
//! connection. The file `lock` is held while a launcher joins, so that two do not miss each other.
//!
//! The heartbeat's listener is given up as soon as the heartbeat has come: nitro-cli wants the port for each boot.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use super::error::Error;
use super::mail::{self, Message};
use super::parent::Parent;
use crate::launch::bell::Bell;
use crate::launch::private;
use crate::launch::vsock::{Answer, HEARTBEAT_PORT, Record, STATUS_PORT, Service};

/// Where a launcher without a port waits for it, between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a connection waits for the launcher of its enclave to be known.
const UNCLAIMED: Duration = Duration::from_secs(10);
/// How often that is looked for.
const RETRY: Duration = Duration::from_millis(50);
/// How long a launcher that leaves takes in what has arrived: an enclave may go on sending.
const LEAVING: Duration = Duration::from_millis(250);
/// Connections of the own enclave that are kept; the oldest one goes.
const MAX_STREAMS: usize = 16;
/// Connections of other enclaves that wait; a new one more is closed.
const MAX_UNCLAIMED: usize = 64;

/// What the launcher of an enclave has heard of it.
#[derive(Debug, Default)]
pub struct Heard {
    /// The enclave's CID; 0 until it is known.
    cid: AtomicU32,
    record: Arc<Record>,
    /// A first byte that is no heartbeat, plus 256.
    wrong: AtomicU32,
    leaving: AtomicBool,
}

impl Heard {
    /// The byte that came instead of the heartbeat.
    pub fn wrong_byte(&self) -> Option<u8> {
        let wrong = self.wrong.load(Ordering::Acquire);
        (wrong != 0).then(|| wrong.to_le_bytes()[0])
    }
}

/// A launcher's share in the ports. Dropping it gives that up.
pub struct Ports {
    heard: Arc<Heard>,
    news: Bell,
    wake: Bell,
    home: Mutex<PathBuf>,
    folder: PathBuf,
    reports: bool,
    thread: Option<JoinHandle<()>>,
}

/// Both listeners, as far as a launcher has them.
#[derive(Debug, Default)]
struct Doors {
    heartbeat: Option<OwnedFd>,
    status: Option<OwnedFd>,
}

impl Ports {
    /// Listens, or has somebody's listener; waits at most `limit` for a foreign launcher to give up port 9000, and no
    /// longer than this is wanted.
    ///
    /// # Errors
    /// Port 9000 stays in use; the folder is not private; no sockets or threads are left. [`Error::Stopped`].
    pub fn join(
        folder: &Path,
        parent: Arc<dyn Parent>,
        limit: Duration,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        private::folder(folder).map_err(Error::io(format!("using {}", folder.display())))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(ports) = Self::attempt(folder, &parent)? {
                return Ok(ports);
            }
            if unwanted() {
                return Err(Error::Stopped);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(taken());
            }
            thread::sleep(LOOK.min(left));
        }
    }

    /// `None` when the lock or port 9000 is somebody else's now.
    fn attempt(folder: &Path, parent: &Arc<dyn Parent>) -> Result<Option<Self>, Error> {
        let path = folder.join("lock");
        let failed = |path: &Path| Error::io(format!("locking {}", path.display()));
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        let mut doors = ask_around(folder)?;
        if doors.heartbeat.is_none() {
            doors.heartbeat = listen(&**parent, HEARTBEAT_PORT)?;
        }
        if doors.status.is_none() {
            doors.status = listen(&**parent, STATUS_PORT)?;
        }
        // The lock is held until others find this launcher's socket.
        if doors.heartbeat.is_some() { Self::open(folder, parent, doors).map(Some) } else { Ok(None) }
    }

    fn open(folder: &Path, parent: &Arc<dyn Parent>, doors: Doors) -> Result<Self, Error> {
        static JOINED: AtomicU64 = AtomicU64::new(0);
        let number = JOINED.fetch_add(1, Ordering::Relaxed);
        let home = folder.join(format!("start-{}-{number}", std::process::id()));
        let doorbell = mail::bind(&home).map_err(Error::io(format!("binding {}", home.display())))?;
        let bell = || Bell::new().map_err(Error::io("making an eventfd"));
        let (news, wake) = (bell()?, bell()?);
        let heard = Arc::new(Heard::default());
        let reports = doors.status.is_some();
        let (parent, folder) = (Arc::clone(parent), folder.to_owned());
        let mut member = Member {
            parent,
            folder: folder.clone(),
            heard: Arc::clone(&heard),
            news: news.clone(),
            wake: wake.clone(),
            doorbell,
            doors,
            streams: Vec::new(),
            unclaimed: Vec::new(),
        };
        let thread = thread::Builder::new().name("ports".into()).spawn(move || member.run());
        let thread = Some(thread.map_err(Error::io("starting a thread"))?);
        Ok(Self { heard, news, wake, home: Mutex::new(home), folder, reports, thread })
    }

    /// The enclave has this CID: connections from it are this launcher's.
    ///
    /// # Errors
    /// The socket cannot be renamed.
    pub fn claim(&self, cid: u32) -> Result<(), Error> {
        // First of all: what comes to the new name finds the thread prepared.
        self.heard.cid.store(cid, Ordering::Release);
        let mut home = lock(&self.home);
        let claimed = self.folder.join(format!("cid-{cid}"));
        fs::rename(&*home, &claimed).map_err(Error::io(format!("renaming {}", home.display())))?;
        *home = claimed;
        self.wake.ring();
        Ok(())
    }

    /// What has come so far.
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.heard.record)
    }

    /// What has come so far, with what is not in the record.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Readable when something has come; see [`Ports::listen_again`].
    pub fn news(&self) -> &Bell {
        &self.news
    }

    /// Makes [`Ports::news`] wait for the next thing.
    pub fn listen_again(&self) {
        self.news.hush();
    }

    /// Whether port 9001 is listened to. Without it the application's end stays unknown outside debug mode: a launcher of
    /// another user has the port.
    pub fn reports(&self) -> bool {
        self.reports
    }

    /// Takes in what has arrived, and leaves the folder.
    pub fn leave(&mut self) {
        self.heard.leaving.store(true, Ordering::Release);
        self.wake.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to take in.
            let _panicked = thread.join();
            let _gone = fs::remove_file(&*lock(&self.home));
        }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.leave();
    }
}

fn lock(home: &Mutex<PathBuf>) -> MutexGuard<'_, PathBuf> {
    home.lock().unwrap_or_else(|broken| broken.into_inner())
}

fn taken() -> Error {
    Error::Refused {
        code: "E-nitro-port",
        message: format!("vsock port {HEARTBEAT_PORT} of this instance is in use, where the heartbeat has to come"),
        help: vec![
            "`ss --vsock --listening --processes` names who has it; nitro-cli has it while it boots an enclave".into(),
            "try again when that has booted".into(),
        ],
    }
}

/// The port's listener, or `None` while somebody else has it.
fn listen(parent: &dyn Parent, port: u32) -> Result<Option<OwnedFd>, Error> {
    match parent.listen(port) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(Error::io(format!("listening at vsock port {port}"))(error)),
    }
}

/// Collects listeners of launchers that run; sockets of dead ones are removed.
fn ask_around(folder: &Path) -> Result<Doors, Error> {
    let mut doors = Doors::default();
    let reading = || Error::io(format!("reading {}", folder.display()));
    for entry in fs::read_dir(folder).map_err(reading())? {
        let path = entry.map_err(reading())?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("start-") && !name.starts_with("cid-") {
            continue;
        }
        match mail::ask(&path) {
            Ok((heartbeat, status)) => {
                doors.heartbeat = doors.heartbeat.or(heartbeat);
                doors.status = doors.status.or(status);
            }
            Err(Errno::CONNREFUSED) => drop(fs::remove_file(&path)),
            // Gone, or stuck: the others will do.
            Err(_) => {}
        }
        if doors.heartbeat.is_some() && doors.status.is_some() {
            break;
        }
    }
    Ok(doors)
}

/// A connection of the own enclave.
struct Stream {
    fd: OwnedFd,
    service: Service,
}

/// A connection of an enclave whose launcher is not known yet.
struct Unclaimed {
    fd: OwnedFd,
    cid: u32,
    port: u32,
    until: Instant,
}

/// The thread.
struct Member {
    parent: Arc<dyn Parent>,
    folder: PathBuf,
    heard: Arc<Heard>,
    news: Bell,
    wake: Bell,
    doorbell: OwnedFd,
    doors: Doors,
    streams: Vec<Stream>,
    unclaimed: Vec<Unclaimed>,
}

impl Member {
    /// Serves until told to leave, and then until nothing is left that has arrived, or it has gone on for too long.
    fn run(&mut self) {
        let mut until = None;
        loop {
            let leaving = self.heard.leaving.load(Ordering::Acquire);
            let timeout = match (leaving, self.unclaimed.is_empty()) {
                (true, _) => Some(Duration::ZERO),
                (false, false) => Some(RETRY),
                (false, true) => None,
            };
            if leaving && Instant::now() > *until.get_or_insert_with(|| Instant::now() + LEAVING) {
                return;
            }
            let ready = self.sleep(timeout);
            let busy = ready.iter().any(|&ready| ready);
            self.serve(&ready);
            self.settle();
            if leaving && !busy {
                return;
            }
        }
    }

    /// Which of [`Member::watched`] have something; the wake's own bell is silenced.
    fn sleep(&self, timeout: Option<Duration>) -> Vec<bool> {
        let wake = PollFd::new(&self.wake, PollFlags::IN);
        let watched = self.watched().into_iter().map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut fds: Vec<_> = std::iter::once(wake).chain(watched).collect();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        self.wake.hush();
        ready.into_iter().skip(1).collect()
    }

    /// Doorbell, doors, streams, in the order of [`Member::serve`].
    fn watched(&self) -> Vec<&OwnedFd> {
        let doors = self.doors.heartbeat.iter().chain(&self.doors.status);
        std::iter::once(&self.doorbell).chain(doors).chain(self.streams.iter().map(|stream| &stream.fd)).collect()
    }

    fn serve(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let mut next = || ready.next().unwrap_or(false);
        let bell = next();
        let heartbeat = self.doors.heartbeat.is_some() && next();
        let status = self.doors.status.is_some() && next();
        // Streams first: what is accepted below has not been asked about.
        let heard = Arc::clone(&self.heard);
        let mut something = false;
        self.streams.retain_mut(|stream| {
            if !next() {
                return true;
            }
            something = true;
            stream.receive(&heard)
        });
        if something {
            self.news.ring();
        }
        if bell {
            self.answer();
        }
        for (open, port) in [(heartbeat, HEARTBEAT_PORT), (status, STATUS_PORT)] {
            if open {
                self.accept(port);
            }
        }
    }

    /// Another launcher is the first to take a connection, now and then.
    fn accept(&mut self, port: u32) {
        let door = if port == HEARTBEAT_PORT { &self.doors.heartbeat } else { &self.doors.status };
        let Some(door) = door else { return };
        let Ok(fd) = accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        let Some(cid) = self.parent.cid_of(&fd) else { return };
        self.deliver(Unclaimed { fd, cid, port, until: Instant::now() + UNCLAIMED });
    }

    /// A message of another launcher.
    fn answer(&mut self) {
        match mail::receive(&self.doorbell) {
            Some(Message::Listeners(asker)) => {
                mail::answer(&asker, self.doors.heartbeat.as_ref(), self.doors.status.as_ref());
            }
            Some(Message::Connection { fd, port }) => {
                // The sender's word counts for nothing: the socket says who its peer is.
                if let Some(cid) = self.parent.cid_of(&fd) {
                    self.deliver(Unclaimed { fd, cid, port, until: Instant::now() + UNCLAIMED });
                }
            }
            None => {}
        }
    }

    /// To the own streams, to the launcher of that enclave, or to those that wait.
    fn deliver(&mut self, connection: Unclaimed) {
        let Unclaimed { fd, cid, port, until } = connection;
        if cid == self.heard.cid.load(Ordering::Acquire) {
            let Some(service) = Service::at(port, true) else { return };
            if self.streams.len() == MAX_STREAMS {
                self.streams.remove(0);
            }
            self.streams.push(Stream { fd, service });
            return;
        }
        let sent = mail::send_connection(&self.folder.join(format!("cid-{cid}")), fd.as_fd(), port);
        if sent.is_err() && Instant::now() < until && self.unclaimed.len() < MAX_UNCLAIMED {
            self.unclaimed.push(Unclaimed { fd, cid, port, until });
        }
    }

    /// Tries again for those that wait, and gives up the heartbeat's listener when it is not needed any more.
    fn settle(&mut self) {
        for connection in std::mem::take(&mut self.unclaimed) {
            self.deliver(connection);
        }
        if self.heard.record.heartbeat() {
            self.doors.heartbeat = None;
        }
    }
}

impl Stream {
    /// Takes what has come; false when the connection is over.
    fn receive(&mut self, heard: &Heard) -> bool {
        let mut buffer = [0; 512];
        let read = match recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((_, read)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        let Some(bytes @ [first, ..]) = buffer.get(..read) else { return false };
        let waits = matches!(self.service, Service::Heartbeat);
        match self.service.receive(bytes, &heard.record) {
            Answer::Silence => true,
            Answer::Byte(byte) => send(&self.fd, &[byte], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok(),
            Answer::Reset => {
                if waits {
                    heard.wrong.store(256 + u32::from(*first), Ordering::Release);
                }
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
