//! Plain tars on disk: where the contents of files stay between the first pass and the second.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use super::layer::Budget;
use super::tree::{Content, Extent};
use crate::image::Digest;

/// Why writing the spool failed; carried through `io::Error` so that it is not taken for a fault of the layer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WriteFailed(pub(super) io::Error);

/// Why no more is spooled: the limit.
#[derive(Debug, thiserror::Error)]
#[error("the layers are larger than the limit")]
pub(super) struct OverLimit;

/// The digest of what passes.
enum Sum {
    /// Somebody else holds the bytes to it.
    Known(Digest),
    Running(Sha256),
}

/// Reads a plain tar once, and on the way hashes it and copies it to the spool.
pub(super) struct Tee<'a, R> {
    inner: R,
    spool: File,
    budget: &'a Budget,
    sum: Sum,
    /// How many of the bytes that `inner` gives next have passed.
    passed: usize,
}

impl<'a, R: BufRead> Tee<'a, R> {
    /// Copies to `spool` as much as the budget has. `known` is the digest where `inner` fails unless it has that.
    pub(super) fn new(inner: R, spool: File, budget: &'a Budget, known: Option<Digest>) -> Self {
        let sum = known.map_or_else(|| Sum::Running(Sha256::new()), Sum::Known);
        Self { inner, spool, budget, sum, passed: 0 }
    }

    /// Reads what is left, so that every check at the end is made; gives the spool and the SHA-256 of it.
    pub(super) fn finish(mut self) -> io::Result<(File, Digest)> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        let digest = match self.sum {
            Sum::Known(digest) => digest,
            Sum::Running(hasher) => Digest::from_bytes(hasher.finalize().into()),
        };
        Ok((self.spool, digest))
    }
}

impl<R: BufRead> BufRead for Tee<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        let fresh = bytes.get(self.passed..).unwrap_or_default();
        if !fresh.is_empty() {
            if !self.budget.take_stored(fresh.len() as u64) {
                return Err(io::Error::other(OverLimit));
            }
            if let Sum::Running(hasher) = &mut self.sum {
                hasher.update(fresh);
            }
            self.spool.write_all(fresh).map_err(|error| io::Error::other(WriteFailed(error)))?;
            self.passed = bytes.len();
        }
        Ok(bytes)
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.passed);
        self.inner.consume(count);
        self.passed = self.passed.saturating_sub(count);
    }
}

impl<R: BufRead> Read for Tee<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.fill_buf()?).read(out)?;
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
