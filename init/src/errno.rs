//! Error numbers of Linux, by the names and words that the console line uses.
//!
//! The numbers are `include/uapi/asm-generic/errno-base.h` and `errno.h`, which both architectures share.

/// An error number as the kernel returned it: positive, below 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The name (`ENOENT`); `None` for a number that no call of the init returns.
    pub fn name(self) -> Option<&'static str> {
        TABLE.iter().find(|row| row.0 == self.0).map(|row| row.1)
    }

    /// What it means, in a few words.
    pub fn reason(self) -> &'static str {
        TABLE.iter().find(|row| row.0 == self.0).map_or("failed", |row| row.2)
    }
}

macro_rules! numbers {
    ($($name:ident = $number:literal, $reason:literal;)*) => {
        #[allow(missing_docs, reason = "each is named as C names it, and its words stand beside it")]
        impl Errno {
            $(pub const $name: Errno = Errno($number);)*
        }
        const TABLE: &[(i32, &str, &str)] = &[$(($number, stringify!($name), $reason)),*];
    };
}

numbers! {
    EPERM = 1, "not permitted";
    ENOENT = 2, "no such file";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted";
    EIO = 5, "input or output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "arguments and environment are too long";
    ENOEXEC = 8, "not a program this kernel can run";
    EBADF = 9, "bad descriptor";
    ECHILD = 10, "no child";
    EAGAIN = 11, "not available now";
    ENOMEM = 12, "not enough memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists already";
    EXDEV = 18, "another file system";
    ENODEV = 19, "no such device, or not in this kernel";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in the system";
    EMFILE = 24, "too many open files";
    ENOTTY = 25, "not a terminal, or no such operation on it";
    ETXTBSY = 26, "file is being written";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    EPIPE = 32, "broken pipe";
    ERANGE = 34, "out of range";
    ENAMETOOLONG = 36, "name too long";
    ENOSYS = 38, "not in this kernel";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many symbolic links";
    ENODATA = 61, "no data";
    EPROTO = 71, "protocol error";
    EBADMSG = 74, "bad message";
    EOVERFLOW = 75, "value too large";
    ENOTSOCK = 88, "not a socket";
    EPROTONOSUPPORT = 93, "protocol not supported";
    EOPNOTSUPP = 95, "not supported";
    EAFNOSUPPORT = 97, "address family not in this kernel";
    EADDRNOTAVAIL = 99, "no such address";
    ENETDOWN = 100, "network is down";
    ENETUNREACH = 101, "network is unreachable";
    ECONNABORTED = 103, "connection aborted";
    ECONNRESET = 104, "connection reset";
    ENOBUFS = 105, "no buffer space";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
    EHOSTUNREACH = 113, "host is unreachable";
    EALREADY = 114, "already in progress";
    EINPROGRESS = 115, "in progress";
    ENOKEY = 126, "no key for the signature";
    EKEYREJECTED = 129, "signature rejected";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_kernels_names() {
        assert_eq!(Errno(2).name(), Some("ENOENT"));
        assert_eq!(Errno::ETIMEDOUT, Errno(110));
        assert_eq!(Errno(13).reason(), "permission denied");
        assert_eq!(Errno(4000).name(), None);
    }

    #[test]
    fn words_are_one_line_of_lower_case() {
        for (number, name, reason) in TABLE {
            assert!((1..4096).contains(number) && name.starts_with('E'));
            assert!(!reason.is_empty() && !reason.ends_with('.') && !reason.contains('\n'), "{name}");
        }
    }
}
