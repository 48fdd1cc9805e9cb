//! The leaving end: one migration, its control, and the point of no return.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};
use zerocopy::IntoBytes;

use super::format::{BODY_MAX, End, FormatError, Header, Hello, Kind, Preface, STATE_MAX};
use super::precopy::{Precopy, millis};
use super::stats::{Stats, Status};
use super::transport::{Channel, Uri};
use super::{MigrateError, Parameters, Source, chain, vm};

/// How a migration ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest runs at the destination; this VM stays paused for good (`postmigrate`).
    Completed,
    /// The guest never left. It goes on here if it ran before; that was seen to already.
    Stayed(MigrateError),
    /// Nobody here knows whether the guest runs at the destination. This VM stays paused
    /// (`postmigrate`) until an operator who knows says `cont`.
    Unconfirmed(MigrateError),
}

/// One migration out of this process: run by one thread, watched and cancelled by others.
#[derive(Debug)]
pub struct Migration {
    name: String,
    uri: Uri,
    parameters: Parameters,
    progress: Progress,
}

impl Migration {
    /// A migration of the VM called `name`; nothing happens before [`Self::run`].
    #[must_use]
    pub fn new(name: &str, uri: Uri, parameters: Parameters) -> Self {
        Self { name: name.to_owned(), uri, parameters, progress: Progress::new() }
    }

    /// Carries it out. To be called once, from a thread that has the time.
    pub fn run(&self, source: &dyn Source) -> Outcome {
        info!(uri = %self.uri, "migrating out");
        let outcome = self.attempt(source);
        self.progress.end(&outcome);
        match &outcome {
            Outcome::Completed => info!("the guest runs at the destination"),
            Outcome::Stayed(why) => warn!("the guest stays: {}", chain(why)),
            Outcome::Unconfirmed(why) => {
                warn!("unknown whether the guest runs at the destination: {}", chain(why));
            }
        }
        outcome
    }

    /// Stops it, unless the guest is as good as gone: `false` then. The guest goes on here.
    pub fn cancel(&self) -> bool {
        self.progress.cancel()
    }

    /// What `query-migrate` answers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.progress.stats()
    }

    fn attempt(&self, source: &dyn Source) -> Outcome {
        let channel = match Channel::connect(&self.uri, self.parameters.peer_timeout) {
            Ok(channel) => Arc::new(channel),
            Err(error) => return Outcome::Stayed(self.progress.cause(error)),
        };
        let mut paused = None;
        let mut gone = false;
        let result = self
            .progress
            .watch(&channel)
            .and_then(|()| self.agree(source, &channel))
            .and_then(|()| self.leave(source, &channel, &mut paused, &mut gone));
        let error = match result {
            Ok(()) => return Outcome::Completed,
            Err(error) => error,
        };
        if gone && !matches!(error, MigrateError::PeerFailed(_)) {
            channel.shut_down();
            return Outcome::Unconfirmed(error);
        }
        // First the guest, then the manners.
        let error = self.progress.cause(error);
        let error = match paused.map(|_| vm("resuming the guest", source.resume())) {
            Some(Err(worse)) => MigrateError::Vm {
                doing: "resuming the guest",
                why: format!("{} (after: {})", chain(&worse), chain(&error)),
            },
            _ => error,
        };
        let error = learn_more(&channel, error);
        if !matches!(error, MigrateError::PeerFailed(_) | MigrateError::Closed(_)) {
            channel.give_up(&chain(&error));
        }
        channel.shut_down();
        Outcome::Stayed(error)
    }

    /// Introduces the VM.
    fn agree(&self, source: &dyn Source, channel: &Channel) -> Result<(), MigrateError> {
        let hello = Hello::of(&self.name, source.ram()).encode()?;
        channel.send_bytes(Preface::ours().as_bytes(), "introducing the VM")?;
        channel.send(Kind::Hello, &hello, "introducing the VM")?;
        channel.expect(Kind::Accept, "waiting to be accepted")?;
        self.progress.activate();
        Ok(())
    }

    /// Sends everything. `paused` is set once the guest may have been stopped, `gone` once the
    /// destination may run it.
    fn leave(
        &self,
        source: &dyn Source,
        channel: &Channel,
        paused: &mut Option<Instant>,
        gone: &mut bool,
    ) -> Result<(), MigrateError> {
        let _logging = DirtyLogging::start(source)?;
        let mut precopy = Precopy::new(source, channel, &self.progress, self.parameters);
        precopy.run_live()?;

        let stopped = *paused.insert(Instant::now());
        vm("pausing the guest", source.pause())?;
        precopy.finish()?;
        let state = vm("saving the state", source.save())?;
        send_state(channel, &state)?;
        channel.expect(Kind::Loaded, "waiting for the state to be loaded")?;

        self.progress.commit()?;
        send_go(channel)?;
        *gone = true;
        channel.expect(Kind::Running, "waiting for the guest to run there")?;
        let downtime = stopped.elapsed();
        self.progress.update(|stats| {
            stats.downtime = Some(millis(downtime));
            stats.ram.transferred = channel.sent();
        });
        Ok(())
    }
}

fn send_state(channel: &Channel, state: &[u8]) -> Result<(), MigrateError> {
    let value = state.len() as u64;
    if value > STATE_MAX {
        return Err(FormatError::TooLarge { what: "state", value, max: STATE_MAX }.into());
    }
    for piece in state.chunks(BODY_MAX) {
        channel.send(Kind::State, piece, "sending the state")?;
    }
    channel.send(Kind::End, End::of(state).as_bytes(), "sending the state")
}

/// Sends `Go`. An error means that the socket did not take all of it, and never will: without its
/// last byte the destination can't act on it, so the guest is still ours.
fn send_go(channel: &Channel) -> Result<(), MigrateError> {
    let message = Header::new(Kind::Go, &[])?;
    let mut rest = message.as_bytes();
    while !rest.is_empty() {
        match channel.send_some(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                channel.shut_down();
                return Err(channel.failure(error, "handing over"));
            }
        }
    }
    Ok(())
}

/// A destination that gives up says why before it closes; the error at our end is often only that
/// it closed.
fn learn_more(channel: &Channel, error: MigrateError) -> MigrateError {
    if matches!(error, MigrateError::Closed(_)) && channel.has_word(Duration::from_millis(100)) {
        // At most the answer to a round may be in front of it.
        for _ in 0..2 {
            if let Err(MigrateError::PeerFailed(why)) = channel.receive("closing") {
                return MigrateError::PeerFailed(why);
            }
        }
    }
    error
}

/// Dirty logging is on while this lives.
struct DirtyLogging<'a>(&'a dyn Source);

impl<'a> DirtyLogging<'a> {
    fn start(source: &'a dyn Source) -> Result<Self, MigrateError> {
        let logging = Self(source);
        source.ram().dirty_log_start();
        vm("starting the dirty log", source.dirty_log_start())?;
        Ok(logging)
    }
}

impl Drop for DirtyLogging<'_> {
    fn drop(&mut self) {
        self.0.ram().dirty_log_stop();
        if let Err(error) = self.0.dirty_log_stop() {
            warn!("stopping the dirty log: {}", chain(error.as_ref()));
        }
    }
}

/// What several threads know of a migration.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Shared>);

#[derive(Debug)]
struct Shared {
    stats: Stats,
    phase: Phase,
    started: Instant,
    channel: Option<Arc<Channel>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// May still be cancelled.
    Open,
    /// An operator said stop.
    Cancelled,
    /// `Go` is about to leave, or has left.
    Committed,
    /// Nothing more will happen.
    Over,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Shared {
            stats: Stats::default(),
            phase: Phase::Open,
            started: Instant::now(),
            channel: None,
        }))
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock().stats);
    }

    /// # Errors
    /// [`MigrateError::Cancelled`].
    pub(super) fn check(&self) -> Result<(), MigrateError> {
        match self.lock().phase {
            Phase::Cancelled => Err(MigrateError::Cancelled),
            Phase::Open | Phase::Committed | Phase::Over => Ok(()),
        }
    }

    /// Lets `cancel` interrupt calls on this channel.
    fn watch(&self, channel: &Arc<Channel>) -> Result<(), MigrateError> {
        self.lock().channel = Some(Arc::clone(channel));
        self.check()
    }

    fn activate(&self) {
        let mut shared = self.lock();
        shared.stats.status = Status::Active;
        shared.stats.setup_time = millis(shared.started.elapsed());
    }

    /// From here on `cancel` comes too late.
    fn commit(&self) -> Result<(), MigrateError> {
        let mut shared = self.lock();
        if shared.phase == Phase::Cancelled {
            return Err(MigrateError::Cancelled);
        }
        shared.phase = Phase::Committed;
        Ok(())
    }

    fn cancel(&self) -> bool {
        let mut shared = self.lock();
        match shared.phase {
            Phase::Open => {
                shared.phase = Phase::Cancelled;
                if let Some(channel) = &shared.channel {
                    channel.shut_down();
                }
                true
            }
            Phase::Cancelled => true,
            Phase::Committed | Phase::Over => false,
        }
    }

    /// The error to report: a cancelled connection looks broken, but was cancelled.
    fn cause(&self, error: MigrateError) -> MigrateError {
        self.check().err().unwrap_or(error)
    }

    fn end(&self, outcome: &Outcome) {
        let mut shared = self.lock();
        let (status, why) = match outcome {
            Outcome::Completed => (Status::Completed, None),
            Outcome::Stayed(MigrateError::Cancelled) => (Status::Cancelled, None),
            Outcome::Stayed(why) | Outcome::Unconfirmed(why) => (Status::Failed, Some(chain(why))),
        };
        shared.stats.status = status;
        shared.stats.error_desc = why;
        shared.stats.x_ras_unconfirmed = matches!(outcome, Outcome::Unconfirmed(_));
        shared.stats.total_time = millis(shared.started.elapsed());
        shared.phase = Phase::Over;
        shared.channel = None;
    }

    fn stats(&self) -> Stats {
        let shared = self.lock();
        let mut stats = shared.stats.clone();
        if shared.phase != Phase::Over {
            stats.total_time = millis(shared.started.elapsed());
        }
        stats
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing in here can be left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
