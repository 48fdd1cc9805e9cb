//! One line of a capture.

use ras_core::{CpuVendor, McaRegisters, Timestamp};
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

/// One line of a capture, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// The text of a tracepoint's `format` file; holds for the events that follow.
    Format {
        /// `SYSTEM:EVENT`.
        tracepoint: String,
        /// The text.
        text: String,
    },
    /// One report of errors.
    Report {
        /// When it was captured.
        time: Option<Timestamp>,
        /// What was captured.
        body: Body,
    },
}

/// What was captured, undecoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A trace event's bytes, common fields included.
    Tracepoint {
        /// `SYSTEM:EVENT`.
        name: String,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Machine-check registers.
    Mce(Box<Mce>),
    /// CPER records, one after the other.
    Cper(Vec<u8>),
    /// APEI generic error status blocks, one after the other.
    StatusBlock(Vec<u8>),
}

/// Machine-check registers and the processor they are of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mce {
    /// The registers; those not captured are 0.
    pub registers: McaRegisters,
    /// Logical CPU number.
    pub cpu: Option<u32>,
    /// Processor package.
    pub socket: Option<u32>,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Not JSON, or not of this shape.
    #[error("not a line of a capture")]
    Json(#[from] serde_json::Error),
    /// Several kinds of report in one line, or none.
    #[error(
        "a line holds exactly one of 'format', 'raw', 'mce', 'cper' and 'status_block'; \
         'tracepoint' goes with the first two"
    )]
    Shape,
    /// Longer than [`LINE_MAX`](super::LINE_MAX).
    #[error("longer than 1 MiB")]
    TooLong,
    /// A place in a binary capture where a CPER record should begin.
    #[error("no CPER record; skipped up to the next")]
    NoRecord,
    /// A place in a binary capture where a status block should begin.
    #[error("no error status block; the rest is not read")]
    NoStatusBlock,
    /// A byte string that is none.
    #[error("'{field}' is not an even number of hexadecimal digits")]
    Hex {
        /// The field.
        field: &'static str,
    },
}

impl Line {
    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn parse(line: &[u8]) -> Result<Self, CaptureError> {
        let fields: Fields = serde_json::from_slice(line)?;
        let time = fields.time_ns.map(Timestamp);
        let hex = |field, text: &str| decode_hex(text).ok_or(CaptureError::Hex { field });
        let body = match fields {
            Fields {
                tracepoint: Some(tracepoint),
                format: Some(text),
                raw: None,
                mce: None,
                cper: None,
                status_block: None,
                ..
            } => return Ok(Self::Format { tracepoint, text }),
            Fields {
                tracepoint: Some(name),
                raw: Some(raw),
                format: None,
                mce: None,
                cper: None,
                status_block: None,
                ..
            } => Body::Tracepoint { name, payload: hex("raw", &raw)? },
            Fields {
                mce: Some(mce),
                tracepoint: None,
                format: None,
                raw: None,
                cper: None,
                status_block: None,
                ..
            } => Body::Mce(Box::new((*mce).into())),
            Fields {
                cper: Some(cper),
                tracepoint: None,
                format: None,
                raw: None,
                mce: None,
                status_block: None,
                ..
            } => Body::Cper(hex("cper", &cper)?),
            Fields {
                status_block: Some(block),
                tracepoint: None,
                format: None,
                raw: None,
                mce: None,
                cper: None,
                ..
            } => Body::StatusBlock(hex("status_block", &block)?),
            _ => return Err(CaptureError::Shape),
        };
        Ok(Self::Report { time, body })
    }
}

/// A line before its shape is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    time_ns: Option<u64>,
    tracepoint: Option<String>,
    format: Option<String>,
    raw: Option<String>,
    mce: Option<Box<MceFields>>,
    cper: Option<String>,
    status_block: Option<String>,
}

/// `status` decides everything, so it alone must be there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MceFields {
    vendor: CpuVendor,
    status: Number,
    #[serde(default)]
    cpuid: Narrow,
    #[serde(default)]
    bank: u8,
    #[serde(default)]
    mcg_cap: Number,
    #[serde(default)]
    mcg_status: Number,
    #[serde(default)]
    addr: Number,
    #[serde(default)]
    misc: Number,
    #[serde(default)]
    synd: Number,
    #[serde(default)]
    ipid: Number,
    #[serde(default)]
    ip: Number,
    #[serde(default)]
    cs: u8,
    #[serde(default)]
    tsc: Number,
    #[serde(default)]
    ppin: Number,
    #[serde(default)]
    apic_id: Narrow,
    #[serde(default)]
    microcode: Narrow,
    cpu: Option<u32>,
    socket: Option<u32>,
}

impl From<MceFields> for Mce {
    fn from(fields: MceFields) -> Self {
        let registers = McaRegisters {
            vendor: fields.vendor,
            cpuid: fields.cpuid.0,
            bank: fields.bank,
            mcg_cap: fields.mcg_cap.0,
            mcg_status: fields.mcg_status.0,
            status: fields.status.0,
            addr: fields.addr.0,
            misc: fields.misc.0,
            synd: fields.synd.0,
            ipid: fields.ipid.0,
            ip: fields.ip.0,
            cs: fields.cs,
            tsc: fields.tsc.0,
            ppin: fields.ppin.0,
            apic_id: fields.apic_id.0,
            microcode: fields.microcode.0,
            ..McaRegisters::default()
        };
        Self { registers, cpu: fields.cpu, socket: fields.socket }
    }
}

/// A 64-bit register: a JSON number, or `"0x…"`, since many JSON writers lose bits above 2^53.
#[derive(Clone, Copy, Default, Serialize)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of 64 bits, or \"0x…\"")
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                text.strip_prefix("0x")
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .map(Number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// As [`Number`], of 32 bits.
#[derive(Clone, Copy, Default)]
struct Narrow(u32);

impl<'de> Deserialize<'de> for Narrow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Number(value) = Number::deserialize(deserializer)?;
        u32::try_from(value)
            .map(Self)
            .map_err(|_| D::Error::invalid_value(Unexpected::Unsigned(value), &"32 bits"))
    }
}

/// Bytes from hexadecimal digits; blanks between bytes are allowed.
#[must_use]
pub fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4) | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(line: &str) -> Body {
        match Line::parse(line.as_bytes()).unwrap() {
            Line::Report { body, .. } => body,
            Line::Format { .. } => panic!("{line} is a report"),
        }
    }

    #[test]
    fn every_kind_of_line_is_read() {
        let line = r#"{"tracepoint":"mce:mce_record","format":"name: mce_record\n"}"#;
        assert!(matches!(Line::parse(line.as_bytes()), Ok(Line::Format { .. })));
        let line = r#"{"time_ns":7,"tracepoint":"mce:mce_record","raw":"00ff"}"#;
        let name = "mce:mce_record".to_owned();
        assert_eq!(report(line), Body::Tracepoint { name, payload: vec![0, 255] });
        assert_eq!(report(r#"{"cper":"4350"}"#), Body::Cper(b"CP".to_vec()));
        assert_eq!(report(r#"{"status_block":"01 02"}"#), Body::StatusBlock(vec![1, 2]));
        let Body::Mce(mce) = report(
            r#"{"time_ns":1,"mce":{"vendor":"intel","bank":9,"status":"0xbd00000000000134",
                "addr":4096,"cpuid":"0x50654","cpu":3}}"#,
        ) else {
            panic!("machine check expected");
        };
        assert_eq!(mce.registers.status, 0xbd00_0000_0000_0134);
        assert_eq!((mce.registers.addr, mce.registers.cpuid), (4096, 0x50654));
        assert_eq!((mce.cpu, mce.socket), (Some(3), None));
    }

    #[test]
    fn what_is_not_a_line_says_why() {
        let wrong = |line: &str| Line::parse(line.as_bytes()).unwrap_err().to_string();
        for line in ["", "garbage", "{", "[]", "17", r#"{"unknown":1}"#, r#"{"mce":{}}"#] {
            assert_eq!(wrong(line), "not a line of a capture", "{line}");
        }
        for line in ["{}", r#"{"time_ns":1}"#, r#"{"cper":"","status_block":""}"#] {
            assert!(wrong(line).contains("exactly one of"), "{line}");
        }
        for line in [r#"{"cper":"0"}"#, r#"{"cper":"0g"}"#, r#"{"cper":"é"}"#] {
            assert!(wrong(line).starts_with("'cper' is not"), "{line}");
        }
        let negative = r#"{"mce":{"vendor":"intel","status":"0x","addr":-1}}"#;
        assert!(Line::parse(negative.as_bytes()).is_err());
    }
}
