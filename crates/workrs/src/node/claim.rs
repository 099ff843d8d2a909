//! Takes queued jobs that fit: the first by priority and age, and without fighting over them with other nodes.
//!
//! Each part of the queue is watched by a few nodes ([`placement::watched_shards`]); a node with nothing better to do looks
//! into the others from time to time. A job that has just come is left for a moment to nodes that rank before this one or
//! have nothing to do ([`placement::claim_delay`]); of jobs that have waited longer, those come first for which this node
//! ranks first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};
use workrs_core::{
    id::JobId,
    job::{JobRecord, JobState, decide},
    keys::{QUEUE_SHARDS, QueueEntry},
    placement::{self, Capacity},
};
use workrs_store::{
    fresh,
    records::{RecordError, guarded},
};

use super::{
    Cooldown, Order, Shared, Slot,
    members::{List, Member},
    nowhere,
    owners::{self, Turn},
    queue::{self, Jobs, Queue, Waiting},
    run,
};
use crate::metrics;

/// The queue is looked at this often without any notice, for whatever was missed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Among this many jobs of one priority that wait, a node begins with those for which it ranks first.
const WINDOW: usize = 64;
/// Claims of a node that are under way at the same time: the store takes many writes at once, but each one takes its time.
const CLAIMS_AT_ONCE: usize = 16;
/// The same of all nodes of the group together, as far as each may have one: more wait in the store, and renewals of leases
/// wait with them.
const CLAIMS_OF_GROUP: usize = 64;
/// How long what others claimed may take until this node's watch tells of it.
const NEWS: Duration = Duration::from_millis(20);
/// Jobs that a look into the parts of others brings.
const LOOK_AT: usize = 100;
/// Looks into the parts of others, by all nodes of the group together, in a second.
const LOOKS_PER_SECOND: u32 = 100;
const SHORTEST_LOOK_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_SETTLING: Duration = Duration::from_secs(2);

/// What this node has to know of the others to claim in peace with them.
struct Rivals {
    /// The parts of the queue that this node watches.
    shards: Vec<u8>,
    /// Of those, the other nodes that watch them, too.
    others: BTreeMap<u8, Vec<Arc<Member>>>,
    /// How many nodes take jobs.
    group: usize,
}

impl Rivals {
    fn new(shared: &Shared, members: &[Arc<Member>]) -> Self {
        let me = placement::name_hash(shared.config.id.as_str());
        let taking: Vec<_> = members.iter().filter(|member| member.takes_jobs && member.hash != me).collect();
        let hashes: Vec<u64> = taking.iter().map(|member| member.hash).collect();
        let shards = placement::watched_shards(me, &hashes);
        let all: Vec<u64> = hashes.iter().copied().chain([me]).collect();
        let others_of = |shard: u8| {
            let watchers: BTreeSet<_> = placement::watchers(shard, &all).into_iter().collect();
            taking.iter().filter(|member| watchers.contains(&member.hash)).map(|member| Arc::clone(member)).collect()
        };
        let others = shards.iter().map(|shard| (*shard, others_of(*shard))).collect();
        Self { shards, others, group: all.len() }
    }

    /// How many others may take the job, and how many of them rank before this node.
    fn of(&self, shared: &Shared, me: u64, waiting: &Waiting) -> (usize, usize) {
        let entry = &waiting.entry;
        // Then nobody can go on from its checkpoint, but others may give that up, too.
        let from_anywhere = is_to_be_given_up(shared, &waiting.job, entry);
        let is_able = |m: &&Arc<Member>| if from_anywhere { m.could_start(entry) } else { m.could_run(entry) };
        let able: Vec<_> = self.who_watch(waiting).iter().filter(is_able).map(|member| member.hash).collect();
        (able.len(), placement::rank(waiting.hash, me, able.iter().copied()))
    }

    /// The others that watch the job, too.
    fn who_watch(&self, waiting: &Waiting) -> &[Arc<Member>] {
        self.others.get(&waiting.shard).map_or(&[][..], Vec::as_slice)
    }

    /// Whether this node comes first of those that watch the job.
    fn none_before(&self, me: u64, waiting: &Waiting) -> bool {
        placement::rank(waiting.hash, me, self.who_watch(waiting).iter().map(|member| member.hash)) == 0
    }

    /// How many claims of this node may be under way at the same time.
    fn claims_at_once(&self) -> usize {
        (CLAIMS_OF_GROUP / self.group).clamp(1, CLAIMS_AT_ONCE)
    }

    /// The pause between two looks into the parts of others; `None` if there are none.
    fn look_pause(&self) -> Option<Duration> {
        let share = Duration::from_secs(1) / LOOKS_PER_SECOND * u32::try_from(self.group).unwrap_or(u32::MAX);
        (self.shards.len() < usize::from(QUEUE_SHARDS)).then(|| share.max(SHORTEST_LOOK_PAUSE))
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut members = shared.members.subscribe();
    // Before the first list of nodes, a node would take itself for the only one.
    let _ = members.wait_for(|list| !list.is_empty()).await;
    loop {
        let rivals = Rivals::new(&shared, &members.borrow_and_update());
        let mut queue = match Queue::open(&**shared.records.store(), &rivals.shards).await {
            Ok(queue) => queue,
            Err(error) => {
                tracing::warn!(%error, "cannot read the queue, will try on");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        serve(&shared, &mut queue, rivals, &mut members).await;
    }
}

/// Claims jobs until the queue has to be opened anew.
async fn serve(shared: &Arc<Shared>, queue: &mut Queue, mut rivals: Rivals, members: &mut watch::Receiver<List>) {
    let first_look = |rivals: &Rivals| rivals.look_pause().map(|pause| Instant::now() + pause.mul_f64(rand::random()));
    let mut next_look = first_look(&rivals);
    loop {
        let freed = shared.freed.notified();
        let pause = take_what_fits(shared, &queue.jobs, &rivals).await;
        metrics::QUEUE_KNOWN.set(queue.jobs.len() as f64);
        tokio::select! {
            biased;
            () = until(next_look) => {
                look_elsewhere(shared, &rivals).await;
                next_look = rivals.look_pause().map(|pause| Instant::now() + pause);
            }
            // Before the next claims: so that none is of a job that is known to be gone.
            goes_on = queue.changed() => if !goes_on {
                metrics::WATCH_RESTARTS.add_to(&["queue"], 1);
                return;
            },
            () = freed => {}
            () = tokio::time::sleep(pause) => {}
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                // Nodes seldom come alone: when a group starts, not every one of them is worth a new look.
                let settling = Duration::from_millis(10) * u32::try_from(members.borrow().len()).unwrap_or(u32::MAX);
                tokio::time::sleep(settling.min(LONGEST_SETTLING)).await;
                let new = Rivals::new(shared, &members.borrow_and_update());
                if new.shards != rivals.shards {
                    return;
                }
                rivals = new;
                next_look = next_look.or_else(|| first_look(&rivals));
            }
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Claims some of the jobs that fit; gives the time after which another look may find more.
async fn take_what_fits(shared: &Arc<Shared>, queue: &Jobs, rivals: &Rivals) -> Duration {
    let me = placement::name_hash(shared.config.id.as_str());
    let is_first = |waiting: &Waiting| rivals.none_before(me, waiting);
    let (soonest, words) = nowhere::look(shared, queue.resuming(), is_first);
    nowhere::say(shared, words, rivals.claims_at_once()).await;
    let mut pause = soonest.map_or(LOOK_EVERY, |soonest| soonest.min(LOOK_EVERY));
    let free = shared.free();
    if shared.takes_none() || !queue.has_any_within(free) {
        return pause;
    }
    let now = Instant::now();
    let mut window: Vec<(usize, &Waiting)> = Vec::new();
    for waiting in queue.iter() {
        let is_of_them = window.first().is_none_or(|(_, first)| first.priority == waiting.priority);
        if window.len() == WINDOW || !is_of_them {
            break;
        }
        if !is_takeable(shared, waiting, free) {
            continue;
        }
        let (count, rank) = rivals.of(shared, me, waiting);
        let delay = placement::claim_delay(rank, count, shared.busy(free));
        let hold = cooldown(shared, &waiting.job).max(shared.owners.hold(waiting));
        let wait = hold.max((waiting.seen + delay).saturating_duration_since(now));
        if wait.is_zero() {
            window.push((rank, waiting));
        } else {
            pause = pause.min(wait);
        }
    }
    if window.is_empty() {
        return pause;
    }
    window.sort_by_key(|(rank, _)| *rank);
    // Those for which this node ranks best, and if it gets some, no others: meanwhile these are taken by nodes that rank
    // better for them.
    for of_a_rank in window.chunk_by(|(one, _), (other, _)| one == other) {
        let chosen = fitting(shared, of_a_rank.iter().map(|(_, waiting)| *waiting));
        match claim_all(shared, chosen, rivals.claims_at_once()).await {
            Claims::Some => return Duration::ZERO,
            Claims::None => {}
            Claims::Stopped => return Duration::from_secs(1),
        }
    }
    NEWS
}

/// What came of some claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claims {
    /// This node has some of the jobs.
    Some,
    /// All were others'.
    None,
    /// It makes no sense to go on for now.
    Stopped,
}

/// Those of the jobs that fit together, in their order.
fn fitting<'a>(shared: &Shared, jobs: impl Iterator<Item = &'a Waiting>) -> Vec<(JobId, QueueEntry)> {
    let mut free = shared.free();
    let mut chosen = Vec::new();
    for waiting in jobs {
        if is_takeable(shared, waiting, free) {
            free = free.without(&waiting.entry);
            chosen.push((waiting.job.clone(), waiting.entry.clone()));
        }
    }
    chosen
}

/// Claims jobs that fit together, some at the same time.
async fn claim_all(shared: &Arc<Shared>, jobs: Vec<(JobId, QueueEntry)>, at_once: usize) -> Claims {
    let claims = stream::iter(jobs).map(|(job, entry)| try_claim(shared, job, entry));
    let claims = claims.buffer_unordered(at_once);
    let came_to = |all, one| match (all, one) {
        (Claims::Stopped, _) | (_, Claims::Stopped) => Claims::Stopped,
        (Claims::Some, _) | (_, Claims::Some) => Claims::Some,
        (Claims::None, Claims::None) => Claims::None,
    };
    claims.fold(Claims::None, |all, one| std::future::ready(came_to(all, one))).await
}

/// Looks into parts of the queue that others watch, and claims what fits: the others may be full, or fit none of it.
async fn look_elsewhere(shared: &Arc<Shared>, rivals: &Rivals) {
    let free = shared.free();
    if shared.takes_none() || free.cpus_milli == 0 || free.memory_bytes == 0 {
        return;
    }
    let from = rand::random::<u8>() % QUEUE_SHARDS;
    let found = match queue::look(&**shared.records.store(), from, LOOK_AT).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "cannot look into the queue");
            return;
        }
    };
    let elsewhere = || found.iter().filter(|waiting| !rivals.shards.contains(&waiting.shard));
    // Those who watch them tell why they wait, but may be full when that is over.
    nowhere::look(shared, elsewhere(), |_| false);
    let is_free =
        |waiting: &&Waiting| cooldown(shared, &waiting.job).is_zero() && shared.owners.hold(waiting).is_zero();
    let chosen = fitting(shared, elsewhere().filter(is_free));
    claim_all(shared, chosen, rivals.claims_at_once()).await;
}

fn is_takeable(shared: &Shared, waiting: &Waiting, free: Capacity) -> bool {
    let Waiting { job, entry, .. } = waiting;
    placement::fits(entry, free, &shared.traits).is_ok()
        && !shared.jobs().contains_key(job)
        && (placement::can_resume(entry, &shared.traits).is_ok() || is_to_be_given_up(shared, job, entry))
}

/// Whether the job has waited long enough for a node that fits its checkpoint.
fn is_to_be_given_up(shared: &Shared, job: &JobId, entry: &QueueEntry) -> bool {
    shared.nowhere.is_over(job, entry, shared.config.unfit_wait)
}

/// Claims a job for which there is room.
async fn try_claim(shared: &Arc<Shared>, job: JobId, entry: QueueEntry) -> Claims {
    if shared.takes_none() {
        return Claims::Stopped;
    }
    match owners::in_turn(shared, &entry, async |turn| claim(shared, &job, &entry, turn).await).await {
        Ok(true) => Claims::Some,
        Ok(false) | Err(RecordError::NotFound | RecordError::Illegal(_)) => {
            metrics::CLAIM_CONFLICTS.add(1);
            Claims::None
        }
        // Its key is gone, or it is to drain.
        Err(RecordError::GuardFailed) => {
            shared.lease_lost.notify_one();
            Claims::Stopped
        }
        // A job that nobody can run must not keep the others waiting.
        Err(RecordError::Damaged(reason)) => {
            tracing::error!(%job, reason, "cannot claim the job");
            cool_down(shared, &job);
            Claims::None
        }
        Err(error) => {
            tracing::warn!(%job, %error, "cannot claim the job");
            Claims::Stopped
        }
    }
}

/// For how long this node is to leave the job alone.
fn cooldown(shared: &Shared, job: &JobId) -> Duration {
    let cooldowns = shared.cooldowns();
    cooldowns.get(job).map_or(Duration::ZERO, |known| known.until.saturating_duration_since(Instant::now()))
}

/// Whether the job is this node's now.
async fn claim(shared: &Arc<Shared>, job: &JobId, entry: &QueueEntry, turn: Turn) -> Result<bool, RecordError> {
    let (order, orders) = watch::channel(Order::Run);
    let unsaved_since = Arc::new(Mutex::new(Instant::now()));
    let at = fresh::now();
    let given_up = entry.resume.as_ref().map(|resume| resume.checkpoint);
    let given_up = given_up.filter(|_| is_to_be_given_up(shared, job, entry));
    let choose = |record: &JobRecord| {
        if !matches!(record.state, JobState::Queued { .. }) {
            return None;
        }
        let holder = shared.holder(record.epoch.next());
        // Noted before it is sent: a claim that was applied, but whose answer is lost, must not look forgotten.
        let (entry, epoch) = (entry.clone(), holder.epoch);
        let slot = Slot { entry, epoch, order: order.clone(), unsaved_since: Arc::clone(&unsaved_since) };
        shared.jobs().insert(job.clone(), slot);
        let (event, mut guards) = guarded(decide::claim(&holder, at));
        guards.extend(turn.condition.clone());
        Some((event, guards))
    };
    let besides = turn.change.as_slice();
    let claimed = shared.records.change_with(job, None, choose, besides, &fresh::operation()).await;
    // A record that moved on at once, by a cancel, is still this claim's to end.
    let record = claimed.as_ref().ok().and_then(Option::as_ref).filter(|record| {
        let noted = shared.jobs().get(job).map(|slot| slot.epoch);
        record.holder().is_some_and(|holder| Some(holder.epoch) == noted && *holder == shared.holder(holder.epoch))
    });
    let Some(record) = record.cloned() else {
        // Nothing became free, so nobody is woken: the next claim would follow at once.
        shared.jobs().remove(job);
        return claimed.map(|_| false);
    };
    metrics::CLAIMS.add(1);
    let holder = shared.holder(record.epoch);
    tracing::info!(%job, epoch = %record.epoch, "claimed");
    shared.show();
    shared.spawn_for_job(job, run::run(Arc::clone(shared), record, holder, given_up, orders, unsaved_since));
    Ok(true)
}

/// Leaves a job alone for a while: twice as long after each failed try, up to a minute.
pub(super) fn cool_down(shared: &Shared, job: &JobId) {
    let now = Instant::now();
    let mut cooldowns = shared.cooldowns();
    let cooldown = cooldowns.entry(job.clone()).or_insert(Cooldown { until: now, tries: 0 });
    cooldown.until =
        now + Duration::from_millis(500).saturating_mul(1 << cooldown.tries.min(7)).min(Duration::from_secs(60));
    cooldown.tries += 1;
}
