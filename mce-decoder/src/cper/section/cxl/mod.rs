//! Compute Express Link sections: errors of the link and its protocols, and the events that memory
//! devices and switches log about themselves.

mod component;
mod protocol;
mod records;

use ras_core::Guid;

use super::{Decode, SectionType};

/// One line a section type. UEFI Specification, Appendix N, "CXL Protocol Error Section" and "CXL
/// Component Events Section"; the types of the latter are the event records' own identifiers.
pub(super) const SECTIONS: &[SectionType] = &[
    SectionType::new(protocol::SECTION_TYPE, "CXL protocol", protocol::decode).of_link(),
    event("CXL general media", records::GENERAL_MEDIA, component::general_media),
    event("CXL DRAM", records::DRAM, component::dram),
    event("CXL memory module", records::MEMORY_MODULE, component::memory_module),
    event("CXL memory sparing", records::MEMORY_SPARING, component::memory_sparing),
    event("CXL physical switch", records::PHYSICAL_SWITCH, component::physical_switch),
    event("CXL virtual switch", records::VIRTUAL_SWITCH, component::virtual_switch),
    event("CXL MLD port", records::MLD_PORT, component::mld_port),
    event("CXL dynamic capacity", records::DYNAMIC_CAPACITY, component::dynamic_capacity),
    event("CXL general media", in_network_order(records::GENERAL_MEDIA), component::general_media),
    event("CXL DRAM", in_network_order(records::DRAM), component::dram),
    event("CXL memory module", in_network_order(records::MEMORY_MODULE), component::memory_module),
    event(
        "CXL memory sparing",
        in_network_order(records::MEMORY_SPARING),
        component::memory_sparing,
    ),
    event(
        "CXL physical switch",
        in_network_order(records::PHYSICAL_SWITCH),
        component::physical_switch,
    ),
    event(
        "CXL virtual switch",
        in_network_order(records::VIRTUAL_SWITCH),
        component::virtual_switch,
    ),
    event("CXL MLD port", in_network_order(records::MLD_PORT), component::mld_port),
    event(
        "CXL dynamic capacity",
        in_network_order(records::DYNAMIC_CAPACITY),
        component::dynamic_capacity,
    ),
];

const fn event(name: &'static str, guid: Guid, decode: Decode) -> SectionType {
    SectionType::new(guid, name, decode)
}

/// Devices hold their identifiers as UUIDs, in network order. Firmware that copies the bytes instead
/// of making a GUID of them is common enough that Windows looks for this order only.
const fn in_network_order(guid: Guid) -> Guid {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = guid.0;
    Guid([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
}
