//! What the list does when the machine is another one than it was: maps that changed, rows that were
//! repaired.

use std::fs;

use persist_store::{AuditKind, ChangeKind};
use ras_core::{
    DimmLocation, Location, PciAddress, Pfn, RetireReason, RetireState, RetiredPage, Severity,
    Timestamp,
};
use ras_lab::artifacts;

use super::events::umc_corrected;
use super::host::Host;
use super::start::{module_table, page, remember};
use super::{SECOND, T0};

/// Two channels of a Zen 1 server that take turns every 256 bytes, from `base` times 256 MiB on: see
/// tools/rasctl/TRANSLATE.md.
fn address_map(base: u32) -> String {
    let station = |instance: u32| {
        format!(
            "[[stations]]\ninstance = {instance}\nblock_instance_information = {}\n\
             maps = [{{ base = {}, limit = \"0xfff000\" }}]\n",
            instance << 8,
            base << 12 | 0x11,
        )
    };
    let head = "revision = \"df2\"\nfabric_id_mask = [\"0x75806000\"]\n";
    head.to_owned() + &station(0) + &station(1)
}

impl Host {
    /// A host with one module and an address map.
    fn mapped(module: &str) -> Self {
        let mut host = Self::new();
        let file = host.path("map.toml");
        host.configure(&format!("[machine]\naddress_map = {file:?}\n"));
        host.plug(module);
        host.remap(0);
        host
    }

    fn plug(&self, module: &str) {
        let tables = self.path("sys/firmware/dmi/tables");
        fs::create_dir_all(&tables).unwrap();
        fs::write(tables.join("DMI"), module_table(module)).unwrap();
    }

    fn remap(&self, base: u32) {
        fs::write(self.path("map.toml"), address_map(base)).unwrap();
    }
}

#[test]
fn a_controllers_own_address_is_a_page_and_moves_with_the_map() {
    let host = Host::mapped("0001");
    let error = |nth| umc_corrected(0x1234_5680, T0 + nth * SECOND);
    let ended = host.replay(&host.capture(error(0) + &error(1)));
    ended.assert_success();
    let before = host.page(Pfn(0x2468a)).unwrap_or_else(|| panic!("{}", ended.log));
    assert_eq!((before.location.socket, before.location.channel), (Some(0), Some(1)));

    // What a person orders, and what another list knew, is of this module and this map, too.
    let daemon = host.start();
    let (code, _, error) = host.rasctl(&["pages", "retire", "0x20000000", "--note", "memtest"]);
    assert_eq!(code, 0, "{error}");
    let list = host.path("list");
    fs::write(&list, "memmap=4K$0x30000000\n").unwrap();
    let (code, _, error) = host.rasctl(&["pages", "import", list.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    daemon.stop().assert_success();
    let pages = [0x2468a, 0x20000, 0x30000].map(Pfn);
    for pfn in pages {
        let page = host.page(pfn).unwrap();
        assert_eq!(page.epoch, before.epoch, "{pfn}");
        assert!(page.epoch.is_some(), "{pfn}");
        assert_eq!(page.dimm.unwrap().identity.serial.as_deref(), Some("0001"), "{pfn}");
    }

    // Memory begins 256 MiB higher: somebody changed a setting, and wrote the registers down.
    host.reboot();
    host.remap(1);
    let daemon = host.start();
    let moved = pages.map(|pfn| Pfn(pfn.0 + 0x1_0000));
    let stored = host.stored();
    let mut expect = moved.to_vec();
    expect.sort_unstable();
    assert_eq!(stored.pages.keys().copied().collect::<Vec<_>>(), expect, "{}", daemon.log());
    for (pfn, to) in pages.into_iter().zip(moved) {
        let kind = ChangeKind::Moved { to };
        let said = stored.audit.iter().find(|event| {
            matches!(event.what, AuditKind::Changed { pfn: page, kind: what, .. }
                if (page, what) == (pfn, kind))
        });
        let said = said.unwrap_or_else(|| panic!("{pfn}: {:?}", stored.audit));
        assert_eq!(said.who, "rule map-changed");
        assert_ne!(stored.pages[&to].epoch, before.epoch);
    }
    let asked: Vec<String> = expect.iter().map(|pfn| pfn.addr().to_string()).collect();
    let mut seen = host.asked("soft");
    seen.sort_unstable();
    assert_eq!(seen, asked);
    daemon.stop().assert_success();

    // Another module, and nobody wrote anything down: what is known of the old one is kept, and that is all.
    host.reboot();
    host.plug("0002");
    let mut daemon = host.start();
    let status = daemon.wait_status("ready", |status| status.ready);
    assert_eq!((status.pages.expired, status.pages.retired), (3, 0), "{status:?}");
    assert_eq!(host.asked("soft"), <[String; 0]>::default());
    daemon.stop().assert_success();
}

#[test]
fn without_todays_registers_entries_of_another_map_are_stale() {
    let host = Host::mapped("0001");
    let error = |nth| umc_corrected(0x1234_5680, T0 + nth * SECOND);
    host.replay(&host.capture(error(0) + &error(1))).assert_success();
    // The firmware's tables differ: a slot is called otherwise. The file is as old as it was.
    host.reboot();
    let table = host.path("sys/firmware/dmi/tables/DMI");
    let mut bytes = fs::read(&table).unwrap();
    let label = bytes.windows(3).position(|window| window == b"A1\0").unwrap();
    bytes[label + 1] = b'2';
    fs::write(&table, bytes).unwrap();
    let mut daemon = host.start();
    let log = daemon.log();
    assert!(log.contains("is older than the last change of modules or firmware"), "{log}");
    let status = daemon.wait_status("ready", |status| status.ready);
    assert_eq!((status.pages.stale, status.pages.retired), (1, 0), "{status:?}");
    daemon.stop().assert_success();
    let stored = host.stored();
    let suspended = stored.suspended.values().next().unwrap();
    assert_eq!((suspended.page.pfn, suspended.page.state), (Pfn(0x2468a), RetireState::Stale));
}

/// A CXL device's record of a row that it spared for good, as firmware passes it on: `change` is made to
/// tests/golden/cper/cxl_memory_sparing.in, whose lines say what is where.
fn sparing(change: &dyn Fn(&mut [u8])) -> Vec<u8> {
    let golden = artifacts::workspace_root().join("tests/golden/cper/cxl_memory_sparing.in");
    let text = fs::read_to_string(golden).unwrap();
    let lines = text.lines().filter(|line| *line != "record");
    let words = lines.flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    let mut bytes: Vec<u8> = words.map(|word| u8::from_str_radix(word, 16).unwrap()).collect();
    change(&mut bytes);
    bytes
}

#[test]
fn a_row_that_was_replaced_for_good_is_on_probation() {
    /// Channel, rank, bank group, bank, row; column. Not the nibbles, nor the sub-channel.
    const VALID: [u8; 2] = [0x7b, 0];
    let host = Host::new();
    let of_row = |pfn, row| {
        let severity = Severity::Srao;
        let page = page(pfn, RetireReason::Uncorrected, severity, RetireState::Retired);
        let dimm = DimmLocation {
            rank: Some(0),
            bank_group: Some(2),
            bank: Some(1),
            row: Some(row),
            ..DimmLocation::default()
        };
        let pci = Some(PciAddress { segment: 0, bus: 0x0d, device: 0, function: 1 });
        let location = Location { channel: Some(1), dimm, pci, ..Location::default() };
        RetiredPage { since: Timestamp(T0 - SECOND), location, ..page }
    };
    remember(&host, [of_row(0x111, 0x777), of_row(0x222, 0x778)]);
    let states = || -> Vec<_> {
        let state = host.stored();
        state.all_pages().map(|page| (page.pfn.0, page.state)).collect()
    };
    use RetireState::{Probation, Retired};
    let valid = |bytes: &mut [u8]| bytes[0x10c..0x10e].copy_from_slice(&VALID);
    for (why, bytes) in [
        ("of some devices", sparing(&|_| ())),
        (
            "it failed",
            sparing(&|bytes| {
                valid(bytes);
                bytes[0x10b] = 1;
            }),
        ),
        (
            "until power is off",
            sparing(&|bytes| {
                valid(bytes);
                bytes[0x10a] = 4;
            }),
        ),
        (
            "of a cache line",
            sparing(&|bytes| {
                valid(bytes);
                bytes[0x109] = 0;
            }),
        ),
        (
            "of another device",
            sparing(&|bytes| {
                valid(bytes);
                bytes[0x0da] = 0x0e;
            }),
        ),
    ] {
        host.replay(&host.capture(bytes)).assert_success();
        assert_eq!(states(), [(0x111, Retired), (0x222, Retired)], "{why}");
    }
    let ended = host.replay(&host.capture(sparing(&valid)));
    ended.assert_success();
    assert_eq!(states(), [(0x222, Retired), (0x111, Probation)], "{}", ended.log);
    assert!(ended.log.contains("a row was repaired"), "{}", ended.log);
    let told = host.stored().audit.back().unwrap().clone();
    assert_eq!(told.who, "rule repaired");

    // Healthy until the next error, which condemns it at once.
    host.reboot();
    host.start().stop().assert_success();
    assert_eq!(host.asked("soft"), ["0x222000"]);
    let again = super::events::corrected(Pfn(0x111), T0 + 60 * SECOND);
    host.replay(&host.capture(again)).assert_success();
    assert_eq!(host.states(), [0, 2, 0]);
}
