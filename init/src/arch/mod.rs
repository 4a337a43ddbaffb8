//! What differs between the two architectures: the entry point, the call instruction, numbers, four memory loops.
//!
//! Everything else of the init is the same source for both. Numbers: `arch/x86/entry/syscalls/syscall_64.tbl` and
//! `include/uapi/asm-generic/unistd.h` of Linux.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// Makes a program of the crate it stands in: `_start`, the memory functions that the compiler calls by name, and the
/// panic handler. `$main` is `fn(*const usize) -> !` (the stack as the kernel left it: argc, argv, 0, envp, 0) and
/// `$panicked` is `fn() -> !`.
#[macro_export]
macro_rules! freestanding {
    ($main:path, $panicked:path) => {
        $crate::entry!(enter);

        extern "C" fn enter(stack: *const usize) -> ! {
            $main(stack)
        }

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            $panicked()
        }

        /// The compiler's copy.
        ///
        /// # Safety
        /// As C's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
            // SAFETY: the caller's contract is C's: both ranges are valid and do not overlap.
            unsafe { $crate::arch::copy_up(to, from, count) };
            to
        }

        /// The compiler's copy between ranges that may overlap.
        ///
        /// # Safety
        /// As C's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
            if (to as usize) < (from as usize) {
                // SAFETY: valid ranges; bytes are read before an upward copy overwrites them.
                unsafe { $crate::arch::copy_up(to, from, count) };
            } else {
                // SAFETY: valid ranges; bytes are read before a downward copy overwrites them.
                unsafe { $crate::arch::copy_down(to, from, count) };
            }
            to
        }

        /// The compiler's fill.
        ///
        /// # Safety
        /// As C's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
            // SAFETY: the caller's contract is C's: the range is valid.
            unsafe { $crate::arch::fill(to, byte as u8, count) };
            to
        }

        /// The compiler's comparison.
        ///
        /// # Safety
        /// As C's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
            // SAFETY: the caller's contract is C's: both ranges are valid.
            unsafe { $crate::arch::compare(a, b, count) }
        }

        /// The compiler's test for equality.
        ///
        /// # Safety
        /// As C's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
            // SAFETY: the caller's contract is C's: both ranges are valid.
            unsafe { $crate::arch::compare(a, b, count) }
        }
    };
}

/// Bytes compared as unsigned numbers: negative, zero or positive, as C's `memcmp`.
///
/// # Safety
/// Both ranges of `count` bytes must be readable.
pub unsafe fn compare(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: `at` is below `count`, which the caller vouches for. Volatile, so that the loop stays a loop and
        // is not turned into a call of itself.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_compares_and_fills() {
        let from = *b"abcdefgh";
        let mut to = [0u8; 8];
        // SAFETY: both arrays have eight bytes.
        unsafe { copy_up(to.as_mut_ptr(), from.as_ptr(), 8) };
        assert_eq!(&to, b"abcdefgh");
        // SAFETY: source and target lie within the array.
        unsafe { copy_down(to.as_mut_ptr().add(2), to.as_ptr(), 6) };
        assert_eq!(&to, b"ababcdef");
        // SAFETY: three bytes of eight.
        unsafe { fill(to.as_mut_ptr(), b'-', 3) };
        assert_eq!(&to, b"---bcdef");
        // SAFETY: both arrays have eight bytes.
        assert!(unsafe { compare(from.as_ptr(), to.as_ptr(), 8) } > 0);
        // SAFETY: nothing is read.
        assert_eq!(unsafe { compare(from.as_ptr(), to.as_ptr(), 0) }, 0);
    }

    #[test]
    fn a_system_call_returns_its_value_or_its_negative_error() {
        // SAFETY: getpid takes no arguments; close of descriptor -1 touches nothing.
        let (pid, bad) = unsafe { (syscall(nr::GETPID, [0; 6]), syscall(nr::CLOSE, [usize::MAX, 0, 0, 0, 0, 0])) };
        assert_eq!(pid, std::process::id() as isize);
        assert_eq!(bad, -9);
    }
}
