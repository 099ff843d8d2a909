use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{Router, http::StatusCode, response::IntoResponse};
use tokio::{net::TcpListener, task::JoinSet};

use super::*;

/// Servers that last as long as the test.
#[derive(Default)]
struct Servers(JoinSet<()>);

impl Servers {
    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, url)
    }

    /// One that gives the same answer to everything, and how often it was asked.
    async fn answering(&mut self, status: u16, body: &'static str) -> (String, Arc<AtomicUsize>) {
        let (listener, url) = Self::listener().await;
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let answer = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { (StatusCode::from_u16(status).unwrap(), body).into_response() }
        };
        self.0.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
        (url, asked)
    }

    /// One that breaks every connection off before it answers.
    async fn breaking_off(&mut self) -> String {
        let (listener, url) = Self::listener().await;
        self.0.spawn(async move { while listener.accept().await.is_ok() {} });
        url
    }

    /// Where nobody listens.
    async fn refusing() -> String {
        Self::listener().await.1
    }
}

const AWAY: &str = r#"{"type": "urn:workrs:problem:unavailable", "title": "away", "status": 503, "detail": "d"}"#;
const MISSING: &str = r#"{"type": "urn:workrs:problem:not-found", "title": "none", "status": 404, "detail": "d"}"#;

#[tokio::test]
async fn the_next_node_is_asked_and_the_good_one_first_from_then_on() {
    let mut servers = Servers::default();
    let (busy, busy_asked) = servers.answering(503, AWAY).await;
    let (good, good_asked) = servers.answering(200, "[]").await;
    let all = [Servers::refusing().await, servers.breaking_off().await, busy, good];
    let client = Client::new(&all, None).unwrap();
    assert_eq!(client.nodes().await.unwrap(), []);
    assert_eq!(client.clone().nodes().await.unwrap(), []);
    assert_eq!((busy_asked.load(Ordering::SeqCst), good_asked.load(Ordering::SeqCst)), (1, 2));
}

#[tokio::test]
async fn an_answer_that_every_node_would_give_is_taken() {
    let mut servers = Servers::default();
    let (one, _) = servers.answering(404, MISSING).await;
    let (two, asked) = servers.answering(200, "[]").await;
    let error = Client::new(&[one, two], None).unwrap().nodes().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(problem) if problem.status == 404));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn when_all_are_away_each_is_named_with_its_reason() {
    let mut servers = Servers::default();
    let all = [Servers::refusing().await, servers.breaking_off().await];
    let error = Client::new(&all, None).unwrap().nodes().await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("no node answers: {} (", all[0])), "{text}");
    assert!(text.contains(&format!("), {} (", all[1])), "{text}");
    assert!(error.is_passing());
    // What one of them says tells more than that the other is silent.
    let (busy, _) = servers.answering(503, AWAY).await;
    let all = [busy, Servers::refusing().await];
    let error = Client::new(&all, None).unwrap().nodes().await.unwrap_err();
    assert_eq!(error.to_string(), "away: d");
}

#[tokio::test]
async fn a_submit_goes_to_the_next_node_with_the_same_id() {
    let mut servers = Servers::default();
    let (good, asked) = servers.answering(409, MISSING).await;
    let client = Client::new(&[servers.breaking_off().await, good], None).unwrap();
    let request = SubmitRequest { id: Some("job-1".to_owned()), ..SubmitRequest::default() };
    let error = client.submit(&request, None, &[], |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_does_not_move_is_given_up() {
    let moved = Mutex::new(Instant::now());
    let began = Instant::now();
    stalled(&moved).await;
    assert_eq!(began.elapsed(), STALLED);
}
