//! What a build cannot do without, each part by the fastest library here: the time that no program of this design can
//! beat.
//!
//! Read, SHA-256 of the compressed layers, inflate, SHA-256 of the tars, SHA-384 twice, CRC-32, write. Each part is run
//! on both cores at once; half its time is what it costs when two cores share it without loss.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::algorithms::{inflate_libdeflate, openssl};
use crate::{images, on_two_threads};

/// The parts, with the seconds of each.
pub struct Floor {
    pub parts: Vec<(&'static str, f64)>,
}

impl Floor {
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.parts.iter().map(|(_, seconds)| seconds).sum()
    }

    /// What is left when the layers were inflated before.
    pub fn hashing_and_writing(&self) -> f64 {
        let kept = ["SHA-384 twice", "CRC-32", "write"];
        self.parts.iter().filter(|(name, _)| kept.contains(name)).map(|(_, seconds)| seconds).sum()
    }
}

/// Measures the floor of an image in the folder where the build writes.
pub fn measure(layout: &Path, scratch: &Path) -> Floor {
    let blobs = images::blobs(layout);
    let sizes: Vec<usize> = blobs.iter().map(|blob| crate::algorithms::inflate_flate2(blob).len()).collect();
    let tars: Vec<Vec<u8>> = blobs.iter().zip(&sizes).map(|(blob, size)| inflate_libdeflate(blob, *size)).collect();
    let (sha256, sha384) = (openssl::hash::MessageDigest::sha256(), openssl::hash::MessageDigest::sha384());
    let half = |work: &(dyn Fn() + Sync)| on_two_threads(work) / 2.0;
    let parts = vec![
        ("read", half(&|| drop(images::blobs(layout)))),
        ("SHA-256 of the blobs", half(&|| blobs.iter().for_each(|blob| openssl(blob, sha256)))),
        ("inflate", half(&|| blobs.iter().zip(&sizes).for_each(|(blob, size)| drop(inflate_libdeflate(blob, *size))))),
        ("SHA-256 of the tars", half(&|| tars.iter().for_each(|tar| openssl(tar, sha256)))),
        ("SHA-384 twice", 2.0 * half(&|| tars.iter().for_each(|tar| openssl(tar, sha384)))),
        (
            "CRC-32",
            half(&|| {
                tars.iter().for_each(|tar| {
                    std::hint::black_box(crc32fast::hash(tar));
                })
            }),
        ),
        ("write", half(&|| write(&tars, scratch))),
    ];
    Floor { parts }
}

fn write(tars: &[Vec<u8>], scratch: &Path) {
    let mut file = tempfile::tempfile_in(scratch).expect("the folder can be written");
    tars.iter().for_each(|tar| file.write_all(tar).expect("the disk has room"));
    let _ = fs::metadata(scratch);
}
