//! The command line of `rasctl pages`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use ras_core::{Pfn, RetireState, Timestamp};
use rasctl::exchange::export::{Form, Quote};
use rasctl::exchange::place::Place;

use super::Note;

/// How pages are named, for everybody who asks for help.
const PLACES: &str = "\
Pages are named by
  0x12345678        a physical address: the page that holds it
  pfn:0x12345       a page frame number, pfn:74565 in decimal
  0x1000-0x2fff     a range from first to last, both included, as in /proc/iomem; also pfn:1-2
  0x1000+8K         a range by its size";

const LIST_EXAMPLES: &str = "\
Examples:
  rasctl pages list --state failed          what this kernel could not take out of use
  rasctl pages list --since 7d --sort since what came in the last week
  rasctl pages list --dimm DIMM_A1 --json   one module's pages, for programs";

const RETIRE_EXAMPLES: &str = "\
Examples:
  rasctl pages retire 0x12345678 --note 'memtest, pass 3'
  rasctl pages retire 0x12345000+64K pfn:0x20000 --note 'row 0x1a2 of DIMM_A1'
  rasctl --store /var/lib/rasd pages retire 0x12345678 --note '…'   without rasd: for its next start";

const IMPORT_HELP: &str = "\
Formats, told apart line by line:
  ours         pages export --as json, pages list --json: with all that is known of each page
  plain        0x… and pfn:… with ranges, separated by blanks, commas or lines
  Linux        memmap=SIZE$ADDRESS in command lines and boot loader files, however `$` is quoted
  GRUB         cutmem FROM TO, badram and GRUB_BADRAM patterns
  Xen          badpage=…
  Windows      bcdedit /enum {badmemory}, as text or as PowerShell saves it; bcdedit /set commands
  memtest      badram= and memmap= of Memtest86+; its bad pages, with --frames
  daemons      mcelog --client's page statistics, rasdaemon's log: what they took out of use

Pages that are on the list already stay what they are, so an import that was interrupted is simply
started again.

Examples:
  rasctl pages import badmemory.txt --dry-run
  memtest-notes | rasctl pages import - --frames --note 'memtest of 2024-05-01'";

const EXPORT_HELP: &str = "\
Worst pages first; what does not fit is named on standard error, and is left to rasd.

Examples:
  rasctl pages export --as json --output pages.json
  rasctl pages export --as memmap --quote default-grub > /etc/default/grub.d/bad-pages.cfg
  rasctl pages export --as grub-cutmem >> /boot/grub/custom.cfg
  rasctl pages export --as bcdedit > badmemory.cmd";

const VERIFY_HELP: &str = "\
Nothing is changed, and rasd may run.

Exit codes:
  0  sound
  1  damaged: mendable without loss, or not, or a loss that no person has accepted yet; it says which
  2  could not be read, or wrong usage";

#[derive(Subcommand, Debug)]
pub(crate) enum Pages {
    /// All of them, or those that are asked for.
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// One of them, with all that is known.
    #[command(after_help = PLACES)]
    Show(Page),
    /// What happened to a page, or to the whole list: who or what decided what, when, and why.
    #[command(after_help = PLACES)]
    History {
        /// The page. Without one: everything.
        #[arg(value_name = "PAGE", value_parser = page)]
        page: Option<Pfn>,
    },
    /// Put pages on the list: they are remembered, taken out of use, and guests that have them told.
    #[command(after_help = retire_help())]
    Retire {
        /// The pages.
        #[arg(required = true, value_name = "PAGE", value_parser = Place::parse)]
        pages: Vec<Place>,
        #[command(flatten)]
        note: Note,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take pages off the list, so that they are used again after the next boot.
    #[command(after_help = PLACES)]
    Unretire {
        /// The pages.
        #[arg(required = true, value_name = "PAGE", value_parser = Place::parse)]
        pages: Vec<Place>,
        #[command(flatten)]
        note: Note,
    },
    /// Write the list for other programs.
    #[command(after_help = EXPORT_HELP)]
    Export(Export),
    /// Put pages on the list that other programs know of.
    #[command(after_help = IMPORT_HELP)]
    Import(Import),
    /// Check every block of the stored list, in both copies.
    #[command(after_help = VERIFY_HELP)]
    Verify,
    /// Mend the stored list while rasd does not run (rasd does the same when it starts).
    ///
    /// What has a good second copy is written anew from it. A journal that lost entries is set aside in
    /// the store's quarantine, and what can be read of it goes on.
    Repair,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only pages in this state; may be given several times.
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    pub(crate) states: Vec<RetireState>,

    /// Only pages of modules whose label, slot, serial or part number, or place (`channel 1`) has
    /// this in it; upper and lower case are alike.
    #[arg(long, value_name = "TEXT")]
    pub(crate) dimm: Option<String>,

    /// Only pages condemned since then: `2024-05-01`, `2024-05-01T12:00:00Z`, or as long ago as `7d`,
    /// `12h`.
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<Timestamp>,

    /// In this order.
    #[arg(long, value_name = "COLUMN", default_value = "address")]
    pub(crate) sort: Sort,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum Sort {
    Address,
    State,
    /// Oldest first.
    Since,
    /// Longest unchanged first.
    Updated,
    /// Worst first.
    Severity,
}

#[derive(Args, Debug)]
pub(crate) struct Page {
    /// The page.
    #[arg(value_name = "PAGE", value_parser = page)]
    pub(crate) pfn: Pfn,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// Wait that many seconds for the outcome. The pages are remembered either way.
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
}

impl Wait {
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The form: JSON keeps everything, the others addresses only.
    #[arg(long = "as", value_name = "FORM")]
    form: FormName,

    /// Where a `memmap=` is going to be written.
    #[arg(long, value_name = "PLACE", default_value = "plain")]
    quote: QuoteName,

    /// Separate ranges at most. Each one costs the kernel time at every boot.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) ranges: Option<u32>,

    /// The file to write instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Write the file even if there is one already.
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

impl Export {
    pub(crate) fn form(&self) -> Form {
        match self.form {
            FormName::Json => Form::Json,
            FormName::Memmap => Form::Memmap,
            FormName::GrubCutmem => Form::GrubCutmem,
            FormName::GrubBadram => Form::GrubBadram,
            FormName::Xen => Form::Xen,
            FormName::Bcdedit => Form::Bcdedit,
            FormName::Memtest => Form::Memtest,
        }
    }

    pub(crate) fn quote(&self) -> Quote {
        match self.quote {
            QuoteName::Plain => Quote::Plain,
            QuoteName::GrubCfg => Quote::GrubCfg,
            QuoteName::DefaultGrub => Quote::DefaultGrub,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum FormName {
    /// One object a line; what `import` reads without any loss.
    Json,
    /// A parameter of Linux: `memmap=4K$0x…`.
    Memmap,
    /// Commands of GRUB 2: `cutmem FROM TO`.
    GrubCutmem,
    /// Commands of GRUB 2: `badram ADDRESS,MASK`.
    GrubBadram,
    /// A parameter of Xen: `badpage=…`.
    Xen,
    /// Commands of Windows.
    Bcdedit,
    /// Patterns as Memtest86+ prints them: `badram=…`.
    Memtest,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum QuoteName {
    /// On a command line as the kernel sees it.
    Plain,
    /// In `grub.cfg`.
    GrubCfg,
    /// In `/etc/default/grub`, as a whole line of it.
    DefaultGrub,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Files, or `-` for standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Import what is understood even if some lines are not. Without it, they keep everything from
    /// being imported.
    #[arg(long)]
    pub(crate) partial: bool,

    /// Numbers without any word around them are page frame numbers, as Memtest86+ prints bad pages.
    #[arg(long)]
    pub(crate) frames: bool,

    /// Why; kept for good, together with who you are. [default: the files' names]
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,

    #[command(flatten)]
    pub(crate) wait: Wait,
}

fn retire_help() -> String {
    format!("{PLACES}\n\n{RETIRE_EXAMPLES}")
}

fn page(text: &str) -> Result<Pfn, String> {
    let place = Place::parse(text)?;
    place.page().ok_or_else(|| format!("{text:?} is {} pages, not one", place.range.count))
}

const STATES: [RetireState; 6] = [
    RetireState::Pending,
    RetireState::Retired,
    RetireState::Failed,
    RetireState::Probation,
    RetireState::Expired,
    RetireState::Stale,
];

fn state(name: &str) -> Result<RetireState, String> {
    STATES
        .into_iter()
        .find(|state| state.name() == name)
        .ok_or_else(|| format!("the states are {}", STATES.map(RetireState::name).join(", ")))
}

/// A date, a time, or as long ago.
fn since(text: &str) -> Result<Timestamp, String> {
    let now = SystemTime::now();
    let ago = || humantime::parse_duration(text).ok().and_then(|ago| now.checked_sub(ago));
    let time = humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_rfc3339_weak(&format!("{text}T00:00:00Z")))
        .ok()
        .or_else(ago);
    let since_epoch = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = since_epoch.and_then(|since| u64::try_from(since.as_nanos()).ok());
    nanos.map(Timestamp).ok_or_else(|| "a time: 2024-05-01, 2024-05-01T12:00:00Z, 7d, 12h".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use ras_core::PfnRange;

    use super::super::{Command, Options};
    use super::*;

    fn parsed(words: &[&str]) -> Result<Pages, clap::Error> {
        let words = [&["rasctl", "pages"], words].concat();
        Options::try_parse_from(words).map(|options| match options.command {
            Command::Pages(pages) => pages,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn pages_are_named_by_address_or_frame_and_never_by_a_guess() {
        let page = |text| match parsed(&["show", text]).unwrap() {
            Pages::Show(page) => page.pfn,
            other => panic!("{other:?}"),
        };
        assert_eq!(page("0x12345678"), Pfn(0x12345));
        assert_eq!(page("pfn:0x12345"), Pfn(0x12345));
        assert_eq!(page("pfn:17"), Pfn(17));
        for wrong in ["17", "12345g", "0x", "-1", "", "0x1000-0x2fff"] {
            assert!(parsed(&["show", wrong]).is_err(), "{wrong}");
        }
        match parsed(&["retire", "0x1000", "pfn:5-6", "--note", "x"]).unwrap() {
            Pages::Retire { pages, .. } => {
                let ranges: Vec<PfnRange> = pages.iter().map(|place| place.range).collect();
                let range = |start, count| PfnRange { start: Pfn(start), count };
                assert_eq!(ranges, [range(1, 1), range(5, 2)]);
            }
            other => panic!("{other:?}"),
        }
        assert!(parsed(&["retire", "0x1000"]).is_err(), "a note is wanted");
    }

    #[test]
    fn times_are_dates_or_as_long_ago() {
        assert_eq!(since("2024-05-01"), Ok(Timestamp::from_secs(1_714_521_600)));
        assert_eq!(since("2024-05-01T12:00:00Z"), Ok(Timestamp::from_secs(1_714_564_800)));
        assert!(since("1h").unwrap() < since("1s").unwrap());
        assert!(since("soon").is_err() && since("").is_err());
        assert!(state("failed").is_ok() && state("gone").unwrap_err().contains("pending, "));
    }
}
