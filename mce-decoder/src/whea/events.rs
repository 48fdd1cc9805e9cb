//! Entries of WHEA's log: what each identifier means and what its payload holds.

use ras_core::ErrorClass;

use super::source::SOURCE_TYPE;
use crate::layout::{Field, bytes, code, flag, hex, number, skip, text, wide, words};

/// One kind of entry.
pub(super) struct Event {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) class: ErrorClass,
    /// The payload; nothing where it is empty or its form is not known.
    pub(super) fields: &'static [Field],
    /// Whether an error source's descriptor comes before the fields.
    pub(super) has_source: bool,
}

const fn event(id: u64, name: &'static str, class: ErrorClass, fields: &'static [Field]) -> Event {
    Event { id, name, class, fields, has_source: false }
}

impl Event {
    const fn of_a_source(self) -> Self {
        Self { has_source: true, ..self }
    }
}

/// As CPER's own.
const SEVERITY: &[(u64, &str)] =
    &[(0, "recoverable"), (1, "fatal"), (2, "corrected"), (3, "informational")];

/// `WHEA_THROTTLE_TYPE`.
const THROTTLE: &[(u64, &str)] = &[(0, "PCIe"), (1, "memory")];

/// `WHEAP_DPC_ERROR_EVENT_TYPE`.
const DPC_ERROR: &[(u64, &str)] = &[
    (0, "no error"),
    (1, "bus not found"),
    (2, "subtree contained already"),
    (3, "device identifier bad"),
    (4, "reset failed"),
    (5, "no children"),
];

/// `WHEA_RECOVERY_CONTEXT_ACTION_TAKEN`.
const ACTION_TAKEN: &[(u64, &str)] =
    &[(0, "none"), (1, "demotion"), (2, "page not replaced"), (3, "page replaced")];

/// `WHEA_REGISTRY_ERRORS`.
const REGISTRY_ERROR: &[(u64, &str)] = &[
    (0, "none"),
    (1, "WHEA key not created"),
    (2, "policy key not created"),
    (3, "handle not opened"),
];

/// `WHEA_OFFLINE_ERRS`.
const OFFLINE_ERROR: &[(u64, &str)] = &[
    (0, "none"),
    (1, "memory details not available"),
    (2, "address translation failed"),
    (3, "address translation of the first column failed"),
    (4, "address translation of the last column failed"),
    (5, "closed page"),
    (6, "bad page range"),
    (7, "invalid data"),
    (8, "not DDR"),
    (9, "unsupported DDR version"),
    (10, "incorrect DDR version"),
    (11, "no memory for the wrapper"),
];

/// `WHEA_GAS_ERRORS`.
const GAS_ERROR: &[(u64, &str)] = &[
    (0, "none"),
    (1, "unexpected address space"),
    (2, "invalid fields"),
    (3, "invalid access size"),
];

/// `WHEA_EVENT_LOG_ENTRY_ID`, with the structure named after each.
pub(super) const EVENTS: &[Event] = &[
    event(0x8000_0001, "CMC polling timeout", ErrorClass::Platform, &[]),
    event(0x8000_0002, "WHEA started", ErrorClass::Platform, &[]),
    event(
        0x8000_0003,
        "corrected machine checks are polled from now on",
        ErrorClass::Platform,
        &[],
    ),
    event(
        0x8000_0004,
        "corrected error dropped",
        ErrorClass::Platform,
        &[code("error_source_type", 4, SOURCE_TYPE), number("error_source_id", 4)],
    ),
    event(
        0x8000_0005,
        "started to report an error",
        ErrorClass::Platform,
        &[hex("error_packet", 8)],
    ),
    event(
        0x8000_0006,
        "page taken offline",
        ErrorClass::Memory,
        &[
            code("decision_type", 4, &[(1, "predictive failure"), (2, "uncorrected error")]),
            flag("immediate_success"),
            hex("page", 4),
            flag("notify_vid"),
        ],
    ),
    event(
        0x8000_0007,
        "page no longer watched",
        ErrorClass::Memory,
        &[
            code("remove_trigger", 4, &[(1, "error threshold"), (2, "timeout"), (3, "capacity")]),
            number("time_in_list", 4),
            number("error_count", 4),
            hex("page", 4),
        ],
    ),
    event(
        0x8000_0008,
        "policy of predictive failure analysis",
        ErrorClass::Memory,
        &[
            hex("registry_keys_present", 4),
            flag("disable_offline"),
            flag("persist_offline"),
            flag("pfa_disabled"),
            number("page_count", 4),
            number("error_threshold", 4),
            number("timeout", 4),
        ],
    ),
    event(
        0x8000_0009,
        "error injected",
        ErrorClass::Platform,
        &[
            hex("error_type", 4),
            hex("parameter_1", 8),
            hex("parameter_2", 8),
            hex("parameter_3", 8),
            hex("parameter_4", 8),
            hex("injection_status", 4),
            flag("injection_attempted"),
            flag("injection_by_plugin"),
        ],
    ),
    event(
        0x8000_000a,
        "_OSC capabilities",
        ErrorClass::Firmware,
        &[flag("osc_implemented"), flag("debug_checked")],
    ),
    event(
        0x8000_000b,
        "PSHED plug-in registered",
        ErrorClass::Platform,
        &[
            number("plugin_version", 4),
            number("plugin_length", 4),
            hex("functional_area_mask", 4),
            hex("status", 4),
        ],
    ),
    event(
        0x8000_000c,
        "error source added or removed",
        ErrorClass::Platform,
        &[hex("status", 4), flag("is_remove")],
    )
    .of_a_source(),
    event(0x8000_000d, "work queue item", ErrorClass::Platform, &[]),
    event(
        0x8000_000e,
        "error recovery attempted",
        ErrorClass::Platform,
        &[
            bytes("error_header", 128),
            flag("architectural_recovery"),
            flag("pshed_recovery"),
            hex("status", 4),
        ],
    ),
    event(
        0x8000_000f,
        "error found in a machine-check bank",
        ErrorClass::Processor,
        &[number("ep_index", 4), number("bank", 4), hex("mci_status", 8), number("error_type", 4)],
    ),
    event(
        0x8000_0010,
        "stuck error in a machine-check bank",
        ErrorClass::Processor,
        &[number("ep_index", 4), number("bank", 4), hex("mci_status", 8)],
    ),
    event(
        0x8000_0011,
        "machine-check bank cleared",
        ErrorClass::Processor,
        &[number("ep_index", 4), number("bank", 4)],
    ),
    event(0x8000_0012, "poison cleared", ErrorClass::Memory, &[hex("physical_address", 8)]),
    event(
        0x8000_0013,
        "EINJ table processed",
        ErrorClass::Firmware,
        &[
            text("error", 32),
            flag("injection_action_table_valid"),
            number("begin_injection_instructions", 4),
            number("get_trigger_error_action_table_instructions", 4),
            number("set_error_type_instructions", 4),
            number("get_error_type_instructions", 4),
            number("end_operation_instructions", 4),
            number("execute_operation_instructions", 4),
            number("check_busy_status_instructions", 4),
            number("get_command_status_instructions", 4),
            number("set_error_type_with_address_instructions", 4),
            number("get_execute_operation_timings_instructions", 4),
        ],
    ),
    event(
        0x8000_0014,
        "HEST table processed",
        ErrorClass::Firmware,
        &[
            text("error", 32),
            text("entry_type", 32),
            number("entry_index", 4),
            flag("hest_valid"),
            number("cmc_count", 4),
            number("mce_count", 4),
            number("nmi_count", 4),
            number("aer_root_count", 4),
            number("aer_bridge_count", 4),
            number("aer_endpoint_count", 4),
            number("generic_v1_count", 4),
            number("generic_v2_count", 4),
        ],
    ),
    event(
        0x8000_0015,
        "generic record created",
        ErrorClass::Firmware,
        &[text("error", 32), number("entry_count", 4), hex("status", 4)],
    ),
    event(0x8000_0016, "error record", ErrorClass::Platform, &[hex("record", 8)]),
    event(0x8000_0017, "limit of error records reached", ErrorClass::Platform, &[]),
    event(0x8000_0018, "AER not granted to the system", ErrorClass::Pcie, &[]),
    event(
        0x8000_0019,
        "array of error sources invalid",
        ErrorClass::Firmware,
        &[
            number("error_source_count", 4),
            number("reported_length", 4),
            number("expected_length", 4),
        ],
    ),
    event(
        0x8000_001a,
        "ACPI timeout",
        ErrorClass::Firmware,
        &[text("table_type", 32), text("table_request", 32)],
    ),
    event(
        0x8000_001b,
        "CMCI restarted",
        ErrorClass::Processor,
        &[
            number("cmci_restore_attempts", 4),
            number("max_cmci_restore_limit", 4),
            number("max_corrected_errors_found", 4),
            number("max_corrected_error_limit", 4),
        ],
    ),
    event(
        0x8000_001c,
        "CMCI restarted for the last time",
        ErrorClass::Processor,
        &[
            number("cmci_restore_attempts", 4),
            number("max_cmci_restore_limit", 4),
            number("max_corrected_errors_found", 4),
            number("max_corrected_error_limit", 4),
        ],
    ),
    event(0x8000_001d, "event trace overflowed", ErrorClass::Platform, &[hex("record_id", 8)]),
    event(
        0x8000_001e,
        "search for root buses failed",
        ErrorClass::Pcie,
        &[flag("max_bus_count_passed"), flag("invalid_bus_msr")],
    ),
    event(
        0x8000_001f,
        "root buses",
        ErrorClass::Pcie,
        &[number("root_bus_count", 4), words("root_buses", 4, 8)],
    ),
    event(0x8000_0020, "error source invalid", ErrorClass::Firmware, &[text("error", 32)])
        .of_a_source(),
    event(
        0x8000_0021,
        "generic error memory mapped",
        ErrorClass::Firmware,
        &[text("map_reason", 32), hex("physical_address", 8), hex("mapped_length", 8)],
    ),
    event(0x8000_0022, "PSHED callbacks collide", ErrorClass::Platform, &[]),
    event(
        0x8000_0023,
        "bug check under way",
        ErrorClass::Platform,
        &[hex("bug_check_code", 4), hex("bug_check_progress_summary", 4)],
    ),
    event(
        0x8000_0024,
        "PSHED plug-in loaded",
        ErrorClass::Platform,
        &[wide("plugin_name", 64), number("major_version", 4), number("minor_version", 4)],
    ),
    event(0x8000_0025, "PSHED plug-in unloaded", ErrorClass::Platform, &[wide("plugin_name", 64)]),
    event(
        0x8000_0026,
        "PSHED plug-in and this platform",
        ErrorClass::Platform,
        &[wide("plugin_name", 64), flag("supported")],
    ),
    event(0x8000_0027, "device driver", ErrorClass::Platform, &[text("function", 32)]),
    event(0x8000_0028, "CMCI present", ErrorClass::Processor, &[flag("cmci_available")]),
    event(
        0x8000_0029,
        "CMCI could not be set up",
        ErrorClass::Processor,
        &[hex("msr", 8), number("type", 4), number("bank", 4), number("ep_index", 4)],
    ),
    event(0x8000_002a, "recovery from a bug check", ErrorClass::Platform, &[]),
    event(0x8000_002b, "driver's error source invalid", ErrorClass::Platform, &[]),
    event(0x8000_002c, "driver's handle busy", ErrorClass::Platform, &[]),
    event(0x8000_002d, "heartbeat", ErrorClass::Platform, &[]),
    event(
        0x8000_002e,
        "poison signalling of a root bus",
        ErrorClass::Pcie,
        &[number("bus", 4), flag("read_success"), flag("write_success"), flag("is_enable")],
    ),
    event(0x8000_002f, "bug check information", ErrorClass::Platform, &[]),
    event(
        0x8000_0030,
        "memory module does not match firmware's",
        ErrorClass::Memory,
        &[
            number("firmware_bank", 2),
            number("firmware_column", 2),
            number("firmware_row", 2),
            number("retry_read_bank", 2),
            number("retry_read_column", 2),
            number("retry_read_row", 2),
            number("ta_bank", 2),
            number("ta_column", 2),
            number("ta_row", 2),
        ],
    ),
    event(
        0x8000_0031,
        "enhanced downstream port containment",
        ErrorClass::Pcie,
        &[flag("edpc_enabled"), flag("edpc_recovery_enabled")],
    ),
    event(
        0x8000_0032,
        "page taken offline, done",
        ErrorClass::Memory,
        &[hex("physical_address", 8)],
    ),
    event(0x8000_0033, "too many pages wait to be taken offline", ErrorClass::Memory, &[]),
    event(0x8000_0034, "limit of bad pages reached", ErrorClass::Memory, &[]),
    event(
        0x8000_0035,
        "consumed memory error",
        ErrorClass::Memory,
        &[
            hex("recovery_context_flags", 4),
            hex("physical_address", 8),
            hex("page_offline_status", 4),
            flag("kernel_consumer_error"),
        ],
    ),
    event(0x8000_0036, "early error", ErrorClass::Platform, &[]),
    event(
        0x8000_0037,
        "PCIe overrides",
        ErrorClass::Pcie,
        &[
            number("segment", 4),
            number("bus", 4),
            number("device", 4),
            number("function", 4),
            hex("valid_bits", 1),
            skip(3),
            hex("uncorrectable_mask", 4),
            hex("uncorrectable_severity", 4),
            hex("correctable_mask", 4),
            hex("cap_and_control", 4),
        ],
    ),
    event(
        0x8000_0038,
        "PCIe overrides could not be read",
        ErrorClass::Pcie,
        &[number("failure_reason", 4), hex("failure_status", 4)],
    ),
    event(
        0x8000_0039,
        "PCIe configuration changed",
        ErrorClass::Pcie,
        &[
            number("segment", 4),
            number("bus", 4),
            number("device", 4),
            number("function", 4),
            hex("offset", 4),
            number("access_length", 4),
            hex("value", 8),
            flag("succeeded"),
            skip(3),
        ],
    ),
    event(0x8000_0040, "summary of PCIe errors failed", ErrorClass::Pcie, &[]),
    event(
        0x8000_0041,
        "throttle settings corrupt",
        ErrorClass::Platform,
        &[code("throttle_type", 4, THROTTLE)],
    ),
    event(0x8000_0042, "throttle's error source could not be added", ErrorClass::Platform, &[]),
    event(
        0x8000_0043,
        "throttle settings ignored",
        ErrorClass::Platform,
        &[code("throttle_type", 4, THROTTLE)],
    ),
    event(0x8000_0044, "notifications of registry changes not enabled", ErrorClass::Platform, &[]),
    event(0x8000_0045, "notification of a registry change failed", ErrorClass::Platform, &[]),
    event(
        0x8000_0046,
        "PCIe device no longer throttled",
        ErrorClass::Pcie,
        &[
            number("segment", 4),
            number("bus", 4),
            number("device", 4),
            number("function", 4),
            hex("mask", 4),
        ],
    ),
    event(
        0x8000_0047,
        "PCIe device throttled",
        ErrorClass::Pcie,
        &[
            number("segment", 4),
            number("bus", 4),
            number("device", 4),
            number("function", 4),
            hex("mask", 4),
            flag("updated"),
            hex("status", 4),
        ],
    ),
    event(
        0x8000_0048,
        "PCIe error without a source",
        ErrorClass::Pcie,
        &[
            code("error_severity", 4, SEVERITY),
            number("error_handler_type", 4),
            number("spurious_error_source_id", 4),
            hex("root_error_command", 4),
            hex("root_error_status", 4),
            hex("device_association_bitmap", 4),
        ],
    ),
    event(
        0x8000_0049,
        "memory module throttled",
        ErrorClass::Memory,
        &[number("socket_id", 4), number("channel_id", 4), number("dimm_slot", 4)],
    ),
    event(
        0x8000_004a,
        "memory module no longer throttled",
        ErrorClass::Memory,
        &[number("socket_id", 4), number("channel_id", 4), number("dimm_slot", 4)],
    ),
    event(0x8000_004b, "summary of memory errors failed", ErrorClass::Memory, &[hex("status", 4)]),
    event(
        0x8000_004c,
        "PCIe port containment failed",
        ErrorClass::Pcie,
        &[
            code("dpc_error", 4, DPC_ERROR),
            number("bus", 4),
            number("device", 4),
            number("function", 4),
            hex("device_id", 2),
            hex("vendor_id", 2),
        ],
    ),
    event(0x8000_004d, "processor buses not found", ErrorClass::Processor, &[hex("status", 4)]),
    event(0x8000_004e, "PSHED plug-in could not start", ErrorClass::Platform, &[hex("status", 4)]),
    event(0x8000_004f, "defect not added to the list", ErrorClass::Memory, &[]),
    event(0x8000_0050, "list of defects full", ErrorClass::Memory, &[]),
    event(0x8000_0051, "list of defects: firmware variable failed", ErrorClass::Memory, &[]),
    event(0x8000_0052, "list of defects corrupt", ErrorClass::Memory, &[]),
    event(
        0x8000_0053,
        "HEST notification data bad",
        ErrorClass::Firmware,
        &[number("source_id", 2), skip(2), bytes("notification", 28)],
    ),
    event(
        0x8000_0054,
        "row failure",
        ErrorClass::Memory,
        &[hex("low_order_page", 8), hex("high_order_page", 8)],
    ),
    event(0x8000_0055, "SRAS table not found", ErrorClass::Firmware, &[]),
    event(0x8000_0056, "SRAS table wrong", ErrorClass::Firmware, &[]),
    event(
        0x8000_0057,
        "SRAS table entries",
        ErrorClass::Firmware,
        &[number("log_number", 4), number("number_signals", 4)],
    ),
    event(
        0x8000_0058,
        "drivers told of a page taken offline",
        ErrorClass::Memory,
        &[
            hex("page", 4),
            hex("component_tag", 4),
            hex("status", 4),
            code("action_taken", 4, ACTION_TAKEN),
            hex("additional_info", 8),
        ],
    ),
    event(0x8000_0059, "processors stopped for a bug check", ErrorClass::Platform, &[]),
    event(
        0x8000_005a,
        "processor of the PSHED plug-in",
        ErrorClass::Processor,
        &[
            number("cpu_vendor", 4),
            hex("cpu_family", 4),
            hex("cpu_model", 4),
            hex("cpu_stepping", 4),
            number("bank_count", 4),
        ],
    ),
    event(0x8000_005b, "SRAS table has bad data", ErrorClass::Firmware, &[]),
    event(0x8000_005c, "DriFs status", ErrorClass::Platform, &[]),
    event(0x8000_0060, "processors frozen", ErrorClass::Platform, &[]),
    event(0x8000_0061, "processors frozen, no crash dump", ErrorClass::Platform, &[]),
    event(
        0x8000_0062,
        "policy changed",
        ErrorClass::Platform,
        &[text("policy_name", 32), number("policy_index", 4), number("policy_value", 4)],
    ),
    event(
        0x8000_0063,
        "registry error",
        ErrorClass::Platform,
        &[code("registry_error", 4, REGISTRY_ERROR), hex("status", 4)],
    ),
    event(
        0x8000_0064,
        "row taken offline",
        ErrorClass::Memory,
        &[
            hex("first_page", 8),
            hex("last_page", 8),
            number("range", 4),
            hex("status", 4),
            code("offline_error", 4, OFFLINE_ERROR),
        ],
    ),
    event(
        0x8000_0065,
        "page of a defect taken offline",
        ErrorClass::Memory,
        &[hex("page", 8), hex("status", 4), code("offline_error", 4, OFFLINE_ERROR)],
    ),
    event(
        0x8000_0066,
        "bad address structure in a table",
        ErrorClass::Firmware,
        &[code("address_error", 4, GAS_ERROR)],
    ),
    event(
        0x8000_0067,
        "crash dump error",
        ErrorClass::Platform,
        &[hex("source_location_id", 4), hex("status", 4), hex("io_status", 4)],
    ),
    event(0x8000_0068, "crash dump checkpoint", ErrorClass::Platform, &[hex("value", 4)]),
    event(0x8000_0069, "crash dump progress", ErrorClass::Platform, &[number("value", 4)]),
    event(0x8000_006a, "bug check of the previous boot", ErrorClass::Platform, &[hex("value", 4)]),
    event(0x8000_006b, "stack of a bug check", ErrorClass::Platform, &[]),
    event(
        0x8000_006c,
        "PCIe error raised to uncorrected",
        ErrorClass::Pcie,
        &[
            code("error_severity", 4, SEVERITY),
            number("error_handler_type", 4),
            number("error_source_id", 4),
            hex("root_error_command", 4),
            hex("root_error_status", 4),
            hex("device_association_bitmap", 4),
        ],
    ),
    event(0x8000_006d, "crash dump identifier", ErrorClass::Platform, &[]),
    event(0x8000_006e, "crash dump identifier status", ErrorClass::Platform, &[]),
    event(
        0x8000_006f,
        "EINJ table processed (2)",
        ErrorClass::Firmware,
        &[
            text("error", 32),
            flag("injection_action_table_valid"),
            number("begin_injection_instructions", 4),
            number("get_trigger_error_action_table_instructions", 4),
            number("set_error_type_instructions", 4),
            number("get_error_type_instructions", 4),
            number("end_operation_instructions", 4),
            number("execute_operation_instructions", 4),
            number("check_busy_status_instructions", 4),
            number("get_command_status_instructions", 4),
            number("set_error_type_with_address_instructions", 4),
            number("get_execute_operation_timings_instructions", 4),
            hex("set_error_type_with_address_pa", 8),
            bytes("set_error_type_with_address", 256),
        ],
    ),
    event(
        0x8000_0070,
        "vendor's injection area written",
        ErrorClass::Platform,
        &[hex("offset", 4), number("input_length", 4), hex("status", 4), number("reason", 4)],
    ),
    event(
        0x8000_0071,
        "vendor's injection area read",
        ErrorClass::Platform,
        &[
            hex("offset", 4),
            number("bytes_to_read", 4),
            number("output_buffer_length", 4),
            hex("status", 4),
            number("reason", 4),
        ],
    ),
    event(0x8000_0072, "IPMI online", ErrorClass::Platform, &[flag("is_online")]),
    event(0x8000_0073, "IPMI subscribed", ErrorClass::Platform, &[flag("is_registered")]),
    event(
        0x8000_0074,
        "server type",
        ErrorClass::Platform,
        &[text("platform_name", 32), text("server_type", 32)],
    ),
    event(
        0x8000_0075,
        "store of error records full",
        ErrorClass::Platform,
        &[text("platform_name", 32)],
    ),
    event(
        0x8000_0076,
        "PSHED plug-in read a wrong buffer",
        ErrorClass::Platform,
        &[wide("component_name", 64)],
    ),
    event(0x8004_0010, "PSHED plug-in trace", ErrorClass::Platform, &[text("trace", 256)]),
];
