//! Machine-check banks: from registers to [`ErrorRecord`].

pub mod error_code;
pub mod findings;
pub mod status;

mod address;
mod severity;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, CpuVendor, Details, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, Location,
    McaRegisters, Problem, ProblemKind, Raw, Severity, Timestamp,
};

use self::error_code::ErrorCode;
use self::findings::{Fact, Findings};
use self::status::{AmdStatus, CpuSignature, McgCap, MciStatus};
use crate::digits::{push_hex, push_number};
use crate::vendor::{self, amd};

/// The bank number Linux uses for errors that firmware reported (APEI): it has no registers, the
/// kernel makes them up from the firmware's record.
pub const FIRMWARE_FIRST_BANK: u8 = 255;

/// Banks from this one up are no hardware's: Linux numbers its own events there.
pub(crate) const SOFTWARE_BANKS: u8 = 128;

/// What the registers themselves don't say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// When the bank was read.
    pub time: Option<Timestamp>,
    /// Logical CPU that read it.
    pub cpu: Option<u32>,
    /// That CPU's package.
    pub socket: Option<u32>,
}

/// What one bank's registers say, without a heap. [`decode`] makes a record of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// How bad it is.
    pub severity: Severity,
    /// The rule that says so.
    pub rule: &'static str,
    /// The architectural code.
    pub code: ErrorCode,
    /// The kind of hardware.
    pub class: ErrorClass,
    /// The address, where a valid one was given.
    pub address: Option<ErrorAddress>,
    /// Errors the bank stands for, at least 1.
    pub count: u32,
    /// What the processor's own manual adds.
    pub findings: Findings,
}

/// Explains one bank. Never fails, never allocates.
///
/// An `mcg_cap` of zero means that the source did not capture the register; Intel's and Zhaoxin's
/// processors are then taken to have software recovery and to count corrected errors, as all their
/// servers since 2010 do, unless their model is known to be older than that.
#[must_use]
pub fn explain(registers: &McaRegisters) -> Explanation {
    let mut explanation = Explanation::default();
    match amd::deferred_alone(registers) {
        Some(deferred) => {
            explanation.fill(&deferred);
            explanation.findings.add("logged_in", Fact::Text("destat"));
        }
        None => explanation.fill(registers),
    }
    explanation
}

impl Default for Explanation {
    /// Of nothing.
    fn default() -> Self {
        Self {
            severity: Severity::Unknown,
            rule: "",
            code: ErrorCode::NoError,
            class: ErrorClass::Unknown,
            address: None,
            count: 1,
            findings: Findings::default(),
        }
    }
}

impl Explanation {
    /// In place: it is larger than all that it is made from.
    fn fill(&mut self, registers: &McaRegisters) {
        (self.severity, self.rule) = severity::grade(registers);
        self.code = error_code(registers);
        // Linux makes the registers of firmware's errors up: no model has a say in them.
        if registers.bank != FIRMWARE_FIRST_BANK
            && let Some(decode) = vendor::decoder(registers)
        {
            decode(registers, &mut self.findings);
        }
        self.class = class(registers, self.code, &self.findings);
        self.address = address::error_address(registers);
        self.count = corrected_count(registers);
    }
}

/// Lengths that Linux' `struct mce` has had, the newest first: it only grows. `/dev/mcelog` gives those of
/// its kernel, one after the other; 128 bytes since 5.8.
pub const STRUCT_MCE_LENGTHS: [usize; 5] = [128, 120, 112, 104, 88];

/// Decodes one of Linux' `struct mce`, as `/dev/mcelog` gives it and mce-inject makes it (Linux,
/// `arch/x86/include/uapi/asm/mce.h`). `None` where fewer bytes are there than it ever had.
#[must_use]
pub fn decode_struct(bytes: &[u8]) -> Option<ErrorRecord> {
    let (registers, context) = crate::cper::kernel_machine_check(bytes)?;
    Some(ErrorRecord { source: ErrorSource::Mcelog, ..decode(&registers, context) })
}

/// Decodes one bank. Never fails: what has no meaning here stays unknown, with its raw bits.
#[must_use]
pub fn decode(registers: &McaRegisters, context: Context) -> ErrorRecord {
    let explanation = explain(registers);
    let firmware_first = registers.bank == FIRMWARE_FIRST_BANK;
    let Explanation { severity, rule, code, class, address, count, findings } = &explanation;
    let deferred = amd::deferred_alone(registers);
    let logged = deferred.as_ref().unwrap_or(registers);
    // The CPU that took a firmware interrupt has nothing to do with the error.
    let location = match firmware_first {
        true => Location::default(),
        false => Location {
            cpu: context.cpu,
            socket: context.socket,
            imc: findings.imc,
            channel: findings.channel.or(code.channel()),
            dimm: findings.dimm,
            fru: amd::fru_text(registers),
            pci: findings.pci,
        },
    };
    let mut record = ErrorRecord {
        time: context.time,
        class: *class,
        severity: *severity,
        severity_reason: String::with_capacity(160),
        address: *address,
        count: *count,
        location,
        summary: summary(logged, &explanation),
        raw: Raw::Mca(registers.clone()),
        problems: problems(registers),
        ..ErrorRecord::new(ErrorSource::MceRecord)
    };
    let reason = &mut record.severity_reason;
    reason.push_str(rule);
    reason.push_str(" [");
    severity::flags(logged, reason);
    reason.push(']');
    if !firmware_first {
        // Four of its own, and as many as those who know the record's source add.
        record.details.reserve(findings.facts().len() + 8);
        findings::add_to(findings, &mut record.details);
        if findings.error.is_some() && *code != ErrorCode::NoError {
            let mut text = String::with_capacity(96);
            // Writing to a string can't fail.
            let _ = code.write(&mut text);
            record.details.add("mca_code", text);
        }
    }
    record
}

/// The error in one line: what and where within the processor, how bad, which bank, which address.
fn summary(registers: &McaRegisters, explanation: &Explanation) -> String {
    let Explanation { severity, code, address, findings, .. } = explanation;
    let firmware_first = registers.bank == FIRMWARE_FIRST_BANK;
    let mut summary = String::with_capacity(128);
    let text = &mut summary;
    if firmware_first {
        text.push_str("memory error reported by firmware");
    } else {
        if let Some(unit) = findings.unit {
            text.push_str(unit);
            text.push_str(": ");
        }
        match findings.error {
            Some(error) => text.push_str(error),
            None => subject(registers, *code, text),
        }
    }
    text.push_str(", ");
    text.push_str(phrase(*severity));
    if !firmware_first {
        text.push_str(", bank ");
        push_number(text, registers.bank.into());
    }
    if let Some(address) = address {
        text.push_str(", at ");
        text.push_str(address_kind(address.mode));
        push_hex(text, address.addr.0);
    }
    summary
}

/// What a severity means, for the end of a sentence.
pub(crate) const fn phrase(severity: Severity) -> &'static str {
    match severity {
        Severity::Informational => "informational",
        Severity::Corrected => "corrected",
        Severity::Deferred => "uncorrected, deferred",
        Severity::Ucna => "uncorrected, no action required",
        Severity::Srao => "uncorrected, action optional",
        Severity::Srar => "uncorrected, action required",
        Severity::Fatal => "fatal",
        _ => "severity unknown",
    }
}

/// What has to be said before an address that is not the usual, physical one.
const fn address_kind(mode: AddressMode) -> &'static str {
    match mode {
        AddressMode::Physical => "",
        AddressMode::SegmentOffset => "segment offset ",
        AddressMode::Linear => "linear address ",
        AddressMode::Memory => "the memory's own address ",
        AddressMode::Generic => "an address of unstated kind, ",
    }
}

const fn is_amd(vendor: CpuVendor) -> bool {
    matches!(vendor, CpuVendor::Amd | CpuVendor::Hygon)
}

/// A bank that Linux made up to log an event of its own, such as a processor that got too hot.
const fn is_software_bank(registers: &McaRegisters) -> bool {
    is_intel(registers.vendor)
        && registers.bank >= SOFTWARE_BANKS
        && registers.bank != FIRMWARE_FIRST_BANK
}

const fn is_intel(vendor: CpuVendor) -> bool {
    matches!(vendor, CpuVendor::Intel | CpuVendor::Zhaoxin)
}

/// Whether S, AR and the address part of MISC have their architectural meaning.
fn has_recovery(registers: &McaRegisters) -> bool {
    let cap = McgCap::from_bits(registers.mcg_cap);
    let cpu = CpuSignature::from_bits(registers.cpuid);
    let is_older = registers.vendor == CpuVendor::Intel && vendor::intel::predates_recovery(cpu);
    cap.ser_p() || (!cap.is_known() && is_intel(registers.vendor) && !is_older)
}

/// Whether bits 52:38 of the status count corrected errors.
fn has_count(registers: &McaRegisters) -> bool {
    let cap = McgCap::from_bits(registers.mcg_cap);
    let cpu = CpuSignature::from_bits(registers.cpuid);
    let is_older = registers.vendor == CpuVendor::Intel
        && registers.cpuid != 0
        && vendor::intel::predates_count(cpu);
    cap.cmci_p() || (!cap.is_known() && is_intel(registers.vendor) && !is_older)
}

fn error_code(registers: &McaRegisters) -> ErrorCode {
    let mcacod = MciStatus::from_bits(registers.status).mcacod();
    // Linux uses an Intel code for firmware's errors on every processor. On Intel's, the status of
    // its other software-defined banks is another register's.
    if is_software_bank(registers) {
        ErrorCode::NoError
    } else if is_amd(registers.vendor) && registers.bank != FIRMWARE_FIRST_BANK {
        ErrorCode::from_amd(mcacod)
    } else {
        ErrorCode::from_mcacod(mcacod)
    }
}

fn class(registers: &McaRegisters, code: ErrorCode, findings: &Findings) -> ErrorClass {
    match registers.bank {
        FIRMWARE_FIRST_BANK => ErrorClass::Memory,
        _ => findings.class.unwrap_or(code.class()),
    }
}

/// What went wrong, for a bank no model decoder had words for.
fn subject(registers: &McaRegisters, code: ErrorCode, text: &mut String) {
    // Writing to a string can't fail.
    let _ = code.write(text);
    if is_amd(registers.vendor) {
        text.push_str(", extended code ");
        push_number(text, AmdStatus::from_bits(registers.status).error_code_ext().into());
    }
}

/// How many corrected errors the record stands for: bits 52:38, where `MCG_CMCI_P`, on Intel and
/// Zhaoxin. AMD uses the bits otherwise and counts in MISC, from a start value nobody records.
fn corrected_count(registers: &McaRegisters) -> u32 {
    let status = MciStatus::from_bits(registers.status);
    let counted = is_intel(registers.vendor)
        && registers.bank != FIRMWARE_FIRST_BANK
        && has_count(registers)
        && status.val()
        && !status.uc();
    if counted { u32::from(status.corrected_count()).max(1) } else { 1 }
}

fn problems(registers: &McaRegisters) -> Vec<Problem> {
    match registers.vendor {
        CpuVendor::Intel | CpuVendor::Zhaoxin | CpuVendor::Amd | CpuVendor::Hygon => vec![],
        _ => vec![Problem {
            offset: 0,
            kind: ProblemKind::Unknown,
            detail: format!(
                "unknown processor maker ({:?}): decoded by the bits x86 processors have in common",
                registers.vendor
            ),
        }],
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const SER_P: u64 = 1 << 24;
    pub(crate) const CMCI_P: u64 = 1 << 10;

    /// An Ice Lake server's bank.
    pub(crate) fn intel(status: u64) -> McaRegisters {
        McaRegisters {
            vendor: CpuVendor::Intel,
            cpuid: 0x606a6,
            bank: 9,
            mcg_cap: SER_P | CMCI_P | 28,
            status,
            addr: 0x1_2345_6000,
            misc: 0x8c,
            ..McaRegisters::default()
        }
    }

    /// A Milan server's bank.
    pub(crate) fn amd(status: u64) -> McaRegisters {
        McaRegisters {
            vendor: CpuVendor::Amd,
            cpuid: 0xa0_0f11,
            mcg_cap: 1 << 8 | 23,
            misc: 0,
            ..intel(status)
        }
    }

    #[test]
    fn a_corrected_memory_error() {
        let context =
            Context { time: Some(Timestamp::from_secs(7)), cpu: Some(3), socket: Some(1) };
        let record = decode(&intel(0x8c00_00c0_0001_0091), context);
        assert_eq!(record.class, ErrorClass::Memory);
        assert_eq!(record.severity, Severity::Corrected);
        assert_eq!(record.count, 3);
        assert_eq!(record.location.channel, Some(1));
        assert_eq!((record.location.cpu, record.location.socket), (Some(3), Some(1)));
        assert_eq!(
            record.summary,
            "memory read error on channel 1, corrected, bank 9, at 0x123456000"
        );
        assert!(record.problems.is_empty());
    }

    #[test]
    fn only_intel_counts_in_the_status() {
        let one = |registers: McaRegisters| decode(&registers, Context::default()).count;
        assert_eq!(one(amd(0x9c20_40c0_0000_011b)), 1);
        assert_eq!(one(McaRegisters { mcg_cap: 9, ..intel(0x8c00_00c0_0001_0091) }), 1);
        assert_eq!(one(McaRegisters { mcg_cap: 0, ..intel(0x8c00_00c0_0001_0091) }), 3);
        assert_eq!(one(intel(0x8c00_0000_0001_0091)), 1, "at least the error that is reported");
        assert_eq!(one(intel(0xac00_00c0_0001_0091)), 1, "uncorrected");
    }

    #[test]
    fn firmware_first_has_no_place_but_its_address() {
        let registers = McaRegisters { bank: 255, ..intel(0x9c00_0000_0000_009f) };
        let record = decode(&registers, Context { time: None, cpu: Some(3), socket: Some(1) });
        assert_eq!(record.location, Location::default());
        assert_eq!(record.class, ErrorClass::Memory);
        assert_eq!(record.address.map(|a| (a.addr.0, a.lsb)), Some((0x1_2345_6000, 12)));
        assert_eq!(record.summary, "memory error reported by firmware, corrected, at 0x123456000");
    }

    #[test]
    fn an_amd_memory_controller() {
        let registers = McaRegisters { ipid: 0x96_0005_0f00, ..amd(0x9c20_4000_0000_011b) };
        let record = decode(&registers, Context::default());
        assert_eq!(record.class, ErrorClass::Memory);
        assert_eq!(record.address.map(|a| a.mode), Some(AddressMode::Memory));
        assert_eq!(record.pages(), None, "a normalized address names no page");
        assert_eq!(
            record.summary,
            "memory controller: DRAM ECC error, corrected, bank 9, at the memory's own address 0x123456000"
        );
    }

    #[test]
    fn an_unknown_maker_is_a_problem_not_an_error() {
        let registers =
            McaRegisters { vendor: CpuVendor::Unknown(4), ..intel(0x8c00_0000_0000_0001) };
        let record = decode(&registers, Context::default());
        assert_eq!(record.problems.len(), 1);
        assert_eq!(record.severity, Severity::Corrected);
    }

    pub(crate) fn any_registers() -> impl Strategy<Value = McaRegisters> {
        let vendor = prop_oneof![
            Just(CpuVendor::Intel),
            Just(CpuVendor::Amd),
            Just(CpuVendor::Hygon),
            Just(CpuVendor::Zhaoxin),
            (11u8..).prop_map(CpuVendor::Unknown),
        ];
        // Models and bank types that have decoders of their own, as often as any.
        let models = [
            0x5_0654, 0x6_06a6, 0x8_06f8, 0x4_0f13, 0x10_0f43, 0x60_0f20, 0x66_0f01, 0x73_0f01,
            0xa0_0f11, 0xa1_0f11, 0xa9_0f01, 0x7_07b0,
        ];
        let cpuid = prop_oneof![any::<u32>(), proptest::sample::select(models.to_vec())];
        let types = [0x96, 0x1_0096, 0xb0, 0x10_00b0, 0x2_002e, 0x170].map(|of| of << 32);
        let ipid = prop_oneof![
            any::<u64>(),
            (proptest::sample::select(types.to_vec()), any::<u32>())
                .prop_map(|(of, instance)| of | u64::from(instance)),
        ];
        let words = proptest::array::uniform14(any::<u64>());
        (vendor, cpuid, ipid, any::<[u32; 2]>(), any::<[u8; 2]>(), words).prop_map(
            |(vendor, cpuid, ipid, [apic_id, microcode], [bank, cs], words)| {
                let [mcg_cap, mcg_status, status, addr, misc, synd, words @ ..] = words;
                let [synd1, synd2, config, destat, deaddr, ip, tsc, ppin] = words;
                McaRegisters {
                    vendor,
                    cpuid,
                    bank,
                    mcg_cap,
                    mcg_status,
                    status,
                    addr,
                    misc,
                    synd,
                    ipid,
                    synd1,
                    synd2,
                    config,
                    destat,
                    deaddr,
                    ip,
                    cs,
                    tsc,
                    ppin,
                    apic_id,
                    microcode,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_registers_decode(registers in any_registers()) {
            let record = decode(&registers, Context::default());
            prop_assert_eq!(&record.raw, &Raw::Mca(registers));
            prop_assert!(record.count >= 1);
            prop_assert!(!record.summary.contains('\n') && record.summary.len() < 300);
            if let Some(address) = record.address {
                prop_assert!(address.lsb < 64);
                prop_assert_eq!(address.addr.0 & ((1u64 << address.lsb) - 1), 0);
            }
        }
    }
}
