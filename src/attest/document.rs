//! Attestation documents: [`parse`] reads the shape of one, [`Document::verify`] finds out whether it is true.
//!
//! ```text
//! 18([                              tag 18 may be absent
//!   << {1: -35} >>,                 protected header: ES384
//!   {},                             unprotected header
//!   << {"module_id": …, … } >>,     payload, 1 to 16384 bytes
//!   signature                       r ‖ s, 96 bytes
//! ])
//! ```
//!
//! The payload's map has a known length in documents of 2024 and earlier, and none (`bf … ff`) in those that AWS's
//! hypervisor writes since 2025: both are read, also for the map `pcrs` and the array `cabundle`.
//!
//! A field that an enclave did not fill is `null` in the documents of AWS's hypervisor, though the description has "no
//! field content can be null": for `public_key`, `user_data` and `nonce` that is read as absent.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minicbor::Decoder;
use minicbor::data::Type;

use super::certificate::{self, Certificate, Roots};
use super::error::Error;
use crate::eif::Pcr;
use crate::eif::signature::to_be_signed;

/// The most bytes that are read, in whatever form.
pub const MAX_SIZE: usize = 64 * 1024;
/// The most bytes of a payload.
const MAX_PAYLOAD: usize = 16_384;
/// COSE's number of ES384 (RFC 9053).
const ES384: i64 = -35;
/// COSE_Sign1's tag.
const COSE_SIGN1: u64 = 18;

/// What a document says. Nobody vouches for it unless it comes out of a [`Proof`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// The enclave, as its hypervisor names it: `i-…-enc…`.
    pub module_id: String,
    /// When the document was made, in milliseconds since 1970.
    pub timestamp: u64,
    /// The locked registers: index 0 to 31, value of 32, 48 or 64 bytes.
    pub pcrs: BTreeMap<u8, Vec<u8>>,
    /// DER of the certificate whose key signed.
    pub certificate: Vec<u8>,
    /// DER of the certificates above it, root first.
    pub cabundle: Vec<Vec<u8>>,
    /// A key that the enclave wants to be spoken to with, 1 to 1024 bytes.
    pub public_key: Option<Vec<u8>>,
    /// Whatever the enclave has to say, at most 1024 bytes.
    pub user_data: Option<Vec<u8>>,
    /// The verifier's challenge, at most 1024 bytes.
    pub nonce: Option<Vec<u8>>,
}

impl Claims {
    /// The register's value, if it is one of SHA-384's length.
    pub fn pcr(&self, index: u8) -> Option<Pcr> {
        self.pcrs.get(&index).and_then(|value| value.as_slice().try_into().ok()).map(Pcr)
    }

    /// What the certificates say about themselves, root first.
    ///
    /// # Errors
    /// One is none; in QEMU's documents all are 64 zero bytes.
    pub fn certificates(&self) -> Result<Vec<Certificate>, Error> {
        let bundle = self.cabundle.iter().enumerate();
        let bundle = bundle.map(|(index, der)| certificate::describe(&format!("cabundle[{index}]"), der));
        bundle.chain([certificate::describe("certificate", &self.certificate)]).collect()
    }

    /// The register that tells debug mode: one of the image's that is all zero.
    fn debug(&self) -> Option<String> {
        let zero = |index: &u8| self.pcrs.get(index).is_some_and(|value| value.iter().all(|byte| *byte == 0));
        [0, 1, 2].iter().find(|index| zero(index)).map(|index| format!("PCR{index}"))
    }
}

/// A document of the right shape, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    claims: Claims,
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
    algorithm: i64,
}

/// Reads a document: CBOR as the NSM gives it, or base64 of that, in lines or not.
///
/// # Errors
/// It has another shape than AWS's process demands. Nothing is trusted yet.
pub fn parse(bytes: &[u8]) -> Result<Document, Error> {
    if bytes.len() > MAX_SIZE {
        return Err(Error::TooLarge(MAX_SIZE));
    }
    let bytes = binary(bytes)?;
    let mut cbor = Items { part: "document", cbor: Decoder::new(&bytes) };
    cbor.open_sign1()?;
    let protected = cbor.bytes("the protected header")?;
    if cbor.map("the unprotected header")? != Some(0) {
        return Err(Error::Cose("the unprotected header is not empty".to_owned()));
    }
    let payload = cbor.bytes("the payload")?;
    let signature = cbor.bytes("the signature")?;
    cbor.end()?;
    if !(1..=MAX_PAYLOAD).contains(&payload.len()) {
        return Err(value("the payload", format!("has {} bytes, 1 to {MAX_PAYLOAD} are allowed", payload.len())));
    }
    Ok(Document {
        claims: claims(payload)?,
        algorithm: algorithm(protected)?,
        protected: protected.to_vec(),
        payload: payload.to_vec(),
        signature: signature.to_vec(),
    })
}

/// The bytes of an array of four or of tag 18 are no base64 digits, so the two forms cannot be mistaken.
fn binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    if !bytes.is_ascii() {
        return Ok(Cow::Borrowed(bytes));
    }
    let digits: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    match STANDARD.decode(digits) {
        Ok(decoded) if !decoded.is_empty() => Ok(Cow::Owned(decoded)),
        _ => Err(Error::Text),
    }
}

/// The one entry of the protected header.
fn algorithm(protected: &[u8]) -> Result<i64, Error> {
    let mut cbor = Items { part: "protected header", cbor: Decoder::new(protected) };
    let entries = cbor.map("the protected header")?;
    let key = if entries == Some(1) { cbor.integer("its key")? } else { 0 };
    if key != 1 {
        return Err(Error::Cose("the protected header has other entries than an algorithm".to_owned()));
    }
    let algorithm = cbor.integer("the algorithm")?;
    cbor.end()?;
    Ok(algorithm)
}

fn claims(payload: &[u8]) -> Result<Claims, Error> {
    let mut cbor = Items { part: "payload", cbor: Decoder::new(payload) };
    let mut claims = Claims::default();
    let mut seen: Vec<&str> = Vec::new();
    let mut left = cbor.map("the payload")?;
    while cbor.another(&mut left) {
        let key = cbor.text("a field's name")?;
        if seen.contains(&key) {
            return Err(Error::Duplicate(format!("\"{}\"", crate::escaped(key.as_bytes()))));
        }
        seen.push(key);
        field(&mut cbor, key, &mut claims)?;
    }
    cbor.end()?;
    let required = ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"];
    match required.iter().find(|field| !seen.contains(*field)) {
        Some(missing) => Err(Error::Missing(missing)),
        None => Ok(claims),
    }
}

/// One field with the rules of AWS's section 3.2.2.2. Of `user_data` and `nonce` that says at most 512 bytes, the
/// description of the format in 3.1 says 1024, and the hypervisor signs more than 512: true documents have them.
fn field(cbor: &mut Items<'_>, key: &str, claims: &mut Claims) -> Result<(), Error> {
    match key {
        "module_id" => match cbor.text(key)? {
            "" => return Err(value(key, "is empty")),
            text => claims.module_id = text.to_owned(),
        },
        "digest" => match cbor.text(key)? {
            "SHA384" => {}
            other => return Err(value(key, format!("is \"{}\", not SHA384", crate::escaped(other.as_bytes())))),
        },
        "timestamp" => match cbor.unsigned(key)? {
            0 => return Err(value(key, "is 0")),
            time => claims.timestamp = time,
        },
        "pcrs" => claims.pcrs = pcrs(cbor)?,
        "certificate" => claims.certificate = cbor.sized(key, 1..=1024)?,
        "cabundle" => claims.cabundle = cabundle(cbor)?,
        "public_key" => claims.public_key = cbor.optional(key, 1..=1024)?,
        "user_data" => claims.user_data = cbor.optional(key, 0..=1024)?,
        "nonce" => claims.nonce = cbor.optional(key, 0..=1024)?,
        other => return Err(Error::Field(crate::escaped(other.as_bytes()))),
    }
    Ok(())
}

fn pcrs(cbor: &mut Items<'_>) -> Result<BTreeMap<u8, Vec<u8>>, Error> {
    let mut left = cbor.map("pcrs")?;
    let mut pcrs = BTreeMap::new();
    // Bounded by the indexes, none of which may come twice.
    while cbor.another(&mut left) {
        let index = cbor.unsigned("a PCR's index")?;
        let small = u8::try_from(index).ok().filter(|index| *index < 32);
        let index = small.ok_or_else(|| value("pcrs", format!("has index {index}, 0 to 31 are allowed")))?;
        let name = format!("PCR{index}");
        let bytes = cbor.bytes(&name)?;
        if ![32, 48, 64].contains(&bytes.len()) {
            return Err(value(&name, format!("has {} bytes, 32, 48 or 64 are allowed", bytes.len())));
        }
        if pcrs.insert(index, bytes.to_vec()).is_some() {
            return Err(Error::Duplicate(name));
        }
    }
    if pcrs.is_empty() {
        return Err(value("pcrs", "is empty"));
    }
    Ok(pcrs)
}

fn cabundle(cbor: &mut Items<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let mut left = cbor.array("cabundle")?;
    // No capacity: each entry takes at least two bytes of input, the count is only what somebody says.
    let mut bundle = Vec::new();
    while cbor.another(&mut left) {
        bundle.push(cbor.sized(&format!("cabundle[{}]", bundle.len()), 1..=1024)?);
    }
    if bundle.is_empty() {
        return Err(value("cabundle", "is empty"));
    }
    Ok(bundle)
}

fn value(field: &str, why: impl Into<String>) -> Error {
    Error::Value { field: field.to_owned(), why: why.into() }
}

impl Document {
    /// What it says; nothing of it is proved.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// COSE's number of the signature's algorithm: -35 in AWS's documents, -1 in QEMU's, which are not signed.
    pub fn algorithm(&self) -> i64 {
        self.algorithm
    }

    /// The second in which it was made, as it says.
    pub fn made_at(&self) -> u64 {
        self.claims.timestamp / 1000
    }

    /// Verifies signature and chain, with all certificates at the second `at` since 1970. [`Document::made_at`] asks
    /// whether they were valid when the document was made.
    ///
    /// # Errors
    /// A rule of AWS's process is broken, the chain does not begin at one of `roots`, or the enclave is in debug mode.
    pub fn verify(&self, roots: &Roots, at: u64) -> Result<Proof, Error> {
        if self.algorithm != ES384 {
            return Err(Error::Algorithm(self.algorithm));
        }
        let chain = certificate::verify(&self.claims.cabundle, &self.claims.certificate, roots, at)?;
        if !chain.key.verifies(&to_be_signed(&self.protected, &self.payload), &self.signature) {
            return Err(Error::Signature);
        }
        if !self.claims.pcrs.contains_key(&0) {
            return Err(Error::Missing("PCR0"));
        }
        match self.claims.debug() {
            Some(register) => Err(Error::Debug(register)),
            None => Ok(Proof { claims: self.claims.clone(), certificates: chain.certificates, at }),
        }
    }
}

/// A document that is true: its claims were signed by a key that leads to a trusted root, and the enclave is not in
/// debug mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    claims: Claims,
    certificates: Vec<Certificate>,
    at: u64,
}

impl Proof {
    /// What is proved.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The chain, root first.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The second at which all certificates were valid.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Compares registers: index and value, from wherever they come.
    ///
    /// # Errors
    /// The first one that is missing or different.
    pub fn expect_pcrs(&self, expected: &[(u8, Pcr)]) -> Result<(), Error> {
        let differs = expected.iter().find(|(index, value)| self.claims.pcr(*index) != Some(*value));
        differs.map_or(Ok(()), |(index, value)| {
            let found = self.claims.pcrs.get(index).map_or_else(|| "missing".to_owned(), hex::encode);
            Err(Error::Pcr { index: *index, found, expected: value.to_string() })
        })
    }

    /// Compares the challenge.
    ///
    /// # Errors
    /// It is missing or different.
    pub fn expect_nonce(&self, expected: &[u8]) -> Result<(), Error> {
        same("nonce", self.claims.nonce.as_ref(), expected)
    }

    /// Compares what the enclave has to say.
    ///
    /// # Errors
    /// It is missing or different.
    pub fn expect_user_data(&self, expected: &[u8]) -> Result<(), Error> {
        same("user_data", self.claims.user_data.as_ref(), expected)
    }

    /// Compares the enclave's key.
    ///
    /// # Errors
    /// It is missing or different.
    pub fn expect_public_key(&self, expected: &[u8]) -> Result<(), Error> {
        same("public_key", self.claims.public_key.as_ref(), expected)
    }

    /// That the document is at most `limit` seconds old at the second `now`, and not from the future; a minute of it is
    /// left to clocks that differ.
    ///
    /// # Errors
    /// It is not.
    pub fn expect_age(&self, now: u64, limit: u64) -> Result<(), Error> {
        const SKEW: u64 = 60;
        let made = self.claims.timestamp / 1000;
        let fresh = now.saturating_sub(made) <= limit && made.saturating_sub(now) <= SKEW;
        if fresh { Ok(()) } else { Err(Error::Age { made, now, limit }) }
    }
}

fn same(field: &'static str, found: Option<&Vec<u8>>, expected: &[u8]) -> Result<(), Error> {
    if found.is_some_and(|found| found == expected) {
        return Ok(());
    }
    let quoted = |bytes: &[u8]| format!("\"{}\"", hex::encode(bytes));
    let found = found.map_or_else(|| "missing".to_owned(), |found| quoted(found));
    Err(Error::Claim { field, found, expected: quoted(expected) })
}

/// CBOR items of one part, each asked for by what it must be. Strings have known lengths, and nothing is copied before it
/// is known to be there.
struct Items<'b> {
    part: &'static str,
    cbor: Decoder<'b>,
}

impl<'b> Items<'b> {
    fn item<T>(
        &mut self,
        what: &str,
        expected: &'static str,
        read: impl FnOnce(&mut Decoder<'b>) -> Option<T>,
    ) -> Result<T, Error> {
        let at = self.cbor.position();
        read(&mut self.cbor).ok_or_else(|| Error::Cbor { what: what.to_owned(), expected, part: self.part, at })
    }

    /// The array of four, behind its tag or not.
    fn open_sign1(&mut self) -> Result<(), Error> {
        if self.cbor.datatype().ok() == Some(Type::Tag) {
            let tag = self.item("the document", "tag", |cbor| cbor.tag().ok())?;
            if tag.as_u64() != COSE_SIGN1 {
                return Err(Error::Cose(format!("the tag is {}, COSE_Sign1 has {COSE_SIGN1}", tag.as_u64())));
            }
        }
        match self.array("the document")? {
            Some(4) => Ok(()),
            None => Err(Error::Cose("the array has no known length".to_owned())),
            Some(count) => Err(Error::Cose(format!("the array has {count} items, COSE_Sign1 has 4"))),
        }
    }

    /// Opens an array and gives the number of its items; `None` if it goes on to a break.
    fn array(&mut self, what: &str) -> Result<Option<u64>, Error> {
        self.item(what, "array", |cbor| cbor.array().ok())
    }

    /// Opens a map and gives the number of its entries; `None` if it goes on to a break.
    fn map(&mut self, what: &str) -> Result<Option<u64>, Error> {
        self.item(what, "map", |cbor| cbor.map().ok())
    }

    /// Whether the open array or map goes on, where `left` of it are left. The end of the input is no end of it: then the
    /// next item is missing.
    fn another(&mut self, left: &mut Option<u64>) -> bool {
        match left {
            Some(0) => false,
            Some(count) => {
                *count = count.saturating_sub(1);
                true
            }
            None if self.cbor.datatype().ok() == Some(Type::Break) => {
                self.cbor.set_position(self.cbor.position().saturating_add(1));
                false
            }
            None => true,
        }
    }

    fn bytes(&mut self, what: &str) -> Result<&'b [u8], Error> {
        self.item(what, "byte string", |cbor| cbor.bytes().ok())
    }

    fn text(&mut self, what: &str) -> Result<&'b str, Error> {
        self.item(what, "text string", |cbor| cbor.str().ok())
    }

    fn unsigned(&mut self, what: &str) -> Result<u64, Error> {
        self.item(what, "unsigned integer", |cbor| cbor.u64().ok())
    }

    fn integer(&mut self, what: &str) -> Result<i64, Error> {
        self.item(what, "integer", |cbor| cbor.i64().ok())
    }

    /// A byte string of a length that is allowed.
    fn sized(&mut self, what: &str, allowed: RangeInclusive<usize>) -> Result<Vec<u8>, Error> {
        let bytes = self.bytes(what)?;
        if allowed.contains(&bytes.len()) {
            return Ok(bytes.to_vec());
        }
        let (low, high) = (allowed.start(), allowed.end());
        Err(value(what, format!("has {} bytes, {low} to {high} are allowed", bytes.len())))
    }

    fn optional(&mut self, what: &str, allowed: RangeInclusive<usize>) -> Result<Option<Vec<u8>>, Error> {
        if self.cbor.datatype().ok() == Some(Type::Null) {
            self.item(what, "null", |cbor| cbor.null().ok())?;
            return Ok(None);
        }
        self.sized(what, allowed).map(Some)
    }

    fn end(&self) -> Result<(), Error> {
        match self.cbor.input().len().saturating_sub(self.cbor.position()) {
            0 => Ok(()),
            bytes => Err(Error::Trailing { part: self.part, bytes }),
        }
    }
}
