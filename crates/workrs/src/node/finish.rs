//! How an attempt ends: what the program's end means, and what is committed for it.

use std::time::Duration;

use workrs_core::job::{Failure, JobEvent, Outcome};
use workrs_engine::ContainerEnd;
use workrs_store::{blobs::BlobError, fresh};

use super::{
    Order, claim, clean, outputs,
    run::{Leave, Live, Run},
};
use crate::metrics;

impl Run {
    /// What the program's own end means.
    pub(super) async fn finish(&mut self, live: &mut Live, end: ContainerEnd) -> Result<Leave, Leave> {
        let spec = &self.record.spec;
        let failed = |failure| Outcome::Failed { failure };
        let node_stops = *self.orders.borrow() != Order::Run || self.shared.takes_none();
        let outcome = match end {
            ContainerEnd::Exited(0) => Outcome::Succeeded,
            ContainerEnd::Exited(code) => failed(Failure::Exit { code }),
            // Whoever stops the node may have sent its signal to the jobs too.
            ContainerEnd::Signalled(signal @ (9 | 15)) if node_stops => {
                let reason = format!("ended by signal {signal} while the node stops");
                return Ok(Leave::Release { reason, cool_down: false });
            }
            ContainerEnd::Signalled(signal) => failed(Failure::Signal { signal }),
            ContainerEnd::OutOfMemory => failed(Failure::OutOfMemory { limit_bytes: spec.memory_bytes }),
            ContainerEnd::DiskFull => failed(Failure::DiskFull { limit_bytes: spec.disk_bytes }),
            ContainerEnd::Vanished => return Ok(Leave::HostFault("its container vanished".to_owned())),
        };
        self.end_with(live, outcome).await
    }

    /// Makes log and outputs durable and commits the end. The container has ended, or is being killed.
    pub(super) async fn end_with(&mut self, live: &mut Live, outcome: Outcome) -> Result<Leave, Leave> {
        live.container.wait().await;
        live.clock.stop();
        let log_bytes = live.pump.finish().await.map_err(|error| Leave::HostFault(error.to_string()))?;
        let operation = fresh::operation();
        let (outputs, output_bytes) = loop {
            match outputs::store(self, live, log_bytes, &operation).await {
                Ok(stored) => break stored,
                Err(outputs::OutputError::Host(reason)) => return Err(Leave::HostFault(reason)),
                // The program has ended; all that is missing is a place for what it made.
                Err(outputs::OutputError::Blobs(error)) => {
                    tracing::warn!(%error, "cannot store the outputs, will try on");
                    let mut orders = self.orders.clone();
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs(2)) => {}
                        _ = orders.wait_for(|order| *order != Order::Run) => return Err(self.ordered()),
                    }
                }
            }
        };
        let event = JobEvent::Finished {
            holder: self.holder.clone(),
            at: fresh::now(),
            outcome,
            outputs,
            output_bytes,
            log_bytes,
        };
        let succeeded = matches!(event, JobEvent::Finished { outcome: Outcome::Succeeded, .. });
        self.commit(event).await?;
        metrics::FINISHED.add(1);
        if succeeded {
            self.note_run_time(live.clock.elapsed()).await;
        }
        Ok(Leave::Done)
    }

    /// What the present order means for the attempt.
    fn ordered(&self) -> Leave {
        match *self.orders.borrow() {
            Order::Abandon => Leave::Fenced,
            Order::Fail => Leave::by_drill(),
            _ => Leave::as_ordered(&self.shared),
        }
    }

    /// Commits how the attempt ended and removes what is no longer needed.
    pub(super) async fn leave(&mut self, leave: Leave) {
        let at = fresh::now();
        let holder = self.holder.clone();
        let event = match leave {
            Leave::Done => None,
            Leave::Fenced => {
                metrics::FENCED.add(1);
                tracing::warn!("no longer this node's: ended here, its record is left alone");
                None
            }
            Leave::Release { reason, cool_down } => {
                metrics::RELEASES.add(1);
                tracing::info!(reason, "released");
                if cool_down {
                    claim::cool_down(&self.shared, &self.record.id);
                }
                Some(JobEvent::Released { holder, at, reason })
            }
            Leave::Refused { checkpoint, reason } => {
                tracing::warn!(%checkpoint, reason, "cannot restore it; another node may try");
                Some(JobEvent::RestoreRefused { holder, at, checkpoint, reason })
            }
            Leave::Unfit { checkpoint, reason } => {
                metrics::RELEASES.add(1);
                tracing::info!(%checkpoint, reason, "this node does not fit the checkpoint; another may");
                Some(JobEvent::RestoreUnfit { holder, at, checkpoint, reason })
            }
            Leave::HostFault(reason) => {
                tracing::error!(reason, "lost by a fault of this host");
                claim::cool_down(&self.shared, &self.record.id);
                Some(JobEvent::NodeLost { holder, at, reason })
            }
            Leave::Finish(outcome) => {
                let log_bytes = self.record.resume_point().map_or(self.record.log_base, |c| c.log_bytes);
                Some(JobEvent::Finished { holder, at, outcome, outputs: None, output_bytes: 0, log_bytes })
            }
        };
        if let Some(event) = event
            && let Err(error) = self.commit(event).await
        {
            tracing::warn!(%error, "cannot give the job back; it is no longer held here");
        }
        clean(&self.shared.records, &self.shared.blobs, &self.record).await;
    }
}

/// Whether trying again may help.
pub(super) fn is_passing(error: &BlobError) -> bool {
    matches!(error, BlobError::Unavailable(_) | BlobError::Full(_))
}
