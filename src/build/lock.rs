//! The lock file: what a build came to, meant to be committed, so that the next build can be held to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Record, Report};
use crate::Refusal;
use crate::eif::{Measurements, Pcr, metadata};
use crate::image::Digest;
use crate::output::Output;

/// The form of the file that this version reads and writes.
const VERSION: u64 = 1;
/// A lock may be this large, in bytes.
const LIMIT: u64 = 4 << 20;

/// The lock of one build. In the file the keys of every object are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    lock: u64,
    /// The image as the user named it.
    pub reference: String,
    /// The digest of its manifest, where the transport has one.
    pub manifest_digest: Option<Digest>,
    /// The entry of `kernels.lock` that the kernel is from; `None` for a user's own kernel.
    pub kernel_lock_id: Option<String>,
    /// The compiler of the init; `None` for a user's own init.
    pub toolchain: Option<String>,
    /// What stands in the file.
    pub record: Record,
    /// What the file measures to. PCR8 is no part of it: signing changes no other byte.
    pub measurements: Pcrs,
}

/// The registers that follow from what was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcrs {
    /// The whole file.
    #[serde(rename = "PCR0")]
    pub pcr0: Pcr,
    /// What boots.
    #[serde(rename = "PCR1")]
    pub pcr1: Pcr,
    /// The application.
    #[serde(rename = "PCR2")]
    pub pcr2: Pcr,
}

impl From<Measurements> for Pcrs {
    fn from(measured: Measurements) -> Self {
        Self { pcr0: measured.pcr0, pcr1: measured.pcr1, pcr2: measured.pcr2 }
    }
}

/// A fact that is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// `manifest_digest`, `record.cmdline`, `measurements.PCR0`, …
    pub fact: String,
    /// The lock's value as JSON; `None` where it has none.
    pub locked: Option<String>,
    /// The value now.
    pub now: Option<String>,
}

/// Why there is no lock, or why a build does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is no lock.
    #[error("{}: this is no lock: {why}", .path.display())]
    Broken {
        /// The lock.
        path: PathBuf,
        /// The JSON reader's words.
        why: String,
    },
    /// A lock of another form.
    #[error("{}: a lock of version {found}, this eif reads {VERSION}", .path.display())]
    Version {
        /// The lock.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// A build that came to something else.
    #[error("{}: not what was locked: {}", .path.display(), facts(.drift))]
    Drift {
        /// The lock.
        path: PathBuf,
        /// All of it.
        drift: Vec<Drift>,
    },
}

fn facts(drift: &[Drift]) -> String {
    drift.iter().map(|drift| drift.fact.as_str()).collect::<Vec<_>>().join(", ")
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "E-io",
            Error::Broken { .. } => "E-lock",
            Error::Version { .. } => "E-lock-version",
            Error::Drift { .. } => "E-lock-drift",
        }
    }

    fn help(&self) -> Vec<String> {
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
        match self {
            Error::Io { .. } => vec!["check the path; `eif build IMAGE -o FILE --lock LOCK` writes a lock".to_owned()],
            Error::Broken { .. } => vec!["`eif build IMAGE -o FILE --lock LOCK` writes it anew".to_owned()],
            Error::Version { .. } => vec!["use the version of `eif` that wrote it, or write it anew".to_owned()],
            Error::Drift { drift, .. } => {
                let line = |Drift { fact, locked, now }: &Drift| {
                    format!("{fact}: locked {}, now {}", shown(locked), shown(now))
                };
                let mut lines: Vec<String> = drift.iter().map(line).collect();
                lines.push("if that is meant, build without --locked: the lock is written anew".to_owned());
                lines
            }
        }
    }
}

impl Lock {
    fn of(reference: &str, report: &Report) -> Self {
        Self {
            lock: VERSION,
            reference: reference.to_owned(),
            manifest_digest: report.manifest,
            kernel_lock_id: report.kernel_lock_id.clone(),
            toolchain: report.toolchain.map(str::to_owned),
            record: report.record.clone(),
            measurements: report.measurements.into(),
        }
    }

    /// Reads a lock.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let broken = |why: String| Error::Broken { path: path.to_owned(), why };
        let mut bytes = Vec::new();
        let mut file = File::open(path).map_err(io)?.take(LIMIT.saturating_add(1));
        file.read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > LIMIT {
            return Err(broken(format!("more than {} MiB", LIMIT >> 20)));
        }
        Self::parse(&bytes, path)
    }

    /// Reads the bytes of a lock; `path` names it in messages.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let broken = |why: String| Error::Broken { path: path.to_owned(), why };
        let value: Value = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
        match value.get("lock") {
            Some(version) if version.as_u64() == Some(VERSION) => {}
            Some(other) => return Err(Error::Version { path: path.to_owned(), found: other.to_string() }),
            None => return Err(broken("it has no member `lock`".to_owned())),
        }
        serde_json::from_value(value).map_err(|error| broken(error.to_string()))
    }
}

/// What is another thing in `now` than in `locked` (two locks, or two records), in the order of a lock's keys.
pub fn drift<T: Serialize>(locked: &T, now: &T) -> Vec<Drift> {
    let mut found = Vec::new();
    walk("", Some(&value(locked)), Some(&value(now)), &mut found);
    found
}

fn value(of: &impl Serialize) -> Value {
    // Strings, numbers and objects with string keys always serialise.
    metadata::sorted(serde_json::to_value(of).unwrap_or_default())
}

fn walk(fact: &str, locked: Option<&Value>, now: Option<&Value>, found: &mut Vec<Drift>) {
    if locked == now {
        return;
    }
    if let (Some(Value::Object(one)), Some(Value::Object(other))) = (locked, now) {
        let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let fact = if fact.is_empty() { key.clone() } else { format!("{fact}.{key}") };
            walk(&fact, one.get(key), other.get(key), found);
        }
        return;
    }
    found.push(Drift { fact: fact.to_owned(), locked: locked.map(Value::to_string), now: now.map(Value::to_string) });
}

/// What a build does with a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file.
    pub path: PathBuf,
    /// The image as the user named it: what the lock has as `reference`.
    pub reference: String,
    /// Whether the build must come to what is locked, and the file stays as it is; else it is written.
    pub locked: bool,
}

/// A lock at the beginning of a build: what can be wrong with it is found before anything is built.
pub(super) enum Pending<'a> {
    Check(&'a Request, Box<Lock>),
    Write(&'a Request, Output),
}

impl<'a> Pending<'a> {
    pub(super) fn begin(request: &'a Request) -> Result<Self, Error> {
        if request.locked {
            return Ok(Self::Check(request, Box::new(Lock::read(&request.path)?)));
        }
        let io = |source| Error::Io { path: request.path.clone(), source };
        Ok(Self::Write(request, Output::create(&request.path).map_err(io)?))
    }

    /// Checks, or writes all of the file but its name.
    pub(super) fn settle(&mut self, report: &Report) -> Result<(), Error> {
        match self {
            Self::Check(request, lock) => {
                let drift = drift(&**lock, &Lock::of(&request.reference, report));
                if drift.is_empty() { Ok(()) } else { Err(Error::Drift { path: request.path.clone(), drift }) }
            }
            Self::Write(request, output) => {
                let value = value(&Lock::of(&request.reference, report));
                // The alternate form is serde_json's pretty one, two spaces deep.
                writeln!(output, "{value:#}").map_err(|source| Error::Io { path: request.path.clone(), source })
            }
        }
    }

    /// Gives a written file its name.
    pub(super) fn persist(self) -> Result<(), Error> {
        match self {
            Self::Check(..) => Ok(()),
            Self::Write(request, output) => {
                output.persist().map_err(|source| Error::Io { path: request.path.clone(), source })
            }
        }
    }
}
