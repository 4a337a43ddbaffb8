//! The record in the metadata section: all that decides what is built and that every transport shares, so that who has
//! the file and the image can build it again.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Boot, Plan, Profile};
use crate::image::{Digest, Image, Origin, Platform, Process};
use crate::initramfs::{Compress, Mtime};
use crate::rootfs::Overrides;
use crate::rootfs::docker::Store;

/// What stands in the member `eif` of `CustomMetadata`. Unknown members are refused: they would be options that a
/// rebuild does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// For nitro-cli's layout: whether times that it takes from a clock were written as zero. Left out where not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_unstable_times: bool,
    /// The kernel's command line.
    pub cmdline: String,
    /// Of the ramdisks.
    pub compress: Compress,
    /// The digests of the image's uncompressed layers, lowest first; of a plain tar, its own. A plain directory has
    /// none: one of a tar that eif makes of it would depend on times and owners that do not reach the ramdisk, and the
    /// file is to be a function of the tree.
    pub diff_ids: Vec<Digest>,
    /// For nitro-cli's layout: where its Docker keeps layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_store: Option<Store>,
    /// SHA-256 of the file `init` in ramdisk 1, in lower-case hex.
    pub init_sha256: String,
    /// SHA-256 of the kernel section's data.
    pub kernel_sha256: String,
    /// The kernel modules in ramdisk 1.
    pub modules: Vec<Module>,
    /// What became of mtimes.
    pub mtime: Mtime,
    /// What replaced parts of the image's config. Left out where nothing did.
    #[serde(default, skip_serializing_if = "Overrides::is_none")]
    pub overrides: Overrides,
    /// The platform of the image.
    pub platform: Platform,
    /// What runs.
    pub process: Process,
    /// Whose layout the file has. Left out where it is ours.
    #[serde(default, skip_serializing_if = "Profile::is_own")]
    pub profile: Profile,
    /// Where the root file system comes from, if it is from no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Rootfs>,
    /// The version of `eif`.
    pub version: String,
}

/// A root file system that comes from no image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// A directory or a tar.
    pub from: Origin,
    /// Whether its owners count, and not everything is root's.
    pub keep_owners: bool,
}

/// A kernel module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Its file name in ramdisk 1.
    pub name: String,
    /// SHA-256 of its bytes, in lower-case hex.
    pub sha256: String,
}

impl Record {
    /// `diff_ids` are of the image's layers, as they were read.
    pub(super) fn new(plan: &Plan, boot: &Boot, (image, diff_ids): (&Image, Vec<Digest>), process: &Process) -> Self {
        let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let module = |(name, bytes): &(String, Vec<u8>)| Module { name: name.clone(), sha256: sha256(bytes) };
        let nitro_cli = !plan.profile.is_own();
        let rootfs = Rootfs { from: image.origin, keep_owners: plan.layers.keep_owners };
        Self {
            accept_unstable_times: nitro_cli && plan.accept_unstable_times,
            cmdline: boot.cmdline.clone(),
            compress: plan.compress,
            diff_ids: if image.origin == Origin::Directory { Vec::new() } else { diff_ids },
            docker_store: nitro_cli.then_some(plan.docker_store),
            init_sha256: sha256(&boot.init),
            kernel_sha256: sha256(&boot.kernel),
            modules: boot.modules.iter().map(module).collect(),
            mtime: plan.mtime,
            overrides: plan.overrides.clone(),
            platform: plan.platform,
            process: process.clone(),
            profile: plan.profile,
            rootfs: image.origin.is_plain().then_some(rootfs),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
