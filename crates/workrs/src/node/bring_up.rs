//! From a claimed record to a running program: fetch, prepare, start or restore, down the steps that proof demands.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::Instant;
use workrs_core::{
    job::{Checkpoint, CheckpointMode, Failure, JobEvent, Outcome},
    manifest::Manifest,
};
use workrs_engine::{Container, ContainerSpec, EngineError, Origin};
use workrs_store::checkpoints::FetchError;

use super::{
    clock::RunClock,
    inputs,
    lineage::Lineage,
    planning::Prospects,
    run::{Leave, Live, Run},
};
use crate::{
    joblog::{LogPump, PumpError},
    metrics,
};

/// A restore that fails is tried this often before the failure counts as proof that the checkpoint is bad.
const RESTORE_TRIES: u32 = 2;

impl Run {
    /// From the record to a running program, down the steps that proof demands, unless it is interrupted.
    pub(super) async fn bring_up(&mut self, interrupted: &mut BoxFuture<'static, Leave>) -> Result<Live, Leave> {
        let mut tries = 0;
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
                    if !self.is_proof(&checkpoint) {
                        return Err(Leave::Refused { checkpoint: checkpoint.id, reason });
                    }
                    (checkpoint, reason)
                }
                (Err(BringUpError::Bad(reason)), Some(checkpoint)) => (checkpoint, reason),
                (Err(BringUpError::Unfit(reason)), Some(checkpoint)) => {
                    if !self.waited_long_enough() {
                        return Err(Leave::Release { reason, cool_down: true, unfit: true });
                    }
                    (checkpoint, format!("no node fits it: {reason}"))
                }
                (
                    Err(BringUpError::Refused(reason) | BringUpError::Bad(reason) | BringUpError::Unfit(reason)),
                    None,
                ) => {
                    return Err(Leave::host(reason));
                }
            };
            tries = 0;
            tracing::warn!(checkpoint = %checkpoint.id, reason, "the checkpoint is bad, one step down");
            let event = JobEvent::FellBack { holder: self.holder.clone(), bad: checkpoint.id, reason };
            self.commit(event).await?;
        }
    }

    /// Whether this node's refusal proves that the checkpoint is bad: another node refused it, too, or there is no other that
    /// could try, or none did for long.
    fn is_proof(&self, checkpoint: &Checkpoint) -> bool {
        let own = &self.holder.node;
        let others_refused = checkpoint.refused_by.iter().any(|node| node != own);
        let entry = self.shared.jobs().get(&self.record.id).map(|slot| slot.entry.clone());
        let members = self.shared.members.now();
        let mut others = members.iter().filter(|member| member.node != *own);
        let another_can_try = entry.is_some_and(|entry| others.any(|member| member.could_run(&entry)));
        others_refused || !another_can_try || self.waited_long_enough()
    }

    fn waited_long_enough(&self) -> bool {
        let cooldowns = self.shared.cooldowns();
        let since = cooldowns.get(&self.record.id).and_then(|cooldown| cooldown.unfit_since);
        since.is_some_and(|since| since.elapsed() >= self.shared.config.unfit_wait)
    }

    async fn bring_up_from(&self, resume_point: Option<&Checkpoint>) -> Result<Live, BringUpError> {
        let began = Instant::now();
        let spec = self.container_spec();
        let (origin, mode, lineage) = match resume_point {
            None => (Origin::New, CheckpointMode::Files, Lineage::default()),
            Some(checkpoint) => {
                let (origin, manifest) = self.fetch(checkpoint).await?;
                (origin, checkpoint.mode, Lineage::of(manifest))
            }
        };
        if mode == CheckpointMode::Full
            && let Err(reason) = &self.shared.capabilities.dump
        {
            return Err(BringUpError::Unfit(format!("it cannot restore memory: {reason}")));
        }
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

    fn container_spec(&self) -> ContainerSpec {
        let spec = &self.record.spec;
        ContainerSpec {
            job: self.record.id.clone(),
            attempt: self.holder.epoch.to_string(),
            command: spec.command.clone(),
            env: spec.env.clone(),
            cpus_milli: spec.cpus_milli,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
        }
    }

    /// Brings a checkpoint's parts back. An unreachable store is waited for, not taken as proof.
    async fn fetch(&self, checkpoint: &Checkpoint) -> Result<(Origin, Arc<Manifest>), BringUpError> {
        let Some(manifest) = &checkpoint.manifest else {
            return Err(BringUpError::Bad("the record names no manifest".to_owned()));
        };
        let began = Instant::now();
        let folder = self.work_dir.join("restore");
        let mut pause = Duration::from_millis(200);
        loop {
            let _ = tokio::fs::remove_dir_all(&folder).await;
            tokio::fs::create_dir_all(&folder)
                .await
                .map_err(|error| BringUpError::Leave(Leave::host(error.to_string())))?;
            match self.shared.checkpoints.fetch(&self.record.id, checkpoint.id, manifest, &folder).await {
                Ok(manifest) => {
                    self.shared.usage.set(&self.record.id, manifest.pack_bytes.iter().sum());
                    let fetch_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(checkpoint = %checkpoint.id, fetch_ms, "fetched the checkpoint to resume from");
                    let origin = Origin::Captured { folder, mode: manifest.mode, needs: manifest.needs.clone() };
                    return Ok((origin, Arc::new(manifest)));
                }
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
}

/// Why a program was not brought up.
enum BringUpError {
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
            EngineError::Unfit(_) => Self::Unfit(error.to_string()),
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
