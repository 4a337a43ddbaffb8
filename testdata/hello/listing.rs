//! The root file system as the booted enclave has it: one line an entry, so that a test can compare it to the image.
//!
//! `KIND MODE UID:GID LINKS /PATH` and, at the end, the SHA-256 of a file's contents, ` -> TARGET` of a symbolic link
//! or ` MAJOR:MINOR` of a device. KIND is `f`, `d`, `l`, `c`, `b`, `p` or `s`; MODE has four octal digits; LINKS is `-`
//! for a directory. What cannot be read has its error's name in place of the hash. Another file system mounted on a
//! directory is one line `m /PATH` and is not entered. Children follow their directory, siblings in byte order.

use core::ffi::CStr;

use eif_init::errno::Errno;
use eif_init::sys::{self, Names, Open, Result, Status};

use super::output::Output;
use super::sha256::Sha256;

/// What a line tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// All of the above.
    Everything,
    /// `MTIME /PATH`, in seconds.
    Times,
}

/// Room for the names of all directories from the root down to the current one.
const NAMES: usize = 16 << 20;
/// How many names that may be.
const COUNT: usize = 1 << 20;

/// A path under construction: always NUL-ended.
struct Path {
    bytes: [u8; 4096],
    used: usize,
}

impl Path {
    fn as_text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// Goes down to a child; the length to come back to.
    fn push(&mut self, name: &CStr) -> Result<usize> {
        let before = self.used;
        let slash: &[u8] = if before == 1 { b"" } else { b"/" };
        for byte in slash.iter().chain(name.to_bytes()) {
            *self.bytes.get_mut(self.used).ok_or(Errno::ENAMETOOLONG)? = *byte;
            self.used += 1;
        }
        *self.bytes.get_mut(self.used).ok_or(Errno::ENAMETOOLONG)? = 0;
        Ok(before)
    }

    fn pop(&mut self, before: usize) {
        self.used = before;
        self.bytes[before] = 0;
    }
}

/// Lists everything between two marks.
pub fn print(output: &mut Output, show: Show) -> Result<()> {
    let mut path = Path { bytes: [0; 4096], used: 1 };
    path.bytes[0] = b'/';
    let device = sys::status(c"/")?.device();
    let (names, offsets) = (sys::allocate(NAMES)?, sys::allocate_words(COUNT)?);
    output.line(b"list: begin");
    let mut walk = Walk { output, show, device, path };
    visit(&mut walk, names, offsets)?;
    walk.output.line(b"list: end");
    Ok(())
}

struct Walk<'a> {
    output: &'a mut Output,
    show: Show,
    device: (u32, u32),
    path: Path,
}

/// One entry, and if it is a directory, what is below it.
fn visit(walk: &mut Walk<'_>, names: &mut [u8], offsets: &mut [usize]) -> Result<()> {
    let status = sys::status(walk.path.as_text())?;
    if status.device() != walk.device {
        walk.output.text(b"m ").path(walk.path.as_text().to_bytes()).end();
        return Ok(());
    }
    match walk.show {
        Show::Everything => line(walk.output, walk.path.as_text(), &status),
        Show::Times => walk.output.number(status.mtime as u64).text(b" ").path(walk.path.as_text().to_bytes()).end(),
    }
    if status.is(sys::DIRECTORY) { children(walk, names, offsets) } else { Ok(()) }
}

fn children(walk: &mut Walk<'_>, names: &mut [u8], offsets: &mut [usize]) -> Result<()> {
    let directory = match sys::open(walk.path.as_text(), Open::Directory) {
        Err(errno) => {
            walk.output.text(b"! ").path(walk.path.as_text().to_bytes()).text(b" ");
            walk.output.line(errno.name().unwrap_or_default().as_bytes());
            return Ok(());
        }
        Ok(directory) => directory,
    };
    let (used, count) = collect(&directory, names, offsets)?;
    drop(directory);
    let (names, free_names) = names.split_at_mut(used);
    let (offsets, free_offsets) = offsets.split_at_mut(count);
    let name = |at: usize| names.get(at..).and_then(|rest| CStr::from_bytes_until_nul(rest).ok()).unwrap_or_default();
    offsets.sort_unstable_by(|a, b| name(*a).cmp(name(*b)));
    for at in offsets.iter() {
        let before = walk.path.push(name(*at))?;
        visit(walk, free_names, free_offsets)?;
        walk.path.pop(before);
    }
    Ok(())
}

/// Copies a directory's names to the front of `names`, with where each begins; bytes and names used.
fn collect(directory: &sys::Fd, names: &mut [u8], offsets: &mut [usize]) -> Result<(usize, usize)> {
    let (mut used, mut count, mut buffer) = (0, 0, [0; 1024]);
    loop {
        let filled = sys::list(directory, &mut buffer)?;
        if filled == 0 {
            return Ok((used, count));
        }
        for name in Names(buffer.get(..filled).unwrap_or_default()) {
            let bytes = name.to_bytes_with_nul();
            names.get_mut(used..used + bytes.len()).ok_or(Errno::ENOMEM)?.copy_from_slice(bytes);
            *offsets.get_mut(count).ok_or(Errno::ENOMEM)? = used;
            (used, count) = (used + bytes.len(), count + 1);
        }
    }
}

fn line(output: &mut Output, path: &CStr, status: &Status) {
    let kind = kind(status);
    output.text(&[kind, b' ']).octal(status.mode() & 0o7777).text(b" ");
    output.number(u64::from(status.uid)).text(b":").number(u64::from(status.gid)).text(b" ");
    match kind {
        b'd' => output.text(b"-"),
        _ => output.number(u64::from(status.nlink)),
    };
    output.text(b" ").path(path.to_bytes());
    match kind {
        b'f' => contents(output, path),
        b'l' => target(output, path),
        b'c' | b'b' => {
            output.text(b" ").number(u64::from(status.rdev_major)).text(b":").number(u64::from(status.rdev_minor));
        }
        _ => {}
    }
    output.end();
}

fn kind(status: &Status) -> u8 {
    match status.mode() & sys::TYPE_MASK {
        sys::REGULAR => b'f',
        sys::DIRECTORY => b'd',
        sys::SYMLINK => b'l',
        0o020_000 => b'c',
        0o060_000 => b'b',
        0o010_000 => b'p',
        _ => b's',
    }
}

fn contents(output: &mut Output, path: &CStr) {
    match hash(path) {
        Ok(hash) => output.text(b" ").hex(&hash),
        Err(errno) => output.text(b" ").text(errno.name().unwrap_or_default().as_bytes()),
    };
}

fn hash(path: &CStr) -> Result<[u8; 32]> {
    let file = sys::open(path, Open::Read)?;
    let (mut hash, mut buffer) = (Sha256::new(), [0; 4096]);
    loop {
        match sys::read(&file, &mut buffer)? {
            0 => return Ok(hash.finish()),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn target(output: &mut Output, path: &CStr) {
    let mut buffer = [0; 4096];
    match sys::read_link(path, &mut buffer) {
        Ok(target) => output.text(b" -> ").path(target),
        Err(errno) => output.text(b" ").text(errno.name().unwrap_or_default().as_bytes()),
    };
}
