//! All that the command line takes from its surroundings. The library takes nothing from there.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use eif::image::{AuthFile, Engine, Standing};

use super::failure::Failure;

/// Seconds since 1970 (reproducible-builds.org, SOURCE_DATE_EPOCH).
#[expect(clippy::disallowed_methods, reason = "SOURCE_DATE_EPOCH is an agreement on the environment")]
pub fn source_date_epoch() -> Result<Option<u64>, Failure> {
    let Some(text) = env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let bad = || Failure::usage(format!("SOURCE_DATE_EPOCH is no number of seconds: {}", text.to_string_lossy()));
    number.map(Some).ok_or_else(bad)
}

/// Seconds since 1970 by this machine's clock; a certificate that is not valid by it is not signed with.
/// SOURCE_DATE_EPOCH has no part in it: it may lie before the certificate's time.
#[expect(clippy::disallowed_methods, reason = "whether a certificate is valid now is a question to the clock")]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `$XDG_CACHE_HOME/eif`, else `$HOME/.cache/eif` (XDG Base Directory Specification).
#[expect(clippy::disallowed_methods, reason = "the place of the cache has no influence on a result")]
pub fn cache_if_any() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("eif"))
}

/// The same where nothing can be done without one.
pub fn cache() -> Result<PathBuf, Failure> {
    let unknown = || Failure::refused("E-cache", "there is no place for the cache");
    cache_if_any().ok_or_else(|| unknown().with_help("set HOME or XDG_CACHE_HOME"))
}

/// As many as there are CPUs for this process.
pub fn processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Where processes of this user meet while enclaves run: `$XDG_RUNTIME_DIR/eif`; else `/run/eif` of root and
/// `/run/user/<uid>/eif` of others, and `/tmp/eif-<uid>` where they have no such folder.
#[cfg(target_os = "linux")]
#[expect(clippy::disallowed_methods, reason = "where sockets are has no influence on a result")]
pub fn run_folder() -> PathBuf {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let user = rustix::process::geteuid();
    let usual = || if user.is_root() { PathBuf::from("/run") } else { format!("/run/user/{}", user.as_raw()).into() };
    let folder = own.unwrap_or_else(usual);
    if folder.is_dir() || user.is_root() {
        return folder.join("eif");
    }
    PathBuf::from(format!("/tmp/eif-{}", user.as_raw()))
}

/// `PATH`, in which programs are found.
#[expect(clippy::disallowed_methods, reason = "which programs there are is the user's to say")]
pub fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"))
}

/// Where podman, skopeo and docker keep logins, in skopeo's order: REGISTRY_AUTH_FILE and then nothing else; or
/// podman's files, docker's, and docker's of old (containers-auth.json(5); docker's documentation, `docker login`).
#[expect(clippy::disallowed_methods, reason = "logins are the user's, and have no influence on a result")]
pub fn auth_files() -> Vec<AuthFile> {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = folder("REGISTRY_AUTH_FILE") {
        return vec![AuthFile::new(named, Standing::Named)];
    }
    let home = folder("HOME");
    let at_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let usual = [
        folder("XDG_RUNTIME_DIR").map(|run| run.join("containers/auth.json")).or_else(of_podman),
        folder("XDG_CONFIG_HOME").or_else(|| at_home(".config")).map(|config| config.join("containers/auth.json")),
        folder("DOCKER_CONFIG").or_else(|| at_home(".docker")).map(|docker| docker.join("config.json")),
    ];
    let usual = usual.into_iter().flatten().map(|path| AuthFile::new(path, Standing::Usual));
    usual.chain(at_home(".dockercfg").map(|path| AuthFile::new(path, Standing::Old))).collect()
}

/// Podman's file where XDG_RUNTIME_DIR is not set, as for root.
#[cfg(target_os = "linux")]
fn of_podman() -> Option<PathBuf> {
    Some(PathBuf::from(format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw())))
}

#[cfg(not(target_os = "linux"))]
fn of_podman() -> Option<PathBuf> {
    None
}

/// What compiles init and kernel; EIF_RUSTC_AARCH64, and Debian's compiler in the cache, as for the build of `eif` itself.
#[expect(clippy::disallowed_methods, reason = "which programs there are is the user's to say")]
pub fn tools() -> eif::verify::Tools {
    let cached = cache_if_any().map(|cache| cache.with_file_name(eif::init::CACHED_COMPILER).into_os_string());
    let rustc = env::var_os("EIF_RUSTC_AARCH64").into_iter().chain(cached).collect();
    eif::verify::Tools { rustc, path: search_path(), jobs: processors() }
}

/// The Docker engine, as `docker` is told: DOCKER_HOST, DOCKER_CERT_PATH, DOCKER_TLS_VERIFY, DOCKER_CONFIG.
#[expect(clippy::disallowed_methods, reason = "which engine is asked has no influence on what an image is")]
pub fn engine() -> Engine {
    let given = |name| env::var_os(name).filter(|value| !value.is_empty());
    let usual =
        || given("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(PathBuf::from(given("HOME")?).join(".docker")));
    let named = given("DOCKER_CERT_PATH").map(PathBuf::from);
    let certificates = named.or_else(|| given("DOCKER_TLS_VERIFY").and_then(|_| usual()));
    Engine { host: given("DOCKER_HOST").map(|host| host.to_string_lossy().into_owned()), certificates }
}

/// The folder with AWS's blobs, as nitro-cli is told: NITRO_CLI_BLOBS.
#[expect(clippy::disallowed_methods, reason = "an agreement of nitro-cli's on the environment")]
pub fn nitro_cli_blobs() -> Option<PathBuf> {
    env::var_os("NITRO_CLI_BLOBS").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Whether failures are told at length, as nitro-cli is told: BACKTRACE=1.
#[expect(clippy::disallowed_methods, reason = "an agreement of nitro-cli's on the environment")]
pub fn nitro_cli_backtrace() -> bool {
    env::var_os("BACKTRACE").is_some_and(|value| value == "1")
}

/// All of a small file, or of stdin for `-`, but never more than `limit` bytes and one: the reader refuses those.
pub fn small_file(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::refused("E-io", format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    match path.to_str() {
        Some("-") => io::stdin().lock().take(most).read_to_end(&mut bytes),
        _ => fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
    }
    .map_err(failed)?;
    Ok(bytes)
}

/// A JSON object that the user wrote.
pub fn json_file(path: &Path) -> Result<serde_json::Value, Failure> {
    let failed = |why: String| Failure::refused("E-metadata", format!("{}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}
