//! The index over a real store: what it says, how often it asks, and what it does with entries of an earlier version.

use std::collections::BTreeMap;

use workrs_core::{
    id::{Epoch, Incarnation, OperationId},
    job::{Failure, Holder, JobEvent, Outcome},
    spec::JobSpec,
};
use workrs_store::{
    blobs::Blobs,
    envelope::Envelope,
    faulty::{Faults, FaultyState},
    fresh,
    redb::RedbStore,
    state::{Change, StateStore, Transaction},
};

use super::*;

const OWNERS: [&str; 3] = ["ada", "bob", "cyd"];

/// A group's state, and how often it was asked.
struct World {
    faults: Faults,
    records: Records,
    index: JobIndex,
}

impl World {
    fn new() -> Self {
        let faults = Faults::none();
        let store: Arc<dyn StateStore> = Arc::new(FaultyState::new(Arc::new(RedbStore::in_memory()), faults.clone()));
        let records = Records::new(store).with_archive(Blobs::open("memory:").unwrap());
        Self { faults, index: JobIndex::new(records.clone()), records }
    }

    /// Writes records with their index keys, many in one transaction.
    async fn write(&self, jobs: &[JobRecord]) {
        for jobs in jobs.chunks(500) {
            let mut changes = Vec::new();
            for record in jobs {
                let key = keys::job(&record.id);
                let envelope = Envelope::new(record.owner.as_str(), record, OperationId::new("op").unwrap());
                changes.push(Change::Put(key.clone(), envelope.encode(&key), None));
                let index = keys::index_keys(record).into_iter();
                changes.extend(index.map(|(key, value)| Change::Put(key, value.to_string().into(), None)));
            }
            self.commit(changes).await;
        }
    }

    async fn commit(&self, changes: Vec<Change>) {
        self.records.store().commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
    }

    /// Writes a record in place of another of the same job.
    async fn replace(&self, old: &JobRecord, new: &JobRecord) {
        let (old, new_keys) = (keys::index_keys(old), keys::index_keys(new));
        self.commit(old.into_keys().filter(|key| !new_keys.contains_key(key)).map(Change::Delete).collect()).await;
        self.write(std::slice::from_ref(new)).await;
    }

    /// Removes a record with its index keys.
    async fn delete(&self, record: &JobRecord) {
        let index = keys::index_keys(record).into_keys();
        self.commit(index.chain([keys::job(&record.id)]).map(Change::Delete).collect()).await;
    }

    /// Makes the index entries below `prefix` as an earlier version wrote them.
    async fn forget_notes(&self, prefix: &str) {
        let entries = self.records.store().list(prefix, None, usize::MAX).await.unwrap().entries;
        self.commit(entries.into_iter().map(|entry| Change::Put(entry.key, "{}".into(), None)).collect()).await;
    }

    async fn all(&self) -> Vec<Row> {
        self.index.query(&Filter { limit: usize::MAX, ..Filter::default() }, None).await.unwrap().rows
    }

    /// Operations of the store that `work` takes.
    async fn operations<T>(&self, work: impl Future<Output = T>) -> (T, u64) {
        let before = self.faults.count();
        let result = work.await;
        (result, self.faults.count() - before)
    }
}

fn holder(number: usize) -> Holder {
    let node = NodeId::new(format!("node-{}", number % 10)).unwrap();
    Holder { node, incarnation: Incarnation::new("process").unwrap(), epoch: Epoch(1) }
}

/// The job of this number: of every tenth two run and one waits, the others have ended in all ways.
fn job(number: usize) -> JobRecord {
    let id = JobId::new(format!("job-{number}")).unwrap();
    let owner = Owner::new(OWNERS[number % OWNERS.len()]).unwrap();
    let spec = JobSpec::new(format!("Work {}", number % 100), vec!["true".to_owned()]);
    let at = Timestamp::from_millis(1_000 + number as u64 / 2);
    let mut record = JobRecord::submitted(id, owner, spec, None, at);
    let outcomes =
        [Outcome::Succeeded, Outcome::Failed { failure: Failure::Exit { code: 1 } }, Outcome::Cancelled, Outcome::Lost];
    let outcome = outcomes[number % 4].clone();
    record.state = match number % 10 {
        0 => record.state,
        1 | 2 => JobState::Running { holder: holder(number), since: at, cancel: None },
        _ => JobState::Finished { at, outcome, outputs: None, log_bytes: 0 },
    };
    record
}

fn newest_first(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.cursor()));
    rows
}

#[tokio::test]
async fn ten_thousand_jobs_cost_some_listings_once() {
    let world = World::new();
    let jobs: Vec<_> = (0..10_000).map(job).collect();
    world.write(&jobs).await;
    let expect = newest_first(jobs.iter().map(Row::of).collect());

    let began = std::time::Instant::now();
    let (first, operations) = world.operations(world.all()).await;
    println!("10,000 jobs: first look {:?}", began.elapsed());
    assert_eq!(first, expect);
    assert!(operations < 20, "{operations} operations");

    // Page after page, while nothing changes: one question each, whether that is so.
    let mut filter = Filter { limit: 700, ..Filter::default() };
    let mut rows = Vec::new();
    loop {
        let (page, operations) = world.operations(world.index.query(&filter, None)).await;
        let page = page.unwrap();
        assert_eq!((page.total, operations), (10_000, 1));
        assert_eq!((page.counts.queued, page.counts.running, page.counts.finished), (1_000, 2_000, 7_000));
        assert_eq!(page.counts.all(), 10_000);
        rows.extend(page.rows);
        filter.after = page.next;
        if filter.after.is_none() {
            break;
        }
    }
    assert_eq!(rows, expect);

    // What changes costs as many operations again, but only its own entries are looked at.
    let began = std::time::Instant::now();
    world.write(&[job(10_000)]).await;
    let (rows, operations) = world.operations(world.all()).await;
    println!("10,000 jobs: look after a change {:?}", began.elapsed());
    assert_eq!((rows.len(), &rows[0]), (10_001, &Row::of(&job(10_000))));
    assert!(operations < 20, "{operations} operations");

    let began = std::time::Instant::now();
    let filter = Filter { search: Some("wORK 42".to_owned()), ..Filter::default() };
    let page = world.index.query(&filter, None).await.unwrap();
    println!("10,000 jobs: searched in {:?}", began.elapsed());
    assert_eq!(page.total, 100);
    let records = world.index.read(&page.rows).await.unwrap();
    assert_eq!(records.iter().map(Row::of).collect::<Vec<_>>(), page.rows);
}

#[tokio::test]
async fn a_filter_lets_through_what_it_says_and_counts_the_rest() {
    let world = World::new();
    let jobs: Vec<_> = (0..400).map(job).collect();
    world.write(&jobs).await;
    let check = async |filter: Filter, owner: Option<&Owner>| {
        let filter = Filter { limit: usize::MAX, ..filter };
        let page = world.index.query(&filter, owner).await.unwrap();
        let is_of = |row: &Row| owner.is_none_or(|owner| row.owner == *owner);
        let mut expect =
            newest_first(jobs.iter().map(Row::of).filter(|row| is_of(row) && filter.admits(row)).collect());
        if filter.order == Order::Asc {
            expect.reverse();
        }
        assert_eq!(page.total, expect.len());
        assert!(!expect.is_empty() && expect.len() < jobs.len(), "the filter filters: {filter:?}");
        assert_eq!(page.rows, expect, "{filter:?}");
        page
    };
    let none = Filter::default;
    let ada = Owner::new("ada").unwrap();
    check(Filter { state: Some(StateKind::Running), ..none() }, None).await;
    let lost = check(Filter { outcome: Some(OutcomeKind::Lost), ..none() }, None).await;
    assert_eq!(lost.counts.all(), 400, "a state that was asked for is not what is counted");
    assert_eq!(lost.counts.lost, lost.total);
    check(Filter { name: Some("Work 7".to_owned()), ..none() }, None).await;
    check(Filter { search: Some("JOB-1".to_owned()), ..none() }, None).await;
    check(Filter { owner: Some(ada.clone()), ..none() }, None).await;
    check(Filter { node: Some(NodeId::new("node-1").unwrap()), ..none() }, None).await;
    check(Filter { since: Some(Timestamp::from_millis(1_100)), order: Order::Asc, ..none() }, None).await;
    check(Filter { until: Some(Timestamp::from_millis(1_100)), ..none() }, None).await;
    let own = check(Filter { search: Some("work".to_owned()), ..none() }, Some(&ada)).await;
    assert_eq!(own.counts.all(), own.total, "nothing of others is counted");
}

#[tokio::test(start_paused = true)]
async fn a_change_shows_at_once_unless_a_second_ago_will_do() {
    let world = World::new();
    world.write(&[job(0)]).await;
    assert_eq!(world.all().await.len(), 1);
    let added = JobRecord { submitted_at: Timestamp::from_millis(1), ..job(10) };
    world.records.submit(added.clone(), &fresh::operation()).await.unwrap();
    let recent = async || world.index.recent(&Filter::default(), None).await.unwrap().rows.len();
    assert_eq!(world.operations(recent()).await, (1, 0));
    assert_eq!(world.all().await.len(), 2);
    assert_eq!(recent().await, 2);
    let claimed = JobEvent::Claimed { holder: holder(3), at: Timestamp::from_millis(5) };
    world.records.apply(&added.id, &claimed, &[], &fresh::operation()).await.unwrap();
    tokio::time::advance(RECENT * 2).await;
    let rows = world.index.recent(&Filter::default(), None).await.unwrap().rows;
    assert_eq!(rows[1].standing, Standing::Running { node: holder(3).node });
}

#[tokio::test]
async fn entries_of_an_earlier_version_are_read_from_their_records_once() {
    let world = World::new();
    let jobs: Vec<_> = (0..100).map(job).collect();
    world.write(&jobs).await;
    let expect = newest_first(jobs.iter().map(Row::of).collect());
    for prefix in [keys::OWNERS, keys::RUNNING, keys::FINISHED] {
        world.forget_notes(prefix).await;
        assert_eq!(world.all().await, expect, "{prefix}");
    }
    // So does a process that begins only now, which reads the records once, and then only those that change.
    let world = World { index: JobIndex::new(world.records.clone()), ..world };
    let (rows, operations) = world.operations(world.all()).await;
    assert_eq!(rows, expect);
    assert!(operations > jobs.len() as u64, "{operations} operations");
    world.commit(vec![Change::Put("other".to_owned(), "".into(), None)]).await;
    let (rows, operations) = world.operations(world.all()).await;
    assert_eq!(rows, expect);
    assert!(operations < 10, "{operations} operations");
    // Where all is read anew, as something was deleted: what has ended stays so, but who runs a job may change.
    let (deleted, rest) = jobs.split_last().unwrap();
    world.delete(deleted).await;
    let (rows, operations) = world.operations(world.all()).await;
    assert_eq!(rows, newest_first(rest.iter().map(Row::of).collect()));
    let running = rest.iter().filter(|job| job.holder().is_some()).count() as u64;
    assert!((running..running + 20).contains(&operations), "{operations} operations");
}

#[tokio::test]
async fn a_job_between_two_keys_is_found_by_its_record() {
    let world = World::new();
    let jobs = [job(0), job(1), job(3)];
    world.write(&jobs).await;
    let index: Vec<_> = jobs.iter().flat_map(keys::index_keys).map(|(key, _)| key).collect();
    let standings = index.into_iter().filter(|key| !key.starts_with(keys::OWNERS));
    world.commit(standings.map(Change::Delete).collect()).await;
    assert_eq!(world.all().await, newest_first(jobs.iter().map(Row::of).collect()));
}

#[tokio::test]
async fn archived_jobs_stay_and_damaged_ones_hide_no_others() {
    let world = World::new();
    let (archived, damaged) = (job(4), job(8));
    world.write(&[archived.clone(), damaged.clone()]).await;
    world.records.archive(&archived.id, &fresh::operation()).await.unwrap();
    let rows = world.all().await;
    assert_eq!(rows, newest_first(vec![Row::of(&archived), Row::of(&damaged)]));
    world.commit(vec![Change::Put(keys::job(&damaged.id), "rubbish".into(), None)]).await;
    assert_eq!(world.index.read(&rows).await.unwrap(), [archived]);
}

#[tokio::test]
async fn a_store_that_was_set_back_is_read_anew() {
    let (world, set_back) = (World::new(), World::new());
    let jobs: Vec<_> = (1..6).map(job).collect();
    for record in &jobs {
        world.write(std::slice::from_ref(record)).await;
    }
    world.all().await;
    let waiting: Vec<_> = jobs.into_iter().map(|record| JobRecord { state: job(0).state, ..record }).collect();
    set_back.write(&waiting).await;
    let index = JobIndex { records: set_back.records.clone(), known: world.index.known };
    assert_eq!(World { index, ..set_back }.all().await, newest_first(waiting.iter().map(Row::of).collect()));
}

#[tokio::test]
async fn whatever_changes_it_says_what_one_says_that_begins_anew() {
    let world = World::new();
    let mut jobs: BTreeMap<usize, JobRecord> = BTreeMap::new();
    // An LCG with Knuth's MMIX constants.
    let mut number = 1u64;
    let mut below = |end: usize| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as usize % end
    };
    for round in 0..300 {
        for _ in 0..=below(3) {
            let chosen = below(30);
            let Some(old) = jobs.get(&chosen).cloned() else {
                jobs.insert(chosen, job(chosen));
                world.write(&[job(chosen)]).await;
                continue;
            };
            if below(8) == 0 {
                world.delete(&old).await;
                jobs.remove(&chosen);
                continue;
            }
            let mut new = old.clone();
            let at = new.submitted_at;
            new.state = match below(3) {
                0 => job(0).state,
                1 => JobState::Running { holder: holder(below(10)), since: at, cancel: None },
                _ => JobState::Finished { at, outcome: Outcome::Succeeded, outputs: None, log_bytes: 0 },
            };
            world.replace(&old, &new).await;
            jobs.insert(chosen, new);
        }
        let rows = world.all().await;
        assert_eq!(rows, newest_first(jobs.values().map(Row::of).collect()), "round {round}");
        let anew = World { index: JobIndex::new(world.records.clone()), ..World::new() };
        assert_eq!(rows, anew.all().await, "round {round}");
    }
}
