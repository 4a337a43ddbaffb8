//! The judge: a second, simple way to apply layers, sharing no code with `eif`. Slow and obvious on purpose.

use crate::{Layer, escape};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// An inode as a booted system would show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `f`, `d`, `l`, `c`, `b` or `p`.
    pub kind: char,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u64,
    /// Owner.
    pub uid: i128,
    /// Group.
    pub gid: i128,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Contents of a file.
    pub body: Vec<u8>,
    /// Major and minor of a device.
    pub device: (u64, u64),
}

impl Node {
    fn implicit_dir() -> Self {
        Node { kind: 'd', mode: 0o755, uid: 0, gid: 0, target: Vec::new(), body: Vec::new(), device: (0, 0) }
    }
}

/// The tree after all layers: paths without a leading slash; the root is the empty path.
#[derive(Clone, Debug)]
pub struct Model {
    names: BTreeMap<Vec<u8>, usize>,
    nodes: Vec<Node>,
}

impl Model {
    /// Applies the layers, bottom first.
    ///
    /// # Panics
    /// On what [`Model::try_of`] does not know.
    pub fn of(layers: &[Layer]) -> Self {
        Model::try_of(layers).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Applies the layers, bottom first.
    ///
    /// # Errors
    /// What the model has no opinion of, because a good builder refuses it or it is a question of taste: a parent that
    /// is a file or a symlink (of a whiteout too), a hard link to nothing, to a directory or to itself, a root that is no directory.
    ///
    /// # Panics
    /// When a layer has raw bytes.
    pub fn try_of(layers: &[Layer]) -> Result<Self, String> {
        let mut model = Model { names: BTreeMap::from([(Vec::new(), 0)]), nodes: vec![Node::implicit_dir()] };
        for layer in layers {
            model.hide(layer)?;
            model.add(layer)?;
        }
        Ok(model)
    }

    /// Adds a directory that the build makes if it is missing, with its parents: mode 0755, root's.
    ///
    /// # Panics
    /// When a parent is no directory.
    pub fn with_dir(mut self, path: &str) -> Self {
        let path = clean(path.as_bytes());
        self.make_parents(&join(&path, b"x")).unwrap_or_else(|why| panic!("{why}"));
        self
    }

    /// Path and inode, in byte order of the paths' components, the root first.
    pub fn entries(&self) -> Vec<(&[u8], &Node)> {
        let mut all: Vec<_> = self.names.iter().map(|(path, &id)| (&path[..], &self.nodes[id])).collect();
        all.sort_by_key(|(path, _)| path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>());
        all
    }

    /// The inode at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.names.get(&clean(path.as_bytes())).map(|&id| &self.nodes[id])
    }

    /// How many names the inode at `path` has; 0 when there is none.
    pub fn links(&self, path: &[u8]) -> usize {
        self.names.get(path).map_or(0, |id| self.names.values().filter(|other| *other == id).count())
    }

    /// The tree as `hello list` prints it: one line an entry, in byte order of the lines.
    ///
    /// `KIND MODE UID:GID LINKS /PATH` and, at the end, the SHA-256 of a file's contents, ` -> TARGET` of a symlink or
    /// ` MAJOR:MINOR` of a device. KIND is `f`, `d`, `l`, `c`, `b` or `p`; MODE has four octal digits; LINKS is the
    /// number of names (`-` for a directory: file systems disagree); paths and targets are escaped by [`escape`].
    pub fn listing(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.names.iter().map(|(path, &id)| self.line(path, &self.nodes[id])).collect();
        lines.sort();
        lines
    }

    fn line(&self, path: &[u8], node: &Node) -> String {
        let links = if node.kind == 'd' { "-".to_owned() } else { self.links(path).to_string() };
        let Node { kind, mode, uid, gid, .. } = node;
        let end = match kind {
            'f' => format!(" {}", node.sha256()),
            'l' => format!(" -> {}", escape(&node.target)),
            'c' | 'b' => format!(" {}:{}", node.device.0, node.device.1),
            _ => String::new(),
        };
        format!("{kind} {mode:04o} {uid}:{gid} {links} /{}{end}", escape(path))
    }

    fn hide(&mut self, layer: &Layer) -> Result<(), String> {
        for entry in layer.entries() {
            let path = clean(&entry.name);
            let (dir, base) = split(&path);
            let Some(hidden) = base.strip_prefix(b".wh.") else { continue };
            self.refuse_links_above(dir, layer)?;
            if hidden == b".wh..opq" {
                self.remove_below(dir);
            } else if !hidden.starts_with(b".wh.") {
                self.remove(&join(dir, hidden));
            }
        }
        Ok(())
    }

    /// Whiteouts through a symlink of the lower layers are a question of taste, unless the layer itself puts a directory
    /// in its place: then they mean that directory, which has nothing to hide.
    fn refuse_links_above(&self, dir: &[u8], layer: &Layer) -> Result<(), String> {
        let above = |path: &[u8]| path == dir || is_below(dir, path);
        for (path, _) in self.names.iter().filter(|(path, id)| self.nodes[**id].kind == 'l' && above(path)) {
            if !layer.entries().any(|entry| entry.typeflag == b'5' && clean(&entry.name) == *path) {
                return Err(format!("a whiteout through the link {}", escape(path)));
            }
        }
        Ok(())
    }

    fn add(&mut self, layer: &Layer) -> Result<(), String> {
        for entry in layer.entries().filter(|entry| !matches!(entry.typeflag, b'g' | b'x')) {
            let path = clean(&entry.name);
            if split(&path).1.starts_with(b".wh.") {
                continue;
            }
            self.make_parents(&path)?;
            if entry.typeflag == b'1' {
                self.link(path, &clean(&entry.link))?;
            } else if path.is_empty() && entry.typeflag != b'5' {
                return Err("the root is no directory".to_owned());
            } else {
                self.insert(path, node(entry));
            }
        }
        Ok(())
    }

    fn link(&mut self, path: Vec<u8>, target: &[u8]) -> Result<(), String> {
        let id = *self.names.get(target).ok_or_else(|| format!("no link target {}", escape(target)))?;
        if self.nodes[id].kind == 'd' || *target == path || is_below(target, &path) {
            return Err(format!("{} is no link target for {}", escape(target), escape(&path)));
        }
        self.remove(&path);
        self.names.insert(path, id);
        Ok(())
    }

    fn insert(&mut self, path: Vec<u8>, node: Node) {
        let both_dirs = node.kind == 'd' && self.names.get(&path).is_some_and(|&id| self.nodes[id].kind == 'd');
        if !both_dirs {
            self.remove(&path);
        }
        self.names.insert(path, self.nodes.len());
        self.nodes.push(node);
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<(), String> {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = path[..at].to_vec();
            match self.names.get(&parent).map(|&id| self.nodes[id].kind) {
                Some('d') => {}
                Some(kind) => return Err(format!("the parent {} is of kind {kind}", escape(&parent))),
                None => self.insert(parent, Node::implicit_dir()),
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) {
        self.names.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, dir: &[u8]) {
        self.names.retain(|path, _| path.is_empty() || path == dir || !is_below(path, dir));
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

fn node(entry: &crate::Entry) -> Node {
    let kind = match entry.typeflag {
        b'0' | 0 => 'f',
        b'2' => 'l',
        b'3' => 'c',
        b'4' => 'b',
        b'5' => 'd',
        b'6' => 'p',
        other => panic!("the model knows no entry of type {other}"),
    };
    Node {
        kind,
        mode: if kind == 'l' { 0o777 } else { entry.mode & 0o7777 },
        uid: entry.uid,
        gid: entry.gid,
        target: if kind == 'l' { entry.link.clone() } else { Vec::new() },
        body: if kind == 'f' { entry.body.clone() } else { Vec::new() },
        device: entry.device,
    }
}

/// Without leading and trailing slashes, without `.` components.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(dir: &[u8], base: &[u8]) -> Vec<u8> {
    if dir.is_empty() { base.to_vec() } else { [dir, b"/", base].concat() }
}

impl Node {
    /// Lower-case hex SHA-256 of the contents.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers;

    fn paths(model: &Model) -> Vec<String> {
        model.entries().iter().map(|(path, _)| escape(path)).collect()
    }

    #[test]
    fn a_whiteout_hides_lower_layers_only() {
        let model = Model::of(&layers! { "f 0644 0:0 a/x old", "--", "f 0644 0:0 a/x new", "w a/x" });
        assert_eq!(model.get("a/x").unwrap().body, b"new");
        assert_eq!(paths(&Model::of(&layers! { "f 0644 0:0 a/x old", "--", "w a" })), [""]);
    }

    #[test]
    fn an_opaque_directory_keeps_itself_and_what_its_layer_adds() {
        let model = Model::of(&layers! { "d 0700 1:1 a", "f 0644 0:0 a/x old", "--", "o a", "f 0644 0:0 a/y new" });
        assert_eq!(paths(&model), ["", "a", "a/y"]);
        assert_eq!(model.get("a").unwrap().mode, 0o700);
    }

    #[test]
    fn a_hard_link_survives_its_first_name() {
        let model = Model::of(&layers! { "f 0644 0:0 a one", "--", "h b => a", "--", "w a" });
        assert_eq!(paths(&model), ["", "b"]);
        assert_eq!(model.links(b"b"), 1);
    }

    #[test]
    fn a_listing_has_all_that_a_booted_system_can_see() {
        let model = Model::of(&layers! { "f 4644 1:2 a", r"l 0777 0:0 b\x20b -> a", "c 0600 0:0 n 1:3", "h z => a" });
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected = [
            "c 0600 0:0 1 /n 1:3",
            "d 0755 0:0 - /",
            &format!("f 4644 1:2 2 /a {empty}"),
            &format!("f 4644 1:2 2 /z {empty}"),
            r"l 0777 0:0 1 /b\x20b -> a",
        ];
        assert_eq!(model.listing(), expected);
    }

    #[test]
    fn order_is_by_components() {
        let model = Model::of(&layers! { "f 0644 0:0 a-b x", "f 0644 0:0 a/b x" });
        assert_eq!(paths(&model), ["", "a", "a/b", "a-b"]);
    }
}
