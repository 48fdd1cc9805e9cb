//! `rasctl decode`: what is in files, without acting.

use std::io::{self, Write};

use rasctl::format::{FORMATS, Format};
use rasctl::human::Human;
use rasctl::input::Input;
use rasctl::join::Joining;
use rasctl::json;
use rasctl::read::{self, Damage, Found, Options, Sink};
use rasctl::translate::Translating;

use crate::options::Decode;
use crate::text::Table;
use crate::{Failure, addresses, progress};

pub(crate) fn run(decode: &Decode, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let options = Options { format: decode.format.0, cpu: decode.cpu, year: decode.year };
    let color = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let snapshot = decode.translate.as_deref().map(addresses::snapshot).transpose()?;
    let mut printer = Printer {
        human: (!as_json).then_some(Human { color }),
        out,
        lines: Vec::new(),
        damaged: 0,
    };
    let mut unreadable = 0_u64;
    let mut unread = |file: &str, error: &io::Error| {
        unreadable += 1;
        eprintln!("rasctl: reading {file}: {error}");
    };
    if decode.no_join {
        let mut sink = Translating::new(printer, snapshot);
        read::paths(&decode.files, &options, &mut sink, &mut unread)?;
        printer = sink.into_inner();
    } else {
        let mut sink = Translating::new(Joining::new(printer), snapshot);
        read::paths(&decode.files, &options, &mut sink, &mut unread)?;
        printer = sink.into_inner().into_inner();
    }
    match (unreadable, printer.damaged) {
        (0, 0) => Ok(()),
        (0, damaged) => Err(Failure::NotDone(format!("{damaged} places are damaged"))),
        (count, _) => Err(Failure::NotReached(format!("{count} inputs could not be read"))),
    }
}

/// The formats, one a line.
pub(crate) fn formats(as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if as_json {
        for Format { name, aliases, about, .. } in FORMATS {
            let object = serde_json::json!({ "name": name, "aliases": aliases, "about": about });
            writeln!(out, "{object}")?;
        }
        return Ok(());
    }
    let mut table = Table::new(["FORMAT", "ALSO", "WHAT IT IS"]);
    for Format { name, aliases, about, .. } in FORMATS {
        table.row([(*name).into(), aliases.join(", "), (*about).into()]);
    }
    table.print(out)?;
    Ok(writeln!(
        out,
        "\n`--translate` takes a snapshot of an AMD machine's registers: see `rasctl translate --help`."
    )?)
}

/// Writes what is found as it is found.
struct Printer<'a> {
    /// As text; else as JSON.
    human: Option<Human>,
    out: &'a mut dyn Write,
    /// Lines that wait for more.
    lines: Vec<u8>,
    damaged: u64,
}

/// Bytes written at once: enough that the calls do not show, and no more than stays in a cache.
const PIECE: usize = 64 << 10;

impl Printer<'_> {
    /// Ends a line.
    fn line(&mut self) -> io::Result<()> {
        self.lines.push(b'\n');
        if self.lines.len() < PIECE { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> io::Result<()> {
        let written = self.out.write_all(&self.lines);
        self.lines.clear();
        written
    }
}

impl Sink for Printer<'_> {
    fn record(&mut self, found: Found) -> io::Result<()> {
        self.damaged += damaged(&found.record);
        if let Some(human) = self.human {
            return human.found(&found, self.out);
        }
        json::found(&found, &mut self.lines);
        self.line()
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        self.damaged += 1;
        if let Some(human) = self.human {
            return human.damage(&damage, self.out);
        }
        json::damage(&damage, &mut self.lines);
        self.line()
    }

    fn begin(&mut self, file: &str, input: Option<(&Input, u64)>) {
        if let Some((input, size)) = input {
            progress::show(file, &input.progress(), size);
        }
    }

    fn note(&mut self, file: &str, note: &str) -> io::Result<()> {
        eprintln!("rasctl: {file}: {note}");
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write()
    }
}

fn damaged(record: &ras_core::ErrorRecord) -> u64 {
    let inside: u64 = record.witnesses.iter().map(damaged).sum();
    record.problems.len() as u64 + inside
}
