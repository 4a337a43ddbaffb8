//! Where a repository may be asked: at its mirrors, then at the registry itself.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use reqwest::Url;

use super::super::Error;
use super::super::reference::without_login;
use super::auth::Session;
use super::{Name, Network};

/// Docker Hub in names, and the host that serves its images.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A place that has copies of a registry's images: `HOST=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry, as it stands in names.
    of: String,
    /// Scheme and host; a path goes before the repository.
    base: Url,
}

impl FromStr for Mirror {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Reference { text: without_login(text), why: why.to_owned() };
        let (of, url) = text.split_once('=').ok_or_else(|| refuse("a mirror is HOST=URL"))?;
        let base: Url = url.parse().map_err(|_| refuse("what stands behind `=` is no URL"))?;
        let plain = base.query().is_none() && base.fragment().is_none();
        let nobody = base.username().is_empty() && base.password().is_none();
        if !["http", "https"].contains(&base.scheme()) || !base.has_host() || !plain || !nobody {
            return Err(refuse("a mirror's URL is https://HOST[:PORT][/PREFIX]"));
        }
        let of = if of == "index.docker.io" { HUB.0 } else { of };
        Ok(Self { of: of.to_owned(), base })
    }
}

/// How a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// One registry with one repository in it.
pub(super) struct Endpoint {
    /// What the user calls the registry: for messages, and to find a login.
    pub(super) host: String,
    /// The repository there.
    pub(super) repository: String,
    /// Whether the user named only the registry that this stands in for.
    pub(super) mirror: bool,
    /// Whether something is to be put there.
    pub(super) push: bool,
    /// The proof of who asks, once it has been demanded.
    pub(super) session: Mutex<Session>,
    authority: String,
    schemes: &'static [Scheme],
    chosen: OnceLock<Scheme>,
    down: AtomicBool,
}

impl Endpoint {
    /// All that may have the image, in the order of asking.
    pub(super) fn all(name: &Name, network: &Network) -> Vec<Self> {
        let mirrors = network.mirrors.iter().filter(|mirror| mirror.of == name.host);
        mirrors.map(|mirror| Self::mirror(mirror, name)).chain([Self::origin(name, network)]).collect()
    }

    /// The registry itself, for what is put there.
    pub(super) fn to_push(name: &Name, network: &Network) -> Self {
        Self { push: true, ..Self::origin(name, network) }
    }

    fn origin(name: &Name, network: &Network) -> Self {
        use Scheme::{Http, Https};
        let authority = if name.host == HUB.0 { HUB.1 } else { &name.host };
        let loopback = url(Http, authority).is_some_and(|url| is_loopback(&url));
        let schemes: &[Scheme] = match (loopback, network.insecure, network.tls_ca.is_some()) {
            (true, false, false) => &[Http, Https],
            (false, false, _) => &[Https],
            _ => &[Https, Http],
        };
        Self::new(name.host.clone(), name.repository.clone(), authority.to_owned(), schemes, false)
    }

    fn mirror(mirror: &Mirror, name: &Name) -> Self {
        let authority = mirror.base.authority().to_owned();
        let prefix = mirror.base.path().trim_matches('/');
        let repository = [prefix, &name.repository].join("/").trim_start_matches('/').to_owned();
        let schemes: &[Scheme] = if mirror.base.scheme() == "http" { &[Scheme::Http] } else { &[Scheme::Https] };
        Self::new(authority.clone(), repository, authority, schemes, true)
    }

    fn new(host: String, repository: String, authority: String, schemes: &'static [Scheme], mirror: bool) -> Self {
        Self {
            host,
            repository,
            mirror,
            push: false,
            session: Mutex::default(),
            authority,
            schemes,
            chosen: OnceLock::new(),
            down: AtomicBool::new(false),
        }
    }

    /// The schemes that are still to be tried: one, once one has served.
    pub(super) fn schemes(&self) -> &[Scheme] {
        match self.chosen.get() {
            Some(Scheme::Http) => &[Scheme::Http],
            Some(Scheme::Https) => &[Scheme::Https],
            None => self.schemes,
        }
    }

    /// This scheme has served.
    pub(super) fn choose(&self, scheme: Scheme) {
        let _ = self.chosen.set(scheme);
    }

    /// A URL of the distribution API, `/v2/REPOSITORY/PATH`. A name that makes no URL is none of a host.
    pub(super) fn url(&self, scheme: Scheme, path: &str) -> Option<Url> {
        let mut url = url(scheme, &self.authority)?;
        url.set_path(&format!("/v2/{}/{path}", self.repository));
        Some(url)
    }

    /// `HOST/REPOSITORY`, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// A mirror that cannot be reached is not asked for every blob anew.
    pub(super) fn is_down(&self) -> bool {
        self.mirror && self.down.load(Ordering::Relaxed)
    }

    /// Nothing answers there.
    pub(super) fn set_down(&self) {
        self.down.store(true, Ordering::Relaxed);
    }
}

fn url(scheme: Scheme, authority: &str) -> Option<Url> {
    let scheme = if scheme == Scheme::Http { "http" } else { "https" };
    Url::parse(&format!("{scheme}://{authority}/")).ok()
}

/// Whether a URL leads to this machine, where nobody listens in between.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(name: &str, network: &Network) -> Vec<String> {
        let endpoints = Endpoint::all(&Name::parse(name).unwrap(), network);
        let url = |endpoint: &Endpoint, scheme: &Scheme| endpoint.url(*scheme, "manifests/x").unwrap().to_string();
        endpoints
            .iter()
            .flat_map(|one| one.schemes().iter().map(|scheme| url(one, scheme)).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn plain_http_is_for_loopback_and_by_flag() {
        let network = Network::default();
        assert_eq!(urls("alpine", &network), ["https://registry-1.docker.io/v2/library/alpine/manifests/x"]);
        assert_eq!(urls("a.b:5000/c", &network), ["https://a.b:5000/v2/c/manifests/x"]);
        let both = ["http://127.0.0.9:5000/v2/c/manifests/x", "https://127.0.0.9:5000/v2/c/manifests/x"];
        assert_eq!(urls("127.0.0.9:5000/c", &network), both);
        assert_eq!(urls("[::1]:5000/c", &network).len(), 2);
        for other in ["localhost.a.b/c", "127.0.0.1.a.b/c", "128.0.0.1/c", "[::2]:1/c"] {
            assert_eq!(urls(other, &network).len(), 1, "{other}");
        }
        let insecure = Network { insecure: true, ..network };
        assert_eq!(urls("a.b/c", &insecure), ["https://a.b/v2/c/manifests/x", "http://a.b/v2/c/manifests/x"]);
    }

    #[test]
    fn mirrors_come_first_and_the_registry_last() {
        let mirrors = ["docker.io=https://m.n/hub", "index.docker.io=http://127.0.0.1:5000", "ghcr.io=https://other"];
        let mirrors = mirrors.map(|text| text.parse().unwrap()).to_vec();
        let network = Network { mirrors, ..Network::default() };
        let expected = [
            "https://m.n/v2/hub/library/alpine/manifests/x",
            "http://127.0.0.1:5000/v2/library/alpine/manifests/x",
            "https://registry-1.docker.io/v2/library/alpine/manifests/x",
        ];
        assert_eq!(urls("alpine", &network), expected);
        for bad in ["", "a.b", "a.b=", "a.b=c.d", "a.b=ftp://c.d", "a.b=https://u:p@c.d", "a.b=https://c.d/?x"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
