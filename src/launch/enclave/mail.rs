//! Messages between launchers: one byte of kind, a port, and descriptors beside them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind as bind_to, connect, listen, recvmsg,
    sendmsg, socket_with, sockopt,
};

/// Asks for listeners; the answer is one byte: bit 0 the heartbeat's, bit 1 the status port's.
const LISTENERS: u8 = b'L';
/// Brings a connection; the port follows, little endian.
const CONNECTION: u8 = b'C';
/// Descriptors of one message.
const MAX_FDS: usize = 2;
/// A launcher that takes longer to answer is stuck.
const PATIENCE: Duration = Duration::from_secs(1);
const BACKLOG: i32 = 64;

/// What another launcher wants.
pub enum Message {
    /// To have the listeners; the answer goes there.
    Listeners(OwnedFd),
    /// A connection of this launcher's enclave.
    Connection {
        /// The connection.
        fd: OwnedFd,
        /// The port of the parent at which it came.
        port: u32,
    },
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// A launcher's socket.
///
/// # Errors
/// The kernel's; a path that is too long is ENAMETOOLONG.
pub fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    bind_to(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The listeners of the launcher at `path`: heartbeat's, status port's.
///
/// # Errors
/// ECONNREFUSED when it is dead, ETIMEDOUT when it is stuck, others of the kernel.
pub fn ask(path: &Path) -> Result<(Option<OwnedFd>, Option<OwnedFd>), Errno> {
    let socket = post(path, &[LISTENERS], &[])?;
    if !readable(&socket) {
        return Err(Errno::TIMEDOUT);
    }
    let (bytes, fds) = take(&socket)?;
    let mut fds = fds.into_iter();
    let which = bytes.first().copied().unwrap_or_default();
    let mut next = |bit: u8| if which & bit != 0 { fds.next() } else { None };
    Ok((next(1), next(2)))
}

/// Answers [`ask`].
pub fn answer(asker: &OwnedFd, heartbeat: Option<&OwnedFd>, status: Option<&OwnedFd>) {
    let which = u8::from(heartbeat.is_some()) | u8::from(status.is_some()) << 1;
    let fds: Vec<_> = heartbeat.into_iter().chain(status).map(OwnedFd::as_fd).collect();
    // An asker that has gone needs no answer.
    let _gone = give(asker, &[which], &fds);
}

/// Hands a connection to the launcher at `path`.
///
/// # Errors
/// Nobody is there, or it is stuck.
pub fn send_connection(path: &Path, connection: BorrowedFd<'_>, port: u32) -> Result<(), Errno> {
    let [a, b, c, d] = port.to_le_bytes();
    post(path, &[CONNECTION, a, b, c, d], &[connection]).map(drop)
}

/// Accepts one message of a launcher of this user or of root; `None` for anything else.
pub fn receive(doorbell: &OwnedFd) -> Option<Message> {
    let socket = accept_with(doorbell, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let peer = sockopt::socket_peercred(&socket).ok()?.uid;
    if !peer.is_root() && peer != rustix::process::geteuid() {
        return None;
    }
    // The sender connects and sends at once; one that does not keeps nobody waiting for long.
    if !readable(&socket) {
        return None;
    }
    let (bytes, mut fds) = take(&socket).ok()?;
    match (bytes.as_slice(), fds.pop()) {
        ([LISTENERS], None) => Some(Message::Listeners(socket)),
        (&[CONNECTION, a, b, c, d], Some(fd)) => {
            Some(Message::Connection { fd, port: u32::from_le_bytes([a, b, c, d]) })
        }
        _ => None,
    }
}

fn post(path: &Path, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    give(&socket, bytes, fds)?;
    Ok(socket)
}

fn give(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

fn take(socket: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 16];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    bytes.truncate(received.bytes);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            fds.extend(sent);
        }
    }
    Ok((bytes, fds))
}

fn readable(socket: &OwnedFd) -> bool {
    let patience = Timespec::try_from(PATIENCE).ok();
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    matches!(poll(&mut fds, patience.as_ref()), Ok(1..))
}
