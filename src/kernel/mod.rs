//! Kernels: built from pinned source by a recipe whose every input is hashed, found in the cache, or a user's own
//! that is looked at before it is packed.
//!
//! [`build`] makes one, [`find`] gives the built one, [`check`] is the preflight of any kernel. The recipe's files
//! are in `kernels/`, and its README says why they are as they are.

mod again;
pub mod check;
mod error;
mod fetch;
pub mod lock;
mod make;
pub mod probe;
pub mod recipe;
mod store;
mod tools;

use std::path::{Path, PathBuf};

pub use again::{Again, build_again};
pub use check::{Preflight, check, check_file, check_own};
pub use error::Error;
pub use lock::Lock;
pub use make::{Built, Request, build, source};
pub use probe::{Format, probe};
pub use store::{Listed, Store};

use crate::Arch;

/// Takes one line for the user at a time.
pub type Tell<'a> = &'a mut dyn FnMut(&str);

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The file: a bzImage or an arm64 Image.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// The entry of `kernels.lock` it was built from.
    pub lock_id: String,
    /// Whether its hash is the lock's. If not, it was built with other tools, or the lock has no hash yet: PCR0 and
    /// PCR1 of an image with it are not the published ones.
    pub locked: bool,
}

/// The built kernel for `arch`: that of the first entry of the lock that has one in `cache`.
///
/// # Errors
/// [`Error::Missing`] if there is none.
pub fn find(arch: Arch, cache: &Path) -> Result<Kernel, Error> {
    let store = Store::new(cache);
    let lock = Lock::embedded()?;
    lock.kernels.iter().find_map(|entry| store.kernel(entry, arch)).ok_or(Error::Missing { arch })
}

/// The command line that our kernels are packed with: one line, no newline. `kernels/README.md` has the reasons.
pub fn default_cmdline(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => include_str!("../../kernels/cmdline-x86_64").trim_ascii_end(),
        Arch::Aarch64 => include_str!("../../kernels/cmdline-aarch64").trim_ascii_end(),
    }
}

fn hex(bytes: &[u8]) -> String {
    ::hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_one_line_without_a_root() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let line = default_cmdline(arch);
            assert!(line.contains("console=ttyS0"), "{line}");
            // With root= the kernel's first file system is ramfs, not tmpfs.
            assert!(!line.contains("root="), "{line}");
            assert!(line.bytes().all(|byte| (b' '..0x7f).contains(&byte)) && line.trim() == line, "{line:?}");
        }
    }

    #[test]
    fn an_empty_cache_has_no_kernel() {
        let cache = tempfile::tempdir().unwrap();
        let error = find(Arch::X86_64, cache.path()).unwrap_err();
        assert!(matches!(error, Error::Missing { arch: Arch::X86_64 }), "{error}");
    }
}
