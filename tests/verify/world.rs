//! One image, one file built from it, and how the tests ask about it.

use std::fs;

use eif_testdata::{Config, Entry, Image, Layer, fake_bzimage, sha256};
use serde_json::{Value, json};

use crate::common::{Output, TestEnv};
use crate::forgery::Forgery;

/// The image of [`world`], with this text in its file `conf`.
pub fn image(conf: &str) -> Image {
    let late = |entry: Entry| entry.mtime(1_700_000_000);
    let base = Layer::new()
        .entry(late(Entry::dir("etc/")))
        .entry(late(Entry::file("etc/hosts", "127.0.0.1 localhost")))
        .entry(late(Entry::file("app", "program").mode(0o755)));
    let top = Layer::new().entry(late(Entry::file("conf", conf))).entry(late(Entry::symlink("link", "app")));
    Image::new(vec![base, top]).config(Config::new().entrypoint(&["/app"]).cmd(&["serve"]).env(&["A=1"]))
}

/// `app.eif` with its lock, the image `oci:image` that it was built from, and its kernel.
pub fn world(options: &[&str]) -> TestEnv {
    let env = TestEnv::new();
    let _ = env.layout("image", &image("one\ntwo\n"));
    env.write("kernel", fake_bzimage());
    let build = ["build", "oci:image:latest", "--kernel", "kernel", "--lock", "eif.lock", "-o", "app.eif"];
    let _ = env.eif(&[&build[..], &["--cmdline", CMDLINE], options].concat()).success();
    env
}

/// The command line of [`world`], which is not eif's own.
pub const CMDLINE: &str = "console=ttyS0 quiet";

/// `eif verify FILE --kernel kernel --cmdline … …`: asked with all that the builder chose.
pub fn ask(env: &TestEnv, file: &str, further: &[&str]) -> Output {
    ask_unsaid(env, file, &[&["--cmdline", CMDLINE], further].concat())
}

/// The same of somebody who does not know what the builder chose, the kernel aside.
pub fn ask_unsaid(env: &TestEnv, file: &str, further: &[&str]) -> Output {
    env.eif(&[&["verify", file, "--kernel", "kernel"][..], further].concat())
}

/// Against the image of [`world`].
pub fn ask_image(env: &TestEnv, file: &str) -> Output {
    ask(env, file, &["--image", "oci:image:latest"])
}

/// `PART: PATH: FIELD: FILE | OTHER` of each difference, without the texts of files.
pub fn differences(output: &Output) -> Vec<&str> {
    output.stdout().lines().filter_map(|line| line.strip_prefix("differs: ")).collect()
}

/// Asserts exit 1 and that a difference begins with each of these.
pub fn assert_differs(output: Output, expected: &[&str]) {
    let output = output.code(1);
    let found = differences(&output);
    for start in expected {
        assert!(found.iter().any(|line| line.starts_with(start)), "no {start:?} in {output:#?}");
    }
}

/// `app.eif` with this done to it, under another name.
pub fn forge(env: &TestEnv, change: impl FnOnce(&mut Forgery)) -> &'static str {
    let mut forgery = Forgery::of(&fs::read(env.path("app.eif")).unwrap());
    change(&mut forgery);
    env.write("forged.eif", forgery.bytes());
    "forged.eif"
}

/// The lock of [`world`], changed.
pub fn change_lock(env: &TestEnv, change: impl FnOnce(&mut Value)) {
    let mut lock: Value = serde_json::from_slice(&fs::read(env.path("eif.lock")).unwrap()).unwrap();
    change(&mut lock);
    env.write("eif.lock", lock.to_string());
}

/// Puts a kernel into the world's cache, as `eif kernel build` would.
pub fn put_kernel(env: &TestEnv, kernel: &[u8]) {
    let folder = env.work().with_file_name("cache").join("eif/kernels/0123");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("kernel"), kernel).unwrap();
    let sum = sha256(kernel).trim_start_matches("sha256:").to_owned();
    let output = json!({"toolchain": "cc", "kernel_sha256": sum, "config_sha256": ""});
    let record = json!({"id": "6.0.0-1", "arch": "x86_64", "recipe": "", "output": output});
    fs::write(folder.join("record.json"), record.to_string()).unwrap();
}
