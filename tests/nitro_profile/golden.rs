//! Twenty images and what nitro-cli 1.5.0 made of them (testdata/nitro-cli/README.md), through every form of archive.

use std::fs;
use std::io::Read;

use eif_testdata::{Compression, DockerArchive, Files, Image, Layer, OciLayout, sha256};
use serde_json::{Map, Value};

use crate::common::TestEnv;
use crate::model;
use crate::world::{self, golden, image, listing};

/// A golden image: layers and the object `config`.
struct Golden {
    name: String,
    layers: Vec<Layer>,
    config: Value,
    expected: Value,
}

fn all() -> Vec<Golden> {
    let mut names: Vec<String> =
        fs::read_dir(golden("")).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".tar.gz"));
    names.sort();
    assert_eq!(names.len(), 20);
    names.iter().map(|name| Golden::read(name.trim_end_matches(".tar.gz"))).collect()
}

impl Golden {
    fn read(name: &str) -> Self {
        let files = untar(&golden(&format!("{name}.tar.gz")));
        let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let (config, layers): (Value, Vec<String>) = if files.contains_key("manifest.json") {
            let item = json("manifest.json")[0].clone();
            let layers = item["Layers"].as_array().unwrap().iter().map(|layer| layer.as_str().unwrap().to_owned());
            (json(item["Config"].as_str().unwrap()), layers.collect())
        } else {
            let manifest = json(&blob(&json("index.json")["manifests"][0]["digest"]));
            let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| blob(&layer["digest"]));
            (json(&blob(&manifest["config"]["digest"])), layers.collect())
        };
        let expected = fs::read(golden(&format!("{name}.json"))).unwrap();
        Golden {
            name: name.to_owned(),
            layers: layers.iter().map(|layer| Layer::from_tar(plain(&files[layer.as_str()]))).collect(),
            config: config["config"].clone(),
            expected: serde_json::from_slice(&expected).unwrap(),
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.expected[key].as_str()
    }

    fn strings(&self, key: &str) -> Vec<String> {
        let items = self.expected[key].as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    }
}

/// A blob of a layer, unpacked.
fn plain(blob: &[u8]) -> Vec<u8> {
    if !blob.starts_with(&[0x1f, 0x8b]) {
        return blob.to_vec();
    }
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(blob).read_to_end(&mut out).unwrap();
    out
}

fn untar(path: &std::path::Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let bytes = plain(&fs::read(path).unwrap());
    let mut archive = tar::Archive::new(&bytes[..]);
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().trim_start_matches("./").to_owned(), bytes)
    });
    files.collect()
}

/// The same image in every form of archive: references that `env` understands.
fn forms(env: &TestEnv, golden: &Golden) -> Vec<String> {
    let image = image(&golden.layers, &golden.config);
    let write = |name: &str, files: Files| {
        files.write_tar(&env.path(name));
        name.to_owned()
    };
    let packed: Image = image.clone().compress(Compression::Gzip);
    let docker = DockerArchive::new().image(&["golden:latest"], &image);
    let own = if golden.text("image") == Some("OCI layout") { "oci-archive" } else { "docker-archive" };
    vec![
        format!("{own}:{}", world::golden(&format!("{}.tar.gz", golden.name)).display()),
        format!("oci-archive:{}", write("oci.tar", OciLayout::new().tag("latest", &image).files())),
        format!("oci-archive:{}", write("packed.tar", OciLayout::new().tag("latest", &packed).files())),
        format!("docker-archive:{}", write("modern.tar", docker.modern())),
        format!("docker-archive:{}", write("legacy.tar", docker.legacy())),
    ]
}

fn build(env: &TestEnv, reference: &str, further: &[&str]) -> crate::common::Output {
    let blobs = golden("blobs").display().to_string();
    let words = ["build", reference, "-o", "out.eif", "--profile", "nitro-cli", "--blobs", &blobs];
    env.eif(&[&words[..], further].concat())
}

#[test]
fn all_twenty_agree_in_every_form() {
    for golden in all() {
        let env = TestEnv::new();
        for reference in forms(&env, &golden) {
            judge(&env, &golden, &reference);
        }
    }
}

fn judge(env: &TestEnv, golden: &Golden, reference: &str) {
    let times = golden.strings("times_of_the_build");
    let code = match golden.text("because") {
        Some("neither Cmd nor Entrypoint") => Some("E-no-command"),
        Some("hard link to a path that this layer does not hold") => Some("E-hardlink-target"),
        Some(other) => panic!("{other}"),
        None if !times.is_empty() => Some("E-nitro-times"),
        None => None,
    };
    let output = build(env, reference, &[]);
    let mut expected = Map::new();
    match code {
        Some(code) => {
            let mut output = output.refused(code);
            for name in &times {
                output = output.says(name.trim_start_matches("rootfs").trim_end_matches('/'));
            }
            if times.is_empty() {
                return;
            }
            let _ = build(env, reference, &["--accept-unstable-times"]).success().says("W-nitro-times");
        }
        None => {
            for pcr in ["PCR0", "PCR1", "PCR2"] {
                expected.insert(pcr.to_owned(), golden.expected[pcr].clone());
            }
            let mut measured = output.success().json()["Measurements"].take();
            measured.as_object_mut().unwrap().remove("HashAlgorithm");
            assert_eq!(measured, Value::Object(expected), "{reference}");
        }
    }
    let file = fs::read(env.path("out.eif")).unwrap();
    fs::remove_file(env.path("out.eif")).unwrap();
    let [first, second] = <[Vec<u8>; 2]>::try_from(world::ramdisks(&file)).unwrap();
    assert_eq!(listing(&second, &times), golden.strings("entries"), "{reference}");
    let hash = |bytes: &[u8]| Some(sha256(bytes)["sha256:".len()..].to_owned());
    assert_eq!(hash(&first).as_deref(), golden.text("ramdisk1_sha256"), "{reference}");
    let key = if times.is_empty() { "ramdisk2_sha256" } else { "ramdisk2_sha256_with_those_times_zero" };
    assert_eq!(hash(&second).as_deref(), golden.text(key), "{reference}");
    let pcr1 = env_pcr1(&file);
    assert_eq!(Some(pcr1.as_str()), golden.text("PCR1"), "{reference}");
}

fn env_pcr1(file: &[u8]) -> String {
    eif::eif::Eif::open(file).unwrap().measure(1).unwrap().pcr1.to_string()
}

/// The judge of the random images is held to what nitro-cli made, too.
#[test]
fn the_model_agrees_with_all_twenty() {
    for golden in all() {
        let layers: Vec<Layer> = golden.layers.iter().map(|layer| Layer::read_tar(&layer.tar())).collect();
        let answer = model::ramdisk2(&layers, &golden.config, model::Store::Overlay2);
        if golden.text("because").is_some() {
            assert!(answer.is_err(), "{}", golden.name);
            continue;
        }
        let model::Answer { ramdisk, times } = answer.unwrap_or_else(|why| panic!("{}: {why}", golden.name));
        let times: Vec<String> = times.iter().map(|name| format!("{name}/")).collect();
        assert_eq!(times, golden.strings("times_of_the_build"));
        assert_eq!(listing(&ramdisk, &times), golden.strings("entries"), "{}", golden.name);
    }
}

/// `pcr` measures the same and writes nothing.
#[test]
fn pcr_measures_what_build_writes() {
    let env = TestEnv::new();
    let golden = Golden::read("plain");
    let blobs = world::golden("blobs").display().to_string();
    let reference = forms(&env, &golden).remove(1);
    let output = env.eif(&["pcr", &reference, "--profile", "nitro-cli", "--blobs", &blobs]).success();
    assert_eq!(output.json()["Measurements"]["PCR0"], golden.expected["PCR0"]);
}
