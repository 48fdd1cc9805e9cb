//! Layouts of the event records that CXL components log. CXL Specification 3.2, "Event Records" and
//! "Fabric Management Event Records", without the identifier that a record begins with: in CPER it
//! is the section's type.

use ras_core::Guid;

use crate::layout::{
    Field, Part, bytes, code, coded_part, flag, flags, hex, number, part, parts, signed, size, skip,
};

/// Identifier of the General Media Event Record.
pub(super) const GENERAL_MEDIA: Guid =
    Guid::new(0xfbcd_0a77, 0xc260, 0x417f, [0x85, 0xa9, 0x08, 0x8b, 0x16, 0x21, 0xeb, 0xa6]);
/// Identifier of the DRAM Event Record.
pub(super) const DRAM: Guid =
    Guid::new(0x601d_cbb3, 0x9c06, 0x4eab, [0xb8, 0xaf, 0x4e, 0x9b, 0xfb, 0x5c, 0x96, 0x24]);
/// Identifier of the Memory Module Event Record.
pub(super) const MEMORY_MODULE: Guid =
    Guid::new(0xfe92_7475, 0xdd59, 0x4339, [0xa5, 0x86, 0x79, 0xba, 0xb1, 0x13, 0xb7, 0x74]);
/// Identifier of the Memory Sparing Event Record.
pub(super) const MEMORY_SPARING: Guid =
    Guid::new(0xe71f_3a40, 0x2d29, 0x4092, [0x8a, 0x39, 0x4d, 0x1c, 0x96, 0x6c, 0x7c, 0x65]);
/// Identifier of the Physical Switch Event Record.
pub(super) const PHYSICAL_SWITCH: Guid =
    Guid::new(0x77cf_9271, 0x9c02, 0x470b, [0x9f, 0xe4, 0xbc, 0x7b, 0x75, 0xf2, 0xda, 0x97]);
/// Identifier of the Virtual Switch Event Record.
pub(super) const VIRTUAL_SWITCH: Guid =
    Guid::new(0x40d2_6425, 0x3396, 0x4c4d, [0xa5, 0xda, 0x3d, 0x47, 0x26, 0x3a, 0xf4, 0x25]);
/// Identifier of the MLD Port Event Record.
pub(super) const MLD_PORT: Guid =
    Guid::new(0x8dc4_4363, 0x0c96, 0x4710, [0xb7, 0xbf, 0x04, 0xbb, 0x99, 0x53, 0x4c, 0x3f]);
/// Identifier of the Dynamic Capacity Event Record.
pub(super) const DYNAMIC_CAPACITY: Guid =
    Guid::new(0xca95_afa7, 0xf183, 0x4018, [0x8c, 0x2f, 0x95, 0x26, 0x8e, 0x10, 0x1a, 0x2a]);

/// Bytes of every record behind its identifier.
pub(super) const RECORD: usize = 0x70;

/// "Common Event Record Format". Validity bits are the record's own flags.
pub(super) const COMMON: &[Field] = &[
    number("length", 1),
    parts("flags", 3, COMMON_FLAGS),
    hex("handle", 2),
    hex("related_handle", 2),
    number("timestamp", 8),
    code("maint_op_class", 1, MAINTENANCE_CLASS),
    number("maint_op_sub_class", 1).valid(6),
    number("ld_id", 2).valid(7),
    number("head_id", 1).valid(8),
    skip(11),
];
const _: () = assert!(size(COMMON) == 0x20);

const COMMON_FLAGS: &[Part] = &[
    coded_part(
        "severity",
        0,
        2,
        &[(0, "informational"), (1, "warning"), (2, "failure"), (3, "fatal")],
    ),
    part("permanent_condition", 2, 1),
    part("maintenance_needed", 3, 1),
    part("performance_degraded", 4, 1),
    part("hardware_replacement_needed", 5, 1),
];

/// "Maintenance Operation: Classes, Subclasses, and Feature UUIDs".
const MAINTENANCE_CLASS: &[(u64, &str)] = &[
    (0, "none requested"),
    (1, "post package repair"),
    (2, "memory sparing"),
    (3, "device built-in test"),
];

/// Validity bits beyond a record's own sixteen: what other fields of the record imply.
pub(super) const DATA_PATH: u32 = 16;
/// The event comes from a threshold.
pub(super) const THRESHOLD: u32 = 17;

/// "General Media Event Record".
pub(super) const GENERAL_MEDIA_FIELDS: &[Field] = &[
    hex("dpa", 8),
    flags("descriptor", 1, DESCRIPTOR),
    code("type", 1, GENERAL_MEDIA_TYPE),
    code("transaction_type", 1, TRANSACTION),
    hex("validity_flags", 2),
    number("channel", 1).valid(0),
    number("rank", 1).valid(1),
    hex("device", 3).valid(2),
    bytes("comp_id", 16).valid(3),
    flags("cme_threshold_ev_flags", 1, THRESHOLD_FLAGS).valid(THRESHOLD),
    number("cme_count", 3).valid(THRESHOLD),
    code("sub_type", 1, DATA_PATH_TYPE).valid(DATA_PATH),
    skip(41),
];
const _: () = assert!(size(GENERAL_MEDIA_FIELDS) == RECORD - 0x20);

/// Where the validity flags of media events are, counted from the physical address.
pub(super) const MEDIA_VALIDITY: usize = 11;

/// "DRAM Event Record".
pub(super) const DRAM_FIELDS: &[Field] = &[
    hex("dpa", 8),
    flags("descriptor", 1, DESCRIPTOR),
    code("type", 1, DRAM_TYPE),
    code("transaction_type", 1, TRANSACTION),
    hex("validity_flags", 2),
    number("channel", 1).valid(0),
    number("rank", 1).valid(1),
    hex("nibble_mask", 3).valid(2),
    number("bank_group", 1).valid(3),
    number("bank", 1).valid(4),
    number("row", 3).valid(5),
    number("column", 2).valid(6),
    bytes("cor_mask", 32).valid(7),
    bytes("comp_id", 16).valid(8),
    number("sub_channel", 1).valid(10),
    flags("cme_threshold_ev_flags", 1, THRESHOLD_FLAGS).valid(THRESHOLD),
    number("cvme_count", 3).valid(THRESHOLD),
    code("sub_type", 1, DATA_PATH_TYPE).valid(DATA_PATH),
    skip(1),
];
const _: () = assert!(size(DRAM_FIELDS) == RECORD - 0x20);

/// "Memory Event Descriptor".
const DESCRIPTOR: &[(u32, &str)] =
    &[(0, "uncorrectable event"), (1, "threshold event"), (2, "poison list overflow")];

/// "Memory Event Type" of general media.
const GENERAL_MEDIA_TYPE: &[(u64, &str)] = &[
    (0, "media ECC error"),
    (1, "invalid address"),
    (2, "data path error"),
    (3, "TE state violation"),
    (4, "scrub media ECC error"),
    (5, "corrected error counter expiration"),
    (6, "CKID violation"),
];

/// "Memory Event Type" of DRAM.
const DRAM_TYPE: &[(u64, &str)] = &[
    (0, "media ECC error"),
    (1, "scrub media ECC error"),
    (2, "invalid address"),
    (3, "data path error"),
    (4, "TE state violation"),
    (5, "corrected error counter expiration"),
    (6, "CKID violation"),
];

const TRANSACTION: &[(u64, &str)] = &[
    (0, "unknown"),
    (1, "host read"),
    (2, "host write"),
    (3, "host media scan"),
    (4, "host poison injection"),
    (5, "media patrol scrub"),
    (6, "media management"),
    (7, "internal error check scrub"),
    (8, "media initialization"),
];

const THRESHOLD_FLAGS: &[(u32, &str)] =
    &[(0, "errors in several media components"), (1, "programmable threshold exceeded")];

/// "Memory Event Sub-Type" of a data path error.
const DATA_PATH_TYPE: &[(u64, &str)] = &[
    (0, "not reported"),
    (1, "internal data path"),
    (2, "media link command training"),
    (3, "media link control training"),
    (4, "media link data training"),
    (5, "media link CRC"),
];

/// "Memory Module Event Record", with the device health information it holds.
pub(super) const MEMORY_MODULE_FIELDS: &[Field] = &[
    code("event_type", 1, MODULE_TYPE),
    flags("health_status", 1, HEALTH),
    code("media_status", 1, MEDIA_STATUS),
    parts("add_status", 1, ADDITIONAL_STATUS),
    number("life_used", 1),
    signed("device_temp"),
    number("dirty_shutdown_cnt", 4),
    number("cor_vol_err_cnt", 4),
    number("cor_per_err_cnt", 4),
    hex("validity_flags", 2),
    bytes("comp_id", 16).valid(0),
    code("event_sub_type", 1, MODULE_SUB_TYPE).valid(DATA_PATH),
    skip(42),
];
const _: () = assert!(size(MEMORY_MODULE_FIELDS) == RECORD - 0x20);

/// Where the validity flags of a memory module's event are, counted from its type.
pub(super) const MODULE_VALIDITY: usize = 19;

const MODULE_TYPE: &[(u64, &str)] = &[
    (0, "health status change"),
    (1, "media status change"),
    (2, "life used change"),
    (3, "temperature change"),
    (4, "data path error"),
    (5, "label storage area error"),
    (6, "unrecoverable internal sideband bus error"),
    (7, "memory media FRU error"),
    (8, "power management fault"),
];

const MODULE_SUB_TYPE: &[(u64, &str)] = &[
    (0, "not reported"),
    (1, "invalid configuration data"),
    (2, "unsupported configuration data"),
    (3, "unsupported memory media FRU"),
];

/// "Get Health Info Output Payload", Health Status.
const HEALTH: &[(u32, &str)] = &[
    (0, "maintenance needed"),
    (1, "performance degraded"),
    (2, "hardware replacement needed"),
    (3, "memory capacity degraded"),
];

const MEDIA_STATUS: &[(u64, &str)] = &[
    (0, "normal"),
    (1, "not ready"),
    (2, "write persistency lost"),
    (3, "all data lost"),
    (4, "write persistency will be lost at power loss"),
    (5, "write persistency will be lost at shutdown"),
    (6, "write persistency loss imminent"),
    (7, "all data will be lost at power loss"),
    (8, "all data will be lost at shutdown"),
    (9, "loss of all data imminent"),
];

const GRADE: &[(u64, &str)] = &[(0, "normal"), (1, "warning"), (2, "critical")];

const ADDITIONAL_STATUS: &[Part] = &[
    coded_part("life_used", 0, 2, GRADE),
    coded_part("device_temp", 2, 2, GRADE),
    coded_part("cor_vol_err_cnt", 4, 1, GRADE),
    coded_part("cor_per_err_cnt", 5, 1, GRADE),
];

/// "Memory Sparing Event Record".
pub(super) const MEMORY_SPARING_FIELDS: &[Field] = &[
    code("sparing_op_class", 1, MAINTENANCE_CLASS),
    number("sparing_op_sub_class", 1),
    flags("sparing_flags", 1, SPARING_FLAGS),
    code("result", 1, SPARING_RESULT),
    hex("validity_flags", 2),
    skip(6),
    number("res_avail", 2),
    number("channel", 1).valid(0),
    number("rank", 1).valid(1),
    hex("nibble_mask", 3).valid(2),
    number("bank_group", 1).valid(3),
    number("bank", 1).valid(4),
    number("row", 3).valid(5),
    number("column", 2).valid(6),
    bytes("comp_id", 16).valid(7),
    number("sub_channel", 1).valid(9),
    skip(37),
];
const _: () = assert!(size(MEMORY_SPARING_FIELDS) == RECORD - 0x20);

/// Where the validity flags of a sparing event are, counted from its class.
pub(super) const SPARING_VALIDITY: usize = 4;

const SPARING_FLAGS: &[(u32, &str)] =
    &[(0, "query of resources"), (1, "hard sparing"), (2, "initiated by the device")];

const SPARING_RESULT: &[(u64, &str)] =
    &[(0, "success"), (1, "resources exhausted"), (0xff, "general failure")];

/// "Physical Switch Events Record Format".
pub(super) const PHYSICAL_SWITCH_FIELDS: &[Field] = &[
    number("physical_port_id", 1),
    code("event_type", 1, &[(0, "link state change"), (1, "slot status register updated")]),
    hex("slot_status", 2),
    skip(1),
    parts("port_configuration", 1, PORT_CONFIGURATION),
    parts("connected_device", 1, CONNECTED_DEVICE),
    skip(1),
    code("connected_device_type", 1, DEVICE_TYPE),
    flags("supported_cxl_modes", 1, MODES),
    number("maximum_link_width", 1),
    number("negotiated_link_width", 1),
    hex("supported_link_speeds", 1),
    number("max_link_speed", 1),
    number("current_link_speed", 1),
    code("ltssm_state", 1, LTSSM),
    number("first_negotiated_lane", 1),
    flags("link_state_flags", 2, LINK_STATE),
    skip(61),
];
const _: () = assert!(size(PHYSICAL_SWITCH_FIELDS) == RECORD - 0x20);

const PORT_CONFIGURATION: &[Part] = &[coded_part(
    "state",
    0,
    4,
    &[
        (0, "disabled"),
        (1, "bind in progress"),
        (2, "unbind in progress"),
        (3, "downstream port"),
        (4, "upstream port"),
        (5, "fabric port"),
        (15, "no such port"),
    ],
)];

const CONNECTED_DEVICE: &[Part] = &[coded_part(
    "mode",
    0,
    4,
    &[
        (0, "not CXL, or disconnected"),
        (1, "RCD"),
        (2, "68-byte flit and virtual hierarchy"),
        (3, "256-byte flit"),
        (4, "latency-optimized 256-byte flit"),
        (5, "port-based routing"),
    ],
)];

const DEVICE_TYPE: &[(u64, &str)] = &[
    (0, "none detected"),
    (1, "PCIe device"),
    (2, "CXL type 1 device"),
    (3, "CXL type 2 device or switch"),
    (4, "CXL type 3 single logical device"),
    (5, "CXL type 3 multi-logical device"),
    (6, "component with port-based routing"),
];

const MODES: &[(u32, &str)] = &[
    (0, "RCD"),
    (1, "68-byte flit and virtual hierarchy"),
    (2, "256-byte flit"),
    (3, "latency-optimized 256-byte flit"),
    (4, "port-based routing"),
];

const LTSSM: &[(u64, &str)] = &[
    (0, "detect"),
    (1, "polling"),
    (2, "configuration"),
    (3, "recovery"),
    (4, "L0"),
    (5, "L0s"),
    (6, "L1"),
    (7, "L2"),
    (8, "disabled"),
    (9, "loopback"),
    (10, "hot reset"),
];

const LINK_STATE: &[(u32, &str)] =
    &[(0, "lanes reversed"), (1, "in reset"), (2, "present"), (3, "power off")];

/// "Virtual CXL Switch Event Record Format".
pub(super) const VIRTUAL_SWITCH_FIELDS: &[Field] = &[
    number("vcs_id", 1),
    number("vppb_id", 1),
    code("event_type", 1, VIRTUAL_SWITCH_TYPE),
    code("vppb_binding_status", 1, BINDING),
    number("vppb_port_id", 1),
    number("vppb_ld_id", 1),
    hex("link_control", 2),
    hex("slot_control", 2),
    skip(70),
];
const _: () = assert!(size(VIRTUAL_SWITCH_FIELDS) == RECORD - 0x20);

const VIRTUAL_SWITCH_TYPE: &[(u64, &str)] = &[
    (0, "binding change"),
    (1, "secondary bus reset"),
    (2, "link control register updated"),
    (3, "slot control register updated"),
];

const BINDING: &[(u64, &str)] = &[
    (0, "unbound"),
    (1, "bind or unbind in progress"),
    (2, "bound to a physical port"),
    (3, "bound to a logical device"),
];

/// "MLD Port Event Records Payload".
pub(super) const MLD_PORT_FIELDS: &[Field] = &[
    code("event_type", 1, MLD_PORT_TYPE),
    number("port_id", 1),
    skip(2),
    bytes("error_message", 8),
    skip(68),
];
const _: () = assert!(size(MLD_PORT_FIELDS) == RECORD - 0x20);

const MLD_PORT_TYPE: &[(u64, &str)] = &[
    (0, "correctable error message received"),
    (1, "non-fatal error message received"),
    (2, "fatal error message received"),
];

/// "Dynamic Capacity Event Record", with the extent it names.
pub(super) const DYNAMIC_CAPACITY_FIELDS: &[Field] = &[
    code("event_type", 1, CAPACITY_TYPE),
    hex("validity_flags", 1),
    number("host_id", 2),
    number("updated_region_index", 1),
    flag("more"),
    skip(2),
    hex("dpa_start", 8),
    hex("dpa_length", 8),
    bytes("tag", 16),
    number("shared_extent_sequence", 2),
    skip(6),
    skip(24),
    number("extents_available", 4).valid(0),
    number("tags_available", 4).valid(0),
];
const _: () = assert!(size(DYNAMIC_CAPACITY_FIELDS) == RECORD - 0x20);

/// Where the validity flags of a dynamic capacity event are, counted from its type.
pub(super) const CAPACITY_VALIDITY: usize = 1;

const CAPACITY_TYPE: &[(u64, &str)] = &[
    (0, "add capacity"),
    (1, "release capacity"),
    (2, "forced capacity release"),
    (3, "region configuration updated"),
    (4, "add capacity response"),
    (5, "capacity released"),
];

/// "Component Identifier Format".
pub(super) const COMPONENT_ID: &[Field] = &[
    hex("validity", 1),
    bytes("pldm_entity_id", 6).valid(0),
    bytes("pldm_resource_id", 4).valid(1),
    skip(5),
];
const _: () = assert!(size(COMPONENT_ID) == 16);
