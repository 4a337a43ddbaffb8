//! What an enclave does as far as its parent can tell: the heartbeat, the console, the init's last word. No machine runs
//! behind it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::hypervisor::Hypervisor;

const HEARTBEAT: u8 = 0xb7;

/// What to play.
#[derive(Debug, Clone)]
pub struct Play {
    /// What is sent to port 9000 of the parent; `None` is an enclave that stays silent.
    pub heartbeat: Option<u8>,
    /// What the console says, in debug mode.
    pub console: Vec<u8>,
    /// What the init tells to port 9001 when the heartbeat has been answered.
    pub report: Option<Vec<u8>>,
    /// It ends by itself then.
    pub ends: bool,
}

impl Default for Play {
    fn default() -> Self {
        Self { heartbeat: Some(HEARTBEAT), console: b"hello\r\n".to_vec(), report: None, ends: false }
    }
}

/// An enclave that plays. It is silent once this is dropped.
#[derive(Debug)]
pub struct Played {
    over: Arc<AtomicBool>,
    /// Where its console is listened at.
    console: Option<PathBuf>,
}

impl Played {
    pub fn start(play: Play, cid: u64, debug: bool, vsock: &Path, hypervisor: Hypervisor) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let console = debug.then(|| named(vsock, &format!("_0_{}", 10000 + cid)));
        let listener = console.as_ref().map(|path| UnixListener::bind(path).unwrap());
        let (vsock, ended, text) = (vsock.to_owned(), Arc::clone(&over), play.console.clone());
        if let Some(listener) = listener {
            let over = Arc::clone(&over);
            thread::spawn(move || serve_console(&listener, &text, &over));
        }
        thread::spawn(move || {
            let answered = play.heartbeat.is_none_or(|byte| beat(&vsock, cid, byte));
            if let Some(report) = play.report.filter(|_| answered)
                && let Some(mut stream) = connect(&vsock, cid, 9001)
            {
                stream.write_all(&report).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                // The launcher ends it when it has it all.
                let _end = stream.read(&mut [0]);
            }
            if play.ends && !ended.load(Ordering::Acquire) {
                hypervisor.crash(cid);
            }
        });
        Self { over, console }
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(path) = &self.console {
            // Wakes the thread that accepts.
            drop(UnixStream::connect(path));
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Each reader gets all of it, and keeps its connection as long as the enclave lives.
fn serve_console(listener: &UnixListener, text: &[u8], over: &AtomicBool) {
    let mut readers = Vec::new();
    while let Ok((mut reader, _)) = listener.accept() {
        if over.load(Ordering::Acquire) {
            return;
        }
        // A reader may have gone.
        let _gone = reader.write_all(text);
        readers.push(reader);
    }
}

/// Whether the byte came back.
fn beat(vsock: &Path, cid: u64, byte: u8) -> bool {
    let Some(mut stream) = connect(vsock, cid, 9000) else { return false };
    let mut echo = [0];
    stream.write_all(&[byte]).is_ok() && stream.read_exact(&mut echo).is_ok() && echo == [byte]
}

/// A connection from the enclave to a port of its parent; `None` when nobody listens there.
fn connect(vsock: &Path, cid: u64, port: u32) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(vsock).ok()?;
    writeln!(stream, "CONNECT {port} {cid}").ok()?;
    let mut byte = [0];
    let mut answer = Vec::new();
    while byte != [b'\n'] {
        stream.read_exact(&mut byte).ok()?;
        answer.extend(byte);
    }
    answer.starts_with(b"OK ").then_some(stream)
}

fn named(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// How long an `.eif` says that it is: the end of its last section.
pub fn length(image: &[u8]) -> usize {
    let word = |at: usize| image.get(at..at + 8).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
    if !image.starts_with(b".eif") {
        return 0;
    }
    let count = usize::from(u16::from_be_bytes([image[26], image[27]]));
    // A section's header has twelve bytes.
    (0..count.min(32)).map(|index| word(28 + index * 8) + word(28 + 256 + index * 8) + 12).max().unwrap_or(0) as usize
}
