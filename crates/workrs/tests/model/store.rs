//! The state store and the blobs of the model: one record, the keys of nodes, and what checkpoints consist of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use workrs_core::{
    id::{Epoch, JobId},
    job::{Checkpoint, CheckpointId, JobEvent, JobRecord, JobState},
    keys,
};
use workrs_store::{
    envelope::Envelope,
    state::{Condition, Revision},
};

use crate::rules::{Rules, Weakness};

/// A record as it stands in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub envelope: Envelope<JobRecord>,
    pub revision: Revision,
}

/// A conditional write of the record, on its way to the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// What it is about; `None` is the submit.
    pub event: Option<JobEvent>,
    pub guards: Vec<Condition>,
    /// The revision from which it was computed; `None`: there was no record.
    pub expected: Option<Revision>,
    pub envelope: Envelope<JobRecord>,
}

/// Something that must never be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Breach {
    /// A claim of a process that is no member of the group, or of a node that is to give its jobs back.
    ClaimOfOutsider,
    /// A job was taken from a process that is a member of the group.
    TakenFromMember,
    /// The epoch fell.
    EpochFell,
    /// A checkpoint was committed that is not of the newest epoch, or replaced a newer one.
    OlderCheckpoint,
    /// The resume point went back, and no proof said that the newer checkpoint is bad.
    ResumeWentBack,
    /// A job that had a result got another one.
    ResultReplaced,
    /// The result is that of an attempt which does not hold the job.
    ResultOfOther,
}

/// What a checkpoint is stored as. Blobs are named by it, as every upload takes a new name.
pub type Packs = BTreeSet<CheckpointId>;

/// Blobs whose deletion was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Doomed {
    pub manifests: BTreeSet<CheckpointId>,
    pub packs: Packs,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    pub record: Option<Arc<Stored>>,
    /// Keys of nodes that live and of nodes that are to give their jobs back.
    pub keys: BTreeSet<String>,
    /// Manifests, with the packs that each one names.
    pub manifests: BTreeMap<CheckpointId, Packs>,
    pub packs: Packs,
    pub breaches: BTreeSet<Breach>,
    newest_revision: u64,
}

impl Store {
    pub fn record(&self) -> Option<&JobRecord> {
        self.record.as_ref().map(|stored| &stored.envelope.body)
    }

    pub fn revision(&self) -> Option<Revision> {
        self.record.as_ref().map(|stored| stored.revision)
    }

    pub fn holds(&self, guard: &Condition) -> bool {
        match guard {
            Condition::Absent(key) => !self.keys.contains(key),
            Condition::Present(key) => self.keys.contains(key),
            Condition::Unchanged(..) => unreachable!("no guard names a revision"),
        }
    }

    /// Applies a write if all its conditions hold; tells whether they did.
    pub fn commit(&mut self, write: &Write, rules: &Rules) -> bool {
        let unchanged = write.expected == self.revision() || rules.weakness == Some(Weakness::WritesBlindly);
        if !unchanged || !write.guards.iter().all(|guard| self.holds(guard)) {
            return false;
        }
        let breaches = self.breaches_of(write);
        self.breaches.extend(breaches);
        self.newest_revision += 1;
        let revision = Revision(self.newest_revision);
        self.record = Some(Arc::new(Stored { envelope: write.envelope.clone(), revision }));
        true
    }

    fn breaches_of(&self, write: &Write) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let mut note = |broken: bool, breach| breaches.extend(broken.then_some(breach));
        let after = &write.envelope.body;
        match &write.event {
            Some(JobEvent::Claimed { holder, .. }) => {
                let is_member = self.keys.contains(&keys::node(&holder.node, &holder.incarnation));
                let drains = self.keys.contains(&keys::drain(&holder.node));
                note(!is_member || drains, Breach::ClaimOfOutsider);
            }
            Some(JobEvent::NodeLost { holder, .. }) => {
                let is_member = self.keys.contains(&keys::node(&holder.node, &holder.incarnation));
                note(is_member, Breach::TakenFromMember);
            }
            _ => {}
        }
        let Some(before) = self.record() else { return breaches };
        note(after.epoch < before.epoch, Breach::EpochFell);
        let newest = |record: &JobRecord| record.checkpoints.last().map(|checkpoint| checkpoint.id);
        let is_newest_epoch = newest(after).is_none_or(|id| id.epoch == before.epoch);
        let is_older = newest(after) < newest(before) || (newest(after) != newest(before) && !is_newest_epoch);
        note(is_older, Breach::OlderCheckpoint);
        let resume = |record: &JobRecord| record.resume_point().map(|checkpoint| checkpoint.id);
        let may_go_back = matches!(
            write.event,
            Some(JobEvent::FellBack { .. } | JobEvent::Finished { .. } | JobEvent::CancelRequested { .. })
        ) || after.is_finished();
        note(!may_go_back && resume(after) < resume(before), Breach::ResumeWentBack);
        note(before.is_finished() && before.state != after.state, Breach::ResultReplaced);
        if let JobState::Finished { outputs: Some(outputs), .. } = &after.state {
            note(outputs.name != output_name(&after.id, after.epoch), Breach::ResultOfOther);
        }
        breaches
    }

    /// Stores a checkpoint that builds on `base`: it needs all packs that the base needs, and one of its own.
    pub fn upload(&mut self, id: CheckpointId, base: Option<CheckpointId>) {
        let mut packs = base.and_then(|base| self.manifests.get(&base)).cloned().unwrap_or_default();
        packs.insert(id);
        self.packs.insert(id);
        self.manifests.insert(id, packs);
    }

    /// Whether all that leads to a checkpoint's bytes is there.
    pub fn is_durable(&self, id: CheckpointId) -> bool {
        self.manifests.get(&id).is_some_and(|packs| packs.is_subset(&self.packs))
    }

    /// What a holder deletes once the record is as given: up to its own epoch, what no named checkpoint needs.
    pub fn garbage(&self, record: &JobRecord, epoch: Epoch, rules: &Rules) -> Doomed {
        let named: BTreeSet<_> = record.named_checkpoints().map(|checkpoint| checkpoint.id).collect();
        let all_known = named.iter().all(|id| self.manifests.contains_key(id));
        let needed: Packs = named.iter().filter_map(|id| self.manifests.get(id)).flatten().copied().collect();
        let is_old = |id: &CheckpointId| id.epoch <= epoch || rules.weakness == Some(Weakness::DeletesNewerEpochs);
        let manifests = self.manifests.keys().filter(|id| is_old(id) && !named.contains(id)).copied().collect();
        let packs = self.packs.iter().filter(|id| all_known && is_old(id) && !needed.contains(id)).copied().collect();
        Doomed { manifests, packs }
    }

    /// What is deleted of a job that ended for good.
    pub fn everything(&self) -> Doomed {
        Doomed { manifests: self.manifests.keys().copied().collect(), packs: self.packs.clone() }
    }

    pub fn delete(&mut self, doomed: &Doomed) {
        self.manifests.retain(|id, _| !doomed.manifests.contains(id));
        self.packs.retain(|id| !doomed.packs.contains(id));
    }
}

/// The outputs of an attempt; the name tells whose they are.
pub fn output_name(job: &JobId, epoch: Epoch) -> String {
    format!("jobs/{job}/outputs/{epoch}-op/index")
}

/// The checkpoints that must be durable while the record stands as it does.
pub fn named(record: &JobRecord) -> impl Iterator<Item = CheckpointId> {
    record.named_checkpoints().map(|checkpoint: &Checkpoint| checkpoint.id)
}
