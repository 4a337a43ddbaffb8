//! `eif diff` says why two files differ: parts, words, entries, fields, lines.

mod common;

use std::fs;
use std::io::Write;

use common::TestEnv;
use eif::eif::metadata::Facts;
use eif::eif::{Metadata, Options, Writer};
use eif_testdata::{Config, Image, fake_bzimage, parse_layers};
use serde_json::{Value, json};

fn image(lines: &[&str], config: Config) -> Image {
    let hosts = "f 0644 0:0 etc/hosts 127.0.0.1 localhost";
    Image::new(parse_layers(&[&[hosts], lines].concat())).config(config.entrypoint(&["/app"]))
}

fn build(env: &TestEnv, name: &str, image: &Image, further: &[&str]) {
    env.write("kernel", fake_bzimage());
    let reference = env.layout(name, image);
    let file = format!("{name}.eif");
    let build = ["build", &reference, "--kernel", "kernel", "-o", &file];
    let cmdline: &[&str] = if further.contains(&"--cmdline") { &[] } else { &["--cmdline", "console=ttyS0 quiet"] };
    let _ = env.eif(&[&build[..], cmdline, further].concat()).success();
}

/// `part path field a|b` of each difference.
fn differences(env: &TestEnv, arguments: &[&str]) -> Vec<String> {
    let output = env.eif(&[&["diff", "--json"], arguments].concat()).code(1);
    let object = output.json();
    assert_eq!(object["same"], json!(false));
    let word = |value: &Value| value.as_str().map_or("-".to_owned(), str::to_owned);
    let line = |d: &Value| {
        format!("{} {} {} {}|{}", word(&d["part"]), word(&d["path"]), word(&d["field"]), word(&d["a"]), word(&d["b"]))
    };
    object["differences"].as_array().unwrap().iter().map(line).collect()
}

fn assert_all(found: &[String], expected: &[&str]) {
    for line in expected {
        assert!(found.iter().any(|found| found == line), "no {line:?} in {found:#?}");
    }
}

const TREE: [&str; 5] = [
    "f 0755 0:0 app program",
    r"f 0644 0:0 conf one\ntwo\nthree\n",
    "f 0644 0:0 gone x",
    "l 0777 0:0 link -> app",
    "h hard => app",
];
const OTHER: [&str; 5] = [
    "f 4755 7:0 app program",
    r"f 0644 0:0 conf one\n2\nthree\n",
    "f 0644 0:0 new x",
    "l 0777 0:0 link -> conf",
    "f 0755 0:0 hard program",
];

#[test]
fn a_file_is_the_same_as_itself() {
    let env = TestEnv::new();
    build(&env, "a", &image(&TREE, Config::new()), &[]);
    fs::copy(env.path("a.eif"), env.path("b.eif")).unwrap();
    assert_eq!(env.eif(&["diff", "a.eif", "b.eif"]).success().stdout(), "the same\n");
    let object = env.eif(&["diff", "a.eif", "b.eif", "--json"]).success().json();
    assert_eq!(object, json!({"same": true, "differences": []}));
}

#[test]
fn entries_are_told_field_by_field() {
    let env = TestEnv::new();
    build(&env, "a", &image(&TREE, Config::new()), &[]);
    build(&env, "b", &image(&OTHER, Config::new().env(&["X=1"])), &["--cmdline", "console=ttyS0 loud"]);
    let found = differences(&env, &["a.eif", "b.eif"]);
    assert_all(
        &found,
        &[
            "cmdline - word quiet|-",
            "cmdline - word -|loud",
            "ramdisk 2 rootfs/app mode 0755|4755",
            "ramdisk 2 rootfs/app uid 0|7",
            "ramdisk 2 rootfs/gone entry file|-",
            "ramdisk 2 rootfs/new entry -|file",
            "ramdisk 2 rootfs/link target app|conf",
            "ramdisk 2 rootfs/hard hard link to rootfs/app|-",
        ],
    );
    for part in ["PCR0 ", "PCR1 ", "PCR2 ", "process - env "] {
        assert!(found.iter().any(|line| line.starts_with(part)), "{part} in {found:#?}");
    }
    for line in &found {
        assert!(!line.starts_with("kernel") && !line.contains("rootfs/etc"), "{line}");
    }
    let text = env.eif(&["diff", "a.eif", "b.eif"]).code(1);
    assert!(text.stdout().contains("rootfs/conf: content: sha256:"), "{}", text.stdout());
    assert!(text.stdout().contains("\n    -two\n    +2\n"), "{}", text.stdout());
}

#[test]
fn what_only_packs_otherwise_is_told_as_that() {
    let env = TestEnv::new();
    build(&env, "a", &image(&TREE, Config::new()), &[]);
    build(&env, "b", &image(&TREE, Config::new()), &["--compress", "zstd", "--name", "other"]);
    let found = differences(&env, &["a.eif", "b.eif"]);
    assert_all(&found, &["ramdisk 2 - format cpio|zstd", r#"metadata - /ImageName "enclave"|"other""#]);
    assert!(!found.iter().any(|line| line.contains("rootfs/")), "{found:#?}");
}

#[test]
fn another_kernel_is_named_by_its_version() {
    let env = TestEnv::new();
    build(&env, "a", &image(&TREE, Config::new()), &[]);
    let mut kernel = fake_bzimage();
    kernel[0x300..0x306].copy_from_slice(b"6.13.7");
    env.write("newer", kernel);
    let _ = env.eif(&["build", "oci:a:latest", "--kernel", "newer", "--cmdline", "quiet", "-o", "b.eif"]).success();
    assert_all(&differences(&env, &["a.eif", "b.eif"]), &["kernel - version 6.12.0|6.13.7"]);
}

#[test]
fn an_image_is_held_against_a_file_by_its_tree() {
    let env = TestEnv::new();
    build(&env, "a", &image(&TREE, Config::new()), &["--mtime", "keep", "--compress", "gzip"]);
    let same = image(&TREE, Config::new());
    let reference = env.layout("same", &same);
    assert_eq!(env.eif(&["diff", "a.eif", &reference]).success().stdout(), "the same\n");
    let other = env.layout("other", &image(&OTHER, Config::new()));
    let found = differences(&env, &[&other, "a.eif"]);
    assert_all(&found, &["rootfs /app mode 4755|0755", "rootfs /new entry file|-", "rootfs /link target conf|app"]);
    assert!(found.iter().all(|line| line.starts_with("rootfs ")), "{found:#?}");
    let text = env.eif(&["diff", "a.eif", &other]).code(1);
    assert!(text.stdout().contains("\n    -two\n    +2\n"), "{}", text.stdout());
    assert_eq!(env.listing(&env.tmp()), Vec::<String>::new());
}

#[test]
fn what_cannot_be_decided_has_its_own_status() {
    let env = TestEnv::new();
    build(&env, "a", &image(&TREE, Config::new()), &[]);
    let _ = env.eif(&["diff", "a.eif", "none.eif"]).code(3).says("error[E-io]: none.eif: ");
    let _ = env.eif(&["diff", "a.eif", "oci:none:latest"]).code(3).says("error[");
    env.write("text.eif", "no enclave image");
    let _ = env.eif(&["diff", "a.eif", "text.eif"]).refused("E-eif-magic");
    let _ = env.eif(&["diff", "oci:a:latest", "oci:a:latest"]).code(2);
}

/// An `.eif` whose ramdisks have so many entries of one name.
fn repeated(env: &TestEnv, name: &str, entries: usize) {
    let entry = |name: &str, mode: u32| {
        let fields = format!("070701{:08x}{mode:08x}{:016}{:08x}{:048}{:08x}{:08}", 1, 0, 1, 0, name.len() + 1, 0);
        let mut bytes = [fields.as_bytes(), name.as_bytes(), b"\0"].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let mut writer =
        Writer::new(fs::File::create(env.path(name)).unwrap(), Options { arch: eif::Arch::X86_64, threads: 1 })
            .unwrap();
    writer.kernel(&mut &b"kernel"[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    for _ in 0..2 {
        let mut ramdisk = writer.ramdisk().unwrap();
        (0..entries).for_each(|_| ramdisk.write_all(&entry("a", 0o40_755)).unwrap());
        ramdisk.write_all(&entry("TRAILER!!!", 0)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_name_that_comes_again_and_again() {
    let env = TestEnv::new();
    repeated(&env, "few.eif", 3);
    repeated(&env, "more.eif", 4);
    let found = differences(&env, &["few.eif", "more.eif"]);
    assert!(found.iter().any(|line| line.starts_with("ramdisk 1 a (again 3) ")), "{found:#?}");
    assert!(!found.iter().any(|line| line.starts_with("ramdisk 1 a (again) ")), "{found:#?}");
    repeated(&env, "many.eif", 50_000);
    let words = ["60", env!("CARGO_BIN_EXE_eif"), "diff", "few.eif", "many.eif"];
    let _ = env.run("timeout", &words).code(1);
}
