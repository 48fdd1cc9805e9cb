//! `rasctl analyze` and `rasctl report`: what many errors have in common.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use rasctl::analyze::{Analysis, Findings, json, text};
use rasctl::join::Joining;
use rasctl::read::{self, Options, Sink};
use rasctl::report::{self, Collector};

use crate::Failure;
use crate::options::{Analyze, Decode, Report};

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
        write(output, *force, page.as_bytes()).map_err(|error| {
            Failure::NotReached(format!("writing {}: {error}", output.display()))
        })?;
        writeln!(out, "{}", findings.verdict())?;
    }
    verdict(&findings)
}

fn write(output: &Path, force: bool, page: &[u8]) -> io::Result<()> {
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
fn read<S: Sink>(inputs: &Decode, mut sink: S) -> Result<(S, Vec<String>), Failure> {
    let Decode { format, cpu, no_join, files } = inputs;
    let options = Options { format: format.0, cpu: *cpu };
    let mut unreadable = Vec::new();
    let mut unread = |file: &str, error: &io::Error| {
        eprintln!("rasctl: reading {file}: {error}");
        unreadable.push(format!("{file}: {error}"));
    };
    if *no_join {
        read::paths(files, &options, &mut sink, &mut unread)?;
    } else {
        let mut joining = Joining::new(sink);
        read::paths(files, &options, &mut joining, &mut unread)?;
        sink = joining.into_inner();
    }
    Ok((sink, unreadable))
}

fn verdict(findings: &Findings) -> Result<(), Failure> {
    match findings.exit_code() {
        0 => Ok(()),
        code => Err(Failure::Code(code)),
    }
}
