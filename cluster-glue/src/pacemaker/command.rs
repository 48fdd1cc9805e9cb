//! Running the cluster's command line programs with a limit on everything.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::EngineError;

/// Runs one program to its end. A trait so that tests answer instead of a cluster.
pub trait Runner: Send + Sync {
    /// Runs `program` with `args` and returns what it wrote to standard output.
    ///
    /// # Errors
    /// [`EngineError::Start`], [`EngineError::Timeout`] when it took longer than `limit` (it is
    /// dead then), [`EngineError::Failed`] when it did not exit with 0, [`EngineError::Output`]
    /// when it wrote more than [`OUTPUT_MAX`] bytes or no UTF-8.
    fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<String, EngineError>;
}

/// The most a program may write: `crm_mon` needs about 400 bytes for a resource, so this is enough
/// for a thousand VMs several times over.
pub const OUTPUT_MAX: usize = 4 << 20;

/// How much of standard error an [`EngineError`] quotes.
const STDERR_QUOTED: usize = 400;

/// Runs programs of this machine, found through `PATH`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRunner;

impl Runner for SystemRunner {
    fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<String, EngineError> {
        let command = describe(program, args);
        let deadline = Instant::now() + limit;
        let mut child = Command::new(program)
            .args(args)
            // Scores, dates and messages in the form that we parse.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| EngineError::Start { command: command.clone(), source })?;
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        let Some(status) = wait_until(&mut child, deadline) else {
            // The readers end with the pipes; a grandchild that keeps one open can't hold us up,
            // because nobody joins them here.
            let _ = child.kill();
            let _ = child.wait();
            return Err(EngineError::Timeout { command, after: limit });
        };
        let stdout = collect(stdout, deadline);
        let stderr = collect(stderr, deadline);
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(EngineError::Timeout { command, after: limit });
        };
        if !status.success() {
            let stderr = String::from_utf8_lossy(&stderr);
            let stderr = stderr.trim().chars().take(STDERR_QUOTED).collect();
            return Err(EngineError::Failed { command, status: status.to_string(), stderr });
        }
        if stdout.len() > OUTPUT_MAX {
            return Err(EngineError::Output { command, what: format!("over {OUTPUT_MAX} bytes") });
        }
        String::from_utf8(stdout)
            .map_err(|error| EngineError::Output { command, what: error.to_string() })
    }
}

/// Program and arguments in one line, for errors and logs.
pub(crate) fn describe(program: &str, args: &[&str]) -> String {
    let mut line = program.to_owned();
    for arg in args {
        line.push(' ');
        line.extend(arg.chars().take(120));
    }
    line
}

/// Reads to the end in a thread of its own, so that a full pipe can't block the program. Keeps one
/// byte more than the limit, which shows that it was passed.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0; 16 << 10];
        while let Ok(n @ 1..) = pipe.read(&mut chunk) {
            let room = (OUTPUT_MAX + 1).saturating_sub(kept.len());
            kept.extend_from_slice(&chunk[..n.min(room)]);
        }
        kept
    })
}

fn collect(reader: Option<JoinHandle<Vec<u8>>>, deadline: Instant) -> Option<Vec<u8>> {
    let reader = reader?;
    poll_until(deadline, || reader.is_finished().then_some(()))?;
    reader.join().ok()
}

fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    poll_until(deadline, || child.try_wait().ok().flatten())
}

/// Asks until there is an answer or the deadline has passed. Starts fine, since telling the cluster
/// quickly is the point, and turns coarse, since most waits are for something that hangs.
fn poll_until<T>(deadline: Instant, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, limit_ms: u64) -> Result<String, EngineError> {
        SystemRunner.run("sh", &["-c", script], Duration::from_millis(limit_ms))
    }

    #[test]
    fn output_comes_back() {
        assert_eq!(run("echo hello", 5000).unwrap(), "hello\n");
    }

    #[test]
    fn failure_quotes_standard_error() {
        let error = run("echo no such node >&2; exit 6", 5000).unwrap_err();
        assert!(error.to_string().ends_with("exit status: 6: no such node"), "{error}");
    }

    #[test]
    fn a_hanging_program_is_killed_in_time() {
        let began = Instant::now();
        assert!(matches!(run("exec sleep 60", 100), Err(EngineError::Timeout { .. })));
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_does_not_hold_us_up() {
        let began = Instant::now();
        assert!(matches!(run("sleep 5 & exit 0", 100), Err(EngineError::Timeout { .. })));
        assert!(began.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_flood_is_read_but_not_kept() {
        let error = run("head -c 5000000 /dev/zero", 20_000).unwrap_err();
        assert!(matches!(error, EngineError::Output { .. }), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = SystemRunner.run("no-such-program", &["-x"], Duration::from_secs(1));
        assert!(error.unwrap_err().to_string().contains("no-such-program -x"));
    }
}
