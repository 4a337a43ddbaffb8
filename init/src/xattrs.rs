//! The `xattrs` file: extended attributes of the image, which newc cannot carry (file capabilities above all).
//!
//! It stands beside `rootfs` in ramdisk 2 and is measured with it; a ramdisk without it has none. Version 1:
//!
//! - `eif-xattrs-1` and a NUL;
//! - records of: path, NUL, attribute name, NUL, length of the value in decimal, NUL, that many bytes of value;
//! - then the file ends.
//!
//! A path is absolute in the image (`/usr/bin/ping`) and names an entry of the tree, never a way through a symbolic
//! link. Records are sorted by path, then by name, both as bytes, and no two are equal: one tree has one file.

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
pub const MAGIC: &[u8] = b"eif-xattrs-1";

/// One attribute of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Absolute path in the image.
    pub path: &'a CStr,
    /// The attribute's full name (`security.capability`).
    pub name: &'a CStr,
    /// Its value, any bytes.
    pub value: &'a [u8],
}

/// What is wrong with an xattrs file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It does not begin with [`MAGIC`].
    Magic,
    /// It ends inside a record.
    Short,
    /// A length is no decimal number.
    Length,
    /// A path is not absolute, or a name has no namespace (`user.`, `security.`).
    Name,
    /// A record does not sort behind the one before it.
    Order,
}

impl Broken {
    /// One line.
    pub fn reason(self) -> &'static str {
        match self {
            Broken::Magic => "it is not an eif-xattrs-1 file",
            Broken::Short => "it ends within a record",
            Broken::Length => "the length of a value is no decimal number",
            Broken::Name => "a path is not absolute or an attribute has no namespace",
            Broken::Order => "its records are not sorted",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xattrs file: {}", self.reason())
    }
}

impl core::error::Error for Broken {}

/// The attributes of a file, in order. After an error the iterator ends.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    last: Option<(&'a CStr, &'a CStr)>,
}

/// Begins reading an xattrs file.
///
/// # Errors
/// [`Broken::Magic`]; the records are checked as they are read.
pub fn parse(bytes: &[u8]) -> Result<Attributes<'_>, Broken> {
    let rest = bytes.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(b"\0")).ok_or(Broken::Magic)?;
    Ok(Attributes { rest, last: None })
}

impl<'a> Attributes<'a> {
    fn item(&mut self) -> Result<&'a CStr, Broken> {
        let item = CStr::from_bytes_until_nul(self.rest).map_err(|_| Broken::Short)?;
        self.rest = self.rest.get(item.to_bytes_with_nul().len()..).unwrap_or_default();
        Ok(item)
    }

    fn record(&mut self) -> Result<Attribute<'a>, Broken> {
        let (path, name) = (self.item()?, self.item()?);
        let length = parse_decimal(self.item()?.to_bytes()).ok_or(Broken::Length)?;
        let (value, rest) =
            usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length)).ok_or(Broken::Short)?;
        if !path.to_bytes().starts_with(b"/") || !name.to_bytes().contains(&b'.') {
            return Err(Broken::Name);
        }
        if self.last.is_some_and(|last| last >= (path, name)) {
            return Err(Broken::Order);
        }
        self.rest = rest;
        self.last = Some((path, name));
        Ok(Attribute { path, name, value })
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const TWO: &[u8] = b"eif-xattrs-1\0/bin/ping\0security.capability\x004\0\x01\0\0\x02/srv\0user.a\x000\0";

    fn read(bytes: &[u8]) -> Result<Vec<Attribute<'_>>, Broken> {
        parse(bytes)?.collect()
    }

    #[test]
    fn two_records() {
        let all = read(TWO).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].path, all[0].name, all[0].value),
            (c"/bin/ping", c"security.capability", &b"\x01\0\0\x02"[..])
        );
        assert_eq!((all[1].path, all[1].name, all[1].value), (c"/srv", c"user.a", &b""[..]));
        assert!(read(b"eif-xattrs-1\0").unwrap().is_empty());
    }

    #[test]
    fn a_cut_is_refused_or_ends_between_records() {
        for end in 0..TWO.len() {
            let whole = read(&TWO[..end]).is_ok_and(|all| all.len() == 2);
            assert!(!whole, "{end} bytes");
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let cases: [(&[u8], Broken); 7] = [
            (b"eif-xattrs-1", Broken::Magic),
            (b"eif-xattrs-1\0/a", Broken::Short),
            (b"eif-xattrs-1\0/a\0user.b\x002\0x", Broken::Short),
            (b"eif-xattrs-1\0/a\0user.b\x00x\0", Broken::Length),
            (b"eif-xattrs-1\0a\0user.b\x000\0", Broken::Name),
            (b"eif-xattrs-1\0/a\0user\x000\0", Broken::Name),
            (b"eif-xattrs-1\0/a\0user.b\x000\0/a\0user.b\x000\0", Broken::Order),
        ];
        for (bytes, fault) in cases {
            assert_eq!(read(bytes), Err(fault));
        }
    }
}
