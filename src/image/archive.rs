//! Images in a tar: docker-archive (`docker save`) and oci-archive.
//!
//! The tar is indexed once (names to offsets) and then read by offset, so the order of its members does not matter.
//! The `tar` crate reads the outer archive: its members' bytes are verified by digest, so where a crafted header could
//! make two readers disagree, the digest decides.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;

use super::config::Parsed;
use super::manifest::{self, json, named, words};
use super::{
    Compression, Digest, Error, File, Files, Image, JSON_LIMIT, Layer, Name, Origin, Platform, Selector, Verified,
};
use crate::chunk::{CHUNK, Chunk};

/// Members of an archive; one image has a few per layer.
const MEMBER_LIMIT: usize = 100_000;
/// Headers and long names of all members, in bytes.
const INDEX_LIMIT: u64 = 128 << 20;
/// Links to links inside an archive.
const LINK_DEPTH: usize = 8;

/// Where a member's bytes are.
enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

/// An indexed tar.
pub(super) struct Archive {
    file: fs::File,
    label: String,
    members: BTreeMap<String, Member>,
}

impl Archive {
    /// Opens and indexes a tar, plain or in gzip or zstd; `-` is stdin. What cannot be sought in is spooled to
    /// `scratch`, at most `limit` bytes of it.
    pub(super) fn open(path: &Path, scratch: &Path, limit: u64) -> Result<Self, Error> {
        let label = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
        let io = |source| Error::Io { what: label.clone(), source };
        let spool = Spool { scratch, limit, label: &label };
        let mut file = spool.open(path)?;
        let mut magic = [0; 6];
        let count = file.read_at(&mut magic, 0).map_err(io)?;
        match Compression::of(magic.get(..count).unwrap_or_default()) {
            Ok(Compression::None) => {}
            Ok(packed) => file = spool.fill(&mut *packed.plain(BufReader::new(file)).map_err(io)?)?,
            Err(name) => {
                let why = format!("it is compressed with {name}; decompress it first");
                return Err(Error::NotAnImage { what: label, why });
            }
        }
        Self::indexed(file, label)
    }

    /// Indexes a plain tar that comes as a stream: it is spooled to `scratch`, at most `limit` bytes of it.
    pub(super) fn spool(reader: &mut dyn Read, label: String, scratch: &Path, limit: u64) -> Result<Self, Error> {
        let file = Spool { scratch, limit, label: &label }.fill(reader)?;
        Self::indexed(file, label)
    }

    fn indexed(mut file: fs::File, label: String) -> Result<Self, Error> {
        file.rewind().map_err(|source| Error::Io { what: label.clone(), source })?;
        let members = index(&file, &label)?;
        Ok(Self { file, label, members })
    }

    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn is_layout(&self) -> bool {
        self.has("oci-layout") && self.has("index.json")
    }
}

/// Where streams go that cannot be read by offset.
pub(super) struct Spool<'a> {
    /// The folder of temporary files.
    pub(super) scratch: &'a Path,
    /// Bytes that they may have.
    pub(super) limit: u64,
    /// The stream's name in messages.
    pub(super) label: &'a str,
}

impl Spool<'_> {
    /// The file at `path`, or stdin for `-`, as one that can be read by offset.
    pub(super) fn open(&self, path: &Path) -> Result<fs::File, Error> {
        if path.as_os_str() == "-" { self.fill(&mut io::stdin().lock()) } else { self.regular(path) }
    }

    /// A file that can be read by offset: the file itself, or the spooled bytes of a pipe.
    fn regular(&self, path: &Path) -> Result<fs::File, Error> {
        let io = |source| Error::Io { what: self.label.to_owned(), source };
        let mut file = fs::File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(io(io::Error::other("a directory, not an archive")));
        }
        if metadata.is_file() { Ok(file) } else { self.fill(&mut file) }
    }

    /// Copies a stream to an unnamed temporary file.
    fn fill(&self, reader: &mut dyn Read) -> Result<fs::File, Error> {
        let spool = |source| Error::Io { what: format!("temporary file in `{}`", self.scratch.display()), source };
        let mut file = tempfile::tempfile_in(self.scratch).map_err(spool)?;
        let mut chunk = Chunk::new();
        let mut left = self.limit;
        loop {
            chunk.clear();
            let count = match chunk.fill(reader, CHUNK) {
                Ok(0) => return file.rewind().map_err(spool).map(|()| file),
                Ok(count) => count,
                Err(error) => match error.downcast::<Error>() {
                    Ok(refusal) => return Err(refusal),
                    Err(error) => {
                        let why = format!("the archive cannot be read to its end: {error}");
                        return Err(Error::NotAnImage { what: self.label.to_owned(), why });
                    }
                },
            };
            let too_large = || Error::TooLarge { what: self.label.to_owned(), limit: self.limit };
            left = left.checked_sub(count as u64).ok_or_else(too_large)?;
            file.write_all(&chunk).map_err(spool)?;
        }
    }
}

/// Lets the index of an archive be read, headers and long names: a name without an end would be held in memory.
struct Frugal<'a> {
    file: &'a fs::File,
    left: u64,
}

impl Read for Frugal<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

impl Seek for Frugal<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A header's size, in bytes.
const BLOCK: u64 = 512;

/// Why a file cannot be read as a tar. The words of the `tar` crate are not repeated: they quote what the file has where
/// a tar has a name, and a wrong path may be that of a key.
fn no_tar(mut file: &fs::File, error: &io::Error) -> String {
    let at = file.stream_position().map(|at| at.saturating_sub(BLOCK)).unwrap_or_default();
    match error.kind() {
        _ if error.raw_os_error().is_some() => format!("it cannot be read: {error}"),
        io::ErrorKind::FileTooLarge => format!("its tar headers have more than {INDEX_LIMIT} bytes"),
        _ => format!("it is no tar, or is damaged: there is no header of a tar near byte {at}"),
    }
}

fn index(file: &fs::File, label: &str) -> Result<BTreeMap<String, Member>, Error> {
    let bad = |error: io::Error| Error::NotAnImage { what: label.to_owned(), why: no_tar(file, &error) };
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(Frugal { file, left: INDEX_LIMIT });
    for entry in archive.entries_with_seek().map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let name = clean(&entry.path_bytes());
        let member = if entry.header().entry_type().is_symlink() || entry.header().entry_type().is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = clean(&target);
            let absolute = entry.header().entry_type().is_hard_link();
            Member::Link(if absolute { target } else { beside(&name, &target) })
        } else if entry.header().entry_type().is_file() {
            Member::File { offset: entry.raw_file_position(), size: entry.size() }
        } else {
            continue;
        };
        members.insert(name, member);
        if members.len() > MEMBER_LIMIT {
            let why = format!("the archive has more than {MEMBER_LIMIT} members");
            return Err(Error::NotAnImage { what: label.to_owned(), why });
        }
    }
    Ok(members)
}

/// A member's name as it is looked up: no `./` before it.
fn clean(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.trim_start_matches("./").trim_start_matches('/').to_owned()
}

/// The name that a relative link of `name` leads to, without leaving the archive.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Files for Archive {
    fn open(&self, name: &str) -> Result<Option<File<'_>>, Error> {
        let mut name = clean(name.as_bytes());
        for _ in 0..LINK_DEPTH {
            match self.members.get(&name) {
                None => return Ok(None),
                Some(Member::File { offset, size }) => {
                    let bytes = Box::new(Range::new(&self.file, *offset, *size));
                    return Ok(Some(File { bytes, size: *size }));
                }
                Some(Member::Link(target)) => name.clone_from(target),
            }
        }
        let why = format!("the link `{name}` leads nowhere");
        Err(Error::NotAnImage { what: self.label.clone(), why })
    }
}

/// Reads a range of a file by offset, so that several threads can share the file. Where the archive is cut off it
/// ends early, and whoever checks the size says so.
pub(super) struct Range<F> {
    file: F,
    at: u64,
    left: u64,
}

impl<F: Borrow<fs::File>> Range<F> {
    /// `size` bytes from `offset`.
    pub(super) fn new(file: F, offset: u64, size: u64) -> Self {
        Self { file, at: offset, left: size }
    }

    /// Bytes of the range that have not been read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

impl<F: Borrow<fs::File>> Read for Range<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.borrow().read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Opens an image of an oci-archive.
pub(super) fn open_oci(archive: Archive, selector: &Selector, platform: &Platform) -> Result<Image, Error> {
    if !archive.is_layout() {
        let hint = if archive.has("manifest.json") { "; `docker-archive:` reads what `docker save` wrote" } else { "" };
        let why = format!("no `oci-layout` and `index.json` in it, so it is no OCI image layout{hint}");
        return Err(Error::NotAnImage { what: archive.label, why });
    }
    manifest::open(Box::new(archive), selector, platform)
}

/// One image in `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Opens an image of a docker-archive.
pub(super) fn open_docker(archive: Archive, name: Option<&str>, platform: &Platform) -> Result<Image, Error> {
    let saved = saved(&archive)?;
    let picked = pick(&saved, name, &archive.label)?;
    open_picked(archive, picked, platform)
}

/// Opens the one image of a docker-archive, which must be the one that an engine calls `id`: the digest of its config,
/// or that of its manifest or index where the engine keeps those.
pub(super) fn open_docker_id(archive: Archive, id: &Digest, platform: &Platform) -> Result<Image, Error> {
    if archive.is_layout() {
        let index: oci_spec::image::ImageIndex = json(&named(&archive, "index.json")?, "index.json")?;
        if index.manifests().iter().any(|entry| entry.digest().as_ref() == id.to_string()) {
            return manifest::open(Box::new(archive), &Selector::Digest(*id), platform);
        }
    }
    let saved = saved(&archive)?;
    let picked = pick(&saved, None, &archive.label)?;
    if config_digest(&picked.config) != Some(*id) {
        let why = format!("another image than {id} came: its config is `{}`", picked.config);
        return Err(Error::NotAnImage { what: archive.label, why });
    }
    open_picked(archive, picked, platform)
}

fn saved(archive: &Archive) -> Result<Vec<Saved>, Error> {
    if !archive.has("manifest.json") {
        let why = "no `manifest.json` in it, so it was not made by `docker save`".to_owned();
        return Err(Error::NotAnImage { what: archive.label.clone(), why });
    }
    json(&named(archive, "manifest.json")?, "manifest.json")
}

/// Docker 25 and later write an OCI layout too. Then that is read, because it has digests for the blobs; both name
/// the same config.
fn open_picked(archive: Archive, picked: &Saved, platform: &Platform) -> Result<Image, Error> {
    if archive.is_layout()
        && let Some(digest) = layout_digest(&archive, picked)?
    {
        return manifest::open(Box::new(archive), &Selector::Digest(digest), platform);
    }
    from_saved(archive, picked, platform)
}

/// The entry of `index.json` whose manifest has the config that `manifest.json` names; none when the archive has
/// several platforms or the two disagree on names.
fn layout_digest(archive: &Archive, saved: &Saved) -> Result<Option<Digest>, Error> {
    let index: oci_spec::image::ImageIndex = json(&named(archive, "index.json")?, "index.json")?;
    let mut seen = BTreeSet::new();
    for entry in index.manifests() {
        let Ok(digest) = entry.digest().as_ref().parse::<Digest>() else { continue };
        // An index may name one blob a million times.
        if !seen.insert(digest) {
            continue;
        }
        let name = manifest::blob_name(&digest);
        let Some(file) = archive.open(&name)? else { continue };
        if file.size > JSON_LIMIT {
            continue;
        }
        let value: serde_json::Value = json(&named(archive, &name)?, &name)?;
        let config = value.pointer("/config/digest").and_then(serde_json::Value::as_str).unwrap_or_default();
        if config.strip_prefix("sha256:").is_some_and(|hex| saved.config == format!("blobs/sha256/{hex}")) {
            return Ok(Some(digest));
        }
    }
    Ok(None)
}

fn pick<'a>(saved: &'a [Saved], name: Option<&str>, label: &str) -> Result<&'a Saved, Error> {
    let tags = |image: &'a Saved| image.repo_tags.as_deref().unwrap_or_default();
    let names = || {
        let all: Vec<&str> = saved.iter().flat_map(tags).map(String::as_str).collect();
        if all.is_empty() { "images without a name".to_owned() } else { all.join(", ") }
    };
    match (name, saved) {
        (_, []) => Err(Error::NotAnImage { what: label.to_owned(), why: "`manifest.json` lists no image".to_owned() }),
        (None, [only]) => Ok(only),
        (None, several) => Err(Error::Ambiguous { what: label.to_owned(), count: several.len(), names: names() }),
        (Some(wanted), several) => {
            let found = several.iter().find(|image| tags(image).iter().any(|tag| normal(tag) == normal(wanted)));
            found.ok_or_else(|| Error::NotFound { what: label.to_owned(), wanted: wanted.to_owned(), names: names() })
        }
    }
}

/// Docker's full form of a name: `x` is `docker.io/library/x:latest`. What is no name stands for itself.
fn normal(name: &str) -> String {
    Name::parse(name).map_or_else(|_| name.to_owned(), |name| name.to_string())
}

/// An image of `manifest.json` alone: its layers have no digest but the config's diff_ids.
fn from_saved(archive: Archive, saved: &Saved, platform: &Platform) -> Result<Image, Error> {
    let what = format!("config `{}`", saved.config);
    let bytes = config_bytes(&archive, &saved.config, &what)?;
    let config = Parsed::from_json(&bytes, &what)?;
    if !config.runs_on(platform) {
        let available = words(&config.os, &config.architecture, config.variant.as_deref());
        return Err(Error::NoPlatform { what: archive.label, wanted: platform.to_string(), available });
    }
    let names = saved.layers.as_deref().unwrap_or_default();
    let diff_ids = config.diff_ids()?;
    if names.len() != diff_ids.len() {
        return Err(Error::LayerCount { manifest: names.len(), config: diff_ids.len() });
    }
    let mut layers = Vec::new();
    for (index, (name, diff_id)) in names.iter().zip(diff_ids).enumerate() {
        if archive.open(name)?.is_none() {
            let what = format!("layer {}/{} (`{name}`)", index.saturating_add(1), names.len());
            return Err(Error::MissingBlob { what });
        }
        layers.push(Layer {
            name: name.clone(),
            blob: None,
            foreign: false,
            diff_id: Some(diff_id),
            compression: None,
        });
    }
    let config = config.into_config();
    let files = Box::new(archive);
    let origin = Origin::Image;
    Ok(Image {
        manifest_digest: None,
        platform: *platform,
        origin,
        config,
        pin: None,
        layers,
        attestations: Vec::new(),
        files,
        unpacked: None,
    })
}

/// The digest that a config's name in the archive is: `HEX.json`, or `blobs/sha256/HEX`.
fn config_digest(name: &str) -> Option<Digest> {
    let hex = name.rsplit('/').next()?.trim_end_matches(".json");
    Digest::from_hex(hex)
}

/// The config, verified where its name is its digest.
fn config_bytes(archive: &Archive, name: &str, what: &str) -> Result<Vec<u8>, Error> {
    let file = archive.open(name)?.ok_or_else(|| Error::MissingBlob { what: what.to_owned() })?;
    if file.size > JSON_LIMIT {
        let why = format!("{} bytes, the limit is {JSON_LIMIT}", file.size);
        return Err(Error::BadManifest { what: what.to_owned(), why });
    }
    let mut bytes = Vec::new();
    let read = match config_digest(name) {
        Some(digest) => Verified::new(file.bytes, digest, None, what.to_owned()).read_to_end(&mut bytes),
        None => file.bytes.take(JSON_LIMIT).read_to_end(&mut bytes),
    };
    read.map_err(|error| Error::from_io(error, what))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_their_full_form() {
        assert_eq!(normal("x"), "docker.io/library/x:latest");
        assert_eq!(normal("x:1"), normal("docker.io/library/x:1"));
        assert_eq!(normal("me/x"), "docker.io/me/x:latest");
        assert_eq!(normal("localhost:5000/x:1"), "localhost:5000/x:1");
        assert_eq!(normal("No Name"), "No Name");
    }

    #[test]
    fn links_stay_inside_the_archive() {
        assert_eq!(beside("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
        assert_eq!(beside("abc/layer.tar", "../../../etc/passwd"), "etc/passwd");
    }
}
