//! Signed files, both ways: AWS's library verifies what we sign, and we verify what it signs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aws_nitro_enclaves_image_format::utils::{EifSigner, SignKeyData};
use eif::eif::signature::{self, Certificate, LocalKey, Signer};
use eif::eif::{Kind, Section};

use super::*;

/// A certificate and its key, made by openssl.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
    /// Bytes of r and s together.
    size: usize,
}

impl Pair {
    fn new(folder: &Path, curve: &str, size: usize) -> Self {
        let (certificate, key) = (folder.join(format!("{curve}.pem")), folder.join(format!("{curve}.key")));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", &format!("ec_paramgen_curve:{curve}"), "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={curve}"), "-out"])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("`openssl` is needed: apt-get install openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { certificate, key, size }
    }

    fn all(folder: &Path) -> [Self; 3] {
        [("P-256", 64), ("P-384", 96), ("P-521", 132)].map(|(curve, size)| Self::new(folder, curve, size))
    }

    fn signer(&self) -> Signer {
        let certificate = Certificate::from_pem(&fs::read(&self.certificate).unwrap()).unwrap();
        let now = certificate.validity().0.unix_duration().as_secs();
        let key = LocalKey::from_pem(&fs::read(&self.key).unwrap()).unwrap();
        Signer::new(certificate.to_sign(now).unwrap(), Arc::new(key)).unwrap()
    }

    fn aws(&self) -> SignKeyData {
        SignKeyData::new(self.key.to_str().unwrap(), &self.certificate).unwrap()
    }

    /// Signs a file in place, as `eif sign` does.
    fn sign(&self, path: &Path) {
        let eif = Eif::open(File::open(path).unwrap()).unwrap();
        let section = self.signer().section(&eif.measure(1).unwrap().pcr0).unwrap();
        eif.save_signed(&section, path).unwrap();
    }

    fn sign_with_aws(&self, path: &Path) {
        EifSigner::new(Some(self.aws())).unwrap().sign_image(path.to_str().unwrap()).unwrap();
    }
}

/// What AWS's reader says of a file: its CRC, its registers and its signature.
fn aws_takes(path: &Path, expected: &Measurements, what: &str) {
    let mut reader = EifReader::from_eif(path.to_str().unwrap().to_owned()).unwrap();
    assert!(reader.check_crc(), "{what}");
    let measurements = reader.get_measurements().unwrap();
    assert_eq!(registers(&measurements), ours(expected), "{what}");
    assert_eq!(measurements.len(), 5, "{what}: PCR8 is there");
    reader.get_certificate_info(measurements).unwrap();
    assert_eq!(reader.sign_check, Some(true), "{what}");
}

/// What we say of a file: no fault, a valid signature.
fn we_take(path: &Path, what: &str) -> Measurements {
    let eif = Eif::open(File::open(path).unwrap()).unwrap();
    assert_eq!(eif.faults(), [], "{what}");
    let measured = eif.measure(2).unwrap();
    let verdict = signature::verify(&eif.signature().unwrap().unwrap(), &measured.pcr0).unwrap();
    assert!(verdict.valid() && verdict.problems.is_empty(), "{what}: {:?}", verdict.problems);
    measured
}

/// Everything but the numbers of the signature themselves, which openssl draws at random.
fn same_but_for_r_and_s(a: &Path, b: &Path, pair: &Pair, what: &str) {
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    let (eif_a, eif_b) = (Eif::open(&a[..]).unwrap(), Eif::open(&b[..]).unwrap());
    let places = |eif: &Eif<&[u8]>| -> Vec<_> {
        eif.sections().iter().map(|section| (section.slot, section.kind, section.offset)).collect()
    };
    assert_eq!(places(&eif_a), places(&eif_b), "{what}");
    let body = |bytes: &[u8], signature: &Section| bytes[548..signature.offset as usize].to_vec();
    let last = |eif: &Eif<&[u8]>| *eif.section(Kind::Signature).unwrap();
    assert_eq!(body(&a, &last(&eif_a)), body(&b, &last(&eif_b)), "{what}");
    let only = |eif: &Eif<&[u8]>| {
        let mut signatures = signature::parse(&eif.signature().unwrap().unwrap()).unwrap();
        assert_eq!(signatures.len(), 1, "{what}");
        let signature = signatures.remove(0);
        let fixed = signature.sign1.len() - pair.size;
        (signature.certificate, signature.sign1[..fixed].to_vec())
    };
    assert_eq!(only(&eif_a), only(&eif_b), "{what}");
}

/// Every number of ramdisks that a signed file can have, for both architectures, on the three curves in turn.
#[test]
fn signed_files_are_equal_and_verify_both_ways() {
    let keys = TempDir::new().unwrap();
    let pairs = Pair::all(keys.path());
    for (number, (ramdisks, arch)) in
        (1..=28).flat_map(|ramdisks| [(ramdisks, Arch::X86_64), (ramdisks, Arch::Aarch64)]).enumerate()
    {
        let pair = &pairs[number % 3];
        let what = format!("{ramdisks} ramdisks, {arch:?}, {}", pair.certificate.display());
        let folder = TempDir::new().unwrap();
        let parts = Parts::new(200 + number as u64, arch, ramdisks);
        let (our_path, written) = parts.write(folder.path());
        pair.sign(&our_path);
        let (their_path, theirs) = parts.write_signed_with_aws(folder.path(), Some(pair.aws()));
        let measured = we_take(&our_path, &what);
        assert_eq!(measured, Measurements { pcr8: measured.pcr8, ..written.measurements }, "{what}");
        assert_eq!(ours(&measured), registers(&theirs), "{what}");
        assert_eq!(we_take(&their_path, &what), measured, "{what}");
        aws_takes(&our_path, &measured, &what);
        same_but_for_r_and_s(&our_path, &their_path, pair, &what);
    }
}

/// `nitro-cli sign-eif` on ours, `eif sign` on theirs.
#[test]
fn either_signs_what_the_other_has_built_or_signed() {
    let folder = TempDir::new().unwrap();
    let pairs = Pair::all(folder.path());
    let parts = Parts::new(5, Arch::Aarch64, 3);
    let (path, _) = parts.write(folder.path());
    let unsigned = fs::read(&path).unwrap();
    pairs[1].sign_with_aws(&path);
    let measured = we_take(&path, "ours signed by AWS");
    pairs[2].sign(&path);
    aws_takes(&path, &we_take(&path, "signed by AWS, then by us"), "signed by AWS, then by us");
    let again = fs::read(&path).unwrap();
    fs::write(&path, &unsigned).unwrap();
    pairs[2].sign(&path);
    assert_eq!(fs::read(&path).unwrap(), again, "no trace of AWS's signature");
    let (theirs, _) = parts.write_with_aws(folder.path());
    pairs[0].sign(&theirs);
    let theirs_signed = we_take(&theirs, "theirs signed by us");
    assert_eq!(theirs_signed.pcr0, measured.pcr0);
    aws_takes(&theirs, &theirs_signed, "theirs signed by us");
}

/// A signature moved to another file: both say that it is not valid there.
#[test]
fn a_signature_over_another_pcr0_is_valid_for_nobody() {
    let folder = TempDir::new().unwrap();
    let pair = Pair::new(folder.path(), "P-384", 96);
    let (path, _) = Parts::new(8, Arch::X86_64, 2).write(folder.path());
    let section = pair.signer().section(&eif::eif::Pcr([0; 48])).unwrap();
    let eif = Eif::open(File::open(&path).unwrap()).unwrap();
    eif.save_signed(&section, &path).unwrap();
    let mut reader = EifReader::from_eif(path.to_str().unwrap().to_owned()).unwrap();
    let measurements = reader.get_measurements().unwrap();
    reader.get_certificate_info(measurements).unwrap();
    assert_eq!(reader.sign_check, Some(false));
    let pcr0 = eif.measure(1).unwrap().pcr0;
    assert!(!signature::verify(&section, &pcr0).unwrap().valid());
}
