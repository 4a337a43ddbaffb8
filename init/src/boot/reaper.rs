//! PID 1's standing duties while the application runs: take ended children, pass signals on.

use crate::errno::Errno;
use crate::sys::{self, Ending, SignalSet, signal};

/// Signals that PID 1 waits for: all but those that the processor raises, which have handlers (see [`super::end`]).
pub fn waited_for() -> SignalSet {
    super::end::FAULTS.into_iter().fold(SignalSet::ALL, SignalSet::without)
}

/// Waits until the application's first process ends; orphans that end meanwhile are taken and forgotten.
///
/// Every other signal goes to the application's process alone, as `docker stop` reaches PID 1 of a container alone:
/// what a signal means for a group of processes is for the application to decide.
pub fn until_end(application: i32) -> Ending {
    loop {
        match sys::wait_signal(waited_for(), None) {
            Ok(signal::CHLD) => {
                if let Some(ending) = reap_until(application) {
                    return ending;
                }
            }
            Ok(other) => drop(sys::kill(application, other)),
            Err(_) => {}
        }
    }
}

/// Takes every child that has ended; stops at the application.
fn reap_until(application: i32) -> Option<Ending> {
    while let Ok(Some((pid, ending))) = sys::reap() {
        if pid == application {
            return Some(ending);
        }
    }
    None
}

/// Ends every other process: first asks, then insists. True if none is left.
pub fn stop_all() -> bool {
    [(signal::TERM, 3_000), (signal::KILL, 2_000)].into_iter().any(|(number, patience)| {
        let _ = sys::kill(-1, number);
        none_left(patience)
    })
}

/// Takes children until there is none, for at most `patience` milliseconds.
fn none_left(patience: u64) -> bool {
    let deadline = sys::now().saturating_add(patience);
    loop {
        match sys::reap() {
            Err(Errno::ECHILD) => return true,
            Ok(Some(_)) => {}
            _ => {
                let left = deadline.saturating_sub(sys::now());
                if left == 0 {
                    return false;
                }
                let _ = sys::wait_signal(SignalSet::only(signal::CHLD), Some(left));
            }
        }
    }
}
