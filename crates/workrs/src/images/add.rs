//! Brings images into the group.
//!
//! An image counts once the state names it, and then all of its parts are in the blobs. Parts that were there before are
//! not brought again, but one that no image had may be removed at this very time. So the commit that names the image holds
//! only if nobody began to remove parts since before it was looked which are there; otherwise all is looked at anew.

use std::collections::BTreeSet;

use async_trait::async_trait;
use workrs_core::{
    id::Owner,
    image::{Image, ImageDigest},
};
use workrs_engine::image::source::ImageSink;

use super::{
    ImageError, Images,
    parts::{Sink, is_there},
};

/// Tries before it is given up, as others remove images again and again.
const TRIES: u32 = 8;
/// Names of one image that change in one transaction; stores bound those.
const NAMES_AT_ONCE: usize = 50;

/// Where images come from.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Puts all parts of its images into `sink`, unless they are there.
    async fn fetch(&self, sink: &dyn ImageSink) -> Result<Vec<Found>, ImageError>;
}

/// An image that was brought, and what it is to be called, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The image.
    pub image: Image,
    /// At least one.
    pub names: Vec<String>,
}

impl Images {
    /// Brings all images of an origin into the group. Once this has returned `Ok`, they are durable.
    pub async fn add(&self, origin: &dyn Origin, added_by: &Owner) -> Result<Vec<Found>, ImageError> {
        let mut anew = false;
        for _ in 0..TRIES {
            let condition = self.no_collection().await?;
            let sink = Sink { blobs: self.blobs.clone(), anew };
            let found = origin.fetch(&sink).await?;
            // An origin may take a manifest that is there for proof of the rest.
            anew = !self.has_all_parts(&found).await?;
            if !anew && self.note_all(&found, added_by, &condition).await? {
                return Ok(found);
            }
        }
        Err(ImageError::Unsettled)
    }

    async fn has_all_parts(&self, found: &[Found]) -> Result<bool, ImageError> {
        let parts: BTreeSet<&ImageDigest> = found.iter().flat_map(|found| parts_of(&found.image)).collect();
        for part in parts {
            if !is_there(&self.blobs, part).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn note_all(
        &self,
        found: &[Found],
        added_by: &Owner,
        condition: &workrs_store::state::Condition,
    ) -> Result<bool, ImageError> {
        for Found { image, names } in found {
            for names in names.chunks(NAMES_AT_ONCE) {
                let names = names.iter().cloned().collect();
                if !self.note(image, &names, added_by, condition).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn parts_of(image: &Image) -> impl Iterator<Item = &ImageDigest> {
    [&image.digest, &image.config].into_iter().chain(image.layers.iter().map(|layer| &layer.digest))
}
