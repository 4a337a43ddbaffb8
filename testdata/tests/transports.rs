//! The images are what they claim to be: GNU tar lists the layers, and every descriptor points to its bytes.

use eif_testdata::{
    Compression, Config, DockerArchive, Entry, Files, Flavour, Image, Layer, OciLayout, layers, sha256,
};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// What GNU tar says about these bytes.
fn gnu_tar(tar: &[u8]) -> Vec<String> {
    let mut child = Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner", "--quoting-style=escape", "--file=-"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("GNU tar: install the package tar");
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(squeezed).collect()
}

fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ").replace(" 1970-01-01 00:00", "")
}

fn json_of(files: &Files, name: &str) -> Value {
    serde_json::from_slice(files.get(name).unwrap_or_else(|| panic!("no {name}"))).unwrap()
}

/// Every descriptor below `value` has the digest and size of its blob.
fn assert_descriptors(files: &Files, value: &Value) {
    if let Some(digest) = value.get("digest").and_then(Value::as_str) {
        let blob = files.get(&format!("blobs/{}", digest.replace(':', "/")));
        if let Some(bytes) = blob {
            assert_eq!(sha256(bytes), digest);
            assert_eq!(value["size"], json!(bytes.len()));
            if value["mediaType"].as_str().is_some_and(|kind| kind.contains("manifest") || kind.contains("index")) {
                assert_descriptors(files, &serde_json::from_slice(bytes).unwrap());
            }
        } else {
            assert_eq!(value["mediaType"], "application/vnd.in-toto+json", "{digest} is missing");
        }
    }
    let children: Vec<&Value> = match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return,
    };
    children.into_iter().for_each(|child| assert_descriptors(files, child));
}

#[test]
fn gnu_tar_reads_every_kind_of_entry() {
    let long = "n".repeat(150);
    let layers = layers! {
        "d 1777 0:0 tmp/", "f 4755 0:5 bin/su #!", "l 0777 0:0 sh -> bin/su", "h b => bin/su",
        "c 0600 0:0 null 1:3", "b 0660 0:6 sda 8:0", "p 0644 7:8 pipe",
    };
    let layer = layers[0].clone().entry(Entry::file(&long, "x")).entry(Entry::file("y", "").pax("path", "from/pax"));
    let long_line = format!("-rw-r--r-- 0/0 1 {long}");
    let expected = [
        "drwxrwxrwt 0/0 0 tmp/",
        "-rwsr-xr-x 0/5 2 bin/su",
        "lrwxrwxrwx 0/0 0 sh -> bin/su",
        "hrw-r--r-- 0/0 0 b link to bin/su",
        "crw------- 0/0 1,3 null",
        "brw-rw---- 0/6 8,0 sda",
        "prw-r--r-- 7/8 0 pipe",
        &long_line,
        "-rw-r--r-- 0/0 0 from/pax",
    ];
    assert_eq!(gnu_tar(&layer.tar()), expected);
}

#[test]
fn gnu_tar_reads_large_owners() {
    let layer = Layer::new().entry(Entry::file("a", "").owner(0xffff_fffe, 1 << 21));
    assert_eq!(gnu_tar(&layer.tar()), ["-rw-r--r-- 4294967294/2097152 0 a"]);
}

#[test]
fn every_descriptor_of_a_layout_points_to_its_bytes() {
    let image = Image::new(layers! { "f 0644 0:0 a x", "--", "w a" });
    for (compression, flavour) in Compression::ALL.into_iter().zip([Flavour::Oci, Flavour::Docker].into_iter().cycle())
    {
        let amd = image.clone().compress(compression).flavour(flavour);
        let arm = amd.clone().config(Config::new().platform("linux/arm64/v8"));
        let files = OciLayout::new()
            .tag("one", &amd)
            .index("multi", &[amd.clone(), arm.clone()])
            .nested("deep", 3, std::slice::from_ref(&arm))
            .index_with_attestation("attested", &[amd, arm])
            .files();
        let index = json_of(&files, "index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 4);
        assert_descriptors(&files, &index);
    }
}

#[test]
fn patches_reach_the_document_and_its_digest() {
    let image = Image::new(layers! { "f 0644 0:0 a x" })
        .patch_manifest("/layers/0/size", json!(7))
        .patch_config("/rootfs/diff_ids/0", json!("sha256:00"))
        .patch_config("/os", None);
    let manifest: Value = serde_json::from_slice(&image.manifest_blob().bytes).unwrap();
    let config: Value = serde_json::from_slice(&image.config_blob().bytes).unwrap();
    assert_eq!(manifest["layers"][0]["size"], 7);
    assert_eq!(manifest["config"]["digest"], json!(image.config_blob().digest()));
    assert_eq!((&config["rootfs"]["diff_ids"][0], config.get("os")), (&json!("sha256:00"), None));
}

#[test]
fn docker_archives_name_files_that_are_there() {
    let image = Image::new(layers! { "f 0644 0:0 a x", "--", "f 0644 0:0 b y", "--", "f 0644 0:0 a x" });
    let archive = DockerArchive::new().image(&["hello:latest"], &image);
    for files in [archive.modern(), archive.legacy()] {
        let item = json_of(&files, "manifest.json")[0].clone();
        assert_eq!(item["RepoTags"], json!(["hello:latest"]));
        assert!(files.get(item["Config"].as_str().unwrap()).is_some());
        for layer in item["Layers"].as_array().unwrap() {
            assert!(files.names().any(|name| layer == name));
        }
    }
    let legacy = archive.legacy();
    assert_eq!(legacy.names().last(), Some("manifest.json"));
    assert!(gnu_tar(&legacy.tar()).iter().any(|line| line.starts_with('l') && line.contains("layer.tar -> ../")));
}
