//! What an enclave has written to its console, on disk and bounded: readable while it grows, and after the end.
//!
//! The file `console` grows to half of [`LIMIT`] and becomes `console.old` then, in place of the one before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use super::super::bell::Bell;

/// Bytes of a console that are kept at most.
pub const LIMIT: u64 = 1 << 20;
const HALF: u64 = LIMIT / 2;
const NEW: &str = "console";
const OLD: &str = "console.old";
/// For the moment between the two.
const NEXT: &str = "console.next";

/// A console that grows.
#[derive(Debug)]
pub struct Journal(Mutex<Pages>);

#[derive(Debug)]
struct Pages {
    folder: PathBuf,
    old: Option<File>,
    new: File,
    /// Where `old` begins, where `new` begins, and where it ends: bytes since the enclave's first.
    base: u64,
    middle: u64,
    end: u64,
    bells: BTreeMap<u64, Bell>,
    next: u64,
}

impl Journal {
    /// An empty one.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let new = create(folder, NEW)?;
        let folder = folder.to_owned();
        Ok(Self(Mutex::new(Pages {
            folder,
            old: None,
            new,
            base: 0,
            middle: 0,
            end: 0,
            bells: BTreeMap::new(),
            next: 0,
        })))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Takes what came. What a full disk does not take is lost for the readers; the enclave does not stand still for it.
    pub fn append(&self, bytes: &[u8]) {
        let mut pages = self.pages();
        let _lost = pages.append(bytes);
        pages.bells.values().for_each(Bell::ring);
    }

    /// Reads from `cursor` on, or from the first byte that is still kept, and moves it behind what was read; 0 at the end.
    ///
    /// # Errors
    /// The disk.
    pub fn read(&self, cursor: &mut u64, buffer: &mut [u8]) -> io::Result<usize> {
        let pages = self.pages();
        *cursor = (*cursor).max(pages.base);
        let (file, begin, end) = match &pages.old {
            Some(old) if *cursor < pages.middle => (old, pages.base, pages.middle),
            _ => (&pages.new, pages.middle, pages.end),
        };
        let left = usize::try_from(end.saturating_sub(*cursor)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        let read = file.read_at(&mut buffer[..size], cursor.saturating_sub(begin))?;
        *cursor += read as u64;
        Ok(read)
    }

    /// A bell that rings when there is more, until it is given back.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn subscribe(&self) -> io::Result<Subscription<'_>> {
        let bell = Bell::new()?;
        let mut pages = self.pages();
        let number = pages.next;
        pages.next += 1;
        pages.bells.insert(number, bell.clone());
        Ok(Subscription { journal: self, number, bell })
    }
}

impl Pages {
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.end - self.middle >= HALF {
                self.turn()?;
            }
            let room = usize::try_from(HALF - (self.end - self.middle)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            // At its place: what a full disk took of an earlier try is written over.
            self.new.write_all_at(now, self.end - self.middle)?;
            self.end += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        // Without a descriptor for the new one all stays as it was.
        let new = create(&self.folder, NEXT)?;
        fs::rename(self.folder.join(NEW), self.folder.join(OLD))?;
        fs::rename(self.folder.join(NEXT), self.folder.join(NEW))?;
        self.old = Some(std::mem::replace(&mut self.new, new));
        (self.base, self.middle) = (self.middle, self.end);
        Ok(())
    }
}

fn create(folder: &Path, name: &str) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(folder.join(name))
}

/// Whose bell rings when a journal has grown.
#[derive(Debug)]
pub struct Subscription<'a> {
    journal: &'a Journal,
    number: u64,
    pub(super) bell: Bell,
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.journal.pages().bells.remove(&self.number);
    }
}

/// What is kept of the console of an enclave that has ended.
///
/// # Errors
/// The disk.
pub fn kept(folder: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for name in [OLD, NEW] {
        match File::open(folder.join(name)) {
            Ok(file) => drop(file.take(LIMIT).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(journal: &Journal, mut cursor: u64) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 70_000]);
        loop {
            match journal.read(&mut cursor, &mut buffer).unwrap() {
                0 => return bytes,
                read => bytes.extend(&buffer[..read]),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn prop_the_end_is_kept_and_the_disk_is_bounded(
            sizes in proptest::collection::vec(0..400_000_usize, 0..12), seed in any::<u8>()
        ) {
            let folder = tempfile::tempdir().unwrap();
            let journal = Journal::create(folder.path()).unwrap();
            let mut said = Vec::new();
            for size in sizes {
                let piece: Vec<u8> = (0..size).map(|i| (i / 251) as u8 ^ seed ^ said.len() as u8).collect();
                journal.append(&piece);
                said.extend(piece);
            }
            let live = all(&journal, 0);
            prop_assert!(live.len() as u64 >= HALF.min(said.len() as u64) && live.len() as u64 <= LIMIT);
            prop_assert!(said.ends_with(&live));
            prop_assert_eq!(&kept(folder.path()).unwrap(), &live);
            let late = (said.len() as u64).saturating_sub(5);
            prop_assert_eq!(all(&journal, late), &said[usize::try_from(late).unwrap()..]);
        }
    }

    #[test]
    fn the_bell_rings_for_each_piece_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::create(folder.path()).unwrap();
        let more = journal.subscribe().unwrap();
        assert!(!more.bell.hush());
        journal.append(b"x");
        assert!(more.bell.hush());
        assert!(!more.bell.hush());
        journal.append(b"y");
        more.bell.hush();
        assert!(!more.bell.hush());
        drop(more);
        assert!(journal.pages().bells.is_empty());
    }

    #[test]
    fn a_folder_that_is_gone_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::create(folder.path()).unwrap();
        journal.append(&vec![b'a'; usize::try_from(HALF).unwrap()]);
        fs::remove_dir_all(folder.path()).unwrap();
        journal.append(b"lost");
        assert_eq!(all(&journal, 0).len() as u64, HALF);
    }
}
