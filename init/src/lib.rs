//! The enclave's PID 1, and what the host knows about it.
//!
//! Pure, and compiled wherever `eif` is: the formats that build and init share ([`process`], [`xattrs`], [`report`]),
//! the search in `PATH` ([`lookup`]), error names ([`errno`]), the console line ([`text`]).
//!
//! Linux only: [`arch`] (what differs between x86_64 and aarch64), [`sys`] (system calls), [`boot`] (the steps, one
//! file each). They make up the program in `main.rs`, which the host never runs: `boot` is proved by booting.
//!
//! No allocator, no libc, no dependency: what runs before the application in the enclave can be read in an hour.

#![cfg_attr(not(test), no_std)]

#[cfg(test)]
extern crate std;

pub mod errno;
pub mod lookup;
pub mod process;
pub mod report;
pub mod text;
pub mod xattrs;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod arch;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod boot;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod sys;
