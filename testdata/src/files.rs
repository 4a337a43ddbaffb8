//! The files of a transport: written to a directory or a tar, after a test has damaged them.

use crate::Entry;
use std::fs;
use std::path::Path;

/// One file of a transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum File {
    /// A directory.
    Dir,
    /// A regular file.
    Bytes(Vec<u8>),
    /// A symbolic link, as the legacy `docker save` makes for a layer that is there twice.
    Symlink(String),
}

/// Names and files, in the order in which a tar holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(Vec<(String, File)>);

impl Files {
    /// No files.
    pub fn new() -> Self {
        Files::default()
    }

    /// Adds a file, or replaces the one of this name in its place.
    pub fn put(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.put_file(name.into(), File::Bytes(bytes.into()))
    }

    /// Adds or replaces a symbolic link.
    pub fn put_symlink(&mut self, name: impl Into<String>, target: impl Into<String>) -> &mut Self {
        self.put_file(name.into(), File::Symlink(target.into()))
    }

    /// Adds or replaces anything.
    pub fn put_file(&mut self, name: String, file: File) -> &mut Self {
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some(slot) => slot.1 = file,
            None => self.0.push((name, file)),
        }
        self
    }

    /// The bytes of a regular file.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == name).and_then(|(_, file)| match file {
            File::Bytes(bytes) => Some(&bytes[..]),
            File::Dir | File::Symlink(_) => None,
        })
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Changes the bytes of a regular file.
    ///
    /// # Panics
    /// When there is no such file: a test that damages nothing proves nothing.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some((_, File::Bytes(bytes))) => change(bytes),
            _ => panic!("no file {name:?}"),
        }
        self
    }

    /// Flips all bits of the byte in the middle.
    pub fn corrupt(&mut self, name: &str) -> &mut Self {
        self.change(name, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
        })
    }

    /// Cuts a file to this length.
    pub fn truncate(&mut self, name: &str, len: usize) -> &mut Self {
        self.change(name, |bytes| bytes.truncate(len))
    }

    /// Removes a file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        let before = self.0.len();
        self.0.retain(|(other, _)| other != name);
        assert!(self.0.len() < before, "no file {name:?}");
        self
    }

    /// Moves a file to the end, e.g. `manifest.json` of a real `docker save`.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn move_last(&mut self, name: &str) -> &mut Self {
        let at = self.0.iter().position(|(other, _)| other == name).unwrap_or_else(|| panic!("no file {name:?}"));
        let item = self.0.remove(at);
        self.0.push(item);
        self
    }

    /// Writes all files below `dir`, which is made if it is not there.
    ///
    /// # Panics
    /// On any I/O error.
    pub fn write_dir(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for (name, file) in &self.0 {
            let path = dir.join(name);
            let parent = path.parent().expect("below dir");
            fs::create_dir_all(parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
            let written = match file {
                File::Dir => fs::create_dir_all(&path),
                File::Bytes(bytes) => fs::write(&path, bytes),
                File::Symlink(target) => std::os::unix::fs::symlink(target, &path),
            };
            written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    /// One tar of all files, in order.
    pub fn tar(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, file) in &self.0 {
            let entry = match file {
                File::Dir => Entry::dir(format!("{name}/")),
                File::Bytes(bytes) => Entry::file(name, bytes),
                File::Symlink(target) => Entry::symlink(name, target),
            };
            out.extend(entry.to_bytes());
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    /// Writes [`Files::tar`] to a file.
    ///
    /// # Panics
    /// On any I/O error.
    pub fn write_tar(&self, path: &Path) {
        fs::write(path, self.tar()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
