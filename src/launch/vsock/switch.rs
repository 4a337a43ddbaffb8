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

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{After, Connection, End, Ports};
use super::packet::{Header, Op, STREAM};
use super::service::{Record, Service};

/// CID of the parent, which is what an enclave talks to.
pub const PARENT_CID: u64 = 3;
/// Sockets that one guest can hold open on the host; more are refused.
pub const MAX_CONNECTIONS: usize = 1024;
/// Refusals that wait for a receive buffer of the guest; a guest that provokes more gets no answer to the rest.
const MAX_RESETS: usize = 1024;
/// First port of the parent for connections into the guest (firecracker's choice).
const FIRST_HOST_PORT: u32 = 1 << 30;
/// `CONNECT 4294967295\n`
const MAX_GREETING: usize = 19;
const LISTENER: u64 = 0;

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
        Ok(Self {
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
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let ours = header.dst_cid == PARENT_CID && header.kind == STREAM;
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
        match self.end_for(header.dst_port) {
            Some(end) => {
                if self.insert_open(Connection::accepted(header, end)).is_none() {
                    self.refuse(header);
                }
            }
            None => self.refuse(header),
        }
    }

    /// What listens at that port of the parent now.
    fn end_for(&self, port: u32) -> Option<End> {
        if let Some(service) = Service::at(port, self.config.heartbeat) {
            return Some(End::Service(service));
        }
        let mut path = self.config.prefix.clone()?.into_os_string();
        path.push(format!("_{port}"));
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
        if self.slots.len() >= MAX_CONNECTIONS {
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
        while self.backlog && self.slots.len() < MAX_CONNECTIONS {
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
        if let Some(guest) = outcome {
            let host = self.free_port(guest);
            // The same token and registration: only the slot's meaning changes.
            let connection = Connection::requested(Ports { host, guest }, stream);
            self.tokens.insert(connection.ports, token);
            self.slots.insert(token, Slot::Open(connection));
            self.enqueue(token);
        }
    }

    /// A port of the parent that no connection to that port of the guest uses.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.tokens.contains_key(&Ports { host, guest }) {
                return host;
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
                src_cid: PARENT_CID,
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
    fn drop(&mut self) {
        if let (Some(_), Some(path)) = (&self.listener, &self.config.prefix) {
            // Somebody else may have removed it already.
            let _gone = std::fs::remove_file(path);
        }
    }
}

impl Slot {
    fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Greeting(stream, _) | Self::Draining(stream, _) => Some(stream.as_raw_fd()),
            Self::Open(connection) => connection.fd(),
        }
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
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

/// Reads `CONNECT <port>\n` byte by byte, so that nothing behind it is taken. `None`: not yet complete;
/// `Some(None)`: that is no greeting.
fn read_greeting(stream: &mut UnixStream, line: &mut Vec<u8>) -> Option<Option<u32>> {
    let mut byte = [0_u8];
    loop {
        match stream.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Some(None),
            Ok(_) if byte == *b"\n" => return Some(parse_greeting(line)),
            Ok(_) if line.len() >= MAX_GREETING => return Some(None),
            Ok(_) => line.extend(byte),
        }
    }
}

fn parse_greeting(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?.parse().ok()
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
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
mod tests {
    use super::super::connection::BUFFER;
    use super::super::packet::{SHUT_BOTH, SHUT_RCV, SHUT_SEND};
    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    const GUEST: u64 = 16;
    const PORT: u32 = 5000;

    /// A switch whose port 5000 is a listener of the test.
    struct Bench {
        switch: Switch,
        listener: UnixListener,
        folder: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let prefix = folder.path().join("v");
            let listener = UnixListener::bind(folder.path().join(format!("v_{PORT}"))).unwrap();
            let config = Config { guest_cid: GUEST, heartbeat: true, prefix: Some(prefix) };
            Self { switch: Switch::new(config, Arc::default()).unwrap(), listener, folder }
        }

        /// The next packet for the guest, if any, after looking at the sockets.
        fn next(&mut self) -> Option<(Header, Vec<u8>)> {
            let mut buffer = vec![0; 4096];
            // Accepting a client is one event, what it says the next.
            (0..2).for_each(|_| self.switch.host_stirred());
            let header = self.switch.next_for_guest(&mut buffer)?;
            buffer.truncate(header.len as usize);
            Some((header, buffer))
        }

        fn next_op(&mut self) -> Option<(Op, u32)> {
            self.next().map(|(header, _)| (Op::from_raw(header.op).unwrap(), header.flags))
        }

        fn send(&mut self, op: Op, change: impl FnOnce(&mut Header), payload: &[u8]) {
            let mut header = packet(op);
            header.len = payload.len() as u32;
            change(&mut header);
            self.switch.guest_sent(&header, payload);
        }

        /// A connection of the guest to the listener, with this much credit.
        fn connected(&mut self, credit: u32) -> UnixStream {
            self.send(Op::Request, |header| header.buf_alloc = credit, &[]);
            assert_eq!(self.next_op(), Some((Op::Response, 0)));
            self.listener.accept().unwrap().0
        }
    }

    fn packet(op: Op) -> Header {
        Header {
            src_cid: GUEST,
            dst_cid: PARENT_CID,
            src_port: 700,
            dst_port: PORT,
            kind: STREAM,
            op: op as u16,
            buf_alloc: 1 << 18,
            ..Header::default()
        }
    }

    #[test]
    fn the_guest_gets_no_more_than_its_credit() {
        let mut bench = Bench::new();
        let mut host = bench.connected(10);
        host.write_all(b"0123456789abcdefghijklmno").unwrap();
        assert_eq!(bench.next().unwrap().1, b"0123456789");
        assert_eq!(bench.next_op(), Some((Op::CreditRequest, 0)));
        assert_eq!(bench.next(), None, "asked once, not for ever");
        bench.send(Op::CreditUpdate, |header| header.buf_alloc = 10, &[]);
        assert_eq!(bench.next(), None, "no credit came with it");
        for (taken, wanted) in [(10, &b"abcdefghij"[..]), (20, b"klmno")] {
            bench.send(Op::CreditUpdate, |header| (header.buf_alloc, header.fwd_cnt) = (10, taken), &[]);
            assert_eq!(bench.next().unwrap().1, wanted);
            if taken == 10 {
                assert_eq!(bench.next_op(), Some((Op::CreditRequest, 0)));
            }
        }
        assert_eq!(bench.next(), None);
    }

    #[test]
    fn a_host_that_does_not_read_holds_the_guest_back_and_gets_everything_later() {
        let mut bench = Bench::new();
        let mut host = bench.connected(1 << 18);
        let mut sent = 0_u32;
        let mut taken = 0;
        // A guest that obeys: never more than the buffer beyond what was reported as taken.
        loop {
            bench.send(Op::CreditRequest, |_| {}, &[]);
            while let Some((header, _)) = bench.next() {
                assert_eq!(header.op, Op::CreditUpdate as u16);
                taken = header.fwd_cnt;
            }
            let room = BUFFER - (sent - taken);
            if room == 0 {
                break;
            }
            let payload: Vec<u8> = (0..room.min(60_000)).map(|index| ((sent + index) % 251) as u8).collect();
            bench.send(Op::Rw, |_| {}, &payload);
            sent += payload.len() as u32;
        }
        assert!(taken > 0 && sent == taken + BUFFER, "the socket's own buffer, and ours");
        host.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        while all.len() < sent as usize {
            // What there is now; then the switch refills the socket.
            drop(host.read_to_end(&mut all));
            while bench.next().is_some() {}
        }
        assert!(all.iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8));
    }

    #[test]
    fn a_guest_beyond_its_credit_is_reset() {
        let mut bench = Bench::new();
        let _deaf = bench.connected(1 << 18);
        let mut ops = Vec::new();
        for _ in 0..100 {
            bench.send(Op::Rw, |_| {}, &[7; 60_000]);
            ops.extend(std::iter::from_fn(|| bench.next_op()));
        }
        assert_eq!(ops.iter().position(|(op, _)| *op == Op::Rst).map(|_| ()), Some(()));
        assert!(bench.switch.tokens.is_empty());
    }

    #[test]
    fn a_guest_that_closes_gets_its_reset_and_the_host_its_bytes() {
        let mut bench = Bench::new();
        let mut host = bench.connected(1 << 18);
        bench.send(Op::Rw, |_| {}, b"last words");
        bench.send(Op::Shutdown, |header| header.flags = SHUT_BOTH, &[]);
        assert_eq!(bench.next_op(), Some((Op::Rst, 0)));
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), bench.switch.slots.len()), ("last words", 0));
    }

    /// More than the socket's buffer holds is written although the guest has left.
    #[test]
    fn what_a_guest_left_behind_still_reaches_the_host() {
        let mut bench = Bench::new();
        let mut host = bench.connected(1 << 18);
        let mut sent = 0;
        while !matches!(bench.switch.slots.values().next(), Some(Slot::Open(c)) if c.held() > 0) {
            bench.send(Op::Rw, |_| {}, &[9; 50_000]);
            sent += 50_000;
        }
        bench.send(Op::Rst, |_| {}, &[]);
        assert!(bench.switch.tokens.is_empty() && bench.switch.slots.len() == 1);
        host.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        while host.read_to_end(&mut all).is_err() {
            bench.switch.host_stirred();
        }
        assert_eq!((all.len(), bench.switch.slots.len()), (sent, 0));
    }

    #[test]
    fn half_closes_pass_in_both_directions() {
        let mut bench = Bench::new();
        let mut host = bench.connected(1 << 18);
        bench.send(Op::Shutdown, |header| header.flags = SHUT_SEND, &[]);
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
        host.write_all(b"yes?").unwrap();
        assert_eq!(bench.next().unwrap().1, b"yes?");
        bench.send(Op::Rw, |_| {}, b"after the end");
        assert_eq!(bench.next_op(), Some((Op::Rst, 0)), "it said that it sends no more");

        let host = bench.connected(1 << 18);
        host.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(bench.next_op(), Some((Op::Shutdown, SHUT_SEND)));
        bench.send(Op::Rw, |_| {}, b"still here");
        let mut text = [0; 10];
        (&host).read_exact(&mut text).unwrap();
        drop(host);
        assert_eq!(bench.next_op(), Some((Op::Shutdown, SHUT_BOTH)));
        assert_eq!((bench.next(), bench.switch.slots.len()), (None, 0));
    }

    #[test]
    fn a_host_that_closes_first_lets_the_guest_read_to_the_end() {
        let mut bench = Bench::new();
        let mut host = bench.connected(1 << 18);
        host.write_all(b"bye").unwrap();
        drop(host);
        assert_eq!(bench.next().unwrap().1, b"bye");
        assert_eq!(bench.next_op(), Some((Op::Shutdown, SHUT_BOTH)));
        bench.send(Op::Rw, |_| {}, b"too late");
        assert_eq!(bench.next_op(), Some((Op::Rst, 0)));
    }

    #[test]
    fn a_guest_that_reads_no_more_stops_the_host() {
        let mut bench = Bench::new();
        let mut host = bench.connected(1 << 18);
        bench.send(Op::Shutdown, |header| header.flags = SHUT_RCV, &[]);
        assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        bench.send(Op::Rw, |_| {}, b"but I speak");
        let mut text = [0; 11];
        host.read_exact(&mut text).unwrap();
    }

    #[test]
    fn strays_are_reset_but_never_a_reset() {
        let mut bench = Bench::new();
        for op in [Op::Response, Op::Shutdown, Op::Rw, Op::CreditUpdate, Op::CreditRequest] {
            bench.send(op, |_| {}, &[]);
            let (header, _) = bench.next().unwrap();
            assert_eq!((header.op, header.src_port, header.dst_port), (Op::Rst as u16, PORT, 700));
        }
        bench.send(Op::Rst, |_| {}, &[]);
        bench.send(Op::Request, |header| header.src_cid = 99, &[]);
        assert_eq!(bench.next(), None);
        bench.send(Op::Request, |header| header.dst_port = 1, &[]);
        bench.send(Op::Request, |header| header.dst_cid = 2, &[]);
        bench.send(Op::Request, |header| header.kind = 2, &[]);
        let kinds: Vec<_> =
            std::iter::from_fn(|| bench.next()).map(|(header, _)| (header.op, header.src_cid, header.kind)).collect();
        assert_eq!(kinds, [(3, 3, 1), (3, 2, 1), (3, 3, 2)]);
    }

    #[test]
    fn the_table_is_bounded_and_has_room_again() {
        let mut bench = Bench::new();
        let beat = |bench: &mut Bench, port, op, flags| {
            bench.send(op, |header| (header.src_port, header.dst_port, header.flags) = (port, 9000, flags), &[]);
            bench.next_op()
        };
        for port in 0..MAX_CONNECTIONS as u32 {
            assert_eq!(beat(&mut bench, port, Op::Request, 0), Some((Op::Response, 0)));
        }
        assert_eq!(beat(&mut bench, 9_999, Op::Request, 0), Some((Op::Rst, 0)));
        assert_eq!(beat(&mut bench, 5, Op::Shutdown, SHUT_BOTH), Some((Op::Rst, 0)));
        assert_eq!(beat(&mut bench, 9_999, Op::Request, 0), Some((Op::Response, 0)));
    }

    #[test]
    fn resets_are_bounded() {
        let mut bench = Bench::new();
        (0..5000).for_each(|_| bench.send(Op::Rw, |_| {}, b"?"));
        assert_eq!(std::iter::from_fn(|| bench.next()).count(), MAX_RESETS);
    }

    #[test]
    fn the_host_connects_with_a_greeting() {
        let mut bench = Bench::new();
        let mut client = UnixStream::connect(bench.folder.path().join("v")).unwrap();
        client.write_all(b"CONNECT 42\nhello").unwrap();
        let (request, _) = bench.next().unwrap();
        assert_eq!((request.op, request.dst_port), (Op::Request as u16, 42));
        assert_eq!(bench.next(), None, "nothing before the guest has answered");
        let answer = |header: &mut Header| (header.src_port, header.dst_port) = (42, request.src_port);
        bench.send(Op::Response, answer, &[]);
        assert_eq!(bench.next().unwrap().1, b"hello");
        let mut ok = vec![0; format!("OK {}\n", request.src_port).len()];
        client.read_exact(&mut ok).unwrap();
        assert_eq!(ok, format!("OK {}\n", request.src_port).into_bytes());
    }

    #[test]
    fn a_client_that_leaves_before_the_answer_resets_the_guest() {
        let mut bench = Bench::new();
        let mut client = UnixStream::connect(bench.folder.path().join("v")).unwrap();
        client.write_all(b"CONNECT 42\n").unwrap();
        assert_eq!(bench.next_op(), Some((Op::Request, 0)));
        drop(client);
        assert_eq!(bench.next_op(), Some((Op::Rst, 0)));
        assert!(bench.switch.slots.is_empty());
    }

    proptest! {
        /// A guest that says anything in any order: no panic, bounded memory, and every question has an end.
        #[test]
        fn prop_no_guest_breaks_the_switch(
            packets in proptest::collection::vec(
                (0_u16..9, 0_u32..4, prop::sample::select(vec![PORT, 9000, 9001, 77, 1 << 30]),
                 any::<(u32, u32, u32)>(), 0_usize..65_537),
                1..60,
            ),
        ) {
            let mut bench = Bench::new();
            let mut clients = Vec::new();
            for (op, src_port, dst_port, (flags, buf_alloc, fwd_cnt), len) in packets {
                let header = Header { src_port, dst_port, flags: flags & 7, buf_alloc, fwd_cnt, op,
                    len: len as u32, ..packet(Op::Rw) };
                bench.switch.guest_sent(&header, &vec![0xB7; len]);
                bench.listener.set_nonblocking(true).unwrap();
                clients.extend(bench.listener.accept().map(|(mut client, _)| { drop(client.write(&[1; 500])); client }));
                clients.truncate(3);
                prop_assert!(std::iter::from_fn(|| bench.next()).take(10_000).count() < 10_000);
                for slot in bench.switch.slots.values() {
                    if let Slot::Open(connection) = slot {
                        prop_assert!(connection.held() <= BUFFER as usize);
                    }
                }
                prop_assert!(bench.switch.tokens.len() <= bench.switch.slots.len());
            }
        }
    }
}
