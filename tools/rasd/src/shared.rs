//! What the threads of the daemon share: what is known, what is counted, how it is going.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ras_core::{Evacuation, MachineMap, Timestamp};
use rasd_api::{
    BootStatus, Counts, EngineStatus, Gap, HealthStatus, MirrorStatus, SourceStatus, Status,
};

use crate::ledger::Ledger;
use crate::source::{Queue, wall_clock};

/// One per process; cheap to clone.
pub type Handle = Arc<Shared>;

/// See the module.
pub struct Shared {
    /// The queue between the sources and the walk.
    pub queue: Queue,
    /// The machine's modules and their map, as they were at the start.
    pub map: MachineMap,
    ledger: Mutex<Ledger>,
    counts: Mutex<Counts>,
    sources: Mutex<Vec<SourceStatus>>,
    gap: Mutex<Gap>,
    boot: Mutex<BootStatus>,
    mirror: Mutex<MirrorStatus>,
    engine: EngineStatus,
    started: Timestamp,
    ready: AtomicBool,
    health_reported: AtomicBool,
}

impl Shared {
    /// Everything at its beginning.
    #[must_use]
    pub fn new(ledger: Ledger, map: MachineMap, queue: Queue, engine: EngineStatus) -> Handle {
        Arc::new(Self {
            queue,
            map,
            ledger: Mutex::new(ledger),
            counts: Mutex::default(),
            sources: Mutex::default(),
            gap: Mutex::default(),
            boot: Mutex::default(),
            mirror: Mutex::default(),
            engine,
            started: wall_clock(),
            ready: AtomicBool::new(false),
            health_reported: AtomicBool::new(false),
        })
    }

    /// A ledger with nothing around it.
    #[cfg(test)]
    pub fn alone(ledger: Ledger) -> Handle {
        let engine = EngineStatus {
            name: "none".into(),
            failover: false,
            live_migration: false,
            notes: String::new(),
        };
        Self::new(ledger, MachineMap::default(), Queue::new(std::num::NonZeroUsize::MIN), engine)
    }

    /// What is known. Held for the time of a look or of one durable write, never while waiting for the
    /// kernel, a guest or the cluster.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Counts something.
    pub fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut lock(&self.counts));
    }

    /// Says how a source is doing; replaces what was said before.
    pub fn source(&self, name: &str, state: &str, detail: &str) {
        let status = SourceStatus { name: name.into(), state: state.into(), detail: detail.into() };
        let mut sources = lock(&self.sources);
        match sources.iter_mut().find(|source| source.name == name) {
            Some(source) => *source = status,
            None => sources.push(status),
        }
    }

    /// Every stored page was offlined again, and this had to be done for it.
    pub fn set_ready(&self, gap: Gap) {
        *lock(&self.gap) = gap;
        self.ready.store(true, Ordering::Release);
    }

    /// Says how firmware's list is doing.
    pub fn set_boot(&self, state: &str, detail: &str) {
        *lock(&self.boot) = BootStatus { state: state.into(), detail: detail.into() };
    }

    /// Says how the mirror is doing.
    pub fn set_mirror(&self, status: MirrorStatus) {
        *lock(&self.mirror) = status;
    }

    /// One line for the service manager once everything is out of use.
    #[must_use]
    pub fn ready_line(&self) -> String {
        let Gap { pages, excluded, in_use, .. } = *lock(&self.gap);
        let mut line = format!(
            "Watching; {excluded} stored pages were excluded before the boot, {pages} offlined"
        );
        if in_use > 0 {
            line += &format!(", {in_use} ARE IN USE");
        }
        line
    }

    /// Whether the cluster engine has taken the health as it is now.
    pub fn set_health_reported(&self, reported: bool) {
        self.health_reported.store(reported, Ordering::Release);
    }

    /// See [`Shared::set_health_reported`].
    pub fn is_health_reported(&self) -> bool {
        self.health_reported.load(Ordering::Acquire)
    }

    /// What the node is worth.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        let ledger = self.ledger();
        let node = ledger.node();
        HealthStatus {
            health: ledger.health(),
            reason: node.map(|node| node.reason.clone()).unwrap_or_default(),
            since: node.map(|node| node.since),
            evacuation: node.map_or(Evacuation::None, |node| node.evacuation.clone()),
            reported: self.is_health_reported(),
        }
    }

    /// The daemon at a glance.
    #[must_use]
    pub fn status(&self) -> Status {
        let health = self.health();
        let (pages, store) = {
            let ledger = self.ledger();
            (ledger.page_counts(), ledger.store_status())
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: self.started,
            ready: self.ready.load(Ordering::Acquire),
            health,
            pages,
            gap: *lock(&self.gap),
            boot: lock(&self.boot).clone(),
            mirror: lock(&self.mirror).clone(),
            sources: lock(&self.sources).clone(),
            queue: self.queue.status(),
            counts: *lock(&self.counts),
            store,
            engine: self.engine.clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while counting leaves nothing another could trip over.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
