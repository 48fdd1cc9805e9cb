//! What a machine consists of besides its vCPU: memory, devices on their ports and addresses, and what
//! is known of its bad memory. Shared by every thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvm_ioctls::VmFd;
use ras_core::{Gpa, Pfn};
use ras_qmp::Events;
use serde_json::json;

use crate::devices::legacy::{Serial, serial};
use crate::devices::virtio::mem::device::SizeError;
use crate::devices::virtio::{MmioTransport, VirtioMem};
use crate::lock;
use crate::memory::layout;
use crate::memory::mapping::{GuestRam, RamError};
use crate::poison::{Kind, MachineCheck, Poison, list};
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
        Self { parts, virtio_mem, serial: Mutex::new(serial), poison, lifecycle }
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
        if let Some(device) = &self.virtio_mem {
            lock(&device.transport).device_mut().freeze(frozen);
            device.changed.notify_all();
        }
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
            Death::Reset | Death::TripleFault => {
                self.emit("SHUTDOWN", json!({ "guest": true, "reason": "guest-reset" }));
                let ending = if death == Death::Reset { Ending::Clean } else { Ending::GuestDied };
                self.lifecycle.shut_down(ending);
            }
            Death::MachineCheck(gpa) => {
                self.lifecycle.guest_panicked();
                self.emit_failure(MemoryFailure {
                    guest: true,
                    action: "fatal",
                    action_required: true,
                    recursive: true,
                    gpa: Some(gpa),
                });
                self.emit("GUEST_PANICKED", json!({ "action": "pause" }));
                self.emit("STOP", json!({}));
            }
            Death::Internal(_) => {
                self.lifecycle.internal_error();
                self.emit("STOP", json!({}));
            }
        }
    }

    /// The guest writes to a port. True if that resets the machine.
    #[must_use]
    pub fn port_write(&self, port: u16, data: &[u8]) -> bool {
        if let Some(offset) = serial_offset(port) {
            let mut serial = self.serial();
            // More than one byte come from a string instruction: all for the same register.
            let interrupts = data.iter().filter(|value| serial.write(offset, **value)).count();
            drop(serial);
            if interrupts > 0 {
                self.pulse(layout::SERIAL_IRQ);
            }
        }
        port == RESET_PORT && data == [RESET_COMMAND]
    }

    /// The guest reads from a port. Where there is nothing, all bits are set, as on a PC.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (serial_offset(port), data) {
            (Some(offset), [value]) => *value = self.serial().read(offset),
            // No keyboard controller is busy: Linux waits for that before it resets by it.
            (None, [value]) if port == RESET_PORT => *value = 0,
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
            let path = VIRTIO_MEM_PATH;
            let data = json!({ "id": VIRTIO_MEM_ID, "size": after, "qom-path": path });
            self.emit("MEMORY_DEVICE_SIZE_CHANGE", data);
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
