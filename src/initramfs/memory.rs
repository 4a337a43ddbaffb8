//! How much memory an enclave needs for its ramdisks, counted as they are written or read from them later.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, Read};

use super::newc::{Error, Reader};
use super::unpack::Unpack;

/// Both file systems that the kernel unpacks into count whole pages.
const PAGE: u64 = 4096;
/// What the kernel takes for itself, in bytes. Ours takes some 30 MiB; others are larger.
const KERNEL: u64 = 48 << 20;
/// What the kernel keeps of an inode and its name, in bytes: seen to be 850.
const OBJECT: u64 = 900;
/// Of so many parts of the memory the kernel takes one to keep account of pages: 64 bytes for each.
const ACCOUNT: u64 = 64;
/// The least memory of an enclave, in MiB (the driver's NE_MIN_MEM_REGION and hypervisor).
const LEAST_ENCLAVE: u64 = 64;
/// What the application may take, if nobody says otherwise, in MiB.
const APPLICATION: u64 = 128;
/// The least default, in MiB.
const LEAST: u64 = 256;

/// The file system that the ramdisks become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFs {
    /// It takes half of the memory and as many inodes as that has pages; what is beyond is lost, mostly without a word.
    Tmpfs,
    /// It takes all that there is.
    Ramfs,
}

impl RootFs {
    /// What the kernel makes of a command line: a ramfs where one names a root or another type (init/do_mounts.c).
    pub fn of(cmdline: &[u8]) -> Self {
        let words = || cmdline.split(u8::is_ascii_whitespace).take_while(|word| *word != b"--");
        let last = |name: &[u8]| words().filter_map(|word| word.strip_prefix(name)).last();
        let (root, types) = (last(b"root=").unwrap_or_default(), last(b"rootfstype="));
        match types {
            Some(types) if types.windows(5).any(|part| part == b"tmpfs") => Self::Tmpfs,
            None if root.is_empty() => Self::Tmpfs,
            _ => Self::Ramfs,
        }
    }
}

/// What the ramdisks become in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of the ramdisks as they are loaded.
    pub packed: u64,
    /// Bytes of all files, each in whole pages.
    pub unpacked: u64,
    /// Entries.
    pub inodes: u64,
}

impl Need {
    /// Adds a ramdisk of `size` bytes, plain, gzip or zstd. One that cannot be read counts with what was read: the
    /// kernel will stop there as well.
    ///
    /// # Errors
    /// The file cannot be read. A ramdisk that breaks its format is no error here.
    pub fn add(&mut self, ramdisk: impl Read, size: u64) -> io::Result<()> {
        self.packed = self.packed.saturating_add(size);
        let mut archive = Reader::new(Unpack::new(ramdisk)?);
        loop {
            match archive.next() {
                Ok(Some(entry)) => self.count(u64::from(entry.size)),
                Err(Error::Io(error)) => return Err(error),
                // A complaint about the bytes is the kernel's affair.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    /// Adds an entry with so many bytes of contents.
    pub fn count(&mut self, size: u64) {
        self.inodes = self.inodes.saturating_add(1);
        self.unpacked = self.unpacked.saturating_add(size.next_multiple_of(PAGE));
    }

    /// The least memory in which nothing is lost, in MiB: room for the ramdisks while they are being unpacked, and for what
    /// they become. A tmpfs may fill half of what is left beside kernel and ramdisks when it is mounted, and has an inode
    /// for every second page of that (init/initramfs.c, mm/shmem.c). `tests/boot_memory.rs` holds it to booted guests.
    pub fn least_mib(&self, root: RootFs) -> u64 {
        let files = match root {
            RootFs::Tmpfs => self.unpacked.max(self.inodes.saturating_mul(PAGE)).saturating_mul(2),
            RootFs::Ramfs => self.unpacked.saturating_add(self.inodes.saturating_mul(OBJECT)),
        };
        let all = files.saturating_add(self.packed).saturating_add(KERNEL);
        all.saturating_add(all / (ACCOUNT - 1)).div_ceil(1 << 20).max(LEAST_ENCLAVE)
    }

    /// Memory for an enclave of which nobody says how much it shall have, in MiB: room for an application as well.
    pub fn default_mib(&self, root: RootFs) -> u64 {
        self.least_mib(root).saturating_add(APPLICATION).next_multiple_of(2).max(LEAST)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn archive(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, size) in sizes.iter().map(|size| ("file", *size)).chain([("TRAILER!!!", 0)]) {
            bytes.extend(
                format!("070701{:08}000081A4{:032}{size:08X}{:032}{:08X}{:08}", 0, 0, 0, name.len() + 1, 0).bytes(),
            );
            bytes.extend(name.bytes().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.resize(bytes.len() + size, b'x');
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn need(bytes: &[u8]) -> Need {
        let mut need = Need::default();
        need.add(bytes, bytes.len() as u64).unwrap();
        need
    }

    #[test]
    fn files_count_in_whole_pages_however_they_are_packed() {
        let plain = archive(&[1, 4096, 5000, 0]);
        let wanted = Need { packed: plain.len() as u64, unpacked: 4096 + 4096 + 8192, inodes: 4 };
        assert_eq!(need(&plain), wanted);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for packed in [gzip.finish().unwrap(), zstd] {
            assert_eq!(need(&packed), Need { packed: packed.len() as u64, ..wanted });
        }
    }

    #[test]
    fn archives_behind_each_other_add_up() {
        let two = [archive(&[1]), archive(&[2, 3])].concat();
        assert_eq!((need(&two).inodes, need(&two).unpacked), (3, 3 * 4096));
    }

    #[test]
    fn a_big_image_gets_room_to_be_unpacked() {
        let need = Need { packed: 1000 << 20, unpacked: 990 << 20, inodes: 10_000 };
        assert_eq!(need.default_mib(RootFs::Tmpfs), 3077 + 128 + 1);
        assert_eq!(Need::default().default_mib(RootFs::Tmpfs), 256);
        assert_eq!(Need { unpacked: u64::MAX, ..need }.default_mib(RootFs::Tmpfs) % 2, 0);
    }

    #[test]
    fn a_ramfs_needs_room_once_and_a_tmpfs_twice() {
        let least = |need: Need| (need.least_mib(RootFs::Tmpfs), need.least_mib(RootFs::Ramfs));
        let plain = Need { packed: 100 << 20, unpacked: 100 << 20, inodes: 1024 };
        assert_eq!(least(plain), (354, 253));
        assert_eq!(least(Need { packed: 10 << 20, ..plain }), (263, 162));
        assert_eq!(least(Need { packed: 4 << 20, unpacked: 0, inodes: 100_000 }), (847, 141));
        assert_eq!(least(Need::default()), (64, 64));
    }

    #[test]
    fn the_command_line_decides() {
        for (cmdline, root) in [
            ("reboot=k console=ttyS0", RootFs::Tmpfs),
            ("root=/dev/ram0", RootFs::Ramfs),
            ("root= quiet", RootFs::Tmpfs),
            ("root=/dev/ram0 rootfstype=tmpfs", RootFs::Tmpfs),
            ("rootfstype=ramfs", RootFs::Ramfs),
            ("rootfstype=ramfs rootfstype=ext4,tmpfs", RootFs::Tmpfs),
            ("quiet -- root=/dev/ram0", RootFs::Tmpfs),
        ] {
            assert_eq!(RootFs::of(cmdline.as_bytes()), root, "{cmdline}");
        }
    }

    proptest! {
        #[test]
        fn prop_any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cut in 0_usize..4000) {
            need(&bytes);
            let mut cut_archive = archive(&[10, 2000]);
            cut_archive.truncate(cut);
            prop_assert!(need(&cut_archive).inodes <= 2);
        }
    }
}
