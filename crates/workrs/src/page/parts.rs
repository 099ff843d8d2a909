//! Small pieces that several pages show. Each is a template of its own, so what is put into it is escaped.

use askama::{Template, filters::HtmlSafe};

use super::words;
use crate::api::JobView;

/// A point in time: how long ago or ahead, the exact time where the pointer rests.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<time datetime="{{ self.iso() }}" title="{{ self.exact() }}" data-age>{{ self.relative() }}</time>"#
)]
pub(super) struct When {
    at: u64,
    now: u64,
}

impl HtmlSafe for When {}

impl When {
    pub fn new(at: u64, now: u64) -> Self {
        Self { at, now }
    }

    fn iso(&self) -> String {
        words::date(self.at, "%Y-%m-%dT%H:%M:%SZ")
    }

    fn exact(&self) -> String {
        words::date(self.at, "%Y-%m-%d %H:%M:%S UTC")
    }

    fn relative(&self) -> String {
        match self.at.abs_diff(self.now) {
            0..1_000 => "now".to_owned(),
            span if self.at < self.now => format!("{} ago", words::age(span)),
            span => format!("in {}", words::age(span)),
        }
    }
}

/// How a job stands: a word, and the class that colours it.
#[derive(Template)]
#[template(ext = "html", source = r#"<span class="state {{ class }}">{{ word }}</span>"#)]
pub(super) struct State {
    pub word: String,
    pub class: &'static str,
}

impl HtmlSafe for State {}

impl State {
    pub fn of(job: &JobView) -> Self {
        let class = match job.outcome.as_deref() {
            Some("succeeded") => "succeeded",
            Some("failed") => "failed",
            Some("lost") => "lost",
            Some(_) => "cancelled",
            None if job.state == "running" => "running",
            None => "queued",
        };
        let word = match (job.outcome.as_deref(), job.exit_code, job.failure.as_deref()) {
            (Some("failed"), Some(code), _) => format!("failed ({code})"),
            (Some("failed"), None, Some("signal")) => format!("failed (signal {})", job.signal.unwrap_or_default()),
            (Some("failed"), None, Some(cause)) => format!("failed ({})", cause.replace('_', " ")),
            (Some(outcome), _, _) => outcome.to_owned(),
            (None, _, _) if job.cancel_requested => "cancelling".to_owned(),
            (None, _, _) => job.state.clone(),
        };
        Self { word, class }
    }
}

/// How far a running job is, by the newest forecast of its end.
#[derive(Template, Debug, PartialEq, Eq)]
#[template(
    ext = "html",
    source = r#"<span class="progress"><progress max="100" value="{{ percent }}" aria-label="progress against the forecast">{{ percent }} %</progress> <span>{{ text }}</span></span>"#
)]
pub(super) struct Progress {
    pub percent: u8,
    pub text: String,
}

impl HtmlSafe for Progress {}

impl Progress {
    /// `None` where nobody knows how long the job runs, or it does not run.
    pub fn of(job: &JobView, now: u64) -> Option<Self> {
        if job.state != "running" {
            return None;
        }
        let decision = job.plan.decision.as_ref()?;
        let end = decision.at + (decision.expected_finish_in_s?.max(0.0) * 1_000.0) as u64;
        let first = job.attempts.first().filter(|first| first.epoch == 1);
        let begin = first.map_or(job.submitted_at, |first| first.started_at.unwrap_or(first.claimed_at));
        let (done, all) = (now.saturating_sub(begin), end.saturating_sub(begin).max(1));
        if now >= end {
            let over = words::age(now - end);
            return Some(Self { percent: 99, text: format!("{over} over") });
        }
        let percent = (done * 100 / all).min(99) as u8;
        Some(Self { percent, text: format!("{percent} %, {} left", words::age(end - now)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_and_exact() {
        let when = |at| When::new(at, 1_700_000_000_000).to_string();
        assert!(when(1_699_999_700_000).contains("2023-11-14 22:08:20 UTC"));
        assert!(when(1_699_999_700_000).contains(">5 min ago<"));
        assert!(when(1_700_000_120_000).contains(">in 2 min<"));
        assert!(when(1_700_000_000_000).contains(">now<"));
    }

    #[test]
    fn what_is_put_in_is_escaped() {
        let state = State { word: "<img src=x onerror=alert(1)>".into(), class: "failed" };
        assert!(!state.to_string().contains('<') || !state.to_string().contains("<img"), "{state}");
    }
}
