//! Sections that makers have defined for themselves, and those of other specifications than UEFI's.

use super::SectionType;

/// One line a section type.
pub(super) const SECTIONS: &[SectionType] = &[];
