//! Every way to tamper that somebody who knows the format has: each is caught, and named.

use std::fs;

use eif::init;
use eif_testdata::fake_bzimage;
use serde_json::{Value, json};

use crate::common::TestEnv;
use crate::forgery::{CMDLINE, Forgery, KERNEL, METADATA, RAMDISK, Section};
use crate::world::{self, ask, ask_image, ask_unsaid, assert_differs, change_lock, differences, forge, image, world};

/// What the change makes of `app.eif` differs in these.
fn assert_caught(env: &TestEnv, change: impl FnOnce(&mut Forgery), expected: &[&str]) {
    let file = forge(env, change);
    assert_differs(ask_image(env, file), expected);
}

#[test]
fn a_byte_in_each_section_with_the_sum_mended() {
    let env = world(&[]);
    assert_caught(&env, |forgery| forgery.data(KERNEL, 0)[4000] ^= 1, &["record: kernel_sha256: "]);
    assert_caught(&env, |forgery| forgery.replace(CMDLINE, 0, b"quiet", b"quite"), &["record: cmdline: "]);
    assert_caught(&env, |forgery| forgery.data(RAMDISK, 0)[4000] ^= 1, &["record: init_sha256: "]);
    assert_caught(
        &env,
        |forgery| forgery.replace(RAMDISK, 1, b"program", b"progrom"),
        &["PCR0: ", "PCR2: ", "ramdisk 2: rootfs/app: content: sha256:"],
    );
    assert_caught(
        &env,
        |forgery| forgery.replace(METADATA, 0, b"6.12.0", b"6.13.0"),
        &["metadata: /BuildMetadata/KernelVersion: \"6.13.0\" | \"6.12.0\""],
    );
}

#[test]
fn a_byte_anywhere_with_the_sum_as_it_was() {
    let env = world(&[]);
    let whole = fs::read(env.path("app.eif")).unwrap();
    let sections = Forgery::of(&whole).sections;
    let mut places: Vec<usize> = vec![8, 16];
    let mut at = 548;
    for Section { data, .. } in sections {
        places.push(at + 12 + data.len() / 2);
        at += 12 + data.len();
    }
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        env.write("changed.eif", bytes);
        let _ = ask_image(&env, "changed.eif").refused("E-eif-crc").says("changed.eif: ");
    }
}

#[test]
fn sections_in_another_order() {
    let env = world(&[]);
    let swapped = |one: usize, other: usize| forge(&env, |forgery| forgery.sections.swap(one, other));
    // kernel, cmdline, metadata, ramdisk, ramdisk
    let _ = ask_image(&env, swapped(0, 1)).refused("E-eif-order");
    let _ = ask_image(&env, swapped(1, 3)).refused("E-eif-order");
    assert_differs(ask_image(&env, swapped(3, 4)), &["record: init_sha256: no init in ramdisk 1 | "]);
    assert_differs(
        ask_image(&env, swapped(2, 3)),
        &["section: order: kernel, cmdline, ramdisk 1, metadata, ramdisk 2"],
    );
}

/// Bytes that move over a boundary keep PCR0: no length is measured.
#[test]
fn a_boundary_that_moved() {
    let env = world(&[]);
    let pcr0 = |file: &str| env.eif(&["pcr", file]).success().json()["Measurements"]["PCR0"].clone();
    let want = pcr0("app.eif");
    let moved = |from: (u16, usize), to: (u16, usize), bytes: usize| {
        let file = forge(&env, |forgery| {
            let data = forgery.data(from.0, from.1);
            let tail = data.split_off(data.len() - bytes);
            forgery.data(to.0, to.1).splice(0..0, tail);
        });
        assert_eq!(pcr0(file), want, "it would be no test");
        ask_image(&env, file)
    };
    assert_differs(moved((KERNEL, 0), (CMDLINE, 0), 1), &["record: cmdline: ", "record: kernel_sha256: "]);
    assert_differs(moved((CMDLINE, 0), (RAMDISK, 0), 4), &["record: cmdline: console=ttyS0 q |"]);
    let file = moved((RAMDISK, 0), (RAMDISK, 1), 4);
    assert_differs(file, &["record: init_sha256: ramdisk 1"]);
    // Behind the end of an archive zeros may follow: then only the sizes tell.
    let zeros = forge(&env, |forgery| forgery.data(RAMDISK, 0).extend([0; 4]));
    assert_differs(ask_image(&env, zeros), &["ramdisk 1: size: ", "ramdisk 1: padding, inode numbers or packing: "]);
}

#[test]
fn the_mode_owner_or_name_of_one_file() {
    let env = world(&[]);
    let changed = |from: &[u8], to: &[u8], expected: &str| {
        assert_caught(&env, |forgery| forgery.replace(RAMDISK, 1, from, to), &["PCR2: ", expected]);
    };
    changed(b"000081ED", b"000089ED", "ramdisk 2: rootfs/app: mode: 4755 | 0755");
    changed(b"rootfs/conf", b"rootfs/bonf", "ramdisk 2: rootfs/bonf: entry: file | none");
    changed(b"000081ED00000000", b"000081ED00000007", "ramdisk 2: rootfs/app: uid: 7 | 0");
}

#[test]
fn another_command_line() {
    let env = world(&[]);
    let line = b"console=ttyS0 quiet init=/bin/sh";
    assert_caught(
        &env,
        |forgery| *forgery.data(CMDLINE, 0) = line.to_vec(),
        &["record: cmdline: console=ttyS0 quiet init=/bin/sh | console=ttyS0 quiet"],
    );
    // A record that says so is nobody's word.
    let file = forge(&env, |forgery| {
        *forgery.data(CMDLINE, 0) = line.to_vec();
        forgery.record("/cmdline", json!(std::str::from_utf8(line).unwrap()));
    });
    let text = std::str::from_utf8(line).unwrap();
    for (said, wanted) in [(&["--cmdline", world::CMDLINE][..], world::CMDLINE), (&[], OWN_CMDLINE)] {
        let words = [&["--image", "oci:image"], said].concat();
        let output = ask_unsaid(&env, file, &words).code(1).says("help: the image has no say in these options");
        assert_eq!(differences(&output), [format!("options: --cmdline: {text:?} | {wanted:?}")]);
    }
    let output = ask_unsaid(&env, file, &["--image", "oci:image", "--cmdline", text]).success();
    assert!(output.stdout().starts_with("same: "), "{output:?}");
    let found = ["PCR0: value: ", "PCR1: ", "lock: cmdline: "];
    assert_differs(ask_unsaid(&env, file, &["--lock", "eif.lock"]), &found);
    let pcr0 = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]["PCR0"].as_str().unwrap().to_owned();
    let output = ask_unsaid(&env, file, &["--image", "oci:image", "--pcr0", &pcr0]).code(1);
    assert_eq!(differences(&output).len(), 1, "{output:?}");
    assert!(differences(&output)[0].ends_with(&format!(" | {pcr0}")), "{output:?}");
}

/// What eif packs where nothing is said.
const OWN_CMDLINE: &str = "reboot=k panic=1 console=ttyS0";

/// A process that the image does not have, with a record that has it: each option that could bring it in.
#[test]
fn another_process_with_a_record_that_says_so() {
    let env = world(&[]);
    for (option, value, expected) in [
        ("--entrypoint", "/link", r#"["/link"]"#),
        ("--cmd", "--shell", r#"["--shell"]"#),
        ("--env", "LD_PRELOAD=/conf", r#"["LD_PRELOAD=/conf"]"#),
        ("--user", "7", r#""7""#),
        ("--workdir", "/etc", r#""/etc""#),
    ] {
        let build = ["build", "oci:image", "--kernel", "kernel", "--cmdline", world::CMDLINE, option, value];
        let _ = env.eif(&[&build[..], &["-o", "forged.eif"]].concat()).success();
        let output = ask_image(&env, "forged.eif").code(1);
        assert_eq!(differences(&output), [format!("options: {option}: {expected} | none")]);
        let output = ask(&env, "forged.eif", &["--image", "oci:image", option, value]).success();
        assert!(output.stdout().starts_with("same: "), "{output:?}");
        // The record of the good file does not hide it.
        let good = Forgery::of(&fs::read(env.path("app.eif")).unwrap()).json();
        let mut forgery = Forgery::of(&fs::read(env.path("forged.eif")).unwrap());
        forgery.metadata(|metadata| *metadata = good);
        env.write("hidden.eif", forgery.bytes());
        assert_differs(ask_image(&env, "hidden.eif"), &["record: process."]);
    }
}

#[test]
fn another_init() {
    let env = world(&["--init", "kernel"]);
    fs::rename(env.path("app.eif"), env.path("evil.eif")).unwrap();
    env.write("own-init", init::bytes(eif::Arch::X86_64).unwrap());
    let good = world(&[]);
    // The init of one file with the record of another.
    let mut evil = Forgery::of(&fs::read(env.path("evil.eif")).unwrap());
    let init = evil.data(RAMDISK, 0).clone();
    assert_caught(&good, |forgery| *forgery.data(RAMDISK, 0) = init, &["record: init_sha256: "]);
    // The record agrees: whoever holds it against eif's own init sees it.
    let own = ask(&env, "evil.eif", &["--image", "oci:image", "--init", "own-init"]);
    assert_differs(own, &["PCR1: value: ", "ramdisk 1: init: content: "]);
    fs::copy(good.path("eif.lock"), env.path("eif.lock")).unwrap();
    assert_differs(ask(&env, "evil.eif", &["--lock", "eif.lock"]), &["PCR1: ", "lock: init_sha256: "]);
}

#[test]
fn another_kernel() {
    let env = world(&[]);
    let mut other = fake_bzimage();
    other[0x300..0x306].copy_from_slice(b"6.13.7");
    env.write("other", other);
    let output = env.eif(&["verify", "app.eif", "--image", "oci:image", "--kernel", "other"]);
    assert_differs(output, &["PCR0: ", "kernel: version: 6.12.0 | 6.13.7", "kernel: sha384: "]);
}

/// Each member of the record, and what it is contradicted by.
#[test]
fn a_forged_record() {
    let env = world(&[]);
    let zeros = "0".repeat(64);
    let digest = format!("sha256:{zeros}");
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/cmdline", json!("quiet"), "record: cmdline: console=ttyS0 quiet | quiet"),
        ("/compress", json!("gzip"), "record: compress: none | gzip"),
        ("/diff_ids", json!([digest]), "image: diff_id of layer 1: sha256:0000"),
        ("/init_sha256", json!(zeros), "record: init_sha256: "),
        ("/kernel_sha256", json!(zeros), "record: kernel_sha256: "),
        ("/modules", json!([{"name": "nsm.ko", "sha256": zeros}]), "record: modules: [] | [{"),
        ("/mtime", json!("keep"), "ramdisk 2: rootfs/app: mtime: 0 | 1700000000"),
        ("/mtime", json!({"clamp": 9}), "ramdisk 2: rootfs/app: mtime: 0 | 9"),
        ("/overrides", json!({"user": "7"}), "process: uid: 0 | 7"),
        ("/platform", json!("linux/arm64"), "record: platform: amd64 | arm64"),
        ("/profile", json!("nitro-cli"), "record: profile: \"eif\" | \"nitro-cli\""),
        ("/docker_store", json!("containerd"), "metadata: /CustomMetadata/eif/docker_store: \"containerd\" | none"),
        ("/accept_unstable_times", json!(true), "metadata: /CustomMetadata/eif/accept_unstable_times: true | none"),
        ("/process/argv", json!(["/bin/sh"]), "record: process.argv: [\"/app\",\"serve\"] | [\"/bin/sh\"]"),
        ("/process/env", json!([]), "record: process.env: "),
        ("/process/cwd", json!("/etc"), "record: process.cwd: \"/\" | \"/etc\""),
        ("/process/uid", json!(1), "record: process.uid: 0 | 1"),
        ("/process/gid", json!(1), "record: process.gid: 0 | 1"),
        ("/process/groups", json!([1]), "record: process.groups: "),
        ("/version", json!("99.0.0"), "record: version: "),
    ];
    let whole: Value = serde_json::from_slice(&fs::read(env.path("eif.lock")).unwrap()).unwrap();
    for key in whole["record"].as_object().unwrap().keys() {
        assert!(cases.iter().any(|(pointer, ..)| pointer.split('/').nth(1) == Some(key)), "{key} is not tried");
    }
    for (pointer, value, expected) in cases {
        assert_caught(&env, |forgery| forgery.record(pointer, value), &[expected]);
    }
    // No other byte of the metadata is free, but for what the builder may choose.
    let build = |key: &'static str| {
        move |forgery: &mut Forgery| forgery.metadata(|metadata| metadata["BuildMetadata"][key] = json!("other"))
    };
    for key in ["BuildTime", "BuildTool", "OperatingSystem", "KernelVersion"] {
        assert_caught(&env, build(key), &[&format!("metadata: /BuildMetadata/{key}: \"other\" | ")]);
    }
    assert_caught(&env, build("BuildToolVersion"), &["record: version: other | "]);
    assert_caught(
        &env,
        |forgery| forgery.metadata(|metadata| metadata["DockerInfo"] = json!({"Id": "1"})),
        &["metadata: /DockerInfo: "],
    );
    assert_caught(&env, |forgery| forgery.data(METADATA, 0).push(b' '), &["metadata: size: ", "metadata: sha384: "]);
}

#[test]
fn another_field_of_the_header() {
    let env = world(&[]);
    let header = |at: usize, value: u8| forge(&env, |forgery| forgery.header[at] = value);
    let _ = ask_image(&env, header(5, 3)).refused("E-eif-version");
    assert_differs(ask_image(&env, header(5, 5)), &["header: version: 5 | 4"]);
    assert_differs(ask_image(&env, header(7, 1)), &["record: platform: arm64 | amd64"]);
    let _ = ask_image(&env, header(7, 2)).refused("E-eif-flags");
    assert_differs(ask_image(&env, header(8, 1)), &["header: default_mem: "]);
    assert_differs(ask_image(&env, header(23, 9)), &["header: default_cpus: 9 | 2"]);
    assert_differs(ask_image(&env, header(25, 1)), &["header: tables, gaps or CRC: "]);
    assert_differs(ask_image(&env, header(540, 1)), &["header: tables, gaps or CRC: "]);
    let _ = ask_image(&env, forge(&env, |forgery| forgery.sections[3].flags = 1)).refused("E-eif-section-flags");
}

#[test]
fn bytes_that_no_section_has() {
    let env = world(&[]);
    let mut bytes = fs::read(env.path("app.eif")).unwrap();
    bytes.extend(b"tail");
    env.write("tail.eif", &bytes);
    let _ = ask_image(&env, "tail.eif").refused("E-eif-trailing");
    // A gap before the last section; no sum covers it.
    let forgery = Forgery::of(&fs::read(env.path("app.eif")).unwrap());
    let last = forgery.sections.last().unwrap().data.len() + 12;
    let mut bytes = forgery.bytes();
    let at = bytes.len() - last;
    bytes.splice(at..at, *b"gap!");
    let offset = u64::try_from(at + 4).unwrap().to_be_bytes();
    bytes[28 + 4 * 8..][..8].copy_from_slice(&offset);
    env.write("gap.eif", &bytes);
    let output = ask_image(&env, "gap.eif").code(1);
    assert!(output.stderr().contains("E-eif-gap"), "{output:?}");
    let more = forge(&env, |forgery| forgery.sections.push(forgery.sections[4].clone()));
    let _ = ask_image(&env, more).code(1);
}

#[test]
fn another_image_is_named_before_what_follows_from_it() {
    let env = world(&[]);
    let _ = env.layout("other", &image("one\n2\n"));
    let output = ask(&env, "app.eif", &["--image", "oci:other"]).code(1);
    let found = differences(&output);
    assert!(found[0].starts_with("image: diff_id of layer 2: sha256:"), "{output:?}");
    assert!(found.iter().any(|line| line.starts_with("ramdisk 2: rootfs/conf: content: ")), "{output:?}");
    assert!(output.stdout().contains("\n    -two\n    +2\n"), "{output:?}");
    let object = ask(&env, "app.eif", &["--image", "oci:other", "--json"]).code(1).json();
    assert_eq!((&object["same"], &object["differences"][0]["part"]), (&json!(false), &json!("image")));
    // The image must be the lock's, too.
    let both = ask(&env, "app.eif", &["--image", "oci:other", "--lock", "eif.lock"]);
    assert_differs(both, &["image: diff_id of layer 2: "]);
}

#[test]
fn every_fact_of_a_lock() {
    let env = world(&[]);
    let whole = fs::read(env.path("eif.lock")).unwrap();
    let zeros = "0".repeat(96);
    for (pointer, value, expected) in [
        ("/measurements/PCR0", json!(zeros), "PCR0: value: "),
        ("/measurements/PCR1", json!(zeros), "PCR1: value: "),
        ("/measurements/PCR2", json!(zeros), "PCR2: value: "),
        ("/record/cmdline", json!("other"), "lock: cmdline: \"console=ttyS0 quiet\" | \"other\""),
        ("/record/mtime", json!("keep"), "lock: mtime: \"zero\" | \"keep\""),
        ("/record/process/uid", json!(7), "lock: process.uid: 0 | 7"),
        ("/record/kernel_sha256", json!("00"), "lock: kernel_sha256: "),
        ("/record/diff_ids", json!([]), "lock: diff_ids: "),
    ] {
        env.write("eif.lock", &whole);
        change_lock(&env, |lock| *lock.pointer_mut(pointer).unwrap() = value);
        assert_differs(ask(&env, "app.eif", &["--lock", "eif.lock"]), &[expected]);
    }
}
