//! Where a packet goes: the table of connections, the unix sockets of the host, and the turns in which they speak.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, getrlimit};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{After, Connection, End, Ports};
use super::packet::{Header, Op, STREAM};
use super::service::{Record, Service};

/// CID of the parent, which is what an enclave talks to.
pub const PARENT_CID: u64 = 3;
/// Sockets that one guest can hold open on the host; more are refused. Fewer where this process may have few descriptors,
/// half of which are left for all else.
pub const MAX_CONNECTIONS: usize = 1024;
/// Refusals that wait for a receive buffer of the guest; a guest that provokes more gets no answer to the rest.
const MAX_RESETS: usize = 1024;
/// First port of the parent for connections into the guest (firecracker's choice).
const FIRST_HOST_PORT: u32 = 1 << 30;
/// `CONNECT 4294967295 4294967295`
const MAX_GREETING: usize = 30;
const LISTENER: u64 = 0;
/// Time that the host's readers have, all together, to take what is left when the guest has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a guest can reach, and where it can be reached.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// CID of the guest.
    pub guest_cid: u64,
    /// Answer the heartbeat at port 9000.
    pub heartbeat: bool,
    /// A connection of the guest to port P of the parent goes to the unix socket `<prefix>_P`; one to the unix socket
    /// `<prefix>` that begins with `CONNECT P\n` goes to port P of the guest.
    pub prefix: Option<PathBuf>,
    /// Who the guest is.
    pub role: Role,
}

/// Who a guest is, and so whom it can talk to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// An enclave: it knows nobody but its parent.
    #[default]
    Enclave,
    /// The parent itself, as a test of the driver has it: port P of CID C is the unix socket `<prefix>_<C>_<P>`, and a
    /// connection from CID C begins with `CONNECT P C\n`. Nothing is answered here.
    Parent,
}

#[derive(Debug)]
enum Slot {
    /// A client of `<prefix>` that has not yet said which port.
    Greeting(UnixStream, Vec<u8>),
    /// A connection that the guest knows, or is about to.
    Open(Connection),
    /// The guest has left; the host still gets what it sent.
    Draining(UnixStream, VecDeque<u8>),
}

/// The parent's side of all connections of one guest.
#[derive(Debug)]
pub struct Switch {
    config: Config,
    record: Arc<Record>,
    epoll: Epoll,
    listener: Option<UnixListener>,
    /// Clients may be waiting in the listener's queue for a free slot.
    backlog: bool,
    slots: BTreeMap<u64, Slot>,
    /// How many slots there may be.
    most: usize,
    tokens: BTreeMap<Ports, u64>,
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    next_token: u64,
    next_port: u32,
}

impl Switch {
    /// Binds `<prefix>`, if there is one.
    pub fn new(config: Config, record: Arc<Record>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let listener = config.prefix.as_deref().map(bind).transpose()?;
        if let Some(listener) = &listener {
            add(&epoll, listener.as_raw_fd(), LISTENER)?;
        }
        let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
        Ok(Self {
            most: descriptors.map_or(MAX_CONNECTIONS, |most| MAX_CONNECTIONS.min(most / 2)),
            config,
            record,
            epoll,
            listener,
            backlog: false,
            slots: BTreeMap::new(),
            tokens: BTreeMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_token: LISTENER.wrapping_add(1),
            next_port: FIRST_HOST_PORT,
        })
    }

    /// Readable when [`Self::host_stirred`] has work.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Whether [`Self::next_for_guest`] may have a packet.
    pub fn pending(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// A packet of the guest. `payload` is what the packet holds, never more.
    pub fn guest_sent(&mut self, header: &Header, payload: &[u8]) {
        if header.src_cid != self.config.guest_cid {
            return;
        }
        let ports = Ports { peer: header.dst_cid, host: header.dst_port, guest: header.src_port };
        let known = header.dst_cid == PARENT_CID || self.config.role == Role::Parent;
        let ours = known && header.kind == STREAM;
        match self.tokens.get(&ports) {
            Some(&token) if ours => self.packet(token, header, payload),
            None if ours && header.op == Op::Request as u16 => self.connect(header),
            _ => self.refuse(header),
        }
    }

    fn packet(&mut self, token: u64, header: &Header, payload: &[u8]) {
        let Some(Slot::Open(connection)) = self.slots.get_mut(&token) else { return };
        match connection.receive(header, payload, &self.record) {
            After::Stay => self.enqueue(token),
            After::Close => self.leave(token),
            After::Reset => {
                self.leave(token);
                self.refuse(header);
            }
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.op != Op::Rst as u16 && self.resets.len() < MAX_RESETS {
            self.resets.push_back(header.reset());
        }
    }

    fn connect(&mut self, header: &Header) {
        match self.end_for(header.dst_cid, header.dst_port) {
            Some(end) => {
                if self.insert_open(Connection::accepted(header, end)).is_none() {
                    self.refuse(header);
                }
            }
            None => self.refuse(header),
        }
    }

    /// What listens at that port now.
    fn end_for(&self, cid: u64, port: u32) -> Option<End> {
        let suffix = match self.config.role {
            Role::Enclave => match Service::at(port, self.config.heartbeat) {
                Some(service) => return Some(End::Service(service)),
                None => format!("_{port}"),
            },
            Role::Parent => format!("_{cid}_{port}"),
        };
        let mut path = self.config.prefix.clone()?.into_os_string();
        path.push(suffix);
        dial(Path::new(&path)).ok().map(End::Stream)
    }

    /// Gives a connection its token. `None` when the table is full.
    fn insert_open(&mut self, connection: Connection) -> Option<u64> {
        let ports = connection.ports;
        let token = self.insert(Slot::Open(connection))?;
        self.tokens.insert(ports, token);
        self.enqueue(token);
        Some(token)
    }

    fn insert(&mut self, slot: Slot) -> Option<u64> {
        if self.slots.len() >= self.most {
            return None;
        }
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        if let Some(fd) = slot.fd() {
            add(&self.epoll, fd, token).ok()?;
        }
        self.slots.insert(token, slot);
        Some(token)
    }

    /// Gives a connection its turn if it has something to say.
    fn enqueue(&mut self, token: u64) {
        if let Some(Slot::Open(connection)) = self.slots.get_mut(&token)
            && !connection.queued
            && connection.wants()
        {
            connection.queued = true;
            self.ready.push_back(token);
        }
    }

    /// Ends a connection for the guest; what it sent still reaches the host.
    fn leave(&mut self, token: u64) {
        let Some(Slot::Open(connection)) = self.slots.remove(&token) else { return };
        self.tokens.remove(&connection.ports);
        if let Some((mut stream, mut rest)) = connection.into_rest()
            && !drain(&mut stream, &mut rest)
        {
            self.slots.insert(token, Slot::Draining(stream, rest));
        }
        self.accept();
    }

    /// Looks after the sockets that epoll names. Does not block.
    pub fn host_stirred(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => self.backlog = true,
                token => self.socket(token, event.event_set()),
            }
        }
        self.accept();
    }

    fn socket(&mut self, token: u64, events: EventSet) {
        self.greet(token);
        match self.slots.get_mut(&token) {
            Some(Slot::Open(connection)) => {
                connection.notice(events);
                self.enqueue(token);
            }
            Some(Slot::Draining(stream, rest)) => {
                if drain(stream, rest) {
                    self.slots.remove(&token);
                }
            }
            Some(Slot::Greeting(..)) | None => {}
        }
    }

    /// Takes clients of `<prefix>` while there is room for them; the others wait in the kernel's queue.
    fn accept(&mut self) {
        while self.backlog && self.slots.len() < self.most {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.insert(Slot::Greeting(stream, Vec::new()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.backlog = false,
                // No descriptors left: again when a connection has ended.
                Err(_) => return,
            }
        }
    }

    /// Makes a connection of a client that has said its port. Its events are then the connection's: the edge that
    /// brought the greeting may have brought data or the end as well.
    fn greet(&mut self, token: u64) {
        let Some(Slot::Greeting(stream, line)) = self.slots.get_mut(&token) else { return };
        let Some(outcome) = read_greeting(stream, line) else { return };
        let Some(Slot::Greeting(stream, _)) = self.slots.remove(&token) else { return };
        let outcome = outcome.and_then(|line| parse_greeting(&line, self.config.role));
        if let Some((guest, peer)) = outcome {
            let ports = self.free_port(peer, guest);
            // The same token and registration: only the slot's meaning changes.
            let connection = Connection::requested(ports, stream);
            self.tokens.insert(connection.ports, token);
            self.slots.insert(token, Slot::Open(connection));
            self.enqueue(token);
        }
    }

    /// A port of the peer that no connection to that port of the guest uses.
    fn free_port(&mut self, peer: u64, guest: u32) -> Ports {
        loop {
            let ports = Ports { peer, host: self.next_port, guest };
            self.next_port = ports.host.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.tokens.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// The next packet for the guest, its payload at the front of `buffer`. `None` when nobody has anything to say.
    pub fn next_for_guest(&mut self, buffer: &mut [u8]) -> Option<Header> {
        if let Some(header) = self.resets.pop_front() {
            return Some(header);
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(Slot::Open(connection)) = self.slots.get_mut(&token) else { continue };
            connection.queued = false;
            let Some(out) = connection.next(buffer) else { continue };
            let mut header = Header {
                src_cid: connection.ports.peer,
                dst_cid: self.config.guest_cid,
                src_port: connection.ports.host,
                dst_port: connection.ports.guest,
                len: u32::try_from(out.payload).unwrap_or(0),
                kind: STREAM,
                op: out.op as u16,
                flags: out.flags,
                ..Header::default()
            };
            connection.stamp(&mut header);
            if out.last {
                self.leave(token);
            } else {
                self.enqueue(token);
            }
            return Some(header);
        }
        None
    }
}

impl Drop for Switch {
    /// What a guest sent before its end is the host's, as it would be in the parent's own sockets.
    fn drop(&mut self) {
        let deadline = Instant::now().checked_add(FAREWELL);
        for slot in std::mem::take(&mut self.slots).into_values() {
            if let (Some((stream, rest)), Some(deadline)) = (slot.into_rest(), deadline) {
                hand_over(stream, rest, deadline);
            }
        }
        if let (Some(_), Some(path)) = (&self.listener, &self.config.prefix) {
            // Somebody else may have removed it already.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Writes what is left, waiting for the reader at most until `deadline`.
fn hand_over(mut stream: UnixStream, mut rest: VecDeque<u8>, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    // A timeout of zero would be none at all.
    let patience = left.max(Duration::from_millis(1));
    if stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(patience))).is_ok() {
        // A reader that has gone, or does not read, has had its chance.
        let _unread = stream.write_all(rest.make_contiguous());
    }
}

impl Slot {
    /// The socket and what it has not yet taken.
    fn into_rest(self) -> Option<(UnixStream, VecDeque<u8>)> {
        match self {
            Self::Greeting(..) => None,
            Self::Open(connection) => connection.into_rest(),
            Self::Draining(stream, rest) => Some((stream, rest)),
        }
    }

    fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Greeting(stream, _) | Self::Draining(stream, _) => Some(stream.as_raw_fd()),
            Self::Open(connection) => connection.fd(),
        }
    }
}

/// Listens at `path`. A socket that nobody listens to any more was left by a launcher that was killed: it gives way.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn is_abandoned(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Edge-triggered: a socket that cannot be served now is named again only when something changes.
fn add(epoll: &Epoll, fd: RawFd, token: u64) -> io::Result<()> {
    let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
}

/// Connects without waiting: a listener whose queue is full refuses, as a vsock listener does.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

/// Reads a line byte by byte, so that nothing behind it is taken. `None`: not yet complete; `Some(None)`: that is no
/// greeting.
fn read_greeting(stream: &mut UnixStream, line: &mut Vec<u8>) -> Option<Option<Vec<u8>>> {
    let mut byte = [0_u8];
    loop {
        match stream.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Some(None),
            Ok(_) if byte == *b"\n" => return Some(Some(std::mem::take(line))),
            Ok(_) if line.len() >= MAX_GREETING => return Some(None),
            Ok(_) => line.extend(byte),
        }
    }
}

/// The guest's port of `CONNECT <port>`, or of `CONNECT <port> <cid>` in a parent, and who connects to it.
fn parse_greeting(line: &[u8], role: Role) -> Option<(u32, u64)> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    match role {
        Role::Enclave => Some((rest.parse().ok()?, PARENT_CID)),
        Role::Parent => {
            let (port, cid) = rest.split_once(' ')?;
            Some((port.parse().ok()?, cid.parse().ok()?))
        }
    }
}

/// Writes what the socket takes now. True when there is nothing more to do.
fn drain(stream: &mut UnixStream, rest: &mut VecDeque<u8>) -> bool {
    while !rest.is_empty() {
        match stream.write(rest.make_contiguous()) {
            Ok(0) => return true,
            Ok(written) => drop(rest.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests;
