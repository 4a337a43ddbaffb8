//! The textual form of certificates and keys (RFC 7468), read as leniently as openssl reads it: any text between the
//! blocks, any width of line.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::elliptic_curve::zeroize::Zeroizing;

/// One `-----BEGIN LABEL-----` … `-----END LABEL-----`.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `CERTIFICATE`, `PRIVATE KEY`, …
    pub label: &'a str,
    body: &'a str,
}

impl Block<'_> {
    /// Whether it is encrypted the old way, by a header inside the block (RFC 1421).
    pub fn is_encrypted(&self) -> bool {
        self.body.contains("Proc-Type:")
    }

    /// Its bytes, wiped when they are dropped: they may be a key. `None` if they are no base64.
    pub fn der(&self) -> Option<Zeroizing<Vec<u8>>> {
        let digits: Zeroizing<Vec<u8>> =
            self.body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>().into();
        STANDARD.decode(&*digits).ok().map(Zeroizing::new)
    }
}

/// The blocks of a text, in order. A block that does not end is none.
pub(super) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        rest = begun;
        let Some((label, behind)) = begun.split_once("-----") else { break };
        if let Some((body, after)) = behind.split_once(&format!("-----END {label}-----")) {
            found.push(Block { label, body });
            rest = after;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(&str, Option<Vec<u8>>)> {
        blocks(text).iter().map(|block| (block.label, block.der().map(|der| der.to_vec()))).collect()
    }

    #[test]
    fn blocks_are_found_between_other_text() {
        let text =
            "Bag\n-----BEGIN A-----\r\nTWFu\r\n-----END A-----\nx\n-----BEGIN B C-----\nTQ =\n=\n-----END B C-----";
        assert_eq!(all(text), [("A", Some(b"Man".to_vec())), ("B C", Some(b"M".to_vec()))]);
    }

    #[test]
    fn what_does_not_end_is_no_block() {
        for text in ["", "-----BEGIN A", "-----BEGIN A-----\nTWFu", "-----BEGIN A-----\nTWFu\n-----END B-----"] {
            assert_eq!(all(text), [], "{text}");
        }
        let inner = "-----BEGIN A-----\n-----BEGIN B-----\nTWFu\n-----END B-----";
        assert_eq!(all(inner), [("B", Some(b"Man".to_vec()))]);
    }

    #[test]
    fn what_is_no_base64_has_no_bytes() {
        for body in ["Zg", "Zg=", "Z!==", "Zm9vYg===", "====", "Zh=="] {
            assert_eq!(all(&format!("-----BEGIN A-----{body}-----END A-----")), [("A", None)], "{body}");
        }
    }
}
