//! What is inside a file, told to people and tools: [`inspect`] has its facts and what is wrong with it, [`list`] its
//! ramdisks' entries, [`layout`] its bytes. [`extract`] gives them back as files, and
//! [`compare`] says why two files differ, [`describe`] what `nitro-cli describe-eif` says. [`rebuild`] proves that a file
//! comes from an image.
//!
//! All of it is for files that anyone may have made: whatever has a header is read, what cannot be read is named, and
//! memory does not grow with the file.

mod choices;
mod compare;
mod contents;
mod description;
mod extract;
mod index;
mod inspection;
mod layout;
mod lines;
mod listing;
mod nitro_cli;
mod rebuild;
mod record;
mod remeasure;
mod source;
mod tarball;

use std::io::{self, Read};
use std::path::PathBuf;

use crate::chunk::{CHUNK, Chunk};
use crate::initramfs::newc;
use crate::{Refusal, eif, escaped};

pub use compare::{Difference, Scope, compare};
pub use description::{Described, Description, SigningCertificate, describe};
pub use extract::{Extracted, Request, extract};
pub use inspection::{Certificate, Finding, Inspection, Kernel, Ramdisk, Section, Signature, inspect};
pub use layout::{Range, layout};
pub use listing::{Listing, list};
pub use rebuild::{Basis, Proof, Undecided, Verdict, rebuild};
pub use remeasure::{NitroProof, nitro_cli_plan};
pub use source::Tools;
pub use tarball::rootfs;

/// Entries of a ramdisk that are compared at most. A tmpfs in 64 GiB of memory has as many inodes.
const MAX_ENTRIES: usize = 8 << 20;

/// Whether `equal` holds for each piece of two streams and its place; it is told when one is shorter than the other.
fn chunks(mut one: impl Read, mut other: impl Read, equal: impl Fn(u64, &[u8], &[u8]) -> bool) -> io::Result<bool> {
    let (mut a, mut b) = (Chunk::new(), Chunk::new());
    let mut at = 0_u64;
    loop {
        a.clear();
        b.clear();
        a.fill(&mut one, CHUNK)?;
        b.fill(&mut other, CHUNK)?;
        if !equal(at, &a, &b) {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
        at = at.saturating_add(a.len() as u64);
    }
}

/// Why a file's contents are not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself.
    #[error(transparent)]
    Eif(#[from] eif::Error),
    /// The operating system refused to read it.
    #[error("reading the .eif: {0}")]
    Read(#[from] io::Error),
    /// What is told could not be written.
    #[error("writing: {0}")]
    Write(io::Error),
    /// A ramdisk is broken.
    #[error("ramdisk {number}, {source}")]
    Ramdisk {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        source: newc::Error,
    },
    /// A ramdisk is packed with something that is not read here.
    #[error("ramdisk {number} is packed with {name}, which is not read here")]
    Format {
        /// Which one, from 1.
        number: usize,
        /// The compressor.
        name: &'static str,
    },
    /// A ramdisk has more entries than an enclave has inodes: an index of them would fill the memory.
    #[error("ramdisk {number} has more than {MAX_ENTRIES} entries")]
    TooManyEntries {
        /// Which one, from 1.
        number: usize,
    },
    /// No ramdisk has an application's tree.
    #[error("no ramdisk has a folder `rootfs`")]
    NoRootfs,
    /// A name that leads out of the tree.
    #[error("ramdisk {number}: entry \"{}\" has a component `..`", escaped(.name))]
    Name {
        /// Which one, from 1.
        number: usize,
        /// The entry.
        name: Vec<u8>,
    },
    /// The file `xattrs` beside the tree is broken or too large.
    #[error("{0}")]
    Xattrs(String),
    /// Something stands where a file should go.
    #[error("{}: it is there already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{}: {source}", .path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Eif(error) => error.code(),
            Error::Read(_) | Error::Write(_) => "E-io",
            Error::Ramdisk { source, .. } => source.code(),
            Error::Format { .. } => "E-ramdisk-format",
            Error::TooManyEntries { .. } => "E-ramdisk-entries",
            Error::NoRootfs => "E-rootfs",
            Error::Name { .. } => "E-name",
            Error::Xattrs(_) => "E-xattrs",
            Error::Exists(_) => "E-exists",
            Error::Output { .. } => "E-output",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Eif(error) => return error.help(),
            Error::Ramdisk { source, .. } => return source.help(),
            Error::Format { .. } => "`eif extract FILE -C DIR` gives it as it is, for another tool to unpack",
            Error::TooManyEntries { .. } => "that is far beyond what enclaves hold: the file was made to mislead",
            Error::NoRootfs => "the file keeps its application elsewhere: `eif inspect FILE --files` lists it",
            Error::Exists(_) => "pass --force to replace it",
            Error::Name { .. } | Error::Xattrs(_) => "the file was made to mislead, or is broken",
            Error::Output { .. } => "check that the folder may be written to and has room",
            Error::Read(_) | Error::Write(_) => return Vec::new(),
        };
        vec![line.to_owned()]
    }
}
