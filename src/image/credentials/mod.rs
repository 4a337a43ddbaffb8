//! Who a registry is to be told that we are: the logins that docker, podman and skopeo have left on the machine.
//!
//! The order is skopeo's: what the command line gives; a file that the user names, and then no other; else the usual
//! places, the first with a login for the registry. In a file a helper program comes before what the file itself
//! holds, as docker has it. A helper that knows nothing is no end: the file's own entries and later files are asked
//! too, since skopeo reads entries that docker passes over when `credsStore` is set.
//!
//! A file that the user names must be there and be sound. One in a usual place that is broken is noted in
//! [`Found::tried`] and passed over, as docker does: most images are public, and a file that nobody thought of must not
//! keep them away; when the registry then refuses, the note stands beside its answer.
//!
//! What a parser says of a document may quote it, and so a secret: messages name places, never contents.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

mod file;
mod helper;
mod secret;

use std::ffi::OsString;
use std::time::Duration;

use super::Error;
use crate::escaped;

pub use file::{AuthFile, Standing};
pub use secret::Secret;

use helper::Helper;

/// A helper may ask its user for a passphrase, or a cloud for a token; then it must have answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key under which docker keeps the login for Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// The user name that says that the password is an identity token (docker's credential helper protocol).
const TOKEN_USER: &str = "<token>";

/// How a registry is told who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Nobody in particular.
    Anonymous,
    /// A user name and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token, for the registry's token server.
    IdentityToken(Secret),
}

/// What a search for a login came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The login.
    pub login: Login,
    /// Each source in the order of asking, and what it said; never a secret or a user name. For a refusal.
    pub tried: Vec<String>,
}

/// Every place that may hold logins. Nothing is read before a registry needs one.
#[derive(Debug, Clone)]
pub struct Credentials {
    given: Option<Login>,
    files: Vec<AuthFile>,
    path: OsString,
    patience: Duration,
}

impl Credentials {
    /// Places to look: `files` in the order of asking; helper programs are found in the absolute folders of `path`, a
    /// list in the form of PATH.
    pub fn new(files: Vec<AuthFile>, path: OsString) -> Self {
        Self { given: None, files, path, patience: PATIENCE }
    }

    /// No place: every registry is asked as nobody.
    pub fn none() -> Self {
        Self::new(Vec::new(), OsString::new())
    }

    /// The same with a login for the registry that the user names, before all places.
    #[must_use]
    pub fn with_login(self, user: String, password: Secret) -> Self {
        Self { given: Some(login(user, password)), ..self }
    }

    /// The login for the registry that the user named, such as `ghcr.io` or `localhost:5000`, and a repository in it,
    /// such as `acme/app`. Docker Hub is `docker.io`, or one of its other names.
    ///
    /// Blocks while a helper program runs, up to a minute.
    ///
    /// # Errors
    /// [`Error::AuthFile`], [`Error::CredentialHelper`].
    pub fn lookup(&self, registry: &str, repository: &str) -> Result<Found, Error> {
        match &self.given {
            Some(login) => Ok(Found { login: login.clone(), tried: vec!["--creds: a login".to_owned()] }),
            None => self.lookup_places(registry, repository),
        }
    }

    /// The login for a registry that the user did not name, such as a mirror: what the command line gives is not
    /// meant for it, so the places alone are asked.
    ///
    /// # Errors
    /// As [`Credentials::lookup`].
    pub fn lookup_places(&self, registry: &str, repository: &str) -> Result<Found, Error> {
        let wanted = Wanted { registry, repository };
        let mut tried = Vec::new();
        for file in &self.files {
            if let Some(login) = self.ask(file, &wanted, &mut tried)? {
                return Ok(Found { login, tried });
            }
        }
        if tried.is_empty() {
            tried.push("no place to look for a login".to_owned());
        }
        Ok(Found { login: Login::Anonymous, tried })
    }

    fn ask(&self, file: &AuthFile, wanted: &Wanted<'_>, tried: &mut Vec<String>) -> Result<Option<Login>, Error> {
        let contents = match file.contents() {
            Ok(contents) => contents,
            Err(why) => return file.blame(&why, tried).map(|()| None),
        };
        let label = file.label();
        let helper = contents.helper(wanted);
        if let Some(name) = helper {
            let program = Helper { name, path: &self.path, patience: self.patience };
            for server in wanted.servers() {
                let failed = |why| Error::CredentialHelper { program: program.program(), file: label.clone(), why };
                if let Some((user, password)) = program.get(&server).map_err(failed)? {
                    tried.push(format!("{label}: {} has a login for {server}", program.program()));
                    return Ok(Some(login(user, password)));
                }
                tried.push(format!("{label}: {} has no login for {server}", program.program()));
            }
        }
        let Some((key, entry)) = contents.entry(wanted) else {
            if helper.is_none() {
                tried.push(format!("{label}: nothing for {}", wanted.registry));
            }
            return Ok(None);
        };
        let key = escaped(key.as_bytes());
        match entry.login() {
            Ok(login) => {
                tried.push(format!("{label}: a login for {key}"));
                Ok(Some(login))
            }
            Err(why) => file.blame(&format!("the entry `{key}` {why}"), tried).map(|()| None),
        }
    }
}

/// What a login is looked up for.
struct Wanted<'a> {
    registry: &'a str,
    repository: &'a str,
}

impl Wanted<'_> {
    /// Keys that match as they stand, the most special first: the repository, the namespaces around it, the registry
    /// (containers-auth.json(5)).
    fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut path = self.repository;
        while !path.is_empty() {
            keys.extend(self.names().iter().map(|name| format!("{name}/{path}")));
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        keys.extend(self.names().iter().map(|name| (*name).to_owned()));
        keys
    }

    /// The names of the registry.
    fn names(&self) -> Vec<&str> {
        if is_hub(self.registry) { HUB_NAMES.to_vec() } else { vec![self.registry] }
    }

    /// Whether a key that is or was a URL means the registry.
    fn is_at(&self, host: &str) -> bool {
        self.names().contains(&host)
    }

    /// Under what names a helper may know the registry: podman stores Docker Hub's login without the URL.
    fn servers(&self) -> Vec<String> {
        if is_hub(self.registry) {
            vec![HUB.to_owned(), "docker.io".to_owned()]
        } else {
            vec![self.registry.to_owned()]
        }
    }
}

/// Docker Hub's names; the second is the one in docker's key.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

fn is_hub(registry: &str) -> bool {
    HUB_NAMES.contains(&registry)
}

fn login(user: String, password: Secret) -> Login {
    if user == TOKEN_USER { Login::IdentityToken(password) } else { Login::Basic { user, password } }
}

#[cfg(test)]
mod tests;
