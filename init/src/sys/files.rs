//! Descriptors, files and directories.

use core::ffi::CStr;

use super::{Result, allocate, call, int};
use crate::arch::{self, nr};
use crate::errno::Errno;

/// `AT_FDCWD`: relative to the working directory.
const HERE: usize = -100_isize as usize;
/// `AT_SYMLINK_NOFOLLOW`.
const NO_FOLLOW: usize = 0x100;

/// Flags of [`open`]; each comes with close-on-exec.
#[derive(Debug, Clone, Copy)]
pub enum Open {
    /// For reading.
    Read,
    /// For writing; the file must exist.
    Write,
    /// For both, and never the controlling terminal.
    Terminal,
    /// A directory, for listing; not through a symbolic link.
    Directory,
}

/// An open descriptor, closed when dropped.
#[derive(Debug)]
pub struct Fd(i32);

impl Fd {
    /// Takes over a descriptor that a call has returned.
    pub(super) fn new(value: usize) -> Self {
        Self(value as i32)
    }

    /// The number.
    pub fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's alone.
        let _ = unsafe { call(nr::CLOSE, [int(self.0)]) };
    }
}

/// Opens an existing file.
///
/// # Errors
/// The kernel's.
pub fn open(path: &CStr, how: Open) -> Result<Fd> {
    const CLOEXEC: usize = 0o2_000_000;
    const NOCTTY: usize = 0o400;
    let flags = match how {
        Open::Read => 0,
        Open::Write => 1,
        Open::Terminal => 2 | NOCTTY,
        Open::Directory => arch::O_DIRECTORY | arch::O_NOFOLLOW,
    };
    // SAFETY: the path ends in NUL and outlives the call.
    unsafe { call(nr::OPENAT, [HERE, path.as_ptr() as usize, flags | CLOEXEC, 0]) }.map(Fd::new)
}

/// Reads once.
///
/// # Errors
/// The kernel's, but for `EINTR`, which is tried again.
pub fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: the buffer is writable for its length.
        match unsafe { call(nr::READ, [int(fd.0), buffer.as_mut_ptr() as usize, buffer.len()]) } {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Writes once.
///
/// # Errors
/// The kernel's, but for `EINTR`, which is tried again.
pub fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    write_raw(fd.0, bytes)
}

/// Writes all of it to a descriptor by number, as far as the kernel takes it.
pub fn print(fd: i32, mut bytes: &[u8]) {
    while let Some(rest) = write_raw(fd, bytes).ok().filter(|count| *count > 0).and_then(|count| bytes.get(count..)) {
        bytes = rest;
    }
}

fn write_raw(fd: i32, bytes: &[u8]) -> Result<usize> {
    loop {
        // SAFETY: the bytes are readable for their length.
        match unsafe { call(nr::WRITE, [int(fd), bytes.as_ptr() as usize, bytes.len()]) } {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Writes a file of the kernel's (sysfs, procfs) in one call.
///
/// # Errors
/// The kernel's.
pub fn write_file(path: &CStr, bytes: &[u8]) -> Result<()> {
    write(&open(path, Open::Write)?, bytes).map(|_| ())
}

/// Reads the beginning of a file of the kernel's into `buffer`.
///
/// # Errors
/// The kernel's.
pub fn read_some<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let fd = open(path, Open::Read)?;
    let mut used = 0;
    while let Some(free) = buffer.get_mut(used..).filter(|free| !free.is_empty()) {
        match read(&fd, free)? {
            0 => break,
            count => used += count,
        }
    }
    Ok(buffer.get(..used).unwrap_or_default())
}

/// Reads a whole regular file into memory of its own, which stays.
///
/// # Errors
/// The kernel's.
pub fn read_file(path: &CStr) -> Result<&'static [u8]> {
    let size = usize::try_from(status(path)?.size).map_err(|_| Errno::EFBIG)?;
    let buffer = allocate(size.checked_add(1).ok_or(Errno::EFBIG)?)?;
    read_some(path, buffer)
}

/// Puts `fd` in the place of descriptor `number`, which exec keeps.
///
/// # Errors
/// The kernel's; `EINVAL` if it is there already.
pub fn duplicate(fd: &Fd, number: i32) -> Result<()> {
    // SAFETY: numbers only; descriptor `number` is one of the standard three, which nothing owns.
    unsafe { call(nr::DUP3, [int(fd.0), int(number), 0]) }.map(|_| ())
}

/// Whether a descriptor is open.
pub fn is_open(fd: i32) -> bool {
    const GET_FLAGS: usize = 1;
    // SAFETY: numbers only.
    unsafe { call(nr::FCNTL, [int(fd), GET_FLAGS, 0]) }.is_ok()
}

/// A copy of a descriptor above the standard three, which exec closes.
///
/// # Errors
/// The kernel's.
pub fn above_standard(fd: &Fd) -> Result<Fd> {
    const DUPLICATE_CLOEXEC: usize = 1030;
    // SAFETY: numbers only.
    unsafe { call(nr::FCNTL, [int(fd.0), DUPLICATE_CLOEXEC, 3]) }.map(Fd::new)
}

/// A pipe whose ends exec closes: (read, write).
///
/// # Errors
/// The kernel's.
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: the kernel writes two descriptors to the array.
    unsafe { call(nr::PIPE2, [ends.as_mut_ptr() as usize, 0o2_000_000])? };
    let [reader, writer] = ends;
    Ok((Fd(reader), Fd(writer)))
}

/// What kind of entry a mode says.
pub const TYPE_MASK: u32 = 0o170_000;
/// A directory.
pub const DIRECTORY: u32 = 0o040_000;
/// A regular file.
pub const REGULAR: u32 = 0o100_000;
/// A symbolic link.
pub const SYMLINK: u32 = 0o120_000;

/// The kernel's `struct statx`, as far as anyone here reads it (the same on both architectures).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "fields are named and documented in statx(2)")]
pub struct Status {
    mask: u32,
    blksize: u32,
    attributes: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    mode16: u16,
    pad: u16,
    pub ino: u64,
    pub size: u64,
    blocks: u64,
    attributes_mask: u64,
    times: [[u64; 2]; 3],
    pub mtime: i64,
    mtime_nsec: u64,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    spare: [u64; 14],
}

const _: () = assert!(size_of::<Status>() == 256);

impl Status {
    /// Type and permissions.
    pub fn mode(&self) -> u32 {
        u32::from(self.mode16)
    }

    /// Whether the type is this one of [`DIRECTORY`], [`REGULAR`], [`SYMLINK`].
    pub fn is(&self, kind: u32) -> bool {
        self.mode() & TYPE_MASK == kind
    }

    /// The file system it lies on.
    pub fn device(&self) -> (u32, u32) {
        (self.dev_major, self.dev_minor)
    }
}

/// The status of a path itself; a symbolic link is not followed.
///
/// # Errors
/// The kernel's.
pub fn status(path: &CStr) -> Result<Status> {
    status_of(HERE, path, NO_FOLLOW)
}

/// The status of a name in an open directory; a symbolic link is not followed.
///
/// # Errors
/// The kernel's.
pub fn status_at(parent: &Fd, name: &CStr) -> Result<Status> {
    status_of(int(parent.0), name, NO_FOLLOW)
}

/// Whether a path leads to a file, through symbolic links if need be.
pub fn exists(path: &CStr) -> bool {
    status_of(HERE, path, 0).is_ok()
}

fn status_of(parent: usize, path: &CStr, flags: usize) -> Result<Status> {
    const BASIC: usize = 0x7ff;
    let mut status = Status::default();
    // SAFETY: the path ends in NUL; the kernel writes 256 bytes, the structure's size.
    unsafe { call(nr::STATX, [parent, path.as_ptr() as usize, flags, BASIC, &raw mut status as usize])? };
    Ok(status)
}

/// Makes a directory.
///
/// # Errors
/// The kernel's.
pub fn make_directory(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the path ends in NUL and outlives the call.
    unsafe { call(nr::MKDIRAT, [HERE, path.as_ptr() as usize, mode as usize]) }.map(|_| ())
}

/// Makes a character device.
///
/// # Errors
/// The kernel's.
pub fn make_device(path: &CStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    const CHARACTER: u32 = 0o020_000;
    let device = ((major << 8) | (minor & 0xff) | ((minor & !0xff) << 12)) as usize;
    // SAFETY: the path ends in NUL and outlives the call.
    unsafe { call(nr::MKNODAT, [HERE, path.as_ptr() as usize, (CHARACTER | mode) as usize, device]) }.map(|_| ())
}

/// Makes a symbolic link.
///
/// # Errors
/// The kernel's.
pub fn make_symlink(target: &CStr, path: &CStr) -> Result<()> {
    // SAFETY: both end in NUL and outlive the call.
    unsafe { call(nr::SYMLINKAT, [target.as_ptr() as usize, HERE, path.as_ptr() as usize]) }.map(|_| ())
}

/// Where a symbolic link points.
///
/// # Errors
/// The kernel's.
pub fn read_link<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let (at, length) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the path ends in NUL; the buffer is writable for its length.
    let used = unsafe { call(nr::READLINKAT, [HERE, path.as_ptr() as usize, at, length])? };
    Ok(buffer.get(..used).unwrap_or_default())
}

/// Removes a name in an open directory; `directory` says which kind it is.
///
/// # Errors
/// The kernel's.
pub fn remove_at(parent: &Fd, name: &CStr, directory: bool) -> Result<()> {
    let flags = if directory { 0x200 } else { 0 };
    // SAFETY: the name ends in NUL and outlives the call.
    unsafe { call(nr::UNLINKAT, [int(parent.0), name.as_ptr() as usize, flags]) }.map(|_| ())
}

/// Opens a directory below an open one, for listing; not through a symbolic link.
///
/// # Errors
/// The kernel's.
pub fn open_directory_at(parent: &Fd, name: &CStr) -> Result<Fd> {
    let flags = arch::O_DIRECTORY | arch::O_NOFOLLOW | 0o2_000_000;
    // SAFETY: the name ends in NUL and outlives the call.
    unsafe { call(nr::OPENAT, [int(parent.0), name.as_ptr() as usize, flags, 0]) }.map(Fd::new)
}

/// Fills a buffer with directory entries; zero bytes at the end. [`Names`] reads it.
///
/// # Errors
/// The kernel's.
pub fn list(directory: &Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is writable for its length.
    unsafe { call(nr::GETDENTS64, [int(directory.0), buffer.as_mut_ptr() as usize, buffer.len()]) }
}

/// The names in a buffer that [`list`] filled, without `.` and `..`: ino u64, off u64, length u16, type u8, name.
pub struct Names<'a>(pub &'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        loop {
            let length = usize::from(u16::from_ne_bytes([*self.0.get(16)?, *self.0.get(17)?]));
            let name = CStr::from_bytes_until_nul(self.0.get(19..length)?).ok()?;
            self.0 = self.0.get(length..)?;
            if name != c"." && name != c".." {
                return Some(name);
            }
        }
    }
}

/// Sets one extended attribute of a path itself.
///
/// # Errors
/// The kernel's.
pub fn set_attribute(path: &CStr, name: &CStr, value: &[u8]) -> Result<()> {
    let args = [path.as_ptr() as usize, name.as_ptr() as usize, value.as_ptr() as usize, value.len(), 0];
    // SAFETY: path and name end in NUL; the value is readable for its length.
    unsafe { call(nr::LSETXATTR, args) }.map(|_| ())
}

/// Reads one extended attribute of a path itself.
///
/// # Errors
/// The kernel's.
pub fn get_attribute<'a>(path: &CStr, name: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let (at, length) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: path and name end in NUL; the buffer is writable for its length.
    let used = unsafe { call(nr::LGETXATTR, [path.as_ptr() as usize, name.as_ptr() as usize, at, length])? };
    Ok(buffer.get(..used).unwrap_or_default())
}

/// Gives a standard descriptor's file to a user; its group stays.
///
/// # Errors
/// The kernel's.
pub fn give(fd: i32, uid: u32) -> Result<()> {
    // SAFETY: numbers only.
    unsafe { call(nr::FCHOWN, [int(fd), uid as usize, u32::MAX as usize]) }.map(|_| ())
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: numbers only; this call cannot fail.
    let _ = unsafe { call(nr::UMASK, [mask as usize]) };
}
