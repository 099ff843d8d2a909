//! Images, as a client asks for them.

use std::path::Path;

use futures::StreamExt;
use reqwest::{Body, Method, header};

use super::{
    Client, ClientError, encode,
    endpoints::{Misses, begun, whole},
};
use crate::api::{ImageView, PullRequest, PulledView, RemovedView};

impl Client {
    /// The images that the group has.
    pub async fn images(&self) -> Result<Vec<ImageView>, ClientError> {
        self.json(Method::GET, "/api/v1/images").await
    }

    /// Brings an image into the group, however long its registry takes. A node that cannot reach the registry is followed by
    /// the next.
    pub async fn pull_image(&self, request: &PullRequest) -> Result<PulledView, ClientError> {
        let build = |outgoing: reqwest::RequestBuilder| outgoing.json(request);
        self.endpoints.whole(&Method::POST, "/api/v1/images", None, build).await?.parse()
    }

    /// Brings the images of an archive into the group, however long that takes. `progress` is told the bytes that went out so
    /// far.
    pub async fn import_image(
        &self,
        archive: &Path,
        name: Option<&str>,
        progress: impl FnMut(u64) + Clone + Send + Sync + 'static,
    ) -> Result<Vec<ImageView>, ClientError> {
        let failed = |error| ClientError::File { path: archive.to_owned(), error };
        let query: Vec<_> = name.map(|name| ("name", name)).into_iter().collect();
        let mut misses = Misses::default();
        for server in self.endpoints.in_turn() {
            let file = tokio::fs::File::open(archive).await.map_err(failed)?;
            let len = file.metadata().await.map_err(failed)?.len();
            let (mut sent, mut progress) = (0, progress.clone());
            let pieces = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10).inspect(move |piece| {
                sent += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
                progress(sent);
            });
            let outgoing = self.endpoints.request(server, &Method::PUT, "/api/v1/images/import").query(&query);
            let outgoing = outgoing.header(header::CONTENT_LENGTH, len).body(Body::wrap_stream(pieces));
            match async { whole(server, begun(server, outgoing.send().await).await?).await }.await {
                Ok(answer) => {
                    self.endpoints.prefer(server);
                    return answer.parse();
                }
                Err(error) => misses.add(server, error)?,
            }
        }
        Err(misses.into_error())
    }

    /// Takes a name of an image, in full, away, or with `sha256:…` all of its names.
    pub async fn remove_image(&self, name: &str) -> Result<RemovedView, ClientError> {
        self.json(Method::DELETE, &format!("/api/v1/images/{}", encode(name))).await
    }
}
