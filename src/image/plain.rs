//! A root file system that is no image, taken as the only layer of one: `rootfs:PATH`.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::archive::{Range, Spool};
use super::folder::Folder;
use super::{Access, Config, Error, File, Files, Image, Layer, Origin, Platform};
use crate::escaped;

/// Opens the directory or the tar at `path`; `-` is a tar on stdin.
pub(super) fn open(path: &Path, platform: &Platform, access: &Access) -> Result<Image, Error> {
    let label = if path.as_os_str() == "-" { "stdin".to_owned() } else { escaped(path.as_os_str().as_bytes()) };
    let directory = path.as_os_str() != "-" && fs::metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let (origin, files): (Origin, Box<dyn Files>) = if directory {
        (Origin::Directory, Box::new(Folder::new(path)))
    } else {
        let file = Spool { scratch: &access.scratch, limit: access.limit, label: &label }.open(path)?;
        (Origin::Tar, Box::new(Tarball { file, label: label.clone() }))
    };
    let layers =
        vec![Layer { name: format!("rootfs `{label}`"), blob: None, foreign: false, diff_id: None, compression: None }];
    let config = Config::default();
    Ok(Image {
        manifest_digest: None,
        platform: *platform,
        origin,
        config,
        pin: None,
        layers,
        attestations: Vec::new(),
        files,
        unpacked: None,
    })
}

/// The only file there is, under whatever name.
struct Tarball {
    file: fs::File,
    label: String,
}

impl Files for Tarball {
    fn open(&self, _name: &str) -> Result<Option<File<'_>>, Error> {
        let metadata = self.file.metadata();
        let size = metadata.map_err(|source| Error::Io { what: self.label.clone(), source })?.len();
        Ok(Some(File { bytes: Box::new(Range::new(&self.file, 0, size)), size }))
    }
}
