//! What the service manager is told: `sd_notify(3)`.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::host_page::Progress;

/// Pause between two reports of progress.
const PAUSE: Duration = Duration::from_millis(500);

/// Pause between two lines of it in the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// The longest the kernel may think about one page before the service manager takes us for stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says something to the service manager, if there is one.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Everything stored is out of use.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells how the offlining goes, so that a long list is neither a riddle nor killed for its length.
#[derive(Debug)]
pub struct Starting {
    started: Instant,
    told: Option<Instant>,
    logged: Instant,
}

impl Default for Starting {
    fn default() -> Self {
        let now = Instant::now();
        Self { started: now, told: None, logged: now }
    }
}

impl Starting {
    /// To be called with every step; most of them are kept to oneself.
    pub fn tell(&mut self, progress: &Progress) {
        let now = Instant::now();
        let due = |last: Instant, pause| now.duration_since(last) >= pause;
        if progress.wait.is_zero() && self.told.is_some_and(|told| !due(told, PAUSE)) {
            return;
        }
        self.told = Some(now);
        let line = self.line(progress, now);
        // The extension counts from now, and has to last until the next report.
        let extension = (PATIENCE + progress.wait).as_micros();
        notify(&[
            NotifyState::ExtendTimeoutUsec(u32::try_from(extension).unwrap_or(u32::MAX)),
            NotifyState::Status(&line),
        ]);
        if due(self.logged, LOG_PAUSE) {
            self.logged = now;
            tracing::info!("{line}");
        }
    }

    fn line(&self, progress: &Progress, now: Instant) -> String {
        let Progress { pages, settled, asked, .. } = *progress;
        let seconds = now.duration_since(self.started).as_secs_f64();
        if !progress.wait.is_zero() {
            let busy = pages - settled;
            return format!(
                "Offlining stored pages: {busy} of {pages} are busy and asked for again"
            );
        }
        let rate = if seconds > 0.0 { asked as f64 / seconds } else { 0.0 };
        format!("Offlining stored pages: {settled} of {pages}, {rate:.0}/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_now_and_then_and_every_wait() {
        let mut starting = Starting::default();
        let progress =
            Progress { pages: 10, asked: 1, settled: 1, offlined: 1, ..Progress::default() };
        starting.tell(&progress);
        let told = starting.told;
        starting.tell(&progress);
        assert_eq!(starting.told, told, "half a second is not over");
        let wait = Progress { wait: Duration::from_secs(3), settled: 8, ..progress };
        starting.tell(&wait);
        assert_ne!(starting.told, told);
        let now = starting.started + Duration::from_millis(500);
        assert_eq!(starting.line(&progress, now), "Offlining stored pages: 1 of 10, 2/s");
        assert!(starting.line(&wait, now).contains("2 of 10 are busy"));
    }
}
