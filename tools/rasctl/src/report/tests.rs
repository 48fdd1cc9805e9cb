//! What a page is made of, without a browser; the story that has one is in the workspace's tests.

use std::sync::Arc;

use ras_core::ErrorRecord;

use super::*;
use crate::analyze::data::{HOSTILE, cell, records};

fn collected(records: &[ErrorRecord]) -> String {
    let mut collector = Collector::default();
    for (index, record) in records.iter().enumerate() {
        let (file, record) = (Arc::from("a.log"), record.clone());
        collector
            .record(Found { file, offset: index as u64, line: None, record: Box::new(record) })
            .unwrap();
    }
    let (findings, kept) = collector.finish();
    page(&findings, &kept)
}

#[test]
fn the_page_says_what_to_do_and_where() {
    let page = collected(&records());
    for part in [
        "Replace module DIMM_A1: 459 errors, 1 of them with loss of data.",
        "41 columns in row 0x1a2b",
        "<svg class=\"timeline\"",
        "Rows and columns of rank 0, device 3, bank group 1, bank 1, the worst bank",
        "storm of 60 corrected errors",
        "CPU 17, bank 3: 4 errors",
        "Pages to retire",
        "are left out",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_page_asks_for_nothing() {
    let page = collected(&records());
    for word in ["http://", "https://", "src=", "@import", "url(", "<link", "<iframe"] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("<style").count(), 1);
}

#[test]
fn hostile_words_are_inert() {
    let mut hostile = cell(HOSTILE, 0, 1, 1, 0);
    hostile.summary = HOSTILE.into();
    hostile.severity_reason = HOSTILE.into();
    hostile.details.push(ras_core::Detail { name: HOSTILE.into(), value: HOSTILE.into() });
    hostile.raw = ras_core::Raw::Text(format!("</pre>{HOSTILE}<!--"));
    let page = collected(&vec![hostile; 12]);
    assert_eq!(page.matches("<script").count(), 1, "the page's own");
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(
        !page.contains("<!--") && page.matches("<pre>").count() == page.matches("</pre>").count()
    );
    assert!(page.contains("aria-label=\"Rows"));
}

#[test]
fn nothing_read_is_a_page_too() {
    let page = collected(&[]);
    assert!(page.contains("There is no report of any error.") && !page.contains("<svg"));
}

#[test]
fn a_page_is_bounded_whatever_is_read() {
    let label = |n: u32| format!("{n}{}", "\"&<".repeat(60));
    let mut records = Vec::new();
    for module in 0..40_u32 {
        for n in 0..1500_u32 {
            let (row, column) =
                (n.wrapping_mul(0x9e37_79b9) >> 14, n.wrapping_mul(0x85eb_ca6b) >> 20);
            let bank = u16::try_from(n % 16).unwrap();
            let mut record = cell(&label(module), bank, row, column, u64::from(n) * 61);
            record.location.dimm.device = Some(u16::try_from(n % 20).unwrap());
            if n % 100 == 0 {
                record.severity = ras_core::Severity::Srao;
            }
            records.push(record);
        }
    }
    for n in 0..3000 {
        // Each a part, a fault, and a page of its own.
        let mut record = cell(&label(1000 + n), 0, n, n, 0);
        record.severity = ras_core::Severity::Srao;
        record.summary = "\"".repeat(10_000);
        record.raw = ras_core::Raw::Text("\"".repeat(10_000));
        records.push(record);
    }
    let page = collected(&records);
    println!("{} bytes", page.len());
    assert!(page.len() < BYTES_MAX, "{} bytes", page.len());
    assert!(page.len() > BYTES_MAX / 4, "the test has to press against the limit");
    assert!(page.contains("more modules") && page.contains("more faults"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn any_label_keeps_the_page_whole(label in ".*", summary in ".*") {
        let mut record = cell(&label, 0, 1, 1, 0);
        record.summary = summary;
        let page = collected(&[record.clone(), record]);
        proptest::prop_assert_eq!(page.matches("<script").count(), 1);
        proptest::prop_assert!(page.ends_with("</script></body></html>"));
    }
}
