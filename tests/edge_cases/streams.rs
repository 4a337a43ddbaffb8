//! Layers as streams: compression, digests, cut and crooked tars.

use std::io::Write as _;

use eif_testdata::{Compression, Entry, Image, Layer, OciLayout, layers, sha256};
use flate2::{Crc, GzBuilder};
use serde_json::json;

use crate::world::{Ask, gives, layer, refused, refuses, warns};

const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const TREE: [&str; 2] = ["f 0644 0:0 a 1", "f 0644 0:0 b 2"];

fn simple() -> Layer {
    layers! { TREE[0], TREE[1] }.remove(0)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_with(GzBuilder::new(), bytes)
}

fn gzip_with(builder: GzBuilder, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = builder.write(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn gzipped(blob: Vec<u8>) -> Vec<Layer> {
    vec![simple().packed(blob).claim_media_type(OCI_GZIP)]
}

fn zstded(blob: Vec<u8>) -> Vec<Layer> {
    vec![simple().packed(blob).claim_media_type(OCI_ZSTD)]
}

/// RFC 8878, 3.1.2.
fn skippable(length: usize) -> Vec<u8> {
    [&0x184D_2A5F_u32.to_le_bytes()[..], &u32::try_from(length).unwrap().to_le_bytes(), &vec![7; length]].concat()
}

#[test]
fn sizes_in_pax_and_in_the_header() {
    let next = Entry::file("b", "2");
    let more = Entry::file("a", "1").claim_size(0).pax("size", "1");
    gives(layer([more, next.clone()]), &TREE);
    // The header claims a second block, which is the next entry's header.
    let less = Entry::file("a", "1").claim_size(1024).pax("size", "1");
    gives(layer([less, next.clone()]), &TREE);
    for size in ["-1", "1e3", "0x1", " 1", "18446744073709551616"] {
        refuses(layer([Entry::file("a", "1").pax("size", size)]), "E-bad-tar", "size");
    }
}

/// The PAX size is the file's, not that of the GNU record between them (GHSA-3cv2-h65g-fgmm).
#[test]
fn a_gnu_record_behind_a_pax_header() {
    let name = "n".repeat(200);
    let long = Entry::file(&name, "1").claim_size(0).pax("size", "1");
    gives(layer([long]), &[&format!("f 0644 0:0 {name} 1")]);
    let link = Entry::symlink("l", "t".repeat(200)).pax("size", "0");
    gives(layer([link, Entry::file("z", "")]), &[&format!("l 0777 0:0 l -> {}", "t".repeat(200)), "f 0644 0:0 z "]);
    // Two of a kind: the later one counts.
    let twice = Layer::new().entry(Entry::new(b'L', "x").body("first\0")).entry(Entry::new(b'L', "x").body("second\0"));
    gives(vec![twice.entry(Entry::file("a", "1"))], &["f 0644 0:0 second 1"]);
}

#[test]
fn gzip_members() {
    let tar = simple().tar();
    let (head, tail) = tar.split_at(700);
    gives(vec![simple().compress(Compression::GzipMembers)], &TREE);
    gives(gzipped([gzip(b""), gzip(head), gzip(b""), gzip(tail), gzip(b"")].concat()), &TREE);
    let named = GzBuilder::new().extra(vec![b'S', b'G', 2, 0, 1, 2]).filename("layer.tar").comment("x").mtime(7);
    gives(gzipped(gzip_with(named, &tar)), &TREE);
}

/// RFC 1952: FHCRC is the lower half of the CRC-32 over the header. GNU gzip and zlib take it.
#[test]
fn a_gzip_header_with_a_checksum() {
    let plain = gzip(&simple().tar());
    let mut header = plain[..10].to_vec();
    header[3] |= 2;
    let mut crc = Crc::new();
    crc.update(&header);
    let check = u16::try_from(crc.sum() & 0xffff).unwrap().to_le_bytes();
    gives(gzipped([&header[..], &check, &plain[10..]].concat()), &TREE);
}

#[test]
fn damaged_gzip() {
    let whole = gzip(&simple().tar());
    refuses(gzipped([&whole[..], b"garbage behind the end"].concat()), "E-bad-compression", "gzip");
    refuses(gzipped([&whole[..], &[0x1f, 0x8b, 8]].concat()), "E-truncated", "layer 1/1");
    let mut crc = whole.clone();
    let at = crc.len() - 6;
    crc[at] ^= 1;
    refuses(gzipped(crc), "E-bad-compression", "gzip");
    for cut in [3, 11, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        refuses(gzipped(whole[..cut].to_vec()), "E-truncated", "the gzip stream is cut off");
    }
}

#[test]
fn zstd_frames() {
    let tar = simple().tar();
    let (head, tail) = tar.split_at(700);
    gives(vec![simple().compress(Compression::ZstdFrames)], &TREE);
    let frames = [skippable(0), skippable(300), zstd(head), skippable(9), zstd(b""), zstd(tail), skippable(4)];
    gives(zstded(frames.concat()), &TREE);
    refuses(zstded([zstd(&tar), b"garbage".to_vec()].concat()), "E-bad-compression", "zstd");
    let whole = zstd(&tar);
    for cut in [5, whole.len() / 2, whole.len() - 1] {
        refuses(zstded(whole[..cut].to_vec()), "E-truncated", "layer 1/1");
    }
}

/// A frame header that asks for 2 GiB (RFC 8878, 3.1.1.1.2), and one that asks for 128 MiB and gets it.
#[test]
fn the_zstd_window_is_bounded() {
    let tar = simple().tar();
    let raw_block = u32::try_from(tar.len()).unwrap() << 3 | 1;
    let frame = |log: u8| {
        [&0xFD2F_B528_u32.to_le_bytes()[..], &[0, (log - 10) << 3], &raw_block.to_le_bytes()[..3], &tar].concat()
    };
    gives(zstded(frame(27)), &TREE);
    refuses(zstded(frame(28)), "E-bad-compression", "zstd");
    refuses(zstded(frame(31)), "E-bad-compression", "zstd");
}

#[test]
fn media_types_that_lie() {
    let plain = "application/vnd.oci.image.layer.v1.tar";
    for (compression, claim) in
        [(Compression::Gzip, plain), (Compression::Zstd, OCI_GZIP), (Compression::None, OCI_ZSTD)]
    {
        warns(vec![simple().compress(compression).claim_media_type(claim)], "W-media-type", &TREE);
    }
}

#[test]
fn compressions_that_layers_do_not_have() {
    let xz = b"\xfd7zXZ\0\0\x04".to_vec();
    for (name, blob) in [("xz", xz), ("bzip2", b"BZh91AY&SY".to_vec()), ("lz4", b"\x04\"M\x18d@".to_vec())] {
        refuses(gzipped(blob), "E-media-type", name);
    }
    for suffix in ["+xz", "+bzip2", "+lz4", "+gzip+encrypted", "x"] {
        let media = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        refuses(vec![simple().claim_media_type(&media)], "E-media-type", &media);
    }
}

/// A plain tar begins with a name, and that may look like anything.
#[test]
fn a_name_like_a_magic_number() {
    for name in [&b"BZh9"[..], b"\xfd7zXZ", b"\x1f\x8b\x08", b"P*M\x18", b"\x04\"M\x18"] {
        let text = eif_testdata::escape(name);
        gives(layer([Entry::file(name, "1")]), &[&format!("f 0644 0:0 {text} 1")]);
    }
}

#[test]
fn the_end_of_a_tar() {
    for end in [&[][..], &[0; 512], &[0; 1024], &[0; 10_240]] {
        gives(vec![simple().end(end)], &TREE);
    }
    // What stands behind the end is hashed and not read.
    gives(vec![simple().end([vec![0; 1024], Entry::file("c", "3").to_bytes(), b"garbage".to_vec()].concat())], &TREE);
    // The last padding may be missing.
    gives(vec![Layer::from_tar(&Entry::file("a", "1").to_bytes()[..513])], &TREE[..1]);
    for empty in [Layer::new(), Layer::from_tar(""), Layer::from_tar([0; 512])] {
        gives(vec![empty], &[]);
    }
    refuses(vec![simple().end([vec![0; 512], vec![1; 512]].concat())], "E-bad-tar", "zero block");
}

#[test]
fn cut_and_crooked_tars() {
    let whole = Entry::file("a", vec![b'x'; 2000]).to_bytes();
    for cut in [1, 511, 512, 513, 2000, 2511] {
        refuses(vec![Layer::from_tar(&whole[..cut])], "E-truncated", "offset");
    }
    let long = Entry::file("n".repeat(300), "").to_bytes();
    for cut in [512, 600, 1000] {
        refuses(vec![Layer::from_tar(&long[..cut])], "E-truncated", "offset");
    }
    refuses(layer([Entry::file("a", "").bad_checksum()]), "E-bad-tar", "checksum");
    refuses(vec![simple().end(b"not a header".repeat(100))], "E-bad-tar", "checksum");
    refuses(layer([Entry::file("a", "").claim_size(-1)]), "E-bad-tar", "size");
    refuses(layer([Entry::file("a", "").header_bytes(124, b"000000000x9\0")]), "E-bad-tar", "size");
    refuses(layer([Entry::file("a", "").header_bytes(100, b"rwxr-xr-")]), "E-bad-tar", "mode");
    for (key, value) in [("path", "a\0b"), ("linkpath", "a\0b")] {
        refuses(layer([Entry::file("a", "").pax(key, value)]), "E-bad-tar", "NUL");
    }
    for body in [
        "9 path=x",
        "99 path=x\n",
        "path=x\n",
        "0 \n",
        "-9 path=x\n",
        "9 path-x\n",
        "4 =\n",
        "18446744073709551616 a=b\n",
    ] {
        refuses(layer([Entry::new(b'x', "pax").body(body), Entry::file("a", "")]), "E-bad-tar", "PAX");
    }
}

#[test]
fn records_longer_than_a_mebibyte() {
    for flag in [b'x', b'g', b'L', b'K'] {
        refuses(layer([Entry::new(flag, "x").claim_size((1 << 20) + 1)]), "E-bad-tar", "limit");
        refuses(layer([Entry::new(flag, "x").claim_size(1 << 60)]), "E-bad-tar", "limit");
    }
}

#[test]
fn digests_and_sizes() {
    let image = || Image::new(vec![simple().compress(Compression::Gzip)]);
    let blob = image().layer_blobs().remove(0);
    let other = sha256(b"other");
    let mut files = OciLayout::new().tag("latest", &image()).files();
    // A damaged blob is a damaged blob, though the decoder may notice first.
    refused(Ask::default().files(files.corrupt(&blob.path())), "E-digest-mismatch", "layer 1/1");
    let mut files = OciLayout::new().tag("latest", &image()).files();
    let cut = files.truncate(&blob.path(), blob.bytes.len() - 9);
    refused(Ask::default().files(cut), "E-size-mismatch", "layer 1/1");
    for wrong in [blob.bytes.len() - 1, blob.bytes.len() + 1, 0] {
        let image = image().patch_manifest("/layers/0/size", json!(wrong));
        refused(Ask::default().image(&image), "E-size-mismatch", "layer 1/1");
    }
    refused(
        Ask::default().image(&image().patch_config("/rootfs/diff_ids/0", json!(other))),
        "E-diffid-mismatch",
        &other,
    );
    refused(
        Ask::default().image(&image().patch_config("/rootfs/diff_ids/-", json!(other))),
        "E-layer-count-mismatch",
        "2 diff_ids",
    );
    refused(
        Ask::default().image(&image().patch_config("/rootfs/diff_ids/0", None)),
        "E-layer-count-mismatch",
        "0 diff_ids",
    );
}

#[test]
fn the_same_layer_twice() {
    let layers = layers! { "f 0644 0:0 a 1", "f 0644 0:0 b 2", "--", "w a", "--", "f 0644 0:0 a 1", "f 0644 0:0 b 2" };
    gives(layers, &TREE);
    gives(vec![simple(), simple()], &TREE);
}

#[test]
fn digests_that_are_paths() {
    let good = simple().diff_id();
    let upper = format!("sha256:{}", good["sha256:".len()..].to_uppercase());
    for digest in [
        "sha256:../../etc/passwd",
        "sha512:00",
        "sha256:",
        "md5:00",
        "",
        "sha256",
        &good[..70],
        &upper,
        &format!("{good}0"),
    ] {
        for pointer in ["/layers/0/digest", "/config/digest"] {
            let result = Ask::default().image(&Image::new(vec![simple()]).patch_manifest(pointer, json!(digest)));
            let code = result.expect_err("a refusal").code;
            assert!(["E-bad-digest", "E-bad-manifest"].contains(&code), "{digest}: {code}");
        }
        let image = Image::new(vec![simple()]).patch_config("/rootfs/diff_ids/0", json!(digest));
        refused(Ask::default().image(&image), "E-bad-digest", digest);
    }
}
