use std::io;

use proptest::prelude::*;
use ras_core::{ErrorRecord, Raw};
use serde_json::json;

use super::*;
use crate::format;
use crate::input::Input;
use crate::read::{self, Damage, Found, Options, Sink};

#[derive(Default)]
struct Kept(Vec<ErrorRecord>, Vec<String>);

impl Sink for Kept {
    fn record(&mut self, found: Found) -> io::Result<()> {
        self.1.extend(found.record.problems.iter().map(|problem| problem.detail.clone()));
        self.0.push(*found.record);
        Ok(())
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        self.1.push(damage.problem.detail);
        Ok(())
    }
}

/// Decodes in a format, which also has to be the one that it looks like.
fn decoded(bytes: Vec<u8>, name: &str) -> Vec<ErrorRecord> {
    assert_eq!(format::detect(&bytes, "-").map(|format| format.name), Some(name));
    let mut kept = Kept::default();
    read::stream("-", Input::of_bytes(bytes), &Options::default(), &mut kept).unwrap();
    assert_eq!(kept.1, Vec::<String>::new());
    kept.0
}

fn built(description: serde_json::Value) -> Vec<u8> {
    build(&parse(&description.to_string()).unwrap()).unwrap()
}

#[test]
fn every_example_can_be_built_and_the_decoder_knows_it() {
    for (name, text) in EXAMPLES {
        let description = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let bytes = build(&description).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!bytes.is_empty(), "{name}");
        let form = match description.form {
            Form::Cper => "cper",
            Form::StatusBlock => "status-block",
            Form::Capture => "capture",
            Form::KernelLog => "kernel-log",
            Form::StructMce => "struct-mce",
            _ => continue,
        };
        assert_eq!(decoded(bytes, form).len(), 1, "{name}");
    }
}

#[test]
fn what_can_t_be_built_says_why() {
    let error = |kind: serde_json::Value| {
        let text = json!({ "form": "cper", "error": [kind] }).to_string();
        parse(&text).and_then(|description| build(&description)).unwrap_err().to_string()
    };
    for (kind, says) in [
        (json!({}), "error 1, kind: has to say what it is"),
        (json!({ "kind": "rumour" }), "error 1, kind: nobody makes a \"rumour\"; see INJECT.md"),
        (json!({ "kind": "memory", "raw": 1 }), "error 1, raw: is not known here"),
        (json!({ "kind": "memory", "bank": 65536 }), "error 1, bank: is too large"),
        (json!({ "kind": "memory", "extended_row": 4 }), "error 1, extended_row: is too large"),
        (json!({ "kind": "memory", "row": "1" }), "error 1, row: is no number, nor \"0x…\""),
        (json!({ "kind": "mce", "bank": 256 }), "error 1, bank: is too large"),
        (json!({ "kind": "mce" }), "a mce can't be written as cper"),
        (json!({ "kind": "edac" }), "a edac line can't be written as cper"),
    ] {
        assert_eq!(error(kind), says);
    }
    assert!(parse("form = ").unwrap_err().to_string().contains("TOML"));
    assert!(parse("{}").unwrap_err().to_string().contains("form"));
}

#[test]
fn the_kernel_s_structure_has_the_kernel_s_offsets() {
    let bytes = built(json!({ "form": "struct-mce", "error": [{
        "kind": "mce", "vendor": "amd", "cpuid": 0xa00f11, "bank": 18, "cpu": 300, "socket": 1,
        "status": "0x9c2040000000011b", "addr": 0x1234, "mcg_cap": 7, "synd": 8, "ipid": 9,
        "ppin": 10, "microcode": 11, "apic_id": 12, "time": 1_700_000_000_000_000_000_u64,
    }]}));
    let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    assert_eq!(bytes.len(), 128);
    assert_eq!((word(0), word(16), word(48)), (0x9c20_4000_0000_011b, 0x1234, 1_700_000_000));
    assert_eq!((bytes[56], bytes[65], word(60) & 0xffff_ffff), (2, 18, 0xa0_0f11));
    assert_eq!((word(80), word(88), word(96), word(104)), (7, 8, 9, 10));
    assert_eq!((word(68) & 0xffff_ffff, word(72) & 0xffff_ffff, word(112)), (300, 1, 11));
}

#[test]
fn sections_of_one_record_stay_together() {
    for (form, format) in [("cper", "cper"), ("status-block", "status-block")] {
        let bytes = built(json!({ "form": form, "one_record": true, "error": [
            { "kind": "memory", "physical_address": 0x1000, "fru_text": "A" },
            { "kind": "firmware", "severity": "fatal", "fru_text": "B" },
        ]}));
        let records = decoded(bytes, format);
        let frus: Vec<_> =
            records.iter().filter_map(|record| record.location.fru.clone()).collect();
        assert_eq!(frus, ["A", "B"]);
    }
}

fn hexed(value: u64) -> serde_json::Value {
    format!("{value:#x}").into()
}

proptest! {
    /// What a capture says of a bank is what was described.
    #[test]
    fn banks_come_back_from_captures(
        words in proptest::array::uniform8(any::<u64>()),
        narrow in proptest::array::uniform3(any::<u32>()),
        bank in any::<u8>(),
    ) {
        let [status, addr, misc, synd, ipid, mcg_cap, mcg_status, ppin] = words;
        let [cpuid, apic_id, microcode] = narrow;
        let expected = ras_core::McaRegisters {
            vendor: ras_core::CpuVendor::Amd, cpuid, bank, status, addr, misc, synd, ipid, mcg_cap,
            mcg_status, ppin, apic_id, microcode, ..ras_core::McaRegisters::default()
        };
        let bytes = built(json!({ "form": "capture", "error": [{
            "kind": "mce", "vendor": "amd", "cpuid": cpuid, "bank": bank, "apic_id": apic_id,
            "microcode": microcode, "status": hexed(status), "addr": hexed(addr),
            "misc": hexed(misc), "synd": hexed(synd), "ipid": hexed(ipid),
            "mcg_cap": hexed(mcg_cap), "mcg_status": hexed(mcg_status), "ppin": hexed(ppin),
        }]}));
        let records = decoded(bytes, "capture");
        prop_assert_eq!(&records[0].raw, &Raw::Mca(expected));
    }

    /// The same as text: Linux prints what is not zero, and mcelog what it knows.
    #[test]
    fn banks_come_back_from_text(
        words in proptest::array::uniform6(any::<u64>()),
        narrow in (any::<u32>(), any::<u32>(), any::<u8>()),
        cpu in any::<u16>(),
    ) {
        let [status, addr, misc, mcg_status, ppin, tsc] = words;
        let (apic_id, microcode, bank) = narrow;
        for (form, format) in [("kernel-log", "kernel-log"), ("mcelog", "mcelog")] {
            let bytes = built(json!({ "form": form, "error": [{
                "kind": "mce", "vendor": "intel", "cpuid": 0x50654, "bank": bank % 128, "cpu": cpu,
                "apic_id": apic_id, "microcode": microcode, "status": hexed(status),
                "addr": hexed(addr), "misc": hexed(misc), "mcg_status": hexed(mcg_status),
                "ppin": hexed(ppin), "tsc": hexed(tsc), "time": 1_700_000_000_000_000_000_u64,
            }]}));
            let record = decoded(bytes, format).remove(0);
            let Raw::Mca(found) = &record.raw else { panic!("{record:?}") };
            prop_assert_eq!((found.bank, found.status, found.addr), (bank % 128, status, addr));
            prop_assert_eq!((found.misc, found.mcg_status), (misc, mcg_status));
            prop_assert_eq!((found.ppin, found.tsc, found.cpuid), (ppin, tsc, 0x50654));
            prop_assert_eq!((found.apic_id, found.microcode), (apic_id, microcode));
            prop_assert_eq!(record.time.map(ras_core::Timestamp::secs), Some(1_700_000_000));
        }
    }

    /// Memory sections, in a record and in a status block.
    #[test]
    fn memory_sections_come_back(
        words in proptest::array::uniform10(any::<u16>()),
        address in any::<u64>(),
        bits in (0u32..4, 0u64..8, 0u32..4),
    ) {
        let [node, card, module, bank, device, row, column, rank, bit, handle] = words;
        let (extended_row, chip, severity) = bits;
        let severity = ["recoverable", "fatal", "corrected", "informational"][severity as usize];
        for form in ["cper", "status-block"] {
            let bytes = built(json!({ "form": form, "error": [{
                "kind": "memory", "severity": severity, "physical_address": hexed(address),
                "physical_address_mask": "0xffffffffffffffff", "node": node, "card": card,
                "module": module, "bank": bank, "device": device, "row": row, "column": column,
                "rank": rank, "bit_position": bit, "module_handle": handle,
                "extended_row": extended_row, "chip_identification": chip,
            }]}));
            let record = decoded(bytes, form).remove(0);
            let dimm = record.location.dimm;
            prop_assert_eq!(record.address.map(|at| at.addr.0), Some(address));
            prop_assert_eq!(
                [dimm.node, dimm.card, dimm.module, dimm.bank, dimm.device, dimm.rank],
                [node, card, module, bank, device, rank].map(Some)
            );
            prop_assert_eq!(dimm.row, Some(u32::from(row) | extended_row << 16));
            prop_assert_eq!(dimm.column, Some(column.into()));
            prop_assert_eq!((dimm.bit_position, dimm.module_handle), (Some(bit), Some(handle)));
            prop_assert_eq!(dimm.chip.map(u64::from), Some(chip));
        }
    }

    #[test]
    fn wide_memory_sections_come_back(
        words in proptest::array::uniform6(any::<u16>()),
        wide in (any::<u32>(), any::<u32>(), any::<u64>()),
        bytes in (any::<u8>(), any::<u8>(), any::<u8>()),
    ) {
        let [node, card, module, device, rank, handle] = words;
        let ((row, column, address), (group, bank, chip)) = (wide, bytes);
        let bytes = built(json!({ "form": "cper", "error": [{
            "kind": "memory2", "physical_address": hexed(address),
            "physical_address_mask": "0xffffffffffffffff", "node": node, "card": card,
            "module": module, "bank_group": group, "bank_address": bank, "device": device,
            "row": row, "column": column, "rank": rank, "module_handle": handle,
            "chip_identification": chip,
        }]}));
        let record = decoded(bytes, "cper").remove(0);
        let dimm = record.location.dimm;
        prop_assert_eq!(record.address.map(|at| at.addr.0), Some(address));
        prop_assert_eq!((dimm.bank_group, dimm.bank), (Some(group), Some(bank.into())));
        prop_assert_eq!((dimm.row, dimm.column, dimm.chip), (Some(row), Some(column), Some(chip)));
        prop_assert_eq!(
            [dimm.node, dimm.card, dimm.module, dimm.device, dimm.rank, dimm.module_handle],
            [node, card, module, device, rank, handle].map(Some)
        );
    }

    #[test]
    fn pcie_sections_come_back(
        place in (any::<u16>(), any::<u8>(), 0u8..32, 0u8..8),
        ids in (any::<u16>(), any::<u16>(), 0u32..1 << 24),
        aer in proptest::array::uniform3(any::<u32>()),
        serial in any::<u64>(),
    ) {
        let ((segment, bus, device, function), (vendor, id, class)) = (place, ids);
        let [status, mask, correctable] = aer;
        let bytes = built(json!({ "form": "cper", "error": [{
            "kind": "pcie", "port_type": 4, "segment": segment, "bus": bus, "device": device,
            "function": function, "vendor_id": vendor, "device_id": id, "class_code": class,
            "serial": hexed(serial), "aer_uncorrectable_status": status,
            "aer_uncorrectable_mask": mask, "aer_correctable_status": correctable,
        }]}));
        let record = decoded(bytes, "cper").remove(0);
        let pci = ras_core::PciAddress { segment: segment.into(), bus, device, function };
        prop_assert_eq!(record.location.pci, Some(pci));
        let shown = as_json(&record);
        let details = &shown["details"];
        prop_assert_eq!(&details["serial_number"], &hexed(serial));
        let aer = &details["aer"];
        prop_assert_eq!(&aer["uncorrectable_status"], &hexed(status.into()));
        prop_assert_eq!(&aer["uncorrectable_mask"], &hexed(mask.into()));
        prop_assert_eq!(&aer["correctable_status"], &hexed(correctable.into()));
    }

    /// A bank inside of a processor's section, in either sort of registers.
    #[test]
    fn banks_come_back_from_processor_sections(
        words in proptest::array::uniform4(any::<u64>()),
        bank in 0u8..32,
        scalable in any::<bool>(),
    ) {
        let [status, addr, misc, synd] = words;
        let status = status | 1 << 63;
        let (cpuid, ipid) = if scalable { (0xa0_0f11, 0x96_0005_0f00) } else { (0x50654, 0) };
        let bytes = built(json!({ "form": "cper", "error": [{
            "kind": "ia32-x64", "cpuid": cpuid, "bank": [{
                "bank": bank, "status": hexed(status), "addr": hexed(addr), "misc": hexed(misc),
                "synd": hexed(synd), "ipid": hexed(ipid),
            }],
        }]}));
        let record = decoded(bytes, "cper").remove(0);
        let Raw::Mca(found) = &record.witnesses[0].raw else { panic!("{record:?}") };
        prop_assert_eq!((found.bank, found.status, found.addr), (bank, status, addr));
        prop_assert_eq!((found.misc, found.ipid, found.cpuid), (misc, ipid, cpuid));
        prop_assert_eq!(found.synd, if scalable { synd } else { 0 });
    }
}

fn as_json(record: &ErrorRecord) -> serde_json::Value {
    let mut text = Vec::new();
    crate::json::record(record, &mut text);
    serde_json::from_slice(&text).unwrap()
}
