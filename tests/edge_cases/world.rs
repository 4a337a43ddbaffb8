//! From an image made in the test to what `eif` makes of it, in words short enough for a table.

use std::fmt::Write as _;
use std::io::Read;

use eif::image::{Access, Image as Opened, Platform, Process, Reference, Store};
use eif::rootfs::{Inode, Kind, Limits, Loaded, Options, Overrides, ROOT, attributes, lint, load, resolve};
use eif::{Refusal, Silent, Warning};
use eif_testdata::{Files, Image, Layer, OciLayout, escape};

use crate::common::TestEnv;
use crate::common::registry::{Deed, Fake};

/// A refusal as tests look at it.
#[derive(Debug)]
pub struct Refused {
    pub code: &'static str,
    pub message: String,
}

impl<E: Refusal> From<E> for Refused {
    fn from(error: E) -> Self {
        assert!(!error.help().is_empty(), "no help for {error}");
        Refused { code: error.code(), message: error.to_string() }
    }
}

/// What became of an image.
#[derive(Debug)]
pub struct Unpacked {
    /// The tree, one line an entry; see [`line`]. The root has a line only if it is not 0755 0:0.
    pub tree: Vec<String>,
    pub warnings: Vec<Warning>,
    pub process: Option<Process>,
    /// Modification times of all entries, in the tree's order.
    pub times: Vec<i64>,
}

/// What is asked of `eif` beyond the image.
#[derive(Clone, Debug)]
pub struct Ask {
    pub limits: Limits,
    pub strict: bool,
    pub platform: &'static str,
    /// Whether the process is resolved too, with these overrides.
    pub process: Option<Overrides>,
    /// Whether the enclave's root is a ramfs.
    pub ramfs: bool,
}

impl Default for Ask {
    fn default() -> Self {
        Ask { limits: Limits::default(), strict: false, platform: "linux/amd64", process: None, ramfs: false }
    }
}

impl Ask {
    /// The image of a reference; the folder for temporary files must be empty afterwards, whatever happens.
    pub fn reference(&self, reference: &str, env: &TestEnv) -> Result<Unpacked, Refused> {
        let result = self.try_reference(reference, env);
        assert_eq!(env.listing(&env.tmp()), [""; 0], "nothing is left in the scratch folder");
        result
    }

    fn try_reference(&self, reference: &str, env: &TestEnv) -> Result<Unpacked, Refused> {
        let scratch = &env.tmp();
        let reference = Reference::parse(reference.as_ref())?;
        let platform: Platform = self.platform.parse()?;
        let store = Store::open(&env.path("store"), None)?;
        let access = Access { limit: self.limits.unpacked, ..Access::new(store, scratch.clone()) };
        let image = Opened::open(&reference, &platform, &access)?;
        let options = Options { limits: self.limits, strict: self.strict, ..Options::new(scratch) };
        let Loaded { mut tree, spools, diff_ids, mut warnings } = load(&image, &options, &Silent)?;
        assert_eq!(tree.check(), Ok(()));
        let process = match &self.process {
            None => None,
            Some(overrides) => {
                let (process, notes) = resolve(&image.config, overrides, &mut tree, &spools)?;
                warnings.extend(notes);
                Some(process)
            }
        };
        warnings.extend(lint(&tree, &spools, &image, true)?);
        warnings.extend(attributes::settle(&mut tree, &image, self.ramfs)?);
        warnings.retain(|warning| warning.code != "W-no-localhost");
        let loaded = Loaded { tree, spools, diff_ids, warnings };
        let times = times(&loaded);
        Ok(Unpacked { tree: lines(&loaded), warnings: loaded.warnings, process, times })
    }

    /// An image in an OCI layout.
    pub fn image(&self, image: &Image) -> Result<Unpacked, Refused> {
        self.files(&OciLayout::new().tag("latest", image).files())
    }

    /// The files of an OCI layout. Where all of them are one image with a tag, a registry that serves them must come to
    /// the same: the table holds for both.
    pub fn files(&self, files: &Files) -> Result<Unpacked, Refused> {
        let env = TestEnv::new();
        files.write_dir(&env.path("image"));
        let result = self.reference(&format!("oci:{}", env.path("image").display()), &env);
        if let Some(tag) = only_tag(files) {
            let registry = Fake::start(files.clone(), |_| Deed::Honest);
            same(&result, &self.reference(&format!("{}/app:{tag}", registry.host), &env));
        }
        result
    }

    /// An image of these layers.
    pub fn layers(&self, layers: Vec<Layer>) -> Result<Unpacked, Refused> {
        self.image(&Image::new(layers))
    }
}

/// The tag of the only image of a layout that a registry can serve: one that is a layout, with a sound manifest, since
/// behind a tag a registry may have any.
fn only_tag(files: &Files) -> Option<String> {
    files.get("oci-layout")?;
    let index: serde_json::Value = serde_json::from_slice(files.get("index.json")?).ok()?;
    let [entry] = index["manifests"].as_array()?.as_slice() else { return None };
    let digest = entry["digest"].as_str()?;
    let manifest = files.get(&format!("blobs/{}", digest.replace(':', "/")))?;
    if eif_testdata::sha256(manifest) != digest {
        return None;
    }
    Some(entry["annotations"]["org.opencontainers.image.ref.name"].as_str()?.to_owned())
}

/// Asserts that two transports came to the same. A download that went wrong has a code of its own.
#[track_caller]
fn same(one: &Result<Unpacked, Refused>, other: &Result<Unpacked, Refused>) {
    match (one, other) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (Err(one), Err(other)) => {
            let code = |refused: &Refused| refused.code.trim_end_matches("-mismatch").to_owned();
            assert_eq!(code(one), code(other), "{one:?}, {other:?}");
        }
        _ => panic!("a layout gives {one:?}, a registry {other:?}"),
    }
}

/// Every name in the tree's order, in the words of `parse_layers` where it has them; `(N)` is the number of links of
/// what has several.
fn lines(loaded: &Loaded) -> Vec<String> {
    let mut all = Vec::new();
    let root = loaded.tree.get(ROOT).unwrap();
    all.extend(Some(line(loaded, b".", root)).filter(|text| text != "d 0755 0:0 ."));
    let mut walk = loaded.tree.walk();
    while let Some((path, entry)) = walk.next() {
        all.push(line(loaded, path, loaded.tree.get(entry.inode).unwrap()));
    }
    all
}

fn line(loaded: &Loaded, path: &[u8], inode: &Inode) -> String {
    let (kind, end) = match &inode.kind {
        Kind::Directory(_) => ('d', String::new()),
        Kind::File(content) => ('f', format!(" {}", escape(&read(loaded, content)))),
        Kind::Symlink(target) => ('l', format!(" -> {}", escape(target))),
        Kind::Character(major, minor) => ('c', format!(" {major}:{minor}")),
        Kind::Block(major, minor) => ('b', format!(" {major}:{minor}")),
        Kind::Fifo => ('p', String::new()),
    };
    let of = inode.metadata;
    let mut text = format!("{kind} {:04o} {}:{} {}{end}", of.mode, of.uid, of.gid, escape(path));
    if inode.links > 1 {
        write!(text, " ({})", inode.links).unwrap();
    }
    for (name, value) in inode.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        write!(text, " {}={}", escape(name), escape(value)).unwrap();
    }
    text
}

/// The content, all of it read; the first bytes stand for a long one.
fn read(loaded: &Loaded, content: &eif::rootfs::Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    loaded.spools.read(content).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, content.size);
    if bytes.len() > 100 { format!("[{}]", bytes.len()).into() } else { bytes }
}

fn times(loaded: &Loaded) -> Vec<i64> {
    let mut all = Vec::new();
    let mut walk = loaded.tree.walk();
    while let Some((_, entry)) = walk.next() {
        all.push(loaded.tree.get(entry.inode).unwrap().metadata.mtime);
    }
    all
}

/// Asserts that the layers become this tree, without a warning.
#[track_caller]
pub fn gives(layers: Vec<Layer>, tree: &[&str]) {
    let unpacked = Ask::default().layers(layers).unwrap();
    assert_eq!(unpacked.tree, tree);
    assert_eq!(unpacked.warnings, []);
}

/// Asserts that the layers are refused with this code, by a message that has this text.
#[track_caller]
pub fn refuses(layers: Vec<Layer>, code: &str, text: &str) {
    refused(Ask::default().layers(layers), code, text);
}

/// Asserts a refusal.
#[track_caller]
pub fn refused(result: Result<Unpacked, Refused>, code: &str, text: &str) {
    let refused = result.expect_err("a refusal");
    assert!(refused.code == code && refused.message.contains(text), "wanted {code}, {text:?}; got {refused:?}");
}

/// Asserts that the layers become this tree with this one warning, and that `--strict` makes a refusal of it when its
/// code begins with `E-`.
#[track_caller]
pub fn warns(layers: Vec<Layer>, code: &str, tree: &[&str]) {
    let unpacked = Ask::default().layers(layers.clone()).unwrap();
    assert_eq!(unpacked.tree, tree);
    let codes: Vec<_> = unpacked.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [code], "{:?}", unpacked.warnings);
    let strict = Ask { strict: true, ..Ask::default() }.layers(layers);
    match strict {
        Err(refused) => assert!(code.starts_with("E-") && refused.code == code, "{refused:?}"),
        Ok(_) => assert!(code.starts_with("W-"), "{code} is no refusal under --strict"),
    }
}

/// One layer of these entries.
pub fn layer(entries: impl IntoIterator<Item = eif_testdata::Entry>) -> Vec<Layer> {
    vec![entries.into_iter().collect()]
}
