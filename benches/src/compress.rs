//! Size, build and boot for each `--compress`.

use crate::images;
use crate::program::{self, Cost};

pub fn table(name: &str, rounds: usize) {
    let layout = images::layout(name);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let eif = program::eif();
    let (eif, oci) = (eif.display(), layout.display());
    let kinds = ["none", "gzip", "zstd"];
    let mut costs: Vec<Option<[Cost; 2]>> = vec![None; kinds.len()];
    for _ in 0..rounds {
        for (kind, cost) in kinds.iter().zip(&mut costs) {
            let build = format!("exec {eif} --quiet build oci:{oci}:latest -o {kind}.eif --compress {kind}");
            let boot = format!("exec {eif} --quiet run {kind}.eif --backend qemu");
            let now = [build, boot].map(|script| program::run(&script, folder.path()));
            *cost = Some(cost.map_or(now, |[build, boot]| [build.best(now[0]), boot.best(now[1])]));
        }
    }
    let sizes = kinds.map(|kind| {
        let path = folder.path().join(format!("{kind}.eif"));
        path.metadata().expect("it was built").len() as f64
    });
    println!("{name}: best of {rounds} rounds, none is 1.00\n");
    println!("| --compress | size | build | boot | MB | build s | boot s |\n|---|---|---|---|---|---|---|");
    let Some([first, first_boot]) = costs[0] else { return };
    for ((kind, cost), size) in kinds.iter().zip(costs).zip(sizes) {
        let Some([build, boot]) = cost else { continue };
        println!(
            "| {kind} | {:.2} | {:.2} | {:.2} | {:.1} | {:.2} | {:.2} |",
            size / sizes[0],
            build.seconds / first.seconds,
            boot.seconds / first_boot.seconds,
            size / 1e6,
            build.seconds,
            boot.seconds
        );
    }
}
