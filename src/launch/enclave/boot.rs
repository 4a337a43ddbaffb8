//! Whether an enclave boots: how long its heartbeat may take, and why it likely did not come.

use std::time::Duration;

use super::error::Error;
use crate::launch::console::Console;
use crate::launch::vsock::Report;

/// nitro-cli's measure: 90 s for each 6 GiB of image begun, and 90 s for each 100 GiB of memory begun.
const STEP: Duration = Duration::from_secs(90);
const IMAGE_STEP: u64 = 6 << 30;
const MEMORY_STEP_MIB: u64 = 100 << 10;

/// How long an enclave may take from its start to its heartbeat: as long as nitro-cli waits. `image` in bytes.
pub fn limit(image: u64, memory_mib: u64) -> Duration {
    let steps = |size: u64, step: u64| 1 + size.saturating_sub(1) / step;
    let steps = steps(image, IMAGE_STEP) + steps(memory_mib, MEMORY_STEP_MIB);
    STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

/// What is known of a boot that failed.
pub struct Failed<'a> {
    /// The console; `None` outside debug mode.
    pub console: Option<&'a Console>,
    /// What the init reported.
    pub report: Option<Report>,
    /// The byte that came instead of the heartbeat.
    pub wrong_byte: Option<u8>,
    /// The time limit that passed; `None` when the enclave has ended by itself.
    pub limit: Option<Duration>,
    /// The enclave's memory.
    pub memory_mib: u64,
}

/// Lines of a console that mean too little memory, of the kernel and of tar in an init.
const NO_MEMORY: [&str; 4] =
    ["Out of memory", "out of memory", "System is deadlocked on memory", "No space left on device"];
/// The kernel could not unpack a ramdisk: most often for want of memory.
const NOT_UNPACKED: &str = "Initramfs unpacking failed";

impl Failed<'_> {
    /// The refusal: the likely reason, the console, and what to do.
    pub fn error(self) -> Error {
        let tail = self.console.map(Console::tail).unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let mut help = Vec::new();
        if NO_MEMORY.iter().chain([&NOT_UNPACKED]).any(|line| text.contains(line)) {
            help.push(format!("it had too little memory: give it more than --memory {}", self.memory_mib));
        }
        if self.console.is_none() {
            help.push("--debug shows its console".into());
        }
        let reason = self.reason(&text);
        Error::Boot { reason, console: tail, help }
    }

    /// The words of the enclave count most, then what its heartbeat was like, then its silence.
    fn reason(&self, text: &str) -> String {
        if let Some(Report::Failed(line)) = &self.report {
            return line.clone();
        }
        if let Some(line) = self.console.and_then(Console::failure) {
            return line.to_owned();
        }
        if let Some(Report::Ended(status)) = self.report {
            return format!("its application ended (as by status {}) and no heartbeat came", status.code());
        }
        if let Some(byte) = self.wrong_byte {
            return format!("its heartbeat is {byte:#04x}, it should be 0xb7");
        }
        let what = match self.limit {
            Some(limit) => format!("no heartbeat came within {} s", limit.as_secs()),
            None => "it ended before its heartbeat".to_owned(),
        };
        match self.console {
            Some(_) if text.trim().is_empty() => {
                format!("{what}, and its console is empty: the kernel did not start, or does not use the console")
            }
            _ => what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;
    use crate::launch::AppStatus;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_limit_is_nitro_clis() {
        let seconds = |image, memory_mib| limit(image, memory_mib).as_secs();
        assert_eq!(seconds(1, 64), 180);
        assert_eq!(seconds(6 * GIB, 100 * 1024), 180);
        assert_eq!(seconds(6 * GIB + 1, 100 * 1024), 270);
        assert_eq!(seconds(6 * GIB, 100 * 1024 + 1), 270);
        assert_eq!(seconds(13 * GIB, 250 * 1024), 90 * (3 + 3));
        assert_eq!(seconds(0, 0), 180);
    }

    fn failed(console: Option<&Console>) -> Failed<'_> {
        Failed { console, report: None, wrong_byte: None, limit: None, memory_mib: 64 }
    }

    fn told(failed: Failed<'_>) -> (String, Vec<String>) {
        let error = failed.error();
        assert_eq!(error.code(), "E-boot");
        (error.to_string().trim_start_matches("the enclave did not boot: ").to_owned(), error.help())
    }

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        console.push(text.as_bytes());
        console
    }

    #[test]
    fn outside_debug_mode_there_is_a_way_to_see_more() {
        let (reason, help) = told(Failed { limit: Some(Duration::from_secs(180)), ..failed(None) });
        assert_eq!(reason, "no heartbeat came within 180 s");
        assert_eq!(help, ["--debug shows its console"]);
        assert_eq!(told(failed(None)).0, "it ended before its heartbeat");
    }

    #[test]
    fn the_enclaves_own_words_come_first() {
        let report = Some(Report::Failed("eif-init: chdir: gone (ENOENT)".into()));
        assert_eq!(told(Failed { report, ..failed(None) }).0, "eif-init: chdir: gone (ENOENT)");
        let panic = console("[    0.8] Kernel panic - not syncing: No working init found.\n");
        let (reason, help) = told(Failed { wrong_byte: Some(1), ..failed(Some(&panic)) });
        assert_eq!((reason.as_str(), help.len()), ("Kernel panic - not syncing: No working init found.", 0));
        let report = Some(Report::Ended(AppStatus::Killed(9)));
        assert!(told(Failed { report, ..failed(None) }).0.contains("status 137"));
    }

    #[test]
    fn a_wrong_byte_silence_and_want_of_memory_are_told_apart() {
        assert_eq!(
            told(Failed { wrong_byte: Some(0xb8), ..failed(None) }).0,
            "its heartbeat is 0xb8, it should be 0xb7"
        );
        assert!(told(failed(Some(&console("\r\n")))).0.ends_with("does not use the console"));
        let small = console("[    0.3] Initramfs unpacking failed: write error\n[    0.9] Run /init\n");
        assert_eq!(told(failed(Some(&small))).1, ["it had too little memory: give it more than --memory 64"]);
    }

    #[test]
    fn the_error_brings_the_consoles_tail() {
        let Error::Boot { console, .. } = failed(Some(&console("abc\n"))).error() else { panic!() };
        assert_eq!(console, b"abc\n");
    }
}
