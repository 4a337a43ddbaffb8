//! A real distribution as a two-layer image for either architecture, made once by debootstrap and kept in a cache.

use crate::{Compression, Config, Image, Layer, OciLayout, sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const RECIPE: &str = include_str!("../debian.sh");
/// Raise it when this file changes what the image is.
const EDITION: u32 = 3;

/// The folder for images that are dear to make: `$XDG_CACHE_HOME/eif-testdata` or `~/.cache/eif-testdata`.
///
/// # Panics
/// When neither variable is set.
#[expect(clippy::disallowed_methods, reason = "test data may be kept per user; no output of eif depends on it")]
pub fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.expect("XDG_CACHE_HOME or HOME is set").join("eif-testdata")
}

/// The layers of [`debian_image`] as entries, bottom first, for the model.
///
/// # Panics
/// As [`debian_image`].
pub fn debian_layers(cache: &Path, arch: &str) -> Vec<Layer> {
    let place = debian_image(cache, arch);
    ["base.tar", "python.tar"].map(|name| Layer::read_tar(&read(&place.join(name)))).into()
}

/// Debian bookworm (minbase) under python3-minimal, as an OCI layout with the tag `latest`; its command is python3
/// and prints one line. `arch` is `x86_64` or `aarch64`; what this machine cannot run is unpacked and not configured.
/// Takes a minute the first time.
///
/// # Panics
/// When it cannot be made: without root and passwordless sudo, without debootstrap, without a mirror. The message says
/// which.
pub fn debian_image(cache: &Path, arch: &str) -> PathBuf {
    let arch = if arch == "aarch64" { "arm64" } else { "amd64" };
    let key = &sha256(format!("{EDITION}\n{RECIPE}").as_bytes())["sha256:".len()..][..16];
    let place = cache.join(format!("debian-{arch}-{key}"));
    fs::create_dir_all(cache).unwrap_or_else(|e| panic!("{}: {e}", cache.display()));
    let lock = File::create(cache.join("debian.lock")).expect("the cache can be written");
    lock.lock().expect("the cache can be locked");
    if !place.join("index.json").exists() {
        make(cache, &place, arch);
    }
    place
}

fn make(cache: &Path, place: &Path, arch: &str) {
    let work = cache.join("debian.tmp");
    fs::create_dir_all(&work).expect("the cache can be written");
    run_recipe(cache, &work, arch);
    let layer = |name: &str| Layer::from_tar(read(&work.join(name)));
    let layers = vec![layer("base.tar").compress(Compression::Gzip), layer("python.tar").compress(Compression::Zstd)];
    let image = Image::new(layers).config(config().platform(&format!("linux/{arch}")));
    let fresh = work.join("layout");
    OciLayout::new().tag("latest", &image).files().write_dir(&fresh);
    for name in ["base.tar", "python.tar"] {
        fs::copy(work.join(name), fresh.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    fs::rename(&fresh, place).expect("the finished layout moves to its place");
    fs::remove_dir_all(&work).ok();
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn config() -> Config {
    let program = "import os, sys; print('Hello from Debian', open('/etc/debian_version').read().strip(), \
                   'and Python', sys.version.split()[0], 'with pid 1:', os.getpid() == 1, flush=True)";
    Config::new()
        .env(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"])
        .cmd(&["python3", "-c", program])
        .working_dir("/root")
}

/// Runs the shell script, with sudo when that needs no password.
fn run_recipe(cache: &Path, work: &Path, arch: &str) {
    let script = cache.join("debian.sh");
    fs::write(&script, RECIPE).expect("the cache can be written");
    let mut command = if is_root() { Command::new("sh") } else { Command::new("sudo") };
    if !is_root() {
        command.args(["--non-interactive", "sh"]);
    }
    let output =
        command.arg(&script).arg(work).arg(arch).stdin(Stdio::null()).output().expect("sh, or sudo, can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the Debian image could not be made ({}): it needs root or passwordless sudo, the package debootstrap and a \
         Debian mirror among apt's sources\n{said}",
        output.status
    );
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id can be run: install the package coreutils");
    output.stdout.trim_ascii() == b"0"
}
