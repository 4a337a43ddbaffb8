//! `--profile nitro-cli` makes the ramdisks of `nitro-cli build-enclave`, byte for byte: twenty images with what
//! nitro-cli really made of them, and random ones against a second, slow reading of the rules.

#[path = "../common/mod.rs"]
mod common;

mod golden;
mod model;
mod options;
mod random;
mod world;
