//! What `nitro-cli describe-eif` tells of a file, in its object's shape.
//!
//! Source of the facts: `EifDescribeInfo` and `MetadataDescribeInfo` of nitro-cli 1.5.0, `EifReader` and
//! `SignCertificateInfo` of AWS's `aws-nitro-enclaves-image-format` 0.8, and the long names in OpenSSL's table of objects.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::eif::signature::{self, Certificate, Problem};
use crate::eif::{self, Eif, Measurements, Metadata, Source};

/// OpenSSL's long names of what stands in names of certificates.
const ATTRIBUTES: [(&str, &str); 18] = [
    ("0.9.2342.19200300.100.1.1", "userId"),
    ("0.9.2342.19200300.100.1.25", "domainComponent"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.3", "commonName"),
    ("2.5.4.4", "surname"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "countryName"),
    ("2.5.4.7", "localityName"),
    ("2.5.4.8", "stateOrProvinceName"),
    ("2.5.4.9", "streetAddress"),
    ("2.5.4.10", "organizationName"),
    ("2.5.4.11", "organizationalUnitName"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.42", "givenName"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.97", "organizationIdentifier"),
];
/// OpenSSL's long names of what certificates are signed with.
const ALGORITHMS: [(&str, &str); 12] = [
    ("1.2.840.10045.4.1", "ecdsa-with-SHA1"),
    ("1.2.840.10045.4.3.1", "ecdsa-with-SHA224"),
    ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256"),
    ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384"),
    ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512"),
    ("1.2.840.113549.1.1.5", "sha1WithRSAEncryption"),
    ("1.2.840.113549.1.1.10", "rsassaPss"),
    ("1.2.840.113549.1.1.11", "sha256WithRSAEncryption"),
    ("1.2.840.113549.1.1.12", "sha384WithRSAEncryption"),
    ("1.2.840.113549.1.1.13", "sha512WithRSAEncryption"),
    ("1.3.101.112", "ED25519"),
    ("1.3.101.113", "ED448"),
];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The object that `describe-eif` prints. Fields stand in its order.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Description {
    /// The header's version.
    pub eif_version: u16,
    /// PCR0, PCR1, PCR2, and PCR8 of a signed file.
    pub measurements: Measurements,
    /// Whether there is a signature.
    pub is_signed: bool,
    /// Of a signed file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_certificate: Option<SigningCertificate>,
    /// Whether the CRC holds.
    #[serde(rename = "CheckCRC")]
    pub check_crc: bool,
    /// Whether the signature is over this file's PCR0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_check: Option<bool>,
    /// What the metadata tell.
    #[serde(flatten)]
    pub described: Described,
}

/// What the metadata tell; empty for a file without. `describe-enclaves --metadata` prints it too.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Described {
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// A version for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_version: Option<String>,
    /// The rest of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Flat>,
}

/// `BuildMetadata` and `CustomMetadata` of the metadata section as one object.
#[derive(Debug, Clone, Serialize)]
pub struct Flat {
    #[serde(flatten)]
    build: eif::metadata::BuildMetadata,
    #[serde(rename = "DockerInfo")]
    docker_info: Value,
    #[serde(flatten, skip_serializing_if = "Value::is_null")]
    custom: Value,
}

/// The signing certificate, in OpenSSL's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SigningCertificate {
    /// Who issued it. Of an attribute that is there twice, the last one.
    pub issuer_name: BTreeMap<String, String>,
    /// What its issuer signed it with.
    pub algorithm: String,
    /// `Jan  1 00:00:00 2026 GMT`.
    pub not_before: String,
    /// Likewise.
    pub not_after: String,
    /// Its issuer's signature, `0A:1B:…`.
    pub signature: String,
}

/// Reads a file that has been examined from end to end and describes it as nitro-cli does.
///
/// # Errors
/// What AWS's reader refuses too: sections that are not what they seem, metadata that are none, a signature that is not
/// one of its certificate's key (one over another PCR0 is told as a false `SignatureCheck`); reading fails.
pub fn describe<S: Source>(eif: &Eif<S>, threads: usize) -> Result<Description, eif::Error> {
    let measurements = eif.measure(threads)?;
    let described = eif.metadata()?.map(Described::from).unwrap_or_default();
    let signature = eif.signature()?.map(|section| signed(&section, &measurements)).transpose()?;
    let (signing_certificate, signature_check) = signature.unzip();
    Ok(Description {
        eif_version: eif.header().version,
        measurements,
        is_signed: signing_certificate.is_some(),
        signing_certificate,
        check_crc: eif.crc_ok(),
        signature_check,
        described,
    })
}

impl From<Metadata> for Described {
    fn from(metadata: Metadata) -> Self {
        let Metadata { image_name, image_version, build, docker_info, custom } = metadata;
        let metadata = Some(Flat { build, docker_info, custom });
        Self { image_name: Some(image_name), image_version: Some(image_version), metadata }
    }
}

/// The certificate, and whether the signature is over this file's PCR0.
fn signed(section: &[u8], measured: &Measurements) -> Result<(SigningCertificate, bool), eif::Error> {
    let verdict = signature::verify(section, &measured.pcr0)?;
    let mut of_this_file = true;
    for problem in &verdict.problems {
        match problem {
            Problem::Several(_) => {}
            Problem::Pcr0 { .. } | Problem::Payload(_) => of_this_file = false,
            other => return Err(signature::Error::Section(other.to_string()).into()),
        }
    }
    let missing = || signature::Error::Section("the signature has no certificate".to_owned());
    Ok((certificate(&verdict.certificate.ok_or_else(missing)?), of_this_file))
}

fn certificate(certificate: &Certificate) -> SigningCertificate {
    let (not_before, not_after) = certificate.validity();
    let attributes = certificate.issuer_attributes().into_iter();
    let bytes: Vec<String> = certificate.issuers_signature().iter().map(|byte| format!("{byte:02X}")).collect();
    SigningCertificate {
        issuer_name: attributes.map(|(oid, text)| (name(&ATTRIBUTES, &oid), plain(text))).collect(),
        algorithm: name(&ALGORITHMS, &certificate.issuers_algorithm()),
        not_before: time(not_before),
        not_after: time(not_after),
        signature: bytes.join(":"),
    }
}

/// What OpenSSL calls it; what it does not know it calls by the OID.
fn name(known: &[(&str, &str)], oid: &str) -> String {
    known.iter().find(|(known, _)| *known == oid).map_or(oid, |(_, name)| name).to_owned()
}

/// As AWS's library prints a text: Rust's debug form with every quote taken out.
fn plain(text: Option<String>) -> String {
    text.map_or_else(|| "non-utf8".to_owned(), |text| format!("{text:?}").replace('"', ""))
}

fn time(time: x509_cert::der::DateTime) -> String {
    let month = usize::from(time.month()).checked_sub(1).and_then(|month| MONTHS.get(month)).unwrap_or(&"???");
    let (hour, minute, second) = (time.hour(), time.minutes(), time.seconds());
    format!("{month} {:2} {hour:02}:{minute:02}:{second:02} {} GMT", time.day(), time.year())
}
