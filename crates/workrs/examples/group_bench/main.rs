//! A group of pretended nodes in one process, for measurements: the real loops of real nodes, each with connections of its
//! own to a real etcd cluster, on a pretended engine. `scripts/bench/fleet.py` runs it.
//!
//! ```text
//! cargo run --release -p workrs --example group_bench -- etcd://HOST:PORT,…/PREFIX FOLDER
//! ```
//! It reads commands from its standard input, one a line, and answers each with a line of JSON:
//!
//! | command | what it does | it answers |
//! |---|---|---|
//! | `nodes <n>` | starts nodes until there are so many, each with 64 cores | `seconds` |
//! | `put <n>` | writes so many values as large as a job's record, nothing else | `seconds`, `p50_ms`, `p99_ms` |
//! | `hold` | gives each node a job that takes all of it | `seconds` |
//! | `submit <n> <thousandths of a core>` | submits so many jobs that do nothing, straight into the state | as `put` |
//! | `post <n> <thousandths of a core>` | the same, over the HTTP API of the nodes | as `put` |
//! | `release` | cancels the jobs of `hold` | `seconds` |
//! | `drain` | waits until all others have finished | `claimed`, `claim_seconds`, `finished`, `finish_seconds` |
//! | `records <n>` | reads records of `submit`'s jobs | `bytes` of one on average, of its key and its index keys |
//!
//! Writes go out 64 at once. What fails is told as `error`.

mod group;
mod load;

use std::{future::Future, path::PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use self::{group::Group, load::Load};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("WORKRS_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let (Some(state), Some(folder), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        bail!("usage: group_bench etcd://HOST:PORT,…/PREFIX FOLDER");
    };
    let mut group = Group::new(&state, PathBuf::from(folder))?;
    let mut load = Load::open(&state).await?;
    let mut lines = std::io::stdin().lines();
    while let Some(line) = tokio::task::block_in_place(|| lines.next()) {
        let answer = obey(&mut group, &mut load, &line?).await;
        println!("{}", answer.unwrap_or_else(|error| json!({ "error": format!("{error:#}") })));
    }
    Ok(())
}

async fn obey(group: &mut Group, load: &mut Load, line: &str) -> anyhow::Result<Value> {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok()).context("a number is missing");
    match words.first().copied() {
        Some("nodes") => timed(group.grow(number(1)? as usize)).await,
        Some("put") => Ok(load.put(number(1)?).await?.shown()),
        Some("hold") => timed(Box::pin(load.hold(group.size()))).await,
        Some("submit") => Ok(load.submit(number(1)?, number(2)?).await?.shown()),
        Some("post") => Ok(load.post(group.addresses(), number(1)?, number(2)?).await?.shown()),
        Some("release") => timed(load.release()).await,
        Some("drain") => load.drain().await,
        Some("records") => load.record_bytes(number(1)? as usize).await,
        _ => bail!("there is no such command: {line:?}"),
    }
}

async fn timed(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Value> {
    let began = std::time::Instant::now();
    work.await?;
    Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
}
