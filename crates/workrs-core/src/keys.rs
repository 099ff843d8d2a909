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
//! group/id, group/version, group/housekeeping       what all nodes share
//! faults/<node>                                     how long the node was up and how often it died
//! run-times/<owner>/<hash of a job name>            how long the last jobs of that name ran
//! ```
//! A record and its index keys change in one transaction: [`index_keys`] is what must stand, no more and no less.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    hash::ContentHash,
    id::{Epoch, Incarnation, JobId, NodeId, OperationId, Owner, Timestamp},
    job::{CheckpointId, JobRecord, JobState},
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

/// The index keys that stand while a job's record lies in a blob.
pub fn archived_index_keys(id: &JobId, owner: &Owner, finished_at: Timestamp) -> BTreeMap<String, serde_json::Value> {
    let archived = format!("{ARCHIVED}{:015}/{id}", finished_at.as_millis());
    BTreeMap::from([of_owner(owner, id), (archived, serde_json::json!({}))])
}

fn of_owner(owner: &Owner, id: &JobId) -> (String, serde_json::Value) {
    (format!("owner/{owner}/{id}"), serde_json::json!({}))
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
    /// Processor time asked for, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory asked for.
    pub memory_bytes: u64,
    /// Disk asked for.
    pub disk_bytes: u64,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constraints: BTreeMap<String, String>,
}

/// The index keys that stand while `record` stands as it is, with their values.
pub fn index_keys(record: &JobRecord) -> BTreeMap<String, serde_json::Value> {
    let mut keys = BTreeMap::from([of_owner(&record.owner, &record.id)]);
    match &record.state {
        JobState::Queued { .. } => {
            let spec = &record.spec;
            let entry = QueueEntry {
                cpus_milli: spec.cpus_milli,
                memory_bytes: spec.memory_bytes,
                disk_bytes: spec.disk_bytes,
                constraints: spec.constraints.clone(),
            };
            let key = format!(
                "{}{}/{:015}/{}",
                queue_shard(shard(&record.id)),
                spec.priority,
                record.submitted_at.as_millis(),
                record.id
            );
            keys.insert(key, serde_json::to_value(entry).unwrap_or_default());
        }
        JobState::Running { holder, .. } => {
            keys.insert(format!("{}{}", running(&holder.incarnation), record.id), serde_json::json!({}));
        }
        JobState::Finished { at, .. } => {
            keys.insert(format!("{FINISHED}{:015}/{}", at.as_millis(), record.id), serde_json::json!({}));
            if record.needs_cleaning() {
                keys.insert(format!("{CLEANUP}{}", record.id), serde_json::json!({}));
            }
        }
    }
    keys
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
    use crate::spec::JobSpec;

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
