//! Builds a program that stands alone: `no_std`, no libc, static, linked by the toolchain's own `rust-lld`.
//!
//! Shared by `build.rs` of `eif` (the init) and of the test images (their programs) and by the test that builds twice.
//! The bytes depend on the toolchain and the source alone: sources are named relative to a remapped folder, the linker
//! is the toolchain's, nothing of the host's libc or binutils is read, and there is no build id.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names another `rustc` for aarch64, where the one in use lacks that target.
const NAMED: &str = "EIF_RUSTC_AARCH64";

/// The variables that [`Toolchain::at_hand`] reads.
pub const VARIABLES: [&str; 3] = [NAMED, "XDG_CACHE_HOME", "HOME"];

/// Below the user's folder of caches: the compiler that `.ci/rustc-aarch64` leaves there.
pub const CACHED: &str = "eif-tools/rustc-aarch64/bin/rustc";

/// A compiler and the targets it has the core library of.
#[derive(Debug, Clone)]
pub struct Toolchain {
    rustc: OsString,
    /// The first line of `rustc -vV`: version, commit, date.
    pub version: String,
    lld: PathBuf,
}

/// Why a program could not be built: what was tried, and what came of it.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Toolchain {
    /// Asks a `rustc` what it is. Its sysroot holds `rust-lld` unless `lld` names another linker.
    pub fn of(rustc: impl Into<OsString>, lld: Option<&Path>) -> Result<Self, Error> {
        let rustc = rustc.into();
        let verbose = ask(Command::new(&rustc).arg("-vV"))?;
        let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.ok_or_else(|| Error("`rustc -vV` names no host".into()))?;
        let sysroot = ask(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let own = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/rust-lld");
        let version = verbose.lines().next().unwrap_or_default().to_owned();
        Ok(Self { rustc, version, lld: lld.map_or(own, Path::to_path_buf) })
    }

    /// What builds for `arch`: for aarch64 the compiler that EIF_RUSTC_AARCH64 names; else `rustc` itself; else, again for
    /// aarch64, Debian's in the cache. All link with the linker of `rustc`. `None` if none of them has the target.
    pub fn at_hand(
        arch: &str,
        rustc: impl Into<OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, Error> {
        let own = Self::of(rustc, None)?;
        let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
        let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
        let cached = caches.map(|caches| caches.join(CACHED)).filter(|rustc| arch == "aarch64" && rustc.is_file());
        let named = variable(NAMED).filter(|_| arch == "aarch64");
        let other = |rustc: OsString| Self::of(rustc, Some(&own.lld));
        if let Some(named) = named.map(other).transpose()?.filter(|named| named.has(arch)) {
            return Ok(Some(named));
        }
        if own.has(arch) {
            return Ok(Some(own));
        }
        let cached = cached.map(|rustc| other(rustc.into_os_string())).transpose()?;
        Ok(cached.filter(|cached| cached.has(arch)))
    }

    /// The compiler itself, as a command.
    pub fn compiler(&self) -> &OsStr {
        &self.rustc
    }

    /// The linker in use.
    pub fn linker(&self) -> &Path {
        &self.lld
    }

    /// Whether it can build for an architecture (`x86_64`, `aarch64`).
    pub fn has(&self, arch: &str) -> bool {
        let folder = ask(Command::new(&self.rustc).args(["--print", "target-libdir", "--target", &triple(arch)]));
        folder.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
    }

    /// Builds the init of `init/` in `out` and returns its path.
    pub fn init(&self, arch: &str, init: &Path, out: &Path) -> Result<PathBuf, Error> {
        self.program(arch, init, &init.join("src/main.rs"), "init", out)
    }

    /// Builds the program `main` on top of the library in `init/`, in `out/NAME-ARCH`.
    pub fn program(&self, arch: &str, init: &Path, main: &Path, name: &str, out: &Path) -> Result<PathBuf, Error> {
        let library = out.join(format!("libeif_init-{arch}-{name}.rlib"));
        let mut rustc = self.rustc(arch, init);
        rustc.args(["--crate-name", "eif_init", "--crate-type", "rlib", "-o"]).arg(&library);
        ask(rustc.arg(init.join("src/lib.rs")))?;
        let program = out.join(format!("{name}-{arch}"));
        let mut rustc = self.rustc(arch, main.parent().unwrap_or(main));
        rustc.args(["--crate-name", name, "--crate-type", "bin", "-o"]).arg(&program);
        rustc.arg("--extern").arg(with("eif_init=", &library)).arg("-C").arg(with("linker=", &self.lld));
        rustc.args(["-C", "linker-flavor=ld.lld", "-C", "strip=symbols"]);
        rustc.args(["-C", "link-args=-nostdlib -static --build-id=none -z noexecstack"]);
        ask(rustc.arg(main))?;
        Ok(program)
    }

    /// The flags that library and program share. The environment is emptied of all that compilers listen to.
    fn rustc(&self, arch: &str, folder: &Path) -> Command {
        let mut rustc = Command::new(&self.rustc);
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "SOURCE_DATE_EPOCH", "RUSTC_FORCE_RUSTC_VERSION"] {
            rustc.env_remove(name);
        }
        rustc.args(["--edition", "2024", "--target", &triple(arch), "-C", "opt-level=s", "-C", "panic=abort"]);
        rustc.args(["-C", "lto=fat", "-C", "embed-bitcode=yes", "-C", "codegen-units=1"]);
        rustc.args(["-C", "relocation-model=static", "-C", "debuginfo=0", "-C", "overflow-checks=no"]);
        rustc.args(["-C", "force-unwind-tables=no"]);
        if arch == "aarch64" {
            // Atomics in line: the other kind asks libc at run time which instructions there are.
            rustc.args(["-C", "target-feature=-outline-atomics"]);
        }
        rustc.arg("--remap-path-prefix").arg(with_suffix(folder, "=/eif"));
        rustc
    }
}

fn triple(arch: &str) -> String {
    format!("{arch}-unknown-linux-gnu")
}

fn with(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

fn with_suffix(path: &Path, suffix: &str) -> OsString {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text
}

/// Runs a command; its output, or an error that has its last words.
fn ask(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|error| Error(format!("{command:?}: {error}")))?;
    if !output.status.success() {
        return Err(Error(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
