//! `ras:mc_event`: a memory error as an EDAC driver reports it.
//!
//! Linux `include/ras/ras_event.h` and `drivers/edac/edac_mc.c`.

use alloc::format;
use alloc::string::String;

use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, PhysAddr, Severity,
    SmolStr, Value,
};

use super::{EventFormat, TraceError};
use crate::mca::phrase;
use crate::text::edac_detail;

/// The event's own fields, from a payload, a line of text or a database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct McEvent {
    /// `HW_EVENT_ERR_*`: 0 corrected, 1 uncorrected, 2 deferred, 3 fatal, 4 information.
    pub error_type: u64,
    /// Errors reported.
    pub count: u32,
    /// What the driver says of the error: `memory read error`.
    pub message: String,
    /// Label of the module.
    pub label: String,
    /// Number of the memory controller, EDAC's.
    pub mc_index: u16,
    /// Place in the driver's own layers (such as channel and slot, or csrow and channel); negative
    /// where it does not know.
    pub layers: [i64; 3],
    /// Physical address; 0 where the driver has none.
    pub address: u64,
    /// log2 of the bytes that the address is good for.
    pub grain_bits: u8,
    /// Syndrome; 0 where the driver has none.
    pub syndrome: u64,
    /// Whatever else the driver says.
    pub driver_detail: String,
}

/// Decodes one payload, the common fields included.
///
/// # Errors
/// [`TraceError`] where an essential field is missing or the payload ends before it.
pub fn decode(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    let number = |name| format.integer(payload, name);
    let layer = |name| Ok(number(name)?.cast_signed());
    let text = |name| Ok(format.string(payload, name)?.unwrap_or_default());
    Ok(McEvent {
        error_type: number("error_type")?,
        count: u32::try_from(number("error_count")?).unwrap_or(u32::MAX),
        message: text("msg")?,
        label: text("label")?,
        mc_index: u16::try_from(number("mc_index")?).unwrap_or(u16::MAX),
        layers: [layer("top_layer")?, layer("middle_layer")?, layer("lower_layer")?],
        address: number("address")?,
        grain_bits: number("grain_bits")?.to_le_bytes()[0],
        syndrome: number("syndrome")?,
        driver_detail: text("driver_detail")?,
    }
    .into())
}

impl McEvent {
    /// An event of which text says the count, the type's name, the message and the label. An unknown
    /// name is a type nobody has; `None` where the count is no number.
    pub(crate) fn of_words(count: &str, kind: &str, message: &str, label: &str) -> Option<Self> {
        let known = TYPES.iter().find(|(_, name)| *name == kind);
        Some(Self {
            error_type: known.map_or(u64::MAX, |(code, _)| *code),
            count: count.parse().ok()?,
            message: message.trim().into(),
            label: label.trim().into(),
            layers: [-1; 3],
            ..Self::default()
        })
    }

    /// log2 of a grain that rasdaemon recorded: the kernel's own log2, but bytes in some versions. A
    /// grain of bytes is a power of two from 64 on (smaller ones nobody has), a log2 less than 64.
    #[must_use]
    pub const fn grain_bits_of(grain: u64) -> u8 {
        let bits = if grain >= 64 { grain.trailing_zeros() as u64 } else { grain };
        bits.to_le_bytes()[0]
    }
}

/// The kernel's words for `error_type`.
const TYPES: &[(u64, &str)] =
    &[(0, "Corrected"), (1, "Uncorrected"), (2, "Deferred"), (3, "Fatal"), (4, "Info")];

impl From<McEvent> for ErrorRecord {
    fn from(event: McEvent) -> Self {
        let (severity, reason) = match event.error_type {
            0 => (Severity::Corrected, "EDAC reports it as corrected"),
            // EDAC does not tell whether anybody consumed the data.
            1 => {
                (Severity::Srao, "EDAC reports it as uncorrected, but not whether it was consumed")
            }
            2 => (Severity::Deferred, "EDAC reports it as deferred"),
            3 => (Severity::Fatal, "EDAC reports it as fatal"),
            4 => (Severity::Informational, "EDAC reports it as information"),
            _ => (Severity::Unknown, "EDAC reports it with a type that is not defined"),
        };
        let mut record = Self {
            class: ErrorClass::Memory,
            severity,
            severity_reason: format!("{reason} (type {})", event.error_type),
            count: event.count.max(1),
            ..Self::new(ErrorSource::McEvent)
        };
        record.location.imc = Some(event.mc_index);
        // An empty label, and what drivers put there when nobody told them the board's labels.
        let labelled = !matches!(event.label.trim(), "" | "any memory" | "unknown memory");
        record.location.fru = labelled.then(|| SmolStr::new(&event.label));
        // EDAC reports page and offset; a driver without an address leaves both zero.
        if event.address != 0 {
            let lsb = event.grain_bits.min(63);
            record.address = Some(ErrorAddress {
                addr: PhysAddr(event.address >> lsb << lsb),
                lsb,
                mode: AddressMode::Physical,
            });
        }
        let details = &mut record.details;
        details.add("error_type", Value::code(event.error_type, TYPES));
        if !event.label.is_empty() {
            details.add("label", event.label);
        }
        let layers = event.layers.into_iter().map(Value::Signed).collect();
        details.add("layers", Value::List(layers));
        details.add("grain_bits", event.grain_bits);
        if event.syndrome != 0 {
            details.add_hex("syndrome", event.syndrome);
        }
        edac_detail::take(&event.driver_detail, &mut record);
        let at = record.address.map_or_else(String::new, |at| format!(", at {}", at.addr));
        let what = match event.message.trim() {
            "" => "memory error",
            message => message,
        };
        record.summary =
            format!("{what}, {}, memory controller {}{at}", phrase(severity), event.mc_index);
        if !event.message.is_empty() {
            record.details.add("message", event.message);
        }
        if !event.driver_detail.trim().is_empty() {
            record.details.add("driver_detail", String::from(event.driver_detail.trim()));
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_s_words_become_places() {
        let record: ErrorRecord = McEvent {
            count: 2,
            message: "memory read error".into(),
            label: "CPU_SrcID#0_MC#1_Chan#0_DIMM#0".into(),
            mc_index: 1,
            layers: [0, 0, -1],
            address: 0x12_3456_7890,
            grain_bits: 5,
            driver_detail: " err_code:0x0101:0x0090 socket:0 imc:1 rank:1 row:0x2f".into(),
            ..McEvent::default()
        }
        .into();
        assert_eq!((record.severity, record.count), (Severity::Corrected, 2));
        assert_eq!(record.location.socket, Some(0));
        assert_eq!((record.location.dimm.rank, record.location.dimm.row), (Some(1), Some(0x2f)));
        assert_eq!(
            record.summary,
            "memory read error, corrected, memory controller 1, at 0x1234567880"
        );
        assert_eq!(record.location.fru.as_deref(), Some("CPU_SrcID#0_MC#1_Chan#0_DIMM#0"));
    }

    #[test]
    fn nothing_known_is_nothing_said() {
        let record: ErrorRecord =
            McEvent { error_type: 9, grain_bits: 200, ..McEvent::default() }.into();
        assert_eq!((record.severity, record.address, record.count), (Severity::Unknown, None, 1));
        assert_eq!(record.location.fru, None);
    }
}
