//! One part of an image on its way into a sink.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, ReadBuf};
use workrs_core::image::ImageDigest;

use super::{ImageSink, error::SourceError};

/// What a part is, for those who read of it.
pub(super) const MANIFEST: &str = "manifest";
pub(super) const CONFIGURATION: &str = "configuration";
pub(super) const LAYER: &str = "layer";

/// A part as something names it: what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Part {
    /// Manifest, configuration or layer.
    pub kind: &'static str,
    pub digest: ImageDigest,
    pub bytes: u64,
}

impl Part {
    /// Hands the content to the sink, and makes sure that it is what it should be. An error of `content` that wraps a
    /// [`SourceError`] comes out as that.
    pub async fn put(
        &self,
        content: &mut (dyn AsyncRead + Send + Unpin),
        sink: &dyn ImageSink,
    ) -> Result<(), SourceError> {
        let mut verified = Verified::new(self.clone(), content);
        let outcome = sink.put(&self.digest, self.bytes, &mut verified).await;
        if let Some(failure) = verified.failure.take() {
            return Err(failure);
        }
        if outcome.is_ok() && !verified.is_right {
            // It must never count as stored.
            return Err(self.not_stored(io::Error::other("it was not read to its end")));
        }
        outcome.map_err(|error| self.not_stored(error))
    }

    /// Like [`put`](Self::put), for what is in memory.
    pub async fn put_bytes(&self, content: &[u8], sink: &dyn ImageSink) -> Result<(), SourceError> {
        self.put(&mut &*content, sink).await
    }

    /// Whether the sink has it.
    pub async fn is_in(&self, sink: &dyn ImageSink) -> Result<bool, SourceError> {
        sink.has(&self.digest).await.map_err(|error| self.not_stored(error))
    }

    /// What is wrong with content of this length and hash, if anything is.
    pub fn check(&self, length: u64, found: &ImageDigest) -> Result<(), SourceError> {
        let (part, digest, wanted) = (self.kind, self.digest.clone(), self.bytes);
        if length < wanted {
            return Err(SourceError::CutShort { part, digest, got: length, wanted, reason: None });
        }
        if length > wanted {
            return Err(SourceError::TooLong { part, digest, wanted });
        }
        if *found != digest {
            return Err(SourceError::WrongDigest { part, wanted: digest.to_string(), found: found.to_string() });
        }
        Ok(())
    }

    fn not_stored(&self, source: io::Error) -> SourceError {
        SourceError::Store { part: self.kind, digest: self.digest.clone(), source }
    }
}

/// The digest of bytes in memory.
pub(super) fn digest_of(bytes: &[u8]) -> ImageDigest {
    ImageDigest::of_sha256(Sha256::digest(bytes))
}

/// Passes content on, and fails at its end if it is not the part that it should be: instead of its last bytes, so that a
/// reader that counts cannot miss it. More than the part's length is never passed on.
struct Verified<'a> {
    part: Part,
    content: &'a mut (dyn AsyncRead + Send + Unpin),
    hash: Sha256,
    read: u64,
    /// All of it came, and its hash is right.
    is_right: bool,
    /// Why it failed; the sink may put it in its own words.
    failure: Option<SourceError>,
}

impl<'a> Verified<'a> {
    fn new(part: Part, content: &'a mut (dyn AsyncRead + Send + Unpin)) -> Self {
        Self { part, content, hash: Sha256::new(), read: 0, is_right: false, failure: None }
    }

    fn fail(&mut self, failure: SourceError) -> io::Error {
        let text = failure.to_string();
        self.failure = Some(failure);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// What was read so far is all.
    fn check_all(&mut self) -> io::Result<()> {
        let found = ImageDigest::of_sha256(self.hash.finalize_reset());
        match self.part.check(self.read, &found) {
            Ok(()) => {
                self.is_right = true;
                Ok(())
            }
            Err(failure) => Err(self.fail(failure)),
        }
    }

    fn take_in(&mut self, new: &[u8]) -> io::Result<()> {
        if new.is_empty() {
            return if self.is_right { Ok(()) } else { self.check_all() };
        }
        self.read += new.len() as u64;
        if self.read > self.part.bytes {
            self.is_right = false;
            let Part { kind, digest, bytes } = self.part.clone();
            return Err(self.fail(SourceError::TooLong { part: kind, digest, wanted: bytes }));
        }
        self.hash.update(new);
        if self.read == self.part.bytes { self.check_all() } else { Ok(()) }
    }
}

impl AsyncRead for Verified<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(failure) = &this.failure {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, failure.to_string())));
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let outcome = match Pin::new(&mut *this.content).poll_read(cx, buf) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => this.take_in(&buf.filled()[before..]),
            Poll::Ready(Err(error)) => {
                let failure = SourceError::from_stream(error, &this.part, this.read);
                Err(this.fail(failure))
            }
        };
        if outcome.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(outcome)
    }
}

impl SourceError {
    /// The error of a stream: the one that it wraps, if it wraps one of these.
    fn from_stream(error: io::Error, part: &Part, got: u64) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::CutShort {
            part: part.kind,
            digest: part.digest.clone(),
            got,
            wanted: part.bytes,
            reason: Some(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Keeps the last part that came as a whole.
    #[derive(Default)]
    struct OneSlot(Mutex<Option<Vec<u8>>>);

    #[async_trait]
    impl ImageSink for OneSlot {
        async fn has(&self, _digest: &ImageDigest) -> io::Result<bool> {
            Ok(false)
        }

        async fn put(
            &self,
            _digest: &ImageDigest,
            _bytes: u64,
            content: &mut (dyn AsyncRead + Send + Unpin),
        ) -> io::Result<()> {
            let mut all = Vec::new();
            content.read_to_end(&mut all).await?;
            *self.0.lock().unwrap() = Some(all);
            Ok(())
        }
    }

    /// Takes everything for granted.
    struct Careless;

    #[async_trait]
    impl ImageSink for Careless {
        async fn has(&self, _digest: &ImageDigest) -> io::Result<bool> {
            Ok(false)
        }

        async fn put(&self, _: &ImageDigest, _: u64, _: &mut (dyn AsyncRead + Send + Unpin)) -> io::Result<()> {
            Ok(())
        }
    }

    fn part(content: &[u8]) -> Part {
        Part { kind: LAYER, digest: digest_of(content), bytes: content.len() as u64 }
    }

    #[tokio::test]
    async fn only_what_was_named_is_kept() {
        let sink = OneSlot::default();
        part(b"content").put_bytes(b"content", &sink).await.unwrap();
        assert_eq!(sink.0.lock().unwrap().take().unwrap(), b"content");
        for (content, expect) in [
            (&b"conten"[..], "cut short: 6 of 7"),
            (b"contents", "longer than the 7 bytes"),
            (b"CONTENT", "has the digest"),
            (b"", "cut short: 0 of 7"),
        ] {
            let error = part(b"content").put_bytes(content, &sink).await.unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
            assert!(sink.0.lock().unwrap().is_none(), "nothing may be kept of {content:?}");
        }
        part(b"").put_bytes(b"", &sink).await.unwrap();
    }

    #[tokio::test]
    async fn a_sink_that_does_not_read_has_not_stored() {
        let error = part(b"content").put_bytes(b"content", &Careless).await.unwrap_err();
        assert!(matches!(error, SourceError::Store { .. }), "{error}");
    }
}
