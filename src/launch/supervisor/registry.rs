//! The enclaves that this user has started on this machine: a folder for each, which its supervisor keeps up to date.
//!
//! In the folder: `alive`, which the supervisor holds a lock on while it lives, so that nobody has to believe a number of
//! a process; `state.json`, replaced as a whole; `console` and `console.old`; the socket `control`. The folder stays when
//! the enclave has ended, for `logs` and `wait`, until its name is taken again or [`KEPT`] others have ended since.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::door::{self, Question};
use super::journal;
use crate::Refusal;
use crate::launch::private;

/// Enclaves that have ended and are remembered.
pub const KEPT: usize = 32;
/// Held by whoever changes the registry.
const LOCK: &str = ".lock";
/// Why nobody answers who may answer later, or is gone then.
const PASSING: [io::ErrorKind; 4] = [
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::NotFound,
];
/// When a stop that was turned away is asked for again.
const RETRY: Duration = Duration::from_millis(100);
/// Bytes of a name.
const MAX_NAME: usize = 64;
/// A state is some kilobytes; the metadata in it were bounded by the file they came from.
const MAX_STATE: u64 = 16 << 20;

/// Why an enclave could not be registered or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none.
    #[error("{name:?} is no name of an enclave: {why}")]
    BadName {
        /// The text.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An enclave of this name runs.
    #[error("an enclave named {0:?} is running")]
    Taken(String),
    /// The supervisor of an enclave of this name died.
    #[error("the supervisor of an enclave named {0:?} has died, and nobody has cleared it away")]
    Crashed(String),
    /// Nothing is known of this name.
    #[error("there is no enclave named {0:?}")]
    Unknown(String),
    /// The enclave has ended, and its folder is another one's.
    #[error("enclave {0:?} has ended, and another one has its name now: how it ended is not known any more")]
    Replaced(String),
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io<E: Into<io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> Self {
        let what = format!("{what} {}", path.display());
        move |error| Self::Io { what, source: error.into() }
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::BadName { .. } => "E-enclave-name",
            Self::Taken(_) => "E-enclave-taken",
            Self::Crashed(_) => "E-enclave-crashed",
            Self::Unknown(_) => "E-enclave-unknown",
            Self::Replaced(_) => "E-enclave-replaced",
            Self::Io { .. } => "E-io",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::BadName { .. } => vec![format!("letters, digits, `_`, `-` and `.`: 1 to {MAX_NAME} bytes")],
            Self::Taken(name) => vec!["--name gives another one".into(), format!("`eif stop {name}` ends it")],
            Self::Crashed(name) => vec![format!("`eif stop {name}` clears it away; `eif logs {name}` has its console")],
            Self::Unknown(_) => vec!["`eif ps --all` lists them".into()],
            Self::Replaced(_) => vec!["an enclave's row is kept as long as nobody takes its name".into()],
            Self::Io { .. } => Vec::new(),
        }
    }
}

/// The name of an enclave, which is also the name of its folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Takes a name as the user gave it.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub fn new(name: &str) -> Result<Self, Error> {
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > MAX_NAME {
            "it is too long"
        } else if name.starts_with(['.', '-']) {
            "it begins with a dot or a dash"
        } else if !name.chars().all(allowed) {
            "it has characters that are not allowed"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(Error::BadName { name: name.to_owned(), why })
    }

    /// The name of an enclave that was given none: its file's, without `.eif`.
    pub fn of_file(path: &Path) -> Self {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = file.strip_suffix(".eif").unwrap_or(&file);
        // Room for a number behind it.
        let name: String = stem.chars().take(MAX_NAME - 8).map(|c| if allowed(c) { c } else { '_' }).collect();
        match name.chars().next() {
            None => Self("enclave".into()),
            Some('.' | '-') => Self(format!("_{name}")),
            Some(_) => Self(name),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}

/// What runs an enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A Nitro Enclave.
    Nitro,
    /// An emulated machine.
    Qemu,
}

/// What an enclave has got, in the names of nitro-cli's `run-enclave`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name.
    #[serde(rename = "EnclaveName")]
    pub name: String,
    /// `i-<instance>-enc<slot>`, both hexadecimal; the instance is zeros where there is none.
    #[serde(rename = "EnclaveID")]
    pub id: String,
    /// The supervisor's process.
    #[serde(rename = "ProcessID")]
    pub process: u32,
    /// Its CID.
    #[serde(rename = "EnclaveCID")]
    pub cid: u32,
    /// How many CPUs.
    #[serde(rename = "NumberOfCPUs")]
    pub cpus: u32,
    /// Which: numbers in the parent, in QEMU those in the guest.
    #[serde(rename = "CPUIDs")]
    pub cpu_ids: Vec<u32>,
    /// Its memory in MiB.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
}

/// How an enclave ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Its application exited with this status.
    Exited(u8),
    /// This signal killed its application.
    Killed(u8),
    /// It was stopped.
    Stopped,
    /// It did not boot, or ended without a word of its application.
    Failed(Told),
}

/// A refusal that has travelled from a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The stable code.
    pub code: String,
    /// The line.
    pub message: String,
    /// What to do about it.
    pub help: Vec<String>,
    /// The driver's number, if it was the driver.
    #[serde(default)]
    pub errno: Option<i32>,
}

impl<E: Refusal> From<&E> for Told {
    fn from(error: &E) -> Self {
        Self { code: error.code().to_owned(), message: error.to_string(), help: error.help(), errno: None }
    }
}

/// What is known of an enclave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// What it has got.
    pub facts: Facts,
    /// What runs it.
    pub backend: Backend,
    /// Its console can be read.
    pub debug: bool,
    /// It has booted.
    pub booted: bool,
    /// `Measurements` of its file, when they have been computed.
    pub measurements: Option<Value>,
    /// `ImageName`, `ImageVersion` and `Metadata` of its file.
    pub described: Option<Value>,
    /// How it ended.
    pub end: Option<End>,
}

impl State {
    /// Of an enclave whose state cannot be read, as one that another version of this program holds: its name, and that
    /// it can be ended.
    fn unreadable(folder: &Path) -> Self {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let facts = Facts { name, id: String::new(), process: 0, cid: 0, cpus: 0, cpu_ids: Vec::new(), memory_mib: 0 };
        let (measurements, described, end) = (None, None, None);
        Self { facts, backend: Backend::Qemu, debug: false, booted: false, measurements, described, end }
    }

    /// What is written, so that it can be read: what a file says of itself may be nested deeper than a reader goes. Such
    /// things are left out.
    fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)?;
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(_) if bytes.len() as u64 <= MAX_STATE => Ok(bytes),
            _ => serde_json::to_vec(&Self { described: None, ..self.clone() }),
        }
    }
}

/// A row of the list, in the names and the order of nitro-cli's `describe-enclaves`.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    #[serde(rename = "State")]
    state: &'static str,
    #[serde(rename = "Flags")]
    flags: &'static str,
    #[serde(rename = "Measurements", skip_serializing_if = "Option::is_none")]
    measurements: Option<&'a Value>,
    #[serde(flatten)]
    described: Option<&'a Value>,
}

/// Where an enclave stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its supervisor lives.
    Running,
    /// It has ended, and is remembered.
    Ended,
    /// Its supervisor died before it could say how it ended. The enclave died with it.
    Crashed,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Registry {
    folder: PathBuf,
}

/// One of them.
#[derive(Debug)]
pub struct Entry {
    /// What is known.
    pub state: State,
    /// Where it stands.
    pub standing: Standing,
    folder: PathBuf,
    /// What its supervisor holds a lock on: this file, whatever is in the folder later.
    alive: File,
}

impl Registry {
    /// The one in `run`, a folder of this user's alone, made if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(run: &Path) -> Result<Self, Error> {
        let folder = run.join("enclaves");
        for path in [run, &folder] {
            private::folder(path).map_err(Error::io("using", path))?;
        }
        Ok(Self { folder })
    }

    /// Everything that changes the registry holds its lock, and everything that reads a row.
    fn lock(&self) -> Result<File, Error> {
        let path = self.folder.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        file.map_err(Error::io("opening", &path))
    }

    /// All enclaves, by name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let lock = self.lock()?;
        lock.lock_shared().map_err(Error::io("locking", &self.folder))?;
        self.read()
    }

    /// The enclave of this name.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Io`].
    pub fn find(&self, name: &str) -> Result<Entry, Error> {
        let found = self.list()?.into_iter().find(|entry| entry.state.facts.name == name);
        found.ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// Reads the folders; the lock is held.
    fn read(&self) -> Result<Vec<Entry>, Error> {
        let reading = || Error::io("reading", &self.folder);
        let mut entries = Vec::new();
        for item in fs::read_dir(&self.folder).map_err(reading())? {
            let folder = item.map_err(reading())?.path();
            entries.extend(Entry::read(folder)?);
        }
        entries.sort_by(|a, b| a.state.facts.name.cmp(&b.state.facts.name));
        Ok(entries)
    }

    /// Takes the name, or where `numbered` allows it the name with `_1`, `_2`, … Nothing is on disk before
    /// [`Claim::settle`], and nobody else can claim anything until then.
    ///
    /// # Errors
    /// [`Error::Taken`], [`Error::Crashed`], [`Error::Io`].
    pub fn claim(&self, wish: &Name, numbered: bool) -> Result<Claim, Error> {
        let lock = self.lock()?;
        lock.lock().map_err(Error::io("locking", &self.folder))?;
        let entries = self.read()?;
        let holder = |name: &str| entries.iter().find(|entry| entry.state.facts.name == name && entry.in_the_way());
        let numbers = (1..u32::MAX).map(|number| format!("{}_{number}", wish.0));
        let mut names = std::iter::once(wish.0.clone()).chain(numbers.take(if numbered { usize::MAX } else { 0 }));
        let Some(name) = names.find(|name| holder(name).is_none()) else {
            return Err(match holder(&wish.0).map(|entry| entry.standing) {
                Some(Standing::Crashed) => Error::Crashed(wish.0.clone()),
                _ => Error::Taken(wish.0.clone()),
            });
        };
        let folder = self.folder.join(&name);
        let mut others = entries;
        if let Some(index) = others.iter().position(|entry| entry.folder == folder) {
            // Its supervisor has written its last and may still be on its way out.
            others.remove(index).await_gone()?;
        }
        prune(&others);
        Ok(Claim { name, folder, others, lock })
    }

    /// Forgets an enclave whose supervisor died, or that has ended.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Taken`] when it lives again.
    pub fn forget(&self, entry: &Entry) -> Result<(), Error> {
        let lock = self.lock()?;
        lock.lock().map_err(Error::io("locking", &self.folder))?;
        match Entry::read(entry.folder.clone())? {
            // Another enclave has the name now.
            Some(now) if !now.is(entry)? => Ok(()),
            Some(now) if now.standing == Standing::Running => Err(Error::Taken(now.state.facts.name)),
            Some(now) => remove(&now.folder),
            None => Ok(()),
        }
    }
}

/// Forgets those that ended longest ago.
fn prune(entries: &[Entry]) {
    let ended = entries.iter().filter(|entry| entry.standing == Standing::Ended);
    let changed = |entry: &Entry| fs::metadata(entry.folder.join("state.json")).and_then(|found| found.modified()).ok();
    let mut ended: Vec<_> = ended.map(|entry| (changed(entry), &entry.folder)).collect();
    ended.sort();
    for (_, folder) in ended.iter().take(ended.len().saturating_sub(KEPT)) {
        // The next claim tries again.
        let _kept = fs::remove_dir_all(folder);
    }
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", folder)(error)),
        _ => Ok(()),
    }
}

impl Entry {
    /// `None` for what is no enclave's folder, or one whose supervisor died before it had settled in it.
    fn read(folder: PathBuf) -> Result<Option<Self>, Error> {
        let path = folder.join("state.json");
        let bytes = match File::open(&path).and_then(|file| bounded(file, MAX_STATE)) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        let state: State = serde_json::from_slice(&bytes).unwrap_or_else(|_| State::unreadable(&folder));
        let path = folder.join("alive");
        let alive = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("opening", &path)(error)),
        };
        let mut entry = Self { state, standing: Standing::Ended, folder, alive };
        if entry.state.end.is_none() {
            entry.standing = if entry.is_gone()? { Standing::Crashed } else { Standing::Running };
        }
        Ok(Some(entry))
    }

    /// Whether its supervisor is gone.
    fn is_gone(&self) -> Result<bool, Error> {
        match self.alive.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(self.unlockable(error)),
            Ok(()) => self.alive.unlock().map(|()| true).map_err(|error| self.unlockable(error)),
        }
    }

    fn unlockable(&self, error: io::Error) -> Error {
        Error::io("locking what is alive in", &self.folder)(error)
    }

    /// Whether its name cannot be taken.
    fn in_the_way(&self) -> bool {
        self.standing != Standing::Ended
    }

    /// In nitro-cli's words, where it has them: EMPTY until it has booted, RUNNING; and CRASHED, ENDED.
    pub fn word(&self) -> &'static str {
        match self.standing {
            Standing::Running if self.state.booted => "RUNNING",
            Standing::Running => "EMPTY",
            Standing::Ended => "ENDED",
            Standing::Crashed => "CRASHED",
        }
    }

    /// Its row, with what the file says of itself if that is wanted.
    pub fn row(&self, metadata: bool) -> Row<'_> {
        let State { facts, debug, measurements, described, .. } = &self.state;
        let flags = if *debug { "DEBUG_MODE" } else { "NONE" };
        let described = described.as_ref().filter(|_| metadata);
        Row { facts, state: self.word(), flags, measurements: measurements.as_ref(), described }
    }

    /// Asks its supervisor; the answer is what the stream gives until it ends.
    ///
    /// # Errors
    /// [`Error::Io`] when the supervisor is gone, or on its way out.
    pub fn ask(&self, question: Question) -> Result<UnixStream, Error> {
        door::ask(&self.folder, question).map_err(Error::io("asking the supervisor in", &self.folder))
    }

    /// What is kept of its console when it has ended.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn console(&self) -> Result<Vec<u8>, Error> {
        journal::kept(&self.folder).map_err(Error::io("reading the console in", &self.folder))
    }

    /// Waits until its supervisor is gone, however that ends.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn await_gone(&self) -> Result<(), Error> {
        self.alive.lock_shared().and_then(|()| self.alive.unlock()).map_err(|error| self.unlockable(error))
    }

    /// Ends it, and waits until its supervisor is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stop(&self) -> Result<(), Error> {
        while !self.is_gone()? {
            // One byte says that it was heard; then nothing, until it is over.
            let ask = self.ask(Question::Stop);
            let heard = ask.map(|mut answer| io::copy(&mut answer, &mut io::sink()).is_ok_and(|bytes| bytes > 0));
            match heard {
                Ok(true) => return self.await_gone(),
                // It was turned away, as one client too many, or nobody listens any more.
                Ok(false) => {}
                Err(Error::Io { source, .. }) if PASSING.contains(&source.kind()) => {}
                Err(error) => return Err(error),
            }
            thread::sleep(RETRY);
        }
        Ok(())
    }

    /// Whether it is the same enclave, and not another one of its name.
    fn is(&self, other: &Self) -> Result<bool, Error> {
        // A file that is open keeps its number from all others.
        let number = |entry: &Self| entry.alive.metadata().map(|found| (found.dev(), found.ino()));
        let numbers = number(self).and_then(|one| Ok((one, number(other)?)));
        numbers.map(|(one, two)| one == two).map_err(|error| self.unlockable(error))
    }

    /// What is known now, read anew; `None` for one that did not start after all, or was forgotten.
    ///
    /// # Errors
    /// [`Error::Replaced`] when another enclave has the name, [`Error::Io`].
    pub fn now(&self) -> Result<Option<State>, Error> {
        // Whoever moves in has the lock: until then the folder is as it was.
        let registry = Registry { folder: self.folder.parent().map(Path::to_owned).unwrap_or_default() };
        let lock = registry.lock()?;
        lock.lock_shared().map_err(Error::io("locking", &registry.folder))?;
        match Self::read(self.folder.clone())? {
            Some(now) if !now.is(self)? => Err(Error::Replaced(now.state.facts.name)),
            now => Ok(now.map(|now| now.state)),
        }
    }

    /// How it ended, read anew; `None` when its supervisor died before it could say that.
    ///
    /// # Errors
    /// As [`Entry::now`]; [`Error::Unknown`] for one that did not start after all, or was forgotten.
    pub fn end(&self) -> Result<Option<End>, Error> {
        let unknown = || Error::Unknown(self.state.facts.name.clone());
        self.now()?.map(|now| now.end).ok_or_else(unknown)
    }
}

fn bounded(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit), &mut bytes)?;
    Ok(bytes)
}

/// A name that is about to be an enclave's.
#[derive(Debug)]
pub struct Claim {
    name: String,
    folder: PathBuf,
    others: Vec<Entry>,
    lock: File,
}

impl Claim {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of the others that run.
    pub fn running(&self) -> impl Iterator<Item = &State> {
        self.others.iter().filter(|entry| entry.standing == Standing::Running).map(|entry| &entry.state)
    }

    /// Moves in. Others see it, and can claim what they want, from [`Place::publish`] on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn settle(self, state: State) -> Result<Place, Error> {
        remove(&self.folder)?;
        DirBuilder::new().mode(0o700).create(&self.folder).map_err(Error::io("making", &self.folder))?;
        let path = self.folder.join("alive");
        let alive = File::create_new(&path).map_err(Error::io("making", &path))?;
        alive.lock().map_err(Error::io("locking", &path))?;
        Ok(Place { folder: self.folder, state, _alive: ManuallyDrop::new(alive), lock: Some(self.lock) })
    }
}

/// The folder of an enclave, in its supervisor's hands.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    state: State,
    /// Closed by nobody but the kernel, when this process ends: who waits for that must not go on before.
    _alive: ManuallyDrop<File>,
    /// The registry's, until the enclave is to be seen.
    lock: Option<File>,
}

impl Place {
    /// Its path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is known.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Puts it into the list, where it stays until this process ends.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(&mut self) -> Result<(), Error> {
        self.write()?;
        self.lock = None;
        Ok(())
    }

    /// Changes what is known, for all to see.
    ///
    /// # Errors
    /// [`Error::Io`]; the others see what they saw before.
    pub fn update(&mut self, change: impl FnOnce(&mut State)) -> Result<(), Error> {
        change(&mut self.state);
        self.write()
    }

    fn write(&self) -> Result<(), Error> {
        let path = self.folder.join("state.json");
        let written = self.folder.join("state.new");
        let bytes = self.state.to_bytes().map_err(Error::io("writing", &path))?;
        fs::write(&written, bytes).and_then(|()| fs::rename(&written, &path)).map_err(Error::io("writing", &path))
    }

    /// Leaves without a trace: what was to start did not.
    pub fn vacate(self) {
        // Nobody may move in meanwhile. Before it is published, the registry's lock is held anyway.
        let lock = match &self.lock {
            Some(_) => None,
            None => self.folder.parent().and_then(|registry| File::open(registry.join(LOCK)).ok()),
        };
        let _unlocked = lock.as_ref().map(File::lock);
        // Left behind, it is a row that says CRASHED.
        let _left = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
