//! Where `execvp` would find a program: the candidates, and which error counts in the end.
//!
//! POSIX and glibc: a name with a slash is taken as it is; else each element of `PATH` in order, an empty element
//! being the working directory. "Not here" goes on, "not allowed" goes on but is remembered, all else ends the search.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use core::ffi::CStr;

use crate::errno::Errno;

/// `PATH` where the environment has none: what Docker sets (moby, oci/defaults.go). The build writes it into the process
/// file; the init falls back to it for a file without.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest path a system call takes, with its NUL.
pub const PATH_MAX: usize = 4096;

/// The paths to try, one by one.
pub struct Candidates<'a> {
    name: &'a [u8],
    path: Option<&'a [u8]>,
}

impl<'a> Candidates<'a> {
    /// All candidates for `name` in a colon-separated `path`.
    pub fn new(name: &'a [u8], path: &'a [u8]) -> Self {
        Self { name, path: if name.is_empty() { None } else { Some(path) } }
    }

    /// The next candidate, written to `buffer`. One too long for the buffer is [`Errno::ENAMETOOLONG`].
    pub fn next<'b>(&mut self, buffer: &'b mut [u8; PATH_MAX]) -> Option<Result<&'b CStr, Errno>> {
        let path = self.path.take()?;
        if self.name.contains(&b'/') {
            return Some(join(b"", self.name, buffer));
        }
        let mut parts = path.splitn(2, |byte| *byte == b':');
        let directory = parts.next().unwrap_or_default();
        self.path = parts.next();
        Some(join(directory, self.name, buffer))
    }
}

/// `directory/name` as a path for a system call, written to `buffer`.
///
/// # Errors
/// [`Errno::ENAMETOOLONG`].
pub fn join<'b>(directory: &[u8], name: &[u8], buffer: &'b mut [u8; PATH_MAX]) -> Result<&'b CStr, Errno> {
    let slash: &[u8] = if directory.is_empty() || directory.ends_with(b"/") { b"" } else { b"/" };
    let mut slots = buffer.iter_mut();
    for byte in directory.iter().chain(slash).chain(name).chain(b"\0") {
        *slots.next().ok_or(Errno::ENAMETOOLONG)? = *byte;
    }
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::ENAMETOOLONG)
}

/// What the failed attempts add up to.
#[derive(Debug)]
pub struct Verdict(Errno);

impl Verdict {
    /// Before the first attempt: nothing found.
    pub fn new() -> Self {
        Self(Errno::ENOENT)
    }

    /// Takes one attempt's error; true if the search goes on.
    pub fn goes_on(&mut self, errno: Errno) -> bool {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ETIMEDOUT => true,
            Errno::EACCES => {
                self.0 = errno;
                true
            }
            other => {
                self.0 = other;
                false
            }
        }
    }

    /// The error to report.
    pub fn errno(&self) -> Errno {
        self.0
    }
}

impl Default for Verdict {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn all(name: &str, path: &str) -> Vec<String> {
        let mut candidates = Candidates::new(name.as_bytes(), path.as_bytes());
        let mut buffer = [0; PATH_MAX];
        let mut found = Vec::new();
        while let Some(next) = candidates.next(&mut buffer) {
            found.push(next.unwrap().to_str().unwrap().into());
        }
        found
    }

    #[test]
    fn elements_in_order_and_an_empty_one_is_the_working_directory() {
        assert_eq!(all("sh", "/usr/bin:/bin/::x"), ["/usr/bin/sh", "/bin/sh", "sh", "x/sh"]);
        assert_eq!(all("sh", ""), ["sh"]);
        assert_eq!(all("sh", "/bin:"), ["/bin/sh", "sh"]);
    }

    #[test]
    fn a_slash_needs_no_path_and_an_empty_name_is_nowhere() {
        assert_eq!(all("./run", "/bin:/usr/bin"), ["./run"]);
        assert!(all("", "/bin").is_empty());
    }

    #[test]
    fn the_longest_path_fits_and_one_more_does_not() {
        let mut buffer = [0; PATH_MAX];
        let name = "n".repeat(PATH_MAX - 3);
        assert!(Candidates::new(name.as_bytes(), b"/").next(&mut buffer).unwrap().is_ok());
        let longer = Candidates::new(name.as_bytes(), b"/b").next(&mut buffer).unwrap();
        assert_eq!(longer, Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn a_missing_permission_outlives_a_missing_file() {
        let mut verdict = Verdict::new();
        assert!(verdict.goes_on(Errno::ENOENT) && verdict.goes_on(Errno::EACCES) && verdict.goes_on(Errno::ENOTDIR));
        assert_eq!(verdict.errno(), Errno::EACCES);
        assert!(!verdict.goes_on(Errno::ENOEXEC));
        assert_eq!(verdict.errno(), Errno::ENOEXEC);
    }
}
