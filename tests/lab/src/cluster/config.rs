//! What the nodes are configured with.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The sample that the documentation recommends is the one that is tested.
const SAMPLE: &str = include_str!("../../../../cluster-glue/ocf/sample-cib.xml");

/// Stands in the sample where the site's own fence devices belong.
const FENCING_MARK: &str = "<!-- Your fence devices. -->";

/// Time without a token after which Corosync suspects a node, in milliseconds, before it adds its
/// own 650 ms for each node beyond the second. Half of what Corosync 3 recommends: nodes that share
/// two processors and have no network to lose still keep it easily.
const TOKEN_MS: u32 = 1000;

/// Nobody waits longer than this for a lab; then its nodes end by themselves.
const NODE_TTL_S: u32 = 900;

/// Writes everything below `etc`.
pub(super) fn write(etc: &Path, nodes: usize) -> Result<()> {
    fs::create_dir_all(etc.join("rasvmm")).context("creating the lab's etc")?;
    let put = |name: &str, text: &[u8]| {
        fs::write(etc.join(name), text).with_context(|| format!("writing {name}"))
    };
    let mut key = [0; 256];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key))
        .context("making Corosync's key")?;
    put("authkey", &key)?;
    put("corosync.conf", corosync(nodes).as_bytes())?;
    put("hosts", hosts(nodes).as_bytes())?;
    put("cib.xml", SEED_CIB.as_bytes())?;
    put("cluster.xml", cluster(nodes).as_bytes())?;
    put("lab.env", format!("NODE_TTL_S={NODE_TTL_S}\n").as_bytes())?;
    put("rasd.toml", RASD.as_bytes())?;
    put("rasvmm/vm1.toml", VM1.as_bytes())
}

/// The guest. The console goes to a file that the lab reads from outside.
const VM1: &str = r#"name = "vm1"
kernel = "/lab/bin/guest.elf"
memory = "32M"
virtio-mem = "64M,requested=32M"
qmp = "unix:/run/rasvmm/vm1.qmp"
serial = "file:/var/log/rasvmm/vm1.serial"
"#;

/// Every path that could reach the host's own memory management leads nowhere: the errors are
/// made up, the host's pages must not go offline for them.
const RASD: &str = r#"store = "/var/lib/rasd"
control = "/run/rasd/rasd.sock"

[paths]
sysfs = "/run/rasd/no-sysfs"
tracefs = "/run/rasd/no-tracefs"

[sources]
tracefs = "off"

[policy]
# The second lost page is one too many for this host.
uncorrected_per_host = { count = 2, window_s = 86400 }

[cluster]
engine = "pacemaker"
# rasd starts before the cluster answers.
retry_s = 2

[cluster.pacemaker]
follow_pause_ms = 500
cleanup_pause_ms = 1000
"#;

/// Only what has to be there before the cluster forms: without it the first node waits 20 s for
/// others to elect a controller. A newer feature set than the daemons' would keep them from starting.
const SEED_CIB: &str = r#"<cib crm_feature_set="3.0.0" validate-with="pacemaker-3.0" epoch="1" num_updates="0" admin_epoch="0"><configuration><crm_config><cluster_property_set id="cib-bootstrap-options"><nvpair id="opt-dc-deadtime" name="dc-deadtime" value="2s"/></cluster_property_set></crm_config><nodes/><resources/><constraints/></configuration><status/></cib>
"#;

fn cluster(nodes: usize) -> String {
    let names: Vec<String> = (1..=nodes).map(name).collect();
    let fencing = format!(
        r#"<primitive id="power" class="stonith" type="fence_lab">
      <instance_attributes id="power-parameters">
        <nvpair id="power-check" name="pcmk_host_check" value="static-list"/>
        <nvpair id="power-list" name="pcmk_host_list" value="{}"/>
      </instance_attributes>
      <operations><op id="power-monitor" name="monitor" interval="60s" timeout="20s"/></operations>
    </primitive>"#,
        names.join(" ")
    );
    SAMPLE.replace(FENCING_MARK, &fencing)
}

fn corosync(nodes: usize) -> String {
    let mut text = format!(
        "system {{\n  move_to_root_cgroup: no\n}}\n\
         totem {{\n  version: 2\n  cluster_name: lab\n  transport: knet\n  token: {TOKEN_MS}\n  \
         crypto_cipher: aes256\n  crypto_hash: sha256\n}}\n\
         quorum {{\n  provider: corosync_votequorum\n}}\n\
         logging {{\n  to_syslog: no\n  to_stderr: no\n  to_logfile: yes\n  \
         logfile: /var/log/corosync/corosync.log\n  timestamp: hires\n}}\n\
         nodelist {{\n"
    );
    for index in 1..=nodes {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "  node {{\n    nodeid: {index}\n    name: {}\n    ring0_addr: 10.99.0.{index}\n    \
             ring1_addr: 10.99.1.{index}\n  }}",
            name(index)
        );
    }
    text.push_str("}\n");
    text
}

fn hosts(nodes: usize) -> String {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for index in 1..=nodes {
        let _ = writeln!(text, "10.99.0.{index} {}", name(index));
    }
    text
}

/// The name of a node; the first is `n1`.
pub(super) fn name(index: usize) -> String {
    format!("n{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_has_a_place_for_fencing() {
        assert_eq!(SAMPLE.matches(FENCING_MARK).count(), 1);
        assert!(cluster(3).contains(r#"value="n1 n2 n3""#));
    }
}
