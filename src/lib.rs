//! `eif` turns a container image into an AWS Nitro Enclave image (`.eif`) whose every byte is a function of its inputs.
//!
//! # The flow
//!
//! `Reference -> Image -> Tree -> Ramdisk -> Eif -> Measurements -> Report`: each arrow is a module, and a module
//! imports only from its left. `tests/architecture.rs` holds the code to it.
//!
//! | module | from | to |
//! |---|---|---|
//! | [`image`] | a reference (`docker://…`, `oci:…`, `rootfs:…`) | manifest, config and verified layer streams |
//! | [`rootfs`] | layers | one tree of inodes; names are bytes; file contents stay in a spool |
//! | [`initramfs`] | tree and process | the two newc ramdisks that the kernel unpacks |
//! | [`eif`] | kernel, command line, ramdisks | the file, and what it measures to (PCR0, PCR1, PCR2) |
//! | [`kernel`] | pinned source, or a user's file | a kernel that is known to boot |
//! | [`build`] | a [`build::Plan`] | all of the above: a file, and a [`build::Report`] |
//! | [`artifact`] | an `.eif` and a registry's name | an OCI artifact, and back |
//! | [`verify`] | an `.eif` of anyone's | what is in it, what is wrong with it, whether it comes from an image |
//! | [`attest`] | an attestation document, a KMS policy | what is proved, and who is asked for a proof |
//! | [`launch`] | an `.eif` | a running enclave, held by a process of its own (`launch::supervisor`) |
//!
//! The enclave's PID 1 is the package in `init/`; `build.rs` compiles it and embeds it here.
//! `src/cli` and `main.rs` are the command line; nothing in the library imports them.
//!
//! # What holds everywhere
//!
//! - Same inputs, same bytes. No clock, host name, user, locale or hash order reaches an output (see `clippy.toml`).
//! - A refusal is a [`Refusal`]: one line of cause, a stable code, and what to do.
//! - Memory grows with the number of entries, never with the number of bytes.

pub mod artifact;
pub mod attest;
pub mod build;
pub mod eif;
pub mod image;
pub mod init;
pub mod initramfs;
pub mod kernel;
pub mod launch;
pub mod rootfs;
pub mod verify;

mod arch;
pub mod chunk;
mod crew;
mod output;
mod progress;
mod refusal;

pub use arch::Arch;
pub use progress::{Progress, Silent};
pub use refusal::{Refusal, Warning, escaped, shown};
