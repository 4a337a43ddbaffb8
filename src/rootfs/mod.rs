//! Layers become one tree.
//!
//! [`load`] reads every layer once, in parallel: digest, inflate, diff_id, index of the entries; the plain tar is
//! spooled, so file contents stay on disk. Then the layers are applied in their order to one inode table
//! ([`Tree`]). Names are bytes and memory grows with the entries, not with the contents. [`docker`] applies them as
//! Docker would, where nitro-cli's measurements are wanted.

mod ahead;
mod apply;
pub mod attributes;
pub mod docker;
mod entries;
mod error;
mod layer;
mod lint;
mod load;
mod pax;
mod process;
mod sparse;
mod spool;
mod tree;

pub use error::{EntryFault, Error, StreamFault};
pub use lint::lint;
pub use load::{Limits, Loaded, Options, load};
pub use process::{Overrides, resolve};
pub use spool::Spools;
pub use tree::{
    Broken, Content, Directory, Entry, Extent, Inode, InodeId, Kind, Metadata, Piece, ROOT, Tree, Walk, Xattr, Xattrs,
};
