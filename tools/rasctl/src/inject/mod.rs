//! `rasctl inject build`: inputs for decoders, made from a small description. `INJECT.md` documents it.
//!
//! The encoders know the formats from their specifications, not from the decoders: what comes back
//! from a decoder is a check of both.

mod describe;
mod layout;
mod log;
mod mca;
mod record;
mod trace;

use std::fmt::Write as _;

use serde_json::{Map, Value};

pub use self::describe::{Common, Description, Error, Form, Kind};

/// A description that can't be built.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// Not TOML, nor JSON.
    #[error("reading the description as TOML")]
    Toml(#[from] Box<toml::de::Error>),
    /// A member is missing, unknown, or not what it has to be.
    #[error("{place}: {detail}")]
    Member {
        /// Which error, which member.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// No such combination.
    #[error("a {kind} can't be written as {form}")]
    Form {
        /// What is described.
        kind: &'static str,
        /// How it shall be written.
        form: &'static str,
    },
}

impl InjectError {
    fn member(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Member { place: place.into(), detail: detail.into() }
    }
}

/// Descriptions to begin with, by the name of what they make.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("mce", include_str!("examples/mce.toml")),
    ("mce-amd", include_str!("examples/mce-amd.toml")),
    ("memory", include_str!("examples/memory.toml")),
    ("memory2", include_str!("examples/memory2.toml")),
    ("pcie", include_str!("examples/pcie.toml")),
    ("ia32-x64", include_str!("examples/ia32-x64.toml")),
    ("processor", include_str!("examples/processor.toml")),
    ("firmware", include_str!("examples/firmware.toml")),
    ("cxl-dram", include_str!("examples/cxl-dram.toml")),
    ("section", include_str!("examples/section.toml")),
    ("edac", include_str!("examples/edac.toml")),
    ("memory-failure", include_str!("examples/memory-failure.toml")),
    ("trace", include_str!("examples/trace.toml")),
];

/// Reads a description: TOML, or JSON where it begins with a brace.
///
/// # Errors
/// [`InjectError`].
pub fn parse(text: &str) -> Result<Description, InjectError> {
    let object: Map<String, Value> = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text)
            .map_err(|error| InjectError::member("the description", error.to_string()))?,
        false => toml::from_str(text).map_err(Box::new)?,
    };
    Description::from_object(object)
}

/// Makes what `description` describes.
///
/// # Errors
/// [`InjectError::Form`] for what a form has no words for.
pub fn build(description: &Description) -> Result<Vec<u8>, InjectError> {
    let Description { form, one_record, errors } = description;
    match form {
        Form::Cper => record::cper(errors, *one_record),
        Form::StatusBlock => record::status_blocks(errors, *one_record),
        Form::KernelLog => log::text(errors),
        Form::Mcelog => each(errors, |error| Some(mca::mcelog(error.mce()?, &error.common))),
        Form::StructMce => {
            each(errors, |error| Some(mca::kernel_struct(error.mce()?, &error.common)))
        }
        Form::Capture => capture(errors),
        Form::Trace => each(errors, |error| Some(trace::payload(error).ok()?.1)),
    }
    .map_err(|error| match error {
        Failed::At(index) => {
            let kind = errors.get(index).map_or("description", |error| error.kind.name());
            InjectError::Form { kind, form: form.name() }
        }
        Failed::With(error) => error,
    })
}

/// What could not be built: an error of this number has no such form, or worse.
enum Failed {
    At(usize),
    With(InjectError),
}

impl From<InjectError> for Failed {
    fn from(error: InjectError) -> Self {
        Self::With(error)
    }
}

fn each(errors: &[Error], build: impl Fn(&Error) -> Option<Vec<u8>>) -> Result<Vec<u8>, Failed> {
    let mut all = Vec::new();
    for (index, error) in errors.iter().enumerate() {
        all.extend(build(error).ok_or(Failed::At(index))?);
    }
    Ok(all)
}

/// Lines for `rasd --replay`.
fn capture(errors: &[Error]) -> Result<Vec<u8>, Failed> {
    let mut lines = Vec::new();
    for error in errors {
        let mut line = Map::new();
        if let Some(time) = error.common.time {
            line.insert("time_ns".into(), time.0.into());
        }
        match &error.kind {
            Kind::Mce(mce) => {
                line.insert("mce".into(), mca::capture(mce));
            }
            Kind::Section(_) => {
                let bytes = record::cper(std::slice::from_ref(error), true)?;
                line.insert("cper".into(), hex(&bytes).into());
            }
            Kind::Trace(_) => {
                let (format, payload) = trace::payload(error)?;
                let name = trace::full_name(error);
                let format = serde_json::json!({ "tracepoint": name, "format": format });
                lines.extend(format.to_string().bytes().chain([b'\n']));
                line.insert("tracepoint".into(), name.into());
                line.insert("raw".into(), hex(&payload).into());
            }
            Kind::Edac(_) | Kind::MemoryFailure(_) => {
                let kind = error.kind.name();
                return Err(InjectError::Form { kind, form: Form::Capture.name() }.into());
            }
        }
        lines.extend(Value::Object(line).to_string().bytes().chain([b'\n']));
    }
    Ok(lines)
}

/// Hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
