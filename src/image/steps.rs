//! SHA-256 in steps. With the states that a hash had on its way, two threads can check a stream at once: a step begins in
//! one state and has to end in the next, the last one in the digest. Whoever has checked all steps has computed the
//! digest, whoever wrote the states: they need not be trusted.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used)]

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use super::Digest;
use super::archive::Range;

/// Bytes of a step: enough that a thread is not held up, few enough that what is read ahead of its turn can wait in
/// memory.
const STEP: u64 = 8 << 20;
/// Bytes of a block of SHA-256.
const BLOCK: u64 = 64;
/// Bytes of its eight words.
const WORDS: usize = 32;

/// The eight words of SHA-256, as `sha2` writes them.
type State = [u8; WORDS];

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
    /// Nothing where the state before is none: then it fails.
    hasher: Option<Sha256>,
    goal: Goal,
}

enum Goal {
    State(State),
    Digest(Digest),
}

/// The state of a hash that has seen whole blocks.
fn state_of(hasher: &Sha256) -> State {
    hasher.serialize().first_chunk().copied().unwrap_or_default()
}

/// The hash that has this state after so many blocks: `sha2` writes the words, how many blocks there were, and what waits
/// for the next one, which is nothing.
fn hash_in(state: &State, blocks: u64) -> Option<Sha256> {
    let mut serialized: SerializedState<Sha256> = Sha256::new().serialize();
    serialized.get_mut(..WORDS)?.copy_from_slice(state);
    *serialized.get_mut(WORDS..)?.first_chunk_mut()? = blocks.to_le_bytes();
    Sha256::deserialize(&serialized).ok()
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
                self.steps.0.push(state_of(&self.hasher));
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
    /// Bytes that the steps of a stream of `length` bytes have.
    pub(crate) fn size(length: u64) -> usize {
        usize::try_from(length / STEP).unwrap_or(usize::MAX).saturating_mul(WORDS)
    }

    /// One state after another.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// What [`Steps::to_bytes`] gave. Whatever it is, it is some steps.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.as_chunks().0.to_vec())
    }

    /// Whether there are none: a stream that is shorter than one, or of which nobody knows any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Readers of all steps of `file`, in their order, which are to be read to their ends: together they give all of it,
    /// and one fails unless it has `digest`.
    pub(crate) fn readers(self, file: fs::File, digest: Digest) -> impl Iterator<Item = Step> + use<> {
        let file = Arc::new(file);
        let mut next = Some(Sha256::new());
        let goals = self.0.into_iter().map(Goal::State).chain([Goal::Digest(digest)]);
        goals.zip(0_u64..).map(move |(goal, number)| {
            let hasher = next.take();
            let (start, after) = (number.saturating_mul(STEP), number.saturating_add(1).saturating_mul(STEP / BLOCK));
            let size = match &goal {
                Goal::State(state) => {
                    next = hash_in(state, after);
                    STEP
                }
                Goal::Digest(_) => u64::MAX,
            };
            Step { bytes: Range::new(Arc::clone(&file), start, size), hasher, goal }
        })
    }
}

impl Step {
    fn is_right(&self) -> bool {
        self.hasher.as_ref().is_some_and(|hasher| match &self.goal {
            Goal::State(want) => self.bytes.left() == 0 && state_of(hasher) == *want,
            Goal::Digest(want) => Digest::from_bytes(hasher.clone().finalize().into()) == *want,
        })
    }
}

impl Read for Step {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.bytes.read(buffer)?;
        if count == 0 && !self.is_right() {
            return Err(io::Error::other("it is not what was written"));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
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
        let readers: Vec<Step> = steps.clone().readers(file, digest).collect();
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
            let written = steps.to_bytes();
            assert_eq!((written.len(), Steps::from_bytes(&written)), (Steps::size(length), steps), "{length}");
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
        let mut others =
            vec![written[WORDS..].to_vec(), [&written[..], &written[WORDS..]].concat(), [0xff; 99].to_vec()];
        for at in [0, 7, WORDS - 1, WORDS, 2 * WORDS - 1] {
            others.push(written.clone());
            others.last_mut().unwrap()[at] ^= 1;
        }
        for others in others {
            assert!(read(&right, digest, &Steps::from_bytes(&others)).is_err(), "{others:x?}");
        }
    }
}
