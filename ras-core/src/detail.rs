//! Named facts of a record beyond those that every record has: a tree of [`Value`]s.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

use crate::Guid;

/// One fact: a stable name in `snake_case`, and what the source said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detail {
    /// Name, the field's own where the specification has one.
    pub name: Cow<'static, str>,
    /// Value.
    pub value: Value,
}

/// What a source said about one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Value {
    /// A count, an index, a size.
    Number(u64),
    /// A number that can be negative, such as a temperature.
    Signed(i64),
    /// An address or a raw register: shown in hexadecimal.
    Hex(u64),
    /// A single bit.
    Flag(bool),
    /// Words.
    Text(Cow<'static, str>),
    /// An encoded value and what it means; `None` where the specification gives it no meaning.
    Code {
        /// The value as found.
        code: u64,
        /// Its meaning.
        meaning: Option<Cow<'static, str>>,
    },
    /// A GUID.
    Guid(Guid),
    /// Bytes without a structure known here.
    Bytes(Vec<u8>),
    /// Several of the same kind.
    List(Vec<Self>),
    /// Facts that belong together.
    Group(Vec<Detail>),
}

impl Value {
    /// An encoded value, looked up in `table`.
    #[must_use]
    #[inline]
    pub fn code(code: u64, table: &[(u64, &'static str)]) -> Self {
        let meaning = table.iter().find(|(known, _)| *known == code);
        Self::Code { code, meaning: meaning.map(|(_, meaning)| Cow::Borrowed(*meaning)) }
    }

    /// The names of the bits of `bits` that are set, the lowest first; a set bit without a name is
    /// given as `bit N`.
    #[must_use]
    pub fn flags(bits: u64, table: &[(u32, &'static str)]) -> Self {
        let mut left = bits;
        let mut names = Vec::with_capacity(usize::try_from(bits.count_ones()).unwrap_or_default());
        while left != 0 {
            let bit = left.trailing_zeros();
            left &= left - 1;
            let name = table.iter().find(|(known, _)| *known == bit);
            let name = name.map(|(_, name)| *name);
            let number = usize::try_from(bit).unwrap_or_default();
            let name = name.or(BITS.get(number).copied()).unwrap_or_default();
            names.push(Self::Text(Cow::Borrowed(name)));
        }
        Self::List(names)
    }
}

/// Bits that nobody has named.
const BITS: [&str; 64] = [
    "bit 0", "bit 1", "bit 2", "bit 3", "bit 4", "bit 5", "bit 6", "bit 7", "bit 8", "bit 9",
    "bit 10", "bit 11", "bit 12", "bit 13", "bit 14", "bit 15", "bit 16", "bit 17", "bit 18",
    "bit 19", "bit 20", "bit 21", "bit 22", "bit 23", "bit 24", "bit 25", "bit 26", "bit 27",
    "bit 28", "bit 29", "bit 30", "bit 31", "bit 32", "bit 33", "bit 34", "bit 35", "bit 36",
    "bit 37", "bit 38", "bit 39", "bit 40", "bit 41", "bit 42", "bit 43", "bit 44", "bit 45",
    "bit 46", "bit 47", "bit 48", "bit 49", "bit 50", "bit 51", "bit 52", "bit 53", "bit 54",
    "bit 55", "bit 56", "bit 57", "bit 58", "bit 59", "bit 60", "bit 61", "bit 62", "bit 63",
];

impl From<&'static str> for Value {
    #[inline]
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    #[inline]
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<bool> for Value {
    #[inline]
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Value {
            #[inline]
            fn from(number: $number) -> Self {
                Self::Number(number.into())
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

/// Collects details in order.
pub trait Details {
    /// Adds a fact.
    fn add(&mut self, name: &'static str, value: impl Into<Value>);

    /// Adds a fact that the source may not have given.
    #[inline]
    fn add_some(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Adds an address or a raw register.
    #[inline]
    fn add_hex(&mut self, name: &'static str, value: impl Into<u64>) {
        self.add(name, Value::Hex(value.into()));
    }
}

impl Details for Vec<Detail> {
    #[inline]
    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.push(Detail { name: Cow::Borrowed(name), value: value.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_flags_keep_what_they_can_t_name() {
        let table = [(0, "none"), (3, "parity")];
        assert_eq!(
            Value::code(3, &table),
            Value::Code { code: 3, meaning: Some(Cow::Borrowed("parity")) }
        );
        assert_eq!(Value::code(4, &table), Value::Code { code: 4, meaning: None });
        assert_eq!(
            Value::flags(0b1001, &[(0, "low")]),
            Value::List(Vec::from([Value::from("low"), Value::from(String::from("bit 3"))]))
        );
    }
}
