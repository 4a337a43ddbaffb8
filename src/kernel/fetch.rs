//! The pinned source: from the cache, from a file at hand, from the archive, from the dated archive. Only its hash
//! counts, never where it came from.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use sha2::{Digest, Sha256};

use super::lock::{Entry, Lock};
use super::store::Store;
use super::{Error, Tell, hex};

/// Where to look besides the cache.
#[derive(Debug, Clone, Copy)]
pub struct Ways<'a> {
    /// A package or an archive that the user names.
    pub source: Option<&'a Path>,
    /// Where the dated archive serves files by SHA-1.
    pub snapshot: &'a str,
}

/// What a file turned out to be.
enum Kind {
    Deb,
    Tarball,
}

/// The first entry (or the one named `id`) whose source can be had, and its archive, hash-checked.
pub fn source<'l>(
    lock: &'l Lock,
    id: Option<&str>,
    ways: Ways<'_>,
    store: &Store,
    progress: Tell<'_>,
) -> Result<(&'l Entry, PathBuf), Error> {
    let entries: Vec<&Entry> = match id {
        Some(id) => vec![lock.entry(id)?],
        None => lock.kernels.iter().collect(),
    };
    let folder = store.sources()?;
    let _alone = store.alone(&folder.join(".lock"))?;
    if let Some(file) = ways.source {
        return given(file, &entries, id, &folder, progress);
    }
    let mut first = None;
    for entry in entries {
        match one(entry, ways.snapshot, &folder, progress) {
            Ok(tarball) => return Ok((entry, tarball)),
            Err(error @ Error::SourceMissing { .. }) => {
                progress(&format!("kernel {}: {error}", entry.id));
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| Error::Lock("it names no kernel".to_owned())))
}

/// A file that the user names: whichever entry has its hash.
fn given<'l>(
    file: &Path,
    entries: &[&'l Entry],
    id: Option<&str>,
    folder: &Path,
    progress: Tell<'_>,
) -> Result<(&'l Entry, PathBuf), Error> {
    let sha256 = hash_file(file)?;
    for &entry in entries {
        match known(entry, &sha256) {
            Some(Kind::Tarball) => return Ok((entry, file.to_owned())),
            Some(Kind::Deb) => return Ok((entry, unpack(entry, file, folder, progress)?)),
            None => {}
        }
    }
    Err(Error::SourceUnknown { file: file.to_owned(), sha256, id: id.map(str::to_owned) })
}

fn known(entry: &Entry, sha256: &str) -> Option<Kind> {
    if sha256 == entry.tarball.sha256 {
        Some(Kind::Tarball)
    } else if sha256 == entry.deb.sha256 {
        Some(Kind::Deb)
    } else {
        None
    }
}

/// One entry's source by any way but a named file.
fn one(entry: &Entry, snapshot: &str, folder: &Path, progress: Tell<'_>) -> Result<PathBuf, Error> {
    let mut tried = Vec::new();
    if let Some(tarball) = at_hand(entry, folder, &mut tried, progress)? {
        return Ok(tarball);
    }
    let downloads =
        tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder).map_err(Error::io("writing", folder))?;
    for (name, fetch) in [("the archive", from_archive as Fetch), ("the dated archive", from_snapshot)] {
        progress(&format!("kernel {}: fetching {} from {name}", entry.id, entry.deb_name()));
        let file = downloads.path().join(entry.deb_name());
        match fetch(entry, snapshot, &file).and_then(|()| verified(entry, &file)) {
            Ok(()) => return unpack(entry, &file, folder, progress),
            Err(reason) => tried.push(format!("{name}: {reason}")),
        }
        let _ = fs::remove_file(&file);
    }
    Err(Error::SourceMissing {
        file: entry.deb_name(),
        sha256: entry.deb.sha256.clone(),
        tarball_sha256: entry.tarball.sha256.clone(),
        folder: folder.to_owned(),
        tried,
    })
}

type Fetch = fn(&Entry, &str, &Path) -> Result<(), String>;

/// What lies in the folder of sources: kept by an earlier run, or put there by the user under either name.
fn at_hand(
    entry: &Entry,
    folder: &Path,
    tried: &mut Vec<String>,
    progress: Tell<'_>,
) -> Result<Option<PathBuf>, Error> {
    let inner = Path::new(&entry.tarball.path).file_name().unwrap_or_default();
    for file in [folder.join(entry.tarball_name()), folder.join(entry.deb_name()), folder.join(inner)] {
        if !file.is_file() {
            continue;
        }
        let sha256 = hash_file(&file)?;
        match known(entry, &sha256) {
            Some(Kind::Tarball) => return Ok(Some(file)),
            Some(Kind::Deb) => return unpack(entry, &file, folder, progress).map(Some),
            None => tried.push(format!("{} has sha256 {sha256}", file.display())),
        }
    }
    Ok(None)
}

/// The distribution's own client, with the archives that this machine is set up for.
fn from_archive(entry: &Entry, _snapshot: &str, file: &Path) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let wanted = format!("{}={}", entry.package, entry.version);
    let mut apt = Command::new("apt-get");
    apt.args(["download", "--quiet=2", &wanted]).current_dir(folder).env("LC_ALL", "C").stdin(Stdio::null());
    let output = apt.output().map_err(|error| format!("apt-get: {error}"))?;
    if !output.status.success() {
        return Err(last_line(&output.stderr, "apt-get failed"));
    }
    // apt writes a colon of the version as %3a; whatever it wrote is the only package here.
    let saved = fs::read_dir(folder).map_err(|error| error.to_string())?.flatten().map(|found| found.path());
    let mut packages = saved.filter(|found| found.extension().is_some_and(|extension| extension == "deb"));
    let package = packages.next().ok_or("apt-get saved no package")?;
    fs::rename(package, file).map_err(|error| error.to_string())
}

/// The dated archive: every package that ever was, named by its SHA-1.
fn from_snapshot(entry: &Entry, snapshot: &str, file: &Path) -> Result<(), String> {
    let url = format!("{}/{}", snapshot.trim_end_matches('/'), entry.deb.sha1);
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=http,https", "--max-redirs", "5"]);
    curl.args(["--connect-timeout", "20", "--speed-limit", "1000", "--speed-time", "60", "--", &url]);
    curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = curl.spawn().map_err(|error| format!("curl: {error}"))?;
    let copied = take_stdout(&mut child).and_then(|stdout| copy(stdout, &mut File::create(file)?, entry.deb.size));
    if copied.is_err() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(|error| format!("curl: {error}"))?;
    copied.map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(last_line(&output.stderr, "curl failed")) }
}

/// Copies at most `limit` bytes and gives their SHA-256 in hex; one byte more is an error.
fn copy(from: impl Read, to: &mut impl Write, limit: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut from = from.take(limit.saturating_add(1));
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let read = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        total += read as u64;
        if total > limit {
            return Err(io::Error::other(format!("more than the {limit} bytes that kernels.lock says")));
        }
        hash.update(bytes);
        to.write_all(bytes)?;
    }
    Ok(hex(&hash.finalize()))
}

fn verified(entry: &Entry, file: &Path) -> Result<(), String> {
    let sha256 = hash_file(file).map_err(|error| error.to_string())?;
    if sha256 == entry.deb.sha256 { Ok(()) } else { Err(format!("what came has sha256 {sha256}")) }
}

/// Takes the source archive out of the package and leaves it, checked, in the folder of sources.
fn unpack(entry: &Entry, deb: &Path, folder: &Path, progress: Tell<'_>) -> Result<PathBuf, Error> {
    progress(&format!("kernel {}: taking {} out of the package", entry.id, entry.tarball.path));
    let failed = |reason: String| Error::Unpack { file: deb.to_owned(), reason };
    let mut temporary = readable().tempfile_in(folder).map_err(Error::io("writing", folder))?;
    let mut ar = Command::new("ar");
    ar.arg("p").arg(deb).arg("data.tar.xz").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut ar = ar.spawn().map_err(|error| failed(format!("ar: {error}")))?;
    let data = take_stdout(&mut ar).map_err(|error| failed(error.to_string()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xz", "--to-stdout", "--occurrence=1", &format!("./{}", entry.tarball.path)]);
    tar.stdin(data).stdout(Stdio::piped()).stderr(Stdio::piped());
    let tar = tar.spawn();
    if tar.is_err() {
        let _ = ar.kill();
        let _ = ar.wait();
    }
    let mut tar = tar.map_err(|error| failed(format!("tar: {error}")))?;
    let saved = take_stdout(&mut tar).and_then(|stdout| copy(stdout, &mut temporary, entry.tarball.size));
    let ended = tar.wait_with_output();
    let _ = ar.kill();
    let _ = ar.wait();
    let sha256 = saved.map_err(|error| failed(error.to_string()))?;
    if sha256 != entry.tarball.sha256 {
        let said = ended.map(|output| last_line(&output.stderr, "")).unwrap_or_default();
        return Err(failed(format!("{} has sha256 {sha256} {said}", entry.tarball.path)));
    }
    let kept = folder.join(entry.tarball_name());
    temporary.persist(&kept).map_err(|error| error.error).map_err(Error::io("writing", &kept))?;
    Ok(kept)
}

/// A temporary file that others may read once it has its name: the cache may be shared.
fn readable() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(fs::Permissions::from_mode(0o644));
    builder
}

fn take_stdout(child: &mut Child) -> io::Result<ChildStdout> {
    child.stdout.take().ok_or_else(|| io::Error::other("the program has no stdout"))
}

/// The last line of what a program said, as one reason.
pub fn last_line(said: &[u8], otherwise: &str) -> String {
    let text = String::from_utf8_lossy(said);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or(otherwise);
    last.to_owned()
}

/// SHA-256 of a file in hex.
pub fn hash_file(file: &Path) -> Result<String, Error> {
    let mut from = File::open(file).map_err(Error::io("reading", file))?;
    copy(&mut from, &mut io::sink(), u64::MAX).map_err(Error::io("reading", file))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;

    use super::*;
    use crate::kernel::lock::{Deb, Tarball};

    /// A small package and the lock's entry for it.
    fn package(folder: &Path, id: &str) -> (Entry, Vec<u8>) {
        let inner = format!("source of {id}").into_bytes();
        let build = tempfile::tempdir_in(folder).unwrap();
        let at = |name: &str| build.path().join(name);
        fs::create_dir_all(at("usr/src")).unwrap();
        fs::write(at("usr/src/source.tar.xz"), &inner).unwrap();
        run(Command::new("tar").args(["--create", "--xz", "--file", "data.tar.xz", "./usr"]).current_dir(build.path()));
        run(Command::new("ar").args(["rc", "package.deb", "data.tar.xz"]).current_dir(build.path()));
        let deb = fs::read(at("package.deb")).unwrap();
        let sum = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        let entry = Entry {
            id: id.to_owned(),
            // No archive has it: apt-get must fail, and the dated archive comes next.
            package: format!("eif-test-no-such-package-{id}"),
            version: "1".to_owned(),
            deb: Deb { sha256: sum(&deb), sha1: format!("{:040x}", deb.len()), size: deb.len() as u64 },
            tarball: Tarball {
                path: "usr/src/source.tar.xz".to_owned(),
                sha256: sum(&inner),
                size: inner.len() as u64,
            },
            outputs: Default::default(),
        };
        (entry, deb)
    }

    fn run(command: &mut Command) {
        assert!(command.status().expect("install binutils, tar and xz-utils").success());
    }

    /// A dated archive of our own on loopback: answers every request for `path` with `body`, else with 404.
    fn archive(path: String, body: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = io::BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let found = request.starts_with(&format!("GET /file/{path} "));
                let (status, body) = if found { ("200 OK", &body[..]) } else { ("404 Not Found", &b""[..]) };
                // No Content-Length: a size that nobody announces must be bounded as well.
                let _ = write!(stream, "HTTP/1.0 {status}\r\n\r\n").and_then(|()| stream.write_all(body));
            }
        });
        address
    }

    fn fetched(lock: &Lock, snapshot: &str, cache: &Path, source: Option<&Path>) -> Result<(String, PathBuf), Error> {
        let (entry, tarball) = super::source(lock, None, Ways { source, snapshot }, &Store::new(cache), &mut |_| ())?;
        Ok((entry.id.clone(), tarball))
    }

    fn lock(kernels: Vec<Entry>) -> Lock {
        Lock { snapshot: String::new(), kernels }
    }

    fn left(cache: &Path) -> Vec<String> {
        let folder = fs::read_dir(cache.join("sources")).unwrap();
        let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_dated_archive_serves_what_the_archive_dropped() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, deb) = package(cache.path(), "a");
        let address = archive(entry.deb.sha1.clone(), deb);
        let lock = lock(vec![entry]);
        let (_, tarball) = fetched(&lock, &address, cache.path(), None).unwrap();
        assert_eq!(fs::read(&tarball).unwrap(), b"source of a");
        // The second time nothing is asked of anyone.
        assert_eq!(fetched(&lock, "http://127.0.0.1:1", cache.path(), None).unwrap().1, tarball);
        assert_eq!(left(cache.path()), [".lock", "eif-test-no-such-package-a_1.tar.xz"]);
    }

    #[test]
    fn the_next_entry_is_taken_when_the_first_cannot_be_had() {
        let cache = tempfile::tempdir().unwrap();
        let ((first, _), (second, deb)) = (package(cache.path(), "gone"), package(cache.path(), "second"));
        let address = archive(second.deb.sha1.clone(), deb);
        let (id, _) = fetched(&lock(vec![first, second]), &address, cache.path(), None).unwrap();
        assert_eq!(id, "second");
    }

    #[test]
    fn bytes_that_are_not_the_locked_ones_are_not_kept() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, mut deb) = package(cache.path(), "a");
        *deb.last_mut().unwrap() ^= 1;
        let address = archive(entry.deb.sha1.clone(), deb.clone());
        let error = fetched(&lock(vec![entry.clone()]), &address, cache.path(), None).unwrap_err();
        let Error::SourceMissing { file, tried, folder, .. } = &error else { panic!("{error}") };
        assert_eq!((file, folder), (&entry.deb_name(), &cache.path().join("sources")));
        assert!(tried[1].contains("the dated archive: what came has sha256"), "{tried:?}");
        assert_eq!(left(cache.path()), [".lock"]);
    }

    #[test]
    fn a_source_that_does_not_end_is_cut_off() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, mut deb) = package(cache.path(), "a");
        deb.resize(64 << 20, 0);
        let address = archive(entry.deb.sha1.clone(), deb);
        let error = fetched(&lock(vec![entry.clone()]), &address, cache.path(), None).unwrap_err();
        assert!(error.to_string().contains(&format!("more than the {} bytes", entry.deb.size)), "{error}");
    }

    #[test]
    fn a_file_of_the_users_is_known_by_its_hash_alone() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, deb) = package(cache.path(), "a");
        let file = cache.path().join("whatever");
        fs::write(&file, deb).unwrap();
        let locked = lock(vec![entry]);
        let (id, tarball) = fetched(&locked, "", cache.path(), Some(&file)).unwrap();
        assert_eq!((id.as_str(), fs::read(&tarball).unwrap()), ("a", b"source of a".to_vec()));
        assert_eq!(fetched(&locked, "", cache.path(), Some(&tarball)).unwrap().1, tarball);
        fs::write(&file, "something else").unwrap();
        let error = fetched(&locked, "", cache.path(), Some(&file)).unwrap_err();
        assert!(matches!(error, Error::SourceUnknown { .. }), "{error}");
    }

    #[test]
    fn a_package_put_into_the_folder_of_sources_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, deb) = package(cache.path(), "a");
        let sources = Store::new(cache.path()).sources().unwrap();
        fs::write(sources.join(entry.deb_name()), deb).unwrap();
        let (_, tarball) = fetched(&lock(vec![entry]), "http://127.0.0.1:1", cache.path(), None).unwrap();
        assert_eq!(fs::read(tarball).unwrap(), b"source of a");
    }
}
