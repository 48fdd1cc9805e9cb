mod machines;

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{CpuVendor, McaRegisters};
use Revision::{Df2, Df3, Df3_5, Df4, Df4_5};
use machines::{DIGESTS, KINDS, Kind, SIX_LOG2, Settings, at, digest, kind, mi300, two_sockets};

/// The whole point of an interleave: the stations' memory, each counted from 0, makes up system
/// memory from 0, without holes and without overlaps.
#[test]
fn the_stations_tile_memory() {
    const EACH: u64 = 1 << 16;
    const LINE: u64 = 256;
    for kind in KINDS {
        for ctl in [0, u32::MAX] {
            // The smallest memory of six channels: 8 times EACH, of which a quarter is not there.
            let snapshot = kind.sized(Settings { ctl, ..Settings::default() }, 3);
            let mut seen = Vec::new();
            for station in &snapshot.stations {
                for normalized in (0..EACH / LINE).map(|line| line * LINE) {
                    let system = snapshot.system_address(station.id(), NormalizedAddr(normalized));
                    seen.push(system.unwrap_or_else(|error| panic!("{kind:?}: {error}")).0);
                }
            }
            seen.sort_unstable();
            let all: Vec<u64> = (0..seen.len() as u64).map(|index| index * LINE).collect();
            assert!(seen == all, "{kind:?}");
        }
    }
}

/// What the fabrics do has not changed since these were compared.
#[test]
fn addresses_are_those_compared_with_linux() {
    for (kind, expected) in KINDS.iter().zip(DIGESTS) {
        assert_eq!(digest(*kind), expected, "{kind:?}");
    }
}

/// A few by hand, one for each way of calculating.
#[test]
fn known_addresses() {
    let check = |kind: Kind, ctl, channel, normalized, system| {
        let snapshot = kind.snapshot(Settings { ctl, ..Settings::default() });
        let station = StationId { socket: 0, die: 0, instance: channel };
        let got = snapshot.system_address(station, NormalizedAddr(normalized));
        assert_eq!(got, Ok(PhysAddr(system)), "{kind:?} channel {channel} {normalized:#x}");
        assert_eq!(
            snapshot.normalized_address(PhysAddr(system)),
            Ok((station, NormalizedAddr(normalized)))
        );
    };
    // Bits from 8 up make room for one.
    check(kind(Df2, 0x1, 2), 0, 1, 0x1234, 0x2534);
    // Hashed: bit 12 of the result turns bit 8 over.
    check(kind(Df2, 0x8, 2), 0, 1, 0x834, 0x1034);
    // Channel 6 is 110b: bits 13 and 12 are 1 and 1, bit 8 is 0. Bit 16 folds into bit 12.
    check(kind(Df3, 0xe, 8), 1 << 20, 6, 0x2000, 0x1_2000);
    // Group 1 of four, remainder 2: bit 12, and 2 at bit 14.
    check(kind(Df4, 0x15, 12), 0, 5, 0, 0x9000);
    // One bit of the normalized address takes one off the remainder and sets bit 8.
    check(kind(Df4, 0x15, 12), 0, 5, 0x800, 0x5000);
    // Number 4 of units of 4 KiB: remainder 4 * 4 % 5.
    check(kind(Df4_5, 0x28, 5), 0, 3, 0, 0x2000);
    // Channels 0 to 3 at bit 8, 4 of 16 at bit 12.
    check(kind(Df4_5, 0x0c, 16), 0, 7, 0, 0x1300);
    // Stack 1, channel 5.
    check(mi300(0x1a, 32, 0), 0, 21 ^ 0xc, 0, 0x4500);
}

#[test]
fn the_hole_and_the_base_shift_addresses() {
    let set = Settings { base: 1, hole: Some(0x80), ..Settings::default() };
    let snapshot = kind(Df4, 0x0, 1).snapshot(set);
    let station = StationId { socket: 0, die: 0, instance: 0 };
    let system = |normalized| {
        snapshot.system_address(station, NormalizedAddr(normalized)).map(|address| address.0)
    };
    assert_eq!(system(0), Ok(0x1000_0000));
    assert_eq!(system(0x6fff_ffff), Ok(0x7fff_ffff));
    assert_eq!(system(0x7000_0000), Ok(0x1_0000_0000));
    for nowhere in [0xfff_ffff, 0x8000_0000, 0xffff_ffff] {
        assert_eq!(
            snapshot.normalized_address(PhysAddr(nowhere)),
            Err(TranslateError::NotMemory(PhysAddr(nowhere)))
        );
    }
    let mut without = snapshot.clone();
    without.dram_hole_control = Register(0);
    let error = without.system_address(station, NormalizedAddr(0));
    assert!(matches!(error, Err(TranslateError::Inconsistent { register, .. })
        if register == "DramHoleControl"));
}

/// A remapped machine is the plain one with its stations renamed, whatever the mode.
#[test]
fn remapping_renames_stations() {
    for (kind, width, entries, stride) in [
        (kind(Df4, 0x15, 12), 4, 8, 2),
        (kind(Df4, 0x12, 8), 4, 8, 2),
        (kind(Df4_5, 0x26, 12), 5, 6, 6),
        (kind(Df4_5, 0x22, 8), 5, 6, 6),
        (at(12, kind(Df3, 0x6, 6)), 4, 8, 1),
    ] {
        let plain = kind.snapshot(Settings::default());
        let mut remapped = plain.clone();
        // Logical n is physical 15 - n.
        let mut table = vec![Register(0); 24];
        let selector = usize::from(kind.revision != Df3);
        for logical in 0..entries * 16 / entries {
            let register = selector * stride + (logical / entries) as usize;
            table[register].0 |= (15 - logical) << (logical % entries * width);
            if kind.six() && logical == 7 {
                break;
            }
        }
        for station in &mut remapped.stations {
            let physical = 15 - u32::from(station.instance);
            station.block_instance_information = Some(Register(physical << 8));
            station.target_remap.clone_from(&table);
            if let Some(ctl) = station.maps[0].ctl.as_mut().filter(|_| !kind.six()) {
                ctl.0 |= 1 << 4 | 1 << 5;
            }
        }
        for station in &plain.stations {
            for normalized in [0, 0x1_2345_6789, 0x7_1234_0000] {
                let normalized = NormalizedAddr(normalized);
                assert_eq!(
                    remapped.system_address(station.id(), normalized),
                    plain.system_address(station.id(), normalized),
                    "{kind:?}"
                );
            }
        }
        remapped.stations[0].block_instance_information = Some(Register(0x1f << 8));
        assert_eq!(
            remapped.system_address(remapped.stations[0].id(), NormalizedAddr(0)),
            Err(TranslateError::NotInRemap { component: 0x1f })
        );
    }
}

/// Zen 4 servers with two sockets: the masks are not what the hardware does.
#[test]
fn a_zen_4_server_has_its_own_masks() {
    let usual = {
        let mut snapshot = two_sockets(kind(Df4, 0x12, 8)).snapshot(Settings::default());
        snapshot.fabric_id_mask = vec![Register(0x100_00ff), Register(8), Register(1 << 16)];
        for station in &mut snapshot.stations {
            let id = u32::from(station.socket) << 8 | u32::from(station.instance);
            station.block_instance_information = Some(Register(id << 8));
        }
        snapshot
    };
    let mut zen4 = usual.clone();
    zen4.fabric_id_mask = vec![Register(0x1e0_00ff), Register(1 << 8 | 5), Register(0x6_0001)];
    let addresses = |snapshot: &Snapshot| {
        let ids = snapshot.stations.iter().map(Station::id);
        ids.map(|id| snapshot.system_address(id, NormalizedAddr(0x1_2345_6789))).collect::<Vec<_>>()
    };
    assert_ne!(addresses(&zen4), addresses(&usual));
    zen4.device_vendor_id = Register(0x14ad_1022);
    assert_eq!(addresses(&zen4), addresses(&usual));
}

/// The map of an address is the last that begins at or before it.
#[test]
fn the_last_map_that_begins_below_is_taken() {
    let mut snapshot = kind(Df4, 0x0, 1).snapshot(Settings::default());
    let station = snapshot.stations[0].id();
    let first = snapshot.stations[0].maps[0];
    snapshot.stations[0].maps = (0..4)
        .map(|index| DramMap {
            base: Register(index * 0x100),
            offset: (index > 0).then_some(Register((index * 0x10) << 1 | 1)),
            ..first
        })
        .collect();
    let system = |snapshot: &Snapshot, units: u64| {
        let address = snapshot.system_address(station, NormalizedAddr(units << 28));
        address.map(|address| address.0 >> 28)
    };
    assert_eq!(system(&snapshot, 0xf), Ok(0xf));
    assert_eq!(system(&snapshot, 0x12), Ok(0x102));
    assert_eq!(system(&snapshot, 0x25), Ok(0x205));
    assert_eq!(system(&snapshot, 0x31), Ok(0x301));
    assert_eq!(
        snapshot.normalized_address(PhysAddr(0x205 << 28)),
        Ok((station, NormalizedAddr(0x25 << 28)))
    );
    snapshot.stations[0].maps[2].offset = Some(Register(0x10 << 1 | 1));
    assert!(matches!(system(&snapshot, 0), Err(TranslateError::Inconsistent { register, .. })
        if register == "DramOffset"));
    snapshot.stations[0].maps.push(first);
    assert_eq!(system(&snapshot, 0), Err(TranslateError::TooManyMaps(station)));
}

#[test]
fn what_is_not_certain_is_an_error() {
    let good = kind(Df4, 0x12, 8).snapshot(Settings::default());
    let id = good.stations[3].id();
    let error = |change: &dyn Fn(&mut Snapshot)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.system_address(id, NormalizedAddr(0x1000)).unwrap_err()
    };
    let map = |change: fn(&mut DramMap)| error(&move |bad| change(&mut bad.stations[3].maps[0]));
    let intlv =
        |value: u32| error(&move |bad| bad.stations[3].maps[0].intlv = Some(Register(value)));
    assert_eq!(intlv(0x1f0), TranslateError::UnsupportedMode { revision: Df4, code: 0x1f });
    // Six channels are DF3's.
    assert_eq!(intlv(0x60), TranslateError::UnsupportedMode { revision: Df4, code: 6 });
    for (value, part) in [(0x121, "begins"), (0x1120, "dies"), (0x3050, "dies")] {
        let text = alloc::format!("{}", intlv(value));
        assert!(text.starts_with("DramAddressIntlv is 0x") && text.contains(part), "{text}");
    }
    assert_eq!(
        map(|map| map.intlv = None),
        TranslateError::Missing { register: "DramAddressIntlv" }
    );
    assert_eq!(map(|map| map.ctl = None), TranslateError::Missing { register: "DramAddressCtl" });
    assert_eq!(map(|map| map.ctl = Some(Register(0))), TranslateError::NoMap(id));
    let by_node = map(|map| map.ctl = Some(Register(9)));
    assert!(matches!(by_node, TranslateError::Inconsistent { .. }), "{by_node}");
    assert_eq!(
        error(&|bad| bad.fabric_id_mask.truncate(1)),
        TranslateError::Missing { register: "SystemFabricIdMask1" }
    );
    assert_eq!(
        error(&|bad| bad.stations[3].block_instance_information = None),
        TranslateError::Missing { register: "FabricBlockInstanceInformation3" }
    );
    assert_eq!(error(&|bad| bad.stations.clear()), TranslateError::NoStation(id));
    let long = NormalizedAddr(1 << 52);
    assert_eq!(good.system_address(id, long), Err(TranslateError::TooLong(long)));
    let mut short = good.clone();
    short.stations[3].maps[0].limit = Register(0xfff);
    let far = short.system_address(id, NormalizedAddr(1 << 38));
    let limit = PhysAddr(0xff_ffff_ffff);
    let above = TranslateError::AboveLimit { system: PhysAddr(0x200_0000_1100), limit };
    assert_eq!(far, Err(above));
    // A thirteenth station in a map of twelve.
    let mut thirteen = kind(Df4, 0x15, 12).snapshot(Settings::default());
    thirteen.stations[0].block_instance_information = Some(Register(12 << 8));
    let id = thirteen.stations[0].id();
    let beyond = thirteen.system_address(id, NormalizedAddr(0));
    assert_eq!(beyond, Err(TranslateError::NotInMap(id)));
}

#[test]
fn revisions_identify_themselves() {
    let identify = |count, mask_3_5, mask_3| {
        Revision::identify(Register(count), Register(mask_3_5), Register(mask_3))
    };
    assert_eq!(identify(0, 0, 0), Some(Df2));
    assert_eq!(identify(0, 0, 0x1f), Some(Df3));
    assert_eq!(identify(0, 0x1f, 0x1f), Some(Df3_5));
    assert_eq!(identify(0x0404_0000, 0, 0), Some(Df4));
    assert_eq!(identify(0x0405_0000, 0, 0), Some(Df4_5));
    assert_eq!(identify(0x0500_0000, 0, 0), None);
}

#[test]
fn snapshots_are_readable_json() {
    let snapshot = two_sockets(kind(Df4, 0x15, 12)).snapshot(Settings::default());
    let text = serde_json::to_string(&snapshot).unwrap();
    assert!(
        text.starts_with(r#"{"revision":"df4","device_vendor_id":"0x0","fabric_id_mask":["0x"#)
    );
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    let small = r#"{"revision": "df3.5", "fabric_id_mask": [255, "0xff", "0x10"], "stations": [
        {"instance": 2, "block_instance_information": "0x200",
         "maps": [{"base": "0x1", "limit": 4096, "ctl": 0}]}]}"#;
    let small: Snapshot = serde_json::from_str(small).unwrap();
    assert_eq!(small.stations[0].maps[0].limit, Register(4096));
    for wrong in [r#""10""#, r#""0x""#, r#""0x+1""#, r#""0x100000000""#, "4294967296", "-1", "{}"] {
        assert!(serde_json::from_str::<Register>(wrong).is_err(), "{wrong}");
    }
    assert!(serde_json::from_str::<Snapshot>(&text.replacen("umc", "ump", 1)).is_ok());
    assert!(serde_json::from_str::<Snapshot>(&text.replacen("limit", "limits", 1)).is_err());
}

fn mca(ipid: u64, addr: u64, apic_id: u32) -> McaRegisters {
    McaRegisters {
        vendor: CpuVendor::Amd,
        status: 1 << 63 | 1 << 58,
        addr,
        ipid,
        apic_id,
        ..McaRegisters::default()
    }
}

#[test]
fn a_umc_names_its_station() {
    let mut snapshot = two_sockets(kind(Df4, 0x12, 8)).snapshot(Settings::default());
    let bank = mca(0x96 << 32 | 0x0050_0f00, 0xab << 56 | 0x1234_5600, 0x83);
    assert_eq!(snapshot.umc_address(&bank, None), Err(TranslateError::UnknownNode));
    let there = StationId { socket: 1, die: 0, instance: 5 };
    let found = snapshot.umc_address(&bank, Some(1)).unwrap();
    assert_eq!((found.station, found.normalized), (there, NormalizedAddr(0x1234_5600)));
    assert_eq!(snapshot.system_address(there, found.normalized), Ok(found.system));
    snapshot.apic = Some(ApicLayout { socket_shift: 7, die_shift: 7 });
    assert_eq!(snapshot.umc_address(&bank, None), Ok(found));
    assert_eq!(
        snapshot.umc_address(&McaRegisters { status: 1 << 63, ..bank.clone() }, None),
        Err(TranslateError::NoAddress)
    );
    let parity = McaRegisters { status: bank.status | 2 << 16, ..bank.clone() };
    assert_eq!(snapshot.umc_address(&parity, None), Err(TranslateError::NotDram { code: 2 }));
    let core = mca(0xb0 << 32, 0, 0);
    assert_eq!(snapshot.umc_address(&core, None), Err(TranslateError::NotUmc { ipid: 0xb0 << 32 }));
    assert_eq!(snapshot.umc_row(&bank, None), Err(TranslateError::NoRows(Df4)));
}

/// An MI300 whose controllers put column, bank, row, pseudochannel and stack one after the other,
/// from bit 5 up, without hashes.
fn straight_mi300() -> Snapshot {
    let mut snapshot = mi300(0x1a, 32, 2).snapshot(Settings::default());
    snapshot.umc = Some(UmcRegisters {
        // 10 + 5 row bits from 12 + 2, none high.
        addr_cfg: Register(5 << 8),
        // Banks at 10 to 13, stack bit 0 at 30, rows at 14.
        addr_sel: Register(5 | 6 << 4 | 7 << 8 | 8 << 12 | 25 << 16 | 2 << 24),
        col_sel_lo: Register(3 | 4 << 4 | 5 << 8 | 6 << 12 | 7 << 16),
        // Stack bit 1 at 31, pseudochannel at 5 + 15.
        addr_sel_2: Register(26 | 15 << 12),
        addr_hash_bank: [Register(0); 4],
        addr_hash_pc: Register(0),
        addr_hash_pc_2: Register(0),
    });
    snapshot
}

#[test]
fn an_mi300_row_is_every_column_of_both_halves() {
    let snapshot = straight_mi300();
    // UMC of stack 2, channel 1, die 3 (AMD node 12); column 9, bank 5, row 0x123.
    let ipid = 1 << 48 | 12 << 44 | 0x96 << 32 | 0x291 << 12;
    let bank = mca(ipid, 9 << 1 | 5 << 6 | 0x123 << 10, 0);
    let found = snapshot.umc_address(&bank, None).unwrap();
    assert_eq!(found.station, StationId { socket: 0, die: 3, instance: 9 });
    assert_eq!(found.normalized, NormalizedAddr(9 << 5 | 5 << 10 | 0x123 << 14));
    let row = snapshot.umc_row(&bank, None).unwrap();
    assert_eq!(row.len(), 64);
    assert!(row.contains(&found.system) && row.is_sorted());
    for address in row {
        let (station, normalized) = snapshot.normalized_address(address).unwrap();
        assert_eq!(station, found.station);
        assert_eq!(normalized.0 & !(0x1f << 5 | 1 << 27), found.normalized.0 & !(0x1f << 5));
    }
    // Stack 8 there is not.
    let bank = mca(0x96 << 32 | 0x891 << 12, 0, 0);
    assert!(matches!(
        snapshot.umc_address(&bank, None),
        Err(TranslateError::UnknownInstance { .. })
    ));
}

#[test]
fn an_mi300_hashes_banks_and_pseudochannels() {
    let mut snapshot = straight_mi300();
    let umc = snapshot.umc.as_mut().unwrap();
    // Bank bit 1 takes column bit 0 and row bit 2; the pseudochannel takes bank bits 1 and 4.
    umc.addr_hash_bank[1] = Register(1 | 1 << 1 | 1 << 16);
    umc.addr_hash_pc = Register(1);
    umc.addr_hash_pc_2 = Register(0b1_0010);
    let normalized = |addr| {
        let bank = mca(0x96 << 32 | 0x390 << 12, addr, 0);
        snapshot.umc_address(&bank, None).unwrap().normalized.0
    };
    assert_eq!(normalized(0), 0);
    assert_eq!(normalized(1 << 1), 1 << 5 | 1 << 11 | 1 << 20);
    assert_eq!(normalized(1 << 1 | 4 << 10), 1 << 5 | 4 << 14);
    assert_eq!(normalized(1 << 26), 1 << 30 | 1 << 20);
    assert_eq!(normalized(1 << 27), 1 << 31);
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let hole = prop::option::of(1..=0xffu32);
    (any::<u32>(), 0..0x40u32, hole, 0..0x20u32, 0..3u32)
        .prop_map(|(ctl, base, hole, start, first)| Settings { ctl, base, hole, start, first })
}

fn any_register() -> impl Strategy<Value = Register> {
    // Bits that enable things are as likely set as not; the rest is any.
    (any::<u32>(), any::<bool>())
        .prop_map(|(value, small)| Register(if small { value & 0x7_0f77 } else { value }))
}

prop_compose! {
    fn any_map()(
        registers in prop::array::uniform5(any_register()),
        present in 1..32u8,
        valid: bool,
    ) -> DramMap {
        let [base, limit, ctl, intlv, offset] = registers;
        let valid = |register: Register| Register(register.0 | u32::from(valid));
        let some = |bit: u8, register| (present != bit).then_some(register);
        DramMap {
            base: valid(base),
            limit,
            ctl: some(1, valid(ctl)),
            intlv: some(2, intlv),
            offset: some(3, offset),
        }
    }
}

prop_compose! {
    fn any_snapshot()(
        revision in prop::sample::select(vec![Df2, Df3, Df3_5, Df4, Df4_5, Df4_5]),
        device in prop::sample::select(vec![0, 0x14ad_1022, 0x1528_1022]),
        masks in prop::collection::vec(any_register(), 2..6),
        hole in any_register(),
        apic in prop::option::of((any::<u8>(), any::<u8>())),
        umc in prop::option::of(prop::array::uniform10(any_register())),
        stations in prop::collection::vec(
            (
                (0..3u8, 0..5u8, any::<u8>()),
                prop::option::of(any_register()),
                prop::collection::vec(any_map(), 1..6),
                prop::collection::vec(any_register(), 0..30),
                prop::option::of(any_register()),
            ),
            0..4,
        ),
    ) -> Snapshot {
        Snapshot {
            revision,
            device_vendor_id: Register(device),
            fabric_id_mask: masks,
            dram_hole_control: hole,
            apic: apic.map(|(socket_shift, die_shift)| ApicLayout { socket_shift, die_shift }),
            umc: umc.map(|[cfg, sel, col, sel_2, b0, b1, b2, b3, pc, pc_2]| UmcRegisters {
                addr_cfg: cfg,
                addr_sel: sel,
                col_sel_lo: col,
                addr_sel_2: sel_2,
                addr_hash_bank: [b0, b1, b2, b3],
                addr_hash_pc: pc,
                addr_hash_pc_2: pc_2,
            }),
            stations: stations
                .into_iter()
                .map(|(id, block, maps, target_remap, np2)| Station {
                    socket: id.0,
                    die: id.1,
                    instance: id.2 % 64,
                    block_instance_information: block,
                    maps,
                    target_remap,
                    np2_channel_config: np2,
                })
                .collect(),
        }
    }
}

/// A machine that could be, except for a few registers.
fn damaged_snapshot() -> impl Strategy<Value = Snapshot> {
    let damage =
        prop::collection::vec((0..10u8, any::<prop::sample::Index>(), any_register()), 0..4);
    (prop::sample::select(KINDS), any_settings(), damage).prop_map(|(kind, set, damage)| {
        let mut snapshot = kind.snapshot(set);
        for (which, index, value) in damage {
            let station = index.index(snapshot.stations.len());
            let station = &mut snapshot.stations[station];
            let map = station.maps.len() - 1;
            let map = &mut station.maps[map];
            match which {
                0 => snapshot.fabric_id_mask[0] = value,
                1 => snapshot.dram_hole_control = value,
                2 => station.block_instance_information = Some(value),
                3 => station.target_remap = vec![value; 24],
                4 => station.np2_channel_config = Some(value),
                5 => map.base = value,
                6 => map.limit = value,
                7 => map.ctl = Some(Register(value.0 | 1)),
                8 => map.intlv = Some(value),
                _ => map.offset = Some(value),
            }
        }
        snapshot
    })
}

proptest! {
    /// Forth and back is the same, in every mode and with every hash.
    #[test]
    fn every_mode_can_be_reversed(
        kind in prop::sample::select(KINDS),
        set in any_settings(),
        station: prop::sample::Index,
        address in 0..1u64 << 38,
    ) {
        let snapshot = kind.snapshot(set);
        let station = snapshot.stations[station.index(snapshot.stations.len())].id();
        let unit = if kind.mi300 { 20 } else { 28 };
        // A six-channel map ends where its size says.
        let address = if kind.six() { address % (1 << (13 + SIX_LOG2)) } else { address };
        let normalized = NormalizedAddr((u64::from(set.start) << unit) + address);
        let system = snapshot.system_address(station, normalized);
        prop_assert!(system.is_ok(), "{system:?}");
        let back = snapshot.normalized_address(system.unwrap());
        // Without interleaving, there is one station; MI300's, too, are then all the same.
        prop_assert_eq!(back, Ok((station, normalized)));
    }

    /// Whatever the registers hold: no panic, and addresses that can be.
    #[test]
    fn no_register_value_panics(
        snapshot in prop_oneof![any_snapshot(), damaged_snapshot(), damaged_snapshot()],
        address: u64,
        shift in 0..64u32,
        station: prop::sample::Index,
        instance: u32,
        socket in prop::option::of(0..3u8),
    ) {
        let address = address >> shift;
        let (ipid, apic) = (u64::from(instance) | 0x96 << 32, instance.rotate_left(7));
        if !snapshot.stations.is_empty() {
            let id = snapshot.stations[station.index(snapshot.stations.len())].id();
            if let Ok(system) = snapshot.system_address(id, NormalizedAddr(address)) {
                prop_assert!(system.0 < 1 << 60);
                prop_assert!(address < 1 << 52);
            }
        }
        let _ = snapshot.normalized_address(PhysAddr(address));
        let bank = mca(ipid, address, apic);
        let _ = snapshot.umc_address(&bank, socket);
        if let Ok(row) = snapshot.umc_row(&bank, socket) {
            prop_assert!(row.len() <= 64);
        }
        let text = serde_json::to_string(&snapshot).unwrap();
        prop_assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    }
}
