//! What the records of the newest jobs tell of the group, read now and then.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::sync::Mutex;
use workrs_core::{id::JobId, keys};
use workrs_store::state::{StateError, StateStore, list_keys};

use crate::{
    api::{Api, JobView},
    page::story::End,
};

/// How long figures are shown before they are made anew.
const HOLDS: Duration = Duration::from_secs(10);
/// Ended jobs whose records are read, the newest; and running ones.
const MAX_LIVES: usize = 400;
const READS_AT_ONCE: usize = 16;
const PAGE: usize = 500;
/// Figures of the same stretch begin at times that differ by less than this.
const SAME: u64 = 20 * 60_000;

/// What is known of a stretch of time up to now.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// When jobs ended, of all owners, the oldest first.
    pub ends: Vec<u64>,
    /// The newest jobs.
    pub lives: Vec<Life>,
    /// There are more jobs than lives.
    pub is_cut: bool,
}

/// What a job's record tells of its life.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    pub owner: String,
    pub ended_at: Option<u64>,
    /// When its nodes died.
    pub faults: Vec<u64>,
    /// When it went on from a checkpoint, and how much run time that spared it.
    pub saved: Vec<(u64, u64)>,
    pub standstill_ms: u64,
    /// How long it ran, standstill and what was lost included.
    pub ran_ms: u64,
}

impl Life {
    pub fn of(job: &JobView, now: u64) -> Self {
        let lost = job.attempts.iter().filter(|attempt| End::of(attempt) == End::Lost);
        // Only what ran again was spared anything.
        let saved = job.attempts.iter().filter_map(|attempt| Some((attempt.started_at?, attempt.spared_ms?)));
        let ran = job
            .attempts
            .iter()
            .filter_map(|attempt| Some(attempt.ended_at.unwrap_or(now).saturating_sub(attempt.started_at?)));
        Self {
            owner: job.owner.clone(),
            ended_at: job.finished_at,
            faults: lost.filter_map(|attempt| attempt.ended_at).collect(),
            saved: saved.collect(),
            standstill_ms: job.totals.standstill_ms,
            ran_ms: ran.sum(),
        }
    }
}

/// The figures that were asked for last, so that many who look cost no more than one.
#[derive(Default)]
pub(in crate::page) struct Cache(Mutex<HashMap<u64, (Instant, Arc<Figures>)>>);

impl Cache {
    /// Of the time from `from` to now.
    pub(super) async fn get(&self, api: &Api, from: u64) -> Result<Arc<Figures>, StateError> {
        let mut known = self.0.lock().await;
        known.retain(|_, (made, _)| made.elapsed() < HOLDS);
        if let Some((_, figures)) = known.iter().find(|(begun, _)| begun.abs_diff(from) < SAME).map(|(_, known)| known)
        {
            return Ok(Arc::clone(figures));
        }
        let figures = Arc::new(read(api, from).await?);
        known.insert(from, (Instant::now(), Arc::clone(&figures)));
        Ok(figures)
    }
}

async fn read(api: &Api, from: u64) -> Result<Figures, StateError> {
    let store = &**api.records.store();
    let mut ended = Vec::new();
    for prefix in [keys::FINISHED, keys::ARCHIVED] {
        ended.extend(ended_since(store, prefix, from).await?);
    }
    ended.sort();
    let running = list_keys(store, keys::RUNNING).await?;
    let is_cut = ended.len() > MAX_LIVES || running.len() > MAX_LIVES;
    let newest = ended.iter().rev().take(MAX_LIVES).map(|(_, id)| id.clone());
    let running = running.iter().take(MAX_LIVES).filter_map(|key| keys::job_of_index(key));
    let now = crate::page::words::now();
    let lives = stream::iter(newest.chain(running).collect::<Vec<_>>())
        .map(|id| async move { api.records.get(&id).await })
        .buffer_unordered(READS_AT_ONCE)
        // One that was deleted or cannot be read is one less.
        .filter_map(|record| async move { record.ok().flatten() })
        .map(|record| Life::of(&JobView::from(&record), now))
        .collect()
        .await;
    Ok(Figures { ends: ended.into_iter().map(|(at, _)| at).collect(), lives, is_cut })
}

/// Jobs that ended since `from`, by keys that are in the order of the ends.
async fn ended_since(store: &dyn StateStore, prefix: &str, from: u64) -> Result<Vec<(u64, JobId)>, StateError> {
    let mut found = Vec::new();
    let mut after = format!("{prefix}{from:015}");
    loop {
        let page = store.list(prefix, Some(&after), PAGE).await?;
        let told = page
            .entries
            .iter()
            .filter_map(|entry| Some((keys::finished_at(&entry.key)?.as_millis(), keys::job_of_index(&entry.key)?)));
        found.extend(told);
        match page.entries.last() {
            Some(last) if page.more => after.clone_from(&last.key),
            _ => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::eventful;

    #[test]
    fn what_a_checkpoint_spared_counts_where_the_job_went_on() {
        let life = Life::of(&eventful(), 200_000);
        assert_eq!(life.faults, [70_000]);
        assert_eq!(life.saved, [(76_000, 58_000)]);
        assert_eq!(life.standstill_ms, 350);
        assert_eq!(life.ran_ms, 69_000 + 24_000);
    }
}
