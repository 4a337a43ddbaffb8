//! The image's configuration. What is accepted becomes a process, and the record of it in the ramdisk is read back as
//! that process.

use eif::eif::Eif;
use eif::rootfs::{self, Overrides};
use eif::verify;
use eif_testdata::{Files, Image, layers, sha256};
use serde_json::json;

use super::steps;

/// What stands for the digest of the one layer.
const LAYER: &[u8] = b"LAYER";

/// The bytes are the configuration as JSON; `LAYER` in it becomes the digest of the layer that there is.
pub fn config(bytes: &[u8]) -> Option<()> {
    let base = layers! {
        r"f 0644 0:0 etc/passwd root:x:0:0:root:/root:/bin/sh\na:x:7:8::/home/a:/bin/sh\n4:x:9:9\n",
        r"f 0644 0:0 etc/group root:x:0:\nb:x:10:a,c\nc:x:11:a\n",
        "f 0755 0:0 bin/a", "f 0644 0:0 file", "l 0777 0:0 link -> bin",
    };
    let image = Image::new(base);
    let config = replaced(bytes, LAYER, image.diff_ids()[0].as_bytes());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = steps::open(&files(&image, config), folder.path()).ok()?;
    let mut loaded = steps::load(&image, folder.path()).ok()?;
    let resolved = rootfs::resolve(&image.config, &Overrides::default(), &mut loaded.tree, &loaded.spools);
    let (process, _) = resolved.ok()?;
    assert!(process.cwd.starts_with('/') && !process.argv.is_empty());
    let (ramdisk, _) = steps::ramdisk(&loaded, &process);
    let file = steps::file(&[b"", &ramdisk]);
    let inspection = verify::inspect(&Eif::open(&file[..]).expect("a file of ours"), 1).expect("memory");
    assert_eq!(inspection.process, Some(process));
    Some(())
}

/// The layout of an image with another configuration.
fn files(image: &Image, config: Vec<u8>) -> Files {
    let layer = &image.layer_blobs()[0];
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": image.flavour.config(), "digest": sha256(&config), "size": config.len() },
        "layers": [layer.descriptor()],
    });
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": image.flavour.manifest(), "digest": sha256(&manifest), "size": manifest.len() }],
    });
    let mut files = Files::new();
    files.put("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).put("index.json", index.to_string());
    for blob in [&manifest, &config, &layer.bytes] {
        files.put(format!("blobs/{}", sha256(blob).replace(':', "/")), blob.clone());
    }
    files
}

/// The bytes with every `from` as `to`.
pub(super) fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        match rest.strip_prefix(from) {
            Some(behind) => {
                out.extend_from_slice(to);
                rest = behind;
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}
