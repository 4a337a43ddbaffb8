//! Whether a signature section signs the file that it stands in.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use super::key::Algorithm;
use super::{Certificate, Error, Signature, cose, parse};
use crate::eif::Pcr;

/// What [`verify`] found.
#[derive(Debug)]
pub struct Verdict {
    /// The first signature's; `None` if it cannot be read.
    pub certificate: Option<Certificate>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

impl Verdict {
    /// Whether the certificate's key has signed the file's PCR0. It says nothing of time, nor of who has issued the
    /// certificate: PCR8 is the value to compare.
    pub fn valid(&self) -> bool {
        !self.problems.iter().any(|problem| problem.code().starts_with("E-"))
    }
}

/// Something that is wrong with a signature; `Display` is one line.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The certificate cannot be read.
    #[error("signature: {0}")]
    Certificate(Error),
    /// The certificate's key cannot make such signatures.
    #[error("signature: the certificate's key: {0}")]
    Key(Error),
    /// The signature is no COSE_Sign1.
    #[error("the signature is no COSE_Sign1: {0}")]
    Cose(String),
    /// The signature names another algorithm than the one of the certificate's key.
    #[error("the signature names the COSE algorithm {named}, the certificate's key is for {key}")]
    Algorithm {
        /// As the protected headers have it.
        named: i64,
        /// The certificate's.
        key: Algorithm,
    },
    /// The certificate's key did not make it.
    #[error("the signature is not one of the certificate's key")]
    Invalid,
    /// It signs something that is no register's value in AWS's encoding.
    #[error("the signature is over something else than PCR0: {0}")]
    Payload(String),
    /// It signs another file's PCR0.
    #[error("the signature is over PCR0 {signed}, this file has {file}")]
    Pcr0 {
        /// Signed.
        signed: String,
        /// Measured.
        file: Pcr,
    },
    /// There are more signatures than the one that is looked at.
    #[error("there are {0} signatures, readers look at the first alone")]
    Several(usize),
}

impl Problem {
    /// The stable code: `E-…` where the signature is not valid.
    pub fn code(&self) -> &'static str {
        match self {
            Problem::Certificate(_) => "E-signature-certificate",
            Problem::Key(_) => "E-signature-key",
            Problem::Cose(_) => "E-signature-cose",
            Problem::Algorithm { .. } => "E-signature-algorithm",
            Problem::Invalid => "E-signature-invalid",
            Problem::Payload(_) => "E-signature-payload",
            Problem::Pcr0 { .. } => "E-signature-pcr0",
            Problem::Several(_) => "W-signature-several",
        }
    }
}

/// Verifies the first signature of a section, which must be over the PCR0 that the file measures to.
///
/// # Errors
/// [`Error::Section`]: it is no signature section at all.
pub fn verify(section: &[u8], pcr0: &Pcr) -> Result<Verdict, Error> {
    let signatures = parse(section)?;
    let mut problems = Vec::new();
    if signatures.len() > 1 {
        problems.push(Problem::Several(signatures.len()));
    }
    let Some(first) = signatures.first() else { return Ok(Verdict { certificate: None, problems }) };
    let certificate = match Certificate::from_pem(&first.certificate) {
        Ok(certificate) => Some(certificate),
        Err(error) => {
            problems.push(Problem::Certificate(error));
            None
        }
    };
    if let Some(certificate) = &certificate {
        problems.extend(signed(first, certificate, pcr0).err());
    }
    Ok(Verdict { certificate, problems })
}

/// Order as in AWS's reader: first the signature, then what it is over.
fn signed(signature: &Signature, certificate: &Certificate, pcr0: &Pcr) -> Result<(), Problem> {
    let key = certificate.public_key().map_err(Problem::Key)?;
    let sign1 = cose::Sign1::from_bytes(&signature.sign1).map_err(|error| Problem::Cose(cose::why(&error)))?;
    let named = sign1.algorithm().map_err(|error| Problem::Cose(cose::why(&error)))?;
    if named != key.algorithm().number() {
        return Err(Problem::Algorithm { named, key: key.algorithm() });
    }
    if !key.verifies(&sign1.to_be_signed(), &sign1.signature) {
        return Err(Problem::Invalid);
    }
    if sign1.payload == cose::payload(pcr0) {
        return Ok(());
    }
    Err(match cose::register(&sign1.payload) {
        Ok((0, value)) if value != pcr0.0 => Problem::Pcr0 { signed: hex::encode(value), file: *pcr0 },
        Ok((0, _)) => Problem::Payload("its encoding is not AWS's".to_owned()),
        Ok((index, _)) => Problem::Payload(format!("register {index}")),
        Err(error) => Problem::Payload(cose::why(&error)),
    })
}
