//! The two processor architectures that Nitro Enclaves have.

use std::fmt;
use std::str::FromStr;

/// Architecture of an enclave: the only two the EIF header's flag can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// `amd64` in OCI's words.
    X86_64,
    /// `arm64` in OCI's words.
    Aarch64,
}

impl Arch {
    /// The kernel's and QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// The name in OCI image configs (GOARCH).
    pub fn oci_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = String;

    /// Takes the kernel's names and OCI's.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "x86_64" | "amd64" => Ok(Arch::X86_64),
            "aarch64" | "arm64" => Ok(Arch::Aarch64),
            other => Err(format!("`{other}` is no architecture of Nitro Enclaves: amd64 or arm64")),
        }
    }
}
