//! Power goes during any call, any subset of what was not synced is on the medium: every
//! acknowledged entry is there, nothing is half there, and nobody cries damage.

use super::*;
use crate::backend::simulated::{Plan, Rng};

/// What a run had acknowledged when power went, and what it was doing.
struct Interrupted {
    acknowledged: State,
    in_flight: Vec<Entry>,
}

/// Runs the script until it fails; `None` if it does not.
fn run(disk: &Simulated) -> Option<Interrupted> {
    let mut acknowledged = State::default();
    let Ok((mut journal, _)) = open(disk) else {
        return Some(Interrupted { acknowledged, in_flight: Vec::new() });
    };
    for entries in script() {
        if journal.append(&entries).is_err() {
            return Some(Interrupted { acknowledged, in_flight: entries });
        }
        acknowledged = applied(&acknowledged, &entries);
        assert_eq!(*journal.state(), acknowledged);
    }
    None
}

impl Interrupted {
    /// The checker of this whole file.
    fn check(&self, disk: &Simulated, context: &str) {
        let (journal, recovery) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        let state = journal.state();
        let finished = applied(&self.acknowledged, &self.in_flight);
        assert!(*state == self.acknowledged || *state == finished, "{context}: {recovery}");
        assert_eq!(recovery.damage, None, "{context}: a false alarm");
        assert_eq!(recovery.damaged_copies, 0, "{context}: a false alarm");
        assert!(!recovery.witness_damaged, "{context}: a false alarm");

        let (again, clean) = open(disk).unwrap();
        assert_eq!(again.state(), state, "{context}: the second open disagrees");
        assert!(clean.is_clean(), "{context}: recovery left work: {clean}");
    }
}

/// How much of the unsynced data made it: nothing, everything, half, little, most.
const SHARES: [usize; 5] = [0, 8, 4, 1, 7];

#[test]
fn power_loss_at_every_call() {
    let rounds = 25 * thoroughness();
    let mut rng = Rng::seeded("power_loss_at_every_call");
    let mut points = 0;
    let mut at = 0;
    loop {
        let disk = Simulated::empty("power_loss_at_every_call");
        disk.plan(Plan::PowerLoss { at });
        let Some(interrupted) = run(&disk) else { break };
        for round in 0..rounds {
            let share = SHARES[round % SHARES.len()];
            let after = disk.after_power_loss(&mut rng, |rng| rng.below(8) < share);

            // Power goes once more, during the recovery.
            let first = after.duplicate();
            first.plan(Plan::PowerLoss { at: rng.below(12) });
            let _ = open(&first);
            let twice = first.after_power_loss(&mut rng, |rng| rng.below(8) < share);
            interrupted.check(&twice, &format!("call {at}, round {round}, twice"));

            interrupted.check(&after, &format!("call {at}, round {round}"));
            points += 2;
        }
        interrupted.check(&disk.after_process_death(), &format!("call {at}, process death"));
        points += 1;
        at += 1;
    }
    println!("{points} crash points at {at} calls");
    assert!(at > 80, "the script shrank: {at} calls");
}

/// One block in two copies is sixteen sectors: all subsets of them.
#[test]
fn every_subset_of_one_commit() {
    let disk = Simulated::empty("every_subset_of_one_commit");
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&[page(1, RetireState::Pending)]).unwrap();
    let acknowledged = journal.state().clone();

    // Two writes reach the cache; power goes in the sync.
    disk.plan(Plan::PowerLoss { at: 2 });
    let in_flight = vec![page(2, RetireState::Pending)];
    journal.append(&in_flight).unwrap_err();
    let interrupted = Interrupted { acknowledged, in_flight };
    let step = if thoroughness() > 1 { 1 } else { 7 };
    let mut rng = Rng::seeded("subsets");
    for subset in (0u32..1 << 16).step_by(step) {
        // The witness is unsynced too; it goes one way or the other with the first bit.
        let mut sector = 0;
        let after = disk.after_power_loss(&mut rng, |_| {
            sector += 1;
            subset & (1 << (sector % 16)) != 0
        });
        interrupted.check(&after, &format!("subset {subset:#x}"));
    }
}

/// `RAS_CRASH_ROUNDS` multiplies the random rounds; 1 where it is not set.
fn thoroughness() -> usize {
    std::env::var("RAS_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}
