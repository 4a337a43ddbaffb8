//! What the hello image measures to, written down in testdata/golden. A change of these values is a change of what `eif`
//! promises: it needs a commit that says so, and a line in CHANGELOG.md.
//!
//! For arm64 there is a set for each compiler that may have made init and program: Debian's moves inside a suite.

mod common;

use common::TestEnv;
use eif::{Arch, init};
use eif_testdata::{Image, fake_arm64_image, fake_bzimage, hello_image, hello_image_for};
use serde_json::{Value, json};

fn golden() -> Value {
    golden_in("hello.json")
}

fn golden_in(name: &str) -> Value {
    let path = format!("{}/testdata/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// PCR0, PCR1 and PCR2 of the hello image with these options.
fn measured(env: &TestEnv, further: &[&str]) -> Value {
    measured_of(env, &hello_image(), further)
}

fn measured_of(env: &TestEnv, image: &Image, further: &[&str]) -> Value {
    let reference = env.layout("image", image);
    let output = env.eif(&[&["build", &reference, "-o", "hello.eif"][..], further].concat()).success();
    let from_file = env.eif(&["pcr", "hello.eif"]).success();
    assert_eq!(output.stdout(), from_file.stdout());
    let mut all = output.json()["Measurements"].take();
    all.as_object_mut().unwrap().remove("HashAlgorithm");
    all
}

fn assert_golden(place: &str, expected: &Value, got: &Value) {
    assert!(
        expected == got,
        "{place}: the measurements have changed. If that is meant, write them into testdata/golden and say \
         in CHANGELOG.md which images change and why:\n{got:#}"
    );
}

/// Everything but the kernel, which not every machine can build to the bit.
#[test]
fn with_a_kernel_of_header_alone() {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let got = measured(&env, &["--kernel", "kernel", "--cmdline", "console=ttyS0"]);
    assert_golden("stand-in", &golden()["stand-in"], &got);
}

/// The real thing. Another compiler than the locked one makes another kernel: then PCR2 alone must hold, since it does
/// not depend on the kernel.
#[test]
fn with_the_kernel_of_this_machine() {
    let env = TestEnv::with_kernels();
    let got = measured(&env, &[]);
    assert_golden("PCR2", &golden()["stand-in"]["PCR2"], &got["PCR2"]);
    assert_golden_with_kernel(&env, "x86_64", &golden()["kernels"], &got);
}

/// PCR0 and PCR1 with the kernel of this machine, if that is the locked one.
#[expect(clippy::print_stdout, reason = "what was not compared is said")]
fn assert_golden_with_kernel(env: &TestEnv, arch: &str, golden: &Value, got: &Value) {
    let kernels = env.eif(&["kernel", "ls", "--json"]).success().json();
    let row = kernels.as_array().unwrap().iter().find(|row| row["arch"] == arch && !row["built"].is_null());
    let row = row.expect("a kernel is built: it was packed").clone();
    if row["built"] == row["locked"] {
        let hash = row["built"].as_str().unwrap();
        assert_golden(hash, &golden[hash], &json!({ "PCR0": got["PCR0"], "PCR1": got["PCR1"] }));
    } else {
        assert!(!row["locked"].is_null(), "kernels.lock has no hash for the newest kernel");
        println!(
            "this machine's kernel {} is not the locked one {}: PCR0 and PCR1 not held",
            row["built"], row["locked"]
        );
    }
}

/// What is written down for the compiler that made the arm64 init and program, if Debian has not brought it since.
#[expect(clippy::print_stdout, reason = "what was not compared is said")]
fn golden_arm64(got: &Value) -> Option<Value> {
    let toolchain = init::toolchain(Arch::Aarch64).expect("no init for arm64: `sh .ci/install-packages`, build again");
    let golden = golden_in("hello-arm64.json")[toolchain].take();
    if golden.is_null() {
        assert!(toolchain.ends_with("(built from a source tarball)"), "hello-arm64.json has nothing for {toolchain}");
        println!("hello-arm64.json could have this for {toolchain}:\n{got:#}");
    }
    (!golden.is_null()).then_some(golden)
}

/// Everything but the kernel.
#[test]
fn arm64_with_a_kernel_of_header_alone() {
    let env = TestEnv::new();
    env.write("kernel", fake_arm64_image());
    let further = ["--platform", "linux/arm64", "--kernel", "kernel", "--cmdline", "console=ttyS0"];
    let got = measured_of(&env, &hello_image_for("aarch64"), &further);
    if let Some(golden) = golden_arm64(&got) {
        assert_golden("stand-in", &golden["stand-in"], &got);
    }
}

#[test]
fn arm64_with_the_kernel_of_this_machine() {
    let env = TestEnv::with_kernels();
    let got = measured_of(&env, &hello_image_for("aarch64"), &["--platform", "linux/arm64"]);
    if let Some(golden) = golden_arm64(&got) {
        assert_golden("PCR2", &golden["stand-in"]["PCR2"], &got["PCR2"]);
        assert_golden_with_kernel(&env, "aarch64", &golden["kernels"], &got);
    }
}

/// Who compares the README's measurements with their own must find the same.
#[test]
fn the_readme_shows_these_values() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let golden = golden().to_string();
    let shown: Vec<&str> = readme.split('"').filter(|word| word.len() == 96 && !word.contains(' ')).collect();
    assert_eq!(shown.len(), 3, "PCR0, PCR1 and PCR2");
    for value in shown {
        assert!(golden.contains(value), "README.md shows {value}, testdata/golden/hello.json has other values");
    }
}
