//! Runs an enclave: on the Nitro device of an EC2 instance, or in QEMU with the vsock device that an enclave expects of
//! its parent.

#[cfg(target_os = "linux")]
mod bell;
pub mod console;
#[cfg(target_os = "linux")]
pub mod enclave;
#[cfg(target_os = "linux")]
pub mod nitro;
mod outcome;
pub mod parts;
#[cfg(target_os = "linux")]
mod private;
#[cfg(target_os = "linux")]
pub mod qemu;
#[cfg(target_os = "linux")]
pub mod supervisor;
#[cfg(target_os = "linux")]
pub mod vsock;

pub use outcome::{AppStatus, Ending, Outcome, Watcher};
