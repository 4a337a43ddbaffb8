//! The programs that build a kernel: found in PATH, all the missing ones named at once, their versions on record.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;
use crate::Arch;

/// Programs that every build runs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 12] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("ar", "binutils"),
    ("awk", "mawk"),
    ("patch", "patch"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("sed", "sed"),
    ("sh", "dash"),
];

/// Headers of the build's own programs (objtool reads ELF; all of them need a libc).
const HEADERS: [(&str, &str); 2] = [("stdio.h", "libc6-dev"), ("gelf.h", "libelf-dev")];

/// The programs whose versions reach the kernel's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// What stands before `gcc`, `ld` and the others: `x86_64-linux-gnu-`, or nothing.
    pub prefix: String,
    /// First lines of `--version`, joined by `; `.
    pub versions: String,
}

/// The folders of a PATH.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a>(pub &'a OsStr);

impl Folders<'_> {
    /// Where a program is.
    fn find(self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(self.0).map(|folder| folder.join(program)).find(|file| file.is_file())
    }

    fn has(self, program: &str) -> bool {
        self.find(program).is_some()
    }
}

/// The GNU name of an architecture's tools in Debian, on every host (there is such a link for native ones as well):
/// with it the kernel's banner reads alike wherever it is built.
fn triplet(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-linux-gnu-",
        Arch::Aarch64 => "aarch64-linux-gnu-",
    }
}

/// Finds the tools for `arch`, or names everything that is missing.
pub fn find(arch: Arch, path: &OsStr) -> Result<Toolchain, Error> {
    let prefix = prefix(arch, Folders(path));
    let missing = missing(arch, &prefix, path);
    if missing.is_empty() {
        let versions = versions(arch, &prefix, path)?;
        return Ok(Toolchain { prefix, versions });
    }
    let (missing, mut packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    packages.sort();
    packages.dedup();
    Err(Error::Tools { arch, missing, packages })
}

/// The prefixed names where there are such; else the plain ones, if they make code for `arch`.
fn prefix(arch: Arch, path: Folders<'_>) -> String {
    let own = triplet(arch);
    let prefixed = path.has(&format!("{own}gcc"));
    let native = std::env::consts::ARCH == arch.name();
    if prefixed || !native { own.to_owned() } else { String::new() }
}

fn missing(arch: Arch, prefix: &str, path: &OsStr) -> Vec<(String, String)> {
    let found = Folders(path);
    let mut missing: Vec<(String, String)> = PROGRAMS
        .iter()
        .filter(|(program, _)| !found.has(program))
        .map(|(program, package)| ((*program).to_owned(), (*package).to_owned()))
        .collect();
    let gnu = triplet(arch).trim_end_matches('-').replace('_', "-");
    for (program, package) in [("gcc", "gcc"), ("ld", "binutils"), ("objcopy", "binutils")] {
        let name = format!("{prefix}{program}");
        if !found.has(&name) && !missing.iter().any(|(have, _)| *have == name) {
            missing.push((name, if prefix.is_empty() { package.to_owned() } else { format!("{package}-{gnu}") }));
        }
    }
    if arch == Arch::X86_64 && !found.has("zstd") {
        missing.push(("zstd".to_owned(), "zstd".to_owned()));
    }
    if found.has("gcc") {
        for (header, package) in HEADERS {
            if !compiles(header, path) {
                missing.push((header.to_owned(), package.to_owned()));
            }
        }
    }
    missing
}

/// Whether the host's compiler finds a header.
fn compiles(header: &str, path: &OsStr) -> bool {
    let mut gcc = Command::new("gcc");
    gcc.args(["-fsyntax-only", "-include", header, "-x", "c", "/dev/null"]).env("PATH", path);
    gcc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    gcc.status().is_ok_and(|status| status.success())
}

/// The compiler, the linker and, where it packs the kernel, zstd: the tools that the kernel's bytes depend on.
fn versions(arch: Arch, prefix: &str, path: &OsStr) -> Result<String, Error> {
    let mut programs = vec![format!("{prefix}gcc"), format!("{prefix}ld")];
    if arch == Arch::X86_64 {
        programs.push("zstd".to_owned());
    }
    let lines: Result<Vec<String>, Error> = programs.iter().map(|program| first_line(program, path)).collect();
    Ok(lines?.join("; "))
}

fn first_line(program: &str, path: &OsStr) -> Result<String, Error> {
    let mut command = Command::new(program);
    command.arg("--version").env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(Error::io("running", Path::new(program)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().trim_matches('*').trim().to_owned())
}

/// A command with the recipe's environment and nothing else.
pub fn clean(program: &str, path: &OsStr, scratch: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(super::recipe::ENVIRONMENT);
    command.env("PATH", path).env("HOME", scratch).env("TMPDIR", scratch).stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let error = find(Arch::X86_64, OsStr::new("/nonexistent")).unwrap_err();
        let help = error.help().join("\n");
        assert_eq!(error.code(), "E-kernel-tools");
        for package in ["flex", "bison", "bc", "make", "xz-utils", "zstd"] {
            assert!(help.contains(package), "{help}");
        }
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn the_other_architecture_wants_its_cross_compiler() {
        let other = if std::env::consts::ARCH == "aarch64" { Arch::X86_64 } else { Arch::Aarch64 };
        let error = find(other, OsStr::new("/nonexistent")).unwrap_err();
        let package = triplet(other).trim_end_matches('-').replace('_', "-");
        assert!(error.help()[0].contains(&format!("gcc-{package}")), "{:?}", error.help());
    }
}
