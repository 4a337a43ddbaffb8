//! Boots an `.eif` in QEMU through `eif run` and waits for lines of its console, always with a deadline.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::TestEnv;

/// Makes two tests of each function that takes an architecture: `x86_64::NAME` and `aarch64::NAME`.
#[allow(unused_macros, reason = "every test file includes all of this and uses a part")]
macro_rules! on_each_architecture {
    ($($name:ident),* $(,)?) => {
        mod x86_64 {
            $(#[test] fn $name() { super::$name(eif::Arch::X86_64) })*
        }
        mod aarch64 {
            $(#[test] fn $name() { super::$name(eif::Arch::Aarch64) })*
        }
    };
}
#[allow(unused_imports, reason = "every test file includes all of this and uses a part")]
pub(crate) use on_each_architecture;

/// A boot without KVM on a busy machine takes some seconds; one that takes this long hangs.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The console.
    Out,
    /// What `eif run` says.
    Err,
}

/// A running enclave with everything it has said.
pub struct Boot {
    child: Child,
    incoming: Receiver<(Stream, String)>,
    lines: Vec<(Stream, String)>,
    deadline: Instant,
}

impl Boot {
    /// Starts `eif run FILE --backend qemu --debug --attach` and further arguments.
    pub fn start(env: &TestEnv, file: &Path, further: &[&str]) -> Self {
        let file = file.to_str().expect("tests name their files in UTF-8");
        let mut arguments = vec!["run", file, "--backend", "qemu", "--debug", "--attach"];
        arguments.extend(further);
        Boot::spawn(env.command(&arguments))
    }

    /// Starts any command whose output is a console.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, incoming) = channel();
        forward(Stream::Out, child.stdout.take().unwrap(), sender.clone());
        forward(Stream::Err, child.stderr.take().unwrap(), sender);
        Boot { child, incoming, lines: Vec::new(), deadline: Instant::now() + DEADLINE }
    }

    /// Waits for a line that has this text, also among those already seen, and gives it.
    ///
    /// # Panics
    /// At the deadline or the end of the boot, with the whole console.
    pub fn expect(&mut self, text: &str) -> String {
        let mut seen = 0;
        loop {
            if let Some((_, line)) = self.lines[seen..].iter().find(|(_, line)| line.contains(text)) {
                return line.clone();
            }
            seen = self.lines.len();
            if let Err(why) = self.receive() {
                self.fail(&format!("waiting for {text:?}: {why}"));
            }
        }
    }

    /// Waits for the end and gives what was said.
    ///
    /// # Panics
    /// At the deadline, with the whole console.
    pub fn finish(mut self) -> Ended {
        loop {
            match self.receive() {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.fail("waiting for the end"),
            }
        }
        let status = self.child.wait().unwrap();
        Ended { status, lines: std::mem::take(&mut self.lines) }
    }

    fn receive(&mut self) -> Result<(), RecvTimeoutError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.lines.push(self.incoming.recv_timeout(left)?);
        Ok(())
    }

    fn fail(&mut self, why: &str) -> ! {
        self.child.kill().ok();
        panic!("{why}\n{}", transcript(&self.lines));
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A boot that is over.
#[must_use]
pub struct Ended {
    /// How `eif run` ended.
    pub status: ExitStatus,
    lines: Vec<(Stream, String)>,
}

impl Ended {
    /// Asserts the exit code of `eif run`, which is the application's.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}", transcript(&self.lines));
        self
    }

    /// Asserts that one line, of the console or of what `eif run` says, has this text.
    pub fn says(self, text: &str) -> Self {
        let found = self.lines.iter().any(|(_, line)| line.contains(text));
        assert!(found, "no {text:?}\n{}", transcript(&self.lines));
        self
    }

    /// Asserts that one line of the console is this text.
    pub fn says_line(self, text: &str) -> Self {
        assert!(self.console().any(|line| line == text), "no line {text:?}\n{}", transcript(&self.lines));
        self
    }

    /// Asserts that no line has this text.
    pub fn says_nothing_of(self, text: &str) -> Self {
        let found = self.lines.iter().any(|(_, line)| line.contains(text));
        assert!(!found, "{text:?}\n{}", transcript(&self.lines));
        self
    }

    /// The console's lines.
    pub fn console(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter(|(stream, _)| *stream == Stream::Out).map(|(_, line)| line.as_str())
    }

    /// What follows `prefix` in the console's lines that begin with it.
    pub fn after<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.console().filter_map(move |line| line.strip_prefix(prefix))
    }
}

fn forward(stream: Stream, from: impl Read + Send + 'static, to: Sender<(Stream, String)>) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            if to.send((stream, line)).is_err() {
                break;
            }
        }
    });
}

fn transcript(lines: &[(Stream, String)]) -> String {
    let mut text = String::from("the console and kernel log (out) and what `eif run` said (err):\n");
    for (stream, line) in lines {
        let mark = if *stream == Stream::Out { "out" } else { "err" };
        writeln!(text, "  {mark} | {line}").expect("writing to memory");
    }
    text
}
