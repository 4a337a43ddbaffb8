//! What a build cannot do without, each part by the fastest library here: the time that no program of this design can
//! beat.
//!
//! Read, SHA-256 of the compressed layers, inflate, SHA-256 of the tars, SHA-384 twice, CRC-32, write. Each part is run
//! on both cores at once, and its time on a core is taken; half of it is what it costs when two cores share it without
//! loss.

use std::io::Write;
use std::path::Path;

use crate::algorithms::{CHUNK, cpu_seconds, crc32, inflate, inflate_whole, openssl};
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

    /// What is left when the layers were inflated before: hashing, and writing.
    pub fn of_plain_layers(&self) -> f64 {
        let kept = ["SHA-256 of the tars", "SHA-384 twice", "CRC-32", "write"];
        self.parts.iter().filter(|(name, _)| kept.contains(name)).map(|(_, seconds)| seconds).sum()
    }
}

/// The layers of an image, packed and not.
pub struct Data {
    blobs: Vec<Vec<u8>>,
    tars: Vec<Vec<u8>>,
}

impl Data {
    pub fn of(layout: &Path) -> Self {
        let blobs = images::blobs(layout);
        let tars = blobs.iter().map(|blob| inflate(blob)).collect();
        Self { blobs, tars }
    }

    /// Bytes of the plain tars.
    pub fn plain(&self) -> usize {
        self.tars.iter().map(Vec::len).sum()
    }
}

/// Measures the floor of an image in the folder where the build writes.
pub fn measure(layout: &Path, data: &Data, scratch: &Path) -> Floor {
    let Data { blobs, tars } = data;
    let (sha256, sha384) = (openssl::hash::MessageDigest::sha256(), openssl::hash::MessageDigest::sha384());
    let half = |work: &(dyn Fn() + Sync)| on_two_threads(|| cpu_seconds(work)).iter().sum::<f64>() / 4.0;
    have_memory(data, scratch);
    let write = half(&|| write(tars, scratch));
    let parts = vec![
        ("read", half(&|| images::read(layout))),
        ("SHA-256 of the blobs", half(&|| blobs.iter().for_each(|blob| openssl(blob, sha256)))),
        ("inflate", on_two_threads(|| inflate_all(data)).iter().sum::<f64>() / 4.0),
        ("SHA-256 of the tars", half(&|| tars.iter().for_each(|tar| openssl(tar, sha256)))),
        ("SHA-384 twice", 2.0 * half(&|| tars.iter().for_each(|tar| openssl(tar, sha384)))),
        ("CRC-32", half(&|| tars.iter().for_each(|tar| crc32(tar)))),
        ("write", write),
    ];
    Floor { parts }
}

/// Seconds for all layers, into memory that is there already.
fn inflate_all(data: &Data) -> f64 {
    let mut buffer = vec![1; data.tars.iter().map(Vec::len).max().unwrap_or(0)];
    cpu_seconds(|| {
        for (blob, tar) in data.blobs.iter().zip(&data.tars) {
            inflate_whole(blob, &mut buffer[..tar.len()]);
        }
    })
}

/// Has the system hold as much memory as anything here writes to. A virtual machine that gave its free memory back to
/// its host waits for each page of it: who comes first would pay for all.
pub fn have_memory(data: &Data, scratch: &Path) {
    on_two_threads(|| write(&data.tars, scratch));
}

fn write(tars: &[Vec<u8>], scratch: &Path) {
    let mut file = tempfile::tempfile_in(scratch).expect("the folder can be written");
    tars.iter().flat_map(|tar| tar.chunks(CHUNK)).for_each(|chunk| file.write_all(chunk).expect("the disk has room"));
}
