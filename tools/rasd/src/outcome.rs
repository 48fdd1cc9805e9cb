//! What came of a walk, in a word and in a line.

use ras_core::{Fault, GuestOutcome, GuestResult, HostOutcome, WalkOutcome};

/// Whether no guest is left with the bad page: each gave it up, or the host moved the contents to a
/// healthy page before anything was lost. The same rule as `ras_core::escalate`'s.
#[must_use]
pub fn are_guests_freed(fault: &Fault, outcome: &WalkOutcome) -> bool {
    let moved_away = !fault.loses_data() && outcome.host.is_offline();
    moved_away || outcome.guests.iter().all(is_freed)
}

/// Whether this guest gave the page up.
#[must_use]
pub fn is_freed(guest: &GuestOutcome) -> bool {
    matches!(guest.result, GuestResult::Replaced | GuestResult::Unplugged)
}

/// Everybody's answer in one line, as it is stored and shown.
#[must_use]
pub fn describe(host: &HostOutcome, guests: &[GuestOutcome]) -> String {
    let mut line = format!("host: {host}");
    for GuestOutcome { guest, gpa, result } in guests {
        line += &match result {
            GuestResult::Replaced => format!("; {guest}: other frame behind {gpa}"),
            GuestResult::Unplugged => format!("; {guest}: unplugged {gpa}"),
            GuestResult::Refused { detail } => format!("; {guest}: kept {gpa}: {detail}"),
            GuestResult::Unreachable { detail } => format!("; {guest}: no answer: {detail}"),
        };
    }
    line
}

/// Whether `line` says that the host kernel would not let go of the page.
#[must_use]
pub fn was_busy(line: &str) -> bool {
    line.starts_with("host: busy")
}

/// Whether `line` says that the page was not in the memory map of an earlier boot.
#[must_use]
pub fn was_excluded(line: &str) -> bool {
    line.starts_with("host: excluded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::Gpa;

    #[test]
    fn a_line_says_who_answered_what() {
        let guests = [
            (GuestResult::Unplugged, Gpa(0x20_0000)),
            (GuestResult::Refused { detail: "not virtio-mem".into() }, Gpa(0x1000)),
        ]
        .map(|(result, gpa)| GuestOutcome { guest: "vm1".into(), gpa, result });
        let line = describe(&HostOutcome::Busy { attempts: 5 }, &guests);
        assert_eq!(
            line,
            "host: busy after 5 attempts; vm1: unplugged 0x200000; vm1: kept 0x1000: not virtio-mem"
        );
        let excluded = HostOutcome::Excluded { by: "unusable memory".into() };
        assert!(was_excluded(&describe(&excluded, &[])) && !was_excluded(&line));
        assert!(was_busy(&line) && !was_busy(&describe(&HostOutcome::Offlined, &[])));
    }
}
