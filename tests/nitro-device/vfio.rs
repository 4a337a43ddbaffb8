//! The server's side of vfio-user, for one PCI device with one client (QEMU's specification
//! docs/interop/vfio-user.rst): messages, the guest's memory, interrupts. What the device is, its [`Device`] says.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const HEADER: usize = 16;
/// No message of QEMU's is longer: its registers are small, and it maps memory by descriptors.
const MAX_MESSAGE: usize = 1 << 20;
const MAX_FDS: usize = 16;

// Commands.
const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const RESET: u16 = 13;

// Flags of a message.
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
const REGIONS: u32 = 9;
const CONFIG: u32 = 7;
/// Kinds of interrupts: INTx, MSI, MSI-X, error, request.
const IRQS: u32 = 5;
const MSIX: u32 = 2;
/// Vectors of the device, and the BAR that has their table.
const VECTORS: u32 = 2;
pub const TABLE_BAR: u32 = 4;
/// Bytes of a BAR.
pub const BAR_SIZE: u64 = 4096;

/// A device behind this server. It is asked by one thread.
pub trait Device: Send {
    /// Fills `bytes` from the registers.
    fn read(&mut self, offset: u64, bytes: &mut [u8]);
    /// The driver writes a register.
    fn write(&mut self, offset: u64, bytes: &[u8]);
}

/// The guest's memory and interrupt lines, as far as the client has told of them.
#[derive(Debug, Default)]
pub struct Guest {
    memory: Vec<Mapping>,
    vectors: [Option<File>; VECTORS as usize],
}

#[derive(Debug)]
struct Mapping {
    address: u64,
    size: u64,
    offset: u64,
    file: File,
}

impl Guest {
    /// Reads memory of the guest. It is all in one piece of the guest's RAM, or this fails.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        let holds = |map: &&Mapping| {
            address >= map.address && address - map.address <= map.size.saturating_sub(bytes.len() as u64)
        };
        let map = self.memory.iter().find(holds).ok_or(io::ErrorKind::InvalidInput)?;
        map.file.read_exact_at(bytes, map.offset + (address - map.address))
    }

    /// Whether the guest has RAM there.
    pub fn has(&self, address: u64, size: u64) -> bool {
        self.memory.iter().any(|map| address >= map.address && address + size <= map.address + map.size)
    }

    /// Raises an interrupt.
    pub fn interrupt(&mut self, vector: usize) {
        if let Some(Some(line)) = self.vectors.get_mut(vector) {
            line.write_all(&1_u64.to_ne_bytes()).expect("an eventfd takes a number");
        }
    }
}

/// Listens at `path` and serves the first client, on a thread of its own, until it goes.
pub fn serve(path: &Path, bar: u32, guest: Arc<Mutex<Guest>>, mut device: impl Device + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        let mut server = Server { stream, bar, config: configuration(), guest };
        while let Some(message) = server.receive() {
            server.answer(message, &mut device);
        }
    });
}

/// Configuration space: vendor, device, class "system peripheral", one capability (MSI-X).
fn configuration() -> [u8; 256] {
    let mut config = [0; 256];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x00, &0x1d0f_u16.to_le_bytes());
    put(0x02, &0xe4c1_u16.to_le_bytes());
    // There is a list of capabilities.
    put(0x06, &0x0010_u16.to_le_bytes());
    put(0x08, &[1, 0, 0x80, 0x08]);
    put(0x2c, &0x1d0f_u16.to_le_bytes());
    put(0x34, &[0x40]);
    put(0x40, &[0x11, 0]);
    put(0x42, &u16::try_from(VECTORS - 1).unwrap().to_le_bytes());
    // The table at the beginning of its BAR, the pending bits at its middle.
    put(0x44, &TABLE_BAR.to_le_bytes());
    put(0x48, &(0x800 | TABLE_BAR).to_le_bytes());
    config
}

struct Server {
    stream: UnixStream,
    bar: u32,
    config: [u8; 256],
    guest: Arc<Mutex<Guest>>,
}

struct Message {
    id: u16,
    command: u16,
    flags: u32,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Message {
    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.body[offset..offset + 4].try_into().unwrap())
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.body[offset..offset + 8].try_into().unwrap())
    }
}

impl Server {
    /// `None` when the client has gone.
    fn receive(&mut self) -> Option<Message> {
        let mut header = [0; HEADER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // Descriptors come with the first byte.
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let got = got.ok()?.bytes;
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let fds = fds.collect();
        if got == 0 {
            return None;
        }
        self.stream.read_exact(&mut header[got..]).ok()?;
        let [a, b, c, d, size @ ..] = header;
        let size = u32::from_le_bytes(size[..4].try_into().unwrap()) as usize;
        let flags = u32::from_le_bytes(header[8..12].try_into().unwrap());
        assert!((HEADER..=MAX_MESSAGE).contains(&size), "a message of {size} bytes");
        let mut body = vec![0; size - HEADER];
        self.stream.read_exact(&mut body).ok()?;
        Some(Message { id: u16::from_le_bytes([a, b]), command: u16::from_le_bytes([c, d]), flags, body, fds })
    }

    fn answer(&mut self, mut message: Message, device: &mut impl Device) {
        let reply = self.reply(&mut message, device);
        if message.flags & NO_REPLY != 0 {
            return;
        }
        let (flags, errno, body) = match reply {
            Ok(body) => (REPLY, 0, body),
            Err(errno) => (REPLY | ERROR, errno, Vec::new()),
        };
        let mut bytes = Vec::new();
        bytes.extend(message.id.to_le_bytes());
        bytes.extend(message.command.to_le_bytes());
        bytes.extend(u32::try_from(HEADER + body.len()).unwrap().to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(errno.to_le_bytes());
        bytes.extend(body);
        // A client that has gone is noticed by the next read.
        let _gone = self.stream.write_all(&bytes);
    }

    fn reply(&mut self, message: &mut Message, device: &mut impl Device) -> Result<Vec<u8>, u32> {
        const ENOTSUP: u32 = 95;
        match message.command {
            VERSION => {
                let mut body = message.body[..4].to_vec();
                body.extend(
                    b"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048000,\"pgsizes\":4096}}\0",
                );
                Ok(body)
            }
            DMA_MAP => {
                let (offset, address, size) = (message.u64(8), message.u64(16), message.u64(24));
                // Memory without a descriptor, such as a ROM, is no RAM that an enclave could get.
                if let Some(fd) = message.fds.pop() {
                    let file = File::from(fd);
                    self.guest.lock().unwrap().memory.push(Mapping { address, size, offset, file });
                }
                Ok(Vec::new())
            }
            DMA_UNMAP => {
                let (address, size) = (message.u64(8), message.u64(16));
                let within = |map: &Mapping| map.address >= address && map.address + map.size <= address + size;
                self.guest.lock().unwrap().memory.retain(|map| !within(map));
                Ok(message.body.clone())
            }
            GET_INFO => Ok(words(&[16, 0b11, REGIONS, IRQS])),
            GET_REGION_INFO => {
                let index = message.u32(8);
                let size = match index {
                    CONFIG => 256,
                    _ if index == self.bar || index == TABLE_BAR => BAR_SIZE,
                    _ => 0,
                };
                let mut body = words(&[32, if size == 0 { 0 } else { 0b11 }, index, 0]);
                body.extend(size.to_le_bytes());
                body.extend(0_u64.to_le_bytes());
                Ok(body)
            }
            GET_IRQ_INFO => {
                let index = message.u32(8);
                let (flags, count) = if index == MSIX { (0b1001, VECTORS) } else { (0, 0) };
                Ok(words(&[16, flags, index, count]))
            }
            SET_IRQS => {
                self.set_interrupts(message);
                Ok(Vec::new())
            }
            REGION_READ => {
                let (offset, region, count) = (message.u64(0), message.u32(8), message.u32(12) as usize);
                let mut bytes = vec![0; count];
                match region {
                    CONFIG => bytes.copy_from_slice(&self.config[offset as usize..offset as usize + count]),
                    _ if region == self.bar => device.read(offset, &mut bytes),
                    // QEMU has the table itself.
                    _ => {}
                }
                let mut body = message.body[..16].to_vec();
                body.extend(bytes);
                Ok(body)
            }
            REGION_WRITE => {
                let (offset, region) = (message.u64(0), message.u32(8));
                let bytes = &message.body[16..];
                match region {
                    CONFIG => self.config[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes),
                    _ if region == self.bar => device.write(offset, bytes),
                    _ => {}
                }
                Ok(message.body[..16].to_vec())
            }
            RESET => Ok(Vec::new()),
            _ => Err(ENOTSUP),
        }
    }

    /// Descriptors for vectors from `start` on; those without one are silenced.
    fn set_interrupts(&mut self, message: &mut Message) {
        const DATA_EVENTFD: u32 = 1 << 2;
        const TRIGGER: u32 = 1 << 5;
        let (flags, index, start, count) = (message.u32(4), message.u32(8), message.u32(12), message.u32(16));
        if index != MSIX || flags & TRIGGER == 0 {
            return;
        }
        let mut guest = self.guest.lock().unwrap();
        if count == 0 {
            guest.vectors = [None, None];
        }
        let mut fds = std::mem::take(&mut message.fds).into_iter();
        for vector in start..start + count {
            let line = fds.next().filter(|_| flags & DATA_EVENTFD != 0).map(File::from);
            if let Some(slot) = guest.vectors.get_mut(vector as usize) {
                *slot = line;
            }
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
