//! `rasctl`: asks rasd, reads its list when it does not run, and decodes captures.

#![forbid(unsafe_code)]

mod decode;
mod pages;
mod source;
mod status;
mod text;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ras_core::{Pfn, PhysAddr};

use crate::source::Source;

/// Shows and changes what rasd knows about this machine's memory.
///
/// Exit codes: 0 done; 1 not done, or found damaged (the message says what); 2 could not ask or read,
/// or wrong usage. A closed pipe is no error.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
struct Options {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Global {
    /// Where rasd listens.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/rasd/rasd.sock")]
    socket: PathBuf,

    /// Read this store instead of asking rasd, which need not run. Nothing is changed in it.
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,

    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
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
    /// Decode a capture (see REPLAY.md), without acting; `-` is standard input.
    Decode {
        /// The capture: JSON lines, CPER records, or error status blocks.
        file: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
enum Pages {
    /// All of them.
    List,
    /// One of them, with its history.
    Show(Page),
    /// Take a page off the list, so that it is used again after the next boot.
    Unretire {
        #[command(flatten)]
        page: Page,
        #[command(flatten)]
        note: Note,
    },
}

#[derive(Subcommand, Debug)]
enum Health {
    /// Back to green, and no evacuation any more: the memory was repaired.
    Clear(Note),
}

#[derive(Args, Debug)]
struct Page {
    /// Page frame number, as `pages list` shows it: `0x…`, or decimal.
    #[arg(value_name = "PFN", value_parser = number)]
    number: u64,

    /// The number is a physical address in bytes, not a page frame number.
    #[arg(long)]
    phys: bool,
}

#[derive(Args, Debug)]
struct Note {
    /// Why; kept for good, together with who you are.
    #[arg(long = "note", value_name = "TEXT")]
    text: String,
}

impl Page {
    fn pfn(&self) -> Pfn {
        if self.phys { PhysAddr(self.number).pfn() } else { Pfn(self.number) }
    }
}

/// What `rasctl` exits with, beyond success.
#[derive(Debug)]
enum Failure {
    /// 1: refused, unknown, or damaged.
    NotDone(String),
    /// 2: rasd, the store or the file could not be asked or read.
    NotReached(String),
    /// 0: whoever reads our output has seen enough.
    BrokenPipe,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::NotReached(format!("writing the output: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        std::io::Error::from(error).into()
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = run(&options, &mut out);
    let flushed = out.flush().map_err(Failure::from);
    match result.and(flushed) {
        Ok(()) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::NotDone(message)) => complain(&message, 1),
        Err(Failure::NotReached(message)) => complain(&message, 2),
    }
}

fn complain(message: &str, code: u8) -> ExitCode {
    eprintln!("rasctl: {message}");
    ExitCode::from(code)
}

fn run(options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let Global { socket, store, json } = &options.global;
    let json = *json;
    if let Command::Decode { file } = &options.command {
        return decode::run(file, json, out);
    }
    let mut source = Source::open(socket, store.as_deref())?;
    match &options.command {
        Command::Status => status::show(&mut source, json, out),
        Command::Pages(Pages::List) => pages::list(&source.pages()?, json, out),
        Command::Pages(Pages::Show(page)) => {
            pages::show(page.pfn(), &source.page(page.pfn())?, json, out)
        }
        Command::Pages(Pages::Unretire { page, note }) => {
            let done = source.daemon()?.unretire(page.pfn(), &note.text)?;
            if json {
                return text::json(&done, out);
            }
            writeln!(out, "page {} is off the list, by {}", done.page.pfn, done.who)?;
            Ok(writeln!(out, "note: {}", done.advice)?)
        }
        Command::Health { change: None } => {
            let health = source.daemon()?.health()?;
            status::health(&health, json, out)
        }
        Command::Health { change: Some(Health::Clear(note)) } => {
            let health = source.daemon()?.clear_health(&note.text)?;
            status::health(&health, json, out)
        }
        Command::AcceptDamage(note) => {
            let store = source.daemon()?.accept_damage(&note.text)?;
            if json {
                return text::json(&store, out);
            }
            Ok(writeln!(out, "the list in {} is accepted as it is", store.dir)?)
        }
        Command::Decode { .. } => Ok(()),
    }
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

    #[test]
    fn pages_are_named_by_frame_or_address() {
        let page = |args: &[&str]| {
            let args = [&["rasctl", "pages", "show"], args].concat();
            match Options::try_parse_from(args).unwrap().command {
                Command::Pages(Pages::Show(page)) => page.pfn(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(page(&["0x12345"]), Pfn(0x12345));
        assert_eq!(page(&["17"]), Pfn(17));
        assert_eq!(page(&["--phys", "0x12345678"]), Pfn(0x12345));
        for wrong in ["12345g", "0x", "-1", ""] {
            assert!(Options::try_parse_from(["rasctl", "pages", "show", wrong]).is_err());
        }
    }
}
