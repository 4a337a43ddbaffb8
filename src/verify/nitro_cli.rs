//! Files that nitro-cli made: known by their metadata and the shape of ramdisk 2, and what their enclaves lack of what
//! the image has under Docker, as far as the file tells. Metadata is not measured, so this is a hint and no proof.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;

use crate::build::nitro_cli::lost_of_config;
use crate::eif::Metadata;
use crate::escaped;
use crate::image::Config;
use crate::initramfs::linuxkit::REPEATED;
use crate::initramfs::newc::{Entry, file_type};

/// linuxkit's first inode number.
const FIRST: u32 = 721;
/// BuildTool of nitro-cli's metadata.
pub(super) const TOOL: &str = "nitro-cli";

/// What the entries of the ramdisks look like, gathered while they are read.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// Whether a ramdisk begins as linuxkit's do.
    is_linuxkits: bool,
    /// Symlinks that were hard links: they have the mode of a file.
    linked: u64,
    /// What the image has where nitro-cli puts its directories behind it: how messages show it.
    covered: BTreeMap<&'static str, String>,
}

impl Shape {
    /// Takes the next entry of any ramdisk.
    pub(super) fn see(&mut self, entry: &Entry) {
        let Entry { name, header, .. } = entry;
        if name == b"rootfs" && header.inode == FIRST {
            self.is_linuxkits = true;
        }
        let Some(path) = name.strip_prefix(b"rootfs/") else { return };
        let (permissions, is_symlink) = (header.mode & 0o7777, header.kind() == file_type::SYMLINK);
        let own = [&b"etc/resolv.conf"[..], b"etc/mtab"].contains(&path);
        self.linked = self.linked.saturating_add(u64::from(is_symlink && permissions != 0o777 && !own));
        let is_directory = header.kind() == file_type::DIRECTORY;
        // The image's directories end in a slash; the ones behind them do not.
        let bare = if is_directory { path.strip_suffix(b"/") } else { Some(path) };
        let Some(covered) = REPEATED.into_iter().find(|name| bare == Some(name.as_bytes())) else { return };
        if !is_directory {
            self.covered.insert(covered, format!("/{covered} is no directory in the image and an empty one"));
        } else if (permissions, header.uid, header.gid) != (0o755, 0, 0) {
            let was = format!("{permissions:04o} {}:{}", header.uid, header.gid);
            self.covered.insert(covered, format!("/{covered} is {was} in the image and 0755 0:0"));
        }
    }
}

/// Code and message of each loss; nothing for a file that nitro-cli did not make.
pub(super) fn losses(metadata: &Metadata, shape: &Shape) -> Vec<(&'static str, String)> {
    if metadata.build.tool != TOOL || !shape.is_linuxkits {
        return Vec::new();
    }
    let version = escaped(metadata.build.tool_version.as_bytes());
    let mut lines = vec![(
        "W-nitro-replaced",
        format!(
            "made by nitro-cli {version}: etc/hosts, etc/resolv.conf and etc/mtab are linuxkit's, etc/hostname is gone"
        ),
    )];
    let config = metadata.docker_info.get("Config").and_then(Config::from_json).unwrap_or_default();
    if config != Config::default() {
        lines.extend(lost_of_config(&config).into_iter().map(|warning| (warning.code, warning.message)));
    }
    lines.extend(shape.covered.values().map(|text| ("W-nitro-directories", format!("{text} in the enclave"))));
    if shape.linked > 0 {
        let text = "names of hard-linked files are symlinks to the first name: a chroot or a rename may break them";
        lines.push(("W-nitro-hard-links", format!("{} {text}", shape.linked)));
    }
    lines
        .push(("W-nitro-xattrs", "extended attributes of the image, capabilities too, are not in the file".to_owned()));
    lines
}
