//! The heartbeat: tells the parent that the enclave has booted, as AWS's init does and nitro-cli expects.

use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::report::{HEARTBEAT, HEARTBEAT_PORT, PARENT_CID};
use crate::sys;

/// How long a connection may take, in milliseconds. A parent without a listener refuses at once.
const CONNECT: u64 = 10_000;
/// How long the answer may take, in milliseconds.
const ANSWER: u64 = 60_000;

/// Sends the byte and waits for it to come back.
pub fn exchange() -> Result<(), Failure> {
    let unheard = |errno| {
        let refused = matches!(errno, Errno::ECONNRESET | Errno::ECONNREFUSED);
        let reason = if refused { "no listener at CID 3 port 9000" } else { "no connection to CID 3 port 9000" };
        Failure::new("heartbeat", errno).because(reason)
    };
    let parent = sys::connect(PARENT_CID, HEARTBEAT_PORT, CONNECT, ANSWER).map_err(unheard)?;
    sys::send(&parent, &[HEARTBEAT]).at("heartbeat")?;
    let mut answer = [0];
    match sys::read(&parent, &mut answer) {
        Ok(1) if answer == [HEARTBEAT] => Ok(()),
        Ok(0) => Err(Failure::new("heartbeat", Errno::ECONNRESET).because("the parent closed without an answer")),
        Ok(_) => Err(Failure::new("heartbeat", Errno::EPROTO).because("the parent's answer is not 0xb7")),
        Err(Errno::EAGAIN) => Err(Failure::new("heartbeat", Errno::ETIMEDOUT).because("the parent does not answer")),
        Err(other) => Err(other).at("heartbeat"),
    }
}
