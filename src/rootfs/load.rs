//! The first pass: every layer read once, in parallel, then applied in order.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use super::ahead::{Chunks, Stages};
use super::apply::{Note, NoteKind, apply};
use super::entries::{Entries, Fault, is_header};
use super::error::{EntryFault, Error, StreamFault};
use super::layer::{self, Budget, Meaning, Stop, Tab};
use super::spool::{OverLimit, Spool, Spooled, Spools, Tee, WriteFailed};
use super::tree::Tree;
use crate::image::{self, Compression, Digest, Image, Layer, Steps};
use crate::{Progress, Warning, escaped};

/// Bytes of a tar for each packed one from which on it is told, where the tar has at least [`SWOLLEN_FROM`] bytes.
const SWOLLEN: u64 = 100;
/// Smaller layers are zeros for some good reason.
const SWOLLEN_FROM: u64 = 64 << 20;
/// Layers that are read at a time, whatever the threads: each has two queues of chunks, or parts.
const AT_A_TIME: usize = 8;
/// Threads that a layer keeps busy: one hashes what is stored, one inflates, one hashes and spools the tar.
const FOR_A_LAYER: usize = 3;

/// What an image may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers as plain tars; likewise bytes in all their files, holes included.
    pub unpacked: u64,
    /// Entries of all layers; likewise inodes, since an entry may make directories on its way. One counts once more for
    /// each 256 bytes of its names, attributes and pieces of a sparse file.
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
    /// Threads that read layers: at most eight of them each one of its own, the others help with those.
    pub threads: usize,
    /// Where the spools go; they have no name there and vanish with the process.
    pub scratch: PathBuf,
    /// Warnings that have an `E-` code are errors.
    pub strict: bool,
    /// What a plain directory or tar says of owners counts; else all is root's. An image's owners count always.
    pub keep_owners: bool,
}

/// An image's layers as one file system.
#[derive(Debug)]
pub struct Loaded {
    /// The names and inodes.
    pub tree: Tree,
    /// The contents.
    pub spools: Spools,
    /// SHA-256 of each layer's plain tar, lowest first. That of a plain directory is of a tar that nobody else has.
    pub diff_ids: Vec<Digest>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// A layer after its one reading, or its refusal.
pub(super) type Outcome<C> = Result<Indexed<C>, Error>;

/// A layer after its one reading.
pub(super) struct Indexed<C> {
    pub(super) changes: Vec<C>,
    pub(super) spool: Spooled,
    pub(super) diff_id: Digest,
    pub(super) warnings: Vec<Warning>,
}

/// Reads and applies all layers of an image.
///
/// # Errors
/// The refusal of the lowest layer that has one; see [`Error`].
pub fn load(image: &Image, options: &Options, progress: &dyn Progress) -> Result<Loaded, Error> {
    let meaning = if image.origin.is_plain() { layer::plain } else { layer::change };
    let layers = read_all(image, options, meaning, progress)?;
    let mut tree = Tree::default();
    let mut warnings = Vec::new();
    let (mut files, mut diff_ids) = (Vec::new(), Vec::new());
    for (index, layer) in layers.into_iter().enumerate() {
        let layer = layer?;
        let label = image.layer_label(index);
        warnings.extend(layer.warnings);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let notes = apply(&mut tree, number, layer.changes, options.limits.entries)
            .map_err(|(entry, fault)| Error::Entry { layer: label.clone(), entry: entry.into(), fault })?;
        for note in notes {
            warnings.push(judge(note, &label, options.strict)?);
        }
        files.push(layer.spool);
        diff_ids.push(layer.diff_id);
    }
    if image.origin.is_plain() && !options.keep_owners {
        warnings.extend(disown(&mut tree));
    }
    debug_assert_eq!(tree.check(), Ok(()));
    Ok(Loaded { tree, spools: Spools::new(files), diff_ids, warnings })
}

/// Gives everything to root. A directory that one user made says nothing by its owner; several owners may mean
/// something, so that is told.
fn disown(tree: &mut Tree) -> Option<Warning> {
    let mut owners = BTreeSet::new();
    for metadata in tree.all_metadata() {
        owners.insert((metadata.uid, metadata.gid));
        (metadata.uid, metadata.gid) = (0, 0);
    }
    let text = format!("{} different owners become root; --keep-owners keeps them", owners.len());
    (owners.len() > 1).then(|| Warning::new("W-owners", text))
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

/// Gets the layers and reads them, the largest first, so that no thread is left alone with it at the end. Above a layer
/// that is refused none is begun any more, and all below it are read: the lowest refusal is found whatever the threads
/// do. But the limits are the whole image's: beyond them nothing more is begun, that is the refusal, and with several
/// threads the layer that it names may differ from run to run.
pub(super) fn read_all<C: Send>(
    image: &Image,
    options: &Options,
    meaning: Meaning<C>,
    progress: &dyn Progress,
) -> Result<Vec<Outcome<C>>, Error> {
    image.fetch(progress)?;
    progress.stage("layers", None);
    let count = image.layers().len();
    let mut order: Vec<usize> = (0..count).collect();
    // One that cannot be opened has no size, and is refused when its turn comes.
    order.sort_by_cached_key(|index| Reverse(image.layer_size(*index).unwrap_or(0)));
    let results: Vec<Mutex<Option<Outcome<C>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let budget = Budget::new(options.limits);
    // Layers from `end` on are not begun.
    let (next, end, over_limit) = (AtomicUsize::new(0), AtomicUsize::new(count), Mutex::new(None));
    let stages = Stages::new(count);
    let read = || {
        while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let _layer = stages.layer();
            if index >= end.load(Ordering::Relaxed) {
                continue;
            }
            let result = read_sound(image, index, options, &budget, meaning, &stages, progress);
            if let Err(error @ Error::Limit { .. }) = result {
                end.store(0, Ordering::Relaxed);
                over_limit.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                continue;
            }
            if result.is_err() {
                end.fetch_min(index, Ordering::Relaxed);
            }
            if let Some(mut slot) = results.get(index).and_then(|slot| slot.lock().ok()) {
                *slot = Some(result);
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 1..options.threads.min(count.min(AT_A_TIME).saturating_mul(FOR_A_LAYER)) {
            let (read, stages) = (&read, &stages);
            let work = move || {
                if number < AT_A_TIME {
                    read();
                }
                stages.help();
            };
            // What a thread that cannot be had would do, the others do.
            let _ = Builder::new().name("eif-layers".to_owned()).spawn_scoped(scope, work);
        }
        read();
        stages.help();
    });
    if let Some(error) = over_limit.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten()).collect())
}

/// Reads a layer; one whose bytes the disk has damaged is fetched anew, where it came from a registry, and read again.
fn read_sound<'env, C>(
    image: &'env Image,
    index: usize,
    options: &Options,
    budget: &Budget,
    meaning: Meaning<C>,
    stages: &Stages<'env>,
    progress: &'env dyn Progress,
) -> Outcome<C> {
    let read = || {
        let label = image.layer_label(index);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let reading = Reading { label: &label, number, options, budget, meaning, stages, progress };
        reading.layer(image, index).map_err(|error| blame(image, index, error))
    };
    let first = read();
    let curable = match &first {
        Err(Error::Image(error)) => image.fetch_again(index, error, progress)?,
        // The blob is sound now. It may not have been when it was read: another layer of the same blob has it replaced.
        Err(Error::Stream { .. } | Error::Entry { .. }) => {
            let replaced = image::Error::MissingBlob { what: image.layer_label(index) };
            image.fetch_again(index, &replaced, progress)?
        }
        _ => false,
    };
    if curable { read() } else { first }
}

/// A decoder may stumble over a damaged blob before its digest is known: then the digest is what is wrong.
fn blame(image: &Image, index: usize, error: Error) -> Error {
    let damaged = !image.origin.is_plain() && matches!(error, Error::Stream { .. } | Error::Entry { .. });
    let Some(mut blob) = image.open_layer(index).ok().filter(|_| damaged) else { return error };
    match io::copy(&mut blob, &mut io::sink()).map_err(|other| image::Error::from_io(other, "")) {
        Ok(_) | Err(image::Error::Io { .. }) => error,
        Err(other) => Error::Image(other),
    }
}

/// How a layer is read, wherever it is read from.
struct Reading<'a, 'env, C> {
    label: &'a str,
    number: u32,
    options: &'a Options,
    budget: &'a Budget,
    meaning: Meaning<C>,
    stages: &'a Stages<'env>,
    progress: &'env dyn Progress,
}

/// What a plain tar had.
struct Tar<'a, C> {
    changes: Vec<C>,
    spool: Spool,
    digest: Digest,
    /// To check it by: none where they are there already, or the digest was known.
    steps: Steps,
    tab: Tab<'a>,
}

impl<'env, C> Reading<'_, 'env, C> {
    fn layer(&self, image: &'env Image, index: usize) -> Outcome<C> {
        let layer = image.layers().get(index);
        let diff_id = layer.and_then(|layer| layer.diff_id);
        let kept = match image.unpacked(index)?.map(|(file, digest, steps)| self.kept(file, digest, steps)) {
            Some(Err(_)) => image.discard_unpacked(index).map(|()| None)?,
            read => read.and_then(Result::ok),
        };
        let (format, packed, Tar { changes, spool, digest, steps, tab }) = match kept {
            Some(tar) => {
                let head = image.layer_head(index)?;
                (format_of(&head, self.label)?, image.layer_size(index)?, tar)
            }
            None => {
                let stored = Counted::new(image.open_layer(index)?, self.progress);
                let packed = Arc::clone(&stored.count);
                let spool = match image.keep_unpacked(index)? {
                    Some(output) => Spool::keeping(output),
                    None => Spool::new(&self.options.scratch, Spools::segment(self.options.limits.unpacked)),
                };
                // The blob's digest is checked as it is read: that of a plain tar is the same once more.
                let (format, tar) = self.stored(stored, spool, layer.and_then(Layer::digest))?;
                (format, packed.load(Ordering::Relaxed), tar)
            }
        };
        let label = || self.label.to_owned();
        if let Some(want) = diff_id.filter(|want| *want != digest) {
            return Err(Error::Stream { layer: label(), fault: StreamFault::DiffId { want, got: digest } });
        }
        let (place, stays) = (spool.place(), spool.stays());
        let spool = spool.finish().map_err(|source| Error::Spool { place, source })?;
        if stays {
            image.keep_steps(index, &steps);
        }
        let declared = layer.and_then(|layer| layer.compression);
        let mislabelled = declared.filter(|declared| *declared != format).map(|declared| {
            let text = format!("{}: the media type says {declared}, the bytes are {format}", self.label);
            Warning::new("W-media-type", text)
        });
        let warnings = mislabelled.into_iter().chain(swollen(self.label, packed, spool.len)).collect();
        tab.keep();
        Ok(Indexed { changes, spool, diff_id: digest, warnings })
    }

    /// A layer as it is stored; `blob` is the digest that `stored` fails without.
    fn stored(
        &self,
        stored: impl Read + Send + 'env,
        spool: Spool,
        blob: Option<Digest>,
    ) -> Result<(Compression, Tar<'_, C>), Error> {
        let (format, plain) = decoded(stored, self.label, self.stages)?;
        let known = blob.filter(|_| format == Compression::None);
        Ok((format, self.tar(plain, format, spool, known)?))
    }

    /// A layer that was kept unpacked, and has to have this digest.
    fn kept(&self, file: File, digest: Digest, steps: Steps) -> Result<Tar<'_, C>, Error> {
        let explain = self.explain(Compression::None);
        let spool = Spool::kept(file.try_clone().map_err(|error| explain.io(error))?);
        let progress = self.progress;
        if steps.is_empty() {
            // They are found on the way, for the next time.
            let tar = self.tar(self.stages.join(Counted::new(file, progress)), Compression::None, spool, None)?;
            if tar.digest != digest {
                let fault = StreamFault::DiffId { want: digest, got: tar.digest };
                return Err(Error::Stream { layer: self.label.to_owned(), fault });
            }
            return Ok(tar);
        }
        let steps = steps.readers(file, digest).map(move |step| Counted::new(step, progress));
        self.tar(self.stages.join_parts(steps), Compression::None, spool, Some(digest))
    }

    /// `known` is the digest that `plain` fails without.
    fn tar(
        &self,
        plain: impl BufRead,
        format: Compression,
        spool: Spool,
        known: Option<Digest>,
    ) -> Result<Tar<'_, C>, Error> {
        let explain = self.explain(format);
        let tab = self.budget.open();
        let mut entries = Entries::new(Tee::new(plain, spool, &tab, known));
        let changes = layer::read(&mut entries, self.number, &tab, self.meaning);
        let changes = changes.map_err(|stop| explain.stop(stop))?;
        let (spool, digest, steps) = entries.into_inner().finish().map_err(|error| explain.io(error))?;
        Ok(Tar { changes, spool, digest, steps, tab })
    }

    fn explain(&self, format: Compression) -> Explain<'_> {
        Explain { label: self.label, format, options: self.options }
    }
}

/// A layer that is much larger than what was sent: an image that was made to fill a disk looks like that.
fn swollen(label: &str, packed: u64, plain: u64) -> Option<Warning> {
    let ratio = plain / packed.max(1);
    (plain >= SWOLLEN_FROM && ratio >= SWOLLEN).then(|| {
        Warning::new("W-compression-ratio", format!("{label}: {plain} bytes came packed in {packed}, {ratio} for one"))
    })
}

/// Tells the progress what is read, and counts it.
struct Counted<'env, R> {
    inner: R,
    count: Arc<AtomicU64>,
    progress: &'env dyn Progress,
}

impl<'env, R> Counted<'env, R> {
    fn new(inner: R, progress: &'env dyn Progress) -> Self {
        Self { inner, count: Arc::default(), progress }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// The compression of what begins so. A plain tar begins with a name, which may look like anything, so a header that is
/// one is asked for first.
fn format_of(head: &[u8], label: &str) -> Result<Compression, Error> {
    let refused = |name| Error::Stream { layer: label.to_owned(), fault: StreamFault::ForeignCompression(name) };
    if is_header(head) { Ok(Compression::None) } else { Compression::of(head).map_err(refused) }
}

/// Finds the compression in the first bytes, which media types may misstate, and undoes it.
fn decoded<'env>(
    mut stored: impl Read + Send + 'env,
    label: &str,
    stages: &Stages<'env>,
) -> Result<(Compression, Chunks<'env>), Error> {
    let explain = |error: io::Error| match error.downcast::<image::Error>() {
        Ok(carried) => Error::Image(carried),
        Err(source) => Error::Stream { layer: label.to_owned(), fault: StreamFault::Io(source) },
    };
    let mut head = Vec::new();
    (&mut stored).take(512).read_to_end(&mut head).map_err(explain)?;
    let format = format_of(&head, label)?;
    let whole = stages.join(io::Cursor::new(head).chain(stored));
    let plain = match format {
        Compression::None => whole,
        Compression::Gzip | Compression::Zstd => stages.join(format.plain(whole).map_err(explain)?),
    };
    Ok((format, plain))
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
            Ok(WriteFailed { place, source }) => return Error::Spool { place, source },
            Err(error) => error,
        };
        if error.get_ref().is_some_and(|inner| inner.is::<OverLimit>()) {
            return too_many_bytes(self.label, self.options);
        }
        let source = match error.downcast::<image::Error>() {
            Ok(carried) => return Error::Image(carried),
            Err(source) => source,
        };
        let fault = match self.format {
            _ if source.raw_os_error().is_some() => StreamFault::Io(source),
            Compression::None => StreamFault::Io(source),
            format if source.kind() == io::ErrorKind::UnexpectedEof => StreamFault::CutOff(format),
            format => StreamFault::BadCompression { format, why: source.to_string() },
        };
        Error::Stream { layer: self.label.to_owned(), fault }
    }
}

/// The refusal for an entry of a finished tree: its layer is known by number.
pub(super) fn entry_error(image: &Image, layer: u32, entry: &[u8], fault: EntryFault) -> Error {
    let index = layer as usize;
    let made = index >= image.layers().len();
    let layer = if made { "what the build adds".to_owned() } else { image.layer_label(index) };
    Error::Entry { layer, entry: entry.to_vec(), fault }
}

impl Options {
    /// Two threads, spools in `scratch`, the usual limits.
    pub fn new(scratch: &Path) -> Self {
        Self { limits: Limits::default(), threads: 2, scratch: scratch.to_owned(), strict: false, keep_owners: false }
    }
}
