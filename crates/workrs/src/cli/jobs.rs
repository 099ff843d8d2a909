//! Commands about jobs that were handed over.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};

use super::{client, patience::Patience, print};
use crate::{
    api::{JobView, OutputsView},
    args::{FetchArgs, JobArgs, LsArgs, ServerArgs},
    client::{Client, ClientError, Tried},
    exit_codes,
};

/// An archive that breaks off is asked for this often again.
const FETCH_TRIES: u32 = 10;

/// Lists jobs.
pub async fn ls(args: LsArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let mut jobs = Vec::new();
    let mut after = None;
    loop {
        let page = client.jobs(after.as_deref(), args.state.as_deref(), args.name.as_deref()).await?;
        jobs.extend(page.jobs);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    say(&args.server, &jobs, || print::jobs(&jobs))
}

/// Shows a job.
pub async fn show(args: JobArgs) -> anyhow::Result<u8> {
    let job = client(&args.server)?.job(&args.id, None).await?;
    say(&args.server, &job, || print::job(&job))
}

/// Waits for a job to finish.
pub async fn wait(args: JobArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let job = until_finished(&client, &args.id).await?;
    say(&args.server, &job, || format!("the job {}\n", print::clean(job.outcome_text.as_deref().unwrap_or("ended"))))?;
    Ok(exit_code(&job))
}

/// Cancels a job.
pub async fn cancel(args: JobArgs) -> anyhow::Result<u8> {
    let job = client(&args.server)?.cancel(&args.id).await?;
    say(&args.server, &job, || {
        let text = if job.state == "finished" { "the job is cancelled" } else { "the job is being cancelled" };
        format!("{text}\n")
    })
}

/// Lets a lost job run on.
pub async fn resume(args: JobArgs) -> anyhow::Result<u8> {
    let job = client(&args.server)?.run_on(&args.id).await?;
    say(&args.server, &job, || "the job is queued again\n".to_owned())
}

/// Lists the live nodes.
pub async fn nodes(args: ServerArgs) -> anyhow::Result<u8> {
    let nodes = client(&args)?.nodes().await?;
    say(&args, &nodes, || print::nodes(&nodes))
}

/// Fetches outputs.
pub async fn fetch(args: FetchArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let outputs = client.outputs(&args.id).await?;
    if let Some(path) = already_there(&outputs, &args.dir) {
        bail!("{} is there already and would be overwritten; name another folder", path.display());
    }
    fetch_into(&client, &args.id, &args.dir).await?;
    say(&args.server, &outputs, || {
        let kept = outputs.files.iter().map(|file| print::clean(&file.path));
        let skipped = outputs.skipped.iter().map(|text| format!("not kept: {}", print::clean(text)));
        kept.chain(skipped).collect::<Vec<_>>().join("\n") + "\n"
    })
}

pub(super) fn say<T: serde::Serialize>(
    args: &ServerArgs,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<u8> {
    let text = if args.json { serde_json::to_string(value)? + "\n" } else { text() };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads, such as `head`, has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(0),
    }
}

/// The job, once it has finished. Nodes that die meanwhile are waited for.
pub(super) async fn until_finished(client: &Client, id: &str) -> anyhow::Result<JobView> {
    let mut patience = Patience::new();
    loop {
        match client.job(id, Some(Duration::from_secs(60))).await {
            Ok(job) if job.state == "finished" => return Ok(job),
            Ok(_) => patience.renew(),
            Err(error) => {
                patience.bear(error).await?;
            }
        }
    }
}

/// The first output that would overwrite something.
pub(super) fn already_there(outputs: &OutputsView, folder: &Path) -> Option<PathBuf> {
    let paths = outputs.files.iter().map(|file| &file.path).chain(outputs.links.iter().map(|link| &link.path));
    paths.map(|path| folder.join(path)).find(|path| path.symlink_metadata().is_ok())
}

/// Unpacks all outputs below `folder`; gives their number. Nothing is ever written outside of it. When the node dies
/// over it, another one begins anew.
pub(super) async fn fetch_into(client: &Client, id: &str, folder: &Path) -> anyhow::Result<usize> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut patience = Patience::new();
    let mut breaks = 0;
    loop {
        let error = match client.archive(id).await {
            Ok(stream) => {
                let broken = Arc::new(Mutex::new(None));
                let noted = Arc::clone(&broken);
                let stream = stream.map_err(move |error| {
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                    std::io::Error::other(error)
                });
                let unpacked = unpack(stream, folder).await;
                // What breaks off on the way is worth another try; what cannot be written here is not.
                let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(reason) = broken.filter(|_| unpacked.is_err() && breaks < FETCH_TRIES) else {
                    return unpacked;
                };
                breaks += 1;
                ClientError::Unreachable(vec![Tried { server: "the node".to_owned(), reason }])
            }
            Err(error) => error,
        };
        patience.bear(error).await?;
    }
}

async fn unpack(
    stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    folder: &Path,
) -> anyhow::Result<usize> {
    let reader = tokio_util::io::SyncIoBridge::new(tokio_util::io::StreamReader::new(Box::pin(stream)));
    let folder = folder.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || -> anyhow::Result<usize> {
        let mut archive = tar::Archive::new(reader);
        archive.set_preserve_mtime(false);
        let mut count = 0;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let inside =
                entry.unpack_in(&folder).with_context(|| format!("cannot write {}", folder.join(&path).display()))?;
            anyhow::ensure!(inside, "the output {} would lie outside of {}", path.display(), folder.display());
            count += usize::from(entry.header().entry_type().is_file());
        }
        Ok(count)
    });
    unpacked.await?
}

/// What `run` and `wait` exit with.
pub(super) fn exit_code(job: &JobView) -> u8 {
    match (job.outcome.as_deref(), job.failure.as_deref()) {
        (Some("succeeded"), _) => 0,
        (Some("cancelled"), _) => exit_codes::CANCELLED,
        (Some("lost"), _) => exit_codes::LOST,
        (_, Some("exit")) => job.exit_code.unwrap_or(exit_codes::WORKRS_FAILED),
        (_, Some("signal")) => 128u8.saturating_add(job.signal.unwrap_or_default()),
        (_, Some("out_of_memory")) => exit_codes::OUT_OF_MEMORY,
        (_, Some("disk_full")) => exit_codes::DISK_FULL,
        (_, Some("timed_out")) => exit_codes::TIMED_OUT,
        (_, Some("cannot_start")) => exit_codes::CANNOT_START,
        _ => exit_codes::WORKRS_FAILED,
    }
}
