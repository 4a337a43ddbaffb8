//! One layer into an empty directory, as `docker load` and `docker pull` unpack it.

use std::collections::BTreeSet;

use super::Store;
use crate::rootfs::entries::{Body, TarEntry};
use crate::rootfs::error::EntryFault;
use crate::rootfs::layer::{Node, Path, join, split};
use crate::rootfs::lint::{check_name, check_path, check_target};
use crate::rootfs::tree::{Content, Directory, Entry, InodeId, Kind, Metadata, ROOT, Tree, Xattrs};

/// The last whole second that 64 bits of nanoseconds can say, in the year 2262.
const LAST_SECOND: i64 = i64::MAX / 1_000_000_000;

/// What one entry of a layer does, and where.
pub(super) struct Step {
    /// From the root, without `.` and `..`.
    path: Path,
    origin: Origin,
    action: Action,
}

/// What stood before the path when it was cleaned: Docker compares names with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// A leading slash.
    Root,
    /// So many leading `..`.
    Up(u32),
}

enum Action {
    /// Hides this name of the lower layers.
    Whiteout(Path),
    /// Hides all names of the lower layers in the path's parent.
    Opaque,
    Put(Node),
    /// Another name for the path in `target`, which stands as it is written.
    Link {
        target: Path,
        metadata: Metadata,
    },
}

/// The entry that cannot be unpacked, and why.
pub(super) type Refused = (Path, EntryFault);

/// A layer that was unpacked. Whiteouts are character devices 0,0 in it, as in the directory on disk.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) tree: Tree,
    pub(super) number: u32,
    /// Directories that hide what is below them.
    pub(super) opaque: BTreeSet<InodeId>,
    /// Directories whose time is a clock's.
    pub(super) clocks: BTreeSet<InodeId>,
}

/// What an entry does; `None` for the root itself, which is never exported.
pub(super) fn step(entry: TarEntry, layer: u32, depth: usize) -> Result<Option<Step>, EntryFault> {
    let (path, origin) = cleaned(&entry.name);
    if path.is_empty() {
        let is_dot = origin == Origin::Up(0);
        return if is_dot || entry.body == Body::Directory { Ok(None) } else { Err(EntryFault::RootNotDirectory) };
    }
    let components = path.split(|byte| *byte == b'/').count();
    if components > depth {
        return Err(EntryFault::TooDeep(components, depth));
    }
    check_path(&path)?;
    let (parent, name) = split(&path);
    parent.split(|byte| *byte == b'/').try_for_each(check_name)?;
    let action = match name.strip_prefix(b".wh.") {
        Some(b".wh..opq") => Action::Opaque,
        Some(hidden @ (b"" | b"." | b"..")) => return Err(whiteout_of_own(hidden)),
        Some(hidden) => {
            check_name(hidden)?;
            Action::Whiteout(join(parent, hidden))
        }
        None => {
            check_name(name)?;
            action(entry, layer)?
        }
    };
    Ok(Some(Step { path, origin, action }))
}

fn action(entry: TarEntry, layer: u32) -> Result<Action, EntryFault> {
    let TarEntry { mode, uid, gid, mtime, xattrs, body, .. } = entry;
    let metadata = Metadata { mode, uid, gid, mtime };
    let kind = match body {
        Body::HardLink(target) => {
            check_path(&target)?;
            return Ok(Action::Link { target: target.into(), metadata });
        }
        Body::Symlink(target) => {
            check_target(&target)?;
            let metadata = Metadata { mode: 0o777, ..metadata };
            return Ok(Action::Put(Node { metadata, kind: Kind::Symlink(target.into()), xattrs }));
        }
        Body::Directory => Kind::Directory(Directory::new()),
        Body::File { size, extent } => Kind::File(Content { layer, size, extent }),
        Body::Character(major, minor) => Kind::Character(major, minor),
        Body::Block(major, minor) => Kind::Block(major, minor),
        Body::Fifo => Kind::Fifo,
    };
    Ok(Action::Put(Node { metadata: Metadata { mtime: bounded(mtime), ..metadata }, kind, xattrs }))
}

/// As Go's `filepath.Clean`; what leads above the root is told apart, and ends there.
fn cleaned(name: &[u8]) -> (Path, Origin) {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut up = 0_u32;
    for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part != b".." {
            parts.push(part);
        } else if parts.pop().is_none() {
            up = up.saturating_add(1);
        }
    }
    let origin = if name.starts_with(b"/") { Origin::Root } else { Origin::Up(up) };
    (parts.join(&b'/').into(), origin)
}

/// Times that Docker cannot give a file become 1970.
fn bounded(mtime: i64) -> i64 {
    if (0..=LAST_SECOND).contains(&mtime) { mtime } else { 0 }
}

fn refused(why: impl Into<String>) -> EntryFault {
    EntryFault::DockerLoad(why.into())
}

fn whiteout_of_own(hidden: &[u8]) -> EntryFault {
    refused(format!("a whiteout of \"{}\", which this layer itself holds", crate::escaped(hidden)))
}

fn broken_symlink(path: &[u8]) -> EntryFault {
    let why = "a symlink to nothing, in a circle, or through something that is no directory";
    refused(format!("its parent \"{}\" is {why}", crate::escaped(path)))
}

/// Unpacks a layer of `number` that may have `limit` inodes; `lower` is what the layers below show.
pub(super) fn unpack(steps: Vec<Step>, number: u32, store: Store, lower: &Tree, limit: u64) -> Result<Layer, Refused> {
    if store == Store::Overlay2 {
        unique(&steps)?;
    }
    let mut unpack = Unpack { layer: Layer { number, ..Layer::default() }, store, lower, limit };
    let mut times = Vec::new();
    for Step { path, action, .. } in steps {
        if let Action::Put(Node { metadata, kind: Kind::Directory(_), .. }) = &action {
            times.push((path.clone(), metadata.mtime));
        }
        unpack.step(&path, action).map_err(|fault| (path, fault))?;
    }
    // Entries disturb the time of the directory that they go to, so all those are set last, by their paths.
    for (path, mtime) in times {
        let Some(id) = unpack.layer.tree.resolve(&path) else {
            return Err((path, refused("the directory, whose time is set last, is gone or behind a broken symlink")));
        };
        unpack.layer.clocks.remove(&id);
        if let Some(inode) = unpack.layer.tree.get_mut(id) {
            inode.metadata.mtime = mtime;
        }
    }
    Ok(unpack.layer)
}

/// Docker's own store keeps a record of each layer's names, and refuses to write one twice.
fn unique(steps: &[Step]) -> Result<(), Refused> {
    let mut seen = BTreeSet::new();
    match steps.iter().find(|step| !seen.insert((step.origin, &step.path))) {
        Some(twice) => Err((twice.path.clone(), refused("the layer holds this name twice"))),
        None => Ok(()),
    }
}

struct Unpack<'a> {
    layer: Layer,
    store: Store,
    lower: &'a Tree,
    limit: u64,
}

impl Unpack<'_> {
    fn step(&mut self, path: &[u8], action: Action) -> Result<(), EntryFault> {
        let (parent, name) = split(path);
        if matches!(action, Action::Opaque) {
            return self.make_opaque(parent);
        }
        let place = self.directory(parent)?;
        match action {
            Action::Whiteout(hidden) => self.whiteout(place, split(&hidden).1),
            Action::Put(node) => {
                self.put(place, name, node);
                Ok(())
            }
            Action::Link { target, metadata } => {
                self.layer.tree.unlink(place, name);
                let inode = self.target(&target)?;
                self.describe(inode, &target, metadata);
                self.link(place, name, inode);
                Ok(())
            }
            Action::Opaque => Ok(()),
        }
    }

    fn link(&mut self, place: InodeId, name: &[u8], inode: InodeId) {
        self.layer.tree.link(place, name, Entry { inode, layer: self.layer.number, explicit: true });
    }

    fn add(&mut self, metadata: Metadata, kind: Kind, xattrs: Option<Box<Xattrs>>) -> InodeId {
        let is_directory = matches!(kind, Kind::Directory(_));
        let inode = self.layer.tree.add(metadata, kind, xattrs);
        if is_directory {
            self.layer.clocks.insert(inode);
        }
        inode
    }

    /// The mark is an extended attribute: a file can bear it as well, to no effect, and Docker does not look.
    fn make_opaque(&mut self, path: &[u8]) -> Result<(), EntryFault> {
        let there = self.layer.tree.resolve(path).filter(|id| self.layer.tree.directory(*id).is_none());
        if there.is_none() || self.store == Store::Containerd {
            let place = self.directory(path)?;
            self.layer.opaque.insert(place);
        }
        Ok(())
    }

    /// On disk a whiteout is a device, which cannot be made where something is.
    fn whiteout(&mut self, place: InodeId, hidden: &[u8]) -> Result<(), EntryFault> {
        if self.layer.tree.directory(place).is_some_and(|names| names.contains_key(hidden)) {
            return Err(whiteout_of_own(hidden));
        }
        let inode = self.add(Metadata::IMPLIED, Kind::Character(0, 0), None);
        self.link(place, hidden, inode);
        Ok(())
    }

    /// A directory over a directory keeps its names; anything else goes first.
    fn put(&mut self, place: InodeId, name: &[u8], mut node: Node) {
        if matches!(node.kind, Kind::Symlink(_)) && self.store == Store::Containerd {
            node.metadata.mtime = bounded(node.metadata.mtime);
        }
        let old = self.layer.tree.directory(place).and_then(|names| names.get(name)).map(|entry| entry.inode);
        let old = old.filter(|id| matches!(node.kind, Kind::Directory(_)) && self.layer.tree.directory(*id).is_some());
        if let Some(directory) = old.and_then(|id| self.layer.tree.get_mut(id)) {
            directory.metadata = node.metadata;
            directory.xattrs = node.xattrs;
            return;
        }
        let inode = self.add(node.metadata, node.kind, node.xattrs);
        self.link(place, name, inode);
    }

    /// The inode that a hard link names: in this layer, its parents' symlinks followed, its own not.
    fn target(&self, target: &[u8]) -> Result<InodeId, EntryFault> {
        let fault = |why| EntryFault::HardLinkTarget { target: target.to_vec(), why };
        let (path, _) = cleaned(target);
        let found = if path.is_empty() { Some(ROOT) } else { self.lookup(&path) };
        let inode = found.ok_or_else(|| fault("is not in this layer, and docker load looks nowhere else"))?;
        match self.layer.tree.directory(inode) {
            Some(_) => Err(fault("is a directory")),
            None => Ok(inode),
        }
    }

    fn lookup(&self, path: &[u8]) -> Option<InodeId> {
        let (parent, name) = split(path);
        let names = self.layer.tree.directory(self.layer.tree.resolve(parent)?)?;
        names.get(name).map(|entry| entry.inode)
    }

    /// A hard link's owner, mode and time become its inode's. Docker's overlay2 asks first whether the target as it is
    /// written leads somewhere, which `a/../b` or `b/` may not.
    fn describe(&mut self, inode: InodeId, target: &[u8], metadata: Metadata) {
        let bare = !target.ends_with(b"/") && !target.ends_with(b"/.");
        let written = self.lookup(target).filter(|_| bare).and_then(|id| self.layer.tree.get(id));
        let whole = written.is_some_and(|inode| !matches!(inode.kind, Kind::Symlink(_)));
        let Some(inode) = self.layer.tree.get_mut(inode) else { return };
        (inode.metadata.uid, inode.metadata.gid) = (metadata.uid, metadata.gid);
        let is_symlink = matches!(inode.kind, Kind::Symlink(_));
        let (mode, mtime) = match self.store {
            Store::Overlay2 => (whole && !is_symlink, whole && !is_symlink),
            Store::Containerd => (!is_symlink, true),
        };
        if mode {
            inode.metadata.mode = metadata.mode;
        }
        if mtime {
            inode.metadata.mtime = bounded(metadata.mtime);
        }
    }

    /// The directory that an entry goes to. What is missing on the way is made; what is a symlink to nothing, or no
    /// directory, is refused.
    fn directory(&mut self, path: &[u8]) -> Result<InodeId, EntryFault> {
        if let Some(there) = self.layer.tree.resolve(path) {
            return self.as_directory(there, path);
        }
        let mut place = ROOT;
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').chain([(path.len(), &b'/')]) {
            let prefix = path.get(..at).unwrap_or_default();
            let there = self.layer.tree.directory(place).and_then(|names| names.get(split(prefix).1));
            place = match there.map(|entry| entry.inode) {
                None => self.make(place, prefix),
                Some(inode) if self.layer.tree.directory(inode).is_some() => inode,
                Some(_) => match self.layer.tree.resolve(prefix) {
                    Some(there) => self.as_directory(there, prefix)?,
                    None => return Err(broken_symlink(prefix)),
                },
            };
        }
        if self.layer.tree.table_len() as u64 > self.limit {
            return Err(EntryFault::TooManyInodes(self.limit));
        }
        Ok(place)
    }

    fn as_directory(&self, inode: InodeId, path: &[u8]) -> Result<InodeId, EntryFault> {
        match self.layer.tree.directory(inode) {
            Some(_) => Ok(inode),
            None => Err(refused(format!("its parent \"{}\" is not a directory", crate::escaped(path)))),
        }
    }

    /// Makes a directory that the layer implies. containerd gives it mode and owner of what is below.
    fn make(&mut self, place: InodeId, path: &[u8]) -> InodeId {
        let metadata = match self.store {
            Store::Overlay2 => made_in(&self.layer.tree, place),
            Store::Containerd => {
                let below = self.lower.at(path).filter(|id| self.lower.directory(*id).is_some());
                below.and_then(|id| self.lower.get(id)).map_or(Metadata::IMPLIED, |inode| inode.metadata)
            }
        };
        let inode = self.add(metadata, Kind::Directory(Directory::new()), None);
        self.layer.tree.link(place, split(path).1, Entry { inode, layer: self.layer.number, explicit: false });
        inode
    }
}

/// What Docker gives a directory that it makes in `place`: root's, but Linux hands a set-group-id bit down.
pub(super) fn made_in(tree: &Tree, place: InodeId) -> Metadata {
    let handed_down = tree.get(place).map_or(0, |inode| inode.metadata.mode & Metadata::SET_GID);
    Metadata { mode: Metadata::IMPLIED.mode | handed_down, ..Metadata::IMPLIED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_go_does() {
        let clean = |name: &str| {
            let (path, origin) = cleaned(name.as_bytes());
            (String::from_utf8(path.into()).unwrap(), origin)
        };
        for name in ["a/b", "./a//b/", "x/../a/b", "a/./b"] {
            assert_eq!(clean(name), ("a/b".to_owned(), Origin::Up(0)), "{name}");
        }
        assert_eq!(clean("/../a/b"), ("a/b".to_owned(), Origin::Root));
        assert_eq!(clean("x/../../a"), ("a".to_owned(), Origin::Up(1)));
        assert_eq!(clean("./"), (String::new(), Origin::Up(0)));
    }

    #[test]
    fn times_end_in_2262() {
        assert_eq!([bounded(-1), bounded(0), bounded(LAST_SECOND), bounded(LAST_SECOND + 1)], [0, 0, LAST_SECOND, 0]);
    }
}
