//! Prints a job's log while it grows, across the deaths of nodes.

use std::{
    io::{self, Write},
    time::Duration,
};

use futures::StreamExt;

use super::client;
use crate::{
    api::LogLine,
    args::LogsArgs,
    client::{Client, ClientError},
};

/// How long a node that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Prints what a job printed.
pub async fn logs(args: LogsArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    follow(&client, &args.id, args.follow).await?;
    Ok(0)
}

/// Prints the log to its end. Nothing is printed twice, however often the job is resumed or a node dies.
pub(super) async fn follow(client: &Client, id: &str, follow: bool) -> anyhow::Result<()> {
    let mut printer = Printer { printed: 0, out: io::stdout() };
    let mut failing_since: Option<tokio::time::Instant> = None;
    loop {
        let ended = async {
            let lines = client.logs(id, printer.printed, follow).await?;
            let mut lines = std::pin::pin!(lines);
            while let Some(line) = lines.next().await {
                match line? {
                    LogLine::Bytes { offset, data } => printer.print(offset, &data).map_err(broken)?,
                    LogLine::Rewound { offset } => printer.rewound(offset),
                    LogLine::End => return Ok(true),
                    LogLine::Failed { reason } => {
                        return Err(ClientError::Unreachable { servers: "the group".to_owned(), reason });
                    }
                }
            }
            Ok(false)
        };
        match ended.await {
            Ok(true) => return Ok(()),
            // The stream broke off without an end: the node stopped.
            Ok(false) | Err(ClientError::Unreachable { .. }) if !follow => return Ok(()),
            Ok(false) => {}
            Err(error) if follow && error.is_passing() => {
                let since = *failing_since.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        if failing_since.is_none() {
            eprintln!("[workrs] the node went away; waiting for it or another one");
            failing_since = Some(tokio::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        if client.job(id, None).await.is_ok() {
            failing_since = None;
        }
    }
}

fn broken(error: io::Error) -> ClientError {
    ClientError::File { path: "standard output".into(), error }
}

struct Printer<W> {
    /// The log is printed up to this offset.
    printed: u64,
    out: W,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, offset: u64, data: &str) -> io::Result<()> {
        // One char is one byte.
        let bytes: Vec<u8> = data.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
        let repeated = usize::try_from(self.printed.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        self.out.write_all(&bytes[repeated..])?;
        self.out.flush()?;
        self.printed = self.printed.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn rewound(&self, offset: u64) {
        let again = self.printed.saturating_sub(offset);
        eprintln!("[workrs] the job was resumed; {again} bytes of its log come again and are not shown twice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_not_printed_twice() {
        let mut printer = Printer { printed: 0, out: Vec::new() };
        printer.print(0, "1\n2\n3\n").unwrap();
        printer.rewound(2);
        printer.print(2, "2\n").unwrap();
        printer.print(4, "3\n4\n").unwrap();
        assert_eq!(printer.out, b"1\n2\n3\n4\n");
    }
}
