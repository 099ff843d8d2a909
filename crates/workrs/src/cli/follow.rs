//! Prints a job's log while it grows, across the deaths of nodes.

use std::{
    io::{self, Write},
    time::Duration,
};

use futures::StreamExt;
use tokio::time::Instant;

use super::{client, patience::Patience};
use crate::{
    api::LogLine,
    args::LogsArgs,
    client::{Client, ClientError, Tried},
};

/// A log that is not followed is asked for this often if it breaks off.
const TRIES: u32 = 4;
/// A stream that lasted so long was a good one, also if the job printed nothing.
const STEADY: Duration = Duration::from_secs(10);

/// Prints what a job printed.
pub async fn logs(args: LogsArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    follow(&client, &args.id, args.follow).await?;
    Ok(0)
}

/// Prints the log to its end. Nothing is printed twice, however often the job is resumed or a node dies.
pub(super) async fn follow(client: &Client, id: &str, follow: bool) -> anyhow::Result<()> {
    let mut printer = Printer { printed: 0, out: io::stdout() };
    let mut patience = Patience::new();
    let mut breaks = 0;
    loop {
        let began = Instant::now();
        let printed_before = printer.printed;
        let error = match read(client, id, follow, &mut printer).await {
            Ok(true) => return Ok(()),
            // It broke off without an end: the node stopped. The next one goes on.
            Ok(false) => broke_off(),
            Err(error) => error,
        };
        breaks += 1;
        if !follow && breaks >= TRIES {
            return Err(error.into());
        }
        if printer.printed > printed_before || began.elapsed() > STEADY {
            patience.renew();
        }
        if patience.bear(error).await? {
            eprintln!("[workrs] the node went away; waiting for it or another one");
        }
    }
}

/// Prints what one node gives; whether that was all.
async fn read(client: &Client, id: &str, follow: bool, printer: &mut Printer<io::Stdout>) -> Result<bool, ClientError> {
    let lines = client.logs(id, printer.printed, follow).await?;
    let mut lines = std::pin::pin!(lines);
    while let Some(line) = lines.next().await {
        match line? {
            LogLine::Bytes { offset, data } => printer.print(offset, &data).map_err(broken)?,
            LogLine::Rewound { offset } => printer.rewound(offset),
            LogLine::End => return Ok(true),
            LogLine::Failed { reason } => {
                return Err(ClientError::Unreachable(vec![Tried { server: "the group".to_owned(), reason }]));
            }
        }
    }
    Ok(false)
}

fn broke_off() -> ClientError {
    let reason = "the log broke off".to_owned();
    ClientError::Unreachable(vec![Tried { server: "the node".to_owned(), reason }])
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
