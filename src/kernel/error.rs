//! Why there is no kernel.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Arch, Refusal};

/// A refusal of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's own lock cannot be read: a fault of this build of `eif`.
    #[error("kernels.lock: {0}")]
    Lock(String),
    /// `--id` names no entry.
    #[error("kernels.lock has no kernel `{id}`")]
    UnknownId {
        /// What was asked for.
        id: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A file or folder of the cache, or a program, did not do what it was asked.
    #[error("{what}: {source}")]
    Io {
        /// Verb and path.
        what: String,
        /// The reason the system gave.
        source: io::Error,
    },
    /// Programs or headers that the kernel's build needs are not installed.
    #[error("building a kernel for {arch} needs what is not installed here: {}", .missing.join(", "))]
    Tools {
        /// The kernel's architecture.
        arch: Arch,
        /// Programs and headers.
        missing: Vec<String>,
        /// The Debian packages that bring them.
        packages: Vec<String>,
    },
    /// No way to the source led anywhere.
    #[error("the kernel's source {file} (sha256 {sha256}) cannot be had: {}", .tried.join("; "))]
    SourceMissing {
        /// The package's file name.
        file: String,
        /// Its SHA-256 in hex.
        sha256: String,
        /// SHA-256 of the archive inside, which will do as well.
        tarball_sha256: String,
        /// Where to put it.
        folder: PathBuf,
        /// Each way and why it failed.
        tried: Vec<String>,
    },
    /// A file given as the source is none that the lock knows.
    #[error("{}: sha256 {sha256} is no source of kernels.lock{}", .file.display(), .id.as_ref().map(|id| format!(" for `{id}`")).unwrap_or_default())]
    SourceUnknown {
        /// The file.
        file: PathBuf,
        /// What it hashes to.
        sha256: String,
        /// The entry it was meant for, if one was named.
        id: Option<String>,
    },
    /// The package or archive cannot be unpacked although its hash is right.
    #[error("unpacking {}: {reason}", .file.display())]
    Unpack {
        /// The archive.
        file: PathBuf,
        /// What the unpacker said last.
        reason: String,
    },
    /// A patch of ours does not apply.
    #[error("kernels/patches/{name} does not apply: {reason}")]
    Patch {
        /// The patch.
        name: String,
        /// What patch(1) said last.
        reason: String,
    },
    /// The patched source still has what a patch takes out.
    #[error("{file} still has `{found}` after kernels/patches/{patch}")]
    Unpatched {
        /// File in the source.
        file: &'static str,
        /// The words that must be gone (or missing, for words that must be there).
        found: &'static str,
        /// The patch that was to see to it.
        patch: &'static str,
    },
    /// Options that the fragments ask for and the kernel's configuration did not take.
    #[error("the kernel's configuration did not take: {}", .options.join(", "))]
    Config {
        /// Each option and what it became.
        options: Vec<String>,
    },
    /// The kernel's own Makefile takes no such folder.
    #[error("a kernel cannot be built in {}: its Makefile takes no space and no colon in a path", .folder.display())]
    Place {
        /// The folder in the cache.
        folder: PathBuf,
    },
    /// make failed.
    #[error("{step} failed: {last} (the whole log: {})", .log.display())]
    Make {
        /// What was run.
        step: String,
        /// The last line that names an error.
        last: String,
        /// The log.
        log: PathBuf,
    },
    /// The locked tools made another kernel than the lock has.
    #[error("kernel {id} for {arch} came to sha256 {got}, kernels.lock has {expected}")]
    Hash {
        /// Entry of the lock.
        id: String,
        /// Architecture.
        arch: Arch,
        /// What the lock has.
        expected: String,
        /// What was built.
        got: String,
        /// Where the kernel lies for comparison.
        kept: PathBuf,
    },
    /// No kernel has been built yet.
    #[error("no kernel for {arch} has been built yet")]
    Missing {
        /// Architecture.
        arch: Arch,
    },
    /// The bytes are no kernel that an enclave can start.
    #[error("this is no kernel that an enclave can start: {what}")]
    Format {
        /// What it is instead.
        what: String,
        /// The way out.
        help: &'static str,
    },
    /// A kernel for the other architecture.
    #[error("the kernel is for {kernel}, the image for {image}")]
    Arch {
        /// What the kernel's header says.
        kernel: Arch,
        /// What it is to run.
        image: Arch,
    },
}

impl Error {
    /// For `map_err`: an I/O error and what was being done.
    pub(super) fn io(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{verb} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Lock(_) => "E-kernel-lock",
            Error::UnknownId { .. } => "E-kernel-id",
            Error::Io { .. } => "E-io",
            Error::Tools { .. } => "E-kernel-tools",
            Error::SourceMissing { .. } => "E-kernel-source",
            Error::SourceUnknown { .. } => "E-kernel-source-hash",
            Error::Unpack { .. } => "E-kernel-unpack",
            Error::Patch { .. } | Error::Unpatched { .. } => "E-kernel-patch",
            Error::Config { .. } => "E-kernel-config",
            Error::Place { .. } => "E-kernel-place",
            Error::Make { .. } => "E-kernel-build",
            Error::Hash { .. } => "E-kernel-hash",
            Error::Missing { .. } => "E-kernel-missing",
            Error::Format { .. } => "E-kernel-format",
            Error::Arch { .. } => "E-kernel-arch",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Error::UnknownId { known, .. } => vec![format!("it has: {}", known.join(", "))],
            Error::Tools { packages, .. } => vec![format!("apt-get install {}", packages.join(" "))],
            Error::SourceMissing { file, tarball_sha256, folder, .. } => vec![
                format!("put {file} into {} and run this again, or pass it with `--source`", folder.display()),
                format!("the archive inside it (sha256 {tarball_sha256}) will do as well"),
                "where apt knows no such version, `apt-get update` may help".to_owned(),
            ],
            Error::SourceUnknown { .. } => vec!["`eif kernel ls` shows what is locked".to_owned()],
            Error::Place { .. } => vec!["set XDG_CACHE_HOME to a folder whose path has none".to_owned()],
            Error::Hash { kept, .. } => vec![
                format!("the kernel is kept in {}; it is not used", kept.display()),
                "the same tools made other bytes: please report it with that folder".to_owned(),
            ],
            Error::Missing { arch } => vec![match arch {
                Arch::X86_64 => "run `eif kernel build`".to_owned(),
                Arch::Aarch64 => "run `eif kernel build --arch aarch64`".to_owned(),
            }],
            Error::Format { help, .. } => vec![(*help).to_owned()],
            Error::Arch { kernel, .. } => {
                vec![format!("pass `--platform linux/{}` or another `--kernel`", kernel.oci_name())]
            }
            _ => Vec::new(),
        }
    }
}
