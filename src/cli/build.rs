//! `eif build`: arguments to a plan, the report to stdout and stderr.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use eif::build::{Documents, Plan, Profile, Report, lock};
use eif::image::{Platform, Reference};
use eif::initramfs::{Compress, Mtime};
use eif::rootfs::docker::Store;
use eif::rootfs::{Options, Overrides};

use super::environment;
use super::failure::Failure;
use super::sign::SigningOptions;
use super::source::SourceOptions;
use super::ui::Ui;

/// Build an enclave image from a container image
#[derive(clap::Args)]
#[command(after_help = "Examples:
  eif build docker-archive:app.tar -o app.eif
  eif build ghcr.io/acme/app:v1 -o app.eif
  eif build oci:layout:v1 -o app.eif --cmd serve --cmd --port=80 --user 1000:1000
  eif build oci:layout:v1 -o app.eif --lock eif.lock
  eif build oci:layout:v1 -o app.eif --locked
  eif build ghcr.io/acme/app:v1 -o app.eif --provenance app.intoto.json --sbom app.spdx.json
  eif build docker-archive:app.tar -o app.eif --signing-certificate cert.pem --private-key key.pem
  eif build rootfs:result/ -o app.eif --entrypoint /bin/app --env MODE=prod")]
pub struct Args {
    /// The image: [docker://]NAME[:TAG|@DIGEST] in a registry, docker-daemon:NAME[:TAG] in a Docker engine,
    /// oci:PATH[:TAG|@DIGEST], oci-archive:PATH[:TAG], docker-archive:PATH[:NAME]; or rootfs:PATH, a plain directory or
    /// tar whose process --entrypoint, --cmd, --env, --user and --workdir name. PATH `-` is stdin
    image: OsString,
    /// The file to write
    #[arg(long, short, value_name = "FILE", value_parser = written())]
    output: PathBuf,
    /// Write what the build came to, to be committed [default with --locked: eif.lock]
    #[arg(long, value_name = "FILE", value_parser = written())]
    lock: Option<PathBuf>,
    /// Refuse a build that is not what the lock has; the image is the one that is named, the lock is left as it is
    #[arg(long)]
    locked: bool,
    /// Write where the file comes from, as an in-toto statement with a SLSA v1 predicate
    #[arg(long, value_name = "FILE", value_parser = written())]
    provenance: Option<PathBuf>,
    /// Write all facts of the build, as JSON
    #[arg(long, value_name = "FILE", value_parser = written())]
    report: Option<PathBuf>,
    /// Write the SBOM that the image comes with; an image without one is refused
    #[arg(long, value_name = "FILE", value_parser = written())]
    sbom: Option<PathBuf>,
    #[command(flatten)]
    options: BuildOptions,
    #[command(flatten)]
    signing: SigningOptions,
}

/// What decides the bytes; `eif build` and others that build share it.
#[derive(clap::Args, PartialEq)]
#[command(next_help_heading = "What is built")]
pub struct BuildOptions {
    /// Platform of the image: linux/amd64 or linux/arm64, on every host
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    platform: String,
    /// Kernel to pack (bzImage or arm64 Image) instead of the one of `eif kernel build`
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Kernel command line, packed as given
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,
    /// Init to pack instead of eif's own
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Folder with AWS's blobs: bzImage or Image, cmdline, init, nsm.ko
    #[arg(long, value_name = "DIR")]
    blobs: Option<PathBuf>,
    /// Layout of the file: ours, or byte for byte nitro-cli's ramdisks and so its PCRs (with --blobs)
    #[arg(long, value_name = "NAME", default_value = "eif")]
    profile: ProfileName,
    /// With --profile nitro-cli: where its Docker keeps layers
    #[arg(long, value_name = "STORE")]
    docker_store: Option<DockerStore>,
    /// With --profile nitro-cli: write time zero where it takes a directory's time from a clock
    #[arg(long)]
    accept_unstable_times: bool,
    #[command(flatten)]
    process: ProcessOptions,
    /// Modification times: all zero, the image's, or the image's up to SOURCE_DATE_EPOCH
    #[arg(long, value_name = "MODE", default_value = "zero")]
    mtime: MtimeMode,
    /// Compression of the ramdisks
    #[arg(long, value_name = "FORMAT", default_value = "none")]
    compress: CompressFormat,
    /// ImageName in the metadata, which are not measured
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// ImageVersion in the metadata, which are not measured
    #[arg(long, value_name = "VERSION")]
    image_version: Option<String>,
    /// JSON object to carry in the metadata, which are not measured
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// Keep the owners that rootfs:PATH has; without it everything in it is root's
    #[arg(long)]
    keep_owners: bool,
    /// Refuse what would be a warning with a code E-…
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    source: SourceOptions,
}

/// What replaces the image's process.
#[derive(clap::Args, PartialEq)]
pub struct ProcessOptions {
    /// Replace the image's Entrypoint and drop its Cmd; repeat for each argument
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// Replace the image's Cmd; repeat for each argument
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// Set an environment variable; repeatable
    #[arg(long, value_name = "K=V")]
    env: Vec<String>,
    /// Replace the image's User
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Replace the image's WorkingDir
    #[arg(long, value_name = "PATH")]
    workdir: Option<String>,
}

/// What `eif verify` takes of all this.
pub struct Parts {
    pub kernel: Option<PathBuf>,
    pub cmdline: Option<String>,
    pub init: Option<PathBuf>,
    pub blobs: Option<PathBuf>,
    pub process: ProcessOptions,
    pub source: SourceOptions,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ProfileName {
    Eif,
    NitroCli,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum DockerStore {
    Overlay2,
    Containerd,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum MtimeMode {
    Zero,
    Keep,
    Clamp,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum CompressFormat {
    None,
    Gzip,
    Zstd,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let written = args.lock.as_deref().filter(|_| !args.locked);
    let documents = [&args.provenance, &args.report, &args.sbom].map(Option::as_deref);
    distinct([Some(&*args.output), written].into_iter().chain(documents))?;
    let mut plan = args.options.plan(&args.image)?;
    plan.lock = lock(args.lock, args.locked, &args.image)?;
    plan.documents = Documents { provenance: args.provenance, report: args.report, sbom: args.sbom, ..plan.documents };
    plan.signer = args.signing.signer()?;
    let report = eif::build::build(&plan, &args.output, &ui.progress())?;
    tell(&report, ui);
    ui.data(&report.measurements.to_json())?;
    Ok(ExitCode::SUCCESS)
}

/// A file to write. stdout has the measurements: `-`, which elsewhere stands for it, would become a file of that name.
pub fn written() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let stdout = path == Path::new("-");
        if stdout { Err("stdout has the measurements; a file of that name is ./-") } else { Ok(path) }
    })
}

/// One file cannot be two, however it is spelt.
pub fn distinct<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> Result<(), Failure> {
    let place = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = || Some(parent.canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(made).unwrap_or_else(|| path.to_owned())
    };
    let mut seen = BTreeSet::new();
    match paths.into_iter().flatten().find(|path| !seen.insert(place(path))) {
        Some(path) => Err(Failure::usage(format!("two things cannot be written to one file, {}", path.display()))),
        None => Ok(()),
    }
}

/// What becomes of the lock.
fn lock(path: Option<PathBuf>, locked: bool, image: &OsString) -> Result<Option<lock::Request>, Failure> {
    let Some(path) = path.or_else(|| locked.then(|| PathBuf::from("eif.lock"))) else { return Ok(None) };
    let Some(reference) = image.to_str() else {
        return Err(Failure::usage("a lock cannot carry the name of this image, which is no UTF-8"));
    };
    Ok(Some(lock::Request { path, reference: reference.to_owned(), locked }))
}

/// Warnings and summary, for people.
pub fn tell(report: &Report, ui: &Ui) {
    report.warnings.iter().for_each(|warning| ui.warn(warning));
    if let Some(pin) = &report.pin {
        ui.note(&format!("image     {pin}; name it so to get the same bytes whatever becomes of the tag"));
    }
    if let Some(digest) = report.manifest {
        ui.note(&format!("manifest  {digest}"));
    }
    ui.note(&format!("kernel    {}", mib(report.kernel)));
    let [first, second] = report.ramdisks;
    ui.note(&format!("ramdisk 1 {}, {} entries", mib(first), report.entries[0]));
    ui.note(&format!("ramdisk 2 {}, {} entries", mib(second), report.entries[1]));
    ui.note(&format!("unpacked  {}, {} inodes", mib(report.unpacked), report.inodes));
    for (name, pcr) in report.measurements.named() {
        ui.detail(&format!("{name}      {pcr}"));
    }
    ui.note(&format!("file      {}", mib(report.size)));
    let ramfs = match report.memory_ramfs {
        less if less < report.memory && !report.attributes => {
            format!(", {less} MiB with rootfstype=ramfs on the command line")
        }
        _ => String::new(),
    };
    ui.note(&format!("memory    the enclave needs at least {} MiB{ramfs}", report.memory));
}

/// Binary megabytes with one digit.
pub fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

impl ProcessOptions {
    fn overrides(self) -> Result<Overrides, Failure> {
        let Self { entrypoint, cmd, env, user, workdir } = self;
        // `docker run --env K` would take the value that K has in this shell.
        if let Some(bad) = env.iter().find(|item| !item.contains('=') || item.starts_with('=')) {
            let help = "variables of this shell are not passed on, since the result would depend on them";
            return Err(Failure::usage(format!("--env takes K=V, got: {bad}")).with_help(help));
        }
        let some = |items: Vec<String>| (!items.is_empty()).then_some(items);
        Ok(Overrides { entrypoint: some(entrypoint), cmd: some(cmd), env, user, workdir })
    }
}

impl BuildOptions {
    /// What it is when none is given.
    pub fn none() -> Result<Self, Failure> {
        #[derive(clap::Parser)]
        struct Nothing {
            #[command(flatten)]
            options: BuildOptions,
        }
        let parsed = Nothing::try_parse_from(["eif"]).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(parsed.options)
    }

    /// Those that a file's record does not have, or is not believed in.
    pub fn of_parts(parts: Parts) -> Result<Self, Failure> {
        let Parts { kernel, cmdline, init, blobs, process, source } = parts;
        Ok(Self { kernel, cmdline, init, blobs, process, source, ..Self::none()? })
    }

    /// Whether none was given.
    pub fn is_default(&self) -> bool {
        Self::none().is_ok_and(|none| none == *self)
    }

    /// The profile. Options that it leaves no choice of are refused, not passed over.
    fn profile(&self) -> Result<Profile, Failure> {
        if self.profile == ProfileName::Eif {
            let alone = [("--docker-store", self.docker_store.is_some())];
            let alone = alone.into_iter().chain([("--accept-unstable-times", self.accept_unstable_times)]);
            return match given(alone) {
                Some(option) => Err(Failure::usage(format!("{option} is for --profile nitro-cli"))),
                None => Ok(Profile::Eif),
            };
        }
        let fixed = given([
            ("--kernel", self.kernel.is_some()),
            ("--cmdline", self.cmdline.is_some()),
            ("--init", self.init.is_some()),
            ("--entrypoint", !self.process.entrypoint.is_empty()),
            ("--cmd", !self.process.cmd.is_empty()),
            ("--env", !self.process.env.is_empty()),
            ("--user", self.process.user.is_some()),
            ("--workdir", self.process.workdir.is_some()),
            ("--mtime", self.mtime != MtimeMode::Zero),
            ("--compress", self.compress != CompressFormat::None),
        ]);
        if let Some(option) = fixed {
            let help = "it packs the blobs and the image as they are; the own profile has that option";
            return Err(Failure::usage(format!("nitro-cli has no {option}: --profile nitro-cli cannot honour it"))
                .with_help(help));
        }
        if self.blobs.is_none() {
            let help =
                "the folder with bzImage or Image, cmdline, init and nsm.ko, such as /usr/share/nitro_enclaves/blobs";
            return Err(Failure::usage("--profile nitro-cli needs --blobs DIR").with_help(help));
        }
        Ok(Profile::NitroCli)
    }

    fn mtime(&self, profile: Profile, epoch: Option<u64>) -> Result<Mtime, Failure> {
        match (self.mtime, epoch) {
            _ if profile == Profile::NitroCli => Ok(Mtime::Keep),
            (MtimeMode::Zero, _) => Ok(Mtime::Zero),
            (MtimeMode::Keep, _) => Ok(Mtime::Keep),
            (MtimeMode::Clamp, Some(epoch)) => Ok(Mtime::Clamp(epoch)),
            (MtimeMode::Clamp, None) => {
                let help = "export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)";
                Err(Failure::usage("--mtime clamp needs SOURCE_DATE_EPOCH").with_help(help))
            }
        }
    }

    /// Every check that needs no image.
    pub fn plan(self, image: &OsString) -> Result<Plan, Failure> {
        let profile = self.profile()?;
        let epoch = environment::source_date_epoch()?;
        let platform: Platform =
            self.platform.parse().map_err(|error: eif::image::Error| Failure::usage(error.to_string()))?;
        let reference = Reference::parse(image)?;
        if self.keep_owners && !matches!(reference, Reference::Rootfs { .. }) {
            return Err(Failure::usage("--keep-owners is for rootfs:PATH; the owners of an image are kept anyway"));
        }
        let mtime = self.mtime(profile, epoch)?;
        let overrides = self.process.overrides()?;
        let scratch = std::env::temp_dir();
        let (limits, threads) = (self.source.limits(), self.source.threads());
        let access = self.source.access(&scratch, limits.unpacked)?;
        let elsewhere = matches!(reference, Reference::Docker(_) | Reference::DockerDaemon { .. });
        let pulled = (elsewhere && !access.offline).then(environment::now);
        Ok(Plan {
            reference,
            platform,
            kernel: self.kernel,
            cmdline: self.cmdline,
            init: self.init,
            blobs: self.blobs,
            profile,
            docker_store: match self.docker_store {
                Some(DockerStore::Containerd) => Store::Containerd,
                Some(DockerStore::Overlay2) | None => Store::Overlay2,
            },
            accept_unstable_times: self.accept_unstable_times,
            overrides,
            mtime,
            compress: match self.compress {
                CompressFormat::None => Compress::None,
                CompressFormat::Gzip => Compress::Gzip,
                CompressFormat::Zstd => Compress::Zstd,
            },
            name: self.name,
            image_version: self.image_version,
            custom: self.metadata.as_deref().map(environment::json_file).transpose()?,
            epoch,
            layers: Options { limits, threads, scratch, strict: self.strict, keep_owners: self.keep_owners },
            access,
            cache: environment::cache_if_any(),
            lock: None,
            documents: Documents { reference: image.to_string_lossy().into_owned(), pulled, ..Documents::default() },
            signer: None,
        })
    }
}

/// The first of the options that is given.
fn given(options: impl IntoIterator<Item = (&'static str, bool)>) -> Option<&'static str> {
    options.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
}
