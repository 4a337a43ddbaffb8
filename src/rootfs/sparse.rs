//! Sparse files in PAX tars: GNU tar's formats 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::io::{self, BufRead, Read};

use super::pax::{Records, number};
use super::tree::{Extent, Piece};

/// A file may have this many pieces: GNU tar writes at most a few thousand.
const PIECES: usize = 1 << 20;

/// What the PAX records say of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The file's name, where the header has a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// The file's real size in bytes.
    pub(super) size: Option<u64>,
    /// Offset and length of each piece, for 0.0 and 0.1.
    pieces: Vec<u64>,
    /// 1.0: the map stands before the data.
    map_in_body: bool,
    seen: bool,
}

impl Sparse {
    /// Reads the `GNU.sparse.*` records; `None` where there are none.
    pub(super) fn from_records(records: &Records) -> Result<Option<Self>, String> {
        let mut sparse = Sparse::default();
        for (key, value) in records {
            let Some(key) = key.strip_prefix(b"GNU.sparse.") else { continue };
            sparse.seen = true;
            sparse.take(key, value).ok_or("a GNU.sparse record that cannot be read")?;
        }
        // The map in the body would be added to the other one, and would never be complete.
        if sparse.map_in_body && !sparse.pieces.is_empty() {
            return Err("GNU.sparse records of two formats".to_owned());
        }
        Ok(sparse.seen.then_some(sparse))
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.map_in_body = number(value)? >= 1,
            b"minor" | b"numblocks" => {
                number(value)?;
            }
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" if self.pieces.len().is_multiple_of(2) => self.pieces.push(number(value)?),
            b"numbytes" if !self.pieces.len().is_multiple_of(2) => self.pieces.push(number(value)?),
            b"map" => {
                self.pieces = value.split(|byte| *byte == b',').map(number).collect::<Option<Vec<_>>>()?;
            }
            _ => return None,
        }
        (self.pieces.len() <= PIECES.saturating_mul(2)).then_some(())
    }

    /// Whether the map stands in the body, before the data.
    pub(super) fn map_in_body(&self) -> bool {
        self.map_in_body
    }

    /// Reads the map of format 1.0 from the body. Gives how many bytes it takes there: a multiple of 512.
    pub(super) fn read_map(&mut self, reader: &mut impl BufRead, body: u64) -> io::Result<Result<u64, String>> {
        let mut taken = 0_u64;
        let mut block = [0_u8; 512];
        let mut digits: Vec<u8> = Vec::new();
        let mut wanted: Option<usize> = None;
        loop {
            if body.saturating_sub(taken) < 512 {
                return Ok(Err("the sparse map is longer than the file".to_owned()));
            }
            if io::copy(&mut (&mut *reader).take(512), &mut &mut block[..])? < 512 {
                return Ok(Err("the tar ends within a sparse map".to_owned()));
            }
            taken = taken.saturating_add(512);
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Ok(Err("a number of the sparse map is too long".to_owned()));
                    }
                    continue;
                }
                let Some(value) = number(&digits) else {
                    return Ok(Err("the sparse map holds something that is no number".to_owned()));
                };
                digits.clear();
                match wanted {
                    None => match usize::try_from(value).ok().filter(|count| *count <= PIECES) {
                        Some(count) => wanted = Some(count.saturating_mul(2)),
                        None => return Ok(Err("the sparse map has too many pieces".to_owned())),
                    },
                    Some(_) => self.pieces.push(value),
                }
                if wanted == Some(self.pieces.len()) {
                    return Ok(Ok(taken));
                }
            }
        }
    }

    /// The pieces as an extent; `data` is the spool's offset of the first one, `stored` how many bytes are there.
    pub(super) fn extent(&self, data: u64, stored: u64, size: u64) -> Result<Extent, String> {
        let mut pieces = Vec::new();
        let (mut offset, mut end) = (data, 0_u64);
        for pair in self.pieces.chunks(2) {
            let &[start, length] = pair else { return Err("the sparse map is cut off".to_owned()) };
            let piece = Piece { start, length, offset };
            let stop = start.checked_add(length).filter(|stop| start >= end && *stop <= size);
            end = stop.ok_or("the pieces of the sparse file overlap or lie beyond its end")?;
            offset = offset.checked_add(length).ok_or("the sparse file is too large")?;
            if length > 0 {
                pieces.push(piece);
            }
        }
        if offset.checked_sub(data) != Some(stored) {
            return Err("the sparse map and the stored bytes disagree".to_owned());
        }
        Ok(Extent::Sparse(pieces.into_boxed_slice()))
    }
}
