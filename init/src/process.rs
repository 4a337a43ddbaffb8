//! The `process` file: what to run, as whom and where. The build resolves everything; the init obeys.
//!
//! Version 1. Each item ends in one NUL byte, so that it can carry any byte an argument can have:
//!
//! | item | form |
//! |---|---|
//! | `eif-process-1` | literally |
//! | user | decimal, at most 4294967294 |
//! | group | decimal, at most 4294967294 |
//! | supplementary groups | decimals, comma-separated; may be empty |
//! | working directory | absolute |
//! | number of arguments | decimal, at least 1 |
//! | the arguments | the first one is what to execute |
//! | number of environment entries | decimal |
//! | the entries | `K=V` |
//!
//! Then the file ends. Decimals have no sign and no leading zero: one process has one file.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use core::ffi::CStr;
use core::fmt;

use crate::text::parse_decimal;

/// First item of the file.
pub const MAGIC: &[u8] = b"eif-process-1";

/// The process that the enclave runs, borrowed from the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Groups<'a>,
    /// Working directory, absolute.
    pub cwd: &'a CStr,
    /// Arguments; never empty. The first is looked up in `PATH` unless it has a slash.
    pub argv: Items<'a>,
    /// Environment, each `K=V`.
    pub env: Items<'a>,
}

impl<'a> Process<'a> {
    /// The first argument: what to execute.
    pub fn program(&self) -> &'a CStr {
        self.argv.into_iter().next().unwrap_or_default()
    }

    /// The value of an environment entry; the first one of that name, as `getenv`.
    pub fn variable(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.env.into_iter().find_map(|entry| entry.to_bytes().strip_prefix(name)?.strip_prefix(b"="))
    }
}

/// Supplementary group ids, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups<'a>(&'a [u8]);

impl<'a> Groups<'a> {
    /// The ids in file order.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.split(|byte| *byte == b',').filter_map(id)
    }
}

/// A counted run of NUL-ended items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Items<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Items<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for Items<'a> {
    type Item = &'a CStr;
    type IntoIter = ItemIter<'a>;

    fn into_iter(self) -> ItemIter<'a> {
        ItemIter(self.bytes)
    }
}

/// Iterator over [`Items`].
#[derive(Debug, Clone)]
pub struct ItemIter<'a>(&'a [u8]);

impl<'a> Iterator for ItemIter<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        let item = CStr::from_bytes_until_nul(self.0).ok()?;
        self.0 = self.0.get(item.to_bytes_with_nul().len()..)?;
        Some(item)
    }
}

/// What is wrong with a process file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It does not begin with [`MAGIC`].
    Magic,
    /// It ends inside the named item.
    Short(&'static str),
    /// The named item is not a decimal number in its range.
    Number(&'static str),
    /// The working directory is not absolute.
    Directory,
    /// There is no argument, so nothing to execute.
    NoProgram,
    /// An environment entry has no `=`.
    Entry,
    /// Bytes follow the last item.
    Trailing,
}

impl Broken {
    /// One line without the names of items; `Display` has them.
    pub fn reason(self) -> &'static str {
        match self {
            Broken::Magic => "it is not an eif-process-1 file",
            Broken::Short(_) => "it ends too early",
            Broken::Number(_) => "a number in it is malformed",
            Broken::Directory => "the working directory is not absolute",
            Broken::NoProgram => "it names no program",
            Broken::Entry => "an environment entry has no `=`",
            Broken::Trailing => "bytes follow its end",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Short(item) => write!(f, "process file: it ends within the {item}"),
            Broken::Number(item) => write!(f, "process file: the {item} is no decimal number in range"),
            other => write!(f, "process file: {}", other.reason()),
        }
    }
}

impl core::error::Error for Broken {}

/// Reads a whole process file.
///
/// # Errors
/// [`Broken`] unless every item is there, well-formed, and nothing follows.
pub fn parse(bytes: &[u8]) -> Result<Process<'_>, Broken> {
    let mut reader = Reader(bytes);
    if reader.item("first item").map(CStr::to_bytes) != Ok(MAGIC) {
        return Err(Broken::Magic);
    }
    let uid = reader.id("user")?;
    let gid = reader.id("group")?;
    let groups = groups(reader.item("supplementary groups")?)?;
    let cwd = reader.item("working directory")?;
    if !cwd.to_bytes().starts_with(b"/") {
        return Err(Broken::Directory);
    }
    let argv = reader.items("number of arguments", "arguments")?;
    if argv.is_empty() {
        return Err(Broken::NoProgram);
    }
    let env = reader.items("number of environment entries", "environment")?;
    if env.into_iter().any(|entry| !entry.to_bytes().contains(&b'=')) {
        return Err(Broken::Entry);
    }
    if !reader.0.is_empty() {
        return Err(Broken::Trailing);
    }
    Ok(Process { uid, gid, groups, cwd, argv, env })
}

/// 4294967295 is no id: the kernel's calls take it for "unchanged".
fn id(text: &[u8]) -> Option<u32> {
    u32::try_from(parse_decimal(text)?).ok().filter(|id| *id != u32::MAX)
}

fn groups(text: &CStr) -> Result<Groups<'_>, Broken> {
    let text = text.to_bytes();
    let valid = text.is_empty() || text.split(|byte| *byte == b',').all(|item| id(item).is_some());
    if valid { Ok(Groups(text)) } else { Err(Broken::Number("supplementary groups")) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn item(&mut self, name: &'static str) -> Result<&'a CStr, Broken> {
        let item = CStr::from_bytes_until_nul(self.0).map_err(|_| Broken::Short(name))?;
        self.0 = self.0.get(item.to_bytes_with_nul().len()..).unwrap_or_default();
        Ok(item)
    }

    fn id(&mut self, name: &'static str) -> Result<u32, Broken> {
        id(self.item(name)?.to_bytes()).ok_or(Broken::Number(name))
    }

    fn items(&mut self, number: &'static str, name: &'static str) -> Result<Items<'a>, Broken> {
        let count = parse_decimal(self.item(number)?.to_bytes()).and_then(|count| usize::try_from(count).ok());
        let count = count.ok_or(Broken::Number(number))?;
        let start = self.0;
        // An item has at least its NUL, so a count that the file cannot hold ends here after as many steps as it has bytes.
        for _ in 0..count {
            self.item(name)?;
        }
        let used = start.len().saturating_sub(self.0.len());
        Ok(Items { bytes: start.get(..used).unwrap_or_default(), count })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const WHOLE: &[u8] = b"eif-process-1\x001000\x00100\x0027,4\x00/srv\x002\x00sh\x00\x001\x00A=b=c\x00";

    fn items(items: Items<'_>) -> Vec<&[u8]> {
        items.into_iter().map(CStr::to_bytes).collect()
    }

    #[test]
    fn a_whole_file() {
        let process = parse(WHOLE).unwrap();
        assert_eq!((process.uid, process.gid, process.cwd), (1000, 100, c"/srv"));
        assert_eq!(process.groups.iter().collect::<Vec<_>>(), [27, 4]);
        assert_eq!(items(process.argv), [&b"sh"[..], b""]);
        assert_eq!(items(process.env), [b"A=b=c"]);
        assert_eq!(process.program(), c"sh");
        assert_eq!(process.variable(b"A"), Some(&b"b=c"[..]));
        assert_eq!(process.variable(b"A=b"), Some(&b"c"[..]));
        assert_eq!(process.variable(b"B"), None);
    }

    #[test]
    fn no_groups_and_no_environment() {
        let process = parse(b"eif-process-1\x000\x000\x00\x00/\x001\x00a\nb\x000\x00").unwrap();
        assert_eq!(process.groups.iter().count(), 0);
        assert_eq!((process.argv.len(), process.env.len()), (1, 0));
        assert_eq!(process.program(), c"a\nb");
    }

    #[test]
    fn every_cut_is_refused() {
        for end in 0..WHOLE.len() {
            assert!(parse(&WHOLE[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let cases: [(&[u8], Broken); 12] = [
            (b"", Broken::Magic),
            (b"eif-process-2\x00", Broken::Magic),
            (b"eif-process-1\x00-1\x00", Broken::Number("user")),
            (b"eif-process-1\x000\x004294967295\x00", Broken::Number("group")),
            (b"eif-process-1\x000\x000\x001,,2\x00", Broken::Number("supplementary groups")),
            (b"eif-process-1\x000\x000\x00", Broken::Short("supplementary groups")),
            (b"eif-process-1\x000\x000\x00\x00srv\x00", Broken::Directory),
            (b"eif-process-1\x000\x000\x00\x00/\x000\x000\x00", Broken::NoProgram),
            (b"eif-process-1\x000\x000\x00\x00/\x0001\x00", Broken::Number("number of arguments")),
            (b"eif-process-1\x000\x000\x00\x00/\x0018446744073709551615\x00a\x00", Broken::Short("arguments")),
            (b"eif-process-1\x000\x000\x00\x00/\x001\x00a\x001\x00A\x00", Broken::Entry),
            (b"eif-process-1\x000\x000\x00\x00/\x001\x00a\x000\x00\x00", Broken::Trailing),
        ];
        for (bytes, fault) in cases {
            assert_eq!(parse(bytes), Err(fault));
            assert!(!std::format!("{fault}").contains('\n'));
        }
    }
}
