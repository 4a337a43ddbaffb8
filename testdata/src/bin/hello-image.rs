//! Writes the hello image as an OCI layout with the tag `latest`: `hello-image DIR`.

use std::path::Path;
use std::process::ExitCode;

use eif_testdata::{OciLayout, hello_image};

#[expect(clippy::print_stderr, reason = "a program that a person runs")]
fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(dir), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: hello-image DIR");
        return ExitCode::from(2);
    };
    OciLayout::new().tag("latest", &hello_image()).files().write_dir(Path::new(&dir));
    ExitCode::SUCCESS
}
