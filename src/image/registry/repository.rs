//! A repository for what is no container image: its manifest and blobs as they are, in both directions.

use std::fs;
use std::io::Read;

use super::client::{Ask, Trouble};
use super::download::{self, Known};
use super::endpoint::Endpoint;
use super::upload::Upload;
use super::{Access, Digest, Error, Files, Name, Registry, Verified, Wanted, WantedKind};
use crate::Progress;
use crate::image::manifest;

/// A repository of a registry, under one name.
pub struct Repository(Registry);

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// For messages.
    pub what: String,
}

/// The bytes of a blob that is pushed.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Few.
    Bytes(&'a [u8]),
    /// All of a file.
    File {
        /// Open for reading; where it stands does not matter.
        file: &'a fs::File,
        /// Its bytes.
        size: u64,
    },
}

impl Repository {
    /// The place to pull from: mirrors first, as for images.
    ///
    /// # Errors
    /// [`Error::Io`] when no threads can be had.
    pub fn to_pull(name: &Name, access: &Access) -> Result<Self, Error> {
        Registry::new(name, access, Endpoint::all(name, &access.network)).map(Self)
    }

    /// The place to push to: the registry itself, and no mirror.
    ///
    /// # Errors
    /// [`Error::Io`] when no threads can be had.
    pub fn to_push(name: &Name, access: &Access) -> Result<Self, Error> {
        Registry::new(name, access, vec![Endpoint::to_push(name, &access.network)]).map(Self)
    }

    /// What the name leads to.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::BadManifest`] for one that is too large, [`Error::Store`].
    pub fn manifest(&self) -> Result<(Digest, Vec<u8>), Error> {
        self.0.root()
    }

    /// Sees to it that the store has these blobs.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::TooLarge`], [`Error::Store`].
    pub fn fetch(&self, blobs: &[Blob], progress: &dyn Progress) -> Result<(), Error> {
        self.0.fetch(&blobs.iter().map(wanted).collect::<Vec<_>>(), progress)
    }

    /// The same for one whose bytes were found damaged.
    ///
    /// # Errors
    /// As [`Repository::fetch`].
    pub fn fetch_again(&self, blob: &Blob, progress: &dyn Progress) -> Result<(), Error> {
        self.0.fetch_again(&wanted(blob), progress).map(drop)
    }

    /// A blob that was fetched; the reader fails at the end unless size and digest are right.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::Store`].
    pub fn open(&self, blob: &Blob) -> Result<impl Read + '_, Error> {
        let file = self.0.open(&manifest::blob_name(&blob.digest))?;
        let file = file.ok_or_else(|| Error::MissingBlob { what: blob.what.clone() })?;
        Ok(Verified::new(file.bytes, blob.digest, Some(blob.size), blob.what.clone()))
    }

    /// Puts a blob there, in one piece; `false` when it was there. Nothing names it yet.
    ///
    /// # Errors
    /// [`Error::Registry`]; [`Error::Io`] when the file cannot be read.
    pub fn push_blob(&self, blob: &Blob, content: &Content<'_>, progress: &dyn Progress) -> Result<bool, Error> {
        progress.stage("push", Some(blob.size));
        self.push(&blob.what, progress, |upload| upload.blob(&blob.digest, content))
    }

    /// Puts a manifest there under the tag of the name, or under its digest, and reads it back; `false` when the name
    /// led to it already. All blobs that it names must be there.
    ///
    /// # Errors
    /// [`Error::Registry`], also when other bytes come back.
    pub fn push_manifest(&self, bytes: &[u8], media_type: &str, progress: &dyn Progress) -> Result<bool, Error> {
        let digest = Digest::of(bytes);
        let name = self.0.name.tag.clone().unwrap_or_else(|| digest.to_string());
        let what = format!("manifest `{name}`");
        let new = self.push(&what, progress, |upload| upload.manifest(&name, &digest, bytes, media_type))?;
        let known = Known { digest: Some(digest), size: Some(bytes.len() as u64) };
        self.push(&what, progress, |upload| {
            let ask = Ask { endpoint: upload.endpoint, path: format!("manifests/{name}"), what: &what, from: 0 };
            download::document(upload.http, &ask, known)
        })?;
        Ok(new)
    }

    fn push<T>(
        &self,
        what: &str,
        progress: &dyn Progress,
        attempt: impl Fn(&Upload<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Error> {
        let endpoint = self.0.endpoints.last().filter(|_| !self.0.access.offline);
        let Some(endpoint) = endpoint else {
            let what = format!("{}/{}: {what}", self.0.name.host, self.0.name.repository);
            return Err(Error::Offline { what, why: "nothing is pushed without the network".to_owned() });
        };
        let upload = Upload { http: &self.0.http, endpoint, what, progress };
        download::persist(download::TRIES, || attempt(&upload))
    }
}

fn wanted(blob: &Blob) -> Wanted {
    Wanted { digest: blob.digest, size: blob.size, kind: WantedKind::Layer, what: blob.what.clone() }
}
