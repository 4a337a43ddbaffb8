//! `eif doctor` finds what is there and what is not, names the way out, and changes nothing.

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::TestEnv;
use serde_json::{Value, json};

/// The report of `eif doctor --json`, which must end with this exit code.
fn doctor(env: &TestEnv, code: i32) -> Value {
    let report = env.eif(&["doctor", "--json"]).code(code).json();
    for check in report["checks"].as_array().unwrap() {
        let keys: Vec<_> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["for", "found", "help", "name", "state"], "{check}");
        assert!(check["state"] == "ok" || check["help"][0].is_string(), "no way out: {check}");
    }
    report
}

/// State, what was found and the first help of all checks with this name.
fn named(report: &Value, name: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == name);
    all.map(|check| (text(&check["state"]), text(&check["found"]), text(&check["help"][0]))).collect()
}

fn only(report: &Value, name: &str) -> (String, String, String) {
    let mut all = named(report, name);
    assert_eq!(all.len(), 1, "{name}: {report:#}");
    all.remove(0)
}

/// A program that succeeds at everything. Another process writes it: a file that this one has open for writing, and
/// that a fork on another thread inherits, cannot be run.
fn stub(folder: &Path, name: &str) {
    let text = folder.join("text");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    assert!(Command::new("install").args(["-m", "755"]).args([&text, &folder.join(name)]).status().unwrap().success());
}

#[test]
fn a_bare_machine_cannot_build_or_run_and_every_lack_has_a_way_out() {
    let env = TestEnv::new().variable("PATH", "/nowhere").variable("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let report = doctor(&env, 1);
    assert_eq!((&report["build"], &report["verify"]), (&json!(false), &json!(false)));
    let missing = |name: &str| {
        let (state, found, help) = only(&report, name);
        assert_eq!(state, "missing", "{found}");
        (found, help)
    };
    assert!(missing("kernel x86_64").1.contains("`eif kernel build`"));
    assert!(missing("kernel aarch64").1.contains("`eif kernel build --arch aarch64`"));
    let (found, help) = missing("qemu x86_64");
    assert!(found.contains("is not installed") && !help.is_empty(), "{found} {help}");
    for (name, part) in [("docker engine", "DOCKER_HOST"), ("logins", "podman login")] {
        let (state, found, help) = only(&report, name);
        assert!(state == "note" && help.contains(part), "{found} {help}");
    }
    assert_eq!(only(&report, "store").0, "ok", "it can be made");
    assert_eq!(only(&report, "temporary files").0, "ok");
    for folder in ["cache", "tmp", "home", "config", "run"] {
        let folder = env.work().with_file_name(folder);
        assert_eq!(env.listing(&folder), [""; 0], "{} was written to", folder.display());
    }
}

#[test]
fn a_machine_with_kernels_can_build() {
    let env = TestEnv::with_kernels();
    let report = doctor(&env, 0);
    assert_eq!((&report["build"], &report["verify"]), (&json!(true), &json!(true)));
    let (state, found, _) = only(&report, "kernel x86_64");
    assert!(state == "ok" && found.contains("cache/eif/kernels"), "{found}");
    assert_eq!(only(&report, "init x86_64").0, "ok");
    let text = env.eif(&["doctor"]).success();
    for line in ["ok       kernel x86_64", "build    can be done here", "verify   can be done here"] {
        assert!(text.stdout().lines().any(|said| said.starts_with(line)), "{line}: {text:?}");
    }
    let lost = TestEnv::with_kernels().variable("TMPDIR", "/nowhere/tmp");
    let (state, found, help) = only(&doctor(&lost, 1), "temporary files");
    assert!(state == "missing" && found.starts_with("/nowhere/tmp: ") && help.contains("TMPDIR"), "{found}");
}

#[test]
fn qemu_is_what_run_needs() {
    let programs = tempfile::tempdir().unwrap();
    let env = TestEnv::new().variable("PATH", programs.path().to_str().unwrap());
    stub(programs.path(), "setpriv");
    stub(programs.path(), "qemu-system-aarch64");
    let report = doctor(&env, 1);
    assert_eq!(report["run"], true);
    assert_eq!(only(&report, "qemu aarch64"), ("ok".into(), "qemu-system-aarch64".into(), String::new()));
    let (state, found, help) = only(&report, "qemu x86_64");
    assert!(state == "missing" && found.contains("qemu-system-x86_64") && help.contains("qemu-system-x86"), "{help}");
    for path in ["nitro enclaves", "kvm"] {
        assert!(only(&report, path).1.starts_with("/dev/"));
    }
}

#[test]
fn logins_are_named_by_their_files_alone() {
    let env = TestEnv::new();
    let beside = |name: &str| env.work().with_file_name(name);
    for folder in ["config/containers", "home/.docker"] {
        fs::create_dir_all(beside(folder)).unwrap();
    }
    fs::write(beside("config/containers/auth.json"), r#"{"auths":{"r.io":{"username":"bob","password":"hidden"}}}"#)
        .unwrap();
    fs::write(beside("home/.docker/config.json"), r#"{"auths":"hidden"}"#).unwrap();
    let report = doctor(&env, 1);
    let logins = named(&report, "logins");
    assert_eq!(logins.len(), 2, "{logins:?}");
    assert!(logins[0].0 == "ok" && logins[0].1.ends_with("config/containers/auth.json"), "{logins:?}");
    assert!(logins[1].0 == "note" && logins[1].1.contains(".docker/config.json: not in the form"), "{logins:?}");
    assert!(!format!("{report}").contains("hidden") && !format!("{report}").contains("bob"));
    let named_file = TestEnv::new().variable("REGISTRY_AUTH_FILE", "/nowhere/auth.json");
    let (state, found, _) = only(&doctor(&named_file, 1), "logins");
    assert!(state == "note" && found == "/nowhere/auth.json: no such file", "{found}");
}

#[test]
fn a_docker_engine_that_listens_and_a_store_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let env = TestEnv::new().variable("DOCKER_HOST", format!("unix://{}", socket.display()));
    fs::create_dir(env.work().with_file_name("cache").join("eif")).unwrap();
    fs::write(env.work().with_file_name("cache").join("eif/blobs"), "").unwrap();
    let report = doctor(&env, 1);
    assert_eq!(
        only(&report, "docker engine"),
        ("ok".into(), format!("listens at {}", socket.display()), String::new())
    );
    let (state, _, help) = only(&report, "store");
    assert!(state == "note" && help.contains("--no-cache"), "{help}");
    let behind = TestEnv::new().variable("DOCKER_HOST", "ssh://host");
    let (state, found, _) = only(&doctor(&behind, 1), "docker engine");
    assert!(state == "note" && found.contains("ssh"), "{found}");
}
