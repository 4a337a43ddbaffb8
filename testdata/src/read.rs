//! Reads a tar that GNU tar wrote back into entries, so that the model can judge real distributions too.

use crate::entry::BLOCK;
use crate::{Entry, Layer};

/// What the records before a header say about it.
#[derive(Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Layer {
    /// The entries of a tar in GNU's or POSIX's format.
    ///
    /// # Panics
    /// On anything that a well-made tar of plain entries does not have.
    pub fn read_tar(tar: &[u8]) -> Layer {
        let mut layer = Layer::new();
        let mut before = Before::default();
        let mut at = 0;
        while let Some(header) = tar.get(at..at + BLOCK).filter(|header| header[0] != 0) {
            let size = usize::try_from(octal(&header[124..136])).expect("a size");
            let body = &tar[at + BLOCK..at + BLOCK + size];
            at += BLOCK + size.next_multiple_of(BLOCK);
            match header[156] {
                b'x' => before.pax = pax_records(body),
                b'L' => before.name = Some(until_nul(body).to_vec()),
                b'K' => before.link = Some(until_nul(body).to_vec()),
                _ => layer = layer.entry(entry(header, body, std::mem::take(&mut before))),
            }
        }
        layer
    }
}

fn entry(header: &[u8], body: &[u8], before: Before) -> Entry {
    let mut entry = Entry::new(header[156], full_name(header)).body(body).link(until_nul(&header[157..257]));
    entry.mode = u64::try_from(octal(&header[100..108])).expect("a mode");
    entry = entry.owner(octal(&header[108..116]), octal(&header[116..124])).mtime(octal(&header[136..148]));
    if matches!(entry.typeflag, b'3' | b'4') {
        let number = |field: &[u8]| u64::try_from(octal(field)).expect("a device number");
        entry.device = (number(&header[329..337]), number(&header[337..345]));
    }
    entry.name = before.name.unwrap_or(entry.name);
    entry.link = before.link.unwrap_or(entry.link);
    for (key, value) in before.pax {
        match &key[..] {
            b"path" => entry.name = value,
            b"linkpath" => entry.link = value,
            b"mtime" => entry.pax.push((key, value)),
            b"hdrcharset" => {}
            b"uid" => entry.uid = decimal(&value),
            b"gid" => entry.gid = decimal(&value),
            other => panic!("the PAX key {:?}", String::from_utf8_lossy(other)),
        }
    }
    entry
}

/// ustar's prefix, a slash, the name; GNU has other things in the prefix's place.
fn full_name(header: &[u8]) -> Vec<u8> {
    let (name, prefix) = (until_nul(&header[..100]), until_nul(&header[345..500]));
    let has_prefix = &header[257..263] == b"ustar\0" && !prefix.is_empty();
    if has_prefix { [prefix, b"/", name].concat() } else { name.to_vec() }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn decimal(value: &[u8]) -> i128 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a decimal number")
}

/// Octal digits, or base 256 in two's complement when the first bit is set (GNU).
fn octal(field: &[u8]) -> i128 {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x7f) - if negative { 0x80 } else { 0 };
        return field[1..].iter().fold(first, |value, byte| value * 256 + i128::from(*byte));
    }
    let text = std::str::from_utf8(until_nul(field)).expect("octal digits").trim();
    i128::from_str_radix(text, 8).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn pax_records(mut body: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let space = body.iter().position(|&byte| byte == b' ').expect("LEN KEY=VALUE");
        let len: usize = std::str::from_utf8(&body[..space]).unwrap().parse().expect("a length");
        let record = &body[space + 1..len - 1];
        let equals = record.iter().position(|&byte| byte == b'=').expect("KEY=VALUE");
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        body = &body[len..];
    }
    records
}

#[cfg(test)]
mod tests {
    use crate::{Layer, Model, layers};

    #[test]
    fn what_was_written_is_read() {
        let name = "n".repeat(300);
        let layer =
            layers! { "d 1777 1:2 a/", "f 4755 0:9 a/b body", "l 0777 0:0 c -> a/b", "h d => a/b", "c 0600 0:0 e 5:1" }
                .remove(0)
                .entry(crate::Entry::file(&name, "x"))
                .entry(crate::Entry::file("short", "x").pax("path", "pax/name").pax("mtime", "1.5"));
        let read = Layer::read_tar(&layer.tar());
        let names: Vec<_> = read.entries().map(|entry| entry.name.clone()).collect();
        assert_eq!(names.last().unwrap(), b"pax/name");
        let listing = Model::of(&[read]).listing();
        assert!(listing.iter().any(|line| line.contains(&name)));
        assert!(listing.iter().any(|line| line.starts_with("f 4755 0:9 2 /d ")), "{listing:#?}");
    }
}
