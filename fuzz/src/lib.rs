//! The bodies of the fuzz targets, in one place for the fuzzer and for `tests/fuzz_corpus.rs`, which replays what is
//! kept. Each takes any bytes, and panics when one of our promises is broken.
//!
//! Sums that a fuzzer cannot guess (checksums of tar headers, an EIF's CRC, digests of blobs) are put right first.

mod attest;
mod config;
mod eif_file;
mod layer;
mod manifest;
mod newc;
mod seeds;
mod steps;

pub use attest::attest;
pub use config::config;
pub use eif_file::eif;
pub use layer::layer;
pub use manifest::manifest;
pub use newc::newc;
pub use seeds::seeds;

/// A target's name and body, which says whether the input went all the way or was refused somewhere.
pub type Target = (&'static str, fn(&[u8]) -> Option<()>);

/// All of them.
pub const TARGETS: [Target; 6] =
    [("attest", attest), ("config", config), ("eif", eif), ("layer", layer), ("manifest", manifest), ("newc", newc)];
