//! What `meta-data` prints. OCF Resource Agent API 1.1, "Resource agent meta-data".

use std::fmt::Write as _;

use crate::params::{CONFIG_DIR, LOG_DIR, MIGRATE_URI, QMP_TIMEOUT, RASVMM, RUN_DIR};

/// The document.
#[must_use]
pub fn xml() -> String {
    let qmp_timeout_ms = QMP_TIMEOUT.as_millis().to_string();
    let config = format!("{CONFIG_DIR}/NAME.toml");
    let parameters = [
        (
            "config",
            "string",
            config.as_str(),
            "The VM's definition, at the same path on every node. The landing service reads it too.",
        ),
        ("run_dir", "string", RUN_DIR, "Directory of the QMP sockets, NAME.qmp each."),
        ("log_dir", "string", LOG_DIR, "Directory of the monitors' logs, NAME.log each."),
        ("rasvmm", "string", RASVMM, "The monitor program."),
        (
            "migrate_uri",
            "string",
            MIGRATE_URI,
            "Where guests are sent: the landing service of the node {target}. {name} is the VM.",
        ),
        (
            "qmp_timeout_ms",
            "integer",
            qmp_timeout_ms.as_str(),
            "Longest wait for an answer over QMP, in milliseconds. A monitor that needs longer \
             counts as hung.",
        ),
    ];
    let actions = [
        ("start", "20s", ""),
        ("stop", "20s", ""),
        ("monitor", "10s", " interval=\"10s\" depth=\"0\""),
        ("migrate_to", "300s", ""),
        ("migrate_from", "60s", ""),
        ("meta-data", "5s", ""),
        ("validate-all", "5s", ""),
    ];
    let mut xml = String::from(HEAD);
    for (name, kind, default, text) in parameters {
        // Writing to a String can't fail.
        let _ = write!(
            xml,
            "  <parameter name=\"{name}\" unique=\"0\" required=\"0\">\n    \
             <longdesc lang=\"en\">{text}</longdesc>\n    \
             <shortdesc lang=\"en\">{name}</shortdesc>\n    \
             <content type=\"{kind}\" default=\"{default}\"/>\n  </parameter>\n"
        );
    }
    xml.push_str(" </parameters>\n <actions>\n");
    for (name, timeout, rest) in actions {
        let _ = writeln!(xml, "  <action name=\"{name}\" timeout=\"{timeout}\"{rest}/>");
    }
    xml.push_str(" </actions>\n</resource-agent>\n");
    xml
}

const HEAD: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?>
<resource-agent name="vm" version=""#,
    env!("CARGO_PKG_VERSION"),
    r#"">
 <version>1.1</version>
 <longdesc lang="en">
A virtual machine of rasvmm, named like its resource. Driven over QMP. Migrates live when the
resource has allow-migrate=true; give migrate_to on-fail=block, or a failed migration stops the VM.
 </longdesc>
 <shortdesc lang="en">Virtual machine of rasvmm</shortdesc>
 <parameters>
"#
);
