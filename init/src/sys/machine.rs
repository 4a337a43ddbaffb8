//! Mounts, the root, modules and the machine's end.

use core::ffi::CStr;

use super::{Fd, Result, call, int};
use crate::arch::nr;

/// Flags of [`mount`], from `include/uapi/linux/mount.h`.
#[allow(missing_docs, reason = "each is named as mount(2) names it")]
pub mod flags {
    pub const NOSUID: usize = 2;
    pub const NODEV: usize = 4;
    pub const NOEXEC: usize = 8;
    pub const BIND: usize = 0x1000;
    pub const MOVE: usize = 0x2000;
    pub const REC: usize = 0x4000;
}

/// Mounts; `options` is the file system's own text.
///
/// # Errors
/// The kernel's: `ENODEV` where it does not have the file system.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: usize, options: &CStr) -> Result<()> {
    let text = |text: &CStr| text.as_ptr() as usize;
    // SAFETY: all four end in NUL and outlive the call.
    unsafe { call(nr::MOUNT, [text(source), text(target), text(kind), flags, text(options)]) }.map(|_| ())
}

/// Takes a mount out of the tree at once; it ends when nobody uses it.
///
/// # Errors
/// The kernel's.
pub fn unmount(target: &CStr) -> Result<()> {
    const DETACH: usize = 2;
    // SAFETY: the path ends in NUL and outlives the call.
    unsafe { call(nr::UMOUNT2, [target.as_ptr() as usize, DETACH]) }.map(|_| ())
}

/// The kind of the file system that holds a path: `f_type` of `struct statfs`.
///
/// # Errors
/// The kernel's.
pub fn file_system(path: &CStr) -> Result<u64> {
    let mut buffer = [0_u64; 32];
    // SAFETY: the path ends in NUL; `struct statfs` has 120 bytes on both architectures, the buffer 256.
    unsafe { call(nr::STATFS, [path.as_ptr() as usize, buffer.as_mut_ptr() as usize])? };
    Ok(buffer[0])
}

/// Changes the root directory.
///
/// # Errors
/// The kernel's.
pub fn change_root(path: &CStr) -> Result<()> {
    // SAFETY: the path ends in NUL and outlives the call.
    unsafe { call(nr::CHROOT, [path.as_ptr() as usize]) }.map(|_| ())
}

/// Moves the caller into the namespace that an open file of `/proc/PID/ns` stands for.
///
/// # Errors
/// The kernel's.
pub fn enter_namespace(namespace: &Fd) -> Result<()> {
    // SAFETY: numbers only.
    unsafe { call(nr::SETNS, [int(namespace.raw()), 0]) }.map(|_| ())
}

/// Changes the working directory.
///
/// # Errors
/// The kernel's.
pub fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: the path ends in NUL and outlives the call.
    unsafe { call(nr::CHDIR, [path.as_ptr() as usize]) }.map(|_| ())
}

/// The working directory.
///
/// # Errors
/// The kernel's.
pub fn working_directory(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the buffer is writable for its length.
    let used = unsafe { call(nr::GETCWD, [buffer.as_mut_ptr() as usize, buffer.len()])? };
    Ok(buffer.get(..used.saturating_sub(1)).unwrap_or_default())
}

/// Sets the host name.
///
/// # Errors
/// The kernel's.
pub fn set_host_name(name: &[u8]) -> Result<()> {
    // SAFETY: the bytes are readable for their length.
    unsafe { call(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len()]) }.map(|_| ())
}

/// The host name: the second of the six 65-byte fields of `struct new_utsname`.
///
/// # Errors
/// The kernel's.
pub fn host_name(buffer: &mut [u8; 390]) -> Result<&[u8]> {
    // SAFETY: the structure has 390 bytes.
    unsafe { call(nr::UNAME, [buffer.as_mut_ptr() as usize])? };
    let field = buffer.get(65..130).unwrap_or_default();
    Ok(field.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// Loads a kernel module from an open file.
///
/// # Errors
/// The kernel's: `ENOSYS` where it has no such call, `EEXIST` if the module is loaded.
pub fn load_module(file: &Fd) -> Result<()> {
    // SAFETY: the parameters are an empty text.
    unsafe { call(nr::FINIT_MODULE, [int(file.raw()), c"".as_ptr() as usize, 0]) }.map(|_| ())
}

/// Loads a kernel module from memory.
///
/// # Errors
/// As [`load_module`].
pub fn load_module_image(image: &[u8]) -> Result<()> {
    // SAFETY: the image is readable for its length; the parameters are an empty text.
    unsafe { call(nr::INIT_MODULE, [image.as_ptr() as usize, image.len(), c"".as_ptr() as usize]) }.map(|_| ())
}

/// Ends the machine: writes back, restarts, and if that returns, powers off, halts, and stays.
pub fn reboot() -> ! {
    const RESTART: usize = 0x0123_4567;
    const POWER_OFF: usize = 0x4321_fedc;
    const HALT: usize = 0xcdef_0123;
    // SAFETY: no arguments.
    let _ = unsafe { call(nr::SYNC, []) };
    for command in [RESTART, POWER_OFF, HALT] {
        // SAFETY: the two magic numbers and a command; no pointer is read.
        let _: Result<usize> = unsafe { call(nr::REBOOT, [0xfee1_dead, 672_274_793, command, 0]) };
    }
    loop {
        super::sleep(3_600_000);
    }
}
