//! `eif supervise`: the process that holds an enclave, and what starts it. Nobody types it; in a list of processes it
//! tells what it is.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use eif::launch::enclave::Cpus;
use eif::launch::supervisor::{DETACH, End, Ground, Name, Order, Owner, Reply, State, Told, replies, supervise};

use super::environment;
use super::failure::Failure;
use super::run::Backend;
use super::ui::Ui;

/// What to start, with its owner's choices made. This process is told by its caller.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The .eif
    pub file: PathBuf,
    /// Name of the enclave
    #[arg(long)]
    pub name: String,
    /// A taken name gets a number
    #[arg(long)]
    pub numbered: bool,
    /// Where it runs
    #[arg(long, value_enum)]
    pub backend: Backend,
    /// In MiB
    #[arg(long)]
    pub memory: Option<u64>,
    /// How many
    #[arg(long)]
    pub cpus: Option<u32>,
    /// Which
    #[arg(long, num_args = 1..)]
    pub cpu_ids: Vec<u32>,
    /// The CID
    #[arg(long)]
    pub cid: Option<u32>,
    /// Debug mode
    #[arg(long)]
    pub debug: bool,
    /// Unix sockets that are ports of the parent
    #[arg(long)]
    pub vsock: Option<PathBuf>,
    /// Answer no heartbeat
    #[arg(long)]
    pub no_heartbeat: bool,
    /// Seconds that the heartbeat may take
    #[arg(long)]
    pub boot_limit: Option<u64>,
    /// The owner reads the console from stdout
    #[arg(long)]
    pub attached: bool,
}

impl Args {
    /// The arguments that clap makes this of.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["supervise".into(), "--name".into(), self.name.clone().into()];
        words.extend(["--backend".into(), self.backend.name().into()]);
        let numbers = [
            ("--memory", self.memory),
            ("--cpus", self.cpus.map(u64::from)),
            ("--cid", self.cid.map(u64::from)),
            ("--boot-limit", self.boot_limit),
        ];
        for (flag, number) in numbers {
            words.extend(number.into_iter().flat_map(|number| [flag.into(), number.to_string().into()]));
        }
        for id in &self.cpu_ids {
            words.extend(["--cpu-ids".into(), id.to_string().into()]);
        }
        let switches = [
            ("--numbered", self.numbered),
            ("--debug", self.debug),
            ("--no-heartbeat", self.no_heartbeat),
            ("--attached", self.attached),
        ];
        words.extend(switches.iter().filter(|(_, on)| *on).map(|(switch, _)| switch.into()));
        words.extend(self.vsock.iter().flat_map(|path| ["--vsock".into(), path.clone().into()]));
        words.extend(["--".into(), self.file.clone().into()]);
        words
    }

    fn order(self) -> Result<Order, Failure> {
        let on = match (self.backend, self.cpu_ids) {
            (Backend::Qemu, _) => {
                Ground::Qemu { cpus: self.cpus.unwrap_or(1), heartbeat: !self.no_heartbeat, vsock_prefix: self.vsock }
            }
            (Backend::Nitro, ids) if ids.is_empty() => Ground::Nitro { cpus: Cpus::Count(self.cpus.unwrap_or(2)) },
            (Backend::Nitro, ids) => Ground::Nitro { cpus: Cpus::Ids(ids) },
        };
        let (file, memory_mib, cid) = (self.file, self.memory, self.cid);
        Ok(Order {
            name: Name::new(&self.name)?,
            numbered: self.numbered,
            file,
            memory_mib,
            cid,
            debug: self.debug,
            boot_limit: self.boot_limit.map(Duration::from_secs),
            on,
        })
    }
}

/// The whole life of an enclave.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::refused("E-supervisor", error.to_string());
    let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().map(|fd: OwnedFd| File::from(fd)).map_err(failed);
    let console = args.attached.then(|| own(&io::stdout())).transpose()?;
    let owner = Owner { words: own(&io::stdin())?, console, replies: own(&io::stderr())? };
    // Out of the terminal's reach. It fails for a process that leads its group, as when somebody types this: let it be.
    let _leader = rustix::process::setsid();
    supervise(args.order()?, &environment::run_folder(), owner).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// A supervisor that has been started.
pub struct Started {
    pub child: Child,
    /// Its end is the enclave's.
    pub words: ChildStdin,
    pub replies: ChildStderr,
    /// The console of an enclave whose owner watches.
    pub console: Option<ChildStdout>,
}

/// Starts it: this program again, as a process of its own.
pub fn start(args: &Args) -> Result<Started, Failure> {
    let console = if args.attached { Stdio::piped() } else { Stdio::null() };
    // Not its path: the file there may be another one by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("eif").args(args.words()).stdin(Stdio::piped()).stdout(console).stderr(Stdio::piped());
    let failed = |error: io::Error| Failure::refused("E-supervisor", format!("starting the supervisor: {error}"));
    let mut child = command.spawn().map_err(failed)?;
    let (words, replies, console) = (child.stdin.take(), child.stderr.take(), child.stdout.take());
    let (Some(words), Some(replies)) = (words, replies) else { return Err(died("")) };
    Ok(Started { child, words, replies, console })
}

/// Waits until the enclave has booted, and lets it live on without this process. `hear` gets what it has been given.
pub fn await_boot(started: Started, mut hear: impl FnMut(&State), ui: &Ui) -> Result<State, Refused> {
    let Started { mut child, mut words, replies: from, .. } = started;
    let (mut given, mut said) = (None, String::new());
    let mut booted = false;
    for reply in replies(from) {
        match reply {
            Ok(Reply::Started(state)) => {
                hear(&state);
                given = Some(state);
            }
            Ok(Reply::Booted) => {
                let Some(state) = &given else { break };
                if words.write_all(&[DETACH]).is_ok() {
                    return Ok(state.clone());
                }
                // It is gone: at its end, as its next reply tells, or dead.
                booted = true;
            }
            // Before its heartbeat, which an application may be without. An end after it is a matter of `eif wait`.
            Ok(Reply::Ended(End::Failed(told))) if !booted => return Err(Refused::Told(told)),
            Ok(Reply::Ended(_)) => return given.ok_or(Refused::Died(said)),
            Ok(Reply::Refused(told, console)) => {
                for line in console.lines() {
                    ui.note(&format!("console   {}", eif::shown(line)));
                }
                return Err(Refused::Told(told));
            }
            Err(line) => said.push_str(&line),
        }
    }
    // Its pipes have ended, so it has.
    let _status = child.wait();
    Err(Refused::Died(said))
}

/// Why there is no enclave.
pub enum Refused {
    /// The supervisor says why.
    Told(Told),
    /// It died, and said this.
    Died(String),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Told(told) => refusal(&told),
            Refused::Died(said) => died(&said),
        }
    }
}

/// A supervisor that went without a word of farewell.
pub fn died(said: &str) -> Failure {
    let failure = Failure::refused("E-supervisor", "the process that held the enclave died, and the enclave with it");
    if said.is_empty() { failure } else { failure.with_help(format!("it said: {said}")) }
}

/// A refusal of the supervisor's.
pub fn refusal(told: &Told) -> Failure {
    let failure = Failure::refused(&told.code, told.message.clone());
    told.help.iter().fold(failure, |failure, line| failure.with_help(line.clone()))
}

/// The exit code that an end is: the application's, and 128 + N for signal N; one that was stopped was killed.
pub fn code(end: &End) -> Result<ExitCode, Failure> {
    match end {
        End::Exited(status) => Ok(ExitCode::from(*status)),
        End::Killed(signal) => Ok(ExitCode::from(signal.saturating_add(128))),
        End::Stopped => Ok(ExitCode::from(137)),
        End::Failed(told) => Err(refusal(told)),
    }
}

/// What an enclave has got, in a line for people.
pub fn line(state: &State) -> String {
    let facts = &state.facts;
    match Backend::from(state.backend) {
        Backend::Qemu => {
            format!("machine   QEMU, {} MiB, {} CPU(s), CID {}", facts.memory_mib, facts.cpus, facts.cid)
        }
        Backend::Nitro => {
            let ids: Vec<String> = facts.cpu_ids.iter().map(u32::to_string).collect();
            let mode = if state.debug { ", in debug mode: its PCRs are zeros" } else { "" };
            format!("enclave   {} MiB, CPUs {}, CID {}{mode}", facts.memory_mib, ids.join(" "), facts.cid)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Global;
    use super::*;
    use clap::Parser;
    use serde_json::{Value, json};

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: Args,
    }

    #[derive(Parser)]
    struct Bare {
        #[command(flatten)]
        global: Global,
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let lines = [
            "eif --name a --backend qemu x.eif",
            "eif --name b --numbered --backend nitro --memory 300 --cpu-ids 1 3 --cid 77 --debug --attached -- -x.eif",
            "eif --name c --backend qemu --cpus 2 --vsock s --no-heartbeat --boot-limit 5 y.eif",
        ];
        for line in lines {
            let heard = Whole::try_parse_from(line.split(' ')).unwrap().args;
            let words = heard.words();
            assert_eq!(words[0], "supervise");
            let again = Whole::try_parse_from(words).unwrap().args;
            assert_eq!(format!("{again:?}"), format!("{heard:?}"));
        }
    }

    /// It may have ended before this process has said that it leaves.
    #[test]
    fn a_short_life_is_no_death() {
        let facts = json!({
            "EnclaveName": "app", "EnclaveID": "i-1-enc2", "ProcessID": 1, "EnclaveCID": 16, "NumberOfCPUs": 1,
            "CPUIDs": [0], "MemoryMiB": 64
        });
        let state = json!({ "facts": facts, "backend": "qemu", "debug": true, "booted": false });
        let wait = |last: Value| {
            let said = [json!({ "started": state }), json!("booted"), last].map(|reply| reply.to_string());
            let mut child = Command::new("sh")
                .args(["-c", "exec <&-; printf '%s\\n' \"$@\" >&2", "sh"])
                .args(said)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let (words, replies) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
            // Nobody reads what is said to it from here on.
            child.wait().unwrap();
            let global = Bare::parse_from(["eif"]).global;
            await_boot(Started { child, words, replies, console: None }, |_| {}, &Ui::new(&global))
        };
        assert_eq!(wait(json!({ "ended": { "exited": 0 } })).ok().unwrap().facts.name, "app");
        assert!(matches!(wait(json!(null)), Err(Refused::Died(_))));
    }
}
