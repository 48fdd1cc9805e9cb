use super::*;
use crate::text::LineDecoder;
use crate::text::kernel_log::KernelLog;
use proptest::prelude::*;
use ras_core::{PhysAddr, Severity};

fn decode(text: &str) -> Vec<ErrorRecord> {
    let mut log = KernelLog::new(Options::default());
    let mut found = Vec::new();
    let mut offset = 0;
    for line in text.lines() {
        log.line(line.as_bytes(), offset, &mut found);
        offset += line.len() as u64 + 1;
    }
    log.finish(&mut found);
    found.into_iter().map(|found| *found.record).collect()
}

fn one(text: &str) -> ErrorRecord {
    let mut records = decode(text);
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

fn registers(record: &ErrorRecord) -> &McaRegisters {
    let Raw::Mca(registers) = &record.raw else { panic!("{record:?}") };
    registers
}

const SMCA: &str = "\
Jan 31 11:00:00 node7 rasdaemon[812]:           <...>-4171  [004] ....     0.012345: mce_record: 2024-01-31 11:00:00 +0100 Unified Memory Controller (bank=17), status= dc2040000000011b, Corrected error, no action required., mci=CECC, mca= DRAM ECC error.
Jan 31 11:00:00 node7 rasdaemon[812]:  Memory Error 'mem-tx: generic read, tx: generic, level: L3/generic', memory_channel=5,csrow=2, cpu_type= AMD Scalable MCA, cpu= 4, socketid= 1, misc= d01a000101000000, addr= 12345680, synd= 1e0a00000a800002, ipid= 9600550f00, mcgstatus=0, mcgcap= 118, apicid= 8, microcode= a001173
";

#[test]
fn registers_of_a_machine_check_over_two_lines() {
    let record = one(SMCA);
    let mca = registers(&record);
    assert_eq!((mca.vendor, mca.bank, mca.status), (CpuVendor::Amd, 17, 0xdc20_4000_0000_011b));
    assert_eq!((mca.misc, mca.addr), (0xd01a_0001_0100_0000, 0x1234_5680));
    assert_eq!((mca.synd, mca.ipid), (0x1e0a_0000_0a80_0002, 0x96_0055_0f00));
    assert_eq!((mca.mcg_cap, mca.apic_id, mca.microcode), (0x118, 8, 0x0a00_1173));
    assert_eq!(mca.cpuid, 0, "the kind is no one model");
    assert_eq!(record.source, ErrorSource::MceRecord);
    assert_eq!(record.severity, Severity::Corrected);
    assert_eq!((record.location.cpu, record.location.socket), (Some(4), Some(1)));
    assert_eq!(record.location.channel, Some(5));
    assert_eq!(record.time, Some(Timestamp::from_secs(1_706_695_200)), "an hour ahead of UTC");
    assert!(record.problems.is_empty(), "{:?}", record.problems);
}

#[test]
fn lines_between_and_other_words_of_the_daemon_do_no_harm() {
    let (first, second) = SMCA.split_once('\n').unwrap();
    let between = "Jan 31 11:00:00 node7 kernel: usb 1-1: new device\n";
    assert_eq!(registers(&one(&format!("{first}\n{between}{second}"))).bank, 17);
    let idle = "Jan 31 11:00:00 node7 rasdaemon[812]: rasdaemon: ras:mc_event event enabled\n\
                Jan 31 11:00:00 node7 rasdaemon[812]: overriding event (1) with new print handler\n";
    assert!(decode(idle).is_empty());
    // The second half is lost: what is there is told.
    let record = one(&format!("{first}\n"));
    assert_eq!(registers(&record).status, 0xdc20_4000_0000_011b);
}

#[test]
fn one_kind_of_processor_is_one_model() {
    let record = one(
        "kworker/0:1-77 [000] ....  0.000123 mce_record [ERROR] 2024-01-31 10:00:00 +0000 bank=7, \
         status= 8c00004000010091, mci=Corrected_error, mca=MEMORY CONTROLLER RD_CHANNEL1_ERR, cpu_type= Skylake server, \
         cpu= 3, socketid= 0, ip= ffffffff81000000 (INEXACT), cs= 10, misc= 200401c0c8602086, addr= 1f1a3b40, mcgstatus=4 MCIP, \
         mcgcap= f000814, apicid= 6\n",
    );
    let mca = registers(&record);
    assert_eq!((mca.cpuid, mca.bank, mca.mcg_status), (0x50650, 7, 4));
    assert_eq!((mca.ip, mca.cs), (0xffff_ffff_8100_0000, 0x10));
    assert_eq!(record.address.map(|at| at.addr), Some(PhysAddr(0x1f1a_3b40)));
    let line = "a-1 [000] 0.1: mce_record: 2024-01-31 10:00:00 +0000 QPI, status= 8c00004000010091, cpu_type= Ivy Bridge, apicid= 6";
    let record = one(line);
    assert_eq!(record.problems[0].kind, ProblemKind::Unknown, "no bank");
}

#[test]
fn memory_events() {
    let record = one(
        "rasdaemon[1]: a b-9 [012] ....  0.000007: mc_event: 2023-11-14 22:13:20 +0000 2 Corrected errors: \
         memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (mc: 1 location: 1:0 address: 0x123456780 grain: 6 \
         syndrome: 0x00000005  area:DRAM err_code:0001:0091 socket:0 channel_mask:2 rank:1)",
    );
    assert_eq!((record.source, record.count), (ErrorSource::McEvent, 2));
    assert_eq!(record.location.fru.as_deref(), Some("CPU_SrcID#0_Ha#0_Chan#1_DIMM#0"));
    assert_eq!((record.location.imc, record.location.dimm.rank), (Some(1), Some(1)));
    assert_eq!(record.address.map(|at| (at.addr.0, at.lsb)), Some((0x1_2345_6780, 6)));
    assert_eq!(record.time, Some(Timestamp::from_secs(1_700_000_000)));
    let bare = one(
        "rasdaemon[1]: a-9 [012] ....  0.000007: mc_event: 2023-11-14 22:13:20 +0000 1 Uncorrected error: (mc: 0 grain: 64)",
    );
    assert_eq!((bare.severity, bare.address), (Severity::Srao, None));
}

#[test]
fn pcie_pages_and_extended_logs() {
    let aer = one(
        "rasdaemon[1]: irq/24-aerdrv-9 [001] ....  0.5: aer_event [EMERG] 2023-11-14 22:13:20 +0000 0000:3b:00.1 \
         (Ethernet (rev 2) - vendor_id: 0x8086 device_id: 0x1572) Completion Timeout TLP Header: 40000001 0000000f 90028090 00000000 \
         Uncorrected (Non-Fatal)",
    );
    assert_eq!(
        (aer.source, aer.location.pci.map(|pci| pci.function)),
        (ErrorSource::AerEvent, Some(1))
    );
    assert!(aer.summary.contains("Completion Timeout"), "{}", aer.summary);
    assert!(!aer.summary.contains("vendor"), "{}", aer.summary);
    let old = one(
        "rasdaemon[1]: a-9 [001] 0.5: aer_event: 2023-11-14 22:13:20 +0000 0000:3b:00.0 Bad TLP Corrected",
    );
    assert_eq!(old.severity, Severity::Corrected);
    let page = one(
        "rasdaemon[1]: a-9 [001] 0.5: memory_failure_event [ALERT] 2023-11-14 22:13:20 +0000 pfn=0x12345 page_type=dirty LRU page action_result=Recovered ",
    );
    assert_eq!(page.pages().map(|pages| pages.start.0), Some(0x12345));
    let extlog = one(
        "rasdaemon[1]: a-9 [001] 0.5: extlog_mem_event: 2023-11-14 22:13:20 +0000 [ERROR] 7 corrected error: single-bit ECC \
         physical addr: 0x40200000 mask: 0xfffffffffffff000 (node: 1 card: 2 module: 3 rank: 1)  DIMM A1 12345678-0000-0000-0000-000000000000",
    );
    assert_eq!((extlog.severity, extlog.location.dimm.card), (Severity::Corrected, Some(2)));
    assert_eq!(extlog.address.map(|at| (at.addr.0, at.lsb)), Some((0x4020_0000, 12)));
    assert_eq!(extlog.location.fru.as_deref(), Some("DIMM A1"));
}

#[test]
fn firmware_s_sections_with_their_dumps() {
    let text = "\
rasdaemon[1]: a-9 [001] 0.5: non_standard_event [ERROR] 2023-11-14 22:13:20 +0000  Recoverable section type: 12345678-9abc-def0-1122-334455667788 fru text: BOARD 1 fru id: 00000000-0000-0000-0000-000000000000  length: 20 error:
rasdaemon[1]:   00000000: 03020100 07060504 0b0a0908 0f0e0d0c
rasdaemon[1]:   00000010: 13121110
rasdaemon[1]: a-9 [002] 0.6: arm_event [ERROR] 2023-11-14 22:13:21 +0000 affinity: 0 MPIDR: 0x81000100 MIDR: 0x481fd010 running_state: 1 psci_state: 0 ARM Processor Err Info data len: 0
";
    let records = decode(text);
    assert_eq!(records.len(), 2, "{records:?}");
    let Raw::Section { bytes, .. } = &records[0].raw else { panic!("{records:?}") };
    assert_eq!(*bytes, (0..20).collect::<Vec<u8>>());
    assert_eq!(records[0].location.fru.as_deref(), Some("BOARD 1"));
    assert_eq!(records[1].source, ErrorSource::ArmEvent);
    assert_eq!(records[1].time, Some(Timestamp::from_secs(1_700_000_001)));
}

#[test]
fn what_cannot_be_read_is_told() {
    let cxl = one(
        "rasdaemon[1]: a-9 [001] 0.5: cxl_poison [ERROR] 2023-11-14 22:13:20 +0000 memdev:mem0 host:0000:0d:00.0",
    );
    assert_eq!((cxl.source, cxl.class), (ErrorSource::Rasdaemon, ErrorClass::Cxl));
    assert_eq!(cxl.severity, Severity::Unknown);
    assert!(matches!(&cxl.raw, Raw::Text(text) if text.contains("memdev:mem0")));
    for line in ["mc_event: 2023-11-14 22:13:20 +0000 x", "mce_record: 2023-11-14 22:13:20 +0000"] {
        let record = one(&format!("rasdaemon[1]: a-9 [001] 0.5: {line}"));
        assert_eq!(record.problems.len(), 1, "{line}");
        assert!(matches!(&record.raw, Raw::Text(text) if text.contains("22:13:20")), "{line}");
    }
    // No date, no event.
    assert!(decode("rasdaemon[1]: a-9 [001] 0.5: mc_event: yesterday 2 Corrected").is_empty());
}

#[test]
fn text_without_end_is_bounded() {
    let mut text = String::from(
        "rasdaemon[1]: a-9 [001] 0.5: arm_event: 2023-11-14 22:13:21 +0000 affinity: 0 MPIDR: 0x1 MIDR: 0x2\n",
    );
    for _ in 0..1000 {
        text.push_str("rasdaemon[1]:  00000000: ");
        text.push_str(&"00010203 ".repeat(200));
        text.push('\n');
    }
    let record = one(&text);
    assert!(record.problems.iter().any(|problem| problem.kind == ProblemKind::Limit));
}

proptest! {
    #[test]
    fn anything_may_stand_in_a_line(cut in 0..SMCA.len(), with in "\\PC{0,12}") {
        let (head, tail) = SMCA.split_at(cut);
        let _ = decode(&format!("{head}{with}{tail}"));
        let _ = decode(&format!("rasdaemon: a-1 [000] 0.1: {with} mc_event: 2023-11-14 22:13:20 +0000 {tail}"));
    }
}
