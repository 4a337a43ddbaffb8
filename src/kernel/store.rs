//! The folder of built kernels: `<cache>/kernels/<input-hash>/{kernel, config, record.json}`.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fetch::hash_file;
use super::lock::{Entry, Lock, Output};
use super::{Error, Kernel, recipe};
use crate::Arch;

/// What is known of a built kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Entry of the lock.
    pub id: String,
    /// `Arch::name`.
    pub arch: String,
    /// [`recipe::recipe_hash`] at the time.
    pub recipe: String,
    /// What came out, in the lock's own shape.
    pub output: Output,
}

/// The cache folder, as far as kernels are concerned.
#[derive(Debug, Clone)]
pub struct Store {
    cache: PathBuf,
}

/// One line of `eif kernel ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Entry of the lock.
    pub id: String,
    /// `Arch::name`.
    pub arch: &'static str,
    /// SHA-256 in hex that the lock has for it.
    pub locked: Option<String>,
    /// SHA-256 in hex of the kernel in the cache.
    pub built: Option<String>,
    /// The kernel in the cache.
    pub path: Option<PathBuf>,
}

impl Store {
    /// The store in a cache folder, which need not exist.
    pub fn new(cache: &Path) -> Self {
        Self { cache: cache.to_owned() }
    }

    /// The folder of sources, made if need be.
    pub fn sources(&self) -> Result<PathBuf, Error> {
        made(self.cache.join("sources"))
    }

    /// The folder of kernels, made if need be.
    pub fn kernels(&self) -> Result<PathBuf, Error> {
        made(self.cache.join("kernels"))
    }

    /// Waits until no other process holds `file`, then holds it while the result lives.
    pub fn alone(&self, file: &Path) -> Result<File, Error> {
        let lock = File::create(file).map_err(Error::io("writing", file))?;
        lock.lock().map_err(Error::io("locking", file))?;
        Ok(lock)
    }

    /// Whether another process holds `file`.
    pub fn is_held(&self, file: &Path) -> bool {
        File::open(file).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// The kernel of an entry that this recipe built: the one with the locked hash before any other.
    /// A kernel whose bytes are not its record's is none.
    pub fn kernel(&self, entry: &Entry, arch: Arch) -> Option<Kernel> {
        let recipe = recipe::recipe_hash(entry, arch);
        let locked = entry.output(arch).map(|output| output.kernel_sha256.as_str());
        let mut found: Vec<(bool, PathBuf, Record)> = self
            .records()
            .into_iter()
            .filter(|(_, record)| record.recipe == recipe && record.arch == arch.name() && record.id == entry.id)
            .map(|(folder, record)| (locked != Some(record.output.kernel_sha256.as_str()), folder, record))
            .collect();
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        found.into_iter().find_map(|(foreign, folder, record)| intact(&folder, &record, !foreign))
    }

    /// The kernel with this SHA-256 (in hex), whatever entry and recipe it was built from.
    pub fn by_sha256(&self, sha256: &str) -> Option<Kernel> {
        let lock = Lock::embedded().ok()?;
        let records = self.records().into_iter().filter(|(_, record)| record.output.kernel_sha256 == sha256);
        let is_locked = |arch: Arch| lock.by_kernel(sha256, arch).is_some();
        records.into_iter().find_map(|(folder, record)| {
            let locked = record.arch.parse().is_ok_and(is_locked);
            intact(&folder, &record, locked)
        })
    }

    /// The kernel in one folder, if it is whole and its record fits.
    pub fn kernel_in(&self, folder: &Path, entry: &Entry, arch: Arch) -> Option<Kernel> {
        let record = read_record(folder)?;
        let locked = entry.output(arch).is_some_and(|output| output.kernel_sha256 == record.output.kernel_sha256);
        intact(folder, &record, locked)
    }

    /// All records, in the order of their folders' names.
    fn records(&self) -> Vec<(PathBuf, Record)> {
        let Ok(folders) = fs::read_dir(self.cache.join("kernels")) else { return Vec::new() };
        let mut folders: Vec<PathBuf> = folders.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        folders.into_iter().filter_map(|folder| read_record(&folder).map(|record| (folder, record))).collect()
    }

    /// Every locked kernel, and whether it is built.
    pub fn list(&self, lock: &Lock) -> Vec<Listed> {
        let mut rows = Vec::new();
        for entry in &lock.kernels {
            for arch in [Arch::X86_64, Arch::Aarch64] {
                let kernel = self.kernel(entry, arch);
                rows.push(Listed {
                    id: entry.id.clone(),
                    arch: arch.name(),
                    locked: entry.output(arch).map(|output| output.kernel_sha256.clone()),
                    built: kernel.as_ref().map(|kernel| super::hex(&kernel.sha256)),
                    path: kernel.map(|kernel| kernel.path),
                });
            }
        }
        rows
    }
}

fn made(folder: PathBuf) -> Result<PathBuf, Error> {
    fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
    Ok(folder)
}

fn read_record(folder: &Path) -> Option<Record> {
    let name = folder.file_name()?.to_str()?;
    if name.contains('.') {
        return None;
    }
    serde_json::from_slice(&fs::read(folder.join("record.json")).ok()?).ok()
}

fn intact(folder: &Path, record: &Record, locked: bool) -> Option<Kernel> {
    let path = folder.join("kernel");
    let found = hash_file(&path).ok()?;
    if found != record.output.kernel_sha256 {
        return None;
    }
    let sha256 = hex::decode(&found).ok()?.try_into().ok()?;
    Some(Kernel { path, sha256, lock_id: record.id.clone(), locked })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Puts a kernel with these bytes into the cache, as a build would.
    fn put(store: &Store, entry: &Entry, folder: &str, kernel: &[u8]) -> PathBuf {
        let folder = store.kernels().unwrap().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("kernel"), kernel).unwrap();
        let output = Output {
            toolchain: "cc".to_owned(),
            kernel_sha256: hex::encode(Sha256::digest(kernel)),
            config_sha256: String::new(),
        };
        let recipe = recipe::recipe_hash(entry, Arch::X86_64);
        let record = Record { id: entry.id.clone(), arch: "x86_64".to_owned(), recipe, output };
        fs::write(folder.join("record.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        folder
    }

    fn entry(locked: Option<&[u8]>) -> Entry {
        let mut entry = Lock::embedded().unwrap().kernels.remove(0);
        entry.outputs.clear();
        if let Some(kernel) = locked {
            let output = Output {
                toolchain: "cc".to_owned(),
                kernel_sha256: hex::encode(Sha256::digest(kernel)),
                config_sha256: String::new(),
            };
            entry.outputs.insert("x86_64".to_owned(), output);
        }
        entry
    }

    #[test]
    fn the_locked_kernel_goes_before_any_other() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path());
        let entry = entry(Some(b"the locked one"));
        put(&store, &entry, "0", b"another compiler's");
        assert!(!store.kernel(&entry, Arch::X86_64).unwrap().locked);
        let folder = put(&store, &entry, "1", b"the locked one");
        let kernel = store.kernel(&entry, Arch::X86_64).unwrap();
        assert!(kernel.locked);
        assert_eq!(kernel.path, folder.join("kernel"));
        assert_eq!(store.kernel(&entry, Arch::Aarch64), None);
    }

    #[test]
    fn a_kernel_that_is_not_its_records_is_none() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path());
        let entry = entry(None);
        let folder = put(&store, &entry, "0", b"kernel");
        assert!(store.kernel(&entry, Arch::X86_64).is_some());
        fs::write(folder.join("kernel"), b"kernal").unwrap();
        assert_eq!(store.kernel(&entry, Arch::X86_64), None);
        assert_eq!(store.kernel_in(&folder, &entry, Arch::X86_64), None);
    }

    #[test]
    fn a_kernel_is_found_by_its_bytes_whatever_it_was_built_from() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path());
        let entry = Entry { id: "of another version".to_owned(), ..entry(None) };
        let folder = put(&store, &entry, "0", b"kernel");
        let sum = hex::encode(Sha256::digest(b"kernel"));
        let found = store.by_sha256(&sum).unwrap();
        assert_eq!((found.path, found.lock_id, found.locked), (folder.join("kernel"), entry.id, false));
        fs::write(folder.join("kernel"), b"kernal").unwrap();
        assert_eq!(store.by_sha256(&sum), None);
    }

    #[test]
    fn a_kernel_kept_aside_is_not_used() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path());
        let entry = entry(None);
        put(&store, &entry, "0.unexpected", b"kernel");
        assert_eq!(store.kernel(&entry, Arch::X86_64), None);
    }

    #[test]
    fn one_process_at_a_time() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path());
        let file = cache.path().join("lock");
        let held = store.alone(&file).unwrap();
        assert!(store.is_held(&file));
        drop(held);
        assert!(!store.is_held(&file));
    }
}
