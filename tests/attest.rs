//! `eif attest` believes a document when every rule of AWS's process holds, and names the rule when one does not.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use common::TestEnv;
use eif::Refusal;
use eif::attest::document::parse;
use eif::attest::{Error, Roots};
use eif::eif::metadata::Facts;
use eif::eif::{Measurements, Metadata, Options, Pcr, Writer};
use eif_testdata::attestation::{
    Attestation, Certificate, Curve, DIGITAL_SIGNATURE, KEY_CERT_SIGN, MADE_AT_MS, basic_constraints, cbor, extension,
    key_usage, pem,
};
use eif_testdata::{Config, Image, fake_bzimage, layers};
use proptest::prelude::*;

const MADE_AT: u64 = MADE_AT_MS / 1000;

fn with(change: impl FnOnce(&mut Attestation)) -> Attestation {
    let mut attestation = Attestation::new();
    change(&mut attestation);
    attestation
}

/// The library's word on a document whose root is trusted.
fn judged(attestation: &Attestation) -> Result<(), Error> {
    let roots = Roots::from_pem(attestation.root_pem().as_bytes()).unwrap();
    parse(&attestation.bytes())?.verify(&roots, MADE_AT).map(|_| ())
}

fn code(change: impl FnOnce(&mut Attestation)) -> &'static str {
    let error = judged(&with(change)).unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error}");
    error.code()
}

#[test]
fn a_good_document_is_believed() {
    let attestation = Attestation::new();
    judged(&attestation).unwrap();
    judged(&with(|a| a.tagged = true)).unwrap();
    judged(&with(|a| a.endless = true)).unwrap();
    for curve in [Curve::P256, Curve::P521] {
        judged(&with(|a| a.certificates[..4].iter_mut().for_each(|c| c.curve = curve))).unwrap();
    }
    let short = with(|a| drop(a.certificates.drain(1..4)));
    judged(&short).unwrap();
    let filled = with(|a| {
        a.set("public_key", cbor::bytes(&[1; 1024]));
        a.set("user_data", cbor::bytes(&[]));
        a.set("nonce", cbor::bytes(&[3; 1024]));
    });
    judged(&filled).unwrap();
    let without = with(|a| a.fields.retain(|(name, _)| !["public_key", "user_data", "nonce"].contains(&name.as_str())));
    judged(&without).unwrap();
    let extended = with(|a| a.certificates[1].extensions.push(extension(&[0x55, 0x1d, 0x0e], false, &[4, 1, 0])));
    judged(&extended).unwrap();
}

/// Section 3.2.2 of AWS's process, and the wrapping of section 3.1.
#[test]
fn each_rule_of_the_shape_is_kept() {
    let field = |name: &'static str, value: Vec<u8>| {
        code(|a| {
            a.set(name, value);
        })
    };
    let missing = |name: &'static str| code(|a| a.fields.retain(|(field, _)| field != name));
    for name in ["module_id", "digest", "timestamp", "pcrs"] {
        assert_eq!(missing(name), "E-attest-missing", "{name}");
        assert_eq!(field(name, cbor::null()), "E-attest-cbor", "{name}");
    }
    assert_eq!(field("module_id", cbor::text("")), "E-attest-value");
    assert_eq!(field("module_id", cbor::bytes(b"i-1")), "E-attest-cbor");
    assert_eq!(field("digest", cbor::text("SHA256")), "E-attest-value");
    assert_eq!(field("timestamp", cbor::unsigned(0)), "E-attest-value");
    assert_eq!(field("timestamp", cbor::negative(0)), "E-attest-cbor");
    assert_eq!(field("cabundle", cbor::array(&[])), "E-attest-value");
    assert_eq!(field("cabundle", cbor::array(&[cbor::bytes(&[])])), "E-attest-value");
    assert_eq!(field("cabundle", cbor::array(&[cbor::bytes(&[0; 1025])])), "E-attest-value");
    assert_eq!(field("cabundle", vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "E-attest-cbor");
    assert_eq!(field("certificate", cbor::bytes(&[])), "E-attest-value");
    assert_eq!(field("certificate", cbor::bytes(&[0; 1025])), "E-attest-value");
    assert_eq!(field("public_key", cbor::bytes(&[])), "E-attest-value");
    assert_eq!(field("public_key", cbor::bytes(&[0; 1025])), "E-attest-value");
    assert_eq!(field("user_data", cbor::bytes(&[0; 1025])), "E-attest-value");
    assert_eq!(field("nonce", cbor::bytes(&[0; 1025])), "E-attest-value");
    assert_eq!(field("nonce", cbor::text("nonce")), "E-attest-cbor");
    assert_eq!(field("something", cbor::null()), "E-attest-field");
    let twice = |a: &mut Attestation| a.fields.push(("nonce".to_owned(), cbor::null()));
    assert_eq!(code(twice), "E-attest-duplicate");
    assert_eq!(code(|a| a.protected = cbor::map(&[(cbor::unsigned(1), cbor::negative(6))])), "E-attest-algorithm");
    assert_eq!(code(|a| a.protected = cbor::map(&[])), "E-attest-cose");
    assert_eq!(code(|a| a.protected = cbor::map(&[(cbor::unsigned(4), cbor::negative(34))])), "E-attest-cose");
    assert_eq!(code(|a| a.protected.push(0)), "E-attest-trailing");
    let unprotected = |a: &mut Attestation| a.unprotected = cbor::map(&[(cbor::unsigned(4), cbor::null())]);
    assert_eq!(code(unprotected), "E-attest-cose");
}

/// Arrays and maps without a known length, as AWS's hypervisor writes the payload since 2025.
#[test]
fn lengths_need_not_be_known() {
    let value = |index: u64| (cbor::unsigned(index), cbor::bytes(&[1; 48]));
    judged(&with(|a| {
        a.endless = true;
        a.set("pcrs", cbor::endless(&cbor::map(&[value(0), value(1)])));
        let chain = a.chain();
        let bundle: Vec<_> = chain[..4].iter().map(|der| cbor::bytes(der)).collect();
        a.set("cabundle", cbor::endless(&cbor::array(&bundle)));
    }))
    .unwrap();
    let endless = |change: &dyn Fn(&mut Attestation)| {
        code(|a| {
            a.endless = true;
            change(a);
        })
    };
    assert_eq!(endless(&|a| a.fields.push(("nonce".to_owned(), cbor::null()))), "E-attest-duplicate");
    assert_eq!(endless(&|a| a.fields.retain(|(field, _)| field != "digest")), "E-attest-missing");
    assert_eq!(endless(&|a| _ = a.set("pcrs", cbor::endless(&cbor::map(&[])))), "E-attest-value");
    assert_eq!(endless(&|a| _ = a.set("cabundle", cbor::endless(&cbor::array(&[])))), "E-attest-value");
    // A break too few, and one too many.
    let unsigned = |payload: &[u8]| parse(&Attestation::new().wrap(payload, &[0; 96])).unwrap_err().code();
    let whole = with(|a| a.endless = true);
    let payload = whole.payload(&whole.chain());
    assert_eq!(unsigned(&payload[..payload.len() - 1]), "E-attest-cbor");
    assert_eq!(unsigned(&[&payload[..], &[0xff]].concat()), "E-attest-trailing");
    assert_eq!(parse(&[0x9f, 0x40, 0xa0, 0x40, 0x40, 0xff]).unwrap_err().code(), "E-attest-cose");
}

/// Documents that AWS gave to enclaves on EC2, as public test data of attestation libraries have them: the payload's map
/// with a known length, and without.
#[test]
fn real_documents_lead_to_awss_root() {
    for (name, module, time) in [
        ("aws-2024-07-16", "i-059e862454f4a8d8f-enc0190a2f1964172e6", "2024-07-16T19:00:00Z"),
        ("aws-2025-08-29", "i-05ebc0d9607fc96a5-enc0198f81c4577e221", "2025-08-30T00:00:00Z"),
    ] {
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/attestation/{name}.b64"));
        let document = parse(&std::fs::read(&real).unwrap()).unwrap();
        let proof = document.verify(&Roots::aws(), document.made_at()).unwrap();
        assert_eq!((proof.claims().module_id.as_str(), proof.certificates().len()), (module, 5));
        let late = document.verify(&Roots::aws(), document.made_at() + 4 * 3600).unwrap_err();
        assert_eq!(late.code(), "E-attest-validity");
        let others = Roots::from_pem(Attestation::new().root_pem().as_bytes()).unwrap();
        assert_eq!(document.verify(&others, document.made_at()).unwrap_err().code(), "E-attest-root");
        let env = TestEnv::new();
        let _ = env.eif(&["attest", "verify", real.to_str().unwrap(), "--time", time]).success();
    }
}

#[test]
fn each_rule_of_registers_is_kept() {
    let pcrs = |entries: &[(Vec<u8>, Vec<u8>)]| {
        code(|a| {
            a.set("pcrs", cbor::map(entries));
        })
    };
    let value = |size| cbor::bytes(&vec![1; size]);
    assert_eq!(pcrs(&[]), "E-attest-value");
    assert_eq!(pcrs(&[(cbor::unsigned(32), value(48))]), "E-attest-value");
    assert_eq!(pcrs(&[(cbor::unsigned(256), value(48))]), "E-attest-value");
    assert_eq!(pcrs(&[(cbor::text("0"), value(48))]), "E-attest-cbor");
    assert_eq!(pcrs(&[(cbor::unsigned(0), value(47))]), "E-attest-value");
    assert_eq!(pcrs(&[(cbor::unsigned(0), cbor::null())]), "E-attest-cbor");
    assert_eq!(pcrs(&[(cbor::unsigned(0), value(48)), (cbor::unsigned(0), value(48))]), "E-attest-duplicate");
    let many: Vec<_> = (0..33).map(|index| (cbor::unsigned(index % 32), value(48))).collect();
    assert_eq!(pcrs(&many), "E-attest-duplicate");
    assert_eq!(pcrs(&[(cbor::unsigned(1), value(48))]), "E-attest-missing");
    assert_eq!(
        code(|a| {
            a.pcrs(&[]);
        }),
        "E-attest-debug"
    );
    for size in [32, 64] {
        judged(&with(|a| {
            a.set("pcrs", cbor::map(&[(cbor::unsigned(0), value(size))]));
        }))
        .unwrap();
    }
}

/// Section 3.2.3 of AWS's process, and RFC 5280.
#[test]
fn each_rule_of_the_chain_is_kept() {
    let certificate = |index: usize, change: &dyn Fn(&mut Certificate)| code(|a| change(&mut a.certificates[index]));
    for index in 0..5 {
        let early = certificate(index, &|c| c.validity.0 = "260131120001Z".to_owned());
        let late = certificate(index, &|c| c.validity.1 = "260131115959Z".to_owned());
        assert_eq!([early, late], ["E-attest-validity"; 2], "{index}");
        let unknown = |c: &mut Certificate| c.extensions.push(extension(&[0x55, 0x1d, 0x1e], true, &[0x30, 0]));
        assert_eq!(certificate(index, &unknown), "E-attest-usage", "{index}");
        let twice = |c: &mut Certificate| c.extensions.push(c.extensions[1].clone());
        assert_eq!(certificate(index, &twice), "E-attest-usage", "{index}");
        let first = |c: &mut Certificate| (c.version, c.extensions) = (Vec::new(), Vec::new());
        assert_eq!(certificate(index, &first), "E-attest-certificate", "{index}");
    }
    for index in 0..4 {
        let constraints =
            |critical, ca| certificate(index, &move |c| c.extensions[0] = basic_constraints(critical, ca, None));
        assert_eq!([constraints(true, false), constraints(false, true)], ["E-attest-usage"; 2], "{index}");
        assert_eq!(certificate(index, &|c| drop(c.extensions.remove(0))), "E-attest-usage", "{index}");
        assert_eq!(certificate(index, &|c| c.extensions[1] = key_usage(DIGITAL_SIGNATURE)), "E-attest-usage");
        assert_eq!(certificate(index, &|c| drop(c.extensions.remove(1))), "E-attest-usage", "{index}");
    }
    for index in 0..3 {
        let shorter = 2 - u8::try_from(index).unwrap();
        let short = |c: &mut Certificate| c.extensions[0] = basic_constraints(true, true, Some(shorter));
        assert_eq!(certificate(index, &short), "E-attest-path", "{index}");
    }
    assert_eq!(certificate(4, &|c| c.extensions[1] = key_usage(KEY_CERT_SIGN)), "E-attest-usage");
    assert_eq!(certificate(4, &|c| drop(c.extensions.remove(1))), "E-attest-usage");
    assert_eq!(certificate(4, &|c| c.extensions[0] = basic_constraints(true, true, None)), "E-attest-usage");
    assert_eq!(certificate(4, &|c| c.extensions[0] = basic_constraints(true, false, Some(0))), "E-attest-usage");
    for index in 1..5 {
        let other = |c: &mut Certificate| c.issuer = Some("another".to_owned());
        assert_eq!(certificate(index, &other), "E-attest-chain", "{index}");
    }
    assert_eq!(certificate(4, &|c| c.curve = Curve::P256), "E-attest-algorithm");
}

/// A certificate with the right names whose signature is of another key; a chain in another order; a link left out.
#[test]
fn names_alone_make_no_chain() {
    let attestation = Attestation::new();
    let roots = Roots::from_pem(attestation.root_pem().as_bytes()).unwrap();
    let verdict = |chain: &[Vec<u8>]| {
        let forged = with(|a| {
            let (leaf, bundle) = chain.split_last().unwrap();
            a.set("certificate", cbor::bytes(leaf));
            a.set("cabundle", cbor::array(&bundle.iter().map(|der| cbor::bytes(der)).collect::<Vec<_>>()));
        });
        parse(&forged.bytes()).unwrap().verify(&roots, MADE_AT).unwrap_err().code()
    };
    let good = attestation.chain();
    for index in 1..5 {
        let mut chain = good.clone();
        let impostor = Certificate { name: "impostor".to_owned(), ..attestation.certificates[index - 1].clone() };
        let issuer = Some(attestation.certificates[index - 1].name.clone());
        chain[index] = Certificate { issuer, ..attestation.certificates[index].clone() }.der(&impostor);
        assert_eq!(verdict(&chain), "E-attest-chain", "{index}");
    }
    let order = |indexes: &[usize]| verdict(&indexes.iter().map(|index| good[*index].clone()).collect::<Vec<_>>());
    assert_eq!(order(&[0, 2, 1, 3, 4]), "E-attest-path");
    assert_eq!(order(&[0, 1, 3, 4]), "E-attest-chain");
    assert_eq!(order(&[1, 2, 3, 4]), "E-attest-root");
    let other = Attestation { certificates: vec![Certificate::authority("other", None)], ..Attestation::new() };
    assert_eq!(verdict(&[other.chain().remove(0), good[4].clone()]), "E-attest-root");
}

#[test]
fn what_is_no_document_is_refused() {
    let code = |bytes: &[u8]| parse(bytes).unwrap_err().code();
    let good = Attestation::new().bytes();
    for bytes in [
        &b""[..],
        b"!",
        b"hello world",
        b"\x84",
        b"\x84\x40",
        b"\xd2",
        b"\x9f\xff",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(["E-attest-text", "E-attest-cbor", "E-attest-cose"].contains(&code(bytes)), "{bytes:02x?}");
    }
    assert_eq!(code(&[&good[..], &[0]].concat()), "E-attest-trailing");
    assert_eq!(code(&[&[0xd1], &good[..]].concat()), "E-attest-cose");
    assert_eq!(code(&vec![0x84; 70_000]), "E-attest-size");
    let attestation = Attestation::new();
    assert_eq!(code(&attestation.wrap(&[], &[0; 96])), "E-attest-value");
    assert_eq!(code(&attestation.wrap(&[0; 16_385], &[0; 96])), "E-attest-value");
    assert_eq!(code(&attestation.wrap(&[attestation.payload(&attestation.chain()), vec![0]].concat(), &[0; 96])), {
        "E-attest-trailing"
    });
    for length in 1..good.len() {
        assert!(parse(&good[..length]).is_err(), "{length}");
    }
}

/// A good document and its root, made once.
static GOOD: LazyLock<(Roots, Vec<u8>)> = LazyLock::new(|| {
    let attestation = Attestation::new();
    (Roots::from_pem(attestation.root_pem().as_bytes()).unwrap(), attestation.bytes())
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn prop_a_changed_byte_is_refused(at in any::<prop::sample::Index>(), bits in 1u8..) {
        let (roots, mut bytes) = GOOD.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        let verdict = parse(&bytes).and_then(|document| document.verify(&roots, MADE_AT));
        prop_assert!(verdict.is_err(), "byte {} xor {:#x}", at, bits);
    }

    #[test]
    fn prop_any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), head in any::<bool>()) {
        if head {
            bytes.splice(0..0, *b"\x84\x44\xa1\x01\x38\x22\xa0\x58\x80");
        }
        let _ = parse(&bytes).map(|document| document.verify(&Roots::aws(), MADE_AT));
    }
}

/// Runs openssl in a folder; a missing openssl fails the test.
fn openssl(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl is missing: install the package openssl");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What our documents have, openssl believes too: the judge of the judge.
#[test]
fn openssl_believes_the_chain_and_the_signature() {
    let env = TestEnv::new();
    let attestation = Attestation::new();
    let chain = attestation.chain();
    env.write("root.pem", pem(&chain[0]));
    env.write("between.pem", chain[1..4].iter().map(|der| pem(der)).collect::<String>());
    env.write("leaf.pem", pem(&chain[4]));
    let at = MADE_AT.to_string();
    let verify = ["verify", "-attime", &at, "-CAfile", "root.pem", "-untrusted", "between.pem", "leaf.pem"];
    assert_eq!(openssl(&env.work(), &verify, b""), b"leaf.pem: OK\n");

    let payload = attestation.payload(&chain);
    let bytes = attestation.bytes();
    let raw = p384::ecdsa::Signature::from_slice(&bytes[bytes.len() - 96..]).unwrap();
    env.write("signature", raw.to_der().as_bytes());
    env.write("key.pem", openssl(&env.work(), &["x509", "-in", "leaf.pem", "-pubkey", "-noout"], b""));
    let check = ["dgst", "-sha384", "-verify", "key.pem", "-signature", "signature"];
    assert_eq!(openssl(&env.work(), &check, &attestation.to_be_signed(&payload)), b"Verified OK\n");
}

/// A chain and a signature that openssl made are believed.
#[test]
fn a_chain_and_a_signature_of_openssl_are_believed() {
    let env = TestEnv::new();
    let run = |arguments: &[&str], input: &[u8]| openssl(&env.work(), arguments, input);
    let authority = "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\nsubjectKeyIdentifier=hash\n";
    env.write("ca.cnf", authority);
    env.write("leaf.cnf", "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n");
    for (name, issuer, extensions) in
        [("root", "root", "ca.cnf"), ("between", "root", "ca.cnf"), ("leaf", "between", "leaf.cnf")]
    {
        let [key, request, certificate] = ["key", "csr", "pem"].map(|kind| format!("{name}.{kind}"));
        let subject = format!("/C=US/O=Amazon/OU=AWS/CN={name}.nitro-enclaves");
        run(&["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", &key], b"");
        run(&["req", "-new", "-sha384", "-key", &key, "-subj", &subject, "-out", &request], b"");
        let [signer, signer_key] = ["pem", "key"].map(|kind| format!("{issuer}.{kind}"));
        let by: &[&str] = if name == issuer {
            &["-signkey", &key]
        } else {
            &["-CA", &signer, "-CAkey", &signer_key, "-CAcreateserial"]
        };
        let sign =
            ["x509", "-req", "-sha384", "-days", "2", "-in", &request, "-extfile", extensions, "-out", &certificate];
        run(&[&sign[..], by].concat(), b"");
    }
    let der = |name: &str| run(&["x509", "-in", &format!("{name}.pem"), "-outform", "DER"], b"");
    let chain = ["root", "between", "leaf"].map(der);
    let dates = run(&["x509", "-in", "leaf.pem", "-noout", "-startdate", "-dateopt", "iso_8601"], b"");
    let start = String::from_utf8(dates).unwrap().trim().trim_start_matches("notBefore=").replace(' ', "T");

    let attestation = Attestation::new();
    let payload = attestation.payload(&chain);
    env.write("message", attestation.to_be_signed(&payload));
    let signature = run(&["dgst", "-sha384", "-sign", "leaf.key", "message"], b"");
    let signature = p384::ecdsa::Signature::from_der(&signature).unwrap();
    env.write("document", attestation.wrap(&payload, &signature.to_bytes()));
    let verify = ["attest", "verify", "document", "--root", "root.pem", "--time", &start];
    let output = env.eif(&verify).success();
    assert!(output.stdout().contains("CN=between.nitro-enclaves"), "{}", output.stdout());
    let _ = env.eif(&verify[..5]).refused("E-attest-validity").says("cabundle[0] is valid from 20");
}

/// An .eif and the document of an enclave that was started from it.
fn world() -> (TestEnv, Attestation, Measurements) {
    let env = TestEnv::new();
    let file = std::fs::File::create(env.path("app.eif")).unwrap();
    let mut writer = Writer::new(file, Options { arch: eif::Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &b"kernel"[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    writer.ramdisk().unwrap().write_all(b"boot").unwrap();
    writer.ramdisk().unwrap().write_all(b"application").unwrap();
    let measurements = writer.finish().unwrap().1.measurements;
    let Measurements { pcr0, pcr1, pcr2, .. } = measurements;
    let attestation = with(|a| {
        a.pcrs(&[
            (0, pcr0.0),
            (1, pcr1.0),
            (2, pcr2.0),
            (3, Pcr::of_role("arn:aws:iam::123456789012:role/Webserver").0),
        ]);
        a.set("nonce", cbor::bytes(&[1, 2, 3]));
        a.set("user_data", cbor::bytes(b"hello"));
        a.set("public_key", cbor::bytes(&[0x30, 0x00]));
    });
    env.write("root.pem", attestation.root_pem());
    env.write("document", attestation.bytes());
    (env, attestation, measurements)
}

#[test]
fn what_is_proved_is_said_in_words() {
    let (env, _, measurements) = world();
    let bare = ["attest", "verify", "document", "--root", "root.pem"];
    let output = env.eif(&bare).success();
    for sentence in [
        "proved      a key under the given root signed it for the enclave i-0123456789abcdef0-enc0123456789abcdef",
        "proved      the enclave is not in debug mode",
        "not proved  which image runs: compare with --eif, --lock or --pcr\n",
        "not proved  that it is fresh",
        "not proved  that who sent it is the enclave",
        "time        2026-01-31T12:00:00.123Z\n",
    ] {
        assert!(output.stdout().contains(sentence), "no {sentence:?} in {output:#?}");
    }
    let further =
        ["--eif", "app.eif", "--nonce", "010203", "--user-data", "68656c6c6f", "--public-key", "3000", "--json"];
    let object = env.eif(&[&bare[..], &further].concat()).success().json();
    assert_eq!(object["verified"], true);
    assert_eq!(object["pcrs"]["PCR0"], measurements.pcr0.to_string());
    assert_eq!(object["certificates"].as_array().unwrap().len(), 5);
    assert_eq!(object["certificates"][0]["subject"], "CN=test.nitro-enclaves");
    let proved = object["proved"].to_string();
    assert!(proved.contains("the image of app.eif") && proved.contains("answers this nonce"), "{proved}");
    assert_eq!(object["not_proved"].as_array().unwrap().len(), 2);
}

#[test]
fn what_differs_is_refused_by_name() {
    let (env, ..) = world();
    let refused = |further: &[&str], code: &str| {
        env.eif(&[&["attest", "verify", "document", "--root", "root.pem"][..], further].concat()).refused(code)
    };
    let other = "ab".repeat(48);
    let _ = refused(&["--pcr", &format!("0={other}")], "E-attest-pcr").says("PCR0 is ").says("another image");
    let _ = refused(&["--pcr", &format!("20={other}")], "E-attest-pcr").says("PCR20 is missing");
    let _ = refused(&["--pcr", &format!("3={other}")], "E-attest-pcr").says("another IAM role");
    let _ = refused(&["--nonce", "0102"], "E-attest-nonce").says("nonce is \"010203\", expected is \"0102\"");
    let _ = refused(&["--user-data", ""], "E-attest-user-data");
    let _ = refused(&["--public-key", "3001"], "E-attest-public-key");
    let _ = refused(&["--max-age", "60"], "E-attest-age").says("s ago, at most 60 s are allowed");
    let _ = refused(&["--max-age", "60", "--time", "2026-01-31T12:01:01Z"], "E-attest-age").says("61 s ago");
    let _ = refused(&["--max-age", "9", "--time", "2026-01-31T11:58:59Z"], "E-attest-age").says("61 s in the future");
    let _ = refused(&["--time", "2026-01-31T13:30:01Z"], "E-attest-validity").says("not at 2026-01-31T13:30:01Z");
    let fresh =
        ["attest", "verify", "document", "--root", "root.pem", "--max-age", "60", "--time", "2026-01-31T12:01:00Z"];
    let _ = env.eif(&fresh).success();
    let _ = env.eif(&["attest", "verify", "document"]).refused("E-attest-root").says("only AWS's root is trusted");
    let _ = env.eif(&["attest", "verify", "document", "--root", "app.eif"]).refused("E-cert");
    let _ = env.eif(&["attest", "verify", "document", "--pcr", "32=ab"]).code(2).says("there is no PCR32");
}

/// A lock says what was built; whoever has it needs no file.
#[test]
fn a_lock_stands_for_its_image() {
    let (env, mut attestation, _) = world();
    let layers = layers! { "f 0644 0:0 etc/hosts 127.0.0.1 localhost", "f 0755 0:0 app program" };
    let reference = env.layout("image", &Image::new(layers).config(Config::new().entrypoint(&["/app"])));
    env.write("kernel", fake_bzimage());
    let build = ["build", &reference, "--kernel", "kernel", "--cmdline", "a", "--lock", "eif.lock", "-o", "built.eif"];
    let measured = env.eif(&build).success().json()["Measurements"].take();
    let verify = ["attest", "verify", "document", "--root", "root.pem", "--lock", "eif.lock"];
    let _ = env.eif(&verify).refused("E-attest-pcr").says("PCR0 is ");
    let pcr = |index| measured[format!("PCR{index}")].as_str().unwrap().parse::<Pcr>().unwrap().0;
    env.write("document", attestation.pcrs(&[(0, pcr(0)), (1, pcr(1)), (2, pcr(2))]).bytes());
    assert!(env.eif(&verify).success().stdout().contains("started from the image of eif.lock\n"));
    // Each thing that was asked is told.
    let nonce = "03".repeat(8);
    attestation.set("nonce", cbor::bytes(&[3; 8]));
    env.write("document", attestation.bytes());
    let more = ["--eif", "built.eif", "--nonce", &nonce, "--max-age", "600", "--time", "2026-01-31T12:05:00Z"];
    let told = env.eif(&[&verify[..], &more].concat()).success();
    for sentence in [
        "started from the image of built.eif and of eif.lock\n",
        "it answers this nonce, and it is as young as asked\n",
    ] {
        assert!(told.stdout().contains(sentence), "{told:?}");
    }
    env.write("eif.lock", "{}");
    let _ = env.eif(&verify).code(1).says("eif.lock");
}

#[test]
fn a_debug_enclave_proves_nothing() {
    let (env, mut attestation, _) = world();
    env.write("document", attestation.pcrs(&[]).bytes());
    let verify = ["attest", "verify", "document", "--root", "root.pem", "--eif", "app.eif"];
    let _ = env.eif(&verify).refused("E-attest-debug").says("runs in debug mode, so the document proves nothing");
}

/// In lines, as `base64` writes it.
fn base64(bytes: &[u8]) -> String {
    pem(bytes).lines().filter(|line| !line.starts_with('-')).map(|line| format!("{line}\n")).collect()
}

/// The document and the root that the page docs/attest.md looks at. Signatures are deterministic, so the bytes are known.
#[test]
fn the_documents_of_the_page_are_these() {
    let attestation = with(|a| {
        a.set("nonce", cbor::bytes(&hex::decode("00112233445566778899aabbccddeeff").unwrap()));
        a.set("user_data", cbor::bytes(b"hello"));
    });
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/docs");
    for (name, text) in [("document.b64", base64(&attestation.bytes())), ("test-root.pem", attestation.root_pem())] {
        assert_eq!(std::fs::read_to_string(page.join(name)).unwrap_or_default(), text, "{name}");
    }
}

#[test]
fn documents_come_in_base64_and_on_stdin() {
    let (env, attestation, _) = world();
    let text = base64(&attestation.bytes());
    env.write("document.b64", &text);
    let _ = env.eif(&["attest", "verify", "document.b64", "--root", "root.pem"]).success();
    let mut child =
        env.command(&["attest", "show", "-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["verified"], &object["nonce"]), (&false.into(), &"010203".into()));
    assert_eq!(object["timestamp"], "2026-01-31T12:00:00.123Z");
}

/// What QEMU's machine gives: no certificates, no signature, algorithm -1.
#[test]
fn an_unsigned_document_is_shown_and_not_believed() {
    let env = TestEnv::new();
    let attestation = with(|a| {
        a.protected = cbor::map(&[(cbor::unsigned(1), cbor::negative(0))]);
        a.set("certificate", cbor::bytes(&[0; 64]));
        a.set("cabundle", cbor::array(&[cbor::bytes(&[0; 64])]));
    });
    env.write("document", attestation.wrap(&attestation.payload(&[]), &[0; 64]));
    let output = env.eif(&["attest", "show", "document"]).success();
    assert!(output.stdout().contains("verified    no: "), "{output:#?}");
    assert!(output.stdout().contains(&format!("PCR4        {}\n", "a4".repeat(48))), "{output:#?}");
    let _ = env.eif(&["attest", "verify", "document"]).refused("E-attest-algorithm").says("does not sign");
}

#[test]
fn a_signature_of_another_length_is_refused() {
    let attestation = Attestation::new();
    let roots = Roots::from_pem(attestation.root_pem().as_bytes()).unwrap();
    let payload = attestation.payload(&attestation.chain());
    for signature in [&[][..], &[1; 95], &[1; 96], &[0; 96], &[0xff; 96], &[1; 97]] {
        let document = parse(&attestation.wrap(&payload, signature)).unwrap();
        assert_eq!(document.verify(&roots, MADE_AT).unwrap_err().code(), "E-attest-signature");
    }
}
