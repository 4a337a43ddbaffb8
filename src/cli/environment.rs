//! All that the command line takes from its surroundings. The library takes nothing from there.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// Seconds since 1970 (reproducible-builds.org, SOURCE_DATE_EPOCH).
#[expect(clippy::disallowed_methods, reason = "SOURCE_DATE_EPOCH is an agreement on the environment")]
pub fn source_date_epoch() -> Result<Option<u64>, Failure> {
    let Some(text) = env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let bad = || Failure::usage(format!("SOURCE_DATE_EPOCH is no number of seconds: {}", text.to_string_lossy()));
    number.map(Some).ok_or_else(bad)
}

/// `$XDG_CACHE_HOME/eif`, else `$HOME/.cache/eif` (XDG Base Directory Specification).
#[expect(clippy::disallowed_methods, reason = "the place of the cache has no influence on a result")]
pub fn cache_if_any() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("eif"))
}

/// The same where nothing can be done without one.
pub fn cache() -> Result<PathBuf, Failure> {
    let unknown = || Failure::refused("E-cache", "there is no place for the cache");
    cache_if_any().ok_or_else(|| unknown().with_help("set HOME or XDG_CACHE_HOME"))
}

/// As many as there are CPUs for this process.
pub fn processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// `PATH`, in which programs are found.
#[expect(clippy::disallowed_methods, reason = "which programs there are is the user's to say")]
pub fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"))
}

/// A JSON object that the user wrote.
pub fn json_file(path: &Path) -> Result<serde_json::Value, Failure> {
    let failed = |why: String| Failure::refused("E-metadata", format!("{}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}
