//! What `docker create` does to the file system, before anything runs.

use std::collections::BTreeSet;

use super::unpack::made_in;
use crate::image::Config;
use crate::rootfs::error::Error;
use crate::rootfs::layer::{scoped, split};
use crate::rootfs::lint::{check_name, check_path};
use crate::rootfs::tree::{Content, Directory, Entry, Extent, InodeId, Kind, Metadata, ROOT, Tree};

/// What must be at one of Docker's own paths.
enum Wanted {
    Directory,
    EmptyFile,
    Symlink(&'static str),
}

/// moby, `daemon/initlayer/setup_unix.go`.
const OWN: [(&str, Wanted); 10] = [
    (".dockerenv", Wanted::EmptyFile),
    ("dev/console", Wanted::EmptyFile),
    ("dev/pts", Wanted::Directory),
    ("dev/shm", Wanted::Directory),
    ("etc/hostname", Wanted::EmptyFile),
    ("etc/hosts", Wanted::EmptyFile),
    ("etc/mtab", Wanted::Symlink("/proc/mounts")),
    ("etc/resolv.conf", Wanted::EmptyFile),
    ("proc", Wanted::Directory),
    ("sys", Wanted::Directory),
];

/// Steps of [`in_scope`], that of the first slash and those of empty components counted.
const STEPS: usize = 256;

/// Changes the tree as the creation of a container does; gives the paths of the image that it replaces.
pub(super) fn create(
    tree: &mut Tree,
    clocks: &mut BTreeSet<InodeId>,
    config: &Config,
) -> Result<BTreeSet<&'static str>, Error> {
    let mut replaced = BTreeSet::new();
    for (path, wanted) in &OWN {
        replaced.extend(clear(tree, path));
        make(tree, path, wanted);
    }
    if !config.working_dir.is_empty() {
        let wanted = &config.working_dir;
        let refused = |why| Error::DockerCreate { what: "WorkingDir", path: wanted.clone(), why };
        let path = in_scope(tree, wanted.as_bytes()).map_err(refused)?;
        make_working_dir(tree, clocks, &path).map_err(refused)?;
    }
    for volume in &config.volumes {
        let refused = |why| Error::DockerCreate { what: "Volume", path: volume.clone(), why };
        let path = in_scope(tree, volume.as_bytes()).map_err(refused)?;
        if find(tree, &path).is_ok_and(|there| there.is_some_and(|id| tree.directory(id).is_none())) {
            return Err(refused("it is there and is no directory"));
        }
    }
    Ok(replaced)
}

/// Removes every component of a path that is there and is no directory; gives the one that went.
fn clear(tree: &mut Tree, path: &'static str) -> Option<&'static str> {
    let mut place = ROOT;
    for end in path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at).chain([path.len()]) {
        let prefix = path.get(..end)?;
        let name = split(prefix.as_bytes()).1;
        let there = tree.directory(place)?.get(name)?.inode;
        if tree.directory(there).is_none() {
            tree.unlink(place, name);
            return Some(prefix);
        }
        place = there;
    }
    None
}

/// Makes what is missing. Nothing but directories is in the way now.
fn make(tree: &mut Tree, path: &str, wanted: &Wanted) {
    let (parent, name) = split(path.as_bytes());
    let place = if parent.is_empty() { ROOT } else { make_directory(tree, ROOT, parent) };
    if tree.directory(place).is_some_and(|names| names.contains_key(name)) {
        return;
    }
    let inode = match wanted {
        Wanted::Directory => {
            make_directory(tree, place, name);
            return;
        }
        Wanted::EmptyFile => {
            let kind = Kind::File(Content { layer: 0, size: 0, extent: Extent::Plain(0) });
            tree.add(Metadata { mode: 0o755, ..Metadata::IMPLIED }, kind, None)
        }
        Wanted::Symlink(target) => {
            // Docker gives directories and files to root; a symlink's group is handed down to it.
            let parent = tree.get(place).map_or(Metadata::IMPLIED, |inode| inode.metadata);
            let gid = if parent.mode & Metadata::SET_GID == 0 { 0 } else { parent.gid };
            tree.add(Metadata { mode: 0o777, gid, ..Metadata::IMPLIED }, Kind::Symlink(target.as_bytes().into()), None)
        }
    };
    tree.link(place, name, made(inode));
}

/// The directory of this name, made if it is missing.
fn make_directory(tree: &mut Tree, place: InodeId, name: &[u8]) -> InodeId {
    if let Some(entry) = tree.directory(place).and_then(|names| names.get(name)) {
        return entry.inode;
    }
    let inode = tree.add(made_in(tree, place), Kind::Directory(Directory::new()), None);
    tree.link(place, name, made(inode));
    inode
}

fn made(inode: InodeId) -> Entry {
    Entry { inode, layer: u32::MAX, explicit: false }
}

/// Makes the directories of a path without symlinks. Each that is made, and the parent of the first, gets the time of
/// the creation.
fn make_working_dir(tree: &mut Tree, clocks: &mut BTreeSet<InodeId>, path: &[Box<[u8]>]) -> Result<(), &'static str> {
    check_path(&path.join(&b'/')).map_err(|_| "the path is too long")?;
    let mut place = ROOT;
    for name in path {
        check_name(name).map_err(|_| "a name in it is too long")?;
        let names = tree.directory(place).ok_or("it is there and is no directory")?;
        let is_missing = !names.contains_key(name);
        let inode = make_directory(tree, place, name);
        if is_missing {
            clocks.extend([place, inode]);
        }
        place = inode;
    }
    tree.directory(place).map(|_| ()).ok_or("it is there and is no directory")
}

/// What is at a path without symlinks; an error where something on the way is no directory.
fn find(tree: &Tree, path: &[Box<[u8]>]) -> Result<Option<InodeId>, &'static str> {
    let mut place = ROOT;
    for name in path {
        let names = tree.directory(place).ok_or("something on its way is no directory")?;
        let Some(entry) = names.get(name) else { return Ok(None) };
        place = entry.inode;
    }
    Ok(Some(place))
}

/// Where a path of the config leads in the container, as moby's `FollowSymlinkInScope`: symlinks are followed inside
/// the root, what is missing is taken as it is, and `..` takes back the last name, whatever that was.
fn in_scope(tree: &Tree, path: &[u8]) -> Result<Vec<Box<[u8]>>, &'static str> {
    if path.contains(&0) {
        return Err("it holds a NUL byte");
    }
    let reversed = |path: &[u8]| path.split(|byte| *byte == b'/').rev().map(Into::into).collect::<Vec<Box<[u8]>>>();
    let mut ahead = reversed(&[b"/", &*scoped(path)].concat());
    let mut done: Vec<Box<[u8]>> = Vec::new();
    for _ in 0..STEPS {
        let Some(part) = ahead.pop() else { break };
        match &*part {
            b"" | b"." => {}
            b".." => drop(done.pop()),
            _ => {
                done.push(part);
                let there = find(tree, &done)?.and_then(|id| tree.get(id));
                if let Some(Kind::Symlink(target)) = there.map(|inode| &inode.kind) {
                    done.pop();
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    ahead.extend(reversed(target));
                }
            }
        }
    }
    if ahead.is_empty() { Ok(done) } else { Err("too many symlinks on its way") }
}
