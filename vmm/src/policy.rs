//! What is done when a guest reboots, shuts down, panics or hangs: QEMU's `-action` and `set-action`,
//! with the names of `qapi/run-state.json`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What is done about what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Actions {
    /// The guest resets, by its reset line or a triple fault.
    pub reboot: RebootAction,
    /// The guest is to be powered off.
    pub shutdown: ShutdownAction,
    /// The guest's kernel says that it panicked, or it can't be told of lost memory.
    pub panic: PanicAction,
    /// The guest has not fed its watchdog.
    pub watchdog: WatchdogAction,
}

impl Default for Actions {
    /// As in QEMU but for one: a panicked guest stays to be looked at. QEMU would end.
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Pause,
            watchdog: WatchdogAction::Reset,
        }
    }
}

/// `RebootAction`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    /// The guest starts again.
    Reset,
    /// As if it had shut down.
    Shutdown,
}

/// `ShutdownAction`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownAction {
    /// The process ends.
    Poweroff,
    /// It stays, in state `shutdown`.
    Pause,
}

/// `PanicAction`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanicAction {
    /// The guest stops, in state `guest-panicked`.
    Pause,
    /// As if it had shut down.
    Shutdown,
    /// As if it had shut down, with an exit code that says why.
    ExitFailure,
    /// The guest runs on: its kernel may have plans, such as a crash dump and a reboot.
    None,
}

/// `WatchdogAction`. Its `shutdown` presses the power button, which this machine lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// As if the guest had pulled its reset line.
    Reset,
    /// The process ends, with an exit code that says why.
    Poweroff,
    /// The guest stops, in state `watchdog`.
    Pause,
    /// A line in the log.
    Debug,
    /// Nothing but the event.
    None,
    /// The guest gets a non-maskable interrupt: a kernel may panic by it, and say why it hung.
    InjectNmi,
}

/// A choice of some actions: the arguments of `set-action`, the value of `--action`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    reboot: Option<RebootAction>,
    shutdown: Option<ShutdownAction>,
    panic: Option<PanicAction>,
    watchdog: Option<WatchdogAction>,
}

impl Actions {
    /// Changes what is chosen.
    pub fn choose(&mut self, choice: Choice) {
        self.reboot = choice.reboot.unwrap_or(self.reboot);
        self.shutdown = choice.shutdown.unwrap_or(self.shutdown);
        self.panic = choice.panic.unwrap_or(self.panic);
        self.watchdog = choice.watchdog.unwrap_or(self.watchdog);
    }
}

impl From<WatchdogAction> for Choice {
    fn from(action: WatchdogAction) -> Self {
        Self { watchdog: Some(action), ..Self::default() }
    }
}

/// Text that is not a choice; the message says what would be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}; write EVENT=ACTION[,EVENT=ACTION...]")]
pub struct ChoiceError(String);

impl FromStr for Choice {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        let mut fields = serde_json::Map::new();
        for word in text.split(',') {
            let pair = word.split_once('=');
            let (event, action) =
                pair.ok_or_else(|| ChoiceError(format!("'{word}' names no action")))?;
            if fields.insert(event.to_owned(), json!(action)).is_some() {
                return Err(ChoiceError(format!("'{event}' has two actions")));
            }
        }
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| ChoiceError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_chosen_stays() {
        let mut actions = Actions::default();
        actions.choose("panic=exit-failure,watchdog=inject-nmi".parse().unwrap());
        actions.choose("reboot=shutdown".parse().unwrap());
        let expected = Actions {
            reboot: RebootAction::Shutdown,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::ExitFailure,
            watchdog: WatchdogAction::InjectNmi,
        };
        assert_eq!(actions, expected);
    }

    #[test]
    fn mistakes_name_what_is_possible() {
        for (text, expected) in [
            ("", "'' names no action"),
            ("panic", "'panic' names no action"),
            ("panic=pause,panic=none", "'panic' has two actions"),
            ("panik=pause", "unknown field `panik`, expected one of `reboot`"),
            ("watchdog=shutdown", "unknown variant `shutdown`, expected one of `reset`"),
            ("reboot=none", "unknown variant `none`, expected `reset` or `shutdown`"),
        ] {
            let error = text.parse::<Choice>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
