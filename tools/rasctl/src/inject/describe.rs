//! Descriptions, checked.

use std::time::SystemTime;

use ras_core::{CpuVendor, Guid, McaRegisters, Timestamp};
use serde_json::{Map, Value};

use super::InjectError;
use super::layout::{self, Body};

type Object = Map<String, Value>;

/// What to make.
#[derive(Clone, Debug)]
pub struct Description {
    /// How it is written.
    pub form: Form,
    /// All errors are sections of one record.
    pub one_record: bool,
    /// The errors, in their order.
    pub errors: Vec<Error>,
}

/// How errors are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the formats' own")]
pub enum Form {
    Cper,
    StatusBlock,
    KernelLog,
    Mcelog,
    Capture,
    StructMce,
    /// Trace events' payloads.
    Trace,
}

impl Form {
    const ALL: [Self; 7] = [
        Self::Cper,
        Self::StatusBlock,
        Self::KernelLog,
        Self::Mcelog,
        Self::Capture,
        Self::StructMce,
        Self::Trace,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cper => "cper",
            Self::StatusBlock => "status-block",
            Self::KernelLog => "kernel-log",
            Self::Mcelog => "mcelog",
            Self::Capture => "capture",
            Self::StructMce => "struct-mce",
            Self::Trace => "trace",
        }
    }

    /// The form of this name.
    ///
    /// # Errors
    /// The names there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|form| form.name() == name)
            .ok_or_else(|| format!("the forms are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// One error.
#[derive(Clone, Debug)]
pub struct Error {
    /// What every error has.
    pub common: Common,
    /// What it is.
    pub kind: Kind,
}

/// What every error may have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Common {
    /// When it happened.
    pub time: Option<Timestamp>,
    /// Firmware's grade: 0 recoverable, 1 fatal, 2 corrected, 3 informational.
    pub severity: u32,
    /// Field-replaceable unit.
    pub fru_text: Option<String>,
    /// Flags of the section.
    pub flags: u32,
    /// Flags of the record.
    pub record_flags: u32,
}

/// What an error is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A machine-check bank.
    Mce(Box<Mce>),
    /// A section of a firmware record: its type and body.
    Section(Section),
    /// A trace event.
    Trace(Trace),
    /// An EDAC line in the kernel log.
    Edac(Object),
    /// A line of the kernel's about a page.
    MemoryFailure(Object),
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Mce(_) => "mce",
            Self::Section(section) => section.name,
            Self::Trace(_) => "trace event",
            Self::Edac(_) => "edac line",
            Self::MemoryFailure(_) => "memory-failure line",
        }
    }
}

/// A bank and the processor it is of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mce {
    /// The registers.
    pub registers: McaRegisters,
    /// Logical CPU.
    pub cpu: u32,
    /// Processor package.
    pub socket: u32,
}

/// A section of a firmware record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// Name of its kind.
    pub name: &'static str,
    /// Section type.
    pub section_type: Guid,
    /// The body.
    pub body: Vec<u8>,
    /// The members it was made from, for forms that are text.
    pub members: Object,
}

/// A trace event.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// `SYSTEM:EVENT`.
    pub event: String,
    /// The kernel's description of it; else one of our own.
    pub format: Option<String>,
    /// Values of its fields.
    pub fields: Object,
}

impl Error {
    pub(super) fn mce(&self) -> Option<&Mce> {
        match &self.kind {
            Kind::Mce(mce) => Some(mce),
            _ => None,
        }
    }
}

impl Description {
    pub(super) fn from_object(mut object: Object) -> Result<Self, InjectError> {
        let wrong = |member: &str, detail: String| InjectError::member(member, detail);
        let form = match object.remove("form") {
            Some(Value::String(name)) => Form::parse(&name).map_err(|text| wrong("form", text))?,
            _ => return Err(wrong("form", "has to say how errors are written".into())),
        };
        let one_record = match object.remove("one_record") {
            None => false,
            Some(Value::Bool(one)) => one,
            Some(_) => return Err(wrong("one_record", "is true or false".into())),
        };
        let Some(Value::Array(errors)) = object.remove("error") else {
            return Err(wrong("error", "has to be there, once for each error: [[error]]".into()));
        };
        if let Some(name) = object.keys().next() {
            return Err(wrong(name, "is not known here".into()));
        }
        let errors = errors.into_iter().enumerate().map(|(index, error)| {
            let place = format!("error {}", index + 1);
            match error {
                Value::Object(object) => error_of(object, &place),
                _ => Err(InjectError::member(place, "is no table")),
            }
        });
        Ok(Self { form, one_record, errors: errors.collect::<Result<_, _>>()? })
    }
}

fn error_of(mut object: Object, place: &str) -> Result<Error, InjectError> {
    let wrong =
        |member: &str, detail: &str| InjectError::member(format!("{place}, {member}"), detail);
    let Some(Value::String(kind)) = object.remove("kind") else {
        return Err(wrong("kind", "has to say what it is"));
    };
    let mut members = Members { object: &mut object, place };
    let common = Common {
        time: members.time()?,
        severity: match members.text("severity")?.as_deref() {
            None | Some("corrected") => 2,
            Some("recoverable") => 0,
            Some("fatal") => 1,
            Some("informational") => 3,
            Some(_) => {
                let names = "is corrected, recoverable, fatal or informational";
                return Err(wrong("severity", names));
            }
        },
        fru_text: members.text("fru_text")?,
        flags: members.narrow("flags")?.unwrap_or(0),
        record_flags: members.narrow("record_flags")?.unwrap_or(0),
    };
    let kind = match kind.as_str() {
        "mce" => Kind::Mce(Box::new(members.mce()?)),
        "trace" => Kind::Trace(Trace {
            event: members.text("event")?.ok_or_else(|| wrong("event", "has to be there"))?,
            format: members.text("format")?,
            fields: match members.object.remove("fields") {
                Some(Value::Object(fields)) => fields,
                _ => return Err(wrong("fields", "has to be a table of the event's fields")),
            },
        }),
        "edac" => Kind::Edac(std::mem::take(&mut object)),
        "memory-failure" => Kind::MemoryFailure(std::mem::take(&mut object)),
        "section" => {
            let section_type = members
                .guid("section_type")?
                .ok_or_else(|| wrong("section_type", "has to be there"))?;
            let body = members.bytes("body")?.unwrap_or_default();
            let members = Object::new();
            Kind::Section(Section { name: "section", section_type, body, members })
        }
        "ia32-x64" => {
            let all = members.object.clone();
            let body = layout::ia32_x64(&mut members)?;
            let section_type = layout::IA32_X64.section_type;
            Kind::Section(Section { name: "ia32-x64", section_type, body, members: all })
        }
        name => {
            let Some(layout) = layout::BODIES.iter().find(|body| body.name == name) else {
                return Err(wrong("kind", &format!("nobody makes a {name:?}; see INJECT.md")));
            };
            let Body { name, section_type, .. } = layout;
            let all = members.object.clone();
            let body = layout.build(&mut members)?;
            Kind::Section(Section { name, section_type: *section_type, body, members: all })
        }
    };
    if let Some(name) = object.keys().next() {
        return Err(wrong(name, "is not known here"));
    }
    Ok(Error { common, kind })
}

/// Members of one table that are taken out one by one: what is left is not known.
pub(super) struct Members<'a> {
    pub(super) object: &'a mut Object,
    pub(super) place: &'a str,
}

impl Members<'_> {
    fn wrong(&self, name: &str, detail: &str) -> InjectError {
        InjectError::member(format!("{}, {name}", self.place), detail)
    }

    /// A number, `"0x…"` where it needs all 64 bits.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, InjectError> {
        let Some(value) = self.object.remove(name) else { return Ok(None) };
        number(&value).map(Some).ok_or_else(|| self.wrong(name, "is no number, nor \"0x…\""))
    }

    pub(super) fn narrow<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, InjectError> {
        let Some(number) = self.number(name)? else { return Ok(None) };
        T::try_from(number).map(Some).map_err(|_| self.wrong(name, "is too large"))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, InjectError> {
        match self.object.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "is no text")),
        }
    }

    pub(super) fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, InjectError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let bytes = rasd_api::capture::line::decode_hex(&text);
        bytes
            .map(Some)
            .ok_or_else(|| self.wrong(name, "is not an even number of hexadecimal digits"))
    }

    pub(super) fn guid(&mut self, name: &str) -> Result<Option<Guid>, InjectError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        Guid::try_from(text).map(Some).map_err(|detail| self.wrong(name, detail))
    }

    /// RFC 3339, or nanoseconds since the Unix epoch.
    fn time(&mut self) -> Result<Option<Timestamp>, InjectError> {
        let nanos = match self.object.remove("time") {
            None => return Ok(None),
            Some(Value::String(text)) => {
                let time = humantime::parse_rfc3339(&text).ok();
                let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
                since.and_then(|since| u64::try_from(since.as_nanos()).ok())
            }
            Some(value) => value.as_u64(),
        };
        let time = nanos.map(|nanos| Some(Timestamp(nanos)));
        time.ok_or_else(|| self.wrong("time", "is neither RFC 3339 in UTC nor nanoseconds"))
    }

    /// Registers by their own names.
    pub(super) fn mce(&mut self) -> Result<Mce, InjectError> {
        let vendor = match self.text("vendor")?.as_deref() {
            None | Some("intel") => CpuVendor::Intel,
            Some("amd") => CpuVendor::Amd,
            Some("hygon") => CpuVendor::Hygon,
            Some("zhaoxin") => CpuVendor::Zhaoxin,
            Some(_) => return Err(self.wrong("vendor", "is intel, amd, hygon or zhaoxin")),
        };
        let mut wide = |name| self.number(name).map(Option::unwrap_or_default);
        let registers = McaRegisters {
            vendor,
            mcg_cap: wide("mcg_cap")?,
            mcg_status: wide("mcg_status")?,
            status: wide("status")?,
            addr: wide("addr")?,
            misc: wide("misc")?,
            synd: wide("synd")?,
            ipid: wide("ipid")?,
            synd1: wide("synd1")?,
            synd2: wide("synd2")?,
            config: wide("config")?,
            destat: wide("destat")?,
            deaddr: wide("deaddr")?,
            ip: wide("ip")?,
            tsc: wide("tsc")?,
            ppin: wide("ppin")?,
            cpuid: self.narrow("cpuid")?.unwrap_or(0),
            apic_id: self.narrow("apic_id")?.unwrap_or(0),
            microcode: self.narrow("microcode")?.unwrap_or(0),
            bank: self.narrow("bank")?.unwrap_or(0),
            cs: self.narrow("cs")?.unwrap_or(0),
        };
        let cpu = self.narrow("cpu")?.unwrap_or(0);
        Ok(Mce { registers, cpu, socket: self.narrow("socket")?.unwrap_or(0) })
    }
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => {
            number.as_u64().or_else(|| number.as_i64().map(i64::cast_unsigned))
        }
        Value::String(text) => {
            text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
        }
        Value::Bool(flag) => Some(u64::from(*flag)),
        _ => None,
    }
}
