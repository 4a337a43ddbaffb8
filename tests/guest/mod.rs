//! A guest for the tests of `launch`: our kernel, and the program `init.rs` beside this file as PID 1.
#![allow(dead_code, reason = "every test file includes all of it and uses a part")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use eif::Arch;
use eif::eif::{Options, Writer};

use crate::common::real_cache;

/// The kernel that `eif kernel build` has put into the cache.
pub fn kernel() -> PathBuf {
    eif::kernel::find(Arch::X86_64, &real_cache()).expect("`make kernel` builds it").path
}

/// A ramdisk with `/dev` and `/init`, made once a run.
pub fn ramdisk() -> &'static Path {
    static RAMDISK: OnceLock<PathBuf> = OnceLock::new();
    RAMDISK.get_or_init(|| {
        // Each test program has its own: they run at the same time.
        let own = format!("guest-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (program, ramdisk) = (folder.join(&own), folder.join(format!("{own}.cpio")));
        compile("init.rs", &program);
        std::fs::write(&ramdisk, newc(&std::fs::read(&program).unwrap())).unwrap();
        std::fs::remove_file(program).unwrap();
        ramdisk
    })
}

const METADATA: &[u8] = br#"{"ImageName":"guest","ImageVersion":"1","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00Z",
"BuildTool":"test","BuildToolVersion":"1","OperatingSystem":"Linux","KernelVersion":"6"},"DockerInfo":null,"CustomMetadata":null}"#;

/// An `.eif` at that path whose init plays these scenarios.
pub fn image(path: PathBuf, scenarios: &str) -> PathBuf {
    let options = Options { arch: Arch::X86_64, threads: 1 };
    let mut writer = Writer::new(File::create(&path).unwrap(), options).unwrap();
    writer.kernel(&mut File::open(kernel()).unwrap()).unwrap();
    writer.cmdline(format!("console=ttyS0 quiet scenarios={scenarios}").as_bytes()).unwrap();
    writer.metadata(METADATA).unwrap();
    writer.ramdisk().unwrap().write_all(&std::fs::read(ramdisk()).unwrap()).unwrap();
    writer.finish().unwrap();
    path
}

/// Compiles a file beside this one into a static program.
pub fn compile(source: &str, program: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(source);
    let rustc = Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "strip=symbols", "-C", "target-feature=+crt-static", "-o"])
        .args([program, &source])
        .output()
        .expect("rustc");
    let complaint = String::from_utf8_lossy(&rustc.stderr);
    assert!(rustc.status.success(), "the guest's program (needs Debian's libc6-dev): {complaint}");
}

fn newc(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, data) in [("dev", 0o040_755, &b""[..]), ("init", 0o100_755, init), ("TRAILER!!!", 0, b"")] {
        let ino = archive.len();
        let fields = [ino, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        archive.extend(fields.iter().flat_map(|field| format!("{field:08X}").into_bytes()));
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
