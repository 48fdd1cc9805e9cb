//! A vCPU on its own thread.
//!
//! Everything that touches the vCPU happens on that thread, because KVM holds the vCPU locked while it
//! runs: others hand it closures ([`Handle::with`]) and kick it out of the guest to run them.

// UNSAFETY: the kick writes one byte of the structure shared with KVM, and sends a signal.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_dtable, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use ras_core::{CpuVendor, Gpa};

use crate::kvm::cpuid;
use crate::kvm::mce::{self, McgStatus, MciStatus};
use crate::kvm::state::{self, StateError, VcpuState};
use crate::lock;
use crate::machine::{Access, Machine};
use crate::memory::layout;
use crate::poison::{Kind, MachineCheck, signal};

/// Breaks the vCPU out of the guest.
const KICK: Signal = Signal::SIGUSR1;

/// Touches of bad memory by the same instruction, without the guest taking a machine check between
/// them, after which it is lost: a processor would have shut down at the second.
const TOUCHES_MAX: u32 = 16;

/// CR4.MCE: machine checks are enabled.
const CR4_MCE: u64 = 1 << 6;

/// A vCPU, on its thread.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    machine: Arc<Machine>,
    shared: Arc<Shared>,
    cpuid: CpuId,
    vendor: CpuVendor,
    /// Instruction pointer and number of the last touches of bad memory.
    touches: (u64, u32),
}

/// The others' end of a vCPU.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    vendor: CpuVendor,
}

type Task = Box<dyn FnOnce(&mut Vcpu) + Send>;

struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Default)]
struct Control {
    running: bool,
    exit: bool,
    tasks: VecDeque<Task>,
    /// Set while the thread lives.
    target: Option<Target>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// How to kick the thread.
struct Target {
    tid: libc::pid_t,
    /// `kvm_run.immediate_exit`.
    immediate_exit: *mut u8,
}

// SAFETY: the pointer is only used as an atomic, and only while the thread, and so the mapping it
// points into, lives: it is removed under the lock before either ends.
unsafe impl Send for Target {}

/// What to do after an exit.
enum Exit {
    /// Go on.
    Handled,
    /// A signal or `immediate_exit`.
    Interrupted,
    /// The guest touched this lost page. `again`: the instruction will be executed once more.
    Touched { page: Gpa, again: bool },
    /// KVM can't go on with the instruction.
    Stuck,
    /// The guest is over.
    Dead(Death),
}

/// How a guest ended by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Death {
    /// The guest pulled the reset line.
    Reset,
    /// Its kernel said that it panicked.
    Panicked,
    /// It asked to be shut down.
    Shutdown,
    /// A triple fault: what a machine without a reset line ends with.
    TripleFault,
    /// Bad memory it could not be told about.
    MachineCheck(Gpa),
    /// KVM can't go on with it.
    Internal(String),
}

impl Vcpu {
    /// A vCPU over a configured fd, whose guest is told `cpuid`.
    #[must_use]
    pub fn new(fd: VcpuFd, machine: Arc<Machine>, cpuid: CpuId) -> Self {
        let shared = Arc::new(Shared { control: Mutex::default(), changed: Condvar::new() });
        let vendor = cpuid::vendor(&cpuid);
        Self { fd, machine, shared, cpuid, vendor, touches: (0, 0) }
    }

    /// Sets the registers of the PVH boot protocol: 32-bit protected mode with flat segments,
    /// paging off, EBX at the start info.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn set_boot_registers(&self, entry: u32) -> Result<(), kvm_ioctls::Error> {
        let flat = kvm_segment {
            limit: u32::MAX,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            type_: 0b0011,
            selector: 0x10,
            ..kvm_segment::default()
        };
        let mut sregs = self.fd.get_sregs()?;
        sregs.cs = kvm_segment { type_: 0b1011, selector: 0x8, ..flat };
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
            *segment = flat;
        }
        sregs.tr = kvm_segment { limit: 0x67, present: 1, type_: 0b1011, ..kvm_segment::default() };
        sregs.gdt = kvm_dtable::default();
        sregs.idt = kvm_dtable::default();
        // PE, ET.
        sregs.cr0 = 0x11;
        sregs.cr4 = 0;
        sregs.efer = 0;
        self.fd.set_sregs(&sregs)?;
        let mut regs = self.fd.get_regs()?;
        regs.rip = u64::from(entry);
        regs.rbx = layout::START_INFO.0;
        regs.rflags = 2;
        self.fd.set_regs(&regs)
    }

    /// Starts the thread, stopped.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(self) -> io::Result<Handle> {
        let flags = SaFlags::empty();
        let action = SigAction::new(SigHandler::Handler(ignore), flags, SigSet::empty());
        // SAFETY: the handler does nothing; the signal only has to interrupt KVM_RUN.
        unsafe { sigaction(KICK, &action) }?;
        let (shared, vendor) = (Arc::clone(&self.shared), self.vendor);
        let (ready, armed) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("vcpu0".to_owned())
            .stack_size(256 << 10)
            .spawn(move || self.run(&ready))?;
        // Until it is armed it can't be kicked.
        armed.recv().map_err(io::Error::other)?;
        Ok(Handle { shared, thread: Mutex::new(Some(thread)), vendor })
    }

    /// Reads the vCPU's state. Call while it is stopped.
    ///
    /// # Errors
    /// See [`VcpuState::save`].
    pub fn save(&self) -> Result<VcpuState, StateError> {
        VcpuState::save(&self.fd, self.machine.msr_indices())
    }

    /// What the guest is told about its processor.
    #[must_use]
    pub fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        self.cpuid.as_slice()
    }

    /// Tells a guest that comes from elsewhere what it was told there. Call before it ever ran here.
    ///
    /// # Errors
    /// This host lacks features it was told of: the leaves that have them.
    pub fn take_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<(), Vec<u32>> {
        let missing = cpuid::missing(entries, self.cpuid());
        if !missing.is_empty() {
            return Err(missing);
        }
        let cpuid = CpuId::from_entries(entries).map_err(|_| Vec::new())?;
        self.fd.set_cpuid2(&cpuid).map_err(|_| Vec::new())?;
        self.cpuid = cpuid;
        Ok(())
    }

    /// Writes the vCPU's state. Answers the model-specific registers that were refused.
    ///
    /// # Errors
    /// See [`VcpuState::load`].
    pub fn load(&self, state: &VcpuState) -> Result<Vec<u32>, StateError> {
        state.load(&self.fd)
    }

    /// Makes it the vCPU it was at first. Call while it is stopped and settled.
    ///
    /// # Errors
    /// See [`VcpuState::load`].
    pub fn restart(&mut self, state: &VcpuState) -> Result<(), StateError> {
        // What the guest touched before is no concern of the next one.
        drop(signal::take_required());
        self.touches = (0, 0);
        self.load(state).map(drop)
    }

    /// Raises a non-maskable interrupt.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn inject_nmi(&self) -> Result<(), kvm_ioctls::Error> {
        self.fd.nmi()
    }

    /// Completes I/O that KVM has half done: until then its registers are those of before.
    pub fn settle(&mut self) {
        // One instruction has at most two operands, each of which may cross a page.
        for _ in 0..8 {
            self.fd.set_kvm_immediate_exit(1);
            let exit = self.enter();
            self.fd.set_kvm_immediate_exit(0);
            match exit {
                Exit::Handled => {}
                Exit::Touched { page, again } => self.touched(page, 12, again),
                Exit::Interrupted | Exit::Stuck | Exit::Dead(_) => break,
            }
        }
    }

    /// Whether the guest still handles a machine check, or has not read the bank yet.
    #[must_use]
    pub fn is_handling(&self) -> bool {
        self.mcg_status().mcip() || self.bank_status().val()
    }

    /// The machine it is part of.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Hands over machine checks that wait, as many as the guest can take.
    pub fn deliver(&mut self) {
        while let Some(check) = self.machine.poison().next() {
            if !self.inject(check) {
                break;
            }
            self.machine.poison().done(check);
        }
    }

    fn run(mut self, ready: &mpsc::SyncSender<()>) {
        let control = Arc::clone(&self.shared);
        self.arm(true);
        let _ = ready.send(());
        while self.obey(&control) {
            self.deliver();
            match self.enter() {
                Exit::Handled => {}
                Exit::Interrupted => self.hits(),
                Exit::Touched { page, again } => self.touched(page, 12, again),
                Exit::Stuck => self.stuck(),
                Exit::Dead(death) => self.die(death),
            }
        }
        self.arm(false);
    }

    /// Runs closures, and waits while stopped. False when the thread is to end.
    fn obey(&mut self, shared: &Shared) -> bool {
        // Cleared before looking: a kick after the look sets it again, and KVM_RUN returns at once.
        self.fd.set_kvm_immediate_exit(0);
        let mut control = lock(&shared.control);
        loop {
            if let Some(task) = control.tasks.pop_front() {
                drop(control);
                task(self);
                control = lock(&shared.control);
            } else if control.exit {
                return false;
            } else if control.running {
                return true;
            } else {
                let waited = shared.changed.wait(control);
                control = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }

    fn arm(&mut self, alive: bool) {
        let immediate_exit = &raw mut self.fd.get_kvm_run().immediate_exit;
        let target = Target { tid: nix::unistd::gettid().as_raw(), immediate_exit };
        let mut control = lock(&self.shared.control);
        control.target = alive.then_some(target);
        if !alive {
            // Whoever waits for one of these learns by its channel that nobody will answer.
            control.tasks.clear();
        }
    }

    fn enter(&mut self) -> Exit {
        let (fd, machine) = (&mut self.fd, &self.machine);
        match signal::in_guest(|| fd.run()) {
            Ok(VcpuExit::IoOut(port, data)) => {
                if let Some(death) = machine.port_write(port, data) {
                    return Exit::Dead(death);
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => machine.port_read(port, data),
            Ok(VcpuExit::MmioRead(address, data)) => {
                if let Access::Poisoned(page) = machine.mmio_read(Gpa(address), data) {
                    return Exit::Touched { page, again: false };
                }
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                if let Access::Poisoned(page) = machine.mmio_write(Gpa(address), data) {
                    return Exit::Touched { page, again: false };
                }
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                let page = Gpa(gpa).page();
                return if signal::required_pending() {
                    Exit::Interrupted
                } else if machine.ram().probe(page) {
                    Exit::Touched { page, again: true }
                } else {
                    Exit::Dead(Death::Internal(format!("KVM could not map {page}")))
                };
            }
            Ok(VcpuExit::Hlt) => {
                // Only without an interrupt controller in KVM: nothing can wake it, but a machine
                // check may come. Waiting a little keeps a halt loop from burning the host's CPU.
                thread::sleep(std::time::Duration::from_millis(1));
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Exit::Interrupted,
            Ok(VcpuExit::Shutdown) => return Exit::Dead(Death::TripleFault),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Exit::Dead(Death::Internal(format!("entry failed, reason {reason:#x}")));
            }
            Ok(VcpuExit::InternalError) => return Exit::Stuck,
            Ok(exit) => {
                return Exit::Dead(Death::Internal(format!("exit {exit:?} was not asked for")));
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => return Exit::Interrupted,
                // How some kernels report what they have sent SIGBUS for.
                libc::EFAULT | libc::EHWPOISON if signal::required_pending() => {
                    return Exit::Interrupted;
                }
                _ => return Exit::Dead(Death::Internal(format!("KVM_RUN: {error}"))),
            },
        }
        Exit::Handled
    }

    /// Works on what SIGBUS reported while the vCPU was in the guest.
    fn hits(&mut self) {
        for hit in signal::take_required() {
            match self.machine.ram().gpa_of_hva(hit.hva) {
                Some(gpa) => self.touched(gpa, hit.lsb, true),
                None => self.machine.own_memory_hit(hit.hva),
            }
        }
    }

    /// Where KVM has no way to say "poison", an instruction in a lost page is one it can't emulate.
    fn stuck(&mut self) {
        /// An instruction has at most 15 bytes, and may begin in one page and end in the next.
        const LAST_BYTE: u64 = 14;
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        let code = [rip, rip.saturating_add(LAST_BYTE)].into_iter().filter_map(|address| {
            let found = self.fd.translate_gva(address).ok().filter(|found| found.valid != 0)?;
            Some(Gpa(found.physical_address).page())
        });
        match code.into_iter().find(|page| self.machine.ram().probe(*page)) {
            Some(page) => self.touched(page, 12, true),
            None => self.die(Death::Internal("KVM could not emulate it".to_owned())),
        }
    }

    /// The guest touched bad memory. `again`: the instruction will be executed once more.
    fn touched(&mut self, gpa: Gpa, lsb: u8, again: bool) {
        let gpa = gpa.page();
        self.machine.guest_touched(gpa);
        let check = MachineCheck { kind: Kind::ActionRequired, gpa, lsb };
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        if self.inject(check) {
            self.touches = (rip, 0);
            return;
        }
        // It could not be told. Either it never can be, or it is in the middle of another check.
        self.touches = if self.touches.0 == rip { (rip, self.touches.1 + 1) } else { (rip, 1) };
        if !self.mce_enabled() || self.touches.1 >= TOUCHES_MAX {
            self.die(Death::MachineCheck(gpa));
        } else if !again {
            self.machine.poison().tell(check);
        }
    }

    /// Hands one machine check to KVM. False if the guest can't take it now.
    fn inject(&mut self, check: MachineCheck) -> bool {
        let bank = mce::MEMORY_BANK;
        let all_ones = |msr| state::read_msr(&self.fd, msr).is_none_or(|value| value == u64::MAX);
        if check.raises(self.vendor) {
            let enabled = self.mce_enabled() && all_ones(mce::MSR_MCG_CTL);
            if !enabled || !all_ones(mce::msr_ctl(bank)) || self.mcg_status().mcip() {
                return false;
            }
        }
        // An unread record is overwritten only by what can't wait.
        if check.kind != Kind::ActionRequired && self.bank_status().val() {
            return false;
        }
        let set = mce::set(&self.fd, &check.encode(self.vendor));
        if let Err(error) = &set {
            tracing::error!("KVM_X86_SET_MCE for {}: {error}", check.gpa);
        }
        tracing::info!("machine check {:?} at {}", check.kind, check.gpa);
        set.is_ok()
    }

    fn mce_enabled(&self) -> bool {
        self.fd.get_sregs().is_ok_and(|sregs| sregs.cr4 & CR4_MCE != 0)
    }

    fn mcg_status(&self) -> McgStatus {
        McgStatus::from(state::read_msr(&self.fd, mce::MSR_MCG_STATUS).unwrap_or(0))
    }

    fn bank_status(&self) -> MciStatus {
        let status = state::read_msr(&self.fd, mce::msr_status(mce::MEMORY_BANK));
        MciStatus::from(status.unwrap_or(0))
    }

    fn die(&mut self, death: Death) {
        let regs = self.fd.get_regs().map_or_else(
            |_| String::new(),
            |regs| format!(" at rip {:#x}, rsp {:#x}", regs.rip, regs.rsp),
        );
        tracing::error!("the guest ended: {death:?}{regs}");
        lock(&self.shared.control).running = false;
        self.machine.died(death);
    }
}

impl Handle {
    /// Lets the guest run, or stops it. Stopping is complete when [`Self::with`] next returns.
    pub fn set_running(&self, running: bool) {
        lock(&self.shared.control).running = running;
        self.kick();
    }

    /// Runs `task` on the vCPU's thread, outside the guest, and waits for it. `None` if the thread
    /// has ended. Never call it from that thread.
    pub fn with<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        {
            let mut control = lock(&self.shared.control);
            control.target.as_ref()?;
            control.tasks.push_back(Box::new(move |vcpu| drop(sender.send(task(vcpu)))));
        }
        self.kick();
        receiver.recv().ok()
    }

    /// Whose machine-check bits the guest reads.
    #[must_use]
    pub fn vendor(&self) -> CpuVendor {
        self.vendor
    }

    /// Breaks the vCPU out of the guest, or out of waiting.
    pub fn kick(&self) {
        let control = lock(&self.shared.control);
        if let Some(target) = &control.target {
            // SAFETY: the vCPU's mapping lives as long as `target` is set, which the lock we hold
            // keeps so; KVM reads the byte, and everybody in this process uses it atomically.
            unsafe { AtomicU8::from_ptr(target.immediate_exit) }.store(1, Ordering::Release);
            // SAFETY: a signal with a handler, to a thread that lives for the same reason.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), target.tid, KICK as i32) };
        }
        self.shared.changed.notify_all();
    }

    /// Ends the thread and waits for it.
    pub fn stop(&self) {
        lock(&self.shared.control).exit = true;
        self.kick();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

extern "C" fn ignore(_: i32) {}
