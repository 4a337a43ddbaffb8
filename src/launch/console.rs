//! What an enclave writes to its console: the bounded tail of it, and the lines that say how it ended.

use std::collections::VecDeque;

use super::AppStatus;

/// Bytes of console that are kept; the rest has been passed on.
pub const TAIL: usize = 64 * 1024;
/// A longer line is cut for the search; the console itself is never changed.
const MAX_LINE: usize = 1024;

/// Follows a console while it grows. Memory is bounded.
#[derive(Debug, Default)]
pub struct Console {
    tail: VecDeque<u8>,
    line: Vec<u8>,
    status: Option<AppStatus>,
    failure: Option<String>,
    halted: bool,
}

impl Console {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// The last bytes, at most [`TAIL`].
    pub fn tail(&self) -> Vec<u8> {
        self.tail.iter().copied().collect()
    }

    /// The application's end, if the init has said it. A line of the application that looks the same counts too: prefer
    /// the report over vsock.
    pub fn status(&self) -> Option<AppStatus> {
        self.status
    }

    /// The line that says why the boot failed: the init's or the kernel's.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The kernel has panicked or begun to reboot: nothing more can come.
    pub fn halted(&self) -> bool {
        self.halted
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        let kernels = kernels(line);
        let text = kernels.unwrap_or(line);
        if let Some(said) = line.strip_prefix("eif-init: ") {
            match init_status(said) {
                Some(status) => self.status = Some(status),
                None => self.failure = Some(line.to_owned()),
            }
        } else if text.starts_with("Kernel panic - not syncing") {
            self.failure.get_or_insert_with(|| text.to_owned());
            self.halted |= kernels.is_some();
        } else if kernels.is_some_and(|text| text.starts_with("reboot: ")) {
            self.halted = true;
        }
    }
}

/// What the kernel says in a line, which begins with a time: `[    1.234567] Kernel panic …`. Applications write to the
/// same console, and what they say is no reason to end them.
fn kernels(line: &str) -> Option<&str> {
    let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
    // CONFIG_PRINTK_CALLER puts `[    T1]` behind the time.
    let text = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(rest, |(_, rest)| rest);
    let text = text.strip_prefix(' ')?;
    let (seconds, fraction) = time.trim_start().split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(seconds) && digits(fraction)).then_some(text)
}

fn init_status(said: &str) -> Option<AppStatus> {
    if let Some(status) = said.strip_prefix("exited with status ") {
        return status.trim().parse().ok().map(AppStatus::Exited);
    }
    let signal = said.strip_prefix("killed by signal ")?;
    let number = signal.split(|c: char| !c.is_ascii_digit()).next()?;
    number.parse().ok().map(AppStatus::Killed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        console.push(text.as_bytes());
        console
    }

    #[test]
    fn the_inits_last_line_is_the_status() {
        assert_eq!(console("hi\neif-init: exited with status 3\r\n").status(), Some(AppStatus::Exited(3)));
        assert_eq!(console("eif-init: killed by signal 9\n").status(), Some(AppStatus::Killed(9)));
        assert_eq!(console("say eif-init: exited with status 3\n").status(), None);
        assert_eq!(console("eif-init: exited with status 3").status(), None, "the line has not ended");
    }

    #[test]
    fn other_lines_of_the_init_are_failures() {
        let console = console("eif-init: heartbeat: no listener (ECONNRESET)\n[    1.5] reboot: machine restart\n");
        assert_eq!(console.failure(), Some("eif-init: heartbeat: no listener (ECONNRESET)"));
        assert_eq!((console.status(), console.halted()), (None, true));
    }

    #[test]
    fn nobody_but_the_kernel_says_that_it_is_over() {
        for said in
            ["reboot: nightly job armed", "[INFO] reboot: soon", "[a.b] reboot: x", "Kernel panic - not syncing: x"]
        {
            assert!(!console(&format!("{said}\n")).halted(), "{said}");
        }
        assert!(console("[    1.592042] reboot: Restarting system\r\n").halted());
        assert!(console("[    1.592042][    T1] reboot: Restarting system\n").halted());
        assert!(console("[12345.592042] Kernel panic - not syncing: x\n").halted());
    }

    #[test]
    fn a_panic_is_the_failure_unless_the_init_said_more() {
        let panic = "[    0.812345] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000b00\n";
        assert_eq!(
            console(panic).failure(),
            Some("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000b00")
        );
        assert_eq!(
            console(&format!("eif-init: chdir: gone (ENOENT)\n{panic}")).failure(),
            Some("eif-init: chdir: gone (ENOENT)")
        );
    }

    proptest! {
        #[test]
        fn prop_the_tail_is_the_end_and_pieces_do_not_matter(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut in 0..3000_usize
        ) {
            let cut = cut.min(bytes.len());
            let (mut whole, mut pieces) = (Console::default(), Console::default());
            whole.push(&bytes);
            pieces.push(&bytes[..cut]);
            pieces.push(&bytes[cut..]);
            prop_assert_eq!(whole.tail(), bytes);
            prop_assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
        }
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut console = Console::default();
        for _ in 0..40 {
            console.push(&[b'x'; 8192]);
        }
        assert_eq!(console.tail().len(), TAIL);
        assert_eq!(console.line.len(), MAX_LINE);
    }
}
