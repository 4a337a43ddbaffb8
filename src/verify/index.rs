//! All entries of a ramdisk by their path, with a digest in place of their contents.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::contents::{Archive, body, open, path};
use super::{Error, MAX_ENTRIES};
use crate::eif::{Eif, Source};
use crate::escaped;
use crate::initramfs::newc::{self, Entry, Header, Reader, file_type};

/// Texts are shown up to this size, in bytes.
const MAX_TEXT: u32 = 64 << 10;

/// Which file a name is one of.
type Identity = (usize, u32, (u32, u32), u32);

/// An entry.
#[derive(Debug, Clone)]
pub(super) struct Node {
    header: Header,
    size: u32,
    /// SHA-256 of a file, the target of a symlink.
    content: Vec<u8>,
    /// The first name of a file with several, in byte order.
    first_name: Option<Vec<u8>>,
    identity: Option<Identity>,
}

/// The entries of one ramdisk, or of the tree in all of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) nodes: BTreeMap<Vec<u8>, Node>,
    /// The paths as they come.
    pub(super) order: Vec<Vec<u8>>,
}

/// Texts by part and escaped path.
pub(super) type Texts = BTreeMap<(String, String), String>;

impl Node {
    pub(super) fn kind(&self) -> &'static str {
        match self.header.kind() {
            file_type::DIRECTORY => "directory",
            file_type::FILE => "file",
            file_type::SYMLINK => "symlink",
            file_type::CHARACTER => "character device",
            file_type::BLOCK => "block device",
            file_type::FIFO => "fifo",
            _ => "unknown type",
        }
    }

    /// SHA-256 of a file's contents, in hex.
    pub(super) fn sha256(&self) -> Option<String> {
        (self.header.kind() == file_type::FILE).then(|| hex::encode(&self.content))
    }

    /// Each field's name and value, in one order for all.
    pub(super) fn fields(&self) -> Vec<(&'static str, Option<String>)> {
        let Header { mode, uid, gid, mtime, device, .. } = self.header;
        let of = |kind: u32, text: String| (self.header.kind() == kind).then_some(text);
        let is_device = matches!(self.header.kind(), file_type::CHARACTER | file_type::BLOCK);
        vec![
            ("type", Some(self.kind().to_owned())),
            ("mode", Some(format!("{:04o}", mode & 0o7777))),
            ("uid", Some(uid.to_string())),
            ("gid", Some(gid.to_string())),
            ("mtime", Some(mtime.to_string())),
            ("device", is_device.then(|| format!("{}:{}", device.0, device.1))),
            ("size", of(file_type::FILE, self.size.to_string())),
            ("content", of(file_type::FILE, format!("sha256:{}", hex::encode(&self.content)))),
            ("target", of(file_type::SYMLINK, escaped(&self.content))),
            ("hard link to", self.first_name.as_deref().map(escaped)),
        ]
    }
}

impl Index {
    /// The entries of ramdisk `number`, from 1.
    pub(super) fn ramdisk<S: Source>(eif: &Eif<S>, number: usize) -> Result<Self, Error> {
        let mut index = Self::default();
        let mut again: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        each(eif, Some(number), |number, entry, reader| {
            let name = path(&entry.name);
            index.order.push(name.clone());
            // A name may come again: all its entries are looked at.
            let mut path = name.clone();
            while index.nodes.contains_key(&path) {
                let count = again.entry(name.clone()).or_default();
                *count = count.saturating_add(1);
                let further = if *count > 1 { format!(" (again {count})") } else { " (again)".to_owned() };
                path = [&name, further.as_bytes()].concat();
            }
            index.add(number, path, &entry, reader)
        })?;
        index.settle();
        Ok(index)
    }

    /// What is below `rootfs` in all ramdisks, by names without it.
    pub(super) fn tree<S: Source>(eif: &Eif<S>) -> Result<Self, Error> {
        let mut index = Self::default();
        each(eif, None, |number, entry, reader| match below(&entry.name) {
            Some(path) => index.add(number, path, &entry, reader),
            None => Ok(()),
        })?;
        index.settle();
        Ok(index)
    }

    /// The contents of these escaped paths, where they are small texts.
    pub(super) fn texts<S: Source>(eif: &Eif<S>, wanted: &[String], tree: bool) -> Result<Texts, Error> {
        let mut texts = Texts::new();
        let read = each(eif, None, |number, entry, reader| {
            let path = if tree { below(&entry.name) } else { Some(path(&entry.name)) };
            let Some(path) = path.map(|path| escaped(&path)).filter(|path| wanted.contains(path)) else {
                return Ok(());
            };
            if entry.header.kind() == file_type::FILE && (1..=MAX_TEXT).contains(&entry.size) {
                let part = if tree { "rootfs".to_owned() } else { format!("ramdisk {number}") };
                if let Ok(text) = String::from_utf8(body(reader)?) {
                    texts.insert((part, path), text);
                }
            }
            Ok(())
        });
        match read {
            // What is broken has been told; texts are an extra.
            Ok(()) | Err(Error::Ramdisk { .. } | Error::Format { .. }) => Ok(texts),
            Err(error) => Err(error),
        }
    }

    fn add<R: Read>(
        &mut self,
        number: usize,
        path: Vec<u8>,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), newc::Error> {
        let content = match entry.header.kind() {
            file_type::SYMLINK => body(reader)?,
            file_type::FILE => digest(reader)?,
            _ => Vec::new(),
        };
        let single = matches!(entry.header.kind(), file_type::DIRECTORY | file_type::SYMLINK) || entry.header.links < 2;
        let identity = (!single).then_some((number, entry.archive, entry.file_system, entry.header.inode));
        let node = Node { header: entry.header, size: entry.size, content, first_name: None, identity };
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Gives all names of a file the contents of the one that carries them.
    fn settle(&mut self) {
        let mut files: BTreeMap<Identity, (Vec<u8>, u32, Vec<u8>)> = BTreeMap::new();
        for (path, node) in &self.nodes {
            let Some(identity) = node.identity else { continue };
            let file = files.entry(identity).or_insert_with(|| (path.clone(), node.size, node.content.clone()));
            if node.size > 0 {
                (file.1, file.2) = (node.size, node.content.clone());
            }
        }
        for (path, node) in &mut self.nodes {
            if let Some((first, size, content)) = node.identity.and_then(|identity| files.get(&identity)) {
                (node.size, node.content) = (*size, content.clone());
                node.first_name = (first != path).then(|| first.clone());
            }
        }
    }
}

fn digest<R: Read>(reader: &mut Reader<R>) -> Result<Vec<u8>, newc::Error> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().to_vec()),
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) => return Err(error.downcast().unwrap_or_else(newc::Error::Io)),
        }
    }
}

fn below(name: &[u8]) -> Option<Vec<u8>> {
    let path = path(name);
    let rest = path.strip_prefix(b"rootfs")?;
    if rest.is_empty() { Some(b"/".to_vec()) } else { rest.starts_with(b"/").then(|| rest.to_vec()) }
}

/// Calls `visit` with the entries of one ramdisk or of all.
fn each<'a, S: Source>(
    eif: &'a Eif<S>,
    only: Option<usize>,
    mut visit: impl FnMut(usize, Entry, &mut Archive<'a, S>) -> Result<(), newc::Error>,
) -> Result<(), Error> {
    for (number, section) in (1..).zip(eif.ramdisks()) {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let (packing, mut reader) = open(eif, section)?;
        if !packing.readable() {
            return Err(Error::Format { number, name: packing.name() });
        }
        let broken = |source| match source {
            newc::Error::Io(error) => Error::Read(error),
            source => Error::Ramdisk { number, source },
        };
        let mut count = 0_usize;
        while let Some(entry) = reader.next().map_err(broken)? {
            count = count.saturating_add(1);
            if count > MAX_ENTRIES {
                return Err(Error::TooManyEntries { number });
            }
            visit(number, entry, &mut reader).map_err(broken)?;
        }
    }
    Ok(())
}
