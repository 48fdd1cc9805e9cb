//! Severities: Linux' grade against ours.
//!
//! Linux grades what it will do in the context it was interrupted in, we grade the error. So a grade
//! is compared as a set of ours that it allows, and where the context decided, a rule says so.

use mce_decoder::mca::status::MciStatus;
use ras_core::{McaRegisters, Severity};
use serde_json::Value;

use super::{Case, Fact, at, number, observe};

const LINUX: &str = "linux";

/// A case of which the grade is the whole point.
pub(super) fn facts(case: &Case) -> Vec<Fact> {
    if let Some(script) = case.input.get("mce_inject_script").and_then(Value::as_str) {
        return of_script(case, script).into_iter().collect();
    }
    let registers = case.input.get("fields").and_then(observe::registers);
    of_linux(case, registers.as_ref())
}

/// The grade that Linux gave, if the case has one.
pub(super) fn of_linux(case: &Case, ours: Option<&McaRegisters>) -> Vec<Fact> {
    let linux = |name: &str| {
        at(&case.expected, &["linux-6.12.117", name]).and_then(Value::as_str).unwrap_or_default()
    };
    let grade = linux("severity");
    let allowed: &[Severity] = match grade {
        "NO" => &[Severity::Informational],
        "KEEP" => &[Severity::Corrected, Severity::Informational],
        "DEFERRED_OR_UCNA" => &[Severity::Ucna, Severity::Deferred],
        "AO" => &[Severity::Srao],
        "SOME" => &[Severity::Srao, Severity::Ucna],
        "AR" => &[Severity::Srar],
        "UC" => &[Severity::Srar, Severity::Srao],
        "PANIC" => &[Severity::Fatal],
        _ => return Vec::new(),
    };
    let rule = match linux("rule") {
        "" => linux("msg"),
        rule => rule,
    };
    let severity = ours.map(|registers| mce_decoder::mca::explain(registers).severity);
    // Agreement is membership: our own grade stands for the set.
    let shown = match severity {
        Some(severity) if allowed.contains(&severity) => grade.to_owned(),
        Some(severity) => severity.name().to_owned(),
        None => return vec![Fact::new("severity", vec![(LINUX, grade.to_owned())], None)],
    };
    let mut fact =
        Fact::new(format!("severity ({rule})"), vec![(LINUX, grade.to_owned())], Some(shown));
    fact.peer_wrong = context(rule, grade, case);
    vec![fact]
}

/// Rules of Linux' that grade its own situation, not the error. `tests/CORPUS.md` explains each.
fn context(rule: &str, grade: &str, case: &Case) -> Option<&'static str> {
    let field = |name: &str| at(&case.input, &["fields", name]).and_then(number);
    let kernel = field("cs").is_some_and(|cs| cs & 3 == 0);
    if field("excp") == Some(0) && field("mcgstatus").is_some_and(|status| status & 4 != 0) {
        return Some(
            "the case is a poll with MCIP=1, which can't occur: Linux and we believe one each",
        );
    }
    if field("ser") == Some(0) && rule == "Uncorrected" {
        return Some(
            "without software recovery the SDM lets nothing go on after an uncorrected #MC",
        );
    }
    match rule {
        "No match" => Some("UC=0 with S=1 is undefined: Linux finds no rule, we go by UC"),
        "In kernel and no restart IP"
        | "Uncorrected in kernel"
        | "Data load in unrecoverable area of kernel"
        | "Instruction fetch error in kernel"
        | "Uncorrected unrecoverable error in kernel context" => Some(
            "Linux panics because it was interrupted in the kernel; the error itself is recoverable",
        ),
        "MCIP not set in MCA handler" => {
            Some("Linux checks its own handler's state (MCIP), not the error")
        }
        "Not enabled" => {
            Some("Linux ignores what did not cause the exception (EN=0); data is lost all the same")
        }
        "Non signaled machine check" => {
            Some("Linux grades how it was noticed (EN=0, polled), not the error")
        }
        "Action required but unaffected thread is continuable" => {
            Some("Linux keeps the unaffected thread running; the error is still action required")
        }
        _ if kernel && grade == "PANIC" => Some(
            "Linux panics because it was interrupted in the kernel; the error itself is recoverable",
        ),
        _ => None,
    }
}

/// mce-inject's language: `STATUS UNCORRECTED SRAO 0x17a`, `MCGSTATUS RIPV MCIP`.
fn of_script(case: &Case, script: &str) -> Option<Fact> {
    let group = case.expected.get("upstream_group")?.as_str()?;
    let allowed: &[Severity] = match group {
        "panic" | "panic_ucr" | "panic_npcc" | "panic_noser" => &[Severity::Fatal],
        "recoverable_ucr" => &[Severity::Srao, Severity::Srar, Severity::Ucna],
        "poll_ucr" => &[Severity::Ucna, Severity::Srao],
        "non-panic" | "mce-inject" => {
            &[Severity::Corrected, Severity::Ucna, Severity::Srao, Severity::Srar, Severity::Fatal]
        }
        _ => return None,
    };
    let registers = parse(script, group == "panic_noser");
    let severity = mce_decoder::mca::explain(&registers).severity;
    let shown = if allowed.contains(&severity) { group } else { severity.name() };
    let mut fact =
        Fact::new("disposition", vec![(LINUX, group.to_owned())], Some(shown.to_owned()));
    let kernel = registers.cs != 0 && registers.cs & 3 == 0;
    let status = MciStatus::from_bits(registers.status);
    fact.peer_wrong = if !status.val() {
        Some("Linux panics because no bank explains the exception; this bank holds no error")
    } else if !status.en() && status.uc() {
        Some("Linux panics because no bank explains the exception; EN=0 did not cause it")
    } else if status.pcc() && group == "poll_ucr" {
        Some("a poll only logs PCC=1; the error is fatal all the same")
    } else {
        None
    };
    if kernel && allowed == [Severity::Fatal] {
        fact.peer_wrong = Some(
            "Linux panics because it was interrupted in the kernel; the error itself is recoverable",
        );
    }
    Some(fact)
}

fn parse(script: &str, without_recovery: bool) -> McaRegisters {
    const BITS: &[(&str, u64)] = &[
        ("VAL", 1 << 63),
        ("OVER", 1 << 62),
        ("UC", 1 << 61),
        ("EN", 1 << 60),
        ("PCC", 1 << 57),
        ("S", 1 << 56),
        ("AR", 1 << 55),
        // What mce-inject's words stand for (its `mce.lex`).
        ("CORRECTED", 1 << 63),
        ("UNCORRECTED", 1 << 63 | 1 << 61 | 1 << 60),
        ("FATAL", 1 << 63 | 1 << 61 | 1 << 60 | 1 << 57),
        ("UCNA", 0),
        ("SRAO", 1 << 56),
        ("SRAR", 1 << 56 | 1 << 55),
    ];
    const MCG: &[(&str, u64)] = &[("RIPV", 1), ("EIPV", 2), ("MCIP", 4)];
    let value = |words: &str, table: &[(&str, u64)]| {
        words.split_whitespace().fold(0, |value, word| {
            let named = table.iter().find(|(name, _)| *name == word).map(|(_, bits)| *bits);
            let digits = word.strip_prefix("0x").unwrap_or(word);
            value | named.or_else(|| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
        })
    };
    let mut registers = McaRegisters {
        vendor: ras_core::CpuVendor::Intel,
        // Any processor with, or without, software recovery.
        cpuid: 0x206f0,
        mcg_cap: if without_recovery { 9 } else { 1 << 24 | 9 },
        ..McaRegisters::default()
    };
    for line in script.lines() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            // The scripts have one error of interest; a second CPU only witnesses it.
            "CPU" if registers.status != 0 => break,
            "STATUS" => registers.status |= value(rest, BITS),
            "MCGSTATUS" => registers.mcg_status = value(rest, MCG),
            "ADDR" => {
                registers.addr = value(rest, &[]);
                registers.status |= 1 << 58;
            }
            "MISC" => {
                registers.misc = value(rest, &[]);
                registers.status |= 1 << 59;
            }
            "RIP" => {
                let (cs, _) = rest.split_once(':').unwrap_or(("0", ""));
                registers.cs = value(cs, &[]).to_le_bytes()[0];
            }
            _ => {}
        }
    }
    registers
}
