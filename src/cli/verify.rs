//! `eif verify`: whether a file comes from an image, by building it again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use eif::Warning;
use eif::build::Lock;
use eif::eif::{Measurements, Pcr};
use eif::image::Digest;
use eif::verify::{self, Basis, Difference, NitroProof, Proof, Verdict};

use super::attest::{Bytes, bytes, proved};
use super::build::{BuildOptions, Parts, ProcessOptions};
use super::diff;
use super::environment;
use super::failure::Failure;
use super::inspect::{at, pretty};
use super::source::SourceOptions;
use super::ui::Ui;

/// Say whether an .eif comes from an image, by building it again
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  eif verify app.eif --image oci:layout:v1\n  eif verify app.eif --lock eif.lock\n  \
                        eif verify app.eif --image oci:layout:v1 --cmd serve --cmd --port=80\n  \
                        eif verify app.eif --image docker-archive:app.tar --pcr0 \"$PCR0\"\n\n\
                        Exit status: 0 the same, 1 different, or broken, or contradicts its own record,\n\
                        3 could not be decided.\n\
                        Whatever the record says, the command line must be eif's own and the process the image's, unless\n\
                        you say otherwise (--cmdline, --entrypoint, --cmd, --env, --user, --workdir), or --lock or --pcr0\n\
                        hold the file to what you have. Kernel and init are looked for by the hashes of the record: in\n\
                        the cache, and in this program. How things are packed is the record's: --mtime, --compress,\n\
                        --keep-owners, --profile.\n\
                        ImageName, ImageVersion, BuildTime and the builder's own metadata are nobody's but the file's:\n\
                        they are carried over, and not measured. Of a file that nitro-cli made the measurements are\n\
                        proved, of one of eif's every byte; without --blobs nothing is known of what boots in it."
)]
pub struct Args {
    /// The enclave image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    against: Against,
    /// The file's kernel, if it is none that `eif kernel build` has made here
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The file's init, if it is not eif's own
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Folder with AWS's blobs that the file was built with: bzImage or Image, cmdline, init, nsm.ko
    #[arg(long, value_name = "DIR")]
    blobs: Option<PathBuf>,
    /// The value that PCR0 must have
    #[arg(long, value_name = "HEX")]
    pcr0: Option<Pcr>,
    /// What the running enclave says about itself: verified, and its PCRs must be the file's
    #[arg(long, value_name = "DOC")]
    attestation: Option<PathBuf>,
    /// Trust these certificates instead of AWS's root (repeatable)
    #[arg(long, value_name = "PEM", requires = "attestation")]
    root: Vec<PathBuf>,
    /// The challenge that was sent to the enclave: a document without it may be old
    #[arg(long, value_name = "HEX", value_parser = bytes, requires = "attestation")]
    nonce: Option<Bytes>,
    /// Compile init and kernel from their sources as well, and compare their hashes (some minutes)
    #[arg(long)]
    from_source: bool,
    #[command(flatten)]
    said: Said,
    #[command(flatten)]
    source: SourceOptions,
}

/// What the builder may choose beside the image.
#[derive(clap::Args)]
#[command(next_help_heading = "What the file was built with, as `eif build` was told")]
struct Said {
    /// The kernel command line that the file should have
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,
    #[command(flatten)]
    process: ProcessOptions,
}

/// At least one of them.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Against {
    /// The image that the file should come from (see `eif build`)
    #[arg(long, value_name = "IMAGE")]
    image: Option<OsString>,
    /// The lock that the file should fit, as `eif build --lock` wrote it; without --image its image is taken
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
}

/// What to do about options. Their values are not put into a command to copy: they are the file's.
const UNSAID: &str = "the image has no say in these options: if the file's values are what you want, give them to \
                      `eif verify` as well; --lock and --pcr0 vouch for all of them";

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let lock = args.against.lock.as_deref().map(Lock::read).transpose()?;
    let image_of_lock = args.against.image.is_none();
    let image = args.against.image.or_else(|| lock.as_ref().map(|lock| OsString::from(&lock.reference)));
    let Some(image) = image else { return Err(Failure::usage("nothing to hold the file against")) };
    let Said { cmdline, process } = args.said;
    let parts =
        Parts { kernel: args.kernel, cmdline, init: args.init, blobs: args.blobs, process, source: args.source };
    let plan = BuildOptions::of_parts(parts)?.plan(&image)?;
    let file = diff::open(args.file.as_os_str())?;
    let from_source = args.from_source.then(environment::tools);
    let proved = |document: &PathBuf| proved(document, &args.root, args.nonce.as_ref());
    let enclave = args.attestation.as_ref().map(proved).transpose()?;
    let attested = enclave
        .as_ref()
        .map(|proof| proof.claims())
        .map(|claims| (0..=u8::MAX).filter_map(|index| Some((index, claims.pcr(index)?))).collect());
    let basis = Basis { plan, lock, image_of_lock, pcr0: args.pcr0, attested, from_source };
    let verdict = verify::rebuild(&file, &basis, &ui.progress(), &mut |line| ui.note(line));
    let verdict = verdict.map_err(|error| at(&args.file, &error))?;
    let signed = file.signature().is_ok_and(|signature| signature.is_some());
    let image = image.to_string_lossy();
    let enclave = enclave.as_ref().map(|proof| proof.claims().module_id.as_str());
    let asked = Asked { file: &args.file, image: &image, signed, enclave };
    match verdict {
        Verdict::Undecided(why) => Err(Failure::from(why).undecided()),
        Verdict::Same(proof) => {
            tell(&proof, &asked, ui);
            if enclave.is_some() && args.nonce.is_none() {
                ui.note("attested  whether the document is fresh is not proved: ask the enclave with --nonce");
            }
            ui.data(&if ui.json { pretty(&Answer::same(&asked, &proof))? } else { asked.sentence(&proof) })?;
            Ok(ExitCode::SUCCESS)
        }
        Verdict::NitroCli(proof) => {
            proof.warnings.iter().for_each(|warning| ui.warn(warning));
            measured(&proof.measurements, ui);
            ui.data(&if ui.json {
                pretty(&Answer::nitro_cli(&asked, &proof))?
            } else {
                eif::shown(&asked.nitro_sentence(&proof)) + "\n"
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Verdict::Differs(differences) => {
            ui.data(&if ui.json { pretty(&Answer::differs(&asked, &differences))? } else { diff::text(&differences) })?;
            if differences.iter().any(|difference| difference.part == "options") {
                ui.note(&format!("{}: {UNSAID}", ui.paint("help", "1;36")));
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

fn measured(measurements: &Measurements, ui: &Ui) {
    for (name, pcr) in measurements.named() {
        ui.note(&format!("{name}      {pcr}"));
    }
}

/// What the question was about.
struct Asked<'a> {
    file: &'a Path,
    image: &'a str,
    signed: bool,
    /// The enclave of an attestation document.
    enclave: Option<&'a str>,
}

impl Asked<'_> {
    fn sentence(&self, proof: &Proof) -> String {
        let Asked { file, signed, .. } = self;
        let signature = if *signed { " but its signature" } else { "" };
        let (image, enclave) = (self.source(proof.manifest), self.end());
        let sentence = format!("same: every byte of {}{signature} comes from {image}{enclave}", file.display());
        eif::shown(&sentence) + "\n"
    }

    fn nitro_sentence(&self, proof: &NitroProof) -> String {
        let registers = if proof.boot { "PCR0, PCR1 and PCR2" } else { "PCR2" };
        let verb = if proof.boot { "are" } else { "is" };
        let (file, image, end) = (self.file.display(), self.source(proof.manifest), self.end());
        let made = format!("{registers} of {file} {verb} what nitro-cli {} makes of {image}{end}", proof.version);
        if proof.times.is_empty() {
            return format!("same: {made}");
        }
        let times = proof.times.join(", ");
        let count = proof.times.len();
        format!("same but for the times of {count} directories, which nitro-cli takes from a clock ({times}): {made}")
    }

    fn source(&self, manifest: Option<Digest>) -> String {
        let digest = manifest.map(|digest| format!(" ({digest})")).unwrap_or_default();
        format!("{}{digest}", self.image)
    }

    fn end(&self) -> String {
        self.enclave.map(|enclave| format!(", and the enclave {enclave} runs it")).unwrap_or_default()
    }
}

/// Where the parts that are not the image come from, for people.
fn tell(proof: &Proof, asked: &Asked, ui: &Ui) {
    proof.warnings.iter().for_each(|warning| ui.warn(warning));
    let Proof { record, kernel_lock_id, toolchain, .. } = proof;
    let compiled = if proof.from_source { ", compiled again" } else { "" };
    let kernel = kernel_lock_id.as_ref().map_or("a user's own".to_owned(), |id| format!("{id} of kernels.lock"));
    ui.note(&format!("kernel    {kernel}{compiled}, SHA-256 {}", record.kernel_sha256));
    ui.note(&format!("init      {}{compiled}, SHA-256 {}", toolchain.unwrap_or("a user's own"), record.init_sha256));
    ui.note(&format!("cmdline   {}", record.cmdline));
    measured(&proof.measurements, ui);
    if asked.signed {
        ui.note("signature valid; PCR8 says whose it is");
    }
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Answer<'a> {
    same: bool,
    image: &'a str,
    manifest_digest: Option<String>,
    #[serde(rename = "Measurements")]
    measurements: Option<&'a Measurements>,
    kernel: Option<Part<'a>>,
    init: Option<Part<'a>>,
    /// Whether kernel and init were compiled from their sources.
    from_source: bool,
    signed: bool,
    /// The module of an attestation document.
    enclave: Option<&'a str>,
    /// Of a file that nitro-cli made.
    nitro_cli: Option<NitroAnswer<'a>>,
    warnings: Vec<String>,
    differences: &'a [Difference],
}

/// What is proved of a file that nitro-cli made: its measurements, but not its bytes.
#[derive(serde::Serialize)]
struct NitroAnswer<'a> {
    version: &'a str,
    /// `PCR2` alone where what boots was taken from the file itself.
    proved: &'static [&'static str],
    /// Directories whose times were taken from the file.
    times_of_the_build: &'a [String],
}

fn lines(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(|warning| format!("[{}] {}", warning.code, warning.message)).collect()
}

/// Kernel or init.
#[derive(serde::Serialize)]
struct Part<'a> {
    sha256: &'a str,
    /// The entry of `kernels.lock`, or the compiler; `null` for a user's own.
    source: Option<&'a str>,
}

impl<'a> Answer<'a> {
    fn same(asked: &Asked<'a>, proof: &'a Proof) -> Self {
        let Proof { record, measurements, manifest, kernel_lock_id, toolchain, from_source, warnings } = proof;
        Self {
            same: true,
            manifest_digest: manifest.map(|digest| digest.to_string()),
            measurements: Some(measurements),
            kernel: Some(Part { sha256: &record.kernel_sha256, source: kernel_lock_id.as_deref() }),
            init: Some(Part { sha256: &record.init_sha256, source: *toolchain }),
            from_source: *from_source,
            warnings: lines(warnings),
            ..Self::differs(asked, &[])
        }
    }

    fn nitro_cli(asked: &Asked<'a>, proof: &'a NitroProof) -> Self {
        let proved: &[&str] = if proof.boot { &["PCR0", "PCR1", "PCR2"] } else { &["PCR2"] };
        let answer = NitroAnswer { version: &proof.version, proved, times_of_the_build: &proof.times };
        Self {
            same: true,
            manifest_digest: proof.manifest.map(|digest| digest.to_string()),
            measurements: Some(&proof.measurements),
            nitro_cli: Some(answer),
            warnings: lines(&proof.warnings),
            ..Self::differs(asked, &[])
        }
    }

    fn differs(asked: &Asked<'a>, differences: &'a [Difference]) -> Self {
        Self {
            same: false,
            image: asked.image,
            manifest_digest: None,
            measurements: None,
            kernel: None,
            init: None,
            from_source: false,
            signed: asked.signed,
            enclave: asked.enclave,
            nitro_cli: None,
            warnings: Vec::new(),
            differences,
        }
    }
}
