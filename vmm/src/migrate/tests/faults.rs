//! Connections that break, peers that fail, operators who change their minds. Whatever happens, never
//! do both guests run, and the source's stands still only if it may run elsewhere.

use std::time::Instant;

use super::*;

/// Checks the promise of the module after a migration that was interfered with.
fn check(
    what: &str,
    source: &FakeVm,
    destination: &FakeVm,
    outcome: &Outcome,
    received: &Result<Received, MigrateError>,
) {
    let runs = (source.is_running(), destination.is_running());
    assert_ne!(runs, (true, true), "{what}: split brain, {outcome:?}, {received:?}");
    match outcome {
        Outcome::Completed => assert_eq!(runs, (false, true), "{what}"),
        Outcome::Stayed(_) => assert_eq!(runs, (true, false), "{what}: {outcome:?}"),
        Outcome::Unconfirmed(_) => assert!(!runs.0, "{what}: {outcome:?}"),
    }
    assert_eq!(received.is_ok(), runs.1, "{what}: {received:?}");
    assert!(destination.starts.load(Ordering::SeqCst) <= 1, "{what}");
}

fn small() -> FakeVm {
    let vm = FakeVm::tiny().started(3).with_rounds(|vm, round| {
        if round == 1 {
            assert!(vm.guest_writes(Gpa(9 * PAGE_SIZE), &[1; 4096]));
        }
    });
    if vm.ram.poison_support().is_ok() {
        vm.ram.poison(Gpa(7 * PAGE_SIZE)).unwrap();
        vm.poisoned.lock().unwrap().insert(Gpa(7 * PAGE_SIZE));
    }
    vm.ram.write(Gpa(5 * PAGE_SIZE), &[0]).unwrap();
    vm
}

#[test]
fn a_stream_cut_anywhere_leaves_one_guest() {
    let (there, back) = recorded(&small(), &FakeVm::tiny());
    let (starts, _) = landmarks(&there);
    let mut cuts: BTreeSet<usize> = (0..there.len()).step_by(397).collect();
    for start in &starts {
        cuts.extend([start.saturating_sub(1), *start, start + 1, start + 15]);
    }
    let go = there.len();
    for at in cuts.into_iter().filter(|at| *at < go) {
        let (source, destination) = (small(), FakeVm::tiny());
        let (outcome, received) =
            migrate_through(&source, &destination, cut(at as u64), untouched());
        let what = format!("cut the stream at {at} of {go}");
        check(&what, &source, &destination, &outcome, &received);
        assert!(!destination.is_running(), "{what}: it never heard Go");
        // The middleman has taken over the bytes of Go from the source: then it can't know.
        let surely_stays = at < go - 16;
        assert!(!surely_stays || source.is_running(), "{what}: {outcome:?}");
    }
    for at in 0..back.len() {
        let (source, destination) = (small(), FakeVm::tiny());
        let (outcome, received) =
            migrate_through(&source, &destination, untouched(), cut(at as u64));
        let what = format!("cut the answers at {at} of {}", back.len());
        check(&what, &source, &destination, &outcome, &received);
        if at >= back.len() - 16 {
            assert!(matches!(outcome, Outcome::Unconfirmed(_)), "{what}: {outcome:?}");
            assert!(destination.is_running(), "{what}");
        } else {
            assert!(source.is_running(), "{what}: {outcome:?}");
        }
    }
}

#[test]
fn a_flipped_bit_in_anything_but_contents_stops_the_migration() {
    let (there, back) = recorded(&small(), &FakeVm::tiny());
    let (_, payloads) = landmarks(&there);
    let control =
        (0..there.len()).filter(|at| !payloads.iter().any(|payload| payload.contains(at)));
    for at in control.step_by(3) {
        let (source, destination) = (small(), FakeVm::tiny());
        let bit = u8::try_from(at % 8).unwrap();
        let (outcome, received) =
            migrate_through(&source, &destination, flip(at as u64, bit), untouched());
        let what = format!("flip bit {bit} of byte {at} to the destination");
        check(&what, &source, &destination, &outcome, &received);
        assert!(!destination.is_running(), "{what}: {outcome:?}");
    }
    for at in 0..back.len() {
        let (source, destination) = (small(), FakeVm::tiny());
        let bit = u8::try_from(at % 8).unwrap();
        let (outcome, received) =
            migrate_through(&source, &destination, untouched(), flip(at as u64, bit));
        let what = format!("flip bit {bit} of byte {at} to the source");
        check(&what, &source, &destination, &outcome, &received);
        assert!(!matches!(outcome, Outcome::Completed), "{what}");
    }
}

#[test]
fn a_vm_that_fails_at_the_source_goes_on_there() {
    for fault in [Fault::LogStart, Fault::TakeDirty, Fault::Pause, Fault::Save] {
        let (source, destination) = (FakeVm::tiny().started(3).with_fault(fault), FakeVm::tiny());
        let (outcome, received, stats) = migrate_unix(&source, &destination, impatient());
        check(&format!("{fault:?}"), &source, &destination, &outcome, &received);
        let text = format!("{fault:?} broke");
        assert!(source.is_running());
        assert!(stats.error_desc.unwrap().contains(&text));
        let heard = chain(&received.unwrap_err());
        assert!(heard.contains(&text), "the destination was told: {heard}");
    }
}

#[test]
fn a_vm_that_fails_at_the_destination_goes_on_at_the_source() {
    for fault in [Fault::MarkPoisoned, Fault::Load, Fault::Resume] {
        let (source, destination) = (small(), FakeVm::tiny().with_fault(fault));
        if fault == Fault::MarkPoisoned && source.poisoned.lock().unwrap().is_empty() {
            continue;
        }
        let (outcome, received, stats) = migrate_unix(&source, &destination, impatient());
        check(&format!("{fault:?}"), &source, &destination, &outcome, &received);
        assert!(source.is_running(), "{fault:?}: {outcome:?}");
        assert!(stats.error_desc.unwrap().contains(&format!("{fault:?} broke")));
    }
}

#[test]
fn a_vm_of_another_name_or_shape_is_refused_in_words() {
    let (_directory, path) = directory();
    let uri = Uri::Unix(path);
    let (source, destination) = (FakeVm::tiny().started(1), FakeVm::medium());
    for (name, expected) in [("vm2", "it is called \"vm1\""), ("vm1", "its memory is 65536 bytes")]
    {
        let incoming = Incoming::listen(name, &uri, impatient().peer_timeout).unwrap();
        let migration = Migration::new("vm1", uri.clone(), impatient());
        let (outcome, received) = migrate(&source, &destination, &migration, incoming);
        check(name, &source, &destination, &outcome, &received);
        for text in [chain(&received.unwrap_err()), migration.stats().error_desc.unwrap()] {
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn cancelling_wakes_the_guest_even_in_the_middle_of_a_call() {
    let parameters = Parameters { bandwidth_max: Some(1 << 20), ..impatient() };
    let (_directory, path) = directory();
    let uri = Uri::Unix(path);
    let (source, destination) = (FakeVm::medium().started(1024), FakeVm::medium());
    let incoming = Incoming::listen("vm1", &uri, impatient().peer_timeout).unwrap();
    let migration = Migration::new("vm1", uri, parameters);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while migration.stats().ram.normal == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(migration.cancel());
        });
        let (outcome, received) = migrate(&source, &destination, &migration, incoming);
        check("cancel", &source, &destination, &outcome, &received);
        assert!(matches!(outcome, Outcome::Stayed(MigrateError::Cancelled)), "{outcome:?}");
    });
    assert_eq!(migration.stats().status, Status::Cancelled);
    assert!(!migration.cancel(), "it is over");
}

#[test]
fn a_silent_peer_is_given_up_within_bounds() {
    let parameters =
        Parameters { peer_timeout: Duration::from_millis(200), ..Parameters::default() };
    let started = Instant::now();
    let (_directory, path) = directory();

    // The destination accepts the connection and then sleeps.
    let listener = UnixListener::bind(&path).unwrap();
    let source = FakeVm::tiny().started(1);
    let outcome = Migration::new("vm1", Uri::Unix(path.clone()), parameters).run(&source);
    assert!(matches!(outcome, Outcome::Stayed(MigrateError::Timeout { .. })), "{outcome:?}");
    assert!(source.is_running());
    drop(listener);

    // The source connects, says half a word and sleeps. The stale socket is no obstacle.
    let destination = FakeVm::tiny();
    let incoming =
        Incoming::listen("vm1", &Uri::Unix(path.clone()), parameters.peer_timeout).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"RASV").unwrap();
    let received = incoming.receive(&destination);
    assert!(matches!(received, Err(MigrateError::Timeout { .. })), "{received:?}");
    assert!(!destination.is_running());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(!path.exists(), "the socket is removed once it has served");
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let (_directory, path) = directory();
    let source = FakeVm::tiny().started(1);
    for uri in [Uri::Unix(path), Uri::Tcp("127.0.0.1:1".to_owned()), Uri::Fd(9999)] {
        let outcome = Migration::new("vm1", uri.clone(), impatient()).run(&source);
        assert!(matches!(outcome, Outcome::Stayed(MigrateError::Io { .. })), "{uri}: {outcome:?}");
        assert!(source.is_running());
    }
}

#[test]
fn a_served_socket_is_not_taken_over() {
    let (_directory, path) = directory();
    let _other = UnixListener::bind(&path).unwrap();
    let incoming = Incoming::listen("vm1", &Uri::Unix(path.clone()), Duration::from_secs(1));
    assert!(matches!(incoming, Err(MigrateError::Io { .. })));
    assert!(path.exists());
}

#[test]
fn uris_parse_and_print() {
    for good in ["unix:/run/a", "tcp:host:1", "tcp:[::1]:65535", "fd:3"] {
        assert_eq!(good.parse::<Uri>().unwrap().to_string(), good);
    }
    for bad in
        ["", "unix:", "tcp:host", "tcp:host:x", "tcp:host:65536", "fd:", "fd:2", "fd:-1", "x:y"]
    {
        assert!(bad.parse::<Uri>().is_err(), "{bad}");
    }
}

#[test]
fn an_inherited_descriptor_serves_both_ends() {
    use std::os::fd::IntoRawFd;
    let (near, far) = UnixStream::pair().unwrap();
    let (_directory, path) = directory();
    let listener = UnixListener::bind(&path).unwrap();
    let ways = [
        (Uri::Fd(near.into_raw_fd()), Uri::Fd(far.into_raw_fd())),
        (Uri::Unix(path), Uri::Fd(listener.into_raw_fd())),
    ];
    for (there, here) in ways {
        let (source, destination) = (FakeVm::tiny().started(3), FakeVm::tiny());
        let incoming = Incoming::listen("vm1", &here, impatient().peer_timeout).unwrap();
        let migration = Migration::new("vm1", there.clone(), impatient());
        let (outcome, received) = migrate(&source, &destination, &migration, incoming);
        check("fd", &source, &destination, &outcome, &received);
        assert!(matches!(outcome, Outcome::Completed), "{there} to {here}: {outcome:?}");
    }
}

#[test]
fn a_descriptor_that_is_no_stream_socket_is_refused_and_left_alone() {
    use std::os::fd::AsRawFd;
    let file = tempfile::tempfile().unwrap();
    let uri = Uri::Fd(file.as_raw_fd());
    assert!(matches!(
        Incoming::listen("vm1", &uri, Duration::from_secs(1)),
        Err(MigrateError::Io { .. })
    ));
    file.metadata().unwrap();
}
