//! The bill of materials that an image comes with: BuildKit's attestation manifests beside it in its index (BuildKit,
//! docs/attestations/attestation-storage.md), or what refers to its manifest (image-spec, "subject"; distribution
//! specification, "Listing Referrers").

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use oci_spec::image::Descriptor;
use serde::Deserialize;
use serde_json::Value;

use super::manifest::{self, json};
use super::{Digest, Error, Files, Image, JSON_LIMIT, Wanted, WantedKind};
use crate::{Progress, Silent};

/// An SBOM may be this large, in bytes: it is held in memory.
const LIMIT: u64 = 64 << 20;
/// Manifests about an image that are looked into.
const MOST: usize = 64;

const STATEMENT: &str = "application/vnd.in-toto+json";
/// Where BuildKit says what a statement is.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// How the types of predicates that are SBOMs begin; a version may follow.
const PREDICATES: [&str; 2] = ["https://spdx.dev/Document", "https://cyclonedx.org/bom"];
/// How the media types of SBOMs as such begin.
const MEDIA_TYPES: [&str; 4] =
    ["application/spdx+json", "text/spdx+json", "application/vnd.cyclonedx+json", "application/vnd.spdx+json"];

/// What of a manifest counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    artifact_type: Option<String>,
    subject: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What of an in-toto statement counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    predicate: Value,
}

impl Image {
    /// The image's own SBOM in JSON, SPDX or CycloneDX, the first that is found: of a statement its predicate, else the
    /// bytes as they are.
    ///
    /// # Errors
    /// [`Error::NoSbom`] when there is none, [`Error::BadManifest`] for one that is none or too large, and the refusals
    /// of [`Image::fetch`].
    pub fn sbom(&self, progress: &dyn Progress) -> Result<Vec<u8>, Error> {
        let Some(image) = self.manifest_digest else { return Err(Error::NoSbom { what: "the image".to_owned() }) };
        let files = &*self.files;
        for entry in self.attestations.iter().take(MOST) {
            if let Some(sbom) = attested(files, entry, progress)? {
                return Ok(sbom);
            }
        }
        for entry in files.referrers(&image)?.iter().take(MOST) {
            if let Some(sbom) = referring(files, entry, &image, progress)? {
                return Ok(sbom);
            }
        }
        Err(Error::NoSbom { what: format!("the image {}", image.short()) })
    }
}

/// The predicate of the first statement that is an SBOM.
fn attested(files: &dyn Files, entry: &Descriptor, progress: &dyn Progress) -> Result<Option<Vec<u8>>, Error> {
    let about = about(files, entry)?;
    let is_sbom = |kind: &str| PREDICATES.iter().any(|one| kind.starts_with(one));
    let kind = |layer: &Descriptor| layer.annotations().as_ref()?.get(PREDICATE_TYPE).cloned();
    let mut layers = about.layers.iter().filter(|layer| layer.media_type().as_ref() == STATEMENT);
    let Some(layer) = layers.find(|layer| kind(layer).is_some_and(|kind| is_sbom(&kind))) else { return Ok(None) };
    let (bytes, what) = blob(files, layer, progress)?;
    let statement: Statement = json(&bytes, &what)?;
    if !is_sbom(&statement.predicate_type) {
        let why = format!("the index calls it an SBOM, and it is `{}`", statement.predicate_type);
        return Err(Error::BadManifest { what, why });
    }
    // The alternate form is serde_json's pretty one, two spaces deep.
    Ok(Some(format!("{:#}\n", statement.predicate).into_bytes()))
}

/// The first layer of an artifact that is an SBOM of this image.
fn referring(
    files: &dyn Files,
    entry: &Descriptor,
    image: &Digest,
    progress: &dyn Progress,
) -> Result<Option<Vec<u8>>, Error> {
    let is_sbom = |kind: &str| MEDIA_TYPES.iter().any(|one| kind.starts_with(one));
    if manifest::is_index(entry.media_type().as_ref()) || entry.size() > JSON_LIMIT {
        return Ok(None);
    }
    let about = about(files, entry)?;
    let own = about.subject.is_some_and(|subject| subject.digest().as_ref() == image.to_string());
    let typed = about.artifact_type.as_deref().is_some_and(is_sbom);
    let layer = about.layers.iter().find(|layer| typed || is_sbom(layer.media_type().as_ref()));
    match layer.filter(|_| own) {
        Some(layer) => blob(files, layer, progress).map(|(bytes, _)| Some(bytes)),
        None => Ok(None),
    }
}

fn about(files: &dyn Files, entry: &Descriptor) -> Result<About, Error> {
    let digest: Digest = entry.digest().as_ref().parse()?;
    let what = format!("manifest {}", digest.short());
    let wanted = Wanted { digest, size: entry.size(), kind: WantedKind::Manifest, what };
    let bytes = manifest::whole(files, &wanted, JSON_LIMIT, &Silent)?;
    json(&bytes, &wanted.what)
}

/// A layer, and its name in messages.
fn blob(files: &dyn Files, layer: &Descriptor, progress: &dyn Progress) -> Result<(Vec<u8>, String), Error> {
    let digest: Digest = layer.digest().as_ref().parse()?;
    let what = format!("SBOM {}", digest.short());
    let wanted = Wanted { digest, size: layer.size(), kind: WantedKind::Layer, what };
    Ok((manifest::whole(files, &wanted, LIMIT, progress)?, wanted.what))
}
