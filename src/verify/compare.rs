//! Why two files differ: parts first, then the entries of the ramdisks, then their order and padding.
//!
//! Contents are compared by SHA-256; small texts are read again for their lines. Memory grows with the entries.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use serde::Serialize;
use serde_json::Value;

use super::index::{Index, Node};
use super::inspection::{Inspection, Section, Signature, inspect};
use super::{Error, lines};
use crate::eif::{Eif, Source};
use crate::escaped;

/// How many texts are shown line by line.
const MAX_TEXTS: usize = 100;

/// How much of two files is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All: no difference means equal bytes, but for bytes between sections, which nobody reads.
    Bytes,
    /// The application's file system and process: not times, order, packing or what boots it.
    Tree,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `PCR0`, `header`, `section`, `kernel`, `cmdline`, `signature`, `certificate`, `metadata`, `process`, `ramdisk 1`, …
    pub part: String,
    /// The entry's name, of a difference between entries; escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is different about it.
    pub field: String,
    /// The value in the first file; `None` where it has none.
    pub a: Option<String>,
    /// The value in the second file.
    pub b: Option<String>,
    /// Lines that only the first (`-`) or the second (`+`) has, of small texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}

impl Difference {
    /// A difference that is no entry's.
    pub(super) fn new(part: &str, field: impl Into<String>, a: Option<String>, b: Option<String>) -> Self {
        Self { part: part.to_owned(), path: None, field: field.into(), a, b, text: Vec::new() }
    }
}

/// Collects differences.
#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    fn add(&mut self, part: &str, path: Option<&[u8]>, field: &str, a: Option<String>, b: Option<String>) {
        let path = path.map(escaped);
        self.0.push(Difference { part: part.to_owned(), path, field: field.to_owned(), a, b, text: Vec::new() });
    }

    /// Adds a field if its values differ.
    fn compare<T: PartialEq + ToString>(&mut self, part: &str, field: &str, a: Option<T>, b: Option<T>) {
        if a != b {
            self.add(part, None, field, a.map(|a| a.to_string()), b.map(|b| b.to_string()));
        }
    }
}

/// Every difference, outermost first. Ramdisks that are equal byte for byte are not looked into.
///
/// # Errors
/// A file cannot be read; with [`Scope::Tree`] also a ramdisk that is broken or packed with something unknown.
pub fn compare<A: Source, B: Source>(a: &Eif<A>, b: &Eif<B>, scope: Scope) -> Result<Vec<Difference>, Error> {
    let mut found = Found::default();
    let (facts_a, facts_b) = (inspect(a, 1)?, inspect(b, 1)?);
    if scope == Scope::Tree {
        process(&mut found, &facts_a, &facts_b);
        let (trees_a, trees_b) = (Index::tree(a)?, Index::tree(b)?);
        entries(&mut found, "rootfs", &trees_a, &trees_b, scope);
        show_texts(&mut found, a, b)?;
        return Ok(found.0);
    }
    parts(&mut found, a, b, &facts_a, &facts_b);
    process(&mut found, &facts_a, &facts_b);
    ramdisks(&mut found, a, b, (&facts_a, &facts_b))?;
    show_texts(&mut found, a, b)?;
    if found.0.is_empty() && (a.header() != b.header() || a.size() != b.size()) {
        let tables = |size: u64| Some(format!("{size} bytes"));
        found.add("header", None, "tables, gaps or CRC", tables(a.size()), tables(b.size()));
    }
    Ok(found.0)
}

fn parts<A: Source, B: Source>(found: &mut Found, a: &Eif<A>, b: &Eif<B>, x: &Inspection, y: &Inspection) {
    let named = |facts: &Inspection| facts.measurements.map(|m| m.named()).unwrap_or_default();
    let (pcrs_a, pcrs_b) = (named(x), named(y));
    for name in ["PCR0", "PCR1", "PCR2", "PCR8"] {
        let value = |pcrs: &[(&str, crate::eif::Pcr)]| pcrs.iter().find(|(n, _)| *n == name).map(|(_, pcr)| *pcr);
        found.compare(name, "value", value(&pcrs_a), value(&pcrs_b));
    }
    let (ha, hb) = (a.header(), b.header());
    found.compare("header", "version", Some(ha.version), Some(hb.version));
    found.compare("header", "flags", Some(ha.flags), Some(hb.flags));
    found.compare("header", "default_mem", Some(ha.default_mem), Some(hb.default_mem));
    found.compare("header", "default_cpus", Some(ha.default_cpus), Some(hb.default_cpus));
    sections(found, &x.sections, &y.sections);
    let kernel = |facts: &Inspection| facts.kernel.clone();
    found.compare("kernel", "format", kernel(x).map(|k| k.format), kernel(y).map(|k| k.format));
    found.compare("kernel", "version", kernel(x).and_then(|k| k.version), kernel(y).and_then(|k| k.version));
    words(found, x.cmdline.as_deref(), y.cmdline.as_deref());
    signatures(found, x.signature.as_ref(), y.signature.as_ref());
    let value = |facts: &Inspection| facts.metadata.as_ref().and_then(|m| serde_json::to_value(m).ok());
    members(found, "", value(x).as_ref(), value(y).as_ref());
}

/// `ramdisk` and its number among its kind.
fn numbered(sections: &[Section]) -> Vec<(String, &Section)> {
    let mut seen: Vec<&str> = Vec::new();
    let mut all = Vec::new();
    for section in sections {
        let number = seen.iter().filter(|kind| **kind == section.kind).count().saturating_add(1);
        let several = section.kind == "ramdisk" || number > 1;
        all.push((if several { format!("{} {number}", section.kind) } else { section.kind.clone() }, section));
        seen.push(&section.kind);
    }
    all
}

fn sections(found: &mut Found, a: &[Section], b: &[Section]) {
    let (a, b) = (numbered(a), numbered(b));
    let order = |all: &[(String, &Section)]| all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    found.compare("section", "order", Some(order(&a)), Some(order(&b)));
    for (name, one) in &a {
        let Some((_, other)) = b.iter().find(|(other, _)| other == name) else { continue };
        found.compare(name, "flags", Some(one.flags), Some(other.flags));
        found.compare(name, "size", Some(one.size), Some(other.size));
        found.compare(name, "sha384", Some(&one.sha384), Some(&other.sha384));
    }
}

/// Who has signed, and whether it holds. The bytes of two signatures by one key may differ: that is told of the section.
fn signatures(found: &mut Found, a: Option<&Signature>, b: Option<&Signature>) {
    found.compare("signature", "valid", a.map(|signature| signature.valid), b.map(|signature| signature.valid));
    let value =
        |signature: Option<&Signature>| signature.and_then(|s| serde_json::to_value(s.certificate.as_ref()?).ok());
    let (a, b) = (value(a), value(b));
    for field in ["subject", "issuer", "serial", "not_before", "not_after", "algorithm", "sha256"] {
        let of = |certificate: &Option<Value>| Some(certificate.as_ref()?.get(field)?.as_str()?.to_owned());
        found.compare("certificate", field, of(&a), of(&b));
    }
}

/// Words that only one line has; if there are none, that the lines differ in order or spaces.
fn words(found: &mut Found, a: Option<&str>, b: Option<&str>) {
    if a == b {
        return;
    }
    let split = |line: Option<&str>| line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (words_a, mut left) = (split(a), split(b));
    let mut only_a = Vec::new();
    for word in words_a {
        match left.iter().position(|other| *other == word) {
            Some(at) => drop(left.remove(at)),
            None => only_a.push(word),
        }
    }
    if only_a.is_empty() && left.is_empty() {
        found.compare("cmdline", "order", a, b);
    }
    only_a.into_iter().for_each(|word| found.add("cmdline", None, "word", Some(word), None));
    left.into_iter().for_each(|word| found.add("cmdline", None, "word", None, Some(word)));
}

/// The members of two JSON values that differ, each with its pointer. serde_json bounds the depth when it reads.
fn members(found: &mut Found, pointer: &str, a: Option<&Value>, b: Option<&Value>) {
    if a == b {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (a, b) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().for_each(|key| members(found, &format!("{pointer}/{key}"), a.get(key), b.get(key)));
        return;
    }
    found.compare("metadata", pointer, a.map(Value::to_string), b.map(Value::to_string));
}

fn process(found: &mut Found, a: &Inspection, b: &Inspection) {
    let value = |facts: &Inspection| facts.process.as_ref().and_then(|process| serde_json::to_value(process).ok());
    let (a, b) = (value(a), value(b));
    for field in ["argv", "env", "cwd", "uid", "gid", "groups"] {
        let of = |process: &Option<Value>| process.as_ref().and_then(|p| p.get(field)).map(Value::to_string);
        found.compare("process", field, of(&a), of(&b));
    }
}

fn ramdisks<A: Source, B: Source>(
    found: &mut Found,
    a: &Eif<A>,
    b: &Eif<B>,
    (x, y): (&Inspection, &Inspection),
) -> Result<(), Error> {
    let digests = |facts: &Inspection| -> Vec<String> {
        facts.sections.iter().filter(|s| s.kind == "ramdisk").map(|s| s.sha384.clone()).collect()
    };
    let (digests_a, digests_b) = (digests(x), digests(y));
    for (number, (one, other)) in (1_usize..).zip(digests_a.iter().zip(&digests_b)) {
        if one == other {
            continue;
        }
        let part = format!("ramdisk {number}");
        let format = |facts: &Inspection| facts.ramdisks.get(number.saturating_sub(1)).map(|ramdisk| ramdisk.format);
        found.compare(&part, "format", format(x), format(y));
        let before = found.0.len();
        match (Index::ramdisk(a, number), Index::ramdisk(b, number)) {
            (Ok(one), Ok(other)) => {
                entries(found, &part, &one, &other, Scope::Bytes);
                if found.0.len() == before && format(x) == format(y) {
                    let text = Some("equal entries in equal order".to_owned());
                    found.add(&part, None, "padding, inode numbers or packing", text.clone(), text);
                }
            }
            (one, other) => {
                let why = |result: Result<Index, Error>| match result {
                    Ok(_) => Ok(None),
                    Err(error @ Error::Read(_)) => Err(error),
                    Err(error) => Ok(Some(error.to_string())),
                };
                found.add(&part, None, "readable", why(one)?, why(other)?);
            }
        }
    }
    Ok(())
}

/// Entries of one side, of both, and their order.
fn entries(found: &mut Found, part: &str, a: &Index, b: &Index, scope: Scope) {
    let mut paths: Vec<&Vec<u8>> = a.nodes.keys().chain(b.nodes.keys()).collect();
    paths.sort();
    paths.dedup();
    let before = found.0.len();
    for path in paths {
        match (a.nodes.get(path), b.nodes.get(path)) {
            (Some(one), Some(other)) => fields(found, part, path, one, other, scope),
            (one, other) => {
                let kind = |node: Option<&Node>| node.map(|node| node.kind().to_owned());
                found.add(part, Some(path), "entry", kind(one), kind(other));
            }
        }
    }
    if scope == Scope::Bytes && found.0.len() == before {
        let out_of_order = a.order.iter().zip(&b.order).find(|(one, other)| one != other);
        if let Some((one, other)) = out_of_order {
            found.add(part, None, "order", Some(escaped(one)), Some(escaped(other)));
        } else {
            found.compare(part, "number of entries", Some(a.order.len()), Some(b.order.len()));
        }
    }
}

fn fields(found: &mut Found, part: &str, path: &[u8], a: &Node, b: &Node, scope: Scope) {
    for ((field, one), (_, other)) in a.fields().into_iter().zip(b.fields()) {
        if one != other && (scope == Scope::Bytes || field != "mtime") {
            found.add(part, Some(path), field, one, other);
        }
    }
}

/// Puts the lines to contents that are small texts on both sides.
fn show_texts<A: Source, B: Source>(found: &mut Found, a: &Eif<A>, b: &Eif<B>) -> Result<(), Error> {
    let changed = found.0.iter().filter(|d| d.field == "content" && d.a.is_some() && d.b.is_some());
    let wanted: Vec<String> = changed.filter_map(|d| d.path.clone()).take(MAX_TEXTS).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let is_tree = found.0.iter().any(|difference| difference.part == "rootfs");
    let (texts_a, texts_b) = (Index::texts(a, &wanted, is_tree)?, Index::texts(b, &wanted, is_tree)?);
    for difference in found.0.iter_mut().filter(|difference| difference.field == "content") {
        let key = (difference.part.clone(), difference.path.clone().unwrap_or_default());
        if let (Some(one), Some(other)) = (texts_a.get(&key), texts_b.get(&key)) {
            difference.text = lines::difference(one, other);
        }
    }
    Ok(())
}
