//! What answers AWS's driver: the registers of the Nitro Enclaves PCI device, its commands, and the slots behind them
//! (drivers/virt/nitro_enclaves/ne_pci_dev.h of Linux). Errors and limits are a guess where the driver's source does not
//! tell them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::played::{Play, Played};
use super::vfio::{Device, Guest};

/// The BAR with the registers.
pub const BAR: u32 = 3;
// Offsets in it.
const ENABLE: u64 = 0x00;
const VERSION: u64 = 0x02;
const COMMAND: u64 = 0x04;
const SEND: u64 = 0x10;
const RECEIVE: u64 = 0x100;
const WINDOW: usize = 240;
// Interrupts.
const REPLY: usize = 0;
const EVENT: usize = 1;
// Commands.
pub const START: u32 = 1;
const STOP: u32 = 3;
const ALLOC: u32 = 4;
const FREE: u32 = 5;
pub const ADD_MEMORY: u32 = 6;
pub const ADD_CPU: u32 = 7;
const INFO: u32 = 10;

const EINVAL: i32 = 22;
/// Physically contiguous pieces of memory that a slot takes: our guess.
pub const REGIONS: u64 = 128;
/// Where an image begins in an enclave's memory (NE_IMAGE_LOAD_OFFSET).
const IMAGE: u64 = 8 << 20;
const RUNNING: u16 = 2;
const STOPPED: u16 = u16::MAX;

/// One slot.
#[derive(Debug, Default)]
struct Slot {
    /// Address and size, in the order in which they came.
    memory: Vec<(u64, u64)>,
    cpus: Vec<u32>,
    cid: u64,
    state: u16,
    played: Option<Played>,
}

/// What a test has seen of an enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub cid: u64,
    pub debug: bool,
    pub cpus: Vec<u32>,
    /// Bytes of memory.
    pub memory: u64,
    /// What stands where the image belongs, as long as an EIF's header says.
    pub image: Vec<u8>,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u64, Slot>,
    next_slot: u64,
    /// What the next enclaves play, in this order.
    plays: Vec<Play>,
    seen: Vec<Seen>,
    /// Errors that the next commands of a kind get.
    faults: Vec<(u32, i32)>,
    stops: usize,
    regions: Option<u64>,
}

/// The hypervisor, for a test.
#[derive(Clone)]
pub struct Hypervisor {
    state: Arc<(Mutex<State>, Condvar)>,
    guest: Arc<Mutex<Guest>>,
    vsock: std::path::PathBuf,
}

impl Hypervisor {
    /// `vsock` is the prefix of the parent's sockets.
    pub fn new(guest: Arc<Mutex<Guest>>, vsock: std::path::PathBuf) -> Self {
        Self { state: Arc::default(), guest, vsock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    /// The device that the driver sees.
    pub fn device(&self) -> Registers {
        Registers { hypervisor: self.clone(), version: 0, enabled: 0, send: [0; WINDOW], receive: [0; WINDOW] }
    }

    /// What the next enclave does.
    pub fn next(&self, play: Play) {
        self.state().plays.push(play);
    }

    /// The next command of that kind fails.
    pub fn fail(&self, command: u32, errno: i32) {
        self.state().faults.push((command, errno));
    }

    /// How many pieces of memory a slot takes from now on.
    pub fn regions(&self, count: u64) {
        self.state().regions = Some(count);
    }

    /// How many enclaves have been started.
    pub fn starts(&self) -> usize {
        self.state().seen.len()
    }

    /// Waits until so many enclaves have been started, and gives what there was of the last one.
    pub fn started(&self, count: usize) -> Seen {
        self.wait("starts", |state| state.seen.len() >= count);
        self.state().seen[count - 1].clone()
    }

    /// Waits until no slot is taken.
    pub fn empty(&self) {
        self.wait("free slots", |state| state.slots.is_empty());
    }

    /// How many enclaves were ended by a command.
    pub fn stops(&self) -> usize {
        self.state().stops
    }

    fn wait(&self, what: &str, done: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut state = self.state();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waiting for {what}: {:?}", state.slots);
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// An enclave ends by itself: the driver is told.
    pub fn crash(&self, cid: u64) {
        let mut state = self.state();
        let slot = state.slots.values_mut().find(|slot| slot.cid == cid).expect("it runs");
        slot.state = STOPPED;
        slot.played = None;
        drop(state);
        self.guest.lock().unwrap().interrupt(EVENT);
    }

    fn command(&self, command: u32, words: &[u64]) -> Result<Reply, i32> {
        let mut state = self.state();
        if let Some(index) = state.faults.iter().position(|(kind, _)| *kind == command) {
            return Err(state.faults.remove(index).1);
        }
        let uid = words[0];
        let reply = match command {
            ALLOC => {
                state.next_slot += 1;
                // As wide as the real ones: they are part of an enclave's id.
                let uid = 0x0173_dfe3_e000_0000 + state.next_slot;
                state.slots.insert(uid, Slot::default());
                Ok(Reply { uid, regions: state.regions.unwrap_or(REGIONS), ..Reply::default() })
            }
            FREE => state.slots.remove(&uid).map(|_| Reply::default()).ok_or(EINVAL),
            _ => {
                let State { slots, plays, seen, stops, .. } = &mut *state;
                let taken = slots.values().any(|slot| slot.state == RUNNING && slot.cid == words[1]);
                let slot = slots.get_mut(&uid).ok_or(EINVAL)?;
                match command {
                    START if taken => Err(EINVAL),
                    ADD_MEMORY => self.add_memory(slot, words[1], words[2]),
                    ADD_CPU => {
                        slot.cpus.push(u32::try_from(words[1] & 0xffff_ffff).unwrap());
                        Ok(Reply::default())
                    }
                    START => {
                        let debug = words[2] & 1 != 0;
                        let cid = if words[1] == 0 { 16 + seen.len() as u64 } else { words[1] };
                        let image = self.image(slot);
                        let memory = slot.memory.iter().map(|(_, size)| size).sum();
                        seen.push(Seen { cid, debug, cpus: slot.cpus.clone(), memory, image });
                        let play = if plays.is_empty() { Play::default() } else { plays.remove(0) };
                        (slot.cid, slot.state) = (cid, RUNNING);
                        slot.played = Some(Played::start(play, cid, debug, &self.vsock, self.clone()));
                        Ok(Reply { uid, cid, state: RUNNING, ..Reply::default() })
                    }
                    STOP => {
                        *stops += 1;
                        slot.state = STOPPED;
                        slot.played = None;
                        Ok(Reply { uid, ..Reply::default() })
                    }
                    INFO => Ok(Reply { uid, cid: slot.cid, state: slot.state, ..Reply::default() }),
                    _ => Err(EINVAL),
                }
            }
        };
        drop(state);
        self.state.1.notify_all();
        reply
    }

    fn add_memory(&self, slot: &mut Slot, address: u64, size: u64) -> Result<Reply, i32> {
        if !self.guest.lock().unwrap().has(address, size) {
            return Err(EINVAL);
        }
        slot.memory.push((address, size));
        Ok(Reply::default())
    }

    /// The bytes of an enclave's image: the pieces of its memory in their order, from the offset on.
    fn image(&self, slot: &Slot) -> Vec<u8> {
        let guest = self.guest.lock().unwrap();
        let mut all = Vec::new();
        for (address, size) in &slot.memory {
            let mut piece = vec![0; usize::try_from(*size).unwrap()];
            guest.read(*address, &mut piece).unwrap();
            all.extend(piece);
        }
        let mut image = all.split_off(all.len().min(usize::try_from(IMAGE).unwrap()));
        image.truncate(super::played::length(&image));
        image
    }
}

/// The fields of a reply that are used here.
#[derive(Default)]
struct Reply {
    uid: u64,
    cid: u64,
    regions: u64,
    state: u16,
}

/// The registers, as the driver writes and reads them.
pub struct Registers {
    hypervisor: Hypervisor,
    version: u16,
    enabled: u8,
    send: [u8; WINDOW],
    receive: [u8; WINDOW],
}

impl Registers {
    fn run(&mut self, command: u32) {
        let words: Vec<u64> =
            self.send.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let (rc, reply) = match self.hypervisor.command(command, &words) {
            Ok(reply) => (0, reply),
            Err(errno) => (-errno, Reply::default()),
        };
        self.receive = [0; WINDOW];
        let mut put = |offset: usize, bytes: &[u8]| {
            self.receive[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        // struct ne_pci_dev_cmd_reply
        put(0, &rc.to_le_bytes());
        put(8, &reply.uid.to_le_bytes());
        put(16, &reply.cid.to_le_bytes());
        put(32, &reply.regions.to_le_bytes());
        put(64, &reply.state.to_le_bytes());
        self.hypervisor.guest.lock().unwrap().interrupt(REPLY);
    }
}

impl Device for Registers {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        match offset {
            ENABLE => bytes[0] = self.enabled,
            VERSION => bytes.copy_from_slice(&self.version.to_le_bytes()),
            RECEIVE.. => {
                let from = usize::try_from(offset - RECEIVE).unwrap();
                bytes.copy_from_slice(&self.receive[from..from + bytes.len()]);
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        match offset {
            ENABLE => self.enabled = bytes[0],
            VERSION => self.version = u16::from_le_bytes(bytes.try_into().unwrap()),
            COMMAND => self.run(u32::from_le_bytes(bytes.try_into().unwrap())),
            SEND..RECEIVE => {
                let from = usize::try_from(offset - SEND).unwrap();
                self.send[from..from + bytes.len()].copy_from_slice(bytes);
            }
            _ => {}
        }
    }
}
