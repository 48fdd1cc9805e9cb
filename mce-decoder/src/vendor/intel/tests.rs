//! Registers worked out by hand from the documents, a table for each family of generations.

use proptest::prelude::*;
use ras_core::{CpuVendor, DimmLocation, ErrorClass, McaRegisters, PciAddress};

use crate::mca::findings::{Fact, Findings};
use crate::mca::{Context, decode, explain};

fn bank(cpuid: u32, bank: u8, status: u64) -> McaRegisters {
    McaRegisters { vendor: CpuVendor::Intel, cpuid, bank, status, ..McaRegisters::default() }
}

fn findings(registers: &McaRegisters) -> Findings {
    explain(registers).findings
}

/// Unit and meaning of banks whose MISC does not matter: `(bank, status, unit, error)`.
#[track_caller]
fn check(cpuid: u32, cases: &[(u8, u64, &str, Option<&str>)]) {
    for (number, status, unit, error) in cases {
        let found = findings(&bank(cpuid, *number, 1 << 63 | status));
        let unit = (!unit.is_empty()).then_some(*unit);
        assert_eq!((found.unit, found.error), (unit, *error), "bank {number}, status {status:#x}");
    }
}

fn fact(findings: &Findings, name: &str) -> Option<Fact> {
    findings.facts().iter().find(|(known, _)| *known == name).map(|(_, fact)| *fact)
}

fn number(findings: &Findings, name: &str) -> Option<u64> {
    match fact(findings, name)? {
        Fact::Number(number) | Fact::Hex(number) | Fact::Code(number, _) => Some(number),
        Fact::Flags(bits, _) => Some(bits),
        Fact::Flag(flag) => Some(flag.into()),
        Fact::Text(_) => None,
    }
}

#[test]
fn generations() {
    let name = |cpuid| findings(&bank(cpuid, 0, 1 << 63)).generation;
    assert_eq!(name(0x68a), Some("Pentium III"));
    assert_eq!(name(0xf29), Some("Pentium 4"));
    assert_eq!(name(0xf68), Some("Tulsa"));
    assert_eq!(name(0x506e3), Some("Skylake"));
    assert_eq!(name(0x50654), Some("Skylake server"));
    assert_eq!(name(0x50657), Some("Cascade Lake server"));
    assert_eq!(name(0x5065b), Some("Cooper Lake server"));
    assert_eq!(name(0xb06a2), Some("Raptor Lake"));
    assert_eq!(name(0xc0662), Some("Arrow Lake"));
    assert_eq!(name(0x400f10), Some("Diamond Rapids"));
    assert_eq!(name(0xf06f0), None);
    assert_eq!(name(0), None);
}

#[test]
fn a_bank_without_an_error_says_nothing() {
    let found = findings(&bank(0x606a6, 13, 0x0c00_0000_00ff_0091));
    assert_eq!((found.generation, found.unit, found.error), (Some("Ice Lake server"), None, None));
    assert_eq!((found.facts(), found.dimm), (&[][..], DimmLocation::default()));
}

#[test]
fn unknown_codes_stay_unknown_and_are_kept() {
    let found = findings(&bank(0x606a6, 13, 0x8000_003f_7777_0091));
    assert_eq!((found.unit, found.error), (Some("IMC"), None));
    assert_eq!(number(&found, "mscod"), Some(0x7777));
    assert_eq!(number(&found, "other_info"), Some(0x3f));
    let unknown = findings(&bank(0xf06f0, 13, 0x8000_0001_0042_0091));
    assert_eq!((unknown.unit, unknown.error), (None, None));
    assert_eq!(number(&unknown, "mscod"), Some(0x42));
}

#[test]
fn the_front_side_bus() {
    // P6 and Core 2 differ in bits 28, 29 and 37.
    check(
        0x68a,
        &[
            (
                0,
                1 << 28 | 0xe0f,
                "front-side bus",
                Some("functional redundancy check failed (FRC)"),
            ),
            (
                0,
                1 << 37 | 0xe0f,
                "front-side bus",
                Some("hard failure response to a split transaction"),
            ),
            (0, 1 << 25 | 0xe0f, "front-side bus", Some("double-bit error")),
            (0, 1 << 28 | 0x135, "", None),
        ],
    );
    check(
        0x6fb,
        &[
            (0, 1 << 28 | 0xe0f, "front-side bus", Some("machine check driven by this processor")),
            (0, 1 << 37 | 0xe0f, "front-side bus", Some("address parity error")),
        ],
    );
    check(
        0xf29,
        &[
            (
                0,
                1 << 19 | 0xe0f,
                "front-side bus",
                Some("data parity error on the APIC or front-side bus"),
            ),
            (0, 1 << 24 | 0xe0f, "front-side bus", None),
        ],
    );
    check(
        0xf68,
        &[
            (
                4,
                1 << 17 | 0xe0f,
                "front-side bus",
                Some("address parity error in a request of core 0"),
            ),
            (4, 1 << 17 | 0xe0b, "front-side bus", Some("hard failure response")),
            (
                4,
                0x0009 << 16 | 0x400,
                "cache bus controller",
                Some("out-of-order data queue over- or underflow"),
            ),
            (4, 0xe001 << 16 | 0x400, "cache bus controller", Some("ECC event in data to the bus")),
        ],
    );
    check(
        0x106d1,
        &[
            (
                6,
                1 << 20 | 0xe0f,
                "front-side bus",
                Some("hard failure response to a local transaction"),
            ),
            (
                4,
                0x0500 << 16 | 0x400,
                "cache bus controller",
                Some("quiet cycle timed out, corrected"),
            ),
            (4, 0x0009 << 16 | 0x400, "cache bus controller", None),
        ],
    );
}

#[test]
fn bits_that_are_no_count_are_not_counted() {
    let ecc = bank(0x68a, 0, 1 << 63 | 1 << 46 | 0xa5 << 47 | 0xe0f);
    let explanation = explain(&ecc);
    assert_eq!(explanation.count, 1);
    assert_eq!(number(&explanation.findings, "ecc_syndrome"), Some(0xa5));
    assert_eq!(number(&explanation.findings, "corrected_count"), None);
    assert_eq!(number(&explanation.findings, "threshold_status"), None);
    assert_eq!(explain(&bank(0x106a5, 8, 1 << 63 | 5 << 38 | 0x9f)).count, 5);
    for cpuid in [0xf68, 0x106d1] {
        let events = explain(&bank(cpuid, 4, 1 << 63 | 1 << 52 | 0xa5 << 44 | 0xff << 32 | 0x400));
        assert_eq!((events.count, number(&events.findings, "correctable_events")), (1, Some(0xff)));
        assert_eq!(number(&events.findings, "ecc_syndrome"), Some(0xa5));
    }
}

#[test]
fn nehalem() {
    check(
        0x106a5,
        &[
            (0, 1 << 22 | 0xe0f, "QPI", Some("message encoding not supported")),
            (7, 0x0d << 24 | 1, "PCU", Some("invalid S-state transition")),
            (7, 0x0e << 24 | 1, "PCU", None),
            (8, 1 << 24 | 0x9f, "IMC", Some("byte-enable parity error")),
        ],
    );
    check(
        0x206e6,
        &[
            (7, 0x03 << 24 | 1, "PCU", Some("reset firmware did not complete")),
            (0, 1 << 22 | 0xe0f, "", None),
        ],
    );
    let misc = McaRegisters {
        misc: 0x89ab_cdef_0006_0012,
        ..bank(0x206c2, 8, 0x88 << 56 | 1 << 16 | 0x9f)
    };
    let found = findings(&misc);
    assert_eq!((found.channel, found.dimm.module), (Some(1), Some(2)));
    assert_eq!(number(&found, "ecc_syndrome"), Some(0x89ab_cdef));
    let without = McaRegisters { status: 0x80 << 56 | 1 << 16 | 0x9f, ..misc };
    assert_eq!(
        (findings(&without).channel, findings(&without).dimm),
        (None, DimmLocation::default())
    );
}

#[test]
fn sandy_bridge_and_ivy_bridge() {
    check(
        0x206d7,
        &[
            (0, 0x40_0005, "IFU", None),
            (4, 0x43 << 24 | 0x402, "PCU", Some("PECI mailbox did not get quiet in time")),
            (4, 0x44 << 24 | 0x402, "PCU", None),
            (4, 0x09 << 16 | 0x402, "PCU", Some("data parity error")),
            (6, 0xe0f, "QPI", None),
            (8, 0x20 << 16 | 0x9f, "IMC", Some("corrected error while sparing")),
            (8, 0x80 << 16 | 0x9f, "IMC", None),
        ],
    );
    check(
        0x306e4,
        &[
            (4, 0x44 << 24 | 0x402, "PCU", Some("critical voltage regulator failed")),
            (5, 0xe0f, "QPI", None),
            (6, 0xe0b, "IIO", None),
            (7, 0x9f, "home agent", None),
            (16, 0x100 << 16 | 0x9f, "IMC", Some("write data buffer parity error")),
        ],
    );
    let imc = |number| findings(&bank(0x306e4, number, 1 << 63 | 0x92)).imc;
    assert_eq!(
        [7, 8, 9, 12, 13, 16].map(imc),
        [Some(0), Some(1), Some(0), Some(0), Some(1), Some(1)]
    );
}

#[test]
fn ranks_are_there_where_misc_says_so() {
    let status = 0x8800_0049_0080_0091;
    let at = |misc| findings(&McaRegisters { misc, ..bank(0x306e4, 9, status) });
    assert_eq!(at(3 << 46 | 6 << 51).dimm.rank, None);
    let both = at(3 << 62 | 3 << 46 | 6 << 51 | 0xf0 << 14 | 0xf << 30 | 7 << 9);
    assert_eq!((both.dimm.rank, number(&both, "second_rank")), (Some(3), Some(6)));
    assert_eq!((number(&both, "first_device"), number(&both, "second_device")), (Some(9), Some(7)));
    assert_eq!(number(&both, "first_device_mask"), Some(0xf0));
    assert_eq!(number(&both, "second_device_mask"), Some(0xf));
    assert_eq!(at(1 << 63 | 6 << 51).dimm.rank, Some(6));
    let uncorrected = McaRegisters { misc: 1 << 62, ..bank(0x306e4, 9, status | 1 << 61) };
    assert_eq!(findings(&uncorrected).dimm.rank, None);
    let parity = McaRegisters { misc: 0x15 << 9, ..bank(0x306e4, 9, 0x8800_0000_0002_00a1) };
    assert_eq!(number(&findings(&parity), "write_buffer"), Some(0x15));
}

#[test]
fn haswell_and_broadwell() {
    check(
        0x306f2,
        &[
            (4, 0x7d << 24 | 0x406, "PCU", Some("more than one trusted-execution agent")),
            (4, 0x406, "PCU", Some("trusted-execution (TXT) error")),
            (4, 0x1407, "UBox", Some("internal error of the UBox")),
            (4, 0x01 << 16 | 0x401, "PCU", Some("internal error of the power control unit")),
            (21, 0x15 << 16 | 0xe0f, "QPI", Some("route-back table used before it was set")),
            (9, 1 << 25 | 0x9f, "IMC", Some("DDR4 command/address parity error")),
            (12, 1 << 23 | 0x9f, "IMC", Some("corrected read error")),
            (18, 0x17a, "CBo", None),
        ],
    );
    check(
        0x406f1,
        &[
            (12, 1 << 23 | 0x9f, "IMC", None),
            (16, 1 << 22 | 0x9f, "IMC", Some("uncorrected error while sparing")),
        ],
    );
    check(
        0x50663,
        &[
            (
                4,
                0x26 << 24 | 0x402,
                "PCU",
                Some("package C-state: direct wake over the ring timed out"),
            ),
            (4, 0x40 << 16 | 0x401, "UBox", Some("internal error of the UBox")),
            (10, 1 << 16 | 0x9f, "IMC", Some("address parity error")),
            (11, 1 << 16 | 0x9f, "", None),
        ],
    );
    let place = |cpuid, number| {
        let found = findings(&bank(cpuid, number, 1 << 63 | 0x9f));
        (found.imc, found.channel)
    };
    assert_eq!(place(0x306f2, 11), (Some(0), Some(2)));
    assert_eq!(place(0x306f2, 13), (Some(1), Some(0)));
    assert_eq!(place(0x406f1, 16), (Some(1), Some(3)));
    assert_eq!(place(0x50663, 10), (Some(0), Some(1)));
    let mirrored = |cpuid, number, misc| {
        fact(
            &findings(&McaRegisters { misc, ..bank(cpuid, number, 0x8800_0000_0000_0091) }),
            "corrected_by",
        )
    };
    assert!(mirrored(0x406f1, 7, 1 << 41).is_some());
    assert!(mirrored(0x406f1, 8, 1 << 42).is_some());
    assert_eq!(mirrored(0x406f1, 8, 1 << 43), None);
    assert_eq!(mirrored(0x306f2, 8, 1 << 42), None);
    assert!(mirrored(0x50657, 7, 1 << 63).is_some());
    assert!(mirrored(0x606a6, 24, 1 << 62).is_some());
}

#[test]
fn knights() {
    check(
        0x50671,
        &[
            (5, 0x403, "VCU", Some("internal error of the voltage control unit")),
            (5, 0x404, "", None),
            (7, 0x04 << 16 | 0x9e, "EDC", Some("write data buffer parity error")),
            (16, 0x10 << 16 | 0xc1, "IMC", Some("uncorrected patrol scrub error")),
        ],
    );
    let channel = |number, code: u64| {
        decode(&bank(0x80650, number, 1 << 63 | code), Context::default()).location.channel
    };
    assert_eq!(channel(16, 0x91), Some(1));
    assert_eq!(channel(15, 0x91), Some(4));
    assert_eq!(channel(15, 0x9f), None);
    assert_eq!(number(&findings(&bank(0x50671, 9, 1 << 63)), "edc"), Some(2));
}

#[test]
fn skylake_server() {
    check(
        0x50654,
        &[
            (2, 0x14, "DTLB", None),
            (4, 0x38 << 24 | 0x402, "PCU", Some("watchdog: package C3, snoop filter powering up")),
            (4, 0x407, "UBox", Some("internal error of the UBox")),
            (
                5,
                0x22 << 16 | 0xe0f,
                "UPI",
                Some("physical layer: lane failed, link goes on at width 8"),
            ),
            (5, 0x12 << 16 | 0xe0f, "UPI", Some("control error")),
            (
                19,
                0x0812 << 16 | 0xe0f,
                "UPI",
                Some("unexpected protocol flit to send (end of packet, header or data)"),
            ),
            (5, 0x0810 << 16 | 0xe0f, "UPI", Some("CRC error: link-level retry gave up")),
            (6, 0xe0b, "IIO", None),
            (7, 0x08 << 16 | 0x91, "M2M", Some("full write data error")),
            (7, 0x02 << 16 | 0x91, "M2M", None),
            (10, 0x17a, "CHA", None),
            (13, 0x400 << 16 | 0x9f, "IMC", Some("uncorrected address parity error")),
            (13, 0x809 << 16 | 0x9f, "IMC", Some("ERID FIFO overflow")),
            (13, 0x80e << 16 | 0x9f, "IMC", None),
            (20, 0x9f, "", None),
        ],
    );
    let place = |number| {
        let found = findings(&bank(0x50654, number, 1 << 63 | 0x9f));
        (found.imc.unwrap(), found.channel.unwrap())
    };
    assert_eq!(
        [13, 14, 15, 16, 17, 18].map(place),
        [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)]
    );
    let rank = McaRegisters { misc: 1 << 62 | 5 << 46, ..bank(0x50654, 13, 0x8800_0000_0080_009f) };
    assert_eq!((findings(&rank).dimm.rank, findings(&rank).dimm.module), (Some(5), Some(1)));
    let m2m = |code: u64| {
        let registers = McaRegisters { misc: 2 << 50, ..bank(0x50654, 8, 0x88 << 56 | code) };
        decode(&registers, Context::default()).location.channel
    };
    assert_eq!(m2m(0x91), Some(1), "the code names it");
    assert_eq!(m2m(0x9f), Some(2), "MISC names it");
    assert_eq!(m2m(0x405), None, "it is no memory error");
}

#[test]
fn ice_lake() {
    check(
        0x606a6,
        &[
            (3, 0x179, "MLC", None),
            (4, 0x70 << 24 | 0x402, "PCU", Some("package S-state: preparing the reset timed out")),
            (4, 0x05 << 20 | 0x402, "PCU", Some("SMBus controller raised an SMI")),
            (4, 0x07 << 16 | 0x402, "PCU", Some("double-bit error on data access")),
            (8, 0x32 << 16 | 0xe0f, "UPI", Some("link-level retry request received")),
            (24, 0x04 << 16 | 0x9f, "M2M", Some("partial write data error")),
            (27, 0x108 << 16 | 0x9f, "IMC", Some("DDR link failure")),
            (
                13,
                0x10a0 << 16 | 0x9f,
                "IMC",
                Some("uncorrected read error, secondary mirror channel"),
            ),
            (28, 0x9f, "", None),
        ],
    );
    check(
        0x606c1,
        &[
            (5, 0x32 << 16 | 0xe0f, "", None),
            (16, 0x01 << 16 | 0x9f, "M2M", Some("read data error")),
            (20, 0x9f, "", None),
        ],
    );
    check(
        0x80665,
        &[
            (0, 0x5, "", None),
            (15, 0x80 << 16 | 0x9f, "IMC", Some("corrected read error")),
            (16, 0x9f, "", None),
        ],
    );
    let both = findings(&bank(0x606a6, 4, 1 << 63 | 0x0d4f_0402));
    assert_eq!(both.error, Some("self-test of the last-level cache still active"));
    assert_eq!(number(&both, "clock_or_bus_error"), Some(4));
    assert_eq!(fact(&both, "microcontroller_error"), Some(Fact::Code(0xf, None)));
    let bridge = findings(&bank(0x606a6, 20, 1 << 63 | 0x0501_009f));
    assert_eq!((bridge.imc, number(&bridge, "ddr_type")), (Some(2), Some(1)));
    assert_eq!(number(&bridge, "miscellaneous_errors"), Some(1));
}

/// A cell: column 0x155, row 0x1abcde, bank 2, bank group 5, device 0x2a, sub-rank 3, rank 6, ADDDC.
const ICE_LAKE_CELL: u64 = 0x155 << 9
    | 0x1a_bcde << 19
    | 1 << 40
    | 2 << 42
    | 1 << 44
    | 0x2a << 46
    | 3 << 52
    | 6 << 56
    | 5 << 59;

#[test]
fn ice_lake_cells() {
    let at = |status, misc| findings(&McaRegisters { misc, ..bank(0x606a6, 26, status) });
    let found = at(0x8800_0000_0080_0091, ICE_LAKE_CELL);
    let cell = DimmLocation {
        module: Some(1),
        rank: Some(6),
        bank_group: Some(5),
        bank: Some(2),
        chip: Some(3),
        device: Some(0x2a),
        row: Some(0x1a_bcde),
        column: Some(0x554),
        ..DimmLocation::default()
    };
    assert_eq!((found.imc, found.channel, found.dimm), (Some(3), Some(1), cell));
    assert_eq!(fact(&found, "ecc_mode"), Some(Fact::Code(5, Some("ADDDC"))));
    let transient = at(0x8800_0000_0080_0091, ICE_LAKE_CELL | 1 << 63);
    assert_eq!(transient.dimm, DimmLocation { device: None, ..cell });
    assert_eq!(number(&transient, "transient"), Some(1));
    assert_eq!(
        at(0xa800_0000_00a0_0091, ICE_LAKE_CELL).dimm,
        DimmLocation { device: None, ..cell }
    );
    let nowhere = DimmLocation::default();
    assert_eq!(at(0x8000_0000_0080_0091, ICE_LAKE_CELL).dimm, nowhere, "MISCV=0");
    assert_eq!(at(0x8800_0000_0816_0091, ICE_LAKE_CELL).dimm, nowhere, "persistent memory's code");
    assert_eq!(at(0x8800_0000_0080_0091, 8 << 59).dimm, nowhere, "persistent memory's mode");
}

#[test]
fn sapphire_rapids() {
    check(
        0x806f8,
        &[
            (4, 0xc0 << 24 | 0x402, "PCU", Some("dispatcher busy for too long")),
            (4, 0x05 << 16 | 0x402, "PCU", Some("stack overflow")),
            (4, 0x05 << 16 | 0x40c, "PCU", Some("triple fault")),
            (5, 0x15 << 16 | 0xe0f, "UPI", Some("link layer: message authentication (SGX) failed")),
            (5, 0x32 << 16 | 0xe0f, "UPI", None),
            (12, 0x03 << 16 | 0x9f, "M2M", Some("read tracker parity error")),
            (12, 0x04 << 16 | 0x9f, "M2M", None),
            (29, 0x01 << 16 | 0x9f, "HBM M2M", Some("read ECC error")),
            (13, 0x200 << 16 | 0x9f, "IMC", Some("DDR5 command/address parity error")),
            (13, 0x220 << 16 | 0x9f, "IMC", None),
            (31, 0x80 << 16 | 0x9f, "HBM IMC", Some("corrected read error")),
        ],
    );
    // A cell: column 0x155, row 0x2abcd, bank 2, bank group 5, device 0x2a, sub-rank 3, rank 6.
    let cell = 0x155 << 9
        | 0x2_abcd << 19
        | 1 << 37
        | 2 << 39
        | 1 << 41
        | 0x2a << 43
        | 3 << 52
        | 6 << 56
        | 3 << 59;
    for cpuid in [0x806f8, 0xc06f2] {
        let found =
            findings(&McaRegisters { misc: cell, ..bank(cpuid, 19, 0x8800_0000_0080_009f) });
        assert_eq!((found.imc, found.channel), (Some(3), Some(0)));
        let expected = DimmLocation {
            module: Some(1),
            rank: Some(6),
            bank_group: Some(5),
            bank: Some(2),
            chip: Some(3),
            device: Some(0x2a),
            row: Some(0x2_abcd),
            column: Some(0x554),
            ..DimmLocation::default()
        };
        assert_eq!(found.dimm, expected);
        assert_eq!(fact(&found, "ecc_mode"), Some(Fact::Code(3, Some("SDDC+1"))));
    }
    let hbm = findings(&McaRegisters { misc: cell, ..bank(0x806f8, 30, 0x8800_0000_0080_009f) });
    assert_eq!((hbm.dimm.module, hbm.dimm.chip, hbm.dimm.device), (None, None, Some(0x2a)));
    assert_eq!(number(&hbm, "second_device"), Some(6));
}

#[test]
fn granite_rapids_and_its_kin() {
    for cpuid in [0xa06d1, 0xa06e1, 0xa06f3, 0xd06d0] {
        check(
            cpuid,
            &[
                (5, 0x14 << 16 | 0xe0f, "UPI", Some("link layer: trust domain (TDX) failure")),
                (
                    6,
                    0x80 << 16 | 0x402,
                    "Punit",
                    Some("error signalled by the security module (S3M)"),
                ),
                (
                    6,
                    0x1d << 24 | 0x402,
                    "Punit",
                    Some("more than one trusted-execution agent at boot"),
                ),
                (
                    12,
                    0x0d << 16 | 0x405,
                    "B2CMI",
                    Some("security attributes of the initiator do not match (SAI)"),
                ),
                (
                    13,
                    0x2106 << 16 | 0x9f,
                    "MCCHAN",
                    Some("write data buffer persistent corrected ECC error, sub-channel 1"),
                ),
                (13, 0x2006 << 16 | 0x9f, "MCCHAN", None),
            ],
        );
    }
    // A cell: column 0x155, row 0x2abcd, bank 2, bank group 5, device 0x2a, sub-rank 3, select 6.
    let misc =
        0x155 << 9 | 0x2_abcd << 19 | 2 << 37 | 5 << 39 | 0x2a << 43 | 3 << 51 | 6 << 55 | 9 << 58;
    let at = |status| findings(&McaRegisters { misc, ..bank(0xa06d1, 24, status) });
    let found = at(0x8800_0002_0080_009f);
    let expected = DimmLocation {
        rank: Some(6),
        bank_group: Some(5),
        bank: Some(2),
        chip: Some(3),
        device: Some(0x2a),
        row: Some(0x2_abcd),
        column: Some(0x554),
        ..DimmLocation::default()
    };
    assert_eq!((found.channel, found.dimm), (Some(11), expected));
    assert_eq!(fact(&found, "ecc_mode"), Some(Fact::Code(9, Some("9x4 32b, one level"))));
    assert_eq!(
        at(0x8800_0001_0080_009f).dimm,
        DimmLocation::default(),
        "other information says no"
    );
    assert_eq!(at(0x8800_0002_082f_009f).dimm, DimmLocation::default(), "the code says no");
}

#[test]
fn diamond_rapids() {
    check(
        0x400f10,
        &[
            (4, 0x0848_040b, "CBB Punit", Some("in-field scan test failed")),
            (4, 0x05 << 16 | 0x40c, "CBB Punit", Some("triple fault")),
            (4, 0x0833 << 16 | 0x402, "CBB Punit", Some("integrated regulator: die-to-die link")),
            (4, 0x19 << 16 | 0x402, "CBB Punit", None),
            (11, 0x7c << 24 | 0x402, "IMH Punit", Some("CXL device has no credit")),
            (11, 0x0d << 16 | 0x402, "IMH Punit", Some("memory access error")),
            (18, 0x0203 << 16 | 0xe0f, "UPI", Some("link degraded")),
            (26, 0x0240 << 16 | 0x9f, "MCCHAN", Some("decoder structure error")),
        ],
    );
    let watchdog =
        |misc| findings(&McaRegisters { misc, ..bank(0x400f10, 11, 0x8800_0000_0010_0402) }).error;
    assert_eq!(watchdog(1 << 9), Some("watchdog of the power management firmware expired"));
    assert_eq!(watchdog(3 << 9), Some("double-bit ECC error in the telemetry memory"));
    // A cell: column 0x155, row 0x2abcd, bank 2, bank group 5, device 0x15, sub-channel 1, sub-rank 3.
    let misc = 0x155 << 9
        | 0x2_abcd << 19
        | 2 << 37
        | 5 << 39
        | 1 << 42
        | 0x15 << 44
        | 1 << 49
        | 3 << 51
        | 2 << 55
        | 4 << 58;
    let at = |misc, apic_id| {
        findings(&McaRegisters { misc, apic_id, ..bank(0x400f10, 20, 0x8800_0002_0080_009f) })
    };
    let found = at(misc, 0x14);
    let expected = DimmLocation {
        rank: Some(2),
        bank_group: Some(5),
        bank: Some(2),
        chip: Some(3),
        device: Some(0x15),
        row: Some(0x2_abcd),
        column: Some(0x554),
        ..DimmLocation::default()
    };
    assert_eq!((found.channel, found.dimm), (Some(9), expected));
    assert_eq!((number(&found, "imh"), number(&found, "sub_channel")), (Some(1), Some(1)));
    assert_eq!(at(misc, 0x10).channel, Some(1));
    assert_eq!(at(misc & !(1 << 42), 0).dimm.device, None);
    let transient = at(misc | 1 << 63, 0);
    assert_eq!((transient.dimm.device, fact(&transient, "ecc_mode")), (None, None));
}

#[test]
fn denverton() {
    check(
        0x506f1,
        &[
            (6, 0x08 << 16 | 0x9f, "IMC", Some("uncorrected demand read error")),
            (7, 0x10 << 16 | 0x9f, "IMC", Some("write data buffer ECC error on read")),
            (5, 0x10 << 16 | 0x9f, "", None),
        ],
    );
}

#[test]
fn several_bits_are_all_named() {
    let found = findings(&bank(0x606a6, 12, 1 << 63 | 0x0061_009f));
    assert_eq!(found.error, Some("read data error"));
    assert_eq!(number(&found, "errors"), Some(0x61));
    assert_eq!(number(&findings(&bank(0x606a6, 12, 1 << 63 | 0x0001_009f)), "errors"), None);
}

#[test]
fn counts_and_thresholds_need_their_capability() {
    let cache = bank(0x606a6, 3, 0x8040_00c0_0000_0135);
    let with = |mcg_cap| findings(&McaRegisters { mcg_cap, ..cache.clone() });
    assert_eq!(number(&with(0x0c1c), "corrected_count"), Some(3));
    assert_eq!(number(&with(0x0c1c), "threshold_status"), Some(2));
    assert_eq!(number(&with(0x001c), "corrected_count"), None);
    assert_eq!(number(&with(0x001c), "threshold_status"), None);
    assert_eq!(number(&with(0), "threshold_status"), Some(2), "nobody said: as a server");
    let edited = bank(0x606a6, 3, 0x8000_0020_0000_0135);
    let with = |mcg_cap| findings(&McaRegisters { mcg_cap, ..edited.clone() });
    assert_eq!(number(&with(1 << 25 | 0x1c), "firmware_updated"), Some(1));
    assert_eq!(number(&with(0x1c), "firmware_updated"), None);
}

#[test]
fn filtering_is_told() {
    let filtered = |status| number(&findings(&bank(0x606a6, 3, status)), "filtered");
    assert_eq!(filtered(0x8000_0000_0000_1135), Some(1));
    assert_eq!(filtered(0x8000_0000_0000_0135), None);
    assert_eq!(filtered(0x8000_0000_0000_1005), None, "simple codes have no such bit");
    assert_eq!(filtered(0xa000_0000_0000_1135), None, "uncorrected");
}

#[test]
fn an_io_error_names_its_function() {
    let at =
        |status| findings(&McaRegisters { misc: 0x02_17fa_0086, ..bank(0x606a6, 6, status) }).pci;
    let function = PciAddress { segment: 2, bus: 0x17, device: 0x1f, function: 2 };
    assert_eq!(at(0xaa00_0000_0000_0e0b), Some(function));
    assert_eq!(at(0xaa00_0000_0000_1e0b), Some(function));
    assert_eq!(at(0xa200_0000_0000_0e0b), None);
    assert_eq!(at(0xaa00_0000_0000_0e0f), None);
}

#[test]
fn a_hot_processor_is_no_cache_error() {
    let hot = bank(0x30678, 128, 0x8844_000f);
    let explanation = explain(&hot);
    assert_eq!(explanation.class, ErrorClass::Platform);
    assert_eq!(explanation.findings.unit, Some("thermal monitor"));
    let record = decode(&hot, Context::default());
    assert!(record.summary.contains("above its trip temperature"), "{}", record.summary);
    let cool = decode(&bank(0x30678, 128, 0x8844_000e), Context::default());
    assert!(cool.summary.contains("back below"), "{}", cool.summary);
    assert_eq!((record.address, record.location.channel), (None, None));
}

/// One processor for each decoder.
const DECODED: &[u32] = &[
    0x68a, 0x6fb, 0x106d1, 0xf68, 0xf29, 0x106a5, 0x206e6, 0x206a7, 0x206d7, 0x306e4, 0x306f2,
    0x406f1, 0x50663, 0x50671, 0x50657, 0x606a6, 0x606c1, 0x80665, 0x806f8, 0xa06d1, 0x400f10,
    0x506f1,
];

proptest! {
    /// No register can make a decoder panic or lose the model-specific code.
    #[test]
    fn any_registers_of_any_generation(
        cpuid in proptest::sample::select(DECODED),
        bank_number in 0u8..32,
        [status, misc, mcg_cap] in any::<[u64; 3]>(),
        apic_id in any::<u32>(),
    ) {
        let status = status | 1 << 63;
        let registers = McaRegisters { misc, mcg_cap, apic_id, ..bank(cpuid, bank_number, status) };
        let found = findings(&registers);
        prop_assert!(found.generation.is_some());
        let mscod = status >> 16 & 0xffff;
        prop_assert_eq!(number(&found, "mscod").unwrap_or(0), mscod);
        prop_assert!(found.facts().len() < crate::mca::findings::FACTS_MAX);
    }
}
