//! The parent's end of an enclave's vsock, as the kernel gives it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{SockaddrStorage, VsockAddr, bind, connect, getpeername};
use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socket_with};

/// `VMADDR_CID_HYPERVISOR`: where the console of a debug enclave is.
pub const HYPERVISOR_CID: u32 = 0;
/// `VMADDR_CID_ANY`: every CID of this machine's.
const ANY_CID: u32 = u32::MAX;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Sockets between the parent and its enclaves; tests have others.
pub trait Parent: Send + Sync {
    /// A listener at this port that does not block.
    ///
    /// # Errors
    /// `AddrInUse` when another process has the port; others of the kernel.
    fn listen(&self, port: u32) -> io::Result<OwnedFd>;

    /// Who connected: the peer's CID.
    fn cid_of(&self, stream: &OwnedFd) -> Option<u32>;

    /// A connection to a port; it may block for some seconds.
    ///
    /// # Errors
    /// The kernel's.
    fn connect(&self, cid: u32, port: u32) -> io::Result<OwnedFd>;
}

/// The kernel's vsock.
#[derive(Debug, Clone, Copy)]
pub struct Vsock;

fn socket(family: AddressFamily, flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
}

impl Parent for Vsock {
    fn listen(&self, port: u32) -> io::Result<OwnedFd> {
        let listener = socket(AddressFamily::VSOCK, SocketFlags::NONBLOCK)?;
        bind(listener.as_raw_fd(), &VsockAddr::new(ANY_CID, port))?;
        listen(&listener, BACKLOG)?;
        Ok(listener)
    }

    fn cid_of(&self, stream: &OwnedFd) -> Option<u32> {
        let address: SockaddrStorage = getpeername(stream.as_raw_fd()).ok()?;
        address.as_vsock_addr().map(VsockAddr::cid)
    }

    fn connect(&self, cid: u32, port: u32) -> io::Result<OwnedFd> {
        let stream = socket(AddressFamily::VSOCK, SocketFlags::empty())?;
        connect(stream.as_raw_fd(), &VsockAddr::new(cid, port))?;
        Ok(stream)
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::socket::UnixAddr;

    use super::*;

    /// A parent made of unix sockets with abstract names: `<name>:<port>` listens, and a peer is called
    /// `<name>-<cid>-<number>`.
    pub struct Played {
        name: String,
        peers: AtomicU32,
    }

    impl Played {
        pub fn new() -> Self {
            static MADE: AtomicU32 = AtomicU32::new(0);
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            Self { name: format!("eif-test-{}-{number}", std::process::id()), peers: AtomicU32::new(0) }
        }

        fn address(&self, port: u32) -> UnixAddr {
            UnixAddr::new_abstract(format!("{}:{port}", self.name).as_bytes()).unwrap()
        }

        /// What an enclave does: connects to a port of its parent.
        pub fn enclave(&self, cid: u32, port: u32) -> io::Result<std::os::unix::net::UnixStream> {
            let stream = socket(AddressFamily::UNIX, SocketFlags::empty())?;
            let number = self.peers.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{cid}-{number}", self.name);
            bind(stream.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
            connect(stream.as_raw_fd(), &self.address(port))?;
            Ok(stream.into())
        }
    }

    impl Parent for Played {
        fn listen(&self, port: u32) -> io::Result<OwnedFd> {
            let listener = socket(AddressFamily::UNIX, SocketFlags::NONBLOCK)?;
            bind(listener.as_raw_fd(), &self.address(port))?;
            listen(&listener, BACKLOG)?;
            Ok(listener)
        }

        fn cid_of(&self, stream: &OwnedFd) -> Option<u32> {
            let address: SockaddrStorage = getpeername(stream.as_raw_fd()).ok()?;
            let name = String::from_utf8(address.as_unix_addr()?.as_abstract()?.to_vec()).ok()?;
            name.rsplit('-').nth(1)?.parse().ok()
        }

        fn connect(&self, _cid: u32, port: u32) -> io::Result<OwnedFd> {
            let stream = socket(AddressFamily::UNIX, SocketFlags::empty())?;
            connect(stream.as_raw_fd(), &self.address(port))?;
            Ok(stream)
        }
    }

    /// The kernel's own, as far as a machine without enclaves can show: a port has one listener.
    #[test]
    fn a_port_of_the_parent_is_one_listener() {
        // Above the ports that the kernel gives by itself, and this process's own.
        let port = 0x4000_0000 + std::process::id();
        let first = Vsock.listen(port).expect("AF_VSOCK: the kernel's module `vsock` is missing");
        assert_eq!(Vsock.listen(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Vsock.listen(port).unwrap();
    }

    #[test]
    fn a_played_enclave_has_its_cid() {
        let parent = Played::new();
        let listener = parent.listen(9000).unwrap();
        let _enclave = parent.enclave(17, 9000).unwrap();
        let accepted = rustix::net::accept(&listener).unwrap();
        assert_eq!(parent.cid_of(&accepted), Some(17));
    }
}
