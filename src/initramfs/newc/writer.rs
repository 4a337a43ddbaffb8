//! Writes archives in two forms.
//!
//! Ours: upper-case hexadecimal digits, inodes numbered from 1 in the order of the archive, no device numbers but those
//! of device nodes, zeros as padding to 4 bytes, and no padding behind the trailer but that. linuxkit's, for
//! nitro-cli's measurements: lower-case digits, inodes from 721, the trailer one of them, device 3,1, and zeros behind
//! the trailer to a multiple of 512.

use std::io::{self, Read, Write};

use super::{Header, TRAILER};
use crate::chunk::Chunk;

/// Which of the two forms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ours,
    Linuxkit,
}

/// Writes an archive.
pub(in crate::initramfs) struct Writer<W> {
    out: W,
    form: Form,
    chunk: Chunk,
    entries: u64,
    inodes: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    pub(in crate::initramfs) fn new(out: W) -> Self {
        Self { out, form: Form::Ours, chunk: Chunk::new(), entries: 0, inodes: 0, written: 0 }
    }

    /// A writer of linuxkit's form (its fork of `github.com/surma/gocpio`).
    pub(in crate::initramfs) fn linuxkit(out: W) -> Self {
        Self { form: Form::Linuxkit, inodes: 720, ..Self::new(out) }
    }

    /// The next inode number.
    pub(in crate::initramfs) fn inode(&mut self) -> u32 {
        self.inodes = self.inodes.saturating_add(1);
        self.inodes
    }

    /// An entry whose body is in memory: a symlink's target, a small file, or nothing.
    pub(in crate::initramfs) fn entry(&mut self, name: &[u8], header: &Header, body: &[u8]) -> io::Result<()> {
        let size = u32::try_from(body.len()).map_err(|_| too_large(name))?;
        self.header(name, header, size)?;
        self.put(body)?;
        self.pad(4)
    }

    /// A file whose body comes from a reader and has `size` bytes.
    pub(in crate::initramfs) fn file(
        &mut self,
        name: &[u8],
        header: &Header,
        size: u64,
        body: &mut impl Read,
    ) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| too_large(name))?;
        self.header(name, header, size)?;
        let mut left = u64::from(size);
        while left > 0 {
            self.chunk.clear();
            let count = self.chunk.fill(body, usize::try_from(left).unwrap_or(usize::MAX))?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file is shorter than it was"));
            }
            self.out.write_all(&self.chunk)?;
            self.written = self.written.saturating_add(count as u64);
            left = left.saturating_sub(count as u64);
        }
        self.pad(4)
    }

    /// Writes the trailer; gives the writer below and the number of entries before the trailer.
    pub(in crate::initramfs) fn finish(mut self) -> io::Result<(W, u64)> {
        let entries = self.entries;
        let inode = if self.form == Form::Linuxkit { self.inode() } else { 0 };
        self.header(TRAILER, &Header { inode, links: 1, ..Header::default() }, 0)?;
        if self.form == Form::Linuxkit {
            self.pad(512)?;
        }
        Ok((self.out, entries))
    }

    fn header(&mut self, name: &[u8], header: &Header, size: u32) -> io::Result<()> {
        let name_size = u32::try_from(name.len()).ok().and_then(|length| length.checked_add(1));
        let name_size = name_size.ok_or_else(|| too_large(name))?;
        let (dev_major, dev_minor) = if self.form == Form::Linuxkit { (3, 1) } else { (0, 0) };
        let before = [header.inode, header.mode, header.uid, header.gid, header.links].map(i64::from);
        let (major, minor) = header.device;
        let behind = [size, dev_major, dev_minor, major, minor, name_size, 0].map(i64::from);
        let mut record = Vec::with_capacity(name.len().saturating_add(116));
        record.extend_from_slice(b"070701");
        for field in before.into_iter().chain([header.mtime]).chain(behind) {
            match self.form {
                Form::Ours => write!(record, "{field:08X}")?,
                Form::Linuxkit if field < 0 => write!(record, "-{:07x}", field.unsigned_abs())?,
                Form::Linuxkit => write!(record, "{field:08x}")?,
            }
        }
        record.extend_from_slice(name);
        record.push(0);
        record.resize(record.len().next_multiple_of(4), 0);
        self.entries = self.entries.saturating_add(1);
        self.put(&record)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.out.write_all(bytes)
    }

    /// Zeros to a multiple of so many bytes, at most 512.
    fn pad(&mut self, to: u64) -> io::Result<()> {
        let zeros = self.written.next_multiple_of(to).saturating_sub(self.written);
        self.put([0; 512].get(..usize::try_from(zeros).unwrap_or(0)).unwrap_or_default())
    }
}

fn too_large(name: &[u8]) -> io::Error {
    io::Error::other(format!("\"{}\" is too large for a ramdisk", crate::escaped(name)))
}

#[cfg(test)]
mod tests {
    use super::super::file_type;
    use super::*;

    #[test]
    fn golden_bytes_of_a_file_and_the_trailer() {
        let mut writer = Writer::new(Vec::new());
        let inode = writer.inode();
        let header = Header { inode, mode: file_type::FILE | 0o644, uid: 0xabc, gid: 1, links: 1, ..Header::default() };
        writer.file(b"a/bc", &header, 5, &mut &b"hello"[..]).unwrap();
        let (bytes, entries) = writer.finish().unwrap();
        let want = [
            "070701", // magic
            "00000001",
            "000081A4",
            "00000ABC", // inode, mode, uid
            "00000001",
            "00000001",
            "00000000", // gid, links, mtime
            "00000005",
            "00000000",
            "00000000", // size, device
            "00000000",
            "00000000", // rdev
            "00000005",
            "00000000", // name size, check
            "a/bc\0\0",
            "hello\0\0\0", // 110 + 5 -> 116, 5 -> 8
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000B",
            "00000000",
            "TRAILER!!!\0\0\0\0", // 110 + 11 -> 124
        ]
        .concat();
        assert_eq!(String::from_utf8(bytes).unwrap(), want);
        assert_eq!(entries, 1);
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        assert!(writer.file(b"a", &Header::default(), 5, &mut &b"hell"[..]).is_err());
    }
}
