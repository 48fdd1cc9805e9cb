//! The list in the words of kernels, boot loaders and memory testers.
//!
//! | Form | Written | Source |
//! |---|---|---|
//! | `json` | one [`RetiredPage`] a line | ours |
//! | `memmap` | `memmap=4K$0x1000,8K$0x5000` | Linux `admin-guide/kernel-parameters.txt`, "memmap=nn[KMG]$ss[KMG]" |
//! | `grub-cutmem` | `cutmem FROM TO`, without TO's byte | GNU GRUB Manual, "cutmem" |
//! | `grub-badram` | `badram ADDR,MASK,…` | GNU GRUB Manual, "badram" |
//! | `xen` | `badpage=0x5,0x8-0x9`, frames, the last included | Xen `docs/misc/xen-command-line.pandoc`, "badpage" |
//! | `bcdedit` | `bcdedit /set {badmemory} badmemorylist 0x5 …`, frames | Windows driver documentation, "How to Manage the PFA Memory List"; PassMark, "Blacklisting RAM Pages" |
//! | `memtest` | `badram=ADDR,MASK,…` | Memtest86+ README, "BadRAM Patterns" |
//!
//! All but JSON have limits. Which pages are worth their place, and which neighbours become one range, is
//! the decision of [`plan_with_room`], the same as for firmware.

use std::cmp::Reverse;

use persist_store::exclusion::{BadRange, Badness, Limits, Plan, plan_with_room, total};
use ras_core::{PAGE_SIZE, Pfn, PfnRange, RetiredPage};

use super::pattern::Pattern;
use super::{runs, shown};

/// A way to write a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "see the module")]
pub enum Form {
    Json,
    Memmap,
    GrubCutmem,
    GrubBadram,
    Xen,
    Bcdedit,
    Memtest,
}

/// Where a `memmap=` is going to be written: GRUB takes `$1` for a variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Quote {
    /// As the kernel has to see it; right for systemd-boot, EFI stubs and `kexec`.
    #[default]
    Plain,
    /// For a `linux` line of `grub.cfg`: `\$`. GNU GRUB Manual, "Shell-like scripting", "Quoting".
    GrubCfg,
    /// A line for `/etc/default/grub`, which a shell reads before GRUB does: `\\\$` in double quotes.
    DefaultGrub,
}

/// Longest kernel command line, in bytes, its end included: x86's `COMMAND_LINE_SIZE`.
const KERNEL_LINE_MAX: usize = 2048;

/// Bytes of it that are left to other parameters.
const KERNEL_LINE_OTHERS: usize = 512;

/// `memmap=` regions that x86's decompressor keeps the kernel away from when it chooses a random place
/// (`MAX_MEMMAP_REGIONS`). Of a longer comma-separated list it makes a fixed place; of further
/// separate parameters it knows nothing.
const KASLR_REGIONS: usize = 4;

/// Xen keeps 100 bytes of `badpage=`, its end included (`opt_badpage`), and silently drops the rest.
const XEN_VALUE_MAX: usize = 99;

/// Longest line that `cmd.exe` runs, in characters. Microsoft, "Command prompt line string limitation".
const CMD_LINE_MAX: usize = 8191;

/// Address and mask pairs in one `badram` command: a line that people can still read.
const PATTERNS_A_LINE: usize = 10;

/// Runs of pages named in one line of the notes.
const NAMED_A_LINE: usize = 8;

/// A list in some form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// The list; whole lines.
    pub text: String,
    /// What a person has to know about it, one line each.
    pub notes: Vec<String>,
    /// Listed pages that are not in it.
    pub left_over: Vec<PfnRange>,
    /// Pages that it means although nobody listed them: between bad ones.
    pub filler_pages: u64,
}

/// Writes `pages` for any machine. `ranges_max` is the number of separate ranges; `None` is the default of
/// firmware. Entries that keep no page out of use are left out of every form but JSON.
#[must_use]
pub fn export(
    pages: &[RetiredPage],
    form: Form,
    quote: Quote,
    ranges_max: Option<u32>,
) -> Exported {
    export_for(&[], pages, form, quote, ranges_max)
}

/// [`export`] for a machine with this `memory`, in ascending order and without overlaps: what is written
/// leaves room for a kernel, and takes no more of the memory than firmware's driver would. Windows' form
/// has no such bounds.
#[must_use]
pub fn export_for(
    memory: &[PfnRange],
    pages: &[RetiredPage],
    form: Form,
    quote: Quote,
    ranges_max: Option<u32>,
) -> Exported {
    let suspended = pages.iter().filter(|page| page.state.is_suspended()).count();
    let bad = pages.iter().filter(|page| !page.state.is_suspended());
    let listed: Vec<BadRange> =
        bad.map(|page| BadRange::single(page.pfn, Badness::of(page))).collect();
    // Zero would mean the default.
    let ranges_max = ranges_max.unwrap_or(Limits::RANGES_DEFAULT).max(1);
    let fitting = |longest: usize, write: &dyn Fn(&[PfnRange]) -> String| {
        fitting(memory, &listed, ranges_max, longest, write)
    };
    let mut exported = match form {
        Form::Json => return json(pages),
        _ if listed.is_empty() => Exported::default(),
        Form::Bcdedit => bcdedit(&listed),
        Form::Memmap => memmap(fitting, quote),
        Form::Xen => {
            let longest = "badpage=".len() + XEN_VALUE_MAX;
            let mut exported = fitting(longest, &xen);
            exported.note(
                "this goes on Xen's own command line, not on dom0's; it keeps 99 characters of it",
            );
            exported
        }
        Form::GrubCutmem => grub(fitting(usize::MAX, &cutmem), &listed),
        Form::GrubBadram => {
            let mut exported = grub(fitting(usize::MAX, &badram), &listed);
            exported
                .note("GRUB 2.06 was seen to hang at `badram`, by a BIOS and by UEFI: prefer `grub-cutmem`");
            exported
        }
        Form::Memtest => fitting(usize::MAX, &memtest),
    };
    exported.account(&listed, suspended);
    exported.comment(form);
    exported
}

impl Exported {
    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Says first how much of the list this is, and last what is not in it.
    fn account(&mut self, listed: &[BadRange], suspended: usize) {
        let count = |ranges: &[PfnRange]| ranges.iter().map(|range| range.count).sum::<u64>();
        let all = count(&runs(listed.iter().map(|range| range.pages).collect()));
        let left = count(&self.left_over);
        self.notes.insert(0, format!("{} of {all} bad pages", all - left));
        if self.filler_pages > 0 {
            let filler = self.filler_pages;
            self.note(format!("{filler} sound pages between them are given away as well"));
        }
        if suspended > 0 {
            self.note(format!(
                "{suspended} entries of the list keep no page out of use (probation, expired, stale)"
            ));
        }
        if left > 0 {
            self.note(format!(
                "{left} pages did not fit, or lie where a kernel needs room; rasd offlines them once it runs:"
            ));
            let named: Vec<String> = self.left_over.iter().copied().map(shown).collect();
            let lines =
                named.chunks(NAMED_A_LINE).map(|line| format!("left over: {}", line.join(" ")));
            self.notes.extend(lines);
        }
    }

    /// Puts the notes above the list where the form has comments.
    fn comment(&mut self, form: Form) {
        let mark = match form {
            Form::GrubCutmem | Form::GrubBadram => "# ",
            Form::Bcdedit => "rem ",
            Form::Json | Form::Memmap | Form::Xen | Form::Memtest => return,
        };
        let lines = self.notes.iter().map(|note| format!("{mark}{note}\n"));
        self.text = lines.collect::<String>() + &self.text;
    }
}

fn json(pages: &[RetiredPage]) -> Exported {
    let lines = pages.iter().filter_map(|page| serde_json::to_string(page).ok());
    Exported { text: lines.map(|line| line + "\n").collect(), ..Exported::default() }
}

/// As many ranges as make a text of at most `longest` bytes; the worst pages first.
fn fitting(
    memory: &[PfnRange],
    listed: &[BadRange],
    ranges_max: u32,
    longest: usize,
    write: &dyn Fn(&[PfnRange]) -> String,
) -> Exported {
    let attempt = |ranges_max: u32| {
        let mut limits = Limits { ranges_max, bytes_max: 0 };
        if !memory.is_empty() {
            limits = limits.bounded_by_memory(total(memory).saturating_mul(PAGE_SIZE));
        }
        let plan = plan_with_room(listed, limits, memory);
        let ranges: Vec<PfnRange> = plan.ranges.iter().map(|range| range.pages).collect();
        (write(&ranges), plan)
    };
    let fits = |text: &str| text.trim_end().len() <= longest;
    let done = |(mut text, plan): (String, Plan)| {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let Plan { left_over, filler_pages, .. } = plan;
        Exported { text, left_over, filler_pages, ..Exported::default() }
    };
    let whole = attempt(ranges_max);
    if fits(&whole.0) {
        return done(whole);
    }
    // Halving finds a number that fits; that some larger one might, too, is not worth a search.
    let (mut fitting, mut too_many) = (0, ranges_max);
    while too_many - fitting > 1 {
        let middle = fitting.midpoint(too_many);
        if fits(&attempt(middle).0) {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    if fitting > 0 {
        return done(attempt(fitting));
    }
    let left_over = runs(listed.iter().map(|range| range.pages).collect());
    Exported { left_over, ..Exported::default() }
}

fn memmap(
    fitting: impl Fn(usize, &dyn Fn(&[PfnRange]) -> String) -> Exported,
    quote: Quote,
) -> Exported {
    // One parameter for all: of several, the decompressor heeds the first four at most.
    let parameter = |ranges: &[PfnRange]| {
        let regions = ranges.iter().map(|range| {
            let kib = range.count.saturating_mul(PAGE_SIZE >> 10);
            format!("{kib}K${:#x}", range.start.addr().0)
        });
        format!("memmap={}", regions.collect::<Vec<_>>().join(","))
    };
    let longest = KERNEL_LINE_MAX - 1 - KERNEL_LINE_OTHERS;
    let mut exported = fitting(longest, &parameter);
    if exported.text.is_empty() {
        return exported;
    }
    let (length, regions) = (exported.text.trim_end().len(), exported.text.split(',').count());
    exported
        .note(format!("{length} bytes of the {KERNEL_LINE_MAX} that x86's command line may have"));
    if regions > KASLR_REGIONS {
        exported.note(format!(
            "{regions} regions: with more than {KASLR_REGIONS} the kernel gives up its random place in memory, \
             and may be put onto a bad page"
        ));
    }
    match quote {
        Quote::Plain => exported.note("GRUB 2 eats the `$`: see --quote grub-cfg and default-grub"),
        Quote::GrubCfg => exported.text = exported.text.replace('$', "\\$"),
        Quote::DefaultGrub => {
            let value = exported.text.trim_end().replace('$', "\\\\\\$");
            exported.text = format!("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {value}\"\n");
            exported.note(
                "for /etc/default/grub (or a file in grub.d/ beside it); then run update-grub",
            );
        }
    }
    exported
}

fn cutmem(ranges: &[PfnRange]) -> String {
    let line = |range: &PfnRange| {
        let end = Pfn(range.start.0.saturating_add(range.count)).addr().0;
        format!("cutmem {:#x} {end:#x}\n", range.start.addr().0)
    };
    ranges.iter().map(line).collect()
}

fn badram(ranges: &[PfnRange]) -> String {
    let patterns: Vec<String> = patterns(ranges).collect();
    patterns.chunks(PATTERNS_A_LINE).map(|line| format!("badram {}\n", line.join(","))).collect()
}

fn memtest(ranges: &[PfnRange]) -> String {
    format!("badram={}\n", patterns(ranges).collect::<Vec<_>>().join(","))
}

fn patterns(ranges: &[PfnRange]) -> impl Iterator<Item = String> {
    let patterns = ranges.iter().flat_map(|&range| Pattern::covering(range));
    patterns.map(|Pattern { address, mask }| format!("{address:#018x},{mask:#018x}"))
}

fn xen(ranges: &[PfnRange]) -> String {
    let items = ranges.iter().map(|range| match range.count {
        1 => format!("{:#x}", range.start.0),
        count => format!("{:#x}-{:#x}", range.start.0, range.start.0.saturating_add(count - 1)),
    });
    format!("badpage={}", items.collect::<Vec<_>>().join(","))
}

/// What holds for every GRUB command that changes the memory map.
fn grub(mut exported: Exported, listed: &[BadRange]) -> Exported {
    exported.note("before the `linux` command, with `insmod mmap`; GRUB refuses it under lockdown (Secure Boot)");
    if listed.iter().any(|range| range.end().saturating_mul(PAGE_SIZE) > 1 << 32) {
        exported.note(
            "GRUB for BIOS machines reads 32-bit numbers: pages above 4 GiB need GRUB for UEFI",
        );
    }
    exported
}

/// Windows takes single frames only, each set replacing the list before it.
fn bcdedit(listed: &[BadRange]) -> Exported {
    const COMMAND: &str = "bcdedit /set {badmemory} badmemorylist";
    let mut worst: Vec<&BadRange> = listed.iter().collect();
    worst.sort_by_key(|range| (Reverse(range.badness), range.pages.start));
    let mut room = CMD_LINE_MAX - COMMAND.len();
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for pfn in worst.into_iter().flat_map(|range| range.pages.iter()) {
        let length = format!(" {:#x}", pfn.0).len();
        if length <= room {
            room -= length;
            taken.push(pfn);
        } else {
            left.push(PfnRange::single(pfn));
        }
    }
    taken.sort_unstable();
    taken.dedup();
    let frames: String = taken.iter().map(|pfn| format!(" {:#x}", pfn.0)).collect();
    let mut exported = Exported {
        text: format!("{COMMAND}{frames}\nbcdedit /set badmemoryaccess No\n"),
        left_over: runs(left),
        ..Exported::default()
    };
    exported.note("for cmd.exe as administrator; it replaces the list that is there");
    exported.note("PowerShell wants quotes: \"{badmemory}\"");
    exported
}
