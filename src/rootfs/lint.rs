//! What the kernel would drop or spoil without a word while it unpacks the ramdisk (init/initramfs.c), found first.

use std::io::Read;

use super::error::{EntryFault, Error};
use super::load::entry_error;
use super::spool::Spools;
use super::tree::{Inode, Kind, Metadata, ROOT, Tree};
use crate::image::Image;
use crate::{Warning, escaped};

/// NAME_MAX of Linux, in bytes.
const COMPONENT: usize = 255;
/// PATH_MAX of Linux with the NUL, in bytes; newc's name size counts it too.
pub(super) const PATH: usize = 4096;
/// What stands before every name in the ramdisk.
const PREFIX: usize = "rootfs/".len();

/// Directories that the init mounts something over.
const MOUNTED: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Refuses what would be lost, and warns of what the enclave will not show.
///
/// `zero_times`: whether the ramdisk will have no mtimes, so that Python's compiled files look stale.
///
/// # Errors
/// [`Error::Entry`] for the first name, in the tree's order, that the kernel would not unpack as it is.
pub fn lint(tree: &Tree, spools: &Spools, image: &Image, zero_times: bool) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    let (mut stale, mut hidden) = (0_usize, [0_usize; MOUNTED.len()]);
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.next() {
        let Some(inode) = tree.get(entry.inode) else { continue };
        refuse(path, inode).map_err(|fault| entry_error(image, entry.layer, path, fault))?;
        stale = stale.saturating_add(usize::from(path.ends_with(b".pyc") && matches!(inode.kind, Kind::File(_))));
        for (count, place) in hidden.iter_mut().zip(MOUNTED) {
            let below = path.strip_prefix(place).is_some_and(|rest| rest.starts_with(b"/"));
            *count = count.saturating_add(usize::from(below && !matches!(inode.kind, Kind::Directory(_))));
        }
    }
    for (count, place) in hidden.into_iter().zip(MOUNTED).filter(|(count, _)| *count > 0) {
        let place = escaped(place);
        let text = format!("{count} entries below /{place} are hidden in the enclave by what is mounted there");
        warnings.push(Warning::new("W-hidden", text));
    }
    if zero_times && stale > 0 {
        let text = format!(
            "{stale} .pyc files will look stale, since mtimes are zero: Python compiles them again in memory \
             (--mtime keep, or .pyc files with unchecked hashes, avoid it)"
        );
        warnings.push(Warning::new("W-stale-pyc", text));
    }
    if !knows_localhost(tree, spools) {
        let text = "/etc/hosts of the image does not name localhost: programs that look it up will fail";
        warnings.push(Warning::new("W-no-localhost", text));
    }
    Ok(warnings)
}

/// Whether etc/hosts has a line for localhost. Docker writes that file when a container starts; nobody does here.
fn knows_localhost(tree: &Tree, spools: &Spools) -> bool {
    let hosts = tree.resolve(b"etc/hosts").and_then(|id| tree.get(id));
    let Some(Kind::File(content)) = hosts.map(|inode| &inode.kind) else { return false };
    let mut bytes = Vec::new();
    let read = spools.read(content).take(1 << 20).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let named =
        |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).any(|n| n == "localhost");
    read.is_ok() && text.lines().any(named)
}

fn refuse(path: &[u8], inode: &Inode) -> Result<(), EntryFault> {
    check_name(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())?;
    check_path(path)?;
    match &inode.kind {
        Kind::Symlink(target) => check_target(target),
        _ => Ok(()),
    }
}

/// Whether one component of a path is short enough.
pub(super) fn check_name(name: &[u8]) -> Result<(), EntryFault> {
    match name.len() {
        0..=COMPONENT => Ok(()),
        _ => Err(EntryFault::NameTooLong("a component has more than 255 bytes")),
    }
}

/// Whether the kernel can unpack something at this path. An entry with a longer one is refused as soon as it is read,
/// so that names cannot fill the memory.
pub(super) fn check_path(path: &[u8]) -> Result<(), EntryFault> {
    if path.len().saturating_add(PREFIX).saturating_add(1) > PATH {
        return Err(EntryFault::NameTooLong("the path has more than 4088 bytes"));
    }
    Ok(())
}

/// The same for the target of a symlink.
pub(super) fn check_target(target: &[u8]) -> Result<(), EntryFault> {
    match target.len() {
        0 => Err(EntryFault::SymlinkTargetEmpty),
        length if length >= PATH => Err(EntryFault::SymlinkTooLong(length)),
        _ => Ok(()),
    }
}

impl Tree {
    /// Sums up what the tree needs when it is unpacked into a tmpfs of 4096-byte pages: (bytes, inodes).
    pub fn footprint(&self) -> (u64, u64) {
        let (mut bytes, mut inodes) = (0_u64, 1_u64);
        let mut seen = vec![false; self.table_len()];
        let mut walk = self.walk();
        while let Some((_, entry)) = walk.next() {
            let slot = seen.get_mut(entry.inode as usize);
            let Some(inode) = self.get(entry.inode) else { continue };
            let first = slot.is_none_or(|slot| !std::mem::replace(slot, true));
            if first {
                inodes = inodes.saturating_add(1);
                if let Kind::File(content) = &inode.kind {
                    bytes = bytes.saturating_add(content.size.div_ceil(4096).saturating_mul(4096));
                }
            }
        }
        (bytes, inodes)
    }

    /// Makes a directory for something to be mounted on, unless there is one; false when something else is there.
    pub fn add_mount_point(&mut self, path: &[u8], mode: u16) -> bool {
        if let Some(there) = self.resolve(path) {
            return self.directory(there).is_some();
        }
        let Ok(made) = self.make_directory(path) else { return false };
        if let Some(directory) = self.get_mut(made) {
            directory.metadata.mode = mode;
        }
        true
    }

    /// The names of everything that has the extended attribute, as messages show them.
    pub fn with_attribute(&self, attribute: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut walk = self.walk();
        while let Some((path, entry)) = walk.next() {
            let xattrs = self.get(entry.inode).and_then(|inode| inode.xattrs.as_deref());
            if xattrs.is_some_and(|xattrs| xattrs.iter().any(|(name, _)| **name == *attribute)) {
                names.push(format!("/{}", escaped(path)));
            }
        }
        names
    }

    /// The root's own owner and mode.
    pub fn root_metadata(&self) -> Metadata {
        self.get(ROOT).map_or(Metadata::IMPLIED, |root| root.metadata)
    }
}
