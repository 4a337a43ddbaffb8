//! Files that nitro-cli made, rebuilt from twenty images of which nitro-cli's own measurements are known
//! (testdata/nitro-cli/README.md). Only metadata differ from what it would write, and they are not measured.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Output, TestEnv};
use crate::forgery::{CMDLINE, Forgery, KERNEL, RAMDISK};
use crate::world::{assert_differs, differences};

/// Times of a clock, as nitro-cli would write them.
const CLOCK: [&[u8; 8]; 2] = [b"6553f100", b"6553f101"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nitro-cli").join(name)
}

fn blobs() -> String {
    golden("blobs").display().to_string()
}

/// A golden image and what is known of it.
struct Case {
    reference: String,
    expected: Value,
}

impl Case {
    fn of(name: &str) -> Self {
        let expected: Value = serde_json::from_slice(&fs::read(golden(&format!("{name}.json"))).unwrap()).unwrap();
        let transport = if expected["image"] == "OCI layout" { "oci-archive" } else { "docker-archive" };
        let archive = golden(&format!("{name}.tar.gz"));
        Case { reference: format!("{transport}:{}", archive.display()), expected }
    }

    /// Those that nitro-cli does not refuse.
    fn all() -> Vec<(String, Self)> {
        let names = fs::read_dir(golden("")).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".tar.gz")?.to_owned())).collect();
        names.sort();
        assert_eq!(names.len(), 20);
        let cases = names.into_iter().map(|name| (name.clone(), Case::of(&name)));
        cases.filter(|(_, case)| case.expected.get("because").is_none()).collect()
    }

    /// Directories, with a leading slash.
    fn times(&self) -> Vec<String> {
        let times = self.expected["times_of_the_build"].as_array().into_iter().flatten();
        let name = |name: &Value| name.as_str().unwrap()["rootfs".len()..].trim_end_matches('/').to_owned();
        times.map(name).collect()
    }

    /// The file `app.eif` as nitro-cli makes it.
    fn file(&self, env: &TestEnv, further: &[&str], change: impl FnOnce(&mut Forgery)) {
        let blobs = blobs();
        let build = ["build", &self.reference, "-o", "app.eif", "--profile", "nitro-cli", "--blobs", &blobs];
        let _ = env.eif(&[&build[..], &["--accept-unstable-times"], further].concat()).success();
        let mut forgery = Forgery::of(&fs::read(env.path("app.eif")).unwrap());
        let layers = forgery.json()["CustomMetadata"]["eif"]["diff_ids"].clone();
        forgery.metadata(|metadata| {
            *metadata = json!({
                "ImageName": "golden", "ImageVersion": "latest", "CustomMetadata": null,
                "BuildMetadata": {"BuildTime": "2026-01-31T12:00:00.123456789+00:00", "BuildTool": "nitro-cli",
                    "BuildToolVersion": "1.5.0", "OperatingSystem": "Linux", "KernelVersion": "6.12.0"},
                "DockerInfo": {"Id": "sha256:00", "GraphDriver": {"Name": "overlay2", "Data": {}},
                    "RootFS": {"Type": "layers", "Layers": layers}},
            });
        });
        for (index, name) in self.times().iter().enumerate() {
            set_time(forgery.data(RAMDISK, 1), &format!("rootfs{name}/"), CLOCK[index % 2]);
        }
        change(&mut forgery);
        env.write("app.eif", forgery.bytes());
    }

    fn ask(&self, env: &TestEnv, further: &[&str]) -> Output {
        env.eif(&[&["verify", "app.eif", "--image", &self.reference][..], further].concat())
    }

    /// The same of somebody who has no blobs of AWS's, but knows PCR0.
    fn ask_with_pcr0(&self, env: &TestEnv, further: &[&str]) -> Output {
        let measured = env.eif(&["pcr", "app.eif"]).success().json();
        self.ask(env, &[&["--pcr0", measured["Measurements"]["PCR0"].as_str().unwrap()], further].concat())
    }
}

/// Sets the time of the first entry with this name.
fn set_time(archive: &mut [u8], name: &str, time: &[u8; 8]) {
    let wanted = [name.as_bytes(), b"\0"].concat();
    let at = archive.windows(wanted.len()).position(|window| window == wanted).expect("the entry is there");
    archive[at - 110 + 46..at - 110 + 54].copy_from_slice(time);
}

#[test]
fn all_golden_files_are_proved() {
    for (name, case) in Case::all() {
        let env = TestEnv::new();
        case.file(&env, &[], |_| ());
        let times = case.times();
        if times.is_empty() {
            let measured = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"].take();
            for register in ["PCR0", "PCR1", "PCR2"] {
                assert_eq!(measured[register], case.expected[register], "{name}: it would be no file of nitro-cli's");
            }
        }
        let whole = case.ask(&env, &["--blobs", &blobs()]).success().says_nothing_of("warning");
        let made = "PCR0, PCR1 and PCR2 of app.eif are what nitro-cli 1.5.0 makes of ";
        let part = case.ask_with_pcr0(&env, &[]).success().says("warning[W-verify-boot]: ");
        let (start, clock) = match times.len() {
            0 => ("same: ".to_owned(), String::new()),
            count => (format!("same but for the times of {count} directories, "), format!("({})", times.join(", "))),
        };
        for (output, made) in [(&whole, made), (&part, "PCR2 of app.eif is what nitro-cli 1.5.0 makes of ")] {
            let said = output.stdout();
            assert!(said.starts_with(&start) && said.contains(&clock) && said.contains(made), "{name}: {said}");
        }
        let object = case.ask_with_pcr0(&env, &["--json"]).success().json();
        assert_eq!(object["nitro_cli"]["proved"], json!(["PCR2"]), "{name}");
        assert_eq!(object["nitro_cli"]["times_of_the_build"], json!(times), "{name}");
        // Without a word on what boots there is no yes.
        let output = case.ask(&env, &[]).code(3).says("help: pass the folder with AWS's kernel");
        let output = output.says("error[E-verify-boot]: PCR2 of the file is what nitro-cli 1.5.0 makes of the image");
        assert_eq!(output.stdout(), "", "{name}");
        assert!(times.iter().all(|time| output.stderr().contains(time)), "{name}: {output:?}");
        assert_eq!(env.listing(&env.tmp()), [""; 0]);
    }
}

/// `eif diff` packs the image as nitro-cli did, whichever Docker kept it, and needs no blobs.
#[test]
fn all_golden_files_are_the_same_as_their_images() {
    for (name, case) in Case::all() {
        let env = TestEnv::new();
        case.file(&env, &[], |_| ());
        let output = env.eif(&["diff", "app.eif", &case.reference]).success();
        assert_eq!(output.stdout(), "the same\n", "{name}: {output:?}");
    }
    let (env, case) = (TestEnv::new(), Case::of("plain"));
    case.file(&env, &[], |file| file.replace(RAMDISK, 1, b"root:x", b"root::"));
    let found = env.eif(&["diff", "app.eif", &case.reference]).code(1);
    assert!(matches!(differences(&found)[..], [one] if one.starts_with("rootfs: /etc/passwd: content: ")), "{found:?}");
    case.file(&env, &[], |file| file.metadata(|it| it["DockerInfo"]["GraphDriver"]["Name"] = json!("vfs")));
    let _ = env.eif(&["diff", "app.eif", &case.reference]).code(3).says("error[E-verify-docker-store]: ");
}

#[test]
fn what_was_changed_is_named() {
    let env = TestEnv::new();
    let case = Case::of("plain");
    let differs = |change: &dyn Fn(&mut Forgery), further: &[&str], expected: &[&str]| {
        case.file(&env, &[], change);
        assert_differs(case.ask(&env, further), expected);
    };
    let (blobs, with) = (blobs(), "--blobs");
    let ramdisk = |from: &'static [u8], to: &'static [u8]| move |file: &mut Forgery| file.replace(RAMDISK, 1, from, to);
    differs(&ramdisk(b"root:x", b"root::"), &[], &["PCR2: ", "ramdisk 2: rootfs/etc/passwd: content: "]);
    differs(&ramdisk(b"000081ed", b"000089ed"), &[], &["ramdisk 2: rootfs/bin/app: mode: 4755 | 0755"]);
    let late = |file: &mut Forgery| set_time(file.data(RAMDISK, 1), "rootfs/bin/", CLOCK[0]);
    differs(&late, &[], &["ramdisk 2: rootfs/bin: mtime: 1700000000 | 1600000000"]);
    // The first of two entries of a name.
    let twice = |file: &mut Forgery| set_time(file.data(RAMDISK, 1), "rootfs/proc/", CLOCK[0]);
    differs(&twice, &[], &["ramdisk 2: rootfs/proc: mtime: 1700000000 | 1492533000"]);
    // What boots is the file's own word, unless AWS's is given.
    let init = |file: &mut Forgery| file.data(RAMDISK, 0)[500] ^= 1;
    differs(&init, &[with, &blobs], &["PCR1: ", "ramdisk 1: "]);
    differs(&|file| file.data(KERNEL, 0)[900] ^= 1, &[with, &blobs], &["PCR0: ", "kernel: sha384: "]);
    differs(&|file| file.data(CMDLINE, 0).extend(b" x"), &[with, &blobs], &["cmdline: word: x | none"]);
    case.file(&env, &[], |file| file.data(KERNEL, 0)[900] ^= 1);
    let _ = case.ask(&env, &[]).code(3).says("error[E-verify-boot]: ");
    // Without an init there is nothing to take.
    differs(&|file| file.replace(RAMDISK, 0, b"init\0", b"unit\0"), &[], &["ramdisk 1: init: entry: none | file"]);
    let zero = "0".repeat(96);
    case.file(&env, &[], |_| ());
    assert_differs(case.ask(&env, &["--pcr0", &zero]), &["PCR0: value: "]);
}

#[test]
fn another_image_is_named_by_the_layers_of_the_metadata() {
    let env = TestEnv::new();
    Case::of("plain").file(&env, &[], |_| ());
    let output = Case::of("modes").ask(&env, &[]).code(1);
    let found = differences(&output);
    assert!(found[0].starts_with("image: diff_id of layer 1: sha256:"), "{output:?}");
    assert!(found.iter().all(|line| !line.starts_with("metadata")), "metadata are not measured: {output:?}");
    // Metadata that lie are no reason to doubt what is measured.
    Case::of("plain").file(&env, &[], |file| {
        file.metadata(|metadata| metadata["DockerInfo"]["RootFS"]["Layers"] = json!([format!("sha256:{:064}", 0)]));
    });
    let _ = Case::of("plain").ask_with_pcr0(&env, &[]).success().says("warning[W-verify-metadata]: ");
}

#[test]
fn the_metadata_say_where_docker_kept_the_layers() {
    let env = TestEnv::new();
    let case = Case::of("implicit-parents");
    let driver = |name: &'static str| {
        move |file: &mut Forgery| file.metadata(|metadata| metadata["DockerInfo"]["GraphDriver"]["Name"] = json!(name))
    };
    case.file(&env, &["--docker-store", "containerd"], driver("overlayfs"));
    let _ = case.ask_with_pcr0(&env, &[]).success();
    case.file(&env, &[], driver("vfs"));
    let output = case.ask(&env, &[]).code(3);
    let _ = output.says("error[E-verify-docker-store]: ").says("`vfs`").says("help: ");
    case.file(&env, &[], |_| ());
    let output = case.ask(&env, &["--from-source"]).code(3);
    let _ = output.says("error[E-verify-kernel-source]: ");
}

/// What `eif build --profile nitro-cli` writes has a record of its own.
#[test]
fn our_own_files_of_this_profile_are_the_same_in_every_byte() {
    let env = TestEnv::new();
    let (case, blobs) = (Case::of("implicit-parents"), blobs());
    let build = ["build", &case.reference, "-o", "app.eif", "--profile", "nitro-cli", "--blobs", &blobs];
    let _ = env.eif(&[&build[..], &["--accept-unstable-times"]].concat()).success();
    let output = case.ask(&env, &["--blobs", &blobs]).success();
    assert!(output.stdout().starts_with("same: every byte of app.eif comes from "), "{output:?}");
    let _ = case.ask(&env, &[]).code(3).says("error[E-verify-modules]: ").says("--blobs");
}
