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
}

impl Turn {
    fn goes_on(&self) -> bool {
        self.total < TURN
    }

    fn handled(&mut self) {
        self.total = self.total.saturating_add(1);
    }

    /// Also when a round brought nothing: a ring whose index makes no sense promises more for ever.
    fn is_over(&mut self) -> bool {
        let idle = self.total == self.before;
        self.before = self.total;
        idle || self.total >= TURN
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
            let _left = self.empty_transmit(&vring, &memory);
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
