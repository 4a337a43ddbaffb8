//! How the library says no, and how it says "beware".

use std::error::Error;

/// A refusal: `Display` is one line of cause (what, and where: layer, digest, entry, offset).
///
/// Each module has its own `Error` enum that implements this, so that callers match on variants
/// and the command line prints all of them alike.
pub trait Refusal: Error {
    /// The stable code (`E-digest`); tests and scripts rely on it.
    fn code(&self) -> &'static str;

    /// What to do about it: one line each, without the `help: `.
    fn help(&self) -> Vec<String>;
}

/// Something that is not refused but that the user should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The stable code (`W-no-localhost`), or the `E-…` code that `--strict` makes of it.
    pub code: &'static str,
    /// One line, without the `warning: `.
    pub message: String,
}

impl Warning {
    /// A warning that stays one even under `--strict` unless its code begins with `E-`.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
