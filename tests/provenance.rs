//! The promise of `--provenance`, `--report` and `--sbom`: what the world's tools want to know of a build, about this
//! file and no other.

mod common;

use std::fs;

use common::registry::{Deed, Demands, Fake, RealRegistry, Reply};
use common::{Output, TestEnv};
use eif_testdata::{Blob, Compression, Config, Image, OciLayout, canonical, fake_bzimage, layers, sha256};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn image() -> Image {
    let layers =
        layers! { "f 0644 0:0 etc/hosts 127.0.0.1 localhost", "f 0755 0:0 app program", "--", "d 0755 0:0 srv/" };
    Image::new(layers).config(Config::new().entrypoint(&["/app"]).env(&["A=1"])).compress(Compression::Gzip)
}

fn world() -> TestEnv {
    let env = TestEnv::new();
    let _ = env.layout("image", &image());
    env.write("kernel", fake_bzimage());
    env
}

fn build(env: &TestEnv, reference: &str, further: &[&str]) -> Output {
    let words = ["build", reference, "--kernel", "kernel", "--cmdline", "console=ttyS0", "-o", "app.eif"];
    env.eif(&[&words[..], further].concat())
}

fn text(env: &TestEnv, name: &str) -> String {
    fs::read_to_string(env.path(name)).unwrap()
}

fn read(env: &TestEnv, name: &str) -> Value {
    serde_json::from_str(&text(env, name)).unwrap()
}

/// What in-toto and SLSA want of a statement, by hand: names, types and forms of their specifications.
fn assert_is_statement(statement: &Value) {
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let keys: Vec<&String> = statement.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["_type", "predicate", "predicateType", "subject"]);
    let definition = &statement["predicate"]["buildDefinition"];
    assert!(definition["buildType"].as_str().unwrap().contains(':'), "a URI");
    assert!(definition["externalParameters"].is_object());
    assert!(statement["predicate"]["runDetails"]["builder"]["id"].as_str().unwrap().contains(':'), "a URI");
    let resources = [&statement["subject"], &definition["resolvedDependencies"]];
    for resource in resources.iter().flat_map(|list| list.as_array().unwrap()) {
        assert!(resource["name"].is_string(), "{resource}");
        let digests = resource["digest"].as_object().unwrap();
        assert!(!digests.is_empty(), "{resource}");
        for (algorithm, value) in digests {
            let length = if algorithm == "sha256" { 64 } else { 96 };
            let value = value.as_str().unwrap();
            assert!(value.len() == length && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        }
    }
}

#[test]
fn the_statement_is_about_the_file_and_its_registers() {
    let env = world();
    let options = ["--provenance", "app.intoto.json", "--user", "7:8", "--mtime", "keep"];
    let measured = build(&env, "oci:image:latest", &options).success().json();
    let statement = read(&env, "app.intoto.json");
    assert_is_statement(&statement);
    let file = fs::read(env.path("app.eif")).unwrap();
    let mut expected = vec![json!({ "name": "app.eif", "digest": { "sha256": &sha256(&file)[7..] } })];
    for name in ["PCR0", "PCR1", "PCR2"] {
        let value = &measured["Measurements"][name];
        expected.push(json!({ "name": name, "digest": { name.to_lowercase(): value } }));
    }
    assert_eq!(statement["subject"], json!(expected));
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["reference"], "oci:image:latest");
    assert_eq!(definition["externalParameters"]["platform"], "linux/amd64");
    let options = &definition["externalParameters"]["options"];
    assert_eq!((&options["overrides"], &options["mtime"]), (&json!({ "user": "7:8" }), &json!("keep")));
    let record =
        env.eif(&["inspect", "app.eif", "--json"]).success().json()["metadata"]["CustomMetadata"]["eif"].take();
    let digests: Vec<&str> = definition["resolvedDependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["digest"]["sha256"].as_str().unwrap())
        .collect();
    let diff_ids = image().diff_ids();
    let manifest = image().manifest_blob().digest();
    let mut expected = vec![&manifest[7..], &diff_ids[0][7..], &diff_ids[1][7..]];
    expected.extend([record["kernel_sha256"].as_str().unwrap(), record["init_sha256"].as_str().unwrap()]);
    assert_eq!(digests, expected);
    let first = text(&env, "app.intoto.json");
    assert_eq!(first, format!("{statement:#}\n"), "two spaces, a newline at the end");
    assert!(!first.contains("pulled") && !first.contains(&env.work().display().to_string()));
    let _ = build(&env, "oci:image:latest", &["--provenance", "app.intoto.json", "--user", "7:8", "--mtime", "keep"]);
    assert_eq!(text(&env, "app.intoto.json"), first, "the same build, the same statement");
}

#[test]
fn a_pull_has_a_time_and_a_digest_and_the_file_has_neither() {
    let env = world();
    let _ = build(&env, "oci:image:latest", &[]).success();
    let plain = fs::read(env.path("app.eif")).unwrap();
    let registry = RealRegistry::start(&env, &Demands::default());
    registry.push(&env, "image:latest", "app:v1", &[]);
    let name = format!("{}/app", registry.host);
    let further = ["--provenance", "statement", "--report", "report.json", "--lock", "lock"];
    let _ = build(&env, &format!("{name}:v1"), &further).success();
    assert_eq!(fs::read(env.path("app.eif")).unwrap(), plain);
    let (statement, report, digest) =
        (read(&env, "statement"), read(&env, "report.json"), image().manifest_blob().digest());
    assert_is_statement(&statement);
    let found = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!(found["uri"], format!("docker://{name}@{digest}"));
    assert_eq!(found["annotations"]["pulled"], report["pulled"]);
    assert_eq!((report["pulled"].as_str().unwrap().len(), &report["manifest_digest"]), (20, &json!(digest)));
    assert_eq!(report["pinned_reference"], format!("{name}@{digest}"));
    assert!(!text(&env, "lock").contains("pulled"));
}

#[test]
fn the_report_has_all_facts() {
    let env = world();
    let output = build(&env, "oci:image:latest", &["--report", "report.json", "--lock", "eif.lock"]).success();
    let (report, lock) = (read(&env, "report.json"), read(&env, "eif.lock"));
    assert_eq!(report["Measurements"], output.json()["Measurements"]);
    assert_eq!((&report["record"], &report["reference"]), (&lock["record"], &lock["reference"]));
    assert_eq!(report["init"]["toolchain"], lock["toolchain"]);
    let file = fs::read(env.path("app.eif")).unwrap();
    let expected = json!({ "name": "app.eif", "sha256": &sha256(&file)[7..], "size": file.len() });
    assert_eq!((&report["file"], &report["pulled"]), (&expected, &json!(null)));
    assert_eq!(report["ramdisks"].as_array().unwrap().len(), 2);
    assert!(report["memory_mib"].as_u64().unwrap() > 0 && report["unpacked"]["inodes"].as_u64().unwrap() > 5);
    let warned = output.stderr().lines().filter(|line| line.starts_with("warning")).count();
    assert_eq!(report["warnings"].as_array().unwrap().len(), warned);
}

#[test]
fn a_document_that_cannot_be_written_means_no_file() {
    let env = world();
    for option in ["--provenance", "--report", "--sbom"] {
        let _ = build(&env, "oci:image:latest", &[option, "no/where"]).refused("E-output").says("no/where: ");
        assert!(!env.path("app.eif").exists());
    }
    let bad = Image::new(layers! { "f 0755 0:0 app x" }).config(Config::new().user("nobody").cmd(&["/app"]));
    let _ = env.layout("bad", &bad);
    let _ = build(&env, "oci:bad", &["--provenance", "statement", "--report", "report"]).code(1);
    assert!(!env.path("statement").exists() && !env.path("report").exists());
}

/// A blob of JSON.
fn blob(media_type: &str, value: &Value) -> Blob {
    Blob { media_type: media_type.to_owned(), bytes: canonical(value) }
}

fn spdx() -> Value {
    json!({ "spdxVersion": "SPDX-2.3", "name": "the image's own", "packages": [] })
}

/// What BuildKit makes with `--sbom=true --provenance=true`: an index of the image and of statements about it.
fn buildkit(kinds: &[&str]) -> OciLayout {
    let image = image();
    let digest = image.manifest_blob().digest();
    let statement = |kind: &&str| {
        let subject = json!([{ "name": "pkg:docker/app@v1", "digest": { "sha256": &digest[7..] } }]);
        let words = json!({ "_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind, "subject": subject, "predicate": spdx() });
        blob("application/vnd.in-toto+json", &words)
    };
    let statements: Vec<Blob> = kinds.iter().map(statement).collect();
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        &json!({ "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": { "type": "layers", "diff_ids": [] } }),
    );
    let layers: Vec<Value> = statements
        .iter()
        .zip(kinds)
        .map(|(statement, kind)| {
            let mut layer = statement.descriptor();
            layer["annotations"] = json!({ "in-toto.io/predicate-type": kind });
            layer
        })
        .collect();
    let about = blob(
        MANIFEST,
        &json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": layers }),
    );
    let mut entry = about.descriptor();
    entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    entry["annotations"] =
        json!({ "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest });
    let mut own = image.manifest_blob().descriptor();
    own["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = blob(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [own, entry] }));
    let mut named = index.descriptor();
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let blobs = image.blobs().into_iter().chain(statements).chain([config, about, index]);
    blobs.fold(OciLayout::new().descriptor(named), OciLayout::with_blob)
}

#[test]
fn the_sbom_of_buildkit_is_passed_on_from_layouts_and_registries() {
    let env = world();
    let kinds = ["https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"];
    buildkit(&kinds).files().write_dir(&env.path("built"));
    let _ = build(&env, "oci:built:v1", &["--sbom", "layout.json"]).success();
    assert_eq!(read(&env, "layout.json"), spdx());
    let registry = RealRegistry::start(&env, &Demands::default());
    registry.push(&env, "built:v1", "app:v1", &[]);
    let _ = build(&env, &format!("{}/app:v1", registry.host), &["--sbom", "registry.json"]).success();
    assert_eq!(text(&env, "registry.json"), text(&env, "layout.json"));
    buildkit(&["https://cyclonedx.org/bom/v1.5"]).files().write_dir(&env.path("cyclonedx"));
    let _ = build(&env, "oci:cyclonedx:v1", &["--sbom", "cyclonedx.json"]).success();
    buildkit(&kinds[..1]).files().write_dir(&env.path("without"));
    let _ = build(&env, "oci:without:v1", &["--sbom", "x"]).refused("E-no-sbom").says("buildx");
    assert!(!env.path("x").exists());
}

/// What `oras attach` makes: an artifact whose subject is the image, under the tag that stands in for the API, and in a
/// layout as one more entry.
fn attached(about: &str) -> (Blob, Blob) {
    let sbom = blob("application/spdx+json", &spdx());
    let empty = json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 });
    let subject = json!({ "mediaType": MANIFEST, "digest": about, "size": image().manifest_blob().bytes.len() });
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/spdx+json", "config": empty, "layers": [sbom.descriptor()], "subject": subject });
    (blob(MANIFEST, &manifest), sbom)
}

#[test]
fn an_sbom_that_refers_to_the_image_is_passed_on() {
    let env = world();
    let digest = image().manifest_blob().digest();
    let (artifact, sbom) = attached(&digest);
    let mut entry = artifact.descriptor();
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "other" });
    let with =
        OciLayout::new().tag("v1", &image()).descriptor(entry).with_blob(artifact.clone()).with_blob(sbom.clone());
    with.files().write_dir(&env.path("with"));
    let _ = build(&env, "oci:with:v1", &["--sbom", "layout.json"]).success();
    assert_eq!(fs::read(env.path("layout.json")).unwrap(), sbom.bytes, "as it is");
    let referrers =
        blob(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [artifact.descriptor()] }));
    for tag in [true, false] {
        let mut named = referrers.descriptor();
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": format!("sha256-{}", &digest[7..]) });
        let layout = OciLayout::new().tag("v1", &image()).descriptor(named);
        let blobs = [artifact.clone(), sbom.clone(), referrers.clone()];
        let files = blobs.into_iter().fold(layout, OciLayout::with_blob).files();
        let bytes = referrers.bytes.clone();
        let fake = Fake::start(files, move |seen| match seen.path.contains("/referrers/") {
            true if !tag => Deed::Reply(Reply::new(200, bytes.clone())),
            _ => Deed::Honest,
        });
        let name = format!("{}/app:v1", fake.host);
        let _ = build(&env, &name, &["--sbom", "registry.json", "--no-cache"]).success();
        assert_eq!(fs::read(env.path("registry.json")).unwrap(), sbom.bytes);
        let asked = fake.seen().iter().any(|seen| seen.path.contains("/manifests/sha256-"));
        assert_eq!(asked, tag);
    }
    let fake = Fake::honest(&image());
    let _ = build(&env, &fake.image(), &["--sbom", "x"]).refused("E-no-sbom").says(&digest[..19]);
    // One that is about another image is none of this one.
    let (artifact, sbom) = attached(&sha256(b"another"));
    let other = OciLayout::new().tag("v1", &image()).descriptor(artifact.descriptor());
    other.with_blob(artifact).with_blob(sbom).files().write_dir(&env.path("other"));
    let _ = build(&env, "oci:other:v1", &["--sbom", "x"]).refused("E-no-sbom");
}
