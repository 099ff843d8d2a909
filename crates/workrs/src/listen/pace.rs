//! What a client sends must come at a pace.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// So long a client may be waited for …
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// … until it has sent so much.
const STEP_BYTES: usize = 1 << 10;

/// A request's body that fails once its client has been waited for too long. Time in which nobody wants to read is not its
/// fault and does not count.
pub(super) struct Paced<B> {
    body: B,
    /// What the client may still be waited for, before it has sent `missing` bytes.
    left: Duration,
    missing: usize,
    /// Since when it is waited for, and until when at most.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, left: PATIENCE, missing: STEP_BYTES, waiting: None }
    }

    fn arrived(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        self.missing = self.missing.saturating_sub(bytes);
        if self.missing == 0 {
            (self.left, self.missing) = (PATIENCE, STEP_BYTES);
        }
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
            this.arrived(bytes.unwrap_or_default());
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = this.left;
        let (_, end) = this.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(end.as_mut().poll(context));
        let reason =
            format!("the request's body comes too slowly: less than {STEP_BYTES} bytes in {} s", PATIENCE.as_secs());
        Poll::Ready(Some(Err(reason.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::{StreamExt, stream};

    use super::*;

    /// A body of pieces of these lengths, each after a pause.
    fn body(pieces: Vec<(Duration, usize)>) -> Body {
        let pieces = stream::iter(pieces).then(|(pause, len)| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; len]))
        });
        Body::new(Paced::new(Body::from_stream(pieces)))
    }

    async fn len(body: Body) -> Option<usize> {
        axum::body::to_bytes(body, usize::MAX).await.ok().map(|bytes| bytes.len())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_steady_body_arrives_however_long_it_takes() {
        assert_eq!(len(body(vec![(20 * SECOND, STEP_BYTES); 50])).await, Some(50 * STEP_BYTES));
        assert_eq!(len(body(vec![(2 * SECOND, STEP_BYTES / 10); 50])).await, Some(50 * (STEP_BYTES / 10)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stands_or_trickles_does_not() {
        assert_eq!(len(body(vec![(SECOND, STEP_BYTES), (31 * SECOND, 1)])).await, None);
        let began = Instant::now();
        assert_eq!(len(body(vec![(SECOND, 1); 1_000])).await, None);
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_is_not_the_clients_fault() {
        let mut body = body(vec![(20 * SECOND, 1), (9 * SECOND, STEP_BYTES)]).into_data_stream();
        body.next().await.unwrap().unwrap();
        tokio::time::sleep(600 * SECOND).await;
        assert_eq!(body.next().await.unwrap().unwrap().len(), STEP_BYTES);
        assert!(body.next().await.is_none());
    }
}
