//! The documents that lead to an image: indexes and manifests of OCI layouts, `manifest.json` of docker-archives.
//! Whatever they say, there is an answer; and an image that is given has a layer of the right digest for each diff_id.

use std::io::Read;
use std::path::Path;

use eif::image::{Error, Image};
use eif_testdata::{Files, sha256};

use super::config::replaced;
use super::steps;

/// So many documents are looked at.
const DOCUMENTS: usize = 6;

/// The bytes are documents with a NUL between them. The first is `index.json`, or, if it begins with `[`, a
/// docker-archive's `manifest.json`; the others are blobs, or the archive's files `1`, `2` and on. In each document
/// `DIGEST2` and `SIZE2` become those of the second one, and so on, if it stands behind.
pub fn manifest(bytes: &[u8]) -> Option<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let documents = documents(bytes);
    let (reference, files) = match documents[0].first() {
        Some(b'[') => ("docker-archive", archive(&documents)),
        _ => ("oci", layout(&documents)),
    };
    let place = folder.path().join("image");
    if reference == "oci" {
        files.write_dir(&place)
    } else {
        files.write_tar(&place)
    }
    let mut opened = None;
    for suffix in ["", ":a"] {
        let reference = format!("{reference}:{}{suffix}", place.display());
        if let Ok(image) = steps::named(&reference, folder.path()) {
            layers(&image, folder.path());
            opened = Some(());
        }
    }
    opened
}

/// Each layer is given whole or with a reason.
fn layers(image: &Image, folder: &Path) {
    for index in 0..image.layers().len() {
        let mut bytes = Vec::new();
        let Ok(reader) = image.open_layer(index) else { continue };
        match reader.take(1 << 20).read_to_end(&mut bytes) {
            Ok(_) => assert!(image.layer_label(index).contains(&format!("/{}", image.layers().len()))),
            Err(error) => assert!(!matches!(Error::from_io(error, ""), Error::Io { .. }), "the disk does not fail"),
        }
    }
    let _ = steps::load(image, folder);
}

/// The documents with digests and sizes filled in, the last ones first: a document names what stands behind it.
fn documents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = bytes.splitn(DOCUMENTS, |byte| *byte == 0).map(<[u8]>::to_vec).collect();
    for at in (0..all.len()).rev() {
        let (before, behind) = all.split_at_mut(at + 1);
        for (offset, document) in behind.iter().enumerate() {
            let number = at + 1 + offset;
            let digest = sha256(document);
            let filled = replaced(&before[at], format!("DIGEST{number}").as_bytes(), digest.as_bytes());
            before[at] = replaced(&filled, format!("SIZE{number}").as_bytes(), document.len().to_string().as_bytes());
        }
    }
    all
}

fn layout(documents: &[Vec<u8>]) -> Files {
    let mut files = Files::new();
    files.put("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).put("index.json", documents[0].clone());
    for document in &documents[1..] {
        files.put(format!("blobs/{}", sha256(document).replace(':', "/")), document.clone());
    }
    files
}

fn archive(documents: &[Vec<u8>]) -> Files {
    let mut files = Files::new();
    for (number, document) in documents.iter().enumerate() {
        let name = if number == 0 { "manifest.json".to_owned() } else { number.to_string() };
        files.put(name, document.clone());
    }
    files
}
