//! A layer's bytes, resumed where they broke off.

use std::io;

use futures::{StreamExt, stream};
use oci_client::client::{BlobResponse, SizedStream};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::client::{ATTEMPTS, Registry, innermost, may_pass, pause};
use crate::image::source::{error::SourceError, part::Part};

/// Where a transfer stands.
struct Transfer<'a> {
    registry: &'a Registry,
    layer: &'a Part,
    /// How many bytes were passed on.
    at: u64,
    stream: Option<SizedStream>,
    /// How many bytes of the stream come before `at`.
    skip: u64,
    /// Attempts since bytes last came.
    failures: u32,
}

impl Registry {
    /// The bytes of a layer. When the connection breaks or falls silent it is made anew, and what is still missing is asked
    /// for, until several attempts in a row bring nothing. Errors wrap a [`SourceError`]. Whether the bytes are right is not
    /// checked here.
    pub fn layer<'a>(&'a self, layer: &'a Part) -> impl AsyncRead + Send + use<'a> {
        let start = Transfer { registry: self, layer, at: 0, stream: None, skip: 0, failures: 0 };
        let chunks = stream::try_unfold(start, |mut transfer| async move {
            let chunk = transfer.next().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(chunk.map(|chunk| (io::Cursor::new(chunk), transfer)))
        });
        StreamReader::new(chunks)
    }
}

impl Transfer<'_> {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, SourceError> {
        loop {
            if self.at >= self.layer.bytes {
                return Ok(None);
            }
            if self.stream.is_none() {
                self.open().await?;
            }
            let Some(stream) = &mut self.stream else { continue };
            match stream.next().await {
                Some(Ok(mut chunk)) => {
                    let behind = self.skip.min(chunk.len() as u64);
                    self.skip -= behind;
                    let fresh = chunk.split_off(behind as usize);
                    if !fresh.is_empty() {
                        self.at += fresh.len() as u64;
                        self.failures = 0;
                        return Ok(Some(fresh));
                    }
                }
                Some(Err(error)) => self.broken(Some(innermost(&error))).await?,
                None => self.broken(None).await?,
            }
        }
    }

    async fn open(&mut self) -> Result<(), SourceError> {
        let digest = self.layer.digest.as_str();
        let answer = if self.at == 0 {
            self.registry.client.pull_blob_stream(&self.registry.reference, digest).await.map(BlobResponse::Full)
        } else {
            self.registry.client.pull_blob_stream_partial(&self.registry.reference, digest, self.at, None).await
        };
        match answer {
            Ok(BlobResponse::Full(stream)) => self.begin(stream, self.at),
            Ok(BlobResponse::Partial(stream)) => self.begin(stream, 0),
            Err(error) if may_pass(&error) => self.broken(Some(innermost(&error))).await,
            Err(error) => Err(self.registry.part_error(error, self.layer)),
        }
    }

    fn begin(&mut self, stream: SizedStream, skip: u64) -> Result<(), SourceError> {
        let Part { kind: part, digest, bytes: wanted } = self.layer.clone();
        // The registry itself has less or more of it than the manifest says: no attempt will change that.
        match stream.content_length.map(|length| length + self.at - skip) {
            Some(got) if got < wanted => {
                return Err(SourceError::CutShort { part, digest, got, wanted, reason: None });
            }
            Some(got) if got > wanted => return Err(SourceError::TooLong { part, digest, wanted }),
            _ => {}
        }
        self.skip = skip;
        self.stream = Some(stream);
        Ok(())
    }

    /// Waits before the next attempt, unless that was the last.
    async fn broken(&mut self, reason: Option<String>) -> Result<(), SourceError> {
        self.stream = None;
        self.failures += 1;
        if self.failures >= ATTEMPTS {
            let Part { kind: part, digest, bytes: wanted } = self.layer.clone();
            return Err(SourceError::CutShort { part, digest, got: self.at, wanted, reason });
        }
        tracing::debug!(digest = %self.layer.digest, at = self.at, ?reason, "a layer broke off");
        tokio::time::sleep(pause(self.failures)).await;
        Ok(())
    }
}
