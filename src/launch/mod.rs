//! Runs an enclave: today in QEMU, with the vsock device that an enclave expects of its parent.

pub mod console;
mod outcome;
pub mod parts;
#[cfg(target_os = "linux")]
pub mod qemu;
#[cfg(target_os = "linux")]
pub mod vsock;

pub use outcome::{AppStatus, Ending, Outcome, Watcher};
