//! One question to a registry: the connection, redirects, the proof of who asks, and what the answer means.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode, Url, redirect};
use tokio::runtime::Runtime;

use super::super::causes::{innermost, tls};
use super::super::{Access, Credentials, Error};
use super::endpoint::{Endpoint, Scheme, is_loopback};
use super::refused::{Kind, Refused, said};
use super::upload::Sent;
use super::{Network, after, auth};
use crate::escaped;

/// Redirects that are followed for one answer.
const HOPS: usize = 5;
/// How long a connection may take to be made, at most.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of a body that says what is wrong.
const WORDS_LIMIT: u64 = 16 << 10;
/// Bytes that must come in each stretch of waiting as long as the patience, so that drops do not pass for a stream.
const LEAST: u64 = 16 << 10;
/// Pause between two looks whether a body goes on.
const LOOK: Duration = Duration::from_millis(100);
/// So many times the patience may pass between the last byte of a body and the answer.
const PONDERING: u32 = 10;
/// The forms of manifests that are understood (image-spec, Docker's manifest v2 schema 2).
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why a question has no answer, as far as asking again is concerned.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may pass, at the latest after the pause that the registry asks for.
    Passing(Refused, Option<Duration>),
    /// The bytes are wrong. Once, that may have happened on the way.
    Wrong(Refused),
    /// The other side does not speak this scheme.
    Scheme(Refused),
    /// It will not change.
    Final(Error),
}

impl Trouble {
    /// What it comes to when nothing more is tried.
    pub(super) fn refusal(self) -> Error {
        match self {
            Trouble::Passing(refused, _) | Trouble::Wrong(refused) | Trouble::Scheme(refused) => refused.into(),
            Trouble::Final(error) => error,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Final(error)
    }
}

/// A question about a repository.
pub(super) struct Ask<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// Behind the repository: `blobs/sha256:…`.
    pub(super) path: String,
    /// For messages.
    pub(super) what: &'a str,
    /// The first byte that is wanted.
    pub(super) from: u64,
}

impl Ask<'_> {
    /// A refusal of this question.
    pub(super) fn refused(&self, kind: Kind, why: impl Into<String>) -> Refused {
        let (place, what) = (self.endpoint.place(), self.what.to_owned());
        Refused { kind, place, what, why: why.into(), hints: Vec::new() }
    }

    fn headers(&self, method: &Method) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if *method == Method::POST {
            // Some proxies refuse one without it.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if self.path.starts_with("manifests/") {
            headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
        }
        if self.from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.from))
        {
            headers.insert(RANGE, range);
        }
        headers
    }
}

/// An answer, and whether it is that of the host that was asked and not of one that it redirected to.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) home: bool,
}

/// Sends requests. The clients of the different kinds of connections are made when they are needed.
pub(super) struct Http {
    pub(super) network: Network,
    pub(super) credentials: Credentials,
    runtime: Runtime,
    clients: Mutex<BTreeMap<Kinds, Client>>,
}

/// What clients differ in: whether a connection is by TLS, whether it stays on this machine, and whether the body of a
/// request may take longer than the patience.
type Kinds = (bool, bool, bool);

impl Http {
    pub(super) fn new(access: &Access) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { what: "starting threads".to_owned(), source })?;
        let (network, credentials) = (access.network.clone(), access.credentials.clone());
        Ok(Self { network, credentials, runtime, clients: Mutex::default() })
    }

    /// The answer to `ask`, if it is the one that was hoped for (or says that the range is wrong).
    pub(super) fn get(&self, ask: &Ask<'_>) -> Result<Answer, Trouble> {
        let answer = self.ask(ask, &Method::GET)?;
        self.judge(ask, answer)
    }

    /// The answer to a question without a body, whatever it says.
    pub(super) fn ask(&self, ask: &Ask<'_>, method: &Method) -> Result<Answer, Trouble> {
        self.authorized(ask, |authorization| self.ask_home(ask, method, authorization))
    }

    /// The answer to what `send` sends; it is sent once more when the registry demands to know who asks.
    pub(super) fn authorized(
        &self,
        ask: &Ask<'_>,
        send: impl Fn(Option<&HeaderValue>) -> Result<Answer, Trouble>,
    ) -> Result<Answer, Trouble> {
        let authorization = auth::current(ask.endpoint);
        let answer = send(authorization.as_ref())?;
        if answer.response.status() != StatusCode::UNAUTHORIZED || !answer.home {
            return Ok(answer);
        }
        auth::renew(self, ask, &answer.response, authorization)?;
        send(auth::current(ask.endpoint).as_ref())
    }

    /// By the scheme that serves, which the first question finds out.
    fn ask_home(&self, ask: &Ask<'_>, method: &Method, authorization: Option<&HeaderValue>) -> Result<Answer, Trouble> {
        let schemes = ask.endpoint.schemes();
        let mut first = None;
        for (index, scheme) in schemes.iter().enumerate() {
            let no_url = || Trouble::from(Error::from(ask.refused(Kind::Connect, "the name makes no URL")));
            let url = ask.endpoint.url(*scheme, &ask.path).ok_or_else(no_url)?;
            let last = index.saturating_add(1) >= schemes.len();
            match self.travel(ask, method, url, ask.headers(method), authorization) {
                // A TLS server says so to whoever speaks HTTP to it.
                Ok(answer)
                    if answer.response.status() == StatusCode::BAD_REQUEST && *scheme == Scheme::Http && !last =>
                {
                    first.get_or_insert(self.status(ask, answer));
                }
                Ok(answer) => {
                    ask.endpoint.choose(*scheme);
                    return Ok(answer);
                }
                Err(trouble @ Trouble::Scheme(_)) => {
                    first.get_or_insert(trouble);
                }
                Err(trouble) if first.is_some() && !matches!(trouble, Trouble::Final(_)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Err(first.unwrap_or_else(|| Error::from(ask.refused(Kind::Connect, "no scheme to ask by")).into()))
    }

    /// Follows redirects of GET. Who asks is told to the first host alone.
    pub(super) fn travel(
        &self,
        ask: &Ask<'_>,
        method: &Method,
        start: Url,
        mut headers: HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Trouble> {
        let origin = start.origin();
        let mut url = start;
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        for _ in 0..=HOPS {
            let home = url.origin() == origin;
            if !home {
                headers.remove(AUTHORIZATION);
            }
            let mut request = Request::new(method.clone(), url.clone());
            request.headers_mut().clone_from(&headers);
            let response = self.send(ask, request)?;
            match location(&response).filter(|_| *method == Method::GET) {
                Some(place) => url = self.next(ask, &url, &place)?,
                None => return Ok(Answer { response, home }),
            }
        }
        Err(Error::from(ask.refused(Kind::Status, format!("more than {HOPS} redirects"))).into())
    }

    /// Where a redirect may lead: never from https to http, and to http only where a connection may be plain.
    pub(super) fn next(&self, ask: &Ask<'_>, from: &Url, place: &str) -> Result<Url, Trouble> {
        let refuse = |why: String| Trouble::from(Error::from(ask.refused(Kind::Status, why)));
        let mut url = from.join(place).map_err(|_| refuse("a redirect to what is no URL".to_owned()))?;
        let host = escaped(url.host_str().unwrap_or_default().as_bytes());
        if from.scheme() == "https" && url.scheme() != "https" {
            return Err(refuse(format!("a redirect from https to {}://{host}", url.scheme())));
        }
        if !self.permits(&url) {
            let way = if url.scheme() == "http" { ", which --insecure would permit" } else { "" };
            return Err(refuse(format!("a redirect to {}://{host}{way}", url.scheme())));
        }
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        Ok(url)
    }

    /// Whether a connection may be made this way.
    pub(super) fn permits(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.network.insecure || is_loopback(url),
            _ => false,
        }
    }

    /// One request, one answer.
    pub(super) fn send(&self, ask: &Ask<'_>, request: Request) -> Result<Response, Trouble> {
        let client = self.client(ask, request.url(), false)?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        // The block is entered in the runtime, where the timeouts must be made.
        self.runtime.block_on(async { client.execute(request).await }).map_err(|error| transport(ask, &host, &error))
    }

    /// The same with a body that may take as long as it goes on; `tell` hears of each part that has gone.
    pub(super) fn pour(
        &self,
        ask: &Ask<'_>,
        request: Request,
        sent: &Sent,
        tell: &dyn Fn(u64),
    ) -> Result<Response, Trouble> {
        let client = self.client(ask, request.url(), true)?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        let (mut before, mut silent) = (0, Duration::ZERO);
        self.runtime.block_on(async {
            let mut answer = pin!(client.execute(request));
            loop {
                if let Ok(answer) = tokio::time::timeout(LOOK, &mut answer).await {
                    tell(sent.bytes().saturating_sub(before));
                    return answer.map_err(|error| transport(ask, &host, &error));
                }
                let now = sent.bytes();
                tell(now.saturating_sub(before));
                silent = if now > before { Duration::ZERO } else { silent.saturating_add(LOOK) };
                before = now;
                // A registry that has all of it may have to move it to its storage.
                let factor = if sent.is_all() { PONDERING } else { 1 };
                if silent >= self.network.patience.saturating_mul(factor) {
                    let why = format!("nothing was taken for {} s, {now} bytes were sent", silent.as_secs());
                    return Err(Trouble::Passing(ask.refused(Kind::Timeout, why), None));
                }
            }
        })
    }

    fn client(&self, ask: &Ask<'_>, url: &Url, slow: bool) -> Result<Client, Trouble> {
        if !self.permits(url) {
            let why = format!("plain http is for this machine alone ({})", url.origin().ascii_serialization());
            return Err(Error::from(ask.refused(Kind::Tls, why)).into());
        }
        let kind = (url.scheme() == "https", is_loopback(url), slow);
        let mut clients = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let client = self.build(kind).map_err(|why| Error::from(ask.refused(Kind::Tls, why)))?;
        clients.insert(kind, client.clone());
        Ok(client)
    }

    fn build(&self, (secure, loopback, slow): Kinds) -> Result<Client, String> {
        // Whoever was first has chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let patience = self.network.patience;
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(patience.min(CONNECT))
            .user_agent(concat!("eif/", env!("CARGO_PKG_VERSION")))
            // A client for plain http needs no authorities, which this machine may lack.
            .tls_danger_accept_invalid_certs(self.network.insecure || !secure);
        if !slow {
            builder = builder.read_timeout(patience);
        }
        if loopback {
            builder = builder.no_proxy();
        }
        if let Some(path) = self.network.tls_ca.as_deref().filter(|_| secure) {
            let failed = |why: String| format!("--tls-ca {}: {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(innermost(&error)))?;
            if certificates.is_empty() {
                return Err(failed("no certificate in PEM is in it".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map_err(|error| innermost(&error))
    }

    fn judge(&self, ask: &Ask<'_>, answer: Answer) -> Result<Answer, Trouble> {
        match answer.response.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if ask.from > 0 => Ok(answer),
            _ => Err(self.status(ask, answer)),
        }
    }

    /// What an answer means that is not the one that was hoped for.
    pub(super) fn status(&self, ask: &Ask<'_>, answer: Answer) -> Trouble {
        let status = answer.response.status();
        let wait = answer.response.headers().get(RETRY_AFTER).and_then(after::pause);
        let host = answer.response.url().host_str().map(|host| escaped(host.as_bytes())).unwrap_or_default();
        let body = self.body(ask, answer.response, WORDS_LIMIT).unwrap_or_default();
        let said = said(&body, &auth::secrets(ask.endpoint)).map(|words| format!(": {words}"));
        let from = if answer.home { String::new() } else { format!("redirected to {host}: ") };
        let why = format!("{from}HTTP {status}{}", said.unwrap_or_default());
        let blob = ask.path.starts_with("blobs/sha256:");
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Trouble::Passing(ask.refused(Kind::Status, why), wait),
            // A signed URL of a storage that has expired: the registry gives another.
            400 | 401 | 403 | 404 | 410 if !answer.home => Trouble::Passing(ask.refused(Kind::Status, why), wait),
            401 | 403 => {
                let hints = auth::tried(ask.endpoint);
                Error::from(Refused { hints, ..ask.refused(Kind::Auth, why) }).into()
            }
            404 if blob => Error::from(ask.refused(Kind::MissingBlob, why)).into(),
            _ => Error::from(ask.refused(Kind::Status, why)).into(),
        }
    }

    /// A body of at most `limit` bytes, or what there is of it up to one byte more.
    pub(super) fn body(&self, ask: &Ask<'_>, response: Response, limit: u64) -> Result<Vec<u8>, Trouble> {
        let mut flow = Flow::new(self, ask, response);
        let mut bytes = Vec::new();
        while let Some(chunk) = flow.next()? {
            let left = limit.saturating_add(1).saturating_sub(bytes.len() as u64);
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.as_ref().len());
            bytes.extend_from_slice(chunk.as_ref().get(..most).unwrap_or_default());
            if bytes.len() as u64 > limit {
                break;
            }
        }
        Ok(bytes)
    }
}

/// The bytes of an answer, as long as they come fast enough.
pub(super) struct Flow<'a> {
    http: &'a Http,
    ask: &'a Ask<'a>,
    response: Response,
    /// What was waited for since the last look at the pace, and what has come of it.
    waited: Duration,
    came: u64,
}

impl<'a> Flow<'a> {
    pub(super) fn new(http: &'a Http, ask: &'a Ask<'a>, response: Response) -> Self {
        Self { http, ask, response, waited: Duration::ZERO, came: 0 }
    }

    /// The next bytes; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, Trouble> {
        let since = Instant::now();
        let host = self.response.url().host_str().unwrap_or_default().to_owned();
        let chunk = self.http.runtime.block_on(async { self.response.chunk().await });
        let chunk = chunk.map_err(|error| transport(self.ask, &host, &error))?;
        self.waited = self.waited.saturating_add(since.elapsed());
        self.came = self.came.saturating_add(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
        if self.waited < self.http.network.patience {
            return Ok(chunk);
        }
        if self.came < LEAST && chunk.is_some() {
            let why = format!("{} bytes came in {} s", self.came, self.waited.as_secs());
            return Err(Trouble::Passing(self.ask.refused(Kind::Timeout, why), None));
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(chunk)
    }
}

/// The place that a redirect names.
fn location(response: &Response) -> Option<String> {
    let redirects = [301, 302, 303, 307, 308].contains(&response.status().as_u16());
    let place = response.headers().get(LOCATION).filter(|_| redirects)?;
    place.to_str().ok().map(str::to_owned)
}

/// What the failure of a connection means.
fn transport(ask: &Ask<'_>, host: &str, error: &reqwest::Error) -> Trouble {
    let host = escaped(host.as_bytes());
    let at = |why: String| if ask.endpoint.host.starts_with(&host) { why } else { format!("{host}: {why}") };
    match tls(error) {
        Some(rustls::Error::InvalidMessage(_)) => {
            return Trouble::Scheme(ask.refused(Kind::Tls, at("the other side does not speak TLS".to_owned())));
        }
        Some(fault) => return Error::from(ask.refused(Kind::Tls, at(format!("TLS: {fault}")))).into(),
        None => {}
    }
    if error.is_timeout() {
        return Trouble::Passing(ask.refused(Kind::Timeout, at("no answer in time".to_owned())), None);
    }
    let refused = ask.refused(Kind::Connect, at(innermost(error)));
    // A server for TLS hangs up on plain http, and the other way round. Nothing else is known of the first answer.
    if error.is_request() { Trouble::Scheme(refused) } else { Trouble::Passing(refused, None) }
}
