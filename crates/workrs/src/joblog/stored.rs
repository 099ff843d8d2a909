//! The part of a log that lies in blobs: segments, named by the attempt that printed them and where they begin.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use workrs_core::{
    id::{Epoch, JobId},
    job::{JobRecord, JobState, LogRange},
    keys::{self, BlobNames},
};
use workrs_store::{
    blobs::{BlobError, Blobs},
    fresh,
};

const PIECE: usize = 256 << 10;

/// A log that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The blobs cannot be had.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The attempt's file cannot be read.
    #[error("cannot read the attempt's log: {0}")]
    File(#[from] std::io::Error),
    /// Bytes that the record counts on are not there.
    #[error("bytes {from} to {to} of the log are missing")]
    Missing {
        /// The first missing byte.
        from: u64,
        /// Behind the last missing byte.
        to: u64,
    },
}

/// A piece of a job's log that one attempt printed: bytes `from` to `to` of the job's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The attempt.
    pub epoch: Epoch,
    /// Its first byte.
    pub from: u64,
    /// Behind its last byte.
    pub to: u64,
}

/// Makes a segment durable, from the attempt's file, whose first byte is byte `file_from` of the job's log.
pub async fn store_segment(
    blobs: &Blobs,
    job: &JobId,
    segment: Segment,
    file: &Path,
    file_from: u64,
) -> Result<(), LogError> {
    if segment.to <= segment.from {
        return Ok(());
    }
    let mut file = tokio::fs::File::open(file).await?;
    file.seek(std::io::SeekFrom::Start(segment.from - file_from)).await?;
    let mut reader = file.take(segment.to - segment.from);
    let mut writer = blobs.writer(&BlobNames(job).log_segment(segment.epoch, segment.from, &fresh::operation()));
    let mut at = segment.from;
    loop {
        let mut buffer = BytesMut::with_capacity(PIECE);
        if reader.read_buf(&mut buffer).await? == 0 {
            break;
        }
        at += buffer.len() as u64;
        writer.write(buffer.freeze()).await?;
    }
    if at < segment.to {
        writer.abort().await?;
        return Err(LogError::Missing { from: at, to: segment.to });
    }
    writer.finish().await?;
    Ok(())
}

/// Copies bytes 0 to `to` of the log into one segment of `epoch`.
pub async fn merge_segments(blobs: &Blobs, record: &JobRecord, epoch: Epoch, to: u64) -> Result<(), LogError> {
    let mut writer = blobs.writer(&BlobNames(&record.id).log_segment(epoch, 0, &fresh::operation()));
    let mut at = 0;
    while at < to {
        let bytes = read_stored(blobs, record, at, to).await?;
        at += bytes.len() as u64;
        writer.write(bytes).await?;
    }
    writer.finish().await?;
    Ok(())
}

/// How much of the log lies in blobs for certain: all of a finished job's, up to the resume point otherwise.
pub fn stored_len(record: &JobRecord) -> u64 {
    match &record.state {
        JobState::Finished { log_bytes, .. } => *log_bytes,
        _ => record.resume_point().map_or(record.log_base, |checkpoint| checkpoint.log_bytes),
    }
}

/// Bytes `from` to `to` of the log, at most about 4 MiB of them; never empty unless `from` is not below `to`.
pub async fn read_stored(blobs: &Blobs, record: &JobRecord, from: u64, to: u64) -> Result<Bytes, LogError> {
    let to = to.min(stored_len(record)).min(from.saturating_add(4 << 20));
    if from >= to {
        return Ok(Bytes::new());
    }
    let (range, end) = range_at(&record.log, from).ok_or(LogError::Missing { from, to })?;
    let to = to.min(end);
    let prefix = format!("{}{}-", BlobNames(&record.id).log(), range.epoch);
    let segments = blobs.list(&prefix).await?;
    let covering = segments.iter().filter_map(|(name, len)| {
        let (epoch, start) = keys::parse_log_segment(name)?;
        (epoch == range.epoch && start <= from && start + len > from).then_some((name, start, *len))
    });
    let (name, start, len) =
        covering.max_by_key(|(_, start, len)| start + len).ok_or(LogError::Missing { from, to })?;
    let to = to.min(start + len);
    Ok(blobs.get_range(name, from - start..to - start).await?)
}

/// The range that holds byte `at`, and where the next one begins.
fn range_at(ranges: &[LogRange], at: u64) -> Option<(LogRange, u64)> {
    let index = ranges.iter().rposition(|range| range.from <= at)?;
    let end = ranges.get(index + 1).map_or(u64::MAX, |next| next.from);
    Some((ranges[index], end))
}

#[cfg(test)]
mod tests {
    use workrs_core::{
        id::{Owner, Timestamp},
        job::Outcome,
        spec::JobSpec,
    };

    use super::*;

    async fn write(blobs: &Blobs, job: &JobId, epoch: u64, from: u64, text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        std::fs::write(&file, text).unwrap();
        let segment = Segment { epoch: Epoch(epoch), from, to: from + text.len() as u64 };
        store_segment(blobs, job, segment, &file, from).await.unwrap();
    }

    #[tokio::test]
    async fn each_byte_comes_from_the_attempt_that_counts() {
        let blobs = Blobs::open("memory:").unwrap();
        let job = JobId::new("j").unwrap();
        let spec = JobSpec::new("n", vec!["true".into()]);
        let mut record = JobRecord::submitted(job.clone(), Owner::new("me").unwrap(), spec, None, Timestamp::default());
        record.log = vec![LogRange { epoch: Epoch(1), from: 0 }, LogRange { epoch: Epoch(3), from: 6 }];
        record.state =
            JobState::Finished { at: Timestamp::default(), outcome: Outcome::Succeeded, outputs: None, log_bytes: 12 };
        // Epoch 1 printed on beyond its last checkpoint, epoch 2 never got one, a retried segment is longer.
        write(&blobs, &job, 1, 0, "aaa").await;
        write(&blobs, &job, 1, 3, "bbbVOID").await;
        write(&blobs, &job, 2, 6, "VOID").await;
        write(&blobs, &job, 3, 6, "cc").await;
        write(&blobs, &job, 3, 6, "ccdddd").await;
        let mut log = Vec::new();
        while (log.len() as u64) < 12 {
            log.extend(read_stored(&blobs, &record, log.len() as u64, 12).await.unwrap());
        }
        assert_eq!(String::from_utf8(log).unwrap(), "aaabbbccdddd");
    }

    #[tokio::test]
    async fn merged_ranges_read_as_before() {
        let blobs = Blobs::open("memory:").unwrap();
        let job = JobId::new("j").unwrap();
        let spec = JobSpec::new("n", vec!["true".into()]);
        let mut record = JobRecord::submitted(job.clone(), Owner::new("me").unwrap(), spec, None, Timestamp::default());
        record.log = vec![LogRange { epoch: Epoch(1), from: 0 }, LogRange { epoch: Epoch(2), from: 3 }];
        record.log_base = 6;
        write(&blobs, &job, 1, 0, "aaaVOID").await;
        write(&blobs, &job, 2, 3, "bbb").await;
        merge_segments(&blobs, &record, Epoch(3), 6).await.unwrap();
        record.log = vec![LogRange { epoch: Epoch(3), from: 0 }];
        assert_eq!(read_stored(&blobs, &record, 0, 6).await.unwrap(), "aaabbb");
    }

    #[tokio::test]
    async fn a_missing_segment_is_said() {
        let blobs = Blobs::open("memory:").unwrap();
        let spec = JobSpec::new("n", vec!["true".into()]);
        let mut record =
            JobRecord::submitted(JobId::new("j").unwrap(), Owner::new("me").unwrap(), spec, None, Timestamp::default());
        record.log = vec![LogRange { epoch: Epoch(1), from: 0 }];
        record.log_base = 5;
        assert!(matches!(read_stored(&blobs, &record, 0, 5).await, Err(LogError::Missing { from: 0, to: 5 })));
    }
}
