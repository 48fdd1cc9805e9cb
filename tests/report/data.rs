//! A made-up machine's log: always the same errors, as a capture of firmware records and machine
//! checks, and as trace events in text.

use std::fmt::Write as _;

/// When it begins: 2023-11-14T22:13:20Z.
const START_S: u64 = 1_700_000_000;
const HOUR_S: u64 = 3600;

/// A label that wants to be more than text.
pub(super) const HOSTILE: &str = "<script>alert(1)</script>\"'&";

/// UEFI Specification, Appendix N: severities.
const RECOVERABLE: u32 = 0;
const CORRECTED: u32 = 2;

/// A place in a module, and when.
#[derive(Clone, Copy)]
struct Cell<'a> {
    label: &'a str,
    bank: u16,
    row: u16,
    column: u16,
    second: u64,
}

/// The capture, one report a line.
pub(super) fn capture() -> String {
    let mut lines = String::new();
    let mut cell = |severity, cell: Cell<'_>| {
        let time = (START_S + cell.second) * 1_000_000_000;
        let record = hex(&memory(severity, cell));
        writeln!(lines, r#"{{"time_ns":{time},"cper":"{record}"}}"#).unwrap();
    };
    // A1: a broken row, a storm in it, then data lost.
    let row = |column, second| Cell { label: "CPU1_DIMM_A1", bank: 5, row: 0x1a2b, column, second };
    for n in 0..40 {
        cell(CORRECTED, row(n * 37 % 128 * 8, u64::from(n) * 2 * HOUR_S));
    }
    for n in 0..60 {
        cell(CORRECTED, row(0x88, 100 * HOUR_S + n * 7));
    }
    cell(RECOVERABLE, row(0x88, 101 * HOUR_S));
    // B2: a broken column. C1: a weak cell that is loud. C2: a single error.
    for n in 0..12 {
        let label = "CPU1_DIMM_B2";
        let (row, second) = (n * 911 % 4096, u64::from(n) * 5 * HOUR_S);
        cell(CORRECTED, Cell { label, bank: 9, row, column: 0x1c0, second });
    }
    for n in 0..300 {
        let label = "CPU2_DIMM_C1";
        cell(CORRECTED, Cell { label, bank: 0, row: 0x77, column: 0x10, second: n * HOUR_S / 3 });
    }
    let label = "CPU2_DIMM_C2";
    cell(CORRECTED, Cell { label, bank: 0, row: 0x99, column: 0x18, second: 50 * HOUR_S });
    // D1: a bank that is broken all over.
    for n in 0..90_u16 {
        let (row, column) = (n.wrapping_mul(7919) % 32_768, n.wrapping_mul(613) % 1024);
        let second = 20 * HOUR_S + u64::from(n) * 2400;
        cell(CORRECTED, Cell { label: "CPU2_DIMM_D1", bank: 14, row, column, second });
    }
    // A label that a browser would run.
    for n in 0..3 {
        let label = "<b onclick=alert(1)>";
        cell(CORRECTED, Cell { label, bank: 1, row: 7, column: 8, second: n * HOUR_S });
    }
    for n in 0..14 {
        let time = (START_S + n * 6 * HOUR_S) * 1_000_000_000;
        let record = hex(&link(0x3b));
        writeln!(lines, r#"{{"time_ns":{time},"cper":"{record}"}}"#).unwrap();
    }
    for (n, cpu) in [17, 17, 40, 17, 3, 17, 9].into_iter().enumerate() {
        let time = (START_S + n as u64 * 15 * HOUR_S) * 1_000_000_000;
        let bank = if cpu == 9 { 12 } else { 3 };
        writeln!(
            lines,
            r#"{{"time_ns":{time},"mce":{{"vendor":"intel","cpuid":"0x606a6","cpu":{cpu},"socket":{},"bank":{bank},"mcg_cap":"0xf000c1c","status":"0x9c20000000000136","addr":"0x{cpu}0040","misc":"0x86"}}}}"#,
            cpu / 32
        )
        .unwrap();
    }
    lines
}

/// Trace events in text, as no kernel would write them.
pub(super) fn trace() -> String {
    let event = |seconds: u64, label: &str| {
        format!(
            "  kworker/0:1-42 [000] ..... {seconds}.000001: mc_event: 1 Corrected error: memory read \
             error on {label} (mc:0 location:0:0 address:0x7f0000 grain:6 syndrome:0x0 \
             rank:0 bank:1 row:0x7 col:0x8)\n"
        )
    };
    event(10, HOSTILE) + &event(20, HOSTILE)
}

/// A record of one section. UEFI Specification, Appendix N, "Common Platform Error Record".
fn record(severity: u32, section_type: [u8; 16], label: &str, body: &[u8]) -> Vec<u8> {
    const BODY_AT: u32 = 128 + 72;
    let len = u32::try_from(body.len()).unwrap();
    let mut bytes = b"CPER".to_vec();
    bytes.extend(0x0101_u16.to_le_bytes());
    bytes.extend([0xff; 4]);
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(severity.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend((BODY_AT + len).to_le_bytes());
    bytes.resize(128, 0);
    bytes.extend(BODY_AT.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(0x0300_u16.to_le_bytes());
    // The FRU text is valid.
    bytes.extend([2, 0]);
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(section_type);
    bytes.extend([0; 16]);
    bytes.extend(severity.to_le_bytes());
    let mut text = label.as_bytes().to_vec();
    assert!(text.len() <= 20, "{label} is too long for a FRU text");
    text.resize(20, 0);
    bytes.extend(text);
    bytes.extend(body);
    bytes
}

/// "Memory Error Section".
fn memory(severity: u32, cell: Cell<'_>) -> Vec<u8> {
    const SECTION_TYPE: [u8; 16] = [
        0x14, 0x11, 0xbc, 0xa5, 0x64, 0x6f, 0xde, 0x4e, 0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83,
        0xb1,
    ];
    let Cell { label, bank, row, column, .. } = cell;
    // Which row and column lie where is made up; no two modules share a page.
    let module = label.bytes().fold(0_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 61);
    let address =
        module << 36 | u64::from(bank) << 32 | u64::from(row) << 17 | u64::from(column) << 6;
    // Address, mask, bank, device, row, column, error type, rank.
    let valid: u64 = 0b11 << 1 | 0b1111 << 6 | 0b11 << 14;
    let mut body = valid.to_le_bytes().to_vec();
    body.extend(0x400_u64.to_le_bytes());
    body.extend(address.to_le_bytes());
    body.extend((!0x3f_u64).to_le_bytes());
    // Node, card, module; bank, device, row, column, bit position.
    for word in [0, 0, 0, bank, 3, row, column, 0] {
        body.extend(word.to_le_bytes());
    }
    // Requestor, responder, target.
    body.extend([0; 24]);
    // Single-bit ECC, or multi-bit; extended row; rank; handles.
    body.extend([if severity == CORRECTED { 2 } else { 3 }, 0]);
    body.extend([0; 6]);
    record(severity, SECTION_TYPE, label, &body)
}

/// "PCI Express Error Section", of a device on `bus`.
fn link(bus: u8) -> Vec<u8> {
    const SECTION_TYPE: [u8; 16] = [
        0x54, 0xe9, 0x95, 0xd9, 0xc1, 0xbb, 0x0f, 0x43, 0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f,
        0x35,
    ];
    // The device's address is valid.
    let mut body = (1_u64 << 3).to_le_bytes().to_vec();
    body.resize(24, 0);
    body.extend([0x86, 0x80, 0x72, 0x15, 0, 0, 2, 0, 0, 0, 0, bus, 0, 0, 0, 0]);
    body.resize(208, 0);
    record(CORRECTED, SECTION_TYPE, "", &body)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
