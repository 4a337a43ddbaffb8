//! Images in registries, by the OCI distribution specification: what is asked for goes to the store, and is read there.
//!
//! | file | decides |
//! |---|---|
//! | `name` | what a name means |
//! | `endpoint` | who is asked, and by which scheme |
//! | `client` | connections, redirects, what an answer means |
//! | `auth` | how a registry is told who asks |
//! | `download` | what is asked again, and from which byte on |
//! | `upload` | what is put there, and that it goes on |
//! | `repository` | all of it for what is no container image |
//! | `refused` | how all of it is told to the user |
//!
//! Of oci-client (`oci_distribution`) come the grammar of names and the form of tokens. Its client is not used: it reads
//! manifests without a bound, follows redirects from https to http, knows no identity tokens, no retries and no size.
//! The requests are asynchronous inside (`client`); everything above is plain threads.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

mod after;
mod auth;
mod client;
mod download;
mod endpoint;
mod name;
mod refused;
mod repository;
mod upload;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use oci_spec::image::{Descriptor, ImageIndex};

pub use endpoint::Mirror;
pub use name::Name;
pub use refused::{Kind, Refused};
pub use repository::{Blob, Content, Repository};

use super::manifest;
use super::store::Slot;
use super::{Access, Digest, Error, File, Files, Image, JSON_LIMIT, Platform, Verified, Wanted, WantedKind};
use crate::Progress;
use client::{Ask, Http, Trouble};
use download::{Download, Known};
use endpoint::Endpoint;

/// Blobs that are downloaded at a time.
const PARALLEL: usize = 4;
/// Silence that is borne.
const PATIENCE: Duration = Duration::from_secs(30);

/// How registries are reached. Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, and none for this machine: they
/// decide the way of the bytes, and the digest decides the bytes.
#[derive(Debug, Clone)]
pub struct Network {
    /// A file in PEM with authorities that are trusted beside the system's.
    pub tls_ca: Option<PathBuf>,
    /// Whether any certificate will do, and plain http beyond this machine.
    pub insecure: bool,
    /// Who is asked first.
    pub mirrors: Vec<Mirror>,
    /// How long nothing may come before a try is given up; a stream must bring 16 KiB in that time.
    pub patience: Duration,
}

impl Default for Network {
    /// The system's authorities, no mirror, thirty seconds of patience.
    fn default() -> Self {
        Self { tls_ca: None, insecure: false, mirrors: Vec::new(), patience: PATIENCE }
    }
}

/// A repository whose blobs come to the store when they are wanted.
struct Registry {
    name: Name,
    access: Access,
    endpoints: Vec<Endpoint>,
    http: Http,
    /// Blobs that are in use stay open, so that no other process prunes them.
    held: Mutex<Vec<fs::File>>,
}

/// Opens the image `name` for `platform`.
pub(super) fn open(name: &Name, platform: &Platform, access: &Access) -> Result<Image, Error> {
    let registry = Registry::new(name, access, Endpoint::all(name, &access.network))?;
    let (digest, bytes) = registry.root()?;
    let mut image = manifest::open_document(Box::new(registry), &digest, &bytes, &name.to_string(), platform)?;
    image.pin = name.digest.is_none().then(|| name.pinned(&digest));
    Ok(image)
}

impl Registry {
    fn new(name: &Name, access: &Access, endpoints: Vec<Endpoint>) -> Result<Self, Error> {
        let (name, access, http) = (name.clone(), access.clone(), Http::new(access)?);
        Ok(Self { name, access, endpoints, http, held: Mutex::default() })
    }

    /// What the name leads to: a manifest or an index.
    fn root(&self) -> Result<(Digest, Vec<u8>), Error> {
        let known = self.name.digest;
        let what = match (known, &self.name.tag) {
            (Some(digest), _) => format!("manifest {}", digest.short()),
            (None, tag) => format!("manifest `{}`", tag.as_deref().unwrap_or("latest")),
        };
        if let Some(digest) = known
            && let Some(bytes) = self.stored(&digest)?
        {
            return Ok((digest, bytes));
        }
        let path = match known {
            Some(digest) => digest.to_string(),
            None => self.name.tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        let bytes = self.document(&path, Known { digest: known, size: None }, &what)?;
        let digest = Digest::of(&bytes);
        self.access.store.put(&digest, &bytes)?;
        Ok((digest, bytes))
    }

    fn document(&self, reference: &str, known: Known, what: &str) -> Result<Vec<u8>, Error> {
        self.somewhere(what, |endpoint| {
            let ask = Ask { endpoint, path: format!("manifests/{reference}"), what, from: 0 };
            download::document(&self.http, &ask, known)
        })
    }

    /// A document that the registry need not have.
    fn perhaps(&self, path: &str, what: &str) -> Result<Option<Vec<u8>>, Error> {
        let endpoint = self.endpoints.last().filter(|_| !self.access.offline);
        let Some(endpoint) = endpoint else { return Err(self.is_offline(what)) };
        download::persist(download::TRIES, || {
            let ask = Ask { endpoint, path: path.to_owned(), what, from: 0 };
            download::perhaps(&self.http, &ask)
        })
    }

    fn is_offline(&self, what: &str) -> Error {
        let what = format!("{}/{}: {what}", self.name.host, self.name.repository);
        Error::Offline { what, why: "it is not in the store".to_owned() }
    }

    /// A small blob that the store has, whole and verified. What the disk has damaged is thrown away.
    fn stored(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.access.store.get(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = Verified::new(file.take(JSON_LIMIT), *digest, None, String::new()).read_to_end(&mut bytes);
        if read.is_err() {
            self.access.store.discard(digest)?;
        }
        Ok(read.ok().map(|_| bytes))
    }

    /// Brings one blob to the store.
    fn bring(&self, wanted: &Wanted, progress: &dyn Progress) -> Result<(), Error> {
        match wanted.kind {
            WantedKind::Manifest => {
                if self.stored(&wanted.digest)?.is_none() {
                    let known = Known { digest: Some(wanted.digest), size: Some(wanted.size) };
                    let bytes = self.document(&wanted.digest.to_string(), known, &wanted.what)?;
                    self.access.store.put(&wanted.digest, &bytes)?;
                }
                return Ok(());
            }
            WantedKind::Config if self.stored(&wanted.digest)?.is_some() => return Ok(()),
            _ => {}
        }
        let file = match self.access.store.get(&wanted.digest)? {
            Some(file) => file,
            None => self.blob(wanted, progress).map_err(|error| foreign(wanted, error))?,
        };
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(file);
        Ok(())
    }

    fn blob(&self, wanted: &Wanted, progress: &dyn Progress) -> Result<fs::File, Error> {
        let Wanted { digest, size, what, .. } = wanted;
        let tell = |done: u64| progress.transfer(what, done, *size);
        let download = Download { http: &self.http, size: *size, tell: &tell };
        let mut kept = None;
        self.somewhere(what, |endpoint| {
            let mut partial = match kept.take() {
                Some(partial) => partial,
                None => match self.access.store.begin(digest, *size)? {
                    Slot::Finished(file) => return Ok(file),
                    Slot::Partial(partial) => partial,
                },
            };
            let ask = Ask { endpoint, path: format!("blobs/{digest}"), what, from: partial.len() };
            if let Err(trouble) = download.rest(&ask, &mut partial) {
                kept = Some(partial);
                return Err(trouble);
            }
            download.finish(&ask, partial)
        })
    }

    /// Asks the mirrors and then the registry, until one gives what is wanted. The refusal is the registry's own, and
    /// says what became of the mirrors.
    fn somewhere<T>(&self, what: &str, mut attempt: impl FnMut(&Endpoint) -> Result<T, Trouble>) -> Result<T, Error> {
        let mut mirrors = Vec::new();
        for endpoint in self.endpoints.iter().filter(|endpoint| !endpoint.is_down()) {
            if self.access.offline {
                break;
            }
            let tries = if endpoint.mirror { download::MIRROR_TRIES } else { download::TRIES };
            match download::persist(tries, || attempt(endpoint)) {
                Err(error) if endpoint.mirror => {
                    if matches!(&error, Error::Registry(refused) if refused.is_silence()) {
                        endpoint.set_down();
                    }
                    mirrors.push(format!("the mirror did not give it: {error}"));
                }
                Err(Error::Registry(mut refused)) => {
                    refused.hints.extend(mirrors);
                    return Err(Error::Registry(refused));
                }
                other => return other,
            }
        }
        Err(self.is_offline(what))
    }
}

/// A foreign layer that the registry does not have is not fetched from elsewhere.
fn foreign(wanted: &Wanted, error: Error) -> Error {
    match &error {
        Error::Registry(refused) if refused.kind == Kind::MissingBlob => match wanted.kind {
            WantedKind::ForeignLayer => Error::ForeignLayer { what: wanted.what.clone() },
            _ => error,
        },
        _ => error,
    }
}

impl Files for Registry {
    fn open(&self, name: &str) -> Result<Option<File<'_>>, Error> {
        let hex = name.strip_prefix("blobs/sha256/").unwrap_or_default();
        let Some(digest) = Digest::from_hex(hex) else { return Ok(None) };
        let Some(file) = self.access.store.get(&digest)? else { return Ok(None) };
        let size = file.metadata().map_err(|source| Error::Io { what: digest.to_string(), source })?.len();
        Ok(Some(File { bytes: Box::new(file), size }))
    }

    /// Several at a time. After a refusal no further one is begun; that of the first in order is given.
    fn fetch(&self, wanted: &[Wanted], progress: &dyn Progress) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let wanted: Vec<&Wanted> = wanted.iter().filter(|one| seen.insert(one.digest)).collect();
        let total = wanted.iter().fold(0, |total: u64, one| total.saturating_add(one.size));
        if total > self.access.limit {
            return Err(Error::TooLarge { what: self.name.to_string(), limit: self.access.limit });
        }
        let results: Vec<Mutex<Result<(), Error>>> = wanted.iter().map(|_| Mutex::new(Ok(()))).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(one), Some(slot)) = (wanted.get(index), results.get(index)) else { break };
                let result = self.bring(one, progress);
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                if let Ok(mut slot) = slot.lock() {
                    *slot = result;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        results.into_iter().try_for_each(|slot| slot.into_inner().unwrap_or(Ok(())))
    }

    fn fetch_again(&self, wanted: &Wanted, progress: &dyn Progress) -> Result<bool, Error> {
        self.access.store.discard(&wanted.digest)?;
        self.bring(wanted, progress).map(|()| true)
    }

    /// Asks the registry itself: by the API for it, and where it has none, for the tag that stands in for it.
    fn referrers(&self, manifest: &Digest) -> Result<Vec<Descriptor>, Error> {
        let what = format!("what refers to {}", manifest.short());
        for path in [format!("referrers/{manifest}"), format!("manifests/sha256-{}", manifest.hex())] {
            if let Some(bytes) = self.perhaps(&path, &what)? {
                let index: ImageIndex = manifest::json(&bytes, &what)?;
                return Ok(index.manifests().clone());
            }
        }
        Ok(Vec::new())
    }
}
