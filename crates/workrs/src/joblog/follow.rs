//! Reads a job's log while it grows, across nodes' deaths, wherever the job runs.
//!
//! A follower looks at the record, takes from blobs what is stored, then from the node that runs the job what that
//! prints, until the record changes; then it looks again. It alone decides what a resume cuts: the record says which
//! attempt wrote which part of the log, so the first byte that changes hands is where the log is cut.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use workrs_core::{
    id::{Epoch, JobId},
    job::{JobRecord, JobState, LogRange},
    keys,
};
use workrs_store::{
    blobs::{BlobError, Blobs},
    records::{RecordError, Records},
    state::{StateError, Watch, WatchEvent},
};

use super::{
    live::{LiveEvents, Source},
    pump::LiveLogs,
    remote::Peers,
    stored::{LogError, read_stored, stored_len},
};

/// How often the record is looked at while there is no live log to read.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked at without notice while there is one.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long a follower waits for stores that do not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a follower of a log is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// Bytes of the log, from this offset on.
    Bytes(u64, Bytes),
    /// A resume cut the log back to this offset: what came behind it comes again.
    Rewound(u64),
    /// The job has ended, and this was its log.
    End,
    /// The log cannot be read on; the text says why.
    Failed(String),
}

/// The events of one follower.
pub type Followed = ReceiverStream<LogEvent>;

/// Where logs are.
#[derive(Clone)]
pub struct LogSources {
    /// The group's jobs.
    pub records: Records,
    /// The group's blobs.
    pub blobs: Blobs,
    /// The logs of the jobs that run on this node.
    pub live: LiveLogs,
    /// The nodes that run the others.
    pub peers: Peers,
}

/// Streams the log of `job` from byte `from` on: to its present end, or with `follow` until the job has ended.
pub fn follow(sources: LogSources, job: JobId, from: u64, follow: bool) -> Followed {
    let (events, receiver) = mpsc::channel(8);
    let follower = Follower { sources, job, events, at: from, ranges: None, live: None };
    tokio::spawn(async move {
        let gone = follower.events.clone();
        tokio::select! {
            () = gone.closed() => {}
            () = follower.run(follow) => {}
        }
    });
    ReceiverStream::new(receiver)
}

struct Follower {
    sources: LogSources,
    job: JobId,
    events: mpsc::Sender<LogEvent>,
    /// The next byte to be sent.
    at: u64,
    /// Who wrote what, when the record was last looked at.
    ranges: Option<Vec<LogRange>>,
    /// What the attempt of this epoch prints, from `at` on.
    live: Option<(Epoch, LiveEvents)>,
}

/// Why a follower stops.
enum Stop {
    /// It has gone: there is nobody to tell.
    Gone,
    /// A store does not answer; that may pass.
    Away(String),
    /// The log cannot be read.
    Failed(String),
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Damaged(_) => Self::Failed(error.to_string()),
            error => Self::Away(error.to_string()),
        }
    }
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Unavailable(reason) => Self::Away(reason),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Follower {
    async fn run(mut self, follow: bool) {
        let mut watch = None;
        let mut away_since = None;
        let last = loop {
            match self.round(follow, &mut watch).await {
                Ok(true) => break LogEvent::End,
                Ok(false) => away_since = None,
                Err(Stop::Gone) => return,
                Err(Stop::Failed(reason)) => break LogEvent::Failed(reason),
                Err(Stop::Away(reason)) => {
                    if !follow || away_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        break LogEvent::Failed(reason);
                    }
                    watch = None;
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        // Whether it arrives or not, nothing follows.
        let _ = self.events.send(last).await;
    }

    /// Sends what there is now; with `follow` goes on until the record may have changed. Whether it was the last.
    async fn round(&mut self, follow: bool, watch: &mut Option<Watch>) -> Result<bool, Stop> {
        if follow && watch.is_none() {
            *watch = Some(self.watch().await?);
        }
        let record = self.sources.records.get(&self.job).await?.ok_or(RecordError::NotFound)?;
        self.cut(&record).await?;
        if self.live.is_none() {
            if !self.send_stored(&record).await? {
                return Ok(false);
            }
            self.open_live(&record, follow).await?;
        }
        let Some(waited) = watch else {
            self.send_live().await?;
            return Ok(true);
        };
        if record.is_finished() {
            return Ok(true);
        }
        if !self.follow_live(waited).await? {
            *watch = None;
        }
        Ok(false)
    }

    async fn watch(&mut self) -> Result<Watch, Stop> {
        let key = keys::job(&self.job);
        let store = self.sources.records.store();
        Ok(store.watch(&key, store.list(&key, None, 1).await?.revision).await?)
    }

    /// Goes back to where the log was cut since the last look, and lets go of an attempt that is over.
    async fn cut(&mut self, record: &JobRecord) -> Result<(), Stop> {
        let diverged = self.ranges.as_ref().and_then(|known| divergence(known, &record.log));
        self.ranges = Some(record.log.clone());
        let valid = stored_len(record);
        let (epoch, end) = match &record.state {
            JobState::Running { holder, .. } => (Some(holder.epoch), None),
            JobState::Queued { .. } | JobState::Finished { .. } => (None, Some(valid)),
        };
        if self.live.as_ref().is_some_and(|(live, _)| Some(*live) != epoch) {
            self.live = None;
        }
        match diverged.into_iter().chain(end).min() {
            Some(cut_to) if cut_to < self.at => {
                // A fall-back of the attempt cuts what it is read from, too.
                self.live = None;
                self.pass_on(LogEvent::Rewound(cut_to)).await
            }
            _ => Ok(()),
        }
    }

    /// Sends what lies in blobs; `false` if the record changed under it and has to be looked at again.
    async fn send_stored(&mut self, record: &JobRecord) -> Result<bool, Stop> {
        let valid = stored_len(record);
        while self.at < valid {
            match read_stored(&self.sources.blobs, record, self.at, valid).await {
                Ok(bytes) => self.pass_on(LogEvent::Bytes(self.at, bytes)).await?,
                Err(LogError::Missing { from, to }) => {
                    let now = self.sources.records.get(&self.job).await?.ok_or(RecordError::NotFound)?;
                    if now.log != record.log {
                        return Ok(false);
                    }
                    // A missing part is told, not hidden, and the rest still comes.
                    let marker = format!("\n[workrs] bytes {from} to {to} of the log are missing\n");
                    self.pass_on(LogEvent::Bytes(from, marker.into())).await?;
                    self.at = to;
                }
                Err(LogError::Blobs(error @ BlobError::Unavailable(_))) => return Err(Stop::Away(error.to_string())),
                Err(error) => return Err(Stop::Failed(error.to_string())),
            }
        }
        Ok(true)
    }

    /// Finds what the running attempt prints.
    async fn open_live(&mut self, record: &JobRecord, follow: bool) -> Result<(), Stop> {
        let Some(holder) = record.holder() else { return Ok(()) };
        let sources = &self.sources;
        let source = match sources.live.get(&self.job).filter(|log| log.epoch == holder.epoch) {
            Some(log) => Some(Source::Here(log)),
            None => {
                sources.peers.log_of(&sources.records, &self.job, holder).await?.map(|log| Source::There(Box::new(log)))
            }
        };
        self.live = source.map(|source| (holder.epoch, source.events(self.at, follow)));
        Ok(())
    }

    /// Sends all that the live log gives.
    async fn send_live(&mut self) -> Result<(), Stop> {
        while let Some((_, live)) = &mut self.live {
            match live.next().await {
                Some(event) => self.pass_on(event).await?,
                None => self.live = None,
            }
        }
        Ok(())
    }

    /// Sends what the live log gives until the record may have changed; whether the watch goes on.
    async fn follow_live(&mut self, watch: &mut Watch) -> Result<bool, Stop> {
        let key = keys::job(&self.job);
        let mut look_at = Instant::now() + if self.live.is_some() { LOOK_AGAIN } else { LOOK_EVERY };
        loop {
            let live = &mut self.live;
            let printed = async {
                match live {
                    Some((_, live)) => live.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = watch.recv() => match event {
                    Some(WatchEvent::Put(entry)) if entry.key != key => {}
                    Some(WatchEvent::Put(_) | WatchEvent::Deleted { .. }) => return Ok(true),
                    Some(WatchEvent::Compacted) | None => return Ok(false),
                },
                event = printed => if let Some(event) = event {
                    self.pass_on(event).await?;
                } else {
                    self.live = None;
                    look_at = Instant::now() + LOOK_EVERY;
                },
                () = tokio::time::sleep_until(look_at) => return Ok(true),
            }
        }
    }

    async fn pass_on(&mut self, event: LogEvent) -> Result<(), Stop> {
        match &event {
            LogEvent::Bytes(at, bytes) => self.at = at + bytes.len() as u64,
            LogEvent::Rewound(at) => self.at = *at,
            LogEvent::End | LogEvent::Failed(_) => {}
        }
        self.events.send(event).await.map_err(|_| Stop::Gone)
    }
}

/// The first byte that `known` and `now` ascribe to different attempts.
fn divergence(known: &[LogRange], now: &[LogRange]) -> Option<u64> {
    // Once all before an attempt was copied into its own segment it has other names, but the same bytes.
    if let [merged] = now
        && merged.from == 0
        && known.last().is_some_and(|last| last.epoch == merged.epoch)
    {
        return None;
    }
    let same = known.iter().zip(now).take_while(|(known, now)| known == now).count();
    known.get(same).into_iter().chain(now.get(same)).map(|range| range.from).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Vec<LogRange> {
        list.iter().map(|(epoch, from)| LogRange { epoch: Epoch(*epoch), from: *from }).collect()
    }

    fn check(known: &[(u64, u64)], now: &[(u64, u64)], expect: Option<u64>) {
        assert_eq!(divergence(&ranges(known), &ranges(now)), expect, "{known:?} {now:?}");
    }

    #[test]
    fn the_log_is_cut_where_it_changes_hands() {
        check(&[], &[], None);
        check(&[], &[(1, 0)], Some(0));
        check(&[(1, 0)], &[(1, 0)], None);
        check(&[(1, 0)], &[(1, 0), (2, 70)], Some(70));
        // A fall-back of the same attempt, and attempts that came and went unseen.
        check(&[(1, 0), (2, 70)], &[(1, 0), (2, 30)], Some(30));
        check(&[(1, 0), (2, 70)], &[(1, 0), (3, 50), (4, 90)], Some(50));
        check(&[(1, 0), (2, 50)], &[(1, 0), (4, 90)], Some(50));
        // A clean start, and a copy into one segment.
        check(&[(1, 0), (2, 50)], &[(3, 0)], Some(0));
        check(&[(1, 0), (2, 50), (3, 80)], &[(3, 0)], None);
    }
}
