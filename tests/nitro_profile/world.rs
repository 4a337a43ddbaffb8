//! Images of layers and a config, and what the library builds of them with the profile `nitro-cli`.

use std::fs;
use std::path::{Path, PathBuf};

use eif::build::{Error, Plan, Profile};
use eif::eif::Eif;
use eif::image::{Access, Platform, Reference, Store};
use eif::initramfs::{Compress, Mtime};
use eif::rootfs::{Options, docker};
use eif::{Silent, build};
use eif_testdata::{Image, Layer, OciLayout};
use serde_json::Value;

use crate::model;

/// The folder of a golden image or of the blobs.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nitro-cli").join(name)
}

/// An image of these layers whose config has this object `config`.
pub fn image(layers: &[Layer], config: &Value) -> Image {
    Image::new(layers.to_vec()).patch_config("/config", config.clone())
}

/// A plan for the layout in `folder/image`, that writes time zero where nitro-cli's is a clock's.
pub fn plan(folder: &Path, store: model::Store) -> Plan {
    let reference = format!("oci:{}", folder.join("image").display());
    Plan {
        reference: Reference::parse(reference.as_ref()).unwrap(),
        platform: Platform::default(),
        kernel: None,
        cmdline: None,
        init: None,
        blobs: Some(golden("blobs")),
        profile: Profile::NitroCli,
        docker_store: match store {
            model::Store::Overlay2 => docker::Store::Overlay2,
            model::Store::Containerd => docker::Store::Containerd,
        },
        accept_unstable_times: true,
        overrides: Default::default(),
        mtime: Mtime::Keep,
        compress: Compress::None,
        name: None,
        image_version: None,
        custom: None,
        epoch: None,
        layers: Options::new(folder),
        access: Access::new(Store::open(&folder.join("store"), None).unwrap(), folder.to_owned()),
        cache: None,
        lock: None,
        documents: Default::default(),
        signer: None,
    }
}

/// Writes the image as an OCI layout to `folder/image`.
pub fn write(folder: &Path, image: &Image) {
    OciLayout::new().tag("latest", image).files().write_dir(&folder.join("image"));
}

/// Ramdisk 2 of what is built.
pub fn ramdisk2(plan: &Plan, folder: &Path) -> Result<Vec<u8>, Error> {
    let file = folder.join("out.eif");
    build::build(plan, &file, &Silent)?;
    Ok(ramdisks(&fs::read(file).unwrap()).remove(1))
}

/// The bytes of the ramdisks of a file.
pub fn ramdisks(file: &[u8]) -> Vec<Vec<u8>> {
    let eif = Eif::open(file).unwrap();
    let range =
        |section: &eif::eif::Section| section.data_offset() as usize..(section.data_offset() + section.size) as usize;
    eif.ramdisks().map(|section| file[range(section)].to_vec()).collect()
}

/// The entries of an archive, in the words of the golden files; the directories in `times` have no time.
pub fn listing(archive: &[u8], times: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut next = 0;
    loop {
        let at = next;
        let text = |field: usize| std::str::from_utf8(&archive[at + 6 + 8 * field..at + 14 + 8 * field]).unwrap();
        let number = |field: usize| i64::from_str_radix(text(field), 16).unwrap();
        let name = &archive[at + 110..at + 109 + number(11) as usize];
        let body = at + (110 + number(11) as usize).next_multiple_of(4);
        let bytes = &archive[body..body + number(6) as usize];
        next = body + bytes.len().next_multiple_of(4);
        let start = format!("{} ", number(0));
        if name == b"TRAILER!!!" {
            lines.push(format!("{start}TRAILER!!! end={}", archive.len()));
            assert!(archive[next..].iter().all(|byte| *byte == 0));
            return lines;
        }
        let shown = python(name);
        let mtime = if times.contains(&shown) { "*".to_owned() } else { number(5).to_string() };
        let rest = match number(1) & 0o170_000 {
            0o100_000 => format!(" {} {}", &eif_testdata::sha256(bytes)[..23], bytes.len()),
            0o120_000 => format!(" -> {}", python(bytes)),
            0o020_000 | 0o060_000 => format!(" dev {},{}", number(9), number(10)),
            _ => String::new(),
        };
        let (mode, uid, gid, nlink) = (number(1), number(2), number(3), number(4));
        lines.push(format!("{start}{mode:07o} {uid}:{gid} nlink={nlink} mtime={mtime} {shown}{rest}"));
    }
}

/// As Python shows bytes.
fn python(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b'\'' => "\\'".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(shown).collect()
}
