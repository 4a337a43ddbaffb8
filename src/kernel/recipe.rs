//! What makes the bytes of a kernel besides its source: configuration, patches, environment. All of it is hashed.

use sha2::{Digest, Sha256};

use super::lock::Entry;
use super::tools::Toolchain;
use super::{Error, hex};
use crate::Arch;

/// Part of every input hash: change it when the steps in `make.rs` change what comes out.
const RECIPE: &str = "eif-kernel-1";

const COMMON: &str = include_str!("../../kernels/common.config");
const X86_64: &str = include_str!("../../kernels/x86_64.config");
const AARCH64: &str = include_str!("../../kernels/aarch64.config");

/// A change to the source.
#[derive(Debug, Clone, Copy)]
pub struct Patch {
    /// Its file name in `kernels/patches`.
    pub name: &'static str,
    /// A unified diff, `-p1`; what stands before the first `---` is its reason.
    pub text: &'static str,
}

/// All patches, in the order in which they are applied.
pub const PATCHES: [Patch; 3] = [
    Patch {
        name: "0001-vsock-receive-while-replies-wait.patch",
        text: include_str!("../../kernels/patches/0001-vsock-receive-while-replies-wait.patch"),
    },
    Patch {
        name: "0002-arm64-name-a-load-offset.patch",
        text: include_str!("../../kernels/patches/0002-arm64-name-a-load-offset.patch"),
    },
    Patch {
        name: "0003-kbuild-no-build-id.patch",
        text: include_str!("../../kernels/patches/0003-kbuild-no-build-id.patch"),
    },
];

/// Words that must be gone from a file once a patch is in. A later source may bring a change of its own: then the
/// patch stops applying and goes, and this stays.
#[derive(Debug, Clone, Copy)]
pub struct Gone {
    /// The file, from the top of the source.
    pub file: &'static str,
    /// What it may not have.
    pub words: &'static str,
    /// The patch that takes it out.
    pub patch: &'static str,
}

/// What the patched source may not have.
pub const GONE: [Gone; 3] = [
    Gone { file: "net/vmw_vsock/virtio_transport.c", words: "queued_replies", patch: PATCHES[0].name },
    Gone {
        file: "arch/arm64/kernel/head.S",
        words: ".quad\t0\t\t\t\t// Image load offset from start of RAM",
        patch: PATCHES[1].name,
    },
    Gone { file: "Makefile", words: "LDFLAGS_vmlinux += --build-id=sha1", patch: PATCHES[2].name },
];

/// The environment of every step of the build, whole: nothing else but PATH, HOME and TMPDIR gets in.
///
/// The timestamp is one that `date -d` reads (GNU's and busybox's): where it cannot, the kernel's build silently
/// takes the present time for the built-in ramdisk.
pub const ENVIRONMENT: [(&str, &str); 7] = [
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
    ("SOURCE_DATE_EPOCH", "0"),
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00"),
    ("KBUILD_BUILD_USER", "eif"),
    ("KBUILD_BUILD_HOST", "enclave"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// The configuration that is asked for: both fragments, applied on `allnoconfig`.
pub fn fragment(arch: Arch) -> String {
    let own = match arch {
        Arch::X86_64 => X86_64,
        Arch::Aarch64 => AARCH64,
    };
    format!("{COMMON}\n{own}")
}

/// The kernel's own name for the architecture.
pub fn kernel_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "arm64",
    }
}

/// The make target, and where its file is afterwards.
pub fn image(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("bzImage", "arch/x86/boot/bzImage"),
        Arch::Aarch64 => ("Image", "arch/arm64/boot/Image"),
    }
}

/// Hash of all that decides the bytes but the tools: the same on every machine.
pub fn recipe_hash(entry: &Entry, arch: Arch) -> String {
    let mut hash = Sha256::new();
    let mut put = |part: &str| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    };
    put(RECIPE);
    put(&entry.tarball.sha256);
    put(arch.name());
    put(&fragment(arch));
    for patch in PATCHES {
        put(patch.name);
        put(patch.text);
    }
    for (name, value) in ENVIRONMENT {
        put(name);
        put(value);
    }
    hex(&hash.finalize())
}

/// Hash of all inputs, the tools' versions included: the name of the kernel's folder in the cache.
pub fn input_hash(entry: &Entry, arch: Arch, toolchain: &Toolchain) -> String {
    let mut hash = Sha256::new();
    hash.update(recipe_hash(entry, arch));
    hash.update(toolchain.versions.as_bytes());
    hex(&hash.finalize())
}

/// Holds `config` (a whole `.config`) against `fragment`, line by line, `=` and `is not set` alike.
pub fn check_config(fragment: &str, config: &str) -> Result<(), Error> {
    let options: Vec<String> = fragment.lines().filter_map(|line| not_taken(line, config)).collect();
    if options.is_empty() { Ok(()) } else { Err(Error::Config { options }) }
}

/// What became of one line of a fragment, if not what it asks for.
fn not_taken(line: &str, config: &str) -> Option<String> {
    let (option, wanted) = match line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
        Some(option) => (option, None),
        None if line.is_empty() || line.starts_with('#') => return None,
        None => line.split_once('=').map_or((line, Some("")), |(option, value)| (option, Some(value))),
    };
    let got = config.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
    match (wanted, got) {
        (wanted, got) if wanted == got => None,
        (wanted, got) => Some(format!("{option} ({} for {})", got.unwrap_or("not set"), wanted.unwrap_or("not set"))),
    }
}

/// Checks that the patches did what they are for. `read` gives a source file's text.
pub fn check_patched(mut read: impl FnMut(&str) -> Result<String, Error>) -> Result<(), Error> {
    for gone in GONE {
        if read(gone.file)?.contains(gone.words) {
            return Err(Error::Unpatched { file: gone.file, found: gone.words, patch: gone.patch });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_fragment_is_held_against_the_config() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\nCONFIG_AB=y\n";
        assert!(check_config("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n# words\n\n", config).is_ok());
        let error =
            check_config("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=\"y\"\nCONFIG_D=y\n", config).unwrap_err();
        let Error::Config { options } = error else { panic!("{error}") };
        assert_eq!(
            options,
            [
                "CONFIG_A (y for not set)",
                "CONFIG_B (not set for y)",
                "CONFIG_C (\"x\" for \"y\")",
                "CONFIG_D (not set for y)"
            ]
        );
    }

    #[test]
    fn no_option_is_asked_for_twice() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let text = fragment(arch);
            let mut seen = std::collections::BTreeSet::new();
            for word in text.lines().filter_map(|line| {
                let line = line.strip_prefix("# ").filter(|line| line.ends_with(" is not set")).unwrap_or(line);
                line.split([' ', '=']).next().filter(|word| word.starts_with("CONFIG_"))
            }) {
                assert!(seen.insert(word.to_owned()), "{arch}: {word}");
            }
            assert!(seen.len() > 200, "{arch}: {}", seen.len());
        }
    }

    #[test]
    fn a_source_that_still_pushes_back_is_refused() {
        let stock = |file: &str| match file {
            "net/vmw_vsock/virtio_transport.c" => Ok("\tatomic_t queued_replies;\n".to_owned()),
            _ => Ok(String::new()),
        };
        let error = check_patched(stock).unwrap_err();
        assert!(matches!(error, Error::Unpatched { found: "queued_replies", .. }), "{error}");
        assert!(check_patched(|_| Ok("nothing of that".to_owned())).is_ok());
    }

    #[test]
    fn patches_give_their_reason() {
        for patch in PATCHES {
            let reason = patch.text.split("\n--- ").next().unwrap();
            assert!(reason.lines().count() > 4, "{}", patch.name);
        }
    }
}
