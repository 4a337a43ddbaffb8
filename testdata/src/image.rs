//! Layers and a configuration, with the blobs and digests that a transport carries.

use crate::{Config, Layer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// `sha256:` and the digest in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// JSON with sorted keys, whatever features `serde_json` is built with.
pub fn canonical(value: &Value) -> Vec<u8> {
    serde_json::to_vec(&sorted(value)).expect("a JSON value serialises")
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|key| (key.clone(), sorted(&map[key]))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Whose media types the manifest has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// OCI image manifest 1.1.
    #[default]
    Oci,
    /// Docker image manifest, schema 2.
    Docker,
}

impl Flavour {
    /// The manifest's media type.
    pub fn manifest(self) -> &'static str {
        match self {
            Flavour::Oci => "application/vnd.oci.image.manifest.v1+json",
            Flavour::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The configuration's media type.
    pub fn config(self) -> &'static str {
        match self {
            Flavour::Oci => "application/vnd.oci.image.config.v1+json",
            Flavour::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// A layer's media type; `suffix` is empty, `gzip` or `zstd`.
    pub fn layer(self, suffix: &str) -> String {
        let (base, joint) = match self {
            Flavour::Oci => ("application/vnd.oci.image.layer.v1.tar", "+"),
            Flavour::Docker => ("application/vnd.docker.image.rootfs.diff.tar", "."),
        };
        if suffix.is_empty() { base.to_owned() } else { format!("{base}{joint}{suffix}") }
    }
}

/// A blob as it lies in a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The media type that its descriptor claims.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// `sha256:…` of the bytes.
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    /// The path in an OCI layout: `blobs/sha256/…`.
    pub fn path(&self) -> String {
        format!("blobs/{}", self.digest().replace(':', "/"))
    }

    /// The descriptor: media type, digest, size.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

/// An image in the making.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
    /// The configuration.
    pub config: Config,
    /// Whose media types.
    pub flavour: Flavour,
    patches: Vec<(Document, String, Option<Value>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    Config,
    Manifest,
}

impl Image {
    /// An image of these layers that runs nothing in particular: Cmd is `["/bin/true"]`.
    pub fn new(layers: Vec<Layer>) -> Self {
        Image { layers, config: Config::new().cmd(&["/bin/true"]), ..Image::default() }
    }

    /// Replaces the configuration.
    pub fn config(self, config: Config) -> Self {
        Image { config, ..self }
    }

    /// Sets whose media types the manifest has.
    pub fn flavour(self, flavour: Flavour) -> Self {
        Image { flavour, ..self }
    }

    /// Sets the compression of every layer.
    pub fn compress(mut self, compression: crate::Compression) -> Self {
        self.layers = self.layers.into_iter().map(|layer| layer.compress(compression)).collect();
        self
    }

    /// Sets the configuration's value at a JSON pointer (RFC 6901), e.g. `/rootfs/diff_ids/0`. `None` removes it.
    pub fn patch_config(mut self, pointer: &str, value: impl Into<Option<Value>>) -> Self {
        self.patches.push((Document::Config, pointer.to_owned(), value.into()));
        self
    }

    /// The same for the manifest, e.g. `/layers/0/size`.
    pub fn patch_manifest(mut self, pointer: &str, value: impl Into<Option<Value>>) -> Self {
        self.patches.push((Document::Manifest, pointer.to_owned(), value.into()));
        self
    }

    /// The layers' blobs, bottom first.
    pub fn layer_blobs(&self) -> Vec<Blob> {
        let media_type = |layer: &Layer| match layer.claimed_media_type() {
            Some(claimed) => claimed.to_owned(),
            None => self.flavour.layer(layer.compression().suffix()),
        };
        self.layers.iter().map(|layer| Blob { media_type: media_type(layer), bytes: layer.blob() }).collect()
    }

    /// The layers' diff_ids, bottom first.
    pub fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(Layer::diff_id).collect()
    }

    /// The configuration's blob.
    pub fn config_blob(&self) -> Blob {
        let json = self.patched(Document::Config, self.config.json(&self.diff_ids()));
        Blob { media_type: self.flavour.config().to_owned(), bytes: canonical(&json) }
    }

    /// The manifest's blob.
    pub fn manifest_blob(&self) -> Blob {
        let layers: Vec<_> = self.layer_blobs().iter().map(Blob::descriptor).collect();
        let media_type = self.flavour.manifest();
        let config = self.config_blob().descriptor();
        let json = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        Blob { media_type: media_type.to_owned(), bytes: canonical(&self.patched(Document::Manifest, json)) }
    }

    /// Manifest, configuration and layers, in this order.
    pub fn blobs(&self) -> Vec<Blob> {
        let mut all = vec![self.manifest_blob(), self.config_blob()];
        all.extend(self.layer_blobs());
        all
    }

    fn patched(&self, document: Document, mut json: Value) -> Value {
        for (_, pointer, value) in self.patches.iter().filter(|patch| patch.0 == document) {
            patch(&mut json, pointer, value.as_ref());
        }
        json
    }
}

fn patch(json: &mut Value, pointer: &str, value: Option<&Value>) {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_else(|| panic!("no JSON pointer: {pointer}"));
    match (json.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {parent}")), value) {
        (Value::Object(map), Some(value)) => drop(map.insert(key.to_owned(), value.clone())),
        (Value::Object(map), None) => drop(map.remove(key)),
        (Value::Array(items), Some(value)) if key == "-" => items.push(value.clone()),
        (Value::Array(items), Some(value)) => items[index(key)] = value.clone(),
        (Value::Array(items), None) => drop(items.remove(index(key))),
        (other, _) => panic!("{parent} is no object and no array: {other}"),
    }
}

fn index(key: &str) -> usize {
    key.parse().unwrap_or_else(|_| panic!("no index: {key}"))
}
