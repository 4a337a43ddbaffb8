//! The loopback interface and the host name: all the network that an enclave has.

use super::failure::{At, Failure};
use crate::sys;

/// The host name, which the build puts into the application's `HOSTNAME` as well.
const NAME: &[u8] = b"enclave";

/// Brings `lo` up and names the machine.
pub fn start() -> Result<(), Failure> {
    sys::loopback_up().at("lo")?;
    sys::set_host_name(NAME).at("hostname")
}
