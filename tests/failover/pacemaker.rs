//! The `pacemaker` engine against a scripted cluster.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cluster_glue::pacemaker::command::Runner;
use cluster_glue::pacemaker::follow::{Next, next};
use cluster_glue::pacemaker::status;
use cluster_glue::{EngineError, Evacuated, HaEngine, Pacemaker, PacemakerConfig, Scope};
use ras_core::Health;

/// Three nodes; n1 is red and runs two VMs, one of them in a group, whose migration failed; n3 is dead.
const STATUS: &str = r#"<?xml version="1.0"?>
<pacemaker-result api-version="2.25" request="crm_mon -1 --output-as=xml">
  <summary><current_dc present="true" name="n1" id="1" with_quorum="true"/></summary>
  <nodes>
    <node name="n1" id="1" online="true" pending="false" unclean="false" health="red"/>
    <node name="n2" id="2" online="true" pending="false" unclean="false" health="green"/>
    <node name="n3" id="3" online="false" pending="false" unclean="true"/>
  </nodes>
  <resources>
    <resource id="power" resource_agent="stonith:fence_ipmilan" blocked="false">
      <node name="n2" id="2"/>
    </resource>
    <resource id="vm1" resource_agent="ocf:ras:vm" role="Started" blocked="false">
      <node name="n1" id="1" cached="true"/>
    </resource>
    <group id="web" number_resources="1">
      <resource id="web_vm" resource_agent="ocf:ras:vm" role="Started" blocked="true">
        <node name="n1" id="1" cached="true"/>
        <node name="n2" id="2" cached="true"/>
      </resource>
    </group>
  </resources>
  <failures>
    <failure op_key="web_vm_migrate_to_0" node="n1" exitstatus="error" task="migrate_to" interval="0"/>
    <failure op_key="vm1_monitor_10000" node="n1" exitstatus="error" task="monitor" interval="10000"/>
    <failure id="strange"/>
  </failures>
  <status code="0" message="OK"/>
</pacemaker-result>
"#;

/// Records commands and answers them from a script.
struct Scripted {
    calls: Mutex<Vec<String>>,
    answer: Box<Answer>,
}

/// From the number of the call, from 1, and the command line.
type Answer = dyn Fn(usize, &str) -> Result<String, EngineError> + Send + Sync;

impl Runner for Scripted {
    fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<String, EngineError> {
        assert!(limit > Duration::ZERO, "every command has a limit");
        let call = format!("{program} {}", args.join(" "));
        let mut calls = self.calls.lock().unwrap();
        calls.push(call.clone());
        (self.answer)(calls.len(), &call)
    }
}

impl Scripted {
    fn new(
        answer: impl Fn(usize, &str) -> Result<String, EngineError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { calls: Mutex::default(), answer: Box::new(answer) })
    }

    /// A cluster whose every command works and whose status is [`STATUS`].
    fn healthy() -> Arc<Self> {
        Self::new(|_, call| Ok(if call.starts_with("crm_mon") { STATUS.into() } else { "".into() }))
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self, program: &str) -> usize {
        self.calls().iter().filter(|call| call.starts_with(program)).count()
    }
}

fn engine(runner: &Arc<Scripted>) -> Pacemaker {
    let config = PacemakerConfig {
        node: Some("n1".into()),
        follow_pause_ms: 1,
        cleanup_pause_ms: 1,
        cleanups_max: 3,
        ..PacemakerConfig::default()
    };
    Pacemaker::with_runner(config, Arc::clone(runner) as Arc<dyn Runner>)
}

fn hung() -> EngineError {
    EngineError::Timeout { command: "scripted".into(), after: Duration::from_secs(5) }
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn health_is_a_node_attribute_live_at_once() {
    let cluster = Scripted::healthy();
    engine(&cluster).report_health(Health::Red, "two lost pages").unwrap();
    assert_eq!(cluster.calls(), ["attrd_updater -n #health-memory -U red -d 0"]);
}

#[test]
fn a_command_that_fails_is_tried_again_but_not_for_ever() {
    let once = Scripted::new(|call, _| if call == 1 { Err(hung()) } else { Ok("".into()) });
    engine(&once).report_health(Health::Yellow, "why").unwrap();
    assert_eq!(once.calls().len(), 2);

    let never = Scripted::new(|_, _| Err(hung()));
    assert!(engine(&never).report_health(Health::Red, "why").is_err());
    assert_eq!(never.calls().len(), 3, "attempts of the default configuration");

    let absent = Scripted::new(|_, call| {
        let source = std::io::ErrorKind::NotFound.into();
        Err(EngineError::Start { command: call.into(), source })
    });
    assert!(engine(&absent).report_health(Health::Red, "why").is_err());
    assert_eq!(absent.calls().len(), 1, "a program that is not installed stays away");
}

#[test]
fn evacuating_the_host_is_red_health_and_the_clusters_work() {
    let cluster = Scripted::healthy();
    let evacuated = engine(&cluster).evacuate(&Scope::Host, "why").unwrap();
    assert_eq!(evacuated, Evacuated::ClusterWillMove);
    assert_eq!(cluster.calls()[0], "attrd_updater -n #health-memory -U red -d 0");
}

#[test]
fn one_guest_leaves_by_a_finite_score_never_by_a_ban() {
    let cluster = Scripted::healthy();
    engine(&cluster).evacuate(&Scope::Guest("vm1".into()), "why").unwrap();
    let calls = cluster.calls();
    let rule =
        calls[0].strip_prefix("cibadmin --modify --allow-create --scope constraints --xml-text ");
    let rule = rule.unwrap_or_else(|| panic!("{calls:?}"));
    assert!(rule.contains(r#"rsc="vm1""#) && rule.contains(r#"score="-150""#), "{rule}");
    assert_eq!(calls[1], "attrd_updater -n ras-leave-vm1 -U 1 -d 0");
    assert!(!calls.iter().any(|call| call.contains("--ban") || call.contains("INFINITY")));
}

#[test]
fn a_hostile_name_reaches_no_command() {
    let cluster = Scripted::healthy();
    let hostile = Scope::Guest("vm1\"/><rsc_location".into());
    assert!(matches!(
        engine(&cluster).evacuate(&hostile, "why"),
        Err(EngineError::GuestName { .. })
    ));
    assert!(cluster.calls().is_empty());
}

#[test]
fn members_are_what_crm_mon_says() {
    let members = engine(&Scripted::healthy()).membership().unwrap();
    let seen: Vec<_> = members
        .iter()
        .map(|member| (member.name.as_str(), member.online, member.this_node, member.health))
        .collect();
    assert_eq!(
        seen,
        [
            ("n1", true, true, Some(Health::Red)),
            ("n2", true, false, Some(Health::Green)),
            ("n3", false, false, None),
        ]
    );
}

#[test]
fn the_nodes_own_name_is_asked_once() {
    let cluster = Scripted::new(|_, call| {
        Ok(if call.starts_with("crm_node") { "n2\n".into() } else { STATUS.into() })
    });
    let runner = Arc::clone(&cluster) as Arc<dyn Runner>;
    let engine = Pacemaker::with_runner(PacemakerConfig::default(), runner);
    for _ in 0..2 {
        let members = engine.membership().unwrap();
        assert!(members.iter().any(|member| member.name == "n2" && member.this_node));
    }
    assert_eq!(cluster.count("crm_node"), 1);
}

#[test]
fn an_answer_that_is_no_status_is_an_error() {
    let deep = "<a>".repeat(100_000);
    for garbage in [
        "",
        "crm_mon: connection to cluster failed",
        "<html><body/></html>",
        "<pacemaker-result>",
        "<pacemaker-result/>",
        "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><pacemaker-result><nodes>&b;</nodes></pacemaker-result>",
        &deep,
    ] {
        let answer = garbage.to_owned();
        let cluster = Scripted::new(move |_, _| Ok(answer.clone()));
        let start: String = garbage.chars().take(40).collect();
        let outcome = engine(&cluster).membership();
        assert!(matches!(outcome, Err(EngineError::Output { .. })), "{start}: {outcome:?}");
    }
}

#[test]
fn every_prefix_of_a_status_is_understood_or_refused() {
    for end in 0..STATUS.len() {
        let _ = status::parse(&STATUS[..end]);
    }
    assert!(status::parse(STATUS).unwrap().quorum);
}

#[test]
fn only_a_failed_migration_away_from_here_is_cleaned_up() {
    let status = status::parse(STATUS).unwrap();
    let guest = |name: &str| Scope::Guest(name.to_owned());
    assert_eq!(next(&status, "n1", &Scope::Host), Next::CleanUp(vec!["web_vm".into()]));
    assert_eq!(next(&status, "n1", &guest("vm1")), Next::Wait, "its failure is another one");
    assert_eq!(next(&status, "n2", &guest("vm1")), Next::Left);
    assert_eq!(next(&status, "n2", &Scope::Host), Next::Wait, "the failure is n1's");
    assert_eq!(next(&status, "n3", &Scope::Host), Next::Left);
}

#[test]
fn a_failing_migration_is_retried_a_bounded_number_of_times() {
    let cluster = Scripted::healthy();
    let mut engine = engine(&cluster);
    engine.evacuate(&Scope::Host, "why").unwrap();
    soon("the last cleanup", || cluster.count("crm_resource") == 3);
    assert!(cluster.calls().contains(&"crm_resource --cleanup --resource web_vm --node n1".into()));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(cluster.count("crm_resource"), 3, "then it is left to a person");
}

/// [`STATUS`] without anybody on n1.
fn everybody_left() -> String {
    STATUS.replace("<node name=\"n1\" id=\"1\" cached=\"true\"/>", "")
}

#[test]
fn the_watch_ends_with_the_evacuation() {
    let cluster =
        Scripted::new(|call, _| Ok(if call < 4 { STATUS.into() } else { everybody_left() }));
    let mut engine = engine(&cluster);
    engine.evacuate(&Scope::Guest("vm1".into()), "why").unwrap();
    soon("a look at the cluster", || cluster.count("crm_mon") >= 2);
    thread::sleep(Duration::from_millis(50));
    let looks = cluster.count("crm_mon");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(cluster.count("crm_mon"), looks, "nobody looks any more");
}

#[test]
fn a_guest_that_pacemaker_forgot_for_a_moment_is_not_given_up() {
    // After each cleanup, until the nodes were asked again, nobody seems to run here.
    let cluster = Scripted::new(|call, command| {
        Ok(match (command.starts_with("crm_mon"), call % 3) {
            (true, 0) => STATUS.into(),
            (true, _) => everybody_left(),
            (false, _) => "".into(),
        })
    });
    let mut engine = engine(&cluster);
    engine.evacuate(&Scope::Host, "why").unwrap();
    soon("every cleanup", || cluster.count("crm_resource") == 3);
}

#[test]
fn a_dropped_engine_leaves_nobody_behind() {
    let cluster = Scripted::new(|_, call| match call {
        // A cluster that never gets the guests away.
        _ if call.starts_with("crm_mon") => Ok(STATUS.replace("blocked=\"true\"", "")),
        _ => Ok("".into()),
    });
    let mut engine = engine(&cluster);
    engine.evacuate(&Scope::Host, "why").unwrap();
    soon("a look at the cluster", || cluster.count("crm_mon") > 2);
    drop(engine);
    let looks = cluster.count("crm_mon");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(cluster.count("crm_mon"), looks);
}
