//! One stream between a port of the guest and something on the host: credit, half-closes, and both buffers.
//!
//! Towards the guest nothing is buffered: bytes stay in the host's socket until the guest has both credit and a receive
//! buffer. Towards the host at most [`BUFFER`] bytes are held, and the guest is told so (`buf_alloc`); one that sends
//! more than its credit is reset. So a connection's memory is bounded whatever either side does.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::packet::{Header, MAX_PAYLOAD, Op, SHUT_BOTH, SHUT_RCV, SHUT_SEND};
use super::service::{Answer, Record, Service};

/// Bytes that one connection holds for the host: the credit that the guest gets.
pub const BUFFER: u32 = 128 * 1024;

/// What tells a connection from the others of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// CID that the host's side has for the guest.
    pub peer: u64,
    /// Port of the parent.
    pub host: u32,
    /// Port of the guest.
    pub guest: u32,
}

/// What stands at the host's side.
#[derive(Debug)]
pub enum End {
    /// A non-blocking socket.
    Stream(UnixStream),
    /// The launcher itself.
    Service(Service),
}

/// What becomes of the connection after a packet of the guest.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// It lives.
    Stay,
    /// It is over, and the guest knows.
    Close,
    /// It is over, and the guest has to be told.
    Reset,
}

/// A packet for the guest; its payload stands at the front of the buffer that was lent.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Operation.
    pub op: Op,
    /// Flags of the operation.
    pub flags: u32,
    /// Bytes of payload.
    pub payload: usize,
    /// The connection is over with this packet.
    pub last: bool,
}

impl Outgoing {
    fn control(op: Op) -> Self {
        Self { op, flags: 0, payload: 0, last: false }
    }
}

/// Who may send how much (virtio 1.2, 5.10.6.3). All counters run modulo 2^32.
#[derive(Debug, Default)]
struct Credit {
    /// Bytes of the guest that the host has taken.
    taken: u32,
    /// The value of `taken` that the guest was last told.
    told: u32,
    /// Bytes sent to the guest.
    sent: u32,
    /// Size of the guest's buffer, as it says.
    peer_alloc: u32,
    /// Bytes that the guest has taken, as it says.
    peer_taken: u32,
}

impl Credit {
    fn heard(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_taken = header.fwd_cnt;
    }

    /// Bytes that may be sent to the guest now. A guest that lies about its counters gets nothing.
    fn room(&self) -> usize {
        self.peer_alloc.saturating_sub(self.sent.wrapping_sub(self.peer_taken)) as usize
    }

    fn send(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(low(bytes));
    }

    fn take(&mut self, bytes: usize) {
        self.taken = self.taken.wrapping_add(low(bytes));
    }

    /// Half of the buffer became free since the guest heard of it.
    fn news(&self) -> bool {
        self.taken.wrapping_sub(self.told) >= BUFFER.wrapping_div(2)
    }
}

/// A length that is at most [`BUFFER`] or [`MAX_PAYLOAD`], as a counter's summand.
fn low(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Control packets that wait for a receive buffer of the guest; one of each is enough.
#[derive(Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    reset: bool,
    credit_update: bool,
    credit_request: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its key.
    pub ports: Ports,
    /// It stands in the switch's queue of those that may have something for the guest.
    pub queued: bool,
    end: End,
    established: bool,
    credit: Credit,
    pending: Pending,
    /// CREDIT_REQUEST was sent and no credit has come since: asking again would be a busy loop.
    asked: bool,
    to_host: VecDeque<u8>,
    to_guest: VecDeque<u8>,
    readable: bool,
    writable: bool,
    /// The host's side has ended what it sends.
    eof: bool,
    /// The host's side is closed for both directions.
    hangup: bool,
    /// The host's side takes no more.
    deaf: bool,
    guest_shut: u32,
    told_shut: u32,
}

impl Connection {
    /// The guest has connected; the answer is pending.
    pub fn accepted(header: &Header, end: End) -> Self {
        let ports = Ports { peer: header.dst_cid, host: header.dst_port, guest: header.src_port };
        let mut new = Self::new(ports, end);
        new.credit.heard(header);
        new.established = true;
        new.pending.response = true;
        new
    }

    /// The host wants to connect; the request is pending.
    pub fn requested(ports: Ports, stream: UnixStream) -> Self {
        let mut new = Self::new(ports, End::Stream(stream));
        new.pending.request = true;
        new
    }

    fn new(ports: Ports, end: End) -> Self {
        Self {
            ports,
            queued: false,
            end,
            established: false,
            credit: Credit::default(),
            pending: Pending::default(),
            asked: false,
            to_host: VecDeque::new(),
            to_guest: VecDeque::new(),
            readable: false,
            writable: true,
            eof: false,
            hangup: false,
            deaf: false,
            guest_shut: 0,
            told_shut: 0,
        }
    }

    /// A packet of the guest for this connection.
    pub fn receive(&mut self, header: &Header, payload: &[u8], record: &Record) -> After {
        self.credit.heard(header);
        if self.credit.room() > 0 {
            self.asked = false;
        }
        match Op::from_raw(header.op) {
            Some(Op::Rst) => After::Close,
            Some(Op::Response) if !self.established => self.open(),
            Some(_) if !self.established => After::Reset,
            Some(Op::Rw) => self.take(payload, record),
            Some(Op::Shutdown) => self.shut(header.flags),
            Some(Op::CreditUpdate) => After::Stay,
            Some(Op::CreditRequest) => {
                self.pending.credit_update = true;
                After::Stay
            }
            Some(Op::Request | Op::Response) | None => After::Reset,
        }
    }

    /// The guest has accepted: tells the client of the unix socket, in firecracker's words.
    fn open(&mut self) -> After {
        self.established = true;
        let line = format!("OK {}\n", self.ports.host);
        let End::Stream(stream) = &mut self.end else { return After::Reset };
        match stream.write(line.as_bytes()) {
            Ok(written) if written == line.len() => After::Stay,
            _ => After::Reset,
        }
    }

    fn take(&mut self, payload: &[u8], record: &Record) -> After {
        let held = self.to_host.len().saturating_add(payload.len());
        if self.guest_shut & SHUT_SEND != 0 || held > BUFFER as usize {
            return After::Reset;
        }
        match &mut self.end {
            End::Service(service) => {
                self.credit.take(payload.len());
                match service.receive(payload, record) {
                    Answer::Silence => {}
                    Answer::Byte(byte) => self.to_guest.push_back(byte),
                    Answer::Reset => return After::Reset,
                }
            }
            End::Stream(_) => self.forward(payload),
        }
        self.pending.credit_update |= self.credit.news();
        After::Stay
    }

    /// Writes through while nothing is queued, and queues the rest.
    fn forward(&mut self, payload: &[u8]) {
        let direct = if self.to_host.is_empty() { self.write(payload) } else { 0 };
        let rest = payload.get(direct..).unwrap_or_default();
        if self.deaf {
            self.credit.take(rest.len());
        } else {
            self.to_host.extend(rest);
        }
    }

    /// Writes what the host's socket takes now; the guest's credit grows by it.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let End::Stream(stream) = &mut self.end else { return 0 };
        let mut done = 0_usize;
        while self.writable && !self.deaf && done < bytes.len() {
            match stream.write(bytes.get(done..).unwrap_or_default()) {
                Ok(0) => self.deaf = true,
                Ok(written) => done = done.saturating_add(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.deaf = true,
            }
        }
        self.credit.take(done);
        done
    }

    /// Moves queued bytes to the host, and passes the guest's half-close on behind the last of them.
    fn flush(&mut self) {
        let mut queue = std::mem::take(&mut self.to_host);
        let written = self.write(queue.make_contiguous());
        queue.drain(..written);
        if self.deaf {
            self.credit.take(queue.len());
            queue.clear();
        }
        self.to_host = queue;
        self.pending.credit_update |= self.credit.news();
        self.pass_shutdown();
    }

    fn pass_shutdown(&mut self) {
        if let End::Stream(stream) = &self.end
            && self.guest_shut & SHUT_SEND != 0
            && self.to_host.is_empty()
        {
            // Fails when the other side has gone, and then there is nobody to tell.
            let _gone = stream.shutdown(Shutdown::Write);
        }
    }

    fn shut(&mut self, flags: u32) -> After {
        self.guest_shut |= flags & SHUT_BOTH;
        if self.guest_shut == SHUT_BOTH {
            return After::Reset;
        }
        match &self.end {
            End::Stream(stream) if self.guest_shut & SHUT_RCV != 0 => {
                let _gone = stream.shutdown(Shutdown::Read);
            }
            End::Stream(_) => {}
            // It has heard all: the guest, who may be about to reboot, waits for this end.
            End::Service(_) => (self.eof, self.hangup) = (true, true),
        }
        self.pass_shutdown();
        After::Stay
    }

    /// What epoll says of the host's socket.
    pub fn notice(&mut self, events: EventSet) {
        self.hangup |= events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.pending.reset |= self.hangup && !self.established;
        self.readable |= events.intersects(EventSet::IN | EventSet::READ_HANG_UP) || self.hangup;
        if events.contains(EventSet::OUT) || self.hangup {
            self.writable = true;
            self.flush();
        }
    }

    /// Whether there may be a packet for the guest.
    pub fn wants(&self) -> bool {
        let p = &self.pending;
        let data = self.established && self.has_input() && (self.credit.room() > 0 || !self.asked);
        p.request || p.response || p.reset || p.credit_update || p.credit_request || data || self.new_shutdown() != 0
    }

    fn has_input(&self) -> bool {
        match &self.end {
            End::Stream(_) => self.readable && !self.eof && self.guest_shut & SHUT_RCV == 0,
            End::Service(_) => !self.to_guest.is_empty(),
        }
    }

    /// SHUTDOWN flags that the guest has to hear: all that hold, or 0 if it knows them.
    fn new_shutdown(&self) -> u32 {
        let mut flags = 0;
        if self.eof {
            flags |= SHUT_SEND;
        }
        if self.deaf || (self.eof && self.hangup) {
            flags |= SHUT_RCV;
        }
        if self.established && flags != self.told_shut { flags } else { 0 }
    }

    /// The next packet for the guest; a payload is put at the front of `buffer` and is never longer than it.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<Outgoing> {
        if let Some(control) = self.next_control() {
            return Some(control);
        }
        if !self.established {
            return None;
        }
        if let Some(data) = self.next_data(buffer) {
            return Some(data);
        }
        let flags = self.new_shutdown();
        self.told_shut |= flags;
        let last = flags == SHUT_BOTH;
        (flags != 0).then_some(Outgoing { flags, last, ..Outgoing::control(Op::Shutdown) })
    }

    fn next_control(&mut self) -> Option<Outgoing> {
        let p = &mut self.pending;
        if p.reset {
            return Some(Outgoing { last: true, ..Outgoing::control(Op::Rst) });
        }
        let due = [
            (&mut p.request, Op::Request),
            (&mut p.response, Op::Response),
            (&mut p.credit_update, Op::CreditUpdate),
            (&mut p.credit_request, Op::CreditRequest),
        ];
        due.into_iter().find_map(|(flag, op)| std::mem::take(flag).then(|| Outgoing::control(op)))
    }

    fn next_data(&mut self, buffer: &mut [u8]) -> Option<Outgoing> {
        if !self.has_input() {
            return None;
        }
        let limit = self.credit.room().min(MAX_PAYLOAD).min(buffer.len());
        if limit == 0 {
            let ask = !std::mem::replace(&mut self.asked, true);
            return ask.then(|| Outgoing::control(Op::CreditRequest));
        }
        let payload = self.read(buffer.get_mut(..limit)?)?;
        self.credit.send(payload);
        Some(Outgoing { payload, ..Outgoing::control(Op::Rw) })
    }

    /// Takes bytes off the host's side. `None`: there are none now, or never again (`eof`).
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let End::Stream(stream) = &mut self.end else { return self.to_guest.read(buffer).ok() };
        loop {
            match stream.read(buffer) {
                Ok(0) => self.eof = true,
                Ok(read) => return Some(read),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => (self.eof, self.hangup) = (true, true),
            }
            return None;
        }
    }

    /// Completes the header of a packet of this connection: what the guest learns about its credit.
    pub fn stamp(&mut self, header: &mut Header) {
        header.buf_alloc = BUFFER;
        header.fwd_cnt = self.credit.taken;
        self.credit.told = self.credit.taken;
        self.pending.credit_update = false;
    }

    /// The host's socket, if there is one.
    pub fn fd(&self) -> Option<RawFd> {
        match &self.end {
            End::Stream(stream) => Some(stream.as_raw_fd()),
            End::Service(_) => None,
        }
    }

    /// Bytes held for the host.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.to_host.len()
    }

    /// The socket and what it has not yet taken, for a connection that the guest has left.
    pub fn into_rest(self) -> Option<(UnixStream, VecDeque<u8>)> {
        match self.end {
            End::Stream(stream) if !self.to_host.is_empty() && !self.deaf => Some((stream, self.to_host)),
            _ => None,
        }
    }
}
