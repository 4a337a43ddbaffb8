//! The terminal and the random pool.

use super::{Fd, Open, Result, call, int, open};
use crate::arch::nr;
use crate::errno::Errno;

/// One device operation. The argument must be what `request` expects; callers are in `sys`.
pub(super) fn ioctl(fd: &Fd, request: usize, argument: usize) -> Result<()> {
    // SAFETY: each caller passes the structure that its request reads or writes.
    unsafe { call(nr::IOCTL, [int(fd.raw()), request, argument]) }.map(|_| ())
}

/// Makes descriptor 1 the controlling terminal of the caller's session.
///
/// # Errors
/// The kernel's: `EPERM` if another session has it, `ENOTTY` if it is none.
pub fn control_terminal() -> Result<()> {
    const SET_CONTROLLING: usize = 0x540e;
    // SAFETY: numbers only.
    unsafe { call(nr::IOCTL, [1, SET_CONTROLLING, 0]) }.map(|_| ())
}

/// Adds bytes to the kernel's random pool and credits each with eight bits.
///
/// # Errors
/// The kernel's; `EINVAL` for more than 64 bytes.
pub fn add_entropy(bytes: &[u8]) -> Result<()> {
    /// `struct rand_pool_info`: bits, bytes, data.
    #[repr(C)]
    struct Pool {
        bits: i32,
        bytes: i32,
        data: [u8; 64],
    }
    const ADD_ENTROPY: usize = 0x4008_5203;
    let mut pool = Pool { bits: bytes.len() as i32 * 8, bytes: bytes.len() as i32, data: [0; 64] };
    pool.data.get_mut(..bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
    ioctl(&open(c"/dev/random", Open::Write)?, ADD_ENTROPY, &raw mut pool as usize)
}

/// Bytes that a terminal has taken and not yet sent.
///
/// # Errors
/// The kernel's: `ENOTTY` if the descriptor is none.
pub fn unsent(fd: i32) -> Result<i32> {
    const OUTPUT_QUEUE: usize = 0x5411;
    let mut count = 0_i32;
    // SAFETY: the kernel writes one number.
    unsafe { call(nr::IOCTL, [int(fd), OUTPUT_QUEUE, &raw mut count as usize])? };
    Ok(count)
}

/// Bytes from the kernel's random pool, without waiting.
///
/// # Errors
/// `EAGAIN` until the pool is seeded.
pub fn random(buffer: &mut [u8], wait: bool) -> Result<()> {
    const NONBLOCK: usize = 1;
    let flags = if wait { 0 } else { NONBLOCK };
    // SAFETY: the buffer is writable for its length.
    let used = unsafe { call(nr::GETRANDOM, [buffer.as_mut_ptr() as usize, buffer.len(), flags])? };
    if used == buffer.len() { Ok(()) } else { Err(Errno::EAGAIN) }
}
