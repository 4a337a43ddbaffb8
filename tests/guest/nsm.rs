//! The application of `tests/qemu_nitro.rs`: asks the enclave's security module for the registers that its arguments
//! name and prints `PCR<index> <hex>` for each. Compiled by the test with `rustc`, static, for the host's processor.

use std::ffi::{c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut Raw) -> c_int;
}

/// `struct nsm_iovec` of linux/nsm.h.
#[repr(C)]
struct Vector {
    address: u64,
    length: u64,
}

/// `struct nsm_raw` of linux/nsm.h.
#[repr(C)]
struct Raw {
    request: Vector,
    response: Vector,
}

/// `NSM_IOCTL_RAW`: `_IOWR(0x0A, 0x0, struct nsm_raw)`.
const NSM_IOCTL_RAW: c_ulong = 3 << 30 | (size_of::<Raw>() as c_ulong) << 16 | 0x0A << 8;
/// The largest answer that the module gives, in bytes.
const RESPONSE: usize = 0x3000;

fn ask(device: &File, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut response = vec![0; RESPONSE];
    let vector = |bytes: *const u8, length: usize| Vector { address: bytes as u64, length: length as u64 };
    let mut raw =
        Raw { request: vector(request.as_ptr(), request.len()), response: vector(response.as_mut_ptr(), RESPONSE) };
    // SAFETY: both buffers live through the call and are as long as they say.
    if unsafe { ioctl(device.as_raw_fd(), NSM_IOCTL_RAW, &mut raw) } < 0 {
        return Err(io::Error::last_os_error());
    }
    response.truncate(raw.response.length as usize);
    Ok(response)
}

/// The CBOR of `{"DescribePCR": {"index": N}}`, N below 24.
fn describe(index: u8) -> Vec<u8> {
    [&b"\xa1\x6bDescribePCR\xa1\x65index"[..], &[index]].concat()
}

/// The byte string behind the text `data`: 48 bytes, or whatever it has.
fn data(response: &[u8]) -> Option<&[u8]> {
    let at = response.windows(5).position(|window| window == b"\x64data")? + 5;
    let (length, from) = match response.get(at)? {
        0x58 => (usize::from(*response.get(at + 1)?), at + 2),
        short @ 0x40..=0x57 => (usize::from(short & 0x1f), at + 1),
        _ => return None,
    };
    response.get(from..from + length)
}

fn main() {
    let device = File::options().read(true).write(true).open("/dev/nsm").expect("/dev/nsm");
    for index in std::env::args().skip(1).map(|index| index.parse().expect("an index")) {
        let response = ask(&device, &describe(index)).expect("an answer of the module");
        let value = data(&response).unwrap_or_else(|| panic!("PCR{index}: {response:02x?}"));
        println!("PCR{index} {}", value.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}
