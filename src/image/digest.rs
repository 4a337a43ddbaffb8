//! SHA-256 digests of blobs, and a reader that checks them.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::chunk;

/// A SHA-256 digest in OCI's form `sha256:<64 lower-case hex digits>` (image-spec, descriptor.md), in JSON too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of all that `reader` gives.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        chunk::each(reader, |bytes| hasher.update(bytes))?;
        Ok(Self(hasher.finalize().into()))
    }

    /// A digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A digest from its 64 lower-case hex digits, as file names have it; `None` for anything else.
    pub(crate) fn from_hex(digits: &str) -> Option<Self> {
        format!("sha256:{digits}").parse().ok()
    }

    /// The 64 hex digits without the algorithm's name.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve digits, for messages: `sha256:0123456789ab…`.
    pub fn short(&self) -> String {
        let digits = self.hex();
        format!("sha256:{}…", digits.get(..12).unwrap_or(&digits))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Takes the canonical form alone: a digest becomes a file name, so nothing else may pass.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadDigest { text: text.to_owned() };
        let digits = text.strip_prefix("sha256:").ok_or_else(bad)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| bad())?;
        Ok(Self(bytes))
    }
}

/// Passes bytes through and fails at their end unless length and digest are the expected ones.
///
/// Never gives more than the expected size plus one byte. The check happens when the end is read, so a consumer must
/// read to the end.
pub struct Verified<R> {
    inner: R,
    hasher: Sha256,
    digest: Digest,
    size: Option<u64>,
    seen: u64,
    what: String,
}

impl<R: Read> Verified<R> {
    /// Expects `digest` and, where it is known, `size` in bytes; `what` names the thing in messages.
    pub fn new(inner: R, digest: Digest, size: Option<u64>, what: String) -> Self {
        Self { inner, hasher: Sha256::new(), digest, size, seen: 0, what }
    }

    fn finish(&self) -> Result<(), Error> {
        if let Some(want) = self.size.filter(|want| *want != self.seen) {
            return Err(Error::SizeMismatch { what: self.what.clone(), want, got: self.seen });
        }
        let got = Digest(self.hasher.clone().finalize().into());
        if got != self.digest {
            return Err(Error::DigestMismatch { what: self.what.clone(), want: self.digest, got });
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            self.finish()?;
            return Ok(0);
        }
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.seen = self.seen.saturating_add(count as u64);
        if let Some(want) = self.size.filter(|want| self.seen > *want) {
            return Err(Error::TooLong { what: self.what.clone(), want }.into());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_the_canonical_form_is_a_digest() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        for bad in
            ["", "sha256:", "sha256:../../etc/passwd", "sha512:00", "md5:00", &EMPTY.to_uppercase(), &EMPTY[..70]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reader_checks_length_and_digest_at_the_end() {
        let read = |bytes: &'static [u8], of: &[u8], size| {
            let mut out = Vec::new();
            Verified::new(bytes, Digest::of(of), size, "blob".to_owned()).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"abc", b"abc", Some(3)).unwrap(), b"abc");
        assert_eq!(read(b"abc", b"abc", None).unwrap(), b"abc");
        let code = |result: io::Result<Vec<u8>>| crate::Refusal::code(&Error::from_io(result.unwrap_err(), "x"));
        assert_eq!(code(read(b"abd", b"abc", Some(3))), "E-digest-mismatch");
        assert_eq!(code(read(b"ab", b"abc", Some(3))), "E-size-mismatch");
        assert_eq!(code(read(b"abcd", b"abc", Some(3))), "E-size-mismatch");
    }
}
