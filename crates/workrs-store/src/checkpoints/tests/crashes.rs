//! A job's checkpoints with a fault at every single operation: what the record names always comes back.

use std::sync::Mutex;

use object_store::memory::InMemory;

use super::*;
use crate::{
    checkpoints::{
        cut::{BLOCK_BYTES, PAGE_BYTES},
        form::{self, Written},
    },
    faulty::Fault,
};

/// Memory and disk after each step: pages that stay, pages that change, and a third step that drops most of the first
/// pack, so that what is left of it is stored anew. The fourth is like the third, but for the disk.
fn captures() -> Vec<Capture> {
    let memories: [Vec<u64>; 6] = [
        (0..20).collect(),
        (0..20).chain(100..103).collect(),
        (0..4).chain(100..108).collect(),
        (0..4).chain(100..108).collect(),
        (200..204).chain(0..4).chain(100..108).collect(),
        (300..302).chain(0..3).collect(),
    ];
    let capture = |(step, seeds): (u64, Vec<u64>)| {
        let pages: Vec<u8> = seeds.into_iter().flat_map(|seed| noise(seed, PAGE_BYTES as usize)).collect();
        let disk = [(step * BLOCK_BYTES, noise(step, 3000)), (600_000, noise(77, 9_000))];
        let mut capture = Capture::new(&[("pages", pages)], 1 << 20, &disk);
        capture.changed = Some(std::iter::once(0..10 * BLOCK_BYTES).collect());
        capture
    };
    (1..).zip(memories).map(capture).collect()
}

/// What survives a crash: the two newest checkpoints that were committed, by the number of their capture.
#[derive(Default)]
struct Record(Mutex<Vec<(usize, CheckpointId, BlobRef)>>);

impl Record {
    fn commit(&self, capture: usize, id: CheckpointId, manifest: BlobRef) {
        let mut named = self.0.lock().unwrap();
        named.push((capture, id, manifest));
        let surplus = named.len().saturating_sub(2);
        named.drain(..surplus);
    }

    fn named(&self) -> Vec<(usize, CheckpointId, BlobRef)> {
        self.0.lock().unwrap().clone()
    }
}

/// Runs a job from capture `from` on, in one process that begins with the base that the record names.
async fn run(checkpoints: &Checkpoints, sound: &Checkpoints, captures: &[Capture], from: usize, record: &Record) {
    let epoch = if from == 0 { 1 } else { 2 };
    let mut base = None;
    if let Some((_, id, manifest)) = record.named().last() {
        let into = tempfile::tempdir().unwrap();
        base = Some(Base::new(Arc::new(fetch(sound, *id, manifest, into.path()).await.unwrap())));
    }
    for (number, capture) in captures.iter().enumerate().skip(from) {
        let id = id(epoch, number as u64);
        let op = format!("op{epoch}-{number}");
        // A failed checkpoint never harms the job: it goes on, on the base that it has.
        let stored = capture.store_on(checkpoints, id, &op, base.as_ref(), None).await;
        let Ok(stored) = stored else { continue };
        record.commit(number, id, stored.manifest);
        let followed = base.as_ref().map(|base| base.followed_by(Arc::clone(&stored.contents)));
        let mut next = followed.unwrap_or_else(|| Base::new(stored.contents));
        let _ = checkpoints.recheck(&mut next).await;
        base = Some(next);
        let named = record.named();
        let keep: Vec<_> = named.iter().map(|(.., manifest)| manifest).collect();
        let _ = checkpoints.collect(&job(), &keep, Epoch(epoch), None).await;
    }
}

async fn assert_record_comes_back(sound: &Checkpoints, captures: &[Capture], record: &Record) {
    for (number, id, manifest) in record.named() {
        captures[number].assert_fetched(sound, id, &manifest).await;
    }
}

async fn assert_no_garbage(blobs: &Blobs, sound: &Checkpoints, record: &Record) {
    let mut expected = Vec::new();
    for (_, id, manifest) in record.named() {
        let into = tempfile::tempdir().unwrap();
        expected.extend(fetch(sound, id, &manifest, into.path()).await.unwrap().packs);
        expected.push(manifest.name);
    }
    expected.sort();
    expected.dedup();
    let names: Vec<_> = blobs.list("").await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, expected);
}

/// A manifest without its packs would look like a checkpoint that lost them.
async fn assert_manifests_have_their_packs(blobs: &Blobs) {
    let names: Vec<_> = blobs.list("").await.unwrap().into_iter().map(|(name, _)| name).collect();
    for manifest in names.iter().filter(|name| name.ends_with(MANIFEST)) {
        let bytes = blobs.get_unverified(manifest).await.unwrap();
        let Written::Runs { manifest, .. } = form::decode(&bytes).unwrap() else { panic!("an old manifest") };
        assert!(manifest.packs.iter().all(|pack| names.contains(pack)), "{} {names:?}", manifest.id);
    }
}

#[tokio::test]
async fn a_fault_at_any_operation_costs_no_checkpoint_and_leaves_no_garbage() {
    let captures = captures();
    let count = {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (faults, record) = (Faults::none(), Record::default());
        let sound = Checkpoints::new(Blobs::new(Arc::clone(&memory)));
        run(&faulty(&memory, &faults), &sound, &captures, 0, &record).await;
        assert_record_comes_back(&sound, &captures, &record).await;
        assert_no_garbage(&sound.blobs, &sound, &record).await;
        faults.count()
    };
    assert!(count > 50, "{count} operations");
    for number in 1..=count {
        for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::CrashBefore, Fault::CrashAfter] {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let (faults, record) = (Faults::at(number, fault), Record::default());
            let sound = Checkpoints::new(Blobs::new(Arc::clone(&memory)));
            let store = faulty(&memory, &faults);
            let crashed = tokio::select! {
                () = run(&store, &sound, &captures, 0, &record) => false,
                () = faults.crashed() => true,
            };
            assert_eq!(crashed, matches!(fault, Fault::CrashBefore | Fault::CrashAfter), "{number} {fault:?}");
            assert_record_comes_back(&sound, &captures, &record).await;
            assert_manifests_have_their_packs(&sound.blobs).await;
            // Another process goes on; the first newest checkpoint's state comes again, so that there are two.
            let newest = record.named().last().map_or(0, |(number, ..)| *number).min(captures.len() - 2);
            run(&sound, &sound, &captures, newest.max(1), &record).await;
            assert_record_comes_back(&sound, &captures, &record).await;
            assert_no_garbage(&sound.blobs, &sound, &record).await;
        }
    }
}

#[tokio::test]
async fn the_history_with_faults_has_all_that_can_go_wrong() {
    let (_, checkpoints) = in_memory();
    let (record, captures) = (Record::default(), captures());
    let mut packs = Vec::new();
    for upto in 1..=captures.len() {
        let record = if upto == captures.len() { &record } else { &Record::default() };
        run(&checkpoints, &checkpoints, &captures[..upto], 0, record).await;
        let (_, id, manifest) = record.named().pop().unwrap();
        let into = tempfile::tempdir().unwrap();
        let fetched = fetch(&checkpoints, id, &manifest, into.path()).await.unwrap();
        let seq = |pack: &String| workrs_core::keys::parse_checkpoint(pack).unwrap().seq;
        packs.push(fetched.packs.iter().map(seq).collect::<Vec<_>>());
    }
    // Chunks are reused; the first pack is given up though some of it lives; packs go that nothing needs.
    assert_eq!(packs[..3], [vec![0], vec![0, 1], vec![1, 2]]);
    assert!(packs[4].len() > 2, "{packs:?}");
    assert!(packs[5].len() < packs[4].len(), "{packs:?}");
}
