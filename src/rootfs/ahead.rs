//! Reads ahead on a thread of its own, so that reading, inflating and hashing of one layer share the cores: an image may
//! have one large layer.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope};

/// Bytes that are read at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// How many chunks may wait to be taken.
const QUEUE: usize = 4;

/// The bytes of a reader, read by another thread.
pub(super) struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    /// Where chunks go that have been taken, to be filled again.
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    end: bool,
}

impl Ahead {
    /// Begins to read. The thread ends with the reader, with its first error, or when this is dropped.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn new<'scope>(scope: &'scope Scope<'scope, '_>, inner: impl Read + Send + 'scope) -> io::Result<Self> {
        let (to_taker, full) = sync_channel(QUEUE);
        let (empty, from_taker) = channel();
        Builder::new().name("eif-ahead".to_owned()).spawn_scoped(scope, move || pump(inner, &to_taker, &from_taker))?;
        Ok(Self { full, empty, chunk: Vec::new(), at: 0, end: false })
    }

    fn refill(&mut self) -> io::Result<()> {
        // The thread may have ended; then nobody needs the buffer.
        let _ = self.empty.send(std::mem::take(&mut self.chunk));
        self.at = 0;
        let gone = |_| io::Error::other("a thread that reads ahead is gone");
        self.chunk = self.full.recv().map_err(gone)??;
        self.end = self.chunk.is_empty();
        Ok(())
    }
}

impl BufRead for Ahead {
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

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.fill_buf()?).read(out)?;
        self.consume(count);
        Ok(count)
    }
}

/// Sends full chunks, a shorter last one and an empty one, or an error.
fn pump(mut inner: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let chunk = filled(&mut inner, empty.try_recv().unwrap_or_default());
        let last = chunk.as_ref().map_or(true, Vec::is_empty);
        if full.send(chunk).is_err() || last {
            return;
        }
    }
}

fn filled(inner: &mut impl Read, mut chunk: Vec<u8>) -> io::Result<Vec<u8>> {
    chunk.resize(CHUNK, 0);
    let mut end = 0_usize;
    while let Some(rest) = chunk.get_mut(end..).filter(|rest| !rest.is_empty()) {
        match inner.read(rest) {
            Ok(0) => break,
            Ok(count) => end = end.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(end);
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in small pieces, then an error if there is one.
    struct Source<'a>(&'a [u8], Option<io::ErrorKind>);

    impl Read for Source<'_> {
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
            let mut got = Vec::new();
            std::thread::scope(|scope| {
                Ahead::new(scope, Source(&bytes[..length], None)).unwrap().read_to_end(&mut got).unwrap();
            });
            assert!(got == bytes[..length], "{length}");
        }
    }

    #[test]
    fn an_error_comes_and_is_no_end() {
        std::thread::scope(|scope| {
            let mut ahead = Ahead::new(scope, Source(b"abc", Some(io::ErrorKind::TimedOut))).unwrap();
            let error = ahead.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(ahead.fill_buf().is_err());
        });
    }

    /// More is there than the queue takes: without an end of the thread this test would not end.
    #[test]
    fn a_reader_that_is_dropped_ends_its_thread() {
        std::thread::scope(|scope| {
            let mut ahead = Ahead::new(scope, io::repeat(1)).unwrap();
            assert_eq!(ahead.fill_buf().unwrap().len(), CHUNK);
        });
    }
}
