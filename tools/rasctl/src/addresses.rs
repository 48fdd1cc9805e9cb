//! `rasctl translate`: single addresses, both ways.

use std::io::Write;
use std::path::Path;

use ras_core::PhysAddr;
use ras_core::translate::{NormalizedAddr, Snapshot, StationId, TranslateError};
use rasctl::{chain, translate};
use serde_json::json;

use crate::Failure;
use crate::options::Translate;

/// Reads the snapshot that an option names.
pub(crate) fn snapshot(path: &Path) -> Result<Snapshot, Failure> {
    translate::load(path).map_err(|error| {
        Failure::NotReached(format!("snapshot {}: {}", path.display(), chain(&error)))
    })
}

pub(crate) fn run(options: &Translate, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Translate { example: _, map, station, addresses } = options;
    let Some(map) = map else {
        return Ok(out.write_all(translate::EXAMPLE.as_bytes())?);
    };
    let snapshot = snapshot(map)?;
    let mut failed = 0_u64;
    for address in addresses {
        let found = translated(&snapshot, *station, *address);
        failed += u64::from(found.is_err());
        if as_json {
            writeln!(out, "{}", object(*station, *address, &found))?;
        } else {
            match found {
                Ok((system, station, normalized)) => {
                    writeln!(out, "system {system} is {normalized} of {station}")?;
                }
                Err(error) => writeln!(out, "{address:#x}: {error}")?,
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => {
            let all = addresses.len();
            Err(Failure::NotDone(format!("{failed} of {all} addresses can't be translated")))
        }
    }
}

type Translated = Result<(PhysAddr, StationId, NormalizedAddr), TranslateError>;

fn translated(snapshot: &Snapshot, station: Option<StationId>, address: u64) -> Translated {
    if let Some(station) = station {
        let normalized = NormalizedAddr(address);
        let system = snapshot.system_address(station, normalized)?;
        return Ok((system, station, normalized));
    }
    let system = PhysAddr(address);
    let (station, normalized) = snapshot.normalized_address(system)?;
    Ok((system, station, normalized))
}

fn object(station: Option<StationId>, address: u64, found: &Translated) -> serde_json::Value {
    let asked = if station.is_some() { "normalized" } else { "system" };
    match found {
        Ok((system, StationId { socket, die, instance }, normalized)) => json!({
            "system": format!("{:#x}", system.0),
            "socket": socket,
            "die": die,
            "instance": instance,
            "normalized": format!("{:#x}", normalized.0),
        }),
        Err(error) => json!({ asked: format!("{address:#x}"), "error": error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(as_json: bool, station: Option<StationId>, addresses: &[u64]) -> (String, bool) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), translate::EXAMPLE).unwrap();
        let map = Some(file.path().to_owned());
        let options = Translate { example: false, map, station, addresses: addresses.to_vec() };
        let mut out = Vec::new();
        let done = super::run(&options, as_json, &mut out).is_ok();
        (String::from_utf8(out).unwrap(), done)
    }

    #[test]
    fn addresses_go_both_ways() {
        let second = StationId { socket: 0, die: 0, instance: 1 };
        let line = "system 0x2534 is 0x1234 of socket 0, die 0, instance 1\n";
        assert_eq!(run(false, Some(second), &[0x1234]), (line.into(), true));
        assert_eq!(run(false, None, &[0x2534]), (line.into(), true));
        let (text, done) = run(true, None, &[0x2534, u64::MAX]);
        assert_eq!(
            text.lines().next(),
            Some(r#"{"die":0,"instance":1,"normalized":"0x1234","socket":0,"system":"0x2534"}"#)
        );
        assert!(text.contains(r#""error":"no coherent station holds"#) && !done);
        let nowhere = StationId { instance: 7, ..second };
        assert_eq!(
            run(false, Some(nowhere), &[0]),
            ("0x0: no coherent station at socket 0, die 0, instance 7\n".into(), false)
        );
    }
}
