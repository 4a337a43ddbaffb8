//! `eif attest`: what an enclave says about itself, and what of it is proved.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use eif::attest::document::{self, Claims, Document, MAX_SIZE, Proof};
use eif::attest::{Certificate, Roots};
use eif::build::lock::{Lock, Pcrs};
use eif::eif::Pcr;
use eif::eif::metadata::rfc3339;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::environment;
use super::failure::Failure;
use super::inspect::{at, pretty};
use super::pcr::measure;
use super::ui::Ui;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif attest show document.bin\n  eif attest verify document.bin --eif app.eif")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Show(Show),
    Verify(Box<Verify>),
}

/// Say what is in a document, without asking whether it is true
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  eif attest show document.bin\n  base64 -w0 document.bin | eif attest show - --json"
)]
struct Show {
    /// The document, as the NSM gives it or in base64; `-` is stdin
    #[arg(value_name = "DOC")]
    document: PathBuf,
}

/// Verify a document's signature, its chain to AWS's root, and what it says
#[derive(clap::Args)]
#[command(after_help = "\
Without --eif, --lock or --pcr nothing is said about the image, without --nonce or --max-age nothing about the document's age.

Examples:
  eif attest verify document.bin --eif app.eif --nonce 00112233445566778899aabbccddeeff
  eif attest verify document.b64 --pcr 0=HEX --pcr 8=HEX --max-age 300
  eif attest verify document.bin --lock eif.lock --max-age 300
  eif attest verify - --eif app.eif --root test-root.pem --json < document.bin")]
struct Verify {
    /// The document, as the NSM gives it or in base64; `-` is stdin
    #[arg(value_name = "DOC")]
    document: PathBuf,
    /// Trust these certificates instead of AWS's root (repeatable)
    #[arg(long, value_name = "PEM")]
    root: Vec<PathBuf>,
    /// The image that should run: PCR0, PCR1, PCR2, and PCR8 of a signed file
    #[arg(long, value_name = "FILE")]
    eif: Option<PathBuf>,
    /// The lock of the build that should run: PCR0, PCR1, PCR2
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// A register's value (repeatable)
    #[arg(long, value_name = "N=HEX", value_parser = numbered_pcr)]
    pcr: Vec<NumberedPcr>,
    /// When the certificates must be valid, and what --max-age counts from [default: the document's own time, and now]
    #[arg(long, value_name = "RFC3339", value_parser = seconds)]
    time: Option<u64>,
    /// The challenge that was sent
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    nonce: Option<Bytes>,
    /// What the enclave should say
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    user_data: Option<Bytes>,
    /// The enclave's key
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    public_key: Option<Bytes>,
    /// The most seconds since the document was made
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
}

/// A register and its value, as `N=HEX`.
#[derive(Debug, Clone, Copy)]
pub struct NumberedPcr(pub u8, pub Pcr);

/// Reads `N=HEX`.
pub fn numbered_pcr(text: &str) -> Result<NumberedPcr, String> {
    let (index, value) = text.split_once('=').ok_or("it has the form N=HEX")?;
    let known = index.parse().ok().filter(|index| *index < 32);
    let index = known.ok_or_else(|| format!("there is no PCR{index}: an enclave has PCR0 to PCR31"))?;
    Ok(NumberedPcr(index, value.parse()?))
}

/// Bytes, as hexadecimal digits.
#[derive(Debug, Clone)]
pub struct Bytes(Vec<u8>);

/// Reads hexadecimal digits.
pub fn bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes).map_err(|error| format!("it is no hexadecimal: {error}"))
}

/// RFC 3339, with `Z` or an offset; a fraction of a second is dropped.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || "it has the form 2026-01-31T12:00:00Z".to_owned();
    let upper = text.to_ascii_uppercase();
    let (local, zone) = upper.split_at_checked(19).ok_or_else(bad)?;
    let zone = match zone.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => zone,
    };
    let time: x509_cert::der::DateTime = format!("{local}Z").parse().map_err(|_| bad())?;
    let east = offset(zone).ok_or_else(bad)?;
    time.unix_duration().as_secs().checked_add_signed(-east).ok_or_else(bad)
}

/// Seconds east of Greenwich: `Z`, `+02:00`.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
    let part = |text: &str, below| (text.len() == 2).then(|| text.parse().ok()).flatten().filter(|n: &u8| *n < below);
    Some(sign * (i64::from(part(hours, 24)?) * 3600 + i64::from(part(minutes, 60)?) * 60))
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Show(args) => show(&args, ui),
        Command::Verify(args) => verify(&args, ui),
    }
}

fn read(path: &Path) -> Result<Document, Failure> {
    let bytes = environment::small_file(path, MAX_SIZE)?;
    document::parse(&bytes).map_err(|error| at(path, &error))
}

fn show(args: &Show, ui: &Ui) -> Result<ExitCode, Failure> {
    let document = read(&args.document)?;
    let claims = document.claims();
    let certificates = claims.certificates().unwrap_or_default();
    let told = Told { verified: false, claims, certificates: &certificates, proved: &[], not_proved: &[] };
    if ui.json {
        ui.data(&pretty(&told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = table(&told);
    if certificates.is_empty() {
        text += &row("certificate", "none can be read");
    }
    ui.data(&(text + &row("verified", "no: `eif attest verify` does that")))?;
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &Verify, ui: &Ui) -> Result<ExitCode, Failure> {
    let expected = expected(args)?;
    let roots = roots(&args.root)?;
    let document = read(&args.document)?;
    let proof = document
        .verify(&roots, args.time.unwrap_or_else(|| document.made_at()))
        .and_then(|proof| hold(&proof, args, &expected).map(|()| proof))
        .map_err(|error| at(&args.document, &error))?;
    let (proved, not_proved) = words(&proof, args);
    let (claims, certificates) = (proof.claims(), proof.certificates());
    let told = Told { verified: true, claims, certificates, proved: &proved, not_proved: &not_proved };
    ui.data(&if ui.json { pretty(&told)? } else { table(&told) })?;
    Ok(ExitCode::SUCCESS)
}

/// What a document proves of an enclave, with these roots instead of AWS's and this challenge where they are given.
pub fn proved(path: &Path, root: &[PathBuf], nonce: Option<&Bytes>) -> Result<Proof, Failure> {
    let document = read(path)?;
    let answers = |proof: &Proof| nonce.map_or(Ok(()), |Bytes(nonce)| proof.expect_nonce(nonce));
    let proof = document.verify(&roots(root)?, document.made_at()).and_then(|proof| answers(&proof).map(|()| proof));
    proof.map_err(|error| at(path, &error))
}

fn roots(paths: &[PathBuf]) -> Result<Roots, Failure> {
    let mut roots: Option<Roots> = None;
    for path in paths {
        let pem = environment::small_file(path, MAX_SIZE)?;
        let read = Roots::from_pem(&pem).map_err(|error| at(path, &error))?;
        roots = Some(match roots {
            Some(before) => before.and(read),
            None => read,
        });
    }
    Ok(roots.unwrap_or_else(Roots::aws))
}

/// The registers that the caller expects, from wherever their values come.
fn expected(args: &Verify) -> Result<Vec<(u8, Pcr)>, Failure> {
    let mut expected: Vec<(u8, Pcr)> = args.pcr.iter().map(|NumberedPcr(index, pcr)| (*index, *pcr)).collect();
    if let Some(file) = &args.eif {
        expected.extend(measure(file)?.numbered());
    }
    if let Some(lock) = &args.lock {
        let Pcrs { pcr0, pcr1, pcr2 } = Lock::read(lock)?.measurements;
        expected.extend([(0, pcr0), (1, pcr1), (2, pcr2)]);
    }
    Ok(expected)
}

/// Everything that the caller expects of a true document.
fn hold(proof: &Proof, args: &Verify, expected: &[(u8, Pcr)]) -> Result<(), eif::attest::Error> {
    proof.expect_pcrs(expected)?;
    if let Some(Bytes(nonce)) = &args.nonce {
        proof.expect_nonce(nonce)?;
    }
    if let Some(Bytes(user_data)) = &args.user_data {
        proof.expect_user_data(user_data)?;
    }
    if let Some(Bytes(public_key)) = &args.public_key {
        proof.expect_public_key(public_key)?;
    }
    match args.max_age {
        Some(limit) => proof.expect_age(args.time.unwrap_or_else(environment::now), limit),
        None => Ok(()),
    }
}

/// What is proved, and what is not, in sentences.
fn words(proof: &Proof, args: &Verify) -> (Vec<String>, Vec<String>) {
    let (mut proved, mut not_proved) = (Vec::new(), Vec::new());
    let mut say =
        |holds: bool, yes: String, no: &str| if holds { proved.push(yes) } else { not_proved.push(no.into()) };
    let signer = if args.root.is_empty() { "AWS's Nitro hypervisor" } else { "a key under the given root" };
    let when = rfc3339(proof.at()).unwrap_or_default();
    let module = &proof.claims().module_id;
    say(true, format!("{signer} signed it for the enclave {module}; its certificates were valid at {when}"), "");
    say(true, "the enclave is not in debug mode: PCR0 is not zero".to_owned(), "");
    let given = args.pcr.iter().any(|NumberedPcr(index, _)| *index == 0).then(|| "the given PCR0".to_owned());
    let files = [&args.eif, &args.lock].into_iter().flatten().map(|file| file.display().to_string());
    let images: Vec<String> = files.chain(given).collect();
    let image = format!("the enclave was started from the image of {}", images.join(" and of "));
    say(!images.is_empty(), image, "which image runs: compare with --eif, --lock or --pcr");
    for NumberedPcr(index, _) in args.pcr.iter().filter(|NumberedPcr(index, _)| *index != 0) {
        say(true, format!("PCR{index} has the given value"), "");
    }
    let fresh = [(args.nonce.is_some(), "it answers this nonce"), (args.max_age.is_some(), "it is as young as asked")];
    let fresh: Vec<&str> = fresh.into_iter().filter_map(|(asked, how)| asked.then_some(how)).collect();
    say(
        !fresh.is_empty(),
        fresh.join(", and "),
        "that it is fresh: an old document verifies as well; ask with --nonce or --max-age",
    );
    if proof.claims().user_data.is_some() {
        say(args.user_data.is_some(), "user_data is as given".to_owned(), "that user_data is what it should be");
    }
    if !args.pcr.iter().any(|NumberedPcr(index, _)| [3, 4].contains(index)) {
        say(false, String::new(), "whose instance runs it: compare PCR3 (its IAM role) or PCR4 (its id) with --pcr");
    }
    let sender =
        "that who sent it is the enclave: only what public_key or user_data binds to the connection shows that";
    say(args.public_key.is_some(), "public_key is the enclave's".to_owned(), sender);
    say(false, String::new(), "that no certificate was revoked: AWS's process uses no revocation lists");
    (proved, not_proved)
}

/// All that is printed of a document.
struct Told<'a> {
    verified: bool,
    claims: &'a Claims,
    certificates: &'a [Certificate],
    proved: &'a [String],
    not_proved: &'a [String],
}

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Claims { module_id, pcrs, public_key, user_data, nonce, .. } = self.claims;
        let pcrs: Vec<_> = pcrs.iter().map(|(index, value)| (format!("PCR{index}"), hex::encode(value))).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("verified", &self.verified)?;
        map.serialize_entry("module_id", module_id)?;
        map.serialize_entry("timestamp", &timestamp(self.claims))?;
        map.serialize_entry("digest", "SHA384")?;
        map.serialize_entry("pcrs", &InOrder(&pcrs))?;
        for (name, value) in [("public_key", public_key), ("user_data", user_data), ("nonce", nonce)] {
            map.serialize_entry(name, &value.as_ref().map(hex::encode))?;
        }
        let certificates: Vec<_> = self.certificates.iter().map(ToldCertificate::from).collect();
        map.serialize_entry("certificates", &certificates)?;
        if self.verified {
            map.serialize_entry("proved", self.proved)?;
            map.serialize_entry("not_proved", self.not_proved)?;
        }
        map.end()
    }
}

struct InOrder<'a>(&'a [(String, String)]);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[derive(Serialize)]
struct ToldCertificate<'a> {
    subject: &'a str,
    not_before: String,
    not_after: String,
    sha256: String,
}

impl<'a> From<&'a Certificate> for ToldCertificate<'a> {
    fn from(certificate: &'a Certificate) -> Self {
        let Certificate { subject, not_before, not_after, sha256 } = certificate;
        let time = |seconds: &u64| rfc3339(*seconds).unwrap_or_default();
        Self { subject, not_before: time(not_before), not_after: time(not_after), sha256: hex::encode(sha256) }
    }
}

/// The document's time with its milliseconds.
fn timestamp(claims: &Claims) -> String {
    let Claims { timestamp, .. } = claims;
    match rfc3339(timestamp / 1000) {
        Ok(time) => format!("{}.{:03}Z", time.trim_end_matches('Z'), timestamp % 1000),
        Err(_) => format!("{timestamp} ms"),
    }
}

fn table(told: &Told<'_>) -> String {
    let Claims { module_id, pcrs, public_key, user_data, nonce, .. } = told.claims;
    let mut text = row("module", module_id) + &row("time", &timestamp(told.claims));
    for (index, value) in pcrs {
        let zero = value.iter().all(|byte| *byte == 0);
        text += &row(&format!("PCR{index}"), &if zero { "0".to_owned() } else { hex::encode(value) });
    }
    for (name, value) in [("public key", public_key), ("user data", user_data), ("nonce", nonce)] {
        let value = value.as_ref().map(|value| format!("{} ({} bytes)", hex::encode(value), value.len()));
        text += &row(name, value.as_deref().unwrap_or("none"));
    }
    for certificate in told.certificates {
        let ToldCertificate { subject, not_before, not_after, sha256 } = certificate.into();
        text += &row("certificate", &format!("{subject}, {not_before} to {not_after}, SHA-256 {sha256}"));
    }
    text.extend(told.proved.iter().map(|sentence| row("proved", sentence)));
    text.extend(told.not_proved.iter().map(|sentence| row("not proved", sentence)));
    text
}

fn row(name: &str, value: &str) -> String {
    format!("{name:11} {}\n", eif::shown(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `date -u -d TIME +%s`.
    #[test]
    fn times_are_rfc_3339s() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2024-02-29T12:34:56.789Z", 1_709_210_096),
            ("2024-02-29t14:34:56+02:00", 1_709_210_096),
            ("2024-02-29T07:04:56-05:30", 1_709_210_096),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "2024-02-29",
            "2024-02-29T12:34:56",
            "2023-02-29T00:00:00Z",
            "2024-02-29T12:34:56+2",
            "1969-12-31T23:59:59Z",
            "é",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn registers_are_numbered() {
        let value = "ab".repeat(48);
        assert!(matches!(numbered_pcr(&format!("31={value}")), Ok(NumberedPcr(31, Pcr(bytes))) if bytes == [0xab; 48]));
        for text in [value.clone(), format!("32={value}"), format!("x={value}"), "0=ab".to_owned()] {
            assert!(numbered_pcr(&text).is_err(), "{text}");
        }
    }
}
