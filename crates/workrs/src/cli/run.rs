//! `run`: hand over, follow, fetch, exit with the job's code.

use std::{
    io::{BufRead, IsTerminal, Write},
    time::Duration,
};

use anyhow::bail;
use tokio::sync::mpsc;

use super::{client, follow, jobs, print, submit};
use crate::{args::RunArgs, client::Client, exit_codes};

/// Hands a job over and sees it through.
pub async fn run(args: RunArgs) -> anyhow::Result<u8> {
    if has_piped_input()? {
        bail!("standard input is not handed over; write it to a file and give that with --input");
    }
    let client = client(&args.submit.server)?;
    let job = submit::hand_over(&client, &args.submit).await?;
    eprintln!("[workrs] job {} is accepted and durable", job.id);
    let mut interrupts = interrupts();
    let seen_through = async {
        follow::follow(&client, &job.id, true).await?;
        jobs::until_finished(&client, &job.id).await
    };
    tokio::pin!(seen_through);
    let waiting = tokio::spawn(tell_waiting(client.clone(), job.id.clone()));
    let job = loop {
        tokio::select! {
            job = &mut seen_through => break job?,
            Some(()) = interrupts.recv() => {
                if let Some(code) = ask(&client, &job.id).await? {
                    return Ok(code);
                }
            }
        }
    };
    waiting.abort();
    if !args.no_fetch && job.has_outputs {
        // What the user has is never overwritten.
        let outputs = client.outputs(&job.id).await?;
        let folder = match jobs::already_there(&outputs, &args.fetch_to) {
            None => args.fetch_to.clone(),
            Some(_) => args.fetch_to.join(format!("workrs-{}", job.id)),
        };
        let files = jobs::fetch_into(&client, &job.id, &folder).await?;
        eprintln!("[workrs] outputs: {} in {}", print::count(files as u64, "file"), folder.display());
    }
    if args.submit.server.json {
        println!("{}", serde_json::to_string(&job)?);
    } else {
        let text = job.outcome_text.as_deref().unwrap_or("ended");
        let resumed = match job.totals.losses {
            0 => String::new(),
            1 => " (one node died on the way)".to_owned(),
            losses => format!(" ({losses} nodes died on the way)"),
        };
        eprintln!("[workrs] the job {}{resumed}", print::clean(text));
    }
    Ok(jobs::exit_code(&job))
}

/// Says where the job stands whenever that changes, so that a silent wait explains itself.
async fn tell_waiting(client: Client, id: String) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // A node that does not answer is told of by whoever follows the log.
        let Ok(job) = client.job(&id, None).await else { continue };
        let now = match (job.state.as_str(), &job.reason, &job.node) {
            ("queued", Some(reason), _) => format!("waiting for a node: {}", print::clean(reason)),
            ("queued", None, _) => "waiting for a node with room".to_owned(),
            ("running", _, Some(node)) if job.epoch == 1 => format!("running on {node}"),
            ("running", _, Some(node)) => {
                let start = job.attempts.last().map_or("clean", |attempt| attempt.start.as_str());
                let from = if start == "clean" { "the beginning".to_owned() } else { format!("checkpoint {start}") };
                format!("running on {node}, from {from}")
            }
            _ => continue,
        };
        if now != told {
            eprintln!("[workrs] {now}");
            told = now;
        }
    }
}

/// Whether somebody pipes something in. A terminal and /dev/null are nothing; so is an empty pipe that is closed.
fn has_piped_input() -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(false);
    }
    let stat = rustix::fs::fstat(&stdin)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    match kind {
        rustix::fs::FileType::RegularFile => Ok(stat.st_size > 0),
        rustix::fs::FileType::Fifo => {
            // Only what is there already counts: nobody wants to wait for a pipe that a parent just left open.
            Ok(rustix::io::ioctl_fionread(&stdin).is_ok_and(|waiting| waiting > 0))
        }
        _ => Ok(false),
    }
}

/// One message for each Ctrl-C.
fn interrupts() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Asks what Ctrl-C was meant to do; `None` means go on.
async fn ask(client: &Client, id: &str) -> anyhow::Result<Option<u8>> {
    if !std::io::stdin().is_terminal() {
        eprintln!("[workrs] detached; the job runs on. See it through with: workrs wait {id}");
        return Ok(Some(exit_codes::DETACHED));
    }
    eprint!("\n[workrs] (c)ancel the job, (d)etach and let it run on, or go on following (Enter)? ");
    std::io::stderr().flush()?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    match answer.await??.trim() {
        "c" | "cancel" => {
            client.cancel(id).await?;
            // The log ends and the job's end is shown as always.
            Ok(None)
        }
        "d" | "detach" => {
            eprintln!("[workrs] detached; see it through with: workrs wait {id}");
            Ok(Some(exit_codes::DETACHED))
        }
        _ => Ok(None),
    }
}
