//! The profile `nitro-cli`: the same PCR0, PCR1 and PCR2 as `nitro-cli build-enclave` computes, and what is said where
//! it cannot be so or where the enclave loses something that Docker has.

use std::io::{Seek, Write};
use std::path::PathBuf;

use super::{Blobs, Boot, Plan, Ramdisks, Record, Report, finish, read_blob, strictly, text_blob};
use crate::image::{Config, Image, Process};
use crate::initramfs::linuxkit::{Exported, REPEATED};
use crate::rootfs::docker::{self, Container};
use crate::rootfs::{self, EntryFault, Kind, Tree};
use crate::{Arch, Progress, Refusal, Warning, escaped, kernel};

/// Names that a message shows; the others are counted.
const SHOWN: usize = 20;

/// Why nitro-cli's measurements cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not all blobs are there.
    #[error("{}: {} missing, which nitro-cli packs", .folder.display(), .missing.join(", "))]
    Blobs {
        /// The folder.
        folder: PathBuf,
        /// Their names.
        missing: Vec<&'static str>,
    },
    /// nitro-cli's E48.
    #[error("nitro-cli refuses the image: it has neither Cmd nor Entrypoint")]
    NoCommand,
    /// Times that are not a function of the image.
    #[error("nitro-cli takes the time of {} from a clock, so its PCR0 and PCR2 are not a function of the image", shown(.0))]
    Times(
        /// The directories, in the order of the archive, without a leading slash.
        Vec<Vec<u8>>,
    ),
    /// A size that newc's eight characters cannot say.
    #[error("{layer}: entry \"{}\" has {size} bytes, which ruins the archive that nitro-cli writes: no kernel unpacks it", escaped(.name))]
    RuinedBySize {
        /// The layer.
        layer: String,
        /// The entry.
        name: Vec<u8>,
        /// Bytes of its contents.
        size: u64,
    },
    /// A time that newc's eight characters cannot say.
    #[error("\"{}\" has the time {seconds}, which ruins the archive that nitro-cli writes: no kernel unpacks it", escaped(.name))]
    Ruined {
        /// The first such name.
        name: Vec<u8>,
        /// Seconds since 1970.
        seconds: i64,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Blobs { .. } => "E-nitro-blobs",
            Error::NoCommand => "E-no-command",
            Error::Times(_) => "E-nitro-times",
            Error::RuinedBySize { .. } => "E-nitro-size",
            Error::Ruined { .. } => "E-nitro-mtime",
        }
    }

    fn help(&self) -> Vec<String> {
        let lines: &[&str] = match self {
            Error::Blobs { .. } => &["--blobs takes the folder with bzImage or Image, cmdline, init and nsm.ko"],
            Error::NoCommand => &["set Cmd or Entrypoint in the image, or build with --profile eif and --cmd"],
            Error::Times(_) => &[
                "name the directories in the layers that have something in them (`RUN mkdir`, `COPY` of their parent)",
                "--accept-unstable-times writes time zero: the same PCRs each time, but never nitro-cli's",
            ],
            Error::RuinedBySize { .. } => &["a ramdisk holds files below 4 GiB: split it, or load it at run time"],
            Error::Ruined { .. } => &["give it a time before 2106 (for a symlink: after 1961), or use --profile eif"],
        };
        lines.iter().map(|line| (*line).to_owned()).collect()
    }
}

/// Names as messages show them, a few and how many more.
fn shown(names: &[Vec<u8>]) -> String {
    let mut text: Vec<String> = names.iter().take(SHOWN).map(|name| format!("/{}", escaped(name))).collect();
    if let Some(more) = names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text.push(format!("{more} more"));
    }
    text.join(", ")
}

pub(super) fn assemble<W: Write + Seek>(
    plan: &Plan,
    out: W,
    progress: &dyn Progress,
) -> Result<(W, Report), super::Error> {
    let image = Image::open(&plan.reference, &plan.platform, &plan.access)?;
    let sbom = super::sbom(plan, &image, progress)?;
    let boot = boot(plan)?;
    let cmd = command(&image.config).ok_or(Error::NoCommand)?;
    let container = docker::load(&image, plan.docker_store, &plan.layers, progress).map_err(ruined_by_size)?;
    let Container { tree, spools, clocks, .. } = &container;
    let exported = Exported { tree, spools, clocks, cmd, env: &image.config.env };
    if let Some((name, seconds)) = exported.ruined() {
        return Err(Error::Ruined { name, seconds }.into());
    }
    let mut warnings = [&container.warnings[..], &boot.warnings].concat();
    warnings.extend(unstable(plan, &exported)?);
    warnings.extend(lost(&image.config, &container, &exported));
    strictly(plan, &warnings)?;
    let diff_ids = image.layers().iter().filter_map(|layer| layer.diff_id).collect();
    let record = Record::new(plan, &boot, (&image, diff_ids), &process(cmd, &image.config));
    let (out, report) = finish(plan, &image, boot, record, &Ramdisks::Linuxkit(exported), warnings, out, progress)?;
    Ok((out, Report { sbom, ..report }))
}

/// nitro-cli does not notice a file that is too large, so that is said.
fn ruined_by_size(error: rootfs::Error) -> super::Error {
    match error {
        rootfs::Error::Entry { layer, entry, fault: EntryFault::FileTooLarge(size) } => {
            Error::RuinedBySize { layer, name: entry, size }.into()
        }
        other => other.into(),
    }
}

/// What nitro-cli writes into `cmd`: Cmd, or else Entrypoint, never both.
fn command(config: &Config) -> Option<&Vec<String>> {
    config.cmd.as_ref().or(config.entrypoint.as_ref())
}

/// What its init runs, as root in `/`: the lines of `cmd` and `env` that are not empty.
fn process(cmd: &[String], config: &Config) -> Process {
    let lines = |items: &[String]| -> Vec<String> {
        items.iter().flat_map(|item| item.split('\n')).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let (argv, env) = (lines(cmd), lines(&config.env));
    Process { argv, env, cwd: "/".to_owned(), uid: 0, gid: 0, groups: Vec::new() }
}

/// The blobs as they are: what the preflight would refuse is a warning.
fn boot(plan: &Plan) -> Result<Boot, super::Error> {
    let Some(folder) = plan.blobs.as_deref() else {
        let missing = vec!["bzImage or Image", "cmdline", "init", "nsm.ko"];
        return Err(Error::Blobs { folder: PathBuf::from("no folder of blobs"), missing }.into());
    };
    let arch = plan.platform.arch;
    let blobs = Blobs::open(Some(folder))?;
    let own = match arch {
        Arch::X86_64 => "bzImage",
        Arch::Aarch64 => "Image",
    };
    let own_kernel = folder.join(own);
    let kernel = if own_kernel.exists() { Some(own_kernel) } else { blobs.kernel };
    let parts = [("bzImage or Image", &kernel), ("cmdline", &blobs.cmdline), ("init", &blobs.init)];
    let parts = parts.into_iter().chain([("nsm.ko", &blobs.module)]);
    let missing: Vec<&str> = parts.filter(|(_, path)| path.is_none()).map(|(name, _)| name).collect();
    let (Some(kernel), Some(cmdline), Some(init), Some(module)) = (kernel, blobs.cmdline, blobs.init, blobs.module)
    else {
        return Err(Error::Blobs { folder: folder.to_owned(), missing }.into());
    };
    let kernel = read_blob(&kernel)?;
    let (release, warnings) = preflight(&kernel, arch);
    Ok(Boot {
        kernel,
        kernel_lock_id: None,
        release,
        cmdline: text_blob(&cmdline)?,
        init: read_blob(&init)?,
        foreign: true,
        modules: vec![("nsm.ko".to_owned(), read_blob(&module)?)],
        warnings,
    })
}

/// The kernel's release, and what the preflight dislikes.
fn preflight(kernel: &[u8], arch: Arch) -> (Option<String>, Vec<Warning>) {
    let head = kernel.get(..kernel.len().min(kernel::probe::HEAD)).unwrap_or_default();
    match kernel::check(head, kernel.len() as u64, arch) {
        Ok(found) => {
            let warnings = found.findings.iter().map(kernel::check::Finding::warning).collect();
            (found.release.or_else(|| kernel::probe::release(&found.format, kernel)), warnings)
        }
        Err(error) => {
            (None, vec![Warning::new("W-nitro-kernel", format!("the kernel is packed as it is, but {error}"))])
        }
    }
}

/// Directories whose time nobody can know: refused, or said.
fn unstable(plan: &Plan, exported: &Exported) -> Result<Option<Warning>, Error> {
    let names = exported.unstable();
    if names.is_empty() {
        return Ok(None);
    }
    if !plan.accept_unstable_times {
        return Err(Error::Times(names));
    }
    let text = format!(
        "PCR0 and PCR2 are not nitro-cli's: it takes the time of {} from a clock, and here they have time zero",
        shown(&names)
    );
    Ok(Some(Warning::new("W-nitro-times", text)))
}

/// What the enclave lacks of what the image has under Docker.
fn lost(config: &Config, container: &Container, exported: &Exported) -> Vec<Warning> {
    let mut warnings = lost_of_config(config);
    let mut warn = |code, text: String| warnings.push(Warning::new(code, text));
    let (changed, emptied) = repeated(&container.tree);
    if !changed.is_empty() {
        warn("W-nitro-directories", format!("these become 0755 0:0 in the enclave: {}", changed.join(", ")));
    }
    if !emptied.is_empty() {
        let text = "these are no directories in the image, and are replaced by empty ones in the enclave";
        warn("W-nitro-directories", format!("{text}: {}", emptied.join(", ")));
    }
    let linked = exported.linked();
    if linked > 0 {
        let text = "names of hard-linked files become symlinks to the first name of each";
        warn("W-nitro-hard-links", format!("{linked} {text}: a chroot or a rename may break them"));
    }
    if container.tree.at(b"Dockerfile").is_some_and(|id| container.tree.directory(id).is_none()) {
        warn("W-nitro-dockerfile", "/Dockerfile is left out, and with it what is a hard link to it".to_owned());
    }
    let attributed = attributed(&container.tree);
    if attributed > 0 {
        let capable = container.tree.with_attribute(b"security.capability");
        let capable = if capable.is_empty() { "none".to_owned() } else { capable.join(", ") };
        warn("W-nitro-xattrs", format!("{attributed} files lose extended attributes; capabilities: {capable}"));
    }
    let replaced: Vec<String> = container.replaced.iter().map(|path| format!("/{path}")).collect();
    if !replaced.is_empty() {
        warn("W-nitro-replaced", format!("Docker and linuxkit put their own in the place of {}", replaced.join(", ")));
    }
    warnings
}

/// What of the config the enclave does without: one warning each.
pub fn lost_of_config(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, text: String| warnings.push(Warning::new(code, text));
    let entrypoint = config.entrypoint.as_deref().unwrap_or_default();
    if config.cmd.is_some() && !entrypoint.is_empty() {
        warn("W-nitro-entrypoint", format!("the Entrypoint {entrypoint:?} is dropped: the enclave runs Cmd alone"));
    }
    let cmd = command(config).map(Vec::as_slice).unwrap_or_default();
    if cmd.is_empty() {
        warn("W-nitro-command", "Cmd is an empty list: the enclave has nothing to run".to_owned());
    }
    if !["", "0", "root", "0:0", "root:root"].contains(&config.user.as_str()) {
        warn("W-nitro-user", format!("the User `{}` is ignored: the program runs as root", config.user));
    }
    if !["", "/"].contains(&config.working_dir.as_str()) {
        warn("W-nitro-workdir", format!("the WorkingDir `{}` is ignored: the program starts in /", config.working_dir));
    }
    if !config.env.iter().any(|item| item.starts_with("PATH=")) {
        warn("W-nitro-path", "Env has no PATH: Docker adds a default one, the enclave does not".to_owned());
    }
    if cmd.iter().chain(&config.env).any(|item| item.contains('\n')) {
        let text = "an argument or a variable holds a newline: the enclave reads each of its lines as one of its own";
        warn("W-nitro-newline", text.to_owned());
    }
    warnings
}

/// Directories of the image whose owner or mode the repeated ones change, and names that they replace.
fn repeated(tree: &Tree) -> (Vec<String>, Vec<String>) {
    let (mut changed, mut emptied) = (Vec::new(), Vec::new());
    for name in REPEATED {
        let Some(inode) = tree.at(name.as_bytes()).and_then(|id| tree.get(id)) else { continue };
        let of = inode.metadata;
        if !matches!(inode.kind, Kind::Directory(_)) {
            emptied.push(format!("/{name}"));
        } else if (of.mode, of.uid, of.gid) != (0o755, 0, 0) {
            changed.push(format!("/{name} ({:04o} {}:{})", of.mode, of.uid, of.gid));
        }
    }
    (changed, emptied)
}

/// How many names have extended attributes.
fn attributed(tree: &Tree) -> usize {
    let mut walk = tree.walk();
    let mut count = 0_usize;
    while let Some((_, entry)) = walk.next() {
        let some = tree.get(entry.inode).is_some_and(|inode| inode.xattrs.is_some());
        count = count.saturating_add(usize::from(some));
    }
    count
}
