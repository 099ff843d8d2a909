//! A log as it arrives: one JSON object a line.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::Response;

use super::{
    ClientError,
    endpoints::{root_cause, silent},
};
use crate::api::{LogLine, QUIET};

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>;

/// The events of a log. A node that has nothing to say sends an empty line now and then: one that sends nothing at all
/// is taken for gone.
pub(super) fn lines(response: Response) -> impl Stream<Item = Result<LogLine, ClientError>> + use<> {
    let server = response.url().origin().ascii_serialization();
    let pieces: Pieces = Box::pin(response.bytes_stream());
    let reader = Reader { server, pieces, rest: Vec::new(), ended: false };
    let batches = stream::unfold(reader, |mut reader| async { Some((reader.next().await?, reader)) });
    batches.flat_map(stream::iter)
}

struct Reader {
    server: String,
    pieces: Pieces,
    /// The beginning of a line whose end has not arrived.
    rest: Vec<u8>,
    ended: bool,
}

impl Reader {
    /// The lines that the next piece brings to their ends.
    async fn next(&mut self) -> Option<Vec<Result<LogLine, ClientError>>> {
        if self.ended {
            return None;
        }
        let reason = match tokio::time::timeout(QUIET * 3, self.pieces.next()).await {
            Ok(Some(Ok(piece))) => return Some(self.take(&piece)),
            Ok(None) => return None,
            Ok(Some(Err(error))) => root_cause(&error),
            Err(_) => "it fell silent".to_owned(),
        };
        self.ended = true;
        Some(vec![Err(silent(&self.server, reason))])
    }

    fn take(&mut self, piece: &[u8]) -> Vec<Result<LogLine, ClientError>> {
        self.rest.extend_from_slice(piece);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.rest.split_off(end);
        let whole = std::mem::replace(&mut self.rest, rest);
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| self.parse(line)).collect()
    }

    fn parse(&self, line: &[u8]) -> Result<LogLine, ClientError> {
        serde_json::from_slice(line)
            .map_err(|error| ClientError::Foreign { server: self.server.clone(), reason: error.to_string() })
    }
}
