//! `eif extract`: the parts of a file as files.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use eif::Warning;
use eif::verify::{self, Request};

use super::failure::Failure;
use super::inspect::{at, examine};
use super::ui::Ui;

/// Write the sections of an .eif as files, and its application's file system as a tar
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif extract app.eif -C parts\n  eif extract app.eif --rootfs rootfs.tar\n  \
                        eif extract app.eif --rootfs - | docker import - app")]
pub struct Args {
    /// The enclave image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder for each section's exact bytes: kernel, cmdline, metadata.json, ramdisk1.cpio, …
    #[arg(long, short = 'C', value_name = "DIR", required_unless_present = "rootfs")]
    directory: Option<PathBuf>,
    /// The application's file system as a tar; `-` is stdout
    #[arg(long, value_name = "OUT.tar")]
    rootfs: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let eif = examine(&args.file)?;
    for fault in eif.faults() {
        ui.warn(&Warning::new(fault.code(), fault.to_string()));
    }
    let to_stdout = args.rootfs.as_deref() == Some(Path::new("-"));
    let rootfs = args.rootfs.filter(|_| !to_stdout);
    let request = Request { sections: args.directory, rootfs, force: args.force };
    let extracted = verify::extract(&eif, &request).map_err(|error| at(&args.file, &error))?;
    let mut warnings = extracted.warnings;
    extracted.files.iter().for_each(|file| ui.note(&format!("wrote     {}", file.display())));
    if to_stdout {
        let mut out = BufWriter::new(std::io::stdout().lock());
        warnings.extend(verify::rootfs(&eif, &mut out).map_err(|error| match error {
            verify::Error::Write(error) => Failure::stdout(&error),
            other => at(&args.file, &other),
        })?);
        out.flush().map_err(|error| Failure::stdout(&error))?;
    }
    warnings.iter().for_each(|warning| ui.warn(warning));
    Ok(ExitCode::SUCCESS)
}
