//! Files that nitro-cli made: whether its own way gives their measurements from an image.
//!
//! Such a file has no record, so its metadata are asked where to look; they are not measured, and nothing is believed
//! because of them. Its bytes cannot be had again (they hold a build's time and a host's paths), its measurements can.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use super::compare::{Difference, Scope, compare};
use super::contents::{open, path};
use super::nitro_cli::TOOL;
use super::rebuild::{Basis, Undecided, Verdict, layers, or_differs, pack, temporary};
use super::record::kernel_sha256;
use super::{Error, chunks};
use crate::build::{self, Plan, Profile, Report, nitro_cli};
use crate::eif::{Eif, Kind, Measurements, Metadata, Section, Source};
use crate::image::{Digest, Platform};
use crate::initramfs::newc::file_type;
use crate::rootfs::docker::Store;
use crate::{Arch, Progress, Warning, escaped};

/// Where `mtime` stands in an entry's header: the magic and five fields before it.
const MTIME: u64 = 6 + 5 * 8;
/// Digits of a field.
const DIGITS: u64 = 8;

/// What was found of a file of nitro-cli's whose measurements the image gives.
#[derive(Debug)]
pub struct NitroProof {
    /// What the file measures to.
    pub measurements: Measurements,
    /// The version of nitro-cli, as the metadata have it.
    pub version: String,
    /// The digest of the image's manifest, where the transport has one.
    pub manifest: Option<Digest>,
    /// Whether kernel, command line, init and module were given; else they were taken from the file itself, PCR2 alone is
    /// proved, and a PCR0 or a lock that the caller has vouches for the rest.
    pub boot: bool,
    /// Directories whose time nitro-cli takes from a clock; they were taken from the file. Escaped, with a leading slash.
    pub times: Vec<String>,
    /// What a rebuild cannot judge.
    pub warnings: Vec<Warning>,
}

/// What the metadata say.
struct Hints {
    version: String,
    layers: Vec<Digest>,
    store: Store,
}

/// Whether the metadata are nitro-cli's.
pub(super) fn made(metadata: &Metadata) -> bool {
    metadata.build.tool == TOOL && metadata.record().is_none()
}

impl Hints {
    fn of(metadata: &Metadata) -> Result<Self, Undecided> {
        // What `docker inspect` prints is a list of one.
        let docker = metadata.docker_info.get(0).unwrap_or(&metadata.docker_info);
        let text = |pointer: &str| docker.pointer(pointer).and_then(Value::as_str);
        let store = match text("/GraphDriver/Name") {
            None | Some("overlay2") => Store::Overlay2,
            Some("overlayfs") => Store::Containerd,
            Some(other) => return Err(Undecided::DockerStore { name: other.to_owned() }),
        };
        let layers = docker.pointer("/RootFS/Layers").and_then(Value::as_array).into_iter().flatten();
        let layers = layers.filter_map(|layer| layer.as_str()?.parse().ok()).collect();
        Ok(Self { version: metadata.build.tool_version.clone(), layers, store })
    }

    /// The plan as nitro-cli would have it; what boots is taken out of the file into `folder` where no blobs are given.
    fn plan<S: Source>(&self, eif: &Eif<S>, plan: &Plan, folder: &Path) -> Result<Plan, Undecided> {
        let mut plan = Plan {
            platform: Platform { arch: eif.arch() },
            profile: Profile::NitroCli,
            docker_store: self.store,
            accept_unstable_times: false,
            lock: None,
            signer: None,
            ..plan.clone()
        };
        if plan.blobs.is_none() {
            take_apart(eif, folder).map_err(temporary)?;
            plan.blobs = Some(folder.to_owned());
        }
        Ok(plan)
    }
}

/// A plan that packs an image as nitro-cli packed this file, times of a clock aside; `None` if its metadata do not say
/// that nitro-cli did. What boots is taken out of the file into `folder` where the plan names no blobs.
///
/// # Errors
/// [`Undecided`] where its Docker kept layers in a way that is not rebuilt here, or `folder` cannot be written.
pub fn nitro_cli_plan<S: Source>(eif: &Eif<S>, plan: &Plan, folder: &Path) -> Result<Option<Plan>, Undecided> {
    let Some(metadata) = eif.metadata().ok().flatten().filter(made) else { return Ok(None) };
    let plan = Hints::of(&metadata)?.plan(eif, plan, folder)?;
    Ok(Some(Plan { accept_unstable_times: true, ..plan }))
}

/// The answer about such a file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn rebuild<S: Source>(
    eif: &Eif<S>,
    basis: &Basis,
    metadata: &Metadata,
    measurements: Measurements,
    mut found: Vec<Difference>,
    progress: &dyn Progress,
) -> Result<Verdict, Error> {
    if basis.from_source.is_some() {
        let sha256 = kernel_sha256(eif)?;
        return Ok(or_differs(found, Undecided::KernelSource { sha256 }));
    }
    let rebuilt = Hints::of(metadata).and_then(|hints| Ok((again(eif, basis, &hints, progress)?, hints)));
    let (rebuilt, hints) = match rebuilt {
        Ok(rebuilt) => rebuilt,
        Err(undecided) => return Ok(or_differs(found, undecided)),
    };
    let unsigned = eif.unsigned()?;
    let other_layers = layers(&hints.layers, &rebuilt.report.record.diff_ids);
    if !equal(&unsigned, &rebuilt)? {
        found.extend(other_layers.iter().filter(|_| !hints.layers.is_empty()).cloned());
        found.extend(measured(compare(&unsigned, &rebuilt.eif, Scope::Bytes)?, &rebuilt.times));
    }
    if !found.is_empty() {
        return Ok(Verdict::Differs(found));
    }
    let times = rebuilt.times.iter().map(|name| format!("/{}", escaped(name))).collect();
    let (boot, manifest) = (basis.plan.blobs.is_some(), rebuilt.report.manifest);
    if !boot && basis.lock.is_none() && basis.pcr0.is_none() {
        return Ok(Verdict::Undecided(Undecided::Boot { version: hints.version, times }));
    }
    let warnings = unjudged(boot, &other_layers);
    Ok(Verdict::NitroCli(Box::new(NitroProof {
        measurements,
        version: hints.version,
        manifest,
        boot,
        times,
        warnings,
    })))
}

/// A rebuilt file, and the directories whose times are zero in it and a clock's in nitro-cli's.
struct Rebuilt {
    eif: Eif,
    report: Report,
    times: Vec<Vec<u8>>,
}

fn again<S: Source>(eif: &Eif<S>, basis: &Basis, hints: &Hints, progress: &dyn Progress) -> Result<Rebuilt, Undecided> {
    let folder = tempfile::tempdir_in(&basis.plan.layers.scratch).map_err(temporary)?;
    let mut plan = hints.plan(eif, &basis.plan, folder.path())?;
    let times = match pack(&plan, progress) {
        Err(Undecided::Build(build::Error::NitroCli(nitro_cli::Error::Times(names)))) => names,
        packed => return packed.map(|(eif, report)| Rebuilt { eif, report, times: Vec::new() }),
    };
    plan.accept_unstable_times = true;
    pack(&plan, progress).map(|(eif, report)| Rebuilt { eif, report, times })
}

/// Writes the parts that are not the application as the blobs that they were. What is not there becomes an empty file:
/// the comparison will name it.
fn take_apart<S: Source>(eif: &Eif<S>, folder: &Path) -> io::Result<()> {
    let kernel = match eif.arch() {
        Arch::X86_64 => "bzImage",
        Arch::Aarch64 => "Image",
    };
    for (name, kind) in
        [(kernel, Some(Kind::Kernel)), ("cmdline", Some(Kind::Cmdline)), ("init", None), ("nsm.ko", None)]
    {
        let mut file = File::create(folder.join(name))?;
        if let Some(section) = kind.and_then(|kind| eif.section(kind)) {
            io::copy(&mut eif.read(section), &mut file)?;
        }
    }
    let Some(first) = eif.section(Kind::Ramdisk) else { return Ok(()) };
    let (_, mut archive) = open(eif, first)?;
    // A broken archive is one that nitro-cli has not written: it will differ.
    while let Ok(Some(entry)) = archive.next() {
        let name = match &path(&entry.name)[..] {
            b"init" => "init",
            b"nsm.ko" => "nsm.ko",
            _ => continue,
        };
        if entry.header.kind() == file_type::FILE
            && io::copy(&mut archive, &mut File::create(folder.join(name))?).is_err()
        {
            fs::write(folder.join(name), b"")?;
        }
    }
    Ok(())
}

/// Whether all that is measured is equal, but for the digits of those times.
fn equal<S: Source>(file: &Eif<S>, rebuilt: &Rebuilt) -> Result<bool, Error> {
    let measured = |section: &&Section| section.kind != Kind::Metadata;
    let ours: Vec<&Section> = rebuilt.eif.sections().iter().filter(measured).collect();
    let theirs: Vec<&Section> = file.sections().iter().filter(measured).collect();
    if theirs.iter().map(|s| (s.kind, s.size)).ne(ours.iter().map(|s| (s.kind, s.size))) {
        return Ok(false);
    }
    for (section, our) in theirs.into_iter().zip(ours) {
        let is_application = Some(our) == rebuilt.eif.ramdisks().last();
        let fields = if is_application { time_fields(&rebuilt.eif, our, &rebuilt.times)? } else { Vec::new() };
        if !equal_but(file.read(section), rebuilt.eif.read(our), &fields)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where the times of these directories stand in the archive, ascending.
fn time_fields(eif: &Eif, section: &Section, times: &[Vec<u8>]) -> Result<Vec<u64>, Error> {
    let mut names: Vec<Vec<u8>> = times.iter().map(|name| [b"rootfs/", &name[..], b"/"].concat()).collect();
    names.sort();
    let mut fields = Vec::new();
    let (_, mut archive) = open(eif, section)?;
    while let Some(entry) = archive.next().map_err(|source| Error::Ramdisk { number: 2, source })? {
        if names.binary_search(&entry.name).is_ok() {
            fields.push(entry.offset.saturating_add(MTIME));
        }
    }
    Ok(fields)
}

/// Whether two streams are equal where no field of eight hexadecimal digits stands.
fn equal_but(file: impl Read, rebuilt: impl Read, fields: &[u64]) -> io::Result<bool> {
    let is_time = |at: u64, byte: u8| {
        let before = fields.partition_point(|field| *field <= at);
        let field = before.checked_sub(1).and_then(|index| fields.get(index));
        field.is_some_and(|field| at < field.saturating_add(DIGITS)) && matches!(byte, b'0'..=b'9' | b'a'..=b'f')
    };
    chunks(file, rebuilt, |start, one, other| {
        let mut pairs = (start..).zip(one.iter().zip(other));
        one.len() == other.len() && pairs.all(|(at, (byte, our))| byte == our || is_time(at, *byte))
    })
}

/// What is measured of all that differs, and is no time of a clock.
fn measured(differences: Vec<Difference>, times: &[Vec<u8>]) -> Vec<Difference> {
    let clocks: Vec<String> = times.iter().map(|name| format!("rootfs/{}", escaped(name))).collect();
    let is_clock = |difference: &Difference| {
        difference.field == "mtime" && difference.path.as_ref().is_some_and(|path| clocks.contains(path))
    };
    let kept = |difference: &Difference| !matches!(&*difference.part, "metadata" | "header") && !is_clock(difference);
    differences.into_iter().filter(kept).collect()
}

/// What the file alone vouches for.
fn unjudged(boot: bool, other_layers: &[Difference]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if !boot {
        let text = "kernel, command line, init and nsm.ko were taken from the file itself: PCR2 and the application are \
                    proved, what boots is what the given PCR0 vouches for; AWS's own are given with --blobs";
        warnings.push(Warning::new("W-verify-boot", text));
    }
    if !other_layers.is_empty() {
        let text = "the metadata name other layers than the image has; nobody measures them";
        warnings.push(Warning::new("W-verify-metadata", text));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_at_those_places_may_differ() {
        let rebuilt = b"aaaa00000000bbbb00000000";
        let equal = |file: &[u8], fields: &[u64]| equal_but(file, &rebuilt[..], fields).unwrap();
        assert!(equal(rebuilt, &[]));
        assert!(equal(b"aaaa5dc0ffeebbbb00000000", &[4, 16]));
        assert!(equal(b"aaaa5dc0ffeebbbb00000001", &[4, 16]));
        assert!(!equal(b"aaaa5dc0ffeebbbb00000001", &[4]));
        assert!(!equal(b"aaaa5dc0ffeebbbb00000000", &[3, 16]));
        assert!(!equal(b"aaaa5DC0FFEEbbbb00000000", &[4, 16]), "nitro-cli writes small letters");
        assert!(!equal(b"aaaa00000000bbbb0000000", &[4, 16]));
    }
}
