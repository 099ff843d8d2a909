//! Queued jobs whose checkpoint fits no live node: how long they have waited for one, and the word of it in their records.
//!
//! Each node counts the wait by its own clock, from when it first saw that no node fits; a node that fits ends the count, seen
//! as such or by having taken the job. So no clocks are compared, and the first node whose count is over takes the job and gives
//! the checkpoint up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::Instant;
use workrs_core::{
    fit,
    id::{Epoch, JobId, NodeId},
    job::{CheckpointId, JobEvent, JobRecord, JobState},
    keys::{QueueEntry, Resume},
    spec::format_duration,
};
use workrs_store::{fresh, records::RecordError};

use super::{Shared, members::Member, queue::Waiting};

/// Counts of jobs that were not seen in the queue for this long are forgotten.
const FORGET: Duration = Duration::from_secs(5 * 60);

/// Jobs that wait for a node that fits their checkpoint.
#[derive(Debug, Default)]
pub(super) struct Nowhere(Mutex<HashMap<JobId, Count>>);

#[derive(Debug)]
struct Count {
    of: Of,
    /// When this node first saw that no node fits.
    since: Instant,
    /// When it last saw that.
    seen: Instant,
    /// What this node has put into the job's record.
    said: Option<Misfits>,
}

/// What is waited with, and since which attempt.
type Of = (CheckpointId, Epoch);

fn of(resume: &Resume) -> Of {
    (resume.checkpoint, resume.epoch)
}

/// Which nodes cannot resume a job, and why not, in the order of their names.
type Misfits = Vec<(NodeId, String)>;

impl Nowhere {
    fn counts(&self) -> MutexGuard<'_, HashMap<JobId, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the job is to wait yet for a node that fits its checkpoint; `None` if such a node lives, full or not.
    pub(super) fn left(&self, waiting: &Waiting, members: &[Arc<Member>], patience: Duration) -> Option<Duration> {
        let of = of(waiting.entry.resume.as_ref()?);
        let mut counts = self.counts();
        if members.iter().any(|member| member.could_run(&waiting.entry)) {
            counts.remove(&waiting.job);
            return None;
        }
        let now = Instant::now();
        let begun = || Count { of, since: now, seen: now, said: None };
        let count = counts.entry(waiting.job.clone()).or_insert_with(begun);
        if count.of != of {
            *count = begun();
        }
        count.seen = now;
        Some(patience.saturating_sub(now.duration_since(count.since)))
    }

    /// Whether the job has waited long enough for a node that fits the checkpoint which it would go on from.
    pub(super) fn is_over(&self, job: &JobId, entry: &QueueEntry, patience: Duration) -> bool {
        let of = entry.resume.as_ref().map(of);
        let is_it = |count: &&Count| Some(count.of) == of;
        self.counts().get(job).filter(is_it).is_some_and(|count| count.since.elapsed() >= patience)
    }

    fn forget_old(&self) {
        self.counts().retain(|_, count| count.seen.elapsed() < FORGET);
    }

    fn has_said(&self, job: &JobId, misfits: &Misfits) -> bool {
        self.counts().get(job).is_some_and(|count| count.said.as_ref() == Some(misfits))
    }

    fn note_said(&self, job: &JobId, misfits: Misfits) {
        if let Some(count) = self.counts().get_mut(job) {
            count.said = Some(misfits);
        }
    }
}

/// What is to be told of a job in its record.
pub(super) struct Word {
    job: JobId,
    checkpoint: CheckpointId,
    misfits: Misfits,
}

/// Holds queued jobs against the live nodes. Gives the time until the first of those that fit none has waited long enough,
/// and what is to be told of them, of each by the node that `is_first` of those who watch it.
pub(super) fn look<'a>(
    shared: &Shared,
    jobs: impl Iterator<Item = &'a Waiting>,
    is_first: impl Fn(&Waiting) -> bool,
) -> (Option<Duration>, Vec<Word>) {
    let (members, patience) = (shared.members.now(), shared.config.unfit_wait);
    let mut soonest: Option<Duration> = None;
    let mut words = Vec::new();
    for waiting in jobs {
        let Waiting { job, entry, .. } = waiting;
        let Some(left) = shared.nowhere.left(waiting, &members, patience) else { continue };
        if !left.is_zero() {
            soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
        }
        let Some(resume) = entry.resume.as_ref().filter(|_| is_first(waiting)) else { continue };
        let misfits = misfits(&members, entry);
        if !shared.nowhere.has_said(job, &misfits) {
            words.push(Word { job: job.clone(), checkpoint: resume.checkpoint, misfits });
        }
    }
    shared.nowhere.forget_old();
    (soonest, words)
}

/// Puts into the jobs' records why they wait.
pub(super) async fn say(shared: &Arc<Shared>, words: Vec<Word>, at_once: usize) {
    let said = stream::iter(words).map(|word| say_one(shared, word));
    said.buffer_unordered(at_once).collect::<()>().await;
}

async fn say_one(shared: &Arc<Shared>, word: Word) {
    let Word { job, checkpoint, misfits } = word;
    let members = shared.members.now();
    let patience = format_duration(shared.config.unfit_wait);
    let choose = |record: &JobRecord| {
        let is_it = matches!(record.state, JobState::Queued { .. })
            && record.resume_point().is_some_and(|point| point.id == checkpoint);
        let reason = fit::why_it_waits(checkpoint, &misfits_of(&members, record), &patience);
        is_it.then(|| (JobEvent::NoNodeFits { checkpoint, reason }, Vec::new()))
    };
    match shared.records.decide(&job, choose, &fresh::operation()).await {
        Ok(_) | Err(RecordError::NotFound | RecordError::Illegal(_)) => shared.nowhere.note_said(&job, misfits),
        Err(error) => tracing::warn!(%job, %error, "cannot say yet why the job waits"),
    }
}

/// Which nodes cannot run the job from its checkpoint on.
fn misfits(members: &[Arc<Member>], entry: &QueueEntry) -> Misfits {
    members.iter().filter_map(|member| Some((member.node.clone(), member.why_not(entry)?))).collect()
}

/// The same in the words of those that looked closer than others can.
pub(super) fn misfits_of(members: &[Arc<Member>], record: &JobRecord) -> Misfits {
    let declined = record.resume_point().map_or(&[][..], |point| &point.declined);
    let entry = QueueEntry::of(record);
    let in_words = |member: &Arc<Member>| {
        let known = declined.iter().find(|declined| declined.incarnation == member.incarnation);
        let why_not = member.why_not(&entry)?;
        Some((member.node.clone(), known.map_or(why_not, |declined| declined.reason.clone())))
    };
    members.iter().filter_map(in_words).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use workrs_core::{
        fit::HostNeeds,
        spec::{JobSpec, Network},
    };

    use super::*;

    fn waiting(epoch: u64) -> Waiting {
        let spec = JobSpec::new("test", vec!["true".to_owned()]);
        let resume = Resume {
            checkpoint: CheckpointId { epoch: Epoch(1), seq: 1 },
            epoch: Epoch(epoch),
            memory: true,
            needs: HostNeeds::default(),
            avoid: Vec::new(),
        };
        let entry = QueueEntry {
            owner: None,
            cpus_milli: spec.cpus_milli,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
            constraints: BTreeMap::new(),
            network: Network::default(),
            image: false,
            arch: None,
            resume: Some(resume),
        };
        Waiting { job: JobId::new("job").unwrap(), entry, hash: 0, shard: 0, priority: 5, seen: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_was_taken_since_waits_anew() {
        let nowhere = Nowhere::default();
        let patience = Duration::from_secs(100);
        let left = |epoch| nowhere.left(&waiting(epoch), &[], patience).unwrap();
        assert_eq!(left(1), patience);
        tokio::time::sleep(patience).await;
        let is_over = |epoch| nowhere.is_over(&JobId::new("job").unwrap(), &waiting(epoch).entry, patience);
        assert!(left(1).is_zero() && is_over(1));
        // It was taken and given back between two looks at the queue.
        assert!(!is_over(2));
        assert_eq!(left(2), patience);
        assert!(!is_over(2));
    }
}
