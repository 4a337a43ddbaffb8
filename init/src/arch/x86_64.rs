//! x86_64: `syscall`, the entry point, numbers.

use core::arch::asm;

/// `O_DIRECTORY`.
pub const O_DIRECTORY: usize = 0o200_000;
/// `O_NOFOLLOW`.
pub const O_NOFOLLOW: usize = 0o400_000;
/// `SA_RESTORER`: without it the kernel delivers no signal to a handler on this architecture.
pub const SA_RESTORER: usize = 0x0400_0000;

/// Defines `_start`: the stack pointer as the kernel set it is `$main`'s argument.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "xor ebp, ebp",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {main}",
            "ud2",
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
    // SAFETY: the kernel keeps all registers but rax, rcx and r11; memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
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
    // SAFETY: the direction flag is clear by the ABI; the ranges are the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
}

/// Copies downward from the last byte.
///
/// # Safety
/// Both ranges of `count` bytes must be valid; where they overlap, `to` must be the upper one.
pub unsafe fn copy_down(to: *mut u8, from: *const u8, count: usize) {
    let last = count.wrapping_sub(1);
    // SAFETY: with a count of zero nothing is touched; the direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") to.wrapping_add(last) => _,
            inout("rsi") from.wrapping_add(last) => _, inout("rcx") count => _, options(nostack));
    }
}

/// Sets each byte of a range.
///
/// # Safety
/// The range of `count` bytes must be writable.
pub unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
    // SAFETY: the direction flag is clear by the ABI; the range is the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") count => _, in("al") byte,
            options(nostack, preserves_flags));
    }
}

/// System call numbers.
#[allow(missing_docs, reason = "each is named as the kernel names it")]
pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const MMAP: usize = 9;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const GETPID: usize = 39;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SENDTO: usize = 44;
    pub const SHUTDOWN: usize = 48;
    pub const SETSOCKOPT: usize = 54;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const UNAME: usize = 63;
    pub const FCNTL: usize = 72;
    pub const GETCWD: usize = 79;
    pub const CHDIR: usize = 80;
    pub const FCHMOD: usize = 91;
    pub const FCHOWN: usize = 93;
    pub const UMASK: usize = 95;
    pub const GETUID: usize = 102;
    pub const GETGID: usize = 104;
    pub const SETUID: usize = 105;
    pub const SETGID: usize = 106;
    pub const GETPPID: usize = 110;
    pub const SETSID: usize = 112;
    pub const GETGROUPS: usize = 115;
    pub const SETGROUPS: usize = 116;
    pub const GETSID: usize = 124;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const STATFS: usize = 137;
    pub const CHROOT: usize = 161;
    pub const SYNC: usize = 162;
    pub const MOUNT: usize = 165;
    pub const UMOUNT2: usize = 166;
    pub const REBOOT: usize = 169;
    pub const SETHOSTNAME: usize = 170;
    pub const INIT_MODULE: usize = 175;
    pub const LSETXATTR: usize = 189;
    pub const LGETXATTR: usize = 192;
    pub const GETDENTS64: usize = 217;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const MKDIRAT: usize = 258;
    pub const MKNODAT: usize = 259;
    pub const UNLINKAT: usize = 263;
    pub const SYMLINKAT: usize = 266;
    pub const READLINKAT: usize = 267;
    pub const PPOLL: usize = 271;
    pub const DUP3: usize = 292;
    pub const PIPE2: usize = 293;
    pub const SETNS: usize = 308;
    pub const PRLIMIT64: usize = 302;
    pub const FINIT_MODULE: usize = 313;
    pub const GETRANDOM: usize = 318;
    pub const STATX: usize = 332;
}
