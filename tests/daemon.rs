//! `docker-daemon:` against an engine that the test plays: what a real one does only when it is ill, and the forms of
//! engines that are not at hand. The real one is in tests/transports.rs.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use common::{Output, TestEnv};
use eif_testdata::{
    Config, DockerArchive, Files, Image, OciLayout, canonical, fake_arm64_image, fake_bzimage, layers, sha256,
};
use serde_json::{Value, json};

fn image(platform: &str) -> Image {
    let file = format!("f 0644 0:0 etc/platform {platform}");
    let config = Config::new().cmd(&["/app"]).platform(&format!("linux/{platform}"));
    Image::new(layers! { "f 0755 0:0 app program", "--", file.as_str() }).config(config)
}

fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let host = format!("unix://{}", env.path("engine.sock").display());
    env.variable("DOCKER_HOST", host)
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// As engines send images; `end` is the last chunk, which an ill engine leaves out.
fn chunked(body: &[u8], end: &[u8]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(10_000) {
        bytes.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    }
    [&bytes, end].concat()
}

fn described(id: &str, platform: &str) -> Value {
    json!({ "Id": id, "Os": "linux", "Architecture": platform, "RepoTags": ["app:v1"] })
}

/// Runs `eif build docker-daemon:app:v1` while an engine gives these two answers; asserts that nothing else is left.
fn build_with(env: &TestEnv, answers: [Vec<u8>; 2], further: &[&str]) -> (Output, Vec<String>) {
    let listener = UnixListener::bind(env.path("engine.sock")).unwrap();
    let engine = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let Some(first) = lines.next().filter(|line| line != "STOP") else { break };
            let _ = lines.find(String::is_empty);
            asked.push(first);
            // Who is refused in the middle does not read to the end.
            let _ = stream.write_all(&answer).and_then(|()| stream.shutdown(Shutdown::Both));
        }
        asked
    });
    let words = ["build", "docker-daemon:app:v1", "--kernel", "kernel", "-o", "app.eif"];
    let output = env.eif(&[&words[..], further].concat());
    if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(env.path("engine.sock")) {
        let _ = stream.write_all(b"STOP\n");
    }
    let asked = engine.join().unwrap();
    fs::remove_file(env.path("engine.sock")).unwrap();
    assert_eq!(env.listing(&env.tmp()), [""; 0], "nothing is left of the spool");
    (output, asked)
}

fn build(env: &TestEnv, answers: [Vec<u8>; 2]) -> Output {
    build_with(env, answers, &[]).0
}

/// What an engine of this form gives makes the same file as the layout does.
fn same(env: &TestEnv, description: &Value, archive: &Files, further: &[&str]) {
    let answers = [answer("200 OK", &canonical(description)), chunked(&archive.tar(), b"0\r\n\r\n")];
    let (output, asked) = build_with(env, answers, further);
    let _ = output.success();
    let id = description["Id"].as_str().unwrap();
    let wanted = ["GET /images/app:v1/json HTTP/1.1".to_owned(), format!("GET /images/get?names={id} HTTP/1.1")];
    assert_eq!(asked, wanted);
    let got = fs::read(env.path("app.eif")).unwrap();
    let words = ["build", "oci:layout", "--kernel", "kernel", "-o", "app.eif"];
    let _ = env.eif(&[&words[..], further].concat()).success();
    assert!(got == fs::read(env.path("app.eif")).unwrap());
}

#[test]
fn an_id_is_the_digest_of_the_config_or_of_the_manifest() {
    let env = world();
    let image = image("amd64");
    env.layout("layout", &image);
    let (config, manifest) = (image.config_blob().digest(), image.manifest_blob().digest());
    let untagged = DockerArchive::new().image(&[], &image);
    same(&env, &described(&config, "amd64"), &untagged.legacy(), &[]);
    same(&env, &described(&config, "amd64"), &untagged.modern(), &[]);
    let mut of_containerd = described(&manifest, "amd64");
    of_containerd["Descriptor"] = json!({ "mediaType": image.manifest_blob().media_type });
    same(&env, &of_containerd, &untagged.modern(), &[]);
}

/// An engine with containerd's store keeps all platforms of an image, and describes the one that it would run.
#[test]
fn an_index_has_more_platforms_than_the_engines_own() {
    let env = world();
    env.write("arm", fake_arm64_image());
    let images = [image("amd64"), image("arm64")];
    let mut files = OciLayout::new().index("v1", &images).files();
    files.write_dir(&env.path("layout"));
    let index: Value = serde_json::from_slice(&fs::read(env.path("layout/index.json")).unwrap()).unwrap();
    let id = index["manifests"][0]["digest"].as_str().unwrap();
    let layers: Vec<_> = images[0].layer_blobs().iter().map(eif_testdata::Blob::path).collect();
    let saved = json!([{ "Config": images[0].config_blob().path(), "RepoTags": ["app:v1"], "Layers": layers }]);
    files.put("manifest.json", canonical(&saved));
    let mut description = described(id, "amd64");
    description["Descriptor"] = json!({ "mediaType": "application/vnd.oci.image.index.v1+json" });
    same(&env, &description, &files, &[]);
    fs::rename(env.path("arm"), env.path("kernel")).unwrap();
    same(&env, &description, &files, &["--platform", "linux/arm64", "--init", "kernel"]);
}

#[test]
fn another_image_than_the_one_that_was_asked_for() {
    let env = world();
    let archive = DockerArchive::new().image(&[], &image("amd64"));
    for files in [archive.legacy(), archive.modern()] {
        let description = described(&sha256(b"another"), "amd64");
        let answers = [answer("200 OK", &canonical(&description)), chunked(&files.tar(), b"0\r\n\r\n")];
        let _ =
            build(&env, answers).refused("E-not-an-image").says("another image than sha256:").says("docker-daemon:");
    }
    let wrong = described(&image("arm64").config_blob().digest(), "arm64");
    let never = || chunked(b"", b"0\r\n\r\n");
    let _ = build(&env, [answer("200 OK", &canonical(&wrong)), never()]).refused("E-no-platform").says("linux/arm64");
}

#[test]
fn an_engine_that_stops_in_the_middle() {
    let env = world();
    let image = image("amd64");
    let bytes = DockerArchive::new().image(&[], &image).legacy().tar();
    let description = || answer("200 OK", &canonical(&described(&image.config_blob().digest(), "amd64")));
    let cut = build(&env, [description(), chunked(&bytes[..bytes.len() / 2], b"")]);
    let _ = cut.refused("E-docker-daemon").says("engine.sock: the connection was cut: ");
    let failed = br#"{"errorDetail":{"message":"no space left"},"error":"write /tmp/x: no space left"}"#;
    let end = [format!("{:x}\r\n", failed.len()).as_bytes(), failed, b"\r\n0\r\n\r\n"].concat();
    let output = build(&env, [description(), chunked(&bytes[..10_000], &end)]);
    let _ = output.refused("E-docker-daemon").says("it failed after 1008").says("bytes: write /tmp/x: no space left");
    let none = build(&env, [description()[..20].to_vec(), Vec::new()]);
    let _ = none.refused("E-docker-daemon").says("the connection was cut");
    let (large, _) = build_with(&env, [description(), chunked(&bytes, b"0\r\n\r\n")], &["--max-unpacked", "4K"]);
    let _ = large.refused("E-too-large").says("docker-daemon:app:v1").says("--max-unpacked");
}

#[test]
fn an_engine_that_answers_strangely() {
    let env = world();
    let never = || answer("500 Never", b"");
    let refused = |status: &str, body: &[u8]| build(&env, [answer(status, body), never()]);
    let missing = refused("404 Not Found", br#"{"message":"no such image"}"#).refused("E-image-not-found");
    let _ = missing.says("engine.sock has no image `app:v1`").says("docker pull app:v1");
    let _ = refused("500 Oops", br#"{"message":"the store\nis broken"}"#)
        .refused("E-docker-daemon")
        .says(r"it answered 500: the store\nis broken");
    let _ = refused("403 No", b"<html>go away</html>").refused("E-docker-daemon").says("403: <html>go away");
    let _ = refused("301 Moved\r\nLocation: http://127.0.0.1:1/", b"").refused("E-docker-daemon").says("301");
    let _ = refused("200 OK", b"[]").refused("E-docker-daemon").says("its description of `app:v1` cannot be read");
    let endless = vec![b' '; 5 << 20];
    let _ = refused("200 OK", &endless).refused("E-docker-daemon").says("cannot be read");
    let no_id = described("../../etc/passwd", "amd64");
    let _ = refused("200 OK", &canonical(&no_id)).refused("E-docker-daemon").says("../../etc/passwd");
    let gone = [answer("200 OK", &canonical(&described(&sha256(b"x"), "amd64"))), answer("404 Not Found", b"{}")];
    let _ = build(&env, gone).refused("E-image-not-found");
}

#[test]
fn an_engine_that_cannot_be_reached() {
    let words = ["build", "docker-daemon:app", "--kernel", "kernel", "-o", "app.eif"];
    let at = |host: &str| world().variable("DOCKER_HOST", host).eif(&words);
    let _ = at("unix:///nowhere/docker.sock").refused("E-docker-daemon").says("/nowhere/docker.sock: there is no such");
    let _ = at("ssh://me@engine").refused("E-docker-host").says("ssh").says("ssh -nNT -L");
    let _ = at("npipe:////./pipe/docker_engine").refused("E-docker-host");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tcp = format!("tcp://127.0.0.1:{port}");
    let _ = at(&tcp).refused("E-docker-daemon").says(&format!("127.0.0.1:{port}: nothing listens there"));
    let offline = world().variable("DOCKER_HOST", tcp).eif(&[&words[..], &["--offline"]].concat());
    let _ = offline.refused("E-offline").says("behind a network");
    let tls = world().variable("DOCKER_HOST", "tcp://127.0.0.1:1").variable("DOCKER_TLS_VERIFY", "1");
    let _ = tls.eif(&words).refused("E-io").says("home/.docker/ca.pem");
}

#[test]
fn a_socket_of_others_names_the_group_that_may() {
    let env = world();
    let _listener = UnixListener::bind(env.path("engine.sock")).unwrap();
    fs::set_permissions(env.path("engine.sock"), fs::Permissions::from_mode(0o000)).unwrap();
    let root = env.command_of("id", &["-u"]).output().unwrap().stdout == b"0\n";
    let words = ["pcr", "docker-daemon:app", "--kernel", "kernel"];
    let mut command = env.command(&words);
    if root {
        // Root may open any socket.
        let mut other = env.command_of("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"]);
        fs::set_permissions(env.work().join(".."), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(command.get_program(), env.path("eif")).unwrap();
        other.arg(env.path("eif")).args(words).env("TMPDIR", "/tmp");
        command = other;
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error[E-docker-daemon]") && stderr.contains("the socket is for the group root"),
        "{stderr}"
    );
}
