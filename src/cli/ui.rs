//! What the user sees: data on stdout, words on stderr.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use clap::ColorChoice;
use eif::{Progress, Warning};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;
use super::failure::Failure;

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

    /// Progress as it makes sense: bars on a terminal that may be written to, else a line for each finished download.
    pub fn progress(&self) -> Bars<'_> {
        let hidden = !self.terminal || self.quiet;
        let all = MultiProgress::with_draw_target(match hidden {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        });
        Bars { ui: self, stage: all.add(ProgressBar::no_length()), all, transfers: Mutex::default() }
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

    /// What went wrong, in another tool's form. `--quiet` does not hide it.
    pub fn error(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
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
        self.note(&format!("{word}[{}]: {}", warning.code, eif::shown(&warning.message)));
    }

    /// Colours a word where colours are wanted. The meaning is never in the colour alone.
    pub fn paint(&self, word: &str, style: &str) -> String {
        if self.color { format!("\x1b[{style}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// One bar for the stage that runs, and one for each download.
pub struct Bars<'a> {
    ui: &'a Ui,
    all: MultiProgress,
    stage: ProgressBar,
    transfers: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Progress for Bars<'_> {
    fn stage(&self, name: &str, total: Option<u64>) {
        let template = match total {
            Some(_) => "{msg:10} {bytes:>10} / {total_bytes} {wide_bar}",
            None => "{msg:10} {bytes:>10} {spinner}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.stage.set_style(style);
        }
        match total {
            Some(total) => self.stage.set_length(total),
            None => self.stage.unset_length(),
        }
        self.stage.set_position(0);
        self.stage.set_message(name.to_owned());
    }

    fn advance(&self, bytes: u64) {
        self.stage.inc(bytes);
    }

    fn transfer(&self, name: &str, done: u64, total: u64) {
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = transfers.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template("{msg:40} {bytes:>10} / {total_bytes} {wide_bar}") {
                bar.set_style(style);
            }
            bar.with_message(name.to_owned())
        });
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
            transfers.remove(name);
            if !self.ui.terminal {
                self.ui.note(&format!("fetched   {name}, {total} bytes"));
            }
        }
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        self.stage.finish_and_clear();
        let _ = self.all.clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "https://no-color.org is an agreement on the environment")]
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
