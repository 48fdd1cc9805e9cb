//! The formats that can be read: one table of names, detectors and readers.
//!
//! A new format is one file here and one line in [`FORMATS`].

mod binary;
mod capture;
mod database;
mod edac_tree;
mod hex;
mod journal;
mod lines;
mod mca_json;
mod struct_mce;
mod whole;

use std::path::Path;

use crate::input::Input;
use crate::read::{Options, Output, Stop};

/// Bytes of an input that detectors see.
pub const START_MAX: usize = 64 << 10;

/// One format.
#[derive(Debug)]
pub struct Format {
    /// The name it is asked for by.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it is.
    pub about: &'static str,
    /// Whether an input that starts with these bytes is of this format.
    detect: Detect,
    /// What reads it.
    pub(crate) reader: Reader,
}

#[derive(Clone, Copy, Debug)]
enum Detect {
    /// By its first bytes, at most [`START_MAX`].
    Bytes(fn(&[u8]) -> bool),
    /// The same, of what is text.
    Text(fn(&str) -> bool),
    /// As a directory, by what is in it.
    Directory(fn(&Path) -> bool),
    /// By its name, where the kernel gives it and nothing else tells.
    Name(fn(&str) -> bool),
    /// By its name and its first bytes.
    NamedBytes(fn(&str, &[u8]) -> bool),
}

/// Reads one input to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// From front to back.
    Stream(ReadStream),
    /// The same, where all records have one source: none of them is of another one's error.
    OneSource(ReadStream),
    /// Only as a file, since it has to be looked up in.
    File(ReadPath),
    /// As a tree of files that mean something together.
    Directory(ReadPath),
}

pub(crate) type ReadStream = fn(&mut Input, &Options, &mut Output<'_>) -> Result<(), Stop>;

pub(crate) type ReadPath = fn(&Path, &Options, &mut Output<'_>) -> Result<(), Stop>;

/// All of them. Detectors are asked in this order: first what has a signature, then text by its words,
/// last what is only plausible.
pub const FORMATS: &[Format] = &[
    Format {
        name: "pstore",
        aliases: &[],
        about: "files of /sys/fs/pstore, told by their names",
        detect: Detect::Name(whole::is_pstore),
        reader: Reader::Stream(whole::pstore),
    },
    Format {
        name: "cper",
        aliases: &[],
        about: "UEFI common platform error records, one after the other",
        detect: Detect::Bytes(binary::is_cper),
        reader: Reader::OneSource(binary::cper),
    },
    Format {
        name: "bert",
        aliases: &[],
        about: "ACPI's boot error record: the table with its region, or the region alone in a file BERT",
        detect: Detect::NamedBytes(whole::is_bert),
        reader: Reader::OneSource(whole::bert),
    },
    Format {
        name: "acpi-table",
        aliases: &["hest", "einj"],
        about: "ACPI tables about error sources: HEST, ERST, EINJ",
        detect: Detect::Bytes(whole::is_acpi_table),
        reader: Reader::Stream(whole::acpi_table),
    },
    Format {
        name: "erst",
        aliases: &[],
        about: "an image of ACPI's error record store",
        detect: Detect::Bytes(whole::is_erst),
        reader: Reader::OneSource(whole::erst),
    },
    Format {
        name: "whea-raw",
        aliases: &[],
        about: "raw data of Windows' hardware error events",
        detect: Detect::Bytes(whole::is_whea_raw),
        reader: Reader::Stream(whole::whea_raw),
    },
    Format {
        name: "whea-xml",
        aliases: &["wevtutil"],
        about: "Windows' hardware error events as XML",
        detect: Detect::Bytes(whole::is_whea_xml),
        reader: Reader::Stream(whole::whea_xml),
    },
    Format {
        name: "rasdaemon-db",
        aliases: &["sqlite"],
        about: "rasdaemon's database (SQLite)",
        detect: Detect::Bytes(database::is_database),
        reader: Reader::File(database::read),
    },
    Format {
        name: "journal-export",
        aliases: &[],
        about: "systemd's journal as journalctl -o export writes it",
        detect: Detect::Bytes(journal::is_export),
        reader: Reader::Stream(journal::export),
    },
    Format {
        name: "journal-json",
        aliases: &["journal"],
        about: "systemd's journal as journalctl -o json writes it",
        detect: Detect::Text(journal::is_json),
        reader: Reader::Stream(journal::json),
    },
    Format {
        name: "capture",
        aliases: &["replay"],
        about: "what rasd --replay reads: JSON lines of registers, records and trace events",
        detect: Detect::Text(capture::is_capture),
        reader: Reader::Stream(capture::read),
    },
    Format {
        name: "mca-json",
        aliases: &["json"],
        about: "machine-check registers as JSON, rasctl's own output included",
        detect: Detect::Text(mca_json::is_registers),
        reader: Reader::Stream(mca_json::read),
    },
    Format {
        name: "trace-text",
        aliases: &["trace", "perf-script"],
        about: "trace events as text: trace_pipe, trace-cmd report, perf script",
        detect: Detect::Text(lines::is_trace),
        reader: Reader::Stream(lines::trace),
    },
    Format {
        name: "mcelog",
        aliases: &[],
        about: "mcelog's text: what it prints, and what mcelog --ascii takes",
        detect: Detect::Text(lines::is_mcelog),
        reader: Reader::Stream(lines::mcelog),
    },
    Format {
        name: "edac-text",
        aliases: &["ras-mc-ctl", "edac-util"],
        about: "EDAC's counters and errors as ras-mc-ctl and edac-util print them",
        detect: Detect::Text(lines::is_edac_text),
        reader: Reader::Stream(lines::edac_text),
    },
    Format {
        name: "edac-sysfs",
        aliases: &["edac"],
        about: "the tree of EDAC's counters below /sys/devices/system/edac (a directory)",
        detect: Detect::Directory(edac_tree::is_edac),
        reader: Reader::Directory(edac_tree::read),
    },
    Format {
        name: "blue-gene",
        aliases: &["bgl"],
        about: "Blue Gene/L's reliability log",
        detect: Detect::Text(lines::is_blue_gene),
        reader: Reader::Stream(lines::blue_gene),
    },
    // Its words may be quoted in any of the texts above.
    Format {
        name: "kernel-log",
        aliases: &["dmesg", "syslog"],
        about: "the kernel's log: dmesg, syslog's files, a serial console's",
        detect: Detect::Text(lines::is_kernel_log),
        reader: Reader::Stream(lines::kernel_log),
    },
    Format {
        name: "hex",
        aliases: &["base64", "hexdump", "xxd"],
        about: "another format as hexadecimal digits, hexdump -C, xxd or base64",
        detect: Detect::Text(hex::is_hex),
        reader: Reader::Stream(hex::read),
    },
    // No signature, but enough that has to be so.
    Format {
        name: "struct-mce",
        aliases: &["dev-mcelog"],
        about: "Linux' struct mce, one after the other: /dev/mcelog, mce-inject",
        detect: Detect::Bytes(struct_mce::is_struct_mce),
        reader: Reader::OneSource(struct_mce::read),
    },
    // No signature: any five small numbers would do, so everything else is asked before.
    Format {
        name: "status-block",
        aliases: &["ghes"],
        about: "ACPI generic error status blocks, one after the other",
        detect: Detect::Bytes(binary::is_status_block),
        reader: Reader::OneSource(binary::status_block),
    },
];

impl Format {
    fn fits(&self, start: &[u8], text: Option<&str>, name: &str) -> bool {
        match self.detect {
            Detect::Bytes(detect) => detect(start),
            Detect::Text(detect) => text.is_some_and(detect),
            Detect::Name(detect) => detect(name),
            Detect::NamedBytes(detect) => detect(name, start),
            Detect::Directory(_) => false,
        }
    }
}

/// The format of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name || format.aliases.contains(&name))
}

/// The format of an input that starts with `start`, of which at most [`START_MAX`] bytes are looked
/// at. Its name counts only where the kernel gave it.
#[must_use]
pub fn detect(start: &[u8], name: &str) -> Option<&'static Format> {
    let start = &start[..start.len().min(START_MAX)];
    let text = text(start);
    FORMATS.iter().find(|format| format.fits(start, text, name))
}

/// The format of bytes that were written as text: any but such text again.
pub(crate) fn detect_unpacked(start: &[u8]) -> Option<&'static Format> {
    let start = &start[..start.len().min(START_MAX)];
    let text = text(start);
    FORMATS.iter().filter(|format| format.name != "hex").find(|format| format.fits(start, text, ""))
}

/// What reads the directory at `path` as a whole, if it is such a one.
pub(crate) fn of_directory(path: &Path, asked: Option<&'static Format>) -> Option<ReadPath> {
    let known = |format: &&Format| match format.detect {
        Detect::Directory(detect) => detect(path),
        _ => false,
    };
    let format = match asked {
        Some(asked) => asked,
        None => FORMATS.iter().find(known)?,
    };
    match format.reader {
        Reader::Directory(read) => Some(read),
        _ => None,
    }
}

/// The bytes as text, if they are: no control characters but those that text has. Logs may hold a few
/// bytes of another encoding, and the last character may be cut.
fn text(start: &[u8]) -> Option<&str> {
    let control = |byte: &u8| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31 | 127);
    if start.is_empty() || start.iter().any(control) {
        return None;
    }
    match std::str::from_utf8(start) {
        Ok(text) => Some(text),
        // The part before foreign bytes tells enough.
        Err(error) => std::str::from_utf8(&start[..error.valid_up_to()]).ok(),
    }
}
