//! The promise of `src/lib.rs`: a module imports only what stands before it in the flow. Read from the source text,
//! because the compiler does not mind a cycle of modules.

use std::fs;
use std::path::{Path, PathBuf};

/// The flow, left to right. A module may import itself and what stands to its left.
const FLOW: [&str; 11] =
    ["image", "rootfs", "initramfs", "eif", "kernel", "build", "artifact", "verify", "attest", "launch", "cli"];
/// Modules that all may import and that import none of the flow.
const FREE: [&str; 8] = ["arch", "chunk", "crew", "escaped", "refusal", "progress", "init", "output"];
/// The crate's roots: they name every module because they declare them.
const ROOTS: [&str; 2] = ["lib", "main"];
/// The only places with `unsafe`: system calls that no safe crate offers, and the programs without libc.
const UNSAFE: [&str; 5] = ["src/launch/nitro.rs", "src/launch/vsock", "init/", "testdata/hello/", "tests/guest/"];

/// A source file: its path below the checkout, with slashes, and its text.
struct Source {
    path: String,
    text: String,
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut queue: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(path) = queue.pop() {
        if path.is_dir() {
            let listing = fs::read_dir(&path).unwrap().map(|item| item.unwrap().path());
            queue.extend(listing.filter(|item| !item.ends_with("target")));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push(Source { path, text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The text without comments' contents; line breaks stay, so that lines can be counted.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The module of the crate that a file below `src/` belongs to: `src/image/layout.rs` -> `image`.
fn module(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below.split('/').next().unwrap_or("").trim_end_matches(".rs")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What follows each `crate::` (and, in the program, each `eif::`): line number and first name. `crate::{a, b::c}`
/// gives two.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code = code(text);
    let mut found = Vec::new();
    for prefix in ["crate::", "eif::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if is_word(before) || before == ':' {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(first_names(&code[at + prefix.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    found
}

fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|&c| is_word(c)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items.iter().map(|item| word(item)).filter(|name| !name.is_empty()).collect()
}

/// What is wrong with one import, if anything. Names that are no module of the flow are functions of the root.
fn complaint(from: &str, to: &str) -> Option<String> {
    let place = |name: &str| FLOW.iter().position(|module| *module == name);
    let to_place = place(to).filter(|_| !ROOTS.contains(&from) && from != to)?;
    match place(from) {
        Some(from_place) if to_place < from_place => None,
        _ => Some(format!("`{from}` imports `{to}`, which does not stand before it")),
    }
}

fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (line, to) in imports(&source.text) {
            if let Some(complaint) = complaint(module(&source.path), &to) {
                found.push(format!("{}:{line}: {complaint}", source.path));
            }
        }
    }
    found
}

/// Lines of code with the word `unsafe` outside the allowed places.
fn unsafe_lines(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !UNSAFE.iter().any(|place| source.path.starts_with(place))) {
        for (number, line) in code(&source.text).lines().enumerate() {
            if line.split(|c| !is_word(c)).any(|word| word == "unsafe") && !line.contains('"') {
                found.push(format!("{}:{}: unsafe", source.path, number + 1));
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_stands_before_them() {
    let sources = sources(&["src"]);
    assert!(sources.len() > 3, "the sources were not found");
    let found = violations(&sources);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_has_a_place() {
    for source in sources(&["src"]) {
        let name = module(&source.path);
        let known = FLOW.iter().chain(&FREE).chain(&ROOTS).any(|known| *known == name);
        assert!(known, "{}: `{name}` has no place in the flow: give it one in tests/architecture.rs", source.path);
    }
}

#[test]
fn the_library_does_not_know_the_command_line() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(!code(&lib).contains("mod cli"), "src/lib.rs declares `cli`");
}

#[test]
fn unsafe_stands_only_where_it_is_allowed() {
    let found = unsafe_lines(&sources(&["src", "init", "benches", "tests", "testdata", "build.rs"]));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_are_short_and_have_a_name() {
    for source in sources(&["src", "init", "benches", "tests", "testdata"]) {
        let lines = source.text.lines().count();
        assert!(lines <= 700, "{}: {lines} lines", source.path);
        assert!(!source.path.contains("util"), "{}: name it for what it does", source.path);
    }
}

/// The checks can fail: planted violations are found, each with its file and line.
#[test]
fn planted_violations_are_found() {
    let plant = |path: &str, text: &str| [Source { path: path.to_owned(), text: text.to_owned() }];
    let cases = [
        ("src/image/layout.rs", "\nuse crate::launch::Vm;", "src/image/layout.rs:2: `image` imports `launch`"),
        (
            "src/eif/a.rs",
            "use crate::{\n  Arch,\n  rootfs::{self, Tree},\n  build,\n};",
            "src/eif/a.rs:1: `eif` imports `build`",
        ),
        ("src/rootfs.rs", "fn f() { let x = crate::eif::y(); }", "src/rootfs.rs:1: `rootfs` imports `eif`"),
        ("src/arch.rs", "use crate::image::Image;", "src/arch.rs:1: `arch` imports `image`"),
    ];
    for (path, text, expected) in cases {
        let found = violations(&plant(path, text));
        assert_eq!(found.len(), 1, "{path}: {found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
    }
    let good = "// crate::launch\nuse crate::{Arch, escaped, image::Image};\nuse crate::eif::Kind;\nuse super::x;";
    assert!(violations(&plant("src/eif/writer.rs", good)).is_empty());
    assert_eq!(unsafe_lines(&plant("src/image/a.rs", "\n unsafe { x() }")), ["src/image/a.rs:2: unsafe"]);
    assert!(unsafe_lines(&plant("src/launch/nitro.rs", "unsafe {}")).is_empty());
    assert!(unsafe_lines(&plant("src/a.rs", "#![deny(unsafe_code)] // unsafe")).is_empty());
}
