//! `eif extract` gives the parts of a file back, and what it gives back builds to the same measurements.

mod common;

use std::fs;
use std::io::{Cursor, Write};

use common::{Output, TestEnv};
use eif::Arch;
use eif::eif::metadata::Facts;
use eif::eif::{Metadata, Options, Writer};
use eif_testdata::{Compression, Config, Entry, Image, Layer, fake_bzimage, layers};

fn layer() -> Layer {
    let long = format!("etc/{}/{}", "d".repeat(90), "n".repeat(150));
    let capability: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let [layer] = layers! {
        "f 0644 0:0 etc/hosts 127.0.0.1 localhost",
        "d 0700 3:4 home",
        "f 4755 3:4 bin/app program",
        "h bin/link => bin/app",
        "h a => bin/app",
        r"l 0777 0:0 od\xff\nd -> ../target",
        "c 0600 0:5 null 1:3",
        "b 0660 0:6 disk 259:70000",
        "p 0640 0:0 pipe",
        "f 0600 70000:3000000 big-owner x"
    }
    .try_into()
    .unwrap();
    layer
        .entry(Entry::file(&long, "long").mtime(1_700_000_000))
        .entry(Entry::symlink("longlink", "t".repeat(200)))
        .entry(Entry::file("bin/ping", "ping").mode(0o755).pax("SCHILY.xattr.security.capability", capability))
        .entry(Entry::hardlink("a-ping", "bin/ping"))
}

fn image(layer: Layer) -> Image {
    Image::new(vec![layer]).config(Config::new().entrypoint(&["/bin/app"]))
}

fn build(env: &TestEnv, name: &str, image: &Image, further: &[&str]) -> Output {
    env.write("kernel", fake_bzimage());
    let reference = env.layout(name, image);
    let file = format!("{name}.eif");
    let build = ["build", &reference, "--kernel", "kernel", "--cmdline", "console=ttyS0", "-o", &file];
    env.eif(&[&build[..], further].concat()).success()
}

#[test]
fn a_tree_that_was_given_back_measures_the_same() {
    for (further, compression) in
        [(&["--mtime", "keep"][..], Compression::None), (&["--compress", "zstd"], Compression::Gzip)]
    {
        let env = TestEnv::new();
        let first = build(&env, "first", &image(layer()), further).json();
        let _ = env.eif(&["extract", "first.eif", "--rootfs", "rootfs.tar"]).success();
        let again = Layer::from_tar(fs::read(env.path("rootfs.tar")).unwrap()).compress(compression);
        let second = build(&env, "second", &image(again), further).json();
        assert_eq!(first["Measurements"], second["Measurements"]);
    }
}

/// A file may have a hundred thousand names.
#[test]
fn attributes_are_a_files_and_not_a_names() {
    let env = TestEnv::new();
    let _ = build(&env, "app", &image(layer()), &[]);
    let bytes = fs::read(env.path("app.eif")).unwrap();
    let record = b"\0/a-ping\0security.capability\x0020\0";
    let count = |wanted: &[u8]| bytes.windows(wanted.len()).filter(|part| *part == wanted).count();
    assert_eq!((count(record), count(b"\0security.capability\0")), (1, 1));
}

#[test]
fn tar_lists_what_was_in_the_image() {
    let env = TestEnv::new();
    let _ = build(&env, "app", &image(layer()), &[]);
    let _ = env.eif(&["extract", "app.eif", "--rootfs", "rootfs.tar"]).success();
    let listed = env.command_of("tar", &["-tvf", "rootfs.tar", "--numeric-owner", "--utc"]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    for line in [
        "drwx------ 3/4               0 1970-01-01 00:00 home/",
        "-rwsr-xr-x 3/4               7 1970-01-01 00:00 a",
        "hrwsr-xr-x 3/4               0 1970-01-01 00:00 bin/link link to a",
        "crw------- 0/5             1,3 1970-01-01 00:00 null",
        "brw-rw---- 0/6       259,70000 1970-01-01 00:00 disk",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
    }
    assert!(!text.contains("rootfs"), "{text}");
}

#[test]
fn stdout_gets_the_same_tar() {
    let env = TestEnv::new();
    let _ = build(&env, "app", &image(layer()), &[]);
    let _ = env.eif(&["extract", "app.eif", "--rootfs", "rootfs.tar"]).success();
    let output = env.command(&["extract", "app.eif", "--rootfs", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == fs::read(env.path("rootfs.tar")).unwrap());
}

#[test]
fn sections_are_given_back_byte_for_byte() {
    let env = TestEnv::new();
    let _ = build(&env, "app", &image(layer()), &["--compress", "gzip"]);
    let _ = env.eif(&["extract", "app.eif", "-C", "parts"]).success();
    let names = ["cmdline", "kernel", "metadata.json", "ramdisk1.cpio.gz", "ramdisk2.cpio.gz"];
    assert_eq!(env.listing(&env.path("parts")), names);
    assert_eq!(fs::read(env.path("parts/kernel")).unwrap(), fake_bzimage());
    assert_eq!(fs::read(env.path("parts/cmdline")).unwrap(), b"console=ttyS0");
    let facts = env.eif(&["inspect", "app.eif", "--json"]).success().json();
    let bytes = fs::read(env.path("app.eif")).unwrap();
    for (index, name) in
        ["kernel", "cmdline", "metadata.json", "ramdisk1.cpio.gz", "ramdisk2.cpio.gz"].iter().enumerate()
    {
        let number = |key| usize::try_from(facts["sections"][index][key].as_u64().unwrap()).unwrap();
        let data = &bytes[number("offset") + 12..][..number("size")];
        assert!(fs::read(env.path("parts").join(name)).unwrap() == data, "{name}");
    }
}

#[test]
fn nothing_is_overwritten_without_force_and_nothing_half_done() {
    let env = TestEnv::new();
    let _ = build(&env, "app", &image(layer()), &[]);
    fs::create_dir(env.path("parts")).unwrap();
    env.write("parts/ramdisk1.cpio", "mine");
    let _ = env.eif(&["extract", "app.eif", "-C", "parts"]).refused("E-exists").says("parts/ramdisk1.cpio");
    assert_eq!(env.listing(&env.path("parts")), ["ramdisk1.cpio"]);
    assert_eq!(fs::read(env.path("parts/ramdisk1.cpio")).unwrap(), b"mine");
    let _ = env.eif(&["extract", "app.eif", "-C", "parts", "--force"]).success();
    assert_eq!(env.listing(&env.path("parts")).len(), 5);
    let _ = env.eif(&["extract", "app.eif"]).code(2);
    let _ = env.eif(&["extract", "app.eif", "-C", "none/parts"]).refused("E-output");
}

/// A record of a newc archive.
fn record(name: &str, inode: u32, mode: u32, links: u32, body: &str) -> Vec<u8> {
    let (size, name_size) = (body.len(), name.len() + 1);
    let mut bytes = format!("070701{inode:08x}{mode:08x}{:016}{links:08x}{:08}{size:08x}", 0, 0);
    bytes.push_str(&format!("{:032}{name_size:08x}{:08}{name}\0", 0, 0));
    let pad = |text: &mut String| text.extend(std::iter::repeat_n('\0', text.len().wrapping_neg() % 4));
    pad(&mut bytes);
    bytes.push_str(body);
    pad(&mut bytes);
    bytes.into_bytes()
}

fn hostile(env: &TestEnv, records: &[Vec<u8>]) {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &fake_bzimage()[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    let archive = |records: &[Vec<u8>]| [records.concat(), record("TRAILER!!!", 0, 0, 1, "")].concat();
    writer.ramdisk().unwrap().write_all(&archive(&[])).unwrap();
    writer.ramdisk().unwrap().write_all(&archive(records)).unwrap();
    env.write("made.eif", writer.finish().unwrap().0.into_inner());
}

#[test]
fn a_name_that_leads_out_is_refused_and_leaves_nothing() {
    let env = TestEnv::new();
    hostile(&env, &[record("rootfs", 1, 0o40755, 2, ""), record("rootfs/../../x", 2, 0o100_644, 1, "x")]);
    let _ = env
        .eif(&["extract", "made.eif", "-C", "parts", "--rootfs", "out.tar"])
        .refused("E-name")
        .says("rootfs/../../x");
    assert_eq!(env.listing(&env.work()), ["made.eif"]);
    hostile(&env, &[record("etc", 1, 0o40755, 2, "")]);
    let _ = env.eif(&["extract", "made.eif", "--rootfs", "out.tar"]).refused("E-rootfs");
}

/// GNU cpio writes the contents of a hard-linked file with its last name.
#[test]
fn contents_behind_the_last_name_of_a_file_come_first_in_the_tar() {
    let env = TestEnv::new();
    let file = |name: &str, body: &str| record(name, 7, 0o100_644, 3, body);
    let records = [file("rootfs/a", ""), file("./rootfs//b", ""), file("/rootfs/c", "contents")];
    hostile(&env, &records);
    let _ = env.eif(&["extract", "made.eif", "--rootfs", "out.tar"]).success();
    let listed = env.command_of("tar", &["-tvf", "out.tar"]).output().unwrap();
    let names: Vec<String> = String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(":00 ").unwrap().1.to_owned())
        .collect();
    assert_eq!(names, ["c", "a link to c", "b link to c"]);
}
