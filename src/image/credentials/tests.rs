use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::Refusal;

/// A folder with files and helper programs.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        World(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str, standing: Standing) -> AuthFile {
        fs::write(self.path(name), text).unwrap();
        AuthFile::new(self.path(name), standing)
    }

    /// A shell script as `docker-credential-NAME`. Another process writes it: a program that this one has open for
    /// writing, and that a fork on another thread inherits, cannot be run.
    fn helper(&self, name: &str, script: &str) {
        let file = self.path(&format!("docker-credential-{name}"));
        let mut writer = Command::new("sh");
        writer.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(&file).stdin(Stdio::piped());
        let mut writer = writer.spawn().unwrap();
        let text = format!("#!/bin/sh\n{script}\n");
        std::io::Write::write_all(&mut writer.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    /// Programs in temporary folders are what these tests run.
    fn assert_exec(&self) {
        self.helper("try", "exit 0");
        let ran = Command::new(self.path("docker-credential-try")).status();
        assert!(ran.is_ok(), "{}: mounted noexec? Set TMPDIR to another place: {ran:?}", self.0.path().display());
    }

    fn credentials(&self, files: Vec<AuthFile>) -> Credentials {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        Credentials::new(files, path.into())
    }

    /// The login that one `config.json` gives.
    fn config(&self, text: &str, registry: &str, repository: &str) -> Login {
        self.credentials(vec![self.file("config.json", text, Standing::Named)])
            .lookup(registry, repository)
            .unwrap()
            .login
    }
}

fn basic(user: &str, password: &str) -> Login {
    Login::Basic { user: user.to_owned(), password: Secret::new(password) }
}

fn token(text: &str) -> Login {
    Login::IdentityToken(Secret::new(text))
}

fn auth(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// `auths` with the key itself as user.
fn keyed(keys: &[&str]) -> String {
    let entries: Vec<String> =
        keys.iter().map(|key| format!(r#""{key}":{{"username":"{key}","password":"p"}}"#)).collect();
    format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
}

#[test]
fn the_most_special_key_wins() {
    let world = World::new();
    let mut keys = vec!["r.io/a/b/c", "r.io/a/b", "r.io/a", "r.io", "https://r.io/v2/"];
    while let Some(first) = keys.first().copied() {
        assert_eq!(world.config(&keyed(&keys), "r.io", "a/b/c"), basic(first, "p"));
        keys.remove(0);
    }
    for other in ["r.io/a/b/cc", "r.io/a/b/c/d", "r.io:443", "xr.io", "r.io.evil", "https://r.io.evil/", "r.io/"] {
        assert_eq!(world.config(&keyed(&[other]), "r.io", "a/b/c"), Login::Anonymous, "{other}");
    }
}

#[test]
fn docker_hub_has_many_names() {
    let world = World::new();
    let keys = ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"];
    for key in keys.into_iter().chain(["docker.io/library/x", "docker.io/library", "https://index.docker.io"]) {
        for name in HUB_NAMES {
            assert_eq!(world.config(&keyed(&[key]), name, "library/x"), basic(key, "p"), "{name}");
        }
        assert_eq!(world.config(&keyed(&[key]), "ghcr.io", "library/x"), Login::Anonymous);
    }
}

#[test]
fn forms_of_an_entry() {
    let world = World::new();
    let login = |entry: &str| world.config(&format!(r#"{{"auths":{{"r":{entry}}},"HttpHeaders":{{}}}}"#), "r", "x");
    let with_auth = |text: &str| login(&format!(r#"{{"auth":"{}"}}"#, auth(text)));
    assert_eq!(with_auth("user:pass"), basic("user", "pass"));
    assert_eq!(with_auth("AWS:eyJ:x:=="), basic("AWS", "eyJ:x:=="));
    assert_eq!(with_auth("user:"), basic("user", ""));
    assert_eq!(with_auth("user:pass\0\0"), basic("user", "pass"));
    assert_eq!(with_auth("<token>:t"), token("t"));
    assert_eq!(login(r#"{"auth":"dTpw","identitytoken":"t"}"#), token("t"));
    assert_eq!(login(r#"{"auth":"dTpwcA"}"#), basic("u", "pp"), "without padding");
    assert_eq!(login(r#"{"username":"u","password":"p"}"#), basic("u", "p"));
    assert_eq!(login(r#"{"auth":null,"username":"u","password":"p","email":"e"}"#), basic("u", "p"));
    for empty in ["{}", "null", r#"{"auth":""}"#, r#"{"email":"a@b"}"#] {
        assert_eq!(login(empty), Login::Anonymous, "{empty}");
    }
    for empty in ["", " \n", "{}", r#"{"auths":null,"credHelpers":null,"credsStore":null}"#] {
        assert_eq!(world.config(empty, "r", "x"), Login::Anonymous, "{empty}");
    }
}

#[test]
fn places_are_asked_in_their_order() {
    let world = World::new();
    let entry = |user: &str| format!(r#"{{"auths":{{"r":{{"username":"{user}","password":"hidden"}}}}}}"#);
    let old = r#"{"https://r/v1/":{"auth":"b2xkOnA=","email":"e"}}"#;
    let other = keyed(&["elsewhere"]);
    let files = vec![
        AuthFile::new(world.path("missing"), Standing::Usual),
        AuthFile::new(world.0.path(), Standing::Usual),
        world.file("broken", "{", Standing::Usual),
        world.file("other", &other, Standing::Usual),
        world.file("first", &entry("first"), Standing::Usual),
        world.file("second", &entry("second"), Standing::Usual),
    ];
    let found = world.credentials(files).lookup("r", "x").unwrap();
    assert_eq!(found.login, basic("first", "hidden"));
    let said: Vec<&str> = found.tried.iter().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    let broken = "not JSON (line 1, column 1)";
    assert_eq!(said, ["no such file", "not a file", broken, "nothing for r", "a login for r"]);
    let old = world.credentials(vec![world.file(".dockercfg", old, Standing::Old)]);
    assert_eq!(old.lookup("r", "x").unwrap().login, basic("old", "p"));
    assert_eq!(Credentials::none().lookup("r", "x").unwrap().login, Login::Anonymous);
}

#[test]
fn what_the_command_line_gives_is_for_the_named_registry() {
    let world = World::new();
    let files = vec![world.file("f", &keyed(&["mirror"]), Standing::Usual)];
    let credentials = world.credentials(files).with_login("u".to_owned(), Secret::new("p:q"));
    assert_eq!(credentials.lookup("r", "x").unwrap().login, basic("u", "p:q"));
    assert_eq!(credentials.lookup_places("r", "x").unwrap().login, Login::Anonymous);
    assert_eq!(credentials.lookup_places("mirror", "x").unwrap().login, basic("mirror", "p"));
}

#[test]
fn a_named_file_must_be_there_and_sound() {
    let world = World::new();
    let refused = |file: AuthFile| {
        let error = world.credentials(vec![file]).lookup("r", "x").unwrap_err();
        assert_eq!(error.code(), "E-auth-file");
        error.to_string()
    };
    let named = |text: &str| refused(world.file("named", text, Standing::Named));
    assert!(refused(AuthFile::new(world.path("missing"), Standing::Named)).ends_with("missing: no such file"));
    assert!(refused(AuthFile::new(world.0.path(), Standing::Named)).ends_with("not a file"));
    assert!(named("{").ends_with("not JSON (line 1, column 1)"));
    assert!(named(&format!("{{}}{}", " ".repeat(1 << 20))).contains("larger than 1048576 bytes"));
    for (entry, why) in [
        (r#"{"auth":"hidden*"}"#.to_owned(), "not base64"),
        (format!(r#"{{"auth":"{}"}}"#, auth("hidden")), "without a colon"),
        (format!(r#"{{"auth":"{}"}}"#, auth(":hidden")), "without a user"),
        (r#"{"auth":"gICA"}"#.to_owned(), "not UTF-8"),
        (r#"{"registrytoken":"hidden"}"#.to_owned(), "registrytoken"),
        (r#""hidden""#.to_owned(), "not in the form"),
    ] {
        let text = format!(r#"{{"auths":{{"r":{entry}}}}}"#);
        let said = named(&text);
        assert!(said.contains(why) && !said.contains("hidden") && !said.contains(&auth("hidden")), "{said}");
        let usual = world.credentials(vec![world.file("usual", &text, Standing::Usual)]).lookup("r", "x").unwrap();
        assert!(usual.login == Login::Anonymous && usual.tried.join("").contains(why), "{usual:?}");
    }
}

/// `--authfile <(…)`: a pipe can be read once, and is.
#[test]
fn a_named_pipe_is_read_once() {
    let world = World::new();
    let pipe = world.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let usual = world.credentials(vec![AuthFile::new(&pipe, Standing::Usual)]);
    assert_eq!(usual.lookup("r", "x").unwrap().login, Login::Anonymous, "and nobody waited");
    let credentials = world.credentials(vec![AuthFile::new(&pipe, Standing::Named)]);
    let writer = std::thread::spawn(move || fs::write(pipe, keyed(&["r"])).unwrap());
    assert_eq!(credentials.lookup("r", "x").unwrap().login, basic("r", "p"));
    assert_eq!(credentials.lookup("r", "y").unwrap().login, basic("r", "p"));
    writer.join().unwrap();
}

#[test]
fn a_helper_is_asked_by_the_protocol() {
    let world = World::new();
    world.assert_exec();
    let log = world.path("log");
    let script = |user: &str| {
        let log = log.display();
        format!(
            r#"server=$(cat); echo "$# $1 $server" >> {log}
            echo '{{"ServerURL":"x","Username":"{user}","Secret":"s:1"}}'"#
        )
    };
    world.helper("user", &script("AWS"));
    world.helper("token", &script("<token>"));
    world.helper("none", "cat > /dev/null; echo credentials not found in native keychain; exit 1");
    world.helper("empty", r#"echo '{"Username":"","Secret":""}'"#);
    let config = r#"{"auths":{"inline":{"auth":"dTpw"}, "own":{"auth":"dTpw"}, "blank":{"auth":"dTpw"}},
        "credHelpers":{"own":"user","https://tok.io":"token","index.docker.io":"none","blank":"","nul":null},
        "credsStore":"none"}"#;
    assert_eq!(world.config(config, "own", "x"), basic("AWS", "s:1"), "before inline and store");
    assert_eq!(world.config(config, "tok.io", "x"), token("s:1"));
    assert_eq!(world.config(config, "inline", "x"), basic("u", "p"), "the store has nothing");
    assert_eq!(world.config(config, "blank", "x"), basic("u", "p"), "no store for this one");
    for nothing in ["docker.io", "unknown", "nul"] {
        assert_eq!(world.config(config, nothing, "x"), Login::Anonymous);
    }
    assert_eq!(world.config(r#"{"credsStore":"empty"}"#, "r", "x"), Login::Anonymous);
    assert_eq!(world.config(r#"{"credsStore":"user"}"#, "registry-1.docker.io", "x"), basic("AWS", "s:1"));
    let asked = fs::read_to_string(&log).unwrap();
    assert_eq!(asked, "1 get own\n1 get tok.io\n1 get https://index.docker.io/v1/\n");
}

#[test]
fn a_helper_that_fails_is_named_with_what_it_said() {
    let world = World::new();
    world.assert_exec();
    world.helper("fails", r"printf 'no\033[1m network'; echo why-not >&2; exit 3");
    world.helper("quiet", "echo '{\"Secret\":\"hidden\"}'; exit 1");
    world.helper("long", "head -c 100000 /dev/zero | tr '\\0' x; exit 1");
    world.helper("endless", "exec cat /dev/zero");
    world.helper("odd", "echo '{\"Username\":7,\"Secret\":\"hidden\"}'");
    world.helper("killed", "kill -9 $$");
    fs::write(world.path("docker-credential-plain"), "").unwrap();
    let failed = |name: &str| {
        let file = world.file("config.json", &format!(r#"{{"credsStore":{name:?}}}"#), Standing::Usual);
        let error = world.credentials(vec![file]).lookup("r", "x").unwrap_err();
        assert_eq!(error.code(), "E-credential-helper");
        let said = error.to_string();
        assert!(said.starts_with("docker-credential-") && said.len() < 900 && !said.contains("hidden"), "{said}");
        said
    };
    assert!(failed("fails").contains(r"exit status: 3: no\x1b[1m network"));
    assert!(failed("quiet").contains("did not say why"));
    assert!(failed("long").contains("xxx…"));
    assert!(failed("endless").contains("more than 1048576 bytes"));
    assert!(failed("odd").contains("no JSON with Username and Secret"));
    assert!(failed("killed").contains("signal: 9"));
    for missing in ["missing", "plain"] {
        assert!(failed(missing).contains(&format!("docker-credential-{missing}, which ")));
        assert!(failed(missing).contains("no such program in PATH"));
    }
    for path in ["../evil", "/bin/sh"] {
        assert!(failed(path).contains("no path"));
    }
}

#[test]
fn a_helper_has_a_time_limit() {
    let world = World::new();
    world.assert_exec();
    for script in ["exec sleep 100", "sleep 100 & exit 0", "exec >&- 2>&-; exec sleep 100"] {
        world.helper("slow", script);
        let file = world.file("config.json", r#"{"credsStore":"slow"}"#, Standing::Usual);
        let patience = Duration::from_millis(1100);
        let credentials = Credentials { patience, ..world.credentials(vec![file]) };
        let begin = Instant::now();
        let said = credentials.lookup("r", "x").unwrap_err().to_string();
        assert!(said.contains("no answer within 1 s") && begin.elapsed() < Duration::from_secs(20), "{said}");
    }
}

/// A relative folder in PATH is whatever folder the user is in.
#[test]
fn helpers_are_found_in_absolute_folders_alone() {
    let world = World::new();
    let file = world.file("config.json", r#"{"credsStore":"here"}"#, Standing::Usual);
    let absolute = Path::new("/nowhere");
    for path in ["", ".", "bin:", absolute.to_str().unwrap()] {
        let error = Credentials::new(vec![file.clone()], path.into()).lookup("r", "x").unwrap_err();
        assert!(error.to_string().contains("no such program in PATH"), "{error}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    let world = World::new();
    let file = world.file("f", r#"{"auths":{"r":{"auth":"dTpoaWRkZW4=","identitytoken":"hidden"}}}"#, Standing::Usual);
    let credentials = world.credentials(vec![file]).with_login("u".to_owned(), Secret::new("hidden"));
    let found = credentials.lookup_places("r", "x").unwrap();
    let shown = format!("{credentials:?} {found:?} {:?} {}", credentials.lookup("r", "x"), Secret::new("hidden"));
    assert!(!shown.contains("hidden") && !shown.contains("dTpoaWRkZW4="), "{shown}");
}
