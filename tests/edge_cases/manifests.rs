//! Manifests, indexes and platforms of OCI layouts.

use eif_testdata::{Blob, Config, Entry, Flavour, Image, Layer, OciLayout, canonical, layers};
use serde_json::{Value, json};

use crate::common::TestEnv;
use crate::world::{Ask, Refused, Unpacked, refused};

/// An image whose only file says which one it is.
fn named(name: &str, platform: &str) -> Image {
    let config = Config::new().platform(platform).cmd(&["/x"]);
    Image::new(vec![Layer::from_iter([Entry::file("name", name)])]).config(config)
}

fn amd64(name: &str) -> Image {
    named(name, "linux/amd64")
}

fn open(layout: &OciLayout) -> Result<Unpacked, Refused> {
    Ask::default().files(&layout.files())
}

fn open_for(platform: &'static str, layout: &OciLayout) -> Result<Unpacked, Refused> {
    Ask { platform, ..Ask::default() }.files(&layout.files())
}

/// Opens one image of a layout by tag or digest.
fn open_as(layout: &OciLayout, selector: &str) -> Result<Unpacked, Refused> {
    let env = TestEnv::new();
    layout.files().write_dir(&env.path("image"));
    Ask::default().reference(&format!("oci:{}{selector}", env.path("image").display()), &env)
}

#[track_caller]
fn is(result: Result<Unpacked, Refused>, name: &str) {
    assert_eq!(result.unwrap().tree, [format!("f 0644 0:0 name {name}")]);
}

#[test]
fn attestations_are_passed_over() {
    let layout = OciLayout::new().index_with_attestation("latest", &[named("arm", "linux/arm64"), amd64("amd")]);
    is(open(&layout), "amd");
    is(open_for("linux/arm64", &layout), "arm");
    let only_arm = OciLayout::new().index_with_attestation("latest", &[named("arm", "linux/arm64")]);
    let error = open(&only_arm).unwrap_err();
    assert_eq!(error.code, "E-no-platform");
    assert!(error.message.contains("linux/arm64") && !error.message.contains("unknown"), "{error:?}");
}

#[test]
fn no_image_for_the_platform() {
    let images = [
        named("a", "linux/arm64/v8"),
        named("b", "linux/arm/v7"),
        named("c", "windows/amd64"),
        named("d", "linux/riscv64"),
    ];
    let error = open(&OciLayout::new().index("latest", &images)).unwrap_err();
    assert_eq!(error.code, "E-no-platform");
    assert!(
        error.message.contains("linux/amd64") && error.message.contains("linux/arm/v7, linux/arm64/v8"),
        "{error:?}"
    );
    // A single manifest: its config says what it is for.
    for platform in ["linux/arm64", "windows/amd64", "linux/amd64/v3"] {
        refused(open(&OciLayout::new().tag("latest", &named("x", platform))), "E-no-platform", platform);
    }
    refused(open(&OciLayout::new().index("latest", &[])), "E-no-platform", "nothing");
}

#[test]
fn the_first_of_two_for_the_same_platform() {
    is(open(&OciLayout::new().index("latest", &[amd64("one"), amd64("two")])), "one");
}

#[test]
fn variants() {
    let arms = [named("v7", "linux/arm/v7"), named("v8", "linux/arm64/v8"), named("none", "linux/arm64")];
    is(open_for("linux/arm64", &OciLayout::new().index("latest", &arms)), "v8");
    is(open_for("linux/arm64/v8", &OciLayout::new().index("latest", &arms[2..])), "none");
    is(open(&OciLayout::new().index("latest", &[named("v3", "linux/amd64/v3"), amd64("v1")])), "v1");
}

#[test]
fn indexes_in_indexes() {
    for depth in 1..=4 {
        is(open(&OciLayout::new().nested("latest", depth, &[named("arm", "linux/arm64"), amd64("amd")])), "amd");
    }
    refused(open(&OciLayout::new().nested("latest", 5, &[amd64("x")])), "E-bad-manifest", "nested");
    is(open(&OciLayout::new().platforms("latest", &[named("arm", "linux/arm64"), amd64("amd")])), "amd");
    // Without the platform in the index, the config decides.
    let plain = OciLayout::new().untagged(&named("arm", "linux/arm64"));
    refused(open(&plain), "E-no-platform", "linux/arm64");
}

#[test]
fn several_images_in_a_layout() {
    let two = OciLayout::new().tag("one", &amd64("1")).tag("two", &amd64("2"));
    refused(open(&two), "E-ambiguous-image", "one, two");
    is(open_as(&two, ":two"), "2");
    is(open_as(&two, &format!("@{}", amd64("1").manifest_blob().digest())), "1");
    refused(open_as(&two, ":three"), "E-image-not-found", "one, two");
    refused(open_as(&two, &format!("@{}", eif_testdata::sha256(b"x"))), "E-image-not-found", "sha256:");
    // Without names they are still two.
    let nameless = OciLayout::new().untagged(&amd64("1")).untagged(&amd64("2"));
    refused(open(&nameless), "E-ambiguous-image", "2 images");
    is(open(&OciLayout::new().untagged(&amd64("1")).untagged(&amd64("1"))), "1");
    is(open(&OciLayout::new().tag("a", &amd64("1"))), "1");
    refused(open(&OciLayout::new()), "E-image-not-found", "");
}

#[test]
fn docker_media_types_in_a_layout() {
    is(open(&OciLayout::new().tag("latest", &amd64("x").flavour(Flavour::Docker))), "x");
}

fn with_media_type(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = json!(media_type);
    descriptor
}

#[test]
fn docker_schema_1() {
    let image = amd64("x");
    for media in [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ] {
        let layout = OciLayout::new().with_blob(image.manifest_blob());
        refused(
            open(&layout.descriptor(with_media_type(image.manifest_blob().descriptor(), media))),
            "E-schema1",
            "schema 1",
        );
    }
    let old = amd64("x").patch_manifest("/schemaVersion", json!(1));
    refused(open(&OciLayout::new().tag("latest", &old)), "E-schema1", "manifest sha256:");
}

#[test]
fn foreign_layers() {
    for media in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ] {
        let layer = layers! { "f 0644 0:0 name x" }.remove(0).claim_media_type(media);
        let image = Image::new(vec![layer]).patch_manifest("/layers/0/urls", json!(["https://example.com/x"]));
        let mut files = OciLayout::new().tag("latest", &image).files();
        is(Ask::default().files(&files), "x");
        refused(Ask::default().files(files.remove(&image.layer_blobs()[0].path())), "E-foreign-layer", "layer 1/1");
    }
}

#[test]
fn layers_of_other_kinds() {
    for media in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.sylabs.sif.layer.v1.squashfs",
        "application/vnd.in-toto+json",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/octet-stream",
        "text/plain\u{1b}[31m",
    ] {
        let layer = layers! { "f 0644 0:0 name x" }.remove(0).claim_media_type(media);
        refused(Ask::default().layers(vec![layer]), "E-media-type", "layer 1/1");
    }
}

#[test]
fn what_is_no_image() {
    for media in [
        "application/vnd.oci.empty.v1+json",
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.in-toto+json",
        "application/vnd.wasm.config.v0+json",
    ] {
        let artifact = amd64("x").patch_manifest("/config/mediaType", json!(media));
        refused(open(&OciLayout::new().tag("latest", &artifact)), "E-not-an-image", media);
    }
    let image = amd64("x");
    for media in ["application/vnd.oci.artifact.manifest.v1+json", "application/json", ""] {
        let descriptor = with_media_type(image.manifest_blob().descriptor(), media);
        refused(open(&OciLayout::new().with_blob(image.manifest_blob()).descriptor(descriptor)), "E-media-type", media);
    }
    let mut files = OciLayout::new().tag("latest", &image).files();
    refused(Ask::default().files(files.remove("oci-layout")), "E-not-an-image", "oci-layout");
    let mut files = OciLayout::new().tag("latest", &image).files();
    refused(Ask::default().files(files.remove("index.json")), "E-not-an-image", "index.json");
}

#[test]
fn blobs_that_are_missing_or_damaged() {
    let image = amd64("x");
    for (blob, what) in image.blobs().iter().zip(["manifest", "config", "layer 1/1"]) {
        let files = || OciLayout::new().tag("latest", &image).files();
        refused(Ask::default().files(files().remove(&blob.path())), "E-missing-blob", what);
        refused(Ask::default().files(files().corrupt(&blob.path())), "E-digest-mismatch", what);
        refused(Ask::default().files(files().truncate(&blob.path(), blob.bytes.len() - 1)), "E-size-mismatch", what);
        refused(Ask::default().files(files().change(&blob.path(), |bytes| bytes.push(0))), "E-size-mismatch", what);
    }
}

/// A layout whose only manifest has these bytes.
fn raw(bytes: impl Into<Vec<u8>>) -> OciLayout {
    let blob = Blob { media_type: Flavour::Oci.manifest().to_owned(), bytes: bytes.into() };
    OciLayout::new().descriptor(blob.descriptor()).with_blob(blob)
}

#[test]
fn manifests_that_cannot_be_read() {
    let deep = |count: usize| "[".repeat(count) + &"]".repeat(count);
    for bytes in [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "\u{feff}{}",
        r#"{"schemaVersion":2}"#,
        &deep(200_000),
        r#"{"schemaVersion":2,"config":7,"layers":[]}"#,
    ] {
        refused(open(&raw(bytes)), "E-bad-manifest", "manifest sha256:");
        let mut files = OciLayout::new().tag("latest", &amd64("x")).files();
        refused(Ask::default().files(files.put("index.json", bytes)), "E-bad-manifest", "index.json");
    }
    let image = amd64("x").patch_manifest("/layers/0/size", json!(-1));
    refused(open(&OciLayout::new().tag("latest", &image)), "E-bad-manifest", "manifest sha256:");
}

#[test]
fn documents_of_more_than_four_mebibytes() {
    let blanks = |length: usize| [canonical(&json!({})), vec![b' '; length - 2]].concat();
    refused(open(&raw(blanks((4 << 20) + 1))), "E-bad-manifest", "limit");
    refused(open(&raw(blanks(4 << 20))), "E-bad-manifest", "schemaVersion");
    let mut files = OciLayout::new().tag("latest", &amd64("x")).files();
    refused(Ask::default().files(files.put("index.json", blanks((4 << 20) + 1))), "E-bad-manifest", "limit");
    // What the descriptor claims counts before a byte is read.
    let huge = amd64("x").patch_manifest("/config/size", json!(1_u64 << 60));
    refused(open(&OciLayout::new().tag("latest", &huge)), "E-bad-manifest", "limit");
}

/// Four levels of indexes that each name the next one two thousand times: 10^13 ways to the same wrong platform.
#[test]
fn an_index_that_names_the_same_thing_again_and_again() {
    let image = named("arm", "linux/arm64");
    let mut layout = image.blobs().into_iter().fold(OciLayout::new(), OciLayout::with_blob);
    let mut item = image.manifest_blob().descriptor();
    for _ in 0..4 {
        let index = json!({ "schemaVersion": 2, "manifests": vec![item; 2000] });
        let media_type = "application/vnd.oci.image.index.v1+json".to_owned();
        let blob = Blob { media_type, bytes: canonical(&index) };
        item = blob.descriptor();
        layout = layout.with_blob(blob);
    }
    refused(open(&layout.descriptor(item)), "E-no-platform", "linux/arm64");
}

#[test]
fn a_pipe_in_the_place_of_a_blob_does_not_block() {
    let env = TestEnv::new();
    let image = amd64("x");
    let mut files = OciLayout::new().tag("latest", &image).files();
    files.remove(&image.layer_blobs()[0].path()).write_dir(&env.path("image"));
    let pipe = env.path("image").join(image.layer_blobs()[0].path());
    assert!(env.command_of("mkfifo", &[&pipe]).status().expect("mkfifo: install the package coreutils").success());
    let result = Ask::default().reference(&format!("oci:{}", env.path("image").display()), &env);
    refused(result, "E-io", "not a regular file");
}
