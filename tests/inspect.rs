//! `eif inspect` tells what is in a file and what is wrong with it, whoever made it.

mod common;

use std::fs;
use std::io::{Cursor, Write};
use std::process::Stdio;

use common::TestEnv;
use eif::Arch;
use eif::eif::measure::PCR2_OF_NOTHING;
use eif::eif::metadata::Facts;
use eif::eif::{Eif, Metadata, Options, Pcr, Writer};
use eif::verify::{self, Scope};
use eif_testdata::{Config, Image, fake_bzimage, parse_layers};
use proptest::prelude::*;
use serde_json::json;

fn image() -> Image {
    let layers = parse_layers(&[
        "f 0644 0:0 etc/hosts 127.0.0.1 localhost",
        "f 4755 3:4 bin/app program",
        "h bin/link => bin/app",
        r"l 0777 0:0 bin/od\xff\nd -> app",
        "c 0600 0:5 null 1:3",
        "p 0640 0:0 pipe",
    ]);
    Image::new(layers).config(Config::new().entrypoint(&["/bin/app"]).cmd(&["a"]).env(&["A=1"]).working_dir("/bin"))
}

/// A world with `app.eif`, built from [`image`].
fn world(further: &[&str]) -> TestEnv {
    let env = TestEnv::new();
    let reference = env.layout("image", &image());
    env.write("kernel", fake_bzimage());
    let build = ["build", &reference, "--kernel", "kernel", "--cmdline", "console=ttyS0 quiet", "-o", "app.eif"];
    let _ = env.eif(&[&build[..], further].concat()).success();
    env
}

/// A file whose parts are given; the writer does not look into ramdisks.
fn made(arch: Arch, kernel: &[u8], ramdisks: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch, threads: 1 }).unwrap();
    writer.kernel(&mut &kernel[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    for ramdisk in ramdisks {
        writer.ramdisk().unwrap().write_all(ramdisk).unwrap();
    }
    writer.finish().unwrap().0.into_inner()
}

/// Code and offset of each finding.
fn findings(bytes: &[u8]) -> Vec<(String, u64)> {
    let env = TestEnv::new();
    env.write("a.eif", bytes);
    let object = env.eif(&["inspect", "a.eif", "--json"]).success().json();
    let all = object["findings"].as_array().unwrap().iter();
    all.map(|f| (f["code"].as_str().unwrap().to_owned(), f["offset"].as_u64().unwrap())).collect()
}

fn trailer() -> Vec<u8> {
    let numbers = ["00000000"; 11].concat();
    format!("070701{numbers}0000000B00000000TRAILER!!!\0\0\0\0").into_bytes()
}

/// An entry of a newc archive with the contents `contents`.
fn file(name: &str) -> Vec<u8> {
    let (zeros, mode, size) = ("0".repeat(8), "000081A4", "00000008");
    let mut text =
        format!("070701{zeros}{mode}{}{size}{}{:08x}{zeros}{name}\0", zeros.repeat(4), zeros.repeat(4), name.len() + 1);
    text.extend(std::iter::repeat_n('\0', text.len().wrapping_neg() % 4));
    text.push_str("contents");
    text.into_bytes()
}

#[test]
fn json_is_the_interfaces() {
    let env = world(&[]);
    let output = env.eif(&["inspect", "app.eif", "--json"]).success();
    let keys: Vec<&str> =
        output.stdout().lines().filter_map(|line| line.strip_prefix("  \"")?.split('"').next()).collect();
    let expected = "Measurements arch crc_ok sections signature kernel cmdline metadata process ramdisks findings";
    assert_eq!(keys.join(" "), expected);
    let object = output.json();
    assert_eq!(object["Measurements"], env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]);
    assert_eq!((&object["arch"], &object["crc_ok"]), (&json!("x86_64"), &json!(true)));
    assert_eq!(object["kernel"], json!({"format": "bzImage", "version": "6.12.0"}));
    assert_eq!((&object["cmdline"], &object["signature"]), (&json!("console=ttyS0 quiet"), &json!(null)));
    assert_eq!(object["metadata"]["BuildMetadata"]["BuildTool"], "eif");
    assert_eq!(object["findings"], json!([]));
    let types: Vec<_> = object["sections"].as_array().unwrap().iter().map(|s| s["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["kernel", "cmdline", "metadata", "ramdisk", "ramdisk"]);
    let kernel = &object["sections"][0];
    assert_eq!((&kernel["offset"], &kernel["size"], &kernel["flags"]), (&json!(548), &json!(4096), &json!(0)));
}

#[test]
fn the_process_is_told() {
    let env = world(&["--user", "3:4"]);
    let process = env.eif(&["describe", "app.eif", "--json"]).success().json()["process"].take();
    assert_eq!((&process["argv"], &process["cwd"]), (&json!(["/bin/app", "a"]), &json!("/bin")));
    assert_eq!((&process["uid"], &process["gid"], &process["groups"]), (&json!(3), &json!(4), &json!([4])));
    assert!(process["env"].as_array().unwrap().contains(&json!("A=1")));
}

/// U+009B is an escape sequence of one character, U+202E turns the text behind it around.
#[test]
fn nothing_in_the_table_reaches_the_terminal_as_a_command() {
    let env = world(&["--cmd", "\u{9b}31m\u{7f}", "--env", "X=\u{202e}txt"]);
    let output = env.eif(&["inspect", "app.eif"]).success();
    assert!(!output.stdout().contains(['\u{9b}', '\u{7f}', '\u{202e}']), "{output:?}");
    assert!(output.stdout().contains(r"\u{9b}31m\u{7f}") && output.stdout().contains(r"X=\u{202e}txt"), "{output:?}");
}

#[test]
fn what_cannot_be_read_in_any_order_is_named() {
    let env = world(&[]);
    let script = format!("{} inspect <(cat app.eif)", env!("CARGO_BIN_EXE_eif"));
    let piped = env.command_of("bash", &["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&piped.stderr);
    assert_eq!(piped.status.code(), Some(1));
    assert!(said.contains("error[E-eif-io]: ") && said.contains("it is a pipe or a device"), "{said}");
    let _ = env.eif(&["pcr", "."]).refused("E-eif-io").says("it is a folder");
}

#[test]
fn packed_ramdisks_hold_the_same_as_plain_ones() {
    let facts = |compress| {
        let env = world(&["--compress", compress]);
        let object = env.eif(&["inspect", "app.eif", "--json"]).success().json();
        let ramdisks = object["ramdisks"].as_array().unwrap().clone();
        assert_eq!(object["findings"], json!([]), "{compress}");
        let format = ramdisks[0]["format"].as_str().unwrap().to_owned();
        (format, ramdisks.into_iter().map(|r| (r["entries"].clone(), r["unpacked"].clone())).collect::<Vec<_>>())
    };
    let plain = facts("none");
    assert_eq!((plain.0.as_str(), &plain.1[0].0), ("cpio", &json!(2)));
    for compress in ["gzip", "zstd"] {
        assert_eq!(facts(compress), (compress.to_owned(), plain.1.clone()));
    }
}

#[test]
fn the_table_says_what_is_not_measured() {
    let env = world(&[]);
    let output = env.eif(&["inspect", "app.eif"]).success();
    let pcr2 = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]["PCR2"].as_str().unwrap().to_owned();
    for text in
        ["metadata   not measured", "findings   none", "kernel     bzImage, 6.12.0", &pcr2, r#"["/bin/app","a"]"#]
    {
        assert!(output.stdout().contains(text), "no {text:?} in {}", output.stdout());
    }
}

#[test]
fn files_are_listed_like_ls_and_as_cpio_sees_them() {
    let env = world(&[]);
    let output = env.eif(&["inspect", "app.eif", "--files"]).success();
    for line in [
        "-rwsr-xr-x   2     3     4         7 1970-01-01T00:00:00Z rootfs/bin/app",
        r"lrwxrwxrwx   1     0     0         3 1970-01-01T00:00:00Z rootfs/bin/od\xff\x0ad -> app",
        "crw-------   1     0     5      1, 3 1970-01-01T00:00:00Z rootfs/null",
        "prw-r-----   1     0     0         0 1970-01-01T00:00:00Z rootfs/pipe",
        "ramdisk 2 (cpio):",
    ] {
        assert!(output.stdout().lines().any(|found| found == line), "no {line:?} in {}", output.stdout());
    }
    let json = env.eif(&["inspect", "app.eif", "--files", "--json"]).success().json();
    let found = |name: &str| json.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
    let app = json!({"ramdisk": 2, "name": "rootfs/bin/app", "mode": "104755", "nlink": 2, "uid": 3, "gid": 4, "size": 7,
        "mtime": 0});
    assert_eq!(found("rootfs/bin/app"), app);
    assert_eq!(found("rootfs/null")["device"], json!([1, 3]));
    assert_eq!(found(r"rootfs/bin/od\xff\x0ad")["target"], "app");
    assert_eq!(json.as_array().unwrap().len() + 2, output.stdout().lines().count(), "two lines name the ramdisks");
    let sections = env.eif(&["inspect", "app.eif", "--json"]).success().json();
    let number = |key| usize::try_from(sections["sections"][4][key].as_u64().unwrap()).unwrap();
    let start = number("offset") + 12;
    let bytes = fs::read(env.path("app.eif")).unwrap();
    let mut cpio = env.command_of("cpio", &["-t", "--quiet"]);
    let mut child =
        cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cpio runs: install the package `cpio`");
    child.stdin.take().unwrap().write_all(&bytes[start..start + number("size")]).unwrap();
    let judged = child.wait_with_output().unwrap();
    let entries = judged.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    // The name with a newline is two lines of cpio's.
    assert_eq!(Some(entries as u64 - 1), sections["ramdisks"][1]["entries"].as_u64());
}

#[test]
fn the_layout_names_every_byte() {
    let env = world(&[]);
    let ranges = env.eif(&["inspect", "app.eif", "--layout", "--json"]).success().json();
    let mut end = 0;
    for range in ranges.as_array().unwrap() {
        assert_eq!(range["offset"], end, "{range}");
        end += range["size"].as_u64().unwrap();
    }
    assert_eq!(end, fs::metadata(env.path("app.eif")).unwrap().len());
    let text = env.eif(&["inspect", "app.eif", "--layout"]).success();
    assert!(text.stdout().starts_with("0x00000000          4 header.magic               .eif\n"), "{}", text.stdout());
}

#[test]
fn what_is_wrong_is_found() {
    let (kernel, whole) = (fake_bzimage(), trailer());
    let rd1 = |bytes: &[u8]| findings(&made(Arch::X86_64, &kernel, &[bytes, &whole]));
    assert_eq!(rd1(&whole), []);
    let at = 548 + 12 + 4096 + 12 + 13 + 12 + u64::try_from(metadata_size()).unwrap() + 12;
    let found = |code: &str, offset| vec![(code.to_owned(), offset)];
    assert_eq!(rd1(&whole[..100]), found("E-ramdisk-truncated", at));
    assert_eq!(rd1(&[&whole[..], b"x"].concat()), found("E-ramdisk-trailing", at + 124));
    assert_eq!(rd1(b"\xfd7zXZ\0\0\0"), found("W-ramdisk-format", at));
    assert_eq!(rd1(b"no archive.."), found("E-ramdisk-format", at));
    assert_eq!(rd1(b"\x1f\x8b\x08\0"), found("E-ramdisk-packed", at));
    let other = made(Arch::Aarch64, &kernel, &[&whole, &whole]);
    assert_eq!(findings(&other), found("E-kernel-arch", 6));
    let none = made(Arch::X86_64, b"no kernel", &[&whole, &whole]);
    assert_eq!(findings(&none), found("E-kernel-format", 560));
    let env = TestEnv::new();
    env.write("one.eif", made(Arch::X86_64, &kernel, &[&whole]));
    let one = env.eif(&["inspect", "one.eif"]).success();
    let line = one.stdout().lines().find(|line| line.contains("[W-eif-single-ramdisk]")).unwrap().to_owned();
    assert!(line.contains(PCR2_OF_NOTHING), "{line}");
}

fn metadata_size() -> usize {
    Metadata::new(Facts::default()).unwrap().to_bytes().unwrap().len()
}

/// A signature section whose certificate and signature are none.
#[test]
fn a_signature_is_not_claimed_to_be_valid() {
    let pem = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let cbor = [&b"\x81\xa2\x69signature\x40\x73signing_certificate\x58"[..], &[u8::try_from(pem.len()).unwrap()], pem];
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &fake_bzimage()[..]).unwrap();
    writer.cmdline(b"quiet").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    for _ in 0..2 {
        writer.ramdisk().unwrap().write_all(&trailer()).unwrap();
    }
    let pcr8 = Pcr::of_certificate(b"\x30\x00");
    writer.signature(&cbor.concat(), pcr8).unwrap();
    let env = TestEnv::new();
    env.write("signed.eif", writer.finish().unwrap().0.into_inner());
    let object = env.eif(&["inspect", "signed.eif", "--json"]).success().json();
    assert_eq!(object["signature"], json!({"valid": false, "certificate": null}));
    assert_eq!(object["Measurements"]["PCR8"], json!(pcr8));
    assert_eq!(object["findings"].as_array().unwrap().len(), 1);
    assert_eq!(object["findings"][0]["code"], "E-signature-certificate");
    assert!(env.eif(&["inspect", "signed.eif"]).success().stdout().contains("signature  NOT VALID"));
}

#[test]
fn a_broken_file_is_told_and_no_file_is_refused() {
    let env = world(&[]);
    let mut bytes = fs::read(env.path("app.eif")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    env.write("changed.eif", &bytes);
    let object = env.eif(&["inspect", "changed.eif", "--json"]).success().json();
    assert_eq!((&object["crc_ok"], &object["findings"][0]["code"]), (&json!(false), &json!("E-eif-crc")));
    env.write("cut.eif", &bytes[..bytes.len() - 300]);
    let object = env.eif(&["inspect", "cut.eif", "--json"]).success().json();
    assert_eq!((&object["Measurements"], &object["findings"][0]["level"]), (&json!(null), &json!("error")));
    env.write("none.eif", "no enclave image");
    let _ = env.eif(&["inspect", "none.eif"]).refused("E-eif-magic").says("none.eif: ");
    let _ = env.eif(&["inspect", "missing.eif"]).refused("E-io").says("missing.eif");
}

proptest! {
    /// Whatever stands in a file, each way of looking at it ends, and what is packed is read as far as it goes.
    #[test]
    fn prop_changed_files_are_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0..40_usize,
        packed in any::<bool>(),
    ) {
        let entries = [trailer(), file("rootfs/a"), file("process"), trailer()].concat();
        let application = if packed { zstd::encode_all(&entries[..], 1).unwrap() } else { entries };
        let whole = made(Arch::X86_64, &fake_bzimage(), &[&trailer(), &application]);
        let sound = Eif::examine(&whole[..]).unwrap();
        prop_assert!(verify::rootfs(&sound, &mut Vec::new()).unwrap().is_empty());
        let mut bytes = whole.clone();
        for (at, value) in changes {
            // Half of the file is kernel: let the changes fall on the rest.
            let at = at.index(whole.len() - 4096);
            let at = if at < 560 { at } else { at + 4096 };
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        if let Ok(eif) = Eif::examine(&bytes[..]) {
            verify::inspect(&eif, 1).unwrap();
            verify::list(&eif, verify::Listing::Json, &mut Vec::new()).unwrap();
            verify::layout(&eif);
            let _ = verify::rootfs(&eif, &mut Vec::new());
            for scope in [Scope::Bytes, Scope::Tree] {
                let _ = verify::compare(&sound, &eif, scope);
            }
        }
    }
}
