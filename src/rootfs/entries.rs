//! Reads the records of a tar: headers, GNU long names, PAX records; one [`TarEntry`] for each file.
//!
//! The `tar` crate gives the header's fields and nothing more. Its own iterator is not used: up to 0.4.46 it lets a
//! PAX size change how a following GNU record is read, cannot say a negative or PAX time, and shows sparse files as
//! their raw maps. Here, as in Go's archive/tar, which Docker reads layers with: PAX wins always, over the record of
//! the file alone; what has no body has none, whatever its size field says.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, BufRead, Read};

use super::error::{EntryFault, StreamFault};
use super::pax::{self, Records};
use super::sparse::Sparse;
use super::tree::{Extent, Xattr, Xattrs};

const BLOCK: usize = 512;
/// A PAX header or a GNU long name may be this long, in bytes (Go's archive/tar has the same limit).
const RECORD_LIMIT: u64 = 1 << 20;
/// Sizes in newc have 32 bits.
const FILE_LIMIT: u64 = u32::MAX as u64;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Directory,
    File { size: u64, extent: Extent },
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One file of a tar, all records taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TarEntry {
    pub(super) name: Vec<u8>,
    pub(super) body: Body,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) xattrs: Option<Box<Xattrs>>,
}

/// Why the next entry cannot be had.
#[derive(Debug)]
pub(super) enum Fault {
    /// The reader failed; it knows why.
    Read(io::Error),
    Stream(StreamFault),
    Entry(Vec<u8>, EntryFault),
}

impl From<StreamFault> for Fault {
    fn from(fault: StreamFault) -> Self {
        Fault::Stream(fault)
    }
}

/// Walks the records of a tar. Bodies are passed over: the reader below keeps them.
pub(super) struct Entries<R> {
    reader: R,
    /// Offset of the next unread byte.
    position: u64,
}

/// What stands before a file's own header.
#[derive(Default)]
struct Prelude {
    pax: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Entries<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, position: 0 }
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    /// The next file, or `None` at the end: two zero blocks, or no more bytes at the end of a record.
    pub(super) fn next(&mut self) -> Result<Option<TarEntry>, Fault> {
        let mut prelude = Prelude::default();
        loop {
            let at = self.position;
            let Some(header) = self.header(at)? else {
                return Ok(None);
            };
            let size = || octal(&header.as_old().size, at, "size");
            match header.as_bytes().get(156).copied().unwrap_or_default() {
                b'x' => prelude.pax = self.pax(size()?, at)?,
                b'g' => check_global(&self.pax(size()?, at)?)?,
                b'L' => prelude.long_name = Some(self.long(size()?, at)?).filter(|name| !name.is_empty()),
                b'K' => prelude.long_link = Some(self.long(size()?, at)?).filter(|link| !link.is_empty()),
                flag => return self.file(&header, flag, prelude, at).map(Some),
            }
        }
    }

    fn header(&mut self, at: u64) -> Result<Option<tar::Header>, Fault> {
        let Some(block) = self.block(at)? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return match self.block(at)? {
                Some(second) if second.iter().any(|byte| *byte != 0) => {
                    Err(bad(at, "a zero block with something behind it").into())
                }
                _ => Ok(None),
            };
        }
        if !checksum_holds(&block) {
            return Err(bad(at, "the checksum is wrong").into());
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        Ok(Some(header))
    }

    /// One block; `None` when there is no byte more.
    fn block(&mut self, at: u64) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        let mut filled = 0_usize;
        while filled < BLOCK {
            let rest = block.get_mut(filled..).unwrap_or_default();
            match self.reader.read(rest).map_err(Fault::Read)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(StreamFault::Truncated { offset: at, what: "a header" }.into()),
                count => filled = filled.saturating_add(count),
            }
        }
        self.position = self.position.saturating_add(BLOCK as u64);
        Ok(Some(block))
    }

    fn pax(&mut self, size: u64, at: u64) -> Result<Records, Fault> {
        let bytes = self.record(size, at)?;
        pax::parse(&bytes).map_err(|why| bad(at, &why).into())
    }

    /// A GNU long name: up to the first NUL.
    fn long(&mut self, size: u64, at: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = self.record(size, at)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        Ok(bytes)
    }

    /// The body of a record that describes the next one.
    fn record(&mut self, size: u64, at: u64) -> Result<Vec<u8>, Fault> {
        if size > RECORD_LIMIT {
            return Err(bad(at, &format!("a record of {size} bytes, the limit is {RECORD_LIMIT}")).into());
        }
        let mut bytes = Vec::new();
        let count = (&mut self.reader).take(size).read_to_end(&mut bytes).map_err(Fault::Read)? as u64;
        self.position = self.position.saturating_add(count);
        if count < size {
            return Err(StreamFault::Truncated { offset: self.position, what: "a PAX or GNU record" }.into());
        }
        self.skip(padding(size), "the padding of a record")?;
        Ok(bytes)
    }

    /// Passes over bytes without looking at them.
    fn skip(&mut self, count: u64, what: &'static str) -> Result<(), Fault> {
        let mut left = count;
        while left > 0 {
            let available = self.reader.fill_buf().map_err(Fault::Read)?.len();
            if available == 0 {
                return Err(StreamFault::Truncated { offset: self.position, what }.into());
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.reader.consume(step);
            self.position = self.position.saturating_add(step as u64);
            left = left.saturating_sub(step as u64);
        }
        Ok(())
    }

    fn file(&mut self, header: &tar::Header, flag: u8, prelude: Prelude, at: u64) -> Result<TarEntry, Fault> {
        let mut sparse = Sparse::from_records(&prelude.pax).map_err(|why| bad(at, &why))?;
        let fields = Fields::merge(header, prelude, sparse.as_ref(), at)?;
        let refuse = |fault: EntryFault| Fault::Entry(fields.name.clone(), fault);
        let body = match flag {
            b'0' | 0 if !(flag == 0 && fields.name.ends_with(b"/")) => {
                self.regular(&fields.name, fields.size, sparse.as_mut(), at)?
            }
            b'5' | 0 => Body::Directory,
            b'1' => Body::HardLink(fields.link.clone()),
            b'2' => Body::Symlink(fields.link.clone()),
            b'3' | b'4' => {
                let (major, minor) = device(header, at)?.map_err(refuse)?;
                if flag == b'3' { Body::Character(major, minor) } else { Body::Block(major, minor) }
            }
            b'6' => Body::Fifo,
            b'S' => return Err(refuse(EntryFault::Unsupported("an old GNU sparse file".to_owned()))),
            other => {
                let flag = crate::escaped(&[other]);
                return Err(refuse(EntryFault::Unsupported(format!("an entry of type `{flag}`, which layers lack"))));
            }
        };
        let id = |value: i128| u32::try_from(value).ok().filter(|id| *id != u32::MAX);
        let owner = |value: i128| id(value).ok_or_else(|| refuse(EntryFault::IdRange(value.to_string())));
        let (uid, gid) = (owner(fields.uid)?, owner(fields.gid)?);
        let mode = fields.mode;
        Ok(TarEntry { mode, uid, gid, mtime: fields.mtime, xattrs: fields.xattrs, body, name: fields.name })
    }

    /// Passes over a file's body and says where it is.
    fn regular(&mut self, name: &[u8], stored: u64, sparse: Option<&mut Sparse>, at: u64) -> Result<Body, Fault> {
        let size = sparse.as_ref().and_then(|sparse| sparse.size).unwrap_or(stored);
        if size > FILE_LIMIT {
            return Err(Fault::Entry(name.to_vec(), EntryFault::FileTooLarge(size)));
        }
        let mut data = stored;
        let extent = match sparse {
            None => Extent::Plain(self.position),
            Some(sparse) => {
                if sparse.map_in_body() {
                    let taken = sparse.read_map(&mut self.reader, stored).map_err(Fault::Read)?;
                    let taken = taken.map_err(|why| bad(at, &why))?;
                    self.position = self.position.saturating_add(taken);
                    data = stored.saturating_sub(taken);
                }
                sparse.extent(self.position, data, size).map_err(|why| bad(at, &why))?
            }
        };
        self.skip(data, "the body of a file")?;
        self.skip_padding(data)?;
        Ok(Body::File { size, extent })
    }

    /// The zeros behind a body. A tar that ends without them is whole enough: Go's reader takes it too.
    fn skip_padding(&mut self, size: u64) -> Result<(), Fault> {
        match self.skip(padding(size), "padding") {
            Err(Fault::Stream(StreamFault::Truncated { .. })) => Ok(()),
            other => other,
        }
    }
}

/// The fields of a header with what the records before it say.
struct Fields {
    name: Vec<u8>,
    link: Vec<u8>,
    size: u64,
    uid: i128,
    gid: i128,
    mtime: i64,
    mode: u16,
    xattrs: Option<Box<Xattrs>>,
}

impl Fields {
    fn merge(header: &tar::Header, prelude: Prelude, sparse: Option<&Sparse>, at: u64) -> Result<Self, Fault> {
        let old = header.as_old();
        let numeric = |field: &[u8], what| decode(field).ok_or_else(|| bad(at, &format!("the {what} is no number")));
        let mtime = numeric(&old.mtime, "mtime")?;
        let mode = numeric(&old.mode, "mode")? & 0o7777;
        let mut fields = Fields {
            name: header.path_bytes().into_owned(),
            link: header.link_name_bytes().unwrap_or_default().into_owned(),
            size: 0,
            uid: numeric(&old.uid, "uid")?,
            gid: numeric(&old.gid, "gid")?,
            mtime: i64::try_from(mtime).unwrap_or(if mtime < 0 { i64::MIN } else { i64::MAX }),
            mode: u16::try_from(mode).unwrap_or_default(),
            xattrs: None,
        };
        let mut size = None;
        let mut xattrs = Vec::new();
        for (key, value) in prelude.pax {
            if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
                continue;
            }
            fields.take(&key, value, &mut size, &mut xattrs, at)?;
        }
        fields.size = match size {
            Some(size) => size,
            None => octal(&old.size, at, "size")?,
        };
        fields.name = sparse.and_then(|sparse| sparse.name.clone()).or(prelude.long_name).unwrap_or(fields.name);
        fields.link = prelude.long_link.unwrap_or(fields.link);
        if fields.name.contains(&0) || fields.link.contains(&0) {
            return Err(bad(at, "a NUL byte in a name").into());
        }
        check_xattrs(&xattrs).map_err(|fault| Fault::Entry(fields.name.clone(), fault))?;
        fields.xattrs = sorted(xattrs);
        Ok(fields)
    }

    fn take(
        &mut self,
        key: &[u8],
        value: Vec<u8>,
        size: &mut Option<u64>,
        xattrs: &mut Vec<Xattr>,
        at: u64,
    ) -> Result<(), Fault> {
        let wrong = || bad(at, &format!("the PAX record `{}` cannot be read", crate::escaped(key)));
        let id = |value: &[u8]| pax::integer(value).ok_or_else(wrong);
        match key {
            b"path" => self.name = value,
            b"linkpath" => self.link = value,
            b"size" => *size = Some(pax::number(&value).ok_or_else(wrong)?),
            b"uid" => self.uid = id(&value)?,
            b"gid" => self.gid = id(&value)?,
            b"mtime" => self.mtime = pax::seconds(&value).ok_or_else(wrong)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    xattrs.push((name.into(), value.into()));
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = pax::base64(&value).ok_or_else(wrong)?;
                    xattrs.push((percent_decoded(name).into(), value.into()));
                }
            }
        }
        Ok(())
    }
}

/// What setxattr(2) takes: a name of 1 to 255 bytes in a namespace (`user.…`), a value of at most 64 KiB. A NUL would end
/// the name early.
fn check_xattrs(xattrs: &[Xattr]) -> Result<(), EntryFault> {
    for (name, value) in xattrs {
        if name.len() > 255 || name.contains(&0) || !name.contains(&b'.') {
            return Err(EntryFault::Xattr("has a name that Linux does not take"));
        }
        if value.len() > 1 << 16 {
            return Err(EntryFault::Xattr("has more than 65536 bytes"));
        }
    }
    Ok(())
}

/// In byte order of names; of several records of one name the last counts.
fn sorted(mut xattrs: Vec<Xattr>) -> Option<Box<Xattrs>> {
    xattrs.reverse();
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    xattrs.dedup_by(|later, earlier| later.0 == earlier.0);
    (!xattrs.is_empty()).then(|| Box::new(xattrs.into_boxed_slice()))
}

/// libarchive writes `%XX` for what is not printable in an attribute's name.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let byte = match (first, tail.get(..2)) {
            (b'%', Some(digits)) => hex::decode(digits).ok().and_then(|bytes| bytes.first().copied()),
            _ => None,
        };
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
        out.push(byte.unwrap_or(*first));
    }
    out
}

/// A global header would change the meaning of all that follows; only remarks pass (`git archive` writes one).
fn check_global(records: &Records) -> Result<(), Fault> {
    for (key, _) in records {
        if key != b"comment" && !key.starts_with(b"VENDOR.") {
            let what = format!("a global PAX header with `{}`", crate::escaped(key));
            return Err(Fault::Entry(b"pax_global_header".to_vec(), EntryFault::Unsupported(what)));
        }
    }
    Ok(())
}

fn device(header: &tar::Header, at: u64) -> Result<Result<(u32, u32), EntryFault>, Fault> {
    let field = |range: std::ops::Range<usize>, what| octal(header.as_bytes().get(range).unwrap_or_default(), at, what);
    let (major, minor) = (field(329..337, "device major")?, field(337..345, "device minor")?);
    let fits = |value: u64, most: u32| u32::try_from(value).ok().filter(|value| *value <= most);
    Ok(match (fits(major, 0xfff), fits(minor, 0xf_ffff)) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(EntryFault::DeviceRange(major, minor)),
    })
}

fn bad(offset: u64, why: &str) -> StreamFault {
    StreamFault::BadTar { offset, why: why.to_owned() }
}

fn octal(field: &[u8], at: u64, what: &str) -> Result<u64, Fault> {
    let value = decode(field).ok_or_else(|| bad(at, &format!("the {what} is no number")))?;
    u64::try_from(value).map_err(|_| bad(at, &format!("the {what} is negative or too large")).into())
}

/// A numeric field: octal digits between blanks and NULs, or base-256 when the first bit is set (GNU, star).
fn decode(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 { (byte & 0x7f) | if negative { 0x80 } else { 0 } } else { *byte };
            value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
        }
        return Some(value);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let mut value: i128 = 0;
    for byte in digits.get(..end)? {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(i128::from(digit))?;
    }
    Some(value)
}

/// Whether a stream's first bytes are a tar header and nothing else.
pub(super) fn is_header(head: &[u8]) -> bool {
    head.try_into().is_ok_and(checksum_holds)
}

/// The sum of the header's bytes with the field itself blank; old tars summed signed bytes.
fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let Some(said) = block.get(148..156).and_then(decode) else { return false };
    let (mut unsigned, mut signed) = (0_i128, 0_i128);
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        unsigned = unsigned.saturating_add(i128::from(byte));
        signed = signed.saturating_add(i128::from(byte.cast_signed()));
    }
    said == unsigned || said == signed
}

/// Zeros behind `size` bytes up to a full block.
fn padding(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK as u64).map_or(0, |end| end.saturating_sub(size))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_octal_and_base_256() {
        assert_eq!(decode(b"0000644\0"), Some(0o644));
        assert_eq!(decode(b" 644 \0\0\0"), Some(0o644));
        assert_eq!(decode(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(decode(b"\x80\0\0\0\0\x20\0\0"), Some(0x20_0000));
        assert_eq!(decode(&[0xff; 12]), Some(-1));
        assert_eq!(decode(b"00009\0"), None);
        assert_eq!(decode(b"-1\0"), None);
    }

    #[test]
    fn padding_fills_a_block() {
        assert_eq!([padding(0), padding(1), padding(512), padding(513)], [0, 511, 0, 511]);
    }
}
