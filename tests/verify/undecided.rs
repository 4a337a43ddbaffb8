//! What cannot be decided is said to be so, with what is missing and the way out, and is neither a yes nor a no.

use std::fs;

use eif_testdata::OciLayout;
use serde_json::json;

use crate::common::{Output, TestEnv};
use crate::world::{ask, ask_image, change_lock, forge, image, world};

/// Exit 3, nothing on stdout, one error with this code, and a way out.
fn undecided(output: Output, code: &str) -> Output {
    let output = output.code(3);
    assert_eq!(output.stdout(), "");
    let errors: Vec<&str> = output.stderr().lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{output:#?}");
    assert!(errors[0].starts_with(&format!("error[{code}]: ")), "{output:#?}");
    output.says("help: ")
}

#[test]
fn a_file_or_image_that_cannot_be_opened() {
    let env = world(&[]);
    let _ = ask_image(&env, "none.eif").code(3).says("error[E-io]: none.eif: ");
    let _ = undecided(ask(&env, "app.eif", &["--image", "oci:none"]), "E-io").says("none");
    let _ = undecided(ask(&env, "app.eif", &["--image", "oci:image:v2"]), "E-image-not-found");
    env.write("text.eif", "no enclave image");
    let _ = ask_image(&env, "text.eif").refused("E-eif-magic");
    let _ = ask(&env, "app.eif", &[]).code(2);
    let _ = ask(&env, "app.eif", &["--image", "oci:image", "--pcr0", "12"]).code(2);
    let _ = ask(&env, "app.eif", &["--lock", "none"]).refused("E-io");
}

#[test]
fn a_kernel_that_is_not_at_hand() {
    let env = world(&[]);
    let output = undecided(env.eif(&["verify", "app.eif", "--image", "oci:image"]), "E-verify-kernel");
    let sum = eif_testdata::sha256(&fs::read(env.path("kernel")).unwrap());
    let _ = output.says(sum.trim_start_matches("sha256:")).says("--kernel");
}

/// The file has the kernel of this machine, and whoever asks has not built it.
#[test]
fn a_kernel_of_ours_that_is_not_built() {
    let builder = TestEnv::with_kernels();
    let _ = builder.layout("image", &image("x"));
    builder.build("oci:image", "app", &["--lock", "eif.lock"]);
    let _ = builder.eif(&["verify", "app.eif", "--image", "oci:image"]).success().says_nothing_of("warning");
    let env = world(&[]);
    let _ = env.layout("image", &image("x"));
    fs::copy(builder.path("app.eif"), env.path("app.eif")).unwrap();
    fs::copy(builder.path("eif.lock"), env.path("eif.lock")).unwrap();
    let output = undecided(env.eif(&["verify", "app.eif", "--lock", "eif.lock"]), "E-verify-kernel");
    let _ = output.says("eif kernel build --id ");
}

#[test]
fn an_init_or_module_that_is_not_at_hand() {
    let env = world(&["--init", "kernel"]);
    let output = undecided(ask_image(&env, "app.eif"), "E-verify-init").says("--init");
    let sum = eif_testdata::sha256(&fs::read(env.path("kernel")).unwrap());
    let _ = output.says(sum.trim_start_matches("sha256:"));
    fs::create_dir(env.path("blobs")).unwrap();
    env.write("blobs/nsm.ko", "module");
    let build = ["build", "oci:image", "--kernel", "kernel", "--blobs", "blobs", "-o", "module.eif"];
    let _ = env.eif(&build).success();
    // The command line is another one than was said, too; but first the parts.
    let _ = undecided(ask_image(&env, "module.eif"), "E-verify-modules").says("nsm.ko").says("--blobs");
}

#[test]
fn a_file_without_a_record() {
    let env = world(&[]);
    let file = forge(&env, |forgery| {
        forgery.metadata(|metadata| {
            metadata["CustomMetadata"] = json!(null);
            metadata["BuildMetadata"]["BuildTool"] = json!("eif_build");
            metadata["BuildMetadata"]["BuildToolVersion"] = json!("1.4.2");
        });
    });
    let _ = undecided(ask_image(&env, file), "E-verify-record").says("made by eif_build 1.4.2").says("eif diff");
    let file = forge(&env, |forgery| forgery.record("/tomorrow", json!("of tomorrow")));
    let _ = undecided(ask_image(&env, file), "E-verify-record").says("tomorrow");
    let file = forge(&env, |forgery| forgery.sections.retain(|section| section.kind != crate::forgery::METADATA));
    let _ = undecided(ask_image(&env, file), "E-verify-record").says("no metadata section");
    // What can be said without a record is said.
    let zero = "0".repeat(96);
    let output = ask(&env, file, &["--image", "oci:image", "--pcr0", &zero]).code(1);
    assert!(output.stdout().starts_with("differs: PCR0: value: "), "{output:?}");
}

#[test]
fn a_lock_whose_image_is_gone() {
    let env = world(&[]);
    let digest = image("one\ntwo\n").manifest_blob().digest();
    fs::remove_dir_all(env.path("image")).unwrap();
    let _ = undecided(ask(&env, "app.eif", &["--lock", "eif.lock"]), "E-verify-image").says(&digest).says("--image");
    // The tag has moved on.
    let newer = image("newer");
    let _ = env.layout("image", &newer);
    let output = undecided(ask(&env, "app.eif", &["--lock", "eif.lock"]), "E-verify-image");
    let _ = output.says(&digest).says(&newer.manifest_blob().digest());
    // It has moved on, but the old image is still there.
    let old = image("one\ntwo\n");
    OciLayout::new().tag("latest", &newer).untagged(&old).files().write_dir(&env.path("image"));
    let _ = ask(&env, "app.eif", &["--lock", "eif.lock"]).success();
}

#[test]
fn a_file_of_another_version() {
    let env = world(&[]);
    let other = |forgery: &mut crate::forgery::Forgery| {
        forgery.record("/version", json!("99.0.0"));
        forgery.metadata(|metadata| metadata["BuildMetadata"]["BuildToolVersion"] = json!("99.0.0"));
    };
    let file = forge(&env, other);
    let output = undecided(ask_image(&env, file), "E-verify-version").says("built by eif 99.0.0");
    let _ = output.says("the same PCR0, PCR1 and PCR2");
    // Another image is another image in every version.
    let _ = env.layout("image", &image("other"));
    assert!(ask_image(&env, file).code(1).stdout().contains("image: diff_id of layer 2"));
}

#[test]
fn a_lock_that_cannot_be_read() {
    let env = world(&[]);
    change_lock(&env, |lock| lock["lock"] = json!(2));
    let _ = ask(&env, "app.eif", &["--lock", "eif.lock"]).refused("E-lock-version");
}

#[test]
fn sources_that_cannot_be_compiled() {
    let env = world(&[]);
    let image = ["--image", "oci:image", "--from-source"];
    let output = undecided(ask(&env, "app.eif", &image), "E-verify-kernel-source");
    let _ = output.says("leave --from-source out");
    let builder = TestEnv::with_kernels();
    let _ = builder.layout("image", &crate::world::image("x"));
    builder.build("oci:image", "app", &[]);
    // No compiler at all, then one without the tools of the kernel.
    let nothing = TestEnv::new();
    let ask = |path: String| {
        let mut command = builder.command(&["verify", "app.eif", "--image", "oci:image", "--from-source"]);
        command.env("PATH", path).output().unwrap()
    };
    for (path, words) in [
        (nothing.tmp().display().to_string(), ["error[E-init-toolchain]: ", "help: rustup toolchain install "]),
        (rustc_folder(), ["error[E-kernel-tools]: ", "help: apt-get install "]),
    ] {
        let output = ask(path);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

/// Where the toolchain's programs are, without rustup's stand-ins, which would look for a home.
fn rustc_folder() -> String {
    let output = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc is in PATH");
    format!("{}/bin", String::from_utf8(output.stdout).unwrap().trim())
}
