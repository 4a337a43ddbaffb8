//! The parts of the enclave's PID 1 that are pure, so that the host's tests compile them too.
