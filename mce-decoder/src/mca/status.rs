//! The machine-check registers, bit by bit.
//!
//! Layouts: SDM vol. 3B, chapter "Machine-Check Architecture"; AMD's differences: APM vol. 2,
//! chapter "Machine Check Architecture". Names are the manuals' own.

use bitfield_struct::bitfield;

/// `IA32_MCG_CAP`. SDM vol. 3B, "`IA32_MCG_CAP` MSR".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McgCap {
    /// Number of error-reporting banks.
    pub count: u8,
    /// `IA32_MCG_CTL` is present.
    pub ctl_p: bool,
    /// Extended machine-check state registers are present.
    pub ext_p: bool,
    /// Corrected errors are counted, and can be signalled by CMCI.
    pub cmci_p: bool,
    /// Threshold-based error status (bits 54:53 of the status) is present.
    pub tes_p: bool,
    #[bits(4)]
    __: u8,
    /// Number of extended state registers.
    pub ext_cnt: u8,
    /// Software error recovery: S, AR and the address part of `IA32_MCi_MISC` are architectural.
    pub ser_p: bool,
    /// Bit 37 of a bank's status says whether firmware may have changed it.
    pub emc_p: bool,
    /// Firmware is told of errors first ("enhanced machine check architecture").
    pub elog_p: bool,
    /// Local machine checks.
    pub lmce_p: bool,
    #[bits(36)]
    __: u64,
}

impl McgCap {
    /// Whether the register was captured at all. A processor that reported an error has at least one
    /// bank; some sources (kernel log text, for one) leave the register out, which reads as zero.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.count() != 0
    }
}

/// `IA32_MCG_STATUS`. SDM vol. 3B, "`IA32_MCG_STATUS` MSR".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McgStatus {
    /// Restart IP valid: the program can be continued at the saved instruction pointer.
    pub ripv: bool,
    /// Error IP valid: the saved instruction pointer has to do with the error.
    pub eipv: bool,
    /// A machine-check exception is being handled.
    pub mcip: bool,
    /// It was signalled to this logical processor only.
    pub lmce_s: bool,
    __: u8,
    /// It hit a guest that runs under the TDX module (SEAM non-root mode).
    pub seam_nr: bool,
    #[bits(51)]
    __: u64,
}

/// `IA32_MCi_STATUS`. SDM vol. 3B, "`IA32_MCi_STATUS` MSRs".
///
/// Bits 56:53 and 52:38 have these meanings only with the capability each names in [`McgCap`], and
/// not on AMD: see [`AmdStatus`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct MciStatus {
    /// MCACOD, architectural error code.
    pub mcacod: u16,
    /// MSCOD, model-specific error code.
    pub mscod: u16,
    /// Model-specific information.
    #[bits(6)]
    pub other_info: u8,
    /// Corrected errors since the bank was last cleared (`cmci_p`).
    #[bits(15)]
    pub corrected_count: u16,
    /// Threshold-based status: 1 green, 2 yellow (`tes_p`).
    #[bits(2)]
    pub threshold_status: u8,
    /// Action required (`ser_p`).
    pub ar: bool,
    /// Signalled by a machine-check exception (`ser_p`).
    pub s: bool,
    /// Processor context corrupt.
    pub pcc: bool,
    /// The address register is valid.
    pub addrv: bool,
    /// The miscellaneous register is valid.
    pub miscv: bool,
    /// Reporting of this error was enabled.
    pub en: bool,
    /// Uncorrected.
    pub uc: bool,
    /// Overflow: an earlier error is still in the bank, this or that one was lost.
    pub over: bool,
    /// The register is valid.
    pub val: bool,
}

/// `MCi_STATUS` of AMD and Hygon processors. APM vol. 2, "Machine-Check Status Registers".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct AmdStatus {
    /// Architectural error code.
    pub error_code: u16,
    /// Extended error code, bank-specific.
    #[bits(6)]
    pub error_code_ext: u8,
    #[bits(2)]
    __: u8,
    /// Least significant valid bit of the address, where `MCA_CONFIG[McaLsbInStatusSupported]`.
    #[bits(6)]
    pub addr_lsb: u8,
    #[bits(2)]
    __: u8,
    /// The core the error belongs to, where `error_core_id_val`.
    #[bits(6)]
    pub error_core_id: u8,
    #[bits(2)]
    __: u8,
    /// Found by a scrubber.
    pub scrub: bool,
    #[bits(2)]
    __: u8,
    /// Poison: consumed data was marked bad earlier.
    pub poison: bool,
    /// Deferred: uncorrectable data was found and marked, nobody consumed it yet.
    pub deferred: bool,
    /// Uncorrected ECC error.
    pub uecc: bool,
    /// Corrected ECC error.
    pub cecc: bool,
    #[bits(5)]
    __: u8,
    /// Transparent: logged on behalf of a unit that reported it elsewhere too.
    pub transparent: bool,
    /// The syndrome register is valid.
    pub syndv: bool,
    /// The address is a system physical one, where `MCA_CONFIG` has such a flag.
    pub physical_address: bool,
    /// Task context corrupt: the running thread can't continue, others can.
    pub tcc: bool,
    /// The field of the core is valid.
    pub error_core_id_val: bool,
    /// Processor context corrupt.
    pub pcc: bool,
    /// The address register is valid.
    pub addrv: bool,
    /// The miscellaneous register is valid.
    pub miscv: bool,
    /// Reporting of this error was enabled.
    pub en: bool,
    /// Uncorrected.
    pub uc: bool,
    /// Overflow: an error was lost.
    pub over: bool,
    /// The register is valid.
    pub val: bool,
}

impl AmdStatus {
    /// The bits that no other maker has: SCRUB, POISON, Deferred, UECC, CECC, Transparent, SYNDV,
    /// the kind of address and TCC, where they are in the register.
    #[must_use]
    pub const fn flags(self) -> u64 {
        self.into_bits() & (1 << 40 | 0b1111 << 43 | 0b1111 << 52)
    }
}

/// `MCA_SYND` of a scalable-MCA bank. PPRs, "`MCA_SYND`".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McaSynd {
    /// Where within the unit; its layout depends on the unit and the error.
    #[bits(18)]
    pub error_information: u32,
    /// Valid bits of the syndrome.
    #[bits(6)]
    pub length: u8,
    /// 2 corrected, 3 deferred, 4 uncorrected, 5 fatal.
    #[bits(3)]
    pub error_priority: u8,
    __: bool,
    /// 0 DRAM, 1 cache, 2 internal.
    #[bits(4)]
    pub syndrome_type: u8,
    /// The syndrome.
    pub syndrome: u32,
}

/// `MCA_CONFIG` of a scalable-MCA bank. APM vol. 2, "`MCA_CONFIG`"; PPRs of family 19h and later.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McaConfig {
    /// The bank has the extensions of scalable MCA.
    pub mca_x: bool,
    /// Transparent errors can be logged.
    pub transparent_logging_supported: bool,
    /// Deferred errors can be logged.
    pub deferred_logging_supported: bool,
    #[bits(2)]
    __: u8,
    /// The interrupt of deferred errors can be chosen.
    pub deferred_int_type_supported: bool,
    #[bits(2)]
    __: u8,
    /// The address' granularity is in `MCA_STATUS[29:24]`, not in `MCA_ADDR[61:56]`.
    pub lsb_in_status_supported: bool,
    /// Firmware writes the name of the replaceable unit into `MCA_SYND1` and `MCA_SYND2`.
    pub fru_text_in_mca: bool,
    __: bool,
    /// `MCA_STATUS[54]` says whether the address is a system physical one.
    pub physical_address_supported: bool,
    #[bits(20)]
    __: u32,
    /// Software acknowledged `mca_x`.
    pub mca_x_enabled: bool,
    /// Transparent errors are logged.
    pub transparent_logging_enabled: bool,
    /// Deferred errors are logged in `MCA_STATUS` too.
    pub log_deferred_in_mca_stat: bool,
    #[bits(2)]
    __: u8,
    /// 0 none, 1 APIC, 2 SMI.
    #[bits(2)]
    pub deferred_int_type: u8,
    #[bits(25)]
    __: u32,
}

impl McaConfig {
    /// Whether the register was captured at all: its lowest bit is always set where it exists.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.into_bits() != 0
    }

    /// The single bits of the register, where they are in it.
    #[must_use]
    pub const fn flags(self) -> u64 {
        self.with_deferred_int_type(0).into_bits()
    }
}

/// `MCA_MISC0` and, before family 17h, `MC4_MISC`: the error counter. APM vol. 2,
/// "Machine-Check Miscellaneous-Error Information Register 0".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct AmdMisc {
    #[bits(24)]
    __: u32,
    /// Where further such registers are.
    pub block_pointer: u8,
    /// The counter; it overflows at 0xFFF.
    #[bits(12)]
    pub error_count: u16,
    #[bits(4)]
    __: u8,
    /// The counter reached 0xFFF.
    pub overflow: bool,
    /// 0 none, 1 APIC, 2 SMI.
    #[bits(2)]
    pub interrupt_type: u8,
    /// The counter counts.
    pub counter_enabled: bool,
    /// Entry of the local vector table, before family 17h.
    #[bits(4)]
    pub lvt_offset: u8,
    #[bits(4)]
    __: u8,
    /// The counter can interrupt.
    pub interrupt_supported: bool,
    /// Firmware owns the counter.
    pub locked: bool,
    /// There is a counter.
    pub counter_present: bool,
    /// The register is valid.
    pub valid: bool,
}

impl AmdMisc {
    /// The single bits of the register, where they are in it.
    #[must_use]
    pub const fn flags(self) -> u64 {
        self.into_bits() & (1 << 48 | 1 << 51 | 0b1111 << 60)
    }
}

/// `IA32_MCi_MISC` of a processor with software error recovery. SDM vol. 3B, "`IA32_MCi_MISC` MSRs".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct MciMisc {
    /// Least significant valid bit of the address.
    #[bits(6)]
    pub addr_lsb: u8,
    /// 0 segment offset, 1 linear, 2 physical, 3 memory, 7 generic; others reserved.
    #[bits(3)]
    pub addr_mode: u8,
    /// Model-specific information.
    #[bits(55)]
    pub model_specific: u64,
}

/// `MCA_IPID`: which kind of unit a scalable-MCA bank belongs to. APM vol. 2, "`MCA_IPID`".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McaIpid {
    /// Which one of several units of this type.
    pub instance_id: u32,
    /// Kind of hardware block.
    #[bits(12)]
    pub hardware_id: u16,
    /// High part of the instance.
    #[bits(4)]
    pub instance_id_hi: u8,
    /// Kind of bank within that block.
    pub mca_type: u16,
}

/// CPUID leaf 1, EAX. SDM vol. 2A, "CPUID"; APM vol. 3, "Function `0000_0001h`".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CpuSignature {
    #[bits(4)]
    pub(crate) stepping: u8,
    #[bits(4)]
    base_model: u8,
    #[bits(4)]
    base_family: u8,
    #[bits(4)]
    __: u8,
    #[bits(4)]
    extended_model: u8,
    extended_family: u8,
    #[bits(4)]
    __: u8,
}

impl CpuSignature {
    /// Family as the manuals print it: 6 for Intel's servers, 0x17 and up for AMD's Zen.
    #[must_use]
    pub const fn family(self) -> u16 {
        match self.base_family() {
            15 => 15 + self.extended_family() as u16,
            family => family as u16,
        }
    }

    /// Model as the manuals print it.
    #[must_use]
    pub const fn model(self) -> u8 {
        match self.base_family() {
            // The SDM says 6 and 15; Zhaoxin's family 7 extends its models too, as Linux has it.
            6.. => self.extended_model() << 4 | self.base_model(),
            _ => self.base_model(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_sit_where_the_manuals_put_them() {
        let status = MciStatus::from_bits(0xbd80_0000_0000_0134);
        assert!(status.val() && status.uc() && status.en() && status.miscv() && status.addrv());
        assert!(status.s() && status.ar() && !status.pcc() && !status.over());
        assert_eq!(status.mcacod(), 0x134);
        assert_eq!(MciStatus::from_bits(0x8c00_0040_0001_0090).corrected_count(), 1);
        assert_eq!(MciStatus::from_bits(3 << 53).threshold_status(), 3);

        let misc = MciMisc::from_bits(0x8c);
        assert_eq!((misc.addr_lsb(), misc.addr_mode()), (12, 2));

        let amd =
            AmdStatus::from_bits(1 << 55 | 1 << 53 | 1 << 44 | 1 << 43 | 0x2a << 24 | 0x3f << 16);
        assert!(amd.tcc() && amd.syndv() && amd.deferred() && amd.poison());
        assert_eq!((amd.addr_lsb(), amd.error_code_ext()), (0x2a, 0x3f));
        let amd = AmdStatus::from_bits(0x7f << 57);
        assert!(
            amd.pcc()
                && amd.addrv()
                && amd.miscv()
                && amd.en()
                && amd.uc()
                && amd.over()
                && amd.val()
        );

        let amd = AmdStatus::from_bits(1 << 56 | 1 << 54 | 1 << 52 | 1 << 40 | 0x2b << 32);
        assert!(amd.error_core_id_val() && amd.physical_address() && amd.transparent());
        assert!(amd.scrub() && !amd.syndv() && !amd.tcc());
        assert_eq!(amd.error_core_id(), 0x2b);
        let synd = McaSynd::from_bits(0x33fa_0100_1a80_0101);
        assert_eq!((synd.syndrome(), synd.syndrome_type()), (0x33fa_0100, 1));
        assert_eq!((synd.error_priority(), synd.length()), (2, 32));
        assert_eq!(synd.error_information(), 0x101);
        let config = McaConfig::from_bits(0x25_0000_0b25);
        assert!(config.lsb_in_status_supported() && config.fru_text_in_mca());
        assert!(config.physical_address_supported() && config.log_deferred_in_mca_stat());
        assert_eq!((config.deferred_int_type(), config.flags()), (1, 0x5_0000_0b25));
        let misc = AmdMisc::from_bits(0xd01b_0fff_0100_0000);
        assert!(misc.valid() && misc.counter_present() && misc.interrupt_supported());
        assert!(misc.overflow() && misc.counter_enabled() && !misc.locked());
        assert_eq!((misc.error_count(), misc.interrupt_type()), (0xfff, 1));

        let cap = McgCap::from_bits(1 << 24 | 1 << 10 | 9);
        assert!(cap.ser_p() && cap.cmci_p() && cap.is_known() && !cap.tes_p());
        let ipid = McaIpid::from_bits(0x0096_0005_0f00);
        assert_eq!((ipid.hardware_id(), ipid.mca_type()), (0x96, 0));
    }

    #[test]
    fn families_and_models() {
        let parts = |eax| {
            let signature = CpuSignature::from_bits(eax);
            (signature.family(), signature.model(), signature.stepping())
        };
        assert_eq!(parts(0x50654), (6, 0x55, 4));
        assert_eq!(parts(0xa0_0f11), (0x19, 0x01, 1));
        assert_eq!(parts(0x10_0f43), (0x10, 0x04, 3));
    }
}
