//! Reading numbers and words off the front of a line. Nothing here allocates.

use alloc::string::String;

/// What each byte is worth as a hexadecimal digit: a log of errors is mostly such digits.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// A hexadecimal number, with or without `0x`, and what follows it.
#[inline]
pub(crate) fn hex(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")).unwrap_or(text);
    let mut value: u64 = 0;
    let mut count = 0;
    // What is shifted out: a number that is too long.
    let mut lost = 0;
    for byte in digits {
        let digit = DIGITS[usize::from(*byte)];
        if digit > 0xf {
            break;
        }
        lost |= value >> 60;
        value = value << 4 | u64::from(digit);
        count += 1;
    }
    let rest = digits.get(count..)?;
    (count > 0 && lost == 0).then_some((value, rest))
}

/// A decimal number, and what follows it.
#[inline]
pub(crate) fn decimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    let mut rest = text;
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        let digit = u64::from(digit - b'0');
        // Far from the end there is nothing to check.
        value = match value {
            0..0x1000_0000_0000_0000 => value * 10 + digit,
            _ => value.checked_mul(10)?.checked_add(digit)?,
        };
        rest = after;
    }
    (rest.len() < text.len()).then_some((value, rest))
}

/// A number in the radix its prefix says, and what follows it.
pub(crate) fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    if text.starts_with(b"0x") || text.starts_with(b"0X") { hex(text) } else { decimal(text) }
}

/// The whole of `text` as a hexadecimal number.
pub(crate) fn whole_hex(text: &[u8]) -> Option<u64> {
    hex(text.trim_ascii()).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// The whole of `text` as a number.
pub(crate) fn whole_number(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii()).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// The first word, and what follows the space after it. Control characters count as space.
#[inline]
pub(crate) fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = skip_space(text);
    let end = text.iter().position(|byte| *byte <= b' ').unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end).unwrap_or((text, b""));
    (word, skip_space(rest))
}

#[inline]
fn skip_space(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [0..=b' ', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Where `needle` begins in `text`. Lines are short and needles begin with rare bytes: to look for the
/// first byte is enough.
pub(crate) fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, _) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = memchr::memchr(*first, text.get(from..)?) {
        let at = from + at;
        if text.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// What is before and after the first `separator`.
pub(crate) fn split<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = find(text, separator)?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// What is before and after the last `separator`.
pub(crate) fn rsplit<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at =
        (0..text.len()).rev().find(|at| text.get(*at..).unwrap_or(b"").starts_with(separator))?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// Text for a record: what is no UTF-8 or no printable character is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.trim_ascii());
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// The low bits that fit, or `None`.
pub(crate) fn narrow<T: TryFrom<u64>>(value: u64) -> Option<T> {
    T::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_follows_them() {
        assert_eq!(hex(b"0x1fG"), Some((0x1f, &b"G"[..])));
        assert_eq!(hex(b"ffffffffffffffff "), Some((u64::MAX, &b" "[..])));
        assert_eq!(hex(b"1ffffffffffffffff"), None, "too long");
        assert_eq!(hex(b"0x"), None);
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(decimal(b"12:3"), Some((12, &b":3"[..])));
        assert_eq!(whole_number(b" 0x10\r"), Some(16));
        assert_eq!(whole_number(b"10x"), None);
        assert_eq!(whole_hex(b"0005"), Some(5));
    }

    #[test]
    fn words_and_separators() {
        assert_eq!(word(b"  a b"), (&b"a"[..], &b"b"[..]));
        assert_eq!(word(b""), (&b""[..], &b""[..]));
        assert_eq!(split(b"aab: c: d", b": "), Some((&b"aab"[..], &b"c: d"[..])));
        assert_eq!(rsplit(b"aab: c: d", b": "), Some((&b"aab: c"[..], &b"d"[..])));
        assert_eq!(find(b"aab", b"ab"), Some(1));
        assert_eq!(find(b"a", b"ab"), None);
        assert_eq!(text(b"a\x01\xffb "), "a\u{fffd}\u{fffd}b");
    }
}
