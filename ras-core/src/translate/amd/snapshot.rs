//! What has to be known about a machine to translate its addresses: registers of its data fabric,
//! written down once, while it runs. They change at a reboot at the earliest.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::{NormalizedAddr, TranslateError};

/// A 32-bit register as read: `"0x…"` in JSON; a plain number is understood as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Register(pub u32);

impl Register {
    /// Bits `high` to `low`, inclusive, as a number. 0 for places a register does not have.
    pub(super) const fn field(self, high: u32, low: u32) -> u32 {
        let width = high.saturating_sub(low) + 1;
        let value = match self.0.checked_shr(low) {
            Some(value) => value,
            None => 0,
        };
        match 1u32.checked_shl(width) {
            Some(end) => value & (end - 1),
            None => value,
        }
    }

    /// Whether bit `index` is set.
    pub(super) const fn bit(self, index: u32) -> bool {
        self.field(index, index) == 1
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Register({:#x})", self.0)
    }
}

impl Serialize for Register {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Register {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Register;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a 32-bit register value: \"0x…\" or a number")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Register, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(value), &self);
                u32::try_from(value).map(Register).map_err(wrong)
            }

            // TOML has no unsigned numbers.
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Register, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Signed(value), &self);
                u32::try_from(value).map(Register).map_err(wrong)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Register, E> {
                let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
                digits
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .map(Register)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Generation of the data fabric. Register layouts and interleave modes differ between them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Revision {
    /// Zen and Zen+ servers.
    #[serde(rename = "df2")]
    Df2,
    /// Zen 2 and Zen 3 servers.
    #[serde(rename = "df3")]
    Df3,
    /// Zen 3 servers that carry accelerators of the MI200 series.
    #[serde(rename = "df3.5")]
    Df3_5,
    /// Zen 4 servers.
    #[serde(rename = "df4")]
    Df4,
    /// Zen 5 servers, and the MI300 series.
    #[serde(rename = "df4.5")]
    Df4_5,
}

impl Revision {
    /// The revision that the machine's own registers tell.
    ///
    /// `block_instance_count` is D18F0x040, `mask_3_5` is D18F1x150 and `mask_3` is D18F1x208, all
    /// read by broadcast. The revision has fields of its own from DF4 on; before, which register
    /// holds a component mask tells DF3.5 and DF3 apart. `None` for a fabric that is newer than
    /// this program.
    #[must_use]
    pub const fn identify(
        block_instance_count: Register,
        mask_3_5: Register,
        mask_3: Register,
    ) -> Option<Self> {
        match (block_instance_count.field(27, 24), block_instance_count.field(23, 16)) {
            (0, _) if mask_3_5.field(15, 0) != 0 => Some(Self::Df3_5),
            (0, _) if mask_3.field(9, 0) != 0 => Some(Self::Df3),
            (0, _) => Some(Self::Df2),
            (4, 0..=4) => Some(Self::Df4),
            (4, _) => Some(Self::Df4_5),
            _ => None,
        }
    }

    /// Address maps that a coherent station has.
    pub(super) const fn maps(self) -> usize {
        match self {
            Self::Df2 | Self::Df3 | Self::Df3_5 => 2,
            Self::Df4 | Self::Df4_5 => 4,
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Df2 => "DF2",
            Self::Df3 => "DF3",
            Self::Df3_5 => "DF3.5",
            Self::Df4 => "DF4",
            Self::Df4_5 => "DF4.5",
        })
    }
}

/// The registers of one machine's data fabric. Everything here is as read; nothing is worked out.
///
/// The names are those of AMD's Processor Programming References; the places (`D18F7x104`: bus 0,
/// device 18h, function 7, offset 104h) are on each field. "By broadcast" means read without an
/// instance, "by instance" with the coherent station's instance number, both through the fabric's
/// indirect access registers (FICAA, FICAD).
///
/// Two channels of a DF2 machine, by 256 bytes:
///
/// ```
/// use ras_core::PhysAddr;
/// use ras_core::translate::{NormalizedAddr, Snapshot, StationId};
///
/// let snapshot: Snapshot = serde_json::from_str(
///     r#"{
///         "revision": "df2",
///         "fabric_id_mask": ["0x75806000"],
///         "stations": [
///             { "instance": 0, "block_instance_information": "0x0",
///               "maps": [{ "base": "0x11", "limit": "0xfff000" }] },
///             { "instance": 1, "block_instance_information": "0x100",
///               "maps": [{ "base": "0x11", "limit": "0xfff000" }] }
///         ]
///     }"#,
/// )?;
/// let second = StationId { socket: 0, die: 0, instance: 1 };
/// let system = snapshot.system_address(second, NormalizedAddr(0x1234))?;
/// assert_eq!(system, PhysAddr(0x2534));
/// assert_eq!(snapshot.normalized_address(system)?, (second, NormalizedAddr(0x1234)));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// See [`Revision::identify`].
    pub revision: Revision,
    /// DeviceVendorId0, D18F0x000. 0x15281022 is an MI300, 0x14ad1022 a Zen 4 server; both differ
    /// from their fabric's revision. 0 where it is neither.
    #[serde(default)]
    pub device_vendor_id: Register,
    /// SystemFabricIdMask registers, by broadcast: D18F1x208 on DF2, that and D18F1x20C on DF3,
    /// D18F1x150, x154 and x158 on DF3.5, D18F4x1B0, x1B4 and x1B8 on DF4 and DF4.5.
    pub fabric_id_mask: Vec<Register>,
    /// DramHoleControl, by broadcast: D18F0x104 before DF4, D18F7x104 from DF4 on.
    #[serde(default)]
    pub dram_hole_control: Register,
    /// How APIC identifiers name sockets and dies. Not needed for a single socket with a single
    /// die, nor where the caller knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apic: Option<ApicLayout>,
    /// How an MI300's memory controllers lay out rows, columns and banks. Needed there only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umc: Option<UmcRegisters>,
    /// The coherent stations that own memory, one per memory channel, in any order.
    pub stations: Vec<Station>,
}

/// One coherent station (CS, COH_ST): the fabric's end of one memory channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Processor package, from 0.
    #[serde(default)]
    pub socket: u8,
    /// Die in the package (AMD node modulo nodes per package), from 0.
    #[serde(default)]
    pub die: u8,
    /// Instance number, by which its registers are read. It is also the number of the memory
    /// controller (`MCA_IPID` bits 31:20), except on MI300.
    pub instance: u8,
    /// FabricBlockInstanceInformation3, D18F0x050, by instance: its fabric identifier. Not used on
    /// MI300, where the identifiers are fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_instance_information: Option<Register>,
    /// Its address maps from map 0 on. Maps at the end that are not enabled may be left out.
    pub maps: Vec<DramMap>,
    /// CsTargetRemap registers in ascending order. DF3 (6 channels only): D18F0x060 and D18F0x068,
    /// by broadcast. DF4: D18F7x180 to x1BC, two for each map selector, and DF4.5: D18F7x180 to
    /// x1DC, six for each, of which three are used; both by instance. May be empty where no map
    /// enables remapping.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_remap: Vec<Register>,
    /// Np2ChannelConfig, D18F2x090, by broadcast on the node that the map's destination names.
    /// DF3 with 6 channels only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub np2_channel_config: Option<Register>,
}

impl Station {
    /// Which one it is.
    #[must_use]
    pub const fn id(&self) -> StationId {
        StationId { socket: self.socket, die: self.die, instance: self.instance }
    }
}

/// Which coherent station.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StationId {
    /// Processor package, from 0.
    pub socket: u8,
    /// Die in the package, from 0.
    pub die: u8,
    /// Instance number in the die.
    pub instance: u8,
}

impl fmt::Display for StationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket, die, instance } = self;
        write!(f, "socket {socket}, die {die}, instance {instance}")
    }
}

/// One DRAM address map of a coherent station. All by instance; `n` is the map's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DramMap {
    /// DramBaseAddress: D18F0x110 + 8n; DF4: D18F7xE00 + 16n; DF4.5: D18F7x200 + 16n.
    pub base: Register,
    /// DramLimitAddress: D18F0x114 + 8n; DF4: D18F7xE04 + 16n; DF4.5: D18F7x204 + 16n.
    pub limit: Register,
    /// DF3 and DF3.5: DfGlobalCtl, D18F0x3F8. DF4: DramAddressCtl, D18F7xE08 + 16n; DF4.5:
    /// D18F7x208 + 16n. Not used on DF2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctl: Option<Register>,
    /// DramAddressIntlv, DF4: D18F7xE0C + 16n; DF4.5: D18F7x20C + 16n. Not used before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intlv: Option<Register>,
    /// DramOffset: D18F0x1B4 + 4(n - 1), DF4 and DF4.5: D18F7x140 + 4(n - 1). Map 0 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Register>,
}

/// How an APIC identifier names socket and die: CPUID leaf 8000_001Eh tells it on each processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApicLayout {
    /// Lowest bit of the socket number.
    pub socket_shift: u8,
    /// Lowest bit of the die number, which reaches up to the socket's. Equal to `socket_shift`
    /// where a package has one die.
    pub die_shift: u8,
}

/// An MI300's memory controller registers, over the system management network at 90000h of any one
/// controller: the hardware's design makes them the same in all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UmcRegisters {
    /// AddrCfg, 30h.
    pub addr_cfg: Register,
    /// AddrSel, 40h.
    pub addr_sel: Register,
    /// ColSelLo, 50h.
    pub col_sel_lo: Register,
    /// AddrSel2, A4h.
    pub addr_sel_2: Register,
    /// AddrHashBank0 to 3, C8h to D4h.
    pub addr_hash_bank: [Register; 4],
    /// AddrHashPC, E0h.
    pub addr_hash_pc: Register,
    /// AddrHashPC2, E4h.
    pub addr_hash_pc_2: Register,
}

/// Why the registers of a snapshot are no machine's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// There is nothing in it to translate by.
    #[error("it has no stations")]
    Empty,
    /// Two entries are of one station.
    #[error("it has two stations at {0}")]
    Twice(StationId),
    /// The registers of a station don't fit one another.
    #[error("the registers of the station at {0} can't be understood")]
    Station(StationId, #[source] TranslateError),
    /// Two stations claim the same memory.
    #[error("the stations at {0} and {1} both hold the first byte of the former")]
    Overlap(StationId, StationId),
}

impl Snapshot {
    /// Checks that each station's memory has a place of its own, as far as its first byte tells.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), SnapshotFault> {
        let mut ids: Vec<StationId> = self.stations.iter().map(Station::id).collect();
        if ids.is_empty() {
            return Err(SnapshotFault::Empty);
        }
        ids.sort_unstable();
        let twins = ids.iter().zip(ids.iter().skip(1));
        if let Some((twice, _)) = twins.into_iter().find(|(one, next)| one == next) {
            return Err(SnapshotFault::Twice(*twice));
        }
        for id in ids {
            let wrong = |error| SnapshotFault::Station(id, error);
            let system = self.system_address(id, NormalizedAddr(0)).map_err(wrong)?;
            let (holder, _) = self.normalized_address(system).map_err(wrong)?;
            if holder != id {
                return Err(SnapshotFault::Overlap(id, holder));
            }
        }
        Ok(())
    }

    /// Whether it is an MI300, accelerator or APU.
    #[must_use]
    pub const fn is_mi300(&self) -> bool {
        matches!(self.revision, Revision::Df4_5) && self.device_vendor_id.0 == 0x1528_1022
    }

    /// The station of that name.
    pub(super) fn station(&self, id: StationId) -> Result<&Station, TranslateError> {
        let mut stations = self.stations.iter();
        stations.find(|station| station.id() == id).ok_or(TranslateError::NoStation(id))
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
