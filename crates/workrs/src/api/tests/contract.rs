//! What the API promises beside its answers: problems for whatever it refuses, pages, tags, ranges, ids of submits.

use reqwest::{
    Method, Response,
    header::{HeaderMap, HeaderName},
};
use workrs_core::keys::BlobNames;

use super::*;
use crate::node::{FileEntry, FileIndex, INDEX_NAME};

impl TestNode {
    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.request(method, format!("{}{path}", self.url)).bearer_auth(TOKEN);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_owned()).send().await.unwrap()
    }

    async fn list(&self, query: &str) -> JobPage {
        let answer = self.ask(Method::GET, &format!("/api/v1/jobs?{query}"), &[], "").await;
        assert_eq!(answer.status(), 200, "{query}");
        answer.json().await.unwrap()
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn header_of(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn whatever_is_refused_is_a_problem_of_a_known_kind() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let long = "x".repeat(70_000);
    let deep = format!("{{\"command\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let cases = [
        (Method::GET, "/api/v1/nothing", "", "no-route"),
        (Method::GET, "/nothing", "", "no-route"),
        (Method::PATCH, "/api/v1/jobs", "", "wrong-method"),
        (Method::DELETE, "/api/v1/nodes", "", "wrong-method"),
        (Method::GET, "/api/v1/jobs?limit=many", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?limit=0", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?limit=501", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?state=lost", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?colour=red", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?state=queued&state=queued", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?after=job-1", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?since=-1", "", "bad-request"),
        (Method::GET, "/api/v1/jobs?owner=%20", "", "bad-request"),
        (Method::GET, "/api/v1/jobs/%FF", "", "bad-request"),
        (Method::GET, "/api/v1/jobs/a%20b", "", "bad-name"),
        (Method::DELETE, "/api/v1/jobs/job-1", "", "not-found"),
        (Method::GET, &format!("/api/v1/jobs/{}", "x".repeat(65)), "", "bad-name"),
        (Method::POST, "/api/v1/jobs", &deep, "bad-request"),
        (Method::POST, "/api/v1/jobs", &long, "too-large"),
        (Method::POST, "/api/v1/jobs", "{\"command\": [\"true\"], \"retries\": 1.5}", "invalid-job"),
        (Method::POST, "/api/v1/jobs", "{\"command\": [\"true\"], \"cpus\": 0.0006}", "invalid-job"),
        (Method::POST, "/api/v1/jobs", "{\"command\": [\"true\"], \"cpus\": 3}", "no-room"),
        (Method::POST, "/api/v1/tokens", "[]", "bad-request"),
    ];
    for (method, path, body, kind) in cases {
        let answer = node.ask(method.clone(), path, &[JSON], body).await;
        let status = answer.status().as_u16();
        let content_type = header_of(answer.headers(), header::CONTENT_TYPE);
        let allow = header_of(answer.headers(), header::ALLOW);
        assert_eq!(content_type, "application/problem+json", "{method} {path}");
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!(problem.kind, format!("urn:workrs:problem:{kind}"), "{method} {path}: {}", problem.detail);
        assert_eq!((status, Some(status)), (problem.status, kinds::find(kind).map(|kind| kind.status)));
        assert_eq!(kind == "wrong-method", !allow.is_empty(), "{method} {path}: Allow is {allow:?}");
    }
    let answer = node.ask(Method::POST, "/api/v1/jobs", &[("content-type", "text/plain")], "true").await;
    assert_eq!(answer.status(), 415);
}

#[tokio::test]
async fn a_list_is_cut_into_pages_that_stay_right_while_jobs_come_and_go() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let at = workrs_core::id::Timestamp::from_millis;
    for number in 0..7_u64 {
        let id = JobId::new(format!("job-{number}")).unwrap();
        let spec = JobSpec::new(format!("Work {}", number % 2), vec!["true".to_owned()]);
        let record = JobRecord::submitted(id, Owner::new("local").unwrap(), spec, None, at(1_000 + number));
        group.records.submit(record, &fresh::operation()).await.unwrap();
    }
    group.apply(&JobId::new("job-3").unwrap(), JobEvent::CancelRequested { at: at(2_000) }).await;
    let ids = |page: &JobPage| page.jobs.iter().map(|job| job.id[4..].to_owned()).collect::<String>();

    let first = node.list("limit=3").await;
    assert_eq!((ids(&first).as_str(), first.total, first.counts.queued, first.counts.cancelled), ("654", 7, 6, 1));
    let next = first.next.unwrap();
    group.submit("job-9").await;
    group.records.delete(&JobId::new("job-3").unwrap()).await.unwrap();
    let second = node.list(&format!("limit=3&after={next}")).await;
    assert_eq!(ids(&second), "210");
    assert_eq!(second.next, None);

    assert_eq!(ids(&node.list("order=asc&limit=2").await), "01");
    assert_eq!(ids(&node.list("name=Work+1").await), "51");
    assert_eq!(ids(&node.list("search=JOB-5").await), "5");
    assert_eq!(ids(&node.list("since=1004&until=1006").await), "54");
    assert_eq!(ids(&node.list("owner=nobody").await), "");
    let running = node.list("state=running&node=n").await;
    assert_eq!((running.jobs.len(), running.total, running.counts.queued), (0, 0, 0));
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let id = group.submit("job-1").await;
    for path in ["/api/v1/jobs/job-1", "/api/v1/jobs", "/api/v1/nodes"] {
        let answer = node.ask(Method::GET, path, &[], "").await;
        let tag = header_of(answer.headers(), header::ETAG);
        assert!(tag.len() > 10, "{path}: {tag:?}");
        let head = node.ask(Method::HEAD, path, &[], "").await;
        assert_eq!((header_of(head.headers(), header::ETAG), head.status().as_u16()), (tag.clone(), 200), "{path}");
        let known = node.ask(Method::GET, path, &[("if-none-match", &tag)], "").await;
        assert_eq!((known.status().as_u16(), known.text().await.unwrap().as_str()), (304, ""), "{path}");
        if path != "/api/v1/nodes" {
            let holder = node.holder(1);
            let claimed = JobEvent::Claimed { holder, at: fresh::now() };
            if group.records.get(&id).await.unwrap().unwrap().holder().is_none() {
                group.apply(&id, claimed).await;
                assert_eq!(node.ask(Method::GET, path, &[("if-none-match", &tag)], "").await.status(), 200, "{path}");
            }
        }
    }
}

/// A finished job that printed `log` and left one file of its own and one in the archive.
async fn finished(group: &Group, node: &TestNode, log: &str) -> JobId {
    let id = group.submit("job-1").await;
    let attempt = node.run(group, &id, 1, log).await;
    let segment = Segment { epoch: Epoch(1), from: 0, to: log.len() as u64 };
    store_segment(&group.blobs, &id, segment, &attempt.folder.path().join("log"), 0).await.unwrap();
    let folder = BlobNames(&id).outputs(Epoch(1), &fresh::operation());
    let own = group.blobs.put(&format!("{folder}0"), "0123456789".into()).await.unwrap();
    group.blobs.put(&format!("{folder}{}", crate::node::ARCHIVE_NAME), "....abcdefghij....".into()).await.unwrap();
    let hash = workrs_core::hash::ContentHash::of(b"abcdefghij");
    let files = vec![
        FileEntry { path: "own".into(), len: 10, mode: 0o644, hash: own.hash, offset: None },
        FileEntry { path: "folder/packed".into(), len: 10, mode: 0o644, hash, offset: Some(4) },
    ];
    let index = serde_json::to_vec(&FileIndex { files, ..FileIndex::default() }).unwrap();
    let outputs = Some(group.blobs.put(&format!("{folder}{INDEX_NAME}"), index.into()).await.unwrap());
    let (holder, outcome, log_bytes) = (node.holder(1), Outcome::Succeeded, log.len() as u64);
    group
        .apply(&id, JobEvent::Finished { holder, at: fresh::now(), outcome, outputs, output_bytes: 20, log_bytes })
        .await;
    id
}

#[tokio::test]
async fn outputs_and_logs_come_whole_in_parts_or_not_again() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    finished(&group, &node, "klmnopqrst").await;
    let outputs = "/api/v1/jobs/job-1/outputs";
    for (path, content) in [
        (format!("{outputs}/own"), "0123456789"),
        (format!("{outputs}/folder/packed"), "abcdefghij"),
        ("/api/v1/jobs/job-1/logs".to_owned(), "klmnopqrst"),
    ] {
        let whole = node.ask(Method::GET, &path, &[], "").await;
        let tag = header_of(whole.headers(), header::ETAG);
        assert_eq!(header_of(whole.headers(), header::ACCEPT_RANGES), "bytes", "{path}");
        assert_eq!((whole.status().as_u16(), whole.text().await.unwrap().as_str()), (200, content), "{path}");

        let part = node.ask(Method::GET, &path, &[("range", "bytes=2-4")], "").await;
        assert_eq!(header_of(part.headers(), header::CONTENT_RANGE), "bytes 2-4/10", "{path}");
        assert_eq!((part.status().as_u16(), part.text().await.unwrap().as_str()), (206, &content[2..5]), "{path}");
        let end = node.ask(Method::GET, &path, &[("range", "bytes=-3"), ("if-range", &tag)], "").await;
        assert_eq!((end.status().as_u16(), end.text().await.unwrap().as_str()), (206, &content[7..]), "{path}");

        let behind = node.ask(Method::GET, &path, &[("range", "bytes=10-")], "").await;
        assert_eq!(behind.status(), 416, "{path}");
        assert!(behind.text().await.unwrap().contains(":bad-range"), "{path}");
        let known = node.ask(Method::GET, &path, &[("if-none-match", &tag)], "").await;
        assert_eq!((known.status().as_u16(), known.text().await.unwrap().as_str()), (304, ""), "{path}");
        let head = node.ask(Method::HEAD, &path, &[], "").await;
        assert_eq!((head.status().as_u16(), header_of(head.headers(), header::ETAG)), (200, tag), "{path}");
    }
}

#[tokio::test]
async fn a_submit_that_has_a_key_is_done_once() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let submit = async |key: &str, body: &str| {
        let answer = node.ask(Method::POST, "/api/v1/jobs", &[JSON, ("idempotency-key", key)], body).await;
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let one = r#"{"command": ["true"]}"#;
    let (status, job) = submit("night/1", one).await;
    assert_eq!(status, 201, "{job}");
    let (status, again) = submit("night/1", one).await;
    assert_eq!((status, &again["id"]), (200, &job["id"]));
    assert_eq!(submit("night/1", r#"{"command": ["false"]}"#).await.0, 409);
    assert_eq!(submit("night/2", one).await.0, 201);
    assert_eq!(submit("a key", one).await.0, 400);
    // An id of one's own says more.
    let (_, named) = submit("night/1", r#"{"command": ["true"], "id": "mine"}"#).await;
    assert_eq!(named["id"], "mine");
}

#[tokio::test]
async fn a_job_that_no_node_could_run_says_so() {
    type Change = fn(&mut JobSpec);
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "barn-1").await;
    let mut spec = JobSpec::new("n", vec!["true".to_owned()]);
    let cases: [(&str, Change, Option<&str>); 3] = [
        ("fits", |_| (), None),
        ("large", |spec| spec.cpus_milli = 1_001, Some("barn-1: it has too little processor time")),
        (
            "label",
            |spec| _ = spec.constraints.insert("gpu".to_owned(), "yes".to_owned()),
            Some("barn-1: it is not labelled gpu=yes"),
        ),
    ];
    for (id, change, reason) in cases {
        change(&mut spec);
        let id = JobId::new(id).unwrap();
        let record = JobRecord::submitted(id.clone(), Owner::new("local").unwrap(), spec.clone(), None, fresh::now());
        group.records.submit(record, &fresh::operation()).await.unwrap();
        assert_eq!(node.client().job(id.as_str(), None).await.unwrap().reason.as_deref(), reason);
    }
}

#[tokio::test]
async fn a_job_that_has_ended_can_be_deleted_with_all_that_it_left() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    group.submit("waits").await;
    let path = "/api/v1/jobs/waits";
    assert_eq!(node.ask(Method::DELETE, path, &[], "").await.status(), 409);
    finished(&group, &node, "log").await;
    let path = "/api/v1/jobs/job-1";
    assert_eq!(node.ask(Method::DELETE, path, &[], "").await.status(), 204);
    for path in [path, "/api/v1/jobs/job-1/logs", "/api/v1/jobs/job-1/outputs"] {
        assert_eq!(node.ask(Method::GET, path, &[], "").await.status(), 404, "{path}");
    }
    assert_eq!(node.ask(Method::DELETE, path, &[], "").await.status(), 404);
    assert_eq!(group.blobs.list("jobs/job-1/").await.unwrap(), Vec::new());
    assert_eq!(node.list("").await.total, 1);
}
