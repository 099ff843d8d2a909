//! Jobs for the nodes, and what becomes of them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use workrs::{api::SubmitRequest, client::Client};
use workrs_core::{
    id::{JobId, Owner},
    job::{JobEvent, JobRecord},
    keys,
    spec::{CheckpointPolicy, JobSpec, MIN_DISK, MIN_MEMORY},
};
use workrs_store::{
    etcd::EtcdStore,
    fresh,
    records::{RecordError, Records},
    state::{Change, StateStore, Transaction, WatchEvent},
};

use crate::group::CPUS_MILLI;

/// Writes that are under way at the same time.
const AT_ONCE: usize = 64;
/// Begins the ids of jobs that only take their nodes.
const HOLD: &str = "hold-";
const RETRY: Duration = Duration::from_millis(200);
/// A group that does nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(120);

/// How long many writes took together, and each.
pub struct Timed {
    seconds: f64,
    each: Vec<Duration>,
}

impl Timed {
    /// For the answer.
    pub fn shown(mut self) -> Value {
        self.each.sort_unstable();
        let millis = |share: f64| {
            let at = (share * self.each.len() as f64) as usize;
            self.each.get(at.min(self.each.len().saturating_sub(1))).map(|time| time.as_secs_f64() * 1e3)
        };
        json!({ "seconds": self.seconds, "p50_ms": millis(0.5), "p99_ms": millis(0.99) })
    }
}

/// What happened to jobs, and when first and last.
#[derive(Default)]
struct Seen {
    jobs: HashSet<JobId>,
    span: Option<(Instant, Instant)>,
}

impl Seen {
    fn note(&mut self, job: JobId, now: Instant) {
        if self.jobs.insert(job) {
            let (first, _) = *self.span.get_or_insert((now, now));
            self.span = Some((first, now));
        }
    }

    fn seconds(&self) -> f64 {
        self.span.map_or(0.0, |(first, last)| (last - first).as_secs_f64())
    }
}

/// What the state tells of jobs, as it happens.
#[derive(Default)]
struct Sight {
    claimed: Seen,
    finished: Seen,
    held: usize,
    broken: bool,
}

/// The one who submits and looks on.
pub struct Load {
    records: Records,
    sight: Arc<Mutex<Sight>>,
    /// Jobs that are to finish.
    expected: usize,
    held: Vec<JobId>,
    newest: Vec<JobId>,
}

impl Load {
    /// Looks on from now on.
    pub async fn open(state: &str) -> anyhow::Result<Self> {
        let store: Arc<dyn StateStore> = Arc::new(EtcdStore::open(&state.parse()?).await?);
        let sight = Arc::default();
        for prefix in [keys::RUNNING, keys::FINISHED] {
            let from = store.list(prefix, None, 1).await?.revision;
            let watch = store.watch(prefix, from).await?;
            tokio::spawn(look_on(watch, Arc::clone(&sight)));
        }
        Ok(Self { records: Records::new(store), sight, expected: 0, held: Vec::new(), newest: Vec::new() })
    }

    /// Writes values that nobody reads: what etcd can do at best.
    pub async fn put(&self, count: u32) -> anyhow::Result<Timed> {
        let sample = record(fresh::id(), 1_000, vec!["exit".to_owned(), "0".to_owned()])?;
        let value = serde_json::to_vec(&sample)?;
        let store = self.records.store();
        at_once(count, |number| {
            let change = Change::Put(format!("bench/{number:08}"), value.clone().into(), None);
            let put = Transaction { conditions: Vec::new(), changes: vec![change] };
            async move { Ok(store.commit(put).await.map(drop)?) }
        })
        .await
    }

    /// Submits jobs that do nothing.
    pub async fn submit(&mut self, count: u32, cpus_milli: u32) -> anyhow::Result<Timed> {
        let jobs: Vec<_> = (0..count).map(|_| fresh::id()).collect();
        let records = &self.records;
        let timed = at_once(count, |number| {
            let id = jobs[number as usize].clone();
            async move {
                let record = record(id, cpus_milli, vec!["exit".to_owned(), "0".to_owned()])?;
                Ok(records.submit(record, &fresh::operation()).await.map(drop)?)
            }
        });
        let timed = timed.await?;
        self.expected += count as usize;
        self.newest = jobs.into_iter().map(JobId::new).collect::<Result<_, _>>()?;
        Ok(timed)
    }

    /// The same, as users do it.
    pub async fn post(&mut self, addresses: &[String], count: u32, cpus_milli: u32) -> anyhow::Result<Timed> {
        ensure!(!addresses.is_empty(), "there are no nodes");
        let clients = addresses.iter().map(|address| Client::new(std::slice::from_ref(address), None));
        let clients: Vec<_> = clients.collect::<Result<_, _>>()?;
        let request: SubmitRequest = serde_json::from_value(json!({
            "command": ["exit", "0"], "name": "noop", "cpus": f64::from(cpus_milli) / 1e3,
            "memory": MIN_MEMORY, "disk": MIN_DISK, "checkpoint": "none",
        }))?;
        let timed = at_once(count, |number| {
            let client = &clients[number as usize % clients.len()];
            // So that it can be sent again.
            let request = SubmitRequest { id: Some(fresh::id()), ..request.clone() };
            async move { Ok(client.submit(&request, None, &[], |_| {}).await.map(drop)?) }
        });
        let timed = timed.await?;
        self.expected += count as usize;
        Ok(timed)
    }

    /// Gives each of `nodes` nodes a job that takes all of it.
    pub async fn hold(&mut self, nodes: usize) -> anyhow::Result<()> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner).held = 0;
        for _ in 0..nodes {
            let command = vec!["sleep".to_owned(), "1000000000".to_owned()];
            let record = record(format!("{HOLD}{}", fresh::id()), CPUS_MILLI, command)?;
            self.held.push(record.id.clone());
            self.records.submit(record, &fresh::operation()).await?;
        }
        self.until(|sight| sight.held, nodes).await
    }

    /// Ends the jobs of [`hold`](Self::hold).
    pub async fn release(&mut self) -> anyhow::Result<()> {
        let records = &self.records;
        let cancels = futures::stream::iter(self.held.drain(..)).map(|id| async move {
            let event = JobEvent::CancelRequested { at: fresh::now() };
            let operation = fresh::operation();
            let began = Instant::now();
            while let Err(error) = records.apply(&id, &event, &[], &operation).await {
                // All nodes begin to claim now, so etcd has much to do.
                ensure!(matches!(error, RecordError::Unavailable(_)) && began.elapsed() < STUCK, "{id}: {error}");
                tokio::time::sleep(RETRY).await;
            }
            anyhow::Ok(())
        });
        cancels.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(())
    }

    /// Waits until all jobs have finished, and tells about those since the last time.
    pub async fn drain(&mut self) -> anyhow::Result<Value> {
        self.until(|sight| sight.finished.jobs.len(), self.expected).await?;
        let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        let (claimed, finished) = (std::mem::take(&mut sight.claimed), std::mem::take(&mut sight.finished));
        self.expected = 0;
        Ok(json!({
            "claimed": claimed.jobs.len(), "claim_seconds": claimed.seconds(),
            "finished": finished.jobs.len(), "finish_seconds": finished.seconds(),
        }))
    }

    /// How large records are.
    pub async fn record_bytes(&self, count: usize) -> anyhow::Result<Value> {
        let (mut bytes, mut read) = (0, 0);
        for job in self.newest.iter().take(count) {
            let key = keys::job(job);
            let entry = self.records.store().get(&key).await?.context("a job has no record")?;
            let record = self.records.get(job).await?.context("a job has no record")?;
            let index = keys::index_keys(&record).into_iter().map(|(key, value)| key.len() + value.to_string().len());
            bytes += key.len() + entry.value.len() + index.sum::<usize>();
            read += 1;
        }
        ensure!(read > 0, "nothing was submitted");
        Ok(json!({ "bytes": bytes / read }))
    }

    async fn until(&self, what: impl Fn(&Sight) -> usize, expected: usize) -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let seen = {
                let sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
                ensure!(!sight.broken, "the watch of the jobs broke off");
                what(&sight)
            };
            if seen >= expected {
                return Ok(());
            }
            if seen > last {
                (last, since) = (seen, Instant::now());
            }
            if since.elapsed() > STUCK {
                bail!("{seen} of {expected} jobs got there, and then none for {} s", STUCK.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn record(id: String, cpus_milli: u32, command: Vec<String>) -> anyhow::Result<JobRecord> {
    let mut spec = JobSpec::new("noop", command);
    (spec.cpus_milli, spec.memory_bytes, spec.disk_bytes) = (cpus_milli, MIN_MEMORY, MIN_DISK);
    spec.checkpoint = CheckpointPolicy::None;
    Ok(JobRecord::submitted(JobId::new(id)?, Owner::new("local")?, spec, None, fresh::now()))
}

async fn look_on(mut watch: workrs_store::state::Watch, sight: Arc<Mutex<Sight>>) {
    while let Some(event) = watch.recv().await {
        let now = Instant::now();
        let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            WatchEvent::Put(entry) => {
                let Some(job) = keys::job_of_index(&entry.key) else { continue };
                let is_claim = entry.key.starts_with(keys::RUNNING);
                if job.as_str().starts_with(HOLD) {
                    sight.held += usize::from(is_claim);
                } else if is_claim {
                    sight.claimed.note(job, now);
                } else {
                    sight.finished.note(job, now);
                }
            }
            WatchEvent::Deleted { .. } => {}
            WatchEvent::Compacted => break,
        }
    }
    sight.lock().unwrap_or_else(PoisonError::into_inner).broken = true;
}

/// Does something so many times, some of it at once.
async fn at_once<F>(count: u32, work: impl Fn(u32) -> F) -> anyhow::Result<Timed>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let began = Instant::now();
    let works = futures::stream::iter(0..count).map(|number| {
        let work = work(number);
        async move {
            let began = Instant::now();
            work.await?;
            anyhow::Ok(began.elapsed())
        }
    });
    let each = works.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(Timed { seconds: began.elapsed().as_secs_f64(), each })
}
