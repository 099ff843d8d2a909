//! Wrappers that refuse operations, lose their answers, delay them or stop as if the process had died, for tests.
//!
//! Operations are counted from 1 over all wrappers that share a [`Faults`]. Enumerate, don't sample: run once with
//! [`Faults::none`], take [`Faults::count`], then run again for each number and each [`Fault`].

mod blobs;
mod leases;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

pub use self::{blobs::FaultyBlobs, leases::TimedLeases, state::FaultyState};

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not carried out, and says so.
    Refuse,
    /// It is carried out, but its answer is lost.
    LoseAnswer,
    /// Its answer is lost at once. If it is a commit, it is carried out so much later; else at once.
    LoseAnswerThenApply(Duration),
    /// It begins so much later.
    Delay(Duration),
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it was carried out, before its answer.
    CrashAfter,
}

/// A schedule of faults, shared by wrappers and clones.
#[derive(Debug, Clone)]
pub struct Faults {
    plan: Arc<BTreeMap<u64, Fault>>,
    count: Arc<AtomicU64>,
    crashed: watch::Sender<bool>,
    cut_off: watch::Sender<bool>,
}

impl Faults {
    /// Nothing goes wrong; operations are counted.
    pub fn none() -> Self {
        Self::plan([])
    }

    /// Operation number `number`, counted from 1, goes wrong.
    pub fn at(number: u64, fault: Fault) -> Self {
        Self::plan([(number, fault)])
    }

    /// Several operations go wrong.
    pub fn plan(plan: impl IntoIterator<Item = (u64, Fault)>) -> Self {
        Self {
            plan: Arc::new(plan.into_iter().collect()),
            count: Arc::default(),
            crashed: watch::Sender::new(false),
            cut_off: watch::Sender::new(false),
        }
    }

    /// Operations that were begun so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Returns once the process has "died". From then on no operation through these wrappers ever returns.
    pub async fn crashed(&self) {
        let _ = self.crashed.subscribe().wait_for(|crashed| *crashed).await;
    }

    /// Cuts the process off, or (`false`) lets it back: meanwhile every operation is refused, whatever was planned for it,
    /// and watches end.
    pub fn cut_off(&self, is_cut_off: bool) {
        self.cut_off.send_replace(is_cut_off);
    }

    /// Returns once the process is cut off.
    async fn no_contact(&self) {
        let _ = self.cut_off.subscribe().wait_for(|is_cut_off| *is_cut_off).await;
    }

    /// Takes the next number, and what is to happen to that operation.
    async fn next(&self) -> Option<Fault> {
        self.stop_if_crashed().await;
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if *self.cut_off.borrow() { Some(Fault::Refuse) } else { self.plan.get(&number).copied() }
    }

    /// Carries out one operation. `lost` is the error of an answer that was lost.
    async fn run<T, E>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
        refused: impl FnOnce() -> E,
        lost: impl FnOnce() -> E,
    ) -> Result<T, E> {
        let fault = self.next().await;
        self.run_with(fault, operation, refused, lost).await
    }

    async fn run_with<T, E>(
        &self,
        fault: Option<Fault>,
        operation: impl Future<Output = Result<T, E>>,
        refused: impl FnOnce() -> E,
        lost: impl FnOnce() -> E,
    ) -> Result<T, E> {
        match fault {
            Some(Fault::Refuse) => return Err(refused()),
            Some(Fault::CrashBefore) => self.crash().await,
            Some(Fault::Delay(pause)) => tokio::time::sleep(pause).await,
            _ => {}
        }
        let result = operation.await;
        if fault == Some(Fault::CrashAfter) {
            self.crash().await;
        }
        // Another operation may have been the last one of this process.
        self.stop_if_crashed().await;
        match fault {
            Some(Fault::LoseAnswer | Fault::LoseAnswerThenApply(_)) => Err(lost()),
            _ => result,
        }
    }

    async fn crash(&self) {
        self.crashed.send_replace(true);
        pending::<()>().await;
    }

    async fn stop_if_crashed(&self) {
        if *self.crashed.borrow() {
            pending::<()>().await;
        }
    }
}
