//! Images that mean harm: bombs of bytes, entries, names and time, and bytes at random.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use eif::rootfs::Limits;
use eif_testdata::{Compression, Config, DockerArchive, Entry, Image, Layer, OciLayout, layers};
use proptest::prelude::*;
use serde_json::json;

use crate::common::TestEnv;
use crate::world::{Ask, Refused, Unpacked, layer, refused};

const MIB: u64 = 1 << 20;

fn with_limits(unpacked: u64, entries: u64) -> Ask {
    Ask { limits: Limits { unpacked, entries, ..Limits::default() }, ..Ask::default() }
}

/// A gzip of `head` and then this many MiB of zeros.
fn zeros(head: &[u8], mebibytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(head).unwrap();
    let chunk = vec![0; 1 << 20];
    (0..mebibytes).for_each(|_| encoder.write_all(&chunk).unwrap());
    encoder.finish().unwrap()
}

/// Asserts that the limit refuses the layers, and in time: reading all of them would take longer.
fn refused_within(ask: &Ask, layers: Vec<Layer>, limit: Duration) {
    let started = Instant::now();
    refused(ask.layers(layers), "E-too-large", "the image unpacks to more than");
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
}

/// 10 GiB of zeros, wherever a tar can have them, stop at the limit: in time, and before the disk is full.
#[test]
fn ten_gibibytes_of_zeros() {
    let file = Entry::file("zeros", "").claim_size(4 << 30).pax("size", (3_u64 << 30).to_string()).to_bytes();
    let end = vec![0; 1024];
    let whiteout = Entry::file(".wh.x", "").claim_size(3 << 30).to_bytes();
    for head in [file, end, whiteout] {
        let bomb = Layer::new().packed(zeros(&head, 10 << 10));
        refused_within(&with_limits(64 * MIB, 1000), vec![bomb], Duration::from_secs(20));
    }
}

/// Within the limits it is only told: a database of zeros is somebody's right.
#[test]
fn a_layer_that_swells_is_told() {
    let layer = |size: usize| vec![Layer::from_iter([Entry::file("zeros", vec![0; size])]).compress(Compression::Gzip)];
    let codes = |layers| Ask::default().layers(layers).unwrap().warnings.iter().map(|it| it.code).collect::<Vec<_>>();
    assert_eq!(codes(layer(64 << 20)), ["W-compression-ratio"]);
    assert!(codes(layer(60 << 20)).is_empty());
}

#[test]
fn the_limit_is_the_whole_image_s() {
    let mebibyte =
        |n: usize| Layer::from_iter([Entry::file(format!("f{n}"), vec![0; 1 << 20])]).compress(Compression::Gzip);
    let eight = || (0..8).map(mebibyte).collect::<Vec<_>>();
    assert!(with_limits(9 * MIB, 8).layers(eight()).is_ok());
    refused(with_limits(7 * MIB, 100).layers(eight()), "E-too-large", "bytes");
    refused(with_limits(9 * MIB, 7).layers(eight()), "E-too-large", "7 entries");
}

/// Holes cost nothing in the layer and all of their length in the ramdisk.
#[test]
fn sparse_files_count_with_their_holes() {
    let sparse = (0..4).map(|n| {
        Entry::file(format!("f{n}"), "")
            .pax("GNU.sparse.size", (1_u64 << 30).to_string())
            .pax("GNU.sparse.map", "1073741824,0")
    });
    refused(with_limits(3 << 30, 1000).layers(layer(sparse)), "E-too-large", "bytes");
}

#[test]
fn entries_without_end() {
    let one = Entry::file("same", "").to_bytes();
    let many = one.repeat(3000);
    refused(with_limits(1 << 30, 2999).layers(vec![Layer::from_tar(many.clone())]), "E-too-large", "2999 entries");
    // One entry can make two thousand directories.
    let deep = (0..40).map(|n| Entry::file(format!("{n}/{}", vec!["d"; 1000].join("/")), ""));
    refused(with_limits(1 << 30, 20_000).layers(layer(deep)), "E-too-large", "20000 entries");
    // Headers that describe nothing are bytes.
    let records = Entry::new(b'x', "x").body("9 a=bcde\n").to_bytes().repeat(3000);
    refused(with_limits(MIB, 1000).layers(vec![Layer::from_tar(records)]), "E-too-large", "bytes");
}

/// The limit of entries bounds the memory, and so what describes them counts.
#[test]
fn entries_that_weigh() {
    let heavy = || layer([Entry::file("a", "").pax("SCHILY.xattr.user.a", "v".repeat(1 << 16))]);
    refused(with_limits(MIB, 257 - 1).layers(heavy()), "E-too-large", "256 entries");
    assert!(with_limits(MIB, 257).layers(heavy()).is_ok());
    // A piece of 16 bytes and more in memory for a few bytes in the stream.
    let pieces: String = (0..1000).map(|n| format!("{},1,", 2 * n)).collect();
    let sparse = |n| {
        let entry = Entry::file(n, vec![1; 1000]).pax("GNU.sparse.size", "2000");
        entry.pax("GNU.sparse.map", pieces.trim_end_matches(','))
    };
    refused(with_limits(MIB, 90).layers(layer([sparse("a")])), "E-too-large", "90 entries");
    assert!(with_limits(MIB, 100).layers(layer([sparse("a")])).is_ok());
    // Two maps in one: the one in the body would never be complete.
    let body = [b"0\n1\n1\n".to_vec(), vec![b'\n'; 506]].concat();
    let both = Entry::file("a", body).pax("GNU.sparse.major", "1").pax("GNU.sparse.map", "0,0");
    refused(Ask::default().layers(layer([both])), "E-bad-tar", "two formats");
}

/// What stays in memory is bounded: a name, a target and an attribute have the kernel's lengths.
#[test]
fn names_without_end() {
    let mebibyte = "n".repeat((1 << 20) - 100);
    refused(Ask::default().layers(layer([Entry::file(&mebibyte, "")])), "E-name-too-long", "layer 1/1");
    refused(Ask::default().layers(layer([Entry::symlink("a", &mebibyte)])), "E-symlink-too-long", "\"a\"");
    refused(Ask::default().layers(layer([Entry::hardlink("a", &mebibyte)])), "E-name-too-long", "\"a\"");
    let refused = Ask::default().layers(layer([Entry::file(&mebibyte, "")])).unwrap_err();
    assert!(refused.message.len() < 2000, "a message of {} bytes", refused.message.len());
}

#[test]
fn quadratic_ways_through_a_layer() {
    let started = processor_time();
    let count = 30_000;
    // Each link's target comes after it.
    let chain = (0..count).map(|n| Entry::hardlink(format!("l{n}"), format!("l{}", n + 1)));
    refused(Ask::default().layers(layer(chain)), "E-hardlink-target", "\"l");
    // Each entry goes through a symlink of its own.
    let links = (0..count).flat_map(|n| [Entry::symlink(format!("s{n}"), "d"), Entry::file(format!("s{n}/f{n}"), "")]);
    assert_eq!(Ask::default().layers(layer(links)).unwrap().tree.len(), 2 * count + 1);
    // Each name is there twice.
    let twice = (0..count).flat_map(|n| [Entry::file(format!("f{n}"), ""), Entry::file(format!("f{n}"), "")]);
    let unpacked = Ask::default().layers(layer(twice)).unwrap();
    assert!(unpacked.warnings.len() <= 20, "{} warnings", unpacked.warnings.len());
    // Whiteouts as deep as a path can be, in directories that this layer has too.
    let deep: Vec<String> = (1..1990).map(|n| "a/".repeat(n)).collect();
    let last = deep.last().unwrap();
    let lower = layer([Entry::dir(last)]).remove(0);
    let whiteouts = (0..2000).map(|_| Entry::file(format!("{last}.wh.x"), ""));
    let upper = layer(deep.iter().map(Entry::dir).chain(whiteouts)).remove(0);
    let unpacked = Ask::default().layers(vec![lower, upper]).unwrap();
    assert_eq!(unpacked.tree.len(), deep.len());
    let took = processor_time() - started;
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// An index may name one document as often as it likes.
#[test]
fn one_document_many_times() {
    let env = TestEnv::new();
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    let document = format!("[{}0]", "0,".repeat(500_000));
    let digest = eif_testdata::sha256(document.as_bytes());
    let entry = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1 });
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add(&format!("blobs/{}", digest.replace(':', "/")), document.as_bytes());
    add("index.json", json!({ "schemaVersion": 2, "manifests": vec![entry; 10_000] }).to_string().as_bytes());
    add("manifest.json", br#"[{"Config":"c.json","Layers":[]}]"#);
    env.write("a.tar", archive.into_inner().unwrap());
    let started = processor_time();
    let reference = format!("docker-archive:{}", env.path("a.tar").display());
    assert!(Ask::default().reference(&reference, &env).is_err());
    let took = processor_time() - started;
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// How long this thread has had a processor: a single layer is read by the thread that asks, and how busy the machine is
/// says nothing about the code.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel with CONFIG_SCHED_INFO");
    Duration::from_nanos(text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).expect("a number"))
}

/// Whatever comes in, the answer is a tree or a refusal with a code and one line.
fn survives(result: Result<Unpacked, Refused>) {
    if let Err(refused) = result {
        assert!(refused.code.starts_with("E-") && !refused.message.is_empty(), "{refused:?}");
    }
}

fn rich_layer() -> Layer {
    layers! {
        "d 0755 0:0 etc/", "f 0644 0:0 etc/a hello", "h b => etc/a", "l 0777 0:0 c -> etc", "c 0600 0:0 n 1:3", "w gone", "o etc",
    }
    .remove(0)
    .entry(Entry::file("x".repeat(150), "1").pax("path", "y").pax("SCHILY.xattr.user.a", "1").pax("mtime", "1.5"))
    .entry(Entry::file("s", "abcde").pax("GNU.sparse.size", "12").pax("GNU.sparse.map", "0,3,6,2,12,0"))
}

/// Bytes to overwrite: where (as a fraction of the length), and with what.
fn edits() -> impl Strategy<Value = Vec<(u16, u8)>> {
    prop::collection::vec((any::<u16>(), prop_oneof![any::<u8>(), Just(0), Just(b'/'), Just(0xff), Just(b'7')]), 1..8)
}

fn edit(bytes: &mut [u8], edits: &[(u16, u8)]) {
    for (at, value) in edits {
        let at = usize::from(*at) * bytes.len() / (1 << 16);
        bytes[at] = *value;
    }
}

/// Makes the checksums of all headers true again, so that edits reach what is behind them.
fn seal(tar: &mut [u8]) {
    for header in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn prop_a_changed_layer_is_a_tree_or_a_refusal(edits in edits(), sealed in prop::bool::weighted(0.9), cut in any::<u16>()) {
        let mut tar = rich_layer().tar();
        edit(&mut tar, &edits);
        if sealed {
            seal(&mut tar);
        }
        if cut % 8 == 0 {
            tar.truncate(usize::from(cut) * tar.len() / (1 << 16));
        }
        survives(Ask::default().layers(vec![Layer::from_tar(tar)]));
    }

    #[test]
    fn prop_a_changed_stream_is_a_tree_or_a_refusal(edits in edits(), compression in prop::sample::select(Compression::ALL.to_vec())) {
        let mut blob = compression.pack(&rich_layer().tar());
        edit(&mut blob, &edits);
        survives(Ask::default().layers(vec![rich_layer().packed(blob)]));
    }

    #[test]
    fn prop_changed_documents_are_an_image_or_a_refusal(edits in edits(), which in 0..3) {
        let image = Image::new(vec![rich_layer()]).config(Config::new().cmd(&["/a"]).user("1:2").env(&["A=1"]));
        let mut manifest = image.manifest_blob();
        let mut config = image.config_blob();
        if which == 0 {
            edit(&mut config.bytes, &edits);
            let text = String::from_utf8_lossy(&manifest.bytes).replace(&image.config_blob().digest(), &config.digest());
            manifest.bytes = text.into_bytes();
        }
        if which == 1 {
            edit(&mut manifest.bytes, &edits);
        }
        let layout = OciLayout::new().descriptor(manifest.descriptor()).with_blob(manifest).with_blob(config);
        let mut files = image.layer_blobs().into_iter().fold(layout, OciLayout::with_blob).files();
        if which == 2 {
            files.change("index.json", |bytes| edit(bytes, &edits));
        }
        survives(Ask { process: Some(Default::default()), ..Ask::default() }.files(&files));
    }

    #[test]
    fn prop_a_changed_archive_is_an_image_or_a_refusal(edits in edits(), legacy in any::<bool>(), sealed in any::<bool>()) {
        let archive = DockerArchive::new().image(&["x:1"], &Image::new(vec![rich_layer()]));
        let mut tar = if legacy { archive.legacy().tar() } else { archive.modern().tar() };
        edit(&mut tar, &edits);
        if sealed {
            seal(&mut tar);
        }
        let env = TestEnv::new();
        let path = env.write("archive", tar);
        survives(Ask::default().reference(&format!("docker-archive:{}", path.display()), &env));
        survives(Ask::default().reference(&format!("oci-archive:{}", path.display()), &env));
    }
}

/// Writes an image of so many files for the measurement below.
fn many_files(count: usize, dir: &Path) {
    let entries = (0..count).map(|n| Entry::file(format!("usr/share/some/folder/{}/file-{n}.txt", n % 500), "content"));
    let image = Image::new(vec![entries.collect::<Layer>().compress(Compression::Gzip)]);
    OciLayout::new().tag("latest", &image).files().write_dir(dir);
}

/// Peak memory of a measurement, in KiB, as the kernel saw it.
fn peak(env: &TestEnv, name: &str) -> io::Result<u64> {
    let script = "$0 pcr oci:$1 --kernel kernel > /dev/null & pid=$!; peak=0; \
                  while now=$(sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status 2>/dev/null) && [ -n \"$now\" ]; \
                  do peak=$now; done; wait $pid && echo $peak";
    let mut command = env.command_of("sh", &["-c", script, env!("CARGO_BIN_EXE_eif"), name]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text)?;
    assert!(child.wait()?.success());
    Ok(text.trim().parse().expect("a number of KiB"))
}

/// Memory grows with the entries, by a few hundred bytes each, and not with the contents.
#[test]
fn memory_an_entry() {
    let env = TestEnv::new();
    env.write("kernel", eif_testdata::fake_bzimage());
    many_files(1000, &env.path("few"));
    many_files(200_000, &env.path("many"));
    let (few, many) = (peak(&env, "few").unwrap(), peak(&env, "many").unwrap());
    let each = (many.saturating_sub(few) * 1024) / 199_000;
    assert!(each < 600, "{few} KiB with 1000 entries, {many} KiB with 200000: {each} bytes an entry");
}
