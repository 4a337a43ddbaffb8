//! SHA-256 in steps. With the states that a hash had on its way, several threads can check a stream at once: a step begins
//! in one state and has to end in the next, the last one in the digest. Whoever has checked all steps has computed the
//! digest, whoever wrote the states: they need not be trusted.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used)]

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use super::archive::Range;
use super::{Digest, Error};

/// Bytes of a step: enough that a thread is not held up, few enough that what is read ahead of its turn can wait in
/// memory.
const STEP: u64 = 8 << 20;

/// SHA-256's state as `sha2` writes it. One that another version has written differently does not fit, and then the
/// stream counts as damaged: it is made anew.
type State = SerializedState<Sha256>;

/// A running SHA-256 that notes its states.
#[derive(Debug, Default)]
pub(crate) struct Stepping {
    hasher: Sha256,
    /// Bytes since the last state.
    since: u64,
    steps: Steps,
}

/// The states of a hash after each [`STEP`] bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Steps(Vec<State>);

/// Reads one step, and fails at its end unless the hash is then what it has to be.
pub(crate) struct Step {
    bytes: Range<Arc<fs::File>>,
    hasher: Sha256,
    goal: Goal,
    what: String,
}

enum Goal {
    State(State),
    Digest(Digest),
}

impl Stepping {
    /// Adds bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(STEP.saturating_sub(self.since)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.since = self.since.saturating_add(now.len() as u64);
            if self.since == STEP {
                self.steps.0.push(self.hasher.serialize());
                self.since = 0;
            }
            bytes = later;
        }
    }

    /// The digest of all bytes, and the states on the way.
    pub(crate) fn finish(self) -> (Digest, Steps) {
        (Digest::from_bytes(self.hasher.finalize().into()), self.steps)
    }
}

impl Steps {
    /// One state after another.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }

    /// States from their bytes; `None` where these are none, none at all included.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let states = bytes.chunks(State::default().len()).map(State::try_from);
        let states: Vec<_> = states.collect::<Result<_, _>>().ok()?;
        let sound = states.iter().all(|state| Sha256::deserialize(state).is_ok());
        (sound && !states.is_empty()).then_some(Self(states))
    }

    /// Readers of all steps of `file`, in their order, which are to be read to their ends: together they give all of it,
    /// and fail unless it has `digest`. `what` names it in messages.
    pub(crate) fn readers(self, file: fs::File, digest: Digest, what: &str) -> impl Iterator<Item = Step> + use<> {
        let (file, what) = (Arc::new(file), what.to_owned());
        let goals = self.0.into_iter().map(Some).chain([None]);
        let mut next = Some(Sha256::new());
        goals.zip(0_u64..).map_while(move |(state, number)| {
            let hasher = next.take()?;
            let (goal, size) = match state {
                Some(state) => {
                    next = Sha256::deserialize(&state).ok();
                    (Goal::State(state), STEP)
                }
                None => (Goal::Digest(digest), u64::MAX),
            };
            let bytes = Range::new(Arc::clone(&file), number.saturating_mul(STEP), size);
            Some(Step { bytes, hasher, goal, what: what.clone() })
        })
    }
}

impl Step {
    fn finish(&self) -> io::Result<()> {
        match &self.goal {
            Goal::State(want) if self.hasher.serialize() != *want => {
                Err(io::Error::other(format!("{}: it is not what was written", self.what)))
            }
            Goal::State(_) => Ok(()),
            Goal::Digest(want) => {
                let got = Digest::from_bytes(self.hasher.clone().finalize().into());
                let wrong = || Error::DigestMismatch { what: self.what.clone(), want: *want, got };
                if got == *want { Ok(()) } else { Err(wrong().into()) }
            }
        }
    }
}

impl Read for Step {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.bytes.read(buffer)?;
        if count == 0 {
            self.finish()?;
        }
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    /// So many bytes, of which no step is like another.
    fn bytes(length: u64) -> Vec<u8> {
        (0..length).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    fn steps(bytes: &[u8]) -> (Digest, Steps) {
        let mut stepping = Stepping::default();
        bytes.chunks(100_003).for_each(|piece| stepping.update(piece));
        stepping.finish()
    }

    /// What the readers of a file with `bytes` give, each read on its own, the last one first.
    fn read(bytes: &[u8], digest: Digest, steps: &Steps) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let readers: Vec<Step> = steps.clone().readers(file, digest, "it").collect();
        let read = |mut step: Step| {
            let mut bytes = Vec::new();
            step.read_to_end(&mut bytes).map(|_| bytes)
        };
        let mut parts: Vec<_> = readers.into_iter().rev().map(read).collect::<io::Result<_>>()?;
        parts.reverse();
        Ok(parts.concat())
    }

    #[test]
    fn the_steps_together_are_the_stream() {
        for (length, count) in [(0, 0), (STEP - 1, 0), (STEP, 1), (STEP + 1, 1), (2 * STEP, 2), (2 * STEP + 77, 2)] {
            let bytes = bytes(length);
            let (digest, steps) = steps(&bytes);
            assert_eq!((digest, steps.0.len()), (Digest::of(&bytes), count), "{length}");
            assert!(read(&bytes, digest, &steps).unwrap() == bytes, "{length}");
            let none = Steps::default();
            assert!(read(&bytes, digest, &none).unwrap() == bytes, "{length}, without steps");
            let again = Steps::from_bytes(&steps.to_bytes());
            assert_eq!(again, (count > 0).then_some(steps), "{length}");
        }
    }

    /// Whatever is wrong, a byte of any step, the length, a state, the digest: some step says so.
    #[test]
    fn nothing_else_passes() {
        let right = bytes(2 * STEP + 77);
        let (digest, steps) = steps(&right);
        for at in [0, STEP - 1, STEP, 2 * STEP, 2 * STEP + 76] {
            let mut wrong = right.clone();
            wrong[at as usize] ^= 1;
            assert!(read(&wrong, digest, &steps).is_err(), "byte {at}");
        }
        for length in [0, STEP, 2 * STEP, 2 * STEP + 76] {
            assert!(read(&right[..length as usize], digest, &steps).is_err(), "{length} bytes");
        }
        assert!(read(&[&right[..], b"x"].concat(), digest, &steps).is_err());
        assert!(read(&right, Digest::of(b"x"), &steps).is_err());
        let written = steps.to_bytes();
        assert!(Steps::from_bytes(&written[1..]).is_none());
        assert!(Steps::from_bytes(b"").is_none());
        for at in 0..written.len() {
            let mut wrong = written.clone();
            wrong[at] ^= 1;
            // Read whole only where it matters: that takes long.
            let wrong = Steps::from_bytes(&wrong);
            if let Some(wrong) = wrong.filter(|_| at % 35 == 0) {
                assert!(read(&right, digest, &wrong).is_err(), "byte {at} of the states");
            }
        }
    }
}
