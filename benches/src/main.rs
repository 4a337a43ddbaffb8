//! `eif-bench`: how fast `eif build` is, as ratios to a floor that is measured beside it on the same data.
//!
//! `eif-bench algorithms` times the libraries that could do the work, on both cores at once. `eif-bench build` times
//! `eif build` and others on an image. Absolute times are printed for people; only ratios of one run mean anything.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that a person runs")]

mod algorithms;
mod build;
mod floor;
mod images;

use std::process::ExitCode;

const USAGE: &str = "usage: eif-bench algorithms | eif-bench build hello|middle|large [--rounds N] [--peers]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["algorithms"] => algorithms::table(),
        ["build", name, further @ ..] => match build::Options::read(name, further) {
            Some(options) => build::table(&options),
            None => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Seconds that `work` takes when it runs on two threads at once: both cores are busy, as in a build.
fn on_two_threads(work: impl Fn() + Sync) -> f64 {
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(&work);
        work();
    });
    start.elapsed().as_secs_f64()
}
