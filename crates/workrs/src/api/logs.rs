//! The log of a job, as plain text or as events.

use std::{ops::Range, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future, stream};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use workrs_core::{
    id::JobId,
    job::{JobRecord, JobState},
};
use workrs_store::blobs::Blobs;

use super::{
    Api, Problem,
    download::{self, Wanted},
    extract::{Path, Query},
    jobs::find,
};
use crate::{
    access::{Caller, Role},
    joblog::{self, LogError, LogEvent, LogSources, OFFSET_HEADER},
};

/// After this long without an event there comes an empty line, so that whoever reads knows that somebody is there.
pub const QUIET: Duration = Duration::from_secs(10);

/// Which part of a log, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// From this byte on.
    offset: Option<u64>,
    /// Go on until the job has ended.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
    /// `text` (the default) or `events`: one JSON object a line.
    format: Option<String>,
}

/// `?follow` alone means yes.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}

/// A line of a log in the form of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogLine {
    /// Bytes of the log.
    Bytes {
        /// Offset of the first.
        offset: u64,
        /// The bytes, one char each (Latin-1), so that any byte comes through.
        data: String,
    },
    /// A resume cut the log back to this offset: what came behind it comes again.
    Rewound {
        /// The offset.
        offset: u64,
    },
    /// The job has ended, and this was its log.
    End,
    /// The log cannot be read on.
    Failed {
        /// Why.
        reason: String,
    },
}

impl From<LogEvent> for LogLine {
    fn from(event: LogEvent) -> Self {
        match event {
            LogEvent::Bytes(offset, bytes) => {
                Self::Bytes { offset, data: bytes.iter().map(|byte| char::from(*byte)).collect() }
            }
            LogEvent::Rewound(offset) => Self::Rewound { offset },
            LogEvent::End => Self::End,
            LogEvent::Failed(reason) => Self::Failed { reason },
        }
    }
}

/// Streams a job's log. As text, what a resume makes the job print again is left out.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/logs", params(("id" = String, Path), LogQuery), responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem)))]
pub async fn logs(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
    conditions: HeaderMap,
) -> Result<Response, Problem> {
    let id = JobId::new(id)?;
    let record = find(&api, &caller, &id).await?;
    let as_events = match query.format.as_deref() {
        None | Some("text") => false,
        Some("events") => true,
        Some(other) => {
            return Err(Problem::bad_request(format!("{other:?} is not one of text, events")).field("format"));
        }
    };
    let mut headers = AppendHeaders(vec![
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ]);
    if let JobState::Finished { at, log_bytes, .. } = record.state
        && query.offset.is_none()
        && !as_events
    {
        // It does not change any more, unless a lost job runs on.
        let tag = download::tag(format!("{}-{log_bytes}", at.as_millis()));
        let wanted = Wanted::read(&conditions, log_bytes, &tag)?;
        if wanted != Wanted::Whole {
            let (status, head) = wanted.head(log_bytes, &tag);
            headers.0.extend(head);
            return Ok((status, headers, Body::from_stream(stored(api.blobs, record, wanted.bytes(log_bytes))))
                .into_response());
        }
        headers.0.extend([(header::ETAG, tag), (header::ACCEPT_RANGES, "bytes".to_owned())]);
    }
    let from = query.offset.unwrap_or(0);
    let stopping = api.stopping.clone();
    let sources = LogSources { records: api.records, blobs: api.blobs, live: api.live_logs, peers: api.peers };
    let events = joblog::follow(sources, id, from, query.follow).take_until(stopping.cancelled_owned());
    if as_events {
        let lines = stream::unfold(Box::pin(events), |mut events| async {
            let line = match tokio::time::timeout(QUIET, events.next()).await {
                Ok(event) => line(event?),
                Err(_) => Ok(Bytes::from_static(b"\n")),
            };
            Some((line, events))
        });
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response());
    }
    let mut printed = from;
    let text = events.filter_map(move |event| future::ready(printable(event, &mut printed)));
    Ok((headers, Body::from_stream(text)).into_response())
}

/// Bytes of a finished job's log.
fn stored(blobs: Blobs, record: JobRecord, bytes: Range<u64>) -> impl Stream<Item = Result<Bytes, LogError>> {
    stream::try_unfold((bytes.start, blobs, record), move |(at, blobs, record)| async move {
        let piece = joblog::read_stored(&blobs, &record, at, bytes.end).await?;
        let next = at + piece.len() as u64;
        Ok((!piece.is_empty()).then_some((piece, (next, blobs, record))))
    })
}

fn line(event: LogEvent) -> Result<Bytes, std::io::Error> {
    let mut line = serde_json::to_vec(&LogLine::from(event)).map_err(std::io::Error::other)?;
    line.push(b'\n');
    Ok(line.into())
}

/// Which attempt, and which part of what it prints.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LiveQuery {
    /// The attempt.
    epoch: u64,
    /// From this byte of the job's log on.
    offset: u64,
    /// Go on until the attempt has ended.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
}

/// What an attempt that runs on this very node prints, as it is; the header `x-workrs-offset` says from which byte of
/// the job's log on. For nodes among themselves, and admins:
/// what runs elsewhere is not found here.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/logs/live", params(("id" = String, Path), LiveQuery), responses((status = 200, body = String, content_type = "application/octet-stream"), (status = "default", body = Problem)))]
pub async fn live(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<LiveQuery>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Admin)?;
    let log = api.live_logs.get(&JobId::new(id)?).filter(|log| log.epoch.0 == query.epoch);
    let log = log.ok_or_else(|| Problem::not_found("this node does not run that attempt"))?;
    let from = if query.offset > *log.len.borrow() { log.from } else { query.offset };
    let events = joblog::live_events(log, from, query.follow).take_until(api.stopping.cancelled_owned());
    let bytes = events.filter_map(|event| {
        future::ready(match event {
            LogEvent::Bytes(_, bytes) => Some(Ok::<_, std::io::Error>(bytes)),
            _ => None,
        })
    });
    let headers =
        [(header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()), (OFFSET_HEADER, from.to_string())];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

fn printable(event: LogEvent, printed: &mut u64) -> Option<Result<Bytes, std::io::Error>> {
    match event {
        LogEvent::Bytes(offset, bytes) => {
            let repeated = usize::try_from(printed.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
            *printed = (*printed).max(offset + bytes.len() as u64);
            let rest = bytes.slice(repeated..);
            (!rest.is_empty()).then_some(Ok(rest))
        }
        LogEvent::Rewound(_) | LogEvent::End => None,
        LogEvent::Failed(reason) => Some(Err(std::io::Error::other(reason))),
    }
}
