//! `eif policy` writes the KMS policy that asks for an image, and `eif policy lint` finds what makes one useless.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Output, TestEnv};
use eif::attest::lint::lint;
use eif::attest::policy::{Action, Kind, Request, policy};
use eif::eif::measure::PCR2_OF_NOTHING;
use eif::eif::metadata::Facts;
use eif::eif::{Measurements, Metadata, Options, Pcr, Writer};
use eif_testdata::attestation::{Attestation, cbor, pem};
use proptest::prelude::*;
use serde_json::{Value, json};

const ROLE: &str = "arn:aws:iam::123456789012:role/Webserver";
const ROOT: &str = "arn:aws:iam::123456789012:root";

/// A small .eif. Signed, if it has to be, with a certificate and without a signature: PCR8 is of the first alone.
fn written(env: &TestEnv, name: &str, ramdisks: &[&str], certificate: Option<&[u8]>) -> Measurements {
    let file = std::fs::File::create(env.path(name)).unwrap();
    let mut writer = Writer::new(file, Options { arch: eif::Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &b"kernel"[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    for ramdisk in ramdisks {
        writer.ramdisk().unwrap().write_all(ramdisk.as_bytes()).unwrap();
    }
    if let Some(der) = certificate {
        let pem = cbor::bytes(pem(der).as_bytes());
        let fields = [(cbor::text("signing_certificate"), pem), (cbor::text("signature"), cbor::bytes(&[]))];
        writer.signature(&cbor::array(&[cbor::map(&fields)]), Pcr::of_certificate(der)).unwrap();
    }
    writer.finish().unwrap().1.measurements
}

fn attested(condition: Value) -> Value {
    json!({"Sid": "Enclave", "Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": ["kms:Decrypt"],
        "Resource": "*", "Condition": condition})
}

fn equals(values: Value) -> Value {
    json!({ "StringEqualsIgnoreCase": values })
}

fn key(index: u8) -> String {
    format!("kms:RecipientAttestation:PCR{index}")
}

fn value(byte: u8) -> String {
    hex::encode([byte; 48])
}

fn image(byte: u8) -> Value {
    json!({ key(0): value(byte) })
}

/// Code and place of each finding.
fn findings(policy: &Value) -> Vec<(String, String)> {
    let found = lint(policy.to_string().as_bytes(), &[]).unwrap();
    found.iter().map(|finding| (finding.code.to_owned(), finding.place())).collect()
}

fn codes(policy: &Value) -> Vec<String> {
    findings(policy).into_iter().map(|(code, _)| code).collect()
}

/// The codes for one statement with this condition.
fn condition(condition: Value) -> Vec<String> {
    codes(&attested(condition))
}

#[test]
fn a_file_gives_a_statement() {
    let env = TestEnv::new();
    let Measurements { pcr0, pcr1, pcr2, .. } = written(&env, "app.eif", &["boot", "application"], None);
    let output = env.eif(&["policy", "app.eif", "--principal", ROLE]).success();
    let expected = format!(
        r#"{{
  "Version": "2012-10-17",
  "Statement": [
    {{
      "Sid": "EnclaveImage1",
      "Effect": "Allow",
      "Principal": {{
        "AWS": "{ROLE}"
      }},
      "Action": [
        "kms:Decrypt",
        "kms:GenerateDataKey"
      ],
      "Resource": "*",
      "Condition": {{
        "StringEqualsIgnoreCase": {{
          "kms:RecipientAttestation:PCR0": "{pcr0}",
          "kms:RecipientAttestation:PCR1": "{pcr1}",
          "kms:RecipientAttestation:PCR2": "{pcr2}"
        }}
      }}
    }}
  ]
}}
"#
    );
    assert_eq!(output.stdout(), expected);
    assert_eq!(output.stderr(), "");
}

#[test]
fn terraform_is_a_data_source() {
    let env = TestEnv::new();
    let Measurements { pcr0, .. } = written(&env, "app.eif", &["boot", "application"], None);
    let terraform = ["policy", "app.eif", "--use", "image", "--role-arn", ROLE, "--format", "terraform"];
    let pcr3 = Pcr::of_role(ROLE);
    let expected = format!(
        r#"data "aws_iam_policy_document" "enclave" {{
  statement {{
    sid       = "EnclaveImage1"
    effect    = "Allow"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = ["*"]

    principals {{
      type        = "AWS"
      identifiers = ["{ROLE}"]
    }}

    condition {{
      test     = "StringEqualsIgnoreCase"
      variable = "kms:RecipientAttestation:ImageSha384"
      values   = ["{pcr0}"]
    }}

    condition {{
      test     = "StringEqualsIgnoreCase"
      variable = "kms:RecipientAttestation:PCR3"
      values   = ["{pcr3}"]
    }}
  }}
}}
"#
    );
    assert_eq!(env.eif(&terraform).success().stdout(), expected);
    let odd = "arn:aws:iam::123456789012:role/${x}\"";
    let output = env.eif(&["policy", "app.eif", "--principal", odd, "--format", "terraform"]).success();
    assert!(output.stdout().contains(r#"["arn:aws:iam::123456789012:role/$${x}\""]"#), "{output:#?}");
}

#[test]
fn several_files_are_several_statements() {
    let env = TestEnv::new();
    let old = written(&env, "old.eif", &["boot", "old"], None);
    let new = written(&env, "new.eif", &["boot", "new"], None);
    let output = env.eif(&["policy", "old.eif", "new.eif", "old.eif", "--principal", ROLE]).success();
    let output = output.says("warning[W-policy-same]: old.eif measures to the same as a file before it");
    let statements = output.json()["Statement"].as_array().unwrap().clone();
    let asked = |index: usize, pcr: u8| &statements[index]["Condition"]["StringEqualsIgnoreCase"][key(pcr)];
    let sids: Vec<_> = statements.iter().map(|statement| statement["Sid"].as_str().unwrap()).collect();
    assert_eq!(sids, ["EnclaveImage1", "EnclaveImage2"]);
    assert_eq!((asked(0, 0), asked(1, 0)), (&json!(old.pcr0), &json!(new.pcr0)));
    assert_eq!((asked(0, 2), asked(1, 2)), (&json!(old.pcr2), &json!(new.pcr2)));
    env.write("policy.json", output.stdout());
    let lint = env.eif(&["policy", "lint", "policy.json", "--eif", "old.eif", "--eif", "new.eif"]).success();
    assert_eq!(lint.stdout(), "no findings\n");
}

#[test]
fn registers_are_chosen_and_given() {
    let env = TestEnv::new();
    written(&env, "app.eif", &["boot", "application"], None);
    let keys = |further: &[&str]| -> Vec<String> {
        let object = env.eif(&[&["policy", "--principal", ROLE][..], further].concat()).success().json();
        let asked = object["Statement"][0]["Condition"]["StringEqualsIgnoreCase"].as_object().unwrap();
        asked.keys().map(|key| key.replace("kms:RecipientAttestation:", "")).collect()
    };
    let eight = format!("8={}", value(8));
    assert_eq!(keys(&["--pcr", &eight, "--pcr", &format!("0={}", value(1).to_uppercase())]), ["PCR0", "PCR8"]);
    assert_eq!(keys(&["app.eif", "--use", "pcr0,IMAGE", "--pcr", &eight]), ["ImageSha384", "PCR0", "PCR8"]);
    assert_eq!(keys(&["app.eif", "--instance-id", "i-1234567890abcdef0", "--role-arn", ROLE]), {
        ["PCR0", "PCR1", "PCR2", "PCR3", "PCR4"]
    });
    let refused = |further: &[&str], code: &str| env.eif(&[&["policy"][..], further].concat()).refused(code);
    let _ = refused(&["app.eif", "--use", "pcr8"], "E-policy-missing").says("only a signed image has PCR8");
    let _ = refused(&["app.eif", "--use", "pcr3"], "E-policy-missing").says("--role-arn");
    let _ = refused(&["app.eif", "--pcr", &format!("0={}", value(1))], "E-policy-pcr");
    let _ = refused(&["--pcr", &format!("0={}", value(0))], "E-policy-debug").says("debug mode");
    for (bad, words) in [("32=00", "there is no PCR32"), ("0=00", "96 hexadecimal digits"), ("0", "N=HEX")] {
        let _ = env.eif(&["policy", "--pcr", bad]).code(2).says(words);
    }
    let _ = env.eif(&["policy", "--pcr", &format!("0={}", "x".repeat(96))]).code(2).says("96 hexadecimal digits");
    let _ = env.eif(&["policy", "app.eif", "--use", "pcr32"]).code(2);
    let _ = env.eif(&["policy"]).code(2).says("nothing to ask for");
    let _ = env.eif(&["policy", "app.eif", "--principal", "*"]).code(2).says("without wildcards");
}

#[test]
fn an_identity_policy_names_the_key() {
    let env = TestEnv::new();
    written(&env, "app.eif", &["boot", "application"], None);
    let arn = "arn:aws:kms:eu-west-1:123456789012:key/1234";
    let actions = ["--action", "decrypt,generate-random,derive-shared-secret,generate-data-key-pair"];
    let output = env.eif(&[&["policy", "app.eif", "--iam", "--resource", arn][..], &actions].concat()).success();
    let object = output.json();
    assert_eq!(
        object["Statement"][0]["Action"],
        json!(["kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKeyPair"])
    );
    assert_eq!(object["Statement"][0]["Resource"], arn);
    assert_eq!(object["Statement"][1]["Action"], json!(["kms:GenerateRandom"]));
    assert_eq!(object["Statement"][1]["Resource"], "*");
    assert!(object["Statement"][0].get("Principal").is_none());
    let random = ["policy", "app.eif", "--action", "generate-random"];
    let _ = env.eif(&random).refused("E-policy-action").says("IAM policies only").says("--iam");
    let _ = env.eif(&["policy", "app.eif", "--resource", arn]).code(2);
    let _ = env.eif(&["policy", "app.eif", "--iam", "--principal", ROLE]).code(2);
}

/// The signer is asked for too, or alone, which is what images that come and go need.
#[test]
fn a_signed_file_has_one_register_more() {
    let env = TestEnv::new();
    let certificate = Attestation::new().chain().remove(0);
    let Measurements { pcr8, .. } = written(&env, "signed.eif", &["boot", "application"], Some(&certificate));
    let asked = |further: &[&str]| {
        let output = env.eif(&[&["policy", "signed.eif"][..], further].concat()).success();
        output.json()["Statement"][0]["Condition"]["StringEqualsIgnoreCase"].clone()
    };
    assert_eq!((asked(&[]).as_object().unwrap().len(), &asked(&[])[key(8)]), (4, &json!(pcr8)));
    assert_eq!(asked(&["--use", "pcr8"]), json!({ key(8): pcr8 }));
    let policy = json!([attested(equals(json!({ key(8): pcr8 })))]);
    let _ = lint_of(&env, &policy, &["--eif", "signed.eif"]).success();
    written(&env, "other.eif", &["boot", "application"], Some(&Attestation::new().chain()[1]));
    let output = lint_of(&env, &policy, &["--eif", "other.eif"]).code(1);
    assert!(output.stdout().contains("E-policy-image"), "{output:#?}");
}

/// What a policy is weak in is said while it is written, on stderr.
#[test]
fn a_weak_policy_is_written_with_a_word() {
    let env = TestEnv::new();
    let measurements = written(&env, "one.eif", &["boot"], None);
    assert_eq!(measurements.pcr2.to_string(), PCR2_OF_NOTHING);
    let output = env.eif(&["policy", "one.eif"]).success();
    let output = output.says("warning[W-policy-pcr2]: EnclaveImage1: ").says("single ramdisk");
    let _ = output.says("warning[W-policy-principal]: it names no principal, which KMS demands of a key policy");
    let _ = env
        .eif(&["policy", "--instance-id", "i-1234567890abcdef0"])
        .success()
        .says("warning[E-policy-weak]: EnclaveImage1: ");
}

#[test]
fn a_broken_file_gives_no_policy() {
    let env = TestEnv::new();
    written(&env, "app.eif", &["boot", "application"], None);
    let mut bytes = std::fs::read(env.path("app.eif")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    env.write("changed.eif", &bytes);
    env.write("cut.eif", &bytes[..bytes.len() - 1]);
    let _ = env.eif(&["policy", "changed.eif"]).refused("E-eif-crc").says("changed.eif");
    let _ = env.eif(&["policy", "cut.eif"]).refused("E-eif-bounds");
    let _ = env.eif(&["policy", "none.eif"]).refused("E-io");
}

#[test]
fn operators_must_bind() {
    let none: [&str; 0] = [];
    assert_eq!(condition(json!({"StringEqualsIgnoreCase": image(1)})), none);
    assert_eq!(condition(json!({"StringEquals": image(1)})), none);
    assert_eq!(condition(json!({"StringLike": image(1)})), none);
    for operator in [
        "StringEqualsIfExists",
        "StringEqualsIgnoreCaseIfExists",
        "ForAllValues:StringEquals",
        "StringNotEquals",
        "StringNotEqualsIgnoreCase",
        "StringNotLike",
        "ArnEquals",
        "Bool",
        "stringequals",
    ] {
        let found = condition(json!({ operator: image(1) }));
        assert_eq!(found[0], "E-policy-operator", "{operator}");
    }
    assert_eq!(condition(json!({"StringLike": {key(0): "ab*"}}))[0], "E-policy-operator");
    assert_eq!(condition(json!({"ForAnyValue:StringEquals": image(1)})), ["W-policy-operator"]);
    assert_eq!(condition(json!({"Null": {key(0): "false"}})), ["E-policy-weak"]);
    assert_eq!(condition(json!({"Null": {key(0): "true"}}))[0], "E-policy-operator");
    assert_eq!(condition(json!({"Null": {key(0): false}, "StringEquals": image(1)})), none);
}

#[test]
fn keys_must_be_kms() {
    for (key, code) in [
        ("kms:RecipientAttestation", "E-policy-key"),
        ("kms:RecipientAttestation:PCR", "E-policy-key"),
        ("kms:RecipientAttestation:PCR32", "E-policy-key"),
        ("kms:RecipientAttestation:PCR01", "E-policy-key"),
        ("kms:RecipientAttestation:ImageSha256", "E-policy-key"),
        ("kms:RecipientAttestaton:PCR0", "E-policy-key"),
        ("RecipientAttestation:PCR0", "E-policy-key"),
        ("kms:RecipientAttestation:NitroTPMPCR4", "E-policy-nitrotpm"),
    ] {
        assert_eq!(condition(equals(json!({ key: value(1) }))), [code], "{key}");
    }
    assert!(condition(equals(json!({"KMS:recipientattestation:IMAGESHA384": value(1)}))).is_empty());
    assert!(condition(json!({"StringEquals": {"kms:ViaService": "s3", key(0): value(1)}})).is_empty());
}

#[test]
fn values_must_be_what_kms_compares() {
    let one = |value: Value| condition(equals(json!({ key(0): value })));
    assert_eq!(one(json!(value(0))), ["E-policy-debug"]);
    assert_eq!(one(json!("ab".repeat(32))), ["E-policy-value"]);
    assert_eq!(one(json!(format!("sha384:{}", value(1)))), ["E-policy-value"]);
    assert_eq!(one(json!("x".repeat(96))), ["E-policy-value"]);
    assert_eq!(one(json!([])), ["E-policy-value"]);
    assert_eq!(one(json!([value(1), value(0)])), ["E-policy-debug"]);
    assert!(one(json!(value(0xab).to_uppercase())).is_empty());
    assert_eq!(condition(json!({"StringEquals": {key(0): value(0xab).to_uppercase()}})), ["E-policy-case"]);
    let nothing = json!({key(0): value(1), key(2): PCR2_OF_NOTHING});
    assert_eq!(condition(equals(nothing)), ["W-policy-pcr2"]);
    let both = json!({key(0): value(1), "kms:RecipientAttestation:ImageSha384": value(2)});
    assert_eq!(condition(equals(both)), ["E-policy-contradiction"]);
    let again = json!({"StringEquals": image(1), "StringEqualsIgnoreCase": {key(0): [value(2), value(1)]}});
    assert!(condition(again).is_empty());
}

#[test]
fn registers_must_tell_images_apart() {
    let of = |indexes: &[u8]| {
        let values: serde_json::Map<_, _> = indexes.iter().map(|index| (key(*index), json!(value(1)))).collect();
        condition(equals(values.into()))
    };
    let none: [&str; 0] = [];
    for good in [&[0][..], &[1, 2], &[0, 1, 2, 3, 4, 8], &[3, 8]] {
        assert_eq!(of(good), none, "{good:?}");
    }
    assert_eq!(of(&[1]), ["W-policy-pcr1"]);
    assert_eq!(of(&[2]), ["W-policy-pcr2"]);
    assert_eq!(of(&[8]), ["W-policy-signer"]);
    assert_eq!([of(&[3]), of(&[4]), of(&[3, 4, 16])].concat(), ["E-policy-weak"; 3]);
    let lists = |one: u8, other: u8| json!({key(one): [value(1), value(2)], key(other): [value(3), value(4)]});
    assert_eq!(condition(equals(lists(1, 2))), ["E-policy-mixed"]);
    assert_eq!(condition(equals(lists(0, 2))), ["W-policy-mixed"]);
    assert!(condition(equals(json!({key(0): [value(1), value(2)], key(8): value(3)}))).is_empty());
}

#[test]
fn actions_must_look_at_a_document() {
    let with = |actions: Value| {
        let mut statement = attested(equals(image(1)));
        statement["Action"] = actions;
        codes(&statement)
    };
    assert!(with(json!("KMS:decrypt")).is_empty());
    let all: Vec<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    assert_eq!(with(json!(all)), ["W-policy-random"]);
    for action in ["kms:Encrypt", "kms:Sign", "kms:ReEncryptFrom", "kms:GenerateDataKeyWithoutPlaintext", "kms:Re*"] {
        assert_eq!(with(json!(["kms:Decrypt", action])), ["E-policy-action"], "{action}");
    }
    assert_eq!(with(json!("kms:GenerateDataKey*")), ["W-policy-wildcard"]);
    let mut identity = attested(equals(image(1)));
    identity.as_object_mut().unwrap().remove("Principal");
    identity["Action"] = json!(all);
    assert!(codes(&identity).is_empty());
    identity["NotAction"] = identity.as_object_mut().unwrap().remove("Action").unwrap();
    assert_eq!(codes(&identity)[0], "W-policy-wildcard");
}

fn beside(other: Value) -> Vec<(String, String)> {
    findings(&json!({"Version": "2012-10-17", "Statement": [attested(equals(image(1))), other]}))
}

#[test]
fn no_other_statement_may_open_the_door() {
    let other = |principal: Value, action: Value| {
        beside(json!({"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*"}))
    };
    let bad = [("E-policy-unconditional".to_owned(), "Statement[1]".to_owned())];
    for action in [json!("kms:Decrypt"), json!(["kms:DescribeKey", "kms:D*"])] {
        assert_eq!(other(json!({"AWS": ROLE}), action), bad);
    }
    assert_eq!(other(json!({"AWS": [ROOT, ROLE]}), json!("kms:Decrypt")), bad);
    assert_eq!(other(json!({"AWS": ROOT}), json!("kms:Decrypt")), bad);
    assert_eq!(other(json!("*"), json!("kms:Decrypt")), bad);
    for action in ["*", "kms:*"] {
        assert_eq!(other(json!({"AWS": ROLE}), json!(action))[0], bad[0], "{action}");
        let note = [("W-policy-account".to_owned(), "Statement[1]".to_owned())];
        assert_eq!(other(json!({"AWS": ROOT}), json!(action)), note, "{action}");
        assert_eq!(other(json!({"AWS": "123456789012"}), json!(action)), note, "{action}");
    }
    let not = |actions: Value| {
        let statement = json!({"Effect": "Allow", "Principal": {"AWS": ROLE}, "NotAction": actions, "Resource": "*"});
        beside(statement).into_iter().map(|(code, _)| code).collect::<Vec<_>>()
    };
    assert_eq!(not(json!("kms:Encrypt"))[0], "E-policy-unconditional");
    assert_eq!(not(json!(["kms:Decrypt", "kms:ReEncrypt*"])), ["W-policy-unasked", "W-policy-administrator"]);
    let via = json!({"Sid": "Via", "Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*",
        "Condition": {"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}});
    assert_eq!(beside(via), [("E-policy-unconditional".to_owned(), "Via".to_owned())]);
    let code =
        |action: Value| other(json!({"AWS": ROLE}), action).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    assert_eq!(code(json!(["kms:PutKeyPolicy", "kms:Create*"])), ["W-policy-administrator"]);
    assert_eq!(code(json!(["kms:Encrypt", "kms:ReEncrypt*"])), ["E-policy-reencrypt"]);
    assert_eq!(code(json!(["kms:Encrypt", "kms:GenerateDataKey", "s3:*"])), ["W-policy-unasked"]);
    assert!(code(json!(["kms:Encrypt", "s3:*"])).is_empty());
}

#[test]
fn everybody_is_too_many() {
    let mut statement = attested(equals(image(1)));
    for principal in [json!("*"), json!({"AWS": "*"}), json!({"AWS": [ROLE, "*"]})] {
        statement["Principal"] = principal;
        assert_eq!(codes(&statement), ["E-policy-anyone"]);
    }
    statement["Condition"]["StringEquals"] = json!({"aws:PrincipalOrgID": "o-1"});
    assert!(codes(&statement).is_empty());
}

#[test]
fn nothing_asked_is_nothing_protected() {
    let allow = |action: &str, principal: &str| {
        findings(&json!({"Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, "Resource": "*"}))
    };
    let found = |code: &str, place: &str| (code.to_owned(), place.to_owned());
    let nothing = found("E-policy-nothing", "policy");
    assert_eq!(allow("kms:Decrypt", ROLE), [found("E-policy-unconditional", "Statement[0]"), nothing.clone()]);
    assert_eq!(allow("kms:*", ROOT), [found("E-policy-unconditional", "Statement[0]"), nothing.clone()]);
    assert_eq!(allow("kms:DescribeKey", ROLE), [nothing]);
}

/// An unconditional Allow behind a Deny of everything but the image.
#[test]
fn a_deny_can_protect() {
    let allow =
        json!({"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*"});
    let with = |deny: Value| codes(&json!([allow.clone(), deny]));
    let deny = |condition: Value| json!({"Sid": "Others", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": condition});
    let none: [&str; 0] = [];
    for operator in ["StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotEqualsIgnoreCaseIfExists"] {
        assert_eq!(with(deny(json!({ operator: image(1) }))), none, "{operator}");
    }
    assert_eq!(with(deny(json!({"StringNotEquals": {key(0): [value(1), value(2)]}}))), none);
    assert_eq!(with(deny(json!({"StringNotEquals": image(0)}))), ["E-policy-debug"]);
    assert_eq!(with(deny(json!({"StringNotEquals": {key(0): value(0xab).to_uppercase()}}))), ["E-policy-case"]);
    let two = json!({"StringNotEquals": {key(0): value(1), key(8): value(2)}});
    assert_eq!(with(deny(two)), ["E-policy-deny"]);
    assert!(with(deny(json!({"ForAnyValue:StringNotEquals": image(1)}))).contains(&"E-policy-operator".to_owned()));
    let mut all = deny(json!({"StringNotEquals": image(1)}));
    all["Action"] = json!("kms:*");
    assert_eq!(with(all), ["E-policy-lockout"]);
    let partly = json!({"StringNotEquals": image(1), "ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/x"}});
    assert_eq!(with(deny(partly)), ["E-policy-unconditional"]);
    let mut narrow = deny(json!({"StringNotEquals": image(1)}));
    narrow["Principal"] = json!({"AWS": "arn:aws:iam::123456789012:role/another"});
    assert_eq!(with(narrow.clone()), ["E-policy-unconditional"]);
    narrow["Principal"] = json!({"AWS": [ROLE, "arn:aws:iam::123456789012:role/another"]});
    assert_eq!(with(narrow), none);
    let revoked =
        json!([attested(equals(json!({key(0): [value(1), value(2)]}))), deny(json!({"StringEquals": image(2)}))]);
    assert_eq!(codes(&revoked), none);
}

const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/1";
const OTHER_KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/2";

/// An unconditional Allow, and a Deny of all that has not the image, with these elements in their places.
fn guarded(allow: Value, deny: Value) -> Vec<String> {
    let with = |mut statement: Value, further: Value| {
        statement.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        statement
    };
    let use_it = json!({"Effect": "Allow", "Action": "kms:Decrypt", "Principal": {"AWS": ROLE}, "Resource": "*"});
    let others = json!({"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*",
        "Condition": {"StringNotEquals": image(1)}});
    codes(&json!([with(use_it, allow), with(others, deny)]))
}

#[test]
fn a_deny_protects_whom_and_what_it_is_about() {
    let (none, open): (Vec<&str>, _) = (vec![], ["E-policy-unconditional"]);
    let everybody = || json!({"Principal": "*"});
    assert_eq!(guarded(json!({}), everybody()), none);
    assert_eq!(guarded(json!({}), json!({"NotPrincipal": {"AWS": ROLE}})), open);
    assert_eq!(guarded(json!({}), json!({"NotPrincipal": {"AWS": ROOT}})), none);
    assert_eq!(guarded(json!({}), json!({"Principal": "*", "Resource": OTHER_KEY})), open);
    assert_eq!(guarded(json!({"Resource": KEY}), json!({"Principal": "*", "Resource": [KEY, OTHER_KEY]})), none);
    assert_eq!(guarded(json!({"Resource": KEY}), json!({"Principal": "*", "Resource": "arn:aws:kms:*:key/*"})), none);
}

#[test]
fn other_keys_are_no_concern() {
    let identity = |resource: &str, further: Value| {
        let mut statement = attested(equals(image(1)));
        statement.as_object_mut().unwrap().remove("Principal");
        statement["Resource"] = json!(resource);
        codes(&json!([statement, further]))
    };
    let allow = |resource: &str| json!({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": resource});
    let none: [&str; 0] = [];
    assert_eq!(identity(KEY, allow(OTHER_KEY)), none);
    assert_eq!(identity(KEY, allow(KEY)), ["E-policy-unconditional"]);
    assert_eq!(identity(KEY, allow("arn:aws:kms:*")), ["E-policy-unconditional"]);
    assert_eq!(identity("*", allow(OTHER_KEY)), ["E-policy-unconditional"]);
}

#[test]
fn what_lets_nobody_through_is_found() {
    let env = TestEnv::new();
    let measured = written(&env, "app.eif", &["boot", "application"], None);
    let condition = |operator: &str| json!({operator: {key(0): measured.pcr0}});
    let lint = |policy: &Value| {
        let output = lint_of(&env, policy, &["--eif", "app.eif", "--json"]);
        let findings = output.json()["findings"].take();
        findings.as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let deny = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
        "Condition": condition("StringNotEquals")});
    assert_eq!(lint(&json!([deny])), ["E-policy-nobody"]);
    let mut identity = deny.clone();
    identity.as_object_mut().unwrap().remove("Principal");
    assert_eq!(lint(&json!([identity])), ["W-policy-nobody"]);
    let (right, shut) = (
        attested(condition("StringEquals")),
        json!({"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*"}),
    );
    assert!(lint(&json!([right])).is_empty());
    assert_eq!(lint(&json!([right, shut])), ["E-policy-denied", "E-policy-unmatched"]);
    assert!(lint(&json!([right, deny])).is_empty());
    let other = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
        "Condition": {"StringNotEquals": image(1)}});
    assert!(lint(&json!([right, other])).contains(&"E-policy-unmatched".to_owned()));
}

#[test]
fn what_aws_would_refuse_is_found() {
    let with = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut statement = attested(equals(image(1)));
        change(statement.as_object_mut().unwrap());
        codes(&statement)
    };
    assert_eq!(with(&|it| drop(it.remove("Resource"))), ["E-policy-resource"]);
    let nothing = with(&|it| {
        it.remove("Resource");
        it.insert("NotResource".to_owned(), json!("*"));
    });
    assert_eq!(nothing, ["E-policy-resource"]);
    let mut nobody = attested(equals(image(1)));
    nobody.as_object_mut().unwrap().remove("Principal");
    assert_eq!(codes(&json!([attested(equals(image(1))), nobody])), ["E-policy-principal"]);
    // Names in an encryption context are the user's own.
    let context = json!({"StringEquals": {key(0): value(1), "kms:EncryptionContext:attested-by": "me"}});
    assert!(condition(context).is_empty());
}

fn lint_of(env: &TestEnv, policy: &Value, further: &[&str]) -> Output {
    env.write("policy.json", serde_json::to_string_pretty(policy).unwrap());
    env.eif(&[&["policy", "lint", "policy.json"][..], further].concat())
}

#[test]
fn values_are_held_against_files() {
    let env = TestEnv::new();
    let Measurements { pcr0, pcr1, .. } = written(&env, "app.eif", &["boot", "application"], None);
    let other = written(&env, "other.eif", &["other", "application"], None);
    let policy = |values: Value| json!({"Statement": [attested(equals(values))]});
    let both = ["--eif", "app.eif", "--eif", "other.eif"];
    let _ = lint_of(&env, &policy(json!({key(0): pcr0, key(1): pcr1})), &both[..2]).success();
    let unmatched = policy(json!({ key(0): pcr0 }));
    let output = lint_of(&env, &unmatched, &both).code(1);
    let colourful = lint_of(&env, &unmatched, &[&both[..], &["--color", "always"]].concat()).code(1);
    assert_eq!(colourful.stdout(), output.stdout());
    assert!(output.stdout().contains("error[E-policy-unmatched]: policy: no statement takes other.eif"), "{output:#?}");
    let output = lint_of(&env, &policy(json!({key(0): pcr0, key(1): other.pcr1})), &both).code(1);
    assert!(output.stdout().contains("error[E-policy-mixed]: Enclave: "), "{output:#?}");
    let output = lint_of(&env, &policy(image(1)), &both[..2]).code(1);
    assert!(output.stdout().contains("error[E-policy-image]: Enclave: kms:RecipientAttestation:PCR0: no given file"));
    let output = output.says("error[E-policy]: policy.json: does not protect what it should: Enclave, policy\n");
    assert_eq!(output.stderr().lines().count(), 1);
    let _ = lint_of(&env, &policy(json!({key(0): pcr0, key(3): value(1)})), &both[..2]).success();
    let _ = lint_of(&env, &policy(json!({key(0): pcr0, key(8): value(1)})), &both[..2]).code(1);
}

#[test]
fn findings_are_lines_or_json() {
    let env = TestEnv::new();
    let root =
        json!({"Sid": "Root", "Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"});
    let good = json!({"Version": "2012-10-17", "Id": "key-policy", "Statement": [root, attested(equals(image(1)))]});
    let output = lint_of(&env, &good, &[]).success();
    assert!(output.stdout().starts_with("note[W-policy-account]: Root: the account's administrators"), "{output:#?}");
    let wrapped = json!({"Policy": good.to_string(), "PolicyName": "default"});
    let object = lint_of(&env, &wrapped, &["--json"]).success().json();
    let finding = &object["findings"][0];
    assert_eq!((&finding["code"], &finding["level"]), (&json!("W-policy-account"), &json!("note")));
    assert_eq!((&finding["statement"], &finding["sid"]), (&json!(0), &json!("Root")));
    let bad =
        json!([attested(equals(image(0))), {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]);
    let output = lint_of(&env, &bad, &["--json"]).code(1);
    assert!(output.json()["findings"].as_array().unwrap().len() >= 3);
    let _ = output.says("Enclave, Statement[1]\n").says("{\"error\":{\"code\":\"E-policy\"");
}

#[test]
fn what_is_no_policy_is_refused() {
    let env = TestEnv::new();
    for (text, code) in [
        ("", "E-policy-json"),
        ("{\"Effect\": \"Allow\", \"Effect\": \"Deny\"}", "E-policy-json"),
        ("{\"Policy\": \"{\"}", "E-policy-json"),
        ("{}", "E-policy-shape"),
        ("{\"Statement\": [7]}", "E-policy-shape"),
        ("{\"Effect\": \"Allow\", \"Action\": \"*\", \"condition\": {}}", "E-policy-shape"),
        ("{\"Effect\": \"Allow\", \"Action\": \"*\", \"Condition\": []}", "E-policy-shape"),
        ("{\"Effect\": \"Allow\", \"Action\": {}}", "E-policy-shape"),
    ] {
        env.write("policy.json", text);
        let _ = env.eif(&["policy", "lint", "policy.json"]).refused(code).says("policy.json: ");
    }
    env.write("policy.json", "{\"Statement\": {\"Effect\": \"Allow\",\n \"Condition\": {}, \"Condition\": {}}}");
    let _ = env
        .eif(&["policy", "lint", "policy.json"])
        .refused("E-policy-json")
        .says("the key \"Condition\" is there twice");
    env.write("policy.json", " ".repeat(2 << 20));
    let _ = env.eif(&["policy", "lint", "policy.json"]).refused("E-policy-size");
    let mut child = env.command(&["policy", "lint", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(attested(equals(image(1))).to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

proptest! {
    /// What is written is found good, whatever is asked for, and takes the images that it was written for.
    #[test]
    fn prop_a_written_policy_is_a_good_one(images in proptest::collection::vec((1u8..9, 9u8..17, 17u8..25), 1..4), pcr3: bool) {
        let measured = |(a, b, c): &(u8, u8, u8)| {
            Measurements { pcr0: Pcr([*a; 48]), pcr1: Pcr([*b; 48]), pcr2: Pcr([*c; 48]), pcr8: None }
        };
        let images: Vec<_> = images.iter().map(measured).collect();
        let further = if pcr3 { vec![(3, Pcr::of_role(ROLE))] } else { Vec::new() };
        let named = images.iter().map(|m| eif::attest::lint::Image { name: m.pcr0.to_string(), measurements: *m });
        let named: Vec<_> = named.collect();
        let actions = vec![Action::Decrypt, Action::GenerateDataKey];
        let request = Request { images, registers: None, further, actions, kind: Kind::Key(vec![ROLE.to_owned()]) };
        let findings = lint(policy(&request).unwrap().to_json().as_bytes(), &named).unwrap();
        prop_assert!(findings.is_empty(), "{:?}", findings);
    }

    #[test]
    fn prop_any_text_is_linted_without_a_panic(text in r#"[\[\]{}":,a-zA-Z*]{0,60}"#) {
        let _ = lint(text.as_bytes(), &[]);
    }
}
