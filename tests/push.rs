//! The promise of `eif push` and `eif pull`: an `.eif` goes through a registry unharmed, with what it measures to beside
//! it, and nothing that is half there or that does not fit is shown or taken.

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::registry::{Deed, Demands, Fake, RealRegistry, Reply, Seen, certificates};
use common::{Output, TestEnv};
use eif::artifact::{self, Attached};
use eif::image::{Access, Name, Network, Store};
use eif::{Refusal, Silent};
use eif_testdata::{Config, Files, Image, OciLayout, fake_bzimage, layers, sha256};
use serde_json::{Value, json};

const EIF: &str = "application/vnd.aws.nitro.eif";

/// A world with `app.eif`, its lock and its statement.
fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let content = format!("f 0755 0:0 app {}", "x".repeat(300_000));
    let layers = layers! { content.as_str(), "f 0644 0:0 etc/hosts 127.0.0.1 localhost" };
    let _ = env.layout("image", &Image::new(layers).config(Config::new().cmd(&["/app"])));
    let further = ["--lock", "eif.lock", "--provenance", "app.intoto.json"];
    let words = ["build", "oci:image:latest", "--kernel", "kernel", "-o", "app.eif"];
    let _ = env.eif(&[&words[..], &further].concat()).success();
    env
}

fn push(env: &TestEnv, name: &str, further: &[&str]) -> Output {
    env.eif(&[&["push", "app.eif", &format!("docker://{name}")][..], further].concat())
}

fn pull(env: &TestEnv, name: &str, further: &[&str]) -> Output {
    env.eif(&[&["pull", &format!("docker://{name}"), "-o", "pulled.eif"][..], further].concat())
}

fn file(env: &TestEnv, name: &str) -> Vec<u8> {
    fs::read(env.path(name)).unwrap()
}

fn skopeo(env: &TestEnv, words: &[&str]) -> Vec<u8> {
    let output = env.command_of("skopeo", words).output().expect("skopeo (Debian: skopeo)");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn forget(env: &TestEnv) {
    let _ = fs::remove_dir_all(env.work().join("../cache/eif"));
}

#[test]
fn what_is_pushed_is_what_is_pulled_and_others_read_it() {
    let env = world();
    let registry = RealRegistry::start(&env, &Demands::default());
    let name = format!("{}/team/app", registry.host);
    let further = ["--lock", "eif.lock", "--provenance", "app.intoto.json"];
    let pushed = push(&env, &format!("{name}:v1"), &further).success().says("pushed");
    let told = pushed.json();
    let reference = format!("{name}@{}", told["digest"].as_str().unwrap());
    assert_eq!(told["reference"], reference);
    assert_eq!(told["Measurements"], env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]);
    assert_eq!(told["file"]["sha256"], sha256(&file(&env, "app.eif"))[7..]);
    let again = push(&env, &format!("{name}:v1"), &further).success().says("was there");
    assert_eq!(again.stdout(), pushed.stdout());

    let raw = skopeo(&env, &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}:v1")]);
    assert_eq!(sha256(&raw), told["digest"]);
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!((&manifest["artifactType"], &manifest["schemaVersion"]), (&json!(EIF), &json!(2)));
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    for register in ["PCR0", "PCR1", "PCR2"] {
        assert_eq!(manifest["annotations"][register], told["Measurements"][register]);
    }
    let titles = [
        ("app.eif", EIF),
        ("eif.lock", "application/vnd.eif.lock.v1+json"),
        ("app.intoto.json", "application/vnd.in-toto+json"),
    ];
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for ((title, kind), layer) in titles.into_iter().zip(layers) {
        assert_eq!(
            (&layer["annotations"]["org.opencontainers.image.title"], &layer["mediaType"]),
            (&json!(title), &json!(kind))
        );
        assert_eq!(layer["digest"], sha256(&file(&env, title)));
    }

    let attached = ["--lock", "pulled.lock", "--provenance", "pulled.json"];
    let pulled = pull(&env, &format!("{name}:v1"), &attached).success().says("pulled").says_nothing_of("warning");
    assert_eq!(pulled.stdout(), pushed.stdout());
    for (one, other) in [("app.eif", "pulled.eif"), ("eif.lock", "pulled.lock"), ("app.intoto.json", "pulled.json")] {
        assert_eq!(file(&env, one), file(&env, other));
    }
    drop(registry);
    fs::remove_file(env.path("pulled.eif")).unwrap();
    let _ = pull(&env, &reference, &["--offline"]).success();
    assert_eq!(file(&env, "app.eif"), file(&env, "pulled.eif"));
    let _ = pull(&env, &format!("{name}:v1"), &["--offline"]).refused("E-offline");
    assert_eq!(env.listing(&env.tmp()), [""; 0]);
}

/// The foreign judge of the whole artifact: what skopeo copies is what was pushed, byte for byte.
#[test]
fn skopeo_copies_the_artifact() {
    let env = world();
    let registry = RealRegistry::start(&env, &Demands::default());
    let name = format!("{}/app:v1", registry.host);
    let digest = push(&env, &name, &[]).success().json()["digest"].as_str().unwrap().to_owned();
    let source = format!("docker://{name}");
    skopeo(
        &env,
        &["copy", "--insecure-policy", "--src-tls-verify=false", "--preserve-digests", &source, "oci:copy:v1"],
    );
    let blob = |digest: &str| file(&env, &format!("copy/blobs/sha256/{}", &digest[7..]));
    let manifest: Value = serde_json::from_slice(&blob(&digest)).unwrap();
    assert_eq!(blob(manifest["layers"][0]["digest"].as_str().unwrap()), file(&env, "app.eif"));
    // It is no image, and says so.
    let _ = env.eif(&["pcr", &name, "--kernel", "kernel"]).refused("E-not-an-image");
}

#[test]
fn a_login_and_an_authority_as_for_images() {
    let env = world();
    certificates(&env, "IP:127.0.0.1");
    let (certificate, key) = (env.path("server.pem"), env.path("server.key"));
    let demands = Demands { login: Some(("me", "pass:word")), tls: Some((&certificate, &key)), ..Demands::default() };
    let registry = RealRegistry::start(&env, &demands);
    let name = format!("{}/app:v1", registry.host);
    let _ = push(&env, &name, &[]).refused("E-registry-tls");
    let refused = push(&env, &name, &["--tls-ca", "ca.pem"]).refused("E-registry-auth");
    let _ = refused.says("logins were looked for: ");
    let wrong = push(&env, &name, &["--tls-ca", "ca.pem", "--creds", "me:wrongword"]).refused("E-registry-auth");
    let _ = wrong.says_nothing_of("wrongword");
    let right = ["--tls-ca", "ca.pem", "--creds", "me:pass:word"];
    let _ = push(&env, &name, &right).success().says_nothing_of("pass:word");
    let _ = pull(&env, &name, &right).success();
    assert_eq!(file(&env, "app.eif"), file(&env, "pulled.eif"));
}

/// What a registry of our own does when something is put there: it takes all, and `whim` may do otherwise.
fn taking(host: &str, seen: &Seen, whim: impl Fn(&Seen) -> Option<Deed>) -> Deed {
    if let Some(deed) = whim(seen) {
        return deed;
    }
    match seen.method.as_str() {
        "HEAD" => Deed::Reply(Reply::new(404, "")),
        "POST" => Deed::Reply(Reply::new(202, "").header("location", format!("http://{host}/v2/app/blobs/uploads/1"))),
        "PUT" => Deed::Reply(Reply::new(201, "")),
        _ => Deed::Honest,
    }
}

/// A registry that takes all but what `whim` does otherwise.
fn taker(whim: impl Fn(&Seen) -> Option<Deed> + Send + Sync + 'static) -> Fake {
    let place = Arc::new(std::sync::OnceLock::<String>::new());
    let host = place.clone();
    let fake = Fake::start(Files::new(), move |seen| taking(host.get().unwrap(), seen, &whim));
    place.set(fake.host.clone()).unwrap();
    fake
}

fn is_blob_put(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.contains("/blobs/uploads/")
}

#[test]
fn the_token_is_asked_for_with_the_right_to_push() {
    let env = world();
    let fake = taker(|seen| {
        if seen.path == "/token" {
            let login = seen.header("authorization") == Some("Basic bWU6c2VjcmV0d29yZA==");
            let scope = seen.query.contains("scope=repository%3Aapp%3Apull%2Cpush");
            let token = if login && scope { "opensesame" } else { "weak" };
            return Some(Deed::Reply(Reply::new(200, format!(r#"{{"token": "{token}"}}"#))));
        }
        if seen.header("authorization") == Some("Bearer opensesame") {
            return None;
        }
        let realm = format!("http://{}/token", seen.header("host").unwrap());
        let demand = format!(r#"Bearer realm="{realm}",service="tests",scope="repository:app:pull""#);
        Some(Deed::Reply(Reply::new(401, "").header("www-authenticate", demand)))
    });
    let name = format!("{}/app:v1", fake.host);
    // The registry keeps nothing, so what is read back in the end is not there.
    let output = push(&env, &name, &["--creds", "me:secretword"]).refused("E-registry-status").says("manifest `v1`");
    let _ = output.says("HTTP 404").says_nothing_of("secretword").says_nothing_of("opensesame");
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| seen.path == "/token").count(), 1, "one token for all of it");
    let last = seen.iter().rfind(|seen| seen.method == "PUT").unwrap();
    assert_eq!(
        (last.path.as_str(), last.header("content-type")),
        ("/v2/app/manifests/v1", Some("application/vnd.oci.image.manifest.v1+json"))
    );
    let sizes: Vec<&str> =
        seen.iter().filter(|seen| is_blob_put(seen)).map(|seen| seen.header("content-length").unwrap()).collect();
    assert_eq!(sizes, ["2", &file(&env, "app.eif").len().to_string()], "in one piece each, the size told");
    let posts = seen.iter().filter(|seen| seen.method == "POST");
    assert!(posts.into_iter().all(|seen| seen.header("content-length") == Some("0")), "proxies ask for it");
    // Another host than the registry's is not told who asks.
    let elsewhere = taker(|_| None);
    let to = format!("http://{}/v2/app/blobs/uploads/2", elsewhere.host);
    let fake = taker(move |seen| match (seen.method.as_str(), seen.header("authorization")) {
        (_, None) => Some(Deed::Reply(Reply::new(401, "").header("www-authenticate", "Basic realm=x"))),
        ("POST", _) => Some(Deed::Reply(Reply::new(202, "").header("location", to.clone()))),
        _ => None,
    });
    let _ = push(&env, &format!("{}/app:v1", fake.host), &["--creds", "me:secretword"]).code(1);
    let there = elsewhere.seen();
    assert!(
        there.iter().filter(|seen| is_blob_put(seen)).count() == 2
            && there.iter().all(|seen| seen.header("authorization").is_none())
    );
}

#[test]
fn an_upload_that_is_cut_is_tried_again_and_never_tagged_by_halves() {
    let env = world();
    let cut = Arc::new(AtomicUsize::new(0));
    let counter = cut.clone();
    let fake = taker(move |seen| {
        let whole = seen.header("content-length") == Some("2");
        (is_blob_put(seen) && !whole && counter.fetch_add(1, Ordering::Relaxed) < 2).then_some(Deed::HangUp)
    });
    let _ = push(&env, &format!("{}/app:v1", fake.host), &[]).code(1);
    assert_eq!(cut.load(Ordering::Relaxed), 3, "two that were cut, and one that was not");
    assert!(fake.seen().iter().any(|seen| seen.path.ends_with("/manifests/v1") && seen.method == "PUT"));
    let other = taker(|seen| {
        let answer = Reply::new(201, "").header("docker-content-digest", sha256(b"another"));
        (seen.method == "PUT" && seen.path.ends_with("/v1")).then_some(Deed::Reply(answer))
    });
    let _ = push(&env, &format!("{}/app:v1", other.host), &[]).refused("E-digest").says(&sha256(b"another"));
    let deeds: [fn() -> Deed; 3] =
        [|| Deed::HangUp, || Deed::Reply(Reply::new(500, "")), || Deed::Reply(Reply::new(413, ""))];
    for (number, deed) in deeds.into_iter().enumerate() {
        let fake = taker(move |seen| is_blob_put(seen).then(deed));
        let output = push(&env, &format!("{}/app:v1", fake.host), &[]).code(1);
        assert!(output.stderr().contains("error[E-registry-"), "{output:?}");
        assert_eq!(output.stdout(), "");
        let tagged = fake.seen().iter().any(|seen| seen.path.contains("/manifests/") && seen.method == "PUT");
        assert!(!tagged, "deed {number}");
    }
}

#[test]
fn what_is_attached_must_speak_of_the_file() {
    let env = world();
    let fake = taker(|_| None);
    let name = format!("{}/app:v1", fake.host);
    let mut lock: Value = serde_json::from_slice(&file(&env, "eif.lock")).unwrap();
    lock["measurements"]["PCR2"] = json!("0".repeat(96));
    env.write("other.lock", lock.to_string());
    let _ = push(&env, &name, &["--lock", "other.lock"]).refused("E-pcr-mismatch").says("other.lock has PCR2 000");
    env.write("other.json", json!({ "_type": "https://in-toto.io/Statement/v1", "subject": [] }).to_string());
    let _ = push(&env, &name, &["--provenance", "other.json"]).refused("E-provenance").says("other.json");
    let _ = push(&env, &name, &["--lock", "app.eif"]).refused("E-lock");
    let digest = sha256(b"another");
    let _ = push(&env, &format!("{}/app@{digest}", fake.host), &[]).refused("E-digest").says(&digest);
    let _ = env.eif(&["push", "kernel", &name]).code(1).says("kernel: ");
    let _ = env.eif(&["push", "nowhere", &name]).refused("E-io").says("nowhere: ");
    let _ = env.eif(&["push", "app.eif", "oci:layout"]).code(2);
    assert!(fake.seen().is_empty(), "nothing was asked of the registry");
}

/// A registry that has the artifact of this manifest under `v1`.
fn having(env: &TestEnv, manifest: &Value) -> Fake {
    let blob = |media_type: &str, bytes: Vec<u8>| eif_testdata::Blob { media_type: media_type.to_owned(), bytes };
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(manifest).unwrap());
    let mut named = manifest.descriptor();
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let files = ["app.eif", "eif.lock", "app.intoto.json", "other.lock"];
    let blobs = files.iter().filter_map(|name| fs::read(env.path(name)).ok()).map(|bytes| blob("x", bytes));
    let layout = blobs.chain([manifest]).fold(OciLayout::new().descriptor(named), OciLayout::with_blob);
    Fake::start(layout.files(), |_| Deed::Honest)
}

/// The manifest that `eif push` makes of the world's files.
fn manifest(env: &TestEnv) -> Value {
    let registry = RealRegistry::start(env, &Demands::default());
    let name = format!("{}/app:v1", registry.host);
    let _ = push(env, &name, &["--lock", "eif.lock", "--provenance", "app.intoto.json"]).success();
    let raw = skopeo(env, &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    serde_json::from_slice(&raw).unwrap()
}

#[test]
fn what_does_not_fit_the_file_is_not_taken() {
    let env = world();
    let honest = manifest(&env);
    let before = env.listing(&env.work());
    let attempt = |change: &dyn Fn(&mut Value), further: &[&str], code: &str| {
        let mut manifest = honest.clone();
        change(&mut manifest);
        forget(&env);
        let fake = having(&env, &manifest);
        let output = pull(&env, &format!("{}/app:v1", fake.host), further).refused(code);
        assert_eq!(env.listing(&env.work()), before, "{code}");
        output
    };
    let lie = json!("f".repeat(96));
    for register in ["PCR0", "PCR1", "PCR2", "PCR8"] {
        let output = attempt(&|m: &mut Value| m["annotations"][register] = lie.clone(), &[], "E-pcr-mismatch");
        let _ = output.says(&format!("has {register} fff"));
    }
    let kernel = sha256(&file(&env, "kernel"));
    let _ = attempt(&|m| m["layers"][0]["digest"] = json!(kernel), &[], "E-missing-blob");
    let _ = attempt(&|m| m["layers"][0]["size"] = json!(5), &[], "E-size");
    let _ = attempt(&|m| m["layers"][0]["mediaType"] = json!("x/y"), &[], "E-not-an-eif").says("but x/y");
    let _ = attempt(&|m| m["layers"][1]["mediaType"] = json!(EIF), &[], "E-not-an-eif").says("2 layers");
    let _ = attempt(&|m| drop(m["layers"].as_array_mut().unwrap().pop()), &["--provenance", "s"], "E-not-attached");
    let _ = attempt(&|m| m["layers"][1]["size"] = json!(1_u64 << 40), &["--lock", "l"], "E-not-an-eif");
    // The bytes of the lock are taken for a file.
    let swap = |m: &mut Value| m["layers"].as_array_mut().unwrap().swap(0, 1);
    let retype = |m: &mut Value| {
        swap(m);
        m["layers"][0]["mediaType"] = json!(EIF);
        m["layers"][1]["mediaType"] = json!("x/y");
    };
    let _ = attempt(&retype, &[], "E-eif-magic");
    // A lock of another file, and a statement about another one.
    let text = String::from_utf8(file(&env, "eif.lock")).unwrap();
    let pcr0 = honest["annotations"]["PCR0"].as_str().unwrap();
    env.write("other.lock", text.replace(pcr0, &"e".repeat(96)));
    let other = file(&env, "other.lock");
    let before = [before.clone(), vec!["other.lock".to_owned()]].concat();
    let mut manifest = honest.clone();
    manifest["layers"][1]["digest"] = json!(sha256(&other));
    manifest["layers"][1]["size"] = json!(other.len());
    let fake = having(&env, &manifest);
    let output = pull(&env, &format!("{}/app:v1", fake.host), &["--lock", "l"]).refused("E-pcr-mismatch");
    let _ = output.says("PCR0 eee");
    let mut sorted = before;
    sorted.sort();
    assert_eq!(env.listing(&env.work()), sorted);
}

/// An artifact of others (`oras push NAME app.eif:application/vnd.aws.nitro.eif`) names no registers.
#[test]
fn an_artifact_without_registers_is_taken_with_a_warning() {
    let env = world();
    let mut manifest = manifest(&env);
    manifest.as_object_mut().unwrap().remove("annotations");
    manifest.as_object_mut().unwrap().remove("artifactType");
    let fake = having(&env, &manifest);
    let _ = pull(&env, &format!("{}/app:v1", fake.host), &[]).success().says("warning[W-no-pcrs]");
    assert_eq!(file(&env, "app.eif"), file(&env, "pulled.eif"));
}

/// What the disk has made of the store's copy is not taken, and one more download mends it.
#[test]
fn a_damaged_copy_in_the_store_is_fetched_again() {
    let env = world();
    let registry = RealRegistry::start(&env, &Demands::default());
    let name = format!("{}/app:v1", registry.host);
    let _ = push(&env, &name, &[]).success();
    let _ = pull(&env, &name, &[]).success();
    let hex = sha256(&file(&env, "app.eif"))[7..].to_owned();
    let stored = env.work().join("../cache/eif/blobs/sha256").join(hex);
    let mut bytes = fs::read(&stored).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&stored, bytes).unwrap();
    let _ = pull(&env, &name, &[]).success();
    assert_eq!(file(&env, "app.eif"), file(&env, "pulled.eif"));
}

/// A push with this much patience: the refusal's code.
fn impatient(env: &TestEnv, fake: &Fake, patience: u64) -> &'static str {
    let network = Network { patience: Duration::from_millis(patience), ..Network::default() };
    let access = Access { network, ..Access::new(Store::open(&env.path("store"), None).unwrap(), env.tmp()) };
    let name = Name::parse(&format!("{}/app:v1", fake.host)).unwrap();
    let pushed = artifact::push(&env.path("app.eif"), &name, &Attached::default(), &access, 1, &Silent);
    pushed.unwrap_err().code()
}

/// A registry may take its time with what it has been given, but not for ever.
#[test]
fn a_registry_that_ponders_is_waited_for_and_one_that_is_silent_is_not() {
    let env = world();
    let fake = taker(|seen| {
        if is_blob_put(seen) {
            std::thread::sleep(Duration::from_millis(1500));
        }
        None
    });
    // All is taken; what is read back is not there.
    assert_eq!(impatient(&env, &fake, 1000), "E-registry-status");
    let fake = taker(|seen| is_blob_put(seen).then_some(Deed::Silence));
    assert_eq!(impatient(&env, &fake, 50), "E-registry-timeout");
    assert!(fake.seen().iter().all(|seen| !seen.path.contains("/manifests/")));
}

#[test]
fn one_file_cannot_be_two() {
    let env = world();
    let _ = pull(&env, "localhost:1/app", &["--lock", "pulled.eif"]).code(2).says("pulled.eif");
    let build = ["build", "oci:image", "--kernel", "kernel", "-o", "x", "--report", "y", "--sbom", "y"];
    let _ = env.eif(&build).code(2).says("one file, y");
    std::os::unix::fs::symlink("x", env.path("link")).unwrap();
    env.write("x", "");
    let here = env.path("x").display().to_string();
    for other in ["./x", "../work/x", "link", &here] {
        let build = ["build", "oci:image", "--kernel", "kernel", "-o", "x", "--lock", other];
        let _ = env.eif(&build).code(2).says("two things cannot be written to one file");
    }
    assert_eq!(fs::read(env.path("x")).unwrap(), b"");
}
