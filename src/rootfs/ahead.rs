//! Reads in chunks, and ahead on a thread of its own where one is to be had, so that reading, inflating and hashing of
//! one layer share the cores: an image may have one large layer.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope};

use crate::chunk::{CHUNK, Chunk};

/// How many chunks may wait to be taken.
const QUEUE: usize = 4;

/// The bytes of a reader, a chunk at a time.
pub(super) struct Chunks<'scope> {
    source: Source<'scope>,
    chunk: Chunk,
    at: usize,
    end: bool,
}

enum Source<'scope> {
    Here(Box<dyn Read + Send + 'scope>),
    Thread {
        full: Receiver<io::Result<Chunk>>,
        /// Where chunks go that have been taken, to be filled again.
        empty: Sender<Chunk>,
    },
}

impl<'scope> Chunks<'scope> {
    /// Reads when it is asked.
    pub(super) fn here(inner: impl Read + Send + 'scope) -> Self {
        Self::of(Source::Here(Box::new(inner)))
    }

    /// Begins to read. The thread ends with the reader, with its first error, or when this is dropped.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn ahead(scope: &'scope Scope<'scope, '_>, inner: impl Read + Send + 'scope) -> io::Result<Self> {
        let (to_taker, full) = sync_channel(QUEUE);
        let (empty, from_taker) = channel();
        Builder::new().name("eif-ahead".to_owned()).spawn_scoped(scope, move || pump(inner, &to_taker, &from_taker))?;
        Ok(Self::of(Source::Thread { full, empty }))
    }

    fn of(source: Source<'scope>) -> Self {
        Self { source, chunk: Chunk::new(), at: 0, end: false }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.at = 0;
        self.chunk.clear();
        match &mut self.source {
            Source::Here(inner) => {
                self.chunk.fill(inner, CHUNK)?;
            }
            Source::Thread { full, empty } => {
                let gone = |_| io::Error::other("a thread that reads ahead is gone");
                let taken = std::mem::replace(&mut self.chunk, full.recv().map_err(gone)??);
                // The thread may have ended; then nobody needs the buffer.
                let _ = empty.send(taken);
            }
        }
        self.end = self.chunk.is_empty();
        Ok(())
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

impl Read for Chunks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.fill_buf()?).read(out)?;
        self.consume(count);
        Ok(count)
    }
}

/// Sends full chunks, a shorter last one and an empty one, or an error.
fn pump(mut inner: impl Read, full: &SyncSender<io::Result<Chunk>>, empty: &Receiver<Chunk>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.clear();
        let read = chunk.fill(&mut inner, CHUNK);
        let last = !matches!(read, Ok(1..));
        if full.send(read.map(|_| chunk)).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn all_bytes_come_in_their_order() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, bytes.len()] {
            for ahead in [false, true] {
                let mut got = Vec::new();
                std::thread::scope(|scope| {
                    let source = Bytes(&bytes[..length], None);
                    let mut chunks = if ahead { Chunks::ahead(scope, source).unwrap() } else { Chunks::here(source) };
                    chunks.read_to_end(&mut got).unwrap();
                });
                assert!(got == bytes[..length], "{length}, ahead {ahead}");
            }
        }
    }

    #[test]
    fn an_error_comes_and_is_no_end() {
        std::thread::scope(|scope| {
            let mut ahead = Chunks::ahead(scope, Bytes(b"abc", Some(io::ErrorKind::TimedOut))).unwrap();
            let error = ahead.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(ahead.fill_buf().is_err());
        });
    }

    /// More is there than the queue takes: without an end of the thread this test would not end.
    #[test]
    fn a_reader_that_is_dropped_ends_its_thread() {
        std::thread::scope(|scope| {
            let mut ahead = Chunks::ahead(scope, io::repeat(1)).unwrap();
            assert_eq!(ahead.fill_buf().unwrap().len(), CHUNK);
        });
    }
}
