//! Every kind of damage to any blob is noticed, gives no wrong data, and is repaired by the next checkpoint.

use workrs_core::manifest::Manifest;

use super::*;
use crate::checkpoints::cut::PAGE_BYTES;

/// What is done to a blob.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(usize),
    Cut(usize),
    Remove,
}

/// Two kept checkpoints of a longer history, and a third capture that is not stored yet.
struct State {
    blobs: Blobs,
    checkpoints: Checkpoints,
    kept: [(CheckpointId, Capture, Stored); 2],
    next: Capture,
}

/// Memory pages and a disk that have something in common with those of the steps before.
fn capture(step: u64) -> Capture {
    // Each step writes every sixth page.
    let seeds = (0..24).map(|page| (1..=step).rev().find(|step| page % 6 == step % 6).map_or(page, |s| 100 * s + page));
    let pages: Vec<u8> = seeds.flat_map(|seed| noise(seed, PAGE_BYTES as usize)).collect();
    let disk = [(0, noise(1, 40_000)), (1 << 20, b"journal ".repeat(9_000)), ((step + 2) << 20, noise(step, 9_000))];
    let mut capture = Capture::new(&[("pages", pages), ("core", b"text".repeat(999))], 8 << 20, &disk);
    capture.changed = Some(std::iter::once((step + 1) << 20..(step + 3) << 20).collect());
    capture
}

async fn state() -> State {
    let (blobs, checkpoints) = in_memory();
    let mut history: Vec<(CheckpointId, Capture, Stored)> = Vec::new();
    for step in 1..=4 {
        let base = history.last().map(|(_, _, stored)| base(stored));
        let capture = capture(step);
        let stored = capture.store_on(&checkpoints, id(1, step), "op", base.as_ref(), None).await.unwrap();
        history.push((id(1, step), capture, stored));
    }
    let kept: [_; 2] = history.split_off(2).try_into().unwrap();
    let keep = [&kept[0].2.manifest, &kept[1].2.manifest];
    checkpoints.collect(&job(), &keep, Epoch(1), None).await.unwrap();
    State { blobs, checkpoints, kept, next: capture(5) }
}

/// Whether a checkpoint needs what is damaged.
fn is_hit(stored: &Stored, blob: &str, damage: Damage) -> bool {
    let contents: &Manifest = &stored.contents;
    let Some(pack) = contents.packs.iter().position(|name| name == blob) else { return stored.manifest.name == blob };
    let Damage::Flip(at) = damage else { return true };
    let in_index = at as u64 >= contents.chunks_end(pack).unwrap();
    let mut chunks = contents.contents().flat_map(|content| &content.chunks);
    let in_chunk = chunks.any(|chunk| {
        let range = chunk.offset..chunk.offset + u64::from(chunk.stored);
        chunk.pack as usize == pack && range.contains(&(at as u64))
    });
    in_index || in_chunk
}

impl State {
    async fn inflict(&self, name: &str, sound: &[u8], damage: Damage) {
        let bytes = match damage {
            Damage::Remove => return self.blobs.delete(name).await.unwrap(),
            Damage::Cut(at) => sound[..at].to_vec(),
            Damage::Flip(at) => {
                let mut bytes = sound.to_vec();
                bytes[at] ^= 1 << (at % 8);
                bytes
            }
        };
        self.blobs.put(name, bytes.into()).await.unwrap();
    }

    /// Fetches both checkpoints, rechecks, repairs; gives how many of the two were hit.
    async fn check(&self, name: &str, damage: Damage) -> usize {
        let mut hits = 0;
        for (id, capture, stored) in &self.kept {
            let into = tempfile::tempdir().unwrap();
            let result = fetch(&self.checkpoints, *id, &stored.manifest, into.path()).await;
            if is_hit(stored, name, damage) {
                hits += 1;
                assert!(matches!(result, Err(FetchError::Bad(_))), "{name} {damage:?} {id}: {result:?}");
            } else {
                assert!(result.is_ok(), "{name} {damage:?} {id}: {result:?}");
                capture.assert_equals(into.path());
            }
        }
        let newest = &self.kept[1].2;
        let mut base = base(newest);
        let mut found = 0;
        for _ in &newest.contents.packs {
            found += self.checkpoints.recheck(&mut base).await.unwrap();
        }
        let in_pack = name.ends_with(PACK) && is_hit(newest, name, damage);
        assert_eq!(found > 0, in_pack, "{name} {damage:?}: {found}");
        let repaired = self.next.store_on(&self.checkpoints, id(1, 5), "op", Some(&base), None).await.unwrap();
        self.next.assert_fetched(&self.checkpoints, id(1, 5), &repaired.manifest).await;
        assert_eq!(self.checkpoints.recheck(&mut base).await, Ok(0), "what is known is not found again");
        for blob in [repaired.contents.packs.last().unwrap(), &repaired.manifest.name] {
            self.blobs.delete(blob).await.unwrap();
        }
        hits
    }
}

#[tokio::test]
async fn every_damage_to_any_blob_is_proof_never_wrong_data_and_repaired() {
    let state = state().await;
    let [before, newest] = [&state.kept[0].2.contents, &state.kept[1].2.contents];
    assert!(newest.packs.len() >= 3, "{:?}", newest.packs);
    assert!(before.packs.iter().any(|pack| newest.packs.contains(pack)));
    let mut seen = [0; 3];
    for (name, len) in state.blobs.list("").await.unwrap() {
        let sound = state.blobs.get_unverified(&name).await.unwrap();
        let places = (0..14).map(|step| step * (len - 1) / 13).collect::<std::collections::BTreeSet<_>>();
        let places = places.into_iter().map(|at| at as usize);
        let damages = places.flat_map(|at| [Damage::Flip(at), Damage::Cut(at)]).chain([Damage::Remove]);
        for damage in damages {
            state.inflict(&name, &sound, damage).await;
            seen[state.check(&name, damage).await] += 1;
        }
        state.blobs.put(&name, sound).await.unwrap();
    }
    assert!(seen.iter().all(|count| *count > 3), "both, one or none is hit: {seen:?}");
    assert_eq!(state.check("nothing", Damage::Remove).await, 0);
}

#[tokio::test]
async fn a_pack_that_reads_back_otherwise_makes_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let checkpoints = Checkpoints::new(blobs.clone());
    let capture = Capture::typical();
    let stored = capture.store(&checkpoints, id(1, 1), "op").await.unwrap();
    let contents = &stored.contents;
    let entries = || {
        let chunks = contents.contents().flat_map(|content| &content.chunks);
        let entry = |chunk: &workrs_core::manifest::Chunk| crate::checkpoints::pack::Entry {
            hash: chunk.hash,
            len: chunk.len,
            offset: chunk.offset,
            stored: chunk.stored,
        };
        chunks.map(entry).collect::<Vec<_>>()
    };
    assert_eq!(checkpoints.read_back(contents, entries()).await, Ok(()));
    let pack = &contents.packs[0];
    let sound = blobs.get_unverified(pack).await.unwrap();
    for at in [0, sound.len() / 2, sound.len() - 1] {
        let mut bytes = sound.to_vec();
        bytes[at] ^= 1;
        blobs.put(pack, bytes.into()).await.unwrap();
        let expected = Err(CheckpointError::Blobs(BlobError::Mismatch(pack.clone())));
        assert_eq!(checkpoints.read_back(contents, entries()).await, expected, "{at}");
    }
}
