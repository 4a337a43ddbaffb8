//! An `.eif` in a registry: an OCI artifact whose manifest names what the file measures to. What is pushed and what is
//! pulled is held against the file itself, so neither a tag nor an annotation is believed.
//!
//! The form (docs/artifact.md): an image manifest (image-spec 1.1) with `artifactType` [`EIF`], the empty config, the
//! file as first layer, the lock and the provenance as further ones, each with its file's name as title. It has no time
//! in it: the same files give the same digest.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::build::lock::{self, Pcrs};
use crate::build::{Lock, provenance};
use crate::eif::{self, Eif, Measurements, metadata};
use crate::image::{self, Access, Blob, Content, Digest, Name, Repository};
use crate::output::Output;
use crate::{Progress, Refusal, Warning, escaped};

/// The type of the artifact, and of the layer that is the file; others push their `.eif` with it too.
pub const EIF: &str = "application/vnd.aws.nitro.eif";
/// The layer that is a lock.
pub const LOCK: &str = "application/vnd.eif.lock.v1+json";
/// The layer that is a statement of where the file comes from.
pub const PROVENANCE: &str = "application/vnd.in-toto+json";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The config of what needs none (image-spec, "Guidance for an Empty Descriptor").
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");
const TITLE: &str = "org.opencontainers.image.title";
/// A lock or a statement may be this large, in bytes.
const LIMIT: u64 = 4 << 20;

/// The files beside the `.eif`: what is pushed with it, or where it goes when it is pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// The lock.
    pub lock: Option<PathBuf>,
    /// The statement.
    pub provenance: Option<PathBuf>,
}

/// What went to a registry, or came from there.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The name with the digest of the manifest: it names these bytes for ever.
    pub reference: String,
    /// Of the manifest.
    pub digest: Digest,
    /// Of the file.
    pub file: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// What the file measures to.
    pub measurements: Measurements,
    /// Whether the registry has anything that it had not.
    pub new: bool,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Why nothing was pushed or pulled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry, or the way to it, or the store.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The file is no enclave image.
    #[error("{what}: {source}")]
    Eif {
        /// The file, or the name.
        what: String,
        /// What is wrong with it.
        source: eif::Error,
    },
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Something says of the file what it does not measure to.
    #[error("{what} has {register} {said}, the file measures to {measured}")]
    Pcr {
        /// The manifest, or the lock.
        what: String,
        /// `PCR0`, …
        register: &'static str,
        /// What is said.
        said: String,
        /// What is so; `nothing` of a register that the file does not set.
        measured: String,
    },
    /// A statement about another file.
    #[error("{what} is no in-toto statement about the file with SHA-256 {}", .file.hex())]
    Provenance {
        /// The statement.
        what: String,
        /// The file.
        file: Digest,
    },
    /// What the name leads to is no enclave image.
    #[error("{what}: {why}")]
    NotAnEif {
        /// The name.
        what: String,
        /// What it is instead.
        why: String,
    },
    /// The artifact does not have what is asked for.
    #[error("{what} has no {part} attached")]
    NotAttached {
        /// The name.
        what: String,
        /// Lock or provenance.
        part: &'static str,
    },
    /// The user names a digest that the manifest does not have.
    #[error("the manifest has the digest {got}, the name says {want}")]
    Pinned {
        /// From the name.
        want: Digest,
        /// The manifest's.
        got: Digest,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Image(error) => error.code(),
            Error::Lock(error) => error.code(),
            Error::Eif { source, .. } => source.code(),
            Error::Read { .. } => "E-io",
            Error::Write { .. } => "E-output",
            Error::Pcr { .. } => "E-pcr-mismatch",
            Error::Provenance { .. } => "E-provenance",
            Error::NotAnEif { .. } => "E-not-an-eif",
            Error::NotAttached { .. } => "E-not-attached",
            Error::Pinned { .. } => "E-digest",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Image(error) => return error.help(),
            Error::Lock(error) => return error.help(),
            Error::Eif { source, .. } => return source.help(),
            Error::Read { .. } => "check the path",
            Error::Write { .. } => "check that the folder exists, may be written to and has room",
            Error::Pcr { .. } => "one of the two was changed or belongs to another file; trust neither",
            Error::Provenance { .. } => "`eif build … --provenance FILE` writes the one of the file that it builds",
            Error::NotAnEif { .. } => "`eif push FILE docker://NAME` puts an .eif there; images are for `eif build`",
            Error::NotAttached { .. } => "pull without it; `eif push` attaches what --lock and --provenance name",
            Error::Pinned { .. } => "push to a tag, or without a digest",
        };
        vec![line.to_owned()]
    }
}

/// Pushes `file` under `name`. The manifest, and with it the tag, comes last: of a push that ends before its end no
/// name shows anything.
///
/// # Errors
/// See [`Error`]; nothing is sent unless the file can be measured and what is attached speaks of it.
pub fn push(
    path: &Path,
    name: &Name,
    attached: &Attached,
    access: &Access,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Artifact, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let (measurements, digest) = measured(&file, &path.display().to_string(), threads)?;
    let mut layers = vec![Layer::new(EIF, digest, size, title(path))];
    let mut further = Vec::new();
    if let Some(path) = &attached.lock {
        further.push((LOCK, path, lock_bytes(path, &measurements)?));
    }
    if let Some(path) = &attached.provenance {
        further.push((PROVENANCE, path, statement_bytes(path, &digest)?));
    }
    for (kind, path, bytes) in &further {
        layers.push(Layer::new(kind, Digest::of(bytes), bytes.len() as u64, title(path)));
    }
    let manifest = manifest(&layers, &measurements);
    let got = Digest::of(&manifest);
    if let Some(want) = name.digest.filter(|want| *want != got) {
        return Err(Error::Pinned { want, got });
    }
    let repository = Repository::to_push(name, access)?;
    let small =
        |what: &str, bytes: &[u8]| Blob { digest: Digest::of(bytes), size: bytes.len() as u64, what: what.to_owned() };
    let whole = Blob { digest, size, what: format!("{} ({})", title(path), digest.short()) };
    let mut new = repository.push_blob(&small("the empty config", EMPTY.1), &Content::Bytes(EMPTY.1), progress)?;
    for (_, path, bytes) in &further {
        new |= repository.push_blob(&small(&title(path), bytes), &Content::Bytes(bytes), progress)?;
    }
    new |= repository.push_blob(&whole, &Content::File { file: &file, size }, progress)?;
    new |= repository.push_manifest(&manifest, MANIFEST, progress)?;
    let reference = name.pinned(&got);
    Ok(Artifact { reference, digest: got, file: digest, size, measurements, new, warnings: Vec::new() })
}

/// Pulls what `name` leads to and writes it to `target`. All files appear when all is checked, or none does.
///
/// # Errors
/// See [`Error`].
pub fn pull(
    name: &Name,
    target: &Path,
    attached: &Attached,
    access: &Access,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Artifact, Error> {
    let what = name.to_string();
    let mut output = create(target)?;
    let lock = attached.lock.as_deref().map(|path| create(path).map(|output| (path, output))).transpose()?;
    let statement = attached.provenance.as_deref().map(|path| create(path).map(|output| (path, output))).transpose()?;
    let repository = Repository::to_pull(name, access)?;
    let (digest, bytes) = repository.manifest()?;
    let manifest = Manifest::read(&bytes, &what)?;
    let eif = manifest.eif(&what)?;
    let lock = lock.map(|output| Ok::<_, Error>((output, manifest.attached(LOCK, "lock", &what)?))).transpose()?;
    let statement = statement
        .map(|output| Ok::<_, Error>((output, manifest.attached(PROVENANCE, "provenance", &what)?)))
        .transpose()?;
    let further = [&lock, &statement].into_iter().flatten().map(|(_, blob)| blob.clone());
    repository.fetch(&further.chain([eif.clone()]).collect::<Vec<_>>(), progress)?;
    copy(&repository, &eif, (target, &mut output), progress)?;
    let (measurements, _) = measured(output.file(), &what, threads)?;
    let mut warnings = manifest.check(&measurements, &what)?;
    let mut outputs = vec![(target, output)];
    if let Some(((path, mut output), blob)) = lock {
        copy(&repository, &blob, (path, &mut output), progress)?;
        check_lock(&Lock::parse(&all(&mut output, path)?, path)?, &blob.what, &measurements)?;
        outputs.push((path, output));
    }
    if let Some(((path, mut output), blob)) = statement {
        copy(&repository, &blob, (path, &mut output), progress)?;
        if !provenance::is_about(&all(&mut output, path)?, &eif.digest) {
            return Err(Error::Provenance { what: blob.what, file: eif.digest });
        }
        outputs.push((path, output));
    }
    for (path, output) in outputs {
        output.persist().map_err(|source| Error::Write { path: path.to_owned(), source })?;
    }
    let trimmed = access.store.trim();
    warnings.extend(trimmed.err().map(|error| Warning::new("W-store", error.to_string())));
    let reference = name.pinned(&digest);
    Ok(Artifact { reference, digest, file: eif.digest, size: eif.size, measurements, new: true, warnings })
}

/// What a file measures to, and its SHA-256. A file that readers may see differently is refused.
fn measured(file: &File, what: &str, threads: usize) -> Result<(Measurements, Digest), Error> {
    let broken = |source| Error::Eif { what: what.to_owned(), source };
    let read = |source| Error::Read { path: PathBuf::from(what), source };
    let eif = Eif::open(file.try_clone().map_err(read)?).map_err(broken)?;
    let measurements = eif.measure(threads).map_err(broken)?;
    let mut file = file;
    file.rewind().map_err(read)?;
    Ok((measurements, Digest::of_reader(&mut file).map_err(read)?))
}

fn title(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn create(path: &Path) -> Result<Output, Error> {
    Output::create(path).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// A small file, whole.
fn small(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(LIMIT.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(failed(io::Error::other(format!("more than {} MiB", LIMIT >> 20))));
    }
    Ok(bytes)
}

fn lock_bytes(path: &Path, measured: &Measurements) -> Result<Vec<u8>, Error> {
    let bytes = small(path)?;
    check_lock(&Lock::parse(&bytes, path)?, &path.display().to_string(), measured)?;
    Ok(bytes)
}

fn statement_bytes(path: &Path, file: &Digest) -> Result<Vec<u8>, Error> {
    let bytes = small(path)?;
    match provenance::is_about(&bytes, file) {
        true => Ok(bytes),
        false => Err(Error::Provenance { what: path.display().to_string(), file: *file }),
    }
}

fn check_lock(lock: &Lock, what: &str, measured: &Measurements) -> Result<(), Error> {
    let Pcrs { pcr0, pcr1, pcr2 } = lock.measurements;
    let said = [("PCR0", pcr0, measured.pcr0), ("PCR1", pcr1, measured.pcr1), ("PCR2", pcr2, measured.pcr2)];
    match said.into_iter().find(|(_, said, measured)| said != measured) {
        Some((register, said, measured)) => {
            Err(Error::Pcr { what: what.to_owned(), register, said: said.to_string(), measured: measured.to_string() })
        }
        None => Ok(()),
    }
}

/// Writes a fetched blob. What the disk has damaged since it was fetched is fetched again, once.
fn copy(
    repository: &Repository,
    blob: &Blob,
    (path, output): (&Path, &mut Output),
    progress: &dyn Progress,
) -> Result<(), Error> {
    let failed = |source: io::Error| match source.downcast::<image::Error>() {
        Ok(error) => Error::Image(error),
        Err(source) => Error::Write { path: path.to_owned(), source },
    };
    let first = io::copy(&mut repository.open(blob)?, output).map_err(failed);
    if !matches!(first, Err(Error::Image(_))) {
        return first.map(drop);
    }
    repository.fetch_again(blob, progress)?;
    output.rewind().and_then(|()| output.file().set_len(0)).map_err(failed)?;
    io::copy(&mut repository.open(blob)?, output).map_err(failed).map(drop)
}

fn all(output: &mut Output, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    output.rewind().map_err(failed)?;
    output.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A layer of the manifest (image-spec, descriptor.md).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Layer {
    fn new(kind: &str, digest: Digest, size: u64, title: String) -> Self {
        let annotations = BTreeMap::from([(TITLE.to_owned(), title)]);
        Self { media_type: kind.to_owned(), digest: digest.to_string(), size, annotations }
    }

    fn blob(&self, what: &str) -> Result<Blob, Error> {
        let digest: Digest = self.digest.parse()?;
        Ok(Blob { digest, size: self.size, what: format!("{what} ({})", digest.short()) })
    }
}

fn manifest(layers: &[Layer], measured: &Measurements) -> Vec<u8> {
    let annotations: BTreeMap<&str, String> =
        measured.named().into_iter().map(|(name, pcr)| (name, pcr.to_string())).collect();
    let config = json!({ "mediaType": EMPTY.0, "digest": Digest::of(EMPTY.1), "size": EMPTY.1.len(), "data": "e30=" });
    let value = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": EIF,
        "config": config,
        "layers": layers,
        "annotations": annotations,
    });
    // Strings, numbers and objects with string keys always serialise.
    serde_json::to_vec(&metadata::sorted(value)).unwrap_or_default()
}

/// What of a manifest counts here.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    fn read(bytes: &[u8], what: &str) -> Result<Self, Error> {
        let why = |error: serde_json::Error| Error::NotAnEif { what: what.to_owned(), why: error.to_string() };
        serde_json::from_slice(bytes).map_err(why)
    }

    fn of_kind(&self, kind: &str) -> Vec<&Layer> {
        self.layers.iter().filter(|layer| layer.media_type == kind).collect()
    }

    fn eif(&self, what: &str) -> Result<Blob, Error> {
        let refuse = |why: String| Err(Error::NotAnEif { what: what.to_owned(), why });
        match self.of_kind(EIF).as_slice() {
            [one] => one.blob("the .eif"),
            [] => {
                let kinds: Vec<&str> = self.layers.iter().map(|layer| layer.media_type.as_str()).take(3).collect();
                let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
                refuse(format!("no layer of the type {EIF}, but {}", escaped(kinds.as_bytes())))
            }
            several => refuse(format!("{} layers of the type {EIF}, so it names no file", several.len())),
        }
    }

    fn attached(&self, kind: &str, part: &'static str, what: &str) -> Result<Blob, Error> {
        let Some(layer) = self.of_kind(kind).into_iter().next() else {
            return Err(Error::NotAttached { what: what.to_owned(), part });
        };
        if layer.size > LIMIT {
            let why = format!("the {part} has {} bytes, the limit is {LIMIT}", layer.size);
            return Err(Error::NotAnEif { what: what.to_owned(), why });
        }
        layer.blob(&format!("the {part}"))
    }

    /// Holds what the manifest says against what the file measures to.
    fn check(&self, measured: &Measurements, what: &str) -> Result<Vec<Warning>, Error> {
        let named = measured.named();
        let mut silent = Vec::new();
        for register in ["PCR0", "PCR1", "PCR2", "PCR8"] {
            let measured = named.iter().find(|(name, _)| *name == register).map(|(_, pcr)| pcr.to_string());
            match self.annotations.get(register) {
                Some(said) if Some(said) != measured.as_ref() => {
                    return Err(Error::Pcr {
                        what: format!("the manifest of {what}"),
                        register,
                        said: escaped(said.chars().take(96).collect::<String>().as_bytes()),
                        measured: measured.unwrap_or_else(|| "nothing".to_owned()),
                    });
                }
                None if measured.is_some() => silent.push(register),
                _ => {}
            }
        }
        let text = format!("the manifest of {what} does not name {}; the file alone says so", silent.join(", "));
        Ok(if silent.is_empty() { Vec::new() } else { vec![Warning::new("W-no-pcrs", text)] })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::eif::Pcr;

    fn measured(pcr8: Option<Pcr>) -> Measurements {
        Measurements { pcr0: Pcr([0; 48]), pcr1: Pcr([1; 48]), pcr2: Pcr([2; 48]), pcr8 }
    }

    /// The empty config's digest is the specification's own.
    #[test]
    fn a_manifest_is_stable_json_without_a_time() {
        let layers = [Layer::new(EIF, Digest::of(b"x"), 1, "app.eif".to_owned())];
        let text = String::from_utf8(manifest(&layers, &measured(Some(Pcr([8; 48]))))).unwrap();
        let begin = format!(r#"{{"annotations":{{"PCR0":"{}","PCR1":"{}""#, "00".repeat(48), "01".repeat(48));
        assert!(text.starts_with(&begin), "{text}");
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let config = format!(r#""config":{{"data":"e30=","digest":"{empty}","mediaType":"{}","size":2}}"#, EMPTY.0);
        assert!(text.contains(&config) && text.contains(r#""PCR8":"0808"#), "{text}");
        let read = Manifest::read(text.as_bytes(), "x").unwrap();
        assert_eq!(read.eif("x").unwrap().digest, Digest::of(b"x"));
        assert!(read.check(&measured(Some(Pcr([8; 48]))), "x").unwrap().is_empty());
        for other in [None, Some(Pcr([9; 48]))] {
            assert!(matches!(read.check(&measured(other), "x"), Err(Error::Pcr { register: "PCR8", .. })));
        }
    }

    proptest! {
        #[test]
        fn prop_any_manifest_is_read_or_refused(digest in "(sha256:)?[0-9a-f]{0,64}", size: u64, said in "[ -~]{0,100}") {
            let text = json!({ "layers": [{ "mediaType": EIF, "digest": digest, "size": size }],
                "annotations": { "PCR1": said } }).to_string();
            let manifest = Manifest::read(text.as_bytes(), "x").unwrap();
            prop_assert_eq!(manifest.eif("x").is_ok(), digest.parse::<Digest>().is_ok());
            prop_assert_eq!(manifest.check(&measured(None), "x").is_ok(), said == "01".repeat(48));
            for end in 0..text.len() {
                prop_assert!(Manifest::read(&text.as_bytes()[..end], "x").is_err());
            }
        }
    }
}
