//! What the next checkpoint of a running job can build on, so that it costs only what changed.

use std::{collections::BTreeMap, sync::Arc};

use workrs_core::{manifest::Manifest, ranges::ByteRanges};
use workrs_store::checkpoints::{Base, PartSource};

/// The newest checkpoint that is committed, and what the captures since then say of the job's images.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    base: Option<Base>,
    /// By image: where it may differ from the base's; `None` means anywhere. Images that no capture named since then
    /// are as the base has them.
    changed: BTreeMap<String, Option<ByteRanges>>,
}

impl Lineage {
    /// Of a job that was restored from this checkpoint.
    pub(super) fn of(manifest: Arc<Manifest>) -> Self {
        Self { base: Some(Base::new(manifest)), changed: BTreeMap::new() }
    }

    pub(super) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Notes a capture: its images, which say how they differ from the capture before, now say it of the base. Every
    /// capture that the engine made has to pass through here, also one that comes to nothing afterwards.
    pub(super) fn note_capture(&mut self, parts: &mut [PartSource]) {
        for part in parts {
            if let PartSource::Image { name, changed, .. } = part {
                let before = self.changed.get(name).cloned().unwrap_or_else(|| Some(ByteRanges::new()));
                let since_base = before.zip(changed.take()).map(|(before, changed)| before.union(&changed));
                self.changed.insert(name.clone(), since_base.clone());
                *changed = since_base;
            }
        }
    }

    /// Notes that the newest capture was committed.
    pub(super) fn note_commit(&mut self, base: Base) {
        self.base = Some(base);
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a capture says that the disk changed, and what comes of it: beginnings and ends.
    type Changed<'a> = Option<&'a [(u64, u64)]>;

    fn capture(lineage: &mut Lineage, changed: Changed<'_>, expect: Changed<'_>) {
        let ranges = |changed: Changed<'_>| changed.map(|list| list.iter().map(|(start, end)| *start..*end).collect());
        let mut parts = [PartSource::Image { name: "disk".into(), path: "/disk".into(), changed: ranges(changed) }];
        lineage.note_capture(&mut parts);
        let [PartSource::Image { changed, .. }] = parts else { unreachable!() };
        assert_eq!(changed, ranges(expect));
    }

    #[test]
    fn changes_add_up_until_a_checkpoint_is_committed() {
        let base = || {
            let json = serde_json::json!({
                "version": 1, "job": "j", "id": { "epoch": 1, "seq": 1 }, "mode": "full", "run_ms": 0, "log_bytes": 0,
                "needs": { "engine": "fake", "format": 1, "arch": "x86_64" }, "packs": [], "parts": [],
            });
            Base::new(Arc::new(serde_json::from_value(json).unwrap()))
        };
        let mut lineage = Lineage::default();
        capture(&mut lineage, Some(&[(0, 4)]), Some(&[(0, 4)]));
        // The first was not committed.
        capture(&mut lineage, Some(&[(8, 9)]), Some(&[(0, 4), (8, 9)]));
        lineage.note_commit(base());
        capture(&mut lineage, Some(&[(2, 3)]), Some(&[(2, 3)]));
        capture(&mut lineage, None, None);
        // Nobody knows what the one before changed.
        capture(&mut lineage, Some(&[(2, 3)]), None);
        lineage.note_commit(base());
        capture(&mut lineage, Some(&[]), Some(&[]));
    }
}
