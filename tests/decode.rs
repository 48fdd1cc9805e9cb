//! Input to records: golden files and hostile bytes.
//!
//! `golden/KIND/NAME.in` is an input a person can read, `NAME.expected` what becomes of it, as JSON
//! with raw numbers in hexadecimal. `UPDATE_EXPECT=1` writes the expected files anew; read the diff
//! before committing it.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is the failed test")]

mod adversarial;
mod files;
mod golden;
mod live_trace;
mod schema;

use mce_decoder::{cper, trace};

use self::golden::{Golden, Input};

#[test]
fn goldens() {
    let goldens = golden::all();
    assert!(goldens.len() >= 60, "only {} golden files were found", goldens.len());
    let wrong: Vec<String> = goldens.iter().filter_map(Golden::check).collect();
    println!("{} golden files", goldens.len());
    assert!(
        wrong.is_empty(),
        "{} of {} golden files differ (UPDATE_EXPECT=1 accepts what is decoded now):\n\n{}",
        wrong.len(),
        goldens.len(),
        wrong.join("\n")
    );
}

/// A cut record must never look like a whole one.
#[test]
fn every_truncation_of_every_golden_is_noticed() {
    let mut cuts = 0;
    for golden in golden::all() {
        let name = &golden.name;
        match golden.input() {
            // Zeros hold nothing, so there is nothing to cut; and what is cut anyway, or no record
            // at all, can't get worse.
            Input::Record(bytes) | Input::StatusBlock(bytes) if bytes.len() <= 20 => {}
            Input::Record(bytes) => {
                let whole = cper::decode_record(&bytes);
                for len in 0..whole.consumed {
                    let cut = cper::decode_record(&bytes[..len]);
                    assert!(!cut.problems.is_empty(), "{name} cut to {len} bytes");
                    assert!(cut.problems.iter().all(|p| p.offset <= len as u64), "{name} {len}");
                    cuts += 1;
                }
            }
            Input::StatusBlock(bytes) => {
                let whole = cper::decode_status_block(&bytes);
                for len in 0..whole.consumed {
                    let cut = cper::decode_status_block(&bytes[..len]);
                    assert!(!cut.problems.is_empty(), "{name} cut to {len} bytes");
                    assert!(cut.problems.iter().all(|p| p.offset <= len as u64), "{name} {len}");
                    cuts += 1;
                }
            }
            Input::Trace { format, payload } => {
                let Ok(format) = trace::EventFormat::parse(&format) else { continue };
                let Ok(_) = trace::decode(&format, &payload) else { continue };
                let used = golden::bytes_used(&format);
                for len in 0..used {
                    let cut = trace::decode(&format, &payload[..len]);
                    assert!(
                        matches!(cut, Err(trace::TraceError::Truncated { .. })),
                        "{name} cut to {len} of {used} bytes: {cut:?}"
                    );
                    cuts += 1;
                }
            }
            // A file may well end behind any of its parts: what a cut means is theirs to test.
            Input::Container(..) | Input::Registers(..) => {}
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 5000, "only {cuts} cuts were tried");
}

/// Every byte of every golden, with every bit pattern that tends to hurt.
#[test]
fn no_single_byte_brings_a_decoder_down() {
    const WITH: [u8; 6] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];
    for golden in golden::all() {
        match golden.input() {
            Input::Record(bytes) => damage(&bytes, &WITH, |bytes| {
                let decoded = cper::decode_record(bytes);
                assert!(decoded.records.len() <= cper::SECTIONS_MAX);
                assert!(decoded.consumed <= bytes.len());
            }),
            Input::StatusBlock(bytes) => damage(&bytes, &WITH, |bytes| {
                let decoded = cper::decode_status_block(bytes);
                assert!(decoded.records.len() <= cper::SECTIONS_MAX);
                assert!(decoded.consumed <= bytes.len());
            }),
            Input::Container(container, argument, bytes) => damage(&bytes, &WITH, |bytes| {
                let decoded = (container.decode)(&argument, bytes);
                assert!(decoded.consumed <= bytes.len());
                assert!(decoded.problems.iter().all(|p| p.offset <= bytes.len() as u64));
            }),
            Input::Trace { format, payload } => damage(format.as_bytes(), b"0 :;[]{\n", |text| {
                let text = String::from_utf8_lossy(text);
                if let Ok(format) = trace::EventFormat::parse(&text) {
                    let _ = trace::decode(&format, &payload);
                }
            }),
            Input::Registers(..) => {}
        }
    }
}

fn damage(bytes: &[u8], with: &[u8], check: impl Fn(&[u8])) {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        let original = bytes[at];
        for value in with {
            bytes[at] = *value;
            check(&bytes);
        }
        bytes[at] = original;
    }
}
