//! Attestation documents. What is read from CBOR is read from its base64; what is proved under the root of the seeds is
//! what the seeds say, since nobody else has their key.

use std::sync::OnceLock;

use eif::attest::Roots;
use eif::attest::document::{Claims, parse};
use eif_testdata::attestation::{Attestation, pem};

/// The bytes are a document.
pub fn attest(bytes: &[u8]) -> Option<()> {
    let document = parse(bytes).ok()?;
    // They may be no certificates, as in QEMU's documents.
    let _ = document.claims().certificates();
    if !bytes.is_ascii() {
        assert_eq!(parse(base64(bytes).as_bytes()).as_ref().ok(), Some(&document));
    }
    let (roots, claims) = genuine();
    let proof = document.verify(roots, document.made_at()).ok()?;
    assert_eq!(proof.claims(), claims);
    Some(())
}

fn base64(bytes: &[u8]) -> String {
    let pem = pem(bytes);
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// The root of the seeds, and what they say.
fn genuine() -> &'static (Roots, Claims) {
    static GENUINE: OnceLock<(Roots, Claims)> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let attestation = Attestation::new();
        let roots = Roots::from_pem(attestation.root_pem().as_bytes()).expect("a root");
        (roots, parse(&attestation.bytes()).expect("a document").claims().clone())
    })
}

/// The seeds: as the module gives it, with a map of no known length, with COSE's tag, as text.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let plain = Attestation::new();
    let tagged = Attestation { tagged: true, ..Attestation::new() };
    let endless = Attestation { endless: true, ..Attestation::new() };
    vec![
        ("plain", plain.bytes()),
        ("endless", endless.bytes()),
        ("tagged", tagged.bytes()),
        ("text", base64(&plain.bytes()).into_bytes()),
    ]
}
