#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is the failed test")]

use proptest::prelude::*;

use super::*;

/// An event as the Event Viewer saves it.
fn event_xml(provider: &str, id: u32, data: &str) -> String {
    format!(
        "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
         <Provider Name='{provider}' Guid='{{c26c4f3c-3f66-4e99-8f8a-39405cfed220}}'/>\
         <EventID>{id}</EventID><Level>2</Level>\
         <TimeCreated SystemTime='2023-11-14T22:13:20.5000000Z'/>\
         <EventRecordID>77</EventRecordID><Computer>host</Computer></System>\
         <EventData>{data}</EventData></Event>"
    )
}

fn logger(id: u32, data: &str) -> String {
    event_xml(PROVIDERS[0], id, data)
}

const MACHINE_CHECK: &str = "<Data Name='ErrorSource'>3</Data><Data Name='ApicId'>6</Data>\
    <Data Name='MCABank'>9</Data><Data Name='MciStat'>0xbe00000000800090</Data>\
    <Data Name='MciAddr'>0x123456000</Data><Data Name='MciMisc'>0x8c</Data>\
    <Data Name='FRUId'>{00000000-0000-0000-0000-000000000000}</Data>";

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

fn found<'a>(record: &'a ErrorRecord, name: &str) -> Option<&'a Value> {
    record.details.iter().find(|detail| detail.name == name).map(|detail| &detail.value)
}

#[test]
fn an_event_without_a_record_has_its_fields() {
    let decoded = decode(logger(18, MACHINE_CHECK).as_bytes());
    assert_eq!(decoded.problems, []);
    let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
    assert_eq!(record.source, ErrorSource::Whea);
    assert_eq!(record.severity, Severity::Fatal);
    assert_eq!(record.time, Some(Timestamp(1_700_000_000_500_000_000)));
    assert_eq!(found(record, "mca_bank"), Some(&Value::Number(9)));
    assert_eq!(found(record, "mci_stat"), Some(&Value::Hex(0xbe00_0000_0080_0090)));
    assert_eq!(found(record, "fru_id"), Some(&Value::Guid(Guid([0; 16]))));
    let Raw::Mca(registers) = &record.witnesses[0].raw else { panic!("{record:?}") };
    assert_eq!((registers.bank, registers.apic_id), (9, 6));
}

#[test]
fn lists_in_either_encoding() {
    let pcie = "<Data Name='Bus'>59</Data><Data Name='Device'>0</Data>\
        <Data Name='Function'>1</Data><Data Name='Segment'>0</Data>";
    let memory = "<Data Name='PhysicalAddress'>0x12345678</Data>";
    let list = format!(
        "<?xml version='1.0'?>\n<Events>\n{}\n{}\u{e9}{}{}</Events>",
        logger(17, pcie),
        event_xml("Disk", 7, "<Data>\\Device</Data>"),
        logger(47, memory),
        logger(18, MACHINE_CHECK),
    );
    for input in [list.clone().into_bytes(), utf16(&list)] {
        assert!(looks_like(&input));
        let decoded = decode(&input);
        assert_eq!(decoded.problems, []);
        let [first, second, third] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(first.location.pci.map(|pci| pci.to_string()).as_deref(), Some("0000:3b:00.1"));
        assert_eq!(first.severity, Severity::Corrected);
        assert_eq!(second.address.map(|at| at.addr.0), Some(0x1234_5000));
        assert_eq!(third.class, ErrorClass::Memory);
    }
}

/// A page that Windows took offline, as an entry of WHEA's log.
const PAGE_OFFLINED: &str = "57684c67 01000000 2a000000 01000000 4b524e4c 06000080 02000000 \
    0a000000 01000000 01 45230100 00";

#[test]
fn the_record_in_the_raw_data_tells() {
    let data = format!("<Data Name='RawData'>{}</Data>", PAGE_OFFLINED.to_uppercase());
    let decoded = decode(logger(42, &data).as_bytes());
    assert_eq!(decoded.problems, []);
    let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
    assert_eq!(record.pages().map(|pages| pages.start.0), Some(0x12345));
    assert_eq!(record.summary, "Windows: page taken offline");
    assert_eq!(record.witnesses.len(), 1);
    assert_eq!(record.time, Some(Timestamp(1_700_000_000_500_000_000)));
}

#[test]
fn damage_costs_one_event() {
    let good = logger(18, MACHINE_CHECK);
    let no_end = good.replace("</Event>", "");
    let wrong = good.replace("<EventData>", "<EventData><Data>");
    let odd = logger(1, "<Data Name='RawData'>abc</Data>");
    let strange = logger(1, "<Data Name='RawData'>00112233</Data>");
    let list = format!("<Events>{no_end}{wrong}{odd}{strange}{good}</Events>");
    let decoded = decode(list.as_bytes());
    assert_eq!(decoded.records.len(), 3);
    let kinds: Vec<_> = decoded.problems.iter().map(|problem| problem.kind).collect();
    use ProblemKind::{Malformed, Truncated};
    assert_eq!(kinds[..4], [Truncated, Malformed, Malformed, Malformed]);
    let third = list.find("<EventID>1<").unwrap();
    let offset = usize::try_from(decoded.problems[2].offset).unwrap();
    assert!(list[offset..].starts_with("<Event ") && offset < third, "{offset}");
}

#[test]
fn offsets_are_those_of_the_file() {
    let list = format!("<Events>\u{1f4a5}{}", logger(1, "<Data Name='RawData'>x</Data>"));
    assert_eq!(decode(list.as_bytes()).problems[0].offset, 12);
    assert_eq!(decode(&utf16(&list)).problems[0].offset, 2 + 2 * 10);
}

#[test]
fn what_is_too_large_is_passed_over() {
    let filler = "<Data Name='X'>1</Data>".repeat(FIELDS_MAX + 1);
    let decoded = decode(logger(1, &filler).as_bytes());
    assert_eq!(decoded.problems[0].kind, ProblemKind::Limit);
    let huge = logger(1, &format!("<Data>{}</Data>", "a".repeat(EVENT_MAX)));
    let decoded = decode(format!("{huge}{}", logger(1, "")).as_bytes());
    assert_eq!((decoded.records.len(), decoded.problems[0].kind), (1, ProblemKind::Limit));
}

/// Events without an end, in any number: each is looked at once, and few are told of.
#[test]
fn events_that_never_end() {
    let decoded = decode("<Event>".repeat(200_000).as_bytes());
    assert_eq!(decoded.problems.len(), PROBLEMS_MAX + 1);
    assert_eq!(decoded.problems.last().unwrap().kind, ProblemKind::Limit);
}

#[test]
fn entities_do_not_multiply() {
    let bomb = format!("<!DOCTYPE e [<!ENTITY a 'aaaa'>]>{}", logger(1, "<Data>&a;</Data>"));
    let decoded = decode(bomb.as_bytes());
    assert_eq!((decoded.records.len(), decoded.problems.len()), (0, 1));
}

#[test]
fn names_become_ours() {
    let names = [
        ("MciStat", "mci_stat"),
        ("MCABank", "mca_bank"),
        ("FRUText", "fru_text"),
        ("MemHierarchyLvl", "mem_hierarchy_lvl"),
        ("Length", "length"),
        ("A b", "a_b"),
    ];
    for (windows, ours) in names {
        assert_eq!(snake(windows), ours);
    }
}

proptest! {
    #[test]
    fn any_text_is_bounded(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("<Event>".to_string()), Just("</Event>".into()), Just("<EventData>".into()),
                Just("<Data Name='RawData'>57".into()), Just("<".into()), Just("&a;".into()), ".{0,6}",
            ],
            0..20,
        ),
        wide: bool,
    ) {
        let text = parts.concat();
        let input = if wide { utf16(&text) } else { text.into_bytes() };
        let decoded = decode(&input);
        prop_assert!(decoded.problems.iter().all(|p| p.offset <= input.len() as u64));
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = looks_like(&bytes);
    }
}

#[test]
fn bytes_that_are_no_text_do_not_move_places() {
    let input = [&[0xff; 100][..], b"<Event xmlns='x'>"].concat();
    let decoded = decode(&input);
    assert_eq!(decoded.problems.iter().map(|problem| problem.offset).collect::<Vec<_>>(), [100]);
}
