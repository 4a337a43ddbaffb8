//! Every way in which an image is refused before its layers are looked into.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Digest, Refused};
use crate::{Refusal, escaped};

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference has no form that this version knows.
    #[error("`{text}`: {why}")]
    Reference {
        /// What the user typed.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// The file and what was done with it.
        what: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The place is no OCI layout or docker-archive.
    #[error("{what}: {why}")]
    NotAnImage {
        /// The file or blob.
        what: String,
        /// What it is instead.
        why: String,
    },
    /// A manifest, an index or a config that cannot be read as one.
    #[error("{what}: {why}")]
    BadManifest {
        /// The document, with its digest.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A digest that is not `sha256:` and 64 lower-case hex digits.
    #[error("`{text}` is no digest that this version supports")]
    BadDigest {
        /// The text that stands where a digest should.
        text: String,
    },
    /// Docker's first manifest format.
    #[error("{what}: a Docker schema 1 manifest, which names no config and has no verifiable layers")]
    Schema1 {
        /// The manifest.
        what: String,
    },
    /// A media type that is no layer of a container image.
    #[error("{what}: media type `{media_type}` is not supported{hint}")]
    MediaType {
        /// The layer or manifest.
        what: String,
        /// The type as it stands there.
        media_type: String,
        /// What is known of it, beginning with a comma, or nothing.
        hint: &'static str,
    },
    /// The image has no manifest for the platform.
    #[error("{what}: no image for {wanted}; there is: {available}")]
    NoPlatform {
        /// The index or image.
        what: String,
        /// The platform that was asked for.
        wanted: String,
        /// What is there, comma-separated.
        available: String,
    },
    /// Several images, and the reference names none of them.
    #[error("{what} holds {count} images and the reference picks none of them: {names}")]
    Ambiguous {
        /// The layout or archive.
        what: String,
        /// How many there are.
        count: usize,
        /// Their names, comma-separated.
        names: String,
    },
    /// The reference names an image that is not there.
    #[error("{what} has no image `{wanted}`; there is: {names}")]
    NotFound {
        /// The layout or archive.
        what: String,
        /// The name that was asked for.
        wanted: String,
        /// What is there, comma-separated.
        names: String,
    },
    /// A blob that the manifest names is not there.
    #[error("{what}: the blob is missing")]
    MissingBlob {
        /// Which one.
        what: String,
    },
    /// A layer whose blob is not here and must not be fetched from elsewhere.
    #[error("{what}: a foreign (non-distributable) layer whose blob is not in the image")]
    ForeignLayer {
        /// Which one.
        what: String,
    },
    /// The bytes are not those that the digest names.
    #[error("{what}: the bytes have the digest {got}, expected {want}")]
    DigestMismatch {
        /// Layer, config or manifest.
        what: String,
        /// From the manifest.
        want: Digest,
        /// Of the bytes.
        got: Digest,
    },
    /// Fewer bytes than the manifest says.
    #[error("{what}: {got} bytes came, the manifest says {want}")]
    SizeMismatch {
        /// Layer, config or manifest.
        what: String,
        /// From the manifest, in bytes.
        want: u64,
        /// What came, in bytes.
        got: u64,
    },
    /// More bytes than the manifest says.
    #[error("{what}: more bytes came than the {want} of the manifest")]
    TooLong {
        /// Layer, config or manifest.
        what: String,
        /// From the manifest, in bytes.
        want: u64,
    },
    /// An archive from a pipe, or a compressed one, that is larger than the limit.
    #[error("{what}: the image unpacks to more than {limit} bytes")]
    TooLarge {
        /// The archive.
        what: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A registry, or the way to it.
    #[error(transparent)]
    Registry(#[from] Box<Refused>),
    /// The store of blobs cannot be used.
    #[error("the store of blobs: {what}: {source}")]
    Store {
        /// Verb and path.
        what: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// DOCKER_HOST names no engine that can be asked.
    #[error("DOCKER_HOST `{host}`: {why}")]
    EngineHost {
        /// What it is.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The Docker engine does not answer, or not as it should.
    #[error("the Docker engine at {place}: {why}")]
    Engine {
        /// Its socket or address.
        place: String,
        /// What happened, or what it says.
        why: String,
        /// What to do, where more is known than usual.
        help: Option<String>,
    },
    /// The Docker engine does not have the image.
    #[error("the Docker engine at {place} has no image `{name}`")]
    NotInEngine {
        /// Its socket or address.
        place: String,
        /// The image that was asked for.
        name: String,
    },
    /// The network would be needed and must not be used.
    #[error("{what}: {why}, and --offline allows no network")]
    Offline {
        /// The image or blob.
        what: String,
        /// What the network would be needed for.
        why: String,
    },
    /// A download brought bytes of another digest.
    #[error("{what}: the bytes that came have the digest {got}, expected {want}")]
    BlobDigest {
        /// The blob.
        what: String,
        /// From the manifest.
        want: Digest,
        /// Of the bytes.
        got: Digest,
    },
    /// A download brought fewer or more bytes than the blob has.
    #[error("{what}: {got} bytes came, the manifest says {want}")]
    BlobSize {
        /// The blob.
        what: String,
        /// From the manifest, in bytes.
        want: u64,
        /// What came, in bytes; of too many, as many as were looked at.
        got: u64,
    },
    /// The image comes without a bill of materials.
    #[error("{what} has no SBOM: no attestation beside it and no artifact that refers to it is one")]
    NoSbom {
        /// The image.
        what: String,
    },
    /// Manifest and config disagree on the number of layers.
    #[error("the manifest has {manifest} layers, the config has {config} diff_ids")]
    LayerCount {
        /// Layers in the manifest.
        manifest: usize,
        /// diff_ids in the config.
        config: usize,
    },
    /// Something in a plain directory that no image can hold.
    #[error("{}: {what}", escaped(.path.as_os_str().as_bytes()))]
    UnsupportedEntry {
        /// The thing.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file in a plain directory that does not stay as it is.
    #[error("{}: the file changed while it was read", escaped(.path.as_os_str().as_bytes()))]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// A file with logins that the user names, and that cannot be used.
    #[error("{}: {why}", .path.display())]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; nothing of what is in it.
        why: String,
    },
    /// A credential helper that cannot be asked or that failed.
    #[error("{program}, which {file} names: {why}")]
    CredentialHelper {
        /// `docker-credential-…`.
        program: String,
        /// The file with logins.
        file: String,
        /// What went wrong; nothing of an answer.
        why: String,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Reference { .. } => "E-reference",
            Error::Io { .. } => "E-io",
            Error::NotAnImage { .. } => "E-not-an-image",
            Error::BadManifest { .. } => "E-bad-manifest",
            Error::BadDigest { .. } => "E-bad-digest",
            Error::Schema1 { .. } => "E-schema1",
            Error::MediaType { .. } => "E-media-type",
            Error::NoPlatform { .. } => "E-no-platform",
            Error::Ambiguous { .. } => "E-ambiguous-image",
            Error::NotFound { .. } | Error::NotInEngine { .. } => "E-image-not-found",
            Error::EngineHost { .. } => "E-docker-host",
            Error::Engine { .. } => "E-docker-daemon",
            Error::MissingBlob { .. } => "E-missing-blob",
            Error::ForeignLayer { .. } => "E-foreign-layer",
            Error::DigestMismatch { .. } => "E-digest-mismatch",
            Error::SizeMismatch { .. } | Error::TooLong { .. } => "E-size-mismatch",
            Error::TooLarge { .. } => "E-too-large",
            Error::Registry(refused) => refused.code(),
            Error::Store { .. } => "E-store",
            Error::Offline { .. } => "E-offline",
            Error::BlobDigest { .. } => "E-digest",
            Error::BlobSize { .. } => "E-size",
            Error::NoSbom { .. } => "E-no-sbom",
            Error::LayerCount { .. } => "E-layer-count-mismatch",
            Error::UnsupportedEntry { .. } => "E-unsupported-entry",
            Error::FileChanged { .. } => "E-file-changed",
            Error::AuthFile { .. } => "E-auth-file",
            Error::CredentialHelper { .. } => "E-credential-helper",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::Reference { .. } => {
                "use docker://NAME[:TAG|@DIGEST], docker-daemon:NAME, docker-archive:PATH[:NAME], oci:PATH[:TAG], \
                 oci-archive:PATH[:TAG] or rootfs:PATH"
            }
            Error::EngineHost { .. } => {
                "use unix:///PATH or tcp://HOST:PORT; for ssh: `ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST`"
            }
            Error::Engine { help: Some(help), .. } => help,
            Error::Engine { .. } => "see the engine's own log, and try again",
            Error::NotInEngine { name, .. } => {
                return vec![format!("run `docker pull {name}`; `docker image ls` lists what is there")];
            }
            Error::Io { .. } => "check that the path exists and may be read",
            Error::NotAnImage { .. } => "make one with `docker save -o app.tar IMAGE` or `skopeo copy … oci:app`",
            Error::BadManifest { .. } => "the image is damaged or was made by a broken tool; fetch it again",
            Error::BadDigest { .. } => "digests are `sha256:` and 64 lower-case hex digits",
            Error::Schema1 { .. } => "push it again with docker 1.10 or later, or run `skopeo copy --format oci`",
            Error::MediaType { .. } => "layers are tar, tar+gzip or tar+zstd; convert with `skopeo copy --format oci`",
            Error::NoPlatform { .. } => "pass --platform with one of those",
            Error::Ambiguous { .. } => "put one of the names behind the path: oci:PATH:NAME",
            Error::NotFound { .. } => "check the name behind the path",
            Error::MissingBlob { .. } => "the copy of the image is incomplete; copy it again",
            Error::ForeignLayer { .. } => "copy the image with a tool that includes foreign layers",
            Error::DigestMismatch { .. } => "the bytes were damaged or changed; copy the image again",
            Error::SizeMismatch { .. } => "the transfer was cut; copy the image again",
            Error::TooLong { .. } => "the bytes were damaged or changed; copy the image again",
            Error::TooLarge { .. } => "if the image is to be trusted, raise --max-unpacked",
            Error::Registry(refused) => return refused.help(),
            Error::Store { .. } => "check that the folder may be written to and has room, or pass --no-cache",
            Error::Offline { .. } => "build it once without --offline; name the image by its digest",
            Error::BlobDigest { .. } | Error::BlobSize { .. } => {
                "the other side or something on the way to it gave wrong bytes; try again, or try a mirror"
            }
            Error::NoSbom { .. } => {
                "build the image with `docker buildx build --sbom=true --push`, or attach one with `oras attach`; a \
                 Docker engine and `docker save` do not pass it on"
            }
            Error::LayerCount { .. } => "the image is damaged or was made by a broken tool; fetch it again",
            Error::UnsupportedEntry { .. } => "remove it from the directory",
            Error::FileChanged { .. } => "build again when nothing writes to the directory any more",
            Error::AuthFile { .. } => {
                "name a file that `podman login` or `docker login` wrote, or unset REGISTRY_AUTH_FILE"
            }
            Error::CredentialHelper { .. } => {
                "install or mend the helper, remove it from that file, or pass --creds or --authfile"
            }
        };
        vec![line.to_owned()]
    }
}

impl Error {
    /// Takes the refusal out of an I/O error that carried it through a reader, else says `what` met the I/O error.
    pub fn from_io(error: io::Error, what: &str) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Io { what: what.to_owned(), source },
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Error::Registry(Box::new(refused))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}
