//! Arrays of registers, and the fields of one register.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use ras_core::{Detail, Details, Value};

use crate::layout::{little, number_at};
use crate::mca::findings::meaning;

/// Consecutive registers by name and width in bytes, as far as they are there. One wider than eight
/// bytes keeps its bytes; one without a name is reserved. What follows the last one is `rest`.
pub(super) fn named(mut bytes: &[u8], table: &[(&'static str, usize)]) -> Value {
    let mut details = Vec::with_capacity(table.len() + 1);
    for (name, width) in table {
        let Some((register, rest)) = bytes.split_at_checked(*width) else { break };
        match width {
            _ if name.is_empty() => {}
            ..=8 => details.add_hex(name, little(register)),
            _ => details.add(name, Value::Bytes(register.into())),
        }
        bytes = rest;
    }
    if !bytes.is_empty() {
        details.add("rest", Value::Bytes(bytes.into()));
    }
    Value::Group(details)
}

/// Registers of eight bytes in a row; a last, shorter one is left out.
pub(super) fn wide(bytes: &[u8]) -> Value {
    Value::List(bytes.chunks_exact(8).map(little).map(Value::Hex).collect())
}

/// Sixteen bytes: a register's address and its value.
pub(super) fn pair(bytes: &[u8]) -> Value {
    let mut group = Vec::with_capacity(2);
    group.add_some("address", number_at(bytes, 0, 8).map(Value::Hex));
    group.add_some("value", number_at(bytes, 8, 8).map(Value::Hex));
    Value::Group(group)
}

/// One field of a register: its lowest bit, its width, and what its values mean.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) low: u32,
    pub(super) width: u32,
    pub(super) kind: Kind,
}

/// What sort of field it is.
pub(super) enum Kind {
    /// A count or an index.
    Number,
    /// Raw bits.
    Hex,
    /// A yes or no; only told where it is yes, among the register's `flags`.
    Flag,
    /// An encoded value.
    Code(&'static [(u64, &'static str)]),
    /// The number of one of a register's bits.
    Bit(&'static [(u32, &'static str)]),
}

impl Field {
    pub(super) const fn number(name: &'static str, low: u32, width: u32) -> Self {
        Self { name, low, width, kind: Kind::Number }
    }

    pub(super) const fn hex(name: &'static str, low: u32, width: u32) -> Self {
        Self { name, low, width, kind: Kind::Hex }
    }

    pub(super) const fn flag(name: &'static str, low: u32) -> Self {
        Self { name, low, width: 1, kind: Kind::Flag }
    }

    pub(super) const fn code(
        name: &'static str,
        low: u32,
        width: u32,
        table: &'static [(u64, &'static str)],
    ) -> Self {
        Self { name, low, width, kind: Kind::Code(table) }
    }

    pub(super) const fn bit(
        name: &'static str,
        low: u32,
        width: u32,
        table: &'static [(u32, &'static str)],
    ) -> Self {
        Self { name, low, width, kind: Kind::Bit(table) }
    }
}

/// A register: its bits as `value`, its fields by name, its set flags as the list `flags`. Set bits
/// that no field covers are seen in `value` only.
pub(super) fn fields(register: u64, table: &'static [Field]) -> Value {
    let mut details = Vec::with_capacity(table.len() + 2);
    details.add_hex("value", register);
    add_fields(&mut details, register, table);
    Value::Group(details)
}

/// The fields of a register without its bits, into a group that has them.
pub(super) fn add_fields(details: &mut Vec<Detail>, register: u64, table: &'static [Field]) {
    let mut flags = Vec::new();
    for Field { name, low, width, kind } in table {
        let bits = register >> low & (u64::MAX >> (64 - width));
        match kind {
            Kind::Number => details.add(name, bits),
            Kind::Hex => details.add_hex(name, bits),
            Kind::Flag if bits == 0 => {}
            Kind::Flag => flags.push(Value::Text(Cow::Borrowed(name))),
            Kind::Code(table) => details.add(name, Value::code(bits, table)),
            Kind::Bit(table) => {
                let known = table.iter().find(|(bit, _)| u64::from(*bit) == bits);
                let meaning = known.map(|(_, name)| Cow::Borrowed(*name));
                details.add(name, Value::Code { code: bits, meaning });
            }
        }
    }
    if table.iter().any(|field| matches!(field.kind, Kind::Flag)) {
        details.add("flags", Value::List(flags));
    }
}

/// A set of bits that usually has one member: its number, and the names of all that are set.
pub(super) fn bits(bits: u64, table: &[(u32, &'static str)]) -> Value {
    let names = || table.iter().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name);
    let mut meaning = names().next().map(Cow::Borrowed);
    for name in names().skip(1) {
        let all = meaning.get_or_insert_default().to_mut();
        all.push_str(", ");
        all.push_str(name);
    }
    Value::Code { code: bits, meaning }
}

/// A code's meaning at `low` of a register, if its validity bit is set there and it is defined.
pub(super) fn valid_meaning(
    register: u64,
    valid: u32,
    (low, width): (u32, u32),
    table: &[(u64, &'static str)],
) -> Option<&'static str> {
    let is_valid = register >> valid & 1 == 1;
    let code = register >> low & (u64::MAX >> (64 - width));
    meaning(table, code).filter(|_| is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_end_where_the_bytes_do() {
        let table = [("a", 2), ("", 2), ("b", 16), ("c", 4)];
        let mut bytes = alloc::vec![0x34, 0x12, 0xff, 0xff];
        bytes.extend([7; 16]);
        let Value::Group(all) = named(&bytes, &table) else { panic!() };
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].value, Value::Hex(0x1234));
        assert_eq!(all[1].value, Value::Bytes(alloc::vec![7; 16]));
        bytes.extend([1, 0, 0, 0, 9]);
        let Value::Group(all) = named(&bytes, &table) else { panic!() };
        assert_eq!(all[2].value, Value::Hex(1));
        assert_eq!((all[3].name.as_ref(), &all[3].value), ("rest", &Value::Bytes(alloc::vec![9])));
    }

    #[test]
    fn several_bits_have_one_meaning() {
        let table = [(1, "cache"), (2, "TLB")];
        let code = |code, meaning: Option<&'static str>| Value::Code {
            code,
            meaning: meaning.map(Cow::Borrowed),
        };
        assert_eq!(bits(6, &table), code(6, Some("cache, TLB")));
        assert_eq!(bits(4, &table), code(4, Some("TLB")));
        assert_eq!(bits(1, &table), code(1, None));
    }
}
