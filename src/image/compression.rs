//! How a stream is packed: told from its first bytes, which media types and file names may misstate, and undone.

use std::io::{self, BufRead, Read};

/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB (RFC 8878 asks for 8 MiB at least).
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members (RFC 1952).
    Gzip,
    /// Zstandard, any number of frames (RFC 8878).
    Zstd,
}

impl Compression {
    /// The compression whose magic number stands first in `head`, the stream's first bytes (six are enough).
    ///
    /// # Errors
    /// The name of one that is not undone here: xz, bzip2 or lz4.
    pub fn of(head: &[u8]) -> Result<Self, &'static str> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            // A zstd stream may begin with skippable frames, 0x184D2A50 to 0x184D2A5F (RFC 8878, 3.1.2), as pzstd's do.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [4, b'"', b'M', 0x18, ..] => Err("lz4"),
            _ => Ok(Compression::None),
        }
    }

    /// The plain bytes of `packed`: all gzip members, all zstd frames.
    ///
    /// # Errors
    /// When the decoder cannot have its memory.
    pub fn plain<'a>(self, packed: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(packed),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Compression::None => "plain tar",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}
