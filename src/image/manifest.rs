//! From an index to one image: selection by name and platform, and every check that needs no layer.

use std::collections::BTreeSet;
use std::io::Read;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::config::Parsed;
use super::{
    Compression, Digest, Error, Files, Image, JSON_LIMIT, Layer, Origin, Platform, Selector, Verified, Wanted,
    WantedKind,
};
use crate::{Progress, Silent};

/// Indexes inside indexes are followed this deep.
const INDEX_DEPTH: usize = 4;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// With `+json`, or `+prettyjws` when it is signed.
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// BuildKit marks its attestation manifests so, and gives them the platform `unknown/unknown`.
const ATTESTATION: &str = "vnd.docker.reference.type";
/// The manifest that such a one is about.
const ATTESTED: &str = "vnd.docker.reference.digest";

/// Opens the image that `selector` and `platform` pick out of the OCI layout in `files`.
pub(super) fn open(files: Box<dyn Files>, selector: &Selector, platform: &Platform) -> Result<Image, Error> {
    let bytes = named(&*files, "index.json")?;
    let index: ImageIndex = json(&bytes, "index.json")?;
    let picked = select(index.manifests(), selector)?;
    let manifest = Resolver { files: &*files, platform }.resolve(&picked, "index.json")?;
    from_manifest(files, manifest, platform)
}

/// Opens the image that `platform` picks out of a document that `files` has and that a name of `what` led to: an index
/// or a manifest.
pub(super) fn open_document(
    files: Box<dyn Files>,
    digest: &Digest,
    bytes: &[u8],
    what: &str,
    platform: &Platform,
) -> Result<Image, Error> {
    let media = document_type(bytes, what)?;
    let descriptor = json!({"mediaType": media, "digest": digest.to_string(), "size": bytes.len()});
    let descriptor: Descriptor = serde_json::from_value(descriptor)
        .map_err(|error| Error::BadManifest { what: what.to_owned(), why: error.to_string() })?;
    let manifest = Resolver { files: &*files, platform }.resolve(&[descriptor], what)?;
    from_manifest(files, manifest, platform)
}

/// All that `index.json` lists.
pub(super) fn entries<F: Files + ?Sized>(files: &F) -> Result<Vec<Descriptor>, Error> {
    let index: ImageIndex = json(&named(files, "index.json")?, "index.json")?;
    Ok(index.manifests().clone())
}

/// What a document is by its own words, and without them by its shape. What a registry's header says of it does not
/// stand under the digest, so it does not count.
fn document_type(bytes: &[u8], what: &str) -> Result<String, Error> {
    let value: serde_json::Value = json(bytes, what)?;
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Err(Error::Schema1 { what: what.to_owned() });
    }
    let own = value.get("mediaType").and_then(serde_json::Value::as_str);
    let shape = if value.get("manifests").is_some() { OCI_INDEX } else { OCI_MANIFEST };
    Ok(own.filter(|own| !own.is_empty()).unwrap_or(shape).to_owned())
}

/// The entries of `index.json` that the selector leaves: all of one name, for the platform to choose from.
fn select(entries: &[Descriptor], selector: &Selector) -> Result<Vec<Descriptor>, Error> {
    let what = || "index.json".to_owned();
    let names = || {
        let names: Vec<&str> = entries.iter().filter_map(ref_name).collect();
        if names.is_empty() { "images without a name".to_owned() } else { names.join(", ") }
    };
    let keep = |test: &dyn Fn(&Descriptor) -> bool| entries.iter().filter(|e| test(e)).cloned().collect::<Vec<_>>();
    let (picked, wanted) = match selector {
        Selector::Only => {
            let distinct: BTreeSet<_> = entries.iter().filter(|entry| !is_attestation(entry)).map(identity).collect();
            if distinct.len() > 1 {
                return Err(Error::Ambiguous { what: what(), count: distinct.len(), names: names() });
            }
            (entries.to_vec(), "any".to_owned())
        }
        Selector::Tag(tag) => (keep(&|entry| ref_name(entry) == Some(tag)), tag.clone()),
        Selector::Digest(digest) => {
            let text = digest.to_string();
            (keep(&|entry| entry.digest().as_ref() == text), text)
        }
    };
    if picked.is_empty() {
        return Err(Error::NotFound { what: what(), wanted, names: names() });
    }
    Ok(picked)
}

fn ref_name(entry: &Descriptor) -> Option<&str> {
    entry.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

/// What makes two entries of `index.json` two images and not two platforms of one. Tools that save several images may
/// give all of them the same tag, or none; then they have no platform either.
fn identity(entry: &Descriptor) -> (Option<&str>, Option<&str>) {
    (ref_name(entry), entry.platform().is_none().then(|| entry.digest().as_ref()))
}

fn is_attestation(entry: &Descriptor) -> bool {
    let annotated = entry.annotations().as_ref().is_some_and(|annotations| annotations.contains_key(ATTESTATION));
    annotated || entry.platform().as_ref().is_some_and(|platform| platform.os().to_string() == "unknown")
}

/// Whether BuildKit says that the entry is an attestation about this manifest.
fn is_about(entry: &Descriptor, digest: &Digest) -> bool {
    let Some(annotations) = entry.annotations() else { return false };
    let says = |key: &str, value: &str| annotations.get(key).is_some_and(|said| said == value);
    says(ATTESTATION, "attestation-manifest") && says(ATTESTED, &digest.to_string())
}

/// A manifest that was chosen, with its digest and its config.
struct Chosen {
    digest: Digest,
    manifest: ImageManifest,
    config: Parsed,
    /// The attestation manifests that are about it.
    attestations: Vec<Descriptor>,
}

/// What a search has seen in vain.
#[derive(Default)]
struct Passed {
    /// For the message.
    platforms: BTreeSet<String>,
    /// Read once at each depth: indexes that name each other a thousand times over would be read for ever.
    documents: BTreeSet<(usize, Digest)>,
}

/// Walks indexes down to the manifest of one platform.
struct Resolver<'a> {
    files: &'a dyn Files,
    platform: &'a Platform,
}

impl Resolver<'_> {
    /// `what` names whatever has the entries.
    fn resolve(&self, entries: &[Descriptor], what: &str) -> Result<Chosen, Error> {
        let mut passed = Passed::default();
        if let Some(chosen) = self.search(entries, 0, &mut passed)? {
            return Ok(chosen);
        }
        let available: Vec<String> = passed.platforms.into_iter().collect();
        let available = if available.is_empty() { "nothing".to_owned() } else { available.join(", ") };
        Err(Error::NoPlatform { what: what.to_owned(), wanted: self.platform.to_string(), available })
    }

    /// The first manifest for the platform, depth first, as containers/image chooses.
    fn search(&self, entries: &[Descriptor], depth: usize, passed: &mut Passed) -> Result<Option<Chosen>, Error> {
        for entry in entries.iter().filter(|entry| !is_attestation(entry)) {
            if let Some(platform) = entry.platform() {
                let (os, arch) = (platform.os().to_string(), platform.architecture().to_string());
                if !self.platform.matches(&os, &arch, platform.variant().as_deref()) {
                    passed.platforms.insert(words(&os, &arch, platform.variant().as_deref()));
                    continue;
                }
            }
            if let Some(mut chosen) = self.enter(entry, depth, passed)? {
                chosen.attestations.extend(entries.iter().filter(|entry| is_about(entry, &chosen.digest)).cloned());
                return Ok(Some(chosen));
            }
        }
        Ok(None)
    }

    fn enter(&self, entry: &Descriptor, depth: usize, passed: &mut Passed) -> Result<Option<Chosen>, Error> {
        let digest: Digest = entry.digest().as_ref().parse()?;
        if !passed.documents.insert((depth, digest)) {
            return Ok(None);
        }
        let what = format!("manifest {}", digest.short());
        match entry.media_type().as_ref() {
            OCI_INDEX | DOCKER_INDEX => {
                if depth >= INDEX_DEPTH {
                    let why = format!("indexes are nested more than {INDEX_DEPTH} deep");
                    return Err(Error::BadManifest { what, why });
                }
                let bytes = self.blob(WantedKind::Manifest, digest, entry.size(), &what)?;
                let index: ImageIndex = json(&bytes, &what)?;
                self.search(index.manifests(), depth.saturating_add(1), passed)
            }
            OCI_MANIFEST | DOCKER_MANIFEST => {
                let bytes = self.blob(WantedKind::Manifest, digest, entry.size(), &what)?;
                self.manifest(digest, &bytes, &what, passed)
            }
            other if other.starts_with(DOCKER_SCHEMA_1) => Err(Error::Schema1 { what }),
            other => Err(media_type(what, other)),
        }
    }

    fn manifest(&self, digest: Digest, bytes: &[u8], what: &str, passed: &mut Passed) -> Result<Option<Chosen>, Error> {
        refuse_artifact(bytes, what)?;
        let manifest: ImageManifest = json(bytes, what)?;
        let descriptor = manifest.config();
        let config_digest: Digest = descriptor.digest().as_ref().parse()?;
        let config_what = format!("config {}", config_digest.short());
        let config = self.blob(WantedKind::Config, config_digest, descriptor.size(), &config_what)?;
        let config = Parsed::from_json(&config, &config_what)?;
        if !config.runs_on(self.platform) {
            passed.platforms.insert(words(&config.os, &config.architecture, config.variant.as_deref()));
            return Ok(None);
        }
        Ok(Some(Chosen { digest, manifest, config, attestations: Vec::new() }))
    }

    /// A small blob, whole and verified.
    fn blob(&self, kind: WantedKind, digest: Digest, size: u64, what: &str) -> Result<Vec<u8>, Error> {
        whole(self.files, &Wanted { digest, size, kind, what: what.to_owned() }, JSON_LIMIT, &Silent)
    }
}

/// A blob of at most `limit` bytes, whole and verified.
pub(super) fn whole(files: &dyn Files, wanted: &Wanted, limit: u64, progress: &dyn Progress) -> Result<Vec<u8>, Error> {
    let Wanted { digest, size, what, .. } = wanted;
    if *size > limit {
        let why = format!("{size} bytes, the limit is {limit}");
        return Err(Error::BadManifest { what: what.clone(), why });
    }
    files.fetch(std::slice::from_ref(wanted), progress)?;
    let file = files.open(&blob_name(digest))?.ok_or_else(|| Error::MissingBlob { what: what.clone() })?;
    let mut bytes = Vec::new();
    Verified::new(file.bytes, *digest, Some(*size), what.clone())
        .read_to_end(&mut bytes)
        .map_err(|error| Error::from_io(error, what))?;
    Ok(bytes)
}

/// Says what a manifest is for when it is of no container image, before its JSON is held to an image's shape.
fn refuse_artifact(bytes: &[u8], what: &str) -> Result<(), Error> {
    let value: serde_json::Value = json(bytes, what)?;
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Err(Error::Schema1 { what: what.to_owned() });
    }
    let config = value.pointer("/config/mediaType").and_then(serde_json::Value::as_str);
    match config {
        None | Some("application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json") => {
            Ok(())
        }
        Some(other) => Err(Error::NotAnImage {
            what: what.to_owned(),
            why: format!("an OCI artifact whose config is `{other}`, not a container image"),
        }),
    }
}

/// Whether the media type is that of an index, which Docker calls manifest list.
pub(super) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

pub(super) fn words(os: &str, arch: &str, variant: Option<&str>) -> String {
    match variant.filter(|variant| !variant.is_empty()) {
        Some(variant) => format!("{os}/{arch}/{variant}"),
        None => format!("{os}/{arch}"),
    }
}

fn from_manifest(files: Box<dyn Files>, chosen: Chosen, platform: &Platform) -> Result<Image, Error> {
    let layers = chosen.manifest.layers();
    let diff_ids = chosen.config.diff_ids()?;
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount { manifest: layers.len(), config: diff_ids.len() });
    }
    let count = layers.len();
    let layers = layers
        .iter()
        .zip(diff_ids)
        .enumerate()
        .map(|(index, (descriptor, diff_id))| layer(descriptor, diff_id, index, count))
        .collect::<Result<Vec<_>, _>>()?;
    let manifest_digest = Some(chosen.digest);
    let (origin, config, attestations) = (Origin::Image, chosen.config.into_config(), chosen.attestations);
    Ok(Image {
        manifest_digest,
        platform: *platform,
        origin,
        config,
        pin: None,
        layers,
        attestations,
        files,
        unpacked: None,
    })
}

fn layer(descriptor: &Descriptor, diff_id: Digest, index: usize, count: usize) -> Result<Layer, Error> {
    let digest: Digest = descriptor.digest().as_ref().parse()?;
    let what = format!("layer {}/{count} ({})", index.saturating_add(1), digest.short());
    let name = blob_name(&digest);
    let media = descriptor.media_type().to_string();
    let compression = layer_compression(&media).ok_or_else(|| media_type(what.clone(), &media))?;
    let foreign = media.contains("nondistributable") || media.contains("foreign");
    Ok(Layer {
        name,
        blob: Some((digest, descriptor.size())),
        foreign,
        diff_id: Some(diff_id),
        compression: Some(compression),
    })
}

fn layer_compression(media: &str) -> Option<Compression> {
    const BASES: [&str; 4] = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let suffix = BASES.iter().find_map(|base| media.strip_prefix(base))?;
    match suffix {
        "" => Some(Compression::None),
        "+gzip" | ".gzip" => Some(Compression::Gzip),
        "+zstd" | ".zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

fn media_type(what: String, media_type: &str) -> Error {
    let hint = if media_type.contains("encrypted") {
        ", the layer is encrypted"
    } else if media_type.contains("squashfs") {
        ", a squashfs image (Singularity)"
    } else if media_type.contains("in-toto") {
        ", an attestation"
    } else if media_type.contains("helm") || media_type.contains("wasm") {
        ", not a container image"
    } else {
        ""
    };
    Error::MediaType { what, media_type: media_type.to_owned(), hint }
}

/// Where an OCI layout keeps a blob (image-spec, image-layout.md).
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A small named file, whole.
pub(super) fn named<F: Files + ?Sized>(files: &F, name: &str) -> Result<Vec<u8>, Error> {
    let missing = || Error::NotAnImage { what: name.to_owned(), why: "the file is missing".to_owned() };
    let file = files.open(name)?.ok_or_else(missing)?;
    if file.size > JSON_LIMIT {
        let why = format!("{} bytes, the limit is {JSON_LIMIT}", file.size);
        return Err(Error::BadManifest { what: name.to_owned(), why });
    }
    let mut bytes = Vec::new();
    file.bytes.take(JSON_LIMIT).read_to_end(&mut bytes).map_err(|error| Error::from_io(error, name))?;
    Ok(bytes)
}

pub(super) fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::BadManifest { what: what.to_owned(), why: error.to_string() })
}
