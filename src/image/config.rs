//! The image config (image-spec, config.md): what runs, and which layers it runs on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::manifest::json;
use super::{Digest, Error, Platform};

/// What the image says of the process, as it stands there. All parts may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `Entrypoint`, before `Cmd`; `None` where it is absent or null.
    pub entrypoint: Option<Vec<String>>,
    /// `Cmd`; `None` where it is absent or null.
    pub cmd: Option<Vec<String>>,
    /// `Env`, in its order.
    pub env: Vec<String>,
    /// `User`: `user`, `uid`, `user:group` and so on; empty is root.
    pub user: String,
    /// `WorkingDir`; empty is `/`.
    pub working_dir: String,
    /// The paths of `Volumes`, in byte order.
    pub volumes: Vec<String>,
}

impl Config {
    /// Reads the object `config` of an image config, or `Config` of `docker inspect`; `None` where it is none.
    pub fn from_json(object: &Value) -> Option<Self> {
        Fields::deserialize(object).ok().map(Fields::into_config)
    }
}

/// The process that the init will run: everything resolved, nothing left to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Arguments; the first is the program.
    pub argv: Vec<String>,
    /// Environment as `K=V`, each name once.
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids, ascending.
    pub groups: Vec<u32>,
}

/// The document as Docker, BuildKit and others write it: any field may be null, unknown ones are passed over.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<Fields>,
    #[serde(default)]
    rootfs: Option<RootFs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Fields {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    volumes: Value,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// A config that was read, before anything is made of it.
pub(super) struct Parsed {
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) variant: Option<String>,
    fields: Fields,
    diff_ids: Vec<String>,
}

impl Parsed {
    pub(super) fn from_json(bytes: &[u8], what: &str) -> Result<Self, Error> {
        let document: Document = json(bytes, what)?;
        let missing = |field: &str| Error::BadManifest { what: what.to_owned(), why: format!("it has no `{field}`") };
        Ok(Self {
            architecture: document.architecture.ok_or_else(|| missing("architecture"))?,
            os: document.os.ok_or_else(|| missing("os"))?,
            variant: document.variant,
            fields: document.config.unwrap_or_default(),
            diff_ids: document.rootfs.and_then(|rootfs| rootfs.diff_ids).ok_or_else(|| missing("rootfs.diff_ids"))?,
        })
    }

    pub(super) fn runs_on(&self, platform: &Platform) -> bool {
        platform.matches(&self.os, &self.architecture, self.variant.as_deref())
    }

    pub(super) fn diff_ids(&self) -> Result<Vec<Digest>, Error> {
        self.diff_ids.iter().map(|text| text.parse()).collect()
    }

    pub(super) fn into_config(self) -> Config {
        self.fields.into_config()
    }
}

impl Fields {
    fn into_config(self) -> Config {
        Config {
            entrypoint: self.entrypoint,
            cmd: self.cmd,
            env: self.env.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            working_dir: self.working_dir.unwrap_or_default(),
            volumes: sorted_keys(&self.volumes),
        }
    }
}

/// The keys of an object; none of anything else.
fn sorted_keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<String> = value.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect();
    keys.sort();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_unknown_fields_are_tolerated() {
        let json = br#"{"architecture":"amd64","os":"linux","new":{},"config":{"Entrypoint":null,"Cmd":["a",""],
            "Env":null,"User":null,"WorkingDir":null,"Volumes":null},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let parsed = Parsed::from_json(json, "config").unwrap();
        assert!(parsed.runs_on(&Platform::default()));
        let config = parsed.into_config();
        assert_eq!(config, Config { cmd: Some(vec!["a".into(), String::new()]), ..Config::default() });
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Parsed::from_json(br#"{"os":"linux"}"#, "config x").map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "config x: it has no `architecture`");
    }
}
