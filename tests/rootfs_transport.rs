//! `rootfs:PATH`: a plain directory or tar is a root file system, with no image around it.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Output, TestEnv};
use eif_testdata::{Compression, Image, Layer, fake_bzimage, layers, sha256};
use serde_json::{Value, json};

/// A world with a kernel that any user may read.
fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    let open = Command::new("chmod").args(["-R", "a+rwX"]).arg(env.work().parent().unwrap()).status().unwrap();
    assert!(open.success());
    env
}

fn build(env: &TestEnv, reference: &str, further: &[&str]) -> Output {
    let words = ["build", reference, "--kernel", "kernel", "--entrypoint", "/bin/app", "-o", "app.eif"];
    env.eif(&[&words[..], further].concat())
}

/// The file that is built.
fn bytes(env: &TestEnv, reference: &str, further: &[&str]) -> Vec<u8> {
    let _ = build(env, reference, further).success();
    fs::read(env.path("app.eif")).unwrap()
}

/// SHA-384 of both ramdisks.
fn ramdisks(env: &TestEnv, reference: &str, further: &[&str]) -> Vec<Value> {
    let _ = build(env, reference, further).success();
    let facts = env.eif(&["inspect", "app.eif", "--json"]).success().json();
    let sections = facts["sections"].as_array().unwrap().iter();
    let all: Vec<Value> = sections.filter(|s| s["type"] == "ramdisk").map(|s| s["sha384"].clone()).collect();
    assert_eq!(all.len(), 2);
    all
}

/// Our record in the metadata of the file that was built last.
fn record(env: &TestEnv) -> Value {
    let facts = env.eif(&["inspect", "app.eif", "--json"]).success().json();
    fn find(value: &Value) -> Option<&Value> {
        value
            .as_object()?
            .values()
            .find_map(|inner| if inner.get("diff_ids").is_some() { Some(inner) } else { find(inner) })
    }
    find(&facts["metadata"]).unwrap_or_else(|| panic!("no record in {facts:#}")).clone()
}

/// What `eif inspect --files` shows of the file that was built last, with one space between words.
fn files(env: &TestEnv) -> String {
    let output = env.eif(&["inspect", "app.eif", "--files"]).success();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    output.stdout().lines().map(|line| words(line) + "\n").collect()
}

fn run(env: &TestEnv, program: &str, arguments: &[&str]) {
    let output = env.command_of(program, arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory with everything that a directory may hold and that this user can make.
fn full(env: &TestEnv, name: &str) -> PathBuf {
    let root = env.path(name);
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(200));
    for folder in ["bin", "etc", "empty", "tmp", "a", "a-b", "lib", &long, "proc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"lib/odd \xff\n=name"));
    for (file, content) in [("bin/app", "program"), ("etc/hosts", "127.0.0.1 localhost"), ("a/x", "1"), ("a-b/x", "2")]
    {
        fs::write(root.join(file), content).unwrap();
    }
    fs::write(root.join(odd), "odd").unwrap();
    fs::write(root.join(long).join("file"), vec![7; 70_000]).unwrap();
    fs::File::create(root.join("sparse")).unwrap().set_len(3_000_001).unwrap();
    for (file, permissions) in [("bin/app", 0o4755), ("tmp", 0o1777), ("a/x", 0o600), ("empty", 0o2750)] {
        mode(&root.join(file), permissions);
    }
    fs::hard_link(root.join("bin/app"), root.join("a/linked")).unwrap();
    fs::hard_link(root.join("bin/app"), root.join("zz")).unwrap();
    for (link, target) in [("up", "../../outside"), ("absolute", "/etc/passwd"), ("loop", "loop"), ("lib64", "lib")] {
        symlink(target, root.join(link)).unwrap();
    }
    symlink("t".repeat(300), root.join("longlink")).unwrap();
    fs::hard_link(root.join("up"), root.join("up-too")).unwrap();
    run(env, "mkfifo", &["-m", "0640", root.join("pipe").to_str().unwrap()]);
    for (attribute, value) in [("user.plain", &b"a\0\xff"[..]), ("user.with=sign", b"b"), ("user.empty", b"")] {
        let set = rustix::fs::setxattr(root.join("bin/app"), attribute, value, rustix::fs::XattrFlags::empty());
        assert!(set.is_ok(), "TMPDIR is on a file system without user attributes: set it to another place: {set:?}");
    }
    if is_root() {
        let dev = root.join("disk");
        run(env, "mknod", &[dev.to_str().unwrap(), "b", "259", "70000"]);
        run(env, "mknod", &[root.join("tty").to_str().unwrap(), "c", "4", "64"]);
        run(env, "chown", &["-h", "70000:3000000", root.join("a/x").to_str().unwrap()]);
        run(env, "setcap", &["cap_net_raw+ep", root.join("zz").to_str().unwrap()]);
    }
    root
}

/// As GNU tar sees it; `further` are options of tar's.
fn tar(env: &TestEnv, folder: &str, file: &str, further: &[&str]) -> Vec<u8> {
    let words = ["--xattrs", "--xattrs-include=*", "--format=posix", "--numeric-owner", "-C", folder, "-cf", file];
    run(env, "tar", &[&words[..], further, &["."]].concat());
    fs::read(env.path(file)).unwrap()
}

#[test]
fn a_directory_its_tar_and_an_image_of_it_give_the_same_ramdisks() {
    let env = world();
    full(&env, "tree");
    // GNU tar cannot write a name with `=` into a PAX key, and warns.
    let attribute = rustix::fs::removexattr(env.path("tree/bin/app"), "user.with=sign");
    assert!(attribute.is_ok());
    let plain = tar(&env, "tree", "tree.tar", &[]);
    let of_root = tar(&env, "tree", "root.tar", &["--owner=0", "--group=0"]);
    env.write("tree.tar.gz", Compression::Gzip.pack(&plain));
    env.write("tree.tar.zst", Compression::Zstd.pack(&plain));
    for mtime in ["zero", "keep"] {
        let same = |references: &[(&str, &[&str])]| {
            let all: Vec<_> = references
                .iter()
                .map(|(reference, further)| ramdisks(&env, reference, &[*further, &["--mtime", mtime]].concat()))
                .collect();
            for (one, (reference, _)) in all.iter().zip(references) {
                assert_eq!(*one, all[0], "{reference} {mtime}");
            }
            all[0].clone()
        };
        let image =
            |name: &str, tar: &[u8]| env.layout(&format!("{name}-{mtime}"), &Image::new(vec![Layer::from_tar(tar)]));
        let (kept, rooted) = (image("kept", &plain), image("rooted", &of_root));
        let keep = &["--keep-owners"][..];
        let with_owners = same(&[("rootfs:tree", keep), ("rootfs:tree.tar", keep), (&kept, &[])]);
        let without = same(&[
            ("rootfs:tree", &[]),
            ("rootfs:tree.tar", &[]),
            ("rootfs:tree.tar.gz", &[]),
            ("rootfs:tree.tar.zst", &[]),
            (&rooted, &[]),
        ]);
        assert_ne!(with_owners, without);
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_followed() {
    let env = world();
    let root = full(&env, "tree");
    let output = build(&env, "rootfs:tree", &["--keep-owners"]).success();
    let listing = files(&env);
    let me = fs::metadata(&root).unwrap();
    let line = |start: &str, end: &str| {
        assert!(listing.lines().any(|line| line.starts_with(start) && line.ends_with(end)), "{start}…{end}\n{listing}");
    };
    line("lrwxrwxrwx", "rootfs/up -> ../../outside");
    line("lrwxrwxrwx", "rootfs/absolute -> /etc/passwd");
    line("lrwxrwxrwx", "rootfs/lib64 -> lib");
    line("prw-r-----", "rootfs/pipe");
    line("drwxrwxrwt", "rootfs/tmp");
    line("-rwsr-xr-x 3", "rootfs/bin/app");
    assert!(!listing.contains("lib64/"), "{listing}");
    if is_root() {
        line("-rw------- 1 70000 3000000", "rootfs/a/x");
        line("brw-r--r--", "rootfs/disk");
    } else {
        line(&format!("-rw------- 1 {} {}", me.uid(), me.gid()), "rootfs/a/x");
    }
    let _ = env.eif(&["extract", "app.eif", "--rootfs", "out.tar"]).success();
    fs::create_dir(env.path("out")).unwrap();
    run(&env, "tar", &["--xattrs", "--xattrs-include=user.*", "-C", "out", "-xf", "out.tar"]);
    for (attribute, value) in [("user.plain", &b"a\0\xff"[..]), ("user.with=sign", b"b"), ("user.empty", b"")] {
        let mut found = [0; 100];
        let path = env.path("out/zz");
        // GNU tar leaves out what is in libarchive's form; the attribute with `=` is in it.
        match rustix::fs::getxattr(&path, attribute, &mut found[..]) {
            Ok(length) => assert_eq!(&found[..length], value),
            Err(error) => assert!(attribute.contains('='), "{attribute}: {error}"),
        }
    }
    let again = ramdisks(&env, "rootfs:out.tar", &["--keep-owners"]);
    assert_eq!(again, ramdisks(&env, "rootfs:tree", &["--keep-owners"]), "and the way back loses nothing");
    let _ = output.says_nothing_of("W-owners");
}

/// The file is a function of the tree: not of the order in which names came into it, of times, of the umask, of who
/// owns it or who builds.
#[test]
fn the_file_depends_on_the_tree_alone() {
    let env = world();
    let names: Vec<String> = (0..200).map(|n| format!("etc/{}", sha256(&[n]).split_at(7 + 6).1)).collect();
    let make = |folder: &str, names: &mut dyn Iterator<Item = &String>| {
        fs::create_dir_all(env.path(folder).join("etc")).unwrap();
        for name in names {
            fs::write(env.path(folder).join(name), name).unwrap();
            mode(&env.path(folder).join(name), 0o644);
        }
        for directory in ["", "etc"] {
            mode(&env.path(folder).join(directory), 0o755);
        }
    };
    make("one", &mut names.iter());
    make("two", &mut names.iter().rev());
    run(&env, "touch", &["-d", "2001-02-03", "two/etc", env.path("two").join(&names[7]).to_str().unwrap()]);
    let want = bytes(&env, "rootfs:one", &[]);
    assert!(bytes(&env, "rootfs:two", &[]) == want);
    for threads in ["1", "5"] {
        assert!(bytes(&env, "rootfs:two", &["--threads", threads]) == want);
    }
    assert_eq!(record(&env)["diff_ids"], json!([]));
    assert_eq!(record(&env)["rootfs"], json!({"from": "directory", "keep_owners": false}));
    fs::copy(env!("CARGO_BIN_EXE_eif"), env.path("eif")).unwrap();
    fs::create_dir(env.path("other")).unwrap();
    mode(&env.path("other"), 0o777);
    // Root becomes somebody else; somebody else becomes root of a namespace of its own.
    let other =
        if is_root() { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "unshare --map-root-user" };
    let script = format!(
        "umask 0077; cd other; exec {other} ../eif build rootfs:../two --kernel ../kernel --entrypoint /bin/app -o app.eif"
    );
    run(&env, "sh", &["-c", &script]);
    assert!(fs::read(env.path("other/app.eif")).unwrap() == want);
}

#[test]
fn a_tar_has_its_digest_in_the_record() {
    let env = world();
    full(&env, "tree");
    let plain = tar(&env, "tree", "tree.tar", &[]);
    env.write("tree.tar.gz", Compression::Gzip.pack(&plain));
    let want = bytes(&env, "rootfs:tree.tar", &[]);
    assert_eq!(record(&env)["diff_ids"], json!([sha256(&plain)]));
    assert_eq!(record(&env)["rootfs"], json!({"from": "tar", "keep_owners": false}));
    assert!(bytes(&env, "rootfs:tree.tar.gz", &[]) == want, "whatever it is packed with");
    let stdin = fs::File::open(env.path("tree.tar.gz")).unwrap();
    let mut command =
        env.command(&["build", "rootfs:-", "--kernel", "kernel", "--entrypoint", "/bin/app", "-o", "stdin.eif"]);
    assert!(command.stdin(stdin).output().unwrap().status.success());
    assert!(fs::read(env.path("stdin.eif")).unwrap() == want, "wherever it comes from");
    let _ = env.layout("image", &Image::new(layers! { "f 0755 0:0 bin/app x" }));
    let _ = build(&env, "oci:image", &[]).success();
    assert_eq!(record(&env).get("rootfs"), None, "an image has no such fact");
}

#[test]
fn a_symlink_given_as_path_is_followed_and_a_path_may_have_colons() {
    let env = world();
    full(&env, "tree");
    symlink("tree", env.path("result")).unwrap();
    let want = bytes(&env, "rootfs:tree", &[]);
    for path in ["result", "result/", "./tree/.", "tree/a/.."] {
        assert!(bytes(&env, &format!("rootfs:{path}"), &[]) == want, "{path}");
    }
    fs::rename(env.path("tree"), env.path("tree:v1")).unwrap();
    assert!(bytes(&env, "rootfs:tree:v1", &[]) == want);
}

#[test]
fn the_process_comes_from_the_flags() {
    let env = world();
    let root = full(&env, "tree");
    let words = ["build", "rootfs:tree", "--kernel", "kernel", "-o", "app.eif"];
    let _ = env.eif(&words).refused("E-no-command").says("--cmd");
    fs::write(root.join("etc/passwd"), "app:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    let flags = ["--cmd", "/bin/app", "--cmd", "-x", "--env", "MODE=a=b", "--user", "app", "--workdir", "/a"];
    let _ = env.eif(&[&words[..], &flags].concat()).success();
    let process = env.eif(&["inspect", "app.eif", "--json"]).success().json()["process"].clone();
    assert_eq!(process["argv"], json!(["/bin/app", "-x"]));
    assert_eq!((&process["uid"], &process["gid"], &process["cwd"]), (&json!(1000), &json!(1001), &json!("/a")));
    let env_of = process["env"].as_array().unwrap();
    assert!(env_of.contains(&json!("MODE=a=b")) && env_of.contains(&json!("HOME=/home/app")), "{env_of:?}");
}

/// `mktemp -d` makes directories that nobody else may enter.
#[test]
fn a_root_that_the_process_cannot_enter_is_told() {
    let env = world();
    mode(&full(&env, "tree"), 0o700);
    let _ = build(&env, "rootfs:tree", &[]).success().says_nothing_of("W-root-mode");
    let _ = build(&env, "rootfs:tree", &["--user", "7:8"]).success().says("warning[W-root-mode]: / has the mode 0700");
    mode(&env.path("tree"), 0o750);
    let _ = build(&env, "rootfs:tree", &["--user", "7:8"]).success().says("cannot reach any file");
    let _ = build(&env, "rootfs:tree", &["--user", "7:0"]).success().says_nothing_of("W-root-mode");
}

/// Several owners may mean something: that they go is said.
#[test]
fn owners_that_become_root_are_told() {
    let env = world();
    let of = |lines: Vec<Layer>| env.write("tree.tar", lines[0].tar());
    of(layers! { "d 0755 1000:1000 ./", "d 0755 1000:1000 bin", "f 0755 1000:1000 bin/app x" });
    let _ = build(&env, "rootfs:tree.tar", &[]).success().says_nothing_of("W-owners");
    of(layers! { "d 0755 0:0 ./", "d 0755 0:0 bin", "f 0755 7:8 bin/app x" });
    let _ = build(&env, "rootfs:tree.tar", &[])
        .success()
        .says("warning[W-owners]: 2 different owners")
        .says("--keep-owners");
    let _ = build(&env, "rootfs:tree.tar", &["--keep-owners"]).success().says_nothing_of("W-owners");
    assert!(files(&env).lines().any(|line| line.starts_with("-rwxr-xr-x 1 7 8") && line.ends_with("rootfs/bin/app")));
    assert_eq!(record(&env)["rootfs"]["keep_owners"], true);
    let _ = env.layout("image", &Image::new(layers! { "f 0755 0:0 bin/app x" }));
    let _ = build(&env, "oci:image", &["--keep-owners"]).code(2).says("--keep-owners is for rootfs:PATH");
}

/// The owners that count are in the record, so that who has the directory says what runs and nothing else.
#[test]
fn a_file_can_be_proved_from_its_directory_and_its_tar() {
    let env = world();
    let root = full(&env, "tree");
    tar(&env, "tree", "tree.tar", &[]);
    for reference in ["rootfs:tree", "rootfs:tree.tar"] {
        for further in [&[][..], &["--keep-owners"]] {
            let _ = build(&env, reference, &[further, &["--lock", "eif.lock"]].concat()).success();
            let verify = |further: &[&str]| env.eif(&[&["verify", "app.eif", "--kernel", "kernel"], further].concat());
            let _ = verify(&["--image", reference, "--entrypoint", "/bin/app"]).success();
            let _ = verify(&["--lock", "eif.lock"]).success();
            let output = verify(&["--image", reference]).code(1);
            assert_eq!(output.stdout(), "differs: options: --entrypoint: [\"/bin/app\"] | none\n");
        }
    }
    let _ = build(&env, "rootfs:tree", &[]).success();
    fs::write(root.join("etc/hosts"), "127.0.0.2 localhost").unwrap();
    let verify = ["verify", "app.eif", "--kernel", "kernel", "--image", "rootfs:tree", "--entrypoint", "/bin/app"];
    let output = env.eif(&verify).code(1);
    assert!(output.stdout().contains("etc/hosts"), "{output:?}");
}

#[test]
fn what_cannot_be_packed_is_refused_by_name() {
    let env = world();
    let root = env.path("tree");
    let fresh = || {
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/app"), "x").unwrap();
    };
    let refused = |code: &str| {
        let output = build(&env, "rootfs:tree", &[]).refused(code);
        assert!(!env.path("app.eif").exists() && env.listing(&env.tmp()).is_empty(), "something is left");
        output
    };
    let _ = refused("E-io").says("tree: No such file");
    fresh();
    let _socket = UnixListener::bind(root.join("bin/agent")).unwrap();
    let _ = refused("E-unsupported-entry").says("tree/bin/agent: a socket");
    for name in [".wh.app", ".wh..wh..opq", "bin/.wh.x", ".wh..wh.plnk"] {
        fresh();
        fs::write(root.join(name), "").unwrap();
        let _ = refused("E-bad-whiteout").says(&format!("rootfs `tree`: entry \"{name}\""));
    }
    fresh();
    let file = fs::File::create(root.join("huge")).unwrap();
    if file.set_len(1 << 32).is_ok() {
        let _ = refused("E-file-too-large").says("rootfs `tree`: entry \"huge\"");
    }
    fresh();
    let _ = build(&env, "rootfs:tree", &["--max-entries", "2"]).refused("E-too-large");
    let _ = build(&env, "rootfs:tree", &["--max-unpacked", "1K"]).refused("E-too-large");
}

#[test]
fn what_is_no_tar_is_refused_by_name() {
    let env = world();
    for (bytes, code) in [
        (vec![b'x'; 2000], "E-bad-tar"),
        (b"#!/bin/sh\n".to_vec(), "E-truncated"),
        (b"\xfd7zXZ\0\0\0".to_vec(), "E-media-type"),
        (layers! { "f 0755 0:0 app xxxxxxx" }[0].tar()[..515].to_vec(), "E-truncated"),
        (layers! { "w app" }[0].tar(), "E-bad-whiteout"),
        (layers! { "f 0755 0:0 ../app x" }[0].tar(), "E-path-traversal"),
    ] {
        env.write("tree", bytes);
        let _ = build(&env, "rootfs:tree", &[]).refused(code).says("rootfs `tree`");
    }
}

/// What the user may not read is one clear error: root reads everything, so root becomes somebody else.
#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let env = world();
    fs::copy(env!("CARGO_BIN_EXE_eif"), env.path("eif")).unwrap();
    let refused = |says: &str| {
        let mut words = vec!["build", "rootfs:tree", "--kernel", "kernel", "--entrypoint", "/app", "-o", "app.eif"];
        let output = if is_root() {
            let other = ["--reuid=65534", "--regid=65534", "--clear-groups", "./eif"];
            words.splice(0..0, other);
            env.command_of("setpriv", &words).output().unwrap()
        } else {
            env.command(&words).output().unwrap()
        };
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with(&format!("error[E-io]: {says}: Permission denied")), "{stderr}");
    };
    fs::create_dir_all(env.path("tree/secret")).unwrap();
    env.write("tree/shadow", "x");
    mode(&env.path("tree/shadow"), 0o000);
    refused("tree/shadow");
    mode(&env.path("tree/shadow"), 0o644);
    mode(&env.path("tree/secret"), 0o000);
    refused("tree/secret");
    mode(&env.path("tree/secret"), 0o755);
}
