//! `events/SYSTEM/EVENT/format`: which fields an event has, and where.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use thiserror::Error;

use super::{TraceError, little_endian};

/// Longest text taken, in bytes. The kernel's longest (system call tables) is a few KiB.
pub const TEXT_MAX: usize = 256 * 1024;

/// Most fields taken. The kernel's widest event has a few dozen.
pub const FIELDS_MAX: usize = 512;

/// Largest offset plus size taken, in bytes: no event is larger than a ring-buffer sub-buffer, and
/// those are limited to 64 KiB by default, to a few hundred KiB at most.
pub const PAYLOAD_MAX: usize = 1024 * 1024;

/// One tracepoint's layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventFormat {
    /// Name of the event, without its system.
    pub name: String,
    /// Its number on this kernel, in this boot: the first two bytes of every payload.
    pub id: u16,
    /// Its fields in the order of the text, the common ones first.
    pub fields: Vec<Field>,
    /// The kernel's names for the numbers and for the bits of its fields: the print format alone keeps
    /// them.
    symbols: Names,
    flags: Names,
}

/// One field of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Name.
    pub name: String,
    /// C type as the text spells it, without an array's length.
    pub type_name: String,
    /// Bytes from the start of the payload.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Whether the kernel says that the type is signed.
    pub signed: bool,
    /// What lies there.
    pub kind: FieldKind,
}

/// What lies at a field's offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// One value.
    Scalar,
    /// An array, in place.
    Array,
    /// `__data_loc`: size << 16 | offset, in bytes, of an array elsewhere in the payload.
    DataLoc,
    /// `__rel_loc`: the same, with the offset counted from the end of this field.
    RelLoc,
}

/// A text that is no event format.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The text is longer than [`TEXT_MAX`].
    #[error("format text of {len} bytes, more than {TEXT_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The text has more than [`FIELDS_MAX`] fields.
    #[error("more than {FIELDS_MAX} fields")]
    TooManyFields,
    /// A line or field that every format has is not there.
    #[error("no {what}")]
    Missing {
        /// Which.
        what: &'static str,
    },
    /// A line can't be read.
    #[error("line {line}: {detail}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        detail: &'static str,
    },
}

impl EventFormat {
    /// Parses the text of a `format` file. Unknown lines are skipped, so that later kernels may add
    /// some.
    ///
    /// # Errors
    /// [`FormatError`], when name, number or every field is missing, or a field line is broken.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        // Everything after this is one C expression that may contain line breaks.
        const PRINT_FMT: &str = "\nprint fmt:";
        if text.len() > TEXT_MAX {
            return Err(FormatError::TooLong { len: text.len() });
        }
        let (head, print_fmt) = text.split_once(PRINT_FMT).unwrap_or((text, ""));
        let (mut name, mut id) = (None, None);
        for (index, line) in head.lines().enumerate() {
            if let Some(value) = line.strip_prefix("name:") {
                name = Some(value.trim().to_string());
            } else if let Some(value) = line.strip_prefix("ID:") {
                let error = FormatError::Line { line: index + 1, detail: "ID is no 16-bit number" };
                id = Some(value.trim().parse().map_err(|_| error)?);
            }
        }
        let fields = parse_fields(head)?;
        let name = name.filter(|name| !name.is_empty());
        Ok(Self {
            name: name.ok_or(FormatError::Missing { what: "name line" })?,
            id: id.ok_or(FormatError::Missing { what: "ID line" })?,
            fields,
            symbols: names(print_fmt, "__print_symbolic("),
            flags: names(print_fmt, "__print_flags("),
        })
    }

    /// The field called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The integer in field `name` of `payload`; a signed one is sign-extended to 64 bits.
    ///
    /// # Errors
    /// [`TraceError::MissingField`], [`TraceError::NotAnInteger`] or [`TraceError::Truncated`].
    pub fn integer(&self, payload: &[u8], name: &str) -> Result<u64, TraceError> {
        match self.field(name) {
            Some(field) => field.integer(payload),
            None => {
                Err(TraceError::MissingField { event: self.name.clone(), field: name.to_string() })
            }
        }
    }

    /// Like [`Self::integer`], but `None` where this kernel's event has no such field.
    ///
    /// # Errors
    /// [`TraceError::NotAnInteger`] or [`TraceError::Truncated`].
    pub fn optional_integer(&self, payload: &[u8], name: &str) -> Result<Option<u64>, TraceError> {
        self.field(name).map(|field| field.integer(payload)).transpose()
    }

    /// The bytes of array field `name`, wherever in `payload` they lie. `None` where this kernel's
    /// event has no such field.
    ///
    /// # Errors
    /// [`TraceError::Truncated`] where they lie beyond the payload's end.
    pub fn bytes<'a>(&self, payload: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, TraceError> {
        self.field(name).map(|field| field.bytes(payload)).transpose()
    }

    /// The string in array field `name`, up to its first NUL. Bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn string(&self, payload: &[u8], name: &str) -> Result<Option<String>, TraceError> {
        let bytes = self.bytes(payload, name)?;
        Ok(bytes.map(|bytes| {
            let used = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(used).into_owned()
        }))
    }

    /// Checks that `payload` is of this event, if the format says where its number is.
    ///
    /// # Errors
    /// [`TraceError::WrongEvent`] or [`TraceError::Truncated`].
    pub fn check_event(&self, payload: &[u8]) -> Result<(), TraceError> {
        match self.optional_integer(payload, "common_type")? {
            Some(found) if found != u64::from(self.id) => {
                Err(TraceError::WrongEvent { expected: self.id, found })
            }
            _ => Ok(()),
        }
    }

    /// The kernel's own names for the bits of `value` of field `name` that are set: from the table that
    /// the print format hands to `__print_flags` for this field. Bits without a name are `bit N`.
    /// `None` where there is no table.
    #[must_use]
    pub fn flags(&self, name: &str, value: u64) -> Option<Vec<String>> {
        let pairs = self.flags.get(name)?;
        let bits = (0..64).filter(|bit| value >> bit & 1 == 1);
        let named = |bit: u32| {
            let found = pairs.iter().find(|(mask, _)| mask.cast_unsigned() == 1 << bit);
            found.map_or_else(|| alloc::format!("bit {bit}"), |(_, name)| name.clone())
        };
        Some(bits.map(named).collect())
    }

    /// The kernel's own name for `value` of field `name`: from the table that the print format hands
    /// to `__print_symbolic` for this field. `None` where there is no table, or no such value in it.
    #[must_use]
    pub fn symbol(&self, name: &str, value: i64) -> Option<&str> {
        let pairs = self.symbols.get(name)?;
        pairs.iter().find(|(number, _)| *number == value).map(|(_, text)| text.as_str())
    }
}

impl Field {
    fn bytes<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], TraceError> {
        let (offset, size) = match self.kind {
            FieldKind::Scalar | FieldKind::Array => (self.offset, self.size),
            FieldKind::DataLoc | FieldKind::RelLoc => {
                let place = little_endian(payload, self.offset, self.size.min(4))
                    .ok_or_else(|| self.truncated(payload, self.offset, self.size))?;
                let [low, high] = [place & 0xffff, place >> 16 & 0xffff];
                let base = match self.kind {
                    FieldKind::RelLoc => self.offset.saturating_add(self.size),
                    _ => 0,
                };
                let number = |value| usize::try_from(value).unwrap_or(usize::MAX);
                (base.saturating_add(number(low)), number(high))
            }
        };
        let end = offset.saturating_add(size);
        payload.get(offset..end).ok_or_else(|| self.truncated(payload, offset, size))
    }

    fn truncated(&self, payload: &[u8], offset: usize, needed: usize) -> TraceError {
        let available = payload.len().saturating_sub(offset);
        TraceError::Truncated { what: self.name.clone(), offset, needed, available }
    }

    fn integer(&self, payload: &[u8]) -> Result<u64, TraceError> {
        if self.kind != FieldKind::Scalar || !matches!(self.size, 1 | 2 | 4 | 8) {
            return Err(TraceError::NotAnInteger {
                field: self.name.clone(),
                type_name: self.type_name.clone(),
                size: self.size,
            });
        }
        let value = little_endian(payload, self.offset, self.size)
            .ok_or_else(|| self.truncated(payload, self.offset, self.size))?;
        let unused = 64 - 8 * self.size;
        Ok(if self.signed {
            ((value << unused).cast_signed() >> unused).cast_unsigned()
        } else {
            value
        })
    }
}

/// All `field:` lines of `text`, which `events/header_page` has as well.
pub(super) fn parse_fields(text: &str) -> Result<Vec<Field>, FormatError> {
    let mut fields = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(line) = line.trim_start().strip_prefix("field:") else { continue };
        if fields.len() == FIELDS_MAX {
            return Err(FormatError::TooManyFields);
        }
        fields.push(
            parse_field(line).map_err(|detail| FormatError::Line { line: index + 1, detail })?,
        );
    }
    if fields.is_empty() { Err(FormatError::Missing { what: "fields" }) } else { Ok(fields) }
}

fn parse_field(line: &str) -> Result<Field, &'static str> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next().unwrap_or_default();
    let (mut offset, mut size, mut signed) = (None, None, false);
    for part in parts.filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once(':').ok_or("a part without a colon")?;
        match key {
            "offset" => offset = Some(value.parse().map_err(|_| "offset is no number")?),
            "size" => size = Some(value.parse().map_err(|_| "size is no number")?),
            "signed" => signed = value != "0",
            _ => {}
        }
    }
    let (offset, size): (usize, usize) = (offset.ok_or("no offset")?, size.ok_or("no size")?);
    if offset.saturating_add(size) > PAYLOAD_MAX {
        return Err("ends beyond any possible payload");
    }
    let (type_name, name, kind) = parse_declaration(declaration).ok_or("no type and name")?;
    Ok(Field { name: name.into(), type_name: type_name.into(), offset, size, signed, kind })
}

/// `unsigned long pfn`, `char comm[16]`, `__data_loc char[] msg`: to type, name and kind.
fn parse_declaration(declaration: &str) -> Option<(&str, &str, FieldKind)> {
    let (declaration, is_array) = match declaration.strip_suffix(']') {
        Some(declaration) => (declaration.rsplit_once('[')?.0.trim_end(), true),
        None => (declaration, false),
    };
    let (type_name, name) = declaration.rsplit_once(char::is_whitespace)?;
    let kind = match type_name {
        _ if type_name.starts_with("__data_loc ") => FieldKind::DataLoc,
        _ if type_name.starts_with("__rel_loc ") => FieldKind::RelLoc,
        _ if is_array => FieldKind::Array,
        _ => FieldKind::Scalar,
    };
    let type_name = type_name.trim();
    (!type_name.is_empty() && !name.is_empty()).then_some((type_name, name, kind))
}

/// By field, the numbers and the names that `function` prints for them. The first call for a field
/// wins.
type Names = BTreeMap<String, Vec<(i64, String)>>;

fn names(print_fmt: &str, function: &str) -> Names {
    let mut names = Names::new();
    for call in print_fmt.split(function).skip(1) {
        let Some((field, rest)) =
            call.trim_start().strip_prefix("REC->").and_then(|rest| rest.split_once(','))
        else {
            continue;
        };
        // Between the field of a `__print_flags` and its table stands the separator it would print.
        let rest = rest.trim_start();
        let table = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let table = table.map_or(rest, |(_, table)| table);
        names.entry(field.trim().to_string()).or_insert_with(|| {
            Pairs { rest: table }.map(|(number, text)| (number, text.to_string())).collect()
        });
    }
    names
}

/// The `{ number, "text" }` pairs that follow, up to the parenthesis that closes the call. Pairs
/// whose number is an expression (some kernels print enum names there) are skipped.
struct Pairs<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (i64, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let open = self.rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            let (number, rest) = open.strip_prefix('{')?.split_once(',')?;
            // The names have no quotes inside them, and nothing is unescaped.
            let (text, rest) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
            self.rest = rest.trim_start().strip_prefix('}')?;
            if let Some(number) = parse_number(number.trim()) {
                return Some((number, text));
            }
        }
    }
}

/// A number, or a bit as the kernel's `BIT()` expands: `((((1UL))) << (3))`.
fn parse_number(text: &str) -> Option<i64> {
    if let Some((one, shift)) = text.split_once("<<") {
        let inner = |text: &str| -> Option<u32> {
            text.trim_matches(|c: char| {
                c.is_whitespace() || c == '(' || c == ')' || c == 'U' || c == 'L'
            })
            .parse()
            .ok()
        };
        return (inner(one)? == 1).then(|| 1_i64.checked_shl(inner(shift)?)).flatten();
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative { value.checked_neg()? } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    const TEXT: &str = "name: demo\nID: 300\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:int delta;\toffset:4;\tsize:4;\tsigned:1;\n\
        \tfield:char uuid[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:__data_loc char[] msg;\toffset:24;\tsize:4;\tsigned:0;\n\
        \tfield:u64 wide;\toffset:32;\tsize:8;\tsigned:0;\n\n\
        print fmt: \"%s\n%s\", __print_symbolic(REC->wide2, { 1, \"wrong\" }), \
        __print_symbolic(REC->wide, { 0, \"zero\" }, { SOME_ENUM, \"skipped\" },{0x10,\"sixteen\"}, { -1, \"minus\" }), \"tail\"\n";

    #[test]
    fn a_whole_format() {
        let format = EventFormat::parse(TEXT).unwrap();
        assert_eq!((format.name.as_str(), format.id, format.fields.len()), ("demo", 300, 5));
        let kinds: Vec<_> = format.fields.iter().map(|f| (f.name.as_str(), f.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("common_type", FieldKind::Scalar),
                ("delta", FieldKind::Scalar),
                ("uuid", FieldKind::Array),
                ("msg", FieldKind::DataLoc),
                ("wide", FieldKind::Scalar)
            ]
        );
        assert_eq!(format.field("msg").map(|f| f.type_name.as_str()), Some("__data_loc char[]"));
        assert_eq!(format.symbol("wide", 0), Some("zero"));
        assert_eq!(format.symbol("wide", 16), Some("sixteen"));
        assert_eq!(format.symbol("wide", -1), Some("minus"));
        assert_eq!(format.symbol("wide", 1), None);
        assert_eq!(format.symbol("delta", 1), None);
    }

    #[test]
    fn integers_and_what_prevents_them() {
        let format = EventFormat::parse(TEXT).unwrap();
        let mut payload = [0u8; 40];
        payload[..2].copy_from_slice(&300u16.to_le_bytes());
        payload[4..8].copy_from_slice(&(-2i32).to_le_bytes());
        payload[32..].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(format.integer(&payload, "delta").map(u64::cast_signed), Ok(-2));
        assert_eq!(format.integer(&payload, "wide"), Ok(u64::MAX));
        assert_eq!(format.check_event(&payload), Ok(()));
        assert_eq!(format.optional_integer(&payload, "absent"), Ok(None));
        let missing = format.integer(&payload, "absent").unwrap_err();
        assert_eq!(format!("{missing}"), "event demo has no field absent");
        let array = format.integer(&payload, "uuid").unwrap_err();
        assert!(matches!(array, TraceError::NotAnInteger { size: 16, .. }));
        let short = format.integer(&payload[..35], "wide").unwrap_err();
        assert_eq!(format!("{short}"), "wide at offset 32 needs 8 bytes, 3 are there");
        payload[0] = 1;
        assert!(matches!(format.check_event(&payload), Err(TraceError::WrongEvent { .. })));
    }

    #[test]
    fn broken_texts_say_what_is_wrong() {
        let check = |text: &str, expected: &str| {
            assert_eq!(EventFormat::parse(text).unwrap_err().to_string(), expected);
        };
        let field = "field:int a;\toffset:0;\tsize:4;\tsigned:1;\n";
        check("", "no fields");
        check(field, "no name line");
        check(&format!("name: x\n{field}"), "no ID line");
        check(&format!("name: x\nID: 70000\n{field}"), "line 2: ID is no 16-bit number");
        check("name: x\nID: 1\nfield:int a;size:4;", "line 3: no offset");
        check("name: x\nID: 1\nfield:int a;offset:0;", "line 3: no size");
        check("name: x\nID: 1\nfield:a;offset:0;size:4;", "line 3: no type and name");
        check("name: x\nID: 1\nfield:int a;offset:-1;size:4;", "line 3: offset is no number");
        check(
            "name: x\nID: 1\nfield:int a;offset:1048573;size:4;",
            "line 3: ends beyond any possible payload",
        );
        check(&field.repeat(FIELDS_MAX + 1), "more than 512 fields");
        check(&"x".repeat(TEXT_MAX + 1), "format text of 262145 bytes, more than 262144");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,400}") {
            let _ = EventFormat::parse(&text);
        }

        #[test]
        fn a_damaged_text_never_panics(cut in 0..TEXT.len(), at in 0..TEXT.len(), with in "[ -~\n]") {
            let _ = EventFormat::parse(&TEXT[..cut]);
            let mut text = TEXT.to_string();
            text.replace_range(at..=at, &with);
            if let Ok(format) = EventFormat::parse(&text) {
                for field in &format.fields {
                    let _ = format.integer(&[0; 40], &field.name);
                    let _ = format.symbol(&field.name, 0);
                }
            }
        }
    }
}
