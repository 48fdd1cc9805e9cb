//! The cluster engine the configuration asks for, and moving guests over QMP for those engines that
//! leave that to us.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster_glue::{HaEngine, MigrationReport, Mover, MoverError, Pacemaker, Standalone};
use ras_qmp::Client;
use ras_qmp::ras::MigrateStatus;
use rasd_api::EngineStatus;
use serde_json::Value;

use crate::config::{Config, Engine};
use crate::guests::discover;
use crate::stop::Stop;

/// Pause between two looks at a migration.
const POLL: Duration = Duration::from_millis(5);

/// The engine of `[cluster]`.
#[must_use]
pub fn engine(config: &Config, stop: &Stop) -> Box<dyn HaEngine> {
    let cluster = &config.cluster;
    match cluster.engine {
        Engine::Standalone => {
            let mover = QmpMover {
                dir: config.guests.dir.clone(),
                connect: config.guests.connect(),
                migrate: config.guests.migrate(),
                stop: stop.clone(),
            };
            Box::new(Standalone::new(cluster.standalone.clone(), Box::new(mover)))
        }
        Engine::Pacemaker => Box::new(Pacemaker::new(cluster.pacemaker.clone())),
    }
}

/// What the engine says of itself.
#[must_use]
pub fn describe(engine: &dyn HaEngine) -> EngineStatus {
    let capabilities = engine.capabilities();
    EngineStatus {
        name: engine.name().into(),
        failover: capabilities.failover,
        live_migration: capabilities.live_migration,
        notes: capabilities.notes,
    }
}

/// Moves guests by QMP `migrate`.
#[derive(Clone, Debug)]
struct QmpMover {
    dir: PathBuf,
    connect: Duration,
    migrate: Duration,
    stop: Stop,
}

/// Why a guest did not leave.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error("no guest of this name runs here")]
    NotHere,
    #[error("migration {status}: {detail}")]
    Ended { status: String, detail: String },
    #[error("migration cancelled: it took longer than {limit:?} (guests.migrate_s)")]
    TooLong { limit: Duration },
    #[error("rasd stops; the migration goes on by itself")]
    Stopping,
}

impl Mover for QmpMover {
    fn guests(&self) -> Result<Vec<String>, MoverError> {
        Ok(discover::names(&self.dir, self.connect))
    }

    fn migrate(&self, guest: &str, uri: &str) -> Result<MigrationReport, MoverError> {
        let found = discover::guests(&self.dir, self.connect)
            .flatten()
            .find(|candidate| candidate.map.name == guest)
            .ok_or(MoveError::NotHere)?;
        let mut client = found.client;
        // Taken up after a restart, it may be under way already.
        let under_way = client.query_migrate()?.status.is_some_and(|status| {
            matches!(status.as_str(), "setup" | "active" | "device" | "pre-switchover")
        });
        if !under_way {
            client.migrate(uri)?;
        }
        let status = self.wait(&mut client, guest)?;
        if !status.is_completed() {
            return Err(MoveError::Ended {
                status: status.status.unwrap_or_default(),
                detail: status.error_desc.unwrap_or_else(|| "the VMM gave no reason".into()),
            }
            .into());
        }
        Ok(MigrationReport {
            total: Duration::from_millis(status.total_time.unwrap_or_default()),
            downtime: status.downtime.map(Duration::from_millis),
            transferred: status
                .rest
                .get("ram")
                .and_then(|ram| ram.get("transferred"))
                .and_then(serde_json::Value::as_u64),
        })
    }
}

impl QmpMover {
    /// Waits for the migration to end. A shutdown leaves it to itself: the decision is stored, and
    /// the next start takes it up where it is then.
    fn wait(&self, client: &mut Client, guest: &str) -> Result<MigrateStatus, MoverError> {
        let deadline = Instant::now() + self.migrate;
        loop {
            let status = client.query_migrate()?;
            if status.is_over() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                // A migration that nobody waits for any more must not surprise anybody later.
                let cancelled = client.execute("migrate_cancel", Value::Null, self.connect);
                tracing::warn!(guest, cancelled = cancelled.is_ok(), "migration took too long");
                return Err(MoveError::TooLong { limit: self.migrate }.into());
            }
            if self.stop.wait(POLL) {
                return Err(MoveError::Stopping.into());
            }
        }
    }
}
