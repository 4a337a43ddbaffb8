//! A slow and plain reading of docs on what `nitro-cli build-enclave` makes of an image (layers as Docker's overlay2
//! and containerd's snapshotter unpack them, container creation, export, linuxkit's rewriting), to judge the library.
//! It shares no code with it: paths are lists of components, a layer is a map of paths, layers are read from the top.

use std::collections::{BTreeMap, BTreeSet};

use eif_testdata::{Entry, Layer};
use serde_json::Value;

/// 2017-04-18 16:30:00 UTC.
const T: i128 = 1_492_533_000;
/// The last whole second of a 64-bit count of nanoseconds.
const LAST: i128 = 9_223_372_036;
const HOSTS: &str = "127.0.0.1       localhost\n::1     localhost ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\n\
                     ff00::0 ip6-mcastprefix\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n";

type Path = Vec<Vec<u8>>;

/// Which column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Overlay2,
    Containerd,
}

/// Ramdisk 2, and the directories whose time is a clock's (written as zero).
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub ramdisk: Vec<u8>,
    pub times: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dir { opaque: bool },
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u64, u64),
    Block(u64, u64),
    Fifo,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    mode: u64,
    uid: i128,
    gid: i128,
    mtime: i128,
    clock: bool,
}

impl Node {
    fn made(kind: Kind, mode: u64) -> Self {
        Node { kind, mode, uid: 0, gid: 0, mtime: 0, clock: true }
    }

    fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }
}

/// One layer, or the container: names, and the inodes that they share. The root is not among the names.
#[derive(Clone, Debug, Default)]
struct Fs {
    names: BTreeMap<Path, usize>,
    nodes: Vec<Node>,
}

/// What a path leads to.
enum Found {
    /// The root or a name, without symlinks in it.
    At(Path),
    /// Nothing is there.
    Missing,
}

impl Fs {
    fn node(&self, path: &[Vec<u8>]) -> Option<&Node> {
        self.names.get(path).map(|id| &self.nodes[*id])
    }

    fn node_mut(&mut self, path: &[Vec<u8>]) -> Option<&mut Node> {
        self.names.get(path).map(|id| &mut self.nodes[*id])
    }

    fn is_dir(&self, path: &[Vec<u8>]) -> bool {
        path.is_empty() || self.node(path).is_some_and(Node::is_dir)
    }

    fn put(&mut self, path: Path, node: Node) {
        self.nodes.push(node);
        self.names.insert(path, self.nodes.len() - 1);
    }

    fn remove(&mut self, path: &[Vec<u8>]) {
        self.names.retain(|name, _| !name.starts_with(path));
    }

    /// stat(2): symlinks are followed, in the end too. An error is ENOTDIR or ELOOP.
    fn stat(&self, path: &[Vec<u8>]) -> Result<Found, String> {
        let mut here: Path = Vec::new();
        let mut ahead: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if !self.is_dir(&here) {
                return Err("not a directory on the way".to_owned());
            }
            if part == b".." {
                here.pop();
                continue;
            }
            here.push(part);
            match self.node(&here).map(|node| &node.kind) {
                None => return Ok(Found::Missing),
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    if links > 40 {
                        return Err("too many symlinks".to_owned());
                    }
                    here.pop();
                    if target.first() == Some(&b'/') {
                        here.clear();
                    }
                    ahead.extend(parts(target).into_iter().rev());
                }
                Some(_) => {}
            }
        }
        Ok(Found::At(here))
    }

    /// A path whose parents' symlinks are resolved; the last component is not followed.
    fn lstat(&self, path: &[Vec<u8>]) -> Result<Path, String> {
        let (name, parent) = path.split_last().ok_or("the root")?;
        let mut place = match self.stat(parent)? {
            Found::At(place) if self.is_dir(&place) => place,
            _ => return Err("no such parent".to_owned()),
        };
        place.push(name.clone());
        Ok(place)
    }

    /// What Linux hands down to what is made in a directory with a set-group-id bit: the bit, and the group.
    fn handed_down(&self, parent: &[Vec<u8>]) -> (u64, i128) {
        self.node(parent).filter(|node| node.mode & 0o2000 != 0).map_or((0, 0), |node| (0o2000, node.gid))
    }

    /// mkdir -p, from the top down. What is made has a clock's time.
    fn make_all(&mut self, path: &[Vec<u8>], lower: Option<&Fs>) -> Result<(), String> {
        for end in 1..=path.len() {
            match self.stat(&path[..end])? {
                Found::At(place) if self.is_dir(&place) => {}
                Found::At(_) => return Err("a parent is no directory".to_owned()),
                Found::Missing => {
                    let place = self.lstat(&path[..end])?;
                    if self.node(&place).is_some() {
                        return Err("a parent is a dangling symlink".to_owned());
                    }
                    let handed_down = if lower.is_none() { self.handed_down(&place[..place.len() - 1]).0 } else { 0 };
                    let mut node = Node::made(Kind::Dir { opaque: false }, 0o755 | handed_down);
                    if let Some(below) = lower.and_then(|lower| lower.node(&place)).filter(|below| below.is_dir()) {
                        (node.mode, node.uid, node.gid) = (below.mode, below.uid, below.gid);
                    }
                    self.put(place, node);
                }
            }
        }
        Ok(())
    }
}

/// Components that are not empty and not `.`.
fn parts(path: &[u8]) -> Path {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).collect()
}

/// A name cleaned; `..` stops at the root.
fn clean(name: &[u8]) -> Path {
    let mut out = Path::new();
    for part in parts(name) {
        if part == b".." {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// How names are compared: cleaned, but with a leading `/` or, without one, leading `..` kept.
fn compared(name: &[u8]) -> (bool, Path) {
    let absolute = name.first() == Some(&b'/');
    let mut out = Path::new();
    for part in parts(name) {
        if part != b".." || (!absolute && out.last().is_none_or(|last| last == b"..")) {
            out.push(part);
        } else {
            out.pop();
        }
    }
    (absolute, out)
}

/// The entry's time, from its PAX record if it has one, rounded down.
fn mtime(entry: &Entry) -> i128 {
    let Some((_, text)) = entry.pax.iter().rev().find(|(key, _)| key == b"mtime") else { return entry.mtime };
    let text = std::str::from_utf8(text).unwrap();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let below = i128::from(text.starts_with('-') && fraction.bytes().any(|digit| digit != b'0'));
    whole.parse::<i128>().unwrap() - below
}

fn bounded(mtime: i128) -> i128 {
    if (0..=LAST).contains(&mtime) { mtime } else { 0 }
}

/// Unpacks one layer into an empty directory. `lower` is what containerd sees below.
fn unpack(layer: &Layer, store: Store, lower: &Fs) -> Result<Fs, String> {
    let mut fs = Fs::default();
    let mut seen = BTreeSet::new();
    let mut times: Vec<(Path, i128)> = Vec::new();
    for entry in layer.entries() {
        let path = clean(&entry.name);
        if !seen.insert(compared(&entry.name)) && store == Store::Overlay2 {
            return Err("a path twice".to_owned());
        }
        let Some((name, parent)) = path.split_last() else { continue };
        // Seen with Docker 20.10: the mark is an attribute, which a file can bear too, and which the root bears in vain.
        if name == b".wh..wh..opq"
            && store == Store::Overlay2
            && let Ok(Found::At(place)) = fs.stat(parent)
            && !fs.is_dir(&place)
        {
            continue;
        }
        fs.make_all(parent, (store == Store::Containerd).then_some(lower))?;
        let place = fs.lstat(&path)?;
        let inside = &place[..place.len() - 1];
        if name == b".wh..wh..opq" {
            if let Some(Node { kind: Kind::Dir { opaque }, .. }) = fs.node_mut(inside) {
                *opaque = true;
            }
            continue;
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            let hidden = [inside, &[hidden.to_vec()]].concat();
            let odd = [&b""[..], b".", b".."].contains(&&hidden[hidden.len() - 1][..]);
            if odd || fs.node(&hidden).is_some() {
                return Err("a whiteout of what the layer holds".to_owned());
            }
            fs.put(hidden, Node::made(Kind::Char(0, 0), 0));
            continue;
        }
        if !(fs.is_dir(&place) && entry.typeflag == b'5') {
            fs.remove(&place);
        }
        create(&mut fs, entry, place, store)?;
        if entry.typeflag == b'5' {
            times.push((path, bounded(mtime(entry))));
        }
    }
    for (path, mtime) in times {
        let Found::At(place) = fs.stat(&path)? else { return Err("a directory is gone".to_owned()) };
        if let Some(node) = fs.node_mut(&place) {
            (node.mtime, node.clock) = (mtime, false);
        }
    }
    Ok(fs)
}

fn create(fs: &mut Fs, entry: &Entry, place: Path, store: Store) -> Result<(), String> {
    let kind = match entry.typeflag {
        b'0' => Kind::File(entry.body.clone()),
        b'1' => return link(fs, entry, place, store),
        b'2' => Kind::Symlink(entry.link.clone()),
        b'3' => Kind::Char(entry.device.0, entry.device.1),
        b'4' => Kind::Block(entry.device.0, entry.device.1),
        b'5' => Kind::Dir { opaque: fs.node(&place).is_some_and(|node| node.kind == Kind::Dir { opaque: true }) },
        b'6' => Kind::Fifo,
        _ => return Err("a type that is not unpacked".to_owned()),
    };
    let is_symlink = matches!(kind, Kind::Symlink(_));
    let mtime = if is_symlink && store == Store::Overlay2 { mtime(entry) } else { bounded(mtime(entry)) };
    let mode = if is_symlink { 0o777 } else { entry.mode & 0o7777 };
    let clock = matches!(kind, Kind::Dir { .. });
    let node = Node { kind, mode, uid: entry.uid, gid: entry.gid, mtime, clock };
    match fs.node_mut(&place) {
        Some(old) => *old = node,
        None => fs.put(place, node),
    }
    Ok(())
}

fn link(fs: &mut Fs, entry: &Entry, place: Path, store: Store) -> Result<(), String> {
    let target = fs.lstat(&clean(&entry.link))?;
    let id = *fs.names.get(&target).ok_or("a hard link to what the layer does not hold")?;
    // Seen with Docker 20.10: mode and time are given only where the target as it is written leads somewhere too.
    let written = fs.lstat(&parts(&entry.link)).ok().and_then(|place| fs.node(&place));
    let is_bare = !entry.link.ends_with(b"/") && !entry.link.ends_with(b"/.");
    let written = is_bare && written.is_some_and(|node| !matches!(node.kind, Kind::Symlink(_)));
    let node = &mut fs.nodes[id];
    (node.uid, node.gid) = (entry.uid, entry.gid);
    if !written && store == Store::Overlay2 {
        fs.names.insert(place, id);
        return Ok(());
    }
    match &node.kind {
        Kind::Dir { .. } => return Err("a hard link to a directory".to_owned()),
        Kind::Symlink(_) if store == Store::Overlay2 => {}
        Kind::Symlink(_) => node.mtime = bounded(mtime(entry)),
        _ => (node.mode, node.mtime) = (entry.mode & 0o7777, bounded(mtime(entry))),
    }
    fs.names.insert(place, id);
    Ok(())
}

/// What overlayfs shows of layers that are stacked, the lowest first.
fn stack(layers: &[Fs]) -> Fs {
    let mut merged = Fs::default();
    let mut copied = BTreeMap::new();
    let all: Vec<usize> = (0..layers.len()).rev().collect();
    show(layers, &all, &Path::new(), &mut merged, &mut copied);
    merged
}

/// The names of one directory that the layers `from` (topmost first) share, and all below them.
fn show(layers: &[Fs], from: &[usize], place: &Path, merged: &mut Fs, copied: &mut BTreeMap<(usize, usize), usize>) {
    let is_child = |path: &&Path| path.len() == place.len() + 1 && path.starts_with(place);
    let names: BTreeSet<Path> =
        from.iter().flat_map(|index| layers[*index].names.keys()).filter(is_child).cloned().collect();
    for path in names {
        let mut directories = Vec::new();
        for index in from {
            let Some(id) = layers[*index].names.get(&path) else { continue };
            let node = &layers[*index].nodes[*id];
            match &node.kind {
                Kind::Dir { opaque } => {
                    if directories.is_empty() {
                        merged.put(path.clone(), Node { kind: Kind::Dir { opaque: false }, ..node.clone() });
                    }
                    directories.push(*index);
                    if *opaque {
                        break;
                    }
                }
                kind => {
                    if directories.is_empty() && *kind != Kind::Char(0, 0) {
                        let next = merged.nodes.len();
                        let at = *copied.entry((*index, *id)).or_insert(next);
                        if at == next {
                            merged.nodes.push(node.clone());
                        }
                        merged.names.insert(path.clone(), at);
                    }
                    break;
                }
            }
        }
        show(layers, &directories, &path, merged, copied);
    }
}

/// `docker create`.
fn create_container(fs: &mut Fs, config: &Value) -> Result<(), String> {
    let ten = [
        ("dev/pts", "dir"),
        ("dev/shm", "dir"),
        ("proc", "dir"),
        ("sys", "dir"),
        (".dockerenv", "file"),
        ("dev/console", "file"),
        ("etc/hostname", "file"),
        ("etc/hosts", "file"),
        ("etc/resolv.conf", "file"),
        ("etc/mtab", "link"),
    ];
    for (path, what) in ten {
        let path = parts(path.as_bytes());
        for end in 1..=path.len() {
            if fs.node(&path[..end]).is_some_and(|node| !node.is_dir()) {
                fs.remove(&path[..end]);
            }
        }
        if fs.node(&path).is_some() {
            continue;
        }
        fs.make_all(&path[..path.len() - 1], None)?;
        // Seen with Docker 20.10: directories and files are given to root, the symlink is not.
        let (bit, gid) = fs.handed_down(&path[..path.len() - 1]);
        let node = match what {
            "dir" => Node::made(Kind::Dir { opaque: false }, 0o755 | bit),
            "file" => Node::made(Kind::File(Vec::new()), 0o755),
            _ => Node { gid, ..Node::made(Kind::Symlink(b"/proc/mounts".to_vec()), 0o777) },
        };
        fs.put(path, node);
    }
    if let Some(wanted) = config["WorkingDir"].as_str().filter(|wanted| !wanted.is_empty()) {
        make_working_dir(fs, &clean(wanted.as_bytes()))?;
    }
    for volume in config["Volumes"].as_object().into_iter().flat_map(|volumes| volumes.keys()) {
        let place = in_scope(fs, &clean(volume.as_bytes()))?;
        if fs.node(&place).is_some_and(|node| !node.is_dir()) {
            return Err("a volume over something that is no directory".to_owned());
        }
    }
    Ok(())
}

/// Links are followed, dangling ones too; what is missing is made, and the parent of the first gets a new time.
fn make_working_dir(fs: &mut Fs, path: &[Vec<u8>]) -> Result<(), String> {
    let path = in_scope(fs, path)?;
    for end in 1..=path.len() {
        let here = path[..end].to_vec();
        match fs.node(&here) {
            Some(node) if node.is_dir() => continue,
            Some(_) => return Err("the working directory is no directory".to_owned()),
            None => {}
        }
        if let Some(parent) = fs.node_mut(&path[..end - 1]) {
            parent.clock = true;
        }
        for end in end..=path.len() {
            let (bit, _) = fs.handed_down(&path[..end - 1]);
            fs.put(path[..end].to_vec(), Node::made(Kind::Dir { opaque: false }, 0o755 | bit));
        }
        break;
    }
    Ok(())
}

/// As Docker's `evalSymlinksInScope` (seen with 20.10): what is missing is taken as it is, `..` takes back the last
/// name, and there are at most 256 steps, that of the first slash and those of empty names counted.
fn in_scope(fs: &Fs, path: &[Vec<u8>]) -> Result<Path, String> {
    let mut text = [b"/", &join(path)[..]].concat();
    let mut done: Path = Vec::new();
    let mut steps = 0;
    while !text.is_empty() {
        steps += 1;
        if steps > 256 {
            return Err("too many links".to_owned());
        }
        let slash = text.iter().position(|byte| *byte == b'/');
        let part = text[..slash.unwrap_or(text.len())].to_vec();
        text = slash.map_or(Vec::new(), |at| text[at + 1..].to_vec());
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        if (1..=done.len()).any(|end| fs.node(&done[..end]).is_some_and(|node| !node.is_dir())) {
            return Err("not a directory on the way".to_owned());
        }
        done.push(part);
        if let Some(Kind::Symlink(target)) = fs.node(&done).map(|node| &node.kind) {
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            text = [&target[..], b"/", &text].concat();
        }
    }
    Ok(done)
}

/// The numbers of one entry of the archive.
struct Cpio {
    bytes: Vec<u8>,
    ino: u64,
}

impl Cpio {
    fn new() -> Self {
        Cpio { bytes: Vec::new(), ino: 721 }
    }

    #[expect(clippy::too_many_arguments, reason = "an entry has that many fields")]
    fn entry(
        &mut self,
        name: &[u8],
        mode: u64,
        (uid, gid): (i128, i128),
        mtime: i128,
        nlink: u64,
        device: (u64, u64),
        body: &[u8],
    ) {
        let time = if mtime < 0 { format!("-{:07x}", -mtime) } else { format!("{mtime:08x}") };
        let header = format!(
            "070701{:08x}{mode:08x}{uid:08x}{gid:08x}{nlink:08x}{time}{:08x}0000000300000001{:08x}{:08x}{:08x}00000000",
            self.ino,
            body.len(),
            device.0,
            device.1,
            name.len() + 1
        );
        self.ino += 1;
        self.bytes.extend(header.bytes());
        self.bytes.extend(name);
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn fixed(&mut self, name: &str, mode: u64, body: &[u8]) {
        let nlink = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        self.entry(name.as_bytes(), mode, (0, 0), T, nlink, (0, 0), body);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(b"TRAILER!!!", 0, (0, 0), 0, 1, (0, 0), b"");
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }
}

fn join(path: &[Vec<u8>]) -> Vec<u8> {
    path.join(&b'/')
}

/// From the directory of one name to another.
fn relative(name: &[Vec<u8>], first: &[Vec<u8>]) -> Vec<u8> {
    let from = &name[..name.len() - 1];
    let shared = from.iter().zip(first).take_while(|(a, b)| a == b).count();
    let up = vec![b"..".to_vec(); from.len() - shared];
    join(&[&up, &first[shared..]].concat())
}

/// Export and linuxkit's rewriting.
fn archive(fs: &Fs, config: &Value) -> Result<Answer, String> {
    let mut cpio = Cpio::new();
    let mut times = Vec::new();
    let mut first: BTreeMap<usize, Path> = BTreeMap::new();
    cpio.fixed("rootfs", 0o040_755, b"");
    // A BTreeMap of component lists is in the order of the walk: a directory, its contents, its next sibling.
    for (path, id) in &fs.names {
        let node = &fs.nodes[*id];
        let text = join(path);
        let name = [b"rootfs/", &text[..]].concat();
        let is_dir = node.is_dir();
        let earlier = (!is_dir).then(|| first.get(id).cloned()).flatten();
        first.entry(*id).or_insert_with(|| path.clone());
        match (&text[..], is_dir) {
            (b".dockerenv" | b"Dockerfile" | b"dev/console" | b"etc/hostname", false) => continue,
            (b"etc/hosts", false) => {
                cpio.fixed("rootfs/etc/hosts", 0o100_755, HOSTS.as_bytes());
                continue;
            }
            (b"etc/resolv.conf", false) => {
                cpio.fixed("rootfs/etc/resolv.conf", 0o120_755, b"/run/resolvconf/resolv.conf");
                continue;
            }
            _ => {}
        }
        let fixed = match &text[..] {
            b"dev" | b"dev/pts" | b"dev/shm" | b"etc" | b"proc" | b"sys" => is_dir,
            b"etc/mtab" => !is_dir,
            _ => false,
        };
        let mut mtime = if fixed { T } else { node.mtime };
        if node.clock && !fixed {
            mtime = 0;
            times.push(String::from_utf8_lossy(&name).into_owned());
        }
        if !(-0x0fff_ffff..1 << 32).contains(&mtime) {
            return Err("a time that ruins the archive".to_owned());
        }
        let owner = (node.uid, node.gid);
        let device = match node.kind {
            Kind::Char(major, minor) | Kind::Block(major, minor) => (major, minor),
            _ => (0, 0),
        };
        if let Some(earlier) = earlier {
            cpio.entry(&name, 0o120_000 | node.mode, owner, mtime, 1, device, &relative(path, &earlier));
            continue;
        }
        let mut put = |name: &[u8], kind: u64, nlink, body: &[u8]| {
            cpio.entry(name, kind | node.mode, owner, mtime, nlink, device, body);
        };
        match &node.kind {
            Kind::Dir { .. } => put(&[&name[..], b"/"].concat(), 0o040_000, 2, b""),
            Kind::File(body) => put(&name, 0o100_000, 1, body),
            Kind::Symlink(target) => put(&name, 0o120_000, 1, target),
            Kind::Char(..) => put(&name, 0o020_000, 1, b""),
            Kind::Block(..) => put(&name, 0o060_000, 1, b""),
            Kind::Fifo => put(&name, 0o010_000, 1, b""),
        }
    }
    let missing = |path: &str| fs.is_dir(&parts(path.as_bytes()));
    if missing("etc/hosts") {
        cpio.fixed("rootfs/etc/hosts", 0o100_644, HOSTS.as_bytes());
    }
    if missing("etc/mtab") {
        cpio.fixed("rootfs/etc/mtab", 0o120_755, b"/proc/mounts");
    }
    if missing("etc/resolv.conf") {
        cpio.fixed("rootfs/etc/resolv.conf", 0o120_644, b"/run/resolvconf/resolv.conf");
    }
    for name in ["", "/dev", "/run", "/sys", "/var", "/proc", "/tmp"] {
        cpio.fixed(&format!("rootfs{name}"), 0o040_755, b"");
    }
    let lines = |value: &Value| -> Vec<u8> {
        let items = value.as_array().into_iter().flatten();
        items.flat_map(|item| format!("{}\n", item.as_str().unwrap()).into_bytes()).collect()
    };
    let command = if config["Cmd"].is_null() { &config["Entrypoint"] } else { &config["Cmd"] };
    if command.is_null() {
        return Err("neither Cmd nor Entrypoint".to_owned());
    }
    cpio.fixed("cmd", 0o100_644, &lines(command));
    cpio.fixed("env", 0o100_644, &lines(&config["Env"]));
    Ok(Answer { ramdisk: cpio.finish(), times })
}

/// Ramdisk 2 of layers (lowest first) and the object `config` of the image's config; or why it is refused.
pub fn ramdisk2(layers: &[Layer], config: &Value, store: Store) -> Result<Answer, String> {
    let mut unpacked: Vec<Fs> = Vec::new();
    for layer in layers {
        let below = if store == Store::Containerd { stack(&unpacked) } else { Fs::default() };
        unpacked.push(unpack(layer, store, &below)?);
    }
    let mut fs = stack(&unpacked);
    create_container(&mut fs, config)?;
    archive(&fs, config)
}
