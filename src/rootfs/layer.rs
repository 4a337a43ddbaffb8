//! From a tar's entries to changes of a tree. Knows names and whiteouts, knows no tree.

use std::cell::Cell;
use std::io::BufRead;
use std::sync::atomic::{AtomicU64, Ordering};

use super::entries::{Body, Entries, Fault, TarEntry};
use super::error::EntryFault;
use super::lint::{check_path, check_target};
use super::load::Limits;
use super::tree::{Content, Extent, Kind, Metadata, Piece, Xattrs};

/// Bytes of names, attributes and pieces for which an entry counts once more.
const WEIGHT: u64 = 256;

/// A path from the root, without empty, `.` and `..` components.
pub(super) type Path = Box<[u8]>;

/// What one entry of a layer does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Hides a name of the lower layers.
    Whiteout(Path),
    /// Hides all names of the lower layers in a directory.
    Opaque(Path),
    /// Puts something in its place.
    Put(Path, Node),
    /// Gives another name to what is at the second path.
    Link(Path, Path),
}

/// Something that is put into a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
    /// A directory comes without names.
    pub(super) kind: Kind,
    pub(super) xattrs: Option<Box<Xattrs>>,
}

/// What is left of the limits. All layers draw on it, on whichever thread they are read.
pub(super) struct Budget {
    /// Bytes of plain tars.
    stored: AtomicU64,
    /// Bytes of files, holes included.
    unpacked: AtomicU64,
    entries: AtomicU64,
    depth: usize,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { unpacked, entries, depth } = limits;
        Self { stored: unpacked.into(), unpacked: unpacked.into(), entries: entries.into(), depth }
    }

    /// Begins the reading of a layer.
    pub(super) fn open(&self) -> Tab<'_> {
        Tab { budget: self, stored: Cell::new(0), unpacked: Cell::new(0), entries: Cell::new(0) }
    }
}

/// What one reading of a layer has drawn. It is given back unless it is kept: a layer may be read again.
pub(super) struct Tab<'a> {
    budget: &'a Budget,
    stored: Cell<u64>,
    unpacked: Cell<u64>,
    entries: Cell<u64>,
}

impl Tab<'_> {
    /// Whether so many bytes more may be spooled.
    pub(super) fn take_stored(&self, bytes: u64) -> bool {
        take(&self.budget.stored, &self.stored, bytes)
    }

    /// The reading was the last one.
    pub(super) fn keep(self) {
        let Self { stored, unpacked, entries, .. } = &self;
        [stored, unpacked, entries].into_iter().for_each(|drawn| drawn.set(0));
    }
}

impl Drop for Tab<'_> {
    fn drop(&mut self) {
        let Budget { stored, unpacked, entries, .. } = self.budget;
        for (left, drawn) in [(stored, &self.stored), (unpacked, &self.unpacked), (entries, &self.entries)] {
            left.fetch_add(drawn.get(), Ordering::Relaxed);
        }
    }
}

fn take(left: &AtomicU64, drawn: &Cell<u64>, amount: u64) -> bool {
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount)).is_ok();
    if taken {
        drawn.set(drawn.get().saturating_add(amount));
    }
    taken
}

/// Why a layer was not read to its end.
#[derive(Debug)]
pub(super) enum Stop {
    Fault(Fault),
    TooManyEntries,
    TooManyBytes,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

/// Makes of an entry, of the layer of this number, what it does; `None` for nothing. The last number is the limit of a
/// path's components.
pub(super) type Meaning<C> = fn(TarEntry, u32, usize) -> Result<Option<C>, EntryFault>;

/// What all entries of a layer do, in their order.
pub(super) fn read<R: BufRead, C>(
    entries: &mut Entries<R>,
    layer: u32,
    tab: &Tab<'_>,
    meaning: Meaning<C>,
) -> Result<Vec<C>, Stop> {
    let mut changes = Vec::new();
    while let Some(entry) = entries.next()? {
        if !take(&tab.budget.entries, &tab.entries, cost(&entry)) {
            return Err(Stop::TooManyEntries);
        }
        if let Body::File { size, .. } = &entry.body
            && !take(&tab.budget.unpacked, &tab.unpacked, *size)
        {
            return Err(Stop::TooManyBytes);
        }
        let name = entry.name.clone();
        if let Some(change) = meaning(entry, layer, tab.budget.depth).map_err(|fault| Fault::Entry(name, fault))? {
            changes.push(change);
        }
    }
    Ok(changes)
}

/// For how many entries one counts: the limit bounds the memory, too.
fn cost(entry: &TarEntry) -> u64 {
    let body = match &entry.body {
        Body::Symlink(target) | Body::HardLink(target) => target.len(),
        Body::File { extent: Extent::Sparse(pieces), .. } => size_of_val::<[Piece]>(pieces),
        _ => 0,
    };
    let xattrs = entry.xattrs.iter().flat_map(|xattrs| xattrs.iter());
    let parts = xattrs.map(|(name, value)| name.len().saturating_add(value.len()));
    let bytes = parts.fold(entry.name.len().saturating_add(body), usize::saturating_add);
    (bytes as u64 / WEIGHT).saturating_add(1)
}

/// What an entry does where no layer is below: whiteouts have no place.
pub(super) fn plain(entry: TarEntry, layer: u32, depth: usize) -> Result<Option<Change>, EntryFault> {
    if entry.name.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh.")) {
        return Err(EntryFault::Whiteout);
    }
    change(entry, layer, depth)
}

/// What an entry does; `None` for the bookkeeping of AUFS.
pub(super) fn change(entry: TarEntry, layer: u32, depth: usize) -> Result<Option<Change>, EntryFault> {
    let path = normal(&entry.name)?;
    let components = path.split(|byte| *byte == b'/').count();
    if components > depth {
        return Err(EntryFault::TooDeep(components, depth));
    }
    check_path(&path)?;
    let (parent, name) = split(&path);
    if let Some(marked) = whiteout(parent, name)? {
        return Ok(match marked {
            Marked::Whiteout(hidden) => Some(Change::Whiteout(join(parent, hidden))),
            Marked::Opaque => Some(Change::Opaque(parent.into())),
            Marked::Bookkeeping => None,
        });
    }
    let TarEntry { mode, uid, gid, mtime, xattrs, body, .. } = entry;
    let kind = match body {
        Body::HardLink(target) => {
            if target.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh..wh.")) {
                return Err(EntryFault::Unsupported("a hard link into AUFS's bookkeeping".to_owned()));
            }
            let target = scoped(&target);
            check_path(&target)?;
            return Ok(Some(Change::Link(path, target)));
        }
        Body::Symlink(target) => {
            check_target(&target)?;
            Kind::Symlink(target.into())
        }
        Body::Directory => Kind::Directory(Default::default()),
        Body::File { size, extent } => Kind::File(Content { layer, size, extent }),
        Body::Character(major, minor) => Kind::Character(major, minor),
        Body::Block(major, minor) => Kind::Block(major, minor),
        Body::Fifo => Kind::Fifo,
    };
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
    Ok(Some(Change::Put(path, Node { metadata: Metadata { mode, uid, gid, mtime }, kind, xattrs })))
}

enum Marked<'a> {
    Whiteout(&'a [u8]),
    Opaque,
    Bookkeeping,
}

/// What a name with the prefix `.wh.` means (image-spec, layer.md, "Whiteouts"). The name decides, not the type.
fn whiteout<'a>(parent: &[u8], name: &'a [u8]) -> Result<Option<Marked<'a>>, EntryFault> {
    for part in parent.split(|byte| *byte == b'/') {
        if part.starts_with(b".wh..wh.") {
            return Ok(Some(Marked::Bookkeeping));
        }
        if part.starts_with(b".wh.") {
            return Err(EntryFault::BadWhiteout);
        }
    }
    let Some(hidden) = name.strip_prefix(b".wh.") else { return Ok(None) };
    match hidden {
        b".wh..opq" => Ok(Some(Marked::Opaque)),
        b"" | b"." | b".." => Err(EntryFault::BadWhiteout),
        hidden if hidden.starts_with(b".wh.") => Ok(Some(Marked::Bookkeeping)),
        hidden => Ok(Some(Marked::Whiteout(hidden))),
    }
}

/// An entry's name from the root. Empty for the root itself.
fn normal(name: &[u8]) -> Result<Path, EntryFault> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or(EntryFault::PathTraversal)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/').into())
}

/// A hard link's target from the root; `..` stops there.
pub(super) fn scoped(target: &[u8]) -> Path {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/').into()
}

/// A path's parent (empty for the root) and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at.saturating_add(1)..).unwrap_or_default()),
        None => (&[], path),
    }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Path {
    if parent.is_empty() { name.into() } else { [parent, name].join(&b'/').into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_root() {
        for name in ["a/b", "/a/b", "./a//b/", "a/x/../b", "a/./b"] {
            assert_eq!(&*normal(name.as_bytes()).unwrap(), b"a/b", "{name}");
        }
        assert_eq!(&*normal(b"./").unwrap(), b"");
        assert_eq!(normal(b"a/../../b"), Err(EntryFault::PathTraversal));
        assert_eq!(&*scoped(b"../../a"), b"a");
    }

    #[test]
    fn whiteouts_by_name() {
        let read = |path: &str| {
            let (parent, name) = split(path.as_bytes());
            whiteout(parent, name).map(|marked| match marked {
                None => "file".to_owned(),
                Some(Marked::Opaque) => "opaque".to_owned(),
                Some(Marked::Bookkeeping) => "skip".to_owned(),
                Some(Marked::Whiteout(hidden)) => format!("hides {}", crate::escaped(hidden)),
            })
        };
        assert_eq!(read("a/.wh.b").unwrap(), "hides b");
        assert_eq!(read(".wh...").unwrap_err(), EntryFault::BadWhiteout);
        assert_eq!(read(".wh....").unwrap(), "hides ...");
        assert_eq!(read("a/.wh..wh..opq").unwrap(), "opaque");
        assert_eq!(read(".wh..wh.plnk/1.2").unwrap(), "skip");
        assert_eq!(read(".wh..wh.aufs").unwrap(), "skip");
        assert_eq!(read("a/.what").unwrap(), "file");
        for bad in [".wh.", ".wh..", "a/.wh...", ".wh.a/b"] {
            assert_eq!(read(bad).unwrap_err(), EntryFault::BadWhiteout, "{bad}");
        }
    }
}
