//! The foreign judge of layers: what `umoci` unpacks is what an `.eif` of the same image holds. Names, types, modes,
//! owners, which names are one file, targets, contents, device numbers.
//!
//! umoci makes real owners and devices, so it runs as root: by `sudo` where the tests do not.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::TestEnv;
use common::layers::layers_strategy;
use eif_testdata::{Compression, Config, Entry, Image, Layer, Model, Node, escape, fake_bzimage, layers};
use proptest::prelude::*;

/// Directories that a build makes where an image lacks them.
const MOUNT_POINTS: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// The tree in a tar, a line each: what `Model::listing` has, and the first name of what a name is.
fn lines(tar: &[u8]) -> BTreeMap<String, String> {
    let model = Model::of(&[Layer::read_tar(tar)]);
    let mut first: BTreeMap<*const Node, String> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (path, node) in model.entries() {
        let name = format!("/{}", escape(path));
        let same = first.entry(std::ptr::from_ref(node)).or_insert_with(|| name.clone());
        let Node { kind, mode, uid, gid, device, .. } = node;
        let end = if *kind == 'l' { escape(&node.target) } else { node.sha256() };
        all.insert(name, format!("{kind} {mode:04o} {uid}:{gid} {device:?} {end} is {same}"));
    }
    all
}

/// A program as root.
fn as_root(env: &TestEnv, program: &str, arguments: &[&str]) -> Command {
    let id = env.command_of("id", &["-u"]).output().expect("install the package coreutils");
    if id.stdout.trim_ascii() == b"0" {
        return env.command_of(program, arguments);
    }
    env.command_of("sudo", &[&["--non-interactive", "--", program], arguments].concat())
}

/// What umoci makes of the layout, as a tar of GNU tar's; or why it makes nothing.
fn unpacked_by_umoci(env: &TestEnv, layout: &Path) -> Result<Vec<u8>, String> {
    let (image, root) = (format!("{}:latest", layout.display()), env.path("umoci").display().to_string());
    let unpack = as_root(env, "umoci", &["raw", "unpack", "--image", &image, &root]).output();
    let unpack = unpack.expect("install the package umoci");
    let pack =
        as_root(env, "tar", &["--create", "--numeric-owner", "--format=gnu", "--directory", &root, "."]).output();
    let clean = as_root(env, "rm", &["-rf", &root]).status().expect("install the package coreutils");
    assert!(clean.success());
    if !unpack.status.success() {
        return Err(String::from_utf8_lossy(&unpack.stderr).into_owned());
    }
    let pack = pack.expect("install the package tar");
    assert!(pack.status.success(), "{}", String::from_utf8_lossy(&pack.stderr));
    Ok(pack.stdout)
}

/// What `eif extract --rootfs` gives of the file that `eif build` makes of the layout.
fn packed_by_eif(env: &TestEnv, layout: &Path) -> Vec<u8> {
    env.write("kernel", fake_bzimage());
    let reference = format!("oci:{}:latest", layout.display());
    let build = ["build", &reference, "--kernel", "kernel", "--cmdline", "console=ttyS0", "-o", "app.eif"];
    let _ = env.eif(&build).success();
    let _ = env.eif(&["extract", "app.eif", "--rootfs", "app.tar", "--force"]).success();
    fs::read(env.path("app.tar")).unwrap()
}

/// Says how the two differ, if they do.
fn difference(env: &TestEnv, layout: &Path) -> Result<(), String> {
    let theirs = lines(&unpacked_by_umoci(env, layout)?);
    let mut ours = lines(&packed_by_eif(env, layout));
    ours.retain(|name, _| theirs.contains_key(name) || !MOUNT_POINTS.contains(&name.as_str()));
    assert!(theirs.len() > 1, "umoci unpacked nothing");
    let only = |of: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        let lines = of.iter().filter(|(name, line)| other.get(*name) != Some(line));
        lines.take(10).map(|(name, line)| format!("{name} {line}\n")).collect::<String>()
    };
    let (missing, more) = (only(&theirs, &ours), only(&ours, &theirs));
    if (missing.as_str(), more.as_str()) == ("", "") { Ok(()) } else { Err(format!("umoci:\n{missing}eif:\n{more}")) }
}

fn assert_same(image: &Image) {
    let env = TestEnv::new();
    let _ = env.layout("image", image);
    difference(&env, &env.path("image")).unwrap_or_else(|why| panic!("{why}"));
}

/// debootstrap's, and python on top: some four thousand files. umoci does not know zstd, so it gets plain tars.
#[test]
fn a_debian_root() {
    let place = eif_testdata::debian_image(&eif_testdata::cache_dir(), "x86_64");
    let layers = ["base.tar", "python.tar"].map(|name| Layer::from_tar(fs::read(place.join(name)).unwrap()));
    assert_same(&Image::new(layers.into()).config(Config::new().entrypoint(&["/bin/sh"])));
}

/// One program under some three hundred names, as Alpine and Docker's busybox have it; then layers that cut into them.
#[test]
fn a_busybox_root() {
    let env = TestEnv::new();
    let listed = env.command_of("busybox", &["--list-full"]).output().expect("install the package busybox-static");
    let applets: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(applets.len() > 200);
    let program = fs::read("/bin/busybox").expect("install the package busybox-static");
    let [base, cut, back] = layers! {
        "d 0755 0:0 bin/", "d 0755 0:0 sbin/", "d 0755 0:0 usr/bin/", "d 0755 0:0 usr/sbin/", "d 1777 0:0 tmp/",
        r"f 0644 0:0 etc/passwd root:x:0:0::/root:/bin/sh\n", "f 0640 0:42 etc/shadow root:*::0:::::", "d 0700 0:0 root/",
        "--",
        "w bin/ash", "w usr/sbin", "f 0755 7:7 bin/cat not busybox", "l 0777 0:0 bin/ls -> /usr/bin/env", "w etc/shadow",
        "--",
        "d 0711 9:9 usr/sbin/", "h usr/sbin/again => bin/busybox", "o root", "f 4755 0:0 bin/su a copy", "h sbin/su => bin/su",
    }
    .try_into()
    .unwrap();
    let base = base.entry(Entry::file("bin/busybox", program).mode(0o755));
    let names = applets.iter().filter(|name| *name != "bin/busybox");
    let base = names.fold(base, |layer, name| layer.entry(Entry::hardlink(name, "bin/busybox")));
    let layers = vec![base.compress(Compression::Gzip), cut, back.compress(Compression::Gzip)];
    assert_same(&Image::new(layers).config(Config::new().entrypoint(&["/bin/sh"])));
}

#[test]
fn one_of_everything() {
    assert_same(&Image::new(layers! {
        "d 1777 0:0 ./", "d 0755 0:0 etc/", "f 4755 1000:1000 etc/a hello", "h etc/b => etc/a", "l 0777 5:6 c -> /etc/a",
        "c 0600 0:0 null 1:3", "b 0660 0:6 sda 8:0", "p 0620 1:5 pipe", r"f 0644 0:0 raw\xff\x20\n x", "f 0000 4294:0 deep/er/f",
        "d 0755 0:0 real/", "l 0777 0:0 to -> real", "f 0644 0:0 to/through followed", "h linked => to/through",
        "--",
        "w etc/a", "d 0700 7:7 c/", "f 0644 0:0 c/now/a/dir x", "o deep", "d 0711 0:0 deep/", "f 0644 0:0 deep/new y",
    }));
}

/// What no two builders agree on: names that are symlinks to the kernel's unpacker (it never links them).
fn links_a_symlink(model: &Model) -> bool {
    model.entries().iter().any(|(path, node)| node.kind == 'l' && model.links(path) > 1)
}

/// Whether the layers give a tree also when each entry is applied alone, in order, as umoci does. Otherwise a whiteout
/// stands behind what needs it: umoci refuses that, and to us the order inside a layer means nothing.
fn works_in_order(layers: &[Layer]) -> bool {
    let alone: Vec<Layer> =
        layers.iter().flat_map(Layer::entries).map(|entry| Layer::new().entry(entry.clone())).collect();
    Model::try_of(&alone).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_global_rejects: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn prop_generated_images(lines in layers_strategy()) {
        let layers = eif_testdata::parse_layers(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let model = Model::try_of(&layers);
        prop_assume!(model.as_ref().is_ok_and(|model| model.entries().len() > 1 && !links_a_symlink(model)));
        prop_assume!(works_in_order(&layers));
        let env = TestEnv::new();
        let _ = env.layout("image", &Image::new(layers));
        prop_assert_eq!(difference(&env, &env.path("image")), Ok(()));
    }
}

/// umoci wants a whiteout before what takes the place of a file; we take it anywhere (`edge_cases`).
#[test]
fn a_whiteout_behind_what_needs_it_is_no_question_for_umoci() {
    let late = layers! { "f 0644 0:0 a x", "--", "f 0644 0:0 a/b y", "w a" };
    let early = layers! { "f 0644 0:0 a x", "--", "w a", "f 0644 0:0 a/b y" };
    assert!(Model::try_of(&late).is_ok());
    assert_eq!((works_in_order(&late), works_in_order(&early)), (false, true));
}

/// The comparison can fail, also where only the names of a file differ.
#[test]
fn what_differs_is_seen() {
    let of = |layers: Vec<Layer>| lines(&layers[0].tar());
    let linked = of(layers! { "f 0644 0:0 a x", "h b => a", "d 0755 0:0 c" });
    for other in [
        layers! { "f 0644 0:0 a x", "f 0644 0:0 b x", "d 0755 0:0 c" },
        layers! { "f 0644 0:0 a x", "h b => a", "d 0755 0:1 c" },
        layers! { "f 0644 0:0 a y", "h b => a", "d 0755 0:0 c" },
    ] {
        assert_ne!(of(other), linked);
    }
}
