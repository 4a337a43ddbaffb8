//! One entry of a tar that eif writes: what does not fit into the header goes into PAX records before it.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tar::{Builder, EntryType, Header};

/// Name and value of an extended attribute.
pub(crate) type Attribute = (Vec<u8>, Vec<u8>);

/// Metadata of an entry; the contents of a file follow the header.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// As the tar has it: a directory's ends with a slash.
    pub(crate) name: &'a [u8],
    pub(crate) kind: EntryType,
    /// Target of a symlink or a hard link, else empty.
    pub(crate) link: &'a [u8],
    /// Permission bits, set-id bits and the sticky bit (`07777`).
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whole seconds since 1970.
    pub(crate) mtime: i64,
    /// Bytes of a file, else 0.
    pub(crate) size: u64,
    /// Major and minor number of a device, else zeros.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a [Attribute],
}

impl Record<'_> {
    /// Writes the PAX records, if any, and gives the header that comes next.
    pub(crate) fn header<W: Write>(&self, tar: &mut Builder<W>) -> io::Result<Header> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = Header::new_ustar();
        let ustar = header.as_ustar_mut().ok_or_else(|| io::Error::other("no ustar header"))?;
        for (key, value, field) in [("path", self.name, &mut ustar.name), ("linkpath", self.link, &mut ustar.linkname)]
        {
            if value.len() > field.len() {
                records.push((key.to_owned(), value.to_vec()));
            }
            field.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        }
        let mtime = u64::try_from(self.mtime);
        if mtime.is_err() {
            records.push(("mtime".to_owned(), self.mtime.to_string().into_bytes()));
        }
        records.extend(self.xattrs.iter().map(|(name, value)| xattr(name, value)));
        tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), &value[..])))?;
        header.set_entry_type(self.kind);
        header.set_mode(self.mode & 0o7777);
        header.set_uid(u64::from(self.uid));
        header.set_gid(u64::from(self.gid));
        header.set_mtime(mtime.unwrap_or_default());
        header.set_size(self.size);
        header.set_device_major(self.device.0)?;
        header.set_device_minor(self.device.1)?;
        header.set_cksum();
        Ok(header)
    }
}

/// The record of an attribute, in star's form. A key cannot hold `=`, nor bytes that are no UTF-8; libarchive's form,
/// in which names are percent-encoded and values are base64, carries any name.
fn xattr(name: &[u8], value: &[u8]) -> (String, Vec<u8>) {
    match std::str::from_utf8(name) {
        Ok(name) if !name.contains('=') => (format!("SCHILY.xattr.{name}"), value.to_vec()),
        _ => {
            let name: String = name.iter().map(|byte| format!("%{byte:02X}")).collect();
            (format!("LIBARCHIVE.xattr.{name}"), STANDARD_NO_PAD.encode(value).into_bytes())
        }
    }
}
