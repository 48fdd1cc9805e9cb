//! rasdaemon's database.

use std::io;
use std::path::Path;

use crate::rasdaemon_db::{self, MAGIC};
use crate::read::{Options, Output, Stop};

pub(super) fn is_database(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

pub(super) fn read(path: &Path, _options: &Options, output: &mut Output<'_>) -> Result<(), Stop> {
    let mut stop = None;
    let read = rasdaemon_db::read(path, &mut |id, record| {
        stop = output.record(id, None, record).err();
        stop.is_none()
    });
    match (stop, read) {
        (Some(stop), _) => Err(stop),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => {
            let detail = crate::chain(&error);
            Err(Stop::Input { what: "reading a database".into(), error: io::Error::other(detail) })
        }
    }
}
