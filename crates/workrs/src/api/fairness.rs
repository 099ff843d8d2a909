//! No caller takes so much that others come short.
//!
//! Every caller has a rate of requests and a number of event streams. Whoever's requests are refused for want of a token
//! has a much lower rate, so that tokens cannot be guessed.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use super::Problem;
use crate::{
    access::Caller,
    listen::{Peer, Place, Places, Rate, Who},
    metrics,
};

/// Event streams of one caller.
const MOST_STREAMS: usize = 1_024;
/// Requests without a valid token that an address may make a second, and at once.
const REFUSALS_PER_SECOND: u32 = 10;
const REFUSALS_AT_ONCE: u32 = 100;

/// What each caller may have.
#[derive(Debug)]
pub struct Fairness {
    /// Requests; none where they are not counted.
    requests: Option<Rate>,
    refusals: Rate,
    streams: Places<Who>,
}

impl Fairness {
    /// So many requests of a caller a second, and twice as many at once; `None` means as many as it likes.
    pub fn new(requests_per_second: Option<u32>) -> Self {
        Self {
            requests: requests_per_second.map(|rate| Rate::new(rate, rate.saturating_mul(2))),
            refusals: Rate::new(REFUSALS_PER_SECOND, REFUSALS_AT_ONCE),
            streams: Places::new(MOST_STREAMS),
        }
    }

    /// A stream more for a caller, while the place is kept.
    pub(super) fn stream(&self, who: &Who) -> Result<Place<Who>, Problem> {
        self.streams.take(who.clone()).ok_or_else(|| {
            metrics::RATE_LIMITED.add_to(&["streams"], 1);
            let detail = format!("this caller has {} event streams open, and may not have more", self.streams.most());
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "there are too many event streams", detail)
                .hint("close those that nobody reads")
        })
    }
}

/// Who makes a request: the token that it carries if that is one of many, else the address that it comes from.
pub(super) fn who(request: &Request) -> Option<Who> {
    let extensions = request.extensions();
    match extensions.get::<Caller>().and_then(|caller| caller.token.as_ref()) {
        Some(token) => Some(Who::Token(token.to_string())),
        None => Some(Who::at(extensions.get::<Peer>()?.address.ip())),
    }
}

/// Holds callers to their rate. Runs where it is known who they are.
pub(super) async fn of_requests(State(fairness): State<Arc<Fairness>>, request: Request, next: Next) -> Response {
    if let (Some(rate), Some(who)) = (&fairness.requests, who(&request))
        && let Err(wait) = rate.take(&who, Instant::now())
    {
        return too_many("requests", wait, "this caller makes more requests than it may, which is set by --rate-limit");
    }
    next.run(request).await
}

/// Holds up whoever tries tokens. Runs around the check of who may do what. Not on loopback, where one user of the machine
/// could lock out the others.
pub(super) async fn of_refusals(State(fairness): State<Arc<Fairness>>, request: Request, next: Next) -> Response {
    let address = request.extensions().get::<Peer>().map(|peer| peer.address.ip().to_canonical());
    let Some(who) = address.filter(|address| !address.is_loopback()).map(Who::at) else {
        return next.run(request).await;
    };
    if let Err(wait) = fairness.refusals.room(&who, Instant::now()) {
        return too_many("refusals", wait, "too many requests from this address carried no valid token");
    }
    let response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED {
        // If there is no room by now, the next one is held up.
        let _counted = fairness.refusals.take(&who, Instant::now());
    }
    response
}

fn too_many(of: &'static str, wait: Duration, reason: &str) -> Response {
    metrics::RATE_LIMITED.add_to(&[of], 1);
    // In whole seconds, rounded up.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "there are too many requests", reason);
    let mut response =
        problem.hint(format!("try again in {seconds} s, as the header Retry-After says")).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
