//! What is put into a registry: blobs that it lacks, each in one piece, and the manifest that names them (distribution
//! specification, "Push": POST then PUT).

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Method, Request, StatusCode, Url};

use super::super::Digest;
use super::client::{Answer, Ask, Http, Trouble};
use super::endpoint::Endpoint;
use super::refused::Kind;
use super::{Content, Error};
use crate::Progress;

/// Bytes of a file that are read at a time.
const CHUNK: usize = 64 << 10;
const BYTES: &str = "application/octet-stream";
/// What registries say of the bytes of a manifest that they have or have taken.
const DIGEST: &str = "docker-content-digest";

/// How much of a body has gone.
#[derive(Clone)]
pub(super) struct Sent {
    bytes: Arc<AtomicU64>,
    size: u64,
}

impl Sent {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_all(&self) -> bool {
        self.bytes() >= self.size
    }
}

/// A file as the parts of a body.
struct Parts {
    file: fs::File,
    sent: Sent,
}

impl Iterator for Parts {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (at, mut part) = (self.sent.bytes(), vec![0; CHUNK]);
        match self.file.read_at(&mut part, at) {
            Ok(0) => None,
            Ok(count) => {
                part.truncate(count);
                self.sent.bytes.fetch_add(count as u64, Ordering::Relaxed);
                Some(Ok(part))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Content<'_> {
    fn size(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File { size, .. } => *size,
        }
    }

    /// A body from the first byte on.
    fn body(&self) -> io::Result<(Body, Sent)> {
        let (size, bytes) = (self.size(), Arc::default());
        let sent = Sent { bytes, size };
        let body = match self {
            Content::Bytes(bytes) => {
                sent.bytes.store(size, Ordering::Relaxed);
                Body::from(bytes.to_vec())
            }
            Content::File { file, .. } => {
                let parts = Parts { file: file.try_clone()?, sent: sent.clone() };
                Body::wrap_stream(futures_util::stream::iter(parts))
            }
        };
        Ok((body, sent))
    }
}

/// Puts things into one repository.
pub(super) struct Upload<'a> {
    pub(super) http: &'a Http,
    pub(super) endpoint: &'a Endpoint,
    /// For messages.
    pub(super) what: &'a str,
    pub(super) progress: &'a dyn Progress,
}

impl Upload<'_> {
    fn ask(&self, path: String) -> Ask<'_> {
        Ask { endpoint: self.endpoint, path, what: self.what, from: 0 }
    }

    /// Puts a blob there that the registry does not have; whether it did not.
    pub(super) fn blob(&self, digest: &Digest, content: &Content<'_>) -> Result<bool, Trouble> {
        let ask = self.ask(format!("blobs/{digest}"));
        if self.head(&ask)?.is_some() {
            return Ok(false);
        }
        let mut place = self.begin()?;
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        let ask = self.ask("blobs/uploads/".to_owned());
        let answer = self.put(&ask, &place, content, BYTES)?;
        if answer.response.status().is_success() { Ok(true) } else { Err(self.http.status(&ask, answer)) }
    }

    /// Puts a manifest there under a tag or its digest, unless it has that name already; whether it had not.
    pub(super) fn manifest(
        &self,
        name: &str,
        digest: &Digest,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<bool, Trouble> {
        let ask = self.ask(format!("manifests/{name}"));
        let there = self.head(&ask)?;
        if there.and_then(|headers| said(&headers)).is_some_and(|there| there == digest.to_string()) {
            return Ok(false);
        }
        let no_url = || Error::from(ask.refused(Kind::Connect, "the name makes no URL"));
        let scheme = *self.endpoint.schemes().first().ok_or_else(no_url)?;
        let place = self.endpoint.url(scheme, &ask.path).ok_or_else(no_url)?;
        let answer = self.put(&ask, &place, &Content::Bytes(bytes), media_type)?;
        if !answer.response.status().is_success() {
            return Err(self.http.status(&ask, answer));
        }
        match said(answer.response.headers()).filter(|said| *said != digest.to_string()) {
            Some(said) => {
                let why =
                    format!("the registry says that it took {}, sent was {digest}", crate::escaped(said.as_bytes()));
                Err(Error::from(ask.refused(Kind::Digest, why)).into())
            }
            None => Ok(true),
        }
    }

    /// What is said of a thing that is there. A redirect leads to where it is.
    fn head(&self, ask: &Ask<'_>) -> Result<Option<HeaderMap>, Trouble> {
        let answer = self.http.ask(ask, &Method::HEAD)?;
        match answer.response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() || status.is_redirection() => Ok(Some(answer.response.headers().clone())),
            _ => Err(self.http.status(ask, answer)),
        }
    }

    /// Where a blob is to go.
    fn begin(&self) -> Result<Url, Trouble> {
        let ask = self.ask("blobs/uploads/".to_owned());
        let answer = self.http.ask(&ask, &Method::POST)?;
        if answer.response.status() != StatusCode::ACCEPTED {
            return Err(self.http.status(&ask, answer));
        }
        let place = answer.response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let nowhere = || Error::from(ask.refused(Kind::Status, "HTTP 202 without a place for the upload"));
        self.http.next(&ask, answer.response.url(), place.ok_or_else(nowhere)?)
    }

    /// Who asks is told to the registry itself and to no other place.
    fn put(&self, ask: &Ask<'_>, place: &Url, content: &Content<'_>, kind: &str) -> Result<Answer, Trouble> {
        let schemes = self.endpoint.schemes();
        let home = schemes
            .iter()
            .filter_map(|scheme| self.endpoint.url(*scheme, ""))
            .any(|url| url.origin() == place.origin());
        self.http.authorized(ask, |authorization| {
            let failed = |source| Error::Io { what: self.what.to_owned(), source };
            let (body, sent) = content.body().map_err(failed)?;
            let mut request = Request::new(Method::PUT, place.clone());
            let headers = request.headers_mut();
            headers.insert(CONTENT_LENGTH, HeaderValue::from(content.size()));
            headers.extend(HeaderValue::from_str(kind).ok().map(|kind| (CONTENT_TYPE, kind)));
            headers.extend(authorization.filter(|_| home).map(|value| (AUTHORIZATION, value.clone())));
            *request.body_mut() = Some(body);
            let response = self.http.pour(ask, request, &sent, &|bytes| self.progress.advance(bytes))?;
            Ok(Answer { response, home })
        })
    }
}

fn said(headers: &HeaderMap) -> Option<String> {
    headers.get(DIGEST)?.to_str().ok().map(str::to_owned)
}
