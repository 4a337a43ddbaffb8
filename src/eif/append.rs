//! Puts a signature behind the sections of a file that is there already, in place of an old one.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use super::header::{CRC_OFFSET, FIRST_SECTION, HEADER_SIZE, Header, Kind, MAX_SECTIONS, Section};
use super::reader::Source;
use super::{Eif, Error, Level, MAX_SIGNATURE};
use crate::chunk::Chunk;
use crate::output::Output;

impl<S: Source> Eif<S> {
    /// Whether a signature can be put into this file so that every reader reads it as it did before.
    ///
    /// # Errors
    /// A fault that is an error, a signature section that is not the last one, no slot for a new one.
    pub fn signable(&self) -> Result<(), Error> {
        if let Some(fault) = self.faults().iter().find(|fault| fault.level() == Level::Error) {
            return Err(fault.clone().into());
        }
        match (self.section(Kind::Signature), self.sections().last()) {
            (Some(old), last) if Some(old) != last => Err(Error::SignaturePlace(*old)),
            (None, _) if self.sections().len() >= MAX_SECTIONS => {
                Err(Error::Full { slot: MAX_SECTIONS, kind: Kind::Signature })
            }
            _ => Ok(()),
        }
    }

    /// Writes this file with another signature section, or with its first one. All other sections keep their bytes
    /// and places; the header's tables and CRC follow.
    ///
    /// # Errors
    /// Those of [`Eif::signable`], a section of more than [`MAX_SIGNATURE`] bytes, reading or writing fails.
    pub fn write_signed<W: Write + Seek>(&self, cbor: &[u8], mut out: W) -> Result<W, Error> {
        self.signable()?;
        let size = cbor.len() as u64;
        if size > MAX_SIGNATURE {
            return Err(Error::TooLarge { what: "the signature", size, limit: MAX_SIGNATURE });
        }
        let mut sections = self.sections().to_vec();
        sections.retain(|section| section.kind != Kind::Signature);
        let offset = sections.last().map_or(FIRST_SECTION, Section::end);
        let signature = Section { slot: sections.len(), kind: Kind::Signature, flags: 0, offset, size };
        out.write_all(&[0; HEADER_SIZE]).map_err(Error::io("writing the .eif"))?;
        let mut body = crc32fast::Hasher::new();
        let mut chunk = Chunk::new();
        for section in &sections {
            put(&mut out, &mut body, &section.header().to_bytes())?;
            let mut data = self.read(section);
            while data.next_chunk(&mut chunk)? {
                put(&mut out, &mut body, &chunk)?;
            }
        }
        put(&mut out, &mut body, &signature.header().to_bytes())?;
        put(&mut out, &mut body, cbor)?;
        sections.push(signature);
        let header = header(self.header(), &sections, &body).to_bytes();
        finish(&mut out, &header, signature.end()).map_err(Error::io("writing the .eif"))?;
        Ok(out)
    }

    /// [`Eif::write_signed`] to a file that appears when it is whole, in place of an old one. A new file gets the
    /// permissions of the old one; an error leaves everything as it was.
    ///
    /// # Errors
    /// Those of [`Eif::write_signed`], or the file cannot be made.
    pub fn save_signed(&self, cbor: &[u8], target: &Path) -> Result<(), Error> {
        let failed = || Error::io("writing the signed .eif");
        let old = fs::metadata(target).ok();
        let output = self.write_signed(cbor, Output::create(target).map_err(failed())?)?;
        if let Some(old) = old {
            output.set_permissions(old.permissions()).map_err(failed())?;
        }
        output.persist().map_err(failed())
    }
}

fn put(out: &mut impl Write, crc: &mut crc32fast::Hasher, bytes: &[u8]) -> Result<(), Error> {
    crc.update(bytes);
    out.write_all(bytes).map_err(Error::io("writing the .eif"))
}

/// The old header with other tables, and with the CRC of itself and of the body.
fn header(old: &Header, sections: &[Section], body: &crc32fast::Hasher) -> Header {
    let mut header = Header { num_sections: 0, offsets: [0; MAX_SECTIONS], sizes: [0; MAX_SECTIONS], ..old.clone() };
    let slots = header.offsets.iter_mut().zip(&mut header.sizes);
    for (section, (offset, size)) in sections.iter().zip(slots) {
        (*offset, *size) = (section.offset, section.size);
        header.num_sections = header.num_sections.saturating_add(1);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(header.to_bytes().get(..CRC_OFFSET).unwrap_or_default());
    crc.combine(body);
    header.crc32 = crc.finalize();
    header
}

fn finish(out: &mut (impl Write + Seek), header: &[u8], end: u64) -> io::Result<()> {
    out.seek(SeekFrom::Start(0))?;
    out.write_all(header)?;
    out.seek(SeekFrom::Start(end))?;
    out.flush()
}
