//! The buffer that files are read and written through. It begins at a page, as every file does in the page cache: copies
//! between the two whose ends lie differently within a cache line take four times as long on some CPUs (`rep movsb` on
//! AMD's Zen 3, measured). So whoever reads or writes a file begins its chunks at multiples of [`CHUNK`] where it can.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::Deref;

/// Bytes of a chunk: small enough for the second-level cache.
pub const CHUNK: usize = 256 << 10;

/// Bytes from this place in a file to the next multiple of [`CHUNK`], at least one.
pub(crate) fn to_boundary(position: u64) -> usize {
    const SIZE: u64 = CHUNK as u64;
    let inside = position.checked_rem(SIZE).unwrap_or(0);
    usize::try_from(SIZE.saturating_sub(inside)).unwrap_or(CHUNK)
}

#[repr(align(4096))]
struct Pages([u8; CHUNK]);

/// At most [`CHUNK`] bytes on their way.
pub struct Chunk {
    pages: Box<Pages>,
    len: usize,
}

impl Chunk {
    /// An empty chunk.
    pub fn new() -> Self {
        Self { pages: Box::new(Pages([0; CHUNK])), len: 0 }
    }

    /// Forgets its bytes.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends as many of `bytes` as there is room for, and says how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.pages.0.get_mut(self.len..).unwrap_or_default();
        let count = room.len().min(bytes.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..count), bytes.get(..count)) {
            room.copy_from_slice(bytes);
        }
        self.len = self.len.saturating_add(count);
        count
    }

    /// Appends what `reader` gives until there are `most` more bytes or no room is left, and says how many: fewer are
    /// the reader's end.
    ///
    /// # Errors
    /// Those of the reader, but not that it was interrupted.
    pub fn fill(&mut self, reader: &mut (impl Read + ?Sized), most: usize) -> io::Result<usize> {
        let (start, end) = (self.len, self.len.saturating_add(most).min(CHUNK));
        while let Some(room) = self.pages.0.get_mut(self.len..end).filter(|room| !room.is_empty()) {
            match reader.read(room) {
                Ok(0) => break,
                Ok(count) => self.len = self.len.saturating_add(count).min(end),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.len.saturating_sub(start))
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.0.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk of {} bytes", self.len)
    }
}

/// [`Read::read`] of what is read through its buffer.
///
/// # Errors
/// Those of the reader.
pub(crate) fn read_buffered(reader: &mut impl BufRead, out: &mut [u8]) -> io::Result<usize> {
    let count = reader.fill_buf()?.read(out)?;
    reader.consume(count);
    Ok(count)
}

/// Gives `taker` all that `reader` has, chunk by chunk.
///
/// # Errors
/// Those of the reader, but not that it was interrupted.
pub(crate) fn each(reader: &mut (impl Read + ?Sized), mut taker: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = Chunk::new();
    while chunk.fill(reader, CHUNK)? > 0 {
        taker(&chunk);
        chunk.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_begins_at_a_page() {
        for _ in 0..4 {
            assert_eq!(Chunk::new().pages.0.as_ptr().addr() % 4096, 0);
        }
    }

    #[test]
    fn a_boundary_is_ahead() {
        let size = CHUNK as u64;
        for (position, ahead) in [(0, CHUNK), (1, CHUNK - 1), (size - 1, 1), (size, CHUNK), (u64::MAX, 1)] {
            assert_eq!(to_boundary(position), ahead, "{position}");
        }
    }

    #[test]
    fn a_chunk_takes_what_there_is_room_for() {
        let mut chunk = Chunk::new();
        assert_eq!(chunk.push(&[1; 3]), 3);
        assert_eq!(chunk.fill(&mut io::repeat(2), 2).unwrap(), 2);
        assert_eq!(*chunk, [1, 1, 1, 2, 2]);
        assert_eq!(chunk.fill(&mut io::repeat(3), CHUNK).unwrap(), CHUNK - 5);
        assert_eq!((chunk.len(), chunk.push(b"4")), (CHUNK, 0));
        chunk.clear();
        assert!(chunk.is_empty());
    }

    /// Gives three bytes at a time, and is interrupted before each.
    struct Slow(usize, bool);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = self.0.min(3).min(buffer.len());
            buffer[..count].fill(7);
            self.0 -= count;
            Ok(count)
        }
    }

    #[test]
    fn each_gives_all_of_it_in_full_chunks() {
        let mut lengths = Vec::new();
        let taken = each(&mut Slow(2 * CHUNK + 1, false), |bytes| {
            assert!(bytes.iter().all(|byte| *byte == 7));
            lengths.push(bytes.len());
        });
        taken.unwrap();
        assert_eq!(lengths, [CHUNK, CHUNK, 1]);
    }
}
