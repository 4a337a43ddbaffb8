//! Each way in which a file can break the format or surprise one of its readers, with its words and its place.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fmt;

use super::header::{HEADER_SIZE, Kind, MAX_SECTIONS, Section, VERSION};

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Some reader takes it, and boots what was meant.
    Warning,
    /// Some reader refuses the file, or two readers see different files.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

/// Something wrong with a file. `Display` is one line; sections are named by their slot, from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file ends inside its header.
    #[error("the file has {0} bytes, an .eif header has {HEADER_SIZE}")]
    Short(u64),
    /// It does not begin with `.eif`.
    #[error("the file does not begin with `.eif`")]
    Magic,
    /// A version before the metadata section.
    #[error("the version is {0}, a file of today has {VERSION}")]
    OldVersion(u16),
    /// A version that nobody has written yet.
    #[error("the version is {0}, known is {VERSION}")]
    NewVersion(u16),
    /// A flag without a meaning.
    #[error("the header's flags are {0:#06x}, only bit 0 (aarch64) has a meaning")]
    Flags(u16),
    /// A field that should be zero.
    #[error("the header's field `{name}` is {value:#x}, it should be 0")]
    Reserved {
        /// The field.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Where it stands.
        offset: u64,
    },
    /// More sections than slots, or none.
    #[error("the header counts {0} sections, between 1 and {MAX_SECTIONS} are possible")]
    Count(u16),
    /// A section that is missing.
    #[error("there is no {0} section")]
    Missing(Kind),
    /// A second section of a type that may be there once.
    #[error("{0} is the second of its type")]
    Duplicate(Section),
    /// A section header that is not all in the file.
    #[error("section {slot} should begin at offset {offset:#x}, the file has {file}")]
    Outside {
        /// Its slot.
        slot: usize,
        /// Its offset, as the header has it.
        offset: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// A section whose data are not all in the file.
    #[error("{section} claims {} bytes at offset {:#x}, the file has {file}", .section.size, .section.offset)]
    Bounds {
        /// The section, as its header has it.
        section: Section,
        /// Bytes of the file.
        file: u64,
    },
    /// Header and section header have different sizes.
    #[error("{section} has {} bytes, the file header says {table}", .section.size)]
    Size {
        /// The section, as its header has it.
        section: Section,
        /// The size in the file header's table.
        table: u64,
    },
    /// A section header with flags.
    #[error("{0} has the flags {flags:#06x}, none has a meaning", flags = .0.flags)]
    SectionFlags(Section),
    /// A type without a meaning.
    #[error("{0} is of no known type")]
    Type(Section),
    /// Two sections share bytes, or a section begins inside the header.
    #[error("{section} begins at offset {:#x}, what is before it ends at {end:#x}", .section.offset)]
    Overlap {
        /// The second of the two.
        section: Section,
        /// Where the first one ends.
        end: u64,
    },
    /// Bytes between two sections.
    #[error("{section} begins at offset {:#x}, {} bytes behind what is before it", .section.offset, .section.offset.saturating_sub(*.end))]
    Gap {
        /// The section behind the gap.
        section: Section,
        /// Where the gap begins.
        end: u64,
    },
    /// Bytes behind the last section.
    #[error("{bytes} bytes follow the last section, which ends at offset {offset:#x}")]
    Trailing {
        /// How many.
        bytes: u64,
        /// Where they begin.
        offset: u64,
    },
    /// The slots are in another order than the sections.
    #[error("{0} stands in the file before a section of a lower slot")]
    TableOrder(Section),
    /// Kernel, cmdline and ramdisks are not in the order of PCR0's definition.
    #[error("{section} stands behind a {behind} section, the measured order is kernel, cmdline, ramdisks")]
    Order {
        /// The section that is late.
        section: Section,
        /// What should stand behind it.
        behind: Kind,
    },
    /// The sum of the bytes is another than the header's.
    #[error("the CRC of the file is {computed:08x}, the header says {stored:08x}")]
    Crc {
        /// Of the bytes that are there.
        computed: u32,
        /// As the header has it.
        stored: u32,
    },
    /// A ramdisk that makes the kernel misread the next one.
    #[error("{0} has a size that is no multiple of 4, and another ramdisk follows")]
    Unpadded(Section),
    /// A section that is read into memory is too large for that.
    #[error("{section} has {} bytes, at most {limit} are read", .section.size)]
    TooLarge {
        /// The section.
        section: Section,
        /// The limit in bytes.
        limit: u64,
    },
    /// Metadata that AWS's reader refuses.
    #[error("{section} is not AWS's object: {why}")]
    Metadata {
        /// The section.
        section: Section,
        /// What the JSON reader says.
        why: String,
    },
    /// A command line with bytes that end or split it.
    #[error("{section} has a {what} at byte {at}")]
    Cmdline {
        /// The section.
        section: Section,
        /// `NUL` or `newline`.
        what: &'static str,
        /// Where, from the start of the data.
        at: usize,
    },
    /// A signature section that cannot be read.
    #[error("{section} cannot be read: {why}")]
    Signature {
        /// The section.
        section: Section,
        /// Why.
        why: String,
    },
}

impl Fault {
    /// The stable code: `E-eif-…` where [`Eif::open`](super::Eif::open) refuses, else `W-eif-…`.
    pub fn code(&self) -> &'static str {
        match self {
            Fault::Short(_) => "E-eif-short",
            Fault::Magic => "E-eif-magic",
            Fault::OldVersion(_) => "E-eif-version",
            Fault::NewVersion(_) => "W-eif-version",
            Fault::Flags(_) => "E-eif-flags",
            Fault::Reserved { .. } => "W-eif-reserved",
            Fault::Count(_) => "E-eif-count",
            Fault::Missing(Kind::Metadata) => "W-eif-missing",
            Fault::Missing(_) => "E-eif-missing",
            Fault::Duplicate(_) => "E-eif-duplicate",
            Fault::Outside { .. } | Fault::Bounds { .. } => "E-eif-bounds",
            Fault::Size { .. } => "E-eif-size",
            Fault::SectionFlags(_) => "E-eif-section-flags",
            Fault::Type(_) => "E-eif-type",
            Fault::Overlap { .. } => "E-eif-overlap",
            Fault::Gap { .. } => "E-eif-gap",
            Fault::Trailing { .. } => "E-eif-trailing",
            Fault::TableOrder(_) => "E-eif-table-order",
            Fault::Order { .. } => "E-eif-order",
            Fault::Crc { .. } => "E-eif-crc",
            Fault::Unpadded(_) => "W-eif-unpadded",
            Fault::TooLarge { .. } => "E-eif-limit",
            Fault::Metadata { .. } => "E-eif-metadata",
            Fault::Cmdline { .. } => "W-eif-cmdline",
            Fault::Signature { .. } => "E-eif-signature",
        }
    }

    /// Whether a strict reader refuses the file.
    pub fn level(&self) -> Level {
        if self.code().starts_with("E-") { Level::Error } else { Level::Warning }
    }

    /// Where in the file to look.
    pub fn offset(&self) -> u64 {
        match self {
            Fault::Short(size) => *size,
            Fault::Magic => 0,
            Fault::OldVersion(_) | Fault::NewVersion(_) => 4,
            Fault::Flags(_) => 6,
            Fault::Count(_) | Fault::Missing(_) => 26,
            Fault::Crc { .. } => 544,
            Fault::Reserved { offset, .. } | Fault::Outside { offset, .. } | Fault::Trailing { offset, .. } => *offset,
            Fault::Gap { end, .. } => *end,
            Fault::Duplicate(section)
            | Fault::Bounds { section, .. }
            | Fault::Size { section, .. }
            | Fault::SectionFlags(section)
            | Fault::Type(section)
            | Fault::Overlap { section, .. }
            | Fault::TableOrder(section)
            | Fault::Order { section, .. }
            | Fault::Unpadded(section)
            | Fault::TooLarge { section, .. }
            | Fault::Metadata { section, .. }
            | Fault::Cmdline { section, .. }
            | Fault::Signature { section, .. } => section.offset,
        }
    }

    /// Whether the file's sections are not what they seem, so that no sum or measurement of it has a meaning.
    pub fn hides_bytes(&self) -> bool {
        matches!(
            self,
            Fault::Count(_)
                | Fault::Outside { .. }
                | Fault::Bounds { .. }
                | Fault::Overlap { .. }
                | Fault::TableOrder(_)
        )
    }

    /// What to do about it, one line.
    pub fn help(&self) -> &'static str {
        match self {
            Fault::Magic => "this is no enclave image; `eif build` makes one from a container image",
            Fault::Short(_) | Fault::Outside { .. } | Fault::Bounds { .. } => {
                "the file was cut, or made to mislead: fetch or build it again"
            }
            Fault::Crc { .. } => "a byte was changed after the file was written: fetch or build it again",
            Fault::Size { .. } => {
                "`nitro-cli sign-eif` leaves such a file when it replaces a signature by one of another size"
            }
            _ => "`eif inspect FILE` lists all that is wrong with it",
        }
    }
}
