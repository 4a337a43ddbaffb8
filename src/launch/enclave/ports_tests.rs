use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use tempfile::TempDir;

use super::super::parent::tests::Played;
use super::*;
use crate::Refusal;
use crate::launch::AppStatus;
use crate::launch::vsock::{HEARTBEAT, Report};

const PATIENCE: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::ZERO;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn join(folder: &TempDir, parent: &Arc<Played>) -> Ports {
    Ports::join(folder.path(), Arc::clone(parent) as Arc<dyn Parent>, PATIENCE, &|| false).unwrap()
}

/// Waits for news until the condition holds.
fn until(ports: &Ports, what: &str, holds: impl Fn(&Ports) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(ports) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{what} did not happen");
        let timeout = Timespec::try_from(left).ok();
        poll(&mut [PollFd::new(ports.news(), PollFlags::IN)], timeout.as_ref()).unwrap();
        ports.listen_again();
    }
}

fn beat(parent: &Played, cid: u32, byte: u8) -> UnixStream {
    let mut stream = parent.enclave(cid, HEARTBEAT_PORT).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[byte]).unwrap();
    stream
}

fn echoed(stream: &mut UnixStream) -> Option<u8> {
    let mut answer = [0];
    (stream.read(&mut answer).ok()? == 1).then_some(answer[0])
}

#[test]
fn the_heartbeat_is_answered_and_its_port_given_up() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    let mut stream = beat(&parent, 16, HEARTBEAT);
    assert_eq!(echoed(&mut stream), Some(HEARTBEAT));
    until(&ports, "the heartbeat", |ports| ports.record().heartbeat());
    // The listener is closed by the thread that answered.
    let deadline = Instant::now() + PATIENCE;
    while parent.listen(HEARTBEAT_PORT).is_err() {
        assert!(Instant::now() < deadline, "port 9000 stays in use");
        thread::yield_now();
    }
    assert_eq!(parent.listen(STATUS_PORT).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn another_byte_is_told_and_not_answered() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    assert_eq!(echoed(&mut beat(&parent, 16, 0xb8)), None);
    until(&ports, "the wrong byte", |ports| ports.heard().wrong_byte() == Some(0xb8));
    assert!(!ports.record().heartbeat());
}

/// A heartbeat of a CID that is not ours does nothing for us.
#[test]
fn another_enclaves_heartbeat_is_not_ours() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    let _foreign = beat(&parent, 17, HEARTBEAT);
    assert_eq!(echoed(&mut beat(&parent, 16, HEARTBEAT)), Some(HEARTBEAT));
    until(&ports, "the own heartbeat", |ports| ports.record().heartbeat());
}

#[test]
fn what_comes_before_the_cid_is_known_waits_for_it() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let ports = join(&folder, &parent);
    let mut early = beat(&parent, 16, HEARTBEAT);
    ports.claim(16).unwrap();
    assert_eq!(echoed(&mut early), Some(HEARTBEAT));
}

#[test]
fn the_last_word_is_taken_in_when_leaving() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let mut ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    parent.enclave(16, STATUS_PORT).unwrap().write_all(b"EIF\x01\x00\x07\x00\x00").unwrap();
    ports.leave();
    assert_eq!(ports.record().report(), Some(Report::Ended(AppStatus::Exited(7))));
    assert!(!folder.path().join("cid-16").exists());
}

/// Four launchers share both ports; each gets what its own enclave sends, whoever accepts it.
#[test]
fn launches_at_once_share_the_ports() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let all: Vec<_> = (16..20).map(|cid| (cid, join(&folder, &parent))).collect();
    for (cid, ports) in &all {
        assert!(ports.reports());
        ports.claim(*cid).unwrap();
    }
    for (cid, ports) in &all {
        assert_eq!(echoed(&mut beat(&parent, *cid, HEARTBEAT)), Some(HEARTBEAT), "CID {cid}");
        until(ports, "the heartbeat", |ports| ports.record().heartbeat());
        let status = u8::try_from(*cid).unwrap();
        let report = [b'E', b'I', b'F', 1, 0, status, 0, 0];
        parent.enclave(*cid, STATUS_PORT).unwrap().write_all(&report).unwrap();
        until(ports, "the report", |ports| ports.record().report().is_some());
        assert_eq!(ports.record().report(), Some(Report::Ended(AppStatus::Exited(status))));
    }
}

/// The port outlives the launcher that opened it, and never closes in between.
#[test]
fn a_port_stays_open_when_the_first_launcher_goes() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let first = join(&folder, &parent);
    let second = join(&folder, &parent);
    second.claim(17).unwrap();
    drop(first);
    assert_eq!(echoed(&mut beat(&parent, 17, HEARTBEAT)), Some(HEARTBEAT));
    let third = join(&folder, &parent);
    assert!(third.reports());
    third.claim(18).unwrap();
    drop(second);
    assert_eq!(echoed(&mut beat(&parent, 18, HEARTBEAT)), Some(HEARTBEAT));
}

/// A socket whose launcher was killed is in nobody's way.
#[test]
fn a_dead_launchers_socket_is_removed() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let dead = folder.path().join("cid-16");
    drop(mail::bind(&dead).unwrap());
    assert!(dead.exists());
    let ports = join(&folder, &parent);
    assert!(!dead.exists());
    ports.claim(16).unwrap();
    assert_eq!(echoed(&mut beat(&parent, 16, HEARTBEAT)), Some(HEARTBEAT));
}

/// nitro-cli has port 9000 while it boots an enclave: who comes then waits, and gets it.
#[test]
fn a_foreign_launcher_is_waited_for() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let foreign = parent.listen(HEARTBEAT_PORT).unwrap();
    let error = Ports::join(folder.path(), Arc::clone(&parent) as Arc<dyn Parent>, AT_ONCE, &|| false).err().unwrap();
    assert_eq!(error.code(), "E-nitro-port");
    assert!(error.help()[0].contains("ss --vsock"), "{:?}", error.help());
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| join(&folder, &parent));
        drop(foreign);
        waiting.join().unwrap()
    });
    waiting.claim(16).unwrap();
    assert_eq!(echoed(&mut beat(&parent, 16, HEARTBEAT)), Some(HEARTBEAT));
}

/// Port 9001 may be another user's for hours: the enclave runs, and says so.
#[test]
fn a_foreign_status_port_is_no_obstacle() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let _foreign = parent.listen(STATUS_PORT).unwrap();
    let ports = join(&folder, &parent);
    assert!(!ports.reports());
    ports.claim(16).unwrap();
    assert_eq!(echoed(&mut beat(&parent, 16, HEARTBEAT)), Some(HEARTBEAT));
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    let parent = || Arc::new(Played::new()) as Arc<dyn Parent>;
    let open = folder();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = Ports::join(open.path(), parent(), AT_ONCE, &|| false).err().unwrap();
    assert!(error.to_string().contains("not a folder of this user's alone"), "{error}");
    let made = folder();
    let below = made.path().join("ports");
    Ports::join(&below, parent(), AT_ONCE, &|| false).map(drop).unwrap();
    assert_eq!(fs::metadata(&below).unwrap().permissions().mode() & 0o777, 0o700);
    let long = made.path().join("x".repeat(90));
    let error = Ports::join(&long, parent(), AT_ONCE, &|| false).err().unwrap();
    assert!(error.to_string().starts_with("binding "), "{error}");
}

/// Whatever is sent to a launcher's socket, it goes on.
#[test]
fn nonsense_from_another_launcher_is_ignored() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    let path = folder.path().join("cid-16");
    // A connection of nobody's: a file, which has no peer.
    let file = File::open("/dev/null").unwrap();
    mail::send_connection(&path, file.as_fd(), STATUS_PORT).unwrap();
    mail::send_connection(&path, file.as_fd(), 77).unwrap();
    assert!(mail::ask(&path).unwrap().0.is_some());
    assert_eq!(echoed(&mut beat(&parent, 16, HEARTBEAT)), Some(HEARTBEAT));
}

/// An enclave that opens connections without end costs its launcher a few descriptors.
#[test]
fn connections_are_bounded() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    let mut flood: Vec<_> = (0..200).map(|_| parent.enclave(16, STATUS_PORT).unwrap()).collect();
    for stream in &mut flood {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(echoed(&mut flood[0]), None, "the oldest one is closed");
    assert_eq!(echoed(&mut beat(&parent, 16, HEARTBEAT)), Some(HEARTBEAT));
}

/// Nobody who is on the way out is held by an enclave that sends and sends.
#[test]
fn a_flood_does_not_keep_a_launcher_from_leaving() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let mut ports = join(&folder, &parent);
    ports.claim(16).unwrap();
    let mut streams: Vec<_> = (0..4).map(|_| parent.enclave(16, STATUS_PORT).unwrap()).collect();
    thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(move || while stream.write_all(&[0; 512]).is_ok() {});
        }
        // Closes the streams, which ends the flood.
        ports.leave();
    });
}

#[test]
fn who_is_not_wanted_any_more_does_not_wait_for_the_port() {
    let (folder, parent) = (folder(), Arc::new(Played::new()));
    let _foreign = parent.listen(HEARTBEAT_PORT).unwrap();
    let error = Ports::join(folder.path(), Arc::clone(&parent) as Arc<dyn Parent>, PATIENCE, &|| true).err().unwrap();
    assert!(matches!(error, Error::Stopped), "{error}");
}
