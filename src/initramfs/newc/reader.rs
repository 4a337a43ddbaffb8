//! Reads archives that anyone may have made, one entry at a time, in memory that no archive decides.
//!
//! Stricter than the kernel, which skips or cuts some of these without a word: what is not whole is an error, with its
//! offset in the unpacked stream.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, Read};

use super::{Header, TRAILER, file_type};
use crate::{Refusal, escaped};

/// Bytes of an entry's header.
const HEADER: usize = 110;
/// The kernel skips entries with a longer name or target without a word (PATH_MAX), in bytes with the NUL.
const MAX_NAME: u32 = 4096;
/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// Why an archive is not read further. Offsets count from the start of the unpacked ramdisk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{0}")]
    Io(io::Error),
    /// The compressed stream around the archive is broken.
    #[error("offset {offset:#x}: {why}")]
    Packed {
        /// How far the unpacked bytes went.
        offset: u64,
        /// What the decompressor says.
        why: String,
    },
    /// The archive ends before its trailer.
    #[error("offset {offset:#x}: {what} needs {need} bytes, {left} are left")]
    Truncated {
        /// Where what is cut begins.
        offset: u64,
        /// What it is.
        what: &'static str,
        /// Its length.
        need: u64,
        /// What there is of it.
        left: u64,
    },
    /// Neither a header nor the end where one of them has to be.
    #[error("offset {offset:#x}: no entry header but {}", escaped(.found))]
    Magic {
        /// Where.
        offset: u64,
        /// The first bytes that are there.
        found: Vec<u8>,
    },
    /// A header field is no number of eight hexadecimal digits.
    #[error("offset {offset:#x}: a field of the entry header is no hexadecimal number")]
    Field {
        /// Where the header begins.
        offset: u64,
    },
    /// The name is empty, too long, does not end in NUL or has one inside.
    #[error("offset {offset:#x}: the entry's name {why}")]
    Name {
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that is neither file nor symlink has contents, or a symlink's target is too long.
    #[error("offset {offset:#x}: entry \"{}\" has {size} bytes of contents, which the kernel skips with the entry", escaped(.name))]
    Body {
        /// Where the header begins.
        offset: u64,
        /// The entry.
        name: Vec<u8>,
        /// Bytes of its contents.
        size: u32,
    },
    /// The contents of an entry of the form 070702 have another sum.
    #[error("offset {offset:#x}: entry \"{}\" has the wrong checksum", escaped(.name))]
    Checksum {
        /// Where its header begins.
        offset: u64,
        /// The entry.
        name: Vec<u8>,
    },
    /// An archive begins at an offset that is no multiple of 4.
    #[error("offset {offset:#x}: an archive begins at no multiple of 4, the kernel gives up with `broken padding`")]
    Padding {
        /// Where.
        offset: u64,
    },
    /// Bytes behind a trailer that are neither zeros nor another archive.
    #[error("offset {offset:#x}: behind the trailer stand bytes that are no archive: {}", escaped(.found))]
    Trailing {
        /// Where the first of them is.
        offset: u64,
        /// The first of them.
        found: Vec<u8>,
    },
}

impl Error {
    /// Where in the unpacked ramdisk; `None` when that says nothing.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Error::Io(_) | Error::Packed { .. } => None,
            Error::Truncated { offset, .. }
            | Error::Magic { offset, .. }
            | Error::Field { offset }
            | Error::Name { offset, .. }
            | Error::Body { offset, .. }
            | Error::Checksum { offset, .. }
            | Error::Padding { offset }
            | Error::Trailing { offset, .. } => Some(*offset),
        }
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Io(_) => "E-io",
            Error::Packed { .. } => "E-ramdisk-packed",
            Error::Truncated { .. } => "E-ramdisk-truncated",
            Error::Magic { .. } => "E-ramdisk-magic",
            Error::Field { .. } => "E-ramdisk-field",
            Error::Name { .. } => "E-ramdisk-name",
            Error::Body { .. } => "E-ramdisk-body",
            Error::Checksum { .. } => "E-ramdisk-checksum",
            Error::Padding { .. } => "E-ramdisk-padding",
            Error::Trailing { .. } => "E-ramdisk-trailing",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Error::Io(_) => Vec::new(),
            _ => {
                vec!["the kernel stops there or drops it, and boots with what it has: build the file again".to_owned()]
            }
        }
    }
}

/// An entry; its contents are read from the [`Reader`] until the next one is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands there, without the NUL.
    pub name: Vec<u8>,
    /// All fields but the sizes.
    pub header: Header,
    /// Bytes of its contents.
    pub size: u32,
    /// Major and minor of the file system that the inode number belongs to.
    pub file_system: (u32, u32),
    /// Which archive of the ramdisk it stands in, from 0: inode numbers of two archives are not related.
    pub archive: u32,
    /// Where its header begins in the unpacked ramdisk.
    pub offset: u64,
}

/// What is known of the entry whose contents come next.
#[derive(Debug, Default)]
struct Current {
    name: Vec<u8>,
    offset: u64,
    size: u64,
    left: u64,
    /// The sum that the header has, and that of the bytes so far.
    sums: Option<(u32, u32)>,
}

/// Reads the archives of an unpacked ramdisk. `Read` gives the contents of the latest entry.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    current: Current,
    archive: u32,
    /// Behind a trailer, or at the start, there may be zeros.
    between: bool,
    seen_trailer: bool,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Begins at the first byte of an unpacked ramdisk. Reads many small pieces: give it something with a buffer.
    pub fn new(input: R) -> Self {
        let current = Current::default();
        Self { input, offset: 0, current, archive: 0, between: true, seen_trailer: false, ended: false }
    }

    /// The next entry; `None` only when a trailer was read and nothing but zeros follows it.
    ///
    /// # Errors
    /// Whatever is not whole; see [`Error`]. After an error there is no next entry.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not lend the contents")]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        self.finish_entry()?;
        loop {
            let Some(offset) = self.find_header()? else { return Ok(None) };
            let entry = self.entry(offset)?;
            if entry.name != TRAILER {
                self.ended = false;
                return Ok(Some(entry));
            }
            self.finish_entry()?;
            (self.between, self.seen_trailer) = (true, true);
            self.archive = self.archive.saturating_add(1);
        }
    }

    /// How many unpacked bytes have been read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Passes over zeros where they may be; the offset of the next header, of which the first byte has been read.
    fn find_header(&mut self) -> Result<Option<u64>, Error> {
        let mut first = [0];
        loop {
            if self.fill(&mut first)? == 0 {
                if self.seen_trailer && self.between {
                    return Ok(None);
                }
                let need = HEADER as u64;
                return Err(Error::Truncated { offset: self.offset, what: "an entry header", need, left: 0 });
            }
            if first != [0] || !self.between {
                break;
            }
        }
        let offset = self.offset.saturating_sub(1);
        if first == *b"0" && !offset.is_multiple_of(4) {
            return Err(Error::Padding { offset });
        }
        if first == *b"0" {
            return Ok(Some(offset));
        }
        let mut rest = [0; 7];
        let count = self.fill(&mut rest)?;
        let found = [&first[..], rest.get(..count).unwrap_or_default()].concat();
        Err(if self.seen_trailer && self.between {
            Error::Trailing { offset, found }
        } else {
            Error::Magic { offset, found }
        })
    }

    fn entry(&mut self, offset: u64) -> Result<Entry, Error> {
        let mut bytes = [b'0'; HEADER];
        let rest = bytes.get_mut(1..).unwrap_or_default();
        let there = fill(&mut self.input, rest, &mut self.offset).map_err(|error| broken(error, offset))?;
        let left = (there as u64).saturating_add(1);
        if left < HEADER as u64 {
            return Err(Error::Truncated { offset, what: "an entry header", need: HEADER as u64, left });
        }
        let checked = match bytes.first_chunk() {
            Some(b"070701") => false,
            Some(b"070702") => true,
            other => return Err(Error::Magic { offset, found: other.map(|magic| magic.to_vec()).unwrap_or_default() }),
        };
        let fields = fields(&bytes).ok_or(Error::Field { offset })?;
        let [inode, mode, uid, gid, links, _, size, major, minor, rmajor, rminor, name_size, sum] = fields;
        let name = self.name(name_size, offset)?;
        let header = Header { inode, mode, uid, gid, links, mtime: mtime(&bytes), device: (rmajor, rminor) };
        let fits = match header.kind() {
            file_type::FILE => true,
            file_type::SYMLINK => size <= MAX_NAME,
            _ => size == 0,
        };
        if !fits {
            return Err(Error::Body { offset, name, size });
        }
        let sums = (checked && header.kind() == file_type::FILE && size > 0).then_some((sum, 0));
        let (size_64, archive) = (u64::from(size), self.archive);
        self.current = Current { name: name.clone(), offset, size: size_64, left: size_64, sums };
        self.between = false;
        Ok(Entry { name, header, size, file_system: (major, minor), archive, offset })
    }

    /// The name, its NUL and the padding: header and name together end on a multiple of 4.
    fn name(&mut self, size: u32, offset: u64) -> Result<Vec<u8>, Error> {
        let wrong = |why| Error::Name { offset, why };
        match size {
            0 => return Err(wrong("has no bytes, not even its NUL")),
            1..=MAX_NAME => {}
            _ => return Err(wrong("is longer than 4096 bytes")),
        }
        let padded = size.saturating_add(2).next_multiple_of(4).saturating_sub(2);
        let mut name = vec![0; usize::try_from(padded).unwrap_or_default()];
        let left = self.fill(&mut name)? as u64;
        if left < u64::from(padded) {
            return Err(Error::Truncated { offset, what: "an entry's name", need: u64::from(padded), left });
        }
        name.truncate(usize::try_from(size).unwrap_or_default());
        if name.pop() != Some(0) {
            return Err(wrong("does not end in NUL"));
        }
        if name.contains(&0) {
            return Err(wrong("has a NUL inside"));
        }
        Ok(name)
    }

    /// Reads what nobody read of the latest entry's contents, and the padding behind it.
    fn finish_entry(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        while self.current.left > 0 {
            self.body(&mut buffer)?;
        }
        if self.current.sums.is_some_and(|(says, is)| says != is) {
            return Err(Error::Checksum { offset: self.current.offset, name: std::mem::take(&mut self.current.name) });
        }
        let need = self.current.size.wrapping_neg() % 4;
        let mut padding = [0; 3];
        let padding = padding.get_mut(..usize::try_from(need).unwrap_or_default()).unwrap_or_default();
        let left = self.fill(padding)? as u64;
        if left < need {
            return Err(Error::Truncated { offset: self.current.offset, what: "the padding of an entry", need, left });
        }
        self.current = Current::default();
        Ok(())
    }

    /// Some bytes of the latest entry's contents; 0 at their end.
    fn body(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let most = usize::try_from(self.current.left).unwrap_or(usize::MAX).min(buffer.len()).min(CHUNK);
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let count = self.fill(buffer)?;
        if count == 0 {
            let Current { offset, size, left, .. } = self.current;
            let there = size.saturating_sub(left);
            return Err(Error::Truncated { offset, what: "the contents of an entry", need: size, left: there });
        }
        self.current.left = self.current.left.saturating_sub(count as u64);
        if let Some((_, sum)) = &mut self.current.sums {
            let bytes = buffer.get(..count).unwrap_or_default();
            *sum = bytes.iter().fold(*sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        }
        Ok(count)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let at = self.offset;
        fill(&mut self.input, buffer, &mut self.offset).map_err(|error| broken(error, at))
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body(buffer).map_err(|error| match error {
            Error::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        })
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8], offset: &mut u64) -> io::Result<usize> {
    let mut end = 0_usize;
    while let Some(rest) = buffer.get_mut(end..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => end = end.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    *offset = offset.saturating_add(end as u64);
    Ok(end)
}

fn broken(error: io::Error, offset: u64) -> Error {
    if error.kind() == io::ErrorKind::InvalidData && error.raw_os_error().is_none() {
        Error::Packed { offset, why: error.to_string() }
    } else {
        Error::Io(error)
    }
}

/// Which of the numbers is the mtime.
const MTIME: usize = 5;

/// The 13 numbers behind the magic, digits in either case. An mtime with a sign, which linuxkit writes for times before
/// 1970, is 0 here as it is to the kernel.
fn fields(header: &[u8; HEADER]) -> Option<[u32; 13]> {
    let mut fields = [0; 13];
    for (index, (field, digits)) in fields.iter_mut().zip(header.get(6..)?.chunks_exact(8)).enumerate() {
        if digits.iter().all(u8::is_ascii_hexdigit) {
            *field = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        } else if index != MTIME || mtime(header) >= 0 {
            return None;
        }
    }
    Some(fields)
}

/// The mtime with its sign; 0 where it is no number.
fn mtime(header: &[u8; HEADER]) -> i64 {
    let field = header.get(6..).and_then(|fields| fields.chunks_exact(8).nth(MTIME));
    let text = field.and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
    if text.starts_with('+') { 0 } else { i64::from_str_radix(text, 16).unwrap_or(0) }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::super::Writer;
    use super::*;

    /// linuxkit's way to say a time before 1970; in any other field a sign is no number.
    #[test]
    fn a_signed_mtime_is_read_and_nothing_else_signed_is() {
        let mut writer = Writer::linuxkit(Vec::new());
        let header = Header { mode: FILE, links: 1, mtime: -0x12, ..Header::default() };
        writer.entry(b"a", &header, b"").unwrap();
        let (bytes, _) = writer.finish().unwrap();
        let entry = Reader::new(&bytes[..]).next().unwrap().unwrap();
        assert_eq!(entry.header, header);
        for at in [6, 14, 54, 98] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(b"-0000012");
            assert!(matches!(Reader::new(&bytes[..]).next(), Err(Error::Field { offset: 0 })), "{at}");
        }
    }

    const FILE: u32 = file_type::FILE | 0o644;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (name, body) in files {
            let header = Header { inode: writer.inode(), mode: FILE, links: 1, mtime: 7, ..Header::default() };
            writer.entry(name.as_bytes(), &header, body).unwrap();
        }
        writer.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut body = Vec::new();
            reader.read_to_end(&mut body).map_err(|error| error.downcast::<Error>().unwrap())?;
            all.push((entry, body));
        }
        Ok(all)
    }

    fn names(bytes: &[u8]) -> Vec<(String, u32)> {
        let all = read(bytes).unwrap();
        all.into_iter().map(|(entry, _)| (String::from_utf8(entry.name).unwrap(), entry.archive)).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let all = read(&archive(&[("a", b"one"), ("b/c", b"")])).unwrap();
        let header = Header { inode: 1, mode: FILE, links: 1, mtime: 7, ..Header::default() };
        assert_eq!((&all[0].0.name[..], all[0].0.header, &all[0].1[..]), (&b"a"[..], header, &b"one"[..]));
        assert_eq!((all[1].0.offset, all[1].0.size, all.len()), (116, 0, 2));
    }

    #[test]
    fn archives_and_zeros_follow_each_other() {
        let zeros = vec![0; 512];
        let two = [&zeros, &archive(&[("a", b"x")])[..], &zeros, &archive(&[("b", b"")]), &zeros[..5]].concat();
        assert_eq!(names(&two), [("a".to_owned(), 0), ("b".to_owned(), 1)]);
    }

    #[test]
    fn lower_case_digits_are_read() {
        let lower = String::from_utf8(archive(&[("a", b"z")])).unwrap().replace("000081A4", "000081a4");
        assert_eq!(read(lower.as_bytes()).unwrap()[0].0.header.mode, FILE);
    }

    #[test]
    fn checksums_are_held() {
        let mut bytes = archive(&[("a", b"xyz")]);
        bytes[5] = b'2';
        assert_eq!(read(&bytes).unwrap_err().code(), "E-ramdisk-checksum");
        let sum = format!("{:08x}", u32::from(b'x') + u32::from(b'y') + u32::from(b'z'));
        bytes[102..110].copy_from_slice(sum.as_bytes());
        assert_eq!(read(&bytes).unwrap()[0].1, b"xyz");
    }

    #[test]
    fn each_fault_has_its_code() {
        let whole = archive(&[("a", b"x")]);
        let with = |at: usize, text: &[u8]| {
            let mut bytes = whole.clone();
            bytes[at..at + text.len()].copy_from_slice(text);
            bytes
        };
        let behind = |text: &[u8]| [&whole[..], text].concat();
        let cases = [
            (with(0, b"070707"), "E-ramdisk-magic"),
            (with(0, b"x"), "E-ramdisk-magic"),
            (with(14, b"0000004g"), "E-ramdisk-field"),
            (with(14, b"+0000041"), "E-ramdisk-field"),
            (with(14, b"000041ED"), "E-ramdisk-body"),
            (with(94, b"00000000"), "E-ramdisk-name"),
            (with(94, b"FFFFFFFF"), "E-ramdisk-name"),
            (with(94, b"00000001"), "E-ramdisk-name"),
            (with(110, b"\0"), "E-ramdisk-name"),
            (with(54, b"FFFFFFFF"), "E-ramdisk-truncated"),
            (behind(b"\0x"), "E-ramdisk-trailing"),
            (behind(&[b"\0", &whole[..]].concat()), "E-ramdisk-padding"),
            (Vec::new(), "E-ramdisk-truncated"),
        ];
        for (bytes, code) in cases {
            assert_eq!(read(&bytes).unwrap_err().code(), code, "{}", escaped(&bytes));
        }
    }

    proptest! {
        #[test]
        fn prop_every_truncation_is_an_error(names in prop::collection::vec("[a-z/]{1,9}", 1..5), cut in any::<prop::sample::Index>()) {
            let files: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
            let whole = archive(&files);
            prop_assert_eq!(read(&whole).unwrap().len(), files.len());
            let error = read(&whole[..cut.index(whole.len())]).unwrap_err();
            prop_assert_eq!(error.code(), "E-ramdisk-truncated");
        }

        #[test]
        fn prop_random_bytes_are_survived(at in 0..240_usize, noise in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(&noise);
            let mut bytes = archive(&[("a", b"x"), ("b", b"y")]);
            let end = bytes.len().min(at + noise.len());
            let length = end - at;
            bytes[at..end].copy_from_slice(&noise[..length]);
            let _ = read(&bytes);
        }
    }
}
