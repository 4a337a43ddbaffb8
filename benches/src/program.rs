//! Runs a program and tells what it cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What a run cost.
#[derive(Clone, Copy)]
pub struct Cost {
    /// By the clock.
    pub seconds: f64,
    /// On all cores together, children included.
    pub cpu: f64,
    /// VmHWM, in KiB.
    pub kib: u64,
}

impl Cost {
    /// The least time of both and the most memory.
    pub fn best(self, other: Self) -> Self {
        let kib = self.kib.max(other.kib);
        Self { seconds: self.seconds.min(other.seconds), cpu: self.cpu.min(other.cpu), kib }
    }
}

/// `eif` beside this program.
pub fn eif() -> PathBuf {
    let path = std::env::current_exe().expect("this program has a path").with_file_name("eif");
    assert!(path.exists(), "{}: build it first, with the same profile: cargo build --release", path.display());
    path
}

/// Runs a shell script in `folder`.
pub fn run(script: &str, folder: &Path) -> Cost {
    let before = cpu_of_children();
    let start = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("TMPDIR", folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("sh can be run");
    let kib = watched(&mut child);
    Cost { seconds: start.elapsed().as_secs_f64(), cpu: cpu_of_children() - before, kib }
}

/// Seconds of all children that have ended.
fn cpu_of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the system counts");
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// Waits for the end, and reads the peak while it can be read: it never falls. Seldom, since that takes time from what is
/// measured.
fn watched(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let peak = || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    std::thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        let watch = scope.spawn(move || {
            let (mut most, mut pause) = (0, Duration::from_millis(1));
            while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                most = peak().unwrap_or(0).max(most);
                pause = Duration::from_millis(50).min(2 * pause);
            }
            most
        });
        let status = child.wait().expect("the child can be waited for");
        drop(ended);
        assert!(status.success(), "{status}");
        watch.join().expect("it only reads")
    })
}
