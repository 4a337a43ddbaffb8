//! `eif sign` and `eif build --signing-certificate`: signatures that others verify, the same file each time, and
//! nothing written where something is wrong. openssl makes keys and certificates, and is the judge.

mod common;

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use common::TestEnv;
use eif::Arch;
use eif::eif::metadata::Facts;
use eif::eif::signature::{self, Certificate};
use eif::eif::{Eif, Kind, Metadata, Options, Pcr, Writer};
use eif_testdata::{Config, Image, fake_bzimage, parse_layers};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Curve, openssl's hash for it, COSE's name, bytes of a raw signature.
const CURVES: [(&str, &str, &str, usize); 3] =
    [("P-256", "-sha256", "ES256", 64), ("P-384", "-sha384", "ES384", 96), ("P-521", "-sha512", "ES512", 132)];

fn openssl(env: &TestEnv, arguments: &str) -> Vec<u8> {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let run = env.command_of("openssl", &arguments).output().expect("openssl runs: install the package `openssl`");
    assert!(run.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

/// `NAME.pem`, a certificate, and `NAME.key`, its private key in PKCS#8.
fn pair(env: &TestEnv, name: &str, algorithm: &str) {
    openssl(
        env,
        &format!(
            "req -x509 -newkey {algorithm} -nodes -days 2 -subj /CN={name}/O=eif -out {name}.pem -keyout {name}.key"
        ),
    );
}

fn on(curve: &str) -> String {
    format!("ec -pkeyopt ec_paramgen_curve:{curve}")
}

/// A file with this many ramdisks; the writer does not look into them.
fn made(ramdisks: usize) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &fake_bzimage()[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    for number in 0..ramdisks {
        writer.ramdisk().unwrap().write_all(&[b'r', number as u8]).unwrap();
    }
    writer.finish().unwrap().0.into_inner()
}

/// A world with `app.eif` and a pair on P-384, `c.pem` and `c.key`.
fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("app.eif", made(2));
    pair(&env, "c", &on("P-384"));
    env
}

fn sign<'a>(file: &'a str, name: &str, further: &[&'a str]) -> Vec<String> {
    let pair =
        ["--signing-certificate".to_owned(), format!("{name}.pem"), "--private-key".to_owned(), format!("{name}.key")];
    [&["sign".to_owned(), file.to_owned()][..], &pair, &further.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()]
        .concat()
}

/// Codes of the findings about a file, and what is told of its signature.
fn verdict(env: &TestEnv, file: &str) -> (Vec<String>, Value) {
    let mut object = env.eif(&["inspect", file, "--json"]).success().json();
    let codes = object["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap().to_owned());
    // The ramdisks are no archives.
    let codes = codes.filter(|code| !code.starts_with("E-ramdisk")).collect();
    (codes, object["signature"].take())
}

/// The bytes of a file's signature section.
fn section(bytes: &[u8]) -> Vec<u8> {
    Eif::open(bytes).unwrap().signature().unwrap().unwrap()
}

/// `r` and `s` of the one signature in a file: the last bytes of its COSE_Sign1.
fn raw(bytes: &[u8], size: usize) -> Vec<u8> {
    let sign1 = signature::parse(&section(bytes)).unwrap().remove(0).sign1;
    sign1[sign1.len() - size..].to_vec()
}

/// ECDSA-Sig-Value (RFC 3279) of `r` and `s`.
fn to_der(raw: &[u8]) -> Vec<u8> {
    let integer = |digits: &[u8]| {
        let digits = &digits[digits.iter().position(|digit| *digit != 0).unwrap()..];
        let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
        [&[2, (digits.len() + sign.len()) as u8][..], sign, digits].concat()
    };
    let (r, s) = raw.split_at(raw.len() / 2);
    let body = [integer(r), integer(s)].concat();
    let long: &[u8] = if body.len() >= 0x80 { &[0x81] } else { &[] };
    [&[0x30][..], long, &[body.len() as u8], &body].concat()
}

/// The reverse: each integer as long as the field.
fn from_der(der: &[u8], size: usize) -> Vec<u8> {
    let mut rest = if der[1] == 0x81 { &der[3..] } else { &der[2..] };
    let mut raw = Vec::new();
    for _ in 0..2 {
        let (number, behind) = rest[2..].split_at(usize::from(rest[1]));
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        raw.extend(std::iter::repeat_n(0, size / 2 - number.len()));
        raw.extend(number);
        rest = behind;
    }
    raw
}

#[test]
fn every_curve_and_form_of_key_signs_and_openssl_verifies() {
    let env = TestEnv::new();
    for (curve, hash, algorithm, size) in CURVES {
        pair(&env, curve, &on(curve));
        openssl(&env, &format!("ec -in {curve}.key -out sec1.key"));
        assert!(fs::read_to_string(env.path("sec1.key")).unwrap().starts_with("-----BEGIN EC PRIVATE KEY-----"));
        env.write("a.eif", made(2));
        let output = env.eif(&sign("a.eif", curve, &[])).success();
        let signed = fs::read(env.path("a.eif")).unwrap();
        let expected = env.eif(&["pcr", "a.eif"]).success();
        assert_eq!(output.stdout(), expected.stdout());
        assert_eq!(
            expected.json()["Measurements"]["PCR8"],
            env.eif(&["pcr", "--signing-certificate", &format!("{curve}.pem")]).success().json()["PCR8"]
        );

        env.write("b.eif", made(2));
        let (pem, file) = (format!("{curve}.pem"), "b.eif");
        let _ = env.eif(&["sign", file, "--signing-certificate", &pem, "--private-key", "sec1.key"]).success();
        assert_eq!(fs::read(env.path("b.eif")).unwrap(), signed, "{curve}: signing is not deterministic");

        let (codes, told) = verdict(&env, "a.eif");
        assert_eq!((codes.len(), &told["valid"]), (0, &json!(true)), "{codes:?}");
        assert_eq!(told["certificate"]["algorithm"], algorithm);
        let (subject, issuer) = (&told["certificate"]["subject"], &told["certificate"]["issuer"]);
        assert_eq!((subject, issuer), (&json!(format!("O=eif,CN={curve}")), &json!(format!("O=eif,CN={curve}"))));

        let payload =
            env.command(&["sign", "a.eif", "--signing-certificate", &pem, "--print-payload"]).output().unwrap();
        assert!(payload.status.success());
        env.write("payload", &payload.stdout);
        env.write("signature", to_der(&raw(&signed, size)));
        openssl(&env, &format!("x509 -in {pem} -noout -pubkey -out public"));
        openssl(&env, &format!("dgst {hash} -verify public -signature signature payload"));
    }
}

/// The payload item by item: the context, the protected headers, no external data, the register and its value.
#[test]
fn the_payload_is_coses() {
    let env = world();
    let payload =
        env.command(&["sign", "app.eif", "--signing-certificate", "c.pem", "--print-payload"]).output().unwrap();
    let pcr0 = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]["PCR0"].as_str().unwrap().to_owned();
    let mut info = b"\xa2\x6eregister_index\x00\x6eregister_value\x98\x30".to_vec();
    let value = hex::decode(pcr0).unwrap();
    info.extend(value.into_iter().flat_map(|byte| if byte < 24 { vec![byte] } else { vec![0x18, byte] }));
    let expected = [&b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40\x58"[..], &[info.len() as u8], &info].concat();
    assert_eq!(payload.stdout, expected);
    assert_eq!(fs::read(env.path("app.eif")).unwrap(), made(2), "printing writes nothing");
}

#[test]
fn building_signed_is_building_and_signing() {
    let env = TestEnv::new();
    pair(&env, "c", &on("P-256"));
    let layers = parse_layers(&["f 0644 0:0 etc/hosts 127.0.0.1 localhost", "f 0755 0:0 app program"]);
    let reference = env.layout("image", &Image::new(layers).config(Config::new().entrypoint(&["/app"])));
    env.write("kernel", fake_bzimage());
    let build = |file: &str, further: &[&str]| {
        env.eif(&[&["build", &reference, "--kernel", "kernel", "-o", file][..], further].concat())
    };
    let with = ["--signing-certificate", "c.pem", "--private-key", "c.key"];
    let built = build("built.eif", &with).success();
    let _ = build("signed.eif", &[]).success();
    let _ = env.eif(&sign("signed.eif", "c", &[])).success();
    assert_eq!(fs::read(env.path("built.eif")).unwrap(), fs::read(env.path("signed.eif")).unwrap());
    let object = built.json();
    assert_eq!(object["Measurements"].as_object().unwrap().len(), 5);
    assert_eq!(env.eif(&["inspect", "built.eif", "--json"]).success().json()["findings"], json!([]));

    let pcr = ["pcr", &reference, "--kernel", "kernel", "--signing-certificate", "c.pem"];
    assert_eq!(env.eif(&pcr).success().stdout(), built.stdout(), "an image's PCRs as if it were signed");

    let before = env.listing(&env.work());
    pair(&env, "other", &on("P-256"));
    let _ =
        build("none.eif", &["--signing-certificate", "c.pem", "--private-key", "other.key"]).refused("E-key-mismatch");
    let _ = build("none.eif", &["--signing-certificate", "c.pem"]).code(2);
    let _ = build("none.eif", &["--private-key", "c.key"]).code(2);
    assert_eq!(env.listing(&env.work()).len(), before.len() + 2, "nothing but the new pair");
}

#[test]
fn a_new_signature_takes_the_place_of_the_old_one() {
    let env = world();
    let _ = env.eif(&sign("app.eif", "c", &["-o", "first.eif"])).success();
    let first = fs::read(env.path("first.eif")).unwrap();
    assert_eq!(fs::read(env.path("app.eif")).unwrap(), made(2), "-o leaves the file alone");
    pair(&env, "d", &format!("{} -addext nsComment={}", on("P-521"), "x".repeat(500)));
    fs::set_permissions(env.path("first.eif"), fs::Permissions::from_mode(0o640)).unwrap();
    let _ = env.eif(&sign("first.eif", "d", &[])).success();
    let second = fs::read(env.path("first.eif")).unwrap();
    assert!(second.len() > first.len() + 500);
    assert_eq!(fs::metadata(env.path("first.eif")).unwrap().permissions().mode() & 0o777, 0o640);
    let (first_eif, second_eif) = (Eif::open(&first[..]).unwrap(), Eif::open(&second[..]).unwrap());
    assert_eq!(first_eif.sections()[..5], second_eif.sections()[..5]);
    assert_eq!(second_eif.sections().len(), 6);
    assert_eq!(second_eif.header().sizes[5], second_eif.section(Kind::Signature).unwrap().size);
    assert_eq!(second_eif.faults(), []);
    assert_eq!(verdict(&env, "first.eif").1["certificate"]["algorithm"], "ES512");
    let _ = env.eif(&sign("first.eif", "c", &[])).success();
    assert_eq!(fs::read(env.path("first.eif")).unwrap(), first, "no trace of the other signature");
}

/// Each refusal has its code, and leaves the file and the folder as they were.
#[test]
fn bad_keys_and_certificates_are_refused_before_anything_is_written() {
    let env = world();
    pair(&env, "other", &on("P-384"));
    pair(&env, "small", &on("P-256"));
    pair(&env, "rsa", "rsa:2048");
    pair(&env, "ed", "ed25519");
    openssl(&env, "pkcs8 -topk8 -in c.key -v2 aes256 -passout pass:x -out pkcs8.key");
    openssl(&env, "ec -in c.key -aes256 -passout pass:x -out sec1.key");
    openssl(&env, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out koblitz.key");
    openssl(&env, "rsa -in rsa.key -traditional -out pkcs1.key");
    let text = |name: &str| fs::read_to_string(env.path(name)).unwrap();
    env.write("two.key", text("c.key") + &text("other.key"));
    env.write("broken.key", text("c.key").replace('M', "N"));
    env.write("digits.key", text("c.key").replace('M', "!"));
    let before = env.listing(&env.work());
    for (certificate, key, code, says) in [
        ("c.pem", "other.key", "E-key-mismatch", "other.key: the private key (ES384)"),
        ("c.pem", "small.key", "E-key-mismatch", "(ES256) is not the one of the certificate (ES384)"),
        ("c.pem", "pkcs8.key", "E-key-encrypted", "pkcs8.key: the private key is encrypted"),
        ("c.pem", "sec1.key", "E-key-encrypted", "openssl pkey"),
        ("c.pem", "rsa.key", "E-key-type", "it is an RSA key"),
        ("c.pem", "pkcs1.key", "E-key-type", "RSA PRIVATE KEY"),
        ("c.pem", "ed.key", "E-key-type", "it is an Ed25519 key"),
        ("c.pem", "koblitz.key", "E-key-type", "secp256k1"),
        ("c.pem", "two.key", "E-key-several", "there are 2 private keys"),
        ("c.pem", "c.pem", "E-key-missing", "-----BEGIN PRIVATE KEY-----"),
        ("c.pem", "broken.key", "E-key", "cannot be read"),
        ("c.pem", "digits.key", "E-key", "it is no base64"),
        ("c.pem", "app.eif", "E-key-missing", ""),
        ("c.pem", "none.key", "E-io", "none.key"),
        ("rsa.pem", "rsa.key", "E-cert-key", "rsa.pem: the certificate's key: it is an RSA key"),
        ("ed.pem", "ed.key", "E-cert-key", "Ed25519"),
        ("c.key", "c.key", "E-cert", "-----BEGIN CERTIFICATE-----"),
        ("none.pem", "c.key", "E-io", "none.pem"),
        ("c.pem", "arn:aws:kms:eu-west-1:123456789012:alias/x", "E-key-arn", "key/ID"),
    ] {
        let output = env.eif(&["sign", "app.eif", "--signing-certificate", certificate, "--private-key", key]);
        let output = output.refused(code).says(says);
        for secret in [text("c.key"), text("rsa.key")] {
            let line = secret.lines().nth(1).unwrap();
            assert!(!output.stderr().contains(line), "a key on stderr: {output:#?}");
        }
    }
    let both = text("c.pem") + &text("c.key");
    env.write("both.pem", &both);
    let _ = env.eif(&["sign", "none.eif", "--signing-certificate", "c.pem", "--private-key", "c.key"]).refused("E-io");
    assert_eq!(fs::read(env.path("app.eif")).unwrap(), made(2));
    fs::remove_file(env.path("both.pem")).unwrap();
    assert_eq!(env.listing(&env.work()), before);
}

/// A file with everything in it may be both; what is not the certificate never gets into the .eif.
#[test]
fn only_the_certificate_is_stored() {
    let env = world();
    let text = |name: &str| fs::read_to_string(env.path(name)).unwrap();
    let _ = env.eif(&sign("app.eif", "c", &["-o", "plain.eif"])).success();
    let parameters = openssl(&env, "ecparam -name P-384");
    pair(&env, "ca", &on("P-256"));
    let crlf = text("c.pem").replace('\n', "\r\n");
    env.write(
        "all.pem",
        ["Bag Attributes\n", &String::from_utf8(parameters).unwrap(), &text("c.key"), &crlf, &text("ca.pem")].concat(),
    );
    let all = ["sign", "app.eif", "--signing-certificate", "all.pem", "--private-key", "all.pem", "-o", "all.eif"];
    let _ = env.eif(&all).success();
    assert_eq!(fs::read(env.path("all.eif")).unwrap(), fs::read(env.path("plain.eif")).unwrap());
    let stored = signature::parse(&section(&fs::read(env.path("all.eif")).unwrap())).unwrap().remove(0);
    assert_eq!(String::from_utf8(stored.certificate).unwrap(), text("c.pem"));
}

/// The certificate's own signature is not looked at, so its times can be written over.
#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let env = world();
    let pem = fs::read(env.path("c.pem")).unwrap();
    let certificate = Certificate::from_pem(&pem).unwrap();
    let at: Vec<usize> =
        certificate.der().windows(2).enumerate().filter(|(_, w)| *w == b"\x17\x0d").map(|(at, _)| at).collect();
    let changed = |which: usize, time: &[u8; 13]| {
        let mut der = certificate.der().to_vec();
        der[at[which] + 2..at[which] + 15].copy_from_slice(time);
        Certificate::from_der(der).unwrap()
    };
    env.write("old.pem", changed(1, b"010203040506Z").to_pem());
    env.write("new.pem", changed(0, b"490203040506Z").to_pem());
    for how in [&["--private-key", "c.key"][..], &["--print-payload"], &["--attach-signature", "c.key"]] {
        let run = |name| env.eif(&[&["sign", "app.eif", "--signing-certificate", name][..], how].concat());
        let _ = run("old.pem")
            .refused("E-cert-expired")
            .says("old.pem: the certificate was valid until 2001-02-03T04:05:06Z");
        let _ = run("new.pem").refused("E-cert-not-yet").says("valid from 2049-02-03T04:05:06Z on");
    }
    let env = env.variable("SOURCE_DATE_EPOCH", "0");
    let _ = env.eif(&sign("app.eif", "c", &[])).success();
    let (first, last) = certificate.validity();
    let (first, last) = (first.unix_duration().as_secs(), last.unix_duration().as_secs());
    for (now, valid) in [(first, true), (last, true), (first - 1, false), (last + 1, false), (0, false)] {
        assert_eq!(certificate.clone().to_sign(now).is_ok(), valid, "{now}");
    }
}

#[test]
fn a_file_that_would_break_is_refused() {
    let env = world();
    env.write("full.eif", made(29));
    let _ = env.eif(&sign("full.eif", "c", &[])).refused("E-eif-count").says("room for 28 ramdisks");
    assert_eq!(fs::read(env.path("full.eif")).unwrap(), made(29));
    env.write("28.eif", made(28));
    let _ = env.eif(&sign("28.eif", "c", &[])).success();
    let _ = env.eif(&sign("28.eif", "c", &[])).success();

    let mut changed = made(2);
    *changed.last_mut().unwrap() ^= 1;
    env.write("changed.eif", &changed);
    let _ = env.eif(&sign("changed.eif", "c", &[])).refused("E-eif-crc").says("changed.eif: ");
    env.write("text.eif", "no file");
    let _ = env.eif(&sign("text.eif", "c", &[])).refused("E-eif-magic");

    let _ = env.eif(&sign("app.eif", "c", &[])).success();
    env.write("middle.eif", signature_first(&fs::read(env.path("app.eif")).unwrap()));
    let middle = fs::read(env.path("middle.eif")).unwrap();
    assert_eq!(Eif::open(&middle[..]).unwrap().faults(), []);
    let output = env.eif(&sign("middle.eif", "c", &[])).refused("E-signature-place");
    let _ = output.says("middle.eif: section 0 (signature) is not the last one");
    assert_eq!(fs::read(env.path("middle.eif")).unwrap(), middle);
    let _ = env.eif(&sign("app.eif", "c", &["-o", "missing/out.eif"])).refused("E-eif-io");
}

/// The same file with its last section moved to the front: every reader takes it.
fn signature_first(bytes: &[u8]) -> Vec<u8> {
    let eif = Eif::open(bytes).unwrap();
    let mut order = eif.sections().to_vec();
    order.rotate_right(1);
    let mut header = eif.header().clone();
    let mut body = Vec::new();
    for (slot, section) in order.iter().enumerate() {
        (header.offsets[slot], header.sizes[slot]) = (548 + body.len() as u64, section.size);
        body.extend(&bytes[section.offset as usize..section.end() as usize]);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header.to_bytes()[..544]);
    crc.update(&body);
    header.crc32 = crc.finalize();
    [&header.to_bytes()[..], &body].concat()
}

/// openssl stands for a hardware module: it sees the payload and gives DER, of which r and s are taken.
#[test]
fn a_signature_made_elsewhere_is_attached() {
    for (curve, hash, _, size) in CURVES {
        let env = TestEnv::new();
        env.write("app.eif", made(2));
        pair(&env, "c", &on(curve));
        let payload =
            env.command(&["sign", "app.eif", "--signing-certificate", "c.pem", "--print-payload"]).output().unwrap();
        env.write("payload", &payload.stdout);
        let der = openssl(&env, &format!("dgst {hash} -sign c.key payload"));
        let raw = from_der(&der, size);
        env.write("der", &der);
        env.write("raw", &raw);
        let attach = |signature: &str| {
            env.eif(&["sign", "app.eif", "--signing-certificate", "c.pem", "--attach-signature", signature])
        };
        let _ = attach("der").refused("E-signature-length").says("no DER");
        let mut flipped = raw.clone();
        flipped[size / 2] ^= 1;
        env.write("flipped", &flipped);
        let _ = attach("flipped").refused("E-signature-invalid").says("--print-payload");
        env.write("long", [&raw[..], b"\n"].concat());
        let _ = attach("long").refused("E-signature-length").says(&format!("the signature has {} bytes", size + 1));
        assert_eq!(fs::read(env.path("app.eif")).unwrap(), made(2));

        let mut command =
            env.command(&["sign", "app.eif", "--signing-certificate", "c.pem", "--attach-signature", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&raw).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(self::raw(&fs::read(env.path("app.eif")).unwrap(), size), raw);
        assert_eq!(verdict(&env, "app.eif").1["valid"], json!(true));
    }
}

#[test]
fn exactly_one_way_to_sign_is_chosen() {
    let env = world();
    let sign =
        |further: &[&str]| env.eif(&[&["sign", "app.eif", "--signing-certificate", "c.pem"][..], further].concat());
    let _ = sign(&[]).code(2);
    let _ = sign(&["--private-key", "c.key", "--print-payload"]).code(2);
    let _ = sign(&["--print-payload", "--attach-signature", "x"]).code(2);
    let _ = sign(&["--print-payload", "-o", "x"]).code(2);
    let _ = env.eif(&["sign", "app.eif", "--private-key", "c.key"]).code(2);
}

#[cfg(not(feature = "kms"))]
#[test]
fn a_key_in_kms_needs_the_feature() {
    let env = world();
    let arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let sign = env.eif(&["sign", "app.eif", "--signing-certificate", "c.pem", "--private-key", arn]);
    let _ = sign.refused("E-kms").says("the feature `kms`").says("--features kms");
}

/// A file with `cbor` as its signature section.
fn with_section(cbor: &[u8], ramdisks: usize) -> Vec<u8> {
    let unsigned = made(ramdisks);
    let eif = Eif::open(&unsigned[..]).unwrap();
    eif.write_signed(cbor, Cursor::new(Vec::new())).unwrap().into_inner()
}

#[test]
fn a_signature_that_does_not_hold_is_told() {
    let env = world();
    pair(&env, "other", &on("P-384"));
    pair(&env, "small", &on("P-256"));
    pair(&env, "rsa", "rsa:2048");
    let _ = env.eif(&sign("app.eif", "c", &[])).success();
    let good = section(&fs::read(env.path("app.eif")).unwrap());
    let parsed = signature::parse(&good).unwrap().remove(0);
    let pem = |name: &str| fs::read(env.path(name)).unwrap();
    let cbor = |signatures: &[(&[u8], &[u8])]| {
        let item = |bytes: &[u8]| [&[0x59][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat();
        let mut section = vec![0x80 + signatures.len() as u8];
        for (certificate, sign1) in signatures {
            section.extend(b"\xa2\x73signing_certificate");
            section.extend(item(certificate));
            section.extend(b"\x69signature");
            section.extend(item(sign1));
        }
        section
    };
    let sign1 = &parsed.sign1[..];
    let flipped = |at: usize| {
        let mut bytes = sign1.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let c = pem("c.pem");
    let not_der = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let tagged = [b"\xd2", sign1].concat();
    let cases: [(&str, Vec<u8>, bool, &[&str]); 10] = [
        ("byte strings", cbor(&[(&c, sign1)]), true, &[]),
        ("a tag", cbor(&[(&c, &tagged)]), true, &[]),
        ("two", cbor(&[(&c, sign1), (b"", b"")]), true, &["W-signature-several"]),
        ("another's certificate", cbor(&[(&pem("other.pem"), sign1)]), false, &["E-signature-invalid"]),
        ("another curve", cbor(&[(&pem("small.pem"), sign1)]), false, &["E-signature-algorithm"]),
        ("another type of key", cbor(&[(&pem("rsa.pem"), sign1)]), false, &["E-signature-key"]),
        ("a changed signature", cbor(&[(&c, &flipped(sign1.len() - 1))]), false, &["E-signature-invalid"]),
        ("a changed payload", cbor(&[(&c, &flipped(sign1.len() - 120))]), false, &["E-signature-invalid"]),
        ("no COSE", cbor(&[(&c, b"\xa0")]), false, &["E-signature-cose"]),
        ("no X.509", cbor(&[(not_der, sign1)]), false, &["E-signature-certificate"]),
    ];
    for (what, section, valid, codes) in cases {
        env.write("a.eif", with_section(&section, 2));
        let (found, told) = verdict(&env, "a.eif");
        assert_eq!((found, &told["valid"]), (codes.iter().map(|c| (*c).to_owned()).collect(), &json!(valid)), "{what}");
    }
    env.write("a.eif", with_section(&good, 3));
    let (found, told) = verdict(&env, "a.eif");
    assert_eq!((&found[..], &told["valid"]), (&["E-signature-pcr0".to_owned()][..], &json!(false)));
    let table = env.eif(&["inspect", "a.eif"]).success();
    let pcr0 = env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]["PCR0"].as_str().unwrap().to_owned();
    for text in
        ["signature  NOT VALID, ES384 by O=eif,CN=c", &format!("the signature is over PCR0 {pcr0}, this file has")]
    {
        assert!(table.stdout().contains(text), "no {text:?} in {}", table.stdout());
    }
    // What is no signature section at all is a fault of the file.
    for bytes in [&b"\x80"[..], &good[..good.len() - 1], &[&good[..], b"\0"].concat()] {
        env.write("a.eif", with_section(bytes, 2));
        let (found, told) = verdict(&env, "a.eif");
        assert_eq!(
            (&found[..], told),
            (&["E-eif-signature".to_owned()][..], json!({"valid": false, "certificate": null}))
        );
        let _ = env.eif(&["pcr", "a.eif"]).refused("E-eif-signature");
    }
}

#[test]
fn a_difference_of_signatures_is_one_of_facts() {
    let env = world();
    pair(&env, "d", &on("P-384"));
    for name in ["c", "d"] {
        let _ = env.eif(&sign("app.eif", name, &["-o", &format!("{name}.eif")])).success();
    }
    let differences = |a: &str, b: &str| -> Vec<(String, String)> {
        let object = env.eif(&["diff", a, b, "--json"]).code(1).json();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        object["differences"].as_array().unwrap().iter().map(|d| (word(&d["part"]), word(&d["field"]))).collect()
    };
    let has = |found: &[(String, String)], part: &str, field: &str| found.iter().any(|(p, f)| p == part && f == field);
    let found = differences("c.eif", "d.eif");
    for field in ["sha256", "subject", "issuer", "serial"] {
        assert!(has(&found, "certificate", field), "{field}: {found:?}");
    }
    assert!(has(&found, "signature", "sha384") && !has(&found, "certificate", "algorithm"), "{found:?}");
    assert!(has(&found, "PCR8", "value") && !has(&found, "PCR0", "value") && !has(&found, "signature", "valid"));
    let found = differences("app.eif", "c.eif");
    assert!(has(&found, "signature", "valid") && has(&found, "section", "order"), "{found:?}");
    assert!(
        found.iter().all(|(part, _)| ["PCR8", "section", "signature", "certificate"].contains(&part.as_str())),
        "{found:?}"
    );
}

proptest! {
    /// Whatever stands in a section, reading it ends; what differs from a good one in its signature is not valid.
    #[test]
    fn prop_sections_of_any_bytes_are_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let pcr0 = Pcr([7; 48]);
        let whole = good_section(&pcr0);
        prop_assert!(signature::verify(&whole, &pcr0).unwrap().valid());
        let mut bytes = whole.clone();
        for (at, value) in changes {
            bytes[at.index(whole.len())] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(whole.len()));
        }
        let _ = signature::pcr8(&bytes);
        if let Ok(verdict) = signature::verify(&bytes, &pcr0) {
            let same = |bytes: &[u8]| signature::parse(bytes).map(|all| all[0].sign1.clone()).ok();
            // Unprotected headers, of which there are none, would be the only freedom.
            prop_assert!(!verdict.valid() || same(&bytes) == same(&whole));
        }
    }
}

/// A section over this PCR0; the key is made once.
fn good_section(pcr0: &Pcr) -> Vec<u8> {
    use eif::eif::signature::{LocalKey, Signer};
    static PAIR: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
    let (pem, key) = PAIR.get_or_init(|| {
        let env = TestEnv::new();
        pair(&env, "c", &on("P-256"));
        (fs::read(env.path("c.pem")).unwrap(), fs::read(env.path("c.key")).unwrap())
    });
    let certificate = Certificate::from_pem(pem).unwrap();
    let now = certificate.validity().0.unix_duration().as_secs();
    let key = LocalKey::from_pem(key).unwrap();
    Signer::new(certificate.to_sign(now).unwrap(), std::sync::Arc::new(key)).unwrap().section(pcr0).unwrap()
}
