use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{CpuVendor, McaRegisters};

/// One kind of machine: an interleave mode with a full set of stations.
#[derive(Clone, Copy, Debug)]
struct Kind {
    revision: Revision,
    mi300: bool,
    /// `IntLvNumChan`.
    code: u32,
    /// Channels in one die.
    channels: u8,
    /// Lowest bit that selects a channel.
    position: u32,
    /// Log2 of dies and sockets.
    dies: u32,
    sockets: u32,
}

const fn kind(revision: Revision, code: u32, channels: u8) -> Kind {
    Kind { revision, mi300: false, code, channels, position: 8, dies: 0, sockets: 0 }
}

const fn mi300(code: u32, channels: u8, dies: u32) -> Kind {
    Kind { mi300: true, dies, ..kind(Revision::Df4_5, code, channels) }
}

const fn at(position: u32, kind: Kind) -> Kind {
    Kind { position, ..kind }
}

const fn two_sockets(kind: Kind) -> Kind {
    Kind { sockets: 1, ..kind }
}

use Revision::{Df2, Df3, Df3_5, Df4, Df4_5};

/// Every mode of every revision, with dies and sockets where it allows them.
const KINDS: &[Kind] = &[
    kind(Df2, 0x0, 1),
    kind(Df2, 0x1, 2),
    two_sockets(Kind { dies: 2, ..at(10, kind(Df2, 0x1, 2)) }),
    kind(Df2, 0x8, 2),
    at(9, kind(Df2, 0x8, 2)),
    kind(Df3, 0x0, 1),
    kind(Df3, 0x1, 2),
    kind(Df3, 0x3, 4),
    two_sockets(at(12, kind(Df3, 0x5, 8))),
    kind(Df3, 0x7, 16),
    kind(Df3, 0x8, 32),
    kind(Df3, 0xc, 2),
    at(9, kind(Df3, 0xd, 4)),
    kind(Df3, 0xe, 8),
    at(11, kind(Df3, 0x6, 6)),
    at(12, kind(Df3, 0x6, 6)),
    kind(Df3_5, 0x3, 4),
    kind(Df3_5, 0xc, 2),
    kind(Df3_5, 0xd, 4),
    at(9, kind(Df3_5, 0xe, 8)),
    kind(Df4, 0x0, 1),
    two_sockets(kind(Df4, 0x5, 8)),
    kind(Df4, 0x10, 2),
    two_sockets(kind(Df4, 0x10, 2)),
    kind(Df4, 0x11, 4),
    two_sockets(kind(Df4, 0x11, 4)),
    kind(Df4, 0x12, 8),
    two_sockets(kind(Df4, 0x12, 8)),
    kind(Df4, 0x13, 3),
    two_sockets(kind(Df4, 0x13, 3)),
    kind(Df4, 0x14, 6),
    two_sockets(kind(Df4, 0x14, 6)),
    kind(Df4, 0x15, 12),
    two_sockets(kind(Df4, 0x15, 12)),
    kind(Df4, 0x16, 5),
    two_sockets(kind(Df4, 0x16, 5)),
    kind(Df4, 0x17, 10),
    two_sockets(kind(Df4, 0x17, 10)),
    kind(Df4_5, 0x0, 1),
    kind(Df4_5, 0x8, 32),
    kind(Df4_5, 0x10, 2),
    two_sockets(kind(Df4_5, 0x10, 2)),
    kind(Df4_5, 0x11, 4),
    kind(Df4_5, 0x12, 8),
    kind(Df4_5, 0x0c, 16),
    kind(Df4_5, 0x20, 2),
    kind(Df4_5, 0x21, 4),
    two_sockets(kind(Df4_5, 0x21, 4)),
    kind(Df4_5, 0x22, 8),
    two_sockets(kind(Df4_5, 0x22, 8)),
    kind(Df4_5, 0x23, 16),
    kind(Df4_5, 0x13, 3),
    kind(Df4_5, 0x14, 6),
    kind(Df4_5, 0x15, 12),
    two_sockets(kind(Df4_5, 0x0e, 12)),
    kind(Df4_5, 0x16, 5),
    kind(Df4_5, 0x17, 10),
    kind(Df4_5, 0x24, 3),
    kind(Df4_5, 0x25, 6),
    kind(Df4_5, 0x26, 12),
    two_sockets(kind(Df4_5, 0x27, 12)),
    kind(Df4_5, 0x28, 5),
    kind(Df4_5, 0x29, 10),
    mi300(0x0, 1, 0),
    mi300(0x18, 8, 0),
    mi300(0x18, 8, 2),
    mi300(0x19, 16, 1),
    mi300(0x1a, 32, 0),
    mi300(0x1a, 32, 2),
];

/// What else a machine can be set to.
#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    /// Hash switches, as the register has them.
    ctl: u32,
    /// Base in units of 256 MiB.
    base: u32,
    /// Begin of the legacy hole in units of 16 MiB, if it is there.
    hole: Option<u32>,
    /// Begin of the map's normalized addresses in its own units; 0 makes it map 0.
    start: u32,
    /// The lowest component in the map, where its mode has that.
    first: u32,
}

/// Log2 of a six-channel machine's memory in 64 KiB.
const SIX_LOG2: u32 = 18;

impl Kind {
    fn six(self) -> bool {
        self.revision == Df3 && self.code == 6
    }

    fn snapshot(self, set: Settings) -> Snapshot {
        self.sized(set, SIX_LOG2)
    }

    fn sized(self, set: Settings, six_log2: u32) -> Snapshot {
        // Components in bits 4:0, dies in 6:5, the socket in 7.
        let width = 5;
        let (die_shift, socket_shift) = (width, width + 2);
        let fabric_id_mask = match self.revision {
            Df2 => vec![Register(7 << 28 | 5 << 24 | 0x80 << 16 | 0x60 << 8)],
            Df3 => vec![Register(0xe0 << 16 | 0x1f), Register(4 << 24 | 3 << 16 | 2 << 8 | 5)],
            Df3_5 | Df4 | Df4_5 => vec![
                Register((7 << width) << 16 | ((1 << width) - 1)),
                Register(2 << 8 | width),
                Register(4 << 16 | 3),
            ],
        };
        let first = match self.code {
            _ if self.six() || self.mi300 || self.channels == 32 => 0,
            _ => set.first,
        };
        let code = self.code;
        let (dies, sockets, select) = (self.dies, self.sockets, self.position - 8);
        let hole = u32::from(set.hole.is_some()) << 1;
        let limit = 0xf_ffff;
        let map = match self.revision {
            Df2 => DramMap {
                base: Register(set.base << 12 | select << 8 | code << 4 | hole | 1),
                limit: Register(limit << 12 | dies << 10 | sockets << 8 | first),
                ctl: None,
                intlv: None,
                offset: None,
            },
            Df3 | Df3_5 => DramMap {
                base: Register(set.base << 12 | select << 9 | sockets << 8 | code << 2 | hole | 1),
                limit: Register(limit << 12 | first),
                ctl: Some(Register(set.ctl & 7 << 20)),
                intlv: None,
                offset: None,
            },
            Df4 | Df4_5 => DramMap {
                base: Register(set.base),
                limit: Register(limit),
                ctl: Some(Register(set.ctl & 0x8780 | first << 16 | hole | 1)),
                intlv: Some(Register(sockets << 18 | dies << 12 | code << 4 | select)),
                offset: None,
            },
        };
        let offset = match self.revision {
            Df2 => set.start << 20 | 1,
            Df3 | Df3_5 => set.start << 12 | 1,
            Df4 | Df4_5 => set.start << 1 | 1,
        };
        let nothing = DramMap {
            base: Register(0),
            limit: Register(0),
            ctl: Some(Register(0)),
            intlv: Some(Register(0)),
            offset: None,
        };
        let maps = match set.start {
            0 => vec![map],
            _ => vec![nothing, DramMap { offset: Some(Register(offset)), ..map }],
        };
        let mut stations = Vec::new();
        for socket in 0..1u8 << sockets {
            for die in 0..1u8 << dies {
                for channel in 0..self.channels {
                    let id = (first + u32::from(channel))
                        | u32::from(die) << die_shift
                        | u32::from(socket) << socket_shift;
                    stations.push(Station {
                        socket,
                        die,
                        instance: channel,
                        block_instance_information: Some(Register(id << 8)),
                        maps: maps.clone(),
                        target_remap: match self.six() {
                            true => vec![Register(0x7654_3210); 2],
                            false => vec![],
                        },
                        np2_channel_config: self.six().then_some(Register(six_log2)),
                    });
                }
            }
        }
        if self.mi300 {
            for station in &mut stations {
                station.instance ^= 0xc;
            }
        }
        Snapshot {
            revision: self.revision,
            device_vendor_id: Register(if self.mi300 { 0x1528_1022 } else { 0 }),
            fabric_id_mask,
            dram_hole_control: Register(set.hole.unwrap_or(0) << 24),
            apic: None,
            umc: None,
            stations,
        }
    }
}

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
    let far = good.system_address(id, NormalizedAddr(1 << 48));
    assert!(matches!(far, Err(TranslateError::AboveLimit { .. })), "{far:?}");
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
        present in 0..8u8,
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
        masks in prop::collection::vec(any_register(), 0..5),
        hole in any_register(),
        apic in prop::option::of((any::<u8>(), any::<u8>())),
        umc in prop::option::of(prop::array::uniform10(any_register())),
        stations in prop::collection::vec(
            (
                (0..3u8, 0..5u8, any::<u8>()),
                prop::option::of(any_register()),
                prop::collection::vec(any_map(), 0..6),
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
        snapshot in any_snapshot(),
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
