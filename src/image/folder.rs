//! A plain directory as the tar of a layer: what a layer must hold to, a directory is held to as well, once.
//!
//! The walk does not follow symlinks, and names come in byte order. The tar is made while it is read, so it needs no
//! room; it has the times and owners of the directory, and so no digest that means anything.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType};
use walkdir::{DirEntry, WalkDir};

use super::record::{Attribute, Record};
use super::{Error, File, Files};
use crate::escaped;

/// A file's body is filled with zeros to a multiple of this, in bytes.
const BLOCK: u64 = 512;

/// A directory on disk that is to be the root of the file system.
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The directory that `root` is, or leads to: Nix gives symlinks.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Files for Folder {
    fn open(&self, _name: &str) -> Result<Option<File<'_>>, Error> {
        let metadata = fs::metadata(&self.root).map_err(|source| io_error(&self.root, source))?;
        let walk = WalkDir::new(&self.root).min_depth(1).sort_by(|a, b| a.file_name().cmp(b.file_name())).into_iter();
        let tar = Builder::new(Vec::new());
        let mut stream =
            Stream { root: &self.root, walk, names: BTreeMap::new(), tar, given: 0, body: None, end: false };
        stream.record(b"./", EntryType::Directory, &[], &metadata, &attributes(&self.root.join("."))?)?;
        // The size is not known before it is read.
        Ok(Some(File { bytes: Box::new(stream), size: u64::MAX }))
    }
}

/// The tar of a directory, made as it is read.
struct Stream<'a> {
    root: &'a Path,
    walk: walkdir::IntoIter,
    /// The first name of each file that has several, by device and inode.
    names: BTreeMap<(u64, u64), Vec<u8>>,
    /// Headers that are to be given next.
    tar: Builder<Vec<u8>>,
    /// How much of them has been given.
    given: usize,
    body: Option<Body>,
    end: bool,
}

/// A file that is being read.
struct Body {
    file: fs::File,
    path: PathBuf,
    size: u64,
    left: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let head = self.tar.get_ref().get(self.given..).unwrap_or_default();
            if !head.is_empty() || buffer.is_empty() {
                let count = (&mut &*head).read(buffer)?;
                self.given = self.given.saturating_add(count);
                return Ok(count);
            }
            self.tar.get_mut().clear();
            self.given = 0;
            match &mut self.body {
                Some(body) if body.left > 0 => return Ok(body.read(buffer)?),
                Some(body) => {
                    let padding = body.finish()?;
                    self.tar.get_mut().resize(padding, 0);
                    self.body = None;
                }
                None if self.end => return Ok(0),
                None => self.advance()?,
            }
        }
    }
}

impl Stream<'_> {
    /// Makes the next entry, or the end.
    fn advance(&mut self) -> Result<(), Error> {
        match self.walk.next() {
            Some(Ok(entry)) => self.entry(&entry),
            Some(Err(error)) => {
                let path = error.path().unwrap_or(self.root).to_owned();
                let source = error.into_io_error().unwrap_or_else(|| io::Error::other("it cannot be walked"));
                Err(io_error(&path, source))
            }
            None => {
                self.end = true;
                self.tar.finish().map_err(|source| io_error(self.root, source))
            }
        }
    }

    fn entry(&mut self, entry: &DirEntry) -> Result<(), Error> {
        let path = entry.path();
        let mut name = path.strip_prefix(self.root).unwrap_or(path).as_os_str().as_bytes().to_vec();
        let metadata = fs::symlink_metadata(path).map_err(|source| io_error(path, source))?;
        let kind = kind(path, &metadata)?;
        if kind == EntryType::Directory {
            name.push(b'/');
        } else if metadata.nlink() > 1 {
            let first = self.names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.clone()).clone();
            if first != name {
                return self.record(&name, EntryType::Link, &first, &metadata, &[]);
            }
        }
        let link = match kind {
            EntryType::Symlink => {
                fs::read_link(path).map_err(|source| io_error(path, source))?.into_os_string().as_bytes().to_vec()
            }
            _ => Vec::new(),
        };
        if kind == EntryType::Regular {
            self.body = Some(Body::open(path, &metadata)?);
        }
        self.record(&name, kind, &link, &metadata, &attributes(path)?)
    }

    fn record(
        &mut self,
        name: &[u8],
        kind: EntryType,
        link: &[u8],
        metadata: &Metadata,
        xattrs: &[Attribute],
    ) -> Result<(), Error> {
        let is_device = matches!(kind, EntryType::Char | EntryType::Block);
        let record = Record {
            name,
            kind,
            link,
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime(),
            size: if kind == EntryType::Regular { metadata.len() } else { 0 },
            device: if is_device { device(metadata.rdev()) } else { (0, 0) },
            xattrs,
        };
        let header = record.header(&mut self.tar).map_err(|source| io_error(&self.root.join(escaped(name)), source))?;
        self.tar.get_mut().extend_from_slice(header.as_bytes());
        Ok(())
    }
}

impl Body {
    /// Opens the file that was looked at, and no other that has come into its place.
    fn open(path: &Path, seen: &Metadata) -> Result<Self, Error> {
        let file = fs::File::open(path).map_err(|source| io_error(path, source))?;
        let now = file.metadata().map_err(|source| io_error(path, source))?;
        let size = seen.len();
        if (now.dev(), now.ino(), now.len()) != (seen.dev(), seen.ino(), size) {
            return Err(changed(path));
        }
        Ok(Self { file, path: path.to_owned(), size, left: size })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.pull(buffer.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            return Err(changed(&self.path));
        }
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }

    /// Nothing may follow the bytes that were announced; gives the number of zeros that fill the last block.
    fn finish(&mut self) -> Result<usize, Error> {
        if self.pull(&mut [0])? != 0 {
            return Err(changed(&self.path));
        }
        let full = self.size.checked_next_multiple_of(BLOCK).unwrap_or(self.size);
        Ok(usize::try_from(full.saturating_sub(self.size)).unwrap_or_default())
    }

    fn pull(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|source| io_error(&self.path, source)),
            }
        }
    }
}

fn kind(path: &Path, metadata: &Metadata) -> Result<EntryType, Error> {
    let kind = metadata.file_type();
    Ok(if kind.is_dir() {
        EntryType::Directory
    } else if kind.is_file() {
        EntryType::Regular
    } else if kind.is_symlink() {
        EntryType::Symlink
    } else if kind.is_fifo() {
        EntryType::Fifo
    } else if kind.is_char_device() {
        EntryType::Char
    } else if kind.is_block_device() {
        EntryType::Block
    } else {
        let what = if kind.is_socket() { "a socket, which exists only while a process listens" } else { "no file" };
        return Err(Error::UnsupportedEntry { path: path.to_owned(), what });
    })
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { what: escaped(path.as_os_str().as_bytes()), source }
}

fn changed(path: &Path) -> Error {
    Error::FileChanged { path: path.to_owned() }
}

#[cfg(target_os = "linux")]
fn device(number: u64) -> (u32, u32) {
    (rustix::fs::major(number), rustix::fs::minor(number))
}

#[cfg(not(target_os = "linux"))]
fn device(_number: u64) -> (u32, u32) {
    (0, 0)
}

/// The extended attributes that belong to the file and not to the host: capabilities and the user's own. Labels of
/// the host's security modules, its ACLs and the marks of overlay file systems stay where they are.
#[cfg(target_os = "linux")]
fn attributes(path: &Path) -> Result<Vec<Attribute>, Error> {
    use rustix::fs::{lgetxattr, llistxattr, llistxattr_query};
    use rustix::io::Errno;
    /// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux, in bytes.
    const MOST: usize = 64 << 10;
    let failed = |error: Errno| io_error(path, error.into());
    match llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        _ => {}
    }
    let mut buffer = vec![0; MOST];
    let length = llistxattr(path, &mut buffer[..]).map_err(failed)?;
    let names = buffer.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    let ours = |name: &&[u8]| *name == b"security.capability" || name.starts_with(b"user.");
    let mut names: Vec<Vec<u8>> = names.filter(ours).map(<[u8]>::to_vec).collect();
    names.sort();
    let mut value = |name: Vec<u8>| {
        let length = lgetxattr(path, name.as_slice(), &mut buffer[..]).map_err(failed)?;
        let value = buffer.get(..length).unwrap_or_default().to_vec();
        Ok((name, value))
    };
    names.into_iter().map(&mut value).collect()
}

#[cfg(not(target_os = "linux"))]
fn attributes(_path: &Path) -> Result<Vec<Attribute>, Error> {
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    /// The folder with one file; the tar is read up to the file's first bytes, then the file is changed.
    fn changed_by(change: impl FnOnce(&Path)) -> Result<Vec<u8>, Error> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, vec![b'x'; 1000]).unwrap();
        let folder = Folder::new(root.path());
        let mut tar = folder.open("").unwrap().unwrap().bytes;
        let mut bytes = vec![0; 1100];
        tar.read_exact(&mut bytes).unwrap();
        change(&path);
        tar.read_to_end(&mut bytes).map_err(|error| Error::from_io(error, "the tar"))?;
        Ok(bytes)
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        let whole = changed_by(|_| {}).unwrap();
        assert_eq!((whole.len(), &whole[1024..1029], whole[2024]), (512 * 6, &b"xxxxx"[..], 0));
        let longer = |path: &Path| fs::write(path, vec![b'x'; 1001]).unwrap();
        let shorter = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(500).unwrap();
        for error in [changed_by(longer).unwrap_err(), changed_by(shorter).unwrap_err()] {
            assert_eq!(error.code(), "E-file-changed");
            assert!(error.to_string().ends_with("/file: the file changed while it was read"), "{error}");
        }
    }

    /// Between the look and the opening, something else may take the name.
    #[test]
    fn another_file_in_the_place_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| root.path().join(name));
        fs::write(&one, "x").unwrap();
        fs::write(&two, "y").unwrap();
        let seen = fs::symlink_metadata(&one).unwrap();
        assert!(Body::open(&one, &seen).is_ok());
        fs::remove_file(&one).unwrap();
        std::os::unix::fs::symlink(&two, &one).unwrap();
        assert_eq!(Body::open(&one, &seen).map(|_| ()).unwrap_err().code(), "E-file-changed");
    }
}
