//! Programs that keep logins: docker's credential helper protocol.
//!
//! `docker-credential-NAME get` reads the registry on stdin and answers `{"ServerURL", "Username", "Secret"}` on stdout.
//! On failure it exits with a status that is not 0, and says why on stdout.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Secret;
use super::secret::wipe;
use crate::escaped;

/// A helper's answer may be this long, in bytes; tokens of clouds have a few thousand.
const ANSWER_LIMIT: u64 = 1 << 20;
/// So much of a helper's complaint is shown, in bytes.
const COMPLAINT: usize = 300;
/// How often a helper that has closed its output is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// How a helper says that it has nothing (docker-credential-helpers, credentials/error.go).
const NOT_FOUND: &[u8] = b"credentials not found in native keychain";

/// A helper as a file with logins names it.
pub(super) struct Helper<'a> {
    /// What stands behind `docker-credential-`.
    pub(super) name: &'a str,
    /// Where it is looked for, in the form of PATH.
    pub(super) path: &'a OsStr,
    /// How long it may take.
    pub(super) patience: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

impl Helper<'_> {
    /// The program's name.
    pub(super) fn program(&self) -> String {
        format!("docker-credential-{}", escaped(self.name.as_bytes()))
    }

    /// User and password for a registry, or `None` when the helper has none; else why it cannot be asked.
    pub(super) fn get(&self, server: &str) -> Result<Option<(String, Secret)>, String> {
        let program = self.find()?;
        let spawned = Command::new(&program)
            .arg("get")
            .env("PATH", self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
        let result = self.converse(&mut child, server);
        if result.is_err() {
            // It may have ended by itself, and what cannot be killed is left.
            let _ = child.kill();
        }
        let _ = child.wait();
        let (status, out, err) = result?;
        if status.success() {
            let answer = serde_json::from_slice::<Answer>(&out);
            wipe(out);
            let answer = answer.map_err(|_| "it answered no JSON with Username and Secret".to_owned())?;
            // Some helpers say so that they have nothing.
            let nothing = answer.username.is_empty() && answer.secret.expose().is_empty();
            return Ok((!nothing).then_some((answer.username, answer.secret)));
        }
        if out.trim_ascii() == NOT_FOUND || err.trim_ascii() == NOT_FOUND {
            return Ok(None);
        }
        Err(format!("it failed with {status}: {}", complaint(&out, &err)))
    }

    /// The program's file. A name with a slash would be a path, which a file with logins must not choose.
    fn find(&self) -> Result<PathBuf, String> {
        if self.name.contains(['/', '\0']) {
            return Err("a helper's name is no path".to_owned());
        }
        let file = format!("docker-credential-{}", self.name);
        std::env::split_paths(self.path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(&file))
            .find(|file| is_program(file))
            .ok_or_else(|| "there is no such program in PATH".to_owned())
    }

    /// Asks, and hears the answer to its end within the time limit.
    fn converse(&self, child: &mut Child, server: &str) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), String> {
        let deadline = Instant::now().checked_add(self.patience);
        let left = || deadline.map_or(self.patience, |deadline| deadline.saturating_duration_since(Instant::now()));
        let late = || format!("it gave no answer within {} s", self.patience.as_secs());
        let (out, err) = (listen(child.stdout.take()), listen(child.stderr.take()));
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read is still heard.
            let _ = stdin.write_all(server.as_bytes());
        }
        let hear = |stream: Receiver<io::Result<Vec<u8>>>| match stream.recv_timeout(left()) {
            Ok(Ok(bytes)) if bytes.len() as u64 > ANSWER_LIMIT => {
                Err(format!("it answered more than {ANSWER_LIMIT} bytes"))
            }
            Ok(bytes) => bytes.map_err(|error| format!("its answer cannot be read: {error}")),
            Err(_) => Err(late()),
        };
        let (out, err) = (hear(out)?, hear(err)?);
        loop {
            if let Some(status) = child.try_wait().map_err(|error| format!("it cannot be waited for: {error}"))? {
                return Ok((status, out, err));
            }
            if left().is_zero() {
                return Err(late());
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Reads a stream up to the limit on a thread of its own: two pipes are read at once, and neither can hold us.
fn listen(stream: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stream.map_or(Ok(0), |stream| stream.take(ANSWER_LIMIT.saturating_add(1)).read_to_end(&mut bytes));
        // Nobody may be listening any more.
        let _ = sender.send(read.map(|_| bytes));
    });
    receiver
}

/// What a helper says when it fails: by the protocol that is on stdout. JSON there may be an answer, so it is not shown.
fn complaint(out: &[u8], err: &[u8]) -> String {
    let text = [out, err].map(<[u8]>::trim_ascii).into_iter().find(|text| !text.is_empty() && !text.starts_with(b"{"));
    match text {
        Some(text) if text.len() > COMPLAINT => format!("{}…", escaped(text.get(..COMPLAINT).unwrap_or_default())),
        Some(text) => escaped(text),
        None => "it did not say why".to_owned(),
    }
}

fn is_program(file: &std::path::Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
