//! The enclave's PID 1, as `build.rs` compiled it from `init/` with the toolchain that compiled this library, or with
//! another one for an architecture that it lacks; and its source, for those who want to compile it themselves.

#[allow(dead_code, reason = "build scripts use all of it")]
#[path = "../init/freestanding.rs"]
mod freestanding;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::{Arch, Refusal};
use freestanding::Toolchain;

/// One embedded init.
#[derive(Debug, Clone, Copy)]
struct Init {
    bytes: &'static [u8],
    toolchain: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/inits.rs"));

fn of(arch: Arch) -> Option<Init> {
    match arch {
        Arch::X86_64 => X86_64,
        Arch::Aarch64 => AARCH64,
    }
}

/// Below the user's folder of caches: Debian's compiler for arm64, where `sh .ci/install-packages` has put one.
pub const CACHED_COMPILER: &str = freestanding::CACHED;

/// The program: a static ELF file. `None` if no compiler at hand had such a target when this library was built
/// (`rustup target add aarch64-unknown-linux-gnu`, or on Debian `sh .ci/install-packages`; then build again).
pub fn bytes(arch: Arch) -> Option<&'static [u8]> {
    of(arch).map(|init| init.bytes)
}

/// The compiler that made it, as `rustc -V` prints itself; its bytes depend on nothing else.
pub fn toolchain(arch: Arch) -> Option<&'static str> {
    of(arch).map(|init| init.toolchain)
}

/// SHA-256 of the program in lower-case hex.
pub fn sha256(arch: Arch) -> Option<String> {
    bytes(arch).map(|bytes| hex::encode(Sha256::digest(bytes)))
}

/// What to do about an architecture without an init.
pub const MISSING: &str = "build `eif` with a toolchain that has the target (`rustup target add`, or on Debian \
                           `sh .ci/install-packages`), or pass --init";

/// Why the init was not compiled again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This build of `eif` has no init for the architecture, and so no compiler to hold a second one against.
    #[error("this build of `eif` has no init for {0}")]
    None(Arch),
    /// The compiler that made the embedded one is not at hand.
    #[error("the init is compiled by {wanted}; at hand is {}", if .found.is_empty() { "none" } else { .found })]
    Toolchain {
        /// What made the embedded one.
        wanted: String,
        /// What was found.
        found: String,
    },
    /// The compiler refused.
    #[error("compiling the init: {0}")]
    Failed(String),
    /// The source cannot be written.
    #[error("writing the init's source: {0}")]
    Io(#[from] io::Error),
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::None(_) => "E-no-init",
            Error::Toolchain { .. } => "E-init-toolchain",
            Error::Failed(_) => "E-init-compile",
            Error::Io(_) => "E-io",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::None(_) => MISSING.to_owned(),
            // Debian's say so.
            Error::Toolchain { wanted, .. } if wanted.ends_with("(built from a source tarball)") => {
                "`sh .ci/install-packages` on Debian, or EIF_RUSTC_AARCH64=/path/to/rustc".to_owned()
            }
            Error::Toolchain { wanted, .. } => {
                format!("rustup toolchain install {} --profile minimal", release(wanted))
            }
            Error::Failed(_) => {
                "the toolchain needs rust-lld, as rustup's has it, and the target's core library".to_owned()
            }
            Error::Io(_) => "check that the folder for temporary files has room".to_owned(),
        };
        vec![line]
    }
}

/// `1.95.0` of `rustc 1.95.0 (59807616e 2026-04-14)`.
fn release(version: &str) -> &str {
    version.split(' ').nth(1).unwrap_or_default()
}

/// Compiles the program again from the source that is in this library, in `folder`, with the compiler that made the
/// embedded one. That is looked for among `compilers`, in `PATH` and by `rustup`.
///
/// # Errors
/// See [`Error`].
pub fn from_source(arch: Arch, compilers: &[OsString], folder: &Path) -> Result<Vec<u8>, Error> {
    let wanted = toolchain(arch).ok_or(Error::None(arch))?;
    let toolchain = find(wanted, arch, compilers)?;
    let root = folder.join("source");
    for (name, text) in SOURCES {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap_or(&root))?;
        fs::write(file, text)?;
    }
    let program = toolchain.init(arch.name(), &root, folder).map_err(|error| Error::Failed(error.to_string()))?;
    Ok(fs::read(program)?)
}

/// The compiler of this version that has the target. A linker is a linker: one that lacks it takes another's.
fn find(wanted: &str, arch: Arch, compilers: &[OsString]) -> Result<Toolchain, Error> {
    let mut candidates = compilers.to_vec();
    candidates.push(OsString::from("rustc"));
    candidates.extend(by_rustup(release(wanted)));
    let all: Vec<_> = candidates.iter().filter_map(|rustc| Some((rustc, Toolchain::of(rustc, None).ok()?))).collect();
    let lld = all.iter().map(|(_, toolchain)| toolchain.linker()).find(|linker| linker.is_file());
    let right = all.iter().find(|(_, toolchain)| toolchain.version == wanted && toolchain.has(arch.name()));
    match right {
        Some((rustc, own)) => Toolchain::of(*rustc, lld.filter(|_| !own.linker().is_file()))
            .map_err(|error| Error::Failed(error.to_string())),
        None => {
            let found: Vec<&str> = all.iter().map(|(_, toolchain)| toolchain.version.as_str()).collect();
            Err(Error::Toolchain { wanted: wanted.to_owned(), found: found.join(", ") })
        }
    }
}

/// The compiler of a release that rustup has installed.
fn by_rustup(release: &str) -> Option<OsString> {
    let output = Command::new("rustup").args(["which", "--toolchain", release, "rustc"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| OsString::from(path.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset of `e_machine` in an ELF header, and its value for each architecture.
    const MACHINE: [(Arch, u16); 2] = [(Arch::X86_64, 62), (Arch::Aarch64, 183)];

    #[test]
    fn the_embedded_program_is_an_elf_file_of_its_architecture() {
        for (arch, machine) in MACHINE {
            let Some(bytes) = bytes(arch) else { continue };
            assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
            assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), machine);
        }
    }

    /// The compiler of this test is that of the library.
    #[test]
    fn the_source_in_the_library_gives_the_embedded_program() {
        let host: Arch = std::env::consts::ARCH.parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(from_source(host, &[], folder.path()).unwrap() == bytes(host).unwrap());
    }

    #[test]
    fn another_compiler_is_no_substitute() {
        let error = find("rustc 1.0.0 (a59de37e9 2015-05-13)", Arch::X86_64, &[]).unwrap_err();
        assert_eq!(error.code(), "E-init-toolchain");
        assert!(error.to_string().contains("; at hand is rustc 1."), "{error}");
        assert_eq!(error.help(), ["rustup toolchain install 1.0.0 --profile minimal"]);
        let of_debian = find("rustc 1.0.0 (a59de37e9 2015-05-13) (built from a source tarball)", Arch::Aarch64, &[]);
        assert!(of_debian.unwrap_err().help()[0].contains("EIF_RUSTC_AARCH64"));
    }

    #[test]
    fn the_hosts_own_architecture_is_there() {
        let host = std::env::consts::ARCH.parse().unwrap();
        assert!(bytes(host).is_some_and(|bytes| bytes.len() < 65_536));
        assert!(toolchain(host).unwrap().starts_with("rustc 1."));
        assert_eq!(sha256(host).unwrap().len(), 64);
    }
}
