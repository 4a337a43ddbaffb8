//! The signing certificate: what it says, and what it takes to sign with it.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::sync::Arc;

use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::der::{Any, DateTime, Decode as _, Tag, Tagged as _};

use super::key::{PublicKey, SigningKey};
use super::{Error, Signature, cose, pem};
use crate::eif::Pcr;

/// The label of a certificate in a PEM text.
const LABEL: &str = "CERTIFICATE";

/// A certificate (RFC 5280) whose own signature nobody has looked at: nothing in an enclave does either.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: Vec<u8>,
    x509: x509_cert::Certificate,
}

impl Certificate {
    /// The first certificate of a PEM text.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        Self::from_der(der(pem)?)
    }

    /// From DER; nothing may follow it.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_der(der: Vec<u8>) -> Result<Self, Error> {
        match x509_cert::Certificate::from_der(&der) {
            Ok(x509) => Ok(Self { der, x509 }),
            Err(error) => Err(Error::Certificate(error.to_string())),
        }
    }

    /// Its DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its PEM as openssl writes it: lines of 64 digits. This is what a signature section holds, so that the file's
    /// bytes depend on the certificate alone.
    pub fn to_pem(&self) -> String {
        // It fails only for sizes near the end of memory's.
        encode_string(LABEL, LineEnding::LF, &self.der).unwrap_or_default()
    }

    /// PCR8 of a file that is signed with it.
    pub fn pcr8(&self) -> Pcr {
        Pcr::of_certificate(&self.der)
    }

    /// Whom it is for (RFC 4514).
    pub fn subject(&self) -> String {
        self.x509.tbs_certificate().subject().to_string()
    }

    /// Who issued it (RFC 4514).
    pub fn issuer(&self) -> String {
        self.x509.tbs_certificate().issuer().to_string()
    }

    /// Its serial number, `0A:1B:…`.
    pub fn serial(&self) -> String {
        self.x509.tbs_certificate().serial_number().to_string()
    }

    /// The first and the last moment of its validity; `Display` is RFC 3339.
    pub fn validity(&self) -> (DateTime, DateTime) {
        let validity = self.x509.tbs_certificate().validity();
        (validity.not_before.to_date_time(), validity.not_after.to_date_time())
    }

    /// The issuer's attributes in their order: the type's OID, dotted, and its text; `None` for what is no text.
    pub fn issuer_attributes(&self) -> Vec<(String, Option<String>)> {
        let attributes = self.x509.tbs_certificate().issuer().iter();
        attributes.map(|attribute| (attribute.oid.to_string(), text(&attribute.value))).collect()
    }

    /// The OID, dotted, of the algorithm that its issuer signed it with.
    pub fn issuers_algorithm(&self) -> String {
        self.x509.signature_algorithm().oid.to_string()
    }

    /// The bytes of its issuer's signature.
    pub fn issuers_signature(&self) -> &[u8] {
        self.x509.signature().raw_bytes()
    }

    /// The key that verifies its subject's signatures.
    ///
    /// # Errors
    /// It is on none of the three curves, or broken.
    pub fn public_key(&self) -> Result<PublicKey, Error> {
        PublicKey::of(self.x509.tbs_certificate().subject_public_key_info())
    }

    /// Makes sure that it can sign at the time `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error::Expired`], [`Error::NotYet`], [`Error::CertificateKey`].
    pub fn to_sign(self, now: u64) -> Result<SigningCertificate, Error> {
        let (first, last) = self.validity();
        if now < first.unix_duration().as_secs() {
            return Err(Error::NotYet(first));
        }
        if now > last.unix_duration().as_secs() {
            return Err(Error::Expired(last));
        }
        let key = self.public_key().map_err(|error| Error::CertificateKey(Box::new(error)))?;
        Ok(SigningCertificate { certificate: self, key })
    }
}

/// A string of any of ASN.1's types that names have (X.520, DirectoryString).
fn text(value: &Any) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        Tag::TeletexString => Some(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            String::from_utf16(&units).ok().filter(|_| rest.is_empty())
        }
        _ => None,
    }
}

/// The DER of the first certificate in a PEM text: one sequence, whose inside is not looked at. PCR8 needs no more.
///
/// # Errors
/// There is none, or its base64 or its outermost length is wrong.
pub fn der(pem: &[u8]) -> Result<Vec<u8>, Error> {
    let text = String::from_utf8_lossy(pem);
    let blocks = pem::blocks(&text);
    let bad = |why: &str| Error::Certificate(why.to_owned());
    let block = blocks.iter().find(|block| block.label == LABEL);
    let block = block.ok_or_else(|| bad("there is no `-----BEGIN CERTIFICATE-----` … `-----END CERTIFICATE-----`"))?;
    let der = block.der().ok_or_else(|| bad("it is no base64"))?;
    if is_one_sequence(&der) { Ok(der.to_vec()) } else { Err(bad("it is no DER sequence")) }
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

/// A certificate that is valid and has a key that can sign.
#[derive(Debug, Clone)]
pub struct SigningCertificate {
    certificate: Certificate,
    key: PublicKey,
}

impl SigningCertificate {
    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// What has to be signed for a file with this PCR0: the Sig_structure of COSE.
    pub fn to_be_signed(&self, pcr0: &Pcr) -> Vec<u8> {
        cose::to_be_signed(&cose::protected(self.key.algorithm().number()), &cose::payload(pcr0))
    }

    /// The signature section with this signature (`r` and `s`) over [`SigningCertificate::to_be_signed`].
    ///
    /// # Errors
    /// It has another length, or the certificate's key does not verify it.
    pub fn section(&self, pcr0: &Pcr, signature: &[u8]) -> Result<Vec<u8>, Error> {
        let algorithm = self.key.algorithm();
        if signature.len() != algorithm.signature_size() {
            return Err(Error::Length { algorithm, found: signature.len() });
        }
        if !self.key.verifies(&self.to_be_signed(pcr0), signature) {
            return Err(Error::Invalid);
        }
        let sign1 = cose::Sign1 {
            protected: cose::protected(algorithm.number()),
            payload: cose::payload(pcr0),
            signature: signature.to_vec(),
        };
        let entry = Signature { certificate: self.certificate.to_pem().into_bytes(), sign1: sign1.to_bytes() };
        Ok(super::to_section(&[entry]))
    }
}

/// A certificate and the holder of its key, which belong together.
#[derive(Debug, Clone)]
pub struct Signer {
    certificate: SigningCertificate,
    key: Arc<dyn SigningKey>,
}

impl Signer {
    /// Makes sure that the two belong together.
    ///
    /// # Errors
    /// [`Error::Mismatch`].
    pub fn new(certificate: SigningCertificate, key: Arc<dyn SigningKey>) -> Result<Self, Error> {
        let (held, certified) = (key.public_key(), certificate.public_key());
        if held != *certified {
            return Err(Error::Mismatch { key: held.algorithm(), certificate: certified.algorithm() });
        }
        Ok(Self { certificate, key })
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate.certificate
    }

    /// The signature section of a file with this PCR0.
    ///
    /// # Errors
    /// The holder does not sign, or signs wrongly.
    pub fn section(&self, pcr0: &Pcr) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(&self.certificate.to_be_signed(pcr0))?;
        self.certificate.section(pcr0, &signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_one_sequence() {
        assert!(is_one_sequence(b"\x30\x00"));
        assert!(is_one_sequence(&[&b"\x30\x81\x80"[..], &[0; 128]].concat()));
        for bytes in [&b""[..], b"\x30", b"\x30\x01", b"\x30\x00\x00", b"\x31\x00", b"\x30\x80", b"\x30\x82\x00"] {
            assert!(!is_one_sequence(bytes), "{bytes:02x?}");
        }
    }
}
