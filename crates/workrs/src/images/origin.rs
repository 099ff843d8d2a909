//! Where images come from: registries and archives.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use workrs_core::{
    id::Owner,
    image::{Image, ImageDigest},
};
use workrs_engine::image::source::{self, Credentials, ImageSink, InvalidReference, PullOptions, Reference};

use super::{
    ImageError, Images,
    add::{Found, Origin},
};

/// An image of a registry.
pub struct Registry<'a> {
    /// Which.
    pub reference: &'a Reference,
    /// How to ask for it.
    pub options: &'a PullOptions,
}

#[async_trait]
impl Origin for Registry<'_> {
    async fn fetch(&self, sink: &dyn ImageSink) -> Result<Vec<Found>, ImageError> {
        let image = source::pull(self.reference, self.options, sink).await?;
        Ok(vec![Found { image, names: vec![self.reference.to_string()] }])
    }
}

/// The images of an archive.
pub struct Archive<'a> {
    /// Where it lies.
    pub path: &'a Path,
    /// What its only image is to be called, instead of what it says itself.
    pub name: Option<&'a Reference>,
}

#[async_trait]
impl Origin for Archive<'_> {
    async fn fetch(&self, sink: &dyn ImageSink) -> Result<Vec<Found>, ImageError> {
        let imported = source::import(self.path, sink).await?;
        if self.name.is_some() && imported.len() > 1 {
            return Err(ImageError::OneNameForMany(imported.len()));
        }
        let names = |own: Vec<String>| match self.name {
            Some(name) => vec![name.to_string()],
            None => own,
        };
        let found: Vec<_> =
            imported.into_iter().map(|one| Found { image: one.image, names: names(one.names) }).collect();
        // Without a name it would go again at once.
        if found.iter().any(|found| found.names.is_empty()) { Err(ImageError::Nameless) } else { Ok(found) }
    }
}

/// An image that the group has, for another name.
struct Known<'a> {
    image: Image,
    reference: &'a Reference,
}

#[async_trait]
impl Origin for Known<'_> {
    async fn fetch(&self, _: &dyn ImageSink) -> Result<Vec<Found>, ImageError> {
        Ok(vec![Found { image: self.image.clone(), names: vec![self.reference.to_string()] }])
    }
}

/// An image as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever the name means.
    Name(Reference),
    /// The one that the group has under this digest.
    Digest(ImageDigest),
}

impl Wanted {
    /// Reads `sha256:…`, or a name as Docker takes it.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        match ImageDigest::new(text) {
            Ok(digest) => Ok(Self::Digest(digest)),
            Err(_) => Reference::parse(text).map(Self::Name),
        }
    }
}

/// Whole.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(reference) => reference.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// What came of asking for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// The image.
    pub digest: ImageDigest,
    /// The group did not have it under that name before.
    pub is_new: bool,
}

/// Brings images from registries on behalf of those who ask this node.
pub struct Pulls {
    options: PullOptions,
    /// By reference: whoever wants what is being brought waits for it.
    under_way: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Pulls {
    /// Asks these registries without TLS.
    pub fn new(insecure_registries: Vec<String>) -> Self {
        let options = PullOptions { insecure_registries, ..PullOptions::default() };
        Self { options, under_way: Mutex::default() }
    }

    /// Sees that the group has an image, and brings it if not. With `always` the registry is asked even if the group has one
    /// of that name, as it may mean another one by now. Once this has returned `Ok`, the image is durable.
    pub async fn bring(
        &self,
        images: &Images,
        wanted: &Wanted,
        always: bool,
        credentials: Option<Credentials>,
        asked_by: &Owner,
    ) -> Result<Brought, ImageError> {
        let reference = match wanted {
            Wanted::Digest(digest) if images.has(digest).await? => {
                return Ok(Brought { digest: digest.clone(), is_new: false });
            }
            Wanted::Digest(digest) => return Err(ImageError::Unknown(digest.to_string())),
            Wanted::Name(reference) => reference,
        };
        let turn = self.turn(&reference.to_string());
        let _turn = turn.lock().await;
        let known = known(images, reference).await?;
        if let Some(digest) = known.clone().filter(|_| !always) {
            return Ok(Brought { digest, is_new: false });
        }
        let options = PullOptions { credentials, ..self.options.clone() };
        let pinned = match reference.digest().filter(|_| !always) {
            Some(digest) if images.has(digest).await? => Some(Known { image: images.read(digest).await?, reference }),
            _ => None,
        };
        let found = match &pinned {
            Some(pinned) => images.add(pinned, asked_by).await?,
            None => images.add(&Registry { reference, options: &options }, asked_by).await?,
        };
        let found = found.into_iter().next().ok_or_else(|| ImageError::Unknown(reference.to_string()))?;
        let digest = found.image.digest;
        tracing::info!(image = %reference, %digest, "the group has the image");
        Ok(Brought { is_new: known.as_ref() != Some(&digest), digest })
    }

    /// What those have to hold who bring this.
    fn turn(&self, reference: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = under_way.get(reference).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        under_way.insert(reference.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// The image that the group has under this name.
async fn known(images: &Images, reference: &Reference) -> Result<Option<ImageDigest>, ImageError> {
    let Some(digest) = images.named(&reference.to_string()).await? else { return Ok(None) };
    Ok(images.has(&digest).await?.then_some(digest))
}
