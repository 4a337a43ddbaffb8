//! Extended attributes that an enclave can have. The init has to set all that a ramdisk brings, so what the kernel will
//! not take is left out here, and told.

use std::collections::BTreeSet;

use super::error::{EntryFault, Error};
use super::load::entry_error;
use super::tree::{Entry, InodeId, Kind, ROOT, Tree, Xattr};
use crate::image::Image;
use crate::{Warning, escaped};

/// Bytes of all attributes with their paths that an `.eif` may have: its readers hold them in memory.
pub const MOST: u32 = 64 << 20;
/// Attributes that are named one by one.
const NAMED: usize = 16;

/// Leaves out what the root of the enclave will not take. `ramfs`: it is one, and has no attributes at all.
///
/// # Errors
/// [`Error::Entry`] for the first one that is too much, in the tree's order.
pub fn settle(tree: &mut Tree, image: &Image, ramfs: bool) -> Result<Vec<Warning>, Error> {
    let (mut bytes, mut seen, mut left_out) = (0_u64, BTreeSet::new(), Vec::new());
    let mut look = |path: &[u8], entry: Entry| {
        let Some(inode) = tree.get(entry.inode).filter(|inode| inode.xattrs.is_some()) else { return Ok(()) };
        // All names of a file share its attributes.
        if !seen.insert(entry.inode) {
            return Ok(());
        }
        for (name, value) in inode.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            if ramfs || !is_settable(&inode.kind, name, value) {
                left_out.push((entry.inode, format!("/{} ({})", escaped(path), escaped(name))));
                continue;
            }
            let record = [path.len(), name.len(), value.len()].into_iter().fold(16, usize::saturating_add);
            bytes = bytes.saturating_add(record as u64);
            if bytes > u64::from(MOST) {
                let fault = EntryFault::Xattr("is one too many: all of them have more than 64 MiB with their paths");
                return Err(entry_error(image, entry.layer, path, fault));
            }
        }
        Ok(())
    };
    look(b"", Entry { inode: ROOT, layer: 0, explicit: true })?;
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.next() {
        look(path, *entry)?;
    }
    for (id, _) in &left_out {
        leave_out(tree, *id, ramfs);
    }
    let Some(first) = left_out.get(..left_out.len().min(NAMED)).filter(|first| !first.is_empty()) else {
        return Ok(Vec::new());
    };
    let why = match ramfs {
        true => "the command line makes the root a ramfs, which has no extended attributes",
        false => "Linux takes these extended attributes of no file in memory, or not of files of this type",
    };
    let named: Vec<&str> = first.iter().map(|(_, text)| &**text).collect();
    let more = match left_out.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Ok(vec![Warning::new("E-xattr", format!("{why}; they are left out: {}{more}", named.join(", ")))])
}

fn leave_out(tree: &mut Tree, id: InodeId, ramfs: bool) {
    let Some(inode) = tree.get_mut(id) else { return };
    let all = inode.xattrs.take().map(|xattrs| xattrs.into_vec()).unwrap_or_default();
    let settable = |(name, value): &Xattr| !ramfs && is_settable(&inode.kind, name, value);
    let left: Vec<Xattr> = all.into_iter().filter(settable).collect();
    inode.xattrs = (!left.is_empty()).then(|| Box::new(left.into_boxed_slice()));
}

/// What setxattr(2) takes on a tmpfs (Linux: mm/shmem.c, the handlers; fs/xattr.c, `xattr_permission`;
/// security/commoncap.c, `cap_convert_nscap`).
fn is_settable(kind: &Kind, name: &[u8], value: &[u8]) -> bool {
    let plain = matches!(kind, Kind::File(_) | Kind::Directory(_));
    let Some(dot) = name.iter().position(|byte| *byte == b'.') else { return false };
    let (space, rest) = name.split_at(dot.saturating_add(1));
    match space {
        b"security." if rest == b"capability" => {
            // VFS_CAP_REVISION_2 and 3 with their sizes.
            matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
        }
        b"security." | b"trusted." => !rest.is_empty(),
        b"user." => plain && !rest.is_empty(),
        b"system." => plain && matches!(rest, b"posix_acl_access" | b"posix_acl_default"),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_takes_is_settable() {
        let capability = |size: usize, revision: u8| {
            let mut value = vec![0; size];
            value[3] = revision;
            is_settable(&Kind::Fifo, b"security.capability", &value)
        };
        assert!(capability(20, 2) && capability(24, 3));
        assert!(!capability(12, 1) && !capability(20, 3) && !capability(24, 2) && !capability(4, 2));
        let of = |kind: &Kind, name: &str| is_settable(kind, name.as_bytes(), b"");
        let directory = Kind::Directory(Default::default());
        for name in ["user.a", "trusted.a", "security.selinux", "system.posix_acl_default"] {
            assert!(of(&directory, name), "{name}");
        }
        for name in
            ["user.", "trusted.", "security.", "system.a", "com.apple.quarantine", "user", "security.capability"]
        {
            assert!(!of(&directory, name), "{name}");
        }
        assert!(!of(&Kind::Fifo, "user.a") && of(&Kind::Fifo, "trusted.a"));
    }
}
