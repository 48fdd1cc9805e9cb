//! Copies of the list elsewhere, kept in step with it on a thread of their own: the firmware behind them
//! may think for a second about each write, and errors don't wait for that.
//!
//! Nothing is handed over. Whenever a copy is due, its follower takes the list as it is then: the latest
//! wins, and what changed in between costs neither memory nor a write.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::shared::{Handle, Shared};
use crate::stop::Stop;

/// How often the followers look whether something is due.
const TICK: Duration = Duration::from_secs(1);

/// Longest wait for the last writes. The service manager waits for 20 s, and whoever is stuck in firmware
/// does not get out of it.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// A copy of the list that follows it.
pub trait Follower: Send {
    /// What it is, for people.
    fn name(&self) -> &'static str;

    /// Brings the copy up to date, if that is due.
    fn look(&mut self, shared: &Shared);

    /// The same at the end, due or not.
    fn finish(&mut self, shared: &Shared);
}

/// The thread of all followers.
#[derive(Debug)]
pub struct Followers {
    stop: Stop,
    steps: Receiver<Step>,
}

/// What the thread says of its end.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// This follower has its last turn.
    Finishing(&'static str),
    Finished,
}

impl Followers {
    /// Starts the thread; it looks at once.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(mut followers: Vec<Box<dyn Follower>>, shared: &Handle) -> io::Result<Self> {
        let stop = Stop::default();
        let (say, steps) = mpsc::channel();
        std::thread::Builder::new().name("followers".into()).spawn({
            let (stop, shared) = (stop.clone(), shared.clone());
            move || {
                loop {
                    followers.iter_mut().for_each(|follower| follower.look(&shared));
                    if stop.wait(TICK) {
                        break;
                    }
                }
                // Nobody listens any more where that took too long.
                for follower in &mut followers {
                    let _ = say.send(Step::Finishing(follower.name()));
                    follower.finish(&shared);
                }
                let _ = say.send(Step::Finished);
            }
        })?;
        Ok(Self { stop, steps })
    }

    /// Has every follower take the list as it is now, and waits for that, but not for ever.
    pub fn finish(self) {
        self.finish_within(FINISH_MAX);
    }

    fn finish_within(self, longest: Duration) -> bool {
        self.stop.set();
        let deadline = Instant::now() + longest;
        let mut at_work = "a look";
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match self.steps.recv_timeout(left) {
                Ok(Step::Finishing(name)) => {
                    at_work = name;
                    continue;
                }
                Ok(Step::Finished) => return true,
                Err(RecvTimeoutError::Timeout) => "it takes too long",
                Err(RecvTimeoutError::Disconnected) => "its thread is gone",
            };
            tracing::error!(at_work, why, "A COPY OF THE LIST DID NOT GET ITS LAST STATE");
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    use crate::ledger::Ledger;

    /// Says what it is asked to do; the last time, it first waits for a word.
    struct Told {
        calls: Sender<&'static str>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Follower for Told {
        fn name(&self) -> &'static str {
            "told"
        }

        fn look(&mut self, _: &Shared) {
            let _ = self.calls.send("look");
        }

        fn finish(&mut self, _: &Shared) {
            let _ = self.go_on.lock().unwrap().recv();
            let _ = self.calls.send("finish");
        }
    }

    #[test]
    fn the_last_state_is_waited_for_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), &ras_core::Policy::default()).unwrap();
        let shared = Shared::alone(ledger);
        for is_stuck in [false, true] {
            let ((calls, called), (go_on, gone)) = (mpsc::channel(), mpsc::channel());
            let told = Told { calls, go_on: Mutex::new(gone) };
            let followers = Followers::start(vec![Box::new(told)], &shared).unwrap();
            assert_eq!(called.recv().unwrap(), "look", "at once");
            if !is_stuck {
                go_on.send(()).unwrap();
            }
            let longest = Duration::from_millis(if is_stuck { 50 } else { 60_000 });
            assert_eq!(followers.finish_within(longest), !is_stuck);
            drop(go_on);
            assert_eq!(called.iter().filter(|call| *call == "finish").count(), 1);
        }
    }
}
