//! What the user sees: data on stdout, words on stderr.

use std::io::{IsTerminal, Write};

use clap::ColorChoice;
use eif::{Progress, Warning};
use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use super::failure::{Failure, one_line};

/// The two streams, and how much to say on them.
#[derive(Debug)]
pub struct Ui {
    quiet: bool,
    verbose: u8,
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

    /// A progress bar where it makes sense: on a terminal that may be written to.
    pub fn progress(&self) -> Bar {
        let bar = if self.terminal && !self.quiet { ProgressBar::no_length() } else { ProgressBar::hidden() };
        Bar(bar)
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

    /// A line for people who asked for more.
    pub fn detail(&self, line: &str) {
        if self.verbose > 0 {
            self.note(line);
        }
    }

    /// A warning line with its code.
    pub fn warn(&self, warning: &Warning) {
        let word = self.paint("warning", "1;33");
        self.note(&format!("{word}[{}]: {}", warning.code, one_line(&warning.message)));
    }

    /// Colours a word where colours are wanted. The meaning is never in the colour alone.
    pub fn paint(&self, word: &str, style: &str) -> String {
        if self.color { format!("\x1b[{style}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// One bar for the stage that runs.
pub struct Bar(ProgressBar);

impl Progress for Bar {
    fn stage(&self, name: &str, total: Option<u64>) {
        let template = match total {
            Some(_) => "{msg:10} {bytes:>10} / {total_bytes} {wide_bar}",
            None => "{msg:10} {bytes:>10} {spinner}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        match total {
            Some(total) => self.0.set_length(total),
            None => self.0.unset_length(),
        }
        self.0.set_position(0);
        self.0.set_message(name.to_owned());
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "https://no-color.org is an agreement on the environment")]
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
