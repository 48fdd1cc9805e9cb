//! `rasctl completions` and `rasctl man`: made from the command line's own definition.

use std::io::Write;

use clap::CommandFactory;

use crate::Failure;
use crate::options::Options;

pub(crate) fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Options::command(), "rasctl", &mut script);
    Ok(out.write_all(&script)?)
}

/// The page of the command that `path` leads to.
pub(crate) fn man(path: &[String], out: &mut dyn Write) -> Result<(), Failure> {
    let mut command = Options::command();
    command.build();
    let mut name = "rasctl".to_owned();
    for part in path {
        let found = command.find_subcommand(part).cloned();
        command = found.ok_or_else(|| Failure::NotDone(format!("{name} has no command {part}")))?;
        name = format!("{name}-{part}");
    }
    Ok(clap_mangen::Man::new(command.display_name(name)).render(&mut { out })?)
}
