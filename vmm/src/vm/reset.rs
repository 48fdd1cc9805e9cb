//! A guest starts again, in the same process, with the memory and the devices of a fresh machine.
//!
//! ```text
//!   vCPU            stopped, its registers as KVM made them, then those of the boot protocol
//!   RAM             given back to the host, so zero; kernel and boot data loaded anew
//!     bad pages     a fresh frame each; the bad one stays allocated, out of everybody's reach
//!   memory device   all unplugged; the requested size stays; blocks with held pages stay unusable
//!   serial, timer   as fresh; interrupt controllers as KVM made them
//!   stays           QMP and its clients, what the guest is called, actions chosen meanwhile
//! ```
//!
//! A guest that resets while it migrates stands still, travels, and resets where it arrives: its blocks
//! must not change hands on the way.

use kvm_ioctls::Kvm;
use ras_qmp::RunState;
use serde_json::json;

use super::{Ending, Vm};
use crate::boot::{self, BootError};
use crate::builder::{BuildError, first_state};
use crate::config::Kernel;
use crate::kvm::state::StateError;
use crate::lock;
use crate::machine::{Cause, Machine};
use crate::memory::mapping::{MappingError, RegionKind};
use crate::migrate::chain;

/// What it takes to switch a machine on once more.
pub struct PowerOn {
    /// Makes a fresh one to compare with.
    pub kvm: Kvm,
    /// What is started.
    pub kernel: Kernel,
}

impl std::fmt::Debug for PowerOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PowerOn").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

/// Why the guest can't start again.
#[derive(Debug, thiserror::Error)]
enum ResetError {
    #[error("its memory")]
    Memory(#[from] MappingError),
    #[error("its kernel")]
    Boot(#[from] BootError),
    #[error("the state of a fresh machine")]
    Fresh(#[from] BuildError),
    #[error("its processor and interrupt controllers")]
    State(#[from] StateError),
    #[error("its registers")]
    Registers(#[from] kvm_ioctls::Error),
    #[error("its vCPU has ended")]
    NoVcpu,
}

impl Vm {
    /// Resets the machine: at once if the guest's reset is to end it, otherwise soon.
    pub fn system_reset(&self, cause: Cause) {
        if self.machine.resets() {
            self.machine.request_reset(cause);
        } else {
            let _turn = lock(&self.transition);
            self.shut_down(cause, Ending::Clean);
        }
    }

    /// Stops the guest for good. Call with a turn.
    pub(super) fn shut_down(&self, cause: Cause, ending: Ending) {
        self.vcpu.set_running(false);
        self.vcpu.with(crate::vcpu::Vcpu::settle);
        self.machine.shut_down(cause, ending);
    }

    /// Carries out a reset that was asked for, unless the guest is on the move: then it is kept.
    pub(super) fn reset_if_asked(&self) {
        let lifecycle = self.machine.lifecycle();
        if lifecycle.reset_pending().is_none() {
            return;
        }
        let _turn = lock(&self.transition);
        let _ladder = self.ladder();
        let state = self.state();
        let moving =
            matches!(state, RunState::Inmigrate | RunState::FinishMigrate | RunState::Postmigrate);
        if moving || self.machine.is_frozen() {
            return;
        }
        let Some(cause) = lifecycle.take_reset() else { return };
        if !self.machine.resets() {
            return self.shut_down(cause, Ending::Clean);
        }
        self.vcpu.set_running(false);
        if let Err(error) = self.start_again() {
            tracing::error!("the guest can't start again: {}", chain(&error));
            return self.shut_down(Cause::HostError, Ending::GuestDied);
        }
        // Before anybody hears of it, so that who asks then finds the state that follows.
        let runs = lifecycle.was_reset();
        self.machine.emit("RESET", json!({ "guest": cause.is_guest(), "reason": cause }));
        if runs {
            self.vcpu.set_running(true);
        }
    }

    fn start_again(&self) -> Result<(), ResetError> {
        let power_on = self.power_on.as_ref().ok_or(ResetError::NoVcpu)?;
        let machine = &self.machine;
        let (state, irqchip) = first_state(&power_on.kvm, machine.msr_indices())?;
        self.vcpu.with(crate::vcpu::Vcpu::settle).ok_or(ResetError::NoVcpu)?;
        machine.reset_devices();
        machine.poison().restore_queue(Default::default());
        machine.poison().list().forget_told();
        clear(machine)?;
        let Kernel { path, cmdline } = &power_on.kernel;
        let entry = boot::load(machine.ram(), path, cmdline)?;
        if let Some(irqchip) = &irqchip {
            irqchip.load(machine.vm())?;
        }
        let restarted = self.vcpu.with(move |vcpu| -> Result<(), ResetError> {
            vcpu.restart(&state)?;
            Ok(vcpu.set_boot_registers(entry)?)
        });
        restarted.ok_or(ResetError::NoVcpu)?
    }
}

/// Makes boot memory what it was at first: zero, and healthy.
fn clear(machine: &Machine) -> Result<(), MappingError> {
    let regions = machine.ram().regions().iter();
    for region in regions.filter(|region| region.kind() == RegionKind::Ram) {
        let (start, end) = (region.gpa(), region.gpa().0 + region.size());
        let bad: Vec<_> =
            machine.poison().list().within(start, region.size()).map(|page| page.gpa).collect();
        let mut from = start;
        for page in bad {
            machine.ram().discard_run(from, page)?;
            match machine.ram().renew(page) {
                Ok(()) => machine.poison().list().repaired(page),
                Err(error) => {
                    tracing::error!("guest page {page} stays bad: {}", chain(&error));
                }
            }
            from = ras_core::Gpa(page.0 + ras_core::PAGE_SIZE);
        }
        machine.ram().discard_run(from, ras_core::Gpa(end))?;
    }
    Ok(())
}
