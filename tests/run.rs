//! `eif run` with real guests: exit codes, streams, refusals, and nothing left behind however it ends.
#![cfg(target_os = "linux")]

mod common;
mod guest;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use common::TestEnv;
use common::boot::DEADLINE;

/// An `.eif` whose init plays these scenarios.
fn image(env: &TestEnv, scenarios: &str) -> PathBuf {
    guest::image(env.path("guest.eif"), scenarios)
}

/// `eif run` of these scenarios, to its end.
fn run(env: &TestEnv, scenarios: &str, further: &[&str]) -> common::Output {
    let file = image(env, scenarios);
    let mut arguments = vec!["run", file.to_str().unwrap(), "--backend", "qemu", "--attach"];
    arguments.extend(further);
    env.eif(&arguments)
}

#[test]
fn the_exit_code_is_the_applications() {
    let env = TestEnv::new();
    let output = run(&env, "heartbeat,exit-7", &["--debug"]).code(7);
    assert!(output.stdout().contains("ok heartbeat"), "{output:#?}");
    let _ = output.says("16");
    let _ = run(&env, "signal-9", &["--cid", "77", "--memory", "300", "--cpus", "2"]).code(137).says("CID 77");
    assert_eq!(env.listing(&env.tmp()), [""; 0], "temporary files are left");
}

#[test]
fn a_boot_that_fails_is_a_refusal_that_names_the_reason() {
    let env = TestEnv::new();
    let _ = run(&env, "heartbeat,failed", &[]).code(1).says("error[E-boot]: ").says("eif-init: chdir \"/srv\": ENOENT");
    let _ = run(&env, "panic", &[]).code(1).says("Kernel panic - not syncing").says("help: no heartbeat came");
}

#[test]
fn qemu_is_chosen_where_there_is_no_device_and_said() {
    let env = TestEnv::new();
    let file = image(&env, "exit-7");
    let unasked = env.eif(&["run", file.to_str().unwrap(), "--attach"]);
    let nitro = ["run", file.to_str().unwrap(), "--backend", "nitro"];
    if !Path::new("/dev/nitro_enclaves").exists() {
        let _ = unasked.code(7).says("QEMU: there is no /dev/nitro_enclaves");
        let _ = env.eif(&nitro).refused("E-nitro-device").says("there is no /dev/nitro_enclaves").says("modprobe");
    }
    let small = [&nitro[..], &["--memory", "64"]].concat();
    assert!(fs::metadata(&file).unwrap().len() < 56 << 20);
    let _ = env.eif(&small).refused("E-nitro-device");
    let _ = env.eif(&[&nitro[..], &["--vsock", "s"]].concat()).code(2).says("--vsock is for QEMU");
    let _ = env.eif(&["run", file.to_str().unwrap(), "--backend", "qemu", "--cpu-ids", "2", "3"]).code(2).says("pool");
}

#[test]
fn what_is_no_eif_is_refused() {
    let env = TestEnv::new();
    env.write("bad.eif", [b'x'; 5000]);
    let _ = env.eif(&["run", "bad.eif", "--backend", "qemu"]).refused("E-eif-magic");
    let _ = env.eif(&["run", "none.eif", "--backend", "qemu"]).refused("E-io").says("none.eif");
    let mut bytes = fs::read(image(&env, "exit-7")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    env.write("flipped.eif", bytes);
    let _ = env.eif(&["run", "flipped.eif", "--backend", "qemu"]).refused("E-eif-crc");
}

#[test]
fn a_missing_qemu_is_named_with_its_package() {
    let env = TestEnv::new();
    let file = image(&env, "exit-7");
    let bin = env.path("bin");
    fs::create_dir(&bin).unwrap();
    let mut command = env.command(&["run", file.to_str().unwrap(), "--backend", "qemu"]);
    let output = command.env("PATH", &bin).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("error[E-setpriv-missing]: "), "{output:?}");
    std::os::unix::fs::symlink("/usr/bin/setpriv", bin.join("setpriv")).unwrap();
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error[E-qemu-missing]: `qemu-system-x86_64` is not installed"), "{said}");
    assert!(said.contains("help: install Debian's package qemu-system-x86"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// The only child of a process, by the kernel's own list.
fn child_of(process: &Path) -> PathBuf {
    let threads = fs::read_dir(process.join("task")).unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).ok());
    let children: String = children.collect();
    PathBuf::from("/proc").join(children.trim())
}

fn gone(process: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while process.exists() {
        assert!(Instant::now() < deadline, "{} is still there", process.display());
        thread::yield_now();
    }
}

fn signal(process: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

#[test]
fn however_eif_is_killed_qemu_goes_with_it_and_no_file_stays() {
    for how in ["-KILL", "-TERM", "-INT"] {
        let env = TestEnv::new();
        let file = image(&env, "heartbeat,forever");
        let mut eif = env.command(&["run", file.to_str().unwrap(), "--backend", "qemu", "--attach"]);
        let mut eif = eif.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&mut eif, "ok heartbeat");
        let supervisor = child_of(&PathBuf::from(format!("/proc/{}", eif.id())));
        let qemu = child_of(&supervisor);
        assert!(fs::read_to_string(qemu.join("cmdline")).unwrap().starts_with("qemu-system-x86_64"));
        signal(eif.id(), how);
        assert!(!eif.wait().unwrap().success());
        gone(&qemu);
        gone(&supervisor);
        assert_eq!(env.listing(&env.tmp()), [""; 0], "temporary files are left after {how}");
    }
}

fn wait_for(eif: &mut Child, text: &str) {
    let stdout = eif.stdout.as_mut().unwrap();
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains(text) {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{seen}");
        seen.push(char::from(byte[0]));
    }
}

#[test]
fn nobody_reads_the_console_then_nobody_needs_the_enclave() {
    let env = TestEnv::new();
    let file = image(&env, "cid,forever");
    let mut eif = env.command(&["run", file.to_str().unwrap(), "--backend", "qemu", "--attach"]);
    let mut eif = eif.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(eif.stdout.take());
    assert_eq!(eif.wait().unwrap().code(), Some(0), "a closed pipe is no error");
}

#[test]
fn unix_sockets_of_the_host_are_ports_of_the_parent() {
    let env = TestEnv::new();
    let listener = UnixListener::bind(env.path("s_5001")).unwrap();
    let server = thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let mut question = Vec::new();
        client.read_to_end(&mut question).unwrap();
        write!(client, "{} bytes", question.len()).unwrap();
    });
    let output = run(&env, "half,exit-7", &["--vsock", "s"]).code(7);
    assert!(output.stdout().contains("ok half"), "{output:#?}");
    server.join().unwrap();
}
