//! An enclave's memory: which huge pages it gets, and the image in them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::code::SET_MEMORY;
use super::error::Error;
use super::host::{Host, Supply};
use crate::eif::{Eif, Source};
use crate::launch::nitro::{Errno, LEAST_MEMORY, LEAST_PAGE, Pages};

/// What the driver says where an EIF begins (`NE_EIF_LOAD_OFFSET`), in bytes; it is asked, this is to refuse early.
pub const LOAD_OFFSET: u64 = 8 << 20;
const MIB: u64 = 1 << 20;

/// So many pages of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Bytes of a page.
    pub size: u64,
    /// How many.
    pub count: u64,
}

/// Refuses what cannot hold the image: the driver would start it and never look.
///
/// # Errors
/// Less than 64 MiB, or less than the image and what lies before it.
pub fn check_size(memory_mib: u64, image: u64) -> Result<(), Error> {
    let refused = |message: String, least: u64| {
        let help = vec![format!("--memory {} at least", least.div_ceil(MIB).next_multiple_of(2))];
        Err(Error::Refused { code: "E-nitro-memory", message, help })
    };
    let memory = memory_mib.saturating_mul(MIB);
    if memory < LEAST_MEMORY {
        return refused(format!("{memory_mib} MiB: an enclave has 64 MiB at least"), LEAST_MEMORY);
    }
    let least = LOAD_OFFSET.saturating_add(image);
    if memory < least {
        let needed = least.div_ceil(MIB);
        return refused(
            format!("{memory_mib} MiB cannot hold the image, which needs {needed} MiB to be loaded alone"),
            least,
        );
    }
    Ok(())
}

/// Chooses pages for `need` bytes: the largest ones first, because each size is one region in one piece, and then so
/// few of the rest as cover it. A larger page than needed is taken where smaller ones do not suffice. `None` if there
/// are too few.
pub fn plan(need: u64, supplies: &[Supply]) -> Option<Vec<Share>> {
    let mut rest = need.div_ceil(LEAST_PAGE).saturating_mul(LEAST_PAGE);
    let mut shares = Vec::new();
    for supply in supplies {
        let count = supply.free.min(rest / supply.size);
        shares.push(Share { size: supply.size, count });
        rest -= count * supply.size;
    }
    if rest > 0 {
        round_up(rest, supplies, &mut shares)?;
    }
    shares.retain(|share| share.count > 0);
    Some(shares)
}

/// Covers the rest with pages of the smallest size that can, and gives back smaller ones that are not needed then.
fn round_up(rest: u64, supplies: &[Supply], shares: &mut [Share]) -> Option<()> {
    let enough = |index: &usize| supplies[*index].free - shares[*index].count >= rest.div_ceil(supplies[*index].size);
    let index = (0..supplies.len()).rev().find(enough)?;
    let more = rest.div_ceil(supplies[index].size);
    shares[index].count += more;
    let mut over = more * supplies[index].size - rest;
    for share in &mut shares[index + 1..] {
        let back = share.count.min(over / share.size);
        share.count -= back;
        over -= back * share.size;
    }
    Some(())
}

/// Takes the pages from the host, filled with zeros.
///
/// # Errors
/// There are not enough free huge pages on that node.
pub fn take(host: &Host, memory_mib: u64, node: Option<u32>) -> Result<Vec<Pages>, Error> {
    let supplies = host.huge_pages(node)?;
    let need = memory_mib.saturating_mul(MIB);
    let shares = plan(need, &supplies).ok_or_else(|| shortage(host, need, node, &supplies))?;
    let map = |share: Share| {
        Pages::map(share.size, share.count, node).map_err(|errno| match errno {
            // Another process was faster, or a control group allows fewer.
            Errno::NOMEM | Errno::FAULT => shortage(host, need, node, &supplies),
            errno => {
                let doing = format!("taking {} huge pages of {} MiB", share.count, share.size / MIB);
                Error::driver(doing)(errno)
            }
        })
    };
    shares.into_iter().map(map).collect()
}

/// Names what is free, what is needed, and the command that makes up the difference.
fn shortage(host: &Host, need: u64, node: Option<u32>, supplies: &[Supply]) -> Error {
    let free: Vec<_> = supplies.iter().map(|s| format!("{} of {} MiB", s.free, s.size / MIB)).collect();
    let free = if free.is_empty() { "none".to_owned() } else { free.join(", ") };
    let place = node.map_or(String::new(), |node| format!(" on NUMA node {node}, that of the enclaves' CPUs"));
    let message =
        format!("{} MiB need {} huge pages of 2 MiB{place}; free are: {free}", need / MIB, need.div_ceil(LEAST_PAGE));
    let file = host.pages_file(node);
    let more = format!("or, now: `echo N | sudo tee {}`, with N for all enclaves together", file.display());
    Error::Refused { code: "E-nitro-hugepages", message, help: vec![SET_MEMORY.into(), more] }
}

/// Bytes of an enclave's memory, an image among them, over regions that follow each other.
pub struct Loaded<'a, R> {
    regions: &'a mut [R],
    image: Range<u64>,
}

impl<'a, R: AsMut<[u8]>> Loaded<'a, R> {
    /// Reads `size` bytes of the file's front straight into the regions, from `offset` on.
    ///
    /// # Errors
    /// The file is shorter, cannot be read, or does not fit.
    pub fn read(file: &File, size: u64, offset: u64, regions: &'a mut [R]) -> Result<Self, Error> {
        let image = offset..offset.saturating_add(size);
        let mut loaded = Self { regions, image: image.clone() };
        let mut done = 0;
        loaded.each(image.clone(), |piece| {
            file.read_exact_at(piece, done).map_err(Error::io("loading the image"))?;
            done += piece.len() as u64;
            Ok::<_, Error>(())
        })?;
        if done == size {
            return Ok(loaded);
        }
        let source = io::Error::new(io::ErrorKind::StorageFull, "the enclave's memory ends before the image");
        Err(Error::Io { what: "loading the image".into(), source })
    }

    /// Checks structure and CRC of the very bytes that the enclave gets: the file may have changed since it was looked
    /// at, and the driver starts anything.
    ///
    /// # Errors
    /// [`Error::Image`]
    pub fn check(self) -> Result<(), Error> {
        let size = self.image.end - self.image.start;
        let memory = Memory { loaded: std::cell::RefCell::new(self), size };
        Eif::open(&memory)?;
        Ok(())
    }

    /// Visits the pieces of the regions that lie in `range` of the enclave's memory, in order.
    fn each<E>(&mut self, range: Range<u64>, mut visit: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        let mut start = 0_u64;
        for region in self.regions.iter_mut() {
            let region = region.as_mut();
            let end = start + region.len() as u64;
            let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
            if from < to {
                // Both are within the region, whose length is a usize.
                visit(&mut region[(from - start) as usize..(to - start) as usize])?;
            }
            start = end;
        }
        Ok(())
    }
}

/// The image in memory, for the reader of files.
struct Memory<'a, R> {
    loaded: std::cell::RefCell<Loaded<'a, R>>,
    size: u64,
}

impl<R: AsMut<[u8]>> Source for Memory<'_, R> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut loaded = self.loaded.borrow_mut();
        let from = loaded.image.start.saturating_add(offset);
        let to = from.saturating_add(buffer.len() as u64).min(loaded.image.end);
        let mut done = 0;
        loaded.each(from..to.max(from), |piece| {
            buffer[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
            Ok::<_, io::Error>(())
        })?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::host::tests::tree;
    use super::*;
    use crate::Refusal;

    const GIB: u64 = 1 << 30;

    fn supplies(of: &[(u64, u64)]) -> Vec<Supply> {
        of.iter().map(|&(size, free)| Supply { size, free }).collect()
    }

    fn planned(need: u64, of: &[(u64, u64)]) -> Option<Vec<(u64, u64)>> {
        plan(need, &supplies(of)).map(|shares| shares.iter().map(|share| (share.size, share.count)).collect())
    }

    #[test]
    fn the_largest_pages_go_first_and_the_rest_is_exact() {
        let of = [(GIB, 4), (2 * MIB, 600)];
        assert_eq!(planned(2 * GIB + 6 * MIB, &of), Some(vec![(GIB, 2), (2 * MIB, 3)]));
        assert_eq!(planned(512 * MIB, &of), Some(vec![(2 * MIB, 256)]));
        assert_eq!(planned(65 * MIB, &of), Some(vec![(2 * MIB, 33)]), "an odd MiB is rounded up");
        assert_eq!(planned(5 * GIB, &of), Some(vec![(GIB, 4), (2 * MIB, 512)]));
    }

    #[test]
    fn a_large_page_stands_in_for_small_ones_that_are_missing() {
        assert_eq!(planned(512 * MIB, &[(GIB, 1), (2 * MIB, 10)]), Some(vec![(GIB, 1)]));
        assert_eq!(planned(GIB + 512 * MIB, &[(GIB, 2), (2 * MIB, 10)]), Some(vec![(GIB, 2)]));
        assert_eq!(planned(GIB + 512 * MIB, &[(GIB, 1), (2 * MIB, 10)]), None);
        assert_eq!(planned(64 * MIB, &[]), None);
        assert_eq!(planned(u64::MAX, &[(GIB, 2), (2 * MIB, 10)]), None);
    }

    proptest! {
        #[test]
        fn prop_a_plan_takes_what_is_there_and_covers_the_need(
            need in 1..8 * GIB, large in 0..4_u64, middle in 0..40_u64, small in 0..2000_u64
        ) {
            let of = supplies(&[(GIB, large), (32 * MIB, middle), (2 * MIB, small)]);
            let there: u64 = of.iter().map(|supply| supply.size * supply.free).sum();
            match plan(need, &of) {
                None => prop_assert!(there < need.next_multiple_of(2 * MIB)),
                Some(shares) => {
                    let total: u64 = shares.iter().map(|share| share.size * share.count).sum();
                    prop_assert!(total >= need);
                    for share in &shares {
                        let supply = of.iter().find(|supply| supply.size == share.size).unwrap();
                        prop_assert!(share.count > 0 && share.count <= supply.free);
                        prop_assert!(total - share.size < need, "a page too many: {shares:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn memory_below_64_mib_or_below_the_image_is_refused() {
        assert!(check_size(64, 56 * MIB).is_ok());
        let small = check_size(63, 1).unwrap_err();
        assert_eq!((small.code(), small.help()), ("E-nitro-memory", vec!["--memory 64 at least".to_owned()]));
        let tight = check_size(64, 56 * MIB + 1).unwrap_err();
        assert_eq!(tight.help(), ["--memory 66 at least"]);
        assert!(check_size(u64::MAX, u64::MAX).is_ok(), "no overflow: the pages decide");
    }

    #[test]
    fn a_shortage_says_what_is_free_what_is_needed_and_the_command() {
        let (_folder, host) = tree(&[
            ("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n"),
            ("kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "0\n"),
        ]);
        let error = take(&host, 256, None).unwrap_err();
        assert_eq!(error.code(), "E-nitro-hugepages");
        assert_eq!(error.to_string(), "256 MiB need 128 huge pages of 2 MiB; free are: 3 of 2 MiB");
        assert!(error.help()[0].contains("allocator.yaml"), "{:?}", error.help());
        assert!(error.help()[1].contains("hugepages-2048kB/nr_hugepages"), "{:?}", error.help());
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn the_image_stands_at_its_offset_across_regions_and_nothing_else_is_touched() {
        let image: Vec<u8> = (1..=200).collect();
        for first in [1, 10, 50, 90, 210, 300] {
            let mut regions = vec![vec![0_u8; first], vec![0; 60], vec![0; 400]];
            Loaded::read(&file(&image), 200, 50, &mut regions).unwrap();
            let memory = regions.concat();
            assert_eq!(memory[50..250], image, "first region of {first}");
            assert!(memory[..50].iter().chain(&memory[250..]).all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_file_that_shrank_and_memory_that_ends_are_errors() {
        let short = Loaded::read(&file(b"abc"), 4, 0, &mut [vec![0; 10]]).err().unwrap();
        assert!(short.to_string().starts_with("loading the image: "), "{short}");
        let tight = Loaded::read(&file(b"abcd"), 4, 8, &mut [vec![0; 10]]).err().unwrap();
        assert!(tight.to_string().contains("memory ends before the image"), "{tight}");
    }

    /// What is checked is what lies in the regions.
    #[test]
    fn the_loaded_bytes_are_checked() {
        let image = crate::launch::enclave::tests::image();
        for flip in [None, Some(100), Some(image.len() - 1)] {
            let mut bytes = image.clone();
            if let Some(at) = flip {
                bytes[at] ^= 1;
            }
            let size = bytes.len() as u64;
            let mut regions = vec![vec![0; 700], vec![0; bytes.len()]];
            let checked = Loaded::read(&file(&bytes), size, 100, &mut regions).unwrap().check();
            assert_eq!(checked.is_ok(), flip.is_none(), "{flip:?}: {checked:?}");
        }
    }
}
