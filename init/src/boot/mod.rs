//! The steps from the kernel's hand-over to the machine's end, in order, one file each.
//!
//! [`console`] · what to run is read · [`mounts::early`] · [`modules`] · [`network`] · [`entropy`] · [`heartbeat`] ·
//! [`root`] · [`attributes`] · [`mounts::all`] · [`application`] · [`reaper`] · [`end`].
//!
//! The kernel's command line has no influence: what the kernel makes of words it does not know (arguments and
//! environment of PID 1) is never looked at.

mod application;
mod attributes;
mod console;
mod end;
mod entropy;
mod failure;
mod heartbeat;
mod modules;
mod mounts;
mod network;
mod reaper;
mod root;

use crate::errno::Errno;
use crate::process::{self, Process};
use crate::sys::{self, Ending};
use crate::xattrs::{self, Attributes};
use failure::{At, Failure};

pub use end::panicked;

/// The program. Its arguments are not read.
pub fn run(_stack: *const usize) -> ! {
    if sys::process_id() != 1 {
        console::say(b"eif-init: start: runs only as PID 1 of an enclave (EPERM)");
        sys::exit(1);
    }
    sys::block(reaper::waited_for());
    end::catch_faults();
    match boot() {
        Ok(ending) => end::ended(ending),
        Err(failure) => end::failed(&failure),
    }
}

/// All steps up to the application's end.
fn boot() -> Result<Ending, Failure> {
    console::open()?;
    let (process, attributes) = (read_process()?, read_attributes()?);
    root::check()?;
    mounts::early()?;
    modules::load()?;
    network::start()?;
    entropy::seed()?;
    heartbeat::exchange()?;
    root::switch()?;
    attributes.map_or(Ok(()), attributes::apply)?;
    mounts::all()?;
    let child = application::start(&process)?;
    Ok(reaper::until_end(child))
}

/// Reads what to run, first of all: after an unpacking that was cut short nothing else can be relied on.
fn read_process() -> Result<Process<'static>, Failure> {
    let bytes = sys::read_file(c"/process").map_err(|errno| match errno {
        // The build writes it behind all else, so that it is missing after an unpacking that was cut short.
        Errno::ENOENT => Failure::new("process", errno).because(
            "the application's ramdisk was not wholly unpacked; the usual cause is too little memory for the enclave",
        ),
        other => Failure::new("process", other),
    })?;
    process::parse(bytes).map_err(|broken| Failure::new("process", Errno::EINVAL).because(broken.reason()))
}

fn read_attributes() -> Result<Option<Attributes<'static>>, Failure> {
    let bytes = match sys::read_file(c"/xattrs") {
        Err(Errno::ENOENT) => return Ok(None),
        other => other.at("xattrs")?,
    };
    let checked = xattrs::parse(bytes).and_then(|attributes| {
        attributes.clone().try_for_each(|record| record.map(drop))?;
        Ok(attributes)
    });
    checked.map(Some).map_err(|broken| Failure::new("xattrs", Errno::EINVAL).because(broken.reason()))
}
