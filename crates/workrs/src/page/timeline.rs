//! A job's life as a picture: which node ran it when, its checkpoints, its faults and the work that they cost, and when
//! it waited. The same is told as a table.
//!
//! Times of several machines stand side by side here. They are for people: nothing is decided by them.

use askama::{Template, filters::HtmlSafe};

use super::{
    parts::When,
    percent::{Percent, Scale, time_step},
    story::End,
    words,
};
use crate::api::{AttemptView, CheckpointView, JobView};

/// Height of a lane and of what stands above and below the lanes, in pixels.
const LANE: u32 = 40;
const AXIS: u32 = 26;
/// A bar is never narrower: what is there is seen.
const NARROWEST: f64 = 0.003;

#[derive(Template)]
#[template(path = "timeline.html")]
pub(super) struct TimeLine {
    lanes: Vec<Lane>,
    waits: Vec<Bar>,
    ticks: Vec<Tick>,
    lanes_end: u32,
    height: u32,
    description: String,
    rows: Vec<EventRow>,
    left_out: Option<String>,
}

impl HtmlSafe for TimeLine {}

/// What ran on one node.
struct Lane {
    node: String,
    top: u32,
    bars: Vec<Bar>,
    marks: Vec<Mark>,
}

struct Bar {
    x: Percent,
    width: Percent,
    class: &'static str,
    title: String,
}

/// A checkpoint or a fault.
struct Mark {
    x: Percent,
    /// `checkpoint`, `bad`, `dropped` or `fault`.
    class: &'static str,
    title: String,
}

struct Tick {
    x: Percent,
    label: String,
    anchor: &'static str,
}

/// The same in words.
struct EventRow {
    when: When,
    at: u64,
    what: &'static str,
    node: String,
    detail: String,
}

impl TimeLine {
    /// `None` before any node took the job.
    pub fn new(job: &JobView, now: u64) -> Option<Self> {
        let first = job.attempts.first()?;
        let complete = first.epoch == 1;
        let begin = if complete { job.submitted_at } else { first.claimed_at };
        let end = job.finished_at.unwrap_or(now).max(begin + 1);
        let scale = Scale::new(begin as f64, end as f64);
        let mut lanes: Vec<Lane> = Vec::new();
        for attempt in &job.attempts {
            let index = lanes.iter().position(|lane| lane.node == attempt.node).unwrap_or_else(|| {
                let top = lanes.len() as u32 * LANE;
                lanes.push(Lane { node: attempt.node.clone(), top, bars: Vec::new(), marks: Vec::new() });
                lanes.len() - 1
            });
            draw(&mut lanes[index], attempt, job, scale, end);
        }
        let lanes_end = lanes.len() as u32 * LANE;
        let hidden = job.totals.checkpoints.saturating_sub(job.checkpoints.len() as u64);
        let older = if complete { 0 } else { first.epoch - 1 };
        let left_out = match (older, hidden) {
            (0, 0) => None,
            (0, hidden) => Some(format!("{} before these are counted, not drawn", words::count(hidden, "checkpoint"))),
            (older, hidden) => Some(format!(
                "{} and {} before these are counted, not drawn",
                words::count(older, "attempt"),
                words::count(hidden, "checkpoint")
            )),
        };
        Some(Self {
            waits: waits(job, begin, end, scale),
            ticks: ticks(begin, end, scale),
            description: describe(job, end - begin),
            rows: rows(job, now),
            height: lanes_end + AXIS,
            lanes_end,
            lanes,
            left_out,
        })
    }
}

fn bar(scale: Scale, from: u64, to: u64, class: &'static str, title: String) -> Bar {
    let width = scale.width(from as f64, to as f64).0.max(NARROWEST);
    let x = scale.at(from as f64).0.min(1.0 - width);
    Bar { x: Percent(x), width: Percent(width), class, title }
}

fn draw(lane: &mut Lane, attempt: &AttemptView, job: &JobView, scale: Scale, end: u64) {
    let ended = attempt.ended_at.unwrap_or(end);
    let how = End::of(attempt);
    let span = |from: u64, to: u64| words::span(to.saturating_sub(from));
    let ran_from = attempt.started_at.unwrap_or(ended);
    let title = format!("attempt {} on {}: {}", attempt.epoch, attempt.node, how.words());
    let brought_up = match attempt.start.as_str() {
        "clean" => "fetched and started".to_owned(),
        checkpoint => format!("brought back from checkpoint {checkpoint}"),
    };
    let brought_up = format!("{brought_up} in {}", span(attempt.claimed_at, ran_from));
    lane.bars.push(bar(scale, attempt.claimed_at, ran_from, "restore", brought_up));
    if attempt.started_at.is_some() {
        let title = format!("{title}, {}", span(ran_from, ended));
        lane.bars.push(bar(scale, ran_from, ended, how.class(), title));
    }
    let own: Vec<_> = job.checkpoints.iter().filter(|checkpoint| checkpoint.epoch == attempt.epoch).collect();
    if how == End::Lost {
        if let Some(saved) = saved_at(attempt, ran_from, job).filter(|saved| *saved < ended) {
            let undone = format!("{} of work that no checkpoint held, done again", span(saved, ended));
            lane.bars.push(bar(scale, saved, ended, "undone", undone));
        }
        let why = attempt.notes.last().map(String::as_str).unwrap_or_default();
        let title = format!("fault after {}: {why}", span(attempt.claimed_at, ended));
        lane.marks.push(Mark { x: scale.at(ended as f64), class: "fault", title });
    }
    for checkpoint in own {
        let title = told(checkpoint);
        let class = match checkpoint.standing.as_str() {
            "bad" => "bad",
            "dropped" => "dropped",
            _ => "checkpoint",
        };
        let (from, to) = (checkpoint.at, checkpoint.at + checkpoint.standstill_ms);
        lane.marks.push(Mark { x: scale.at(from as f64), class, title: title.clone() });
        // A shorter one lies behind its checkpoint's mark.
        if scale.width(from as f64, to as f64).0 > NARROWEST {
            lane.bars.push(bar(scale, from, to, "still", title));
        }
    }
}

/// Up to when the work of a lost attempt was saved. Of a checkpoint that the record no longer lists the time follows from how
/// long the job had run.
fn saved_at(attempt: &AttemptView, ran_from: u64, job: &JobView) -> Option<u64> {
    let Some(next) = job.attempts.iter().find(|next| next.epoch > attempt.epoch) else {
        let own = job.checkpoints.iter().rev().find(|checkpoint| checkpoint.epoch == attempt.epoch);
        return Some(own.filter(|own| own.standing != "bad").map_or(ran_from, |own| own.at));
    };
    if next.start.split('-').next() != Some(&attempt.epoch.to_string()) {
        return Some(ran_from);
    }
    let is_it = |checkpoint: &&CheckpointView| format!("{}-{}", checkpoint.epoch, checkpoint.seq) == next.start;
    if let Some(checkpoint) = job.checkpoints.iter().find(is_it) {
        return Some(checkpoint.at);
    }
    let ran = next.spared_ms?.checked_sub(attempt.spared_ms.unwrap_or(0))?;
    Some(ran_from + ran)
}

/// A checkpoint in words.
fn told(checkpoint: &CheckpointView) -> String {
    let what = if checkpoint.mode == "files" { "files" } else { "memory, files and log" };
    let standing = match (checkpoint.standing.as_str(), &checkpoint.reason) {
        ("bad", Some(reason)) => format!("; bad: {reason}"),
        ("dropped", _) => "; no longer kept".to_owned(),
        _ => String::new(),
    };
    format!(
        "checkpoint {}-{} of {what}: the job stood still for {}, {} uploaded, durable after {}{standing}",
        checkpoint.epoch,
        checkpoint.seq,
        words::span(checkpoint.standstill_ms),
        words::size(checkpoint.uploaded_bytes),
        words::span(checkpoint.total_ms),
    )
}

/// When no node had the job.
fn waits(job: &JobView, begin: u64, end: u64, scale: Scale) -> Vec<Bar> {
    let mut waits = Vec::new();
    let mut free_since = begin;
    for attempt in &job.attempts {
        if attempt.claimed_at > free_since {
            let title = format!("waited {} for a node", words::span(attempt.claimed_at - free_since));
            waits.push(bar(scale, free_since, attempt.claimed_at, "wait", title));
        }
        free_since = attempt.ended_at.unwrap_or(end);
    }
    if job.state == "queued" && end > free_since {
        let title = format!("waits for a node, {} so far", words::span(end - free_since));
        waits.push(bar(scale, free_since, end, "wait", title));
    }
    waits
}

fn ticks(begin: u64, end: u64, scale: Scale) -> Vec<Tick> {
    let seconds = (end - begin) as f64 / 1_000.0;
    let step = time_step(seconds, 5.0);
    let count = (seconds / step).floor() as u32;
    let tick = |index: u32| {
        let at = f64::from(index) * step;
        let x = scale.at(begin as f64 + at * 1_000.0);
        let anchor = match x.0 {
            x if x < 0.03 => "start",
            x if x > 0.94 => "end",
            _ => "middle",
        };
        let label = if index == 0 { "0".to_owned() } else { words::span_s(at) };
        Tick { x, label, anchor }
    };
    (0..=count).map(tick).collect()
}

/// For those who do not see the picture.
fn describe(job: &JobView, span: u64) -> String {
    let losses = job.attempts.iter().filter(|attempt| End::of(attempt) == End::Lost).count() as u64;
    format!(
        "{} over {}: {}, {}, {}",
        words::count(job.attempts.len() as u64, "attempt"),
        words::span(span),
        words::count(job.checkpoints.len() as u64, "checkpoint"),
        words::count(losses, "fault"),
        match job.outcome_text.as_deref() {
            Some(outcome) => outcome.to_owned(),
            None => job.state.clone(),
        }
    )
}

fn rows(job: &JobView, now: u64) -> Vec<EventRow> {
    let mut rows = Vec::new();
    let mut push = |at: u64, what: &'static str, node: &str, detail: String| {
        rows.push(EventRow { when: When::new(at, now), at, what, node: node.to_owned(), detail });
    };
    push(job.submitted_at, "handed over", "", String::new());
    for attempt in &job.attempts {
        let from = if attempt.start == "clean" { String::new() } else { format!("from checkpoint {}", attempt.start) };
        push(attempt.claimed_at, "claimed", &attempt.node, from);
        if let Some(at) = attempt.started_at {
            let what = if attempt.start == "clean" { "started" } else { "resumed" };
            push(at, what, &attempt.node, format!("after {}", words::span(at.saturating_sub(attempt.claimed_at))));
        }
        if let Some(at) = attempt.ended_at {
            push(at, End::of(attempt).words(), &attempt.node, attempt.notes.join("; "));
        }
    }
    for checkpoint in &job.checkpoints {
        let node = job.attempts.iter().find(|attempt| attempt.epoch == checkpoint.epoch);
        push(
            checkpoint.at,
            "checkpoint",
            node.map(|attempt| attempt.node.as_str()).unwrap_or_default(),
            told(checkpoint),
        );
    }
    rows.sort_by_key(|row| row.at);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::eventful;

    #[test]
    fn a_life_with_a_fault_is_drawn() {
        let drawn = TimeLine::new(&eventful(), 200_000).unwrap();
        insta::assert_snapshot!(drawn);
    }

    #[test]
    fn names_and_reasons_are_escaped() {
        let mut job = eventful();
        job.attempts[0].node = "<script>alert(1)</script>".into();
        job.attempts[0].notes = vec!["\"><img src=x>".into()];
        let drawn = TimeLine::new(&job, 200_000).unwrap().to_string();
        assert!(!drawn.contains("<script>") && !drawn.contains("<img"), "{drawn}");
    }

    #[test]
    fn before_the_first_claim_there_is_nothing_to_draw() {
        let mut job = eventful();
        job.attempts.clear();
        assert!(TimeLine::new(&job, 200_000).is_none());
    }
}
