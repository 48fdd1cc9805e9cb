//! Where list and outcome are kept: names of variables and files, in one place for everybody.

/// Vendor GUID of the variables.
pub const VENDOR: &str = "def1345f-e988-423b-ac3b-68ad5dc6f43e";

/// The two copies of the list as variables. A writer replaces the older one.
pub const LIST_VARIABLES: [&str; 2] = ["RasExclusionA", "RasExclusionB"];

/// Attributes of [`LIST_VARIABLES`]: non-volatile, boot services, run time. UEFI 2.10, section 8.2.1.
pub const LIST_ATTRIBUTES: u32 = 0x7;

/// The variable the driver leaves its [`Outcome`](super::Outcome) in.
pub const OUTCOME_VARIABLE: &str = "RasExclusionOutcome";

/// Attributes of [`OUTCOME_VARIABLE`]: boot services, run time. It is gone with the next reset.
pub const OUTCOME_ATTRIBUTES: u32 = 0x6;

/// Longest list to put into a variable, in bytes: some 1,000 entries. Firmware has little room for
/// variables, and little of what is written gets reclaimed before the next boot: longer lists are for the file.
pub const VARIABLE_SIZE_MAX: usize = 8 << 10;

/// Our directory on the EFI system partition, from its root, with `/` as Linux has it.
pub const DIRECTORY: &str = "EFI/rampart";

/// The two copies of the list as files in [`DIRECTORY`]. A writer replaces the older one.
pub const LIST_FILES: [&str; 2] = ["exclude-a.bin", "exclude-b.bin"];

/// The driver, in [`DIRECTORY`] (for a `Driver####` entry) or in systemd-boot's `EFI/systemd/drivers`,
/// which takes names ending in `x64.efi` only.
pub const DRIVER_FILE: &str = "rampart-x64.efi";
