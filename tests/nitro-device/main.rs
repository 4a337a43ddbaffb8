//! The launcher against AWS's own driver: the module nitro_enclaves of the Linux kernel, in a virtual machine whose Nitro
//! Enclaves device is emulated here.
//!
//! `vfio` serves the device to QEMU, `hypervisor` is what it does, `played` what an enclave does, `parent` the machine. What
//! this does not show: what the real hypervisor answers, and when.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../guest/mod.rs"]
mod guest;
mod hypervisor;
mod parent;
mod played;
mod vfio;

use std::fs;
use std::path::Path;

use common::TestEnv;
use hypervisor::{ADD_CPU, ADD_MEMORY, REGIONS, START};
use parent::{Ended, PAGES, Parent};
use played::Play;

/// An enclave that ends with exit status 7.
fn seven() -> Play {
    Play { report: Some(b"EIF\x01\x00\x07\x00\x00".to_vec()), ends: true, ..Play::default() }
}

/// One machine for all of it: its boot is the dearest part.
#[test]
fn the_driver_takes_what_the_launcher_gives() {
    let env = TestEnv::new();
    let image = guest::image(env.path("app.eif"), "heartbeat,forever");
    let mut test = Test { parent: Parent::boot(&[("app.eif", &image)]) };
    test.nothing_is_left();
    test.the_image_is_loaded_bit_by_bit(&image);
    test.the_end_of_the_application_is_told();
    test.what_is_not_debugged_has_no_console();
    test.an_enclave_that_crashes_is_missed();
    test.what_does_not_boot_is_told();
    test.two_at_once();
    test.cpus_are_whole_cores_of_the_pool();
    test.memory_is_what_there_is();
    test.what_the_device_refuses_leaves_nothing();
    test.however_it_is_killed();
    test.under_nitro_clis_name();
    test.without_a_pool_and_without_pages();
}

struct Test {
    parent: Parent,
}

impl Test {
    /// `eif run app.eif` in the machine, with 64 MiB.
    fn run(&mut self, further: &str) -> Ended {
        self.parent.run(&format!("eif run app.eif --memory 64 {further}"))
    }

    /// No enclave, no page in use, no process, no row.
    fn nothing_is_left(&mut self) {
        self.parent.hypervisor.empty();
        self.parent.until(&format!("[ $(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages) = {PAGES} ]"));
        self.parent.until("[ -z \"$(pidof eif)\" ]");
        assert_eq!(self.parent.run("eif ps --json").success().said, "[]\n");
    }

    /// The pieces that the driver was given make the file, at the place where the loader looks for it.
    fn the_image_is_loaded_bit_by_bit(&mut self, image: &Path) {
        let run = self.parent.run("eif run app.eif --cpus 2 --memory 128 --debug --detach").success();
        let seen = self.parent.hypervisor.started(1);
        assert_eq!((seen.cid, seen.memory, seen.debug, &seen.cpus[..]), (16, 128 << 20, true, &[2, 3][..]));
        let bytes = fs::read(image).unwrap();
        assert!(seen.image == bytes, "{} bytes of {}", seen.image.len(), bytes.len());
        let run = run.says("\"EnclaveID\": \"i-0000000000000000-enc173dfe3e0000001\"");
        let _ = run.says("\"EnclaveCID\": 16").says("\"MemoryMiB\": 128");
        let _ = self.parent.run("eif ps").success().says("app   RUNNING  16   2     128  nitro, debug");
        assert_eq!(self.parent.free_pages(), PAGES - 64);
        let promised = self.parent.run("cat /sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages").success();
        assert_eq!(promised.said, "0\n", "the kernel's count of promised pages is right while an enclave runs");
        self.parent.until("eif logs app | grep -q hello");
        let _ = self.parent.run("timeout 1 eif console app").says("hello");
        let _ = self.parent.run("eif stop app").success().says("\"Terminated\": true");
        assert_eq!(self.parent.hypervisor.stops(), 1);
        self.nothing_is_left();
        let _ = self.parent.run("eif logs app").success().says("hello");
    }

    fn the_end_of_the_application_is_told(&mut self) {
        self.parent.hypervisor.next(seven());
        let run = self.run("--debug --attach");
        assert!(run.status == 7 && run.said.contains("hello"), "{run:?}");
        self.parent.hypervisor.next(Play { report: Some(b"EIF\x01\x01\x09\x00\x00".to_vec()), ..seven() });
        assert_eq!(self.run("--debug --attach").status, 137);
        let failed = b"EIF\x01\x02\x00\x00\x02eif-init: chdir \"/srv\": ENOENT".to_vec();
        self.parent.hypervisor.next(Play { report: Some(failed), ..seven() });
        let _ = self.run("--debug --attach").refused("E-boot").says("eif-init: chdir \"/srv\": ENOENT");
        self.nothing_is_left();
    }

    /// The status comes all the same: it travels over vsock.
    fn what_is_not_debugged_has_no_console(&mut self) {
        self.parent.hypervisor.next(seven());
        let _ = self.run("--detach").success();
        assert_eq!(self.parent.run("eif wait app").status, 7);
        assert!(!self.parent.hypervisor.started(self.parent.hypervisor.starts()).debug);
        let _ = self.parent.run("eif logs app").refused("E-enclave-console").says("--debug");
        self.nothing_is_left();
    }

    fn an_enclave_that_crashes_is_missed(&mut self) {
        let _ = self.run("--detach --cid 77").success().says("\"EnclaveCID\": 77");
        self.parent.hypervisor.crash(77);
        let _ = self.parent.run("eif wait app").refused("E-boot").says("without a word");
        self.nothing_is_left();
    }

    fn what_does_not_boot_is_told(&mut self) {
        let silent =
            Play { heartbeat: None, console: b"Kernel panic - not syncing: no init\n".to_vec(), ..Play::default() };
        self.parent.hypervisor.next(silent.clone());
        let late = self.run("--debug --detach --boot-limit 2").refused("E-boot");
        let _ = late.says("console   Kernel panic - not syncing: no init").says("Kernel panic - not syncing: no init");
        self.parent.hypervisor.next(Play { ends: true, ..silent });
        let _ = self.run("--detach").refused("E-boot").says("--debug shows its console");
        self.parent.hypervisor.next(Play { heartbeat: Some(0xb8), ..Play::default() });
        let _ = self.run("--detach").refused("E-boot").says("0xb8");
        self.nothing_is_left();
    }

    /// They share the heartbeat's port.
    fn two_at_once(&mut self) {
        let _ = self.parent.run(
            "eif run app.eif --memory 64 --debug --name one > /tmp/one 2>&1 & \
             eif run app.eif --memory 64 --debug --name two > /tmp/two 2>&1; wait",
        );
        let rows = self.parent.run("eif ps").success().said;
        let running: Vec<&str> = rows.lines().filter(|line| line.contains("RUNNING")).collect();
        assert_eq!(running.len(), 2, "{rows}{}", self.parent.run("cat /tmp/one /tmp/two").said);
        let _ = self.run("--name three").refused("E-nitro-no-cpus").says("cpu_count");
        // Their names are another user's business, not their ports.
        let both = self.parent.run("eif stop --all").success();
        assert_eq!(both.said.matches("true").count(), 2, "{}", both.said);
        self.nothing_is_left();
    }

    fn cpus_are_whole_cores_of_the_pool(&mut self) {
        let _ = self.run("--cpu-ids 4 5").success();
        let seen = self.parent.hypervisor.started(self.parent.hypervisor.starts());
        assert_eq!(seen.cpus, [4, 5]);
        let _ = self.run("--name b --cpu-ids 4 5").refused("E-nitro-cpus");
        let _ = self.parent.run("eif stop app").success();
        let _ = self.run("--cpu-ids 2").refused("E-nitro-cpus").says("NE 269").says("whole cores");
        let _ = self.run("--cpu-ids 0 1").refused("E-nitro-cpus").says("the pool of CPUs for enclaves is 2,3,4,5");
        let _ = self.run("--cpus 1").refused("E-nitro-cpus").says("--cpus 2");
        let _ = self.run("--cpus 6").refused("E-nitro-cpus");
        self.nothing_is_left();
    }

    fn memory_is_what_there_is(&mut self) {
        let _ = self.parent.run("eif run app.eif --memory 400").refused("E-nitro-hugepages").says("memory_mib");
        self.parent.hypervisor.regions(1);
        // Pages side by side are one piece; this many never are.
        let _ = self.parent.run("eif run app.eif --memory 300").refused("E-nitro-regions").says("1 GiB");
        self.parent.hypervisor.regions(REGIONS);
        self.nothing_is_left();
    }

    fn what_the_device_refuses_leaves_nothing(&mut self) {
        for command in [ADD_MEMORY, ADD_CPU, START] {
            self.parent.hypervisor.fail(command, 5);
            let _ = self.run("").refused("E-nitro-driver");
            self.nothing_is_left();
        }
        let _ = self.run("").success();
        let _ = self.parent.run("eif stop app").success();
        self.nothing_is_left();
    }

    fn however_it_is_killed(&mut self) {
        let _ = self.run("").success();
        let stops = self.parent.hypervisor.stops();
        let _ = self.parent.run("kill -9 $(pidof eif)").success();
        self.parent.hypervisor.empty();
        assert_eq!(self.parent.hypervisor.stops(), stops + 1);
        let _ = self.parent.run("eif ps").success().says("CRASHED");
        let _ = self.parent.run("eif stop app").success();
        self.nothing_is_left();
        for signal in ["TERM", "KILL"] {
            let started = self.parent.hypervisor.starts();
            let line = "eif run app.eif --memory 64 --debug --attach > /tmp/out 2>&1 & echo $! > /tmp/pid; \
                        n=0; until grep -q hello /tmp/out || [ $n = 600 ]; do n=$((n+1)); usleep 100000; done";
            let _ = self.parent.run(line);
            assert_eq!(self.parent.hypervisor.starts(), started + 1, "{}", self.parent.run("cat /tmp/out").said);
            let _ = self.parent.run(&format!("kill -{signal} $(cat /tmp/pid)")).success();
            self.nothing_is_left();
        }
    }

    fn under_nitro_clis_name(&mut self) {
        let _ = self.parent.run("ln -s eif /bin/nitro-cli").success();
        let run = "nitro-cli run-enclave --eif-path app.eif --memory 64 --cpu-count";
        let _ = self.parent.run(&format!("{run} 2 --debug-mode --enclave-cid 18")).success().says("cpu-ids: [2, 3]");
        let _ = self.parent.run("nitro-cli describe-enclaves").success().says("\"State\": \"RUNNING\"");
        let console = self.parent.run("nitro-cli console --enclave-name app --disconnect-timeout 1").success();
        let _ = console.says("Successfully connected to the console.\nhello");
        for (line, code) in [
            (format!("{run} 4"), 22),
            (format!("{run} 2 --enclave-cid 18"), 29),
            ("nitro-cli run-enclave --eif-path app.eif --memory 64 --cpu-ids 0 1".to_owned(), 21),
            ("nitro-cli run-enclave --eif-path app.eif --memory 400 --cpu-count 2".to_owned(), 27),
        ] {
            let ended = self.parent.run(&line);
            assert!(ended.status == code && ended.said.contains(&format!("[ E{code} ]")), "{line}: {ended:?}");
        }
        let _ = self.parent.run("nitro-cli terminate-enclave --all").success().says("Successfully terminated enclave");
        self.nothing_is_left();
    }

    fn without_a_pool_and_without_pages(&mut self) {
        let _ = self.parent.run("echo 0 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").success();
        let _ = self.run("").refused("E-nitro-hugepages").says("memory_mib");
        let _ = self.parent.run("rmmod nitro_enclaves && insmod /modules/nitro_enclaves.ko").success();
        let _ = self.run("").refused("E-nitro-no-cpus").says("allocator.yaml");
        let _ = self.parent.run("rmmod nitro_enclaves").success();
        let _ = self.run("--backend nitro").refused("E-nitro-device").says("modprobe nitro_enclaves");
    }
}
