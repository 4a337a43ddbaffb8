//! From the config to the process: arguments, environment, user, working directory.

use eif::image::Process;
use eif::rootfs::Overrides;
use eif_testdata::{Config, Image, Layer, OciLayout, fake_bzimage, layers};
use serde_json::json;

use crate::common::TestEnv;
use crate::world::{Ask, Refused, Unpacked, refused};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program, and users and groups as a distribution has them.
fn base() -> Vec<Layer> {
    let passwd = [
        r"root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:App:/home/app:/bin/sh\nmany:x:1001:1001::/:/bin/sh\n",
        r"#\x20a\x20remark\n\nbroken line\n1002:x:2000:2000::/digits:/bin/sh\ntwice:x:3:3::/one:\ntwice:x:4:4::/two:\n",
        r"far:x:4000000000:0::/far:\nnohome:x:5:5:::\n",
    ]
    .concat();
    let group =
        r"root:x:0:\nusers:x:100:\nmany:x:1001:\nwheel:x:10:many,root\naudio:x:29:app,many\n77:x:700:\nbad:x:x:many\n";
    layers! {
        "f 0755 0:0 app program", &format!("f 0644 0:0 etc/passwd {passwd}"), &format!("f 0644 0:0 etc/group {group}"),
        r"f 0644 0:0 etc/hosts 127.0.0.1\x20localhost\n", "l 0777 0:0 link -> var/data", "d 0700 5:5 var/data", "f 0644 0:0 file x",
    }
}

fn ask(overrides: Overrides) -> Ask {
    Ask { process: Some(overrides), ..Ask::default() }
}

fn resolve(config: Config) -> Result<Unpacked, Refused> {
    ask(Overrides::default()).image(&Image::new(base()).config(config))
}

fn process(config: Config) -> Process {
    resolve(config).unwrap().process.unwrap()
}

fn app() -> Config {
    Config::new().cmd(&["/app"])
}

#[test]
fn entrypoint_and_cmd() {
    let both = Config::new().entrypoint(&["/app", "serve"]).cmd(&["--port", "80"]);
    assert_eq!(process(both.clone()).argv, ["/app", "serve", "--port", "80"]);
    assert_eq!(process(Config::new().entrypoint(&["/app"])).argv, ["/app"]);
    assert_eq!(process(app()).argv, ["/app"]);
    // The shell form is what the builder made of it; nothing is split again, and empty strings stay.
    let shell = ["/bin/sh", "-c", "echo  \"a b\" | wc", "", " "];
    assert_eq!(process(Config::new().cmd(&shell)).argv, shell);
    for nothing in [Config::new(), Config::new().entrypoint(&[]).cmd(&[])] {
        refused(resolve(nothing), "E-no-command", "neither Entrypoint nor Cmd");
    }
    let of = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>| {
        let own = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        let overrides = Overrides { entrypoint: entrypoint.map(own), cmd: cmd.map(own), ..Overrides::default() };
        ask(overrides).image(&Image::new(base()).config(both.clone())).unwrap().process.unwrap().argv
    };
    assert_eq!(of(Some(&["/file"]), None), ["/file"]);
    assert_eq!(of(None, Some(&["x"])), ["/app", "serve", "x"]);
    assert_eq!(of(Some(&["/file"]), Some(&["x"])), ["/file", "x"]);
}

/// AWS's line files cannot carry a newline: then only `process` is there, and a foreign init is refused.
#[test]
fn a_newline_in_an_argument() {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    for (name, config, lines) in [
        ("plain", app(), true),
        ("argument", Config::new().cmd(&["/app", "a\nb"]), false),
        ("variable", app().env(&["A=1\n2"]), false),
    ] {
        let reference = env.layout(name, &Image::new(base()).config(config));
        let _ = env.eif(&["build", &reference, "--kernel", "kernel", "-o", "x.eif"]).success();
        let file = std::fs::read(env.path("x.eif")).unwrap();
        let holds = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
        // newc: the size of the name with its NUL, eight zeros for the checksum, the name.
        assert_eq!([holds(b"0000000400000000cmd\0"), holds(b"0000000400000000env\0")], [lines; 2], "{name}");
        assert!(holds(b"0000000800000000process\0") && holds(b"eif-process-1\0"), "{name}");
        let foreign = env.eif(&["build", &reference, "--kernel", "kernel", "--init", "kernel", "-o", "y.eif"]);
        let _ = if lines { foreign.success() } else { foreign.refused("E-cmd-encoding").says("newline") };
    }
    assert_eq!(process(Config::new().cmd(&["/app", "a\nb"])).argv, ["/app", "a\nb"]);
}

#[test]
fn a_nul_byte() {
    refused(resolve(Config::new().cmd(&["/app", "a\0b"])), "E-cmd-encoding", "argument 1");
    refused(resolve(app().env(&["A=1\x002"])), "E-cmd-encoding", "`A`");
    refused(resolve(app().working_dir("/a\0b")), "E-cmd-encoding", "working directory");
    refused(resolve(app().user("a\0b")), "E-cmd-encoding", "user");
}

#[test]
fn environment() {
    let env = |items: &[&str]| process(app().env(items)).env;
    let tail = ["HOME=/root", "HOSTNAME=enclave", "TERM=linux"];
    assert_eq!(env(&[]), [&[PATH][..], &tail].concat());
    assert_eq!(env(&["B=1", "A=2", "B=3"]), [&["B=3", "A=2", PATH][..], &tail].concat());
    assert_eq!(env(&["PATH=/x", "E=", "Q=a=b"]), [&["PATH=/x", "E=", "Q=a=b"][..], &tail].concat());
    assert_eq!(env(&["HOME=/h", "TERM=x"]), ["HOME=/h", "TERM=x", PATH, "HOSTNAME=enclave"]);
    for odd in ["NOVALUE", "=value", ""] {
        let unpacked = resolve(app().env(&["A=1", odd])).unwrap();
        assert_eq!(unpacked.warnings.len(), 1, "{:?}", unpacked.warnings);
        assert_eq!(unpacked.warnings[0].code, "W-env");
        assert_eq!(unpacked.process.unwrap().env[..2], ["A=1", PATH]);
    }
    let overrides = Overrides { env: vec!["A=new".into(), "C=3".into()], ..Overrides::default() };
    let image = Image::new(base()).config(app().env(&["A=1", "B=2"]));
    let process = ask(overrides).image(&image).unwrap().process.unwrap();
    assert_eq!(process.env[..3], ["A=new", "B=2", "C=3"]);
}

/// moby's `GetExecUser`: user, uid, gid, supplementary groups, HOME.
#[test]
fn users() {
    let table: [(&str, u32, u32, &[u32], &str); 16] = [
        ("", 0, 0, &[0, 10], "/root"),
        ("root", 0, 0, &[0, 10], "/root"),
        ("0", 0, 0, &[0, 10], "/root"),
        ("app", 1000, 100, &[29, 100], "/home/app"),
        ("1000", 1000, 100, &[29, 100], "/home/app"),
        ("many", 1001, 1001, &[10, 29, 1001], "/"),
        ("65534", 65534, 0, &[0], "/"),
        ("1002", 1002, 0, &[0], "/"), // a number is an id, though a user is called so
        ("app:wheel", 1000, 10, &[10], "/home/app"),
        ("app:0", 1000, 0, &[0], "/home/app"),
        ("1000:5555", 1000, 5555, &[5555], "/home/app"),
        ("app:77", 1000, 77, &[77], "/home/app"), // likewise a group
        (":wheel", 0, 10, &[10], "/root"),
        ("twice", 3, 3, &[3], "/one"), // the first match
        ("nohome", 5, 5, &[5], "/"),
        ("2147483647:2147483647", 2_147_483_647, 2_147_483_647, &[2_147_483_647], "/"),
    ];
    for (user, uid, gid, groups, home) in table {
        let process = process(app().user(user));
        assert_eq!((process.uid, process.gid, &process.groups[..]), (uid, gid, groups), "{user:?}");
        assert!(process.env.contains(&format!("HOME={home}")), "{user:?}: {:?}", process.env);
    }
    for (user, code) in [
        ("nobody", "E-unknown-user"),
        ("App", "E-unknown-user"),
        ("app ", "E-unknown-user"),
        ("nobody:wheel", "E-unknown-user"),
        ("app:nothing", "E-unknown-group"),
        ("2147483648", "E-uid-range"),
        ("0:2147483648", "E-uid-range"),
        ("99999999999999999999999", "E-uid-range"),
        ("-1", "E-uid-range"),
        ("far", "E-uid-range"),
    ] {
        refused(resolve(app().user(user)), code, "");
    }
}

fn with_files(lines: &[&str], user: &str) -> Result<Unpacked, Refused> {
    let image = Image::new(eif_testdata::parse_layers(lines)).config(app().user(user));
    ask(Overrides::default()).image(&image)
}

#[test]
fn passwd_and_group_of_the_final_file_system() {
    let uid = |lines: &[&str], user: &str| with_files(lines, user).unwrap().process.unwrap().uid;
    let lower = r"f 0644 0:0 etc/passwd a:x:5:5::/:\n";
    assert_eq!(uid(&[lower, "--", r"f 0644 0:0 etc/passwd a:x:6:6::/:\n"], "a"), 6);
    refused(with_files(&[lower, "--", "w etc/passwd"], "a"), "E-unknown-user", "`a`");
    assert_eq!(uid(&["f 0644 0:0 x 1"], "5"), 5);
    refused(with_files(&["f 0644 0:0 x 1"], "root"), "E-unknown-user", "`root`");
    // Symlinks are followed inside the image, and never lead to the host's files.
    for target in ["../run/passwd", "/run/passwd", "../../../run/passwd"] {
        let link = format!("l 0777 0:0 etc/passwd -> {target}");
        assert_eq!(uid(&[&link, r"f 0644 0:0 run/passwd a:x:7:7::/:\n"], "a"), 7);
    }
    refused(
        with_files(&["l 0777 0:0 etc/passwd -> ../../../../../../../../../../etc/passwd"], "root"),
        "E-unknown-user",
        "root",
    );
    refused(with_files(&["d 0755 0:0 etc/passwd", "l 0777 0:0 etc/group -> group"], "root"), "E-unknown-user", "root");
    assert_eq!(uid(&[r"f 0644 0:0 etc/passwd \xff\xfe:x:1:1::/:\n\x00\x00\na:x:8:8::/:"], "a"), 8);
}

#[test]
fn working_directories() {
    for (wanted, cwd, made) in [
        ("", "/", None),
        ("/", "/", None),
        ("/var/data/", "/var/data", None),
        ("var/data", "/var/data", None),
        ("/var/../var/./data", "/var/data", None),
        ("/../..", "/", None),
        ("/link", "/link", None),
        ("/srv/a b/", "/srv/a b", Some(r"d 0755 0:0 srv/a\x20b")),
        ("/link/new", "/link/new", Some("d 0755 0:0 var/data/new")),
    ] {
        let before = resolve(app()).unwrap().tree;
        let unpacked = resolve(app().working_dir(wanted)).unwrap();
        assert_eq!(unpacked.process.unwrap().cwd, cwd, "{wanted:?}");
        let fresh: Vec<_> = unpacked.tree.iter().filter(|line| !before.contains(line)).collect();
        assert_eq!(fresh.last().map(|line| line.as_str()), made, "{wanted:?}");
    }
    refused(resolve(app().working_dir("/file")), "E-workdir", "/file");
    refused(resolve(app().working_dir("/file/x")), "E-workdir", "/file/x");
    let looped = Image::new(layers! { "l 0777 0:0 a -> b", "l 0777 0:0 b -> a" }).config(app().working_dir("/a/x"));
    refused(ask(Overrides::default()).image(&looped), "E-workdir", "symlinks");
    let error = resolve(app().working_dir(&"n".repeat(256))).unwrap_err();
    assert_eq!(error.code, "E-name-too-long");
    assert!(!error.message.contains("42949"), "{}", &error.message[..60]);
}

#[test]
fn what_the_config_may_leave_out_or_add() {
    let image = [
        "Entrypoint",
        "Env",
        "User",
        "WorkingDir",
        "Volumes",
        "ExposedPorts",
        "Healthcheck",
        "OnBuild",
        "StopSignal",
        "Labels",
        "Shell",
    ]
    .into_iter()
    .fold(Image::new(base()).config(app()), |image, key| image.patch_config(&format!("/config/{key}"), json!(null)));
    let image = image.patch_config("/config/Future", json!({ "a": [1] })).patch_config("/variant", json!(null));
    let plain = resolve(app()).unwrap();
    let nulls = ask(Overrides::default()).image(&image).unwrap();
    assert_eq!(nulls.process, plain.process);
    // What is recorded of these is nothing: the tree is the same with all of them set.
    let set = Image::new(base())
        .config(app())
        .patch_config("/config/Volumes", json!({ "/data": {} }))
        .patch_config("/config/ExposedPorts", json!({ "80/tcp": {} }))
        .patch_config("/config/Healthcheck", json!({ "Test": ["CMD", "x"] }))
        .patch_config("/config/OnBuild", json!(["RUN x"]))
        .patch_config("/config/StopSignal", json!("SIGQUIT"));
    let set = ask(Overrides::default()).image(&set).unwrap();
    assert_eq!((set.process, set.tree), (plain.process, plain.tree));
    for (pointer, value) in [
        ("/config/Cmd", json!("/app")),
        ("/config/Env", json!({})),
        ("/config", json!("x")),
        ("/architecture", json!(1)),
    ] {
        let image = Image::new(base()).config(app()).patch_config(pointer, value);
        refused(ask(Overrides::default()).image(&image), "E-bad-manifest", "config");
    }
    refused(
        ask(Overrides::default()).image(&Image::new(base()).patch_config("/rootfs", None)),
        "E-bad-manifest",
        "diff_ids",
    );
    let no_config = Image::new(base()).patch_config("/config", None);
    refused(ask(Overrides::default()).image(&no_config), "E-no-command", "");
}

#[test]
fn a_program_that_is_not_there_is_told() {
    for (cmd, warned) in
        [("/app", false), ("app", true), ("/file", true), ("/nothing", true), ("/var", true), ("../app", false)]
    {
        let unpacked = resolve(Config::new().cmd(&[cmd])).unwrap();
        assert_eq!(unpacked.warnings.iter().any(|warning| warning.code == "W-program"), warned, "{cmd}");
    }
}

/// A path for each of two million folders would fill the memory.
#[test]
fn a_search_path_as_large_as_a_config_can_be() {
    let program = "x".repeat(1 << 20);
    let config = |colons: usize| Config::new().cmd(&[&program]).env(&[&format!("PATH={}", ":".repeat(colons))]);
    let codes = |config| resolve(config).unwrap().warnings.iter().map(|it| it.code).collect::<Vec<_>>();
    assert_eq!(codes(config(1000)), ["W-program"]);
    // Who can say where it is?
    assert!(codes(config(2 << 20)).is_empty());
}

#[test]
fn a_home_is_held_to_what_a_variable_can_be() {
    let nul = r"f 0644 0:0 etc/passwd a:x:5:5::/ro\x00ot:\n";
    refused(with_files(&[nul], "a"), "E-cmd-encoding", "HOME");
    // Nobody asks for it where the image has one.
    let image = Image::new(eif_testdata::parse_layers(&[nul])).config(app().user("a").env(&["HOME=/"]));
    assert!(ask(Overrides::default()).image(&image).is_ok());
}

/// Seven hundred thousand variables are read in no time.
#[test]
fn an_environment_as_large_as_a_config_can_be() {
    let items: Vec<String> = (0..300_000).map(|n| format!("{n}=")).collect();
    let image = Image::new(base()).config(app()).patch_config("/config/Env", json!(items));
    let files = OciLayout::new().tag("latest", &image).files();
    assert_eq!(ask(Overrides::default()).files(&files).unwrap().process.unwrap().env.len(), 300_004);
}
