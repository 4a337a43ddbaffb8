//! One tar record with everything that comes before and after its header, honest or hostile.

/// Bytes of a tar block.
pub const BLOCK: usize = 512;

/// A tar record. Built by name (`Entry::file`, `Entry::dir`, …) and then bent as the test needs.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The entry's name, bytes as they stand in the archive.
    pub name: Vec<u8>,
    /// ustar's type flag: `0` file, `1` hard link, `2` symlink, `3` char, `4` block, `5` directory, `6` fifo.
    pub typeflag: u8,
    /// Permission bits (any number may be written).
    pub mode: u64,
    /// Owner.
    pub uid: i128,
    /// Group.
    pub gid: i128,
    /// Seconds since 1970; negative ones are written in base 256.
    pub mtime: i128,
    /// Target of a symlink or hard link.
    pub link: Vec<u8>,
    /// Device numbers, major then minor.
    pub device: (u64, u64),
    /// The contents.
    pub body: Vec<u8>,
    /// PAX records of this entry, in order.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    claimed_size: Option<i128>,
    overlays: Vec<(usize, Vec<u8>)>,
    magic: [u8; 8],
    break_checksum: bool,
}

impl Entry {
    /// A record of any type, mode 0644, owned by root.
    pub fn new(typeflag: u8, name: impl AsRef<[u8]>) -> Self {
        Entry {
            name: name.as_ref().to_vec(),
            typeflag,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            link: Vec::new(),
            device: (0, 0),
            body: Vec::new(),
            pax: Vec::new(),
            claimed_size: None,
            overlays: Vec::new(),
            magic: *b"ustar\x0000",
            break_checksum: false,
        }
    }

    /// A regular file.
    pub fn file(name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        Entry { body: body.as_ref().to_vec(), ..Entry::new(b'0', name) }
    }

    /// A directory, mode 0755. The name is written as given, with or without a trailing slash.
    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Entry::new(b'5', name).mode(0o755)
    }

    /// A symbolic link, mode 0777.
    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Entry::new(b'2', name).mode(0o777).link(target)
    }

    /// A hard link to an earlier entry.
    pub fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Entry::new(b'1', name).link(target)
    }

    /// A named pipe.
    pub fn fifo(name: impl AsRef<[u8]>) -> Self {
        Entry::new(b'6', name)
    }

    /// A character device.
    pub fn char_device(name: impl AsRef<[u8]>, major: u64, minor: u64) -> Self {
        Entry { device: (major, minor), ..Entry::new(b'3', name) }
    }

    /// A block device.
    pub fn block_device(name: impl AsRef<[u8]>, major: u64, minor: u64) -> Self {
        Entry { device: (major, minor), ..Entry::new(b'4', name) }
    }

    /// A PAX global header (`g`) with these records.
    pub fn pax_global(records: &[(&str, &str)]) -> Self {
        let pairs: Vec<_> = records.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        Entry { body: pax_body(&pairs), ..Entry::new(b'g', "pax_global_header") }
    }

    /// Sets the permission bits.
    pub fn mode(self, mode: u64) -> Self {
        Entry { mode, ..self }
    }

    /// Sets owner and group. Numbers that octal cannot hold are written in base 256.
    pub fn owner(self, uid: i128, gid: i128) -> Self {
        Entry { uid, gid, ..self }
    }

    /// Sets the modification time in seconds.
    pub fn mtime(self, mtime: i128) -> Self {
        Entry { mtime, ..self }
    }

    /// Sets the link target of any type.
    pub fn link(self, target: impl AsRef<[u8]>) -> Self {
        Entry { link: target.as_ref().to_vec(), ..self }
    }

    /// Sets the body of any type.
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        Entry { body: body.as_ref().to_vec(), ..self }
    }

    /// Writes this size in the header, whatever the body's length is.
    pub fn claim_size(self, size: i128) -> Self {
        Entry { claimed_size: Some(size), ..self }
    }

    /// Puts a PAX extended header with this record (and earlier ones) before the entry.
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Overwrites header bytes from `offset` before the checksum is made.
    pub fn header_bytes(mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.overlays.push((offset, bytes.as_ref().to_vec()));
        self
    }

    /// Writes a V7 header: no magic.
    pub fn v7(self) -> Self {
        Entry { magic: [0; 8], ..self }
    }

    /// Writes GNU's magic (`ustar  \0`).
    pub fn gnu(self) -> Self {
        Entry { magic: *b"ustar  \0", ..self }
    }

    /// Writes a checksum that is off by one.
    pub fn bad_checksum(self) -> Self {
        Entry { break_checksum: true, ..self }
    }

    /// The record's bytes: PAX header, GNU long name and link, header, body, padding.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.pax.is_empty() {
            out.extend(Entry { body: pax_body(&self.pax), ..Entry::new(b'x', "PaxHeaders/entry") }.plain_bytes());
        }
        if self.name.len() > 100 {
            out.extend(long_record(b'L', &self.name));
        }
        if self.link.len() > 100 {
            out.extend(long_record(b'K', &self.link));
        }
        out.extend(self.plain_bytes());
        out
    }

    fn plain_bytes(&self) -> Vec<u8> {
        let mut out = self.header().to_vec();
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        text(&mut header[0..100], &self.name);
        number(&mut header[100..108], i128::from(self.mode));
        number(&mut header[108..116], self.uid);
        number(&mut header[116..124], self.gid);
        number(&mut header[124..136], self.claimed_size.unwrap_or(self.body.len() as i128));
        number(&mut header[136..148], self.mtime);
        header[156] = self.typeflag;
        text(&mut header[157..257], &self.link);
        header[257..265].copy_from_slice(&self.magic);
        if matches!(self.typeflag, b'3' | b'4') {
            number(&mut header[329..337], i128::from(self.device.0));
            number(&mut header[337..345], i128::from(self.device.1));
        }
        for (offset, bytes) in &self.overlays {
            header[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        self.seal(&mut header);
        header
    }

    fn seal(&self, header: &mut [u8; BLOCK]) {
        header[148..156].fill(b' ');
        let sum = header.iter().map(|&byte| u32::from(byte)).sum::<u32>() + u32::from(self.break_checksum);
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn text(field: &mut [u8], value: &[u8]) {
    let end = value.len().min(field.len());
    field[..end].copy_from_slice(&value[..end]);
}

/// Octal where it fits, else GNU's base 256 (big endian, first bit set, two's complement).
fn number(field: &mut [u8], value: i128) {
    let digits = field.len() - 1;
    if value >= 0 && value < 1 << (3 * digits) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        let bytes = value.to_be_bytes();
        field.copy_from_slice(&bytes[bytes.len() - field.len()..]);
        field[0] |= 0x80;
    }
}

fn long_record(typeflag: u8, value: &[u8]) -> Vec<u8> {
    let body = [value, b"\0"].concat();
    Entry { body, ..Entry::new(typeflag, "././@LongLink").gnu() }.plain_bytes()
}

/// `LEN KEY=VALUE\n`, where LEN counts itself.
fn pax_body(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len += 1;
        }
        out.extend([len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_fields_of_posix_ustar() {
        let bytes = Entry::file("a", "hi").owner(7, 8).mtime(9).to_bytes();
        assert_eq!(bytes.len(), 1024);
        assert_eq!(&bytes[100..148], b"0000644\x000000007\x000000010\x0000000000002\x0000000000011\x00");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert_eq!(&bytes[512..514], b"hi");
        let sum: u32 =
            bytes[..512].iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { b.into() }).sum();
        assert_eq!(&bytes[148..156], format!("{sum:06o}\0 ").as_bytes());
    }

    #[test]
    fn numbers_beyond_octal_are_base_256() {
        let mut field = [0; 8];
        number(&mut field, 0xffff_ffff);
        assert_eq!(field, [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        number(&mut field, -1);
        assert_eq!(field, [0xff; 8]);
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_body(&[(b"path".to_vec(), b"x".to_vec())]), b"9 path=x\n");
        assert_eq!(pax_body(&[(b"path".to_vec(), vec![b'x'; 90])])[..3], *b"99 ");
        assert_eq!(pax_body(&[(b"path".to_vec(), vec![b'x'; 91])])[..4], *b"101 ");
    }
}
