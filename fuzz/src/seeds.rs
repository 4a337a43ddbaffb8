//! What the fuzzer starts from: small inputs, each right, with one of everything. The same call gives the same bytes;
//! corpus/ holds them, and `tests/fuzz_corpus.rs` sees that it does.

use std::io::Write;

use eif::Arch;
use eif::eif::{Eif, Kind, Options, Pcr, Writer, signature};
use eif_testdata::{Compression, Entry, Image, Layer, OciLayout, canonical, layers};
use serde_json::{Value, json};

use super::steps;

/// One seed: target, name, bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// Names and bytes of one target's.
type Group = Vec<(&'static str, Vec<u8>)>;

/// All of them.
pub fn seeds() -> Vec<Seed> {
    let groups: [(&'static str, Group); 6] = [
        ("attest", super::attest::seeds()),
        ("config", configs()),
        ("eif", files()),
        ("layer", tars()),
        ("manifest", documents()),
        ("newc", ramdisks()),
    ];
    let flat = groups
        .into_iter()
        .flat_map(|(target, group)| group.into_iter().map(move |(name, bytes)| (target, name, bytes)));
    flat.collect()
}

fn everything() -> Vec<Layer> {
    layers! {
        "d 1777 0:0 ./", "d 0755 0:0 etc/", "f 4755 1000:1000 etc/a hello", "h etc/b => etc/a", "l 0777 5:6 c -> /etc/a",
        "c 0600 0:0 null 1:3", "b 0660 0:6 sda 8:0", "p 0620 1:5 pipe", r"f 0644 0:0 raw\xff\x20\n x",
        "f 0000 4294967294:0 deep/er/f",
        "--",
        "w etc/a", "d 0700 7:7 c/", "f 0644 0:0 c/now/a/dir x", "o deep", "d 0711 0:0 deep/", "f 0644 0:0 deep/new y",
        "h etc/d => etc/b",
    }
}

fn concat(layers: &[Layer]) -> Vec<u8> {
    layers.iter().flat_map(Layer::tar).collect()
}

fn tars() -> Group {
    let long = "long/".repeat(30) + "name";
    let attribute = |name: &str, value: &[u8]| Entry::file("capable", "x").pax(format!("SCHILY.xattr.{name}"), value);
    let records = Layer::new()
        .entry(Entry::pax_global(&[("comment", "x")]))
        .entry(attribute("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"))
        .entry(Entry::file("b", "1").pax("LIBARCHIVE.xattr.user.%61", "aGk="))
        .entry(Entry::file("x", "body").pax("path", &long).pax("mtime", "1700000000.5").pax("uid", "70000"))
        .entry(Entry::symlink("l", "x").pax("linkpath", &long));
    let gnu = Layer::new()
        .entry(Entry::new(b'L', "././@LongLink").gnu().body([long.as_bytes(), b"\0"].concat()))
        .entry(Entry::file("cut", "body").gnu().owner(2_000_000, 3_000_000).mtime(-1))
        .entry(Entry::new(b'K', "././@LongLink").gnu().body([long.as_bytes(), b"\0"].concat()))
        .entry(Entry::hardlink("other", "cut").gnu());
    let sparse = Layer::new()
        .entry(Entry::file("s/0", "abcd").pax("GNU.sparse.size", "40").pax("GNU.sparse.map", "0,2,20,2"))
        .entry(
            Entry::file("s/1", [format!("{:\0<512}", "1\n8\n2\n").into_bytes(), b"xy".to_vec()].concat())
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.name", "holes")
                .pax("GNU.sparse.realsize", "20"),
        );
    let links = layers! {
        "d 0755 0:0 real/", "l 0777 0:0 to -> real", "l 0777 0:0 round -> round", "f 0644 0:0 to/through 1",
        "h again => to/through", "p 0600 0:0 p", "h q => p", "h s => to",
        "--", "w to", "f 0644 0:0 to/dir 2", "w real/through", "f 0644 0:0 .wh..wh.aufs x",
    };
    vec![
        ("everything", concat(&everything())),
        ("records", concat(&[records])),
        ("gnu", concat(&[gnu])),
        ("sparse", concat(&[sparse])),
        ("links", concat(&links)),
        (
            "v7",
            concat(&[Layer::new().entry(Entry::new(0, "dir/").v7()).entry(Entry::new(0, "dir/file").v7().body("x"))]),
        ),
    ]
}

/// The ramdisk of one of everything.
fn ramdisk() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = OciLayout::new().tag("latest", &Image::new(everything())).files();
    let image = steps::open(&files, folder.path()).expect("an image");
    let loaded = steps::load(&image, folder.path()).expect("a tree");
    steps::ramdisk(&loaded, &steps::some_process()).0
}

/// Two names of one file, the contents with the last, and a checksum, as GNU cpio writes them with `-H crc`.
fn crc_form() -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: u32, links: u32, body: &[u8]| {
        let sum: u32 = body.iter().map(|byte| u32::from(*byte)).sum();
        let name_size = name.len() as u32 + 1;
        archive.extend_from_slice(b"070702");
        for field in [7, mode, 0, 0, links, 1, body.len() as u32, 8, 1, 0, 0, name_size, sum] {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(body);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    entry("rootfs", 0o040_755, 2, b"");
    entry("rootfs/a", 0o100_644, 2, b"");
    entry("./rootfs//b", 0o100_644, 2, b"contents");
    entry("TRAILER!!!", 0, 1, b"");
    archive
}

fn ramdisks() -> Group {
    let ours = ramdisk();
    let two = [&crc_form()[..], &[0; 8], &crc_form()].concat();
    vec![
        ("gzip", [Compression::Gzip.pack(&ours), vec![0; 3], Compression::GzipMembers.pack(&crc_form())].concat()),
        ("zstd", Compression::Zstd.pack(&ours)),
        ("ours", ours),
        ("crc", crc_form()),
        ("two", two),
    ]
}

/// A file with these ramdisks again, and with a signature section.
fn signed(file: &[u8]) -> Vec<u8> {
    let pem = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let mut cbor = b"\x81\xa2\x73signing_certificate\x98".to_vec();
    cbor.push(pem.len() as u8);
    pem.bytes().for_each(|byte| cbor.extend([0x18, byte]));
    cbor.extend(b"\x69signature\x43abc");
    let pcr8 = Pcr::of_certificate(&signature::der(pem.as_bytes()).expect("a certificate of sorts"));
    let eif = Eif::open(file).expect("a file of ours");
    let mut writer =
        Writer::new(std::io::Cursor::new(Vec::new()), Options { arch: Arch::Aarch64, threads: 1 }).expect("memory");
    let data = |kind| {
        let mut data = Vec::new();
        let section = eif.section(kind).expect("a section");
        std::io::copy(&mut eif.read(section), &mut data).expect("memory");
        data
    };
    writer.kernel(&mut &eif_testdata::fake_arm64_image()[..0x140]).expect("memory");
    writer.cmdline(&data(Kind::Cmdline)).expect("memory");
    writer.metadata(&data(Kind::Metadata)).expect("memory");
    for ramdisk in [&data(Kind::Ramdisk)[..], b"", &Compression::Gzip.pack(&crc_form())] {
        writer.ramdisk().expect("a slot").write_all(ramdisk).expect("memory");
    }
    writer.signature(&cbor, pcr8).expect("a slot");
    writer.finish().expect("all sections").0.into_inner()
}

fn files() -> Group {
    let plain = steps::file(&[&crc_form(), &ramdisk()]);
    let small = steps::file(&[&crc_form()]);
    // Sixteen bytes before the last section, and its place put right.
    let mut gap = steps::file(&[&[], &crc_form()]);
    let at = gap.len() - crc_form().len() - 12;
    gap.splice(at..at, [0; 16]);
    let slot = 28 + 4 * 8;
    gap[slot..slot + 8].copy_from_slice(&(at as u64 + 16).to_be_bytes());
    vec![("signed", signed(&small)), ("plain", plain), ("gap", gap), ("small", small)]
}

fn configs() -> Group {
    let config = |process: Value| {
        canonical(&json!({ "architecture": "amd64", "os": "linux", "config": process,
            "rootfs": { "type": "layers", "diff_ids": ["LAYER"] } }))
    };
    vec![
        (
            "full",
            config(
                json!({ "Entrypoint": ["/bin/a", "-x"], "Cmd": ["é\n", ""], "User": "a:c", "WorkingDir": "/link/../w",
                "Env": ["PATH=/bin", "A=1", "A=2", "B", "=x"] }),
            ),
        ),
        ("numbers", config(json!({ "Cmd": ["a"], "User": "4:12", "Env": null, "Labels": {}, "Volumes": null }))),
        ("docker", config(json!({ "Cmd": ["sh"], "User": "", "Hostname": "", "Tty": false, "OnBuild": null }))),
    ]
}

fn documents() -> Group {
    let oci = |kind: &str| format!("application/vnd.oci.image.{kind}+json");
    let place = |kind: &str, number: u32| {
        let text = format!(r#"{{"mediaType":"{}","digest":"DIGEST{number}","size":SIZE{number}"#, oci(kind));
        move |more: &str| format!("{text}{more}}}")
    };
    let layer = |number| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"DIGEST{number}","size":SIZE{number}}}"#
        )
    };
    let config = |number| {
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/a"]}},"rootfs":{{"type":"layers","diff_ids":["DIGEST{number}"]}}}}"#
        )
    };
    let index = |entries: &str| format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
    let manifest = |from| {
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, place("config.v1", from)(""), layer(from + 1))
    };
    let tagged = r#","annotations":{"org.opencontainers.image.ref.name":"a"}"#;
    // A tar has NULs, which end documents: these layers are none, and are refused behind their digests.
    let plain = [index(&place("manifest.v1", 1)(tagged)), manifest(2), config(3), "a layer".to_owned()];
    let platforms = [
        place("manifest.v1", 4)(r#","platform":{"architecture":"arm64","os":"linux","variant":"v8"}"#),
        place("manifest.v1", 2)(r#","platform":{"architecture":"amd64","os":"linux"}"#),
    ];
    let nested = [
        index(&place("index.v1", 1)(tagged)),
        index(&platforms.join(",")),
        manifest(3),
        config(4),
        "a layer".to_owned(),
    ];
    let docker =
        [r#"[{"Config":"1","RepoTags":["a:latest"],"Layers":["2"]}]"#.to_owned(), config(2), "a layer".to_owned()];
    let joined = |documents: &[String]| documents.join("\0").into_bytes();
    vec![("plain", joined(&plain)), ("nested", joined(&nested)), ("docker", joined(&docker))]
}
