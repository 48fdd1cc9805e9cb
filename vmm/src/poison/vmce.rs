//! Machine checks for a guest: which bits say what, and the queue in which they wait.
//!
//! SDM vol. 3B, "Machine-Check Error Codes" and "UCR Error Classification"; APM vol. 2, "Machine
//! Check Architecture". The choice of bits is QEMU's (`kvm_mce_inject`), which Linux and Windows know.

use std::collections::VecDeque;

use kvm_bindings::kvm_x86_mce;
use ras_core::{CpuVendor, Gpa, PAGE_SHIFT};
use serde::{Deserialize, Serialize};

use crate::kvm::mce::{MEMORY_BANK, McgStatus, MciStatus};

/// Machine checks that can wait for the guest; of more, the newest are dropped. A guest that leaves
/// so many unread will not read more.
pub const QUEUE_MAX: usize = 64;

/// Data load error: memory access, cache level 0. SDM, "Compound Error Codes".
const MCACOD_DATA_LOAD: u16 = 0x134;
/// Memory scrubbing error, channel not specified minus one, as QEMU has it.
const MCACOD_SCRUB: u16 = 0xc0;
/// Memory controller read error, channel not specified.
const MCACOD_MEMORY_READ: u16 = 0x9f;
/// Generic memory read error. APM vol. 2, "MCi_STATUS error codes", bus format.
const AMD_MEMORY_READ: u16 = 0x813;

/// What a guest is told about a range of its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineCheck {
    /// How bad.
    pub kind: Kind,
    /// Where; its bits below `lsb` say nothing.
    pub gpa: Gpa,
    /// log2 of the bytes concerned, 12 (a page) to 21 (a huge page).
    pub lsb: u8,
}

/// How bad a [`MachineCheck`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// The guest is at the bad data now (SRAR).
    ActionRequired,
    /// Data is lost, but nobody asked for it yet (SRAO; AMD: deferred).
    ActionOptional,
    /// Nothing is lost yet.
    Corrected,
}

impl MachineCheck {
    /// Whether it interrupts the guest; otherwise the guest finds it when it looks into the bank.
    #[must_use]
    pub fn raises(self, vendor: CpuVendor) -> bool {
        MciStatus::from(self.encode(vendor).status).uc()
    }

    /// The registers, as a processor of `vendor` would set them.
    #[must_use]
    pub fn encode(self, vendor: CpuVendor) -> kvm_x86_mce {
        let amd = matches!(vendor, CpuVendor::Amd | CpuVendor::Hygon);
        let valid = MciStatus::new().with_val(true).with_en(true).with_miscv(true).with_addrv(true);
        // One processor: there is nobody else to broadcast to, so the error is always its own.
        let handling = McgStatus::new().with_mcip(true).with_ripv(true);
        let (status, mcg_status) = match (self.kind, amd) {
            (Kind::ActionRequired, false) => (
                valid.with_uc(true).with_s(true).with_ar(true).with_mcacod(MCACOD_DATA_LOAD),
                handling.with_eipv(true),
            ),
            (Kind::ActionRequired, true) => {
                (valid.with_uc(true).with_poison(true), handling.with_eipv(true))
            }
            (Kind::ActionOptional, false) => {
                (valid.with_uc(true).with_s(true).with_mcacod(MCACOD_SCRUB), handling)
            }
            // Linux takes any #MC with UC on AMD as "action required": a deferred error is polled.
            (Kind::ActionOptional, true) => {
                (valid.with_deferred(true).with_poison(true), McgStatus::new())
            }
            (Kind::Corrected, false) => {
                (valid.with_corrected_count(1).with_mcacod(MCACOD_MEMORY_READ), McgStatus::new())
            }
            (Kind::Corrected, true) => {
                (valid.with_cecc(true).with_mcacod(AMD_MEMORY_READ), McgStatus::new())
            }
        };
        // MISC of Intel: address mode 2 (physical) and the least significant valid bit. AMD keeps
        // a counter there, and its addresses are always good for a page.
        let physical = 2 << 6;
        let lsb = u64::from(self.lsb.max(12) & 0x3f);
        kvm_x86_mce {
            status: status.into(),
            addr: self.gpa.0,
            misc: if amd { 0 } else { physical | lsb },
            mcg_status: mcg_status.into(),
            bank: MEMORY_BANK,
            ..Default::default()
        }
    }
}

/// Splits `len` bytes at `gpa` into the fewest checks that a processor of `vendor` can express:
/// naturally aligned powers of two on Intel, single pages on AMD.
#[must_use]
pub fn cover(kind: Kind, gpa: Gpa, len: u64, vendor: CpuVendor) -> Vec<MachineCheck> {
    const HUGE_SHIFT: u32 = 21;
    let lsb_max = match vendor {
        CpuVendor::Amd | CpuVendor::Hygon => PAGE_SHIFT,
        _ => HUGE_SHIFT,
    };
    // In pages: the end of the address space does not overflow.
    let mut at = gpa.0 >> PAGE_SHIFT;
    let end = gpa.0.saturating_add(len).div_ceil(1 << PAGE_SHIFT);
    let mut checks = Vec::new();
    while at < end && checks.len() < QUEUE_MAX {
        let order = at.trailing_zeros().min((end - at).ilog2()).min(lsb_max - PAGE_SHIFT);
        let lsb = u8::try_from(PAGE_SHIFT + order).unwrap_or(12);
        checks.push(MachineCheck { kind, gpa: Gpa(at << PAGE_SHIFT), lsb });
        at += 1 << order;
    }
    checks
}

/// Machine checks that wait until the guest has dealt with the one before: a second #MC while the
/// first is being handled shuts a processor down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue(VecDeque<MachineCheck>);

impl Queue {
    /// Adds one, unless the same already waits, or the queue is full. What requires action goes
    /// first: the guest can't go on without it.
    pub fn push(&mut self, check: MachineCheck) {
        if self.0.len() >= QUEUE_MAX || self.0.contains(&check) {
            return;
        }
        match check.kind {
            Kind::ActionRequired => self.0.push_front(check),
            _ => self.0.push_back(check),
        }
    }

    /// A queue that arrived with a migration, as long as one may be.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.0.truncate(QUEUE_MAX);
        self
    }

    /// The next to deliver.
    #[must_use]
    pub fn front(&self) -> Option<MachineCheck> {
        self.0.front().copied()
    }

    /// It was delivered.
    pub fn remove(&mut self, check: MachineCheck) {
        self.0.retain(|waiting| *waiting != check);
    }

    /// Checks that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, vendor: CpuVendor, status: u64, mcg: u64, misc: u64, raises: bool) {
        let check = MachineCheck { kind, gpa: Gpa(0x5000), lsb: 12 };
        let found = check.encode(vendor);
        assert_eq!(found.status, status, "{kind:?} {vendor:?}: {:#x}", found.status);
        assert_eq!((found.mcg_status, found.misc), (mcg, misc), "{kind:?} {vendor:?}");
        assert_eq!((found.bank, found.addr), (9, 0x5000));
        assert_eq!(check.raises(vendor), raises);
    }

    #[test]
    fn each_vendor_reads_its_own_bits() {
        use CpuVendor::{Amd, Intel};
        check(Kind::ActionRequired, Intel, 0xbd80_0000_0000_0134, 7, 0x8c, true);
        check(Kind::ActionOptional, Intel, 0xbd00_0000_0000_00c0, 5, 0x8c, true);
        check(Kind::Corrected, Intel, 0x9c00_0040_0000_009f, 0, 0x8c, false);
        check(Kind::ActionRequired, Amd, 0xbc00_0800_0000_0000, 7, 0, true);
        check(Kind::ActionOptional, Amd, 0x9c00_1800_0000_0000, 0, 0, false);
        check(Kind::Corrected, Amd, 0x9c00_4000_0000_0813, 0, 0, false);
    }

    #[test]
    fn ranges_are_said_in_few_words() {
        let kind = Kind::ActionOptional;
        let said = |gpa, len, vendor| -> Vec<(u64, u8)> {
            let checks = cover(kind, Gpa(gpa), len, vendor);
            checks.iter().map(|check| (check.gpa.0, check.lsb)).collect()
        };
        assert_eq!(said(0x5678, 1, CpuVendor::Intel), [(0x5000, 12)]);
        assert_eq!(said(0x20_0000, 0x20_0000, CpuVendor::Intel), [(0x20_0000, 21)]);
        assert_eq!(said(0x1000, 0x3000, CpuVendor::Intel), [(0x1000, 12), (0x2000, 13)]);
        assert_eq!(said(0x2000, 0x2000, CpuVendor::Amd), [(0x2000, 12), (0x3000, 12)]);
        assert_eq!(said(0, u64::MAX, CpuVendor::Amd).len(), QUEUE_MAX);
        assert_eq!(said(0, 0, CpuVendor::Amd).len(), 0);
    }

    #[test]
    fn the_urgent_goes_first_and_nothing_waits_twice() {
        let mut queue = Queue::default();
        let at = |kind, gpa| MachineCheck { kind, gpa: Gpa(gpa), lsb: 12 };
        for gpa in 0..100 {
            queue.push(at(Kind::ActionOptional, gpa % 4));
        }
        assert_eq!(queue.len(), 4);
        queue.push(at(Kind::ActionRequired, 9));
        assert_eq!(queue.front(), Some(at(Kind::ActionRequired, 9)));
        queue.remove(at(Kind::ActionRequired, 9));
        assert_eq!(queue.front(), Some(at(Kind::ActionOptional, 0)));
        for gpa in 0..1000 {
            queue.push(at(Kind::ActionRequired, gpa));
        }
        assert_eq!(queue.len(), QUEUE_MAX);
        let too_long = Queue(queue.0.iter().chain(&queue.0).copied().collect());
        assert_eq!(too_long.bounded().0, queue.0, "what a migration brings is bounded, too");
    }
}
