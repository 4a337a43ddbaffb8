//! Where a file comes from, in the words of the world: an in-toto Statement v1 with a SLSA provenance v1 predicate
//! (in-toto/attestation `spec/v1`, slsa.dev/spec/v1.0/provenance). What each member means is told in docs/provenance.md.

use serde_json::{Value, json};

use super::Plan;
use super::Report;
use crate::eif::metadata::{self, rfc3339};
use crate::image::{Digest, Reference};

/// The type of the statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The type of its predicate.
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// What the parameters and the dependencies mean: the page of that name in this package (package-url, with a subpath).
const BUILD_TYPE: &str = "pkg:cargo/eif#docs/provenance.md";
/// Who built: this program, wherever it ran. Who ran it is for whoever signs the statement to say.
const BUILDER: &str = "pkg:cargo/eif";

/// The statement about the file `name` with this digest. Its keys are sorted, and without a time of a pull it is a
/// function of the build alone.
pub(super) fn statement(plan: &Plan, (name, file): (&str, &Digest), report: &Report) -> Value {
    metadata::sorted(json!({
        "_type": STATEMENT,
        "subject": subjects(name, file, report),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "reference": plan.documents.reference,
                    "platform": plan.platform,
                    "options": options(plan, report),
                },
                "resolvedDependencies": dependencies(plan, report),
            },
            "runDetails": { "builder": { "id": BUILDER, "version": { "eif": report.record.version } } },
        },
    }))
}

/// Whether the bytes are a statement one of whose subjects has this SHA-256.
pub fn is_about(statement: &[u8], file: &Digest) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(statement) else { return false };
    let subjects = value.get("subject").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names = |subject: &Value| subject.pointer("/digest/sha256").and_then(Value::as_str) == Some(&file.hex());
    value.get("_type").and_then(Value::as_str) == Some(STATEMENT) && subjects.iter().any(names)
}

/// The file, and each register: its value is no hash of a file's bytes, so its key is not that of a hash.
fn subjects(name: &str, file: &Digest, report: &Report) -> Vec<Value> {
    let file = json!({ "name": name, "digest": { "sha256": file.hex() } });
    let register = |(name, pcr): (&str, crate::eif::Pcr)| json!({ "name": name, "digest": { name.to_lowercase(): pcr.to_string() } });
    std::iter::once(file).chain(report.measurements.named().into_iter().map(register)).collect()
}

/// All that the user chose beside the image; the kernel and the init are among the dependencies.
fn options(plan: &Plan, report: &Report) -> Value {
    let record = &report.record;
    json!({
        "cmdline": record.cmdline,
        "compress": record.compress,
        "docker_store": record.docker_store,
        "accept_unstable_times": record.accept_unstable_times,
        "keep_owners": record.rootfs.as_ref().is_some_and(|rootfs| rootfs.keep_owners),
        "metadata": plan.custom,
        "mtime": record.mtime,
        "name": plan.name,
        "image_version": plan.image_version,
        "overrides": record.overrides,
        "profile": record.profile,
        "signed": plan.signer.is_some(),
        "source_date_epoch": plan.epoch,
    })
}

/// The image and its layers, kernel, init and modules.
fn dependencies(plan: &Plan, report: &Report) -> Vec<Value> {
    let record = &report.record;
    let mut all: Vec<Value> = image(plan, report).into_iter().collect();
    let count = record.diff_ids.len();
    all.extend(record.diff_ids.iter().zip(1..).map(|(diff_id, number)| {
        json!({ "name": format!("layer {number}/{count}, uncompressed"), "digest": { "sha256": diff_id.hex() } })
    }));
    all.push(part("kernel", &record.kernel_sha256, "kernel_lock_id", report.kernel_lock_id.as_deref()));
    all.push(part("init", &record.init_sha256, "toolchain", report.toolchain));
    all.extend(record.modules.iter().map(|module| part(&module.name, &module.sha256, "", None)));
    all
}

/// The image, where its transport has a digest for it.
fn image(plan: &Plan, report: &Report) -> Option<Value> {
    let mut image = json!({ "name": "image", "digest": { "sha256": report.manifest?.hex() } });
    if let Reference::Docker(name) = &plan.reference {
        let pinned = report.pin.clone().unwrap_or_else(|| name.to_string());
        image["uri"] = json!(format!("docker://{pinned}"));
    }
    if let Some(time) = plan.documents.pulled.and_then(|time| rfc3339(time).ok()) {
        image["annotations"] = json!({ "pulled": time });
    }
    Some(image)
}

fn part(name: &str, sha256: &str, key: &str, source: Option<&str>) -> Value {
    let mut part = json!({ "name": name, "digest": { "sha256": sha256 } });
    if let Some(source) = source {
        part["annotations"] = json!({ key: source });
    }
    part
}
