//! Random layers: the library against the slow reading of the rules in `model`.

use std::collections::BTreeSet;

use eif::Refusal;
use eif::build::{Error, measure, nitro_cli};
use eif_testdata::{Entry, Layer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::model::{self, Store};
use crate::world::{image, listing, plan, ramdisk2, write};

/// What a layer does, before it is made an entry.
#[derive(Clone, Debug)]
struct Op {
    kind: u8,
    name: Vec<u8>,
    other: Vec<u8>,
    mode: u64,
    owner: (u32, u32),
    mtime: i128,
    fraction: bool,
    body: Vec<u8>,
}

/// A few names, so that they meet often; among them those that Docker and linuxkit know.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let common = prop::sample::select(vec![
        &b"a"[..],
        b"b",
        b"a-b",
        b"a.d",
        b"x",
        b"\xff",
        b"\xc3\xa9",
        b".hid",
        b"n\nl",
        b"TRAILER!!!",
    ]);
    let known = prop::sample::select(vec![
        &b"etc"[..],
        b"dev",
        b"proc",
        b"sys",
        b"tmp",
        b"var",
        b"run",
        b"hosts",
        b"mtab",
        b"hostname",
        b"resolv.conf",
        b"console",
        b"pts",
        b"shm",
        b"Dockerfile",
        b".dockerenv",
    ]);
    let part = prop_oneof![3 => common.clone(), 1 => known];
    let whole = prop::sample::select(vec![
        &b"etc/hosts"[..],
        b"etc/mtab",
        b"etc/resolv.conf",
        b"etc/hostname",
        b"dev/console",
        b"dev/pts/a",
        b"tmp/a",
        b"Dockerfile",
        b".dockerenv",
        b"etc",
        b"dev",
        b"proc",
        b"dev/shm",
    ]);
    prop_oneof![
        8 => prop::collection::vec(part, 1..4).prop_map(|parts| parts.join(&b'/')),
        1 => whole.prop_map(<[u8]>::to_vec),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let mode = prop::sample::select(vec![0o644, 0o755, 0o4755, 0o1777, 0o2711, 0, 0o600]);
    let id = prop::sample::select(vec![0, 1, 1000, 65534, 2_097_152, 4_294_967_294]);
    let mtime = prop_oneof![
        6 => 1..1_i128 << 31,
        1 => prop::sample::select(vec![0, -1, 4_294_967_295, -268_435_455, 9_223_372_037, 4_294_967_296, -268_435_456]),
    ];
    let body = prop::collection::vec(any::<u8>(), 0..6);
    (0..24_u8, name(), name(), mode, (id.clone(), id), mtime, prop::bool::weighted(0.1), body).prop_map(
        |(kind, name, other, mode, owner, mtime, fraction, body)| Op {
            kind,
            name,
            other,
            mode,
            owner,
            mtime,
            fraction,
            body,
        },
    )
}

fn entry(op: &Op) -> Entry {
    let Op { name, other, .. } = op;
    let (parent, last) = match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => name.split_at(at + 1),
        None => (&b""[..], &name[..]),
    };
    let entry = match op.kind {
        0..=6 => Entry::file(name, &op.body),
        7..=11 => Entry::dir([&name[..], b"/"].concat()),
        12 => Entry::symlink(name, other),
        13 => Entry::symlink(name, [b"/", &other[..]].concat()),
        14 => Entry::fifo(name),
        15 => Entry::char_device(name, op.body.len() as u64 + 1, 300),
        16 => Entry::block_device(name, 0, op.body.len() as u64),
        17 | 18 => Entry::file([parent, b".wh.", last].concat(), ""),
        19 => Entry::file([&name[..], b"/.wh..wh..opq"].concat(), ""),
        _ => Entry::hardlink(name, other),
    };
    let entry = entry.mode(op.mode).owner(op.owner.0.into(), op.owner.1.into()).mtime(op.mtime);
    if op.fraction { entry.pax("mtime", format!("{}.{}", op.mtime, "250")) } else { entry }
}

/// Layers that Docker takes, nearly always: no name twice, no parent that is no directory, hard links to what is there.
/// Most parents are named.
fn tidy(layers: &[Vec<Op>]) -> Vec<Layer> {
    layers.iter().map(|ops| tidy_layer(ops)).collect()
}

fn tidy_layer(ops: &[Op]) -> Layer {
    let (mut directories, mut others) = (BTreeSet::new(), Vec::new());
    let mut whiteouts = BTreeSet::new();
    let mut entries: Vec<Entry> = Vec::new();
    for op in ops {
        let parents: Vec<Vec<u8>> = op
            .name
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| op.name[..at].to_vec())
            .collect();
        let mut op = op.clone();
        if op.kind == 19 {
            op.kind = 7;
        }
        let taken = directories.contains(&op.name) || others.contains(&op.name) || whiteouts.contains(&op.name);
        if taken || parents.iter().any(|parent| others.contains(parent) || whiteouts.contains(parent)) {
            continue;
        }
        if op.kind > 19 {
            let Some(target) = others.get(op.body.len()) else { continue };
            op.other = target.clone();
        }
        for parent in parents {
            let unnamed = op.mtime % 9 == 0;
            if directories.insert(parent.clone()) && !unnamed {
                entries.push(entry(&Op { kind: 7, name: parent, ..op.clone() }));
            }
        }
        match op.kind {
            7..=11 => drop(directories.insert(op.name.clone())),
            17 | 18 => drop(whiteouts.insert(op.name.clone())),
            _ => others.push(op.name.clone()),
        }
        entries.push(entry(&op));
        if op.kind == 7 && op.mode == 0o755 {
            entries.push(Entry::file([&op.name[..], b"/.wh..wh..opq"].concat(), ""));
        }
    }
    entries.into_iter().collect()
}

/// Layers as they come, with names spelt in other ways; most are refused.
fn wild(layers: &[Vec<Op>]) -> Vec<Layer> {
    let spelt = |op: &Op| {
        let mut entry = entry(op);
        if op.owner.0 == 1 {
            let before: &[u8] = [&b"./"[..], b"/", b"../", b"x/../", b"a//../"][op.body.len() % 5];
            entry.name = [before, &entry.name].concat();
        }
        if op.owner.1 == 1 {
            let before: &[u8] = [&b"./"[..], b"/", b"../", b"x/../", b"a//../"][op.body.len() % 5];
            entry.link = [before, &entry.link].concat();
        }
        if op.kind == 15 && op.owner.0 == 0 {
            entry.device = (0, 0);
        }
        entry
    };
    layers.iter().map(|ops| ops.iter().map(spelt).collect()).collect()
}

fn layers(most: usize) -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(op(), 0..most), 1..5)
}

/// Paths that the config names are seldom there.
fn path() -> impl Strategy<Value = Option<String>> {
    let some = name().prop_map(|name| format!("/{}", String::from_utf8_lossy(&name)));
    prop::option::weighted(0.3, some)
}

fn config() -> impl Strategy<Value = Value> {
    let list = || {
        let item = prop::sample::select(vec!["/app", "", "--x=1", "A=1", "two\nlines", "PATH=/bin", "é"]);
        prop::option::weighted(0.8, prop::collection::vec(item, 0..3))
    };
    (list(), list(), list(), path(), path()).prop_map(|(cmd, entrypoint, env, workdir, volume)| {
        let volumes = volume.map(|volume| json!({ volume: {} }));
        json!({"Cmd": cmd, "Entrypoint": entrypoint, "Env": env, "WorkingDir": workdir, "Volumes": volumes})
    })
}

/// Both refuse, or both make the same bytes and name the same directories.
fn agree(layers: &[Layer], config: &Value, store: Store) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &image(layers, config));
    let mut plan = plan(folder.path(), store);
    let built = ramdisk2(&plan, folder.path());
    let model::Answer { ramdisk, times } = match model::ramdisk2(layers, config, store) {
        Ok(answer) => answer,
        Err(why) => {
            let known = ["E-docker-load", "E-docker-create", "E-hardlink-target", "E-no-command", "E-nitro-mtime"];
            let code = built.err().map(|error| error.code());
            prop_assert!(code.is_some_and(|code| known.contains(&code)), "{code:?}, but the model refuses: {why}");
            return Ok(());
        }
    };
    let built = match built {
        Ok(built) => built,
        Err(error) => return Err(TestCaseError::fail(format!("{error}, but the model does not refuse"))),
    };
    if built != ramdisk {
        let (built, expected) = (listing(&built, &[]), listing(&ramdisk, &[]));
        let differ: Vec<_> = built.iter().zip(&expected).filter(|(one, other)| one != other).collect();
        prop_assert!(false, "{} and {} entries; {differ:#?}", built.len(), expected.len());
    }
    plan.accept_unstable_times = false;
    let named = match measure(&plan, &eif::Silent) {
        Ok(_) => Vec::new(),
        Err(Error::NitroCli(nitro_cli::Error::Times(names))) => names,
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    let named: Vec<String> = named.iter().map(|name| format!("rootfs/{}", String::from_utf8_lossy(name))).collect();
    prop_assert_eq!(named, times);
    Ok(())
}

fn stores() -> impl Strategy<Value = Store> {
    prop_oneof![3 => Just(Store::Overlay2), 1 => Just(Store::Containerd)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn prop_layers_that_docker_takes(ops in layers(14), config in config(), store in stores()) {
        agree(&tidy(&ops), &config, store)?;
    }

    #[test]
    fn prop_layers_as_they_come(ops in layers(7), config in config(), store in stores()) {
        agree(&wild(&ops), &config, store)?;
    }
}
