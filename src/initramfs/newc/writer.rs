//! Writes the one form of an archive that is ours.
//!
//! Upper-case hexadecimal digits, inodes numbered from 1 in the order of the archive, no device numbers but those of
//! device nodes, zeros as padding to 4 bytes, and no padding behind the trailer but that.

use std::io::{self, Read, Write};

use super::{Header, TRAILER};

/// File contents are copied in pieces of this size, in bytes.
const CHUNK: usize = 256 << 10;

/// Writes an archive.
pub(in crate::initramfs) struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
    entries: u64,
    inodes: u32,
}

impl<W: Write> Writer<W> {
    pub(in crate::initramfs) fn new(out: W) -> Self {
        Self { out, buffer: vec![0; CHUNK], entries: 0, inodes: 0 }
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
        self.out.write_all(body)?;
        self.pad(u64::from(size))
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
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = match body.read(self.buffer.get_mut(..most).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file is shorter than it was")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.out.write_all(self.buffer.get(..count).unwrap_or_default())?;
            left = left.saturating_sub(count as u64);
        }
        self.pad(u64::from(size))
    }

    /// Writes the trailer; gives the writer below and the number of entries before the trailer.
    pub(in crate::initramfs) fn finish(mut self) -> io::Result<(W, u64)> {
        let entries = self.entries;
        self.header(TRAILER, &Header { links: 1, ..Header::default() }, 0)?;
        Ok((self.out, entries))
    }

    fn header(&mut self, name: &[u8], header: &Header, size: u32) -> io::Result<()> {
        let name_size = u32::try_from(name.len()).ok().and_then(|length| length.checked_add(1));
        let fields = [
            header.inode,
            header.mode,
            header.uid,
            header.gid,
            header.links,
            header.mtime,
            size,
            0,
            0,
            header.device.0,
            header.device.1,
            name_size.ok_or_else(|| too_large(name))?,
            0,
        ];
        let mut record = Vec::with_capacity(name.len().saturating_add(116));
        record.extend_from_slice(b"070701");
        for field in fields {
            write!(record, "{field:08X}")?;
        }
        record.extend_from_slice(name);
        record.push(0);
        record.resize(record.len().next_multiple_of(4), 0);
        self.entries = self.entries.saturating_add(1);
        self.out.write_all(&record)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let zeros = size.wrapping_neg() % 4;
        self.out.write_all([0; 3].get(..usize::try_from(zeros).unwrap_or(0)).unwrap_or_default())
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
