//! A real distribution: Debian made by debootstrap under python3 made by apt, booted in QEMU on either architecture. Needs
//! the kernels of `eif kernel build`, the packages qemu-system-x86, qemu-system-arm and debootstrap, and root the first
//! time.

mod common;

use common::TestEnv;
use common::boot::{Boot, Ended, on_each_architecture};
use eif::Arch;
use eif_testdata::{Model, cache_dir, debian_image, debian_layers};

/// Prints the root file system in the words of `Model::listing`, and `m /PATH` where something is mounted.
const LIST: &str = r#"
import hashlib, os, stat
kinds = {stat.S_IFREG: 'f', stat.S_IFDIR: 'd', stat.S_IFLNK: 'l', stat.S_IFCHR: 'c', stat.S_IFBLK: 'b', stat.S_IFIFO: 'p'}
device = os.lstat(b'/').st_dev
def text(path): return ''.join(chr(c) if 32 < c < 127 and c != 92 else '\\x%02x' % c for c in path)
def end(path, s):
    if stat.S_ISREG(s.st_mode): return ' ' + hashlib.sha256(open(path, 'rb').read()).hexdigest()
    if stat.S_ISLNK(s.st_mode): return ' -> ' + text(os.readlink(path))
    if stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode): return ' %d:%d' % (os.major(s.st_rdev), os.minor(s.st_rdev))
    return ''
def show(path):
    s = os.lstat(path)
    if s.st_dev != device: return print('m ' + text(path))
    kind = kinds[stat.S_IFMT(s.st_mode)]
    links = '-' if kind == 'd' else s.st_nlink
    print(kind, '%04o' % stat.S_IMODE(s.st_mode), '%d:%d' % (s.st_uid, s.st_gid), links, text(path) + end(path, s))
    if kind == 'd':
        for name in os.listdir(path): show(os.path.join(path, name))
print('list: begin')
show(b'/')
print('list: end')
"#;

on_each_architecture! {
    python_runs_in_debian,
    the_booted_tree_is_what_was_packed,
    the_usual_file_systems_are_mounted,
}

fn boot(arch: Arch, further: &[&str]) -> Ended {
    let env = TestEnv::with_kernels();
    let reference = format!("oci:{}:latest", debian_image(&cache_dir(), arch.name()).display());
    let platform = format!("linux/{}", arch.oci_name());
    let file = env.build(&reference, "debian", &[&["--platform", &platform][..], further].concat());
    Boot::start(&env, &file, &[]).finish()
}

fn python_runs_in_debian(arch: Arch) {
    let ended = boot(arch, &[]).code(0).says("Hello from Debian 12").says("and Python 3.11");
    let _ = ended.says("with pid 1: False").says_line("eif-init: exited with status 0");
}

fn the_booted_tree_is_what_was_packed(arch: Arch) {
    let arguments = ["python3", "-B", "-c", LIST].map(|argument| ["--cmd", argument]).concat();
    let ended = boot(arch, &arguments).code(0);
    let listed = ended.console().skip_while(|line| *line != "list: begin").skip(1);
    let listed: Vec<_> = listed.take_while(|line| *line != "list: end").collect();
    let mounts: Vec<_> = listed.iter().filter_map(|line| line.strip_prefix("m ")).collect();
    let mut seen: Vec<_> = listed.iter().copied().filter(|line| !line.starts_with("m ")).collect();
    seen.sort_unstable();
    let model = Model::of(&debian_layers(&cache_dir(), arch.name())).listing();
    let is_mount = |line: &str| mounts.iter().any(|mount| line.ends_with(&format!(" {mount}")));
    let expected: Vec<_> = model.iter().map(String::as_str).filter(|line| !is_mount(line)).collect();
    assert!(expected.len() > 3000, "{} entries", expected.len());
    let missing: Vec<_> = expected.iter().filter(|line| seen.binary_search(line).is_err()).take(10).collect();
    let extra: Vec<_> = seen.iter().filter(|line| expected.binary_search(line).is_err()).take(10).collect();
    assert!(seen == expected, "missing: {missing:#?}\nextra: {extra:#?}");
}

/// What container programs look for is mounted, and as what.
fn the_usual_file_systems_are_mounted(arch: Arch) {
    let script = "print(open('/proc/mounts').read()); print(open('/proc/net/if_inet6').read())";
    let ended = boot(arch, &["python3", "-c", script].map(|argument| ["--cmd", argument]).concat()).code(0);
    let mounted: Vec<(&str, &str)> = ended
        .console()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .collect();
    for wanted in [
        ("/dev", "devtmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/tmp", "tmpfs"),
    ] {
        assert!(mounted.contains(&wanted), "{wanted:?} is not in {mounted:#?}");
    }
    let _ = ended.says("00000000000000000000000000000001 01 80 10 80       lo");
}
