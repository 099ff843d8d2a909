//! Reads blobs, plain and sealed ones.
//!
//! Without a key only plain blobs can be read. With one a blob is looked for sealed first and then plain, since a
//! group may have been started without the key; so "missing" always means that it stands there in neither form.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{GetOptions, GetRange, GetResult, ObjectStoreExt, path::Path};
use workrs_core::{hash::ContentHash, job::BlobRef};

use super::{
    BlobError, BlobKey, Blobs, Keyed, convert,
    headers::Stored,
    is_unanswered, off_thread, path,
    seal::{self, HEADER_BYTES, SEALED_BYTES, Seal},
    sealed_path,
};

/// How often a blob may be written anew while a range of it is read.
const MAX_REWRITES: usize = 3;

type Pieces = BoxStream<'static, Result<Bytes, BlobError>>;

impl Blobs {
    /// Reads a blob whole, verified.
    pub async fn get(&self, blob: &BlobRef) -> Result<Bytes, BlobError> {
        let bytes = self.get_unverified(&blob.name).await?;
        let matches = bytes.len() as u64 == blob.len && ContentHash::of(&bytes) == blob.hash;
        if matches { Ok(bytes) } else { Err(BlobError::Mismatch(blob.name.clone())) }
    }

    /// Reads whatever stands under a name; without a hash nothing tells whether it is what was written.
    pub async fn get_unverified(&self, name: &str) -> Result<Bytes, BlobError> {
        self.proven(self.read(name).await).await
    }

    async fn read(&self, name: &str) -> Result<Bytes, BlobError> {
        let (result, key) = self.find(name).await?;
        let bytes = result.bytes().await.map_err(|error| convert(name, &error))?;
        let Some(key) = key.cloned() else { return Ok(bytes) };
        let name = name.to_owned();
        off_thread(bytes.len(), move || {
            let (header, segments) = bytes.split_at(bytes.len().min(HEADER_BYTES));
            Ok(Seal::from_header(&key, &name, header)?.open_all(0, true, segments)?.into())
        })
        .await
    }

    /// Reads a blob piece by piece. The bytes are known to be right only at the end: the last item is an error if
    /// they were not.
    pub async fn stream(&self, blob: &BlobRef) -> Result<Pieces, BlobError> {
        let (result, key) = self.proven(self.find(&blob.name).await).await?;
        let name = blob.name.clone();
        let mut pieces = result.into_stream().map_err(move |error| convert(&name, &error)).boxed();
        if let Some(key) = key {
            let opened = Opener::begin(key, &blob.name, pieces).await?;
            pieces =
                stream::unfold(opened, |mut opener| async { opener.next().await.map(|item| (item, opener)) }).boxed();
        }
        let verify = Verify { blob: blob.clone(), pieces, hasher: blake3::Hasher::new(), len: 0, done: false };
        Ok(stream::unfold(verify, |mut verify| async { verify.next().await.map(|item| (item, verify)) }).boxed())
    }

    /// The length of the blob under a name, which is not read.
    pub async fn len_of(&self, name: &str) -> Result<u64, BlobError> {
        self.proven(self.find_len(name).await).await
    }

    async fn find_len(&self, name: &str) -> Result<u64, BlobError> {
        let plain = path(name)?;
        if self.keyed.is_some()
            && let Some(meta) = present(name, self.store.head(&sealed_path(name)?).await)?
        {
            return Ok(seal::plain_len(meta.size));
        }
        match present(name, self.store.head(&plain).await)? {
            Some(meta) => Ok(meta.size),
            None => Err(self.missing(name).await),
        }
    }

    /// Reads a part of a blob, which must have all of it. An empty part is not asked for.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BlobError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.proven(self.read_range(name, range).await).await
    }

    async fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BlobError> {
        let Some(keyed) = &self.keyed else {
            return match self.part(&path(name)?, name, range).await {
                Err(BlobError::Missing(_)) => Err(self.missing(name).await),
                read => read.map(|(bytes, _)| bytes),
            };
        };
        // A writer that tries again seals the same bytes anew, and what is known of the header is outdated. Only what
        // fails with the header that stands there now is damaged.
        let mut before = None;
        for _ in 0..=MAX_REWRITES {
            let (found, is_new) = keyed.headers.get(name, || self.stored(keyed, name)).await?;
            let read = match &*found {
                Some(stored) => self.sealed_part(stored, name, range.clone()).await,
                None => self.part(&path(name)?, name, range.clone()).await.map(|(bytes, _)| bytes),
            };
            let is_final = (is_new && found.is_none()) || before.as_ref() == Some(&found);
            if is_final || !matches!(read, Err(BlobError::Mismatch(_) | BlobError::Missing(_))) {
                return read;
            }
            keyed.headers.forget(name);
            before = Some(found);
        }
        Err(BlobError::Unavailable(format!("blob {name} is written again and again while it is read")))
    }

    /// A blob that was not found is missing only if the right store was asked.
    async fn proven<T>(&self, read: Result<T, BlobError>) -> Result<T, BlobError> {
        if let Err(BlobError::Missing(name)) = &read {
            self.see_marker(name).await?;
        }
        read
    }

    /// Sees that a store in which nothing was found for `name` is the right one.
    pub(super) async fn see_marker(&self, name: &str) -> Result<(), BlobError> {
        let Some(marker) = &self.marker else { return Ok(()) };
        match self.read(&marker.name).await {
            Ok(content) if content == marker.content => Ok(()),
            Ok(_) | Err(BlobError::Missing(_)) => Err(BlobError::Unavailable(format!(
                "nothing was found for {name:?}, but this is not the store of this group, as its blob {} shows; see that \
                 the bucket was not wiped, that the folder is mounted and that the URL of the blobs is right",
                marker.name
            ))),
            Err(error) => Err(error),
        }
    }

    /// Asks for a blob; with the key if it is sealed.
    async fn find(&self, name: &str) -> Result<(GetResult, Option<&BlobKey>), BlobError> {
        let plain = path(name)?;
        if let Some(keyed) = &self.keyed
            && let Some(result) = present(name, self.store.get(&sealed_path(name)?).await)?
        {
            return Ok((result, Some(&keyed.key)));
        }
        match present(name, self.store.get(&plain).await)? {
            Some(result) => Ok((result, None)),
            None => Err(self.missing(name).await),
        }
    }

    /// What is wrong with a blob that was not found: without a key it may be there, but sealed.
    async fn missing(&self, name: &str) -> BlobError {
        let missing = BlobError::Missing(name.to_owned());
        if self.keyed.is_some() {
            return missing;
        }
        let sealed = match sealed_path(name) {
            Ok(location) => self.part(&location, name, 0..HEADER_BYTES as u64).await,
            Err(error) => Err(error),
        };
        let id = match sealed {
            Ok((header, _)) => seal::key_needed(&header).map(|id| format!(" with the key {id}")),
            Err(BlobError::Mismatch(_)) => None,
            Err(error) => return error,
        };
        BlobError::Unavailable(format!(
            "blob {name} is sealed{}, but this node has no key; give it the key of its group",
            id.unwrap_or_default()
        ))
    }

    /// Asks how a blob is stored; `None` means not sealed.
    async fn stored(&self, keyed: &Keyed, name: &str) -> Result<Option<Stored>, BlobError> {
        match self.part(&sealed_path(name)?, name, 0..HEADER_BYTES as u64).await {
            Ok((header, len)) => {
                let seal = Arc::new(Seal::from_header(&keyed.key, name, &header)?);
                Ok(Some(Stored { seal, len }))
            }
            Err(BlobError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn sealed_part(&self, stored: &Stored, name: &str, range: Range<u64>) -> Result<Bytes, BlobError> {
        let cover = seal::cover(&range, stored.len).ok_or_else(|| BlobError::Mismatch(name.to_owned()))?;
        let (bytes, _) = self.part(&sealed_path(name)?, name, cover.stored).await?;
        let seal = Arc::clone(&stored.seal);
        off_thread(bytes.len(), move || {
            Ok(Bytes::from(seal.open_all(cover.first, cover.to_end, &bytes)?).slice(cover.wanted))
        })
        .await
    }

    /// Reads a part of what is stored, which must have all of it, and the length of the whole.
    async fn part(&self, location: &Path, name: &str, range: Range<u64>) -> Result<(Bytes, u64), BlobError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let read = async {
            let result = self.store.get_opts(location, options).await?;
            let len = result.meta.size;
            Ok((result.bytes().await?, len))
        };
        let error = match read.await {
            Ok((bytes, len)) if bytes.len() as u64 == range.end - range.start => return Ok((bytes, len)),
            Ok(_) => return Err(BlobError::Mismatch(name.to_owned())),
            Err(error) if is_unanswered(&error) => return Err(convert(name, &error)),
            Err(error) => convert(name, &error),
        };
        // Stores have no common error for a range beyond the end: a blob that was cut off must not look like a
        // store that is out of reach.
        match error {
            BlobError::Unavailable(_) => match self.store.head(location).await {
                Ok(meta) if meta.size < range.end => Err(BlobError::Mismatch(name.to_owned())),
                _ => Err(error),
            },
            error => Err(error),
        }
    }
}

fn present<T>(name: &str, result: object_store::Result<T>) -> Result<Option<T>, BlobError> {
    match result.map_err(|error| convert(name, &error)) {
        Ok(value) => Ok(Some(value)),
        Err(BlobError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a sealed blob that arrives in pieces.
struct Opener {
    seal: Seal,
    pieces: Pieces,
    buffer: BytesMut,
    number: u64,
    done: bool,
}

impl Opener {
    async fn begin(key: &BlobKey, name: &str, mut pieces: Pieces) -> Result<Self, BlobError> {
        let mut buffer = BytesMut::new();
        while buffer.len() < HEADER_BYTES {
            let Some(piece) = pieces.next().await else { break };
            buffer.extend_from_slice(&piece?);
        }
        let header = buffer.split_to(HEADER_BYTES.min(buffer.len()));
        Ok(Self { seal: Seal::from_header(key, name, &header)?, pieces, buffer, number: 0, done: false })
    }

    async fn next(&mut self) -> Option<Result<Bytes, BlobError>> {
        if self.done {
            return None;
        }
        let item = self.segment().await;
        self.done |= item.is_err();
        Some(item)
    }

    async fn segment(&mut self) -> Result<Bytes, BlobError> {
        // Only what more bytes follow is not the last segment.
        while self.buffer.len() <= SEALED_BYTES && !self.done {
            match self.pieces.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece?),
                None => self.done = true,
            }
        }
        let last = self.buffer.len() <= SEALED_BYTES;
        self.done = last;
        let sealed = self.buffer.split_to(SEALED_BYTES.min(self.buffer.len()));
        let mut plain = Vec::with_capacity(sealed.len());
        self.seal.open(self.number, last, &sealed, &mut plain)?;
        self.number += 1;
        Ok(plain.into())
    }
}

/// A stream of pieces, and what they came to so far.
struct Verify {
    blob: BlobRef,
    pieces: Pieces,
    hasher: blake3::Hasher,
    len: u64,
    done: bool,
}

impl Verify {
    async fn next(&mut self) -> Option<Result<Bytes, BlobError>> {
        if self.done {
            return None;
        }
        match self.pieces.next().await {
            Some(Ok(bytes)) => {
                self.len += bytes.len() as u64;
                self.hasher.update(&bytes);
                if self.len > self.blob.len { Some(self.mismatch()) } else { Some(Ok(bytes)) }
            }
            Some(Err(error)) => {
                self.done = true;
                Some(Err(error))
            }
            None => {
                let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
                self.done = true;
                let matches = self.len == self.blob.len && hash == self.blob.hash;
                (!matches).then(|| self.mismatch())
            }
        }
    }

    fn mismatch(&mut self) -> Result<Bytes, BlobError> {
        self.done = true;
        Err(BlobError::Mismatch(self.blob.name.clone()))
    }
}
