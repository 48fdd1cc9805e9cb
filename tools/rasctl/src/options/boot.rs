//! The command line of `rasctl boot`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Args, Debug)]
pub(crate) struct Boot {
    /// For tests: the whole system is below this directory.
    #[arg(long, global = true, hide = true, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Have the listed pages taken out of the memory map before any operating system starts.
    ///
    /// Puts Rampart's driver onto the EFI system partition, has the firmware load it, and writes the
    /// first list; without UEFI, writes what GRUB needs. May be run again at any time: it does what is
    /// missing. What is beyond the limits is named, and offlined by rasd once the kernel runs.
    #[command(after_help = INSTALL_HELP)]
    Install(Install),
    /// Bring the list for the next boot in step with the list of bad pages, now.
    ///
    /// rasd does this by itself for the driver's list, not for GRUB's.
    Refresh(Update),
    /// What is installed, whether it is in step, what it did at this boot, and what to do next.
    #[command(after_help = STATUS_HELP)]
    Status,
    /// Take everything away again that `install` made, and nothing else.
    Remove(Remove),
}

#[derive(Args, Debug)]
pub(crate) struct Install {
    /// Where the EFI system partition is mounted. [default: the first of /efi, /boot/efi and /boot
    /// that is one]
    #[arg(long, value_name = "DIR")]
    pub(crate) esp: Option<PathBuf>,

    /// The driver. [default: rampart-x64.efi in /usr/lib/rampart, or beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) driver: Option<PathBuf>,

    /// How the pages are kept out.
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    pub(crate) method: Choice,

    /// Under Secure Boot: the driver is signed by a key this machine's firmware trusts.
    #[arg(long)]
    pub(crate) signed: bool,

    /// Ranges of pages in what GRUB gets. [default: 4 for memmap, 200 for grub]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) ranges: Option<u32>,

    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) update: Update,
}

#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) update: Update,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Where GRUB's files changed: run update-grub (or grub2-mkconfig) as well.
    #[arg(long)]
    pub(crate) update_grub: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Choice {
    /// `driver-entry` where there is UEFI (`systemd-boot` if its variables can't be written), `memmap`
    /// where there is not.
    Auto,
    /// The firmware loads the driver before any boot loader: a `Driver####` variable.
    DriverEntry,
    /// systemd-boot loads the driver from its directory of drivers.
    SystemdBoot,
    /// GRUB takes pages away with `cutmem`: /etc/grub.d/01_rampart.
    Grub,
    /// Linux does, told by `memmap=`: /etc/default/grub.d/rampart.cfg.
    Memmap,
}

const INSTALL_HELP: &str = "\
Under Secure Boot, firmware loads the driver only if it is signed by a key in its `db` (a
machine owner's key of shim will not do). It is refused without --signed.

Exit codes:
  0  installed, or it was already
  1  not installed, or not wholly; run it again, or `rasctl boot remove`
  2  could not look, or wrong usage";

const STATUS_HELP: &str = "\
Exit codes:
  0  all in step
  1  something is to be done: the last line says what
  2  could not look";
