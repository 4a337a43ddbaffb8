//! OCI image layouts: the directory, and as one tar the OCI archive.

use crate::{Blob, Files, Image, canonical};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An OCI layout in the making. `index.json` lists what was added, in order.
#[derive(Clone, Debug, Default)]
pub struct OciLayout {
    descriptors: Vec<Value>,
    blobs: Vec<Blob>,
}

impl OciLayout {
    /// An empty layout.
    pub fn new() -> Self {
        OciLayout::default()
    }

    /// Adds an image under a tag.
    pub fn tag(self, tag: &str, image: &Image) -> Self {
        let descriptor = tagged(image.manifest_blob().descriptor(), tag);
        self.with_image(image).descriptor(descriptor)
    }

    /// Adds an image without a tag.
    pub fn untagged(self, image: &Image) -> Self {
        self.with_image(image).descriptor(image.manifest_blob().descriptor())
    }

    /// Adds images with their platforms directly in `index.json`, all under one tag.
    pub fn platforms(self, tag: &str, images: &[Image]) -> Self {
        images.iter().fold(self, |layout, image| layout.with_image(image).descriptor(tagged(for_platform(image), tag)))
    }

    /// Adds a tag that points to an index of images with their platforms.
    pub fn index(self, tag: &str, images: &[Image]) -> Self {
        self.nested(tag, 1, images)
    }

    /// As [`OciLayout::index`], but `depth` indexes deep, each with the next as its only item.
    pub fn nested(mut self, tag: &str, depth: usize, images: &[Image]) -> Self {
        let mut items: Vec<Value> = images.iter().map(for_platform).collect();
        for image in images {
            self = self.with_image(image);
        }
        for _ in 0..depth {
            let blob = index_blob(&items);
            items = vec![blob.descriptor()];
            self = self.with_blob(blob);
        }
        items.into_iter().fold(self, |layout, item| layout.descriptor(tagged(item, tag)))
    }

    /// As [`OciLayout::index`], with buildkit's attestation manifest (platform unknown/unknown) first.
    pub fn index_with_attestation(self, tag: &str, images: &[Image]) -> Self {
        let subject = images.first().expect("an attestation is about an image").manifest_blob().digest();
        let blob = attestation_blob();
        let mut item = blob.descriptor();
        item["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        item["annotations"] =
            json!({ "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": subject });
        let items: Vec<Value> = std::iter::once(item).chain(images.iter().map(for_platform)).collect();
        let index = index_blob(&items);
        let descriptor = tagged(index.descriptor(), tag);
        images.iter().fold(self.with_blob(blob), OciLayout::with_image).with_blob(index).descriptor(descriptor)
    }

    /// Adds a line to `index.json` as it is.
    pub fn descriptor(mut self, descriptor: Value) -> Self {
        self.descriptors.push(descriptor);
        self
    }

    /// Adds a blob that nothing in `index.json` names yet.
    pub fn with_blob(mut self, blob: Blob) -> Self {
        self.blobs.push(blob);
        self
    }

    fn with_image(self, image: &Image) -> Self {
        image.blobs().into_iter().fold(self, OciLayout::with_blob)
    }

    /// The layout's files: `oci-layout`, `index.json`, blobs.
    pub fn files(&self) -> Files {
        let mut files = Files::new();
        files.put("oci-layout", canonical(&json!({ "imageLayoutVersion": "1.0.0" })));
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.descriptors });
        files.put("index.json", canonical(&index));
        for blob in &self.blobs {
            files.put(blob.path(), blob.bytes.clone());
        }
        files
    }
}

fn tagged(mut descriptor: Value, tag: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    descriptor
}

fn for_platform(image: &Image) -> Value {
    let mut descriptor = image.manifest_blob().descriptor();
    descriptor["platform"] = image.config.platform_json();
    descriptor
}

fn index_blob(items: &[Value]) -> Blob {
    let json = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": items });
    Blob { media_type: INDEX.to_owned(), bytes: canonical(&json) }
}

fn attestation_blob() -> Blob {
    let json = json!({ "schemaVersion": 2, "mediaType": crate::Flavour::Oci.manifest(), "layers": [],
        "config": { "mediaType": "application/vnd.in-toto+json", "digest": crate::sha256(b"{}"), "size": 2 } });
    Blob { media_type: crate::Flavour::Oci.manifest().to_owned(), bytes: canonical(&json) }
}
