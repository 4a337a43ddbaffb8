//! Times `eif build` on an image, and what others do with it, in turn with the floor.

use std::path::Path;

use crate::floor::{self, Data, Floor};
use crate::program::{self, Cost};
use crate::{images, median};

/// What is measured.
pub struct Options {
    name: String,
    rounds: usize,
    peers: bool,
}

impl Options {
    /// From the command line.
    pub fn read(name: &str, mut further: &[&str]) -> Option<Self> {
        let mut options = Self { name: name.to_owned(), rounds: 5, peers: false };
        loop {
            further = match further {
                [] => return ["hello", "middle", "large"].contains(&name).then_some(options),
                ["--rounds", number, rest @ ..] => {
                    options.rounds = number.parse().ok().filter(|number| *number > 0)?;
                    rest
                }
                ["--peers", rest @ ..] => {
                    options.peers = true;
                    rest
                }
                _ => return None,
            };
        }
    }
}

/// Whoever makes something of the image.
struct Contestant {
    name: &'static str,
    /// Leaves its results in the working folder.
    script: String,
    /// Whether its layers were inflated before.
    plain: bool,
    /// Whether its peak memory is that of the program alone.
    alone: bool,
}

/// A contestant's turn, and the floor that was measured right before it: what slows the machine for a while slows both.
struct Turn {
    floor: Floor,
    cost: Cost,
}

pub fn table(options: &Options) {
    let layout = images::layout(&options.name);
    let plain = images::plain(&options.name);
    let data = Data::of(&layout);
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let kept = scratch.path().join("kept");
    let contestants = contestants(&layout, &plain, &kept, options.peers);
    program::run(&keep(&kept, &layout), scratch.path());
    let mut turns: Vec<Vec<Turn>> = contestants.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (contestant, turns) in contestants.iter().zip(&mut turns) {
            // What the one before has left to be written would be written meanwhile.
            nix::unistd::sync();
            let floor = floor::measure(&layout, &data, scratch.path());
            let folder = tempfile::tempdir_in(scratch.path()).expect("a temporary folder");
            floor::have_memory(&data, scratch.path());
            let cost = program::run(&contestant.script, folder.path());
            turns.push(Turn { floor, cost });
        }
    }
    println!("{}: {} MB of tars, medians of {} rounds\n", options.name, data.plain() / 1_000_000, options.rounds);
    print_floor(&turns.iter().flatten().map(|turn| &turn.floor).collect::<Vec<_>>());
    print(&contestants, &turns);
}

fn print_floor(floors: &[&Floor]) {
    println!("| floor | seconds | of it |\n|---|---|---|");
    let all = median(floors.iter().map(|floor| floor.seconds()));
    for (number, (name, _)) in floors[0].parts.iter().enumerate() {
        let seconds = median(floors.iter().map(|floor| floor.parts[number].1));
        println!("| {name} | {seconds:.2} | {:.0} % |", 100.0 * seconds / all);
    }
    println!("| all | {all:.2} | |\n");
}

fn print(contestants: &[Contestant], turns: &[Vec<Turn>]) {
    println!("| what | seconds | × floor | CPU × floor | peak memory |\n|---|---|---|---|---|");
    for (contestant, turns) in contestants.iter().zip(turns) {
        let of_turns = |value: &dyn Fn(&Turn) -> f64| median(turns.iter().map(value));
        let floor = |turn: &Turn| match contestant.plain {
            true => turn.floor.of_plain_layers(),
            false => turn.floor.seconds(),
        };
        let seconds = of_turns(&|turn| turn.cost.seconds);
        let time = of_turns(&|turn| turn.cost.seconds / floor(turn));
        let cpu = of_turns(&|turn| turn.cost.cpu / 2.0 / floor(turn));
        let most = turns.iter().map(|turn| turn.cost.kib).max().unwrap_or(0);
        let memory = if contestant.alone { format!("{:.1} MiB", most as f64 / 1024.0) } else { String::new() };
        println!("| {} | {seconds:.2} | {time:.2} | {cpu:.2} | {memory} |", contestant.name);
    }
}

/// Makes a cache of its own that has the kernels of the user's and the layers of the image, unpacked.
fn keep(cache: &Path, layout: &Path) -> String {
    let (cache, build) = (cache.display(), build(layout, "--keep-layers"));
    format!(
        "mkdir -p {cache}/eif && ln -s \"${{XDG_CACHE_HOME:-$HOME/.cache}}/eif/kernels\" {cache}/eif/kernels && \
         XDG_CACHE_HOME={cache} {build} && rm out.eif"
    )
}

fn build(layout: &Path, options: &str) -> String {
    format!("{} --quiet build oci:{}:latest -o out.eif {options}", program::eif().display(), layout.display())
}

fn contestants(layout: &Path, plain: &Path, kept: &Path, peers: bool) -> Vec<Contestant> {
    let oci = layout.display();
    let eif = |name, layout: &Path, options: &str, plain| {
        let script = format!("exec {}", build(layout, options));
        Contestant { name, script, plain, alone: true }
    };
    let mut all = vec![
        eif("`eif build`", layout, "", false),
        eif("`eif build --threads 1`", layout, "--threads 1", false),
        eif("`eif build`, plain layers, × hashing and writing", plain, "", true),
        Contestant {
            name: "`eif build`, kept layers, × hashing and writing",
            script: format!("export XDG_CACHE_HOME={}; exec {}", kept.display(), build(layout, "")),
            plain: true,
            alone: true,
        },
    ];
    if peers {
        let copy = format!("skopeo copy -q oci:{oci}:latest oci:copy:latest");
        let unpack = "umoci unpack --image copy:latest bundle 2>umoci.log";
        let pack = "(cd bundle/rootfs && find . -print0 | cpio --quiet -0 -o -H newc) >ramdisk.cpio";
        let script = format!("{copy} && {unpack} && {pack}");
        let name = "`skopeo copy`, `umoci unpack`, `cpio`";
        all.push(Contestant { name, script, plain: false, alone: false });
    }
    all
}
