//! Keys in KMS, with moto's server in AWS's place. `cargo test --features kms --test kms`; the program `moto_server` is
//! the one of $MOTO_SERVER, or the one in PATH (`pip install 'moto[server]'`).

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::TestEnv;
use eif::Arch;
use eif::eif::metadata::Facts;
use eif::eif::{Metadata, Options, Writer};
use serde_json::{Value, json};

/// Keeps moto until it is dropped.
struct Moto {
    server: Child,
    address: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Moto {
    /// Starts it at a port that is free, and waits until it says which.
    #[expect(clippy::disallowed_methods, reason = "where moto is installed is a fact of the machine")]
    fn start() -> Self {
        let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| "moto_server".to_owned());
        let mut server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto_server runs: pip install 'moto[server]', and name it in MOTO_SERVER if it is not in PATH");
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("moto_server says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("Running on http://") {
                break address.trim().to_owned();
            }
        };
        // It writes a line for each request.
        std::thread::spawn(move || lines.for_each(drop));
        Self { server, address }
    }

    /// One call of KMS's protocol; moto asks for no signature.
    fn call(&self, action: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let credential = "Credential=test/20260101/eu-west-1/kms/aws4_request, SignedHeaders=host, Signature=0";
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: kms.eu-west-1.amazonaws.com\r\nConnection: close\r\n\
             Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: TrentService.{action}\r\n\
             Authorization: AWS4-HMAC-SHA256 {credential}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    /// The ARN of a new key.
    fn key(&self, spec: &str) -> String {
        let made = self.call("CreateKey", &json!({"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"}));
        made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// An environment that asks moto, with a file `app.eif`.
    fn world(&self) -> TestEnv {
        let env = TestEnv::new()
            .variable("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .variable("AWS_ACCESS_KEY_ID", "test")
            .variable("AWS_SECRET_ACCESS_KEY", "test");
        env.write("app.eif", made());
        env
    }

    /// `NAME.pem`, a certificate for the key, issued by an authority of the test's own.
    fn certificate(&self, env: &TestEnv, name: &str, arn: &str) {
        let key = self.call("GetPublicKey", &json!({"KeyId": arn}));
        let der = STANDARD.decode(key["PublicKey"].as_str().unwrap()).unwrap();
        env.write("public.der", der);
        openssl(env, "pkey -pubin -inform DER -in public.der -out public.pem");
        openssl(
            env,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -out ca.pem -keyout ca.key",
        );
        openssl(env, "req -new -key ca.key -subj /CN=kms -out request.pem");
        openssl(
            env,
            &format!(
                "x509 -req -in request.pem -force_pubkey public.pem -CA ca.pem -CAkey ca.key -set_serial 1 -days 2 -out {name}.pem"
            ),
        );
    }
}

fn openssl(env: &TestEnv, arguments: &str) {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let run = env.command_of("openssl", &arguments).output().expect("openssl runs: install the package `openssl`");
    assert!(run.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

fn made() -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &eif_testdata::fake_bzimage()[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    writer.metadata(&Metadata::new(Facts::default()).unwrap().to_bytes().unwrap()).unwrap();
    writer.ramdisk().unwrap().write_all(b"boot").unwrap();
    writer.ramdisk().unwrap().write_all(b"application!").unwrap();
    writer.finish().unwrap().0.into_inner()
}

#[test]
fn a_key_in_kms_signs_on_every_curve() {
    let moto = Moto::start();
    let env = moto.world();
    for (spec, algorithm) in [("ECC_NIST_P256", "ES256"), ("ECC_NIST_P384", "ES384"), ("ECC_NIST_P521", "ES512")] {
        let arn = moto.key(spec);
        moto.certificate(&env, "c", &arn);
        let sign = |file: &str| {
            env.eif(&["sign", "app.eif", "--signing-certificate", "c.pem", "--private-key", &arn, "-o", file])
        };
        let output = sign("a.eif").success();
        assert_eq!(output.json(), env.eif(&["pcr", "a.eif"]).success().json());
        let signature = env.eif(&["inspect", "a.eif", "--json"]).success().json()["signature"].take();
        assert_eq!((&signature["valid"], &signature["certificate"]["algorithm"]), (&json!(true), &json!(algorithm)));
        let again = sign("b.eif").success();
        assert_eq!(output.json(), again.json(), "the PCRs stay");
        assert_ne!(fs::read(env.path("a.eif")).unwrap(), fs::read(env.path("b.eif")).unwrap(), "KMS draws at random");
    }
}

#[test]
fn a_key_that_is_not_the_certificates_signs_nothing() {
    let moto = Moto::start();
    let env = moto.world();
    let (right, wrong, rsa) = (moto.key("ECC_NIST_P384"), moto.key("ECC_NIST_P384"), moto.key("RSA_2048"));
    moto.certificate(&env, "c", &right);
    let sign = |arn: &str| env.eif(&["sign", "app.eif", "--signing-certificate", "c.pem", "--private-key", arn]);
    let _ = sign(&wrong).refused("E-key-mismatch").says(&wrong);
    let _ = sign(&rsa).refused("E-key-type").says("RSA");
    let none = format!("{}/00000000-0000-0000-0000-000000000000", right.rsplit_once('/').unwrap().0);
    let _ = sign(&none).refused("E-key-holder").says("GetPublicKey: NotFoundException");
    assert_eq!(fs::read(env.path("app.eif")).unwrap(), made());
    assert!(sign("arn:aws:kms:eu-west-1:123456789012:alias/x").refused("E-key-arn").stderr().contains("key/ID"));
}

/// Nobody listens: the refusal names the call, and no credential is in it.
#[test]
fn a_service_that_is_away_is_told() {
    let moto = Moto::start();
    let env = moto.world().variable("AWS_SECRET_ACCESS_KEY", "not-to-be-told");
    moto.certificate(&env, "c", &moto.key("ECC_NIST_P256"));
    let env = env.variable("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let arn = "arn:aws:kms:eu-west-1:123456789012:key/1";
    let output = env.eif(&["sign", "app.eif", "--signing-certificate", "c.pem", "--private-key", arn]);
    let output = output.refused("E-key-holder").says("GetPublicKey: ");
    let _ = output.says_nothing_of("not-to-be-told");
}
