//! Machines to test with: every interleave mode with a full set of stations.

use alloc::vec;
use alloc::vec::Vec;

use Revision::{Df2, Df3, Df3_5, Df4, Df4_5};

use crate::translate::amd::*;

/// One kind of machine: an interleave mode with a full set of stations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) revision: Revision,
    pub(super) mi300: bool,
    /// `IntLvNumChan`.
    pub(super) code: u32,
    /// Channels in one die.
    pub(super) channels: u8,
    /// Lowest bit that selects a channel.
    pub(super) position: u32,
    /// Log2 of dies and sockets.
    pub(super) dies: u32,
    pub(super) sockets: u32,
}

pub(super) const fn kind(revision: Revision, code: u32, channels: u8) -> Kind {
    Kind { revision, mi300: false, code, channels, position: 8, dies: 0, sockets: 0 }
}

pub(super) const fn mi300(code: u32, channels: u8, dies: u32) -> Kind {
    Kind { mi300: true, dies, ..kind(Revision::Df4_5, code, channels) }
}

pub(super) const fn at(position: u32, kind: Kind) -> Kind {
    Kind { position, ..kind }
}

pub(super) const fn two_sockets(kind: Kind) -> Kind {
    Kind { sockets: 1, ..kind }
}

/// Every mode of every revision, with dies and sockets where it allows them.
pub(super) const KINDS: &[Kind] = &[
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
pub(super) struct Settings {
    /// Hash switches, as the register has them.
    pub(super) ctl: u32,
    /// Base in units of 256 MiB.
    pub(super) base: u32,
    /// Begin of the legacy hole in units of 16 MiB, if it is there.
    pub(super) hole: Option<u32>,
    /// Begin of the map's normalized addresses in its own units; 0 makes it map 0.
    pub(super) start: u32,
    /// The lowest component in the map, where its mode has that.
    pub(super) first: u32,
}

/// Log2 of a six-channel machine's memory in 64 KiB.
pub(super) const SIX_LOG2: u32 = 18;

impl Kind {
    pub(super) fn six(self) -> bool {
        self.revision == Df3 && self.code == 6
    }

    pub(super) fn snapshot(self, set: Settings) -> Snapshot {
        self.sized(set, SIX_LOG2)
    }

    pub(super) fn sized(self, set: Settings, six_log2: u32) -> Snapshot {
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
        // As far as the field reaches: 48 and 56 bits.
        let limit = if self.revision >= Df4 { 0xfff_ffff } else { 0xf_ffff };
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

/// One setting of a machine that has everything switched on, and addresses all over its memory.
pub(super) fn sample(kind: Kind) -> (Snapshot, Vec<(StationId, NormalizedAddr)>) {
    let (base, hole) = (3, Some(0xc0));
    let snapshot = kind.snapshot(Settings { ctl: u32::MAX, base, hole, start: 2, first: 1 });
    let start = 2 << if kind.mi300 { 20 } else { 28 };
    let bits = match kind.revision {
        _ if kind.six() => 13 + SIX_LOG2,
        Df2 | Df3 | Df3_5 => 37,
        Df4 | Df4_5 => 42,
    };
    let mut addresses = Vec::new();
    let mut state = 1u64;
    for index in 0..512 {
        // xorshift64: no need to be better than that.
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            state ^= if left { state << by } else { state >> by };
        }
        let station = snapshot.stations[index * 5 % snapshot.stations.len()].id();
        addresses.push((station, NormalizedAddr(start + (state >> 20) % (1 << bits))));
    }
    (snapshot, addresses)
}

/// FNV-1a of a sample's system addresses.
pub(super) fn digest(kind: Kind) -> u64 {
    let (snapshot, addresses) = sample(kind);
    addresses.into_iter().fold(0xcbf2_9ce4_8422_2325, |digest, (station, normalized)| {
        let system = snapshot.system_address(station, normalized);
        let system = system.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        system.0.to_le_bytes().into_iter().fold(digest, |digest: u64, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    })
}

/// The digest of each of [`KINDS`]. All of the addresses in it (512 for each kind) were compared with
/// those of Linux's own code, of 6.12, with four of its errors repaired.
#[rustfmt::skip]
pub(super) const DIGESTS: [u64; KINDS.len()] = [
    0x8f3f_73f1_0d6b_314b, 0x8f8b_9d86_4e1e_0dbb, 0x3045_a05b_4f36_f55e, 0xd016_2b82_9612_93e0,
    0x692c_c220_5f79_0ce5, 0x8f3f_73f1_0d6b_314b, 0x8f8b_9d86_4e1e_0dbb, 0x7f90_352e_4e86_aaee,
    0x3c0f_71f9_8c1c_a556, 0xbd9b_1c6d_0f01_f720, 0x45a0_ae0a_e118_f5a9, 0x2ac5_e00a_8dce_0ecc,
    0xe7f4_c3fc_2805_269a, 0xcfac_cd08_3ead_8749, 0xd506_0320_47b6_93fd, 0xa1ee_36a8_19d5_c235,
    0x7f90_352e_4e86_aaee, 0xc44d_ea81_4cb9_83fc, 0x46c6_2343_df84_8bc1, 0x6b25_bb93_20ff_aa3a,
    0x8874_f8ad_ef5b_2a52, 0xa299_9390_a723_3a0c, 0x9e3e_d5d6_00bf_a256, 0xacab_349f_bb6f_05f6,
    0x1b90_75c0_a971_4a66, 0x7dd1_4a42_aaaa_9ca2, 0x6c4d_00d8_b794_84a2, 0x47db_5e7b_1f81_0508,
    0x64d7_4b38_4308_d61a, 0x4e51_81d7_15fc_e7df, 0x4b15_5940_6961_a66d, 0x2402_b0c2_782d_10ac,
    0x3114_96c0_5593_ee58, 0x6c00_dbd6_beda_ee8f, 0x3a2a_1d68_1e16_82be, 0xd7ab_2471_5a6c_0a93,
    0xab40_8557_628f_1e28, 0x11ea_1c38_80cc_5f14, 0x8874_f8ad_ef5b_2a52, 0x84c9_dcde_e882_b189,
    0x9276_0142_b8ee_082d, 0x791e_7cc6_0410_cb2a, 0xc4b1_8a8b_740a_c9f8, 0x0e51_e793_9386_e619,
    0x10bc_8090_8033_d4bf, 0x9276_0142_b8ee_082d, 0xb45d_e7c2_6e10_8932, 0x1b3c_3efb_3f04_c761,
    0xa832_3a92_0c4a_10b9, 0x0b18_263e_381b_72fb, 0x5944_3887_ea94_6e87, 0x5970_29fe_ec91_2761,
    0x1a45_efa2_490d_1f1d, 0x2417_033f_4ecf_8734, 0xa7d0_45e7_5fb3_07db, 0xe751_070f_9bb0_c271,
    0xaf4d_c7e6_2f87_e236, 0x072f_f209_4d0f_b0fe, 0x6d5b_1653_14c0_da97, 0x6e19_023b_2ae0_acba,
    0x6c59_2469_9734_caf9, 0xd895_0d9c_3f17_abd6, 0x8ff8_78ba_f7d8_564d, 0x8874_f8ad_ef5b_2a52,
    0x43cb_31cc_ed61_aeff, 0xa417_fba0_bb76_3ad9, 0xc628_11cb_b72b_486d, 0x00ad_df10_13ba_a87b,
    0x37e2_11a2_f7d8_9a68,
];
