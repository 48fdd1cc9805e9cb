use super::*;

const MIB: u64 = 1 << 20;
const BASE: Gpa = Gpa(0x1_0000_0000);

fn ram() -> GuestRam {
    GuestRam::new(&[
        RegionConfig { gpa: Gpa(0x1_0000_0000), size: 4 * MIB, kind: RegionKind::VirtioMem },
        RegionConfig { gpa: Gpa(0), size: 2 * MIB, kind: RegionKind::Ram },
    ])
    .unwrap()
}

/// Whether pages can be poisoned here; says why not.
fn can_poison(ram: &GuestRam) -> bool {
    ram.poison_support().inspect_err(|why| eprintln!("skipped: {why}")).is_ok()
}

#[test]
fn bytes_come_back_and_addresses_translate() {
    let ram = ram();
    assert_eq!(ram.regions()[0].gpa(), Gpa(0), "sorted by address");
    for gpa in [Gpa(0), Gpa(0xffd), Gpa(2 * MIB - 300_000), Gpa(0x1_0000_0001)] {
        let data: Vec<u8> = (0..=250).cycle().take(300_000).collect();
        let mut back = vec![0; data.len()];
        ram.write(gpa, &data).unwrap();
        ram.read(gpa, &mut back).unwrap();
        assert_eq!(back, data);
        assert_eq!(ram.gpa_of_hva(ram.hva_of(gpa, 1).unwrap()), Some(gpa));
    }
    let end = ram.regions()[0].hva() + bytes(2 * MIB);
    assert_ne!(ram.gpa_of_hva(end), Some(Gpa(2 * MIB)), "one past the end is outside");
}

#[test]
fn ranges_outside_are_refused_and_change_nothing() {
    let ram = ram();
    let outside = Err(RamError::OutOfRange);
    assert_eq!(ram.write(Gpa(2 * MIB - 4), &[1; 5]), outside);
    assert_eq!(ram.read(Gpa(2 * MIB - 4), &mut [9; 4]), Ok(()));
    assert_eq!(ram.read(Gpa(2 * MIB), &mut [0]), outside);
    assert_eq!(ram.read(Gpa(u64::MAX), &mut [0; 2]), outside);
    assert_eq!(ram.read(Gpa(0), &mut []), Ok(()));
    assert!(ram.discard(Gpa(1), PAGE_SIZE).is_err());
    assert!(ram.discard(Gpa(0), 0).is_err());
    assert!(ram.discard(Gpa(2 * MIB), PAGE_SIZE).is_err());
    assert!(!ram.probe(Gpa(3 * MIB)));
    assert_eq!(ram.pfn_of(Gpa(3 * MIB)), None);
}

#[test]
fn misshapen_regions_are_refused() {
    let region = |gpa, size| RegionConfig { gpa: Gpa(gpa), size, kind: RegionKind::Ram };
    for wrong in [region(1, 4096), region(0, 4095), region(0, 0), region(1 << 63, 1 << 63)] {
        assert!(matches!(GuestRam::new(&[wrong]), Err(MappingError::Shape { .. })), "{wrong:?}");
    }
    let overlap = GuestRam::new(&[region(0x1000, 0x2000), region(0, 0x2000)]);
    assert!(matches!(overlap, Err(MappingError::Overlap(Gpa(0), Gpa(0x1000)))));
}

#[test]
fn a_poisoned_page_is_named_and_its_neighbours_live() {
    let ram = ram();
    if !can_poison(&ram) {
        return;
    }
    let bad = Gpa(0x1_0000_0000 + 70 * PAGE_SIZE);
    let base = Gpa(0x1_0000_0000);
    let pages = vec![7; bytes(100 * PAGE_SIZE)];
    ram.write(base, &pages).unwrap();
    let before = ram.pfn_of(bad);
    assert_eq!(ram.poison(Gpa(bad.0 + 5)).unwrap(), before);
    assert_eq!(ram.pfn_of(bad), None, "nobody reaches the frame any more");

    let mut back = vec![0; pages.len()];
    assert_eq!(ram.read(base, &mut back), Err(RamError::Poisoned(bad)));
    assert!(back[..bytes(70 * PAGE_SIZE)].iter().all(|byte| *byte == 7));
    assert_eq!(ram.write(Gpa(bad.0 + 4095), &[1; 2]), Err(RamError::Poisoned(bad)));
    assert_eq!(ram.write(Gpa(bad.0 - 2), &[1; 4]), Err(RamError::Poisoned(bad)));
    assert!(ram.probe(Gpa(bad.0 + 9)));
    assert!(!ram.probe(Gpa(bad.0 - 1)));
    assert!(!ram.probe(Gpa(bad.0 + 4096)));
    assert_eq!(ram.poison(bad).unwrap(), None, "twice is fine");
    assert!(ram.probe(bad));
}

#[test]
fn poisoning_does_not_split_the_mapping() {
    let ram = ram();
    if !can_poison(&ram) {
        return;
    }
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let range = ram.regions()[1].hva()..ram.regions()[1].hva() + bytes(4 * MIB);
        let start = |line: &str| usize::from_str_radix(line.split('-').next()?, 16).ok();
        maps.lines().filter(|line| start(line).is_some_and(|at| range.contains(&at))).count()
    };
    for page in (0..100).step_by(2) {
        ram.poison(Gpa(0x1_0000_0000 + page * PAGE_SIZE)).unwrap();
    }
    assert_eq!(mappings(), 1, "a guest with many bad pages must not run out of mappings");
}

#[test]
fn discarding_zeroes_frees_and_repairs() {
    let ram = ram();
    let block = Gpa(0x1_0000_0000 + 2 * MIB);
    ram.write(block, &vec![0xaa; bytes(2 * MIB)]).unwrap();
    assert_eq!(ram.allocated(Gpa(0x1_0000_0000), 4 * MIB), [(block, 2 * MIB)]);
    let poisoned = can_poison(&ram) && ram.poison(block).map(|_| true).unwrap();
    assert_eq!(ram.allocated(block, 2 * MIB), [(block, 2 * MIB)], "poison keeps its frame");
    ram.discard(block, 2 * MIB).unwrap();
    assert_eq!(ram.allocated(Gpa(0x1_0000_0000), 4 * MIB), []);
    let mut back = vec![1; bytes(2 * MIB)];
    assert_eq!(ram.read(block, &mut back), Ok(()), "was poisoned: {poisoned}");
    assert!(back.iter().all(|byte| *byte == 0));
}

#[test]
fn a_page_under_fire_can_be_poisoned() {
    let ram = ram();
    if !can_poison(&ram) {
        return;
    }
    let bad = Gpa(0x5000);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| while ram.write(bad, &[1; 64]).is_ok() {});
        std::thread::sleep(std::time::Duration::from_millis(10));
        ram.poison(bad).unwrap();
        writer.join().unwrap();
    });
    assert!(ram.probe(bad));
}

#[test]
fn own_writes_are_logged_while_logging_is_on() {
    let ram = ram();
    let dirty = || {
        let mut pages = Vec::new();
        for (gpa, bitmap) in ram.take_dirty() {
            for (index, word) in bitmap.iter().enumerate() {
                for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                    pages.push(gpa.0 + (index as u64 * 64 + bit) * PAGE_SIZE);
                }
            }
        }
        pages
    };
    ram.write(Gpa(0x3000), &[1]).unwrap();
    ram.dirty_log_start();
    assert_eq!(dirty(), [] as [u64; 0]);
    ram.write(Gpa(0x1fff), &[1; 2]).unwrap();
    ram.write(Gpa(0x1_0000_0000 + 64 * PAGE_SIZE), &[1]).unwrap();
    ram.write(Gpa(2 * MIB - 1), &[1; 2]).unwrap_err();
    ram.discard(Gpa(0x8000), PAGE_SIZE).unwrap();
    let expected = [0x1000, 0x2000, 0x8000, 0x1_0000_0000 + 64 * PAGE_SIZE];
    assert_eq!(dirty(), expected);
    assert_eq!(dirty(), [] as [u64; 0], "taking clears");
    ram.dirty_log_stop();
    ram.write(Gpa(0x3000), &[1]).unwrap();
    assert_eq!(dirty(), [] as [u64; 0]);
}

#[test]
fn a_replaced_page_keeps_its_contents_and_its_old_frame_is_kept() {
    let ram = ram();
    let (page, next) = (Gpa(BASE.0 + 3 * PAGE_SIZE), Gpa(BASE.0 + 4 * PAGE_SIZE));
    ram.write(page, &[7; 2 * 4096]).unwrap();
    ram.dirty_log_start();
    let mut frames = vec![ram.pfn_of(page)];
    for _again in 0..3 {
        let Replaced { before, after } = ram.replace(Gpa(page.0 + 5)).unwrap();
        assert_eq!((before, after), (*frames.last().unwrap(), ram.pfn_of(page)));
        assert!(after.is_none() || !frames.contains(&after), "{frames:?} then {after:?}");
        frames.push(after);
    }
    let mut back = [0; 2 * 4096];
    ram.read(page, &mut back).unwrap();
    assert_eq!(back, [7; 2 * 4096], "and its neighbour's");
    assert!(ram.take_dirty().iter().any(|(_, words)| words[0] == 1 << 3), "it is sent again");
    ram.write(page, &[8]).unwrap();
    ram.read(page, &mut back).unwrap();
    assert_eq!(back[..2], [8, 7]);

    // What is given back reads as zeroes; the frame that failed is not given back.
    ram.discard(BASE, 8 * PAGE_SIZE).unwrap();
    ram.read(page, &mut back).unwrap();
    assert_eq!(back, [0; 2 * 4096]);
    let kept: Vec<_> = ram.allocated(BASE, 8 * PAGE_SIZE);
    assert!(kept.contains(&(page, PAGE_SIZE)) || kept.contains(&(page, 2 * PAGE_SIZE)), "{kept:?}");
    ram.write(next, &[9]).unwrap();
    ram.read(next, &mut back[..1]).unwrap();
    assert_eq!(back[0], 9);
}

#[test]
fn a_page_that_cant_be_read_or_is_not_there_is_not_replaced() {
    let ram = ram();
    assert!(matches!(ram.replace(Gpa(1 << 40)), Err(ReplaceError::Mapping(_))));
    if let Err(why) = ram.poison_support() {
        eprintln!("skipped: {why}");
        return;
    }
    ram.write(BASE, &[1]).unwrap();
    ram.poison(BASE).unwrap();
    assert!(matches!(ram.replace(BASE), Err(ReplaceError::Ram(RamError::Poisoned(_)))));
    assert!(ram.probe(BASE), "it is as bad as before");

    // A replaced page can be lost like any other, and comes back.
    let page = Gpa(BASE.0 + PAGE_SIZE);
    ram.write(page, &[2]).unwrap();
    ram.replace(page).unwrap();
    ram.poison(page).unwrap();
    assert!(ram.probe(page));
    ram.discard(page, PAGE_SIZE).unwrap();
    let mut byte = [1];
    ram.read(page, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}
