//! How an enclave ended, whatever ran it.

use std::ops::ControlFlow;

#[cfg(target_os = "linux")]
use super::console::Console;
#[cfg(target_os = "linux")]
use super::vsock::{Record, Report};

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

/// Gets the console's bytes as they come, on a thread of its own; `Break` ends the enclave.
pub type Watcher = Box<dyn FnMut(&[u8]) -> ControlFlow<()> + Send>;

/// How an enclave ended.
#[derive(Debug)]
pub struct Outcome {
    /// How the application ended; `None` when the init never said so.
    pub status: Option<AppStatus>,
    /// The line of the init or the kernel that says why there is no status.
    pub failure: Option<String>,
    /// The heartbeat came and was answered.
    pub heartbeat: bool,
    /// The last 64 KiB of the console.
    pub console: Vec<u8>,
    /// Who ended it.
    pub ending: Ending,
}

/// Who ended an enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest itself.
    Guest,
    /// The time limit of whoever waited.
    Limit,
    /// A stopper or the [`Watcher`].
    Stopped,
}

#[cfg(target_os = "linux")]
impl Outcome {
    /// The report over vsock counts more than the console, where anyone in the guest can write.
    pub(super) fn new(record: &Record, console: &Console, ending: Ending) -> Self {
        let (status, failure) = match record.report() {
            Some(Report::Ended(status)) => (Some(status), None),
            Some(Report::Failed(line)) => (None, Some(line)),
            None if console.status().is_some() => (console.status(), None),
            None => (None, console.failure().map(String::from)),
        };
        Self { status, failure, heartbeat: record.heartbeat(), console: console.tail(), ending }
    }
}
