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
//!   from any state in which the guest runs, unless the actions (`policy.rs`) say otherwise:
//!     reset or triple fault ----------------------------> Running: the guest starts again
//!     shutdown, or a reset that can't be one -----------> Shutdown, and the process ends
//!     panic --------------------------------------------> GuestPanicked \  `cont`, `system_reset`
//!     watchdog=pause -----------------------------------> Watchdog      /  or `quit`
//!     bad memory it could not be told about ------------> GuestPanicked \  `system_reset` or
//!     KVM can't go on ----------------------------------> InternalError /  `quit`
//!
//!   `system_reset` of a guest that does not run leaves it Paused.
//! ```
//!
//! QMP clients drive the upper part ([`Vm::stop`], [`Vm::cont`], migration), one at a time; the vCPU's
//! thread the lower. `quit` and SIGTERM end the process from any state.

mod migration;
mod reset;

pub use reset::PowerOn;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
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
use crate::machine::{Cause, Machine};
use crate::memory::mapping::RegionKind;
use crate::migrate::{self, MigrateError, Outcome, Received};
use crate::poison::signal;
use crate::policy::WatchdogAction;
use crate::vcpu::{Handle, Vcpu};

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// By `quit`, a signal, or the guest's own shutdown or reset: exit code 0.
    Clean,
    /// The guest crashed so hard that it reset: exit code 3.
    GuestDied,
    /// The guest that was to migrate here did not: exit code 4.
    NotArrived,
    /// The guest panicked, and `panic` is `exit-failure`: exit code 5.
    GuestPanicked,
    /// The guest hung, and `watchdog` is `poweroff`: exit code 6.
    GuestHung,
}

impl Ending {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::GuestDied => 3,
            Self::NotArrived => 4,
            Self::GuestPanicked => 5,
            Self::GuestHung => 6,
        }
    }
}

/// The state a machine is in.
#[derive(Debug)]
pub struct Lifecycle {
    state: Mutex<RunState>,
    ending: Mutex<Option<Ending>>,
    /// The guest is to start again.
    reset: Mutex<Option<Cause>>,
    /// The guest can only start again: running on, it would meet what it could not be told of.
    lost: AtomicBool,
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
        Ok(Self {
            state: Mutex::new(state),
            ending: Mutex::default(),
            reset: Mutex::default(),
            lost: AtomicBool::default(),
            wake,
        })
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

    /// True if it ran.
    pub(crate) fn shut_down(&self) -> bool {
        let before = std::mem::replace(&mut *lock(&self.state), RunState::Shutdown);
        before == RunState::Running
    }

    pub(crate) fn guest_panicked(&self) {
        *lock(&self.state) = RunState::GuestPanicked;
    }

    pub(crate) fn guest_lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.guest_panicked();
    }

    /// A reset that was asked for and did not happen yet.
    #[must_use]
    pub fn reset_pending(&self) -> Option<Cause> {
        *lock(&self.reset)
    }

    pub(crate) fn request_reset(&self, cause: Cause) {
        lock(&self.reset).get_or_insert(cause);
        self.notify();
    }

    pub(crate) fn take_reset(&self) -> Option<Cause> {
        lock(&self.reset).take()
    }

    /// The guest is a new one: true if it is to run.
    pub(crate) fn was_reset(&self) -> bool {
        self.lost.store(false, Ordering::SeqCst);
        let mut state = lock(&self.state);
        if *state != RunState::Running {
            *state = RunState::Paused;
        }
        *state == RunState::Running
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
    /// What a reset goes back to, where that is known.
    power_on: Option<PowerOn>,
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
    pub fn new(machine: Arc<Machine>, vcpu: Handle, power_on: Option<PowerOn>) -> Self {
        Self {
            machine,
            vcpu,
            power_on,
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
            RunState::Paused
            | RunState::GuestPanicked
            | RunState::InternalError
            | RunState::Watchdog => Ok(()),
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
            state @ (RunState::Paused | RunState::Watchdog) => {
                self.run(state);
                Ok(())
            }
            // Its kernel may have plans, such as a crash dump.
            RunState::GuestPanicked if !self.machine.lifecycle().lost.load(Ordering::SeqCst) => {
                self.run(RunState::GuestPanicked);
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
        self.machine.watchdog().stop(Instant::now());
        if self.machine.lifecycle().change(RunState::Running, to) {
            self.machine.emit("STOP", json!({}));
        }
    }

    /// Runs the vCPU from state `from`. Call with a turn.
    fn run(&self, from: RunState) {
        if self.machine.lifecycle().change(from, RunState::Running) {
            self.machine.emit("RESUME", json!({}));
            self.machine.watchdog().start(Instant::now());
            // It may be on, and a reset may have waited until now.
            self.machine.lifecycle().notify();
            if self.machine.lifecycle().reset_pending().is_none() {
                self.vcpu.set_running(true);
            }
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
        const MS: Duration = Duration::from_millis(1);
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
            if self.machine.watchdog().expire(Instant::now()) {
                self.hung();
                continue;
            }
            self.reset_if_asked();
            // Machine checks that wait are delivered when the vCPU next leaves the guest, which a
            // guest that computes never does by itself.
            let waiting = self.machine.poison().waiting() > 0;
            let due = self.machine.watchdog().due();
            // Rounded up: poll's milliseconds are whole ones.
            let due = due.map(|due| due.saturating_duration_since(Instant::now()) + MS);
            let timeout = due.into_iter().chain(waiting.then_some(retry)).min();
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
                let reason = json!({ "guest": false, "reason": Cause::HostSignal });
                self.machine.emit("SHUTDOWN", reason);
                lifecycle.end(Ending::Clean);
            }
        }
    }

    /// The guest let its watchdog starve.
    fn hung(&self) {
        let action = self.machine.actions().watchdog;
        tracing::error!("the guest's watchdog went off: {action:?}");
        self.machine.emit("WATCHDOG", json!({ "action": action }));
        match action {
            WatchdogAction::Reset => self.system_reset(Cause::GuestReset),
            WatchdogAction::Poweroff => self.machine.lifecycle().end(Ending::GuestHung),
            WatchdogAction::Pause => {
                let _turn = lock(&self.transition);
                self.halt(RunState::Watchdog);
            }
            WatchdogAction::InjectNmi => {
                if let Err(error) = self.inject_nmi() {
                    tracing::error!("the guest gets no interrupt: {error}");
                }
            }
            WatchdogAction::Debug | WatchdogAction::None => {}
        }
    }

    /// Raises a non-maskable interrupt in the guest.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn inject_nmi(&self) -> Result<(), kvm_ioctls::Error> {
        self.vcpu.with(|vcpu| vcpu.inject_nmi()).unwrap_or(Ok(()))
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
