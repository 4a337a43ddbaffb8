//! What the pages in docs/ show is what the program prints: each `console` block is run, and its output compared.
//!
//! A block is commands (`$ …`, one a line) with what they print, both streams together, as a terminal shows them. A line
//! `…` stands for any number of lines. The commands of one page run in one folder, in order; what it holds beforehand
//! is [`prepare`]. `EIF_DOCS=write cargo test --test docs` puts the real output into blocks that differ.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::TestEnv;
use eif_testdata::{DockerArchive, hello_image};

/// The sign for lines that are left out.
const ELLIPSIS: &str = "…";

/// What is in the folder where a page's commands run.
fn prepare() -> TestEnv {
    let env = TestEnv::with_kernels();
    env.layout("hello", &hello_image());
    DockerArchive::new().image(&["hello:latest"], &hello_image()).modern().write_tar(&env.path("hello.tar"));
    copy("docs", &env.work());
    // Images that nitro-cli has measured, with the blobs that it packed.
    fs::create_dir(env.path("blobs")).unwrap();
    copy("nitro-cli/blobs", &env.path("blobs"));
    for (golden, name) in [("entrypoint-and-cmd", "app.tar.gz"), ("implicit-parents", "implied.tar.gz")] {
        fs::copy(testdata().join(format!("nitro-cli/{golden}.tar.gz")), env.path(name)).unwrap();
    }
    env
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn copy(folder: &str, to: &Path) {
    for item in fs::read_dir(testdata().join(folder)).unwrap() {
        let path = item.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn pages() -> Vec<PathBuf> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pages: Vec<PathBuf> = fs::read_dir(docs).unwrap().map(|item| item.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages
}

/// A command and what it printed, or should.
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(block: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
            None => steps.last_mut().expect("a block begins with a command").expected.push((*line).to_owned()),
        }
    }
    steps
}

/// Whether this machine's kernel is the one that kernels.lock records: without it, measurements and sizes are others.
fn has_locked_kernel(env: &TestEnv) -> bool {
    let kernels = env.eif(&["kernel", "ls", "--json"]).success().json();
    kernels
        .as_array()
        .unwrap()
        .iter()
        .any(|row| row["arch"] == "x86_64" && row["built"].is_string() && row["built"] == row["locked"])
}

/// The line with each number, decimal or hex, as one `#`.
fn without_numbers(line: &str) -> String {
    let words = line.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let is_number = |word: &str| {
        word.bytes().any(|b| b.is_ascii_digit()) && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'x')
    };
    let masked = words.map(|word| {
        let (body, end) = word.split_at(word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
        if is_number(body) { format!("#{end}") } else { word.to_owned() }
    });
    masked.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(env: &TestEnv, command: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_BIN_EXE_eif")).parent().unwrap().display();
    let script = format!("export PATH={folder}:$PATH\nexec 2>&1\n{command}");
    let output = env.command_of("sh", &["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).expect("a page's output is UTF-8").replace('\r', "");
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    match output.status.code() {
        Some(0) => {}
        code => lines.push(format!("(exit status {})", code.expect("no signal ended it"))),
    }
    lines
}

/// Whether the lines are those of the pattern.
fn matches(pattern: &[String], lines: &[String], exact: bool) -> bool {
    let same = |a: &String, b: &String| a == b || (!exact && without_numbers(a) == without_numbers(b));
    match pattern.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first.trim() == ELLIPSIS => {
            (0..=lines.len()).any(|skip| matches(rest, &lines[skip..], exact))
        }
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, left)| same(line, first) && matches(rest, left, exact))
        }
    }
}

/// The page with real output in its blocks, and what was wrong with it.
fn replay(page: &str, env: &TestEnv) -> (String, Vec<String>) {
    let exact = has_locked_kernel(env);
    let (mut out, mut wrong) = (Vec::<String>::new(), Vec::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out.push(line.to_owned());
        if line != "```console" {
            continue;
        }
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        for Step { command, expected } in steps(&block) {
            let got = run(env, &command);
            out.push(format!("$ {command}"));
            if matches(&expected, &got, exact) {
                out.extend(expected);
            } else {
                wrong.push(format!(
                    "$ {command}\n-- the page:\n{}\n-- printed:\n{}",
                    expected.join("\n"),
                    got.join("\n")
                ));
                out.extend(got);
            }
        }
        out.push("```".to_owned());
    }
    (out.join("\n") + "\n", wrong)
}

#[test]
fn the_pages_show_what_is_printed() {
    let write = option_env("EIF_DOCS") == Some("write".to_owned());
    let mut wrong = Vec::new();
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let (real, differences) = replay(&page, &prepare());
        if write {
            fs::write(&path, real).unwrap();
        } else {
            wrong.extend(differences.into_iter().map(|text| format!("{}: {text}", path.display())));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n\n`EIF_DOCS=write cargo test --test docs` writes the real output",
        wrong.join("\n\n")
    );
}

#[expect(clippy::disallowed_methods, reason = "whoever writes the pages asks for it")]
fn option_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn an_ellipsis_stands_for_any_lines() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(matches(&lines("a\n…\nd"), &lines("a\nb\nc\nd"), true));
    assert!(matches(&lines("a\n…"), &lines("a"), true));
    assert!(!matches(&lines("a\n…\nd"), &lines("a\nb\nc"), true));
    assert!(!matches(&lines("a"), &lines("a\nb"), true));
    assert!(matches(&lines("PCR0 00ff12 at 0x1f"), &lines("PCR0 0abc at 0x3"), false));
    assert!(!matches(&lines("PCR0 00ff12"), &lines("PCR0 none"), false));
}
