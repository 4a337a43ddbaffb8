//! `eif sign`: a signature for a file that is there already.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use eif::eif::signature::{self, Certificate, LocalKey, Signer, SigningCertificate, SigningKey};
use eif::eif::{Eif, Measurements, Pcr};

use super::build::written;
use super::environment;
use super::failure::Failure;
use super::inspect::at;
use super::ui::Ui;

/// A certificate or a key is never larger, in bytes.
const PEM_LIMIT: u64 = 1 << 20;
/// A raw signature is never larger, in bytes: more is read only to say how much too much it is.
const SIGNATURE_LIMIT: u64 = 4096;

/// Sign an .eif, in place or to another file
///
/// The signature is ECDSA over PCR0 with the algorithm of the certificate's key (ES256, ES384, ES512), and the
/// certificate gives PCR8. An old signature is replaced. With a key in a file the result is always the same (RFC 6979);
/// a key service or a hardware module may sign differently each time, so that the file changes while its PCRs do not.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif sign app.eif --signing-certificate cert.pem --private-key key.pem\n\n  \
                        With a hardware module:\n  \
                        eif sign app.eif --signing-certificate cert.pem --print-payload > payload\n  \
                        eif sign app.eif --signing-certificate cert.pem --attach-signature raw-r-and-s")]
pub struct Args {
    /// The enclave image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The signed file, in place of FILE itself
    #[arg(long, short, value_name = "FILE", conflicts_with = "print_payload", value_parser = written())]
    output: Option<PathBuf>,
    /// The certificate (PEM) of the signing key; the first one in the file is used
    #[arg(long, value_name = "CERT.pem")]
    signing_certificate: PathBuf,
    #[command(flatten)]
    how: How,
}

/// Exactly one of them.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct How {
    /// The private key: a PEM file (SEC1 or PKCS#8, not encrypted), or the ARN of a KMS key where `eif` is built with
    /// the feature `kms`
    #[arg(long, value_name = "KEY.pem|ARN")]
    private_key: Option<OsString>,
    /// Print the bytes that have to be signed (COSE Sig_structure), and write nothing
    #[arg(long)]
    print_payload: bool,
    /// Take a signature over these bytes: r and s, one behind the other, in a file or from stdin (`-`)
    #[arg(long, value_name = "SIG")]
    attach_signature: Option<PathBuf>,
}

/// The pair that signs while a file is built.
#[derive(clap::Args)]
#[command(next_help_heading = "Signature")]
pub struct SigningOptions {
    /// Sign the file with this certificate (PEM)
    #[arg(long, value_name = "CERT.pem", requires = "private_key")]
    signing_certificate: Option<PathBuf>,
    /// Its private key: a PEM file, or the ARN of a KMS key (see `eif sign --help`)
    #[arg(long, value_name = "KEY.pem|ARN", requires = "signing_certificate")]
    private_key: Option<OsString>,
}

impl SigningOptions {
    /// The signer, if there shall be one: certificate and key are checked here, before anything is built.
    pub fn signer(&self) -> Result<Option<Signer>, Failure> {
        match (&self.signing_certificate, &self.private_key) {
            (Some(certificate), Some(key)) => pair(certificate, key).map(Some),
            _ => Ok(None),
        }
    }
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let certificate = to_sign(&args.signing_certificate)?;
    let how = match (&args.how.private_key, &args.how.attach_signature) {
        (Some(key), _) => Source::Signer(Box::new(signer(certificate.clone(), key)?)),
        (_, Some(path)) => Source::Ready(raw_signature(path)?, path.clone()),
        _ => Source::Elsewhere,
    };
    let (eif, measured) = open(&args.file)?;
    let section = match &how {
        Source::Elsewhere => return print_payload(&certificate.to_be_signed(&measured.pcr0)),
        Source::Signer(signer) => signer.section(&measured.pcr0)?,
        Source::Ready(signature, path) => {
            certificate.section(&measured.pcr0, signature).map_err(|error| at(path, &error))?
        }
    };
    let target = args.output.as_ref().unwrap_or(&args.file);
    eif.save_signed(&section, target).map_err(|error| at(target, &error))?;
    ui.note(&format!("signed    {} by {}", target.display(), certificate.certificate().subject()));
    ui.data(&Measurements { pcr8: Some(certificate.certificate().pcr8()), ..measured }.to_json())?;
    Ok(ExitCode::SUCCESS)
}

/// The signer of a certificate and its key, once they have been checked.
pub fn pair(certificate: &Path, key: &OsStr) -> Result<Signer, Failure> {
    signer(to_sign(certificate)?, key)
}

/// Signs a file in place; gives what it measures to then.
pub fn in_place(path: &Path, signer: &Signer) -> Result<Measurements, Failure> {
    let (eif, measured) = open(path)?;
    eif.save_signed(&signer.section(&measured.pcr0)?, path).map_err(|error| at(path, &error))?;
    Ok(Measurements { pcr8: Some(signer.certificate().pcr8()), ..measured })
}

/// Where a signature comes from.
enum Source {
    Signer(Box<Signer>),
    /// From this file.
    Ready(Vec<u8>, PathBuf),
    /// From whoever reads the payload.
    Elsewhere,
}

/// A file that can be signed, and what it measures to.
fn open(path: &Path) -> Result<(Eif, Measurements), Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let eif = Eif::open(file).map_err(|error| at(path, &error))?;
    eif.signable().map_err(|error| at(path, &error))?;
    let measured = eif.measure(environment::processors().get()).map_err(|error| at(path, &error))?;
    Ok((eif, measured))
}

fn print_payload(payload: &[u8]) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(payload).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))?;
    Ok(ExitCode::SUCCESS)
}

/// PCR8 of files that are signed with the first certificate of a PEM file. Its inside has no part in that.
pub fn pcr8(path: &Path) -> Result<Pcr, Failure> {
    let der = signature::der(&read(path, PEM_LIMIT)?).map_err(|error| at(path, &error))?;
    Ok(Pcr::of_certificate(&der))
}

/// A certificate that can sign now.
fn to_sign(path: &Path) -> Result<SigningCertificate, Failure> {
    let pem = read(path, PEM_LIMIT)?;
    let certificate = Certificate::from_pem(&pem).and_then(|certificate| certificate.to_sign(environment::now()));
    certificate.map_err(|error| at(path, &error))
}

fn signer(certificate: SigningCertificate, key: &OsStr) -> Result<Signer, Failure> {
    let held = if key.as_encoded_bytes().starts_with(b"arn:") { remote_key(key)? } else { local_key(Path::new(key))? };
    Signer::new(certificate, held).map_err(|error| at(Path::new(key), &error))
}

fn local_key(path: &Path) -> Result<Arc<dyn SigningKey>, Failure> {
    let pem = read(path, PEM_LIMIT)?;
    Ok(Arc::new(LocalKey::from_pem(&pem).map_err(|error| at(path, &error))?))
}

fn remote_key(arn: &OsStr) -> Result<Arc<dyn SigningKey>, Failure> {
    let arn = arn.to_string_lossy();
    let Some(region) = region(&arn) else {
        let help = "arn:aws:kms:REGION:ACCOUNT:key/ID; an alias is none";
        return Err(Failure::refused("E-key-arn", format!("{arn}: it is no ARN of a KMS key")).with_help(help));
    };
    in_kms(&arn, region)
}

#[cfg(feature = "kms")]
fn in_kms(arn: &str, region: &str) -> Result<Arc<dyn SigningKey>, Failure> {
    let key = super::kms::Key::find(arn, region).map_err(|error| at(Path::new(arn), &error))?;
    Ok(key)
}

#[cfg(not(feature = "kms"))]
fn in_kms(arn: &str, _region: &str) -> Result<Arc<dyn SigningKey>, Failure> {
    let message = format!("{arn}: this `eif` is built without the feature `kms`, it cannot sign with a key in KMS");
    let help = "build it with `cargo build --release --features kms`, or use --print-payload and --attach-signature";
    Err(Failure::refused("E-kms", message).with_help(help))
}

/// The region of a KMS key's ARN: `arn:aws…:kms:REGION:ACCOUNT:key/ID`, also with `:` before the ID, as nitro-cli
/// takes them. `None` if it is none.
fn region(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':');
    let mut next = || parts.next();
    let (arn, partition, service, region, account, key) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let only = |text: &str, allowed: fn(char) -> bool| !text.is_empty() && text.chars().all(allowed);
    let id = key.strip_prefix("key/").or_else(|| key.strip_prefix("key:"))?;
    let partition = partition.strip_prefix("aws")?;
    let valid = arn == "arn"
        && partition.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        && service == "kms"
        && only(region, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && account.len() == 12
        && only(account, |c| c.is_ascii_digit())
        && only(id, |c| c.is_ascii_alphanumeric() || c == '-');
    valid.then_some(region)
}

/// A raw signature.
fn raw_signature(path: &Path) -> Result<Vec<u8>, Failure> {
    if path != Path::new("-") {
        return read(path, SIGNATURE_LIMIT);
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(SIGNATURE_LIMIT).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::refused("E-io", format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_of_keys_are_nitro_clis() {
        for (arn, expected) in [
            ("arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab", Some("eu-west-1")),
            ("arn:aws:kms:eu-west-1:123456789012:key:1234abcd", Some("eu-west-1")),
            ("arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-12", Some("us-gov-west-1")),
            ("arn:aws-cn:kms:cn-north-1:123456789012:key/a", Some("cn-north-1")),
            ("arn:aws:kms::123456789012:key/a", None),
            ("arn:aws:s3:eu-west-1:123456789012:key/a", None),
            ("arn:other:kms:eu-west-1:123456789012:key/a", None),
            ("arn:aws:kms:eu-west-1:12345678901:key/a", None),
            ("arn:aws:kms:eu-west-1:12345678901a:key/a", None),
            ("arn:aws:kms:eu-west-1:123456789012:alias/a", None),
            ("arn:aws:kms:eu-west-1:123456789012:key/", None),
            ("arn:aws:kms:eu-west-1:123456789012:key/a@b", None),
            ("arn:aws:kms:eu-west-1:123456789012:key-a", None),
            ("arn:", None),
        ] {
            assert_eq!(region(arn), expected, "{arn}");
        }
    }
}
