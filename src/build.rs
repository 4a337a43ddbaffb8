//! The pipeline: a [`Plan`] becomes an `.eif` and a [`Report`].

mod documents;
pub mod lock;
pub mod nitro_cli;
pub mod provenance;
mod record;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::eif::metadata::Facts;
use crate::eif::signature::Signer;
use crate::eif::{self, Measurements, Metadata, Writer, Written};
use crate::image::{self, Image, Platform, Process, Reference};
use crate::initramfs::{
    Application, Bootstrap, Compress, Encoder, Mtime, Need, RootFs, linuxkit, write_application, write_bootstrap,
};
use crate::output::Output;
use crate::rootfs::{self, Loaded, Overrides, Tree, docker};
use crate::{Arch, Progress, Refusal, Warning, init, kernel};

pub use documents::Documents;
pub use lock::Lock;
pub use record::{Module, Record, Rootfs};

/// A kernel, an init or a module may be this large, in bytes: they are held in memory.
const BLOB_LIMIT: u64 = 256 << 20;
/// What the init mounts something on.
const MOUNT_POINTS: [(&str, u16); 5] =
    [("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("sys", 0o755), ("tmp", 0o1777)];

/// Whose layout a file has, and so whose measurements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Ours.
    #[default]
    Eif,
    /// Byte for byte the ramdisks of `nitro-cli build-enclave`, from 1.3.2 to 1.5.0.
    NitroCli,
}

impl Profile {
    /// Whether it is ours, which records leave out.
    pub fn is_own(&self) -> bool {
        *self == Profile::Eif
    }
}

/// All that decides what is built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The image.
    pub reference: Reference,
    /// Which of its platforms.
    pub platform: Platform,
    /// A kernel of the user's own, in place of the one that our recipe builds.
    pub kernel: Option<PathBuf>,
    /// A kernel command line, in place of the kernel's usual one.
    pub cmdline: Option<String>,
    /// An init of the user's own.
    pub init: Option<PathBuf>,
    /// A folder in AWS's form, for what is not named above: `bzImage` or `Image`, `cmdline`, `init`, `nsm.ko`.
    pub blobs: Option<PathBuf>,
    /// Whose layout. nitro-cli's takes all four `blobs`, and of the options below `compress`, `kernel`, `cmdline`, `init`,
    /// `overrides` and `mtime` not one.
    pub profile: Profile,
    /// For nitro-cli's layout: where its Docker keeps layers.
    pub docker_store: docker::Store,
    /// For nitro-cli's layout: whether directories whose time it takes from a clock are written with time zero, and not
    /// refused.
    pub accept_unstable_times: bool,
    /// What replaces parts of the image's config.
    pub overrides: Overrides,
    /// What becomes of mtimes.
    pub mtime: Mtime,
    /// How the ramdisks are compressed.
    pub compress: Compress,
    /// ImageName of the metadata.
    pub name: Option<String>,
    /// ImageVersion of the metadata.
    pub image_version: Option<String>,
    /// The user's own metadata.
    pub custom: Option<Value>,
    /// BuildTime of the metadata, in seconds since 1970.
    pub epoch: Option<u64>,
    /// How the layers are read: limits, threads, where the spools go.
    pub layers: rootfs::Options,
    /// How the image is got.
    pub access: image::Access,
    /// The folder with the built kernels, where there is one.
    pub cache: Option<PathBuf>,
    /// A lock to write, or to be held to.
    pub lock: Option<lock::Request>,
    /// What else is written beside the file.
    pub documents: Documents,
    /// Who signs the file. It has no influence on any other byte, nor on PCR0, PCR1 and PCR2.
    pub signer: Option<Signer>,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Report {
    /// PCR0, PCR1, PCR2, and PCR8 of a signed file.
    pub measurements: Measurements,
    /// Where the reference has a tag of a registry: the same name with the digest that the tag led to.
    pub pin: Option<String>,
    /// Digest of the image's manifest, where the transport has one.
    pub manifest: Option<image::Digest>,
    /// What stands in the file.
    pub record: Record,
    /// The entry of `kernels.lock` that the kernel is from; `None` for a user's own kernel.
    pub kernel_lock_id: Option<String>,
    /// The compiler of our own init; `None` for a user's own init.
    pub toolchain: Option<&'static str>,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the kernel.
    pub kernel: u64,
    /// Entries of ramdisk 1 and 2.
    pub entries: [u64; 2],
    /// Bytes of ramdisk 1 and 2 in the file.
    pub ramdisks: [u64; 2],
    /// Bytes of all files when they are unpacked, in whole pages.
    pub unpacked: u64,
    /// Inodes when they are unpacked.
    pub inodes: u64,
    /// The least memory of an enclave that takes all of it, in MiB.
    pub memory: u64,
    /// The same if the command line makes its root a ramfs.
    pub memory_ramfs: u64,
    /// Whether files have extended attributes, which a ramfs would lose.
    pub attributes: bool,
    /// What the user should know.
    pub warnings: Vec<Warning>,
    /// The image's own SBOM, where the plan has a place for it.
    pub sbom: Option<Vec<u8>>,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Its layers.
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The file format.
    #[error(transparent)]
    Eif(#[from] eif::Error),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A document beside the file.
    #[error(transparent)]
    Document(#[from] documents::Error),
    /// What nitro-cli's layout needs or cannot have.
    #[error(transparent)]
    NitroCli(#[from] nitro_cli::Error),
    /// A blob cannot be read.
    #[error("{}: {why}", .path.display())]
    Blob {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// This build of `eif` has no init for the architecture.
    #[error("this build of `eif` has no init for {0}")]
    NoInit(Arch),
    /// No kernel is given and there is no place where a built one would be.
    #[error("no kernel is given, and there is no cache that could have one")]
    NoCache,
    /// AWS's init gets arguments and variables one a line.
    #[error("{what} holds a newline, which a foreign init's files `cmd` and `env` cannot carry")]
    Lines {
        /// Which one.
        what: &'static str,
    },
    /// A warning that `--strict` does not let pass.
    #[error("{}", .0.message)]
    Strict(Warning),
    /// The file cannot be written.
    #[error("{}: {source}", .path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A ramdisk cannot be written.
    #[error("writing ramdisk {number}: {source}")]
    Ramdisk {
        /// 1 or 2.
        number: u32,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Image(error) => error.code(),
            Error::Rootfs(error) => error.code(),
            Error::Kernel(error) => error.code(),
            Error::Eif(error) => error.code(),
            Error::Lock(error) => error.code(),
            Error::Document(error) => error.code(),
            Error::NitroCli(error) => error.code(),
            Error::Blob { .. } => "E-blob",
            Error::NoInit(_) => "E-no-init",
            Error::NoCache => "E-cache",
            Error::Lines { .. } => "E-cmd-encoding",
            Error::Strict(warning) => warning.code,
            Error::Output { .. } | Error::Ramdisk { .. } => "E-output",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Image(error) => return error.help(),
            Error::Rootfs(error) => return error.help(),
            Error::Kernel(error) => return error.help(),
            Error::Eif(error) => return error.help(),
            Error::Lock(error) => return error.help(),
            Error::Document(error) => return error.help(),
            Error::NitroCli(error) => return error.help(),
            Error::Blob { .. } => "check the path",
            Error::NoInit(_) => init::MISSING,
            Error::NoCache => "set HOME or XDG_CACHE_HOME, or pass --kernel",
            Error::Lines { .. } => "use eif's own init (no --init, no init in --blobs), which carries any byte but NUL",
            Error::Strict(_) => "mend the image, or build without --strict",
            Error::Output { .. } => "check that the folder exists, may be written to and has room",
            Error::Ramdisk { .. } => "check that the output's folder has room",
        };
        vec![line.to_owned()]
    }
}

/// Builds `target`. It appears when it is whole; an error leaves nothing behind.
///
/// # Errors
/// See [`Error`].
pub fn build(plan: &Plan, target: &Path, progress: &dyn Progress) -> Result<Report, Error> {
    let failed = |source| Error::Output { path: target.to_owned(), source };
    let output = Output::create(target).map_err(failed)?;
    let mut lock = plan.lock.as_ref().map(lock::Pending::begin).transpose()?;
    let mut documents = documents::Begun::new(&plan.documents)?;
    let (mut output, report) = assemble(plan, output, progress)?;
    lock.as_mut().map(|lock| lock.settle(&report)).transpose()?;
    documents.settle(plan, (target, &mut output), &report)?;
    output.persist().map_err(failed)?;
    lock.map(lock::Pending::persist).transpose()?;
    documents.persist()?;
    Ok(report)
}

/// Measures what [`build`] would write, and writes nothing; the plan's lock and documents are passed over.
///
/// # Errors
/// See [`Error`].
pub fn measure(plan: &Plan, progress: &dyn Progress) -> Result<Report, Error> {
    assemble(plan, io::empty(), progress).map(|(_, report)| report)
}

/// The parts that are not the image.
struct Boot {
    kernel: Vec<u8>,
    kernel_lock_id: Option<String>,
    release: Option<String>,
    cmdline: String,
    init: Vec<u8>,
    /// Whether the init is not ours, and so reads `cmd` and `env` and nothing else.
    foreign: bool,
    modules: Vec<(String, Vec<u8>)>,
    warnings: Vec<Warning>,
}

fn assemble<W: Write + Seek>(plan: &Plan, out: W, progress: &dyn Progress) -> Result<(W, Report), Error> {
    let assembled = match plan.profile {
        Profile::Eif => assemble_image(plan, out, progress),
        Profile::NitroCli => nitro_cli::assemble(plan, out, progress),
    };
    // Also after a failure, which may have filled the disk.
    let trimmed = plan.access.store.trim();
    let (out, mut report) = assembled?;
    report.warnings.extend(trimmed.err().map(|error| Warning::new("W-store", error.to_string())));
    Ok((out, report))
}

fn assemble_image<W: Write + Seek>(plan: &Plan, out: W, progress: &dyn Progress) -> Result<(W, Report), Error> {
    let image = Image::open(&plan.reference, &plan.platform, &plan.access)?;
    let sbom = sbom(plan, &image, progress)?;
    let boot = boot(plan)?;
    let Loaded { mut tree, mut spools, diff_ids, mut warnings } = rootfs::load(&image, &plan.layers, progress)?;
    warnings.extend(boot.warnings.iter().cloned());
    warnings.extend(mount_points(&mut tree)?);
    let (process, notes) = rootfs::resolve(&image.config, &plan.overrides, &mut tree, &spools)?;
    warnings.extend(notes);
    if boot.foreign {
        warnings.extend(foreign_init(&process, &tree)?);
    } else {
        let ramfs = RootFs::of(boot.cmdline.as_bytes()) == RootFs::Ramfs;
        warnings.extend(rootfs::attributes::settle(&mut tree, &image, ramfs)?);
    }
    warnings.extend(rootfs::lint(&tree, &spools, &image, plan.mtime == Mtime::Zero)?);
    strictly(plan, &warnings)?;
    let record = Record::new(plan, &boot, (&image, diff_ids), &process);
    spools.read_once(&tree);
    let app = Application { tree: &tree, spools: &spools, process: &process, mtime: plan.mtime };
    let (out, report) = finish(plan, &image, boot, record, &Ramdisks::Own(app), warnings, out, progress)?;
    Ok((out, Report { sbom, ..report }))
}

/// The image's own SBOM, where it is asked for: that there is none is told before anything is built.
fn sbom(plan: &Plan, image: &Image, progress: &dyn Progress) -> Result<Option<Vec<u8>>, Error> {
    plan.documents.sbom.as_ref().map(|_| image.sbom(progress).map_err(Error::from)).transpose()
}

/// What the ramdisks are made of.
enum Ramdisks<'a> {
    Own(Application<'a>),
    Linuxkit(linuxkit::Exported<'a>),
}

impl Ramdisks<'_> {
    fn tree(&self) -> &Tree {
        match self {
            Self::Own(app) => app.tree,
            Self::Linuxkit(exported) => exported.tree,
        }
    }

    /// Ramdisk 1.
    fn bootstrap(&self, boot: &Boot, out: &mut impl Write) -> io::Result<u64> {
        match self {
            Self::Own(_) => write_bootstrap(&Bootstrap { init: &boot.init, modules: &boot.modules }, out),
            Self::Linuxkit(_) => {
                let module = boot.modules.first().map(|(_, bytes)| bytes.as_slice());
                linuxkit::write_bootstrap(&boot.init, module.unwrap_or_default(), out)
            }
        }
    }

    /// Ramdisk 2.
    fn application(&self, out: &mut impl Write, progress: &dyn Progress) -> io::Result<u64> {
        match self {
            Self::Own(app) => write_application(app, out, progress),
            Self::Linuxkit(exported) => linuxkit::write_application(exported, out, progress),
        }
    }
}

/// Everything behind the decisions.
#[expect(clippy::too_many_arguments, reason = "one place where all parts of a build meet")]
fn finish<W: Write + Seek>(
    plan: &Plan,
    image: &Image,
    boot: Boot,
    record: Record,
    ramdisks: &Ramdisks,
    warnings: Vec<Warning>,
    out: W,
    progress: &dyn Progress,
) -> Result<(W, Report), Error> {
    let metadata = metadata(plan, &boot, &record)?;
    let (out, written, entries) = write(plan, &boot, &metadata, ramdisks, out, progress)?;
    let footprint = ramdisks.tree().footprint();
    let attributes = ramdisks.tree().has_attributes() && !boot.foreign;
    Ok((out, Report { attributes, ..report(image, boot, record, written, entries, footprint, warnings) }))
}

fn boot(plan: &Plan) -> Result<Boot, Error> {
    let arch = plan.platform.arch;
    let blobs = Blobs::open(plan.blobs.as_deref())?;
    let mut warnings = Vec::new();
    let (kernel_path, kernel_lock_id) = match plan.kernel.clone().or(blobs.kernel) {
        Some(path) => (path, None),
        None => {
            let found = kernel::find(arch, plan.cache.as_deref().ok_or(Error::NoCache)?)?;
            warnings.extend(unlocked(&found));
            (found.path, Some(found.lock_id))
        }
    };
    let kernel = read_blob(&kernel_path)?;
    let head = kernel.get(..kernel.len().min(kernel::probe::HEAD)).unwrap_or_default();
    let preflight = kernel::check(head, kernel.len() as u64, arch)?;
    warnings.extend(preflight.findings.iter().map(kernel::check::Finding::warning));
    // The banner of an arm64 Image stands behind its head.
    let release = preflight.release.or_else(|| kernel::probe::release(&preflight.format, &kernel));
    let cmdline = cmdline_of(plan, blobs.cmdline.as_deref())?;
    let own = init::bytes(arch);
    let init = match plan.init.clone().or(blobs.init) {
        Some(path) => read_blob(&path)?,
        None => own.ok_or(Error::NoInit(arch))?.to_vec(),
    };
    let foreign = own.is_none_or(|own| own != init);
    let modules = match blobs.module {
        Some(path) => vec![("nsm.ko".to_owned(), read_blob(&path)?)],
        None => Vec::new(),
    };
    Ok(Boot { kernel, kernel_lock_id, release, cmdline, init, foreign, modules, warnings })
}

/// The command line that a build after this plan has.
///
/// # Errors
/// The plan's blobs cannot be read.
pub(crate) fn cmdline(plan: &Plan) -> Result<String, Error> {
    cmdline_of(plan, Blobs::open(plan.blobs.as_deref())?.cmdline.as_deref())
}

fn cmdline_of(plan: &Plan, blob: Option<&Path>) -> Result<String, Error> {
    match (&plan.cmdline, blob) {
        (Some(cmdline), _) => Ok(cmdline.clone()),
        (None, Some(path)) => text_blob(path),
        (None, None) => Ok(kernel::default_cmdline(plan.platform.arch).to_owned()),
    }
}

/// What is in a folder of AWS's form; every part may be missing, but not all of them.
#[derive(Default)]
struct Blobs {
    kernel: Option<PathBuf>,
    cmdline: Option<PathBuf>,
    init: Option<PathBuf>,
    module: Option<PathBuf>,
}

impl Blobs {
    fn open(folder: Option<&Path>) -> Result<Self, Error> {
        let Some(folder) = folder else { return Ok(Self::default()) };
        let failed = |why: String| Error::Blob { path: folder.to_owned(), why };
        std::fs::read_dir(folder).map_err(|error| failed(error.to_string()))?;
        let named = |name: &str| {
            let path = folder.join(name);
            let there =
                path.try_exists().map_err(|error| Error::Blob { path: path.clone(), why: error.to_string() })?;
            Ok::<_, Error>(there.then_some(path))
        };
        let kernel = match named("bzImage")? {
            Some(path) => Some(path),
            None => named("Image")?,
        };
        let blobs = Self { kernel, cmdline: named("cmdline")?, init: named("init")?, module: named("nsm.ko")? };
        if blobs.kernel.is_none() && blobs.cmdline.is_none() && blobs.init.is_none() && blobs.module.is_none() {
            return Err(failed("none of bzImage, Image, cmdline, init and nsm.ko is there".to_owned()));
        }
        Ok(blobs)
    }
}

/// A kernel that others cannot be expected to have.
fn unlocked(kernel: &kernel::Kernel) -> Option<Warning> {
    let text = format!(
        "the kernel {} is not the one that kernels.lock records for {}: PCR0 and PCR1 will not be the published ones",
        hex::encode(kernel.sha256),
        kernel.lock_id,
    );
    (!kernel.locked).then(|| Warning::new("W-kernel-unlocked", text))
}

/// A text of AWS's blobs, white space trimmed at both ends as nitro-cli does.
fn text_blob(path: &Path) -> Result<String, Error> {
    let bytes = read_blob(path)?;
    let text = std::str::from_utf8(&bytes);
    text.map(|text| text.trim().to_owned())
        .map_err(|error| Error::Blob { path: path.to_owned(), why: format!("it is no text in UTF-8: {error}") })
}

fn read_blob(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |why: String| Error::Blob { path: path.to_owned(), why };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(BLOB_LIMIT.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > BLOB_LIMIT {
        return Err(failed(format!("more than {} MiB, which is no boot file", BLOB_LIMIT >> 20)));
    }
    Ok(bytes)
}

/// Makes what is missing; what is there and is no directory is told.
fn mount_points(tree: &mut Tree) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    for (path, mode) in MOUNT_POINTS {
        if !tree.add_mount_point(path.as_bytes(), mode) {
            let text = format!("/{path} is no directory in the image: the init cannot mount anything there");
            warnings.push(Warning::new("W-mount-point", text));
        }
    }
    Ok(warnings)
}

/// Under `--strict`, what has an error's code is one.
fn strictly(plan: &Plan, warnings: &[Warning]) -> Result<(), Error> {
    let first = warnings.iter().find(|warning| warning.code.starts_with("E-"));
    match first.filter(|_| plan.layers.strict) {
        Some(warning) => Err(Error::Strict(warning.clone())),
        None => Ok(()),
    }
}

/// What an init of AWS's kind does not do.
fn foreign_init(process: &Process, tree: &Tree) -> Result<Vec<Warning>, Error> {
    for (what, items) in [("an argument", &process.argv), ("an environment variable", &process.env)] {
        if items.iter().any(|item| item.contains('\n')) {
            return Err(Error::Lines { what });
        }
    }
    let mut warnings = Vec::new();
    if process.uid != 0 || process.gid != 0 || process.cwd != "/" {
        let text = "an init of AWS's kind runs the program as root in /, whatever User and WorkingDir say";
        warnings.push(Warning::new("W-foreign-init", text));
    }
    let capable = tree.with_attribute(b"security.capability");
    if !capable.is_empty() {
        let text =
            format!("a foreign init sets no extended attributes; these lose capabilities: {}", capable.join(", "));
        warnings.push(Warning::new("E-xattr", text));
    }
    Ok(warnings)
}

/// Facts that every transport shares, and nothing of the place where the file is made.
fn metadata(plan: &Plan, boot: &Boot, record: &Record) -> Result<Vec<u8>, Error> {
    let facts = Facts {
        name: plan.name.as_deref(),
        version: plan.image_version.as_deref(),
        epoch: plan.epoch,
        kernel_version: boot.release.as_deref(),
        custom: plan.custom.clone(),
        record: serde_json::to_value(record).map_err(|error| eif::Error::Metadata(error.to_string()))?,
    };
    Ok(Metadata::new(facts)?.to_bytes()?)
}

/// The second pass: everything in the order of the file, contents out of the spools.
fn write<W: Write + Seek>(
    plan: &Plan,
    boot: &Boot,
    metadata: &[u8],
    ramdisks: &Ramdisks,
    out: W,
    progress: &dyn Progress,
) -> Result<(W, Written, [u64; 2]), Error> {
    progress.stage("ramdisks", Some(ramdisks.tree().footprint().0));
    let threads = plan.layers.threads;
    let failed = |number| move |source| Error::Ramdisk { number, source };
    let mut writer = Writer::new(out, eif::Options { arch: plan.platform.arch, threads })?;
    writer.kernel(&mut boot.kernel.as_slice())?;
    writer.cmdline(boot.cmdline.as_bytes())?;
    writer.metadata(metadata)?;
    let mut ramdisk = Encoder::new(writer.ramdisk()?, plan.compress, threads).map_err(failed(1))?;
    let first = ramdisks.bootstrap(boot, &mut ramdisk).map_err(failed(1))?;
    ramdisk.finish().map_err(failed(1))?;
    let mut ramdisk = Encoder::new(writer.ramdisk()?, plan.compress, threads).map_err(failed(2))?;
    let second = ramdisks.application(&mut ramdisk, progress).map_err(failed(2))?;
    ramdisk.finish().map_err(failed(2))?;
    if let Some(signer) = &plan.signer {
        let section = signer.section(&writer.measurements()?.pcr0).map_err(eif::Error::from)?;
        writer.signature(&section, signer.certificate().pcr8())?;
    }
    let (out, written) = writer.finish()?;
    Ok((out, written, [first, second]))
}

fn report(
    image: &Image,
    boot: Boot,
    record: Record,
    written: Written,
    entries: [u64; 2],
    (unpacked, inodes): (u64, u64),
    warnings: Vec<Warning>,
) -> Report {
    let mut sizes = written.sections.iter().filter(|section| section.kind == eif::Kind::Ramdisk).map(|s| s.size);
    let ramdisks = [sizes.next().unwrap_or(0), sizes.next().unwrap_or(0)];
    let arch = image.platform.arch;
    let by_hash = || Some(kernel::Lock::embedded().ok()?.by_kernel(&record.kernel_sha256, arch)?.id.clone());
    let need = Need { packed: ramdisks.iter().sum(), unpacked, inodes };
    Report {
        measurements: written.measurements,
        pin: image.pin.clone(),
        manifest: image.manifest_digest,
        kernel_lock_id: boot.kernel_lock_id.or_else(by_hash),
        toolchain: init::toolchain(arch).filter(|_| !boot.foreign),
        size: written.size,
        kernel: boot.kernel.len() as u64,
        entries,
        memory: need.least_mib(RootFs::of(boot.cmdline.as_bytes())),
        memory_ramfs: need.least_mib(RootFs::Ramfs),
        attributes: false,
        ramdisks,
        unpacked,
        inodes,
        warnings,
        sbom: None,
        record,
    }
}
