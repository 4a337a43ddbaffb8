//! `eif` on the other architecture writes the same bytes: built for arm64 and run by qemu-user, beside the one of this
//! machine. Needs the packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user, and a compiler for arm64: the
//! toolchain's, or the one that `sh .ci/install-packages` puts into the cache.

mod common;
#[allow(dead_code, reason = "build scripts use the rest")]
#[path = "../init/freestanding.rs"]
mod freestanding;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::TestEnv;
use eif_testdata::hello_image_for;
use freestanding::Toolchain;

/// Where Debian's packages for cross-compilers have libc.
const LIBC: &str = "/usr/aarch64-linux-gnu";
const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// The compiler that has the target.
#[expect(clippy::disallowed_methods, reason = "the compiler is found as `build.rs` finds it")]
fn toolchain() -> Toolchain {
    let found = Toolchain::at_hand("aarch64", "rustc", |name| std::env::var_os(name));
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    found.unwrap_or_else(|| panic!("no Rust compiler has the target {TARGET}: run `sh .ci/install-packages`"))
}

/// Compiles as the wrapper of cargo's compiler, and leaves RUSTC as it is: the build script compiles the inits with
/// that, so that both programs have the same ones.
fn wrapper(folder: &Path, toolchain: &Toolchain) -> PathBuf {
    let file = folder.join("rustc");
    let text = format!("#!/bin/sh\nshift\nexec '{}' \"$@\"\n", toolchain.compiler().display());
    if fs::read_to_string(&file).is_ok_and(|found| found == text) {
        return file;
    }
    fs::create_dir_all(folder).unwrap();
    let new = tempfile::NamedTempFile::new_in(folder).unwrap();
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    new.persist(&file).unwrap();
    file
}

/// `eif` for arm64. The first run compiles all of it, in a folder that later runs find.
fn foreign() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("arm64");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["build", "--quiet", "--locked", "--package", "eif", "--bin", "eif", "--target", TARGET]);
        cargo.arg("--target-dir").arg(&target).env("RUSTC_WRAPPER", wrapper(&target, &toolchain()));
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
        cargo.env("CC_aarch64_unknown_linux_gnu", LINKER).env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar");
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join(TARGET).join("debug/eif")
    })
}

/// Runs the foreign program to its end and gives its stdout.
fn run(env: &TestEnv, arguments: &[&str]) -> String {
    let program = foreign().to_str().unwrap();
    let words = [&["-L", LIBC, program], arguments].concat();
    let output = env.command_of("qemu-aarch64", &words).output().expect("install Debian's package qemu-user");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Builds with both programs, and compares the files and what is said of them.
fn assert_same(arch: &str, platform: &str, further: &[&str]) {
    let env = TestEnv::with_kernels();
    let reference = env.layout("image", &hello_image_for(arch));
    let build = |file| [&["build", &reference, "--platform", platform, "-o", file], further].concat();
    let here = env.eif(&build("here.eif")).success();
    assert_eq!(run(&env, &build("there.eif")), here.stdout(), "{arch} {further:?}");
    let (first, second) = (fs::read(env.path("here.eif")).unwrap(), fs::read(env.path("there.eif")).unwrap());
    assert!(first == second, "{arch} {further:?}: two architectures wrote different files");
    let inspect = ["inspect", "--json", "--files", "here.eif"];
    assert_eq!(run(&env, &inspect), env.eif(&inspect).success().stdout(), "{arch} {further:?}");
}

#[test]
fn the_other_program_is_for_the_other_architecture() {
    let head = fs::read(foreign()).unwrap();
    assert_eq!((&head[..4], u16::from_le_bytes([head[18], head[19]])), (&b"\x7fELF"[..], 183));
}

#[test]
fn images_for_x86_64_have_the_same_bytes() {
    assert_same("x86_64", "linux/amd64", &[]);
}

#[test]
fn images_for_arm64_have_the_same_bytes() {
    assert_same("aarch64", "linux/arm64", &[]);
}

#[test]
fn packed_ramdisks_have_the_same_bytes() {
    for compression in ["gzip", "zstd"] {
        assert_same("x86_64", "linux/amd64", &["--compress", compression]);
        assert_same("aarch64", "linux/arm64", &["--compress", compression]);
    }
}
