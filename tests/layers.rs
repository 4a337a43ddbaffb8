//! Layers become the tree that they mean: `eif`'s tree against a second, slow and simple way to apply layers.

mod common;

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use common::TestEnv;
use common::layers::layers_strategy;
use eif::Silent;
use eif::image::{Access, Image as Opened, Platform, Reference, Store};
use eif::rootfs::{Error, Inode, Kind, Limits, Loaded, Options, Tree, load};
use eif_testdata::{Compression, DockerArchive, Entry, Image, Layer, Model, OciLayout, escape, layers, sha256};
use proptest::prelude::*;

fn loaded(reference: &str, work: &Path) -> Result<Loaded, Error> {
    loaded_with(reference, work, &Options::new(work))
}

fn loaded_with(reference: &str, work: &Path, options: &Options) -> Result<Loaded, Error> {
    let reference = Reference::parse(reference.as_ref()).unwrap();
    let access = Access::new(Store::open(&work.join("blobs"), None).unwrap(), work.to_owned());
    let image = Opened::open(&reference, &Platform::default(), &access).unwrap();
    load(&image, options, &Silent)
}

/// The tree in the words of [`Model::listing`].
fn listing(loaded: &Loaded) -> Vec<String> {
    let mut lines = vec![line(loaded, b"", root(&loaded.tree))];
    let mut walk = loaded.tree.walk();
    while let Some((path, entry)) = walk.next() {
        lines.push(line(loaded, path, loaded.tree.get(entry.inode).unwrap()));
    }
    lines.sort();
    lines
}

fn root(tree: &Tree) -> &Inode {
    tree.get(eif::rootfs::ROOT).unwrap()
}

fn line(loaded: &Loaded, path: &[u8], inode: &Inode) -> String {
    let (kind, end) = match &inode.kind {
        Kind::Directory(_) => ('d', String::new()),
        Kind::File(content) => {
            let mut bytes = Vec::new();
            loaded.spools.read(content).read_to_end(&mut bytes).unwrap();
            ('f', format!(" {}", &sha256(&bytes)["sha256:".len()..]))
        }
        Kind::Symlink(target) => ('l', format!(" -> {}", escape(target))),
        Kind::Character(major, minor) => ('c', format!(" {major}:{minor}")),
        Kind::Block(major, minor) => ('b', format!(" {major}:{minor}")),
        Kind::Fifo => ('p', String::new()),
    };
    let of = inode.metadata;
    let mut text = format!("{kind} {:04o} {}:{} ", of.mode, of.uid, of.gid);
    match kind {
        'd' => text.push('-'),
        _ => write!(text, "{}", inode.links).unwrap(),
    }
    text + " /" + &escape(path) + &end
}

fn assert_judged(layers: Vec<Layer>) {
    let expected = Model::of(&layers).listing();
    let env = TestEnv::new();
    OciLayout::new().tag("latest", &Image::new(layers)).files().write_dir(&env.path("image"));
    let loaded = loaded(&format!("oci:{}", env.path("image").display()), &env.tmp()).unwrap();
    assert_eq!(listing(&loaded), expected);
    assert_eq!(env.listing(&env.tmp()), [""; 0], "nothing is left in the scratch folder");
}

#[test]
fn one_of_everything() {
    assert_judged(layers! {
        "d 1777 0:0 ./", "d 0755 0:0 etc/", "f 4755 1000:1000 etc/a hello", "h etc/b => etc/a", "l 0777 5:6 c -> /etc/a",
        "c 0600 0:0 null 1:3", "b 0660 0:6 sda 8:0", "p 0620 1:5 pipe", r"f 0644 0:0 raw\xff\x20\n x", "f 0000 4294967294:0 deep/er/f",
        "--",
        "w etc/a", "d 0700 7:7 c/", "f 0644 0:0 c/now/a/dir x", "o deep", "d 0711 0:0 deep/", "f 0644 0:0 deep/new y",
    });
}

#[test]
fn the_hello_image() {
    assert_judged(eif_testdata::hello_image().layers);
}

#[test]
fn whiteouts_reach_lower_layers_only() {
    assert_judged(layers! { "f 0644 0:0 a/x 1", "f 0644 0:0 ab 2", "--", "f 0644 0:0 a/y 3", "w a" });
    assert_judged(layers! { "f 0644 0:0 a/x 1", "--", "f 0644 0:0 a/x 2", "w a/x", "w nothing", "w nothing/at/all" });
    assert_judged(layers! { "l 0777 0:0 a -> b", "f 0644 0:0 b 1", "--", "w a" });
    assert_judged(layers! { "f 0644 0:0 a 1", "d 0700 0:0 b/c", "--", "o .", "f 0644 0:0 d 2" });
}

/// `rm link && mkdir link` makes an opaque directory: what the link led to stays.
#[test]
fn whiteouts_do_not_follow_a_symlink_that_their_layer_replaces() {
    assert_judged(
        layers! { "f 0644 0:0 b/x 1", "l 0777 0:0 a -> b", "--", "d 0755 0:0 a/", "o a", "f 0644 0:0 a/y 2" },
    );
    assert_judged(layers! { "f 0644 0:0 b/x 1", "l 0777 0:0 a -> b", "--", "d 0755 0:0 a/", "w a/x" });
    assert_judged(
        layers! { "d 0755 0:0 b/c/d", "l 0777 0:0 a -> b", "--", "d 0755 0:0 a/", "d 0755 0:0 a/c/", "o a/c" },
    );
    assert_judged(layers! { "l 0777 0:0 a -> a", "--", "d 0755 0:0 a/", "o a" });
}

#[test]
fn hard_links_are_inodes() {
    assert_judged(
        layers! { "f 0640 1:2 a 1", "h b => a", "h c => b", "--", "f 0644 0:0 a 2", "--", "h d => c", "w b" },
    );
    assert_judged(layers! { "l 0777 0:0 a -> x", "h b => a", "p 0600 0:0 p", "h q => p" });
}

/// One image, every transport and compression: one tree.
#[test]
fn transport_and_compression_do_not_matter() {
    let env = TestEnv::new();
    let layers = layers! { "f 0644 0:0 a 1", "f 0644 0:0 b 2", "--", "w a", "--", "f 0644 0:0 a 1", "f 0644 0:0 b 2" };
    let expected = Model::of(&layers).listing();
    for compression in Compression::ALL {
        let image = Image::new(layers.clone()).compress(compression);
        let place = |name: &str| env.path(&format!("{name}-{compression:?}"));
        let layout = OciLayout::new().tag("latest", &image).files();
        layout.write_dir(&place("layout"));
        layout.write_tar(&place("archive"));
        let docker = DockerArchive::new().image(&["hello:latest"], &image);
        docker.modern().write_tar(&place("modern"));
        docker.legacy().write_tar(&place("legacy"));
        let transports = [("oci", "layout"), ("oci-archive", "archive"), ("docker-archive", "modern")];
        for (transport, name) in transports.into_iter().chain([("docker-archive", "legacy")]) {
            let reference = format!("{transport}:{}", place(name).display());
            assert_eq!(listing(&loaded(&reference, &env.tmp()).unwrap()), expected, "{reference}");
        }
    }
}

/// Layers of so many KiB, refused where that is asked for, read by so many threads.
fn refusal_of(layers: &[(usize, bool)], threads: usize, unpacked: u64) -> Error {
    let layer = |&(kibibytes, broken): &(usize, bool)| {
        let mut tar = Entry::file(format!("f{kibibytes}"), vec![7; kibibytes << 10]).to_bytes();
        tar.extend(if broken { [1; 1024] } else { [0; 1024] });
        Layer::from_tar(tar).compress(Compression::Gzip)
    };
    let env = TestEnv::new();
    let image = Image::new(layers.iter().map(layer).collect());
    OciLayout::new().tag("latest", &image).files().write_dir(&env.path("image"));
    let limits = Limits { unpacked, ..Limits::default() };
    let options = Options { threads, limits, ..Options::new(&env.tmp()) };
    let refused = loaded_with(&format!("oci:{}", env.path("image").display()), &env.tmp(), &options).unwrap_err();
    assert_eq!(env.listing(&env.tmp()), [""; 0], "nothing is left in the scratch folder");
    refused
}

/// The largest layers are read first, and more threads than that would need.
#[test]
fn the_lowest_refusal_is_told_whatever_the_threads() {
    let layers = [(1, false), (2, true), (300, true), (3000, false), (700, true), (5, true)];
    for threads in [1, 2, 3, 5, 40] {
        let error = refusal_of(&layers, threads, 16 << 30).to_string();
        assert!(error.starts_with("layer 2/6 "), "{threads} threads: {error}");
    }
}

#[test]
fn a_limit_names_the_layer_that_goes_beyond_it() {
    for threads in [1, 2, 40] {
        let error = refusal_of(&[(100, false), (5000, false), (200, true)], threads, 2 << 20);
        assert!(matches!(error, Error::Limit { .. }), "{threads} threads: {error}");
        assert!(threads > 1 || error.to_string().starts_with("layer 2/3 "), "{error}");
    }
}

/// Debian under python3, as debootstrap and apt made it: some four thousand files.
#[test]
fn a_real_distribution() {
    let cache = eif_testdata::cache_dir();
    let reference = format!("oci:{}:latest", eif_testdata::debian_image(&cache, "x86_64").display());
    let env = TestEnv::new();
    let tree = listing(&loaded(&reference, &env.tmp()).unwrap());
    let expected = Model::of(&eif_testdata::debian_layers(&cache, "x86_64")).listing();
    assert!(expected.len() > 3000);
    let differ: Vec<_> = tree.iter().zip(&expected).filter(|(a, b)| a != b).take(10).collect();
    assert!(tree == expected, "{} and {} lines; the first that differ: {differ:#?}", tree.len(), expected.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn prop_the_tree_is_what_the_model_says(lines in layers_strategy()) {
        let layers = eif_testdata::parse_layers(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let model = Model::try_of(&layers);
        prop_assume!(model.is_ok());
        let env = TestEnv::new();
        OciLayout::new().tag("latest", &Image::new(layers)).files().write_dir(&env.path("image"));
        let loaded = loaded(&format!("oci:{}", env.path("image").display()), &env.tmp()).unwrap();
        prop_assert_eq!(listing(&loaded), model.unwrap().listing());
        prop_assert_eq!(loaded.tree.check(), Ok(()));
    }
}
