//! What kind of file a kernel is, from its first bytes.
//!
//! Facts: Linux `Documentation/arch/x86/boot.rst` (the setup header), `Documentation/arch/arm64/booting.rst` (the
//! Image header), `drivers/firmware/efi/libstub/zboot-header.S` (EFI zboot).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use super::Error;
use crate::Arch;

/// How many first bytes [`probe`] and [`release`] want: the largest real-mode part a bzImage can have.
pub const HEAD: usize = 256 * 512;

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// An x86 kernel with the boot protocol's header.
    BzImage {
        /// Version of the boot protocol, `0x020f` is 2.15.
        protocol: u16,
        /// Whether it has the 64-bit entry (`xloadflags`, from protocol 2.12).
        entry_64: bool,
        /// Memory the kernel needs while it unpacks itself, in bytes; 0 before protocol 2.10.
        init_size: u32,
        /// Bytes that the file must have: the real-mode part and `syssize` paragraphs.
        file_size: u64,
        /// `6.12.117 (eif@enclave) #1 SMP …`: where the header points to a version text.
        version: Option<String>,
    },
    /// An uncompressed arm64 kernel.
    Arm64Image {
        /// Where it wants to lie, from a 2 MiB aligned base.
        text_offset: u64,
        /// Memory it takes from there on, in bytes; 0 before Linux 3.17.
        image_size: u64,
        /// Bit 0: big endian. Bits 1 and 2: page size. Bit 3: anywhere in memory.
        flags: u64,
    },
    /// An ELF file, such as the `vmlinux` that the kernel's build leaves beside the real thing.
    Elf {
        /// For which machine, if it is one of ours.
        machine: Option<Arch>,
    },
    /// An EFI program that unpacks a kernel (`vmlinuz.efi`), with the compressor's name.
    EfiZboot(String),
    /// A compressed file, by the name of its compressor.
    Compressed(&'static str),
}

const MAGICS: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"BZh", "bzip2"),
    (b"\x89LZO\0", "lzop"),
    (b"\x5d\0\0", "lzma"),
];

const NO_KERNEL: &str = "give a bzImage for x86_64, an uncompressed Image for aarch64; `eif kernel build` makes either";

/// Names the format of a kernel from its first bytes ([`HEAD`] are enough; fewer will do for a short file).
///
/// # Errors
/// [`Error::Format`] if it is none of [`Format`].
pub fn probe(head: &[u8]) -> Result<Format, Error> {
    if let Some(format) = bzimage(head).or_else(|| arm64(head)).or_else(|| zboot(head)).or_else(|| elf(head)) {
        return Ok(format);
    }
    if let Some((_, name)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Ok(Format::Compressed(name));
    }
    let what = if head.is_empty() { "an empty file" } else { "neither a bzImage nor an arm64 Image" };
    Err(Error::Format { what: what.to_owned(), help: NO_KERNEL })
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(head: &[u8], at: usize) -> Option<u16> {
    bytes(head, at).map(u16::from_le_bytes)
}

fn u32_at(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_le_bytes)
}

fn u64_at(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(u64::from_le_bytes)
}

fn bzimage(head: &[u8]) -> Option<Format> {
    if u16_at(head, 0x1fe)? != 0xaa55 || bytes(head, 0x202)? != *b"HdrS" {
        return None;
    }
    let protocol = u16_at(head, 0x206)?;
    let from = |version: u16| protocol >= version;
    let setup_sects = match *head.get(0x1f1)? {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = setup_sects.checked_add(1)?.checked_mul(512)?;
    let paragraphs = u64::from(u32_at(head, 0x1f4)?);
    Some(Format::BzImage {
        protocol,
        entry_64: from(0x020c) && u16_at(head, 0x236)? & 1 == 1,
        init_size: if from(0x020a) { u32_at(head, 0x260)? } else { 0 },
        file_size: setup.checked_add(paragraphs.checked_mul(16)?)?,
        version: version(head),
    })
}

/// The text at `kernel_version` plus 0x200; a pointer that leads nowhere is no version.
fn version(head: &[u8]) -> Option<String> {
    let at = usize::from(u16_at(head, 0x20e)?);
    if at == 0 {
        return None;
    }
    text(head.get(at.checked_add(0x200)?..)?)
}

/// A short printable text up to a NUL.
fn text(from: &[u8]) -> Option<String> {
    let end = from.iter().take(512).position(|byte| *byte == 0)?;
    let line = from.get(..end)?;
    let printable = !line.is_empty() && line.iter().all(|byte| (b' '..0x7f).contains(byte));
    printable.then(|| String::from_utf8_lossy(line).into_owned())
}

fn arm64(head: &[u8]) -> Option<Format> {
    if bytes(head, 56)? != *b"ARM\x64" {
        return None;
    }
    Some(Format::Arm64Image { text_offset: u64_at(head, 8)?, image_size: u64_at(head, 16)?, flags: u64_at(head, 24)? })
}

fn zboot(head: &[u8]) -> Option<Format> {
    if !head.starts_with(b"MZ") || bytes(head, 4)? != *b"zimg" {
        return None;
    }
    Some(Format::EfiZboot(text(head.get(24..56)?).unwrap_or_else(|| "unknown".to_owned())))
}

fn elf(head: &[u8]) -> Option<Format> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = match u16_at(head, 18) {
        Some(62) => Some(Arch::X86_64),
        Some(183) => Some(Arch::Aarch64),
        _ => None,
    };
    Some(Format::Elf { machine })
}

impl Format {
    /// The name for people and for JSON: `bzImage`, `Image`, …
    pub fn name(&self) -> &'static str {
        match self {
            Format::BzImage { .. } => "bzImage",
            Format::Arm64Image { .. } => "Image",
            Format::Elf { .. } => "ELF",
            Format::EfiZboot(_) => "EFI zboot",
            Format::Compressed(name) => name,
        }
    }

    /// For which architecture it is, where the format tells.
    pub fn arch(&self) -> Option<Arch> {
        match self {
            Format::BzImage { .. } => Some(Arch::X86_64),
            Format::Arm64Image { .. } => Some(Arch::Aarch64),
            Format::Elf { machine } => *machine,
            Format::EfiZboot(_) | Format::Compressed(_) => None,
        }
    }
}

/// The kernel's release (`6.12.117`), from the head of a bzImage or from any part of an arm64 Image that has the
/// banner in it.
pub fn release(format: &Format, part: &[u8]) -> Option<String> {
    let line = match format {
        Format::BzImage { version, .. } => version.clone()?,
        Format::Arm64Image { .. } => banner(part)?,
        _ => return None,
    };
    line.split(' ').next().filter(|word| !word.is_empty()).map(str::to_owned)
}

/// What stands after `Linux version ` in the kernel's data; the format string `Linux version %s` is passed over.
fn banner(part: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"Linux version ";
    let mut starts = part.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    starts.find_map(|(at, _)| {
        let rest = part.get(at.checked_add(MARK.len())?..)?;
        let end = rest.iter().take(128).position(|byte| *byte == b' ')?;
        let word = rest.get(..end)?;
        let real = word.first().is_some_and(u8::is_ascii_digit) && word.iter().all(u8::is_ascii_graphic);
        real.then(|| String::from_utf8_lossy(word).into_owned())
    })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bzImage's header with a protocol of 2.15, one setup sector and the given number of paragraphs.
    pub fn bzimage_head(paragraphs: u32) -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[0x1f1] = 1;
        head[0x1f4..0x1f8].copy_from_slice(&paragraphs.to_le_bytes());
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        head[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        head[0x236] = 1;
        head[0x260..0x264].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
        head[0x300..0x313].copy_from_slice(b"6.12.117 (x@y) #1 z");
        head
    }

    /// An arm64 Image's header.
    pub fn image_head(text_offset: u64, flags: u64) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[8..16].copy_from_slice(&text_offset.to_le_bytes());
        head[16..24].copy_from_slice(&0x0100_0000_u64.to_le_bytes());
        head[24..32].copy_from_slice(&flags.to_le_bytes());
        head[56..60].copy_from_slice(b"ARM\x64");
        head
    }

    #[test]
    fn a_bzimage_tells_its_facts() {
        let format = probe(&bzimage_head(3)).unwrap();
        assert_eq!(release(&format, &[]).as_deref(), Some("6.12.117"));
        let Format::BzImage { protocol, entry_64, init_size, file_size, version } = format else { panic!() };
        assert_eq!((protocol, entry_64, init_size, file_size), (0x020f, true, 0x0200_0000, 1024 + 48));
        assert_eq!(version.as_deref(), Some("6.12.117 (x@y) #1 z"));
    }

    #[test]
    fn old_protocols_have_no_later_fields() {
        let mut head = bzimage_head(0);
        head[0x206..0x208].copy_from_slice(&0x0204_u16.to_le_bytes());
        let Format::BzImage { entry_64, init_size, .. } = probe(&head).unwrap() else { panic!() };
        assert_eq!((entry_64, init_size), (false, 0));
    }

    #[test]
    fn no_setup_sectors_means_four() {
        let mut head = bzimage_head(0);
        head[0x1f1] = 0;
        let Format::BzImage { file_size, .. } = probe(&head).unwrap() else { panic!() };
        assert_eq!(file_size, 5 * 512);
    }

    #[test]
    fn a_version_pointer_out_of_the_file_is_no_version() {
        let mut head = bzimage_head(0);
        head[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
        let Format::BzImage { version, .. } = probe(&head).unwrap() else { panic!() };
        assert_eq!(version, None);
    }

    #[test]
    fn an_image_tells_its_facts() {
        let format = probe(&image_head(0x20_0000, 0xa)).unwrap();
        assert_eq!(format, Format::Arm64Image { text_offset: 0x20_0000, image_size: 0x0100_0000, flags: 0xa });
        let data = b"..Linux version %s (%s)\0..Linux version 6.12.117 (eif@enclave) (gcc)\0";
        assert_eq!(release(&format, data).as_deref(), Some("6.12.117"));
        assert_eq!(release(&format, b"Linux version 6.12"), None);
    }

    #[test]
    fn other_files_are_named() {
        let mut elf = vec![0; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 62;
        assert_eq!(probe(&elf).unwrap(), Format::Elf { machine: Some(Arch::X86_64) });
        let mut zboot = vec![0; 64];
        zboot[..2].copy_from_slice(b"MZ");
        zboot[4..8].copy_from_slice(b"zimg");
        zboot[24..28].copy_from_slice(b"zstd");
        assert_eq!(probe(&zboot).unwrap(), Format::EfiZboot("zstd".to_owned()));
        for (magic, name) in MAGICS {
            assert_eq!(probe(magic).unwrap(), Format::Compressed(name));
        }
        for none in [&b""[..], b"#!/bin/sh\n", &[0; 4096]] {
            assert!(matches!(probe(none), Err(Error::Format { .. })));
        }
    }

    proptest! {
        #[test]
        fn prop_no_head_makes_it_panic(mut head in prop::collection::vec(any::<u8>(), 0..1200), kind in 0..3_u8) {
            let real = match kind { 0 => bzimage_head(7), 1 => image_head(0, 8), _ => Vec::new() };
            // Keep the magic, replace the rest: most random bytes would never get past it.
            for at in [0x1fe, 0x1ff, 0x202, 0x203, 0x204, 0x205, 56, 57, 58, 59] {
                if let (Some(to), Some(from)) = (head.get_mut(at), real.get(at)) {
                    *to = *from;
                }
            }
            if let Ok(format) = probe(&head) {
                let _ = release(&format, &head);
            }
        }

        #[test]
        fn prop_a_cut_head_is_not_another_format(cut in 0..1024_usize) {
            if let Ok(format) = probe(&bzimage_head(7)[..cut]) {
                prop_assert_eq!(format.name(), "bzImage");
            }
        }
    }
}
