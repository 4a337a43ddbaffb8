//! The end, whatever led to it: one line, the report to the parent, reboot. PID 1 never just dies.

use super::failure::Failure;
use super::{console, reaper};
use crate::report::{End, PARENT_CID, PORT};
use crate::sys::{self, Ending, signal};
use crate::text::Line;

/// Signals that the processor raises. A default action would end PID 1, and the kernel would panic.
pub const FAULTS: [i32; 4] = [signal::ILL, signal::BUS, signal::FPE, signal::SEGV];

/// The longest wait for a parent that listens to the report, in milliseconds.
const REPORT: u64 = 1_000;
/// The longest wait for the console to send what it has taken, in milliseconds.
const DRAIN: u64 = 2_000;

/// The application has ended.
pub fn ended(ending: Ending) -> ! {
    reaper::stop_all();
    let mut line = Line::new();
    let end = match ending {
        Ending::Exited(status) => {
            line.text("eif-init: exited with status ").number(u64::from(status));
            End::Exited(status)
        }
        Ending::Killed(signal) => {
            line.text("eif-init: killed by signal ").number(u64::from(signal));
            End::Killed(signal)
        }
    };
    console::end_line();
    console::say(line.bytes());
    report(end, b"");
    finish()
}

/// A step has failed.
pub fn failed(failure: &Failure) -> ! {
    let line = failure.line();
    console::say(line.bytes());
    // Where the heartbeat was not heard nobody listens to this either.
    if failure.step() != "heartbeat" {
        report(End::Failed(u16::try_from(failure.errno().0).unwrap_or(u16::MAX)), line.bytes());
    }
    finish()
}

/// The panic handler: the init has no panic to its knowledge.
pub fn panicked() -> ! {
    console::say(b"eif-init: internal error: panicked (EFAULT)");
    finish()
}

/// Sets the handlers of [`FAULTS`].
pub fn catch_faults() {
    for number in FAULTS {
        let _ = sys::handle(number, Some(fault));
    }
}

extern "C" fn fault(number: i32) -> ! {
    let mut line = Line::new();
    line.text("eif-init: internal error: signal ").number(u64::from(number.unsigned_abs())).text(" (EFAULT)");
    console::say(line.bytes());
    finish()
}

/// Nobody has to listen, and nothing depends on it.
fn report(end: End, text: &[u8]) {
    if let Ok(parent) = sys::connect(PARENT_CID, PORT, REPORT, REPORT) {
        // What the kernel still has queued at the reboot would be lost.
        let sent = sys::send(&parent, &end.encode()).and_then(|()| sys::send(&parent, text));
        let _ = sent.and_then(|()| sys::finish(&parent));
    }
}

fn finish() -> ! {
    let deadline = sys::now().saturating_add(DRAIN);
    while sys::unsent(1).is_ok_and(|count| count > 0) && sys::now() < deadline {
        sys::sleep(5);
    }
    sys::reboot()
}
