//! How the library says no, and how it says "beware".

use std::error::Error;

/// A refusal: `Display` is one line of cause (what, and where: layer, digest, entry, offset).
///
/// Each module has its own `Error` enum that implements this, so that callers match on variants
/// and the command line prints all of them alike.
pub trait Refusal: Error {
    /// The stable code (`E-digest-mismatch`); tests and scripts rely on it.
    fn code(&self) -> &'static str;

    /// What to do about it: one line each, without the `help: `.
    fn help(&self) -> Vec<String>;
}

/// Bytes of a name as they stand in messages: printable UTF-8 as it is, all else as `\\xNN`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' || c == '"' {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
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
