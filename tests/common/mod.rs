//! The tests' own world: the built program with an empty environment, folders of its own, and answers that must be
//! looked at.
#![allow(dead_code, reason = "every test file includes all of it and uses a part")]

pub mod boot;
pub mod engine;
pub mod layers;
pub mod registry;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use eif_testdata::{Image, OciLayout};

/// A folder with HOME, TMPDIR and the XDG folders in it; gone when dropped.
pub struct TestEnv {
    root: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl TestEnv {
    /// A fresh world without kernels: `eif build` needs `--kernel` here.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("eif-test-").tempdir().unwrap();
        for folder in ["home", "tmp", "cache", "config", "run", "work"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        TestEnv { root, variables: Vec::new() }
    }

    /// A fresh world that sees the kernels which `eif kernel build` has put into this user's cache.
    pub fn with_kernels() -> Self {
        let env = TestEnv::new();
        let real = real_cache().join("kernels");
        assert!(real.is_dir(), "no kernels in {}: run `make kernel` (`eif kernel build`) first", real.display());
        fs::create_dir(env.root.path().join("cache/eif")).unwrap();
        std::os::unix::fs::symlink(real, env.root.path().join("cache/eif/kernels")).unwrap();
        env
    }

    /// Sets one more environment variable for every run.
    pub fn variable(mut self, key: &str, value: impl Into<String>) -> Self {
        self.variables.push((key.to_owned(), value.into()));
        self
    }

    /// A path in the folder where the program runs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    /// The folder where the program runs.
    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// The program's TMPDIR.
    pub fn tmp(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    /// Writes a file into the working folder.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes an image as OCI layout into the working folder and gives its reference, `oci:NAME:latest`.
    pub fn layout(&self, name: &str, image: &Image) -> String {
        OciLayout::new().tag("latest", image).files().write_dir(&self.path(name));
        format!("oci:{name}:latest")
    }

    /// Builds `NAME.eif` with the kernel of `eif kernel build` and gives its path.
    pub fn build(&self, reference: &str, name: &str, further: &[&str]) -> PathBuf {
        let file = format!("{name}.eif");
        let _ = self.eif(&[&["build", reference, "-o", &file][..], further].concat()).success();
        self.path(&file)
    }

    /// Names in a folder, sorted; to assert that a failure leaves nothing.
    pub fn listing(&self, folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program with this world's environment, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_eif"), arguments)
    }

    /// Any program with this world's environment.
    pub fn command_of<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.work()).stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
        for (variable, folder) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            command.env(variable, self.root.path().join(folder));
        }
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs `eif` with these arguments to its end.
    pub fn eif<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.run(env!("CARGO_BIN_EXE_eif"), arguments)
    }

    /// Runs any program with these arguments to its end.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Output {
        let output = self.command_of(program, arguments).output().unwrap();
        Output {
            what: arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect(),
            status: output.status,
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

/// The cache folder of the user who runs the tests: kernels are too dear to build for each test.
#[expect(clippy::disallowed_methods, reason = "the harness finds what `eif kernel build` left for this user")]
pub fn real_cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.expect("XDG_CACHE_HOME or HOME is set").join("eif")
}

/// What a run of the program said, and how it ended. Every assertion gives it back, so that they chain.
#[must_use]
#[derive(Debug)]
pub struct Output {
    what: Vec<String>,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Output {
    /// Asserts exit code 0.
    pub fn success(self) -> Self {
        self.code(0)
    }

    /// Asserts this exit code; death by a signal is none.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    /// Asserts exit code 1 and exactly one error line, `error[CODE]: …`, followed by nothing but `help: …` lines.
    pub fn refused(self, code: &str) -> Self {
        let output = self.code(1);
        let errors: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("error")).collect();
        assert_eq!(errors.len(), 1, "{output:#?}");
        assert!(errors[0].starts_with(&format!("error[{code}]: ")), "{output:#?}");
        let after = output.stderr.lines().skip_while(|line| !line.starts_with("error")).skip(1);
        assert!(after.into_iter().all(|line| line.starts_with("help: ")), "{output:#?}");
        assert_eq!(output.stdout, "", "a refusal leaves nothing on stdout");
        output
    }

    /// Asserts that stderr has this text.
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in {self:#?}");
        self
    }

    /// Asserts that stderr does not have this text.
    pub fn says_nothing_of(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "{text:?} in {self:#?}");
        self
    }

    /// stdout.
    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    /// stderr.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("stdout is no JSON: {e}\n{self:#?}"))
    }
}
