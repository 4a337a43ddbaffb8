//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that gets its name when it is finished. Dropped before that, it leaves nothing behind.
///
/// Where the file system can (Linux, `O_TMPFILE`), it has no name at all until then, so that nothing is left behind
/// by a killed process either.
#[derive(Debug)]
pub struct Output {
    file: File,
    name: Option<tempfile::TempPath>,
    target: PathBuf,
}

impl Output {
    /// Begins the file that shall be `target`; an old one stays as it is until [`Output::persist`].
    ///
    /// # Errors
    /// The folder is missing or cannot be written to, or `target` is there and is no regular file.
    pub fn create(target: &Path) -> io::Result<Self> {
        let target = match fs::metadata(target) {
            Ok(old) if !old.is_file() => return Err(io::Error::other("it is there and is no regular file")),
            // The file that a symlink leads to is replaced, not the symlink.
            Ok(_) => fs::canonicalize(target)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(target) {
                Ok(_) => return Err(io::Error::other("it is a symlink that leads nowhere")),
                Err(_) => target.to_owned(),
            },
            Err(error) => return Err(error),
        };
        let folder = folder(&target);
        if let Some(file) = nameless(folder)? {
            return Ok(Self { file, name: None, target });
        }
        let (file, name) = builder(&permissions()).tempfile_in(folder)?.into_parts();
        Ok(Self { file, name: Some(name), target })
    }

    /// Gives the file these permissions in place of a new one's.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_permissions(&self, permissions: fs::Permissions) -> io::Result<()> {
        self.file.set_permissions(permissions)
    }

    /// What it becomes.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The file, as it is so far.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, in place of an old one.
    ///
    /// # Errors
    /// The file system's.
    pub fn persist(self) -> io::Result<()> {
        let Self { file, name, target } = self;
        let name = match name {
            Some(name) => name,
            None => builder(&permissions()).make_in(folder(&target), |path| give_name(&file, path))?.into_temp_path(),
        };
        name.persist(&target).map_err(|error| error.error)
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What `open` gives a new file; the umask takes from it.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn builder(permissions: &fs::Permissions) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".eif-").suffix(".tmp").permissions(permissions.clone());
    builder
}

/// A file without a name; `None` where the file system has none (open(2), O_TMPFILE).
#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::io::Errno;
    match open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(target_os = "linux")]
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, opened, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_folder: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

#[cfg(not(target_os = "linux"))]
fn give_name(_file: &File, _path: &Path) -> io::Result<()> {
    Err(io::Error::other("every output has a name here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn an_output_appears_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        fs::write(&target, "old").unwrap();
        let mut output = Output::create(&target).unwrap();
        output.write_all(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        output.persist().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(folder.path()), [target]);
    }

    #[test]
    fn an_output_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        Output::create(&folder.path().join("out")).unwrap().write_all(b"half").unwrap();
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_device_or_a_folder_is_never_replaced() {
        assert!(Output::create(Path::new("/dev/null")).is_err());
        assert!(Output::create(&std::env::temp_dir()).is_err());
    }

    #[test]
    fn a_symlink_stays_and_its_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let mut output = Output::create(&link).unwrap();
        output.write_all(b"new").unwrap();
        output.persist().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        fs::remove_file(&file).unwrap();
        assert!(Output::create(&link).is_err(), "a symlink that leads nowhere is not replaced either");
    }
}
