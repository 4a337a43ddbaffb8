//! What the parent instance has for enclaves, read from /sys: the pool of CPUs, its NUMA node, free huge pages.
//!
//! The pool's CPUs are offline, so /sys does not tell their cores; those that are online do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::code::SET_CPUS;
use super::error::Error;
use crate::launch::nitro::{self, Device, Errno};

/// The device's name below /dev.
const DEVICE: &str = "nitro_enclaves";
/// The pool of CPUs, below /sys: a list as in `1,3,5-7`.
const POOL: &str = "module/nitro_enclaves/parameters/ne_cpus";
/// Where the firmware of an EC2 instance tells its id, below /sys.
const INSTANCE: &str = "devices/virtual/dmi/id/board_asset_tag";
/// Where /sys tells of huge pages, whatever their node.
const HUGE_PAGES: &str = "kernel/mm/hugepages";
/// More CPUs than any machine has: a range in /sys is not trusted to be short.
const MAX_CPUS: u32 = 1 << 16;

/// The parent instance. Its folders are parameters so that tests can have others.
#[derive(Debug, Clone)]
pub struct Host {
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// Free huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// Bytes of a page.
    pub size: u64,
    /// How many are free, and promised to nobody.
    pub free: u64,
}

impl Host {
    /// A host with its /sys and /dev there.
    pub fn at(sys: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into(), dev: dev.into() }
    }

    /// Where the device is, or should be.
    pub fn device(&self) -> PathBuf {
        self.dev.join(DEVICE)
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::Open`].
    pub fn open(&self) -> Result<Device, Error> {
        let path = self.device();
        match fs::File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(Device::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoDevice { path }),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                Err(Error::Open { path, errno })
            }
        }
    }

    /// The id of the EC2 instance; zeros where this is none, as in nitro-cli.
    pub fn instance(&self) -> String {
        let tag = fs::read_to_string(self.sys.join(INSTANCE)).unwrap_or_default();
        let known = tag.trim().strip_prefix("i-").filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        format!("i-{}", known.unwrap_or("0000000000000000"))
    }

    /// The CPUs that enclaves may have, whether one has them or not, in the list's order.
    ///
    /// # Errors
    /// The module is not loaded, the pool is empty, or it is no list.
    pub fn pool(&self) -> Result<Vec<u32>, Error> {
        let path = self.sys.join(POOL);
        let text = fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))?;
        let pool = parse_list(&text).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is no list of CPUs", text.trim()));
            Error::Io { what: format!("reading {}", path.display()), source }
        })?;
        if pool.is_empty() {
            let message = "the pool of CPUs for enclaves is empty".into();
            return Err(Error::Refused { code: "E-nitro-no-cpus", message, help: vec![SET_CPUS.into()] });
        }
        Ok(pool)
    }

    /// Threads of a core, as CPU 0 tells, which is never in the pool. 1 where nothing is said.
    pub fn threads_per_core(&self) -> u32 {
        let siblings = self.list("devices/system/cpu/cpu0/topology/thread_siblings_list");
        siblings.and_then(|list| u32::try_from(list.len()).ok()).map_or(1, |threads| threads.max(1))
    }

    /// The CPUs of a core, by one of them; `None` when that one is offline or unknown.
    pub fn core_of(&self, cpu: u32) -> Option<Vec<u32>> {
        self.list(&format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
    }

    /// The NUMA node of a CPU, online or not, on a machine with several nodes.
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        let nodes = self.nodes();
        if nodes.len() < 2 {
            return None;
        }
        nodes.into_iter().find(|node| self.sys.join(format!("devices/system/cpu/cpu{cpu}/node{node}")).exists())
    }

    /// Free huge pages that the driver takes, of this node or of all, the largest first.
    ///
    /// # Errors
    /// The kernel has no huge pages at all, or /sys cannot be read.
    pub fn huge_pages(&self, node: Option<u32>) -> Result<Vec<Supply>, Error> {
        let folder = self.sys.join(HUGE_PAGES);
        let reading = || Error::io(format!("reading {}", folder.display()));
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(reading())? {
            let name = entry.map_err(reading())?.file_name();
            let Some(size) = name.to_str().and_then(page_size).filter(|size| *size >= nitro::LEAST_PAGE) else {
                continue;
            };
            let folder = folder.join(&name);
            let promised = number(&folder.join("resv_hugepages")).map_err(reading())?;
            // Below zero while an enclave has pages whose launcher has unmapped them or was killed: see
            // `nitro::Running`. Nobody has been promised pages then.
            let promised = if promised.cast_signed() < 0 { 0 } else { promised };
            let mut free = number(&folder.join("free_hugepages")).map_err(reading())?.saturating_sub(promised);
            if let Some(node) = node {
                let file = self.node_folder(node).join("hugepages").join(&name).join("free_hugepages");
                free = free.min(number(&file).map_err(Error::io(format!("reading {}", file.display())))?);
            }
            found.push(Supply { size, free });
        }
        found.sort_by_key(|supply| std::cmp::Reverse(supply.size));
        Ok(found)
    }

    /// The file that says how many 2 MiB pages there shall be.
    pub fn pages_file(&self, node: Option<u32>) -> PathBuf {
        let folder = match node {
            Some(node) => self.node_folder(node).join("hugepages"),
            None => self.sys.join(HUGE_PAGES),
        };
        folder.join("hugepages-2048kB/nr_hugepages")
    }

    fn node_folder(&self, node: u32) -> PathBuf {
        self.sys.join(format!("devices/system/node/node{node}"))
    }

    fn nodes(&self) -> Vec<u32> {
        self.list("devices/system/node/online").unwrap_or_default()
    }

    fn list(&self, path: &str) -> Option<Vec<u32>> {
        parse_list(&fs::read_to_string(self.sys.join(path)).ok()?)
    }
}

/// `hugepages-2048kB` -> 2097152.
fn page_size(name: &str) -> Option<u64> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("`{}`", text.trim())))
}

/// The kernel's list of numbers: `0-3,8`. `None` for anything else.
fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// A list for people: `1,3,5`.
pub fn show(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::Refusal;

    /// A tree of files: path, contents.
    pub fn tree(files: &[(&str, &str)]) -> (TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let host = Host::at(folder.path(), folder.path().join("dev"));
        (folder, host)
    }

    /// Two nodes, two threads a core; the pool is on node 1.
    fn two_nodes() -> (TempDir, Host) {
        tree(&[
            (POOL, "5,7\n"),
            ("devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2\n"),
            ("devices/system/cpu/cpu5/node1/x", ""),
            ("devices/system/cpu/cpu7/node1/x", ""),
            ("devices/system/cpu/cpu0/node0/x", ""),
            ("devices/system/node/online", "0-1\n"),
            ("devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "100\n"),
            ("devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages", "1\n"),
            ("kernel/mm/hugepages/hugepages-64kB/free_hugepages", "1000\n"),
            ("kernel/mm/hugepages/hugepages-64kB/resv_hugepages", "0\n"),
            ("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "300\n"),
            ("kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "250\n"),
            ("kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "3\n"),
            // 32 pages of an enclave whose launcher has let go of them.
            ("kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "18446744073709551584\n"),
        ])
    }

    #[test]
    fn the_pool_its_node_and_its_pages() {
        let (_folder, host) = two_nodes();
        assert_eq!(host.pool().unwrap(), [5, 7]);
        assert_eq!((host.node_of(5), host.node_of(0), host.node_of(9)), (Some(1), Some(0), None));
        assert_eq!(host.threads_per_core(), 2);
        assert_eq!((host.core_of(0), host.core_of(5)), (Some(vec![0, 2]), None));
        let sizes = |node| host.huge_pages(node).unwrap().iter().map(|s| (s.size >> 20, s.free)).collect::<Vec<_>>();
        assert_eq!(sizes(Some(1)), [(1024, 1), (2, 50)], "what is promised is not free, 64 KiB are too small");
        assert_eq!(sizes(None), [(1024, 3), (2, 50)]);
        assert!(host.pages_file(Some(1)).ends_with("node/node1/hugepages/hugepages-2048kB/nr_hugepages"));
    }

    #[test]
    fn an_empty_pool_names_the_file_and_the_command() {
        let (_folder, host) = tree(&[(POOL, "\n")]);
        let error = host.pool().unwrap_err();
        assert_eq!(error.code(), "E-nitro-no-cpus");
        assert!(error.help()[0].contains("/etc/nitro_enclaves/allocator.yaml"), "{:?}", error.help());
        assert!(error.help()[0].contains("systemctl restart nitro-enclaves-allocator"), "{:?}", error.help());
    }

    #[test]
    fn a_missing_module_and_a_broken_pool_are_errors() {
        let (_folder, host) = tree(&[]);
        assert_eq!(host.pool().unwrap_err().code(), "E-io");
        let (_folder, host) = tree(&[(POOL, "1-")]);
        assert!(host.pool().unwrap_err().to_string().contains("`1-` is no list of CPUs"));
    }

    #[test]
    fn no_device_a_closed_one_and_a_wrong_one() {
        let (folder, host) = tree(&[("dev/x", "")]);
        let missing = host.open().unwrap_err();
        assert!(matches!(missing, Error::NoDevice { .. }), "{missing}");
        assert!(missing.help().iter().any(|line| line.contains("modprobe nitro_enclaves")));
        let denied = Error::Open { path: host.device(), errno: libc::EACCES };
        assert_eq!(denied.code(), "E-nitro-permission");
        assert!(denied.help()[0].contains("usermod -aG ne"), "{:?}", denied.help());
        std::os::unix::fs::symlink("/dev/null", folder.path().join("dev/nitro_enclaves")).unwrap();
        let error = host.open().unwrap().create().map_err(Error::driver("creating the enclave")).unwrap_err();
        assert_eq!(error.code(), "E-nitro-device");
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse_list("1,3\n"), Some(vec![1, 3]));
        assert_eq!(parse_list("0-2,8-8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list(" \n"), Some(vec![]));
        for bad in ["x", "3-1", "1-", "-1", "0-4294967295", "1-3:1/2"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }
}
