//! A pretended group of two machines with one store and one place for blobs, in which nodes come and go until a job is done.
//! Leases end by the paused clock. Faults strike on one node, the victim; the other one is well.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use tempfile::TempDir;
use workrs::node::{self, NodeParts, RunningNode};
use workrs_core::{
    id::NodeId,
    job::{JobRecord, JobState, Outcome},
    keys,
};
use workrs_engine::fake::FakeHost;
use workrs_store::{
    blobs::Blobs,
    faulty::{Faults, FaultyBlobs, FaultyState, TimedLeases},
    records::Records,
    redb::RedbStore,
    state::{Change, StateStore, Transaction},
};

use crate::job::{TestJob, node_config, on_paused_clock};

const NAMES: [&str; 2] = ["first", "second"];
/// Virtual time after which a job that is not done is stuck.
const STUCK: Duration = Duration::from_secs(10 * 60);
/// The first node has this long to claim the job before the second one is started.
const HEAD_START: Duration = Duration::from_secs(3);
/// In the middle of the job, which takes 6 s.
const MIDDLE: Duration = Duration::from_millis(3_500);
/// The house is kept once, all blobs looked through included.
const A_ROUND: Duration = Duration::from_secs(180);

/// What happens in the middle of the job, besides the enumerated fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupStory {
    /// Nothing.
    Undisturbed,
    /// The first node is killed, and comes back as a new process when its lease has long ended. The victim is the second one.
    Killed,
    /// The first node, the victim, is cut off from the store for longer than its lease.
    CutOff,
    /// The first node, the victim, is stopped.
    Stopped,
    /// The first node, the victim, is told to give its jobs back.
    Drained,
}

/// What becomes of a node that dies of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It stays away until the job is done.
    ForGood,
    /// It comes back as a new process after this time.
    For(Duration),
}

pub struct Group {
    folder: TempDir,
    hosts: [FakeHost; 2],
    state: Arc<dyn StateStore>,
    job: TestJob,
    story: GroupStory,
    /// Those that strike on the victim.
    faults: Faults,
    death: Death,
}

impl Group {
    /// Lives through `story` until the job is done and checks it; gives the number of the victim's operations.
    pub fn run(story: GroupStory, faults: Faults, death: Death) -> u64 {
        on_paused_clock(async move {
            let group = Self::new(story, faults, death).await;
            let all = async {
                tokio::join!(group.live(0), group.live(1));
            };
            tokio::select! {
                () = all => unreachable!("nodes live until the job is done"),
                () = group.done() => {}
                () = tokio::time::sleep(STUCK) => panic!("the job is stuck: {:#?}", group.record().await),
            }
            let count = group.faults.count();
            group.check().await;
            count
        })
    }

    async fn new(story: GroupStory, faults: Faults, death: Death) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let host = |name: &str| {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            FakeHost::new(folder.path().join(name))
        };
        let hosts = NAMES.map(host);
        let state: Arc<dyn StateStore> = Arc::new(TimedLeases::new(Arc::new(RedbStore::in_memory())));
        let job = TestJob::submit("count", 6, &Records::new(state.clone())).await;
        Self { folder, hosts, state, job, story, faults, death }
    }

    fn victim(&self) -> usize {
        usize::from(self.story == GroupStory::Killed)
    }

    /// For those who look on: no fault strikes here, and nothing is counted.
    async fn record(&self) -> JobRecord {
        Records::new(self.state.clone()).get(&self.job.id).await.unwrap().unwrap()
    }

    fn work_dir(&self, number: usize) -> PathBuf {
        self.folder.path().join(NAMES[number]).join("work")
    }

    /// Starts a node; `link` is cut when the node is cut off.
    async fn start(&self, number: usize, faults: &Faults, link: &Faults) -> Option<RunningNode> {
        let linked = Arc::new(FaultyState::new(self.state.clone(), link.clone()));
        let records = Records::new(Arc::new(FaultyState::new(linked, faults.clone())));
        let blobs = Blobs::new(Arc::new(FaultyBlobs::new(self.job.blobs.clone(), faults.clone())));
        let parts = NodeParts { records, blobs, engine: Arc::new(self.hosts[number].engine()) };
        node::start(node_config(NAMES[number], self.work_dir(number)), parts).await.ok()
    }

    /// All lives of a node, one after the other. Ends only when it is dropped.
    async fn live(&self, number: usize) {
        if number == 1 {
            self.first_has_begun().await;
        }
        let mut faults = if number == self.victim() { self.faults.clone() } else { Faults::none() };
        let mut told = number == 0;
        loop {
            let link = Faults::none();
            let end = {
                let life = self.one_life(number, &faults, &link, std::mem::take(&mut told));
                tokio::select! {
                    biased;
                    () = faults.crashed() => End::Died,
                    end = life => end,
                }
            };
            match end {
                End::Died => {
                    self.hosts[number].crash();
                    self.job.check_restorable(&self.record().await, self.folder.path()).await;
                    match self.death {
                        Death::ForGood => pending().await,
                        Death::For(time) => tokio::time::sleep(time).await,
                    }
                    faults = Faults::none();
                }
                End::Killed => {
                    self.hosts[number].crash();
                    tokio::time::sleep(Duration::from_secs(20)).await;
                }
                End::Stopped => pending().await,
                // As an operator's service manager does.
                End::NotStarted => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// A life of a node to its end; dropping it kills the node.
    async fn one_life(&self, number: usize, faults: &Faults, link: &Faults, told: bool) -> End {
        let Some(node) = self.start(number, faults, link).await else { return End::NotStarted };
        if !told || self.story == GroupStory::Undisturbed {
            return pending().await;
        }
        tokio::time::sleep(MIDDLE).await;
        match self.story {
            GroupStory::Undisturbed => pending().await,
            GroupStory::Killed => {
                node.crash().await;
                End::Killed
            }
            GroupStory::CutOff => {
                link.cut_off(true);
                tokio::time::sleep(Duration::from_secs(12)).await;
                link.cut_off(false);
                pending().await
            }
            GroupStory::Stopped => {
                node.stop(Duration::from_secs(80)).await;
                self.hosts[number].crash();
                End::Stopped
            }
            GroupStory::Drained => {
                let key = keys::drain(&NodeId::new(NAMES[number]).unwrap());
                let changes = vec![Change::Put(key, "{}".into(), None)];
                self.state.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
                pending().await
            }
        }
    }

    /// Returns when the first node holds the job, or has had time enough.
    async fn first_has_begun(&self) {
        let begun = async {
            while !matches!(self.record().await.state, JobState::Running { .. }) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(HEAD_START, begun).await;
    }

    /// Returns when the job has finished.
    async fn done(&self) {
        while !self.record().await.is_finished() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn check(&self) {
        let finished = self.record().await;
        TestJob::check_attempts(&finished);
        // Both machines come back, whatever happened to them, and the house is kept once.
        self.hosts.iter().for_each(FakeHost::crash);
        let none = Faults::none();
        let first = self.start(0, &none, &none).await.unwrap();
        let second = self.start(1, &none, &none).await.unwrap();
        tokio::time::sleep(A_ROUND).await;
        for node in [first, second] {
            node.stop(Duration::from_secs(1)).await;
        }
        let record = self.record().await;
        let JobState::Finished { outcome: Outcome::Succeeded, .. } = &record.state else { panic!("{record:#?}") };
        assert_eq!(record.state, finished.state, "the result changed");
        self.job.check_result(&record).await;
        self.job.check_cleaned().await;
        for host in &self.hosts {
            assert_eq!(host.containers(), [] as [String; 0], "containers are left");
        }
    }
}

/// How a node's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Of a fault.
    Died,
    /// As the story wants it.
    Killed,
    Stopped,
    NotStarted,
}
