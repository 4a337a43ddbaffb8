//! Logins that are already on the machine open a real registry: every place, in its order, and a helper program.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::TestEnv;
use common::registry::{Demands, RealRegistry};
use eif_testdata::{Compression, Config, Image, fake_bzimage, layers};
use serde_json::json;

const PASSWORD: &str = "pass:word";

/// A registry that demands a login, with an image `team/app:v1`.
struct World {
    env: TestEnv,
    registry: RealRegistry,
}

/// How `eif` ended.
struct Ended {
    code: Option<i32>,
    stderr: String,
}

impl World {
    fn new() -> Self {
        let env = TestEnv::new();
        env.write("kernel", fake_bzimage());
        let image = Image::new(layers! { "f 0755 0:0 app x" }).config(Config::new().cmd(&["/app"]));
        let _ = env.layout("image", &image.compress(Compression::Gzip));
        let registry = RealRegistry::start(&env, &Demands { login: Some(("me", PASSWORD)), ..Demands::default() });
        registry.push(&env, "image:latest", "team/app:v1", &["--dest-creds", &format!("me:{PASSWORD}")]);
        World { env, registry }
    }

    /// A file beside the working folder, such as `home/.docker/config.json`.
    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.env.work().with_file_name(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// `auths` with one login for a key.
    fn login(key: &str, password: &str) -> serde_json::Value {
        json!({ key: {"username": "me", "password": password} })
    }

    /// Builds the registry's image with these variables on top; nothing that it prints is a secret.
    fn build(&self, variables: &[(&str, &str)]) -> Ended {
        let reference = format!("docker://{}/team/app:v1", self.registry.host);
        let mut command = self.env.command(&["build", &reference, "--kernel", "kernel", "-vv", "-o", "app.eif"]);
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        for secret in [PASSWORD, "wrong-one", "bWU6"] {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{stdout}{stderr}");
        }
        Ended { code: output.status.code(), stderr }
    }
}

impl Ended {
    fn success(self) {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
    }

    fn refused(self, code: &str, says: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert!(self.stderr.lines().any(|line| line.starts_with(&format!("error[{code}]: "))), "{}", self.stderr);
        for text in says {
            assert!(self.stderr.contains(text), "no {text} in {}", self.stderr);
        }
    }
}

#[test]
fn every_place_is_asked_in_its_order() {
    let world = World::new();
    let places = [
        ("named.json", "REGISTRY_AUTH_FILE"),
        ("run/containers/auth.json", ""),
        ("config/containers/auth.json", ""),
        ("other/config.json", "DOCKER_CONFIG"),
        ("home/.docker/config.json", ""),
        ("home/.dockercfg", ""),
    ];
    let host = &world.registry.host;
    for (at, (right, _)) in places.iter().enumerate() {
        let mut variables = Vec::new();
        for (place, (name, variable)) in places.iter().enumerate() {
            let path = world.env.work().with_file_name(name);
            let _ = fs::remove_file(&path);
            if place < at {
                continue;
            }
            let auths = World::login(host, if place == at { PASSWORD } else { "wrong-one" });
            let old = name.ends_with(".dockercfg");
            let path = world.put(name, &if old { auths } else { json!({ "auths": auths }) }.to_string());
            let value = if *variable == "DOCKER_CONFIG" { path.parent().unwrap().to_owned() } else { path };
            variables.push((*variable, value.to_str().unwrap().to_owned()));
        }
        let variables: Vec<_> =
            variables.iter().filter(|(key, _)| !key.is_empty()).map(|(key, value)| (*key, value.as_str())).collect();
        world.build(&variables).success();
        // The same with a wrong one: the others are not asked then.
        world.put(
            right,
            &fs::read_to_string(world.env.work().with_file_name(right)).unwrap().replace(PASSWORD, "wrong-one"),
        );
        world.build(&variables).refused("E-registry-auth", &[right]);
    }
}

#[test]
fn a_namespace_goes_before_its_registry_and_what_is_broken_is_passed_over_and_told() {
    let world = World::new();
    let host = &world.registry.host;
    world.put("run/containers/auth.json", "{");
    let mut auths = World::login(host, "wrong-one");
    auths[format!("{host}/team")] = World::login("x", PASSWORD)["x"].clone();
    world.put("config/containers/auth.json", &json!({ "auths": auths }).to_string());
    world.build(&[]).success();
    world.put("config/containers/auth.json", "{}");
    let broken = "run/containers/auth.json: not JSON (line 1, column 1)";
    world.build(&[]).refused("E-registry-auth", &[broken, "config/containers/auth.json: nothing for 127.0.0.1:"]);
    let named = world.env.work().with_file_name("run/containers/auth.json");
    let named = [("REGISTRY_AUTH_FILE", named.to_str().unwrap())];
    world.build(&named).refused("E-auth-file", &[broken, "unset REGISTRY_AUTH_FILE"]);
    world.build(&[("REGISTRY_AUTH_FILE", "/nowhere")]).refused("E-auth-file", &["/nowhere: no such file"]);
}

#[test]
fn a_helper_program_in_path_is_asked() {
    let world = World::new();
    let host = &world.registry.host;
    let config = json!({"credHelpers": {host: "of-tests"}, "auths": World::login(host, "wrong-one")});
    world.put("home/.docker/config.json", &config.to_string());
    world.build(&[]).refused("E-credential-helper", &["docker-credential-of-tests", "no such program in PATH"]);
    let answer = json!({"ServerURL": host, "Username": "me", "Secret": PASSWORD});
    let helper = |script: &str| {
        let text = world.put("text", &format!("#!/bin/sh\n{script}\n"));
        // A program that this process has open for writing could not be run.
        let target = world.put("bin/README", "").with_file_name("docker-credential-of-tests");
        let mut install = Command::new("install");
        assert!(install.args(["-m", "755"]).args([&text, &target]).stdin(Stdio::null()).status().unwrap().success());
        target.parent().unwrap().to_owned()
    };
    let folder = helper(&format!("test \"$1 $(cat)\" = 'get {host}' && echo '{answer}'"));
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let path = [("PATH", path.as_str())];
    world.build(&path).success();
    helper("echo 'no network'; exit 1");
    world.build(&path).refused("E-credential-helper", &["docker-credential-of-tests", "no network"]);
}
