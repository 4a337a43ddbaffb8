//! Options that decide how an image is got, and nothing of what is built from it.

use std::path::Path;

use eif::image::{Access, Store};

use super::environment;
use super::failure::Failure;

/// Where the image comes from; whoever opens images has these options.
#[derive(clap::Args, PartialEq)]
#[command(next_help_heading = "Where the image comes from")]
pub struct SourceOptions {
    /// Use only what is on this machine; an image of a registry needs its digest in the reference
    #[arg(long)]
    offline: bool,
    /// Keep nothing that is downloaded, and use nothing that was kept
    #[arg(long, conflicts_with = "offline")]
    no_cache: bool,
    /// What may stay of downloads when the build ends; what was not used for the longest time goes first
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_BOUND, value_parser = size)]
    max_cache: u64,
}

/// The largest images (machine learning) have 5 GiB and more; two of them fit, and the disk of a small build machine
/// (8 to 30 GB) is not filled by a cache that nobody asked for.
pub const DEFAULT_BOUND: &str = "10G";

impl SourceOptions {
    /// `scratch` and `limit` are for temporary files: their folder, and their size in bytes.
    pub fn access(&self, scratch: &Path, limit: u64) -> Result<Access, Failure> {
        let cache = environment::cache_if_any().filter(|_| !self.no_cache);
        let store = match cache {
            Some(cache) => Store::open(&cache.join("blobs"), Some(self.max_cache))?,
            None => Store::temporary(scratch)?,
        };
        Ok(Access { limit, offline: self.offline, ..Access::new(store, scratch.to_owned()) })
    }
}

/// `100M`, `2G`, `4096`: powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no size such as 100M or 2G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("100M"), Ok(100 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        for bad in ["", "M", "1.5G", "-1", "99999999999T", "1é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
