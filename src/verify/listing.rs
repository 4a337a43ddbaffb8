//! The entries of a file's ramdisks, a line each, as `ls -l` has them.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::Write;

use super::Error;
use super::contents::{body, open};
use crate::eif::metadata::rfc3339;
use crate::eif::{Eif, Source};
use crate::initramfs::newc::{self, Entry, file_type};
use crate::{Refusal, Warning, escaped};

/// Writes a line for each entry, in the order of the archives, as it is read; names are escaped. Gives what could not be
/// listed.
///
/// # Errors
/// The file cannot be read, `out` cannot be written.
pub fn list<S: Source>(eif: &Eif<S>, out: &mut impl Write) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    for (index, section) in eif.ramdisks().enumerate() {
        let (packing, mut reader) = open(eif, section)?;
        let number = index.saturating_add(1);
        writeln!(out, "ramdisk {number} ({}):", packing.name()).map_err(Error::Write)?;
        if !packing.readable() {
            let text = format!("ramdisk {number} is not listed: it is packed with {}", packing.name());
            warnings.push(Warning::new("W-ramdisk-format", text));
            continue;
        }
        loop {
            let step = reader.next().and_then(|entry| {
                let Some(entry) = entry else { return Ok(None) };
                let target = if entry.header.kind() == file_type::SYMLINK { body(&mut reader)? } else { Vec::new() };
                Ok(Some(line(&entry, &target)))
            });
            match step {
                Ok(Some(line)) => writeln!(out, "{line}").map_err(Error::Write)?,
                Ok(None) => break,
                Err(newc::Error::Io(error)) => return Err(error.into()),
                Err(error) => {
                    warnings.push(Warning::new(error.code(), format!("ramdisk {number}, {error}")));
                    break;
                }
            }
        }
    }
    Ok(warnings)
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
