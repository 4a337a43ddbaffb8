//! Every way in which layers are refused. The codes are those of the table of edge cases in the documentation.

use std::io;

use crate::image::{self, Digest};
use crate::{Refusal, escaped};

/// Why no tree can be made of the layers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image itself: a digest, a size, a missing blob.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// One entry of a layer.
    #[error("{layer}: entry \"{}\": {fault}", shown(.entry))]
    Entry {
        /// `layer 2/5 (sha256:…)`.
        layer: String,
        /// The entry's name as it stands in the tar.
        entry: Vec<u8>,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// The layer as a stream.
    #[error("{layer}: {fault}")]
    Stream {
        /// `layer 2/5 (sha256:…)`.
        layer: String,
        /// What is wrong with it.
        fault: StreamFault,
    },
    /// The image unpacks to more than the limit.
    #[error("{layer}: the image unpacks to more than {limit} {unit}")]
    Limit {
        /// The layer that goes beyond it.
        layer: String,
        /// The limit.
        limit: u64,
        /// `bytes` or `entries`.
        unit: &'static str,
    },
    /// The temporary file that holds a layer's contents.
    #[error("temporary file in `{place}`: {source}")]
    Spool {
        /// The folder.
        place: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The image names no program.
    #[error("the image has neither Entrypoint nor Cmd")]
    NoCommand,
    /// A string that cannot be an argument, a variable or a path.
    #[error("{what} holds a NUL byte, which no process can be given")]
    Encoding {
        /// Which one.
        what: String,
    },
    /// A user that the image's passwd lacks.
    #[error("user `{user}` is not in the image's /etc/passwd")]
    UnknownUser {
        /// As the config names it.
        user: String,
    },
    /// A group that the image's group file lacks.
    #[error("group `{group}` is not in the image's /etc/group")]
    UnknownGroup {
        /// As the config names it.
        group: String,
    },
    /// A numeric id outside 0 to 2^31-1, the range that Docker allows.
    #[error("user or group id `{id}` is not in 0..2147483647")]
    IdRange {
        /// As the config names it.
        id: String,
    },
    /// The working directory exists and is no directory.
    #[error("working directory `{path}`: {why}")]
    WorkingDir {
        /// As the config names it.
        path: String,
        /// What is there.
        why: String,
    },
    /// What `docker create` refuses.
    #[error("docker create refuses the image, for its {what} `{path}`: {why}")]
    DockerCreate {
        /// `WorkingDir` or `Volume`.
        what: &'static str,
        /// As the config names it.
        path: String,
        /// What is there.
        why: &'static str,
    },
}

/// What can be wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// `..` leaves the root.
    #[error("the name leaves the image's root")]
    PathTraversal,
    /// The root must stay a directory.
    #[error("the root of the image must be a directory")]
    RootNotDirectory,
    /// A parent is a file, a device or the like.
    #[error("its parent \"{}\" is not a directory", escaped(.0))]
    ParentNotDirectory(Vec<u8>),
    /// Symlinks lead in a circle.
    #[error("more than 40 symlinks on the way to its parent")]
    SymlinkLoop,
    /// The parent is reached through a symlink; an error under `--strict` only.
    #[error("its parent is reached through the symlink \"{}\"", escaped(.0))]
    SymlinkParent(Vec<u8>),
    /// The same name twice in one layer; an error under `--strict` only.
    #[error("the layer holds this name twice; the later one counts")]
    Duplicate,
    /// The target of a hard link.
    #[error("hard link target \"{}\" {why}", shown(.target))]
    HardLinkTarget {
        /// As the entry names it.
        target: Vec<u8>,
        /// Why it cannot be linked.
        why: &'static str,
    },
    /// A whiteout that would hit its own directory.
    #[error("a whiteout without a name, or something below a whiteout")]
    BadWhiteout,
    /// A whiteout in something that is no layer.
    #[error("names that begin with `.wh.` are marks of layers, and this is a plain root file system")]
    Whiteout,
    /// A component longer than 255 bytes or a path longer than the kernel takes.
    #[error("the name is longer than the kernel unpacks ({0})")]
    NameTooLong(&'static str),
    /// A symlink's target longer than 4095 bytes.
    #[error("the symlink's target has {0} bytes, the kernel unpacks at most 4095")]
    SymlinkTooLong(usize),
    /// A symlink to nothing, which the kernel creates broken.
    #[error("the symlink's target is empty")]
    SymlinkTargetEmpty,
    /// newc has 32 bits for a size.
    #[error("{0} bytes; a ramdisk can hold files below 4 GiB")]
    FileTooLarge(u64),
    /// Device numbers beyond the kernel's.
    #[error("device {0},{1} is beyond the kernel's range (4095, 1048575)")]
    DeviceRange(u64, u64),
    /// Ids beyond 2^32-2.
    #[error("owner {0} is not in 0..4294967294")]
    IdRange(String),
    /// Something that no file system of an enclave can hold.
    #[error("{0}")]
    Unsupported(String),
    /// An attribute that Linux could not set.
    #[error("an extended attribute {0}")]
    Xattr(&'static str),
    /// What `docker load` refuses.
    #[error("docker load refuses the image: {0}")]
    DockerLoad(String),
    /// More inodes than the limit, those of directories without an entry included.
    #[error("the image unpacks to more than {0} entries")]
    TooManyInodes(u64),
    /// More components than the limit.
    #[error("the path is {0} directories deep, the limit is {1}")]
    TooDeep(usize, usize),
}

/// What can be wrong with a layer as a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamFault {
    /// The tar ends in the middle of something.
    #[error("the layer ends at offset {offset}, in the middle of {what}")]
    Truncated {
        /// Offset in the plain tar, in bytes.
        offset: u64,
        /// A header, a body.
        what: &'static str,
    },
    /// The compressed stream ends before the tar does.
    #[error("the {0} stream is cut off")]
    CutOff(image::Compression),
    /// A tar header that is none.
    #[error("bad tar header at offset {offset}: {why}")]
    BadTar {
        /// Offset in the plain tar, in bytes.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The compressed stream is damaged.
    #[error("the {format} stream is damaged: {why}")]
    BadCompression {
        /// gzip or zstd.
        format: image::Compression,
        /// The decoder's reason.
        why: String,
    },
    /// A compression that layers do not have.
    #[error("the layer is compressed with {0}")]
    ForeignCompression(&'static str),
    /// The uncompressed bytes are not those that the config names.
    #[error("the uncompressed layer has the digest {got}, the config's diff_id is {want}")]
    DiffId {
        /// From the config.
        want: Digest,
        /// Of the bytes.
        got: Digest,
    },
    /// The operating system refused.
    #[error("reading it: {0}")]
    Io(io::Error),
}

/// A name as messages show it: the beginning of one that is too long to be read.
fn shown(name: &[u8]) -> String {
    const MOST: usize = 300;
    match name.get(..MOST) {
        Some(head) if name.len() > MOST => format!("{}… ({} bytes)", escaped(head), name.len()),
        _ => escaped(name),
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Image(error) => error.code(),
            Error::Entry { fault, .. } => fault.code(),
            Error::Stream { fault, .. } => fault.code(),
            Error::Limit { .. } => "E-too-large",
            Error::Spool { .. } => "E-spool",
            Error::NoCommand => "E-no-command",
            Error::Encoding { .. } => "E-cmd-encoding",
            Error::UnknownUser { .. } => "E-unknown-user",
            Error::UnknownGroup { .. } => "E-unknown-group",
            Error::IdRange { .. } => "E-uid-range",
            Error::WorkingDir { .. } => "E-workdir",
            Error::DockerCreate { .. } => "E-docker-create",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Image(error) => return error.help(),
            Error::Entry { fault, .. } => fault.help(),
            Error::Stream { fault, .. } => fault.help(),
            Error::Limit { unit: "bytes", .. } => "if the image is to be trusted, raise --max-unpacked",
            Error::Limit { .. } => "if the image is to be trusted, raise --max-entries",
            Error::Spool { .. } => {
                "free space there, or set TMPDIR to a folder with room for the unpacked layers (--keep-layers: XDG_CACHE_HOME)"
            }
            Error::NoCommand => "pass --entrypoint or --cmd",
            Error::Encoding { .. } => "remove the NUL byte from the image's config or the flag",
            Error::UnknownUser { .. } => "pass --user with a numeric id, or add the user in the image",
            Error::UnknownGroup { .. } => "pass --user with a numeric group, or add the group in the image",
            Error::IdRange { .. } => "pass --user with an id in that range",
            Error::WorkingDir { .. } => "pass --workdir with a directory",
            Error::DockerCreate { .. } => "mend the image's config, or build with --profile eif",
        };
        vec![line.to_owned()]
    }
}

impl EntryFault {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            EntryFault::PathTraversal => "E-path-traversal",
            EntryFault::RootNotDirectory => "E-root-not-dir",
            EntryFault::ParentNotDirectory(_) => "E-parent-not-dir",
            EntryFault::SymlinkLoop => "E-symlink-loop",
            EntryFault::SymlinkParent(_) => "E-symlink-parent",
            EntryFault::Duplicate => "E-duplicate",
            EntryFault::HardLinkTarget { .. } => "E-hardlink-target",
            EntryFault::BadWhiteout | EntryFault::Whiteout => "E-bad-whiteout",
            EntryFault::NameTooLong(_) => "E-name-too-long",
            EntryFault::SymlinkTooLong(_) => "E-symlink-too-long",
            EntryFault::SymlinkTargetEmpty => "E-symlink-target-empty",
            EntryFault::FileTooLarge(_) => "E-file-too-large",
            EntryFault::DeviceRange(..) => "E-device-range",
            EntryFault::IdRange(_) => "E-uid-range",
            EntryFault::Unsupported(_) => "E-unsupported-entry",
            EntryFault::Xattr(_) => "E-xattr",
            EntryFault::DockerLoad(_) => "E-docker-load",
            EntryFault::TooManyInodes(_) => "E-too-large",
            EntryFault::TooDeep(..) => "E-too-deep",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            EntryFault::PathTraversal => "no honest tool writes such a name; do not trust the image",
            EntryFault::SymlinkParent(_) => "name the real directory in the layer, or build without --strict",
            EntryFault::Duplicate => "rebuild the layer with a tool that names each path once",
            EntryFault::HardLinkTarget { .. } => "the layer was cut or squashed wrongly; rebuild the image",
            EntryFault::NameTooLong(_) | EntryFault::SymlinkTooLong(_) => {
                "shorten it in the image: the kernel would drop it without a word"
            }
            EntryFault::FileTooLarge(_) => "split the file, or load it into the enclave at run time",
            EntryFault::DockerLoad(_) => "nitro-cli cannot build it either: rebuild the layer, or use --profile eif",
            EntryFault::TooManyInodes(_) => "if the image is to be trusted, raise --max-entries",
            EntryFault::TooDeep(..) => "flatten the directories in the image",
            EntryFault::Unsupported(_) => "rebuild the layer without it",
            _ => "rebuild the image: no enclave could hold this entry as it is",
        }
    }
}

impl StreamFault {
    fn code(&self) -> &'static str {
        match self {
            StreamFault::Truncated { .. } | StreamFault::CutOff(_) => "E-truncated",
            StreamFault::BadTar { .. } => "E-bad-tar",
            StreamFault::BadCompression { .. } => "E-bad-compression",
            StreamFault::ForeignCompression(_) => "E-media-type",
            StreamFault::DiffId { .. } => "E-diffid-mismatch",
            StreamFault::Io(_) => "E-io",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            StreamFault::ForeignCompression(_) => "convert the image with `skopeo copy --format oci`",
            StreamFault::DiffId { .. } => "config and layer do not belong together; copy the image again",
            StreamFault::Io(_) => "check the disk or the transport",
            _ => "the layer is damaged; copy the image again",
        }
    }
}
