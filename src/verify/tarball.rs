//! The application's tree as a tar, the way back from an `.eif` to a layer of an image.
//!
//! The ramdisks are read twice: once to hold all of them to their format, to find the attributes, and to learn which
//! name of a hard-linked file carries its contents (the last one, if GNU cpio wrote it; a tar needs it first); then
//! to write. Memory grows with the number of hard-linked files and attributes.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use tar::{Builder, EntryType};

use super::Error;
use super::contents::{Archive, body, open, path};
use crate::eif::{Eif, Source};
use crate::image::record::{Attribute, Record};
use crate::initramfs::newc::{Entry, Reader, file_type};
use crate::rootfs::attributes::MOST as MAX_XATTRS;
use crate::{Warning, escaped};

/// Which file a name is one of: ramdisk, archive, file system, inode.
type Identity = (usize, u32, (u32, u32), u32);

/// A file with several names.
#[derive(Debug, Default)]
struct Shared {
    /// Where the entry that carries the contents begins.
    carrier: u64,
    size: u32,
    /// The carrier's name, once it is written.
    written: Option<Vec<u8>>,
    /// Names that came before it.
    waiting: Vec<(Vec<u8>, Entry)>,
}

/// Names and values of a path's attributes.
type Attributes = BTreeMap<Vec<u8>, Vec<Attribute>>;

/// What the first reading finds.
#[derive(Debug, Default)]
struct Index {
    shared: BTreeMap<Identity, Shared>,
    xattrs: Option<Vec<u8>>,
    rootfs: bool,
}

/// Writes what is below `rootfs` in all ramdisks as a tar: names without `rootfs/`, owners, modes, times, links,
/// devices, attributes. Gives what a tar cannot carry.
///
/// # Errors
/// A ramdisk that is broken, not read here or has a name with `..`; no `rootfs`; `out` cannot be written. But for the
/// last, nothing has been written then.
pub fn rootfs<S: Source>(eif: &Eif<S>, out: impl Write) -> Result<Vec<Warning>, Error> {
    let mut index = Index::default();
    each(eif, |number, entry, reader| index.add(number, entry, reader))?;
    if !index.rootfs {
        return Err(Error::NoRootfs);
    }
    let attributes = index.xattrs.take().map(|bytes| attributes(&bytes)).transpose()?.unwrap_or_default();
    let mut tarball = Tarball { tar: Builder::new(out), index, attributes, warnings: Vec::new() };
    each(eif, |number, entry, reader| tarball.add(number, entry, reader))?;
    tarball.tar.finish().map_err(Error::Write)?;
    Ok(tarball.warnings)
}

/// Calls `visit` with the entries of all ramdisks, in file order.
fn each<S: Source>(
    eif: &Eif<S>,
    mut visit: impl FnMut(usize, Entry, &mut Archive<'_, S>) -> Result<(), Error>,
) -> Result<(), Error> {
    for (index, section) in eif.ramdisks().enumerate() {
        let number = index.saturating_add(1);
        let (packing, mut reader) = open(eif, section)?;
        if !packing.readable() {
            return Err(Error::Format { number, name: packing.name() });
        }
        while let Some(entry) = reader.next().map_err(|source| Error::Ramdisk { number, source })? {
            visit(number, entry, &mut reader)?;
        }
    }
    Ok(())
}

fn identity(number: usize, entry: &Entry) -> Option<Identity> {
    let single = matches!(entry.header.kind(), file_type::DIRECTORY | file_type::SYMLINK) || entry.header.links < 2;
    (!single).then_some((number, entry.archive, entry.file_system, entry.header.inode))
}

/// The path below `rootfs`, empty for the folder itself; `None` for what is beside it.
fn below(name: &[u8]) -> Option<Vec<u8>> {
    let path = path(name);
    let rest = path.strip_prefix(b"rootfs")?;
    if rest.is_empty() { Some(Vec::new()) } else { rest.strip_prefix(b"/").map(<[u8]>::to_vec) }
}

impl Index {
    fn add<R: Read>(&mut self, number: usize, entry: Entry, reader: &mut Reader<R>) -> Result<(), Error> {
        let path = path(&entry.name);
        if path.split(|byte| *byte == b'/').any(|component| component == b"..") {
            return Err(Error::Name { number, name: entry.name });
        }
        if path == b"xattrs" && entry.header.kind() == file_type::FILE {
            if entry.size > MAX_XATTRS {
                return Err(Error::Xattrs(format!("xattrs file: {} bytes, at most {MAX_XATTRS} are read", entry.size)));
            }
            self.xattrs = Some(body(reader).map_err(|source| Error::Ramdisk { number, source })?);
        }
        self.rootfs |= below(&entry.name).is_some();
        if let Some(identity) = identity(number, &entry).filter(|_| below(&entry.name).is_some()) {
            let (carrier, size) = (entry.offset, entry.size);
            let shared = self.shared.entry(identity).or_insert(Shared { carrier, size, ..Shared::default() });
            if size > 0 {
                (shared.carrier, shared.size) = (carrier, size);
            }
        }
        Ok(())
    }
}

struct Tarball<W: Write> {
    tar: Builder<W>,
    index: Index,
    attributes: Attributes,
    warnings: Vec<Warning>,
}

impl<W: Write> Tarball<W> {
    fn add<R: Read>(&mut self, number: usize, entry: Entry, reader: &mut Reader<R>) -> Result<(), Error> {
        let Some(path) = below(&entry.name) else { return Ok(()) };
        let Some(shared) = identity(number, &entry).and_then(|identity| self.index.shared.get_mut(&identity)) else {
            return self.node(number, &path, &entry, reader);
        };
        if let Some(first) = shared.written.clone() {
            return self.link(&path, &entry, &first);
        }
        if shared.carrier != entry.offset {
            shared.waiting.push((path, entry));
            return Ok(());
        }
        shared.written = Some(path.clone());
        let waiting = std::mem::take(&mut shared.waiting);
        self.node(number, &path, &entry, reader)?;
        waiting.iter().try_for_each(|(name, entry)| self.link(name, entry, &path))
    }

    fn node<R: Read>(
        &mut self,
        number: usize,
        path: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), Error> {
        let name = match entry.header.kind() {
            file_type::DIRECTORY if path.is_empty() => b"./".to_vec(),
            file_type::DIRECTORY => [path, b"/"].concat(),
            _ => path.to_vec(),
        };
        let kind = match entry.header.kind() {
            file_type::FILE => EntryType::Regular,
            file_type::DIRECTORY => EntryType::Directory,
            file_type::SYMLINK => EntryType::Symlink,
            file_type::CHARACTER => EntryType::Char,
            file_type::BLOCK => EntryType::Block,
            file_type::FIFO => EntryType::Fifo,
            _ => {
                let text = format!("\"{}\" is left out: a tar has no entry for its type", escaped(&entry.name));
                self.warnings.push(Warning::new("W-extract-type", text));
                return Ok(());
            }
        };
        let link = match kind {
            EntryType::Symlink => body(reader).map_err(|source| Error::Ramdisk { number, source })?,
            _ => Vec::new(),
        };
        let xattrs = self.attributes.remove(path).unwrap_or_default();
        let size = if kind == EntryType::Regular { entry.size } else { 0 };
        let header = self.header(&name, &link, entry, kind, size, &xattrs).map_err(Error::Write)?;
        self.tar.append(&header, reader.take(u64::from(size))).map_err(Error::Write)
    }

    fn link(&mut self, path: &[u8], entry: &Entry, to: &[u8]) -> Result<(), Error> {
        let header = self.header(path, to, entry, EntryType::Link, 0, &[]).map_err(Error::Write)?;
        self.tar.append(&header, io::empty()).map_err(Error::Write)
    }

    /// Writes what stands before an entry's header, and gives the header.
    fn header(
        &mut self,
        name: &[u8],
        link: &[u8],
        entry: &Entry,
        kind: EntryType,
        size: u32,
        xattrs: &[Attribute],
    ) -> io::Result<tar::Header> {
        let fields = &entry.header;
        let record = Record {
            name,
            kind,
            link,
            mode: fields.mode,
            uid: fields.uid,
            gid: fields.gid,
            mtime: fields.mtime,
            size: u64::from(size),
            device: fields.device,
            xattrs,
        };
        record.header(&mut self.tar)
    }
}

fn attributes(bytes: &[u8]) -> Result<Attributes, Error> {
    let mut all = Attributes::new();
    for attribute in eif_init::xattrs::parse(bytes).map_err(|broken| Error::Xattrs(broken.to_string()))? {
        let attribute = attribute.map_err(|broken| Error::Xattrs(broken.to_string()))?;
        let name = attribute.name.to_bytes().to_vec();
        all.entry(path(attribute.path.to_bytes())).or_default().push((name, attribute.value.to_vec()));
    }
    Ok(all)
}
