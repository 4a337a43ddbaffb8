//! The init's bytes are a function of toolchain and source: built twice in different surroundings, and held to a hash.

#[allow(dead_code, reason = "build scripts use all of it")]
#[path = "../init/freestanding.rs"]
mod freestanding;
#[path = "../testdata/hello/sha256.rs"]
mod hello_sha256;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use eif::{Arch, init};
use freestanding::Toolchain;
use sha2::{Digest, Sha256};

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// One line for each compiler and architecture: hash, architecture, `rustc -V`.
const GOLDEN: &str = include_str!("../testdata/init.sha256");

/// What the version of a compiler that Debian built says of itself.
const OF_DEBIAN: &str = "(built from a source tarball)";

/// The compiler that `build.rs` finds for an architecture.
#[expect(clippy::disallowed_methods, reason = "the compiler is found as `build.rs` finds it")]
fn compilers(arch: Arch) -> Vec<OsString> {
    let found = Toolchain::at_hand(arch.name(), rustc(), |name| std::env::var_os(name));
    found.unwrap_or_else(|error| panic!("{error}")).iter().map(|toolchain| toolchain.compiler().to_owned()).collect()
}

/// The compiler itself rather than rustup's stand-in, which would look for a home directory.
fn rustc() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc is in PATH");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("bin/rustc")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// Builds a copy of `init/` below `folder` in a process with its own umask and environment.
fn build_in(folder: &Path, umask: &str, environment: &[(&str, &str)]) -> Vec<u8> {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("init"), &folder.join("init"));
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"umask "$0" && exec "$@""#, umask]).arg(std::env::current_exe().unwrap());
    shell.args(["--exact", "a_build_of_its_own", "--ignored"]);
    shell.env_clear().env("PATH", "/usr/bin:/bin").env("BUILD_IN", folder).env("BUILD_BY", rustc());
    let output = shell.envs(environment.iter().copied()).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    fs::read(folder.join(format!("init-{}", std::env::consts::ARCH))).unwrap()
}

/// Not a test: what [`build_in`] runs.
#[test]
#[ignore = "run by the_surroundings_have_no_influence"]
#[expect(clippy::disallowed_methods, reason = "how a test hands parameters to its own executable")]
fn a_build_of_its_own() {
    let (Some(folder), Some(rustc)) = (std::env::var_os("BUILD_IN"), std::env::var_os("BUILD_BY")) else { return };
    let folder = PathBuf::from(folder);
    let toolchain = Toolchain::of(rustc, None).unwrap();
    toolchain.init(std::env::consts::ARCH, &folder.join("init"), &folder).unwrap();
}

#[test]
fn the_surroundings_have_no_influence() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deep = two.path().join("a folder/with spaces/and a longer name");
    fs::create_dir_all(&deep).unwrap();
    let first = build_in(one.path(), "022", &[("HOME", "/nowhere"), ("TZ", "UTC"), ("LANG", "C")]);
    let environment =
        [("HOME", "/tmp"), ("TZ", "Pacific/Chatham"), ("LANG", "de_DE.UTF-8"), ("SOURCE_DATE_EPOCH", "1")];
    let second = build_in(&deep, "077", &environment);
    assert!(first == second, "two folders gave different programs");
    let host = std::env::consts::ARCH.parse().unwrap();
    assert!(init::bytes(host) == Some(&first[..]), "the embedded program is another one than a build of today");
}

#[test]
fn each_embedded_init_has_the_recorded_hash() {
    for arch in ARCHES {
        let hash =
            init::sha256(arch).unwrap_or_else(|| panic!("no init for {arch}: `sh .ci/install-packages`, build again"));
        let toolchain = init::toolchain(arch).unwrap();
        let of_this = format!("  {arch}  {toolchain}");
        let line = format!("{hash}{of_this}");
        match GOLDEN.lines().find(|golden| golden.ends_with(&of_this)) {
            Some(golden) => assert_eq!(golden, line, "testdata/init.sha256 has the first, this build made the second"),
            // Debian's compiler moves inside a suite: a new one is held to itself, by the test below.
            None if toolchain.contains(OF_DEBIAN) => println!("testdata/init.sha256 could have this line:\n{line}"),
            None => panic!("testdata/init.sha256 should have this line:\n{line}"),
        }
    }
}

/// From the source that the library has, with each architecture's own compiler.
#[test]
fn each_init_is_compiled_again_to_the_same_bytes() {
    for arch in ARCHES {
        let folder = tempfile::tempdir().unwrap();
        let again = init::from_source(arch, &compilers(arch), folder.path()).unwrap_or_else(|error| panic!("{error}"));
        assert!(Some(&again[..]) == init::bytes(arch), "{arch}: another program than the embedded one");
    }
}

#[test]
fn the_init_is_static_and_names_no_place() {
    for arch in ARCHES {
        let Some(bytes) = init::bytes(arch) else { continue };
        for (kind, name) in [(2, "PT_DYNAMIC"), (3, "PT_INTERP"), (4, "PT_NOTE")] {
            assert!(!program_headers(bytes).contains(&kind), "{arch}: {name}");
        }
        for place in [env!("CARGO_MANIFEST_DIR"), "/home/", "/root/"] {
            assert!(!bytes.windows(place.len()).any(|window| window == place.as_bytes()), "{arch}: {place}");
        }
    }
}

/// The types of an ELF file's program headers.
fn program_headers(elf: &[u8]) -> Vec<u32> {
    let number = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let start = usize::try_from(u64::from_le_bytes(elf[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (usize::from(number(54)), usize::from(number(56)));
    (0..count)
        .map(|index| &elf[start + index * size..])
        .map(|h| u32::from_le_bytes(h[..4].try_into().unwrap()))
        .collect()
}

#[test]
fn the_init_touches_nothing_unless_it_is_pid_1() {
    let host = std::env::consts::ARCH.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("init");
    fs::write(&program, init::bytes(host).unwrap()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(program).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"eif-init: start: runs only as PID 1 of an enclave (EPERM)\n");
}

/// The hello program tells contents by a hash of its own; here it is held to another one.
#[test]
fn the_hello_programs_sha256_is_sha256() {
    for length in [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000] {
        let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let mut hash = hello_sha256::Sha256::new();
        hash.update(&bytes);
        assert_eq!(hash.finish()[..], Sha256::digest(&bytes)[..], "{length} bytes");
    }
}
