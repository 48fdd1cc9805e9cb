//! A KVM virtual machine monitor whose guests survive memory errors.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use ras_qmp::{Events, Server};
use rasvmm::builder;
use rasvmm::config::{Options, Start};
use rasvmm::control::Control;
use rasvmm::migrate::{Incoming, Parameters, Uri};
use rasvmm::vm::{Ending, Vm, ending_signals};

fn main() -> ExitCode {
    // Before any thread is started, so that only `Vm::serve` hears of them.
    if let Err(error) = ending_signals().thread_block() {
        eprintln!("rasvmm: blocking signals: {error}");
        return ExitCode::FAILURE;
    }
    let level = std::env::var("RASVMM_LOG").unwrap_or_default();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_max_level(tracing::Level::from_str(&level).unwrap_or(tracing::Level::WARN))
        .init();
    match run(Options::parse()) {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(error) => {
            eprintln!("rasvmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<Ending> {
    let config = options.resolve()?;
    let events = Events::default();
    let vm = Arc::new(builder::build(&config, events.clone())?);
    let control = Control::new(Arc::clone(&vm), config.allow_fault_injection);
    if let Some(dir) = config.qmp.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("creating {} for the QMP socket", dir.display()))?;
    }
    // Before QMP answers: a client that sees the answer may send the guest at once.
    let incoming = match &config.start {
        Start::Incoming { uri, .. } => Some(listen(&config.name, uri)?),
        Start::Kernel(_) => None,
    };
    vm.power_on().context("giving the guest its memory device")?;
    let server = Server::bind(&config.qmp, events, Arc::new(control))
        .with_context(|| format!("listening for QMP at {}", config.qmp.display()))?;
    if let Some(incoming) = incoming {
        receive(&vm, incoming)?;
    }
    let ending = vm.serve().context("waiting for events")?;
    // A client that said `quit` is still owed its answer, and others the event.
    thread::sleep(Duration::from_millis(20));
    drop(server);
    Ok(ending)
}

fn listen(name: &str, uri: &str) -> Result<Incoming> {
    let uri: Uri = uri.parse()?;
    Ok(Incoming::listen(name, &uri, Parameters::default().peer_timeout)?)
}

/// Lets the guest arrive, on a thread of its own.
fn receive(vm: &Arc<Vm>, incoming: Incoming) -> Result<()> {
    let vm = Arc::clone(vm);
    thread::Builder::new()
        .name("incoming".to_owned())
        .spawn(move || vm.arrived(incoming.receive(vm.as_ref())))
        .context("starting a thread")?;
    Ok(())
}
