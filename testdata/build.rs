//! Compiles the hello program, freestanding as the init is: the image's bytes depend on the toolchain alone.

#[allow(dead_code, reason = "the build script of `eif` uses the rest")]
#[path = "../init/freestanding.rs"]
mod freestanding;

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use freestanding::Toolchain;

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["../init/src", "../init/freestanding.rs", "hello", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let toolchain = Toolchain::of(variable("RUSTC")?, None).map_err(|error| error.to_string())?;
    if !toolchain.has("x86_64") {
        return Err("the hello image is for x86_64: `rustup target add x86_64-unknown-linux-gnu`".into());
    }
    let main = root.join("hello/main.rs");
    let program = toolchain.program("x86_64", &root.join("../init"), &main, "hello", &out);
    fs::rename(program.map_err(|error| error.to_string())?, out.join("hello"))?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "cargo talks to build scripts through the environment")]
fn variable(name: &str) -> Result<std::ffi::OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
