//! The advanced error reporting capability, as PCIe sections hold it. PCI Express Base Specification,
//! "Advanced Error Reporting Extended Capability".

use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{Detail, Details, Value};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::tlp;
use crate::cper::section::registers::{self, Field};
use crate::pci::{AER_CORRECTABLE, AER_UNCORRECTABLE};

/// The capability's registers, in order.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct AerCapability {
    pub header: U32,
    pub uncorrectable_status: U32,
    pub uncorrectable_mask: U32,
    /// Set: fatal.
    pub uncorrectable_severity: U32,
    pub correctable_status: U32,
    pub correctable_mask: U32,
    pub control: U32,
    pub header_log: [U32; 4],
    pub root_command: U32,
    pub root_status: U32,
    pub error_source: U32,
    /// Prefixes of the logged packet, or the rest of its header in flit mode.
    pub prefix_log: [U32; 10],
}
const _: () = assert!(size_of::<AerCapability>() == 96);

/// "PCI Express Extended Capability Header".
const HEADER: &[Field] =
    &[Field::number("id", 0, 16), Field::number("version", 16, 4), Field::hex("next", 20, 12)];

/// "Advanced Error Capabilities and Control Register".
const CONTROL: &[Field] = &[
    Field::bit("first_error", 0, 5, AER_UNCORRECTABLE),
    Field::flag("ecrc_generation_capable", 5),
    Field::flag("ecrc_generation_enable", 6),
    Field::flag("ecrc_check_capable", 7),
    Field::flag("ecrc_check_enable", 8),
    Field::flag("multiple_header_recording_capable", 9),
    Field::flag("multiple_header_recording_enable", 10),
    Field::flag("tlp_prefix_log_present", 11),
    Field::flag("completion_timeout_prefix_log_capable", 12),
    Field::number("header_log_size", 13, 5),
    Field::flag("logged_tlp_was_flit_mode", 18),
    Field::number("logged_tlp_size", 19, 5),
];

/// "Root Error Command Register".
const ROOT_COMMAND: &[(u32, &str)] =
    &[(0, "report correctable errors"), (1, "report non-fatal errors"), (2, "report fatal errors")];

/// "Root Error Status Register".
const ROOT_STATUS: &[Field] = &[
    Field::flag("err_cor_received", 0),
    Field::flag("multiple_err_cor_received", 1),
    Field::flag("err_fatal_nonfatal_received", 2),
    Field::flag("multiple_err_fatal_nonfatal_received", 3),
    Field::flag("first_uncorrectable_fatal", 4),
    Field::flag("nonfatal_messages_received", 5),
    Field::flag("fatal_messages_received", 6),
    Field::number("err_cor_subclass", 7, 2),
    Field::number("interrupt_message_number", 27, 5),
];

/// "Error Source Identification Register": requester ids.
const ERROR_SOURCE: &[Field] =
    &[Field::hex("err_cor", 0, 16), Field::hex("err_fatal_nonfatal", 16, 16)];

impl AerCapability {
    pub(super) fn details(&self) -> Vec<Detail> {
        let mut details = Vec::with_capacity(18);
        let bits = |details: &mut Vec<Detail>, names: [&'static str; 2], bits: U32, table| {
            details.add_hex(names[0], bits.get());
            details.add(names[1], Value::flags(bits.get().into(), table));
        };
        let uncorrectable = AER_UNCORRECTABLE;
        details.add("header", registers::fields(self.header.get().into(), HEADER));
        let names = ["uncorrectable_status", "uncorrectable_errors"];
        bits(&mut details, names, self.uncorrectable_status, uncorrectable);
        let names = ["uncorrectable_mask", "uncorrectable_masked"];
        bits(&mut details, names, self.uncorrectable_mask, uncorrectable);
        let names = ["uncorrectable_severity", "uncorrectable_fatal"];
        bits(&mut details, names, self.uncorrectable_severity, uncorrectable);
        let names = ["correctable_status", "correctable_errors"];
        bits(&mut details, names, self.correctable_status, AER_CORRECTABLE);
        let names = ["correctable_mask", "correctable_masked"];
        bits(&mut details, names, self.correctable_mask, AER_CORRECTABLE);
        details.add("control", registers::fields(self.control.get().into(), CONTROL));
        let log = self.header_log.map(U32::get);
        details.add("header_log", words(&log));
        if log != [0; 4] && !self.is_flit() {
            details.add("tlp", Value::Group(tlp::details(log)));
        }
        bits(&mut details, ["root_command", "root_reports"], self.root_command, ROOT_COMMAND);
        details.add("root_status", registers::fields(self.root_status.get().into(), ROOT_STATUS));
        details
            .add("error_source", registers::fields(self.error_source.get().into(), ERROR_SOURCE));
        if self.prefix_log != [U32::ZERO; 10] {
            details.add("prefix_log", words(&self.prefix_log.map(U32::get)));
        }
        details
    }

    /// The uncorrectable errors that are reported, or, where there are none, the correctable ones,
    /// with the names of their bits. A masked error is no cause of a report, unless there is no other.
    pub(super) fn errors(&self) -> (u32, &'static [(u32, &'static str)]) {
        let (uncorrectable, correctable) =
            (self.uncorrectable_status.get(), self.correctable_status.get());
        let candidates = [
            (uncorrectable & !self.uncorrectable_mask.get(), AER_UNCORRECTABLE),
            (correctable & !self.correctable_mask.get(), AER_CORRECTABLE),
            (uncorrectable, AER_UNCORRECTABLE),
            (correctable, AER_CORRECTABLE),
        ];
        candidates.into_iter().find(|(bits, _)| *bits != 0).unwrap_or((0, AER_UNCORRECTABLE))
    }

    /// Headers are laid out otherwise in flit mode.
    fn is_flit(&self) -> bool {
        self.control.get() >> 18 & 1 == 1
    }
}

fn words(words: &[u32]) -> Value {
    Value::List(words.iter().map(|word| Value::Hex((*word).into())).collect())
}
