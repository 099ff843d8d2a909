//! An object store on which faults strike.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};

use super::Faults;

/// An object store on which faults strike; a lost answer is an error like any other.
#[derive(Debug)]
pub struct FaultyBlobs {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl FaultyBlobs {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl fmt::Display for FaultyBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyBlobs({})", self.inner)
    }
}

fn refused() -> object_store::Error {
    object_store::Error::Generic { store: "FaultyBlobs", source: "refused by the test".into() }
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "FaultyBlobs", source: "the test lost the answer".into() }
}

#[async_trait]
impl ObjectStore for FaultyBlobs {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.faults.run(self.inner.put_opts(location, payload, opts), refused, lost).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.faults.run(self.inner.put_multipart_opts(location, opts), refused, lost).await?;
        Ok(Box::new(FaultyUpload { inner: upload, faults: self.faults.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.run(self.inner.get_opts(location, options), refused, lost).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faults.run(self.inner.get_ranges(location, ranges), refused, lost).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, faults) = (Arc::clone(&self.inner), self.faults.clone());
        let delete = move |location: Result<Path>| {
            let (inner, faults) = (Arc::clone(&inner), faults.clone());
            async move {
                let location = location?;
                faults.run(inner.delete(&location), refused, lost).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (list, faults) = (self.inner.list(prefix), self.faults.clone());
        stream::once(async move { faults.run(ready(Ok(list)), refused, lost).await }).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.run(self.inner.list_with_delimiter(prefix), refused, lost).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.run(self.inner.copy_opts(from, to, options), refused, lost).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Faults,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, faults) = (self.inner.put_part(data), self.faults.clone());
        async move { faults.run(part, refused, lost).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.run(self.inner.complete(), refused, lost).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.run(self.inner.abort(), refused, lost).await
    }
}
