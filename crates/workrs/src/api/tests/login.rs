//! A browser logs in to the page, and what is noted of all that people change.

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use tower::ServiceExt;

use super::*;
use crate::access::session;

const HOST: &str = "node.example:7480";

/// A browser that keeps its cookie.
struct Browser {
    router: Router,
    cookie: Option<String>,
    _work_dir: tempfile::TempDir,
}

impl Browser {
    fn new(group: &Group) -> Self {
        let work_dir = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:7480".parse().unwrap();
        let access = Access::new(address, Some(TOKEN.to_owned()), Arc::clone(group.records.store()));
        let router = router(group.api(&fresh::incarnation(), access, work_dir.path()));
        Self { router, cookie: None, _work_dir: work_dir }
    }

    async fn ask(&mut self, method: Method, path: &str, headers: &[(&str, &str)], form: &str) -> Response {
        let mut request = Request::builder().method(&method).uri(path).header(header::HOST, HOST);
        request = request.header(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(form.to_owned())).unwrap()).await.unwrap();
        if let Some(cookie) = response.headers().get(header::SET_COOKIE) {
            self.cookie = cookie.to_str().unwrap().split(';').next().map(str::to_owned);
        }
        response
    }

    async fn status(&mut self, method: Method, path: &str, headers: &[(&str, &str)], form: &str) -> u16 {
        self.ask(method, path, headers, form).await.status().as_u16()
    }
}

fn location(response: &Response) -> &str {
    response.headers()[header::LOCATION].to_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_browser_logs_in_changes_things_and_logs_out() {
    let group = Group::new(Faults::none()).await;
    group.submit("job-1").await;
    let mut browser = Browser::new(&group);
    let sent = browser.ask(Method::GET, "/?a=b", &[], "").await;
    assert_eq!((sent.status().as_u16(), location(&sent)), (303, "/login?next=%2F%3Fa%3Db"));
    assert_eq!(browser.status(Method::GET, "/login?next=%2F", &[], "").await, 200);

    let refused = browser.ask(Method::POST, "/login", &[], "token=wrong&next=/").await;
    assert_eq!(refused.status().as_u16(), 401);
    let page = axum::body::to_bytes(refused.into_body(), MAX_BODY).await.unwrap();
    assert!(std::str::from_utf8(&page).unwrap().contains("no token of the group"));
    let evil = [("origin", "http://evil.example")];
    let form = format!("token={TOKEN}&next=/jobs");
    assert_eq!(browser.status(Method::POST, "/login", &evil, &form).await, 403);
    assert_eq!(browser.cookie, None);

    let own = [("origin", "http://node.example:7480")];
    let taken = browser.ask(Method::POST, "/login", &own, &form).await;
    assert_eq!((taken.status().as_u16(), location(&taken)), (303, "/jobs"));
    assert_eq!(browser.status(Method::GET, "/api/v1/me", &[], "").await, 200);

    let (cancel, csrf) = ("/api/v1/jobs/job-1/cancel", session::csrf(TOKEN));
    assert_eq!(browser.status(Method::POST, cancel, &own, "").await, 403);
    let proved = [own[0], ("x-workrs-csrf", csrf.as_str())];
    assert_eq!(browser.status(Method::POST, cancel, &[evil[0], proved[1]], "").await, 403);
    assert_eq!(browser.status(Method::POST, cancel, &proved, "").await, 200);
    assert_eq!(browser.status(Method::POST, cancel, &own, &format!("csrf={csrf}")).await, 200);

    assert_eq!(browser.status(Method::POST, "/logout", &own, "").await, 303);
    assert_eq!(browser.status(Method::GET, "/api/v1/me", &[], "").await, 401);
}

#[tokio::test(start_paused = true)]
async fn who_tries_many_tokens_has_to_wait() {
    let group = Group::new(Faults::none()).await;
    let mut browser = Browser::new(&group);
    for _ in 0..10 {
        assert_eq!(browser.status(Method::POST, "/login", &[], "token=guess").await, 401);
    }
    let form = format!("token={TOKEN}");
    let refused = browser.ask(Method::POST, "/login", &[], &form).await;
    assert_eq!(refused.status().as_u16(), 429);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(browser.status(Method::POST, "/login", &[], &form).await, 303);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let group = Group::new(Faults::none()).await;
    let mut browser = Browser::new(&group);
    for path in ["/", "/login", "/healthz", "/api/v1/jobs", "/nothing"] {
        let response = browser.ask(Method::GET, path, &[], "").await;
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
    }
}

#[tokio::test]
async fn what_people_change_is_noted_and_no_secret_is() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let client = node.client();
    let request = crate::api::TokenRequest {
        owner: "ann".to_owned(),
        role: crate::access::Role::User,
        expires: Some("1h".to_owned()),
    };
    let made = client.create_token(&request).await.unwrap();
    let ann = Client::new(std::slice::from_ref(&node.url), Some(made.token.clone())).unwrap();
    group.submit_for("ben", "of-ben").await;
    let submit = SubmitRequest {
        id: Some("a1".to_owned()),
        command: vec!["true".to_owned(), "hush".to_owned()],
        ..SubmitRequest::default()
    };
    ann.submit(&submit, None, &[], |_| {}).await.unwrap();
    ann.cancel("a1").await.unwrap();
    ann.cancel("of-ben").await.unwrap_err();
    ann.tokens().await.unwrap_err();
    client.revoke_token(&made.view.id).await.unwrap();
    ann.jobs(None, None, None).await.unwrap_err();

    let notes = client.audit("1h", None).await.unwrap().notes;
    let lines: Vec<_> = notes
        .iter()
        .map(|note| {
            let owner = note.owner.as_deref().unwrap_or("?");
            let problem = note.problem.as_deref().unwrap_or("");
            format!("{owner} {} {} {problem}", note.action, note.status.unwrap_or(0)).trim().to_owned()
        })
        .collect();
    assert_eq!(
        lines,
        [
            "admin POST /api/v1/tokens 201",
            "ann POST /api/v1/jobs 201",
            "ann POST /api/v1/jobs/{id}/cancel 200",
            "ann POST /api/v1/jobs/{id}/cancel 404 not-found",
            "ann GET /api/v1/tokens 403 forbidden",
            "admin DELETE /api/v1/tokens/{id} 200",
            "? GET /api/v1/jobs 401 token-revoked",
        ]
    );
    assert_eq!(notes[0].target, format!("/api/v1/tokens/{}", made.view.id));
    assert_eq!((notes[1].target.as_str(), notes[1].token.as_ref()), ("/api/v1/jobs/a1", Some(&made.view.id)));
    assert!(notes.iter().all(|note| note.address.as_deref() == Some("127.0.0.1")));
    let entries = group.records.store().list(keys::AUDIT, None, usize::MAX).await.unwrap().entries;
    let all = entries.iter().map(|entry| String::from_utf8_lossy(&entry.value)).collect::<String>();
    let secret = made.token.rsplit('_').next().unwrap();
    assert!(!all.contains(secret) && !all.contains(TOKEN) && !all.contains("hush"), "{all}");
}
