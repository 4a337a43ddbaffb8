//! What a builder may choose beside the image, and whose word there is for it.
//!
//! The file's record cannot be that word: whoever changes what boots can change what the record says of it. So the command
//! line and what replaces the image's process must be what the caller says, or what a build has of which nothing is said.
//! How things are packed (times, compression, layout, owners of a plain directory) is taken from the record: it brings
//! nothing in that the image does not have. Kernel, init and modules are never the file's own; see `rebuild.rs`.

use serde::Serialize;

use super::compare::Difference;
use super::rebuild::{Basis, Undecided};
use crate::Warning;
use crate::build::lock::{self, Drift};
use crate::build::{self, Plan, Record};
use crate::rootfs::Overrides;

/// What is held against the word, by the names of the options.
#[derive(Serialize)]
struct Choices<'a> {
    cmdline: String,
    #[serde(flatten)]
    overrides: &'a Overrides,
}

/// What the record has otherwise than it was said.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    /// What nobody but the record vouches for, and what contradicts the caller.
    pub(super) differences: Vec<Difference>,
    /// What the caller has said nothing of but a PCR0.
    pub(super) warnings: Vec<Warning>,
}

/// Holds the record's choices against the caller's.
///
/// # Errors
/// The command line of the caller's blobs cannot be read.
pub(super) fn unsaid(basis: &Basis, record: &Record) -> Result<Unsaid, Undecided> {
    let plan = Plan { platform: record.platform, ..basis.plan.clone() };
    let said = Choices { cmdline: build::cmdline(&plan)?, overrides: &plan.overrides };
    let file = Choices { cmdline: record.cmdline.clone(), overrides: &record.overrides };
    let mut unsaid = Unsaid::default();
    for drift in lock::drift(&said, &file) {
        if is_given(&plan, &drift.fact) || (basis.lock.is_none() && basis.pcr0.is_none()) {
            unsaid.differences.push(Difference::new("options", format!("--{}", drift.fact), drift.now, drift.locked));
        } else if basis.lock.is_none() {
            unsaid.warnings.push(vouched(&drift));
        }
    }
    Ok(unsaid)
}

/// Whether the caller has named a value for an option.
fn is_given(plan: &Plan, option: &str) -> bool {
    let Overrides { entrypoint, cmd, env, user, workdir } = &plan.overrides;
    match option {
        "cmdline" => plan.cmdline.is_some(),
        "entrypoint" => entrypoint.is_some(),
        "cmd" => cmd.is_some(),
        "env" => !env.is_empty(),
        "user" => user.is_some(),
        "workdir" => workdir.is_some(),
        // One that is not known here is one that nobody has vouched for.
        _ => true,
    }
}

/// An option that stands in the file and that PCR0 covers.
fn vouched(drift: &Drift) -> Warning {
    let code = if drift.fact == "cmdline" { "W-verify-cmdline" } else { "W-verify-overrides" };
    let value = drift.now.as_deref().unwrap_or("nothing");
    let text =
        format!("the file has {value} for --{}: the PCR0 that was given vouches for it, nothing else", drift.fact);
    Warning::new(code, text)
}
