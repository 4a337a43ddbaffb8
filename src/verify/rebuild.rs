//! Proof by rebuilding: an image, packed again as the file's record says, gives the file's bytes or it does not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::choices::{Unsaid, unsaid};
use super::compare::{Difference, Scope, compare};
use super::record::{self, Read};
use super::remeasure::{self, NitroProof};
use super::source::{self, Tools};
use super::{Error, chunks};
use crate::build::lock::Pcrs;
use crate::build::{self, Lock, Plan, Record, Report};
use crate::eif::{Eif, Level, Measurements, Metadata, Pcr, Source, metadata};
use crate::image::{Digest, Image, Reference};
use crate::kernel::{self, Tell};
use crate::rootfs;
use crate::{Arch, Progress, Refusal, Warning, init};

/// What a file is held against.
#[derive(Debug)]
pub struct Basis {
    /// The image, where what is made lies, limits; kernel, init and blobs where the user has them. The command line and
    /// the overrides are the user's word: the file must have these, and the usual ones where none are given, unless
    /// `lock` or `pcr0` hold it. All else that decides bytes is taken from the file's record.
    pub plan: Plan,
    /// What the file was locked to.
    pub lock: Option<Lock>,
    /// Whether the image was named by the lock: it must have the manifest that the lock says.
    pub image_of_lock: bool,
    /// The value of PCR0 that the file must have.
    pub pcr0: Option<Pcr>,
    /// The registers of a running enclave, as a document of its own has proved them.
    pub attested: Option<BTreeMap<u8, Pcr>>,
    /// Whether init and kernel are compiled from their sources, and with what.
    pub from_source: Option<Tools>,
}

/// The answer.
#[derive(Debug)]
pub enum Verdict {
    /// The image gives every byte of the file, but for a signature, which is valid then.
    Same(Box<Proof>),
    /// The image gives the measurements of a file that nitro-cli made.
    NitroCli(Box<NitroProof>),
    /// It does not: why, what is given first and entries of ramdisks last. `a` is the file, `b` what it is held
    /// against.
    Differs(Vec<Difference>),
    /// The question cannot be answered with what is at hand.
    Undecided(Undecided),
}

/// What was rebuilt, and what of it the file alone vouches for.
#[derive(Debug)]
pub struct Proof {
    /// What the file measures to.
    pub measurements: Measurements,
    /// What stands in the file.
    pub record: Record,
    /// The digest of the image's manifest, where the transport has one.
    pub manifest: Option<Digest>,
    /// The entry of `kernels.lock` that the kernel is from; `None` for a user's own kernel.
    pub kernel_lock_id: Option<String>,
    /// The compiler of our own init; `None` for a user's own init.
    pub toolchain: Option<&'static str>,
    /// Whether kernel and init were compiled from their sources.
    pub from_source: bool,
    /// What a rebuild cannot judge.
    pub warnings: Vec<Warning>,
}

/// What is missing for an answer.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The file does not say how it was built.
    #[error("the file has no record of its build: {why}")]
    NoRecord {
        /// Why.
        why: String,
    },
    /// A kernel that is not in the cache.
    #[error("the kernel with SHA-256 {sha256} is not at hand")]
    Kernel {
        /// What is looked for.
        sha256: String,
        /// The entry of `kernels.lock` that it comes from, where one is known.
        id: Option<String>,
        /// Its architecture.
        arch: Arch,
    },
    /// An init that is not this program's.
    #[error("the init with SHA-256 {sha256} is not at hand: this eif's own is {}", or_none(.own))]
    Init {
        /// What is looked for.
        sha256: String,
        /// SHA-256 of this program's own, if it has one.
        own: Option<String>,
    },
    /// Kernel modules.
    #[error("the kernel modules of the file are not at hand: {}", .names.join(", "))]
    Modules {
        /// Their names.
        names: Vec<String>,
    },
    /// The image of a lock is not where it was.
    #[error("the image {digest} is gone: {why}")]
    Gone {
        /// What the lock has.
        digest: Digest,
        /// What was found.
        why: String,
    },
    /// A driver of Docker's whose ways are not known here.
    #[error("the metadata say that Docker kept the layers with `{name}`, whose ways are not known here")]
    DockerStore {
        /// The driver.
        name: String,
    },
    /// What boots in a file of nitro-cli's, which nobody has given.
    #[error(
        "PCR2 of the file is what nitro-cli {version} makes of the image{}; what boots is nobody's word but the file's",
        clock(.times)
    )]
    Boot {
        /// The version of nitro-cli, as the metadata have it.
        version: String,
        /// Directories whose times were taken from the file.
        times: Vec<String>,
    },
    /// The init could not be compiled.
    #[error(transparent)]
    Compiler(#[from] init::Error),
    /// A kernel of which no source is known.
    #[error("nothing says from which source the kernel with SHA-256 {sha256} was built")]
    KernelSource {
        /// Its hash.
        sha256: String,
    },
    /// The compiler at hand makes another kernel.
    #[error("the kernel from source is another one, and so it would be if the file's is right: {why}")]
    KernelCompiler {
        /// Which compilers.
        why: String,
    },
    /// The image cannot be had or cannot be packed.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// Another version of `eif` may write other bytes.
    #[error("the file was built by eif {theirs}, this is eif {}: {found}", env!("CARGO_PKG_VERSION"))]
    Version {
        /// The file's.
        theirs: String,
        /// What the rebuild by this version came to.
        found: &'static str,
    },
}

fn clock(times: &[String]) -> String {
    if times.is_empty() { String::new() } else { format!(", but for times of a clock ({})", times.join(", ")) }
}

fn or_none(sha256: &Option<String>) -> &str {
    sha256.as_deref().unwrap_or("not there")
}

impl Refusal for Undecided {
    fn code(&self) -> &'static str {
        match self {
            Undecided::NoRecord { .. } => "E-verify-record",
            Undecided::Kernel { .. } => "E-verify-kernel",
            Undecided::Init { .. } => "E-verify-init",
            Undecided::Modules { .. } => "E-verify-modules",
            Undecided::Gone { .. } => "E-verify-image",
            Undecided::Build(error) => error.code(),
            Undecided::DockerStore { .. } => "E-verify-docker-store",
            Undecided::Boot { .. } => "E-verify-boot",
            Undecided::Compiler(error) => error.code(),
            Undecided::KernelSource { .. } => "E-verify-kernel-source",
            Undecided::KernelCompiler { .. } => "E-verify-kernel-compiler",
            Undecided::Version { .. } => "E-verify-version",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Undecided::NoRecord { .. } => "`eif diff FILE IMAGE` compares the file system and the process".to_owned(),
            Undecided::Kernel { id: Some(id), arch, .. } => {
                format!("`eif kernel build --id {id} --arch {arch}` makes it, or pass it with --kernel")
            }
            Undecided::Kernel { id: None, .. } => {
                "pass it with --kernel: it is none that this version of eif can build".to_owned()
            }
            Undecided::Init { .. } => "pass it with --init, or use the eif that built the file".to_owned(),
            Undecided::Modules { .. } => "pass the folder that they came from with --blobs".to_owned(),
            Undecided::Gone { .. } => "name a place that still has it with --image".to_owned(),
            Undecided::Build(error) => return error.help(),
            Undecided::DockerStore { .. } => {
                "known are overlay2 and containerd's overlayfs: build the file again where Docker has one of them"
                    .to_owned()
            }
            Undecided::Boot { .. } => {
                "pass the folder with AWS's kernel, command line, init and nsm.ko with --blobs, or PCR0 with --pcr0"
                    .to_owned()
            }
            Undecided::Compiler(error) => return error.help(),
            Undecided::KernelSource { .. } => {
                "`eif kernel ls` shows which kernels this version can build; leave --from-source out for others"
                    .to_owned()
            }
            Undecided::KernelCompiler { .. } => {
                "install the compiler that the kernel was built with, or leave --from-source out".to_owned()
            }
            Undecided::Version { theirs, .. } => format!("eif {theirs} can answer for every byte"),
        };
        vec![line]
    }
}

/// Builds the file again and compares.
///
/// # Errors
/// The file cannot be read, or has a fault of [`Level::Error`].
pub fn rebuild<S: Source>(
    eif: &Eif<S>,
    basis: &Basis,
    progress: &dyn Progress,
    tell: Tell<'_>,
) -> Result<Verdict, Error> {
    if let Some(fault) = eif.faults().iter().find(|fault| fault.level() == Level::Error) {
        return Err(crate::eif::Error::from(fault.clone()).into());
    }
    let measurements = eif.measure(basis.plan.layers.threads)?;
    let mut found = given(&measurements, basis);
    found.extend(signature(eif, &measurements)?);
    let (metadata, record) = match record::read(eif)? {
        Read::Own(read) => *read,
        Read::NitroCli(metadata) => {
            return remeasure::rebuild(eif, basis, &metadata, measurements, found, progress);
        }
        Read::Nothing(undecided) => return Ok(or_differs(found, undecided)),
    };
    found.extend(basis.lock.iter().flat_map(|lock| locked(&lock.record, &record)));
    let contradictions = record::contradictions(eif, &metadata, &record)?;
    if !contradictions.is_empty() {
        // A record that lies is nothing to rebuild from.
        found.extend(contradictions);
        return Ok(Verdict::Differs(found));
    }
    match again(basis, &metadata, &record, progress, tell) {
        Ok(rebuilt) => judge(eif, basis, measurements, record, rebuilt, found),
        Err(undecided) => Ok(or_differs(found, undecided)),
    }
}

/// What is wrong is said even where something is missing for more.
pub(super) fn or_differs(found: Vec<Difference>, undecided: Undecided) -> Verdict {
    if found.is_empty() { Verdict::Undecided(undecided) } else { Verdict::Differs(found) }
}

/// The registers against those that the user and the lock have.
fn given(measured: &Measurements, basis: &Basis) -> Vec<Difference> {
    let locked = basis.lock.as_ref().map(|lock| lock.measurements);
    let expected = [
        ("PCR0", measured.pcr0, basis.pcr0),
        ("PCR0", measured.pcr0, locked.map(|locked| locked.pcr0)),
        ("PCR1", measured.pcr1, locked.map(|locked| locked.pcr1)),
        ("PCR2", measured.pcr2, locked.map(|locked| locked.pcr2)),
    ];
    let differs = |(name, file, wanted): (&str, Pcr, Option<Pcr>)| {
        let wanted = wanted.filter(|wanted| *wanted != file)?;
        Some(Difference::new(name, "value", Some(file.to_string()), Some(wanted.to_string())))
    };
    let mut found: Vec<Difference> = expected.into_iter().filter_map(differs).collect();
    for (index, file) in measured.numbered() {
        let Some(attested) = basis.attested.as_ref().map(|attested| attested.get(&index)) else { break };
        if attested != Some(&file) {
            let (file, attested) = (Some(file.to_string()), attested.map(Pcr::to_string));
            found.push(Difference::new("attestation", format!("PCR{index}"), file, attested));
        }
    }
    found
}

/// A signature that is there must be one of this file's PCR0. Whose it is, PCR8 says.
fn signature<S: Source>(eif: &Eif<S>, measured: &Measurements) -> Result<Vec<Difference>, Error> {
    let Some(cbor) = eif.signature()? else { return Ok(Vec::new()) };
    let verdict = crate::eif::signature::verify(&cbor, &measured.pcr0).map_err(crate::eif::Error::from)?;
    let wrong = verdict.problems.iter().filter(|problem| problem.code().starts_with("E-"));
    Ok(wrong.map(|problem| Difference::new("signature", problem.code(), Some(problem.to_string()), None)).collect())
}

/// The file's record against that of a lock.
fn locked(lock: &Record, record: &Record) -> Vec<Difference> {
    let drift = build::lock::drift(lock, record);
    drift.into_iter().map(|drift| Difference::new("lock", drift.fact, drift.now, drift.locked)).collect()
}

/// The layers by number, from 1: another image is named before all that follows from it.
pub(super) fn layers(file: &[Digest], image: &[Digest]) -> Vec<Difference> {
    let mut found = Vec::new();
    for number in 0..file.len().max(image.len()) {
        let (one, other) = (file.get(number), image.get(number));
        if one != other {
            let field = format!("diff_id of layer {}", number + 1);
            found.push(Difference::new("image", field, one.map(Digest::to_string), other.map(Digest::to_string)));
        }
    }
    found
}

/// A rebuilt file, which has no name any more.
struct Rebuilt {
    eif: Eif,
    report: Report,
    /// What the sources make otherwise.
    differences: Vec<Difference>,
}

/// The image packed as the record says.
fn again(
    basis: &Basis,
    metadata: &Metadata,
    record: &Record,
    progress: &dyn Progress,
    tell: Tell<'_>,
) -> Result<Rebuilt, Undecided> {
    let mut plan = recorded(basis, metadata, record);
    let id = || kernel_lock_id(basis, record);
    let compile = |tools: &Tools| source::compile(tools, record, id(), &plan, tell);
    let compiled = basis.from_source.as_ref().map(compile).transpose()?;
    if let Some(compiled) = &compiled {
        plan.init = plan.init.or_else(|| Some(compiled.init.clone()));
        plan.kernel = plan.kernel.or_else(|| Some(compiled.kernel.as_ref()?.built.kernel.path.clone()));
    }
    complete(&mut plan, basis, record)?;
    let (eif, report) = pack(&plan, progress)?;
    Ok(Rebuilt { eif, report, differences: compiled.map(|compiled| compiled.differences).unwrap_or_default() })
}

/// Builds into a file that has no name any more when it is given back.
pub(super) fn pack(plan: &Plan, progress: &dyn Progress) -> Result<(Eif, Report), Undecided> {
    let folder = tempfile::tempdir_in(&plan.layers.scratch).map_err(temporary)?;
    let target = folder.path().join("rebuilt.eif");
    let report = build::build(plan, &target, progress)?;
    // The open file outlives its folder.
    let eif = Eif::examine(File::open(&target).map_err(temporary)?).map_err(build::Error::from)?;
    Ok((eif, report))
}

pub(super) fn temporary(source: io::Error) -> Undecided {
    build::Error::Output { path: PathBuf::from("a temporary file"), source }.into()
}

/// The record as a plan: with it, the image and what boots, nothing is left to choose.
fn recorded(basis: &Basis, metadata: &Metadata, record: &Record) -> Plan {
    let mut custom = metadata.custom.clone();
    if let Some(members) = custom.as_object_mut() {
        members.remove(metadata::RECORD_KEY);
    }
    Plan {
        platform: record.platform,
        cmdline: Some(record.cmdline.clone()),
        profile: record.profile,
        docker_store: record.docker_store.unwrap_or_default(),
        accept_unstable_times: record.accept_unstable_times,
        overrides: record.overrides.clone(),
        mtime: record.mtime,
        compress: record.compress,
        name: Some(metadata.image_name.clone()),
        image_version: Some(metadata.image_version.clone()),
        custom: Some(custom),
        epoch: metadata::epoch(&metadata.build.time),
        signer: None,
        lock: None,
        documents: build::Documents::default(),
        layers: rootfs::Options {
            keep_owners: record.rootfs.as_ref().is_some_and(|rootfs| rootfs.keep_owners),
            ..basis.plan.layers.clone()
        },
        ..basis.plan.clone()
    }
}

/// Finds what boots by the record's hashes, where nobody has given it, and the image of a lock.
fn complete(plan: &mut Plan, basis: &Basis, record: &Record) -> Result<(), Undecided> {
    let in_blobs = |name: &str| plan.blobs.as_deref().is_some_and(|folder| folder.join(name).exists());
    let (has_kernel, has_init) = (in_blobs("bzImage") || in_blobs("Image"), in_blobs("init"));
    if !record.modules.is_empty() && !in_blobs("nsm.ko") {
        return Err(Undecided::Modules { names: record.modules.iter().map(|module| module.name.clone()).collect() });
    }
    if plan.kernel.is_none() && !has_kernel {
        plan.kernel = Some(kernel_at_hand(basis, record)?);
    }
    let own = init::sha256(record.platform.arch);
    if plan.init.is_none() && !has_init && own.as_ref() != Some(&record.init_sha256) {
        return Err(Undecided::Init { sha256: record.init_sha256.clone(), own });
    }
    if basis.image_of_lock {
        plan.reference = located(basis, plan)?;
    }
    Ok(())
}

/// The kernel of the cache that has the record's hash.
fn in_cache(basis: &Basis, record: &Record) -> Option<kernel::Kernel> {
    kernel::Store::new(basis.plan.cache.as_deref()?).by_sha256(&record.kernel_sha256)
}

fn kernel_at_hand(basis: &Basis, record: &Record) -> Result<PathBuf, Undecided> {
    let (sha256, arch) = (&record.kernel_sha256, record.platform.arch);
    match in_cache(basis, record) {
        Some(kernel) => Ok(kernel.path),
        None => Err(Undecided::Kernel { sha256: sha256.clone(), id: kernel_lock_id(basis, record), arch }),
    }
}

/// The entry of `kernels.lock` that the record's kernel is known to come from.
fn kernel_lock_id(basis: &Basis, record: &Record) -> Option<String> {
    let embedded = kernel::Lock::embedded().ok()?;
    let by_hash = embedded.by_kernel(&record.kernel_sha256, record.platform.arch).map(|entry| entry.id.clone());
    let locked = basis.lock.as_ref().filter(|lock| lock.record.kernel_sha256 == record.kernel_sha256);
    let by_lock = || locked?.kernel_lock_id.clone();
    let known = by_hash.or_else(by_lock).or_else(|| Some(in_cache(basis, record)?.lock_id));
    known.filter(|id| embedded.entry(id).is_ok())
}

/// The lock's image: by its digest, else where it was, if it is there still.
fn located(basis: &Basis, plan: &Plan) -> Result<Reference, Undecided> {
    let Some(digest) = basis.lock.as_ref().and_then(|lock| lock.manifest_digest) else {
        return Ok(plan.reference.clone());
    };
    let mut why = String::new();
    for reference in plan.reference.at(digest).into_iter().chain([plan.reference.clone()]) {
        match Image::open(&reference, &plan.platform, &plan.access) {
            Ok(image) if image.manifest_digest == Some(digest) => return Ok(reference),
            Ok(image) => {
                let other = image.manifest_digest.map_or("no digest".to_owned(), |digest| digest.to_string());
                why = format!("the reference of the lock leads to {other}");
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(Undecided::Gone { digest, why })
}

fn judge<S: Source>(
    eif: &Eif<S>,
    basis: &Basis,
    measurements: Measurements,
    record: Record,
    rebuilt: Rebuilt,
    mut found: Vec<Difference>,
) -> Result<Verdict, Error> {
    found.extend(rebuilt.differences);
    found.extend(layers(&record.diff_ids, &rebuilt.report.record.diff_ids));
    let unsigned = eif.unsigned()?;
    let Unsaid { differences, mut warnings } = match unsaid(basis, &record) {
        Ok(unsaid) => unsaid,
        Err(undecided) => return Ok(or_differs(found, undecided)),
    };
    if !equal(&unsigned, &rebuilt.eif)? {
        if found.is_empty() && record.version != env!("CARGO_PKG_VERSION") {
            let again = Pcrs::from(rebuilt.report.measurements);
            let found = if again == measurements.into() {
                "all that is measured is what the image gives: the same PCR0, PCR1 and PCR2"
            } else {
                "its rebuild measures to something else"
            };
            return Ok(or_differs(differences, Undecided::Version { theirs: record.version, found }));
        }
        found.extend(differences);
        found.extend(compare(&unsigned, &rebuilt.eif, Scope::Bytes)?);
    } else {
        found.extend(differences);
    }
    if !found.is_empty() {
        return Ok(Verdict::Differs(found));
    }
    let Report { manifest, kernel_lock_id, toolchain, .. } = rebuilt.report;
    if basis.lock.is_none() {
        warnings.extend(unknown_parts(&record, kernel_lock_id.is_some(), toolchain.is_some()));
    }
    let from_source = basis.from_source.is_some();
    let proof = Proof { measurements, record, manifest, kernel_lock_id, toolchain, from_source, warnings };
    Ok(Verdict::Same(Box::new(proof)))
}

/// Whether two files are equal byte for byte. Faults of [`Level::Error`] must have been looked for: bytes that no section
/// and no header has are not seen here.
fn equal<A: Source, B: Source>(a: &Eif<A>, b: &Eif<B>) -> Result<bool, Error> {
    if a.header() != b.header() || a.sections() != b.sections() || a.size() != b.size() {
        return Ok(false);
    }
    for (one, other) in a.sections().iter().zip(b.sections()) {
        if !chunks(a.read(one), b.read(other), |_, one, other| one == other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What boots, where the caller has given it and nothing is known of it but its bytes.
fn unknown_parts(record: &Record, kernel: bool, init: bool) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if !kernel {
        let text = format!("the kernel is none of eif's: nothing says where {} comes from", record.kernel_sha256);
        warnings.push(Warning::new("W-verify-kernel", text));
    }
    if !init {
        let text = format!("the init is not eif's: nothing says where {} comes from", record.init_sha256);
        warnings.push(Warning::new("W-verify-init", text));
    }
    warnings
}
