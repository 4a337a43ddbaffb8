//! What the user types to name an image: `TRANSPORT:PLACE`, in skopeo's words.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Digest, Error, Name};

/// Transports of skopeo that this version does not have: a bare name that begins so is no name.
const OTHERS: [&str; 6] = ["containers-storage", "dir", "http", "https", "ostree", "sif"];

/// An image reference. Paths are bytes: they need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `oci:PATH[:TAG|@DIGEST]`: a directory in the OCI image layout.
    Oci {
        /// The directory.
        path: PathBuf,
        /// Which of its images.
        selector: Selector,
    },
    /// `oci-archive:PATH[:TAG|@DIGEST]`: the same, in a tar.
    OciArchive {
        /// The tar; `-` is stdin.
        path: PathBuf,
        /// Which of its images.
        selector: Selector,
    },
    /// `docker-archive:PATH[:NAME[:TAG]]`: what `docker save` writes.
    DockerArchive {
        /// The tar; `-` is stdin.
        path: PathBuf,
        /// Which of its images.
        name: Option<String>,
    },
    /// `docker://NAME[:TAG][@DIGEST]`, or the name alone: an image in a registry.
    Docker(Name),
    /// `docker-daemon:NAME[:TAG]`, `docker-daemon:NAME@DIGEST` or `docker-daemon:sha256:ID`: what a Docker engine has.
    DockerDaemon {
        /// The image, in the engine's words.
        name: String,
    },
    /// `rootfs:PATH`: a plain directory, or a plain or compressed tar, as the root file system.
    Rootfs {
        /// The directory or the tar; `-` is stdin.
        path: PathBuf,
    },
}

/// Which image of an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The only one there is.
    Only,
    /// The one whose annotation `org.opencontainers.image.ref.name` is this.
    Tag(String),
    /// The one with this manifest or index digest.
    Digest(Digest),
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`Error::Reference`] for a transport that this version lacks or an empty part; [`Error::BadDigest`].
    pub fn parse(text: &OsStr) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Reference { text: without_login(&text.to_string_lossy()), why: why.to_owned() };
        if let Some(name) = registry_name(text.as_bytes()) {
            return Name::parse(std::str::from_utf8(name).map_err(|_| refuse("a name is ASCII"))?).map(Self::Docker);
        }
        let (transport, rest) = split_at_byte(text.as_bytes(), b':').unwrap_or_default();
        if rest.is_empty() {
            return Err(refuse("nothing stands behind the transport"));
        }
        match transport {
            b"oci" => layout(rest, &refuse).map(|(path, selector)| Self::Oci { path, selector }),
            b"oci-archive" => layout(rest, &refuse).map(|(path, selector)| Self::OciArchive { path, selector }),
            b"docker-archive" => {
                let (path, name) = place(rest, &refuse)?;
                Ok(Self::DockerArchive { path, name })
            }
            b"docker-daemon" => engine_name(rest, &refuse).map(|name| Self::DockerDaemon { name }),
            b"rootfs" => Ok(Self::Rootfs { path: PathBuf::from(OsStr::from_bytes(rest)) }),
            other => Err(refuse(&format!("`{}:` is no transport of this version", String::from_utf8_lossy(other)))),
        }
    }
}

impl Reference {
    /// The same place, and in it the image with this manifest or index digest; `None` where images have none.
    pub fn at(&self, digest: Digest) -> Option<Self> {
        let selector = Selector::Digest(digest);
        match self {
            Self::Oci { path, .. } => Some(Self::Oci { path: path.clone(), selector }),
            Self::OciArchive { path, .. } => Some(Self::OciArchive { path: path.clone(), selector }),
            Self::Docker(name) => Some(Self::Docker(Name { digest: Some(digest), ..name.clone() })),
            Self::DockerArchive { .. } | Self::DockerDaemon { .. } | Self::Rootfs { .. } => None,
        }
    }
}

/// For messages: `[SCHEME://][USER:PASSWORD@]HOST…` without who logs in, for a password may stand beside it.
pub(super) fn without_login(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let is_digest = |text: &str| text.starts_with("sha256:") || text.starts_with("sha512:");
    let digest = rest.rsplit_once('@').filter(|(_, digest)| is_digest(digest));
    let (name, digest) = digest.map_or((rest, String::new()), |(name, digest)| (name, format!("@{digest}")));
    let name = name.rsplit_once('@').map_or(name, |(_, name)| name);
    let mark = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{mark}{name}{digest}")
}

/// The name of an image in a registry: what stands behind `docker://`, or all of it where no transport is named.
fn registry_name(text: &[u8]) -> Option<&[u8]> {
    if let Some(name) = text.strip_prefix(b"docker://") {
        return Some(name);
    }
    let (transport, rest) = split_at_byte(text, b':').unwrap_or((text, b""));
    let known =
        [&b"oci"[..], b"oci-archive", b"docker-archive", b"docker-daemon", b"docker", b"rootfs"].contains(&transport);
    let named = known || OTHERS.iter().any(|other| other.as_bytes() == transport) || rest.starts_with(b"//");
    (!named || !text.contains(&b':')).then_some(text)
}

/// A name that can stand in a path of the engine's API as it is. What it means is for the engine to say.
fn engine_name(rest: &[u8], refuse: &dyn Fn(&str) -> Error) -> Result<String, Error> {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(byte);
    let whole = |part: &[u8]| part.first().is_some_and(u8::is_ascii_alphanumeric);
    if !rest.iter().all(known) || !rest.split(|byte| *byte == b'/').all(whole) {
        return Err(refuse("an image of an engine is NAME[:TAG], NAME@DIGEST or sha256:ID"));
    }
    let name = String::from_utf8_lossy(rest).into_owned();
    if name.starts_with("sha256:") {
        name.parse::<Digest>()?;
    }
    Ok(name)
}

/// `PATH[:TAG|@DIGEST]`. Like skopeo, a path cannot hold a colon.
fn layout(rest: &[u8], refuse: &dyn Fn(&str) -> Error) -> Result<(PathBuf, Selector), Error> {
    const AT: &[u8] = b"@sha256:";
    if let Some(at) = rest.windows(AT.len()).position(|window| window == AT) {
        let (path, digest) = rest.split_at(at);
        let digest = String::from_utf8_lossy(digest.get(1..).unwrap_or_default()).parse()?;
        return Ok((PathBuf::from(OsStr::from_bytes(path)), Selector::Digest(digest)));
    }
    let (path, tag) = place(rest, refuse)?;
    Ok((path, tag.map_or(Selector::Only, Selector::Tag)))
}

/// `PATH[:NAME]`, split at the first colon.
fn place(rest: &[u8], refuse: &dyn Fn(&str) -> Error) -> Result<(PathBuf, Option<String>), Error> {
    let Some((path, name)) = split_at_byte(rest, b':') else {
        return Ok((PathBuf::from(OsStr::from_bytes(rest)), None));
    };
    let name = std::str::from_utf8(name).map_err(|_| refuse("the name behind the path is not UTF-8"))?;
    if path.is_empty() || name.is_empty() {
        return Err(refuse("the path or the name behind it is missing"));
    }
    Ok((PathBuf::from(OsStr::from_bytes(path)), Some(name.to_owned())))
}

fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == byte)?;
    Some((bytes.get(..at)?, bytes.get(at.checked_add(1)?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, Error> {
        Reference::parse(OsStr::new(text))
    }

    #[test]
    fn every_transport_has_its_form() {
        let path = || PathBuf::from("dir/app");
        let digest = Digest::of(b"x");
        assert_eq!(parse("oci:dir/app").unwrap(), Reference::Oci { path: path(), selector: Selector::Only });
        assert_eq!(
            parse("oci:dir/app:v1").unwrap(),
            Reference::Oci { path: path(), selector: Selector::Tag("v1".into()) }
        );
        assert_eq!(
            parse(&format!("oci-archive:dir/app@{digest}")).unwrap(),
            Reference::OciArchive { path: path(), selector: Selector::Digest(digest) }
        );
        assert_eq!(
            parse("docker-archive:dir/app:me/app:v1").unwrap(),
            Reference::DockerArchive { path: path(), name: Some("me/app:v1".into()) }
        );
        for name in ["app", "me/app:v1", "localhost:5000/app", &format!("app@{digest}"), &digest.to_string()] {
            let parsed = parse(&format!("docker-daemon:{name}")).unwrap();
            assert_eq!(parsed, Reference::DockerDaemon { name: name.to_owned() });
        }
        assert_eq!(parse("rootfs:dir:app").unwrap(), Reference::Rootfs { path: PathBuf::from("dir:app") });
    }

    #[test]
    fn a_name_alone_is_one_of_a_registry() {
        let docker = |text: &str| Reference::Docker(Name::parse(text).unwrap());
        assert_eq!(parse("docker://app:v1").unwrap(), docker("app:v1"));
        for bare in ["app", "oci", "localhost:5000/app:v1", "ghcr.io/me/app", "ftp:x", "[::1]:5000/app"] {
            assert_eq!(parse(bare).unwrap(), docker(bare), "{bare}");
        }
    }

    #[test]
    fn no_login_is_repeated() {
        let digest = Digest::of(b"x");
        for (text, shown) in [
            ("me:s3cret@a.b/app", "a.b/app".to_owned()),
            ("https://me:s3/c@ret@a.b:1/app:v1", "https://a.b:1/app:v1".to_owned()),
            (&format!("docker://me:s3cret@a.b/app:v1@{digest}"), format!("docker://a.b/app:v1@{digest}")),
            (&format!("a.b/app@{digest}"), format!("a.b/app@{digest}")),
            ("app@sha256:12", "app@sha256:12".to_owned()),
            ("tcp://me:s3cret@engine:1", "tcp://engine:1".to_owned()),
        ] {
            assert_eq!(without_login(text), shown);
            if text.contains("s3") {
                let error = parse(text).unwrap_err().to_string();
                assert!(!error.contains("s3") && !error.contains("ret@"), "{error}");
            }
        }
        let refused = parse("docker://me:s3cret@a.b/app").unwrap_err();
        assert_eq!(refused.to_string(), "`a.b/app`: a login has no place in a name; pass --creds or --authfile");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "./app",
            "oci:",
            "oci::tag",
            "oci:dir:",
            "ftp://x",
            "docker:x",
            "rootfs:",
            "oci:dir@sha256:12",
            "docker://",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "../info", "a/../b", "a?b", "a#b", "a b", "a%2f", "sha256:12", "/a", "a/", "\u{e9}"] {
            assert!(parse(&format!("docker-daemon:{bad}")).is_err(), "{bad}");
        }
    }
}
