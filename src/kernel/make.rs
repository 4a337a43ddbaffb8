//! The build: unpack, patch, configure, check, compile, compare, keep.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::fetch::{self, Ways, hash_file, last_line};
use super::lock::{Entry, Lock, Output};
use super::store::{Record, Store};
use super::tools::{self, Toolchain};
use super::{Error, Kernel, Tell, recipe};
use crate::{Arch, Warning};

/// How many files are compiled between two lines of progress.
const COMPILED_PER_LINE: usize = 250;

/// What the names of a build's folder and of its lock begin with; the input hash follows.
const BUILD: &str = ".build-";
const LOCK: &str = ".lock-";

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// For which architecture.
    pub arch: Arch,
    /// The cache folder: sources are taken from and kept in it, and so is the kernel.
    pub cache: &'a Path,
    /// A package or source archive at hand.
    pub source: Option<&'a Path>,
    /// An entry of the lock; without it the first whose source can be had.
    pub id: Option<&'a str>,
    /// How many compilers run at once.
    pub jobs: NonZeroUsize,
    /// The folders that have the tools, as in `PATH`.
    pub path: &'a OsStr,
    /// Another dated archive than the lock's.
    pub snapshot: Option<&'a str>,
}

/// What came of it.
#[derive(Debug)]
pub struct Built {
    /// The kernel in the cache.
    pub kernel: Kernel,
    /// Whether it was there before.
    pub cached: bool,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Where one build works.
struct Site<'a> {
    request: &'a Request<'a>,
    toolchain: &'a Toolchain,
    /// `<cache>/kernels/.build-<hash>`: everything in it goes at the end.
    scratch: PathBuf,
    /// The unpacked source.
    tree: PathBuf,
    /// What the tools say.
    log: PathBuf,
}

/// Builds a kernel, or finds it built. Several processes may do so at once: the second waits for the first.
///
/// # Errors
/// Everything in [`Error`] but the preflight's.
pub fn build(request: &Request<'_>, progress: Tell<'_>) -> Result<Built, Error> {
    let lock = Lock::embedded()?;
    let store = Store::new(request.cache);
    let toolchain = tools::find(request.arch, request.path)?;
    if let Some(built) = built_before(request, &lock, &store, &toolchain)? {
        return Ok(built);
    }
    let (entry, tarball) = fetched(request, &lock, progress)?;
    let kernels = store.kernels()?;
    let hash = recipe::input_hash(entry, request.arch, &toolchain);
    let guard = kernels.join(format!("{LOCK}{hash}"));
    if store.is_held(&guard) {
        progress("another process builds this kernel: waiting for it");
    }
    let _alone = store.alone(&guard)?;
    let kept = kernels.join(&hash);
    let (kernel, cached) = match store.kernel_in(&kept, entry, request.arch) {
        Some(kernel) => (kernel, true),
        None => (make(request, &toolchain, &store, entry, &tarball, &kept, progress)?, false),
    };
    Ok(Built { warnings: warnings(&lock, entry, request, &toolchain), kernel, cached })
}

/// The source that [`build`] would build: the id of its entry and the archive, hash-checked.
///
/// # Errors
/// Those of [`build`] that have to do with the source.
pub fn source(request: &Request<'_>, progress: Tell<'_>) -> Result<(String, PathBuf), Error> {
    let lock = Lock::embedded()?;
    let (entry, tarball) = fetched(request, &lock, progress)?;
    Ok((entry.id.clone(), tarball))
}

fn fetched<'l>(request: &Request<'_>, lock: &'l Lock, progress: Tell<'_>) -> Result<(&'l Entry, PathBuf), Error> {
    let ways = Ways { source: request.source, snapshot: request.snapshot.unwrap_or(&lock.snapshot) };
    fetch::source(lock, request.id, ways, &Store::new(request.cache), progress)
}

/// The kernel of the first entry (or the one that is named), if these tools built it already.
fn built_before(
    request: &Request<'_>,
    lock: &Lock,
    store: &Store,
    toolchain: &Toolchain,
) -> Result<Option<Built>, Error> {
    if request.source.is_some() {
        return Ok(None);
    }
    let entry = match request.id {
        Some(id) => lock.entry(id)?,
        None => match lock.kernels.first() {
            Some(entry) => entry,
            None => return Ok(None),
        },
    };
    let hash = recipe::input_hash(entry, request.arch, toolchain);
    let kernel = store.kernel_in(&store.kernels()?.join(hash), entry, request.arch);
    Ok(kernel.map(|kernel| Built { warnings: warnings(lock, entry, request, toolchain), kernel, cached: true }))
}

/// What differs from what the lock's kernels were made with.
fn warnings(lock: &Lock, entry: &Entry, request: &Request<'_>, toolchain: &Toolchain) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let newest = lock.kernels.first();
    if request.id.is_none() && newest.is_some_and(|newest| newest.id != entry.id) {
        let text =
            format!("kernel {} is not the newest of kernels.lock: PCR0 and PCR1 are those of an older one", entry.id);
        warnings.push(Warning::new("W-kernel-older", text));
    }
    match entry.output(request.arch) {
        None => {
            let text = format!(
                "kernels.lock has no hash for kernel {} on {}: nothing to hold it against",
                entry.id, request.arch
            );
            warnings.push(Warning::new("W-kernel-unpinned", text));
        }
        Some(output) if output.toolchain != toolchain.versions => {
            let text = format!(
                "the kernel was built with {}, the published one with {}: PCR0 and PCR1 will differ from the published ones",
                toolchain.versions, output.toolchain
            );
            warnings.push(Warning::new("W-kernel-compiler", text));
        }
        Some(_) => {}
    }
    warnings
}

/// Builds into a scratch folder and moves the result to `kept`.
fn make(
    request: &Request<'_>,
    toolchain: &Toolchain,
    store: &Store,
    entry: &Entry,
    tarball: &Path,
    kept: &Path,
    progress: Tell<'_>,
) -> Result<Kernel, Error> {
    let name = kept.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let scratch = kept.with_file_name(format!("{BUILD}{name}"));
    let tree = scratch.join("linux");
    if tree.to_string_lossy().contains([' ', '\t', '\n', ':']) {
        return Err(Error::Place { folder: scratch });
    }
    let site = Site { request, toolchain, tree, log: kept.with_extension("log"), scratch };
    sweep(store, &store.kernels()?)?;
    clear(&site.scratch)?;
    fs::create_dir_all(&site.tree).map_err(Error::io("making", &site.tree))?;
    let done = site.run(entry, tarball, progress).and_then(|output| site.keep(entry, output, kept));
    let cleared = clear(&site.scratch);
    done?;
    cleared?;
    let _ = fs::remove_file(&site.log);
    store.kernel_in(kept, entry, request.arch).ok_or(Error::Missing { arch: request.arch })
}

/// Removes what builds that were killed have left: an unpacked source is 1.7 GB.
fn sweep(store: &Store, kernels: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(kernels).map_err(Error::io("reading", kernels))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(hash) = name.strip_prefix(BUILD)
            && !store.is_held(&kernels.join(format!("{LOCK}{hash}")))
        {
            clear(&entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn clear(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", folder)(error)),
        _ => Ok(()),
    }
}

impl Site<'_> {
    /// All steps; the result lies in the scratch folder as `kernel` and `config`.
    fn run(&self, entry: &Entry, tarball: &Path, progress: Tell<'_>) -> Result<Output, Error> {
        File::create(&self.log).map_err(Error::io("writing", &self.log))?;
        let arch = self.request.arch;
        progress(&format!("kernel {}: unpacking", entry.id));
        self.unpack(tarball)?;
        progress(&format!("kernel {}: patching and configuring for {arch}", entry.id));
        self.patch()?;
        recipe::check_patched(|file| read(&self.tree.join(file)))?;
        let fragment = self.configure()?;
        let (target, image) = recipe::image(arch);
        progress(&format!("kernel {}: compiling with {} jobs (some minutes)", entry.id, self.request.jobs));
        self.compile(target, progress)?;
        let config = self.tree.join(".config");
        recipe::check_config(&fragment, &read(&config)?)?;
        self.collect(&self.tree.join(image), "kernel")?;
        self.collect(&config, "config")?;
        Ok(Output {
            toolchain: self.toolchain.versions.clone(),
            kernel_sha256: hash_file(&self.scratch.join("kernel"))?,
            config_sha256: hash_file(&self.scratch.join("config"))?,
        })
    }

    fn unpack(&self, tarball: &Path) -> Result<(), Error> {
        let mut tar = self.command("tar");
        tar.args(["--extract", "--xz", "--no-same-owner", "--strip-components=1", "--file"]).arg(tarball);
        tar.arg("--directory").arg(&self.tree);
        let output = tar.output().map_err(Error::io("running", Path::new("tar")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Unpack { file: tarball.to_owned(), reason: last_line(&output.stderr, "tar failed") })
    }

    fn patch(&self) -> Result<(), Error> {
        for patch in recipe::PATCHES {
            let file = self.scratch.join(patch.name);
            fs::write(&file, patch.text).map_err(Error::io("writing", &file))?;
            let mut command = self.command("patch");
            command.args(["--strip=1", "--fuzz=0", "--batch", "--forward", "--no-backup-if-mismatch", "--input"]);
            command.arg(&file).current_dir(&self.tree);
            let output = command.output().map_err(Error::io("running", Path::new("patch")))?;
            if !output.status.success() {
                let reason = last_line(&output.stdout, "patch failed");
                return Err(Error::Patch { name: patch.name.to_owned(), reason });
            }
        }
        Ok(())
    }

    /// Writes `.config` and gives the fragment that it was checked against.
    fn configure(&self) -> Result<String, Error> {
        let fragment = recipe::fragment(self.request.arch);
        let file = self.scratch.join("fragment");
        fs::write(&file, &fragment).map_err(Error::io("writing", &file))?;
        let mut make = self.make("allnoconfig");
        make.env("KCONFIG_ALLCONFIG", &file);
        self.logged(make, "configuring the kernel", &mut |_| ())?;
        recipe::check_config(&fragment, &read(&self.tree.join(".config"))?)?;
        Ok(fragment)
    }

    fn compile(&self, target: &str, progress: Tell<'_>) -> Result<(), Error> {
        let mut make = self.make(target);
        make.arg(format!("--jobs={}", self.request.jobs));
        let mut compiled = 0;
        self.logged(make, "compiling the kernel", &mut |line| {
            if line.starts_with("  CC ") || line.starts_with("  AS ") {
                compiled += 1;
                if compiled % COMPILED_PER_LINE == 0 {
                    progress(&format!("  {compiled} files compiled"));
                }
            }
        })
    }

    fn command(&self, program: &str) -> Command {
        tools::clean(program, self.request.path, &self.scratch)
    }

    /// make in the source, under a fixed umask.
    fn make(&self, target: &str) -> Command {
        let mut make = self.command("sh");
        make.args(["-c", "umask 022; exec make \"$@\"", "make", target]).current_dir(&self.tree);
        make.arg(format!("ARCH={}", recipe::kernel_arch(self.request.arch)));
        make.arg(format!("CROSS_COMPILE={}", self.toolchain.prefix));
        // Kconfig writes the versions of tools that we do not use into the configuration, if it finds them.
        make.args(["RUSTC=not-used", "PAHOLE=not-used"]);
        make
    }

    /// Runs a command with both streams in the log; `each` sees every line of stdout.
    fn logged(&self, mut command: Command, step: &str, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let broken = || Error::io("writing", &self.log);
        let mut log = File::options().append(true).open(&self.log).map_err(broken())?;
        let errors = log.try_clone().map_err(broken())?;
        command.stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().map_err(Error::io("running", Path::new("make")))?;
        let mut copy = |line: io::Result<Vec<u8>>| {
            let line = line?;
            each(&String::from_utf8_lossy(&line));
            log.write_all(&line).and_then(|()| log.write_all(b"\n"))
        };
        let copied = match child.stdout.take() {
            Some(stdout) => BufReader::new(stdout).split(b'\n').try_for_each(&mut copy),
            None => Ok(()),
        };
        if copied.is_err() {
            // A log that cannot be written ends the build: make must not go on below a folder that is removed.
            let _ = child.kill();
            let _ = child.wait();
        }
        copied.map_err(broken())?;
        let status = child.wait().map_err(Error::io("running", Path::new("make")))?;
        if status.success() { Ok(()) } else { Err(self.failed(step)) }
    }

    fn failed(&self, step: &str) -> Error {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let named = lines.clone().rev().find(|line| line.contains("error:") || line.contains("Error "));
        let last = named.or_else(|| lines.next_back()).unwrap_or("nothing was said").to_owned();
        Error::Make { step: step.to_owned(), last, log: self.log.clone() }
    }

    fn collect(&self, from: &Path, name: &str) -> Result<(), Error> {
        fs::copy(from, self.scratch.join(name)).map(|_| ()).map_err(Error::io("copying", from))
    }

    /// Moves the result to its place; a kernel that is not what the lock says is kept beside it, for comparison only.
    fn keep(&self, entry: &Entry, output: Output, kept: &Path) -> Result<(), Error> {
        let arch = self.request.arch;
        let got = output.kernel_sha256.clone();
        let wrong = entry
            .output(arch)
            .filter(|locked| locked.toolchain == output.toolchain && locked.kernel_sha256 != got)
            .map(|locked| locked.kernel_sha256.clone());
        let place = if wrong.is_some() { kept.with_extension("unexpected") } else { kept.to_owned() };
        let recipe = recipe::recipe_hash(entry, arch);
        let record = Record { id: entry.id.clone(), arch: arch.name().to_owned(), recipe, output };
        self.place(&record, &place)?;
        match wrong {
            Some(expected) => Err(Error::Hash { id: entry.id.clone(), arch, expected, got, kept: place }),
            None => Ok(()),
        }
    }

    fn place(&self, record: &Record, place: &Path) -> Result<(), Error> {
        let out = self.scratch.join("out");
        fs::create_dir_all(&out).map_err(Error::io("making", &out))?;
        for name in ["kernel", "config"] {
            let from = self.scratch.join(name);
            fs::rename(&from, out.join(name)).map_err(Error::io("moving", &from))?;
        }
        let file = out.join("record.json");
        let mut text = serde_json::to_vec_pretty(record).map_err(|error| Error::Lock(error.to_string()))?;
        text.push(b'\n');
        fs::write(&file, text).map_err(Error::io("writing", &file))?;
        clear(place)?;
        fs::rename(&out, place).map_err(Error::io("writing", place))
    }
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(Error::io("reading", file))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    struct World {
        cache: tempfile::TempDir,
        path: OsString,
        toolchain: Toolchain,
    }

    impl World {
        fn new() -> Self {
            let toolchain = Toolchain { prefix: String::new(), versions: "cc 1; ld 2".to_owned() };
            World { cache: tempfile::tempdir().unwrap(), path: OsString::from("/usr/bin:/bin"), toolchain }
        }

        fn request(&self) -> Request<'_> {
            Request {
                arch: Arch::X86_64,
                cache: self.cache.path(),
                source: None,
                id: None,
                jobs: NonZeroUsize::MIN,
                path: &self.path,
                snapshot: None,
            }
        }

        fn site<'a>(&'a self, request: &'a Request<'a>) -> Site<'a> {
            let scratch = self.cache.path().join(".build-x");
            fs::create_dir_all(&scratch).unwrap();
            let log = self.cache.path().join("x.log");
            File::create(&log).unwrap();
            Site { request, toolchain: &self.toolchain, tree: scratch.join("linux"), log, scratch }
        }
    }

    fn locked(kernel_sha256: &str, toolchain: &str) -> Lock {
        let mut lock = Lock::embedded().unwrap();
        let output = Output {
            toolchain: toolchain.to_owned(),
            kernel_sha256: kernel_sha256.to_owned(),
            config_sha256: String::new(),
        };
        for entry in &mut lock.kernels {
            entry.outputs = [("x86_64".to_owned(), output.clone())].into();
        }
        lock
    }

    /// A build's result in the scratch folder, as `run` leaves it.
    fn result(site: &Site<'_>) -> Output {
        for name in ["kernel", "config"] {
            fs::write(site.scratch.join(name), name).unwrap();
        }
        let hash = |name| hash_file(&site.scratch.join(name)).unwrap();
        Output { toolchain: "cc 1; ld 2".to_owned(), kernel_sha256: hash("kernel"), config_sha256: hash("config") }
    }

    #[test]
    fn a_failed_step_names_the_error_and_the_log() {
        let world = World::new();
        let request = world.request();
        let site = world.site(&request);
        let mut command = site.command("sh");
        command.args(["-c", "echo '  CC      a.o'; echo 'a.c:1: error: no such thing' >&2; echo later; exit 2"]);
        let mut lines = Vec::new();
        let error = site.logged(command, "compiling", &mut |line| lines.push(line.to_owned())).unwrap_err();
        assert_eq!(lines, ["  CC      a.o", "later"]);
        let Error::Make { last, log, .. } = &error else { panic!("{error}") };
        assert_eq!(last, "a.c:1: error: no such thing");
        assert!(fs::read_to_string(log).unwrap().contains("later"));
    }

    #[test]
    fn nothing_of_the_machine_reaches_a_step() {
        let world = World::new();
        let request = world.request();
        let output = world.site(&request).command("env").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        let mut wanted: Vec<&str> = recipe::ENVIRONMENT.iter().map(|(name, _)| *name).collect();
        wanted.extend(["HOME", "PATH", "TMPDIR"]);
        wanted.sort_unstable();
        assert_eq!(names, wanted);
    }

    #[test]
    fn other_bytes_from_the_locked_tools_are_an_error_and_kept_aside() {
        let world = World::new();
        let request = world.request();
        let site = world.site(&request);
        let lock = locked(&"0".repeat(64), "cc 1; ld 2");
        let kept = world.cache.path().join("hash");
        let error = site.keep(&lock.kernels[0], result(&site), &kept).unwrap_err();
        let Error::Hash { kept: aside, .. } = &error else { panic!("{error}") };
        assert!(!kept.exists());
        assert_eq!(fs::read(aside.join("kernel")).unwrap(), b"kernel");
    }

    #[test]
    fn other_tools_are_a_warning_that_names_them() {
        let world = World::new();
        let request = world.request();
        let site = world.site(&request);
        let lock = locked(&"0".repeat(64), "cc 0");
        let kept = world.cache.path().join("hash");
        site.keep(&lock.kernels[0], result(&site), &kept).unwrap();
        assert!(kept.join("record.json").is_file());
        let warnings = warnings(&lock, &lock.kernels[0], &request, &world.toolchain);
        assert_eq!(warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["W-kernel-compiler"]);
        assert!(warnings[0].message.contains("cc 0") && warnings[0].message.contains("cc 1; ld 2"));
    }

    #[test]
    fn the_locked_tools_and_the_newest_entry_are_quiet() {
        let world = World::new();
        let request = world.request();
        let lock = locked("", "cc 1; ld 2");
        assert_eq!(warnings(&lock, &lock.kernels[0], &request, &world.toolchain), []);
        let older = warnings(&lock, &lock.kernels[1], &request, &world.toolchain);
        assert_eq!(older.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["W-kernel-older"]);
    }

    #[test]
    fn what_killed_builds_left_is_removed_and_what_runs_is_not() {
        let world = World::new();
        let store = Store::new(world.cache.path());
        let kernels = store.kernels().unwrap();
        for name in [".build-dead", ".build-alive"] {
            fs::create_dir(kernels.join(name)).unwrap();
        }
        let _alone = store.alone(&kernels.join(".lock-alive")).unwrap();
        sweep(&store, &kernels).unwrap();
        assert!(!kernels.join(".build-dead").exists() && kernels.join(".build-alive").exists());
    }
}
