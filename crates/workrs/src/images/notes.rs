//! What the state says of images: which there are, what they are called, and who uses them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use workrs_core::{
    id::{JobId, OperationId, Owner, Timestamp},
    image::{Image, ImageDigest},
    keys,
};
use workrs_store::{
    envelope::Envelope,
    fresh,
    state::{Change, Condition, Entry, StateError, StateStore, Transaction, list_keys},
};

use super::{ImageError, Images};

/// Images in a page of a list: one of many layers takes several kilobytes.
const PAGE: usize = 100;
/// Tries of a change while its answers are lost.
const TRIES: u32 = 5;

/// What stands at an image's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNote {
    /// The processor architecture, in Rust's words.
    pub arch: String,
    /// Length of its layers as they are stored.
    pub bytes: u64,
    /// Its configuration.
    pub config: ImageDigest,
    /// Its layers, lowest first. They stand here so that what is needed is known without reading blobs.
    pub layers: Vec<ImageDigest>,
    /// When the group got it.
    pub added_at: Timestamp,
    /// Who brought it.
    pub added_by: Owner,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl ImageNote {
    /// Of an image that is brought now.
    pub(super) fn of(image: &Image, added_by: &Owner) -> Self {
        Self {
            arch: image.arch.clone(),
            bytes: image.bytes(),
            config: image.config.clone(),
            layers: image.layers.iter().map(|layer| layer.digest.clone()).collect(),
            added_at: fresh::now(),
            added_by: added_by.clone(),
            unknown: BTreeMap::new(),
        }
    }

    /// All of its parts but the manifest, which is the image's own digest.
    pub(super) fn parts(&self) -> impl Iterator<Item = &ImageDigest> {
        [&self.config].into_iter().chain(&self.layers)
    }
}

/// What stands at a name's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NameNote {
    /// The image that it means.
    digest: ImageDigest,
    /// Since when.
    since: Timestamp,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

/// An image, what it is called, and who uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownImage {
    /// What it is.
    pub digest: ImageDigest,
    /// What is known of it.
    pub note: ImageNote,
    /// Its names, whole.
    pub names: Vec<String>,
    /// Jobs that run in it, or may yet.
    pub jobs: Vec<JobId>,
}

impl Images {
    /// All images.
    pub async fn list(&self) -> Result<Vec<KnownImage>, ImageError> {
        let names = self.names().await?;
        let mut jobs: BTreeMap<ImageDigest, Vec<JobId>> = BTreeMap::new();
        for key in list_keys(&*self.store, keys::IMAGE_USES).await? {
            if let (Some(digest), Some(job)) = (keys::image_of(&key), keys::job_of_index(&key)) {
                jobs.entry(digest).or_default().push(job);
            }
        }
        let images = self.notes(keys::IMAGES).await?;
        let known = images.into_iter().map(|(digest, note)| KnownImage {
            names: names_of(&names, &digest),
            jobs: jobs.remove(&digest).unwrap_or_default(),
            digest,
            note,
        });
        Ok(known.collect())
    }

    /// One image, if the group has it.
    pub async fn get(&self, digest: &ImageDigest) -> Result<Option<KnownImage>, ImageError> {
        let key = keys::image(digest);
        let Some(entry) = self.store.get(&key).await? else { return Ok(None) };
        let note = decode::<ImageNote>(&entry)?.body;
        let jobs = list_keys(&*self.store, &keys::image_uses(digest)).await?;
        Ok(Some(KnownImage {
            digest: digest.clone(),
            note,
            names: names_of(&self.names().await?, digest),
            jobs: jobs.iter().filter_map(|key| keys::job_of_index(key)).collect(),
        }))
    }

    /// The image that a whole name means, if the group has one of that name.
    pub async fn named(&self, name: &str) -> Result<Option<ImageDigest>, ImageError> {
        let entry = self.store.get(&keys::image_name(name)).await?;
        Ok(entry.as_ref().map(decode::<NameNote>).transpose()?.map(|name| name.body.digest))
    }

    /// Whether the group has this image.
    pub async fn has(&self, digest: &ImageDigest) -> Result<bool, ImageError> {
        Ok(self.store.get(&keys::image(digest)).await?.is_some())
    }

    /// Takes names away; that there is no such name is no error. An image without a name goes once no job uses it.
    pub async fn remove_names(&self, names: &[String]) -> Result<(), ImageError> {
        let changes = names.iter().map(|name| Change::Delete(keys::image_name(name))).collect();
        let removal = Transaction { conditions: Vec::new(), changes };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.store.commit(removal.clone()).await {
                Ok(_) => return Ok(()),
                // To take them away twice does no harm.
                Err(StateError::Unknown(_)) if tries < TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All names, and what they mean.
    pub(super) async fn names(&self) -> Result<BTreeMap<String, ImageDigest>, ImageError> {
        let entries = list_all(&*self.store, keys::IMAGE_NAMES).await?;
        let named = entries.iter().filter_map(|entry| {
            let name = entry.key.strip_prefix(keys::IMAGE_NAMES)?;
            Some(decode::<NameNote>(entry).map(|note| (name.to_owned(), note.body.digest)))
        });
        Ok(named.collect::<Result<_, _>>()?)
    }

    /// The images that stand below a prefix. One that cannot be read is an error: nobody would know what its parts are.
    pub(super) async fn notes(&self, prefix: &str) -> Result<Vec<(ImageDigest, ImageNote)>, ImageError> {
        let entries = list_all(&*self.store, prefix).await?;
        let images = entries.iter().map(|entry| {
            let damaged = || StateError::Damaged(format!("{:?} does not name an image", entry.key));
            let digest = keys::image_of(&entry.key).ok_or_else(damaged)?;
            Ok::<_, StateError>((digest, decode::<ImageNote>(entry)?.body))
        });
        Ok(images.collect::<Result<_, _>>()?)
    }

    /// Whether a job runs in the image, or may yet.
    pub(super) async fn is_used(&self, digest: &ImageDigest) -> Result<bool, ImageError> {
        Ok(!self.store.list(&keys::image_uses(digest), None, 1).await?.entries.is_empty())
    }

    /// Notes an image under names, while `condition` holds; whether it did.
    pub(super) async fn note(
        &self,
        image: &Image,
        names: &BTreeSet<String>,
        added_by: &Owner,
        condition: &Condition,
    ) -> Result<bool, ImageError> {
        let operation = fresh::operation();
        let key = keys::image(&image.digest);
        let known = self.store.get(&key).await?.as_ref().map(decode::<ImageNote>).transpose()?;
        let note = known.as_ref().map_or_else(|| ImageNote::of(image, added_by), |known| known.body.clone());
        // It is written even if it stands there: who wants to remove the image must notice that it has a new name.
        let mut changes = vec![put(&key, known.as_ref(), note, added_by, &operation)];
        for name in names {
            let key = keys::image_name(name);
            let known = self.store.get(&key).await?.as_ref().map(decode::<NameNote>).transpose()?;
            if known.as_ref().is_some_and(|known| known.body.digest == image.digest) {
                continue;
            }
            let note = NameNote { digest: image.digest.clone(), since: fresh::now(), unknown: BTreeMap::new() };
            changes.push(put(&key, known.as_ref(), note, added_by, &operation));
        }
        let transaction = Transaction { conditions: vec![condition.clone()], changes };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.store.commit(transaction.clone()).await {
                Ok(_) => return Ok(true),
                Err(StateError::Conflict) => return Ok(false),
                // To write the same twice does no harm.
                Err(StateError::Unknown(_)) if tries < TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn names_of(names: &BTreeMap<String, ImageDigest>, digest: &ImageDigest) -> Vec<String> {
    names.iter().filter(|(_, named)| *named == digest).map(|(name, _)| name.clone()).collect()
}

/// The next value at a key.
pub(super) fn put<T: Serialize>(
    key: &str,
    known: Option<&Envelope<T>>,
    body: T,
    owner: &Owner,
    operation: &OperationId,
) -> Change {
    let envelope = match known {
        Some(known) => known.succeeded_by(body, operation.clone()),
        None => Envelope::new(owner.as_str(), body, operation.clone()),
    };
    Change::Put(key.to_owned(), envelope.encode(key), None)
}

pub(super) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<Envelope<T>, StateError> {
    Envelope::decode(&entry.key, &entry.value).map_err(|error| StateError::Damaged(error.to_string()))
}

/// All entries below a prefix.
async fn list_all(store: &dyn StateStore, prefix: &str) -> Result<Vec<Entry>, StateError> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(|entry| entry.key.as_str()), PAGE).await?;
        all.extend(page.entries);
        if !page.more {
            return Ok(all);
        }
    }
}
