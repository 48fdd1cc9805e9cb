//! `cargo xtask fuzz`: libFuzzer on every parser, and on whatever guests, clients and peers send to
//! `rasvmm`, with the stable toolchain.
//!
//! Coverage instrumentation is LLVM's and needs no unstable flag; an address sanitizer would, and
//! would find nothing: the parsers forbid unsafe code, and the monitor reaches guest memory by system
//! calls alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use ras_lab::artifacts::{target_dir, workspace_root};

use crate::cargo;

/// What libFuzzer needs to see: edges, and what is compared with what.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

/// Longest input tried, in bytes: records are rarely longer, and longer inputs are tried more slowly.
const INPUT_MAX: u32 = 16 * 1024;

/// Seconds one input may take. Anything above milliseconds is a broken promise; a busy machine is not.
const INPUT_SECONDS: u32 = 10;

/// Memory one target may take, in MiB. The corpus and libFuzzer's own tables are the most of it.
const MEMORY_MIB: u32 = 1024;

/// Targets that run at the same time.
const AT_ONCE: usize = 2;

/// Fuzzes `names` (all where empty), `seconds` each. False if one of them found something.
pub(crate) fn run(names: &[String], seconds: u32) -> Result<bool> {
    let program = build()?;
    let all = targets()?;
    for name in names {
        ensure!(all.contains(name), "no target {name:?}; there are: {}", all.join(" "));
    }
    let chosen = if names.is_empty() { &all } else { names };
    let seeds = seeds()?;
    let work = target_dir().join("fuzz-corpus");
    let (mut passed, mut failed) = (0, 0);
    println!("xtask: fuzzing {} targets, {seconds} s each, {AT_ONCE} at a time", chosen.len());
    for batch in chosen.chunks(AT_ONCE) {
        let running = batch
            .iter()
            .map(|name| Running::start(&program, &work, name, &seeds, seconds))
            .collect::<Result<Vec<_>>>()?;
        for target in running {
            if target.finish()? {
                passed += 1;
            } else {
                failed += 1;
            }
        }
    }
    println!("fuzz: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn build() -> Result<PathBuf> {
    let directory = target_dir().join("fuzz");
    let arguments = ["build", "--release", "--target", "x86_64-unknown-linux-gnu"];
    let mut command = cargo::command(&arguments);
    command
        .current_dir(workspace_root().join("tests/fuzz"))
        .env("CARGO_TARGET_DIR", &directory)
        .env("RUSTFLAGS", INSTRUMENTATION);
    print!("tests/fuzz: ");
    cargo::run_command(&mut command, &arguments)?;
    Ok(directory.join("x86_64-unknown-linux-gnu/release/ras-fuzz"))
}

/// The names in the fuzzer's own table.
fn targets() -> Result<Vec<String>> {
    let path = workspace_root().join("tests/fuzz/src/targets.rs");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "{} has no targets", path.display());
    Ok(names)
}

/// Inputs to start from, by the folder of golden files they are made of.
type Seeds = BTreeMap<String, Vec<Vec<u8>>>;

/// The golden files: as they are, and the bytes that those in hexadecimal stand for.
fn seeds() -> Result<Seeds> {
    let mut seeds = Seeds::new();
    let root = workspace_root().join("tests/golden");
    for kind in fs::read_dir(&root).with_context(|| format!("listing {}", root.display()))? {
        let kind = kind?;
        let inputs = seeds.entry(kind.file_name().to_string_lossy().into_owned()).or_default();
        for file in fs::read_dir(kind.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "in") {
                let text = fs::read(&path)?;
                inputs.extend(binary(&String::from_utf8_lossy(&text)));
                inputs.push(text);
            }
        }
    }
    Ok(seeds)
}

/// What a golden file in hexadecimal stands for; a trace event keeps its format's text.
fn binary(text: &str) -> Option<Vec<u8>> {
    let (head, digits) = match text.split_once("payload:\n") {
        Some((head, digits)) => (format!("{head}payload:\n"), digits),
        None => {
            let start = text.lines().position(|line| !line.starts_with('#'))?;
            let at = text.lines().take(start + 1).map(|line| line.len() + 1).sum();
            (String::new(), text.get(at..)?)
        }
    };
    let words =
        digits.lines().flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace());
    let bytes: Option<Vec<u8>> = words.map(|word| u8::from_str_radix(word, 16).ok()).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
    Some([head.into_bytes(), bytes].concat())
}

struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    artifacts: PathBuf,
}

impl Running {
    fn start(program: &Path, work: &Path, name: &str, seeds: &Seeds, seconds: u32) -> Result<Self> {
        let corpus = work.join(name);
        let artifacts = work.join("findings").join(name);
        for directory in [&corpus, &artifacts] {
            fs::create_dir_all(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        // Any golden may be a good start for any parser; which, coverage tells.
        for (kind, inputs) in seeds {
            for (index, input) in inputs.iter().enumerate() {
                fs::write(corpus.join(format!("golden-{kind}-{index}")), input)?;
            }
        }
        let own = workspace_root().join("tests/fuzz/seeds").join(name);
        if own.is_dir() {
            for file in fs::read_dir(&own)? {
                let file = file?;
                let copy = format!("seed-{}", file.file_name().to_string_lossy());
                fs::copy(file.path(), corpus.join(copy))?;
            }
        }
        let log = work.join(format!("{name}.log"));
        let output =
            fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = Command::new(program)
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1")
            .env("RAS_FUZZ_TARGET", name)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log, artifacts })
    }

    /// Whether it ended without a finding.
    fn finish(mut self) -> Result<bool> {
        let status = self.child.wait().context("waiting for the fuzzer")?;
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let figure = |name: &str| {
            let line = log.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("?", |value| value.trim_start_matches(':').trim()).to_owned()
        };
        let runs = figure("stat::number_of_executed_units");
        if status.success() {
            println!(
                "  {:<16} {runs} inputs, at most {} MiB, slowest {} s",
                self.name,
                figure("stat::peak_rss_mb"),
                figure("stat::slowest_unit_time_sec"),
            );
            return Ok(true);
        }
        let told: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"))
            .collect();
        println!("  {:<16} FOUND: {}", self.name, told.join("; "));
        println!(
            "  {:<16} log {}, input below {}",
            "",
            self.log.display(),
            self.artifacts.display()
        );
        if told.is_empty() {
            bail!("the fuzzer ended with {status} and no finding; see {}", self.log.display());
        }
        Ok(false)
    }
}

/// Seconds a target is fuzzed in `cargo xtask test`.
pub(crate) const SECONDS_IN_TESTS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goldens_become_bytes() {
        assert_eq!(binary("# a comment\nrecord\n43 50 # CP\n45\n"), Some(b"CPE".to_vec()));
        assert_eq!(
            binary("# c\nname: x\npayload:\n01 02\n"),
            Some(b"# c\nname: x\npayload:\n\x01\x02".to_vec())
        );
        assert_eq!(binary("# registers\nvendor intel\nbank 9\n"), None);
        assert_eq!(binary(""), None);
    }

    #[test]
    fn the_table_of_targets_is_found() {
        assert!(targets().unwrap().contains(&"cper_record".to_owned()));
    }
}
