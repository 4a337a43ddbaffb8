//! The move into the application's root, without a way back.
//!
//! The image's tree is bound onto itself, everything else of the ramdisks is removed, and the bind mount is moved over
//! the root of the mount namespace. What lies below can no longer be named: `..` at the new root stays there, and the
//! old root holds nothing but the image's own tree.

use core::ffi::CStr;

use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::sys::{self, DIRECTORY, Fd, Names, Open, Result as Call, flags};

/// Where the build puts the image's tree.
const TREE: &CStr = c"/rootfs";
/// The name of [`TREE`] in the root directory.
const TREE_NAME: &CStr = c"rootfs";
/// The file systems that the kernel unpacks ramdisks into (`include/uapi/linux/magic.h`).
const RAM: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Makes /rootfs the root and the working directory.
pub fn switch() -> Result<(), Failure> {
    for early in [c"/sys", c"/dev"] {
        sys::unmount(early).on("unmount", early.to_bytes())?;
    }
    sys::mount(TREE, TREE, c"", flags::BIND | flags::REC, c"").on("bind", TREE.to_bytes())?;
    sys::change_directory(TREE).on("chdir", TREE.to_bytes())?;
    clear_old_root().at("clear the initramfs")?;
    sys::mount(c".", c"/", c"", flags::MOVE, c"").on("move", TREE.to_bytes())?;
    sys::change_root(c".").on("chroot", TREE.to_bytes())?;
    sys::change_directory(c"/").on("chdir", b"/")
}

/// Whether there is such a root, and below it an initramfs: [`switch`] removes files, and only ever those of one.
pub fn check() -> Result<(), Failure> {
    let root = sys::status(c"/").on("root", b"/")?;
    let tree = sys::status(TREE).on("root", TREE.to_bytes())?;
    if !tree.is(DIRECTORY) {
        return Err(Failure::new("root", Errno::ENOTDIR).of(TREE.to_bytes()));
    }
    let kind = sys::file_system(c"/").on("root", b"/")?;
    if !RAM.contains(&kind) || tree.device() != root.device() {
        return Err(Failure::new("root", Errno::EXDEV).because("this is no initramfs"));
    }
    Ok(())
}

fn clear_old_root() -> Call<()> {
    let root = sys::open(c"/", Open::Directory)?;
    let device = sys::status(c"/")?.device();
    clear(&root, device, Some(TREE_NAME))
}

/// Removes what is below a directory, on its own file system only.
fn clear(directory: &Fd, device: (u32, u32), keep: Option<&CStr>) -> Call<()> {
    let mut buffer = [0; 1024];
    loop {
        let used = sys::list(directory, &mut buffer)?;
        if used == 0 {
            return Ok(());
        }
        for name in Names(buffer.get(..used).unwrap_or_default()).filter(|name| Some(*name) != keep) {
            remove(directory, name, device)?;
        }
    }
}

fn remove(parent: &Fd, name: &CStr, device: (u32, u32)) -> Call<()> {
    let status = sys::status_at(parent, name)?;
    if status.device() != device {
        return Err(Errno::EXDEV);
    }
    let is_directory = status.is(DIRECTORY);
    if is_directory {
        clear(&sys::open_directory_at(parent, name)?, device, None)?;
    }
    sys::remove_at(parent, name, is_directory)
}
