//! Processes, users, signals and time.

use core::ffi::CStr;

use super::{Result, call, int};
use crate::arch::{self, nr};
use crate::errno::Errno;

/// Signal numbers, which both architectures share.
#[allow(missing_docs, reason = "each is named as C names it")]
pub mod signal {
    pub const ILL: i32 = 4;
    pub const BUS: i32 = 7;
    pub const FPE: i32 = 8;
    pub const KILL: i32 = 9;
    pub const SEGV: i32 = 11;
    pub const TERM: i32 = 15;
    pub const CHLD: i32 = 17;
    /// The largest number.
    pub const MAX: i32 = 64;
}

/// A set of signals: bit n-1 is signal n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// Every signal.
    pub const ALL: SignalSet = SignalSet(u64::MAX);
    /// None.
    pub const NONE: SignalSet = SignalSet(0);

    /// The set without one signal.
    #[must_use]
    pub fn without(self, signal: i32) -> Self {
        Self(self.0 & !bit(signal))
    }

    /// The set of one signal.
    pub fn only(signal: i32) -> Self {
        Self(bit(signal))
    }
}

fn bit(signal: i32) -> u64 {
    1_u64.checked_shl(signal.wrapping_sub(1) as u32).unwrap_or(0)
}

/// Process id of the caller.
pub fn process_id() -> i32 {
    // SAFETY: no arguments.
    unsafe { call(nr::GETPID, []) }.unwrap_or(0) as i32
}

/// Numbers of the caller's that calls without arguments give: parent, session, user, group.
pub fn identity() -> [u32; 4] {
    [nr::GETPPID, nr::GETSID, nr::GETUID, nr::GETGID].map(|number| {
        // SAFETY: no arguments, or zero for the caller.
        unsafe { call(number, [0]) }.unwrap_or(0) as u32
    })
}

/// Makes a child with a copy of everything, as `fork`. Zero in the child.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// The caller must have one thread, and no lock held elsewhere.
pub unsafe fn fork() -> Result<i32> {
    // SAFETY: no new stack, no thread-local storage, nothing shared: the child's memory is a copy.
    unsafe { call(nr::CLONE, [int(signal::CHLD), 0, 0, 0, 0]) }.map(|pid| pid as i32)
}

/// Ends the caller.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: a number only; the call does not return.
        let _ = unsafe { call(nr::EXIT_GROUP, [int(status)]) };
    }
}

/// Replaces the caller's program. Returns only with an error.
///
/// # Safety
/// `argv` and `env` must be arrays of pointers to NUL-ended texts, each array ended by a null.
pub unsafe fn execute(path: &CStr, argv: &[usize], env: &[usize]) -> Errno {
    // SAFETY: the caller's promise.
    let result = unsafe { call(nr::EXECVE, [path.as_ptr() as usize, argv.as_ptr() as usize, env.as_ptr() as usize]) };
    result.err().unwrap_or(Errno::EINVAL)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

/// Takes one ended child of any kind: its id and how it ended; `None` if none has ended.
///
/// # Errors
/// `ECHILD` if there is no child at all.
pub fn reap() -> Result<Option<(i32, Ending)>> {
    const NO_HANG: usize = 1;
    const ALL: usize = 0x4000_0000;
    let mut status = 0_u32;
    // SAFETY: the kernel writes one status word.
    let pid = unsafe { call(nr::WAIT4, [usize::MAX, &raw mut status as usize, NO_HANG | ALL, 0])? };
    let end = match status & 0x7f {
        0 => Ending::Exited((status >> 8) as u8),
        signal => Ending::Killed(signal as u8),
    };
    Ok((pid != 0).then_some((pid as i32, end)))
}

/// Takes one child, waiting for its end.
///
/// # Errors
/// `ECHILD` if it is no child.
pub fn wait_for(child: i32) -> Result<()> {
    // SAFETY: numbers only; no status is asked for.
    unsafe { call(nr::WAIT4, [int(child), 0, 0, 0]) }.map(|_| ())
}

/// Sends a signal.
///
/// # Errors
/// The kernel's.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: numbers only.
    unsafe { call(nr::KILL, [int(pid), int(signal)]) }.map(|_| ())
}

/// Sets which signals are blocked.
pub fn block(set: SignalSet) {
    const SET_MASK: usize = 2;
    // SAFETY: the kernel reads eight bytes of set.
    let _ = unsafe { call(nr::RT_SIGPROCMASK, [SET_MASK, &raw const set as usize, 0, 8]) };
}

/// Waits for one of the blocked signals of `set`, at most `milliseconds` (`None`: for ever).
///
/// # Errors
/// `EAGAIN` when the time is over, `EINTR`.
pub fn wait_signal(set: SignalSet, milliseconds: Option<u64>) -> Result<i32> {
    let time = milliseconds.map(timespec);
    let time = time.as_ref().map_or(0, |time| time.as_ptr() as usize);
    // SAFETY: the kernel reads eight bytes of set and the time if there is one.
    unsafe { call(nr::RT_SIGTIMEDWAIT, [&raw const set as usize, 0, time, 8]) }.map(|signal| signal as i32)
}

/// Sets a signal's handler; `None` is the default action. The handler must not return.
///
/// # Errors
/// `EINVAL` for a signal that has no choice.
pub fn handle(signal: i32, handler: Option<extern "C" fn(i32) -> !>) -> Result<()> {
    let (at, flags) = handler.map_or((0, 0), |handler| (handler as *const () as usize, arch::SA_RESTORER));
    // The handler stands in as its own restorer: it never comes to that.
    let action = [at, flags, at, 0];
    // SAFETY: the kernel reads handler, flags, restorer and an eight-byte mask: four words on both architectures.
    unsafe { call(nr::RT_SIGACTION, [int(signal), action.as_ptr() as usize, 0, 8]) }.map(|_| ())
}

/// Makes the caller the leader of a new session.
///
/// # Errors
/// The kernel's.
pub fn new_session() -> Result<()> {
    // SAFETY: no arguments.
    unsafe { call(nr::SETSID, []) }.map(|_| ())
}

/// Sets the supplementary groups.
///
/// # Errors
/// The kernel's.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: as many ids as the length says.
    unsafe { call(nr::SETGROUPS, [groups.len(), groups.as_ptr() as usize]) }.map(|_| ())
}

/// The supplementary groups.
///
/// # Errors
/// The kernel's.
pub fn groups(buffer: &mut [u32]) -> Result<&[u32]> {
    // SAFETY: the buffer is writable for its length.
    let used = unsafe { call(nr::GETGROUPS, [buffer.len(), buffer.as_mut_ptr() as usize])? };
    Ok(buffer.get(..used).unwrap_or_default())
}

/// Sets all group ids.
///
/// # Errors
/// The kernel's.
pub fn set_group(gid: u32) -> Result<()> {
    // SAFETY: a number only.
    unsafe { call(nr::SETGID, [gid as usize]) }.map(|_| ())
}

/// Sets all user ids; capabilities go with user 0.
///
/// # Errors
/// The kernel's.
pub fn set_user(uid: u32) -> Result<()> {
    // SAFETY: a number only.
    unsafe { call(nr::SETUID, [uid as usize]) }.map(|_| ())
}

/// Sets how many descriptors a process may have: what it gets, and how far it may raise that itself.
///
/// # Errors
/// The kernel's.
pub fn limit_descriptors(soft: u64, hard: u64) -> Result<()> {
    const NOFILE: usize = 7;
    let limits = [soft, hard];
    // SAFETY: the kernel reads two words.
    unsafe { call(nr::PRLIMIT64, [0, NOFILE, limits.as_ptr() as usize, 0]) }.map(|_| ())
}

/// Sleeps.
pub fn sleep(milliseconds: u64) {
    let time = timespec(milliseconds);
    // SAFETY: no descriptors; the kernel reads the time.
    let _ = unsafe { call(nr::PPOLL, [0, 0, time.as_ptr() as usize, 0, 8]) };
}

/// Milliseconds since boot.
pub fn now() -> u64 {
    const MONOTONIC: usize = 1;
    let mut time = [0_u64; 2];
    // SAFETY: the kernel writes two words.
    let _ = unsafe { call(nr::CLOCK_GETTIME, [MONOTONIC, time.as_mut_ptr() as usize]) };
    time[0] * 1000 + time[1] / 1_000_000
}

fn timespec(milliseconds: u64) -> [u64; 2] {
    [milliseconds / 1000, milliseconds % 1000 * 1_000_000]
}
