//! Options that decide how an image is got, and nothing of what is built from it.

use std::path::{Path, PathBuf};

use eif::image::{Access, AuthFile, Credentials, Mirror, Network, Secret, Standing, Store};
use eif::rootfs::Limits;

use super::environment;
use super::failure::Failure;

/// How a registry is reached, and as whom.
#[derive(clap::Args, PartialEq)]
pub struct RegistryOptions {
    /// Log in to the registry with these; every process of this machine can read them in the list of processes, so
    /// --authfile is better
    #[arg(long, value_name = "USER:PASS")]
    creds: Option<String>,
    /// Take logins from this file of podman's or docker's, and from no other [default: REGISTRY_AUTH_FILE, else the
    /// files of podman and docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Trust this authority's certificate (PEM) beside the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Take any certificate, and plain http from other machines than this one
    #[arg(long)]
    insecure: bool,
}

/// Where the image comes from; whoever opens images has these options.
#[derive(clap::Args, PartialEq)]
#[command(next_help_heading = "Where the image comes from")]
pub struct SourceOptions {
    /// Use only what is on this machine; an image of a registry needs its digest in the reference
    #[arg(long)]
    offline: bool,
    /// Keep nothing that is downloaded, and use nothing that was kept
    #[arg(long, conflicts_with = "offline")]
    no_cache: bool,
    /// Keep the layers in the cache unpacked, so that the next build of them is faster; takes as much disk as they do
    /// then
    #[arg(long, conflicts_with = "no_cache")]
    keep_layers: bool,
    /// What may stay of downloads when the build ends; what was not used for the longest time goes first
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_BOUND, value_parser = size)]
    max_cache: u64,
    /// Refuse images that unpack to more (K, M, G are powers of 1024)
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = size)]
    max_unpacked: u64,
    /// Refuse images whose layers have more entries; one counts once more for each 256 bytes that describe it
    #[arg(long, value_name = "N", default_value_t = Limits::default().entries)]
    max_entries: u64,
    /// Threads to use; has no influence on the bytes [default: as many as there are CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    registry: RegistryOptions,
    /// Ask URL for what is in the registry HOST, and HOST itself last; repeatable
    #[arg(long, value_name = "HOST=URL")]
    mirror: Vec<String>,
}

/// The largest images (machine learning) have 5 GiB and more; two of them fit, and the disk of a small build machine
/// (8 to 30 GB) is not filled by a cache that nobody asked for.
pub const DEFAULT_BOUND: &str = "10G";

impl SourceOptions {
    /// What an image may be.
    pub fn limits(&self) -> Limits {
        Limits { unpacked: self.max_unpacked, entries: self.max_entries, ..Limits::default() }
    }

    /// How many threads read it.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(|| environment::processors().get(), usize::from)
    }

    /// `scratch` and `limit` are for temporary files: their folder, and their size in bytes.
    pub fn access(&self, scratch: &Path, limit: u64) -> Result<Access, Failure> {
        let cache = environment::cache_if_any().filter(|_| !self.no_cache);
        let store = match cache {
            Some(cache) => Store::open(&cache.join("blobs"), Some(self.max_cache))?,
            None => Store::temporary(scratch)?,
        };
        let credentials = self.registry.credentials()?;
        let mirrors = self.mirror.iter().map(|text| text.parse()).collect::<Result<Vec<Mirror>, _>>();
        // Parsed here and not by clap, which would repeat what was given.
        let mirrors = mirrors.map_err(|error: eif::image::Error| Failure::usage(format!("--mirror {error}")))?;
        let network = self.registry.network(mirrors);
        let (offline, keep_layers, engine) = (self.offline, self.keep_layers, environment::engine());
        Ok(Access {
            limit,
            offline,
            keep_layers,
            credentials,
            network,
            engine,
            ..Access::new(store, scratch.to_owned())
        })
    }
}

impl RegistryOptions {
    /// The way to a registry; `mirrors` are asked first.
    pub fn network(&self, mirrors: Vec<Mirror>) -> Network {
        Network { tls_ca: self.tls_ca.clone(), insecure: self.insecure, mirrors, ..Network::default() }
    }

    /// Who registries are told that we are.
    pub fn credentials(&self) -> Result<Credentials, Failure> {
        let files = match &self.authfile {
            // Also where nobody will ask for a login: what is named is meant.
            Some(file) => {
                let file = AuthFile::new(file, Standing::Named);
                file.expect_there()?;
                vec![file]
            }
            None => environment::auth_files(),
        };
        let credentials = Credentials::new(files, environment::search_path());
        let Some(given) = &self.creds else { return Ok(credentials) };
        // What was given is not repeated: it may be a secret.
        match given.split_once(':') {
            Some((user, password)) if !user.is_empty() => {
                Ok(credentials.with_login(user.to_owned(), Secret::new(password)))
            }
            _ => Err(Failure::usage("--creds takes USER:PASS")),
        }
    }
}

/// `100M`, `2G`, `4096`: powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no size such as 100M or 2G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use eif::image::Login;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: SourceOptions,
    }

    fn credentials(given: &str) -> Result<Credentials, Failure> {
        Line::try_parse_from(["eif", "--creds", given])
            .unwrap_or_else(|error| panic!("{error}"))
            .options
            .registry
            .credentials()
    }

    #[test]
    fn a_password_may_hold_colons_and_a_mistake_is_not_repeated() {
        let found = credentials("u:p:q").unwrap_or_else(|error| panic!("{error:?}")).lookup("r", "x").unwrap();
        assert_eq!(found.login, Login::Basic { user: "u".to_owned(), password: Secret::new("p:q") });
        for bad in ["hidden", ":hidden", ""] {
            let Err(failure) = credentials(bad) else { panic!("{bad}") };
            assert!(!format!("{failure:?}").contains("hidden"), "{failure:?}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("100M"), Ok(100 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        for bad in ["", "M", "1.5G", "-1", "99999999999T", "1é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
