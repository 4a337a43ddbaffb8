//! vsock streams and the loopback interface.

use super::{Fd, Result, call, int, ioctl};
use crate::arch::nr;
use crate::errno::Errno;

const AF_UNIX: usize = 1;
const AF_VSOCK: usize = 40;
const CLOEXEC: usize = 0o2_000_000;

/// A vsock stream, connected within `milliseconds`; reads and writes wait at most `answer` milliseconds.
///
/// # Errors
/// The kernel's: `ETIMEDOUT` without an answer, `ECONNRESET` if nobody listens, `ENODEV` without a device,
/// `EAFNOSUPPORT` where the kernel has no vsock.
pub fn connect(cid: u32, port: u32, milliseconds: u64, answer: u64) -> Result<Fd> {
    const STREAM: usize = 1;
    const SOCKET: usize = 1;
    const RECEIVE_TIMEOUT: usize = 20;
    const SEND_TIMEOUT: usize = 21;
    const CONNECT_TIMEOUT: usize = 6;
    // SAFETY: numbers only.
    let fd = unsafe { call(nr::SOCKET, [AF_VSOCK, STREAM | CLOEXEC, 0]) }.map(Fd::new)?;
    set_time(&fd, AF_VSOCK, CONNECT_TIMEOUT, milliseconds)?;
    set_time(&fd, SOCKET, RECEIVE_TIMEOUT, answer)?;
    set_time(&fd, SOCKET, SEND_TIMEOUT, answer)?;
    // struct sockaddr_vm: family u16, zero u16, port u32, cid u32, flags and zeros to 16 bytes.
    let address = [AF_VSOCK as u32, port, cid, 0];
    // SAFETY: an address of 16 bytes.
    unsafe { call(nr::CONNECT, [int(fd.raw()), address.as_ptr() as usize, 16])? };
    Ok(fd)
}

fn set_time(fd: &Fd, level: usize, option: usize, milliseconds: u64) -> Result<()> {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1000];
    // SAFETY: the kernel reads a `struct timeval` of 16 bytes.
    unsafe { call(nr::SETSOCKOPT, [int(fd.raw()), level, option, time.as_ptr() as usize, 16]) }.map(|_| ())
}

/// Sends all of it; a closed peer is an error, never a signal.
///
/// # Errors
/// The kernel's, but for `EINTR`, which is tried again; `EAGAIN` when the peer takes nothing for too long.
pub fn send(fd: &Fd, mut bytes: &[u8]) -> Result<()> {
    const NO_SIGNAL: usize = 0x4000;
    while !bytes.is_empty() {
        let args = [int(fd.raw()), bytes.as_ptr() as usize, bytes.len(), NO_SIGNAL, 0, 0];
        // SAFETY: the bytes are readable for their length; there is no address.
        match unsafe { call(nr::SENDTO, args) } {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Says that nothing more will be sent, and waits until the peer has taken all and closes, or its time is over.
///
/// # Errors
/// The kernel's; `EAGAIN` when the time is over.
pub fn finish(fd: &Fd) -> Result<()> {
    const WRITE: usize = 1;
    // SAFETY: numbers only.
    unsafe { call(nr::SHUTDOWN, [int(fd.raw()), WRITE, 0])? };
    // One read: a peer that goes on talking must not keep the enclave up.
    super::read(fd, &mut [0]).map(|_| ())
}

/// `struct ifreq`: a name of 16 bytes and, here, a u16 of flags.
#[repr(C)]
struct Interface {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Interface>() == 40);

impl Interface {
    fn loopback() -> Self {
        let mut name = [0; 16];
        name[..2].copy_from_slice(b"lo");
        Self { name, flags: 0, rest: [0; 22] }
    }
}

const UP: u16 = 1;

/// Sets the loopback interface up. The kernel gives it 127.0.0.1/8 and ::1/128 then.
///
/// # Errors
/// The kernel's.
pub fn loopback_up() -> Result<()> {
    const SET_FLAGS: usize = 0x8914;
    let (socket, mut interface) = loopback()?;
    interface.flags |= UP;
    ioctl(&socket, SET_FLAGS, &raw mut interface as usize)
}

/// Whether the loopback interface is up.
///
/// # Errors
/// The kernel's.
pub fn loopback_is_up() -> Result<bool> {
    Ok(loopback()?.1.flags & UP != 0)
}

/// A socket to ask by (a local one: every kernel that runs containers has those) and the interface's flags.
fn loopback() -> Result<(Fd, Interface)> {
    const DATAGRAM: usize = 2;
    const GET_FLAGS: usize = 0x8913;
    // SAFETY: numbers only.
    let socket = unsafe { call(nr::SOCKET, [AF_UNIX, DATAGRAM | CLOEXEC, 0]) }.map(Fd::new)?;
    let mut interface = Interface::loopback();
    ioctl(&socket, GET_FLAGS, &raw mut interface as usize)?;
    Ok((socket, interface))
}
