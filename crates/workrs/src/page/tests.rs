//! Jobs that tests draw.

use workrs_core::{
    hash::ContentHash,
    id::{Epoch, Incarnation, JobId, NodeId, Owner, Timestamp},
    job::{BlobRef, Checkpoint, CheckpointId, CheckpointMode, Holder, JobEvent, JobRecord, Outcome, Standing},
    spec::JobSpec,
};

use crate::api::JobView;

/// A job that was saved twice, lost its node, went on elsewhere, and succeeded. Its times are in seconds from 0.
pub(super) fn eventful() -> JobView {
    let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
    let holder = |node: &str, epoch| Holder {
        node: NodeId::new(node).unwrap(),
        incarnation: Incarnation::new(format!("{node}-process")).unwrap(),
        epoch: Epoch(epoch),
    };
    let checkpoint = |seq, seconds, standstill_ms, run_ms| JobEvent::CheckpointCommitted {
        holder: holder("barn-1", 1),
        checkpoint: Checkpoint {
            id: CheckpointId { epoch: Epoch(1), seq },
            mode: CheckpointMode::Full,
            manifest: Some(BlobRef { name: format!("m{seq}"), hash: ContentHash::of(b"m"), len: 1 }),
            standing: Standing::Kept,
            at: at(seconds),
            standstill_ms,
            total_ms: 900,
            size_bytes: 50 << 20,
            uploaded_bytes: 3 << 20,
            run_ms,
            log_bytes: 100,
            needs: workrs_core::fit::HostNeeds::default(),
            refused_by: Vec::new(),
            declined: Vec::new(),
        },
    };
    let events = [
        JobEvent::Claimed { holder: holder("barn-1", 1), at: at(0) },
        JobEvent::Started { holder: holder("barn-1", 1), at: at(1), plan: None, note: None },
        checkpoint(1, 30, 200, 29_000),
        checkpoint(2, 60, 150, 58_000),
        JobEvent::NodeLost { holder: holder("barn-1", 1), at: at(70), reason: "node barn-1 died".into() },
        JobEvent::Claimed { holder: holder("barn-2", 2), at: at(75) },
        JobEvent::Started { holder: holder("barn-2", 2), at: at(76), plan: None, note: None },
        JobEvent::Finished {
            holder: holder("barn-2", 2),
            at: at(100),
            outcome: Outcome::Succeeded,
            outputs: None,
            output_bytes: 0,
            log_bytes: 250,
        },
    ];
    let id = JobId::new("job-1").unwrap();
    let spec = JobSpec::new("train.py", vec!["python3".into(), "./train.py".into()]);
    let record = JobRecord::submitted(id, Owner::new("local").unwrap(), spec, None, at(0));
    JobView::from(&events.iter().fold(record, |record, event| record.apply(event).unwrap()))
}
