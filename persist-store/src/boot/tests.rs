//! Firmware as it is: little room, strange answers, power that goes at any moment.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use ras_core::{
    ErrorSource, Location, Pfn, PfnRange, RetireReason, RetireState, RetiredPage, Severity,
    SmolStr, Timestamp,
};
use ras_store_format::exclusion::{BadRange, Badness, Limits, List};
use tempfile::TempDir;

use super::*;

/// Variables in a flash chip: what is overwritten takes room until the next boot.
#[derive(Clone, Default)]
struct Flash(Arc<Mutex<Chip>>);

#[derive(Default)]
struct Chip {
    variables: BTreeMap<String, Vec<u8>>,
    room: usize,
    /// Changes so far. The one at `fails_at` and all later ones fail, and it leaves half a value.
    changes: u32,
    fails_at: Option<u32>,
    refuses: Option<io::ErrorKind>,
    /// Says yes to writes, and keeps the old content.
    lies: bool,
}

impl Flash {
    fn with_room(room: usize) -> Self {
        let flash = Self::default();
        flash.chip(|chip| chip.room = room);
        flash
    }

    fn chip<T>(&self, look: impl FnOnce(&mut Chip) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// Nothing fails any more.
    fn reboot(&self) {
        self.chip(|chip| (chip.changes, chip.fails_at) = (0, None));
    }

    fn value(&self, name: &str) -> Option<Vec<u8>> {
        self.read(name).unwrap()
    }
}

impl Medium for Flash {
    fn describe(&self) -> String {
        "EFI variables".into()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.chip(|chip| chip.variables.get(name).cloned()))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.chip(|chip| {
            chip.changes += 1;
            if let Some(kind) = chip.refuses {
                return Err(kind.into());
            }
            match chip.fails_at {
                // The worst firmware: power goes, and there is neither the old value nor the new one.
                Some(at) if at == chip.changes => {
                    chip.variables.insert(name.into(), bytes[..bytes.len() / 2].into());
                    return Err(io::ErrorKind::Other.into());
                }
                Some(at) if at < chip.changes => return Err(io::ErrorKind::Other.into()),
                _ => {}
            }
            chip.room = chip.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            if !chip.lies {
                chip.variables.insert(name.into(), bytes.into());
            }
            Ok(())
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.chip(|chip| {
            if let Some(kind) = chip.refuses {
                return Err(kind.into());
            }
            chip.variables.remove(name);
            Ok(())
        })
    }
}

fn single(pfn: u64) -> BadRange {
    BadRange::single(Pfn(pfn), Badness::UNCORRECTED)
}

fn wanted(pfns: impl IntoIterator<Item = u64>) -> Wanted {
    Wanted { ranges: pfns.into_iter().map(single).collect(), map_epoch: 7, ..Wanted::default() }
}

fn over(flash: &Flash) -> BootList {
    BootList { variables: Some(Box::new(flash.clone())), files: None }
}

fn with_esp(flash: &Flash, dir: &TempDir) -> BootList {
    let files = Some(Box::new(Files::new(dir.path())) as Box<dyn Medium>);
    BootList { variables: Some(Box::new(flash.clone())), files }
}

fn listed(boot: &BootList) -> Option<Vec<u64>> {
    let Found { list, .. } = boot.read().unwrap();
    list.map(|list| list.ranges.iter().map(|range| range.pages.start.0).collect())
}

#[test]
fn a_list_is_written_once_per_change_and_always_there_twice() {
    let flash = Flash::with_room(100_000);
    let mut boot = over(&flash);
    assert!(!boot.is_installed());
    let stored = boot.write(&wanted([5, 9])).unwrap();
    assert!(matches!(&stored, Written::Stored { ranges: 2, bytes: 80, .. }), "{stored:?}");
    assert!(boot.is_installed());
    let [a, b] = place::LIST_VARIABLES;
    assert_eq!(flash.value(a), flash.value(b), "the first time, both are missing");
    let changes = flash.chip(|chip| chip.changes);
    assert_eq!(boot.write(&wanted([5, 9])).unwrap(), Written::Unchanged);
    assert_eq!(flash.chip(|chip| chip.changes), changes, "nothing was touched");

    flash.reboot();
    let room = flash.chip(|chip| chip.room);
    boot.write(&wanted([5, 9, 11])).unwrap();
    assert_eq!(room - flash.chip(|chip| chip.room), 64 + 3 * 8, "one copy is enough");
    let generation = |name| List::decode(&flash.value(name).unwrap()).unwrap().generation;
    assert_eq!((generation(a), generation(b)), (1, 2), "the driver takes the newer one");
    boot.write(&wanted([5])).unwrap();
    assert_eq!((generation(a), generation(b)), (3, 2), "in turns");
    assert_eq!(listed(&boot), Some(vec![5]));
    // A new epoch alone is a change; so are other limits.
    let epoch = Wanted { map_epoch: 8, ..wanted([5]) };
    assert_ne!(boot.write(&epoch).unwrap(), Written::Unchanged);
    let limits = Limits { ranges_max: 20, bytes_max: 0 };
    assert_ne!(boot.write(&Wanted { limits, ..epoch }).unwrap(), Written::Unchanged);

    boot.write(&wanted([])).unwrap();
    assert_eq!(listed(&boot), Some(vec![]), "nothing is bad any more, and that is said");
    boot.remove().unwrap();
    assert_eq!((listed(&boot), boot.is_installed()), (None, false));
    boot.remove().unwrap();
}

/// The power goes in each of the writes: one sound copy is there, of the old list or of the new one, and
/// the next write brings everything in order.
#[test]
fn wherever_it_stops_a_sound_list_is_there() {
    for damaged in [false, true] {
        let mut stopped = 0;
        for fails_at in 1..=2 {
            let flash = Flash::with_room(100_000);
            over(&flash).write(&wanted([1])).unwrap();
            over(&flash).write(&wanted([1, 2])).unwrap();
            let [a, b] = place::LIST_VARIABLES;
            if damaged {
                flash.chip(|chip| chip.variables.get_mut(b).unwrap().truncate(70));
            }
            let before = listed(&over(&flash)).unwrap();
            flash.reboot();
            flash.chip(|chip| chip.fails_at = Some(fails_at));
            let result = over(&flash).write(&wanted([1, 2, 3]));
            flash.reboot();
            let found = listed(&over(&flash)).unwrap();
            assert!(found == [1, 2, 3] || found == before, "{fails_at}: {found:?}");
            assert!(found == [1, 2, 3] || result.is_err(), "{fails_at}: said to be there");
            stopped += u32::from(result.is_err());
            over(&flash).write(&wanted([1, 2, 3])).unwrap();
            assert_eq!(listed(&over(&flash)), Some(vec![1, 2, 3]));
            assert!([a, b].iter().all(|name| List::decode(&flash.value(name).unwrap()).is_ok()));
        }
        assert_eq!(stopped, 1, "a change is one write");
    }
}

#[test]
fn a_full_chip_is_explained_and_the_file_takes_over() {
    let flash = Flash::with_room(79);
    let error = over(&flash).write(&wanted([1, 2])).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("EFI variables") && text.contains("at the next reboot"), "{text}");

    // The file takes over, and is the list.
    let dir = TempDir::new().unwrap();
    let stored = with_esp(&flash, &dir).write(&wanted([1, 2])).unwrap();
    let Written::Stored { place, note: Some(note), .. } = &stored else { panic!("{stored:?}") };
    assert!(place.contains("EFI/rampart") && note.contains("EFI variables"), "{stored:?}");
    assert_eq!(listed(&with_esp(&flash, &dir)), Some(vec![1, 2]));
}

#[test]
fn a_variable_that_may_not_be_changed_says_what_it_takes() {
    let flash = Flash::with_room(100_000);
    over(&flash).write(&wanted([1])).unwrap();
    flash.chip(|chip| chip.refuses = Some(io::ErrorKind::PermissionDenied));
    let error = over(&flash).write(&wanted([1, 2])).unwrap_err();
    assert!(error.to_string().contains("CAP_LINUX_IMMUTABLE"), "{error}");
    assert_eq!(listed(&over(&flash)), Some(vec![1]));
    assert!(over(&flash).remove().is_err());
}

#[test]
fn firmware_that_says_yes_and_does_nothing_is_found_out() {
    let flash = Flash::with_room(100_000);
    over(&flash).write(&wanted([1])).unwrap();
    flash.reboot();
    flash.chip(|chip| chip.lies = true);
    let error = over(&flash).write(&wanted([1, 2])).unwrap_err();
    assert!(matches!(error, BootError::Lost { .. }), "{error}");
}

#[test]
fn a_list_that_outgrows_a_variable_goes_to_the_file_and_comes_back() {
    let flash = Flash::with_room(1 << 20);
    let dir = TempDir::new().unwrap();
    let mut boot = with_esp(&flash, &dir);
    boot.write(&wanted([1])).unwrap();
    let many = wanted((0..10_000).map(|n| n * 3));
    let stored = boot.write(&many).unwrap();
    assert!(matches!(&stored, Written::Stored { ranges: 10_000, left_over_pages: 0, .. }));
    let names: Vec<_> = std::fs::read_dir(dir.path().join(place::DIRECTORY))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "both copies, and no left-overs: {names:?}");
    assert_eq!(listed(&boot).unwrap().len(), 10_000);
    assert_eq!(boot.write(&many).unwrap(), Written::Unchanged);
    boot.write(&wanted([7])).unwrap();
    assert_eq!(listed(&boot), Some(vec![7]), "the newest counts, wherever it is");
    assert!(matches!(boot.write(&wanted([7])).unwrap(), Written::Unchanged));

    // Without a partition the variable gets the worst of them.
    let flash = Flash::with_room(1 << 20);
    let mut mixed = many;
    mixed.ranges.push(BadRange {
        pages: PfnRange { start: Pfn(1 << 30), count: 2 },
        badness: Badness(255),
    });
    let stored = over(&flash).write(&mixed).unwrap();
    let Written::Stored { ranges, bytes, left_over_pages, .. } = stored else { panic!() };
    assert!(bytes <= place::VARIABLE_SIZE_MAX && ranges == 200 && left_over_pages > 9000);
    assert!(listed(&over(&flash)).unwrap().contains(&(1 << 30)));
    assert_eq!(over(&flash).write(&mixed).unwrap(), Written::Unchanged);
}

#[test]
fn damaged_copies_are_mended_and_newer_ones_left_alone() {
    let flash = Flash::with_room(100_000);
    let mut boot = over(&flash);
    boot.write(&wanted([1])).unwrap();
    let spoil = |name: &str, at: usize, byte: u8| {
        flash.chip(|chip| chip.variables.get_mut(name).unwrap()[at] = byte);
    };
    let [a, b] = place::LIST_VARIABLES;
    spoil(a, 70, 0xaa);
    let Found { list, damaged } = boot.read().unwrap();
    assert_eq!((list.unwrap().ranges.len(), damaged), (1, vec![(a, ListDamage::Checksum)]));
    assert_eq!(boot.write(&wanted([1])).unwrap(), Written::Unchanged);
    assert_eq!(flash.value(a), flash.value(b), "mended");

    for name in [a, b] {
        spoil(name, 70, 0xaa);
    }
    assert_eq!(listed(&boot), None);
    boot.write(&wanted([1])).unwrap();
    assert_eq!(listed(&boot), Some(vec![1]));

    let mut newer = List::default().encode().unwrap();
    newer[12] = 2;
    let checksum = ras_store_format::crc32c(&newer[12..]);
    newer[8..12].copy_from_slice(&checksum.to_le_bytes());
    boot.variables.as_mut().unwrap().replace(a, &newer).unwrap();
    assert!(matches!(boot.write(&wanted([2])), Err(BootError::Newer { major: 2, .. })));
    assert_eq!(flash.value(a), Some(newer));
}

#[test]
fn real_directories_work_the_same() {
    let root = TempDir::new().unwrap();
    let efivars = root.path().join("sys/firmware/efi/efivars");
    let find = || BootList::new(&efivars, find_esp(root.path()).as_deref());
    assert!(matches!(find().write(&wanted([1])), Err(BootError::NoPlace)));
    std::fs::create_dir_all(&efivars).unwrap();
    std::fs::create_dir_all(root.path().join("boot/efi/EFI")).unwrap();
    let mut boot = find();
    boot.write(&wanted([1, 2, 3])).unwrap();
    boot.write(&wanted([1])).unwrap();
    assert_eq!(listed(&find()), Some(vec![1]), "a shorter one, too");
    let name = format!("{}-{}", place::LIST_VARIABLES[0], place::VENDOR);
    let file = std::fs::read(efivars.join(name)).unwrap();
    assert_eq!(file[..4], [7, 0, 0, 0], "attributes");

    assert_eq!(boot.outcome().unwrap(), None);
    let outcome = efivars.join(format!("{}-{}", place::OUTCOME_VARIABLE, place::VENDOR));
    std::fs::write(&outcome, [&[6, 0, 0, 0][..], &Outcome::default().encode()].concat()).unwrap();
    assert_eq!(boot.outcome().unwrap(), Some(Outcome::default()));
    std::fs::write(&outcome, [0; 40]).unwrap();
    assert!(matches!(boot.outcome(), Err(BootError::Outcome(_))));

    boot.write(&wanted((0..5000).map(|n| n * 2))).unwrap();
    let esp = root.path().join("boot/efi/EFI/rampart");
    assert!(place::LIST_FILES.iter().all(|name| esp.join(name).exists()));
    // What a refused creation leaves in efivarfs is no list, and no obstacle.
    let left = efivars.join(format!("{}-{}", place::LIST_VARIABLES[1], place::VENDOR));
    std::fs::write(left, "").unwrap();
    assert_eq!(listed(&find()).map(|pages| pages.len()), Some(5000));
    boot.remove().unwrap();
    assert!(!boot.is_installed());
}

#[test]
fn neighbours_of_one_badness_are_one_range() {
    let page = |pfn, reason, state| RetiredPage {
        pfn: Pfn(pfn),
        reason,
        state,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp(1),
        updated: Timestamp(1),
        attempts: 0,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: SmolStr::default(),
        outcome: SmolStr::default(),
    };
    use RetireReason::{CorrectedThreshold, Uncorrected};
    use RetireState::{Expired, Failed, Probation, Retired};
    let pages = [
        page(11, Uncorrected, Retired),
        page(10, Uncorrected, Retired),
        page(12, CorrectedThreshold, Retired),
        page(14, Uncorrected, Failed),
        page(13, Uncorrected, Expired),
        page(20, Uncorrected, Probation),
    ];
    let found: Vec<_> = ranges_of(&pages)
        .iter()
        .map(|range| (range.pages.start.0, range.pages.count, range.badness.0))
        .collect();
    assert_eq!(found, [(10, 2, 224), (12, 1, 96), (14, 1, 240)]);
}
