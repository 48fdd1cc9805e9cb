//! The command line.

mod pages;
mod usual;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ras_core::translate::StationId;
use rasctl::cpu::Cpu;
use rasctl::format::{self, FORMATS, Format};

pub(crate) use pages::{Export, Import, List, Pages, Sort, Wait};

/// Shows and changes what rasd knows about this machine's memory.
///
/// Exit codes: 0 done; 1 not done, or found damaged (the message says what); 2 could not ask or read,
/// or wrong usage. A closed pipe is no error.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where rasd listens unless its configuration says otherwise.
const SOCKET: &str = "/run/rasd/rasd.sock";

impl Options {
    /// What this process was started with. Ends it where that is wrong, or asks for help.
    pub(crate) fn of_this_process() -> Self {
        usual::parse(std::env::args_os()).unwrap_or_else(Self::parse)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Where rasd listens.
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,

    /// Use this store instead of asking rasd, which need not run. Only `pages retire`, `unretire`,
    /// `import` and `repair` change it, and only while rasd does not run.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// The daemon at a glance.
    Status,
    /// The list of bad pages.
    #[command(subcommand)]
    Pages(Pages),
    /// What this node is worth to the cluster.
    Health {
        #[command(subcommand)]
        change: Option<Health>,
    },
    /// Accept the list of bad pages as it is after damage of the store was reported.
    AcceptDamage(Note),
    /// Decode hardware errors from files of any kind, without acting.
    Decode(Decode),
    /// What errors have in common: totals, storms, faults, what to replace, which pages to retire.
    #[command(after_help = ANALYZE_HELP)]
    Analyze(Analyze),
    /// The same as one self-contained HTML page.
    #[command(after_help = ANALYZE_HELP)]
    Report(Report),
    /// The formats that `decode` reads.
    Formats,
    /// Where in system memory a memory controller's address is, and the way back (AMD).
    #[command(after_help = TRANSLATE_HELP)]
    Translate(Translate),
    /// Make inputs for decoders.
    #[command(subcommand)]
    Inject(Inject),
    /// Completions for a shell, to be read by it.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// The manual page of this program or of one of its commands, in roff.
    Man {
        /// The command, and the one below it.
        command: Vec<String>,
    },
    /// The JSON Schema of what `decode --json` prints, and under `analysis` what `analyze --json` does.
    Schema,
}

#[derive(Args, Debug)]
#[command(after_help = decode_help())]
pub(crate) struct Decode {
    /// The inputs' format. `auto` looks at each one's content.
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = format)]
    pub(crate) format: FormatChoice,

    /// The processor, where an input does not name it: FAMILY:MODEL:STEPPING, or CPUID leaf 1 EAX;
    /// `intel:`, `amd:`, `hygon:` or `zhaoxin:` may stand before it. `host` is this one.
    #[arg(long, value_name = "FMS")]
    pub(crate) cpu: Option<Cpu>,

    /// The year of dates that have none, as syslog's. Without it, such dates are no times.
    #[arg(long)]
    pub(crate) year: Option<u16>,

    /// A snapshot of the machine's data fabric (AMD), by which records of its memory controllers get
    /// their system address; see `rasctl translate`.
    #[arg(long, value_name = "SNAPSHOT")]
    pub(crate) translate: Option<PathBuf>,

    /// Keep reports of one error by different sources apart. Without it they become one record, and
    /// the last few hundred are held back until nothing can join them.
    #[arg(long)]
    pub(crate) no_join: bool,

    /// Files, directories, or `-` for standard input; gzip, xz, zstd and bzip2 are undone.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Analyze {
    #[command(flatten)]
    pub(crate) inputs: Decode,
}

#[derive(Args, Debug)]
pub(crate) struct Report {
    /// The file to write; `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Write the file even if there is one already.
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) inputs: Decode,
}

#[derive(Args, Debug)]
pub(crate) struct Translate {
    /// Print a snapshot of an example instead, to begin with.
    #[arg(long, exclusive = true)]
    pub(crate) example: bool,

    /// The snapshot of the machine's registers.
    #[arg(long, value_name = "SNAPSHOT", required_unless_present = "example")]
    pub(crate) map: Option<PathBuf>,

    /// Addresses are normalized ones of the coherent station SOCKET:DIE:INSTANCE. Without it, they are
    /// system addresses.
    #[arg(long, value_name = "STATION", value_parser = station)]
    pub(crate) station: Option<StationId>,

    /// Addresses: `0x…`, or decimal.
    #[arg(value_name = "ADDR", value_parser = number, required_unless_present = "example")]
    pub(crate) addresses: Vec<u64>,
}

fn station(text: &str) -> Result<StationId, String> {
    let numbers: Result<Vec<u8>, _> = text.split(':').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([socket, die, instance]) => {
            Ok(StationId { socket: *socket, die: *die, instance: *instance })
        }
        _ => Err("three numbers below 256: SOCKET:DIE:INSTANCE".into()),
    }
}

const TRANSLATE_HELP: &str = "\
SNAPSHOT has the registers of the machine's data fabric, in TOML, or JSON if it begins with {:
  revision           df2, df3, df3.5, df4 or df4.5
  device_vendor_id   DeviceVendorId0 (MI300 and Zen 4 servers)
  fabric_id_mask     list: SystemFabricIdMask registers
  dram_hole_control  DramHoleControl
  apic, umc          where sockets and dies are in an APIC id; an MI300's UMC registers
  [[stations]]       one for each memory channel: socket, die, instance,
                     block_instance_information, maps (list of base, limit, ctl, intlv,
                     offset), target_remap, np2_channel_config
A register is \"0x...\" or a number. TRANSLATE.md says where each one is read.

Exit codes:
  0  all addresses were translated
  1  one of them can't be
  2  the snapshot can't be read or understood, or wrong usage";

const ANALYZE_HELP: &str = "\
Errors are counted by what reports say they stand for; witnesses of one error count
once, and notices not at all. Nothing is acted on. Storms, rows, columns and banks have
the limits of field studies, which the reasons name.

Exit codes:
  0  no errors
  1  errors were found
  2  an input could not be read, or is damaged and shows no error, or wrong usage";

#[derive(Subcommand, Debug)]
pub(crate) enum Inject {
    /// Build errors from a small description, in TOML or JSON (see INJECT.md).
    Build(Build),
}

#[derive(Args, Debug)]
pub(crate) struct Build {
    /// Print the description of an example instead, to begin with.
    #[arg(long, value_name = "KIND", exclusive = true, value_parser = example_names())]
    pub(crate) example: Option<String>,

    /// Write this form instead of the description's.
    #[arg(long, value_name = "FORM", value_parser = rasctl::inject::Form::parse)]
    pub(crate) form: Option<rasctl::inject::Form>,

    /// Write into this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Write hexadecimal digits instead of bytes.
    #[arg(long)]
    pub(crate) hex: bool,

    /// The description; `-` is standard input.
    #[arg(value_name = "DESCRIPTION", default_value = "-")]
    pub(crate) description: PathBuf,
}

fn example_names() -> clap::builder::PossibleValuesParser {
    rasctl::inject::EXAMPLES.iter().map(|(name, _)| *name).collect::<Vec<_>>().into()
}

/// A format, or none: then each input is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FormatChoice(pub(crate) Option<&'static Format>);

fn format(name: &str) -> Result<FormatChoice, String> {
    if name == "auto" {
        return Ok(FormatChoice(None));
    }
    let found = format::by_name(name);
    found.map(|found| FormatChoice(Some(found))).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        format!("the formats are auto, {}", names.join(", "))
    })
}

/// The formats and exit codes, for those who ask for help.
fn decode_help() -> String {
    const CODES: &str = "\
Exit codes:
  0  everything was decoded, or there was nothing
  1  something was damaged, or nothing in an input was recognized; the rest is decoded all the same
  2  an input could not be read, or wrong usage";
    let width = FORMATS.iter().map(|format| format.name.len()).max().unwrap_or(0);
    let lines =
        FORMATS.iter().map(|format| format!("  {:width$}  {}\n", format.name, format.about));
    format!("Formats:\n{}\n{CODES}", lines.collect::<String>())
}

#[derive(Subcommand, Debug)]
pub(crate) enum Health {
    /// Back to green, and no evacuation any more: the memory was repaired.
    Clear(Note),
}

#[derive(Args, Debug)]
pub(crate) struct Note {
    /// Why; kept for good, together with who you are.
    #[arg(long = "note", value_name = "TEXT")]
    pub(crate) text: String,
}

/// `0x…`, or decimal.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a number: 0x…, or decimal".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }
}
