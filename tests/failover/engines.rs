//! `sim` and `standalone`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_glue::{
    EngineError, Evacuated, HaEngine, MigrationReport, Mover, MoverError, Scope, SimEngine,
    Standalone, StandaloneConfig,
};
use ras_core::Health;

#[test]
fn the_simulated_engine_remembers_what_it_was_asked() {
    let sim = SimEngine::new();
    let mut engine: Box<dyn HaEngine> = Box::new(sim.clone());
    engine.report_health(Health::Red, "why").unwrap();
    engine.evacuate(&Scope::Guest("vm1".into()), "why").unwrap();
    sim.fail_next(1);
    assert!(matches!(engine.evacuate(&Scope::Host, "why"), Err(EngineError::Timeout { .. })));
    assert_eq!(engine.evacuate(&Scope::Host, "why").unwrap(), Evacuated::ClusterWillMove);
    assert_eq!(sim.calls(), ["node-health red", "move vm1", "move all", "move all"]);
    assert_eq!(engine.membership().unwrap()[0].health, Some(Health::Red));
    assert!(!engine.capabilities().failover, "nothing is promised that does not exist");
}

/// Guests and what becomes of them; remembers the moves.
#[derive(Clone, Default)]
struct FakeMover {
    guests: Vec<&'static str>,
    stuck: &'static str,
    moves: Arc<Mutex<Vec<String>>>,
}

impl Mover for FakeMover {
    fn guests(&self) -> Result<Vec<String>, MoverError> {
        if self.guests.is_empty() {
            return Err("no directory".into());
        }
        Ok(self.guests.iter().map(|name| (*name).to_owned()).collect())
    }

    fn migrate(&self, guest: &str, uri: &str) -> Result<MigrationReport, MoverError> {
        self.moves.lock().unwrap().push(format!("{guest} -> {uri}"));
        if guest == self.stuck {
            return Err("peer hung up".into());
        }
        Ok(MigrationReport { total: Duration::from_millis(40), ..MigrationReport::default() })
    }
}

fn standalone(peer: Option<&str>, mover: &FakeMover) -> Standalone {
    let config = StandaloneConfig { peer: peer.map(str::to_owned) };
    Standalone::new(config, Box::new(mover.clone()))
}

#[test]
fn a_standalone_machine_sends_every_guest_to_its_peer() {
    let mover = FakeMover { guests: vec!["vm1", "vm2"], ..FakeMover::default() };
    let mut engine = standalone(Some("unix:/run/peer/{guest}.in"), &mover);
    let evacuated = engine.evacuate(&Scope::Host, "too many bad pages").unwrap();
    assert!(evacuated.is_settled(), "{evacuated}");
    let moves = mover.moves.lock().unwrap().clone();
    assert_eq!(moves, ["vm1 -> unix:/run/peer/vm1.in", "vm2 -> unix:/run/peer/vm2.in"]);
}

#[test]
fn one_stuck_guest_does_not_keep_the_others() {
    let mover =
        FakeMover { guests: vec!["vm1", "vm2", "vm3"], stuck: "vm2", ..FakeMover::default() };
    let mut engine = standalone(Some("tcp:peer:16520"), &mover);
    let evacuated = engine.evacuate(&Scope::Host, "why").unwrap();
    let Evacuated::Moved { moved, stayed } = &evacuated else { panic!("{evacuated:?}") };
    assert_eq!(moved.iter().map(|moved| moved.guest.as_str()).collect::<Vec<_>>(), ["vm1", "vm3"]);
    assert_eq!((stayed[0].guest.as_str(), stayed[0].why.as_str()), ("vm2", "peer hung up"));
    assert!(!evacuated.is_settled());
}

#[test]
fn without_a_peer_a_standalone_machine_says_that_nobody_can_leave() {
    let mover = FakeMover { guests: vec!["vm1"], ..FakeMover::default() };
    let mut engine = standalone(None, &mover);
    let capabilities = engine.capabilities();
    assert!(!capabilities.failover && !capabilities.live_migration, "{capabilities}");
    let evacuated = engine.evacuate(&Scope::Host, "fatal error").unwrap();
    let Evacuated::MoveNeeded { guests, why } = &evacuated else { panic!("{evacuated:?}") };
    assert_eq!(guests, &["vm1"]);
    assert!(why.contains("fatal error") && why.contains("`peer`"), "{why}");
    assert!(mover.moves.lock().unwrap().is_empty());
}

#[test]
fn a_peer_does_not_make_failover() {
    let engine = standalone(Some("tcp:peer:16520"), &FakeMover::default());
    let capabilities = engine.capabilities();
    assert!(capabilities.live_migration && !capabilities.failover, "{capabilities}");
    assert!(capabilities.notes.contains("nobody restarts"), "{capabilities}");
}

#[test]
fn a_name_that_is_no_file_name_never_reaches_a_uri() {
    let mover = FakeMover { guests: vec!["../../etc/passwd", "vm1"], ..FakeMover::default() };
    let mut engine = standalone(Some("unix:/run/{guest}"), &mover);
    let hostile = Scope::Guest("a/b".into());
    assert!(matches!(engine.evacuate(&hostile, "why"), Err(EngineError::GuestName { .. })));
    assert!(!engine.evacuate(&Scope::Host, "why").unwrap().is_settled());
    assert_eq!(*mover.moves.lock().unwrap(), ["vm1 -> unix:/run/vm1"]);
}

#[test]
fn guests_that_cannot_be_listed_are_an_error_and_nobody_moves() {
    let mover = FakeMover::default();
    let mut engine = standalone(Some("tcp:peer:1"), &mover);
    assert!(matches!(engine.evacuate(&Scope::Host, "why"), Err(EngineError::Guests { .. })));
    assert!(mover.moves.lock().unwrap().is_empty());
}
