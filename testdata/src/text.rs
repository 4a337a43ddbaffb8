//! Layers as text: one line an entry, so that a test reads like the tree it means.

use crate::{Entry, Layer};

/// Layers from lines, bottom first.
///
/// | line | means |
/// |---|---|
/// | `d MODE UID:GID NAME` | directory |
/// | `f MODE UID:GID NAME CONTENTS` | file; the rest of the line, may be empty |
/// | `l MODE UID:GID NAME -> TARGET` | symlink |
/// | `h NAME => TARGET` | hard link |
/// | `c MODE UID:GID NAME MAJOR:MINOR`, `b …` | device |
/// | `p MODE UID:GID NAME` | fifo |
/// | `w NAME` | whiteout of NAME |
/// | `o NAME` | NAME is opaque; `o .` is the root |
/// | `--` | the next layer begins |
///
/// Names, targets and contents know `\n`, `\\`, `\xNN`. A name with a space writes `\x20`.
///
/// # Panics
/// On a line that is none of these.
pub fn parse_layers(lines: &[&str]) -> Vec<Layer> {
    let mut layers = vec![Layer::new()];
    for line in lines {
        if *line == "--" {
            layers.push(Layer::new());
        } else {
            let last = layers.pop().expect("there is always one");
            let entry = parse(line).unwrap_or_else(|| panic!("no line of a layer: {line:?}"));
            layers.push(last.entry(entry));
        }
    }
    layers
}

fn parse(line: &str) -> Option<Entry> {
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "h" => rest.split_once(" => ").map(|(name, target)| Entry::hardlink(unescape(name), unescape(target))),
        "w" => Some(Entry::file(whiteout(rest), "").mode(0)),
        "o" => Some(Entry::file(opaque(rest), "").mode(0)),
        _ => parse_owned(kind, rest),
    }
}

fn parse_owned(kind: &str, rest: &str) -> Option<Entry> {
    let mut fields = rest.splitn(3, ' ');
    let mode = u64::from_str_radix(fields.next()?, 8).ok()?;
    let (uid, gid) = pair(fields.next()?)?;
    let what = fields.next()?;
    let (name, tail) = what.split_once(' ').unwrap_or((what, ""));
    let name = unescape(name);
    let device = || pair(tail).and_then(|(a, b)| Some((u64::try_from(a).ok()?, u64::try_from(b).ok()?)));
    let entry = match kind {
        "d" => Entry::dir(name),
        "f" => Entry::file(name, unescape(tail)),
        "l" => Entry::symlink(name, unescape(tail.strip_prefix("-> ")?)),
        "p" => Entry::fifo(name),
        "c" => device().map(|(major, minor)| Entry::char_device(name, major, minor))?,
        "b" => device().map(|(major, minor)| Entry::block_device(name, major, minor))?,
        _ => return None,
    };
    Some(entry.mode(mode).owner(uid, gid))
}

fn pair(text: &str) -> Option<(i128, i128)> {
    let (a, b) = text.split_once(':')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

fn whiteout(name: &str) -> Vec<u8> {
    let name = name.trim_end_matches('/');
    let (dir, base) = name.rsplit_once('/').map_or(("", name), |(dir, base)| (dir, base));
    let slash = if dir.is_empty() { "" } else { "/" };
    unescape(&format!("{dir}{slash}.wh.{base}"))
}

fn opaque(name: &str) -> Vec<u8> {
    let dir = name.trim_end_matches('/');
    unescape(&if dir == "." { ".wh..wh..opq".to_owned() } else { format!("{dir}/.wh..wh..opq") })
}

/// Bytes from text with `\n`, `\\` and `\xNN`.
///
/// # Panics
/// On any other escape.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'n') => b'\n',
            Some(b'\\') => b'\\',
            Some(b'x') => hex_byte(bytes.next(), bytes.next()).unwrap_or_else(|| panic!("bad \\x in {text:?}")),
            other => panic!("bad escape {other:?} in {text:?}"),
        });
    }
    out
}

fn hex_byte(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Text from bytes: printable ASCII but space and backslash as it is, the rest as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'\\' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_gives_its_entry() {
        let layers = parse_layers(&[
            "d 0755 0:0 etc/",
            "f 4755 1:2 etc/a b c",
            "l 0777 0:0 bin -> usr/bin",
            "h b => etc/a",
            "c 0600 0:5 dev/x 5:1",
            "--",
            "w etc/a",
            "o etc",
        ]);
        let all: Vec<_> = layers.iter().flat_map(|layer| layer.entries().cloned()).collect();
        let names: Vec<_> = all.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
        assert_eq!(names, ["etc/", "etc/a", "bin", "b", "dev/x", "etc/.wh.a", "etc/.wh..wh..opq"]);
        assert_eq!((all[1].mode, all[1].uid, all[1].gid, &all[1].body[..]), (0o4755, 1, 2, &b"b c"[..]));
        assert_eq!(
            (all[2].link.as_slice(), all[3].link.as_slice(), all[4].device),
            (&b"usr/bin"[..], &b"etc/a"[..], (5, 1))
        );
        assert_eq!(layers.len(), 2);
    }

    #[test]
    #[should_panic(expected = "no line of a layer")]
    fn a_wrong_line_is_no_entry() {
        parse_layers(&["f 0644 etc/motd"]);
    }

    #[test]
    fn escapes_go_both_ways() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&bytes)), bytes);
    }
}
