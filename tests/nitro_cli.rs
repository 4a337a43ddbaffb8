//! Called as `nitro-cli`: what needs no launch. Arguments, stdout, the fixed lines of stderr and exit codes are those of
//! nitro-cli 1.5.0.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::engine::RealEngine;
use common::{Output, TestEnv};
use eif::eif::measure::PCR2_OF_NOTHING;
use eif_testdata::{Config, DockerArchive, Image, fake_bzimage, layers};
use serde_json::{Value, json};

/// A world with the program under AWS's name.
struct World {
    env: TestEnv,
    program: String,
}

impl World {
    fn new() -> Self {
        Self::of(TestEnv::new())
    }

    fn of(env: TestEnv) -> Self {
        fs::create_dir(env.path("bin")).unwrap();
        let program = env.path("bin/nitro-cli");
        symlink(env!("CARGO_BIN_EXE_eif"), &program).unwrap();
        Self { program: program.to_str().unwrap().to_owned(), env }
    }

    /// With nitro-cli's blobs.
    fn with_blobs() -> Self {
        let blobs = golden("blobs").display().to_string();
        Self::of(TestEnv::new().variable("NITRO_CLI_BLOBS", blobs))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.env.run(&self.program, arguments)
    }

    fn build(&self, uri: &str, further: &[&str]) -> Output {
        self.run(&[&["build-enclave", "--docker-uri", uri, "--output-file", "out.eif"][..], further].concat())
    }

    /// `c.pem` and its key `c.key`, by openssl.
    fn pair(&self) {
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 2 -subj /CN=c/O=eif \
                     -out c.pem -keyout c.key";
        let words: Vec<&str> = words.split_whitespace().collect();
        let made =
            self.env.command_of("openssl", &words).output().expect("openssl runs: install the package `openssl`");
        assert!(made.status.success(), "{made:?}");
    }
}

const SIGNED: [&str; 4] = ["--signing-certificate", "c.pem", "--private-key", "c.key"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nitro-cli").join(name)
}

fn plain() -> Image {
    Image::new(layers! { "d 0755 0:0 bin/", "f 0755 0:0 bin/app x" }).config(Config::new().cmd(&["/bin/app"]))
}

/// Asserts the exit code and the block of an error: the code's line first, the link last, nothing on stdout.
fn refused(output: Output, code: u8) -> Output {
    let output = output.code(code.into());
    let (begin, end) = (format!("[ E{code:02} ] "), format!("/enclaves/latest/user/cli-errors.html#E{code:02}"));
    let block: Vec<&str> = output.stderr().lines().skip_while(|line| !line.starts_with("[ E")).collect();
    assert!(block.first().is_some_and(|line| line.starts_with(&begin)), "{output:#?}");
    assert!(
        block.last().is_some_and(|line| line.starts_with("For more details, please visit https://")),
        "{output:#?}"
    );
    assert!(block.last().is_some_and(|line| line.ends_with(&end)), "{output:#?}");
    assert_eq!(output.stdout(), "");
    output
}

/// The keys of an object in the order in which they are printed at this depth.
fn keys(printed: &str, depth: usize) -> Vec<&str> {
    let begin = format!("{}\"", "  ".repeat(depth));
    printed.lines().filter_map(|line| line.strip_prefix(&begin)?.split('"').next()).collect()
}

#[test]
fn the_name_makes_the_personality() {
    let world = World::new();
    let version = world.run(&["--version"]).success();
    assert_eq!(version.stdout(), format!("Nitro CLI {}\n", env!("CARGO_PKG_VERSION")));
    let help = world.run(&["--help"]).success();
    for command in ["build-enclave", "describe-eif", "pcr", "sign-eif", "explain"] {
        assert!(help.stdout().contains(command), "{help:#?}");
        let of_command = world.run(&[command, "--help"]).success();
        assert!(of_command.stdout().contains("Example"), "{of_command:#?}");
    }
    let _ = world.run(&[]).code(2).says("Usage: nitro-cli");
    let _ = world.run(&["build"]).code(2).says("unrecognized subcommand");
    let _ = world.run(&["build-enclave", "--docker-uri", "x"]).code(2).says("--output-file");
    let _ = world.run(&["pcr"]).code(2).says("--input");
    world.env.write("empty", "");
    let called = world.run(&["pcr", "--input", "empty"]).success();
    let asked = world.env.eif(&["nitro-cli", "pcr", "--input", "empty"]).success();
    assert_eq!(called.stdout(), asked.stdout());
    let _ = world.env.eif(&["pcr", "--input", "empty"]).success();
}

#[test]
fn pcr_is_of_a_file_or_a_certificate() {
    let world = World::new();
    world.env.write("empty", "");
    let output = world.run(&["pcr", "--input", "empty"]).success();
    assert_eq!(output.stdout(), format!("{{\n  \"PCR\": \"{PCR2_OF_NOTHING}\"\n}}\n"));
    world.pair();
    let output = world.run(&["pcr", "--signing-certificate", "c.pem"]).success();
    assert_eq!(output.json(), world.env.eif(&["pcr", "--signing-certificate", "c.pem"]).success().json());
    assert_eq!(keys(output.stdout(), 1), ["PCR8"]);
    let _ = refused(world.run(&["pcr", "--input", "none"]), 19).says("File: 'none', failing operation: 'Open'.");
    let _ = refused(world.run(&["pcr", "--signing-certificate", "none"]), 19).says("'none'");
    let _ = refused(world.run(&["pcr", "--signing-certificate", "empty"]), 57).says("BEGIN CERTIFICATE");
}

/// What nitro-cli measures of the golden image, from each transport.
#[test]
fn with_all_blobs_the_pcrs_are_nitro_clis() {
    let world = World::with_blobs();
    let expected: Value = serde_json::from_slice(&fs::read(golden("plain.json")).unwrap()).unwrap();
    let archive = golden("plain.tar.gz");
    let output = world.build(&format!("docker-archive:{}", archive.display()), &[]).success();
    let expected = json!({"Measurements": {
        "HashAlgorithm": "Sha384 { ... }",
        "PCR0": expected["PCR0"], "PCR1": expected["PCR1"], "PCR2": expected["PCR2"],
    }});
    assert_eq!(output.json(), expected);
    assert_eq!(output.stdout(), serde_json::to_string_pretty(&expected).unwrap() + "\n");
    let fixed = ["Start building the Enclave Image...", "Using the locally available Docker image..."];
    let fixed = [&fixed[..], &["Enclave Image successfully created."]].concat();
    let said: Vec<&str> = output.stderr().lines().filter(|line| fixed.contains(line)).collect();
    assert_eq!(said, fixed, "in this order");
    let record = &world.env.eif(&["inspect", "out.eif", "--json"]).success().json()["metadata"];
    assert_eq!(record["CustomMetadata"]["eif"]["profile"], "nitro-cli");
}

/// A folder that lacks one part makes a file of ours, with the kernel and the trimmed command line of the folder.
#[test]
fn with_some_blobs_the_layout_is_ours() {
    let world = World::of(TestEnv::new().variable("NITRO_CLI_BLOBS", "blobs"));
    fs::create_dir(world.env.path("blobs")).unwrap();
    for (name, bytes) in
        [("bzImage", fake_bzimage()), ("cmdline", b" \n quiet a=1\n\n".to_vec()), ("init", b"x".into())]
    {
        fs::write(world.env.path("blobs").join(name), bytes).unwrap();
    }
    let reference = world.env.layout("image", &plain());
    world.env.write("custom.json", r#"{"team": "a", "Zone": 1}"#);
    let _ = world.build(&reference, &["--name", "app", "--version", "7", "--metadata", "custom.json"]).success();
    let metadata = world.env.eif(&["inspect", "out.eif", "--json"]).success().json()["metadata"].take();
    assert_eq!((&metadata["ImageName"], &metadata["ImageVersion"]), (&json!("app"), &json!("7")));
    let record = &metadata["CustomMetadata"]["eif"];
    assert_eq!((&record["cmdline"], &record["profile"]), (&json!("quiet a=1"), &Value::Null));
    assert_ne!(record["init_sha256"], eif_testdata::sha256(b"x"), "the init is ours");
    let same = ["build", &reference, "-o", "same.eif", "--kernel", "blobs/bzImage", "--cmdline", "quiet a=1"];
    let further = ["--name", "app", "--image-version", "7", "--metadata", "custom.json"];
    let _ = world.env.eif(&[&same[..], &further].concat()).success();
    assert!(fs::read(world.env.path("same.eif")).unwrap() == fs::read(world.env.path("out.eif")).unwrap());

    let described = world.run(&["describe-eif", "--eif-path", "out.eif"]).success();
    let top = ["EifVersion", "Measurements", "IsSigned", "CheckCRC", "ImageName", "ImageVersion", "Metadata"];
    assert_eq!(keys(described.stdout(), 1), top);
    let custom = ["Zone", "eif", "team"];
    let build = ["BuildTime", "BuildTool", "BuildToolVersion", "OperatingSystem", "KernelVersion", "DockerInfo"];
    let inner = ["HashAlgorithm", "PCR0", "PCR1", "PCR2"];
    assert_eq!(keys(described.stdout(), 2), [&inner[..], &build, &custom].concat());
}

#[test]
fn what_is_signed_says_so() {
    let world = World::with_blobs();
    world.pair();
    let reference = world.env.layout("image", &plain());
    let measured = world.build(&reference, &SIGNED).success().json();
    fs::rename(world.env.path("out.eif"), world.env.path("signed.eif")).unwrap();
    let _ = world.build(&reference, &[]).success();
    let words = [&["sign-eif", "--eif-path", "out.eif"][..], &SIGNED].concat();
    let output = world.run(&words).success();
    assert_eq!(output.json(), measured);
    assert_eq!(output.stderr(), "Enclave Image successfully signed.\n");
    assert!(fs::read(world.env.path("out.eif")).unwrap() == fs::read(world.env.path("signed.eif")).unwrap());
    let described = world.run(&["describe-eif", "--eif-path", "out.eif"]).success();
    let top = ["EifVersion", "Measurements", "IsSigned", "SigningCertificate", "CheckCRC", "SignatureCheck"];
    assert_eq!(keys(described.stdout(), 1), [&top[..], &["ImageName", "ImageVersion", "Metadata"]].concat());
    let object = described.json();
    assert_eq!(object["SigningCertificate"]["IssuerName"], json!({"commonName": "c", "organizationName": "eif"}));
    assert_eq!((&object["IsSigned"], &object["SignatureCheck"]), (&json!(true), &json!(true)));
    assert_eq!(object["Measurements"], measured["Measurements"]);

    let _ = refused(world.build(&reference, &SIGNED[..2]), 1).says("User did not provide the `private-key` argument.");
    let _ = refused(world.build(&reference, &SIGNED[2..]), 1).says("the `signing-certificate` argument.");
    let other = ["--signing-certificate", "none.pem", "--private-key", "c.key"];
    let _ = refused(world.build(&reference, &other), 48).says("none.pem");
    let _ = refused(world.run(&[&["sign-eif", "--eif-path", "c.key"][..], &SIGNED].concat()), 35);
}

#[test]
fn failures_have_nitro_clis_codes() {
    let world = World::with_blobs();
    let reference = world.env.layout("image", &plain());
    let missing = world.run(&["build-enclave", "--docker-uri", &reference, "--output-file", "no/out.eif"]);
    let _ = refused(missing, 19).says("File: 'no/out.eif', failing operation: 'Open'.");
    let _ = refused(world.build("oci:nowhere", &[]), 50).says("nowhere");
    let _ = refused(world.build("dir:x", &[]), 50);
    let nothing = Image::new(layers! { "f 0755 0:0 a x" }).patch_config("/config", json!({}));
    let nothing = world.env.layout("nothing", &nothing);
    let _ = refused(world.build(&nothing, &[]), 48).says("neither Cmd nor Entrypoint").says("E-no-command");
    world.env.write("large.json", format!("{{\"a\": \"{}\"}}", "x".repeat(4090)));
    let _ = refused(world.build(&reference, &["--metadata", "large.json"]), 48).says("4096");
    world.env.write("bad.json", "{");
    let _ = refused(world.build(&reference, &["--metadata", "bad.json"]), 48).says("bad.json");
    let _ = refused(world.build(&reference, &["--docker-dir", "."]), 49);
    assert!(!world.env.path("out.eif").exists());
    world.env.write("no.eif", [b'x'; 5000]);
    let _ = refused(world.run(&["describe-eif", "--eif-path", "no.eif"]), 35).says("no.eif");
    let _ = refused(world.run(&["describe-eif", "--eif-path", "none.eif"]), 35).says("none.eif");
    assert_eq!(world.env.listing(&world.env.tmp()), [""; 0]);
}

/// A changed byte is a false `CheckCRC`, as with AWS's library, and no failure.
#[test]
fn a_wrong_crc_is_described() {
    let world = World::with_blobs();
    let reference = world.env.layout("image", &plain());
    let _ = world.build(&reference, &[]).success();
    let mut bytes = fs::read(world.env.path("out.eif")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    world.env.write("out.eif", bytes);
    let described = world.run(&["describe-eif", "--eif-path", "out.eif"]).success().json();
    assert_eq!(described["CheckCRC"], json!(false));
}

#[test]
fn a_backtrace_is_given_to_who_asks() {
    let world = World::of(TestEnv::new().variable("BACKTRACE", "1"));
    let output = world.run(&["describe-eif", "--eif-path", "none.eif"]).code(35);
    let _ = output.says("\n\nBacktrace:\n  Action: Describe EIF\n  Subactions:\n    none.eif: ").says("\n  Version: ");
}

#[test]
fn codes_are_explained_on_stderr() {
    let world = World::new();
    let output = world.run(&["explain", "--error-code", "E26"]).success().says("Insufficient memory requested. ");
    assert_eq!(output.stdout(), "");
    let _ = world.run(&["explain", "--error-code", "E99"]).success().says("No such error code E99");
}

/// A bare name is that of an image in the Docker engine, as after `docker build -t app .`; only then one in a registry.
#[test]
fn a_bare_name_is_looked_for_in_the_engine_first() {
    let env = TestEnv::new();
    let engine = RealEngine::start(&env, None);
    let blobs = golden("blobs").display().to_string();
    let world = World::of(env.variable("DOCKER_HOST", engine.host()).variable("NITRO_CLI_BLOBS", blobs));
    world.env.write("saved.tar", DockerArchive::new().image(&["app:v1"], &plain()).legacy().tar());
    let docker = |words: &[&str]| {
        let output = world.env.command_of("docker", words).output();
        let output = output.expect("docker is needed here (Debian: docker.io or docker-cli)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    docker(&["load", "-i", "saved.tar"]);
    let reference = world.env.layout("image", &plain());
    let expected = world.build(&reference, &[]).success().json();
    let output = world.build("app:v1", &[]).success().says("Using the locally available Docker image...");
    assert_eq!(output.json(), expected);
    // What the engine lacks is asked of the registry, where nobody listens.
    let output = refused(world.build("localhost:1/app:v2", &[]), 50);
    let _ = output.says("localhost:1").says_nothing_of("locally available");
    let _ = refused(world.build("docker://localhost:1/app:v1", &[]), 50);
}

/// `--docker-dir` has the image made by `docker build` first; its words are on stderr, and its failure is E49.
#[test]
fn a_dockerfile_is_built_by_docker() {
    let env = TestEnv::new();
    let engine = RealEngine::start(&env, None);
    let blobs = golden("blobs").display().to_string();
    let env = env.variable("DOCKER_HOST", engine.host()).variable("NITRO_CLI_BLOBS", blobs);
    let world = World::of(env.variable("DOCKER_BUILDKIT", "0"));
    fs::create_dir(world.env.path("context")).unwrap();
    world.env.write("context/app", "program");
    fs::set_permissions(world.env.path("context/app"), fs::Permissions::from_mode(0o755)).unwrap();
    world.env.write("context/Dockerfile", "FROM scratch\nCOPY app /app\nCMD [\"/app\"]\n");
    let _ = world.build("made:v1", &["--docker-dir", "context"]).success();
    let inspected = world.env.eif(&["inspect", "out.eif", "--json"]).success().json();
    assert_eq!(inspected["process"]["argv"], json!(["/app"]));
    world.env.write("context/Dockerfile", "FROM scratch\nCOPY none /none\n");
    let _ = refused(world.build("made:v2", &["--docker-dir", "context"]), 49).says("docker build: exit status");
}
