//! The virtqueues: takes packets out of the guest's memory and puts packets into it.
//!
//! All access goes through `Reader` and `Writer` of virtio-queue, which check every descriptor against the guest's
//! memory; a chain that they refuse is given back unused. A header is copied once and never read again.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringState, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::atomic::GuestMemoryLoadGuard;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::packet::{HEADER_LEN, Header, MAX_PAYLOAD};
use super::switch::Switch;

/// Receive (to the guest), transmit (from the guest), and the event queue, which only migration uses.
const QUEUES: usize = 3;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// What QEMU's virtio-mmio offers to a driver.
const QUEUE_SIZE: usize = 1024;
/// Packets of one queue that are handled before the other gets its turn.
const TURN: usize = 256;
/// Number of the event "a socket of the host has news"; the crate keeps 0 to `QUEUES` for itself.
pub const HOST_EVENT: u64 = 4;
/// Number of the event "there is work left from the last turn".
pub const AGAIN_EVENT: u64 = 5;
/// Feature bit by which vhost-user negotiates its own extensions (VHOST_USER_F_PROTOCOL_FEATURES).
const PROTOCOL_FEATURES: u64 = 1 << 30;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Loaded = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// The device, as the vhost-user crate wants it.
pub struct Device {
    switch: Switch,
    guest_cid: u64,
    memory: Option<Memory>,
    /// The ring of the guest's packets, for [`VhostUserBackendMut::stop_vring`], which does not get it.
    transmit: Option<VringRwLock>,
    buffer: Vec<u8>,
    again: (EventConsumer, EventNotifier),
}

impl Device {
    /// A device in front of `switch`.
    pub fn new(switch: Switch, guest_cid: u64) -> io::Result<Self> {
        let again = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?;
        Ok(Self { switch, guest_cid, memory: None, transmit: None, buffer: vec![0; MAX_PAYLOAD], again })
    }

    /// What the event loop has to watch besides the queues: descriptor and event number.
    pub fn watched(&self) -> [(RawFd, u64); 2] {
        [(self.switch.fd(), HOST_EVENT), (self.again.0.as_raw_fd(), AGAIN_EVENT)]
    }

    /// Gives both queues a turn; what is left then comes back as [`AGAIN_EVENT`].
    fn work(&mut self, vrings: &[VringRwLock]) -> io::Result<()> {
        let Some(memory) = self.memory.as_ref().map(GuestAddressSpace::memory) else { return Ok(()) };
        let (Some(receive), Some(transmit)) = (vrings.get(RECEIVE), vrings.get(TRANSMIT)) else { return Ok(()) };
        let left = self.empty_transmit(transmit, &memory)? | self.fill_receive(receive, &memory)?;
        if left { self.again.1.notify() } else { Ok(()) }
    }

    /// Packets of the guest, at most one turn. True when more may be waiting.
    fn empty_transmit(&mut self, vring: &VringRwLock, memory: &Loaded) -> io::Result<bool> {
        let mut vring = vring.get_mut();
        if !usable(&vring) {
            return Ok(false);
        }
        let mut turn = Turn::default();
        loop {
            ignore(vring.disable_notification());
            while turn.goes_on()
                && let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone())
            {
                turn.handled();
                let head = chain.head_index();
                if let Some((header, payload)) = read_packet(memory, chain, &mut self.buffer) {
                    self.switch.guest_sent(&header, payload);
                }
                ignore(vring.add_used(head, 0));
            }
            if !vring.enable_notification().unwrap_or(false) || turn.is_over() {
                break;
            }
        }
        turn.finish(&mut vring)
    }

    /// Packets for the guest, at most one turn. True when there are more, and buffers for them.
    fn fill_receive(&mut self, vring: &VringRwLock, memory: &Loaded) -> io::Result<bool> {
        let mut vring = vring.get_mut();
        if !usable(&vring) {
            return Ok(false);
        }
        let mut turn = Turn::default();
        loop {
            ignore(vring.disable_notification());
            while turn.goes_on() && self.switch.pending() {
                let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) else { break };
                let head = chain.head_index();
                match self.fill(memory, chain) {
                    Filled::With(len) => ignore(vring.add_used(head, len)),
                    Filled::Unfit => ignore(vring.add_used(head, 0)),
                    Filled::NotNeeded => {
                        vring.get_queue_mut().go_to_previous_position();
                        break;
                    }
                }
                turn.handled();
            }
            let more = vring.enable_notification().unwrap_or(false);
            if !more || !self.switch.pending() || turn.is_over() {
                break;
            }
        }
        let again = turn.finish(&mut vring)?;
        Ok(again && self.switch.pending())
    }

    /// Puts the next packet into a receive buffer of the guest.
    fn fill(&mut self, memory: &Loaded, chain: DescriptorChain<Loaded>) -> Filled {
        let Ok(mut writer) = Writer::new(&**memory, chain) else { return Filled::Unfit };
        let Some(room) = writer.available_bytes().checked_sub(HEADER_LEN) else { return Filled::Unfit };
        let Some(buffer) = self.buffer.get_mut(..room.min(MAX_PAYLOAD)) else { return Filled::Unfit };
        let Some(header) = self.switch.next_for_guest(buffer) else { return Filled::NotNeeded };
        let payload = buffer.get(..header.len as usize).unwrap_or_default();
        match writer.write_all(&header.encode()).and_then(|()| writer.write_all(payload)) {
            Ok(()) => Filled::With(u32::try_from(writer.bytes_written()).unwrap_or(0)),
            Err(_) => Filled::Unfit,
        }
    }
}

/// What became of a receive buffer.
enum Filled {
    With(u32),
    Unfit,
    NotNeeded,
}

/// How far one queue has come in its turn.
#[derive(Default)]
struct Turn {
    total: usize,
    before: usize,
    idle: bool,
}

impl Turn {
    fn goes_on(&self) -> bool {
        self.total < TURN
    }

    fn handled(&mut self) {
        self.total = self.total.saturating_add(1);
    }

    /// Asked after a round behind which the ring says that it has more. One idle round may have raced with the guest;
    /// a second one means that the ring's index makes no sense, and it would say so for ever.
    fn is_over(&mut self) -> bool {
        let idle = self.total == self.before;
        let twice = idle && self.idle;
        (self.before, self.idle) = (self.total, idle);
        twice || self.total >= TURN
    }

    /// Tells the guest of the buffers that it has back. True when the turn was used up.
    fn finish(&self, vring: &mut VringState) -> io::Result<bool> {
        if self.total > 0 && vring.needs_notification().unwrap_or(true) {
            vring.signal_used_queue()?;
        }
        Ok(self.total >= TURN)
    }
}

/// QEMU has set the ring up and has not stopped it.
fn usable(vring: &VringState) -> bool {
    vring.is_enabled() && vring.get_queue().ready()
}

/// The errors of ring operations name addresses of the guest that do not work: the guest's loss, and no reason to end.
fn ignore(result: Result<impl Sized, virtio_queue::Error>) {
    drop(result);
}

/// Copies a packet out of the guest's memory. `None`: shorter than it says, or not readable.
fn read_packet<'b>(
    memory: &Loaded,
    chain: DescriptorChain<Loaded>,
    buffer: &'b mut [u8],
) -> Option<(Header, &'b [u8])> {
    let mut reader = Reader::new(&**memory, chain).ok()?;
    let mut raw = [0; HEADER_LEN];
    reader.read_exact(&mut raw).ok()?;
    let header = Header::decode(&raw)?;
    let payload = buffer.get_mut(..header.len as usize)?;
    reader.read_exact(payload).ok()?;
    Some((header, payload))
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_EVENT_IDX) | PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
    }

    /// The rings know it; nothing here depends on it.
    fn set_event_idx(&mut self, _enabled: bool) {}

    /// The configuration space is the guest's CID, eight bytes.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let cid = self.guest_cid.to_le_bytes();
        cid.into_iter().skip(offset as usize).take(size as usize).collect()
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    /// A guest that reboots right behind its last packet: QEMU stops the rings before that packet was seen.
    fn stop_vring(&mut self, index: u32) -> io::Result<()> {
        let (Some(memory), Some(vring)) = (self.memory.as_ref().map(GuestAddressSpace::memory), &self.transmit) else {
            return Ok(());
        };
        if index as usize == TRANSMIT {
            let vring = vring.clone();
            vring.set_queue_ready(true);
            let turns = QUEUE_SIZE.div_ceil(TURN);
            let _all = (0..turns).try_for_each(|_| self.empty_transmit(&vring, &memory).map(drop));
            vring.set_queue_ready(false);
        }
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(&mut self, event: u16, _set: EventSet, vrings: &[VringRwLock], _thread: usize) -> io::Result<()> {
        match u64::from(event) {
            HOST_EVENT => self.switch.host_stirred(),
            AGAIN_EVENT => ignore_empty(self.again.0.consume()),
            _ => {}
        }
        self.transmit = vrings.get(TRANSMIT).cloned();
        self.work(vrings)
    }
}

/// The event was read already.
fn ignore_empty(result: io::Result<()>) {
    drop(result);
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
mod tests {
    use super::super::packet::{Op, STREAM};
    use super::super::switch::Config;
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestAddress};

    const SIZE: u16 = 16;
    const MEMORY: usize = 0x10_0000;
    const WRITE: u16 = 2;
    const NEXT: u16 = 1;

    /// A split ring at `base`: descriptors, then available, then used.
    #[derive(Clone, Copy)]
    struct Ring {
        base: u64,
    }

    impl Ring {
        fn vring(self, memory: &Memory) -> VringRwLock {
            let vring = VringRwLock::new(memory.clone(), 1024).unwrap();
            vring.set_queue_size(SIZE);
            vring.set_queue_info(self.base, self.base + 0x1000, self.base + 0x2000).unwrap();
            vring.set_queue_ready(true);
            vring.set_enabled(true);
            vring
        }

        fn descriptor(self, memory: &Memory, index: u16, (addr, len, flags, next): (u64, u32, u16, u16)) {
            let memory = memory.memory();
            let at = self.base + 16 * u64::from(index);
            memory.write_obj(addr, GuestAddress(at)).unwrap();
            memory.write_obj(len, GuestAddress(at + 8)).unwrap();
            memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
            memory.write_obj(next, GuestAddress(at + 14)).unwrap();
        }

        /// Makes the chain at `head` available as the `nth` of all.
        fn offer(self, memory: &Memory, nth: u16, head: u16) {
            let at = self.base + 0x1000 + 4 + 2 * u64::from(nth % SIZE);
            memory.memory().write_obj(head, GuestAddress(at)).unwrap();
            self.set_available(memory, nth.wrapping_add(1));
        }

        fn set_available(self, memory: &Memory, index: u16) {
            memory.memory().write_obj(index, GuestAddress(self.base + 0x1002)).unwrap();
        }

        /// Chains given back, and the length of the last.
        fn used(self, memory: &Memory) -> (u16, u32) {
            let memory = memory.memory();
            let index: u16 = memory.read_obj(GuestAddress(self.base + 0x2002)).unwrap();
            let at = self.base + 0x2004 + 8 * u64::from(index.wrapping_sub(1) % SIZE) + 4;
            (index, memory.read_obj(GuestAddress(at)).unwrap())
        }
    }

    const RX: Ring = Ring { base: 0x1_0000 };
    const TX: Ring = Ring { base: 0x2_0000 };
    const RX_BUFFER: u64 = 0x4_0000;
    const TX_BUFFER: u64 = 0x8_0000;

    struct Bench {
        device: Device,
        memory: Memory,
        vrings: Vec<VringRwLock>,
        sent: u16,
        lent: u16,
    }

    impl Bench {
        fn new() -> Self {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
            let memory = GuestMemoryAtomic::new(memory);
            let config = Config { guest_cid: 16, heartbeat: true, ..Config::default() };
            let mut device = Device::new(Switch::new(config, Arc::default()).unwrap(), 16).unwrap();
            device.update_memory(memory.clone()).unwrap();
            let vrings = [RX, TX, Ring { base: 0x3_0000 }].map(|ring| ring.vring(&memory)).to_vec();
            Self { device, memory, vrings, sent: 0, lent: 0 }
        }

        fn kick(&mut self) {
            self.device.handle_event(1, EventSet::IN, &self.vrings, 0).unwrap();
        }

        fn lend(&mut self, descriptor: (u64, u32, u16, u16)) {
            RX.descriptor(&self.memory, self.lent % SIZE, descriptor);
            RX.offer(&self.memory, self.lent, self.lent % SIZE);
            self.lent += 1;
        }

        fn lend_page(&mut self) {
            let at = RX_BUFFER + 0x1000 * u64::from(self.lent % SIZE);
            self.lend((at, 4096, WRITE, 0));
        }

        fn send(&mut self, header: Header, payload: &[u8]) {
            let memory = self.memory.memory();
            memory.write_slice(&header.encode(), GuestAddress(TX_BUFFER)).unwrap();
            memory.write_slice(payload, GuestAddress(TX_BUFFER + 44)).unwrap();
            self.send_raw((TX_BUFFER, 44 + payload.len() as u32, 0, 0));
        }

        fn send_raw(&mut self, descriptor: (u64, u32, u16, u16)) {
            TX.descriptor(&self.memory, self.sent % SIZE, descriptor);
            TX.offer(&self.memory, self.sent, self.sent % SIZE);
            self.sent += 1;
            self.kick();
        }

        fn received(&self, nth: u16) -> (Header, Vec<u8>) {
            let mut bytes = vec![0; 4096];
            let at = RX_BUFFER + 0x1000 * u64::from(nth);
            self.memory.memory().read_slice(&mut bytes, GuestAddress(at)).unwrap();
            let header = Header::decode(&bytes).unwrap();
            let payload = bytes[44..][..header.len as usize].to_vec();
            (header, payload)
        }

        fn image(&self) -> Vec<u8> {
            let mut bytes = vec![0; MEMORY];
            self.memory.memory().read_slice(&mut bytes, GuestAddress(0)).unwrap();
            bytes
        }
    }

    fn header(op: Op, len: u32) -> Header {
        Header {
            src_cid: 16,
            dst_cid: 3,
            src_port: 700,
            dst_port: 9000,
            len,
            kind: STREAM,
            op: op as u16,
            buf_alloc: 262_144,
            ..Header::default()
        }
    }

    #[test]
    fn a_heartbeat_over_the_rings() {
        let mut bench = Bench::new();
        (0..4).for_each(|_| bench.lend_page());
        bench.send(header(Op::Request, 0), &[]);
        bench.send(header(Op::Rw, 1), &[0xB7]);
        let (response, _) = bench.received(0);
        assert_eq!((response.op, response.src_cid, response.dst_cid), (Op::Response as u16, 3, 16));
        assert_eq!((response.src_port, response.dst_port), (9000, 700));
        let (beat, payload) = bench.received(1);
        assert_eq!((beat.op, payload.as_slice(), beat.fwd_cnt), (Op::Rw as u16, &[0xB7][..], 1));
        assert_eq!((TX.used(&bench.memory), RX.used(&bench.memory)), ((2, 0), (2, 45)));
    }

    #[test]
    fn an_answer_waits_for_a_receive_buffer() {
        let mut bench = Bench::new();
        bench.send(header(Op::Request, 0), &[]);
        assert_eq!(RX.used(&bench.memory).0, 0);
        bench.lend_page();
        bench.device.handle_event(0, EventSet::IN, &bench.vrings, 0).unwrap();
        assert_eq!(bench.received(0).0.op, Op::Response as u16);
    }

    #[test]
    fn a_packet_in_pieces_is_one_packet() {
        let mut bench = Bench::new();
        (0..4).for_each(|_| bench.lend_page());
        bench.send(header(Op::Request, 0), &[]);
        let bytes = [header(Op::Rw, 1).encode(), vec![0xB7]].concat();
        bench.memory.memory().write_slice(&bytes, GuestAddress(TX_BUFFER)).unwrap();
        for (index, piece) in
            [(5, (TX_BUFFER, 20, NEXT, 6)), (6, (TX_BUFFER + 20, 24, NEXT, 7)), (7, (TX_BUFFER + 44, 1, 0, 0))]
        {
            TX.descriptor(&bench.memory, index, piece);
        }
        TX.offer(&bench.memory, bench.sent, 5);
        bench.kick();
        assert_eq!(bench.received(1).1, [0xB7]);
    }

    /// Each is given back without an answer, and the next good packet is served.
    #[test]
    fn broken_packets_are_given_back() {
        let lies = [1, 4096, u32::MAX];
        let mut bad: Vec<_> = lies.map(|len| (header(Op::Rw, len).encode(), (TX_BUFFER, 44, 0, 0))).to_vec();
        let good = header(Op::Request, 0).encode();
        for descriptor in [
            (TX_BUFFER, 43, 0, 0),
            (TX_BUFFER, 0, 0, 0),
            (TX_BUFFER, 44, WRITE, 0),
            (MEMORY as u64 - 10, 44, 0, 0),
            (u64::MAX - 10, 44, 0, 0),
            (TX_BUFFER, u32::MAX, 0, 0),
            (TX_BUFFER, 2, NEXT, 0),
            (TX_BUFFER, 10, NEXT, SIZE),
            (TX_BUFFER, 44, 4, 0),
        ] {
            bad.push((good.clone(), descriptor));
        }
        for (bytes, descriptor) in bad {
            let mut bench = Bench::new();
            (0..4).for_each(|_| bench.lend_page());
            bench.memory.memory().write_slice(&bytes, GuestAddress(TX_BUFFER)).unwrap();
            bench.send_raw(descriptor);
            assert_eq!((TX.used(&bench.memory), RX.used(&bench.memory).0), ((1, 0), 0), "{descriptor:?}");
            bench.send(header(Op::Request, 0), &[]);
            assert_eq!(bench.received(0).0.op, Op::Response as u16, "{descriptor:?}");
        }
    }

    #[test]
    fn a_head_or_an_index_out_of_range_ends_nothing() {
        let mut bench = Bench::new();
        TX.offer(&bench.memory, 0, SIZE + 3);
        bench.kick();
        TX.set_available(&bench.memory, 40_000);
        bench.kick();
        TX.set_available(&bench.memory, 1);
        (bench.sent, bench.lent) = (1, 0);
        bench.lend_page();
        bench.send(header(Op::Request, 0), &[]);
        assert_eq!(bench.received(0).0.op, Op::Response as u16);
    }

    /// Receive buffers that cannot hold a packet are given back empty, and no byte of memory changes but the rings'.
    #[test]
    fn broken_receive_buffers_are_not_written() {
        for descriptor in [
            (RX_BUFFER, 4096, 0, 0),
            (RX_BUFFER, 43, WRITE, 0),
            (MEMORY as u64 - 100, 4096, WRITE, 0),
            (u64::MAX - 2000, 4096, WRITE, 0),
            (RX_BUFFER, 20, WRITE | NEXT, 0),
        ] {
            let mut bench = Bench::new();
            bench.lend(descriptor);
            if descriptor.2 & NEXT != 0 {
                RX.descriptor(&bench.memory, 0, (RX_BUFFER, 20, WRITE | NEXT, 9));
            }
            let before = bench.image();
            bench.send(header(Op::Request, 0), &[]);
            let after = bench.image();
            assert_eq!(RX.used(&bench.memory), (1, 0), "{descriptor:?}");
            assert!(before[RX_BUFFER as usize..TX_BUFFER as usize] == after[RX_BUFFER as usize..TX_BUFFER as usize]);
            assert!(before[TX_BUFFER as usize + 4096..] == after[TX_BUFFER as usize + 4096..]);
            bench.lend((RX_BUFFER + 0x1000, 4096, WRITE, 0));
            bench.kick();
            assert_eq!(bench.received(1).0.op, Op::Response as u16, "{descriptor:?}");
        }
    }

    #[test]
    fn the_configuration_is_the_cid_and_nothing_beyond_it() {
        let device = Bench::new().device;
        assert_eq!(device.get_config(0, 8), 16_u64.to_le_bytes());
        assert_eq!(device.get_config(4, 100), [0; 4]);
        assert!(device.get_config(u32::MAX, u32::MAX).is_empty());
    }

    proptest! {
        /// Rings full of noise: every turn ends, and nothing panics.
        #[test]
        fn prop_any_ring_is_survived(
            noise in proptest::collection::vec(any::<u8>(), 3 * 0x3000),
            near in any::<bool>(),
            available in any::<(u16, u16)>(),
        ) {
            let mut bench = Bench::new();
            let memory = bench.memory.memory();
            memory.write_slice(&noise, GuestAddress(RX.base)).unwrap();
            memory.write_slice(&noise, GuestAddress(TX_BUFFER)).unwrap();
            for index in 0..SIZE {
                let byte = noise[usize::from(index)];
                let descriptor = (TX_BUFFER + u64::from(byte), 44 + u32::from(byte), u16::from(byte & 7), u16::from(byte));
                if near {
                    TX.descriptor(&bench.memory, index, descriptor);
                    RX.descriptor(&bench.memory, index, (descriptor.0, descriptor.1, WRITE, 0));
                }
            }
            TX.set_available(&bench.memory, if near { available.0 % SIZE } else { available.0 });
            RX.set_available(&bench.memory, if near { available.1 % SIZE } else { available.1 });
            (0..4).for_each(|_| bench.kick());
        }
    }
}
