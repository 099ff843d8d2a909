//! Removes images that have no name and no job, and blobs below `images/` that no image has.
//!
//! One node at a time does this, and while it does, no image is added:
//!
//! - It writes `collecting` at [`keys::IMAGES_COLLECTION`], removes, and stops at the latest [`COLLECTS_FOR`] later by its own
//!   clock, counted from before that write. Then it writes that it is done, unless it was cut short: a request of its last
//!   moment may still be on its way to the blobs.
//! - Whoever adds an image, or is next to remove, waits while `collecting` stands there, but no longer than until it has
//!   stood unchanged for [`FORGOTTEN_AFTER`]: who wrote it has stopped long since.
//! - An image is added only if the key has not changed since before it was looked which parts are there.
//!
//! No clocks of two machines are compared for this. That blobs are also left alone until they are a day old only spares those
//! who are just bringing them the work to bring them again.
//!
//! A submit does not wait. It holds only while its image's key stands, and that key is put aside before it is looked for the
//! last time whether a job uses the image.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use workrs_core::{
    id::{Owner, Timestamp},
    image::ImageDigest,
    keys,
};
use workrs_store::{
    envelope::Envelope,
    fresh,
    state::{Change, Condition, Revision, StateError, Transaction},
};

use super::{
    ImageError, ImageNote, Images,
    notes::{decode, put},
};

/// The longest that a node removes parts of images at a stretch.
const COLLECTS_FOR: Duration = Duration::from_secs(30);
/// After so long without a change nobody is at it any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Blobs of no image are left alone until they are this old: somebody may be bringing them.
const UNCLAIMED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What stands at [`keys::IMAGES_COLLECTION`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Collection {
    /// Counts how often it was begun.
    round: u64,
    /// Parts are being removed.
    collecting: bool,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images.
    pub images: usize,
    /// Blobs.
    pub blobs: usize,
}

impl Images {
    /// Waits until nobody removes parts of images, or has stopped; gives the condition that nobody has begun since.
    pub(super) async fn no_collection(&self) -> Result<Condition, ImageError> {
        let mut seen: Option<(Revision, Instant)> = None;
        loop {
            let key = keys::IMAGES_COLLECTION.to_owned();
            let Some(entry) = self.store.get(&key).await? else { return Ok(Condition::Absent(key)) };
            let since = match seen {
                Some((revision, since)) if revision == entry.revision => since,
                _ => {
                    let now = Instant::now();
                    seen = Some((entry.revision, now));
                    now
                }
            };
            if !decode::<Collection>(&entry)?.body.collecting || since.elapsed() >= FORGOTTEN_AFTER {
                return Ok(Condition::Unchanged(key, entry.revision));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Removes what nobody needs, if there is an image that may go, or `thorough`.
    pub(crate) async fn tidy_up(&self, now: Timestamp, thorough: bool) -> Result<Collected, ImageError> {
        if !thorough && self.unused().await?.is_empty() && self.notes(keys::IMAGES_CONDEMNED).await?.is_empty() {
            return Ok(Collected::default());
        }
        let Some(turn) = self.begin().await? else { return Ok(Collected::default()) };
        let removed = tokio::time::timeout_at(turn.until, self.remove(&turn, now)).await;
        let Ok(removed) = removed else {
            tracing::info!("did not get through with removing images that nobody needs; the next time will");
            return Ok(Collected::default());
        };
        // After a failure nobody knows what is still on its way to the stores: others wait as if the time were over.
        let removed = removed?;
        self.end(&turn).await?;
        Ok(removed)
    }

    /// Images that have no name and no job.
    async fn unused(&self) -> Result<Vec<(ImageDigest, ImageNote)>, ImageError> {
        let images = self.notes(keys::IMAGES).await?;
        let named = self.named_images().await?;
        let mut unused = Vec::new();
        for (digest, note) in images {
            if !named.contains(&digest) && !self.is_used(&digest).await? {
                unused.push((digest, note));
            }
        }
        Ok(unused)
    }

    async fn named_images(&self) -> Result<BTreeSet<ImageDigest>, ImageError> {
        Ok(self.names().await?.into_values().collect())
    }

    /// Takes the turn to remove; `None` if somebody else was quicker, or perhaps we were, but do not know.
    pub(super) async fn begin(&self) -> Result<Option<Turn>, ImageError> {
        let condition = self.no_collection().await?;
        let until = Instant::now() + COLLECTS_FOR;
        let key = keys::IMAGES_COLLECTION;
        let known = self.store.get(key).await?.as_ref().map(decode::<Collection>).transpose()?;
        let round = known.as_ref().map_or(0, |known| known.body.round) + 1;
        let collection = Collection { round, collecting: true, unknown: BTreeMap::new() };
        let envelope = match &known {
            Some(known) => known.succeeded_by(collection, fresh::operation()),
            None => Envelope::new("group", collection, fresh::operation()),
        };
        let changes = vec![Change::Put(key.to_owned(), envelope.encode(key), None)];
        match self.store.commit(Transaction { conditions: vec![condition], changes }).await {
            Ok(revision) => Ok(Some(Turn { envelope, revision, until })),
            Err(StateError::Conflict | StateError::Unknown(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the turn back. If that does not get through, others wait for a while.
    async fn end(&self, turn: &Turn) -> Result<(), ImageError> {
        let key = keys::IMAGES_COLLECTION;
        let done = Collection { collecting: false, ..turn.envelope.body.clone() };
        let envelope = turn.envelope.succeeded_by(done, fresh::operation());
        let changes = vec![Change::Put(key.to_owned(), envelope.encode(key), None)];
        match self.store.commit(Transaction { conditions: vec![turn.condition()], changes }).await {
            Ok(_) | Err(StateError::Conflict | StateError::Unknown(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove(&self, turn: &Turn, now: Timestamp) -> Result<Collected, ImageError> {
        for (digest, note) in self.unused().await? {
            self.put_aside(turn, &digest, note).await?;
        }
        let mut collected = Collected::default();
        let named = self.named_images().await?;
        for (digest, note) in self.notes(keys::IMAGES_CONDEMNED).await? {
            // Whoever handed a job over before the key was put aside is seen now.
            let is_needed = named.contains(&digest) || self.is_used(&digest).await?;
            let back = is_needed.then(|| note_at(&keys::image(&digest), note));
            let gone = Change::Delete(keys::condemned_image(&digest));
            self.commit(turn, [gone].into_iter().chain(back).collect()).await?;
            if !is_needed {
                tracing::info!(image = %digest, "removed an image that has no name and no job");
                collected.images += 1;
            }
        }
        collected.blobs = self.remove_blobs(now).await?;
        Ok(collected)
    }

    /// From here on no job is accepted for the image.
    async fn put_aside(&self, turn: &Turn, digest: &ImageDigest, note: ImageNote) -> Result<(), ImageError> {
        let aside = note_at(&keys::condemned_image(digest), note);
        self.commit(turn, vec![Change::Delete(keys::image(digest)), aside]).await
    }

    /// Commits a change as long as the turn is this node's.
    async fn commit(&self, turn: &Turn, changes: Vec<Change>) -> Result<(), ImageError> {
        let transaction = Transaction { conditions: vec![turn.condition()], changes };
        Ok(self.store.commit(transaction).await.map(drop)?)
    }

    /// Removes blobs that are part of no image; gives how many.
    async fn remove_blobs(&self, now: Timestamp) -> Result<usize, ImageError> {
        let mut needed = BTreeSet::new();
        // While this node has the turn, nobody else moves images between the two, and nobody adds one.
        for prefix in [keys::IMAGES_CONDEMNED, keys::IMAGES] {
            for (digest, note) in self.notes(prefix).await? {
                needed.extend(note.parts().cloned());
                needed.insert(digest);
            }
        }
        let blobs = self.blobs.list_modified(keys::IMAGE_BLOBS).await?;
        let unneeded = blobs.iter().filter(|(name, modified)| {
            let is_old = now.since(*modified) > UNCLAIMED_AFTER;
            is_old && keys::image_part_of(name).is_some_and(|part| !needed.contains(&part))
        });
        let unneeded: Vec<&str> = unneeded.map(|(name, _)| name.as_str()).collect();
        self.blobs.delete_all(unneeded.iter().copied()).await?;
        self.blobs.sweep_abandoned(keys::IMAGE_BLOBS, UNCLAIMED_AFTER).await?;
        Ok(unneeded.len())
    }
}

/// The right to remove.
pub(super) struct Turn {
    envelope: Envelope<Collection>,
    revision: Revision,
    until: Instant,
}

impl Turn {
    /// That nobody else has the turn.
    fn condition(&self) -> Condition {
        Condition::Unchanged(keys::IMAGES_COLLECTION.to_owned(), self.revision)
    }
}

fn note_at(key: &str, note: ImageNote) -> Change {
    let owner: Owner = note.added_by.clone();
    put(key, None, note, &owner, &fresh::operation())
}
