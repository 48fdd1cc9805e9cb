//! `rasctl pages export` and `import`: the list on its way to and from other programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use ras_core::{Pfn, PfnRange, RetiredPage};
use rasctl::exchange::import::{Bare, Item, parse};
use rasctl::exchange::{self, PAGES_MAX, runs, shown};
use serde::Serialize;

use super::order::Writer;
use crate::Failure;
use crate::findings::write_file;
use crate::options::{Export, Global, Import};
use crate::source::Source;
use crate::text::json;

/// Longest list that is read, in bytes: a million pages of our own form.
const INPUT_MAX: u64 = 1 << 30;

pub(super) fn export(
    pages: &[RetiredPage],
    wanted: &Export,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let exported = exchange::export::export(pages, wanted.form(), wanted.quote(), wanted.ranges);
    match &wanted.output {
        None => out.write_all(exported.text.as_bytes())?,
        Some(output) if output.exists() && !wanted.force => {
            let output = output.display();
            return Err(Failure::NotReached(format!("{output} exists; --force overwrites it")));
        }
        Some(output) => {
            write_file(output, wanted.force, exported.text.as_bytes()).map_err(|error| {
                Failure::NotReached(format!("writing {}: {error}", output.display()))
            })?;
        }
    }
    // Behind the list where both go to one terminal.
    out.flush()?;
    for note in &exported.notes {
        eprintln!("rasctl: {note}");
    }
    Ok(())
}

pub(super) fn import(wanted: &Import, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    let found = read(wanted)?;
    let bad_lines = found.refused;
    if bad_lines > 0 && !wanted.partial {
        let lines = if bad_lines == 1 { "a line was" } else { "lines were" };
        return Err(Failure::NotDone(format!(
            "nothing was imported: {lines} not understood (see above); --partial imports the rest"
        )));
    }
    if found.pages.len() as u64 + found.ranges.iter().map(|range| range.count).sum::<u64>()
        > PAGES_MAX
    {
        return Err(Failure::NotDone(format!("more than {PAGES_MAX} pages in one import")));
    }
    let (list, mut writer) = if wanted.dry_run {
        (Source::open(&global.socket, global.store.as_deref())?.pages()?, None)
    } else {
        let mut writer = Writer::open(global)?;
        (writer.pages()?.into_values().collect(), Some(writer))
    };
    let list: BTreeMap<Pfn, RetiredPage> = list.into_iter().map(|page| (page.pfn, page)).collect();
    let known = |pfn: &Pfn| list.contains_key(pfn);

    // A page with all that is known of it wins over its bare number.
    let all = found.ranges.iter().flat_map(|range| range.iter());
    let bare: Vec<Pfn> = all.filter(|pfn| !found.pages.contains_key(pfn)).collect();
    let on_list = bare.iter().chain(found.pages.keys()).filter(|pfn| known(pfn)).count();
    let bare = bare.into_iter().filter(|pfn| !known(pfn)).map(PfnRange::single);
    let bare = runs(bare.collect());
    let full: Vec<RetiredPage> =
        found.pages.into_values().filter(|page| !known(&page.pfn)).collect();

    let Some(writer) = &mut writer else {
        return dry_run(&bare, &full, on_list, global.json, out);
    };
    let files: Vec<String> = wanted.files.iter().map(|file| file.display().to_string()).collect();
    let note = wanted.note.clone().unwrap_or_else(|| default_note(&files));
    let mut ordered = writer.import(full, &note)?;
    let others = writer.retire(&bare, &note)?;
    ordered.ordered.extend(others.ordered);
    ordered.known.extend(others.known);
    if ordered.who.is_empty() {
        ordered.who = others.who;
    }
    if ordered.ordered.is_empty() && !global.json {
        return Ok(writeln!(out, "nothing to import: {on_list} pages are on the list already")?);
    }
    if on_list > 0 && !global.json {
        writeln!(out, "{on_list} pages are on the list already and stay what they are")?;
    }
    writer.report(ordered, &wanted.wait, global.json, out)
}

/// What all files have in them.
#[derive(Default)]
struct Found {
    ranges: Vec<PfnRange>,
    pages: BTreeMap<Pfn, RetiredPage>,
    refused: usize,
}

/// Says on the way what there is to say about single lines.
fn read(wanted: &Import) -> Result<Found, Failure> {
    let bare = if wanted.frames { Bare::Frames } else { Bare::Addresses };
    let mut found = Found::default();
    for file in &wanted.files {
        let name = if file == Path::new("-") {
            "standard input".into()
        } else {
            file.display().to_string()
        };
        let bytes =
            load(file).map_err(|error| Failure::NotReached(format!("reading {name}: {error}")))?;
        let imported = parse(&bytes, bare);
        for remark in &imported.notes {
            eprintln!("rasctl: {name}:{}: note: {}", remark.line, remark.text);
        }
        for remark in &imported.refused {
            eprintln!("rasctl: {name}:{}: {}", remark.line, remark.text);
        }
        found.refused += imported.refused.len();
        for item in imported.items {
            match item {
                Item::Range(range) => found.ranges.push(range),
                Item::Page(page) => {
                    found.pages.insert(page.pfn, *page);
                }
            }
        }
    }
    found.ranges = runs(found.ranges);
    Ok(found)
}

fn load(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let input: Box<dyn io::Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file)?)
    };
    input.take(INPUT_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than any list of pages"));
    }
    Ok(bytes)
}

/// One line within the limit for notes, whatever the files are called.
fn default_note(files: &[String]) -> String {
    let names: String = files.join(", ").replace(char::is_control, "?");
    let end = names.floor_char_boundary(400);
    format!("from {}", &names[..end])
}

#[derive(Serialize)]
struct DryRun<'a> {
    /// Would be put on the list.
    ranges: &'a [PfnRange],
    /// The same, with what is known of them.
    pages: &'a [RetiredPage],
    /// Are on it already.
    on_list: usize,
}

fn dry_run(
    ranges: &[PfnRange],
    pages: &[RetiredPage],
    on_list: usize,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        return json(&DryRun { ranges, pages, on_list }, out);
    }
    let count = ranges.iter().map(|range| range.count).sum::<u64>() + pages.len() as u64;
    writeln!(out, "would put {count} pages on the list; {on_list} are on it already")?;
    for range in ranges {
        writeln!(out, "{}", shown(*range))?;
    }
    for page in pages {
        writeln!(out, "{}  {}: {}", page.pfn.addr(), page.reason, page.diagnosis)?;
    }
    Ok(())
}
