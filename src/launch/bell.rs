//! A bell between threads that sleep in poll: an eventfd that is readable from its ringing until it is hushed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// All copies are one bell.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// One that has not rung.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(super) fn ring(&self) {
        // A full counter has rung already.
        let _rung = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Silences it until the next time, and says whether it had rung.
    pub(super) fn hush(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_until_it_is_hushed() {
        let bell = Bell::new().unwrap();
        assert!(!bell.hush());
        let copy = bell.clone();
        copy.ring();
        copy.ring();
        assert!(bell.hush() && !bell.hush() && !copy.hush());
    }
}
