//! Values as JSON text, appended to a buffer.
//!
//! Most texts of a record are shorter than a cache line, and a call that copies one costs more than the
//! copy: short ones are moved in pieces of a fixed length, which may overlap, and cut to size. Digits are
//! put where they belong, not gathered first: to load at once what was stored in pieces makes a
//! processor wait.

use ras_core::{Guid, Timestamp};

/// The name of a member, with all that is around it: one copy of a known length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// Before a value of any kind.
    pub(super) bare: &'static str,
    /// Before a string, whose quotation mark it has.
    pub(super) text: &'static str,
    /// Before the digits of a hexadecimal number.
    pub(super) hex: &'static str,
}

/// A [`Name`]. Names are ours: they need no escapes.
macro_rules! name {
    ($name:literal) => {
        $crate::json::write::Name {
            bare: concat!(",\"", $name, "\":"),
            text: concat!(",\"", $name, "\":\""),
            hex: concat!(",\"", $name, "\":\"0x"),
        }
    };
}
pub(super) use name;

/// An object that is being written.
#[derive(Debug)]
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    /// Opens it.
    #[inline]
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// Closes it.
    #[inline]
    pub(super) fn end(self) {
        match self.separator {
            b'{' => self.out.extend_from_slice(b"{}"),
            _ => self.out.push(b'}'),
        }
    }

    /// Writes a name; its value has to be written into what this returns.
    #[inline(always)]
    pub(super) fn key(&mut self, name: Name) -> &mut Vec<u8> {
        self.begin_with(name.bare)
    }

    #[inline(always)]
    fn begin_with(&mut self, text: &'static str) -> &mut Vec<u8> {
        let at = self.out.len();
        self.out.extend_from_slice(text.as_bytes());
        self.separate(at)
    }

    /// Begins the object where a comma stands that nothing is before.
    #[inline(always)]
    fn separate(&mut self, at: usize) -> &mut Vec<u8> {
        if std::mem::replace(&mut self.separator, b',') != b','
            && let Some(first) = self.out.get_mut(at)
        {
            *first = b'{';
        }
        self.out
    }

    /// Writes a name that is not known when this is compiled.
    #[inline]
    pub(super) fn any_key(&mut self, name: &str) -> &mut Vec<u8> {
        let at = self.out.len();
        self.out.extend_from_slice(b",\"");
        closed(name.as_bytes(), self.out);
        self.out.push(b':');
        self.separate(at)
    }

    /// Writes a name that is not ours.
    pub(super) fn foreign_key(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.push(std::mem::replace(&mut self.separator, b','));
        string(name, self.out);
        self.out.push(b':');
        self.out
    }

    /// A string.
    #[inline(always)]
    pub(super) fn text(&mut self, name: Name, value: &str) {
        rest_of_string(value, self.begin_with(name.text));
    }

    /// A word of ours, which needs no escapes.
    #[inline(always)]
    pub(super) fn word(&mut self, name: Name, value: &'static str) {
        closed(value.as_bytes(), self.begin_with(name.text));
    }

    /// A number.
    #[inline(always)]
    pub(super) fn number(&mut self, name: Name, value: u64) {
        number(value, self.key(name));
    }

    /// `"0x…"`.
    #[inline(always)]
    pub(super) fn hex(&mut self, name: Name, value: u64) {
        rest_of_hex(value, self.begin_with(name.hex));
    }

    /// Nothing known.
    #[inline(always)]
    pub(super) fn null(&mut self, name: Name) {
        self.key(name).extend_from_slice(b"null");
    }

    /// `"0x…"`, where it is not zero.
    #[inline(always)]
    pub(super) fn rare(&mut self, name: Name, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.hex(name, value);
        }
    }

    /// A number, where it is known.
    #[inline(always)]
    pub(super) fn some(&mut self, name: Name, value: Option<impl Into<u64>>) {
        if let Some(value) = value {
            self.number(name, value.into());
        }
    }
}

/// A list, each of its items written by `write`.
pub(super) fn list<T>(items: &[T], write: impl Fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    let Some((first, others)) = items.split_first() else {
        return out.extend_from_slice(b"[]");
    };
    out.push(b'[');
    write(first, out);
    for item in others {
        out.push(b',');
        write(item, out);
    }
    out.push(b']');
}

/// Bytes that are mostly few, and a quotation mark.
#[inline]
fn closed(text: &[u8], out: &mut Vec<u8>) {
    /// Room for texts that are short.
    const ROOM: usize = 32;
    /// The first and the last `N` bytes of the text: all of it, and where it has less than twice as
    /// many, some of them twice.
    #[inline]
    fn ends<const N: usize>(text: &[u8], room: &mut [u8; ROOM]) -> bool {
        let (Some(first), Some(last)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) else {
            return false;
        };
        if let Some(place) = room.first_chunk_mut::<N>() {
            *place = *first;
        }
        let place = room.get_mut(..text.len()).and_then(<[u8]>::last_chunk_mut::<N>);
        place.map(|place| *place = *last).is_some()
    }
    let end = out.len() + text.len();
    if text.len() < 4 || text.len() >= ROOM {
        out.extend_from_slice(text);
        return out.push(b'"');
    }
    out.extend_from_slice(&[b'"'; ROOM]);
    if let Some(room) = out.last_chunk_mut() {
        let _ = ends::<16>(text, room) || ends::<8>(text, room) || ends::<4>(text, room);
    }
    out.truncate(end + 1);
}

/// RFC 3339 in UTC, with as many digits of a second as there are.
pub(super) fn time(Timestamp(nanos): Timestamp, out: &mut Vec<u8>) {
    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400;
    let (seconds, nanos) = (nanos / SECOND, nanos % SECOND);
    let (days, second) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = civil(days);
    let mut text = *b"\"0000-00-00T00:00:00";
    let mut put = |at: usize, value: u64| text[at..at + 2].copy_from_slice(&decimal(value));
    put(1, year / 100);
    put(3, year % 100);
    put(6, month);
    put(9, day);
    put(12, second / 3600);
    put(15, second / 60 % 60);
    put(18, second % 60);
    out.extend_from_slice(&text);
    if nanos > 0 {
        let mut fraction = *b".000000000";
        let mut left = nanos;
        for digit in fraction[1..].iter_mut().rev() {
            *digit += (left % 10).to_le_bytes()[0];
            left /= 10;
        }
        out.extend_from_slice(&fraction);
    }
    out.extend_from_slice(b"Z\"");
}

/// Year, month and day of a day counted from 1970-01-01. Years are taken from March on, so that the leap
/// day is a year's last; 719,468 days lie between the first of March of year 0 and 1970.
const fn civil(days: u64) -> (u64, u64, u64) {
    /// Days in 400 years, after which the calendar repeats itself.
    const CYCLE: u64 = 146_097;
    let days = days + 719_468;
    let (cycle, day) = (days / CYCLE, days % CYCLE);
    // Leap days are taken out: one after 1,460 days, but for the hundredth year's, but for the last.
    let year = (day - day / 1460 + day / 36_524 - day / (CYCLE - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * cycle + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// The two decimal digits of a number below 100.
const fn decimal(value: u64) -> [u8; 2] {
    let value = value.to_le_bytes()[0];
    [b'0' + value / 10, b'0' + value % 10]
}

pub(super) fn guid(Guid(id): Guid, out: &mut Vec<u8>) {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e0, e1, e2, e3, e4, e5] = id;
    // The first three parts are little-endian numbers.
    out.push(b'"');
    out.extend_from_slice(&eight_digits(u32::from_le_bytes([a0, a1, a2, a3])));
    let middle = [
        eight_digits(u32::from_be_bytes([b1, b0, c1, c0])),
        eight_digits(u32::from_be_bytes([d0, d1, e0, e1])),
    ];
    let [[b @ .., _, _, _, _], [d @ .., _, _, _, _]] = &middle;
    let [[_, _, _, _, c @ ..], [_, _, _, _, e @ ..]] = &middle;
    for part in [b, c, d] {
        out.push(b'-');
        out.extend_from_slice(part);
    }
    out.push(b'-');
    out.extend_from_slice(e);
    out.extend_from_slice(&eight_digits(u32::from_be_bytes([e2, e3, e4, e5])));
    out.push(b'"');
}

pub(super) fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(2 * bytes.len() + 2);
    out.push(b'"');
    let (pieces, rest) = bytes.as_chunks::<16>();
    for piece in pieces {
        out.extend_from_slice(&sixteen_bytes(piece));
    }
    for byte in rest {
        out.extend_from_slice(&two_digits(*byte));
    }
    out.push(b'"');
}

/// The digits of sixteen bytes. The compiler makes vectors of it.
#[inline]
fn sixteen_bytes(bytes: &[u8; 16]) -> [u8; 32] {
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&two_digits(*byte));
    }
    text
}

/// The two hexadecimal digits of a byte.
#[inline]
const fn two_digits(byte: u8) -> [u8; 2] {
    const fn digit(value: u8) -> u8 {
        b'0' + value + if value > 9 { b'a' - b'0' - 10 } else { 0 }
    }
    [digit(byte >> 4), digit(byte & 15)]
}

#[inline]
pub(super) fn hex(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"0x");
    rest_of_hex(value, out);
}

/// The digits of `"0x…"`, and the quotation mark.
fn rest_of_hex(value: u64, out: &mut Vec<u8>) {
    // All leading zeros are left out but the last digit: a fixed copy, then cut, is cheaper than a
    // copy of some length.
    let zeros = (value.leading_zeros() / 4).min(15);
    let shifted = value << (4 * zeros);
    let end = out.len() + 16 - zeros as usize;
    out.extend_from_slice(&eight_digits((shifted >> 32) as u32));
    if zeros < 8 {
        out.extend_from_slice(&eight_digits((shifted & 0xffff_ffff) as u32));
    }
    out.truncate(end);
    out.push(b'"');
}

/// The eight hexadecimal digits of a word, all of them at once: a nibble to a byte, then digits.
#[inline]
const fn eight_digits(word: u32) -> [u8; 8] {
    let word = word as u64;
    let word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    let word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    let word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // One in each byte that is ten or more.
    let letters = ((word + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (word + 0x3030_3030_3030_3030 + letters * 0x27).to_be_bytes()
}

#[inline]
pub(super) fn number(value: u64, out: &mut Vec<u8>) {
    if value < 10 {
        out.push(b'0' + value.to_le_bytes()[0]);
    } else if value < 100 {
        out.extend_from_slice(&decimal(value));
    } else {
        long_number(value, out);
    }
}

fn long_number(value: u64, out: &mut Vec<u8>) {
    const EIGHT_DIGITS: u64 = 100_000_000;
    if value >= EIGHT_DIGITS {
        number(value / EIGHT_DIGITS, out);
        out.extend_from_slice(&eight_decimals(value % EIGHT_DIGITS).to_le_bytes());
    } else {
        let digits = eight_decimals(value);
        let zeros = (digits ^ ZEROS).trailing_zeros() / 8;
        let end = out.len() + 8 - zeros as usize;
        out.extend_from_slice(&(digits >> (8 * zeros)).to_le_bytes());
        out.truncate(end);
    }
}

/// Eight digits `0`.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The eight decimal digits of a number below 100,000,000, the first in the lowest byte: split in half
/// three times, all parts of it at once.
#[inline]
const fn eight_decimals(value: u64) -> u64 {
    let halves = (value / 10_000) | ((value % 10_000) << 32);
    // By 100, of four digits each: 10,486 is 2 to the 20th by 100, rounded up.
    let hundreds = ((halves * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | ((halves - hundreds * 100) << 16);
    // By 10, of two digits each.
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    let digits = tens | ((pairs - tens * 10) << 8);
    digits + ZEROS
}

/// RFC 8259, "Strings": quotation mark, backslash and control characters are escaped.
#[inline]
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    rest_of_string(text, out);
}

/// All of it but the first quotation mark.
fn rest_of_string(text: &str, out: &mut Vec<u8>) {
    if is_plain(text.as_bytes()) {
        closed(text.as_bytes(), out);
    } else {
        escaped(text, out);
        out.push(b'"');
    }
}

/// Whether nothing in `text` is escaped.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    // Without a way out of the loop, all bytes of a piece are looked at at once.
    #[inline]
    fn any<const N: usize>(piece: &[u8; N]) -> bool {
        piece.iter().fold(false, |any, byte| any | is_special(*byte))
    }
    // The last piece may have been looked at in part.
    if let Some(last) = text.last_chunk::<16>() {
        let pieces = text.as_chunks::<16>().0;
        !pieces.iter().fold(any(last), |special, piece| special | any(piece))
    } else if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        !any_of_eight(u64::from_le_bytes(*first)) && !any_of_eight(u64::from_le_bytes(*last))
    } else {
        !text.iter().any(|byte| is_special(*byte))
    }
}

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Whether any byte of a word is special: its highest bit comes out of a subtraction that goes below
/// zero, where it was not set before.
const fn any_of_eight(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word
    }
    let quote = below(word ^ (ONES * b'"' as u64), 1);
    let backslash = below(word ^ (ONES * b'\\' as u64), 1);
    (below(word, 0x20) | quote | backslash) & (ONES << 7) != 0
}

#[cold]
fn escaped(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            control @ 0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&two_digits(control));
            }
            quoted => out.extend_from_slice(&[b'\\', quoted]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_have_no_more_digits_than_they_need() {
        let powers = (0..20).flat_map(|power| [10_u64.pow(power) - 1, 10_u64.pow(power)]);
        let bits = (0..64).flat_map(|bit| [1_u64 << bit, u64::MAX >> bit]);
        for value in powers.chain(bits).chain([0, 0xa, 0x1f2e_3d4c_5b6a_7089]) {
            assert_eq!(written(|out| hex(value, out)), format!("\"{value:#x}\""));
            assert_eq!(written(|out| number(value, out)), value.to_string());
        }
    }

    #[test]
    fn objects_have_commas_between_their_members() {
        let text = written(|out| {
            let mut object = Object::begin(out);
            object.number(name!("one"), 1);
            object.rare(name!("none"), 0_u64);
            object.hex(name!("two"), 2);
            object.any_key("three").extend_from_slice(b"3");
            object.foreign_key("\"four\"").extend_from_slice(b"4");
            object.null(name!("five"));
            object.end();
        });
        let expect = r#"{"one":1,"two":"0x2","three":3,"\"four\"":4,"five":null}"#;
        assert_eq!(text, expect);
        assert_eq!(written(|out| Object::begin(out).end()), "{}");
        assert_eq!(written(|out| list(&[1, 2], |item, out| number(*item, out), out)), "[1,2]");
        assert_eq!(written(|out| list(&[], |item, out| number(*item, out), out)), "[]");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let check = |nanos: u64| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
            let expect = format!("\"{}\"", humantime::format_rfc3339(time));
            assert_eq!(written(|out| super::time(Timestamp(nanos), out)), expect);
        };
        const DAY: u64 = 86_400_000_000_000;
        // Each day that a timestamp can name, its first and last second.
        for day in 0..=u64::MAX / DAY {
            check(day * DAY);
            check((day * DAY).saturating_add(DAY - 1_000_000_000));
        }
        for nanos in [1, 999_999_999, 1_700_000_000_123_456_000, u64::MAX] {
            check(nanos);
        }
    }

    #[test]
    fn text_of_any_length_comes_back() {
        let text = "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ äöü";
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let text = &text[..end];
            assert_eq!(written(|out| string(text, out)), format!("\"{text}\""));
            // A character to be escaped, at each place.
            for at in (0..=end).filter(|at| text.is_char_boundary(*at)) {
                for special in ["\"", "\\", "\n", "\u{1f}"] {
                    let text = format!("{}{special}{}", &text[..at], &text[at..]);
                    let json = written(|out| string(&text, out));
                    assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_comes_back(text in ".*") {
            let json = written(|out| string(&text, out));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn any_bytes_are_digits(input in proptest::collection::vec(0..=u8::MAX, 0..70), id: [u8; 16]) {
            let digits: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            proptest::prop_assert_eq!(written(|out| bytes(&input, out)), format!("\"{digits}\""));
            let id = Guid(id);
            proptest::prop_assert_eq!(written(|out| guid(id, out)), format!("\"{id}\""));
        }
    }
}
