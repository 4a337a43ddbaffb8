//! Times `eif build` on an image, and what others do with it, in turn with the floor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::floor::{self, Floor};
use crate::images;

/// What is measured.
pub struct Options {
    name: String,
    rounds: usize,
    peers: bool,
}

impl Options {
    /// From the command line.
    pub fn read(name: &str, mut further: &[&str]) -> Option<Self> {
        let mut options = Self { name: name.to_owned(), rounds: 3, peers: false };
        loop {
            further = match further {
                [] => return ["hello", "middle", "large"].contains(&name).then_some(options),
                ["--rounds", number, rest @ ..] => {
                    options.rounds = number.parse().ok().filter(|number| *number > 0)?;
                    rest
                }
                ["--peers", rest @ ..] => {
                    options.peers = true;
                    rest
                }
                _ => return None,
            };
        }
    }
}

/// A contestant's best time, and the most memory that it used.
struct Row {
    name: String,
    seconds: f64,
    kib: u64,
}

pub fn table(options: &Options) {
    let layout = images::layout(&options.name);
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let mut floors: Vec<Floor> = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..options.rounds {
        floors.push(floor::measure(&layout, scratch.path()));
        for (name, script) in contestants(&layout, options.peers) {
            let (seconds, kib) = timed(&script, scratch.path());
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => (row.seconds, row.kib) = (row.seconds.min(seconds), row.kib.max(kib)),
                None => rows.push(Row { name, seconds, kib }),
            }
        }
    }
    let floor = floors.into_iter().min_by(|a, b| a.seconds().total_cmp(&b.seconds())).expect("at least one round");
    print(options, &floor, &rows);
}

fn print(options: &Options, floor: &Floor, rows: &[Row]) {
    println!("{}: best of {} rounds\n\n| what | seconds | × floor | peak memory |", options.name, options.rounds);
    println!("|---|---|---|---|\n| floor | {:.2} | 1.00 | |", floor.seconds());
    for (name, seconds) in &floor.parts {
        println!("| … {name} | {seconds:.2} | {:.2} | |", seconds / floor.seconds());
    }
    println!(
        "| hashing and writing | {:.2} | {:.2} | |",
        floor.hashing_and_writing(),
        floor.hashing_and_writing() / floor.seconds()
    );
    for row in rows {
        let ratio = row.seconds / floor.seconds();
        println!("| {} | {:.2} | {ratio:.2} | {} MiB |", row.name, row.seconds, row.kib / 1024);
    }
}

/// Names and shell scripts; each leaves its results in the working folder.
fn contestants(layout: &Path, peers: bool) -> Vec<(String, String)> {
    let eif = eif();
    let (eif, oci) = (eif.display(), layout.display());
    let build = |options: &str| format!("exec {eif} --quiet build oci:{oci}:latest -o out.eif {options}");
    let mut all = vec![
        ("eif build".to_owned(), build("")),
        ("eif build --threads 1".to_owned(), build("--threads 1")),
        ("eif build --compress gzip".to_owned(), build("--compress gzip")),
        ("eif build --compress zstd".to_owned(), build("--compress zstd")),
    ];
    if peers {
        let steps = format!(
            "skopeo copy -q oci:{oci}:latest oci:copy:latest && umoci unpack --image copy:latest bundle && \
             (cd bundle/rootfs && find . -print0 | cpio --quiet -0 -o -H newc) >ramdisk.cpio"
        );
        all.push(("skopeo copy + umoci unpack + cpio".to_owned(), steps));
    }
    all
}

/// `eif` beside this program.
fn eif() -> PathBuf {
    let path = std::env::current_exe().expect("this program has a path").with_file_name("eif");
    assert!(path.exists(), "{}: build it first, with the same profile: cargo build --release", path.display());
    path
}

/// Wall time and VmHWM of a script in a fresh folder.
fn timed(script: &str, scratch: &Path) -> (f64, u64) {
    let folder = tempfile::tempdir_in(scratch).expect("a temporary folder");
    let start = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder.path())
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("sh can be run");
    let peak = watched(&mut child);
    let seconds = start.elapsed().as_secs_f64();
    (seconds, peak)
}

/// Waits for the end, and reads the peak while it can be read: it never falls.
fn watched(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        match child.try_wait().expect("the child can be waited for") {
            Some(status) => {
                assert!(status.success(), "{status}");
                return peak;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
