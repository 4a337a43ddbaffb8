//! A change of golden values is a change of what `eif` promises, and CHANGELOG.md says so: it names the digest of each file
//! of golden values, so that none can change alone.

use std::fs;
use std::path::{Path, PathBuf};

use eif_testdata::sha256;

/// The files of golden values.
fn files() -> Vec<PathBuf> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> = fs::read_dir(testdata.join("golden")).unwrap().map(|item| item.unwrap().path()).collect();
    files.extend(["init.sha256", "same_bytes.sha256"].map(|name| testdata.join(name)));
    files.sort();
    files
}

/// The digests that a changelog lacks, each with its file's name.
fn missing(changelog: &str) -> Vec<String> {
    // The newest version alone: what an older one said is history.
    let newest = changelog.split("\n## ").nth(1).unwrap_or_default();
    let line = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        format!("`{name}` {}", &sha256(&fs::read(file).unwrap())["sha256:".len()..][..16])
    };
    files().iter().map(line).filter(|line| !newest.contains(line.as_str())).collect()
}

#[test]
fn the_changelog_names_the_golden_values() {
    let changelog = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md")).unwrap();
    let missing = missing(&changelog);
    assert!(
        missing.is_empty(),
        "golden values have changed. Say in CHANGELOG.md which images get other PCRs and why (**Changes PCR…**), and \
         set the digest there:\n{}",
        missing.join("\n")
    );
}

/// The check can fail.
#[test]
fn a_changed_value_is_seen() {
    assert_eq!(missing("# Changelog\n\n## [Unreleased]\n\nnothing\n").len(), files().len());
    let old = "\n## [Unreleased]\n\n## [0.1.0]\n\n`hello.json` 0000000000000000\n";
    assert!(missing(old).iter().any(|line| line.starts_with("`hello.json` ")));
}
