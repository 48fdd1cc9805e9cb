//! `cargo xtask corpus DIRECTORY`: what we decode, held against what others print for the same input.
//!
//! A corpus is a directory of `*.jsonl`, one case a line: `{id, kind, category, input, expected,
//! source}`, where `expected` has a key for each peer. Cases are broken down into *facts*: a name, what
//! each peer says, what we say. `tests/CORPUS.md` explains every kind of disagreement.

mod atl;
mod bits;
mod flat;
mod learned;
mod mce;
mod observe;
mod severity;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// One case.
#[derive(Deserialize)]
struct Case {
    id: String,
    category: String,
    input: Value,
    expected: Value,
}

/// One thing that peers say of a case, and what we say.
#[derive(Debug)]
struct Fact {
    name: String,
    /// Peer and value; at least one.
    peers: Vec<(&'static str, String)>,
    ours: Option<String>,
    /// Why the peers are wrong here, in one line, as `tests/CORPUS.md` has it in full.
    peer_wrong: Option<&'static str>,
}

impl Fact {
    fn new(
        name: impl Into<String>,
        peers: Vec<(&'static str, String)>,
        ours: Option<String>,
    ) -> Self {
        Self { name: name.into(), peers, ours, peer_wrong: None }
    }

    fn verdict(&self) -> Verdict {
        let first = self.peers.first().map(|(_, value)| value);
        let unanimous = self.peers.iter().all(|(_, value)| Some(value) == first);
        match &self.ours {
            Some(ours) if self.peers.iter().any(|(_, value)| value == ours) => Verdict::Agree,
            _ if self.peer_wrong.is_some() || !unanimous => Verdict::PeerWrong,
            Some(_) => Verdict::Disagree,
            None => Verdict::Undecoded,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// We say what a peer says; where peers contradict each other, what one of them says.
    Agree,
    /// All peers say the same, and we something else.
    Disagree,
    /// The peers contradict each other, or a rule says why they are wrong.
    PeerWrong,
    /// Peers know something that we do not say.
    Undecoded,
}

#[derive(Default)]
struct Score {
    cases: usize,
    agree: usize,
    disagree: usize,
    peer_wrong: usize,
    undecoded: usize,
    /// Reasons given for `peer_wrong`, and how often.
    reasons: BTreeMap<&'static str, usize>,
}

impl Score {
    fn add(&mut self, fact: &Fact) {
        match fact.verdict() {
            Verdict::Agree => self.agree += 1,
            Verdict::Disagree => self.disagree += 1,
            Verdict::Undecoded => self.undecoded += 1,
            Verdict::PeerWrong => {
                self.peer_wrong += 1;
                let reason = fact.peer_wrong.unwrap_or("the peers contradict each other");
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
    }

    /// Of the facts on which the peers agree with each other and no rule says that they are wrong.
    fn share(&self) -> f64 {
        let all = self.agree + self.disagree + self.undecoded;
        if all == 0 { 1.0 } else { self.agree as f64 / all as f64 }
    }
}

/// Agreement that is asked for, wherever peers agree with each other.
const SHARE_MIN: f64 = 0.99;

/// Compares; false if a category is below [`SHARE_MIN`]. `show` prints every fact not agreed on of the
/// categories whose name contains it.
pub(crate) fn run(directory: &Path, show: Option<&str>) -> Result<bool> {
    let mut categories: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in load(directory)? {
        categories.entry(case.category.clone()).or_default().push(case);
    }
    println!(
        "{:<18} {:>6} {:>7} {:>9} {:>11} {:>10} {:>8}",
        "category", "cases", "agree", "disagree", "peer wrong", "undecoded", "share"
    );
    let mut enough = true;
    let mut total = Score::default();
    for (category, cases) in &categories {
        let facts = facts(category, cases);
        let mut score = Score { cases: cases.len(), ..Score::default() };
        for (_, fact) in &facts {
            score.add(fact);
            total.add(fact);
        }
        total.cases += cases.len();
        print(category, &score);
        enough &= score.share() >= SHARE_MIN;
        if show.is_some_and(|wanted| category.contains(wanted)) {
            for (id, fact) in facts.iter().filter(|(_, fact)| fact.verdict() != Verdict::Agree) {
                let Fact { name, peers, ours, .. } = fact;
                println!("    {id}: {name}: {:?}, peers {peers:?}, ours {ours:?}", fact.verdict());
            }
        }
    }
    print("all", &total);
    for (reason, count) in &total.reasons {
        println!("  peer wrong {count:>5}  {reason}");
    }
    Ok(enough)
}

fn print(name: &str, score: &Score) {
    let Score { cases, agree, disagree, peer_wrong, undecoded, .. } = score;
    let share = 100.0 * score.share();
    println!(
        "{name:<18} {cases:>6} {agree:>7} {disagree:>9} {peer_wrong:>11} {undecoded:>10} {share:>7.2}%"
    );
}

fn facts<'a>(category: &str, cases: &'a [Case]) -> Vec<(&'a str, Fact)> {
    if category.starts_with("cper") || category == "bert" {
        return learned::facts(cases);
    }
    let one = |case: &'a Case| {
        let found = match category {
            "amd-atl" => atl::facts(case),
            "severity" | "severity-mcetest" => severity::facts(case),
            "dmesg-real" | "edac-real" | "bgl-real" | "whea-event-real" => text::facts(case),
            _ => mce::facts(case),
        };
        found.into_iter().map(|fact| (case.id.as_str(), fact))
    };
    cases.iter().flat_map(one).collect()
}

fn load(directory: &Path) -> Result<Vec<Case>> {
    let mut paths = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            paths.push(path);
        }
    }
    ensure!(!paths.is_empty(), "{} holds no *.jsonl", directory.display());
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        for (index, line) in text.lines().enumerate() {
            let case = serde_json::from_str(line)
                .with_context(|| format!("{} line {}", path.display(), index + 1))?;
            cases.push(case);
        }
    }
    Ok(cases)
}

/// `value` at a path of keys, if all of them are there.
fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// A number in JSON: a number, or `"0x…"`.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => u64::from_str_radix(text.strip_prefix("0x")?, 16).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(peers: &[&str], ours: Option<&str>) -> Fact {
        let peers = peers.iter().map(|value| ("peer", (*value).to_owned())).collect();
        Fact::new("fact", peers, ours.map(str::to_owned))
    }

    #[test]
    fn peers_that_contradict_each_other_settle_nothing() {
        assert_eq!(fact(&["1", "1"], Some("1")).verdict(), Verdict::Agree);
        assert_eq!(fact(&["1", "1"], Some("2")).verdict(), Verdict::Disagree);
        assert_eq!(fact(&["1", "1"], None).verdict(), Verdict::Undecoded);
        assert_eq!(fact(&["1", "2"], Some("3")).verdict(), Verdict::PeerWrong);
        assert_eq!(fact(&["1", "2"], Some("2")).verdict(), Verdict::Agree);
        let known = Fact { peer_wrong: Some("known"), ..fact(&["1"], Some("2")) };
        assert_eq!(known.verdict(), Verdict::PeerWrong);
    }
}
