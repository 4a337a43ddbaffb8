//! The system calls that the init and the test program make, as safe functions where they are safe.
//!
//! Only calls that Linux 4.14 has (AWS's oldest enclave kernel). Structures are laid out here as the kernel's
//! `include/uapi` headers have them; those whose layout differs between the architectures are avoided.

mod devices;
mod files;
mod machine;
mod processes;
mod sockets;

pub use devices::*;
pub use files::*;
pub use machine::*;
pub use processes::*;
pub use sockets::*;

use crate::arch;
use crate::errno::Errno;

/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// Makes a call and tells value from error.
///
/// # Safety
/// The arguments must be what call `number` expects.
unsafe fn call<const N: usize>(number: usize, args: [usize; N]) -> Result<usize> {
    const { assert!(N <= 6) };
    let mut all = [0; 6];
    for (slot, arg) in all.iter_mut().zip(args) {
        *slot = arg;
    }
    // SAFETY: the caller's promise; what the call does not take is ignored.
    let value = unsafe { arch::syscall(number, all) };
    if (-4095..0).contains(&value) { Err(Errno(-value as i32)) } else { Ok(value as usize) }
}

/// An argument that is a small signed number, such as a descriptor.
fn int(value: i32) -> usize {
    value as isize as usize
}

/// Zeroed memory that lives as long as the program: PID 1 frees nothing, and each allocation is one of a few.
///
/// # Errors
/// `ENOMEM`, or `EINVAL` for zero bytes.
pub fn allocate(bytes: usize) -> Result<&'static mut [u8]> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    // SAFETY: a new mapping, of which nobody else has a reference; it is never unmapped.
    unsafe {
        let at = call(arch::nr::MMAP, [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0])?;
        Ok(core::slice::from_raw_parts_mut(at as *mut u8, bytes))
    }
}

/// Zeroed words that live as long as the program.
///
/// # Errors
/// `ENOMEM`.
pub fn allocate_words(count: usize) -> Result<&'static mut [usize]> {
    let bytes = count.max(1).checked_mul(size_of::<usize>()).ok_or(Errno::ENOMEM)?;
    let memory = allocate(bytes)?;
    // SAFETY: a mapping is page-aligned, zeros are words, and the length was made from `count`.
    Ok(unsafe { core::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) })
}
