use std::io::{Cursor, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;

use super::host::tests::tree;
use super::parent::tests::Played;
use super::*;
use crate::eif::{Metadata, Options, Writer, metadata};
use crate::launch::AppStatus;
use crate::launch::vsock::{HEARTBEAT_PORT, STATUS_PORT};
use crate::{Arch, Refusal};

const PATIENCE: Duration = Duration::from_secs(20);

/// The least file that the reader takes.
pub fn image() -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: Arch::X86_64, threads: 1 }).unwrap();
    writer.kernel(&mut &b"kernel"[..]).unwrap();
    writer.cmdline(b"console=ttyS0").unwrap();
    let facts = metadata::Facts::default();
    writer.metadata(&Metadata::new(facts).unwrap().to_bytes().unwrap()).unwrap();
    writer.ramdisk().unwrap().write_all(b"boot").unwrap();
    writer.ramdisk().unwrap().write_all(b"application").unwrap();
    writer.finish().unwrap().0.into_inner()
}

/// An enclave that is a socket: it has ended when the other end is closed.
struct Stage {
    parent: Arc<Played>,
    enclave: Enclave,
    life: Option<UnixStream>,
    console: Option<OwnedFd>,
    _folder: TempDir,
}

fn stage(debug: bool) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let parent = Arc::new(Played::new());
    let console = debug.then(|| parent.listen(10_016).unwrap());
    let shared = Arc::clone(&parent) as Arc<dyn Parent>;
    let ports = Ports::join(&folder.path().join("ports"), Arc::clone(&shared), PATIENCE, &|| false).unwrap();
    let (running, life) = UnixStream::pair().unwrap();
    let facts = Facts { cid: 16, cpu_ids: vec![1, 3], memory_mib: 64, slot: 7 };
    let watcher: Watcher = Box::new(|_| ControlFlow::Continue(()));
    let running = Running::played(running.into());
    let enclave = Enclave::watch(facts, running, ports, shared, debug.then_some(watcher)).unwrap();
    Stage { parent, enclave, life: Some(life), console, _folder: folder }
}

impl Stage {
    fn send(&self, port: u32, bytes: &[u8]) -> UnixStream {
        let mut stream = self.parent.enclave(16, port).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Writes to the console and closes it.
    fn say(&self, text: &str) {
        let listener = self.console.as_ref().unwrap();
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        poll(&mut fds, Timespec::try_from(PATIENCE).ok().as_ref()).unwrap();
        let mut stream = UnixStream::from(rustix::net::accept(listener).unwrap());
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }

    fn end(&mut self) {
        drop(self.life.take());
    }
}

#[test]
fn a_heartbeat_then_a_status() {
    let mut stage = stage(false);
    let _beat = stage.send(HEARTBEAT_PORT, &[0xb7]);
    stage.enclave.await_heartbeat(PATIENCE).unwrap();
    let _report = stage.send(STATUS_PORT, b"EIF\x01\x00\x05\x00\x00");
    stage.end();
    let outcome = stage.enclave.wait(None).unwrap();
    assert_eq!((outcome.status, outcome.ending), (Some(AppStatus::Exited(5)), Ending::Guest));
    assert!(outcome.heartbeat && outcome.failure.is_none() && outcome.console.is_empty());
}

#[test]
fn the_console_is_in_the_outcome() {
    let mut stage = stage(true);
    stage.say("[ 0.1] Kernel panic - not syncing: x\n");
    stage.end();
    let outcome = stage.enclave.wait(Some(PATIENCE)).unwrap();
    assert_eq!((outcome.status, outcome.ending), (None, Ending::Guest));
    assert_eq!(outcome.failure.as_deref(), Some("Kernel panic - not syncing: x"));
    assert!(outcome.console.ends_with(b"syncing: x\n"));
}

#[test]
fn no_heartbeat_is_a_failed_boot_with_a_reason() {
    let stage = stage(false);
    let error = stage.enclave.await_heartbeat(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.code(), "E-boot");
    assert!(error.to_string().contains("no heartbeat came within"), "{error}");
}

#[test]
fn an_end_before_the_heartbeat_is_a_failed_boot_at_once() {
    let mut stage = stage(true);
    stage.say("eif-init: chdir: gone (ENOENT)\n");
    let deadline = Instant::now() + PATIENCE;
    let seen = |stage: &Stage| stage.enclave.console.as_ref().unwrap().console().failure().is_some();
    while !seen(&stage) {
        assert!(Instant::now() < deadline, "the console was not read");
        thread::yield_now();
    }
    stage.end();
    let error = stage.enclave.await_heartbeat(PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "the enclave did not boot: eif-init: chdir: gone (ENOENT)");
    assert!(matches!(error, Error::Boot { console, .. } if console.starts_with(b"eif-init")));
}

#[test]
fn a_wrong_heartbeat_is_a_failed_boot() {
    let stage = stage(false);
    let _beat = stage.send(HEARTBEAT_PORT, &[0x41]);
    let error = stage.enclave.await_heartbeat(PATIENCE).unwrap_err();
    assert!(error.to_string().ends_with("its heartbeat is 0x41, it should be 0xb7"), "{error}");
}

/// The enclave's descriptor is closed when its keeper lets go: that is what ends a real one.
#[test]
fn stopper_limit_and_drop_let_go_of_the_enclave() {
    let taken = |debug| {
        let Stage { parent, enclave, life, console, _folder } = stage(debug);
        let rest = (parent, console, _folder);
        (enclave, life, rest)
    };
    let alive = |life: &Option<UnixStream>| {
        let mut fds = [PollFd::new(life.as_ref().unwrap(), PollFlags::empty())];
        poll(&mut fds, Timespec::try_from(Duration::ZERO).ok().as_ref()).unwrap() == 0
    };
    let (enclave, life, _rest) = taken(false);
    let stopper = enclave.stopper();
    let (send, outcome) = mpsc::channel();
    let waiter = thread::spawn(move || send.send(enclave.wait(None)).unwrap());
    assert!(alive(&life));
    stopper.stop();
    assert_eq!(outcome.recv_timeout(PATIENCE).unwrap().unwrap().ending, Ending::Stopped);
    waiter.join().unwrap();
    assert!(!alive(&life));

    let (enclave, life, _rest) = taken(false);
    assert_eq!(enclave.wait(Some(Duration::from_millis(10))).unwrap().ending, Ending::Limit);
    assert!(!alive(&life));

    let (enclave, life, _rest) = taken(true);
    enclave.stopper().stop();
    assert!(matches!(enclave.await_heartbeat(PATIENCE), Err(Error::Stopped)));
    assert!(alive(&life), "the keeper decides");
    drop(enclave);
    assert!(!alive(&life));
}

/// What the device would refuse late, or not at all, is refused before anything is taken.
#[test]
fn requests_are_checked_before_the_device_is_opened() {
    let (folder, host) = tree(&[
        ("module/nitro_enclaves/parameters/ne_cpus", "1,3,5,7\n"),
        ("devices/system/cpu/cpu0/topology/thread_siblings_list", "0,4\n"),
        ("devices/system/cpu/cpu1/topology/thread_siblings_list", "1,5\n"),
    ]);
    let launch = |change: &dyn Fn(&mut Launch)| {
        let file = tempfile::tempfile().unwrap();
        let ports = folder.path().join("ports");
        let cpus = Cpus::Count(2);
        let mut launch = Launch { file, size: 1, memory_mib: 64, cpus, cid: None, debug: false, ports };
        change(&mut launch);
        let error = launch.start_on(&host, Box::new(|_| ControlFlow::Continue(())), &|| false).err().unwrap();
        (error.code(), error.to_string(), error.help())
    };
    assert_eq!(launch(&|_| {}).0, "E-nitro-device");
    assert_eq!(launch(&|l| l.memory_mib = 63).0, "E-nitro-memory");
    assert_eq!(launch(&|l| l.size = 57 << 20).0, "E-nitro-memory");
    for cid in [0, 3, u32::MAX] {
        assert_eq!(launch(&|l| l.cid = Some(cid)).0, "E-nitro-cid");
    }
    let cpus = |cpus: Cpus| {
        let (code, message, help) = launch(&|l| l.cpus = cpus.clone());
        assert_eq!((code, help[1].as_str()), ("E-nitro-cpus", "the pool of CPUs for enclaves is 1,3,5,7"));
        (message, help[0].clone())
    };
    let (message, help) = cpus(Cpus::Count(3));
    assert_eq!(
        (message.as_str(), help.as_str()),
        ("3 CPUs are no whole cores: a core of this instance has 2", "--cpus 4")
    );
    assert_eq!(cpus(Cpus::Count(0)).1, "--cpus 2 at least");
    assert!(cpus(Cpus::Count(6)).1.contains("allocator.yaml"));
    assert!(cpus(Cpus::Count(u32::MAX)).1.contains("allocator.yaml"));
    assert_eq!(cpus(Cpus::Ids(vec![])).0, "no CPU is named");
    assert_eq!(cpus(Cpus::Ids(vec![3, 3])).0, "CPU 3 is named twice");
    assert_eq!(cpus(Cpus::Ids(vec![0, 4])).0, "CPU 0 is not in the pool");
    assert_eq!(cpus(Cpus::Ids(vec![3, 7, 1])).0, "CPU 1 was given, CPU 5 of the same core was not");
    assert_eq!(launch(&|l| l.cpus = Cpus::Ids(vec![1, 5])).0, "E-nitro-device");
}

/// A file that is the device's name only: the driver's answer is told in the driver's words.
#[test]
fn a_device_of_another_kind_is_named_and_nothing_is_left() {
    let (folder, host) = tree(&[
        ("module/nitro_enclaves/parameters/ne_cpus", "1\n"),
        ("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n"),
        ("kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "0\n"),
        ("dev/x", ""),
    ]);
    std::os::unix::fs::symlink("/dev/null", host.device()).unwrap();
    let bytes = image();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let size = bytes.len() as u64;
    let ports = folder.path().join("ports");
    let launch = Launch { file, size, memory_mib: 64, cpus: Cpus::Count(1), cid: None, debug: false, ports };
    let error = launch.start_on(&host, Box::new(|_| ControlFlow::Continue(())), &|| false).err().unwrap();
    // The machine's vsock port may be in use by another test of this kind; pages are looked for after that.
    assert_eq!(error.code(), "E-nitro-hugepages", "{error}");
    let left: Vec<_> =
        std::fs::read_dir(folder.path().join("ports")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}
