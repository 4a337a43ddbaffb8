//! Patience with a registry: what is asked again, after which pause, and from which byte on.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, TRANSFER_ENCODING};
use reqwest::{Method, Response, Version};

use super::super::store::Partial;
use super::super::{Digest, JSON_LIMIT};
use super::Error;
use super::client::{Answer, Ask, Flow, Http, Trouble};
use super::refused::{Kind, Refused};
use crate::escaped;

/// The pauses before the second and further tries; together less than four seconds.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// A registry that asks for a longer pause is left alone for good.
const LONGEST: Duration = Duration::from_secs(120);

/// Tries of the registry that the user names.
pub(super) const TRIES: usize = PAUSES.len().saturating_add(1);
/// Tries of a mirror: there are others to ask.
pub(super) const MIRROR_TRIES: usize = 2;

/// Tries until it works, until it is known that it will not, or `tries` times. Wrong bytes are asked for again once.
pub(super) fn persist<T>(tries: usize, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Error> {
    let mut pauses = PAUSES.into_iter().take(tries.saturating_sub(1));
    let mut wrong = false;
    loop {
        let (refused, wait) = match attempt() {
            Ok(value) => return Ok(value),
            Err(Trouble::Wrong(refused)) if wrong => return Err(refused.into()),
            Err(Trouble::Wrong(refused)) => {
                wrong = true;
                (refused, Some(Duration::ZERO))
            }
            Err(Trouble::Passing(refused, wait)) => (refused, wait),
            Err(Trouble::Scheme(refused)) if refused.kind != Kind::Tls => (refused, None),
            Err(trouble) => return Err(trouble.refusal()),
        };
        let Some(pause) = pauses.next() else {
            return Err(Refused { why: format!("{} (tried {tries} times)", refused.why), ..refused }.into());
        };
        let pause = wait.unwrap_or(pause);
        if pause > LONGEST {
            let why = format!("{}; it asks to be left alone for {} s", refused.why, pause.as_secs());
            return Err(Refused { why, ..refused }.into());
        }
        std::thread::sleep(pause);
    }
}

/// What is known of a document before it is had: of a tag's, nothing.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) digest: Option<Digest>,
    /// In bytes.
    pub(super) size: Option<u64>,
}

/// A manifest or an index, whole.
pub(super) fn document(http: &Http, ask: &Ask<'_>, known: Known) -> Result<Vec<u8>, Trouble> {
    let answer = http.get(ask)?;
    bounded(http, ask, answer, known)
}

/// A document that need not be there.
pub(super) fn perhaps(http: &Http, ask: &Ask<'_>) -> Result<Option<Vec<u8>>, Trouble> {
    let answer = http.ask(ask, &Method::GET)?;
    match answer.response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::OK => bounded(http, ask, answer, Known { digest: None, size: None }).map(Some),
        _ => Err(http.status(ask, answer)),
    }
}

fn bounded(http: &Http, ask: &Ask<'_>, answer: Answer, known: Known) -> Result<Vec<u8>, Trouble> {
    let bytes = http.body(ask, answer.response, JSON_LIMIT)?;
    if bytes.len() as u64 > JSON_LIMIT {
        let why = format!("more than {JSON_LIMIT} bytes, the limit");
        return Err(Error::BadManifest { what: format!("{}: {}", ask.endpoint.place(), ask.what), why }.into());
    }
    let got = Digest::of(&bytes);
    if let Some(want) = known.digest.filter(|want| *want != got) {
        return Err(Trouble::Wrong(wrong_digest(ask, &want, &got)));
    }
    if let Some(want) = known.size.filter(|want| *want != bytes.len() as u64) {
        return Err(Trouble::Wrong(wrong_size(ask, &bytes.len().to_string(), want)));
    }
    Ok(bytes)
}

fn wrong_digest(ask: &Ask<'_>, want: &Digest, got: &Digest) -> Refused {
    ask.refused(Kind::Digest, format!("the bytes that came have the digest {got}, expected {want}"))
}

fn wrong_size(ask: &Ask<'_>, got: &str, want: u64) -> Refused {
    let got = escaped(got.chars().take(20).collect::<String>().as_bytes());
    ask.refused(Kind::Size, format!("{got} bytes came, expected {want}"))
}

/// A blob on its way to the store.
pub(super) struct Download<'a> {
    pub(super) http: &'a Http,
    /// From the manifest, in bytes.
    pub(super) size: u64,
    /// Told how many bytes there are.
    pub(super) tell: &'a dyn Fn(u64),
}

impl Download<'_> {
    /// Appends what is missing, in one answer of the registry.
    pub(super) fn rest(&self, ask: &Ask<'_>, partial: &mut Partial) -> Result<(), Trouble> {
        let response = self.http.get(ask)?.response;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => self.check_range(ask, response.headers(), partial)?,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.restart()?;
                let why = format!("HTTP {} for the bytes from {} on", response.status(), ask.from);
                return Err(Trouble::Passing(ask.refused(Kind::Status, why), Some(Duration::ZERO)));
            }
            // It does not know ranges: all of it comes again.
            _ if ask.from > 0 => partial.restart()?,
            _ => {}
        }
        (self.tell)(partial.len());
        self.check_length(ask, &response, partial)?;
        let marked = is_marked(&response);
        let mut flow = Flow::new(self.http, ask, response);
        while let Some(chunk) = flow.next()? {
            let total = partial.len().saturating_add(chunk.as_ref().len() as u64);
            if total > self.size {
                return Err(self.wrong_size(ask, partial, "more")?);
            }
            partial.append(chunk.as_ref())?;
            // The end is told when it has been checked.
            if total < self.size {
                (self.tell)(total);
            }
        }
        if partial.len() == self.size {
            return Ok(());
        }
        if marked {
            return Err(self.wrong_size(ask, partial, &partial.len().to_string())?);
        }
        let why = format!("the connection ended after {} of {} bytes", partial.len(), self.size);
        Err(Trouble::Passing(ask.refused(Kind::Connect, why), None))
    }

    /// The size, the digest, and the name in the store.
    pub(super) fn finish(&self, ask: &Ask<'_>, partial: Partial) -> Result<std::fs::File, Trouble> {
        let file = partial.finish().map_err(|error| match error {
            Error::BlobDigest { want, got, .. } => Trouble::Wrong(wrong_digest(ask, &want, &got)),
            other => other.into(),
        })?;
        (self.tell)(self.size);
        Ok(file)
    }

    /// Whether the bytes that come are those that were asked for: `bytes FIRST-LAST/SIZE`.
    fn check_range(&self, ask: &Ask<'_>, headers: &HeaderMap, partial: &mut Partial) -> Result<(), Trouble> {
        let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let parts = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/'));
        let first = parts.and_then(|(range, _)| range.split_once('-')?.0.trim().parse::<u64>().ok());
        if first != Some(ask.from) {
            partial.restart()?;
            let why = format!("it was asked for the bytes from {} on and gave others", ask.from);
            return Err(Trouble::Wrong(ask.refused(Kind::Size, why)));
        }
        match parts.map(|(_, size)| size.trim()) {
            Some(size) if size != "*" && size.parse() != Ok(self.size) => Err(self.wrong_size(ask, partial, size)?),
            _ => Ok(()),
        }
    }

    /// What the headers say of the length is enough to refuse it.
    fn check_length(&self, ask: &Ask<'_>, response: &Response, partial: &mut Partial) -> Result<(), Trouble> {
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let total = length.map(|length| partial.len().saturating_add(length));
        // A part of a range may be shorter than was asked for.
        let part = response.status() == StatusCode::PARTIAL_CONTENT;
        match total.filter(|total| if part { *total > self.size } else { *total != self.size }) {
            Some(total) => Err(self.wrong_size(ask, partial, &total.to_string())?),
            None => Ok(()),
        }
    }

    /// Drops what has come: nothing says which of the bytes are right.
    fn wrong_size(&self, ask: &Ask<'_>, partial: &mut Partial, got: &str) -> Result<Trouble, Error> {
        partial.restart()?;
        Ok(Trouble::Wrong(wrong_size(ask, got, self.size)))
    }
}

/// Whether the end of the body is marked, so that a cut cannot pass for it.
fn is_marked(response: &Response) -> bool {
    let headers = response.headers();
    response.version() == Version::HTTP_2
        || headers.contains_key(TRANSFER_ENCODING)
        || headers.contains_key(CONTENT_LENGTH)
}
