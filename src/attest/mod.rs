//! What an enclave proves about itself, and who asks for that proof: attestation documents ([`document`]) and the KMS
//! policies that demand them ([`policy`] writes one, [`lint`] finds what makes one useless).
//!
//! # What a document is
//!
//! The Nitro hypervisor signs a CBOR map (module, time, PCRs, and what the enclave adds: public key, user data, nonce)
//! with ES384 as COSE_Sign1. The certificate of its key is in the map, and so are the certificates that lead to AWS's
//! root, which is known here by its published fingerprint alone ([`Roots::aws`]).
//!
//! [`document::parse`] looks at the shape and trusts nothing; only [`document::Document::verify`] gives a
//! [`document::Proof`], whose claims are proved.
//!
//! Source of the facts: `docs/attestation_process.md` of AWS's `aws-nitro-enclaves-nsm-api`; RFC 9052 (COSE), RFC 5280
//! (certificates); the developer guide of AWS KMS, "Condition keys for Nitro Enclaves".

mod certificate;
pub mod document;
mod error;
mod json;
pub mod lint;
pub mod policy;
mod statement;

pub use certificate::{Certificate, Roots};
pub use error::Error;
