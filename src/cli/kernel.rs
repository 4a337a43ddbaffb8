//! `eif kernel`: build the enclave's kernel from pinned source, look at one, list what there is.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use eif::kernel::{Built, Format, Listed, Lock, Preflight, Request, Store};
use eif::{Arch, kernel};
use serde_json::{Value, json};

use super::environment;
use super::failure::Failure;
use super::inspect::pretty;
use super::ui::Ui;

/// Arguments of `eif kernel`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  eif kernel build && eif build oci:app -o app.eif")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the enclave's kernel from its pinned source, once: the result is kept in the cache
    #[command(after_help = "Example:\n  eif kernel build --arch aarch64 --jobs 4")]
    Build(Build),
    /// Look at a kernel before it is packed: format, architecture, what Nitro's loader would stumble over
    #[command(after_help = "Example:\n  eif kernel check bzImage")]
    Check(Check),
    /// List the locked kernels and whether they are built
    #[command(after_help = "Example:\n  eif kernel ls --json")]
    Ls,
}

#[derive(clap::Args)]
struct Build {
    /// Architecture of the enclave
    #[arg(long, default_value = "x86_64")]
    arch: Arch,
    /// The source at hand: the Debian package or the archive inside it (only its hash counts)
    #[arg(long, value_name = "FILE.deb|tar.xz")]
    source: Option<PathBuf>,
    /// How many compilers run at once [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The entry of kernels.lock [default: the newest whose source can be had]
    #[arg(long, value_name = "LOCKID")]
    id: Option<String>,
    /// A dated archive that serves files by SHA-1 under this address
    #[arg(long, value_name = "URL")]
    snapshot: Option<String>,
}

#[derive(clap::Args)]
struct Check {
    /// A bzImage or an arm64 Image
    file: PathBuf,
    /// Architecture of the enclave [default: the kernel's own]
    #[arg(long)]
    arch: Option<Arch>,
}

/// Runs `eif kernel`.
pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Build(build) => run_build(&build, ui),
        Command::Check(check) => run_check(&check, ui),
        Command::Ls => run_ls(ui),
    }
}

fn run_build(build: &Build, ui: &Ui) -> Result<ExitCode, Failure> {
    let cache = environment::cache()?;
    let path = environment::search_path();
    let request = Request {
        arch: build.arch,
        cache: &cache,
        source: build.source.as_deref(),
        id: build.id.as_deref(),
        jobs: build.jobs.unwrap_or_else(environment::processors),
        path: &path,
        snapshot: build.snapshot.as_deref(),
    };
    let built = kernel::build(&request, &mut |line| ui.note(line))?;
    for warning in &built.warnings {
        ui.warn(warning);
    }
    ui.data(&described(&built, build.arch, ui.json)?)?;
    Ok(ExitCode::SUCCESS)
}

fn described(built: &Built, arch: Arch, json: bool) -> Result<String, Failure> {
    let path = built.kernel.path.display().to_string();
    if !json {
        return Ok(path);
    }
    pretty(&json!({
        "id": built.kernel.lock_id,
        "arch": arch.name(),
        "sha256": hex::encode(built.kernel.sha256),
        "locked": built.kernel.locked,
        "cached": built.cached,
        "path": path,
    }))
}

fn run_check(check: &Check, ui: &Ui) -> Result<ExitCode, Failure> {
    let preflight = match check.arch {
        Some(arch) => kernel::check_file(&check.file, arch)?,
        None => kernel::check_own(&check.file)?,
    };
    let text = if ui.json { pretty(&checked(&preflight))? } else { table(&preflight) };
    ui.data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn checked(preflight: &Preflight) -> Value {
    json!({
        "format": preflight.format.name(),
        "arch": preflight.format.arch().map(Arch::name),
        "version": preflight.release,
        "findings": preflight.findings.iter().map(|finding| json!({
            "code": finding.code,
            "level": "warning",
            "message": finding.message,
            "offset": finding.offset,
        })).collect::<Vec<_>>(),
    })
}

fn table(preflight: &Preflight) -> String {
    let arch = preflight.format.arch().map_or("unknown", Arch::name);
    let release = preflight.release.as_deref().unwrap_or("unknown");
    let mut text = format!("format   {}\narch     {arch}\nversion  {release}\n", preflight.format.name());
    text += &match &preflight.format {
        Format::BzImage { protocol, init_size, .. } => {
            format!("protocol {}.{}\nmemory   {init_size} bytes\n", protocol >> 8, protocol & 0xff)
        }
        Format::Arm64Image { text_offset, image_size, .. } => {
            format!("offset   {text_offset:#x}\nmemory   {image_size} bytes\n")
        }
        _ => String::new(),
    };
    for finding in &preflight.findings {
        text += &format!("{}: {} (at {:#x})\n", finding.code, finding.message, finding.offset);
    }
    text
}

fn run_ls(ui: &Ui) -> Result<ExitCode, Failure> {
    let rows = Store::new(&environment::cache()?).list(&Lock::embedded()?);
    let text = if ui.json { pretty(&rows)? } else { rows.iter().map(row).collect() };
    ui.data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn row(listed: &Listed) -> String {
    let state = match (&listed.built, &listed.locked) {
        (None, _) => "not built",
        (Some(_), None) => "built, not locked",
        (Some(built), Some(locked)) if built == locked => "built",
        (Some(_), Some(_)) => "built, differs",
    };
    let path = listed.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    format!("{:<14} {:<8} {state:<18} {path}", listed.id, listed.arch).trim_end().to_owned() + "\n"
}
