//! The vsock device and the QEMU machine against a real guest: our kernel, and `tests/guest/init.rs` as PID 1.
#![cfg(target_os = "linux")]

mod common;
mod guest;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use eif::launch::parts::Parts;
use eif::launch::qemu::{Boot, Guest, Machine};
use eif::launch::{AppStatus, Ending, Outcome};
use eif::{Arch, Refusal};
use tempfile::TempDir;

/// TCG on a loaded machine is slow; a guest that hangs still ends the test.
const LIMIT: Duration = Duration::from_secs(180);

/// A guest with its console, and the folder of its unix sockets.
struct Run {
    guest: Option<Guest>,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
    folder: TempDir,
}

impl Run {
    fn start(scenarios: &str) -> Self {
        Self::start_with(scenarios, |_| {})
    }

    fn start_with(scenarios: &str, change: impl FnOnce(&mut Machine)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Machine {
            arch: Arch::X86_64,
            boot: Boot::Parts(Parts {
                arch: Arch::X86_64,
                kernel: File::open(guest::kernel()).unwrap(),
                initrd: File::open(guest::ramdisk()).unwrap(),
                cmdline: format!("console=ttyS0 quiet scenarios={scenarios}").into_bytes(),
            }),
            memory_mib: 256,
            cpus: 1,
            cid: 16,
            heartbeat: true,
            vsock_prefix: Some(folder.path().join("v")),
            folder: None,
        };
        change(&mut machine);
        let (send, lines) = mpsc::channel();
        let mut line = Vec::new();
        let watcher = move |bytes: &[u8]| {
            for byte in bytes {
                if *byte == b'\n' {
                    let text = String::from_utf8_lossy(&std::mem::take(&mut line)).trim_end().to_owned();
                    drop(send.send(text));
                } else {
                    line.push(*byte);
                }
            }
            ControlFlow::Continue(())
        };
        let guest = machine.start(Box::new(watcher)).unwrap();
        Self { guest: Some(guest), lines, seen: Vec::new(), folder }
    }

    /// Waits until the guest prints this line.
    fn line(&mut self, wanted: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.seen.iter().any(|line| line == wanted) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no line {wanted:?} in {:#?}", self.seen),
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(&format!("v_{port}"))).unwrap()
    }

    fn wait(&mut self) -> Outcome {
        let outcome = self.guest.take().unwrap().wait(Some(LIMIT)).unwrap();
        assert_eq!(outcome.ending, Ending::Guest, "{}", String::from_utf8_lossy(&outcome.console));
        outcome
    }

    /// Waits for the end; every scenario must have said `ok`.
    fn all_ok(mut self, scenarios: &str) -> Outcome {
        let outcome = self.wait();
        let console = String::from_utf8_lossy(&outcome.console);
        for word in scenarios.split(',') {
            assert!(console.lines().any(|line| line == format!("ok {word}")), "no ok for {word}: {console}");
        }
        outcome
    }
}

#[test]
fn the_heartbeat_is_answered_and_nobody_else_is_there() {
    let scenarios = "cid,refused,other-cid,heartbeat";
    let outcome = Run::start(scenarios).all_ok(scenarios);
    assert!(outcome.heartbeat);
    assert!(String::from_utf8_lossy(&outcome.console).contains("cid 16"));
    assert_eq!((outcome.status, outcome.failure), (None, None));
}

#[test]
fn without_a_heartbeat_listener_the_refusal_is_immediate() {
    let mut run = Run::start_with("no-heartbeat", |machine| machine.heartbeat = false);
    let outcome = run.wait();
    assert!(String::from_utf8_lossy(&outcome.console).contains("ok no-heartbeat"));
    assert!(!outcome.heartbeat);
}

/// The byte at `index` of the stream number `seed`, as the guest makes it.
fn pattern(seed: u64, index: u64) -> u8 {
    ((index ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn pattern_bytes(seed: u64, total: u64) -> Vec<u8> {
    (0..total).map(|index| pattern(seed, index)).collect()
}

/// Serves each client of the listener on a thread of its own, for as long as the test runs.
fn serve(listener: UnixListener, body: impl Fn(UnixStream) + Clone + Send + 'static) {
    thread::spawn(move || {
        for client in listener.incoming() {
            let (body, client) = (body.clone(), client.unwrap());
            thread::spawn(move || body(client));
        }
    });
}

fn echo(mut client: UnixStream) {
    let mut out = client.try_clone().unwrap();
    std::io::copy(&mut client, &mut out).unwrap();
    out.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn sixty_four_mebibytes_come_back_unchanged() {
    let run = Run::start("echo");
    serve(run.listen(5000), echo);
    run.all_ok("echo");
}

#[test]
fn a_hundred_connections_at_once_do_not_mix() {
    let run = Run::start_with("parallel", |machine| machine.cpus = 2);
    serve(run.listen(5000), echo);
    run.all_ok("parallel");
}

/// The guest speaks once more after `parting-words`: what a kernel has queued when it reboots is lost with it.
#[test]
fn each_direction_ends_on_its_own_and_nothing_is_lost() {
    let run = Run::start("parting-words,slow-reader,half");
    serve(run.listen(5001), |mut client| {
        let mut question = Vec::new();
        client.read_to_end(&mut question).unwrap();
        write!(client, "{} bytes", question.len()).unwrap();
    });
    serve(run.listen(5002), |mut client| client.write_all(&pattern_bytes(1, 8 << 20)).unwrap());
    let (send, received) = mpsc::channel();
    serve(run.listen(5003), move |mut client| {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        send.send(all).unwrap();
    });
    run.all_ok("parting-words,slow-reader,half");
    assert!(received.recv_timeout(LIMIT).unwrap() == pattern_bytes(2, 1 << 20));
}

/// Connects to a port of the guest in firecracker's way, and gives the stream behind `OK`.
fn connect(path: &Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap();
    let ours: u32 = answer.strip_prefix("OK ").and_then(|text| text.trim_end().parse().ok()).expect(&answer);
    assert!(ours >= 1 << 30, "{answer}");
    stream
}

fn ask(path: &Path, seed: u64) {
    let mut stream = connect(path, 6000);
    let question = pattern_bytes(seed, 300_000);
    let mut out = stream.try_clone().unwrap();
    let copy = question.clone();
    let sender = thread::spawn(move || {
        out.write_all(&copy).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    sender.join().unwrap();
    assert!(answer == question, "{} bytes of {}", answer.len(), question.len());
}

#[test]
fn the_host_reaches_a_port_of_the_guest() {
    let mut run = Run::start("serve");
    run.line("serving");
    let path = run.path("v");
    let askers: Vec<_> = (0..20)
        .map(|seed| {
            let path = path.clone();
            thread::spawn(move || ask(&path, seed))
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    closed(&path, "CONNECT 6001\n");
    closed(&path, "HELLO 6000\n");
    closed(&path, &"CONNECT 6000".repeat(3));
    let mut stop = connect(&path, 6000);
    stop.write_all(b"stop").unwrap();
    run.all_ok("serve");
    assert!(!path.exists(), "the socket is removed with the guest");
}

/// The client is dropped without an answer.
fn closed(path: &Path, greeting: &str) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(greeting.as_bytes()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = Vec::new();
    // Bytes that were sent and not read make the close a reset.
    let end = stream.read_to_end(&mut answer);
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{greeting}");
    assert_eq!(answer, b"", "{greeting}");
}

#[test]
fn the_last_word_comes_over_vsock() {
    for (scenario, status) in [("exit-7", AppStatus::Exited(7)), ("signal-9", AppStatus::Killed(9))] {
        let outcome = Run::start(scenario).all_ok(scenario);
        assert_eq!((outcome.status, outcome.failure), (Some(status), None));
    }
    let outcome = Run::start("failed").all_ok("failed");
    assert_eq!((outcome.status, outcome.failure.as_deref()), (None, Some("eif-init: chdir \"/srv\": ENOENT")));
}

#[test]
fn a_panic_of_the_kernel_ends_the_run_and_is_named() {
    let mut run = Run::start("panic");
    let outcome = run.wait();
    let failure = outcome.failure.unwrap();
    assert!(failure.starts_with("Kernel panic - not syncing: Attempted to kill init!"), "{failure}");
}

#[test]
fn a_guest_that_hangs_is_stopped_in_time_and_nothing_is_left() {
    let mut run = Run::start("heartbeat,forever");
    run.line("ok heartbeat");
    let guest = run.guest.take().unwrap();
    let process = PathBuf::from(format!("/proc/{}", guest.pid()));
    assert!(process.exists());
    let outcome = guest.wait(Some(Duration::from_millis(200))).unwrap();
    assert!(outcome.ending == Ending::Limit && outcome.heartbeat && outcome.status.is_none());
    gone(&process);
}

#[test]
fn a_dropped_guest_is_gone() {
    let mut run = Run::start("heartbeat,forever");
    run.line("ok heartbeat");
    let guest = run.guest.take().unwrap();
    let process = PathBuf::from(format!("/proc/{}", guest.pid()));
    drop(guest);
    gone(&process);
}

fn gone(process: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while process.exists() {
        assert!(Instant::now() < deadline, "{} is still there", process.display());
        thread::yield_now();
    }
}

#[test]
fn what_qemu_dislikes_is_in_the_refusal() {
    let mut run = Run::start_with("", |machine| machine.cpus = 1000);
    let error = run.guest.take().unwrap().wait(Some(LIMIT)).unwrap_err();
    assert_eq!(error.code(), "E-qemu");
    assert!(error.to_string().contains("1000"), "{error}");
}
