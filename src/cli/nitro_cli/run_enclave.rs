//! `nitro-cli run-enclave`: starts an enclave of a file and leaves it running.

use std::fs;
use std::path::{Path, PathBuf};

use eif::launch::supervisor::{Name, State, Told};
use serde::Deserialize;

use super::enclaves;
use super::errors::{Code, Refused};
use super::{Stop, Ui, print};
use crate::cli::environment;
use crate::cli::failure::Failure;
use crate::cli::run;
use crate::cli::supervise::{self, Refused as NotRun};

/// A configuration is never larger, in bytes.
const CONFIG_LIMIT: usize = 1 << 20;
/// nitro-cli gives no enclave less memory than so many times its file.
const MEMORY_FACTOR: u64 = 4;

/// Starts a new enclave
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  nitro-cli run-enclave --cpu-count 2 --memory 512 --eif-path hello.eif --debug-mode\n  \
                  nitro-cli run-enclave --config enclave.json"
)]
pub struct Args {
    /// Number of CPUs of the pool
    #[arg(long, value_name = "N", required_unless_present_any = ["cpu_ids", "config"], conflicts_with = "cpu_ids")]
    cpu_count: Option<u32>,
    /// These CPUs of the pool
    #[arg(long, value_name = "ID", num_args = 1..)]
    cpu_ids: Vec<u32>,
    /// Memory: MiB, or with M, G or T behind it
    #[arg(long, value_name = "MEMORY", required_unless_present = "config", value_parser = mebibytes)]
    memory: Option<u64>,
    /// Path to the EIF
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    eif_path: Option<PathBuf>,
    /// The enclave's CID [default: chosen]
    #[arg(long, value_name = "CID")]
    enclave_cid: Option<u64>,
    /// Starts the enclave in debug mode: its console can be read
    #[arg(long)]
    debug_mode: bool,
    /// Shows the console when the enclave has started (implies debug mode)
    #[arg(long)]
    attach_console: bool,
    /// Name of the enclave [default: the file's]
    #[arg(long, value_name = "NAME")]
    enclave_name: Option<String>,
    /// All of this from a JSON file
    #[arg(long, value_name = "FILE.json", exclusive = true)]
    config: Option<PathBuf>,
}

/// What `--config` holds, in nitro-cli's names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    enclave_name: Option<String>,
    cpu_ids: Option<Vec<u32>>,
    cpu_count: Option<u32>,
    eif_path: PathBuf,
    memory_mib: u64,
    enclave_cid: Option<u64>,
    #[serde(default)]
    debug_mode: bool,
    #[serde(default)]
    attach_console: bool,
}

/// `512`, `512M`, `4g`, `1T`: mebibytes where no unit is given.
fn mebibytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "m" => 1,
        "g" => 1 << 10,
        "t" => 1 << 20,
        unit => return Err(format!("no unit of memory: {unit} (M, G, T)")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(factor).filter(|mib| *mib <= 1 << 24).ok_or_else(|| "more than any instance has".to_owned())
}

pub fn run(args: Args, ui: &Ui) -> Result<(), Stop> {
    let config = config(args)?;
    let attach = config.attach_console;
    let file = config.eif_path.clone();
    let order = order(config, ui)?;
    ui.note("Start allocating memory...");
    let refused = |failure: &Failure| Refused::because(Code::ProcessSpawn, failure);
    let started = supervise::start(&order).map_err(|failure| refused(&failure))?;
    let tell = |state: &State| {
        let facts = &state.facts;
        let ids: Vec<String> = facts.cpu_ids.iter().map(u32::to_string).collect();
        let (cid, memory, ids) = (facts.cid, facts.memory_mib, ids.join(", "));
        ui.note(&format!("Started enclave with enclave-cid: {cid}, memory: {memory} MiB, cpu-ids: [{ids}]"));
    };
    let state = supervise::await_boot(started, tell, ui).map_err(|why| because(&why, &file))?;
    print(&state.facts, ui)?;
    if attach { enclaves::attach(&state.facts.name, None) } else { Ok(()) }
}

fn config(args: Args) -> Result<Config, Refused> {
    let Some(path) = &args.config else {
        let missing = |name: &str| Refused::new(Code::MissingArgument, "").about([name.to_owned()]);
        return Ok(Config {
            enclave_name: args.enclave_name,
            cpu_ids: Some(args.cpu_ids).filter(|ids| !ids.is_empty()),
            cpu_count: args.cpu_count,
            eif_path: args.eif_path.ok_or_else(|| missing("eif-path"))?,
            memory_mib: args.memory.ok_or_else(|| missing("memory"))?,
            enclave_cid: args.enclave_cid,
            debug_mode: args.debug_mode,
            attach_console: args.attach_console,
        });
    };
    let bytes = environment::small_file(path, CONFIG_LIMIT);
    let bytes = bytes.map_err(|error| {
        Refused::because(Code::FileOperation, &error).about([path.display().to_string(), "Open".to_owned()])
    })?;
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|error| Refused::new(Code::Serde, format!("{}: {error}", path.display())))?;
    match (&config.cpu_ids, config.cpu_count) {
        (Some(_), Some(_)) => Err(Refused::new(Code::ConflictingArguments, "cpu_ids and cpu_count exclude each other")),
        (None, None) => Err(Refused::new(Code::MissingArgument, "").about(["cpu_count` or `cpu_ids".to_owned()])),
        _ => Ok(config),
    }
}

fn order(config: Config, ui: &Ui) -> Result<supervise::Args, Refused> {
    let file = config.eif_path;
    let size = fs::metadata(&file).map_err(|error| Refused::file(&file, "Open", error))?.len();
    let least = size.saturating_mul(MEMORY_FACTOR).div_ceil(1 << 20);
    if config.memory_mib < least {
        let why = format!("At least {least} MB must be allocated (which is {MEMORY_FACTOR} times the EIF file size)");
        return Err(Refused::new(Code::InsufficientMemoryRequested, why));
    }
    let cid = config.enclave_cid.map(cid_of).transpose()?;
    let name = match &config.enclave_name {
        Some(name) => Name::new(name).map_err(|error| Refused::because(Code::Naming, &Failure::from(error)))?,
        None => Name::of_file(&file),
    };
    let backend = run::choose(None, ui);
    // An emulated machine has no pool to choose from.
    let (cpus, cpu_ids) = match (backend, config.cpu_ids) {
        (run::Backend::Qemu, Some(ids)) => (u32::try_from(ids.len()).ok(), Vec::new()),
        (_, ids) => (config.cpu_count, ids.unwrap_or_default()),
    };
    Ok(supervise::Args {
        file,
        name: name.as_str().to_owned(),
        numbered: true,
        backend,
        memory: Some(config.memory_mib),
        cpus,
        cpu_ids,
        cid,
        debug: config.debug_mode || config.attach_console,
        vsock: None,
        no_heartbeat: false,
        boot_limit: None,
        attached: false,
    })
}

fn cid_of(cid: u64) -> Result<u32, Refused> {
    let usable = u32::try_from(cid).ok().filter(|cid| (4..u32::MAX).contains(cid));
    usable.ok_or_else(|| {
        Refused::new(Code::InvalidArgument, format!("CID {cid}: 0 to 3, 4294967295 and more are no enclave's"))
    })
}

/// A supervisor's refusal under nitro-cli's codes.
fn because(why: &NotRun, file: &Path) -> Refused {
    match why {
        NotRun::Died(said) => Refused::because(Code::ProcessConnection, &supervise::died(said)),
        NotRun::Told(told) => {
            let refused = Refused::because(code(told), &supervise::refusal(told));
            let device = told.code == "E-nitro-device" || told.code == "E-nitro-permission";
            let path = if device { Path::new(run::NITRO_DEVICE) } else { file };
            refused.about([path.display().to_string(), "Open".to_owned()])
        }
    }
}

fn code(told: &Told) -> Code {
    match told.code.as_str() {
        "E-boot" | "E-qemu" => Code::EnclaveBoot,
        "E-nitro-cpus" => Code::NoSuchCpu,
        "E-nitro-no-cpus" => Code::InsufficientCpus,
        "E-nitro-memory" => Code::InsufficientMemoryRequested,
        "E-nitro-hugepages" | "E-nitro-regions" => Code::InsufficientMemoryAvailable,
        "E-nitro-cid" | "E-enclave-cid" => Code::InvalidArgument,
        "E-nitro-device" | "E-nitro-permission" | "E-io" => Code::FileOperation,
        "E-enclave-name" | "E-enclave-taken" | "E-enclave-crashed" => Code::Naming,
        code if code.starts_with("E-eif-") => Code::EifParsing,
        code if code.starts_with("E-nitro-") => Code::Ioctl,
        _ => Code::ProcessSpawn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_nitro_clis_units() {
        for (text, mib) in [("512", 512), ("512m", 512), ("4G", 4096), ("1t", 1 << 20)] {
            assert_eq!(mebibytes(text), Ok(mib), "{text}");
        }
        for bad in ["", "G", "-1", "1.5G", "5MB", "5K", "99999999999999T", "17T"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cid_is_one_that_an_enclave_can_have() {
        assert_eq!(cid_of(4).unwrap(), 4);
        for bad in [0, 1, 2, 3, u64::from(u32::MAX), 1 << 32] {
            assert!(cid_of(bad).is_err(), "{bad}");
        }
    }
}
