//! Reads files that anyone may have made: every offset and size is checked against the file before it is used, and
//! memory does not depend on the file's size.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::header::{CRC_OFFSET, FIRST_SECTION, HEADER_SIZE, Header, Kind, MAX_SECTIONS, SECTION_HEADER_SIZE, Section};
use super::header::{FLAG_AARCH64, MAGIC, SECTION_HEADER, SectionHeader, VERSION};
use super::measure::{Measurements, Measurer, Part};
use super::writer::forbidden;
use super::{Error, Fault, Level, MAX_CMDLINE, MAX_METADATA, MAX_SIGNATURE, Metadata, signature};
use crate::Arch;
use crate::chunk::{Chunk, to_boundary};

/// Bytes with a known size that can be read at any place: a file, or a slice in tests.
pub trait Source {
    /// How many bytes there are.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
            return Err(io::Error::other(format!("it is {what}, and only a regular file can be read in any order")));
        }
        Ok(metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl Source for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        rest.read(buffer)
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

/// An opened file: its header, and the sections that lie inside it, in file order.
#[derive(Debug)]
pub struct Eif<S = File> {
    source: S,
    size: u64,
    header: Header,
    sections: Vec<Section>,
    crc: Option<u32>,
    faults: Vec<Fault>,
}

impl<S: Source> Eif<S> {
    /// Opens a file that every reader takes and understands alike: structure and CRC are checked, so the file is read
    /// once to its end.
    ///
    /// # Errors
    /// The first [`Fault`] that is an error, or the operating system's words.
    pub fn open(source: S) -> Result<Self, Error> {
        let mut eif = Self::examine(source)?;
        match eif.faults.iter().position(|fault| fault.level() == Level::Error) {
            Some(first) => Err(eif.faults.swap_remove(first).into()),
            None => Ok(eif),
        }
    }

    /// Opens whatever has a header, and collects what is wrong with it in [`Eif::faults`].
    ///
    /// # Errors
    /// No header or no magic, or the operating system's words.
    pub fn examine(source: S) -> Result<Self, Error> {
        let size = source.size().map_err(Error::io("reading the .eif"))?;
        let bytes = header_bytes(&source, size)?;
        let header = Header::from_bytes(&bytes).ok_or(Fault::Magic)?;
        let mut eif = Self { source, size, header, sections: Vec::new(), crc: None, faults: Vec::new() };
        eif.check_header();
        eif.find_sections()?;
        eif.check_layout();
        eif.check_kinds();
        eif.check_crc(&bytes)?;
        eif.check_contents()?;
        Ok(eif)
    }

    /// What is wrong with the file; empty for a file of ours. Structure first, then the CRC, then contents.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The file header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the header's flag says; the kernel may contradict it.
    pub fn arch(&self) -> Arch {
        self.header.arch()
    }

    /// The sections, in file order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The first section of this kind.
    pub fn section(&self, kind: Kind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// All ramdisks, in file order: the first one boots, the others are the application.
    pub fn ramdisks(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(|section| section.kind == Kind::Ramdisk)
    }

    /// The CRC-32 of the file's bytes, or `None` where its sections overlap or are cut.
    pub fn computed_crc(&self) -> Option<u32> {
        self.crc
    }

    /// Whether the file's bytes have the CRC that its header says.
    pub fn crc_ok(&self) -> bool {
        self.crc == Some(self.header.crc32)
    }

    /// A section's data as a stream.
    pub fn read(&self, section: &Section) -> SectionReader<'_, S> {
        SectionReader { source: &self.source, offset: section.data_offset(), left: section.size }
    }

    /// The kernel's command line.
    ///
    /// # Errors
    /// There is none, or it has more than [`MAX_CMDLINE`] bytes, or it cannot be read.
    pub fn cmdline(&self) -> Result<Vec<u8>, Error> {
        let section = self.section(Kind::Cmdline).ok_or(Fault::Missing(Kind::Cmdline))?;
        self.in_memory(section, MAX_CMDLINE)
    }

    /// The metadata, if there are any.
    ///
    /// # Errors
    /// More than [`MAX_METADATA`] bytes, not AWS's object, or they cannot be read.
    pub fn metadata(&self) -> Result<Option<Metadata>, Error> {
        let Some(section) = self.section(Kind::Metadata) else { return Ok(None) };
        let bytes = self.in_memory(section, MAX_METADATA)?;
        match Metadata::from_bytes(&bytes) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) => Err(Fault::Metadata { section: *section, why: error.to_string() }.into()),
        }
    }

    /// The signature section's bytes, if there is one.
    ///
    /// # Errors
    /// More than [`MAX_SIGNATURE`] bytes, or they cannot be read.
    pub fn signature(&self) -> Result<Option<Vec<u8>>, Error> {
        self.section(Kind::Signature).map(|section| self.in_memory(section, MAX_SIGNATURE)).transpose()
    }

    /// The file as it was before its signature was put behind the other sections; the same file where none stands
    /// there. No fault is carried over.
    ///
    /// # Errors
    /// Reading fails.
    pub fn unsigned(&self) -> Result<Eif<&S>, Error> {
        let (header, sections) = (self.header.clone(), self.sections.clone());
        let mut eif =
            Eif { source: &self.source, size: self.size, header, sections, crc: self.crc, faults: Vec::new() };
        let count = usize::from(self.header.num_sections);
        let last = eif.sections.pop_if(|last| last.kind == Kind::Signature && last.slot.saturating_add(1) == count);
        let Some(Section { slot, offset, .. }) = last else { return Ok(eif) };
        eif.size = offset;
        eif.header.num_sections = self.header.num_sections.saturating_sub(1);
        for table in [&mut eif.header.offsets, &mut eif.header.sizes] {
            table.iter_mut().skip(slot).for_each(|field| *field = 0);
        }
        eif.check_crc(&eif.header.to_bytes())?;
        eif.faults.clear();
        eif.header.crc32 = eif.crc.unwrap_or_default();
        Ok(eif)
    }

    /// The registers, computed from the data in file order, as AWS's library does. PCR8 is there if the file is signed.
    ///
    /// QEMU hashes in the order of the header's slots; where that is another order, no value is right, and there is an
    /// [`Fault::TableOrder`]. Kernel, cmdline and ramdisks in another order than that are measured as they come:
    /// [`Fault::Order`].
    ///
    /// # Errors
    /// A fault that hides bytes (see [`Fault::hides_bytes`]), a signature that cannot be read, reading fails.
    pub fn measure(&self, threads: usize) -> Result<Measurements, Error> {
        if let Some(fault) = self.faults.iter().find(|fault| fault.hides_bytes()) {
            return Err(fault.clone().into());
        }
        let mut measurer = Measurer::new(threads);
        let mut chunk = Chunk::new();
        let mut ramdisks = self.ramdisks().map(|ramdisk| ramdisk.slot);
        let first_ramdisk = ramdisks.next();
        for section in &self.sections {
            let Some(part) = part(section, first_ramdisk) else { continue };
            let mut data = self.read(section);
            while data.next_chunk(&mut chunk)? {
                measurer.feed(part, &mut chunk);
            }
        }
        Ok(Measurements { pcr8: self.pcr8()?, ..measurer.finish() })
    }

    fn pcr8(&self) -> Result<Option<super::Pcr>, Error> {
        let (Some(section), Some(cbor)) = (self.section(Kind::Signature), self.signature()?) else { return Ok(None) };
        match signature::pcr8(&cbor) {
            Ok(pcr8) => Ok(Some(pcr8)),
            Err(why) => Err(Fault::Signature { section: *section, why: why.to_string() }.into()),
        }
    }

    fn in_memory(&self, section: &Section, limit: u64) -> Result<Vec<u8>, Error> {
        if section.size > limit {
            return Err(Fault::TooLarge { section: *section, limit }.into());
        }
        let mut bytes = vec![0; usize::try_from(section.size).unwrap_or_default()];
        read_exact_at(&self.source, &mut bytes, section.data_offset())?;
        Ok(bytes)
    }

    fn check_header(&mut self) {
        let header = &self.header;
        match header.version {
            old if old < VERSION => self.faults.push(Fault::OldVersion(old)),
            new if new > VERSION => self.faults.push(Fault::NewVersion(new)),
            _ => {}
        }
        if header.flags & !FLAG_AARCH64 != 0 {
            self.faults.push(Fault::Flags(header.flags));
        }
        if header.num_sections == 0 || usize::from(header.num_sections) > MAX_SECTIONS {
            self.faults.push(Fault::Count(header.num_sections));
        }
        let fields = [("reserved", u64::from(header.reserved), 24), ("unused", u64::from(header.unused), 540)];
        let count = usize::from(header.num_sections);
        let slots = |name, table: &[u64; MAX_SECTIONS], at: u64| {
            let places = (at..).step_by(8);
            let slots = table.iter().zip(places).skip(count).map(move |(value, place)| (name, *value, place));
            slots.collect::<Vec<_>>()
        };
        let unused =
            [slots("section_offsets", &header.offsets, 28), slots("section_sizes", &header.sizes, 284)].concat();
        for (name, value, offset) in fields.into_iter().chain(unused).filter(|(_, value, _)| *value != 0) {
            self.faults.push(Fault::Reserved { name, value, offset });
        }
    }

    /// Follows the header's tables. Only sections that lie inside the file are kept, in file order.
    fn find_sections(&mut self) -> Result<(), Error> {
        let slots = self.header.offsets.into_iter().zip(self.header.sizes).take(usize::from(self.header.num_sections));
        for (slot, (offset, table)) in slots.enumerate() {
            if offset.checked_add(SECTION_HEADER).is_none_or(|end| end > self.size) {
                self.faults.push(Fault::Outside { slot, offset, file: self.size });
                continue;
            }
            let mut bytes = [0; SECTION_HEADER_SIZE];
            read_exact_at(&self.source, &mut bytes, offset)?;
            let SectionHeader { kind, flags, size } = SectionHeader::from_bytes(&bytes);
            let section = Section { slot, kind, flags, offset, size };
            if size != table {
                self.faults.push(Fault::Size { section, table });
            }
            match section.data_offset().checked_add(size) {
                Some(end) if end <= self.size => self.sections.push(section),
                _ => self.faults.push(Fault::Bounds { section, file: self.size }),
            }
        }
        self.sections.sort_by_key(|section| (section.offset, section.slot));
        Ok(())
    }

    /// Sections must follow each other without overlap or gap, in the order of their slots, to the file's end.
    fn check_layout(&mut self) {
        let mut end = FIRST_SECTION;
        let mut slot = None;
        for &section in &self.sections {
            if section.offset < end {
                self.faults.push(Fault::Overlap { section, end });
            } else if section.offset > end {
                self.faults.push(Fault::Gap { section, end });
            }
            if slot > Some(section.slot) {
                self.faults.push(Fault::TableOrder(section));
            }
            end = end.max(section.end());
            slot = slot.max(Some(section.slot));
        }
        if end < self.size && !self.hides_bytes() {
            self.faults.push(Fault::Trailing { bytes: self.size.saturating_sub(end), offset: end });
        }
    }

    /// What has to be there, what may be there once, and the order of what is measured.
    fn check_kinds(&mut self) {
        for kind in [Kind::Kernel, Kind::Cmdline, Kind::Ramdisk, Kind::Metadata] {
            if self.section(kind).is_none() {
                self.faults.push(Fault::Missing(kind));
            }
        }
        let mut seen: Vec<Kind> = Vec::new();
        let mut latest = Kind::Kernel;
        for &section in &self.sections {
            if section.flags != 0 {
                self.faults.push(Fault::SectionFlags(section));
            }
            match section.kind {
                Kind::Other(_) => self.faults.push(Fault::Type(section)),
                Kind::Ramdisk => {}
                kind if seen.contains(&kind) => self.faults.push(Fault::Duplicate(section)),
                _ => {}
            }
            if matches!(section.kind, Kind::Kernel | Kind::Cmdline | Kind::Ramdisk) {
                if section.kind < latest {
                    self.faults.push(Fault::Order { section, behind: latest });
                }
                latest = latest.max(section.kind);
            }
            seen.push(section.kind);
        }
    }

    /// The sum of the header but its last four bytes and of each section with its header, in file order. Gaps have no
    /// part in it (QEMU; AWS's library knows no gaps). Overlapping sections are not summed: 32 of them could each be
    /// as large as the file.
    fn check_crc(&mut self, header: &[u8; HEADER_SIZE]) -> Result<(), Error> {
        if self.hides_bytes() {
            return Ok(());
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(header.get(..CRC_OFFSET).unwrap_or_default());
        let mut chunk = Chunk::new();
        for section in &self.sections {
            crc.update(&section.header().to_bytes());
            let mut data = self.read(section);
            while data.next_chunk(&mut chunk)? {
                crc.update(&chunk);
            }
        }
        let (computed, stored) = (crc.finalize(), self.header.crc32);
        self.crc = Some(computed);
        if computed != stored {
            self.faults.push(Fault::Crc { computed, stored });
        }
        Ok(())
    }

    fn check_contents(&mut self) -> Result<(), Error> {
        let last_ramdisk = self.ramdisks().last().copied();
        let unpadded =
            self.ramdisks().filter(|ramdisk| !ramdisk.size.is_multiple_of(4) && Some(**ramdisk) != last_ramdisk);
        let mut faults: Vec<Fault> = unpadded.map(|ramdisk| Fault::Unpadded(*ramdisk)).collect();
        if let Some(&section) = self.section(Kind::Cmdline) {
            let cmdline = fault_or(self.cmdline(), &mut faults)?.unwrap_or_default();
            faults.extend(forbidden(&cmdline).map(|(what, at)| Fault::Cmdline { section, what, at }));
        }
        fault_or(self.metadata(), &mut faults)?;
        fault_or(self.pcr8(), &mut faults)?;
        self.faults.append(&mut faults);
        Ok(())
    }

    fn hides_bytes(&self) -> bool {
        self.faults.iter().any(Fault::hides_bytes)
    }
}

/// The header; of a file that is too short for one, what it most likely is: a cut .eif, or none at all.
fn header_bytes(source: &impl Source, size: u64) -> Result<[u8; HEADER_SIZE], Error> {
    let mut bytes = [0; HEADER_SIZE];
    let there = usize::try_from(size).unwrap_or(HEADER_SIZE).min(HEADER_SIZE);
    read_exact_at(source, bytes.get_mut(..there).unwrap_or_default(), 0)?;
    if size >= FIRST_SECTION {
        Ok(bytes)
    } else if bytes.starts_with(&MAGIC) {
        Err(Fault::Short(size).into())
    } else {
        Err(Fault::Magic.into())
    }
}

/// Which registers a section goes to.
fn part(section: &Section, first_ramdisk: Option<usize>) -> Option<Part> {
    match section.kind {
        Kind::Kernel | Kind::Cmdline => Some(Part::Boot),
        Kind::Ramdisk if Some(section.slot) == first_ramdisk => Some(Part::Boot),
        Kind::Ramdisk => Some(Part::Application),
        _ => None,
    }
}

/// Puts a fault with the others; any other error stays one.
fn fault_or<T>(result: Result<T, Error>, faults: &mut Vec<Fault>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Fault(Fault::Missing(_))) => Ok(None),
        Err(Error::Fault(fault)) => {
            faults.push(fault);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

fn read_exact_at(source: &impl Source, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
    let mut reader = SectionReader { source, offset, left: buffer.len() as u64 };
    reader.read_exact(buffer).map_err(Error::io("reading the .eif"))
}

/// The data of one section. It ends where the section ends; a file that was cut meanwhile is an error.
#[derive(Debug)]
pub struct SectionReader<'a, S> {
    source: &'a S,
    offset: u64,
    left: u64,
}

impl<S: Source> SectionReader<'_, S> {
    /// Fills `chunk` with what comes next, to a multiple of a chunk in the file or to the section's end; false at the
    /// end.
    pub(super) fn next_chunk(&mut self, chunk: &mut Chunk) -> Result<bool, Error> {
        chunk.clear();
        let room = to_boundary(self.offset);
        chunk.fill(self, room).map_err(Error::io("reading the .eif"))?;
        Ok(!chunk.is_empty())
    }
}

impl<S: Source> Read for SectionReader<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let read = self.source.read_at(buffer, self.offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset = self.offset.saturating_add(read as u64);
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}
