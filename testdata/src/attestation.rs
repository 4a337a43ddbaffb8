//! Attestation documents with a root and chain of their own: every part of one can be broken before it is signed.

use p384::ecdsa::signature::Signer;
use sha2::{Digest, Sha384};

/// When the document says that it was made: 2026-01-31T12:00:00.123Z.
pub const MADE_AT_MS: u64 = 1_769_860_800_123;

/// The curve of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// With SHA-256.
    P256,
    /// With SHA-384, as all of AWS's.
    P384,
    /// With SHA-512.
    P521,
}

/// A certificate to be made. The key follows from its name.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The subject's common name.
    pub name: String,
    /// The issuer's common name, if it is not the certificate before.
    pub issuer: Option<String>,
    /// UTCTime of first and last second: `260131090000Z`.
    pub validity: (String, String),
    /// Extensions as DER, see [`extension`].
    pub extensions: Vec<Vec<u8>>,
    /// The kind of its key.
    pub curve: Curve,
    /// The version field as DER; empty is version 1.
    pub version: Vec<u8>,
}

impl Certificate {
    fn new(name: &str, extensions: Vec<Vec<u8>>) -> Self {
        Certificate {
            name: name.to_owned(),
            issuer: None,
            validity: ("260101000000Z".to_owned(), "270101000000Z".to_owned()),
            extensions,
            curve: Curve::P384,
            version: vec![0xa0, 3, 2, 1, 2],
        }
    }

    /// A CA's certificate.
    pub fn authority(name: &str, path_length: Option<u8>) -> Self {
        Self::new(name, vec![basic_constraints(true, true, path_length), key_usage(KEY_CERT_SIGN)])
    }

    /// The certificate of a key that signs documents, valid for three hours as AWS's.
    pub fn signer(name: &str) -> Self {
        let validity = ("260131103000Z".to_owned(), "260131133000Z".to_owned());
        let extensions = vec![basic_constraints(true, false, None), key_usage(DIGITAL_SIGNATURE)];
        Certificate { validity, ..Self::new(name, extensions) }
    }

    /// DER, signed by the key of `issuer`.
    pub fn der(&self, issuer: &Certificate) -> Vec<u8> {
        let algorithm = issuer.curve.signature_algorithm();
        let (first, last) = &self.validity;
        let mut parts = vec![self.version.clone(), tlv(2, &[1]), algorithm.clone()];
        parts.push(name(self.issuer.as_ref().unwrap_or(&issuer.name)));
        parts.push(tlv(0x30, &[tlv(0x17, first.as_bytes()), tlv(0x17, last.as_bytes())].concat()));
        parts.push(name(&self.name));
        parts.push(self.curve.public_key(&self.name));
        if !self.extensions.is_empty() {
            parts.push(tlv(0xa3, &tlv(0x30, &self.extensions.concat())));
        }
        let signed = tlv(0x30, &parts.concat());
        let signature = issuer.curve.sign(&issuer.name, &signed);
        tlv(0x30, &[signed, algorithm, bits(&signature)].concat())
    }
}

impl Curve {
    fn signature_algorithm(self) -> Vec<u8> {
        let last = match self {
            Curve::P256 => 2,
            Curve::P384 => 3,
            Curve::P521 => 4,
        };
        tlv(0x30, &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, last]))
    }

    fn public_key(self, seed: &str) -> Vec<u8> {
        let (curve, point): (&[u8], Vec<u8>) = match self {
            Curve::P256 => {
                let key = p256::ecdsa::SigningKey::from_slice(&scalar(seed, 32)).unwrap();
                (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], key.verifying_key().to_sec1_point(false).as_bytes().to_vec())
            }
            Curve::P384 => {
                (&[0x2b, 0x81, 4, 0, 0x22], p384(seed).verifying_key().to_sec1_point(false).as_bytes().to_vec())
            }
            Curve::P521 => {
                let key = p521::ecdsa::SigningKey::from_slice(&scalar(seed, 66)).unwrap();
                (&[0x2b, 0x81, 4, 0, 0x23], key.verifying_key().to_sec1_point(false).as_bytes().to_vec())
            }
        };
        let kind = [tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), tlv(6, curve)].concat();
        tlv(0x30, &[tlv(0x30, &kind), bits(&point)].concat())
    }

    /// An ASN.1 signature.
    fn sign(self, seed: &str, message: &[u8]) -> Vec<u8> {
        match self {
            Curve::P256 => {
                let key = p256::ecdsa::SigningKey::from_slice(&scalar(seed, 32)).unwrap();
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Curve::P384 => {
                let signature: p384::ecdsa::Signature = p384(seed).sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Curve::P521 => {
                let key = p521::ecdsa::SigningKey::from_slice(&scalar(seed, 66)).unwrap();
                let signature: p521::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

/// A number below the order of the curve with this many bytes, or as good as always.
fn scalar(seed: &str, size: usize) -> Vec<u8> {
    let digest = Sha384::digest(seed);
    let mut scalar = vec![0; size];
    let taken = digest.len().min(size);
    scalar[size - taken..].copy_from_slice(&digest[..taken]);
    scalar
}

fn p384(seed: &str) -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&scalar(seed, 48)).unwrap()
}

/// keyUsage's bit 5, as its first byte has it.
pub const KEY_CERT_SIGN: u8 = 0x04;
/// keyUsage's bit 0.
pub const DIGITAL_SIGNATURE: u8 = 0x80;

/// The extension 2.5.29.19.
pub fn basic_constraints(critical: bool, ca: bool, path_length: Option<u8>) -> Vec<u8> {
    let ca = if ca { tlv(1, &[0xff]) } else { Vec::new() };
    let path_length = path_length.map(|length| tlv(2, &[length])).unwrap_or_default();
    extension(&[0x55, 0x1d, 0x13], critical, &tlv(0x30, &[ca, path_length].concat()))
}

/// The extension 2.5.29.15 with one bit of its first byte.
pub fn key_usage(bit: u8) -> Vec<u8> {
    extension(&[0x55, 0x1d, 0x0f], true, &tlv(3, &[bit.trailing_zeros() as u8, bit]))
}

/// An extension: contents of its OID, and its value.
pub fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(1, &[0xff]) } else { Vec::new() };
    tlv(0x30, &[tlv(6, oid), critical, tlv(4, value)].concat())
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = [tlv(6, &[0x55, 4, 3]), tlv(0x0c, common_name.as_bytes())].concat();
    tlv(0x30, &tlv(0x31, &tlv(0x30, &attribute)))
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], bytes].concat())
}

/// X.690: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    out.extend(content);
    out
}

/// CBOR items, each as its bytes.
pub mod cbor {
    fn head(major: u8, argument: u64) -> Vec<u8> {
        let major = major << 5;
        let bytes = argument.to_be_bytes();
        match argument {
            0..24 => vec![major | bytes[7]],
            24..0x100 => vec![major | 24, bytes[7]],
            0x100..0x1_0000 => [&[major | 25], &bytes[6..]].concat(),
            0x1_0000..0x1_0000_0000 => [&[major | 26], &bytes[4..]].concat(),
            _ => [&[major | 27], &bytes[..]].concat(),
        }
    }

    /// An unsigned integer.
    pub fn unsigned(value: u64) -> Vec<u8> {
        head(0, value)
    }

    /// `-1 - value`.
    pub fn negative(value: u64) -> Vec<u8> {
        head(1, value)
    }

    /// A byte string.
    pub fn bytes(bytes: &[u8]) -> Vec<u8> {
        [head(2, bytes.len() as u64), bytes.to_vec()].concat()
    }

    /// A text string.
    pub fn text(text: &str) -> Vec<u8> {
        [head(3, text.len() as u64), text.as_bytes().to_vec()].concat()
    }

    /// An array of items.
    pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
        [head(4, items.len() as u64), items.concat()].concat()
    }

    /// A map of items.
    pub fn map(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let items = entries.iter().flat_map(|(key, value)| [key.clone(), value.clone()]);
        [head(5, entries.len() as u64), items.collect::<Vec<_>>().concat()].concat()
    }

    /// The array or map without a known length: its head has no number, and a break stands at its end.
    pub fn endless(item: &[u8]) -> Vec<u8> {
        let argument = match item[0] & 31 {
            0..24 => 0,
            24 => 1,
            25 => 2,
            other => panic!("no head of an array or map that the tests make: {other}"),
        };
        [&[item[0] & 0xe0 | 31], &item[1 + argument..], &[0xff]].concat()
    }

    /// `null`.
    pub fn null() -> Vec<u8> {
        vec![0xf6]
    }
}

/// A document to be signed, good until a test breaks it.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// Root first, the signing certificate last; each is issued by the one before, the root by itself.
    pub certificates: Vec<Certificate>,
    /// The payload's fields: name and CBOR, in order. `certificate` and `cabundle` are added when there is none.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The protected header's CBOR.
    pub protected: Vec<u8>,
    /// The unprotected header's CBOR.
    pub unprotected: Vec<u8>,
    /// Whether tag 18 stands before.
    pub tagged: bool,
    /// Whether the payload's map has no known length, as in AWS's documents since 2025.
    pub endless: bool,
}

impl Default for Attestation {
    fn default() -> Self {
        Self::new()
    }
}

impl Attestation {
    /// A document as AWS's hypervisor makes one: PCR0 to PCR15, of which those above 4 are zero, and a chain of five.
    pub fn new() -> Self {
        let mut attestation = Attestation {
            certificates: vec![
                Certificate::authority("test.nitro-enclaves", None),
                Certificate::authority("region", Some(2)),
                Certificate::authority("zone", Some(1)),
                Certificate::authority("instance", Some(0)),
                Certificate::signer("i-0123456789abcdef0-enc0123456789abcdef"),
            ],
            fields: Vec::new(),
            protected: cbor::map(&[(cbor::unsigned(1), cbor::negative(34))]),
            unprotected: cbor::map(&[]),
            tagged: false,
            endless: false,
        };
        attestation.set("module_id", cbor::text("i-0123456789abcdef0-enc0123456789abcdef"));
        attestation.set("digest", cbor::text("SHA384"));
        attestation.set("timestamp", cbor::unsigned(MADE_AT_MS));
        for field in ["public_key", "user_data", "nonce"] {
            attestation.set(field, cbor::null());
        }
        attestation.pcrs(&[(0, [0xa0; 48]), (1, [0xa1; 48]), (2, [0xa2; 48]), (3, [0xa3; 48]), (4, [0xa4; 48])]);
        attestation
    }

    /// Sets a field, whether it is there or not.
    pub fn set(&mut self, name: &str, value: Vec<u8>) -> &mut Self {
        match self.fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name.to_owned(), value)),
        }
        self
    }

    /// Sets these registers, and zero in all others up to 15.
    pub fn pcrs(&mut self, values: &[(u8, [u8; 48])]) -> &mut Self {
        let value = |index| values.iter().find(|(known, _)| *known == index).map_or([0; 48], |(_, value)| *value);
        let pcrs: Vec<_> = (0..16).map(|index| (cbor::unsigned(index.into()), cbor::bytes(&value(index)))).collect();
        self.set("pcrs", cbor::map(&pcrs))
    }

    /// DER of all certificates.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        let issuers = self.certificates.first().into_iter().chain(&self.certificates);
        self.certificates.iter().zip(issuers).map(|(certificate, issuer)| certificate.der(issuer)).collect()
    }

    /// PEM of the root.
    pub fn root_pem(&self) -> String {
        pem(&self.certificates[0].der(&self.certificates[0]))
    }

    /// The payload with these certificates.
    pub fn payload(&self, chain: &[Vec<u8>]) -> Vec<u8> {
        let mut whole = self.clone();
        let has = |name: &str| self.fields.iter().any(|(field, _)| field == name);
        if let Some((leaf, bundle)) = chain.split_last() {
            if !has("certificate") {
                whole.set("certificate", cbor::bytes(leaf));
            }
            if !has("cabundle") {
                whole.set("cabundle", cbor::array(&bundle.iter().map(|der| cbor::bytes(der)).collect::<Vec<_>>()));
            }
        }
        let entries: Vec<_> = whole.fields.iter().map(|(name, value)| (cbor::text(name), value.clone())).collect();
        let map = cbor::map(&entries);
        if self.endless { cbor::endless(&map) } else { map }
    }

    /// RFC 9052's Sig_structure.
    pub fn to_be_signed(&self, payload: &[u8]) -> Vec<u8> {
        cbor::array(&[cbor::text("Signature1"), cbor::bytes(&self.protected), cbor::bytes(&[]), cbor::bytes(payload)])
    }

    /// The document with this payload and signature.
    pub fn wrap(&self, payload: &[u8], signature: &[u8]) -> Vec<u8> {
        let parts =
            [cbor::bytes(&self.protected), self.unprotected.clone(), cbor::bytes(payload), cbor::bytes(signature)];
        let tag: &[u8] = if self.tagged { &[0xd2] } else { &[] };
        [tag, &cbor::array(&parts)].concat()
    }

    /// The signed document.
    pub fn bytes(&self) -> Vec<u8> {
        let payload = self.payload(&self.chain());
        let signer = self.certificates.last().map(|certificate| certificate.name.as_str()).unwrap_or_default();
        let signature: p384::ecdsa::Signature = p384(signer).sign(&self.to_be_signed(&payload));
        self.wrap(&payload, &signature.to_bytes())
    }
}

/// PEM of a certificate.
pub fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
