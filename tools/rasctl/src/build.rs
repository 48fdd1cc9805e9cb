//! `rasctl inject build`.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use rasctl::{chain, inject};

use crate::Failure;
use crate::options::Build;

pub(crate) fn run(build: &Build, out: &mut dyn Write) -> Result<(), Failure> {
    let Build { example, form, out: file, hex, description } = build;
    if let Some(name) = example {
        let example = inject::EXAMPLES.iter().find(|(known, _)| known == name);
        return Ok(out.write_all(example.map_or("", |(_, text)| text).as_bytes())?);
    }
    let unreadable = |error: &io::Error| {
        Failure::NotReached(format!("reading {}: {error}", description.display()))
    };
    let text = if description == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(description)
    };
    let mut description = text
        .map_err(|error| unreadable(&error))
        .and_then(|text| inject::parse(&text).map_err(|error| Failure::NotDone(chain(&error))))?;
    description.form = form.unwrap_or(description.form);
    let mut bytes = inject::build(&description).map_err(|error| Failure::NotDone(chain(&error)))?;
    if *hex {
        bytes = (inject::hex(&bytes) + "\n").into_bytes();
    }
    match file {
        None => Ok(out.write_all(&bytes)?),
        Some(file) => fs::write(file, &bytes)
            .map_err(|error| Failure::NotReached(format!("writing {}: {error}", file.display()))),
    }
}
