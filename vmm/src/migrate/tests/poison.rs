//! Pages whose contents are lost: they travel as marks.

use std::os::fd::OwnedFd;

use super::*;
use crate::memory::mapping::RamError;
use crate::migrate::format::Run;
use crate::migrate::precopy::Precopy;
use crate::migrate::source::Progress;
use crate::migrate::transport::Channel;

fn can_poison(vm: &FakeVm) -> bool {
    vm.ram.poison_support().inspect_err(|why| eprintln!("skipped: {why}")).is_ok()
}

fn assert_poisoned(vm: &FakeVm, expected: &[u64]) {
    let pages = (0..1024).filter(|page| {
        let read = vm.ram.read(Gpa(page * PAGE_SIZE), &mut [0; 4096]);
        read == Err(RamError::Poisoned(Gpa(page * PAGE_SIZE)))
    });
    assert_eq!(pages.collect::<Vec<_>>(), expected);
}

#[test]
fn known_poison_is_marked_there_and_its_neighbours_are_whole() {
    let source = FakeVm::medium().started(20);
    if !can_poison(&source) {
        return;
    }
    for page in [0, 7, 8, 900] {
        source.ram.poison(Gpa(page * PAGE_SIZE)).unwrap();
        source.poisoned.lock().unwrap().insert(Gpa(page * PAGE_SIZE));
    }
    let destination = FakeVm::medium();
    let (outcome, received, stats) = migrate_unix(&source, &destination, impatient());
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    let expected = [0, 7, 8, 900];
    assert_poisoned(&destination, &expected);
    let expected: Vec<Gpa> = expected.iter().map(|page| Gpa(page * PAGE_SIZE)).collect();
    assert_eq!(received.unwrap().poisoned, expected);
    assert_eq!(*destination.poisoned.lock().unwrap(), expected.into_iter().collect());
    assert_eq!(stats.x_ras_poisoned_pages, 4);
    assert!(source.found.lock().unwrap().is_empty());
    let mut back = [0; 4096];
    for page in [1, 6, 9, 19] {
        destination.ram.read(Gpa(page * PAGE_SIZE), &mut back).unwrap();
        assert_eq!(back[..], pattern(page));
    }
}

#[test]
fn poison_that_appears_on_the_way_is_found_marked_and_reported() {
    let source = FakeVm::medium().started(20).with_rounds(|vm, round| {
        let page = |page: u64| Gpa(page * PAGE_SIZE);
        match round {
            // The guest wrote it, then its frame died; nobody told the VM yet.
            1 => {
                assert!(vm.guest_writes(page(4), &[9; 4096]));
                vm.ram.poison(page(4)).unwrap();
            }
            // In the last round: one the guest did not touch, which the VM knows of.
            2 => {
                vm.ram.poison(page(5)).unwrap();
                vm.poisoned.lock().unwrap().insert(page(5));
            }
            _ => {}
        }
    });
    if !can_poison(&source) {
        return;
    }
    let destination = FakeVm::medium();
    let (outcome, _, stats) = migrate_unix(&source, &destination, impatient());
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    assert_poisoned(&destination, &[4, 5]);
    assert_eq!(*source.found.lock().unwrap(), BTreeSet::from([Gpa(4 * PAGE_SIZE)]));
    assert_eq!(stats.x_ras_poisoned_pages, 2);
}

#[test]
fn a_page_repaired_on_the_way_arrives_healthy() {
    let source = FakeVm::medium().started(20).with_rounds(|vm, round| {
        if round == 1 {
            for page in [3, 4] {
                // The VM knew of page 3 only.
                vm.poisoned.lock().unwrap().remove(&Gpa(page * PAGE_SIZE));
                vm.ram.discard(Gpa(page * PAGE_SIZE), PAGE_SIZE).unwrap();
            }
            assert!(vm.guest_writes(Gpa(4 * PAGE_SIZE), &[8; 4096]));
            // A suspicion that turned out wrong: nobody wrote the page, it is just readable.
            vm.poisoned.lock().unwrap().remove(&Gpa(6 * PAGE_SIZE));
        }
    });
    if !can_poison(&source) {
        return;
    }
    source.ram.poison(Gpa(3 * PAGE_SIZE)).unwrap();
    source.ram.poison(Gpa(4 * PAGE_SIZE)).unwrap();
    source.poisoned.lock().unwrap().extend([Gpa(3 * PAGE_SIZE), Gpa(6 * PAGE_SIZE)]);
    let destination = FakeVm::medium();
    let (outcome, _, stats) = migrate_unix(&source, &destination, impatient());
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    assert_poisoned(&destination, &[]);
    let mut back = [1; 8192];
    destination.ram.read(Gpa(3 * PAGE_SIZE), &mut back).unwrap();
    assert_eq!((&back[..4096], &back[4096..]), (&[0; 4096][..], &[8; 4096][..]));
    destination.ram.read(Gpa(6 * PAGE_SIZE), &mut back[..4096]).unwrap();
    assert_eq!(back[..4096], pattern(6));
    assert_eq!(stats.x_ras_poisoned_pages, 0);
}

#[test]
fn poison_the_guest_gave_up_stays_behind() {
    let source = FakeVm::medium().started(1);
    if !can_poison(&source) {
        return;
    }
    source.ram.poison(VIRTIO_MEM).unwrap();
    source.poisoned.lock().unwrap().insert(VIRTIO_MEM);
    source.populated.lock().unwrap()[1] = (Gpa(VIRTIO_MEM.0 + 2 * MIB), 2 * MIB);
    let destination = FakeVm::medium();
    let (outcome, received, _) = migrate_unix(&source, &destination, impatient());
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    assert_eq!(received.unwrap().poisoned, []);
    assert!(!destination.ram.probe(VIRTIO_MEM));
}

/// The frame dies between the look at the page and the kernel's copy of it. The stream must keep
/// its form, and the pages around must be whole.
#[test]
fn pages_that_die_in_the_middle_of_a_batch_are_filled_up() {
    use std::net::{TcpListener, TcpStream};
    let vm = FakeVm::medium().started(256);
    if !can_poison(&vm) {
        return;
    }
    let dead = [0, 17, 18, 100, 255];
    for page in dead {
        vm.ram.poison(Gpa(page * PAGE_SIZE)).unwrap();
    }
    let tcp = || -> (OwnedFd, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near.into(), listener.accept().unwrap().0.into())
    };
    let unix = || -> (OwnedFd, OwnedFd) {
        let (near, far) = UnixStream::pair().unwrap();
        (near.into(), far.into())
    };
    for (near, far) in [unix(), tcp()] {
        let near = Channel::new(near, Duration::from_secs(5)).unwrap();
        let far = Channel::new(far, Duration::from_secs(5)).unwrap();
        let progress = Progress::new();
        let precopy = Precopy::new(&vm, &near, &progress, impatient());
        let runs = [
            Run { gpa: Gpa(0), pages: 50 },
            Run { gpa: Gpa(60 * PAGE_SIZE), pages: 3 },
            Run { gpa: Gpa(90 * PAGE_SIZE), pages: 166 },
        ];
        let pages: Vec<u64> =
            runs.iter().flat_map(|run| run.iter()).map(|gpa| gpa.0 >> 12).collect();
        let mut arrived = vec![1; pages.len() * 4096];
        let bad = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| far.receive_bytes(&mut arrived, "testing").unwrap());
            let bad = precopy.send_payload(&runs).unwrap();
            receiver.join().unwrap();
            bad
        });
        assert_eq!(bad.iter().map(|gpa| gpa.0 >> 12).collect::<Vec<_>>(), dead);
        for (page, contents) in pages.iter().zip(arrived.chunks(4096)) {
            if !dead.contains(page) {
                assert!(contents == pattern(*page), "page {page}");
            }
        }
        assert!(!far.has_word(Duration::from_millis(10)), "nothing is left in the stream");
        assert_eq!(near.sent(), arrived.len() as u64);
    }
}
