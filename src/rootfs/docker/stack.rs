//! Layers shown as one directory, as overlayfs does: the topmost layer that has a name decides, a whiteout hides it,
//! and directories merge downward until an opaque one.

use std::collections::{BTreeMap, BTreeSet};

use super::unpack::Layer;
use crate::rootfs::tree::{Directory, Entry, Inode, InodeId, Kind, ROOT, Tree};

/// The layers so far.
#[derive(Default)]
pub(super) struct Stack {
    pub(super) tree: Tree,
    /// Directories whose time is a clock's.
    pub(super) clocks: BTreeSet<InodeId>,
}

impl Stack {
    /// Puts a layer on top. The root merges always: overlayfs does not look whether it is marked opaque.
    pub(super) fn add(&mut self, mut layer: Layer) {
        let mut linked = BTreeMap::new();
        let mut pending = vec![(ROOT, ROOT)];
        while let Some((below, above)) = pending.pop() {
            let names = layer.tree.directory_mut(above).map(std::mem::take).unwrap_or_default();
            for (name, entry) in names {
                match layer.tree.get(entry.inode).map(|inode| &inode.kind) {
                    Some(Kind::Character(0, 0)) => self.tree.unlink(below, &name),
                    Some(Kind::Directory(_)) => {
                        pending.push((self.directory(below, &name, entry, &mut layer), entry.inode));
                    }
                    _ => self.other(below, &name, entry, &mut layer, &mut linked),
                }
            }
        }
    }

    /// The directory that shows one of the layer's: the one that is there, or a new one.
    fn directory(&mut self, place: InodeId, name: &[u8], entry: Entry, layer: &mut Layer) -> InodeId {
        let Some(above) = layer.tree.get_mut(entry.inode) else { return place };
        let (metadata, xattrs) = (above.metadata, above.xattrs.take());
        let there = self.tree.directory(place).and_then(|names| names.get(name)).map(|below| below.inode);
        let merges = |id: &InodeId| !layer.opaque.contains(&entry.inode) && self.tree.directory(*id).is_some();
        let inode = match there.filter(merges) {
            Some(inode) => {
                self.clocks.remove(&inode);
                if let Some(shown) = self.tree.get_mut(inode) {
                    (shown.metadata, shown.xattrs) = (metadata, xattrs);
                }
                if let Some(shown) = self.tree.directory_mut(place).and_then(|names| names.get_mut(name)) {
                    *shown = Entry { inode, ..entry };
                }
                inode
            }
            None => {
                let inode = self.tree.add(metadata, Kind::Directory(Directory::new()), xattrs);
                self.tree.link(place, name, Entry { inode, ..entry });
                inode
            }
        };
        if layer.clocks.contains(&entry.inode) {
            self.clocks.insert(inode);
        }
        inode
    }

    /// Anything else; names of one inode of the layer stay names of one inode.
    fn other(
        &mut self,
        place: InodeId,
        name: &[u8],
        entry: Entry,
        layer: &mut Layer,
        linked: &mut BTreeMap<InodeId, InodeId>,
    ) {
        let inode = match linked.get(&entry.inode) {
            Some(inode) => *inode,
            None => {
                let Some(Inode { metadata, kind, links, xattrs }) = layer.tree.take(entry.inode) else { return };
                let inode = self.tree.add(metadata, kind, xattrs);
                if links > 1 {
                    linked.insert(entry.inode, inode);
                }
                inode
            }
        };
        self.tree.link(place, name, Entry { inode, ..entry });
    }
}
