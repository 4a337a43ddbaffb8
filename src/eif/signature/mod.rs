//! What a signature section holds: who signed the file's PCR0.
//!
//! The section is CBOR: an array of maps, one for each register that is signed. Only PCR0 is, and readers look at the
//! first map alone. Its members are byte strings that AWS's library writes as arrays of integers:
//!
//! | member | what |
//! |---|---|
//! | `signing_certificate` | PEM; the DER inside gives PCR8 |
//! | `signature` | COSE_Sign1, untagged: `[protected, {}, payload, r ‖ s]` |
//!
//! The protected headers are `{1: algorithm}`: ES256, ES384 or ES512, as the certificate's key has it. The payload is
//! `{"register_index": 0, "register_value": PCR0}`, with the value as an array of integers.
//!
//! Whoever looks at a file that anyone may have made calls [`parse`], [`pcr8`] or [`verify`]: pure functions of bytes.
//! Whoever signs needs a [`SigningCertificate`] and, unless the signature comes from elsewhere, a [`Signer`].
//!
//! Source of the facts: `PcrSignature`, `PcrInfo` and `EifReader` of AWS's `aws-nitro-enclaves-image-format` 0.8, and
//! its `aws-nitro-enclaves-cose` 0.6; RFC 8949, RFC 9052, RFC 9053.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

mod certificate;
mod cose;
mod key;
mod pem;
mod verdict;

use minicbor::{Decoder, decode};
use x509_cert::der::DateTime;

use super::Pcr;
use crate::Refusal;

pub use certificate::{Certificate, Signer, SigningCertificate, der};
pub use cose::to_be_signed;
pub use key::{Algorithm, LocalKey, PublicKey, SigningKey};
pub use verdict::{Problem, Verdict, verify};

/// Why a section is not read or not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The section is not of the form above.
    #[error("{0}")]
    Section(String),
    /// A certificate that cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The certificate's validity is over.
    #[error("the certificate was valid until {0}")]
    Expired(DateTime),
    /// The certificate's validity has not begun.
    #[error("the certificate is valid from {0} on")]
    NotYet(DateTime),
    /// The certificate's key cannot make signatures of an .eif.
    #[error("the certificate's key: {0}")]
    CertificateKey(Box<Error>),
    /// The private key is another one's.
    #[error("the private key ({key}) is not the one of the certificate ({certificate})")]
    Mismatch {
        /// What the private key signs with.
        key: Algorithm,
        /// What the certificate's key signs with.
        certificate: Algorithm,
    },
    /// There is no private key in the text.
    #[error("there is no `-----BEGIN PRIVATE KEY-----` or `-----BEGIN EC PRIVATE KEY-----`")]
    KeyMissing,
    /// There are several.
    #[error("there are {0} private keys, which one is meant cannot be known")]
    KeySeveral(usize),
    /// It is protected by a passphrase.
    #[error("the private key is encrypted")]
    KeyEncrypted,
    /// A key of another type.
    #[error("it is {0}; signatures of an .eif are ECDSA on P-256, P-384 or P-521")]
    KeyType(String),
    /// A key that cannot be read.
    #[error("the key cannot be read: {0}")]
    Key(String),
    /// Whoever holds the key did not sign.
    #[error("the key's holder did not sign: {0}")]
    Holder(String),
    /// A signature of another length than the algorithm's.
    #[error("the signature has {found} bytes, r and s of {algorithm} have {}", .algorithm.signature_size())]
    Length {
        /// The certificate's.
        algorithm: Algorithm,
        /// Bytes that were given.
        found: usize,
    },
    /// A signature that the certificate's key does not verify.
    #[error("the signature is not one of the certificate's key over this file's PCR0")]
    Invalid,
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Section(_) => "E-eif-signature",
            Error::Certificate(_) => "E-cert",
            Error::Expired(_) => "E-cert-expired",
            Error::NotYet(_) => "E-cert-not-yet",
            Error::CertificateKey(_) => "E-cert-key",
            Error::Mismatch { .. } => "E-key-mismatch",
            Error::KeyMissing => "E-key-missing",
            Error::KeySeveral(_) => "E-key-several",
            Error::KeyEncrypted => "E-key-encrypted",
            Error::KeyType(_) => "E-key-type",
            Error::Key(_) => "E-key",
            Error::Holder(_) => "E-key-holder",
            Error::Length { .. } => "E-signature-length",
            Error::Invalid => "E-signature-invalid",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Certificate(_) => "a certificate is a PEM file: openssl x509 -in FILE -noout -text shows it",
            Error::Expired(_) | Error::NotYet(_) => {
                "an enclave with such a signature would not start; check the clock too"
            }
            Error::Mismatch { .. } => {
                "openssl pkey -in KEY -pubout and openssl x509 -in CERT -noout -pubkey must agree"
            }
            Error::KeyEncrypted => "decrypt it first, where nobody else can read it: openssl pkey -in KEY -out PLAIN",
            Error::KeyMissing | Error::KeySeveral(_) => "pass a PEM file with one private key, in SEC1 or PKCS#8",
            Error::KeyType(_) | Error::CertificateKey(_) => {
                "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out KEY"
            }
            Error::Length { .. } => "r and s, each as long as the curve's field, one behind the other; no DER, no text",
            Error::Invalid => {
                "sign what `eif sign FILE --print-payload --signing-certificate CERT` prints for this file"
            }
            Error::Holder(_) => {
                "look at the credentials, and whether they may use the key (KMS: GetPublicKey and Sign)"
            }
            Error::Section(_) | Error::Key(_) => return Vec::new(),
        };
        vec![line.to_owned()]
    }
}

/// One member of a section, as it stands there: nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// PEM.
    pub certificate: Vec<u8>,
    /// COSE_Sign1.
    pub sign1: Vec<u8>,
}

/// Reads a section of at least one signature; nothing may follow it.
///
/// # Errors
/// [`Error::Section`].
pub fn parse(section: &[u8]) -> Result<Vec<Signature>, Error> {
    signatures(section).map_err(|error| Error::Section(cose::why(&error)))
}

fn signatures(section: &[u8]) -> Result<Vec<Signature>, decode::Error> {
    let mut cbor = Decoder::new(section);
    let mut signatures = Vec::new();
    for _ in 0..cose::definite(cbor.array()?)? {
        signatures.push(signature(&mut cbor)?);
    }
    cose::at_end(&cbor)?;
    if signatures.is_empty() { Err(decode::Error::message("it has no signature")) } else { Ok(signatures) }
}

/// Unknown members are passed over, as AWS's library does.
fn signature(cbor: &mut Decoder<'_>) -> Result<Signature, decode::Error> {
    let (mut certificate, mut sign1) = (None, None);
    for _ in 0..cose::definite(cbor.map()?)? {
        let member = match cbor.str()? {
            "signing_certificate" => &mut certificate,
            "signature" => &mut sign1,
            _ => {
                cbor.skip()?;
                continue;
            }
        };
        if member.replace(cose::bytes(cbor)?).is_some() {
            return Err(decode::Error::message("a member is there twice"));
        }
    }
    match (certificate, sign1) {
        (Some(certificate), Some(sign1)) => Ok(Signature { certificate, sign1 }),
        _ => Err(decode::Error::message("a signature without `signing_certificate` or without `signature`")),
    }
}

fn to_section(signatures: &[Signature]) -> Vec<u8> {
    cose::written(|cbor| {
        cbor.array(signatures.len() as u64)?;
        signatures.iter().try_for_each(|signature| {
            cbor.map(2)?.str("signing_certificate")?;
            cose::put_integers(cbor, &signature.certificate)?;
            cbor.str("signature")?;
            cose::put_integers(cbor, &signature.sign1)
        })
    })
}

/// PCR8 of a file with this signature section: that of the first certificate.
///
/// # Errors
/// The bytes are not of that form, or the certificate is not PEM.
pub fn pcr8(section: &[u8]) -> Result<Pcr, Error> {
    let signatures = parse(section)?;
    let pem = signatures.first().map(|signature| &signature.certificate[..]).unwrap_or_default();
    let der = der(pem).map_err(|error| Error::Section(error.to_string()))?;
    Ok(Pcr::of_certificate(&der))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

    #[test]
    fn what_is_no_signature_section_is_refused() {
        let cases: [&[u8]; 10] = [
            b"",
            b"\x80",
            b"\x81\xa0",
            b"\x81\xa1\x61a\x40",
            b"\x9f",
            b"\xff",
            b"\x81\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x81\xa1\x69signature\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x81\xa2\x69signature\x40\x69signature\x40",
        ];
        for bytes in cases {
            assert_eq!(pcr8(bytes).unwrap_err().code(), "E-eif-signature", "{bytes:02x?}");
        }
        let whole = to_section(&[Signature { certificate: PEM.to_vec(), sign1: Vec::new() }]);
        assert!(pcr8(&whole).is_ok());
        for cut in 0..whole.len() {
            assert!(pcr8(whole.get(..cut).unwrap()).is_err());
        }
        assert_eq!(pcr8(&[&whole[..], b"\0"].concat()).unwrap_err().to_string(), "1 bytes follow it");
    }

    #[test]
    fn integers_and_byte_strings_are_read_alike() {
        let mut strings = b"\x81\xa3\x61x\xa1\x01\x80\x69signature\x41s\x73signing_certificate\x58".to_vec();
        strings.push(u8::try_from(PEM.len()).unwrap());
        strings.extend(PEM);
        let signature = Signature { certificate: PEM.to_vec(), sign1: b"s".to_vec() };
        assert_eq!(parse(&strings).unwrap(), std::slice::from_ref(&signature));
        let integers = to_section(&[signature.clone(), signature.clone()]);
        assert_eq!(parse(&integers).unwrap(), [signature.clone(), signature]);
        assert_eq!(pcr8(&strings).unwrap(), Pcr::of_certificate(b"\x30\x00"));
        assert_eq!(pcr8(&integers).unwrap(), Pcr::of_certificate(b"\x30\x00"));
    }
}
