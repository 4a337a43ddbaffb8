//! `nitro-cli build-enclave`: a container image to an enclave image.
//!
//! Where NITRO_CLI_BLOBS has all that nitro-cli packs, the file has nitro-cli's layout and so its PCRs; else it is one of
//! ours, with the kernel and the command line of the folder if it has them. ImageName and ImageVersion have fixed
//! defaults, and DockerInfo is null: none of them is measured, and the file shall not depend on where it is built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use eif::Arch;
use eif::build::{self, Plan, Profile, Report};
use eif::eif::signature::Signer;
use eif::image::{self, Platform, Reference};
use eif::initramfs::Mtime;

use super::errors::{Code, Refused};
use super::{Stop, Ui};
use crate::cli::build::BuildOptions;
use crate::cli::failure::Failure;
use crate::cli::{environment, sign};

/// A metadata file may be this large, in bytes.
const METADATA_LIMIT: usize = 4096;

/// Builds an enclave image and saves it to a file
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nitro-cli build-enclave --docker-uri hello:latest --output-file hello.eif\n  \
                        nitro-cli build-enclave --docker-uri docker-archive:app.tar --output-file app.eif\n  \
                        NITRO_CLI_BLOBS=/usr/share/nitro_enclaves/blobs nitro-cli build-enclave --docker-uri hello:latest \
                        --output-file hello.eif")]
pub struct Args {
    /// The image: NAME[:TAG], looked for in the Docker engine here and then in its registry, or any reference that
    /// `eif build` takes; the name to give it with --docker-dir
    #[arg(long, value_name = "URI")]
    docker_uri: OsString,
    /// Directory containing a Dockerfile: the image is made by `docker build` first
    #[arg(long, value_name = "DIR")]
    docker_dir: Option<PathBuf>,
    /// Location where the enclave image should be saved
    #[arg(long, value_name = "FILE")]
    output_file: PathBuf,
    /// The X.509 signing certificate (PEM)
    #[arg(long, value_name = "CERT.pem")]
    signing_certificate: Option<PathBuf>,
    /// Its private key: a PEM file, or the ARN of a KMS key
    #[arg(long, value_name = "KEY.pem|ARN")]
    private_key: Option<OsString>,
    /// Name for the enclave image
    #[arg(long)]
    name: Option<String>,
    /// Version of the enclave image
    #[arg(long)]
    version: Option<String>,
    /// JSON file with custom metadata, of at most 4096 bytes
    #[arg(long, value_name = "FILE.json")]
    metadata: Option<PathBuf>,
}

pub fn run(args: Args, ui: &Ui) -> Result<(), Stop> {
    let signer = signer(&args)?;
    ui.note("Start building the Enclave Image...");
    let sources = sources(&args.docker_uri, args.docker_dir.is_some())?;
    if let Some(folder) = &args.docker_dir {
        docker_build(&args.docker_uri, folder)?;
    }
    let plan = Plan { signer, ..plan(&args)? };
    let report = build_first(plan, sources, &args.output_file, ui)?;
    crate::cli::build::tell(&report, ui);
    ui.note("Enclave Image successfully created.");
    ui.data(&report.measurements.to_json()).map_err(Stop::Stdout)
}

/// Certificate and key come together.
fn signer(args: &Args) -> Result<Option<Signer>, Refused> {
    let missing = |name: &str| {
        let why = "a signature needs a certificate and its private key";
        Err(Refused::new(Code::MissingArgument, why).about([name.to_owned()]))
    };
    match (&args.signing_certificate, &args.private_key) {
        (Some(certificate), Some(key)) => {
            sign::pair(certificate, key).map(Some).map_err(|error| Refused::because(Code::EifBuilding, &error))
        }
        (Some(_), None) => missing("private-key"),
        (None, Some(_)) => missing("signing-certificate"),
        (None, None) => Ok(None),
    }
}

/// The plan of a build whose image is looked for where its reference says.
fn plan(args: &Args) -> Result<Plan, Refused> {
    let plan = BuildOptions::none().and_then(|options| options.plan(&args.docker_uri));
    let mut plan = plan.map_err(|error| Refused::because(Code::DockerPull, &error))?;
    plan.platform = host();
    plan.name = args.name.clone();
    plan.image_version = args.version.clone();
    plan.custom = args.metadata.as_deref().map(custom).transpose()?;
    if let Some(folder) = environment::nitro_cli_blobs() {
        blobs(&mut plan, folder)?;
    }
    Ok(plan)
}

/// nitro-cli builds for the machine that it runs on.
fn host() -> Platform {
    let arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };
    Platform { arch }
}

fn custom(path: &Path) -> Result<serde_json::Value, Refused> {
    let because = |error: &Failure| Refused::because(Code::EifBuilding, error);
    let bytes = environment::small_file(path, METADATA_LIMIT).map_err(|error| because(&error))?;
    if bytes.len() > METADATA_LIMIT {
        let why = format!("{}: a metadata file has at most {METADATA_LIMIT} bytes", path.display());
        return Err(Refused::new(Code::EifBuilding, why));
    }
    let why = |error: serde_json::Error| format!("{}: {error}", path.display());
    serde_json::from_slice(&bytes).map_err(|error| Refused::new(Code::EifBuilding, why(error)))
}

/// All four parts are nitro-cli's layout; of fewer, kernel and command line are taken.
fn blobs(plan: &mut Plan, folder: PathBuf) -> Result<(), Refused> {
    let there = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    let (own, other) = match plan.platform.arch {
        Arch::X86_64 => ("bzImage", "Image"),
        Arch::Aarch64 => ("Image", "bzImage"),
    };
    let (kernel, cmdline) = (there(own).or_else(|| there(other)), there("cmdline"));
    if kernel.is_some() && cmdline.is_some() && there("init").is_some() && there("nsm.ko").is_some() {
        plan.profile = Profile::NitroCli;
        plan.mtime = Mtime::Keep;
        plan.blobs = Some(folder);
        return Ok(());
    }
    if let Some(path) = cmdline {
        let text = std::fs::read_to_string(&path).map_err(|error| Refused::file(&path, "Read", error))?;
        plan.cmdline = Some(text.trim().to_owned());
    }
    plan.kernel = kernel;
    Ok(())
}

/// Where the image is looked for. A bare name is first that of an image in the Docker engine here, as with nitro-cli;
/// with `built`, it was made there just now.
fn sources(uri: &OsString, built: bool) -> Result<Vec<Reference>, Refused> {
    let parse = |text: &OsString| {
        Reference::parse(text).map_err(|error| Refused::because(Code::DockerPull, &Failure::from(error)))
    };
    let named = parse(uri)?;
    if !matches!(named, Reference::Docker(_)) || uri.as_encoded_bytes().starts_with(b"docker://") {
        if built {
            let why = "--docker-uri is the name that the image gets in the Docker engine: NAME[:TAG]";
            return Err(Refused::new(Code::DockerBuild, why));
        }
        return Ok(vec![named]);
    }
    let mut local = OsString::from("docker-daemon:");
    local.push(uri);
    let local = parse(&local)?;
    Ok(if built { vec![local] } else { vec![local, named] })
}

/// Builds from the first of the sources that has the image.
fn build_first(mut plan: Plan, sources: Vec<Reference>, output: &Path, ui: &Ui) -> Result<Report, Refused> {
    let mut left = sources.len();
    for source in sources {
        left -= 1;
        let local = !matches!(source, Reference::Docker(_));
        plan.reference = source;
        match build::build(&plan, output, &ui.progress()) {
            Ok(report) => {
                if local {
                    ui.note("Using the locally available Docker image...");
                }
                return Ok(report);
            }
            Err(build::Error::Image(image::Error::NotInEngine { .. })) if left > 0 => {}
            Err(build::Error::Image(error @ image::Error::Engine { .. })) if left > 0 => {
                ui.detail(&format!("engine    {error}"));
            }
            Err(error) => return Err(refused(error, output)),
        }
    }
    Err(Refused::new(Code::DockerPull, "there is no place to look for the image"))
}

/// `docker build`, whose words go to stderr: stdout is for JSON.
fn docker_build(uri: &OsString, folder: &Path) -> Result<(), Refused> {
    let mut command = Command::new("docker");
    command.args(["build", "-t"]).arg(uri).arg(folder).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status();
    let status = status.map_err(|error| Refused::new(Code::DockerBuild, format!("docker build: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Refused::new(Code::DockerBuild, format!("docker build: {status}"))),
    }
}

/// Which of nitro-cli's codes a failure has.
fn refused(error: build::Error, output: &Path) -> Refused {
    let (code, facts) = match &error {
        build::Error::Image(_) => (Code::DockerPull, None),
        build::Error::Blob { path, .. } => (Code::FileOperation, Some(path.clone())),
        build::Error::Output { .. } => (Code::FileOperation, Some(output.to_owned())),
        _ => (Code::EifBuilding, None),
    };
    let facts = facts.map(|path| [path.display().to_string(), "Open".to_owned()]);
    Refused::because(code, &error.into()).about(facts.into_iter().flatten())
}
