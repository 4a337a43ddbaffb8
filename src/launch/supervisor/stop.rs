//! The wish that an enclave may end: it can be uttered before there is an enclave, and by anyone.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::bell::Bell;

/// Ends the machine.
type Stopper = Box<dyn Fn() + Send>;

/// The wish. All copies are one.
#[derive(Clone)]
pub struct Stop(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Readable for ever once it has been uttered.
    bell: Bell,
}

#[derive(Default)]
struct State {
    asked: bool,
    stopper: Option<Stopper>,
}

impl Stop {
    /// Nobody wants the end yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Inner { state: Mutex::default(), bell: Bell::new()? })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Utters it.
    pub fn ask(&self) {
        let mut state = self.state();
        state.asked = true;
        self.0.bell.ring();
        if let Some(stopper) = &state.stopper {
            stopper();
        }
    }

    /// Whether it has been uttered.
    pub fn asked(&self) -> bool {
        self.state().asked
    }

    /// Says how the machine is ended; at once, if that is what was asked for meanwhile.
    pub fn set(&self, stopper: Stopper) {
        let mut state = self.state();
        if state.asked {
            stopper();
        }
        state.stopper = Some(stopper);
    }

    /// Readable once it has been uttered.
    pub(super) fn bell(&self) -> &Bell {
        &self.0.bell
    }
}
