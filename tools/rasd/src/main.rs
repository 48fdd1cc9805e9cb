//! `rasd`: reads its configuration, puts the parts together, and runs the walk until it is told to
//! stop.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use persist_store::{Present, Translate};
use rasd::boot_list::BootLists;
use rasd::cluster;
use rasd::config::{Config, DEFAULT_FILE, Switch};
use rasd::control::Control;
use rasd::evacuate::Evacuations;
use rasd::followers::{Follower, Followers};
use rasd::guests::Guests;
use rasd::host_page::{HostPages, ThisKernel};
use rasd::kill_point::KillPoint;
use rasd::ledger::Ledger;
use rasd::machine::{AddressMaps, Machine};
use rasd::metrics::Metrics;
use rasd::mirror::Mirroring;
use rasd::pipeline::Pipeline;
use rasd::service;
use rasd::shared::{Handle, Shared};
use rasd::source::tracefs::{self, Tracefs};
use rasd::source::{Queue, replay, wall_clock};
use rasd::stop::Stop;
use rasd::timings::Timings;

/// Where the configuration is looked for if none is named.
const CONFIG_FILE: &str = "/etc/rasd/rasd.toml";

/// Watches for memory errors, keeps bad pages out of use, and gets guests out of harm's way.
///
/// Exit codes: 0 stopped as asked, 1 could not start or go on (the message says why), 2 wrong usage.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
struct Options {
    /// Configuration file [default: /etc/rasd/rasd.toml if it exists, else built-in defaults].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Read error reports from a capture (see REPLAY.md); `-` is standard input.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,

    /// Stop when the capture is worked off, instead of waiting for more errors.
    #[arg(long, requires = "replay")]
    exit_after_replay: bool,

    /// Write how long each step of each fault's walk took, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,

    /// Say whether the configuration is understood, and exit.
    #[arg(long)]
    check_config: bool,

    /// Print the documented default configuration, and exit.
    #[arg(long)]
    print_default_config: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rasd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    if options.print_default_config {
        return print(DEFAULT_FILE);
    }
    let config = load(options.config.as_deref())?;
    if options.check_config {
        return print("the configuration is understood\n");
    }
    log_to_stderr();
    // Before any thread is started, so that all of them inherit it.
    let signals = block_signals().context("blocking signals")?;
    let kill = KillPoint::from_environment()?;

    let stop = Stop::default();
    let engine = cluster::engine(&config, &stop);
    let engine_status = cluster::describe(engine.as_ref());
    tracing::info!(engine = engine_status.name, notes = engine_status.notes, "cluster engine");

    let mut machine = Machine::read(&config.paths);
    let mut ledger =
        Ledger::open(&config.store.dir, &config.policy).context("opening the store")?;
    for line in ledger.store_status().recovery {
        tracing::warn!("store: {line}");
    }
    let maps = AddressMaps::read(
        config.machine.address_map.as_deref(),
        &config.store.dir.join("maps"),
        &mut machine.map,
        &mut machine.notes,
        wall_clock(),
    );
    machine.log();
    // First of all: what comes back is held beside the machine like the rest.
    let mut mirror = Mirroring::new(&config, kill).unwrap_or_else(|error| {
        tracing::error!(%error, "THE LIST HAS NO MIRROR: the kernel does not tell its boot_id");
        None
    });
    if let Some(mirror) = &mut mirror {
        mirror.bring_back(|found, place| ledger.bring_back(found, place, wall_clock()));
    }
    let translate: &Translate<'_> = &|page, dimm| maps.find(page, dimm);
    let present = Present { map: &machine.map, translate: Some(translate), repairs: &[] };
    if let Err(error) = ledger.reconcile(&present, wall_clock()) {
        let error = format!("{:#}", anyhow::Error::from(error));
        tracing::error!(error, "the list was not held beside the machine");
    }
    let shared =
        Shared::new(ledger, machine.map.clone(), Queue::new(config.sources.queue), engine_status);
    let _control = Control::bind(&config.control, &shared)
        .with_context(|| format!("listening at {}", config.control.display()))?;

    start_tracefs(&config, &shared, &stop)?;
    start_replay(options, &shared)?;
    stop_on_signal(signals, &shared, &stop).context("waiting for signals")?;

    let (boot_lists, firmware) = BootLists::new(&config, machine.map.epoch());
    let mut followers: Vec<Box<dyn Follower>> = vec![Box::new(boot_lists)];
    if let Some(mirror) = mirror {
        shared.set_mirror(mirror.status());
        followers.push(Box::new(mirror));
    }
    let guests = Guests::new(&config);
    let retry = Duration::from_secs(config.cluster.retry_s);
    let mut pipeline = Pipeline {
        host: HostPages::new(&config, Box::new(ThisKernel::default()), stop.clone()),
        evacuations: Evacuations::new(engine, shared.clone(), guests.clone(), kill, retry),
        guests,
        kill,
        timings: match &options.timings {
            Some(path) => {
                Timings::create(path).with_context(|| format!("creating {}", path.display()))?
            }
            None => Timings::default(),
        },
        firmware,
        metrics: Metrics::new(config.metrics.file.clone()),
        machine,
        maps,
        shared,
    };
    if let Some(unfinished) = pipeline.offline_again() {
        pipeline.metrics.update(|| pipeline.shared.status());
        service::ready(&pipeline.shared.ready_line());
        tracing::info!("ready");
        let followers =
            Followers::start(followers, &pipeline.shared).context("following the list")?;
        pipeline.finish(unfinished);
        pipeline.run();
        followers.finish();
        pipeline.metrics.update(|| pipeline.shared.status());
    }
    service::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopped");
    Ok(())
}

fn load(path: Option<&Path>) -> anyhow::Result<Config> {
    match path {
        Some(path) => Ok(Config::load(path)?),
        None if Path::new(CONFIG_FILE).exists() => Ok(Config::load(Path::new(CONFIG_FILE))?),
        None => Ok(Config::default()),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

fn start_tracefs(config: &Config, shared: &Handle, stop: &Stop) -> anyhow::Result<()> {
    if config.sources.tracefs == Switch::Off {
        shared.source("tracefs", "off", "sources.tracefs = \"off\"");
        return Ok(());
    }
    match Tracefs::open(&config.paths.tracefs) {
        Ok(tracefs) => tracefs::spawn(tracefs, shared, stop).context("starting tracefs"),
        Err(error) if config.sources.tracefs == Switch::Auto => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!("no live errors from this kernel: {error}");
            shared.source("tracefs", "failed", &error);
            Ok(())
        }
        Err(error) => Err(error).context("sources.tracefs = \"on\""),
    }
}

fn start_replay(options: &Options, shared: &Handle) -> anyhow::Result<()> {
    let Some(path) = &options.replay else { return Ok(()) };
    let input = replay::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (name, shared, exit) =
        (path.display().to_string(), shared.clone(), options.exit_after_replay);
    std::thread::Builder::new()
        .name("replay".into())
        .spawn(move || {
            replay::run(input, &name, &shared);
            if exit {
                shared.queue.close();
            }
        })
        .context("starting the replay")?;
    Ok(())
}

fn block_signals() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}

/// What is queued then is thrown away: live errors are still in the kernel's buffer or gone anyway,
/// and nobody should wait for a capture.
fn stop_on_signal(signals: SigSet, shared: &Handle, stop: &Stop) -> std::io::Result<()> {
    let (shared, stop) = (shared.clone(), stop.clone());
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let signal = signals.wait();
            stop.set();
            let dropped = shared.queue.abandon();
            tracing::info!(?signal, dropped, "stopping");
        })
        .map(drop)
}
