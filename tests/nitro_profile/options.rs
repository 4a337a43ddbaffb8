//! What the profile refuses of the command line and the blobs, and what it says is lost.

use std::fs;
use std::io::{self, Cursor};

use eif::eif::{Eif, Kind, Options, Writer};
use eif_testdata::{Config, Entry, Image, Layer, layers};
use serde_json::json;

use crate::common::{Output, TestEnv};
use crate::world::{golden, image};

fn blobs() -> String {
    golden("blobs").display().to_string()
}

fn run(env: &TestEnv, reference: &str, further: &[&str]) -> Output {
    let blobs = blobs();
    let words = ["build", reference, "-o", "out.eif", "--profile", "nitro-cli", "--blobs", &blobs];
    env.eif(&[&words[..], further].concat())
}

fn plain() -> Image {
    Image::new(layers! { "d 0755 0:0 bin/", "f 0755 0:0 bin/app x" }).config(Config::new().cmd(&["/bin/app"]))
}

#[test]
fn options_without_a_meaning_are_refused() {
    let env = TestEnv::new();
    let reference = env.layout("image", &plain());
    for option in [
        &["--entrypoint", "x"][..],
        &["--cmd", "x"],
        &["--env", "A=1"],
        &["--user", "1"],
        &["--workdir", "/"],
        &["--mtime", "keep"],
        &["--compress", "gzip"],
        &["--init", "x"],
        &["--kernel", "x"],
        &["--cmdline", "x"],
    ] {
        let _ = run(&env, &reference, option).code(2).says(option[0]).says("nitro-cli");
    }
    for option in [&["--docker-store", "overlay2"][..], &["--accept-unstable-times"]] {
        let _ = env.eif(&[&["build", &reference, "-o", "out.eif"][..], option].concat()).code(2).says(option[0]);
    }
    let _ = env.eif(&["build", &reference, "-o", "out.eif", "--profile", "nitro-cli"]).code(2).says("--blobs");
    assert_eq!(env.listing(&env.work()), ["image"]);
}

#[test]
fn missing_blobs_are_named() {
    let env = TestEnv::new();
    let reference = env.layout("image", &plain());
    fs::create_dir(env.path("blobs")).unwrap();
    fs::copy(golden("blobs/cmdline"), env.path("blobs/cmdline")).unwrap();
    let words = ["build", &reference, "-o", "out.eif", "--profile", "nitro-cli", "--blobs", "blobs"];
    let output = env.eif(&words).refused("E-nitro-blobs");
    let _ = output.says("bzImage or Image, init, nsm.ko missing").says_nothing_of("cmdline missing");
}

#[test]
fn the_record_names_the_profile_and_no_pcr_depends_on_it() {
    let env = TestEnv::new();
    let reference = env.layout("image", &plain());
    let _ = run(&env, &reference, &["--name", "app", "--image-version", "7"]).success();
    let inspected = env.eif(&["inspect", "out.eif", "--json"]).success().json();
    let record = &inspected["metadata"]["CustomMetadata"]["eif"];
    assert_eq!(record["profile"], "nitro-cli");
    assert_eq!(record["docker_store"], "overlay2");
    assert_eq!(record["process"]["argv"], json!(["/bin/app"]));
    assert_eq!(
        inspected["findings"],
        json!([{
            "code": "E-kernel-format", "level": "error",
            "message": inspected["findings"][0]["message"], "offset": inspected["findings"][0]["offset"],
        }])
    );
    let types: Vec<_> = inspected["sections"].as_array().unwrap().iter().map(|section| &section["type"]).collect();
    assert_eq!(types, ["kernel", "cmdline", "metadata", "ramdisk", "ramdisk"]);
    let other = env.eif(&["pcr", &reference, "--profile", "nitro-cli", "--blobs", &blobs()]).success();
    assert_eq!(other.json()["Measurements"], env.eif(&["pcr", "out.eif"]).success().json()["Measurements"]);
}

#[test]
fn docker_load_refusals_name_the_entry_and_the_reason() {
    let cases = [
        (layers! { "f 0644 0:0 a x", "f 0644 0:0 ./a y" }, "E-docker-load", "holds this name twice"),
        (layers! { "f 0644 0:0 a x", "f 0644 0:0 a/b y" }, "E-docker-load", "is not a directory"),
        (layers! { "l 0777 0:0 a -> b", "f 0644 0:0 a/b y" }, "E-docker-load", "symlink to nothing"),
        (layers! { "l 0777 0:0 a -> a", "f 0644 0:0 a/b y" }, "E-docker-load", "in a circle"),
        (layers! { "f 0644 0:0 a x", "w a" }, "E-docker-load", "which this layer itself holds"),
        (layers! { "f 0644 0:0 a x", "--", "h b => a" }, "E-hardlink-target", "docker load looks nowhere else"),
        (layers! { "d 0755 0:0 a/", "h b => a" }, "E-hardlink-target", "is a directory"),
    ];
    for (layers, code, reason) in cases {
        let env = TestEnv::new();
        let reference = env.layout("image", &Image::new(layers));
        let _ = run(&env, &reference, &[]).refused(code).says(reason).says("layer ");
        assert_eq!(env.listing(&env.work()), ["image"]);
    }
}

#[test]
fn docker_create_refusals() {
    for config in [
        json!({"Cmd": ["x"], "WorkingDir": "/file"}),
        json!({"Cmd": ["x"], "WorkingDir": "/file/below"}),
        json!({"Cmd": ["x"], "WorkingDir": "/loop/x"}),
        json!({"Cmd": ["x"], "Volumes": {"/file": {}}}),
        json!({"Cmd": ["x"], "Volumes": {"/.dockerenv": {}}}),
    ] {
        let env = TestEnv::new();
        let layers = layers! { "f 0644 0:0 file x", "l 0777 0:0 loop -> loop" };
        let reference = env.layout("image", &image(&layers, &config));
        let _ = run(&env, &reference, &[]).refused("E-docker-create");
    }
}

#[test]
fn what_ruins_the_archive_is_refused_and_said() {
    for (entry, name) in
        [(Entry::file("late", "").mtime(1 << 32), "late"), (Entry::symlink("early", "x").mtime(-268_435_456), "early")]
    {
        let env = TestEnv::new();
        let image = Image::new(vec![Layer::new().entry(entry)]);
        let reference = env.layout("image", &image);
        let _ = run(&env, &reference, &[]).refused("E-nitro-mtime").says("ruins the archive").says(name);
    }
    let env = TestEnv::new();
    let image = Image::new(vec![Layer::new().entry(Entry::file("large", "").claim_size(1 << 32))]);
    let reference = env.layout("large", &image.config(Config::new().cmd(&["/a"])));
    let refused = run(&env, &reference, &[]).refused("E-nitro-size").says("\"large\" has 4294967296 bytes");
    let _ = refused.says("ruins the archive that nitro-cli writes");
    let sound = [Entry::file("a", "").mtime((1 << 32) - 1), Entry::symlink("b", "x").mtime(-268_435_455)];
    let reference = env.layout("image", &Image::new(vec![sound.into_iter().collect()]));
    let _ = run(&env, &reference, &[]).success();
}

/// What is not exported ruins nothing.
#[test]
fn a_time_of_what_is_dropped_does_not_matter() {
    let env = TestEnv::new();
    let image = Image::new(vec![Layer::new().entry(Entry::file("Dockerfile", "").mtime(1 << 32))]);
    let reference = env.layout("image", &image);
    let _ = run(&env, &reference, &[]).success().says("W-nitro-dockerfile");
}

#[test]
fn every_loss_is_one_warning() {
    let env = TestEnv::new();
    let mut layers = layers! {
        "d 1777 0:0 tmp/", "d 0755 0:0 etc/", "f 0644 0:0 etc/hosts x", "f 0644 0:0 etc/resolv.conf x", "l 0777 0:0 var -> tmp",
        "f 0755 0:0 a x", "h b => a", "h c => a", "f 0644 0:0 Dockerfile x", "d 0755 0:0 srv/",
    };
    let capable = Entry::file("ping", "x").pax("SCHILY.xattr.security.capability", "\u{1}");
    layers[0] = layers[0].clone().entry(capable);
    let config = json!({"Cmd": ["a\nb"], "Entrypoint": ["/entry"], "User": "app", "WorkingDir": "/srv"});
    let reference = env.layout("image", &image(&layers, &config));
    let output = run(&env, &reference, &[]).success();
    let warned: Vec<&str> = output.stderr().lines().filter(|line| line.starts_with("warning[W-nitro-")).collect();
    let expected = [
        ("W-nitro-kernel", "packed as it is"),
        ("W-nitro-entrypoint", "[\"/entry\"] is dropped"),
        ("W-nitro-user", "`app` is ignored"),
        ("W-nitro-workdir", "`/srv` is ignored"),
        ("W-nitro-path", "no PATH"),
        ("W-nitro-newline", "newline"),
        ("W-nitro-directories", "/tmp (1777 0:0)"),
        ("W-nitro-directories", "/var"),
        ("W-nitro-hard-links", "2 names"),
        ("W-nitro-dockerfile", "/Dockerfile"),
        ("W-nitro-xattrs", "capabilities: /ping"),
        ("W-nitro-replaced", "/etc/hosts, /etc/resolv.conf"),
    ];
    assert_eq!(warned.len(), expected.len(), "{warned:#?}");
    for (line, (code, text)) in warned.iter().zip(expected) {
        assert!(line.starts_with(&format!("warning[{code}]: ")) && line.contains(text), "{line}: {code} {text}");
    }
}

/// The file says with which profile it was built, so a rebuild gives the same bytes.
#[test]
fn a_rebuild_verifies_it() {
    let env = TestEnv::new();
    let layers = layers! { "f 0644 0:0 implied/a x", "h b => implied/a", "l 0777 0:0 c -> d" };
    let image = image(&layers, &json!({"Cmd": ["a\nb", ""], "Env": ["A=1", ""], "User": "none"}));
    let reference = env.layout("image", &image);
    let _ = run(&env, &reference, &["--accept-unstable-times", "--docker-store", "containerd"]).success();
    let blobs = blobs();
    let words = ["verify", "out.eif", "--image", &reference, "--blobs", &blobs];
    let _ = env.eif(&words).success();
}

/// What `docker inspect` and the shape of ramdisk 2 tell of a file that nitro-cli made.
#[test]
fn inspect_notes_what_a_file_of_nitro_cli_has_lost() {
    let env = TestEnv::new();
    let layers = layers! { "d 1777 0:0 tmp/", "l 0777 0:0 var -> tmp", "f 0755 0:0 a x", "h b => a", "h c => a" };
    let config =
        json!({"Cmd": ["a"], "Entrypoint": ["/entry"], "User": "app", "WorkingDir": "/srv", "Env": ["PATH=/"]});
    let reference = env.layout("image", &image(&layers, &config));
    let _ = run(&env, &reference, &["--accept-unstable-times"]).success();
    let file = fs::read(env.path("out.eif")).unwrap();
    let inspected = |name: &str| env.eif(&["inspect", name, "--json"]).success().json();
    let notes = |facts: &serde_json::Value| -> Vec<String> {
        let findings = facts["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "note");
        findings.map(|finding| format!("{}: {}", finding["code"], finding["message"]).replace('"', "")).collect()
    };
    assert_eq!(notes(&inspected("out.eif")), [""; 0], "a file of ours has no notes");

    env.write("theirs.eif", with_docker_info(&file, &config));
    let notes = notes(&inspected("theirs.eif"));
    let expected = [
        "W-nitro-replaced: made by nitro-cli 1.5.0",
        "W-nitro-entrypoint: the Entrypoint",
        "W-nitro-user: the User `app`",
        "W-nitro-workdir: the WorkingDir `/srv`",
        "W-nitro-directories: /tmp is 1777 0:0 in the image and 0755 0:0 in the enclave",
        "W-nitro-directories: /var is no directory in the image",
        "W-nitro-hard-links: 2 names",
        "W-nitro-xattrs: ",
    ];
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for (note, begin) in notes.iter().zip(expected) {
        assert!(note.starts_with(begin), "{note}: not {begin}");
    }
}

/// The same ramdisks with the metadata that nitro-cli 1.5.0 writes.
fn with_docker_info(file: &[u8], config: &serde_json::Value) -> Vec<u8> {
    let metadata = json!({
        "ImageName": "app", "ImageVersion": "1",
        "BuildMetadata": {
            "BuildTime": "2025-01-01T00:00:00+00:00", "BuildTool": "nitro-cli", "BuildToolVersion": "1.5.0",
            "OperatingSystem": "Linux", "KernelVersion": "6.1.0",
        },
        "DockerInfo": {"Config": config, "GraphDriver": {"Name": "overlay2"}},
        "CustomMetadata": null,
    });
    let old = Eif::open(file).unwrap();
    let mut new = Writer::new(Cursor::new(Vec::new()), Options { arch: old.arch(), threads: 1 }).unwrap();
    new.kernel(&mut old.read(old.section(Kind::Kernel).unwrap())).unwrap();
    new.cmdline(&old.cmdline().unwrap()).unwrap();
    new.metadata(metadata.to_string().as_bytes()).unwrap();
    for section in old.ramdisks() {
        io::copy(&mut old.read(section), &mut new.ramdisk().unwrap()).unwrap();
    }
    new.finish().unwrap().0.into_inner()
}

/// The kernel is for the other architecture, or none: nitro-cli does not look.
#[test]
fn the_other_architecture_takes_its_own_kernel() {
    let env = TestEnv::new();
    fs::create_dir(env.path("blobs")).unwrap();
    for name in ["cmdline", "init", "nsm.ko", "bzImage"] {
        fs::copy(golden("blobs").join(name), env.path("blobs").join(name)).unwrap();
    }
    fs::write(env.path("blobs/Image"), eif_testdata::fake_arm64_image()).unwrap();
    let config = Config::new().cmd(&["/x"]).platform("linux/arm64");
    let reference = env.layout("image", &Image::new(layers! { "f 0755 0:0 x y" }).config(config));
    let words = ["--profile", "nitro-cli", "--blobs", "blobs", "--platform", "linux/arm64"];
    let _ = env.eif(&[&["build", &reference, "-o", "out.eif"][..], &words].concat()).success();
    let inspected = env.eif(&["inspect", "out.eif", "--json"]).success().json();
    assert_eq!((&inspected["arch"], &inspected["kernel"]["format"]), (&json!("aarch64"), &json!("Image")));
}

/// What stays in memory is bounded, and no layer makes the unpacking quadratic.
#[test]
fn layers_without_end_are_refused() {
    let build = |layer: Layer, further: &[&str]| {
        let env = TestEnv::new();
        let reference = env.layout("image", &Image::new(vec![layer]));
        run(&env, &reference, further)
    };
    let mebibyte = "n".repeat((1 << 20) - 100);
    for entry in
        [Entry::file(&mebibyte, ""), Entry::hardlink("a", &mebibyte), Entry::file(format!(".wh.{mebibyte}"), "")]
    {
        let _ = build(Layer::new().entry(entry), &[]).refused("E-name-too-long");
    }
    let deep =
        |count: u32| (0..count).map(|n| Entry::file(format!("{n}/{}/x", vec!["d"; 1000].join("/")), "")).collect();
    let _ = build(deep(40), &["--max-entries", "20000"]).refused("E-too-large");
    let below = vec!["d"; 1000].join("/");
    let wide = (0..3000).map(|n| Entry::file(format!("{below}/{n}/x"), "")).collect();
    let _ = build(wide, &["--accept-unstable-times"]).success();
}
