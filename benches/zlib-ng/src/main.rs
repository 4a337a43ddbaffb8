//! Inflates a gzip file again and again on two threads, and prints megabytes for a second on a core: those of the file
//! unpacked, median of all turns.

use std::io::Read;

use rustix::time::{ClockId, clock_gettime};

const TURNS: usize = 10;

fn main() {
    let path = std::env::args().nth(1).expect("usage: eif-bench-inflate FILE.gz");
    let blob = std::fs::read(path).expect("the file can be read");
    let speeds = || (0..TURNS).map(|_| speed(&blob)).collect::<Vec<f64>>();
    let mut all = std::thread::scope(|scope| {
        let other = scope.spawn(speeds);
        let mut all = speeds();
        all.extend(other.join().expect("nothing panics"));
        all
    });
    all.sort_by(f64::total_cmp);
    let backend = if cfg!(feature = "zlib-ng") { "zlib-ng" } else { "zlib-rs" };
    println!("inflate, flate2 with {backend}: {:.0} MB/s", all[all.len() / 2]);
}

fn speed(blob: &[u8]) -> f64 {
    let mut decoder = flate2::bufread::MultiGzDecoder::new(blob);
    let mut buffer = vec![0; 256 << 10];
    let (start, mut bytes) = (now(), 0);
    loop {
        match decoder.read(&mut buffer).expect("the file is gzip") {
            0 => return bytes as f64 / 1e6 / (now() - start),
            count => bytes += count,
        }
    }
}

/// Seconds of this thread on a core.
fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
