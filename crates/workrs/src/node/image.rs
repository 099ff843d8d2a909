//! Makes the image of a job ready to be run in on this node.

use std::{env::consts::ARCH, sync::Arc, time::Duration};

use workrs_core::image::{Image, ImageDigest};
use workrs_store::blobs::BlobError;

use super::{
    bring_up::BringUpError,
    finish::is_passing,
    run::{Leave, Run},
};
use crate::images::ImageError;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Run {
    /// Makes the layers of the job's image ready; `None` if it runs on the node's own programs. An unreachable store is waited
    /// for. A part that is lost or damaged ends the job no more than a node that fails does: it goes back to the queue, says
    /// why, and is tried again, as somebody may bring the image again.
    pub(super) async fn provide_image(&self) -> Result<Option<Arc<Image>>, BringUpError> {
        let Some(digest) = &self.record.spec.image_digest else { return Ok(None) };
        let mut pause = FIRST_PAUSE;
        let image = loop {
            match self.shared.images.read(digest).await {
                Ok(image) => break image,
                Err(ImageError::Part { error, .. }) if is_passing(&error) => wait(&error, &mut pause).await,
                Err(error) => return Err(self.lost(digest, &error)),
            }
        };
        if image.arch != ARCH {
            let reason = format!("its image is for {}, this node is {ARCH}", image.arch);
            return Err(BringUpError::Leave(Leave::Release { reason, cool_down: true }));
        }
        let layers = self.shared.images.layers();
        loop {
            let Err(error) = self.shared.engine.provide(&image, &layers).await else {
                return Ok(Some(Arc::new(image)));
            };
            match layers.take_failure() {
                Some(failure) if is_passing(&failure) => wait(&failure, &mut pause).await,
                Some(failure) => return Err(self.lost(digest, &failure)),
                None => return Err(error.into()),
            }
        }
    }

    fn lost(&self, digest: &ImageDigest, error: &dyn std::fmt::Display) -> BringUpError {
        let reason = format!("{error}; bring the image {} ({digest}) again", self.record.spec.image);
        BringUpError::Leave(Leave::host(reason))
    }
}

async fn wait(error: &BlobError, pause: &mut Duration) {
    tracing::warn!(%error, "cannot read the job's image, will try on");
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}
