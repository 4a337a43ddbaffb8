//! What is kept of downloads: `eif cache`, and one store for several processes.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use common::TestEnv;
use eif::image::store::Slot;
use eif::image::{Digest, Store};
use eif_testdata::{Compression, Config, Entry, Image, Layer, fake_bzimage, layers};
use serde_json::json;

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

/// An image whose layer says that it is gzip and is zstd, which is a warning, and the arguments of its build.
fn mislabelled(env: &TestEnv) -> Vec<String> {
    env.write("kernel", fake_bzimage());
    let image = Image::new(layers! { "f 0755 0:0 app x", "d 0755 7:7 data/", "f 0644 7:7 data/file hello" });
    env.layout("image", &image.compress(Compression::Zstd).config(Config::new().cmd(&["/app"])));
    let index = fs::read_to_string(env.path("image/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let file = |digest: &serde_json::Value| {
        env.path("image/blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
    };
    let manifest = fs::read_to_string(file(&index["manifests"][0]["digest"])).unwrap();
    let changed = manifest.replace("tar+zstd", "tar+gzip");
    assert_ne!(manifest, changed);
    let digest = Digest::of(changed.as_bytes());
    fs::write(file(&digest.to_string().into()), &changed).unwrap();
    let entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(),
        "size": changed.len(), "annotations": {"org.opencontainers.image.ref.name": "latest"}});
    env.write("image/index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
    ["build", "oci:image:latest", "--kernel", "kernel", "-o"].map(str::to_owned).into()
}

/// The layer's blob, and the plain tar's digest.
fn layer(env: &TestEnv) -> (PathBuf, Digest) {
    let blobs: Vec<PathBuf> =
        fs::read_dir(env.path("image/blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    let packed = |path: &&PathBuf| fs::read(path).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let path = blobs.iter().find(packed).unwrap();
    (path.clone(), Digest::of(&zstd::decode_all(&fs::read(path).unwrap()[..]).unwrap()))
}

#[test]
fn a_layer_that_was_kept_need_not_be_inflated() {
    let env = TestEnv::new();
    let build = mislabelled(&env);
    let built = |name: &str, further: &[&str]| {
        let words = build.iter().map(String::as_str).chain([name]).chain(further.iter().copied());
        let output = env.eif(&words.collect::<Vec<_>>()).success().says("W-media-type");
        let warnings: Vec<&str> = output.stderr().lines().filter(|line| line.contains("W-")).collect();
        (fs::read(env.path(name)).unwrap(), warnings.join("\n"))
    };
    let want = built("plain.eif", &[]);
    assert_eq!(store(&env).list().unwrap(), [], "nothing is kept that was not asked for");
    assert_eq!(built("first.eif", &["--keep-layers"]), want);
    let (blob, diff_id) = layer(&env);
    let kept: Vec<Digest> = store(&env).list().unwrap().iter().map(|stored| stored.digest).collect();
    assert_eq!(kept, [diff_id]);
    assert_eq!(env.listing(&blobs(&env).join("partial")), [""; 0]);
    // What is not read may be damaged; that it is zstd is still seen.
    let sound = fs::read(&blob).unwrap();
    let mut damaged = sound.clone();
    let end = damaged.len() - 8;
    damaged[end] ^= 1;
    fs::write(&blob, &damaged).unwrap();
    assert_eq!(built("second.eif", &[]), want);
    for threads in ["1", "2"] {
        assert_eq!(built("threads.eif", &["--threads", threads]), want);
    }
    let _ = env.eif(&["cache", "prune", "--all"]).success();
    let words: Vec<&str> = build.iter().map(String::as_str).chain(["third.eif"]).collect();
    let _ = env.eif(&words).refused("E-digest-mismatch");
    // Damaged on the disk, it is not missed and made anew.
    fs::write(&blob, &sound).unwrap();
    let path = blobs(&env).join("sha256").join(diff_id.hex());
    for damage in
        [|tar: &mut Vec<u8>| tar[600] ^= 1, |tar: &mut Vec<u8>| tar.truncate(700), |tar: &mut Vec<u8>| tar.clear()]
    {
        assert_eq!(built("fourth.eif", &["--keep-layers"]), want);
        let mut tar = fs::read(&path).unwrap();
        assert_eq!(Digest::of(&tar), diff_id);
        let tar_size = tar.len() as u64;
        damage(&mut tar);
        fs::write(&path, &tar).unwrap();
        // What the damaged one has drawn of the limit is given back.
        let limit = fs::metadata(&path).unwrap().len().max(tar_size).to_string();
        assert_eq!(built("fifth.eif", &["--max-unpacked", &limit]), want);
        assert!(!path.exists(), "a damaged layer is not kept");
    }
}

/// The steps by which several threads check a kept layer are an aid: missing, damaged or of another layer, they change
/// nothing, and they go with their layer.
#[test]
fn a_kept_layer_is_checked_in_steps() {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let bytes: Vec<u8> = (0..20_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let image = Image::new(vec![Layer::new().entry(Entry::file("app", bytes).mode(0o755))]);
    let reference = env.layout("image", &image.compress(Compression::Gzip).config(Config::new().cmd(&["/app"])));
    let build = |name: &str, further: &[&str]| {
        let words = [&["build", &reference, "--kernel", "kernel", "-o", name][..], further].concat();
        let _ = env.eif(&words).success();
        fs::read(env.path(name)).unwrap()
    };
    let want = build("plain.eif", &[]);
    let folder = blobs(&env).join("steps");
    let there = || fs::read_dir(&folder).map_or(0, Iterator::count);
    assert!(build("first.eif", &["--keep-layers"]) == want);
    assert_eq!(there(), 1);
    let steps = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let sound = fs::read(&steps).unwrap();
    let layer = blobs(&env).join("sha256").join(steps.file_name().unwrap());
    for threads in ["1", "2", "5"] {
        assert!(build("kept.eif", &["--threads", threads]) == want);
        assert_eq!(fs::read(&steps).unwrap(), sound);
    }
    // Those that look right are found to be wrong, and written anew.
    for at in [0, sound.len() - 1] {
        let mut wrong = sound.clone();
        wrong[at] ^= 1;
        fs::write(&steps, wrong).unwrap();
        assert!(build("wrong.eif", &[]) == want);
        assert!(layer.exists() && fs::read(&steps).unwrap() == sound);
    }
    // Missing ones, others, and what is no file: they are written anew, too.
    let place = |make: &dyn Fn()| {
        fs::remove_file(&steps).unwrap();
        make();
        assert!(build("odd.eif", &[]) == want && layer.exists());
    };
    let odd: [&dyn Fn(); 3] = [&|| {}, &|| fs::write(&steps, &sound[1..]).unwrap(), &|| {
        fs::File::create(&steps).unwrap().set_len(1 << 40).unwrap()
    }];
    for make in odd {
        place(make);
        assert!(fs::read(&steps).unwrap() == sound);
    }
    place(&|| assert!(Command::new("mkfifo").arg(&steps).status().unwrap().success()));
    assert!(build("after.eif", &[]) == want && fs::read(&steps).unwrap() == sound);
    place(&|| fs::create_dir(&steps).unwrap());
    // Nobody minds when they cannot be written.
    fs::remove_dir_all(&folder).unwrap();
    fs::remove_file(&layer).unwrap();
    fs::write(&folder, "").unwrap();
    assert!(build("unwritten.eif", &["--keep-layers"]) == want && layer.exists());
    let _ = env.eif(&["cache", "prune"]).success();
    fs::remove_file(&folder).unwrap();
    // The layer is damaged, the steps are not.
    fs::create_dir(&folder).unwrap();
    fs::write(&steps, &sound).unwrap();
    let mut tar = fs::read(&layer).unwrap();
    tar[10 << 20] ^= 1;
    fs::write(&layer, &tar).unwrap();
    assert!(build("tar.eif", &["--keep-layers"]) == want);
    assert_eq!(Digest::of(&fs::read(&layer).unwrap()).hex(), steps.file_name().unwrap().to_str().unwrap());
    assert_eq!(fs::read(&steps).unwrap(), sound);
    // Another process may be writing some.
    fs::write(folder.join(".eif-123.tmp"), "").unwrap();
    let _ = env.eif(&["cache", "prune", "--all"]).success();
    assert_eq!((there(), layer.exists(), steps.exists()), (1, false, false));
}

/// What is asked for and cannot be done is refused; a layer that is not what the image says is not kept.
#[test]
fn a_layer_is_kept_whole_or_not_at_all() {
    let env = TestEnv::new();
    let mut build = mislabelled(&env);
    build.extend(["app.eif", "--keep-layers"].map(str::to_owned));
    let (blob, _) = layer(&env);
    let sound = fs::read(&blob).unwrap();
    fs::write(&blob, &sound[..sound.len() - 9]).unwrap();
    let _ = env.eif(&build).refused("E-size-mismatch");
    assert_eq!(store(&env).list().unwrap(), []);
    assert_eq!(env.listing(&blobs(&env).join("sha256")), [""; 0]);
    fs::write(&blob, &sound).unwrap();
    fs::remove_dir_all(blobs(&env)).unwrap();
    fs::create_dir_all(blobs(&env)).unwrap();
    env.write("../cache/eif/blobs/sha256", "");
    let _ = env.eif(&build).refused("E-store");
    build.push("--no-cache".to_owned());
    let _ = env.eif(&build).code(2).says("cannot be used with");
}

/// Anybody can make such a folder in /tmp.
#[test]
fn a_pipe_in_place_of_a_lock_holds_nobody_up() {
    let env = TestEnv::new();
    let mut build = mislabelled(&env);
    let folder = env.tmp().join("eif-store-x");
    fs::create_dir(&folder).unwrap();
    let _ = env.run("mkfifo", &[folder.join("lock")]).success();
    build.extend(["app.eif", "--no-cache"].map(str::to_owned));
    let words: Vec<&str> =
        ["60", env!("CARGO_BIN_EXE_eif")].into_iter().chain(build.iter().map(String::as_str)).collect();
    let _ = env.run("timeout", &words).success();
    assert!(folder.exists());
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
