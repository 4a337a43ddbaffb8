//! ECDSA on the three curves that COSE has algorithms for. Signing is deterministic (RFC 6979), so that it keeps files
//! reproducible.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fmt;

use p256::ecdsa::signature::{Signer, Verifier as _};
use p256::pkcs8::{DecodePrivateKey as _, PrivateKeyInfoRef};
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::Error;
use super::pem::{Block, blocks};

/// `id-ecPublicKey` (RFC 5480).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// The curves (RFC 5480), each with its algorithm.
const CURVES: [(ObjectIdentifier, Algorithm); 3] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), Algorithm::Es256),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), Algorithm::Es384),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), Algorithm::Es512),
];
/// What people try and what they get to read.
const OTHERS: [(ObjectIdentifier, &str); 5] = [
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"), "an RSA key"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"), "an RSA-PSS key"),
    (ObjectIdentifier::new_unwrap("1.3.101.112"), "an Ed25519 key"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "an Ed448 key"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "a key on the curve secp256k1"),
];

/// ECDSA with the hash that belongs to the curve (RFC 9053, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// P-256 with SHA-256.
    Es256,
    /// P-384 with SHA-384.
    Es384,
    /// P-521 with SHA-512.
    Es512,
}

impl Algorithm {
    /// `ES256`, `ES384` or `ES512`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
        }
    }

    /// Its number in COSE headers.
    pub fn number(self) -> i64 {
        match self {
            Algorithm::Es256 => -7,
            Algorithm::Es384 => -35,
            Algorithm::Es512 => -36,
        }
    }

    /// Bytes of a signature: `r` and `s`, each as long as the curve's field.
    pub fn signature_size(self) -> usize {
        match self {
            Algorithm::Es256 => 64,
            Algorithm::Es384 => 96,
            Algorithm::Es512 => 132,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// On P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// On P-384.
    P384(p384::ecdsa::VerifyingKey),
    /// On P-521.
    P521(p521::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// From the DER of a SubjectPublicKeyInfo (RFC 5280), as key services give it.
    ///
    /// # Errors
    /// [`Error::KeyType`], or the bytes are no key on their curve.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let info = SubjectPublicKeyInfoOwned::from_der(der).map_err(|error| Error::Key(error.to_string()))?;
        Self::of(&info)
    }

    pub(super) fn of(info: &SubjectPublicKeyInfoOwned) -> Result<Self, Error> {
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.decode_as().ok());
        let point = info.subject_public_key.raw_bytes();
        let key = match algorithm(info.algorithm.oid, curve)? {
            Algorithm::Es256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map(PublicKey::P256),
            Algorithm::Es384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point).map(PublicKey::P384),
            Algorithm::Es512 => p521::ecdsa::VerifyingKey::from_sec1_bytes(point).map(PublicKey::P521),
        };
        key.map_err(|_| Error::Key("it is no point on its curve".to_owned()))
    }

    /// What its signatures are.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            PublicKey::P256(_) => Algorithm::Es256,
            PublicKey::P384(_) => Algorithm::Es384,
            PublicKey::P521(_) => Algorithm::Es512,
        }
    }

    /// Whether these are `r` and `s` of a signature over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            PublicKey::P256(key) => {
                p256::ecdsa::Signature::from_slice(signature).and_then(|signature| key.verify(message, &signature))
            }
            PublicKey::P384(key) => {
                p384::ecdsa::Signature::from_slice(signature).and_then(|signature| key.verify(message, &signature))
            }
            PublicKey::P521(key) => {
                p521::ecdsa::Signature::from_slice(signature).and_then(|signature| key.verify(message, &signature))
            }
        };
        verified.is_ok()
    }
}

/// Whoever holds a private key: this program, a key service, a hardware module.
pub trait SigningKey: fmt::Debug {
    /// What verifies its signatures.
    fn public_key(&self) -> PublicKey;

    /// `r` and `s` of a signature over `message`, which the holder hashes as the [`Algorithm`] says.
    ///
    /// # Errors
    /// [`Error::Holder`]; a key in memory always signs.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// A private key in memory. It is wiped when it is dropped, and never printed.
pub enum LocalKey {
    /// On P-256.
    P256(p256::ecdsa::SigningKey),
    /// On P-384.
    P384(p384::ecdsa::SigningKey),
    /// On P-521.
    P521(p521::ecdsa::SigningKey),
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKey")
    }
}

impl LocalKey {
    /// Reads the one private key of a PEM text, in the form of SEC1 (`EC PRIVATE KEY`) or PKCS#8 (`PRIVATE KEY`).
    /// Certificates and curve parameters beside it are passed over.
    ///
    /// # Errors
    /// There is none or there are several, it is encrypted, it is not on one of the three curves, it is broken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let text = str::from_utf8(pem).map_err(|_| Error::KeyMissing)?;
        let keys: Vec<Block<'_>> =
            blocks(text).into_iter().filter(|block| block.label.ends_with("PRIVATE KEY")).collect();
        let key = match &keys[..] {
            [] => return Err(Error::KeyMissing),
            [key] => key,
            several => return Err(Error::KeySeveral(several.len())),
        };
        if key.label == "ENCRYPTED PRIVATE KEY" || key.is_encrypted() {
            return Err(Error::KeyEncrypted);
        }
        let der = key.der().ok_or_else(|| Error::Key("it is no base64".to_owned()))?;
        match key.label {
            "EC PRIVATE KEY" => Self::from_sec1(&der),
            "PRIVATE KEY" => Self::from_pkcs8(&der),
            other => Err(Error::KeyType(format!("a key in the form `{}`", crate::escaped(other.as_bytes())))),
        }
    }

    /// The curve may be missing in this form, and then it is the first one that fits.
    fn from_sec1(der: &[u8]) -> Result<Self, Error> {
        let p256 = || p256::SecretKey::from_sec1_der(der).map(|key| LocalKey::P256(key.into()));
        let p384 = || p384::SecretKey::from_sec1_der(der).map(|key| LocalKey::P384(key.into()));
        let p521 = || p521::SecretKey::from_sec1_der(der).map(|key| LocalKey::P521(key.into()));
        let unknown = |_| Error::Key("it is no key on P-256, P-384 or P-521".to_owned());
        p256().or_else(|_| p384()).or_else(|_| p521()).map_err(unknown)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let broken = |why: String| Error::Key(why);
        let info = PrivateKeyInfoRef::try_from(der).map_err(|error| broken(error.to_string()))?;
        let curve = info.algorithm.parameters.and_then(|parameters| parameters.decode_as().ok());
        let key = match algorithm(info.algorithm.oid, curve)? {
            Algorithm::Es256 => p256::SecretKey::from_pkcs8_der(der).map(|key| LocalKey::P256(key.into())),
            Algorithm::Es384 => p384::SecretKey::from_pkcs8_der(der).map(|key| LocalKey::P384(key.into())),
            Algorithm::Es512 => p521::SecretKey::from_pkcs8_der(der).map(|key| LocalKey::P521(key.into())),
        };
        key.map_err(|error| broken(error.to_string()))
    }
}

impl SigningKey for LocalKey {
    fn public_key(&self) -> PublicKey {
        match self {
            LocalKey::P256(key) => PublicKey::P256(*key.verifying_key()),
            LocalKey::P384(key) => PublicKey::P384(*key.verifying_key()),
            LocalKey::P521(key) => PublicKey::P521(*key.verifying_key()),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(match self {
            LocalKey::P256(key) => Signer::<p256::ecdsa::Signature>::sign(key, message).to_vec(),
            LocalKey::P384(key) => Signer::<p384::ecdsa::Signature>::sign(key, message).to_vec(),
            LocalKey::P521(key) => Signer::<p521::ecdsa::Signature>::sign(key, message).to_vec(),
        })
    }
}

/// The algorithm of a key's type and curve.
fn algorithm(kind: ObjectIdentifier, curve: Option<ObjectIdentifier>) -> Result<Algorithm, Error> {
    let known = CURVES.iter().find(|(oid, _)| kind == EC && curve == Some(*oid));
    if let Some((_, algorithm)) = known {
        return Ok(*algorithm);
    }
    let told = if kind == EC { curve.unwrap_or(EC) } else { kind };
    let named = OTHERS.iter().find(|(oid, _)| *oid == told).map(|(_, name)| (*name).to_owned());
    Err(Error::KeyType(named.unwrap_or_else(|| format!("a key of type {told}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6979, appendix A.2.5 to A.2.7: key, and the signature of "sample" with the curve's hash.
    #[test]
    fn signatures_are_rfc_6979s() {
        let p256 = "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721";
        let p384 = "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D8\
                    96D5724E4C70A825F872C9EA60D2EDF5";
        let p521 = "00FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75\
                    CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B83538";
        let raw = |digits: &str| hex::decode(digits).unwrap();
        let keys = [
            LocalKey::P256(p256::ecdsa::SigningKey::from_slice(&raw(p256)).unwrap()),
            LocalKey::P384(p384::ecdsa::SigningKey::from_slice(&raw(p384)).unwrap()),
            LocalKey::P521(p521::ecdsa::SigningKey::from_slice(&raw(p521)).unwrap()),
        ];
        let expected = [
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716\
             F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
            "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46\
             99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
            "00C328FAFCBD79DD77850370C46325D987CB525569FB63C5D3BC53950E6D4C5F\
             174E25A1EE9017B5D450606ADD152B534931D7D4E8455CC91F9B15BF05EC36E377FA\
             00617CCE7CF5064806C467F678D3B4080D6F1CC50AF26CA209417308281B68AF\
             282623EAA63E5B5C0723D8B8C37FF0777B1A20F8CCB1DCCC43997F1EE0E44DA4A67A",
        ];
        for (key, expected) in keys.iter().zip(expected) {
            let signature = key.sign(b"sample").unwrap();
            assert_eq!(hex::encode_upper(&signature), expected);
            let public = key.public_key();
            assert_eq!(signature.len(), public.algorithm().signature_size());
            assert!(public.verifies(b"sample", &signature));
            assert!(!public.verifies(b"simple", &signature));
            for cut in [0, 1, signature.len() - 1] {
                assert!(!public.verifies(b"sample", signature.get(..cut).unwrap()));
            }
            assert!(!public.verifies(b"sample", &vec![0; signature.len()]));
            assert_eq!(format!("{key:?}"), "LocalKey");
        }
    }
}
