//! An object store whose operations are measured.

use std::{fmt, future::Future, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use tokio::time::Instant;

use super::BLOB_TIME;

/// An object store whose operations are measured in [`BLOB_TIME`]. A `get` is measured until its answer begins, a
/// listing and a row of deletes until their ends.
#[derive(Debug)]
pub struct MeteredBlobs(Arc<dyn ObjectStore>);

impl MeteredBlobs {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self(inner)
    }
}

impl fmt::Display for MeteredBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn note(operation: &'static str, began: Instant, error: Option<&Error>) {
    let outcome = match error {
        None => "ok",
        Some(Error::NotFound { .. }) => "missing",
        Some(_) => "failed",
    };
    BLOB_TIME.observe_of(&[operation, outcome], began.elapsed());
}

async fn measured<T>(operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let result = work.await;
    note(operation, began, result.as_ref().err());
    result
}

/// Measures a stream until its end or its first error. One that is let go of before is not measured.
fn measured_stream<T: Send + 'static>(
    operation: &'static str,
    items: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let began = Instant::now();
    let mut open = true;
    let end = futures::stream::iter([None]);
    let items = items.map(Some).chain(end).filter_map(move |item| {
        let error = item.as_ref().and_then(|item| item.as_ref().err());
        if open && (item.is_none() || error.is_some()) {
            open = false;
            note(operation, began, error);
        }
        futures::future::ready(item)
    });
    items.boxed()
}

#[async_trait]
impl ObjectStore for MeteredBlobs {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        measured("put", self.0.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = measured("begin_upload", self.0.put_multipart_opts(location, options)).await?;
        Ok(Box::new(MeteredUpload(upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { "head" } else { "get" };
        measured(operation, self.0.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        measured("get", self.0.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        measured_stream("delete", self.0.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        measured_stream("list", self.0.list(prefix))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        measured("list", self.0.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        measured("copy", self.0.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct MeteredUpload(Box<dyn MultipartUpload>);

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        measured("put_part", self.0.put_part(data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        measured("complete_upload", self.0.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        measured("abort_upload", self.0.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, memory::InMemory};

    use super::*;

    #[tokio::test]
    async fn every_operation_is_measured_by_its_outcome() {
        let store = MeteredBlobs::new(Arc::new(InMemory::new()));
        let path = Path::from("a/b");
        store.put(&path, "x".into()).await.unwrap();
        store.get(&Path::from("none")).await.unwrap_err();
        assert_eq!(store.list(None).count().await, 1);
        store.delete(&path).await.unwrap();
        let text = crate::metrics::render();
        for series in [
            r#"operation="put",outcome="ok""#,
            r#"operation="get",outcome="missing""#,
            r#"operation="list",outcome="ok""#,
            r#"operation="delete",outcome="ok""#,
        ] {
            assert!(text.contains(&format!("workrs_blob_operation_seconds_count{{{series}}} ")), "{series} in {text}");
        }
    }
}
