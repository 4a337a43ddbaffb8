//! Bad input and bad places, from the command line: one clear error, and no file.

mod common;

use std::fs;

use common::{Output, TestEnv};
use eif_testdata::{Config, Image, OciLayout, fake_arm64_image, fake_bzimage, layers};

fn image() -> Image {
    let body = "x".repeat(300_000);
    let file = format!("f 0644 0:0 big {body}");
    Image::new(layers! { "f 0755 0:0 app program", file.as_str() }).config(Config::new().cmd(&["/app"]))
}

fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    env
}

/// Builds from the layout `image` and asserts that a refusal leaves nothing: no file, no scratch.
fn build(env: &TestEnv, further: &[&str]) -> Output {
    let before = env.listing(&env.work());
    let words = ["build", "oci:image", "--kernel", "kernel", "-o", "app.eif"];
    let output = env.eif(&[&words[..], further].concat());
    assert_eq!(env.listing(&env.work()), before);
    assert_eq!(env.listing(&env.tmp()), [""; 0]);
    output
}

#[test]
fn a_truncated_layer() {
    let env = world();
    let image = image();
    let layer = image.layer_blobs()[0].path();
    let mut files = OciLayout::new().tag("latest", &image).files();
    files.truncate(&layer, 1000).write_dir(&env.path("image"));
    let _ = build(&env, &[]).refused("E-size-mismatch").says("layer 1/1 (sha256:").says("1000 bytes came");
}

#[test]
fn a_changed_byte_in_every_blob() {
    let env = world();
    let image = image();
    for blob in image.blobs() {
        let mut files = OciLayout::new().tag("latest", &image).files();
        files.corrupt(&blob.path()).write_dir(&env.path("image"));
        let output = build(&env, &[]).code(1);
        let errors = output.stderr().lines().filter(|line| line.starts_with("error[E-")).count();
        assert_eq!(errors, 1, "{output:?}");
        assert!(output.stderr().contains("E-digest-mismatch"), "{output:?}");
        fs::remove_dir_all(env.path("image")).unwrap();
    }
}

#[test]
fn a_missing_blob() {
    let env = world();
    let image = image();
    let mut files = OciLayout::new().tag("latest", &image).files();
    files.remove(&image.layer_blobs()[0].path()).write_dir(&env.path("image"));
    let _ = build(&env, &[]).refused("E-missing-blob").says("layer 1/1");
}

#[test]
fn a_missing_platform() {
    let env = world();
    let _ = env.layout("image", &image());
    let _ = build(&env, &["--platform", "linux/arm64"]).refused("E-no-platform").says("linux/amd64").says("--platform");
}

#[test]
fn a_kernel_of_another_architecture() {
    let env = world();
    let _ = env.layout("image", &image());
    env.write("kernel", fake_arm64_image());
    let output = build(&env, &[]).code(1);
    assert!(output.stderr().contains("arm64") || output.stderr().contains("aarch64"), "{output:?}");
}

#[test]
fn an_output_folder_that_is_missing_or_closed() {
    let env = world();
    let _ = env.layout("image", &image());
    let words = |target| ["build", "oci:image", "--kernel", "kernel", "-o", target];
    let _ = env.eif(&words("nowhere/app.eif")).refused("E-output").says("nowhere/app.eif: No such file");
    let _ = env.eif(&words("image")).refused("E-output").says("no regular file");
    // sysfs takes no new file, not even from root.
    let _ = env.eif(&words("/sys/app.eif")).refused("E-output");
}

/// A tmpfs of 200 KiB, in a mount namespace of its own, holds neither the file nor the spooled layer.
#[test]
fn a_full_disk() {
    let env = world();
    let _ = env.layout("image", &image());
    fs::create_dir(env.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=200k none small";
    let eif = env!("CARGO_BIN_EXE_eif");
    for (variable, target, code) in [("TMPDIR=$PWD/small", "app.eif", "E-spool"), ("A=b", "small/app.eif", "E-")] {
        let build = format!("{variable} {eif} build oci:image --kernel kernel -o {target}");
        let script = format!("{mount} && {{ {build}; echo status $?; ls -A small; }}");
        // Who is root already may mount without a namespace of users, which a container or a chroot may forbid.
        let root = env.command_of("id", &["-u"]).output().unwrap().stdout == b"0\n";
        let namespaces: &[&str] = if root { &["--mount"] } else { &["--map-root-user", "--mount"] };
        let output = env.command_of("unshare", &[namespaces, &["sh", "-c", &script]].concat()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, "status 1\n", "nothing else is there: {err}");
        assert_eq!(err.lines().filter(|line| line.starts_with("error[E-")).count(), 1, "{err}");
        assert!(err.contains(&format!("error[{code}")) && err.contains("No space left on device"), "{err}");
        assert!(!env.path("app.eif").exists());
    }
}

#[test]
fn a_folder_of_blobs_that_is_none() {
    let env = world();
    let _ = env.layout("image", &image());
    let _ = build(&env, &["--blobs", "nowhere"]).refused("E-blob").says("nowhere");
    let _ = build(&env, &["--blobs", "image"]).refused("E-blob").says("none of bzImage");
}

#[test]
fn strict_makes_errors_of_what_has_an_errors_code() {
    let env = world();
    let linked = layers! { "f 0755 0:0 usr/app x", "l 0777 0:0 bin -> usr", "--", "f 0644 0:0 bin/file y" };
    let _ = env.layout("image", &Image::new(linked).config(Config::new().cmd(&["/usr/app"])));
    let words = ["build", "oci:image", "--kernel", "kernel", "-o", "app.eif"];
    let _ = env.eif(&words).success().says("warning[E-symlink-parent]: ");
    fs::remove_file(env.path("app.eif")).unwrap();
    let _ = build(&env, &["--strict"]).refused("E-symlink-parent");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let env = world();
    let _ = env.layout("image", &image());
    let eif = env!("CARGO_BIN_EXE_eif");
    let script = format!("set -o pipefail; {eif} build oci:image --kernel kernel -o app.eif 2>err | true");
    let output = env.command_of("bash", &["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!fs::read_to_string(env.path("err")).unwrap().contains("error"));
}

#[test]
fn mistakes_on_the_command_line_are_exit_2_and_one_line() {
    let env = world();
    let _ = env.layout("image", &image());
    let wrong: [&[&str]; 12] = [
        &["build"],
        &["build", "oci:image"],
        &["build", "oci:image", "-o", "x", "--mtime", "never"],
        &["build", "oci:image", "-o", "x", "--mtime", "clamp"],
        &["build", "oci:image", "-o", "x", "--env", "HOME"],
        &["build", "oci:image", "-o", "x", "--platform", "linux/riscv64"],
        &["build", "oci:image", "-o", "x", "--threads", "0"],
        // stdout has the measurements; no file is called `-` by mistake.
        &["build", "oci:image", "-o", "-"],
        &["build", "oci:image", "-o", "x", "--report", "-"],
        &["pull", "localhost/app", "-o", "-"],
        &["sign", "x", "--signing-certificate", "x", "--private-key", "x", "-o", "-"],
        &["unknown"],
    ];
    for words in wrong {
        let output = env.eif(words).code(2);
        assert_eq!(output.stderr().lines().filter(|line| line.starts_with("error: ")).count(), 1, "{output:?}");
        assert!(output.stderr().lines().skip(1).all(|line| line.starts_with("help: ")), "{output:?}");
        assert_eq!(output.stdout(), "");
    }
    assert!(!env.path("-").exists());
}

/// What is named is meant, also where no registry will ask for a login.
#[test]
fn a_file_of_logins_that_is_not_there() {
    let env = world();
    let _ = env.layout("image", &image());
    let _ = build(&env, &["--authfile", "none.json"]).refused("E-auth-file").says("none.json: no such file");
    let _ = env.eif(&["verify", "x", "--image", "oci:image", "--authfile", "none.json"]).refused("E-auth-file");
    let _ = build(&env, &["--authfile", "image"]).refused("E-auth-file").says("image: not a file");
    env.write("logins.json", "{}");
    let _ = env.eif(&["build", "oci:image", "--kernel", "kernel", "-o", "x", "--authfile", "logins.json"]).success();
    // The usual places may be empty, and the variable may outlive its file.
    let env = env.variable("REGISTRY_AUTH_FILE", "none.json");
    let _ = env.eif(&["build", "oci:image", "--kernel", "kernel", "-o", "x"]).success();
}

#[test]
fn with_json_the_last_line_of_a_refusal_is_an_object() {
    let env = world();
    let output = env.eif(&["build", "oci:nowhere", "-o", "x", "--json"]).code(1);
    let object: serde_json::Value = serde_json::from_str(output.stderr().lines().last().unwrap()).unwrap();
    assert_eq!(object["error"]["code"], "E-io");
    assert!(object["error"]["message"].as_str().unwrap().contains("nowhere"));
    assert!(object["error"]["help"].is_array());
}
