//! Waits for nodes that went away.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::ClientError;

const PAUSE: Duration = Duration::from_millis(500);

/// How long failures of one kind are put up with in a row.
pub(super) struct Patience {
    limit: Duration,
    failing_since: Option<Instant>,
}

impl Patience {
    /// Five minutes: long enough for a node to be started again, and for others to take over.
    pub(super) fn new() -> Self {
        Self { limit: Duration::from_secs(300), failing_since: None }
    }

    /// Something went well.
    pub(super) fn renew(&mut self) {
        self.failing_since = None;
    }

    /// Pauses before the next try; gives `error` back if it will not pass, or has lasted for too long. Whether this is
    /// the first failure in a row.
    pub(super) async fn bear(&mut self, error: ClientError) -> Result<bool, ClientError> {
        let is_first = self.failing_since.is_none();
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if !error.is_passing() || since.elapsed() > self.limit {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
        Ok(is_first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Problem;

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_borne_and_not_for_ever() {
        let refused = |status| {
            let kind = if status == 503 { "unavailable" } else { "not-found" };
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            ClientError::Refused(Box::new(Problem::new(status, kind, "title", "detail")))
        };
        let mut patience = Patience::new();
        assert!(patience.bear(refused(404)).await.is_err());
        patience.renew();
        assert!(patience.bear(refused(503)).await.unwrap());
        assert!(!patience.bear(refused(503)).await.unwrap());
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(patience.bear(refused(503)).await.is_err());
    }
}
