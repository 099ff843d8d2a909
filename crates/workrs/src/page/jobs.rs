//! The list of jobs.

use askama::{Template, filters::HtmlSafe};
use axum::{
    extract::Query,
    http::{HeaderMap, Uri},
    response::Response,
};
use serde::Deserialize;
use workrs_core::index::OutcomeKind;

use super::{
    Shell, Viewer, html, is_part,
    parts::{self, Progress, When},
    words,
};
use crate::{
    access::{Caller, Role},
    api::{Api, JobView, Problem},
    index::{Counts, Filter, StateKind},
};

/// Rows of one page.
const ROWS: usize = 50;
/// The longest text that is searched for.
const MAX_SEARCH: usize = 100;

/// Which jobs are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Choice {
    /// `queued`, `running`, `finished`, or how they ended; nothing means all.
    state: String,
    /// What is in their name, id or owner.
    q: String,
    /// Behind which place of the list the page begins.
    after: String,
}

impl Choice {
    /// The address of the same list with another state, from its beginning.
    fn with_state(&self, state: &str) -> String {
        address(state, &self.q, "")
    }

    /// The same list from behind another place.
    fn behind(&self, after: &str) -> String {
        address(&self.state, &self.q, after)
    }

    fn filter(&self) -> Result<Filter, Problem> {
        if self.q.len() > MAX_SEARCH {
            return Err(Problem::bad_request(format!("the search is longer than {MAX_SEARCH} bytes")).field("q"));
        }
        let refused = |field: &str, error: &dyn std::fmt::Display| Problem::bad_request(error).field(field);
        let after = Some(&self.after).filter(|after| !after.is_empty()).map(|after| after.parse()).transpose();
        let mut filter = Filter {
            search: Some(self.q.trim().to_owned()).filter(|text| !text.is_empty()),
            after: after.map_err(|error| refused("after", &error))?,
            limit: ROWS,
            ..Filter::default()
        };
        match (self.state.as_str(), self.state.parse::<OutcomeKind>()) {
            ("", _) => {}
            (_, Ok(outcome)) => filter.outcome = Some(outcome),
            (state, Err(_)) => {
                filter.state = Some(state.parse::<StateKind>().map_err(|error| refused("state", &error))?);
            }
        }
        Ok(filter)
    }
}

fn address(state: &str, q: &str, after: &str) -> String {
    let parameters = [("state", state), ("q", q), ("after", after)];
    let query: Vec<_> = parameters
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", words::component(value)))
        .collect();
    if query.is_empty() { "/".to_owned() } else { format!("/?{}", query.join("&")) }
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    shell: Shell,
    choice: Choice,
    part: JobsPart,
}

/// What changes while the page is open.
#[derive(Template)]
#[template(path = "jobs_part.html")]
struct JobsPart {
    choice: Choice,
    tabs: Vec<Tab>,
    rows: Vec<Row>,
    /// Where the part is had anew.
    address: String,
    summary: String,
    may_change: bool,
    shows_owner: bool,
    /// Back to the beginning.
    newest: Option<String>,
    older: Option<String>,
}

impl HtmlSafe for JobsPart {}

struct Tab {
    name: &'static str,
    address: String,
    count: String,
    current: &'static str,
}

/// A job in the list.
struct Row {
    id: String,
    name: String,
    owner: String,
    state: parts::State,
    /// Why it waits, or what became of it.
    detail: Option<String>,
    node: Option<String>,
    progress: Option<Progress>,
    /// How long it has run, where no forecast says how far it is.
    running_for: Option<String>,
    checkpoint: Option<When>,
    /// Why its work would be lost.
    not_resumable: Option<String>,
    when: When,
    /// What that was.
    what: &'static str,
}

impl Row {
    fn new(job: &JobView, now: u64) -> Self {
        let progress = Progress::of(job, now);
        let started = job.attempts.last().filter(|_| job.state == "running").and_then(|attempt| attempt.started_at);
        let newest = job.checkpoints.iter().rev().find(|checkpoint| checkpoint.standing == "kept");
        let (at, what) = match job.finished_at {
            Some(at) => (at, "ended"),
            None => (job.submitted_at, "submitted"),
        };
        let failed = job.outcome.as_deref() == Some("failed") || job.outcome.as_deref() == Some("lost");
        Self {
            id: job.id.clone(),
            name: job.name.clone(),
            owner: job.owner.clone(),
            state: parts::State::of(job),
            detail: if failed { job.outcome_text.clone() } else { job.reason.clone() },
            node: job.node.clone().or_else(|| job.attempts.last().map(|attempt| attempt.node.clone())),
            running_for: started.filter(|_| progress.is_none()).map(|at| words::age(now.saturating_sub(at))),
            progress,
            checkpoint: newest.filter(|_| job.outcome.is_none()).map(|checkpoint| When::new(checkpoint.at, now)),
            not_resumable: job.resumable.reason.clone().filter(|_| job.state == "running"),
            when: When::new(at, now),
            what,
        }
    }
}

/// The list, or the part of it that changes.
pub(crate) async fn home(api: &Api, caller: &Caller, uri: &Uri, headers: &HeaderMap) -> Result<Response, Problem> {
    let Query(choice) = Query::<Choice>::try_from_uri(uri).map_err(|error| Problem::bad_request(error.body_text()))?;
    let part = part(api, caller, &choice).await?;
    Ok(if is_part(headers) {
        html(&part)
    } else {
        html(&JobsPage { shell: Shell::new("Jobs", "jobs", caller), choice, part })
    })
}

async fn part(api: &Api, caller: &Caller, choice: &Choice) -> Result<JobsPart, Problem> {
    let (now, viewer) = (words::now(), Viewer::from(caller));
    let sees_only = (caller.role != Role::Admin).then_some(&caller.owner);
    let page = api.index.query(&choice.filter()?, sees_only).await?;
    let jobs: Vec<_> = api.index.read(&page.rows).await?.iter().map(JobView::from).collect();
    let all = words::count(page.total as u64, "job");
    let summary = match (page.total, jobs.len()) {
        (0, _) => String::new(),
        (total, shown) if total == shown => all,
        (_, shown) => format!("{shown} of {all}"),
    };
    let tabs = TABS.iter().map(|(state, name, count)| Tab {
        name,
        address: choice.with_state(state),
        count: words::grouped(count(&page.counts) as u64),
        current: if choice.state == *state { "true" } else { "false" },
    });
    Ok(JobsPart {
        tabs: tabs.collect(),
        rows: jobs.iter().map(|job| Row::new(job, now)).collect(),
        address: choice.behind(&choice.after),
        summary,
        may_change: viewer.may_change,
        shows_owner: viewer.is_admin && jobs.iter().any(|job| job.owner != viewer.owner),
        newest: (!choice.after.is_empty()).then(|| choice.behind("")),
        older: page.next.map(|next| choice.behind(&next.to_string())),
        choice: choice.clone(),
    })
}

/// How many there are of one kind.
type Count = fn(&Counts) -> usize;

/// What can be chosen: its address, its name, and how many there are.
const TABS: [(&str, &str, Count); 7] = [
    ("", "All", Counts::all),
    ("running", "Running", |counts| counts.running),
    ("queued", "Queued", |counts| counts.queued),
    ("succeeded", "Succeeded", |counts| counts.succeeded),
    ("failed", "Failed", |counts| counts.failed),
    ("cancelled", "Cancelled", |counts| counts.cancelled),
    ("lost", "Lost", |counts| counts.lost),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_only_what_differs_and_encode_it() {
        let choice = Choice { state: "running".into(), q: "a&b=<c>".into(), after: "~1f~job-1".into() };
        assert_eq!(choice.behind(&choice.after), "/?state=running&q=a%26b%3D%3Cc%3E&after=~1f~job-1");
        assert_eq!(choice.with_state(""), "/?q=a%26b%3D%3Cc%3E");
        assert_eq!(Choice::default().behind(""), "/");
    }

    #[test]
    fn states_and_outcomes_are_chosen_alike() {
        let filter = |state: &str| Choice { state: state.into(), ..Choice::default() }.filter();
        assert_eq!(filter("failed").unwrap().outcome, Some(OutcomeKind::Failed));
        assert_eq!(filter("queued").unwrap().state, Some(StateKind::Queued));
        assert_eq!(filter("").unwrap(), Filter { limit: ROWS, ..Filter::default() });
        assert_eq!(filter("<b>").unwrap_err().field.as_deref(), Some("state"));
        let after = Choice { after: "~x".into(), ..Choice::default() }.filter();
        assert_eq!(after.unwrap_err().field.as_deref(), Some("after"));
    }
}
