//! The device of Nitro Enclaves: its ioctls as typed calls, and the huge pages that are given to it.
//!
//! Numbers and layouts are those of `linux/nitro_enclaves.h`, checked when this is compiled, and by a test against the
//! header itself. An error is the kernel's number as it is, 256 and more being the driver's own: `enclave::code` has
//! their meaning. All unsafe code of the launcher is here.
//!
//! Every call may block for 120 s without a signal getting through: that is how long the driver waits for the
//! hypervisor. [`Slot::add_memory`] and [`Slot::add_cpu`] are refused (EIO) to any other process than the one that
//! created the slot, so nothing may fork in between.
#![expect(unsafe_code, reason = "ioctl, mmap and mbind have no safe form")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use rustix::{fs, io};

pub use rustix::io::Errno;

const GROUP: u8 = 0xAE;
const CREATE_VM: Opcode = opcode::read::<u64>(GROUP, 0x20);
const ADD_VCPU: Opcode = opcode::read_write::<u32>(GROUP, 0x21);
const GET_IMAGE_LOAD_INFO: Opcode = opcode::read_write::<ImageLoadInfo>(GROUP, 0x22);
const SET_USER_MEMORY_REGION: Opcode = opcode::write::<UserMemoryRegion>(GROUP, 0x23);
const START_ENCLAVE: Opcode = opcode::read_write::<EnclaveStartInfo>(GROUP, 0x24);

/// `NE_EIF_IMAGE`: the image is an EIF.
const EIF_IMAGE: u64 = 1;
/// `NE_ENCLAVE_DEBUG_MODE`: with a console, and PCRs of zeros.
const DEBUG_MODE: u64 = 1;
/// `MPOL_BIND` of `linux/mempolicy.h`: these nodes or none.
const MPOL_BIND: libc::c_int = 2;
/// NUMA nodes that a policy can name here; Linux has at most so many (`CONFIG_NODES_SHIFT`).
const MAX_NODES: u32 = 1024;

/// The least page that the driver takes, in bytes (`NE_MIN_MEM_REGION_SIZE`).
pub const LEAST_PAGE: u64 = 2 << 20;
/// The least memory of an enclave, in bytes (`NE_MIN_ENCLAVE_MEM_SIZE`).
pub const LEAST_MEMORY: u64 = 64 << 20;

/// `struct ne_image_load_info`.
#[derive(Debug, Default)]
#[repr(C)]
struct ImageLoadInfo {
    flags: u64,
    memory_offset: u64,
}

/// `struct ne_user_memory_region`.
#[derive(Debug)]
#[repr(C)]
struct UserMemoryRegion {
    flags: u64,
    memory_size: u64,
    userspace_addr: u64,
}

/// `struct ne_enclave_start_info`.
#[derive(Debug)]
#[repr(C)]
struct EnclaveStartInfo {
    flags: u64,
    enclave_cid: u64,
}

const _: () = {
    assert!(CREATE_VM == 0x8008_AE20 && ADD_VCPU == 0xC004_AE21 && GET_IMAGE_LOAD_INFO == 0xC010_AE22);
    assert!(SET_USER_MEMORY_REGION == 0x4018_AE23 && START_ENCLAVE == 0xC010_AE24);
    assert!(size_of::<ImageLoadInfo>() == 16 && size_of::<UserMemoryRegion>() == 24);
    assert!(size_of::<EnclaveStartInfo>() == 16);
};

/// The ioctl that returns a descriptor, and the slot's number by the pointer.
struct CreateVm(u64);

// SAFETY: the number, its u64 and what it returns are those of the header; it writes to nothing but that u64.
unsafe impl Ioctl for CreateVm {
    type Output = (OwnedFd, u64);
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        CREATE_VM
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(fd: IoctlOutput, slot: *mut libc::c_void) -> io::Result<Self::Output> {
        // SAFETY: the call succeeded, so the descriptor is new and ours, and `slot` is the pointer of `as_ptr`.
        unsafe { Ok((OwnedFd::from_raw_fd(fd), slot.cast::<u64>().read())) }
    }
}

/// The open device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// The device, opened for reading and writing.
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// `NE_CREATE_VM`: a slot, with nothing in it yet.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn create(&self) -> Result<Slot, Errno> {
        // SAFETY: `CreateVm` says what this ioctl reads and writes.
        let (fd, number) = unsafe { ioctl(&self.0, CreateVm(0)) }?;
        Ok(Slot { fd, number, pages: Vec::new() })
    }
}

/// A created, not yet started enclave. Dropping it gives CPUs and memory back.
#[derive(Debug)]
pub struct Slot {
    // Dropped in this order: see `Running`.
    fd: OwnedFd,
    number: u64,
    pages: Vec<Pages>,
}

impl Slot {
    /// The slot's number, unique among the instance's enclaves.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// `NE_GET_IMAGE_LOAD_INFO`: the offset in the enclave's memory where an EIF has to stand, in bytes.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn load_offset(&self) -> Result<u64, Errno> {
        let mut info = ImageLoadInfo { flags: EIF_IMAGE, memory_offset: 0 };
        // SAFETY: the number takes a pointer to this struct.
        unsafe { ioctl(&self.fd, Updater::<GET_IMAGE_LOAD_INFO, _>::new(&mut info)) }?;
        Ok(info.memory_offset)
    }

    /// `NE_SET_USER_MEMORY_REGION`: gives the pages to the enclave, behind those that it has. After an error some of
    /// them may be given: only dropping the slot makes that undone.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn add_memory(&mut self, pages: Pages) -> Result<(), Errno> {
        let region =
            UserMemoryRegion { flags: 0, memory_size: pages.length as u64, userspace_addr: pages.start as u64 };
        self.pages.push(pages);
        // SAFETY: the number takes a pointer to this struct. The pages are mapped, and no reference to them is left.
        unsafe { ioctl(&self.fd, Setter::<SET_USER_MEMORY_REGION, _>::new(region)) }?;
        self.pages.last().map_or(Ok(()), Pages::seal)
    }

    /// `NE_ADD_VCPU`: gives a CPU of the pool; `None` lets the driver choose, whole cores one after the other. Returns
    /// which one it was.
    ///
    /// # Errors
    /// The kernel's number. EINVAL for CPU 0, which the kernel would take for `None`.
    pub fn add_cpu(&mut self, cpu: Option<u32>) -> Result<u32, Errno> {
        let mut id = match cpu {
            Some(0) => return Err(Errno::INVAL),
            Some(cpu) => cpu,
            None => 0,
        };
        // SAFETY: the number takes a pointer to a u32.
        unsafe { ioctl(&self.fd, Updater::<ADD_VCPU, u32>::new(&mut id)) }?;
        Ok(id)
    }

    /// `NE_START_ENCLAVE`: starts it; `None` lets the hypervisor choose a CID. Returns the CID.
    ///
    /// # Errors
    /// The kernel's number. The slot is gone then.
    pub fn start(self, cid: Option<u32>, debug: bool) -> Result<(Running, u32), Errno> {
        let flags = if debug { DEBUG_MODE } else { 0 };
        let mut info = EnclaveStartInfo { flags, enclave_cid: cid.unwrap_or(0).into() };
        // SAFETY: the number takes a pointer to this struct.
        unsafe { ioctl(&self.fd, Updater::<START_ENCLAVE, _>::new(&mut info)) }?;
        let cid = u32::try_from(info.enclave_cid).map_err(|_| Errno::OVERFLOW)?;
        Ok((Running { fd: self.fd, _pages: self.pages }, cid))
    }
}

/// A started enclave. Dropping it ends the enclave, unless a forked child still has the descriptor. Polled, it says HUP
/// when the enclave has ended, for ever after, and nothing else.
///
/// Its pages stay mapped until the driver has let go of them. Linux (6.12, `__unmap_hugepage_range`) takes a huge page's
/// reservation back when it is unmapped and counts it when the page is freed; in between `resv_hugepages` is below zero,
/// and whoever reads there how many pages are free, another launch of ours included, finds none.
#[derive(Debug)]
pub struct Running {
    // Dropped in this order.
    fd: OwnedFd,
    _pages: Vec<Pages>,
}

#[cfg(test)]
impl Running {
    /// Plays an enclave, for tests: it has ended when the other end of this socket or pipe is closed.
    pub fn played(fd: OwnedFd) -> Self {
        Self { fd, _pages: Vec::new() }
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Huge pages of one size, mapped and filled with zeros.
#[derive(Debug)]
pub struct Pages {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, and to no thread.
unsafe impl Send for Pages {}
// SAFETY: a shared reference gives no access to the memory.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `count` pages of `size` bytes of this NUMA node, and has each of them filled: a page that is missing is an
    /// error here, and not a SIGBUS later.
    ///
    /// A page of another node must not get to the driver: it refuses it, and never gives it back
    /// (`ne_set_user_memory_region_ioctl` drops the references of the pages before the refused one only).
    ///
    /// # Errors
    /// ENOMEM: the kernel has not so many free. EFAULT: it has, but not of this node or for this control group. Others
    /// of mmap and mbind.
    pub fn map(size: u64, count: u64, node: Option<u32>) -> Result<Self, Errno> {
        let huge = MapFlags::hugetlb_with_size_log2(size.trailing_zeros()).ok_or(Errno::INVAL)?;
        let length = size.checked_mul(count).and_then(|length| usize::try_from(length).ok()).ok_or(Errno::NOMEM)?;
        let mut pages = Self::anonymous(length, MapFlags::PRIVATE | huge)?;
        // SAFETY: the range is the mapping's. Without a copy in a child these pages have one owner, so none of them is
        // copied when this process writes to it.
        unsafe { madvise(pages.start, length, Advice::LinuxDontFork) }?;
        if let Some(node) = node {
            pages.bind(node)?;
        }
        pages.fill(usize::try_from(size).map_err(|_| Errno::NOMEM)?)?;
        Ok(pages)
    }

    fn anonymous(length: usize, flags: MapFlags) -> Result<Self, Errno> {
        // SAFETY: the kernel chooses the address, so nothing else is mapped there.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Ok(Self { start, length })
    }

    /// Allows pages of this node only.
    fn bind(&self, node: u32) -> Result<(), Errno> {
        let mut mask = [0_u64; (MAX_NODES / 64) as usize];
        *mask.get_mut((node / 64) as usize).ok_or(Errno::INVAL)? |= 1 << (node % 64);
        // SAFETY: the range is the mapping's, and the mask has as many bits as the call says, which counts from 1.
        let failed = unsafe {
            libc::syscall(libc::SYS_mbind, self.start, self.length, MPOL_BIND, mask.as_ptr(), MAX_NODES + 1, 0)
        };
        if failed == 0 { Ok(()) } else { Err(last_error()) }
    }

    /// Has the kernel write a zero to each page: where it has no page to give, the read ends with EFAULT, while a write
    /// of our own would be answered with SIGBUS.
    fn fill(&mut self, page: usize) -> Result<(), Errno> {
        let flags = fs::OFlags::RDONLY | fs::OFlags::CLOEXEC;
        let zeros = fs::open("/dev/zero", flags, fs::Mode::empty())?;
        for first in self.bytes().chunks_mut(page).filter_map(|page| page.first_mut()) {
            io::read(&zeros, std::slice::from_mut(first))?;
        }
        Ok(())
    }

    /// Closes the memory to this process, and keeps it out of dumps: it is an enclave's from now on.
    fn seal(&self) -> Result<(), Errno> {
        // SAFETY: the range is the mapping's, and no reference to it is left: whoever seals it has given it away.
        unsafe {
            madvise(self.start, self.length, Advice::LinuxDontDump)?;
            mprotect(self.start, self.length, MprotectFlags::empty())
        }
    }

    /// The memory. It is there: see [`Pages::map`].
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this length, is readable and writable, and as long lived as `self`, which alone has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }
}

impl AsMut<[u8]> for Pages {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to it outlives `self`.
        let unmapped = unsafe { munmap(self.start, self.length) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::mem::offset_of;
    use std::process::Command;

    use super::*;

    /// What the header of package linux-libc-dev says, by a C program that prints it.
    fn header() -> BTreeMap<String, u64> {
        let print = |name| format!("printf(\"%s %llu\\n\", \"{name}\", (unsigned long long)({name}));");
        let body = ours().into_keys().map(print).collect::<Vec<_>>().join("\n");
        let headers = ["linux/ioctl.h", "linux/nitro_enclaves.h", "stddef.h", "stdio.h"];
        let include = headers.map(|name| format!("#include <{name}>\n")).concat();
        let source = format!("{include}int main(void) {{\n{body}\n}}\n");
        let folder = tempfile::tempdir().unwrap();
        let (c, program) = (folder.path().join("header.c"), folder.path().join("header"));
        std::fs::write(&c, source).unwrap();
        let built = Command::new("cc").arg("-o").arg(&program).arg(&c).output();
        let built = built.expect("`cc` is missing: install Debian's package build-essential");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "the header comes with Debian's package linux-libc-dev: {said}");
        let printed = Command::new(&program).output().unwrap().stdout;
        let text = String::from_utf8(printed).unwrap();
        let pair = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        text.lines().filter_map(pair).collect()
    }

    /// C expressions, and their values here.
    fn ours() -> BTreeMap<String, u64> {
        let mut table: BTreeMap<String, u64> = [
            ("NE_CREATE_VM", CREATE_VM.into()),
            ("NE_ADD_VCPU", ADD_VCPU.into()),
            ("NE_GET_IMAGE_LOAD_INFO", GET_IMAGE_LOAD_INFO.into()),
            ("NE_SET_USER_MEMORY_REGION", SET_USER_MEMORY_REGION.into()),
            ("NE_START_ENCLAVE", START_ENCLAVE.into()),
            ("NE_EIF_IMAGE", EIF_IMAGE),
            ("NE_ENCLAVE_DEBUG_MODE", DEBUG_MODE),
            ("NE_ENCLAVE_PRODUCTION_MODE", 0_u64),
            ("NE_DEFAULT_MEMORY_REGION", 0),
            ("sizeof(struct ne_image_load_info)", size_of::<ImageLoadInfo>() as u64),
            ("sizeof(struct ne_user_memory_region)", size_of::<UserMemoryRegion>() as u64),
            ("sizeof(struct ne_enclave_start_info)", size_of::<EnclaveStartInfo>() as u64),
            ("offsetof(struct ne_image_load_info, memory_offset)", offset_of!(ImageLoadInfo, memory_offset) as u64),
            ("offsetof(struct ne_user_memory_region, memory_size)", offset_of!(UserMemoryRegion, memory_size) as u64),
            (
                "offsetof(struct ne_user_memory_region, userspace_addr)",
                offset_of!(UserMemoryRegion, userspace_addr) as u64,
            ),
            ("offsetof(struct ne_enclave_start_info, enclave_cid)", offset_of!(EnclaveStartInfo, enclave_cid) as u64),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let codes = super::super::enclave::code::TABLE.iter();
        table.extend(codes.map(|row| (format!("NE_ERR_{}", row.name), u64::from(row.number.unsigned_abs()))));
        table
    }

    #[test]
    fn numbers_and_layouts_are_the_kernels() {
        let (header, ours) = (header(), ours());
        assert!(ours.len() >= 36, "{}", ours.len());
        assert_eq!(header, ours);
    }

    /// Any file that is no device of this kind answers so.
    #[test]
    fn another_device_is_told_by_enotty() {
        let device = Device::new(File::options().read(true).write(true).open("/dev/null").unwrap());
        assert_eq!(device.create().unwrap_err(), Errno::NOTTY);
    }

    #[test]
    fn calls_on_a_wrong_descriptor_fail_and_cpu_0_is_no_choice() {
        let mut slot = Slot { fd: File::open("/dev/null").unwrap().into(), number: 7, pages: Vec::new() };
        assert_eq!(slot.load_offset(), Err(Errno::NOTTY));
        assert_eq!(slot.add_cpu(None), Err(Errno::NOTTY));
        assert_eq!(slot.add_cpu(Some(0)), Err(Errno::INVAL));
        let pages = Pages::anonymous(4096, MapFlags::PRIVATE).unwrap();
        assert_eq!(slot.add_memory(pages).unwrap_err(), Errno::NOTTY);
        assert_eq!(slot.start(None, true).unwrap_err(), Errno::NOTTY);
    }

    #[test]
    fn pages_that_nobody_has_are_an_error() {
        // 64 TiB of 1 GiB pages; and a size that is no page's.
        assert_eq!(Pages::map(1 << 30, 1 << 16, None).unwrap_err(), Errno::NOMEM);
        assert_eq!(Pages::map(1 << 30, u64::MAX, None).unwrap_err(), Errno::NOMEM);
        assert!(Pages::map(3, 1, None).is_err());
    }

    /// Run by hand, or where an enclave could run: `echo 4 > /proc/sys/vm/nr_hugepages`.
    #[test]
    #[ignore = "needs four free huge pages of 2 MiB"]
    fn real_huge_pages_are_mapped_filled_and_given_back() {
        for node in [None, Some(0), None] {
            let mut pages = Pages::map(LEAST_PAGE, 4, node).unwrap();
            assert_eq!(pages.bytes().len(), 4 * LEAST_PAGE as usize);
            assert!(pages.bytes().iter().all(|&byte| byte == 0));
            pages.bytes().fill(1);
            assert_eq!(Pages::map(LEAST_PAGE, 1, node).unwrap_err(), Errno::NOMEM, "all are in use");
        }
        assert!(Pages::map(LEAST_PAGE, 4, Some(MAX_NODES - 1)).is_err(), "there is no such node");
    }

    /// Filling is done by the kernel, page by page; plain pages do for the proof.
    #[test]
    fn pages_are_filled_and_bound_to_a_node() {
        let mut pages = Pages::anonymous(16 * 4096, MapFlags::PRIVATE).unwrap();
        pages.bind(0).unwrap();
        assert_eq!(pages.bind(MAX_NODES), Err(Errno::INVAL));
        pages.fill(4096).unwrap();
        pages.bytes()[16 * 4096 - 1] = 1;
        assert_eq!(pages.bytes().iter().map(|&byte| usize::from(byte)).sum::<usize>(), 1);
    }

    /// `dd` of `VmFlags` in /proc/self/smaps: not in a dump.
    #[test]
    fn what_is_sealed_is_closed_and_in_no_dump() {
        let pages = Pages::anonymous(16 * 4096, MapFlags::PRIVATE).unwrap();
        let start = format!("{:x}-", pages.start as usize);
        let flags = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let own = maps.lines().skip_while(|line| !line.starts_with(&start));
            own.skip(1).find(|line| line.starts_with("VmFlags:")).unwrap().to_owned() + " "
        };
        assert!(flags().contains(" rd wr ") && !flags().contains(" dd "), "{}", flags());
        pages.seal().unwrap();
        assert!(!flags().contains(" rd ") && flags().contains(" dd "), "{}", flags());
    }

    /// What makes [`Pages::fill`] safe: a read into memory that is not there is refused, and kills nobody.
    #[test]
    fn memory_that_is_not_there_is_efault() {
        let mut pages = Pages::anonymous(2 * 4096, MapFlags::PRIVATE).unwrap();
        // SAFETY: the range is the mapping's; nothing refers to it.
        unsafe { mprotect(pages.start, 4096, MprotectFlags::empty()) }.unwrap();
        assert_eq!(pages.fill(4096), Err(Errno::FAULT));
    }
}
