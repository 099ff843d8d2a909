//! How tokens, quotas and the audit trail look to a person.

use workrs_core::spec::format_size;

use super::{clean, table, time};
use crate::api::{AuditView, QuotaView, TokenView};

/// A list of tokens.
pub fn tokens(tokens: &[TokenView]) -> String {
    let mut rows = vec![["ID", "OWNER", "ROLE", "STATE", "CREATED", "BY", "EXPIRES"].map(str::to_owned).to_vec()];
    rows.extend(tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            token.owner.clone(),
            token.role.to_string(),
            token.state.clone(),
            time(token.created_at),
            token.created_by.clone(),
            expiry(token),
        ]
    }));
    table(&rows)
}

fn expiry(token: &TokenView) -> String {
    token.expires_at.map_or_else(|| "never".to_owned(), time)
}

/// What was made; not the token itself.
pub fn token_created(token: &TokenView) -> String {
    format!(
        "token {} of {} ({}), expires: {}\nit is shown this once; use it as WORKRS_TOKEN, or log in with it\n",
        token.id,
        token.owner,
        token.role,
        expiry(token)
    )
}

/// What was taken back.
pub fn token_revoked(token: &TokenView) -> String {
    format!("token {} of {} is revoked: within a second no node lets it in\n", token.id, token.owner)
}

/// A list of quotas.
pub fn quotas(quotas: &[QuotaView]) -> String {
    let mut rows = vec![["OWNER", "RUNNING", "CORES", "MEMORY", "QUEUED", "STORED"].map(str::to_owned).to_vec()];
    rows.extend(quotas.iter().map(|quota| {
        let limits = &quota.limits;
        let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "-".to_owned());
        vec![
            quota.owner.clone(),
            or_none(limits.running.map(|limit| limit.to_string())),
            or_none(limits.cpus.map(|limit| limit.to_string())),
            or_none(limits.memory_bytes.map(format_size)),
            or_none(limits.queued.map(|limit| limit.to_string())),
            or_none(limits.stored_bytes.map(format_size)),
        ]
    }));
    table(&rows)
}

/// What an owner may have, and has.
pub fn quota(quota: &QuotaView) -> String {
    let (limits, used) = (&quota.limits, quota.used.as_ref());
    let row = |what: &str, used: Option<String>, limit: Option<String>| {
        let limit = limit.unwrap_or_else(|| "no limit".to_owned());
        vec![what.to_owned(), used.unwrap_or_else(|| "-".to_owned()), limit]
    };
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let cores = |cores: Option<f64>| cores.map(|cores| cores.to_string());
    let rows = [
        vec![format!("OF {}", quota.owner), "USED".to_owned(), "AT MOST".to_owned()],
        row("running jobs", number(used.map(|used| used.running)), number(limits.running)),
        row("cores of those", cores(used.map(|used| used.cpus)), cores(limits.cpus)),
        row("memory of those", used.map(|used| format_size(used.memory_bytes)), limits.memory_bytes.map(format_size)),
        row("queued jobs", number(used.and_then(|used| used.queued)), number(limits.queued)),
        row("stored", used.and_then(|used| used.stored_bytes).map(format_size), limits.stored_bytes.map(format_size)),
    ];
    table(&rows)
}

/// Who changed what, and who was refused.
pub fn audit(notes: &[AuditView]) -> String {
    let mut rows = vec![["TIME", "WHO", "FROM", "ACTION", "TARGET", "OUTCOME"].map(str::to_owned).to_vec()];
    rows.extend(notes.iter().map(|note| {
        let who = note.owner.clone().unwrap_or_else(|| "?".to_owned());
        let outcome = match (note.status, &note.problem) {
            (Some(status), Some(problem)) => format!("{status} {problem}"),
            (Some(status), None) => status.to_string(),
            (None, _) => "unknown".to_owned(),
        };
        vec![
            time(note.at),
            note.token.as_ref().map_or_else(|| who.clone(), |token| format!("{who} ({token})")),
            note.address.clone().unwrap_or_else(|| "-".to_owned()),
            note.action.clone(),
            clean(&note.target),
            if note.repeated == 0 { outcome } else { format!("{outcome} ({} more before it)", note.repeated) },
        ]
    }));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::Role,
        api::{LimitsView, UsedView},
    };

    #[test]
    fn tokens_tell_whose_they_are_and_whether_they_count() {
        let token = |owner: &str, role, state: &str, expires_at| TokenView {
            id: "01k8w2x0000000000000000000".into(),
            owner: owner.into(),
            role,
            state: state.into(),
            created_at: 1_795_000_000_000,
            created_by: "local".into(),
            expires_at,
            revoked_at: None,
        };
        let all = [
            token("root", Role::Admin, "valid", None),
            token("ann", Role::ReadOnly, "expired", Some(1_795_000_100_000)),
        ];
        insta::assert_snapshot!(tokens(&all), @r"
        ID                          OWNER  ROLE       STATE    CREATED               BY     EXPIRES
        01k8w2x0000000000000000000  root   admin      valid    2026-11-18 11:06:40Z  local  never
        01k8w2x0000000000000000000  ann    read-only  expired  2026-11-18 11:06:40Z  local  2026-11-18 11:08:20Z
        ");
        insta::assert_snapshot!(token_created(&all[0]) + &token_revoked(&all[0]), @r"
        token 01k8w2x0000000000000000000 of root (admin), expires: never
        it is shown this once; use it as WORKRS_TOKEN, or log in with it
        token 01k8w2x0000000000000000000 of root is revoked: within a second no node lets it in
        ");
    }

    #[test]
    fn quotas_tell_what_is_left() {
        let quota = QuotaView {
            owner: "ann".into(),
            own: true,
            limits: LimitsView {
                running: Some(10),
                cpus: Some(8.0),
                stored_bytes: Some(100 << 30),
                ..LimitsView::default()
            },
            used: Some(UsedView {
                running: 2,
                cpus: 1.5,
                memory_bytes: 1 << 30,
                queued: None,
                stored_bytes: Some(3 << 20),
            }),
        };
        insta::assert_snapshot!(super::quota(&quota), @r"
        OF ann           USED   AT MOST
        running jobs     2      10
        cores of those   1.5    8
        memory of those  1 GiB  no limit
        queued jobs      -      no limit
        stored           3 MiB  100 GiB
        ");
        insta::assert_snapshot!(quotas(&[quota]), @r"
        OWNER  RUNNING  CORES  MEMORY  QUEUED  STORED
        ann    10       8      -       -       100 GiB
        ");
    }

    #[test]
    fn the_trail_tells_who_did_what() {
        let note = |owner: Option<&str>, status, problem: Option<&str>, repeated| AuditView {
            id: "01".into(),
            at: 1_795_000_000_000,
            owner: owner.map(str::to_owned),
            token: owner.map(|_| "01k8".to_owned()),
            address: Some("192.0.2.7".into()),
            action: "POST /api/v1/jobs/{id}/cancel".into(),
            target: "/api/v1/jobs/a\u{1b}[2J/cancel".into(),
            status,
            problem: problem.map(str::to_owned),
            repeated,
        };
        let notes = [
            note(Some("ann"), Some(200), None, 0),
            note(Some("ann"), None, None, 0),
            note(None, Some(401), Some("no-token"), 3),
        ];
        insta::assert_snapshot!(audit(&notes), @r"
        TIME                  WHO         FROM       ACTION                         TARGET                     OUTCOME
        2026-11-18 11:06:40Z  ann (01k8)  192.0.2.7  POST /api/v1/jobs/{id}/cancel  /api/v1/jobs/a�[2J/cancel  200
        2026-11-18 11:06:40Z  ann (01k8)  192.0.2.7  POST /api/v1/jobs/{id}/cancel  /api/v1/jobs/a�[2J/cancel  unknown
        2026-11-18 11:06:40Z  ?           192.0.2.7  POST /api/v1/jobs/{id}/cancel  /api/v1/jobs/a�[2J/cancel  401 no-token (3 more before it)
        ");
    }
}
