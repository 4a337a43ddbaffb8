//! `eif-bench`: how fast `eif build` is, as ratios to a floor that is measured beside it on the same data.
//!
//! | command | what it times |
//! |---|---|
//! | `algorithms` | the libraries that could do the work |
//! | `layer` | nothing: it gives the largest layer to programs that time something else |
//! | `build` | `eif build`, and what others do, on an image |
//! | `compress` | build and boot for each `--compress` |
//!
//! Absolute times are printed for people; only ratios of one run mean anything.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that a person runs")]

mod algorithms;
mod build;
mod compress;
mod floor;
mod images;
mod program;

use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "usage: eif-bench algorithms
       eif-bench layer hello|middle|large
       eif-bench build hello|middle|large [--rounds N] [--peers]
       eif-bench compress hello|middle [--rounds N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["algorithms"] => algorithms::table(),
        ["layer", name @ ("hello" | "middle" | "large")] => {
            let blobs = images::blobs(&images::layout(name));
            let largest = blobs.into_iter().max_by_key(Vec::len).expect("the image has layers");
            if let Err(error) = std::io::stdout().write_all(&largest) {
                eprintln!("eif-bench: {error}");
                return ExitCode::FAILURE;
            }
        }
        ["build", name, further @ ..] => match build::Options::read(name, further) {
            Some(options) => build::table(&options),
            None => return usage(),
        },
        ["compress", name] => compress::table(name, 3),
        ["compress", name, "--rounds", rounds] => match rounds.parse() {
            Ok(rounds) if rounds > 0 => compress::table(name, rounds),
            _ => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// What `work` gives on two threads at once: both cores are busy, as in a build.
fn on_two_threads<T: Send>(work: impl Fn() -> T + Sync) -> [T; 2] {
    std::thread::scope(|scope| {
        let other = scope.spawn(&work);
        let here = work();
        [here, other.join().expect("the measured work does not panic")]
    })
}

/// The middle of the values, of which there is at least one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}
