//! Stages of the reading of layers - hashing of what is stored, inflating - that threads share: a stage gives chunks, and
//! whoever comes for the next one reads it himself, or finds it read by somebody who had nothing else to do. A layer is
//! read by one thread while all have layers, and by several when the last ones are left. Where a stage can be read in
//! parts, whoever then has nothing to do reads the next part.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crate::chunk::{self, CHUNK, Chunk};
use crate::crew::{Board, Crew};

/// How many chunks of a stage may wait to be taken.
const QUEUE: usize = 4;
/// How many chunks of all parts may wait, beside one that a layer waits for itself: 10 MiB.
const AHEAD: usize = 40;

/// All stages of all layers that are being read.
#[derive(Clone)]
pub(super) struct Stages<'env>(Arc<Crew<All<'env>>>);

impl<'env> Stages<'env> {
    /// None yet, of so many layers.
    pub(super) fn new(layers: usize) -> Self {
        Self(Arc::new(Crew::new(All { stages: BTreeMap::new(), next: 0, spare: Vec::new(), layers })))
    }

    /// Makes a stage of what `source` reads.
    pub(super) fn join(&self, source: impl Read + Send + 'env) -> Chunks<'env> {
        self.add(source, false)
    }

    /// Makes a stage of what `sources` read, one after another.
    pub(super) fn join_parts<I>(&self, sources: I) -> Parts<'env, I::IntoIter>
    where
        I: IntoIterator<Item: Read + Send + 'env>,
    {
        let mut sources = sources.into_iter();
        let mut part = || sources.next().map(|source| self.add(source, true));
        let current = part().unwrap_or_else(|| self.join(io::empty()));
        Parts { current, next: part(), sources, stages: self.clone() }
    }

    /// A `part` is one of several sources, the one that is taken now or the next: it is read ahead by those who have
    /// nothing else to do, until as much waits as may wait of all parts.
    fn add(&self, source: impl Read + Send + 'env, part: bool) -> Chunks<'env> {
        let source = Box::new(source);
        let mut all = self.0.board();
        let number = all.next;
        all.next = number.saturating_add(1);
        all.stages.insert(number, Stage { source: Some(source), full: VecDeque::new(), ended: false, part });
        drop(all);
        self.0.wake();
        Chunks { stages: self.clone(), number, chunk: Chunk::new(), at: 0, end: false }
    }

    /// Begins a layer, which ends when what is given here is dropped.
    pub(super) fn layer(&self) -> Layer<'_, 'env> {
        Layer(self)
    }

    /// Reads ahead, whatever there is, until all layers have ended.
    pub(super) fn help(&self) {
        drop(self.0.board().until(|all| all.layers == 0, |all| all.take(None)));
    }
}

/// One of the layers.
pub(super) struct Layer<'a, 'env>(&'a Stages<'env>);

impl Drop for Layer<'_, '_> {
    fn drop(&mut self) {
        let mut all = self.0.0.board();
        // Of a thread that panics nobody knows whether it would have begun another layer.
        all.layers = if std::thread::panicking() { 0 } else { all.layers.saturating_sub(1) };
        drop(all);
        self.0.0.wake();
    }
}

struct All<'env> {
    /// By number, which is never that of another: a job may come back when its stage is gone.
    stages: BTreeMap<u64, Stage<'env>>,
    /// The number of the next stage.
    next: u64,
    /// Chunks that have been taken, to be filled again.
    spare: Vec<Chunk>,
    /// Those that have not ended.
    layers: usize,
}

struct Stage<'env> {
    /// Nothing while somebody reads, and after the end.
    source: Option<Box<dyn Read + Send + 'env>>,
    /// Full chunks, a shorter last one and an empty one, or an error.
    full: VecDeque<io::Result<Chunk>>,
    /// Nothing comes after what waits.
    ended: bool,
    /// Whether it is one of several that follow one another.
    part: bool,
}

/// A chunk to be read.
struct Job<'env> {
    stage: u64,
    source: Box<dyn Read + Send + 'env>,
    chunk: Chunk,
    read: io::Result<usize>,
}

impl<'env> All<'env> {
    /// Whether the next chunk of a stage is there, or will never be.
    fn is_ready(&self, number: u64) -> bool {
        self.stages.get(&number).is_none_or(|stage| stage.ended || !stage.full.is_empty())
    }

    /// The next chunk of a stage, and whether others may read one more for it.
    fn next(&mut self, number: u64) -> (Option<io::Result<Chunk>>, bool) {
        let waiting = self.waiting();
        let Some(stage) = self.stages.get_mut(&number) else { return (None, false) };
        let had_no_room = if stage.part { waiting >= AHEAD } else { stage.full.len() >= QUEUE };
        (stage.full.pop_front(), had_no_room)
    }

    /// Chunks that wait in all parts, or will: those that are being read.
    fn waiting(&self) -> usize {
        let of = |stage: &Stage| stage.full.len().saturating_add((stage.source.is_none() && !stage.ended).into());
        self.stages.values().filter(|stage| stage.part).map(of).sum()
    }

    /// The next chunk of a stage that nobody reads and that has room: the `first`, or that which has least waiting, parts
    /// last of all. A later stage of a layer goes before an earlier one, whose chunks it takes.
    fn take(&mut self, first: Option<u64>) -> Option<Job<'env>> {
        let waiting = self.waiting();
        let idle = self.stages.iter_mut().rev().filter(|(number, stage)| {
            let room = match stage.part {
                // Of the first one the next chunk is wanted, whatever waits of others.
                true => waiting < AHEAD || (first == Some(**number) && stage.full.is_empty()),
                false => stage.full.len() < QUEUE,
            };
            stage.source.is_some() && room
        });
        let (number, stage) =
            idle.min_by_key(|(number, stage)| (first != Some(**number), stage.part, stage.full.len()))?;
        let chunk = self.spare.pop().unwrap_or_default();
        Some(Job { stage: *number, source: stage.source.take()?, chunk, read: Ok(0) })
    }
}

impl<'env> Board for All<'env> {
    type Job = Job<'env>;
    /// A source at its end: it may have stages of its own.
    type Rest = Option<Box<dyn Read + Send + 'env>>;

    fn work(job: &mut Job<'env>) {
        job.read = job.chunk.fill(&mut job.source, CHUNK);
    }

    fn put_back(&mut self, Job { stage, source, chunk, read }: Job<'env>) -> Self::Rest {
        let Some(stage) = self.stages.get_mut(&stage) else { return Some(source) };
        stage.ended = !matches!(read, Ok(1..));
        stage.full.push_back(read.map(|_| chunk));
        if stage.ended {
            return Some(source);
        }
        stage.source = Some(source);
        None
    }
}

/// The bytes of a stage, a chunk at a time.
pub(super) struct Chunks<'env> {
    stages: Stages<'env>,
    number: u64,
    chunk: Chunk,
    at: usize,
    end: bool,
}

impl Chunks<'_> {
    fn refill(&mut self) -> io::Result<()> {
        let crew = &self.stages.0;
        self.at = 0;
        self.chunk.clear();
        let (number, first) = (self.number, Some(self.number));
        let mut all = crew.board().until(|all| all.is_ready(number), |all| all.take(first));
        let (next, room) = all.next(number);
        if room {
            crew.wake();
        }
        let next = next.unwrap_or_else(|| Err(io::Error::other("nothing is read after an error")))?;
        all.spare.push(std::mem::replace(&mut self.chunk, next));
        self.end = self.chunk.is_empty();
        Ok(())
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        let mut all = self.stages.0.board();
        let stage = all.stages.remove(&self.number);
        // Its source may have stages of its own.
        drop(all);
        drop(stage);
        // Its chunks leave room for those of others.
        self.stages.0.wake();
    }
}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.chunk.len() && !self.end {
            self.refill()?;
        }
        Ok(self.chunk.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.chunk.len());
    }
}

/// The bytes of sources that follow one another. While those of one are taken, the next one is read ahead.
pub(super) struct Parts<'env, I> {
    current: Chunks<'env>,
    next: Option<Chunks<'env>>,
    sources: I,
    stages: Stages<'env>,
}

impl<'env, I: Iterator<Item: Read + Send + 'env>> BufRead for Parts<'env, I> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.fill_buf()?.is_empty() {
            let Some(next) = self.next.take() else { break };
            self.current = next;
            self.next = self.sources.next().map(|source| self.stages.add(source, true));
        }
        self.current.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.current.consume(count);
    }
}

impl<'env, I: Iterator<Item: Read + Send + 'env>> Read for Parts<'env, I> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        chunk::read_buffered(self, out)
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        chunk::read_buffered(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: usize = 3;

    /// Enough for a dozen chunks.
    fn bytes() -> Vec<u8> {
        (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// Gives its bytes in small pieces, then an error if there is one.
    struct Bytes<'a>(&'a [u8], Option<io::ErrorKind>);

    impl Read for Bytes<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.1 {
                Some(kind) if self.0.is_empty() => Err(kind.into()),
                _ => {
                    let most = buffer.len().min(70_001);
                    self.0.read(&mut buffer[..most])
                }
            }
        }
    }

    /// What comes of two stages of each of three layers, read by two threads and helped by so many others.
    fn through_stages(bytes: &[u8], helpers: usize) -> Vec<Vec<u8>> {
        let stages = Stages::new(LAYERS);
        let read = |_| {
            let _layer = stages.layer();
            let mut got = Vec::new();
            stages.join(stages.join(Bytes(bytes, None))).read_to_end(&mut got).unwrap();
            got
        };
        std::thread::scope(|scope| {
            (0..helpers).for_each(|_| drop(scope.spawn(|| stages.help())));
            let other = scope.spawn(|| read(0));
            let mut all: Vec<_> = (1..LAYERS).map(read).collect();
            all.push(other.join().unwrap());
            all
        })
    }

    #[test]
    fn all_bytes_come_in_their_order() {
        let bytes = bytes();
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, bytes.len()] {
            for helpers in [0, 1, 4] {
                let got = through_stages(&bytes[..length], helpers);
                assert_eq!(got.len(), LAYERS);
                assert!(got.iter().all(|got| *got == bytes[..length]), "{length} bytes, {helpers} helpers");
            }
        }
    }

    #[test]
    fn parts_come_one_after_another() {
        let bytes = bytes();
        for size in [1_000_003, CHUNK, bytes.len()] {
            for helpers in [0, 1, 4] {
                let stages = Stages::new(1);
                std::thread::scope(|scope| {
                    let layer = stages.layer();
                    (0..helpers).for_each(|_| drop(scope.spawn(|| stages.help())));
                    let mut got = Vec::new();
                    let parts = bytes.chunks(size).map(|part| Bytes(part, None));
                    stages.join_parts(parts).read_to_end(&mut got).unwrap();
                    assert!(got == bytes, "parts of {size} bytes, {helpers} helpers");
                    drop(layer);
                });
                assert!(stages.0.board().stages.is_empty());
            }
        }
        let stages = Stages::new(1);
        assert_eq!(stages.join_parts(Vec::<&[u8]>::new()).read_to_end(&mut Vec::new()).unwrap(), 0);
        let parts = [Bytes(b"abc", Some(io::ErrorKind::TimedOut)), Bytes(b"def", None)];
        let error = stages.join_parts(parts).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// What waits of all parts is bounded, and yet everybody gets what he waits for.
    #[test]
    fn parts_wait_within_a_bound() {
        let stages = Stages::new(3);
        let layers: Vec<_> = (0..3).map(|_| stages.layer()).collect();
        let mut all: Vec<_> = (0..3).map(|_| stages.join_parts([io::repeat(1), io::repeat(2)])).collect();
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| stages.help())));
            drop(stages.0.board().until(|board| board.waiting() == AHEAD, |_| None));
            assert!(stages.0.board().take(None).is_none());
            for parts in &mut all {
                for _ in 0..2 * AHEAD {
                    assert_eq!(parts.fill_buf().unwrap().len(), CHUNK);
                    parts.consume(CHUNK);
                    assert!(stages.0.board().waiting() <= AHEAD + 1);
                }
            }
            drop((all, layers));
        });
    }

    #[test]
    fn an_error_comes_and_is_no_end() {
        let stages = Stages::new(1);
        let mut chunks = stages.join(Bytes(b"abc", Some(io::ErrorKind::TimedOut)));
        let error = chunks.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(chunks.fill_buf().is_err());
    }

    /// More is there than the queue takes, and a helper is there to read it.
    #[test]
    fn a_stage_that_is_dropped_is_read_no_further() {
        let stages = Stages::new(1);
        std::thread::scope(|scope| {
            let layer = stages.layer();
            scope.spawn(|| stages.help());
            let mut chunks = stages.join(stages.join(io::repeat(1)));
            assert_eq!(chunks.fill_buf().unwrap().len(), CHUNK);
            drop((chunks, layer));
        });
        assert!(stages.0.board().stages.is_empty());
    }

    /// Nobody reads while the first chunk has not been taken but those who help, and they stop at the queue's end.
    #[test]
    fn helpers_read_as_much_as_may_wait() {
        let stages = Stages::new(1);
        let layer = stages.layer();
        let mut chunks = stages.join(io::repeat(1));
        std::thread::scope(|scope| {
            scope.spawn(|| stages.help());
            let waiting = |all: &All| all.stages.values().all(|stage| stage.full.len() == QUEUE);
            drop(stages.0.board().until(waiting, |_| None));
            assert!(stages.0.board().take(None).is_none());
            assert_eq!(chunks.fill_buf().unwrap().len(), CHUNK);
            drop(stages.0.board().until(waiting, |_| None));
            drop(layer);
        });
    }
}
