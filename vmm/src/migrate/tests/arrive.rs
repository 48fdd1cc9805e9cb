//! Guests that arrive whole.

use std::sync::atomic::AtomicU64;

use super::*;

/// Every byte the guest may use is the same at both ends.
fn assert_same_memory(source: &FakeVm, destination: &FakeVm) {
    let poisoned = source.poisoned.lock().unwrap();
    for (gpa, len) in source.populated.lock().unwrap().iter() {
        for page in (gpa.0..gpa.0 + len).step_by(bytes(PAGE_SIZE)).map(Gpa) {
            if poisoned.contains(&page) {
                continue;
            }
            let (mut ours, mut theirs) = ([1; 4096], [2; 4096]);
            source.ram.read(page, &mut ours).unwrap();
            destination.ram.read(page, &mut theirs).unwrap();
            assert!(ours == theirs, "page {page} differs");
        }
    }
}

fn assert_moved(source: &FakeVm, destination: &FakeVm, outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    assert!(!source.is_running(), "the source's guest must not run");
    assert!(destination.is_running());
    assert_eq!(destination.starts.load(Ordering::SeqCst), 1);
    assert_eq!(*source.state.lock().unwrap(), *destination.state.lock().unwrap());
}

#[test]
fn a_guest_that_writes_all_the_while_loses_no_write() {
    let (_directory, path) = directory();
    for uri in [Uri::Unix(path), Uri::Tcp("127.0.0.1:0".to_owned())] {
        let written_by_guest = Arc::new(AtomicU64::new(0));
        let written = Arc::clone(&written_by_guest);
        // However busy the machine is, the guest writes between any two rounds.
        let source = FakeVm::medium().started(700).with_rounds(move |vm, round| {
            while vm.is_running() && written.load(Ordering::SeqCst) < 50 * u64::from(round) {
                std::thread::yield_now();
            }
        });
        let destination = FakeVm::medium();
        let incoming = Incoming::listen("vm1", &uri, impatient().peer_timeout).unwrap();
        let to = match (uri, incoming.port()) {
            (Uri::Tcp(_), Some(port)) => Uri::Tcp(format!("127.0.0.1:{port}")),
            (uri, _) => uri,
        };
        // Slow enough that the guest writes during several rounds.
        let parameters = Parameters { bandwidth_max: Some(20 << 20), ..impatient() };
        let migration = Migration::new("vm1", to, parameters);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut count = 0_u64;
                let shared = &written_by_guest;
                // Scattered over RAM and virtio-mem; the VMM writes too.
                while source.guest_writes(
                    Gpa(count * 7 % 1024 * PAGE_SIZE + count % 2 * VIRTIO_MEM.0),
                    &pattern(count),
                ) {
                    let device = Gpa((count * 13 + 5) % 1024 * PAGE_SIZE + 64);
                    let running = source.running.lock().unwrap();
                    if *running {
                        source.ram.write(device, &count.to_le_bytes()).unwrap();
                    }
                    drop(running);
                    count += 1;
                    shared.store(count, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            let (outcome, received) = migrate(&source, &destination, &migration, incoming);
            assert_moved(&source, &destination, &outcome);
            received.unwrap();
        });
        let writes = written_by_guest.load(Ordering::SeqCst);
        assert!(writes > 50, "the guest wrote {writes} times only: nothing was tested");
        assert_same_memory(&source, &destination);
        let stats = migration.stats();
        assert_eq!(stats.status, Status::Completed);
        assert!(stats.ram.dirty_sync_count >= 2, "{stats:?}");
        assert!(stats.downtime.is_some() && stats.ram.normal >= 700, "{stats:?}");
        assert_eq!(stats.ram.remaining, 0);
    }
}

#[test]
fn an_idle_guest_takes_two_rounds_and_zero_pages_no_bytes() {
    let source = FakeVm::medium().started(3);
    source.ram.write(Gpa(5 * PAGE_SIZE), &[0; 4096]).unwrap();
    let (outcome, received, stats) = migrate_unix(&source, &FakeVm::medium(), impatient());
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    assert_eq!(received.unwrap().pages, 3);
    assert_eq!((stats.ram.normal, stats.ram.duplicate), (3, 2048 - 3));
    assert_eq!(stats.ram.dirty_sync_count, 2);
    assert_eq!(stats.ram.total, 8 * MIB);
    let transferred = stats.ram.transferred;
    assert!((3 * 4096..3 * 4096 + 1024).contains(&transferred), "{transferred} bytes");
}

#[test]
fn nothing_is_allocated_at_either_end_for_memory_nobody_used() {
    let (source, destination) = (FakeVm::medium().started(1), FakeVm::medium());
    let (outcome, ..) = migrate_unix(&source, &destination, impatient());
    assert_moved(&source, &destination, &outcome);
    for vm in [&source, &destination] {
        assert_eq!(vm.ram.allocated(Gpa(0), 4 * MIB), [(Gpa(0), PAGE_SIZE)]);
        assert_eq!(vm.ram.allocated(VIRTIO_MEM, 4 * MIB), []);
    }
}

#[test]
fn a_page_that_becomes_zero_is_zero_there_and_frees_its_frame() {
    let source = FakeVm::medium().started(8).with_rounds(|vm, round| {
        if round == 1 {
            assert!(vm.guest_writes(Gpa(2 * PAGE_SIZE), &[0; 4096]));
            vm.ram.discard(Gpa(3 * PAGE_SIZE), PAGE_SIZE).unwrap();
        }
    });
    let destination = FakeVm::medium();
    let (outcome, ..) = migrate_unix(&source, &destination, impatient());
    assert_moved(&source, &destination, &outcome);
    assert_same_memory(&source, &destination);
}

#[test]
fn a_block_unplugged_on_the_way_is_empty_there() {
    let source = FakeVm::medium().started(8).with_rounds(|vm, round| {
        if round == 1 {
            vm.ram.discard(VIRTIO_MEM, 2 * MIB).unwrap();
            vm.populated.lock().unwrap()[1] = (Gpa(VIRTIO_MEM.0 + 2 * MIB), 2 * MIB);
        }
    });
    source.ram.write(VIRTIO_MEM, &vec![3; bytes(4 * MIB)]).unwrap();
    let destination = FakeVm::medium();
    let (outcome, ..) = migrate_unix(&source, &destination, impatient());
    assert_moved(&source, &destination, &outcome);
    assert_same_memory(&source, &destination);
    let left = [(Gpa(VIRTIO_MEM.0 + 2 * MIB), 2 * MIB)];
    assert_eq!(destination.ram.allocated(VIRTIO_MEM, 4 * MIB), left);
    assert_eq!(source.ram.allocated(VIRTIO_MEM, 4 * MIB), left, "reading must not bring it back");
}

#[test]
fn memory_of_an_earlier_life_does_not_shine_through() {
    let source = FakeVm::medium().started(2);
    let destination = FakeVm::medium();
    destination.ram.write(Gpa(100 * PAGE_SIZE), &[7; 4096]).unwrap();
    let (outcome, ..) = migrate_unix(&source, &destination, impatient());
    assert_moved(&source, &destination, &outcome);
    assert_same_memory(&source, &destination);
}

#[test]
fn a_large_state_arrives_in_pieces() {
    let source = FakeVm::tiny().started(1);
    *source.state.lock().unwrap() = (0..=255).cycle().take(1_000_001).collect();
    let destination = FakeVm::tiny();
    let (outcome, received, _) = migrate_unix(&source, &destination, impatient());
    assert_moved(&source, &destination, &outcome);
    assert_eq!(received.unwrap().state_length, 1_000_001);
}

#[test]
fn a_guest_that_never_rests_is_stopped_or_left_as_told() {
    let restless = || {
        FakeVm::medium().started(1024).with_rounds(|vm, _| {
            for page in 0..1024 {
                vm.guest_writes(Gpa(page * PAGE_SIZE), &pattern(page + 1));
            }
        })
    };
    let parameters =
        Parameters { rounds_max: 4, downtime_limit: Duration::from_nanos(1), ..impatient() };
    let (source, destination) = (restless(), FakeVm::medium());
    let (outcome, _, stats) = migrate_unix(&source, &destination, parameters);
    assert_moved(&source, &destination, &outcome);
    assert_same_memory(&source, &destination);
    assert_eq!(stats.ram.dirty_sync_count, 5, "four live rounds and the last one");

    let (source, destination) = (restless(), FakeVm::medium());
    let stay = Parameters { when_stuck: WhenStuck::Fail, ..parameters };
    let (outcome, received, stats) = migrate_unix(&source, &destination, stay);
    assert!(
        matches!(outcome, Outcome::Stayed(MigrateError::NoConvergence { rounds: 4, .. })),
        "{outcome:?}"
    );
    assert!(source.is_running() && !destination.is_running());
    assert!(matches!(received, Err(MigrateError::PeerFailed(_))), "{received:?}");
    assert_eq!(stats.status, Status::Failed);
}
