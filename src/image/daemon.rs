//! Images out of a Docker engine, over its API: no `docker` program is asked.
//!
//! The engine is asked for the image's ID and then for the image of that ID as `docker save` writes it, and what comes
//! must be that image: by the digest of its config, or of its manifest where the engine keeps that (containerd's store).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url, redirect};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::archive::{self, Archive};
use super::causes::{causes, innermost, tls};
use super::manifest::{is_index, words};
use super::reference::without_login;
use super::{Access, Digest, Error, Image, JSON_LIMIT, Platform};

/// Where the engine listens when nobody says otherwise.
const SOCKET: &str = "/var/run/docker.sock";
/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the engine may think about a small answer. The image itself may take as long as it takes: engines write it
/// to their disk before the first byte comes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How the engine ends an image when it fails in the middle of it.
const FAILED: &[u8] = br#"{"errorDetail":"#;

/// Which engine, as `docker` is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engine {
    /// `unix:///PATH` or `tcp://HOST:PORT` (DOCKER_HOST); `unix:///var/run/docker.sock` when there is none.
    pub host: Option<String>,
    /// The folder with ca.pem, cert.pem and key.pem (DOCKER_CERT_PATH) when tcp is to be in TLS.
    pub certificates: Option<PathBuf>,
}

/// Where the engine listens.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    Net(Url),
}

/// What the engine says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    id: String,
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    /// Of the manifest or index, where the engine keeps them.
    #[serde(default)]
    descriptor: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
}

/// Opens the image that the engine knows by `name`: `NAME[:TAG]`, `NAME@DIGEST` or `sha256:ID`.
pub(super) fn open(name: &str, platform: &Platform, access: &Access) -> Result<Image, Error> {
    let connection = Connection::new(&access.engine, access.offline)?;
    let id = connection.find(name, platform)?;
    let mut body = connection.save(name, &id)?;
    let label = format!("docker-daemon:{name}");
    let archive = Archive::spool(&mut body, label, &access.scratch, access.limit)?;
    archive::open_docker_id(archive, &id, platform)
}

impl Engine {
    /// The socket where it listens; `None` when it is asked over the net.
    ///
    /// # Errors
    /// [`Error::EngineHost`].
    pub fn socket(&self) -> Result<Option<PathBuf>, Error> {
        Ok(match self.place()? {
            Place::Socket(path) => Some(path),
            Place::Net(_) => None,
        })
    }

    fn place(&self) -> Result<Place, Error> {
        let Some(host) = &self.host else { return Ok(Place::Socket(SOCKET.into())) };
        let refuse = |why: &str| Error::EngineHost { host: without_login(host), why: why.to_owned() };
        let (scheme, rest) = host.split_once("://").ok_or_else(|| refuse("it is no URL"))?;
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Place::Socket(rest.into())),
            "unix" => Err(refuse("the path of the socket is not absolute")),
            "tcp" | "http" => {
                let (scheme, port) = if self.certificates.is_some() { ("https", 2376) } else { ("http", 2375) };
                let url = Url::parse(&format!("{scheme}://{rest}")).ok();
                let plain = |url: &Url| url.path() == "/" && url.has_host() && !rest.contains(['@', '?', '#']);
                let mut url = url.filter(plain).ok_or_else(|| refuse("it is not of the form tcp://HOST:PORT"))?;
                // Brackets hold the colons of IPv6; a port that is http's own is not in `url`.
                if !rest.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
                    let _ = url.set_port(Some(port));
                }
                Ok(Place::Net(url))
            }
            "ssh" => Err(refuse("an engine behind ssh cannot be asked directly")),
            other => Err(refuse(&format!("`{other}` is no way to an engine that is known here"))),
        }
    }

    /// Trusts the engine's own authority alone, and no one where there is no TLS.
    fn tls(&self, place: &Place) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refuse = |error: rustls::Error| Error::EngineHost {
            host: self.host.as_deref().map(without_login).unwrap_or_default(),
            why: format!("TLS cannot be set up: {error}"),
        };
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(refuse)?;
        let mut roots = rustls::RootCertStore::empty();
        let Some(folder) = self.certificates.as_ref().filter(|_| place.is_net()) else {
            return Ok(config.with_root_certificates(roots).with_no_client_auth());
        };
        for root in certificates(&folder.join("ca.pem"))? {
            roots.add(root).map_err(refuse)?;
        }
        let config = config.with_root_certificates(roots);
        let (chain, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        if !key.exists() {
            return Ok(config.with_no_client_auth());
        }
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
        config.with_client_auth_cert(certificates(&chain)?, secret).map_err(refuse)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &rustls::pki_types::pem::Error) -> Error {
    Error::Io { what: path.display().to_string(), source: io::Error::other(error.to_string()) }
}

/// A client of one engine.
struct Connection {
    runtime: Runtime,
    client: Client,
    base: Url,
    place: Place,
}

impl Connection {
    fn new(engine: &Engine, offline: bool) -> Result<Self, Error> {
        let place = engine.place()?;
        let builder = Client::builder().tls_backend_preconfigured(engine.tls(&place)?);
        let builder = builder.no_proxy().redirect(redirect::Policy::none()).http1_only().connect_timeout(CONNECT);
        let (builder, base) = match &place {
            Place::Socket(path) => (builder.unix_socket(path.as_path()), Url::parse("http://localhost/").ok()),
            Place::Net(url) if offline => {
                return Err(Error::Offline { what: url.to_string(), why: "the engine is behind a network".to_owned() });
            }
            Place::Net(url) => (builder, Some(url.clone())),
        };
        let failed = |why: String| Error::Engine { place: place.to_string(), why, help: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let client = builder.build().map_err(|error| failed(innermost(&error)))?;
        let base = base.ok_or_else(|| failed("its address is no URL".to_owned()))?;
        Ok(Self { runtime, client, base, place })
    }

    /// The image's ID, if it can be for the platform.
    fn find(&self, name: &str, platform: &Platform) -> Result<Digest, Error> {
        let response = self.get(name, &format!("images/{name}/json"), None, Some(PATIENCE))?;
        let strange = |why: String| self.failed(format!("its description of `{name}` cannot be read: {why}"));
        let mut bytes = Vec::new();
        let body = Body::new(self, response);
        body.take(JSON_LIMIT).read_to_end(&mut bytes).map_err(|error| Error::from_io(error, name))?;
        let described: Described = serde_json::from_slice(&bytes).map_err(|error| strange(error.to_string()))?;
        let (os, arch, variant) = (&described.os, &described.architecture, described.variant.as_deref());
        // An index has more platforms than the one that the engine would run.
        let index = described.descriptor.is_some_and(|descriptor| is_index(&descriptor.media_type));
        if !index && !platform.matches(os, arch, variant) {
            let available = words(os, arch, variant);
            let what = format!("docker-daemon:{name}");
            return Err(Error::NoPlatform { what, wanted: platform.to_string(), available });
        }
        described.id.parse().map_err(|error: Error| strange(error.to_string()))
    }

    /// The image as `docker save` writes it.
    fn save(&self, name: &str, id: &Digest) -> Result<Body<'_>, Error> {
        Ok(Body::new(self, self.get(name, "images/get", Some(&format!("names={id}")), None)?))
    }

    /// An answer of the API (Docker Engine API; `/images/…` is the same in every version).
    fn get(&self, name: &str, path: &str, query: Option<&str>, timeout: Option<Duration>) -> Result<Response, Error> {
        let mut url = self.base.clone();
        url.set_path(path);
        url.set_query(query);
        let mut request = self.client.get(url);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let response =
            self.runtime.block_on(async { request.send().await }).map_err(|error| self.unreachable(&error))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::NotInEngine { place: self.place.to_string(), name: name.to_owned() }),
            status => Err(self.refused(status, response)),
        }
    }

    /// The engine's own words.
    fn refused(&self, status: StatusCode, response: Response) -> Error {
        let mut bytes = Vec::new();
        let _ = Body::new(self, response).take(16 << 10).read_to_end(&mut bytes);
        let message = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let message = message.as_ref().and_then(|message| message.get("message")?.as_str());
        let words = message.map_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned(), str::to_owned);
        self.failed(format!("it answered {}: {words}", status.as_u16()))
    }

    fn failed(&self, why: String) -> Error {
        Error::Engine { place: self.place.to_string(), why, help: None }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let place = self.place.to_string();
        let start = "start it, or set DOCKER_HOST; `docker context inspect` tells where an engine listens".to_owned();
        let (why, help) = match (&self.place, io_kind(error)) {
            (Place::Socket(_), Some(io::ErrorKind::NotFound)) => ("there is no such socket".to_owned(), Some(start)),
            (_, Some(io::ErrorKind::ConnectionRefused)) => ("nothing listens there".to_owned(), Some(start)),
            (Place::Socket(path), Some(io::ErrorKind::PermissionDenied)) => {
                let group = group(path).unwrap_or_else(|| "another".to_owned());
                let help = format!("become a member of the group {group} (as good as root here), or run as its owner");
                (format!("permission denied; the socket is for the group {group}"), Some(help))
            }
            _ if tls(error).is_some() => {
                let help = "check ca.pem, cert.pem and key.pem in the folder of DOCKER_CERT_PATH".to_owned();
                (format!("no trust in TLS: {}", innermost(error)), Some(help))
            }
            _ if error.is_timeout() => ("it does not answer".to_owned(), None),
            _ if error.is_connect() => (innermost(error), Some(start)),
            _ => (format!("the connection was cut: {}", innermost(error)), None),
        };
        Error::Engine { place, why, help }
    }
}

impl Place {
    fn is_net(&self) -> bool {
        matches!(self, Place::Net(_))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Socket(path) => write!(f, "{}", path.display()),
            Place::Net(url) => {
                write!(f, "{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0))
            }
        }
    }
}

/// The operating system's part of an error.
fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last().map(io::Error::kind)
}

/// The name of the group that a socket belongs to, or its number.
fn group(socket: &Path) -> Option<String> {
    let id = fs::metadata(socket).ok()?.gid().to_string();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    Some(name.unwrap_or(id))
}

/// The body of an answer as it comes.
struct Body<'a> {
    connection: &'a Connection,
    response: Response,
    chunk: Cursor<Vec<u8>>,
    seen: u64,
}

impl<'a> Body<'a> {
    fn new(connection: &'a Connection, response: Response) -> Self {
        Self { connection, response, chunk: Cursor::default(), seen: 0 }
    }

    /// The engine can say that it failed only where the archive's next bytes should be.
    fn ended(&self) -> Result<(), Error> {
        let Some(last) = Some(self.chunk.get_ref()).filter(|last| last.starts_with(FAILED)) else { return Ok(()) };
        let message = serde_json::from_slice::<serde_json::Value>(last).ok();
        let message = message.as_ref().and_then(|message| message.get("error")?.as_str()).unwrap_or("no reason given");
        Err(self.connection.failed(format!("it failed after {} bytes: {message}", self.seen)))
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.chunk.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let next = self.connection.runtime.block_on(async { self.response.chunk().await });
            match next.map_err(|error| self.connection.unreachable(&error))? {
                Some(next) => {
                    self.seen = self.seen.saturating_add(next.len() as u64);
                    self.chunk = Cursor::new(next.into());
                }
                None => return self.ended().map(|()| 0).map_err(io::Error::from),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    fn place(host: &str) -> Result<Place, Error> {
        Engine { host: Some(host.to_owned()), certificates: None }.place()
    }

    #[test]
    fn docker_host_is_a_socket_or_an_address() {
        assert_eq!(Engine::default().place().unwrap().to_string(), "/var/run/docker.sock");
        assert_eq!(place("unix:///run/user/1000/docker.sock").unwrap().to_string(), "/run/user/1000/docker.sock");
        for (host, shown) in [
            ("tcp://127.0.0.1:2375", "127.0.0.1:2375"),
            ("tcp://engine", "engine:2375"),
            ("tcp://engine:80", "engine:80"),
            ("http://[::1]:1/", "[::1]:1"),
        ] {
            assert_eq!(place(host).unwrap().to_string(), shown, "{host}");
        }
        let tls = Engine { host: Some("tcp://engine".into()), certificates: Some("/nowhere".into()) };
        assert_eq!(tls.place().unwrap().to_string(), "engine:2376");
        assert_eq!(tls.tls(&tls.place().unwrap()).unwrap_err().code(), "E-io");
        let socket = Engine { host: None, ..tls };
        assert!(socket.tls(&socket.place().unwrap()).is_ok(), "a socket needs no certificates");
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_name() {
        for bad in [
            "",
            "engine",
            "unix://docker.sock",
            "tcp://",
            "tcp://engine/path",
            "tcp://me:s3cret@engine",
            "ssh://me@engine",
            "npipe:////./x",
        ] {
            let error = place(bad).unwrap_err();
            assert_eq!(error.code(), "E-docker-host", "{bad}");
            assert!(error.to_string().starts_with("DOCKER_HOST"), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        assert!(place("ssh://me@engine").unwrap_err().help().concat().contains("ssh -nNT -L"));
    }

    #[test]
    fn an_engine_behind_a_network_is_not_asked_offline() {
        let engine = Engine { host: Some("tcp://127.0.0.1:1".into()), certificates: None };
        assert_eq!(Connection::new(&engine, true).err().unwrap().code(), "E-offline");
        assert!(Connection::new(&Engine::default(), true).is_ok());
    }
}
