//! The name of an image in a registry, by the rules of the docker command line.

use std::fmt;
use std::net::Ipv6Addr;

use super::super::reference::without_login;
use super::super::{Digest, Error};

/// `HOST/REPOSITORY[:TAG][@DIGEST]` with nothing left out but the tag beside a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Registry, with the port where one is named: `docker.io`, `localhost:5000`.
    pub host: String,
    /// Such as `library/alpine`.
    pub repository: String,
    /// There is a tag or a digest; where there are both, the digest decides.
    pub tag: Option<String>,
    /// Of a manifest or an index.
    pub digest: Option<Digest>,
}

impl Name {
    /// Reads a name; a short one is of Docker Hub, and without tag and digest it is `latest`.
    ///
    /// # Errors
    /// [`Error::Reference`]; [`Error::BadDigest`] for a digest that is no SHA-256 in lower case.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let shown = without_login(text);
        let refuse = |why: String| Error::Reference { text: shown.clone(), why };
        if shown != text {
            return Err(refuse("a login has no place in a name; pass --creds or --authfile".to_owned()));
        }
        let (address, plain) = match ipv6(text) {
            Some((address, rest)) => (Some(address), format!("localhost{rest}")),
            None => (None, text.to_owned()),
        };
        let parsed: oci_distribution::Reference =
            plain.parse().map_err(|error: oci_distribution::ParseError| refuse(error.to_string()))?;
        let host = match address {
            Some(_) if !parsed.registry().starts_with("localhost") => {
                return Err(refuse("an address alone".to_owned()));
            }
            Some(address) => parsed.registry().replacen("localhost", &format!("[{address}]"), 1),
            None => parsed.registry().to_owned(),
        };
        Ok(Self {
            host,
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest: parsed.digest().map(str::parse).transpose()?,
        })
    }

    /// The same name with this digest in the place of the tag: it names these bytes for ever.
    pub fn pinned(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.host, self.repository)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// `[::1]:5000/app`, which the grammar of names does not have: the address, and what stands behind it.
fn ipv6(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, rest) = text.strip_prefix('[')?.split_once(']')?;
    address.parse().ok().map(|address| (address, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(text: &str) -> String {
        Name::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_are_those_of_the_docker_command_line() {
        let digest = Digest::of(b"x");
        for (short, long) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            ("index.docker.io/app", "docker.io/library/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1".to_owned()),
            ("ghcr.io/me/app", "ghcr.io/me/app:latest".to_owned()),
            ("host:5000", "docker.io/library/host:5000".to_owned()),
            ("[::1]:5000/app:v1", "[::1]:5000/app:v1".to_owned()),
            (&format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (&format!("a.b/app:v1@{digest}"), format!("a.b/app:v1@{digest}")),
        ] {
            assert_eq!(full(short), long);
            assert_eq!(full(&long), long, "a full name is its own full name");
        }
        assert_eq!(Name::parse("a.b/app:v1").unwrap().pinned(&digest), format!("a.b/app@{digest}"));
    }

    proptest! {
        #[test]
        fn prop_a_full_name_reads_as_itself(text in "(\\[::1\\]|[a-z0-9.]{1,8})?(:[0-9]{1,4})?[a-z0-9./:@_-]{0,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(&name.to_string()).unwrap(), name);
            }
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let upper = Digest::of(b"x").to_string().replace("sha256:", "sha256:ABCDEF")[..71].to_owned();
        for bad in ["", "App", "./app", "app:", "app@sha256:12", "http://a/b", "a b", "[::x]/app", "[::1]", "../etc"] {
            assert!(matches!(Name::parse(bad), Err(Error::Reference { .. })), "{bad}");
        }
        assert!(matches!(Name::parse(&format!("app@{upper}")), Err(Error::BadDigest { .. })));
        let sha512 = format!("app@sha512:{}", "0".repeat(128));
        assert!(matches!(Name::parse(&sha512), Err(Error::BadDigest { .. })));
    }
}
