//! The machine as migrations see it: what it answers, and its state as bytes.

use std::time::Instant;

use kvm_bindings::{CpuId, kvm_clock_data, kvm_cpuid_entry2};
use ras_core::Gpa;
use ras_qmp::RunState;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Vm, WrongState};
use crate::devices::legacy::{serial, watchdog};
use crate::devices::virtio::{mem, mmio};
use crate::kvm::state::{IrqchipState, VcpuState};
use crate::kvm::{cpuid, slots};
use crate::lock;
use crate::machine::Cause;
use crate::memory::mapping::{DirtyBitmap, GuestRam, RegionKind};
use crate::migrate::{Destination, Source, VmResult};
use crate::poison::{Page, vmce};

/// Version of [`Saved`]. Raised whenever an older destination would misread it.
/// Version 2 has the watchdog's timer, and a reset that waits for the end of the migration.
const VERSION: u32 = 2;

/// The state of everything but memory. Written as JSON: it is small beside the memory, and what it
/// says can be read by people.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// The guest ran when the migration began.
    running: bool,
    /// What the guest was told about its processor; it can't be told otherwise now.
    cpuid: Vec<kvm_cpuid_entry2>,
    vcpu: VcpuState,
    irqchip: Option<IrqchipState>,
    clock: Option<kvm_clock_data>,
    serial: serial::Registers,
    watchdog: watchdog::Saved,
    /// The guest is to start again.
    reset: Option<Cause>,
    virtio_mem: Option<(mmio::Registers, mem::device::Saved)>,
    poison: Vec<Page>,
    machine_checks: vmce::Queue,
}

/// What is in the state does not fit this machine.
#[derive(Debug, thiserror::Error)]
enum Misfit {
    #[error("the state has version {0}, this program reads {VERSION}")]
    Version(u32),
    #[error("the guest was told of processor features this host lacks, in CPUID leaves {0:x?}")]
    Cpuid(Vec<u32>),
    #[error("the guest's processor is of another maker than this host's")]
    Vendor,
    #[error("the memory devices differ")]
    VirtioMem,
    #[error("the vCPU has ended")]
    NoVcpu,
}

impl Source for Vm {
    fn ram(&self) -> &GuestRam {
        self.machine().ram()
    }

    fn populated(&self) -> Vec<(Gpa, u64)> {
        let regions = self.machine().ram().regions().iter();
        let ram = regions.filter(|region| region.kind() == RegionKind::Ram);
        let mut runs: Vec<_> = ram.map(|region| (region.gpa(), region.size())).collect();
        if let Some(transport) = self.machine().virtio_mem() {
            runs.extend(transport.device().blocks().plugged());
        }
        runs
    }

    fn poisoned(&self) -> Vec<Gpa> {
        self.machine().poison().list().lost()
    }

    fn found_poisoned(&self, page: Gpa) {
        self.machine().poison().note_lost(page, None);
    }

    fn dirty_log_start(&self) -> VmResult<()> {
        // The blocks must not change hands while they travel. A ladder that is being climbed is left
        // at once, and what it asked of the guest is taken back before the state is saved.
        self.machine().freeze(true);
        drop(self.ladder());
        slots::log_dirty(self.machine().vm(), self.machine().ram(), true)?;
        self.machine().emit("MIGRATION", json!({ "status": "active" }));
        Ok(())
    }

    fn dirty_log_stop(&self) -> VmResult<()> {
        self.machine().freeze(false);
        Ok(slots::log_dirty(self.machine().vm(), self.machine().ram(), false)?)
    }

    fn take_dirty(&self) -> VmResult<Vec<DirtyBitmap>> {
        Ok(slots::take_dirty(self.machine().vm(), self.machine().ram())?)
    }

    fn pause(&self) -> VmResult<()> {
        let _turn = lock(&self.transition);
        let running = self.state() == RunState::Running;
        *lock(&self.resume_after_migration) = running;
        if running {
            self.halt(RunState::FinishMigrate);
        } else {
            self.machine().lifecycle().change(RunState::Paused, RunState::FinishMigrate);
        }
        match self.state() {
            RunState::FinishMigrate => Ok(()),
            state => Err(WrongState(state).into()),
        }
    }

    fn resume(&self) -> VmResult<()> {
        let _turn = lock(&self.transition);
        if *lock(&self.resume_after_migration) {
            self.run(RunState::FinishMigrate);
        } else {
            self.machine().lifecycle().change(RunState::FinishMigrate, RunState::Paused);
        }
        Ok(())
    }

    fn save(&self) -> VmResult<Vec<u8>> {
        let machine = self.machine();
        let saved = Saved {
            version: VERSION,
            running: *lock(&self.resume_after_migration),
            cpuid: self.vcpu().with(|vcpu| vcpu.cpuid().to_vec()).ok_or(Misfit::NoVcpu)?,
            vcpu: self.vcpu().with(|vcpu| vcpu.save()).ok_or(Misfit::NoVcpu)??,
            irqchip: if machine.has_irqchip() { IrqchipState::save(machine.vm()) } else { None },
            clock: machine.vm().get_clock().ok(),
            serial: machine.serial().registers(),
            watchdog: machine.watchdog().save(Instant::now()),
            reset: machine.lifecycle().reset_pending(),
            virtio_mem: machine
                .virtio_mem()
                .map(|transport| (transport.registers(), transport.device().save())),
            poison: machine.poison().list().iter().copied().collect(),
            machine_checks: machine.poison().queue(),
        };
        Ok(serde_json::to_vec(&saved)?)
    }
}

impl Destination for Vm {
    fn ram(&self) -> &GuestRam {
        self.machine().ram()
    }

    fn mark_poisoned(&self, pages: &[Gpa]) -> VmResult<()> {
        for page in pages {
            self.machine().ram().poison(*page)?;
            self.machine().poison().note_lost(*page, None);
        }
        Ok(())
    }

    fn load(&self, state: &[u8]) -> VmResult<()> {
        let saved: Saved = serde_json::from_slice(state)?;
        if saved.version != VERSION {
            return Err(Misfit::Version(saved.version).into());
        }
        let machine = self.machine();
        let told = CpuId::from_entries(&saved.cpuid).map_err(|_| Misfit::Vendor)?;
        if cpuid::vendor(&told) != self.vcpu().vendor() {
            return Err(Misfit::Vendor.into());
        }
        let cpuid = saved.cpuid;
        let taken = self.vcpu().with(move |vcpu| vcpu.take_cpuid(&cpuid));
        taken.ok_or(Misfit::NoVcpu)?.map_err(Misfit::Cpuid)?;
        match (machine.virtio_mem(), saved.virtio_mem) {
            (Some(mut transport), Some((registers, device))) => {
                if !transport.device_mut().restore(device) {
                    return Err(Misfit::VirtioMem.into());
                }
                transport.restore(registers);
            }
            (None, None) => {}
            _ => return Err(Misfit::VirtioMem.into()),
        }
        machine.serial().restore(saved.serial);
        machine.watchdog().restore(saved.watchdog);
        if let Some(cause) = saved.reset {
            machine.request_reset(cause);
        }
        // Frames were the source's, and so were the pages it held: here their blocks are healthy.
        let lost = saved.poison.into_iter().filter(|page| page.lost && !page.held);
        machine.poison().list().restore(lost.map(|page| Page { pfn: None, ..page }).collect());
        machine.poison().restore_queue(saved.machine_checks);
        if let (true, Some(irqchip)) = (machine.has_irqchip(), &saved.irqchip) {
            irqchip.load(machine.vm())?;
        }
        let vcpu = saved.vcpu;
        let refused = self.vcpu().with(move |own| own.load(&vcpu)).ok_or(Misfit::NoVcpu)??;
        if !refused.is_empty() {
            tracing::info!("this host does not take these model-specific registers: {refused:x?}");
        }
        if let Some(clock) = saved.clock {
            // Only paravirtual clocks are concerned; a KVM without them refuses.
            let clock = kvm_clock_data { flags: 0, ..clock };
            if let Err(error) = machine.vm().set_clock(&clock) {
                tracing::debug!("KVM clock: {error}");
            }
        }
        *lock(&self.resume_after_migration) = saved.running;
        Ok(())
    }

    fn resume(&self) -> VmResult<()> {
        let _turn = lock(&self.transition);
        if *lock(&self.resume_after_migration) {
            self.run(RunState::Inmigrate);
        } else {
            self.machine().lifecycle().change(RunState::Inmigrate, RunState::Paused);
        }
        Ok(())
    }
}
