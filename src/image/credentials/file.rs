//! Files with logins: podman's auth.json (containers-auth.json(5)), docker's config.json, and the older ~/.dockercfg.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::OnceLock;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::secret::wipe;
use super::{Error, Login, Secret, Wanted, login};

/// A file with logins may be this large, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Base64 as in `auth`; some tools leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a file counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The user names it: it must be there and be sound. It may be a pipe.
    Named,
    /// It is in a usual place, if it is there at all.
    Usual,
    /// The same in the form of ~/.dockercfg, which has no helpers and no namespaces.
    Old,
}

/// A file that may hold logins. It is read when it is first asked, and once.
#[derive(Debug, Clone)]
pub struct AuthFile {
    path: PathBuf,
    standing: Standing,
    contents: OnceLock<Result<Contents, String>>,
}

impl AuthFile {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>, standing: Standing) -> Self {
        Self { path: path.into(), standing, contents: OnceLock::new() }
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Whether the user names it, so that it must be there.
    pub fn is_named(&self) -> bool {
        self.standing == Standing::Named
    }

    /// Why it cannot be used, if that is so; nothing of what is in it. Reads it.
    pub fn fault(&self) -> Option<String> {
        self.contents().err()
    }

    /// Refuses a file that is named and is not there, before anything is asked of it; a pipe is left unread.
    ///
    /// # Errors
    /// [`Error::AuthFile`].
    pub fn expect_there(&self) -> Result<(), Error> {
        match self.there() {
            Err(why) if self.is_named() => Err(Error::AuthFile { path: self.path.clone(), why }),
            _ => Ok(()),
        }
    }

    pub(super) fn label(&self) -> String {
        self.path.display().to_string()
    }

    /// What is in it, or why that cannot be known.
    pub(super) fn contents(&self) -> Result<&Contents, String> {
        self.contents.get_or_init(|| self.read()).as_ref().map_err(Clone::clone)
    }

    /// A fault is a refusal where the user named the file, else a note.
    pub(super) fn blame(&self, why: &str, tried: &mut Vec<String>) -> Result<(), Error> {
        if self.is_named() {
            return Err(Error::AuthFile { path: self.path.clone(), why: why.to_owned() });
        }
        tried.push(format!("{}: {why}", self.label()));
        Ok(())
    }

    fn read(&self) -> Result<Contents, String> {
        let bytes = self.bytes()?;
        let contents = if bytes.trim_ascii().is_empty() {
            Ok(Contents::default())
        } else if self.standing == Standing::Old {
            json(&bytes).map(|auths| Contents { auths: Some(auths), old: true, ..Contents::default() })
        } else {
            json(&bytes)
        };
        wipe(bytes);
        contents
    }

    /// Whether there is something to read. The file is not opened: opening a pipe would wait for its writer, which only a
    /// named one has.
    fn there(&self) -> Result<(), String> {
        let metadata = fs::metadata(&self.path).map_err(failed)?;
        if metadata.is_dir() || (!metadata.is_file() && !self.is_named()) {
            return Err("not a file".to_owned());
        }
        Ok(())
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        self.there()?;
        let mut bytes = Vec::new();
        let file = fs::File::open(&self.path).map_err(failed)?;
        file.take(FILE_LIMIT.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(format!("larger than {FILE_LIMIT} bytes, the limit for a file with logins"));
        }
        Ok(bytes)
    }
}

fn failed(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads a document, and says of a broken one where it is broken and not what stands there.
fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = if error.is_data() { "not in the form of docker's config.json" } else { "not JSON" };
        format!("{what} (line {}, column {})", error.line(), error.column())
    })
}

/// What counts of docker's config.json.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Contents {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(skip)]
    old: bool,
}

impl Contents {
    /// The helper that is responsible: the registry's own before the store for all. An empty name stands for none.
    pub(super) fn helper(&self, wanted: &Wanted<'_>) -> Option<&str> {
        let mut own = self.cred_helpers.iter().flatten().filter(|(key, _)| wanted.is_at(host(key).0));
        let helper = match own.next() {
            Some((_, helper)) => helper.as_deref(),
            None => self.creds_store.as_deref(),
        };
        helper.filter(|name| !name.is_empty())
    }

    /// The entry for a repository: first by keys as they stand, then by those that are URLs. Entries without a login
    /// do not count: docker leaves one behind for what it gives to a helper.
    pub(super) fn entry(&self, wanted: &Wanted<'_>) -> Option<(&str, &Entry)> {
        let auths = self.auths.as_ref()?;
        let keys =
            if self.old { wanted.names().iter().map(|name| (*name).to_owned()).collect() } else { wanted.keys() };
        let full = |(key, entry)| Some((String::as_str(key), Option::<Entry>::as_ref(entry).filter(|e| e.is_full())?));
        let plain = keys.iter().find_map(|key| auths.get_key_value(key).and_then(full));
        plain.or_else(|| {
            let url = |(name, is_url): (&str, bool)| (is_url || self.old) && wanted.is_at(name);
            auths.iter().filter(|(key, _)| url(host(key))).find_map(full)
        })
    }
}

/// The host of a key, and whether the key is a URL. `https://index.docker.io/v1/` is docker's own key; others come
/// from a `docker login` of old, which took URLs.
fn host(key: &str) -> (&str, bool) {
    let stripped = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = stripped.unwrap_or(key).split('/').next().unwrap_or_default();
    (host, stripped.is_some())
}

/// One login of `auths`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    auth: Option<Secret>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<Secret>,
    #[serde(default, rename = "registrytoken")]
    registry_token: Option<Secret>,
}

impl Entry {
    fn is_full(&self) -> bool {
        let has = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| !secret.expose().is_empty());
        let user = self.username.as_ref().is_some_and(|user| !user.is_empty());
        user || has(&self.auth) || has(&self.identity_token) || has(&self.registry_token)
    }

    /// The login: the identity token where there is one (then `auth` names a user without a password), else `auth`,
    /// else the user and the password beside it.
    pub(super) fn login(&self) -> Result<Login, &'static str> {
        let full = |secret: &&Secret| !secret.expose().is_empty();
        if let Some(token) = self.identity_token.as_ref().filter(full) {
            return Ok(Login::IdentityToken(token.clone()));
        }
        if let Some(auth) = self.auth.as_ref().filter(full) {
            return decode(auth);
        }
        match &self.username {
            Some(user) if !user.is_empty() => {
                Ok(login(user.clone(), self.password.clone().unwrap_or_else(|| Secret::new(""))))
            }
            _ => Err("has a `registrytoken` alone, which eif does not send"),
        }
    }
}

/// `USER:PASSWORD` in base64; the password may hold colons.
fn decode(auth: &Secret) -> Result<Login, &'static str> {
    let bytes = BASE64.decode(auth.expose().trim()).map_err(|_| "has an `auth` that is not base64")?;
    let text = Secret::new(String::from_utf8(bytes).map_err(|_| "has an `auth` that is not UTF-8")?);
    let (user, password) = text.expose().split_once(':').ok_or("has an `auth` without a colon")?;
    if user.is_empty() {
        return Err("has an `auth` without a user");
    }
    // Docker has padded passwords with NULs.
    Ok(login(user.to_owned(), Secret::new(password.trim_matches('\0'))))
}
