//! Downloads that end before their end, and layers of any size: what has come is kept, and memory does not grow.

mod common;

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::TestEnv;
use common::registry::{Body, Deed, Fake, Reply, Seen};
use eif_testdata::{Config, Image, fake_bzimage, layers};
use serde_json::json;
use sha2::{Digest, Sha256};

fn world() -> TestEnv {
    let env = TestEnv::new();
    env.write("kernel", fake_bzimage());
    env
}

/// A pull that runs.
fn start(env: &TestEnv, fake: &Fake) -> Child {
    // Whoever runs the tests in the background has SIGINT ignored, which programs inherit.
    let words =
        ["--default-signal=INT", env!("CARGO_BIN_EXE_eif"), "pcr", &fake.image(), "--kernel", "kernel", "--quiet"];
    env.command_of("env", &words).stdout(Stdio::null()).spawn().unwrap()
}

fn image() -> Image {
    let file = |name: &str, c: &str| format!("f 0755 0:0 {name} {}", c.repeat(100_000));
    let (a, b, c) = (file("app", "a"), file("b", "b"), file("c", "c"));
    let layers = layers! { a.as_str(), "--", b.as_str(), "--", c.as_str() };
    Image::new(layers).config(Config::new().cmd(&["/app"]))
}

/// Ten at once on one store: ten equal files, and each blob is asked for once.
#[test]
fn processes_share_a_download() {
    let (env, fake) = (world(), Fake::honest(&image()));
    let build = |number| {
        let file = format!("{number}.eif");
        let words = ["build", &fake.image(), "--kernel", "kernel", "-o", &file, "--quiet"];
        env.command(&words).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut all: Vec<Child> = (0..10).map(build).collect();
    assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
    let files: Vec<Vec<u8>> = (0..10).map(|number| fs::read(env.path(&format!("{number}.eif"))).unwrap()).collect();
    assert!(files.iter().all(|file| *file == files[0]));
    for blob in &image().blobs()[1..] {
        let asked = fake.seen().iter().filter(|seen| seen.path.ends_with(&blob.digest())).count();
        assert_eq!(asked, 1, "{}", blob.digest());
    }
}

/// Twenty times at another point: the next run finishes, and asks for nothing that was finished, nor for bytes that
/// were there.
#[test]
fn a_download_that_is_killed_anywhere_goes_on() {
    let image = image();
    let fake = Fake::honest(&image);
    let total: u64 = image.blobs()[1..].iter().map(|blob| blob.bytes.len() as u64).sum();
    let pull = |env: &TestEnv| env.eif(&["pcr", &fake.image(), "--kernel", "kernel"]).success();
    let expected = pull(&world());
    let mut resumed = 0;
    let mut random = 1_u64;
    for round in 0..20 {
        // Numerical Recipes' generator: the points are other ones each time, and the same in each run.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (1 << 32);
        let (env, point) = (world(), random % total);
        fake.forget();
        fake.gate(point);
        let mut child = start(&env, &fake);
        fake.wait_for(point);
        if round % 2 == 0 {
            child.kill().unwrap();
        } else {
            let interrupt = env.command_of("kill", &["-INT", &child.id().to_string()]).status().unwrap();
            assert!(interrupt.success());
        }
        assert!(!child.wait().unwrap().success());
        fake.gate(u64::MAX);
        let blobs = env.work().join("../cache/eif/blobs");
        let finished = env.listing(&blobs.join("sha256"));
        let partial = env.listing(&blobs.join("partial"));
        let sizes: Vec<u64> =
            partial.iter().map(|hex| blobs.join("partial").join(hex).metadata().unwrap().len()).collect();
        fake.forget();
        assert_eq!(pull(&env).stdout(), expected.stdout(), "killed at {point}");
        for seen in fake.seen().iter().filter(|seen| seen.is_blob()) {
            assert!(!finished.iter().any(|hex| seen.path.ends_with(hex)), "{seen:?}");
            let there = partial.iter().position(|hex| seen.path.ends_with(hex)).map(|at| sizes[at]);
            assert_eq!(seen.from(), there.filter(|size| *size > 0), "{seen:?}");
            resumed += usize::from(seen.from().is_some());
        }
    }
    assert!(resumed > 5, "some downloads were in the middle of a blob");
}

/// A layer of one file of zeros: its head, and its digest with so many zeros behind it.
fn zeros(size: u64) -> (Vec<u8>, u64, String) {
    let mut header = tar::Header::new_ustar();
    header.set_path("app").unwrap();
    header.set_size(size);
    header.set_mode(0o755);
    header.set_cksum();
    let (head, behind) = (header.as_bytes().to_vec(), size.next_multiple_of(512) + 1024);
    let mut hasher = Sha256::new();
    hasher.update(&head);
    let mut left = behind;
    let chunk = vec![0; 1 << 20];
    while left > 0 {
        let count = left.min(chunk.len() as u64);
        hasher.update(&chunk[..count as usize]);
        left -= count;
    }
    (head, behind, format!("sha256:{}", hex::encode(hasher.finalize())))
}

/// The peak of resident memory of a pull, in KiB, as the kernel counts it.
fn peak(size: u64) -> u64 {
    let (env, (head, behind, digest)) = (world(), zeros(size));
    let total = head.len() as u64 + behind;
    let image = Image::new(layers! { "f 0755 0:0 app x" })
        .config(Config::new().cmd(&["/app"]))
        .patch_config("/rootfs/diff_ids/0", json!(digest))
        .patch_manifest("/layers/0/digest", json!(digest))
        .patch_manifest("/layers/0/size", json!(total));
    let fake = Fake::of(&image, move |seen: &Seen| match seen.path.ends_with(&digest) {
        true => Deed::Reply(Reply::of(200, Body::Zeros(head.clone(), behind))),
        false => Deed::Honest,
    });
    let mut child = start(&env, &fake);
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        // A process that has ended has no memory, and no line.
        peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_does_not_grow_with_a_layer() {
    let (small, large) = (peak(1 << 20), peak(1 << 30));
    println!("a layer of 1 MiB: {small} KiB at most; of 1 GiB: {large} KiB");
    assert!(large < small + (8 << 10), "1 MiB: {small} KiB, 1 GiB: {large} KiB");
}
