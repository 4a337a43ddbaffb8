use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::super::host::tests::tree;
use super::super::parent::Parent;
use super::super::parent::tests::Played;
use super::super::tests::image;
use super::*;
use crate::Refusal;
use crate::launch::enclave::Enclave;
use crate::launch::vsock::HEARTBEAT_PORT;

const PATIENCE: Duration = Duration::from_secs(20);
/// What the driver says today, in bytes.
const OFFSET: usize = 8 << 20;

/// A driver that writes down what it is asked, and refuses what it is told to.
struct Stage {
    calls: Arc<Mutex<Vec<String>>>,
    /// Call, and number of the refusal; each is used once.
    refuse: Mutex<Vec<(&'static str, i32)>>,
    memory: Arc<Mutex<Vec<u8>>>,
    parent: Arc<Played>,
    /// The enclave's end of its descriptor and of its first connection.
    enclave: Arc<Mutex<Vec<UnixStream>>>,
}

impl Stage {
    fn new(refuse: &[(&'static str, i32)]) -> Self {
        Self {
            calls: Arc::default(),
            refuse: Mutex::new(refuse.to_vec()),
            memory: Arc::default(),
            parent: Arc::new(Played::new()),
            enclave: Arc::default(),
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

struct PlayedSlot<'a>(&'a Stage);

impl PlayedSlot<'_> {
    fn call(&self, what: &str, detail: String) -> Result<(), Errno> {
        self.0.calls.lock().unwrap().push(format!("{what}{detail}"));
        let mut refuse = self.0.refuse.lock().unwrap();
        match refuse.iter().position(|(call, _)| *call == what) {
            Some(at) => Err(Errno::from_raw_os_error(refuse.remove(at).1)),
            None => Ok(()),
        }
    }
}

impl Drop for PlayedSlot<'_> {
    fn drop(&mut self) {
        self.0.memory.lock().unwrap().clear();
        self.0.calls.lock().unwrap().push("close".into());
    }
}

impl<'a> Driver for &'a Stage {
    type Pages = Vec<u8>;
    type Slot = PlayedSlot<'a>;

    fn take(&self, _host: &Host, memory_mib: u64, _node: Option<u32>) -> Result<Vec<Vec<u8>>, Error> {
        let rest = usize::try_from(memory_mib * MIB).unwrap() - OFFSET - 4096;
        Ok(vec![vec![0; OFFSET + 4096], vec![0; rest]])
    }

    fn create(&self) -> Result<PlayedSlot<'a>, Errno> {
        let slot = PlayedSlot(self);
        slot.call("create", String::new())?;
        Ok(slot)
    }
}

impl Created for PlayedSlot<'_> {
    type Pages = Vec<u8>;

    fn number(&self) -> u64 {
        0x1234
    }

    fn load_offset(&self) -> Result<u64, Errno> {
        self.call("offset", String::new())?;
        Ok(OFFSET as u64)
    }

    fn add_memory(&mut self, pages: Vec<u8>) -> Result<(), Errno> {
        let first = self.0.memory.lock().unwrap().is_empty();
        self.call(if first { "memory" } else { "more memory" }, String::new())?;
        self.0.memory.lock().unwrap().extend(pages);
        Ok(())
    }

    fn add_cpu(&mut self, cpu: Option<u32>) -> Result<u32, Errno> {
        self.call("cpu", cpu.map_or(String::new(), |cpu| format!(" {cpu}")))?;
        Ok(cpu.unwrap_or(9))
    }

    /// The enclave connects at once: whoever listens later is too late for it.
    fn start(self, cid: Option<u32>, debug: bool) -> Result<(Running, u32), Errno> {
        self.call("start", format!(" {cid:?} {debug}"))?;
        let image = image();
        let memory = self.0.memory.lock().unwrap().clone();
        assert_eq!(memory[OFFSET..OFFSET + image.len()], image, "the image stands at its offset");
        assert!(memory[..OFFSET].iter().all(|&byte| byte == 0));
        let cid = cid.unwrap_or(16);
        let mut beat = self.0.parent.enclave(cid, HEARTBEAT_PORT).expect("nobody listens at START");
        beat.write_all(&[0xb7]).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.0.enclave.lock().unwrap().extend([theirs, beat]);
        Ok((Running::played(ours.into()), cid))
    }
}

struct World {
    folder: TempDir,
    host: Host,
}

fn world() -> World {
    let (folder, host) = tree(&[("module/nitro_enclaves/parameters/ne_cpus", "1,3\n"), ("dev/nitro_enclaves", "")]);
    World { folder, host }
}

impl World {
    fn launch(&self, bytes: &[u8], change: impl FnOnce(&mut Launch)) -> Launch {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let ports = self.folder.path().join("ports");
        let size = bytes.len() as u64;
        let mut launch = Launch { file, size, memory_mib: 64, cpus: Cpus::Count(2), cid: None, debug: false, ports };
        change(&mut launch);
        launch
    }

    fn start(&self, stage: &Stage, launch: Launch) -> Result<Enclave, Error> {
        let parent = Arc::clone(&stage.parent) as Arc<dyn Parent>;
        launch.start_with(&self.host, parent, &stage, Box::new(|_| ControlFlow::Continue(())), &|| false)
    }

    /// The refusal, after which nothing may be left.
    fn refused(&self, stage: &Stage, bytes: &[u8]) -> Error {
        let error = self.start(stage, self.launch(bytes, |_| {})).err().unwrap();
        let left = std::fs::read_dir(self.folder.path().join("ports")).unwrap();
        assert_eq!(left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["lock"]);
        let calls = stage.calls();
        let count = |what: &str| calls.iter().filter(|call| *call == what).count();
        assert_eq!(count("create"), count("close"), "{calls:?}");
        error
    }
}

#[test]
fn an_enclave_is_started_in_the_drivers_order() {
    let (world, stage) = (world(), Stage::new(&[]));
    let enclave = world.start(&stage, world.launch(&image(), |launch| launch.cid = Some(20))).unwrap();
    let expected = ["create", "offset", "memory", "more memory", "cpu", "cpu", "start Some(20) false", "close"];
    assert_eq!(stage.calls(), expected);
    assert_eq!(*enclave.facts(), Facts { cid: 20, cpu_ids: vec![9, 9], memory_mib: 64, slot: 0x1234 });
    enclave.await_heartbeat(PATIENCE).unwrap();
    assert!(world.folder.path().join("ports/cid-20").exists());
    stage.enclave.lock().unwrap().clear();
    assert!(enclave.wait(Some(PATIENCE)).unwrap().heartbeat);
}

#[test]
fn named_cpus_and_a_cid_of_the_hypervisors_choice() {
    let (world, stage) = (world(), Stage::new(&[]));
    let enclave = world.start(&stage, world.launch(&image(), |launch| launch.cpus = Cpus::Ids(vec![3, 1]))).unwrap();
    assert_eq!(stage.calls()[4..7], ["cpu 3", "cpu 1", "start None false"]);
    assert_eq!((enclave.facts().cid, &enclave.facts().cpu_ids[..]), (16, &[3, 1][..]));
}

/// Pages that were given back come again in another order, perhaps in fewer pieces.
#[test]
fn memory_in_too_many_pieces_is_tried_once_more_from_the_start() {
    let (world, stage) = (world(), Stage::new(&[("more memory", 265)]));
    world.start(&stage, world.launch(&image(), |_| {})).unwrap();
    let again = ["create", "offset", "memory", "more memory", "close", "create", "offset", "memory", "more memory"];
    assert_eq!(stage.calls()[..9], again);
    let stage = Stage::new(&[("memory", 265), ("memory", 265)]);
    let error = world.refused(&stage, &image());
    assert_eq!(error.code(), "E-nitro-regions");
    assert!(error.help()[0].contains("1 GiB pages"), "{:?}", error.help());
}

/// The region is half in, and only closing helps: no second try on the same slot.
#[test]
fn an_error_of_the_device_ends_the_launch_and_closes_the_slot() {
    let cases = [
        ("create", 272, "E-nitro-no-cpus", "creating the enclave: no CPU of the pool is free (NE 272)"),
        (
            "offset",
            270,
            "E-nitro-internal",
            "asking where the image goes: the enclave has been started already (NE 270)",
        ),
        ("memory", libc::EIO, "E-nitro-driver", "giving 8 MiB to the enclave: the hypervisor refused"),
        ("more memory", 264, "E-nitro-hugepages", "giving 55 MiB to the enclave: a huge page is of another NUMA node"),
        ("cpu", 257, "E-nitro-cpus", "adding CPU 1 of 2: the CPU is not in the pool"),
        (
            "start",
            269,
            "E-nitro-cpus",
            "starting the enclave: a CPU was given, and another one of the same core was not",
        ),
        (
            "start",
            libc::ETIMEDOUT,
            "E-nitro-timeout",
            "starting the enclave: the hypervisor did not answer within 120 s",
        ),
    ];
    let world = world();
    for (call, number, code, message) in cases {
        let stage = Stage::new(&[(call, number)]);
        let error = world.refused(&stage, &image());
        assert_eq!((error.code(), error.errno()), (code, Some(number)), "{error}");
        assert!(error.to_string().starts_with(message), "{error}");
        assert!(!error.help().is_empty(), "{error}");
        assert_eq!(stage.calls().iter().filter(|made| made.starts_with(call)).count(), 1, "{:?}", stage.calls());
    }
}

/// The driver starts anything. So nothing is given to it before the loaded bytes were checked.
#[test]
fn a_broken_image_is_never_given_to_the_driver() {
    let world = world();
    let mut broken = image();
    *broken.last_mut().unwrap() ^= 1;
    let cut = &image()[..600];
    for bytes in [&broken[..], cut] {
        let stage = Stage::new(&[]);
        let error = world.refused(&stage, bytes);
        assert!(matches!(error, Error::Image(_)), "{error}");
        assert_eq!(stage.calls(), ["create", "offset", "close"]);
    }
}

#[test]
fn what_the_driver_says_of_cpus_is_told_with_the_pool() {
    let (_folder, host) = tree(&[("module/nitro_enclaves/parameters/ne_cpus", "1,3\n")]);
    let error = |number| explain(&host, Error::driver("adding CPU 5")(Errno::from_raw_os_error(number)));
    assert_eq!(error(257).help()[0], "the pool of CPUs for enclaves is 1,3; a core has 1");
    assert_eq!(error(272).code(), "E-nitro-no-cpus");
    assert!(!error(265).help()[0].contains("pool"), "{:?}", error(265).help());
}

#[test]
fn what_is_not_wanted_any_more_is_not_started() {
    let (world, stage) = (world(), Stage::new(&[]));
    let launch = world.launch(&image(), |_| {});
    let parent = Arc::clone(&stage.parent) as Arc<dyn Parent>;
    let unwanted = || stage.calls().contains(&"cpu".to_owned());
    let watcher = Box::new(|_: &[u8]| ControlFlow::Continue(()));
    let error = launch.start_with(&world.host, parent, &&stage, watcher, &unwanted).err().unwrap();
    assert!(matches!(error, Error::Stopped), "{error}");
    let calls = stage.calls();
    assert!(calls.ends_with(&["close".into()]) && !calls.iter().any(|call| call.starts_with("start")), "{calls:?}");
}
