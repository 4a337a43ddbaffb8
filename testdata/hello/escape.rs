//! The ways out of a root directory, tried as root: each prints what it found, `WAY: NAME` for each entry.

use core::ffi::CStr;

use eif_init::sys::{self, Names, Open, Result};

use super::output::Output;

/// More levels than any path has.
const LEVELS: usize = 64;

/// Tries all of them. The last takes the root out of the mount namespace.
pub fn all(output: &mut Output) -> Result<()> {
    show(output, "root", c"/")?;
    up_and_out(output)?;
    show(output, "init's root", c"/proc/1/root")?;
    below_the_root(output)
}

/// Changes the root to a directory below while the working directory stays above, then climbs.
fn up_and_out(output: &mut Output) -> Result<()> {
    let back = sys::open(c"/", Open::Directory)?;
    let _ = sys::make_directory(c"/dev/shm/cell", 0o755);
    sys::change_root(c"/dev/shm/cell")?;
    for _ in 0..LEVELS {
        sys::change_directory(c"..")?;
    }
    sys::change_root(c".")?;
    drop(back);
    show(output, "up and out", c"/")
}

/// Unmounts the root itself and enters the mount namespace anew: its root is now what lay below.
fn below_the_root(output: &mut Output) -> Result<()> {
    let namespace = sys::open(c"/proc/self/ns/mnt", Open::Read)?;
    sys::unmount(c"/")?;
    sys::enter_namespace(&namespace)?;
    show(output, "below the root", c"/")
}

fn show(output: &mut Output, way: &str, path: &CStr) -> Result<()> {
    let (directory, mut buffer) = (open(path)?, [0; 4096]);
    loop {
        match sys::list(&directory, &mut buffer)? {
            0 => return Ok(()),
            used => {
                for name in Names(buffer.get(..used).unwrap_or_default()) {
                    output.text(way.as_bytes()).text(b": ").path(name.to_bytes()).end();
                }
            }
        }
    }
}

/// Through a link of the kernel's too.
fn open(path: &CStr) -> Result<sys::Fd> {
    sys::open(path, Open::Read)
}
