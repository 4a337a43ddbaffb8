//! What the user sees: data on stdout, words on stderr.

use std::io::{IsTerminal, Write};

use clap::ColorChoice;
use eif::Warning;

use super::Global;
use super::failure::Failure;

/// The two streams, and how much to say on them.
#[derive(Debug)]
pub struct Ui {
    quiet: bool,
    /// How often `--verbose` was given.
    pub verbose: u8,
    /// Whether `--json` was given.
    pub json: bool,
    color: bool,
    terminal: bool,
}

impl Ui {
    pub fn new(global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color(),
        };
        Self { quiet: global.quiet, verbose: global.verbose, json: global.json, color, terminal }
    }

    /// Whether a progress bar makes sense: stderr is a terminal and may be written to.
    pub fn shows_progress(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// Writes data to stdout.
    pub fn data(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") })
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::stdout(&error))
    }

    /// A line for people.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// A warning line with its code.
    pub fn warn(&self, warning: &Warning) {
        let word = self.paint("warning", "1;33");
        self.note(&format!("{word}[{}]: {}", warning.code, warning.message));
    }

    /// Colours a word where colours are wanted. The meaning is never in the colour alone.
    pub fn paint(&self, word: &str, style: &str) -> String {
        if self.color { format!("\x1b[{style}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

#[expect(clippy::disallowed_methods, reason = "https://no-color.org is an agreement on the environment")]
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
