//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header").
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

/// The records of a PAX header, in their order.
pub(super) type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads `LENGTH KEY=VALUE\n` records. Values may hold any byte.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, String> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes).ok_or("a PAX record whose length is wrong")?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or("a PAX record without `=`")?;
        let (key, value) = record.split_at(equals);
        if key.is_empty() || key.contains(&0) {
            return Err("a PAX record with a bad key".to_owned());
        }
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        bytes = rest;
    }
    Ok(records)
}

/// The first record without its length and newline, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(bytes.get(..space)?).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: usize = digits.parse().ok()?;
    let record = bytes.get(space.checked_add(1)?..length)?;
    let record = record.strip_suffix(b"\n")?;
    Some((record, bytes.get(length..)?))
}

/// A non-negative decimal number.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A decimal number that may have a sign, as an owner of -1.
pub(super) fn integer(value: &[u8]) -> Option<i128> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let text = std::str::from_utf8(value).ok()?;
    if digits.iter().all(u8::is_ascii_digit) { text.parse().ok() } else { None }
}

/// A time in seconds, rounded down: `-1.5` is -2.
pub(super) fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    if !negative {
        return Some(whole);
    }
    let up = i64::from(fraction.bytes().any(|byte| byte != b'0'));
    whole.checked_neg()?.checked_sub(up)
}

/// Standard base64 (RFC 4648), padding optional: how libarchive writes the values of attributes.
pub(super) fn base64(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in value.iter().copied().filter(|byte| *byte != b'=') {
        let digit = match byte {
            b'A'..=b'Z' => byte.checked_sub(b'A')?,
            b'a'..=b'z' => byte.checked_sub(b'a')?.checked_add(26)?,
            b'0'..=b'9' => byte.checked_sub(b'0')?.checked_add(52)?,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits & 0xffff) << 6 | u32::from(digit);
        count = count.checked_add(6)?;
        if count >= 8 {
            count = count.checked_sub(8)?;
            out.push(u8::try_from(bits.checked_shr(count)? & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_byte() {
        let records = parse(b"11 path=a\xff\n19 comment=two\nrow\n").unwrap();
        assert_eq!(records, [(b"path".to_vec(), b"a\xff".to_vec()), (b"comment".to_vec(), b"two\nrow".to_vec())]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for bad in [&b"0 a=b\n"[..], b"6 a=b", b"99 a=b\n", b"6a=b\n", b"-6 a=b\n", b"5 abc\n", b"4 =\n", b" a=b\n"] {
            assert!(parse(bad).is_err(), "{}", crate::escaped(bad));
        }
    }

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(seconds(b"1.9"), Some(1));
        assert_eq!(seconds(b"-1.5"), Some(-2));
        assert_eq!(seconds(b"-1.0"), Some(-1));
        assert_eq!(seconds(b"4294967296"), Some(4_294_967_296));
        for bad in [&b""[..], b"-", b".5", b"1e3", b"1.x", b"99999999999999999999"] {
            assert_eq!(seconds(bad), None);
        }
    }

    #[test]
    fn base64_with_and_without_padding() {
        assert_eq!(base64(b"aGk=").unwrap(), b"hi");
        assert_eq!(base64(b"aGk").unwrap(), b"hi");
        assert_eq!(base64(b"AQAAAgAgAAAAAAAAAAAAAAAAAAA").unwrap().len(), 20);
        assert_eq!(base64(b"a b"), None);
    }
}
