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

/// Whether a terminal would act on the character, or show other text differently because of it: controls, and Unicode's
/// bidirectional, line-breaking and invisible format characters (UTR 36, "Bidirectional Text Spoofing").
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text of anyone's on one line and fit for a terminal: what would move, colour or reorder it is spelled out.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if misleads(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Bytes of a name as they stand in messages: printable UTF-8 as it is, all else as `\\xNN`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if misleads(c) || c == '\\' || c == '"' {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_would_act_on_is_shown() {
        assert_eq!(shown("a\n\u{9b}31m \u{7f}"), r"a\n\u{9b}31m \u{7f}");
        assert_eq!(shown("gpj.\u{202e}exe \u{2066}\u{200b}"), r"gpj.\u{202e}exe \u{2066}\u{200b}");
        assert_eq!(shown("naïve 日本 \\ \""), "naïve 日本 \\ \"");
        assert_eq!(escaped("é\u{202e}\n\"".as_bytes()), r"é\xe2\x80\xae\x0a\x22");
        assert_eq!(escaped(b"a\xff\\"), r"a\xff\x5c");
    }
}
