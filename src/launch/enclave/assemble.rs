//! From a request to a started enclave: pages, image, memory, CPUs, START, in the order that the driver wants.

use super::error::Error;
use super::host::{self, Host};
use super::{Cpus, Facts, Launch, memory};
use crate::launch::nitro::{Device, Errno, Pages, Running, Slot};

/// Tries with other pages, when they lay in too many pieces: freed pages come back in another order.
const TRIES: u32 = 2;
/// `NE_ERR_MEM_MAX_REGIONS`.
const MAX_REGIONS: i32 = 265;
const MIB: u64 = 1 << 20;

/// The driver, and where its pages come from; tests play both.
pub trait Driver {
    /// Memory that can be given to an enclave.
    type Pages: AsMut<[u8]>;
    /// A created enclave.
    type Slot: Created<Pages = Self::Pages>;

    /// Pages for so much memory, of this NUMA node.
    ///
    /// # Errors
    /// There are too few.
    fn take(&self, host: &Host, memory_mib: u64, node: Option<u32>) -> Result<Vec<Self::Pages>, Error>;

    /// See [`Device::create`].
    ///
    /// # Errors
    /// The kernel's number.
    fn create(&self) -> Result<Self::Slot, Errno>;
}

/// A created enclave, with the calls of [`Slot`].
pub trait Created {
    /// Memory to give.
    type Pages;

    /// See [`Slot::number`].
    fn number(&self) -> u64;
    /// See [`Slot::load_offset`].
    fn load_offset(&self) -> Result<u64, Errno>;
    /// See [`Slot::add_memory`].
    fn add_memory(&mut self, pages: Self::Pages) -> Result<(), Errno>;
    /// See [`Slot::add_cpu`].
    fn add_cpu(&mut self, cpu: Option<u32>) -> Result<u32, Errno>;
    /// See [`Slot::start`].
    fn start(self, cid: Option<u32>, debug: bool) -> Result<(Running, u32), Errno>;
}

impl Driver for Device {
    type Pages = Pages;
    type Slot = Slot;

    fn take(&self, host: &Host, memory_mib: u64, node: Option<u32>) -> Result<Vec<Pages>, Error> {
        memory::take(host, memory_mib, node)
    }

    fn create(&self) -> Result<Slot, Errno> {
        self.create()
    }
}

impl Created for Slot {
    type Pages = Pages;

    fn number(&self) -> u64 {
        self.number()
    }

    fn load_offset(&self) -> Result<u64, Errno> {
        self.load_offset()
    }

    fn add_memory(&mut self, pages: Pages) -> Result<(), Errno> {
        self.add_memory(pages)
    }

    fn add_cpu(&mut self, cpu: Option<u32>) -> Result<u32, Errno> {
        self.add_cpu(cpu)
    }

    fn start(self, cid: Option<u32>, debug: bool) -> Result<(Running, u32), Errno> {
        self.start(cid, debug)
    }
}

/// Starts the enclave, unless it is `unwanted` before that; after an error nothing of it is left.
///
/// # Errors
/// [`Error`], with what the host says about it.
pub fn start<D: Driver>(
    launch: &Launch,
    host: &Host,
    driver: &D,
    unwanted: &dyn Fn() -> bool,
) -> Result<(Facts, Running), Error> {
    attempt(launch, host, driver, unwanted).map_err(|error| explain(host, error))
}

fn attempt<D: Driver>(
    launch: &Launch,
    host: &Host,
    driver: &D,
    unwanted: &dyn Fn() -> bool,
) -> Result<(Facts, Running), Error> {
    // The pool is of one node, and so must be the memory.
    let node = host.pool()?.first().and_then(|cpu| host.node_of(*cpu));
    let mut tried = 1;
    let Filled { mut slot, bytes } = loop {
        match fill(launch, host, driver, node) {
            // The slot is gone with what it had, as the driver wants it after an error.
            Err(error) if error.errno() == Some(MAX_REGIONS) && tried < TRIES => tried += 1,
            other => break other?,
        }
    };
    let cpu_ids = add_cpus(&launch.cpus, &mut slot)?;
    if unwanted() {
        return Err(Error::Stopped);
    }
    let slot_number = slot.number();
    let (running, cid) = slot.start(launch.cid, launch.debug).map_err(Error::driver("starting the enclave"))?;
    Ok((Facts { cid, cpu_ids, memory_mib: bytes / MIB, slot: slot_number }, running))
}

/// An enclave with all its memory, the image in it.
struct Filled<S> {
    slot: S,
    bytes: u64,
}

fn fill<D: Driver>(launch: &Launch, host: &Host, driver: &D, node: Option<u32>) -> Result<Filled<D::Slot>, Error> {
    let mut regions = driver.take(host, launch.memory_mib, node)?;
    let mut slot = driver.create().map_err(Error::driver("creating the enclave"))?;
    let offset = slot.load_offset().map_err(Error::driver("asking where the image goes"))?;
    memory::Loaded::read(&launch.file, launch.size, offset, &mut regions)?.check()?;
    let mut bytes = 0;
    for mut pages in regions {
        let size = pages.as_mut().len() as u64;
        let doing = format!("giving {} MiB to the enclave", size / MIB);
        slot.add_memory(pages).map_err(Error::driver(doing))?;
        bytes += size;
    }
    Ok(Filled { slot, bytes })
}

fn add_cpus(cpus: &Cpus, slot: &mut impl Created) -> Result<Vec<u32>, Error> {
    let wanted: Vec<Option<u32>> = match cpus {
        Cpus::Count(count) => (0..*count).map(|_| None).collect(),
        Cpus::Ids(ids) => ids.iter().copied().map(Some).collect(),
    };
    let total = wanted.len();
    let mut given = Vec::new();
    for cpu in wanted {
        let doing = match cpu {
            Some(cpu) => format!("adding CPU {cpu}"),
            None => format!("adding CPU {} of {total}", given.len() + 1),
        };
        given.push(slot.add_cpu(cpu).map_err(Error::driver(doing))?);
    }
    Ok(given)
}

/// Adds what the host has to what the driver said about its CPUs.
fn explain(host: &Host, error: Error) -> Error {
    let about_cpus = matches!(error.errno(), Some(256..=258 | 269 | 271 | 272));
    let Some(pool) = host.pool().ok().filter(|_| about_cpus) else { return error };
    let threads = host.threads_per_core();
    error.with_help([format!("the pool of CPUs for enclaves is {}; a core has {threads}", host::show(&pool))])
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
