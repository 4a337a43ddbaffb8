//! The random pool: seeded before the application runs, from the Nitro Security Module where there is one.

use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::sys::{self, Open, Result as Call, SignalSet, signal};

const AVAILABLE: &core::ffi::CStr = c"/sys/class/misc/hw_random/rng_available";
const CURRENT: &core::ffi::CStr = c"/sys/class/misc/hw_random/rng_current";
/// The name under which the NSM driver registers.
const NSM: &[u8] = b"nsm-hwrng";
/// How long the kernel may take to seed the pool by itself, in milliseconds.
const PATIENCE: u64 = 30_000;

/// Mixes in 64 bytes of the NSM's, then waits until the kernel calls its pool ready.
pub fn seed() -> Result<(), Failure> {
    if has_nsm() {
        from_nsm().at("entropy")?;
    }
    wait_until_ready()
}

/// Whether the kernel lists the NSM among its sources (names with spaces between them, one line).
fn has_nsm() -> bool {
    let mut buffer = [0; 512];
    let names = sys::read_some(AVAILABLE, &mut buffer).unwrap_or_default();
    names.split(|byte| byte.is_ascii_whitespace()).any(|name| name == NSM)
}

/// The NSM's bytes come from the hypervisor's hardware, which the parent cannot see or choose: they get full credit.
fn from_nsm() -> Call<()> {
    sys::write_file(CURRENT, NSM)?;
    let source = sys::open(c"/dev/hwrng", Open::Read)?;
    let mut bytes = [0; 64];
    let mut used = 0;
    while let Some(free) = bytes.get_mut(used..).filter(|free| !free.is_empty()) {
        match sys::read(&source, free)? {
            0 => return Err(Errno::ENODATA),
            count => used += count,
        }
    }
    sys::add_entropy(&bytes)
}

fn wait_until_ready() -> Result<(), Failure> {
    match sys::random(&mut [0], false) {
        Err(Errno::EAGAIN) if !ready_in_time().at("entropy")? => Err(Failure::new("entropy", Errno::ETIMEDOUT)
            .because("the random pool has no source: no nsm-hwrng, no random instruction, no timer jitter")),
        Err(Errno::EAGAIN) => Ok(()),
        other => other.at("entropy"),
    }
}

/// Lets a child wait in the kernel: only a waiting reader makes kernels from 5.4 on collect timer jitter, and only a
/// child can be given up. True if the pool became ready.
fn ready_in_time() -> Call<bool> {
    // SAFETY: PID 1 has one thread and no locks.
    let child = unsafe { sys::fork()? };
    if child == 0 {
        sys::exit(i32::from(sys::random(&mut [0], true).is_err()));
    }
    let in_time = sys::wait_signal(SignalSet::only(signal::CHLD), Some(PATIENCE)).is_ok();
    let _ = sys::kill(child, signal::KILL);
    while sys::reap() == Ok(None) {
        sys::sleep(1);
    }
    // A child that failed ends as well: the pool itself knows.
    Ok(in_time && sys::random(&mut [0], false).is_ok())
}
