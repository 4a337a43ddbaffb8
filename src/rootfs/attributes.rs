//! Extended attributes that an enclave can have. The init has to set all that a ramdisk brings, so what the kernel will
//! not take is left out here, and told.

use std::collections::BTreeSet;

use super::error::{EntryFault, Error};
use super::load::entry_error;
use super::tree::{InodeId, Kind, Tree, Xattr};
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
    let (mut bytes, mut count) = (0_u64, 0_u64);
    let (mut left_out, mut named) = (BTreeSet::new(), Vec::new());
    for (path, entry) in tree.with_attributes() {
        let Some(inode) = tree.get(entry.inode) else { continue };
        for (name, value) in inode.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            if ramfs || !is_settable(&inode.kind, name, value) {
                left_out.insert(entry.inode);
                count = count.saturating_add(1);
                if named.len() < NAMED {
                    named.push(format!("/{} ({})", escaped(&path), escaped(name)));
                }
                continue;
            }
            let record = [path.len(), name.len(), value.len()].into_iter().fold(16, usize::saturating_add);
            bytes = bytes.saturating_add(record as u64);
            if bytes > u64::from(MOST) {
                let fault = EntryFault::Xattr("is one too many: all of them have more than 64 MiB with their paths");
                return Err(entry_error(image, entry.layer, &path, fault));
            }
        }
    }
    if left_out.is_empty() {
        return Ok(Vec::new());
    }
    for id in left_out {
        leave_out(tree, id, ramfs);
    }
    let why = match ramfs {
        true => "the command line makes the root a ramfs, which has no extended attributes",
        false => "the enclave's file system does not take these extended attributes",
    };
    let more = match count.saturating_sub(NAMED as u64) {
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
        b"security." if rest == b"capability" => is_capability(value),
        b"security." | b"trusted." => !rest.is_empty(),
        b"user." => plain && !rest.is_empty(),
        b"system." if rest == b"posix_acl_access" => plain && is_acl(value),
        b"system." if rest == b"posix_acl_default" => matches!(kind, Kind::Directory(_)) && is_acl(value),
        _ => false,
    }
}

/// Revision 2 or 3 with its size, and at most the effective bit; in the third the id of a root user.
fn is_capability(value: &[u8]) -> bool {
    match value {
        [0 | 1, 0, 0, 2, rest @ ..] => rest.len() == 16,
        [0 | 1, 0, 0, 3, rest @ ..] => rest.len() == 20 && !rest.ends_with(&[0xff; 4]),
        _ => false,
    }
}

/// Version 2 and whole entries (linux/posix_acl_xattr.h).
fn is_acl(value: &[u8]) -> bool {
    matches!(value, [2, 0, 0, 0, entries @ ..] if !entries.is_empty() && entries.len().is_multiple_of(8))
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
        let acl = |kind: &Kind, name: &[u8], size: usize| {
            is_settable(kind, name, &[&[2, 0, 0, 0][..], &vec![1; size]].concat())
        };
        let directory = Kind::Directory(Default::default());
        assert!(acl(&directory, b"system.posix_acl_default", 24) && acl(&directory, b"system.posix_acl_access", 8));
        assert!(!acl(&directory, b"system.posix_acl_access", 7) && !acl(&directory, b"system.posix_acl_access", 0));
        assert!(!acl(&Kind::Fifo, b"system.posix_acl_access", 8));
        let of = |kind: &Kind, name: &str| is_settable(kind, name.as_bytes(), b"");
        for name in ["user.a", "trusted.a", "security.selinux"] {
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
