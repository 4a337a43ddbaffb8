//! Each way in which an attestation document proves nothing, with its words and its code.

use crate::Refusal;
use crate::eif::metadata::rfc3339;

/// Why a document is not read, or proves nothing. Certificates are named as the document has them: `cabundle[0]` is the
/// root, `certificate` the one whose key signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than any document has.
    #[error("the document has more than {0} bytes")]
    TooLarge(usize),
    /// Neither CBOR nor base64.
    #[error("the document is neither a COSE_Sign1 array nor base64 of one")]
    Text,
    /// A CBOR item of another type, of indefinite length, or cut.
    #[error("{what} is no {expected} (byte {at} of the {part})")]
    Cbor {
        /// The field.
        what: String,
        /// What it must be.
        expected: &'static str,
        /// `document`, `protected header` or `payload`.
        part: &'static str,
        /// Where, from the start of that part.
        at: usize,
    },
    /// Bytes behind the last item.
    #[error("{bytes} bytes follow the end of the {part}")]
    Trailing {
        /// Which part.
        part: &'static str,
        /// How many.
        bytes: usize,
    },
    /// The wrapping is no COSE_Sign1 of an attestation document.
    #[error("{0}")]
    Cose(String),
    /// A key that is there twice.
    #[error("the key {0} is there twice")]
    Duplicate(String),
    /// A field that must be there.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// A field that AWS's process does not know.
    #[error("the field \"{0}\" is none of an attestation document")]
    Field(String),
    /// A field with a value that AWS's process forbids.
    #[error("{field} {why}")]
    Value {
        /// The field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The document is not signed as AWS does.
    #[error("the signature's algorithm is {0}, an attestation document has ES384 (-35)")]
    Algorithm(i64),
    /// The signature is not that of the certificate's key.
    #[error("the signature is not of the certificate's key and these bytes")]
    Signature,
    /// The chain ends at a root that was not asked for.
    #[error("cabundle[0] is not the root that is trusted: its SHA-256 is {0}")]
    Root(String),
    /// A certificate that cannot be read.
    #[error("{name} is no certificate: {why}")]
    Certificate {
        /// Which one.
        name: String,
        /// What the reader says.
        why: String,
    },
    /// A certificate outside its time.
    #[error("{name} is valid from {} to {}, not at {}", time(*.not_before), time(*.not_after), time(*.at))]
    Validity {
        /// Which one.
        name: String,
        /// First second.
        not_before: u64,
        /// Last second.
        not_after: u64,
        /// The second that was asked for.
        at: u64,
    },
    /// A certificate that may not do what it does.
    #[error("{name}: {why}")]
    Usage {
        /// Which one.
        name: String,
        /// What is missing or forbidden.
        why: String,
    },
    /// A chain that is longer than one of its certificates allows.
    #[error("{name} allows {allowed} CA certificates below it, {found} are there")]
    PathLength {
        /// Which one.
        name: String,
        /// Its pathLenConstraint.
        allowed: u8,
        /// How many there are.
        found: usize,
    },
    /// A certificate that was not issued by the one before it.
    #[error("{name} was not issued by the certificate before it: {why}")]
    Chain {
        /// Which one.
        name: String,
        /// The name or the signature.
        why: &'static str,
    },
    /// A signature or key of a kind that is not known here.
    #[error("{name}: {why}")]
    Unsupported {
        /// Which certificate.
        name: String,
        /// Which kind.
        why: String,
    },
    /// The registers of an enclave in debug mode.
    #[error("{0} is all zero: the enclave runs in debug mode, so the document proves nothing about its image")]
    Debug(String),
    /// A register with another value than expected.
    #[error("PCR{index} is {found}, expected is {expected}")]
    Pcr {
        /// The register.
        index: u8,
        /// What the document has, in hexadecimal, or `missing`.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A field of the enclave's own with another value than expected.
    #[error("{field} is {found}, expected is {expected}")]
    Claim {
        /// `public_key`, `user_data` or `nonce`.
        field: &'static str,
        /// What the document has, in hexadecimal, or `missing`.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A document from another time than allowed.
    #[error("the document was made at {}, which is {} (now: {})", time(*.made), age(*.made, *.now, *.limit), time(*.now))]
    Age {
        /// Second of its making.
        made: u64,
        /// The verifier's time.
        now: u64,
        /// The most seconds that are allowed between them.
        limit: u64,
    },
}

fn time(seconds: u64) -> String {
    rfc3339(seconds).unwrap_or_else(|_| format!("second {seconds}"))
}

fn age(made: u64, now: u64, limit: u64) -> String {
    match now.checked_sub(made) {
        Some(age) => format!("{age} s ago, at most {limit} s are allowed"),
        None => format!("{} s in the future", made.saturating_sub(now)),
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::TooLarge(_) => "E-attest-size",
            Error::Text => "E-attest-text",
            Error::Cbor { .. } => "E-attest-cbor",
            Error::Trailing { .. } => "E-attest-trailing",
            Error::Cose(_) => "E-attest-cose",
            Error::Duplicate(_) => "E-attest-duplicate",
            Error::Missing(_) => "E-attest-missing",
            Error::Field(_) => "E-attest-field",
            Error::Value { .. } => "E-attest-value",
            Error::Algorithm(_) | Error::Unsupported { .. } => "E-attest-algorithm",
            Error::Signature => "E-attest-signature",
            Error::Root(_) => "E-attest-root",
            Error::Certificate { .. } => "E-attest-certificate",
            Error::Validity { .. } => "E-attest-validity",
            Error::Usage { .. } => "E-attest-usage",
            Error::PathLength { .. } => "E-attest-path",
            Error::Chain { .. } => "E-attest-chain",
            Error::Debug(_) => "E-attest-debug",
            Error::Pcr { .. } => "E-attest-pcr",
            Error::Claim { field: "nonce", .. } => "E-attest-nonce",
            Error::Claim { field: "user_data", .. } => "E-attest-user-data",
            Error::Claim { .. } => "E-attest-public-key",
            Error::Age { .. } => "E-attest-age",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Text | Error::Cose(_) => "give the bytes that the NSM returned, as they are or in base64",
            Error::Algorithm(_) => "QEMU's machine does not sign its documents: `eif attest show` tells what they say",
            Error::Root(_) => "without --root only AWS's root is trusted; --root takes the certificate of another",
            Error::Validity { .. } => {
                "the signing certificate lives for hours: without --time it is checked at the document's own time"
            }
            Error::Debug(_) => "start the enclave without debug mode",
            Error::Pcr { index: 0..=2, .. } => "the enclave was started from another image",
            Error::Pcr { index: 3, .. } => "the parent instance has another IAM role",
            Error::Pcr { index: 4, .. } => "the parent is another instance",
            Error::Pcr { index: 8, .. } => "the image was signed with another certificate",
            Error::Claim { field: "nonce", .. } => "this document answers another question, or none: ask again",
            Error::Age { .. } => "ask the enclave for a new document",
            _ => return Vec::new(),
        };
        vec![line.to_owned()]
    }
}
