//! The promise of the kernel room: the recipe's kernel is the locked one wherever it is built.
//!
//! The first run builds both kernels in the user's cache (minutes), and one once more elsewhere; later runs take seconds.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use eif::kernel::{self, Built, Format, Request, recipe};
use eif::{Arch, Refusal};

mod common;

use common::boot::on_each_architecture;
use common::{TestEnv, real_cache};

#[expect(clippy::disallowed_methods, reason = "kernels are built with the tools that this user has")]
fn path() -> OsString {
    std::env::var_os("PATH").expect("PATH is set")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn request<'a>(cache: &'a Path, path: &'a OsStr, jobs: usize) -> Request<'a> {
    let jobs = NonZeroUsize::new(jobs).unwrap();
    Request { arch: Arch::X86_64, cache, source: None, id: None, jobs, path, snapshot: None }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[expect(clippy::print_stderr, reason = "a build of minutes shows how far it is")]
fn tell(line: &str) {
    eprintln!("{line}");
}

fn refused(error: &kernel::Error) -> String {
    format!("{error}\nhelp: {}", error.help().join("\nhelp: "))
}

/// The kernel in the user's cache, built if it is not there.
fn built_for(arch: Arch) -> Built {
    let (cache, path) = (real_cache(), path());
    let request = Request { arch, ..request(&cache, &path, processors()) };
    kernel::build(&request, &mut tell).unwrap_or_else(|e| panic!("{}", refused(&e)))
}

fn built() -> Built {
    built_for(Arch::X86_64)
}

/// The source archive, fetched if it is not in the user's cache.
fn tarball(id: &str) -> PathBuf {
    let (cache, path) = (real_cache(), path());
    let request = Request { id: Some(id), ..request(&cache, &path, 1) };
    kernel::source(&request, &mut tell).unwrap_or_else(|e| panic!("{}", refused(&e))).1
}

on_each_architecture! {
    the_recipe_builds_the_locked_kernel,
    the_config_beside_the_kernel_has_every_option,
    verifying_builds_the_same_kernel_and_init,
    the_config_is_the_locked_one,
}

fn the_recipe_builds_the_locked_kernel(arch: Arch) {
    let built = built_for(arch);
    let foreign = built.warnings.iter().any(|warning| warning.code == "W-kernel-compiler");
    assert!(built.kernel.locked || foreign, "neither the locked kernel nor another compiler: {:?}", built.warnings);
    let found = kernel::find(arch, &real_cache()).unwrap();
    assert!(found.path.is_file());
    let preflight = kernel::check_file(&built.kernel.path, arch).unwrap();
    assert_eq!(preflight.findings, []);
    let version = built.kernel.lock_id.split('-').next().unwrap();
    assert_eq!(preflight.release.as_deref(), Some(version));
    match (arch, preflight.format) {
        (Arch::X86_64, Format::BzImage { version: Some(banner), .. }) => {
            assert!(banner.contains("(eif@enclave)") && banner.ends_with("1970-01-01 00:00:00"), "{banner}");
        }
        // Nitro's loader puts the Image there.
        (Arch::Aarch64, Format::Arm64Image { text_offset: 0x20_0000, .. }) => {
            let image = fs::read(&built.kernel.path).unwrap();
            let banner = format!("Linux version {version} (eif@enclave) ");
            assert!(image.windows(banner.len()).any(|window| window == banner.as_bytes()), "no {banner}");
        }
        (_, format) => panic!("{format:?}"),
    }
}

fn the_config_beside_the_kernel_has_every_option(arch: Arch) {
    let config = fs::read_to_string(built_for(arch).kernel.path.with_file_name("config")).unwrap();
    recipe::check_config(&recipe::fragment(arch), &config).unwrap_or_else(|e| panic!("{e}"));
    assert!(config.contains("CONFIG_NSM=y") && config.contains("CONFIG_VSOCKETS_LOOPBACK=y"));
}

/// Builds the kernel a second time, in another folder: the one way in which somebody would who doubts the first.
///
/// The kernel's folder in the cache is named by the hash of all inputs; so is the mark that this test leaves there. The
/// lock's kernel came from another folder: one that equals it has been built twice. So one architecture shows that
/// `--from-source` does it, and the other is built a second time, some ten minutes, only where its compiler is not the
/// lock's.
fn verifying_builds_the_same_kernel_and_init(arch: Arch) {
    let built = built_for(arch);
    let mark = built.kernel.path.parent().unwrap().with_extension("verified");
    let sum = hex::encode(built.kernel.sha256);
    let twice = arch == Arch::X86_64 || !built.kernel.locked;
    if twice && fs::read_to_string(&mark).is_ok_and(|verified| verified == sum) {
        return;
    }
    // In the target folder: there is room for a kernel's source.
    let cache = scratch();
    fs::create_dir(cache.path().join("eif")).unwrap();
    for folder in ["kernels", "sources"] {
        symlink(real_cache().join(folder), cache.path().join("eif").join(folder)).unwrap();
    }
    // Where `eif` finds the compiler of the arm64 init.
    symlink(real_cache().with_file_name("eif-tools"), cache.path().join("eif-tools")).unwrap();
    let tools = std::env::join_paths([rustc_folder()].into_iter().chain(std::env::split_paths(&path()))).unwrap();
    let env = TestEnv::new().variable("XDG_CACHE_HOME", cache.path().to_str().unwrap());
    let env = env.variable("PATH", tools.to_str().unwrap());
    let _ = env.layout("image", &eif_testdata::hello_image_for(arch.name()));
    let platform = format!("linux/{}", arch.oci_name());
    env.build("oci:image", "hello", &["--platform", &platform, "--lock", "eif.lock"]);
    let (further, compiled): (&[&str], _) = if twice { (&["--from-source"], ", compiled again") } else { (&[], "") };
    let output = env.eif(&[&["verify", "hello.eif", "--lock", "eif.lock"][..], further].concat()).success();
    let _ = output.says(&format!("kernels.lock{compiled}, SHA-256 {sum}")).says_nothing_of("warning");
    assert!(!cache.path().join("eif/again").exists(), "the second kernel is not kept");
    if twice {
        fs::write(mark, sum).unwrap();
    }
}

/// Where the toolchain's programs are, without rustup's stand-ins, which would look for a home.
fn rustc_folder() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc is in PATH");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("bin")
}

/// The lock was written after a build on another machine.
fn the_config_is_the_locked_one(arch: Arch) {
    let built = built_for(arch);
    if built.kernel.locked {
        let lock = kernel::Lock::embedded().unwrap();
        let expected = &lock.entry(&built.kernel.lock_id).unwrap().output(arch).unwrap().config_sha256;
        let config = fs::read(built.kernel.path.with_file_name("config")).unwrap();
        assert_eq!(eif_testdata::sha256(&config), format!("sha256:{expected}"));
    }
}

#[test]
fn a_cache_that_the_makefile_would_choke_on_is_refused() {
    let elsewhere = scratch();
    let (source, path) = (tarball(&built().kernel.lock_id), path());
    for name in ["a cache", "a:cache"] {
        let other = elsewhere.path().join(name);
        let error = kernel::build(&Request { source: Some(&source), ..request(&other, &path, 1) }, &mut tell);
        assert_eq!(error.unwrap_err().code(), "E-kernel-place");
    }
}

/// Takes the files that [`recipe::PATCHES`] touch out of the real source.
fn touched(into: &Path) {
    let source = tarball(&built().kernel.lock_id);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xz", "--occurrence=1", "--strip-components=1", "--file"]).arg(source);
    tar.arg("--directory").arg(into);
    for patch in recipe::PATCHES {
        let named = patch.text.lines().filter_map(|line| line.strip_prefix("--- a/"));
        tar.args(named.map(|file| format!("linux-source-6.12/{file}")));
    }
    assert!(tar.status().expect("install tar").success());
}

#[test]
fn the_patched_source_receives_while_replies_wait() {
    let tree = scratch();
    touched(tree.path());
    let read = |file: &str| Ok(fs::read_to_string(tree.path().join(file)).unwrap());
    let stock = recipe::check_patched(read).unwrap_err();
    assert!(stock.to_string().contains("queued_replies"), "{stock}");
    for patch in recipe::PATCHES {
        let file = tree.path().join("patch");
        fs::write(&file, patch.text).unwrap();
        let mut command = Command::new("patch");
        command.args(["--strip=1", "--fuzz=0", "--batch", "--input"]).arg(&file).current_dir(tree.path());
        let output = command.output().expect("install patch");
        assert!(output.status.success(), "{}: {}", patch.name, String::from_utf8_lossy(&output.stdout));
    }
    recipe::check_patched(read).unwrap();
    let transport = fs::read_to_string(tree.path().join("net/vmw_vsock/virtio_transport.c")).unwrap();
    assert!(!transport.contains("queued_replies") && !transport.contains("more_replies"));
    assert!(transport.contains("virtqueue_get_buf"));
}

#[test]
fn missing_tools_are_one_refusal_that_names_the_packages() {
    let nothing = scratch();
    let env = TestEnv::new().variable("PATH", nothing.path().to_str().unwrap());
    let output = env.eif(&["kernel", "build"]).refused("E-kernel-tools");
    let help = output.stderr().lines().find(|line| line.starts_with("help: apt-get install ")).unwrap();
    assert!(["flex", "bison", "bc", "make", "zstd"].iter().all(|package| help.contains(package)), "{help}");
}

/// A PATH with all that a build needs and no way to a network.
fn tools_without_network() -> tempfile::TempDir {
    let folder = scratch();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path()).collect();
    folders.reverse();
    for from in folders.iter().flat_map(fs::read_dir).flatten().map(Result::unwrap) {
        let name = from.file_name();
        if !["apt-get", "curl"].iter().any(|network| name == *network) {
            let link = folder.path().join(&name);
            let _ = fs::remove_file(&link);
            symlink(from.path(), link).unwrap();
        }
    }
    folder
}

#[test]
fn a_source_that_cannot_be_had_is_asked_for_by_name_hash_and_folder() {
    let tools = tools_without_network();
    let env = TestEnv::new().variable("PATH", tools.path().to_str().unwrap());
    let sources = env.work().with_file_name("cache").join("eif/sources");
    let output = env.eif(&["--quiet", "kernel", "build"]).refused("E-kernel-source");
    let lock = kernel::Lock::embedded().unwrap();
    let first = lock.kernels.first().unwrap();
    let output = output.says(&first.deb_name()).says(&first.deb.sha256).says(sources.to_str().unwrap());
    let _ = output.says("--source");
    assert_eq!(env.listing(&sources), [".lock"], "a refusal leaves nothing");
}

#[test]
fn a_foreign_source_is_refused() {
    let env = TestEnv::new();
    env.write("linux.tar.xz", "not that");
    let _ = env.eif(&["kernel", "build", "--source", "linux.tar.xz"]).refused("E-kernel-source-hash");
    let _ = env.eif(&["kernel", "build", "--id", "2.6.32"]).refused("E-kernel-id").says("it has: ");
}

#[test]
fn check_and_ls_print_data() {
    let kernel = built().kernel;
    let env = TestEnv::with_kernels();
    let file = kernel.path.to_str().unwrap();
    let object = env.eif(&["--json", "kernel", "check", file]).success().json();
    assert_eq!((&object["format"], &object["arch"]), (&"bzImage".into(), &"x86_64".into()));
    let _ = env.eif(&["kernel", "check", file, "--arch", "aarch64"]).refused("E-kernel-arch");
    env.write("script", "#!/bin/sh\n");
    let _ = env.eif(&["kernel", "check", "script"]).refused("E-kernel-format");
    let rows = env.eif(&["--json", "kernel", "ls"]).success().json();
    let sum = hex::encode(kernel.sha256);
    let rows = rows.as_array().unwrap();
    assert!(rows.iter().any(|row| row["id"] == *kernel.lock_id && row["built"] == *sum), "{rows:?}");
}
