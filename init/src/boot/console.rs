//! The console: the first thing to have, because every later failure is told on it.

use core::ffi::CStr;

use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::sys::{self, Open, flags};

/// Device nodes where the kernel has no devtmpfs: path, mode, major, minor (Documentation/admin-guide/devices.txt).
const NODES: [(&CStr, u32, u32, u32); 8] = [
    (c"/dev/console", 0o600, 5, 1),
    (c"/dev/null", 0o666, 1, 3),
    (c"/dev/zero", 0o666, 1, 5),
    (c"/dev/full", 0o666, 1, 7),
    (c"/dev/random", 0o666, 1, 8),
    (c"/dev/urandom", 0o666, 1, 9),
    (c"/dev/tty", 0o666, 5, 0),
    (c"/dev/ptmx", 0o666, 5, 2),
];

/// Makes /dev and puts the console on descriptors 0, 1 and 2.
pub fn open() -> Result<(), Failure> {
    mount_devices()?;
    attach()
}

/// Mounts the kernel's devices on /dev, which is made if it is missing.
pub fn mount_devices() -> Result<(), Failure> {
    let options = c"mode=0755";
    let _ = sys::make_directory(c"/dev", 0o755);
    match sys::mount(c"devtmpfs", c"/dev", c"devtmpfs", flags::NOSUID, options) {
        Err(Errno::ENODEV) => make_devices(options),
        // The kernel has mounted it there itself.
        Err(Errno::EBUSY) => Ok(()),
        other => other.on("mount", b"/dev"),
    }
}

fn make_devices(options: &CStr) -> Result<(), Failure> {
    sys::mount(c"tmpfs", c"/dev", c"tmpfs", flags::NOSUID, options).on("mount", b"/dev")?;
    sys::set_umask(0);
    for (path, mode, major, minor) in NODES {
        sys::make_device(path, mode, major, minor).on("mknod", path.to_bytes())?;
    }
    sys::set_umask(0o022);
    Ok(())
}

/// Opens the console (the null device where there is none, so that three descriptors are open in any case).
pub fn attach() -> Result<(), Failure> {
    let console = sys::open(c"/dev/console", Open::Terminal).or_else(|_| sys::open(c"/dev/null", Open::Terminal));
    let console = console.and_then(|fd| sys::above_standard(&fd)).on("open", b"/dev/console")?;
    (0..3).try_for_each(|number| sys::duplicate(&console, number)).on("open", b"/dev/console")
}

/// Ends a line that the application may have left open: what scripts look for must begin one.
pub fn end_line() {
    sys::print(1, b"\n");
}

/// Prints one line in one write.
pub fn say(text: &[u8]) {
    let mut line = [0; 512];
    let length = text.len().min(line.len() - 1);
    for (slot, byte) in line.iter_mut().zip(text.iter().take(length).chain(b"\n")) {
        *slot = *byte;
    }
    sys::print(1, line.get(..=length).unwrap_or_default());
}
