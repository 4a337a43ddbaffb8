//! The directory of an OCI image layout (image-spec, image-layout.md).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, File, Files};

/// An OCI layout on disk.
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Opens the layout; the marker file `oci-layout` must be there.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let directory = Self { root: root.to_owned() };
        fs::read_dir(root).map_err(|source| Error::Io { what: root.display().to_string(), source })?;
        if directory.open("oci-layout")?.is_none() {
            let why = "the directory has no file `oci-layout`, so it is no OCI image layout".to_owned();
            return Err(Error::NotAnImage { what: root.display().to_string(), why });
        }
        Ok(directory)
    }
}

impl Files for Directory {
    fn open(&self, name: &str) -> Result<Option<File<'_>>, Error> {
        let path = self.root.join(name);
        let io = |source| Error::Io { what: path.display().to_string(), source };
        // Asked before it is opened: opening a pipe would wait for its writer.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        if !metadata.is_file() {
            return Err(io(io::Error::other("not a regular file")));
        }
        let file = fs::File::open(&path).map_err(io)?;
        Ok(Some(File { bytes: Box::new(file), size: metadata.len() }))
    }
}
