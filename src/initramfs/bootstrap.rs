//! Ramdisk 1: `dev`, `init`, and the kernel modules that the init loads. AWS's has the same names.

use std::io::{self, Write};

use super::newc::{Header, Writer, file_type};

/// What boots.
#[derive(Debug, Clone)]
pub struct Bootstrap<'a> {
    /// The init's bytes.
    pub init: &'a [u8],
    /// Kernel modules: file name (`nsm.ko`) and bytes. The init loads them in the byte order of their names.
    pub modules: &'a [(String, Vec<u8>)],
}

/// Writes ramdisk 1; gives the number of its entries.
///
/// # Errors
/// What `out` gives.
pub fn write_bootstrap(bootstrap: &Bootstrap, out: &mut impl Write) -> io::Result<u64> {
    let mut writer = Writer::new(out);
    let mut files: Vec<(&str, &[u8])> = vec![("init", bootstrap.init)];
    files.extend(bootstrap.modules.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    files.sort_unstable();
    // The kernel opens /dev/console for the init before anything is mounted.
    let inode = writer.inode();
    let dev = Header { inode, mode: file_type::DIRECTORY | 0o755, links: 2, ..Header::default() };
    writer.entry(b"dev", &dev, b"")?;
    for (name, bytes) in files {
        let inode = writer.inode();
        let header = Header { inode, mode: file_type::FILE | 0o755, links: 1, ..Header::default() };
        writer.entry(name.as_bytes(), &header, bytes)?;
    }
    writer.finish().map(|(_, entries)| entries)
}
