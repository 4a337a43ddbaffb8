//! One file system as a table of inodes; names point into it.

use std::collections::{BTreeMap, BTreeSet, btree_map};

/// Index into the inode table.
pub type InodeId = u32;

/// The root directory's inode.
pub const ROOT: InodeId = 0;

/// A directory's names in byte order.
pub type Directory = BTreeMap<Box<[u8]>, Entry>;

/// Who owns an inode, what may be done with it, and when it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, set-id bits and the sticky bit (`07777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whole seconds since 1970, rounded down; may be negative or beyond 32 bits.
    pub mtime: i64,
}

impl Metadata {
    /// What a directory gets that no entry describes.
    pub const IMPLIED: Metadata = Metadata { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
    /// The bit of a mode that a directory hands on to what is made in it.
    pub(super) const SET_GID: u16 = 0o2000;
}

/// The bytes of a regular file: a place in a layer's spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Which spool.
    pub layer: u32,
    /// Length in bytes.
    pub size: u64,
    /// Where in the spool.
    pub extent: Extent,
}

/// Where the bytes of a file are in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// In one run from this offset.
    Plain(u64),
    /// In pieces, ascending; between them are holes.
    Sparse(Box<[Piece]>),
}

/// A run of bytes of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Offset in the spool.
    pub offset: u64,
}

impl Piece {
    /// Offset in the file of the first byte behind the piece.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(Content),
    /// A symlink with its target.
    Symlink(Box<[u8]>),
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// Extended attributes, in byte order of names.
pub type Xattrs = Box<[Xattr]>;

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Owner, mode, time.
    pub metadata: Metadata,
    /// What it is.
    pub kind: Kind,
    /// How many names it has; 0 when it is gone.
    pub links: u32,
    /// Extended attributes, if any.
    pub xattrs: Option<Box<Xattrs>>,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it names.
    pub inode: InodeId,
    /// The layer that put it there; beyond the last layer for what the build adds.
    pub layer: u32,
    /// Whether an entry names it, or only a path that leads through it.
    pub explicit: bool,
}

/// A file system: the table of inodes, the first of which is the root directory.
#[derive(Debug, Clone)]
pub struct Tree {
    inodes: Vec<Inode>,
}

/// An invariant of [`Tree`] that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A name points behind the table.
    #[error("a name points to inode {0}, which does not exist")]
    Dangling(InodeId),
    /// The number of links is not the number of names.
    #[error("inode {inode} says {says} links and has {has} names")]
    Links {
        /// The inode.
        inode: InodeId,
        /// Its field.
        says: u32,
        /// What the directories say.
        has: u32,
    },
}

impl Default for Tree {
    fn default() -> Self {
        let kind = Kind::Directory(Directory::new());
        Self { inodes: vec![Inode { metadata: Metadata::IMPLIED, kind, links: 1, xattrs: None }] }
    }
}

impl Tree {
    /// The inode, which is there for every id that the tree gave.
    pub fn get(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(id as usize)
    }

    /// Who owns what, for all inodes.
    pub(super) fn all_metadata(&mut self) -> impl Iterator<Item = &mut Metadata> {
        self.inodes.iter_mut().map(|inode| &mut inode.metadata)
    }

    /// Whether anything that has a name has extended attributes.
    pub fn has_attributes(&self) -> bool {
        self.inodes.iter().any(|inode| inode.links > 0 && inode.xattrs.is_some())
    }

    /// What has extended attributes, by its first name in the order of the walk: all names of a file share them. The
    /// root comes first, and has no name.
    pub fn with_attributes(&self) -> Vec<(Vec<u8>, Entry)> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut look = |path: &[u8], entry: Entry| {
            let has = self.get(entry.inode).is_some_and(|inode| inode.xattrs.is_some());
            if has && seen.insert(entry.inode) {
                found.push((path.to_vec(), entry));
            }
        };
        look(b"", Entry { inode: ROOT, layer: 0, explicit: true });
        let mut walk = self.walk();
        while let Some((path, entry)) = walk.next() {
            look(path, *entry);
        }
        found
    }

    /// The contents of all files that have a name.
    pub(super) fn contents(&self) -> impl Iterator<Item = &Content> {
        self.inodes.iter().filter(|inode| inode.links > 0).filter_map(|inode| match &inode.kind {
            Kind::File(content) => Some(content),
            _ => None,
        })
    }

    pub(super) fn get_mut(&mut self, id: InodeId) -> Option<&mut Inode> {
        self.inodes.get_mut(id as usize)
    }

    /// The names in a directory; `None` when the inode is something else.
    pub fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.get(id)?.kind {
            Kind::Directory(names) => Some(names),
            _ => None,
        }
    }

    /// What is at a path, no symlink followed; the root for an empty one.
    pub fn at(&self, path: &[u8]) -> Option<InodeId> {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(ROOT, |place, name| self.directory(place)?.get(name).map(|entry| entry.inode))
    }

    pub(super) fn directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.get_mut(id)?.kind {
            Kind::Directory(names) => Some(names),
            _ => None,
        }
    }

    /// Adds an inode without a name.
    pub(super) fn add(&mut self, metadata: Metadata, kind: Kind, xattrs: Option<Box<Xattrs>>) -> InodeId {
        let id = InodeId::try_from(self.inodes.len()).unwrap_or(InodeId::MAX);
        self.inodes.push(Inode { metadata, kind, links: 0, xattrs });
        id
    }

    /// Takes an inode out of the table, for another tree; a pipe without a meaning stays in its place.
    pub(super) fn take(&mut self, id: InodeId) -> Option<Inode> {
        let gone = Inode { metadata: Metadata::IMPLIED, kind: Kind::Fifo, links: 0, xattrs: None };
        self.get_mut(id).map(|inode| std::mem::replace(inode, gone))
    }

    /// Gives an inode a name, in place of what had it.
    pub(super) fn link(&mut self, directory: InodeId, name: &[u8], entry: Entry) {
        if let Some(inode) = self.get_mut(entry.inode) {
            inode.links = inode.links.saturating_add(1);
        }
        let old = self.directory_mut(directory).and_then(|names| names.insert(name.into(), entry));
        if let Some(old) = old {
            self.release(old.inode);
        }
    }

    /// Removes a name and, if it was a directory's, all below it.
    pub(super) fn unlink(&mut self, directory: InodeId, name: &[u8]) {
        let old = self.directory_mut(directory).and_then(|names| names.remove(name));
        if let Some(old) = old {
            self.release(old.inode);
        }
    }

    /// Takes one name from an inode. One without names gives its memory back, and its names lose one each: without
    /// recursion, since a layer decides how deep a tree is.
    fn release(&mut self, id: InodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let Some(inode) = self.get_mut(id) else { continue };
            inode.links = inode.links.saturating_sub(1);
            if inode.links > 0 {
                continue;
            }
            inode.xattrs = None;
            if let Kind::Directory(names) = std::mem::replace(&mut inode.kind, Kind::Fifo) {
                pending.extend(names.into_values().map(|entry| entry.inode));
            }
        }
    }

    /// All names below the root, a directory before its contents, names in byte order of their components.
    pub fn walk(&self) -> Walk<'_> {
        let root = self.directory(ROOT).map(|names| (names.iter(), 0));
        Walk { tree: self, stack: root.into_iter().collect(), path: Vec::new() }
    }

    /// How many names the tree has, the root not counted.
    pub fn len(&self) -> usize {
        let mut walk = self.walk();
        let mut count = 0_usize;
        while walk.next().is_some() {
            count = count.saturating_add(1);
        }
        count
    }

    /// Length of the inode table, gone inodes included.
    pub(super) fn table_len(&self) -> usize {
        self.inodes.len()
    }

    /// Whether the tree has no name but the root's.
    pub fn is_empty(&self) -> bool {
        self.directory(ROOT).is_none_or(BTreeMap::is_empty)
    }

    /// Holds the tree to its invariants.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        let mut names = vec![0_u32; self.inodes.len()];
        names.iter_mut().take(1).for_each(|root| *root = 1);
        let mut walk = self.walk();
        while let Some((_, entry)) = walk.next() {
            let count = names.get_mut(entry.inode as usize).ok_or(Broken::Dangling(entry.inode))?;
            *count = count.saturating_add(1);
        }
        for ((id, inode), has) in (0..).zip(&self.inodes).zip(names) {
            if inode.links != has {
                return Err(Broken::Links { inode: id, says: inode.links, has });
            }
        }
        Ok(())
    }
}

/// The names of a directory that are still to come, and how long the path before them is.
type Level<'a> = (btree_map::Iter<'a, Box<[u8]>, Entry>, usize);

/// A walk over a tree. Not an `Iterator`: the path that it lends is made anew with each step.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    stack: Vec<Level<'a>>,
    path: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// The next name: its path without a leading `/`, and what it points to.
    #[expect(clippy::should_implement_trait, reason = "the path is lent, which Iterator cannot say")]
    pub fn next(&mut self) -> Option<(&[u8], &'a Entry)> {
        loop {
            let (names, prefix) = self.stack.last_mut()?;
            let prefix = *prefix;
            let Some((name, entry)) = names.next() else {
                self.stack.pop();
                continue;
            };
            self.path.truncate(prefix);
            if prefix > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            if let Some(names) = self.tree.directory(entry.inode) {
                self.stack.push((names.iter(), self.path.len()));
            }
            return Some((&self.path, entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(tree: &mut Tree, parent: InodeId, name: &str) -> InodeId {
        let id = tree.add(Metadata::IMPLIED, Kind::Directory(Directory::new()), None);
        tree.link(parent, name.as_bytes(), Entry { inode: id, layer: 0, explicit: true });
        id
    }

    #[test]
    fn a_walk_sorts_by_component_not_by_whole_path() {
        let mut tree = Tree::default();
        let a = directory(&mut tree, ROOT, "a");
        directory(&mut tree, ROOT, "a-b");
        directory(&mut tree, a, "x");
        let mut walk = tree.walk();
        let mut paths = Vec::new();
        while let Some((path, _)) = walk.next() {
            paths.push(String::from_utf8_lossy(path).into_owned());
        }
        assert_eq!(paths, ["a", "a/x", "a-b"]);
    }

    #[test]
    fn removing_a_directory_takes_all_below_it_but_not_what_is_linked_elsewhere() {
        let mut tree = Tree::default();
        let a = directory(&mut tree, ROOT, "a");
        let fifo = tree.add(Metadata::IMPLIED, Kind::Fifo, None);
        tree.link(a, b"one", Entry { inode: fifo, layer: 0, explicit: true });
        tree.link(ROOT, b"two", Entry { inode: fifo, layer: 0, explicit: true });
        tree.check().unwrap();
        tree.unlink(ROOT, b"a");
        tree.check().unwrap();
        assert_eq!(tree.get(fifo).unwrap().links, 1);
        assert_eq!(tree.len(), 1);
    }

    #[test]
    fn a_tree_as_deep_as_a_path_can_be_needs_no_stack() {
        let mut tree = Tree::default();
        let mut parent = ROOT;
        for _ in 0..100_000 {
            parent = directory(&mut tree, parent, "d");
        }
        tree.unlink(ROOT, b"d");
        tree.check().unwrap();
        assert!(tree.is_empty());
    }
}
