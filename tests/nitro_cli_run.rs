//! Called as `nitro-cli`, with enclaves: the commands of AWS's announcement and user guide, one after the other.
#![cfg(target_os = "linux")]

mod common;
mod guest;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use common::engine::RealEngine;
use common::{Output, TestEnv};
use serde_json::Value;

/// As AWS's own example: it says hello until it is ended.
const HELLO: &str = "#!/bin/sh\ncount=1\nwhile true; do\n  printf \"[%4d] $HELLO\\n\" $count\n  count=$((count + 1))\n  sleep 1\ndone\n";
const DOCKERFILE: &str = "FROM scratch\nENV HELLO=\"Hello from the enclave side!\"\nCOPY busybox /bin/busybox\n\
                          COPY busybox /bin/sh\nCOPY busybox /bin/sleep\nCOPY hello.sh /bin/hello.sh\n\
                          CMD [\"/bin/hello.sh\"]\n";

/// A world with the program under AWS's name in PATH, as a shell finds it; whatever runs in it ends with it.
struct World(TestEnv);

impl World {
    fn new(env: TestEnv) -> Self {
        fs::create_dir(env.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_eif"), env.path("bin/nitro-cli")).unwrap();
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", env.path("bin").display());
        Self(env.variable("PATH", path))
    }

    /// A line as a user types it.
    fn shell(&self, line: &str) -> Output {
        self.0.run("sh", &["-c", line])
    }

    fn start_shell(&self, line: &str) -> Command {
        self.0.command_of("sh", &["-c", line])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.eif(&["stop", "--all"]);
    }
}

/// Asserts the exit code, the code's line, and nothing on stdout.
fn refused(output: Output, code: u8) -> Output {
    let output = output.code(code.into()).says(&format!("[ E{code:02} ] "));
    assert_eq!(output.stdout(), "");
    output
}

#[test]
fn the_sequence_of_the_announcement() {
    let env = TestEnv::with_kernels();
    let engine = RealEngine::start(&env, None);
    let env = env.variable("DOCKER_HOST", engine.host()).variable("DOCKER_BUILDKIT", "0");
    let world = World::new(env);
    let env = &world.0;
    fs::create_dir(env.path("hello")).unwrap();
    fs::copy("/bin/busybox", env.path("hello/busybox")).expect("install the package busybox-static");
    env.write("hello/hello.sh", HELLO);
    fs::set_permissions(env.path("hello/hello.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    env.write("hello/Dockerfile", DOCKERFILE);

    let built = world.shell("docker build hello -t hello:latest >&2 && nitro-cli build-enclave --docker-uri hello:latest --output-file hello.eif");
    let built = built.success().says("Start building the Enclave Image...").says("Enclave Image successfully created.");
    let measurements = built.json()["Measurements"].clone();

    let run = "nitro-cli run-enclave --cpu-count 2 --memory 512 --eif-path hello.eif --debug-mode";
    let run = world.shell(run).success().says("Start allocating memory...");
    let run = run.says("Started enclave with enclave-cid: 16, memory: 512 MiB, cpu-ids: [0, 1]");
    let given = run.json();
    assert_eq!(
        keys(&run),
        ["EnclaveName", "EnclaveID", "ProcessID", "EnclaveCID", "NumberOfCPUs", "CPUIDs", "MemoryMiB"]
    );

    let described = world.shell("nitro-cli describe-enclaves").success();
    let rows = described.json();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    for (key, value) in given.as_object().unwrap() {
        assert_eq!(&rows[0][key], value);
    }
    assert_eq!((&rows[0]["State"], &rows[0]["Flags"]), (&"RUNNING".into(), &"DEBUG_MODE".into()));
    assert_eq!(rows[0]["Measurements"], measurements);
    let with = world.shell("nitro-cli describe-enclaves --metadata").success().json();
    assert_eq!(with[0]["Metadata"]["BuildMetadata"], Value::Null, "its keys are flat");
    let described = env.run("nitro-cli", &["describe-eif", "--eif-path", "hello.eif"]).success().json();
    for key in ["ImageName", "ImageVersion", "Metadata"] {
        assert_eq!(with[0][key], described[key], "{key}");
    }

    let id = "$(nitro-cli describe-enclaves | sed -n 's/.*\"EnclaveID\": \"\\(.*\\)\".*/\\1/p')";
    let mut console = world.start_shell(&format!("exec nitro-cli console --enclave-id {id}"));
    let mut console = console.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(console.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "Connecting to the console for enclave 16...");
    assert_eq!(lines.next().unwrap(), "Successfully connected to the console.");
    assert!(lines.any(|line| line.trim_end() == "[   2] Hello from the enclave side!"));
    console.kill().unwrap();
    console.wait().unwrap();
    let timed = world.shell(&format!("nitro-cli console --enclave-id {id} --disconnect-timeout 1")).success();
    assert!(timed.stdout().contains("[   1] Hello from the enclave side!"));

    let ended = world.shell(&format!("nitro-cli terminate-enclave --enclave-id {id}")).success();
    let ended = ended.says(&format!("Successfully terminated enclave {}.", given["EnclaveID"].as_str().unwrap()));
    assert_eq!(keys(&ended), ["EnclaveName", "EnclaveID", "Terminated"]);
    assert_eq!(ended.json()["Terminated"], true);
    assert_eq!(world.shell("nitro-cli describe-enclaves").success().stdout(), "[]\n");
}

/// Keys of the object on stdout, in its order.
fn keys(output: &Output) -> Vec<String> {
    let lines = output.stdout().lines().filter_map(|line| line.strip_prefix("  \"")?.split_once("\": "));
    lines.map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn names_numbers_and_a_configuration() {
    let world = World::new(TestEnv::new());
    guest::image(world.0.path("app.eif"), "cid,heartbeat,forever");
    world
        .0
        .write("config.json", br#"{"eif_path": "app.eif", "memory_mib": 200, "cpu_ids": [1, 3], "debug_mode": true}"#);
    let first = world.shell("nitro-cli run-enclave --config config.json").success().json();
    let second = world.shell("nitro-cli run-enclave --eif-path app.eif --cpu-ids 2 3 --memory 200M --enclave-cid 40");
    let second = second.success().json();
    assert_eq!((&first["EnclaveName"], &second["EnclaveName"]), (&"app".into(), &"app_1".into()));
    assert_eq!((&second["EnclaveCID"], &second["NumberOfCPUs"]), (&40.into(), &2.into()));
    let _ = world.shell("nitro-cli terminate-enclave --enclave-name app_1").success();
    let attached = world.shell(
        "nitro-cli run-enclave --eif-path app.eif --cpu-count 1 --memory 200 --attach-console --enclave-name watched & \
         until nitro-cli describe-enclaves | grep -q watched; do :; done; \
         until [ \"$(nitro-cli describe-enclaves | grep -c RUNNING)\" = 2 ]; do :; done; \
         nitro-cli terminate-enclave --enclave-name watched >/dev/null; wait",
    );
    let attached = attached.success();
    let (object, console) = attached.stdout().split_once("}\n").unwrap();
    assert!(object.contains("\"EnclaveName\": \"watched\""));
    assert!(
        console.starts_with("Connecting to the console for enclave 17...\nSuccessfully connected to the console.\n")
    );
    assert!(console.contains("cid 17"));
    let all = world.shell("nitro-cli terminate-enclave --all").success().json();
    assert_eq!(all[0]["EnclaveID"], first["EnclaveID"]);
    assert_eq!(world.shell("nitro-cli terminate-enclave --all").success().stdout(), "[]\n");
}

#[test]
fn refusals_have_nitro_clis_codes() {
    let world = World::new(TestEnv::new());
    guest::image(world.0.path("app.eif"), "heartbeat,forever");
    let run = |words: &str| world.shell(&format!("nitro-cli run-enclave --cpu-count 1 {words}"));
    let few = refused(run("--memory 8 --eif-path app.eif"), 26);
    let _ = few.says("which is 4 times the EIF file size");
    let _ = refused(run("--memory 512 --eif-path none.eif"), 19).says("File: 'none.eif', failing operation: 'Open'.");
    let _ = refused(run("--memory 512 --eif-path app.eif --enclave-cid 2"), 3);
    let _ = refused(run("--memory 512 --eif-path app.eif --enclave-name a/b"), 58);
    world.0.write("bad.eif", [b'x'; 5000]);
    let _ = refused(run("--memory 512 --eif-path bad.eif"), 35);
    guest::image(world.0.path("panic.eif"), "cid,panic");
    let _ = refused(run("--memory 512 --eif-path panic.eif"), 36).says("Kernel panic - not syncing");
    world.0.write("config.json", br#"{"eif_path": "app.eif", "memory_mib": 200}"#);
    let _ = refused(world.shell("nitro-cli run-enclave --config config.json"), 1);
    world.0.write("config.json", br#"{"eif_path": "app.eif", "memory": 200}"#);
    let _ = refused(world.shell("nitro-cli run-enclave --config config.json"), 17);
    let _ = world.shell("nitro-cli run-enclave --memory 512 --eif-path app.eif").code(2);
    let _ = run("--memory 5K --eif-path app.eif").code(2);

    let _ = refused(world.shell("nitro-cli console --enclave-name nobody"), 58);
    let _ = refused(world.shell("nitro-cli console --enclave-id i-0-enc0"), 39);
    let _ = refused(world.shell("nitro-cli terminate-enclave --enclave-id nonsense"), 40);
    let _ = world.shell("nitro-cli terminate-enclave").code(2);
}
