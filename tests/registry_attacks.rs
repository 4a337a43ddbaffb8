//! A registry that means harm: each of its answers is refused by name, or has no effect, and none costs much.

mod common;

use std::time::{Duration, Instant};

use common::registry::{Deed, Fake, Reply, Seen};
use common::{Output, TestEnv};
use eif_testdata::{Compression, Config, Image, OciLayout, canonical, fake_bzimage, layers, sha256};
use serde_json::{Value, json};

fn image() -> Image {
    Image::new(layers! { "f 0755 0:0 app x", "--", "f 0644 0:0 b y" }).config(Config::new().cmd(&["/app"]))
}

fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    env
}

fn pull(fake: &Fake) -> Output {
    world().eif(&["pcr", &fake.image(), "--kernel", "kernel"])
}

/// What comes of an image whose manifest says this.
fn manifest(pointer: &str, value: Value) -> Output {
    pull(&Fake::honest(&image().patch_manifest(pointer, value)))
}

/// What comes of a document in the place of the manifest.
fn document(bytes: &[u8]) -> Output {
    let bytes = bytes.to_vec();
    pull(&Fake::of(
        &image(),
        move |seen| {
            if seen.is_blob() { Deed::Honest } else { Deed::Reply(Reply::new(200, bytes.clone())) }
        },
    ))
}

#[test]
fn sizes_that_no_layer_has() {
    let _ = manifest("/layers/0/size", json!(-1)).refused("E-bad-manifest").says("-1");
    let _ = manifest("/layers/0/size", json!(1_u64 << 63)).refused("E-too-large").says("--max-unpacked");
    let _ = manifest("/layers/0/size", json!(u64::MAX)).refused("E-too-large");
    let _ = manifest("/layers/0/size", json!(1e30)).refused("E-bad-manifest");
    let _ = manifest("/config/size", json!(1_u64 << 63)).refused("E-bad-manifest").says("the limit is 4194304");
    let _ = manifest("/layers/0/size", json!(0)).refused("E-size").says("layer 1/2").says("expected 0");
}

#[test]
fn digests_that_are_none() {
    let upper = image().layer_blobs()[0].digest().to_uppercase().replace("SHA", "sha");
    for bad in [&upper, "sha256:../../../etc/passwd", "sha256:", ""] {
        let output = manifest("/layers/0/digest", json!(bad)).code(1);
        assert!(output.stderr().starts_with("error[E-bad-"), "{output:?}");
    }
    let long = format!("sha512:{}", "0".repeat(128));
    let _ = manifest("/layers/0/digest", json!(long)).refused("E-bad-digest").says("sha512");
}

#[test]
fn documents_that_readers_could_disagree_on() {
    let manifest = image().manifest_blob().bytes;
    let twice = [&manifest[..manifest.len() - 1], br#","layers":[]}"#].concat();
    let _ = document(&twice).refused("E-bad-manifest").says("duplicate field `layers`");
    let _ = document("[".repeat(1 << 20).as_bytes()).refused("E-bad-manifest").says("recursion");
    let _ = document(r#"{"a":"#.repeat(1 << 19).as_bytes()).refused("E-bad-manifest").says("recursion");
    let _ = document(&Compression::Gzip.pack(&manifest)).refused("E-bad-manifest");
}

/// No digest can be in what it is the digest of, so indexes end; many of the same are read once.
#[test]
fn an_index_of_the_same_index_five_thousand_times() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let entry = |media: &str, digest: &str, size: usize| json!({"mediaType": media, "digest": digest, "size": size});
    let blob = image().manifest_blob();
    let other = Image::new(layers! { "f 0755 0:0 app arm" }).config(Config::new().platform("linux/arm64"));
    let arm = entry(&blob.media_type, &other.manifest_blob().digest(), other.manifest_blob().bytes.len());
    let inner = canonical(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": vec![arm; 5000]}));
    let of_inner = entry(INDEX, &sha256(&inner), inner.len());
    let outer = canonical(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": vec![of_inner; 5000]}));
    let mut files = OciLayout::new().tag("v1", &other).files();
    files.put(format!("blobs/sha256/{}", &sha256(&inner)["sha256:".len()..]), inner);
    let fake = Fake::start(files, move |seen: &Seen| {
        if seen.path.ends_with("/v1") { Deed::Reply(Reply::new(200, outer.clone())) } else { Deed::Honest }
    });
    let _ = pull(&fake).refused("E-no-platform").says("linux/arm64");
    assert_eq!(fake.seen().len(), 4, "two indexes, a manifest, a config");
}

#[test]
fn layers_of_nothing_and_layers_without_end() {
    let config = |count: usize| Config::new().cmd(&["/app"]).json(&vec![sha256(b""); count]);
    let image = image();
    let blobs = image.layer_blobs();
    let layer = json!({"mediaType": blobs[0].media_type, "digest": blobs[0].digest(), "size": blobs[0].bytes.len()});
    let nothing = json!({"mediaType": blobs[0].media_type, "digest": sha256(b""), "size": 0});
    let served = |layers: Vec<Value>, diff_ids: Vec<String>| {
        let mut config = config(0);
        config["rootfs"]["diff_ids"] = json!(diff_ids);
        let config = canonical(&config);
        let mut files = OciLayout::new().tag("v1", &image).files();
        let mut manifest: Value = serde_json::from_slice(&image.manifest_blob().bytes).unwrap();
        manifest["config"]["digest"] = json!(sha256(&config));
        manifest["config"]["size"] = json!(config.len());
        manifest["layers"] = json!(layers);
        let manifest = canonical(&manifest);
        for bytes in [&config, &b"".to_vec()] {
            files.put(format!("blobs/sha256/{}", &sha256(bytes)["sha256:".len()..]), bytes.clone());
        }
        Fake::start(files, move |seen: &Seen| {
            if seen.path.ends_with("/v1") { Deed::Reply(Reply::new(200, manifest.clone())) } else { Deed::Honest }
        })
    };
    let fake = served(vec![nothing, layer.clone()], vec![sha256(b""), blobs[0].digest()]);
    let _ = pull(&fake).success();
    let fake = served(vec![layer; 500], vec![blobs[0].digest(); 500]);
    let _ = pull(&fake).success();
    assert_eq!(fake.seen().len(), 3, "a manifest, a config, one layer");
}

#[test]
fn heads_without_end() {
    let blob = |reply: fn() -> Reply| {
        let fake = Fake::of(&image(), move |seen| if seen.is_blob() { Deed::Reply(reply()) } else { Deed::Honest });
        let _ = pull(&fake).refused("E-registry-connect").says("message head is too large");
    };
    let since = Instant::now();
    blob(|| Reply::new(200, "").header("x", "y".repeat(8 << 20)));
    blob(|| (0..100_000).fold(Reply::new(200, ""), |reply, number| reply.header(&format!("x-{number}"), "y")));
    assert!(since.elapsed() < Duration::from_secs(25));
}

/// No encoding was asked for, so what comes is the blob or it is not.
#[test]
fn blobs_in_an_encoding_that_nobody_asked_for() {
    let fake = Fake::of(&image(), |seen| {
        let blob = image().blobs().into_iter().find(|blob| seen.path.ends_with(&blob.digest()));
        match blob.filter(|_| seen.is_blob()) {
            Some(blob) => {
                let packed = Compression::Gzip.pack(&blob.bytes);
                Deed::Reply(Reply::new(200, packed).header("content-encoding", "gzip"))
            }
            None => Deed::Honest,
        }
    });
    let _ = pull(&fake).refused("E-size").says("config sha256:");
    assert!(fake.seen().iter().all(|seen| seen.header("accept-encoding").is_none()));
}
