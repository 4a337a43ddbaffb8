//! Layers as Docker makes a container's file system of them: what nitro-cli's measurements rest on, kept apart so that
//! our own rules stay simple.
//!
//! nitro-cli has linuxkit call `docker create` and `docker export`, so an image passes three functions:
//!
//! | step | here | what it follows |
//! |---|---|---|
//! | each layer alone into an empty directory | `unpack` | moby `pkg/archive` (`Unpack`, `createTarFile`, `overlayWhiteoutConverter`); containerd `archive` |
//! | the layers shown as one | `stack` | overlayfs: the topmost decides, directories merge |
//! | a container made of them | `container` | moby `daemon/initlayer`, `SetupWorkingDirectory`, volumes |
//!
//! Facts that those sources leave open were seen with Docker 20.10.24 on overlay2. What differs from our own rules:
//! a layer does not see the ones below while it is unpacked, so a parent that it does not name is made anew and hides
//! their metadata, a symlink below is no way to a parent, and a hard link ends in its own layer; a whiteout that a
//! directory of the same name follows is forgotten; a character device 0,0 is a whiteout.

mod container;
mod stack;
mod unpack;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::load::{Indexed, Options, read_all};
use super::spool::Spools;
use super::tree::{InodeId, Tree};
use crate::image::Image;
use crate::{Progress, Warning};

/// Where Docker keeps its layers, which decides some odd cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Docker's own store with the overlay2 driver, before Docker 28.
    #[default]
    Overlay2,
    /// containerd's image store with its overlayfs snapshotter.
    Containerd,
}

/// A container that was created and not started.
#[derive(Debug)]
pub struct Container {
    /// The names and inodes.
    pub tree: Tree,
    /// The contents.
    pub spools: Spools,
    /// Directories whose time is that of the unpacking or of the creation: not the image's.
    pub clocks: BTreeSet<InodeId>,
    /// Paths of the image that Docker replaces by its own, in byte order.
    pub replaced: BTreeSet<&'static str>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Reads all layers of an image and makes a container of them.
///
/// # Errors
/// What `docker load` or `docker create` refuse, and what stops the reading; that of the lowest layer that has one.
pub fn load(image: &Image, store: Store, options: &Options, progress: &dyn Progress) -> Result<Container, Error> {
    let mut shown = stack::Stack::default();
    let (mut warnings, mut files) = (Vec::new(), Vec::new());
    for (index, layer) in read_all(image, options, unpack::step, progress)?.into_iter().enumerate() {
        let Indexed { changes, spool, warnings: told, .. } = layer?;
        warnings.extend(told);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let refused = |(entry, fault): unpack::Refused| Error::Entry {
            layer: image.layer_label(index),
            entry: entry.into(),
            fault,
        };
        let limit = options.limits.entries;
        let layer = unpack::unpack(changes, number, store, &shown.tree, limit).map_err(refused)?;
        shown.add(layer);
        if shown.tree.table_len() as u64 > limit {
            return Err(Error::Limit { layer: image.layer_label(index), limit, unit: "entries" });
        }
        files.push(spool);
    }
    let stack::Stack { mut tree, mut clocks } = shown;
    let replaced = container::create(&mut tree, &mut clocks, &image.config)?;
    debug_assert_eq!(tree.check(), Ok(()));
    Ok(Container { tree, spools: Spools::new(files), clocks, replaced, warnings })
}
