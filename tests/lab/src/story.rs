//! A lab run told as it happens: timed lines a person can follow, and a verdict at the end.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Prints a story's steps with the time since its start, and counts what held and what did not.
pub struct Story {
    out: RefCell<Box<dyn Write>>,
    started: Instant,
    colour: bool,
    passed: u32,
    failed: u32,
}

/// How a story ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Steps that held.
    pub passed: u32,
    /// Steps that did not.
    pub failed: u32,
}

impl Summary {
    /// Whether every step held, and there was one.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl Story {
    /// Starts the clock and prints the title.
    #[must_use]
    pub fn begin(title: &str) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::begin_to(Box::new(io::stdout()), colour, title)
    }

    fn begin_to(out: Box<dyn Write>, colour: bool, title: &str) -> Self {
        let out = RefCell::new(out);
        let story = Self { out, started: Instant::now(), colour, passed: 0, failed: 0 };
        story.print(&story.paint("1", title));
        story
    }

    /// A new part of the story.
    pub fn chapter(&self, title: &str) {
        self.print(&format!("\n{}", self.paint("1", title)));
    }

    /// Something that happened, without a verdict.
    pub fn note(&self, text: &str) {
        self.line("    ", text);
    }

    /// A step that held.
    pub fn pass(&mut self, text: &str) {
        self.passed += 1;
        self.line(&self.paint("32", "  ok"), text);
    }

    /// A step that did not hold.
    pub fn fail(&mut self, text: &str) {
        self.failed += 1;
        self.line(&self.paint("31", "FAIL"), text);
    }

    /// A step with its verdict: `text` where it held, otherwise `text` and why not.
    pub fn check(&mut self, text: &str, verdict: Result<(), String>) {
        match verdict {
            Ok(()) => self.pass(text),
            Err(why) => self.fail(&format!("{text}: {why}")),
        }
    }

    /// Prints the closing line, `N passed, N failed`.
    #[must_use]
    pub fn end(self) -> Summary {
        let Self { passed, failed, .. } = self;
        let verdict = format!("{passed} passed, {failed} failed");
        let colour = if failed == 0 { "32" } else { "31" };
        self.print(&format!("\n{}", self.paint(colour, &verdict)));
        Summary { passed, failed }
    }

    fn line(&self, mark: &str, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.print(&format!("{seconds:7.2} s  {mark}  {text}"));
    }

    /// A reader that went away (a broken pipe) ends the telling, not the run.
    fn print(&self, text: &str) {
        let mut out = self.out.borrow_mut();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_counted() {
        let mut story = Story::begin_to(Box::new(io::sink()), false, "a test");
        story.note("nothing to judge");
        story.pass("holds");
        story.check("holds too", Ok(()));
        story.check("does not", Err("for a reason".to_owned()));
        let summary = story.end();
        assert_eq!(summary, Summary { passed: 2, failed: 1 });
        assert!(!summary.is_success());
        assert!(!Summary::default().is_success(), "a story without steps proves nothing");
    }
}
