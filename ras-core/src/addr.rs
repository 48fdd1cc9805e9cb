//! Addresses as types: a host physical address, a page frame and a guest physical address are
//! never exchanged for one another by accident.

use core::fmt;

use serde::{Deserialize, Serialize};

/// log2 of the base page size, in bits (x86: 4 KiB).
pub const PAGE_SHIFT: u32 = 12;

/// Base page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A host physical address in bytes, as `IA32_MCi_ADDR` or CPER report it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PhysAddr(pub u64);

impl PhysAddr {
    /// The page frame that holds this address.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

/// A host page frame number: a physical address divided by 4 KiB. 0 to 2^52 - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// First byte of the frame. Saturates for numbers no machine can have.
    #[must_use]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr(self.0.saturating_mul(PAGE_SIZE))
    }
}

/// A run of page frames: `count` frames from `start`. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PfnRange {
    /// First frame.
    pub start: Pfn,
    /// Number of frames, at least 1.
    pub count: u64,
}

impl PfnRange {
    /// The range of exactly one frame.
    #[must_use]
    pub const fn single(pfn: Pfn) -> Self {
        Self { start: pfn, count: 1 }
    }

    /// Whether `pfn` lies in the range.
    #[must_use]
    pub const fn contains(self, pfn: Pfn) -> bool {
        pfn.0 >= self.start.0 && pfn.0 - self.start.0 < self.count
    }

    /// The frames, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Pfn> {
        (self.start.0..self.start.0.saturating_add(self.count)).map(Pfn)
    }
}

/// A guest physical address in bytes, meaningful within one VM only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address rounded down to its 4 KiB page.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }
}

macro_rules! hexadecimal {
    ($($address:ty),*) => {$(
        impl fmt::Display for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Debug for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($address), "({:#x})"), self.0)
            }
        }
    )*};
}
hexadecimal!(PhysAddr, Pfn, Gpa);
