//! One console line, built without an allocator.

use crate::errno::Errno;

/// Bytes that a line holds; the rest of a longer one is cut off, so that one line stays one write.
const LIMIT: usize = 480;

/// Where quoted text ends: what follows it is shorter than the rest.
const QUOTED: usize = 320;

/// A line of console text: printable ASCII, without its newline.
#[derive(Clone)]
pub struct Line {
    bytes: [u8; LIMIT],
    used: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self { bytes: [0; LIMIT], used: 0 }
    }

    /// Appends text of our own.
    pub fn text(&mut self, text: &str) -> &mut Self {
        text.bytes().for_each(|byte| self.push(byte));
        self
    }

    /// Appends a number in decimal.
    pub fn number(&mut self, number: u64) -> &mut Self {
        let (digits, used) = decimal(number);
        digits.iter().skip(digits.len().saturating_sub(used)).for_each(|digit| self.push(*digit));
        self
    }

    /// Appends bytes of somebody else's in double quotes; what is not printable becomes `\xNN`. A long text is cut and
    /// `...` follows the quotes, so that the reason still fits on the line.
    pub fn quoted(&mut self, bytes: &[u8]) -> &mut Self {
        self.push(b'"');
        let mut rest = bytes;
        while let Some((first, others)) = rest.split_first().filter(|_| self.used < QUOTED) {
            self.escaped(core::slice::from_ref(first));
            rest = others;
        }
        self.text(if rest.is_empty() { "\"" } else { "\"..." })
    }

    /// Appends bytes; quote, backslash and what is not printable ASCII become `\xNN`.
    pub fn escaped(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            match byte {
                b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                    self.push(b'\\');
                    self.push(b'x');
                    self.push(hex_digit(byte >> 4));
                    self.push(hex_digit(byte & 15));
                }
                _ => self.push(*byte),
            }
        }
        self
    }

    /// Appends an error's name in parentheses, as each failure ends.
    pub fn errno(&mut self, errno: Errno) -> &mut Self {
        match errno.name() {
            Some(name) => self.text(" (").text(name).text(")"),
            None => self.text(" (errno ").number(u64::from(errno.0.unsigned_abs())).text(")"),
        }
    }

    /// What the line holds.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.used) {
            *slot = byte;
            self.used = self.used.saturating_add(1);
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

/// The last digits of the array, and how many they are.
fn decimal(mut number: u64) -> ([u8; 20], usize) {
    let mut digits = [b'0'; 20];
    let mut used = 0_usize;
    for slot in digits.iter_mut().rev() {
        if number == 0 && used > 0 {
            break;
        }
        *slot = b'0'.wrapping_add((number % 10) as u8);
        number /= 10;
        used = used.saturating_add(1);
    }
    (digits, used)
}

/// The lower-case digit of a value below 16.
pub fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_add(value.wrapping_sub(10)) }
}

/// A decimal number as formats of ours carry it: digits alone, no sign, no leading zero.
pub fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 1 && text.first() == Some(&b'0') {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_the_interface_says() {
        let mut line = Line::new();
        line.text("eif-init: exec ").quoted(b"/bin/\xffno").text(": no such file").errno(Errno::ENOENT);
        assert_eq!(line.bytes(), br#"eif-init: exec "/bin/\xffno": no such file (ENOENT)"#);
    }

    #[test]
    fn numbers_at_their_limits() {
        for number in [0, 9, 10, u64::from(u32::MAX), u64::MAX] {
            let mut line = Line::new();
            line.number(number);
            assert_eq!(line.bytes(), std::format!("{number}").as_bytes());
            assert_eq!(parse_decimal(line.bytes()), Some(number));
        }
    }

    #[test]
    fn an_unknown_error_keeps_its_number() {
        let mut line = Line::new();
        assert_eq!(line.errno(Errno(3999)).bytes(), b" (errno 3999)");
    }

    #[test]
    fn a_long_line_is_cut_not_overrun() {
        let mut line = Line::new();
        line.escaped(&[0; 1000]);
        assert_eq!(line.bytes().len(), LIMIT);
    }

    #[test]
    fn a_long_name_leaves_room_for_the_error() {
        let mut line = Line::new();
        line.text("exec ").quoted(&[0xff; 5000]).text(": no such file").errno(Errno::ENOENT);
        assert!(line.bytes().ends_with(br#"\xff"...: no such file (ENOENT)"#));
        assert_eq!(Line::new().quoted(&[b'a'; 300]).bytes().len(), 302);
    }

    #[test]
    fn decimals_that_are_none() {
        for text in [&b""[..], b"-1", b"+1", b"01", b"1 ", b"0x1", b"18446744073709551616"] {
            assert_eq!(parse_decimal(text), None);
        }
        assert_eq!(parse_decimal(b"0"), Some(0));
    }
}
