//! The process that holds an enclave: it starts it, keeps what it writes, lets it be found and ended, and remembers how it
//! ended.
//!
//! The Nitro driver wants all its calls from one process, whose end is the enclave's; QEMU gets the same treatment. So
//! [`supervise`] is the whole life of a process of its own, that `eif run` starts and talks to over three pipes: the
//! [`Owner`]'s. `registry` is where enclaves are found, `door` how a supervisor is asked, `journal` the console on disk,
//! `stop` the wish for the end, `machine` what both kinds of enclaves can do.

mod door;
mod journal;
mod machine;
mod registry;
mod stop;

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::door::Door;
use self::journal::Journal;
use self::machine::{Booted, Machine};
use self::registry::Place;
use self::stop::Stop;
use super::enclave::{self, Cpus};
use super::{Watcher, parts};
use crate::Refusal;
use crate::eif::Eif;
use crate::initramfs::RootFs;
use crate::verify;

pub use self::door::Question;
pub use self::registry::{Backend, End, Entry, Error, Facts, Name, Registry, Row, Standing, State, Told};

/// The first CID that enclaves get (nitro-cli's, and the Nitro hypervisor's, so far as is known).
const FIRST_CID: u32 = 16;
/// Descriptors that a supervisor asks for: a guest may have a thousand connections, each with one here.
const DESCRIPTORS: u64 = 4096;
/// The owner's word that it wants to live without the enclave.
pub const DETACH: u8 = b'd';

/// What to start.
#[derive(Debug)]
pub struct Order {
    /// Its name.
    pub name: Name,
    /// Whether a taken name gets a number behind it.
    pub numbered: bool,
    /// The `.eif`.
    pub file: PathBuf,
    /// Memory in MiB; `None` is what the ramdisks need.
    pub memory_mib: Option<u64>,
    /// The CID; `None` leaves the choice to the backend.
    pub cid: Option<u32>,
    /// Debug mode. A guest of QEMU always is.
    pub debug: bool,
    /// How long its heartbeat may take; `None` is nitro-cli's measure.
    pub boot_limit: Option<Duration>,
    /// Where it runs.
    pub on: Ground,
}

/// Where an enclave runs.
#[derive(Debug, Clone)]
pub enum Ground {
    /// On the Nitro device.
    Nitro {
        /// CPUs of the pool.
        cpus: Cpus,
    },
    /// In QEMU.
    Qemu {
        /// Number of CPUs.
        cpus: u32,
        /// Answer the heartbeat.
        heartbeat: bool,
        /// Unix sockets that are ports of the parent: see [`super::vsock`].
        vsock_prefix: Option<PathBuf>,
    },
}

/// Whoever has started the supervisor, and can end it.
#[derive(Debug)]
pub struct Owner {
    /// Its end is the enclave's, unless [`DETACH`] has come before.
    pub words: File,
    /// Gets the console, every byte of it: the enclave waits for a slow reader. `None` for an owner that wants to leave.
    pub console: Option<File>,
    /// Gets a [`Reply`] a line.
    pub replies: File,
}

/// What a supervisor tells its owner, one JSON object a line: [`Reply::Started`], [`Reply::Booted`], [`Reply::Ended`], or
/// [`Reply::Refused`] in place of any of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// The enclave has got this.
    Started(State),
    /// Its heartbeat has come.
    Booted,
    /// It has ended.
    Ended(End),
    /// It did not start or boot, and is no more. With the end of its console.
    Refused(Told, String),
}

/// Runs an enclave from its start to its end. `run` is the folder of this user in which processes meet.
///
/// # Errors
/// An owner that does not listen; it has been told all others.
pub fn supervise(order: Order, run: &Path, owner: Owner) -> io::Result<()> {
    let Owner { words, console, mut replies } = owner;
    ask_for_descriptors();
    let refused = |told: Told, console: String| Reply::Refused(told, console);
    match Supervisor::start(order, run, words, console) {
        Err(told) => tell(&mut replies, &refused(told, String::new())),
        Ok(supervisor) => supervisor.run(&mut replies),
    }
}

fn ask_for_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        // With fewer the guest gets fewer connections.
        let _fewer = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

fn tell(replies: &mut File, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    replies.write_all(&line)
}

/// The replies of a supervisor. What else it says, as of a bug of ours, is [`Err`].
pub fn replies(from: impl Read) -> impl Iterator<Item = Result<Reply, String>> {
    let lines = io::BufReader::new(from).split(b'\n').map_while(Result::ok);
    lines.map(|line| serde_json::from_slice(&line).map_err(|_| String::from_utf8_lossy(&line).into_owned()))
}

fn told<E: Refusal>(error: E) -> Told {
    Told::from(&error)
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Told {
    move |error| Told { code: "E-io".into(), message: format!("{what}: {error}"), help: Vec::new(), errno: None }
}

struct Supervisor {
    place: Place,
    door: Door,
    machine: Machine,
    stop: Stop,
    boot_limit: Option<Duration>,
    described: thread::JoinHandle<Option<(Value, Value)>>,
}

impl Supervisor {
    fn start(order: Order, run: &Path, words: File, console: Option<File>) -> Result<Self, Told> {
        let stop = Stop::new().map_err(failed("making an eventfd"))?;
        heed_signals(&stop).map_err(failed("waiting for signals"))?;
        heed_owner(words, &stop).map_err(failed("waiting for the owner"))?;
        let attached = console.is_some();

        let reading = |error: io::Error| Told {
            code: "E-io".into(),
            message: format!("{}: {error}", order.file.display()),
            help: Vec::new(),
            errno: None,
        };
        let file = File::open(&order.file).map_err(reading)?;
        let eif = Eif::open(file.try_clone().map_err(reading)?).map_err(told)?;
        let memory_mib = match order.memory_mib {
            Some(mib) => mib,
            None => parts::need(&eif).map_err(told)?.default_mib(RootFs::of(&eif.cmdline().map_err(told)?)),
        };

        let registry = Registry::open(run).map_err(told)?;
        let claim = registry.claim(&order.name, order.numbered).map_err(told)?;
        let cids: Vec<u32> = claim.running().map(|state| state.facts.cid).collect();
        let state = first_state(claim.name(), &order, memory_mib, &cids)?;
        let mut place = claim.settle(state).map_err(told)?;

        let limit = order.boot_limit.unwrap_or_else(|| enclave::boot_limit(eif.size(), memory_mib));
        let described = describe(&file);
        match occupy(&mut place, order, (&eif, file), memory_mib, run, &stop, console) {
            Ok((door, machine)) => {
                let boot_limit = machine.must_boot(attached).then_some(limit);
                Ok(Self { place, door, machine, stop, boot_limit, described })
            }
            Err(told) => {
                place.vacate();
                Err(told)
            }
        }
    }

    fn run(self, replies: &mut File) -> io::Result<()> {
        let Self { mut place, door, machine, stop, boot_limit, described } = self;
        // For the same reason for which QEMU runs there.
        let _stayed = std::env::set_current_dir("/");
        // An owner that does not listen is gone, and the enclave with it.
        let mut tell = |reply: &Reply| {
            if tell(replies, reply).is_err() {
                stop.ask();
            }
        };
        tell(&Reply::Started(place.state().clone()));
        let booted = machine.boot(boot_limit);
        let (failure, tail) = match booted {
            Booted::Yes => {
                let described = described.join().ok().flatten();
                let updated = place.update(|state| {
                    state.booted = true;
                    (state.measurements, state.described) = described.unzip();
                });
                match updated {
                    Ok(()) => {
                        tell(&Reply::Booted);
                        (None, String::new())
                    }
                    Err(error) => (Some(told(error)), String::new()),
                }
            }
            Booted::Over => (None, String::new()),
            Booted::No(told, tail) => (Some(told), tail),
        };
        if failure.is_some() {
            stop.ask();
        }
        let end = machine.end();
        let end = match &failure {
            Some(told) => End::Failed(told.clone()),
            None => end,
        };
        // The row stays RUNNING until this process is gone, and says CRASHED then: it is all that can be done.
        let _unwritten = place.update(|state| state.end = Some(end.clone()));
        door.close();
        match failure {
            Some(told) => tell(&Reply::Refused(told, tail)),
            None => tell(&Reply::Ended(end)),
        }
        Ok(())
    }
}

/// All that is done once the name has been taken: opens the door, and starts the machine.
fn occupy(
    place: &mut Place,
    order: Order,
    (eif, file): (&Eif, File),
    memory_mib: u64,
    run: &Path,
    stop: &Stop,
    console: Option<File>,
) -> Result<(Door, Machine), Told> {
    let cid = Some(place.state().facts.cid).filter(|cid| *cid != 0);
    let journal = Arc::new(Journal::create(place.folder()).map_err(failed("making the console's file"))?);
    let door = Door::open(place.folder(), Arc::clone(&journal), stop.clone());
    let door = door.map_err(failed("listening at the control socket"))?;
    place.publish().map_err(told)?;
    let watcher = watcher(journal, console, stop.clone());
    let order = machine::Order { on: order.on, cid, memory_mib, debug: order.debug, run, stop };
    let machine = Machine::start(order, eif, file, place.folder(), watcher)?;
    stop.set(machine.stopper());
    if let Some(granted) = machine.granted() {
        place.update(|state| granted.put_into(&mut state.facts)).map_err(told)?;
    }
    Ok((door, machine))
}

fn first_state(name: &str, order: &Order, memory_mib: u64, cids: &[u32]) -> Result<State, Told> {
    let (backend, cid, cpu_ids, cpus, id) = match &order.on {
        // The driver says what it has granted.
        Ground::Nitro { .. } => (Backend::Nitro, order.cid.unwrap_or(0), Vec::new(), 0, String::new()),
        Ground::Qemu { cpus, .. } => {
            let free = order.cid.or_else(|| (FIRST_CID..u32::MAX).find(|cid| !cids.contains(cid)));
            let cid = free.filter(|cid| !cids.contains(cid)).ok_or_else(|| Told {
                code: "E-enclave-cid".into(),
                message: format!("CID {} is a running enclave's", order.cid.unwrap_or_default()),
                help: vec!["without --cid a free one is chosen".into()],
                errno: None,
            })?;
            let slot = random().map_err(failed("reading /dev/urandom"))?;
            (Backend::Qemu, cid, (0..*cpus).collect(), *cpus, machine::id(&enclave::Host::default(), slot))
        }
    };
    let facts = Facts { name: name.to_owned(), id, process: std::process::id(), cid, cpus, cpu_ids, memory_mib };
    let debug = order.debug || backend == Backend::Qemu;
    Ok(State { facts, backend, debug, booted: false, measurements: None, described: None, end: None })
}

/// A number that is nobody else's.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// What the file measures to and says of itself; `None` where it breaks on the way. On a thread: it takes seconds.
fn describe(file: &File) -> thread::JoinHandle<Option<(Value, Value)>> {
    let file = file.try_clone();
    thread::spawn(move || {
        let eif = Eif::examine(file.ok()?).ok()?;
        let described = verify::describe(&eif, 1).ok()?;
        Some((serde_json::to_value(described.measurements).ok()?, serde_json::to_value(described.described).ok()?))
    })
}

/// The console's way: to disk, and to an owner who wants every byte. One who does not read any more does not want the
/// enclave either.
fn watcher(journal: Arc<Journal>, console: Option<File>, stop: Stop) -> Watcher {
    let console = console.map(OwnedFd::from);
    Box::new(move |bytes: &[u8]| {
        journal.append(bytes);
        match &console {
            Some(console) if pass(console, &stop, bytes).is_err() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })
}

/// Writes as fast as the reader reads, but waits for nobody once the enclave is to end.
fn pass(console: &OwnedFd, stop: &Stop, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let mut fds = [PollFd::new(console, PollFlags::OUT), PollFd::new(stop.bell(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            // What cannot be written at once is what nobody waits for.
            Ok(_) if fds[0].revents().is_empty() => return Ok(()),
            Ok(_) => {}
        }
        // A pipe that says OUT takes a page without waiting (pipe(7), PIPE_BUF).
        let page = &bytes[..bytes.len().min(4096)];
        match rustix::io::write(console, page) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// SIGTERM and its like end the enclave in order. They must be held back before there is any other thread.
fn heed_signals(stop: &Stop) -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let stop = stop.clone();
    let body = move || {
        while let Ok(_signal) = signals.wait() {
            stop.ask();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(body).map(drop)
}

/// The owner's death ends the enclave, unless it has said that it leaves.
fn heed_owner(mut words: File, stop: &Stop) -> io::Result<()> {
    let stop = stop.clone();
    let body = move || {
        let mut word = [0];
        match words.read(&mut word) {
            Ok(1) if word[0] == DETACH => {}
            _ => stop.ask(),
        }
    };
    thread::Builder::new().name("owner".into()).spawn(body).map(drop)
}
