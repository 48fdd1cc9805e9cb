//! Machine-check banks as the guest needs them: is it mine to handle, which memory does it name.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bitfield_struct::bitfield;

use crate::page::{Gpa, PAGE_SIZE};

/// `IA32_MCG_CAP`. SDM vol. 3B, "IA32_MCG_CAP MSR".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McgCap {
    /// Number of banks.
    pub count: u8,
    /// MCG_CTL_P: `IA32_MCG_CTL` exists.
    pub ctl_p: bool,
    #[bits(55)]
    __: u64,
}

/// `IA32_MCG_STATUS`. SDM vol. 3B, "IA32_MCG_STATUS MSR".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McgStatus {
    /// The interrupted program can continue at the saved instruction pointer.
    pub ripv: bool,
    /// The saved instruction pointer is the instruction that met the error.
    pub eipv: bool,
    /// A machine check is in progress. Another one while it is set shuts the processor down.
    pub mcip: bool,
    #[bits(61)]
    __: u64,
}

/// `IA32_MCi_STATUS`. SDM vol. 3B, "IA32_MCi_STATUS MSRs"; APM vol. 2, "Machine Check Status
/// Registers". Bits that only one vendor has say so: with the other they mean something else.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct MciStatus {
    #[bits(43)]
    __: u64,
    /// AMD: the data is poisoned.
    pub poison: bool,
    /// AMD: uncorrected, but nobody used the data yet.
    pub deferred: bool,
    #[bits(10)]
    __: u64,
    /// Intel: action required, the data was about to be consumed.
    pub ar: bool,
    /// Intel: signalled by a machine check.
    pub s: bool,
    /// Processor context corrupt.
    pub pcc: bool,
    /// `IA32_MCi_ADDR` is valid.
    pub addrv: bool,
    /// `IA32_MCi_MISC` is valid.
    pub miscv: bool,
    /// Reporting of this error was enabled.
    pub en: bool,
    /// Uncorrected.
    pub uc: bool,
    /// Something was overwritten.
    pub over: bool,
    /// The bank holds an error.
    pub val: bool,
}

/// Whose machine-check architecture the processor has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// Intel's, and everybody's who copies it.
    Intel,
    /// AMD's, and Hygon's.
    Amd,
}

/// One bank as the handler or the poll read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BankRecord {
    /// How to read the rest.
    pub vendor: Vendor,
    /// Bank number.
    pub bank: u8,
    /// Seen by the poll, without a machine check.
    pub polled: bool,
    /// `IA32_MCi_STATUS`.
    pub status: MciStatus,
    /// `IA32_MCi_ADDR`, 0 unless ADDRV.
    pub addr: u64,
    /// `IA32_MCi_MISC`, 0 unless MISCV.
    pub misc: u64,
    /// `IA32_MCG_STATUS`.
    pub mcg: McgStatus,
}

/// Memory that a bank complains about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMemory {
    /// First page.
    pub page: Gpa,
    /// Pages, at least 1.
    pub pages: u64,
    /// The contents are lost; otherwise they were corrected and can still be moved away.
    pub lost: bool,
}

impl BankRecord {
    /// Whether the poll may take the record: corrected and deferred errors and UCNA. An uncorrected
    /// error that is signalled belongs to the machine check that is on its way.
    #[must_use]
    pub const fn is_for_poll(&self) -> bool {
        let status = self.status;
        status.val()
            && match self.vendor {
                Vendor::Intel => !status.uc() || !(status.s() || status.ar() || status.pcc()),
                Vendor::Amd => !status.uc(),
            }
    }

    /// Whether the interrupted access was about to use the data. AMD has no bit for that: there,
    /// what nobody is about to use is deferred and raises no machine check.
    #[must_use]
    pub const fn is_action_required(&self) -> bool {
        match self.vendor {
            Vendor::Intel => self.status.ar(),
            Vendor::Amd => self.status.uc(),
        }
    }

    /// The memory the record names: at least a page and at most 1 GiB. Intel's MISC bits 5:0 say how
    /// much of the address is meant (SDM vol. 3B, "Recoverable Address LSB").
    #[must_use]
    pub fn memory(&self) -> Option<BadMemory> {
        let status = self.status;
        if !status.addrv() {
            return None;
        }
        let (lsb, lost) = match self.vendor {
            Vendor::Intel if status.miscv() => ((self.misc & 0x3f).clamp(12, 30), status.uc()),
            Vendor::Intel => (12, status.uc()),
            Vendor::Amd => (12, status.uc() || status.deferred() || status.poison()),
        };
        let page = Gpa(self.addr >> lsb << lsb);
        Some(BadMemory { page, pages: (1 << lsb) / PAGE_SIZE, lost })
    }
}

/// Records on their way from the machine-check handler to the main loop, which alone prints: the
/// handler may have interrupted a half-printed line. One writer, one reader, same processor.
pub struct Log {
    slots: [[AtomicU64; 5]; Log::SLOTS],
    written: AtomicUsize,
    read: AtomicUsize,
    dropped: AtomicU64,
}

impl Log {
    /// More records than the main loop can fall behind by: each tick drains it.
    const SLOTS: usize = 64;

    /// An empty log.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { [const { AtomicU64::new(0) }; 5] }; Self::SLOTS],
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Appends a record; a full log counts it instead.
    pub fn push(&self, record: &BankRecord) {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.read.load(Ordering::Acquire)) == Self::SLOTS {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let amd = record.vendor == Vendor::Amd;
        let head = u64::from(record.bank) | u64::from(record.polled) << 8 | u64::from(amd) << 9;
        let words =
            [head, record.status.into_bits(), record.addr, record.misc, record.mcg.into_bits()];
        for (slot, word) in self.slots[written % Self::SLOTS].iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.written.store(written.wrapping_add(1), Ordering::Release);
    }

    /// Takes the oldest record.
    pub fn pop(&self) -> Option<BankRecord> {
        let read = self.read.load(Ordering::Relaxed);
        if read == self.written.load(Ordering::Acquire) {
            return None;
        }
        let [head, status, addr, misc, mcg] =
            self.slots[read % Self::SLOTS].each_ref().map(|word| word.load(Ordering::Relaxed));
        self.read.store(read.wrapping_add(1), Ordering::Release);
        Some(BankRecord {
            vendor: if head & 0x200 == 0 { Vendor::Intel } else { Vendor::Amd },
            bank: head.to_le_bytes()[0],
            polled: head & 0x100 != 0,
            status: MciStatus::from_bits(status),
            addr,
            misc,
            mcg: McgStatus::from_bits(mcg),
        })
    }

    /// Records that found the log full, since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amd(status: u64) -> BankRecord {
        BankRecord { vendor: Vendor::Amd, ..record(status, 0x1000, 0) }
    }

    fn record(status: u64, addr: u64, misc: u64) -> BankRecord {
        BankRecord {
            vendor: Vendor::Intel,
            bank: 9,
            polled: false,
            status: MciStatus::from_bits(status),
            addr,
            misc,
            mcg: McgStatus::from_bits(5),
        }
    }

    #[test]
    fn severity_decides_who_takes_a_record() {
        // QEMU's SRAO, its SRAR, a corrected error, a UCNA.
        assert!(!record(0xbd00_0000_0000_00c0, 0, 0).is_for_poll());
        assert!(!record(0xbd80_0000_0000_0134, 0, 0).is_for_poll());
        assert!(record(0x8c00_0000_0000_009f, 0, 0).is_for_poll());
        assert!(record(0xbc00_0000_0000_009f, 0, 0).is_for_poll());
        assert!(!record(0, 0, 0).is_for_poll());
        assert!(record(0xbd80_0000_0000_0134, 0, 0).is_action_required());
        assert!(!record(0xbd00_0000_0000_00c0, 0, 0).is_action_required());
    }

    #[test]
    fn amd_says_it_differently() {
        // Poison consumed; a deferred error; a corrected one.
        let consumed = amd(0xbc00_0800_0000_0000);
        assert!(consumed.is_action_required() && !consumed.is_for_poll());
        assert!(consumed.memory().unwrap().lost);
        let deferred = amd(0x9c00_1800_0000_0000);
        assert!(!deferred.is_action_required() && deferred.is_for_poll());
        assert!(deferred.memory().unwrap().lost);
        let corrected = amd(0x9c00_0000_0000_0000);
        assert!(!corrected.is_action_required() && corrected.is_for_poll());
        assert!(!corrected.memory().unwrap().lost);
    }

    #[test]
    fn the_address_is_taken_with_its_granularity() {
        let page = record(0xbd80_0000_0000_0134, 0x1234_5678, 0x8c).memory().unwrap();
        assert_eq!(page, BadMemory { page: Gpa(0x1234_5000), pages: 1, lost: true });
        let block = record(0xbd80_0000_0000_0134, 0x1234_5678, 0x80 | 21).memory().unwrap();
        assert_eq!(block, BadMemory { page: Gpa(0x1220_0000), pages: 512, lost: true });
        let line = record(0x8c00_0000_0000_009f, 0x1fff, 0x86).memory().unwrap();
        assert_eq!(line, BadMemory { page: Gpa(0x1000), pages: 1, lost: false });
        assert_eq!(record(0xb900_0000_0000_0134, 0x1000, 0x8c).memory(), None);
    }

    #[test]
    fn the_log_keeps_order_and_counts_what_it_drops() {
        let log = Log::new();
        for n in 0..70 {
            log.push(&BankRecord { polled: true, ..amd(n) });
        }
        for n in 0..64 {
            assert_eq!(log.pop(), Some(BankRecord { polled: true, ..amd(n) }));
        }
        assert_eq!(log.pop(), None);
        assert_eq!(log.take_dropped(), 6);
        assert_eq!(log.take_dropped(), 0);
    }
}
