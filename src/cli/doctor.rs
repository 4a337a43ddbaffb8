//! `eif doctor`: what this machine has and lacks, and the way out, before a build or a run fails on it.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use eif::image::Store;
use eif::{Arch, Refusal, init, kernel};
use serde::Serialize;
use serde_json::json;

use super::build::mib;
use super::environment;
use super::failure::Failure;
use super::inspect::pretty;
use super::ui::Ui;

/// Temporary files of a build are as large as the image's layers, unpacked.
const ROOM: u64 = 2 << 30;
const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// Say what this machine has and lacks for build, run and verify, and the way out
///
/// The exit code is 1 only when nothing can be built.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  eif doctor\n  eif doctor --json")]
pub struct Args {}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Ok,
    /// It is not there, and something cannot be done.
    Missing,
    /// It is not as it could be, and everything can be done in some way.
    Note,
}

/// What a thing is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    Build,
    Run,
    Verify,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: String,
    #[serde(rename = "for")]
    tasks: &'static [Task],
    state: State,
    found: String,
    help: Vec<String>,
}

/// An image is built and verified with the same things.
const BUILD: &[Task] = &[Task::Build, Task::Verify];
const RUN: &[Task] = &[Task::Run];

/// All that was found, and what it is enough for.
struct Diagnosis {
    build: bool,
    run: bool,
    checks: Vec<Check>,
}

pub fn run(_: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let diagnosis = diagnose();
    ui.data(&if ui.json { diagnosis.json()? } else { diagnosis.text() })?;
    Ok(if diagnosis.build { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn diagnose() -> Diagnosis {
    let cache = environment::cache_if_any();
    let kernels = ARCHES.map(|arch| kernel_of(arch, cache.as_deref()));
    let inits = ARCHES.map(init_of);
    let room = room(&std::env::temp_dir());
    let emulators = ARCHES.map(emulator);
    let nitro = device("nitro enclaves", "/dev/nitro_enclaves", NITRO_HELP);
    let is_ok = |check: &Check| check.state == State::Ok;
    let bootable = kernels.iter().zip(&inits).any(|(kernel, init)| is_ok(kernel) && is_ok(init));
    let build = bootable && room.state != State::Missing;
    let run = is_ok(&nitro) || emulators.iter().any(is_ok);
    let mut checks: Vec<Check> = kernels.into_iter().chain(inits).collect();
    checks.extend([room, store(cache.as_deref()), engine()]);
    checks.extend(logins());
    checks.push(nitro);
    checks.extend(emulators);
    checks.push(device("kvm", "/dev/kvm", "without it QEMU emulates the processor, which is slow and works"));
    Diagnosis { build, run, checks }
}

const NITRO_HELP: &str = "use a parent instance with enclaves enabled, or --backend qemu";

impl Diagnosis {
    fn tasks(&self) -> [(&'static str, bool); 3] {
        [("build", self.build), ("run", self.run), ("verify", self.build)]
    }

    fn json(&self) -> Result<String, Failure> {
        let [build, run, verify] = self.tasks().map(|(_, ready)| ready);
        pretty(&json!({"build": build, "run": run, "verify": verify, "checks": self.checks}))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Check { name, state, found, help, .. } in &self.checks {
            let word = match state {
                State::Ok => "ok",
                State::Missing => "missing",
                State::Note => "note",
            };
            text += &format!("{word:<8} {name:<20} {}\n", eif::shown(found));
            help.iter().for_each(|line| text += &format!("{:29} help: {line}\n", ""));
        }
        for (task, ready) in self.tasks() {
            text += &format!("{task:<8} {}\n", if ready { "can be done here" } else { "cannot be done here" });
        }
        text
    }
}

impl Check {
    fn new(name: impl Into<String>, tasks: &'static [Task], state: State, found: impl Into<String>) -> Self {
        Self { name: name.into(), tasks, state, found: found.into(), help: Vec::new() }
    }

    fn with_help(self, line: &str) -> Self {
        Self { help: vec![line.to_owned()], ..self }
    }

    /// What a command that needs the thing would say.
    fn refused(name: String, tasks: &'static [Task], error: &dyn Refusal) -> Self {
        Self { help: error.help(), ..Self::new(name, tasks, State::Missing, error.to_string()) }
    }
}

fn kernel_of(arch: Arch, cache: Option<&Path>) -> Check {
    let name = format!("kernel {arch}");
    let Some(cache) = cache else {
        return Check::new(name, BUILD, State::Missing, "there is no place for the cache")
            .with_help("set HOME or XDG_CACHE_HOME, or pass --kernel");
    };
    match kernel::find(arch, cache) {
        Err(error) => Check::refused(name, BUILD, &error),
        Ok(found) => {
            let check = Check::new(name, BUILD, State::Ok, found.path.display().to_string());
            if found.locked {
                return check;
            }
            check.with_help("not the kernel that kernels.lock records: PCR0 and PCR1 will not be the published ones")
        }
    }
}

fn init_of(arch: Arch) -> Check {
    let name = format!("init {arch}");
    match init::toolchain(arch) {
        Some(toolchain) => Check::new(name, BUILD, State::Ok, format!("in this program, made by {toolchain}")),
        None => Check::new(name, BUILD, State::Missing, "this program was built without it").with_help(init::MISSING),
    }
}

/// Temporary files: whether they can be, and how large.
fn room(folder: &Path) -> Check {
    let name = "temporary files";
    if let Err(error) = tempfile::tempfile_in(folder) {
        let found = format!("{}: {error}", folder.display());
        return Check::new(name, BUILD, State::Missing, found)
            .with_help("set TMPDIR to a folder that can be written to");
    }
    match free(folder) {
        None => Check::new(name, BUILD, State::Ok, folder.display().to_string()),
        Some(free) => {
            let found = format!("{}: {} free", folder.display(), mib(free));
            if free >= ROOM {
                return Check::new(name, BUILD, State::Ok, found);
            }
            Check::new(name, BUILD, State::Note, found)
                .with_help("a build needs as much as the image's layers have unpacked: set TMPDIR to a larger place")
        }
    }
}

#[cfg(target_os = "linux")]
fn free(folder: &Path) -> Option<u64> {
    rustix::fs::statvfs(folder).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(target_os = "linux"))]
fn free(_folder: &Path) -> Option<u64> {
    None
}

/// Where downloads are kept: a build can do without it.
fn store(cache: Option<&Path>) -> Check {
    let name = "store";
    let Some(folder) = cache.map(|cache| cache.join("blobs")) else {
        return Check::new(name, BUILD, State::Note, "there is no place for it, so downloads are not kept")
            .with_help("set HOME or XDG_CACHE_HOME");
    };
    let listed = Store::open(&folder, None).and_then(|store| store.list());
    match listed {
        Err(error) => Check::new(name, BUILD, State::Note, error.to_string())
            .with_help("mend or remove the folder, set XDG_CACHE_HOME, or pass --no-cache"),
        Ok(blobs) => {
            let size = mib(blobs.iter().map(|blob| blob.size).sum());
            let found = format!("{}: {} blobs, {size}", folder.display(), blobs.len());
            if is_writable(&folder) {
                return Check::new(name, BUILD, State::Ok, found);
            }
            Check::new(name, BUILD, State::Note, format!("{found}; it cannot be written to"))
                .with_help("set XDG_CACHE_HOME to a folder that can be, or pass --no-cache")
        }
    }
}

/// Whether a folder, or the nearest one above it that is there, can be written to. Nothing is made to find out.
#[cfg(target_os = "linux")]
fn is_writable(folder: &Path) -> bool {
    use rustix::fs::{Access, access};
    let there = folder.ancestors().find(|folder| folder.exists());
    there.is_some_and(|there| there.is_dir() && access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

#[cfg(not(target_os = "linux"))]
fn is_writable(_folder: &Path) -> bool {
    true
}

/// The Docker engine, which only `docker-daemon:` needs.
fn engine() -> Check {
    let name = "docker engine";
    let socket = match environment::engine().socket() {
        Ok(Some(socket)) => socket,
        Ok(None) => return Check::new(name, BUILD, State::Ok, "DOCKER_HOST is on the net; it was not asked"),
        Err(error) => return Check { state: State::Note, ..Check::refused(name.to_owned(), BUILD, &error) },
    };
    let failed = match UnixStream::connect(&socket) {
        Ok(_) => return Check::new(name, BUILD, State::Ok, format!("listens at {}", socket.display())),
        Err(error) => error,
    };
    let help = match failed.kind() {
        io::ErrorKind::PermissionDenied => "become a member of the group that owns the socket",
        _ => "start it or set DOCKER_HOST; only docker-daemon: needs it",
    };
    Check::new(name, BUILD, State::Note, format!("{}: {failed}", socket.display())).with_help(help)
}

/// The files with logins that are there, and what is wrong with them; nothing of what is in them.
fn logins() -> Vec<Check> {
    let files = environment::auth_files();
    let there = files.iter().filter(|file| file.is_named() || file.path().exists());
    let mut checks: Vec<Check> = there
        .map(|file| {
            let path = file.path().display().to_string();
            match file.fault() {
                None => Check::new("logins", BUILD, State::Ok, path),
                Some(why) => Check::new("logins", BUILD, State::Note, format!("{path}: {why}"))
                    .with_help("write it anew with `podman login` or `docker login`, or remove it"),
            }
        })
        .collect();
    if checks.is_empty() {
        let check = Check::new("logins", BUILD, State::Note, "no file of podman's or docker's has any");
        checks.push(check.with_help("for private images run `podman login` or `docker login`, or pass --authfile"));
    }
    checks
}

#[cfg(target_os = "linux")]
fn emulator(arch: Arch) -> Check {
    let name = format!("qemu {arch}");
    match eif::launch::qemu::program(arch) {
        Ok(program) => Check::new(name, RUN, State::Ok, program),
        Err(error) => Check::refused(name, RUN, &error),
    }
}

#[cfg(not(target_os = "linux"))]
fn emulator(arch: Arch) -> Check {
    Check::new(format!("qemu {arch}"), RUN, State::Missing, "eif runs enclaves on Linux alone")
}

/// A device that something may be without.
fn device(name: &str, path: &str, help: &str) -> Check {
    match fs::File::options().read(true).write(true).open(path) {
        Ok(_) => Check::new(name, RUN, State::Ok, path),
        Err(error) => Check::new(name, RUN, State::Note, format!("{path}: {error}")).with_help(help),
    }
}
