//! The suite that every backend has to pass: its contract, and crashes. For these a backend brings a
//! [`Medium`]: its simulated device.
//!
//! Power goes during any call, and any mixture of what was not yet durable is on the medium; calls fail;
//! sectors are lost or flipped. What was acknowledged is there, nothing is half there, nobody cries
//! damage where there is none, and no damage goes unnoticed.

use std::io::ErrorKind;

use super::*;
use crate::backend::simulated::{Fate, Plan, Rng, Unsynced};
use crate::{PageList, Recovery};

/// A device that a list can be on, and everything that can happen to it.
pub(crate) trait Medium: Sized {
    /// The backend under test, on this device.
    type List: PageList;

    /// Whether it tells a copy that was being written when power went from one that was damaged later.
    /// Where it can't, the other copy mends both, and both are reported.
    const TELLS_TORN: bool = true;

    fn empty(seed: &str) -> Self;

    /// A handle as a new process would have it.
    fn list(&self) -> Self::List;

    /// An independent copy of everything, what is not durable included.
    fn duplicate(&self) -> Self;

    /// Sets what goes wrong from now on; calls to the device count from 0 again.
    fn plan(&self, plan: Plan);

    /// What a crash now could take. Both 0 for a device whose calls are durable when they return.
    fn unsynced(&self) -> Unsynced;

    /// After power came back; see [`crate::backend::simulated::Simulated::with_survivors`].
    fn with_survivors(&self, changes: usize, fate: &mut dyn FnMut(usize) -> Fate) -> Self;

    /// The process died, the machine did not.
    fn after_process_death(&self) -> Self;

    /// Sectors (or whatever it is that fails as one) that hold the list.
    fn sectors(&self) -> usize;

    /// Changes one of them behind the backend's back.
    fn spoil(&self, sector: usize, change: &mut dyn FnMut(&mut [u8]));
}

/// Crash points of a run of the tests; `RAS_CRASH_POINTS` asks for more (`cargo xtask crash`).
pub(crate) fn points_wanted() -> usize {
    const BRIEF: usize = 20_000;
    std::env::var("RAS_CRASH_POINTS").ok().and_then(|points| points.parse().ok()).unwrap_or(BRIEF)
}

/// What a run had acknowledged when it was interrupted, and what it was doing.
struct Interrupted {
    acknowledged: State,
    in_flight: Vec<Entry>,
}

/// Runs the script until it fails; `None` if it does not.
fn run<M: Medium>(medium: &M) -> Option<Interrupted> {
    let mut acknowledged = State::default();
    let mut list = medium.list();
    if list.load().is_err() {
        return Some(Interrupted { acknowledged, in_flight: Vec::new() });
    }
    for entries in script() {
        if list.commit(&entries).is_err() {
            return Some(Interrupted { acknowledged, in_flight: entries });
        }
        acknowledged = applied(&acknowledged, &entries);
    }
    None
}

impl Interrupted {
    /// The checker. Returns whether what was in flight is there.
    fn check<M: Medium>(
        &self,
        medium: &M,
        whole_sectors: bool,
        context: &dyn Fn() -> String,
    ) -> bool {
        let mut list = medium.list();
        let (state, recovery) =
            list.load().unwrap_or_else(|error| panic!("{}: {error}", context()));
        let finished = list.kept(&applied(&self.acknowledged, &self.in_flight));
        let there = state == finished;
        if !there && state != list.kept(&self.acknowledged) {
            panic!("{}: an acknowledged page is lost, {recovery}", context());
        }
        assert_eq!(recovery.damage, None, "{}: a false alarm", context());
        let alarmed = M::TELLS_TORN && recovery.damaged_copies > 0;
        assert!(!alarmed, "{}: a false alarm", context());
        assert!(!recovery.witness_damaged || !whole_sectors, "{}: a false alarm", context());
        drop(list);

        let (again, clean) = medium.list().load().unwrap();
        assert_eq!(again, state, "{}: the second load disagrees", context());
        assert!(clean.is_clean(), "{}: recovery left work: {clean}", context());
        there
    }
}

/// The contract of [`PageList`] where nothing goes wrong: nothing before the first load, every commit whole
/// and in order, every load what was committed, and clean. The list is new.
pub(crate) fn keeps_what_it_acknowledges(name: &str, list: &mut dyn PageList) {
    let early = list.commit(&[page(1, RetireState::Pending)]);
    assert!(matches!(early, Err(StoreError::Poisoned { .. })), "{name}: before a load: {early:?}");
    let (empty, recovery) = list.load().unwrap();
    assert_eq!((&empty, recovery.is_clean()), (&State::default(), true), "{name}: {recovery}");

    let mut committed = State::default();
    for (number, entries) in script().iter().enumerate() {
        list.commit(entries).unwrap();
        committed = applied(&committed, entries);
        // Also a load between two commits, which changes nothing.
        if number % 2 == 0 {
            let (state, recovery) = list.load().unwrap();
            assert_eq!(state, list.kept(&committed), "{name}: after commit {number}");
            assert!(recovery.is_clean(), "{name}: after commit {number}: {recovery}");
        }
    }
    // In order: what comes on and goes off in one commit is off.
    list.commit(&[]).unwrap();
    list.commit(&[page(900, RetireState::Pending), unretired(900)]).unwrap();
    list.commit(&[unretired(1), page(1, RetireState::Pending)]).unwrap();
    let (state, _) = list.load().unwrap();
    let pfn = |number: u64| Pfn(0x12_3000 + number);
    assert!(!state.pages.contains_key(&pfn(900)), "{name}");
    assert!(state.pages.contains_key(&pfn(1)), "{name}");
    // What a medium keeps, it keeps as it is, and no page is left out.
    let kept = list.kept(&state);
    assert_eq!(list.kept(&kept), kept, "{name}");
    assert!(kept.pages.keys().eq(state.pages.keys()), "{name}");
    assert!(list.capacity().pages > 0, "{name}");
}

/// Which of the unsynced sectors survive a crash.
#[derive(Clone, Copy, Debug)]
enum Survivors {
    /// The first so many, in the order of writing.
    First(usize),
    AllBut(usize),
    Only(usize),
    /// Each with so many eighths of a chance.
    Some(usize),
    /// The same, and this one was written in part.
    Torn(usize),
}

impl Survivors {
    /// Every prefix, every single sector alone or missing, then any: four ways in turn.
    fn nth(number: usize, sectors: usize, rng: &mut Rng) -> Self {
        const SHARES: [usize; 4] = [4, 1, 7, 6];
        match number {
            first if first <= sectors => Self::First(first),
            only if only <= 2 * sectors => Self::Only(only - sectors - 1),
            missing if missing <= 3 * sectors => Self::AllBut(missing - 2 * sectors - 1),
            any if any % 4 == 3 && sectors > 0 => Self::Torn(rng.below(sectors)),
            any => Self::Some(SHARES[any / 4 % SHARES.len()]),
        }
    }

    fn fate(self, sector: usize, rng: &mut Rng) -> Fate {
        let written = match self {
            Self::First(count) => sector < count,
            Self::Only(one) => sector == one,
            Self::AllBut(one) => sector != one,
            Self::Torn(one) if sector == one => return Fate::Torn(1 + rng.below(511)),
            Self::Torn(_) => rng.below(2) == 0,
            Self::Some(share) => rng.below(8) < share,
        };
        if written { Fate::Written } else { Fate::Lost }
    }

    /// After power came back.
    fn of<M: Medium>(self, medium: &M, changes: usize, rng: &mut Rng) -> M {
        medium.with_survivors(changes, &mut |sector| self.fate(sector, rng))
    }
}

/// Power goes at every call, and again while the list is loaded after that. `points` crash points in
/// all, more where it takes more to have every prefix at every call.
pub(crate) fn power_loss_at_every_call<M: Medium>(name: &str, points: usize) {
    let mut rng = Rng::seeded(name);
    let interrupted = |at| {
        let medium = M::empty(name);
        medium.plan(Plan::PowerLoss { at });
        run(&medium).map(|interrupted| (medium, interrupted))
    };
    let calls = (0..).take_while(|&at| interrupted(at).is_some()).count();
    assert!(calls > 10, "the script shrank: {calls} calls");
    let (mut done, mut systematic, mut found_in_flight, mut torn) = (0, 0, 0, 0);
    for at in 0..calls {
        let (medium, interrupted) = interrupted(at).unwrap();
        let Unsynced { sectors, changes } = medium.unsynced();
        let process_death = medium.after_process_death();
        interrupted.check(&process_death, true, &|| format!("call {at}, process death"));
        done += 1;
        let every = 3 * sectors + 5;
        let share = points.saturating_sub(done) / (calls - at);
        // Half of the points are those of a second crash.
        let rounds = every.max(share / 2 / (changes + 1));
        for directory in 0..=changes {
            for round in 0..rounds {
                let survivors = Survivors::nth(round, sectors, &mut rng);
                let whole = !matches!(survivors, Survivors::Torn(_));
                let context = |what: &str| {
                    format!("call {at}, {directory} of {changes} changes, {survivors:?}, {what}")
                };
                let after = survivors.of(&medium, directory, &mut rng);

                let first = after.duplicate();
                first.plan(Plan::PowerLoss { at: rng.below(12) });
                let _ = first.list().load();
                let left = first.unsynced();
                let second =
                    Survivors::nth(rng.below(4 * left.sectors + 4), left.sectors, &mut rng);
                let both_whole = whole && !matches!(second, Survivors::Torn(_));
                let second = second.of(&first, rng.below(left.changes + 1), &mut rng);
                interrupted.check(&second, both_whole, &|| context("twice"));

                let there = interrupted.check(&after, whole, &|| context("once"));
                found_in_flight += usize::from(there);
                torn += usize::from(!whole);
                systematic += usize::from(round < every);
                done += 2;
            }
        }
    }
    assert!(found_in_flight > 0 && torn > 0, "the crashes were all alike");
    println!(
        "{name}: {done} crash points at {calls} calls, {systematic} of them systematic, {torn} with a \
         torn sector, half of the others twice in a row; {found_in_flight} found the commit that was \
         under way; 0 acknowledged pages lost"
    );
}

/// Every call fails once, the store goes on where it can: an error is loud, and what was acknowledged
/// stays.
pub(crate) fn every_call_fails_once<M: Medium>(name: &str, kind: ErrorKind) {
    let mut rng = Rng::seeded(name);
    let calls = {
        let passes = |at| {
            let medium = M::empty(name);
            medium.plan(Plan::PowerLoss { at });
            run(&medium).is_none()
        };
        (0..).take_while(|&at| !passes(at)).count()
    };
    let mut loud = 0;
    for at in 0..calls {
        for round in 0..20 {
            let context = || format!("{name}: {kind:?} at call {at}, round {round}");
            let medium = M::empty(&context());
            medium.plan(Plan::Error { at, kind });
            let mut list = medium.list();
            let _ = list.load().or_else(|_| list.load()).unwrap();
            let mut acknowledged = State::default();
            let mut possible = Vec::new();
            for entries in script() {
                match list.commit(&entries) {
                    Ok(()) => {
                        acknowledged = applied(&acknowledged, &entries);
                        possible.clear();
                    }
                    // Only a new load tells; here it is the one at the end.
                    Err(StoreError::Poisoned { .. }) => break,
                    Err(StoreError::Io { .. }) => {
                        loud += 1;
                        possible.push(applied(&acknowledged, &entries));
                    }
                    Err(other) => panic!("{}: {other}", context()),
                }
            }
            drop(list);
            let check = |medium: &M| {
                let mut list = medium.list();
                let (state, recovery) = list.load().unwrap();
                assert_eq!(recovery.damage, None, "{}", context());
                let known = possible.iter().chain([&acknowledged]);
                let kept = known.map(|known| list.kept(known)).any(|known| known == state);
                assert!(kept, "{}: an acknowledged page is lost", context());
                state
            };
            // Power goes right away, or after the list was loaded again from the page cache. What that
            // load showed has to be on the medium, although the failed call had dropped it.
            let half = Survivors::Some(4);
            let any = |medium: &M, rng: &mut Rng| {
                let changes = rng.below(medium.unsynced().changes + 1);
                half.of(medium, changes, rng)
            };
            check(&any(&medium, &mut rng));
            medium.plan(Plan::Nothing);
            let shown = check(&medium);
            assert_eq!(check(&any(&medium, &mut rng)), shown, "{}: not durable", context());
        }
    }
    assert!(loud > calls, "the failures went by: {loud}");
    println!("{name}: {calls} calls failed with {kind:?} 20 times each, {loud} of them loud");
}

/// Every sector is lost (zeros), replaced by garbage, and has a bit flipped, each by itself: it is
/// reported, and everything is there.
pub(crate) fn every_sector_spoiled<M: Medium>(name: &str) {
    let medium = M::empty(name);
    let mut list = medium.list();
    list.load().unwrap();
    let mut state = State::default();
    for entries in script() {
        list.commit(&entries).unwrap();
        state = applied(&state, &entries);
    }
    drop(list);
    let mut rng = Rng::seeded(name);
    let (mut spoiled, mut mended) = (0, 0);
    for sector in 0..medium.sectors() {
        for way in 0..3 + 8 {
            let damaged = medium.duplicate();
            let mut changed = false;
            damaged.spoil(sector, &mut |bytes| {
                let before = bytes.to_vec();
                match way {
                    0 => bytes.fill(0),
                    1 => bytes.fill(0xff),
                    2 => bytes.iter_mut().for_each(|byte| *byte = rng.next().to_le_bytes()[0]),
                    _ => bytes[rng.below(before.len())] ^= 1 << rng.below(8),
                }
                changed = bytes != before;
            });
            if !changed {
                continue;
            }
            let context = format!("{name}: sector {sector}, way {way}");
            let mut list = damaged.list();
            let (found, recovery): (State, Recovery) = list.load().unwrap();
            assert!(!recovery.is_clean(), "{context}: went unnoticed");
            assert_eq!(recovery.damage, None, "{context}: not mended");
            assert!(found == list.kept(&state), "{context}: an acknowledged page is lost");
            drop(list);
            let (again, second) = damaged.list().load().unwrap();
            assert_eq!(again, found, "{context}");
            assert!(second.is_clean(), "{context}: recovery left work: {second}");
            spoiled += 1;
            mended += usize::from(recovery.damaged_copies > 0);
        }
    }
    assert!(mended > 0, "{name}: no sector was in use");
    println!(
        "{name}: {spoiled} corruptions of one sector each, all detected and nothing lost; {mended} \
         hit data in use"
    );
}
