//! `eif pcr`: what a file, an image, a certificate, a role or an instance measures to.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use eif::eif::{Eif, Measurements, Pcr};
use eif::image::Reference;

use super::build::{self, BuildOptions};
use super::environment;
use super::failure::Failure;
use super::inspect::at;
use super::parent;
use super::sign;
use super::ui::Ui;

/// Transports that a file name is not taken for.
const TRANSPORTS: [&str; 6] = ["docker://", "docker-daemon:", "docker-archive:", "oci:", "oci-archive:", "rootfs:"];

/// Print the PCRs of an .eif or of what an image would build to, or the one PCR that a file, certificate, role or
/// instance gives.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif pcr app.eif\n  eif pcr app.eif --format env\n  \
                        eif pcr docker-archive:app.tar\n  \
                        eif pcr --role-arn arn:aws:iam::123456789012:role/Webserver\n  \
                        eif pcr docker-archive:app.tar --signing-certificate cert.pem")]
pub struct Args {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    options: BuildOptions,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

/// Exactly one of them, or a file and a certificate.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct What {
    /// The enclave image: PCR0, PCR1, PCR2, and PCR8 if it is signed. Or a container image (see `eif build`): the
    /// PCRs of what would be built, and no file is written
    #[arg(value_name = "FILE.eif|IMAGE", conflicts_with_all = ["role_arn", "instance_id", "input"])]
    file: Option<OsString>,
    /// PCR3 of an enclave whose parent has this IAM role
    #[arg(long, value_name = "ARN", value_parser = parent::role_arn, conflicts_with_all = ["instance_id", "signing_certificate", "input"])]
    role_arn: Option<String>,
    /// PCR4 of an enclave on this parent instance
    #[arg(long, value_name = "ID", value_parser = parent::instance_id, conflicts_with_all = ["signing_certificate", "input"])]
    instance_id: Option<String>,
    /// PCR8 of an enclave image signed with this certificate (PEM); beside FILE or IMAGE, all PCRs that it would
    /// have if it were signed with it
    #[arg(long, value_name = "CERT.pem", conflicts_with = "input")]
    signing_certificate: Option<PathBuf>,
    /// The PCR that any file gives, as `nitro-cli pcr --input` has it
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// nitro-cli's object
    Json,
    /// `PCR0=…`, for a shell
    Env,
    /// `pcr0=…`, for $GITHUB_OUTPUT
    Github,
    /// `pcr0 = "…"`, for a .tfvars file
    Terraform,
    /// `PCR0 …`, for people
    Text,
}

/// Measures and prints.
pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let format = args.format;
    if !args.what.file.as_deref().is_some_and(is_image) && !args.options.is_default() {
        let help = "name an image by its transport (docker://NAME), its tag or its digest; or drop the option";
        return Err(Failure::usage("options of a build need a container image to build").with_help(help));
    }
    let text = match &args.what.file {
        Some(what) => {
            let measured =
                if is_image(what) { measure_image(what, args.options, ui)? } else { measure(Path::new(what))? };
            let measured = signed_with(measured, args.what.signing_certificate.as_deref())?;
            if format == Format::Json { measured.to_json() } else { lines(&measured.named(), format) }
        }
        None if format == Format::Json => object(single(&args.what)?),
        None => lines(&[single(&args.what)?], format),
    };
    ui.data(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether an argument names an image and not a file. The name of an image in a registry must have a tag or a digest to
/// be known as one, and no file may have the same.
pub fn is_image(what: &OsStr) -> bool {
    let transport = TRANSPORTS.iter().any(|transport| what.as_bytes().starts_with(transport.as_bytes()));
    let marked = what.as_bytes().iter().any(|byte| [b':', b'@'].contains(byte));
    transport || (marked && !Path::new(what).exists() && Reference::parse(what).is_ok())
}

/// Builds without a file.
fn measure_image(image: &OsString, options: BuildOptions, ui: &Ui) -> Result<Measurements, Failure> {
    let report = eif::build::measure(&options.plan(image)?, &ui.progress())?;
    build::tell(&report, ui);
    Ok(report.measurements)
}

/// Measures a file that all readers see alike; anything else is refused.
pub fn measure(path: &Path) -> Result<Measurements, Failure> {
    let eif = Eif::open(open(path)?).map_err(|error| at(path, &error))?;
    eif.measure(environment::processors().get()).map_err(|error| at(path, &error))
}

fn signed_with(measured: Measurements, certificate: Option<&Path>) -> Result<Measurements, Failure> {
    let Some(path) = certificate else { return Ok(measured) };
    Ok(Measurements { pcr8: Some(sign::pcr8(path)?), ..measured })
}

/// The value that one of the other options asks for, with the name that nitro-cli gives it.
fn single(what: &What) -> Result<(&'static str, Pcr), Failure> {
    if let Some(arn) = &what.role_arn {
        return Ok(("PCR3", Pcr::of_role(arn)));
    }
    if let Some(id) = &what.instance_id {
        return Ok(("PCR4", Pcr::of_instance(id)));
    }
    if let Some(path) = &what.signing_certificate {
        return Ok(("PCR8", sign::pcr8(path)?));
    }
    let Some(path) = &what.input else { return Err(Failure::usage("nothing to measure")) };
    let pcr = Pcr::of_reader(&mut open(path)?).map_err(|error| io(path, &error))?;
    Ok(("PCR", pcr))
}

fn object((name, pcr): (&str, Pcr)) -> String {
    format!("{{\n  \"{name}\": \"{pcr}\"\n}}")
}

fn lines(named: &[(&str, Pcr)], format: Format) -> String {
    let line = |(name, pcr): &(&str, Pcr)| match format {
        Format::Json => object((name, *pcr)),
        Format::Env => format!("{name}={pcr}\n"),
        Format::Github => format!("{}={pcr}\n", name.to_lowercase()),
        Format::Terraform => format!("{} = \"{pcr}\"\n", name.to_lowercase()),
        Format::Text => format!("{name} {pcr}\n"),
    };
    named.iter().map(line).collect()
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| io(path, &error))
}

fn io(path: &Path, error: &std::io::Error) -> Failure {
    Failure::refused("E-io", format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_the_interfaces() {
        let named = [("PCR0", Pcr([0; 48])), ("PCR8", Pcr([0xab; 48]))];
        let (zero, eight) = ("0".repeat(96), "ab".repeat(48));
        let expect = |format, text: String| assert_eq!(lines(&named, format), text);
        expect(Format::Env, format!("PCR0={zero}\nPCR8={eight}\n"));
        expect(Format::Github, format!("pcr0={zero}\npcr8={eight}\n"));
        expect(Format::Terraform, format!("pcr0 = \"{zero}\"\npcr8 = \"{eight}\"\n"));
        expect(Format::Text, format!("PCR0 {zero}\nPCR8 {eight}\n"));
        assert_eq!(object(named[0]), format!("{{\n  \"PCR0\": \"{zero}\"\n}}"));
    }
}
