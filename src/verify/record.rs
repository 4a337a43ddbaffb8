//! A file held against its own record: what the record says of the parts must be what the parts are.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io;

use serde_json::Value;

use super::compare::Difference;
use super::contents::open;
use super::index::Index;
use super::inspection::process_of;
use super::{Error, Undecided, remeasure};
use crate::build::{Module, Profile, Record};
use crate::eif::{Eif, Kind, Metadata, Source};
use crate::escaped;
use crate::image::Digest;

/// What the metadata say of the build.
pub(super) enum Read {
    /// A record of ours, of which nothing but itself is known yet.
    Own(Box<(Metadata, Record)>),
    /// They are nitro-cli's.
    NitroCli(Box<Metadata>),
    /// Too little.
    Nothing(Undecided),
}

/// Looks into the metadata.
pub(super) fn read<S: Source>(eif: &Eif<S>) -> Result<Read, Error> {
    let nothing = |why: String| Ok(Read::Nothing(Undecided::NoRecord { why }));
    let Some(metadata) = eif.metadata()? else { return nothing("it has no metadata section".to_owned()) };
    if remeasure::made(&metadata) {
        return Ok(Read::NitroCli(Box::new(metadata)));
    }
    let Some(value) = metadata.record() else {
        let tool = format!("{} {}", metadata.build.tool, metadata.build.tool_version);
        return nothing(format!("it was made by {tool}, which leaves none"));
    };
    match serde_json::from_value(value.clone()) {
        Ok(record) => Ok(Read::Own(Box::new((metadata, record)))),
        Err(error) => {
            let version = value.get("version").and_then(Value::as_str).unwrap_or("unknown");
            nothing(format!("the record of eif {version} is not one that this version reads: {error}"))
        }
    }
}

/// Each fact of the record that the file's parts contradict: `a` is what is in the file, `b` what the record says.
///
/// # Errors
/// The file cannot be read. A part that is broken contradicts what the record says of it.
pub(super) fn contradictions<S: Source>(
    eif: &Eif<S>,
    metadata: &Metadata,
    record: &Record,
) -> Result<Vec<Difference>, Error> {
    let mut found = Vec::new();
    let mut compare = |field: &str, file: String, says: String| {
        if file != says {
            found.push(Difference::new("record", field, Some(file), Some(says)));
        }
    };
    compare("version", metadata.build.tool_version.clone(), record.version.clone());
    compare("platform", eif.arch().oci_name().to_owned(), record.platform.arch.oci_name().to_owned());
    compare("cmdline", escaped(&eif.cmdline()?), escaped(record.cmdline.as_bytes()));
    compare("kernel_sha256", kernel_sha256(eif)?, record.kernel_sha256.clone());
    for packing in packings(eif)? {
        compare("compress", packing.to_owned(), record.compress.name().to_owned());
    }
    let (init, modules) = boot_files(eif)?;
    compare("init_sha256", init, record.init_sha256.clone());
    compare("modules", json(&modules), json(&record.modules));
    let (process, is_ours) = process_of(eif)?;
    let profile = if is_ours { Profile::Eif } else { Profile::NitroCli };
    compare("profile", json(&profile), json(&record.profile));
    let process = process.and_then(|process| serde_json::to_value(process).ok()).unwrap_or_default();
    let recorded = serde_json::to_value(&record.process).unwrap_or_default();
    for (field, says) in recorded.as_object().into_iter().flatten() {
        compare(&format!("process.{field}"), json(&process.get(field)), says.to_string());
    }
    Ok(found)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// SHA-256 in hex of the kernel section's data; of nothing, if there is none.
pub(super) fn kernel_sha256<S: Source>(eif: &Eif<S>) -> io::Result<String> {
    let Some(section) = eif.section(Kind::Kernel) else { return Ok(String::new()) };
    Digest::of_reader(&mut eif.read(section)).map(|digest| digest.hex())
}

/// What the ramdisks are packed with, in the record's words.
fn packings<S: Source>(eif: &Eif<S>) -> Result<Vec<&'static str>, Error> {
    let mut names = Vec::new();
    for section in eif.ramdisks() {
        let (packing, _) = open(eif, section)?;
        names.push(if packing.name() == "cpio" { "none" } else { packing.name() });
    }
    Ok(names)
}

/// SHA-256 in hex of the init in ramdisk 1, and its other files; in place of the hash why there is none.
fn boot_files<S: Source>(eif: &Eif<S>) -> Result<(String, Vec<Module>), Error> {
    let index = match Index::ramdisk(eif, 1) {
        Ok(index) => index,
        Err(error @ (Error::Ramdisk { .. } | Error::Format { .. })) => return Ok((error.to_string(), Vec::new())),
        Err(error) => return Err(error),
    };
    let mut init = "no init in ramdisk 1".to_owned();
    let mut modules = Vec::new();
    for (path, node) in &index.nodes {
        match (node.sha256(), path.as_slice()) {
            (Some(sha256), b"init") => init = sha256,
            (Some(sha256), path) => modules.push(Module { name: escaped(path), sha256 }),
            (None, _) => {}
        }
    }
    Ok((init, modules))
}
