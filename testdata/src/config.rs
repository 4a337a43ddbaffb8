//! The image configuration: what to run, for which platform.

use serde_json::{Map, Value, json};

/// An image configuration in the making. Fields that are `None` or empty are not written.
#[derive(Clone, Debug)]
pub struct Config {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// `v8`, …
    pub variant: Option<String>,
    /// Entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Cmd.
    pub cmd: Option<Vec<String>>,
    /// Env, `K=V`.
    pub env: Vec<String>,
    /// User.
    pub user: Option<String>,
    /// WorkingDir.
    pub working_dir: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
            entrypoint: None,
            cmd: None,
            env: Vec::new(),
            user: None,
            working_dir: None,
        }
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}

impl Config {
    /// linux/amd64 and nothing to run.
    pub fn new() -> Self {
        Config::default()
    }

    /// Sets the platform from `os/arch` or `os/arch/variant`.
    ///
    /// # Panics
    /// When there is no slash.
    pub fn platform(self, platform: &str) -> Self {
        let mut parts = platform.split('/').map(str::to_owned);
        let (os, architecture) = parts.next().zip(parts.next()).expect("os/arch");
        Config { os, architecture, variant: parts.next(), ..self }
    }

    /// Sets Entrypoint.
    pub fn entrypoint(self, items: &[&str]) -> Self {
        Config { entrypoint: Some(strings(items)), ..self }
    }

    /// Sets Cmd.
    pub fn cmd(self, items: &[&str]) -> Self {
        Config { cmd: Some(strings(items)), ..self }
    }

    /// Sets Env.
    pub fn env(self, items: &[&str]) -> Self {
        Config { env: strings(items), ..self }
    }

    /// Sets User.
    pub fn user(self, user: &str) -> Self {
        Config { user: Some(user.to_owned()), ..self }
    }

    /// Sets WorkingDir.
    pub fn working_dir(self, dir: &str) -> Self {
        Config { working_dir: Some(dir.to_owned()), ..self }
    }

    /// The platform object of an index: architecture, os and, if set, variant.
    pub fn platform_json(&self) -> Value {
        let mut platform = json!({ "architecture": self.architecture, "os": self.os });
        if let Some(variant) = &self.variant {
            platform["variant"] = json!(variant);
        }
        platform
    }

    /// The configuration's JSON for layers with these diff_ids.
    pub fn json(&self, diff_ids: &[String]) -> Value {
        let mut all = self.platform_json();
        all["config"] = Value::Object(self.process_json());
        all["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        all["created"] = json!("1970-01-01T00:00:00Z");
        all["history"] = json!(vec![json!({ "created_by": "eif-testdata" }); diff_ids.len()]);
        all
    }

    fn process_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: &str, value: Option<Value>| value.map(|value| map.insert(key.to_owned(), value));
        put("Entrypoint", self.entrypoint.as_ref().map(|items| json!(items)));
        put("Cmd", self.cmd.as_ref().map(|items| json!(items)));
        put("Env", (!self.env.is_empty()).then(|| json!(self.env)));
        put("User", self.user.as_ref().map(|user| json!(user)));
        put("WorkingDir", self.working_dir.as_ref().map(|dir| json!(dir)));
        map
    }
}
