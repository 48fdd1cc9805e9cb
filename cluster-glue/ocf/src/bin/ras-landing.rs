//! Takes in guests that migrate to this node. One per node, beside Pacemaker; see `ras_ocf::landing`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use ras_ocf::landing::{Config, Landing};
use ras_ocf::params::{CONFIG_DIR, LOG_DIR, RASVMM, RUN_DIR};

/// Takes in guests that migrate to this node.
///
/// Listens for migration streams, and starts one rasvmm for each guest that is defined here. The
/// stream is plain TCP: listen on the cluster's own network.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Address and port of this node on the cluster's network.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Directory of the VM definitions, NAME.toml each.
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR)]
    config_dir: PathBuf,
    /// Directory of the QMP sockets, NAME.qmp each.
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// Directory of the monitors' logs, NAME.log each.
    #[arg(long, value_name = "DIR", default_value = LOG_DIR)]
    log_dir: PathBuf,
    /// The monitor program.
    #[arg(long, value_name = "PROGRAM", default_value = RASVMM)]
    rasvmm: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Options { listen, config_dir, run_dir, log_dir, rasvmm } = Options::parse();
    let landing = Landing::bind(Config { listen, config_dir, run_dir, log_dir, rasvmm })?;
    eprintln!("waiting for guests on {}", landing.local_addr()?);
    landing.serve()
}
