//! Reads a job's log while it grows, across nodes' deaths.

use std::{io::SeekFrom, path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use workrs_core::{
    id::JobId,
    job::{JobRecord, JobState},
    keys,
};
use workrs_store::{
    blobs::Blobs,
    records::{RecordError, Records},
    state::WatchEvent,
};

use super::{
    pump::{LiveLog, LiveLogs},
    stored::{LogError, read_stored, stored_len},
};

const PIECE: usize = 64 << 10;

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

/// Streams the log of `job` from byte `from` on: to its present end, or with `follow` until the job has ended.
pub fn follow(records: Records, blobs: Blobs, live: LiveLogs, job: JobId, from: u64, follow: bool) -> Followed {
    let (events, receiver) = mpsc::channel(8);
    let follower = Follower { records, blobs, live, job, events, at: from };
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
    records: Records,
    blobs: Blobs,
    live: LiveLogs,
    job: JobId,
    events: mpsc::Sender<LogEvent>,
    /// The next byte to be sent.
    at: u64,
}

/// The follower has gone: there is nobody to tell.
struct Gone;

impl Follower {
    async fn run(mut self, follow: bool) {
        let last = loop {
            match self.round(follow).await {
                Ok(true) => break LogEvent::End,
                Ok(false) => {}
                Err(Ok(Gone)) => return,
                Err(Err(reason)) => break LogEvent::Failed(reason),
            }
        };
        // Whether it arrives or not, nothing follows.
        let _ = self.events.send(last).await;
    }

    /// Sends what there is now; waits for more only with `follow`. Whether it was the last.
    async fn round(&mut self, follow: bool) -> Result<bool, Result<Gone, String>> {
        let watch = if follow { Some(self.watch().await?) } else { None };
        let record = self.record().await?;
        self.send_stored(&record).await?;
        if record.is_finished() {
            return Ok(true);
        }
        let live = match &record.state {
            JobState::Running { holder, .. } => self.live.get(&self.job).filter(|log| log.epoch == holder.epoch),
            _ => None,
        };
        if let Some(mut live) = live {
            self.send_live(&mut live, follow).await?;
        }
        let Some(mut watch) = watch else { return Ok(true) };
        // Wait for the record to change, or for the live log to turn up.
        let key = keys::job(&self.job);
        let changed = async {
            while let Some(event) = watch.recv().await {
                match event {
                    WatchEvent::Put(entry) if entry.key != key => {}
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), changed).await;
        Ok(false)
    }

    async fn watch(&self) -> Result<workrs_store::state::Watch, Result<Gone, String>> {
        let key = keys::job(&self.job);
        let store = self.records.store();
        let watch = async { store.watch(&key, store.list(&key, None, 1).await?.revision).await };
        watch.await.map_err(|error| Err(error.to_string()))
    }

    async fn record(&self) -> Result<JobRecord, Result<Gone, String>> {
        match self.records.get(&self.job).await {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err(Err(RecordError::NotFound.to_string())),
            Err(error) => Err(Err(error.to_string())),
        }
    }

    async fn send_stored(&mut self, record: &JobRecord) -> Result<(), Result<Gone, String>> {
        let valid = stored_len(record);
        let cut_to = match &record.state {
            JobState::Running { holder, .. } => self
                .live
                .get(&self.job)
                .filter(|log| log.epoch == holder.epoch && self.at > *log.len.borrow())
                .map(|log| log.from),
            JobState::Queued { .. } | JobState::Finished { .. } => (self.at > valid).then_some(valid),
        };
        if let Some(cut_to) = cut_to {
            self.at = cut_to;
            self.send(LogEvent::Rewound(cut_to)).await?;
        }
        while self.at < valid {
            match read_stored(&self.blobs, record, self.at, valid).await {
                Ok(bytes) => self.send_bytes(bytes).await?,
                // A missing part is told, not hidden, and the rest still comes.
                Err(LogError::Missing { from, to }) => {
                    let marker = format!("\n[workrs] bytes {from} to {to} of the log are missing\n");
                    self.send(LogEvent::Bytes(from, marker.into())).await?;
                    self.at = to;
                }
                Err(error) => return Err(Err(error.to_string())),
            }
        }
        Ok(())
    }

    async fn send_live(&mut self, live: &mut LiveLog, follow: bool) -> Result<(), Result<Gone, String>> {
        loop {
            let len = *live.len.borrow_and_update();
            while self.at < len && self.at >= live.from {
                let count = usize::try_from(len - self.at).unwrap_or(PIECE).min(PIECE);
                match read_at(&live.path, self.at - live.from, count).await {
                    Ok(bytes) if !bytes.is_empty() => self.send_bytes(bytes).await?,
                    // The attempt has ended and its file is gone: the record tells how to go on.
                    _ => return Ok(()),
                }
            }
            if !follow || live.len.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), Result<Gone, String>> {
        let at = self.at;
        self.at += bytes.len() as u64;
        self.send(LogEvent::Bytes(at, bytes)).await
    }

    async fn send(&self, event: LogEvent) -> Result<(), Result<Gone, String>> {
        self.events.send(event).await.map_err(|_| Ok(Gone))
    }
}

async fn read_at(path: &Path, offset: u64, count: usize) -> std::io::Result<Bytes> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut buffer = BytesMut::with_capacity(count);
    file.take(count as u64).read_buf(&mut buffer).await?;
    Ok(buffer.freeze())
}
