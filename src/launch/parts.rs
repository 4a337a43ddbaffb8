//! Takes an `.eif` apart into what a machine boots: kernel, ramdisks, command line.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use crate::eif::{self, Eif, Kind};
use crate::initramfs::Need;
use crate::{Arch, Refusal};

/// Why an `.eif` could not be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file says no.
    #[error(transparent)]
    Eif(#[from] eif::Error),
    /// A temporary file could not be made or filled.
    #[error("taking the .eif apart into temporary files: {0}")]
    Io(#[from] io::Error),
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Eif(error) => error.code(),
            Self::Io(_) => "E-io",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Eif(error) => error.help(),
            Self::Io(_) => vec!["TMPDIR says where temporary files go; they need as much room as the .eif".into()],
        }
    }
}

/// What the ramdisks of a file become in memory; nothing is copied.
///
/// # Errors
/// The file cannot be read.
pub fn need(eif: &Eif) -> Result<Need, Error> {
    let mut need = Need::default();
    for section in eif.sections().iter().filter(|section| section.kind == Kind::Ramdisk) {
        need.add(eif.read(section), section.size)?;
    }
    Ok(need)
}

/// What a machine boots. The files have no name and vanish with this value.
#[derive(Debug)]
pub struct Parts {
    /// What the header says.
    pub arch: Arch,
    /// The kernel section.
    pub kernel: File,
    /// All ramdisk sections in file order, each padded with zeros to 4 bytes.
    pub initrd: File,
    /// The command line section, as it is.
    pub cmdline: Vec<u8>,
}

impl Parts {
    /// Copies the sections out of a file whose CRC and structure have been checked.
    ///
    /// # Errors
    /// [`Error`]
    pub fn of(eif: &Eif) -> Result<Self, Error> {
        let mut kernel = tempfile::tempfile()?;
        let mut initrd = tempfile::tempfile()?;
        for section in eif.sections() {
            match section.kind {
                Kind::Kernel => append(&mut kernel, eif.read(section))?,
                Kind::Ramdisk => append(&mut initrd, eif.read(section))?,
                _ => {}
            }
        }
        Ok(Self { arch: eif.arch(), kernel, initrd, cmdline: eif.cmdline()? })
    }
}

/// Appends, and pads to 4 bytes: the kernel looks for the next archive only there (init/initramfs.c).
fn append(file: &mut File, mut data: impl Read) -> io::Result<()> {
    io::copy(&mut data, file)?;
    let end = file.stream_position()?;
    let padding = end.wrapping_neg() % 4;
    file.write_all(&[0; 4][..usize::try_from(padding).unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_ends_on_four_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        for data in [&b"12345"[..], b"", b"1234", b"123"] {
            append(&mut file, data).unwrap();
        }
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"12345\0\0\x001234123\0");
    }
}
