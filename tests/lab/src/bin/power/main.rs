//! Both halves of the power lab (`ras_lab::power`), inside its machine.
//!
//! - `record DISK LOG OPTIONS KILLS SEED`: rasd with its list on an ext4 file system on DISK, asked for pages
//!   and killed, again and again; every write to the disk is logged on LOG, and with it what rasd
//!   acknowledged. Prints each acknowledgement, then `end`, and goes on until the machine's plug is pulled;
//!   with `stop` as a last argument it ends instead.
//! - `images DISK LOG OPTIONS IMAGES FROM COUNT SEED`: makes disks out of a log, as they could be when power
//!   comes back, and looks for the list on each. DISK is what the log began with. The disks are IMAGES in
//!   all, spread over the log; the numbers FROM to FROM + COUNT - 1 of them are made. Prints a
//!   `ras_lab::power::Report` as JSON.

mod images;
mod mapper;
mod writer;

use anyhow::{Result, bail};

const USAGE: &str = "usage: power record DISK LOG OPTIONS KILLS SEED [stop]\n       \
                     power images DISK LOG OPTIONS IMAGES FROM COUNT SEED";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "record" => writer::run(rest),
        Some((verb, rest)) if verb == "images" => images::run(rest),
        _ => bail!("{USAGE}"),
    }
}
