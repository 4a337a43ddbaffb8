//! Plain tars on disk: where the contents of files stay between the first pass and the second.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layer::Tab;
use super::tree::{Content, Extent, Tree};
use crate::chunk;
use crate::image::{Digest, Stepping, Steps};
use crate::output::Output;

/// Why writing the spool failed; carried through `io::Error` so that it is not taken for a fault of the layer.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(super) struct WriteFailed {
    pub(super) place: String,
    pub(super) source: io::Error,
}

/// Why no more is spooled: the limit.
#[derive(Debug, thiserror::Error)]
#[error("the layers are larger than the limit")]
pub(super) struct OverLimit;

/// The digest of what passes.
enum Sum {
    /// Somebody else holds the bytes to it.
    Known(Digest),
    Running(Stepping),
}

/// Reads a plain tar once, and on the way hashes it and copies it to the spool.
pub(super) struct Tee<'a, R> {
    inner: R,
    spool: Spool,
    tab: &'a Tab<'a>,
    sum: Sum,
    /// How many of the bytes that `inner` gives next have passed.
    passed: usize,
}

impl<'a, R: BufRead> Tee<'a, R> {
    /// Copies to `spool` as much as may be drawn. `known` is the digest where `inner` fails unless it has that.
    pub(super) fn new(inner: R, spool: Spool, tab: &'a Tab<'a>, known: Option<Digest>) -> Self {
        let sum = known.map_or_else(|| Sum::Running(Stepping::default()), Sum::Known);
        Self { inner, spool, tab, sum, passed: 0 }
    }

    /// Reads what is left, so that every check at the end is made; gives the spool, the SHA-256 of it, and the steps to it
    /// where it was computed here.
    pub(super) fn finish(mut self) -> io::Result<(Spool, Digest, Steps)> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        let (digest, steps) = match self.sum {
            Sum::Known(digest) => (digest, Steps::default()),
            Sum::Running(stepping) => stepping.finish(),
        };
        Ok((self.spool, digest, steps))
    }
}

impl<R: BufRead> BufRead for Tee<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        let fresh = bytes.get(self.passed..).unwrap_or_default();
        if !fresh.is_empty() {
            if !self.tab.take_stored(fresh.len() as u64) {
                return Err(io::Error::other(OverLimit));
            }
            if let Sum::Running(stepping) = &mut self.sum {
                stepping.update(fresh);
            }
            let written = self.spool.append(fresh);
            written.map_err(|source| io::Error::other(WriteFailed { place: self.spool.place(), source }))?;
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
        chunk::read_buffered(self, out)
    }
}

/// Where a plain tar is or goes.
#[derive(Debug)]
pub(super) struct Spool {
    place: Place,
    len: u64,
}

#[derive(Debug)]
enum Place {
    /// In files without a name, each of `segment` bytes but the last, so that what has been read can be given back
    /// piece by piece.
    Segments { scratch: PathBuf, segment: u64, files: Vec<File> },
    /// Into a file that is to be kept.
    Keeping(Output),
    /// In a file that was kept: what passes is what is there.
    Kept(File),
}

impl Spool {
    /// An empty one, in the folder `scratch`.
    pub(super) fn new(scratch: &Path, segment: u64) -> Self {
        Self { place: Place::Segments { scratch: scratch.to_owned(), segment, files: Vec::new() }, len: 0 }
    }

    /// An empty one that becomes a file with a name.
    pub(super) fn keeping(output: Output) -> Self {
        Self { place: Place::Keeping(output), len: 0 }
    }

    /// One that is there already, and is read once more only to be checked.
    pub(super) fn kept(file: File) -> Self {
        Self { place: Place::Kept(file), len: 0 }
    }

    /// Whether it is a file that stays.
    pub(super) fn stays(&self) -> bool {
        matches!(self.place, Place::Keeping(_) | Place::Kept(_))
    }

    /// For messages.
    pub(super) fn place(&self) -> String {
        match &self.place {
            Place::Segments { scratch, .. } => scratch.display().to_string(),
            Place::Keeping(output) => output.target().parent().unwrap_or(output.target()).display().to_string(),
            Place::Kept(_) => "the store".to_owned(),
        }
    }

    /// Ends it when it has been found to be the layer: a file that is to be kept gets its name.
    pub(super) fn finish(self) -> io::Result<Spooled> {
        let len = self.len;
        let whole = |file| Spooled { segment: u64::MAX, files: vec![file], len };
        match self.place {
            Place::Segments { segment, files, .. } => Ok(Spooled { segment, files, len }),
            Place::Kept(file) => Ok(whole(file)),
            Place::Keeping(output) => {
                let file = output.file().try_clone()?;
                output.persist().map(|()| whole(file))
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.place {
            Place::Kept(_) => {}
            Place::Keeping(output) => output.write_all(bytes)?,
            Place::Segments { scratch, segment, files } => {
                let (mut at, mut rest) = (self.len, bytes);
                while !rest.is_empty() {
                    let used = at.checked_rem(*segment).unwrap_or(0);
                    if used == 0 {
                        files.push(tempfile::tempfile_in(&*scratch)?);
                    }
                    let room = usize::try_from(segment.saturating_sub(used)).unwrap_or(usize::MAX);
                    let (now, later) = rest.split_at(room.min(rest.len()));
                    files.last_mut().ok_or_else(|| io::Error::other("the spool has no file"))?.write_all(now)?;
                    (at, rest) = (at.saturating_add(now.len() as u64), later);
                }
            }
        }
        self.len = self.len.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

/// A plain tar that is all there.
#[derive(Debug)]
pub(super) struct Spooled {
    /// Bytes of each file but the last.
    segment: u64,
    files: Vec<File>,
    /// Bytes of all.
    pub(super) len: u64,
}

/// The spooled layers, by index.
#[derive(Debug, Default)]
pub struct Spools {
    layers: Vec<Segments>,
    /// Whether a segment is given back when all has been read that [`Spools::read_once`] found in it.
    once: bool,
}

#[derive(Debug)]
struct Segments {
    /// Bytes of each but the last.
    size: u64,
    all: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    file: Mutex<Option<File>>,
    unread: AtomicU64,
}

impl Spools {
    /// Bytes of a segment, for layers of at most `limit` bytes: few enough files for the limit of open ones that most
    /// systems have, 1024.
    pub(super) fn segment(limit: u64) -> u64 {
        limit.div_ceil(256).checked_next_power_of_two().unwrap_or(u64::MAX).max(64 << 20)
    }

    pub(super) fn new(layers: Vec<Spooled>) -> Self {
        let held = |file| Segment { file: Mutex::new(Some(file)), unread: AtomicU64::new(0) };
        let segments =
            |Spooled { segment, files, .. }| Segments { size: segment, all: files.into_iter().map(held).collect() };
        Self { layers: layers.into_iter().map(segments).collect(), once: false }
    }

    /// From now on each file of `tree` is read once, and nothing else is: what was read is given back to the system
    /// while the rest is still being read. A build then writes its file where the layers were, in memory and on disk.
    pub fn read_once(&mut self, tree: &Tree) {
        self.once = true;
        for content in tree.contents() {
            let count = |offset, length| self.count(content.layer, offset, length);
            match &content.extent {
                Extent::Plain(offset) => count(*offset, content.size),
                Extent::Sparse(pieces) => pieces.iter().for_each(|piece| count(piece.offset, piece.length)),
            }
        }
        let all = self.layers.iter().flat_map(|layer| &layer.all);
        all.filter(|segment| segment.unread.load(Ordering::Relaxed) == 0).for_each(Segment::close);
    }

    /// Adds bytes that will be read.
    fn count(&self, layer: u32, mut offset: u64, mut left: u64) {
        while let Some((segment, _, room)) = self.place(layer, offset).filter(|_| left > 0) {
            let now = room.min(left);
            segment.unread.fetch_add(now, Ordering::Relaxed);
            (offset, left) = (offset.saturating_add(now), left.saturating_sub(now));
        }
    }

    /// Which segment a byte is in, where in it, and how many follow there.
    fn place(&self, layer: u32, offset: u64) -> Option<(&Segment, u64, u64)> {
        let Segments { size, all } = self.layers.get(layer as usize)?;
        let number = usize::try_from(offset.checked_div(*size)?).ok()?;
        let inside = offset.checked_rem(*size)?;
        Some((all.get(number)?, inside, size.saturating_sub(inside)))
    }

    fn read_at(&self, layer: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((segment, inside, room)) = self.place(layer, offset) else { return Ok(0) };
        let most = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let count = segment.read_at(buffer.get_mut(..most).unwrap_or_default(), inside)?;
        if self.once && segment.unread.fetch_sub(count as u64, Ordering::Relaxed) <= count as u64 {
            segment.close();
        }
        Ok(count)
    }

    /// The content of a file, from its first byte to its last; holes of sparse files read as zeros.
    pub fn read<'a>(&'a self, content: &'a Content) -> ContentReader<'a> {
        ContentReader { spools: self, content, at: 0 }
    }
}

impl Segment {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = self.file.lock().map_err(|_| io::Error::other("a thread that read the layer is gone"))?;
        file.as_ref().ok_or_else(|| io::Error::other("the spooled layer was read before"))?.read_at(buffer, offset)
    }

    fn close(&self) {
        if let Ok(mut file) = self.file.lock() {
            *file = None;
        }
    }
}

/// Reads the content of one file out of its spool.
#[derive(Debug)]
pub struct ContentReader<'a> {
    spools: &'a Spools,
    content: &'a Content,
    at: u64,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.size.saturating_sub(self.at);
        let (source, run) = self.content.extent.at(self.at);
        let most = usize::try_from(left.min(run)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let count = match source {
            _ if buffer.is_empty() => 0,
            None => {
                buffer.fill(0);
                most
            }
            Some(offset) => self.spools.read_at(self.content.layer, offset, buffer)?,
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

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::super::tree::{Entry, Kind, Metadata, Piece, ROOT};
    use super::*;

    const SEGMENT: u64 = 10;

    fn bytes(len: u8) -> Vec<u8> {
        (1..=len).collect()
    }

    /// A spool of so many bytes that came in pieces.
    fn spooled(len: u8, pieces: usize) -> Spooled {
        let scratch = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(scratch.path(), SEGMENT);
        bytes(len).chunks(pieces).for_each(|piece| spool.append(piece).unwrap());
        assert_eq!(spool.len, u64::from(len));
        spool.finish().unwrap()
    }

    fn read(spools: &Spools, content: &Content) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        spools.read(content).read_to_end(&mut bytes).map(|_| bytes)
    }

    fn open(spools: &Spools) -> Vec<bool> {
        let of = |segment: &Segment| segment.file.lock().unwrap().is_some();
        spools.layers.iter().flat_map(|layer| &layer.all).map(of).collect()
    }

    #[test]
    fn bytes_come_back_across_segments() {
        for (len, segments) in [(0, 0), (1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (35, 4)] {
            for pieces in [1, 3, 10, 11, 40] {
                let spool = spooled(len, pieces);
                assert_eq!(spool.files.len(), segments, "{len} in pieces of {pieces}");
                let spools = Spools::new(vec![spool]);
                for start in 0..len {
                    let size = u64::from(len - start);
                    let content = Content { layer: 0, size, extent: Extent::Plain(start.into()) };
                    assert_eq!(read(&spools, &content).unwrap(), bytes(len)[usize::from(start)..]);
                }
                let beyond = Content { layer: 0, size: 2, extent: Extent::Plain(u64::from(len)) };
                assert_eq!(read(&spools, &beyond).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    /// A tree of files with these contents.
    fn tree(contents: &[Content]) -> Tree {
        let mut tree = Tree::default();
        for (number, content) in contents.iter().enumerate() {
            let inode = tree.add(Metadata::IMPLIED, Kind::File(content.clone()), None);
            tree.link(ROOT, &[b'a' + u8::try_from(number).unwrap()], Entry { inode, layer: 0, explicit: true });
        }
        tree
    }

    #[test]
    fn what_was_read_once_is_given_back() {
        let plain = |layer, offset, size| Content { layer, size, extent: Extent::Plain(offset) };
        let pieces = [Piece { start: 2, length: 3, offset: 8 }, Piece { start: 9, length: 1, offset: 29 }];
        let sparse = Content { layer: 0, size: 12, extent: Extent::Sparse(pieces.into()) };
        let contents = [plain(0, 0, 8), sparse, plain(1, 0, 10)];
        let mut spools = Spools::new(vec![spooled(35, 7), spooled(12, 12)]);
        spools.read_once(&tree(&contents));
        // Nothing is in the last segments of both layers.
        assert_eq!(open(&spools), [true, true, true, false, true, false]);
        assert_eq!(read(&spools, &contents[0]).unwrap(), bytes(8));
        assert_eq!(open(&spools), [true, true, true, false, true, false]);
        assert_eq!(read(&spools, &contents[1]).unwrap(), [0, 0, 9, 10, 11, 0, 0, 0, 0, 30, 0, 0]);
        assert_eq!(open(&spools), [false, false, false, false, true, false]);
        assert_eq!(read(&spools, &contents[2]).unwrap(), bytes(10));
        assert_eq!(open(&spools), [false; 6]);
        assert!(read(&spools, &contents[2]).is_err(), "it is gone");
    }

    #[test]
    fn a_segment_leaves_the_files_below_the_usual_limit() {
        for limit in [0, 1 << 30, 16 << 30, 100 << 30, u64::MAX] {
            let segment = Spools::segment(limit);
            assert!(segment >= 64 << 20 && limit / segment <= 256, "{limit}: {segment}");
        }
    }
}
