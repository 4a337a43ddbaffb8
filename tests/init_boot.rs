//! The init in a booted machine, with ramdisks made by hand: each failure is one line that names step and error, and
//! what the application gets is what it should. On both architectures. Needs the kernels of
//! `eif kernel build` and Debian's qemu-system-x86 and qemu-system-arm.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use common::boot::on_each_architecture;
use eif::launch::parts::Parts;
use eif::launch::qemu::{self, Machine};
use eif::launch::{AppStatus, Ending};
use eif::{Arch, init, kernel};
use eif_testdata::hello_program;

const LIMIT: Duration = Duration::from_secs(180);

/// A newc archive in the making.
#[derive(Clone, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn entry(mut self, name: &str, mode: u32, body: &[u8]) -> Self {
        self.entries += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let mode = usize::try_from(mode).unwrap();
        let fields = [self.entries, mode, 0, 0, links, 0, body.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08X}").into_bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn folder(self, name: &str) -> Self {
        self.entry(name, 0o040_755, b"")
    }

    fn file(self, name: &str, mode: u32, body: &[u8]) -> Self {
        self.entry(name, 0o100_000 | mode, body)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, 0o120_777, target.as_bytes())
    }

    fn end(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"").bytes
    }
}

/// A boot to come: what ramdisk 1 has besides `dev` and `init`, the two parts of ramdisk 2, and the machine.
struct Boot {
    arch: Arch,
    modules: Archive,
    tree: Archive,
    beside: Archive,
    process: Option<Vec<u8>>,
    cmdline: &'static str,
    memory_mib: u64,
    heartbeat: bool,
}

/// What a boot has said.
struct Said {
    console: String,
    status: Option<AppStatus>,
    failure: Option<String>,
    heartbeat: bool,
}

/// A process file: user, group, groups, directory, arguments, environment.
fn process(ids: &str, cwd: &str, argv: &[&str], env: &[&str]) -> Vec<u8> {
    let mut items = vec!["eif-process-1".to_owned()];
    items.extend(ids.split(' ').map(String::from));
    items.extend([cwd.to_owned(), argv.len().to_string()]);
    items.extend(argv.iter().map(|item| (*item).to_owned()));
    items.push(env.len().to_string());
    items.extend(env.iter().map(|item| (*item).to_owned()));
    items.iter().flat_map(|item| item.bytes().chain([0])).collect()
}

impl Boot {
    /// A tree with `/app/hello` alone, which runs with these arguments as root.
    fn new(arch: Arch, argv: &[&str]) -> Self {
        let hello = hello_program(arch.name());
        let tree = Archive::default().folder("rootfs").folder("rootfs/app").file("rootfs/app/hello", 0o755, hello);
        let process = Some(process("0 0 ", "/", argv, &["PATH=/nowhere:/app"]));
        let (modules, beside) = (Archive::default(), Archive::default());
        Self { arch, modules, tree, beside, process, cmdline: "console=ttyS0 quiet", memory_mib: 256, heartbeat: true }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn file(self, name: &str, mode: u32, body: &[u8]) -> Self {
        self.with(|boot| boot.tree = std::mem::take(&mut boot.tree).file(name, mode, body))
    }

    fn process(self, bytes: Option<Vec<u8>>) -> Self {
        self.with(|boot| boot.process = bytes)
    }

    /// Both ramdisks, one behind the other.
    fn ramdisks(self) -> Vec<u8> {
        let Self { arch, mut modules, mut tree, beside, process, .. } = self;
        modules = modules.folder("dev").file("init", 0o755, init::bytes(arch).unwrap());
        tree.bytes.extend(beside.bytes);
        tree = process.iter().fold(tree, |tree, bytes| tree.file("process", 0o644, bytes));
        [modules.end(), tree.end()].concat()
    }

    fn run(self) -> Said {
        let arch = self.arch;
        let kernel = kernel::find(arch, &common::real_cache()).expect("`eif kernel build` comes first");
        let (cmdline, memory_mib, heartbeat) = (self.cmdline.to_owned(), self.memory_mib, self.heartbeat);
        let mut initrd = tempfile::NamedTempFile::new().unwrap();
        initrd.write_all(&self.ramdisks()).unwrap();
        let machine = Machine {
            arch,
            boot: qemu::Boot::Parts(Parts {
                arch,
                kernel: File::open(kernel.path).unwrap(),
                initrd: initrd.reopen().unwrap(),
                cmdline: cmdline.into_bytes(),
            }),
            memory_mib,
            cpus: 1,
            cid: 16,
            heartbeat,
            vsock_prefix: None,
            folder: None,
        };
        let outcome = machine.start(Box::new(|_| ControlFlow::Continue(()))).unwrap().wait(Some(LIMIT)).unwrap();
        let console = String::from_utf8_lossy(&outcome.console).replace("\r\n", "\n");
        assert!(outcome.ending == Ending::Guest && !console.contains("Kernel panic"), "{console}");
        Said { console, status: outcome.status, failure: outcome.failure, heartbeat: outcome.heartbeat }
    }

    /// Boots and expects the init to give up with this line, once, on the console and in the report.
    fn fails(self, line: &str) -> Said {
        let said = self.run();
        assert_eq!(said.console.lines().filter(|said| *said == line).count(), 1, "no line {line}\n{}", said.console);
        assert_eq!((said.status, said.failure.as_deref()), (None, Some(line)));
        said
    }

    /// Boots and expects the application to exit with this status.
    fn exits(self, status: u8) -> Said {
        let said = self.run();
        assert_eq!(said.status, Some(AppStatus::Exited(status)), "{}", said.console);
        let line = format!("eif-init: exited with status {status}");
        assert!(said.console.lines().any(|said| said == line), "{}", said.console);
        said
    }
}

impl Said {
    fn has(&self, line: &str) -> &Self {
        assert!(self.console.lines().any(|said| said == line), "no line {line}\n{}", self.console);
        self
    }

    /// What follows a prefix in the lines that have it.
    fn after(&self, prefix: &str) -> Vec<&str> {
        self.console.lines().filter_map(|line| line.strip_prefix(prefix)).collect()
    }
}

on_each_architecture! {
    a_program_that_cannot_run_is_named_with_the_error,
    a_directory_that_cannot_be_entered_is_named,
    what_is_wrong_with_the_ramdisks_is_told_before_the_heartbeat,
    an_unpacking_that_was_cut_short_is_told,
    without_a_listener_the_heartbeat_is_what_failed,
    the_last_line_is_the_status_and_the_report_says_the_same,
    signals_reach_the_application_and_nothing_outlives_it,
    there_is_no_way_back_out_of_the_root,
    the_kernels_command_line_does_not_reach_the_application,
    a_user_can_open_its_standard_streams,
    mounts_hide_nothing_of_the_image,
    attributes_are_set_before_the_application_runs,
}

fn a_program_that_cannot_run_is_named_with_the_error(arch: Arch) {
    let run = |program: &str| Boot::new(arch, &[program]);
    run("nope").fails(r#"eif-init: exec "nope": no such file (ENOENT)"#);
    run("").fails(r#"eif-init: exec "": no such file (ENOENT)"#);
    run("/app").fails(r#"eif-init: exec "/app": permission denied (EACCES)"#);
    let script = |mode, body: &[u8]| run("script").file("rootfs/app/script", mode, body);
    script(0o644, b"#!/app/hello\n").fails(r#"eif-init: exec "script": permission denied (EACCES)"#);
    script(0o755, b"echo\n").fails(r#"eif-init: exec "script": not a program this kernel can run (ENOEXEC)"#);
    let missing = r#"eif-init: exec "script": the file is there, its interpreter or loader is not (ENOENT)"#;
    script(0o755, b"#!/bin/nosh\n").fails(missing);
}

fn a_directory_that_cannot_be_entered_is_named(arch: Arch) {
    let at = |cwd| Boot::new(arch, &[]).process(Some(process("7 7 ", cwd, &["hello"], &["PATH=/app"])));
    at("/no\nwhere").fails(r#"eif-init: chdir "/no\x0awhere": no such file (ENOENT)"#);
    at("/app/hello").fails(r#"eif-init: chdir "/app/hello": not a directory (ENOTDIR)"#);
}

fn what_is_wrong_with_the_ramdisks_is_told_before_the_heartbeat(arch: Arch) {
    let hello = || Boot::new(arch, &["hello"]);
    let broken = |bytes: &[u8]| hello().process(Some(bytes.to_vec()));
    let mut said = vec![
        broken(b"eif-process-1\x004294967295\0").fails("eif-init: process: a number in it is malformed (EINVAL)"),
        broken(b"eif-process-1\x000\0").fails("eif-init: process: it ends too early (EINVAL)"),
    ];
    let empty = hello().with(|boot| boot.tree = Archive::default().folder("other"));
    said.push(empty.fails(r#"eif-init: root "/rootfs": no such file (ENOENT)"#));
    let module = hello().with(|boot| boot.modules = Archive::default().file("nsm.ko", 0o644, b"no module"));
    said.push(module.fails(r#"eif-init: module "nsm.ko": not in this kernel (ENOSYS)"#));
    let xattrs = b"eif-xattrs-1\0/app/hello\0user.a\x009\0short";
    let xattrs = hello().with(|boot| boot.beside = Archive::default().file("xattrs", 0o644, xattrs));
    said.push(xattrs.fails("eif-init: xattrs: it ends within a record (EINVAL)"));
    assert!(said.iter().all(|said| !said.heartbeat));
}

fn an_unpacking_that_was_cut_short_is_told(arch: Arch) {
    let line = "eif-init: process: the application's ramdisk was not wholly unpacked; \
                the usual cause is too little memory for the enclave (ENOENT)";
    let small = |boot: &mut Boot| boot.memory_mib = 128;
    let bytes = Boot::new(arch, &["hello"]).file("rootfs/big", 0o644, &vec![1; 56 << 20]);
    assert!(!bytes.with(small).fails(line).heartbeat);
    // The kernel says nothing at all when it runs out of inodes.
    let fill = |tree: Archive| (0..20_000).fold(tree, |tree, index| tree.file(&format!("rootfs/{index}"), 0o644, b""));
    let inodes = Boot::new(arch, &["hello"]).with(|boot| boot.tree = fill(std::mem::take(&mut boot.tree)));
    inodes.with(small).fails(line);
    Boot::new(arch, &["hello"]).process(None).fails(line);
}

fn without_a_listener_the_heartbeat_is_what_failed(arch: Arch) {
    let boot = Boot::new(arch, &["hello"]).with(|boot| boot.heartbeat = false);
    let said = boot.fails("eif-init: heartbeat: no listener at CID 3 port 9000 (ECONNRESET)");
    assert!(said.after("Hello").is_empty());
}

fn the_last_line_is_the_status_and_the_report_says_the_same(arch: Arch) {
    Boot::new(arch, &["hello", "exit", "200"]).exits(200);
    let said = Boot::new(arch, &["hello", "kill", "9"]).run();
    assert_eq!(said.status, Some(AppStatus::Killed(9)));
    said.has("eif-init: killed by signal 9");
}

fn signals_reach_the_application_and_nothing_outlives_it(arch: Arch) {
    let words = ["hello", "forward", "15", "forward", "1", "forward", "34", "orphans", "9", "linger", "exit", "3"];
    let said = Boot::new(arch, &words).exits(3);
    said.has("forwarded: 15").has("forwarded: 1").has("forwarded: 34").has("orphans: all reaped");
}

fn there_is_no_way_back_out_of_the_root(arch: Arch) {
    let boot = Boot::new(arch, &["hello", "escape", "exit", "0"]);
    let boot = boot.with(|boot| boot.beside = Archive::default().file("cmd", 0o600, b"").file("env", 0o600, b""));
    let said = boot.exits(0);
    let root = said.after("root: ");
    assert!(root.contains(&"app") && root.contains(&"dev"));
    assert_eq!(said.after("up and out: "), root);
    assert_eq!(said.after("init's root: "), root);
    // Even who takes the root away finds nothing below it but the image's own tree.
    assert_eq!(said.after("below the root: "), ["rootfs"]);
}

fn the_kernels_command_line_does_not_reach_the_application(arch: Arch) {
    let env = ["PATH=/app", "A=b=c"];
    let boot = Boot::new(arch, &[]).process(Some(process("0 0 ", "/app", &["hello", "env"], &env)));
    let said = boot.with(|boot| boot.cmdline = "console=ttyS0 quiet A=kernel panic_on_nothing word").exits(0);
    assert_eq!(said.after("env: "), env);
    assert_eq!(said.after("argv: "), ["hello", "env"]);
}

fn a_user_can_open_its_standard_streams(arch: Arch) {
    let words = ["hello", "env", "write", "/dev/stdout", "through it", "cat", "/dev/stdin"];
    let said = Boot::new(arch, &[]).process(Some(process("1000 1001 44,29", "/", &words, &["PATH=/app"]))).exits(0);
    said.has("through it").has("end of /dev/stdin");
    assert_eq!(
        (said.after("uid: "), said.after("gid: "), said.after("groups: ")),
        (vec!["1000"], vec!["1001"], vec!["29 44"])
    );
    assert_eq!(said.after("descriptors: "), ["0 1 2"]);
}

fn mounts_hide_nothing_of_the_image(arch: Arch) {
    let tree = |boot: &mut Boot| {
        let tree = std::mem::take(&mut boot.tree).folder("rootfs/var").folder("rootfs/var/run");
        boot.tree = tree.link("rootfs/run", "/var/run").folder("rootfs/tmp").file("rootfs/tmp/kept", 0o600, b"");
    };
    let said = Boot::new(arch, &["hello", "list", "exit", "0"]).with(tree).exits(0);
    assert_eq!(said.after("m "), ["/dev", "/proc", "/sys"]);
    said.has("f 0600 0:0 1 /tmp/kept e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    said.has("l 0777 0:0 1 /run -> /var/run");
}

fn attributes_are_set_before_the_application_runs(arch: Arch) {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let record = [&b"/app/hello\0security.capability\x0020\0"[..], &capability].concat();
    let boot = |words: &[&str], record: &[u8]| {
        let file = [b"eif-xattrs-1\0", record].concat();
        Boot::new(arch, words).with(|boot| boot.beside = Archive::default().file("xattrs", 0o644, &file))
    };
    let said = boot(&["hello", "xattr", "/app/hello", "security.capability", "exit", "0"], &record).exits(0);
    said.has("xattr: 0100000200200000000000000000000000000000");
    let missing = [&b"/app/other\0security.capability\x0020\0"[..], &capability].concat();
    boot(&["hello"], &missing).fails(r#"eif-init: xattr "/app/other": no such file (ENOENT)"#);
}
