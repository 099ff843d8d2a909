//! Changes of jobs and nodes, as server-sent events.

use std::convert::Infallible;

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use workrs_core::keys;
use workrs_store::state::WatchEvent;

use super::{Api, JobView, Problem};

/// Streams `job` events (the job as it now is), `node` events (a node came or went) and `missed` when there was
/// more than this client took: list again then.
#[utoipa::path(get, path = "/api/v1/events", responses((status = 200, content_type = "text/event-stream"), (status = "default", body = Problem)))]
pub async fn stream(State(api): State<Api>) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let store = api.records.store();
    let from = store.list(keys::NODES, None, 1).await?.revision;
    // A job enters or leaves the queue, or a process's list, whenever its state changes.
    let mut queue = store.watch(keys::QUEUE, from).await?;
    let mut running = store.watch(keys::RUNNING, from).await?;
    let mut nodes = store.watch(keys::NODES, from).await?;
    let (sender, receiver) = mpsc::channel::<Event>(64);
    let stopping = api.stopping.clone();
    let watching = async move {
        loop {
            let event = tokio::select! {
                event = queue.recv() => event,
                event = running.recv() => event,
                event = nodes.recv() => event,
                () = sender.closed() => return,
            };
            let key = match &event {
                Some(WatchEvent::Put(entry)) => entry.key.clone(),
                Some(WatchEvent::Deleted { key, .. }) => key.clone(),
                Some(WatchEvent::Compacted) | None => {
                    // Whether it arrives or not, the stream ends.
                    let _ = sender.send(Event::default().event("missed").data("{}")).await;
                    return;
                }
            };
            let Some(told) = describe(&api, &key, matches!(event, Some(WatchEvent::Put(_)))).await else { continue };
            if sender.send(told).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = watching => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver).map(Ok)).keep_alive(KeepAlive::default()))
}

async fn describe(api: &Api, key: &str, put: bool) -> Option<Event> {
    if let Some(node) = key.strip_prefix(keys::NODES) {
        let name = node.split('/').next()?;
        return Event::default().event("node").json_data(json!({ "name": name, "live": put })).ok();
    }
    let record = api.records.get(&keys::job_of_index(key)?).await.ok()??;
    Event::default().event("job").json_data(JobView::from(&record)).ok()
}
