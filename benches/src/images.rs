//! The images that are measured with, made once and kept in the user's cache.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use eif_testdata::{Compression, Config, Image, Layer, OciLayout, hello_image};

use crate::algorithms::inflate;

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
    let image = if name == "hello" { hello_image() } else { image(layers(name, &cache)) };
    write(&image.compress(Compression::Gzip), &place);
    place
}

/// The same with plain layers.
pub fn plain(name: &str) -> PathBuf {
    let packed = layout(name);
    let place = packed.with_added_extension("plain");
    if !place.join("index.json").exists() {
        let tars = blobs(&packed).into_iter().map(|blob| Layer::from_tar(inflate(&blob)));
        write(&image(tars.collect()).compress(Compression::None), &place);
    }
    place
}

fn image(layers: Vec<Layer>) -> Image {
    Image::new(layers).config(Config::new().cmd(&["/bin/true"]))
}

fn write(image: &Image, place: &Path) {
    let fresh = place.with_added_extension("tmp");
    let _ = fs::remove_dir_all(&fresh);
    OciLayout::new().tag("latest", image).files().write_dir(&fresh);
    fs::rename(&fresh, place).expect("the finished layout moves to its place");
}

/// As layers of images are packed.
pub fn gzip(tar: &[u8]) -> Vec<u8> {
    Compression::Gzip.pack(tar)
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
    paths(layout).iter().map(|path| fs::read(path).expect("the layer can be read")).collect()
}

/// Reads all layers in pieces, and keeps nothing.
pub fn read(layout: &Path) {
    let mut buffer = vec![0; 256 << 10];
    for path in paths(layout) {
        let mut file = fs::File::open(path).expect("the layer can be read");
        while file.read(&mut buffer).expect("the layer can be read") > 0 {}
    }
}

fn paths(layout: &Path) -> Vec<PathBuf> {
    let json = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).expect("the layout is whole")).expect("the layout is JSON")
    };
    let blob = |digest: &serde_json::Value| {
        let hex = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest");
        layout.join("blobs/sha256").join(hex)
    };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    manifest["layers"].as_array().expect("layers").iter().map(|layer| blob(&layer["digest"])).collect()
}
