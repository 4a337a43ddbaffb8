//! `eif inspect`: what is in a file, for people and for scripts.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use eif::eif::{Eif, Metadata};
use eif::verify::{self, Certificate, Inspection, Listing, Ramdisk, Range, Section, Signature};
use eif::{Refusal, shown};
use serde_json::Value;

use super::environment;
use super::failure::Failure;
use super::ui::Ui;

/// Say what is in an .eif, and what is wrong with it
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif inspect app.eif\n  eif inspect app.eif --json | jq .findings\n  \
                        eif inspect app.eif --files")]
pub struct Args {
    /// The enclave image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// List the entries of all ramdisks, like `ls -l`; with --json as objects
    #[arg(long, conflicts_with = "layout")]
    files: bool,
    /// Name every byte range of the file
    #[arg(long)]
    layout: bool,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let eif = examine(&args.file)?;
    if args.files {
        return files(&eif, ui);
    }
    if args.layout {
        let ranges = verify::layout(&eif);
        ui.data(&if ui.json { pretty(&ranges)? } else { ranges.iter().map(range_line).collect() })?;
        return Ok(ExitCode::SUCCESS);
    }
    let inspection = verify::inspect(&eif, environment::processors().get()).map_err(|error| at(&args.file, &error))?;
    ui.data(&if ui.json { pretty(&inspection)? } else { table(&inspection, eif.size()) })?;
    Ok(ExitCode::SUCCESS)
}

/// Opens whatever has a header.
pub fn examine(path: &Path) -> Result<Eif, Failure> {
    let file = File::open(path).map_err(|error| Failure::refused("E-io", format!("{}: {error}", path.display())))?;
    Eif::examine(file).map_err(|error| at(path, &error))
}

/// A refusal with the file's name before it.
pub fn at(path: &Path, error: &impl Refusal) -> Failure {
    let failure = Failure::refused(error.code(), format!("{}: {error}", path.display()));
    error.help().into_iter().fold(failure, Failure::with_help)
}

/// Lines go out as they are read: there may be more of them than memory.
fn files(eif: &Eif, ui: &Ui) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let listing = if ui.json { Listing::Json } else { Listing::Text };
    let listed = match verify::list(eif, listing, &mut out) {
        Ok(warnings) => out.flush().map(|()| warnings).map_err(|error| Failure::stdout(&error))?,
        Err(verify::Error::Write(error)) => return Err(Failure::stdout(&error)),
        Err(error) => return Err(error.into()),
    };
    listed.iter().for_each(|warning| ui.warn(warning));
    Ok(ExitCode::SUCCESS)
}

/// JSON as it is printed everywhere.
pub fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::refused("E-json", error.to_string()))
}

fn range_line(range: &Range) -> String {
    let Range { offset, size, name, value } = range;
    format!("{offset:#010x} {size:>10} {name:26} {value}").trim_end().to_owned() + "\n"
}

fn table(facts: &Inspection, size: u64) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    let crc = if facts.crc_ok { "CRC right" } else { "CRC WRONG" };
    row("file", format!("{size} bytes, {}, {crc}", facts.arch));
    for (name, pcr) in facts.measurements.iter().flat_map(|measurements| measurements.named()) {
        row(name, pcr.to_string());
    }
    for (index, section) in facts.sections.iter().enumerate() {
        row(&format!("section {index}"), section_text(section));
    }
    if let Some(kernel) = &facts.kernel {
        row("kernel", format!("{}, {}", kernel.format, kernel.version.as_deref().unwrap_or("of no known version")));
    }
    row("cmdline", facts.cmdline.as_deref().map_or("none".to_owned(), shown));
    for (index, ramdisk) in facts.ramdisks.iter().enumerate() {
        row(&format!("ramdisk {}", index + 1), ramdisk_text(ramdisk));
    }
    process_rows(facts, &mut row);
    row("metadata", metadata_text(facts.metadata.as_ref()));
    signature_rows(facts, &mut row);
    match facts.findings.len() {
        0 => row("findings", "none".to_owned()),
        _ => facts.findings.iter().for_each(|finding| {
            row(
                finding.level,
                format!("[{}] {} (offset {:#x})", finding.code, shown(&finding.message), finding.offset),
            );
        }),
    }
    rows.iter().map(|(name, value)| format!("{name:10} {value}\n")).collect()
}

fn section_text(section: &Section) -> String {
    let flags = if section.flags == 0 { String::new() } else { format!(", flags {:#06x}", section.flags) };
    let Section { kind, offset, size, sha384, .. } = section;
    format!("{kind:9} at {offset:#010x}, {size:>10} bytes{flags}, SHA-384 {sha384}")
}

fn ramdisk_text(ramdisk: &Ramdisk) -> String {
    match (ramdisk.entries, ramdisk.unpacked) {
        (Some(entries), Some(unpacked)) => {
            format!("{}, {entries} entries, {unpacked} bytes when unpacked", ramdisk.format)
        }
        _ => format!("{}, not read", ramdisk.format),
    }
}

fn process_rows(facts: &Inspection, row: &mut impl FnMut(&str, String)) {
    let Some(process) = &facts.process else { return row("process", "unknown".to_owned()) };
    row("process", shown(&Value::from(process.argv.clone()).to_string()));
    let groups: String = process.groups.iter().map(|group| format!(" +{group}")).collect();
    row("", format!("as {}:{}{groups} in {}", process.uid, process.gid, shown(&process.cwd)));
    process.env.iter().for_each(|item| row("", shown(item)));
}

fn metadata_text(metadata: Option<&Metadata>) -> String {
    let Some(Metadata { image_name, image_version, build, .. }) = metadata else { return "none".to_owned() };
    let built = format!("built {} by {} {}", build.time, build.tool, build.tool_version);
    shown(&format!("not measured, anyone can change it: {image_name} {image_version}, {built}"))
}

fn signature_rows(facts: &Inspection, row: &mut impl FnMut(&str, String)) {
    let Some(Signature { valid, certificate }) = &facts.signature else { return row("signature", "none".to_owned()) };
    let valid = if *valid { "valid" } else { "NOT VALID" };
    let Some(certificate) = certificate else {
        return row("signature", format!("{valid}, its certificate cannot be read"));
    };
    row(
        "signature",
        format!("{valid}, {} by {}", certificate.algorithm.unwrap_or("none"), shown(&certificate.subject)),
    );
    let Certificate { issuer, serial, not_before, not_after, sha256, .. } = certificate;
    row("", format!("issued by {}, serial {serial}", shown(issuer)));
    row("", format!("valid from {not_before} to {not_after}, which is not compared with any clock"));
    row("", format!("certificate with SHA-256 {sha256}"));
}
