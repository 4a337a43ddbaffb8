//! The fixed-size parts of the file: the header, the section headers, and what their numbers mean.
//!
//! Source of the facts: `EifHeader`, `EifSectionHeader` and `EifSectionType` of AWS's crate
//! `aws-nitro-enclaves-image-format` 0.8 (`src/defs/mod.rs`), and QEMU's `hw/core/eif.c`, which reads the same files.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fmt;

use crate::Arch;

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b".eif";
/// The version that we and AWS's tools write. 2 brought the CRC, 3 the signature, 4 the metadata.
pub const VERSION: u16 = 4;
/// Bit 0 of the header's flags: set for aarch64, clear for x86_64. No other bit has a meaning.
pub const FLAG_AARCH64: u16 = 1;
/// Slots in the header's two tables, and so the most sections that a file can have.
pub const MAX_SECTIONS: usize = 32;
/// Bytes of the file header.
pub const HEADER_SIZE: usize = 548;
/// Bytes of a section header.
pub const SECTION_HEADER_SIZE: usize = 12;
/// Where the CRC stands: the last four bytes of the header, the only ones that it does not cover.
pub const CRC_OFFSET: usize = 544;
/// Memory that AWS's builder suggests, in bytes. Nothing enforces it.
pub const DEFAULT_MEMORY: u64 = 1 << 30;
/// Number of CPUs that AWS's builder suggests. Nothing enforces it.
pub const DEFAULT_CPUS: u64 = 2;

/// [`HEADER_SIZE`] as the file counts its offsets.
pub const FIRST_SECTION: u64 = 548;
/// [`SECTION_HEADER_SIZE`] as the file counts its sizes.
pub const SECTION_HEADER: u64 = 12;

// magic, version, flags, default_mem, default_cpus, reserved, num_sections, offsets, sizes, unused, crc32
const _: () = assert!(4 + 2 + 2 + 8 + 8 + 2 + 2 + 8 * MAX_SECTIONS + 8 * MAX_SECTIONS + 4 + 4 == HEADER_SIZE);
// type, flags, size
const _: () = assert!(2 + 2 + 8 == SECTION_HEADER_SIZE);
const _: () = assert!(CRC_OFFSET + 4 == HEADER_SIZE);
const _: () = assert!(FIRST_SECTION == HEADER_SIZE as u64 && SECTION_HEADER == SECTION_HEADER_SIZE as u64);

/// The file header. All numbers are big-endian on disk; the magic stands before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The format's version.
    pub version: u16,
    /// [`FLAG_AARCH64`] or 0.
    pub flags: u16,
    /// Suggested memory in bytes.
    pub default_mem: u64,
    /// Suggested number of CPUs.
    pub default_cpus: u64,
    /// 0.
    pub reserved: u16,
    /// How many slots of the two tables are in use.
    pub num_sections: u16,
    /// Where each section's header begins, from the start of the file. Unused slots are 0.
    pub offsets: [u64; MAX_SECTIONS],
    /// Bytes of each section without its header. Unused slots are 0.
    pub sizes: [u64; MAX_SECTIONS],
    /// 0.
    pub unused: u32,
    /// CRC-32 (ISO-HDLC, zlib's) of the header's first 544 bytes and of all sections with their headers.
    pub crc32: u32,
}

impl Header {
    /// A header without sections, with AWS's suggestions.
    pub fn new(arch: Arch) -> Self {
        Self {
            version: VERSION,
            flags: if arch == Arch::Aarch64 { FLAG_AARCH64 } else { 0 },
            default_mem: DEFAULT_MEMORY,
            default_cpus: DEFAULT_CPUS,
            reserved: 0,
            num_sections: 0,
            offsets: [0; MAX_SECTIONS],
            sizes: [0; MAX_SECTIONS],
            unused: 0,
            crc32: 0,
        }
    }

    /// What bit 0 of the flags says.
    pub fn arch(&self) -> Arch {
        if self.flags & FLAG_AARCH64 == 0 { Arch::X86_64 } else { Arch::Aarch64 }
    }

    /// Reads a header; `None` if the magic is another.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Option<Self> {
        let mut take = Take(bytes);
        if take.array() != MAGIC {
            return None;
        }
        Some(Self {
            version: take.u16(),
            flags: take.u16(),
            default_mem: take.u64(),
            default_cpus: take.u64(),
            reserved: take.u16(),
            num_sections: take.u16(),
            offsets: std::array::from_fn(|_| take.u64()),
            sizes: std::array::from_fn(|_| take.u64()),
            unused: take.u32(),
            crc32: take.u32(),
        })
    }

    /// The header as it stands in the file.
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut put = Put(&mut bytes);
        put.bytes(&MAGIC);
        put.bytes(&self.version.to_be_bytes());
        put.bytes(&self.flags.to_be_bytes());
        put.bytes(&self.default_mem.to_be_bytes());
        put.bytes(&self.default_cpus.to_be_bytes());
        put.bytes(&self.reserved.to_be_bytes());
        put.bytes(&self.num_sections.to_be_bytes());
        self.offsets.iter().chain(&self.sizes).for_each(|number| put.bytes(&number.to_be_bytes()));
        put.bytes(&self.unused.to_be_bytes());
        put.bytes(&self.crc32.to_be_bytes());
        bytes
    }
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Type 1: a bzImage (x86_64) or an Image (aarch64).
    Kernel,
    /// Type 2: the kernel's command line, without a NUL at its end.
    Cmdline,
    /// Type 3: an initramfs archive, compressed or not. The first one boots, the others are the application.
    Ramdisk,
    /// Type 4: CBOR, a signature over PCR0 and its certificate.
    Signature,
    /// Type 5: JSON for people and tools. It is not measured.
    Metadata,
    /// Any other number: QEMU skips such a section, AWS's library refuses the file.
    Other(u16),
}

impl Kind {
    /// From the number in a section header.
    pub fn from_number(number: u16) -> Self {
        match number {
            1 => Kind::Kernel,
            2 => Kind::Cmdline,
            3 => Kind::Ramdisk,
            4 => Kind::Signature,
            5 => Kind::Metadata,
            other => Kind::Other(other),
        }
    }

    /// The number in a section header.
    pub fn number(self) -> u16 {
        match self {
            Kind::Kernel => 1,
            Kind::Cmdline => 2,
            Kind::Ramdisk => 3,
            Kind::Signature => 4,
            Kind::Metadata => 5,
            Kind::Other(number) => number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Kernel => f.write_str("kernel"),
            Kind::Cmdline => f.write_str("cmdline"),
            Kind::Ramdisk => f.write_str("ramdisk"),
            Kind::Signature => f.write_str("signature"),
            Kind::Metadata => f.write_str("metadata"),
            Kind::Other(number) => write!(f, "type {number}"),
        }
    }
}

/// A section header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHeader {
    /// What the section holds.
    pub kind: Kind,
    /// 0: no flag has a meaning, and QEMU refuses all of them.
    pub flags: u16,
    /// Bytes that follow this header.
    pub size: u64,
}

impl SectionHeader {
    /// Reads a section header; any number is a type.
    pub fn from_bytes(bytes: &[u8; SECTION_HEADER_SIZE]) -> Self {
        let mut take = Take(bytes);
        Self { kind: Kind::from_number(take.u16()), flags: take.u16(), size: take.u64() }
    }

    /// The section header as it stands in the file.
    pub fn to_bytes(&self) -> [u8; SECTION_HEADER_SIZE] {
        let mut bytes = [0; SECTION_HEADER_SIZE];
        let mut put = Put(&mut bytes);
        put.bytes(&self.kind.number().to_be_bytes());
        put.bytes(&self.flags.to_be_bytes());
        put.bytes(&self.size.to_be_bytes());
        bytes
    }
}

/// A section and its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its slot in the header's tables, from 0.
    pub slot: usize,
    /// What it holds.
    pub kind: Kind,
    /// The section header's flags.
    pub flags: u16,
    /// Where its header begins, from the start of the file; the data follow 12 bytes later.
    pub offset: u64,
    /// Bytes of data, without the header.
    pub size: u64,
}

impl Section {
    /// Where the data begin, from the start of the file.
    pub fn data_offset(&self) -> u64 {
        self.offset.saturating_add(SECTION_HEADER)
    }

    /// The first byte behind the data.
    pub fn end(&self) -> u64 {
        self.data_offset().saturating_add(self.size)
    }

    /// Its header.
    pub fn header(&self) -> SectionHeader {
        SectionHeader { kind: self.kind, flags: self.flags, size: self.size }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section {} ({})", self.slot, self.kind)
    }
}

/// Takes fields from the front of a header. The headers are arrays whose sizes are asserted to be the sum of their
/// fields, so it never runs dry.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, tail)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = tail;
        *head
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }
}

/// Puts fields to the front of a header, the reverse of [`Take`].
struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = tail;
    }
}
