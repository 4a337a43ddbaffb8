//! The entries of a file's ramdisks: a line each, as `ls -l` has them, or JSON.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::Write;

use serde::Serialize;

use super::Error;
use super::contents::{body, open};
use crate::eif::metadata::rfc3339;
use crate::eif::{Eif, Source};
use crate::initramfs::newc::{self, Entry, file_type};
use crate::{Refusal, Warning, escaped};

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// As `ls -l`, below a line for each ramdisk.
    Text,
    /// One array of objects, two-space pretty: `ramdisk` (from 1), `name` (escaped), `mode` (octal, with the type's
    /// bits), `nlink`, `uid`, `gid`, `size`, `mtime` (seconds since 1970), and where there is one `target` or `device`
    /// (major, minor).
    Json,
}

/// An entry as JSON.
#[derive(Serialize)]
struct Object {
    ramdisk: usize,
    name: String,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u32,
    mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

/// Writes each entry, in the order of the archives, as it is read; names are escaped. Gives what could not be listed.
///
/// # Errors
/// The file cannot be read, `out` cannot be written.
pub fn list<S: Source>(eif: &Eif<S>, listing: Listing, out: &mut impl Write) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    let mut first = true;
    for (index, section) in eif.ramdisks().enumerate() {
        let (packing, mut reader) = open(eif, section)?;
        let number = index.saturating_add(1);
        if listing == Listing::Text {
            writeln!(out, "ramdisk {number} ({}):", packing.name()).map_err(Error::Write)?;
        }
        if !packing.readable() {
            let text = format!("ramdisk {number} is not listed: it is packed with {}", packing.name());
            warnings.push(Warning::new("W-ramdisk-format", text));
            continue;
        }
        loop {
            let step = reader.next().and_then(|entry| {
                let Some(entry) = entry else { return Ok(None) };
                let target = if entry.header.kind() == file_type::SYMLINK { body(&mut reader)? } else { Vec::new() };
                Ok(Some((entry, target)))
            });
            match step {
                Ok(Some((entry, target))) => match listing {
                    Listing::Text => writeln!(out, "{}", line(&entry, &target)),
                    Listing::Json => {
                        let opening = if std::mem::take(&mut first) { "[" } else { "," };
                        write!(out, "{opening}\n  {}", object(number, &entry, &target)?.replace('\n', "\n  "))
                    }
                }
                .map_err(Error::Write)?,
                Ok(None) => break,
                Err(newc::Error::Io(error)) => return Err(error.into()),
                Err(error) => {
                    warnings.push(Warning::new(error.code(), format!("ramdisk {number}, {error}")));
                    break;
                }
            }
        }
    }
    if listing == Listing::Json {
        out.write_all(if first { b"[]\n" } else { b"\n]\n" }).map_err(Error::Write)?;
    }
    Ok(warnings)
}

fn object(ramdisk: usize, entry: &Entry, target: &[u8]) -> Result<String, Error> {
    let header = &entry.header;
    let kind = header.kind();
    let object = Object {
        ramdisk,
        name: escaped(&entry.name),
        mode: format!("{:06o}", header.mode),
        nlink: header.links,
        uid: header.uid,
        gid: header.gid,
        size: entry.size,
        mtime: header.mtime,
        target: (kind == file_type::SYMLINK).then(|| escaped(target)),
        device: [file_type::CHARACTER, file_type::BLOCK].contains(&kind).then_some(header.device),
    };
    serde_json::to_string_pretty(&object).map_err(|error| Error::Write(error.into()))
}

/// `-rwsr-xr-x   1     0     0     1234 1970-01-01T00:00:00Z rootfs/bin/su`
fn line(entry: &Entry, target: &[u8]) -> String {
    let header = &entry.header;
    let (kind, size) = (header.kind(), entry.size);
    let size = match kind {
        file_type::CHARACTER | file_type::BLOCK => format!("{}, {}", header.device.0, header.device.1),
        _ => size.to_string(),
    };
    let time = rfc3339(u64::try_from(header.mtime).unwrap_or(0)).unwrap_or_default();
    let arrow = if kind == file_type::SYMLINK { format!(" -> {}", escaped(target)) } else { String::new() };
    let (mode, name) = (mode(header.mode), escaped(&entry.name));
    format!("{mode} {:>3} {:>5} {:>5} {size:>9} {time} {name}{arrow}", header.links, header.uid, header.gid)
}

/// The ten letters of `ls`.
fn mode(mode: u32) -> String {
    let mut text = String::from(match mode & file_type::MASK {
        file_type::DIRECTORY => 'd',
        file_type::FILE => '-',
        file_type::SYMLINK => 'l',
        file_type::CHARACTER => 'c',
        file_type::BLOCK => 'b',
        file_type::FIFO => 'p',
        _ => '?',
    });
    for (shift, special, with, without) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode.wrapping_shr(shift) & 7;
        text.push(if bits & 4 == 4 { 'r' } else { '-' });
        text.push(if bits & 2 == 2 { 'w' } else { '-' });
        text.push(match (mode & special == special, bits & 1 == 1) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_ls() {
        for (bits, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_640, "-rw-r-S---"),
            (0o041_777, "drwxrwxrwt"),
            (0o120_777, "lrwxrwxrwx"),
            (0o001_666, "?rw-rw-rwT"),
        ] {
            assert_eq!(mode(bits), text);
        }
    }
}
