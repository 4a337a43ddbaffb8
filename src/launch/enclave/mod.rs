//! An enclave on the Nitro device of an EC2 instance.
//!
//! [`Launch::start`] finds huge pages and CPUs, loads the image, and starts it; [`Enclave`] is what runs then. It all
//! happens in one process and without a fork: the driver refuses memory and CPUs from any other one, and ends the
//! enclave when the last copy of its descriptor is closed. So an enclave lives as long as its [`Enclave`], and no longer
//! than this process, however that ends.
//!
//! `host` reads what the instance has, `memory` chooses pages and loads the image, `assemble` makes the driver's calls in
//! their order, `ports` hears the enclave's heartbeat
//! and last word, `console_link` its console, `boot` judges whether it booted, `code` explains the driver's numbers.

mod assemble;
mod boot;
pub mod code;
mod console_link;
mod error;
mod host;
mod mail;
mod memory;
mod parent;
mod ports;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::assemble::Driver;
use self::console_link::ConsoleLink;
use self::parent::{Parent, Vsock};
use self::ports::Ports;
use super::bell::Bell;
use super::console::Console;
use super::nitro::Running;
use super::vsock::Record;
use super::{Ending, Outcome, Watcher};

pub use self::boot::limit as boot_limit;
pub use self::error::Error;
pub use self::host::Host;

/// How long a launch waits for another launcher to give up the heartbeat's port.
const PORT_LIMIT: Duration = Duration::from_secs(180);
/// How long the init's last word may take to get here from another launcher, once the enclave has ended.
const LAST_WORD: Duration = Duration::from_millis(250);

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The `.eif`, open for reading. It is checked again as it is loaded.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Memory in MiB: 64 at least, and room for the image and 8 MiB before it. An odd number is rounded up.
    pub memory_mib: u64,
    /// CPUs of the instance's pool: whole cores.
    pub cpus: Cpus,
    /// The CID: 4 or more, and no other running enclave's; `None` lets the hypervisor choose.
    pub cid: Option<u32>,
    /// Debug mode: the console can be read, and the enclave's PCRs are zeros.
    pub debug: bool,
    /// A folder of this user's alone, made if it is missing, in which all launches of this user share the parent's
    /// ports. Its path has 80 bytes at most: sockets are in it.
    pub ports: PathBuf,
}

/// Which CPUs an enclave gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cpus {
    /// So many, chosen by the driver: a multiple of a core's.
    Count(u32),
    /// These: all of each core.
    Ids(Vec<u32>),
}

/// What an enclave has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its CID.
    pub cid: u32,
    /// Its CPUs, by their numbers in the parent.
    pub cpu_ids: Vec<u32>,
    /// Its memory in MiB: more than asked for where only larger pages were free.
    pub memory_mib: u64,
    /// The hypervisor's number of it: the hexadecimal end of nitro-cli's enclave id.
    pub slot: u64,
}

/// A running enclave. Dropping it ends the enclave.
pub struct Enclave {
    facts: Facts,
    stopper: Stopper,
    // Dropped in this order: the name in the folder is gone before the CID is free again, and the enclave has ended
    // before its console's last words are waited for.
    ports: Ports,
    running: Running,
    console: Option<ConsoleLink>,
}

/// Ends an enclave from another thread; harmless when it has ended.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Stop>);

#[derive(Debug)]
struct Stop {
    used: AtomicBool,
    bell: Bell,
}

impl Stopper {
    fn new() -> Result<Self, Error> {
        let bell = Bell::new().map_err(Error::io("making an eventfd"))?;
        Ok(Self(Arc::new(Stop { used: AtomicBool::new(false), bell })))
    }

    /// Ends the enclave: [`Enclave::wait`] and [`Enclave::await_heartbeat`] return at once, and whoever has the enclave
    /// lets go of it. Closing it may take up to 240 s when the hypervisor does not answer.
    pub fn stop(&self) {
        self.0.used.store(true, Ordering::Release);
        self.0.bell.ring();
    }

    fn used(&self) -> bool {
        self.0.used.load(Ordering::Acquire)
    }
}

impl Launch {
    /// Starts the enclave; `watcher` gets the console in debug mode. Returns when it has started, before it has booted:
    /// see [`Enclave::await_heartbeat`]. Once `unwanted` says so, nothing more is begun.
    ///
    /// # Errors
    /// [`Error`], [`Error::Stopped`] for one that was unwanted; nothing is left behind.
    pub fn start(self, watcher: Watcher, unwanted: &dyn Fn() -> bool) -> Result<Enclave, Error> {
        self.start_on(&Host::default(), watcher, unwanted)
    }

    /// The same on a host with other folders for /sys and /dev.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start_on(self, host: &Host, watcher: Watcher, unwanted: &dyn Fn() -> bool) -> Result<Enclave, Error> {
        self.check(host)?;
        let device = host.open()?;
        self.start_with(host, Arc::new(Vsock), &device, watcher, unwanted)
    }

    fn start_with(
        self,
        host: &Host,
        parent: Arc<dyn Parent>,
        driver: &impl Driver,
        watcher: Watcher,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Enclave, Error> {
        // Before START, or the enclave's first connection finds nobody. Before pages and CPUs, because it may wait.
        let ports = Ports::join(&self.ports, Arc::clone(&parent), PORT_LIMIT, unwanted)?;
        let (facts, running) = assemble::start(&self, host, driver, unwanted)?;
        Enclave::watch(facts, running, ports, parent, self.debug.then_some(watcher))
    }

    /// What can be refused without the device.
    fn check(&self, host: &Host) -> Result<(), Error> {
        memory::check_size(self.memory_mib, self.size)?;
        if self.cid.is_some_and(|cid| !(4..u32::MAX).contains(&cid)) {
            let message = format!("CID {}: 0 to 3 and 4294967295 are reserved", self.cid.unwrap_or_default());
            let help = vec!["4 to 4294967294, or none at all".into()];
            return Err(Error::Refused { code: "E-nitro-cid", message, help });
        }
        match (&self.cpus, host.pool()) {
            // Without a device there is no pool: the device is the error to tell.
            (_, Err(_)) if !host.device().exists() => Ok(()),
            (_, Err(error)) => Err(error),
            (cpus, Ok(pool)) => cpus.check(host, &pool),
        }
    }
}

impl Cpus {
    /// What the pool and the cores allow, as far as /sys tells; the driver has the last word.
    fn check(&self, host: &Host, pool: &[u32]) -> Result<(), Error> {
        let refused = |message: String, help: String| {
            let help = vec![help, format!("the pool of CPUs for enclaves is {}", host::show(pool))];
            Err(Error::Refused { code: "E-nitro-cpus", message, help })
        };
        let threads = host.threads_per_core();
        match self {
            Self::Count(0) => refused("0 CPUs".into(), format!("--cpus {threads} at least")),
            Self::Count(count) if *count as usize > pool.len() => {
                refused(format!("{count} CPUs, and the pool has {}", pool.len()), code::SET_CPUS.into())
            }
            Self::Count(count) if count % threads != 0 => refused(
                format!("{count} CPUs are no whole cores: a core of this instance has {threads}"),
                format!("--cpus {}", count.next_multiple_of(threads)),
            ),
            Self::Count(_) => Ok(()),
            Self::Ids(ids) if ids.is_empty() => refused("no CPU is named".into(), "name whole cores".into()),
            Self::Ids(ids) => {
                let twice = |(index, id): (usize, &u32)| ids[..index].contains(id).then_some(*id);
                if let Some(id) = ids.iter().enumerate().find_map(twice) {
                    return refused(format!("CPU {id} is named twice"), "name each CPU once".into());
                }
                if let Some(id) = ids.iter().find(|id| !pool.contains(id)) {
                    return refused(format!("CPU {id} is not in the pool"), "choose CPUs of the pool".into());
                }
                let missing = |id: &u32| {
                    let core = host.core_of(*id)?;
                    core.into_iter().find(|sibling| !ids.contains(sibling)).map(|sibling| (*id, sibling))
                };
                if let Some((id, sibling)) = ids.iter().find_map(missing) {
                    let message = format!("CPU {id} was given, CPU {sibling} of the same core was not");
                    return refused(message, "name all CPUs of a core".into());
                }
                Ok(())
            }
        }
    }
}

/// What a look at an enclave found.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It has ended.
    Ended,
    /// The stopper was used.
    Stopped,
    /// Something came from it.
    News,
    /// The time is over.
    Late,
}

impl Enclave {
    /// Takes a started enclave over.
    fn watch(
        facts: Facts,
        running: Running,
        ports: Ports,
        parent: Arc<dyn Parent>,
        watcher: Option<Watcher>,
    ) -> Result<Self, Error> {
        ports.claim(facts.cid)?;
        let stopper = Stopper::new()?;
        let stop = stopper.clone();
        let open = |watcher| ConsoleLink::open(parent, facts.cid, watcher, move || stop.stop());
        let console = watcher.map(open).transpose()?;
        Ok(Self { facts, stopper, ports, console, running })
    }

    /// What it has got.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What it has told over vsock so far.
    pub fn record(&self) -> Arc<Record> {
        self.ports.record()
    }

    /// A handle that ends it from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Whether the init's report of the application's end can be heard: not when a launcher of another user has port
    /// 9001 of the instance.
    pub fn reports(&self) -> bool {
        self.ports.reports()
    }

    /// Waits until the enclave has booted, at most `limit`: see [`boot_limit`].
    ///
    /// # Errors
    /// [`Error::Boot`] with the likely reason when it does not, [`Error::Stopped`]. It still runs, if it has not ended:
    /// drop it.
    pub fn await_heartbeat(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(limit);
        loop {
            if self.ports.record().heartbeat() {
                return Ok(());
            }
            if self.ports.heard().wrong_byte().is_some() {
                return self.not_booted(None);
            }
            match self.look(deadline, true)? {
                Seen::News => {}
                Seen::Stopped => return Err(Error::Stopped),
                Seen::Ended => return self.not_booted(None),
                Seen::Late => return self.not_booted(Some(limit)),
            }
        }
    }

    /// The heartbeat may have come in the last moment, and the console's last words still come.
    fn not_booted(&self, limit: Option<Duration>) -> Result<(), Error> {
        self.hear_out(|| self.ports.record().heartbeat() || self.ports.record().report().is_some())?;
        if self.ports.record().heartbeat() {
            return Ok(());
        }
        let console = self.console.as_ref().map(ConsoleLink::console);
        let failed = boot::Failed {
            console: console.as_deref(),
            report: self.ports.record().report(),
            wrong_byte: self.ports.heard().wrong_byte(),
            limit,
            memory_mib: self.facts.memory_mib,
        };
        Err(failed.error())
    }

    /// Waits for the enclave's end, at most `limit`; then it is ended.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be waited for.
    pub fn wait(mut self, limit: Option<Duration>) -> Result<Outcome, Error> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let ending = match self.look(deadline, false)? {
            Seen::Stopped => Ending::Stopped,
            Seen::Late => Ending::Limit,
            Seen::Ended | Seen::News => Ending::Guest,
        };
        if ending == Ending::Guest {
            self.hear_out(|| self.ports.record().report().is_some())?;
        }
        self.ports.leave();
        let record = self.ports.record();
        let Self { running, console, .. } = self;
        // CPUs and pages are free from here on, however long the watcher takes.
        drop(running);
        let Some(mut link) = console else { return Ok(Outcome::new(&record, &Console::default(), ending)) };
        link.finish();
        Ok(Outcome::new(&record, &link.console(), ending))
    }

    /// Gives what is on its way a moment to arrive.
    fn hear_out(&self, enough: impl Fn() -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + LAST_WORD;
        loop {
            self.ports.listen_again();
            if enough() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(&mut [PollFd::new(self.ports.news(), PollFlags::IN)], Some(left))?;
        }
    }

    /// Sleeps until something happens. The descriptor of an enclave says HUP when it has ended, and says it for ever.
    fn look(&self, deadline: Option<Instant>, news: bool) -> Result<Seen, Error> {
        loop {
            if self.stopper.used() {
                return Ok(Seen::Stopped);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.running.as_fd(), PollFlags::empty()),
                PollFd::new(&self.stopper.0.bell, PollFlags::IN),
            ];
            if news {
                fds.push(PollFd::new(self.ports.news(), PollFlags::IN));
            }
            sleep(&mut fds, left)?;
            let [ended, stopped, news] = [0, 1, 2].map(|i| fds.get(i).is_some_and(|fd| !fd.revents().is_empty()));
            match (stopped, ended, news) {
                (true, _, _) => return Ok(Seen::Stopped),
                // What came before the end counts before it.
                (_, _, true) => {
                    self.ports.listen_again();
                    return Ok(Seen::News);
                }
                (_, true, _) => return Ok(Seen::Ended),
                _ if left == Some(Duration::ZERO) => return Ok(Seen::Late),
                _ => {}
            }
        }
    }
}

/// Poll, that a signal does not end.
fn sleep(fds: &mut [PollFd<'_>], left: Option<Duration>) -> Result<(), Error> {
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::io("waiting for the enclave")(errno)),
    }
}

#[cfg(test)]
mod tests;
