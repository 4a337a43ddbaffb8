//! What a supervisor needs of an enclave, whatever runs it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::registry::{End, Facts, Told};
use super::stop::Stop;
use super::{Ground, told};
use crate::eif::Eif;
use crate::launch::enclave::{self, Enclave, Host, Launch};
use crate::launch::parts::Parts;
use crate::launch::qemu::{self, Boot, Guest, Heartbeat};
use crate::launch::vsock::STATUS_PORT;
use crate::launch::{AppStatus, Ending, Outcome, Watcher};

/// Bytes of a console that go with a refusal.
const TAIL: usize = 4096;

/// What to start, with everything decided.
pub struct Order<'a> {
    pub on: Ground,
    pub cid: Option<u32>,
    pub memory_mib: u64,
    pub debug: bool,
    /// Where launchers of this user share the parent's ports.
    pub run: &'a Path,
    /// A start that takes its time is given up with this.
    pub stop: &'a Stop,
}

/// A running enclave. Dropping it ends it.
pub enum Machine {
    Qemu(Box<Guest>),
    Nitro(Box<Enclave>),
}

/// What the device has granted.
pub struct Granted(enclave::Facts);

impl Granted {
    pub fn put_into(&self, facts: &mut Facts) {
        facts.id = id(&Host::default(), self.0.slot);
        facts.cid = self.0.cid;
        facts.cpus = u32::try_from(self.0.cpu_ids.len()).unwrap_or(u32::MAX);
        facts.cpu_ids.clone_from(&self.0.cpu_ids);
        facts.memory_mib = self.0.memory_mib;
    }
}

/// nitro-cli's id of an enclave.
pub fn id(host: &Host, slot: u64) -> String {
    format!("{}-enc{slot:x}", host.instance())
}

/// Whether an enclave has booted.
pub enum Booted {
    /// Its heartbeat came.
    Yes,
    /// It has ended before; how, the end tells.
    Over,
    /// It did not; with the end of its console.
    No(Told, String),
}

impl Machine {
    /// `folder` is the enclave's own.
    pub fn start(order: Order<'_>, eif: &Eif, file: File, folder: &Path, watcher: Watcher) -> Result<Self, Told> {
        let Order { on, cid, memory_mib, debug, run, stop } = order;
        match on {
            Ground::Nitro { cpus } => {
                let size = eif.size();
                let launch = Launch { file, size, memory_mib, cpus, cid, debug, ports: run.to_owned() };
                match launch.start(watcher, &|| stop.asked()) {
                    Ok(enclave) => Ok(Self::Nitro(Box::new(enclave))),
                    Err(error) => Err(Told { errno: error.errno(), ..Told::from(&error) }),
                }
            }
            Ground::Qemu { cpus, heartbeat, vsock_prefix } => {
                let boot = match qemu::has_nitro_enclave(eif.arch()).map_err(told)? {
                    true => Boot::Image { file, cmdline: eif.cmdline().map_err(told)? },
                    false => Boot::Parts(Parts::of(eif).map_err(told)?),
                };
                let cid = cid.unwrap_or(super::FIRST_CID);
                let folder = Some(folder.to_owned());
                let machine =
                    qemu::Machine { arch: eif.arch(), boot, memory_mib, cpus, cid, heartbeat, vsock_prefix, folder };
                machine.start(watcher).map(|guest| Self::Qemu(Box::new(guest))).map_err(told)
            }
        }
    }

    /// A way to end it from another thread.
    pub fn stopper(&self) -> Box<dyn Fn() + Send> {
        match self {
            Self::Qemu(guest) => {
                let stopper = guest.stopper();
                Box::new(move || stopper.stop())
            }
            Self::Nitro(enclave) => {
                let stopper = enclave.stopper();
                Box::new(move || stopper.stop())
            }
        }
    }

    /// What only the device decides.
    pub fn granted(&self) -> Option<Granted> {
        match self {
            Self::Qemu(_) => None,
            Self::Nitro(enclave) => Some(Granted(enclave.facts().clone())),
        }
    }

    /// Whether the heartbeat's time is limited. In QEMU an owner who watches may boot what has no heartbeat.
    pub fn must_boot(&self, attached: bool) -> bool {
        matches!(self, Self::Nitro(_)) || !attached
    }

    /// Waits for the heartbeat.
    pub fn boot(&self, limit: Option<Duration>) -> Booted {
        match self {
            Self::Nitro(enclave) => match enclave.await_heartbeat(limit.unwrap_or(Duration::MAX)) {
                Ok(()) => Booted::Yes,
                Err(enclave::Error::Stopped) => Booted::Over,
                Err(error) => {
                    let tail = match &error {
                        enclave::Error::Boot { console, .. } => last_lines(console),
                        _ => String::new(),
                    };
                    Booted::No(told(error), tail)
                }
            },
            Self::Qemu(guest) => match guest.await_heartbeat(limit) {
                Heartbeat::Came => Booted::Yes,
                Heartbeat::Ended => Booted::Over,
                Heartbeat::Late => {
                    let seconds = limit.unwrap_or_default().as_secs();
                    let message = format!("the enclave did not boot: no heartbeat came in {seconds} s");
                    let help = vec!["`--attach` boots a file whose init has no heartbeat".into()];
                    let told = Told { code: "E-boot".into(), message, help, errno: None };
                    Booted::No(told, last_lines(&guest.console()))
                }
            },
        }
    }

    /// Waits for its end. A boot that failed by itself is one of them.
    pub fn end(self) -> End {
        let (ended, reports) = match self {
            Self::Qemu(guest) => (guest.wait(None).map_err(told), true),
            Self::Nitro(enclave) => {
                let reports = enclave.reports();
                (enclave.wait(None).map_err(told), reports)
            }
        };
        match ended {
            Ok(outcome) => verdict(&outcome, reports),
            Err(told) => End::Failed(told),
        }
    }
}

/// `reports`: whether the application's end could be heard.
fn verdict(outcome: &Outcome, reports: bool) -> End {
    match outcome.status {
        Some(AppStatus::Exited(status)) => return End::Exited(status),
        Some(AppStatus::Killed(signal)) => return End::Killed(signal),
        None if outcome.ending == Ending::Stopped => return End::Stopped,
        None => {}
    }
    if !reports && outcome.heartbeat && outcome.failure.is_none() {
        let message = format!(
            "the enclave has ended, and how its application ended is not known: another user's launcher has vsock port \
             {STATUS_PORT} of this instance, where that is reported"
        );
        let help = vec!["in debug mode the console tells it too".into()];
        return End::Failed(Told { code: "E-nitro-port".into(), message, help, errno: None });
    }
    let message = match &outcome.failure {
        Some(line) => format!("the application did not run to its end: {line}"),
        None => "the enclave ended without a word of its application".into(),
    };
    let help = if outcome.heartbeat { None } else { Some("no heartbeat came: the boot did not get as far".into()) };
    End::Failed(Told { code: "E-boot".into(), message, help: help.into_iter().collect(), errno: None })
}

/// The whole lines at the end of a console, as text.
fn last_lines(console: &[u8]) -> String {
    let cut = console.len().saturating_sub(TAIL);
    let tail = &console[cut..];
    let begin = match cut {
        0 => 0,
        _ => tail.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1),
    };
    String::from_utf8_lossy(&tail[begin..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_could_not_be_heard_is_no_failed_boot() {
        let mut outcome =
            Outcome { status: None, failure: None, heartbeat: true, console: Vec::new(), ending: Ending::Guest };
        let code = |outcome: &Outcome, reports| match verdict(outcome, reports) {
            End::Failed(told) => told.code,
            other => format!("{other:?}"),
        };
        assert_eq!((code(&outcome, true), code(&outcome, false)), ("E-boot".into(), "E-nitro-port".into()));
        outcome.status = Some(AppStatus::Exited(0));
        assert_eq!(code(&outcome, false), "Exited(0)");
        (outcome.status, outcome.heartbeat) = (None, false);
        assert_eq!(code(&outcome, false), "E-boot");
    }
}
