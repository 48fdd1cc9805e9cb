//! The usual forms of `decode`, read without clap.
//!
//! clap builds every command with all of its help before it looks at the first word, which takes longer
//! than to decode a hundred records. Scripts start a process for each record: for them, the few forms
//! that everybody uses are read here. Anything else is clap's, all that is wrong above all.

use std::ffi::OsString;

use super::{Command, Decode, FormatChoice, Global, Options, SOCKET, format};

/// `decode [--json] [--no-join] [--format FORMAT] FILE…`, options and files in any order; `None` for
/// everything else.
pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Options> {
    let _program = arguments.next()?;
    if arguments.next()? != "decode" {
        return None;
    }
    let mut global = Global { socket: SOCKET.into(), store: None, json: false };
    let mut asked = None;
    let mut decode = Decode {
        format: FormatChoice(None),
        cpu: None,
        year: None,
        translate: None,
        no_join: false,
        files: vec![],
    };
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "--json" if !global.json => global.json = true,
            "--no-join" if !decode.no_join => decode.no_join = true,
            "--format" if asked.is_none() => {
                asked = Some(format(arguments.next()?.to_str()?).ok()?);
            }
            "-" => decode.files.push(argument.into()),
            text if text.is_empty() || text.starts_with('-') => return None,
            _ => decode.files.push(argument.into()),
        }
    }
    decode.format = asked.unwrap_or(decode.format);
    (!decode.files.is_empty()).then_some(Options { global, command: Command::Decode(decode) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use proptest::prelude::*;

    fn parsed(arguments: &[&str]) -> Option<String> {
        parse(arguments.iter().map(OsString::from)).map(|options| format!("{options:?}"))
    }

    #[test]
    fn the_usual_is_understood_and_the_rest_is_not() {
        for usual in [
            &["rasctl", "decode", "one"][..],
            &["rasctl", "decode", "--json", "-"],
            &["rasctl", "decode", "one", "--format", "cper", "two", "--json", "--no-join"],
        ] {
            assert!(parsed(usual).is_some(), "{usual:?}");
        }
        for unusual in [
            &["rasctl"][..],
            &["rasctl", "status"],
            &["rasctl", "decode"],
            &["rasctl", "decode", "--json"],
            &["rasctl", "decode", "--format", "unheard-of", "one"],
            &["rasctl", "decode", "one", "--format"],
            &["rasctl", "decode", "--help"],
            &["rasctl", "decode", "--json", "--json", "one"],
            &["rasctl", "decode", "--", "one"],
            &["rasctl", "decode", ""],
            &["rasctl", "--json", "decode", "one"],
        ] {
            assert_eq!(parsed(unusual), None, "{unusual:?}");
        }
    }

    proptest! {
        /// What is understood here, clap understands the same way.
        #[test]
        fn it_is_as_clap_has_it(
            words in proptest::collection::vec(
                prop::sample::select(vec![
                    "--json", "--no-join", "--format", "cper", "auto", "ghes", "one", "two", "-", "--", "",
                    "--cpu", "--year", "2024", "-h", "--format=cper", "decode", "status", "é",
                ]),
                0..7,
            ),
        ) {
            let line = [&["rasctl", "decode"], words.as_slice()].concat();
            if let Some(here) = parsed(&line) {
                let there = Options::try_parse_from(&line).map(|options| format!("{options:?}"));
                prop_assert_eq!(there.ok(), Some(here), "{:?}", line);
            }
        }
    }
}
