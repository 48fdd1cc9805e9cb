//! From a memory controller's machine-check bank to the station and the address it means.

use alloc::vec::Vec;

use super::bits::parity;
use super::snapshot::{Register, Snapshot, Station, StationId, UmcRegisters};
use super::{NormalizedAddr, TranslateError};
use crate::translate::ADDR_BITS;
use crate::{McaRegisters, PhysAddr};

/// `MCA_IPID` hardware identifier of a UMC.
const UMC_HWID: u64 = 0x96;

/// `MCA_IPID` types of UMCs: 0, and MI300's 1.
const UMC_TYPE_MAX: u64 = 1;

/// `MCA_STATUS` bit 58: `MCA_ADDR` is valid.
const ADDR_VALID: u64 = 1 << 58;

/// Where a UMC's error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UmcAddress {
    /// The coherent station before the UMC.
    pub station: StationId,
    /// The address as the UMC counts.
    pub normalized: NormalizedAddr,
    /// The address as everybody else does.
    pub system: PhysAddr,
}

impl Snapshot {
    /// Where the error of a UMC's bank is.
    ///
    /// `socket` is the processor package where the caller knows it; otherwise the APIC identifier
    /// tells, or there is only one.
    ///
    /// # Errors
    ///
    /// If the bank is not a UMC's or has no address, and whatever keeps the registers from saying
    /// for certain.
    pub fn umc_address(
        &self,
        mca: &McaRegisters,
        socket: Option<u8>,
    ) -> Result<UmcAddress, TranslateError> {
        let station = self.umc_station(mca, socket)?;
        let normalized = self.umc_normalized(mca.addr)?;
        let system = self.system_address(station, normalized)?;
        Ok(UmcAddress { station, normalized, system })
    }

    /// The system address of every column of the DRAM row that a UMC's bank reports, in ascending
    /// order: MI300 only, where a row is what fails. Row bit 13 counts for the same physical row,
    /// so there are two halves of 32 columns each.
    ///
    /// # Errors
    ///
    /// As [`Self::umc_address`]; [`TranslateError::NoRows`] elsewhere than on MI300. Columns that
    /// are no memory are left out, unless the reported one is.
    pub fn umc_row(
        &self,
        mca: &McaRegisters,
        socket: Option<u8>,
    ) -> Result<Vec<PhysAddr>, TranslateError> {
        if !self.is_mi300() {
            return Err(TranslateError::NoRows(self.revision));
        }
        let UmcAddress { station, .. } = self.umc_address(mca, socket)?;
        let mut row = Vec::new();
        for half in [0, 1 << 23] {
            for column in 0..1 << 5 {
                let dram = (mca.addr ^ half) & !(0x1f << 1) | column << 1;
                match self.system_address(station, self.umc_normalized(dram)?) {
                    Ok(system) => row.push(system),
                    Err(TranslateError::AboveLimit { .. } | TranslateError::NoMap(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        row.sort_unstable();
        row.dedup();
        Ok(row)
    }

    fn umc_station(
        &self,
        mca: &McaRegisters,
        socket: Option<u8>,
    ) -> Result<StationId, TranslateError> {
        let ipid = mca.ipid;
        if ipid >> 32 & 0xfff != UMC_HWID || ipid >> 48 > UMC_TYPE_MAX {
            return Err(TranslateError::NotUmc { ipid });
        }
        let code = mca.status >> 16 & 0x3f;
        if code != 0 {
            return Err(TranslateError::NotDram { code });
        }
        if mca.status & ADDR_VALID == 0 {
            return Err(TranslateError::NoAddress);
        }
        let unknown = TranslateError::UnknownInstance { ipid };
        let (socket_of_apic, die_of_apic) = match self.apic {
            Some(layout) => {
                let from = |shift: u8| mca.apic_id.checked_shr(shift.into()).unwrap_or_default();
                let dies = layout.socket_shift.saturating_sub(layout.die_shift);
                let mask = 1u32.checked_shl(dies.into()).map_or(u32::MAX, |end| end - 1);
                let number = |value: u32| u8::try_from(value).ok();
                (number(from(layout.socket_shift)), number(from(layout.die_shift) & mask))
            }
            None => (None, None),
        };
        let sole = |number: fn(StationId) -> u8, stations: &dyn Fn(StationId) -> bool| {
            let mut numbers = self.stations.iter().map(Station::id).filter(|id| stations(*id));
            let first = numbers.next().map(number)?;
            numbers.all(|id| number(id) == first).then_some(first)
        };
        let socket = socket.or(socket_of_apic).or_else(|| sole(|id| id.socket, &|_| true));
        let socket = socket.ok_or(TranslateError::UnknownNode)?;
        if self.is_mi300() {
            // InstanceIdHi is the number of the AMD node; each die has four.
            let die = (ipid >> 44 & 0xf) >> 2;
            let die = u8::try_from(die).map_err(|_| unknown)?;
            let instance = mi300_instance(ipid >> 12 & 0xfff).ok_or(unknown)?;
            return Ok(StationId { socket, die, instance });
        }
        let die = die_of_apic.or_else(|| sole(|id| id.die, &|id| id.socket == socket));
        let die = die.ok_or(TranslateError::UnknownNode)?;
        let instance = u8::try_from(ipid >> 20 & 0xfff).map_err(|_| unknown)?;
        Ok(StationId { socket, die, instance })
    }

    fn umc_normalized(&self, addr: u64) -> Result<NormalizedAddr, TranslateError> {
        match (self.is_mi300(), &self.umc) {
            (false, _) => Ok(NormalizedAddr(addr & ADDR_BITS)),
            (true, Some(umc)) => Ok(umc.normalized(addr)),
            (true, None) => Err(TranslateError::Missing { register: "UMC::CH::AddrCfg" }),
        }
    }
}

/// The coherent station of an MI300's UMC, from bits 23:12 of its identifier: stack, 9, channel,
/// both counted from the other end.
fn mi300_instance(umc: u64) -> Option<u8> {
    let (stack, channel) = (umc >> 8, umc & 0xf);
    if umc >> 4 & 0xf != 9 || stack > 7 || channel > 3 {
        return None;
    }
    u8::try_from((stack & 4) << 2 | (3 - channel) << 2 | (3 - (stack & 3))).ok()
}

/// `MCA_ADDR` of an MI300's UMC: column 5:1, bank 9:6, row 24:10, pseudochannel 25, stack 27:26.
struct DramAddress {
    column: u64,
    bank: u64,
    row: u64,
    pseudochannel: u64,
    stack: u64,
}

impl DramAddress {
    const fn new(addr: u64) -> Self {
        Self {
            column: addr >> 1 & 0x1f,
            bank: addr >> 6 & 0xf,
            row: addr >> 10 & 0x7fff,
            pseudochannel: addr >> 25 & 1,
            stack: addr >> 26 & 3,
        }
    }

    /// What an AddrHash register folds into its bit: 0 or 1.
    fn folded(&self, hash: Register) -> u64 {
        let mask = |high, low| u64::from(hash.field(high, low));
        match hash.bit(0) {
            true => parity(self.column & mask(13, 1)) ^ parity(self.row & mask(31, 14)),
            false => 0,
        }
    }
}

impl UmcRegisters {
    /// The normalized address of a DRAM address: its hashes undone, its bits where the controller's
    /// selectors put them.
    fn normalized(&self, addr: u64) -> NormalizedAddr {
        let mut dram = DramAddress::new(addr);
        for (index, hash) in self.addr_hash_bank.iter().enumerate() {
            dram.bank ^= dram.folded(*hash) << index;
        }
        if self.addr_hash_pc.bit(0) {
            let banks = u64::from(self.addr_hash_pc_2.field(5, 0));
            dram.pseudochannel ^=
                dram.folded(self.addr_hash_pc) ^ parity((dram.bank | dram.stack << 4) & banks);
        }
        let rows_low = 10 + self.addr_cfg.field(11, 8);
        let rows_high = self.addr_cfg.field(15, 12);
        let (select, columns) = (self.addr_sel, self.col_sel_lo);
        // No selector reaches beyond bit 53, so every bit has a place.
        let bits = |value: u64, count: u32, place: &dyn Fn(u32) -> u32| {
            (0..count).fold(0, |all, index| all | (value >> index & 1) << place(index))
        };
        NormalizedAddr(
            bits(dram.column, 5, &|i| 2 + columns.field(4 * i + 3, 4 * i))
                | bits(dram.bank, 4, &|i| 5 + select.field(4 * i + 3, 4 * i))
                | bits(dram.row, rows_low, &|i| 12 + select.field(27, 24) + i)
                | bits(dram.row >> rows_low, rows_high, &|i| 24 + select.field(31, 28) + i)
                | dram.pseudochannel << (5 + self.addr_sel_2.field(15, 12))
                | bits(dram.stack, 2, &|i| match i {
                    0 => 5 + select.field(20, 16),
                    _ => 5 + self.addr_sel_2.field(4, 0),
                }),
        )
    }
}
