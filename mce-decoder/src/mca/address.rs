//! What the address register of a bank counts, and to which bit it is good.

use ras_core::{AddressMode, ErrorAddress, McaRegisters, PAGE_SHIFT, PhysAddr};

use super::status::{AmdStatus, McaConfig, MciMisc, MciStatus};
use super::{FIRMWARE_FIRST_BANK, has_recovery, is_amd, is_software_bank};
use crate::vendor::amd::{self, BankKind};

/// No x86 processor has more physical address bits. SDM vol. 1, "Physical Address Space".
const PHYSICAL_BITS_MAX: u32 = 52;

/// log2 of a cache line: the unit in which memory is read, corrected and marked as poisoned.
const LINE_SHIFT: u8 = 6;

/// The address in `registers`, if there is a valid one.
pub(super) fn error_address(registers: &McaRegisters) -> Option<ErrorAddress> {
    let status = MciStatus::from_bits(registers.status);
    if !status.val() || !status.addrv() || is_software_bank(registers) {
        return None;
    }
    Some(if registers.bank == FIRMWARE_FIRST_BANK {
        firmware_first(registers)
    } else if is_amd(registers.vendor) {
        amd(registers)
    } else {
        intel(registers)
    })
}

/// Linux writes MISC itself, in Intel's layout, whatever the processor; kernels before 5.4 or so
/// left it invalid. Firmware reports system physical addresses.
fn firmware_first(registers: &McaRegisters) -> ErrorAddress {
    let lsb = match MciStatus::from_bits(registers.status).miscv() {
        true => MciMisc::from_bits(registers.misc).addr_lsb(),
        false => PAGE_SHIFT.to_le_bytes()[0],
    };
    address(registers.addr, lsb, AddressMode::Physical)
}

/// SDM vol. 3B, "`IA32_MCi_MISC` MSRs": granularity and mode are architectural only where MISCV and
/// `MCG_SER_P`. Elsewhere nobody says what the address counts: it is reported as generic, to the
/// bit, and no page is ever retired because of it. (Linux' `mce_usable_address` agrees.)
fn intel(registers: &McaRegisters) -> ErrorAddress {
    let misc = MciMisc::from_bits(registers.misc);
    if !MciStatus::from_bits(registers.status).miscv() || !has_recovery(registers) {
        return address(registers.addr, 0, AddressMode::Generic);
    }
    let mode = match misc.addr_mode() {
        0 => AddressMode::SegmentOffset,
        1 => AddressMode::Linear,
        2 => AddressMode::Physical,
        3 => AddressMode::Memory,
        _ => AddressMode::Generic,
    };
    address(registers.addr, misc.addr_lsb(), mode)
}

/// AMD has no mode field: the kind of bank decides. A memory controller (UMC) reports addresses
/// normalized to its own channel; a bank that saw poison reports a system address, so that software
/// can act on it; northbridges before family 17h report system addresses for DRAM errors. All others
/// are bank-specific. (Linux' `amd_mce_usable_address` has the same rules.)
fn amd(registers: &McaRegisters) -> ErrorAddress {
    let status = AmdStatus::from_bits(registers.status);
    let config = McaConfig::from_bits(registers.config);
    let mode = match amd::bank_kind(registers) {
        // Newer processors say so: `MCA_CONFIG` bit 11 makes bit 54 of the status a flag.
        BankKind::Umc | BankKind::Other
            if config.physical_address_supported() && status.physical_address() =>
        {
            AddressMode::Physical
        }
        BankKind::Umc => AddressMode::Memory,
        BankKind::NorthbridgeDram => AddressMode::Physical,
        // In the northbridge bank bit 43 is no poison bit.
        BankKind::Northbridge => AddressMode::Generic,
        BankKind::Other if status.poison() => AddressMode::Physical,
        BankKind::Other => AddressMode::Generic,
    };
    let unstated = if mode == AddressMode::Generic { 0 } else { LINE_SHIFT };
    if !amd::is_scalable(registers) {
        return address(registers.addr, unstated, mode);
    }
    // The granularity is in ADDR[61:56], or, on processors with
    // `MCA_CONFIG[McaLsbInStatusSupported]`, in STATUS[29:24], and the address is a bit longer then.
    // Where CONFIG was not captured, the other field is taken to be reserved as zero. Linux removes
    // ADDR[61:56] before it traces: then it is taken to be a line.
    let in_address = (registers.addr >> 56).to_le_bytes()[0] & 0x3f;
    let (lsb, bits) = match (config.is_known(), in_address, status.addr_lsb()) {
        (true, _, in_status) if config.lsb_in_status_supported() => (in_status, 57),
        (false, 0, in_status) => (in_status, 56),
        (_, in_address, _) => (in_address, 56),
    };
    let lsb = if lsb == 0 { unstated } else { lsb };
    address(registers.addr & ((1 << bits) - 1), lsb, mode)
}

fn address(addr: u64, lsb: u8, mode: AddressMode) -> ErrorAddress {
    let valid = match mode {
        AddressMode::Physical => addr & ((1 << PHYSICAL_BITS_MAX) - 1),
        _ => addr,
    };
    // Both fields are six bits wide, so the shift is always defined.
    let lsb = lsb & 0x3f;
    ErrorAddress { addr: PhysAddr(valid >> lsb << lsb), lsb, mode }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mca::tests::{amd, intel};

    fn check(registers: &McaRegisters, expected: Option<(u64, u8, AddressMode)>) {
        let got = error_address(registers).map(|a| (a.addr.0, a.lsb, a.mode));
        assert_eq!(got, expected);
    }

    #[test]
    fn intel_needs_misc_to_be_believed() {
        use AddressMode::*;
        let with =
            |misc| McaRegisters { addr: 0x1_2345_6789, misc, ..intel(0x8c00_0040_0001_0090) };
        check(&with(0x86), Some((0x1_2345_6780, 6, Physical)));
        check(&with(0x8c), Some((0x1_2345_6000, 12, Physical)));
        check(&with(0x0c), Some((0x1_2345_6000, 12, SegmentOffset)));
        check(&with(0x4c), Some((0x1_2345_6000, 12, Linear)));
        check(&with(0xcc), Some((0x1_2345_6000, 12, Memory)));
        check(&with(0x14c), Some((0x1_2345_6000, 12, Generic)));
        check(&with(0xffff_ffff_ffff_febf), Some((0, 63, Physical)));
        let no_misc = McaRegisters { status: 0x8400_0040_0001_0090, ..with(0x86) };
        check(&no_misc, Some((0x1_2345_6789, 0, Generic)));
        check(&McaRegisters { mcg_cap: 9, ..with(0x86) }, Some((0x1_2345_6789, 0, Generic)));
        check(&McaRegisters { mcg_cap: 0, ..with(0x86) }, Some((0x1_2345_6780, 6, Physical)));
        check(&McaRegisters { status: 0x8800_0040_0001_0090, ..with(0x86) }, None);
        let high = McaRegisters { addr: 0xfff0_0000_0000_1000, ..with(0x8c) };
        check(&high, Some((0x1000, 12, Physical)));
    }

    #[test]
    fn amd_goes_by_the_kind_of_bank() {
        use AddressMode::*;
        let umc = McaRegisters {
            ipid: 0x96_0005_0f00,
            addr: 0x66_7fa2_6444,
            ..amd(0x9c20_4000_0000_011b)
        };
        check(&umc, Some((0x66_7fa2_6440, 6, Memory)));
        let core = McaRegisters { ipid: 0xb0_0000_0000, ..umc.clone() };
        check(&core, Some((0x66_7fa2_6444, 0, Generic)));
        let poison = McaRegisters { status: 0xbc20_0800_0001_0135, ..core.clone() };
        check(&poison, Some((0x66_7fa2_6440, 6, Physical)));
        check(
            &McaRegisters { addr: 0x0c00_0066_7fa2_6444, ..poison.clone() },
            Some((0x66_7fa2_6000, 12, Physical)),
        );
        check(
            &McaRegisters { status: poison.status | 9 << 24, ..poison.clone() },
            Some((0x66_7fa2_6400, 9, Physical)),
        );
        let known = |config, status| McaRegisters { config, status, ..poison.clone() };
        let line = poison.status | 6 << 24;
        let high = |config| McaRegisters { addr: 0x0d00_0066_7fa2_6444, ..known(config, line) };
        check(&high(0x1), Some((0x66_7fa2_6000, 13, Physical)));
        check(&high(0x101), Some((0x66_7fa2_6440, 6, Physical)));
        let told = McaRegisters { config: 0x901, status: umc.status | 1 << 54, ..umc.clone() };
        check(&told, Some((0x66_7fa2_6440, 6, Physical)));
        check(&McaRegisters { config: 0x101, ..told }, Some((0x66_7fa2_6440, 6, Memory)));
        let northbridge = McaRegisters {
            cpuid: 0x100f43,
            bank: 4,
            addr: 0x1234_5678,
            ..amd(0x9c00_4000_0008_0a13)
        };
        check(&northbridge, Some((0x1234_5640, 6, Physical)));
        let link = McaRegisters { status: 0x9c00_0800_0001_0a13, ..northbridge };
        check(&link, Some((0x1234_5678, 0, Generic)));
    }

    #[test]
    fn firmware_first_is_physical_on_every_processor() {
        for made in [intel(0x9c00_0000_0000_009f), amd(0x9c00_0000_0000_009f)] {
            let made = McaRegisters { bank: 255, mcg_cap: 9, addr: 0x12_3456, misc: 0x86, ..made };
            check(&made, Some((0x12_3440, 6, AddressMode::Physical)));
            let old = McaRegisters { status: 0x9400_0000_0000_009f, ..made };
            check(&old, Some((0x12_3000, 12, AddressMode::Physical)));
        }
    }
}
