//! The console of an enclave in debug mode: CID 0, port 10000 + the enclave's CID.
//!
//! One thread reads, always and at once, so that nothing in the enclave waits for a slow terminal; another one feeds the
//! watcher. Between them at most [`BACKLOG`] bytes wait: what is more is lost, and the watcher is told how much.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::error::Error;
use super::parent::{HYPERVISOR_CID, Parent};
use crate::launch::Watcher;
use crate::launch::bell::Bell;
use crate::launch::console::Console;

/// Port of the hypervisor where the console of CID 0 would be.
const FIRST_PORT: u32 = 10_000;
/// How long the console of a started enclave may take to be there.
const APPEARS: Duration = Duration::from_secs(5);
/// Time between two tries.
const RETRY: Duration = Duration::from_millis(50);
/// How long the last words of an ended enclave may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes that wait for the watcher.
const BACKLOG: usize = 1 << 20;

/// The two threads. Dropping it ends the reader; the watcher's gets what is there and ends by itself.
pub struct ConsoleLink {
    console: Arc<Mutex<Console>>,
    leave: Bell,
    reader: Option<JoinHandle<()>>,
    feeder: Option<JoinHandle<()>>,
}

/// What lies between the two threads.
#[derive(Default)]
struct Feed {
    state: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    lost: u64,
    over: bool,
}

impl ConsoleLink {
    /// Starts both threads. `stop` is called when the watcher breaks.
    ///
    /// # Errors
    /// No threads or descriptors are left.
    pub fn open(
        parent: Arc<dyn Parent>,
        cid: u32,
        watcher: Watcher,
        stop: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Error> {
        let console = Arc::new(Mutex::new(Console::default()));
        let leave = Bell::new().map_err(Error::io("making an eventfd"))?;
        let feed = Arc::new(Feed::default());
        let from = Arc::clone(&feed);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.into()).spawn(body).map_err(Error::io("starting a thread"))
        };
        let mut reader = Reader { console: Arc::clone(&console), leave: leave.clone(), feed };
        let reader = spawn("console", Box::new(move || reader.run(&*parent, cid)))?;
        let mut link = Self { console, leave, reader: Some(reader), feeder: None };
        link.feeder = Some(spawn("watcher", Box::new(move || from.pass_on(watcher, stop)))?);
        Ok(link)
    }

    /// The console as it is now.
    pub fn console(&self) -> MutexGuard<'_, Console> {
        lock(&self.console)
    }

    /// Reads the last words, and waits until the watcher has all.
    pub fn finish(&mut self) {
        self.end_reader();
        if let Some(feeder) = self.feeder.take() {
            // A watcher that panicked has had its console.
            let _panicked = feeder.join();
        }
    }

    fn end_reader(&mut self) {
        self.leave.ring();
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

impl Drop for ConsoleLink {
    fn drop(&mut self) {
        self.end_reader();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// The thread that reads.
struct Reader {
    console: Arc<Mutex<Console>>,
    leave: Bell,
    feed: Arc<Feed>,
}

impl Reader {
    fn run(&mut self, parent: &dyn Parent, cid: u32) {
        let port = FIRST_PORT.saturating_add(cid);
        match self.connect(parent, port) {
            Ok(Some(stream)) => self.read(&stream),
            Ok(None) => {}
            Err(error) => self.push(format!("eif: the console of CID {cid} cannot be read: {error}\n").as_bytes()),
        }
        lock(&self.feed.state).over = true;
        self.feed.more.notify_all();
    }

    /// `None` when told to leave before there was a console.
    fn connect(&self, parent: &dyn Parent, port: u32) -> std::io::Result<Option<OwnedFd>> {
        let deadline = Instant::now() + APPEARS;
        loop {
            match parent.connect(HYPERVISOR_CID, port) {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) if self.told_to_leave(RETRY) => return Ok(None),
                Err(_) => {}
            }
        }
    }

    fn told_to_leave(&self, within: Duration) -> bool {
        let timeout = Timespec::try_from(within).ok();
        matches!(poll(&mut [PollFd::new(&self.leave, PollFlags::IN)], timeout.as_ref()), Ok(1..))
    }

    /// Reads to the end; once told to leave, as long as something comes, and a second at most.
    fn read(&self, stream: &OwnedFd) {
        let mut buffer = [0; 16 * 1024];
        let mut deadline: Option<Instant> = None;
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return;
            }
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(stream, PollFlags::IN)];
            if deadline.is_none() {
                fds.push(PollFd::new(&self.leave, PollFlags::IN));
            }
            if poll(&mut fds, timeout.as_ref()).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            let left = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            if left {
                deadline = Some(Instant::now() + LAST_WORDS);
            }
            match recv(stream, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return,
                Ok((_, read)) => self.push(&buffer[..read]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The hypervisor resets the connection when the enclave has ended.
                Err(_) => return,
            }
        }
    }

    fn push(&self, bytes: &[u8]) {
        lock(&self.console).push(bytes);
        let mut waiting = lock(&self.feed.state);
        waiting.bytes.extend(bytes);
        let over = waiting.bytes.len().saturating_sub(BACKLOG);
        waiting.bytes.drain(..over);
        waiting.lost += over as u64;
        self.feed.more.notify_all();
    }
}

impl Feed {
    /// The thread that calls the watcher. A broken watcher gets nothing more.
    fn pass_on(&self, mut watcher: Watcher, stop: impl FnOnce()) {
        while let Some(bytes) = self.next() {
            if watcher(&bytes).is_break() {
                return stop();
            }
        }
    }

    /// All that waits, behind a line about what was lost; `None` at the end.
    fn next(&self) -> Option<Vec<u8>> {
        let mut waiting = lock(&self.state);
        while waiting.bytes.is_empty() && !waiting.over {
            waiting = self.more.wait(waiting).unwrap_or_else(|broken| broken.into_inner());
        }
        if waiting.bytes.is_empty() {
            return None;
        }
        let lost = std::mem::take(&mut waiting.lost);
        let mut bytes = Vec::new();
        if lost > 0 {
            bytes.extend(format!("\neif: {lost} bytes of the console came faster than they were taken\n").bytes());
        }
        bytes.extend(waiting.bytes.drain(..));
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::ops::ControlFlow;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{self, Receiver};

    use super::super::parent::tests::Played;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A console that is played by the returned stream, and what the watcher gets.
    fn linked(watcher: Watcher) -> (ConsoleLink, UnixStream, Receiver<()>) {
        let parent = Arc::new(Played::new());
        let listener = parent.listen(FIRST_PORT + 16).unwrap();
        let (send, stopped) = mpsc::channel();
        let link = ConsoleLink::open(parent, 16, watcher, move || send.send(()).unwrap()).unwrap();
        rustix::io::ioctl_fionbio(&listener, false).unwrap();
        let stream = rustix::net::accept(&listener).unwrap();
        (link, stream.into(), stopped)
    }

    #[test]
    fn the_watcher_and_the_tail_get_what_comes() {
        let (send, got) = mpsc::channel();
        let watcher = move |bytes: &[u8]| {
            send.send(bytes.to_vec()).unwrap();
            ControlFlow::Continue(())
        };
        let (mut link, mut stream, _) = linked(Box::new(watcher));
        stream.write_all(b"Linux version 6\n").unwrap();
        assert_eq!(got.recv_timeout(PATIENCE).unwrap(), b"Linux version 6\n");
        stream.write_all(b"eif-init: exited with status 3\n").unwrap();
        drop(stream);
        link.finish();
        assert_eq!(got.iter().collect::<Vec<_>>().concat(), b"eif-init: exited with status 3\n");
        assert_eq!(link.console().tail(), b"Linux version 6\neif-init: exited with status 3\n");
        assert_eq!(link.console().status(), Some(crate::launch::AppStatus::Exited(3)));
    }

    #[test]
    fn a_watcher_that_breaks_stops_the_enclave_and_the_console_is_read_on() {
        let (mut link, mut stream, stopped) = linked(Box::new(|_| ControlFlow::Break(())));
        stream.write_all(b"a").unwrap();
        stopped.recv_timeout(PATIENCE).unwrap();
        stream.write_all(&[b'b'; 500_000]).unwrap();
        drop(stream);
        link.finish();
        assert_eq!(link.console().tail().last(), Some(&b'b'));
    }

    /// The enclave can write as much as it likes while nobody takes it.
    #[test]
    fn a_watcher_that_blocks_holds_nobody_up_and_is_told_what_it_lost() {
        let (go, wait) = mpsc::channel::<()>();
        let (send, got) = mpsc::channel();
        let mut first = true;
        let watcher = move |bytes: &[u8]| {
            if std::mem::take(&mut first) {
                wait.recv().unwrap();
            }
            send.send(bytes.to_vec()).unwrap();
            ControlFlow::Continue(())
        };
        let (mut link, mut stream, _) = linked(Box::new(watcher));
        stream.write_all(b"first").unwrap();
        for _ in 0..48 {
            stream.write_all(&[b'x'; 64 * 1024]).unwrap();
        }
        stream.write_all(b"last").unwrap();
        drop(stream);
        let reader = link.reader.take().unwrap();
        reader.join().unwrap();
        go.send(()).unwrap();
        link.finish();
        let all = got.iter().collect::<Vec<_>>().concat();
        let text = String::from_utf8(all).unwrap();
        assert!(text.starts_with("first") && text.ends_with("last"), "{}", text.len());
        assert!(text.contains("bytes of the console came faster than they were taken"));
        assert!(text.len() <= 2 * BACKLOG, "{}", text.len());
    }

    #[test]
    fn a_console_that_stays_silent_does_not_keep_anybody() {
        let (mut link, stream, _) = linked(Box::new(|_| ControlFlow::Continue(())));
        let asked = Instant::now();
        link.finish();
        assert!(asked.elapsed() < PATIENCE);
        drop(stream);
    }
}
