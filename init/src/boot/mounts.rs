//! The file systems that a container expects, as runc mounts them; each where the kernel has it.

use core::ffi::CStr;

use super::console;
use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::lookup::{PATH_MAX, join};
use crate::sys::{self, DIRECTORY, Names, Open, flags};
use crate::text::parse_decimal;

const PLAIN: usize = flags::NOSUID | flags::NODEV;
const DATA: usize = PLAIN | flags::NOEXEC;

/// What to do where the kernel does not have the file system.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Fail.
    Must,
    /// Go on without.
    May,
}

/// One mount: where, kind, flags, options.
type Mount = (&'static CStr, &'static CStr, usize, &'static CStr, Need);

/// In this order; targets are made if they are missing.
const MOUNTS: [Mount; 5] = [
    (c"/proc", c"proc", DATA, c"", Need::Must),
    (c"/sys", c"sysfs", DATA, c"", Need::Must),
    (c"/dev/pts", c"devpts", flags::NOSUID | flags::NOEXEC, c"mode=0620,ptmxmode=0666,gid=5", Need::May),
    (c"/dev/shm", c"tmpfs", DATA, c"mode=1777", Need::May),
    (c"/dev/mqueue", c"mqueue", DATA, c"", Need::May),
];

/// Mounted only where the image has nothing, so that nothing of it is hidden.
const SCRATCH: [Mount; 2] =
    [(c"/run", c"tmpfs", PLAIN, c"mode=0755", Need::May), (c"/tmp", c"tmpfs", PLAIN, c"mode=1777", Need::May)];

/// Links in /dev that programs take for granted.
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// Docker's two network settings: any user may bind any port and open ping sockets.
const SETTINGS: [(&CStr, &[u8]); 2] = [
    (c"/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"),
    (c"/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"),
];

/// What the steps before the application's root need: sysfs, for the random source.
pub fn early() -> Result<(), Failure> {
    let (target, kind, flags, options, need) = MOUNTS[1];
    mount((target, kind, flags, options, need))
}

/// Everything, in the application's root. Paths are resolved there, so a link in the image cannot lead elsewhere.
pub fn all() -> Result<(), Failure> {
    console::mount_devices()?;
    MOUNTS.into_iter().try_for_each(mount)?;
    for scratch in SCRATCH {
        if is_free(scratch.0) {
            mount(scratch)?;
        }
    }
    cgroups()?;
    for (target, path) in LINKS {
        let _ = sys::make_symlink(target, path);
    }
    for (path, value) in SETTINGS {
        let _ = sys::write_file(path, value);
    }
    console::attach()
}

fn mount((target, kind, flags, options, need): Mount) -> Result<(), Failure> {
    match sys::make_directory(target, 0o755) {
        Ok(()) | Err(Errno::EEXIST) => {}
        other => return other.on("mkdir", target.to_bytes()),
    }
    match sys::mount(kind, target, kind, flags, options) {
        Err(Errno::ENODEV) if need == Need::May => Ok(()),
        other => other.on("mount", target.to_bytes()),
    }
}

/// Whether a path is missing or an empty directory. Never through a link: what it leads to is the image's.
fn is_free(path: &CStr) -> bool {
    match sys::status(path) {
        Err(errno) => errno == Errno::ENOENT,
        Ok(status) => status.is(DIRECTORY) && is_empty(path),
    }
}

fn is_empty(path: &CStr) -> bool {
    let mut buffer = [0; 512];
    let Ok(directory) = sys::open(path, Open::Directory) else { return false };
    loop {
        match sys::list(&directory, &mut buffer) {
            Ok(0) => return true,
            Ok(used) if Names(buffer.get(..used).unwrap_or_default()).next().is_none() => {}
            _ => return false,
        }
    }
}

const CGROUPS: &CStr = c"/sys/fs/cgroup";

/// cgroup2; one v1 hierarchy for each controller where there is no v2; nothing where there is neither.
fn cgroups() -> Result<(), Failure> {
    match sys::mount(c"cgroup2", CGROUPS, c"cgroup2", DATA, c"") {
        Err(Errno::ENODEV) => first_cgroups(),
        // No directory: the kernel has no control groups at all.
        Err(Errno::ENOENT) => Ok(()),
        other => other.on("mount", CGROUPS.to_bytes()),
    }
}

fn first_cgroups() -> Result<(), Failure> {
    let mut buffer = [0; 2048];
    let Ok(text) = sys::read_some(c"/proc/cgroups", &mut buffer) else { return Ok(()) };
    sys::mount(c"tmpfs", CGROUPS, c"tmpfs", DATA, c"mode=0755").on("mount", CGROUPS.to_bytes())?;
    for line in text.split(|byte| *byte == b'\n').filter(|line| is_enabled(line)) {
        mount_controller(line.split(|byte| *byte == b'\t').next().unwrap_or_default());
    }
    Ok(())
}

/// A line of /proc/cgroups is `name hierarchy number enabled`, with tabs; the first line is a comment.
fn is_enabled(line: &[u8]) -> bool {
    !line.starts_with(b"#") && line.split(|byte| *byte == b'\t').nth(3).and_then(parse_decimal) == Some(1)
}

/// A controller that has no v1 interface in this kernel is left out, as without it.
fn mount_controller(name: &[u8]) {
    let (mut path, mut option) = ([0; PATH_MAX], [0; PATH_MAX]);
    if let (Ok(path), Ok(option)) = (join(CGROUPS.to_bytes(), name, &mut path), join(b"", name, &mut option)) {
        let _ = sys::make_directory(path, 0o755);
        let _ = sys::mount(c"cgroup", path, c"cgroup", DATA, option);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabled_controllers() {
        assert!(is_enabled(b"memory\t0\t1\t1"));
        assert!(!is_enabled(b"memory\t0\t1\t0"));
        assert!(!is_enabled(b"#subsys_name\thierarchy\tnum_cgroups\tenabled"));
        assert!(!is_enabled(b""));
    }

    #[test]
    fn a_directory_with_entries_is_not_free() {
        assert!(!is_free(c"/proc/self"));
        assert!(!is_free(c"/proc/self/exe"));
        assert!(is_free(c"/nowhere-at-all"));
    }
}
