//! Compiles the hello program, freestanding as the init is: the image's bytes depend on the toolchain alone.

#[allow(dead_code, reason = "the build script of `eif` uses the rest")]
#[path = "../init/freestanding.rs"]
mod freestanding;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use freestanding::Toolchain;

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["../init/src", "../init/freestanding.rs", "../.ci/rustc-aarch64", "hello", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    for input in freestanding::VARIABLES {
        println!("cargo::rerun-if-env-changed={input}");
    }
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    for arch in ["x86_64", "aarch64"] {
        let toolchain = Toolchain::at_hand(arch, variable("RUSTC")?, |name| variable(name).ok());
        match toolchain.map_err(|error| error.to_string())? {
            Some(toolchain) => build(&toolchain, arch, &root, &out)?,
            // Whoever wants it says what is missing.
            None => fs::write(out.join(format!("hello-{arch}")), [])?,
        }
    }
    Ok(())
}

fn build(toolchain: &Toolchain, arch: &str, root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let main = root.join("hello/main.rs");
    let program = toolchain.program(arch, &root.join("../init"), &main, "hello", out);
    program.map(drop).map_err(|error| error.to_string().into())
}

#[expect(clippy::disallowed_methods, reason = "cargo talks to build scripts through the environment")]
fn variable(name: &str) -> Result<std::ffi::OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
