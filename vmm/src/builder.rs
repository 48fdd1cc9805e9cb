//! Puts a machine together from its configuration.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use ras_qmp::Events;

use crate::boot::{self, BootError};
use crate::config::{Config, Kernel, SerialTarget, Start};
use crate::devices::legacy::Serial;
use crate::devices::legacy::serial::Output;
use crate::devices::virtio::VirtioMem;
use crate::devices::virtio::mem::device::SizeError;
use crate::kvm::state::{IrqchipState, StateError, VcpuState};
use crate::kvm::{cpuid, mce, slots, state};
use crate::machine::{Machine, Parts};
use crate::memory::layout;
use crate::memory::mapping::{GuestRam, MappingError, RegionConfig, RegionKind};
use crate::memory::unplug::HostMemory;
use crate::poison::{Poison, signal};
use crate::vcpu::Vcpu;
use crate::vm::{Lifecycle, PowerOn, Vm};

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// KVM is not there, or not for us.
    #[error("/dev/kvm can't be opened: {advice}")]
    NoKvm {
        /// What to do.
        advice: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// KVM refused a step.
    #[error("{doing}")]
    Kvm {
        /// The step.
        doing: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// The kernel refused a step.
    #[error("{doing}")]
    Io {
        /// The step.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The serial line's file can't be made.
    #[error("creating {path} for the serial line")]
    Serial {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Guest memory can't be had.
    #[error("guest memory")]
    Memory(#[from] MappingError),
    /// The memory device is impossible.
    #[error("the memory device")]
    VirtioMem(#[from] SizeError),
    /// The state of a fresh machine can't be read.
    #[error("reading the state of a fresh machine")]
    State(#[from] StateError),
    /// The kernel can't be started.
    #[error("starting the guest")]
    Boot(#[from] BootError),
}

fn kvm(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { doing, source }
}

fn io<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> BuildError {
    move |source| BuildError::Io { doing, source: source.into() }
}

/// Builds the machine, paused, for [`Vm::power_on`] or a migration to here. `events` is where it
/// reports.
///
/// # Errors
/// See [`BuildError`].
pub fn build(config: &Config, events: Events) -> Result<Vm, BuildError> {
    let kvm_fd = open_kvm()?;
    let vm = kvm_fd.create_vm().map_err(kvm("creating a virtual machine"))?;
    let ram = Arc::new(GuestRam::new(&regions(config))?);
    // Before the interrupt controllers: with them, KVM waits for a second grace period.
    slots::map(&vm, &ram, RegionKind::Ram).map_err(kvm("giving memory to the guest"))?;
    let irqchip = equip(&vm);
    let (fd, cpuid) = create_vcpu(&kvm_fd, &vm)?;

    let incoming = matches!(config.start, Start::Incoming { .. });
    let lifecycle = Lifecycle::new(incoming).map_err(io("creating an eventfd"))?;
    signal::install(&ram, lifecycle.wake_fd()).map_err(io("installing the SIGBUS handler"))?;
    let poison = Arc::new(Poison::default());
    let virtio_mem = match config.virtio_mem {
        Some(size) => {
            let host = HostMemory::new(Arc::clone(&ram), Arc::clone(&poison));
            let start = layout::virtio_mem(config.memory);
            Some(VirtioMem::new(start, size.region, size.requested, Arc::new(host))?)
        }
        None => None,
    };
    let entry = match &config.start {
        Start::Kernel(Kernel { path, cmdline }) => Some(boot::load(&ram, path, cmdline)?),
        Start::Incoming { .. } => None,
    };
    let parts = Parts {
        vm,
        ram,
        name: config.name.clone(),
        irqchip,
        msr_indices: state::msr_indices(&kvm_fd),
        actions: config.actions,
        resettable: config.start.kernel().is_some(),
        events,
    };
    let serial = Serial::new(open_serial(&config.serial)?);
    let machine = Arc::new(Machine::new(parts, virtio_mem, serial, poison, lifecycle));
    let vcpu = Vcpu::new(fd, Arc::clone(&machine), cpuid);
    let power_on =
        config.start.kernel().map(|kernel| PowerOn { kvm: kvm_fd, kernel: kernel.clone() });
    if let Some(entry) = entry {
        vcpu.set_boot_registers(entry).map_err(kvm("setting the boot registers"))?;
    }
    let vcpu = vcpu.start().map_err(io("starting the vCPU's thread"))?;
    Ok(Vm::new(machine, vcpu, power_on))
}

/// What KVM makes a vCPU and interrupt controllers to be: read from another machine that never runs,
/// because reading it at every start would cost every start a millisecond.
pub(crate) fn first_state(
    kvm_fd: &Kvm,
    msr_indices: &[u32],
) -> Result<(VcpuState, Option<IrqchipState>), BuildError> {
    let vm = kvm_fd.create_vm().map_err(kvm("creating a virtual machine"))?;
    let irqchip = equip(&vm);
    let (vcpu, _) = create_vcpu(kvm_fd, &vm)?;
    let state = VcpuState::save(&vcpu, msr_indices)?;
    Ok((state, if irqchip { IrqchipState::save(&vm) } else { None }))
}

fn open_kvm() -> Result<Kvm, BuildError> {
    Kvm::new().map_err(|source| {
        let advice = match source.errno() {
            libc::ENOENT => {
                "it does not exist; load kvm_intel or kvm_amd (virtualisation has to be on in the \
                 firmware, or nested virtualisation in the host above)"
            }
            libc::EACCES | libc::EPERM => {
                "no permission; run as a member of the group that owns it (often `kvm`)"
            }
            libc::ENODEV | libc::ENXIO => {
                "this processor can't virtualise, or the firmware forbids it"
            }
            _ => "see the cause",
        };
        BuildError::NoKvm { advice, source }
    })
}

/// Gives the machine what guests expect of a PC. True if that includes interrupt controllers.
fn equip(vm: &VmFd) -> bool {
    // Only Intel processors without "unrestricted guest" need these; where KVM does not know them
    // it does not need them.
    let tss = usize::try_from(layout::KVM_TSS).unwrap_or(0);
    for result in [vm.set_identity_map_address(layout::KVM_IDENTITY_MAP), vm.set_tss_address(tss)] {
        if let Err(error) = result {
            tracing::debug!("real-mode pages: {error}");
        }
    }
    let irqchip = vm.create_irq_chip().inspect_err(|error| {
        // A guest can still poll.
        tracing::warn!("KVM has no interrupt controllers: {error}");
    });
    irqchip.is_ok()
}

fn create_vcpu(kvm_fd: &Kvm, vm: &VmFd) -> Result<(VcpuFd, CpuId), BuildError> {
    let vcpu = vm.create_vcpu(0).map_err(kvm("creating a vCPU"))?;
    let mut cpuid = kvm_fd
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm("reading the supported CPUID"))?;
    cpuid::filter(&mut cpuid);
    vcpu.set_cpuid2(&cpuid).map_err(kvm("setting CPUID"))?;
    let supported = mce::supported(kvm_fd).map_err(io("asking for machine-check support"))?;
    let cap = mce::McgCap::new()
        .with_count(mce::BANKS)
        .with_ctl_p(supported.ctl_p())
        .with_ser_p(supported.ser_p());
    mce::setup(&vcpu, cap).map_err(io("giving the vCPU machine-check banks"))?;
    Ok((vcpu, cpuid))
}

fn regions(config: &Config) -> Vec<RegionConfig> {
    let ram = layout::ram(config.memory).into_iter();
    let ram = ram.map(|(gpa, size)| RegionConfig { gpa, size, kind: RegionKind::Ram });
    let virtio_mem = config.virtio_mem.map(|size| RegionConfig {
        gpa: layout::virtio_mem(config.memory),
        size: size.region,
        kind: RegionKind::VirtioMem,
    });
    ram.chain(virtio_mem).collect()
}

fn open_serial(target: &SerialTarget) -> Result<Output, BuildError> {
    Ok(match target {
        SerialTarget::Stdio => Output::Stdio,
        SerialTarget::Null => Output::Null,
        SerialTarget::File(path) => match File::create(path) {
            Ok(file) => Output::File(file, path.clone()),
            Err(source) => return Err(BuildError::Serial { path: path.clone(), source }),
        },
    })
}
