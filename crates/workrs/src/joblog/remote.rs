//! The live log of an attempt that another node runs, read through that node's API.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::{RequestBuilder, Response};
use workrs_core::{
    id::{Incarnation, JobId},
    job::Holder,
    keys,
};
use workrs_store::{records::Records, state::StateError};

use super::{LogEvent, live::LiveEvents};
use crate::{
    client::{self, ConnectionError},
    node::NodeInfo,
    tls::{Fingerprint, Trust},
};

/// The header of a live log that carries the offset of its first byte: not the one that was asked for when the attempt
/// has not come so far.
pub const OFFSET_HEADER: &str = "x-workrs-offset";

/// How long a node that is connected may take to begin its answer, or to go on with one that has an end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to so many nodes are kept for the next log.
const MOST_PINNED: usize = 64;

/// The other nodes of the group, as far as logs are concerned.
#[derive(Debug, Clone)]
pub struct Peers {
    /// For addresses whose certificates are judged as usual, or that have none.
    http: reqwest::Client,
    /// For nodes that say which certificate they show.
    pinned: Arc<Mutex<HashMap<Fingerprint, reqwest::Client>>>,
    token: Option<String>,
    own: Incarnation,
}

impl Peers {
    /// The nodes other than the process `own`; `token` is what they want to see.
    pub fn new(own: Incarnation, token: Option<String>) -> Result<Self, ConnectionError> {
        let http = client::connections(&Trust::default())?;
        Ok(Self { http, pinned: Arc::default(), token, own })
    }

    /// What speaks to a node: to exactly that one, if it says by which certificate it is known.
    fn http(&self, node: &NodeInfo) -> Result<reqwest::Client, ConnectionError> {
        let Some(fingerprint) = node.tls_fingerprint else { return Ok(self.http.clone()) };
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(http) = pinned.get(&fingerprint) {
            return Ok(http.clone());
        }
        let http = client::connections(&Trust::pinned(fingerprint))?;
        if pinned.len() >= MOST_PINNED {
            // Of nodes that are gone, or that show another one by now.
            pinned.clear();
        }
        pinned.insert(fingerprint, http.clone());
        Ok(http)
    }

    /// Where the attempt's live log can be asked for; nowhere if it is this process that holds the job, or the node is
    /// gone.
    pub(super) async fn log_of(
        &self,
        records: &Records,
        job: &JobId,
        holder: &Holder,
    ) -> Result<Option<RemoteLog>, StateError> {
        if holder.incarnation == self.own {
            return Ok(None);
        }
        let key = keys::node(&holder.node, &holder.incarnation);
        let Some(entry) = records.store().get(&key).await? else { return Ok(None) };
        let info: NodeInfo =
            serde_json::from_slice(&entry.value).map_err(|error| StateError::Damaged(format!("{key}: {error}")))?;
        let url = format!("{}/api/v1/jobs/{job}/logs/live", info.address.trim_end_matches('/'));
        let http = match self.http(&info) {
            Ok(http) => http,
            Err(error) => {
                tracing::warn!(node = %holder.node, %error, "cannot speak to another node");
                return Ok(None);
            }
        };
        let mut request = http.get(url).query(&[("epoch", holder.epoch.0)]);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Ok(Some(RemoteLog { node: holder.node.to_string(), request }))
    }
}

/// The live log of an attempt on another node.
pub(super) struct RemoteLog {
    node: String,
    request: RequestBuilder,
}

impl RemoteLog {
    /// Connects when it is first asked for an event. Nothing is buffered but what one read brought.
    pub(super) fn events(self, at: u64, follow: bool) -> LiveEvents {
        let answer = stream::once(async move {
            let node = self.node.clone();
            match self.open(at, follow).await {
                Ok((from, response)) => Some((from, response)),
                Err(reason) => {
                    tracing::debug!(node, reason, "cannot read the live log of another node");
                    None
                }
            }
        });
        answer
            .filter_map(futures::future::ready)
            .flat_map(move |(from, response)| {
                let rewound = (from != at).then_some(LogEvent::Rewound(from));
                stream::iter(rewound).chain(bytes(from, response, follow))
            })
            .boxed()
    }

    /// Asks for the log; gives where it begins.
    async fn open(self, at: u64, follow: bool) -> Result<(u64, Response), String> {
        let request = self.request.query(&[("offset", at.to_string()), ("follow", follow.to_string())]);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await;
        let response = answer.map_err(|_| "it does not answer".to_owned())?.map_err(|error| format!("{error:?}"))?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        let from = response.headers().get(OFFSET_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((from.ok_or("its answer does not tell where it begins")?, response))
    }
}

fn bytes(from: u64, response: Response, follow: bool) -> impl Stream<Item = LogEvent> + Send {
    let pieces = Box::pin(response.bytes_stream());
    stream::unfold((pieces, from), move |(mut pieces, at)| async move {
        let piece = if follow {
            pieces.next().await?
        } else {
            tokio::time::timeout(ANSWER_TIMEOUT, pieces.next()).await.ok()??
        };
        // Whether it ended or broke off, the record tells how to go on.
        let piece: Bytes = piece.ok()?;
        let end = at + piece.len() as u64;
        Some((LogEvent::Bytes(at, piece), (pieces, end)))
    })
}
