//! `eif diff`: why two files, or a file and an image, differ.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use eif::build::Plan;
use eif::eif::{Eif, Kind};
use eif::shown;
use eif::verify::{self, Difference, Scope};

use super::build::BuildOptions;
use super::failure::Failure;
use super::inspect::{at, pretty};
use super::pcr::is_image;
use super::ui::Ui;

/// Say why two .eif differ, or an .eif and an image
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif diff mine.eif theirs.eif\n  eif diff app.eif docker-archive:app.tar\n\n\
                        Exit status: 0 the same, 1 different, 3 could not be decided.\n\
                        An image is compared by its file system and process, as eif build would pack them; times,\n\
                        order and what boots are not compared then. A file that nitro-cli made is held against what\n\
                        nitro-cli would pack. Of two files the order of entries is told where nothing else differs.")]
pub struct Args {
    /// The first enclave image, or a container image
    #[arg(value_name = "A")]
    a: OsString,
    /// The second one
    #[arg(value_name = "B")]
    b: OsString,
    #[command(flatten)]
    options: BuildOptions,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let (a, b) = (is_image(&args.a), is_image(&args.b));
    let scope = if a || b { Scope::Tree } else { Scope::Bytes };
    let (a, b) = match (a, b) {
        (true, true) => {
            return Err(Failure::usage("two images: build them, and compare what was built")
                .with_help("eif build A -o a.eif; eif build B -o b.eif; eif diff a.eif b.eif"));
        }
        (false, false) => (open(&args.a)?, open(&args.b)?),
        (false, true) => {
            let file = open(&args.a)?;
            let image = pack(&args.b, args.options, &file, ui)?;
            (file, image)
        }
        (true, false) => {
            let file = open(&args.b)?;
            (pack(&args.a, args.options, &file, ui)?, file)
        }
    };
    let differences = verify::compare(&a, &b, scope).map_err(|error| Failure::from(error).undecided())?;
    ui.data(&if ui.json {
        pretty(&Verdict { same: differences.is_empty(), differences: &differences })?
    } else {
        text(&differences)
    })?;
    Ok(ExitCode::from(u8::from(!differences.is_empty())))
}

/// A file that is missing leaves the question open; one that is no .eif is refused.
pub fn open(path: &OsStr) -> Result<Eif, Failure> {
    let path = Path::new(path);
    let unreadable = |error| Failure::refused("E-io", format!("{}: {error}", path.display())).undecided();
    let file = File::open(path).map_err(unreadable)?;
    Eif::examine(file).map_err(|error| at(path, &error))
}

/// Packs the image with the kernel of `file`, whose own is not compared: none has to be at hand.
fn pack(image: &OsString, options: BuildOptions, file: &Eif, ui: &Ui) -> Result<Eif, Failure> {
    let scratch = |error: std::io::Error| Failure::refused("E-io", format!("a temporary file: {error}")).undecided();
    let folder = tempfile::tempdir().map_err(scratch)?;
    let mut plan: Plan = options.plan(image)?;
    plan.platform.arch = file.arch();
    if let Some(theirs) =
        verify::nitro_cli_plan(file, &plan, folder.path()).map_err(|why| Failure::from(why).undecided())?
    {
        plan = theirs;
    } else if let (None, None, Some(section)) = (&plan.kernel, &plan.blobs, file.section(Kind::Kernel)) {
        let path = folder.path().join("kernel");
        let mut kernel = File::create(&path).map_err(scratch)?;
        std::io::copy(&mut file.read(section), &mut kernel).map_err(scratch)?;
        plan.kernel = Some(path);
    }
    let target = folder.path().join("image.eif");
    eif::build::build(&plan, &target, &ui.progress()).map_err(|error| Failure::from(error).undecided())?;
    // The open file outlives its folder.
    open(target.as_os_str())
}

#[derive(serde::Serialize)]
struct Verdict<'a> {
    same: bool,
    differences: &'a [Difference],
}

/// One line and perhaps some lines of text for each difference.
pub fn text(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "the same\n".to_owned();
    }
    differences.iter().map(line).collect()
}

/// `differs: ramdisk 2: rootfs/usr/bin/app: mode: 0755 | 0775`
fn line(difference: &Difference) -> String {
    let Difference { part, path, field, a, b, text } = difference;
    let path = path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
    let value = |value: &Option<String>| value.as_deref().map_or("none".to_owned(), shown);
    let lines: String = text.iter().map(|line| format!("    {line}\n")).collect();
    format!("differs: {part}: {path}{field}: {} | {}\n{lines}", value(a), value(b))
}
