//! One job: how it stands, its life as a picture, its log, its plan, and what it left.

use std::time::Duration;

use askama::{Template, filters::HtmlSafe};
use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use workrs_core::{id::JobId, job::JobRecord};

use super::{
    Shell, Viewer, html, is_part,
    parts::{self, Progress, When},
    timeline::TimeLine,
    words,
};
use crate::{
    access::Caller,
    api::{Api, JobView, OutputView, OutputsView, Problem, extract::Path, inside},
};

/// Outputs that are listed; all of them are in the archive.
const MAX_OUTPUTS: usize = 500;
/// The largest output that is shown in the page.
const MAX_LOOK: u64 = 1 << 20;
/// As much of the end of a long log is shown at first, about.
const LOG_TAIL: u64 = 512 << 10;

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    shell: Shell,
    part: JobPart,
    /// Where the shown log begins.
    log_from: u64,
}

/// What changes while the page is open.
#[derive(Template)]
#[template(path = "job_part.html")]
struct JobPart {
    id: String,
    name: String,
    owner: String,
    state: parts::State,
    is_running: bool,
    is_finished: bool,
    /// What the state means here, and what happens next.
    lead: String,
    submitted: When,
    ended: Option<When>,
    /// How long it took, or takes.
    span: String,
    progress: Option<Progress>,
    timeline: Option<TimeLine>,
    plan: Vec<Fact>,
    plan_reason: Option<String>,
    /// Nothing once it has ended for good.
    resumable: Option<Resumable>,
    totals: Vec<Fact>,
    spec: Vec<Fact>,
    outputs: Option<Outputs>,
    can_cancel: bool,
    can_run_on: bool,
    can_run_again: bool,
    again: String,
}

impl HtmlSafe for JobPart {}

/// A name and what stands for it.
struct Fact {
    name: &'static str,
    value: String,
    note: String,
}

impl Fact {
    fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into(), note: String::new() }
    }

    fn noted(name: &'static str, value: impl Into<String>, note: impl Into<String>) -> Self {
        Self { name, value: value.into(), note: note.into() }
    }
}

/// Whether the work of a job would survive its node, in a sentence.
struct Resumable {
    class: &'static str,
    word: &'static str,
    text: String,
}

struct Outputs {
    files: Vec<OutputRow>,
    links: Vec<(String, String)>,
    skipped: Vec<String>,
    more: usize,
    total: String,
    archive: String,
}

struct OutputRow {
    path: String,
    size: String,
    address: String,
    can_look: bool,
}

pub(super) async fn page(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = JobId::new(id)?;
    let record = inside::find_job(&api, &caller, &id).await?;
    let job = inside::view_of_job(&api, &record).await?;
    let outputs = if job.has_outputs { Some(inside::outputs_of(&api, &caller, &id).await?) } else { None };
    let viewer = Viewer::from(&caller);
    let part = JobPart::new(&record, &job, outputs, &viewer, words::now());
    Ok(if is_part(&headers) {
        html(&part)
    } else {
        let title = format!("{} – {}", job.name, part.state.word);
        html(&JobPage { shell: Shell::new(title, "jobs", viewer), log_from: log_from(&record), part })
    })
}

/// Where to begin to read the log so that its end is soon there. Of a job that runs only a part of its length is known,
/// that at its newest checkpoint.
fn log_from(record: &JobRecord) -> u64 {
    let known = match &record.state {
        workrs_core::job::JobState::Finished { log_bytes, .. } => *log_bytes,
        _ => record.resume_point().map_or(0, |checkpoint| checkpoint.log_bytes),
    };
    known.saturating_sub(LOG_TAIL)
}

impl JobPart {
    fn new(record: &JobRecord, job: &JobView, outputs: Option<OutputsView>, viewer: &Viewer, now: u64) -> Self {
        let component = words::component(&job.id);
        let is_finished = job.finished_at.is_some();
        let is_lost = job.outcome.as_deref() == Some("lost");
        let until = job.finished_at.unwrap_or(now);
        Self {
            id: job.id.clone(),
            name: job.name.clone(),
            owner: job.owner.clone(),
            state: parts::State::of(job),
            is_running: job.state == "running",
            is_finished,
            lead: lead(job),
            submitted: When::new(job.submitted_at, now),
            ended: job.finished_at.map(|at| When::new(at, now)),
            span: words::span(until.saturating_sub(job.submitted_at)),
            progress: Progress::of(job, now),
            timeline: TimeLine::new(job, now),
            plan: plan(job, now),
            plan_reason: job.plan.decision.as_ref().map(|decision| decision.reason.clone()).filter(|_| !is_finished),
            resumable: (!is_finished || is_lost).then(|| resumable(job, now)),
            totals: totals(job),
            spec: spec(record),
            outputs: outputs.map(|outputs| listed(&job.id, outputs)),
            can_cancel: viewer.may_change && !is_finished && !job.cancel_requested,
            can_run_on: viewer.may_change && is_lost,
            can_run_again: viewer.may_change && is_finished,
            again: format!("/jobs/new?from={component}"),
        }
    }
}

/// The state in a sentence.
fn lead(job: &JobView) -> String {
    if let Some(text) = &job.outcome_text {
        return text.clone();
    }
    match (&job.node, &job.reason) {
        (Some(node), _) if job.cancel_requested => format!("is being cancelled on {node}"),
        (Some(node), _) => match job.attempts.last() {
            Some(attempt) if attempt.started_at.is_none() && attempt.start == "clean" => {
                format!("is being started on {node}")
            }
            Some(attempt) if attempt.started_at.is_none() => {
                format!("is being brought back from checkpoint {} on {node}", attempt.start)
            }
            Some(attempt) if attempt.start != "clean" => {
                format!("runs on {node}, resumed from checkpoint {}", attempt.start)
            }
            _ => format!("runs on {node}"),
        },
        (None, Some(reason)) => format!("waits for a node: {reason}"),
        (None, None) => "waits for a node that has room".to_owned(),
    }
}

fn plan(job: &JobView, now: u64) -> Vec<Fact> {
    let mut facts = vec![Fact::new("policy", job.plan.policy.clone())];
    let Some(decision) = job.plan.decision.as_ref() else { return facts };
    let since = words::age(now.saturating_sub(decision.at));
    if job.state == "running" {
        facts.push(match decision.next_in_s {
            Some(seconds) => {
                let left = seconds - now.saturating_sub(decision.at) as f64 / 1_000.0;
                let when = if left > 0.0 { format!("in {}", words::span_s(left)) } else { "due now".to_owned() };
                Fact::noted("next checkpoint", when, format!("as decided {since} ago"))
            }
            None => Fact::new("next checkpoint", "none is worth it"),
        });
        let lost = decision.lost_if_died_s + now.saturating_sub(decision.at) as f64 / 1_000.0;
        facts.push(Fact::noted(
            "lost if the node died now",
            format!("about {} of work", words::span_s(lost)),
            "run time since the newest checkpoint",
        ));
    }
    if let Some(interval) = decision.interval_s {
        facts.push(Fact::new("between checkpoints", words::span_s(interval)));
    }
    facts.push(Fact::new("a checkpoint costs", format!("{} of standstill", words::span_s(decision.checkpoint_cost_s))));
    facts.push(Fact::new("a restore takes", words::span_s(decision.restore_cost_s)));
    facts.push(Fact::new("a fault is expected every", words::span_s(decision.mtbf_s)));
    if let Some(forecast) = &job.plan.first_forecast {
        let end = job.finished_at.unwrap_or(now);
        let note = match (job.finished_at.is_some(), end > forecast.end_at) {
            (true, true) => format!("it ended {} later", words::span(end - forecast.end_at)),
            (true, false) => format!("it ended {} earlier", words::span(forecast.end_at - end)),
            (false, true) => format!("{} ago", words::age(end - forecast.end_at)),
            (false, false) => format!("in {}", words::age(forecast.end_at - end)),
        };
        facts.push(Fact::noted("first expected to end", words::date(forecast.end_at, "%H:%M:%S UTC"), note));
    }
    facts
}

fn resumable(job: &JobView, now: u64) -> Resumable {
    let newest = job.checkpoints.iter().rev().find(|checkpoint| checkpoint.standing == "kept");
    let newest = newest.map(|checkpoint| {
        let age = words::age(now.saturating_sub(checkpoint.at));
        format!("checkpoint {}-{}, {age} old", checkpoint.epoch, checkpoint.seq)
    });
    match (job.resumable.yes, &job.resumable.reason, newest) {
        (Some(true), _, newest) => {
            Resumable { class: "yes", word: "yes", text: newest.unwrap_or_else(|| "from its files".to_owned()) }
        }
        (Some(false), reason, Some(newest)) => Resumable {
            class: "partly",
            word: "from an older state",
            text: format!("{newest}; the newest try failed: {}", reason.as_deref().unwrap_or("no reason is known")),
        },
        (Some(false), reason, None) => Resumable {
            class: "no",
            word: "no",
            text: format!("{}; it would start anew", reason.as_deref().unwrap_or("no reason is known")),
        },
        (None, _, _) => Resumable {
            class: "none",
            word: "not yet",
            text: "no checkpoint was tried; it would start anew".to_owned(),
        },
    }
}

fn totals(job: &JobView) -> Vec<Fact> {
    let totals = &job.totals;
    vec![
        Fact::new("attempts", words::grouped(totals.attempts)),
        Fact::new("faults", words::grouped(totals.losses)),
        Fact::new("checkpoints", words::grouped(totals.checkpoints)),
        Fact::new("standstill for them", words::span(totals.standstill_ms)),
        Fact::new("uploaded for them", words::size(totals.uploaded_bytes)),
    ]
}

fn spec(record: &JobRecord) -> Vec<Fact> {
    let spec = &record.spec;
    let mut facts = vec![
        Fact::new("command", super::submit::quoted(&spec.command)),
        Fact::new("runs in", spec.image.clone()),
        Fact::new("cores", format!("{}", f64::from(spec.cpus_milli) / 1_000.0)),
        Fact::new("memory", words::size(spec.memory_bytes)),
        Fact::new("disk", words::size(spec.disk_bytes)),
        Fact::new("network", spec.network.to_string()),
        Fact::new("priority", spec.priority.to_string()),
    ];
    let time = |millis: u64| words::span(Duration::from_millis(millis).as_millis() as u64);
    facts.extend(spec.timeout_ms.map(|timeout| Fact::new("time limit", time(timeout))));
    facts.extend(spec.forecast_ms.map(|forecast| Fact::new("forecast", time(forecast))));
    if spec.retries > 0 {
        facts.push(Fact::new("retries", spec.retries.to_string()));
    }
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
    };
    if !spec.env.is_empty() {
        facts.push(Fact::new("environment", pairs(&spec.env)));
    }
    if !spec.constraints.is_empty() {
        facts.push(Fact::new("constraints", pairs(&spec.constraints)));
    }
    if !spec.outputs.is_empty() {
        facts.push(Fact::new("outputs", spec.outputs.join("\n")));
    }
    facts
}

fn listed(id: &str, outputs: OutputsView) -> Outputs {
    let total = outputs.files.iter().map(|file| file.len).sum();
    let base = format!("/api/v1/jobs/{}/outputs", words::component(id));
    let more = outputs.files.len().saturating_sub(MAX_OUTPUTS);
    let total = format!("{}, {}", words::count(outputs.files.len() as u64, "file"), words::size(total));
    let row = |file: OutputView| OutputRow {
        address: format!("{base}/{}", words::path(&file.path)),
        size: words::size(file.len),
        can_look: file.len <= MAX_LOOK,
        path: file.path,
    };
    Outputs {
        files: outputs.files.into_iter().take(MAX_OUTPUTS).map(row).collect(),
        links: outputs.links.into_iter().map(|link| (link.path, link.target)).collect(),
        skipped: outputs.skipped,
        more,
        total,
        archive: format!("{base}?archive=tar"),
    }
}
