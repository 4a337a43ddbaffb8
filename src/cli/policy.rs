//! `eif policy`: who may use a KMS key, by what the enclave's image measures to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use eif::Warning;
use eif::attest::lint::{self, Finding, Image, Level};
use eif::attest::policy::{self, Action, Kind, Register, Request};
use eif::eif::Pcr;
use serde_json::json;

use super::attest::{NumberedPcr, numbered_pcr};
use super::environment;
use super::failure::Failure;
use super::inspect::{at, pretty};
use super::parent;
use super::pcr::measure;
use super::ui::Ui;

#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Each FILE has a statement of its own: pass the old and the new image while one replaces the other. The statements go \
into the key's policy beside those of its administrators; without --principal they name nobody.

Examples:
  eif policy app.eif --principal arn:aws:iam::123456789012:role/Webserver
  eif policy old.eif new.eif --role-arn arn:aws:iam::123456789012:role/Webserver
  eif policy signed.eif --use pcr8 --role-arn arn:aws:iam::123456789012:role/Webserver
  eif policy --pcr 0=HEX --format terraform
  eif policy app.eif --iam --resource arn:aws:kms:eu-west-1:123456789012:key/KEY --action decrypt,generate-random
  eif policy lint policy.json --eif app.eif"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    write: Write,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Find what makes a KMS policy useless; exit 1 if something does
    Lint(Lint),
}

#[derive(clap::Args)]
struct Write {
    /// The enclave images that may use the key
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A register's value, beside those of the files or instead of a file (repeatable)
    #[arg(long, value_name = "N=HEX", value_parser = numbered_pcr)]
    pcr: Vec<NumberedPcr>,
    /// The parent instance's IAM role: its PCR3, and the principal unless --principal names another
    #[arg(long, value_name = "ARN", value_parser = parent::role_arn)]
    role_arn: Option<String>,
    /// The parent instance: its PCR4
    #[arg(long, value_name = "ID", value_parser = parent::instance_id)]
    instance_id: Option<String>,
    /// What to ask of a file: pcr0, pcr1, pcr2, pcr8 or image (ImageSha384, another name of PCR0), comma-separated
    /// [default: pcr0,pcr1,pcr2, and pcr8 of a signed file]
    #[arg(long = "use", value_name = "LIST", value_delimiter = ',', value_parser = register)]
    registers: Vec<Register>,
    /// What is allowed, comma-separated
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_values_t = [Allowed::Decrypt, Allowed::GenerateDataKey])]
    action: Vec<Allowed>,
    /// Who may use the key: ARN of a role, user or account (repeatable)
    #[arg(long, value_name = "ARN", value_parser = principal, conflicts_with = "iam")]
    principal: Vec<String>,
    /// Print an identity policy, which stands at a role and names the key, instead of a key policy
    #[arg(long)]
    iam: bool,
    /// ARN of a key that --iam allows to use (repeatable) [default: *]
    #[arg(long, value_name = "ARN", requires = "iam")]
    resource: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A policy document
    Json,
    /// A data source `aws_iam_policy_document`
    Terraform,
}

/// The actions that look at attestation documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Allowed {
    Decrypt,
    GenerateDataKey,
    GenerateDataKeyPair,
    DeriveSharedSecret,
    /// Only with --iam
    GenerateRandom,
}

impl From<Allowed> for Action {
    fn from(allowed: Allowed) -> Self {
        match allowed {
            Allowed::Decrypt => Action::Decrypt,
            Allowed::GenerateDataKey => Action::GenerateDataKey,
            Allowed::GenerateDataKeyPair => Action::GenerateDataKeyPair,
            Allowed::DeriveSharedSecret => Action::DeriveSharedSecret,
            Allowed::GenerateRandom => Action::GenerateRandom,
        }
    }
}

#[derive(clap::Args)]
#[command(after_help = "\
Taken are a policy, a statement, a list of them, and what `aws kms get-key-policy` prints.

Examples:
  eif policy lint policy.json --eif app.eif
  aws kms get-key-policy --key-id KEY --output json | eif policy lint -")]
struct Lint {
    /// The policy; `-` is stdin
    #[arg(value_name = "POLICY.json")]
    policy: PathBuf,
    /// An image that the policy should be for (repeatable)
    #[arg(long, value_name = "FILE")]
    eif: Vec<PathBuf>,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    match args.command {
        Some(Command::Lint(args)) => run_lint(&args, ui),
        None => write(&args.write, ui),
    }
}

fn write(args: &Write, ui: &Ui) -> Result<ExitCode, Failure> {
    let request = request(args, ui)?;
    let policy = policy::policy(&request)?;
    let text = policy.to_json();
    for finding in lint::lint(text.as_bytes(), &[])? {
        ui.warn(&Warning::new(finding.code, format!("{}: {}", finding.place(), finding.message)));
    }
    if request.kind == Kind::Key(Vec::new()) {
        let why = "it names no principal, which KMS demands of a key policy: pass --principal ARN";
        ui.warn(&Warning::new("W-policy-principal", why));
    }
    ui.data(&match args.format {
        Format::Json => text,
        Format::Terraform => policy.to_terraform("enclave"),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: &Write, ui: &Ui) -> Result<Request, Failure> {
    let mut further: Vec<(u8, Pcr)> = args.pcr.iter().map(|NumberedPcr(index, pcr)| (*index, *pcr)).collect();
    further.extend(args.role_arn.iter().map(|arn| (3, Pcr::of_role(arn))));
    further.extend(args.instance_id.iter().map(|id| (4, Pcr::of_instance(id))));
    let mut images = Vec::new();
    for file in &args.files {
        let measured = measure(file)?;
        if images.contains(&measured) {
            let why = format!("{} measures to the same as a file before it", file.display());
            ui.warn(&Warning::new("W-policy-same", why));
        } else {
            images.push(measured);
        }
    }
    if images.is_empty() && further.is_empty() {
        return Err(Failure::usage("nothing to ask for").with_help("give an .eif, or --pcr N=HEX"));
    }
    let registers = if args.registers.is_empty() { None } else { Some(args.registers.clone()) };
    let actions = args.action.iter().map(|action| Action::from(*action)).collect();
    Ok(Request { images, registers, further, actions, kind: kind(args) })
}

fn kind(args: &Write) -> Kind {
    let or = |given: &Vec<String>, default: Option<String>| {
        if given.is_empty() { default.into_iter().collect() } else { given.clone() }
    };
    if args.iam {
        Kind::Identity(or(&args.resource, Some("*".to_owned())))
    } else {
        Kind::Key(or(&args.principal, args.role_arn.clone()))
    }
}

fn register(text: &str) -> Result<Register, String> {
    match text.to_ascii_lowercase().as_str() {
        "image" | "imagesha384" => Ok(Register::ImageSha384),
        name => {
            let index = name.strip_prefix("pcr").and_then(|index| index.parse().ok()).filter(|index| *index < 32);
            index.map(Register::Pcr).ok_or_else(|| "there are pcr0 to pcr31 and image".to_owned())
        }
    }
}

/// An ARN, or the number of an account. A pattern is none: KMS takes names only, and `*` would be everybody.
fn principal(text: &str) -> Result<String, String> {
    let account = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let arn = text.starts_with("arn:") && text.split(':').count() >= 6 && !text.contains(['*', '?']);
    if account || arn { Ok(text.to_owned()) } else { Err("a principal is an ARN without wildcards".to_owned()) }
}

fn run_lint(args: &Lint, ui: &Ui) -> Result<ExitCode, Failure> {
    let named =
        |path: &PathBuf| Ok::<_, Failure>(Image { name: path.display().to_string(), measurements: measure(path)? });
    let images = args.eif.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let text = environment::small_file(&args.policy, lint::MAX_SIZE)?;
    let findings = lint::lint(&text, &images).map_err(|error| at(&args.policy, &error))?;
    if ui.json {
        ui.data(&pretty(&json!({ "findings": findings }))?)?;
    } else {
        let lines: String = findings.iter().map(|finding| line(finding) + "\n").collect();
        ui.data(if lines.is_empty() { "no findings" } else { &lines })?;
    }
    verdict(&args.policy, &findings)
}

/// Notes alone are fine.
fn verdict(path: &Path, findings: &[Finding]) -> Result<ExitCode, Failure> {
    let mut bad: Vec<String> =
        findings.iter().filter(|finding| finding.level == Level::Error).map(Finding::place).collect();
    bad.dedup();
    if bad.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::refused(
        "E-policy",
        format!("{}: does not protect what it should: {}", path.display(), bad.join(", ")),
    ))
}

/// Plain on every terminal: findings are what the command prints, not what it says of its work.
fn line(finding: &Finding) -> String {
    let word = match finding.level {
        Level::Error => "error",
        Level::Note => "note",
    };
    eif::shown(&format!("{word}[{}]: {}: {}", finding.code, finding.place(), finding.message))
}
