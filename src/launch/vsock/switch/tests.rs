//! The switch between guests that obey, guests that do not, and real sockets.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

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
        let config = Config { guest_cid: GUEST, heartbeat: true, prefix: Some(prefix), ..Config::default() };
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

/// The device goes while a slow reader has not taken everything; the reader still gets it.
#[test]
fn what_is_left_when_the_guest_ends_still_reaches_the_host() {
    let mut bench = Bench::new();
    let mut host = bench.connected(1 << 18);
    let mut sent = 0;
    while !matches!(bench.switch.slots.values().next(), Some(Slot::Open(c)) if c.held() > 0) {
        bench.send(Op::Rw, |_| {}, &[9; 50_000]);
        sent += 50_000;
    }
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        host.read_to_end(&mut all).unwrap();
        all.len()
    });
    drop(bench);
    assert_eq!(reader.join().unwrap(), sent);
}

/// A reader that never reads holds up the end by two seconds, not for ever.
#[test]
fn a_host_that_never_reads_does_not_keep_the_device() {
    let mut bench = Bench::new();
    let _deaf = bench.connected(1 << 18);
    while !matches!(bench.switch.slots.values().next(), Some(Slot::Open(c)) if c.held() > 0) {
        bench.send(Op::Rw, |_| {}, &[9; 50_000]);
    }
    let begin = Instant::now();
    drop(bench);
    assert!(begin.elapsed() < FAREWELL * 10, "{:?}", begin.elapsed());
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
fn a_report_is_answered_with_the_end() {
    let mut bench = Bench::new();
    let to = |header: &mut Header| (header.dst_port, header.flags) = (9001, SHUT_SEND);
    bench.send(Op::Request, to, &[]);
    bench.send(Op::Rw, to, b"EIF\x01\x00\x07\x00\x00");
    bench.send(Op::Shutdown, to, &[]);
    assert_eq!(bench.next_op(), Some((Op::Response, 0)));
    assert_eq!(bench.next_op(), Some((Op::Shutdown, SHUT_BOTH)));
    assert!(bench.switch.record.report().is_some() && bench.switch.slots.is_empty());
}

#[test]
fn the_table_is_bounded_and_has_room_again() {
    let mut bench = Bench::new();
    let beat = |bench: &mut Bench, port, op, flags| {
        bench.send(op, |header| (header.src_port, header.dst_port, header.flags) = (port, 9000, flags), &[]);
        bench.next_op()
    };
    for port in 0..bench.switch.most as u32 {
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
