//! Images that come, go and are used, over a real state in memory.

mod faults;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use workrs_core::{
    id::{JobId, Owner, Timestamp},
    job::{JobEvent, JobRecord},
    keys,
    spec::JobSpec,
};
use workrs_engine::LayerSource;
use workrs_store::{
    fresh,
    records::{RecordError, Records},
    redb::RedbStore,
    state::Condition,
};

use super::{made::Made, *};

const DAY: u64 = 24 * 60 * 60 * 1_000;

fn me() -> Owner {
    Owner::new("me").unwrap()
}

/// A time at which all blobs of now are old.
fn later() -> Timestamp {
    Timestamp::from_millis(fresh::now().as_millis() + 2 * DAY)
}

/// A group without nodes.
struct Group {
    images: Images,
    records: Records,
}

impl Group {
    fn new() -> Self {
        let store: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
        let blobs = Blobs::open("memory:").unwrap();
        Self { images: Images::new(Arc::clone(&store), blobs), records: Records::new(store) }
    }

    async fn add(&self, made: &Made) {
        self.images.add(made, &me()).await.unwrap();
    }

    /// Hands a job over that runs in the image, if the group has it.
    async fn submit(&self, id: &str, image: &ImageDigest) -> Result<JobId, RecordError> {
        let id = JobId::new(id).unwrap();
        let mut spec = JobSpec::new("n", vec!["true".to_owned()]);
        (spec.image, spec.image_digest) = ("a".to_owned(), Some(image.clone()));
        let record = JobRecord::submitted(id.clone(), me(), spec, None, fresh::now());
        let guard = [Condition::Present(keys::image(image))];
        self.records.submit_if(record, &guard, &fresh::operation()).await.map(|_| id)
    }

    async fn cancel(&self, id: &JobId) {
        let event = JobEvent::CancelRequested { at: fresh::now() };
        self.records.apply(id, &event, &[], &fresh::operation()).await.unwrap();
    }

    /// The parts that are in the blobs.
    async fn blobs(&self) -> Vec<ImageDigest> {
        let names = self.images.blobs.list(keys::IMAGE_BLOBS).await.unwrap();
        names.iter().map(|(name, _)| keys::image_part_of(name).unwrap()).collect()
    }

    async fn remove_name(&self, name: &str) {
        self.images.remove_names(&[name.to_owned()]).await.unwrap();
    }
}

fn sorted<'a>(parts: impl IntoIterator<Item = &'a (ImageDigest, Bytes)>) -> Vec<ImageDigest> {
    let all: std::collections::BTreeSet<_> = parts.into_iter().map(|(digest, _)| digest.clone()).collect();
    all.into_iter().collect()
}

#[tokio::test]
async fn an_image_that_was_added_is_read_as_it_was() {
    let group = Group::new();
    let large: Vec<u8> = (0..9_000_001).map(|number| (number % 251) as u8).collect();
    let made = Made::new("a", &[&large, b"", b"small"]);
    group.add(&made).await;
    assert_eq!(made.brought(), 5);
    assert_eq!(group.images.read(made.digest()).await.unwrap(), made.image);
    let layers = group.images.layers();
    for (layer, (_, expect)) in made.image.layers.iter().zip(&made.parts) {
        let mut content = Vec::new();
        layers.open(layer).await.unwrap().read_to_end(&mut content).await.unwrap();
        assert_eq!(content, *expect);
    }
    let known = group.images.list().await.unwrap();
    assert_eq!((known.len(), &known[0].digest, known[0].note.bytes), (1, made.digest(), 9_000_006));
    assert_eq!(known[0].names, ["a"]);
    assert_eq!(group.images.get(made.digest()).await.unwrap().as_ref(), Some(&known[0]));
    assert_eq!(group.images.named("a").await.unwrap().as_ref(), Some(made.digest()));
    assert_eq!(group.images.named("b").await.unwrap(), None);
}

#[tokio::test]
async fn layers_are_stored_once_and_brought_once() {
    let group = Group::new();
    let (one, other) = (Made::new("a", &[b"base", b"one"]), Made::new("b", &[b"base", b"other"]));
    group.add(&one).await;
    group.add(&one).await;
    assert_eq!(one.brought(), 4);
    group.add(&other).await;
    assert_eq!(other.brought(), 3, "all but the layer that they share");
    assert_eq!(group.blobs().await, sorted(one.parts.iter().chain(&other.parts)));
}

#[tokio::test]
async fn lost_and_damaged_parts_are_told() {
    let group = Group::new();
    let made = Made::new("a", &[b"base"]);
    group.add(&made).await;
    let layer = &made.image.layers[0];
    let blob = keys::image_blob(&layer.digest);
    let layers = group.images.layers();
    group.images.blobs.put(&blob, "cut".into()).await.unwrap();
    assert!(layers.open(layer).await.is_err());
    assert_eq!(layers.take_failure(), Some(BlobError::Mismatch(blob.clone())));
    group.images.blobs.delete(&blob).await.unwrap();
    assert!(layers.open(layer).await.is_err());
    assert_eq!(layers.take_failure(), Some(BlobError::Missing(blob)));
    assert_eq!(layers.take_failure(), None);
    group.images.blobs.put(&keys::image_blob(&made.image.config), "{}".into()).await.unwrap();
    let error = group.images.read(made.digest()).await.unwrap_err();
    assert!(matches!(error, ImageError::Part { error: BlobError::Mismatch(_), .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_that_is_there_proves_nothing_of_the_layers() {
    let group = Group::new();
    let made = Made { trusts_manifest: true, ..Made::new("a", &[b"base"]) };
    group.add(&made).await;
    group.images.blobs.delete(&keys::image_blob(&made.image.layers[0].digest)).await.unwrap();
    made.brought();
    group.add(&made).await;
    assert_eq!(made.brought(), 3);
    assert_eq!(group.blobs().await, sorted(&made.parts));
}

#[tokio::test]
async fn an_image_goes_once_it_has_no_name_and_no_job() {
    let group = Group::new();
    let (one, other) = (Made::new("a", &[b"base", b"one"]), Made::new("b", &[b"base", b"other"]));
    group.add(&one).await;
    group.add(&other).await;
    let tidy_up = async |now| group.images.tidy_up(now, false).await.unwrap();
    assert_eq!(tidy_up(later()).await, Collected::default());
    let job = group.submit("job", one.digest()).await.unwrap();
    group.remove_name("a").await;
    group.remove_name("a").await;
    assert_eq!(tidy_up(later()).await, Collected::default(), "a job may yet run in it");
    assert_eq!(group.images.get(one.digest()).await.unwrap().unwrap().jobs, std::slice::from_ref(&job));
    group.cancel(&job).await;
    assert_eq!(tidy_up(fresh::now()).await, Collected { images: 1, blobs: 0 }, "blobs of today stay");
    assert_eq!(group.submit("late", one.digest()).await, Err(RecordError::GuardFailed));
    assert_eq!(group.images.tidy_up(later(), true).await.unwrap(), Collected { images: 0, blobs: 3 });
    assert_eq!(group.blobs().await, sorted(&other.parts), "also what both had");
    assert_eq!(group.images.list().await.unwrap().len(), 1);
    group.add(&one).await;
    assert_eq!(one.brought(), 4 + 3);
}

#[tokio::test]
async fn a_name_moves_to_the_image_that_came_last() {
    let group = Group::new();
    let (before, after) = (Made::new("a", &[b"1"]), Made::new("a", &[b"2"]));
    group.add(&before).await;
    group.add(&after).await;
    assert_eq!(group.images.named("a").await.unwrap().as_ref(), Some(after.digest()));
    assert_eq!(group.images.tidy_up(later(), false).await.unwrap().images, 1);
    assert_eq!(group.blobs().await, sorted(&after.parts));
}

#[tokio::test]
async fn an_image_that_was_put_aside_comes_back_if_it_is_needed() {
    let group = Group::new();
    let made = Made::new("a", &[b"base"]);
    group.add(&made).await;
    let job = group.submit("job", made.digest()).await.unwrap();
    // A node died between putting it aside, because no job was there yet, and looking for jobs once more.
    let note = group.images.get(made.digest()).await.unwrap().unwrap().note;
    group.images.remove_names(&["a".to_owned()]).await.unwrap();
    let changes = vec![
        workrs_store::state::Change::Delete(keys::image(made.digest())),
        super::notes::put(&keys::condemned_image(made.digest()), None, note, &me(), &fresh::operation()),
    ];
    let aside = workrs_store::state::Transaction { conditions: Vec::new(), changes };
    group.images.store.commit(aside).await.unwrap();
    assert_eq!(group.images.tidy_up(later(), false).await.unwrap(), Collected::default());
    assert!(group.images.has(made.digest()).await.unwrap());
    assert_eq!(group.blobs().await, sorted(&made.parts));
    group.cancel(&job).await;
    assert_eq!(group.images.tidy_up(later(), false).await.unwrap(), Collected { images: 1, blobs: 3 });
    assert!(group.blobs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_was_given_up_holds_nobody_up_for_ever() {
    let group = Group::new();
    let made = Made::new("a", &[b"base"]);
    let began = tokio::time::Instant::now();
    assert!(group.images.begin().await.unwrap().is_some());
    group.add(&made).await;
    assert!(began.elapsed().as_secs() >= 60, "it may still have been at it");
    let again = tokio::time::Instant::now();
    group.add(&made).await;
    group.images.tidy_up(later(), true).await.unwrap();
    assert!(again.elapsed().as_secs() < 180);
    assert_eq!(group.blobs().await, sorted(&made.parts));
}
