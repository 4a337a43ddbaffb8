//! A folder of blobs by digest, so that nothing is downloaded twice: by one process after another, or by many at once.
//!
//! | below the folder | what |
//! |---|---|
//! | `sha256/HEX` | a finished blob: its bytes had this digest when it got its name |
//! | `partial/HEX` | the bytes that a download has brought so far; whoever writes it holds its lock |
//!
//! A process may be killed anywhere: a blob gets its name by a rename, after the check, and what was there of an
//! unfinished one is hashed again before more is appended. Locks are those of open files, so none outlives its process.
//! A finished blob is checked once more by whoever reads it ([`super::Verified`]): disks forget.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::{Digest, Error};

/// Bytes that are hashed at a time.
const CHUNK: usize = 256 << 10;
/// How the folder of a private store begins; see [`Store::temporary`].
const PRIVATE: &str = "eif-store-";

/// Blobs by digest. Cheap to clone; the clones are one store.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    bound: Option<u64>,
    /// Of a private store: removed with the last clone.
    _private: Option<Arc<Private>>,
}

/// A folder and the lock that tells others that it is in use.
#[derive(Debug)]
struct Private {
    _folder: tempfile::TempDir,
    _lock: fs::File,
}

/// What there is of a blob when its lock has been taken.
#[derive(Debug)]
pub enum Slot {
    /// All of it. Perhaps another process has just brought it.
    Finished(fs::File),
    /// Some of it, perhaps nothing; the rest is to be appended.
    Partial(Partial),
}

/// A blob in the making. It is locked: no other process or thread has it. Dropped before [`Partial::finish`], its bytes
/// stay for the next one that asks.
#[derive(Debug)]
pub struct Partial {
    store: Store,
    digest: Digest,
    size: u64,
    file: fs::File,
    hasher: Sha256,
    len: u64,
}

/// A blob of the store, as [`Store::list`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Bytes that are there.
    pub size: u64,
    /// When it was last written or asked for.
    pub used: SystemTime,
    /// Whether all of it is there.
    pub finished: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many blobs, finished or not.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that are still there.
    pub left: u64,
}

impl Store {
    /// The store in `folder`, which is made if it is missing, for this user alone. [`Store::trim`] keeps it to `bound`
    /// bytes, where there is a bound.
    ///
    /// # Errors
    /// [`Error::Store`] when the folders cannot be made.
    pub fn open(folder: &Path, bound: Option<u64>) -> Result<Self, Error> {
        let store = Self { folder: folder.to_owned(), bound, _private: None };
        for part in ["sha256", "partial"] {
            let folder = store.folder.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(failed("making", &folder))?;
        }
        Ok(store)
    }

    /// A store of its own in the folder `scratch`, removed when it is dropped. What a killed process left there of its
    /// own is removed too.
    ///
    /// # Errors
    /// [`Error::Store`] when no folder can be made there.
    pub fn temporary(scratch: &Path) -> Result<Self, Error> {
        sweep(scratch);
        let folder = tempfile::Builder::new().prefix(PRIVATE).tempdir_in(scratch);
        let folder = folder.map_err(failed("making a folder in", scratch))?;
        let path = folder.path().join("lock");
        let lock = fs::File::create_new(&path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(failed("locking", &path))?;
        let store = Self::open(&folder.path().join("blobs"), None)?;
        Ok(Self { _private: Some(Arc::new(Private { _folder: folder, _lock: lock })), ..store })
    }

    /// A finished blob, which counts as used now. Its bytes are as the disk gives them: read them through
    /// [`super::Verified`].
    ///
    /// # Errors
    /// [`Error::Store`] when it is there and cannot be opened.
    pub fn get(&self, digest: &Digest) -> Result<Option<fs::File>, Error> {
        let path = self.finished(digest);
        let Some(file) = opened(&path, fs::File::options().read(true))? else { return Ok(None) };
        // Both help another process to choose what it prunes; a store that is read-only is as good without.
        let _ = file.try_lock_shared();
        let _ = file.set_modified(now());
        Ok(Some(file))
    }

    /// Removes a finished blob that was found corrupt. One that has its digest again (another process was faster) stays.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn discard(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.finished(digest);
        let Some(mut file) = opened(&path, fs::File::options().read(true))? else { return Ok(()) };
        let (hasher, _) = hashed(&mut file).map_err(failed("reading", &path))?;
        let wrong = Digest::from_bytes(hasher.finalize().into()) != *digest;
        if wrong && names(&path, &file) { removed(&path) } else { Ok(()) }
    }

    /// Takes the blob's lock and tells what is there of its `size` bytes. Waits while another process or thread has it,
    /// so never ask for a blob whose [`Partial`] the same thread holds.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Slot, Error> {
        let path = self.partial(digest);
        loop {
            if let Some(file) = self.get(digest)? {
                return Ok(Slot::Finished(file));
            }
            let options = fs::File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = options.map_err(failed("opening", &path))?;
            file.lock().map_err(failed("locking", &path))?;
            // Whoever had the lock may have finished or removed what was waited for.
            if names(&path, &file) {
                return Partial::resume(self.clone(), *digest, size, file);
            }
        }
    }

    /// Stores a small blob that is at hand.
    ///
    /// # Errors
    /// [`Error::BlobDigest`] when `bytes` are not those of `digest`; [`Error::Store`].
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        match self.begin(digest, bytes.len() as u64)? {
            Slot::Finished(_) => Ok(()),
            Slot::Partial(mut partial) => {
                partial.restart()?;
                partial.append(bytes)?;
                partial.finish().map(drop)
            }
        }
    }

    /// What is there, the longest unused first.
    ///
    /// # Errors
    /// [`Error::Store`] when the folders cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut all = Vec::new();
        for (part, finished) in [("sha256", true), ("partial", false)] {
            let folder = self.folder.join(part);
            for entry in fs::read_dir(&folder).map_err(failed("reading", &folder))? {
                let entry = entry.map_err(failed("reading", &folder))?;
                let name = entry.file_name();
                let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
                // Another process may have removed it since.
                let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                all.push(Stored { digest, size: metadata.len(), used, finished });
            }
        }
        all.sort_by_key(|stored| (stored.used, stored.digest, stored.finished));
        Ok(all)
    }

    /// Removes the longest unused blobs until at most `bound` bytes are left; with `partials` also every download that
    /// was given up. What a process reads or writes stays.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn prune(&self, bound: u64, partials: bool) -> Result<Pruned, Error> {
        let all = self.list()?;
        let mut pruned =
            Pruned { left: all.iter().map(|stored| stored.size).fold(0, u64::saturating_add), ..Pruned::default() };
        for stored in all {
            let unwanted = pruned.left > bound || (partials && !stored.finished);
            if unwanted && self.remove_unused(&stored)? {
                pruned.blobs = pruned.blobs.saturating_add(1);
                pruned.bytes = pruned.bytes.saturating_add(stored.size);
                pruned.left = pruned.left.saturating_sub(stored.size);
            }
        }
        Ok(pruned)
    }

    /// At the end of a build: prunes to the bound that the store was opened with.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn trim(&self) -> Result<Pruned, Error> {
        self.bound.map_or(Ok(Pruned::default()), |bound| self.prune(bound, false))
    }

    /// Whether it was there and nobody had its lock.
    fn remove_unused(&self, stored: &Stored) -> Result<bool, Error> {
        let path = if stored.finished { self.finished(&stored.digest) } else { self.partial(&stored.digest) };
        let Some(file) = opened(&path, fs::File::options().read(true))? else { return Ok(false) };
        match file.try_lock() {
            Ok(()) => removed(&path).map(|()| true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(source)) => Err(failed("locking", &path)(source)),
        }
    }

    fn finished(&self, digest: &Digest) -> PathBuf {
        self.folder.join("sha256").join(digest.hex())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.folder.join("partial").join(digest.hex())
    }
}

impl Partial {
    /// Hashes what is there. All of it may be there: a process was killed just before the rename.
    fn resume(store: Store, digest: Digest, size: u64, mut file: fs::File) -> Result<Slot, Error> {
        let path = store.partial(&digest);
        let (hasher, len) = hashed(&mut file).map_err(failed("reading", &path))?;
        let mut partial = Self { store, digest, size, file, hasher, len };
        if partial.len < size {
            return Ok(Slot::Partial(partial));
        }
        if partial.len == size && partial.got() == digest {
            return partial.name().map(Slot::Finished);
        }
        partial.restart()?;
        Ok(Slot::Partial(partial))
    }

    /// Bytes that are there, from an earlier download too: the next byte to ask for.
    #[expect(clippy::len_without_is_empty, reason = "a length in bytes, not that of a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends what has come.
    ///
    /// # Errors
    /// [`Error::BlobSize`] when that would be more than the blob's size; [`Error::Store`], also when the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let len = self.len.saturating_add(bytes.len() as u64);
        if len > self.size {
            return Err(Error::BlobSize { what: self.label(), want: self.size, got: len });
        }
        if let Err(source) = self.file.write_all(bytes) {
            // Some of it may have been written; the file must not be ahead of the hash.
            let _ = self.file.set_len(self.len).and_then(|()| self.file.seek(io::SeekFrom::End(0)));
            return Err(failed("writing", &self.store.partial(&self.digest))(source));
        }
        self.hasher.update(bytes);
        self.len = len;
        Ok(())
    }

    /// Begins anew: the other side cannot resume.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn restart(&mut self) -> Result<(), Error> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(failed("emptying", &self.store.partial(&self.digest)))?;
        self.hasher = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// Checks size and digest and gives the blob its name.
    ///
    /// # Errors
    /// [`Error::BlobSize`] when bytes are missing (they can still be appended by the next [`Store::begin`]);
    /// [`Error::BlobDigest`] when the bytes are wrong, and then none is kept; [`Error::Store`].
    pub fn finish(mut self) -> Result<fs::File, Error> {
        if self.len != self.size {
            return Err(Error::BlobSize { what: self.label(), want: self.size, got: self.len });
        }
        let got = self.got();
        if got != self.digest {
            self.restart()?;
            return Err(Error::BlobDigest { what: self.label(), want: self.digest, got });
        }
        self.name()
    }

    /// The rename. The file is opened before the lock goes, so that nobody prunes it in between.
    fn name(&self) -> Result<fs::File, Error> {
        let (from, to) = (self.store.partial(&self.digest), self.store.finished(&self.digest));
        fs::rename(&from, &to).map_err(failed("renaming", &from))?;
        fs::File::open(&to).map_err(failed("opening", &to))
    }

    fn got(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }

    fn label(&self) -> String {
        format!("blob {}", self.digest.short())
    }
}

impl Drop for Partial {
    /// An empty file is of use to nobody. Who waits for its lock sees that it has lost its name.
    fn drop(&mut self) {
        let path = self.store.partial(&self.digest);
        if self.len == 0 && names(&path, &self.file) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Removes the private stores of processes that were killed: nobody holds their locks. Others' folders cannot be
/// looked into and stay.
fn sweep(scratch: &Path) {
    let Ok(entries) = fs::read_dir(scratch) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PRIVATE)) {
        let folder = entry.path();
        let Ok(lock) = fs::File::open(folder.join("lock")) else { continue };
        // Its owner makes `blobs` under the lock: without it the folder may be a second old.
        if lock.try_lock().is_ok() && folder.join("blobs").is_dir() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// For `map_err`: an I/O error and what was being done.
fn failed(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{verb} {}", path.display());
    move |source| Error::Store { what, source }
}

/// `None` when there is no such file.
fn opened(path: &Path, options: &fs::OpenOptions) -> Result<Option<fs::File>, Error> {
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("opening", path)(error)),
    }
}

/// It does not matter who removed it.
fn removed(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Whether the name still leads to this file.
fn names(path: &Path, file: &fs::File) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let named = fs::symlink_metadata(path).map(identity);
    matches!((named, file.metadata().map(identity)), (Ok(named), Ok(opened)) if named == opened)
}

/// The hash of a file to its end, and its length in bytes.
fn hashed(file: &mut fs::File) -> io::Result<(Sha256, u64)> {
    let (mut hasher, mut len) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, len)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..count).unwrap_or_default());
        len = len.saturating_add(count as u64);
    }
}

#[expect(clippy::disallowed_methods, reason = "when a blob was last used decides what is pruned, never a result")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::Refusal;

    const SIZE: usize = 1000;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("blobs"), None).unwrap();
        (folder, store)
    }

    fn blob(number: u8) -> (Digest, Vec<u8>) {
        let bytes = vec![number; SIZE];
        (Digest::of(&bytes), bytes)
    }

    fn partial(store: &Store, digest: &Digest) -> Partial {
        match store.begin(digest, SIZE as u64).unwrap() {
            Slot::Partial(partial) => partial,
            Slot::Finished(_) => panic!("finished"),
        }
    }

    fn content(mut file: fs::File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// What a registry does: bring what is missing; give the bytes that came.
    fn fetch(store: &Store, digest: &Digest, bytes: &[u8]) -> (Vec<u8>, u64) {
        let mut brought = 0;
        for _ in 0..2 {
            let mut partial = match store.begin(digest, bytes.len() as u64).unwrap() {
                Slot::Finished(file) => return (content(file), brought),
                Slot::Partial(partial) => partial,
            };
            for chunk in bytes[partial.len() as usize..].chunks(77) {
                partial.append(chunk).unwrap();
                brought += chunk.len() as u64;
            }
            match partial.finish() {
                Ok(file) => return (content(file), brought),
                Err(error) => assert_eq!(error.code(), "E-digest"),
            }
        }
        panic!("wrong twice");
    }

    fn files(store: &Store) -> Vec<(bool, u64)> {
        store.list().unwrap().iter().map(|stored| (stored.finished, stored.size)).collect()
    }

    #[test]
    fn a_download_goes_on_where_it_was_cut() {
        let (_folder, store) = store();
        let (digest, bytes) = blob(1);
        partial(&store, &digest).append(&bytes[..300]).unwrap();
        assert!(store.get(&digest).unwrap().is_none());
        let mut rest = partial(&store, &digest);
        assert_eq!(rest.len(), 300);
        rest.append(&bytes[300..]).unwrap();
        assert_eq!(content(rest.finish().unwrap()), bytes);
        assert_eq!(content(store.get(&digest).unwrap().unwrap()), bytes);
        assert_eq!(files(&store), [(true, SIZE as u64)]);
    }

    #[test]
    fn a_process_killed_before_the_rename_has_not_worked_in_vain() {
        let (_folder, store) = store();
        let (digest, bytes) = blob(1);
        partial(&store, &digest).append(&bytes).unwrap();
        let Slot::Finished(file) = store.begin(&digest, SIZE as u64).unwrap() else { panic!("not finished") };
        assert_eq!(content(file), bytes);
    }

    #[test]
    fn wrong_bytes_and_wrong_sizes_get_no_name() {
        let (_folder, store) = store();
        let (digest, bytes) = blob(1);
        let mut wrong = partial(&store, &digest);
        assert_eq!(wrong.append(&[0; SIZE + 1]).unwrap_err().code(), "E-size");
        wrong.append(&[0; SIZE]).unwrap();
        assert_eq!(wrong.finish().unwrap_err().code(), "E-digest");
        assert_eq!(files(&store), [], "nothing is kept of it");
        let mut short = partial(&store, &digest);
        short.append(&bytes[..10]).unwrap();
        assert_eq!(short.finish().unwrap_err().code(), "E-size");
        assert_eq!(files(&store), [(false, 10)], "it can be resumed");
        assert_eq!(store.put(&digest, &bytes[1..]).unwrap_err().code(), "E-digest");
        store.put(&digest, &bytes).unwrap();
        let nothing = Digest::of(b"");
        store.put(&nothing, b"").unwrap();
        assert_eq!(content(store.get(&nothing).unwrap().unwrap()), b"");
    }

    #[test]
    fn only_a_blob_that_is_corrupt_is_discarded() {
        let (_folder, store) = store();
        let (digest, bytes) = blob(1);
        store.discard(&digest).unwrap();
        store.put(&digest, &bytes).unwrap();
        store.discard(&digest).unwrap();
        assert!(store.get(&digest).unwrap().is_some(), "another process was faster");
        fs::write(store.finished(&digest), b"rot").unwrap();
        store.discard(&digest).unwrap();
        assert!(store.get(&digest).unwrap().is_none());
    }

    #[test]
    fn an_empty_download_leaves_no_file() {
        let (_folder, store) = store();
        let (digest, bytes) = blob(1);
        drop(partial(&store, &digest));
        assert_eq!(files(&store), []);
        partial(&store, &digest).append(&bytes[..1]).unwrap();
        assert_eq!(files(&store), [(false, 1)]);
    }

    #[test]
    fn the_longest_unused_go_first_and_what_is_in_use_stays() {
        let (_folder, store) = store();
        for number in 0..4 {
            let (digest, bytes) = blob(number);
            store.put(&digest, &bytes).unwrap();
            let old = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number));
            fs::File::open(store.finished(&digest)).unwrap().set_modified(old).unwrap();
        }
        let reading = store.get(&blob(0).0).unwrap().unwrap();
        let (given_up, held) = (Digest::of(b"given up"), Digest::of(b"held"));
        partial(&store, &given_up).append(b"x").unwrap();
        let mut holder = partial(&store, &held);
        holder.append(b"x").unwrap();
        let size = SIZE as u64;
        let all = 4 * size + 2;
        assert_eq!(store.prune(all, false).unwrap(), Pruned { blobs: 0, bytes: 0, left: all });
        assert_eq!(store.prune(all - 1, false).unwrap(), Pruned { blobs: 1, bytes: size, left: all - size });
        assert!(store.get(&blob(1).0).unwrap().is_none(), "0 is used now");
        assert_eq!(store.prune(all, true).unwrap(), Pruned { blobs: 1, bytes: 1, left: all - size - 1 });
        assert_eq!(store.prune(0, true).unwrap().left, size + 1);
        drop((reading, holder));
        assert_eq!(store.prune(0, true).unwrap().left, 0);
        assert_eq!(files(&store), []);
    }

    #[test]
    fn the_bound_of_the_store_holds_after_trim() {
        let (folder, store) = store();
        for number in 0..3 {
            let (digest, bytes) = blob(number);
            store.put(&digest, &bytes).unwrap();
        }
        assert_eq!(store.trim().unwrap(), Pruned::default());
        let bound = Store::open(&folder.path().join("blobs"), Some(SIZE as u64)).unwrap();
        assert_eq!(bound.trim().unwrap().left, SIZE as u64);
    }

    #[test]
    fn a_private_store_is_gone_with_its_last_clone_or_the_next_process() {
        let scratch = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(scratch.path()).unwrap().count();
        let store = Store::temporary(scratch.path()).unwrap();
        let clone = store.clone();
        drop(store);
        clone.put(&blob(1).0, &blob(1).1).unwrap();
        let killed = scratch.path().join("eif-store-killed");
        fs::create_dir_all(killed.join("blobs")).unwrap();
        fs::write(killed.join("lock"), "").unwrap();
        let other = Store::temporary(scratch.path()).unwrap();
        assert_eq!(names(), 2, "the killed one's is gone, the living one's is not");
        drop((clone, other));
        assert_eq!(names(), 0);
    }

    #[test]
    fn threads_that_want_the_same_blob_bring_it_once() {
        let (folder, _) = store();
        let (digest, bytes) = blob(7);
        let brought = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let store = Store::open(&folder.path().join("blobs"), None).unwrap();
                    let (content, came) = fetch(&store, &digest, &bytes);
                    assert_eq!(content, bytes);
                    brought.fetch_add(came, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(brought.into_inner(), SIZE as u64);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_one_clear_error() {
        let (folder, _) = store();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = Store::open(&folder.path().join("file"), None).unwrap_err();
        assert_eq!(error.code(), "E-store");
        assert!(error.to_string().contains("file/sha256: Not a directory"), "{error}");
    }

    /// What may happen to a store between two builds.
    #[derive(Debug, Clone)]
    enum Event {
        Killed { blob: u8, after: usize },
        Fetched { blob: u8 },
        Rot { blob: u8, finished: bool, at: usize },
        Pruned { bound: u64 },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..3_u8, 0..=SIZE).prop_map(|(blob, after)| Event::Killed { blob, after }),
            (0..3_u8).prop_map(|blob| Event::Fetched { blob }),
            (0..3_u8, any::<bool>(), 0..SIZE).prop_map(|(blob, finished, at)| Event::Rot { blob, finished, at }),
            (0..4 * SIZE as u64).prop_map(|bound| Event::Pruned { bound }),
        ]
    }

    fn happen(store: &Store, event: &Event) {
        match *event {
            Event::Killed { blob: number, after } => {
                let (digest, bytes) = blob(number);
                if let Slot::Partial(mut partial) = store.begin(&digest, SIZE as u64).unwrap() {
                    let end = after.max(partial.len() as usize);
                    partial.append(&bytes[partial.len() as usize..end]).unwrap();
                }
            }
            Event::Fetched { blob: number } => drop(fetch(store, &blob(number).0, &blob(number).1)),
            Event::Rot { blob: number, finished, at } => {
                let digest = blob(number).0;
                let path = if finished { store.finished(&digest) } else { store.partial(&digest) };
                if let Ok(mut bytes) = fs::read(&path) {
                    bytes.truncate(at + 1);
                    bytes.iter_mut().skip(at).for_each(|byte| *byte ^= 1);
                    fs::write(&path, bytes).unwrap();
                }
            }
            Event::Pruned { bound } => assert!(store.prune(bound, false).unwrap().left <= bound),
        }
    }

    proptest! {
        /// Whatever happened: who asks, discards what is corrupt and asks again has the bytes.
        #[test]
        fn prop_every_blob_can_be_had_in_the_end(events in prop::collection::vec(event(), 0..20)) {
            let (_folder, store) = store();
            for event in &events {
                happen(&store, event);
            }
            for number in 0..3 {
                let (digest, bytes) = blob(number);
                let (mut got, _) = fetch(&store, &digest, &bytes);
                if got != bytes {
                    store.discard(&digest).unwrap();
                    got = fetch(&store, &digest, &bytes).0;
                }
                prop_assert_eq!(got, bytes);
                store.discard(&digest).unwrap();
                prop_assert!(store.get(&digest).unwrap().is_some());
            }
            prop_assert!(files(&store).iter().all(|file| *file == (true, SIZE as u64)));
        }
    }
}
