//! The group as a whole: what it gets done, what checkpoints saved, what they cost, and the faults, over a stretch of time.
//!
//! All figures are measured: they are sums over records of jobs. Those of the newest jobs are read, which the page says.

mod figures;

use std::sync::Arc;

use askama::{Template, filters::HtmlSafe};
use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;

pub(super) use self::figures::Cache;
use self::figures::{Figures, Life};
use super::{
    Shell, Viewer, html, is_part,
    plot::{Axis, BarPlot},
    words,
};
use crate::{
    access::Caller,
    api::{Api, Problem, extract::Query},
};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A stretch of time that can be chosen, and into which parts it is cut.
struct Stretch {
    /// As the address says it.
    key: &'static str,
    name: &'static str,
    millis: u64,
    part: u64,
    /// How long a part is, in words.
    part_name: &'static str,
    /// How its times are written.
    form: &'static str,
}

const STRETCHES: [Stretch; 3] = [
    Stretch { key: "1h", name: "last hour", millis: HOUR, part: 5 * MINUTE, part_name: "in 5 min", form: "%H:%M" },
    Stretch {
        key: "24h",
        name: "last 24 hours",
        millis: 24 * HOUR,
        part: HOUR,
        part_name: "in an hour",
        form: "%H:%M",
    },
    Stretch {
        key: "7d",
        name: "last 7 days",
        millis: 7 * 24 * HOUR,
        part: 6 * HOUR,
        part_name: "in 6 h",
        form: "%b %-d",
    },
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    over: Option<String>,
}

#[derive(Template)]
#[template(path = "group.html")]
struct GroupPage {
    shell: Shell,
    part: GroupPart,
}

#[derive(Template)]
#[template(path = "group_part.html")]
struct GroupPart {
    stretches: Vec<(String, &'static str, &'static str)>,
    address: String,
    headline: Vec<Headline>,
    plots: Vec<BarPlot>,
    /// Of how many jobs the figures are.
    basis: String,
    is_empty: bool,
}

impl HtmlSafe for GroupPart {}

struct Headline {
    value: String,
    name: &'static str,
    note: String,
}

pub(super) async fn page(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(cache): Extension<Arc<Cache>>,
    Query(choice): Query<Choice>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = choice.over.as_deref().unwrap_or("24h");
    let stretch = STRETCHES
        .iter()
        .find(|stretch| stretch.key == key)
        .ok_or_else(|| Problem::bad_request(format!("{key:?} is not one of 1h, 24h, 7d")).field("over"))?;
    // The last part is the one that goes on; all begin at round times.
    let end = words::now().next_multiple_of(stretch.part);
    let figures = cache.get(&api, end.saturating_sub(stretch.millis)).await?;
    let viewer = Viewer::from(&caller);
    let part = GroupPart::new(&figures, &viewer, stretch, end);
    Ok(if is_part(&headers) {
        html(&part)
    } else {
        html(&GroupPage { shell: Shell::new("Group", "group", viewer), part })
    })
}

impl GroupPart {
    fn new(figures: &Figures, viewer: &Viewer, stretch: &Stretch, end: u64) -> Self {
        let from = end.saturating_sub(stretch.millis);
        let lives: Vec<&Life> = figures.lives.iter().filter(|life| viewer.may_see(&life.owner)).collect();
        let ends: Vec<u64> = if viewer.is_admin {
            figures.ends.clone()
        } else {
            lives.iter().filter_map(|life| life.ended_at).collect()
        };
        let within = |at: u64| at >= from;
        let ended: u64 = ends.iter().filter(|at| within(**at)).count() as u64;
        let faults: Vec<u64> =
            lives.iter().flat_map(|life| life.faults.iter().copied()).filter(|at| within(*at)).collect();
        let saved: Vec<(u64, u64)> =
            lives.iter().flat_map(|life| life.saved.iter().copied()).filter(|(at, _)| within(*at)).collect();
        let (still, ran) = overhead(lives.iter().copied());
        let moved = words::count(saved.len() as u64, "resume");
        let headline = vec![
            Headline { value: words::grouped(ended), name: "jobs finished", note: stretch.name.to_owned() },
            Headline {
                value: words::span(saved.iter().map(|(_, millis)| millis).sum()),
                name: "work saved by checkpoints",
                note: format!("{moved} from a checkpoint"),
            },
            Headline {
                value: share(still, ran),
                name: "overhead paid",
                note: format!("{} of standstill in {} of work", words::span(still), words::span(ran)),
            },
            Headline {
                value: words::grouped(faults.len() as u64),
                name: "faults under a job",
                note: "nodes that died with a job, or failed it".to_owned(),
            },
        ];
        let cut = Cut { from, stretch };
        let plots = vec![
            cut.plot("Jobs finished", Axis::Count, &ends.iter().map(|at| (*at, 1.0)).collect::<Vec<_>>(), whole),
            cut.plot(
                "Work saved by checkpoints",
                Axis::Time,
                &saved.iter().map(|(at, millis)| (*at, *millis as f64 / 1_000.0)).collect::<Vec<_>>(),
                words::span_s,
            ),
            cut.overhead(&lives),
            cut.plot("Faults", Axis::Count, &faults.iter().map(|at| (*at, 1.0)).collect::<Vec<_>>(), whole),
        ];
        let address = |key: &str| format!("/group?over={key}");
        Self {
            stretches: STRETCHES
                .iter()
                .map(|other| (address(other.key), other.name, if other.key == stretch.key { "true" } else { "false" }))
                .collect(),
            address: address(stretch.key),
            headline,
            plots,
            is_empty: ended == 0 && lives.is_empty(),
            basis: basis(lives.len(), figures.is_cut),
        }
    }
}

fn basis(lives: usize, is_cut: bool) -> String {
    let jobs = words::count(lives as u64, "job");
    if is_cut {
        format!("Savings, overhead and faults are those of the newest {jobs}.")
    } else {
        format!("From {jobs}.")
    }
}

fn whole(number: f64) -> String {
    words::grouped(number.round() as u64)
}

fn share(part: u64, all: u64) -> String {
    if all == 0 { "–".to_owned() } else { percent(part as f64 / all as f64 * 100.0) }
}

fn percent(number: f64) -> String {
    if number > 0.0 && number < 0.095 { format!("{number:.2} %") } else { format!("{number:.1} %") }
}

/// Standstill for checkpoints and time run, both in milliseconds.
fn overhead<'a>(lives: impl Iterator<Item = &'a Life>) -> (u64, u64) {
    lives.fold((0, 0), |(still, ran), life| (still + life.standstill_ms, ran + life.ran_ms))
}

/// A stretch of time cut into parts.
struct Cut<'a> {
    from: u64,
    stretch: &'a Stretch,
}

impl Cut<'_> {
    fn parts(&self) -> usize {
        self.stretch.millis.div_ceil(self.stretch.part) as usize
    }

    fn part_of(&self, at: u64) -> Option<usize> {
        let index = at.checked_sub(self.from)? / self.stretch.part;
        usize::try_from(index).ok().filter(|index| *index < self.parts())
    }

    /// Adds up what happened in each part.
    fn plot(&self, title: &'static str, axis: Axis, events: &[(u64, f64)], form: fn(f64) -> String) -> BarPlot {
        let mut sums = vec![0.0; self.parts()];
        for (at, value) in events {
            if let Some(index) = self.part_of(*at) {
                sums[index] += value;
            }
        }
        BarPlot::new(title, axis, self.stretch.part_name, self.labelled(sums), form)
    }

    /// The share of their time that the jobs which ended in each part stood still for checkpoints.
    fn overhead(&self, lives: &[&Life]) -> BarPlot {
        let mut sums = vec![(0, 0); self.parts()];
        for life in lives {
            if let Some(index) = life.ended_at.and_then(|at| self.part_of(at)) {
                sums[index].0 += life.standstill_ms;
                sums[index].1 += life.ran_ms;
            }
        }
        let shares =
            sums.into_iter().map(|(still, ran)| if ran == 0 { 0.0 } else { still as f64 / ran as f64 * 100.0 });
        BarPlot::new("Overhead paid", Axis::Share, "of the run time", self.labelled(shares.collect()), percent)
    }

    fn labelled(&self, values: Vec<f64>) -> Vec<(String, f64)> {
        let at = |index: usize| self.from + index as u64 * self.stretch.part;
        values
            .into_iter()
            .enumerate()
            .map(|(index, value)| (words::date(at(index), self.stretch.form), value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_added_up_where_it_happened() {
        let cut = Cut { from: 0, stretch: &STRETCHES[0] };
        assert_eq!(cut.parts(), 12);
        assert_eq!((cut.part_of(0), cut.part_of(5 * MINUTE), cut.part_of(HOUR)), (Some(0), Some(1), None));
        let plot = cut.plot("Faults", Axis::Count, &[(MINUTE, 1.0), (2 * MINUTE, 1.0), (59 * MINUTE, 1.0)], whole);
        assert_eq!(plot.values(), [2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn shares_are_told_with_useful_digits() {
        assert_eq!((share(0, 0), share(1, 2_000), share(1, 40)), ("–".into(), "0.05 %".into(), "2.5 %".into()));
    }
}
