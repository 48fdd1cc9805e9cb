//! The story: an error, a live migration, a dead node, and a cluster without a good node left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use cluster_glue::{HaEngine as _, Pacemaker, PacemakerConfig, Scope};
use serde::Serialize;

use super::Lab;
use super::console::{Console, Line};
use super::process::wait_until;
use crate::{Story, Summary, capability, packages};

/// What was measured. Milliseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Figures {
    /// From the first node's power to a cluster of three.
    pub formed_ms: f64,
    /// From loading the configuration to the guest's first line.
    pub first_start_ms: f64,
    /// From the second lost page entering `rasd` to `#health-memory=red` on its way.
    pub error_to_red_ms: f64,
    /// From there to the agent's `migrate_to`. The target is 200.
    pub red_to_migrate_ms: f64,
    /// From there to the guest's first tick on the new node.
    pub red_to_moved_ms: f64,
    /// The guest stood still, by its own ticks as seen from outside: the longest pause between
    /// two, with the move in it. An upper bound; a tick's period and 1 ms of our own are part of it.
    pub gap_ms: f64,
    /// The guest stood still, by the monitor's account.
    pub downtime_ms: Option<f64>,
    /// From a node's death to its fencing.
    pub death_to_fenced_ms: f64,
    /// From a node's death to the guest's first line on another node.
    pub death_to_started_ms: f64,
}

/// Whether this machine can tell the story.
///
/// # Errors
/// What is missing, in one line.
pub fn requirements() -> Result<(), String> {
    capability::root()?;
    capability::namespaces()?;
    capability::kvm()?;
    capability::program("setpriv").map(drop)?;
    packages::obtainable("iproute2", "ip")?;
    capability::memory(1500)
}

/// Tells the story.
///
/// # Errors
/// It can't be told: a requirement is missing, or the lab itself failed. What the cluster did wrong
/// is a failed step of the summary instead.
pub fn run() -> Result<Summary> {
    run_measured().map(|(summary, _)| summary)
}

/// Tells the story and returns the figures as well.
///
/// # Errors
/// See [`run`].
pub fn run_measured() -> Result<(Summary, Figures)> {
    requirements().map_err(anyhow::Error::msg)?;
    packages::ensure(&["iproute2"])?;
    let mut story = Story::begin("A cluster of three: Corosync, Pacemaker, fencing, one guest");
    let mut figures = Figures::default();
    let lab = Lab::up(3)?;
    figures.formed_ms = ms(lab.formed_in());
    story.pass(&format!("three nodes formed a cluster in {:.1} s", lab.formed_in().as_secs_f64()));
    let mut tale = Tale { console: lab.console("vm1"), lab, figures: &mut figures };
    let told = tale.tell(&mut story);
    if let Err(error) = &told {
        story.fail(&format!("{error:#}"));
    }
    let logs = tale.lab.keep_logs()?;
    story.note(&format!("the nodes' logs are in {}", logs.display()));
    drop(tale);
    Ok((story.end(), figures))
}

struct Tale<'a> {
    console: Console,
    lab: Lab,
    figures: &'a mut Figures,
}

impl Tale<'_> {
    fn tell(&mut self, story: &mut Story) -> Result<()> {
        let first = self.start(story)?;
        let second = self.error_moves_the_guest(story, &first)?;
        let third = self.death_is_survived(story, &second)?;
        // Now `first` is red, `second` comes back green, and `third` has the guest and is green.
        self.one_guest_leaves(story, &third, &second)?;
        self.failed_migration_is_retried(story, &first, &third, &second)?;
        self.no_good_node_left(story)
    }

    fn start(&mut self, story: &mut Story) -> Result<String> {
        story.chapter("The guest starts");
        let began = SystemTime::now();
        let load = ["cibadmin", "--replace", "--scope", "configuration"];
        self.lab.exec("n1", &[&load[..], &["--xml-file", "/lab/etc/cluster.xml"]].concat())?;
        let ready = self.wait_line(Duration::from_secs(30), Line::is_boot)?;
        self.figures.first_start_ms = ms_between(began, ready.time);
        story.pass(&format!("vm1 runs on {}: {:?}", ready.node, ready.text));
        self.wait_settled()?;
        Ok(ready.node)
    }

    fn error_moves_the_guest(&mut self, story: &mut Story, from: &str) -> Result<String> {
        story.chapter("Memory of its node fails");
        let mark = SystemTime::now();
        self.lab.inject(from, &lost_page(0x7f00_0001))?;
        let health = self.wait_call(from, mark, is_health)?;
        story.check(
            &format!("one lost page: {from} is {}", value(&health.call)),
            expect(value(&health.call) == "yellow", "not yellow"),
        );
        self.wait_settled()?;
        story.check("and the guest stays", self.runs_on(from));

        let (_, before) = self.console.last_tick().context("the guest does not tick")?;
        let injected = SystemTime::now();
        self.lab.inject(from, &lost_page(0x7f00_0002))?;
        let red = self.wait_call(from, injected, |call| is_health(call) && value(call) == "red")?;
        self.figures.error_to_red_ms = ms_between(injected, red.time);
        story.pass(&format!(
            "a second lost page: #health-memory=red after {:.1} ms",
            self.figures.error_to_red_ms
        ));
        let began = self.wait_call(from, red.time, |call| call == "vm migrate_to")?;
        self.figures.red_to_migrate_ms = ms_between(red.time, began.time);
        story.check(
            &format!("migrate_to began {:.0} ms later", self.figures.red_to_migrate_ms),
            expect(self.figures.red_to_migrate_ms <= 200.0, "the target is 200 ms"),
        );
        let landed = self.wait_line(Duration::from_secs(30), |line| {
            line.node != from && line.time > red.time && line.tick().is_some()
        })?;
        let to = landed.node.clone();
        self.figures.red_to_moved_ms = ms_between(red.time, landed.time);
        story.pass(&format!("it ticks on {to} {:.0} ms after red", self.figures.red_to_moved_ms));
        self.wait_settled()?;
        thread::sleep(Duration::from_millis(500));

        let lines = self.console.lines();
        story.check("its counter never went back and no tick was made twice", one_life(&lines));
        let boots = lines.iter().filter(|line| line.is_boot()).count();
        story.check("it booted once", expect(boots == 1, &format!("{boots} boots")));
        let ticks = lines.iter().filter_map(Line::tick).filter(|tick| *tick > before).count();
        story.check("it went on ticking", expect(ticks > 5, &format!("{ticks} ticks")));
        story.check("every sum it checked is right", sums_hold(&lines));
        self.figures.gap_ms = gap_ms(&lines, from, &to).context("no ticks around the move")?;
        self.figures.downtime_ms = self.downtime_ms(from);
        story.note(&format!(
            "the guest stood still for {:.1} ms between two ticks{}",
            self.figures.gap_ms,
            self.figures
                .downtime_ms
                .map_or(String::new(), |ms| format!("; its monitor says {ms} ms"))
        ));
        story.check(&format!("Pacemaker says it runs on {to}"), self.runs_on(&to));
        story.check(&format!("and nothing is left of it on {from}"), self.no_monitor_on(from));
        Ok(to)
    }

    fn death_is_survived(&mut self, story: &mut Story, on: &str) -> Result<String> {
        story.chapter("The new node dies");
        let died = SystemTime::now();
        self.lab.kill(on)?;
        story.note(&format!("SIGKILL to the init of {on}"));
        let fenced = wait_until(Duration::from_secs(30), || {
            self.lab.power_events().into_iter().find(|event| event.node == on && event.time > died)
        })
        .with_context(|| format!("{on} is not fenced"))?;
        self.figures.death_to_fenced_ms = ms_between(died, fenced.time);
        story.pass(&format!(
            "{on} is fenced ({}) after {:.1} s",
            fenced.action,
            self.figures.death_to_fenced_ms / 1e3
        ));
        let ready =
            self.wait_line(Duration::from_secs(30), |line| line.time > died && line.is_boot())?;
        self.figures.death_to_started_ms = ms_between(died, ready.time);
        story.check(
            &format!(
                "vm1 starts anew on {} {:.1} s after the death",
                ready.node,
                self.figures.death_to_started_ms / 1e3
            ),
            expect(ready.node != on && ready.time > fenced.time, "before its old node was fenced"),
        );
        let lines = self.console.lines();
        let late = lines.iter().filter(|line| line.node == on && line.time > ready.time).count();
        story.check("and never ran twice", expect(late == 0, &format!("{late} lines from {on}")));
        self.wait_settled()?;
        Ok(ready.node)
    }

    /// The engine, as rasd uses it when a guest keeps a bad page. `back` was dead.
    fn one_guest_leaves(&mut self, story: &mut Story, on: &str, back: &str) -> Result<()> {
        story.chapter("One guest has to leave");
        self.lab.power_on(back)?;
        self.lab.wait_formed(3)?;
        story.pass(&format!("{back} is back"));
        self.wait_settled()?;
        let mark = SystemTime::now();
        let config = PacemakerConfig { node: Some(on.to_owned()), ..PacemakerConfig::default() };
        let mut engine = Pacemaker::with_runner(config, Arc::new(self.lab.runner(on)?));
        let evacuated = engine.evacuate(&Scope::Guest("vm1".to_owned()), "a bad page");
        story.check(
            &format!("{on} is marked as a place that vm1 should leave"),
            evacuated.map(drop).map_err(|error| error.to_string()),
        );
        self.wait_line(Duration::from_secs(30), |line| {
            line.node == back && line.time > mark && line.tick().is_some()
        })?;
        story.pass(&format!("vm1 moved to {back}"));
        self.wait_settled()?;
        self.lab.exec(on, &["attrd_updater", "-n", "ras-leave-vm1", "-D"])?;
        self.wait_settled()?;
        story.check(&format!("the mark is taken off, and it stays on {back}"), self.runs_on(back));
        Ok(())
    }

    /// The only node that could take the guest can't, for a while.
    fn failed_migration_is_retried(
        &mut self,
        story: &mut Story,
        red: &str,
        free: &str,
        on: &str,
    ) -> Result<()> {
        story.chapter("A migration fails");
        self.lab.exec(free, &["sh", "-c", "kill -KILL $(cat /run/ras-landing.pid)"])?;
        story.note(&format!("{free} loses its landing service, {red} is still red"));
        let mark = SystemTime::now();
        self.lab.inject(on, &lost_page(0x7f00_0003))?;
        self.lab.inject(on, &lost_page(0x7f00_0004))?;
        self.wait_call(on, mark, |call| call == "vm migrate_to")?;
        let blocked = wait_until(Duration::from_secs(10), || {
            let status = self.lab.status(on).ok()?;
            status.resources.into_iter().find(|resource| resource.id == "vm1" && resource.blocked)
        });
        let (_, before) = self.console.last_tick().context("the guest does not tick")?;
        thread::sleep(Duration::from_millis(200));
        let (line, after) = self.console.last_tick().context("the guest does not tick")?;
        // Pacemaker can't know how far the migration got and names both nodes; the guest knows.
        story.check(
            "vm1 can't move: Pacemaker leaves it alone",
            expect(blocked.is_some(), "it is not blocked"),
        );
        story.check(
            &format!("and it runs on, on {on}"),
            expect(after > before && line.node == on, &format!("it is at {line:?}")),
        );
        self.lab.exec(free, &["sh", "-c", LANDING])?;
        story.note(&format!("the landing service of {free} is back"));
        self.wait_line(Duration::from_secs(60), |line| {
            line.node == free && line.time > mark && line.tick().is_some()
        })?;
        story.pass(&format!("rasd had the failure cleaned up: vm1 moved to {free}"));
        self.wait_settled()?;
        let lines = self.console.lines();
        story.check("its counter never went back and no tick was made twice", one_life(&lines));
        Ok(())
    }

    fn no_good_node_left(&mut self, story: &mut Story) -> Result<()> {
        story.chapter("Every node is red");
        let on = self.console.last_tick().context("the guest does not tick")?.0.node;
        let mark = SystemTime::now();
        self.lab.inject(&on, &lost_page(0x7f00_0005))?;
        self.lab.inject(&on, &lost_page(0x7f00_0006))?;
        self.wait_call(&on, mark, |call| is_health(call) && value(call) == "red")?;
        self.wait_settled()?;
        let status = self.lab.status(&on)?;
        let red = status.nodes.iter().filter(|node| node.health == Some(ras_core::Health::Red));
        let red = red.count();
        story.check("three nodes are red", expect(red == 3, &format!("{red} are")));
        let (_, before) = self.console.last_tick().context("the guest does not tick")?;
        thread::sleep(Duration::from_secs(5));
        let (line, after) = self.console.last_tick().context("the guest does not tick")?;
        story.check(
            &format!("five seconds later vm1 still runs on {on}"),
            expect(after > before && line.node == on, &format!("it is at {line:?}")),
        );
        let disturbed = self.lab.journal().into_iter().find(|entry| {
            entry.time > mark && matches!(entry.call.as_str(), "vm stop" | "vm migrate_to")
        });
        story.check(
            "nothing stopped, nothing moved",
            disturbed.map_or(Ok(()), |entry| Err(format!("{} on {}", entry.call, entry.node))),
        );
        Ok(())
    }

    fn wait_line(&self, limit: Duration, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let found = wait_until(limit, || self.console.lines().into_iter().find(&wanted));
        found.with_context(|| {
            let last = self.console.lines().pop();
            format!("the guest did not say it within {limit:?}; its last line is {last:?}")
        })
    }

    fn wait_call(
        &self,
        node: &str,
        after: SystemTime,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<super::lab::JournalEntry> {
        let limit = Duration::from_secs(30);
        let found = wait_until(limit, || {
            self.lab
                .journal()
                .into_iter()
                .find(|entry| entry.node == node && entry.time > after && wanted(&entry.call))
        });
        found.with_context(|| {
            let last = self.lab.journal().pop();
            format!("{node} did not do it within {limit:?}; the last call is {last:?}")
        })
    }

    /// Waits until Pacemaker has nothing more to do.
    fn wait_settled(&self) -> Result<()> {
        let node = self.lab.alive().into_iter().next().context("every node is off")?;
        self.lab.exec(&node, &["crm_resource", "--wait", "--timeout", "14"]).map(drop)
    }

    fn runs_on(&self, node: &str) -> Result<(), String> {
        let status = self.lab.status(node).map_err(|error| format!("{error:#}"))?;
        let vm = status.resources.iter().find(|resource| resource.id == "vm1");
        let vm = vm.ok_or("there is no vm1")?;
        expect(vm.nodes == [node] && !vm.blocked, &format!("{vm:?}"))
    }

    fn no_monitor_on(&self, node: &str) -> Result<(), String> {
        let found = self
            .lab
            .exec(
                node,
                &["sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null | grep -c ^rasvmm || true"],
            )
            .map_err(|error| format!("{error:#}"))?;
        expect(found.trim() == "0", &format!("{} monitors", found.trim()))
    }

    /// What the agent wrote to Pacemaker's log when the guest had left.
    fn downtime_ms(&self, node: &str) -> Option<f64> {
        let log = fs::read_to_string(self.lab.log(node).join("pacemaker/pacemaker.log")).ok()?;
        let (_, rest) = log.rsplit_once("guest stood still for ")?;
        rest.split(' ').next()?.parse().ok()
    }
}

/// Starts the landing service again.
const LANDING: &str =
    "ras-landing --listen 0.0.0.0:16520 </dev/null >>/var/log/rasvmm/landing 2>&1 &";

/// A machine check as the kernel reports it: an uncorrected memory error in use at page `pfn`, which
/// no machine that runs this has, so that nobody's memory is searched in vain for long.
fn lost_page(pfn: u64) -> String {
    let time_ns = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let addr = pfn << 12;
    format!(
        "{{\"time_ns\":{time_ns},\"mce\":{{\"vendor\":\"intel\",\"cpuid\":\"0x50654\",\"bank\":7,\
         \"status\":\"0xbd80000000100134\",\"addr\":\"{addr:#x}\",\"misc\":\"0x86\",\
         \"mcg_status\":\"0x7\"}}}}\n"
    )
}

fn is_health(call: &str) -> bool {
    call.starts_with("attrd_updater") && call.contains("#health-memory")
}

/// The value that a call of `attrd_updater` sets.
fn value(call: &str) -> &str {
    call.split(' ').skip_while(|word| *word != "-U").nth(1).unwrap_or("")
}

/// Within each boot, ticks rise on every node, and no number is there twice. A guest that ran twice at
/// a time, or that went back to an older state, repeats a number. (Lines of two nodes that were read
/// in the same moment may be in either order, so the order across nodes says nothing.)
fn one_life(lines: &[Line]) -> Result<(), String> {
    let (mut seen, mut newest) = (BTreeSet::new(), BTreeMap::new());
    for line in lines {
        if line.is_boot() {
            seen.clear();
            newest.clear();
        }
        let Some(tick) = line.tick() else { continue };
        if !seen.insert(tick) {
            return Err(format!("tick {tick} was made again on {}", line.node));
        }
        if let Some(last) = newest.insert(&line.node, tick).filter(|last| *last > tick) {
            return Err(format!("tick {tick} came after tick {last} on {}", line.node));
        }
    }
    expect(!seen.is_empty(), "there is no tick")
}

fn sums_hold(lines: &[Line]) -> Result<(), String> {
    let bad = lines.iter().find(|line| line.text.contains("sum=BAD"));
    bad.map_or(Ok(()), |line| Err(format!("{} on {}", line.text, line.node)))
}

/// From the last tick on `from` to the first on `to`.
fn gap_ms(lines: &[Line], from: &str, to: &str) -> Option<f64> {
    let ticks = || lines.iter().filter(|line| line.tick().is_some());
    let last = ticks().rfind(|line| line.node == from)?;
    let first = ticks().find(|line| line.node == to)?;
    Some(ms_between(last.time, first.time))
}

fn expect(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ms_between(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).map_or_else(|error| -ms(error.duration()), ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[(&str, &str)]) -> Vec<Line> {
        let time = SystemTime::UNIX_EPOCH;
        let line = |(node, text): &(&str, &str)| Line {
            time,
            node: (*node).to_owned(),
            text: (*text).to_owned(),
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn one_life_is_told_from_two() {
        let moved = [("n1", "tick 1 sum=ok"), ("n1", "tick 2 sum=ok"), ("n2", "tick 3 sum=ok")];
        assert_eq!(one_life(&said(&moved)), Ok(()));
        let out_of_order = [("n2", "tick 3 "), ("n1", "tick 2 "), ("n2", "tick 4 ")];
        assert_eq!(one_life(&said(&out_of_order)), Ok(()), "read in the same moment");
        let twice = [("n1", "tick 1 "), ("n1", "tick 2 "), ("n2", "tick 2 ")];
        assert!(one_life(&said(&twice)).is_err());
        let back = [("n1", "tick 5 "), ("n1", "tick 4 ")];
        assert!(one_life(&said(&back)).is_err());
        let anew = [("n1", "tick 5 "), ("n2", "guest: ready ram=1"), ("n2", "tick 1 ")];
        assert_eq!(one_life(&said(&anew)), Ok(()));
        assert!(one_life(&[]).is_err(), "silence proves nothing");
    }

    #[test]
    fn the_value_of_a_mark_is_found() {
        assert_eq!(value("attrd_updater -n #health-memory -U red -d 0"), "red");
        assert_eq!(value("attrd_updater -n #health-memory"), "");
    }
}
