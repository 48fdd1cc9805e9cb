//! A figure, what it is held against, and how a list of them is shown.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    /// What was measured.
    pub(super) figure: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    /// What it is held against, with its value; empty where nothing comparable exists.
    pub(super) against: String,
    /// `value` divided by what it is held against.
    pub(super) ratio: Option<f64>,
    /// The target in words; empty where there is none.
    pub(super) target: String,
    /// Whether the target is met.
    pub(super) met: Option<bool>,
}

impl Figure {
    pub(super) fn new(figure: &str, value: f64, unit: &'static str) -> Self {
        let (against, target) = (String::new(), String::new());
        Self { figure: figure.to_owned(), value, unit, against, ratio: None, target, met: None }
    }

    /// Holds the figure against another one of the same unit.
    pub(super) fn against(mut self, what: &str, value: f64) -> Self {
        self.against = format!("{what}: {value:.3} {}", self.unit);
        self.ratio = (value > 0.0).then(|| self.value / value);
        self
    }

    /// Says that `what` would be held against it and was not given.
    pub(super) fn not_given(mut self, what: &str) -> Self {
        self.against = format!("{what} not given");
        self
    }

    /// At most `limit`, in the figure's own unit.
    pub(super) fn at_most(mut self, limit: f64) -> Self {
        self.target = format!("≤ {limit} {}", self.unit);
        self.met = Some(self.value <= limit);
        self
    }

    /// At most `limit` times what it is held against.
    pub(super) fn ratio_at_most(mut self, limit: f64) -> Self {
        self.target = format!("≤ {limit}x");
        self.met = self.ratio.map(|ratio| ratio <= limit);
        self
    }

    /// At least `limit` times what it is held against.
    pub(super) fn ratio_at_least(mut self, limit: f64) -> Self {
        self.target = format!("≥ {limit}x");
        self.met = self.ratio.map(|ratio| ratio >= limit);
        self
    }
}

/// The machine in one line.
pub(super) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    format!("{model}, {cores} cores, {} GiB, Linux {}", memory >> 20, kernel.trim())
}

pub(super) fn print(figures: &[Figure]) {
    let header = ["figure", "value", "against", "ratio", "target", "met"].map(str::to_owned);
    let rows = figures.iter().map(|figure| {
        [
            figure.figure.clone(),
            format!("{:.3} {}", figure.value, figure.unit),
            figure.against.clone(),
            figure.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x")),
            figure.target.clone(),
            figure.met.map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        println!("{}", line.trim_end());
    }
}

/// Medians and percentiles of a sample.
pub(super) struct Sample(Vec<f64>);

impl Sample {
    pub(super) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(super) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// Nearest-rank percentile; NaN of nothing.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self::new(values.into_iter().collect())
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_sample() {
        let sample: Sample = (1..=100).map(f64::from).collect();
        assert!((sample.median() - 50.0).abs() < f64::EPSILON);
        assert!((sample.percentile(99) - 99.0).abs() < f64::EPSILON);
        assert!(Sample::new(Vec::new()).median().is_nan());
    }

    #[test]
    fn a_target_is_met_or_not() {
        let figure = Figure::new("commit", 3.0, "ms").against("bare", 2.0).ratio_at_most(2.0);
        assert_eq!((figure.ratio, figure.met), (Some(1.5), Some(true)));
        assert_eq!(Figure::new("gap", 3.0, "ms").at_most(2.0).met, Some(false));
    }
}
