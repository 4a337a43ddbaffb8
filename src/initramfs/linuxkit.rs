//! The ramdisks of nitro-cli, whose PCRs others have in their policies: as linuxkit writes them from `docker export`.
//!
//! Sources: linuxkit `src/cmd/linuxkit/moby` (`ImageTar`, the list of replaced files, the tar to cpio writer) at 1.5.2
//! with the patches that AWS builds it with, and what nitro-cli 1.5.0 gives it (`enclave_build`): ramdisk 1 is the init
//! and nsm.ko, ramdisk 2 the exported image below `rootfs`, then fixed directories, then `cmd` and `env`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::newc::{Header, Writer, file_type};
use crate::Progress;
use crate::rootfs::{Inode, InodeId, Kind, Spools, Tree};

/// 2017-04-18 16:30:00 UTC, the time of all that linuxkit makes itself.
const MADE: i64 = 1_492_533_000;
/// What linuxkit puts into etc/hosts.
const HOSTS: &[u8] = b"127.0.0.1       localhost\n::1     localhost ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\n\
    ff00::0 ip6-mcastprefix\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n";
const RESOLV_CONF: &[u8] = b"/run/resolvconf/resolv.conf";
/// Directories that get the time of linuxkit's own.
const DATED: [&[u8]; 6] = [b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"];
/// What linuxkit adds behind the image where the image has a directory of the name.
const ADDED: [(&[u8], u32, &[u8]); 3] = [
    (b"etc/hosts", file_type::FILE | 0o644, HOSTS),
    (b"etc/mtab", file_type::SYMLINK | 0o755, b"/proc/mounts"),
    (b"etc/resolv.conf", file_type::SYMLINK | 0o644, RESOLV_CONF),
];
/// Directories, 0755 and root's, that nitro-cli puts behind the image, whatever the image has there.
pub const REPEATED: [&str; 6] = ["dev", "run", "sys", "var", "proc", "tmp"];
/// Times that eight characters can say: a minus sign is one of them.
const TIMES: std::ops::Range<i64> = -0x0fff_ffff..0x1_0000_0000;

/// Writes ramdisk 1; gives the number of its entries.
///
/// # Errors
/// What `out` gives.
pub fn write_bootstrap(init: &[u8], module: &[u8], out: &mut impl Write) -> io::Result<u64> {
    let mut writer = Writer::linuxkit(out);
    made(&mut writer, b"dev", file_type::DIRECTORY | 0o755, b"")?;
    made(&mut writer, b"init", file_type::FILE | 0o755, init)?;
    made(&mut writer, b"nsm.ko", file_type::FILE | 0o755, module)?;
    writer.finish().map(|(_, entries)| entries)
}

/// What runs, and in which file system.
#[derive(Debug, Clone, Copy)]
pub struct Exported<'a> {
    /// The file system of a container that was created.
    pub tree: &'a Tree,
    /// The contents of its files.
    pub spools: &'a Spools,
    /// Directories whose time nitro-cli takes from a clock; they are written with time zero.
    pub clocks: &'a BTreeSet<InodeId>,
    /// The lines of `cmd`.
    pub cmd: &'a [String],
    /// The lines of `env`.
    pub env: &'a [String],
}

/// What becomes of a name of the image.
enum Fate {
    Dropped,
    Hosts,
    ResolvConf,
    /// With the time of linuxkit's own.
    Dated,
    Kept,
}

fn fate(path: &[u8], is_directory: bool) -> Fate {
    match path {
        _ if is_directory && DATED.contains(&path) => Fate::Dated,
        _ if is_directory => Fate::Kept,
        b".dockerenv" | b"Dockerfile" | b"dev/console" | b"etc/hostname" => Fate::Dropped,
        b"etc/hosts" => Fate::Hosts,
        b"etc/resolv.conf" => Fate::ResolvConf,
        b"etc/mtab" => Fate::Dated,
        _ => Fate::Kept,
    }
}

impl Exported<'_> {
    /// Every name with what becomes of it, in the order of the archive.
    fn each(&self, mut take: impl FnMut(&[u8], InodeId, &Inode, Fate) -> io::Result<()>) -> io::Result<()> {
        let mut walk = self.tree.walk();
        while let Some((path, entry)) = walk.next() {
            let Some(inode) = self.tree.get(entry.inode) else { continue };
            take(path, entry.inode, inode, fate(path, matches!(inode.kind, Kind::Directory(_))))?;
        }
        Ok(())
    }

    /// The names of all directories whose time in the archive is a clock's, in the order of the archive.
    pub fn unstable(&self) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let _ = self.each(|path, id, _, fate| {
            if matches!(fate, Fate::Kept) && self.clocks.contains(&id) {
                names.push(path.to_vec());
            }
            Ok(())
        });
        names
    }

    /// How many names become symlinks because their inode has an earlier one.
    pub fn linked(&self) -> usize {
        let mut seen = BTreeSet::new();
        let mut count = 0_usize;
        let _ = self.each(|_, id, inode, _| {
            let several = inode.links > 1 && !matches!(inode.kind, Kind::Directory(_));
            count = count.saturating_add(usize::from(several && !seen.insert(id)));
            Ok(())
        });
        count
    }

    /// The first name whose time needs more than eight characters, which shifts all that follows in the archive.
    pub fn ruined(&self) -> Option<(Vec<u8>, i64)> {
        let mut first = None;
        let _ = self.each(|path, id, inode, fate| {
            let time = inode.metadata.mtime;
            if first.is_none() && matches!(fate, Fate::Kept) && !self.clocks.contains(&id) && !TIMES.contains(&time) {
                first = Some((path.to_vec(), time));
            }
            Ok(())
        });
        first
    }
}

/// Writes ramdisk 2; gives the number of its entries, the trailer not counted.
///
/// # Errors
/// What `out` or a spool gives.
pub fn write_application(app: &Exported, out: &mut impl Write, progress: &dyn Progress) -> io::Result<u64> {
    let mut archive = Archive { writer: Writer::linuxkit(out), app, first: BTreeMap::new(), progress };
    made(&mut archive.writer, b"rootfs", file_type::DIRECTORY | 0o755, b"")?;
    app.each(|path, id, inode, fate| archive.name(path, id, inode, fate))?;
    for (path, mode, body) in ADDED {
        if app.tree.at(path).is_some_and(|there| app.tree.directory(there).is_some()) {
            made(&mut archive.writer, &below_rootfs(path), mode, body)?;
        }
    }
    made(&mut archive.writer, b"rootfs", file_type::DIRECTORY | 0o755, b"")?;
    for name in REPEATED {
        made(&mut archive.writer, &below_rootfs(name.as_bytes()), file_type::DIRECTORY | 0o755, b"")?;
    }
    for (name, items) in [("cmd", app.cmd), ("env", app.env)] {
        let lines: String = items.iter().flat_map(|item| [item, "\n"]).collect();
        made(&mut archive.writer, name.as_bytes(), file_type::FILE | 0o644, lines.as_bytes())?;
    }
    archive.writer.finish().map(|(_, entries)| entries)
}

/// An entry of linuxkit's own: root's.
fn made<W: Write>(writer: &mut Writer<W>, name: &[u8], mode: u32, body: &[u8]) -> io::Result<()> {
    let links = if mode & file_type::MASK == file_type::DIRECTORY { 2 } else { 1 };
    let header = Header { inode: writer.inode(), mode, links, mtime: MADE, ..Header::default() };
    writer.entry(name, &header, body)
}

fn below_rootfs(path: &[u8]) -> Vec<u8> {
    [b"rootfs/", path].concat()
}

struct Archive<'a, W> {
    writer: Writer<W>,
    app: &'a Exported<'a>,
    /// The first name of each inode that has several.
    first: BTreeMap<InodeId, Vec<u8>>,
    progress: &'a dyn Progress,
}

impl<W: Write> Archive<'_, W> {
    fn name(&mut self, path: &[u8], id: InodeId, inode: &Inode, fate: Fate) -> io::Result<()> {
        let is_directory = matches!(inode.kind, Kind::Directory(_));
        let earlier = self.first.get(&id).map(|first| relative(path, first));
        if inode.links > 1 && !is_directory {
            self.first.entry(id).or_insert_with(|| path.to_vec());
        }
        let name = below_rootfs(path);
        let mtime = match fate {
            Fate::Dropped => return Ok(()),
            Fate::Hosts => return made(&mut self.writer, &name, file_type::FILE | 0o755, HOSTS),
            Fate::ResolvConf => return made(&mut self.writer, &name, file_type::SYMLINK | 0o755, RESOLV_CONF),
            Fate::Dated => MADE,
            Fate::Kept if self.app.clocks.contains(&id) => 0,
            Fate::Kept => inode.metadata.mtime,
        };
        match earlier {
            Some(target) => {
                let header = self.header(inode, file_type::SYMLINK, mtime);
                self.writer.entry(&name, &header, &target)
            }
            None => self.node(&name, inode, mtime),
        }
    }

    fn node(&mut self, name: &[u8], inode: &Inode, mtime: i64) -> io::Result<()> {
        let bits = match &inode.kind {
            Kind::Directory(_) => file_type::DIRECTORY,
            Kind::File(_) => file_type::FILE,
            Kind::Symlink(_) => file_type::SYMLINK,
            Kind::Character(..) => file_type::CHARACTER,
            Kind::Block(..) => file_type::BLOCK,
            Kind::Fifo => file_type::FIFO,
        };
        let header = self.header(inode, bits, mtime);
        match &inode.kind {
            Kind::Directory(_) => self.writer.entry(&[name, b"/"].concat(), &Header { links: 2, ..header }, b""),
            Kind::File(content) => {
                self.progress.advance(content.size);
                self.writer.file(name, &header, content.size, &mut self.app.spools.read(content))
            }
            Kind::Symlink(target) => self.writer.entry(name, &header, target),
            _ => self.writer.entry(name, &header, b""),
        }
    }

    fn header(&mut self, inode: &Inode, bits: u32, mtime: i64) -> Header {
        let device = match inode.kind {
            Kind::Character(major, minor) | Kind::Block(major, minor) => (major, minor),
            _ => (0, 0),
        };
        let metadata = &inode.metadata;
        let mode = bits | u32::from(metadata.mode);
        Header { inode: self.writer.inode(), mode, uid: metadata.uid, gid: metadata.gid, links: 1, mtime, device }
    }
}

/// The way from the directory of one name to another name.
fn relative(name: &[u8], to: &[u8]) -> Vec<u8> {
    let mut from: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    from.pop();
    let to: Vec<&[u8]> = to.split(|byte| *byte == b'/').collect();
    let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let up = from.iter().skip(shared).map(|_| &b".."[..]);
    up.chain(to.iter().skip(shared).copied()).collect::<Vec<_>>().join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_become_ways_to_the_first_name() {
        for (name, first, way) in [
            ("b", "a", "a"),
            ("x/b", "a", "../a"),
            ("x/y/z", "x/a/b", "../a/b"),
            ("x/y", "x/a", "a"),
            ("a/b", "a-b", "../a-b"),
        ] {
            assert_eq!(relative(name.as_bytes(), first.as_bytes()), way.as_bytes(), "{name}");
        }
    }

    #[test]
    fn linuxkits_hosts_file_has_160_bytes() {
        assert_eq!(HOSTS.len(), 160);
    }
}
