//! Kernel modules of ramdisk 1: `*.ko` in its root, in byte order of their names. AWS's kernels need `nsm.ko`.

use core::ffi::CStr;

use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::lookup::{PATH_MAX, join};
use crate::sys::{self, Names, Open, Result as Call};

/// Loads all of them. One that is built in or loaded already is fine.
pub fn load() -> Result<(), Failure> {
    let mut last: Option<&'static CStr> = None;
    while let Some(name) = next_after(last).at("modules")? {
        load_one(name).on("module", name.to_bytes())?;
        last = Some(name);
    }
    Ok(())
}

fn load_one(name: &CStr) -> Call<()> {
    let mut buffer = [0; PATH_MAX];
    let path = join(b"/", name.to_bytes(), &mut buffer)?;
    let loaded = match sys::load_module(&sys::open(path, Open::Read)?) {
        Err(Errno::ENOSYS) => sys::load_module_image(sys::read_file(path)?),
        other => other,
    };
    if loaded == Err(Errno::EEXIST) { Ok(()) } else { loaded }
}

/// The smallest name behind `last`, kept for good: there are few, and a failure names one.
fn next_after(last: Option<&CStr>) -> Call<Option<&'static CStr>> {
    let directory = sys::open(c"/", Open::Directory)?;
    let (mut buffer, mut best) = ([0; 1024], [0; 256]);
    loop {
        let used = sys::list(&directory, &mut buffer)?;
        if used == 0 {
            break;
        }
        for name in Names(buffer.get(..used).unwrap_or_default()) {
            if is_next(name, last, &best) {
                best = [0; 256];
                best.iter_mut().zip(name.to_bytes()).for_each(|(slot, byte)| *slot = *byte);
            }
        }
    }
    if best[0] == 0 { Ok(None) } else { keep(&best).map(Some) }
}

/// Whether a name is a module, sorts behind the last one and before the best one found yet (all zeros: none).
fn is_next(name: &CStr, last: Option<&CStr>, best: &[u8; 256]) -> bool {
    let best = CStr::from_bytes_until_nul(best).unwrap_or_default();
    let behind = last.is_none_or(|last| last < name);
    name.to_bytes().ends_with(b".ko") && behind && (best.is_empty() || name < best)
}

fn keep(name: &[u8; 256]) -> Call<&'static CStr> {
    let kept = sys::allocate(name.len())?;
    kept.copy_from_slice(name);
    CStr::from_bytes_until_nul(kept).map_err(|_| Errno::ENAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(name: &[u8]) -> [u8; 256] {
        let mut bytes = [0; 256];
        bytes[..name.len()].copy_from_slice(name);
        bytes
    }

    #[test]
    fn modules_come_in_byte_order_and_once() {
        let none = bytes(b"");
        assert!(is_next(c"nsm.ko", None, &none));
        assert!(!is_next(c"nsm.ko.xz", None, &none));
        assert!(!is_next(c"nsm.ko", Some(c"nsm.ko"), &none));
        assert!(is_next(c"nsm.ko", Some(c"Nsm.ko"), &none));
        assert!(is_next(c"a.ko", None, &bytes(b"b.ko")));
        assert!(!is_next(c"b.ko", None, &bytes(b"a.ko")));
    }
}
