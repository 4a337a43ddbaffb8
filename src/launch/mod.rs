//! Runs an enclave: today in QEMU, with the vsock device that an enclave expects of its parent.

pub mod console;
pub mod parts;
#[cfg(target_os = "linux")]
pub mod qemu;
#[cfg(target_os = "linux")]
pub mod vsock;

/// How the application of an enclave ended, as our init reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppStatus {
    /// It exited with this status.
    Exited(u8),
    /// This signal killed it.
    Killed(u8),
}

impl AppStatus {
    /// The status as a shell shows it: 128 + N for signal N.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Killed(signal) => signal.saturating_add(128),
        }
    }
}
