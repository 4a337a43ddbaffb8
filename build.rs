//! Compiles the init for each target that the toolchain has, for `src/init.rs` to embed, and its source beside it.

#[allow(dead_code, reason = "tests use the rest")]
#[path = "init/freestanding.rs"]
mod freestanding;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use freestanding::Toolchain;

fn main() -> Result<(), Box<dyn Error>> {
    // The last of them is touched when the compiler that it leaves in the cache is new.
    for input in ["init/src", "init/freestanding.rs", "build.rs", ".ci/rustc-aarch64"] {
        println!("cargo::rerun-if-changed={input}");
    }
    for input in freestanding::VARIABLES {
        println!("cargo::rerun-if-env-changed={input}");
    }
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let mut source = String::new();
    for arch in ["x86_64", "aarch64"] {
        let built = build(arch, &root.join("init"), &out)?;
        writeln!(source, "const {}: Option<Init> = {};", arch.to_uppercase(), expression(built.as_ref()))?;
    }
    writeln!(source, "const SOURCES: &[(&str, &str)] = &[")?;
    for file in files(&root.join("init/src"))? {
        let name = file.strip_prefix(root.join("init"))?;
        // No absolute path: a target folder may serve several checkouts, and this text outlives the one that made it.
        let place = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/init/\", {name:?})");
        writeln!(source, "({name:?}, include_str!({place})),")?;
    }
    writeln!(source, "];")?;
    fs::write(out.join("inits.rs"), source)?;
    Ok(())
}

/// All files below a folder, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The init for one architecture and the compiler that made it; `None` if no compiler at hand has the target.
fn build(arch: &str, init: &Path, out: &Path) -> Result<Option<(PathBuf, String)>, Box<dyn Error>> {
    let toolchain = Toolchain::at_hand(arch, variable("RUSTC")?, |name| variable(name).ok());
    let Some(toolchain) = toolchain.map_err(|error| error.to_string())? else {
        println!(
            "cargo::warning=no Rust compiler with the target {arch}-unknown-linux-gnu: `eif` will have no init for {arch} \
             (`rustup target add` it, or on Debian `sh .ci/install-packages`, and build again)"
        );
        return Ok(None);
    };
    println!("the init for {arch} is compiled by {}", toolchain.version);
    let program = toolchain.init(arch, init, out).map_err(|error| error.to_string())?;
    Ok(Some((program, toolchain.version)))
}

fn expression(built: Option<&(PathBuf, String)>) -> String {
    built.map_or("None".into(), |(program, toolchain)| {
        format!("Some(Init {{ bytes: include_bytes!({program:?}), toolchain: {toolchain:?} }})")
    })
}

#[expect(clippy::disallowed_methods, reason = "cargo talks to build scripts through the environment")]
fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}
