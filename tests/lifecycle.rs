//! Enclaves that live on without whoever started them: run --detach, ps, console, logs, wait, stop, and what is left when
//! any process of theirs is killed at any time.
#![cfg(target_os = "linux")]

mod common;
mod guest;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::TestEnv;
use common::boot::DEADLINE;
use serde_json::Value;

/// A world with an image named `app.eif`; whatever runs in it ends with it.
struct World(TestEnv);

impl World {
    fn new(scenarios: &str) -> Self {
        let env = TestEnv::new();
        guest::image(env.path("app.eif"), scenarios);
        Self(env)
    }

    /// `eif run app.eif --backend qemu --detach` and more; what it prints.
    fn detach(&self, further: &[&str]) -> Value {
        let arguments = [&["run", "app.eif", "--backend", "qemu", "--detach"][..], further].concat();
        self.0.eif(&arguments).success().json()
    }

    /// `eif ps --json`, and `--all` if that is asked for.
    fn ps(&self, further: &[&str]) -> Vec<Value> {
        let rows = self.0.eif(&[&["ps", "--json"][..], further].concat()).success().json();
        rows.as_array().unwrap().clone()
    }

    /// Processes of this world: they all have its folder in their environment.
    fn processes(&self) -> Vec<u32> {
        let own = format!("TMPDIR={}", self.0.tmp().display());
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let mine = |process: &u32| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == own.as_bytes())
        };
        all.filter(mine).collect()
    }

    /// Waits until no process is left.
    fn silence(&self) {
        until(|| self.processes().is_empty(), || format!("{:?} still run", self.processes()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.processes() {
            kill(process, "-KILL");
        }
    }
}

fn until(mut done: impl FnMut() -> bool, complaint: impl Fn() -> String) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "{}", complaint());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that has ended already is no error.
fn kill(process: u32, signal: &str) {
    let _ended = Command::new("kill").args([signal, &process.to_string()]).stderr(Stdio::null()).status().unwrap();
}

fn id(row: &Value, key: &str) -> u32 {
    u32::try_from(row[key].as_u64().unwrap()).unwrap()
}

/// Reads lines until one is this.
fn expect(from: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while line.trim_end() != wanted {
        line.clear();
        assert_ne!(from.read_line(&mut line).unwrap(), 0, "no line {wanted:?}");
    }
}

/// Lets the scenario `serve` go on.
fn go_on(world: &World) {
    let mut stream = UnixStream::connect(world.0.path("s")).unwrap();
    stream.write_all(b"CONNECT 6000\n").unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OK");
    stream.write_all(b"stop").unwrap();
}

#[test]
fn it_is_found_by_its_name_until_it_ends() {
    let world = World::new("heartbeat,serve,exit-7");
    let env = &world.0;
    let given = world.detach(&["--vsock", "s", "--memory", "200", "--cpus", "2"]);
    assert_eq!(given["EnclaveName"], "app");
    assert_eq!(
        (&given["EnclaveCID"], &given["MemoryMiB"], &given["NumberOfCPUs"]),
        (&16.into(), &200.into(), &2.into())
    );
    assert!(given["EnclaveID"].as_str().unwrap().starts_with("i-0000000000000000-enc"), "{given}");
    assert!(fs::read(format!("/proc/{}/cmdline", given["ProcessID"])).unwrap().starts_with(b"eif\0supervise\0"));

    let rows = world.ps(&[]);
    assert_eq!(rows.len(), 1);
    for (key, value) in given.as_object().unwrap() {
        assert_eq!(&rows[0][key], value);
    }
    assert_eq!((&rows[0]["State"], &rows[0]["Flags"]), (&"RUNNING".into(), &"DEBUG_MODE".into()));
    assert_eq!(rows[0]["Measurements"], env.eif(&["pcr", "app.eif"]).success().json()["Measurements"]);
    let table = env.eif(&["ps"]).success();
    assert!(
        table.stdout().lines().any(|line| line.starts_with("app   RUNNING  16   2     200  qemu   i-")),
        "{table:?}"
    );

    let refused = env.eif(&["run", "app.eif", "--backend", "qemu", "--detach"]).refused("E-enclave-taken");
    let _ = refused.says("\"app\"").says("eif stop app");
    let other = world.detach(&["--name", "other", "--vsock", "t"]);
    assert_eq!((&other["EnclaveName"], &other["EnclaveCID"]), (&"other".into(), &17.into()));
    let same = ["run", "app.eif", "--backend", "qemu", "--name", "third", "--cid", "17"];
    let _ = env.eif(&same).refused("E-enclave-cid").says("17");

    // Who looks on may leave, and nothing happens.
    let mut console = env.command(&["console", "app"]).stdout(Stdio::piped()).spawn().unwrap();
    expect(&mut BufReader::new(console.stdout.as_mut().unwrap()), "serving");
    console.kill().unwrap();
    console.wait().unwrap();
    assert!(env.eif(&["logs", "app"]).success().stdout().contains("ok heartbeat"));

    let mut waiting = env.command(&["wait", "app"]).spawn().unwrap();
    let console = env.command(&["console", "app"]).stdout(Stdio::piped()).spawn().unwrap();
    go_on(&world);
    assert_eq!(waiting.wait().unwrap().code(), Some(7));
    let console = console.wait_with_output().unwrap();
    assert!(console.status.success());
    assert!(String::from_utf8(console.stdout).unwrap().contains("ok exit-7"), "the last words are there");

    assert_eq!(world.ps(&[])[0]["EnclaveName"], "other");
    let all = world.ps(&["--all"]);
    assert_eq!((&all[0]["EnclaveName"], &all[0]["State"]), (&"app".into(), &"ENDED".into()));
    let _ = env.eif(&["wait", "app"]).code(7);
    assert!(env.eif(&["logs", "app"]).success().stdout().contains("ok exit-7"));
    let _ = env.eif(&["console", "app"]).refused("E-enclave-ended").says("eif logs app");
    let _ = env.eif(&["stop", "app"]).refused("E-enclave-ended");

    let stopped = env.eif(&["stop", "other"]).success().json();
    assert_eq!((&stopped["EnclaveID"], &stopped["Terminated"]), (&other["EnclaveID"], &true.into()));
    assert_eq!(world.processes(), [0; 0], "stop comes back when nothing is left");
    let _ = env.eif(&["wait", "other"]).code(137);
    assert_eq!(env.listing(&env.tmp()), [""; 0], "temporary files are left");
    // The name of one that has ended is free.
    assert_eq!(world.detach(&["--vsock", "s"])["EnclaveCID"], 16);
    assert_eq!(env.eif(&["stop", "--all"]).success().json().as_array().unwrap().len(), 1);
    assert_eq!(env.eif(&["stop", "--all"]).success().json(), serde_json::json!([]));
}

#[test]
fn names_are_held_to_what_a_folder_can_be() {
    let world = World::new("heartbeat,forever");
    let long = "n".repeat(65);
    for bad in ["", "a/b", "..", ".a", "-", "a b", "a\n", "ä", &long] {
        let name = format!("--name={bad}");
        let run = world.0.eif(&["run", "app.eif", "--backend", "qemu", &name]);
        let _ = run.refused("E-enclave-name");
    }
    for command in ["console", "logs", "wait", "stop"] {
        let _ = world.0.eif(&[command, "nobody"]).refused("E-enclave-unknown").says("nobody").says("eif ps");
        let _ = world.0.eif(&[command]).code(2);
    }
    fs::rename(world.0.path("app.eif"), world.0.path(".odd näme.eif")).unwrap();
    let given = world.0.eif(&["run", ".odd näme.eif", "--backend", "qemu", "--detach"]).success().json();
    assert_eq!(given["EnclaveName"], "_.odd_n_me");
}

#[test]
fn the_terminal_may_go() {
    let world = World::new("heartbeat,forever");
    // A session and a group of its own, all of which is killed.
    let mut shell = world.0.command_of("sh", &["-c", "\"$0\" run app.eif --backend qemu --detach; exec sleep 1000"]);
    shell.arg(env!("CARGO_BIN_EXE_eif")).process_group(0).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    expect(&mut BufReader::new(shell.stdout.as_mut().unwrap()), "}");
    for signal in ["-HUP", "-INT", "-KILL"] {
        let group = format!("-{}", shell.id());
        let _gone = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status().unwrap();
    }
    shell.wait().unwrap();
    assert_eq!(world.ps(&[])[0]["State"], "RUNNING");
    // A polite end of the process that `ps` names is the enclave's.
    kill(id(&world.ps(&[])[0], "ProcessID"), "-TERM");
    let _ = world.0.eif(&["wait", "app"]).code(137);
    world.silence();
}

#[test]
fn a_boot_that_fails_is_told_with_the_end_of_its_console() {
    let world = World::new("cid,heartbeat,failed");
    let run = ["run", "app.eif", "--backend", "qemu", "--detach"];
    // The heartbeat came, so it has booted; then it fails.
    let _ = world.0.eif(&run).success();
    let _ = world.0.eif(&["wait", "app"]).refused("E-boot").says("eif-init: chdir \"/srv\": ENOENT");
    guest::image(world.0.path("app.eif"), "cid,panic");
    let refused = world.0.eif(&run).refused("E-boot");
    let _ = refused.says("Kernel panic - not syncing").says("help: no heartbeat came");
    assert!(world.ps(&[]).is_empty());
    assert!(world.0.eif(&["logs", "app"]).success().stdout().contains("cid 16"));
    world.silence();
}

#[test]
fn whoever_watches_gets_every_byte_and_the_disk_only_the_last() {
    let world = World::new("heartbeat,flood,exit-7");
    let run = world.0.eif(&["run", "app.eif", "--backend", "qemu", "--attach"]).code(7);
    let numbers = run.stdout().lines().filter_map(|line| line.strip_prefix("line ")?.parse::<u32>().ok());
    assert!(numbers.eq(0..150_000), "a line is missing, or twice");
    let logs = world.0.eif(&["logs", "app"]).success();
    let kept = logs.stdout().len();
    assert!(logs.stdout().contains("line 149999") && (500_000..=1 << 20).contains(&kept), "{kept} bytes");
    assert!(run.stdout().ends_with(logs.stdout()));
}

#[test]
fn a_supervisor_that_dies_takes_the_enclave_along_and_leaves_a_row() {
    let world = World::new("cid,heartbeat,forever");
    let given = world.detach(&[]);
    let mut waiting = world.0.command(&["wait", "app"]).stderr(Stdio::null()).spawn().unwrap();
    let console = world.0.command(&["console", "app"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    kill(id(&given, "ProcessID"), "-KILL");
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
    let console = console.wait_with_output().unwrap();
    assert!(String::from_utf8(console.stderr).unwrap().contains("error[E-enclave-crashed]: "));
    world.silence();
    assert_eq!(world.ps(&[])[0]["State"], "CRASHED");
    assert!(world.0.eif(&["logs", "app"]).success().stdout().contains("cid 16"));
    let _ = world.0.eif(&["console", "app"]).refused("E-enclave-crashed");
    let run = ["run", "app.eif", "--backend", "qemu", "--detach"];
    let _ = world.0.eif(&run).refused("E-enclave-crashed").says("eif stop app");
    assert_eq!(world.0.eif(&["stop", "app"]).success().json()["EnclaveID"], given["EnclaveID"]);
    assert!(world.ps(&["--all"]).is_empty());
    world.detach(&[]);
}

/// The state of an enclave that another version of `eif` holds, say.
#[test]
fn a_row_that_cannot_be_read_is_in_nobodys_way_and_can_be_ended() {
    let world = World::new("heartbeat,forever");
    world.detach(&[]);
    fs::write(world.0.path("../run/eif/enclaves/app/state.json"), "{").unwrap();
    let row = &world.ps(&[])[0];
    assert_eq!((&row["EnclaveName"], &row["State"]), (&"app".into(), &"EMPTY".into()));
    world.detach(&["--name", "other"]);
    let _ = world.0.eif(&["run", "app.eif", "--backend", "qemu", "--detach"]).refused("E-enclave-taken");
    assert_eq!(world.0.eif(&["stop", "app"]).success().json()["EnclaveName"], "app");
    let _ = world.0.eif(&["stop", "other"]).success();
    world.silence();
}

#[test]
fn as_many_as_may_look_on_keep_nobody_from_ending_it() {
    let world = World::new("heartbeat,forever");
    world.detach(&[]);
    let watch = |_| {
        let mut stream = UnixStream::connect(world.0.path("../run/eif/enclaves/app/control")).unwrap();
        stream.write_all(b"console\n").unwrap();
        stream
    };
    let mut watching: Vec<_> = (0..80).map(watch).collect();
    // The last ones are sent away.
    let mut nothing = Vec::new();
    watching[79].read_to_end(&mut nothing).unwrap();
    assert!(nothing.is_empty());
    // Who says nothing has a place until it is clear that nothing comes: one who wants the end comes again.
    let silent = |_| UnixStream::connect(world.0.path("../run/eif/enclaves/app/control")).unwrap();
    let _silent: Vec<_> = (0..40).map(silent).collect();
    let _ = world.0.eif(&["stop", "app"]).success();
}

#[test]
fn qemu_can_be_asked_to_end() {
    let world = World::new("heartbeat,forever");
    world.detach(&[]);
    kill(process(&world, RUNS).unwrap(), "-TERM");
    let _ = world.0.eif(&["wait", "app"]).code(1);
    world.silence();
}

#[test]
fn what_has_ended_is_remembered_within_bounds() {
    let world = World::new("heartbeat,forever");
    let enclaves = world.0.path("../run/eif/enclaves");
    world.detach(&[]);
    let _ = world.0.eif(&["stop", "app"]).success();
    for number in 0..40 {
        let folder = enclaves.join(format!("old{number}"));
        fs::create_dir(&folder).unwrap();
        for file in ["alive", "state.json"] {
            fs::copy(enclaves.join("app").join(file), folder.join(file)).unwrap();
        }
    }
    world.detach(&["--name", "new"]);
    assert_eq!(fs::read_dir(&enclaves).unwrap().count(), 32 + 1 + 1, "32, the new one, and the lock");
    assert!(enclaves.join("old39").exists() && !enclaves.join("old0").exists());
}

/// A sequence that is the same in each run, and looks like none.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// In the command line of a QEMU that runs a guest, and of none that is asked what it can.
const RUNS: &[u8] = b"\0-cpu\0";

/// The process of this world whose command line has this.
fn process(world: &World, words: &[u8]) -> Option<u32> {
    let has = |process: &u32| {
        fs::read(format!("/proc/{process}/cmdline"))
            .is_ok_and(|line| line.windows(words.len()).any(|part| part == words))
    };
    world.processes().into_iter().find(has)
}

#[test]
fn any_of_our_processes_may_be_killed_at_any_time() {
    let world = World::new("heartbeat,forever");
    let mut dice = Dice(8);
    let begin = Instant::now();
    world.detach(&[]);
    let boot = u64::try_from(begin.elapsed().as_millis()).unwrap();
    let _ = world.0.eif(&["stop", "app"]).success();
    // Boots take longer or shorter as other tests run: it follows those whose start was killed while it watched.
    let mut window = boot + boot / 3;
    let (mut crashed, mut lived, mut early) = (0, 0, 0);
    for round in 0..50 {
        let how = if round % 2 == 0 { "--detach" } else { "--attach" };
        let mut eif = world.0.command(&["run", "app.eif", "--backend", "qemu", how]);
        let mut eif: Child = eif.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(dice.below(window)));
        let victim = match dice.below(3) {
            0 => Some(eif.id()),
            1 => process(&world, b"eif\0supervise\0"),
            _ => process(&world, RUNS),
        };
        match victim {
            Some(process) => kill(process, "-KILL"),
            None if how == "--attach" => eif.kill().unwrap(),
            None => {}
        }
        // Attached, it ends with whatever was killed; detached, it ends when it has booted, or with it.
        until(|| eif.try_wait().unwrap().is_some(), || format!("round {round}: eif waits for {victim:?}"));

        let rows = world.ps(&[]);
        if how == "--detach" && victim == Some(eif.id()) {
            window = if rows.is_empty() { window * 5 / 4 } else { window * 4 / 5 };
        }
        match rows.first().map(|row| row["State"].as_str().unwrap().to_owned()).as_deref() {
            Some("CRASHED") => crashed += 1,
            Some("RUNNING" | "EMPTY") => lived += 1,
            None => early += 1,
            other => panic!("{other:?}"),
        }
        if !rows.is_empty() {
            // One that ends at this moment is no error of this test.
            let stopped = world.0.eif(&["stop", "app"]);
            assert!(stopped.stdout().contains("true") || stopped.stderr().contains("E-enclave-ended"), "{stopped:?}");
        }
        world.silence();
        assert!(world.ps(&[]).is_empty(), "{:?}", world.ps(&[]));
        assert_eq!(world.0.listing(&world.0.tmp()), [""; 0], "round {round} leaves a file");
    }
    assert!(crashed > 3 && early > 10 && lived > 3, "{crashed} crashed, {lived} lived, {early} ended");
    world.detach(&[]);
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_none_for_us() {
    let world = World::new("cid,heartbeat,forever");
    let deep = world.0.path(&format!("{}/{}", "d".repeat(100), "e".repeat(100)));
    fs::create_dir_all(&deep).unwrap();
    let eif = |arguments: &[&str]| world.0.command(arguments).env("XDG_RUNTIME_DIR", &deep).output().unwrap();
    let run = eif(&["run", "app.eif", "--backend", "qemu", "--detach"]);
    assert!(run.status.success(), "{run:?}");
    assert!(eif(&["logs", "app"]).stdout.windows(6).any(|part| part == b"cid 16"));
    let stop = eif(&["stop", "app"]);
    assert!(stop.status.success(), "{stop:?}");
}

#[test]
fn a_folder_that_others_may_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new("heartbeat,forever");
    let folder: PathBuf = world.0.path("../run/eif");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let _ = world.0.eif(&["ps"]).refused("E-io").says("mode 0700");
    let _ = world.0.eif(&["run", "app.eif", "--backend", "qemu"]).refused("E-io").says("mode 0700");
    world.silence();
}
