//! One image has one enclave image, whichever way it comes: through each transport, and to many processes at once.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use common::TestEnv;
use common::engine::RealEngine;
use common::registry::{Demands, Fake, RealRegistry, certificates};
use eif_testdata::{Blob, Compression, Config, DockerArchive, Image, OciLayout, fake_bzimage, layers};

/// What transports could get wrong: a layer that is there twice, links, whiteouts, owners, and bytes that do not
/// compress to nothing.
fn image() -> Image {
    let letter = |n: u64| char::from(b'a' + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) % 26) as u8);
    let noise: String = (0..300_000_u64).map(|n| letter(n * n)).collect();
    let program = format!("f 0755 0:0 app {noise}");
    let layers = layers! {
        program.as_str(), "d 0755 0:0 etc/", "f 0644 0:0 etc/motd hello", "--",
        "w etc/motd", "h app2 => app", "l 0777 0:0 bin -> usr/bin", "--",
        program.as_str(), "d 0755 0:0 etc/", "f 0644 0:0 etc/motd hello", "--",
        "d 0700 1000:1000 srv/", "f 0600 1000:1000 srv/key secret",
    };
    let config =
        Config::new().entrypoint(&["/app"]).cmd(&["serve"]).env(&["A=b"]).user("1000:1000").working_dir("/srv");
    Image::new(layers).config(config).compress(Compression::Gzip)
}

/// A world with a kernel and the image as layout `image:latest`.
fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let _ = env.layout("image", &image());
    env
}

fn words<'a>(reference: &'a str, target: &'a str) -> [&'a str; 6] {
    ["build", reference, "--kernel", "kernel", "-o", target]
}

/// The bytes that a reference comes to.
fn built(env: &TestEnv, reference: &str, further: &[&str]) -> Vec<u8> {
    let _ = env.eif(&[&words(reference, "built.eif")[..], further].concat()).success();
    let bytes = fs::read(env.path("built.eif")).unwrap();
    fs::remove_file(env.path("built.eif")).unwrap();
    assert_eq!(env.listing(&env.tmp()), [""; 0]);
    bytes
}

#[test]
fn six_ways_to_one_file() {
    let env = world();
    let (layout, docker) = (OciLayout::new().tag("v1", &image()), DockerArchive::new().image(&["me/app:v1"], &image()));
    layout.files().write_tar(&env.path("oci.tar"));
    docker.legacy().write_tar(&env.path("legacy.tar"));
    docker.modern().write_tar(&env.path("modern.tar"));
    let registry = RealRegistry::start(&env, &Demands::default());
    registry.push(&env, "image:latest", "me/app:v1", &[]);
    certificates(&env, "IP:127.0.0.1");
    let engine = RealEngine::start(&env, Some(&env.work()));
    let said = engine.docker(&env, &["load", "--input", "legacy.tar"]);
    assert!(said.contains("me/app:v1"), "{said}");

    let wanted = built(&env, "oci:image", &[]);
    for reference in [
        "oci:image:latest",
        "oci-archive:oci.tar:v1",
        "docker-archive:legacy.tar",
        "docker-archive:legacy.tar:me/app:v1",
        "docker-archive:modern.tar",
        &format!("{}/me/app:v1", registry.host),
        &format!("docker://{}/me/app@{}", registry.host, image().manifest_blob().digest()),
    ] {
        assert!(built(&env, reference, &[]) == wanted, "{reference}");
    }
    assert!(from_stdin(&env, "legacy.tar") == wanted, "a docker-archive from a pipe");

    let env = env.variable("DOCKER_HOST", engine.host());
    let id = image().config_blob().digest();
    for reference in ["docker-daemon:me/app:v1", &format!("docker-daemon:{id}")] {
        assert!(built(&env, reference, &["--offline"]) == wanted, "{reference}");
    }
    let missing = env.eif(&words("docker-daemon:me/other:v1", "x.eif")).refused("E-image-not-found");
    let _ = missing.says("docker.sock has no image `me/other:v1`").says("docker pull me/other:v1");
    let _ = env.eif(&words("docker-daemon:ME/app", "x.eif")).refused("E-docker-daemon").says("must be lowercase");
    through_tls(env, &engine, &wanted);
}

/// `eif build docker-archive:-` with a pipe that cannot be sought in.
fn from_stdin(env: &TestEnv, name: &str) -> Vec<u8> {
    let mut cat = env.command_of("cat", &[name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut command = env.command(&words("docker-archive:-", "built.eif"));
    let output = command.stdin(cat.stdout.take().unwrap()).output().unwrap();
    assert!(output.status.success() && cat.wait().unwrap().success(), "{output:?}");
    fs::read(env.path("built.eif")).unwrap()
}

/// The engine behind TCP asks for a certificate and shows one; each is held to the authority.
fn through_tls(env: TestEnv, engine: &RealEngine, wanted: &[u8]) {
    let folder = env.path("client");
    fs::create_dir(&folder).unwrap();
    for (from, to) in [("ca.pem", "ca.pem"), ("server.pem", "cert.pem"), ("server.key", "key.pem")] {
        fs::copy(env.path(from), folder.join(to)).unwrap();
    }
    let env = env.variable("DOCKER_HOST", engine.tcp()).variable("DOCKER_CERT_PATH", folder.display().to_string());
    assert!(built(&env, "docker-daemon:me/app:v1", &[]) == wanted, "in TLS");
    let refused = |why: &str| {
        let output = env.eif(&words("docker-daemon:me/app:v1", "x.eif")).refused("E-docker-daemon");
        let _ = output.says("127.0.0.1:").says(why).says("DOCKER_CERT_PATH");
    };
    fs::remove_file(folder.join("key.pem")).unwrap();
    refused("no trust in TLS: received fatal alert");
    fs::copy(env.path("server.pem"), folder.join("ca.pem")).unwrap();
    refused("no trust in TLS: invalid peer certificate");
}

/// Builds of `reference` that run at once, each with its own output.
fn at_once(env: &TestEnv, reference: &str, count: usize) -> Vec<Vec<u8>> {
    let names: Vec<String> = (0..count).map(|number| format!("{number}.eif")).collect();
    let start = |name: &String| {
        env.command(&words(reference, name)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = names.iter().map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    names.iter().map(|name| fs::read(env.path(name)).unwrap()).collect()
}

fn blobs(env: &TestEnv) -> PathBuf {
    env.work().join("../cache/eif/blobs")
}

/// Each blob of the image, without the layer that is there twice.
fn distinct() -> Vec<Blob> {
    let mut blobs = image().blobs();
    blobs.sort_by_key(Blob::digest);
    blobs.dedup();
    blobs
}

#[test]
fn ten_builds_at_once_on_one_store() {
    let env = world();
    let wanted = built(&env, "oci:image", &[]);
    let registry = Fake::honest(&image());
    for built in at_once(&env, &registry.image(), 10) {
        assert!(built == wanted);
    }
    let digests: Vec<String> = distinct().iter().map(Blob::digest).collect();
    let stored: Vec<String> = env.listing(&blobs(&env).join("sha256"));
    assert_eq!(stored.iter().map(|hex| format!("sha256:{hex}")).collect::<Vec<_>>(), digests);
    assert_eq!(env.listing(&blobs(&env).join("partial")), [""; 0]);
    for blob in image().layer_blobs() {
        let asked = registry.seen().iter().filter(|seen| seen.path.ends_with(&blob.digest())).count();
        assert_eq!(asked, 1, "one process brings a layer, the others wait for it");
    }
}

#[test]
fn a_blob_that_rots_in_the_store_is_brought_again() {
    let env = world();
    let wanted = built(&env, "oci:image", &[]);
    let registry = Fake::honest(&image());
    let pinned = format!("{}/app@{}", registry.host, image().manifest_blob().digest());
    assert!(built(&env, &pinned, &[]) == wanted);
    assert!(built(&env, &pinned, &["--offline"]) == wanted, "all of it is in the store");
    for (number, blob) in distinct().iter().enumerate() {
        let path = blobs(&env).join("sha256").join(blob.digest().trim_start_matches("sha256:"));
        fs::write(&path, rotten(&blob.bytes, number)).unwrap();
        let offline = env.eif(&[&words(&pinned, "x.eif")[..], &["--offline"]].concat()).code(1);
        assert!(offline.stderr().contains(&blob.digest()[..19]), "{}: {}", blob.media_type, offline.stderr());
        // The offline build has thrown away what is of no use.
        fs::write(&path, rotten(&blob.bytes, number)).unwrap();
        assert!(built(&env, &pinned, &[]) == wanted, "{}", blob.media_type);
        assert!(fs::read(&path).unwrap() == blob.bytes, "{}", blob.media_type);
    }
    assert!(at_once(&env, &pinned, 3).iter().all(|built| *built == wanted));
}

/// With another byte in the middle, cut in half, or empty.
fn rotten(bytes: &[u8], how: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    match how % 3 {
        0 => bytes[middle] ^= 1,
        1 => bytes.truncate(middle),
        _ => bytes.clear(),
    }
    bytes
}

#[test]
fn the_store_is_cut_to_its_bound_when_a_build_ends() {
    let env = world();
    let wanted = built(&env, "oci:image", &[]);
    let registry = Fake::honest(&image());
    let size = |env: &TestEnv| env.eif(&["cache", "ls", "--json"]).success().json()["size"].as_u64().unwrap();
    assert!(built(&env, &registry.image(), &[]) == wanted);
    let all: usize = distinct().iter().map(|blob| blob.bytes.len()).sum();
    assert_eq!(size(&env), all as u64);
    assert!(built(&env, &registry.image(), &["--max-cache", "100K"]) == wanted, "a bound is none for the build");
    assert!(size(&env) <= 100 << 10);
    assert!(built(&env, &registry.image(), &["--max-cache", "0"]) == wanted);
    assert_eq!(size(&env), 0);
    assert!(built(&env, &registry.image(), &["--no-cache"]) == wanted);
    assert_eq!(size(&env), 0);
}

/// A store on a tmpfs of 100 KiB holds no layer of this image; what could not be kept is not in the way later.
#[test]
fn a_full_disk_below_the_store() {
    let env = world();
    let registry = Fake::honest(&image());
    fs::create_dir_all(blobs(&env)).unwrap();
    let root = env.command_of("id", &["-u"]).output().unwrap().stdout == b"0\n";
    let namespaces: &[&str] = if root { &["--mount"] } else { &["--map-root-user", "--mount"] };
    let build = |further: &str| {
        let words = words(&registry.image(), "full.eif").join(" ");
        format!("{} {words} --quiet {further} >/dev/null; echo status $?", env!("CARGO_BIN_EXE_eif"))
    };
    let mount = format!("mount -t tmpfs -o size=100k none {}", blobs(&env).display());
    let script = format!("{mount} && {{ {}; {}; }}", build(""), build("--no-cache"));
    let output = env.command_of("unshare", &[namespaces, &["sh", "-c", &script]].concat()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, "status 1\nstatus 0\n", "{err}");
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert!(errors[0].starts_with("error[E-store]: ") && errors[0].contains("No space left on device"), "{err}");
    assert!(err.contains("--no-cache"), "{err}");
}
