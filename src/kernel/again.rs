//! The same kernel a second time, in a folder of its own: who doubts the one in the cache holds it against this one.

use std::fs::{self, File};
use std::path::PathBuf;

use super::make::{self, Built, Request};
use super::{Error, Store, Tell, tools};

/// Where it is built, in the cache: an unpacked source is too large for most folders of temporary files.
const FOLDER: &str = "again";
const LOCK: &str = "again.lock";

/// A kernel that is gone when this is dropped.
#[derive(Debug)]
pub struct Again {
    /// The kernel; its `config` lies beside it.
    pub built: Built,
    folder: PathBuf,
    _alone: File,
}

/// Builds a kernel whether or not the cache has it, from the source that is in the cache or goes there. One process at
/// a time.
///
/// # Errors
/// Those of [`make::build`].
pub fn build_again(request: &Request<'_>, progress: Tell<'_>) -> Result<Again, Error> {
    // Before anything is fetched.
    tools::find(request.arch, request.path)?;
    let (id, tarball) = make::source(request, progress)?;
    let folder = request.cache.join(FOLDER);
    let alone = Store::new(request.cache).alone(&request.cache.join(LOCK))?;
    // What a killed process has left.
    make::clear(&folder)?;
    let elsewhere = Request { cache: &folder, source: Some(&tarball), id: Some(&id), ..*request };
    match make::build(&elsewhere, progress) {
        Ok(built) => Ok(Again { built, folder, _alone: alone }),
        // What came out wrong is kept for whoever wants to see why.
        Err(error @ Error::Hash { .. }) => Err(error),
        Err(error) => {
            make::clear(&folder)?;
            Err(error)
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        // The next one clears it, if this one cannot.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
