//! Compression of a ramdisk, with bytes that depend on the input and the format alone.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::gzip;

/// How the ramdisks are compressed. In JSON its [name](Compress::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// Not: every kernel reads it, and it boots fastest.
    None,
    /// gzip, one member, level 6.
    Gzip,
    /// zstd, one frame, level 9, with its checksum.
    Zstd,
}

impl Compress {
    /// The name that the command line and the record in the image use.
    pub fn name(self) -> &'static str {
        match self {
            Compress::None => "none",
            Compress::Gzip => "gzip",
            Compress::Zstd => "zstd",
        }
    }
}

/// A writer that compresses. [`Encoder::finish`] must be called.
pub enum Encoder<W: Write> {
    /// Passes through.
    None(W),
    /// gzip, in blocks on several threads.
    Gzip(Box<gzip::Encoder<W>>),
    /// zstd, in the library's own jobs.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl<W: Write> Encoder<W> {
    /// Compresses into `out` with so many threads; their number does not change the bytes.
    ///
    /// # Errors
    /// What the zstd library or `out` gives.
    pub fn new(out: W, compress: Compress, threads: usize) -> io::Result<Self> {
        Ok(match compress {
            Compress::None => Encoder::None(out),
            Compress::Gzip => Encoder::Gzip(Box::new(gzip::Encoder::new(out, threads)?)),
            Compress::Zstd => {
                let mut encoder = zstd::Encoder::new(out, 9)?;
                encoder.include_checksum(true)?;
                // With no worker the library cuts the input in another way than with one or more.
                encoder.multithread(u32::try_from(threads.max(1)).unwrap_or(1))?;
                Encoder::Zstd(encoder)
            }
        })
    }

    /// Writes what is left and gives the writer below.
    ///
    /// # Errors
    /// What the writer below gives.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::None(out) => Ok(out),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(out) => out.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Bytes that compress somewhat, larger than a few blocks of either encoder.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..length)
            .map(|index| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if index % 7 < 4 { b'a' } else { (state >> 24) as u8 }
            })
            .collect()
    }

    fn compressed(compress: Compress, bytes: &[u8], threads: usize, step: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), compress, threads).unwrap();
        bytes.chunks(step).for_each(|chunk| encoder.write_all(chunk).unwrap());
        encoder.finish().unwrap()
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_on_how_they_come() {
        let bytes = sample(20 << 20);
        for compress in [Compress::Gzip, Compress::Zstd] {
            let one = compressed(compress, &bytes, 1, 1 << 20);
            assert!(one.len() < bytes.len());
            assert!(one == compressed(compress, &bytes, 2, 65_537), "{compress:?}");
            assert!(one == compressed(compress, &bytes, 5, 9_999_999), "{compress:?}");
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        for bytes in [Vec::new(), b"x".to_vec(), sample(1 << 20), sample((3 << 20) + 5)] {
            let mut out = Vec::new();
            let gzip = compressed(Compress::Gzip, &bytes, 2, 1 << 16);
            flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut out).unwrap();
            assert!(out == bytes);
            assert!(zstd::decode_all(&*compressed(Compress::Zstd, &bytes, 2, 1 << 16)).unwrap() == bytes);
        }
    }
}
