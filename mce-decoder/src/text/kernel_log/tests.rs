use super::*;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;
use ras_core::{ErrorClass, ErrorRecord, ErrorSource, McaRegisters, ProblemKind, Severity};

pub(super) fn decode(text: &str) -> Vec<Found> {
    decode_with(text, Options::default())
}

pub(super) fn decode_with(text: &str, options: Options) -> Vec<Found> {
    let mut log = KernelLog::new(options);
    let mut found = vec![];
    let mut offset = 0;
    for line in text.split('\n') {
        log.line(line.as_bytes(), offset, &mut found);
        offset += line.len() as u64 + 1;
    }
    log.finish(&mut found);
    found
}

pub(super) fn one(text: &str) -> ErrorRecord {
    let mut found = decode(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    *found.remove(0).record
}

fn registers(record: &ErrorRecord) -> &McaRegisters {
    match &record.raw {
        Raw::Mca(registers) => registers,
        other => panic!("{other:?}"),
    }
}

const GROUP: &str = "\
[  106.962373] mce: [Hardware Error]: CPU 18: Machine Check Exception: 5 Bank 7: be00000001010091
[  106.962377] mce: [Hardware Error]: RIP !INEXACT! 10:<ffffffffac58472a> {acpi_idle_do_entry+0x4a/0x60}
[  107.001057] mce: [Hardware Error]: TSC ae4b410af0b8 ADDR 314d193000 MISC 200400c008002086 PPIN 1234
[  107.010283] mce: [Hardware Error]: PROCESSOR 0:50657 TIME 1605843017 SOCKET 1 APIC 40 microcode 5000021";

#[test]
fn a_group_is_one_record() {
    let record = one(&format!("a line before\n{GROUP}\n"));
    assert_eq!(record.source, ErrorSource::KernelMce);
    assert_eq!(record.problems, []);
    assert_eq!(record.time, Some(Timestamp::from_secs(1_605_843_017)));
    assert_eq!((record.location.cpu, record.location.socket), (Some(18), Some(1)));
    let expected = McaRegisters {
        vendor: CpuVendor::Intel,
        cpuid: 0x50657,
        bank: 7,
        mcg_status: 5,
        status: 0xbe00_0000_0101_0091,
        addr: 0x31_4d19_3000,
        misc: 0x2004_00c0_0800_2086,
        ip: 0xffff_ffff_ac58_472a,
        cs: 0x10,
        tsc: 0xae4b_410a_f0b8,
        ppin: 0x1234,
        apic_id: 0x40,
        microcode: 0x0500_0021,
        ..McaRegisters::default()
    };
    assert_eq!(registers(&record), &expected);
    let names: Vec<_> = record.details.iter().map(|detail| detail.name.to_string()).collect();
    assert!(names.ends_with(&["monotonic_ns".into(), "ip_inexact".into(), "ip_symbol".into()]));
    assert_eq!(decode(&format!("12345\n{GROUP}"))[0].offset, 6);
}

#[test]
fn missing_lines_are_problems_and_the_rest_is_decoded() {
    let lines: Vec<&str> = GROUP.lines().collect();
    let record = one(&[lines[0], lines[1], lines[2]].join("\n"));
    assert_eq!(registers(&record).addr, 0x31_4d19_3000);
    assert_eq!(record.severity, Severity::Fatal);
    let details: Vec<_> = record.problems.iter().map(|problem| problem.detail.as_str()).collect();
    assert!(details.contains(&"the line that names a machine check's processor is missing"));

    let record = one(&[lines[0], lines[3]].join("\n"));
    assert_eq!(registers(&record).cpuid, 0x50657);
    assert_eq!(record.problems[0].kind, ProblemKind::Truncated);

    let record = one(&[lines[2], lines[3]].join("\n"));
    assert_eq!((record.severity, record.source), (Severity::Unknown, ErrorSource::KernelMce));
    assert_eq!(record.problems[0].kind, ProblemKind::Truncated);
}

#[test]
fn who_the_processor_is_can_be_told() {
    let first = GROUP.lines().next().unwrap();
    let options =
        Options { vendor: Some(CpuVendor::Intel), cpuid: Some(0x50657), ..Options::default() };
    let found = decode_with(first, options);
    assert_eq!(registers(&found[0].record).cpuid, 0x50657);
}

#[test]
fn callers_keep_mixed_groups_apart() {
    let line =
        |caller: u32, text: &str| format!("[  106.9][ T{caller}] mce: [Hardware Error]: {text}\n");
    let group = |cpu: u32| {
        [
            line(cpu, &format!("CPU {cpu}: Machine Check: 0 Bank {cpu}: 8c00004000010090")),
            line(cpu, &format!("TSC {cpu} ADDR {cpu}000 MISC 86")),
            line(cpu, &format!("PROCESSOR 0:50657 TIME 1 SOCKET {cpu} APIC 0 microcode 1")),
        ]
    };
    let (a, b) = (group(1), group(2));
    let text = [&a[0], &b[0], &b[1], &a[1], &b[2], &a[2]].map(String::as_str).concat();
    let found = decode(&text);
    assert_eq!(found.len(), 2);
    for Found { record, .. } in &found {
        let cpu = record.location.cpu.unwrap();
        assert_eq!(
            (record.location.socket, registers(record).addr),
            (Some(cpu), u64::from(cpu) << 12)
        );
        assert_eq!(record.problems, []);
    }
}

#[test]
fn mixed_groups_without_callers_say_so() {
    let text = "\
mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 1: 8800004000010090
mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 2: 8c00004000010090
mce: [Hardware Error]: TSC 2 ADDR 2000 MISC 86
mce: [Hardware Error]: TSC 1 MISC 86
mce: [Hardware Error]: PROCESSOR 0:50657 TIME 1 SOCKET 0 APIC 0 microcode 1
mce: [Hardware Error]: PROCESSOR 0:50657 TIME 1 SOCKET 0 APIC 0 microcode 1";
    let found = decode(text);
    let tsc: Vec<_> = found.iter().map(|found| registers(&found.record).tsc).collect();
    assert_eq!(tsc, [1, 2], "a status without ADDRV has no address");
    assert!(found[0].record.problems.iter().any(|p| p.kind == ProblemKind::Inconsistent));
}

#[test]
fn old_spellings() {
    let record = one("CPU 0: Machine Check Exception:                4 Bank 4: b200000000070f0f\n\
                      TSC 1194fe13de\nThis is not a software problem!\n\
                      PROCESSOR 2:f51 TIME 1 SOCKET 0 APIC 0\n");
    assert_eq!((registers(&record).vendor, registers(&record).bank), (CpuVendor::Amd, 4));
    assert_eq!(record.problems, []);
    let found = decode(
        "CPU 3: Machine Check Exception: 0000000000000004\n\
                        Bank 0: b200000010000800\nBank 5: be00000000800400[0000000000000001] at 00003fe98d264ebd\n",
    );
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].record.location.cpu, Some(3));
    let last = registers(&found[1].record);
    assert_eq!((last.bank, last.misc, last.addr), (5, 1, 0x3fe9_8d26_4ebd));
}

#[test]
fn amd_s_own_words() {
    let text = "\
[51295.726640] [Hardware Error]: Deferred error, no action required.
[51295.733448] [Hardware Error]: CPU:65 (19:11:1) MC21_STATUS[-|-|-|AddrV|-|-|SyndV|UECC|Deferred|-|Scrub]: 0x942031000400011b
[51295.733452] [Hardware Error]: Error Addr: 0x0000000006350a00
[51295.733453] [Hardware Error]: PPIN: 0x02b69e294c148024
[51295.733453] [Hardware Error]: IPID: 0x0000109600250f00, Syndrome: 0x9a4a00000b800000
[51295.733455] [Hardware Error]: Unified Memory Controller Ext. Error Code: 0, DRAM ECC error.
[51295.733471] [Hardware Error]: cache level: L3/GEN, tx: GEN, mem-tx: RD
";
    let record = one(text);
    let amd = registers(&record);
    assert_eq!((amd.vendor, amd.cpuid, amd.bank), (CpuVendor::Amd, 0xa1_0f11, 21));
    assert_eq!(
        (amd.addr, amd.ipid, amd.synd),
        (0x635_0a00, 0x1096_0025_0f00, 0x9a4a_0000_0b80_0000)
    );
    assert_eq!((amd.ppin, record.location.cpu), (0x02b6_9e29_4c14_8024, Some(65)));
    assert_eq!(record.severity, Severity::Deferred);
    assert_eq!(record.problems, []);
}

#[test]
fn lines_that_mail_has_broken() {
    let record = one("\
[ 0.600082] [Hardware Error]: System Fatal error.
[ 0.600093] [Hardware Error]: CPU:4 (19:21:2)
MC5_STATUS[-|UE|MiscV|AddrV|PCC|TCC|SyndV|-|-|-]: 0xbea0000001000108
[ 0.600116] [Hardware Error]: Error Addr: 0x01ffffffc100201c
[ 0.600126] [Hardware Error]: IPID: 0x000500b000000000, Syndrome:
0x000000004d000000
[ 0.600145] [Hardware Error]: Execution Unit Ext. Error Code: 0
");
    assert_eq!(registers(&record).status, 0xbea0_0000_0100_0108);
    assert_eq!((registers(&record).synd, registers(&record).cpuid), (0x4d00_0000, 0xa2_0f12));
    assert_eq!(record.problems, []);
}

#[test]
fn a_notice_counts_only_if_nothing_follows_it() {
    let notice = "[    1.0] mce: [Hardware Error]: Machine check events logged\n";
    assert_eq!(one(notice).severity, Severity::Informational);
    assert_eq!(one(&format!("{notice}{GROUP}")).source, ErrorSource::KernelMce);
}

#[test]
fn single_lines() {
    let record = one(
        "[  1.0] mce: CPU3: Package temperature above threshold, cpu clock throttled (total events = 7)",
    );
    assert_eq!((record.severity, record.location.cpu), (Severity::Informational, Some(3)));
    let record = one("Kernel panic - not syncing: Fatal machine check on current CPU");
    assert_eq!(record.severity, Severity::Fatal);
    let record = one("Uhhuh. NMI received for unknown reason 2d on CPU 5.");
    assert_eq!(record.location.cpu, Some(5));
    let record = one("mce: [Hardware Error]: Machine check: Processor context corrupt");
    assert_eq!(record.severity, Severity::Fatal);
    let record = one("mce: [Hardware Error]: something new");
    assert_eq!(record.problems[0].kind, ProblemKind::Unknown);
}

#[test]
fn a_prefix_nobody_knows_does_not_hide_an_error() {
    let text: String = GROUP.lines().map(|line| format!("kern.emerg@host|{line}\n")).collect();
    assert_eq!(registers(&one(&text)).addr, 0x31_4d19_3000);
}

#[test]
fn firmware_s_memory_error() {
    let text = "\
[  838.4] {2}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 4
[  838.5] {2}[Hardware Error]: It has been corrected by h/w and requires no further action
[  838.6] {2}[Hardware Error]: event severity: corrected
[  838.7] {2}[Hardware Error]:  precise tstamp: 2023-11-14 22:13:20
[  838.8] {2}[Hardware Error]:  Error 0, type: corrected
[  838.9] {2}[Hardware Error]:  fru_text: DIMM_B2
[  838.9] {2}[Hardware Error]:   section_type: memory error
[  838.9] {2}[Hardware Error]:   error_status: Storage error in memory (DRAM) (0x0000000000000400)
[  838.9] {2}[Hardware Error]:   physical_address: 0x0000000080001040
[  838.9] {2}[Hardware Error]:   physical_address_mask: 0xffffffffffffffc0
[  838.9] {2}[Hardware Error]:   node:1 card:2 module:0 rank:1 bank:1282 bank_group:5 bank_address:2 device:3 row:75492 column:1544 bit_position:7 chip_id:1
[  838.9] {2}[Hardware Error]:   error_type: 2, single-bit ECC
[  838.9] {2}[Hardware Error]:   DIMM location: not present. DMI handle: 0x1101
";
    let record = one(text);
    assert_eq!((record.source, record.severity), (ErrorSource::KernelApei, Severity::Corrected));
    assert_eq!(record.time, Some(Timestamp::from_secs(1_700_000_000)));
    assert_eq!(record.problems, []);
    let dimm = &record.location.dimm;
    assert_eq!(
        (dimm.node, dimm.card, dimm.rank, dimm.device),
        (Some(1), Some(2), Some(1), Some(3))
    );
    assert_eq!((dimm.bank_group, dimm.bank, dimm.chip), (Some(5), Some(2), Some(1)));
    assert_eq!((dimm.row, dimm.column, dimm.bit_position), (Some(75492), Some(1544), Some(7)));
    assert_eq!(
        (dimm.module_handle, record.location.fru.as_deref()),
        (Some(0x1101), Some("DIMM_B2"))
    );
    assert_eq!(record.address.map(|at| (at.addr.0, at.lsb)), Some((0x8000_1040, 6)));
    assert!(matches!(&record.raw, Raw::Text(text) if text.contains("single-bit ECC")));
}

#[test]
fn one_record_for_each_section_of_mixed_reports() {
    let text = "\
{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 5
{2}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 6
{1}[Hardware Error]: event severity: fatal
{1}[Hardware Error]:  Error 0, type: fatal
{2}[Hardware Error]: event severity: recoverable
{1}[Hardware Error]:   section_type: PCIe error
{1}[Hardware Error]:   device_id: 0000:05:00.1
{2}[Hardware Error]:  Error 0, type: recoverable
{2}[Hardware Error]:   section_type: memory error
{2}[Hardware Error]:   physical_address: 0x0000000080001040
{1}[Hardware Error]:  Error 1, type: corrected
{1}[Hardware Error]:   section_type: CXL Protocol Error
";
    let found = decode(text);
    let seen: Vec<_> = found.iter().map(|f| (f.record.class, f.record.severity)).collect();
    assert_eq!(
        seen,
        [
            (ErrorClass::Pcie, Severity::Fatal),
            (ErrorClass::Cxl, Severity::Corrected),
            (ErrorClass::Memory, Severity::Srao),
        ]
    );
    assert_eq!(found[0].record.location.pci.map(|pci| pci.bus), Some(5));
    assert_eq!((found[0].offset, found[2].offset), (0, 79));
}

#[test]
fn a_previous_boot_s_dump_is_bytes_again() {
    let text = "\
[Tue Nov 14 22:13:20 2023] BERT: Error records from previous boot:
[Tue Nov 14 22:13:20 2023] [Hardware Error]: event severity: fatal
[Tue Nov 14 22:13:20 2023] [Hardware Error]:  Error 0, type: fatal
[Tue Nov 14 22:13:20 2023] [Hardware Error]:   section type: unknown, 12345678-09ed-4996-9471-8d729c8e69ed
[Tue Nov 14 22:13:20 2023] [Hardware Error]:   section length: 0x20
[Tue Nov 14 22:13:20 2023] [Hardware Error]:   00000000: 4d415201 00000000 00000000 00020002  .RAM............
";
    let record = one(text);
    assert!(record.flags.previous_boot);
    assert_eq!((record.time, record.severity), (None, Severity::Fatal));
    let Raw::Section { bytes, .. } = &record.raw else { panic!("{:?}", record.raw) };
    assert_eq!((bytes.len(), &bytes[..4]), (16, &[0x01, 0x52, 0x41, 0x4d][..]));
    assert_eq!(record.problems[0].detail, "section of 32 bytes, 16 are there");
}

#[test]
fn a_report_without_its_parts() {
    let record = one("{7}[Hardware Error]: event severity: fatal");
    assert_eq!(record.problems[0].kind, ProblemKind::Truncated);
    let record = one("{7}[Hardware Error]:   physical_address: 0x0000000080001040");
    assert_eq!((record.severity, record.problems.len()), (Severity::Unknown, 1));
    let record = one("[ 10.0] {2}[Hardware Error]: Hardware error from APEI Generic \n\
                      Hardware Error Source: 3\n\
                      [ 10.1] {2}[Hardware Error]: event severity: recoverable\n");
    assert!(record.details.iter().any(|d| d.name == "apei_source" && d.value == 3u64.into()));
}

#[test]
fn edac_of_many_kernels() {
    let record = one(
        "[1.0] EDAC MC1: 2 CE memory read error on CPU_SrcID#2_Channel#2_DIMM#0 (channel:2 slot:0 page:0x2007eaaa offset:0x100 grain:32 syndrome:0x5 -  area:DRAM err_code:0001:0092 socket:2 rank:1 bg:1 ba:2 row:0x1f col:0x8)",
    );
    assert_eq!((record.source, record.severity), (ErrorSource::KernelEdac, Severity::Corrected));
    assert_eq!(record.address.map(|at| (at.addr.0, at.lsb)), Some((0x0200_7eaa_a100, 5)));
    assert_eq!((record.count, record.location.imc, record.location.channel), (2, Some(1), Some(2)));
    assert_eq!(record.location.fru.as_deref(), Some("CPU_SrcID#2_Channel#2_DIMM#0"));
    let dimm = &record.location.dimm;
    assert_eq!((dimm.module, dimm.rank, dimm.row), (Some(0), Some(1), Some(0x1f)));
    assert!(record.details.iter().any(|detail| detail.name == "err_code"));

    let record = one(
        "EDAC MC0: 1 UE Cannot decode normalized address on mc#0csrow#0channel#2 (csrow:0 channel:2 page:0x0 offset:0x0 grain:64)",
    );
    assert_eq!((record.address, record.location.channel), (None, Some(2)));
    assert!(record.severity.is_uncorrected());

    let record = one(
        "EDAC MC0: 1 CE single-symbol chipkill ECC on unknown memory (node: 0 card: 3 bank: 1282 row: 11387 column: 1544 DIMM location: not present. DMI handle: 0x0000 page:0x963d9b offset:0x20 grain:1 syndrome:0x0 - APEI location: node: 0 status(0x0000000000000000): reserved)",
    );
    assert_eq!((record.location.dimm.card, record.location.dimm.row), (Some(3), Some(11387)));
    assert_eq!(record.address.map(|at| at.addr.0), Some(0x9_63d9_b020));
    assert_eq!(record.location.fru, None);

    let record = one(
        "EDAC MC1: CE page 0xf075b2, offset 0x410, grain 0, syndrome 0xa082, row 6, channel 0, label \"\": amd64_edac",
    );
    assert_eq!(record.address.map(|at| at.addr.0), Some(0xf_075b_2410));
    assert_eq!((record.location.channel, record.location.fru), (Some(0), None));
    let record = one(
        "EDAC MC0: CE row 3, channel 1, label \"DIMM_A1\": 4 Unknown error(s): memory read on FATAL area : cpu=0 Err=0000:009f (ch=15), ",
    );
    assert_eq!((record.count, record.location.fru.as_deref()), (4, Some("DIMM_A1")));
    assert_eq!(one("EDAC MC0: UE - no information available: i7core_edac").location.imc, Some(0));
    let record = one("EDAC PCI: Master Data Parity Error on 0000:03:00.1");
    assert_eq!(record.location.pci.map(|pci| (pci.bus, pci.function)), Some((3, 1)));
    assert_eq!(
        one("EDAC DEVICE0: CE: l3 instance: l3c0 block: l3c0 count: 3 'l3c0 error'").count,
        3
    );
    assert!(decode("EDAC MC: Ver: 3.0.0\nEDAC MC0: Giving out device to module skx_edac controller Skylake\n").is_empty());
}

#[test]
fn edac_prints_machine_checks_register_by_register() {
    let text = "\
EDAC sbridge MC0: HANDLING MCE MEMORY ERROR
EDAC sbridge MC0: CPU 8: Machine Check Event: 0 Bank 7: 8c00004000010091
EDAC sbridge MC0: TSC 0 
EDAC sbridge MC0: ADDR 3f1a3b40 EDAC sbridge MC0: MISC 21426c8c86 
EDAC sbridge MC0: PROCESSOR 0:206d7 TIME 1436000000 SOCKET 1 APIC 20
";
    let text = text.replace("3f1a3b40 EDAC", "3f1a3b40 \nEDAC");
    let record = one(&text);
    assert_eq!((registers(&record).addr, registers(&record).misc), (0x3f1a_3b40, 0x21_426c_8c86));
    assert_eq!((record.location.socket, registers(&record).cpuid), (Some(1), 0x206d7));
    assert_eq!(record.problems, []);
}

#[test]
fn what_became_of_a_page() {
    let record = one("\
[1.0] Memory failure: 0x12345: Sending SIGBUS to qemu:12 due to hardware memory corruption
[1.1] Memory failure: 0x12345: recovery action for dirty LRU page: Recovered
");
    assert_eq!(record.source, ErrorSource::MemoryFailure);
    assert_eq!(record.pages().map(|pages| pages.start.0), Some(0x12345));
    assert!(record.summary.contains("dirty LRU page"), "{}", record.summary);
    assert_eq!(record.problems, []);
    let record = one("MCE 0x12345: dirty LRU page recovery: Recovered");
    assert!(record.summary.ends_with("Recovered"), "{}", record.summary);
    let record = one("Memory failure: 0x12345: already hardware poisoned");
    assert_eq!(record.problems, []);
    let record = one("mce: Uncorrected hardware memory error in user-access at 314d193000");
    assert_eq!(
        (record.severity, record.address.map(|at| at.addr.0)),
        (Severity::Srar, Some(0x31_4d19_3000))
    );
    let record = one("RAS: Soft-offlining pfn: 0x12345");
    assert_eq!(
        (record.severity, record.pages().map(|p| p.start.0)),
        (Severity::Corrected, Some(0x12345))
    );
    let record = one(
        "MCE: Killing qemu-system:4321 due to hardware memory corruption fault at 7f0012345000",
    );
    assert_eq!((record.address, record.severity), (None, Severity::Srar));
    assert_eq!(one("soft offline: 0x12345: page migration failed 1").severity, Severity::Corrected);
    assert_eq!(
        one("Injecting memory failure for pfn 0x12345 at process virtual address 0x7f").severity,
        Severity::Informational
    );
}

#[test]
fn pcie_reports() {
    let record = one("\
[1.0] pcieport 0000:00:1c.0: AER: Multiple Corrected error message received from 0000:02:00.0
[1.0] nvme 0000:02:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)
[1.0] nvme 0000:02:00.0:   device [144d:a808] error status/mask=00000041/0000e000
[1.0] nvme 0000:02:00.0:    [ 0] RxErr                  (First)
[1.0] nvme 0000:02:00.0:    [ 6] BadTLP                
");
    assert_eq!((record.source, record.severity), (ErrorSource::KernelAer, Severity::Corrected));
    assert_eq!(record.summary, "PCIe 0000:02:00.0: receiver error, bad TLP, corrected");
    assert_eq!(record.problems, []);
    let record = one("\
pcieport 0000:00:1c.0: AER: Uncorrected (Fatal) error received: id=0200
foo 0000:02:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, id=0200(Receiver ID)
foo 0000:02:00.0:   device [144d:a808] error status/mask=00040000/00000000
foo 0000:02:00.0:    [18] Malformed TLP          (First)
foo 0000:02:00.0:   TLP Header: 40000001 0000000f 90028090 00000000
");
    assert_eq!(record.severity, Severity::Fatal);
    assert!(record.details.iter().any(|detail| detail.name == "tlp_header"));
    let record = one("pcieport 0000:00:1c.0: AER: Corrected error received: 0000:02:00.0\n\
                      pcieport 0000:00:1c.0: AER: found no error details for 0000:02:00.0");
    assert_eq!(record.problems[0].kind, ProblemKind::Truncated);
    let record = one("pcieport 0000:00:01.0: DPC: containment event, status:0x1f05 source:0x0200");
    assert_eq!(
        (record.severity, record.location.pci.map(|pci| pci.device)),
        (Severity::Fatal, Some(1))
    );
    let record = one("\
foo 0000:02:00.0: aer_status: 0x00100000, aer_mask: 0x00010000
foo 0000:02:00.0:    [20] UnsupReq               (First)
foo 0000:02:00.0: aer_layer=Transaction Layer, aer_agent=Requester ID
foo 0000:02:00.0: aer_uncor_severity: 0x000ef030
");
    assert_eq!(record.severity, Severity::Ucna);
    assert!(decode("nvme 0000:02:00.0: enabling device (0000 -> 0002)\npcieport 0000:00:1c.0: AER: enabled with IRQ 24").is_empty());
}

/// Lines of every kind, whole and broken.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let known: Vec<String> = SAMPLES.lines().map(ToString::to_string).collect();
    let line = (proptest::sample::select(known), 0usize..200, any::<bool>()).prop_map(
        |(line, cut, whole)| match line.get(..cut) {
            Some(cut) if !whole => cut.to_string(),
            _ => line,
        },
    );
    proptest::collection::vec(line, 0..40)
}

const SAMPLES: &str = include_str!("samples.txt");

proptest! {
    #[test]
    fn lines_in_any_order_are_bounded(lines in lines()) {
        let text = lines.join("\n");
        for Found { offset, record } in decode(&text) {
            prop_assert!(offset <= text.len() as u64);
            prop_assert!(!record.summary.is_empty() && !record.summary.contains('\n'));
            if let Raw::Text(raw) = &record.raw {
                prop_assert!(!raw.is_empty() && raw.len() <= RAW_MAX);
            }
            prop_assert!(record.problems.iter().all(|p| p.offset <= text.len() as u64));
        }
    }

    #[test]
    fn any_bytes_are_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut log = KernelLog::default();
        let mut found = vec![];
        for line in bytes.split(|byte| *byte == b'\n') {
            log.line(line, 0, &mut found);
        }
        for mark in ["[Hardware Error]: ", "EDAC MC0: ", "Memory failure: 0x", "pcieport 0000:00:1c.0: "] {
            log.line(&[mark.as_bytes(), &bytes].concat(), 0, &mut found);
        }
        log.finish(&mut found);
    }
}
