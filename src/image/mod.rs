//! Where images come from: a reference becomes a config and verified layer streams.
//!
//! A transport gives named files ([`Files`]); all that is common (manifests, platforms, digests) is done once above it.

mod access;
mod archive;
mod causes;
mod compression;
mod config;
mod credentials;
mod daemon;
mod digest;
mod error;
mod folder;
mod layout;
mod manifest;
mod plain;
mod platform;
pub(crate) mod record;
mod reference;
mod registry;
mod sbom;
mod steps;
pub mod store;

use std::fs;
use std::io::Read;
use std::path::Path;

use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

pub use access::Access;
pub use compression::Compression;
pub use config::{Config, Process};
pub use credentials::{AuthFile, Credentials, Found, Login, Secret, Standing};
pub use daemon::Engine;
pub use digest::{Digest, Verified};
pub use error::Error;
pub use platform::Platform;
pub use reference::{Reference, Selector};
pub use registry::{Blob, Content, Mirror, Name, Network, Refused, Repository};
pub(crate) use steps::{Stepping, Steps};
pub use store::Store;

use crate::Progress;
use crate::output::Output;
use archive::Archive;
use layout::Directory;

/// A manifest, an index or a config may be this large, in bytes (containers/image and Docker stop at the same size).
const JSON_LIMIT: u64 = 4 << 20;

/// Read-only named files: the directory of an OCI layout, the inside of an archive, or the store in front of a registry.
///
/// Shared by the threads that read layers, so opening needs no exclusive access.
trait Files: Send + Sync {
    /// The file's bytes and its size in bytes, or `None` when there is no such file.
    fn open(&self, name: &str) -> Result<Option<File<'_>>, Error>;

    /// Sees to it that these blobs can be opened; what is at hand anyway is there or is not.
    fn fetch(&self, wanted: &[Wanted], _progress: &dyn Progress) -> Result<(), Error> {
        wanted.iter().try_for_each(|wanted| match self.open(&manifest::blob_name(&wanted.digest))? {
            Some(_) => Ok(()),
            None if wanted.kind == WantedKind::ForeignLayer => Err(Error::ForeignLayer { what: wanted.what.clone() }),
            None => Err(Error::MissingBlob { what: wanted.what.clone() }),
        })
    }

    /// Replaces a blob that turned out to be damaged, and tells whether that could be done.
    fn fetch_again(&self, _wanted: &Wanted, _progress: &dyn Progress) -> Result<bool, Error> {
        Ok(false)
    }

    /// Manifests that may be about the one with this digest; whoever asks holds them to their `subject`.
    fn referrers(&self, _manifest: &Digest) -> Result<Vec<Descriptor>, Error> {
        let layout = self.open("index.json")?.is_some();
        if layout { manifest::entries(self) } else { Ok(Vec::new()) }
    }
}

/// A blob that is about to be opened.
struct Wanted {
    digest: Digest,
    /// In bytes, from whatever names the blob.
    size: u64,
    kind: WantedKind,
    /// For messages.
    what: String,
}

/// What a registry keeps in different places or refuses differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WantedKind {
    /// Or an index.
    Manifest,
    Config,
    Layer,
    /// One that its maker did not want to be copied to registries.
    ForeignLayer,
}

/// An open file of a transport.
struct File<'a> {
    bytes: Box<dyn Read + Send + 'a>,
    size: u64,
}

/// One image of one platform: its config, and its layers in the order in which they are applied.
pub struct Image {
    /// Digest of the manifest, which docker-archives of old do not have.
    pub manifest_digest: Option<Digest>,
    /// The platform that was asked for, and that the image's config runs on.
    pub platform: Platform,
    /// What it was before it became an image.
    pub origin: Origin,
    /// What the image's config says of the process.
    pub config: Config,
    /// Where the reference has a tag of a registry: the same name with the digest that the tag led to now.
    pub pin: Option<String>,
    layers: Vec<Layer>,
    /// Attestation manifests about it, which stood beside it.
    attestations: Vec<Descriptor>,
    files: Box<dyn Files>,
    /// The store where unpacked layers are looked for, and whether they are to be kept there.
    unpacked: Option<(Store, bool)>,
}

/// What an image was before it became one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An image.
    Image,
    /// A plain directory: the only layer, and no config.
    Directory,
    /// A plain tar: the same.
    Tar,
}

impl Origin {
    /// Whether it has no config and no layer but the one.
    pub fn is_plain(self) -> bool {
        self != Origin::Image
    }
}

/// A layer as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file's name inside the transport.
    name: String,
    /// Digest and size in bytes of the blob as it is stored, where the transport has a manifest that says so.
    blob: Option<(Digest, u64)>,
    foreign: bool,
    /// Digest of the uncompressed tar, from the config; `None` where there is no config.
    pub diff_id: Option<Digest>,
    /// What the media type says of the compression; `None` where there is no media type.
    pub compression: Option<Compression>,
}

impl Layer {
    /// Digest of the blob as it is stored, which whoever reads it is held to; `None` where nothing says it.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.blob.map(|(digest, _)| digest)
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("platform", &self.platform).field("layers", &self.layers).finish_non_exhaustive()
    }
}

impl Image {
    /// Opens the image that `reference` names, for `platform`.
    ///
    /// Reads manifests and config, and no layer.
    ///
    /// # Errors
    /// Every refusal of [`Error`] that needs no layer to be read.
    pub fn open(reference: &Reference, platform: &Platform, access: &Access) -> Result<Self, Error> {
        let archive = |path: &Path| Archive::open(path, &access.scratch, access.limit);
        let image = match reference {
            Reference::Oci { path, selector } => manifest::open(Box::new(Directory::open(path)?), selector, platform),
            Reference::OciArchive { path, selector } => archive::open_oci(archive(path)?, selector, platform),
            Reference::DockerDaemon { name } => daemon::open(name, platform, access),
            Reference::DockerArchive { path, name } => archive::open_docker(archive(path)?, name.as_deref(), platform),
            Reference::Docker(name) => registry::open(name, platform, access),
            Reference::Rootfs { path } => plain::open(path, platform, access),
        }?;
        Ok(Self { unpacked: Some((access.store.clone(), access.keep_layers)), ..image })
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// How messages name layer `index`: `layer 2/5 (sha256:…)`, or the path of what is no image.
    pub fn layer_label(&self, index: usize) -> String {
        let name = match self.layers.get(index) {
            Some(Layer { blob: Some((digest, _)), .. } | Layer { diff_id: Some(digest), .. }) => digest.short(),
            Some(layer) => return layer.name.clone(),
            None => "?".to_owned(),
        };
        format!("layer {}/{} ({name})", index.saturating_add(1), self.layers.len())
    }

    /// Sees to it that all layers are on this machine: those of a registry are downloaded, several at a time.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::ForeignLayer`], [`Error::Registry`], [`Error::Store`].
    pub fn fetch(&self, progress: &dyn Progress) -> Result<(), Error> {
        let wanted: Vec<Wanted> = (0..self.layers.len()).filter_map(|index| self.wanted(index)).collect();
        self.files.fetch(&wanted, progress)
    }

    /// Gets layer `index` once more if `error`, which stands for what reading it gave, is that of damaged bytes, or of a
    /// blob that others have removed since, and the image has a place to get it from; tells whether it did.
    ///
    /// # Errors
    /// As [`Image::fetch`].
    pub fn fetch_again(&self, index: usize, error: &Error, progress: &dyn Progress) -> Result<bool, Error> {
        let curable = matches!(
            error,
            Error::DigestMismatch { .. }
                | Error::SizeMismatch { .. }
                | Error::TooLong { .. }
                | Error::MissingBlob { .. }
        );
        match self.wanted(index).filter(|_| curable) {
            Some(wanted) => self.files.fetch_again(&wanted, progress),
            None => Ok(false),
        }
    }

    /// Layer `index` as a plain tar, where the store has it: a file that has its diff_id, unless the disk damaged it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn unpacked(&self, index: usize) -> Result<Option<(fs::File, Digest, Steps)>, Error> {
        let Some((store, _, diff_id)) = self.place_of_unpacked(index) else { return Ok(None) };
        let Some(file) = store.get(&diff_id)? else { return Ok(None) };
        let steps = store.steps(&diff_id, &file);
        Ok(Some((file, diff_id, steps)))
    }

    /// Layer `index` of the store turned out not to have its diff_id, or its steps to be wrong.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn discard_unpacked(&self, index: usize) -> Result<(), Error> {
        self.place_of_unpacked(index).map_or(Ok(()), |(store, _, diff_id)| store.discard(&diff_id))
    }

    /// Where layer `index` is to be unpacked to, if it is to be kept: persisted once it has its diff_id, and not before.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn keep_unpacked(&self, index: usize) -> Result<Option<Output>, Error> {
        let Some((store, true, diff_id)) = self.place_of_unpacked(index) else { return Ok(None) };
        store.output(&diff_id).map(Some)
    }

    /// Adds the steps to layer `index`, which the store has unpacked.
    pub(crate) fn keep_steps(&self, index: usize, steps: &Steps) {
        if let Some((store, _, diff_id)) = self.place_of_unpacked(index) {
            store.put_steps(&diff_id, steps);
        }
    }

    /// The store, whether layers are kept there unpacked, and under which digest this one is.
    fn place_of_unpacked(&self, index: usize) -> Option<(&Store, bool, Digest)> {
        let (store, keep) = self.unpacked.as_ref()?;
        Some((store, *keep, self.layers.get(index)?.diff_id?))
    }

    fn wanted(&self, index: usize) -> Option<Wanted> {
        let layer = self.layers.get(index)?;
        let (digest, size) = layer.blob?;
        let kind = if layer.foreign { WantedKind::ForeignLayer } else { WantedKind::Layer };
        Some(Wanted { digest, size, kind, what: self.layer_label(index) })
    }

    /// The first block of layer `index` as it is stored, which nobody checks.
    ///
    /// # Errors
    /// As [`Image::open_layer`], or reading fails.
    pub(crate) fn layer_head(&self, index: usize) -> Result<Vec<u8>, Error> {
        let ((_, file), mut head) = (self.layer_file(index)?, Vec::new());
        let failed = |source| Error::Io { what: self.layer_label(index), source };
        file.bytes.take(512).read_to_end(&mut head).map_err(failed)?;
        Ok(head)
    }

    /// Bytes of layer `index` as it is stored, or as a manifest says.
    ///
    /// # Errors
    /// As [`Image::open_layer`].
    pub(crate) fn layer_size(&self, index: usize) -> Result<u64, Error> {
        match self.layers.get(index).and_then(|layer| layer.blob) {
            Some((_, size)) => Ok(size),
            None => self.layer_file(index).map(|(_, file)| file.size),
        }
    }

    /// The stored bytes of layer `index`; the reader fails at their end unless size and digest are the manifest's.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], or what opening the file gives.
    pub fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Error> {
        let (layer, file) = self.layer_file(index)?;
        Ok(match layer.blob {
            Some((digest, size)) => Box::new(Verified::new(file.bytes, digest, Some(size), self.layer_label(index))),
            None => file.bytes,
        })
    }

    fn layer_file(&self, index: usize) -> Result<(&Layer, File<'_>), Error> {
        let missing = || Error::MissingBlob { what: self.layer_label(index) };
        let layer = self.layers.get(index).ok_or_else(missing)?;
        Ok((layer, self.files.open(&layer.name)?.ok_or_else(missing)?))
    }
}
