//! Applies the changes of one layer to a tree (image-spec, layer.md, "Applying Changesets").
//!
//! First whiteouts, which see the lower layers alone, then everything else in the layer's order. So the result does
//! not depend on where in a layer a whiteout stands.

use std::collections::BTreeSet;

use super::error::EntryFault;
use super::layer::{Change, Node, Path, split};
use super::tree::{Directory, Entry, InodeId, Kind, Metadata, ROOT, Tree};

/// Symlinks on the way to one name (the kernel's MAXSYMLINKS).
const SYMLINKS: usize = 40;

/// A forward hard link may lead to another, this often.
const LINK_CHAIN: usize = 40;
/// Warnings of one kind that a layer gives: a layer may have a million of them.
const TOLD: usize = 8;

/// Something that is not refused, at an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) entry: Path,
    pub(super) fault: NoteKind,
}

/// Which note.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoteKind {
    /// An error under `--strict`.
    Strict(EntryFault),
    /// A directory replaces a symlink: `lib/` over `lib -> usr/lib` hides all that was there.
    DirectoryOverSymlink,
}

impl NoteKind {
    fn is_like(&self, other: &NoteKind) -> bool {
        match (self, other) {
            (NoteKind::Strict(one), NoteKind::Strict(two)) => one.code() == two.code(),
            (one, two) => one == two,
        }
    }
}

/// Where a walk to a parent directory goes.
enum Missing {
    Create,
    Stop,
}

pub(super) struct Apply<'a> {
    tree: &'a mut Tree,
    layer: u32,
    /// Inodes that the tree may have.
    limit: u64,
    notes: Vec<Note>,
    /// The symlink that the last walk to a parent went through first.
    through: Option<Path>,
    /// Those that were told: a layer may put thousands of files below one.
    told: BTreeSet<Path>,
}

type Refused = (Path, EntryFault);

/// Applies a layer to a tree that may get `limit` inodes. A refusal names the entry.
pub(super) fn apply(tree: &mut Tree, layer: u32, changes: Vec<Change>, limit: u64) -> Result<Vec<Note>, Refused> {
    let mut apply = Apply { tree, layer, limit, notes: Vec::new(), through: None, told: BTreeSet::new() };
    apply.hide(&changes)?;
    let mut waiting = Vec::new();
    for change in changes {
        match change {
            Change::Whiteout(_) | Change::Opaque(_) => {}
            Change::Put(path, node) => apply.put(&path, node).map_err(|fault| (path, fault))?,
            Change::Link(path, target) => {
                if !apply.link(&path, &target).map_err(|fault| (path.clone(), fault))? {
                    waiting.push((path, target));
                }
            }
        }
    }
    apply.link_forward(waiting)?;
    Ok(apply.notes)
}

impl Apply<'_> {
    /// Removes what the whiteouts name. All places are found before the first goes, so their order does not matter.
    fn hide(&mut self, changes: &[Change]) -> Result<(), Refused> {
        let own = own_directories(changes);
        let mut hidden: Vec<(InodeId, Box<[u8]>)> = Vec::new();
        for change in changes {
            let (path, opaque) = match change {
                Change::Whiteout(path) => (path, false),
                Change::Opaque(path) => (path, true),
                Change::Put(..) | Change::Link(..) => continue,
            };
            let (parent, name) = if opaque { (&**path, &b""[..]) } else { split(path) };
            if self.is_replaced(parent, &own) {
                continue;
            }
            let place = match self.parent(parent, &Missing::Stop) {
                Ok(place) => place,
                Err(EntryFault::ParentNotDirectory(_)) => None,
                Err(fault) => return Err((path.clone(), fault)),
            };
            let Some(place) = place else { continue };
            self.note_symlink(path);
            if opaque {
                let names = self.tree.directory(place).into_iter().flat_map(Directory::keys);
                hidden.extend(names.map(|name| (place, name.clone())));
            } else {
                hidden.push((place, name.into()));
            }
        }
        for (place, name) in hidden {
            self.tree.unlink(place, &name);
        }
        Ok(())
    }

    /// Whether this layer puts a directory of its own where the lower layers have a symlink, at `path` or above it.
    /// What the symlink led to is not what a whiteout in that directory means: `rm link && mkdir link` makes an opaque
    /// directory.
    fn is_replaced(&mut self, path: &[u8], own: &BTreeSet<&[u8]>) -> bool {
        // One walk, whatever the depth, on which `own` is asked about symlinks alone: there are few on a way.
        let mut walk = Descent::default();
        let mut end = 0_usize;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            end = end.saturating_add(name.len());
            let here = walk.stack.last().copied().unwrap_or(ROOT);
            let entry = self.tree.directory(here).and_then(|names| names.get(name));
            let inode = entry.and_then(|entry| self.tree.get(entry.inode));
            let is_link = inode.is_some_and(|inode| matches!(inode.kind, Kind::Symlink(_)));
            if is_link && path.get(..end).is_some_and(|prefix| own.contains(prefix)) {
                return true;
            }
            if !matches!(walk.descend(self.tree, self.layer, name, &Missing::Stop), Ok(Some(_))) {
                return false;
            }
            end = end.saturating_add(1);
        }
        false
    }

    fn put(&mut self, path: &Path, node: Node) -> Result<(), EntryFault> {
        if path.is_empty() {
            return self.put_root(node);
        }
        let (parent, name) = split(path);
        let place = self.directory_for(path, parent)?;
        let old = self.tree.directory(place).and_then(|names| names.get(name)).copied();
        let is_directory = matches!(node.kind, Kind::Directory(_));
        if let Some(old) = old {
            self.note_replaced(path, &old, is_directory);
            if is_directory && self.tree.directory(old.inode).is_some() {
                self.describe(place, name, old.inode, node);
                return Ok(());
            }
        }
        let inode = self.tree.add(node.metadata, node.kind, node.xattrs);
        self.tree.link(place, name, Entry { inode, layer: self.layer, explicit: true });
        Ok(())
    }

    fn put_root(&mut self, node: Node) -> Result<(), EntryFault> {
        if !matches!(node.kind, Kind::Directory(_)) {
            return Err(EntryFault::RootNotDirectory);
        }
        if let Some(root) = self.tree.get_mut(ROOT) {
            root.metadata = node.metadata;
            root.xattrs = node.xattrs;
        }
        Ok(())
    }

    /// A directory over a directory: the names stay, the later metadata count.
    fn describe(&mut self, place: InodeId, name: &[u8], inode: InodeId, node: Node) {
        if let Some(directory) = self.tree.get_mut(inode) {
            directory.metadata = node.metadata;
            directory.xattrs = node.xattrs;
        }
        if let Some(entry) = self.tree.directory_mut(place).and_then(|names| names.get_mut(name)) {
            *entry = Entry { inode, layer: self.layer, explicit: true };
        }
    }

    fn note_replaced(&mut self, path: &Path, old: &Entry, by_directory: bool) {
        if old.layer == self.layer && old.explicit {
            self.note(path, NoteKind::Strict(EntryFault::Duplicate));
        } else if by_directory && matches!(self.tree.get(old.inode).map(|inode| &inode.kind), Some(Kind::Symlink(_))) {
            self.note(path, NoteKind::DirectoryOverSymlink);
        }
    }

    /// Gives `target` another name; false when there is no such target yet.
    fn link(&mut self, path: &Path, target: &Path) -> Result<bool, EntryFault> {
        let fault = |why| EntryFault::HardLinkTarget { target: target.to_vec(), why };
        if target.is_empty() || path.is_empty() {
            return Err(fault("is a directory"));
        }
        let Some(inode) = self.lookup(target)? else { return Ok(false) };
        if self.tree.directory(inode).is_some() {
            return Err(fault("is a directory"));
        }
        let (parent, name) = split(path);
        let place = self.directory_for(path, parent)?;
        if let Some(old) = self.tree.directory(place).and_then(|names| names.get(name)).copied() {
            if old.inode == inode {
                return if path == target { Err(fault("is the link itself")) } else { Ok(true) };
            }
            self.note_replaced(path, &old, false);
        }
        // The target may lie below what this name held, so it gets its name first.
        self.tree.link(place, name, Entry { inode, layer: self.layer, explicit: true });
        Ok(true)
    }

    /// Links to names that come later in the layer, until none is left or none can be made.
    fn link_forward(&mut self, mut waiting: Vec<(Path, Path)>) -> Result<(), Refused> {
        for turn in 0.. {
            let before = waiting.len();
            let mut still = Vec::new();
            for (path, target) in waiting {
                if !self.written_here(&path) && !self.link(&path, &target).map_err(|fault| (path.clone(), fault))? {
                    still.push((path, target));
                }
            }
            if still.len() == before || turn == LINK_CHAIN {
                return match still.into_iter().next() {
                    None => Ok(()),
                    Some((path, target)) => {
                        let why = "does not exist";
                        Err((path, EntryFault::HardLinkTarget { target: target.into(), why }))
                    }
                };
            }
            waiting = still;
        }
        Ok(())
    }

    /// Whether an entry of this layer already has the name: it came after the link, so it counts.
    fn written_here(&mut self, path: &[u8]) -> bool {
        let (parent, name) = split(path);
        let place = self.parent(parent, &Missing::Stop).ok().flatten();
        let entry = place.and_then(|place| self.tree.directory(place)).and_then(|names| names.get(name));
        entry.is_some_and(|entry| entry.layer == self.layer && entry.explicit)
    }

    fn lookup(&mut self, path: &[u8]) -> Result<Option<InodeId>, EntryFault> {
        let (parent, name) = split(path);
        let place = self.parent(parent, &Missing::Stop)?;
        let names = place.and_then(|place| self.tree.directory(place));
        Ok(names.and_then(|names| names.get(name)).map(|entry| entry.inode))
    }

    /// The directory that an entry goes to, made where it is missing.
    fn directory_for(&mut self, entry: &Path, parent: &[u8]) -> Result<InodeId, EntryFault> {
        let place = self.parent(parent, &Missing::Create)?;
        self.note_symlink(entry);
        // One entry may make thousands of directories on its way.
        if self.tree.table_len() as u64 > self.limit {
            return Err(EntryFault::TooManyInodes(self.limit));
        }
        place.ok_or_else(|| EntryFault::ParentNotDirectory(parent.to_vec()))
    }

    fn note_symlink(&mut self, entry: &Path) {
        if let Some(link) = self.through.take()
            && self.told.insert(link.clone())
        {
            self.note(entry, NoteKind::Strict(EntryFault::SymlinkParent(link.into())));
        }
    }

    fn note(&mut self, entry: &Path, fault: NoteKind) {
        let alike = self.notes.iter().filter(|note| note.fault.is_like(&fault)).count();
        if alike < TOLD {
            self.notes.push(Note { entry: entry.clone(), fault });
        }
    }

    fn parent(&mut self, path: &[u8], missing: &Missing) -> Result<Option<InodeId>, EntryFault> {
        self.through = None;
        let mut walk = Descent::default();
        let place = walk.descend(self.tree, self.layer, path, missing);
        self.through = walk.first;
        place
    }
}

/// A walk from the root to a directory, following symlinks without leaving the root.
struct Descent {
    stack: Vec<InodeId>,
    symlinks: usize,
    first: Option<Path>,
}

impl Default for Descent {
    /// At the root.
    fn default() -> Self {
        Self { stack: vec![ROOT], symlinks: 0, first: None }
    }
}

impl Descent {
    fn descend(
        &mut self,
        tree: &mut Tree,
        layer: u32,
        path: &[u8],
        missing: &Missing,
    ) -> Result<Option<InodeId>, EntryFault> {
        let mut ahead: Vec<Box<[u8]>> = components(path);
        while let Some(name) = ahead.pop() {
            let here = self.stack.last().copied().unwrap_or(ROOT);
            if &*name == b".." {
                if self.stack.len() > 1 {
                    self.stack.pop();
                }
                continue;
            }
            let found = tree.directory(here).and_then(|names| names.get(&name)).map(|entry| entry.inode);
            let next = match (found, missing) {
                (Some(next), _) => next,
                (None, Missing::Stop) => return Ok(None),
                (None, Missing::Create) => implied(tree, here, &name, layer),
            };
            match tree.get(next).map(|inode| &inode.kind) {
                Some(Kind::Directory(_)) => self.stack.push(next),
                Some(Kind::Symlink(target)) => {
                    self.symlinks = self.symlinks.saturating_add(1);
                    if self.symlinks > SYMLINKS {
                        return Err(EntryFault::SymlinkLoop);
                    }
                    self.first.get_or_insert(name);
                    if target.starts_with(b"/") {
                        self.stack.truncate(1);
                    }
                    ahead.extend(components(target));
                }
                _ => return Err(EntryFault::ParentNotDirectory(path.to_vec())),
            }
        }
        Ok(Some(self.stack.last().copied().unwrap_or(ROOT)))
    }
}

/// The directories that a layer has entries for.
fn own_directories(changes: &[Change]) -> BTreeSet<&[u8]> {
    let own = changes.iter().filter_map(|change| match change {
        Change::Put(path, Node { kind: Kind::Directory(_), .. }) => Some(&**path),
        _ => None,
    });
    own.collect()
}

/// A directory that no entry describes.
fn implied(tree: &mut Tree, parent: InodeId, name: &[u8], layer: u32) -> InodeId {
    let inode = tree.add(Metadata::IMPLIED, Kind::Directory(Directory::new()), None);
    tree.link(parent, name, Entry { inode, layer, explicit: false });
    inode
}

/// The components of a path, last first.
fn components(path: &[u8]) -> Vec<Box<[u8]>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut parts: Vec<Box<[u8]>> = parts.map(Into::into).collect();
    parts.reverse();
    parts
}

impl Tree {
    /// What a path leads to, symlinks followed inside the root; `None` when nothing is there.
    pub fn resolve(&self, path: &[u8]) -> Option<InodeId> {
        let mut stack = vec![ROOT];
        let mut ahead = components(path);
        let mut symlinks = 0_usize;
        while let Some(name) = ahead.pop() {
            let names = self.directory(stack.last().copied()?)?;
            if &*name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let entry = names.get(&name)?;
            match &self.get(entry.inode)?.kind {
                Kind::Symlink(target) => {
                    symlinks = symlinks.saturating_add(1);
                    if symlinks > SYMLINKS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    ahead.extend(components(target));
                }
                _ => stack.push(entry.inode),
            }
        }
        stack.last().copied()
    }

    /// Makes a directory and its missing parents, mode 0755 and owner root; what is there already stays as it is.
    ///
    /// # Errors
    /// [`EntryFault::ParentNotDirectory`] when something else is in the way, [`EntryFault::SymlinkLoop`].
    pub fn make_directory(&mut self, path: &[u8]) -> Result<InodeId, EntryFault> {
        let mut walk = Descent { stack: vec![ROOT], symlinks: 0, first: None };
        let place = walk.descend(self, u32::MAX, path, &Missing::Create)?;
        Ok(place.unwrap_or(ROOT))
    }
}
