//! The foreign judge: AWS's own library writes the same files, measures them the same, and reads ours.

mod signed;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use aws_nitro_enclaves_image_format::defs::{EifBuildInfo, EifIdentityInfo};
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use aws_nitro_enclaves_image_format::utils::{EifBuilder, SignKeyData};
use eif::Arch;
use eif::eif::measure::PCR2_OF_NOTHING;
use eif::eif::{Eif, Kind, Measurements, Metadata, Options, Writer, Written};
use serde_json::{Value, json};
use sha2_of_aws::Digest;
use tempfile::TempDir;

/// Deterministic bytes that no compressor or pattern would help (xorshift64).
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|_| next()).collect()
}

/// What a file is made of. The ramdisks' sizes are multiples of 4: AWS's builder does not pad, so for it the padding
/// is part of the input.
struct Parts {
    arch: Arch,
    kernel: Vec<u8>,
    cmdline: String,
    ramdisks: Vec<Vec<u8>>,
    metadata: Metadata,
}

impl Parts {
    fn new(seed: u64, arch: Arch, ramdisks: usize) -> Self {
        let size = |index: u64| [0, 1, 4, 7, 512, 4099, 65_536, 300_001][((seed + index) % 8) as usize];
        Self {
            arch,
            kernel: noise(seed, size(3) + 1),
            cmdline: ["", "console=ttyS0", "reboot=k panic=30 pci=off nomodules", "ünïcode  and  \t tabs "]
                [(seed % 4) as usize]
                .to_owned(),
            ramdisks: (0..ramdisks as u64).map(|index| noise(seed ^ index << 8, size(index))).collect(),
            metadata: metadata(seed),
        }
    }

    fn write(&self, folder: &Path) -> (PathBuf, Written) {
        let path = folder.join("ours.eif");
        let threads = 1 + self.ramdisks.len() % 2;
        let mut writer = Writer::new(File::create(&path).unwrap(), Options { arch: self.arch, threads }).unwrap();
        writer.kernel(&mut &self.kernel[..]).unwrap();
        writer.cmdline(self.cmdline.as_bytes()).unwrap();
        writer.metadata(&self.metadata.to_bytes().unwrap()).unwrap();
        for ramdisk in &self.ramdisks {
            writer.ramdisk().unwrap().write_all(ramdisk).unwrap();
        }
        (path, writer.finish().unwrap().1)
    }

    /// The same file by AWS's builder, and what it says that the file measures to.
    fn write_with_aws(&self, folder: &Path) -> (PathBuf, BTreeMap<String, String>) {
        self.write_signed_with_aws(folder, None)
    }

    fn write_signed_with_aws(&self, folder: &Path, signer: Option<SignKeyData>) -> (PathBuf, BTreeMap<String, String>) {
        let kernel = put(folder, "kernel", &self.kernel);
        let flags = u16::from(self.arch == Arch::Aarch64);
        let info = identity(&self.metadata);
        let mut builder =
            EifBuilder::new(&kernel, self.cmdline.clone(), signer, sha2_of_aws::Sha384::new(), flags, info);
        for (index, ramdisk) in self.ramdisks.iter().enumerate() {
            let mut padded = ramdisk.clone();
            padded.resize(ramdisk.len().next_multiple_of(4), 0);
            builder.add_ramdisk(&put(folder, &format!("ramdisk-{index}"), &padded));
        }
        let path = folder.join("theirs.eif");
        let measurements = builder.write_to(&mut File::create(&path).unwrap());
        (path, measurements)
    }
}

fn metadata(seed: u64) -> Metadata {
    let facts = eif::eif::metadata::Facts {
        name: seed.is_multiple_of(2).then_some("a \"name\" with / and \u{1f980}"),
        epoch: seed.is_multiple_of(3).then_some(seed * 1_000_003),
        kernel_version: Some("6.12.117"),
        custom: seed.is_multiple_of(5).then(|| json!({"z": [1, 2.5, null], "a": {"y": true, "b": ""}})),
        record: json!({"process": {"argv": ["/bin/sh"]}}),
        ..Default::default()
    };
    Metadata::new(facts).unwrap()
}

fn identity(metadata: &Metadata) -> EifIdentityInfo {
    EifIdentityInfo {
        img_name: metadata.image_name.clone(),
        img_version: metadata.image_version.clone(),
        build_info: EifBuildInfo {
            build_time: metadata.build.time.clone(),
            build_tool: metadata.build.tool.clone(),
            build_tool_version: metadata.build.tool_version.clone(),
            img_os: metadata.build.operating_system.clone(),
            img_kernel: metadata.build.kernel_version.clone(),
        },
        docker_info: Value::Null,
        custom_info: metadata.custom.clone(),
    }
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// AWS's `HashAlgorithm` is the Debug form of whatever type it was built with, so only the registers are compared.
fn registers(theirs: &BTreeMap<String, String>) -> Vec<(&str, String)> {
    let registers = theirs.iter().filter(|(name, _)| name.starts_with("PCR"));
    registers.map(|(name, value)| (name.as_str(), value.clone())).collect()
}

fn ours(measurements: &Measurements) -> Vec<(&str, String)> {
    measurements.named().into_iter().map(|(name, pcr)| (name, pcr.to_string())).collect()
}

fn read_with_aws(path: &Path) -> EifReader {
    EifReader::from_eif(path.to_str().unwrap().to_owned()).unwrap()
}

fn compare(parts: &Parts) {
    let folder = TempDir::new().unwrap();
    let (our_path, written) = parts.write(folder.path());
    let (their_path, theirs) = parts.write_with_aws(folder.path());
    let what = format!("{} ramdisks, {}, cmdline {:?}", parts.ramdisks.len(), parts.arch, parts.cmdline);
    assert_eq!(ours(&written.measurements), registers(&theirs), "{what}");
    assert!(std::fs::read(&our_path).unwrap() == std::fs::read(&their_path).unwrap(), "the files differ: {what}");

    let mut reader = read_with_aws(&our_path);
    assert!(reader.check_crc(), "AWS's reader does not like our CRC: {what}");
    assert_eq!(registers(&reader.get_measurements().unwrap()), registers(&theirs), "{what}");
    assert_eq!(reader.get_metadata().unwrap().custom_info, parts.metadata.custom, "{what}");

    let eif = Eif::open(File::open(&their_path).unwrap()).unwrap();
    assert_eq!(eif.faults(), [], "{what}");
    assert_eq!(eif.measure(2).unwrap(), written.measurements, "{what}");
    assert_eq!(eif.metadata().unwrap().unwrap(), parts.metadata, "{what}");
    assert_eq!(eif.arch(), parts.arch);
}

/// Every number of ramdisks that a file can have, odd and empty sizes among them.
#[test]
fn files_and_registers_are_equal_for_every_number_of_ramdisks() {
    for ramdisks in 1..=29 {
        let arch = if ramdisks % 2 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
        compare(&Parts::new(ramdisks as u64, arch, ramdisks));
    }
}

#[test]
fn files_and_registers_are_equal_for_both_architectures() {
    for seed in 100..116 {
        compare(&Parts::new(seed, Arch::X86_64, 2));
        compare(&Parts::new(seed, Arch::Aarch64, 2));
    }
}

#[test]
fn a_single_ramdisk_has_aws_pcr2_of_nothing() {
    let folder = TempDir::new().unwrap();
    let (_, theirs) = Parts::new(1, Arch::X86_64, 1).write_with_aws(folder.path());
    assert_eq!(theirs["PCR2"], PCR2_OF_NOTHING);
}

/// Metadata as nitro-cli writes them: `docker inspect` inside, keys of the inner objects in the order they came in.
#[test]
fn metadata_of_nitro_cli_are_read() {
    let folder = TempDir::new().unwrap();
    let mut parts = Parts::new(7, Arch::X86_64, 2);
    parts.metadata.docker_info = json!({"Id": "sha256:00", "RepoTags": ["app:latest"], "Config": {"Env": ["A=b"]}});
    let mut info = identity(&parts.metadata);
    info.docker_info = parts.metadata.docker_info.clone();
    let kernel = put(folder.path(), "kernel", &parts.kernel);
    let mut builder = EifBuilder::new(&kernel, String::new(), None, sha2_of_aws::Sha384::new(), 0, info);
    builder.add_ramdisk(&put(folder.path(), "r", b"four"));
    let path = folder.path().join("theirs.eif");
    builder.write_to(&mut File::create(&path).unwrap());
    let eif = Eif::open(File::open(&path).unwrap()).unwrap();
    assert_eq!(eif.metadata().unwrap().unwrap(), parts.metadata);
    assert_eq!(eif.section(Kind::Cmdline).unwrap().size, 0);
}
