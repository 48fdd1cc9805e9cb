//! AMD: normalized addresses of a memory controller (UMC) to system addresses and back.
//!
//! A UMC counts the memory behind it from 0: a *normalized* address. The data fabric has spread
//! system addresses over channels, dies and sockets before; that *interleave* is undone here from a
//! [`Snapshot`] of the fabric's registers:
//!
//! ```text
//! MCA_ADDR of a UMC ──(MI300: row, column, bank)──> normalized
//!   - the map's offset              which of the station's address maps
//!   spread, channel put in          interleave mode, the station's fabric identifier
//!   + base, around the hole         (DF3.5, DF4: after the next step)
//!   channel bits unhashed
//!   <= limit                      ──> system address
//! ```
//!
//! Revisions DF2 to DF4.5 and MI300, with every interleave mode that Linux's `drivers/ras/amd/atl`
//! knows. Sources of the formulas: that driver, AMD's Processor Programming References, and what
//! has to hold because channels don't share memory: together, the stations' normalized addresses
//! are the system addresses, each once. Every mode can therefore be reversed;
//! [`Snapshot::normalized_address`] does.
//!
//! Where the driver (of Linux 6.12) breaks that rule, or asks no question where the registers
//! leave one, it is not followed:
//! - 16 channels by 2 KiB, and 8 channels on two sockets: it leaves the fourth channel bit out of
//!   the address, so that two channels share one. Here it goes to bit 14.
//! - 4, 8 and 16 channels by 1 KiB (DF4.5): it makes no room for the channel, and all addresses
//!   come out wrong or above the limit.
//! - 3, 5, 6, 10, 12 and 24 channels (DF4.5): it checks each candidate against a normalized address
//!   with two or three bits that are not its own, and finds none for many addresses.
//! - Six channels (DF3), last quarter: it puts the upper two bits three places too low.
//! - Remapping: it reads the tables, and leaves them unused with six channels and with DF4's modes
//!   that are no powers of two. Entries that are not there go unnoticed.
//! - Three or four maps: it takes the first that begins below an address, so never the later ones.
//! - Settings a mode does not have (dies or sockets, where the interleave begins), a hole that
//!   begins nowhere, modes of another revision: it calculates all the same.

mod bits;
mod fabric;
mod hash;
mod interleave;
mod map;
mod modes;
mod snapshot;
#[cfg(test)]
mod tests;
mod umc;

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::PhysAddr;
use fabric::Fabric;
use map::Map;

pub use snapshot::{
    ApicLayout, DramMap, Register, Revision, Snapshot, SnapshotFault, Station, StationId,
    UmcRegisters,
};
pub use umc::UmcAddress;

/// A normalized address in bytes: the memory behind one coherent station, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NormalizedAddr(pub u64);

impl fmt::Display for NormalizedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for NormalizedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NormalizedAddr({self})")
    }
}

/// Why an address can't be translated. No variant means that a guess would have been possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TranslateError {
    /// The map's `IntLvNumChan` is none that its revision has.
    #[error("{revision} has no interleave mode {code:#x}")]
    UnsupportedMode {
        /// The fabric.
        revision: Revision,
        /// The field's value.
        code: u32,
    },
    /// The snapshot lacks a register that the translation needs.
    #[error("the snapshot lacks {register}")]
    Missing {
        /// Its name in AMD's references.
        register: &'static str,
    },
    /// A register contradicts another one, or its own mode.
    #[error("{register} is {value}: {detail}")]
    Inconsistent {
        /// Its name in AMD's references.
        register: &'static str,
        /// Its value, or the field's that is wrong.
        value: Register,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The snapshot has no such coherent station.
    #[error("no coherent station at {0}")]
    NoStation(StationId),
    /// The fabric's identifiers have no room for this socket or die.
    #[error("the fabric's masks have no room for the node of {0}")]
    NoSuchNode(StationId),
    /// The station has more maps than its revision.
    #[error("the station at {0} has more address maps than there are")]
    TooManyMaps(StationId),
    /// The map that the address falls into is not valid.
    #[error("the station at {0} has no valid map for the address")]
    NoMap(StationId),
    /// The station is none of those that the map interleaves, or has no such address in it.
    #[error("the map does not hold the address for the station at {0}")]
    NotInMap(StationId),
    /// No remap entry names the station.
    #[error("CsTargetRemap has no entry for component {component:#x}")]
    NotInRemap {
        /// The component part of the station's fabric identifier.
        component: u32,
    },
    /// A normalized address longer than any system address.
    #[error("normalized address {0} is longer than 52 bits")]
    TooLong(NormalizedAddr),
    /// The system address would be beyond the end of its map.
    #[error("system address {system} is above the map's limit {limit}")]
    AboveLimit {
        /// What the registers make of the normalized address.
        system: PhysAddr,
        /// The map's last address.
        limit: PhysAddr,
    },
    /// No station has memory there.
    #[error("no coherent station holds {0}")]
    NotMemory(PhysAddr),
    /// The registers are no memory controller's.
    #[error("IPID {ipid:#x} is not a UMC's")]
    NotUmc {
        /// `MCA_IPID`.
        ipid: u64,
    },
    /// The UMC reports something else than a DRAM ECC error: its address counts something else.
    #[error("extended code {code} of a UMC is no DRAM error")]
    NotDram {
        /// `MCA_STATUS[ErrorCodeExt]`.
        code: u64,
    },
    /// The address is good to fewer bits than a channel's turn is long: it names many places.
    #[error("an address that is good to bit {lsb} only is spread over channels")]
    Coarse {
        /// Lowest valid bit.
        lsb: u8,
    },
    /// The registers hold no valid address.
    #[error("the bank has no valid address")]
    NoAddress,
    /// The UMC's number names no coherent station.
    #[error("IPID {ipid:#x} names no coherent station")]
    UnknownInstance {
        /// `MCA_IPID`.
        ipid: u64,
    },
    /// The snapshot has several sockets or dies, and nothing says which.
    #[error("unknown which socket and die reported it")]
    UnknownNode,
    /// DRAM rows are known on MI300 only.
    #[error("the layout of rows is not known on {0}")]
    NoRows(Revision),
}

impl Snapshot {
    /// The system address of a normalized one, seen by the UMC behind `station`.
    ///
    /// # Errors
    ///
    /// Whatever keeps the registers from saying for certain.
    pub fn system_address(
        &self,
        station: StationId,
        addr: NormalizedAddr,
    ) -> Result<PhysAddr, TranslateError> {
        to_system(&Fabric::read(self)?, self.station(station)?, addr)
    }

    /// The way back: which station holds a system address, and at which normalized one.
    ///
    /// Time is linear in the number of stations.
    ///
    /// # Errors
    ///
    /// [`TranslateError::NotMemory`] where none holds it; another one where that is not certain,
    /// since a map could not be understood.
    pub fn normalized_address(
        &self,
        addr: PhysAddr,
    ) -> Result<(StationId, NormalizedAddr), TranslateError> {
        let fabric = Fabric::read(self)?;
        let mut failed = None;
        for station in &self.stations {
            for (dram, start) in map::starts(&fabric, station) {
                let candidate = match Map::read(&fabric, station, dram) {
                    Ok(map) => map.candidate(addr.0).and_then(|within| within.checked_add(start)),
                    Err(TranslateError::NoMap(_)) => None,
                    Err(error) => {
                        failed.get_or_insert(error);
                        None
                    }
                };
                let Some(candidate) = candidate.map(NormalizedAddr) else { continue };
                if to_system(&fabric, station, candidate) == Ok(addr) {
                    return Ok((station.id(), candidate));
                }
            }
        }
        Err(failed.unwrap_or(TranslateError::NotMemory(addr)))
    }
}

fn to_system(
    fabric: &Fabric,
    station: &Station,
    addr: NormalizedAddr,
) -> Result<PhysAddr, TranslateError> {
    if addr.0 >> interleave::NORMALIZED_BITS != 0 {
        return Err(TranslateError::TooLong(addr));
    }
    let (dram, start) = map::select(fabric, station, addr)?;
    let map = Map::read(fabric, station, dram)?;
    let system = map.denormalize(addr.0 - start)?;
    match system <= map.limit() {
        true => Ok(PhysAddr(system)),
        false => Err(TranslateError::AboveLimit {
            system: PhysAddr(system),
            limit: PhysAddr(map.limit()),
        }),
    }
}
