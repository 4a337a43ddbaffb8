//! Ramdisks of anyone's: read whole or in single bytes, they say the same; whatever is made of them does not panic.

use std::io::{self, Read};

use eif::eif::Eif;
use eif::initramfs::newc::{Entry, Error, Reader};
use eif::initramfs::{Need, Packing, Unpack};
use eif::verify;
use eif_testdata::{Image, Layer, OciLayout};

use super::steps;

/// Unpacked bytes that are looked at: a few packed ones may be thousands of times as many.
const LIMIT: u64 = 1 << 20;

/// The bytes are a ramdisk, packed or not.
pub fn newc(bytes: &[u8]) -> Option<()> {
    let unpack = Unpack::new(bytes).ok()?;
    let packing = unpack.packing();
    let mut plain = Vec::new();
    let unpacked = unpack.take(LIMIT).read_to_end(&mut plain);
    let mut slow = Vec::new();
    let unpacked_slowly = Unpack::new(Single(bytes)).expect("as before").take(LIMIT).read_to_end(&mut slow);
    assert_eq!(unpacked.is_ok(), unpacked_slowly.is_ok(), "the size of a read decides");
    // Before the place where a packed stream is broken, a decoder may give more or less.
    let same = if unpacked.is_ok() { plain == slow } else { plain.starts_with(&slow) || slow.starts_with(&plain) };
    assert!(same, "the size of a read decides");
    let found = entries(&plain[..]);
    assert!(found == entries(Single(&plain)), "the size of a read decides");
    if packing == Packing::Plain {
        let told = Need::default().add(bytes, bytes.len() as u64);
        assert!(told.is_ok(), "memory does not fail: {told:?}");
        file(bytes, found.1.is_none());
    }
    found.1.is_none().then_some(())
}

/// Entries with their contents, and the error that ended them.
fn entries(input: impl Read) -> (Vec<(Entry, Vec<u8>)>, Option<String>) {
    let mut reader = Reader::new(input);
    let mut all: Vec<(Entry, Vec<u8>)> = Vec::new();
    let error = loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        assert!(all.last().is_none_or(|(before, _)| before.offset < entry.offset));
        let mut body = Vec::new();
        if let Err(error) = reader.read_to_end(&mut body) {
            break Some(error.downcast().unwrap_or_else(Error::Io));
        }
        assert_eq!(body.len() as u64, u64::from(entry.size), "whole contents or an error");
        all.push((entry, body));
    };
    (all, error.map(|error| error.to_string()))
}

/// A file whose application is this ramdisk, through all that looks at files.
fn file(ramdisk: &[u8], whole: bool) {
    let bytes = steps::file(&[b"", ramdisk]);
    let eif = Eif::examine(&bytes[..]).expect("a file of ours");
    let inspection = verify::inspect(&eif, 1).expect("memory does not fail");
    let padded = ramdisk.len().is_multiple_of(4);
    assert!(!padded || inspection.ramdisks[1].entries.is_some());
    verify::list(&eif, verify::Listing::Text, &mut io::sink()).expect("memory does not fail");
    let mut tar = Vec::new();
    let extracted = verify::rootfs(&eif, &mut tar);
    assert!(whole || !padded || extracted.is_err(), "half a tree");
    if extracted.is_ok() {
        // No promise that a builder takes it, but that it has an answer.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = Image::new(vec![Layer::from_tar(tar)]);
        let files = OciLayout::new().tag("latest", &image).files();
        let image = steps::open(&files, folder.path()).expect("the layout is right");
        let _ = steps::load(&image, folder.path());
    }
}

/// Gives one byte at a time.
struct Single<'a>(&'a [u8]);

impl Read for Single<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}
