//! Errors over time as a drawing: bars stacked by severity, storms as bands behind them.

use maud::{Markup, html};
use ras_core::Timestamp;

use crate::analyze::text::plural;
use crate::analyze::timeline::{Level, View};
use crate::analyze::{Findings, Levels};
use crate::human::rfc3339;

/// Steps drawn.
const STEPS: usize = 120;
/// Storms drawn: those with the most errors.
const STORMS: usize = 100;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 26.0;
const PLOT: f64 = 170.0;
const BOTTOM: f64 = 40.0;
/// Lowest bar: a single error beside thousands is still to be seen.
const BAR_MIN: f64 = 3.0;

pub(super) fn draw(findings: &Findings) -> Markup {
    let view = findings.timeline.view(STEPS);
    if view.steps.is_empty() {
        return html! { p { "No error has a time." } };
    }
    let plot_width = WIDTH - LEFT - RIGHT;
    let step_width = plot_width / count(view.steps.len());
    let highest = view.highest().max(1);
    let span = (view.end_s() - view.start_s).max(1);
    let x = |second: u64| {
        let into = second.saturating_sub(view.start_s).min(span);
        LEFT + plot_width * float(into) / float(span)
    };
    let base = TOP + PLOT;
    let mut storms: Vec<_> = findings.storms.iter().collect();
    storms.sort_by_key(|(_, storm)| std::cmp::Reverse(storm.errors));
    let height = TOP + PLOT + BOTTOM;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Timeline, scrolls sideways" {
            svg.timeline viewBox=(format!("0 0 {WIDTH} {height}")) role="img"
                aria-label=(describe(&view)) {
                @for (part, storm) in storms.iter().take(STORMS) {
                    @let from = x(storm.start.secs());
                    @let width = (x(storm.end.secs()) - from).max(4.0);
                    g.storm {
                        title { "storm of " (storm.errors) " corrected errors, " (part) ", from "
                            (rfc3339(storm.start)) " to " (rfc3339(storm.end)) }
                        rect x=(at(from)) y=(at(TOP)) width=(at(width)) height=(at(PLOT)) {}
                        path d=(format!("M{} {} l-6 -10 h12 z", at(from + width / 2.0), at(TOP))) {}
                    }
                }
                @for part in 0..=2_u64 {
                    @let y = base - PLOT * float(part) / 2.0;
                    line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at(y)) y2=(at(y)) {}
                    @if part != 1 || highest > 1 {
                        text.axis x=(LEFT - 8.0) y=(at(y + 4.0)) text-anchor="end" {
                            (half(highest, part))
                        }
                    }
                }
                @for (index, step) in view.steps.iter().enumerate().filter(|(_, s)| s.total() > 0) {
                    @let left = LEFT + step_width * count(index);
                    (bar(step, left, (step_width - 1.0).max(1.5), base, highest, &tooltip(&view, index)))
                }
                @for (tick, anchor) in [(0, "start"), (1, "middle"), (2, "end")] {
                    @let second = view.start_s + span / 2 * tick;
                    text.axis x=(at(x(if tick == 2 { view.end_s() } else { second })))
                        y=(at(base + 18.0)) text-anchor=(anchor) {
                        (label(if tick == 2 { view.end_s() } else { second }))
                    }
                }
                text.axis x=(LEFT) y=(at(base + 35.0)) { "one bar: " (view.step()) }
            }
        }
        ul.legend {
            @for level in Level::ALL {
                @let errors = findings.errors.get(level);
                @if errors > 0 {
                    li { span.swatch.(level.name()) {} (level.name()) " " b { (errors) } }
                }
            }
            @if !storms.is_empty() {
                li { span.swatch.stormy {} "storm " b { (storms.len()) } }
            }
            @if findings.errors.get(Level::Uncorrected) > 0 || findings.errors.get(Level::Fatal) > 0 {
                li { span.cross aria-hidden="true" { "×" } "data was lost" }
            }
            @if storms.len() > STORMS { li { (storms.len() - STORMS) " storms are not drawn" } }
            @let untimed = findings.timeline.untimed.total();
            @if untimed > 0 { li.muted { (plural(untimed, "error")) " without a time, not drawn" } }
        }
    }
}

/// The mildest level lies lowest; each that is there is to be seen.
fn bar(step: &Levels, left: f64, width: f64, base: f64, highest: u64, tooltip: &str) -> Markup {
    let order = [Level::Corrected, Level::Unclassified, Level::Uncorrected, Level::Fatal];
    let mut y = base;
    let mut rects = Vec::new();
    for level in order {
        let errors = step.get(level);
        if errors > 0 {
            let height = (PLOT * float(errors) / float(highest)).max(BAR_MIN);
            y -= height;
            rects.push((level, y, height));
        }
    }
    let top = y;
    html! {
        g.step {
            title { (tooltip) }
            @for (level, y, height) in rects {
                rect class=(level.name()) x=(at(left)) y=(at(y)) width=(at(width))
                    height=(at(height)) {}
            }
            @if step.get(Level::Uncorrected) > 0 || step.get(Level::Fatal) > 0 {
                path.lost d=(format!("M{} {}l7 7m0-7l-7 7", at(left + width / 2.0 - 3.5), at(top - 12.0))) {}
            }
        }
    }
}

fn tooltip(view: &View, index: usize) -> String {
    let start = view.start_s.saturating_add(view.step_s.saturating_mul(index as u64));
    let levels = view.steps.get(index).copied().unwrap_or_default();
    let named = Level::ALL.iter().filter(|level| levels.get(**level) > 0);
    let figures: Vec<String> =
        named.map(|level| format!("{} {}", levels.get(*level), level.name())).collect();
    format!("{}: {}", label(start), figures.join(", "))
}

fn describe(view: &View) -> String {
    format!(
        "errors from {} to {}, at most {} in {}",
        label(view.start_s),
        label(view.end_s()),
        view.highest(),
        view.step()
    )
}

/// A time without its seconds where they are none.
fn label(second: u64) -> String {
    let text = rfc3339(Timestamp::from_secs(second)).replace('T', " ");
    match text.strip_suffix(":00Z") {
        Some(minutes) => format!("{minutes}Z"),
        None => text,
    }
}

fn half(highest: u64, part: u64) -> String {
    match part {
        0 => "0".into(),
        1 if highest.is_multiple_of(2) => (highest / 2).to_string(),
        1 => format!("{}.5", highest / 2),
        _ => highest.to_string(),
    }
}

/// Coordinates with a tenth of a unit are exact enough, and short.
pub(super) fn at(coordinate: f64) -> String {
    let text = format!("{coordinate:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[expect(clippy::cast_precision_loss, reason = "for a drawing, 53 bits are plenty")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

pub(super) fn count(number: usize) -> f64 {
    float(number as u64)
}
