//! Standard output, a line at a time, so that no other writer's text comes between.

use eif_init::sys;
use eif_init::text::{Line, hex_digit};

/// Longest line: a path of 4095 bytes, each escaped, and as much again for a link's target.
const ROOM: usize = 40_960;

/// A line in the making.
pub struct Output {
    buffer: &'static mut [u8],
    used: usize,
}

impl Output {
    /// An empty line.
    pub fn new() -> Self {
        Self { buffer: sys::allocate(ROOM).unwrap_or_default(), used: 0 }
    }

    /// Appends bytes as they are.
    pub fn text(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            if let Some(slot) = self.buffer.get_mut(self.used) {
                *slot = *byte;
                self.used += 1;
            }
        }
        self
    }

    /// Appends a number in decimal.
    pub fn number(&mut self, number: u64) -> &mut Self {
        let mut line = Line::new();
        line.number(number);
        self.text(line.bytes())
    }

    /// Appends four octal digits.
    pub fn octal(&mut self, mode: u32) -> &mut Self {
        for shift in [9, 6, 3, 0] {
            self.text(&[b'0' + (mode >> shift & 7) as u8]);
        }
        self
    }

    /// Appends bytes in hex.
    pub fn hex(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.text(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        self
    }

    /// Appends a path; a backslash and what is not graphic ASCII become `\xNN`.
    pub fn path(&mut self, bytes: &[u8]) -> &mut Self {
        self.escaped(bytes, |byte| byte.is_ascii_graphic())
    }

    /// Appends a value, as [`Output::path`] but with its spaces.
    pub fn value(&mut self, bytes: &[u8]) -> &mut Self {
        self.escaped(bytes, |byte| byte.is_ascii_graphic() || byte == b' ')
    }

    /// Ends the line and writes it.
    pub fn end(&mut self) {
        self.text(b"\n");
        sys::print(1, self.buffer.get(..self.used).unwrap_or_default());
        self.used = 0;
    }

    /// Appends bytes and ends the line.
    pub fn line(&mut self, bytes: &[u8]) {
        self.text(bytes).end();
    }

    fn escaped(&mut self, bytes: &[u8], plain: fn(u8) -> bool) -> &mut Self {
        for byte in bytes {
            if plain(*byte) && *byte != b'\\' {
                self.text(&[*byte]);
            } else {
                self.text(b"\\x").hex(&[*byte]);
            }
        }
        self
    }
}
