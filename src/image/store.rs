//! A folder of blobs by digest, so that nothing is downloaded twice: by one process after another, or by many at once.
//!
//! | below the folder | what |
//! |---|---|
//! | `sha256/HEX` | a finished blob: its bytes had this digest when it got its name |
//! | `partial/HEX` | the bytes that a download has brought so far; whoever writes it holds its lock |
//! | `steps/HEX` | how two threads can check that blob at once ([`super::steps`]): an aid, which may be missing or wrong |
//!
//! A process may be killed anywhere: a blob gets its name by a rename, after the check, and what was there of an
//! unfinished one is hashed again before more is appended. Locks are those of open files, so none outlives its process.
//! A finished blob is checked once more by whoever reads it ([`super::Verified`]): disks forget.
//!
//! A layer is kept as it comes. Unpacked, under its diff_id, it is a blob like any other, and takes three to four times
//! the disk: only where [`super::Access::keep_layers`] asks for it.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs;
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::{Digest, Error, Stepping, Steps};
use crate::chunk;
use crate::output::Output;

/// How long to wait before the next look whether another process has finished.
const WAIT: Duration = Duration::from_millis(20);
/// How the folder of a private store begins; see [`Store::temporary`].
const PRIVATE: &str = "eif-store-";
/// The folder of steps.
const STEPS: &str = "steps";
/// Bytes of them that are read: those of a layer of 256 GiB.
const MOST_STEPS: usize = 1 << 20;

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
#[expect(clippy::large_enum_variant, reason = "there is one for a download, and it is matched at once")]
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
    /// The store in `folder`. A missing one is made with the first blob, for this user alone: an image that needs no
    /// store needs no folder that can be written to. [`Store::trim`] keeps it to `bound` bytes, where there is a bound.
    ///
    /// # Errors
    /// [`Error::Store`] when `folder` is there and is none.
    pub fn open(folder: &Path, bound: Option<u64>) -> Result<Self, Error> {
        match fs::metadata(folder) {
            Ok(metadata) if !metadata.is_dir() => Err(failed("opening", folder)(io::ErrorKind::NotADirectory.into())),
            _ => Ok(Self { folder: folder.to_owned(), bound, _private: None }),
        }
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
        store.make()?;
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

    /// The steps of a finished blob, `file`; none where there is not what they have to be.
    pub(super) fn steps(&self, digest: &Digest, file: &fs::File) -> Steps {
        let read = || -> io::Result<Steps> {
            let (path, size) = (self.steps_of(digest), Steps::size(file.metadata()?.len()));
            // Anything else may have any length, or be waited for.
            let there = fs::symlink_metadata(&path)?;
            let fits = there.is_file() && there.len() == size as u64 && size <= MOST_STEPS;
            if fits { Ok(Steps::from_bytes(&fs::read(&path)?)) } else { Ok(Steps::default()) }
        };
        read().unwrap_or_default()
    }

    /// Writes the steps of a finished blob, where it has any and the disk has room. They are an aid, and nobody minds when
    /// they are missing.
    pub(super) fn put_steps(&self, digest: &Digest, steps: &Steps) {
        let (bytes, path) = (steps.to_bytes(), self.steps_of(digest));
        let write = || {
            make(&self.folder.join(STEPS))?;
            let mut output = Output::create(&path)?;
            output.write_all(&bytes)?;
            output.persist()
        };
        if !bytes.is_empty() && write().is_err() {
            // Better none than wrong ones.
            let _ = fs::remove_file(&path);
        }
    }

    /// Removes a finished blob that was found corrupt, or cannot be read. One that has its digest again stays (another
    /// process was faster, or its steps were what was wrong): its steps are written anew.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn discard(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.finished(digest);
        let Some(mut file) = opened(&path, fs::File::options().read(true))? else { return Ok(()) };
        let mut stepping = Stepping::default();
        let read = chunk::each(&mut file, |bytes| stepping.update(bytes));
        let (got, steps) = stepping.finish();
        if read.is_err() || got != *digest {
            return if names(&path, &file) { removed(&path) } else { Ok(()) };
        }
        if self.steps_of(digest).exists() {
            self.put_steps(digest, &steps);
        }
        Ok(())
    }

    /// Takes the blob's lock and tells what is there of its `size` bytes. Waits while another process or thread has it,
    /// so never ask for a blob whose [`Partial`] the same thread holds.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Slot, Error> {
        let path = self.partial(digest);
        self.make()?;
        loop {
            if let Some(file) = self.get(digest)? {
                return Ok(Slot::Finished(file));
            }
            let options = fs::File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = options.map_err(failed("opening", &path))?;
            match file.try_lock() {
                // Whoever had the lock may have finished or removed what was opened here.
                Ok(()) if !names(&path, &file) => {}
                Ok(()) => return self.locked(*digest, size, file),
                // Not waited for in the system: a finished blob keeps the lock of the unfinished one, as a reader's.
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(WAIT),
                Err(fs::TryLockError::Error(source)) => return Err(failed("locking", &path)(source)),
            }
        }
    }

    /// The blob may have been finished between the look for it and the lock; then the file is a new one.
    fn locked(&self, digest: Digest, size: u64, file: fs::File) -> Result<Slot, Error> {
        match self.get(&digest)? {
            Some(finished) => removed(&self.partial(&digest)).map(|()| Slot::Finished(finished)),
            None => Partial::resume(self.clone(), digest, size, file),
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

    /// A file that becomes the finished blob `digest` when it is persisted, which the caller has to have checked.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) fn output(&self, digest: &Digest) -> Result<Output, Error> {
        let path = self.finished(digest);
        self.make()?;
        Output::create(&path).map_err(failed("making", &path))
    }

    /// What is there, the longest unused first.
    ///
    /// # Errors
    /// [`Error::Store`] when the folders cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut all = Vec::new();
        for (part, finished) in [("sha256", true), ("partial", false)] {
            let folder = self.folder.join(part);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed("reading", &folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(failed("reading", &folder))?;
                // Another process may have removed it since.
                let (Some(digest), Ok(metadata)) = (digest_of(&entry), entry.metadata()) else { continue };
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
        self.prune_steps();
        Ok(pruned)
    }

    /// Removes the steps of blobs that are gone. They are written after their blob, and small: no bound counts them.
    fn prune_steps(&self) {
        for entry in fs::read_dir(self.folder.join(STEPS)).into_iter().flatten().flatten() {
            // Others' files may be on their way to their names.
            let Some(digest) = digest_of(&entry) else { continue };
            if !self.finished(&digest).exists() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// At the end of a build: prunes to the bound that the store was opened with.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn trim(&self) -> Result<Pruned, Error> {
        self.bound.map_or(Ok(Pruned::default()), |bound| self.prune(bound, false))
    }

    fn make(&self) -> Result<(), Error> {
        for part in ["sha256", "partial"] {
            let folder = self.folder.join(part);
            make(&folder).map_err(failed("making", &folder))?;
        }
        Ok(())
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

    fn steps_of(&self, digest: &Digest) -> PathBuf {
        self.folder.join(STEPS).join(digest.hex())
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

    /// The rename. The writer's lock becomes that of a reader, so that nobody prunes the blob in between.
    fn name(&mut self) -> Result<fs::File, Error> {
        let (from, to) = (self.store.partial(&self.digest), self.store.finished(&self.digest));
        fs::rename(&from, &to).map_err(failed("renaming", &from))?;
        let _ = self.file.try_lock_shared();
        self.file.rewind().and_then(|()| self.file.try_clone()).map_err(failed("opening", &to))
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
/// looked into and stay, and so does what only looks like one: a pipe in place of the lock would hold up who opens it.
fn sweep(scratch: &Path) {
    let Ok(entries) = fs::read_dir(scratch) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PRIVATE)) {
        let folder = entry.path();
        let there = fs::symlink_metadata(folder.join("lock"));
        if !there.is_ok_and(|found| found.is_file()) {
            continue;
        }
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

/// A folder for this user alone.
fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// What a file of the store is named after; `None` for one that is not yet, or is nobody's.
fn digest_of(entry: &fs::DirEntry) -> Option<Digest> {
    entry.file_name().to_str().and_then(Digest::from_hex)
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
    chunk::each(file, |bytes| {
        hasher.update(bytes);
        len = len.saturating_add(bytes.len() as u64);
    })?;
    Ok((hasher, len))
}

#[expect(clippy::disallowed_methods, reason = "when a blob was last used decides what is pruned, never a result")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
mod tests;
