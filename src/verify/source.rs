//! Init and kernel from their sources, so that nothing that was compiled before has to be believed.

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::compare::Difference;
use super::rebuild::{Undecided, temporary};
use crate::build::{self, Plan, Record};
use crate::init;
use crate::kernel::{self, Tell};

/// What compiles.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Compilers to try for the init, beside those that `rustc` and `rustup` lead to.
    pub rustc: Vec<OsString>,
    /// The folders that have the kernel's tools, as in `PATH`.
    pub path: OsString,
    /// How many compilers of the kernel run at once.
    pub jobs: NonZeroUsize,
}

/// What was compiled. The files are gone when this is dropped.
pub(super) struct Compiled {
    pub(super) init: PathBuf,
    pub(super) kernel: Option<kernel::Again>,
    /// Where what came out is not what the record has.
    pub(super) differences: Vec<Difference>,
    _folder: TempDir,
}

/// Compiles both. `id` is the entry of `kernels.lock` that the kernel is said to come from.
pub(super) fn compile(
    tools: &Tools,
    record: &Record,
    id: Option<String>,
    plan: &Plan,
    tell: Tell<'_>,
) -> Result<Compiled, Undecided> {
    let id = id.ok_or_else(|| Undecided::KernelSource { sha256: record.kernel_sha256.clone() })?;
    let folder = tempfile::tempdir_in(&plan.layers.scratch).map_err(temporary)?;
    tell("init: compiling the source that is in this program");
    let bytes = init::from_source(record.platform.arch, &tools.rustc, folder.path())?;
    let init = folder.path().join("init");
    fs::write(&init, &bytes).map_err(temporary)?;
    let compiled = hex::encode(Sha256::digest(&bytes));
    let mut differences = Vec::from_iter(other("init", &record.init_sha256, compiled));
    let (kernel, compiled) = compile_kernel(tools, record, &id, plan, tell)?;
    differences.extend(other("kernel", &record.kernel_sha256, compiled));
    Ok(Compiled { init, kernel, differences, _folder: folder })
}

fn other(part: &str, recorded: &str, compiled: String) -> Option<Difference> {
    (recorded != compiled).then(|| Difference::new(part, "from source", Some(recorded.to_owned()), Some(compiled)))
}

/// The kernel, where it is the one that it should be, and its SHA-256 in any case.
fn compile_kernel(
    tools: &Tools,
    record: &Record,
    id: &str,
    plan: &Plan,
    tell: Tell<'_>,
) -> Result<(Option<kernel::Again>, String), Undecided> {
    let cache = plan.cache.as_deref().ok_or(build::Error::NoCache)?;
    let Tools { path, jobs, .. } = tools;
    let arch = record.platform.arch;
    let request = kernel::Request { arch, cache, source: None, id: Some(id), jobs: *jobs, path, snapshot: None };
    let again = match kernel::build_again(&request, tell) {
        Ok(again) => again,
        Err(kernel::Error::Hash { got, .. }) => return Ok((None, got)),
        Err(error) => return Err(build::Error::from(error).into()),
    };
    let sha256 = hex::encode(again.built.kernel.sha256);
    match again.built.warnings.iter().find(|warning| warning.code == "W-kernel-compiler") {
        // Another compiler makes another kernel: that says nothing.
        Some(warning) if sha256 != record.kernel_sha256 => {
            Err(Undecided::KernelCompiler { why: warning.message.clone() })
        }
        _ => Ok((Some(again), sha256)),
    }
}
