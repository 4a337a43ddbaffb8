//! Where the cache is: the one place that asks the environment for it.

use std::path::PathBuf;

use super::failure::Failure;

/// `$XDG_CACHE_HOME/eif`, or `$HOME/.cache/eif`. A relative XDG_CACHE_HOME does not count (XDG base directories).
#[expect(clippy::disallowed_methods, reason = "the cache is the user's; the library takes it as an argument")]
pub fn folder() -> Result<PathBuf, Failure> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let home = || std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| home().map(|home| home.join(".cache"))).map(|folder| folder.join("eif")).ok_or_else(|| {
        Failure::refused("E-cache", "there is no place for the cache").with_help("set HOME or XDG_CACHE_HOME")
    })
}
