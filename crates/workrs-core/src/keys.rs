//! Where records and their indexes stand in the state store, and where blobs lie.
//!
//! ```text
//! jobs/<job>                                        the record
//! queue/<shard>/<priority>/<submitted>/<job>        a queued job: what placement needs
//! running/<incarnation>/<job>                       a running job
//! owner/<owner>/<job>                               every job
//! finished/<when>/<job>                             a finished job, in the order of its end
//! archived/<when>/<job>                             the same, once its record lies in a blob
//! cleanup/<job>                                     a finished job whose blobs are not tidied up yet
//! nodes/<node>/<incarnation>                        a live node process, under its lease
//! drains/<node>                                     stands while the node is to take no jobs
//! drills/<node>                                     the newest fault drill that the node was asked for
//! group/id, group/version, group/housekeeping       what all nodes share
//! faults/<node>                                     how long the node was up and how often it died
//! run-times/<owner>/<hash of a job name>            how long the last jobs of that name ran
//! images/<digits>                                   an image that the group has
//! images-condemned/<digits>                         the same, once it is about to go
//! image-names/<name>                                which image a name means
//! image-use/<digits>/<job>                          a job that runs in an image, or may yet
//! images-collection                                 whether blobs of images are being removed
//! tokens/<token>                                    what a caller's token allows, and a hash of it
//! quotas/<owner>                                    what an owner may have at the most
//! quotas-of-others                                  the same, for owners who have none of their own
//! quota-turn/<owner>                                changes whenever a job of an owner with a quota is claimed
//! running-of/<owner>/<job>                          a running job: what it takes of its owner's quota
//! audit/<id>                                        who changed what, or was refused; ids sort by time
//! ```
//! A record and its index keys change in one transaction: [`index_keys`] is what must stand, no more and no less. The
//! values of those of owners, running and ended jobs say what lists show ([`index`](crate::index)).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fit::HostNeeds,
    hash::ContentHash,
    id::{Epoch, Incarnation, JobId, NodeId, OperationId, Owner, Timestamp, TokenId},
    image::ImageDigest,
    index::{EndNote, JobNote, RunNote},
    job::{CheckpointId, CheckpointMode, JobRecord, JobState, Outcome},
    quota::Share,
    spec::{JobSpec, Network},
};

/// The queue is cut into this many parts, so that nobody has to watch all of it.
pub const QUEUE_SHARDS: u8 = 64;
/// All records stand below this.
pub const JOBS: &str = "jobs/";
/// All queue entries stand below this.
pub const QUEUE: &str = "queue/";
/// All live nodes stand below this.
pub const NODES: &str = "nodes/";
/// All index entries of running jobs stand below this.
pub const RUNNING: &str = "running/";
/// All jobs stand below this, by their owners.
pub const OWNERS: &str = "owner/";
/// All finished jobs stand below this, the oldest first.
pub const FINISHED: &str = "finished/";
/// Finished jobs whose records lie in blobs stand below this, the oldest first.
pub const ARCHIVED: &str = "archived/";
/// Finished jobs whose blobs are not tidied up yet stand below this.
pub const CLEANUP: &str = "cleanup/";
/// The group's id, which its blobs have, too.
pub const GROUP_ID: &str = "group/id";
/// The version of what the group writes; a node that does not know it must not join.
pub const GROUP_VERSION: &str = "group/version";
/// Who does what one node does for all, and since when.
pub const HOUSEKEEPING: &str = "group/housekeeping";
/// Below this stand the nodes that are to take no jobs and to give back those that they have.
pub const DRAINS: &str = "drains/";
/// What is known of nodes' faults stands below this.
pub const FAULTS: &str = "faults/";

/// All images of the group stand below this.
pub const IMAGES: &str = "images/";
/// Images that are about to go stand below this: no job may be handed over for them any more.
pub const IMAGES_CONDEMNED: &str = "images-condemned/";
/// The names of images stand below this.
pub const IMAGE_NAMES: &str = "image-names/";
/// Jobs that run in an image, or may yet, stand below this.
pub const IMAGE_USES: &str = "image-use/";
/// Whether blobs of images are being removed. Who relies on a blob that was there already relies on this not to change.
pub const IMAGES_COLLECTION: &str = "images-collection";
/// The parts of images lie below this, one blob a digest for the whole group.
pub const IMAGE_BLOBS: &str = "images/sha256/";

/// All tokens stand below this.
pub const TOKENS: &str = "tokens/";

/// The key of a token.
pub fn token(id: &TokenId) -> String {
    format!("{TOKENS}{id}")
}

/// The quotas of single owners stand below this.
pub const QUOTAS: &str = "quotas/";
/// The key of the quota of those who have none of their own.
pub const QUOTA_OF_OTHERS: &str = "quotas-of-others";
/// All quotas, whoever's they are, begin with this.
pub const ALL_QUOTAS: &str = "quotas";

/// The key of an owner's quota.
pub fn quota(owner: &Owner) -> String {
    format!("{QUOTAS}{owner}")
}

/// The key that changes whenever a job of an owner with a quota is claimed.
pub fn quota_turn(owner: &Owner) -> String {
    format!("quota-turn/{owner}")
}

/// Below this stands what each running job takes of its owner's quota.
pub fn running_of(owner: &Owner) -> String {
    format!("running-of/{owner}/")
}

/// Who did what stands below this, the oldest first.
pub const AUDIT: &str = "audit/";

/// Below this stand all jobs of an owner.
pub fn owned(owner: &Owner) -> String {
    format!("{OWNERS}{owner}/")
}

/// The key that stands while a job is its owner's.
pub fn owned_job(owner: &Owner, id: &JobId) -> String {
    format!("{}{id}", owned(owner))
}

/// The key of an image.
pub fn image(digest: &ImageDigest) -> String {
    format!("{IMAGES}{}", digest.digits())
}

/// The key of an image that is about to go.
pub fn condemned_image(digest: &ImageDigest) -> String {
    format!("{IMAGES_CONDEMNED}{}", digest.digits())
}

/// The key of an image's name. References have no characters that a key cannot have.
pub fn image_name(name: &str) -> String {
    format!("{IMAGE_NAMES}{name}")
}

/// Below this stand the jobs that run in an image, or may yet.
pub fn image_uses(digest: &ImageDigest) -> String {
    format!("{IMAGE_USES}{}/", digest.digits())
}

/// The image in a key below [`IMAGES`], [`IMAGES_CONDEMNED`] or [`IMAGE_USES`].
pub fn image_of(key: &str) -> Option<ImageDigest> {
    let digits = key.split('/').nth(1)?;
    ImageDigest::new(format!("{}{digits}", ImageDigest::PREFIX)).ok()
}

/// The blob of an image's part: a manifest, a configuration or a layer.
pub fn image_blob(digest: &ImageDigest) -> String {
    format!("{IMAGE_BLOBS}{}", digest.digits())
}

/// The part of an image that a blob holds, from its name.
pub fn image_part_of(name: &str) -> Option<ImageDigest> {
    ImageDigest::new(format!("{}{}", ImageDigest::PREFIX, name.strip_prefix(IMAGE_BLOBS)?)).ok()
}

/// The key of what is known of a node's faults.
pub fn faults(node: &NodeId) -> String {
    format!("{FAULTS}{node}")
}

/// The key of how long the last successful jobs of a name ran.
pub fn run_times(owner: &Owner, name: &str) -> String {
    format!("run-times/{owner}/{}", ContentHash::of(name.as_bytes()))
}

/// The key of a job's record.
pub fn job(id: &JobId) -> String {
    format!("{JOBS}{id}")
}

/// The key that stands while a node is to take no jobs.
pub fn drain(node: &NodeId) -> String {
    format!("{DRAINS}{node}")
}

/// The key of the newest fault drill that a node was asked for.
pub fn drill(node: &NodeId) -> String {
    format!("drills/{node}")
}

/// The key of a node's process.
pub fn node(node: &NodeId, incarnation: &Incarnation) -> String {
    format!("{NODES}{node}/{incarnation}")
}

/// Below this stand the live processes of a node.
pub fn processes(node: &NodeId) -> String {
    format!("{NODES}{node}/")
}

/// The node in a key below [`NODES`].
pub fn node_of(key: &str) -> Option<NodeId> {
    NodeId::new(key.strip_prefix(NODES)?.split('/').next()?).ok()
}

/// Below this stand the queued jobs of one part of the queue.
pub fn queue_shard(shard: u8) -> String {
    format!("{QUEUE}{shard:02}/")
}

/// When the job of a key below [`FINISHED`] or [`ARCHIVED`] ended.
pub fn finished_at(key: &str) -> Option<Timestamp> {
    let rest = key.strip_prefix(FINISHED).or_else(|| key.strip_prefix(ARCHIVED))?;
    rest.split('/').next()?.parse().ok().map(Timestamp::from_millis)
}

/// The index keys that stand while a job's record lies in a blob; their values, if the record is at hand.
pub fn archived_index_keys(
    id: &JobId,
    owner: &Owner,
    finished_at: Timestamp,
    record: Option<&JobRecord>,
) -> BTreeMap<String, serde_json::Value> {
    let archived = format!("{ARCHIVED}{:015}/{id}", finished_at.as_millis());
    let (note, end) = (record.map(JobNote::of), record.and_then(EndNote::of));
    BTreeMap::from([(owned_job(owner, id), value(note.as_ref())), (archived, value(end.as_ref()))])
}

/// The owner in a key below [`OWNERS`].
pub fn owner_of(key: &str) -> Option<Owner> {
    Owner::new(key.strip_prefix(OWNERS)?.split('/').next()?).ok()
}

/// What an index entry says.
fn value<T: Serialize>(note: Option<&T>) -> serde_json::Value {
    note.and_then(|note| serde_json::to_value(note).ok()).unwrap_or_else(|| serde_json::json!({}))
}

/// Below this stand the jobs that a process runs.
pub fn running(incarnation: &Incarnation) -> String {
    format!("{RUNNING}{incarnation}/")
}

/// The job that an index key is about: its last component.
pub fn job_of_index(key: &str) -> Option<JobId> {
    JobId::new(key.rsplit('/').next()?).ok()
}

/// The incarnation in a key below [`RUNNING`] or [`NODES`].
pub fn incarnation_of(key: &str) -> Option<Incarnation> {
    let mut parts = key.split('/');
    let text = match parts.next()? {
        "running" => parts.next()?,
        "nodes" => parts.nth(1)?,
        _ => return None,
    };
    Incarnation::new(text).ok()
}

/// What placement needs to know of a queued job, kept in the value of its queue key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Whose it is. Nothing in entries of before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Processor time asked for, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory asked for.
    pub memory_bytes: u64,
    /// Disk asked for.
    pub disk_bytes: u64,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constraints: BTreeMap<String, String>,
    /// What of the network a node must allow.
    #[serde(default, skip_serializing_if = "Network::is_none")]
    pub network: Network,
    /// Whether it runs in an image, which not every version can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub image: bool,
    /// The processor architecture that its image is for, in Rust's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// What it needs to go on from its checkpoint, if it needs more than the above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// What placement needs to know of the checkpoint that a queued job goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Which one.
    pub checkpoint: CheckpointId,
    /// Of the job's last attempt: once a node has taken the job, it begins anew to wait for one. 0 in entries of before this
    /// was noted.
    #[serde(default)]
    pub epoch: Epoch,
    /// Whether it holds memory, which not every node can restore.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
    /// What it needs of a node.
    pub needs: HostNeeds,
    /// Processes that cannot restore it for reasons which only they can see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<Incarnation>,
}

impl Resume {
    /// Of a job that goes on from a checkpoint which not every node can be asked for.
    fn of(record: &JobRecord) -> Option<Self> {
        let point = record.resume_point()?;
        let memory = point.mode == CheckpointMode::Full;
        let is_special = memory || point.needs != HostNeeds::default() || !point.declined.is_empty();
        is_special.then(|| Self {
            checkpoint: point.id,
            epoch: record.epoch,
            memory,
            needs: point.needs.clone(),
            avoid: point.declined.iter().map(|declined| declined.incarnation.clone()).collect(),
        })
    }
}

impl QueueEntry {
    /// What placement would have to know of the job if it were queued as it stands.
    pub fn of(record: &JobRecord) -> Self {
        Self { resume: Resume::of(record), ..Self::fresh(&record.owner, &record.spec) }
    }

    /// The same of a job that has not run yet.
    pub fn fresh(owner: &Owner, spec: &JobSpec) -> Self {
        Self {
            owner: Some(owner.clone()),
            cpus_milli: spec.cpus_milli,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
            constraints: spec.constraints.clone(),
            network: spec.network,
            image: spec.image_digest.is_some(),
            arch: spec.image_arch.clone(),
            resume: None,
        }
    }
}

/// The index keys that stand while `record` stands as it is, with their values.
pub fn index_keys(record: &JobRecord) -> BTreeMap<String, serde_json::Value> {
    let mut keys = BTreeMap::from([(owned_job(&record.owner, &record.id), value(Some(&JobNote::of(record))))]);
    if let Some(image) = record.spec.image_digest.as_ref().filter(|_| may_run(&record.state)) {
        keys.insert(format!("{}{}", image_uses(image), record.id), serde_json::json!({}));
    }
    match &record.state {
        JobState::Queued { .. } => {
            let key = format!(
                "{}{}/{:015}/{}",
                queue_shard(shard(&record.id)),
                record.spec.priority,
                record.submitted_at.as_millis(),
                record.id
            );
            keys.insert(key, serde_json::to_value(QueueEntry::of(record)).unwrap_or_default());
        }
        JobState::Running { holder, .. } => {
            let note = RunNote { node: holder.node.clone() };
            keys.insert(format!("{}{}", running(&holder.incarnation), record.id), value(Some(&note)));
            let share = Share { cpus_milli: record.spec.cpus_milli, memory_bytes: record.spec.memory_bytes };
            let key = format!("{}{}", running_of(&record.owner), record.id);
            keys.insert(key, serde_json::to_value(share).unwrap_or_default());
        }
        JobState::Finished { at, .. } => {
            let end = EndNote::of(record);
            keys.insert(format!("{FINISHED}{:015}/{}", at.as_millis(), record.id), value(end.as_ref()));
            if record.needs_cleaning() {
                keys.insert(format!("{CLEANUP}{}", record.id), serde_json::json!({}));
            }
        }
    }
    keys
}

/// Whether a job runs or may yet, so that its image has to stay: one that was lost can be run on.
fn may_run(state: &JobState) -> bool {
    !matches!(state, JobState::Finished { outcome, .. } if *outcome != Outcome::Lost)
}

/// The part of the queue that a job stands in.
pub fn shard(id: &JobId) -> u8 {
    blake3::hash(id.as_str().as_bytes()).as_bytes()[0] % QUEUE_SHARDS
}

/// The order in which queue keys are served, whatever their shard: priority, then age, then id.
pub fn queue_order(key: &str) -> &str {
    key.splitn(3, '/').nth(2).unwrap_or(key)
}

/// Blob names of a job. Every name ends in the operation that writes it, so new bytes take a new name.
#[derive(Debug, Clone)]
pub struct BlobNames<'a>(pub &'a JobId);

impl BlobNames<'_> {
    /// All that belongs to the job.
    pub fn prefix(&self) -> String {
        format!("jobs/{}/", self.0)
    }

    /// Below it lie the inputs that one submit brought.
    pub fn inputs(&self, operation: &OperationId) -> String {
        format!("jobs/{}/inputs/{operation}/", self.0)
    }

    /// Below it lie all inputs.
    pub fn all_inputs(&self) -> String {
        format!("jobs/{}/inputs/", self.0)
    }

    /// Below it lie the outputs that one attempt brought.
    pub fn outputs(&self, epoch: Epoch, operation: &OperationId) -> String {
        format!("jobs/{}/outputs/{epoch}-{operation}/", self.0)
    }

    /// Below it lie all checkpoints.
    pub fn checkpoints(&self) -> String {
        format!("jobs/{}/checkpoints/", self.0)
    }

    /// One part of a checkpoint: `manifest` or `pack`.
    pub fn checkpoint(&self, id: CheckpointId, operation: &OperationId, part: &str) -> String {
        format!("{}{id}-{operation}.{part}", self.checkpoints())
    }

    /// The record itself, once the job has ended.
    pub fn record(&self, operation: &OperationId) -> String {
        format!("jobs/{}/record-{operation}", self.0)
    }

    /// Below it lie all log segments.
    pub fn log(&self) -> String {
        format!("jobs/{}/log/", self.0)
    }

    /// The log segment of `epoch` that begins at byte `start` of the job's log.
    pub fn log_segment(&self, epoch: Epoch, start: u64, operation: &OperationId) -> String {
        format!("{}{epoch}-{start}-{operation}", self.log())
    }
}

/// Epoch and start of a log segment, from its name.
pub fn parse_log_segment(name: &str) -> Option<(Epoch, u64)> {
    let mut parts = name.rsplit('/').next()?.splitn(3, '-');
    Some((Epoch(parts.next()?.parse().ok()?), parts.next()?.parse().ok()?))
}

/// The checkpoint that a blob below [`BlobNames::checkpoints`] belongs to, from its name.
pub fn parse_checkpoint(name: &str) -> Option<CheckpointId> {
    let mut parts = name.rsplit('/').next()?.splitn(3, '-');
    let epoch = Epoch(parts.next()?.parse().ok()?);
    Some(CheckpointId { epoch, seq: parts.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queued_job_is_found_by_shard_priority_and_age() {
        let id = JobId::new("j1").unwrap();
        let spec = JobSpec::new("n", vec!["true".to_owned()]);
        let record = JobRecord::submitted(id.clone(), Owner::new("me").unwrap(), spec, None, Timestamp::from_millis(7));
        let keys: Vec<_> = index_keys(&record).into_keys().collect();
        assert_eq!(keys, ["owner/me/j1".to_owned(), format!("queue/{:02}/5/000000000000007/j1", shard(&id))]);
        assert_eq!(job_of_index(&keys[1]), Some(id));
        assert_eq!(queue_order(&keys[1]), "5/000000000000007/j1");
    }

    #[test]
    fn an_image_is_in_use_until_its_job_has_ended_for_good() {
        let digest = ImageDigest::of_sha256([7; 32]);
        let mut spec = JobSpec::new("n", vec!["true".to_owned()]);
        (spec.image, spec.image_digest) = ("example.org/a:1".to_owned(), Some(digest.clone()));
        let id = JobId::new("j1").unwrap();
        let mut record = JobRecord::submitted(id, Owner::new("me").unwrap(), spec, None, Timestamp::from_millis(7));
        let key = format!("image-use/{}/j1", digest.digits());
        let check = |record: &JobRecord, expect: bool| assert_eq!(index_keys(record).contains_key(&key), expect);
        check(&record, true);
        for (outcome, expect) in [(Outcome::Lost, true), (Outcome::Cancelled, false), (Outcome::Succeeded, false)] {
            record.state = JobState::Finished { at: Timestamp::from_millis(8), outcome, outputs: None, log_bytes: 0 };
            check(&record, expect);
        }
        assert_eq!((image_of(&key), job_of_index(&key)), (Some(digest.clone()), Some(record.id)));
        assert_eq!(image_of(&image(&digest)), Some(digest.clone()));
        assert_eq!(image_part_of(&image_blob(&digest)), Some(digest));
        assert_eq!(image_part_of("images/sha256/../x"), None);
    }

    #[test]
    fn blob_names_tell_what_they_hold() {
        let id = JobId::new("j1").unwrap();
        let operation = OperationId::new("op-1").unwrap();
        let names = BlobNames(&id);
        let checkpoint = CheckpointId { epoch: Epoch(3), seq: 4 };
        assert_eq!(parse_checkpoint(&names.checkpoint(checkpoint, &operation, "pack")), Some(checkpoint));
        assert_eq!(parse_log_segment(&names.log_segment(Epoch(3), 99, &operation)), Some((Epoch(3), 99)));
        assert_eq!(parse_checkpoint("jobs/j1/checkpoints/rubbish"), None);
    }
}
