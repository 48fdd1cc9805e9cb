//! Trace events' payloads, laid out by a kernel's own `format` text or by one made of the fields.

use std::fmt::Write as _;

use mce_decoder::trace::{EventFormat, FieldKind};
use serde_json::Value;

use super::InjectError;
use super::describe::{Error, Kind, Trace, number};

/// Where a kernel's own fields end: type, flags, preemption count, process.
const COMMON: &str = "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
                      \tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n\
                      \tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n\
                      \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n";
const COMMON_END: usize = 8;

/// The tracepoint's name with its system.
pub(super) fn full_name(error: &Error) -> String {
    trace(error).map_or_else(|_| String::new(), |trace| trace.event.clone())
}

fn trace(error: &Error) -> Result<&Trace, InjectError> {
    match &error.kind {
        Kind::Trace(trace) => Ok(trace),
        other => Err(InjectError::Form { kind: other.name(), form: "trace" }),
    }
}

/// The format's text and one event's bytes.
pub(super) fn payload(error: &Error) -> Result<(String, Vec<u8>), InjectError> {
    let trace = trace(error)?;
    let wrong =
        |name: &str, detail: &str| InjectError::member(format!("{}, {name}", trace.event), detail);
    let text = trace.format.clone().unwrap_or_else(|| minimal(trace));
    let format =
        EventFormat::parse(&text).map_err(|error| wrong("format", &crate::chain(&error)))?;
    let end = format.fields.iter().map(|field| field.offset + field.size).max().unwrap_or(0);
    let mut bytes = vec![0; end];
    bytes
        .get_mut(..2)
        .ok_or_else(|| wrong("format", "has no room for its number"))?
        .copy_from_slice(&format.id.to_le_bytes());
    for (name, value) in &trace.fields {
        let field = format.field(name).ok_or_else(|| wrong(name, "is no field of the format"))?;
        let content = content(value).ok_or_else(|| wrong(name, "is neither number nor text"))?;
        let place = field.offset..field.offset + field.size;
        match (field.kind, content) {
            (FieldKind::Scalar, Content::Number(value)) => {
                let value = &value.to_le_bytes();
                let count = field.size.min(8);
                bytes[place][..count].copy_from_slice(&value[..count]);
            }
            (FieldKind::Array, Content::Bytes(value)) if value.len() <= field.size => {
                bytes[place][..value.len()].copy_from_slice(&value);
            }
            (kind @ (FieldKind::DataLoc | FieldKind::RelLoc), Content::Bytes(value)) => {
                let from = if kind == FieldKind::RelLoc { place.end } else { 0 };
                let offset = u16::try_from(bytes.len() - from).ok();
                let sizes = u16::try_from(value.len()).ok().zip(offset);
                let (size, offset) = sizes.ok_or_else(|| wrong(name, "is too long"))?;
                let location = u32::from(size) << 16 | u32::from(offset);
                bytes[place][..4].copy_from_slice(&location.to_le_bytes());
                bytes.extend(value);
            }
            _ => return Err(wrong(name, "does not fit the field's type")),
        }
    }
    Ok((text, bytes))
}

enum Content {
    Number(u64),
    Bytes(Vec<u8>),
}

/// Numbers; bytes as `hex:…`; any other text with the zero at its end.
fn content(value: &Value) -> Option<Content> {
    if let Some(number) = number(value) {
        return Some(Content::Number(number));
    }
    let text = value.as_str()?;
    match text.strip_prefix("hex:") {
        Some(digits) => rasd_api::capture::line::decode_hex(digits).map(Content::Bytes),
        None => Some(Content::Bytes(text.bytes().chain([0]).collect())),
    }
}

/// A format with just the fields of the description: numbers of 64 bits, and arrays elsewhere.
fn minimal(trace: &Trace) -> String {
    let name = trace.event.rsplit(':').next().unwrap_or_default();
    let mut text = format!("name: {name}\nID: 1\nformat:\n{COMMON}");
    let mut offset = COMMON_END;
    for (name, value) in &trace.fields {
        let (declaration, size) = match content(value) {
            Some(Content::Number(_)) => (format!("u64 {name}"), 8),
            _ if value.as_str().is_some_and(|text| text.starts_with("hex:")) => {
                (format!("__data_loc u8[] {name}"), 4)
            }
            _ => (format!("__data_loc char[] {name}"), 4),
        };
        offset = offset.next_multiple_of(size);
        let _ = writeln!(text, "\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:0;");
        offset += size;
    }
    text
}
