//! The hello image, built, booted in QEMU, and asked what it sees: it is what Docker would have given it, and the file
//! system is what was packed. Needs the kernel of `eif kernel build` and the package qemu-system-x86.

mod common;

use common::TestEnv;
use common::boot::{Boot, Ended};
use eif_testdata::{Model, hello_image};

/// Builds the hello image with further options and boots it to its end.
fn boot(further: &[&str]) -> Ended {
    let env = TestEnv::with_kernels();
    let reference = env.layout("image", &hello_image());
    let file = env.build(&reference, "hello", further);
    Boot::start(&env, &file, &[]).finish()
}

fn commands(words: &[&'static str]) -> Vec<&'static str> {
    words.iter().flat_map(|word| ["--cmd", word]).collect()
}

#[test]
fn it_says_hello_and_gets_what_docker_would_give() {
    let ended = boot(&[]).code(0);
    let values = |name| ended.after(name).collect::<Vec<_>>();
    assert_eq!(values("argv: "), ["hello"]);
    let expected = [
        "PATH=/nowhere:/app:/usr/bin",
        "GREETING=Hello from the enclave side!",
        "EMPTY=",
        "TWICE=2",
        "HOME=/home/hello",
        "HOSTNAME=enclave",
        "TERM=linux",
    ];
    assert_eq!(values("env: "), expected);
    let identity = [("uid: ", "1000"), ("gid: ", "1000"), ("groups: ", "29 44 1000"), ("cwd: ", "/srv/deep")];
    let place = [("hostname: ", "enclave"), ("lo: ", "up"), ("random pool: ", "ready"), ("descriptors: ", "0 1 2")];
    let signals = [("blocked: ", "0000000000000000"), ("ignored: ", "0000000000000000")];
    for (name, value) in identity.into_iter().chain(place).chain(signals) {
        assert_eq!(values(name), [value], "{name}");
    }
    assert_eq!(values("ppid: "), ["1"]);
    assert_ne!(values("pid: "), ["1"]);
    assert_eq!(values("pid: "), values("sid: "), "a session of its own");
    let _ = ended.says_line("Hello from the enclave side!").says_line("eif-init: exited with status 0");
}

#[test]
fn the_booted_tree_is_what_was_packed() {
    let ended = boot(&[&commands(&["list"])[..], &["--user", "root", "--workdir", "/"]].concat()).code(0);
    let listed = ended.console().skip_while(|line| *line != "list: begin").skip(1);
    let listed: Vec<_> = listed.take_while(|line| *line != "list: end").collect();
    let mounts: Vec<_> = listed.iter().filter_map(|line| line.strip_prefix("m ")).collect();
    assert_eq!(mounts, ["/dev", "/proc", "/run", "/sys", "/tmp"], "empty in the image, or not there");
    let mut seen: Vec<_> = listed.into_iter().filter(|line| !line.starts_with("m ")).collect();
    seen.sort_unstable();
    let model = Model::of(&hello_image().layers).listing();
    let expected: Vec<_> = model.iter().filter(|line| !line.ends_with(" /tmp")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn orphans_are_reaped_and_the_status_comes_back() {
    let words = commands(&["orphans", "40", "exit", "42"]);
    let _ = boot(&words).code(42).says_line("orphans: all reaped").says_line("eif-init: exited with status 42");
}

#[test]
fn death_by_a_signal_is_told() {
    let _ = boot(&commands(&["kill", "9"])).code(137).says_line("eif-init: killed by signal 9");
}

#[test]
fn pid_1_passes_sigterm_on() {
    let _ = boot(&[&commands(&["forward", "15"])[..], &["--user", "root"]].concat()).code(0).says("forwarded: 15");
}

#[test]
fn beyond_the_root_is_nothing_of_ours() {
    let ended = boot(&[&commands(&["escape"])[..], &["--user", "root"]].concat()).code(0);
    for way in ["root: ", "up and out: ", "init's root: "] {
        let found: Vec<_> = ended.after(way).collect();
        assert!(found.contains(&"app") && !found.contains(&"rootfs"), "{way}{found:?}");
    }
    assert_eq!(ended.after("below the root: ").collect::<Vec<_>>(), ["rootfs"], "the image's own tree, no more");
}

#[test]
fn without_a_listener_the_heartbeat_is_one_line() {
    let env = TestEnv::with_kernels();
    let file = env.build(&env.layout("image", &hello_image()), "hello", &[]);
    let ended = Boot::start(&env, &file, &["--no-heartbeat"]).finish();
    assert_ne!(ended.status.code(), Some(0));
    let _ = ended
        .says_line("eif-init: heartbeat: no listener at CID 3 port 9000 (ECONNRESET)")
        .says_nothing_of("Hello from the enclave side!");
}

#[test]
fn a_missing_program_is_one_line() {
    let ended = boot(&["--entrypoint", "/no/such/program"]);
    assert_ne!(ended.status.code(), Some(0));
    let _ = ended.says_line(r#"eif-init: exec "/no/such/program": no such file (ENOENT)"#);
}

#[test]
fn a_program_without_execute_bit_is_one_line() {
    let ended = boot(&["--entrypoint", "/etc/hosts", "--user", "root"]);
    assert_ne!(ended.status.code(), Some(0));
    let _ = ended.says_line(r#"eif-init: exec "/etc/hosts": permission denied (EACCES)"#);
}

#[test]
fn compressed_ramdisks_boot_too() {
    for compression in ["gzip", "zstd"] {
        let _ = boot(&["--compress", compression]).code(0).says_line("Hello from the enclave side!");
    }
}

#[test]
fn a_bad_user_never_gets_that_far() {
    let env = TestEnv::with_kernels();
    let reference = env.layout("image", &hello_image());
    let _ = env.eif(&["build", &reference, "-o", "x.eif", "--user", "nobody-here"]).refused("E-unknown-user");
    assert!(!env.path("x.eif").exists());
}
