//! What fuzzing starts from and what it has found: every input that is kept goes through its target again.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use targets::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The files in a folder, by name; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = listing.map(|item| item.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let (_, body) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let (seeds, findings) = (files(&folder("corpus").join(name)), files(&folder("findings").join(name)));
    assert!(!seeds.is_empty(), "no seeds of {name}");
    for file in seeds.iter().chain(&findings) {
        let bytes = fs::read(file).unwrap();
        let went_through = catch_unwind(|| body(&bytes).is_some());
        let went_through = went_through.unwrap_or_else(|_| panic!("{} breaks its target", file.display()));
        // What is refused at the door does not show the fuzzer what is behind it.
        assert!(went_through || findings.contains(file) || file.ends_with("gap"), "{} is refused", file.display());
    }
}

#[test]
fn attest() {
    replay("attest");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn eif() {
    replay("eif");
}

#[test]
fn layer() {
    replay("layer");
}

#[test]
fn manifest() {
    replay("manifest");
}

#[test]
fn newc() {
    replay("newc");
}

#[test]
fn the_seeds_are_what_the_generator_makes() {
    let seeds = targets::seeds();
    for (target, name, bytes) in &seeds {
        let path = folder("corpus").join(target).join(name);
        let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(kept == *bytes, "{}: write it again, see `write_the_seeds`", path.display());
    }
    let kept: usize = TARGETS.iter().map(|(target, _)| files(&folder("corpus").join(target)).len()).sum();
    assert_eq!(kept, seeds.len(), "a file in fuzz/corpus that the generator does not make");
}

#[test]
#[ignore = "writes fuzz/corpus: `cargo test --test fuzz_corpus -- --ignored`"]
fn write_the_seeds() {
    for (target, name, bytes) in targets::seeds() {
        let folder = folder("corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}
