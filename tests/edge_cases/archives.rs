//! Archives: what `docker save` writes, now and long ago, and OCI layouts in a tar.

use std::fs::File;
use std::io::Write as _;

use eif_testdata::{DockerArchive, Entry, Files, Image, Layer, OciLayout, fake_bzimage, layers};
use serde_json::json;

use crate::common::TestEnv;
use crate::world::{Ask, Refused, Unpacked, refused};

fn image(name: &str) -> Image {
    Image::new(vec![Layer::from_iter([Entry::file("name", name)])])
}

fn docker(name: &str) -> DockerArchive {
    DockerArchive::new().image(&["x:1"], &image(name))
}

/// Opens `TRANSPORT:FILE` + selector, where the file has these bytes.
fn open(transport: &str, bytes: impl AsRef<[u8]>, selector: &str) -> Result<Unpacked, Refused> {
    let env = TestEnv::new();
    let path = env.write("archive", bytes);
    Ask::default().reference(&format!("{transport}:{}{selector}", path.display()), &env)
}

fn open_docker(files: &Files, selector: &str) -> Result<Unpacked, Refused> {
    open("docker-archive", files.tar(), selector)
}

#[track_caller]
fn is(result: Result<Unpacked, Refused>, name: &str) {
    assert_eq!(result.unwrap().tree, [format!("f 0644 0:0 name {name}")]);
}

/// A path may be mistyped, and then be that of a key: nothing of the file is told.
#[test]
fn what_is_no_archive_is_not_quoted() {
    let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n", "MIIEvAIBADANBgkqhkiG9w0BAQEFAASC".repeat(40));
    for transport in ["docker-archive", "oci-archive"] {
        let env = TestEnv::new();
        env.write("key.pem", &key);
        let reference = format!("{transport}:key.pem");
        let output = env.eif(&["build", &reference, "-o", "app.eif"]).refused("E-not-an-image");
        let _ = output.says("it is no tar, or is damaged").says_nothing_of("MII").says_nothing_of("PRIVATE");
    }
    refused(open("docker-archive", &docker("x").legacy().tar()[..300], ""), "E-not-an-image", "is damaged");
    refused(open("oci-archive", docker("x").legacy().tar(), ""), "E-not-an-image", "`docker-archive:` reads");
}

#[test]
fn the_order_of_members_does_not_matter() {
    for mut files in [docker("x").modern(), docker("x").legacy()] {
        for name in files.names().map(str::to_owned).collect::<Vec<_>>() {
            is(open_docker(files.move_last(&name), ""), "x");
        }
    }
}

/// The old `docker save` writes a layer once and links to it where it comes again.
#[test]
fn a_layer_that_is_a_link() {
    let twice = layers! { "f 0644 0:0 name x", "--", "w name", "--", "f 0644 0:0 name x" };
    let files = DockerArchive::new().image(&["x:1"], &Image::new(twice)).legacy();
    assert!(files.names().count() > 6);
    is(open_docker(&files, ""), "x");
}

#[test]
fn several_images_and_their_names() {
    let two = DockerArchive::new().image(&["a:1", "me/a:2"], &image("a")).image(&["localhost:5000/b:1"], &image("b"));
    for files in [two.modern(), two.legacy()] {
        refused(open_docker(&files, ""), "E-ambiguous-image", "a:1, me/a:2, localhost:5000/b:1");
        for name in ["a:1", "library/a:1", "docker.io/library/a:1", "me/a:2", "docker.io/me/a:2"] {
            is(open_docker(&files, &format!(":{name}")), "a");
        }
        is(open_docker(&files, ":localhost:5000/b:1"), "b");
        refused(open_docker(&files, ":a"), "E-image-not-found", "a:1");
    }
}

#[test]
fn an_image_without_a_name() {
    let nameless = DockerArchive::new().image(&[], &image("x"));
    for files in [nameless.modern(), nameless.legacy()] {
        is(open_docker(&files, ""), "x");
        refused(open_docker(&files, ":x"), "E-image-not-found", "without a name");
    }
    let two = nameless.clone().image(&[], &image("y"));
    refused(open_docker(&two.legacy(), ""), "E-ambiguous-image", "2 images");
    refused(open("oci-archive", two.modern().tar(), ""), "E-ambiguous-image", "2 images");
}

/// `docker save` of today is both; so both transports give the same tree.
#[test]
fn one_archive_two_transports() {
    let files = docker("x").modern();
    is(open_docker(&files, ""), "x");
    is(open("oci-archive", files.tar(), ""), "x");
    // Its tag in the layout is only the tag: two images of one tag are still two.
    let two = DockerArchive::new().image(&["a:latest"], &image("a")).image(&["b:latest"], &image("b"));
    let layout = OciLayout::new().tag("latest", &image("a")).tag("latest", &image("b"));
    refused(open("oci-archive", layout.files().tar(), ""), "E-ambiguous-image", "2 images");
    is(open_docker(&two.modern(), ":b"), "b");
}

#[test]
fn links_stay_in_the_archive() {
    for target in ["/etc/passwd", "../../../../etc/passwd", "../../../../../../../../etc/hostname"] {
        let mut files = docker("x").legacy();
        let layer = files.names().find(|name| name.ends_with("layer.tar")).unwrap().to_owned();
        files.put_symlink(&layer, target);
        refused(open_docker(&files, ""), "E-missing-blob", "layer 1/1");
        let mut files = docker("x").legacy();
        refused(open_docker(files.put_symlink("manifest.json", target), ""), "E-not-an-image", "manifest.json");
    }
    let mut files = docker("x").legacy();
    files.put_symlink("manifest.json", "m2").put_symlink("m2", "manifest.json");
    refused(open_docker(&files, ""), "E-not-an-image", "link");
}

#[test]
fn paths_in_manifest_json_stay_in_the_archive() {
    for path in ["/etc/passwd", "../../etc/passwd", ""] {
        let item =
            |config: &str, layer: &str| json!([{ "Config": config, "RepoTags": null, "Layers": [layer] }]).to_string();
        let mut files = docker("x").legacy();
        refused(open_docker(files.put("manifest.json", item(path, "x")), ""), "E-missing-blob", "config");
        let mut files = docker("x").legacy();
        let config = files.names().find(|name| name.len() > 64 && name.ends_with(".json")).unwrap().to_owned();
        refused(open_docker(files.put("manifest.json", item(&config, path)), ""), "E-missing-blob", "layer 1/1");
    }
}

#[test]
fn damaged_archives() {
    let legacy = || docker("x").legacy();
    let config = legacy().names().find(|name| name.len() > 64 && name.ends_with(".json")).unwrap().to_owned();
    refused(open_docker(legacy().corrupt(&config), ""), "E-digest-mismatch", "config");
    let layer = legacy().names().find(|name| name.ends_with("layer.tar")).unwrap().to_owned();
    refused(open_docker(legacy().change(&layer, |bytes| bytes[600] ^= 1), ""), "E-diffid-mismatch", "layer 1/1");
    for bytes in ["", "null", "{}", "[]", "[7]", r#"[{"Config":7}]"#, "[[[["] {
        let result = open_docker(legacy().put("manifest.json", bytes), "");
        assert!(
            matches!(&result, Err(r) if ["E-bad-manifest", "E-not-an-image"].contains(&r.code)),
            "{bytes}: {result:?}"
        );
    }
    refused(open_docker(legacy().remove("manifest.json"), ""), "E-not-an-image", "docker save");
    refused(open("docker-archive", "not a tar".repeat(100), ""), "E-not-an-image", "tar");
    refused(open("docker-archive", "", ""), "E-not-an-image", "docker save");
    refused(open("oci-archive", vec![0; 1024], ""), "E-not-an-image", "index.json");
    // Without its last layer's end.
    let mut files = OciLayout::new().tag("latest", &image("x")).files();
    let tar = files.move_last(&image("x").layer_blobs()[0].path()).tar();
    for cut in [tar.len() - 1024 - 600, tar.len() - 1024 - 2000] {
        let result = open("oci-archive", &tar[..cut], "");
        assert!(matches!(&result, Err(r) if ["E-size-mismatch", "E-not-an-image"].contains(&r.code)), "{result:?}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_archives() {
    let tar = docker("x").modern().tar();
    let (head, tail) = tar.split_at(3000);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &[0; 4]].concat();
    let packed = [
        gzip(&tar),
        [gzip(head), gzip(tail)].concat(),
        zstd(&tar),
        [skippable.clone(), zstd(head), skippable, zstd(tail)].concat(),
    ];
    for bytes in packed {
        is(open("docker-archive", &bytes, ":x:1"), "x");
        is(open("oci-archive", &bytes, ""), "x");
        refused(open("docker-archive", &bytes[..bytes.len() / 2], ""), "E-not-an-image", "archive");
    }
    for (name, magic) in [("xz", &b"\xfd7zXZ\0\0\x04"[..]), ("bzip2", b"BZh91AY&SY")] {
        refused(open("docker-archive", [magic, &[7; 600]].concat(), ""), "E-not-an-image", name);
    }
}

#[test]
fn an_archive_that_unpacks_to_more_than_the_limit() {
    let mut ask = Ask::default();
    ask.limits.unpacked = 1 << 20;
    let env = TestEnv::new();
    let big =
        DockerArchive::new().image(&["x:1"], &Image::new(vec![Layer::from_iter([Entry::file("a", vec![0; 4 << 20])])]));
    let path = env.write("archive", gzip(&big.modern().tar()));
    refused(ask.reference(&format!("docker-archive:{}", path.display()), &env), "E-too-large", "1048576");
}

/// A name of 300 MiB before a member: refused without holding it.
#[test]
fn an_archive_with_an_endless_name() {
    let mut tar = Entry::new(b'L', "././@LongLink").gnu().claim_size(300 << 20).to_bytes();
    tar.resize(tar.len() + (300 << 20), b'n');
    tar.extend(Entry::file("x", "").to_bytes());
    refused(open("docker-archive", gzip(&tar), ""), "E-not-an-image", "tar");
}

#[test]
fn places_that_hold_no_archive() {
    let env = TestEnv::new();
    let at = |place: &str| Ask::default().reference(&format!("docker-archive:{}", env.path(place).display()), &env);
    refused(at("nowhere"), "E-io", "nowhere");
    refused(at("."), "E-io", "a directory");
}

/// `-` is stdin: a pipe or a file, plain or packed.
#[test]
fn an_archive_from_stdin() {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let tar = docker("x").modern().tar();
    env.write("plain", &tar);
    env.write("packed", gzip(&tar));
    let mut sums = Vec::new();
    for (transport, file) in [("docker-archive", "plain"), ("docker-archive", "packed"), ("oci-archive", "plain")] {
        let mut command = env.command(&["build", &format!("{transport}:-"), "--kernel", "kernel", "-o", "out.eif"]);
        let output = command.stdin(File::open(env.path(file)).unwrap()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        sums.push(eif_testdata::sha256(&std::fs::read(env.path("out.eif")).unwrap()));
    }
    assert_eq!([&sums[0], &sums[0]], [&sums[1], &sums[2]]);
    assert_eq!(env.listing(&env.tmp()), [""; 0]);
    let piped = "cat plain | $0 build docker-archive:-:x:1 --kernel kernel -o piped.eif";
    let output = env.command_of("sh", &["-c", piped, env!("CARGO_BIN_EXE_eif")]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
