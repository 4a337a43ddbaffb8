//! A ramdisk's bytes as the archive that is in them, whatever they are packed with.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 16;
/// The longest of [`MAGICS`].
const HEAD: usize = 6;

/// Compressors that a kernel can know, by their first bytes (lib/decompress.c).
const MAGICS: [(&[u8], Packing); 9] = [
    (b"\x1f\x8b", Packing::Gzip),
    (b"\x1f\x9e", Packing::Gzip),
    (b"\x28\xb5\x2f\xfd", Packing::Zstd),
    (b"\xfd7zXZ\0", Packing::Foreign("xz")),
    (b"\x02\x21\x4c\x18", Packing::Foreign("lz4")),
    (b"\x04\x22\x4d\x18", Packing::Foreign("lz4")),
    (b"BZh", Packing::Foreign("bzip2")),
    (b"\x89LZO\0", Packing::Foreign("lzo")),
    (b"\x5d\0\0", Packing::Foreign("lzma")),
];

/// What a ramdisk is packed with, as its first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Nothing: it is a newc archive.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// A compressor that kernels know and that is not read here.
    Foreign(&'static str),
    /// No archive and no compressor that a kernel knows.
    Unknown,
}

impl Packing {
    /// From the first bytes; zeros may stand before an archive.
    pub fn of(head: &[u8]) -> Self {
        match MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, packing)) => *packing,
            None if head.starts_with(b"07070") || head.first() == Some(&0) => Packing::Plain,
            None => Packing::Unknown,
        }
    }

    /// `cpio`, or the compressor's name.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Plain => "cpio",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Foreign(name) => name,
            Packing::Unknown => "unknown",
        }
    }

    /// Whether [`Unpack`] gives an archive.
    pub fn readable(self) -> bool {
        matches!(self, Packing::Plain | Packing::Gzip | Packing::Zstd)
    }
}

enum State<B: BufRead> {
    Plain(B),
    Gzip(Box<GzDecoder<B>>),
    Zstd(Box<zstd::Decoder<'static, B>>),
    End,
}

/// Reads the archive in a ramdisk. Compressed streams may follow each other, and zeros may stand between them.
///
/// Broken streams, and compressors that are not read here, are errors of the kind `InvalidData`.
pub struct Unpack<R: Read> {
    state: State<Input<R>>,
    packing: Packing,
}

impl<R: Read> std::fmt::Debug for Unpack<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unpack({:?})", self.packing)
    }
}

impl<R: Read> Unpack<R> {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// The reader's.
    pub fn new(ramdisk: R) -> io::Result<Self> {
        let mut input = Input::new(ramdisk);
        let packing = Packing::of(input.head()?);
        // What cannot be unpacked is passed through: nobody reads it who has looked at `packing`.
        let state = if packing.readable() { State::begin(input, packing)? } else { State::Plain(input) };
        Ok(Self { state, packing })
    }

    /// What the first bytes say.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Behind the end of a compressed stream: the next one, or the end.
    fn follow(&mut self) -> io::Result<()> {
        let mut input = match std::mem::replace(&mut self.state, State::End) {
            State::Gzip(decoder) => decoder.into_inner(),
            State::Zstd(decoder) => decoder.finish(),
            State::Plain(_) | State::End => return Ok(()),
        };
        skip_zeros(&mut input)?;
        let head = input.head()?;
        let next = (!head.is_empty()).then(|| Packing::of(head));
        if let Some(packing) = next {
            self.state = State::begin(input, packing)?;
        }
        Ok(())
    }
}

impl<B: BufRead> State<B> {
    fn begin(input: B, packing: Packing) -> io::Result<Self> {
        match packing {
            Packing::Plain => Ok(State::Plain(input)),
            Packing::Gzip => Ok(State::Gzip(Box::new(GzDecoder::new(input)))),
            Packing::Zstd => Ok(State::Zstd(Box::new(zstd::Decoder::with_buffer(input)?.single_frame()))),
            Packing::Foreign(name) => Err(invalid(&format!("a {name} stream, which is not read here"))),
            Packing::Unknown => Err(invalid("bytes behind a compressed stream that no kernel reads")),
        }
    }
}

impl<R: Read> Read for Unpack<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = match &mut self.state {
                State::Plain(input) => return input.read(buffer),
                State::Gzip(decoder) => decoder.read(buffer).map_err(|error| corrupt("gzip", error))?,
                State::Zstd(decoder) => decoder.read(buffer).map_err(|error| corrupt("zstd", error))?,
                State::End => return Ok(0),
            };
            if count > 0 {
                return Ok(count);
            }
            self.follow()?;
        }
    }
}

/// A reader with a buffer that can be asked for a magic: however few bytes come at a time, and wherever in the buffer
/// a stream begins.
struct Input<R> {
    inner: R,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; CHUNK].into_boxed_slice(), at: 0, end: 0 }
    }

    /// The next bytes, not consumed: fewer than [`HEAD`] only where no more come.
    fn head(&mut self) -> io::Result<&[u8]> {
        while self.ahead().len() < HEAD && self.more()? {}
        Ok(self.ahead())
    }

    fn ahead(&self) -> &[u8] {
        self.buffer.get(self.at..self.end).unwrap_or_default()
    }

    /// Reads on behind what is there; whether anything came.
    fn more(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end.saturating_sub(self.at));
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = match self.inner.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            other => other?,
        };
        self.end = self.end.saturating_add(count);
        Ok(count > 0)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.ahead().is_empty() && self.more()? {}
        Ok(self.ahead())
    }

    fn consume(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.end);
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// A decoder's complaint is about the bytes; the operating system's stays what it is.
fn corrupt(name: &str, error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    invalid(&format!("the {name} stream is broken: {error}"))
}

fn skip_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let all = zeros == bytes.len();
        input.consume(zeros);
        if !all || zeros == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Unpack::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn streams_and_zeros_follow_each_other() {
        let packed =
            [gzip(b"070701 one"), vec![0; 3], zstd(b", two"), vec![0; 7], gzip(b", three"), vec![0; 2]].concat();
        assert_eq!(unpack(&packed).unwrap(), b"070701 one, two, three");
        assert_eq!(unpack(b"070701 plain").unwrap(), b"070701 plain");
    }

    /// The second stream's magic lies across the end of the buffer, at every place; and bytes may come one by one.
    #[test]
    fn a_magic_may_come_in_pieces() {
        struct Single<'a>(&'a [u8]);
        impl Read for Single<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let most = buffer.len().min(1);
                self.0.read(&mut buffer[..most])
            }
        }
        let first = gzip(b"070701 one");
        for missing in 0..8 {
            let padding = vec![0; CHUNK - first.len() - missing];
            let packed = [&first[..], &padding, &zstd(b", two")].concat();
            assert_eq!(unpack(&packed).unwrap(), b"070701 one, two", "{missing}");
            let mut out = Vec::new();
            Unpack::new(Single(&packed)).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, b"070701 one, two");
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        assert_eq!(Packing::of(b"\xfd7zXZ\0.."), Packing::Foreign("xz"));
        assert_eq!(Packing::of(b"BZh91AY").name(), "bzip2");
        assert_eq!(Packing::of(b"hello"), Packing::Unknown);
        for tail in [&b"BZh9"[..], b"hello"] {
            assert_eq!(unpack(&[&gzip(b"x"), tail].concat()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn prop_a_cut_stream_is_an_error(body in prop::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>()) {
            for packed in [gzip(&body), zstd(&body)] {
                prop_assert_eq!(unpack(&packed).unwrap(), &body[..]);
                // Less than the magic is another thing, and nothing at all is an empty ramdisk.
                let end = 4 + cut.index(packed.len() - 4);
                let error = unpack(&packed[..end]).unwrap_err();
                prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
        }
    }
}
