//! A port to which a guest's kernel writes that it panicked. QEMU, `docs/specs/pvpanic.rst`.
//!
//! It has no state. Linux looks for it in ACPI's tables (`QEMU0001`), which this machine lacks: a guest
//! has to know the port.

/// The port.
pub const PORT: u16 = 0x505;

/// Bit 0: the guest panicked.
const PANICKED: u8 = 1 << 0;

/// Bit 1: the guest panicked, and its crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;

/// Bit 2: the guest wants to be shut down.
const SHUTDOWN: u8 = 1 << 2;

/// What the port reads as: the events that the machine knows.
pub const EVENTS: u8 = PANICKED | CRASH_LOADED | SHUTDOWN;

/// What a guest said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It panicked.
    Panicked,
    /// It panicked, and its crash kernel takes over.
    CrashLoaded,
    /// It wants to be shut down.
    Shutdown,
}

/// What a value written to the port says: one thing, the worst. Bits this machine does not offer say
/// nothing.
#[must_use]
pub fn event(value: u8) -> Option<Event> {
    let events = [
        (PANICKED, Event::Panicked),
        (CRASH_LOADED, Event::CrashLoaded),
        (SHUTDOWN, Event::Shutdown),
    ];
    events.into_iter().find(|(bit, _)| value & bit != 0).map(|(_, event)| event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_what_was_offered_counts() {
        let expected = [
            None,
            Some(Event::Panicked),
            Some(Event::CrashLoaded),
            Some(Event::Panicked),
            Some(Event::Shutdown),
            Some(Event::Panicked),
            Some(Event::CrashLoaded),
            Some(Event::Panicked),
        ];
        for value in 0..=u8::MAX {
            assert_eq!(event(value), expected[usize::from(value & EVENTS)], "{value:#x}");
        }
    }
}
