//! Fabric identifiers: how socket, die and component share one number.

use super::snapshot::{Revision, Snapshot, StationId};
use super::{Register, TranslateError};

/// The layout of fabric identifiers, and what else holds for the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fabric {
    pub(super) revision: Revision,
    pub(super) mi300: bool,
    pub(super) component_mask: u32,
    pub(super) node_mask: u32,
    pub(super) die: Field,
    pub(super) socket: Field,
    /// Where the hole below 4 GiB begins, for the maps that have it.
    pub(super) hole_base: u64,
}

/// A part of a fabric identifier, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Field {
    pub(super) mask: u32,
    pub(super) shift: u32,
}

impl Field {
    /// The part of `id` as a number.
    pub(super) const fn of(self, id: u32) -> u32 {
        match (id & self.mask).checked_shr(self.shift) {
            Some(value) => value,
            None => 0,
        }
    }

    /// `value` in its place.
    const fn place(self, value: u32) -> u32 {
        match value.checked_shl(self.shift) {
            Some(id) => id & self.mask,
            None => 0,
        }
    }
}

/// Device and vendor of a Zen 4 server's fabric, whose masks of a two-socket machine are not what
/// the hardware does.
const ZEN4_SERVER: u32 = 0x14ad_1022;

impl Fabric {
    pub(super) fn read(snapshot: &Snapshot) -> Result<Self, TranslateError> {
        const NAMES: [&str; 3] =
            ["SystemFabricIdMask0", "SystemFabricIdMask1", "SystemFabricIdMask2"];
        let mask = |index: usize| {
            let register = snapshot.fabric_id_mask.get(index).copied();
            register.ok_or(TranslateError::Missing { register: NAMES[index] })
        };
        let revision = snapshot.revision;
        let ids = match revision {
            Revision::Df2 => Ids::df2(mask(0)?),
            Revision::Df3 => Ids::df3(mask(0)?, mask(1)?),
            Revision::Df3_5 => Ids::df4(mask(0)?, mask(1)?, mask(2)?),
            Revision::Df4 | Revision::Df4_5 => {
                let ids = Ids::df4(mask(0)?, mask(1)?, mask(2)?);
                match snapshot.device_vendor_id.0 == ZEN4_SERVER && ids.socket.shift == 1 {
                    true => ids.zen4_server(),
                    false => ids,
                }
            }
        };
        let Ids { component_mask, node_mask, node_shift, die, socket } = ids;
        // From DF3 on, die and socket are counted within the node part.
        let (die, socket) = match revision {
            Revision::Df2 => (die, socket),
            _ => (
                Field { mask: die.mask << node_shift & 0xffff, shift: node_shift },
                Field {
                    mask: socket.mask << node_shift & 0xffff,
                    shift: socket.shift + node_shift,
                },
            ),
        };
        Ok(Self {
            revision,
            mi300: snapshot.is_mi300(),
            component_mask,
            node_mask,
            die,
            socket,
            hole_base: u64::from(snapshot.dram_hole_control.field(31, 24)) << 24,
        })
    }

    /// The node part of the fabric identifiers of this station's die.
    pub(super) fn node(&self, id: StationId) -> Result<u32, TranslateError> {
        let part = |field: Field, number: u8| match field.place(u32::from(number)) {
            placed if field.of(placed) == u32::from(number) => Ok(placed),
            _ => Err(TranslateError::NoSuchNode(id)),
        };
        Ok(part(self.socket, id.socket)? | part(self.die, id.die)?)
    }
}

/// The masks and shifts as the registers give them.
struct Ids {
    component_mask: u32,
    node_mask: u32,
    node_shift: u32,
    die: Field,
    socket: Field,
}

impl Ids {
    fn df2(mask: Register) -> Self {
        let die = Field { mask: mask.field(15, 8), shift: mask.field(27, 24) };
        let socket = Field { mask: mask.field(23, 16), shift: mask.field(31, 28) };
        let node_mask = socket.mask | die.mask;
        Self { component_mask: !node_mask & 0xffff, node_mask, node_shift: die.shift, die, socket }
    }

    fn df3(mask0: Register, mask1: Register) -> Self {
        Self {
            component_mask: mask0.field(9, 0),
            node_mask: mask0.field(25, 16),
            node_shift: mask1.field(3, 0),
            die: Field { mask: mask1.field(18, 16), shift: 0 },
            socket: Field { mask: mask1.field(26, 24), shift: mask1.field(9, 8) },
        }
    }

    fn df4(mask0: Register, mask1: Register, mask2: Register) -> Self {
        Self {
            component_mask: mask0.field(15, 0),
            node_mask: mask0.field(31, 16),
            node_shift: mask1.field(3, 0),
            die: Field { mask: mask2.field(15, 0), shift: 0 },
            socket: Field { mask: mask2.field(31, 16), shift: mask1.field(11, 8) },
        }
    }

    fn zen4_server(self) -> Self {
        Self {
            component_mask: self.component_mask,
            node_mask: 0x100,
            node_shift: 8,
            die: Field { mask: 0, shift: 0 },
            socket: Field { mask: 1, shift: 0 },
        }
    }
}
