//! A real Docker engine for tests: Debian's dockerd, without a network, in the working folder of a [`TestEnv`].

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::TestEnv;

/// An engine, stopped when dropped.
pub struct RealEngine {
    process: Child,
    socket: PathBuf,
    port: Option<u16>,
}

impl RealEngine {
    /// Starts one on a socket of its own; with the files of [`super::registry::certificates`], on loopback in TLS too,
    /// where clients need a certificate of the same authority.
    pub fn start(env: &TestEnv, tls: Option<&Path>) -> Self {
        let socket = env.path("docker.sock");
        let mut arguments = vec![
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            "--storage-driver=vfs".to_owned(),
            format!("--host=unix://{}", socket.display()),
            format!("--data-root={}", env.path("docker-data").display()),
            format!("--exec-root={}", env.path("docker-run").display()),
            format!("--pidfile={}", env.path("docker.pid").display()),
        ];
        let port = tls.map(|folder| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let file = |name: &str| folder.join(name).display().to_string();
            arguments.extend([
                format!("--host=tcp://127.0.0.1:{port}"),
                "--tlsverify".to_owned(),
                format!("--tlscacert={}", file("ca.pem")),
                format!("--tlscert={}", file("server.pem")),
                format!("--tlskey={}", file("server.key")),
            ]);
            port
        });
        let log = fs::File::create(env.path("docker.log")).unwrap();
        // It ends with this test even if that is killed, and its mounts are nobody else's and end with it.
        let words = ["--pdeathsig", "TERM", "unshare", "--mount", "--", "dockerd"].map(str::to_owned);
        let mut command = env.command_of("setpriv", &[&words[..], &arguments].concat());
        let spawned = command.stdout(Stdio::null()).stderr(log).spawn();
        let process = spawned.expect("setpriv can be run: install the package util-linux");
        let mut engine = Self { process, socket, port };
        engine.wait(env);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(env.work().to_str().unwrap()), "a killed test would leave mounts: {mounts}");
        engine
    }

    /// Until it answers.
    fn wait(&mut self, env: &TestEnv) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.answers() {
            let ended = self.process.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(env.path("docker.log")).unwrap();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!(
                    "no Docker engine starts here, which needs dockerd (Debian: docker.io), root and cgroups: \
                     {ended:?}\n{tail:#?}"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return false };
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
        asked.is_ok() && answer.starts_with("HTTP/1.0 200")
    }

    /// DOCKER_HOST of its socket.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// DOCKER_HOST in TLS.
    pub fn tcp(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port.expect("it was started with certificates"))
    }

    /// What `docker` says, asked of this engine.
    pub fn docker(&self, env: &TestEnv, arguments: &[&str]) -> String {
        let host = self.host();
        let words = [&["--host", &host], arguments].concat();
        let output = env.command_of("docker", &words).output().expect("docker (Debian: docker.io)");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for RealEngine {
    /// SIGTERM, so that it stops its containerd and unmounts what it mounted.
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").arg(self.process.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
