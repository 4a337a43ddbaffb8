//! The hello image, built, booted in QEMU, and asked what it sees: it is what Docker would have given it, and the file
//! system is what was packed; on both architectures. Needs the kernels of `eif kernel build` and the packages
//! qemu-system-x86 and qemu-system-arm.

mod common;

use std::path::PathBuf;

use common::TestEnv;
use common::boot::{Boot, Ended, on_each_architecture};
use eif::Arch;
use eif_testdata::{Entry, Layer, Model, hello_image, hello_image_for, hello_program};

/// Builds the hello image with further options and boots it to its end.
fn boot(arch: Arch, further: &[&str]) -> Ended {
    let env = TestEnv::with_kernels();
    let file = build(&env, arch, further);
    Boot::start(&env, &file, &[]).finish()
}

fn build(env: &TestEnv, arch: Arch, further: &[&str]) -> PathBuf {
    let reference = env.layout("image", &hello_image_for(arch.name()));
    let platform = format!("linux/{}", arch.oci_name());
    env.build(&reference, "hello", &[&["--platform", &platform], further].concat())
}

fn commands(words: &[&'static str]) -> Vec<&'static str> {
    words.iter().flat_map(|word| ["--cmd", word]).collect()
}

on_each_architecture! {
    it_says_hello_and_gets_what_docker_would_give,
    the_booted_tree_is_what_was_packed,
    orphans_are_reaped_and_the_status_comes_back,
    death_by_a_signal_is_told,
    pid_1_passes_sigterm_on,
    beyond_the_root_is_nothing_of_ours,
    without_a_listener_the_heartbeat_is_one_line,
    a_missing_program_is_one_line,
    a_program_without_execute_bit_is_one_line,
    compressed_ramdisks_boot_too,
    a_program_has_the_capabilities_of_its_file,
}

fn it_says_hello_and_gets_what_docker_would_give(arch: Arch) {
    let ended = boot(arch, &[]).code(0);
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

fn the_booted_tree_is_what_was_packed(arch: Arch) {
    let ended = boot(arch, &[&commands(&["list"])[..], &["--user", "root", "--workdir", "/"]].concat()).code(0);
    let listed = ended.console().skip_while(|line| *line != "list: begin").skip(1);
    let listed: Vec<_> = listed.take_while(|line| *line != "list: end").collect();
    let mounts: Vec<_> = listed.iter().filter_map(|line| line.strip_prefix("m ")).collect();
    assert_eq!(mounts, ["/dev", "/proc", "/run", "/sys", "/tmp"], "empty in the image, or not there");
    let mut seen: Vec<_> = listed.into_iter().filter(|line| !line.starts_with("m ")).collect();
    seen.sort_unstable();
    let model = Model::of(&hello_image_for(arch.name()).layers).listing();
    let expected: Vec<_> = model.iter().filter(|line| !line.ends_with(" /tmp")).collect();
    assert_eq!(seen, expected);
}

fn orphans_are_reaped_and_the_status_comes_back(arch: Arch) {
    let words = commands(&["orphans", "40", "exit", "42"]);
    let _ = boot(arch, &words).code(42).says_line("orphans: all reaped").says_line("eif-init: exited with status 42");
}

fn death_by_a_signal_is_told(arch: Arch) {
    let _ = boot(arch, &commands(&["kill", "9"])).code(137).says_line("eif-init: killed by signal 9");
}

fn pid_1_passes_sigterm_on(arch: Arch) {
    let _ =
        boot(arch, &[&commands(&["forward", "15"])[..], &["--user", "root"]].concat()).code(0).says("forwarded: 15");
}

fn beyond_the_root_is_nothing_of_ours(arch: Arch) {
    let ended = boot(arch, &[&commands(&["escape"])[..], &["--user", "root"]].concat()).code(0);
    for way in ["root: ", "up and out: ", "init's root: "] {
        let found: Vec<_> = ended.after(way).collect();
        assert!(found.contains(&"app") && !found.contains(&"rootfs"), "{way}{found:?}");
    }
    assert_eq!(ended.after("below the root: ").collect::<Vec<_>>(), ["rootfs"], "the image's own tree, no more");
}

fn without_a_listener_the_heartbeat_is_one_line(arch: Arch) {
    let env = TestEnv::with_kernels();
    let file = build(&env, arch, &[]);
    let ended = Boot::start(&env, &file, &["--no-heartbeat"]).finish();
    assert_ne!(ended.status.code(), Some(0));
    let _ = ended
        .says_line("eif-init: heartbeat: no listener at CID 3 port 9000 (ECONNRESET)")
        .says_nothing_of("Hello from the enclave side!");
}

fn a_missing_program_is_one_line(arch: Arch) {
    let ended = boot(arch, &["--entrypoint", "/no/such/program"]);
    assert_ne!(ended.status.code(), Some(0));
    let _ = ended.says_line(r#"eif-init: exec "/no/such/program": no such file (ENOENT)"#);
}

fn a_program_without_execute_bit_is_one_line(arch: Arch) {
    let ended = boot(arch, &["--entrypoint", "/etc/hosts", "--user", "root"]);
    assert_ne!(ended.status.code(), Some(0));
    let _ = ended.says_line(r#"eif-init: exec "/etc/hosts": permission denied (EACCES)"#);
}

fn compressed_ramdisks_boot_too(arch: Arch) {
    for compression in ["gzip", "zstd"] {
        let _ = boot(arch, &["--compress", compression]).code(0).says_line("Hello from the enclave side!");
    }
}

/// What `setcap cap_net_bind_service+ep` leaves in a layer: newc has no place for it, so the init sets it again.
fn a_program_has_the_capabilities_of_its_file(arch: Arch) {
    const NET_BIND_SERVICE: u32 = 10;
    // linux/capability.h: revision 2 with the effective bit, then permitted and inheritable, low and high words.
    let capability = [0x0200_0001, 1 << NET_BIND_SERVICE, 0, 0, 0_u32].map(u32::to_le_bytes).concat();
    let program = Entry::file("app/hello", hello_program(arch.name())).mode(0o755);
    let capable = program.pax("SCHILY.xattr.security.capability", capability);
    let mut image = hello_image_for(arch.name());
    // They are brought by the file's first name, whichever is run.
    image.layers.push(Layer::new().entry(capable).entry(Entry::hardlink("app/again", "app/hello")));
    let env = TestEnv::with_kernels();
    let reference = env.layout("image", &image);
    let platform = format!("linux/{}", arch.oci_name());
    let options = [&["--platform", &platform][..], &commands(&["cat", "/proc/self/status"])].concat();
    let file = env.build(&reference, "hello", &options);
    let ended = Boot::start(&env, &file, &[]).finish().code(0);
    let value = |name| ended.after(name).map(str::trim).collect::<Vec<_>>();
    assert_eq!(value("Uid:"), ["1000\t1000\t1000\t1000"]);
    assert_eq!(value("CapEff:"), [format!("{:016x}", 1 << NET_BIND_SERVICE)]);
    let plain = boot(arch, &commands(&["cat", "/proc/self/status"])).code(0);
    assert_eq!(plain.after("CapEff:").map(str::trim).collect::<Vec<_>>(), ["0".repeat(16)]);
}

#[test]
fn a_bad_user_never_gets_that_far() {
    let env = TestEnv::with_kernels();
    let reference = env.layout("image", &hello_image());
    let _ = env.eif(&["build", &reference, "-o", "x.eif", "--user", "nobody-here"]).refused("E-unknown-user");
    assert!(!env.path("x.eif").exists());
}
