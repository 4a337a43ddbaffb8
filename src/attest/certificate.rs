//! The chain of a document: from the certificate whose key signed it up to a root that the caller trusts.
//!
//! Source of the facts: section 3.2.3 of AWS's `attestation_process.md`; RFC 5280, sections 4.2 and 6.1; RFC 5758.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use p384::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256};
use x509_cert::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{self, Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::error::Error;
use crate::eif::signature::{self, Algorithm, PublicKey};

/// SHA-256 of AWS's root, `CN=aws.nitro-enclaves, C=US, O=Amazon, OU=AWS` (G1, 2019-10-28 to 2049-10-28), as DER.
const AWS_ROOT: &str = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";

const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");

/// Critical extensions that are looked at here. RFC 5280: a certificate with any other must be refused.
const UNDERSTOOD: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("2.5.29.19"), ObjectIdentifier::new_unwrap("2.5.29.15")];

/// The roots that a caller trusts, by the SHA-256 of their DER: a document brings its root along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots(Vec<[u8; 32]>);

impl Roots {
    /// AWS's root alone.
    pub fn aws() -> Self {
        let mut fingerprint = [0; 32];
        // The text is a constant of the right form, which a test holds it to.
        let _ = hex::decode_to_slice(AWS_ROOT, &mut fingerprint);
        Self(vec![fingerprint])
    }

    /// All certificates of a PEM text, and no other.
    ///
    /// # Errors
    /// There is none, or one is broken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, signature::Error> {
        const END: &str = "-----END CERTIFICATE-----";
        let text = String::from_utf8_lossy(pem);
        // A text without a certificate is refused here.
        signature::der(pem)?;
        let parts = text.split_inclusive(END).take(text.matches(END).count());
        let fingerprints = parts.map(|part| signature::der(part.as_bytes()).map(|der| Sha256::digest(der).into()));
        fingerprints.collect::<Result<_, _>>().map(Self)
    }

    /// Adds those of another set.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn trust(&self, der: &[u8]) -> Result<(), Error> {
        let found: [u8; 32] = Sha256::digest(der).into();
        if self.0.contains(&found) { Ok(()) } else { Err(Error::Root(hex::encode(found))) }
    }
}

/// What a certificate of a verified chain says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Subject, as RFC 4514 writes it.
    pub subject: String,
    /// First second at which it is valid.
    pub not_before: u64,
    /// Last second at which it is valid.
    pub not_after: u64,
    /// SHA-256 of its DER.
    pub sha256: [u8; 32],
}

/// Reads a certificate without trusting it.
///
/// # Errors
/// [`Error::Certificate`] with this name.
pub(super) fn describe(name: &str, der: &[u8]) -> Result<Certificate, Error> {
    Link::read(name.to_owned(), der).map(|link| link.facts())
}

/// A verified chain, root first, and the key of its last certificate.
pub(super) struct Chain {
    pub key: PublicKey,
    pub certificates: Vec<Certificate>,
}

/// Verifies `bundle` (root first) and `leaf` at this second.
pub(super) fn verify(bundle: &[Vec<u8>], leaf: &[u8], roots: &Roots, at: u64) -> Result<Chain, Error> {
    roots.trust(bundle.first().ok_or(Error::Missing("certificate in cabundle"))?)?;
    let named = bundle.iter().enumerate().map(|(index, der)| Link::read(format!("cabundle[{index}]"), der));
    let authorities = named.collect::<Result<Vec<_>, _>>()?;
    let leaf = Link::read("certificate".to_owned(), leaf)?;
    for (index, authority) in authorities.iter().enumerate() {
        authority.check(at)?;
        authority.check_authority(authorities.len().saturating_sub(index).saturating_sub(1))?;
    }
    leaf.check(at)?;
    leaf.check_leaf()?;
    let issued = authorities.iter().skip(1).chain([&leaf]);
    for (issuer, subject) in authorities.iter().zip(issued) {
        subject.check_issuer(issuer)?;
    }
    let certificates = authorities.iter().chain([&leaf]).map(Link::facts).collect();
    Ok(Chain { key: leaf.es384()?, certificates })
}

/// One certificate of a chain.
struct Link<'a> {
    name: String,
    der: &'a [u8],
    /// The bytes that the issuer signed, as they stand.
    signed: &'a [u8],
    parsed: x509_cert::Certificate,
}

impl<'a> Link<'a> {
    fn read(name: String, der: &'a [u8]) -> Result<Self, Error> {
        let bad = |why: String| Error::Certificate { name: name.clone(), why };
        let parsed = x509_cert::Certificate::from_der(der).map_err(|error| bad(error.to_string()))?;
        let signed = signed_bytes(der).map_err(|error| bad(error.to_string()))?;
        if parsed.tbs_certificate().version() != Version::V3 {
            return Err(bad("its version is not 3".to_owned()));
        }
        if parsed.tbs_certificate().signature() != parsed.signature_algorithm() {
            return Err(bad("it names two signature algorithms".to_owned()));
        }
        Ok(Self { name, der, signed, parsed })
    }

    fn facts(&self) -> Certificate {
        let tbs = self.parsed.tbs_certificate();
        Certificate {
            subject: tbs.subject().to_string(),
            not_before: tbs.validity().not_before.to_unix_duration().as_secs(),
            not_after: tbs.validity().not_after.to_unix_duration().as_secs(),
            sha256: Sha256::digest(self.der).into(),
        }
    }

    fn usage(&self, why: impl Into<String>) -> Error {
        Error::Usage { name: self.name.clone(), why: why.into() }
    }

    /// What holds for every certificate: its time, and that nothing critical is passed over.
    fn check(&self, at: u64) -> Result<(), Error> {
        let Certificate { not_before, not_after, .. } = self.facts();
        if !(not_before..=not_after).contains(&at) {
            return Err(Error::Validity { name: self.name.clone(), not_before, not_after, at });
        }
        let mut seen = Vec::new();
        for extension in self.parsed.tbs_certificate().extensions().into_iter().flatten() {
            if seen.contains(&extension.extn_id) {
                return Err(self.usage(format!("the extension {} is there twice", extension.extn_id)));
            }
            seen.push(extension.extn_id);
            if extension.critical && !UNDERSTOOD.contains(&extension.extn_id) {
                return Err(self.usage(format!("the critical extension {} is not known", extension.extn_id)));
            }
        }
        Ok(())
    }

    /// That this may sign certificates, with `below` more of its kind between it and the leaf.
    fn check_authority(&self, below: usize) -> Result<(), Error> {
        let (critical, constraints) = self.constraints()?.ok_or_else(|| self.usage("no basicConstraints"))?;
        if !constraints.ca || !critical {
            return Err(self.usage("basicConstraints is not critical, or does not make it a CA"));
        }
        if let Some(allowed) = constraints.path_len_constraint.filter(|allowed| usize::from(*allowed) < below) {
            return Err(Error::PathLength { name: self.name.clone(), allowed, found: below });
        }
        if !self.key_usage()?.is_some_and(|usage| usage.key_cert_sign()) {
            return Err(self.usage("keyUsage has no keyCertSign"));
        }
        Ok(())
    }

    fn check_leaf(&self) -> Result<(), Error> {
        if let Some((_, constraints)) = self.constraints()? {
            if constraints.path_len_constraint.is_some() {
                return Err(self.usage("a pathLenConstraint in the signing certificate"));
            }
            if constraints.ca {
                return Err(self.usage("the signing certificate is a CA's"));
            }
        }
        if !self.key_usage()?.is_some_and(|usage| usage.digital_signature()) {
            return Err(self.usage("keyUsage has no digitalSignature"));
        }
        Ok(())
    }

    fn constraints(&self) -> Result<Option<(bool, BasicConstraints)>, Error> {
        let found = self.parsed.tbs_certificate().get_extension::<BasicConstraints>();
        found.map_err(|error| self.usage(format!("basicConstraints cannot be read: {error}")))
    }

    fn key_usage(&self) -> Result<Option<KeyUsage>, Error> {
        let found = self.parsed.tbs_certificate().get_extension::<KeyUsage>();
        let found = found.map_err(|error| self.usage(format!("keyUsage cannot be read: {error}")))?;
        Ok(found.map(|(_, usage)| usage))
    }

    fn check_issuer(&self, issuer: &Link<'_>) -> Result<(), Error> {
        let chain = |why| Error::Chain { name: self.name.clone(), why };
        if self.parsed.tbs_certificate().issuer() != issuer.parsed.tbs_certificate().subject() {
            return Err(chain("the issuer's name is not that one's subject"));
        }
        let signature = self.parsed.signature().as_bytes().ok_or_else(|| chain("the signature has unused bits"))?;
        if issuer.signed(self, signature)? { Ok(()) } else { Err(chain("its signature is not of that one's key")) }
    }

    /// Whether this key made that signature under a certificate: of an algorithm with the hash of the key's curve.
    fn signed(&self, subject: &Link<'_>, signature: &[u8]) -> Result<bool, Error> {
        let algorithm = subject.parsed.signature_algorithm();
        let message = subject.signed;
        Ok(match (algorithm.oid, self.key()?) {
            _ if algorithm.parameters.is_some() => false,
            (ECDSA_SHA256, PublicKey::P256(key)) => {
                p256::ecdsa::Signature::from_der(signature).is_ok_and(|parsed| key.verify(message, &parsed).is_ok())
            }
            (ECDSA_SHA384, PublicKey::P384(key)) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|parsed| key.verify(message, &parsed).is_ok())
            }
            (ECDSA_SHA512, PublicKey::P521(key)) => {
                p521::ecdsa::Signature::from_der(signature).is_ok_and(|parsed| key.verify(message, &parsed).is_ok())
            }
            (other, key) => {
                let why = format!("a signature of algorithm {other} by a key for {} is not read", key.algorithm());
                return Err(Error::Unsupported { name: subject.name.clone(), why });
            }
        })
    }

    fn key(&self) -> Result<PublicKey, Error> {
        let info = self.parsed.tbs_certificate().subject_public_key_info().to_der();
        let unsupported = |why: String| Error::Unsupported { name: self.name.clone(), why };
        let info = info.map_err(|error| unsupported(error.to_string()))?;
        PublicKey::from_der(&info).map_err(|error| unsupported(error.to_string()))
    }

    /// The key, which must be one for ES384.
    fn es384(&self) -> Result<PublicKey, Error> {
        match self.key()? {
            key if key.algorithm() == Algorithm::Es384 => Ok(key),
            other => {
                let why = format!("its key is for {}, an attestation document has ES384", other.algorithm());
                Err(Error::Unsupported { name: self.name.clone(), why })
            }
        }
    }
}

/// The first element of the certificate's sequence, with its header.
fn signed_bytes(der: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|inner| {
        let signed = inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        Ok::<_, der::Error>(signed)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_no_root() {
        assert!(Roots::from_pem(b"").is_err());
        assert!(Roots::from_pem(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").is_ok());
        let two = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".repeat(2);
        assert_eq!(Roots::from_pem(&two).unwrap().0.len(), 2);
    }
}
