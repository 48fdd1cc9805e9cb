//! Senders that are no source at all, or a hostile one: an error, bounded memory, and no guest runs.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::migrate::format::{Header, Hello, Kind, Preface, Run, encode_runs};

/// What the destination says to these bytes, followed by the end of the stream.
fn receive(stream: &[u8]) -> Result<Received, MigrateError> {
    use std::os::fd::IntoRawFd;
    let (mut near, far) = UnixStream::pair().unwrap();
    let uri = Uri::Fd(far.into_raw_fd());
    let incoming = Incoming::listen("vm1", &uri, Duration::from_secs(2)).unwrap();
    let destination = FakeVm::tiny();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = near.write_all(stream);
            let _ = near.shutdown(std::net::Shutdown::Write);
            let _ = near.read_to_end(&mut Vec::new());
        });
        incoming.receive(&destination)
    });
    assert_eq!(result.is_ok(), destination.is_running());
    result
}

fn message(kind: Kind, body: &[u8]) -> Vec<u8> {
    [Header::new(kind, body).unwrap().as_bytes(), body].concat()
}

fn introduced() -> Vec<u8> {
    let hello = Hello::of("vm1", &FakeVm::tiny().ram).encode().unwrap();
    [Preface::ours().as_bytes(), &message(Kind::Hello, &hello)].concat()
}

#[test]
fn strangers_are_called_strangers() {
    for stranger in ["GET / HTTP/1.1\r\n\r\n", "x", "{\"execute\":\"qmp_capabilities\"}\n"] {
        let error = receive(stranger.as_bytes()).unwrap_err();
        assert!(matches!(error, MigrateError::Format(FormatError::Magic)), "{error:?}");
    }
    assert!(matches!(receive(b""), Err(MigrateError::Closed(_))));
    assert!(matches!(receive(b"RASVMMI"), Err(MigrateError::Closed(_))));
}

#[test]
fn each_overreach_of_a_hostile_source_is_refused() {
    let run = |gpa, pages| encode_runs(&[Run { gpa: Gpa(gpa), pages }]);
    let end = |state: &[u8]| message(Kind::End, format::End::of(state).as_bytes());
    let attacks: &[(&str, Vec<u8>)] = &[
        ("pages beyond memory", message(Kind::Pages, &run(15 * PAGE_SIZE, 2))),
        ("pages outside memory", message(Kind::Pages, &run(1 << 40, 1))),
        ("a batch too large", message(Kind::Pages, &run(0, 257))),
        ("zeroes beyond memory", message(Kind::Zero, &run(0, 17))),
        ("zeroes everywhere", message(Kind::Zero, &[0xff; 8])),
        ("poison beyond memory", message(Kind::Poison, &run(0, 65_536))),
        ("half a run", message(Kind::Zero, &[0; 7])),
        ("the wrong state", [message(Kind::State, b"abc"), end(b"abd")].concat()),
        ("state without end", message(Kind::State, b"abc")),
        ("go without state", message(Kind::Go, &[])),
        ("running", message(Kind::Running, &[])),
        ("a second hello", introduced().split_off(16)),
        ("two ends", [end(b""), end(b"")].concat()),
        ("failed", message(Kind::Failed, b"\xff")),
    ];
    for (what, attack) in attacks {
        assert!(receive(&[introduced(), attack.clone()].concat()).is_err(), "{what}");
    }
    let honest = [introduced(), end(b""), message(Kind::Go, &[])].concat();
    assert!(receive(&honest).is_ok(), "the attacks failed for the right reason");
}

#[test]
fn endless_state_is_cut_off() {
    let piece = message(Kind::State, &vec![0; format::BODY_MAX]);
    let pieces = bytes(format::STATE_MAX) / format::BODY_MAX + 1;
    let error = receive(&[introduced(), piece.repeat(pieces)].concat()).unwrap_err();
    assert!(
        matches!(error, MigrateError::Format(FormatError::TooLarge { what: "state", .. })),
        "{error:?}"
    );
}

/// Found by the fuzzer: a list that repeats itself kept the destination busy for tens of seconds.
#[test]
fn the_same_page_is_not_lost_over_and_over() {
    let runs = vec![Run { gpa: Gpa(0), pages: 16 }; (1 << 16) / 16 + 1];
    let lost = message(Kind::Poison, &encode_runs(&runs));
    let error = receive(&[introduced(), lost].concat()).unwrap_err();
    assert!(
        matches!(
            error,
            MigrateError::Format(FormatError::TooLarge { what: "number of poisoned pages", .. })
        ),
        "{error:?}"
    );
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let kind = proptest::sample::select(vec![
        Kind::Pages,
        Kind::Zero,
        Kind::Poison,
        Kind::Sync,
        Kind::State,
        Kind::End,
        Kind::Hello,
        Kind::Loaded,
    ]);
    let runs = proptest::collection::vec((0_u64..20, 1_u32..5), 0..6).prop_map(|runs| {
        let run = |(page, pages)| Run { gpa: Gpa(page * PAGE_SIZE), pages };
        encode_runs(&runs.into_iter().map(run).collect::<Vec<_>>())
    });
    let body = prop_oneof![runs, proptest::collection::vec(any::<u8>(), 0..40)];
    (kind, body).prop_map(|(kind, body)| message(kind, &body))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_end_in_an_error(stream in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(receive(&stream).is_err());
        prop_assert!(receive(&[introduced(), stream].concat()).is_err());
    }

    #[test]
    fn any_messages_end_in_an_error(messages in proptest::collection::vec(any_message(), 0..12)) {
        // Without Go nothing may run, however well-formed the rest is.
        prop_assert!(receive(&[introduced(), messages.concat()].concat()).is_err());
    }
}
