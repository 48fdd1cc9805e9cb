//! What rasd does before it says that it is ready: the memory map, the gap, the word to the service
//! manager, the figures.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use persist_store::boot::BootList;
use persist_store::exclusion::List;
use persist_store::{Change, ChangeKind, Entry, Store};
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};

use super::T0;
use super::events::uncorrected;
use super::host::Host;

const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
00100000-12344fff : System RAM
12345000-12345fff : Unusable memory
12346000-3fff6fff : System RAM
3fff7000-3fff7fff : Reserved
3fff8000-3fffffff : System RAM
";

const FIRMWARE: [(u64, u64, &str); 4] = [
    (0x1000, 0x9fbff, "System RAM"),
    (0x10_0000, 0x1234_4fff, "System RAM"),
    (0x1234_5000, 0x1234_5fff, "Unusable memory"),
    (0x1234_6000, 0x3fff_ffff, "System RAM"),
];

pub(crate) fn page(
    pfn: u64,
    reason: RetireReason,
    severity: Severity,
    state: RetireState,
) -> RetiredPage {
    RetiredPage {
        pfn: Pfn(pfn),
        reason,
        state,
        severity,
        source: ErrorSource::MceRecord,
        since: Timestamp(T0),
        updated: Timestamp(T0),
        attempts: 1,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: "for the story".into(),
        outcome: "host: offline".into(),
    }
}

pub(crate) fn corrected(pfn: u64) -> RetiredPage {
    page(pfn, RetireReason::CorrectedThreshold, Severity::Corrected, RetireState::Retired)
}

pub(crate) fn remember(host: &Host, pages: impl IntoIterator<Item = RetiredPage>) {
    let entries: Vec<Entry> = pages.into_iter().map(Entry::from).collect();
    Store::open(&host.store()).unwrap().0.append_all(&entries).unwrap();
}

/// Everything the service manager hears up to `READY=1`.
pub(crate) fn heard_until_ready(manager: &UnixDatagram) -> Vec<String> {
    let mut heard = Vec::new();
    let mut message = [0; 4096];
    loop {
        let count = manager.recv(&mut message).unwrap();
        heard.push(String::from_utf8(message[..count].to_vec()).unwrap());
        if heard.last().unwrap().lines().any(|line| line == "READY=1") {
            return heard;
        }
    }
}

pub(crate) fn figures(text: &str) -> BTreeMap<String, u64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn pages_excluded_before_the_boot_are_found_out_and_the_rest_is_offlined() {
    let mut host = Host::new();
    host.memory_map(IOMEM, &FIRMWARE);
    let file = host.path("rasd.prom");
    host.configure(&format!("[metrics]\nfile = {file:?}\n"));
    let expired = page(0x20000, RetireReason::Uncorrected, Severity::Srao, RetireState::Retired);
    remember(
        &host,
        [
            corrected(0x12344),
            // Firmware took it; so did the command line the next one; there is no memory at the third.
            page(0x12345, RetireReason::Uncorrected, Severity::Srao, RetireState::Failed),
            corrected(0x3fff7),
            corrected(0x50000),
            expired.clone(),
        ],
    );
    // An entry whose module is gone is not acted on.
    let gone = Change {
        pfn: expired.pfn,
        since: expired.since,
        time: Timestamp(T0),
        kind: ChangeKind::Expired,
        logged: true,
        who: "the story".into(),
        note: "for the story".into(),
    };
    Store::open(&host.store()).unwrap().0.append(Entry::Changed(gone)).unwrap();
    let mut daemon = host.start();
    assert_eq!([host.asked("soft"), host.asked("hard")].concat(), ["0x12344000"]);
    let status = daemon.wait_status("the walks to end", |status| {
        status.pages.failed == 0 && status.pages.retired == 4
    });
    let gap = status.gap;
    assert_eq!((gap.pages, gap.excluded, gap.absent, gap.in_use), (1, 2, 1, 0));
    assert!(gap.seconds > 0, "the machine has been up for a while");
    let outcome = |pfn| host.page(Pfn(pfn)).unwrap().outcome;
    assert_eq!(outcome(0x12345), "host: excluded before the boot (unusable memory)");
    assert_eq!(
        outcome(0x3fff7),
        "host: excluded before the boot (reserved, by the kernel's command line)"
    );
    assert_eq!(
        (outcome(0x12344), outcome(0x50000)),
        ("host: offline".into(), "host: offline".into())
    );
    assert_eq!(status.pages.expired, 1);

    let (_, text, _) = host.rasctl(&["status"]);
    for line in [
        "2 were excluded before the kernel started",
        "1 had been usable for up to",
        "1 lie where this machine has no memory",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let seen = figures(&fs::read_to_string(&file).unwrap());
    assert_eq!(seen["ras_ready"], 1);
    assert_eq!(seen["ras_start_gap_pages"], 1);
    assert_eq!(seen["ras_start_gap_seconds"], gap.seconds);
    assert_eq!(seen["ras_start_excluded_pages"], 2);
    daemon.stop().assert_success();

    // Without the driver at the next boot the page is in use, and its entry says so no longer.
    host.reboot();
    host.memory_map(&IOMEM.replace("Unusable memory", "System RAM"), &[]);
    host.start().stop().assert_success();
    let asked = [host.asked("soft"), host.asked("hard")].concat();
    assert!(asked.contains(&"0x12345000".to_owned()), "{asked:?}");
    assert_eq!(outcome(0x12345), "host: offline");
}

#[test]
fn without_any_map_every_page_is_asked_for_and_it_is_said() {
    let host = Host::new();
    let hidden = "00000000-00000000 : System RAM\n";
    host.memory_map(hidden, &[]);
    remember(&host, [corrected(0x12345)]);
    let daemon = host.start();
    let log = daemon.log();
    for note in ["CAP_SYS_ADMIN", "firmware/memmap", "no SMBIOS tables"] {
        assert!(log.contains(note), "{note}: {log}");
    }
    assert_eq!(host.asked("soft"), ["0x12345000"]);
    daemon.stop().assert_success();
}

#[test]
fn the_worst_pages_are_offlined_first() {
    let host = Host::new();
    host.memory_map(IOMEM, &FIRMWARE);
    let uncorrected = |pfn, severity, state| page(pfn, RetireReason::Uncorrected, severity, state);
    remember(
        &host,
        [
            corrected(0x1000),
            uncorrected(0x1001, Severity::Srao, RetireState::Retired),
            corrected(0x1002),
            uncorrected(0x1003, Severity::Srar, RetireState::Retired),
            page(0x1004, RetireReason::Operator, Severity::Unknown, RetireState::Retired),
            uncorrected(0x1005, Severity::Srao, RetireState::Failed),
        ],
    );
    host.start().stop().assert_success();
    // In `Badness`' order: what the kernel would not give up before, then what somebody consumed.
    let order = [0x1005, 0x1003, 0x1001, 0x1004, 0x1000, 0x1002_u64];
    assert_eq!(host.asked("soft"), order.map(|pfn| format!("{:#x}", pfn << 12)));
}

/// 10,000 pages: the service manager hears how it goes, and that it takes longer, before `READY=1`.
#[test]
fn a_long_list_is_offlined_before_ready_and_the_service_manager_is_kept_informed() {
    const PAGES: u64 = 10_000;
    let host = Host::new();
    host.memory_map(IOMEM, &FIRMWARE);
    remember(&host, (0..PAGES).map(|n| corrected(0x1000 + 3 * n)));
    let (manager, path) = host.service_manager();
    let mut daemon = host.spawn(host.command().env("NOTIFY_SOCKET", &path));
    let heard = heard_until_ready(&manager);
    assert_eq!(host.asked("soft").len() as u64, PAGES, "all before READY=1");
    assert!(heard[0].contains("EXTEND_TIMEOUT_USEC="), "{heard:?}");
    assert!(heard[0].contains("STATUS=Offlining stored pages: "), "{heard:?}");
    let last = heard.last().unwrap();
    assert!(last.contains("STATUS=Watching; 0 stored pages were excluded"), "{last}");
    assert!(last.contains(&format!("{PAGES} offlined")), "{last}");
    let gap = daemon.wait_status("ready", |status| status.ready).gap;
    assert_eq!(gap.pages, PAGES);
    println!(
        "{PAGES} pages on files in {} ms: {} pages/s, without a kernel behind them",
        gap.offlining_ms,
        gap.pages_per_second()
    );
    daemon.stop().assert_success();
}

#[test]
fn a_page_the_kernel_keeps_is_listed_and_the_start_goes_on() {
    let host = Host::new();
    host.memory_map(IOMEM, &FIRMWARE);
    remember(&host, [corrected(0x1000), corrected(0x1001)]);
    fs::remove_file(host.offline_file("soft")).unwrap();
    let (manager, path) = host.service_manager();
    let mut daemon = host.spawn(host.command().env("NOTIFY_SOCKET", &path));
    let heard = heard_until_ready(&manager);
    assert!(heard.last().unwrap().contains("2 ARE IN USE"), "{heard:?}");
    let status = daemon.wait_status("ready", |status| status.ready);
    assert_eq!((status.gap.in_use, status.pages.failed), (2, 2));
    assert_eq!(daemon.log().matches("BAD PAGE IN USE").count(), 2);
    let (_, text, _) = host.rasctl(&["status"]);
    assert!(text.contains("2 ARE IN USE"), "{text}");
    daemon.stop().assert_success();

    host.reboot();
    host.start().stop().assert_success();
    assert_eq!(host.states(), [0, 2, 0], "tried again at the next start");
}

/// A machine with modules: the list follows them, and firmware gets it for the next boot.
#[test]
fn the_list_follows_the_modules_and_firmware_follows_the_list() {
    let mut host = Host::new();
    host.memory_map(IOMEM, &FIRMWARE);
    host.configure("[boot]\nlist = \"on\"\nesp = \"/nonexistent\"\nsettle_s = 0\npause_s = 0\n");
    let efivars = host.path("sys/firmware/efi/efivars");
    fs::create_dir_all(&efivars).unwrap();
    let tables = host.path("sys/firmware/dmi/tables");
    fs::create_dir_all(&tables).unwrap();
    let plug = |serial: &str| fs::write(tables.join("DMI"), module_table(serial)).unwrap();
    let list = || BootList::new(&efivars, None).read().unwrap().list.unwrap();
    let pages =
        |list: &List| -> Vec<u64> { list.ranges.iter().map(|range| range.pages.start.0).collect() };

    plug("0001");
    let capture = host.capture(uncorrected(Pfn(0x12344), T0) + &uncorrected(Pfn(0x20000), T0));
    let mut daemon = host.start_with(host.command().arg("--replay").arg(&capture));
    let status = daemon.wait_status("firmware's list", |status| {
        status.pages.retired == 2 && status.boot.detail.starts_with("2 pages in 2 ranges")
    });
    assert_eq!(status.boot.state, "in step", "{status:?}");
    assert_eq!(pages(&list()), [0x12344, 0x20000]);
    let stored = host.page(Pfn(0x20000)).unwrap();
    let dimm = stored.dimm.expect("there is only one module");
    assert_eq!(dimm.identity.serial.as_deref(), Some("0001"));
    assert_eq!(list().map_epoch, stored.epoch.unwrap().0);
    let (_, text, _) = host.rasctl(&["pages", "unretire", "pfn:0x20000", "--note", "story"]);
    assert!(text.contains("until the next boot"), "{text}");
    daemon.wait_status("firmware's list", |status| status.boot.detail.starts_with("1 pages"));
    assert_eq!(pages(&list()), [0x12344]);
    daemon.stop().assert_success();

    // Another module in the slot: its memory is good, and nothing is taken from it.
    host.reboot();
    plug("0002");
    let mut daemon = host.start();
    let status = daemon.wait_status("firmware's list", |status| status.boot.state == "in step");
    assert_eq!((status.pages.expired, status.pages.retired, status.gap.pages), (1, 0, 0));
    assert!(daemon.log().contains("rule module-gone"), "{}", daemon.log());
    assert!(pages(&list()).is_empty());
    assert!([host.asked("soft"), host.asked("hard")].concat().is_empty());
    daemon.stop().assert_success();

    // And the first one again.
    plug("0001");
    host.start().stop().assert_success();
    assert_eq!(host.states(), [0, 1, 0]);
    assert_eq!(pages(&list()), [0x12344]);
}

/// SMBIOS: one array of system memory with one module of 1 GiB. DMTF DSP0134, types 16, 17 and 127.
pub(crate) fn module_table(serial: &str) -> Vec<u8> {
    let mut array = vec![16, 15, 0x00, 0x10, 3, 3, 6];
    array.resize(15, 0);
    let mut module = vec![17, 0x28, 0x00, 0x11, 0x00, 0x10];
    module.resize(0x28, 0);
    module[0x0c..0x0e].copy_from_slice(&1024_u16.to_le_bytes());
    // Locator, manufacturer, serial number, part number.
    (module[0x10], module[0x17], module[0x18], module[0x1a]) = (1, 2, 3, 4);
    let strings = format!("A1\0Maker\0{serial}\0PART\0\0");
    [&array[..], &[0, 0], &module, strings.as_bytes(), &[127, 4, 0xff, 0xfe, 0, 0]].concat()
}

/// `systemd-analyze verify` on the unit, with this build's program in the place of the installed one.
#[test]
fn systemd_understands_the_unit() {
    let root = ras_lab::artifacts::workspace_root();
    let unit = fs::read_to_string(root.join("tools/rasd/rasd.service")).unwrap();
    for before in ["libvirtd", "virtqemud", "pacemaker"] {
        assert!(unit.contains(&format!("{before}.service")), "{before}");
    }
    let dir = tempfile::tempdir().unwrap();
    let verify = |text: &str| {
        let path = dir.path().join("rasd.service");
        fs::write(&path, text.replace("/usr/sbin/rasd", "/bin/true")).unwrap();
        let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output();
        done.map(|done| (done.status.success(), String::from_utf8(done.stderr).unwrap()))
    };
    match verify(&unit) {
        Ok((fine, said)) => assert!(fine && said.is_empty(), "{said}"),
        Err(error) => {
            eprintln!("skipped: systemd-analyze: {error}");
            return;
        }
    }
    let (_, said) = verify(&unit.replace("Type=notify", "Typ=notify")).unwrap();
    assert!(said.contains("Typ"), "the check finds nothing: {said}");
}
