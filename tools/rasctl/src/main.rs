//! `rasctl`: asks rasd, reads its list when it does not run, and decodes errors of every kind.

#![forbid(unsafe_code)]

mod addresses;
mod build;
mod decode;
mod findings;
mod help;
mod options;
mod pages;
mod progress;
mod source;
mod status;
mod text;

use std::io::Write;
use std::process::ExitCode;

use crate::options::{Command, Global, Health, Inject, Options};
use crate::source::Source;

/// What `rasctl` exits with, beyond success.
#[derive(Debug)]
enum Failure {
    /// 1: refused, unknown, or damaged.
    NotDone(String),
    /// 2: rasd, the store or the file could not be asked or read.
    NotReached(String),
    /// Another code, and everything is said.
    Code(u8),
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
    let options = Options::of_this_process();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = run(&options, &mut out);
    let flushed = out.flush().map_err(Failure::from);
    match result.and(flushed) {
        Ok(()) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Code(code)) => ExitCode::from(code),
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
    match &options.command {
        Command::Decode(decode) => return decode::run(decode, json, out),
        Command::Analyze(analyze) => return findings::analyze(analyze, json, out),
        Command::Report(report) => return findings::report(report, out),
        Command::Translate(translate) => return addresses::run(translate, json, out),
        Command::Formats => return decode::formats(json, out),
        Command::Inject(Inject::Build(build)) => return build::run(build, out),
        Command::Completions { shell } => return help::completions(*shell, out),
        Command::Man { command } => return help::man(command, out),
        Command::Schema => return Ok(out.write_all(rasctl::json::SCHEMA.as_bytes())?),
        Command::Pages(pages) => return pages::run(pages, &options.global, out),
        _ => {}
    }
    let mut source = Source::open(socket, store.as_deref())?;
    match &options.command {
        Command::Status => status::show(&mut source, json, out),
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
        // Answered above: these ask nobody, or find their own way to the list.
        Command::Pages(_)
        | Command::Decode(_)
        | Command::Analyze(_)
        | Command::Report(_)
        | Command::Formats
        | Command::Translate(_)
        | Command::Inject(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Schema => Ok(()),
    }
}
