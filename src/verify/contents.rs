//! The ramdisks of a file as archives, and the files of ours and of AWS's that say what runs.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, Read};

use super::nitro_cli::Shape;
use crate::eif::{Eif, Section, SectionReader, Source};
use crate::initramfs::newc::{Entry, Error, Reader, file_type};
use crate::initramfs::{Packing, Unpack};

/// `process`, `cmd` and `env` are read up to this size, in bytes.
const MAX_PROCESS: u64 = 4 << 20;

/// A ramdisk section as the archive in it.
pub(super) type Archive<'a, S> = Reader<Unpack<SectionReader<'a, S>>>;

/// The archive of a ramdisk section, and what it is packed with.
pub(super) fn open<'a, S: Source>(eif: &'a Eif<S>, section: &Section) -> io::Result<(Packing, Archive<'a, S>)> {
    let unpack = Unpack::new(eif.read(section))?;
    Ok((unpack.packing(), Reader::new(unpack)))
}

/// The components of a name as the kernel walks them: no empty ones, no `.`.
pub(super) fn path(name: &[u8]) -> Vec<u8> {
    let components: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
    components.join(&b'/')
}

/// Files beside `rootfs` that say what runs, of several of a name the last one; and what all entries look like.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) process: Option<Vec<u8>>,
    pub(super) cmd: Option<Vec<u8>>,
    pub(super) env: Option<Vec<u8>>,
    pub(super) shape: Shape,
}

impl Own {
    /// Looks at `entry`, and takes its contents if it is one of those files.
    pub(super) fn take<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), Error> {
        self.shape.see(entry);
        if entry.header.kind() != file_type::FILE || u64::from(entry.size) > MAX_PROCESS {
            return Ok(());
        }
        let slot = match &path(&entry.name)[..] {
            b"process" => &mut self.process,
            b"cmd" => &mut self.cmd,
            b"env" => &mut self.env,
            _ => return Ok(()),
        };
        *slot = Some(body(reader)?);
        Ok(())
    }
}

/// The contents of the latest entry. The caller has looked at their size.
pub(super) fn body<R: Read>(reader: &mut Reader<R>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.downcast().unwrap_or_else(Error::Io)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_kernels() {
        for (name, walked) in [("./a//b/", "a/b"), ("/a", "a"), (".", ""), ("a/../b", "a/../b")] {
            assert_eq!(path(name.as_bytes()), walked.as_bytes());
        }
    }
}
