//! aarch64: `svc`, the entry point, numbers.

use core::arch::asm;

/// `O_DIRECTORY`.
pub const O_DIRECTORY: usize = 0o40_000;
/// `O_NOFOLLOW`.
pub const O_NOFOLLOW: usize = 0o100_000;
/// `SA_RESTORER`: the kernel needs none here, its vDSO has one.
pub const SA_RESTORER: usize = 0;

/// Defines `_start`: the stack pointer as the kernel set it is `$main`'s argument.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, sp",
            "bl {main}",
            "brk #1",
            main = sym $main,
        );
    };
}

/// One system call. The kernel's answer: a value, or an error as a number from -4095 to -1.
///
/// # Safety
/// The arguments must be what call `number` expects: pointers valid for as long and as far as it uses them.
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let value: isize;
    // SAFETY: the kernel keeps all registers but x0; memory is the caller's promise.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => value,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    value
}

/// Copies upward from the first byte.
///
/// # Safety
/// Both ranges of `count` bytes must be valid; where they overlap, `to` must be the lower one.
pub unsafe fn copy_up(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the ranges are the caller's promise.
    unsafe {
        asm!("cbz {n}, 3f", "2:", "ldrb {b:w}, [{from}], #1", "strb {b:w}, [{to}], #1", "sub {n}, {n}, #1",
            "cbnz {n}, 2b", "3:", n = inout(reg) count => _, to = inout(reg) to => _, from = inout(reg) from => _,
            b = out(reg) _, options(nostack, preserves_flags));
    }
}

/// Copies downward from the last byte.
///
/// # Safety
/// Both ranges of `count` bytes must be valid; where they overlap, `to` must be the upper one.
pub unsafe fn copy_down(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the ranges are the caller's promise.
    unsafe {
        asm!("cbz {n}, 3f", "2:", "sub {n}, {n}, #1", "ldrb {b:w}, [{from}, {n}]", "strb {b:w}, [{to}, {n}]",
            "cbnz {n}, 2b", "3:", n = inout(reg) count => _, to = in(reg) to, from = in(reg) from,
            b = out(reg) _, options(nostack, preserves_flags));
    }
}

/// Sets each byte of a range.
///
/// # Safety
/// The range of `count` bytes must be writable.
pub unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
    // SAFETY: the range is the caller's promise.
    unsafe {
        asm!("cbz {n}, 3f", "2:", "strb {b:w}, [{to}], #1", "sub {n}, {n}, #1", "cbnz {n}, 2b", "3:",
            n = inout(reg) count => _, to = inout(reg) to => _, b = in(reg) u32::from(byte),
            options(nostack, preserves_flags));
    }
}

/// System call numbers.
#[allow(missing_docs, reason = "each is named as the kernel names it")]
pub mod nr {
    pub const LSETXATTR: usize = 6;
    pub const LGETXATTR: usize = 9;
    pub const GETCWD: usize = 17;
    pub const DUP3: usize = 24;
    pub const FCNTL: usize = 25;
    pub const IOCTL: usize = 29;
    pub const MKNODAT: usize = 33;
    pub const MKDIRAT: usize = 34;
    pub const UNLINKAT: usize = 35;
    pub const SYMLINKAT: usize = 36;
    pub const UMOUNT2: usize = 39;
    pub const MOUNT: usize = 40;
    pub const STATFS: usize = 43;
    pub const CHDIR: usize = 49;
    pub const CHROOT: usize = 51;
    pub const FCHMOD: usize = 52;
    pub const FCHOWN: usize = 55;
    pub const OPENAT: usize = 56;
    pub const CLOSE: usize = 57;
    pub const PIPE2: usize = 59;
    pub const GETDENTS64: usize = 61;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const PPOLL: usize = 73;
    pub const READLINKAT: usize = 78;
    pub const SYNC: usize = 81;
    pub const EXIT_GROUP: usize = 94;
    pub const INIT_MODULE: usize = 105;
    pub const CLOCK_GETTIME: usize = 113;
    pub const KILL: usize = 129;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const REBOOT: usize = 142;
    pub const SETGID: usize = 144;
    pub const SETUID: usize = 146;
    pub const GETSID: usize = 156;
    pub const SETSID: usize = 157;
    pub const GETGROUPS: usize = 158;
    pub const SETGROUPS: usize = 159;
    pub const UNAME: usize = 160;
    pub const SETHOSTNAME: usize = 161;
    pub const UMASK: usize = 166;
    pub const GETPID: usize = 172;
    pub const GETPPID: usize = 173;
    pub const GETUID: usize = 174;
    pub const GETGID: usize = 176;
    pub const SOCKET: usize = 198;
    pub const CONNECT: usize = 203;
    pub const SENDTO: usize = 206;
    pub const SHUTDOWN: usize = 210;
    pub const SETSOCKOPT: usize = 208;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const MMAP: usize = 222;
    pub const WAIT4: usize = 260;
    pub const PRLIMIT64: usize = 261;
    pub const SETNS: usize = 268;
    pub const FINIT_MODULE: usize = 273;
    pub const GETRANDOM: usize = 278;
    pub const STATX: usize = 291;
}
