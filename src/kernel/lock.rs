//! `kernels/kernels.lock`: which sources a kernel may be built from, and what must come out.
//!
//! The file is part of the program: the hashes that a build is held against cannot be edited beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::Arch;

const TEXT: &str = include_str!("../../kernels/kernels.lock");

/// All locked kernels.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Where the dated archive serves a file by its SHA-1: this, a slash, forty hex digits.
    pub snapshot: String,
    /// Newest first: a build takes the first whose source can be had.
    pub kernels: Vec<Entry>,
}

/// One locked source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What `--id` names.
    pub id: String,
    /// The Debian binary package that holds the source.
    pub package: String,
    /// The package's full version.
    pub version: String,
    /// The package itself.
    pub deb: Deb,
    /// The archive inside it, which is what is built.
    pub tarball: Tarball,
    /// What comes out, by `Arch::name`.
    pub outputs: BTreeMap<String, Output>,
}

/// A Debian package as a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deb {
    /// SHA-256 in hex.
    pub sha256: String,
    /// SHA-1 in hex: only the name of the file in the dated archive, nothing is believed because of it.
    pub sha1: String,
    /// Bytes.
    pub size: u64,
}

/// The source archive inside the package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tarball {
    /// Its path in the package, without a leading slash.
    pub path: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// What a build must come to, and with which tools.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The tools whose versions reach the bytes, as [`super::tools::Toolchain`] writes them.
    pub toolchain: String,
    /// SHA-256 of the kernel in hex.
    pub kernel_sha256: String,
    /// SHA-256 of the whole `.config` in hex.
    pub config_sha256: String,
}

impl Lock {
    /// The lock this program was built with.
    pub fn embedded() -> Result<Self, Error> {
        Self::parse(TEXT)
    }

    /// Reads a lock.
    pub fn parse(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|error| Error::Lock(error.to_string()))
    }

    /// The entry named `id`.
    pub fn entry(&self, id: &str) -> Result<&Entry, Error> {
        self.kernels.iter().find(|entry| entry.id == id).ok_or_else(|| Error::UnknownId {
            id: id.to_owned(),
            known: self.kernels.iter().map(|entry| entry.id.clone()).collect(),
        })
    }

    /// The entry that the kernel with this SHA-256 (in hex) comes from.
    pub fn by_kernel(&self, sha256: &str, arch: Arch) -> Option<&Entry> {
        self.kernels.iter().find(|entry| entry.output(arch).is_some_and(|output| output.kernel_sha256 == sha256))
    }
}

impl Entry {
    /// The package's file name, as archives have it.
    pub fn deb_name(&self) -> String {
        format!("{}_{}_all.deb", self.package, self.version)
    }

    /// The name under which the source archive is kept in the cache.
    pub fn tarball_name(&self) -> String {
        format!("{}_{}.tar.xz", self.package, self.version)
    }

    /// What the lock expects for `arch`, if anyone has built it yet.
    pub fn output(&self, arch: Arch) -> Option<&Output> {
        self.outputs.get(arch.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_hex(text: &str, digits: usize) -> bool {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    #[test]
    fn the_embedded_lock_is_whole() {
        let lock = Lock::embedded().unwrap();
        assert!(lock.kernels.len() >= 2, "one source may vanish from the archive");
        for entry in &lock.kernels {
            assert!(is_hex(&entry.deb.sha256, 64) && is_hex(&entry.deb.sha1, 40), "{}", entry.id);
            assert!(is_hex(&entry.tarball.sha256, 64), "{}", entry.id);
            assert!(entry.deb.size > entry.tarball.size, "{}", entry.id);
            for (arch, output) in &entry.outputs {
                assert_eq!(arch.parse::<Arch>().unwrap().name(), arch);
                assert!(is_hex(&output.kernel_sha256, 64) && is_hex(&output.config_sha256, 64), "{}", entry.id);
            }
        }
    }

    #[test]
    fn an_unknown_id_names_the_known_ones() {
        let error = Lock::embedded().unwrap().entry("2.6.32").unwrap_err();
        assert!(error.to_string().contains("2.6.32"), "{error}");
    }
}
