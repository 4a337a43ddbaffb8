//! The steps of a build that several targets go, through the library's own doors.

use std::io::{Cursor, Write};
use std::path::Path;

use eif::eif::{Options as EifOptions, Writer};
use eif::image::{Access, Image, Platform, Process, Reference, Store};
use eif::initramfs::{Application, Mtime, write_application};
use eif::rootfs::{self, Limits, Loaded, Options};
use eif::{Arch, Silent};
use eif_testdata::Files;

/// AWS's object, the same in every version of ours.
const METADATA: &[u8] = br#"{"ImageName":"x","ImageVersion":"1","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00Z","BuildTool":"x","BuildToolVersion":"1","OperatingSystem":"Linux","KernelVersion":"6"},"DockerInfo":null,"CustomMetadata":{"a":[1]}}"#;

/// The image in these files of an OCI layout, or why there is none.
pub fn open(files: &Files, folder: &Path) -> Result<Image, eif::image::Error> {
    let place = folder.join("image");
    files.write_dir(&place);
    named(&format!("oci:{}", place.display()), folder)
}

/// The image of a reference.
pub fn named(reference: &str, folder: &Path) -> Result<Image, eif::image::Error> {
    let reference = Reference::parse(reference.as_ref())?;
    let store = Store::open(&folder.join("store"), None).expect("a folder of our own");
    Image::open(&reference, &Platform::default(), &Access { offline: true, ..Access::new(store, folder.to_owned()) })
}

/// The image's layers as a tree: small ones, and one thread, so that the same bytes run the same way.
pub fn load(image: &Image, folder: &Path) -> Result<Loaded, rootfs::Error> {
    let limits = Limits { unpacked: 4 << 20, entries: 4096, depth: 2048 };
    let loaded = rootfs::load(image, &Options { limits, threads: 1, ..Options::new(folder) }, &Silent)?;
    loaded.tree.check().expect("a tree without contradictions");
    Ok(loaded)
}

/// Ramdisk 2, and the number of its entries.
pub fn ramdisk(loaded: &Loaded, process: &Process) -> (Vec<u8>, u64) {
    let Loaded { tree, spools, .. } = loaded;
    let mut bytes = Vec::new();
    let application = Application { tree, spools, process, mtime: Mtime::Keep };
    let entries = write_application(&application, &mut bytes, &Silent).expect("spools and memory do not fail");
    (bytes, entries)
}

/// A process that is always the same.
pub fn some_process() -> Process {
    Process { argv: vec!["/a".into()], env: Vec::new(), cwd: "/".into(), uid: 0, gid: 0, groups: Vec::new() }
}

/// A file with these ramdisks and a kernel that is none.
pub fn file(ramdisks: &[&[u8]]) -> Vec<u8> {
    let options = EifOptions { arch: Arch::X86_64, threads: 1 };
    let mut writer = Writer::new(Cursor::new(Vec::new()), options).expect("memory");
    writer.kernel(&mut &b"kernel"[..]).expect("memory");
    writer.cmdline(b"console=ttyS0").expect("memory");
    writer.metadata(METADATA).expect("memory");
    for ramdisk in ramdisks {
        writer.ramdisk().expect("a slot").write_all(ramdisk).expect("memory");
    }
    writer.finish().expect("all sections are there").0.into_inner()
}

/// The tree, a line each, as a ramdisk can say it: symlinks are never linked, times have 32 bits.
pub fn lines(loaded: &Loaded) -> Vec<String> {
    let tree = &loaded.tree;
    let mut lines = vec![line(loaded, b"", tree.get(rootfs::ROOT).expect("a root"))];
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.next() {
        lines.push(line(loaded, path, tree.get(entry.inode).expect("an inode")));
    }
    lines
}

fn line(loaded: &Loaded, path: &[u8], inode: &rootfs::Inode) -> String {
    let kind = match &inode.kind {
        rootfs::Kind::Directory(_) => "directory".to_owned(),
        rootfs::Kind::File(content) => {
            let mut bytes = Vec::new();
            std::io::copy(&mut loaded.spools.read(content), &mut bytes).expect("a spool");
            assert_eq!(bytes.len() as u64, content.size);
            format!("file of {} names, {}", inode.links, eif_testdata::sha256(&bytes))
        }
        rootfs::Kind::Symlink(target) => format!("symlink to {}", eif::escaped(target)),
        other => format!("{other:?} of {} names", inode.links),
    };
    let rootfs::Metadata { mode, uid, gid, mtime } = inode.metadata;
    let mtime = mtime.clamp(0, u32::MAX.into());
    format!("{} {kind} {mode:o} {uid} {gid} {mtime} {:?}", eif::escaped(path), inode.xattrs)
}
