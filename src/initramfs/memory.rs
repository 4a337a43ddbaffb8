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

/// The kernel unpacks into a tmpfs, which counts whole pages.
const PAGE: u64 = 4096;
/// What the kernel takes for itself, in bytes.
const KERNEL: u64 = 64 << 20;
/// What the application may take, if nobody says otherwise, in MiB.
const APPLICATION: u64 = 128;
/// The least default, in MiB.
const LEAST: u64 = 256;
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

    /// The least memory in which nothing is lost, in MiB: twice the unpacked files, because a tmpfs may fill half of it
    /// and has an inode for every second page, and room for the ramdisks while they are being unpacked (mm/shmem.c,
    /// init/initramfs.c); plus the kernel.
    pub fn least_mib(&self) -> u64 {
        let tmpfs = self.unpacked.max(self.inodes.saturating_mul(PAGE)).saturating_mul(2);
        let unpacking = self.unpacked.saturating_add(self.packed);
        tmpfs.max(unpacking).saturating_add(KERNEL).div_ceil(1 << 20)
    }

    /// Memory for an enclave of which nobody says how much it shall have, in MiB: room for an application as well.
    pub fn default_mib(&self) -> u64 {
        self.least_mib().saturating_add(APPLICATION).next_multiple_of(2).max(LEAST)
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
        assert_eq!(need.default_mib(), 1990 + 64 + 128);
        assert_eq!(Need::default().default_mib(), 256);
        assert_eq!(Need { unpacked: u64::MAX, ..need }.default_mib() % 2, 0);
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
