//! Plain tars on disk: where the contents of files stay between the first pass and the second.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use super::layer::Budget;
use super::tree::{Content, Extent};

/// Bytes that are read, hashed and written at a time.
const CHUNK: usize = 256 << 10;

/// Why writing the spool failed; carried through `io::Error` so that it is not taken for a fault of the layer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WriteFailed(pub(super) io::Error);

/// Why no more is spooled: the limit.
#[derive(Debug, thiserror::Error)]
#[error("the layers are larger than the limit")]
pub(super) struct OverLimit;

/// Reads a plain tar once, and on the way hashes it and copies it to the spool.
pub(super) struct Tee<'a, R> {
    inner: R,
    spool: File,
    budget: &'a Budget,
    hasher: Sha256,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<'a, R: Read> Tee<'a, R> {
    /// Copies to `spool` as much as the budget has.
    pub(super) fn new(inner: R, spool: File, budget: &'a Budget) -> Self {
        let buffer = vec![0; CHUNK].into_boxed_slice();
        Self { inner, spool, budget, hasher: Sha256::new(), buffer, at: 0, end: 0 }
    }

    /// Reads what is left, so that every check at the end is made; gives the spool and the SHA-256.
    pub(super) fn finish(mut self) -> io::Result<(File, [u8; 32])> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        Ok((self.spool, self.hasher.finalize().into()))
    }

    fn refill(&mut self) -> io::Result<()> {
        let mut end = 0;
        while end < self.buffer.len() {
            let count = match self.inner.read(self.buffer.get_mut(end..).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if count == 0 {
                break;
            }
            end = end.saturating_add(count);
        }
        let fresh = self.buffer.get(..end).unwrap_or_default();
        if !self.budget.take_stored(fresh.len() as u64) {
            return Err(io::Error::other(OverLimit));
        }
        self.hasher.update(fresh);
        self.spool.write_all(fresh).map_err(|error| io::Error::other(WriteFailed(error)))?;
        (self.at, self.end) = (0, end);
        Ok(())
    }
}

impl<R: Read> BufRead for Tee<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.end {
            self.refill()?;
        }
        Ok(self.buffer.get(self.at..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.end);
    }
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        for (to, from) in out.iter_mut().zip(available) {
            *to = *from;
        }
        self.consume(count);
        Ok(count)
    }
}

/// The spooled layers, by index.
#[derive(Debug, Default)]
pub struct Spools {
    files: Vec<File>,
}

impl Spools {
    pub(super) fn new(files: Vec<File>) -> Self {
        Self { files }
    }

    /// The content of a file, from its first byte to its last; holes of sparse files read as zeros.
    pub fn read<'a>(&'a self, content: &'a Content) -> ContentReader<'a> {
        ContentReader { spool: self.files.get(content.layer as usize), content, at: 0 }
    }
}

/// Reads the content of one file out of its spool.
#[derive(Debug)]
pub struct ContentReader<'a> {
    spool: Option<&'a File>,
    content: &'a Content,
    at: u64,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.size.saturating_sub(self.at);
        let (source, run) = self.content.extent.at(self.at);
        let most = usize::try_from(left.min(run)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let count = match (source, self.spool) {
            _ if buffer.is_empty() => 0,
            (None, _) => {
                buffer.fill(0);
                most
            }
            (Some(_), None) => return Err(io::Error::other("the layer has no spool")),
            (Some(offset), Some(spool)) => spool.read_at(buffer, offset)?,
        };
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the spooled layer is cut off"));
        }
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}

impl Extent {
    /// Where byte `at` of the file is: its offset in the spool (or a hole), and for how many bytes that goes on.
    fn at(&self, at: u64) -> (Option<u64>, u64) {
        match self {
            Extent::Plain(offset) => (Some(offset.saturating_add(at)), u64::MAX),
            Extent::Sparse(pieces) => {
                let index = pieces.partition_point(|piece| piece.end() <= at);
                match pieces.get(index) {
                    Some(piece) if piece.start <= at => {
                        let inside = at.saturating_sub(piece.start);
                        (Some(piece.offset.saturating_add(inside)), piece.end().saturating_sub(at))
                    }
                    Some(piece) => (None, piece.start.saturating_sub(at)),
                    None => (None, u64::MAX),
                }
            }
        }
    }
}
