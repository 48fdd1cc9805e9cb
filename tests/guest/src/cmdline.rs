//! The words of the kernel command line. README.md tells what each is for.

use crate::page::Gpa;

/// Pages of the working set unless `work=` says otherwise: a tick stays at a few milliseconds on
/// an emulating KVM.
pub const DEFAULT_WORK_PAGES: u64 = 64;

/// What the command line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// `refuse`: ignores requests to give memory back.
    pub refuse: bool,
    /// `quiet`: only each 64th tick is printed, and bad ones.
    pub quiet: bool,
    /// `idle`: no working set.
    pub idle: bool,
    /// `fill`: every free page is in the working set.
    pub fill: bool,
    /// `work=PAGES`.
    pub work_pages: u64,
    /// `dirty=PAGES`: length of the ring that is dirtied endlessly; 0 for none.
    pub dirty_pages: u64,
    /// `touch=GPA`: an address read on every tick.
    pub touch: Option<Gpa>,
    /// `pvpanic=EVENTS`: what the machine is told at tick `at`.
    pub pvpanic: Option<u8>,
    /// `watchdog=CODE`: the timeout of a watchdog that is fed with every tick before `at`.
    pub watchdog: Option<u8>,
    /// `disarm`: stops the watchdog at tick `at`, instead of starving it.
    pub disarm: bool,
    /// `reset` and `triple`: how the guest ends at tick `at`.
    pub end: Option<End>,
    /// `at=TICK`: when the above happens, 10 unless set.
    pub at: u64,
    /// `virtio_mmio.device=SIZE@BASE:IRQ`, the last one given.
    pub virtio_mmio: Option<Gpa>,
}

/// Ways to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The reset line.
    Reset,
    /// A triple fault.
    TripleFault,
}

impl Options {
    /// Reads the words it knows and skips all others.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let mut options = Self {
            refuse: false,
            quiet: false,
            idle: false,
            fill: false,
            work_pages: DEFAULT_WORK_PAGES,
            dirty_pages: 0,
            touch: None,
            pvpanic: None,
            watchdog: None,
            disarm: false,
            end: None,
            at: 10,
            virtio_mmio: None,
        };
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "refuse" => options.refuse = true,
                "quiet" => options.quiet = true,
                "idle" => options.idle = true,
                "fill" => options.fill = true,
                "work" => options.work_pages = number(value).unwrap_or(options.work_pages),
                "dirty" => options.dirty_pages = number(value).unwrap_or(0),
                "pvpanic" => options.pvpanic = byte(value),
                "watchdog" => options.watchdog = byte(value),
                "disarm" => options.disarm = true,
                "reset" => options.end = Some(End::Reset),
                "triple" => options.end = Some(End::TripleFault),
                "at" => options.at = number(value).unwrap_or(options.at),
                "touch" => options.touch = number(value).map(Gpa),
                "virtio_mmio.device" => {
                    let base = value.split_once('@').map(|(_, rest)| rest.split(':').next());
                    options.virtio_mmio = base.flatten().and_then(number).map(Gpa);
                }
                _ => {}
            }
        }
        options
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn byte(text: &str) -> Option<u8> {
    u8::try_from(number(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_any_order_unknown_ones_skipped() {
        let options = Options::parse(
            "console=ttyS0 touch=0x1_0 quiet  dirty=512 virtio_mmio.device=4K@0xfeb00e00:12 work=9 touch=0x100000",
        );
        assert!(options.quiet && !options.refuse && !options.idle && !options.fill);
        assert_eq!(options.dirty_pages, 512);
        assert_eq!(options.work_pages, 9);
        assert_eq!(options.touch, Some(Gpa(0x10_0000)));
        assert_eq!(options.virtio_mmio, Some(Gpa(0xfeb0_0e00)));
        assert_eq!(Options::parse(""), Options::parse("work=x virtio_mmio.device=4K"));
        let options = Options::parse("pvpanic=0x5 watchdog=14 at=99 triple");
        assert_eq!((options.pvpanic, options.watchdog), (Some(5), Some(14)));
        assert_eq!((options.at, options.end), (99, Some(End::TripleFault)));
        assert_eq!(Options::parse("pvpanic=256").pvpanic, None);
    }
}
