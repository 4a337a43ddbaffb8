//! What is kept of downloads: `eif cache`, and one store for several processes.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use common::TestEnv;
use eif::image::store::Slot;
use eif::image::{Digest, Store};
use eif_testdata::{Config, Image, fake_bzimage, layers};

/// The blobs of this world.
fn blobs(env: &TestEnv) -> PathBuf {
    env.work().join("../cache/eif/blobs")
}

fn store(env: &TestEnv) -> Store {
    Store::open(&blobs(env), None).unwrap()
}

/// Two blobs of 3 MiB, the first one used long ago, and a download of 1 MiB that was given up.
fn filled() -> (TestEnv, [Digest; 3]) {
    let env = TestEnv::new();
    let store = store(&env);
    let bytes: Vec<Vec<u8>> = (0..3).map(|number| vec![number; 3 << 20]).collect();
    let digests = [0, 1, 2].map(|number| Digest::of(&bytes[number]));
    for number in [0, 1] {
        store.put(&digests[number], &bytes[number]).unwrap();
    }
    let Slot::Partial(mut partial) = store.begin(&digests[2], 3 << 20).unwrap() else { panic!("finished") };
    partial.append(&bytes[2][..1 << 20]).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(blobs(&env).join("sha256").join(digests[0].hex())).unwrap().set_modified(old).unwrap();
    (env, digests)
}

#[test]
fn ls_tells_what_is_there_the_longest_unused_first() {
    let empty = TestEnv::new();
    assert_eq!(empty.eif(&["cache", "ls"]).success().stdout(), "0 blobs, 0.0 MiB\n");
    assert!(!blobs(&empty).exists(), "nothing is made by looking");
    let (env, [old, new, given_up]) = filled();
    let output = env.eif(&["cache", "ls"]).success();
    let words: Vec<Vec<&str>> = output.stdout().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], [&old.to_string(), "3.0", "MiB"]);
    assert_eq!(words[1], [&new.to_string(), "3.0", "MiB"]);
    assert_eq!(words[2], [&given_up.to_string(), "1.0", "MiB", "unfinished"]);
    assert_eq!(words[3], ["3", "blobs,", "7.0", "MiB"]);
    let json = env.eif(&["cache", "ls", "--json"]).success().json();
    assert_eq!((&json["blobs"][0]["used"], &json["size"]), (&1_000_000_000.into(), &(7 << 20).into()));
    assert_eq!((&json["blobs"][2]["finished"], &json["blobs"][2]["size"]), (&false.into(), &(1 << 20).into()));
}

#[test]
fn prune_removes_what_was_given_up_and_then_the_longest_unused() {
    let (env, [old, new, _]) = filled();
    let there = || store(&env).list().unwrap().iter().map(|stored| stored.digest).collect::<Vec<_>>();
    let prune = |further: &[&str]| env.eif(&[&["cache", "prune"][..], further].concat()).success().stdout().to_owned();
    assert_eq!(prune(&[]), "removed 1 blobs, 1.0 MiB; 6.0 MiB stay\n");
    assert_eq!(there(), [old, new]);
    assert_eq!(prune(&["--max-size", "5M"]), "removed 1 blobs, 3.0 MiB; 3.0 MiB stay\n");
    assert_eq!(there(), [new]);
    let reading = store(&env).get(&new).unwrap();
    assert_eq!(prune(&["--all"]), "removed 0 blobs, 0.0 MiB; 3.0 MiB stay\n");
    drop(reading);
    let json = env.eif(&["cache", "prune", "--all", "--json"]).success().json();
    assert_eq!(json, serde_json::json!({"removed": {"blobs": 1, "size": 3 << 20}, "size": 0}));
    let _ = env.eif(&["cache", "prune", "--all", "--max-size", "1G"]).code(2);
    let _ = env.eif(&["cache", "prune", "--max-size", "1X"]).code(2);
}

#[test]
fn without_a_home_a_build_has_a_store_of_its_own_and_cache_has_none_to_show() {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let image = Image::new(layers! { "f 0755 0:0 app x" }).config(Config::new().cmd(&["/app"]));
    let reference = env.layout("image", &image);
    let homeless = |words: &[&str]| {
        let output = env.command(words).env_remove("HOME").env_remove("XDG_CACHE_HOME").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let build = ["build", &reference, "-o", "app.eif"];
    let (status, stderr) = homeless(&[&build[..], &["--kernel", "kernel"]].concat());
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(env.listing(&env.tmp()), [""; 0], "the private store is gone");
    for words in [&build[..], &["cache", "ls"], &["cache", "prune"]] {
        let (status, stderr) = homeless(words);
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains("error[E-cache]: ") && stderr.contains("HOME or XDG_CACHE_HOME"), "{stderr}");
    }
}

/// Says `begun`, or how it ended, on stdout; what it does is in [`child`].
fn process(env: &TestEnv, what: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture", "--ignored"]);
    command.env("EIF_TEST_STORE", blobs(env)).env("EIF_TEST_CHILD", what);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

const SIZE: usize = 8 << 20;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 7 % 251) as u8).collect()
}

/// Another process than the test's: it brings one blob, chunk by chunk, and prints the offsets of its first and last
/// chunk.
#[test]
#[ignore = "a process that other tests of this file start"]
#[expect(clippy::disallowed_methods, reason = "how the test tells its child what to do")]
fn child() {
    let (Some(folder), Some(what)) = (std::env::var_os("EIF_TEST_STORE"), std::env::var_os("EIF_TEST_CHILD")) else {
        return;
    };
    let store = Store::open(folder.as_ref(), None).unwrap();
    let content = content();
    let digest = Digest::of(&content);
    let Slot::Partial(mut partial) = store.begin(&digest, SIZE as u64).unwrap() else {
        println!("brought 0");
        return;
    };
    let begun = usize::try_from(partial.len()).unwrap();
    for chunk in content[begun..].chunks(1 << 10) {
        partial.append(chunk).unwrap();
        if what == "killed" && partial.len() > SIZE as u64 / 2 {
            std::process::abort();
        }
    }
    partial.finish().unwrap();
    println!("brought {}", SIZE - begun);
}

/// The number behind `brought`, if the process got so far.
fn brought(child: Child) -> Option<usize> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.split_once("brought ")).map(|(_, number)| number.parse().unwrap())
}

#[test]
fn ten_processes_that_want_one_blob_bring_it_once() {
    let env = TestEnv::new();
    let children: Vec<Child> = (0..10).map(|_| process(&env, "whole")).collect();
    let brought: Vec<usize> = children.into_iter().map(|child| brought(child).expect("it ended well")).collect();
    assert_eq!(brought.iter().sum::<usize>(), SIZE, "{brought:?}");
    assert_eq!(fs::read(blobs(&env).join("sha256").join(Digest::of(&content()).hex())).unwrap(), content());
}

#[test]
fn what_a_killed_process_brought_is_not_brought_again() {
    let env = TestEnv::new();
    assert_eq!(brought(process(&env, "killed")), None);
    let rest = brought(process(&env, "whole")).unwrap();
    assert!(rest > 0 && rest < SIZE / 2, "{rest}");
    assert_eq!(fs::read(blobs(&env).join("sha256").join(Digest::of(&content()).hex())).unwrap(), content());
}

/// A tmpfs of 1 MiB holds no blob of 3 MiB: one clear error, and the store is as good as before.
#[test]
fn a_full_disk_is_one_clear_error() {
    let env = TestEnv::new();
    fs::create_dir_all(blobs(&env)).unwrap();
    let root = env.command_of("id", &["-u"]).output().unwrap().stdout == b"0\n";
    let namespaces: &[&str] = if root { &["--mount"] } else { &["--map-root-user", "--mount"] };
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m none {0} && EIF_TEST_STORE={0} {1} fills --exact --nocapture --ignored",
        blobs(&env).display(),
        test.display(),
    );
    let output = env.command_of("unshare", &[namespaces, &["sh", "-c", &script]].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text.lines().find_map(|line| line.split_once("said ")).expect("the child said something").1;
    assert!(said.starts_with("E-store: the store of blobs: writing ") && said.contains("No space left"), "{said}");
}

#[test]
#[ignore = "a process that another test of this file starts"]
#[expect(clippy::disallowed_methods, reason = "how the test tells its child what to do")]
fn fills() {
    use eif::Refusal;
    let Some(folder) = std::env::var_os("EIF_TEST_STORE") else { return };
    let store = Store::open(folder.as_ref(), None).unwrap();
    let (large, small) = (vec![1; 3 << 20], vec![2; 1000]);
    let error = store.put(&Digest::of(&large), &large).unwrap_err();
    println!("said {}: {error}", error.code());
    assert_eq!(store.list().unwrap(), [], "what could not be finished in one piece leaves nothing");
    store.put(&Digest::of(&small), &small).unwrap();
}
