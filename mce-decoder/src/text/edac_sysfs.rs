//! EDAC's counters: its sysfs tree, and what tools print of it.
//!
//! Linux `Documentation/ABI/testing/sysfs-devices-edac`, `drivers/edac/edac_mc_sysfs.c`;
//! `ras-mc-ctl` of rasdaemon, `edac-util` of edac-utils. A counter tells how many errors there were
//! since the driver was loaded, and nothing of a single one: one record for each that is not zero.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;

use ras_core::{
    Details, ErrorClass, ErrorRecord, ErrorSource, Problem, ProblemKind, Raw, Severity, SmolStr,
};

use super::bytes::{self, decimal, narrow, rsplit, split, whole_number, word};
use super::{Found, LineDecoder, edac_detail};
use crate::trace::mc_event::McEvent;

/// Files looked at of one tree. The largest machines have a few hundred modules, with about ten each.
const FILES_MAX: usize = 65_536;

/// What a counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counted {
    Corrected,
    Uncorrected,
}

impl Counted {
    /// A record of `count` errors.
    fn record(self, count: u64) -> ErrorRecord {
        let (severity, reason) = match self {
            Self::Corrected => (Severity::Corrected, "EDAC counts them as corrected"),
            // As of EDAC's events: nobody says whether the data was consumed.
            Self::Uncorrected => (
                Severity::Srao,
                "EDAC counts them as uncorrected, but not whether any was consumed",
            ),
        };
        ErrorRecord {
            class: ErrorClass::Memory,
            severity,
            severity_reason: reason.into(),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            ..ErrorRecord::new(ErrorSource::EdacCounter)
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Corrected => "corrected",
            Self::Uncorrected => "uncorrected",
        }
    }
}

/// Says in one line what was counted, and keeps the text it was read from.
fn complete(mut record: ErrorRecord, kind: Counted, count: u64, raw: String) -> ErrorRecord {
    let errors = if count == 1 { "error" } else { "errors" };
    let place = if record.location == ras_core::Location::default() {
        "a place that EDAC does not know".to_string()
    } else {
        record.location.to_string()
    };
    record.summary = format!("{count} {} memory {errors} at {place}", kind.word());
    record.raw = Raw::Text(raw);
    record
}

/// Records of a tree given as relative paths (`mc/mc0/dimm3/dimm_ce_count`) and contents. The paths may
/// begin anywhere above the controllers (`/sys/devices/system/edac/…`).
///
/// An error is counted in several places: by module where the kernel keeps such counters, else by
/// csrow; what a controller counts beyond that is a record of its own.
pub fn tree<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<ErrorRecord> {
    let mut controllers: BTreeMap<u16, Controller<'a>> = BTreeMap::new();
    for (path, contents) in files.into_iter().take(FILES_MAX) {
        let mut parts = path.split('/').skip_while(|part| index(part, "mc").is_none());
        let Some(mc) = parts.next().and_then(|part| index(part, "mc")) else { continue };
        let controller = controllers.entry(mc).or_default();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(file), None, _) => {
                controller.files.insert(file, contents);
            }
            (Some(part), Some(file), None) => {
                controller.parts.entry(part).or_default().insert(file, contents);
            }
            _ => {}
        }
    }
    let mut records = Vec::new();
    for (mc, controller) in &controllers {
        controller.records(*mc, &mut records);
    }
    records
}

/// `mc12` is 12.
fn index(part: &str, name: &str) -> Option<u16> {
    part.strip_prefix(name)?.parse().ok()
}

type Files<'a> = BTreeMap<&'a str, &'a [u8]>;

#[derive(Default)]
struct Controller<'a> {
    files: Files<'a>,
    /// `dimm3`, `rank0`, `csrow2`.
    parts: BTreeMap<&'a str, Files<'a>>,
}

impl Controller<'_> {
    fn records(&self, mc: u16, records: &mut Vec<ErrorRecord>) {
        let is_module = |part: &str| index(part, "dimm").or_else(|| index(part, "rank")).is_some();
        // Modules' counters came with Linux 4.x; their labels and places before that.
        let modules = self
            .parts
            .iter()
            .any(|(part, files)| is_module(part) && files.contains_key("dimm_ce_count"));
        for (kind, total, part, channel, csrow, unknown) in [
            (
                Counted::Corrected,
                "ce_count",
                "dimm_ce_count",
                Some("_ce_count"),
                "ce_count",
                "ce_noinfo_count",
            ),
            (
                Counted::Uncorrected,
                "ue_count",
                "dimm_ue_count",
                None,
                "ue_count",
                "ue_noinfo_count",
            ),
        ] {
            let counted = Cell::new(0u64);
            let mut push = |count: u64, path: String, fill: &dyn Fn(&mut ErrorRecord)| {
                counted.set(counted.get().saturating_add(count));
                if count == 0 {
                    return;
                }
                let mut record = kind.record(count);
                record.location.imc = Some(mc);
                fill(&mut record);
                self.describe(&mut record);
                records.push(complete(record, kind, count, format!("{path}: {count}")));
            };
            for (name, files) in &self.parts {
                if modules && is_module(name) {
                    let count = number(files, part);
                    push(count, format!("mc{mc}/{name}/{part}"), &|record| {
                        module(files, record);
                    });
                }
                let Some(row) = index(name, "csrow").filter(|_| !modules) else { continue };
                let channels = files.keys().filter_map(|file| {
                    let channel = index(file.strip_suffix(channel?)?, "ch")?;
                    Some((channel, *file))
                });
                let mut by_channel: u64 = 0;
                for (channel, file) in channels {
                    let count = number(files, file);
                    by_channel = by_channel.saturating_add(count);
                    push(count, format!("mc{mc}/{name}/{file}"), &|record| {
                        record.location.channel = narrow(channel.into());
                        let label = files.get(format!("ch{channel}_dimm_label").as_str());
                        label_of(label.copied(), record);
                        self::csrow(files, row, record);
                    });
                }
                let rest = number(files, csrow).saturating_sub(by_channel);
                push(rest, format!("mc{mc}/{name}/{csrow}"), &|record| {
                    self::csrow(files, row, record);
                });
            }
            push(number(&self.files, unknown), format!("mc{mc}/{unknown}"), &|_| {});
            let beyond = number(&self.files, total).saturating_sub(counted.get());
            push(beyond, format!("mc{mc}/{total}"), &|_| {});
        }
        for (path, files) in [("", &self.files)]
            .into_iter()
            .chain(self.parts.iter().map(|(name, files)| (*name, files)))
        {
            let counters = files.iter().filter(|(file, _)| file.ends_with("e_count"));
            for (file, text) in counters.filter(|(_, text)| whole_number(text).is_none()) {
                let mut record = ErrorRecord {
                    class: ErrorClass::Memory,
                    severity_reason: "the counter can't be read".into(),
                    summary: format!("counter {file} of memory controller {mc} can't be read"),
                    raw: Raw::Text(format!("mc{mc}/{path}/{file}: {}", bytes::text(text))),
                    ..ErrorRecord::new(ErrorSource::EdacCounter)
                };
                record.location.imc = Some(mc);
                let detail = format!("{:?} is no count", bytes::text(text));
                let kind = ProblemKind::Malformed;
                record.problems.push(Problem { offset: 0, kind, detail });
                records.push(record);
            }
        }
    }

    /// What is known of the controller.
    fn describe(&self, record: &mut ErrorRecord) {
        let text = |file: &str| self.files.get(file).map(|text| bytes::text(text));
        record.details.add_some("mc_name", text("mc_name"));
        record.details.add_some("size_mb", counter(&self.files, "size_mb"));
        record.details.add_some("seconds_since_reset", counter(&self.files, "seconds_since_reset"));
    }
}

fn counter(files: &Files<'_>, file: &str) -> Option<u64> {
    whole_number(files.get(file)?)
}

fn number(files: &Files<'_>, file: &str) -> u64 {
    counter(files, file).unwrap_or(0)
}

fn label_of(label: Option<&[u8]>, record: &mut ErrorRecord) {
    record.location.fru =
        label.map(bytes::text).filter(|label| !label.is_empty()).map(SmolStr::from);
}

/// `dimm_location` is `channel 0 slot 1`, `csrow 3 channel 0`.
fn module(files: &Files<'_>, record: &mut ErrorRecord) {
    label_of(files.get("dimm_label").copied(), record);
    if let Some(place) = files.get("dimm_location") {
        let place = bytes::text(place);
        let mut words = place.split_whitespace();
        let mut pairs = String::new();
        while let (Some(layer), Some(number)) = (words.next(), words.next()) {
            pairs.push_str(&format!("{layer}:{number} "));
        }
        edac_detail::take(&pairs, record);
    }
    for (file, name) in [
        ("dimm_mem_type", "mem_type"),
        ("dimm_edac_mode", "edac_mode"),
        ("dimm_dev_type", "dev_type"),
    ] {
        record.details.add_some(name, files.get(file).map(|text| bytes::text(text)));
    }
    record.details.add_some("module_size_mb", counter(files, "size"));
}

fn csrow(files: &Files<'_>, row: u16, record: &mut ErrorRecord) {
    record.details.add("csrow", row);
    for file in ["mem_type", "edac_mode", "dev_type"] {
        record.details.add_some(file, files.get(file).map(|text| bytes::text(text)));
    }
}

/// What tools print of the counters, and of the memory errors that `rasdaemon` stored.
///
/// `ras-mc-ctl --error-count`, `--summary` and `--errors` (their parts about memory controllers), and
/// `edac-util`.
#[derive(Debug, Default)]
pub struct EdacTools {
    /// The header of `--error-count` was seen: columns are corrected and uncorrected.
    counts: bool,
}

impl LineDecoder for EdacTools {
    fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>) {
        let line = line.get(..4096).unwrap_or(line).trim_ascii();
        let columns: [&[u8]; 3] = {
            let mut columns = line.rsplitn(3, |byte| *byte == b'\t').map(<[u8]>::trim_ascii);
            let mut next = || columns.next().unwrap_or_default();
            [next(), next(), next()]
        };
        let mut push = |record: ErrorRecord| found.push(Found::new(offset, record));
        if let [b"UE", b"CE", label] = columns
            && label.starts_with(b"Label")
        {
            self.counts = true;
        } else if let [uncorrected, corrected, label] = columns
            && self.counts
            && let (Some(corrected), Some(uncorrected)) =
                (whole_number(corrected), whole_number(uncorrected))
        {
            for (kind, count) in
                [(Counted::Corrected, corrected), (Counted::Uncorrected, uncorrected)]
            {
                if count > 0 {
                    let mut record = kind.record(count);
                    label_of(Some(label), &mut record);
                    push(complete(record, kind, count, bytes::text(line)));
                }
            }
        } else if let Some(record) = edac_util(line).or_else(|| summary(line)) {
            push(record);
        } else if let Some(record) = stored(line) {
            push(record);
        }
    }

    fn finish(&mut self, _found: &mut Vec<Found>) {}
}

/// `mc0: csrow2: CPU_SrcID#0_DIMM#0: 12 Corrected Errors`, `mc0: 3 Uncorrected Errors with no DIMM
/// info`.
fn edac_util(line: &[u8]) -> Option<ErrorRecord> {
    let (mc, rest) = decimal(line.strip_prefix(b"mc")?)?;
    let rest = rest.strip_prefix(b": ")?;
    let (place, counted) = match rsplit(rest, b": ") {
        Some((place, counted)) => (place, counted),
        None => (&b""[..], rest),
    };
    let (count, rest) = decimal(counted)?;
    let rest = rest.trim_ascii_start();
    let kind = if rest.starts_with(b"Corrected Error") {
        Counted::Corrected
    } else if rest.starts_with(b"Uncorrected Error") {
        Counted::Uncorrected
    } else {
        return None;
    };
    if count == 0 {
        return None;
    }
    let mut record = kind.record(count);
    record.location.imc = narrow(mc);
    for part in place.split(|byte| *byte == b':').map(<[u8]>::trim_ascii) {
        let number = |name: &[u8]| part.strip_prefix(name).and_then(whole_number);
        if let Some(row) = number(b"csrow") {
            record.details.add("csrow", row);
        } else if let Some(channel) = number(b"ch") {
            record.location.channel = narrow(channel);
        } else if !part.is_empty() {
            label_of(Some(part), &mut record);
        }
    }
    Some(complete(record, kind, count, bytes::text(line)))
}

/// `Corrected on DIMM Label(s): 'A1' location: 0:1:0:-1 errors: 12`.
fn summary(line: &[u8]) -> Option<ErrorRecord> {
    let (kind, rest) = split(line, b" on DIMM Label(s): '")?;
    let (label, rest) = rsplit(rest, b"' location: ")?;
    let (place, count) = split(rest, b" errors: ")?;
    let count = whole_number(count).filter(|count| *count > 0)?;
    let counted = match kind {
        b"Corrected" => Counted::Corrected,
        _ => Counted::Uncorrected,
    };
    let mut record = counted.record(count);
    match kind {
        b"Corrected" | b"Uncorrected" => {}
        b"Deferred" => {
            record.severity = Severity::Deferred;
            record.severity_reason = "EDAC reported them as deferred".into();
        }
        b"Fatal" => {
            record.severity = Severity::Fatal;
            record.severity_reason = "EDAC reported them as fatal".into();
        }
        _ => {
            record.severity = Severity::Unknown;
            record.severity_reason = "they are counted under a name that is not known".into();
        }
    }
    label_of(Some(label), &mut record);
    let (mc, layers) = place_of(place)?;
    record.location.imc = mc;
    record.details.add("layers", layers);
    record.details.add("error_type", bytes::text(kind));
    Some(complete(record, counted, count, bytes::text(line)))
}

/// `0:1:0:-1`: the controller, and the place in its driver's layers.
fn place_of(text: &[u8]) -> Option<(Option<u16>, ras_core::Value)> {
    let text = bytes::text(text);
    let (mc, layers) = text.split_once(':')?;
    let layers = layers.split(':').map(|layer| layer.parse().ok().map(ras_core::Value::Signed));
    Some((mc.parse().ok(), ras_core::Value::List(layers.collect::<Option<_>>()?)))
}

/// `12 2022-02-11 22:34:40 +0100 1 Corrected error(s): memory read error at A1 location: 0:0:1:-1, addr
/// 0, grain 5, syndrome 0 driver's detail`.
fn stored(line: &[u8]) -> Option<ErrorRecord> {
    let (head, rest) = split(line, b" error(s): ")?;
    let (message, rest) =
        rsplit(rest, b" at ").filter(|(_, rest)| bytes::find(rest, b" location: ").is_some())?;
    let (label, rest) = split(rest, b" location: ")?;
    let (place, rest) = split(rest, b", addr ")?;
    let (address, rest) = bytes::number(rest)?;
    let (grain, rest) = bytes::number(rest.strip_prefix(b", grain ")?)?;
    let (syndrome, detail) = bytes::number(rest.strip_prefix(b", syndrome ")?)?;
    let (head, kind) = rsplit(head, b" ")?;
    let (head, count) = rsplit(head, b" ")?;
    let (id, date) = word(head);
    let place = bytes::text(place);
    let mut numbers = place.split(':').map(|number| number.parse::<i64>().unwrap_or(-1));
    let mut next = || numbers.next().unwrap_or(-1);
    let mc = next();
    let options = super::kernel_log::Options::default();
    let time = super::kernel_log::prefix::parse(date, &options).stamp.time;
    let event = McEvent {
        error_type: match kind {
            b"Corrected" => 0,
            b"Uncorrected" => 1,
            b"Deferred" => 2,
            b"Fatal" => 3,
            b"Info" => 4,
            _ => u64::MAX,
        },
        count: decimal(count).and_then(|(count, _)| narrow(count))?,
        message: bytes::text(message),
        label: bytes::text(label),
        mc_index: u16::try_from(mc).unwrap_or(u16::MAX),
        layers: [next(), next(), next()],
        address,
        grain_bits: u8::try_from(grain).unwrap_or(63),
        syndrome,
        driver_detail: bytes::text(detail),
    };
    let mut record = ErrorRecord::from(event);
    record.source = ErrorSource::Rasdaemon;
    record.time = time;
    record.details.add("id", bytes::text(id));
    record.raw = Raw::Text(bytes::text(line));
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &str) -> Vec<ErrorRecord> {
        let mut tools = EdacTools::default();
        let mut found = Vec::new();
        text.split('\n').for_each(|line| tools.line(line.as_bytes(), 0, &mut found));
        found.into_iter().map(|found| *found.record).collect()
    }

    fn read(files: &[(&str, &str)]) -> Vec<ErrorRecord> {
        tree(files.iter().map(|(path, text)| (*path, text.as_bytes())))
    }

    #[test]
    fn modules_and_what_is_counted_beside_them() {
        let records = read(&[
            ("/sys/devices/system/edac/mc/mc1/mc_name", "Skylake Socket#0 IMC#1\n"),
            ("/sys/devices/system/edac/mc/mc1/ce_count", "15\n"),
            ("/sys/devices/system/edac/mc/mc1/ce_noinfo_count", "2\n"),
            ("/sys/devices/system/edac/mc/mc1/ue_count", "1\n"),
            ("/sys/devices/system/edac/mc/mc1/csrow0/ce_count", "12\n"),
            ("/sys/devices/system/edac/mc/mc1/dimm3/dimm_ce_count", "12\n"),
            ("/sys/devices/system/edac/mc/mc1/dimm3/dimm_ue_count", "1\n"),
            ("/sys/devices/system/edac/mc/mc1/dimm3/dimm_label", "DIMM_B1\n"),
            ("/sys/devices/system/edac/mc/mc1/dimm3/dimm_location", "channel 1 slot 0 \n"),
            ("/sys/devices/system/edac/mc/mc1/dimm4/dimm_ce_count", "0\n"),
        ]);
        let seen: Vec<_> =
            records.iter().map(|r| (r.severity, r.count, r.location.fru.as_deref())).collect();
        assert_eq!(
            seen,
            [
                (Severity::Corrected, 12, Some("DIMM_B1")),
                (Severity::Corrected, 2, None),
                (Severity::Corrected, 1, None),
                (Severity::Srao, 1, Some("DIMM_B1")),
            ]
        );
        assert_eq!(records[0].location.channel, Some(1));
        assert_eq!(records[0].location.dimm.module, Some(0));
        assert_eq!(records[0].location.imc, Some(1));
        assert!(records[0].details.iter().any(|detail| detail.name == "mc_name"));
    }

    #[test]
    fn csrows_of_older_kernels() {
        let records = read(&[
            ("mc/mc0/ce_count", "7"),
            ("mc/mc0/csrow2/ce_count", "7"),
            ("mc/mc0/csrow2/ch0_ce_count", "3"),
            ("mc/mc0/csrow2/ch1_ce_count", "4"),
            ("mc/mc0/csrow2/ch1_dimm_label", "A2"),
            ("mc/mc0/csrow2/ue_count", "x"),
        ]);
        let seen: Vec<_> = records.iter().map(|r| (r.count, r.location.channel)).collect();
        assert_eq!(seen, [(3, Some(0)), (4, Some(1)), (1, None)]);
        assert_eq!(records[1].location.fru.as_deref(), Some("A2"));
        assert_eq!(records[2].problems[0].kind, ProblemKind::Malformed);
    }

    #[test]
    fn what_the_tools_print() {
        let records =
            lines("Label                         \tCE\tUE\nDIMM_A1\t0\t0\nDIMM_B1\t5539\t2\n");
        let seen: Vec<_> = records.iter().map(|r| (r.severity, r.count)).collect();
        assert_eq!(seen, [(Severity::Corrected, 5539), (Severity::Srao, 2)]);
        assert_eq!(records[0].location.fru.as_deref(), Some("DIMM_B1"));
        assert!(lines("DIMM_B1\t5539\t2").is_empty(), "no header, no counters");

        let records = lines(
            "mc0: 0 Uncorrected Errors with no DIMM info\nmc0: 3 Corrected Errors with no DIMM info\n\
             mc0: csrow2: DIMM_A1: 12 Corrected Errors\nmc0: csrow2: ch1: 4 Uncorrected Errors\n",
        );
        let seen: Vec<_> = records.iter().map(|r| (r.count, r.location.channel)).collect();
        assert_eq!(seen, [(3, None), (12, None), (4, Some(1))]);

        let records = lines(
            "Memory controller events summary:\n\tCorrected on DIMM Label(s): 'A1' location: 0:1:0:-1 errors: 12\n\
             7 2023-11-14 22:13:20 +0000 2 Corrected error(s): memory read error at DIMM A1 location: 1:0:1:-1, \
             addr 1193046, grain 5, syndrome 0 err_code:0101:0091 socket:1 rank:0\n",
        );
        assert_eq!((records[0].count, records[0].location.imc), (12, Some(0)));
        assert_eq!((records[1].count, records[1].location.socket), (2, Some(1)));
        assert_eq!(records[1].time, Some(ras_core::Timestamp::from_secs(1_700_000_000)));
        assert_eq!(records[1].address.map(|at| at.addr.0), Some(0x12_3440));
    }

    proptest! {
        #[test]
        fn any_tree_and_any_line_are_read_or_passed_over(
            path in "(mc/)?mc[0-9]{1,6}(/(dimm|csrow|rank)[0-9]{1,6})?/(dimm_)?(ch1_)?[cu]e_count",
            text in ".{0,12}|[0-9]{1,22}", line in "(mc0: )?[A-Za-z0-9:'\t ]{0,80}",
        ) {
            for record in read(&[(&path, &text)]) {
                prop_assert!(record.count >= 1);
            }
            lines(&format!("Label\tCE\tUE\n{line}"));
        }
    }
}
