//! `rasctl analyze` and `rasctl report`: what many errors have in common.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use rasctl::analyze::{Analysis, Findings, json, text};
use rasctl::input::Input;
use rasctl::join::Joining;
use rasctl::read::{self, Damage, Found, Options, Sink};
use rasctl::report::{self, Collector};
use rasctl::translate::Translating;

use crate::options::{Analyze, Decode, Report};
use crate::{Failure, addresses, progress};

pub(crate) fn analyze(
    analyze: &Analyze,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (analysis, unreadable) = read(&analyze.inputs, Analysis::default())?;
    let mut findings = analysis.finish();
    findings.unreadable = unreadable;
    if as_json {
        serde_json::to_writer(&mut *out, &json::object(&findings))?;
        writeln!(out)?;
    } else {
        let color = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        text::write(&findings, color, out)?;
    }
    verdict(&findings)
}

pub(crate) fn report(report: &Report, out: &mut dyn Write) -> Result<(), Failure> {
    let Report { output, force, inputs } = report;
    let to_stdout = output == Path::new("-");
    // Said before the inputs are read, which may take long.
    if !to_stdout && !force && output.exists() {
        let output = output.display();
        return Err(Failure::NotReached(format!("{output} exists; --force overwrites it")));
    }
    let (collector, unreadable) = read(inputs, Collector::default())?;
    let (mut findings, kept) = collector.finish();
    findings.unreadable = unreadable;
    let page = report::page(&findings, &kept);
    if to_stdout {
        out.write_all(page.as_bytes())?;
    } else {
        write_file(output, *force, page.as_bytes()).map_err(|error| {
            Failure::NotReached(format!("writing {}: {error}", output.display()))
        })?;
        writeln!(out, "{}", findings.verdict())?;
    }
    verdict(&findings)
}

pub(crate) fn write_file(output: &Path, force: bool, page: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(output)?.write_all(page)
}

/// Everything in the inputs, and which of them could not be read.
fn read<S: Sink>(inputs: &Decode, sink: S) -> Result<(S, Vec<String>), Failure> {
    let Decode { format, cpu, year, translate, no_join, files } = inputs;
    let snapshot = translate.as_deref().map(addresses::snapshot).transpose()?;
    let options = Options { format: format.0, cpu: *cpu, year: *year };
    let mut unreadable = Vec::new();
    let mut unread = |file: &str, error: &io::Error| {
        eprintln!("rasctl: reading {file}: {error}");
        unreadable.push(format!("{file}: {error}"));
    };
    let mut watched = Watched(sink);
    if *no_join {
        let mut sink = Translating::new(watched, snapshot);
        read::paths(files, &options, &mut sink, &mut unread)?;
        watched = sink.into_inner();
    } else {
        let mut sink = Translating::new(Joining::new(watched), snapshot);
        read::paths(files, &options, &mut sink, &mut unread)?;
        watched = sink.into_inner().into_inner();
    }
    Ok((watched.0, unreadable))
}

/// A sink that shows how far long inputs are read.
struct Watched<S>(S);

impl<S: Sink> Sink for Watched<S> {
    fn record(&mut self, found: Found) -> io::Result<()> {
        self.0.record(found)
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        self.0.damage(damage)
    }

    fn note(&mut self, file: &str, note: &str) -> io::Result<()> {
        self.0.note(file, note)
    }

    fn begin(&mut self, file: &str, input: Option<(&Input, u64)>) {
        if let Some((input, size)) = input {
            progress::show(file, &input.progress(), size);
        }
    }
}

fn verdict(findings: &Findings) -> Result<(), Failure> {
    match findings.exit_code() {
        0 => Ok(()),
        code => Err(Failure::Code(code)),
    }
}
