//! The list in EFI variables: what is left when the disk is not.
//!
//! Two variables hold an image each (FORMAT.md, "Image"). Firmware keeps variables in a few hundred
//! KiB of flash that it shares with everything else it remembers, and gets the room of an overwritten
//! one back only when the machine starts: so lists are short, are written only when they change, and
//! the bytes written between two boots have a limit.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::efivarfs::{Efivarfs, KEPT, is_full};
use crate::image::{Boot, COPIES, ImageList, Medium};

/// The variables, as efivarfs names them. The vendor GUID is the project's, see EXCLUSION.md.
const NAMES: [&str; COPIES] = [
    "RasPagesA-def1345f-e988-423b-ac3b-68ad5dc6f43e",
    "RasPagesB-def1345f-e988-423b-ac3b-68ad5dc6f43e",
];

/// Bytes in one variable. OVMF takes 33,000 and refuses 65,536; other firmware may take less, and
/// then says so when the list gets there. Some 1,100 pages with all that is known of each (29 bytes).
const SIZE_MAX: usize = 32_768;

/// Bytes written in one boot, both copies counted: half of what fills OVMF's store until the next.
/// That is 59 pages one by one, or 60 writes of an image of 1,000 bytes; what is beyond waits for the
/// next boot, and the file has it. A limit per boot, because firmware gets room back only then.
const BOOT_BUDGET: u64 = 120_000;

/// EFI variables as a [`Medium`].
#[derive(Debug)]
pub struct EfiVariables {
    vars: Efivarfs,
}

/// The list in EFI variables.
pub type EfiVarList = ImageList<EfiVariables>;

impl EfiVarList {
    /// The list in the variables of `vars`. Touches nothing.
    #[must_use]
    pub fn in_variables(vars: Efivarfs, boot: Boot) -> Self {
        Self::new(EfiVariables { vars }, boot, BOOT_BUDGET)
    }
}

impl Medium for EfiVariables {
    fn place(&self) -> &Path {
        self.vars.root()
    }

    fn size_max(&self) -> usize {
        SIZE_MAX
    }

    fn read(&mut self, copy: usize) -> io::Result<Option<Vec<u8>>> {
        Ok(self.vars.read(NAMES[copy], SIZE_MAX)?.map(|variable| variable.data))
    }

    fn write(&mut self, copy: usize, image: &[u8]) -> io::Result<()> {
        self.vars.write(NAMES[copy], KEPT, image).map_err(|error| match is_full(&error) {
            true => ErrorKind::StorageFull.into(),
            false => error,
        })
    }
}
