//! Fixed binary layouts as tables: the fields of a structure, one behind the other, little-endian.
//!
//! Makers' sections, ACPI's tables and Windows' events are dozens of small packed structures whose
//! fields are only passed on by name. A table per structure says all there is to say about each, and
//! one reader, with one set of bounds checks, serves them all.

use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Detail, Details, Guid, Value};

/// One field. Made with the constructors below, such as `hex("err_addr", 8).valid(11)`.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    bytes: usize,
    kind: Kind,
    /// The validity bit that says whether the field was filled in.
    valid: Option<u32>,
}

#[derive(Clone, Copy)]
enum Kind {
    Skip,
    Number,
    Signed,
    Hex,
    Flag,
    Code(&'static [(u64, &'static str)]),
    Flags(&'static [(u32, &'static str)]),
    Parts(&'static [Part]),
    Text,
    Wide,
    Guid,
    Bytes,
    Words(usize),
}

/// Bits within a field, for [`parts`].
#[derive(Clone, Copy)]
pub(crate) struct Part {
    name: &'static str,
    low: u32,
    bits: u32,
    table: Option<&'static [(u64, &'static str)]>,
}

const fn field(name: &'static str, bytes: usize, kind: Kind) -> Field {
    Field { name, bytes, kind, valid: None }
}

/// Reserved, or of no interest.
pub(crate) const fn skip(bytes: usize) -> Field {
    field("", bytes, Kind::Skip)
}

/// A count, an index, a size; at most 8 bytes.
pub(crate) const fn number(name: &'static str, bytes: usize) -> Field {
    field(name, bytes, Kind::Number)
}

/// A signed number of 2 bytes.
pub(crate) const fn signed(name: &'static str) -> Field {
    field(name, 2, Kind::Signed)
}

/// An address or a raw register; at most 8 bytes.
pub(crate) const fn hex(name: &'static str, bytes: usize) -> Field {
    field(name, bytes, Kind::Hex)
}

/// A byte that is zero or not.
pub(crate) const fn flag(name: &'static str) -> Field {
    field(name, 1, Kind::Flag)
}

/// An encoded value; at most 8 bytes.
pub(crate) const fn code(
    name: &'static str,
    bytes: usize,
    table: &'static [(u64, &'static str)],
) -> Field {
    field(name, bytes, Kind::Code(table))
}

/// Single bits with names; at most 8 bytes.
pub(crate) const fn flags(
    name: &'static str,
    bytes: usize,
    table: &'static [(u32, &'static str)],
) -> Field {
    field(name, bytes, Kind::Flags(table))
}

/// Several small fields within at most 8 bytes; shown as a group that also has the raw value.
pub(crate) const fn parts(name: &'static str, bytes: usize, parts: &'static [Part]) -> Field {
    field(name, bytes, Kind::Parts(parts))
}

/// Bits `low` and above, as a number.
pub(crate) const fn part(name: &'static str, low: u32, bits: u32) -> Part {
    Part { name, low, bits, table: None }
}

/// Bits `low` and above, as an encoded value.
pub(crate) const fn coded_part(
    name: &'static str,
    low: u32,
    bits: u32,
    table: &'static [(u64, &'static str)],
) -> Part {
    Part { name, low, bits, table: Some(table) }
}

/// ASCII text, padded with zeros.
pub(crate) const fn text(name: &'static str, bytes: usize) -> Field {
    field(name, bytes, Kind::Text)
}

/// UTF-16 text, padded with zeros.
pub(crate) const fn wide(name: &'static str, bytes: usize) -> Field {
    field(name, bytes, Kind::Wide)
}

/// A GUID in the mixed order of UEFI.
pub(crate) const fn guid(name: &'static str) -> Field {
    field(name, 16, Kind::Guid)
}

/// Bytes without a structure known here.
pub(crate) const fn bytes(name: &'static str, bytes: usize) -> Field {
    field(name, bytes, Kind::Bytes)
}

/// An array of `count` registers of `width` bytes.
pub(crate) const fn words(name: &'static str, width: usize, count: usize) -> Field {
    field(name, width.saturating_mul(count), Kind::Words(width))
}

impl Field {
    /// The field counts only if bit `bit` of the structure's validity bits is set.
    pub(crate) const fn valid(self, bit: u32) -> Self {
        Self { valid: Some(bit), ..self }
    }
}

/// Bytes a structure takes: for assertions beside its table.
pub(crate) const fn size(fields: &[Field]) -> usize {
    let mut total = 0;
    let mut index = 0;
    while index < fields.len() {
        total += fields[index].bytes;
        index += 1;
    }
    total
}

/// Adds the valid fields of the structure at the start of `input`. Returns the first field that is
/// claimed to be valid and does not fit; nothing behind it is read.
pub(crate) fn read(
    fields: &[Field],
    input: &[u8],
    valid: u64,
    details: &mut Vec<Detail>,
) -> Option<&'static str> {
    let mut rest = input;
    for field in fields {
        let claimed = field.valid.is_none_or(|bit| valid >> bit & 1 == 1);
        let wanted = claimed && !matches!(field.kind, Kind::Skip);
        let Some((bytes, behind)) = rest.split_at_checked(field.bytes) else {
            if wanted {
                return Some(field.name);
            }
            rest = &[];
            continue;
        };
        rest = behind;
        if wanted {
            details.add(field.name, value(field.kind, bytes));
        }
    }
    None
}

fn value(kind: Kind, bytes: &[u8]) -> Value {
    match kind {
        Kind::Number => Value::Number(little(bytes)),
        Kind::Signed => Value::Signed(
            bytes.try_into().map_or(0, |pair: [u8; 2]| i16::from_le_bytes(pair).into()),
        ),
        Kind::Hex => Value::Hex(little(bytes)),
        Kind::Flag => Value::Flag(bytes.iter().any(|byte| *byte != 0)),
        Kind::Code(table) => Value::code(little(bytes), table),
        Kind::Flags(table) => Value::flags(little(bytes), table),
        Kind::Parts(parts) => {
            let raw = little(bytes);
            let mut group = Vec::with_capacity(parts.len() + 1);
            group.add_hex("raw", raw);
            for part in parts {
                group.add(part.name, part.of(raw));
            }
            Value::Group(group)
        }
        Kind::Text => ascii(bytes).into(),
        Kind::Wide => utf16(bytes).into(),
        Kind::Guid => {
            bytes.try_into().map_or(Value::Bytes(bytes.into()), |id| Value::Guid(Guid(id)))
        }
        Kind::Words(width) => {
            Value::List(bytes.chunks(width.max(1)).map(|word| Value::Hex(little(word))).collect())
        }
        Kind::Bytes | Kind::Skip => Value::Bytes(bytes.into()),
    }
}

impl Part {
    fn of(self, raw: u64) -> Value {
        let mask = if self.bits < 64 { (1 << self.bits) - 1 } else { u64::MAX };
        let value = raw >> self.low & mask;
        match self.table {
            Some(table) => Value::code(value, table),
            None if self.bits == 1 => Value::Flag(value == 1),
            None => Value::Number(value),
        }
    }
}

/// The little-endian number in the first eight of `bytes`.
pub(crate) fn little(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The number of `width` bytes at `at`, if it is there.
pub(crate) fn number_at(input: &[u8], at: usize, width: usize) -> Option<u64> {
    input.get(at..at.checked_add(width)?).map(little)
}

/// Text in a fixed field: up to the first zero, without the blanks around it.
pub(crate) fn ascii(bytes: &[u8]) -> String {
    let used = bytes.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    let shown = |byte: &u8| match byte {
        0x20..=0x7e => char::from(*byte),
        _ => char::REPLACEMENT_CHARACTER,
    };
    used.iter().map(shown).collect()
}

/// UTF-16 text in a fixed field, up to the first zero.
pub(crate) fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .map(|unit| if unit.is_control() { char::REPLACEMENT_CHARACTER } else { unit })
        .collect()
}

/// The number of the detail `name`, whatever way it is shown.
pub(crate) fn found(details: &[Detail], name: &str) -> Option<u64> {
    match &details.iter().find(|detail| detail.name == name)?.value {
        Value::Number(number) | Value::Hex(number) | Value::Code { code: number, .. } => {
            Some(*number)
        }
        Value::Flag(flag) => Some(u64::from(*flag)),
        _ => None,
    }
}

/// The meaning of the encoded detail `name`.
pub(crate) fn meaning<'a>(details: &'a [Detail], name: &str) -> Option<&'a str> {
    match &details.iter().find(|detail| detail.name == name)?.value {
        Value::Code { meaning, .. } => meaning.as_deref(),
        Value::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::Cow;
    use alloc::vec;

    const LAYOUT: &[Field] = &[
        number("count", 1),
        skip(1),
        hex("register", 2).valid(0),
        code("kind", 1, &[(7, "seventh")]).valid(1),
        text("label", 4).valid(2),
    ];

    #[test]
    fn fields_follow_one_another() {
        assert_eq!(size(LAYOUT), 9);
        let mut details = vec![];
        let input = [3, 0xff, 0x34, 0x12, 7, b'a', b'b', 0, b'x'];
        assert_eq!(read(LAYOUT, &input, 0b111, &mut details), None);
        let names: Vec<&str> = details.iter().map(|detail| &*detail.name).collect();
        assert_eq!(names, ["count", "register", "kind", "label"]);
        assert_eq!(found(&details, "register"), Some(0x1234));
        assert_eq!(meaning(&details, "kind"), Some("seventh"));
        assert_eq!(details[3].value, Value::Text(Cow::Borrowed("ab")));
    }

    #[test]
    fn only_what_is_claimed_can_be_missing() {
        let mut details = vec![];
        assert_eq!(read(LAYOUT, &[3, 0, 1], 0b000, &mut details), None);
        assert_eq!(read(LAYOUT, &[3, 0, 1], 0b100, &mut details), Some("label"));
        assert_eq!(read(LAYOUT, &[3, 0, 1], 0b001, &mut details), Some("register"));
        assert_eq!(read(LAYOUT, &[], 0, &mut details), Some("count"));
        assert_eq!(details.len(), 3, "the count, thrice");
    }

    #[test]
    fn bits_within_a_field() {
        const PARTS: &[Part] =
            &[part("low", 0, 4), part("top", 31, 1), coded_part("mid", 4, 4, &[(2, "two")])];
        let mut details = vec![];
        read(&[parts("word", 4, PARTS)], &0x8000_0025u32.to_le_bytes(), 0, &mut details);
        let Value::Group(group) = &details[0].value else { panic!("{details:?}") };
        assert_eq!(found(group, "raw"), Some(0x8000_0025));
        assert_eq!(found(group, "low"), Some(5));
        assert_eq!(found(group, "top"), Some(1));
        assert_eq!(meaning(group, "mid"), Some("two"));
    }

    #[test]
    fn text_of_both_widths() {
        assert_eq!(ascii(b" a\x01b \0c"), "a\u{fffd}b");
        assert_eq!(utf16(&[b'A', 0, 0xac, 0x20, 0, 0, b'x', 0]), "A\u{20ac}");
        assert_eq!(utf16(&[0, 0xd8, b'A', 0, 9]), "\u{fffd}A");
    }
}
