//! Images for tests and for the first command, made from source: the same call gives the same bytes on every host.
//!
//! | step | type |
//! |---|---|
//! | one tar record, honest or hostile | [`Entry`] |
//! | a layer: records, an end, a compression | [`Layer`], [`layers!`] |
//! | what the process will be | [`Config`] |
//! | layers and configuration with their digests | [`Image`], [`Blob`] |
//! | the files of a transport, which a test may damage | [`OciLayout`], [`DockerArchive`], [`Files`] |
//! | what the booted file system must look like | [`Model`] |
//! | an attestation document with its chain | [`attestation`] |
//!
//! ```
//! use eif_testdata::{Image, OciLayout, layers};
//! let image = Image::new(layers! { "d 0755 0:0 etc/", "f 0644 0:0 etc/motd hello", "--", "w etc/motd" });
//! let files = OciLayout::new().tag("latest", &image).files();
//! assert!(files.get("index.json").is_some());
//! ```
//!
//! Everything here panics on misuse: the callers are tests.

pub mod attestation;

mod compress;
mod config;
mod debian;
mod docker;
mod entry;
mod files;
mod hello;
mod image;
mod kernel;
mod layer;
mod layout;
mod model;
mod read;
mod text;

pub use compress::Compression;
pub use config::Config;
pub use debian::{cache_dir, debian_image, debian_layers};
pub use docker::DockerArchive;
pub use entry::Entry;
pub use files::{File, Files};
pub use hello::{hello_image, hello_image_for, hello_program};
pub use image::{Blob, Flavour, Image, canonical, sha256};
pub use kernel::{fake_arm64_image, fake_bzimage};
pub use layer::Layer;
pub use layout::OciLayout;
pub use model::{Model, Node};
pub use text::{escape, parse_layers, unescape};

/// Layers as text, bottom first; `--` begins the next one. See [`parse_layers`] for the lines.
#[macro_export]
macro_rules! layers {
    ($($line:expr),* $(,)?) => { $crate::parse_layers(&[$($line),*]) };
}
