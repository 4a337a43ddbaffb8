//! Images from a real registry, put there by skopeo: the same bytes as from their layout, by every kind of door.

mod common;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::registry::{Demands, Fake, RealRegistry, certificates};
use common::{Output, TestEnv};
use eif_testdata::{Blob, Compression, Config, Image, OciLayout, fake_bzimage, layers};

fn image() -> Image {
    let program = format!("f 0755 0:0 app {}", "x".repeat(200_000));
    let layers = layers! { program.as_str(), "--", "f 0644 0:0 etc/motd hello", "--", "w etc/motd", "d 0700 1:1 srv/" };
    Image::new(layers).config(Config::new().cmd(&["/app"])).compress(Compression::Gzip)
}

/// A world with a kernel and the image as layout `image:latest`.
fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let _ = env.layout("image", &image());
    env
}

fn build(env: &TestEnv, reference: &str, further: &[&str]) -> Output {
    let words = ["build", reference, "--kernel", "kernel", "-o", "app.eif"];
    env.eif(&[&words[..], further].concat())
}

/// What `build` left, which is removed.
fn built(env: &TestEnv) -> Vec<u8> {
    let bytes = fs::read(env.path("app.eif")).unwrap();
    fs::remove_file(env.path("app.eif")).unwrap();
    bytes
}

/// Forgets all downloads.
fn empty_store(env: &TestEnv) {
    fs::remove_dir_all(env.work().join("../cache/eif")).unwrap();
}

fn digest() -> String {
    image().manifest_blob().digest()
}

#[test]
fn a_registrys_image_is_the_layouts_and_needs_the_network_once() {
    let env = world();
    let _ = build(&env, "oci:image:latest", &[]).success();
    let expected = built(&env);
    let registry = RealRegistry::start(&env, &Demands::default());
    registry.push(&env, "image:latest", "team/app:v1", &[]);
    let name = format!("{}/team/app", registry.host);
    let pin = format!("{name}@{}", digest());
    for reference in [format!("{name}:v1"), format!("docker://{name}:v1")] {
        let _ = build(&env, &reference, &[]).success().says(&pin);
        assert_eq!(built(&env), expected);
    }
    empty_store(&env);
    let _ = build(&env, &format!("{name}:v9@{}", digest()), &[])
        .success()
        .says("fetched   layer 1/3")
        .says_nothing_of(&pin);
    assert_eq!(built(&env), expected);
    let port = registry.host.rsplit(':').next().unwrap().to_owned();
    let _ = build(&env, &format!("localhost:{port}/team/app:v1"), &[]).success().says_nothing_of("fetched");
    assert_eq!(built(&env), expected);
    drop(registry);
    for further in [&[][..], &["--offline"]] {
        let _ = build(&env, &pin, further).success();
        assert_eq!(built(&env), expected);
    }
    let _ = build(&env, &format!("{name}:v1"), &["--offline"]).refused("E-offline").says("manifest `v1`");
    let _ = build(&env, &format!("{name}:v1"), &[]).refused("E-registry-connect").says(&name);
    assert_eq!(env.listing(&env.tmp()), [""; 0]);
}

#[test]
fn no_cache_leaves_nothing() {
    let env = world();
    let registry = RealRegistry::start(&env, &Demands::default());
    registry.push(&env, "image:latest", "app:v1", &[]);
    let _ = build(&env, &format!("{}/app:v1", registry.host), &["--no-cache"]).success();
    assert_eq!(env.listing(&env.tmp()), [""; 0]);
    assert_eq!(env.listing(&env.work().join("../cache")), [""; 0]);
}

#[test]
fn indexes_of_every_kind() {
    let env = world();
    let registry = RealRegistry::start(&env, &Demands::default());
    let config = Config::new().cmd(&["/app"]).platform("linux/arm64/v8");
    let images = [Image::new(layers! { "f 0755 0:0 app arm" }).config(config), image()];
    let empty = Blob { media_type: "application/vnd.in-toto+json".to_owned(), bytes: b"{}".to_vec() };
    OciLayout::new().index_with_attestation("v1", &images).with_blob(empty).files().write_dir(&env.path("index"));
    registry.push(&env, "index:v1", "oci:v1", &[]);
    OciLayout::new().index("v1", &images).files().write_dir(&env.path("list"));
    registry.push(&env, "list:v1", "docker:v1", &["--format", "v2s2"]);
    let _ = build(&env, "oci:image:latest", &[]).success();
    let expected = built(&env);
    for repository in ["oci:v1", "docker:v1"] {
        let reference = format!("{}/{repository}", registry.host);
        let _ = build(&env, &reference, &[]).success();
        assert_eq!(built(&env), expected, "{repository}");
    }
    let reference = format!("{}/oci:v1", registry.host);
    let wrong = env.eif(&["pcr", &reference, "--kernel", "kernel", "--platform", "linux/arm64"]).code(1);
    assert!(wrong.stderr().contains("kernel"), "the image is for arm64, the kernel is not: {wrong:?}");
    OciLayout::new().index("v1", &images[..1]).files().write_dir(&env.path("arm"));
    registry.push(&env, "arm:v1", "arm:v1", &[]);
    let reference = format!("{}/arm:v1", registry.host);
    let refused = build(&env, &reference, &[]).refused("E-no-platform");
    let _ = refused.says(&reference).says("linux/arm64/v8").says_nothing_of("unknown");
}

#[test]
fn a_user_and_a_password() {
    let env = world();
    let registry = RealRegistry::start(&env, &Demands { login: Some(("me", "pass:word")), ..Demands::default() });
    registry.push(&env, "image:latest", "team/app:v1", &["--dest-creds", "me:pass:word"]);
    let reference = format!("{}/team/app:v1", registry.host);
    let refused = build(&env, &reference, &[]).refused("E-registry-auth");
    let _ = refused.says(&reference[..reference.len() - 3]).says("HTTP 401").says("logins were looked for: ");
    let refused = build(&env, &reference, &["--creds", "me:wrongword"]).refused("E-registry-auth");
    let _ = refused.says("UNAUTHORIZED").says("--creds").says_nothing_of("wrongword");
    let _ = build(&env, &reference, &["--creds", "me:pass:word"]).success().says_nothing_of("pass:word");
    empty_store(&env);
    let login =
        ["login", "--tls-verify=false", "--authfile", "auth.json", "-u", "me", "-p", "pass:word", &registry.host];
    let output = env.command_of("skopeo", &login).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let _ = build(&env, &reference, &["--authfile", "auth.json"]).success();
}

#[test]
fn an_authority_of_ones_own() {
    let env = world();
    certificates(&env, "IP:127.0.0.1");
    let (certificate, key) = (env.path("server.pem"), env.path("server.key"));
    let registry = RealRegistry::start(&env, &Demands { tls: Some((&certificate, &key)), ..Demands::default() });
    registry.push(&env, "image:latest", "app:v1", &[]);
    let reference = format!("{}/app:v1", registry.host);
    let _ = build(&env, &reference, &[]).refused("E-registry-tls").says("UnknownIssuer").says("--tls-ca");
    let _ = build(&env, &reference, &["--tls-ca", "ca.pem"]).success();
    empty_store(&env);
    let _ = build(&env, &reference, &["--insecure"]).success();
    let localhost = reference.replace("127.0.0.1", "localhost");
    let _ = build(&env, &localhost, &["--tls-ca", "ca.pem"]).refused("E-registry-tls").says("not valid for name");
    let _ = build(&env, &reference, &["--tls-ca", "kernel"]).refused("E-registry-tls").says("--tls-ca kernel");
    let _ = build(&env, &reference, &["--tls-ca", "nowhere"]).refused("E-registry-tls").says("No such file");
}

#[test]
fn blobs_do_not_go_from_tls_to_plain_http() {
    let env = world();
    certificates(&env, "IP:127.0.0.1");
    let (certificate, key) = (env.path("server.pem"), env.path("server.key"));
    let storage = Fake::honest(&image());
    let to = format!("http://{}/storage", storage.host);
    let demands = Demands { tls: Some((&certificate, &key)), storage: Some(&to), ..Demands::default() };
    let registry = RealRegistry::start(&env, &demands);
    registry.push(&env, "image:latest", "app:v1", &[]);
    let reference = format!("{}/app:v1", registry.host);
    for further in [["--tls-ca", "ca.pem"], ["--insecure", "--no-cache"]] {
        let refused = build(&env, &reference, &further).refused("E-registry-status");
        let _ = refused.says("a redirect from https to http://127.0.0.1");
    }
    assert!(storage.seen().iter().all(|seen| seen.method == "HEAD"), "only skopeo was here");
}

/// A proxy on loopback that leads every connection to `to`, and the heads of what it was asked.
fn tunnel(to: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (to, seen) = (to.to_owned(), heads.clone());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            let lines = BufReader::new(client.try_clone().unwrap()).lines();
            let head: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            seen.lock().unwrap().push(head.join("\n"));
            client.write_all(b"HTTP/1.1 200 Established\r\n\r\n").unwrap();
            let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut from, &mut server));
            std::thread::spawn(move || io::copy(&mut back, &mut client));
        }
    });
    (host, heads)
}

#[test]
fn a_proxy_leads_to_a_registry_that_only_it_knows() {
    let env = world();
    certificates(&env, "DNS:registry.invalid");
    let (certificate, key) = (env.path("server.pem"), env.path("server.key"));
    let registry = RealRegistry::start(&env, &Demands { tls: Some((&certificate, &key)), ..Demands::default() });
    registry.push(&env, "image:latest", "app:v1", &[]);
    let _ = build(&env, "oci:image:latest", &[]).success();
    let expected = built(&env);
    let (proxy, heads) = tunnel(&registry.host);
    let env = env.variable("HTTPS_PROXY", format!("http://me:s3cret@{proxy}"));
    let words = ["--tls-ca", "ca.pem", "-vv"];
    let _ = build(&env, "registry.invalid:5000/app:v1", &words).success().says_nothing_of("s3cret");
    assert_eq!(built(&env), expected);
    let seen = std::mem::take(&mut *heads.lock().unwrap());
    assert!(!seen.is_empty());
    for head in &seen {
        assert!(head.starts_with("CONNECT registry.invalid:5000 HTTP/1.1"), "{head}");
        assert!(head.to_lowercase().contains("proxy-authorization: basic bwu6cznjcmv0"), "{head}");
    }
    let env = env.variable("NO_PROXY", ".other,registry.invalid");
    let words = [&words[..], &["--no-cache"]].concat();
    let _ = build(&env, "registry.invalid:5000/app:v1", &words).refused("E-registry-connect");
    assert_eq!(heads.lock().unwrap().len(), 0);
}

/// Bars are for terminals, and each layer has one; without a terminal each is a line.
#[test]
fn progress_is_a_bar_or_a_line_for_each_layer() {
    let env = world();
    let fake = Fake::honest(&image());
    let lines = build(&env, &fake.image(), &[]).success();
    assert_eq!(lines.stderr().lines().filter(|line| line.starts_with("fetched   layer ")).count(), 3);
    let _ = build(&env, &fake.image(), &["--quiet", "--no-cache"]).success().says_nothing_of("layer");
    fake.forget();
    fake.gate(image().config_blob().bytes.len() as u64 + 2 * 4096);
    let eif = env!("CARGO_BIN_EXE_eif");
    let command = format!("stty cols 120; {eif} pcr {} --kernel kernel --no-cache", fake.image());
    let mut script = env.command_of("script", &["-qefc", &command, "screen"]);
    let mut child = script.env("TERM", "xterm").stdout(Stdio::null()).spawn().expect("script (Debian: bsdutils)");
    let screen = || String::from_utf8_lossy(&fs::read(env.path("screen")).unwrap_or_default()).into_owned();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !(1..=3).all(|number| screen().contains(&format!("layer {number}/3 (sha256:"))) {
        assert!(Instant::now() < deadline, "{}", screen());
        std::thread::sleep(Duration::from_millis(10));
    }
    fake.gate(u64::MAX);
    assert!(child.wait().unwrap().success());
    assert!(!screen().contains("fetched   "), "{}", screen());
}
