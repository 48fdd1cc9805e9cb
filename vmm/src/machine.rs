//! What a machine consists of besides its vCPU: memory, devices on their ports and addresses, and what
//! is known of its bad memory. Shared by every thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvm_ioctls::VmFd;
use ras_core::{Gpa, Pfn};
use ras_qmp::Events;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::devices::legacy::{Serial, Watchdog, pvpanic, serial, watchdog};
use crate::devices::virtio::mem::device::SizeError;
use crate::devices::virtio::{MmioTransport, VirtioMem};
use crate::lock;
use crate::memory::layout;
use crate::memory::mapping::{GuestRam, RamError};
use crate::poison::{Kind, MachineCheck, Poison, list};
use crate::policy::{Actions, PanicAction, RebootAction, ShutdownAction};
use crate::vcpu::Death;
use crate::vm::{Ending, Lifecycle};

/// QOM path of the memory device: what `qom-set` and events call it.
pub const VIRTIO_MEM_PATH: &str = "/machine/peripheral/vmem0";

/// ID of the memory device.
pub const VIRTIO_MEM_ID: &str = "vmem0";

/// i8042 command port, and the command that pulls the reset line.
const RESET_PORT: u16 = 0x64;
const RESET_COMMAND: u8 = 0xfe;

/// A machine without its vCPU.
#[derive(Debug)]
pub struct Machine {
    parts: Parts,
    virtio_mem: Option<MemoryDevice>,
    serial: Mutex<Serial>,
    watchdog: Mutex<Watchdog>,
    actions: Mutex<Actions>,
    /// Blocks must not change hands, nor the guest start anew: a migration is under way.
    frozen: AtomicBool,
    poison: Arc<Poison>,
    lifecycle: Lifecycle,
}

/// What a machine is built from.
#[derive(Debug)]
pub struct Parts {
    /// KVM's end of it. Dropped before the memory that KVM was told of.
    pub vm: VmFd,
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// The guest's name.
    pub name: String,
    /// KVM emulates interrupt controllers for it.
    pub irqchip: bool,
    /// Model-specific registers KVM knows: see [`crate::kvm::state::msr_indices`].
    pub msr_indices: Vec<u32>,
    /// What is done when the guest ends in one way or another, at first.
    pub actions: Actions,
    /// It is known what the guest is started with.
    pub resettable: bool,
    /// Who is told what happens.
    pub events: Events,
}

/// The memory device, and a way to wait for it.
#[derive(Debug)]
struct MemoryDevice {
    transport: Mutex<MmioTransport<VirtioMem>>,
    changed: Condvar,
}

/// What an access of the guest led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A device answered, or nothing did, or memory after all.
    Done,
    /// There is memory at this address, but this page of it is lost.
    Poisoned(Gpa),
}

/// Who was hit by bad memory, and what is done about it. QEMU, `qapi/run-state.json`,
/// `MEMORY_FAILURE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryFailure {
    /// The guest's memory; otherwise this process's own.
    pub guest: bool,
    /// `inject`, `ignore` or `fatal`.
    pub action: &'static str,
    /// Somebody was at the data.
    pub action_required: bool,
    /// While another one was being handled.
    pub recursive: bool,
    /// Where, if it is guest memory.
    pub gpa: Option<Gpa>,
}

/// Why a machine shuts down or resets. QEMU, `qapi/run-state.json`, `ShutdownCause`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The guest can't go on, and that is not its fault.
    HostError,
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// SIGTERM or SIGINT.
    HostSignal,
    /// The guest asked for it.
    GuestShutdown,
    /// The guest reset, or its watchdog did.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
}

impl Cause {
    /// Whether it is the guest's doing.
    #[must_use]
    pub const fn is_guest(self) -> bool {
        matches!(self, Self::GuestShutdown | Self::GuestReset | Self::GuestPanic)
    }
}

impl Machine {
    /// Puts a machine together.
    #[must_use]
    pub fn new(
        parts: Parts,
        virtio_mem: Option<VirtioMem>,
        serial: Serial,
        poison: Arc<Poison>,
        lifecycle: Lifecycle,
    ) -> Self {
        let virtio_mem = virtio_mem.map(|device| MemoryDevice {
            transport: Mutex::new(MmioTransport::new(device)),
            changed: Condvar::new(),
        });
        Self {
            actions: Mutex::new(parts.actions),
            parts,
            virtio_mem,
            serial: Mutex::new(serial),
            watchdog: Mutex::default(),
            frozen: AtomicBool::new(false),
            poison,
            lifecycle,
        }
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.parts.ram
    }

    /// KVM's end.
    #[must_use]
    pub fn vm(&self) -> &VmFd {
        &self.parts.vm
    }

    /// Whether KVM emulates interrupt controllers.
    #[must_use]
    pub fn has_irqchip(&self) -> bool {
        self.parts.irqchip
    }

    /// Model-specific registers to carry in a migration.
    #[must_use]
    pub fn msr_indices(&self) -> &[u32] {
        &self.parts.msr_indices
    }

    /// What is known of bad memory.
    #[must_use]
    pub fn poison(&self) -> &Poison {
        &self.poison
    }

    /// The state the machine is in.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// The serial line.
    pub fn serial(&self) -> MutexGuard<'_, Serial> {
        lock(&self.serial)
    }

    /// The watchdog timer.
    pub fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        lock(&self.watchdog)
    }

    /// What is done when the guest ends in one way or another.
    pub fn actions(&self) -> MutexGuard<'_, Actions> {
        lock(&self.actions)
    }

    /// The memory device behind its transport, locked. `None` if the machine has none.
    pub fn virtio_mem(&self) -> Option<MutexGuard<'_, MmioTransport<VirtioMem>>> {
        self.virtio_mem.as_ref().map(|device| lock(&device.transport))
    }

    /// Waits with the memory device unlocked until the guest plugged or unplugged something, but not
    /// beyond `deadline`.
    pub fn wait_virtio_mem<'a>(
        &'a self,
        transport: MutexGuard<'a, MmioTransport<VirtioMem>>,
        deadline: Instant,
    ) -> MutexGuard<'a, MmioTransport<VirtioMem>> {
        let Some(device) = &self.virtio_mem else { return transport };
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = device.changed.wait_timeout(transport, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks the guest for another size of its memory device, and tells it so.
    ///
    /// # Errors
    /// A size that is not possible.
    pub fn resize(
        &self,
        transport: &mut MmioTransport<VirtioMem>,
        size: u64,
    ) -> Result<(), SizeError> {
        if transport.device_mut().request_size(size)? && transport.config_changed() {
            self.pulse(layout::MMIO_IRQ);
        }
        Ok(())
    }

    /// Keeps the guest from plugging and unplugging, or allows it again. Who waits for it notices.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::SeqCst);
        if let Some(device) = &self.virtio_mem {
            lock(&device.transport).device_mut().freeze(frozen);
            device.changed.notify_all();
        }
        // A reset may wait for the end of a migration.
        self.lifecycle.notify();
    }

    /// Whether a migration is under way.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Sends an event to whoever listens.
    pub fn emit(&self, event: &str, data: serde_json::Value) {
        tracing::debug!("{event} {data}");
        self.parts.events.emit(event, data);
    }

    /// Reports bad memory to whoever listens.
    pub fn emit_failure(&self, failure: MemoryFailure) {
        let recipient = if failure.guest { "guest" } else { "hypervisor" };
        let flags = json!({
            "action-required": failure.action_required,
            "recursive": failure.recursive,
        });
        let mut data = json!({ "recipient": recipient, "action": failure.action, "flags": flags });
        if let (Some(gpa), Some(fields)) = (failure.gpa, data.as_object_mut()) {
            fields.insert("x-ras-gpa".to_owned(), json!(gpa));
        }
        self.emit("MEMORY_FAILURE", data);
    }

    /// The kernel gave early notice that `1 << lsb` bytes at `hva` are lost.
    pub fn early_notice(&self, hva: usize, lsb: u8) {
        let Some(gpa) = self.ram().gpa_of_hva(hva) else {
            self.own_memory_hit(hva);
            return;
        };
        let len = 1 << lsb.clamp(12, 21);
        let start = Gpa(gpa.0 & !(len - 1));
        let mut news = false;
        for page in list::pages(start, len) {
            // The kernel has unmapped it: the frame can't be looked up any more.
            news |= self.poison.note_lost(page, None);
        }
        if !news {
            return;
        }
        tracing::warn!("memory error: guest page {} is lost", gpa.page());
        let told = self.is_populated(gpa);
        if told {
            self.poison.list().tell(gpa.page());
            self.poison.tell(MachineCheck { kind: Kind::ActionOptional, gpa: start, lsb });
        } else {
            // Nobody uses it, and nobody shall.
            self.poison.list().hold(start, len);
        }
        self.emit_failure(MemoryFailure {
            guest: true,
            action: if told { "inject" } else { "ignore" },
            action_required: false,
            recursive: false,
            gpa: Some(gpa.page()),
        });
    }

    /// The guest touched a lost page: it is about to get a machine check.
    pub fn guest_touched(&self, gpa: Gpa) {
        let first = {
            let mut list = self.poison.list();
            list.note(gpa, None, true);
            list.tell(gpa);
            list.touch(gpa)
        };
        // A guest may touch it over and over; the first time is news.
        if first {
            tracing::warn!("memory error: the guest touched lost page {}", gpa.page());
            self.emit_failure(MemoryFailure {
                guest: true,
                action: "inject",
                action_required: true,
                recursive: false,
                gpa: Some(gpa.page()),
            });
        }
    }

    /// Memory of this process itself is lost. So far nobody touched it.
    pub fn own_memory_hit(&self, hva: usize) {
        tracing::error!("memory error: rasvmm's own memory at {hva:#x} is lost; migrate the guest");
        self.emit_failure(MemoryFailure {
            guest: false,
            action: "ignore",
            action_required: false,
            recursive: false,
            gpa: None,
        });
    }

    /// Whether the guest may use this address now: RAM, or a plugged block.
    #[must_use]
    pub fn is_populated(&self, gpa: Gpa) -> bool {
        let unplugged = self.virtio_mem().is_some_and(|transport| {
            let blocks = transport.device().blocks();
            blocks.number(gpa).is_some_and(|number| !blocks.is_plugged(number))
        });
        !unplugged && self.ram().hva_of(gpa, 1).is_some()
    }

    /// The frame behind a page: as the page table has it now, or as it was learned before.
    #[must_use]
    pub fn frame(&self, gpa: Gpa) -> Option<Pfn> {
        let known = self.poison.list().get(gpa).and_then(|page| page.pfn);
        known.or_else(|| self.ram().pfn_of(gpa))
    }

    /// The guest ended by itself. Called on the vCPU's thread, which goes no further.
    pub fn died(&self, death: Death) {
        match death {
            Death::Reset | Death::TripleFault if self.resets() => {
                self.request_reset(Cause::GuestReset);
            }
            Death::Reset => self.shut_down(Cause::GuestReset, Ending::Clean),
            Death::TripleFault => self.shut_down(Cause::GuestReset, Ending::GuestDied),
            Death::Shutdown => self.shut_down(Cause::GuestShutdown, Ending::Clean),
            Death::Panicked => {
                self.lifecycle.guest_panicked();
                self.panicked();
            }
            Death::MachineCheck(gpa) => {
                self.lifecycle.guest_lost();
                self.emit_failure(MemoryFailure {
                    guest: true,
                    action: "fatal",
                    action_required: true,
                    recursive: true,
                    gpa: Some(gpa),
                });
                self.panicked();
            }
            Death::Internal(_) => {
                self.lifecycle.internal_error();
                self.stopped();
            }
        }
    }

    /// The guest panicked, and is in that state.
    fn panicked(&self) {
        let Actions { panic, shutdown, .. } = *self.actions();
        let ending = match panic {
            PanicAction::Shutdown if shutdown == ShutdownAction::Pause => None,
            // A guest that can't run on does not, whatever is wanted.
            PanicAction::Pause | PanicAction::None => None,
            PanicAction::Shutdown => Some(Ending::Clean),
            PanicAction::ExitFailure => Some(Ending::GuestPanicked),
        };
        let action = if ending.is_some() { "poweroff" } else { "pause" };
        self.emit("GUEST_PANICKED", json!({ "action": action }));
        self.stopped();
        if let Some(ending) = ending {
            self.shut_down(Cause::GuestPanic, ending);
        }
    }

    /// The guest has stopped, and was not asked to.
    fn stopped(&self) {
        self.watchdog().stop(Instant::now());
        self.emit("STOP", json!({}));
    }

    /// The guest is over; its vCPU stands still. The process ends, unless it is to stay.
    pub fn shut_down(&self, cause: Cause, ending: Ending) {
        self.emit("SHUTDOWN", json!({ "guest": cause.is_guest(), "reason": cause }));
        let was_running = self.lifecycle.shut_down();
        if self.actions().shutdown == ShutdownAction::Poweroff {
            self.lifecycle.end(ending);
        } else if was_running {
            self.stopped();
        }
    }

    /// Whether a reset is one; otherwise it is a shutdown.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.parts.resettable && self.actions().reboot == RebootAction::Reset
    }

    /// Has the machine reset as soon as that is possible.
    pub fn request_reset(&self, cause: Cause) {
        self.lifecycle.request_reset(cause);
        if let Some(device) = &self.virtio_mem {
            // Whoever waits for the guest looks once more: without the lock it might just have looked.
            drop(lock(&device.transport));
            device.changed.notify_all();
        }
    }

    /// Makes the devices what they were at first. The guest stands still.
    pub fn reset_devices(&self) {
        self.serial().reset();
        self.watchdog().disable();
        let Some(mut transport) = self.virtio_mem() else { return };
        let before = transport.device().blocks().plugged_size();
        transport.reset();
        transport.device_mut().unplug_all();
        drop(transport);
        if before > 0 {
            self.emit_size(0);
        }
    }

    fn emit_size(&self, size: u64) {
        let data = json!({ "id": VIRTIO_MEM_ID, "size": size, "qom-path": VIRTIO_MEM_PATH });
        self.emit("MEMORY_DEVICE_SIZE_CHANGE", data);
    }

    /// The guest writes to a port: how it ended by that, if it did.
    #[must_use]
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<Death> {
        if let Some(offset) = serial_offset(port) {
            let mut serial = self.serial();
            // More than one byte come from a string instruction: all for the same register.
            let interrupts = data.iter().filter(|value| serial.write(offset, **value)).count();
            drop(serial);
            if interrupts > 0 {
                self.pulse(layout::SERIAL_IRQ);
            }
        }
        match (port, data) {
            (RESET_PORT, [RESET_COMMAND]) => Some(Death::Reset),
            (pvpanic::PORT, [value]) => self.guest_says(pvpanic::event(*value)?),
            (watchdog::ENABLE_PORT, [code]) => {
                if self.watchdog().enable(*code, Instant::now()) {
                    self.lifecycle.notify();
                }
                None
            }
            (watchdog::DISABLE_PORT, [_]) => {
                self.watchdog().disable();
                None
            }
            _ => None,
        }
    }

    fn guest_says(&self, event: pvpanic::Event) -> Option<Death> {
        tracing::warn!("the guest says: {event:?}");
        match event {
            pvpanic::Event::Panicked if self.actions().panic != PanicAction::None => {
                return Some(Death::Panicked);
            }
            pvpanic::Event::Panicked => self.emit("GUEST_PANICKED", json!({ "action": "run" })),
            pvpanic::Event::CrashLoaded => {
                self.emit("GUEST_CRASHLOADED", json!({ "action": "run" }));
            }
            pvpanic::Event::Shutdown => {
                self.emit("GUEST_PVSHUTDOWN", json!({}));
                return Some(Death::Shutdown);
            }
        }
        None
    }

    /// The guest reads from a port. Where there is nothing, all bits are set, as on a PC.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (serial_offset(port), data) {
            (Some(offset), [value]) => *value = self.serial().read(offset),
            // No keyboard controller is busy: Linux waits for that before it resets by it.
            (None, [value]) if port == RESET_PORT => *value = 0,
            (None, [value]) if port == pvpanic::PORT => *value = pvpanic::EVENTS,
            _ => {}
        }
    }

    /// The guest reads from an address KVM did not complete the access to.
    pub fn mmio_read(&self, gpa: Gpa, data: &mut [u8]) -> Access {
        data.fill(0xff);
        match (mmio_offset(gpa), self.virtio_mem()) {
            (Some(offset), Some(transport)) => {
                transport.read(offset, data);
                Access::Done
            }
            _ => memory_access(self.ram().read(gpa, data)),
        }
    }

    /// The guest writes to an address KVM did not complete the access to.
    pub fn mmio_write(&self, gpa: Gpa, data: &[u8]) -> Access {
        let (Some(offset), Some(mut transport)) = (mmio_offset(gpa), self.virtio_mem()) else {
            return memory_access(self.ram().write(gpa, data));
        };
        let before = transport.device().blocks().plugged_size();
        let effect = transport.write(offset, data, self.ram());
        let after = transport.device().blocks().plugged_size();
        drop(transport);
        if effect.interrupt {
            self.pulse(layout::MMIO_IRQ);
        }
        if let (true, Some(device)) = (effect.worked, &self.virtio_mem) {
            device.changed.notify_all();
        }
        if let Some(poisoned) = effect.poisoned {
            self.early_notice_of_guest_page(poisoned);
        }
        if before != after {
            self.emit_size(after);
        }
        Access::Done
    }

    /// A device came across a lost page of the guest.
    fn early_notice_of_guest_page(&self, gpa: Gpa) {
        if let Some(hva) = self.ram().hva_of(gpa, 1) {
            self.early_notice(hva, 12);
        }
    }

    /// Raises and lowers an interrupt line: edge-triggered, as ISA lines are.
    pub fn pulse(&self, irq: u32) {
        if self.parts.irqchip {
            let vm = &self.parts.vm;
            let pulsed = vm.set_irq_line(irq, true).and_then(|()| vm.set_irq_line(irq, false));
            if let Err(error) = pulsed {
                tracing::warn!("interrupt line {irq}: {error}");
            }
        }
    }
}

/// KVM asks for help with memory where it can't say "poison" (an emulating KVM does so), and perhaps
/// where it was short of memory itself. A system call knows which.
fn memory_access(result: Result<(), RamError>) -> Access {
    match result {
        Ok(()) | Err(RamError::OutOfRange) => Access::Done,
        Err(RamError::Poisoned(page)) => Access::Poisoned(page),
    }
}

fn serial_offset(port: u16) -> Option<u16> {
    port.checked_sub(layout::SERIAL_PORT).filter(|offset| *offset < serial::PORTS)
}

fn mmio_offset(gpa: Gpa) -> Option<u64> {
    gpa.0.checked_sub(layout::MMIO_BASE.0).filter(|offset| *offset < layout::MMIO_SIZE)
}
