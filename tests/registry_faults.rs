//! A registry that fails in every way: what passes is borne, what does not is named, and no secret is told.

mod common;

use std::fs;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::registry::{Body, Deed, Fake, Reply, Seen, part};
use common::{Output, TestEnv};
use eif::image::{Access, Error, Image as Opened, Network, Reference, Store};
use eif::{Refusal, Silent};
use eif_testdata::{Blob, Config, Files, Image, OciLayout, fake_bzimage, layers};

/// Three plain layers of some 100 kB.
fn image() -> Image {
    let file = |name: &str, c: &str| format!("f 0755 0:0 {name} {}", c.repeat(100_000));
    let (a, b, c) = (file("app", "a"), file("b", "b"), file("c", "c"));
    let layers = layers! { a.as_str(), "--", b.as_str(), "--", c.as_str() };
    Image::new(layers).config(Config::new().cmd(&["/app"]))
}

/// The bytes of a blob that is asked for, where it is the first layer's.
fn first_layer(seen: &Seen) -> Option<Vec<u8>> {
    let blob = image().layer_blobs().swap_remove(0);
    seen.path.ends_with(&blob.digest()).then_some(blob.bytes)
}

fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    env
}

fn pull(env: &TestEnv, reference: &str, further: &[&str]) -> Output {
    env.eif(&[&["pcr", reference, "--kernel", "kernel"], further].concat())
}

/// Pulls with an empty store from a registry that is honest about all but what `whim` does.
fn from(whim: impl Fn(&Seen) -> Deed + Send + Sync + 'static) -> (Fake, Output) {
    let (env, fake) = (world(), Fake::of(&image(), whim));
    let output = pull(&env, &fake.image(), &[]);
    (fake, output)
}

/// A pull that runs.
fn quiet(env: &TestEnv, fake: &Fake) -> Child {
    let mut command = env.command(&["pcr", &fake.image(), "--kernel", "kernel", "--quiet"]);
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// How often the first layer was asked for.
fn asked(fake: &Fake) -> usize {
    fake.seen().iter().filter(|seen| first_layer(seen).is_some()).count()
}

#[test]
fn a_cut_connection_is_resumed_where_it_was_cut() {
    let (fake, output) = from(|seen| match (first_layer(seen), seen.before) {
        (Some(bytes), 0) => Deed::Reply(Reply::of(200, Body::Cut(bytes.len() as u64, bytes[..40_000].to_vec()))),
        (Some(_), 1) => Deed::HangUp,
        (Some(bytes), 2) => Deed::Reply(Reply::of(200, Body::Unmarked(bytes[..50_000].to_vec()))),
        _ => Deed::Honest,
    });
    let _ = output.success();
    let ranges: Vec<_> = fake.seen().iter().filter(|s| first_layer(s).is_some()).map(Seen::from).collect();
    // The third answer ignores the range, so that what it brings is all there is.
    assert_eq!(ranges, [None, Some(40_000), Some(40_000), Some(50_000)]);
}

#[test]
fn what_is_cut_each_time_is_tried_five_times() {
    let since = Instant::now();
    let (fake, output) = from(|seen| if first_layer(seen).is_some() { Deed::HangUp } else { Deed::Honest });
    let _ = output.refused("E-registry-connect").says("layer 1/3").says("tried 5 times").says(&fake.host);
    assert_eq!(asked(&fake), 5);
    assert!(since.elapsed() < Duration::from_secs(20), "pauses of four seconds in all");
}

#[test]
fn a_busy_registry_is_asked_again_when_it_says() {
    for later in [|| "1".to_owned(), soon] {
        let since = Instant::now();
        let (fake, output) = from(move |seen| match (first_layer(seen), seen.before) {
            (Some(_), 0) => Deed::Reply(Reply::new(429, "").header("retry-after", later())),
            _ => Deed::Honest,
        });
        let _ = output.success();
        assert_eq!(asked(&fake), 2);
        assert!(since.elapsed() >= Duration::from_secs(1));
    }
    let too_long = |_: &Seen| Deed::Reply(Reply::new(429, "").header("retry-after", "3600"));
    let (fake, output) = from(too_long);
    let _ = output.refused("E-registry-status").says("HTTP 429").says("3600 s");
    assert_eq!(fake.seen().len(), 1);
}

/// Two seconds from now, as HTTP writes dates.
fn soon() -> String {
    let words = ["-u", "-d", "2 seconds", "+%a, %d %b %Y %H:%M:%S GMT"];
    let output = TestEnv::new().command_of("date", &words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_registry_that_is_ill_may_recover() {
    let (_, output) = from(|seen| if seen.before < 2 { Deed::Reply(Reply::new(503, "")) } else { Deed::Honest });
    let _ = output.success();
    let (fake, output) = from(|seen| if seen.is_blob() { Deed::Honest } else { Deed::Reply(Reply::new(500, "")) });
    let _ = output.refused("E-registry-status").says("HTTP 500").says("manifest `v1`").says("tried 5 times");
    assert_eq!(fake.seen().len(), 5);
}

#[test]
fn wrong_bytes_are_fetched_again_once() {
    for (times, right) in [(1, true), (usize::MAX, false)] {
        let (fake, output) = from(move |seen| match first_layer(seen) {
            Some(mut bytes) if seen.before < times => {
                bytes[1000] ^= 1;
                Deed::Reply(part(&bytes, seen.from()))
            }
            _ => Deed::Honest,
        });
        if right {
            let _ = output.success();
        } else {
            let _ = output.refused("E-digest").says("layer 1/3").says(&image().layer_blobs()[0].digest());
        }
        assert_eq!(asked(&fake), 2);
    }
}

#[test]
fn wrong_lengths_are_fetched_again_once() {
    let bodies: [fn(Vec<u8>) -> Body; 6] = [
        |bytes| Body::Bytes(bytes[1..].to_vec()),
        |bytes| Body::Bytes([bytes, vec![0]].concat()),
        |bytes| Body::Cut(u64::MAX / 2, bytes),
        |_| Body::Endless,
        |bytes| Body::Unmarked([bytes, vec![0]].concat()),
        |_| Body::Bytes(Vec::new()),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let (fake, output) = from(move |seen| match first_layer(seen) {
            Some(bytes) => Deed::Reply(Reply::of(200, body(bytes))),
            None => Deed::Honest,
        });
        let _ = output.refused("E-size").says("layer 1/3");
        assert_eq!(asked(&fake), 2, "body {number}");
    }
}

#[test]
fn ranges_that_are_not_known_or_wrong_mean_a_new_start() {
    let ranges: [fn(&[u8], u64) -> Reply; 4] = [
        |bytes, _| Reply::new(200, bytes),
        |_, _| Reply::new(416, ""),
        |bytes, from| {
            let from = from as usize - 1;
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[from..]).header("content-range", range)
        },
        |bytes, from| {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len() + 1);
            Reply::new(206, &bytes[from as usize..]).header("content-range", range)
        },
    ];
    for (number, range) in ranges.into_iter().enumerate() {
        let (_, output) = from(move |seen| match (first_layer(seen), seen.from()) {
            (Some(bytes), Some(from)) => Deed::Reply(range(&bytes, from)),
            (Some(bytes), None) if seen.before == 0 => {
                Deed::Reply(Reply::of(200, Body::Cut(bytes.len() as u64, bytes[..9000].to_vec())))
            }
            _ => Deed::Honest,
        });
        assert!(!output.success().stderr().contains("error"), "range {number}");
    }
}

#[test]
fn manifests_are_bounded_and_checked() {
    let manifest = |whim: fn() -> Body| {
        from(move |seen| if seen.is_blob() { Deed::Honest } else { Deed::Reply(Reply::of(200, whim())) }).1
    };
    let _ = manifest(|| Body::Endless).refused("E-bad-manifest").says("more than 4194304 bytes");
    let _ = manifest(|| Body::Bytes(b"<html>".to_vec())).refused("E-bad-manifest");
    let _ = manifest(|| Body::Bytes(br#"{"schemaVersion":1,"signatures":[]}"#.to_vec())).refused("E-schema1");
    let (env, digest) = (world(), image().manifest_blob().digest());
    let fake =
        Fake::of(&image(), |seen| if seen.is_blob() { Deed::Honest } else { Deed::Reply(Reply::new(200, "{}")) });
    let _ = pull(&env, &format!("{}/app@{digest}", fake.host), &[]).refused("E-digest").says(&digest);
    assert_eq!(fake.seen().len(), 2, "fetched again once");
    // What the header says of the digest is a hint, and a lie is none.
    let (_, output) = from(|seen| {
        if seen.is_blob() {
            return Deed::Honest;
        }
        let lie = format!("sha256:{}", "0".repeat(64));
        Deed::Reply(Reply::new(200, image().manifest_blob().bytes).header("docker-content-digest", lie))
    });
    let _ = output.success();
}

#[test]
fn what_is_no_image_is_named() {
    let env = world();
    let refused = |files: Files, code: &str, what: &str| {
        let fake = Fake::start(files, |_| Deed::Honest);
        let _ = pull(&env, &fake.image(), &["--no-cache"]).refused(code).says(what);
    };
    let one = |image: Image| OciLayout::new().tag("v1", &image).files();
    let typed = |media: &str| image().patch_manifest("/layers/1/mediaType", serde_json::json!(media));
    refused(one(typed("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")), "E-media-type", "encrypted");
    let helm =
        image().patch_manifest("/config/mediaType", serde_json::json!("application/vnd.cncf.helm.config.v1+json"));
    refused(one(helm), "E-not-an-image", "helm");
    let foreign = || typed("application/vnd.docker.image.rootfs.foreign.diff.tar");
    let _ = pull(&env, &Fake::honest(&foreign()).image(), &["--no-cache"]).success();
    let without = |image: &Image, blob: &Blob| {
        let mut files = one(image.clone());
        files.remove(&blob.path());
        files
    };
    refused(without(&foreign(), &image().layer_blobs()[1]), "E-foreign-layer", "layer 2/3");
    refused(without(&image(), &image().layer_blobs()[1]), "E-missing-blob", "BLOB_UNKNOWN: it is not here");
    refused(without(&image(), &image().config_blob()), "E-missing-blob", "config sha256:");
    refused(without(&image(), &image().manifest_blob()), "E-registry-status", "MANIFEST_UNKNOWN");
    let huge = image().patch_manifest("/layers/1/size", serde_json::json!(20_u64 << 30));
    refused(one(huge), "E-too-large", "app:v1");
    let nested = |depth| OciLayout::new().nested("v1", depth, &[image()]).files();
    let _ = pull(&env, &Fake::start(nested(4), |_| Deed::Honest).image(), &["--no-cache"]).success();
    refused(nested(6), "E-bad-manifest", "nested");
}

/// Demands a token for everything but the token itself. `tokens` are those that are taken, each for so many questions.
fn guarded(token: &'static str) -> impl Fn(&Seen) -> Option<Deed> + Send + Sync + 'static {
    move |seen| {
        if seen.header("authorization") == Some(&format!("Bearer {token}")) {
            return None;
        }
        let host = seen.header("host").unwrap();
        let demand = format!(
            "Bearer realm=\"http://{host}/token?a=b\",service=\"tests, and more\",scope=\"repository:app:pull,push\""
        );
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"say who you are"}]}"#;
        Some(Deed::Reply(Reply::new(401, body).header("www-authenticate", demand)))
    }
}

#[test]
fn a_token_is_had_once_and_renewed_when_it_is_no_longer_taken() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = tokens.clone();
    let (first, second) = (guarded("one"), guarded("two"));
    let (env, uses) = (world(), AtomicUsize::new(0));
    let fake = Fake::of(&image(), move |seen| {
        if seen.path == "/token" {
            assert_eq!(seen.query, "a=b&service=tests%2C+and+more&scope=repository%3Aapp%3Apull%2Cpush");
            assert_eq!(seen.header("authorization"), None, "nobody is logged in");
            return Deed::Reply(match given.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::new(200, r#"{"token":"one","expires_in":1}"#),
                _ => Reply::new(200, r#"{"access_token":"two"}"#),
            });
        }
        // The first token is good for the manifest, the config and nothing more.
        let old = uses.load(Ordering::Relaxed) >= 2;
        let deed = if old { second(seen) } else { first(seen) };
        uses.fetch_add(usize::from(deed.is_none()), Ordering::Relaxed);
        deed.unwrap_or(Deed::Honest)
    });
    let _ = pull(&env, &fake.image(), &[]).success();
    assert_eq!(tokens.load(Ordering::Relaxed), 2);
    let anonymous = fake.seen().iter().filter(|s| s.path != "/token" && s.header("authorization").is_none()).count();
    assert_eq!(anonymous, 1, "asked as nobody first, and with the token then");
}

#[test]
fn logins_are_exchanged_for_tokens() {
    let env = world();
    let fake = Fake::of(&image(), {
        let guard = guarded("t0ken");
        move |seen| {
            if seen.path != "/token" {
                return guard(seen).unwrap_or(Deed::Honest);
            }
            let basic = seen.header("authorization") == Some("Basic bWU6czNjcmV0");
            let refresh = seen.method == "POST" && seen.body.contains("grant_type=refresh_token");
            let refresh =
                refresh && seen.body.contains("refresh_token=r3fresh%2B") && seen.body.contains("service=tests");
            Deed::Reply(if basic || refresh {
                Reply::new(200, r#"{"token":"t0ken"}"#)
            } else {
                Reply::new(401, r#"{"error":"invalid_grant","error_description":"not r3fresh+ nor s3cret"}"#)
            })
        }
    });
    let words = ["--no-cache"];
    let _ = pull(&env, &fake.image(), &[&words[..], &["--creds", "me:s3cret"]].concat()).success();
    let auth = format!(r#"{{"auths":{{"{}":{{"identitytoken":"r3fresh+"}}}}}}"#, fake.host);
    env.write("auth.json", auth);
    let _ = pull(&env, &fake.image(), &[&words[..], &["--authfile", "auth.json"]].concat()).success();
    assert!(fake.seen().iter().any(|seen| seen.method == "POST"));
    let _ = pull(&env, &fake.image(), &[&words[..], &["--creds", "<token>:r3fresh+"]].concat()).success();
    let refused = pull(&env, &fake.image(), &[&words[..], &["--creds", "me:not r3fresh+"]].concat());
    let refused = refused.refused("E-registry-auth").says("token server 127.0.0.1").says("HTTP 401");
    let _ = refused.says("--creds: a login").says_nothing_of("r3fresh");
    let _ = pull(&env, &fake.image(), &words).refused("E-registry-auth").says("invalid_grant");
}

#[test]
fn no_secret_is_told_whatever_the_registry_repeats() {
    let env = world();
    let fake = Fake::of(&image(), |seen| {
        let Some(authorization) = seen.header("authorization") else {
            return Deed::Reply(Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""));
        };
        let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"you sent {authorization}"}}]}}"#);
        Deed::Reply(Reply::new(403, body))
    });
    let refused = pull(&env, &fake.image(), &["--creds", "me:s3cret", "--json"]).code(1);
    let _ = refused.says("E-registry-auth").says("HTTP 403").says_nothing_of("bWU6").says_nothing_of("s3cret");
    // A token server beyond this machine gets no login by plain http.
    let fake = Fake::of(&image(), |_| {
        let demand = "Bearer realm=\"http://tokens.invalid/t?x=s3cret\"";
        Deed::Reply(Reply::new(401, "").header("www-authenticate", demand))
    });
    let refused = pull(&env, &fake.image(), &["--creds", "me:pass"]).refused("E-registry-auth");
    let _ = refused.says("http://tokens.invalid/t,").says_nothing_of("s3cret");
}

#[test]
fn a_redirect_to_another_host_does_not_learn_who_asks() {
    let env = world();
    let storage = Fake::honest(&image());
    let (target, guard) = (storage.host.clone(), guarded("t0ken"));
    let fake = Fake::of(&image(), move |seen| match (&*seen.path, seen.is_blob()) {
        ("/token", _) => Deed::Reply(Reply::new(200, r#"{"token":"t0ken"}"#)),
        (path, true) => {
            let to = format!("http://{target}{path}?signature=s1gned");
            guard(seen).unwrap_or_else(|| Deed::Reply(Reply::redirect(to)))
        }
        (_, false) => guard(seen).unwrap_or(Deed::Honest),
    });
    let _ = pull(&env, &fake.image(), &[]).success();
    let seen = storage.seen();
    assert_eq!(seen.len(), 4, "the config and three layers");
    assert!(
        seen.iter().all(|seen| seen.header("authorization").is_none() && seen.query == "signature=s1gned"),
        "{seen:?}"
    );
}

#[test]
fn a_signed_place_that_has_expired_is_asked_for_again() {
    let env = world();
    let storage = Fake::of(&image(), |seen| {
        if seen.before == 0 { Deed::Reply(Reply::new(403, "<Error>AccessDenied</Error>")) } else { Deed::Honest }
    });
    let target = storage.host.clone();
    let fake = Fake::of(&image(), move |seen| {
        let to = format!("http://{target}{}?expires={}", seen.path, seen.before);
        if seen.is_blob() { Deed::Reply(Reply::redirect(to)) } else { Deed::Honest }
    });
    let _ = pull(&env, &fake.image(), &[]).success();
    assert_eq!(asked(&fake), 2, "the registry gives a new place");
    assert!(storage.seen().iter().any(|seen| seen.query == "expires=1"));
}

#[test]
fn redirects_end_and_stay_secure() {
    let blob = |to: &'static str| {
        from(move |seen| if seen.is_blob() { Deed::Reply(Reply::redirect(to)) } else { Deed::Honest }).1
    };
    let refused = blob("http://storage.invalid/x?signature=s1gned").refused("E-registry-status");
    let _ = refused.says("a redirect to http://storage.invalid").says_nothing_of("s1gned");
    let _ = blob("file:///etc/passwd").refused("E-registry-status").says("file://").says_nothing_of("--insecure");
    let _ = blob("/v2/app/blobs/again").refused("E-registry-status").says("more than 5 redirects");
    let refused = blob("https://user:s1gned@storage.invalid/x?s1gned").refused("E-registry-connect");
    let _ = refused.says("storage.invalid").says_nothing_of("s1gned");
}

/// Opens and fetches by the library, which bears silence for a third of a second.
fn impatiently(env: &TestEnv, fake: &Fake) -> Result<(), Error> {
    let store = Store::open(&env.path("store"), None).unwrap();
    let network = Network { patience: Duration::from_millis(300), ..Network::default() };
    let access = Access { network, ..Access::new(store, env.tmp()) };
    let reference = Reference::parse(fake.image().as_ref()).unwrap();
    Opened::open(&reference, &eif::image::Platform::default(), &access)?.fetch(&Silent)
}

#[test]
fn silence_and_drops_are_borne_for_so_long() {
    let env = world();
    let fake = Fake::of(&image(), |_| Deed::Silence);
    let error = impatiently(&env, &fake).unwrap_err();
    assert_eq!(error.code(), "E-registry-timeout", "{error}");
    assert_eq!(fake.seen().len(), 5);
    let fake = Fake::of(&image(), |seen| match (first_layer(seen), seen.from()) {
        (Some(bytes), None) => Deed::Reply(Reply::of(200, Body::Drops(bytes.len() as u64))),
        (Some(_), Some(_)) => Deed::Silence,
        _ => Deed::Honest,
    });
    let error = impatiently(&env, &fake).unwrap_err();
    assert_eq!(error.code(), "E-registry-timeout", "{error}");
    assert!(error.to_string().contains("layer 1/3"), "{error}");
    let resumed = fake.seen().iter().filter_map(Seen::from).count();
    assert_eq!(resumed, 4, "drops are given up, and the rest is asked for");
    // The drops are still there, and turn out to be wrong.
    impatiently(&env, &Fake::honest(&image())).unwrap();
}

#[test]
fn layers_come_four_at_a_time_and_each_once() {
    let env = world();
    let texts: Vec<String> = (0..6).map(|number| format!("f 0755 0:0 app {number}")).collect();
    let mut image = Image::new(texts.iter().flat_map(|text| layers! { text.as_str() }).collect());
    image.layers.push(image.layers[0].clone());
    let image = image.config(Config::new().cmd(&["/app"]));
    let fake = Fake::honest(&image);
    let layers = |fake: &Fake| {
        let digests: Vec<String> = image.layer_blobs().iter().map(Blob::digest).collect();
        fake.seen().iter().filter(|seen| digests.iter().any(|digest| seen.path.ends_with(digest))).count()
    };
    fake.gate(1);
    let mut child = quiet(&env, &fake);
    // The config fills the gate; the layers wait behind it.
    fake.wait_for(1);
    fake.gate(image.config_blob().bytes.len() as u64);
    let deadline = Instant::now() + Duration::from_secs(30);
    while layers(&fake) < 4 {
        assert!(Instant::now() < deadline, "{:?}", fake.seen());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(layers(&fake), 4);
    fake.gate(u64::MAX);
    assert!(child.wait().unwrap().success());
    assert_eq!(layers(&fake), 6, "the layer that is there twice comes once");
}

#[test]
fn mirrors_are_asked_first_and_trusted_with_nothing() {
    let env = world();
    let pull = |further: &[&str], fake: &Fake| pull(&env, &fake.image(), &[&["--no-cache"], further].concat());
    let origin = Fake::honest(&image());
    let of = |mirror: &Fake| format!("{}=http://{}/prefix", origin.host, mirror.host);
    let good = Fake::honest(&image());
    let _ = pull(&["--mirror", &of(&good)], &origin).success();
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
    assert!(good.seen().iter().all(|seen| seen.path.starts_with("/v2/prefix/app/")));
    let liar = Fake::of(&image(), |seen| match first_layer(seen) {
        Some(bytes) => Deed::Reply(Reply::new(200, vec![0; bytes.len()])),
        None => Deed::Honest,
    });
    let _ = pull(&["--mirror", &of(&liar)], &origin).success();
    assert_eq!(origin.seen().len(), 1, "the one layer that the mirror has wrong");
    origin.forget();
    let greedy =
        Fake::of(&image(), |_| Deed::Reply(Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\"")));
    let absent = format!("{}=http://127.0.0.1:9", origin.host);
    let further = ["--mirror", &absent, "--mirror", &of(&greedy), "--creds", "me:s3cret"];
    let _ = pull(&further, &origin).success();
    assert!(greedy.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let nowhere = Fake::of(&image(), |_| Deed::Reply(Reply::new(404, "")));
    let mirror = format!("{}=http://{}", nowhere.host, greedy.host);
    let refused = pull(&["--mirror", &mirror], &nowhere).refused("E-registry-status");
    let _ = refused.says(&format!("the mirror did not give it: {}", greedy.host));
    let bad = pull(&["--mirror", "x=https://me:s3cret@y"], &origin).code(2);
    let _ = bad.says("a mirror's URL is https://HOST[:PORT][/PREFIX]").says_nothing_of("s3cret");
}

#[test]
fn a_proxy_is_for_other_machines() {
    let proxy = Fake::honest(&image());
    let env = || {
        let address = format!("http://{}", proxy.host);
        let env = TestEnv::new().variable("HTTP_PROXY", &address).variable("HTTPS_PROXY", &address);
        env.write("kernel", fake_bzimage());
        env
    };
    let fake = Fake::honest(&image());
    let _ = pull(&env(), &fake.image(), &[]).success();
    assert!(proxy.seen().is_empty());
    let _ = pull(&env(), "registry.invalid/app:v1", &[]).refused("E-registry-connect");
    let methods: Vec<String> = proxy.seen().iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["CONNECT"; 5]);
    proxy.forget();
    let _ = pull(&env(), "registry.invalid/app:v1", &["--insecure"]).success();
    assert!(proxy.seen().iter().any(|seen| seen.path == "http://registry.invalid/v2/app/manifests/v1"));
    proxy.forget();
    let without = env().variable("NO_PROXY", "registry.invalid");
    let _ = pull(&without, "registry.invalid/app:v1", &[]).refused("E-registry-connect");
    assert!(proxy.seen().is_empty());
}

#[test]
fn what_the_disk_has_damaged_is_fetched_anew() {
    let (env, fake) = (world(), Fake::honest(&image()));
    let reference = format!("{}/app@{}", fake.host, image().manifest_blob().digest());
    let expected = pull(&env, &reference, &[]).success();
    for blob in image().blobs() {
        let path = env.work().join("../cache/eif/blobs/sha256").join(blob.digest().strip_prefix("sha256:").unwrap());
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        fake.forget();
        assert_eq!(pull(&env, &reference, &[]).success().stdout(), expected.stdout());
        assert_eq!(fake.seen().len(), 1, "{:?}", fake.seen());
        assert!(fake.seen()[0].path.ends_with(&blob.digest()));
        fake.forget();
        let _ = pull(&env, &reference, &["--offline"]).success();
    }
}
