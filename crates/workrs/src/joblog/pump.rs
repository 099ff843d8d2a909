//! From the job's output pipe into a file, up to a limit.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use workrs_core::{
    id::{Epoch, JobId},
    spec::format_size,
};

const BUFFER: usize = 64 << 10;

/// A log that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The file or the pipe failed.
    #[error("cannot keep the job's log: {0}")]
    Io(#[from] io::Error),
    /// The pump's task is gone.
    #[error("cannot keep the job's log: its task ended")]
    Ended,
}

/// The log of a job that runs on this node, as followers see it.
#[derive(Debug, Clone)]
pub struct LiveLog {
    /// The attempt that prints it.
    pub epoch: Epoch,
    /// Offset in the job's log of the file's first byte.
    pub from: u64,
    /// The file.
    pub path: PathBuf,
    /// Length of the job's log so far; closed once nothing more will come.
    pub len: watch::Receiver<u64>,
}

/// The logs of the jobs that run on this node.
#[derive(Debug, Clone, Default)]
pub struct LiveLogs(Arc<Mutex<HashMap<JobId, LiveLog>>>);

impl LiveLogs {
    /// The log of `job`, if it runs here.
    pub fn get(&self, job: &JobId) -> Option<LiveLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
    }

    /// Shows followers the log of an attempt whose program runs.
    pub fn insert(&self, job: JobId, log: LiveLog) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(job, log);
    }

    /// Forgets the log of an attempt.
    pub fn remove(&self, job: &JobId, epoch: Epoch) {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logs.get(job).is_some_and(|log| log.epoch == epoch) {
            logs.remove(job);
        }
    }
}

/// Takes what a job prints.
pub struct LogPump {
    drains: mpsc::Sender<oneshot::Sender<Result<u64, PumpError>>>,
    task: Option<JoinHandle<Result<u64, PumpError>>>,
    live: LiveLog,
}

impl LogPump {
    /// Starts a pump that continues the job's log at offset `from`, in a file in `folder`, and gives the write
    /// end of its pipe. Beyond `limit` bytes of log, what comes is read and thrown away, and the log says so.
    pub fn start(epoch: Epoch, from: u64, limit: u64, folder: &Path) -> Result<(Self, OwnedFd), PumpError> {
        let path = folder.join("log");
        let file = File::create(&path)?;
        let (reader, writer) = io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let (len, len_receiver) = watch::channel(from);
        let (drains, drain_receiver) = mpsc::channel(1);
        let sink = Sink { file, len: from, limit, announce: len };
        let task = tokio::spawn(pump(reader, sink, drain_receiver));
        let live = LiveLog { epoch, from, path, len: len_receiver };
        Ok((Self { drains, task: Some(task), live }, writer.into()))
    }

    /// The attempt's log file.
    pub fn path(&self) -> &Path {
        &self.live.path
    }

    /// Offset in the job's log of the file's first byte.
    pub fn from(&self) -> u64 {
        self.live.from
    }

    /// What followers read.
    pub fn live(&self) -> &LiveLog {
        &self.live
    }

    /// Takes all that is in the pipe now and gives the log's length. Complete while the job is frozen.
    pub async fn drain(&self) -> Result<u64, PumpError> {
        let (answer, length) = oneshot::channel();
        self.drains.send(answer).await.map_err(|_| PumpError::Ended)?;
        length.await.map_err(|_| PumpError::Ended)?
    }

    /// Takes the rest, once the container has ended, and gives the log's length.
    pub async fn finish(&mut self) -> Result<u64, PumpError> {
        match self.task.take() {
            Some(task) => task.await.map_err(|_| PumpError::Ended)?,
            None => Err(PumpError::Ended),
        }
    }
}

impl Drop for LogPump {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn pump(
    reader: pipe::Receiver,
    mut sink: Sink,
    mut drains: mpsc::Receiver<oneshot::Sender<Result<u64, PumpError>>>,
) -> Result<u64, PumpError> {
    let mut buffer = vec![0; BUFFER];
    let mut open = true;
    while open {
        tokio::select! {
            biased;
            Some(answer) = drains.recv() => {
                let drained = loop {
                    // Past tokio's notion of readiness, which may lag behind what is in the pipe.
                    let read = rustix::io::read(&reader, &mut buffer).map_err(io::Error::from);
                    match take(read, &buffer, &mut sink) {
                        Ok(Taken::Some) => {}
                        Ok(Taken::Nothing) => break Ok(sink.len),
                        Ok(Taken::End) => { open = false; break Ok(sink.len) }
                        Err(error) => break Err(error.into()),
                    }
                };
                // A checkpoint that gave up no longer waits for the answer.
                let _ = answer.send(drained);
            }
            ready = reader.readable() => {
                ready?;
                let read = reader.try_read(&mut buffer);
                open = !matches!(take(read, &buffer, &mut sink)?, Taken::End);
                // A job that prints without end must not keep the node from anything else.
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(sink.len)
}

enum Taken {
    Some,
    Nothing,
    End,
}

fn take(read: io::Result<usize>, buffer: &[u8], sink: &mut Sink) -> io::Result<Taken> {
    match read {
        Ok(0) => Ok(Taken::End),
        Ok(count) => {
            sink.write(&buffer[..count])?;
            Ok(Taken::Some)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Taken::Nothing),
        Err(error) => Err(error),
    }
}

struct Sink {
    file: File,
    len: u64,
    limit: u64,
    announce: watch::Sender<u64>,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // At the limit itself the marker is still to come; it takes the log beyond.
        if self.len > self.limit {
            return Ok(());
        }
        let room = usize::try_from(self.limit - self.len).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.file.write_all(kept)?;
        self.len += kept.len() as u64;
        if kept.len() < bytes.len() {
            let marker = format!("\n[workrs] log limit of {} reached: the rest is not kept\n", format_size(self.limit));
            self.file.write_all(marker.as_bytes())?;
            self.len += marker.len() as u64;
        }
        self.announce.send_replace(self.len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(limit: u64) -> (LogPump, File, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (pump, writer) = LogPump::start(Epoch(1), 100, limit, folder.path()).unwrap();
        (pump, File::from(writer), folder)
    }

    #[tokio::test]
    async fn a_drain_takes_all_that_was_printed() {
        let (mut pump, mut writer, _folder) = start(1 << 20);
        writer.write_all(b"hello").unwrap();
        assert_eq!(pump.drain().await.unwrap(), 105);
        writer.write_all(b" world").unwrap();
        drop(writer);
        assert_eq!(pump.finish().await.unwrap(), 111);
        assert_eq!(std::fs::read(pump.path()).unwrap(), b"hello world");
    }

    #[tokio::test]
    async fn a_log_that_is_just_full_says_so_once_more_comes() {
        let (mut pump, mut writer, _folder) = start(104);
        for piece in [b"xxxx", b"more", b"more"] {
            writer.write_all(piece).unwrap();
            pump.drain().await.unwrap();
        }
        drop(writer);
        pump.finish().await.unwrap();
        let kept = std::fs::read_to_string(pump.path()).unwrap();
        assert_eq!(kept, "xxxx\n[workrs] log limit of 104 B reached: the rest is not kept\n");
    }

    #[tokio::test]
    async fn beyond_the_limit_the_log_says_so_once() {
        let (mut pump, mut writer, _folder) = start(104);
        for _ in 0..1_000 {
            writer.write_all(&[b'x'; 1_000]).unwrap();
            pump.drain().await.unwrap();
        }
        drop(writer);
        let len = pump.finish().await.unwrap();
        let kept = std::fs::read_to_string(pump.path()).unwrap();
        assert_eq!(len, 100 + kept.len() as u64);
        assert_eq!(kept, "xxxx\n[workrs] log limit of 104 B reached: the rest is not kept\n");
    }
}
