//! What the process sees of itself: one `NAME: VALUE` a line.

use core::ffi::CStr;

use eif_init::sys::{self, Open, Result};

use super::output::Output;
use super::{Pointers, Words};

/// Everything that `env` shows.
pub fn all(output: &mut Output, argv: Pointers, env: Pointers) {
    for argument in Words(argv) {
        output.text(b"argv: ").value(argument.to_bytes()).end();
    }
    for entry in Words(env) {
        output.text(b"env: ").value(entry.to_bytes()).end();
    }
    identity(output);
    surroundings(output);
    signals(output);
    descriptors(output);
}

fn identity(output: &mut Output) {
    let [parent, session, user, group] = sys::identity();
    for (name, value) in [("pid", sys::process_id() as u32), ("ppid", parent), ("sid", session)] {
        output.text(name.as_bytes()).text(b": ").number(u64::from(value)).end();
    }
    output.text(b"uid: ").number(u64::from(user)).end();
    output.text(b"gid: ").number(u64::from(group)).end();
    let mut buffer = [0; 64];
    output.text(b"groups:");
    for group in sys::groups(&mut buffer).unwrap_or_default() {
        output.text(b" ").number(u64::from(*group));
    }
    output.end();
}

fn surroundings(output: &mut Output) {
    let mut buffer = [0; 4096];
    output.text(b"cwd: ").value(sys::working_directory(&mut buffer).unwrap_or_default()).end();
    output.text(b"hostname: ").value(sys::host_name(&mut [0; 390]).unwrap_or_default()).end();
    output.text(b"lo: ").line(if sys::loopback_is_up() == Ok(true) { b"up" } else { b"down" });
    let terminal = sys::open(c"/dev/tty", Open::Read).is_ok();
    output.text(b"controlling terminal: ").line(if terminal { b"yes" } else { b"no" });
    let ready = sys::random(&mut [0; 16], false).is_ok();
    output.text(b"random pool: ").line(if ready { b"ready" } else { b"not ready" });
}

/// The kernel's own words about blocked, ignored and caught signals.
fn signals(output: &mut Output) {
    let mut buffer = [0; 4096];
    let status = sys::read_some(c"/proc/self/status", &mut buffer).unwrap_or_default();
    for line in status.split(|byte| *byte == b'\n') {
        for (field, name) in [(&b"SigBlk:\t"[..], "blocked"), (b"SigIgn:\t", "ignored"), (b"SigCgt:\t", "caught")] {
            if let Some(value) = line.strip_prefix(field) {
                output.text(name.as_bytes()).text(b": ").value(value).end();
            }
        }
    }
}

fn descriptors(output: &mut Output) {
    output.text(b"descriptors:");
    for number in (0..1024).filter(|number| sys::is_open(*number)) {
        output.text(b" ").number(number as u64);
    }
    output.end();
}

/// A file's bytes as they are.
pub fn file(output: &mut Output, path: &CStr) -> Result<()> {
    let file = sys::open(path, Open::Read)?;
    let mut buffer = [0; 4096];
    loop {
        match sys::read(&file, &mut buffer)? {
            0 => break,
            count => sys::print(1, buffer.get(..count).unwrap_or_default()),
        }
    }
    output.text(b"end of ").path(path.to_bytes()).end();
    Ok(())
}

/// `xattr: VALUE` in hex.
pub fn attribute(output: &mut Output, path: &CStr, name: &CStr) -> Result<()> {
    let mut buffer = [0; 1024];
    let value = sys::get_attribute(path, name, &mut buffer)?;
    output.text(b"xattr: ").hex(value).end();
    Ok(())
}
