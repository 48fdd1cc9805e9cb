//! The PCI Express capability, as PCIe sections hold it: 36 bytes of version 1, 60 of version 2. PCI
//! Express Base Specification, "PCI Express Capability Structure".

use alloc::vec::Vec;

use ras_core::{Detail, Details};

use crate::cper::section::registers::{self, Field};
use crate::layout::number_at;

/// A register: its name, its offset and its width in bytes, its fields.
type Register = (&'static str, usize, usize, &'static [Field]);

/// Of every version.
const REGISTERS: &[Register] = &[
    ("header", 0, 2, &[Field::number("id", 0, 8), Field::hex("next", 8, 8)]),
    (
        "capabilities",
        2,
        2,
        &[
            Field::number("version", 0, 4),
            Field::code("device_port_type", 4, 4, super::DEVICE_PORT_TYPES),
            Field::flag("slot_implemented", 8),
            Field::number("interrupt_message_number", 9, 5),
            Field::flag("flit_mode_supported", 15),
        ],
    ),
    (
        "device_capabilities",
        4,
        4,
        &[
            Field::code("max_payload_size_supported", 0, 3, PAYLOAD_SIZES),
            Field::number("phantom_functions_supported", 3, 2),
            Field::flag("extended_tag_field_supported", 5),
            Field::number("endpoint_l0s_acceptable_latency", 6, 3),
            Field::number("endpoint_l1_acceptable_latency", 9, 3),
            Field::flag("role_based_error_reporting", 15),
            Field::flag("err_cor_subclass_capable", 16),
            Field::flag("rx_mps_fixed", 17),
            Field::number("captured_slot_power_limit_value", 18, 8),
            Field::number("captured_slot_power_limit_scale", 26, 2),
            Field::flag("function_level_reset_capability", 28),
            Field::flag("mixed_mps_supported", 29),
            Field::flag("tee_io_supported", 30),
        ],
    ),
    (
        "device_control",
        8,
        2,
        &[
            Field::flag("correctable_error_reporting_enable", 0),
            Field::flag("non_fatal_error_reporting_enable", 1),
            Field::flag("fatal_error_reporting_enable", 2),
            Field::flag("unsupported_request_reporting_enable", 3),
            Field::flag("enable_relaxed_ordering", 4),
            Field::code("max_payload_size", 5, 3, PAYLOAD_SIZES),
            Field::flag("extended_tag_field_enable", 8),
            Field::flag("phantom_functions_enable", 9),
            Field::flag("aux_power_pm_enable", 10),
            Field::flag("enable_no_snoop", 11),
            Field::code("max_read_request_size", 12, 3, PAYLOAD_SIZES),
            Field::flag("function_level_reset", 15),
        ],
    ),
    (
        "device_status",
        10,
        2,
        &[
            Field::flag("correctable_error_detected", 0),
            Field::flag("non_fatal_error_detected", 1),
            Field::flag("fatal_error_detected", 2),
            Field::flag("unsupported_request_detected", 3),
            Field::flag("aux_power_detected", 4),
            Field::flag("transactions_pending", 5),
            Field::number("emergency_power_reduction", 6, 2),
        ],
    ),
    (
        "link_capabilities",
        12,
        4,
        &[
            Field::code("max_link_speed", 0, 4, SPEEDS),
            Field::number("maximum_link_width", 4, 6),
            Field::code("aspm_support", 10, 2, ASPM),
            Field::number("l0s_exit_latency", 12, 3),
            Field::number("l1_exit_latency", 15, 3),
            Field::flag("clock_power_management", 18),
            Field::flag("surprise_down_error_reporting_capable", 19),
            Field::flag("data_link_layer_link_active_reporting_capable", 20),
            Field::flag("link_bandwidth_notification_capability", 21),
            Field::flag("aspm_optionality_compliance", 22),
            Field::number("port_number", 24, 8),
        ],
    ),
    (
        "link_control",
        16,
        2,
        &[
            Field::code("aspm_control", 0, 2, ASPM),
            Field::flag("ptm_propagation_delay_adaptation", 2),
            Field::flag("read_completion_boundary_128", 3),
            Field::flag("link_disable", 4),
            Field::flag("retrain_link", 5),
            Field::flag("common_clock_configuration", 6),
            Field::flag("extended_synch", 7),
            Field::flag("enable_clock_power_management", 8),
            Field::flag("hardware_autonomous_width_disable", 9),
            Field::flag("link_bandwidth_management_interrupt_enable", 10),
            Field::flag("link_autonomous_bandwidth_interrupt_enable", 11),
            Field::flag("sris_clocking", 12),
            Field::flag("flit_mode_disable", 13),
            Field::number("drs_signaling_control", 14, 2),
        ],
    ),
    (
        "link_status",
        18,
        2,
        &[
            Field::code("current_link_speed", 0, 4, SPEEDS),
            Field::number("negotiated_link_width", 4, 6),
            Field::flag("link_training", 11),
            Field::flag("slot_clock_configuration", 12),
            Field::flag("data_link_layer_link_active", 13),
            Field::flag("link_bandwidth_management_status", 14),
            Field::flag("link_autonomous_bandwidth_status", 15),
        ],
    ),
    (
        "slot_capabilities",
        20,
        4,
        &[
            Field::flag("attention_button_present", 0),
            Field::flag("power_controller_present", 1),
            Field::flag("mrl_sensor_present", 2),
            Field::flag("attention_indicator_present", 3),
            Field::flag("power_indicator_present", 4),
            Field::flag("hot_plug_surprise", 5),
            Field::flag("hot_plug_capable", 6),
            Field::number("slot_power_limit_value", 7, 8),
            Field::number("slot_power_limit_scale", 15, 2),
            Field::flag("electromechanical_interlock_present", 17),
            Field::flag("no_command_completed_support", 18),
            Field::number("physical_slot_number", 19, 13),
        ],
    ),
    (
        "slot_control",
        24,
        2,
        &[
            Field::flag("attention_button_pressed_enable", 0),
            Field::flag("power_fault_detected_enable", 1),
            Field::flag("mrl_sensor_changed_enable", 2),
            Field::flag("presence_detect_changed_enable", 3),
            Field::flag("command_completed_interrupt_enable", 4),
            Field::flag("hot_plug_interrupt_enable", 5),
            Field::code("attention_indicator_control", 6, 2, INDICATORS),
            Field::code("power_indicator_control", 8, 2, INDICATORS),
            Field::flag("power_off", 10),
            Field::flag("electromechanical_interlock_toggle", 11),
            Field::flag("data_link_layer_state_changed_enable", 12),
            Field::flag("auto_slot_power_limit_disable", 13),
            Field::flag("in_band_presence_detect_disable", 14),
        ],
    ),
    (
        "slot_status",
        26,
        2,
        &[
            Field::flag("attention_button_pressed", 0),
            Field::flag("power_fault_detected", 1),
            Field::flag("mrl_sensor_changed", 2),
            Field::flag("presence_detect_changed", 3),
            Field::flag("command_completed", 4),
            Field::flag("mrl_open", 5),
            Field::flag("adapter_present", 6),
            Field::flag("electromechanical_interlock_engaged", 7),
            Field::flag("data_link_layer_state_changed", 8),
        ],
    ),
    (
        "root_control",
        28,
        2,
        &[
            Field::flag("system_error_on_correctable_error_enable", 0),
            Field::flag("system_error_on_non_fatal_error_enable", 1),
            Field::flag("system_error_on_fatal_error_enable", 2),
            Field::flag("pme_interrupt_enable", 3),
            Field::flag("configuration_rrs_software_visibility_enable", 4),
            Field::flag("no_nfm_subtree_below_this_root_port", 5),
        ],
    ),
    ("root_capabilities", 30, 2, &[Field::flag("configuration_rrs_software_visibility", 0)]),
    (
        "root_status",
        32,
        4,
        &[
            Field::hex("pme_requester_id", 0, 16),
            Field::flag("pme_status", 16),
            Field::flag("pme_pending", 17),
        ],
    ),
];

/// From version 2 on.
const REGISTERS_2: &[Register] = &[
    (
        "device_capabilities_2",
        36,
        4,
        &[
            Field::number("completion_timeout_ranges_supported", 0, 4),
            Field::flag("completion_timeout_disable_supported", 4),
            Field::flag("ari_forwarding_supported", 5),
            Field::flag("atomicop_routing_supported", 6),
            Field::flag("atomicop_32_bit_completer_supported", 7),
            Field::flag("atomicop_64_bit_completer_supported", 8),
            Field::flag("cas_128_bit_completer_supported", 9),
            Field::flag("no_ro_enabled_pr_pr_passing", 10),
            Field::flag("ltr_mechanism_supported", 11),
            Field::number("tph_completer_supported", 12, 2),
            Field::flag("tag_10_bit_completer_supported", 16),
            Field::flag("tag_10_bit_requester_supported", 17),
            Field::number("obff_supported", 18, 2),
            Field::flag("extended_fmt_field_supported", 20),
            Field::flag("end_end_tlp_prefix_supported", 21),
            Field::number("max_end_end_tlp_prefixes", 22, 2),
            Field::number("emergency_power_reduction_supported", 24, 2),
            Field::flag("emergency_power_reduction_initialization_required", 26),
            Field::flag("dmwr_completer_supported", 28),
            Field::number("dmwr_lengths_supported", 29, 2),
            Field::flag("frs_supported", 31),
        ],
    ),
    (
        "device_control_2",
        40,
        2,
        &[
            Field::number("completion_timeout_value", 0, 4),
            Field::flag("completion_timeout_disable", 4),
            Field::flag("ari_forwarding_enable", 5),
            Field::flag("atomicop_requester_enable", 6),
            Field::flag("atomicop_egress_blocking", 7),
            Field::flag("ido_request_enable", 8),
            Field::flag("ido_completion_enable", 9),
            Field::flag("ltr_mechanism_enable", 10),
            Field::flag("emergency_power_reduction_request", 11),
            Field::flag("tag_10_bit_requester_enable", 12),
            Field::number("obff_enable", 13, 2),
            Field::flag("end_end_tlp_prefix_blocking", 15),
        ],
    ),
    ("device_status_2", 42, 2, &[]),
    (
        "link_capabilities_2",
        44,
        4,
        &[
            // Bit 0 stands for 2.5 GT/s, the next ones for twice as much each.
            Field::hex("supported_link_speeds", 1, 7),
            Field::flag("crosslink_supported", 8),
            Field::hex("lower_skp_os_generation_supported", 9, 7),
            Field::hex("lower_skp_os_reception_supported", 16, 7),
            Field::flag("retimer_presence_detect_supported", 23),
            Field::flag("two_retimers_presence_detect_supported", 24),
            Field::flag("drs_supported", 31),
        ],
    ),
    (
        "link_control_2",
        48,
        2,
        &[
            Field::code("target_link_speed", 0, 4, SPEEDS),
            Field::flag("enter_compliance", 4),
            Field::flag("hardware_autonomous_speed_disable", 5),
            Field::flag("selectable_de_emphasis", 6),
            Field::number("transmit_margin", 7, 3),
            Field::flag("enter_modified_compliance", 10),
            Field::flag("compliance_sos", 11),
            Field::number("compliance_preset_de_emphasis", 12, 4),
        ],
    ),
    (
        "link_status_2",
        50,
        2,
        &[
            Field::flag("current_de_emphasis_level", 0),
            Field::flag("equalization_8gts_complete", 1),
            Field::flag("equalization_8gts_phase_1_successful", 2),
            Field::flag("equalization_8gts_phase_2_successful", 3),
            Field::flag("equalization_8gts_phase_3_successful", 4),
            Field::flag("link_equalization_request_8gts", 5),
            Field::flag("retimer_presence_detected", 6),
            Field::flag("two_retimers_presence_detected", 7),
            Field::number("crosslink_resolution", 8, 2),
            Field::flag("flit_mode_status", 10),
            Field::number("downstream_component_presence", 12, 3),
            Field::flag("drs_message_received", 15),
        ],
    ),
    ("slot_capabilities_2", 52, 4, &[]),
    ("slot_control_2", 56, 2, &[]),
    ("slot_status_2", 58, 2, &[]),
];

/// "Max Payload Size" and "Max Read Request Size".
const PAYLOAD_SIZES: &[(u64, &str)] = &[
    (0, "128 bytes"),
    (1, "256 bytes"),
    (2, "512 bytes"),
    (3, "1024 bytes"),
    (4, "2048 bytes"),
    (5, "4096 bytes"),
];

/// Speeds, as the supported link speeds vector counts them.
const SPEEDS: &[(u64, &str)] = &[
    (1, "2.5 GT/s"),
    (2, "5 GT/s"),
    (3, "8 GT/s"),
    (4, "16 GT/s"),
    (5, "32 GT/s"),
    (6, "64 GT/s"),
];

/// Active state power management.
const ASPM: &[(u64, &str)] = &[(0, "none"), (1, "L0s"), (2, "L1"), (3, "L0s and L1")];

/// "Attention Indicator Control", "Power Indicator Control".
const INDICATORS: &[(u64, &str)] = &[(1, "on"), (2, "blinking"), (3, "off")];

/// The registers, and their fields where there is anything in them.
pub(super) fn details(bytes: &[u8; 60]) -> Vec<Detail> {
    let mut details = Vec::with_capacity(REGISTERS.len() + REGISTERS_2.len());
    let version = bytes[2] & 15;
    let second = if version >= 2 { REGISTERS_2 } else { &[] };
    for (name, offset, width, fields) in REGISTERS.iter().chain(second) {
        match number_at(bytes, *offset, *width).unwrap_or(0) {
            register if register == 0 || fields.is_empty() => details.add_hex(name, register),
            register => details.add(name, registers::fields(register, fields)),
        }
    }
    details
}
