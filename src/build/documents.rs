//! What a build may write beside the file: its provenance, all its facts, and the image's own bill of materials.

use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Plan, Report, provenance};
use crate::Refusal;
use crate::eif::metadata::{self, rfc3339};
use crate::image::Digest;
use crate::output::Output;

/// The form of the report that this version writes.
const VERSION: u64 = 1;

/// What is to be written, and what of it no build knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// The image as the user named it.
    pub reference: String,
    /// When the image was asked for, in seconds since 1970, where it came from elsewhere.
    pub pulled: Option<u64>,
    /// Where an in-toto statement goes.
    pub provenance: Option<PathBuf>,
    /// Where all facts go.
    pub report: Option<PathBuf>,
    /// Where the image's own SBOM goes.
    pub sbom: Option<PathBuf>,
}

/// A document that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct Error {
    /// Which one.
    pub path: PathBuf,
    /// The operating system's reason.
    pub source: io::Error,
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        "E-output"
    }

    fn help(&self) -> Vec<String> {
        vec!["check that the folder exists, may be written to and has room".to_owned()]
    }
}

/// One document: where it goes, and the file that becomes it.
type Pending = Option<(PathBuf, Output)>;

/// The documents of a build that has begun: that they cannot be written is found before anything is built.
pub(super) struct Begun {
    provenance: Pending,
    report: Pending,
    sbom: Pending,
}

impl Begun {
    pub(super) fn new(documents: &Documents) -> Result<Self, Error> {
        Ok(Self {
            provenance: begin(documents.provenance.as_deref())?,
            report: begin(documents.report.as_deref())?,
            sbom: begin(documents.sbom.as_deref())?,
        })
    }

    /// Writes all of them but their names. `target` is the name that `file` gets.
    pub(super) fn settle(
        &mut self,
        plan: &Plan,
        (target, file): (&Path, &mut Output),
        report: &Report,
    ) -> Result<(), Error> {
        if let Some(sbom) = &report.sbom {
            write(&mut self.sbom, sbom)?;
        }
        if self.provenance.is_none() && self.report.is_none() {
            return Ok(());
        }
        let digest = file
            .rewind()
            .and_then(|()| Digest::of_reader(file))
            .map_err(|source| Error { path: target.to_owned(), source })?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        write(&mut self.provenance, pretty(&provenance::statement(plan, (&name, &digest), report)).as_bytes())?;
        write(&mut self.report, pretty(&facts(plan, (&name, &digest), report)).as_bytes())
    }

    /// Gives them their names.
    pub(super) fn persist(self) -> Result<(), Error> {
        for (path, output) in [self.provenance, self.report, self.sbom].into_iter().flatten() {
            output.persist().map_err(|source| Error { path, source })?;
        }
        Ok(())
    }
}

fn begin(path: Option<&Path>) -> Result<Pending, Error> {
    let begin = |path: &Path| match Output::create(path) {
        Ok(output) => Ok((path.to_owned(), output)),
        Err(source) => Err(Error { path: path.to_owned(), source }),
    };
    path.map(begin).transpose()
}

fn write(pending: &mut Pending, bytes: &[u8]) -> Result<(), Error> {
    let Some((path, output)) = pending else { return Ok(()) };
    output.write_all(bytes).map_err(|source| Error { path: path.clone(), source })
}

fn pretty(value: &Value) -> String {
    // The alternate form is serde_json's pretty one, two spaces deep.
    format!("{value:#}\n")
}

/// The report: what stands in the lock, what was measured and weighed, and what was warned of.
fn facts(plan: &Plan, (name, digest): (&str, &Digest), report: &Report) -> Value {
    let [first, second] = report.ramdisks;
    let ramdisk = |size, entries| json!({ "entries": entries, "size": size });
    let warning = |warning: &crate::Warning| json!({ "code": warning.code, "message": warning.message });
    metadata::sorted(json!({
        "report": VERSION,
        "reference": plan.documents.reference,
        "pinned_reference": report.pin,
        "manifest_digest": report.manifest,
        "pulled": plan.documents.pulled.and_then(|time| rfc3339(time).ok()),
        "file": { "name": name, "sha256": digest.hex(), "size": report.size },
        "Measurements": report.measurements,
        "record": report.record,
        "kernel": { "lock_id": report.kernel_lock_id, "size": report.kernel },
        "init": { "toolchain": report.toolchain },
        "ramdisks": [ramdisk(first, report.entries[0]), ramdisk(second, report.entries[1])],
        "unpacked": { "bytes": report.unpacked, "inodes": report.inodes },
        "memory_mib": report.memory,
        "memory_mib_ramfs": report.memory_ramfs,
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
    }))
}
