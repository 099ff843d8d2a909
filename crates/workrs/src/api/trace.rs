//! What the log says about requests.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::time::Instant;
use tracing::{Instrument, Span, field, info_span};

/// Handles a request in a span below `node`'s, with the job that it is about, and notes at debug level how it was
/// answered; a body that is streamed goes on after that.
pub(super) async fn log(State(node): State<Span>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let span = info_span!(parent: &node, "request", method = %request.method(), path, job = field::Empty);
    if let Some(job) = job_of(path) {
        span.record("job", job);
    }
    async {
        let began = Instant::now();
        let response = next.run(request).await;
        let millis = began.elapsed().as_millis() as u64;
        tracing::debug!(status = response.status().as_u16(), millis, "answered");
        response
    }
    .instrument(span)
    .await
}

fn job_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/jobs/")?.split('/').next().filter(|job| !job.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_stands_in_the_path() {
        assert_eq!(job_of("/api/v1/jobs/j1/logs"), Some("j1"));
        assert_eq!(job_of("/api/v1/jobs/j1"), Some("j1"));
        assert_eq!(job_of("/api/v1/jobs"), None);
        assert_eq!(job_of("/api/v1/jobs/"), None);
    }
}
