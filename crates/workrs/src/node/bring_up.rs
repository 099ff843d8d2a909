//! From a claimed record to a running program: fetch, prepare, start or restore, down the steps that proof demands.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::Instant;
use workrs_core::{
    fit::{self, Unmet},
    id::Incarnation,
    image::Image,
    job::{Checkpoint, CheckpointMode, Failure, JobEvent, Outcome},
    keys::QueueEntry,
    manifest::Manifest,
    spec::JOB_FOLDER,
};
use workrs_engine::{Container, ContainerSpec, EngineError, Origin};
use workrs_store::checkpoints::FetchError;

use super::{
    clock::RunClock,
    inputs,
    lineage::Lineage,
    nowhere,
    planning::Prospects,
    run::{Leave, Live, Run},
};
use crate::{
    joblog::{LogPump, PumpError},
    metrics,
};

/// A restore that fails is tried this often before the failure counts as proof that the checkpoint is bad.
const RESTORE_TRIES: u32 = 2;
/// What an attempt's notes have space for to say which nodes lack what, in bytes.
const MISFITS_IN_A_NOTE: usize = 110;

impl Run {
    /// From the record to a running program, down the steps that proof demands, unless it is interrupted.
    pub(super) async fn bring_up(&mut self, interrupted: &mut BoxFuture<'static, Leave>) -> Result<Live, Leave> {
        let mut tries = 0;
        // Processes that could not resume from a newer checkpoint need not be asked for an older one.
        let mut declined = BTreeSet::new();
        loop {
            let resume_point = self.record.resume_point().cloned();
            let brought_up = tokio::select! {
                biased;
                leave = &mut *interrupted => return Err(leave),
                brought_up = self.bring_up_from(resume_point.as_ref()) => brought_up,
            };
            let (checkpoint, reason) = match (brought_up, resume_point) {
                (Ok(live), _) => return Ok(live),
                (Err(BringUpError::Leave(leave)), _) => return Err(leave),
                (Err(BringUpError::Refused(reason)), Some(checkpoint)) => {
                    tries += 1;
                    if tries < RESTORE_TRIES {
                        tracing::warn!(reason, "the restore failed, trying once more");
                        continue;
                    }
                    if !self.is_proof(&checkpoint, &declined) {
                        return Err(Leave::Refused { checkpoint: checkpoint.id, reason });
                    }
                    (checkpoint, reason)
                }
                (Err(BringUpError::Bad(reason)), Some(checkpoint)) => (checkpoint, reason),
                (Err(BringUpError::Unfit(reason)), Some(checkpoint)) => {
                    if !self.gives_up(&checkpoint, &declined) {
                        return Err(Leave::Unfit { checkpoint: checkpoint.id, reason });
                    }
                    (checkpoint, self.why_given_up(reason))
                }
                (
                    Err(BringUpError::Refused(reason) | BringUpError::Bad(reason) | BringUpError::Unfit(reason)),
                    None,
                ) => {
                    return Err(Leave::host(reason));
                }
            };
            tries = 0;
            declined.extend(checkpoint.declined.into_iter().map(|declined| declined.incarnation));
            tracing::warn!(checkpoint = %checkpoint.id, reason, "the checkpoint is bad, one step down");
            let event = JobEvent::FellBack { holder: self.holder.clone(), bad: checkpoint.id, reason };
            self.commit(event).await?;
        }
    }

    /// Whether this node's refusal proves that the checkpoint is bad: another node refused it, too, or there is no other that
    /// could try, or none did for long.
    fn is_proof(&self, checkpoint: &Checkpoint, declined: &BTreeSet<Incarnation>) -> bool {
        let others_refused = checkpoint.refused_by.iter().any(|node| *node != self.holder.node);
        others_refused || !self.another_can_try(declined) || self.gives_up(checkpoint, declined)
    }

    /// Whether a node lives that could go on from the record's checkpoint, besides this one and those that `declined`.
    fn another_can_try(&self, declined: &BTreeSet<Incarnation>) -> bool {
        let entry = QueueEntry::of(&self.record);
        let members = self.shared.members.now();
        let mut others = members.iter().filter(|member| member.node != self.holder.node);
        others.any(|member| member.could_run(&entry) && !declined.contains(&member.incarnation))
    }

    /// Whether the checkpoint, which does not fit this node, need not be kept for others: the job has waited for long enough,
    /// or has done so for a newer one and no other node could go on from this one either.
    fn gives_up(&self, checkpoint: &Checkpoint, declined: &BTreeSet<Incarnation>) -> bool {
        self.given_up.is_some_and(|given_up| {
            given_up == checkpoint.id || (checkpoint.id < given_up && !self.another_can_try(declined))
        })
    }

    /// Which nodes lack what; `reason` is what this one lacks.
    fn why_given_up(&self, reason: String) -> String {
        let mut misfits = nowhere::misfits_of(&self.shared.members.now(), &self.record);
        misfits.retain(|(node, _)| *node != self.holder.node);
        misfits.insert(0, (self.holder.node.clone(), reason));
        format!("no node fits it: {}", fit::name_misfits(&misfits, MISFITS_IN_A_NOTE))
    }

    /// Why the job went on here, if other nodes could not have done it.
    fn why_here(&self, checkpoint: &Checkpoint) -> Option<String> {
        let mut misfits = nowhere::misfits_of(&self.shared.members.now(), &self.record);
        misfits.retain(|(node, _)| *node != self.holder.node);
        let others = (!misfits.is_empty()).then(|| fit::name_misfits(&misfits, MISFITS_IN_A_NOTE))?;
        Some(format!("this node fits checkpoint {}; {others}", checkpoint.id))
    }

    async fn bring_up_from(&self, resume_point: Option<&Checkpoint>) -> Result<Live, BringUpError> {
        let began = Instant::now();
        let spec = self.container_spec(self.provide_image().await?);
        let (origin, mode, lineage) = match resume_point {
            None => (Origin::New, CheckpointMode::Files, Lineage::default()),
            Some(checkpoint) => {
                let (origin, manifest) = self.fetch(checkpoint, &spec).await?;
                (origin, checkpoint.mode, Lineage::of(manifest))
            }
        };
        let container = self.shared.engine.prepare(&spec, origin).await?;
        let live = self.start(&*container, resume_point, mode).await;
        match live {
            Ok((pump, clock)) => {
                let restore = resume_point.map(|_| began.elapsed());
                if let Some(took) = restore {
                    metrics::RESTORE_TIME.observe(took);
                }
                let prospects = Prospects::of(&self.shared, &self.record, restore).await;
                Ok(self.live(container, pump, clock, resume_point, lineage, prospects))
            }
            Err(error) => {
                if let Err(error) = container.destroy().await {
                    tracing::error!(%error, "cannot remove a container that did not start");
                }
                Err(error)
            }
        }
    }

    fn live(
        &self,
        container: Box<dyn Container>,
        pump: LogPump,
        clock: RunClock,
        from: Option<&Checkpoint>,
        lineage: Lineage,
        prospects: Prospects,
    ) -> Live {
        self.shared.cooldowns().remove(&self.record.id);
        let log_stored = from.map_or(self.record.log_base, |checkpoint| checkpoint.log_bytes);
        let checkpointed_at = clock.elapsed();
        Live {
            container,
            pump,
            clock,
            log_stored,
            seq: 0,
            failures: 0,
            checkpointed_at,
            saved_at: checkpointed_at,
            lineage,
            rechecked_at: Instant::now(),
            prospects,
            note: from.and_then(|checkpoint| self.why_here(checkpoint)),
        }
    }

    async fn start(
        &self,
        container: &dyn Container,
        resume_point: Option<&Checkpoint>,
        mode: CheckpointMode,
    ) -> Result<(LogPump, RunClock), BringUpError> {
        if resume_point.is_none()
            && let Some(index) = &self.record.inputs
        {
            inputs::place(&self.shared.blobs, index, container.job_folder(), container.job_user()).await?;
        }
        let from = resume_point.map_or(self.record.log_base, |checkpoint| checkpoint.log_bytes);
        let (pump, output) =
            LogPump::start(self.holder.epoch, from, self.shared.config.log_limit_bytes, &self.work_dir)?;
        if mode == CheckpointMode::Full {
            container.restore(output).await?;
            metrics::RESUMES.add(1);
        } else {
            container.start(output).await?;
        }
        // What a runtime printed in vain before this is not the job's.
        self.shared.live_logs.insert(self.record.id.clone(), pump.live().clone());
        let mut clock = RunClock::stopped(resume_point.map_or(Duration::ZERO, |c| Duration::from_millis(c.run_ms)));
        clock.start();
        Ok((pump, clock))
    }

    fn container_spec(&self, image: Option<Arc<Image>>) -> ContainerSpec {
        let spec = &self.record.spec;
        ContainerSpec {
            job: self.record.id.clone(),
            attempt: self.holder.epoch.to_string(),
            command: spec.command.clone(),
            folder: spec.folder.clone().unwrap_or_else(|| JOB_FOLDER.to_owned()),
            image,
            network: spec.network,
            env: spec.env.clone(),
            cpus_milli: spec.cpus_milli,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
        }
    }

    /// Brings a checkpoint's parts back, if this node has what it needs.
    async fn fetch(
        &self,
        checkpoint: &Checkpoint,
        spec: &ContainerSpec,
    ) -> Result<(Origin, Arc<Manifest>), BringUpError> {
        if checkpoint.mode == CheckpointMode::Full {
            self.fits_here(checkpoint)?;
        }
        let Some(blob) = &checkpoint.manifest else {
            return Err(BringUpError::Bad("the record names no manifest".to_owned()));
        };
        let began = Instant::now();
        let (checkpoints, job) = (&self.shared.checkpoints, &self.record.id);
        let manifest = until_reached(|| checkpoints.manifest(job, checkpoint.id, blob)).await?;
        if manifest.mode == CheckpointMode::Full {
            self.shared.engine.check(spec, &manifest.needs).await?;
        }
        let folder = self.work_dir.join("restore");
        let bring = || async {
            let _ = tokio::fs::remove_dir_all(&folder).await;
            tokio::fs::create_dir_all(&folder).await.map_err(|error| FetchError::Host(error.to_string()))?;
            checkpoints.fetch_parts(job, checkpoint.id, &manifest, &folder).await
        };
        until_reached(bring).await?;
        self.shared.usage.set(job, manifest.pack_bytes.iter().sum());
        let fetch_ms = began.elapsed().as_millis() as u64;
        tracing::info!(checkpoint = %checkpoint.id, fetch_ms, "fetched the checkpoint to resume from");
        let origin = Origin::Captured { folder, mode: manifest.mode, needs: manifest.needs.clone() };
        Ok((origin, Arc::new(manifest)))
    }

    /// Whether this node has what the record says that a checkpoint of memory needs.
    fn fits_here(&self, checkpoint: &Checkpoint) -> Result<(), BringUpError> {
        let offer = &self.shared.traits.offer;
        let met = match &offer.cannot_dump {
            Some(reason) => Err(Unmet::Memory(reason.clone())),
            None => checkpoint.needs.met_by(offer),
        };
        met.map_err(|unmet| BringUpError::Unfit(unmet.to_string()))
    }
}

/// Tries on while the store cannot be reached: that proves nothing.
async fn until_reached<T, F: Future<Output = Result<T, FetchError>>>(fetch: impl Fn() -> F) -> Result<T, BringUpError> {
    let mut pause = Duration::from_millis(200);
    loop {
        match fetch().await {
            Ok(fetched) => return Ok(fetched),
            Err(FetchError::Bad(reason)) => return Err(BringUpError::Bad(reason)),
            Err(FetchError::Host(reason)) => return Err(BringUpError::Leave(Leave::host(reason))),
            Err(FetchError::Unavailable(reason)) => {
                tracing::warn!(reason, "cannot fetch the checkpoint, will try on");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }
}

/// Why a program was not brought up.
pub(super) enum BringUpError {
    /// Proof that the checkpoint is bad.
    Bad(String),
    /// The engine refused the checkpoint; proof, if it happens again.
    Refused(String),
    /// This host cannot restore the checkpoint.
    Unfit(String),
    /// Not a matter of the checkpoint.
    Leave(Leave),
}

impl From<EngineError> for BringUpError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(_) => Self::Refused(error.to_string()),
            EngineError::Unfit(reason) => Self::Unfit(reason),
            EngineError::CannotStart(reason) => {
                Self::Leave(Leave::Finish(Outcome::Failed { failure: Failure::CannotStart { reason } }))
            }
            EngineError::CannotCapture(_) | EngineError::DiskFailed(_) | EngineError::Host(_) => {
                Self::Leave(Leave::host(error.to_string()))
            }
        }
    }
}

impl From<inputs::InputError> for BringUpError {
    fn from(error: inputs::InputError) -> Self {
        Self::Leave(match error {
            inputs::InputError::Lost(reason) | inputs::InputError::TooBig(reason) => {
                Leave::Finish(Outcome::Failed { failure: Failure::CannotStart { reason } })
            }
            inputs::InputError::Host(reason) => Leave::host(reason),
        })
    }
}

impl From<PumpError> for BringUpError {
    fn from(error: PumpError) -> Self {
        Self::Leave(Leave::host(error.to_string()))
    }
}
