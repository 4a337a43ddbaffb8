//! The enclave image format: reading, writing and measuring `.eif` files.
//!
//! # The format
//!
//! All numbers are big-endian. A file is a header and up to 32 sections, one behind the other:
//!
//! | bytes | header field | what we write |
//! |---|---|---|
//! | 0..4 | magic | `.eif` |
//! | 4..6 | version | 4 |
//! | 6..8 | flags | bit 0: aarch64 |
//! | 8..16 | default_mem | 1 GiB |
//! | 16..24 | default_cpus | 2 |
//! | 24..26 | reserved | 0 |
//! | 26..28 | num_sections | |
//! | 28..284 | offset of each section's header, 32 slots | |
//! | 284..540 | size of each section's data, 32 slots | |
//! | 540..544 | unused | 0 |
//! | 544..548 | CRC-32 of all bytes but these four | |
//!
//! A section is a header of 12 bytes (type, flags, size of the data) and its data. Types: 1 kernel, 2 cmdline,
//! 3 ramdisk, 4 signature, 5 metadata. AWS's builder and ours write kernel, cmdline, metadata, ramdisk 1 (what boots),
//! ramdisk 2 and on (the application), signature.
//!
//! # Who reads it, and how they differ
//!
//! AWS's library walks the sections from byte 548 on and ignores the header's tables; QEMU's machine follows the
//! tables, in the order of the slots, and ignores gaps. Both hash kernel, cmdline and ramdisks in the order in which
//! they meet them, so the definition of PCR0 (kernel, cmdline, ramdisks) holds only for files in that order.
//! [`Eif::open`] takes only files that all of them read alike; [`Eif::examine`] takes what can be taken and lists each
//! [`Fault`]. Where the kernel would misread a ramdisk (a size that is no multiple of 4, with another ramdisk behind
//! it: seen in boots of Linux 6.12), [`Writer`] pads with zeros, inside the section and measured.
//!
//! Flags, suggested memory and CPUs, metadata and the order of sections among themselves are not measured.
//! [`measure`] has the registers.

mod append;
mod fault;
pub mod header;
pub mod measure;
pub mod metadata;
mod reader;
pub mod signature;
mod writer;

use std::io;

use crate::Refusal;

pub use fault::{Fault, Level};
pub use header::{Header, Kind, Section, SectionHeader};
pub use measure::{Measurements, Pcr};
pub use metadata::Metadata;
pub use reader::{Eif, SectionReader, Source};
pub use writer::{Options, Ramdisk, Writer, Written};

/// The longest command line that is read from a file, in bytes. Linux cuts at 2048 on both architectures.
pub const MAX_CMDLINE: u64 = 64 * 1024;
/// The largest metadata section that is read, in bytes. nitro-cli puts all of `docker inspect` into it.
pub const MAX_METADATA: u64 = 4 * 1024 * 1024;
/// The largest signature section that is read, in bytes.
pub const MAX_SIGNATURE: u64 = 1024 * 1024;

/// Why a file is not written, not read or not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, and to what.
        doing: &'static str,
        /// Its words.
        source: io::Error,
    },
    /// The file breaks the format.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The writer was asked for a section out of order.
    #[error("a {next} section cannot stand {}", behind(*.last))]
    Order {
        /// What was asked for.
        next: Kind,
        /// What was written before.
        last: Option<Kind>,
    },
    /// The writer was asked for a section more than the header has slots.
    #[error("section {slot} ({kind}): an .eif holds {} sections", header::MAX_SECTIONS)]
    Full {
        /// The slot that it would have.
        slot: usize,
        /// What it would hold.
        kind: Kind,
    },
    /// The writer was finished before kernel, cmdline, metadata and one ramdisk were there.
    #[error("an .eif needs kernel, cmdline, metadata and a ramdisk, this one ends {}", behind(*.last))]
    Unfinished {
        /// What was written last.
        last: Option<Kind>,
    },
    /// The command line has a byte that the kernel would not see as meant.
    #[error("the kernel command line has a {what} at byte {at}")]
    Cmdline {
        /// `NUL` or `newline`.
        what: &'static str,
        /// Its place, from 0.
        at: usize,
    },
    /// Something that has to be held in memory is larger than any that is in use.
    #[error("{what} has {size} bytes, at most {limit} are taken")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Metadata that cannot be put into a file.
    #[error("{0}")]
    Metadata(String),
    /// A signature that cannot be read or made.
    #[error(transparent)]
    Signature(#[from] signature::Error),
    /// A signature section that is not the last one: without it all others would have other places.
    #[error("{0} is not the last one: it cannot be replaced")]
    SignaturePlace(Section),
    /// A time that has no form in RFC 3339.
    #[error("the build time {0} s is after the year 9999")]
    Time(u64),
}

fn behind(last: Option<Kind>) -> String {
    last.map_or_else(|| "at the start".to_owned(), |kind| format!("behind a {kind} section"))
}

impl Error {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { doing, source }
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "E-eif-io",
            Error::Fault(fault) => fault.code(),
            Error::Order { .. } => "E-eif-order",
            Error::Full { .. } => "E-eif-count",
            Error::Unfinished { .. } => "E-eif-missing",
            Error::Cmdline { .. } => "E-eif-cmdline",
            Error::TooLarge { .. } => "E-eif-limit",
            Error::Metadata(_) => "E-eif-metadata",
            Error::Signature(error) => error.code(),
            Error::SignaturePlace(_) => "E-signature-place",
            Error::Time(_) => "E-eif-time",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Fault(fault) => return vec![fault.help().to_owned()],
            Error::Signature(error) => return error.help(),
            Error::SignaturePlace(_) => "build the file again, and sign it then",
            Error::Full { kind: Kind::Signature, .. } => "a signed file has room for 28 ramdisks: put two into one",
            Error::Cmdline { .. } => "the command line is packed as given: one line, without an end of line",
            Error::Time(_) => "SOURCE_DATE_EPOCH is in seconds since 1970, at most 253402300799",
            Error::Metadata(_) => "--metadata takes a JSON object without a key `eif`",
            _ => return Vec::new(),
        };
        vec![line.to_owned()]
    }
}
