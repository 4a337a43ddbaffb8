//! Ramdisk 2: the image's file system below `rootfs`, and beside it what the init shall run.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::newc::{Header, Writer, file_type};
use crate::Progress;
use crate::image::Process;
use crate::rootfs::{Inode, Kind, Metadata, Spools, Tree};

/// What becomes of the image's mtimes. In JSON: `"zero"`, `"keep"`, `{"clamp": SECONDS}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mtime {
    /// All are zero, so that two builds of one Dockerfile measure the same.
    Zero,
    /// The image's.
    Keep,
    /// The image's, and none later than this, in seconds since 1970.
    Clamp(u64),
}

impl Mtime {
    /// newc has 32 bits without a sign.
    fn apply(self, seconds: i64) -> u32 {
        let fit = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
        let seconds = u64::try_from(seconds).unwrap_or(0);
        match self {
            Mtime::Zero => 0,
            Mtime::Keep => fit(seconds),
            Mtime::Clamp(most) => fit(seconds.min(most)),
        }
    }
}

/// What runs, and in which file system.
#[derive(Debug, Clone, Copy)]
pub struct Application<'a> {
    /// The file system.
    pub tree: &'a Tree,
    /// The contents of its files.
    pub spools: &'a Spools,
    /// The process.
    pub process: &'a Process,
    /// What becomes of mtimes.
    pub mtime: Mtime,
}

/// Writes ramdisk 2: names in byte order, but `process` last of all.
///
/// When the memory of the enclave is too small, the kernel stops unpacking with one line or none, and boots. The init
/// knows that everything before `process` is there when `process` is.
///
/// Gives the number of its entries, the trailer not counted.
///
/// # Errors
/// What `out` or a spool gives.
pub fn write_application(app: &Application, out: &mut impl Write, progress: &dyn Progress) -> io::Result<u64> {
    let mut archive = Archive { writer: Writer::new(out), app, inodes: Vec::new(), progress };
    let process = app.process;
    // AWS's files have one item a line: they cannot carry an item with a newline, and then they are left out.
    if !process.argv.iter().chain(&process.env).any(|item| item.contains('\n')) {
        archive.own_file(b"cmd", &one_a_line(&process.argv))?;
        archive.own_file(b"env", &one_a_line(&process.env))?;
    }
    archive.rootfs()?;
    if let Some(attributes) = attributes(app.tree) {
        archive.own_file(b"xattrs", &attributes)?;
    }
    archive.own_file(b"process", &record(process))?;
    archive.writer.finish().map(|(_, entries)| entries)
}

struct Archive<'a, W> {
    writer: Writer<W>,
    app: &'a Application<'a>,
    /// The archive's number of each inode that has been written; 0 for the others.
    inodes: Vec<u32>,
    progress: &'a dyn Progress,
}

impl<W: Write> Archive<'_, W> {
    fn own_file(&mut self, name: &[u8], body: &[u8]) -> io::Result<()> {
        let inode = self.writer.inode();
        let header = Header { inode, mode: file_type::FILE | 0o644, links: 1, ..Header::default() };
        self.writer.entry(name, &header, body)
    }

    fn rootfs(&mut self) -> io::Result<()> {
        let inode = self.writer.inode();
        let root = self.header(&self.app.tree.root_metadata(), file_type::DIRECTORY, inode, 2);
        self.writer.entry(b"rootfs", &root, b"")?;
        let mut name = b"rootfs/".to_vec();
        let prefix = name.len();
        let mut walk = self.app.tree.walk();
        while let Some((path, entry)) = walk.next() {
            name.truncate(prefix);
            name.extend_from_slice(path);
            if let Some(inode) = self.app.tree.get(entry.inode) {
                self.node(&name, entry.inode as usize, inode)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, name: &[u8], id: usize, inode: &Inode) -> io::Result<()> {
        let (bits, device) = match &inode.kind {
            Kind::Directory(_) => (file_type::DIRECTORY, (0, 0)),
            Kind::File(_) => (file_type::FILE, (0, 0)),
            Kind::Symlink(_) => (file_type::SYMLINK, (0, 0)),
            Kind::Character(major, minor) => (file_type::CHARACTER, (*major, *minor)),
            Kind::Block(major, minor) => (file_type::BLOCK, (*major, *minor)),
            Kind::Fifo => (file_type::FIFO, (0, 0)),
        };
        // The kernel never links symlinks: each of their names is an inode of its own (init/initramfs.c, do_name).
        let links = match &inode.kind {
            Kind::Directory(_) => 2,
            Kind::Symlink(_) => 1,
            _ => inode.links,
        };
        let (number, first) =
            if links > 1 && bits != file_type::DIRECTORY { self.shared(id) } else { (self.writer.inode(), true) };
        let header = Header { device, ..self.header(&inode.metadata, bits, number, links) };
        match &inode.kind {
            Kind::File(content) if first => {
                self.progress.advance(content.size);
                self.writer.file(name, &header, content.size, &mut self.app.spools.read(content))
            }
            Kind::Symlink(target) => self.writer.entry(name, &header, target),
            _ => self.writer.entry(name, &header, b""),
        }
    }

    /// The number of an inode with several names, and whether this is the first of them, which carries the data.
    fn shared(&mut self, id: usize) -> (u32, bool) {
        if self.inodes.len() <= id {
            self.inodes.resize(id.saturating_add(1), 0);
        }
        let known = self.inodes.get(id).copied().filter(|number| *number > 0);
        if let Some(number) = known {
            return (number, false);
        }
        let number = self.writer.inode();
        if let Some(slot) = self.inodes.get_mut(id) {
            *slot = number;
        }
        (number, true)
    }

    fn header(&self, metadata: &Metadata, bits: u32, inode: u32, links: u32) -> Header {
        Header {
            inode,
            mode: bits | u32::from(metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            links,
            mtime: self.app.mtime.apply(metadata.mtime).into(),
            device: (0, 0),
        }
    }
}

/// AWS's `cmd` and `env`: each item and a newline.
fn one_a_line(items: &[String]) -> Vec<u8> {
    items.iter().flat_map(|item| [item.as_bytes(), b"\n"].concat()).collect()
}

/// The file `process`; its reader, and so its specification, is the init's (`eif_init::process`).
fn record(process: &Process) -> Vec<u8> {
    let groups: Vec<String> = process.groups.iter().map(u32::to_string).collect();
    let mut items = vec![
        "eif-process-1".to_owned(),
        process.uid.to_string(),
        process.gid.to_string(),
        groups.join(","),
        process.cwd.clone(),
        process.argv.len().to_string(),
    ];
    items.extend(process.argv.iter().cloned());
    items.push(process.env.len().to_string());
    items.extend(process.env.iter().cloned());
    items.iter().flat_map(|item| [item.as_bytes(), b"\0"].concat()).collect()
}

/// The file `xattrs`, which newc has no place for; `None` when the image has no attributes. Its reader, and so its
/// specification, is the init's (`eif_init::xattrs`).
fn attributes(tree: &Tree) -> Option<Vec<u8>> {
    let mut records: Vec<(Vec<u8>, &[u8], &[u8])> = Vec::new();
    for (path, entry) in tree.with_attributes() {
        let path = [b"/", &*path].concat();
        let xattrs = tree.get(entry.inode).and_then(|inode| inode.xattrs.as_deref()).into_iter().flatten();
        records.extend(xattrs.map(|(name, value)| (path.clone(), &**name, &**value)));
    }
    if records.is_empty() {
        return None;
    }
    records.sort_unstable();
    let mut file = b"eif-xattrs-1\0".to_vec();
    for (path, name, value) in records {
        let length = value.len().to_string();
        file.extend([&path, name, length.as_bytes(), b""].join(&0));
        file.extend_from_slice(value);
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtimes_fit_into_32_bits() {
        assert_eq!(Mtime::Zero.apply(5), 0);
        assert_eq!(Mtime::Keep.apply(-5), 0);
        assert_eq!(Mtime::Keep.apply(1 << 40), u32::MAX);
        assert_eq!(Mtime::Clamp(7).apply(9), 7);
        assert_eq!(Mtime::Clamp(7).apply(5), 5);
    }
}
