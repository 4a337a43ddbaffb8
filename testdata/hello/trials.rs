//! What only a running enclave can show: orphans are reaped, signals are passed on, nothing is left behind.

use core::ffi::CStr;

use eif_init::errno::Errno;
use eif_init::sys::{self, Open, Result, SignalSet, signal};

use super::output::Output;

/// How long anything here may take, in milliseconds.
const PATIENCE: u64 = 10_000;

/// Writes a line to a file, such as /dev/stdout.
pub fn write(path: &CStr, text: &CStr) -> Result<()> {
    let file = sys::open(path, Open::Write)?;
    sys::write(&file, text.to_bytes())?;
    sys::write(&file, b"\n").map(|_| ())
}

/// Makes children whose parent dies before them, and waits until PID 1 has taken every one.
pub fn orphans(output: &mut Output, count: u32) -> Result<()> {
    let (reader, writer) = sys::pipe()?;
    for _ in 0..count {
        let parent = fork()?;
        if parent == 0 {
            if fork() == Ok(0) {
                sys::sleep(20);
                let _ = sys::write(&writer, &sys::process_id().to_ne_bytes());
            }
            sys::exit(0);
        }
        sys::wait_for(parent)?;
    }
    let mut left = 0;
    for _ in 0..count {
        let mut pid = [0; 4];
        sys::read(&reader, &mut pid)?;
        left += u32::from(!is_gone(i32::from_ne_bytes(pid)));
    }
    match left {
        0 => output.line(b"orphans: all reaped"),
        _ => output.text(b"orphans: left lying: ").number(u64::from(left)).end(),
    }
    Ok(())
}

/// A zombie still takes signals; a process that has been waited for does not.
fn is_gone(pid: i32) -> bool {
    let deadline = sys::now() + PATIENCE;
    while sys::now() < deadline {
        if sys::kill(pid, 0) == Err(Errno::ESRCH) {
            return true;
        }
        sys::sleep(1);
    }
    false
}

/// Sends a signal to PID 1, which should pass it to this process.
pub fn forward(output: &mut Output, number: i32) -> Result<()> {
    sys::block(SignalSet::only(number));
    sys::kill(1, number)?;
    let signal = sys::wait_signal(SignalSet::only(number), Some(PATIENCE))?;
    sys::block(SignalSet::NONE);
    output.text(b"forwarded: ").number(signal as u64).end();
    Ok(())
}

/// Leaves a child in a session of its own that only SIGKILL ends.
pub fn linger(output: &mut Output) -> Result<()> {
    let child = fork()?;
    if child == 0 {
        sys::block(SignalSet::ALL);
        let _ = sys::new_session();
        sys::sleep(3_600_000);
        sys::exit(0);
    }
    output.line(b"linger: a child stays");
    Ok(())
}

/// Waits for SIGTERM.
pub fn wait_term(output: &mut Output) -> ! {
    let term = SignalSet::only(signal::TERM);
    sys::block(term);
    output.line(b"waiting for SIGTERM");
    while sys::wait_signal(term, None).is_err() {}
    output.line(b"SIGTERM came");
    sys::exit(7)
}

/// Greets once a second.
pub fn forever(output: &mut Output) -> ! {
    loop {
        sys::sleep(1000);
        output.line(super::GREETING.as_bytes());
    }
}

/// Dies by a signal.
pub fn kill_self(number: i32) -> Result<()> {
    sys::kill(sys::process_id(), number)?;
    sys::sleep(PATIENCE);
    Err(Errno::EINVAL)
}

fn fork() -> Result<i32> {
    // SAFETY: this program has one thread and no locks.
    unsafe { sys::fork() }
}
