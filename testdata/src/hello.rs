//! The image of the first command and of the golden values: small, and with one of everything that a tree may hold.

use crate::{Compression, Config, Entry, Image, layers};

/// The program, built from `testdata/hello` by this package's build script; empty where no compiler has the target.
const X86_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello-x86_64"));
const AARCH64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello-aarch64"));

/// The hello program for an architecture (`x86_64`, `aarch64`).
///
/// # Panics
/// If it could not be built.
pub fn hello_program(arch: &str) -> &'static [u8] {
    let program = if arch == "aarch64" { AARCH64 } else { X86_64 };
    assert!(!program.is_empty(), "no Rust compiler for {arch} was at hand: run `sh .ci/install-packages`, build again");
    program
}

/// The hello image: two layers (gzip, zstd) whose command prints `Hello from the enclave side!`.
pub fn hello_image() -> Image {
    hello_image_for("x86_64")
}

/// The same image for another architecture: `x86_64` or `aarch64`.
pub fn hello_image_for(arch: &str) -> Image {
    let mut layers = layers! {
        "d 0755 0:0 ./",
        "d 0755 0:0 app/",
        "d 0755 0:0 etc/",
        r"f 0644 0:0 etc/passwd root:x:0:0:root:/root:/bin/none\nhello:x:1000:1000:Hello:/home/hello:/bin/none\n",
        r"f 0644 0:0 etc/group root:x:0:\nhello:x:1000:\nvideo:x:44:hello\naudio:x:29:other,hello\n",
        r"f 0644 0:0 etc/hosts 127.0.0.1 localhost\n::1 localhost\n",
        "f 0640 0:44 etc/shadow root:*:0::::::",
        "f 0644 0:0 etc/motd gone in layer two",
        "d 0755 0:0 home/",
        "d 0700 1000:1000 home/hello/",
        r"f 0600 1000:1000 home/hello/notes first\nsecond\n",
        "d 1777 0:0 tmp/",
        "d 0755 0:0 usr/bin/",
        "f 4755 0:0 usr/bin/as-root set-uid",
        "f 2755 0:44 usr/bin/as-video set-gid",
        "h usr/bin/also-root => usr/bin/as-root",
        "l 0777 0:0 bin -> usr/bin",
        "l 0777 1000:1000 home/hello/absolute -> /etc/hosts",
        "l 0777 0:0 dangling -> nowhere/at/all",
        "d 0755 0:0 empty/",
        "d 0750 1000:44 srv/deep/er/est/",
        r"f 0644 65534:65534 srv/deep/caf\xc3\xa9\x20au\x20lait UTF-8 and spaces",
        r"f 0644 0:0 srv/deep/raw-\xff-\x0a-byte neither UTF-8 nor one line",
        "f 0000 0:0 srv/nobody-may read me",
        "f 0644 0:0 srv/nothing",
        "f 0644 4294967294:4294967294 srv/last-owner x",
        "p 0620 1000:5 srv/pipe",
        "f 0644 0:0 opt/cache/old hidden by the opaque directory",
        "f 0644 0:0 opt/file-then-link x",
        "f 0644 0:0 opt/dir-then-file/inside x",
        "f 0640 7:8 opt/first-name two names, then one",
        "h opt/second-name => opt/first-name",
        "--",
        "w etc/motd",
        "d 0775 0:1000 opt/cache/",
        "o opt/cache",
        "f 0644 0:0 opt/cache/new seen",
        "l 0777 0:0 opt/file-then-link -> cache/new",
        "f 0644 0:0 opt/dir-then-file a file now",
        "w opt/first-name",
    };
    layers[0] =
        layers[0].clone().entry(Entry::file("app/hello", hello_program(arch)).mode(0o755)).compress(Compression::Gzip);
    layers[1] = layers[1].clone().compress(Compression::Zstd);
    let platform = if arch == "aarch64" { "linux/arm64" } else { "linux/amd64" };
    Image::new(layers).config(hello_config().platform(platform))
}

fn hello_config() -> Config {
    Config::new()
        .entrypoint(&["hello"])
        .env(&["PATH=/nowhere:/app:/usr/bin", "GREETING=Hello from the enclave side!", "EMPTY=", "TWICE=1", "TWICE=2"])
        .user("hello")
        .working_dir("/srv/deep")
}
