//! Files that anyone may have made are read in bounded memory: nothing is allocated because a file says so, and a file
//! of 100 GB needs no more than a small one. The kernel holds the program to it: what it may allocate is limited, whether
//! it touches it or not.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::TestEnv;
use eif::Arch;
use eif::eif::{Eif, Kind, Options, Section, Writer};
use eif_testdata::{Compression, Config, Entry, Image, Layer, fake_bzimage};

const HUGE: u64 = 100_000_000_000;
/// What reading any file may take, in bytes: some buffers and the stacks of a few threads.
const LIMIT: &str = "--data=33554432";
const METADATA: &[u8] = br#"{"ImageName":"x","ImageVersion":"1","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00Z",
"BuildTool":"test","BuildToolVersion":"1","OperatingSystem":"Linux","KernelVersion":"6"},"DockerInfo":null,"CustomMetadata":null}"#;

/// A newc entry whose header claims these sizes for its name and its contents, and what there is of both.
fn entry(name: &str, mode: u32, name_size: u32, size: u32, body: &[u8]) -> Vec<u8> {
    let mut entry = b"070701".to_vec();
    for field in [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        entry.extend(format!("{field:08X}").bytes());
    }
    entry.extend(name.bytes().chain([0]));
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(body);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

fn right(name: &str, mode: u32, body: &[u8]) -> Vec<u8> {
    entry(name, mode, name.len() as u32 + 1, body.len() as u32, body)
}

/// A ramdisk with a tree and these entries.
fn ramdisk(entries: &[Vec<u8>]) -> Vec<u8> {
    let folder = right("rootfs", 0o040_755, b"");
    [&folder, &entries.concat(), &right("TRAILER!!!", 0, b"")].into_iter().flatten().copied().collect()
}

fn write(path: &Path, ramdisks: &[&[u8]]) {
    let options = Options { arch: Arch::X86_64, threads: 1 };
    let mut writer = Writer::new(File::create(path).unwrap(), options).unwrap();
    writer.kernel(&mut &fake_bzimage()[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(METADATA).unwrap();
    for ramdisk in ramdisks {
        writer.ramdisk().unwrap().write_all(ramdisk).unwrap();
    }
    writer.finish().unwrap();
}

/// Every subcommand that reads a file, each within the limit. Gives the codes of what `inspect` found.
fn read_by_all(env: &TestEnv, name: &str) -> Vec<String> {
    for arguments in [
        &["inspect", name][..],
        &["inspect", name, "--files"],
        &["pcr", name],
        &["diff", name, name],
        &["extract", name, "-C", "parts", "--force"],
        &["extract", name, "--rootfs", "-"],
    ] {
        let limited = [&[LIMIT, "--", env!("CARGO_BIN_EXE_eif")][..], arguments].concat();
        let output = env.command_of("prlimit", &limited).stdout(Stdio::null()).output();
        let output = output.expect("install the package util-linux");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code <= 3) && !said.contains("panic"), "{arguments:?}: {said}");
    }
    let findings = env.eif(&["inspect", name, "--json"]).success().json();
    let findings = findings["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// Changes a number in a file: big-endian, eight bytes.
fn patch(path: &Path, offset: u64, value: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(&value.to_be_bytes(), offset).unwrap();
}

/// Where the header's table and the section's own header say how large a section is.
fn sizes(section: &Section) -> [u64; 2] {
    [284 + 8 * section.slot as u64, section.offset + 4]
}

fn sections(path: &Path) -> Vec<Section> {
    Eif::examine(File::open(path).unwrap()).unwrap().sections().to_vec()
}

#[test]
fn a_file_of_100_gb_with_little_in_it() {
    let env = TestEnv::new();
    let path = env.path("app.eif");
    write(&path, &[&ramdisk(&[]), &ramdisk(&[])]);
    let last = *sections(&path).last().unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(HUGE).unwrap();
    assert_eq!(read_by_all(&env, "app.eif"), ["E-eif-trailing"]);
    // The last section moves to the file's end.
    file.write_all_at(&bytes[last.offset as usize..], HUGE).unwrap();
    patch(&path, 28 + 8 * last.slot as u64, HUGE);
    assert_eq!(read_by_all(&env, "app.eif"), ["E-eif-gap", "E-eif-crc"]);
}

#[test]
fn a_section_that_claims_100_gb() {
    let env = TestEnv::new();
    let path = env.path("app.eif");
    write(&path, &[&ramdisk(&[]), &ramdisk(&[])]);
    for section in sections(&path) {
        for size in [HUGE, u64::MAX, u64::MAX - section.data_offset()] {
            sizes(&section).iter().for_each(|place| patch(&path, *place, size));
            let found = read_by_all(&env, "app.eif");
            assert!(found.contains(&"E-eif-bounds".to_owned()), "{section}: {found:?}");
        }
        sizes(&section).iter().for_each(|place| patch(&path, *place, section.size));
    }
    assert_eq!(read_by_all(&env, "app.eif"), [""; 0]);
}

/// Sections that are held in memory have a limit, also where all their bytes are there.
#[test]
fn large_sections_that_are_held_in_memory() {
    let env = TestEnv::new();
    let path = env.path("app.eif");
    for kind in [Kind::Cmdline, Kind::Metadata, Kind::Signature] {
        write(&path, &[&ramdisk(&[]), &ramdisk(&[])]);
        let last = *sections(&path).last().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&kind.number().to_be_bytes(), last.offset).unwrap();
        let size = 100 << 20;
        file.set_len(last.data_offset() + size).unwrap();
        sizes(&last).iter().for_each(|place| patch(&path, *place, size));
        if kind != Kind::Signature {
            // The first of a kind is the one that is read.
            let first = *sections(&path).iter().find(|section| section.kind == kind).unwrap();
            file.write_all_at(&99_u16.to_be_bytes(), first.offset).unwrap();
        }
        let found = read_by_all(&env, "app.eif");
        assert!(found.contains(&"E-eif-limit".to_owned()), "{kind}: {found:?}");
    }
}

#[test]
fn entries_that_claim_gigabytes() {
    let env = TestEnv::new();
    let file = 0o100_644;
    for (hostile, code) in [
        (entry("rootfs/a", file, 9, u32::MAX, b"few"), "E-ramdisk-truncated"),
        (entry("rootfs/a", file, u32::MAX, 3, b"few"), "E-ramdisk-name"),
        (entry("rootfs/a", 0o120_777, 9, u32::MAX, b"few"), "E-ramdisk-body"),
        (entry("xattrs", file, 7, 60 << 20, b"few"), "E-ramdisk-truncated"),
        (entry("process", file, 8, 4 << 20, b"few"), "E-ramdisk-truncated"),
        (entry("cmd", file, 4, 4 << 20, b"few"), "E-ramdisk-truncated"),
    ] {
        write(&env.path("app.eif"), &[&ramdisk(&[]), &ramdisk(&[hostile])]);
        let found = read_by_all(&env, "app.eif");
        assert!(found.contains(&code.to_owned()), "{found:?}");
    }
}

/// 64 MiB in a file, as it is and packed into a few KiB.
#[test]
fn contents_pass_through() {
    let env = TestEnv::new();
    let large = ramdisk(&[right("rootfs/large", 0o100_644, &vec![0; 64 << 20])]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        write(&env.path("app.eif"), &[&ramdisk(&[]), &compression.pack(&large)]);
        assert_eq!(read_by_all(&env, "app.eif"), [""; 0], "{compression:?}");
    }
}

/// A build, in MiB, and for each entry, in bytes: what `docs/speed.md` promises.
const BUILD: (u64, u64) = (64, 300);
/// Each thread that compresses, in MiB: zstd's tables and its part of the archive.
const COMPRESSOR: u64 = 72;

/// The most memory that the program had, mapped pages of files included, in KiB. It never falls, so it is read until the
/// program ends.
fn peak(mut program: Command) -> u64 {
    let mut child = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let now = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "{status}");
                return peak;
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A file and a layer that are larger than the limit, and many small files: in both layouts, with layers that are kept
/// and that were, and compressed by two threads.
#[test]
fn a_build_holds_entries_and_no_contents() {
    let env = TestEnv::new();
    // Noise (xorshift64), so that it does not get smaller.
    let noise = std::iter::successors(Some(1_u64), |last| {
        let next = last ^ (last << 13);
        let next = next ^ (next >> 7);
        Some(next ^ (next << 17))
    });
    let large: Vec<u8> = noise.take(12 << 20).flat_map(u64::to_ne_bytes).collect();
    let files = 20_000;
    let small = (0..files).fold(Layer::new().entry(Entry::dir("small")), |layer, number| {
        layer.entry(Entry::file(format!("small/file-{number}"), b"x"))
    });
    let layers = vec![small, Layer::new().entry(Entry::file("large", &large))];
    let image = Image::new(layers).compress(Compression::Gzip).config(Config::new().cmd(&["/large"]));
    env.layout("image", &image);
    env.write("kernel", fake_bzimage());
    let blobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nitro-cli/blobs");
    let nitro_cli = ["--profile", "nitro-cli", "--accept-unstable-times", "--blobs", blobs.to_str().unwrap()];
    let kept = ["--kernel", "kernel", "--keep-layers"];
    let packed = |kind| ["--kernel", "kernel", "--threads", "2", "--compress", kind];
    for (further, more) in [
        (&["--kernel", "kernel"][..], 0),
        (&nitro_cli, 0),
        (&kept, 0),
        (&kept, 0),
        (&packed("gzip"), 0),
        (&packed("zstd"), 2 * COMPRESSOR),
    ] {
        let built = peak(env.command(&[&["build", "oci:image:latest", "-o", "app.eif"][..], further].concat()));
        let limit = ((BUILD.0 + more) << 10) + BUILD.1 * (files + 2) / 1024;
        assert!(built > 0 && built <= limit, "{further:?}: {built} KiB, and {limit} are allowed");
        assert!(fs::metadata(env.path("app.eif")).unwrap().len() > large.len() as u64);
    }
}

/// A program that needs more than the limit does not get it.
#[test]
fn the_limit_is_one() {
    let env = TestEnv::new();
    write(&env.path("app.eif"), &[&ramdisk(&[]), &ramdisk(&[])]);
    let starved = ["--data=300000", "--", env!("CARGO_BIN_EXE_eif"), "pcr", "app.eif"];
    assert_eq!(env.command_of("prlimit", &starved).output().unwrap().status.code(), None, "it was not killed");
}
