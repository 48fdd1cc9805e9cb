//! How bad a machine check is, and the bits and the rule that say so.
//!
//! The rules are those of the manuals, in the order Linux tries them (`mce_severity`), with one
//! difference: Linux grades what *it* will do in the context it is in; this grades the error. Where
//! Linux panics because nothing can be recovered, the error is [`Severity::Fatal`] here; where it
//! panics only because its own code was interrupted at a place it can't repair, it is not.

use alloc::string::String;

use ras_core::{CpuVendor, McaRegisters, Severity};

use super::error_code::ErrorCode;
use super::status::{AmdStatus, CpuSignature, McgCap, McgStatus, MciStatus};
use super::{FIRMWARE_FIRST_BANK, has_recovery, is_amd, is_software_bank};

/// Grades the error in `registers`, and names the rule.
pub(super) fn grade(registers: &McaRegisters) -> (Severity, &'static str) {
    let status = MciStatus::from_bits(registers.status);
    if is_software_bank(registers) {
        (Severity::Informational, "an event that the operating system logged as a bank of its own")
    } else if !status.val() {
        (Severity::Informational, "the bank holds no valid error")
    } else if registers.bank == FIRMWARE_FIRST_BANK {
        firmware_first(status)
    } else if is_amd(registers.vendor) {
        amd(registers)
    } else {
        intel(registers)
    }
}

/// Linux' `apei_mce_report_mem_error` turns firmware's severity into UC (recoverable) and PCC (fatal).
fn firmware_first(status: MciStatus) -> (Severity, &'static str) {
    match (status.uc(), status.pcc()) {
        (_, true) => (Severity::Fatal, "firmware reported it as fatal (PCC=1)"),
        // Like the CPER it was made from: firmware says that data is lost, not that it was consumed.
        (true, _) => (Severity::Srao, "firmware reported it as recoverable (UC=1)"),
        _ => (Severity::Corrected, "firmware reported it as corrected (UC=0)"),
    }
}

/// SDM vol. 3B, "UCR Error Classification". Zhaoxin follows it; so do other makers as far as
/// `MCG_CAP` goes.
fn intel(registers: &McaRegisters) -> (Severity, &'static str) {
    let status = MciStatus::from_bits(registers.status);
    let spurious = is_spurious(registers);
    if spurious && (status.pcc() || status.ar()) {
        return (
            Severity::Ucna,
            "uncorrected, but not what signalled this machine check (UC=1 EN=0 OVER=0 MCIP=1)",
        );
    }
    if status.pcc() {
        return (Severity::Fatal, "the processor's context is corrupt (PCC=1)");
    }
    if !status.uc() {
        return match is_disguised_scrub(registers) {
            true => {
                (Severity::Srao, "uncorrected patrol scrub error that this model logs with UC=0")
            }
            false => (Severity::Corrected, "corrected by hardware (UC=0)"),
        };
    }
    if !has_recovery(registers) {
        return intel_without_recovery(registers);
    }
    if status.s()
        && !spurious
        && let Some(rule) = lost_context(registers)
    {
        return (Severity::Fatal, rule);
    }
    match (status.s(), status.ar()) {
        // Such errors come by #MC or by CMCI, that is with S=1 or S=0, so S does not matter.
        (_, false) if is_scrub(status) => {
            (Severity::Srao, "action optional: found by the memory scrubber (AR=0)")
        }
        (_, false) if status.mcacod() & FILTER_MASK == 0x017a => {
            (Severity::Srao, "action optional: found by a last-level cache write-back (AR=0)")
        }
        (false, false) => {
            (Severity::Ucna, "uncorrected, no action required: not signalled (UC=1 S=0 AR=0)")
        }
        (false, true) => {
            (Severity::Fatal, "action required but not signalled is undefined (S=0 AR=1)")
        }
        (true, false) if status.over() => {
            (Severity::Srao, "action optional, further errors were lost (S=1 AR=0 OVER=1)")
        }
        (true, false) => (Severity::Srao, "action optional (S=1 AR=0)"),
        (true, true) => action_required(registers),
    }
}

fn action_required(registers: &McaRegisters) -> (Severity, &'static str) {
    let status = MciStatus::from_bits(registers.status);
    let mcg = McgStatus::from_bits(registers.mcg_status);
    if status.over() {
        // The lost one may have needed action as well, at an address nobody knows.
        return (Severity::Fatal, "action required, and another error was lost (S=1 AR=1 OVER=1)");
    }
    if !status.addrv() || !status.miscv() {
        return (Severity::Fatal, "action required at an unknown address (S=1 AR=1, no address)");
    }
    if mcg.ripv() && !mcg.eipv() {
        // Every processor that shares the bank sees the error; the one that consumed it has EIPV=1.
        return (
            Severity::Srar,
            "action required, on another logical processor (S=1 AR=1 RIPV=1 EIPV=0)",
        );
    }
    match status.mcacod() & FILTER_MASK {
        0x0134 => (Severity::Srar, "action required: a data load consumed it (S=1 AR=1)"),
        0x0150 => (Severity::Srar, "action required: an instruction fetch consumed it (S=1 AR=1)"),
        // SDM and Linux agree: what isn't understood can't be recovered from.
        _ => {
            (Severity::Fatal, "action required for a code that has no recovery defined (S=1 AR=1)")
        }
    }
}

/// An error that was not enabled for reporting is never the source of a machine check: the handler
/// logs it and looks on. Outside of the handler (MCIP=0), EN has no meaning; nor has it for errors
/// that ask for no action. SDM vol. 3B, "Machine-Check Exception Handler for Error Recovery" and
/// "UCR Error Classification", of processors with software recovery.
fn is_spurious(registers: &McaRegisters) -> bool {
    let status = MciStatus::from_bits(registers.status);
    let mcg = McgStatus::from_bits(registers.mcg_status);
    has_recovery(registers) && mcg.mcip() && status.uc() && !status.en() && !status.over()
}

/// Without `MCG_SER_P` there is no S, no AR and no promise that nobody consumed the data. By #MC, the
/// SDM lets software do nothing but reset the system (same section); found by polling, the error
/// interrupted nobody. (Linux kills the interrupted process where that is enough.)
fn intel_without_recovery(registers: &McaRegisters) -> (Severity, &'static str) {
    let status = MciStatus::from_bits(registers.status);
    let mcg = McgStatus::from_bits(registers.mcg_status);
    if status.over() {
        (
            Severity::Fatal,
            "uncorrected, errors were lost, no software recovery (UC=1 OVER=1 SER_P=0)",
        )
    } else if mcg.mcip() {
        (Severity::Fatal, "uncorrected, signalled, no software recovery (UC=1 MCIP=1 SER_P=0)")
    } else {
        (
            Severity::Ucna,
            "uncorrected, found by polling, no software recovery (UC=1 MCIP=0 SER_P=0)",
        )
    }
}

/// APM vol. 2, "Machine Check Error Handling": PCC, then deferred, then uncorrected. EN is not asked:
/// it says whether the error was signalled, not what it did.
fn amd(registers: &McaRegisters) -> (Severity, &'static str) {
    let status = AmdStatus::from_bits(registers.status);
    let family = CpuSignature::from_bits(registers.cpuid).family();
    if status.pcc() {
        return (Severity::Fatal, "the processor's context is corrupt (PCC=1)");
    }
    if status.deferred() {
        return (Severity::Deferred, "bad data found and marked, not consumed (DEFERRED=1)");
    }
    if !status.uc() {
        return (Severity::Corrected, "corrected by hardware (UC=0)");
    }
    // Recovery (SUCCOR) and overflow recovery are CPUID bits that no record carries. Family 17h
    // and later have both; the last family without is 16h. Family 0: the source gave no CPUID.
    if (1..0x17).contains(&family) {
        return (Severity::Fatal, "uncorrected, and this family has no software recovery (UC=1)");
    }
    if let Some(rule) = lost_context(registers) {
        return (Severity::Fatal, rule);
    }
    // The thread must be terminated, whatever RIPV says; the kernel can't terminate itself.
    let mcip = McgStatus::from_bits(registers.mcg_status).mcip();
    if status.tcc() && mcip && is_in_kernel(registers) {
        return (Severity::Fatal, "the kernel was interrupted and its context is corrupt (TCC=1)");
    }
    match (status.poison(), status.tcc()) {
        (true, _) => (Severity::Srar, "the running thread consumed poisoned data (UC=1 POISON=1)"),
        (_, true) => (Severity::Srar, "the running thread's context is corrupt (UC=1 TCC=1)"),
        _ => (Severity::Srar, "uncorrected, the processor's context is intact (UC=1 PCC=0)"),
    }
}

/// Why the interrupted program can't go on, if it can't. Meaningful in a #MC handler's record only.
fn lost_context(registers: &McaRegisters) -> Option<&'static str> {
    let mcg = McgStatus::from_bits(registers.mcg_status);
    if !mcg.mcip() || mcg.ripv() {
        return None;
    }
    if !mcg.eipv() {
        Some("neither the restart nor the error instruction is known (RIPV=0 EIPV=0)")
    } else if is_in_kernel(registers) {
        Some("the kernel was interrupted and can't be restarted (RIPV=0)")
    } else {
        None
    }
}

/// Whether the kernel was interrupted. A code selector is never null: zero means that it was not
/// captured. Where a TDX guest was interrupted, the selector is its host's.
const fn is_in_kernel(registers: &McaRegisters) -> bool {
    let mcg = McgStatus::from_bits(registers.mcg_status);
    registers.cs != 0 && registers.cs & 3 == 0 && !mcg.seam_nr()
}

/// MCACOD without F, the filtering bit.
const FILTER_MASK: u16 = !(1 << 12);

fn is_scrub(status: MciStatus) -> bool {
    status.mcacod() & FILTER_MASK & 0xfff0 == 0x00c0
}

/// Skylake and Cascade Lake servers may be set up to report an uncorrected patrol scrub error by
/// CMCI with UC=0 and MSCOD 0x10 in a memory controller's bank: taken at its word, lost data would
/// count as corrected. (Linux has the same rule.)
fn is_disguised_scrub(registers: &McaRegisters) -> bool {
    let status = MciStatus::from_bits(registers.status);
    let cpu = CpuSignature::from_bits(registers.cpuid);
    registers.vendor == CpuVendor::Intel
        && has_recovery(registers)
        && (cpu.family(), cpu.model()) == (6, 0x55)
        && cpu.stepping() >= 4
        && (13..=18).contains(&registers.bank)
        && is_scrub(status)
        && status.mscod() == 0x0010
        && status.addrv()
        && status.miscv()
}

/// Appends the bits that were looked at and are set, by their names.
pub(super) fn flags(registers: &McaRegisters, text: &mut String) {
    let status = MciStatus::from_bits(registers.status);
    let mcg = McgStatus::from_bits(registers.mcg_status);
    let cap = McgCap::from_bits(registers.mcg_cap);
    let amd = AmdStatus::from_bits(registers.status);
    let is_amd = is_amd(registers.vendor) && registers.bank != FIRMWARE_FIRST_BANK;
    let is_intel = !is_amd && has_recovery(registers);
    let mut separator = "";
    let mut name = |set: bool, name: &str| {
        if set {
            text.push_str(separator);
            text.push_str(name);
            separator = " ";
        }
    };
    name(status.val(), "VAL");
    name(status.over(), "OVER");
    name(status.uc(), "UC");
    name(status.en(), "EN");
    name(status.miscv(), "MISCV");
    name(status.addrv(), "ADDRV");
    name(status.pcc(), "PCC");
    name(is_intel && status.s(), "S");
    name(is_intel && status.ar(), "AR");
    name(is_amd && amd.tcc(), "TCC");
    name(is_amd && amd.deferred(), "DEFERRED");
    name(is_amd && amd.poison(), "POISON");
    name(mcg.ripv(), "RIPV");
    name(mcg.eipv(), "EIPV");
    name(mcg.mcip(), "MCIP");
    name(!is_amd && mcg.lmce_s(), "LMCE_S");
    name(!is_amd && mcg.seam_nr(), "SEAM_NR");
    name(!is_amd && cap.ser_p(), "SER_P");
    name(!is_amd && is_yellow(registers), "threshold yellow");
}

/// A cache that corrected so much that it should be replaced. SDM vol. 3B, "Threshold-Based Error
/// Status": for corrected cache errors, where `MCG_TES_P`.
fn is_yellow(registers: &McaRegisters) -> bool {
    let status = MciStatus::from_bits(registers.status);
    McgCap::from_bits(registers.mcg_cap).tes_p()
        && !status.uc()
        && status.threshold_status() == 2
        && matches!(
            ErrorCode::from_mcacod(status.mcacod()),
            ErrorCode::CacheHierarchy { .. } | ErrorCode::GenericCacheHierarchy { .. }
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mca::tests::{SER_P, amd, intel};

    const RIPV: u64 = 1;
    const EIPV: u64 = 2;
    const MCIP: u64 = 4;

    fn check(registers: &McaRegisters, severity: Severity, rule: &str) {
        let (got, rule_found) = grade(registers);
        let mut reason = String::from(rule_found);
        flags(registers, &mut reason);
        assert_eq!(got, severity, "{reason}");
        assert!(reason.contains(rule), "{reason:?} does not say {rule:?}");
    }

    #[test]
    fn intel_with_software_recovery() {
        let grade = |status, mcg_status, severity, rule: &str| {
            check(&McaRegisters { mcg_status, ..intel(status) }, severity, rule);
        };
        grade(0x3c00_0000_0000_0090, 0, Severity::Informational, "no valid error");
        grade(0x8c00_0040_0001_0090, 0, Severity::Corrected, "UC=0");
        grade(0xbe00_0000_0101_0091, MCIP | RIPV, Severity::Fatal, "PCC=1");
        grade(0xac00_0000_0000_0090, 0, Severity::Ucna, "S=0 AR=0");
        grade(0xec00_0000_0000_0090, 0, Severity::Ucna, "S=0 AR=0");
        grade(0xbd00_0000_0000_00c0, MCIP | RIPV, Severity::Srao, "scrubber");
        grade(0xbc00_0000_0000_10c3, 0, Severity::Srao, "scrubber");
        grade(0xbd00_0000_0000_017a, MCIP | RIPV, Severity::Srao, "write-back");
        grade(0xbd00_0000_0000_0090, MCIP | RIPV, Severity::Srao, "action optional");
        grade(0xfd00_0000_0000_0090, MCIP | RIPV, Severity::Srao, "were lost");
        grade(0xbd80_0000_0000_0134, MCIP | RIPV | EIPV, Severity::Srar, "data load");
        grade(0xbd80_0000_0000_0134, MCIP | EIPV, Severity::Srar, "data load");
        grade(0xbd80_0000_0000_0150, MCIP | RIPV | EIPV, Severity::Srar, "instruction fetch");
        grade(0xbd80_0000_0000_0134, MCIP | RIPV, Severity::Srar, "another logical processor");
        grade(0xbd80_0000_0000_0134, MCIP, Severity::Fatal, "RIPV=0 EIPV=0");
        grade(0xfd80_0000_0000_0134, MCIP | RIPV, Severity::Fatal, "OVER=1");
        grade(0xb980_0000_0000_0134, MCIP | RIPV, Severity::Fatal, "unknown address");
        grade(0xbd80_0000_0000_0091, MCIP | RIPV, Severity::Srar, "another logical processor");
        grade(0xbd80_0000_0000_0091, MCIP | EIPV, Severity::Fatal, "no recovery defined");
        grade(0xbc80_0000_0000_0134, MCIP | RIPV, Severity::Fatal, "undefined");
    }

    #[test]
    fn an_error_that_is_not_enabled_signals_nothing() {
        let grade = |status, mcg_status, severity, rule: &str| {
            check(&McaRegisters { mcg_status, ..intel(status) }, severity, rule);
        };
        grade(0xad80_0000_0000_0134, MCIP | EIPV, Severity::Ucna, "EN=0");
        grade(0xae00_0000_0000_0134, MCIP | RIPV, Severity::Ucna, "EN=0");
        grade(0xed80_0000_0000_0134, MCIP | EIPV, Severity::Fatal, "OVER=1");
        grade(0xad80_0000_0000_0134, 0, Severity::Srar, "data load");
        grade(0xae00_0000_0000_0134, 0, Severity::Fatal, "PCC=1");
        grade(0xad00_0000_0000_017a, MCIP, Severity::Srao, "write-back");
        grade(0xac00_0000_0000_0134, MCIP, Severity::Ucna, "not signalled");
        grade(0x8c00_0000_0000_0134, MCIP | RIPV, Severity::Corrected, "UC=0");
    }

    #[test]
    fn processors_older_than_recovery_have_none_where_nobody_said() {
        for cpuid in [0x684, 0x6f4, 0xf44, 0x106a4] {
            let old = McaRegisters { cpuid, mcg_cap: 0, ..intel(0xbd80_0000_0000_0134) };
            check(
                &McaRegisters { mcg_status: MCIP | RIPV, ..old.clone() },
                Severity::Fatal,
                "SER_P=0",
            );
            check(&old, Severity::Ucna, "polling");
        }
        let first = McaRegisters { cpuid: 0x206e4, mcg_cap: 0, ..intel(0xbd80_0000_0000_0134) };
        check(&first, Severity::Srar, "data load");
    }

    #[test]
    fn what_linux_logs_as_a_bank_is_no_error() {
        let hot = McaRegisters { bank: 128, ..intel(0x8844_000f) };
        check(&hot, Severity::Informational, "operating system");
        let hot = McaRegisters { bank: 128, ..intel(0xbe00_0000_0000_0135) };
        check(&hot, Severity::Informational, "operating system");
    }

    #[test]
    fn the_kernel_itself_was_interrupted() {
        let srar = McaRegisters { mcg_status: MCIP | EIPV, ..intel(0xbd80_0000_0000_0134) };
        check(&McaRegisters { cs: 0x10, ..srar.clone() }, Severity::Fatal, "kernel");
        check(&McaRegisters { cs: 0x33, ..srar.clone() }, Severity::Srar, "data load");
        let guest = McaRegisters { cs: 0x10, mcg_status: MCIP | EIPV | 1 << 12, ..srar };
        check(&guest, Severity::Srar, "SEAM_NR");
    }

    #[test]
    fn intel_without_software_recovery() {
        let grade = |status, mcg_status, severity, rule: &str| {
            let registers = McaRegisters { mcg_cap: 9, mcg_status, ..intel(status) };
            check(&registers, severity, rule);
        };
        grade(0x9c00_0000_0000_0090, 0, Severity::Corrected, "UC=0");
        grade(0xbe00_0000_0000_0090, MCIP, Severity::Fatal, "PCC=1");
        grade(0xbc00_0000_0000_0090, MCIP | RIPV, Severity::Fatal, "no software recovery");
        grade(0xbc00_0000_0000_0090, MCIP, Severity::Fatal, "no software recovery");
        // EN matters to processors with recovery only.
        grade(0xac00_0000_0000_0090, MCIP | RIPV, Severity::Fatal, "no software recovery");
        grade(0xbc00_0000_0000_0090, 0, Severity::Ucna, "polling");
        grade(0xfc00_0000_0000_0090, 0, Severity::Fatal, "OVER=1");
        // Bits 56:55 are model-specific there and must not be read as S and AR.
        grade(0xbd80_0000_0000_0090, 0, Severity::Ucna, "polling");
    }

    #[test]
    fn an_unknown_capability_register_is_read_as_a_server_s() {
        let registers = McaRegisters { mcg_cap: 0, ..intel(0xbd00_0000_0000_00c0) };
        check(&registers, Severity::Srao, "scrubber");
    }

    #[test]
    fn skylake_disguises_a_scrub_error() {
        let scrub = McaRegisters { cpuid: 0x50654, bank: 13, ..intel(0x8c00_0000_0010_00c1) };
        check(&scrub, Severity::Srao, "logs with UC=0");
        check(&McaRegisters { bank: 12, ..scrub.clone() }, Severity::Corrected, "UC=0");
        check(&McaRegisters { cpuid: 0x50653, ..scrub.clone() }, Severity::Corrected, "UC=0");
        check(&McaRegisters { cpuid: 0x606a6, ..scrub }, Severity::Corrected, "UC=0");
    }

    #[test]
    fn amd_rules() {
        let grade = |status, severity, rule: &str| check(&amd(status), severity, rule);
        grade(0x1c00_0000_0000_011b, Severity::Informational, "no valid error");
        grade(0x9c20_4000_0001_011b, Severity::Corrected, "UC=0");
        grade(0x9c20_1000_0001_011b, Severity::Deferred, "DEFERRED=1");
        grade(0xbc20_0000_0001_0135, Severity::Srar, "PCC=0");
        grade(0xbca0_0000_0001_0135, Severity::Srar, "TCC=1");
        grade(0xbca0_0800_0001_0135, Severity::Srar, "POISON=1");
        grade(0xfe20_0000_0001_0135, Severity::Fatal, "PCC=1");
        let old = McaRegisters { cpuid: 0x100f42, ..amd(0xbc00_0000_0001_0135) };
        check(&old, Severity::Fatal, "no software recovery");
        let lost = McaRegisters { mcg_status: MCIP, ..amd(0xbc20_0000_0001_0135) };
        check(&lost, Severity::Fatal, "RIPV=0 EIPV=0");
        let tcc = McaRegisters { mcg_status: RIPV | MCIP, ..amd(0xbca0_0000_0001_0135) };
        check(&McaRegisters { cs: 0x10, ..tcc.clone() }, Severity::Fatal, "its context is corrupt");
        check(&McaRegisters { cs: 0x33, ..tcc.clone() }, Severity::Srar, "TCC=1");
        check(&McaRegisters { cs: 0x10, mcg_status: RIPV, ..tcc }, Severity::Srar, "TCC=1");
        let hygon = McaRegisters { vendor: CpuVendor::Hygon, ..amd(0x9c20_1000_0001_011b) };
        check(&hygon, Severity::Deferred, "DEFERRED=1");
    }

    #[test]
    fn zhaoxin_is_graded_as_intel() {
        let registers = McaRegisters {
            vendor: CpuVendor::Zhaoxin,
            cpuid: 0x507b0,
            ..intel(0xbd00_0000_0000_00c0)
        };
        check(&registers, Severity::Srao, "scrubber");
    }

    #[test]
    fn other_makers_get_only_what_their_capabilities_say() {
        let other = McaRegisters { vendor: CpuVendor::Unknown(1), ..intel(0xbd00_0000_0000_00c0) };
        check(&other, Severity::Srao, "scrubber");
        check(&McaRegisters { mcg_cap: 0, ..other }, Severity::Ucna, "polling");
        assert_eq!(SER_P, 1 << 24);
    }

    #[test]
    fn firmware_first_needs_no_vendor() {
        for vendor in [CpuVendor::Intel, CpuVendor::Amd] {
            let made = |status| McaRegisters { vendor, bank: 255, mcg_cap: 9, ..intel(status) };
            check(&made(0x9c00_0000_0000_009f), Severity::Corrected, "firmware");
            check(&made(0xbc00_0000_0000_009f), Severity::Srao, "firmware");
            check(&made(0xbe00_0000_0000_009f), Severity::Fatal, "firmware");
        }
    }

    #[test]
    fn a_worn_cache_is_named() {
        let cache =
            McaRegisters { mcg_cap: SER_P | 1 << 11 | 9, ..intel(0x8c00_0000_0000_0135 | 2 << 53) };
        check(&cache, Severity::Corrected, "threshold yellow");
    }
}
