//! Tree and process become the two ramdisks that the kernel unpacks, one over the other.
//!
//! Ramdisk 1 ([`write_bootstrap`]) is the boot chain: the init, and kernel modules where the kernel needs them.
//! Ramdisk 2 ([`write_application`]) is the application: `rootfs/…` is the image's file system, and beside it stands
//! what the init shall run. So PCR1 measures the first and PCR2 the second.
//! [`linuxkit`] writes both as nitro-cli would. [`Unpack`] and [`newc::Reader`] read what anyone has packed.

mod application;
mod bootstrap;
mod compress;
mod gzip;
pub mod linuxkit;
mod memory;
pub mod newc;
mod unpack;

pub use application::{Application, Mtime, write_application};
pub use bootstrap::{Bootstrap, write_bootstrap};
pub use compress::{Compress, Encoder};
pub use memory::{Need, RootFs};
pub use unpack::{Packing, Unpack};
