//! QEMU's point of view: its machine `nitro-enclave` reads our files by itself, measures them by itself, and tells the
//! registers to the program inside through the security module. They are what `eif pcr` says.
//!
//! The program is made by `.ci/qemu-nitro`: no Debian package has that machine.
#![cfg(target_os = "linux")]

mod common;
mod guest;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::TestEnv;
use common::boot::{Boot, Ended};
use eif::eif::{Eif, Kind, Options, Writer};
use eif::launch::vsock::{Config, Vsock};
use eif_testdata::{Entry, Image, Layer, hello_image};

const INDEXES: [&str; 6] = ["0", "1", "2", "3", "4", "8"];
const ROLE: &str = "arn:aws:iam::123456789012:role/Webserver";
const INSTANCE: &str = "i-1234567890abcdef0";

/// QEMU with that machine.
fn qemu() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/qemu-nitro");
        let made = Command::new("bash").arg(script).stdin(Stdio::null()).output().expect("install the package bash");
        assert!(made.status.success(), "{script}: {}", String::from_utf8_lossy(&made.stderr));
        PathBuf::from(String::from_utf8(made.stdout).unwrap().trim_end())
    })
}

/// A file of `eif build`: the application prints registers.
fn built(env: &TestEnv) -> PathBuf {
    let program = env.path("nsm");
    guest::compile("nsm.rs", &program);
    let layer = Layer::new().entry(Entry::file("nsm", fs::read(program).unwrap()).mode(0o755));
    let reference = env.layout("image", &Image::new(vec![layer]));
    let words: Vec<_> = INDEXES.iter().flat_map(|index| ["--cmd", index]).collect();
    env.build(&reference, "nsm", &[&["--entrypoint", "/nsm"][..], &words].concat())
}

/// The machine with this file, to its end. `further` are further properties of the machine.
fn boot(env: &TestEnv, file: &Path, further: &str) -> Ended {
    let vsock = Vsock::start(Config { guest_cid: 16, heartbeat: true, ..Config::default() }, None).unwrap();
    let socket = format!("socket,id=vsock,path={}", vsock.socket().display());
    let machine = format!("nitro-enclave,vsock=vsock{further}");
    let mut command = env.command_of("setpriv", &["--pdeathsig", "KILL", "--"]);
    command.arg(qemu()).args(["-M", &machine, "-L", "/usr/share/qemu", "-chardev", &socket, "-kernel"]).arg(file);
    // microvm has no reset line but the triple fault; on a busy host the timer's check fails. See `launch::qemu`.
    command.args(["-append", "reboot=t panic=-1 no_timer_check", "-accel", "tcg", "-cpu", "max", "-m", "256M"]);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    Boot::spawn(command).finish().says_line("eif-init: exited with status 0")
}

/// What the program inside has printed.
fn told(ended: &Ended) -> Vec<(String, String)> {
    let lines = ended.console().filter(|line| line.starts_with("PCR"));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// `PCR0 …` of `eif pcr` and these arguments, for each register that it names; the others are zero.
fn expected(env: &TestEnv, runs: &[&[&str]]) -> Vec<(String, String)> {
    let mut all: Vec<_> = INDEXES.iter().map(|index| (format!("PCR{index}"), "0".repeat(96))).collect();
    for arguments in runs {
        let output = env.eif(&[&["pcr"][..], arguments, &["--format", "text"]].concat()).success();
        for (name, value) in output.stdout().lines().map(|line| line.split_once(' ').unwrap()) {
            all.iter_mut().find(|(known, _)| known == name).unwrap().1 = value.to_owned();
        }
    }
    all
}

#[test]
fn its_module_tells_what_eif_pcr_says() {
    let env = TestEnv::with_kernels();
    let ended = boot(&env, &built(&env), "");
    assert_eq!(told(&ended), expected(&env, &[&["nsm.eif"]]));
}

/// Three ramdisks, signed; PCR3 and PCR4 on top.
#[test]
fn every_register_of_a_signed_file_with_a_parent() {
    let env = TestEnv::with_kernels();
    let built = built(&env);
    let signed = signed(&env, &built);
    let ended = boot(&env, &signed, &format!(",parent-role={ROLE},parent-id={INSTANCE}"));
    let runs: [&[&str]; 3] = [&["signed.eif"], &["--role-arn", ROLE], &["--instance-id", INSTANCE]];
    let expected = expected(&env, &runs);
    assert!(expected.iter().all(|(_, value)| !value.trim_matches('0').is_empty()), "{expected:?}");
    assert_eq!(told(&ended), expected);
    let certificate = env.eif(&["pcr", "--signing-certificate", "cert.pem", "--format", "text"]).success();
    assert_eq!(certificate.stdout().trim_end(), format!("PCR8 {}", expected[5].1));
}

/// The file with the first ramdisk once more behind the others, signed with `cert.pem`.
fn signed(env: &TestEnv, built: &Path) -> PathBuf {
    certify(env);
    let eif = Eif::open(File::open(built).unwrap()).unwrap();
    let path = env.path("signed.eif");
    let mut writer = Writer::new(File::create(&path).unwrap(), Options { arch: eif.arch(), threads: 1 }).unwrap();
    writer.kernel(&mut eif.read(eif.section(Kind::Kernel).unwrap())).unwrap();
    writer.cmdline(&eif.cmdline().unwrap()).unwrap();
    let mut json = Vec::new();
    eif.read(eif.section(Kind::Metadata).unwrap()).read_to_end(&mut json).unwrap();
    writer.metadata(&json).unwrap();
    for section in eif.ramdisks().chain(eif.ramdisks().next()) {
        io::copy(&mut eif.read(section), &mut writer.ramdisk().unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let sign = ["sign", "signed.eif", "--signing-certificate", "cert.pem", "--private-key", "key.pem"];
    let _ = env.eif(&sign).success();
    path
}

/// `cert.pem` of `key.pem`, self-signed.
fn certify(env: &TestEnv) {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -keyout key.pem -out cert.pem -days 2 \
                 -subj /CN=test";
    let mut openssl = env.command_of("openssl", &words.split_whitespace().collect::<Vec<_>>());
    let made = openssl.output().expect("install the package openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Where the installed QEMU has that machine, `eif run` uses it: the file boots as it is, with a security module.
#[test]
fn eif_run_takes_that_machine_where_it_is() {
    let env = TestEnv::with_kernels();
    let file = built(&env);
    fs::create_dir(env.path("bin")).unwrap();
    // As a package would install it: with its firmware at the place where it looks.
    let script = format!("#!/bin/sh\nexec {} -L /usr/share/qemu \"$@\"\n", qemu().display());
    env.write("bin/qemu-system-x86_64", script);
    fs::set_permissions(env.path("bin/qemu-system-x86_64"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", env.path("bin").display());
    let env = env.variable("PATH", path);
    let run = env.eif(&["run", file.to_str().unwrap(), "--backend", "qemu", "--attach"]).success();
    let told: Vec<_> = run.stdout().lines().filter_map(|line| line.trim_end().split_once(' ')).collect();
    let reference = env.layout("hello", &hello_image());
    let hello = env.build(&reference, "hello", &[]);
    let greeted = env.eif(&["run", hello.to_str().unwrap(), "--backend", "qemu", "--attach"]).success();
    assert!(greeted.stdout().lines().any(|line| line.trim_end() == "Hello from the enclave side!"), "{greeted:#?}");
    for (name, value) in expected(&env, &[&["nsm.eif"]]) {
        assert!(told.contains(&(name.as_str(), value.as_str())), "{name} {value}\n{run:#?}");
    }
}
