//! What the opening of an image may use, beside the reference: all of it has no influence on the image.

use std::path::PathBuf;

use super::{Credentials, Engine, Network, Store};

/// An archive that is not a file, or is compressed, may have this many plain bytes: as many as an image by default.
const ARCHIVE_LIMIT: u64 = 16 << 30;

/// How images are got. The transports take from it what they need.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where downloaded blobs are and go.
    pub store: Store,
    /// Whether layers are kept there unpacked, too.
    pub keep_layers: bool,
    /// Where temporary files go: an archive from a pipe, or a compressed one.
    pub scratch: PathBuf,
    /// What a temporary file may have, in bytes.
    pub limit: u64,
    /// Whether nothing may be asked of the network.
    pub offline: bool,
    /// Who registries are told that we are.
    pub credentials: Credentials,
    /// How registries are reached.
    pub network: Network,
    /// The Docker engine that has the images of `docker-daemon:`.
    pub engine: Engine,
}

impl Access {
    /// The network may be used, registries are asked as nobody, and a temporary file may have 16 GiB.
    pub fn new(store: Store, scratch: PathBuf) -> Self {
        let (credentials, network, engine) = (Credentials::none(), Network::default(), Engine::default());
        Self { store, keep_layers: false, scratch, limit: ARCHIVE_LIMIT, offline: false, credentials, network, engine }
    }
}
