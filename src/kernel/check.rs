//! The preflight: what can be known of a kernel before an enclave hangs on it without a word.
//!
//! A user's kernel is packed unchanged. It is refused only where it cannot boot at all (no kernel, another
//! architecture); all else is a finding.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use super::Error;
use super::probe::{Format, HEAD, probe, release};
use crate::{Arch, Warning};

/// What the preflight says of a kernel that may be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// What the file is.
    pub format: Format,
    /// `6.12.117`, where the file tells.
    pub release: Option<String>,
    /// All that it dislikes.
    pub findings: Vec<Finding>,
}

/// One thing that the preflight dislikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable code.
    pub code: &'static str,
    /// One line.
    pub message: String,
    /// Offset in the file of the bytes that say so.
    pub offset: u64,
}

impl Finding {
    /// The same as a warning of the build.
    pub fn warning(&self) -> Warning {
        Warning::new(self.code, self.message.clone())
    }
}

const UNPACKED: &str = "the enclave's loader unpacks nothing: give the uncompressed Image (aarch64) or the bzImage";
const NOT_VMLINUX: &str = "the loader takes no ELF file: give arch/x86/boot/bzImage or arch/arm64/boot/Image";

/// Looks at a kernel of which `head` are the first bytes ([`HEAD`], or all if there are fewer) and `size` all.
///
/// # Errors
/// [`Error::Format`] and [`Error::Arch`]: it cannot boot.
pub fn check(head: &[u8], size: u64, arch: Arch) -> Result<Preflight, Error> {
    let format = probe(head)?;
    let refused = |what: String, help| Err(Error::Format { what, help });
    if let Some(kernel) = format.arch().filter(|kernel| *kernel != arch) {
        return Err(Error::Arch { kernel, image: arch });
    }
    let findings = match &format {
        Format::BzImage { protocol, entry_64, init_size, file_size, .. } => {
            bzimage(*protocol, *entry_64, *init_size, *file_size, size)
        }
        Format::Arm64Image { text_offset, image_size, flags } => arm64(*text_offset, *image_size, *flags, size),
        Format::Elf { .. } => return refused("an ELF file".to_owned(), NOT_VMLINUX),
        Format::EfiZboot(name) => return refused(format!("an EFI program around a kernel ({name})"), UNPACKED),
        Format::Compressed(name) => return refused(format!("a file compressed with {name}"), UNPACKED),
    };
    let release = release(&format, head);
    Ok(Preflight { format, release, findings })
}

fn bzimage(protocol: u16, entry_64: bool, init_size: u32, file_size: u64, size: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |code, message, offset| findings.push(Finding { code, message, offset });
    if size < file_size {
        let message = format!("the kernel's header promises {file_size} bytes, the file has {size}: it is cut short");
        find("W-kernel-truncated", message, 0x1f4);
    }
    if protocol < 0x020c || !entry_64 {
        let message = "the kernel has no 64-bit entry (boot protocol 2.12): the enclave may stay silent".to_owned();
        find("W-kernel-entry", message, 0x236);
    }
    if init_size == 0 {
        let message = "the kernel does not say how much memory it needs (boot protocol 2.10)".to_owned();
        find("W-kernel-init-size", message, 0x260);
    }
    findings
}

fn arm64(text_offset: u64, image_size: u64, flags: u64, size: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |code, message, offset| findings.push(Finding { code, message, offset });
    if text_offset == 0 {
        let message = "the Image's text_offset is 0: Nitro's loader puts it there and it never starts; AWS's kernels \
                       have 2 MiB (bytes 8 to 15)"
            .to_owned();
        find("W-kernel-text-offset", message, 8);
    }
    if image_size != 0 && size > image_size {
        let message = format!("the Image's header has {image_size} bytes of memory, the file {size}");
        find("W-kernel-image-size", message, 16);
    }
    if flags & 1 == 1 {
        find("W-kernel-big-endian", "the kernel is big endian: no image's programs run on it".to_owned(), 24);
    }
    findings
}

/// [`check`] of a file; for an arm64 Image the release is looked for in all of it.
///
/// # Errors
/// Those of [`check`], and [`Error::Io`].
pub fn check_file(file: &Path, arch: Arch) -> Result<Preflight, Error> {
    let mut open = File::open(file).map_err(Error::io("reading", file))?;
    let size = open.seek(SeekFrom::End(0)).map_err(Error::io("reading", file))?;
    open.rewind().map_err(Error::io("reading", file))?;
    let mut head = Vec::new();
    open.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(Error::io("reading", file))?;
    let mut preflight = check(&head, size, arch)?;
    if preflight.release.is_none() {
        preflight.release = search(&preflight.format, head, open).map_err(Error::io("reading", file))?;
    }
    Ok(preflight)
}

/// [`check_file`] for the architecture that the kernel itself names.
///
/// # Errors
/// Those of [`check_file`].
pub fn check_own(file: &Path) -> Result<Preflight, Error> {
    match check_file(file, Arch::X86_64) {
        Err(Error::Arch { kernel, .. }) => check_file(file, kernel),
        other => other,
    }
}

/// The release of a kernel whose format is known, from all of its bytes; they are read as far as is needed.
///
/// # Errors
/// The reader's.
pub fn release_of(format: &Format, mut kernel: impl Read) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    kernel.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    match release(format, &head) {
        None if matches!(format, Format::Arm64Image { .. }) => search(format, head, kernel),
        release => Ok(release),
    }
}

/// Looks for the release piece by piece; pieces overlap by more than the banner's first words.
fn search(format: &Format, mut part: Vec<u8>, mut rest: impl Read) -> std::io::Result<Option<String>> {
    const OVERLAP: usize = 256;
    loop {
        let from = part.len().saturating_sub(OVERLAP);
        part.drain(..from);
        let had = part.len();
        rest.by_ref().take(1 << 20).read_to_end(&mut part)?;
        if let Some(release) = release(format, &part) {
            return Ok(Some(release));
        }
        if part.len() == had {
            return Ok(None);
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Refusal;
    use crate::kernel::probe::tests::{bzimage_head, image_head};

    fn codes(preflight: &Preflight) -> Vec<&'static str> {
        preflight.findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_sound_kernel_has_no_findings() {
        let preflight = check(&bzimage_head(0), 1024, Arch::X86_64).unwrap();
        assert_eq!(codes(&preflight), [""; 0]);
        assert_eq!(preflight.release.as_deref(), Some("6.12.117"));
        assert_eq!(codes(&check(&image_head(0x20_0000, 10), 64, Arch::Aarch64).unwrap()), [""; 0]);
    }

    #[test]
    fn the_other_architecture_is_refused() {
        let error = check(&bzimage_head(0), 1024, Arch::Aarch64).unwrap_err();
        assert_eq!(error.to_string(), "the kernel is for x86_64, the image for aarch64");
        assert_eq!(error.code(), "E-kernel-arch");
        assert!(check(&image_head(0, 0), 64, Arch::X86_64).is_err());
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        for bytes in [&b""[..], b"\x1f\x8b\x08", b"\x7fELF", b"<html>"] {
            assert_eq!(check(bytes, bytes.len() as u64, Arch::X86_64).unwrap_err().code(), "E-kernel-format");
        }
    }

    #[test]
    fn an_image_that_nitro_cannot_place_is_a_finding() {
        let preflight = check(&image_head(0, 0), 64, Arch::Aarch64).unwrap();
        assert_eq!(codes(&preflight), ["W-kernel-text-offset"]);
        assert_eq!(preflight.findings[0].offset, 8);
        assert_eq!(codes(&check(&image_head(1 << 21, 1), 64, Arch::Aarch64).unwrap()), ["W-kernel-big-endian"]);
    }

    #[test]
    fn a_cut_kernel_is_a_finding() {
        let preflight = check(&bzimage_head(100), 1024, Arch::X86_64).unwrap();
        assert_eq!(codes(&preflight), ["W-kernel-truncated"]);
    }

    #[test]
    fn the_release_is_found_across_pieces() {
        let format = probe(&image_head(0, 0)).unwrap();
        let mut rest = vec![0; (1 << 20) - 8];
        rest.extend_from_slice(b"Linux version 6.12.117 (eif@enclave)");
        rest.extend_from_slice(&vec![0; 1 << 20]);
        assert_eq!(search(&format, image_head(0, 0), &rest[..]).unwrap().as_deref(), Some("6.12.117"));
        assert_eq!(search(&format, image_head(0, 0), &[0_u8; 5000][..]).unwrap(), None);
    }
}
