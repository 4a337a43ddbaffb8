//! The platform of an image, in OCI's words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::Arch;

/// `linux/amd64`, `linux/arm64`: what an image runs on. Enclaves run Linux on two architectures. In JSON a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// The processor architecture.
    pub arch: Arch,
}

impl Platform {
    /// Whether an entry of an index with these words is for this platform.
    ///
    /// For arm64 the variant `v8` and none are the same thing (containerd's platform normalisation); amd64 images of
    /// a variant above v1 may need a CPU that the enclave lacks, so they match only by no variant or `v1`.
    pub fn matches(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let usual = match self.arch {
            Arch::X86_64 => "v1",
            Arch::Aarch64 => "v8",
        };
        os == "linux"
            && architecture == self.arch.oci_name()
            && variant.is_none_or(|variant| variant.is_empty() || variant == usual)
    }
}

impl Default for Platform {
    /// linux/amd64 on every host: the result must not depend on where it is made.
    fn default() -> Self {
        Self { arch: Arch::X86_64 }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.arch.oci_name())
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl TryFrom<String> for Platform {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Reference { text: text.to_owned(), why: why.to_owned() };
        let mut parts = text.split('/');
        let (os, arch, variant) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if os != "linux" || parts.next().is_some() {
            return Err(bad("a platform of an enclave is linux/amd64 or linux/arm64"));
        }
        let arch: Arch = arch.unwrap_or_default().parse().map_err(|why: String| bad(&why))?;
        let platform = Self { arch };
        if !platform.matches("linux", arch.oci_name(), variant) {
            return Err(bad("enclaves have linux/amd64 and linux/arm64/v8, no other variant"));
        }
        Ok(platform)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_that_mean_the_same_match() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap(), arm);
        assert!(arm.matches("linux", "arm64", Some("v8")));
        assert!(!arm.matches("linux", "arm", Some("v7")));
        assert!(!arm.matches("windows", "arm64", None));
        for bad in ["", "linux", "linux/riscv64", "windows/amd64", "linux/amd64/v3", "linux/amd64/v1/x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
