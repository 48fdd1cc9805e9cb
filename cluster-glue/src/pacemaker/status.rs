//! What `crm_mon --output-as=xml` says, as far as we need it. Schema: Pacemaker's
//! `crm_mon-2.x.rng`; attributes that this version lacks are absent, never an error.

use ras_core::Health;
use roxmltree::{Document, Node, ParsingOptions};

/// Elements and attributes in a status that we accept. A thousand VMs on 32 nodes stay below it.
const XML_NODES_MAX: u32 = 500_000;

/// The cluster as Pacemaker sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterStatus {
    /// Whether the partition that answered has quorum.
    pub quorum: bool,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Primitive resources, those in groups and clones included.
    pub resources: Vec<ResourceStatus>,
    /// Actions that failed and were not cleaned up.
    pub failures: Vec<Failure>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Corosync and Pacemaker run on it, and it has joined.
    pub online: bool,
    /// Failed and not fenced yet.
    pub unclean: bool,
    /// The worst of its `#health-*` attributes. Pacemaker before 2.1.2 does not say.
    pub health: Option<Health>,
}

/// One resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceStatus {
    /// Its id in the CIB.
    pub id: String,
    /// `ocf:ras:vm`.
    pub agent: String,
    /// Pacemaker keeps its hands off it until a cleanup.
    pub blocked: bool,
    /// Where it runs now. More than one name is an emergency.
    pub nodes: Vec<String>,
}

/// One failed action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The resource's id.
    pub resource: String,
    /// `migrate_to`, `start`, …
    pub task: String,
    /// Where it was tried.
    pub node: String,
}

/// Reads the XML of `crm_mon -1 --output-as=xml`. Time and memory are linear in the input, DTDs
/// and with them entity expansion are refused.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn parse(xml: &str) -> Result<ClusterStatus, String> {
    let options = ParsingOptions { nodes_limit: XML_NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).map_err(|error| error.to_string())?;
    let root = document.root_element();
    if !matches!(root.tag_name().name(), "pacemaker-result" | "crm_mon") {
        return Err(format!("<{}> instead of <pacemaker-result>", root.tag_name().name()));
    }
    let nodes = child(root, "nodes").ok_or("no <nodes> in it")?;
    let quorum = root
        .descendants()
        .find(|node| node.has_tag_name("current_dc"))
        .is_some_and(|dc| truth(dc, "with_quorum"));
    let under = |section, element: &'static str| {
        child(root, section)
            .into_iter()
            .flat_map(|section| section.descendants())
            .filter(move |node| node.has_tag_name(element))
    };
    Ok(ClusterStatus {
        quorum,
        nodes: nodes.children().filter(|node| node.has_tag_name("node")).map(node_status).collect(),
        resources: under("resources", "resource").map(resource_status).collect(),
        failures: under("failures", "failure").filter_map(failure).collect(),
    })
}

fn node_status(node: Node<'_, '_>) -> NodeStatus {
    NodeStatus {
        name: text(node, "name"),
        online: truth(node, "online") && !truth(node, "pending"),
        unclean: truth(node, "unclean"),
        health: match node.attribute("health") {
            Some("green") => Some(Health::Green),
            Some("yellow") => Some(Health::Yellow),
            Some("red") => Some(Health::Red),
            _ => None,
        },
    }
}

fn resource_status(resource: Node<'_, '_>) -> ResourceStatus {
    let nodes = resource.children().filter(|node| node.has_tag_name("node"));
    ResourceStatus {
        id: text(resource, "id"),
        agent: text(resource, "resource_agent"),
        blocked: truth(resource, "blocked"),
        nodes: nodes.map(|node| text(node, "name")).collect(),
    }
}

/// `op_key` is `RESOURCE_TASK_INTERVAL`; both names may contain underscores, hence from the end.
fn failure(failure: Node<'_, '_>) -> Option<Failure> {
    let task = text(failure, "task");
    let (head, _interval_ms) = failure.attribute("op_key")?.rsplit_once('_')?;
    let resource = head.strip_suffix(task.as_str())?.strip_suffix('_')?.to_owned();
    Some(Failure { resource, task, node: text(failure, "node") })
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &'static str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn text(node: Node<'_, '_>, attribute: &str) -> String {
    node.attribute(attribute).unwrap_or_default().to_owned()
}

fn truth(node: Node<'_, '_>, attribute: &str) -> bool {
    node.attribute(attribute) == Some("true")
}
