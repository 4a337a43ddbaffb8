//! `eif pcr` prints what a file measures to, in the shapes that scripts rely on.

mod common;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use common::TestEnv;
use eif::Arch;
use eif::eif::metadata::Facts;
use eif::eif::{Measurements, Metadata, Options, Writer};

fn written(env: &TestEnv) -> (PathBuf, Measurements) {
    let path = env.path("app.eif");
    let file = fs::File::create(&path).unwrap();
    let mut writer = Writer::new(file, Options { arch: Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &b"kernel"[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    writer.ramdisk().unwrap().write_all(b"boot").unwrap();
    writer.ramdisk().unwrap().write_all(b"application").unwrap();
    (path, writer.finish().unwrap().1.measurements)
}

#[test]
fn a_file_gives_nitro_clis_object() {
    let env = TestEnv::new();
    let (_, measurements) = written(&env);
    let output = env.eif(&["pcr", "app.eif"]).success();
    assert_eq!(output.stdout(), format!("{}\n", measurements.to_json()));
    assert_eq!(output.stderr(), "");
}

#[test]
fn every_format_is_one_line_a_register() {
    let env = TestEnv::new();
    let (_, Measurements { pcr0, pcr1, pcr2, .. }) = written(&env);
    for (format, expected) in [
        ("env", format!("PCR0={pcr0}\nPCR1={pcr1}\nPCR2={pcr2}\n")),
        ("github", format!("pcr0={pcr0}\npcr1={pcr1}\npcr2={pcr2}\n")),
        ("terraform", format!("pcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n")),
        ("text", format!("PCR0 {pcr0}\nPCR1 {pcr1}\nPCR2 {pcr2}\n")),
    ] {
        assert_eq!(env.eif(&["pcr", "app.eif", "--format", format]).success().stdout(), expected);
    }
}

/// The values of AWS's user guide, and `printf hi` through openssl as `ext` has it.
#[test]
fn what_is_no_image_gives_one_register() {
    let env = TestEnv::new();
    let input = env.write("input", "hi");
    for (option, value, name, digits) in [
        (
            "--role-arn",
            "arn:aws:iam::123456789012:role/Webserver",
            "PCR3",
            "78fce75db17cd4e0a3fb8dad3ad128ca5e77edbb2b2c7f75329dccd99aa5f6ef4fc1f1a452e315b9e98f9e312e6921e6",
        ),
        (
            "--instance-id",
            "i-1234567890abcdef0",
            "PCR4",
            "08f996b5d43e047a9eb51e7f548bfee7e164fd7dc8f65541f2ac09d6545ac812719327281c401a67a10fcba87ae79ce0",
        ),
        ("--input", input.to_str().unwrap(), "PCR", "2607c1a63d24305dd45aa638450d8d11"),
    ] {
        let output = env.eif(&["pcr", option, value]).success();
        let object = output.json();
        let found = object[name].as_str().unwrap();
        assert_eq!((found.len(), &found[..digits.len()]), (96, digits));
        assert_eq!(object.as_object().unwrap().len(), 1);
        assert!(output.stdout().starts_with("{\n  \""));
    }
    let session = "arn:aws:sts::123456789012:assumed-role/Webserver/i-1234567890abcdef0";
    for (option, value, why) in [
        ("--role-arn", session, "a session of the role"),
        ("--role-arn", "", "PCR3 is of the role itself"),
        ("--instance-id", "garbage", "an instance id is"),
    ] {
        let _ = env.eif(&["pcr", option, value]).code(2).says(why);
        let _ = env.eif(&["policy", "--pcr", &format!("0={}", "ab".repeat(48)), option, value]).code(2).says(why);
    }
}

#[test]
fn a_broken_file_is_refused_by_name() {
    let env = TestEnv::new();
    let (path, _) = written(&env);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    env.write("changed.eif", &bytes);
    let _ = env.eif(&["pcr", "changed.eif"]).refused("E-eif-crc").says("changed.eif: the CRC of the file is");
    env.write("cut.eif", &bytes[..bytes.len() - 1]);
    let _ =
        env.eif(&["pcr", "cut.eif"]).refused("E-eif-bounds").says("section 4 (ramdisk) claims 12 bytes at offset 0x");
    let _ = env.eif(&["pcr", "none.eif"]).refused("E-io").says("none.eif");
    env.write("text.pem", "no certificate");
    let _ = env.eif(&["pcr", "--signing-certificate", "text.pem"]).refused("E-cert");
}

#[test]
fn exactly_one_thing_is_measured() {
    let env = TestEnv::new();
    let _ = env.eif(&["pcr"]).code(2);
    let _ = env.eif(&["pcr", "app.eif", "--instance-id", "i-1"]).code(2);
    let _ = env.eif(&["pcr", "app.eif", "--kernel", "other"]).code(2).says("need a container image");
    let _ = env.eif(&["pcr", "--instance-id", "i-1", "--mtime", "keep"]).code(2);
}
