//! The first pass: every layer read once, in parallel, then applied in order.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::apply::{Note, NoteKind, apply};
use super::entries::{Entries, Fault};
use super::error::{EntryFault, Error, StreamFault};
use super::layer::{self, Bounds, Change, Stop};
use super::spool::{Spools, Tee, WriteFailed};
use super::tree::Tree;
use crate::image::{self, Compression, Digest, Image};
use crate::{Progress, Warning, escaped};

/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB (RFC 8878 asks for 8 MiB at least).
const ZSTD_WINDOW_LOG: u32 = 27;

/// What an image may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all files of all layers.
    pub unpacked: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
}

impl Default for Limits {
    /// 16 GiB, four million entries, 2048 components.
    fn default() -> Self {
        Self { unpacked: 16 << 30, entries: 4 << 20, depth: 2048 }
    }
}

/// How layers are loaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is refused for its size.
    pub limits: Limits,
    /// Layers that are read at a time.
    pub threads: usize,
    /// Where the spools go; they have no name there and vanish with the process.
    pub scratch: PathBuf,
    /// Warnings that have an `E-` code are errors.
    pub strict: bool,
}

/// An image's layers as one file system.
#[derive(Debug)]
pub struct Loaded {
    /// The names and inodes.
    pub tree: Tree,
    /// The contents.
    pub spools: Spools,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// A layer after its one reading.
struct Indexed {
    changes: Vec<Change>,
    bytes: u64,
    spool: File,
    warning: Option<Warning>,
}

/// Reads and applies all layers of an image.
///
/// # Errors
/// The refusal of the lowest layer that has one; see [`Error`].
pub fn load(image: &Image, options: &Options, progress: &dyn Progress) -> Result<Loaded, Error> {
    progress.stage("layers", None);
    let mut tree = Tree::default();
    let mut warnings = Vec::new();
    let mut files = Vec::new();
    let mut left = options.limits.unpacked;
    for (index, layer) in read_all(image, options, progress).into_iter().enumerate() {
        let layer = layer?;
        let label = image.layer_label(index);
        left = left.checked_sub(layer.bytes).ok_or_else(|| too_many_bytes(&label, options))?;
        warnings.extend(layer.warning);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let notes = apply(&mut tree, number, layer.changes).map_err(|(entry, fault)| Error::Entry {
            layer: label.clone(),
            entry: entry.into(),
            fault,
        })?;
        for note in notes {
            warnings.push(judge(note, &label, options.strict)?);
        }
        files.push(layer.spool);
    }
    debug_assert_eq!(tree.check(), Ok(()));
    Ok(Loaded { tree, spools: Spools::new(files), warnings })
}

fn judge(note: Note, label: &str, strict: bool) -> Result<Warning, Error> {
    match note.fault {
        NoteKind::Strict(fault) if strict => {
            Err(Error::Entry { layer: label.to_owned(), entry: note.entry.into(), fault })
        }
        NoteKind::Strict(fault) => {
            Ok(Warning::new(fault.code(), format!("{label}: entry \"{}\": {fault}", escaped(&note.entry))))
        }
        NoteKind::DirectoryOverSymlink => {
            let text = "a directory replaces a symlink of the lower layers, and hides what the symlink led to";
            Ok(Warning::new("W-dir-over-symlink", format!("{label}: entry \"{}\": {text}", escaped(&note.entry))))
        }
    }
}

fn too_many_bytes(label: &str, options: &Options) -> Error {
    Error::Limit { layer: label.to_owned(), limit: options.limits.unpacked, unit: "bytes" }
}

/// Reads the layers with as many threads as the options say. After a refusal no further layer is begun; the layers
/// below it were begun before, so the lowest refusal is found whatever the threads do.
fn read_all(image: &Image, options: &Options, progress: &dyn Progress) -> Vec<Result<Indexed, Error>> {
    let count = image.layers().len();
    let results: Vec<Mutex<Option<Result<Indexed, Error>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = results.get(index) else { break };
            let result = read_layer(image, index, options, progress);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(result);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.min(count) {
            scope.spawn(work);
        }
        work();
    });
    results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten()).collect()
}

fn read_layer(image: &Image, index: usize, options: &Options, progress: &dyn Progress) -> Result<Indexed, Error> {
    let label = image.layer_label(index);
    let stored = Counted { inner: image.open_layer(index)?, progress };
    let declared = image.layers().get(index).and_then(|layer| layer.compression);
    let (format, plain) = decoded(stored, &label)?;
    let diff_id = image.layers().get(index).map(|layer| layer.diff_id);
    let spool_failed = |source| Error::Spool { place: options.scratch.display().to_string(), source };
    let spool = tempfile::tempfile_in(&options.scratch).map_err(spool_failed)?;
    let explain = Explain { label: &label, format, options };
    let mut entries = Entries::new(Tee::new(plain, spool, true));
    let limits = options.limits;
    let bounds = Bounds { entries: limits.entries, bytes: limits.unpacked, depth: limits.depth };
    let number = u32::try_from(index).unwrap_or(u32::MAX);
    let (changes, bytes) = layer::read(&mut entries, number, bounds).map_err(|stop| explain.stop(stop))?;
    let (spool, sha256) = entries.into_inner().finish().map_err(|error| explain.io(error))?;
    let got = Digest::from_bytes(sha256.unwrap_or_default());
    if let Some(want) = diff_id.filter(|want| *want != got) {
        return Err(Error::Stream { layer: label, fault: StreamFault::DiffId { want, got } });
    }
    let warning = declared.filter(|declared| *declared != format).map(|declared| {
        Warning::new("W-media-type", format!("{label}: the media type says {declared}, the bytes are {format}"))
    });
    Ok(Indexed { changes, bytes, spool, warning })
}

/// Tells the progress what is read.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// Finds the compression in the first bytes, which media types may misstate, and undoes it: all gzip members, all
/// zstd frames.
fn decoded<'a>(mut stored: impl Read + Send + 'a, label: &str) -> Result<(Compression, Box<dyn Read + 'a>), Error> {
    let mut head = Vec::new();
    let explain = |error| match image::Error::from_io(error, label) {
        image::Error::Io { source, .. } => Error::Stream { layer: label.to_owned(), fault: StreamFault::Io(source) },
        other => Error::Image(other),
    };
    (&mut stored).take(6).read_to_end(&mut head).map_err(explain)?;
    let refused = |name| Error::Stream { layer: label.to_owned(), fault: StreamFault::ForeignCompression(name) };
    match head.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(refused("xz")),
        [b'B', b'Z', b'h', ..] => return Err(refused("bzip2")),
        [4, b'"', b'M', 0x18, ..] => return Err(refused("lz4")),
        _ => {}
    }
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    // A zstd stream may begin with skippable frames, 0x184D2A50 to 0x184D2A5F (RFC 8878, 3.1.2), as pzstd's do.
    let zstd = matches!(head.as_slice(), [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    let whole = io::BufReader::with_capacity(256 << 10, io::Cursor::new(head).chain(stored));
    if gzip {
        return Ok((Compression::Gzip, Box::new(flate2::bufread::MultiGzDecoder::new(whole))));
    }
    if zstd {
        let mut decoder = zstd::Decoder::with_buffer(whole).map_err(explain)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(explain)?;
        return Ok((Compression::Zstd, Box::new(decoder)));
    }
    Ok((Compression::None, Box::new(whole)))
}

/// Turns what stopped the reading of a layer into a refusal.
struct Explain<'a> {
    label: &'a str,
    format: Compression,
    options: &'a Options,
}

impl Explain<'_> {
    fn stop(&self, stop: Stop) -> Error {
        let layer = self.label.to_owned();
        match stop {
            Stop::Fault(Fault::Read(error)) => self.io(error),
            Stop::Fault(Fault::Stream(fault)) => Error::Stream { layer, fault },
            Stop::Fault(Fault::Entry(entry, fault)) => Error::Entry { layer, entry, fault },
            Stop::TooManyEntries => Error::Limit { layer, limit: self.options.limits.entries, unit: "entries" },
            Stop::TooManyBytes => too_many_bytes(self.label, self.options),
        }
    }

    /// An error of the chain below the tar: the spool's, the verifier's, the decoder's or the disk's.
    fn io(&self, error: io::Error) -> Error {
        let error = match error.downcast::<WriteFailed>() {
            Ok(WriteFailed(source)) => {
                return Error::Spool { place: self.options.scratch.display().to_string(), source };
            }
            Err(error) => error,
        };
        let source = match image::Error::from_io(error, self.label) {
            image::Error::Io { source, .. } => source,
            other => return Error::Image(other),
        };
        let fault = match self.format {
            _ if source.raw_os_error().is_some() => StreamFault::Io(source),
            _ if source.kind() == io::ErrorKind::UnexpectedEof => {
                StreamFault::Truncated { offset: 0, what: "the compressed stream" }
            }
            Compression::None => StreamFault::Io(source),
            format => StreamFault::BadCompression { format, why: source.to_string() },
        };
        Error::Stream { layer: self.label.to_owned(), fault }
    }
}

/// The refusal for an entry of a finished tree: its layer is known by number.
pub(super) fn entry_error(image: &Image, layer: u32, entry: &[u8], fault: EntryFault) -> Error {
    Error::Entry { layer: image.layer_label(layer as usize), entry: entry.to_vec(), fault }
}

impl Options {
    /// Two threads, spools in `scratch`, the usual limits.
    pub fn new(scratch: &Path) -> Self {
        Self { limits: Limits::default(), threads: 2, scratch: scratch.to_owned(), strict: false }
    }
}
