//! A case's input through our decoders, as JSON.

use mce_decoder::text::{Found, LineDecoder, bgl, edac_sysfs, kernel_log, mcelog};
use mce_decoder::{Decoded, acpi, cper, mca, trace, whea};
use ras_core::{CpuVendor, ErrorRecord, McaRegisters};
use serde_json::{Value, json};

use super::{Case, number};

/// `{records, problems}`; `None` for a kind of input that is not bytes, text or registers.
pub(super) fn case(case: &Case) -> Option<Value> {
    let decoded = decoded(case)?;
    let problems: Vec<Value> = decoded
        .problems
        .iter()
        .map(|problem| json!({"offset": problem.offset, "detail": problem.detail}))
        .collect();
    let records: Vec<Value> = decoded.records.iter().map(json).collect();
    Some(json!({"records": records, "problems": problems}))
}

/// Only the records.
pub(super) fn case_records(case: &Case) -> Vec<ErrorRecord> {
    decoded(case).map_or_else(Vec::new, |decoded| decoded.records)
}

/// A record as `rasctl` prints it.
pub(super) fn json(record: &ErrorRecord) -> Value {
    let mut text = Vec::new();
    rasctl::json::record(record, &mut text);
    serde_json::from_slice(&text).unwrap_or_default()
}

fn decoded(case: &Case) -> Option<Decoded> {
    if let Some(hex) = case.input.get("hex").and_then(Value::as_str) {
        let bytes = bytes(hex)?;
        return Some(match bytes.get(..4)? {
            b"BERT" => acpi::decode_table(&bytes),
            b"WhLg" => whea::decode_raw(&bytes),
            _ => Decoded::sequence(&bytes, cper::decode_record),
        });
    }
    if let Some(text) = case.input.get("text").and_then(Value::as_str) {
        return Some(Decoded { records: lines(text), ..Decoded::default() });
    }
    let registers = registers(case.input.get("fields")?)?;
    Some(mca::decode(&registers, mca::Context::default()).into())
}

/// The records in a piece of text, by the decoder that makes most of it: the corpus does not say what
/// its texts are, and `rasctl` looks at more than a few lines before it decides.
fn lines(text: &str) -> Vec<ErrorRecord> {
    let decoders: [Box<dyn LineDecoder>; 5] = [
        Box::new(kernel_log::KernelLog::new(kernel_log::Options::default())),
        Box::new(mcelog::Mcelog::new(kernel_log::Options::default())),
        Box::new(edac_sysfs::EdacTools::default()),
        Box::new(bgl::BlueGene::default()),
        Box::new(trace::text::TraceText::default()),
    ];
    let found = decoders.into_iter().map(|mut decoder| feed(decoder.as_mut(), text));
    // The first of those that make the same of it.
    found.reduce(|best, next| if next.len() > best.len() { next } else { best }).unwrap_or_default()
}

fn feed(decoder: &mut dyn LineDecoder, text: &str) -> Vec<ErrorRecord> {
    let mut found: Vec<Found> = Vec::new();
    let mut offset = 0;
    for line in text.split('\n') {
        decoder.line(line.as_bytes(), offset, &mut found);
        offset += line.len() as u64 + 1;
    }
    decoder.finish(&mut found);
    found.into_iter().map(|found| *found.record).collect()
}

/// Registers as the corpus gives them, by name.
pub(super) fn registers(fields: &Value) -> Option<McaRegisters> {
    let get = |name: &str| fields.get(name).and_then(number).unwrap_or(0);
    let word = |name: &str| u32::try_from(get(name)).unwrap_or(0);
    let vendor = match fields.get("vendor")?.as_str()? {
        "intel" => CpuVendor::Intel,
        "amd" => CpuVendor::Amd,
        "hygon" => CpuVendor::Hygon,
        "zhaoxin" => CpuVendor::Zhaoxin,
        _ => return None,
    };
    // Some cases give family and model: CPUID leaf 1 puts them together.
    let (family, model) = (word("family"), word("model"));
    let cpuid = match word("cpuid") {
        0 => {
            let (base, extended) = if family > 15 { (15, family - 15) } else { (family, 0) };
            extended << 20 | (model >> 4 & 15) << 16 | base << 8 | (model & 15) << 4
        }
        cpuid => cpuid,
    };
    Some(McaRegisters {
        vendor,
        cpuid,
        bank: get("bank").to_le_bytes()[0],
        status: get("status"),
        mcg_status: get("mcgstatus"),
        addr: get("addr"),
        misc: get("misc"),
        synd: get("synd"),
        ipid: get("ipid"),
        cs: get("cs").to_le_bytes()[0],
        // `ser` says whether the processor has software recovery; one bank makes the register known.
        mcg_cap: match fields.get("ser").and_then(number) {
            Some(ser) => ser << 24 | 32,
            None => 0,
        },
        ..McaRegisters::default()
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).ok();
    digits.chunks_exact(2).map(byte).collect()
}
