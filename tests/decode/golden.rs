//! Golden files: finding, reading, decoding and comparing them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use mce_decoder::text::LineDecoder as _;
use mce_decoder::text::kernel_log::KernelLog;
use mce_decoder::trace::{self, EventFormat};
use mce_decoder::{Decoded, acpi, cper, mca, pstore, whea};
use ras_core::{CpuVendor, ErrorRecord, McaRegisters, Problem, Timestamp};
use serde_json::{Value, json};

/// One pair of files.
pub(super) struct Golden {
    pub(super) name: String,
    path: PathBuf,
    text: String,
}

/// What a `.in` file holds.
pub(super) enum Input {
    /// `mca/`: one register a line.
    Registers(Box<McaRegisters>, mca::Context),
    /// `cper/`, first word `record`: hexadecimal bytes.
    Record(Vec<u8>),
    /// `cper/`, first word `status_block`: hexadecimal bytes.
    StatusBlock(Vec<u8>),
    /// `acpi/`, `whea/` and `text/`: a decoder of [`CONTAINERS`] and its argument, then hexadecimal bytes,
    /// or text for XML and logs.
    Container(&'static Container, String, Vec<u8>),
    /// `trace/`: the event's format, then `payload:` and hexadecimal bytes.
    Trace { format: String, payload: Vec<u8> },
}

/// A decoder of whole files: the first word of a `.in` file in `acpi/`, `whea/` or `text/`, and what it does with
/// the rest of that line and the bytes.
pub(super) struct Container {
    name: &'static str,
    pub(super) decode: fn(&str, &[u8]) -> Decoded,
}

const CONTAINERS: &[Container] = &[
    Container { name: "table", decode: |_, bytes| acpi::decode_table(bytes) },
    Container { name: "bert_region", decode: |_, bytes| acpi::decode_bert_region(bytes) },
    Container { name: "erst_image", decode: |_, bytes| acpi::decode_erst_image(bytes) },
    Container { name: "pstore", decode: pstore::decode },
    Container { name: "raw", decode: |_, bytes| whea::decode_raw(bytes) },
    Container { name: "xml", decode: |_, bytes| rasctl::whea_xml::decode(bytes) },
    Container { name: "kernel_log", decode: |_, bytes| kernel_log(bytes) },
];

fn kernel_log(bytes: &[u8]) -> Decoded {
    let (mut log, mut found) = (KernelLog::default(), Vec::new());
    let mut offset = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        log.line(line, offset, &mut found);
        offset += line.len() as u64 + 1;
    }
    log.finish(&mut found);
    let records = found.into_iter().map(|found| *found.record).collect();
    Decoded { records, consumed: bytes.len(), ..Decoded::default() }
}

/// All pairs, in order of their names.
pub(super) fn all() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut goldens = Vec::new();
    for kind in ["mca", "cper", "trace", "acpi", "whea", "text"] {
        let directory = root.join(kind);
        let entries = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("in") => {
                    let text = fs::read_to_string(&path).unwrap();
                    goldens.push(Golden { name: format!("{kind}/{stem}"), path, text });
                }
                Some("expected") => {
                    let input = path.with_extension("in");
                    assert!(input.exists(), "{} has no input", path.display());
                }
                _ => panic!("{} is neither .in nor .expected", path.display()),
            }
        }
    }
    goldens.sort_by(|a, b| a.name.cmp(&b.name));
    goldens
}

impl Golden {
    /// `None` if the input decodes as expected, else a difference to read.
    pub(super) fn check(&self) -> Option<String> {
        let decoded = format!("{:#}\n", self.decode());
        let path = self.path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &decoded).unwrap();
            return None;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        (decoded != expected).then(|| format!("{}\n{}", self.name, difference(&expected, &decoded)))
    }

    pub(super) fn input(&self) -> Input {
        let kind = self.name.split('/').next().unwrap_or_default();
        if kind == "trace" {
            // A format text is passed on as it is, but for the comment in its first line.
            let (_comment, text) = self.text.split_once('\n').unwrap();
            let (format, payload) = text.split_once("payload:\n").expect("a line `payload:`");
            return Input::Trace { format: format.into(), payload: bytes(payload) };
        }
        let text: String =
            self.text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
        if kind == "mca" {
            let (registers, context) = registers(&text);
            return Input::Registers(Box::new(registers), context);
        }
        let (first, rest) = text.split_once('\n').unwrap();
        match first {
            "record" => Input::Record(bytes(rest)),
            "status_block" => Input::StatusBlock(bytes(rest)),
            other => {
                let (name, argument) = other.split_once(' ').unwrap_or((other, ""));
                let container = CONTAINERS.iter().find(|container| container.name == name);
                let container =
                    container.unwrap_or_else(|| panic!("{}: unknown kind {other:?}", self.name));
                let contents = if matches!(name, "xml" | "kernel_log") {
                    rest.as_bytes().into()
                } else {
                    bytes(rest)
                };
                Input::Container(container, argument.into(), contents)
            }
        }
    }

    fn decode(&self) -> Value {
        match self.input() {
            Input::Registers(registers, context) => record(&mca::decode(&registers, context)),
            Input::Record(bytes) => decoded(&cper::decode_record(&bytes)),
            Input::StatusBlock(bytes) => decoded(&cper::decode_status_block(&bytes)),
            Input::Container(container, argument, bytes) => {
                decoded(&(container.decode)(&argument, &bytes))
            }
            Input::Trace { format, payload } => match EventFormat::parse(&format) {
                Err(error) => json!({ "format_error": error.to_string() }),
                Ok(format) => match trace::decode(&format, &payload) {
                    Ok(found) => record(&found),
                    Err(error) => json!({ "error": error.to_string() }),
                },
            },
        }
    }
}

/// A record as `rasctl` prints it.
fn record(record: &ErrorRecord) -> Value {
    let mut text = Vec::new();
    rasctl::json::record(record, &mut text);
    serde_json::from_slice(&text).unwrap()
}

fn decoded(decoded: &Decoded) -> Value {
    let problem = |problem: &Problem| {
        let mut text = Vec::new();
        rasctl::json::problem(problem, &mut text);
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    json!({
        "consumed": decoded.consumed,
        "problems": decoded.problems.iter().map(problem).collect::<Vec<_>>(),
        "records": decoded.records.iter().map(record).collect::<Vec<_>>(),
    })
}

/// Where the last field ends that decoding reads.
pub(super) fn bytes_used(format: &EventFormat) -> usize {
    let unused = ["tomorrow", "v_data", "common_flags", "common_preempt_count", "common_pid"];
    let used = format.fields.iter().filter(|field| !unused.contains(&field.name.as_str()));
    used.map(|field| field.offset + field.size).max().unwrap_or(0)
}

/// Hexadecimal bytes; `#` begins a comment.
fn bytes(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{byte:?}")))
        .collect()
}

fn registers(text: &str) -> (McaRegisters, mca::Context) {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::trim)
    };
    let number = |key: &str| {
        value(key).map(|text| {
            let parsed = match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => text.parse(),
            };
            parsed.unwrap_or_else(|error| panic!("{key} {text}: {error}"))
        })
    };
    let wide = |key| number(key).unwrap_or(0);
    let word = |key| u32::try_from(wide(key)).unwrap();
    let byte = |key| u8::try_from(wide(key)).unwrap();
    let vendor = match value("vendor").expect("a vendor") {
        "intel" => CpuVendor::Intel,
        "amd" => CpuVendor::Amd,
        "hygon" => CpuVendor::Hygon,
        "zhaoxin" => CpuVendor::Zhaoxin,
        other => {
            let number = other.strip_prefix("unknown:").expect("intel, amd, ... or unknown:N");
            CpuVendor::Unknown(number.parse().unwrap())
        }
    };
    let registers = McaRegisters {
        vendor,
        cpuid: word("cpuid"),
        bank: byte("bank"),
        mcg_cap: wide("mcg_cap"),
        mcg_status: wide("mcg_status"),
        status: wide("status"),
        addr: wide("addr"),
        misc: wide("misc"),
        synd: wide("synd"),
        ipid: wide("ipid"),
        synd1: wide("synd1"),
        synd2: wide("synd2"),
        config: wide("config"),
        destat: wide("destat"),
        deaddr: wide("deaddr"),
        ip: wide("ip"),
        cs: byte("cs"),
        tsc: wide("tsc"),
        ppin: wide("ppin"),
        apic_id: word("apic_id"),
        microcode: word("microcode"),
    };
    let context = mca::Context {
        time: number("time_s").map(Timestamp::from_secs),
        cpu: number("cpu").map(|cpu| u32::try_from(cpu).unwrap()),
        socket: number("socket").map(|socket| u32::try_from(socket).unwrap()),
    };
    (registers, context)
}

/// What differs between two texts, line by line, with two lines around it.
fn difference(expected: &str, decoded: &str) -> String {
    const CONTEXT: usize = 2;
    let (old, new): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), decoded.lines().collect());
    let same_start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same_start;
    let same_end =
        old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let from = same_start.saturating_sub(CONTEXT);
    let mut text = String::new();
    let mut lines = |mark: &str, lines: &[&str]| {
        for line in lines {
            let _ = writeln!(text, "  {mark} {line}");
        }
    };
    lines(" ", &old[from..same_start]);
    lines("-", &old[same_start..old.len() - same_end]);
    lines("+", &new[same_start..new.len() - same_end]);
    let end = old.len() - same_end;
    lines(" ", &old[end..(end + CONTEXT).min(old.len())]);
    text
}

#[test]
fn a_difference_shows_what_changed_and_where() {
    let text = difference("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nX\ne\nf\n");
    assert_eq!(text, "    b\n    c\n  - d\n  + X\n    e\n    f\n");
    assert_eq!(difference("", "new\n"), "  + new\n");
}
