//! Errors, as lines of a capture.

use ras_core::Pfn;
use serde_json::json;

/// An uncorrected error found by the patrol scrubber: `IA32_MCi_STATUS` with UC, S and MCACOD 0xC0.
pub(crate) fn uncorrected(pfn: Pfn, time_ns: u64) -> String {
    mce(pfn, time_ns, "0xbd000000000000c0", "0x5")
}

/// A corrected read error on memory channel 0.
pub(crate) fn corrected(pfn: Pfn, time_ns: u64) -> String {
    mce(pfn, time_ns, "0x8c00004000010090", "0x0")
}

/// The processor's context is corrupt (PCC): nothing on this host can be trusted.
pub(crate) fn fatal(pfn: Pfn, time_ns: u64) -> String {
    mce(pfn, time_ns, "0xbe00000000000134", "0x4")
}

/// The firmware's account of an uncorrected error: an APEI generic error status block with one
/// memory section. ACPI, "Generic Error Status Block"; UEFI, Appendix N, "Memory Error Section".
pub(crate) fn firmware_uncorrected(pfn: Pfn, time_ns: u64) -> String {
    const MEMORY_SECTION: [u8; 16] = [
        0x14, 0x11, 0xbc, 0xa5, 0x64, 0x6f, 0xde, 0x4e, 0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83,
        0xb1,
    ];
    const SECTION: usize = 80;
    const ENTRY: usize = 72;
    const RECOVERABLE: u32 = 0;
    let mut section = vec![0; SECTION];
    // Valid: physical address, its mask.
    section[0] = 0b110;
    section[16..24].copy_from_slice(&pfn.addr().0.to_le_bytes());
    section[24..32].copy_from_slice(&(!0xfff_u64).to_le_bytes());

    let mut entry = MEMORY_SECTION.to_vec();
    entry.extend(RECOVERABLE.to_le_bytes());
    entry.extend(0x300_u16.to_le_bytes());
    entry.extend([0, 0]);
    entry.extend(u32::try_from(SECTION).unwrap().to_le_bytes());
    entry.resize(ENTRY, 0);

    let mut block = Vec::new();
    let length = u32::try_from(ENTRY + SECTION).unwrap();
    // Uncorrectable error valid, one entry; no raw data.
    for word in [(1 << 4) | 1, 0, 0, length, RECOVERABLE] {
        block.extend(word.to_le_bytes());
    }
    block.extend(entry);
    block.extend(section);
    let hex: String = block.iter().map(|byte| format!("{byte:02x}")).collect();
    line(&json!({ "time_ns": time_ns, "status_block": hex }))
}

/// A corrected error of an AMD memory controller (UMC 1 of a Zen 1 server), at its own address.
pub(crate) fn umc_corrected(normalized: u64, time_ns: u64) -> String {
    line(&json!({ "time_ns": time_ns, "mce": {
        "vendor": "amd", "cpuid": "0x800f12", "bank": 16, "status": "0x9c2040000000011b",
        "ipid": "0x9600100f00", "addr": format!("{normalized:#x}"), "socket": 0,
    }}))
}

fn mce(pfn: Pfn, time_ns: u64, status: &str, mcg_status: &str) -> String {
    line(&json!({ "time_ns": time_ns, "mce": {
        "vendor": "intel", "cpuid": "0x606a6", "bank": 13, "mcg_cap": "0x1000c1b",
        "mcg_status": mcg_status, "status": status, "misc": "0x8c",
        "addr": pfn.addr().to_string(),
    }}))
}

fn line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}
