//! The enclave's PID 1, as `build.rs` compiled it from `init/` with the toolchain that compiled this library.

use sha2::{Digest, Sha256};

use crate::Arch;

/// One embedded init.
#[derive(Debug, Clone, Copy)]
struct Init {
    bytes: &'static [u8],
    toolchain: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/inits.rs"));

fn of(arch: Arch) -> Option<Init> {
    match arch {
        Arch::X86_64 => X86_64,
        Arch::Aarch64 => AARCH64,
    }
}

/// The program: a static ELF file. `None` if the toolchain of this build has no such target
/// (`rustup target add aarch64-unknown-linux-gnu`, then build again).
pub fn bytes(arch: Arch) -> Option<&'static [u8]> {
    of(arch).map(|init| init.bytes)
}

/// The compiler that made it, as `rustc -V` prints itself; its bytes depend on nothing else.
pub fn toolchain(arch: Arch) -> Option<&'static str> {
    of(arch).map(|init| init.toolchain)
}

/// SHA-256 of the program in lower-case hex.
pub fn sha256(arch: Arch) -> Option<String> {
    bytes(arch).map(|bytes| hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset of `e_machine` in an ELF header, and its value for each architecture.
    const MACHINE: [(Arch, u16); 2] = [(Arch::X86_64, 62), (Arch::Aarch64, 183)];

    #[test]
    fn the_embedded_program_is_an_elf_file_of_its_architecture() {
        for (arch, machine) in MACHINE {
            let Some(bytes) = bytes(arch) else { continue };
            assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
            assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), machine);
        }
    }

    #[test]
    fn the_hosts_own_architecture_is_there() {
        let host = std::env::consts::ARCH.parse().unwrap();
        assert!(bytes(host).is_some_and(|bytes| bytes.len() < 65_536));
        assert!(toolchain(host).unwrap().starts_with("rustc 1."));
        assert_eq!(sha256(host).unwrap().len(), 64);
    }
}
