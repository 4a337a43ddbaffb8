//! The newc archive (SVR4 cpio) as the kernel reads it: Documentation/driver-api/early-userspace/buffer-format.rst and
//! init/initramfs.c.
//!
//! An entry is a header of 110 bytes, all of it text (a magic and 13 numbers of eight hexadecimal digits), the name with
//! a NUL, and the contents; name and contents each end on a multiple of 4. The entry `TRAILER!!!` ends an archive, and
//! behind any number of zeros another archive may follow.

mod reader;
mod writer;

pub use reader::{Entry, Error, Reader};
pub(super) use writer::Writer;

/// The name of the last entry.
const TRAILER: &[u8] = b"TRAILER!!!";

/// File type bits of `st_mode` (POSIX, sys/stat.h).
pub mod file_type {
    /// The bits that hold the type.
    pub const MASK: u32 = 0o170_000;
    /// Named pipe.
    pub const FIFO: u32 = 0o010_000;
    /// Character device.
    pub const CHARACTER: u32 = 0o020_000;
    /// Directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// Block device.
    pub const BLOCK: u32 = 0o060_000;
    /// Regular file.
    pub const FILE: u32 = 0o100_000;
    /// Symbolic link; its contents are the target.
    pub const SYMLINK: u32 = 0o120_000;
}

/// The fields of an entry that are not told by its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Number of the inode; entries of the same number and more than one link are one file.
    pub inode: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names the inode has.
    pub links: u32,
    /// Seconds since 1970; the format has 32 bits without a sign, but linuxkit writes one.
    pub mtime: i64,
    /// Major and minor of a device node.
    pub device: (u32, u32),
}

impl Header {
    /// The type bits of the mode; see [`file_type`].
    pub fn kind(&self) -> u32 {
        self.mode & file_type::MASK
    }
}
