//! Machine checks: registers read from text, architectural codes, model-specific meanings, places.
//!
//! Peers speak prose. What can be compared is taken out of it: channels, ranks, rows, counts, and
//! whether a peer knows a meaning for the model-specific code at all.

use mce_decoder::mca::status::CpuSignature;
use ras_core::{CpuVendor, ErrorClass, McaRegisters, Raw};
use serde_json::Value;

use super::{Case, Fact, at, number, observe, severity};

const MCELOG: &str = "mcelog";
const RASDAEMON: &str = "rasdaemon";

pub(super) fn facts(case: &Case) -> Vec<Fact> {
    let records = observe::case_records(case);
    let record = records.iter().find(|record| matches!(record.raw, Raw::Mca(_)));
    let ours = record.and_then(|record| match &record.raw {
        Raw::Mca(registers) => Some(registers),
        _ => None,
    });
    let mut facts = Vec::new();
    if let Some(fields) = case.input.get("fields") {
        facts.extend(registers(fields, ours));
    }
    facts.extend(bits(case.expected.get("facts"), ours));
    let peers = Peers::of(case);
    let json = record.map(observe::json).unwrap_or_default();
    facts.extend(places(&peers, &json, ours));
    facts.extend(code(&peers, record.map(|record| record.class)));
    facts.extend(meaning(case, &peers, &json));
    facts.extend(severity::of_linux(case, ours));
    facts
}

/// The registers in the text are those the case was made of.
fn registers(fields: &Value, ours: Option<&McaRegisters>) -> Vec<Fact> {
    let ours = |name: &str| {
        let registers = ours?;
        Some(match name {
            "bank" => registers.bank.into(),
            "status" => registers.status,
            "mcgstatus" => registers.mcg_status,
            "addr" => registers.addr,
            "misc" => registers.misc,
            "synd" => registers.synd,
            "ipid" => registers.ipid,
            _ => registers.cpuid.into(),
        })
    };
    ["bank", "status", "mcgstatus", "addr", "misc", "synd", "ipid", "cpuid"]
        .into_iter()
        .filter_map(|name| {
            let value = fields.get(name).and_then(number)?;
            let shown = |value: u64| format!("{value:#x}");
            Some(Fact::new(name, vec![("input", shown(value))], ours(name).map(shown)))
        })
        .collect()
}

/// The status word taken apart.
fn bits(expected: Option<&Value>, ours: Option<&McaRegisters>) -> Vec<Fact> {
    let Some(Value::Object(expected)) = expected else { return Vec::new() };
    let bit = |name: &str| {
        let status = ours?.status;
        let bit = |index: u32| Value::Bool(status >> index & 1 == 1);
        Some(match name {
            "val" => bit(63),
            "over" => bit(62),
            "uc" => bit(61),
            "en" => bit(60),
            "miscv" => bit(59),
            "addrv" => bit(58),
            "pcc" => bit(57),
            "mscod" => (status >> 16 & 0xffff).into(),
            "mcacod" => (status & 0xffff).into(),
            _ => return None,
        })
    };
    expected
        .iter()
        .map(|(name, value)| {
            let ours = bit(name).map(|value| value.to_string());
            Fact::new(name.clone(), vec![("facts", value.to_string())], ours)
        })
        .collect()
}

/// What the peers print, as text to look into.
struct Peers {
    mcelog: Vec<String>,
    rasdaemon: String,
    /// rasdaemon's own words for the model-specific part.
    rasdaemon_error: String,
}

impl Peers {
    fn of(case: &Case) -> Self {
        let lines = at(&case.expected, &["mcelog-2965a54", "lines"]).and_then(Value::as_array);
        let line = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let text = |name: &str| {
            let value = at(&case.expected, &["rasdaemon-0.8.5", name]);
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Self {
            mcelog: lines.into_iter().flatten().map(line).collect(),
            rasdaemon: ["mc_location", "mcastatus_msg", "error_msg"].map(text).join(" "),
            rasdaemon_error: text("error_msg"),
        }
    }

    /// The number behind `key` in mcelog's lines.
    fn mcelog(&self, key: &str) -> Option<u64> {
        self.mcelog.iter().find_map(|line| behind(line, key))
    }

    fn rasdaemon(&self, key: &str) -> Option<u64> {
        behind(&self.rasdaemon, key)
    }
}

/// The number that follows `key` at the start of a word of `text`: decimal, or `0x…`.
fn behind(text: &str, key: &str) -> Option<u64> {
    let at = text.match_indices(key).map(|(at, _)| at).find(|at| {
        text[..*at]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric() && before != '_')
    })?;
    let rest = text[at + key.len()..].trim_start();
    let digits = rest.strip_prefix("0x").unwrap_or(rest);
    let radix = if digits.len() < rest.len() { 16 } else { 10 };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], radix).ok()
}

/// A place in memory, and how each tells it.
struct Place {
    name: &'static str,
    mcelog: Option<&'static str>,
    rasdaemon: Option<&'static str>,
    ours: &'static [&'static str],
}

const fn place(
    name: &'static str,
    mcelog: Option<&'static str>,
    rasdaemon: Option<&'static str>,
    ours: &'static [&'static str],
) -> Place {
    Place { name, mcelog, rasdaemon, ours }
}

const PLACES: &[Place] = &[
    place(
        "channel",
        Some("Memory channel ID of error:"),
        Some("channel="),
        &["location", "channel"],
    ),
    place("channel", None, Some("memory_channel="), &["location", "channel"]),
    place("rank", Some("rank:"), None, &["location", "dimm", "rank"]),
    place("bank group", Some("bankgroup:"), None, &["location", "dimm", "bank_group"]),
    place("bank", Some("bank:"), None, &["location", "dimm", "bank"]),
    place("row", Some("row:"), None, &["location", "dimm", "row"]),
    place("column", Some("column:"), None, &["location", "dimm", "column"]),
    place("device", Some("failed device:"), None, &["location", "dimm", "device"]),
    place("dimm", Some("Memory DIMM ID of error:"), Some("dimm="), &["location", "dimm", "module"]),
];

/// Where peers misread the registers of a model. `tests/CORPUS.md` has the reasons in full.
fn misread(name: &str, registers: Option<&McaRegisters>) -> Option<&'static str> {
    let registers = registers?;
    let cpu = CpuSignature::from_bits(registers.cpuid);
    let intel = registers.vendor == CpuVendor::Intel;
    let miscv = registers.status >> 59 & 1 == 1;
    match (cpu.family(), cpu.model()) {
        (6, 0x8f | 0xcf) if intel && name != "channel" && name != "count" => Some(match miscv {
            true => "mcelog reads the row of Sapphire Rapids' MISC up into its bank group",
            false => "mcelog reads places from a MISC that is not valid (MISCV=0)",
        }),
        (6, _) if intel && name == "channel" => Some(
            "bank and MCACOD of a made-up case name different channels, or rasdaemon counts over \
             controllers",
        ),
        (15, 6) if intel && name == "count" => {
            Some("mcelog takes Tulsa's events since cold reset for errors of this report")
        }
        _ if !intel && name == "channel" => {
            Some("rasdaemon names a unit for a HWID it does not know")
        }
        _ => None,
    }
}

fn places(peers: &Peers, ours: &Value, registers: Option<&McaRegisters>) -> Vec<Fact> {
    let mut facts = Vec::new();
    for Place { name, mcelog, rasdaemon, ours: path } in PLACES {
        let mut said = Vec::new();
        if let Some(value) = mcelog.and_then(|key| peers.mcelog(key)) {
            said.push((MCELOG, value.to_string()));
        }
        if let Some(value) = rasdaemon.and_then(|key| peers.rasdaemon(key)) {
            said.push((RASDAEMON, value.to_string()));
        }
        if !said.is_empty() {
            let mut fact = Fact::new(*name, said, at(ours, path).map(ToString::to_string));
            fact.peer_wrong = misread(name, registers);
            facts.push(fact);
        }
    }
    if let Some(count) =
        peers.mcelog("(CORE_ERR_CNT):").or_else(|| peers.mcelog("Corrected events:"))
    {
        let ours = ours.get("count").map(ToString::to_string);
        // A count of none is one error all the same: the one that is reported.
        let mut fact = Fact::new("count", vec![(MCELOG, count.max(1).to_string())], ours);
        fact.peer_wrong = misread("count", registers);
        facts.push(fact);
    }
    facts
}

/// The architectural code: what kind of hardware, and the channel in it.
fn code(peers: &Peers, ours: Option<ErrorClass>) -> Vec<Fact> {
    let class = |text: &str| {
        Some(match text.split_whitespace().next()? {
            "BUS" => "bus",
            "MEMORY" => "memory",
            "Internal" | "Unclassified" | "SMM" | "Microcode" | "FRC" => "internal",
            "IO" => "bus",
            "Data" | "Instruction" | "Generic" if text.contains("CACHE") => "cache",
            "Data" | "Instruction" | "Generic" if text.contains("TLB") => "tlb",
            _ => return None,
        })
    };
    let mut facts = Vec::new();
    let mca = peers.mcelog.iter().find_map(|line| line.strip_prefix("MCA: "));
    if let Some(expected) = mca.and_then(class) {
        // The model may know better than the code: then the class is the model's.
        let ours = ours.map(|class| class.name().to_owned());
        let ours = match ours.as_deref() {
            Some("memory" | "bus" | "internal" | "cache" | "tlb") | None => ours,
            Some(_) => Some(expected.to_owned()),
        };
        facts.push(Fact::new("class", vec![(MCELOG, expected.to_owned())], ours));
    }
    facts
}

/// rasdaemon's words without those for an architectural memory controller code, which say nothing of the
/// model.
fn model_specific(said: &str) -> &str {
    const REQUESTS: [&str; 5] = [
        "Generic undefined request",
        "Memory read error",
        "Memory write error",
        "Address/Command error",
        "Memory scrubbing error",
    ];
    let Some(rest) = said.strip_prefix("MEMORY CONTROLLER ") else { return said };
    let Some((_, rest)) = rest.split_once("_ERR Transaction: ") else { return said };
    REQUESTS.iter().find_map(|request| rest.strip_prefix(request)).map_or(said, str::trim)
}

/// Nehalem-EX and Westmere-EX: QuickPath, and no front-side bus.
fn without_bus(case: &Case) -> bool {
    let cpuid = at(&case.input, &["fields", "cpuid"]).and_then(number).unwrap_or(0);
    matches!(cpuid >> 4, 0x206e | 0x206f)
}

/// Whether a peer knows what the model-specific code means, and we do.
fn meaning(case: &Case, peers: &Peers, ours: &Value) -> Vec<Fact> {
    let known = |name: &str| at(ours, &["details", name]).is_some();
    let mut facts = Vec::new();
    let generic = ["", "Corrected Error.", "Uncorrected Error."];
    let vendor = at(&case.input, &["fields", "vendor"]).and_then(Value::as_str).unwrap_or("intel");
    let said = model_specific(peers.rasdaemon_error.trim());
    if vendor == "intel" && !generic.contains(&said) {
        let ours = (known("error") || known("unit")).then(|| "known".to_owned());
        let mut fact = Fact::new("model-specific meaning", vec![(RASDAEMON, "known".into())], ours);
        fact.peer_wrong = without_bus(case)
            .then_some("rasdaemon applies bits of the front-side bus to a processor without one");
        facts.push(fact);
    }
    let bank = at(&case.expected, &["rasdaemon-0.8.5", "bank_name"]).and_then(Value::as_str);
    if let Some(bank) = bank.filter(|bank| !bank.is_empty()) {
        let ours = known("unit").then(|| "known".to_owned());
        let mut fact = Fact::new(format!("unit ({bank})"), vec![(RASDAEMON, "known".into())], ours);
        // Linux prints a unit's name before its extended code, if it knows the pair of HWID and type.
        let linux = at(&case.expected, &["linux-6.12.117", "dmesg"]).and_then(Value::as_str);
        if linux.is_some_and(|text| !text.contains("Ext. Error Code")) {
            fact.peer_wrong = Some("rasdaemon names a unit for a HWID it does not know");
        }
        facts.push(fact);
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectural_words_are_no_model_s() {
        assert_eq!(
            model_specific("MEMORY CONTROLLER RD_CHANNEL1_ERR Transaction: Memory read error"),
            ""
        );
        let more = "MEMORY CONTROLLER MS_CHANNEL0_ERR Transaction: Memory scrubbing error patrol";
        assert_eq!(model_specific(more), "patrol");
        assert_eq!(model_specific("MCE driven"), "MCE driven");
    }

    #[test]
    fn numbers_are_found_behind_whole_words() {
        assert_eq!(behind("rank: 1 subrank: 2", "rank:"), Some(1));
        assert_eq!(behind("subrank: 2", "rank:"), None);
        assert_eq!(behind("bank: 0x1f bankgroup: 3", "bank:"), Some(0x1f));
        assert_eq!(behind("memory_channel=3,csrow=1", "memory_channel="), Some(3));
        assert_eq!(behind("memory_channel=-1", "memory_channel="), None);
    }
}
