//! The sections of a file as files, whole or not at all. Their names are ours: nothing in the file has a say in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, rootfs};
use crate::Warning;
use crate::eif::{Eif, Kind, Section, Source};
use crate::initramfs::{Packing, Unpack};
use crate::output::Output;

/// What shall be extracted, and where to.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The folder for each section's bytes; it is made if it is not there.
    pub sections: Option<PathBuf>,
    /// The file for the application's tree as a tar.
    pub rootfs: Option<PathBuf>,
    /// Whether files that are there are replaced.
    pub force: bool,
}

/// What was extracted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The files, in file order.
    pub files: Vec<PathBuf>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Writes all files of a request; they appear together when the last one is whole.
///
/// # Errors
/// See [`Error`]. No file is left behind.
pub fn extract<S: Source>(eif: &Eif<S>, request: &Request) -> Result<Extracted, Error> {
    let mut extracted = Extracted::default();
    let mut targets: Vec<(PathBuf, Option<&Section>)> = Vec::new();
    if let Some(folder) = &request.sections {
        for section in eif.sections() {
            targets.push((folder.join(name(eif, section)?), Some(section)));
        }
    }
    targets.extend(request.rootfs.clone().map(|path| (path, None)));
    if !request.force
        && let Some((path, _)) = targets.iter().find(|(path, _)| fs::symlink_metadata(path).is_ok())
    {
        return Err(Error::Exists(path.clone()));
    }
    let made = request.sections.as_deref().map(make_folder).transpose()?.flatten();
    let written = write_all(eif, targets, &mut extracted);
    if let (Err(_), Some(made)) = (&written, made) {
        // Only what is empty goes: a failure to remove it says that somebody uses it.
        let _ = fs::remove_dir(made);
    }
    written.map(|()| extracted)
}

fn write_all<S: Source>(
    eif: &Eif<S>,
    targets: Vec<(PathBuf, Option<&Section>)>,
    extracted: &mut Extracted,
) -> Result<(), Error> {
    let mut outputs = Vec::new();
    for (path, section) in targets {
        let failed = |source| Error::Output { path: path.clone(), source };
        let mut output = Output::create(&path).map_err(failed)?;
        match section {
            Some(section) => {
                io::copy(&mut eif.read(section), &mut output).map_err(failed)?;
            }
            None => extracted.warnings.extend(rootfs(eif, &mut output)?),
        }
        outputs.push((path, output));
    }
    for (path, output) in outputs {
        output.persist().map_err(|source| Error::Output { path: path.clone(), source })?;
        extracted.files.push(path);
    }
    Ok(())
}

/// The folder if it was made here.
fn make_folder(folder: &Path) -> Result<Option<&Path>, Error> {
    if folder.is_dir() {
        return Ok(None);
    }
    fs::create_dir(folder).map_err(|source| Error::Output { path: folder.to_owned(), source })?;
    Ok(Some(folder))
}

/// `kernel`, `ramdisk1.cpio.gz`; what is there more often than it may be has its slot in its name.
fn name<S: Source>(eif: &Eif<S>, section: &Section) -> Result<String, Error> {
    let first = eif.section(section.kind) == Some(section);
    let once = |name: &str| if first { name.to_owned() } else { format!("section{}-{name}", section.slot) };
    Ok(match section.kind {
        Kind::Kernel => once("kernel"),
        Kind::Cmdline => once("cmdline"),
        Kind::Metadata => once("metadata.json"),
        Kind::Signature => once("signature.cbor"),
        Kind::Other(number) => format!("section{}-type{number}", section.slot),
        Kind::Ramdisk => {
            let number = eif.ramdisks().take_while(|ramdisk| *ramdisk != section).count() + 1;
            let suffix = match Unpack::new(eif.read(section))?.packing() {
                Packing::Plain => ".cpio".to_owned(),
                Packing::Gzip => ".cpio.gz".to_owned(),
                Packing::Zstd => ".cpio.zst".to_owned(),
                Packing::Foreign(name) => format!(".cpio.{name}"),
                Packing::Unknown => String::new(),
            };
            format!("ramdisk{number}{suffix}")
        }
    })
}
