//! A vCPU's and the interrupt controllers' state as one value, for migrations.
//!
//! Reading is lenient, because KVM implementations differ in which registers they have: what this
//! host can't read does not travel. Writing is strict about what the guest would notice (general,
//! system and floating-point registers) and lenient about model-specific registers, each of which
//! is tried on its own; what the destination refused is reported.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_debugregs,
    kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::mce;

/// `IA32_TIME_STAMP_COUNTER`.
const MSR_TSC: u32 = 0x10;

/// Why a vCPU's state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct StateError {
    doing: &'static str,
    source: kvm_ioctls::Error,
}

/// The state of a vCPU.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Option<Box<kvm_xsave>>,
    fpu: Option<Fpu>,
    xcrs: Option<kvm_xcrs>,
    debugregs: Option<kvm_debugregs>,
    lapic: Option<kvm_lapic_state>,
    msrs: Vec<kvm_msr_entry>,
    events: Option<kvm_vcpu_events>,
    mp_state: Option<kvm_mp_state>,
}

/// `kvm_fpu`, for hosts without XSAVE.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Fpu {
    fpr: [[u8; 16]; 8],
    fcw: u16,
    fsw: u16,
    ftwx: u8,
    last_opcode: u16,
    last_ip: u64,
    last_dp: u64,
    xmm: [[u8; 16]; 16],
    mxcsr: u32,
}

/// The state of the interrupt controllers of a machine: both 8259 and the I/O APIC.
#[derive(Serialize, Deserialize)]
pub struct IrqchipState(Vec<kvm_irqchip>);

fn doing(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> StateError {
    move |source| StateError { doing, source }
}

/// The model-specific registers to carry: those KVM lists, and those of the machine-check banks.
#[must_use]
pub fn msr_indices(kvm: &Kvm) -> Vec<u32> {
    let mut indices = kvm.get_msr_index_list().map_or(Vec::new(), |list| list.as_slice().to_vec());
    indices.extend([mce::MSR_MCG_STATUS, mce::MSR_MCG_CTL, MSR_TSC]);
    for bank in 0..mce::BANKS {
        indices.extend(mce::msr_ctl(bank)..mce::msr_ctl(bank) + 4);
    }
    indices.sort_unstable();
    indices.dedup();
    indices
}

/// Reads one model-specific register; `None` where the vCPU does not have it.
#[must_use]
pub fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
    let read = vcpu.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().first().filter(|_| read == 1).map(|entry| entry.data)
}

fn write_msr(vcpu: &VcpuFd, entry: kvm_msr_entry) -> bool {
    Msrs::from_entries(&[entry])
        .is_ok_and(|msrs| vcpu.set_msrs(&msrs).is_ok_and(|count| count == 1))
}

impl VcpuState {
    /// Reads the state of a vCPU that is not running and has no I/O half done.
    ///
    /// # Errors
    /// General or system registers can't be read.
    pub fn save(vcpu: &VcpuFd, msr_indices: &[u32]) -> Result<Self, StateError> {
        let msrs = msr_indices.iter().filter_map(|index| {
            let data = read_msr(vcpu, *index)?;
            Some(kvm_msr_entry { index: *index, data, ..Default::default() })
        });
        let xsave = vcpu.get_xsave().ok().map(Box::new);
        let fpu = if xsave.is_some() { None } else { vcpu.get_fpu().ok().map(Fpu::from) };
        Ok(Self {
            // First, because reading it lets KVM finish a pending INIT or SIPI.
            mp_state: vcpu.get_mp_state().ok(),
            regs: vcpu.get_regs().map_err(doing("reading general registers"))?,
            sregs: vcpu.get_sregs().map_err(doing("reading system registers"))?,
            xsave,
            fpu,
            xcrs: vcpu.get_xcrs().ok(),
            debugregs: vcpu.get_debug_regs().ok(),
            lapic: vcpu.get_lapic().ok(),
            msrs: msrs.collect(),
            events: vcpu.get_vcpu_events().ok(),
        })
    }

    /// Writes the state to a fresh vCPU with the same CPUID and machine-check banks. Answers the
    /// model-specific registers this host would not take.
    ///
    /// # Errors
    /// Registers the guest would miss can't be written.
    pub fn load(&self, vcpu: &VcpuFd) -> Result<Vec<u32>, StateError> {
        if let Some(state) = self.mp_state {
            vcpu.set_mp_state(state).map_err(doing("writing the multiprocessing state"))?;
        }
        vcpu.set_regs(&self.regs).map_err(doing("writing general registers"))?;
        vcpu.set_sregs(&self.sregs).map_err(doing("writing system registers"))?;
        if let Some(xcrs) = &self.xcrs {
            // Some hosts list XCR0 but do not let it be written: XSAVE below would fail too then.
            let _ = vcpu.set_xcrs(xcrs);
        }
        match (&self.xsave, &self.fpu) {
            (Some(xsave), _) => {
                set_xsave(vcpu, xsave).map_err(doing("writing floating-point state"))?;
            }
            (None, Some(fpu)) => {
                vcpu.set_fpu(&(*fpu).into()).map_err(doing("writing floating-point state"))?;
            }
            (None, None) => {}
        }
        if let Some(registers) = &self.debugregs {
            let _ = vcpu.set_debug_regs(registers);
        }
        if let Some(lapic) = &self.lapic {
            vcpu.set_lapic(lapic).map_err(doing("writing the local APIC"))?;
        }
        let refused: Vec<u32> = self
            .msrs
            .iter()
            .filter(|entry| !write_msr(vcpu, **entry))
            .map(|entry| entry.index)
            .collect();
        // Last: loading anything else may drop a pending exception.
        if let Some(events) = &self.events {
            vcpu.set_vcpu_events(events).map_err(doing("writing pending events"))?;
        }
        Ok(refused)
    }
}

// UNSAFETY: kvm-ioctls marks one call unsafe, for features this VMM never enables.
#[allow(unsafe_code)]
fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the call is unsafe because KVM reads beyond 4096 bytes once a guest has features such
    // as AMX, which have to be requested by arch_prctl; this process never does.
    unsafe { vcpu.set_xsave(xsave) }
}

impl IrqchipState {
    /// Reads the controllers; `None` where the machine has none.
    #[must_use]
    pub fn save(vm: &VmFd) -> Option<Self> {
        let read = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).ok().map(|()| chip)
        };
        let chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        chips.into_iter().map(read).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Writes the controllers.
    ///
    /// # Errors
    /// This machine has none, or does not take the state.
    pub fn load(&self, vm: &VmFd) -> Result<(), StateError> {
        for chip in &self.0 {
            vm.set_irqchip(chip).map_err(doing("writing an interrupt controller"))?;
        }
        Ok(())
    }
}

impl From<kvm_bindings::kvm_fpu> for Fpu {
    fn from(fpu: kvm_bindings::kvm_fpu) -> Self {
        let kvm_bindings::kvm_fpu { fpr, fcw, fsw, ftwx, last_opcode, last_ip, last_dp, .. } = fpu;
        let (xmm, mxcsr) = (fpu.xmm, fpu.mxcsr);
        Self { fpr, fcw, fsw, ftwx, last_opcode, last_ip, last_dp, xmm, mxcsr }
    }
}

impl From<Fpu> for kvm_bindings::kvm_fpu {
    fn from(fpu: Fpu) -> Self {
        let Fpu { fpr, fcw, fsw, ftwx, last_opcode, last_ip, last_dp, xmm, mxcsr } = fpu;
        Self { fpr, fcw, fsw, ftwx, last_opcode, last_ip, last_dp, xmm, mxcsr, ..Self::default() }
    }
}
