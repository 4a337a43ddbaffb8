//! Registries for tests: Debian's real one, and one of our own that misbehaves as it is told and remembers what it was
//! asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eif_testdata::{Files, Image, OciLayout, sha256};

use super::TestEnv;

/// Debian's docker-registry on a port of its own, in the working folder of a [`TestEnv`]; stopped when dropped.
pub struct RealRegistry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

/// What a real registry demands.
#[derive(Default)]
pub struct Demands<'a> {
    /// The only user, and the password.
    pub login: Option<(&'a str, &'a str)>,
    /// Certificate and key, in files.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Where all blobs are to be fetched from, instead of being given.
    pub storage: Option<&'a str>,
}

impl RealRegistry {
    pub fn start(env: &TestEnv, demands: &Demands<'_>) -> Self {
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
            env.path("registry").display()
        );
        if let Some((user, password)) = demands.login {
            let words = ["-Bbn", "-C", "4", user, password];
            let output = env.command_of("htpasswd", &words).output().expect("htpasswd (Debian: apache2-utils)");
            assert!(output.status.success(), "{output:?}");
            let file = env.write("htpasswd", &output.stdout);
            config += &format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display());
        }
        if let Some(storage) = demands.storage {
            config += &format!("middleware: {{storage: [{{name: redirect, options: {{baseurl: '{storage}'}}}}]}}\n");
        }
        let tls = demands.tls.map(|(certificate, key)| {
            format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display())
        });
        config += &format!("http: {{addr: '127.0.0.1:0'{}}}\n", tls.unwrap_or_default());
        let config = env.write("registry.yml", config);
        let mut command = env.command_of("docker-registry", &["serve".as_ref(), config.as_os_str()]);
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut process = spawned.expect("docker-registry (Debian: docker-registry)");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let port = loop {
            let line = log.next().expect("the registry listens").unwrap();
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                break rest.chars().take_while(char::is_ascii_digit).collect::<String>();
            }
        };
        // Its log is read to the end, or it would block.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, host: format!("127.0.0.1:{port}") }
    }

    /// Puts `LAYOUT:TAG` (an OCI layout in the working folder) there with skopeo, under `REPOSITORY:TAG`.
    pub fn push(&self, env: &TestEnv, layout: &str, repository: &str, further: &[&str]) {
        let target = format!("docker://{}/{repository}", self.host);
        let words = ["copy", "--insecure-policy", "--all", "--dest-tls-verify=false"];
        let source = format!("oci:{layout}");
        let words = [&words[..], further, &[&source, &target]].concat();
        let output = env.command_of("skopeo", &words).output().expect("skopeo (Debian: skopeo)");
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A question that the registry of our own was asked.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What of it is no UTF-8 is replaced.
    pub body: String,
    /// How often this path was asked before.
    pub before: usize,
}

impl Seen {
    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte of a range that is asked for.
    pub fn from(&self) -> Option<u64> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What comes behind the head of an answer.
pub enum Body {
    Bytes(Vec<u8>),
    /// So many bytes are promised; these come, and then the end.
    Cut(u64, Vec<u8>),
    /// In chunks, and without an end.
    Endless,
    /// So many zeros behind these bytes.
    Zeros(Vec<u8>, u64),
    /// One byte in a while, of so many.
    Drops(u64),
    /// Nothing is promised: the end of the connection is the end.
    Unmarked(Vec<u8>),
}

/// An answer.
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::of(status, Body::Bytes(body.into()))
    }

    pub fn of(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn redirect(to: impl Into<String>) -> Self {
        Self::new(307, "").header("location", to)
    }
}

/// What is done about a question.
pub enum Deed {
    /// The honest answer.
    Honest,
    Reply(Reply),
    /// The connection is closed without a word.
    HangUp,
    /// No word, as long as the other side bears it.
    Silence,
}

type Whim = dyn Fn(&Seen) -> Deed + Send + Sync;

/// What the threads of a [`Fake`] share.
struct Shared {
    content: Files,
    whim: Box<Whim>,
    seen: Mutex<Vec<Seen>>,
    stop: AtomicBool,
    /// Bytes of blobs that have been sent, and how many may be.
    sent: AtomicU64,
    gate: AtomicU64,
}

/// A registry of our own on loopback, by plain http. It serves the images of an OCI layout, in every repository.
pub struct Fake {
    shared: Arc<Shared>,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

impl Fake {
    /// One that is honest about everything but what `whim` does otherwise.
    pub fn start(content: Files, whim: impl Fn(&Seen) -> Deed + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            content,
            whim: Box::new(whim),
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            gate: AtomicU64::new(u64::MAX),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stop.load(Ordering::Relaxed) {
                    break;
                }
                let (serving, stream) = (serving.clone(), stream.unwrap());
                std::thread::spawn(move || drop(serving.talk(stream)));
            }
        });
        Self { shared, host }
    }

    /// One that is honest about this image, under the tag `v1`.
    pub fn honest(image: &Image) -> Self {
        Self::of(image, |_| Deed::Honest)
    }

    /// As [`Fake::start`] for one image, under the tag `v1`.
    pub fn of(image: &Image, whim: impl Fn(&Seen) -> Deed + Send + Sync + 'static) -> Self {
        Self::start(OciLayout::new().tag("v1", image).files(), whim)
    }

    /// `HOST/app:v1`.
    pub fn image(&self) -> String {
        format!("{}/app:v1", self.host)
    }

    /// Every question so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Forgets what it was asked.
    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
        self.shared.sent.store(0, Ordering::Relaxed);
    }

    /// Sends so many bytes of blobs, and then waits until it may send more.
    pub fn gate(&self, bytes: u64) {
        self.shared.gate.store(bytes, Ordering::Relaxed);
    }

    /// Waits until it has sent so many bytes of blobs.
    pub fn wait_for(&self, bytes: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.shared.sent.load(Ordering::Relaxed) < bytes {
            assert!(Instant::now() < deadline, "the bytes were not asked for: {:?}", self.seen());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(&self.host);
    }
}

impl Shared {
    fn talk(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let Some(seen) = self.hear(&mut reader)? else { return Ok(()) };
        let deed = (self.whim)(&seen);
        self.seen.lock().unwrap().push(seen.clone());
        match deed {
            Deed::Honest => self.say(stream, &seen, self.honest(&seen)),
            Deed::Reply(reply) => self.say(stream, &seen, reply),
            Deed::HangUp => Ok(()),
            Deed::Silence => {
                // Ends when the other side hangs up.
                reader.read(&mut [0]).map(drop)
            }
        }
    }

    fn hear(&self, reader: &mut impl BufRead) -> io::Result<Option<Seen>> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [method, target, _] = words.as_slice() else { return Ok(None) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let before = self.seen.lock().unwrap().iter().filter(|seen| seen.path == path).count();
        let (method, path, query) = ((*method).to_owned(), path.to_owned(), query.to_owned());
        Ok(Some(Seen { method, path, query, headers, body, before }))
    }

    /// What the distribution specification wants.
    fn honest(&self, seen: &Seen) -> Reply {
        let missing = |code: &str| {
            let body = format!(r#"{{"errors":[{{"code":"{code}","message":"it is not here"}}]}}"#);
            Reply::new(404, body).header("content-type", "application/json")
        };
        if let Some((_, digest)) = seen.path.split_once("/blobs/sha256:") {
            return match self.content.get(&format!("blobs/sha256/{digest}")) {
                Some(bytes) => part(bytes, seen.from()),
                None => missing("BLOB_UNKNOWN"),
            };
        }
        let Some((_, name)) = seen.path.split_once("/manifests/") else { return missing("UNSUPPORTED") };
        let digest = name.strip_prefix("sha256:").map(str::to_owned).or_else(|| self.tagged(name));
        match digest.and_then(|hex| self.content.get(&format!("blobs/sha256/{hex}"))) {
            Some(bytes) => Reply::new(200, bytes).header("docker-content-digest", sha256(bytes)),
            None => missing("MANIFEST_UNKNOWN"),
        }
    }

    fn tagged(&self, tag: &str) -> Option<String> {
        let index: serde_json::Value = serde_json::from_slice(self.content.get("index.json")?).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag)?;
        entry["digest"].as_str().unwrap().strip_prefix("sha256:").map(str::to_owned)
    }

    fn say(&self, mut stream: TcpStream, seen: &Seen, reply: Reply) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Told\r\nConnection: close\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let length = match &reply.body {
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Cut(promised, _) | Body::Drops(promised) => Some(*promised),
            Body::Zeros(head, zeros) => Some(head.len() as u64 + zeros),
            Body::Endless | Body::Unmarked(_) => None,
        };
        head += &match (length, &reply.body) {
            (Some(length), _) => format!("Content-Length: {length}\r\n\r\n"),
            (None, Body::Endless) => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            (None, _) => "\r\n".to_owned(),
        };
        stream.write_all(head.as_bytes())?;
        match reply.body {
            Body::Bytes(bytes) | Body::Cut(_, bytes) | Body::Unmarked(bytes) => self.pour(&mut stream, seen, &bytes),
            Body::Zeros(head, zeros) => {
                stream.write_all(&head)?;
                io::copy(&mut io::repeat(0).take(zeros), &mut stream).map(drop)
            }
            Body::Endless => loop {
                stream.write_all(b"1000\r\n")?;
                stream.write_all(&[b'x'; 0x1000])?;
                stream.write_all(b"\r\n")?;
            },
            Body::Drops(count) => (0..count).try_for_each(|_| {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(b"x")
            }),
        }
    }

    /// Bytes of a blob go through the gate.
    fn pour(&self, stream: &mut TcpStream, seen: &Seen, bytes: &[u8]) -> io::Result<()> {
        if !seen.is_blob() {
            return stream.write_all(bytes);
        }
        for chunk in bytes.chunks(4096) {
            while self.sent.load(Ordering::Relaxed) >= self.gate.load(Ordering::Relaxed) {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            stream.write_all(chunk)?;
            self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Bytes from an offset on, as an honest registry gives them.
pub fn part(bytes: &[u8], from: Option<u64>) -> Reply {
    match from {
        None => Reply::new(200, bytes),
        Some(from) if from >= bytes.len() as u64 => Reply::new(416, ""),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[from as usize..]).header("content-range", range)
        }
    }
}

/// Writes with openssl an authority and a certificate of its for `names` (`IP:127.0.0.1`, `DNS:localhost`):
/// `ca.pem`, `server.pem` and `server.key` in the working folder.
pub fn certificates(env: &TestEnv, names: &str) {
    let subject = format!("subjectAltName={names}");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial";
    let steps = [
        format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"),
        format!("req {key} -keyout server.key -out server.csr -subj /CN=server"),
        format!("{sign} -days 2 -out server.pem -extfile names"),
    ];
    fs::write(env.path("names"), subject).unwrap();
    for step in steps {
        let words: Vec<&str> = step.split(' ').collect();
        let output = env.command_of("openssl", &words).output().expect("openssl (Debian: openssl)");
        assert!(output.status.success(), "{output:?}");
    }
}
