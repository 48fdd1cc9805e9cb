//! Machine-check registers as JSON lines: an object of registers, or one that holds such an object as
//! `mca`, as rasctl's own output does under `raw`.

use mce_decoder::mca::{self, Context};
use ras_core::{CpuVendor, McaRegisters, Problem, ProblemKind, Timestamp};
use serde_json::{Map, Value};

use super::lines;
use crate::input::Input;
use crate::read::{Options, Output, Stop};

/// The first object has a status, and says that it is a bank's.
pub(super) fn is_registers(text: &str) -> bool {
    let mut objects = text.lines().map(str::trim_start).filter(|line| !line.is_empty());
    objects.next().is_some_and(|line| {
        line.starts_with('{') && line.contains("\"status\"") && line.contains("\"bank\"")
    })
}

pub(super) fn read(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    while let Some(line) = input.line()? {
        if line.bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (number, offset) = (Some(line.number), line.offset);
        if line.cut {
            output.damage(number, lines::too_long(offset))?;
            continue;
        }
        let parsed = serde_json::from_slice::<Map<String, Value>>(line.bytes);
        match parsed.map_err(|error| error.to_string()).and_then(|object| registers(&object)) {
            Ok((mut registers, context)) => {
                if let Some(cpu) = options.cpu {
                    cpu.complete(&mut registers);
                }
                output.record(offset, number, mca::decode(&registers, context))?;
            }
            Err(detail) => {
                let kind = ProblemKind::Malformed;
                output.damage(number, Problem { offset, kind, detail })?;
            }
        }
    }
    Ok(())
}

/// One bank and where it was read. Names are those of the `mce` object of a capture; the kernel's own
/// spellings are taken too.
fn registers(object: &Map<String, Value>) -> Result<(McaRegisters, Context), String> {
    let raw = object.get("raw").and_then(Value::as_object).unwrap_or(object);
    let bank = raw.get("mca").or_else(|| raw.get("mce")).and_then(Value::as_object).unwrap_or(raw);
    let get = |names: &[&'static str]| {
        names.iter().find_map(|name| bank.get(*name).map(|value| (*name, value)))
    };
    let wide = |names: &[&'static str]| match get(names) {
        None => Ok(None),
        Some((name, value)) => {
            number(value).map(Some).ok_or(format!("{name} is no number of 64 bits: {value}"))
        }
    };
    let zero = |names: &[&'static str]| wide(names).map(Option::unwrap_or_default);
    let word = |names: &[&'static str]| {
        u32::try_from(zero(names)?).map_err(|_| format!("{} has more than 32 bits", names[0]))
    };
    let byte = |names: &[&'static str]| {
        u8::try_from(zero(names)?).map_err(|_| format!("{} has more than 8 bits", names[0]))
    };
    let registers = McaRegisters {
        vendor: get(&["vendor", "cpuvendor"]).map_or(Ok(NOT_SAID), |(_, value)| vendor(value))?,
        cpuid: word(&["cpuid"])?,
        bank: byte(&["bank"])?,
        mcg_cap: zero(&["mcg_cap", "mcgcap"])?,
        mcg_status: zero(&["mcg_status", "mcgstatus"])?,
        status: wide(&["status"])?.ok_or("no status")?,
        addr: zero(&["addr"])?,
        misc: zero(&["misc"])?,
        synd: zero(&["synd"])?,
        ipid: zero(&["ipid"])?,
        synd1: zero(&["synd1"])?,
        synd2: zero(&["synd2"])?,
        config: zero(&["config"])?,
        destat: zero(&["destat"])?,
        deaddr: zero(&["deaddr"])?,
        ip: zero(&["ip"])?,
        cs: byte(&["cs"])?,
        tsc: zero(&["tsc"])?,
        ppin: zero(&["ppin"])?,
        apic_id: word(&["apic_id", "apicid"])?,
        microcode: word(&["microcode"])?,
    };
    let place = object.get("location").and_then(Value::as_object).unwrap_or(bank);
    let place = |names: &[&str]| {
        let value = names.iter().find_map(|name| place.get(*name).and_then(number));
        value.and_then(|value| u32::try_from(value).ok())
    };
    let seconds = wide(&["time"]).ok().flatten().filter(|seconds| *seconds != 0);
    let written = object.get("time").and_then(Value::as_str).and_then(rfc3339);
    let context = Context {
        time: written.or(seconds.map(Timestamp::from_secs)),
        cpu: place(&["cpu", "extcpu"]),
        socket: place(&["socket", "socketid"]),
    };
    Ok((registers, context))
}

/// The maker of a bank whose source names none.
const NOT_SAID: CpuVendor = CpuVendor::Unknown(0xff);

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    }
}

/// A name, or the kernel's number.
fn vendor(value: &Value) -> Result<CpuVendor, String> {
    if let Some(number) = value.as_u64().and_then(|number| u8::try_from(number).ok()) {
        return Ok(mce_decoder::trace::mce_record::vendor(number));
    }
    Ok(match value.as_str().unwrap_or_default() {
        "intel" => CpuVendor::Intel,
        "amd" => CpuVendor::Amd,
        "hygon" => CpuVendor::Hygon,
        "zhaoxin" => CpuVendor::Zhaoxin,
        "unknown" => NOT_SAID,
        _ => return Err(format!("nobody knows vendor {value}")),
    })
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(McaRegisters, Context), String> {
        registers(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn every_spelling_is_read() {
        let plain = r#"{"vendor":"intel","cpuid":"0x50654","bank":"0x9","status":"0xbd000000000000c0",
                        "mcgstatus":5,"cpu":"3","socketid":1}"#;
        let (found, context) = parse(plain).unwrap();
        assert_eq!((found.bank, found.status, found.mcg_status), (9, 0xbd00_0000_0000_00c0, 5));
        assert_eq!((context.cpu, context.socket), (Some(3), Some(1)));
        let (found, _) = parse(r#"{"mce":{"cpuvendor":2,"bank":1,"status":1}}"#).unwrap();
        assert_eq!((found.vendor, found.bank), (CpuVendor::Amd, 1));
        for (wrong, says) in [
            ("{}", "no status"),
            (r#"{"status":-1}"#, "status is no number of 64 bits: -1"),
            (r#"{"status":1,"bank":256}"#, "bank has more than 8 bits"),
            (r#"{"status":1,"vendor":"acme"}"#, "nobody knows vendor \"acme\""),
        ] {
            assert_eq!(parse(wrong).unwrap_err(), says);
        }
    }

    #[test]
    fn rasctls_own_output_comes_back() {
        let registers = McaRegisters {
            vendor: CpuVendor::Amd,
            cpuid: 0xa0_0f11,
            bank: 17,
            status: 0x9c20_4000_0000_011b,
            addr: u64::MAX,
            ipid: 0x96_0005_0f00,
            synd2: 7,
            ..McaRegisters::default()
        };
        let time = Some(Timestamp(1_700_000_000_123_456_789));
        let context = Context { time, cpu: Some(2), socket: None };
        let record = mca::decode(&registers, context);
        let mut json = Vec::new();
        crate::json::record(&record, &mut json);
        let (again, context) = parse(std::str::from_utf8(&json).unwrap()).unwrap();
        assert_eq!(again, registers);
        assert_eq!(mca::decode(&again, context), record);
    }
}
