//! Property tests: no sequence of events reaches an illegal state, loses the newest good checkpoint or lowers
//! the epoch.

use proptest::prelude::*;

use super::*;
use crate::{
    fit::HostNeeds,
    hash::ContentHash,
    id::{Epoch, Incarnation, JobId, NodeId, Owner, Timestamp},
    keys::QueueEntry,
    plan::PlanNote,
    spec::JobSpec,
};

fn record(retries: u32) -> JobRecord {
    let mut spec = JobSpec::new("test", vec!["true".to_owned()]);
    spec.retries = retries;
    JobRecord::submitted(JobId::new("job").unwrap(), Owner::new("me").unwrap(), spec, None, Timestamp::from_millis(1))
}

fn holder(epoch: u64, node: u8) -> Holder {
    Holder {
        node: NodeId::new(format!("node-{node}")).unwrap(),
        incarnation: Incarnation::new(format!("process-{node}")).unwrap(),
        epoch: Epoch(epoch),
    }
}

fn checkpoint(epoch: u64, seq: u64, log_bytes: u64) -> Checkpoint {
    Checkpoint {
        id: CheckpointId { epoch: Epoch(epoch), seq },
        mode: CheckpointMode::Full,
        manifest: Some(BlobRef { name: format!("m-{epoch}-{seq}"), hash: ContentHash::of(b"m"), len: 1 }),
        standing: Standing::Kept,
        at: Timestamp::from_millis(2),
        standstill_ms: 1,
        total_ms: 2,
        size_bytes: 3,
        uploaded_bytes: 4,
        run_ms: 5,
        log_bytes,
        needs: HostNeeds {
            arch: "x86_64".to_owned(),
            cpu: vec!["avx512_feature".to_owned(); 40],
            ..HostNeeds::default()
        },
        refused_by: Vec::new(),
        declined: Vec::new(),
    }
}

const AT: Timestamp = Timestamp::from_millis(9);

fn event() -> impl Strategy<Value = JobEvent> {
    let holders = (0u64..6, 0u8..2).prop_map(|(epoch, node)| holder(epoch, node));
    let outcomes = prop_oneof![
        Just(Outcome::Succeeded),
        Just(Outcome::Cancelled),
        Just(Outcome::Failed { failure: Failure::Exit { code: 3 } }),
    ];
    prop_oneof![
        4 => holders.clone().prop_map(|holder| JobEvent::Claimed { holder, at: AT }),
        1 => holders.clone().prop_map(|holder| JobEvent::Planned { holder, plan: PlanNote::default() }),
        1 => holders.clone().prop_map(|holder| JobEvent::Started { holder, at: AT, plan: None, note: None }),
        6 => (holders.clone(), 1u64..6, 0u64..100).prop_map(|(holder, seq, log)| {
            let checkpoint = checkpoint(holder.epoch.0, seq, log);
            JobEvent::CheckpointCommitted { holder, checkpoint }
        }),
        1 => holders.clone().prop_map(|holder| JobEvent::LogMerged { holder }),
        1 => holders.clone().prop_map(|holder| JobEvent::CheckpointFailed { holder, reason: "x".repeat(999) }),
        2 => (holders.clone(), 0u64..6, 1u64..6).prop_map(|(holder, epoch, seq)| JobEvent::FellBack {
            holder,
            bad: CheckpointId { epoch: Epoch(epoch), seq },
            reason: "hash differs".to_owned(),
        }),
        1 => Just(JobEvent::CancelRequested { at: AT }),
        1 => (holders.clone(), outcomes).prop_map(|(holder, outcome)| JobEvent::Finished {
            holder, at: AT, outcome, outputs: None, output_bytes: 0, log_bytes: 100,
        }),
        2 => holders.clone().prop_map(|holder| JobEvent::Released { holder, at: AT, reason: "drain".to_owned() }),
        2 => (holders.clone(), 0u64..6, 1u64..6, any::<bool>()).prop_map(|(holder, epoch, seq, fits)| {
            let (checkpoint, reason) = (CheckpointId { epoch: Epoch(epoch), seq }, "y".repeat(999));
            if fits {
                JobEvent::RestoreRefused { holder, at: AT, checkpoint, reason }
            } else {
                JobEvent::RestoreUnfit { holder, at: AT, checkpoint, reason }
            }
        }),
        1 => (0u64..6, 1u64..6).prop_map(|(epoch, seq)| JobEvent::NoNodeFits {
            checkpoint: CheckpointId { epoch: Epoch(epoch), seq },
            reason: "z".repeat(999),
        }),
        2 => holders.prop_map(|holder| JobEvent::NodeLost { holder, at: AT, reason: "node died".to_owned() }),
        1 => Just(JobEvent::RunOn { at: AT }),
    ]
}

fn check_invariants(before: &JobRecord, event: &JobEvent, after: &JobRecord) -> Result<(), TestCaseError> {
    prop_assert!(after.epoch >= before.epoch, "the epoch fell");
    prop_assert!(after.epoch <= before.epoch.next());
    if let JobState::Running { holder, .. } = &after.state {
        prop_assert_eq!(holder.epoch, after.epoch);
    }
    let kept = after.checkpoints.iter().filter(|c| c.standing == Standing::Kept).count();
    prop_assert!(kept <= KEPT_CHECKPOINTS);
    prop_assert!(after.checkpoints.is_sorted_by_key(|c| c.id));
    prop_assert!(after.checkpoints.iter().all(|c| c.manifest.is_some() != (c.standing == Standing::Dropped)));
    prop_assert!(after.checkpoints.len() <= CHECKPOINT_HISTORY && after.attempts.len() <= ATTEMPT_HISTORY);
    if let (Some(old), Some(new)) = (before.resume_point(), after.resume_point()) {
        let proved_bad = matches!(event, JobEvent::FellBack { bad, .. } if *bad == old.id);
        prop_assert!(new.id >= old.id || proved_bad, "a newer checkpoint was given up for an older one");
    }
    if before.resume_point().is_some() && after.resume_point().is_none() {
        let by_proof = matches!(event, JobEvent::FellBack { .. });
        let by_own_fault = after.retried > before.retried;
        let ended = matches!(&after.state, JobState::Finished { outcome, .. } if *outcome != Outcome::Lost);
        prop_assert!(by_proof || by_own_fault || ended, "the newest checkpoint was lost by {event:?}");
    }
    prop_assert!(after.checkpoints.iter().all(|c| c.declined.len() <= MAX_DECLINED));
    prop_assert!(after.log.is_sorted_by_key(|range| range.from));
    prop_assert_eq!(after.apply(event), Ok(after.clone()), "applied twice is not applied once");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_sequence_of_events_breaks_an_invariant(retries in 0u32..3, events in prop::collection::vec(event(), 1..60)) {
        let mut current = record(retries);
        for mut event in events {
            // Random claims would hardly ever hit the next epoch: aim most of them.
            if let JobEvent::Claimed { holder, .. } = &mut event && holder.epoch.0 % 3 > 0 {
                holder.epoch = current.epoch.next();
            }
            let aim = current.holder().cloned();
            if let (Some(aim), Some(at)) = (aim, aimed_holder(&mut event)) && at.epoch.0 % 4 > 0 {
                *at = aim;
            }
            if let JobEvent::CheckpointCommitted { holder, checkpoint } = &mut event {
                checkpoint.id.epoch = holder.epoch;
            }
            if let Ok(next) = current.apply(&event) {
                check_invariants(&current, &event, &next)?;
                current = next;
            }
        }
    }

    #[test]
    fn a_record_survives_its_written_form(events in prop::collection::vec(event(), 0..20)) {
        let mut current = record(1);
        for event in &events {
            current = current.apply(event).unwrap_or(current);
        }
        let written = serde_json::to_vec(&current).unwrap();
        prop_assert_eq!(serde_json::from_slice::<JobRecord>(&written).unwrap(), current);
    }
}

fn aimed_holder(event: &mut JobEvent) -> Option<&mut Holder> {
    match event {
        JobEvent::Started { holder, .. }
        | JobEvent::Planned { holder, .. }
        | JobEvent::LogMerged { holder }
        | JobEvent::CheckpointCommitted { holder, .. }
        | JobEvent::CheckpointFailed { holder, .. }
        | JobEvent::FellBack { holder, .. }
        | JobEvent::Finished { holder, .. }
        | JobEvent::Released { holder, .. }
        | JobEvent::RestoreRefused { holder, .. }
        | JobEvent::RestoreUnfit { holder, .. }
        | JobEvent::NodeLost { holder, .. } => Some(holder),
        _ => None,
    }
}

fn apply_all(record: JobRecord, events: &[JobEvent]) -> JobRecord {
    events.iter().fold(record, |record, event| record.apply(event).unwrap())
}

fn claimed(epoch: u64) -> JobEvent {
    JobEvent::Claimed { holder: holder(epoch, 0), at: AT }
}

fn lost(epoch: u64) -> JobEvent {
    JobEvent::NodeLost { holder: holder(epoch, 0), at: AT, reason: "node died".to_owned() }
}

fn committed(epoch: u64, seq: u64, log_bytes: u64) -> JobEvent {
    JobEvent::CheckpointCommitted { holder: holder(epoch, 0), checkpoint: checkpoint(epoch, seq, log_bytes) }
}

fn planned(epoch: u64, at: Timestamp, expected_finish_in_s: Option<f64>) -> JobEvent {
    let second = 123_456_789.123;
    let plan = PlanNote {
        at,
        next_in_s: Some(second),
        interval_s: Some(second),
        work_left_s: Some(second),
        expected_finish_in_s,
        reason: "x".repeat(crate::plan::note::MAX_REASON),
        ..PlanNote::default()
    };
    JobEvent::Planned { holder: holder(epoch, 0), plan }
}

#[test]
fn the_newest_plan_and_the_first_forecast_stay() {
    let at = |millis: u64| Timestamp::from_millis(1_000_000 + millis);
    let plans = [planned(1, at(0), None), planned(1, at(10), Some(2.5)), planned(1, at(20), Some(60.0))];
    let record = apply_all(apply_all(record(0), &[claimed(1)]), &plans);
    assert_eq!(record.forecast, Some(FirstForecast { at: at(10), end_at: at(2_510) }));
    assert_eq!(record.plan.as_ref().map(|plan| plan.at), Some(at(20)));
    let late = apply_all(record.clone(), &plans[..1]);
    assert_eq!(late, record, "an older plan that comes late changes nothing");
}

#[test]
fn a_lost_node_leads_back_to_the_newest_checkpoint() {
    let record = apply_all(record(0), &[claimed(1), committed(1, 1, 10), committed(1, 2, 20), lost(1), claimed(2)]);
    let newest = CheckpointId { epoch: Epoch(1), seq: 2 };
    let start = &record.attempts.last().unwrap().start;
    assert!(matches!(start, Start::Checkpoint { id, mode: CheckpointMode::Full, .. } if *id == newest), "{start:?}");
    assert_eq!(record.log, [LogRange { epoch: Epoch(1), from: 0 }, LogRange { epoch: Epoch(2), from: 20 }]);
}

#[test]
fn a_bad_checkpoint_steps_down_to_the_one_before_and_then_to_a_clean_start() {
    let fell_back = |seq| JobEvent::FellBack {
        holder: holder(2, 0),
        bad: CheckpointId { epoch: Epoch(1), seq },
        reason: "hash differs, ".repeat(50),
    };
    let record = apply_all(record(0), &[claimed(1), committed(1, 1, 10), committed(1, 2, 20), lost(1), claimed(2)]);
    let record = apply_all(record, &[fell_back(2)]);
    assert_eq!(record.resume_point().unwrap().id.seq, 1);
    assert_eq!(record.log.last().unwrap().from, 10);
    let record = apply_all(record, &[fell_back(1)]);
    assert_eq!(record.resume_point(), None);
    assert_eq!(record.log, [LogRange { epoch: Epoch(2), from: 0 }]);
    let attempt = record.attempts.last().unwrap();
    assert_eq!(attempt.start, Start::Clean);
    assert_eq!(attempt.notes.len(), 2, "every step is told: {:?}", attempt.notes);
    assert!(attempt.notes[0].ends_with("; fell back to checkpoint 1-1"), "{:?}", attempt.notes);
    assert_eq!(record.named_checkpoints().count(), 2, "bad ones stay named until two newer good ones exist");
    let record = apply_all(record, &[committed(2, 1, 5), committed(2, 2, 6), committed(2, 3, 7)]);
    assert_eq!(record.named_checkpoints().count(), KEPT_CHECKPOINTS);
}

#[test]
fn a_node_fault_never_counts_against_the_job_until_the_limit() {
    let mut current = record(0);
    for epoch in 1..u64::from(MAX_CONSECUTIVE_LOSSES) {
        current = apply_all(current, &[claimed(epoch), lost(epoch)]);
    }
    let epoch = u64::from(MAX_CONSECUTIVE_LOSSES);
    let saved = apply_all(current.clone(), &[claimed(epoch), committed(epoch, 1, 1), lost(epoch)]);
    assert!(matches!(saved.state, JobState::Queued { .. }), "a newer checkpoint starts the count anew");
    let ended = apply_all(current, &[claimed(epoch), lost(epoch)]);
    assert!(matches!(ended.state, JobState::Finished { outcome: Outcome::Lost, .. }));
    let again = apply_all(ended, &[JobEvent::RunOn { at: AT }, claimed(epoch + 1)]);
    assert!(again.holder().is_some());
}

#[test]
fn a_late_writer_is_fenced() {
    let record = apply_all(record(0), &[claimed(1), lost(1), claimed(2)]);
    for event in [committed(1, 1, 1), JobEvent::Started { holder: holder(1, 0), at: AT, plan: None, note: None }] {
        assert_eq!(record.apply(&event), Err(IllegalEvent::Fenced { epoch: Epoch(1) }));
    }
    let mut imposter = holder(2, 1);
    imposter.epoch = Epoch(2);
    let event = JobEvent::Started { holder: imposter, at: AT, plan: None, note: None };
    assert_eq!(record.apply(&event), Err(IllegalEvent::Fenced { epoch: Epoch(2) }));
}

#[test]
fn a_cancelled_job_does_not_come_back() {
    let cancel = JobEvent::CancelRequested { at: AT };
    let queued = apply_all(record(0), std::slice::from_ref(&cancel));
    assert!(matches!(queued.state, JobState::Finished { outcome: Outcome::Cancelled, .. }));
    let lost_after = apply_all(record(0), &[claimed(1), committed(1, 1, 1), cancel, lost(1)]);
    assert!(matches!(lost_after.state, JobState::Finished { outcome: Outcome::Cancelled, .. }));
}

#[test]
fn a_retry_starts_clean_and_keeps_the_log() {
    let failed = JobEvent::Finished {
        holder: holder(1, 0),
        at: AT,
        outcome: Outcome::Failed { failure: Failure::Exit { code: 1 } },
        outputs: None,
        output_bytes: 0,
        log_bytes: 30,
    };
    let record = apply_all(record(1), &[claimed(1), committed(1, 1, 10), failed, claimed(2)]);
    assert_eq!(record.attempts.last().unwrap().start, Start::Clean);
    assert_eq!(record.log, [LogRange { epoch: Epoch(1), from: 0 }, LogRange { epoch: Epoch(2), from: 30 }]);
}

/// Queued, with a checkpoint that is newest, and claimed anew.
fn about_to_resume(node: u8) -> JobRecord {
    let claimed_by = JobEvent::Claimed { holder: holder(2, node), at: AT };
    apply_all(record(0), &[claimed(1), committed(1, 1, 10), committed(1, 2, 20), lost(1), claimed_by])
}

#[test]
fn a_node_that_does_not_fit_costs_the_job_nothing_and_is_left_out_while_it_lives() {
    let checkpoint = CheckpointId { epoch: Epoch(1), seq: 2 };
    let reason = "/usr/bin/python3 has other contents here".to_owned();
    let unfit = JobEvent::RestoreUnfit { holder: holder(2, 1), at: AT, checkpoint, reason: reason.clone() };
    let before = about_to_resume(1);
    let record = apply_all(before.clone(), std::slice::from_ref(&unfit));
    assert_eq!((record.state.name(), record.losses, record.totals.losses), ("queued", before.losses, 1));
    let point = record.resume_point().unwrap();
    assert_eq!((point.id, point.refused_by.len(), point.declined[0].reason.as_str()), (checkpoint, 0, &*reason));
    let resume = QueueEntry::of(&record).resume.unwrap();
    assert_eq!((resume.checkpoint, resume.avoid), (checkpoint, vec![holder(2, 1).incarnation]));
    assert!(resume.memory && resume.needs == point.needs);
    assert_eq!(apply_all(record.clone(), &[unfit]), record, "told twice");
    let notes = &record.attempts.last().unwrap().notes;
    assert_eq!(notes.last().unwrap(), &format!("released: checkpoint 1-2 cannot be resumed here: {reason}"));
}

#[test]
fn a_job_that_no_node_fits_says_so_while_it_is_queued() {
    let fits_none = |seq| JobEvent::NoNodeFits {
        checkpoint: CheckpointId { epoch: Epoch(1), seq },
        reason: "a: its processor lacks avx2".to_owned(),
    };
    let running = about_to_resume(0);
    assert!(matches!(running.apply(&fits_none(2)), Err(IllegalEvent::WrongState { .. })));
    let queued = apply_all(running, &[lost(2)]);
    assert!(queued.apply(&fits_none(1)).is_err(), "another checkpoint is its newest by now");
    let told = apply_all(queued.clone(), &[fits_none(2)]);
    let JobState::Queued { reason, .. } = &told.state else { panic!("{:?}", told.state) };
    assert_eq!(reason.as_deref(), Some("a: its processor lacks avx2"));
    assert_eq!(QueueEntry::of(&told), QueueEntry::of(&queued));
    assert_eq!(apply_all(told.clone(), &[fits_none(2)]), told);
}

#[test]
fn a_record_of_before_needs_were_noted_asks_for_nothing_but_memory() {
    let mut written = serde_json::to_value(apply_all(about_to_resume(0), &[lost(2)])).unwrap();
    for checkpoint in written["checkpoints"].as_array_mut().unwrap() {
        checkpoint.as_object_mut().unwrap().remove("needs").unwrap();
    }
    let record: JobRecord = serde_json::from_value(written).unwrap();
    let resume = QueueEntry::of(&record).resume.unwrap();
    assert_eq!((resume.needs, resume.memory, resume.avoid.len()), (HostNeeds::default(), true, 0));
}

#[test]
fn a_record_stays_small_whatever_happens() {
    let reason = "x".repeat(10 * MAX_REASON_LEN);
    let mut current = record(0);
    for epoch in 1..=40 {
        current = apply_all(current, &[claimed(epoch)]);
        if current.log.len() > MAX_LOG_RANGES {
            current = apply_all(current, &[JobEvent::LogMerged { holder: holder(epoch, 0) }]);
        }
        for seq in 1..=4 {
            current = apply_all(current, &[committed(epoch, seq, epoch * 10 + seq)]);
        }
        let failed = JobEvent::CheckpointFailed { holder: holder(epoch, 0), reason: reason.clone() };
        let released = JobEvent::Released { holder: holder(epoch, 0), at: AT, reason: reason.clone() };
        current = apply_all(current, &[failed, planned(epoch, AT, Some(1e9)), released]);
    }
    for (epoch, node) in (41..=60).zip(0..) {
        let checkpoint = current.resume_point().unwrap().id;
        let holder = holder(epoch, node);
        let claimed = JobEvent::Claimed { holder: holder.clone(), at: AT };
        let unfit = JobEvent::RestoreUnfit { holder, at: AT, checkpoint, reason: reason.clone() };
        current = apply_all(current, &[claimed, unfit, JobEvent::NoNodeFits { checkpoint, reason: reason.clone() }]);
    }
    let len = serde_json::to_vec(&current).unwrap().len();
    assert!(len < 8 << 10, "{len} bytes");
}
