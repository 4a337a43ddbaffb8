//! The promise of the lock: `--lock` writes what a build came to, and `--locked` lets nothing else pass.

mod common;

use std::fs;

use common::TestEnv;
use eif_testdata::{Config, Image, fake_bzimage, layers};
use serde_json::{Value, json};

const BUILD: [&str; 9] =
    ["build", "oci:image:latest", "--kernel", "kernel", "--cmdline", "console=ttyS0", "--lock", "eif.lock", "-o"];

fn image(content: &str) -> Image {
    let layers = eif_testdata::parse_layers(&[
        "f 0644 0:0 etc/hosts 127.0.0.1 localhost",
        &format!("f 0755 0:0 app {content}"),
        "--",
        "d 0755 0:0 srv/",
    ]);
    Image::new(layers).config(Config::new().entrypoint(&["/app"]).env(&["A=1"]))
}

/// A world with an image and a kernel.
fn world() -> TestEnv {
    let env = TestEnv::new();
    let _ = env.layout("image", &image("program"));
    env.write("kernel", fake_bzimage());
    env
}

fn build(env: &TestEnv, further: &[&str]) -> common::Output {
    env.eif(&[&BUILD[..], &["app.eif"], further].concat())
}

fn lock(env: &TestEnv) -> Value {
    serde_json::from_slice(&fs::read(env.path("eif.lock")).unwrap()).unwrap()
}

#[test]
fn a_lock_is_stable_json_with_all_facts() {
    let env = world();
    let measured = build(&env, &[]).success().json()["Measurements"].take();
    let text = fs::read_to_string(env.path("eif.lock")).unwrap();
    let lock: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text, format!("{lock:#}\n"), "two spaces, a newline at the end");
    let keys: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("  \"")).filter_map(|line| line.split('"').next()).collect();
    let facts = "kernel_lock_id lock manifest_digest measurements record reference toolchain";
    assert_eq!(keys.join(" "), facts, "keys are sorted");
    for name in ["PCR0", "PCR1", "PCR2"] {
        assert_eq!(lock["measurements"][name], measured[name]);
    }
    assert_eq!((&lock["lock"], &lock["reference"]), (&json!(1), &json!("oci:image:latest")));
    assert_eq!(lock["manifest_digest"], json!(image("program").manifest_blob().digest()));
    assert_eq!((&lock["kernel_lock_id"], lock["toolchain"].is_string()), (&json!(null), true));
    let inspected = env.eif(&["inspect", "app.eif", "--json"]).success().json();
    assert_eq!(lock["record"], inspected["metadata"]["CustomMetadata"]["eif"]);
    assert_eq!(lock["record"].get("overrides"), None);
    let _ = build(&env, &[]).success();
    assert_eq!(fs::read_to_string(env.path("eif.lock")).unwrap(), text, "the same build writes the same lock");
}

#[test]
fn a_locked_build_passes_and_leaves_the_lock_alone() {
    let env = world();
    let options = ["--user", "7:8", "--cmd", "x", "--mtime", "keep", "--compress", "gzip"];
    let _ = build(&env, &options).success();
    let before = (fs::read(env.path("eif.lock")).unwrap(), fs::read(env.path("app.eif")).unwrap());
    assert_eq!(lock(&env)["record"]["overrides"], json!({"cmd": ["x"], "user": "7:8"}));
    let _ = build(&env, &[&options[..], &["--locked"]].concat()).success();
    assert_eq!((fs::read(env.path("eif.lock")).unwrap(), fs::read(env.path("app.eif")).unwrap()), before);
    // Without --lock it is eif.lock in the working folder.
    let short = ["build", "oci:image:latest", "--kernel", "kernel", "--cmdline", "other", "--locked", "-o", "b.eif"];
    let _ = env.eif(&[&short[..], &options].concat()).refused("E-lock-drift").says("record.cmdline");
}

/// Each fact of the lock, and another value for it.
fn facts() -> Vec<(&'static str, Value)> {
    let other = format!("sha256:{}", "0".repeat(64));
    vec![
        ("reference", json!("oci:image:v2")),
        ("manifest_digest", json!(other)),
        ("manifest_digest", json!(null)),
        ("kernel_lock_id", json!("6.12.1-1")),
        ("toolchain", json!("rustc 1.0.0")),
        ("record.cmdline", json!("console=ttyS1")),
        ("record.compress", json!("zstd")),
        ("record.diff_ids", json!([other])),
        ("record.init_sha256", json!("0".repeat(64))),
        ("record.kernel_sha256", json!("0".repeat(64))),
        ("record.modules", json!([{"name": "nsm.ko", "sha256": "00"}])),
        ("record.mtime", json!({"clamp": 7})),
        ("record.overrides", json!({"user": "root"})),
        ("record.platform", json!("linux/arm64")),
        ("record.process.argv", json!(["/bin/sh"])),
        ("record.process.env", json!(["A=2"])),
        ("record.process.cwd", json!("/srv")),
        ("record.process.uid", json!(1)),
        ("record.process.gid", json!(1)),
        ("record.process.groups", json!([1])),
        ("record.version", json!("99.0.0")),
        ("measurements.PCR0", json!("0".repeat(96))),
        ("measurements.PCR1", json!("0".repeat(96))),
        ("measurements.PCR2", json!("0".repeat(96))),
    ]
}

#[test]
fn drift_of_each_fact_is_named_and_nothing_is_written() {
    let env = world();
    let _ = build(&env, &[]).success();
    fs::remove_file(env.path("app.eif")).unwrap();
    let whole = lock(&env);
    let named: Vec<&str> = facts().iter().map(|(fact, _)| *fact).collect();
    for key in whole.as_object().unwrap().keys().filter(|key| *key != "lock") {
        assert!(named.iter().any(|fact| fact.split('.').next() == Some(key)), "{key} is not tried");
    }
    for key in whole["record"].as_object().unwrap().keys() {
        assert!(named.iter().any(|fact| fact.split('.').nth(1) == Some(key)), "{key} is not tried");
    }
    let before = env.listing(&env.work());
    for (fact, value) in facts() {
        let mut changed = whole.clone();
        let (object, key) = match fact.rsplit_once('.') {
            Some((parent, key)) => (changed.pointer_mut(&format!("/{}", parent.replace('.', "/"))).unwrap(), key),
            None => (&mut changed, fact),
        };
        object[key] = value.clone();
        env.write("eif.lock", changed.to_string());
        let output = build(&env, &["--locked"]).refused("E-lock-drift").says(&format!("not what was locked: {fact}\n"));
        // Of an object that is not there at all the whole is named.
        let _ = output.says(&format!("help: {fact}: locked {value}, now "));
        assert_eq!(env.listing(&env.work()), before, "{fact}");
    }
}

#[test]
fn an_image_that_moved_is_caught_and_the_old_file_stays() {
    let env = world();
    let _ = build(&env, &[]).success();
    let old = fs::read(env.path("app.eif")).unwrap();
    fs::remove_dir_all(env.path("image")).unwrap();
    let _ = env.layout("image", &image("another program"));
    let output = build(&env, &["--locked"]).refused("E-lock-drift");
    let _ = output.says("manifest_digest, measurements.PCR0, measurements.PCR2, record.diff_ids\n");
    assert_eq!(fs::read(env.path("app.eif")).unwrap(), old);
    let _ = build(&env, &[]).success();
    let _ = build(&env, &["--locked"]).success();
}

#[test]
fn what_is_no_lock_is_refused_before_anything_is_built() {
    let env = world();
    let refused = |bytes: &str, code: &str, words: &str| {
        env.write("eif.lock", bytes);
        let before = env.listing(&env.work());
        // Not even the image is looked for.
        let build = ["build", "oci:none", "--locked", "-o", "app.eif"];
        let _ = env.eif(&build).refused(code).says("eif.lock: ").says(words);
        assert_eq!(env.listing(&env.work()), before);
    };
    refused("", "E-lock", "no lock: EOF");
    refused("{}", "E-lock", "no member `lock`");
    refused(r#"{"lock": 1}"#, "E-lock", "missing field");
    refused(r#"{"lock": 2, "facts": []}"#, "E-lock-version", "version 2");
    refused(r#"{"lock": "1"}"#, "E-lock-version", "version \"1\"");
    let _ =
        env.eif(&["build", "oci:image", "--locked", "--lock", "none", "-o", "a.eif"]).refused("E-io").says("none: ");
    let nowhere = ["build", "oci:image", "--kernel", "kernel", "--lock", "no/where", "-o", "a.eif"];
    let _ = env.eif(&nowhere).refused("E-io").says("no/where: ");
    assert!(!env.path("a.eif").exists());
}

/// A refusal of the image leaves no lock either.
#[test]
fn a_failed_build_writes_no_lock() {
    let env = world();
    let bad = layers! { "f 0755 0:0 app x" };
    let _ = env.layout("bad", &Image::new(bad).config(Config::new().user("nobody").cmd(&["/app"])));
    let _ = env.eif(&["build", "oci:bad", "--kernel", "kernel", "--lock", "eif.lock", "-o", "a.eif"]).code(1);
    assert!(!env.path("eif.lock").exists() && !env.path("a.eif").exists());
}
