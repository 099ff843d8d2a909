//! Who may do what, as one table: every route of the API, asked by everybody.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use tower::ServiceExt;
use workrs_store::state::Entry;

use super::*;
use crate::access::{NewToken, Role};

/// Who asks, and about whose job; a read-only caller about its own, an admin about another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    NoToken,
    Wrong,
    Expired,
    Revoked,
    ReadOnly,
    UserOnOwn,
    UserOnAnothers,
    Admin,
}

const ALL: [Who; 8] = [
    Who::NoToken,
    Who::Wrong,
    Who::Expired,
    Who::Revoked,
    Who::ReadOnly,
    Who::UserOnOwn,
    Who::UserOnAnothers,
    Who::Admin,
];

/// A route, what is sent there, and the status for a read-only caller, a user on its own, a user on another's, an admin.
/// Whoever has no token that counts gets 401. A status that is no success but neither 401, 403 nor 404 means that the caller
/// may, and the job or the body is not right for it.
struct Row(&'static str, &'static str, &'static str, [u16; 4]);

/// `{id}` is the job.
const ROUTES: &[Row] = &[
    Row("GET /api/v1/jobs", "", "", [200, 200, 200, 200]),
    Row("POST /api/v1/jobs", "?id={id}", r#"{"name": "n", "command": ["true"]}"#, [403, 200, 409, 409]),
    Row("GET /api/v1/jobs/{id}", "", "", [200, 200, 404, 200]),
    Row("DELETE /api/v1/jobs/{id}", "", "", [403, 409, 404, 409]),
    Row("POST /api/v1/jobs/{id}/cancel", "", "", [403, 200, 404, 200]),
    Row("POST /api/v1/jobs/{id}/run-on", "", "", [403, 409, 404, 409]),
    Row("GET /api/v1/jobs/{id}/logs", "", "", [200, 200, 404, 200]),
    Row("GET /api/v1/jobs/{id}/logs/live", "?epoch=1&offset=0", "", [403, 403, 403, 404]),
    Row("GET /api/v1/jobs/{id}/outputs", "", "", [409, 409, 404, 409]),
    Row("GET /api/v1/jobs/{id}/outputs/{path}", "", "", [409, 409, 404, 409]),
    Row("GET /api/v1/nodes", "", "", [200, 200, 200, 200]),
    Row("POST /api/v1/nodes/{name}/drain", "", "", [403, 403, 403, 200]),
    Row("DELETE /api/v1/nodes/{name}/drain", "", "", [403, 403, 403, 200]),
    Row("POST /api/v1/nodes/{name}/drill", "?kind=node", "", [403, 403, 403, 409]),
    Row("POST /api/v1/nodes/{name}/drill", "?kind=node", "", [403, 403, 403, 409]),
    Row("GET /api/v1/events", "", "", [200, 200, 200, 200]),
    Row("GET /api/v1/images", "", "", [200, 200, 200, 200]),
    Row("POST /api/v1/images", "", r#"{"reference": "A B"}"#, [403, 400, 400, 400]),
    Row("POST /api/v1/images/import", "?name=a", "no archive", [403, 409, 409, 409]),
    Row("PUT /api/v1/images/import", "?name=a", "no archive", [403, 409, 409, 409]),
    Row("DELETE /api/v1/images/{name}", "", "", [403, 403, 403, 404]),
    Row("GET /api/v1/default-quota", "", "", [403, 403, 403, 200]),
    Row("PUT /api/v1/default-quota", "", r#"{"running": 1}"#, [403, 403, 403, 200]),
    Row("DELETE /api/v1/default-quota", "", "", [403, 403, 403, 204]),
    Row("GET /api/v1/quotas", "", "", [403, 403, 403, 200]),
    Row("GET /api/v1/quotas/{owner}", "", "", [200, 200, 404, 200]),
    Row("PUT /api/v1/quotas/{owner}", "", r#"{"running": 1}"#, [403, 403, 403, 200]),
    Row("DELETE /api/v1/quotas/{owner}", "", "", [403, 403, 403, 204]),
    Row("GET /api/v1/audit", "", "", [403, 403, 403, 200]),
    Row("GET /api/v1/me", "", "", [200, 200, 200, 200]),
    Row("GET /api/v1/tokens", "", "", [403, 403, 403, 200]),
    Row("POST /api/v1/tokens", "", r#"{"owner": "eve", "role": "admin"}"#, [403, 403, 403, 201]),
    Row("DELETE /api/v1/tokens/{id}", "", "", [403, 403, 403, 404]),
    Row("GET /api/openapi.json", "", "", [200, 200, 200, 200]),
    Row("GET /metrics", "", "", [200, 200, 200, 200]),
    Row("GET /readyz", "", "", [200, 200, 200, 200]),
    Row("GET /", "", "", [200, 200, 200, 200]),
    Row("GET /jobs/new", "", "", [200, 200, 200, 200]),
    Row("GET /jobs/{id}", "", "", [200, 200, 404, 200]),
    Row("GET /nodes", "", "", [200, 200, 200, 200]),
    Row("GET /group", "", "", [200, 200, 200, 200]),
    Row("GET /jobs/{id}", "", "", [200, 200, 404, 200]),
    Row("GET /jobs/new", "", "", [200, 200, 200, 200]),
    Row("GET /nodes", "", "", [200, 200, 200, 200]),
    Row("GET /group", "", "", [200, 200, 200, 200]),
    Row("GET /access", "", "", [403, 403, 403, 200]),
];

/// Routes for whoever can reach the node.
const PUBLIC: &[&str] = &["GET /healthz", "GET /login", "POST /login", "POST /logout", "GET /assets/{name}"];

/// A group with a job of Ann's and one of Ben's, and a token of each kind.
struct World {
    group: Group,
    router: Router,
    _work_dir: tempfile::TempDir,
    tokens: Vec<(Who, String)>,
}

impl World {
    async fn new() -> Self {
        let group = Group::new(Faults::none()).await;
        group.submit_for("ann", "of-ann").await;
        group.submit_for("ben", "of-ben").await;
        let incarnation = fresh::incarnation();
        group.announce(&NodeId::new("n").unwrap(), &incarnation, "http://127.0.0.1:1", None).await;
        let address = "127.0.0.1:7480".parse().unwrap();
        let access = Access::new(address, None, Arc::clone(group.records.store()));
        let mut tokens = Vec::new();
        for (who, owner, role, lasts) in [
            (Who::Admin, "root", Role::Admin, None),
            (Who::ReadOnly, "ann", Role::ReadOnly, None),
            (Who::UserOnOwn, "ann", Role::User, None),
            (Who::UserOnAnothers, "ann", Role::User, None),
            (Who::Expired, "root", Role::Admin, Some(Duration::ZERO)),
            (Who::Revoked, "root", Role::Admin, None),
        ] {
            let owner = Owner::new(owner).unwrap();
            let new = NewToken { owner: owner.clone(), role, lasts, created_by: owner };
            let (id, _, text) = access.tokens().create(new, true).await.unwrap();
            if who == Who::Revoked {
                access.tokens().revoke(&id, true).await.unwrap();
            }
            tokens.push((who, text));
        }
        tokens.push((Who::Wrong, format!("workrs_{}_{}", fresh::id(), "0".repeat(64))));
        let work_dir = tempfile::tempdir().unwrap();
        let router = router(group.api(&incarnation, access, work_dir.path()));
        Self { group, router, _work_dir: work_dir, tokens }
    }

    /// Status and kind of problem of a request.
    async fn ask(&self, who: Who, row: &Row) -> (u16, String) {
        let Row(route, query, body, _) = row;
        let (method, path) = route.split_once(' ').unwrap();
        let owner = if matches!(who, Who::UserOnAnothers | Who::Admin) { "ben" } else { "ann" };
        let job = format!("of-{owner}");
        let path = format!("{path}{query}")
            .replace("{id}", &job)
            .replace("{owner}", owner)
            .replace("{name}", "n")
            .replace("{path}", "out.txt");
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path);
        request = request.header(header::HOST, "node.example:7480");
        if body.starts_with('{') {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some((_, token)) = self.tokens.iter().find(|(of, _)| *of == who) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self.router.clone().oneshot(request.body(Body::from(*body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        if status < 400 {
            return (status, String::new());
        }
        let bytes = axum::body::to_bytes(response.into_body(), MAX_BODY).await.unwrap();
        let problem: Problem = serde_json::from_slice(&bytes).unwrap();
        (status, problem.kind.trim_start_matches("urn:workrs:problem:").to_owned())
    }

    /// All that stands in the state, but for what is noted of requests.
    async fn state(&self) -> Vec<Entry> {
        let mut entries = self.group.records.store().list("", None, usize::MAX).await.unwrap().entries;
        entries.retain(|entry| !entry.key.starts_with(keys::AUDIT));
        entries
    }
}

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_nothing_else() {
    for row in ROUTES {
        for who in ALL {
            let world = World::new().await;
            let before = world.state().await;
            let (status, kind) = world.ask(who, row).await;
            let what = format!("{who:?}: {}", row.0);
            let [read_only, own, anothers, admin] = row.3;
            let expected = match who {
                Who::NoToken | Who::Wrong => (401, Some("no-token")),
                Who::Expired => (401, Some("token-expired")),
                Who::Revoked => (401, Some("token-revoked")),
                Who::ReadOnly => (read_only, None),
                Who::UserOnOwn => (own, None),
                Who::UserOnAnothers => (anothers, None),
                Who::Admin => (admin, None),
            };
            let expected_kind = expected.1.or(match expected.0 {
                403 => Some("forbidden"),
                404 => Some("not-found"),
                _ => None,
            });
            assert_eq!(status, expected.0, "{what} ({kind})");
            if let Some(expected) = expected_kind {
                assert_eq!(kind, expected, "{what}");
            }
            if status >= 400 {
                assert_eq!(world.state().await, before, "{what}: what is refused changes nothing");
            }
        }
    }
}

#[tokio::test]
async fn the_table_has_every_route() {
    let document = serde_json::to_value(openapi_document()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods =
            item.as_object().unwrap().keys().filter(|key| ["get", "put", "post", "delete"].contains(&key.as_str()));
        documented.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let listed: BTreeSet<_> = ROUTES.iter().map(|row| row.0.to_owned()).collect();
    let public: BTreeSet<_> = PUBLIC.iter().map(|route| (*route).to_owned()).collect();
    let missing: Vec<_> =
        documented.iter().filter(|route| !listed.contains(*route) && !public.contains(*route)).collect();
    assert!(missing.is_empty(), "add them to ROUTES: {missing:?}");
}

#[tokio::test]
async fn what_needs_no_token_tells_nothing_of_the_group() {
    let world = World::new().await;
    for (route, status) in [("GET /healthz", 200), ("GET /login", 200), ("POST /logout", 303)] {
        let row = Row(route, "", "", [status; 4]);
        assert_eq!(world.ask(Who::NoToken, &row).await.0, status, "{route}");
    }
}
