//! What a signature section says about PCR8: the signing certificate inside it. The signature itself is not checked.
//!
//! The section is CBOR: an array of maps with `signing_certificate` (PEM) and `signature` (COSE_Sign1), both written by
//! AWS's library as arrays of integers; byte strings are read as well.
//! Source of the facts: `PcrSignature` of AWS's `aws-nitro-enclaves-image-format` 0.8; RFC 8949; RFC 7468.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use super::{Error, Pcr};

const CERTIFICATE_KEY: &[u8] = b"signing_certificate";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// PCR8 of a file with this signature section: that of the first certificate.
///
/// # Errors
/// The bytes are not of that form, or the certificate is not PEM.
pub fn pcr8(section: &[u8]) -> Result<Pcr, Error> {
    certificate_der(section).map(|der| Pcr::of_certificate(&der))
}

/// The DER of the first certificate in a signature section.
///
/// # Errors
/// The bytes are not of that form, or the certificate is not PEM.
pub fn certificate_der(section: &[u8]) -> Result<Vec<u8>, Error> {
    let pem = certificate(&mut Cbor(section)).ok_or_else(|| bad("no array of maps with a `signing_certificate`"))?;
    der(&pem)
}

/// The DER of the first certificate in a PEM text.
///
/// # Errors
/// There is none, or its base64 or its outermost length is wrong.
pub fn der(pem: &[u8]) -> Result<Vec<u8>, Error> {
    let text = String::from_utf8_lossy(pem);
    let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(body, _)| body);
    let body = body.ok_or_else(|| bad(&format!("no `{BEGIN}` … `{END}`")))?;
    let der = base64(body).ok_or_else(|| bad("the certificate is no base64"))?;
    if is_one_sequence(&der) { Ok(der) } else { Err(bad("the certificate is no DER sequence")) }
}

fn bad(why: &str) -> Error {
    Error::Signature(why.to_owned())
}

/// X.690: tag 0x30 and a length that says exactly what follows.
fn is_one_sequence(der: &[u8]) -> bool {
    let Some((&[0x30, first], rest)) = der.split_first_chunk() else { return false };
    let (length, body) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let Some((digits, body)) = rest.split_at_checked(usize::from(first & 0x7f)) else { return false };
            (digits.iter().fold(0usize, |value, digit| value.wrapping_shl(8) | usize::from(*digit)), body)
        }
        _ => return false,
    };
    body.len() == length
}

/// RFC 4648, with white space anywhere, as PEM has it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let body = digits.strip_suffix(b"==").or_else(|| digits.strip_suffix(b"=")).unwrap_or(&digits);
    let mut bytes = Vec::with_capacity(body.len());
    for group in body.chunks(4) {
        let sum = group.iter().try_fold(0u32, |sum, digit| Some(sum << 6 | sextet(*digit)?))?;
        let missing = 4u32.saturating_sub(u32::try_from(group.len()).ok()?);
        let [_, a, b, c] = (sum << missing.saturating_mul(6)).to_be_bytes();
        bytes.extend([a, b, c].into_iter().take(group.len().saturating_sub(1)));
    }
    Some(bytes)
}

fn sextet(digit: u8) -> Option<u32> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    ALPHABET.iter().position(|letter| *letter == digit).and_then(|at| u32::try_from(at).ok())
}

/// The value of `signing_certificate` in the first map.
fn certificate(cbor: &mut Cbor<'_>) -> Option<Vec<u8>> {
    if cbor.head(4)? == 0 {
        return None;
    }
    let members = cbor.head(5)?;
    for _ in 0..members {
        let length = cbor.head(3)?;
        let key = cbor.take(length)?;
        let value = cbor.bytes()?;
        if key == CERTIFICATE_KEY {
            return Some(value);
        }
    }
    None
}

/// The few items of CBOR that the section has.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = tail;
        Some(head)
    }

    /// Major type and argument of the next item.
    fn item(&mut self) -> Option<(u8, u64)> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        let argument = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            width @ 24..=27 => {
                let digits = self.take(1u64.wrapping_shl(u32::from(width.saturating_sub(24))))?;
                digits.iter().fold(0u64, |value, digit| value.wrapping_shl(8) | u64::from(*digit))
            }
            _ => return None,
        };
        Some((first >> 5, argument))
    }

    /// The argument of the next item, which must be of this major type.
    fn head(&mut self, major: u8) -> Option<u64> {
        self.item().filter(|(found, _)| *found == major).map(|(_, argument)| argument)
    }

    /// A byte string, or an array of integers that are bytes. Each integer takes at least one byte of input, so what
    /// is collected is never longer than what was given.
    fn bytes(&mut self) -> Option<Vec<u8>> {
        match self.item()? {
            (2, length) => self.take(length).map(<[u8]>::to_vec),
            (4, length) => {
                let mut bytes = Vec::new();
                for _ in 0..length {
                    bytes.push(u8::try_from(self.head(0)?).ok()?);
                }
                Some(bytes)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    #[test]
    fn base64_is_rfc_4648s() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9v\nYmFy", "foobar")] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
        for text in ["Zg", "Zg=", "Z!==", "Zm9vYg===", "===="] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_signature_section_is_refused() {
        let cases: [&[u8]; 7] = [
            b"",
            b"\x80",
            b"\x81\xa0",
            b"\x81\xa1\x61a\x40",
            b"\x9f",
            b"\xff",
            b"\x81\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for bytes in cases {
            assert_eq!(pcr8(bytes).unwrap_err().code(), "E-eif-signature", "{bytes:02x?}");
        }
    }

    #[test]
    fn integers_and_byte_strings_are_read_alike() {
        let pem = format!("{BEGIN}\nMAA=\n{END}\n");
        let mut strings = b"\x81\xa1\x73signing_certificate\x58".to_vec();
        strings.push(u8::try_from(pem.len()).unwrap());
        strings.extend(pem.as_bytes());
        let mut integers = b"\x81\xa1\x73signing_certificate\x98".to_vec();
        integers.push(u8::try_from(pem.len()).unwrap());
        integers.extend(pem.bytes().flat_map(|byte| if byte < 24 { vec![byte] } else { vec![24, byte] }));
        assert_eq!(pcr8(&strings).unwrap(), Pcr::of_certificate(b"\x30\x00"));
        assert_eq!(pcr8(&integers).unwrap(), Pcr::of_certificate(b"\x30\x00"));
    }

    #[test]
    fn a_certificate_is_one_sequence() {
        assert!(is_one_sequence(b"\x30\x00"));
        assert!(is_one_sequence(&[&b"\x30\x81\x80"[..], &[0; 128]].concat()));
        for bytes in [&b""[..], b"\x30", b"\x30\x01", b"\x30\x00\x00", b"\x31\x00", b"\x30\x80", b"\x30\x82\x00"] {
            assert!(!is_one_sequence(bytes), "{bytes:02x?}");
        }
    }
}
