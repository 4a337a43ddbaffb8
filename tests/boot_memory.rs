//! The least memory that a build names is enough, and not by much: with it everything is there, with 0.8 of it the loss is
//! seen. Needs the kernel of `eif kernel build` and the package qemu-system-x86.

mod common;

use std::path::PathBuf;

use common::TestEnv;
use common::boot::{Boot, Ended};
use eif_testdata::{Entry, Image, Layer, Model, hello_image};

/// `kernels/cmdline-x86_64` with another root.
const RAMFS: &str = "reboot=k panic=1 console=ttyS0 rootfstype=ramfs";

/// The hello image with more in it, whose program does this.
struct Trial {
    env: TestEnv,
    file: PathBuf,
    image: Image,
    /// The least memory in MiB, as the build has it.
    least: u64,
}

impl Trial {
    fn new(further: Layer, command: &str, options: &[&str]) -> Self {
        let env = TestEnv::with_kernels();
        let mut image = hello_image();
        image.layers.push(further);
        let reference = env.layout("image", &image);
        let words = ["--cmd", command, "--user", "root", "--workdir", "/", "--report", "report.json"];
        let file = env.build(&reference, "trial", &[&words[..], options].concat());
        let report: serde_json::Value =
            serde_json::from_slice(&std::fs::read(env.path("report.json")).unwrap()).unwrap();
        let least = report["memory_mib"].as_u64().unwrap();
        if options.contains(&RAMFS) {
            assert_eq!(report["memory_mib_ramfs"], least);
        }
        Trial { env, file, image, least }
    }

    fn boot(&self, mib: u64) -> Ended {
        Boot::start(&self.env, &self.file, &["--memory", &mib.to_string()]).finish()
    }

    /// Everything is there with the least memory. `what` tells a line of the console from an entry of the tree.
    fn has_all(&self, expected: &[String], what: impl Fn(&str) -> String) {
        let ended = self.boot(self.least).code(0);
        let listed = ended.console().skip_while(|line| *line != "list: begin").skip(1);
        let listed = listed.take_while(|line| *line != "list: end").filter(|line| !line.starts_with("m "));
        let mut seen: Vec<String> = listed.map(what).collect();
        seen.sort_unstable();
        assert!(seen == expected, "{} MiB: {} entries of {}", self.least, seen.len(), expected.len());
    }

    /// With 0.8 of it the application does not start, and somebody says why.
    fn lacks_something(&self) {
        let mib = self.least * 8 / 10;
        let ended = self.boot(mib).code(1).says("error[E-boot]: ");
        let _ = ended.says_nothing_of("list: begin");
    }
}

/// So many that it is the inodes that run out.
const MANY: u32 = 30_000;

fn many() -> Layer {
    (0..MANY).fold(Layer::new(), |layer, number| layer.entry(Entry::file(format!("many/{number}"), "")))
}

/// 96 MiB in four files of noise that no packer can shorten: it is the room that runs out.
fn large() -> Layer {
    let mut state = 1_u64;
    let mut noise = || -> Vec<u8> {
        let words = (0..3 << 20).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32).to_le_bytes()
        });
        words.flatten().collect()
    };
    (0..4).fold(Layer::new(), |layer, number| layer.entry(Entry::file(format!("large/{number}"), noise())))
}

/// The tree without what is mounted over it.
fn expected(image: &Image) -> Vec<String> {
    let model = Model::of(&image.layers).listing();
    model.into_iter().filter(|line| !line.ends_with(" /tmp")).collect()
}

/// The names alone, of the hello image and [`many`]; the model would take minutes for so many.
fn many_names() -> Vec<String> {
    let path = |line: &String| line.split_once(" /").map(|(_, path)| path.split(' ').next().unwrap().to_owned());
    let mut names: Vec<String> = expected(&hello_image()).iter().filter_map(path).collect();
    names.push("many".to_owned());
    names.extend((0..MANY).map(|number| format!("many/{number}")));
    names.sort_unstable();
    names
}

fn name(line: &str) -> String {
    line.split_once(" /").map(|(_, path)| path.to_owned()).unwrap_or_default()
}

#[test]
fn many_small_files_in_a_tmpfs() {
    let trial = Trial::new(many(), "times", &[]);
    trial.has_all(&many_names(), name);
    trial.lacks_something();
}

#[test]
fn few_large_files_in_a_tmpfs() {
    let trial = Trial::new(large(), "list", &["--compress", "zstd"]);
    trial.has_all(&expected(&trial.image), str::to_owned);
    trial.lacks_something();
}

#[test]
fn few_large_files_in_a_ramfs() {
    let trial = Trial::new(large(), "list", &["--cmdline", RAMFS]);
    trial.has_all(&expected(&trial.image), str::to_owned);
    trial.lacks_something();
}
