//! The images that are measured with, made once and kept in the user's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eif_testdata::{Compression, Config, Image, Layer, OciLayout, hello_image};

const RECIPE: &str = include_str!("../images.sh");

/// An image as an OCI layout with the tag `latest`, its layers in gzip as Docker writes them.
///
/// # Panics
/// When it cannot be made: without root, apt or a mirror.
pub fn layout(name: &str) -> PathBuf {
    let key = &eif_testdata::sha256(RECIPE.as_bytes())["sha256:".len()..][..16];
    let cache = eif_testdata::cache_dir();
    let place = cache.join(format!("bench-{name}-{key}"));
    if place.join("index.json").exists() {
        return place;
    }
    let image = if name == "hello" { hello_image() } else { Image::new(layers(name, &cache)) };
    let image = image.compress(Compression::Gzip).config(Config::new().cmd(&["/bin/true"]));
    let fresh = cache.join(format!("bench-{name}.tmp"));
    let _ = fs::remove_dir_all(&fresh);
    OciLayout::new().tag("latest", &image).files().write_dir(&fresh);
    fs::rename(&fresh, &place).expect("the finished layout moves to its place");
    place
}

fn layers(name: &str, cache: &Path) -> Vec<Layer> {
    fs::create_dir_all(cache).expect("the cache can be written");
    let work = tempfile::tempdir_in(cache).expect("the cache can be written");
    let status = Command::new("sh").args(["-c", RECIPE, "images.sh", name]).arg(work.path()).status();
    assert!(status.is_ok_and(|status| status.success()), "the packages could not be unpacked: see above");
    let tars = (1..).map(|number| work.path().join(format!("{number}.tar"))).take_while(|path| path.exists());
    tars.map(|path| Layer::from_tar(fs::read(path).expect("the layer can be read"))).collect()
}

/// The compressed layers of a layout, in order.
pub fn blobs(layout: &Path) -> Vec<Vec<u8>> {
    let json = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).expect("the layout is whole")).expect("the layout is JSON")
    };
    let blob = |digest: &serde_json::Value| {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest");
        layout.join("blobs/sha256").join(hex)
    };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let layers = manifest["layers"].as_array().expect("layers");
    layers.iter().map(|layer| fs::read(blob(&layer["digest"])).expect("the layer can be read")).collect()
}
