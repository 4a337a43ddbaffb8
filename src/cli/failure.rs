//! How a refusal looks and what exit code it has: all of it is in this file.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use eif::{Refusal, shown};
use serde_json::json;

use super::ui::Ui;

/// What went wrong, as far as the exit code is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The input or this machine: exit 1.
    Refused,
    /// The command line: exit 2.
    Usage,
    /// Whether two things are the same could not be found out: exit 3.
    Undecided,
    /// Whoever read our stdout went away: exit 0 without a word.
    ClosedPipe,
}

/// A refusal on its way to the user.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    code: Option<String>,
    message: String,
    help: Vec<String>,
}

impl<E: Refusal> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            kind: Kind::Refused,
            code: Some(error.code().to_owned()),
            message: error.to_string(),
            help: error.help(),
        }
    }
}

impl Failure {
    /// A mistake on the command line that clap cannot see.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, code: None, message: message.into(), help: Vec::new() }
    }

    /// A refusal with a code of `cli`'s own.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, code: Some(code.to_owned()), message: message.into(), help: Vec::new() }
    }

    /// Adds a line of help.
    #[must_use]
    pub fn with_help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    /// The same refusal where a comparison could not be made.
    #[must_use]
    pub fn undecided(self) -> Self {
        Self { kind: if self.kind == Kind::Refused { Kind::Undecided } else { self.kind }, ..self }
    }

    /// The cause in one line, with its code.
    pub fn line(&self) -> String {
        match &self.code {
            Some(code) => format!("{} ({code})", shown(&self.message)),
            None => shown(&self.message),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &[String] {
        &self.help
    }

    /// stdout could not be written: a closed pipe is no error.
    pub fn stdout(error: &std::io::Error) -> Self {
        let kind = if error.kind() == std::io::ErrorKind::BrokenPipe { Kind::ClosedPipe } else { Kind::Refused };
        Self { kind, code: Some("E-io".to_owned()), message: format!("writing to stdout: {error}"), help: Vec::new() }
    }

    /// Prints the refusal and gives the exit code.
    pub fn report(&self, ui: &Ui) -> ExitCode {
        if self.kind == Kind::ClosedPipe {
            return ExitCode::SUCCESS;
        }
        self.print(ui.json, ui.paint("error", "1;31"), ui.paint("help", "1;36"));
        ExitCode::from(match self.kind {
            Kind::ClosedPipe => 0,
            Kind::Refused => 1,
            Kind::Usage => 2,
            Kind::Undecided => 3,
        })
    }

    fn print(&self, json: bool, error: String, help: String) {
        let mut stderr = std::io::stderr().lock();
        let code = self.code.as_ref().map(|code| format!("[{code}]")).unwrap_or_default();
        let _ = writeln!(stderr, "{error}{code}: {}", shown(&self.message));
        for line in &self.help {
            let _ = writeln!(stderr, "{help}: {}", shown(line));
        }
        if json {
            let code = self.code.as_deref().unwrap_or("E-usage");
            let object = json!({"error": {"code": code, "message": self.message, "help": self.help}});
            let _ = writeln!(stderr, "{object}");
        }
    }
}

/// Prints what clap has to say: help and version to stdout, a mistake in our own form to stderr.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = write!(std::io::stderr(), "{}", error.render());
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let message = first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut failure = Failure::usage(message);
    for paragraph in paragraphs {
        failure.help.extend(paragraph.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()));
    }
    failure.print(json, "error".to_owned(), "help".to_owned());
    ExitCode::from(2)
}
