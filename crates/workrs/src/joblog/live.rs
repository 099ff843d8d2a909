//! The part of a log that lies in no blob yet: the bytes that a running attempt prints, from its file on this node or
//! from the node that has it.

use std::{io::SeekFrom, path::Path};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{LogEvent, pump::LiveLog, remote::RemoteLog};

const PIECE: usize = 64 << 10;

/// What a running attempt prints: bytes, and first of all a rewind if who asks is further than the attempt. The stream
/// ends when the attempt has ended or cannot be read any more; which of the two, the job's record tells.
pub type LiveEvents = BoxStream<'static, LogEvent>;

/// Where a running attempt's bytes are.
pub(super) enum Source {
    /// It runs on this node.
    Here(LiveLog),
    /// Another node runs it.
    There(Box<RemoteLog>),
}

impl Source {
    /// From byte `at` of the job's log on: what there is now, and with `follow` what is still to come.
    pub(super) fn events(self, at: u64, follow: bool) -> LiveEvents {
        match self {
            Self::Here(log) => live_events(log, at, follow),
            Self::There(log) => log.events(at, follow),
        }
    }
}

/// What an attempt on this node prints, from byte `at` of the job's log on.
pub fn live_events(log: LiveLog, at: u64, follow: bool) -> LiveEvents {
    futures::stream::unfold((log, at), move |(mut log, at)| async move {
        let event = next(&mut log, at, follow).await?;
        let at = match &event {
            LogEvent::Bytes(at, bytes) => at + bytes.len() as u64,
            LogEvent::Rewound(at) => *at,
            LogEvent::End | LogEvent::Failed(_) => return None,
        };
        Some((event, (log, at)))
    })
    .boxed()
}

async fn next(log: &mut LiveLog, at: u64, follow: bool) -> Option<LogEvent> {
    loop {
        let len = *log.len.borrow_and_update();
        if at > len {
            // Bytes of an earlier attempt: this one has not come so far.
            return Some(LogEvent::Rewound(log.from));
        }
        if at < len {
            // What lies before the file is in blobs.
            let offset = at.checked_sub(log.from)?;
            let count = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
            let bytes = read_at(&log.path, offset, count).await.ok()?;
            return (!bytes.is_empty()).then_some(LogEvent::Bytes(at, bytes));
        }
        if !follow || log.len.changed().await.is_err() {
            return None;
        }
    }
}

async fn read_at(path: &Path, offset: u64, count: usize) -> std::io::Result<Bytes> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut buffer = BytesMut::with_capacity(count);
    file.take(count as u64).read_buf(&mut buffer).await?;
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use workrs_core::id::Epoch;

    use super::*;

    fn log(from: u64, text: &str) -> (LiveLog, watch::Sender<u64>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, text).unwrap();
        let (sender, len) = watch::channel(from + text.len() as u64);
        (LiveLog { epoch: Epoch(2), from, path, len }, sender, folder)
    }

    #[tokio::test]
    async fn who_is_further_than_the_attempt_is_sent_back_to_where_it_began() {
        let (log, _sender, _folder) = log(10, "abcd");
        let all = |at| live_events(log.clone(), at, false).collect::<Vec<_>>();
        assert_eq!(all(12).await, [LogEvent::Bytes(12, "cd".into())]);
        assert_eq!(all(14).await, []);
        assert_eq!(all(15).await, [LogEvent::Rewound(10), LogEvent::Bytes(10, "abcd".into())]);
    }

    #[tokio::test]
    async fn a_follower_gets_what_comes_until_the_attempt_ends() {
        let (log, sender, _folder) = log(0, "ab");
        let path = log.path.clone();
        let mut events = live_events(log, 0, true);
        assert_eq!(events.next().await, Some(LogEvent::Bytes(0, "ab".into())));
        std::fs::write(path, "abc").unwrap();
        sender.send_replace(3);
        assert_eq!(events.next().await, Some(LogEvent::Bytes(2, "c".into())));
        drop(sender);
        assert_eq!(events.next().await, None);
    }
}
