//! COSE_Sign1 (RFC 9052, section 4.2) as a signature section holds it, and the payload inside: a register and its
//! value.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::convert::Infallible;

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder, decode, encode};

use crate::eif::Pcr;

/// The tag that may stand before a COSE_Sign1; AWS's library writes none.
const TAG: u64 = 18;
/// The label of the algorithm among the headers.
const ALGORITHM: i64 = 1;

/// A COSE_Sign1 without its unprotected headers, of which none has a meaning here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sign1 {
    /// The protected headers: CBOR of a map.
    pub protected: Vec<u8>,
    /// What is signed.
    pub payload: Vec<u8>,
    /// `r` and `s`, each as long as the curve's field, big-endian.
    pub signature: Vec<u8>,
}

impl Sign1 {
    /// Reads one; nothing may follow it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, decode::Error> {
        let mut cbor = Decoder::new(bytes);
        if cbor.datatype()? == Type::Tag && cbor.tag()? != Tag::new(TAG) {
            return Err(decode::Error::message("it has another tag than 18"));
        }
        if cbor.array()? != Some(4) {
            return Err(decode::Error::message("it is no array of 4"));
        }
        let protected = cbor.bytes()?.to_vec();
        if cbor.datatype()? != Type::Map {
            return Err(decode::Error::message("its unprotected headers are no map"));
        }
        cbor.skip()?;
        let sign1 = Self { protected, payload: cbor.bytes()?.to_vec(), signature: cbor.bytes()?.to_vec() };
        at_end(&cbor)?;
        Ok(sign1)
    }

    /// Its bytes, untagged and with no unprotected header, as AWS's library has it.
    pub fn to_bytes(&self) -> Vec<u8> {
        written(|cbor| {
            cbor.array(4)?.bytes(&self.protected)?.map(0)?.bytes(&self.payload)?.bytes(&self.signature)?.ok()
        })
    }

    /// The number of the algorithm in the protected headers.
    pub fn algorithm(&self) -> Result<i64, decode::Error> {
        let mut cbor = Decoder::new(&self.protected);
        let members = definite(cbor.map()?)?;
        let mut algorithm = None;
        for _ in 0..members {
            let is_algorithm = cbor.probe().i64().is_ok_and(|label| label == ALGORITHM);
            cbor.skip()?;
            match (is_algorithm, algorithm) {
                (true, None) => algorithm = Some(cbor.i64()?),
                (true, Some(_)) => return Err(decode::Error::message("its protected headers name two algorithms")),
                (false, _) => cbor.skip()?,
            }
        }
        at_end(&cbor)?;
        algorithm.ok_or_else(|| decode::Error::message("its protected headers name no algorithm"))
    }

    /// The bytes that the signature is over (Sig_structure, RFC 9052, section 4.4).
    pub fn to_be_signed(&self) -> Vec<u8> {
        to_be_signed(&self.protected, &self.payload)
    }
}

/// What a COSE_Sign1 with these parts is signed over: RFC 9052's Sig_structure, without external data.
pub fn to_be_signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    written(|cbor| cbor.array(4)?.str("Signature1")?.bytes(protected)?.bytes(&[])?.bytes(payload)?.ok())
}

/// The protected headers that name this algorithm and nothing else.
pub(super) fn protected(algorithm: i64) -> Vec<u8> {
    written(|cbor| cbor.map(1)?.i64(ALGORITHM)?.i64(algorithm)?.ok())
}

/// The payload of a signature over PCR0: AWS's `PcrInfo`, whose value is an array of integers.
pub(super) fn payload(pcr0: &Pcr) -> Vec<u8> {
    written(|cbor| {
        cbor.map(2)?.str("register_index")?.i32(0)?.str("register_value")?;
        put_integers(cbor, &pcr0.0)
    })
}

/// Register and value of a payload.
pub(super) fn register(payload: &[u8]) -> Result<(i32, Vec<u8>), decode::Error> {
    let mut cbor = Decoder::new(payload);
    let (mut index, mut value) = (None, None);
    for _ in 0..definite(cbor.map()?)? {
        match cbor.str()? {
            "register_index" if index.is_none() => index = Some(cbor.i32()?),
            "register_value" if value.is_none() => value = Some(bytes(&mut cbor)?),
            _ => return Err(decode::Error::message("its members are not `register_index` and `register_value`")),
        }
    }
    at_end(&cbor)?;
    index.zip(value).ok_or_else(|| decode::Error::message("it has no `register_index` or no `register_value`"))
}

/// A byte string, or an array of integers that are bytes. Each integer takes at least one byte of input, so what is
/// collected is never longer than what was given.
pub(super) fn bytes(cbor: &mut Decoder<'_>) -> Result<Vec<u8>, decode::Error> {
    if cbor.datatype()? != Type::Array {
        return cbor.bytes().map(<[u8]>::to_vec);
    }
    let mut bytes = Vec::new();
    for _ in 0..definite(cbor.array()?)? {
        bytes.push(cbor.u8()?);
    }
    Ok(bytes)
}

/// How many items follow; arrays and maps that only end at a mark are not in use.
pub(super) fn definite(length: Option<u64>) -> Result<u64, decode::Error> {
    length.ok_or_else(|| decode::Error::message("an array or map of unknown length"))
}

/// Nothing may follow.
pub(super) fn at_end(cbor: &Decoder<'_>) -> Result<(), decode::Error> {
    match cbor.input().len().saturating_sub(cbor.position()) {
        0 => Ok(()),
        left => Err(decode::Error::message(format!("{left} bytes follow it"))),
    }
}

/// What is wrong, without the decoder's introduction.
pub(super) fn why(error: &decode::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("decode error: ").map(str::to_owned).unwrap_or(text)
}

/// An encoder of bytes in memory: it cannot fail.
pub(super) type ToMemory = Encoder<Vec<u8>>;

/// Bytes as serde writes a `Vec<u8>`: an array of integers.
pub(super) fn put_integers(cbor: &mut ToMemory, bytes: &[u8]) -> Result<(), encode::Error<Infallible>> {
    cbor.array(bytes.len() as u64)?;
    bytes.iter().try_for_each(|byte| cbor.u8(*byte)?.ok())
}

/// What `write` puts into memory.
pub(super) fn written(write: impl FnOnce(&mut ToMemory) -> Result<(), encode::Error<Infallible>>) -> Vec<u8> {
    let mut cbor = Encoder::new(Vec::new());
    // Memory takes everything, and the items above are written in full.
    let _ = write(&mut cbor);
    cbor.into_writer()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign1() -> Sign1 {
        Sign1 { protected: protected(-35), payload: b"p".to_vec(), signature: b"s".to_vec() }
    }

    /// Item by item, from RFC 8949 and RFC 9052.
    #[test]
    fn bytes_are_the_standards() {
        assert_eq!(protected(-35), b"\xa1\x01\x38\x22");
        assert_eq!(protected(-7), b"\xa1\x01\x26");
        assert_eq!(sign1().to_bytes(), b"\x84\x44\xa1\x01\x38\x22\xa0\x41p\x41s");
        assert_eq!(sign1().to_be_signed(), b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40\x41p");
        let mut expected = b"\xa2\x6eregister_index\x00\x6eregister_value\x98\x30".to_vec();
        expected.extend([7, 0x18, 200].repeat(24));
        let value: [u8; 48] = std::array::from_fn(|at| if at % 2 == 0 { 7 } else { 200 });
        assert_eq!(payload(&Pcr(value)), expected);
        assert_eq!(register(&expected).unwrap(), (0, value.to_vec()));
    }

    #[test]
    fn a_tag_and_unprotected_headers_are_passed_over() {
        for bytes in
            [&b"\xd2\x84\x44\xa1\x01\x38\x22\xa0\x41p\x41s"[..], b"\x84\x44\xa1\x01\x38\x22\xa1\x04\x41k\x41p\x41s"]
        {
            assert_eq!(Sign1::from_bytes(bytes).unwrap(), sign1());
        }
    }

    #[test]
    fn what_is_no_sign1_is_refused() {
        let cases: [&[u8]; 9] = [
            b"",
            b"\x84",
            b"\x83\x40\xa0\x40",
            b"\xd1\x84\x40\xa0\x40\x40",
            b"\x84\x40\x80\x40\x40",
            b"\x84\x40\xa0\xf6\x40",
            b"\x84\x40\xa0\x40\x40\x00",
            b"\x9f\x40\xa0\x40\x40\xff",
            b"\x84\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for bytes in cases {
            assert!(Sign1::from_bytes(bytes).is_err(), "{bytes:02x?}");
        }
    }

    #[test]
    fn the_algorithm_is_label_one() {
        let algorithm = |protected: &[u8]| Sign1 { protected: protected.to_vec(), ..sign1() }.algorithm().ok();
        assert_eq!(algorithm(b"\xa2\x04\x41k\x01\x26"), Some(-7));
        assert_eq!(algorithm(b"\xa2\x61a\x00\x01\x26"), Some(-7));
        for bytes in [
            &b""[..],
            b"\xa0",
            b"\xa1\x01\x61a",
            b"\xa1\x04\x41k",
            b"\xa1\x01\x26\x00",
            b"\x01",
            b"\xa2\x01\x26\x01\x26",
        ] {
            assert_eq!(algorithm(bytes), None, "{bytes:02x?}");
        }
    }
}
