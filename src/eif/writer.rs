//! Writes a file in one pass: bytes go to the file, the CRC and the hashes as they come, and only the header and the
//! section headers are written again at the end, when the sizes are known.

use std::io;
use std::io::{Read, Seek, SeekFrom, Write};

use super::header::{
    FIRST_SECTION, HEADER_SIZE, Header, Kind, MAX_SECTIONS, SECTION_HEADER, SECTION_HEADER_SIZE, Section,
};
use super::measure::{Measurements, Measurer, Part, Pcr};
use super::{Error, MAX_CMDLINE, MAX_METADATA, MAX_SIGNATURE};
use crate::Arch;
use crate::chunk::{Chunk, to_boundary};

/// What a writer has to know before the first byte.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The architecture of kernel and programs: bit 0 of the header's flags.
    pub arch: Arch,
    /// Threads that hash, with the one that writes. No influence on any byte.
    pub threads: usize,
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What it measures to.
    pub measurements: Measurements,
    /// Its sections, in file order.
    pub sections: Vec<Section>,
    /// The header's CRC-32.
    pub crc32: u32,
    /// Bytes of the file.
    pub size: u64,
}

/// Writes kernel, cmdline, metadata, ramdisks and perhaps a signature, in that order.
///
/// `out` must stand at its start. Nothing is read back, so [`io::empty`] serves where only the measurements are wanted.
/// A file that was not [finished](Writer::finish) is none: its header is zero.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    header: Header,
    sections: Vec<Section>,
    sums: Vec<crc32fast::Hasher>,
    position: u64,
    /// The end of the last section's data, on its way to file, CRC and hashes. It begins at `position`.
    chunk: Chunk,
    part: Option<Part>,
    ramdisks: usize,
    measurer: Option<Measurer>,
    measured: Option<Measurements>,
}

impl Writer<io::Empty> {
    /// A writer without a file, for the measurements alone.
    pub fn without_file(options: Options) -> Result<Self, Error> {
        Self::new(io::empty(), options)
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn new(mut out: W, options: Options) -> Result<Self, Error> {
        out.write_all(&[0; HEADER_SIZE]).map_err(Error::io("writing the .eif"))?;
        Ok(Self {
            out,
            header: Header::new(options.arch),
            sections: Vec::new(),
            sums: Vec::new(),
            position: FIRST_SECTION,
            chunk: Chunk::new(),
            part: None,
            ramdisks: 0,
            measurer: Some(Measurer::new(options.threads)),
            measured: None,
        })
    }

    /// The first section: all that `kernel` gives.
    ///
    /// # Errors
    /// Reading or writing fails, or it is not the first section.
    pub fn kernel(&mut self, kernel: &mut dyn Read) -> Result<(), Error> {
        self.begin(Kind::Kernel)?;
        loop {
            let room = self.room();
            let read = self.chunk.fill(kernel, room).map_err(Error::io("reading the kernel"))?;
            if read < room {
                return Ok(());
            }
            self.flush().map_err(Error::io("writing the .eif"))?;
        }
    }

    /// The second section: the kernel's command line as given, not padded and not trimmed.
    ///
    /// # Errors
    /// A NUL or a newline in it, a length over [`MAX_CMDLINE`], writing fails, or the kernel is not there yet.
    pub fn cmdline(&mut self, cmdline: &[u8]) -> Result<(), Error> {
        if let Some((what, at)) = forbidden(cmdline) {
            return Err(Error::Cmdline { what, at });
        }
        self.whole(Kind::Cmdline, "the kernel command line", cmdline, MAX_CMDLINE)
    }

    /// The third section, which is not measured: see [`Metadata::to_bytes`](super::Metadata::to_bytes).
    ///
    /// # Errors
    /// More than [`MAX_METADATA`] bytes, writing fails, or the cmdline is not there yet.
    pub fn metadata(&mut self, json: &[u8]) -> Result<(), Error> {
        self.whole(Kind::Metadata, "the metadata", json, MAX_METADATA)
    }

    /// Begins the next ramdisk. It ends, and is padded with zeros to a multiple of 4, when the next section begins or
    /// the file is finished.
    ///
    /// # Errors
    /// No slot is left, writing fails, or the metadata are not there yet.
    pub fn ramdisk(&mut self) -> Result<Ramdisk<'_, W>, Error> {
        self.begin(Kind::Ramdisk)?;
        self.ramdisks += 1;
        self.part = Some(if self.ramdisks == 1 { Part::Boot } else { Part::Application });
        Ok(Ramdisk(self))
    }

    /// PCR0, PCR1 and PCR2. No ramdisk can follow, but a signature over them can.
    ///
    /// # Errors
    /// Writing fails.
    pub fn measurements(&mut self) -> Result<Measurements, Error> {
        self.end()?;
        if let Some(measurer) = self.measurer.take() {
            self.measured = Some(measurer.finish());
        }
        self.measured.ok_or(Error::Unfinished { last: self.last() })
    }

    /// The last section: the CBOR of a signature over PCR0, with the value that its certificate gives PCR8.
    ///
    /// # Errors
    /// More than [`MAX_SIGNATURE`] bytes, no slot is left, writing fails, or there is no ramdisk yet.
    pub fn signature(&mut self, cbor: &[u8], pcr8: Pcr) -> Result<(), Error> {
        let measured = self.measurements()?;
        self.whole(Kind::Signature, "the signature", cbor, MAX_SIGNATURE)?;
        self.measured = Some(Measurements { pcr8: Some(pcr8), ..measured });
        Ok(())
    }

    /// Writes the headers and gives `out` back, flushed, at the end of the file.
    ///
    /// # Errors
    /// Writing fails, or a section is missing.
    pub fn finish(mut self) -> Result<(W, Written), Error> {
        let measurements = self.measurements()?;
        if !matches!(self.last(), Some(Kind::Ramdisk | Kind::Signature)) {
            return Err(Error::Unfinished { last: self.last() });
        }
        self.fill_header();
        self.patch().map_err(Error::io("writing the .eif"))?;
        let crc32 = self.header.crc32;
        Ok((self.out, Written { measurements, sections: self.sections, crc32, size: self.position }))
    }

    fn last(&self) -> Option<Kind> {
        self.sections.last().map(|section| section.kind)
    }

    fn whole(&mut self, kind: Kind, what: &'static str, bytes: &[u8], limit: u64) -> Result<(), Error> {
        let size = bytes.len() as u64;
        if size > limit {
            return Err(Error::TooLarge { what, size, limit });
        }
        self.begin(kind)?;
        self.push(bytes).map_err(Error::io("writing the .eif"))
    }

    fn begin(&mut self, kind: Kind) -> Result<(), Error> {
        self.end()?;
        let (last, slot) = (self.last(), self.sections.len());
        let too_late = self.measurer.is_none() && kind != Kind::Signature;
        if too_late || !may_follow(last, kind) {
            return Err(Error::Order { next: kind, last });
        }
        if slot == MAX_SECTIONS {
            return Err(Error::Full { slot, kind });
        }
        self.out.write_all(&[0; SECTION_HEADER_SIZE]).map_err(Error::io("writing the .eif"))?;
        self.sections.push(Section { slot, kind, flags: 0, offset: self.position, size: 0 });
        self.sums.push(crc32fast::Hasher::new());
        self.position += SECTION_HEADER;
        self.part = matches!(kind, Kind::Kernel | Kind::Cmdline).then_some(Part::Boot);
        Ok(())
    }

    /// Ends the last section: padding, and what is still in the buffer.
    fn end(&mut self) -> Result<(), Error> {
        self.pad().and_then(|()| self.flush()).map_err(Error::io("writing the .eif"))
    }

    fn pad(&mut self) -> io::Result<()> {
        let Some(section) = self.sections.last().filter(|section| section.kind == Kind::Ramdisk) else { return Ok(()) };
        let size = section.size + self.chunk.len() as u64;
        let padding = (size.next_multiple_of(4) - size) as usize;
        self.push(&[0; 4][..padding])
    }

    fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.push(now);
            if now.len() == room {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// How many bytes the chunk takes: the next one is to begin at a multiple of a chunk in the file.
    fn room(&self) -> usize {
        to_boundary(self.position) - self.chunk.len()
    }

    /// Hands the buffer to file, CRC and hashes.
    fn flush(&mut self) -> io::Result<()> {
        let (Some(section), Some(sum)) = (self.sections.last_mut(), self.sums.last_mut()) else { return Ok(()) };
        self.out.write_all(&self.chunk)?;
        sum.update(&self.chunk);
        section.size += self.chunk.len() as u64;
        self.position += self.chunk.len() as u64;
        match (self.part, &mut self.measurer) {
            (Some(part), Some(measurer)) if !self.chunk.is_empty() => {
                measurer.feed(part, &mut self.chunk);
            }
            _ => self.chunk.clear(),
        }
        Ok(())
    }

    fn fill_header(&mut self) {
        let slots = self.header.offsets.iter_mut().zip(&mut self.header.sizes);
        for (section, (offset, size)) in self.sections.iter().zip(slots) {
            (*offset, *size) = (section.offset, section.size);
        }
        self.header.num_sections = self.sections.len() as u16;
        self.header.crc32 = self.crc();
    }

    /// The CRC of the parts is combined: no byte is read again.
    fn crc(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.header.to_bytes()[..super::header::CRC_OFFSET]);
        for (section, sum) in self.sections.iter().zip(&self.sums) {
            crc.update(&section.header().to_bytes());
            crc.combine(sum);
        }
        crc.finalize()
    }

    fn patch(&mut self) -> io::Result<()> {
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&self.header.to_bytes())?;
        for section in &self.sections {
            self.out.seek(SeekFrom::Start(section.offset))?;
            self.out.write_all(&section.header().to_bytes())?;
        }
        self.out.seek(SeekFrom::Start(self.position))?;
        self.out.flush()
    }
}

/// The ramdisk that is being written.
#[derive(Debug)]
pub struct Ramdisk<'a, W>(&'a mut Writer<W>);

impl<W: Write + Seek> Write for Ramdisk<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: a ramdisk is flushed when it ends.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// AWS's order.
fn may_follow(last: Option<Kind>, next: Kind) -> bool {
    matches!(
        (last, next),
        (None, Kind::Kernel)
            | (Some(Kind::Kernel), Kind::Cmdline)
            | (Some(Kind::Cmdline), Kind::Metadata)
            | (Some(Kind::Metadata | Kind::Ramdisk), Kind::Ramdisk)
            | (Some(Kind::Ramdisk), Kind::Signature)
    )
}

/// The first byte of a command line that would end or split it.
pub(super) fn forbidden(cmdline: &[u8]) -> Option<(&'static str, usize)> {
    cmdline.iter().enumerate().find_map(|(at, byte)| match byte {
        0 => Some(("NUL", at)),
        b'\n' => Some(("newline", at)),
        _ => None,
    })
}
