//! What `docker save` writes, now (25 and later) and before.

use crate::{Files, Image, Layer, OciLayout, canonical, sha256};
use serde_json::{Value, json};

/// A docker-archive in the making: images with their repository tags.
#[derive(Clone, Debug, Default)]
pub struct DockerArchive {
    images: Vec<(Vec<String>, Image)>,
}

impl DockerArchive {
    /// No images.
    pub fn new() -> Self {
        DockerArchive::default()
    }

    /// Adds an image with its tags (`name:tag`); none gives `"RepoTags": null`.
    pub fn image(mut self, tags: &[&str], image: &Image) -> Self {
        self.images.push((tags.iter().map(|&tag| tag.to_owned()).collect(), image.clone()));
        self
    }

    /// Docker 25 and later: `manifest.json` over an OCI layout, layers as blobs.
    pub fn modern(&self) -> Files {
        let layout = self.images.iter().fold(OciLayout::new(), |layout, (tags, image)| match tags.first() {
            Some(tag) => layout.tag(tag, image),
            None => layout.untagged(image),
        });
        let mut files = layout.files();
        let items = self.images.iter().map(|(tags, image)| {
            let layers: Vec<_> = image.layer_blobs().iter().map(crate::Blob::path).collect();
            item(tags, image.config_blob().path(), &layers)
        });
        files.put("manifest.json", canonical(&items.collect()));
        files
    }

    /// Before Docker 25: `CONFIG.json`, `ID/layer.tar` (plain), `ID/VERSION`; a layer that is there twice is a symlink
    /// the second time; `manifest.json` comes last.
    pub fn legacy(&self) -> Files {
        let mut files = Files::new();
        let mut items = Vec::new();
        for (tags, image) in &self.images {
            let config = image.config_blob();
            let name = format!("{}.json", bare(&config.digest()));
            files.put(&*name, config.bytes);
            let layers = legacy_layers(image, &mut files);
            items.push(item(tags, name, &layers));
        }
        files.put("manifest.json", canonical(&Value::Array(items)));
        files
    }
}

fn item(tags: &[String], config: String, layers: &[String]) -> Value {
    let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
    json!({ "Config": config, "RepoTags": tags, "Layers": layers })
}

/// Each layer's ID is a chain: the same tar at another height has another ID, and then is a link to the first.
fn legacy_layers(image: &Image, files: &mut Files) -> Vec<String> {
    let mut chain = String::new();
    let mut first: Vec<(String, String)> = Vec::new();
    let mut names = Vec::new();
    for layer in &image.layers {
        let diff_id = layer.diff_id();
        chain = sha256(format!("{chain} {diff_id}").as_bytes());
        let name = format!("{}/layer.tar", bare(&chain));
        files.put(format!("{}/VERSION", bare(&chain)), "1.0");
        match first.iter().find(|(other, _)| *other == diff_id) {
            Some((_, target)) => drop(files.put_symlink(&*name, format!("../{target}"))),
            None => {
                files.put(&*name, Layer::tar(layer));
                first.push((diff_id, name.clone()));
            }
        }
        names.push(name);
    }
    names
}

fn bare(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}
