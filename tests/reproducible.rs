//! The promise: the same inputs give the same bytes, whoever builds, wherever and however. The rows of the matrix that
//! need a registry or an engine are in `transports.rs`, the one of another architecture in `reproducible_arm64.rs`.
//!
//! Needs the packages disorderfs, e2fsprogs, faketime, qemu-user and reprotest, and root (or sudo) for mounts.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::TestEnv;
use eif_testdata::attestation::{Attestation, MADE_AT_MS};
use eif_testdata::{Compression, Config, DockerArchive, Image, OciLayout, fake_bzimage, layers, sha256};

fn image() -> Image {
    let many: Vec<String> = (0..300).map(|n| format!("f 0644 {n}:{n} many/{:02}/{n} content {n}", n % 17)).collect();
    let mut lines = vec![
        "d 0755 0:0 etc/",
        "f 0644 0:0 etc/hosts 127.0.0.1 localhost",
        "f 0644 0:0 etc/passwd app:x:1000:1000::/home/app:/bin/sh",
        "f 0755 0:0 bin/app program",
        "h bin/link => bin/app",
        "l 0777 0:0 bin/sh -> app",
        "d 1777 0:0 tmp/",
    ];
    lines.extend(many.iter().map(String::as_str));
    lines.extend(["--", "w many/03", "f 4755 0:0 bin/app another", r"f 0600 7:7 odd\xff\x20name x"]);
    let config = Config::new().entrypoint(&["/bin/app"]).cmd(&["a", ""]).env(&["A=1", "B=2"]).user("app");
    Image::new(eif_testdata::parse_layers(&lines)).config(config.working_dir("/srv/data"))
}

/// A world with an image and a kernel that any user may read.
fn world() -> TestEnv {
    let env = TestEnv::new();
    let _ = env.layout("image", &image());
    env.write("kernel", fake_bzimage());
    let open = Command::new("chmod").args(["-R", "a+rwX"]).arg(env.work().parent().unwrap()).status().unwrap();
    assert!(open.success());
    env
}

const BUILD: [&str; 5] = ["build", "oci:image:latest", "--kernel", "kernel", "-o"];

fn build(env: &TestEnv, name: &str, further: &[&str]) -> Vec<u8> {
    let _ = env.eif(&[&BUILD[..], &[name], further].concat()).success();
    fs::read(env.path(name)).unwrap()
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn threads_do_not_matter() {
    let env = world();
    for compress in ["none", "gzip", "zstd"] {
        let one = build(&env, "one.eif", &["--threads", "1", "--compress", compress]);
        for threads in ["2", "7"] {
            assert!(one == build(&env, "other.eif", &["--threads", threads, "--compress", compress]), "{compress}");
        }
    }
}

#[test]
fn user_umask_zone_locale_and_folders_do_not_matter() {
    let env = world();
    let want = build(&env, "want.eif", &[]);
    let copy = env.path("eif");
    fs::copy(env!("CARGO_BIN_EXE_eif"), &copy).unwrap();
    for folder in ["elsewhere", "scratch"] {
        fs::create_dir(env.path(folder)).unwrap();
        fs::set_permissions(env.path(folder), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for (folder, name) in [("elsewhere", "a.eif"), ("scratch", "b.eif")] {
        // Root becomes somebody else; somebody else becomes root of a namespace of its own.
        let other: &[&str] = if is_root() {
            &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        } else {
            &["unshare", "--map-root-user"]
        };
        let script = format!(
            "umask 0077; cd {folder}; exec {} ../eif build oci:../image:latest --kernel {} -o {name}",
            other.join(" "),
            env.path("kernel").display(),
        );
        let mut command = env.command_of("sh", &["-c", &script]);
        command.env("TZ", "Asia/Kathmandu").env("LANG", "tr_TR.UTF-8").env("LC_ALL", "tr_TR.UTF-8");
        command.env("TMPDIR", env.path("scratch")).env("HOME", "/nowhere").env("USER", "somebody");
        run(command);
        assert!(fs::read(env.path(folder).join(name)).unwrap() == want, "{folder}");
    }
}

/// `id -u`, without unsafe code and without a crate for it.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&id.stdout).trim() == "0"
}

/// The program, as a word of a script.
const EIF: &str = env!("CARGO_BIN_EXE_eif");

/// A plain directory with many names, for what depends on the order in which a file system has them.
fn tree(env: &TestEnv) {
    for number in 0..200 {
        let folder = env.path(&format!("tree/many/{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(number.to_string()), number.to_string()).unwrap();
        fs::write(env.path(&format!("tree/many/f{number}")), "x").unwrap();
    }
}

/// Builds `NAME-image.eif` and `NAME-tree.eif`: from the layout and from the plain directory in the current folder, by way
/// of `$OUT` where that is set.
fn builds(name: &str) -> String {
    let (image, tree) = ("oci:image:latest", "rootfs:tree --entrypoint /many/f1");
    let one = |what: &str, reference: &str| {
        format!(
            "{EIF} --quiet build {reference} --kernel \"$W/kernel\" -o \"${{OUT:-$W}}/{name}-{what}.eif\" \
             >\"$W/{name}.json\"\n"
        )
    };
    one("image", image) + &one("tree", tree) + "[ -z \"${OUT-}\" ] || cp \"$OUT\"/*.eif \"$W\"\n"
}

/// Runs a script whose `$W` is the working folder.
fn script<S: AsRef<OsStr>>(env: &TestEnv, shell: &[S], text: &str) {
    let words: Vec<&OsStr> = shell.iter().map(AsRef::as_ref).collect();
    let mut command = env.command_of(words[0].to_str().unwrap(), &words[1..]);
    command.args(["sh", "-euc", text]).env("W", env.work());
    run(command);
}

/// In a mount namespace of its own, which takes its mounts with it.
fn mounted(env: &TestEnv, text: &str) {
    let own = ["unshare", "--mount", "--"];
    let sudo = ["sudo", "--non-interactive", "--preserve-env", "--"];
    let shell = if is_root() { own.to_vec() } else { [&sudo[..], &own].concat() };
    script(env, &shell, text);
}

/// What the same two builds give here, and what they gave under that name.
fn assert_same(env: &TestEnv, name: &str) {
    if !env.path("want-image.eif").exists() {
        script(env, &["env"], &builds("want"));
    }
    for what in ["image", "tree"] {
        let read = |name: &str| fs::read(env.path(&format!("{name}-{what}.eif"))).unwrap();
        assert!(read(name) == read("want"), "{name}: another file from the {what}");
    }
}

#[test]
fn the_clock_does_not_matter() {
    let env = world();
    tree(&env);
    let attestation = Attestation::new();
    env.write("document", attestation.bytes());
    env.write("root.pem", attestation.root_pem());
    for (name, time, seconds) in
        [("then", "1999-12-31 23:59:59", 946_684_799_u64), ("later", "2106-02-07 06:28:15", 4_294_967_295)]
    {
        script(&env, &["faketime", time], &format!("date +%s >{name}\n{}", builds(name)));
        let date: u64 = fs::read_to_string(env.path(name)).unwrap().trim().parse().unwrap();
        assert!((seconds..seconds + 60).contains(&date), "{name}: the clock is at {date}");
        // Not `date` alone: `eif` itself, where the clock is asked, is told that time.
        let words = [time, EIF, "attest", "verify", "document", "--root", "root.pem", "--max-age", "60"];
        let output = env.command_of("faketime", &words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let age = said.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap_or_else(|| panic!("{said}"));
        let want = seconds.abs_diff(MADE_AT_MS / 1000);
        assert!(said.contains("error[E-attest-age]: ") && age.abs_diff(want) < 60, "{name}: {want} s wanted: {said}");
        assert_same(&env, name);
    }
}

#[test]
fn file_systems_do_not_matter() {
    let env = world();
    tree(&env);
    for (name, mount) in [
        ("tmpfs", "mount -t tmpfs none place"),
        ("ext4", "truncate -s 96M disk; mkfs.ext4 -q disk; mount -o loop disk place"),
        (
            "overlay",
            "mount -t tmpfs none over; mkdir over/upper over/work; \
             mount -t overlay none -o lowerdir=lower,upperdir=over/upper,workdir=over/work place",
        ),
    ] {
        let fill = "cp -a image tree place; cd place; mkdir tmp cache out
            export TMPDIR=$PWD/tmp XDG_CACHE_HOME=$PWD/cache OUT=$PWD/out";
        let ask = format!("findmnt --noheadings --output FSTYPE --target \"$OUT\" >\"$W/{name}.type\"");
        mounted(&env, &format!("mkdir -p place lower over\n{mount}\n{fill}\n{ask}\n{}", builds(name)));
        let kind = fs::read_to_string(env.path(&format!("{name}.type"))).unwrap();
        assert_eq!(kind.trim(), name, "another file system was written to");
        assert_same(&env, name);
    }
}

/// A file system that gives a folder's entries in another order each time.
#[test]
fn the_order_of_a_folders_entries_does_not_matter() {
    let env = world();
    tree(&env);
    for name in ["shuffled", "again"] {
        let mount =
            "mkdir -p mixed; disorderfs --multi-user=no --shuffle-dirents=yes --reverse-dirents=no . mixed >log";
        let order = format!("ls -U tree/many >plain; ls -U mixed/tree/many >{name}");
        mounted(&env, &format!("{mount}\n{order}\ncd mixed\n{}cd ..\numount mixed", builds(name)));
        let order = |name: &str| fs::read_to_string(env.path(name)).unwrap();
        assert_ne!(order(name), order("plain"), "the order was not changed");
        assert_same(&env, name);
    }
}

/// Hashes, inflate and the encoders choose their code by what the CPU can do.
#[test]
fn what_the_cpu_can_do_does_not_matter() {
    let (emulator, weak) = if cfg!(target_arch = "x86_64") {
        ("qemu-x86_64", ["Nehalem", "max"])
    } else {
        ("qemu-aarch64", ["cortex-a53", "max"])
    };
    let env = world();
    let features = weak.map(|cpu| {
        let this = std::env::current_exe().unwrap();
        let words = ["-cpu", cpu, this.to_str().unwrap(), "--exact", "what_this_cpu_can_do", "--ignored"];
        let output = env.command_of(emulator, &[&words[..], &["--nocapture"]].concat()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find_map(|line| line.split_once(FEATURES)).unwrap_or_else(|| panic!("{cpu}: {said}"));
        line.1.to_owned()
    });
    let without = |cpu: usize| features[cpu].split(' ').filter(|feature| feature.starts_with("no-")).count();
    assert_eq!(without(0), probed().len(), "{} can do {}", weak[0], features[0]);
    assert!(without(1) < without(0), "{} can do {}", weak[1], features[1]);
    for (compress, layers) in [("none", Compression::Gzip), ("gzip", Compression::Zstd), ("zstd", Compression::None)] {
        let _ = env.layout("image", &image().compress(layers));
        let want = build(&env, "want.eif", &["--compress", compress]);
        for cpu in weak {
            let words = [&["-cpu", cpu, EIF][..], &BUILD, &["other.eif", "--compress", compress]].concat();
            run(env.command_of(emulator, &words));
            assert!(fs::read(env.path("other.eif")).unwrap() == want, "{compress} on {cpu}");
        }
    }
}

/// What comes before the answer of [`what_this_cpu_can_do`].
const FEATURES: &str = "features: ";

/// What the fast code of hashes and inflate asks for, and whether it is there.
#[cfg(target_arch = "x86_64")]
fn probed() -> [(&'static str, bool); 4] {
    use std::arch::is_x86_feature_detected as has;
    [("avx", has!("avx")), ("avx2", has!("avx2")), ("bmi2", has!("bmi2")), ("pclmulqdq", has!("pclmulqdq"))]
}

/// The same of the other architecture.
#[cfg(target_arch = "aarch64")]
fn probed() -> [(&'static str, bool); 3] {
    use std::arch::is_aarch64_feature_detected as has;
    [("sha3", has!("sha3")), ("lse", has!("lse")), ("dotprod", has!("dotprod"))]
}

/// Not a test: what the emulator runs, to see what programs see there.
#[test]
#[ignore = "run by what_the_cpu_can_do_does_not_matter"]
fn what_this_cpu_can_do() {
    let words = probed().map(|(name, there)| if there { name.to_owned() } else { format!("no-{name}") });
    println!("{FEATURES}{}", words.join(" "));
}

/// The C library chooses its copies and searches by the CPU too, and can be told to see less of it.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_the_c_library_makes_of_the_cpu_does_not_matter() {
    let env = world();
    tree(&env);
    let loader = "/lib64/ld-linux-x86-64.so.2 --list-diagnostics | grep 'cpu_features.*active' >";
    let tunables = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-BMI2,-ERMS,-FSRM,-SSSE3,-SSE4_1,-SSE4_2";
    script(&env, &["env"], &format!("{loader}strong"));
    script(&env, &["env", tunables], &format!("{loader}weak\n{}", builds("masked")));
    let features = |name: &str| fs::read_to_string(env.path(name)).unwrap();
    assert!(features("strong").lines().count() == features("weak").lines().count() && !features("weak").is_empty());
    assert_ne!(features("strong"), features("weak"), "the C library sees what it saw");
    assert_same(&env, "masked");
}

/// `eif` compiled in another folder, from a copy of its source; what it is made of is compiled once and kept.
#[test]
fn where_the_program_was_built_does_not_matter() {
    let elsewhere = Path::new(env!("CARGO_TARGET_TMPDIR")).join("elsewhere");
    let (copy, target) = (elsewhere.join("a place/of its own"), elsewhere.join("target"));
    fs::create_dir_all(&copy).unwrap();
    let parts = "Cargo.toml Cargo.lock rust-toolchain.toml build.rs LICENSE src init kernels benches testdata tests";
    let update = format!("for part in {parts}; do rm -rf \"$1/$part\"; cp -a \"$part\" \"$1\"; done");
    let mut update_copy = Command::new("sh");
    update_copy.args(["-euc", &update, "sh"]).arg(&copy).current_dir(env!("CARGO_MANIFEST_DIR"));
    run(update_copy);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--package", "eif", "--bin", "eif"]).arg("--target-dir").arg(&target);
    cargo.current_dir(&copy);
    run(cargo);
    let env = world();
    let want = build(&env, "want.eif", &["--compress", "zstd"]);
    let other = target.join("debug/eif");
    let words = [&BUILD[..], &["other.eif", "--compress", "zstd"]].concat();
    run(env.command_of(other.to_str().unwrap(), &words));
    assert!(fs::read(env.path("other.eif")).unwrap() == want);
}

/// Debian's own judge, over the whole build: other paths, environment, home, locales, time, time zone, umask, number of
/// CPUs, kernel, host name, order of files, address space. (Another user is above: here it would want one to be made.)
#[test]
fn reprotest_finds_no_difference() {
    let env = world();
    tree(&env);
    let command = format!("W=$PWD; {}", builds("out").trim_end().replace('\n', "; "));
    let words = ["--vary=-user_group", "--min-cpus=2", "-c", &command, ".", "out-*.eif"];
    let mut reprotest = env.command_of("reprotest", &words);
    // Its copies of the folder need room that the environment's own TMPDIR has.
    reprotest.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8");
    let output = reprotest.output().expect("install the package reprotest");
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("Reproduction successful"), "{said}");
    assert!(said.contains("out-image.eif") && said.contains("out-tree.eif"), "both were compared: {said}");
}

#[test]
fn transport_and_compression_of_layers_do_not_matter() {
    let env = world();
    let want = build(&env, "want.eif", &[]);
    let same = |reference: String| {
        let _ = env.eif(&["build", &reference, "--kernel", "kernel", "-o", "other.eif"]).success();
        assert!(fs::read(env.path("other.eif")).unwrap() == want, "{reference}");
    };
    for compression in Compression::ALL {
        let image = image().compress(compression);
        let layout = OciLayout::new().tag("v1", &image).files();
        layout.write_tar(&env.path("archive.tar"));
        same("oci-archive:archive.tar:v1".to_owned());
        let docker = DockerArchive::new().image(&["me/app:v1"], &image);
        docker.modern().write_tar(&env.path("modern.tar"));
        docker.legacy().write_tar(&env.path("legacy.tar"));
        same("docker-archive:modern.tar".to_owned());
        same("docker-archive:legacy.tar:me/app:v1".to_owned());
    }
}

#[test]
fn only_the_build_time_depends_on_source_date_epoch() {
    let env = world();
    let zero = env.eif(&[&BUILD[..], &["zero.eif"]].concat()).success().json();
    let dated = world().variable("SOURCE_DATE_EPOCH", "1700000000");
    let json = dated.eif(&[&BUILD[..], &["dated.eif"]].concat()).success().json();
    assert_eq!(json, zero, "the PCRs are equal");
    let (zero, dated) = (fs::read(env.path("zero.eif")).unwrap(), fs::read(dated.path("dated.eif")).unwrap());
    let put = |bytes: &mut Vec<u8>, time: &[u8; 20]| {
        let at = bytes.windows(13).position(|window| window == b"\"BuildTime\":\"").unwrap() + 13;
        assert_eq!(&bytes[at..at + 20], time);
        bytes[at..at + 20].fill(0);
        // The CRC is the header's last field.
        bytes[544..548].fill(0);
    };
    let (mut zero, mut dated) = (zero, dated);
    put(&mut zero, b"1970-01-01T00:00:00Z");
    put(&mut dated, b"2023-11-14T22:13:20Z");
    assert!(zero == dated, "something else differs as well");
}

/// What is measured is looked at by people too: the summary names all sizes and the memory.
#[test]
fn the_summary_is_for_people_and_can_be_turned_off() {
    let env = world();
    let output = env.eif(&[&BUILD[..], &["app.eif"]].concat()).success();
    for line in
        ["manifest  sha256:", "kernel    ", "ramdisk 1 ", "ramdisk 2 ", "unpacked  ", "memory    the enclave needs"]
    {
        assert!(output.stderr().lines().any(|said| said.starts_with(line)), "{line}: {output:?}");
    }
    assert!(!output.stderr().contains('\r') && !output.stderr().contains('\x1b'), "no bar and no colour in a file");
    let quiet = env.eif(&[&BUILD[..], &["app.eif", "--quiet"]].concat()).success();
    assert_eq!((quiet.stderr(), quiet.stdout()), ("", output.stdout()));
}

/// Two builds of one Dockerfile differ in times and in how the layers are cut; PCR2 does not.
#[test]
fn times_and_cuts_of_layers_do_not_matter_for_pcr2() {
    let env = world();
    let one = layers! { "f 0644 0:0 etc/hosts 127.0.0.1 localhost", "f 0755 0:0 app x", "f 0644 0:0 b/c y" };
    let cut = layers! { "f 0600 9:9 app old", "f 0644 0:0 b/c y", "--", "f 0755 0:0 app x", "--",
    "f 0644 0:0 etc/hosts 127.0.0.1 localhost" };
    let late: Vec<_> = cut.iter().map(|layer| at(layer, 1_700_000_000)).collect();
    let config = || Config::new().cmd(&["/app"]);
    let mut pcrs = Vec::new();
    for (name, layers) in [("one", one), ("cut", cut), ("late", late)] {
        let reference = env.layout(name, &Image::new(layers).config(config()));
        let build = |mtime| {
            let words = ["build", &reference, "--kernel", "kernel", "-o", "x.eif", "--mtime", mtime];
            env.eif(&words).success().json()["Measurements"]["PCR2"].clone()
        };
        pcrs.push((build("zero"), build("keep")));
    }
    assert_eq!(pcrs[0].0, pcrs[1].0);
    assert_eq!(pcrs[1].0, pcrs[2].0);
    assert_ne!(pcrs[1].1, pcrs[2].1, "--mtime keep keeps them");
}

fn at(layer: &eif_testdata::Layer, mtime: i128) -> eif_testdata::Layer {
    layer.entries().fold(eif_testdata::Layer::new(), |all, entry| all.entry(entry.clone().mtime(mtime)))
}

/// The bytes of one image with one kernel, as they were when they were last changed on purpose.
///
/// When this fails, the change of bytes needs a line in CHANGELOG.md.
#[test]
fn golden_bytes_of_ramdisk_2() {
    let env = world();
    let build = |compress| build(&env, "golden.eif", &["--compress", compress, "--init", "kernel"]);
    let golden = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/same_bytes.sha256")).unwrap();
    let got: String = ["none", "gzip", "zstd"]
        .into_iter()
        .map(|compress| format!("{} {compress}\n", sha256(&without_metadata(&build(compress)))))
        .collect();
    assert_eq!(got, golden);
}

/// The sections but the third, which names our version.
fn without_metadata(file: &[u8]) -> Vec<u8> {
    let eif = eif::eif::Eif::open(file).unwrap();
    let mut rest = Vec::new();
    for section in eif.sections().iter().filter(|section| section.kind != eif::eif::Kind::Metadata) {
        std::io::Read::read_to_end(&mut eif.read(section), &mut rest).unwrap();
    }
    rest
}

#[test]
fn a_failed_build_leaves_the_old_file_and_nothing_else() {
    let env = world();
    let _ = build(&env, "app.eif", &[]);
    let before: (Vec<u8>, Vec<String>) = (fs::read(env.path("app.eif")).unwrap(), env.listing(&env.work()));
    let layout: PathBuf = env.path("image");
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    fs::write(layout.join("index.json"), index.replace("sha256:", "sha256:00")).unwrap();
    let _ = env.eif(&[&BUILD[..], &["app.eif"]].concat()).code(1);
    assert_eq!((fs::read(env.path("app.eif")).unwrap(), env.listing(&env.work())), before);
}

#[test]
fn pcr_of_an_image_is_that_of_the_file_and_writes_nothing() {
    let env = world();
    let built = env.eif(&[&BUILD[..], &["app.eif", "--compress", "zstd"]].concat()).success().json();
    let of_file = env.eif(&["pcr", "app.eif"]).success().json();
    fs::remove_file(env.path("app.eif")).unwrap();
    let before = env.listing(&env.work());
    let of_image = env.eif(&["pcr", "oci:image", "--kernel", "kernel", "--compress", "zstd"]).success().json();
    assert_eq!((&of_file, &of_image), (&built, &built));
    assert_eq!(env.listing(&env.work()), before);
}
