//! Which library does which part of the work how fast, on one core while the other is as busy.

use std::hint::black_box;
use std::io::Read;

use rustix::time::{ClockId, clock_gettime};

use crate::{images, median, on_two_threads};

/// Bytes that are hashed or inflated at a time, as the program does.
pub const CHUNK: usize = 256 << 10;
/// Bytes of a tar that each library gets in a turn: few, so that whatever slows the machine for a while slows all, and
/// more than the caches hold, as a layer is.
const SAMPLE: usize = 64 << 20;
/// Turns of each library.
const ROUNDS: usize = 12;

/// One row: what, by whom, and the work on the sample.
type Row<'a> = (&'static str, &'static str, Box<dyn FnMut() + 'a>);

pub fn table() {
    let blobs = images::blobs(&images::layout("middle"));
    let tar = inflate(blobs.last().expect("the image has layers"));
    let middle = tar.len() / 2;
    let sample = tar.get(middle..middle + SAMPLE).expect("the layer is larger than the sample");
    let blob = images::gzip(sample);
    let names: Vec<[&str; 2]> = rows(&blob, sample).iter().map(|(work, library, _)| [*work, *library]).collect();
    let samples = on_two_threads(|| {
        let mut rows = rows(&blob, sample);
        let mut times = vec![Vec::new(); rows.len()];
        for _ in 0..ROUNDS {
            rows.iter_mut().zip(&mut times).for_each(|((_, _, run), times)| times.push(cpu_seconds(run)));
        }
        times
    });
    println!("Of the first library for the same work; median of {} turns, both cores busy\n", 2 * ROUNDS);
    println!("| work | library | speed | MB/s |\n|---|---|---|---|");
    let mut first = ("", 1.0);
    for (number, [work, library]) in names.into_iter().enumerate() {
        let times = samples.iter().filter_map(|times| times.get(number)).flatten().copied();
        let speed = sample.len() as f64 / 1e6 / median(times);
        if first.0 != work {
            first = (work, speed);
        }
        println!("| {work} | {library} | {:.2} | {speed:.0} |", speed / first.1);
    }
}

/// Seconds of this thread on a core, whoever else wants it.
pub fn cpu_seconds(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = now();
    work();
    now() - start
}

fn rows<'a>(blob: &'a [u8], tar: &'a [u8]) -> Vec<Row<'a>> {
    let mut buffer = vec![0; CHUNK];
    let mut whole = vec![0; tar.len()];
    vec![
        ("SHA-384", "sha2 0.11", Box::new(|| sha2::<sha2::Sha384>(tar))),
        ("SHA-384", "eif's own", Box::new(|| own_sha384(tar))),
        ("SHA-384", "ring", Box::new(|| ring(tar, &ring::digest::SHA384))),
        ("SHA-384", "aws-lc-rs", Box::new(|| aws_lc(tar, &aws_lc_rs::digest::SHA384))),
        ("SHA-384", "graviola", Box::new(|| graviola(tar))),
        ("SHA-384", "openssl", Box::new(|| openssl(tar, openssl::hash::MessageDigest::sha384()))),
        ("SHA-256", "sha2 0.11", Box::new(|| sha2::<sha2::Sha256>(tar))),
        ("SHA-256", "ring", Box::new(|| ring(tar, &ring::digest::SHA256))),
        ("SHA-256", "aws-lc-rs", Box::new(|| aws_lc(tar, &aws_lc_rs::digest::SHA256))),
        ("SHA-256", "openssl", Box::new(|| openssl(tar, openssl::hash::MessageDigest::sha256()))),
        ("inflate", "flate2 with zlib-rs", Box::new(move || inflate_in_pieces(blob, &mut buffer))),
        ("inflate", "libdeflate (whole layer in memory)", Box::new(move || inflate_whole(blob, &mut whole))),
        ("CRC-32", "crc32fast", Box::new(|| crc32(tar))),
        ("CRC-32", "crc-fast", Box::new(|| crc_fast(tar))),
    ]
}

pub fn inflate(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).expect("the layer is gzip");
    tar
}

fn inflate_in_pieces(blob: &[u8], buffer: &mut [u8]) {
    let mut decoder = flate2::bufread::MultiGzDecoder::new(blob);
    while decoder.read(buffer).expect("the layer is gzip") > 0 {}
    black_box(buffer);
}

/// `tar` is as long as what is in the blob.
pub fn inflate_whole(blob: &[u8], tar: &mut [u8]) {
    libdeflater::Decompressor::new().gzip_decompress(blob, tar).expect("the layer is gzip");
    black_box(tar);
}

fn sha2<H: sha2::Digest>(bytes: &[u8]) {
    let mut hash = H::new();
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finalize());
}

fn own_sha384(bytes: &[u8]) {
    let mut hash = eif::eif::measure::Sha384::new();
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finish());
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

fn graviola(bytes: &[u8]) {
    use graviola::hashing::{Hash, HashContext, Sha384};
    let mut hash = Sha384::new();
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finish());
}

pub fn openssl(bytes: &[u8], algorithm: openssl::hash::MessageDigest) {
    let mut hash = openssl::hash::Hasher::new(algorithm).expect("openssl has the hash");
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk).expect("openssl hashes"));
    black_box(hash.finish().expect("openssl hashes"));
}

pub fn crc32(bytes: &[u8]) {
    let mut hash = crc32fast::Hasher::new();
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finalize());
}

fn crc_fast(bytes: &[u8]) {
    let mut hash = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
    bytes.chunks(CHUNK).for_each(|chunk| hash.update(chunk));
    black_box(hash.finalize());
}
