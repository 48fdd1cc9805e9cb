//! Address maps: one map's registers as what they say, for one coherent station.

use super::fabric::Fabric;
use super::hash::Switches;
use super::modes::{self, Mode};
use super::snapshot::{DramMap, Register, Revision, Station, StationId};
use super::{NormalizedAddr, TranslateError};

/// Bases and limits are in units of 256 MiB.
const GRANULE_BITS: u32 = 28;

/// An MI300's offsets are in units of 1 MiB.
const MI300_OFFSET_BITS: u32 = 20;

/// Where the legacy hole ends.
const HOLE_END: u64 = 1 << 32;

/// One address map, decoded and checked, as seen from one coherent station.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Map<'a> {
    pub(super) fabric: &'a Fabric,
    pub(super) id: StationId,
    pub(super) mode: Mode,
    /// Lowest bit that selects a channel.
    pub(super) position: u32,
    /// Dies and sockets that are interleaved, as powers of two.
    pub(super) die_bits: u32,
    pub(super) socket_bits: u32,
    pub(super) switches: Switches,
    /// The station's fabric identifier, with remapping undone: a *logical* one.
    pub(super) station: u32,
    /// The lowest identifier in the map.
    pub(super) destination: u32,
    /// Log2 of the mapped memory in units of 64 KiB, rounded up (six channels).
    pub(super) log2_64k: Option<u32>,
    base: u64,
    limit: u64,
    hole: Option<u64>,
}

/// The map of `station` that a normalized address falls into, and where that map's normalized
/// addresses begin.
pub(super) fn select<'a>(
    fabric: &Fabric,
    station: &'a Station,
    addr: NormalizedAddr,
) -> Result<(&'a DramMap, u64), TranslateError> {
    let (mut found, mut last) = ((0, 0), 0);
    for (index, map) in maps(fabric, station)?.iter().enumerate().skip(1) {
        let register = map.offset.ok_or(TranslateError::Missing { register: "DramOffset" })?;
        let Some(start) = offset(fabric, register) else { continue };
        if start <= last {
            return Err(TranslateError::Inconsistent {
                register: "DramOffset",
                value: register,
                detail: "offsets have to ascend from map to map",
            });
        }
        last = start;
        if addr.0 >= start {
            found = (index, start);
        }
    }
    let map = station.maps.get(found.0).ok_or(TranslateError::NoMap(station.id()))?;
    Ok((map, found.1))
}

/// The station's maps with the start of each, in ascending order, without those not enabled.
pub(super) fn starts<'a>(
    fabric: &'a Fabric,
    station: &'a Station,
) -> impl Iterator<Item = (&'a DramMap, u64)> {
    station.maps.iter().enumerate().filter_map(|(index, map)| match index {
        0 => Some((map, 0)),
        _ => map.offset.and_then(|register| offset(fabric, register)).map(|start| (map, start)),
    })
}

fn maps<'a>(fabric: &Fabric, station: &'a Station) -> Result<&'a [DramMap], TranslateError> {
    match station.maps.len() <= fabric.revision.maps() {
        true => Ok(&station.maps),
        false => Err(TranslateError::TooManyMaps(station.id())),
    }
}

/// `HiAddrOffset`, where enabled.
fn offset(fabric: &Fabric, register: Register) -> Option<u64> {
    let low = match fabric.revision {
        Revision::Df2 => 20,
        Revision::Df3 | Revision::Df3_5 => 12,
        Revision::Df4 | Revision::Df4_5 => 1,
    };
    let unit = if fabric.mi300 { MI300_OFFSET_BITS } else { GRANULE_BITS };
    register.bit(0).then(|| u64::from(register.field(31, low)) << unit)
}

impl<'a> Map<'a> {
    /// Decodes and checks `map`.
    pub(super) fn read(
        fabric: &'a Fabric,
        station: &Station,
        map: &DramMap,
    ) -> Result<Self, TranslateError> {
        let registers = Registers::of(fabric.revision, map)?;
        let Registers { base, limit, ctl, intlv, .. } = registers;
        if !registers.control().bit(0) {
            return Err(TranslateError::NoMap(station.id()));
        }
        let (code, position, die_bits, socket_bits) = match fabric.revision {
            Revision::Df2 => {
                (base.field(7, 4), base.field(10, 8), limit.field(11, 10), limit.field(8, 8))
            }
            Revision::Df3 => {
                (base.field(5, 2), base.field(11, 9), base.field(7, 6), base.field(8, 8))
            }
            Revision::Df3_5 => {
                (base.field(6, 2), base.field(11, 9), base.field(7, 7), base.field(8, 8))
            }
            Revision::Df4 => {
                (intlv.field(8, 4), intlv.field(2, 0), intlv.field(13, 12), intlv.field(18, 18))
            }
            Revision::Df4_5 => {
                (intlv.field(9, 4), intlv.field(2, 0), intlv.field(13, 12), intlv.field(18, 18))
            }
        };
        let mode = modes::lookup(fabric.revision, fabric.mi300, code)?;
        if fabric.revision == Revision::Df4 && ctl.bit(3) {
            return Err(TranslateError::Inconsistent {
                register: "DramAddressCtl",
                value: ctl,
                detail: "one map for the memory of several nodes, by size, is not supported",
            });
        }
        let destination = match fabric.revision {
            Revision::Df2 => limit.field(7, 0),
            Revision::Df3 => limit.field(9, 0),
            Revision::Df3_5 => limit.field(11, 0),
            Revision::Df4 => ctl.field(27, 16),
            Revision::Df4_5 => ctl.field(23, 16),
        };
        let switches = match fabric.revision {
            Revision::Df2 => Switches::default(),
            Revision::Df3 | Revision::Df3_5 => Switches {
                k64: ctl.bit(20),
                m2: ctl.bit(21),
                g1: ctl.bit(22),
                ..Switches::default()
            },
            Revision::Df4 | Revision::Df4_5 => Switches {
                k4: ctl.bit(7),
                k64: ctl.bit(8),
                m2: ctl.bit(9),
                g1: ctl.bit(10),
                t1: ctl.bit(15),
            },
        };
        let log2_64k = match (mode, station.np2_channel_config) {
            (Mode::Df3Six, Some(register)) => Some(register.field(5, 0)),
            (Mode::Df3Six, None) => {
                return Err(TranslateError::Missing { register: "Np2ChannelConfig" });
            }
            _ => None,
        };
        let hole = match registers.control().bit(1) {
            true if fabric.hole_base == 0 => {
                return Err(TranslateError::Inconsistent {
                    register: "DramHoleControl",
                    value: Register(0),
                    detail: "the map has the legacy hole, which begins nowhere",
                });
            }
            enabled => enabled.then_some(fabric.hole_base),
        };
        // Without interleaving the map has one station, whatever its name.
        let physical = match mode {
            Mode::None => 0,
            _ => physical_id(fabric, station)?,
        };
        let decoded = Self {
            fabric,
            id: station.id(),
            mode,
            position: position + 8,
            die_bits,
            socket_bits,
            switches,
            station: registers.undo_remap(fabric, station, mode, destination, physical)?,
            destination,
            log2_64k,
            base: registers.base_address(base),
            limit: registers.base_address(limit) | ((1 << GRANULE_BITS) - 1),
            hole,
        };
        decoded.check(registers)?;
        Ok(decoded)
    }

    /// Refuses settings that a mode does not have: the formulas would give addresses all the same.
    fn check(&self, registers: Registers) -> Result<(), TranslateError> {
        let (place, allowed) = match self.mode {
            Mode::None => return Ok(()),
            // Two bits for dies, of which 3 means nothing.
            Mode::Plain { .. } => (true, (2, 1)),
            Mode::Df2 | Mode::Df3 { .. } => (matches!(self.position, 8 | 9), (0, 0)),
            Mode::Df3Six => (matches!(self.position, 11 | 12), (0, 0)),
            Mode::Df4 { .. } | Mode::Df4Modulo(_) => (self.position == 8, (0, 1)),
            // Sixteen channels on two sockets, and sockets beside interleaving by 1 KiB, would need
            // select bits that no description has.
            Mode::Df45 { bits } => (self.position == 8, (0, u32::from(bits < 4))),
            Mode::Df45By1K { .. } => (self.position == 8, (0, 0)),
            Mode::Df45Modulo(m) => (self.position == 8, (0, u32::from(m.two_sockets))),
            Mode::Mi300 { .. } => (self.position == 8, (2, 0)),
        };
        let detail = if !place {
            "the interleave begins at a bit that its mode does not allow"
        } else if self.die_bits > allowed.0 {
            "dies are interleaved that its mode does not allow"
        } else if self.socket_bits > allowed.1 {
            "sockets are interleaved that its mode does not allow"
        } else if matches!(self.mode, Mode::Df45Modulo(m) if m.two_sockets && self.socket_bits == 0)
        {
            "24 channels need two sockets"
        } else {
            return Ok(());
        };
        let (register, value) = registers.interleave();
        Err(TranslateError::Inconsistent { register, value, detail })
    }

    /// Whether hashes read addresses that are counted from the map's base, without the hole. DF3.5
    /// changed it, six channels on DF3 were first, and DF4.5 changed it back.
    pub(super) const fn hashes_before_base(&self) -> bool {
        matches!(self.fabric.revision, Revision::Df3_5 | Revision::Df4)
            || matches!(self.mode, Mode::Df3Six)
    }

    /// An address within the map to a system address: after the base, around the hole.
    pub(super) const fn place(&self, within: u64) -> u64 {
        let address = within.saturating_add(self.base);
        match self.hole {
            Some(hole) if address >= hole => address.saturating_add(HOLE_END - hole),
            _ => address,
        }
    }

    /// The way back. `None` in the hole, and below the base.
    pub(super) fn unplace(&self, address: u64) -> Option<u64> {
        let without = match self.hole {
            Some(hole) if address >= HOLE_END => address - (HOLE_END - hole),
            Some(hole) if address >= hole => return None,
            _ => address,
        };
        without.checked_sub(self.base)
    }

    /// The last address of the map.
    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }
}

/// The four registers of a map, with those that its revision does not have as 0.
#[derive(Clone, Copy)]
struct Registers {
    revision: Revision,
    base: Register,
    limit: Register,
    ctl: Register,
    intlv: Register,
}

impl Registers {
    fn of(revision: Revision, map: &DramMap) -> Result<Self, TranslateError> {
        let need = |needed: bool, value: Option<Register>, register: &'static str| match value {
            _ if !needed => Ok(Register(0)),
            Some(value) => Ok(value),
            None => Err(TranslateError::Missing { register }),
        };
        let new = revision >= Revision::Df4;
        let ctl = if new { "DramAddressCtl" } else { "DfGlobalCtl" };
        Ok(Self {
            revision,
            base: map.base,
            limit: map.limit,
            ctl: need(revision != Revision::Df2, map.ctl, ctl)?,
            intlv: need(new, map.intlv, "DramAddressIntlv")?,
        })
    }

    /// The register with `AddrRngVal` and `LgcyMmioHoleEn` in bits 0 and 1.
    fn control(self) -> Register {
        if self.revision >= Revision::Df4 { self.ctl } else { self.base }
    }

    /// The register with the interleave settings, for messages.
    fn interleave(self) -> (&'static str, Register) {
        match self.revision >= Revision::Df4 {
            true => ("DramAddressIntlv", self.intlv),
            false => ("DramBaseAddress", self.base),
        }
    }

    /// Base or limit in bytes.
    fn base_address(self, register: Register) -> u64 {
        let units = match self.revision >= Revision::Df4 {
            true => register.field(27, 0),
            false => register.field(31, 12),
        };
        u64::from(units) << GRANULE_BITS
    }

    /// A station's physical identifier to the logical one that its map counts by.
    ///
    /// Remapping happens after the interleave and knows nothing of its mode, so it is undone in
    /// every mode, by the first entry that names the station.
    fn undo_remap(
        self,
        fabric: &Fabric,
        station: &Station,
        mode: Mode,
        destination: u32,
        physical: u32,
    ) -> Result<u32, TranslateError> {
        let enabled = self.revision >= Revision::Df4 && !fabric.mi300 && self.ctl.bit(4);
        let (first, registers, entries, width) = match self.revision {
            _ if mode == Mode::None => return Ok(physical),
            Revision::Df3 if mode == Mode::Df3Six => {
                (u32::from(destination & fabric.socket.mask != 0), 1, 8, 4)
            }
            Revision::Df4 if enabled => (2 * self.ctl.field(7, 5), 2, 8, 4),
            Revision::Df4_5 if enabled => (6 * self.ctl.field(6, 5), 3, 6, 5),
            _ => return Ok(physical),
        };
        let component = physical & fabric.component_mask;
        let mut logical = 0;
        for index in first..first + registers {
            let register = usize::try_from(index).ok().and_then(|i| station.target_remap.get(i));
            let register = register.ok_or(TranslateError::Missing { register: "CsTargetRemap" })?;
            for entry in 0..entries {
                if register.field(entry * width + width - 1, entry * width) == component {
                    return Ok((physical & fabric.node_mask) | logical);
                }
                logical += 1;
            }
        }
        Err(TranslateError::NotInRemap { component })
    }
}

/// The fabric identifier of a station.
fn physical_id(fabric: &Fabric, station: &Station) -> Result<u32, TranslateError> {
    if fabric.mi300 {
        // Fixed in hardware: the four stations of each stack count the stacks from the other end.
        return match station.instance {
            instance @ 0..32 => Ok(u32::from(instance ^ 0xc) | fabric.node(station.id())?),
            _ => Err(TranslateError::NoStation(station.id())),
        };
    }
    let register = station
        .block_instance_information
        .ok_or(TranslateError::Missing { register: "FabricBlockInstanceInformation3" })?;
    Ok(match fabric.revision {
        Revision::Df4_5 => register.field(15, 8),
        _ => register.field(19, 8),
    })
}
