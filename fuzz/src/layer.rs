//! Layers of an image. What is accepted becomes a ramdisk that holds the same tree, and the ramdisk becomes a tar that
//! holds the same tree: `layers -> tree -> newc -> tar -> tree`.

use eif::eif::Eif;
use eif::initramfs::newc::Reader;
use eif::rootfs::{self, Loaded};
use eif::verify;
use eif_testdata::{Image, Layer, OciLayout};

use super::steps;

const BLOCK: usize = 512;
/// So many layers an input may have.
const LAYERS: usize = 4;

/// The bytes are tars, one behind the other, lowest layer first; each ends with two zero blocks.
pub fn layer(bytes: &[u8]) -> Option<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let loaded = judged(tars(bytes), &folder.path().join("1"))?;
    let (ramdisk, entries) = steps::ramdisk(&loaded, &steps::some_process());
    assert_eq!(names(&ramdisk), expected_names(&loaded));
    assert_eq!(names(&ramdisk).len() as u64, entries);
    let file = steps::file(&[&ramdisk]);
    let mut tar = Vec::new();
    let eif = Eif::open(&file[..]).expect("a file of ours");
    let left_out = verify::rootfs(&eif, &mut tar).expect("a ramdisk of ours can be read");
    assert!(left_out.is_empty(), "{left_out:?}");
    let again = judged(vec![tar], &folder.path().join("2")).expect("what was extracted is a layer");
    assert_eq!(steps::lines(&again), steps::lines(&loaded));
    Some(())
}

/// The tree of these layers, if it is one that a build would pack.
fn judged(tars: Vec<Vec<u8>>, folder: &std::path::Path) -> Option<Loaded> {
    let image = Image::new(tars.into_iter().map(Layer::from_tar).collect());
    let files = OciLayout::new().tag("latest", &image).files();
    let image = steps::open(&files, folder).expect("the layout is right");
    let loaded = steps::load(&image, folder).ok()?;
    rootfs::lint(&loaded.tree, &loaded.spools, &image, false).ok()?;
    Some(loaded)
}

/// The names in a ramdisk.
fn names(ramdisk: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader::new(ramdisk);
    let mut names = Vec::new();
    while let Some(entry) = reader.next().expect("a ramdisk of ours can be read") {
        names.push(entry.name);
    }
    names
}

fn expected_names(loaded: &Loaded) -> Vec<Vec<u8>> {
    let mut names = vec![b"cmd".to_vec(), b"env".to_vec(), b"rootfs".to_vec()];
    let mut attributes = loaded.tree.get(rootfs::ROOT).is_some_and(|root| root.xattrs.is_some());
    let mut walk = loaded.tree.walk();
    while let Some((path, entry)) = walk.next() {
        names.push([b"rootfs/", path].concat());
        attributes |= loaded.tree.get(entry.inode).is_some_and(|inode| inode.xattrs.is_some());
    }
    names.extend(attributes.then(|| b"xattrs".to_vec()));
    names.push(b"process".to_vec());
    names
}

/// The input cut into tars, with the checksums of all headers put right.
fn tars(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let mut tars = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(block) = bytes.get_mut(at..at + BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            at += 2 * BLOCK;
            if tars.len() + 1 < LAYERS && at < bytes.len() {
                tars.push(bytes[start..at].to_vec());
                start = at;
            }
            continue;
        }
        mend(block);
        at += BLOCK + body(block).next_multiple_of(BLOCK);
    }
    tars.push(bytes[start..].to_vec());
    tars
}

/// Puts the header's checksum right: the sum of its bytes with the field itself blank.
fn mend(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Bytes behind a header, as far as it says so itself.
fn body(header: &[u8]) -> usize {
    if (b'1'..=b'6').contains(&header[156]) {
        return 0;
    }
    let digits =
        header[124..136].iter().skip_while(|byte| **byte == b' ').take_while(|byte| (b'0'..b'8').contains(byte));
    digits.fold(0, |value: usize, digit| (value << 3 | usize::from(digit - b'0')) & 0xff_ffff)
}
