//! Who is let in and what they did, for admins: tokens, quotas, the audit trail.

use askama::Template;
use axum::{Extension, extract::State, http::HeaderMap, response::Response};

use super::{
    Shell, html, is_part,
    parts::{self, When},
    words,
};
use crate::{
    access::{Caller, Role},
    api::{Api, AuditView, LimitsView, Problem, QuotaView, TokenView, inside},
};

/// Whose quota is that of all who have none of their own.
const OTHERS: &str = "*";
/// Notes of the audit trail that are shown, the newest.
const NOTES: usize = 60;

#[derive(Template)]
#[template(path = "access.html")]
struct AccessPage {
    shell: Shell,
    part: AccessPart,
}

/// What changes while the page is open.
#[derive(Template)]
#[template(path = "access_part.html")]
struct AccessPart {
    tokens: Vec<Token>,
    quotas: Vec<Quota>,
    notes: Vec<Note>,
}

impl askama::filters::HtmlSafe for AccessPart {}

struct Token {
    id: String,
    owner: String,
    role: String,
    state: parts::State,
    made: When,
    made_by: String,
    expires: Option<When>,
    counts: bool,
}

struct Quota {
    owner: String,
    limits: String,
    /// Whether it is that of all who have none of their own.
    is_default: bool,
    /// Where the API has it.
    address: String,
}

struct Note {
    when: When,
    owner: String,
    address: String,
    action: String,
    target: String,
    outcome: String,
    is_refused: bool,
}

pub(super) async fn page(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.must_be(Role::Admin)?;
    let now = words::now();
    let tokens = inside::tokens(&api, &caller).await?;
    let part = AccessPart {
        tokens: tokens.into_iter().rev().map(|token| Token::new(token, now)).collect(),
        quotas: inside::quotas(&api, &caller).await?.into_iter().map(Quota::from).collect(),
        notes: inside::newest_audit(&api, &caller, NOTES).await?.into_iter().map(|note| Note::new(note, now)).collect(),
    };
    Ok(if is_part(&headers) {
        html(&part)
    } else {
        html(&AccessPage { shell: Shell::new("Access", "access", &caller), part })
    })
}

impl Token {
    fn new(token: TokenView, now: u64) -> Self {
        let class = match token.state.as_str() {
            "valid" => "succeeded",
            "revoked" => "failed",
            _ => "cancelled",
        };
        Self {
            counts: token.state == "valid",
            state: parts::State { word: token.state, class },
            id: token.id,
            owner: token.owner,
            role: token.role.to_string(),
            made: When::new(token.created_at, now),
            made_by: token.created_by,
            expires: token.expires_at.map(|at| When::new(at, now)),
        }
    }
}

impl From<QuotaView> for Quota {
    fn from(quota: QuotaView) -> Self {
        let limits = told(&quota.limits);
        if quota.owner == OTHERS {
            let (owner, address) = ("everybody else".to_owned(), "/api/v1/default-quota".to_owned());
            return Self { owner, limits, is_default: true, address };
        }
        let address = format!("/api/v1/quotas/{}", words::component(&quota.owner));
        Self { owner: quota.owner, limits, is_default: false, address }
    }
}

/// Limits in words.
fn told(limits: &LimitsView) -> String {
    let parts = [
        limits.running.map(|count| format!("{} at a time", words::count(count.into(), "job"))),
        limits.cpus.map(|cpus| format!("{cpus} cores")),
        limits.memory_bytes.map(|bytes| format!("{} of memory", words::size(bytes))),
        limits.queued.map(|count| format!("{} that wait", words::count(count.into(), "job"))),
        limits.stored_bytes.map(|bytes| format!("{} stored", words::size(bytes))),
    ];
    let told: Vec<_> = parts.into_iter().flatten().collect();
    if told.is_empty() { "no limits".to_owned() } else { told.join(", ") }
}

impl Note {
    fn new(note: AuditView, now: u64) -> Self {
        let outcome = match (note.status, &note.problem) {
            (Some(status), Some(problem)) => format!("{status} {problem}"),
            (Some(status), None) => status.to_string(),
            (None, _) => "unknown: nobody waited for the answer".to_owned(),
        };
        Self {
            when: When::new(note.at, now),
            owner: note.owner.unwrap_or_else(|| "nobody known".to_owned()),
            address: note.address.unwrap_or_default(),
            action: note.action,
            target: note.target,
            outcome,
            is_refused: note.status.is_some_and(|status| status >= 400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_words() {
        let limits = LimitsView { running: Some(1), memory_bytes: Some(16 << 30), ..LimitsView::default() };
        assert_eq!(told(&limits), "1 job at a time, 16 GiB of memory");
        assert_eq!(told(&LimitsView::default()), "no limits");
    }
}
