//! Which library does which part of the work how fast, on one core while the other is as busy.

use std::hint::black_box;
use std::io::Read;

use crate::{images, on_two_threads};

/// Bytes that are hashed at a time, as the program does.
const CHUNK: usize = 256 << 10;
/// Each is the best of so many runs.
const ROUNDS: usize = 5;

/// One row: what, by whom, and the work on the whole data.
type Row<'a> = (&'static str, &'static str, Box<dyn Fn() + Sync + 'a>);

pub fn table() {
    let blob = images::blobs(&images::layout("middle")).pop().expect("the image has layers");
    let tar = inflate_flate2(&blob);
    println!("MB/s of one thread while another does the same; {} MB of a tar, gzip level 6\n", tar.len() / 1_000_000);
    println!("| work | library | MB/s |\n|---|---|---|");
    for (work, library, run) in rows(&blob, &tar) {
        let best = (0..ROUNDS).map(|_| on_two_threads(&run)).fold(f64::INFINITY, f64::min);
        println!("| {work} | {library} | {:.0} |", tar.len() as f64 / 1e6 / best);
    }
}

fn rows<'a>(blob: &'a [u8], tar: &'a [u8]) -> Vec<Row<'a>> {
    vec![
        ("SHA-384", "sha2 0.11", Box::new(|| sha2_384(tar))),
        ("SHA-384", "ring", Box::new(|| ring(tar, &ring::digest::SHA384))),
        ("SHA-384", "aws-lc-rs", Box::new(|| aws_lc(tar, &aws_lc_rs::digest::SHA384))),
        ("SHA-384", "openssl", Box::new(|| openssl(tar, openssl::hash::MessageDigest::sha384()))),
        ("SHA-256", "sha2 0.11", Box::new(|| sha2_256(tar))),
        ("SHA-256", "ring", Box::new(|| ring(tar, &ring::digest::SHA256))),
        ("SHA-256", "aws-lc-rs", Box::new(|| aws_lc(tar, &aws_lc_rs::digest::SHA256))),
        ("SHA-256", "openssl", Box::new(|| openssl(tar, openssl::hash::MessageDigest::sha256()))),
        ("inflate", "flate2 with zlib-rs", Box::new(|| drop(inflate_flate2(blob)))),
        ("inflate", "libdeflate (whole layer in memory)", Box::new(|| drop(inflate_libdeflate(blob, tar.len())))),
        (
            "CRC-32",
            "crc32fast",
            Box::new(|| {
                black_box(crc32fast::hash(tar));
            }),
        ),
        (
            "CRC-32",
            "crc-fast",
            Box::new(|| {
                black_box(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, tar));
            }),
        ),
    ]
}

pub fn inflate_flate2(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).expect("the layer is gzip");
    tar
}

pub fn inflate_libdeflate(blob: &[u8], size: usize) -> Vec<u8> {
    let mut tar = vec![0; size];
    let count = libdeflater::Decompressor::new().gzip_decompress(blob, &mut tar).expect("the layer is gzip");
    tar.truncate(count);
    tar
}

fn sha2_384(bytes: &[u8]) {
    use sha2::Digest;
    let mut hash = sha2::Sha384::new();
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finalize());
}

pub fn sha2_256(bytes: &[u8]) {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finalize());
}

fn ring(bytes: &[u8], algorithm: &'static ring::digest::Algorithm) {
    let mut hash = ring::digest::Context::new(algorithm);
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finish());
}

fn aws_lc(bytes: &[u8], algorithm: &'static aws_lc_rs::digest::Algorithm) {
    let mut hash = aws_lc_rs::digest::Context::new(algorithm);
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finish());
}

pub fn openssl(bytes: &[u8], algorithm: openssl::hash::MessageDigest) {
    let mut hash = openssl::hash::Hasher::new(algorithm).expect("openssl has the hash");
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk).expect("openssl hashes"));
    black_box(hash.finish().expect("openssl hashes"));
}
