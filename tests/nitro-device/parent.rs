//! The parent instance: a virtual machine with AWS's driver, an emulated Nitro Enclaves device, a pool of CPUs, huge pages,
//! and a shell in which tests run `eif`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use eif::launch::vsock::{Config, Role, Vsock};
use tempfile::TempDir;

use super::hypervisor::{BAR, Hypervisor};
use super::vfio;

/// Nothing here takes as long, also where all is emulated.
const DEADLINE: Duration = Duration::from_secs(120);
/// 2 MiB pages that are set aside.
pub const PAGES: u64 = 160;

/// What the machine does when it has booted. Its shell reads lines from the console, and says how each has ended.
const INIT: &str = "#!/bin/sh
export PATH=/bin HOME=/root LC_ALL=C NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
stty -echo -onlcr
dmesg -n 1
echo PAGES > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
for module in vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport; do
  insmod /modules/$module.ko
done
insmod /modules/nitro_enclaves.ko ne_cpus=2-5
echo '@@ 0'
while read -r line; do
  eval \"$line\" 2>&1
  echo \"@@ $?\"
done
";

/// The machine. Dropping it ends it.
pub struct Parent {
    qemu: Child,
    shell: ChildStdin,
    lines: Receiver<String>,
    /// What stands behind its device.
    pub hypervisor: Hypervisor,
    _vsock: Vsock,
    _folder: TempDir,
}

/// How a command in the machine ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    /// stdout and stderr.
    pub said: String,
}

impl Ended {
    /// Asserts success.
    pub fn success(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.said);
        self
    }

    /// Asserts a refusal with this code.
    pub fn refused(self, code: &str) -> Self {
        assert!(self.status == 1 && self.said.contains(&format!("error[{code}]: ")), "{self:?}");
        self
    }

    /// Asserts that this was said.
    pub fn says(self, text: &str) -> Self {
        assert!(self.said.contains(text), "no {text:?} in {self:?}");
        self
    }
}

impl Parent {
    /// Boots one with `files` at its root.
    pub fn boot(files: &[(&str, &Path)]) -> Self {
        let home = tools();
        let folder = tempfile::tempdir().unwrap();
        let initrd = folder.path().join("initrd");
        pack(&folder.path().join("root"), &initrd, &home, files);

        let prefix = folder.path().join("v");
        let config = Config { guest_cid: 3, prefix: Some(prefix.clone()), role: Role::Parent, ..Config::default() };
        let vsock = Vsock::start(config, Some(folder.path())).unwrap();
        let guest = Arc::new(Mutex::new(vfio::Guest::default()));
        let hypervisor = Hypervisor::new(Arc::clone(&guest), prefix);
        let socket = folder.path().join("device");
        vfio::serve(&socket, BAR, guest, hypervisor.device());

        let mut qemu = Command::new("setpriv");
        let libraries = home.join("usr/lib/x86_64-linux-gnu");
        qemu.args(["--pdeathsig", "KILL", "--"]);
        qemu.arg(libraries.join("ld-linux-x86-64.so.2")).arg("--library-path").arg(&libraries);
        qemu.arg(home.join("usr/bin/qemu-system-x86_64"));
        for firmware in ["seabios", "qemu"] {
            qemu.arg("-L").arg(home.join("usr/share").join(firmware));
        }
        let device = format!(
            "{{\"driver\":\"vfio-user-pci\",\"socket\":{{\"type\":\"unix\",\"path\":\"{}\"}}}}",
            socket.display()
        );
        let chardev = format!("socket,id=vsock,path={}", vsock.socket().display());
        qemu.args(["-M", "q35,memory-backend=mem,hpet=off", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        qemu.args(["-object", "memory-backend-memfd,id=mem,size=1G,share=on", "-m", "1G"]);
        qemu.args(["-smp", "6,sockets=1,cores=3,threads=2", "-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-serial", "stdio", "-no-reboot", "-kernel"]).arg(home.join("vmlinuz"));
        qemu.arg("-initrd").arg(&initrd).args(["-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check"]);
        qemu.args(["-chardev", &chardev, "-device", "vhost-user-vsock-pci,chardev=vsock", "-device", &device]);
        let log = File::create(folder.path().join("log")).unwrap();
        let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (send, lines) = channel();
        let console = qemu.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let shell = qemu.stdin.take().unwrap();
        let mut parent = Self { qemu, shell, lines, hypervisor, _vsock: vsock, _folder: folder };
        let booted = parent.answer();
        assert_eq!(booted.status, 0, "{}", booted.said);
        parent
    }

    /// Runs a line of shell to its end.
    pub fn run(&mut self, line: &str) -> Ended {
        writeln!(self.shell, "{line}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Ended {
        let deadline = Instant::now() + DEADLINE;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|why| {
                let log = fs::read_to_string(self._folder.path().join("log")).unwrap_or_default();
                panic!("the machine says no more ({why}); QEMU: {log}; it said:\n{said}")
            });
            if let Some(status) = line.strip_prefix("@@ ") {
                return Ended { status: status.trim().parse().unwrap(), said };
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// Huge pages that are free.
    pub fn free_pages(&mut self) -> u64 {
        let free = self.run("cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").success();
        free.said.trim().parse().unwrap()
    }

    /// Waits in the machine until a command succeeds.
    pub fn until(&mut self, command: &str) {
        self.run(&format!(
            "n=0; until {command}; do n=$((n+1)); [ $n -lt 600 ] || break; usleep 100000; done; {command}"
        ))
        .success();
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ended = self.qemu.kill().and_then(|()| self.qemu.wait());
    }
}

/// QEMU, kernel and modules.
fn tools() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/nitro-vm");
    let made = Command::new("bash").arg(script).stdin(Stdio::null()).output().expect("install the package bash");
    assert!(made.status.success(), "{script}: {}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim_end())
}

/// Everything that the machine has, as one ramdisk.
fn pack(root: &Path, initrd: &Path, home: &Path, files: &[(&str, &Path)]) {
    for folder in ["bin", "modules", "proc", "sys", "dev", "tmp", "run", "root"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for module in fs::read_dir(home.join("modules")).unwrap() {
        let module = module.unwrap();
        fs::copy(module.path(), root.join("modules").join(module.file_name())).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("install the package busybox-static");
    let names = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(names.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    program(Path::new(env!("CARGO_BIN_EXE_eif")), root);
    for (name, path) in files {
        fs::copy(path, root.join(name)).unwrap();
    }
    fs::write(root.join("init"), INIT.replace("PAGES", &PAGES.to_string())).unwrap();
    let script = "chmod 755 init && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet";
    let mut cpio = Command::new("sh");
    cpio.args(["-c", script]).current_dir(root).stdout(File::create(initrd).unwrap());
    let status = cpio.status().unwrap();
    assert!(status.success(), "install the package cpio");
}

/// A program without its debug information, and the libraries that it is linked with.
fn program(path: &Path, root: &Path) {
    let stripped = Command::new("strip").arg("-o").arg(root.join("bin/eif")).arg(path).status();
    assert!(stripped.expect("install the package binutils").success());
    let linked = Command::new("ldd").arg(path).output().unwrap();
    let text = String::from_utf8(linked.stdout).unwrap();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(&library[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}
