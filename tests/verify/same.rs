//! Who has the file and the image gets a yes, whatever the file was built with and wherever the image lies.

use std::fs;

use eif_testdata::attestation::{Attestation, cbor};
use eif_testdata::{DockerArchive, OciLayout, fake_bzimage};
use serde_json::{Value, json};

use crate::common::TestEnv;
use crate::common::registry::{Demands, RealRegistry};
use crate::forgery::{RAMDISK, SIGNATURE};
use crate::world::{CMDLINE, ask, ask_image, ask_unsaid, assert_differs, differences, forge, image, put_kernel, world};

#[test]
fn an_untouched_file_is_the_same() {
    let env = world(&[]);
    let digest = image("one\ntwo\n").manifest_blob().digest();
    let output = ask_image(&env, "app.eif").success();
    assert_eq!(output.stdout(), format!("same: every byte of app.eif comes from oci:image:latest ({digest})\n"));
    let measured = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"].take();
    let pcr0 = measured["PCR0"].as_str().unwrap();
    let _ = output.says(pcr0).says("warning[W-verify-kernel]: ").says_nothing_of("--cmdline");
    let object = ask(&env, "app.eif", &["--image", "oci:image", "--pcr0", pcr0, "--json"]).success().json();
    assert_eq!((&object["same"], &object["differences"]), (&json!(true), &json!([])));
    assert_eq!((&object["Measurements"], &object["manifest_digest"]), (&measured, &json!(digest)));
    assert_eq!((&object["image"], &object["signed"]), (&json!("oci:image"), &json!(false)));
    assert_eq!(object["kernel"]["source"], json!(null));
    assert!(object["init"]["source"].as_str().unwrap().starts_with("rustc "), "{object}");
    assert_eq!(env.listing(&env.tmp()), Vec::<String>::new(), "nothing is left behind");
}

#[test]
fn a_lock_alone_will_do_and_vouches_for_the_options() {
    let env = world(&["--cmd", "other"]);
    let _ = ask_unsaid(&env, "app.eif", &["--lock", "eif.lock"]).success().says_nothing_of("warning");
    let _ = ask_unsaid(&env, "app.eif", &["--lock", "eif.lock", "--image", "oci:image"]).success();
    // Who says something all the same is heard.
    let output = ask(&env, "app.eif", &["--lock", "eif.lock", "--cmd", "serve"]).code(1);
    assert_eq!(differences(&output), [r#"options: --cmd: ["other"] | ["serve"]"#]);
}

/// PCR0 covers the options: who has it needs to know none of them, and is told.
#[test]
fn a_pcr0_vouches_for_the_options() {
    let env = world(&["--cmd", "other"]);
    let pcr0 = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]["PCR0"].as_str().unwrap().to_owned();
    let output = ask_unsaid(&env, "app.eif", &["--image", "oci:image", "--pcr0", &pcr0]).success();
    let output = output.says("warning[W-verify-cmdline]: ").says(r#"warning[W-verify-overrides]: "#);
    let _ = output.says(&format!("{CMDLINE:?} for --cmdline")).says(r#"["other"] for --cmd: "#);
    let output = ask(&env, "app.eif", &["--image", "oci:image", "--pcr0", &pcr0, "--cmd", "serve"]).code(1);
    assert_eq!(differences(&output), [r#"options: --cmd: ["other"] | ["serve"]"#]);
}

#[test]
fn every_transport_proves_the_same_file() {
    let env = world(&[]);
    let docker = DockerArchive::new().image(&["me/app:v1"], &image("one\ntwo\n"));
    docker.modern().write_tar(&env.path("modern.tar"));
    docker.legacy().write_tar(&env.path("legacy.tar"));
    OciLayout::new().tag("v1", &image("one\ntwo\n")).files().write_tar(&env.path("oci.tar"));
    for reference in ["docker-archive:modern.tar", "docker-archive:legacy.tar:me/app:v1", "oci-archive:oci.tar:v1"] {
        let _ = ask(&env, "app.eif", &["--image", reference]).success();
        let _ = ask(&env, "app.eif", &["--image", reference, "--lock", "eif.lock"]).success();
    }
}

/// A tag moves; a lock does not.
#[test]
fn the_image_of_a_lock_is_found_in_its_registry_by_digest() {
    let env = world(&[]);
    let registry = RealRegistry::start(&env, &Demands::default());
    registry.push(&env, "image:latest", "app:v1", &[]);
    let reference = format!("{}/app:v1", registry.host);
    let build =
        ["build", &reference, "--kernel", "kernel", "--cmdline", CMDLINE, "--lock", "eif.lock", "-o", "app.eif"];
    let _ = env.eif(&build).success();
    let _ = env.layout("newer", &image("newer"));
    registry.push(&env, "newer:latest", "app:v1", &[]);
    let output = ask(&env, "app.eif", &["--lock", "eif.lock", "--no-cache"]).success();
    // skopeo has packed the layers, so the manifest is another one than the layout's.
    let lock: Value = serde_json::from_slice(&fs::read(env.path("eif.lock")).unwrap()).unwrap();
    let digest = lock["manifest_digest"].as_str().unwrap();
    assert_eq!(output.stdout(), format!("same: every byte of app.eif comes from {reference} ({digest})\n"));
    let _ = ask(&env, "app.eif", &["--lock", "eif.lock", "--offline"]).success();
    let _ = env.eif(&[&build[..], &["--locked"]].concat()).refused("E-lock-drift").says("manifest_digest");
    let moved = ask(&env, "app.eif", &["--image", &reference]);
    assert_differs(moved, &["image: diff_id of layer 2: "]);
}

/// How a file is packed and what it is called is the record's to say; who reads it needs no option for that.
#[test]
fn the_record_has_the_options_that_bring_nothing_in() {
    for options in [
        &["--compress", "zstd", "--mtime", "keep"][..],
        &["--compress", "gzip", "--mtime", "clamp"],
        &["--name", "app \"1\"", "--image-version", "v\u{1}", "--metadata", "custom.json"],
    ] {
        let auditor = built_elsewhere(options);
        let _ = ask_unsaid(&auditor, "app.eif", &["--image", "oci:image"]).success();
    }
}

/// What was built with options of the process is proved by who gives them again, each of them.
#[test]
fn options_of_the_process_are_given_again() {
    let options: [&[&str]; 6] = [
        &["--entrypoint", "/link"],
        &["--cmd", "x", "--cmd", "--y"],
        &["--env", "A=2", "--env", "B="],
        &["--user", "7:8"],
        &["--workdir", "/made"],
        &["--cmdline", "console=ttyS0 debug"],
    ];
    let auditor = built_elsewhere(&options.concat());
    let image: &[&str] = &["--image", "oci:image"];
    let _ = ask_unsaid(&auditor, "app.eif", &[image, &options.concat()].concat())
        .success()
        .says_nothing_of("W-verify-overrides");
    for left_out in 0..options.len() {
        let rest = options.iter().enumerate().filter(|(number, _)| *number != left_out).map(|(_, words)| *words);
        let words = [image, &rest.collect::<Vec<_>>().concat()].concat();
        let output =
            ask_unsaid(&auditor, "app.eif", &words).code(1).says("help: the image has no say in these options");
        let found = differences(&output);
        assert_eq!(found.len(), 1, "{output:?}");
        let option = options[left_out][0];
        assert!(found[0].starts_with(&format!("options: {option}: ")), "{option}: {output:?}");
        assert!(option == "--cmdline" || found[0].ends_with(" | none"), "{output:?}");
    }
    // Another order of variables is another process.
    let mut swapped = options;
    swapped[2] = &["--env", "B=", "--env", "A=2"];
    let output = ask_unsaid(&auditor, "app.eif", &[image, &swapped.concat()].concat()).code(1);
    assert_eq!(differences(&output), [r#"options: --env: ["A=2","B="] | ["B=","A=2"]"#]);
    let object = ask_unsaid(&auditor, "app.eif", &[image, &["--json"]].concat()).code(1).json();
    assert_eq!(object["differences"].as_array().unwrap().len(), options.len(), "{object}");
    assert_eq!((&object["same"], &object["differences"][0]["part"]), (&json!(false), &json!("options")));
}

/// A world whose `app.eif` somebody else has built of the same image with these options.
fn built_elsewhere(options: &[&str]) -> TestEnv {
    let env = TestEnv::new().variable("SOURCE_DATE_EPOCH", "1600000000");
    let _ = env.layout("image", &image("one\ntwo\n"));
    env.write("kernel", fake_bzimage());
    env.write("custom.json", r#"{"team": {"b": 1, "a": [null]}}"#);
    let build = ["build", "oci:image", "--kernel", "kernel", "-o", "app.eif"];
    let _ = env.eif(&[&build[..], options].concat()).success();
    // The auditor's own SOURCE_DATE_EPOCH is no part of the question.
    let auditor = world(&[]).variable("SOURCE_DATE_EPOCH", "1");
    fs::copy(env.path("app.eif"), auditor.path("app.eif")).unwrap();
    auditor
}

#[test]
fn parts_of_the_users_own_are_given_again() {
    let env = world(&["--init", "kernel"]);
    let _ = ask(&env, "app.eif", &["--image", "oci:image", "--init", "kernel"]).success().says("W-verify-init");
    fs::create_dir(env.path("blobs")).unwrap();
    for (name, bytes) in [("bzImage", fake_bzimage()), ("init", b"init".to_vec()), ("nsm.ko", b"module".to_vec())] {
        env.write(&format!("blobs/{name}"), bytes);
    }
    let _ = env.eif(&["build", "oci:image", "--blobs", "blobs", "-o", "blobs.eif"]).success();
    let verify = ["verify", "blobs.eif", "--image", "oci:image", "--blobs", "blobs"];
    let _ = env.eif(&verify).success();
    // A command line in the blobs is said with them.
    env.write("blobs/cmdline", "console=ttyS0 of=blobs\n");
    let _ = env.eif(&["build", "oci:image", "--blobs", "blobs", "-o", "blobs.eif"]).success();
    let _ = env.eif(&verify).success();
    env.write("blobs/cmdline", "console=ttyS0");
    let output = env.eif(&verify).code(1);
    assert_eq!(differences(&output), [r#"options: --cmdline: "console=ttyS0 of=blobs" | "console=ttyS0""#]);
}

#[test]
fn a_kernel_of_the_cache_is_found_by_its_hash() {
    let env = world(&[]);
    fs::remove_file(env.path("kernel")).unwrap();
    put_kernel(&env, &fake_bzimage());
    let _ = env.eif(&["verify", "app.eif", "--image", "oci:image", "--cmdline", CMDLINE]).success();
}

/// A signature covers PCR0 and is no part of what the image gives.
#[test]
fn a_signature_is_carried_over_and_verified() {
    let env = world(&[]);
    let pair =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 2 -subj /CN=a -out c.pem -keyout c.key";
    let openssl = env.command_of("openssl", &pair.split(' ').collect::<Vec<_>>()).output();
    assert!(openssl.expect("openssl runs: install the package `openssl`").status.success());
    let _ = env.eif(&["sign", "app.eif", "--signing-certificate", "c.pem", "--private-key", "c.key"]).success();
    let output = ask_image(&env, "app.eif").success();
    assert!(output.stdout().starts_with("same: every byte of app.eif but its signature comes from oci:image"));
    let _ = output.says("PCR8 ").says("signature valid");
    let _ = ask(&env, "app.eif", &["--lock", "eif.lock"]).success();
    // What is below a signature is looked at all the same, and so is the signature.
    let file = forge(&env, |forgery| forgery.replace(RAMDISK, 1, b"program", b"progrom"));
    let found = ["signature: E-signature-pcr0: ", "ramdisk 2: rootfs/app: content: "];
    assert_differs(ask_image(&env, file), &found);
    let file = forge(&env, |forgery| *forgery.data(SIGNATURE, 0).last_mut().unwrap() ^= 1);
    assert_differs(ask_image(&env, file), &["signature: E-signature-invalid: "]);
    // Where no tool puts one.
    let file = forge(&env, |forgery| forgery.sections.swap(4, 5));
    assert_differs(ask_image(&env, file), &["section: order: "]);
}

/// From the running enclave to the source: its document, the file, the image.
#[test]
fn an_attestation_closes_the_chain() {
    let env = world(&[]);
    let measured = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"].take();
    let value = |name: &str| -> [u8; 48] { hex::decode(measured[name].as_str().unwrap()).unwrap().try_into().unwrap() };
    let pcrs = [(0, value("PCR0")), (1, value("PCR1")), (2, value("PCR2"))];
    let mut attestation = Attestation::new();
    attestation.pcrs(&pcrs).set("nonce", cbor::bytes(b"asked"));
    env.write("document", attestation.bytes());
    env.write("root.pem", attestation.root_pem());
    let image = ["--image", "oci:image", "--attestation", "document", "--root", "root.pem"];
    let output = ask(&env, "app.eif", &image).success().says("whether the document is fresh is not proved");
    assert!(output.stdout().contains("), and the enclave i-") && output.stdout().ends_with(" runs it\n"), "{output:?}");
    let nonce = hex::encode("asked");
    let output = ask(&env, "app.eif", &[&image[..], &["--nonce", &nonce, "--json"]].concat()).success();
    assert!(output.json()["enclave"].as_str().unwrap().starts_with("i-"));
    let _ = output.says_nothing_of("fresh");
    let _ = ask(&env, "app.eif", &[&image[..], &["--nonce", "00"]].concat()).refused("E-attest-nonce");
    // What runs is no word for what should run.
    let output = ask_unsaid(&env, "app.eif", &image).code(1);
    assert!(differences(&output)[0].starts_with("options: --cmdline: "), "{output:?}");
    // AWS's root has not signed it.
    let _ = ask(&env, "app.eif", &image[..4]).refused("E-attest-root").says("document: ");
    // A true document of another enclave.
    attestation.pcrs(&[(0, [1; 48]), pcrs[1], pcrs[2]]);
    env.write("document", attestation.bytes());
    let output = ask(&env, "app.eif", &image).code(1);
    let found = format!("attestation: PCR0: {} | {}", measured["PCR0"].as_str().unwrap(), "01".repeat(48));
    assert_eq!(differences(&output), [found]);
}
