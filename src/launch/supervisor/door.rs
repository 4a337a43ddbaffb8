//! The supervisor's socket: who may knock, what may be asked, and how to ask it.
//!
//! A client sends one word and a newline and reads until the end of the stream: `console` gives the console from its
//! first kept byte until the enclave has ended, `logs` what there is of it now, and `stop` a newline, for it was heard,
//! and nothing more until the end. How it ended is in the registry then.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;

use super::super::bell::Bell;
use super::journal::Journal;
use super::stop::Stop;

const NAME: &str = "control";
/// Clients at a time; one more is sent away, unless it wants the end.
const MAX_CLIENTS: usize = 64;
/// Clients beyond those, of whom it is not known yet what they want.
const RESERVE: usize = 16;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// When an accept that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How long readers may take, all together, for what is left of the console when the enclave has ended.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest word and its newline.
const MAX_WORD: usize = 8;

/// What can be asked of a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The console, to the end of the enclave.
    Console,
    /// The console as it is now.
    Logs,
    /// The end of the enclave, now.
    Stop,
}

impl Question {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Console, "console\n"), (Self::Logs, "logs\n"), (Self::Stop, "stop\n")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(question, _)| *question == self).map_or("", |(_, word)| word)
    }
}

/// Asks the supervisor whose folder it is; its answer is what the stream gives until it ends.
///
/// # Errors
/// Nobody listens there any more.
pub fn ask(folder: &Path, question: Question) -> io::Result<UnixStream> {
    let (_folder, path) = short(folder)?;
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(question.word().as_bytes())?;
    Ok(stream)
}

/// A path of the socket that is never too long for one (107 bytes), as long as the descriptor is open.
fn short(folder: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// The socket, served until it is closed.
pub struct Door {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    journal: Arc<Journal>,
    stop: Stop,
    /// Readable for ever once the enclave has ended.
    over: Bell,
    clients: Mutex<usize>,
    left: Condvar,
}

impl Door {
    /// Binds the socket in the folder and listens.
    ///
    /// # Errors
    /// The socket cannot be bound, or no descriptors or threads are left.
    pub fn open(folder: &Path, journal: Arc<Journal>, stop: Stop) -> io::Result<Self> {
        let (_folder, path) = short(folder)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let over = Bell::new()?;
        let shared = Arc::new(Shared { journal, stop, over, clients: Mutex::new(0), left: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("door".into()).spawn(move || answer(&listener, &theirs))?;
        Ok(Self { shared, thread })
    }

    /// The enclave has ended, and that is in the registry: lets everyone know who waits for it.
    pub fn close(self) {
        self.shared.over.ring();
        // It has nothing left to answer if it panicked.
        let _panicked = self.thread.join();
        let clients = self.shared.clients();
        drop(self.shared.left.wait_timeout_while(clients, FAREWELL, |clients| *clients > 0));
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, usize> {
        self.clients.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    fn is_over(&self) -> bool {
        self.sleep(&[], Some(Duration::ZERO))
    }

    /// Sleeps until one of the descriptors has news, the limit has passed, or the enclave has ended, which is the answer.
    fn sleep(&self, others: &[&dyn AsFd], limit: Option<Duration>) -> bool {
        let mut fds = vec![PollFd::new(&self.over, PollFlags::IN)];
        fds.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN | PollFlags::RDHUP)));
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        while let Err(Errno::INTR) = poll(&mut fds, limit.as_ref()) {}
        fds.first().is_some_and(|over| !over.revents().is_empty())
    }
}

/// The thread that lets clients in, each into a thread of its own.
fn answer(listener: &UnixListener, shared: &Arc<Shared>) {
    while !shared.sleep(&[listener], None) {
        let Ok((stream, _)) = listener.accept() else {
            // No descriptor is left, most likely; the client stays in the queue.
            shared.sleep(&[], Some(RETRY));
            continue;
        };
        let Some(guest) = Guest::admit(stream, shared) else { continue };
        // A client that finds no thread is sent away by the drop of its stream.
        let _sent_away = thread::Builder::new().name("client".into()).spawn(move || guest.serve());
    }
}

/// A client that has been let in.
struct Guest {
    stream: UnixStream,
    shared: Arc<Shared>,
    /// One of [`RESERVE`].
    extra: bool,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _closed = self.stream.shutdown(Shutdown::Both);
        *self.shared.clients() -= 1;
        self.shared.left.notify_all();
    }
}

impl Guest {
    /// This user and root may; the folder keeps others out already.
    fn admit(stream: UnixStream, shared: &Arc<Shared>) -> Option<Self> {
        let peer = socket_peercred(&stream).ok()?.uid;
        let mut clients = shared.clients();
        if (peer != rustix::process::geteuid() && !peer.is_root()) || *clients >= MAX_CLIENTS + RESERVE {
            return None;
        }
        *clients += 1;
        Some(Self { stream, shared: Arc::clone(shared), extra: *clients > MAX_CLIENTS })
    }

    fn serve(self) {
        // Whatever breaks here is the client's loss alone.
        let _gone = self.answer();
    }

    fn answer(&self) -> io::Result<()> {
        match self.question()? {
            Some(Question::Console | Question::Logs) if self.extra => Ok(()),
            Some(Question::Console) => self.console(true),
            Some(Question::Logs) => self.console(false),
            Some(Question::Stop) => {
                self.shared.stop.ask();
                (&self.stream).write_all(b"\n")?;
                self.shared.sleep(&[&self.stream], None);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn question(&self) -> io::Result<Option<Question>> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let (mut word, mut byte) = (Vec::new(), [0]);
        while !word.ends_with(b"\n") {
            if word.len() == MAX_WORD || (&self.stream).read(&mut byte)? == 0 {
                return Ok(None);
            }
            word.extend(byte);
        }
        Ok(Question::ALL.iter().find(|(_, known)| known.as_bytes() == word).map(|(question, _)| *question))
    }

    fn console(&self, follow: bool) -> io::Result<()> {
        let journal = &self.shared.journal;
        let more = journal.subscribe()?;
        let (mut cursor, mut buffer) = (0, vec![0; 64 * 1024]);
        loop {
            // Before the reading: nothing is written once it is over.
            let last = !follow || self.shared.is_over();
            more.bell.hush();
            loop {
                match journal.read(&mut cursor, &mut buffer)? {
                    0 => break,
                    read => (&self.stream).write_all(&buffer[..read])?,
                }
            }
            if last {
                return Ok(());
            }
            self.shared.sleep(&[&more.bell, &self.stream], None);
            if self.has_gone() {
                return Ok(());
            }
        }
    }

    /// A client has nothing more to say, so whatever can be read of it is its end.
    fn has_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
