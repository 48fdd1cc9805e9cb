//! A virtual machine: its states, and who may change them.
//!
//! ```text
//!                 --incoming                                   started
//!                     |                                           |
//!                     v      state loaded, the source let go      v        stop
//!                 Inmigrate --------------------------------> Running <==========> Paused
//!                                                               |  ^      cont       |
//!                                          migrate: last round  |  |  failed         | likewise
//!                                                               v  |                 v
//!                                                            FinishMigrate ----> Postmigrate
//!                                                                         the guest runs elsewhere
//!
//!   from any state in which the guest runs:
//!     reset or triple fault ----------------------------> Shutdown, and the process ends
//!     bad memory it could not be told about ------------> GuestPanicked \  stay, to be looked at,
//!     KVM can't go on ----------------------------------> InternalError /  until `quit`
//! ```
//!
//! QMP clients drive the upper part ([`Vm::stop`], [`Vm::cont`], migration), one at a time; the vCPU's
//! thread the lower. `quit` and SIGTERM end the process from any state.

mod migration;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ras_qmp::RunState;
use serde_json::json;

use crate::kvm::slots;
use crate::lock;
use crate::machine::Machine;
use crate::memory::mapping::RegionKind;
use crate::migrate::{self, MigrateError, Outcome, Received};
use crate::poison::signal;
use crate::vcpu::{Handle, Vcpu};

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// By `quit`, a signal, or the guest's own reset: exit code 0.
    Clean,
    /// The guest crashed so hard that it reset: exit code 3.
    GuestDied,
    /// The guest that was to migrate here did not: exit code 4.
    NotArrived,
}

impl Ending {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::GuestDied => 3,
            Self::NotArrived => 4,
        }
    }
}

/// The state a machine is in.
#[derive(Debug)]
pub struct Lifecycle {
    state: Mutex<RunState>,
    ending: Mutex<Option<Ending>>,
    /// Wakes [`Vm::serve`].
    wake: EventFd,
}

impl Lifecycle {
    /// A machine's first state: paused, or waiting for a migration.
    ///
    /// # Errors
    /// No file descriptor to be had.
    pub fn new(incoming: bool) -> nix::Result<Self> {
        let state = if incoming { RunState::Inmigrate } else { RunState::Paused };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { state: Mutex::new(state), ending: Mutex::new(None), wake })
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> RunState {
        *lock(&self.state)
    }

    /// The eventfd that wakes [`Vm::serve`].
    #[must_use]
    pub fn wake_fd(&self) -> i32 {
        self.wake.as_raw_fd()
    }

    /// Changes `from` to `to`; false if the machine is in another state by now.
    pub fn change(&self, from: RunState, to: RunState) -> bool {
        let mut state = lock(&self.state);
        let right = *state == from;
        if right {
            *state = to;
        }
        right
    }

    /// Ends the process.
    pub fn end(&self, ending: Ending) {
        lock(&self.ending).get_or_insert(ending);
        self.notify();
    }

    /// Has [`Vm::serve`] look around.
    pub fn notify(&self) {
        // A full counter means that it is awake anyway.
        let _ = self.wake.write(1);
    }

    pub(crate) fn shut_down(&self, ending: Ending) {
        *lock(&self.state) = RunState::Shutdown;
        self.end(ending);
    }

    pub(crate) fn guest_panicked(&self) {
        *lock(&self.state) = RunState::GuestPanicked;
    }

    pub(crate) fn internal_error(&self) {
        *lock(&self.state) = RunState::InternalError;
    }
}

/// A command does not fit the state the machine is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not possible while the machine is in state {0:?}")]
pub struct WrongState(pub RunState);

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    machine: Arc<Machine>,
    vcpu: Handle,
    /// Held while the state is being changed from outside.
    transition: Mutex<()>,
    /// Held while a range is being retired: one at a time.
    ladder: Mutex<()>,
    /// The guest is to run again after the migration under way.
    resume_after_migration: Mutex<bool>,
    /// Whether the guest runs at the destination is not known: only an operator may say `cont`.
    unconfirmed: Mutex<bool>,
}

impl Vm {
    /// A machine and its vCPU.
    #[must_use]
    pub fn new(machine: Arc<Machine>, vcpu: Handle) -> Self {
        Self {
            machine,
            vcpu,
            transition: Mutex::default(),
            ladder: Mutex::default(),
            resume_after_migration: Mutex::default(),
            unconfirmed: Mutex::default(),
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The vCPU.
    #[must_use]
    pub fn vcpu(&self) -> &Handle {
        &self.vcpu
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> RunState {
        self.machine.lifecycle().state()
    }

    pub(crate) fn ladder(&self) -> MutexGuard<'_, ()> {
        lock(&self.ladder)
    }

    /// Gives the guest its memory device, and runs it unless it waits for a migration. Call it once,
    /// before anybody else can reach the machine.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn power_on(&self) -> Result<(), kvm_ioctls::Error> {
        let machine = self.machine();
        let _turn = lock(&self.transition);
        // Mapping takes KVM milliseconds, in which the guest can already run: it can't have plugged
        // anything before, because the device is locked.
        let _device = machine.virtio_mem();
        self.run(RunState::Paused);
        slots::map(machine.vm(), machine.ram(), RegionKind::VirtioMem)
    }

    /// Stops the guest. Stopping a stopped one is fine.
    ///
    /// # Errors
    /// The machine is in a state in which there is nothing to stop.
    pub fn stop(&self) -> Result<(), WrongState> {
        let _turn = lock(&self.transition);
        match self.state() {
            RunState::Running => {
                self.halt(RunState::Paused);
                Ok(())
            }
            RunState::Paused | RunState::GuestPanicked | RunState::InternalError => Ok(()),
            state => Err(WrongState(state)),
        }
    }

    /// Lets the guest run. A running one is fine.
    ///
    /// # Errors
    /// The machine is in a state from which it must not run on.
    pub fn cont(&self) -> Result<(), WrongState> {
        let _turn = lock(&self.transition);
        match self.state() {
            RunState::Paused => {
                self.run(RunState::Paused);
                Ok(())
            }
            RunState::Running => Ok(()),
            // The operator knows what this process can't: that the destination is dead.
            RunState::Postmigrate if std::mem::take(&mut *lock(&self.unconfirmed)) => {
                self.run(RunState::Postmigrate);
                Ok(())
            }
            state => Err(WrongState(state)),
        }
    }

    /// Stops the vCPU and enters `to`, unless the guest ended meanwhile. Call with a turn.
    fn halt(&self, to: RunState) {
        self.vcpu.set_running(false);
        self.vcpu.with(Vcpu::settle);
        if self.machine.lifecycle().change(RunState::Running, to) {
            self.machine.emit("STOP", json!({}));
        }
    }

    /// Runs the vCPU from state `from`. Call with a turn.
    fn run(&self, from: RunState) {
        if self.machine.lifecycle().change(from, RunState::Running) {
            self.machine.emit("RESUME", json!({}));
            self.vcpu.set_running(true);
        }
    }

    /// A migration away from here is over.
    pub fn migrated(&self, outcome: &Outcome) {
        let lifecycle = self.machine.lifecycle();
        match outcome {
            Outcome::Completed => {
                lifecycle.change(RunState::FinishMigrate, RunState::Postmigrate);
            }
            Outcome::Unconfirmed(_) => {
                *lock(&self.unconfirmed) = true;
                lifecycle.change(RunState::FinishMigrate, RunState::Postmigrate);
            }
            // It runs, or is paused, as before.
            Outcome::Stayed(_) => {}
        }
    }

    /// A migration to here is over. Without its guest this process has no purpose.
    pub fn arrived(&self, received: Result<Received, MigrateError>) {
        let status = match received {
            Ok(_) => "completed",
            Err(error) => {
                tracing::error!("the guest did not arrive: {}", migrate::chain(&error));
                self.machine.lifecycle().end(Ending::NotArrived);
                "failed"
            }
        };
        self.machine.emit("MIGRATION", json!({ "status": status }));
    }

    /// Serves early notice of bad memory, and signals, until the process is to end. Call it on a
    /// thread of its own, whose SIGTERM and SIGINT are blocked, as on all others.
    ///
    /// # Errors
    /// The kernel's, for lack of descriptors.
    pub fn serve(&self) -> nix::Result<Ending> {
        const RETRY_MIN: Duration = Duration::from_millis(2);
        const RETRY_MAX: Duration = Duration::from_millis(200);
        let lifecycle = self.machine.lifecycle();
        signal::want_early_notice().unwrap_or_else(|error| {
            tracing::warn!("no early notice of memory errors: {error}");
        });
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&ending_signals(), flags)?;
        let (mut retry, mut lost) = (RETRY_MIN, 0);
        loop {
            if lost < signal::lost() {
                lost = signal::lost();
                tracing::error!("memory errors come too fast: {lost} so far were not looked at");
            }
            for hit in signal::take_optional() {
                self.machine.early_notice(hit.hva, hit.lsb);
            }
            if let Some(ending) = *lock(&lifecycle.ending) {
                return Ok(ending);
            }
            // Machine checks that wait are delivered when the vCPU next leaves the guest, which a
            // guest that computes never does by itself.
            let waiting = self.machine.poison().waiting() > 0;
            let timeout = if waiting { Some(retry) } else { None };
            retry = if waiting { (retry * 2).min(RETRY_MAX) } else { RETRY_MIN };
            if waiting && self.state() == RunState::Running {
                self.vcpu.kick();
            }
            let mut ready = [
                PollFd::new(lifecycle.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = timeout.map_or(PollTimeout::NONE, |after| {
                PollTimeout::try_from(after).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut ready, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
            let _ = lifecycle.wake.read();
            if let Ok(Some(info)) = signals.read_signal() {
                tracing::info!("ending on signal {}", info.ssi_signo);
                let reason = json!({ "guest": false, "reason": "host-signal" });
                self.machine.emit("SHUTDOWN", reason);
                lifecycle.end(Ending::Clean);
            }
        }
    }

    /// Waits until the guest has read the machine checks told so far, as far as it does by `deadline`.
    /// True if it has.
    pub fn wait_told(&self, deadline: Instant) -> bool {
        const POLL: Duration = Duration::from_millis(1);
        loop {
            let handling = self.vcpu.with(|vcpu| {
                vcpu.deliver();
                vcpu.is_handling()
            });
            if handling == Some(false) && self.machine.poison().waiting() == 0 {
                return true;
            }
            if handling.is_none() || Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The signals that end the process; to be blocked before any thread is started.
#[must_use]
pub fn ending_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}
